//! Events as they happen. The stream is that of the view, with the keys redacted.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes};
use axum::extract::{Extension, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use hyper::body::Frame;
use maud::html;
use serde_json::Value;
use tokio::sync::mpsc;

use super::ask::{Asker, Shown};
use super::door::{Door, Watching};
use super::page::{page, redacted};
use crate::cli::source::Lines;

pub(super) async fn show(State(asker): State<Asker>) -> Shown<Html<String>> {
    // The answer says so where the store has gone.
    asker.get("/v1/store").await?;
    let body = html! {
        p.quiet #stream role="status" { "This page needs its script to show what happens. Without it: `cloakroom tail`." }
        div.scroll.card {
            table.list #events data-stream="/events/stream" {
                thead { tr { th scope="col" { "When" } th scope="col" { "What" } th scope="col" { "Session" } } }
                tbody aria-live="polite" {}
            }
        }
    };
    Ok(page("Events", "/events", false, &body))
}

/// A body that comes piece by piece.
struct Pieces(mpsc::Receiver<Bytes>);

impl hyper::body::Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(context).map(|piece| piece.map(|piece| Ok(Frame::data(piece))))
    }
}

pub(super) async fn stream(
    State(asker): State<Asker>,
    Extension(door): Extension<Arc<Door>>,
    headers: HeaderMap,
) -> Response {
    let Some(permit) = asker.stream() else {
        return (StatusCode::SERVICE_UNAVAILABLE, "too many pages show events").into_response();
    };
    let (sender, pieces) = mpsc::channel(64);
    // Whoever looks on asks for nothing more, and is there all the same.
    let watching = Watching::new(&door);
    let client = asker.client();
    let last = headers.get("last-event-id").and_then(|id| id.to_str().ok()).map(str::to_owned);
    tokio::task::spawn_blocking(move || {
        let _kept = (permit, watching);
        let Ok(client) = client.another() else { return };
        let mut lines = Lines::default();
        let _ = client.events(last.as_deref(), |piece| {
            let mut out = String::new();
            lines.add(piece, |line| {
                out.push_str(&shown(line));
                out.push('\n');
                Ok(())
            })?;
            // Whoever has gone is noticed with the next piece, which comes within seconds. Whoever is too slow is cut off, and
            // comes back by itself where it was.
            sender.try_send(out.into()).map_err(|_| io::ErrorKind::BrokenPipe.into())
        });
    });
    ([(header::CONTENT_TYPE, "text/event-stream")], Body::new(Pieces(pieces))).into_response()
}

/// A line of the stream, with the keys of an event redacted.
fn shown(line: &str) -> String {
    let Some(data) = line.strip_prefix("data: ") else { return line.to_owned() };
    let Ok(mut event) = serde_json::from_str::<Value>(data) else { return "data: {}".to_owned() };
    for name in ["session_key", "from"] {
        if let Some(key) = event.get_mut(name) {
            *key = redacted(key.as_str().unwrap_or_default()).into();
        }
    }
    format!("data: {event}")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use cloakroom::live::{Client, Live, LiveOptions};
    use cloakroom::{Options, SessionStore};

    use super::*;

    #[test]
    fn nobody_who_watches_is_idle() {
        let dir = tempfile::tempdir().unwrap();
        let store = SessionStore::open(Options::new(dir.path().join("db")).create(true)).unwrap();
        let live = Live::serve(&store, LiveOptions::new()).unwrap();
        let (asker, door) = (Asker::new(Client::at(live.socket()).unwrap()), Arc::new(Door::new(1).unwrap()));
        assert!(door.idle() > Duration::ZERO);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let answer = stream(State(asker.clone()), Extension(Arc::clone(&door)), HeaderMap::new()).await;
            assert_eq!(answer.status(), StatusCode::OK);
            assert_eq!(door.idle(), Duration::ZERO);
            // It ends with the view, and so does what it kept.
            live.close();
            axum::body::to_bytes(answer.into_body(), 1 << 20).await.unwrap();
        });
        drop(runtime);
        assert!(door.idle() > Duration::ZERO);
    }

    #[test]
    fn a_stream_shows_no_key() {
        let line = r#"data: {"session_key":"agent:main:discord:group:1234:5678","event":"renamed","from":"agent:x:telegram:dm:99"}"#;
        let line = shown(line);
        assert!(line.contains("discord:group:#") && !line.contains("1234") && !line.contains(":99"), "{line}");
        assert_eq!(shown("id: a-1"), "id: a-1");
        assert_eq!(shown("data: agent:secret"), "data: {}");
    }
}
