//! Figures of the store as a whole: `stats`.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;
use clap::Args;
use serde::Serialize;

use cloakroom::{Error, Filter, SessionStore};

use super::failure::Failure;
use super::output::{Columns, Out, local, size, thousands};
use super::{Exit, Format, with_store};

/// What stands for a platform or a chat type that is not known.
const UNKNOWN: &str = "unknown";

/// Count entries, by platform and by chat type. Reads every entry.
///
/// With --json, one object:
///
///   entries          how many there are
///   bytes_on_disk    bytes of all files of the store
///   oldest           updated_at of the entry idle for longest (RFC 3339, UTC); null if there is none
///   newest           updated_at of the entry active last; null if there is none
///   suspended        how many are suspended
///   resume_pending   how many are to be resumed
///   by_platform      object: platform → entries; `unknown` where it is not known
///   by_chat_type     object: chat type → entries, likewise
///   unreadable       entries that do not read and are left out of the counts above; the exit code is then 1
///   last_commit      the number of the newest commit that changed something
///   pending          changes that wait for their commit
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Stats {
    #[command(flatten)]
    format: Format,
}

#[derive(Serialize)]
struct Figures {
    #[serde(flatten)]
    store: cloakroom::Stats,
    #[serde(flatten)]
    counts: Counts,
}

#[derive(Default, Serialize)]
struct Counts {
    suspended: u64,
    resume_pending: u64,
    by_platform: BTreeMap<String, u64>,
    by_chat_type: BTreeMap<String, u64>,
    unreadable: u64,
}

impl Stats {
    pub(super) fn run(self, db: &Path, out: &mut Out) -> Result<Exit> {
        with_store(db, |store| {
            let figures = Figures { store: store.stats()?, counts: count(store)? };
            if self.format.json {
                out.json(&figures)?
            } else {
                print(&figures, out)?
            }
            match figures.counts.unreadable {
                0 => Ok(Exit::Done),
                entries => Err(Failure::Unreadable(entries).into()),
            }
        })
    }
}

fn count(store: &SessionStore) -> Result<Counts> {
    let mut counts = Counts::default();
    for summary in store.iter(Filter::default())? {
        let summary = summary?;
        let entry = match store.get(&summary.key) {
            Ok(Some(entry)) => entry,
            Ok(None) => continue,
            Err(error @ Error::DamagedRecord { .. }) => {
                tracing::warn!(%error, "left out");
                counts.unreadable += 1;
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        counts.suspended += u64::from(entry.suspended);
        counts.resume_pending += u64::from(entry.resume_pending);
        add(&mut counts.by_platform, entry.details.platform);
        add(&mut counts.by_chat_type, entry.details.chat_type);
    }
    Ok(counts)
}

fn add(counts: &mut BTreeMap<String, u64>, name: Option<String>) {
    *counts.entry(name.unwrap_or_else(|| UNKNOWN.into())).or_default() += 1;
}

fn print(Figures { store, counts }: &Figures, out: &mut Out) -> Result<()> {
    let mut table = Columns::pairs();
    let mut row = |name: &str, value: &str| table.row([name, value]);
    row("entries", &thousands(store.entries));
    row("on disk", &size(store.bytes_on_disk));
    if let Some(newest) = store.newest {
        row("newest", &local(newest));
    }
    if let Some(oldest) = store.oldest {
        row("oldest", &local(oldest));
    }
    row("suspended", &thousands(counts.suspended));
    row("resume pending", &thousands(counts.resume_pending));
    for (what, counts) in [("platform", &counts.by_platform), ("chat type", &counts.by_chat_type)] {
        let mut counts: Vec<_> = counts.iter().collect();
        counts.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        for (name, count) in counts {
            row(&format!("{what} {name}"), &thousands(*count));
        }
    }
    table.print(out)
}
