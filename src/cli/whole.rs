//! Looking at the store as a whole: `stats`, `verify`.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;
use clap::Args;
use serde::Serialize;

use cloakroom::{Error, Filter, SessionStore, Shortfall, Verification};

use super::failure::{self, Failure};
use super::output::{Columns, Out, clean, local, size, thousands};
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

/// Check every invariant of the store, reading all of it.
///
/// The exit code is 0 if the store is sound, 3 if anything is wrong with it, and 1 if that could not be found out.
///
/// With --json, one object:
///
///   entries           entries that were checked
///   violations        list of objects: what is broken. `violation` says which rule, and the other fields where; keys
///                     are redacted. Empty if the store is sound
///   shortfall         null, or an object: the store holds less than had been synced (expected_commit, found_commit,
///                     expected_entries, found_entries)
///   repairs           list of texts: what was put right when the store was opened. That is not a fault
///   stale_rows        index rows out of date, as a crash may leave them; harmless
///   orphaned_turns    markers of turns whose session is gone, as a crash may leave them; harmless
///   orphaned_chunks   pieces of extras that no entry names, as a crash may leave them; harmless
///   count_checked     whether the counter of entries was compared
///
/// Nothing is printed for a database that does not open.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Verify {
    #[command(flatten)]
    format: Format,
}

#[derive(Serialize)]
struct Verdict {
    #[serde(flatten)]
    found: Verification,
    shortfall: Option<Shortfall>,
    repairs: Vec<String>,
}

impl Verify {
    pub(super) fn run(self, db: &Path, out: &mut Out) -> Result<Exit> {
        let checked = with_store(db, |store| {
            let opened = store.open_report();
            let (shortfall, repairs) = (opened.shortfall, opened.repairs.clone());
            Ok(Verdict { found: store.verify()?, shortfall, repairs })
        });
        let verdict = match checked {
            Ok(verdict) => verdict,
            Err(error) if is_damage(&error) => {
                failure::report(&error);
                return Ok(Exit::Unsound);
            }
            Err(error) => return Err(error),
        };
        let sound = verdict.found.violations.is_empty() && verdict.shortfall.is_none();
        if self.format.json {
            out.json(&verdict)?
        } else {
            verdict.print(out)?
        }
        Ok(if sound { Exit::Done } else { Exit::Unsound })
    }
}

/// Whether the store itself is the reason.
fn is_damage(error: &anyhow::Error) -> bool {
    error
        .chain()
        .any(|cause| matches!(cause.downcast_ref::<Error>(), Some(Error::Damaged { .. } | Error::DamagedRecord { .. })))
}

impl Verdict {
    fn print(&self, out: &mut Out) -> Result<()> {
        for repair in &self.repairs {
            out.line(format_args!("repaired: {}", clean(repair)))?;
        }
        for violation in &self.found.violations {
            out.line(format_args!("violation: {}", clean(&violation.to_string())))?;
        }
        if let Some(lost) = &self.shortfall {
            out.line(format_args!(
                "shortfall: commit {} was synced and {} is here; there were {} entries then and there are {}",
                lost.expected_commit,
                lost.found_commit,
                thousands(lost.expected_entries),
                thousands(lost.found_entries),
            ))?;
        }
        let mut table = Columns::pairs();
        let mut row = |name: &str, count: u64| table.row([name, &thousands(count)]);
        row("entries", self.found.entries);
        row("violations", self.found.violations.len() as u64);
        if self.found.stale_rows > 0 {
            row("stale index rows (harmless)", self.found.stale_rows);
        }
        if self.found.orphaned_chunks > 0 {
            row("orphaned chunks (harmless)", self.found.orphaned_chunks);
        }
        if self.found.orphaned_turns > 0 {
            row("orphaned turns (harmless)", self.found.orphaned_turns);
        }
        table.print(out)
    }
}
