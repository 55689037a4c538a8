//! `compact`.

use std::path::Path;
use std::time::Instant;

use anyhow::Result;
use clap::Args;
use serde::Serialize;

use cloakroom::SessionStore;
use cloakroom::report::CompactReport;

use super::output::{Out, clean, size, thousands};
use super::{Exit, Format, named, options, progress};

/// Two databases are open at a time, and both are read and written in order.
const CACHE: u64 = 64 << 20;

/// Give the space that the store does not need back to the file system.
///
/// The database's file never shrinks by itself. This checks the store, copies it to a new database beside the old one,
/// compares every row, and lets it take the old one's place. It needs space for the copy meanwhile. Killed at any
/// moment, the store is the old one or the new one, whole. A database that is a link or a mount is refused.
///
/// With --json, one object:
///
///   db             the store
///   entries        entries of the store
///   bytes_before   bytes of all files of the store before
///   bytes_after    bytes of all files of the store after
///   seconds        how long it took
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Compact {
    #[command(flatten)]
    output: Format,
}

#[derive(Serialize)]
struct Summary {
    db: String,
    #[serde(flatten)]
    report: CompactReport,
    seconds: f64,
}

impl Compact {
    pub(super) fn run(self, db: &Path, out: &mut Out) -> Result<Exit> {
        let started = Instant::now();
        let bar = progress::of_rows();
        let done = SessionStore::compact(options(db).cache_bytes(CACHE), |rows| bar.set_position(rows));
        bar.finish_and_clear();
        let report = done.map_err(named)?;
        let seconds = (started.elapsed().as_secs_f64() * 1e6).round() / 1e6;
        let summary = Summary { db: db.display().to_string(), report, seconds };
        if self.output.json {
            out.json(&summary)?
        } else {
            out.line(clean(&format!(
                "compacted: {} entries, {} before and {} now",
                thousands(report.entries),
                size(report.bytes_before),
                size(report.bytes_after),
            )))?
        }
        Ok(Exit::Done)
    }
}
