//! Asking the view, from a page.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use axum::response::{Html, IntoResponse, Response};
use cloakroom::live::{AskError, Client};
use maud::html;
use serde_json::Value;
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore};

use super::page;

/// How long counts by platform are shown at least: to count reads every entry.
const COUNTED: Duration = Duration::from_secs(30);
/// They are shown so many times longer than it took to count, so that most of the time nobody counts.
const RATHER: u32 = 50;
/// Streams of events at a time: each takes a thread.
const STREAMS: usize = 8;

/// Asks the view, on a thread that may block.
#[derive(Clone)]
pub(super) struct Asker {
    client: Arc<Client>,
    counts: Arc<Mutex<Option<(Instant, Value)>>>,
    streams: Arc<Semaphore>,
}

/// A page that says what did not work.
pub(super) struct Failed(AskError);

pub(super) type Shown<T = Html<String>> = Result<T, Failed>;

impl From<AskError> for Failed {
    fn from(error: AskError) -> Self {
        Self(error)
    }
}

impl IntoResponse for Failed {
    fn into_response(self) -> Response {
        let status = match &self.0 {
            AskError::Refused { status, .. } => StatusCode::from_u16(*status).unwrap_or(StatusCode::BAD_GATEWAY),
            _ => StatusCode::BAD_GATEWAY,
        };
        let hint = match &self.0 {
            AskError::Refused { kind, .. } if kind == "changed" => "Somebody was faster. Go back and look at it again.",
            AskError::Refused { kind, .. } if kind == "count_differs" => "Go back, and look at the list again.",
            AskError::Refused { .. } => "Nothing was changed.",
            _ => "Is the gateway still running? If it is not, start `cloakroom web` again.",
        };
        let body = html! {
            div.banner.bad role="alert" {
                p { strong { (self.0) } }
                @if let Some(cause) = std::error::Error::source(&self.0) { p { (cause) } }
                p { (hint) }
            }
            p { a href="/" { "Overview" } }
        };
        (status, page::page("That did not work", "", false, &body)).into_response()
    }
}

impl Asker {
    pub(super) fn new(client: Client) -> Self {
        Self { client: Arc::new(client), counts: Arc::default(), streams: Arc::new(Semaphore::new(STREAMS)) }
    }

    pub(super) fn client(&self) -> Arc<Client> {
        Arc::clone(&self.client)
    }

    /// The right to one more stream of events.
    pub(super) fn stream(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.streams).try_acquire_owned().ok()
    }

    /// Asks for something by a client of its own.
    pub(super) async fn ask<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&Client) -> Result<T, AskError> + Send + 'static,
    ) -> Shown<T> {
        let client = self.client();
        let asked = tokio::task::spawn_blocking(move || ask(&client.another()?)).await;
        let failed =
            |error| AskError::Io { socket: self.client.socket().to_path_buf(), source: std::io::Error::other(error) };
        Ok(asked.unwrap_or_else(|error| Err(failed(error)))?)
    }

    pub(super) async fn get(&self, path: impl Into<String>) -> Shown<Value> {
        let path = path.into();
        self.ask(move |client| client.get(&path)).await
    }

    pub(super) async fn post(&self, path: impl Into<String>, body: Value) -> Shown<Value> {
        let path = path.into();
        self.ask(move |client| client.post(&path, &body)).await
    }

    /// Entries by platform and by chat type, as they were a while ago. Nothing where nobody could count.
    pub(super) async fn counts(&self) -> Value {
        // One counts, and the others wait for it.
        let mut counts = self.counts.lock().await;
        if let Some((until, counts)) = &*counts
            && Instant::now() < *until
        {
            return counts.clone();
        }
        let began = Instant::now();
        let counted = self.get("/v1/stats").await.unwrap_or_default();
        let now = Instant::now();
        *counts = Some((now + COUNTED.max((now - began) * RATHER), counted.clone()));
        counted
    }
}
