//! Figures of the store as a whole: `stats`.

use std::collections::BTreeMap;

use anyhow::Result;
use clap::Args;
use serde::{Deserialize, Serialize};

use cloakroom::query::Filter;
use cloakroom::report::Unreadable;
use cloakroom::{Error, SessionStore, Timestamp};

use super::list::{name, none_unreadable};
use super::output::{Columns, Out, local, size, thousands};
use super::source::{Db, Source, with_source};
use super::{Exit, Format};

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
///   unreadable       entries that cannot be decoded and are left out of the counts above; the exit code is then 1
///   last_commit      the number of the newest commit that changed something
///   pending          changes that wait for their commit
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Stats {
    #[command(flatten)]
    format: Format,
}

#[derive(Serialize, Deserialize)]
struct Figures {
    entries: u64,
    bytes_on_disk: u64,
    pending: usize,
    last_commit: u64,
    oldest: Option<Timestamp>,
    newest: Option<Timestamp>,
    #[serde(flatten)]
    counts: Counts,
}

#[derive(Default, Serialize, Deserialize)]
struct Counts {
    suspended: u64,
    resume_pending: u64,
    by_platform: BTreeMap<String, u64>,
    by_chat_type: BTreeMap<String, u64>,
    unreadable: u64,
}

impl Stats {
    pub(super) fn run(self, db: &Db, out: &mut Out) -> Result<Exit> {
        with_source(db, |source| {
            let figures = match source {
                Source::Store(store) => {
                    let stats = store.stats()?;
                    let cloakroom::report::Stats { entries, bytes_on_disk, pending, last_commit, .. } = stats;
                    let cloakroom::report::Stats { oldest, newest, .. } = stats;
                    Figures { entries, bytes_on_disk, pending, last_commit, oldest, newest, counts: count(store)? }
                }
                Source::Live(client) => client.get("/v1/stats")?,
            };
            if self.format.json {
                out.json(&figures)?
            } else {
                print(&figures, out)?
            }
            none_unreadable(figures.counts.unreadable, &Unreadable::default())
        })
    }
}

fn count(store: &SessionStore) -> Result<Counts> {
    let mut counts = Counts::default();
    let mut entries = store.iter(Filter::default())?;
    for summary in &mut entries {
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
    let unreadable = entries.unreadable();
    name(unreadable);
    counts.unreadable += unreadable.count;
    Ok(counts)
}

fn add(counts: &mut BTreeMap<String, u64>, name: Option<String>) {
    *counts.entry(name.unwrap_or_else(|| UNKNOWN.into())).or_default() += 1;
}

fn print(figures: &Figures, out: &mut Out) -> Result<()> {
    let counts = &figures.counts;
    let mut table = Columns::pairs();
    let mut row = |name: &str, value: &str| table.row([name, value]);
    row("entries", &thousands(figures.entries));
    row("on disk", &size(figures.bytes_on_disk));
    if let Some(newest) = figures.newest {
        row("newest", &local(newest));
    }
    if let Some(oldest) = figures.oldest {
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
