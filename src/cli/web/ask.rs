//! Asking the view, from a page.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use axum::response::{Html, IntoResponse, Response};
use cloakroom::live::{AskError, Client};
use maud::html;
use parking_lot::Mutex;
use serde_json::Value;

use super::page;

/// How long counts by platform are shown: to count reads every entry.
const COUNTED: Duration = Duration::from_secs(30);

/// Asks the view, on a thread that may block.
#[derive(Clone)]
pub(super) struct Asker {
    socket: Arc<PathBuf>,
    counts: Arc<Mutex<Option<(Instant, Value)>>>,
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
    pub(super) fn new(socket: &Path) -> Self {
        Self { socket: Arc::new(socket.to_path_buf()), counts: Arc::default() }
    }

    pub(super) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Asks for something by a client of its own.
    pub(super) async fn ask<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&Client) -> Result<T, AskError> + Send + 'static,
    ) -> Shown<T> {
        let socket = Arc::clone(&self.socket);
        let asked = tokio::task::spawn_blocking(move || ask(&Client::at(&socket)?)).await;
        let failed = |error| AskError::Io { socket: self.socket.to_path_buf(), source: std::io::Error::other(error) };
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

    /// Entries by platform and by chat type, as of the last half minute.
    pub(super) async fn counts(&self) -> Shown<Value> {
        if let Some((at, counts)) = &*self.counts.lock()
            && at.elapsed() < COUNTED
        {
            return Ok(counts.clone());
        }
        let counts = self.get("/v1/stats").await?;
        *self.counts.lock() = Some((Instant::now(), counts.clone()));
        Ok(counts)
    }
}
