//! Figures of the store as a whole: `stats`.

use std::collections::BTreeMap;

use anyhow::Result;
use clap::Args;
use serde::{Deserialize, Serialize};

use cloakroom::Timestamp;
use cloakroom::query::Filter;
use cloakroom::report::Unreadable;

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
///
/// With --url there are, in place of bytes_on_disk, last_commit and pending:
///
///   shards, shards_in_use   shards, and those that have an entry
///   open_turns              turns that have begun and not ended
///   condemned               entries that a pass of pruning wants gone, once all processes have been asked
///   members                 processes that have the store open, this command among them
///   guards                  those of them that are asked before an entry is pruned
///   used_memory             bytes of memory of all primaries together; null where the user may not ask
///   replica_lag             bytes of the replication stream that the replica that is farthest behind has not acknowledged;
///                           null where none is connected, too
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
            #[cfg(feature = "valkey")]
            if let Source::Cluster(store) = source {
                return self.on_a_cluster(&store.stats()?, count(source)?, out);
            }
            let figures = match source {
                Source::Store(store) => {
                    let stats = store.stats()?;
                    let cloakroom::report::Stats { entries, bytes_on_disk, pending, last_commit, .. } = stats;
                    let cloakroom::report::Stats { oldest, newest, .. } = stats;
                    Figures { entries, bytes_on_disk, pending, last_commit, oldest, newest, counts: count(source)? }
                }
                Source::Live(client) => client.get("/v1/stats")?,
                #[cfg(feature = "valkey")]
                Source::Cluster(_) => anyhow::bail!("these are figures of an embedded store"),
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

fn count(source: &Source) -> Result<Counts> {
    let mut counts = Counts::default();
    let told = source.entries(&Filter::default(), usize::MAX, |entry| {
        counts.suspended += u64::from(entry.suspended);
        counts.resume_pending += u64::from(entry.resume_pending);
        add(&mut counts.by_platform, entry.details.platform);
        add(&mut counts.by_chat_type, entry.details.chat_type);
        Ok(())
    })?;
    name(&told.unreadable);
    counts.unreadable = told.left_out + told.unreadable.count;
    Ok(counts)
}

fn add(counts: &mut BTreeMap<String, u64>, name: Option<String>) {
    *counts.entry(name.unwrap_or_else(|| UNKNOWN.into())).or_default() += 1;
}

/// The same of a store on a cluster.
#[cfg(feature = "valkey")]
#[derive(Serialize)]
struct OnACluster<'a> {
    #[serde(flatten)]
    stats: &'a cloakroom::cluster::ClusterStats,
    #[serde(flatten)]
    counts: &'a Counts,
}

#[cfg(feature = "valkey")]
impl Stats {
    fn on_a_cluster(&self, stats: &cloakroom::cluster::ClusterStats, counts: Counts, out: &mut Out) -> Result<Exit> {
        if self.format.json {
            out.json(&OnACluster { stats, counts: &counts })?;
            return none_unreadable(counts.unreadable, &Unreadable::default());
        }
        let mut table = Columns::pairs();
        let numbers = [
            ("entries", stats.entries),
            ("active in the last minute", stats.active_in_last_minute),
            ("open turns", stats.open_turns),
            ("to be pruned", stats.condemned),
            ("processes, this one too", stats.members),
            ("of them, with a guard", stats.guards),
        ];
        numbers.into_iter().for_each(|(name, number)| table.row([name, &thousands(number)]));
        let sizes = [("memory of the primaries", stats.used_memory), ("replicas are behind by", stats.replica_lag)];
        sizes.into_iter().for_each(|(name, bytes)| bytes.into_iter().for_each(|bytes| table.row([name, &size(bytes)])));
        rows(&mut table, stats.newest, stats.oldest, &counts);
        table.print(out)?;
        none_unreadable(counts.unreadable, &Unreadable::default())
    }
}

fn print(figures: &Figures, out: &mut Out) -> Result<()> {
    let mut table = Columns::pairs();
    table.row(["entries", &thousands(figures.entries)]);
    table.row(["on disk", &size(figures.bytes_on_disk)]);
    rows(&mut table, figures.newest, figures.oldest, &figures.counts);
    table.print(out)
}

fn rows(table: &mut Columns, newest: Option<Timestamp>, oldest: Option<Timestamp>, counts: &Counts) {
    let mut row = |name: &str, value: &str| table.row([name, value]);
    if let Some(newest) = newest {
        row("newest", &local(newest));
    }
    if let Some(oldest) = oldest {
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
}
