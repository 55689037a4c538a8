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
use crate::cli::output::thousands;

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
#[derive(Debug)]
pub(super) struct Failed {
    error: AskError,
    /// It was to change something.
    is_change: bool,
}

pub(super) type Shown<T = Html<String>> = Result<T, Failed>;

impl From<AskError> for Failed {
    fn from(error: AskError) -> Self {
        Self { error, is_change: true }
    }
}

impl Failed {
    /// The same of what only looks.
    fn looking(self) -> Self {
        Self { is_change: false, ..self }
    }

    /// What to make of it.
    fn hint(&self) -> &'static str {
        match &self.error {
            AskError::Refused { kind, .. } if kind == "changed" => "Somebody was faster. Go back and look at it again.",
            AskError::Refused { kind, .. } if kind == "count_differs" => "Go back, and look at the list again.",
            AskError::Refused { .. } if !self.is_change => "",
            // It was refused before it began.
            AskError::Refused { status: 400 | 403 | 404 | 409 | 412, .. } => "Nothing was changed.",
            AskError::Refused { .. } => "Some of it may have been done. Go back, and look.",
            _ => "Is the gateway still running? If it is not, start `cloakroom web` again.",
        }
    }

    /// What was done before it failed.
    fn done(&self) -> Vec<(&str, u64)> {
        let AskError::Refused { details, .. } = &self.error else { return Vec::new() };
        let counts = details.get("counts").and_then(Value::as_object).into_iter().flatten();
        counts.filter_map(|(outcome, count)| Some((outcome.as_str(), count.as_u64()?))).collect()
    }
}

impl IntoResponse for Failed {
    fn into_response(self) -> Response {
        let status = match &self.error {
            AskError::Refused { status, .. } => StatusCode::from_u16(*status).unwrap_or(StatusCode::BAD_GATEWAY),
            _ => StatusCode::BAD_GATEWAY,
        };
        let body = html! {
            div.banner.bad role="alert" {
                p { strong { (self.error) } }
                @if let Some(cause) = std::error::Error::source(&self.error) { p { (cause) } }
                @for (n, (outcome, count)) in self.done().into_iter().enumerate() {
                    @if n == 0 { "Before that: " } @else { ", " } (outcome) " " (thousands(count))
                }
                @if !self.hint().is_empty() { p { (self.hint()) } }
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
        self.look(move |client| client.get(&path)).await
    }

    /// Asks for what changes nothing.
    pub(super) async fn look<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&Client) -> Result<T, AskError> + Send + 'static,
    ) -> Shown<T> {
        self.ask(ask).await.map_err(Failed::looking)
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn refused(status: u16, kind: &str, details: Value) -> Failed {
        AskError::Refused { status, kind: kind.into(), message: "no".into(), details }.into()
    }

    #[test]
    fn only_what_was_refused_before_it_began_is_said_to_have_changed_nothing() {
        for (status, kind) in [(400, "bad_request"), (403, "no_guard"), (404, "no_entry"), (409, "no_plan")] {
            assert_eq!(refused(status, kind, Value::Null).hint(), "Nothing was changed.", "{kind}");
        }
        for (status, kind) in [(500, "io"), (503, "read_only"), (504, "timeout"), (500, "panicked"), (408, "timeout")] {
            let failed = refused(status, kind, Value::Null);
            assert!(failed.hint().starts_with("Some of it may have been done."), "{kind}");
            assert_eq!(failed.looking().hint(), "", "{kind}: a look does nothing");
        }
    }

    #[test]
    fn what_was_done_before_it_failed_is_told() {
        let failed = refused(503, "read_only", json!({"counts": {"done": 1200, "missing": 1}}));
        assert_eq!(failed.done(), [("done", 1200), ("missing", 1)]);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let shown = runtime.block_on(axum::body::to_bytes(failed.into_response().into_body(), 1 << 20)).unwrap();
        let shown = String::from_utf8(shown.to_vec()).unwrap();
        assert!(shown.contains("Before that: done 1,200, missing 1"), "{shown}");
        assert!(!shown.contains("Nothing was changed"), "{shown}");
    }
}
