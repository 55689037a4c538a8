//! What is as long as the store: exports, backups, checks.

use std::io::Write;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderName, Uri, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};

use super::body::{Flow, Pipe, REPORT};
use super::error::{Fault, Outcome};
use super::view::{View, query};
use crate::error::{Result, with_causes};
use crate::export::{ExportFormat, ExportOptions};
use crate::store::SessionStore;
use crate::zone::TimeZone;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Export {
    format: Option<String>,
    /// Where naive times are at home: an IANA name, an offset, or `local`.
    zone: Option<String>,
}

pub(super) async fn export(State(view): State<Arc<View>>, uri: Uri) -> Outcome<Response> {
    let Export { format, zone } = query(&uri)?;
    let format: ExportFormat = format.as_deref().unwrap_or("jsonl").parse()?;
    let mut options = ExportOptions::new(format);
    if let Some(zone) = zone {
        options = options.zone(if zone == "local" { TimeZone::local()? } else { zone.parse()? });
    }
    let kind = if format == ExportFormat::Jsonl { "application/jsonl" } else { "application/json" };
    stream(&view, kind, move |store, pipe| store.export(pipe, &options))
}

pub(super) async fn backup(State(view): State<Arc<View>>) -> Outcome<Response> {
    stream(&view, "application/octet-stream", |store, pipe| store.backup(pipe, |_| {}))
}

/// What `verify` found, as one JSON object. It reads all of the store.
pub(super) async fn verify(State(view): State<Arc<View>>) -> Outcome<Response> {
    stream(&view, "application/json", |store, pipe| {
        let found = store.verify()?;
        let report = store.open_report();
        let value = serde_json::json!({"found": found, "open_report": report});
        let written = pipe.write_all(value.to_string().as_bytes()).and_then(|()| pipe.flush());
        written.map_err(|e| crate::error::Error::io("write", "the answer", e))?;
        Ok(())
    })
}

/// Lets a thread write the body of an answer. What it answers at the end comes as a trailer.
fn stream<T: Serialize>(
    view: &Arc<View>,
    kind: &'static str,
    write: impl FnOnce(&SessionStore, &mut Pipe) -> Result<T> + Send + 'static,
) -> Outcome<Response> {
    let store = view.store()?;
    if store.commits().is_closed() {
        return Err(Fault::closed());
    }
    let permit = view.stream()?;
    let (mut pipe, flow) = Flow::new(None);
    tokio::task::spawn_blocking(move || {
        let _permit = permit;
        let written = write(&store, &mut pipe).map_err(|error| with_causes(&error));
        if let Err(error) = &written {
            tracing::debug!(error, "a stream was cut off");
        }
        // The store is free before the reader sees the end.
        drop(store);
        pipe.end(written);
    });
    let headers: [(HeaderName, &str); 2] = [(header::CONTENT_TYPE, kind), (header::TRAILER, REPORT)];
    Ok((headers, Body::new(flow)).into_response())
}
