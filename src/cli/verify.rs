//! `verify`, and its repair.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args;
use serde::{Deserialize, Serialize};

use cloakroom::report::{OpenReport, Repairs, Shortfall, Verification};
use cloakroom::{Error, SessionStore};

use super::failure::{self, Failure};
use super::output::{Columns, Out, clean, thousands};
use super::source::{Db, Source, with_source};
use super::transfer::is_standard;
use super::{Exit, Format, named, options, with_store};

/// Check every invariant of the store, reading all of it.
///
/// The exit code is 0 if the store is sound, 3 if anything is wrong with it, and 1 if that could not be found out.
///
/// With --repair every index is first built anew from the entries, and what belongs to none is removed. What cannot
/// stay and held something goes to the quarantine before: one JSON object a line (tree, key or key_hex, value_hex,
/// reason). The exit code is then 3 if something was lost, so a second run, which finds nothing to do, answers 0. A lost
/// `state` is made anew, and the entries counted.
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
///   orphaned_leases   leases whose entry is gone, as damage may leave them; harmless
///   orphaned_chunks   pieces of extras that no entry names, as a crash may leave them; harmless
///   times_ahead       entries whose time lies more than a day ahead of the clock, as one that ran ahead leaves them
///   clock_doubted     they are half of the entries or more, so nothing ages until the clock is trusted
///   count_checked     whether the counter of entries was compared
///   repaired          null without --repair, or an object: what was changed, counted by kind; see the documentation
///                     of the library's `Repairs`
///   quarantine        the file that took what was removed, or null
///
/// With --url, one object: entries, violations, without_hint (entries that no search for their session id finds until
/// their next change), stale_hints, orphaned_turns, orphaned_leases. There --repair takes away what leads nowhere, beside
/// all that others do: `repaired` counts hints_removed, rows_removed, turns_removed, leases_removed, and is left out
/// without it. No entry is changed, so what else is broken stays, and there is no quarantine.
///
/// For a database that does not open there is the error alone, and the exit code is 3.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Verify {
    /// Make the store sound first.
    #[arg(long)]
    repair: bool,
    /// Where --repair puts what it removes; lines are added to a file that is there [default: <DB>.quarantine.jsonl].
    #[arg(long, value_name = "FILE", requires = "repair")]
    quarantine: Option<PathBuf>,
    #[command(flatten)]
    format: Format,
}

/// What the view of a running store answers.
#[derive(Deserialize)]
struct Asked {
    found: Verification,
    open_report: OpenReport,
}

#[derive(Serialize)]
struct Verdict {
    #[serde(flatten)]
    found: Verification,
    shortfall: Option<Shortfall>,
    repairs: Vec<String>,
    clock_doubted: bool,
    repaired: Option<Repairs>,
    quarantine: Option<String>,
}

impl Verify {
    pub(super) fn run(self, db: &Db, out: &mut Out) -> Result<Exit> {
        #[cfg(feature = "valkey")]
        if db.cluster.is_some() {
            return self.on_a_cluster(db, out);
        }
        let checked = self.checked(db);
        let verdict = match checked {
            Ok(verdict) => verdict,
            Err(error) if is_damage(&error) => {
                failure::report(&error, self.format.json && !out.has_printed());
                return Ok(Exit::Unsound);
            }
            Err(error) => return Err(error),
        };
        let sound = verdict.found.violations.is_empty()
            && verdict.shortfall.is_none()
            && !verdict.repaired.is_some_and(|repaired| repaired.has_losses());
        if self.format.json {
            out.json(&verdict)?
        } else {
            verdict.print(out)?
        }
        Ok(if sound { Exit::Done } else { Exit::Unsound })
    }

    /// Whether it changes anything.
    pub(super) fn repairs(&self) -> bool {
        self.repair
    }

    /// Whether it names a quarantine.
    pub(super) fn has_quarantine(&self) -> bool {
        self.quarantine.is_some()
    }

    /// Whether a quarantine is to be where nothing can be kept.
    pub(super) fn contradicts_itself(&self) -> bool {
        self.quarantine.as_deref().is_some_and(is_standard)
    }

    fn checked(&self, db: &Db) -> Result<Verdict> {
        if !self.repair {
            return with_source(db, |source| match source {
                Source::Store(store) => {
                    let OpenReport { shortfall, repairs, clock_doubted, .. } = store.open_report().clone();
                    let found = store.verify()?;
                    Ok(Verdict { found, shortfall, repairs, clock_doubted, repaired: None, quarantine: None })
                }
                #[cfg(feature = "valkey")]
                Source::Cluster(_) => anyhow::bail!("a store on a cluster is checked otherwise"),
                Source::Live(client) => {
                    let Asked { found, open_report } = client.get("/v1/verify")?;
                    let OpenReport { shortfall, repairs, clock_doubted, .. } = open_report;
                    Ok(Verdict { found, shortfall, repairs, clock_doubted, repaired: None, quarantine: None })
                }
            });
        }
        let quarantine = self.quarantine.clone().unwrap_or_else(|| default_quarantine(db));
        let told = |error| match error {
            Error::PermissionDenied { ref path, .. }
            | Error::DiskFull { ref path, .. }
            | Error::Io { ref path, .. }
                if *path == quarantine =>
            {
                Failure::Quarantine { path: quarantine.clone(), source: error }.into()
            }
            error => named(error),
        };
        // What the first opening finds it tells once.
        let first = SessionStore::repair(options(db), &quarantine).map_err(told)?;
        with_store(db, |store| {
            let OpenReport { shortfall, repairs, .. } = first.opened.clone();
            let quarantine = (first.repairs.quarantined > 0).then(|| quarantine.display().to_string());
            let clock_doubted = store.open_report().clock_doubted;
            let repaired = Some(first.repairs);
            Ok(Verdict { found: store.verify()?, shortfall, repairs, clock_doubted, repaired, quarantine })
        })
    }
}

/// What is found of a store on a cluster.
#[cfg(feature = "valkey")]
#[derive(Serialize)]
struct OnACluster {
    #[serde(flatten)]
    found: cloakroom::cluster::ClusterVerification,
    #[serde(skip_serializing_if = "Option::is_none")]
    repaired: Option<cloakroom::cluster::ClusterRepairs>,
}

#[cfg(feature = "valkey")]
impl Verify {
    /// Checks a store on a cluster, and repairs it before if that is asked.
    fn on_a_cluster(&self, db: &Db, out: &mut Out) -> Result<Exit> {
        let found = with_source(db, |source| match source {
            Source::Cluster(store) => {
                let repaired = self.repair.then(|| store.repair()).transpose()?;
                Ok(OnACluster { found: store.verify()?, repaired })
            }
            _ => anyhow::bail!("it is no store on a cluster"),
        });
        let found = match found {
            // Opening asks every shard for its mark.
            Err(error) if matches!(error.downcast_ref(), Some(Error::ShardLost { .. })) => {
                failure::report(&error, self.format.json && !out.has_printed());
                return Ok(Exit::Unsound);
            }
            found => found?,
        };
        let is_sound = found.found.violations.is_empty();
        if self.format.json {
            out.json(&found)?;
        } else {
            let OnACluster { found, repaired } = found;
            for violation in &found.violations {
                out.line(format_args!("violation: {}", clean(&violation.to_string())))?;
            }
            let mut table = Columns::pairs();
            table.row(["entries", &thousands(found.entries)]);
            table.row(["violations", &thousands(found.violations.len() as u64)]);
            let rare = [
                ("entries without a hint: their next change gives them one", found.without_hint),
                ("stale hints (harmless)", found.stale_hints),
                ("orphaned turns (harmless)", found.orphaned_turns),
                ("orphaned leases (harmless)", found.orphaned_leases),
            ];
            let repaired = repaired.unwrap_or_default();
            let repaired = [
                ("hints removed", repaired.hints_removed),
                ("rows removed", repaired.rows_removed),
                ("turns removed", repaired.turns_removed),
                ("leases removed", repaired.leases_removed),
            ];
            let rare = rare.into_iter().chain(repaired).filter(|(_, count)| *count > 0);
            rare.for_each(|(name, n)| table.row([name, &thousands(n)]));
            table.print(out)?;
        }
        Ok(if is_sound { Exit::Done } else { Exit::Unsound })
    }
}

/// Beside the store.
fn default_quarantine(db: &Path) -> PathBuf {
    // A path that ends in a slash names the same store, and one like `.` needs a name.
    let db = db.canonicalize().unwrap_or_else(|_| db.to_path_buf());
    let mut name = db.into_os_string();
    name.push(".quarantine.jsonl");
    name.into()
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
        if self.clock_doubted {
            out.line("half of the entries or more lie ahead of the clock: until it is trusted nothing ages")?;
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
        if self.found.orphaned_leases > 0 {
            row("orphaned leases (harmless)", self.found.orphaned_leases);
        }
        if self.found.times_ahead > 0 {
            row("times ahead of the clock", self.found.times_ahead);
        }
        if let Some(repaired) = &self.repaired {
            for (what, count) in changes(repaired) {
                row(what, count);
            }
        }
        if let Some(quarantine) = &self.quarantine {
            table.row(["quarantine", quarantine]);
        }
        table.print(out)
    }
}

/// What a repair changed, in words, without the zeros.
fn changes(repaired: &Repairs) -> impl Iterator<Item = (&'static str, u64)> {
    let changes = [
        ("lost entries", repaired.entries_lost),
        ("lost extras", repaired.extras_lost),
        ("lost details", repaired.details_lost),
        ("activity made anew from the index", repaired.activity_from_index),
        ("activity made anew from the journal", repaired.activity_from_journal),
        ("activity made anew from the creation", repaired.activity_from_creation),
        ("rows by time written", repaired.age_rows_written),
        ("rows by session id written", repaired.id_rows_written),
        ("activity records removed", repaired.activity_removed),
        ("rows by time removed", repaired.age_rows_removed),
        ("rows by session id removed", repaired.id_rows_removed),
        ("chunks removed", repaired.chunks_removed),
        ("turns removed", repaired.turns_removed),
        ("leases removed", repaired.leases_removed),
        ("rows of late activity lost", repaired.journal_rows_lost),
        ("notes of imported files lost", repaired.notes_lost),
        ("time zone of the last import lost", u64::from(repaired.zone_lost)),
        ("note of changes under way removed", u64::from(repaired.intent_removed)),
        ("counter corrected", u64::from(repaired.count_corrected)),
        ("rows put into quarantine", repaired.quarantined),
    ];
    changes.into_iter().filter(|(_, count)| *count > 0)
}
