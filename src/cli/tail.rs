//! `tail`: events as they happen.

use std::io::{self, Write, stdout};

use anyhow::Result;
use clap::Args;
use cloakroom::Timestamp;
use cloakroom::live::LiveOptions;
use serde_json::Value;

use super::Exit;
use super::output::{Out, clean, local};
use super::source::{Db, Lines, with_view};

/// Show what becomes of sessions as it happens, until it is interrupted or the gateway ends.
///
/// With --json, one object a line: session_key, handle (what stands for the key in URLs of the live view), event (created,
/// reset, switched, replaced, suspended, unsuspended, pinned, unpinned, resume_pending, resume_cleared, updated, touched,
/// renamed, removed, pruned), reason (of a reset, resume_pending and pruned alone), from (the raw key before, of renamed alone),
/// at (RFC 3339, UTC), old_session_id, new_session_id, revision. Where events were lost, because they came too fast, an
/// object with `lost`, how many, stands in their place.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Tail {
    /// Touches too: one at each message.
    #[arg(long)]
    touches: bool,
    /// End after this many events.
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// Print JSON, for scripts: see the long --help.
    #[arg(long)]
    json: bool,
}

impl Tail {
    pub(super) fn run(self, db: &Db, _: &mut Out) -> Result<Exit> {
        let mut left = self.count.unwrap_or(u64::MAX);
        if left == 0 {
            return Ok(Exit::Done);
        }
        with_view(db, LiveOptions::new().read_only(true), |client, _| {
            let mut lines = Lines::default();
            let path = if self.touches { "/v1/events?touches=true" } else { "/v1/events" };
            let read = client.pieces(path, |piece| {
                lines.add(piece, |line| {
                    let Some(data) = line.strip_prefix("data: ") else { return Ok(()) };
                    let mut out = stdout().lock();
                    writeln!(out, "{}", self.line(data)).and_then(|()| out.flush())?;
                    left -= 1;
                    if left == 0 { Err(io::Error::other(ENOUGH)) } else { Ok(()) }
                })
            });
            match read {
                // The reader has enough: the limit is reached, or the pipe is closed.
                Err(_) if left == 0 => Ok(Exit::Done),
                Err(error) if is_broken_pipe(&error) => Ok(Exit::Done),
                read => Ok(read.map(|()| Exit::Done)?),
            }
        })
    }

    fn line(&self, data: &str) -> String {
        if self.json {
            return clean(data).into_owned();
        }
        let event: Value = serde_json::from_str(data).unwrap_or_default();
        let text = |name: &str| event.get(name).and_then(Value::as_str);
        if let Some(lost) = event.get("lost") {
            return format!("(lost: {lost})");
        }
        let at = event.get("at").cloned().and_then(|at| serde_json::from_value::<Timestamp>(at).ok());
        let kind = text("event").unwrap_or("?");
        let reason = text("reason").map(|reason| format!(" ({reason})")).unwrap_or_default();
        let session = text("new_session_id").map(|id| format!(", session {id}")).unwrap_or_default();
        let key = text("session_key").unwrap_or_default();
        clean(&format!("{}  {kind}{reason}  {key}{session}", at.map(local).unwrap_or_default())).into_owned()
    }
}

const ENOUGH: &str = "enough";

fn is_broken_pipe(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe) {
            return true;
        }
        cause = error.source();
    }
    false
}
