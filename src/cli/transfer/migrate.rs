//! `migrate`.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use serde::Serialize;

use cloakroom::Error;
use cloakroom::gateway::Gateway;
use cloakroom::import::{ImportOptions, ImportReport, OnConflict};

use super::progress::show;
use super::quarantine::Quarantine;
use super::source::{Source, default_quarantine};
use super::{Zone, is_standard};
use crate::cli::failure::Failure;
use crate::cli::output::{Columns, Out, clean, thousands};
use crate::cli::source::Db;
use crate::cli::{Exit, Format, options, progress, with_opened};

/// An import reads hardly anything twice, so sled's cache may be small. It takes three to four times as much memory as
/// sled counts.
const CACHE: u64 = 24 << 20;
/// In a store that is there, changes that wait for the committer: two for each entry, and one for each KiB of its extras.
const MAX_PENDING: usize = 1 << 14;
/// Small records kept in memory. An import comes back to hardly any.
const CACHED_ENTRIES: usize = 1 << 10;

/// Import a gateway's sessions.json or SQLite database, and create the store if there is none.
///
/// A database is Hermes' state.db (the table gateway_routing) or that of an agent of OpenClaw (session_nodes); what it is is
/// told by its first bytes. It is read with its log of writes, and nothing but the quarantine is written beside it: one that
/// is in use or has such a log is copied to TMPDIR first. Rows are counted in place of lines. Where a sessions.json mirrors
/// Hermes' table and says otherwise, the table counts.
///
/// The file is only read. An entry that is bad goes to the quarantine, and the rest goes on; where the file is damaged
/// or cut off, what comes before that place is imported. In both cases the exit code is 1. A file without a good entry
/// is refused. Killed half-way and started again, it ends as one clean run; so does a trial with an earlier version of
/// the file. A store that it creates is there when it is whole, and not before.
///
/// With --json, one object:
///
///   file, db             what was read, and the store
///   format               hermes or openclaw; null if there was no entry to tell by
///   zone                 where naive times were taken to be at home
///   dry_run              nothing was changed; the counts say what would have been
///   bytes                bytes read
///   read                 entries met. Each is in one of imported, updated, skipped, quarantined
///   imported             entries that the store did not have
///   updated              entries that took the place of one in the store
///   skipped              kept + duplicates
///   kept                 entries left out because the store's stays, see --on-conflict
///   unchanged            of kept: the store's is the same
///   changed_here         of kept: active at the same time, and the store's was changed since it was imported
///   not_in_file          entries that the store had and the file has not; they stay
///   duplicates           entries whose key came before in the file; the newest counts
///   quarantined          bad entries
///   quarantine           the file they are in: one JSON object a line (line, byte, key, reason, bytes, raw), or null
///   notes                notes (keys that begin with _) met
///   notes_left_out       of these, notes that come again in the file, or whose place the store's keeps
///   kept_zone            the zone that the store remembers, if it is another and entries were kept; else null
///   clamped              times before 1970 or in the far future, moved
///   skipped_hours        local times that a change of the clocks skipped, moved forward
///   repeated_hours       local times that a change of the clocks repeated, taken for the earlier
///   without_time         entries that do not say when they were active: as old as the file
///   unreadable_times     times that cannot be parsed; an entry with no other time is as old as the file
///   odd_values           other fields that hold what does not belong there: empty in the store, as it was in exports
///   repeated_fields      fields that come again in the same entry; the last one counts
///   mirror_differs       of a database: entries that the sessions.json beside it has otherwise; the database's count
///   mirror_only          of a database: entries that only that file has; they are not imported
///   problems             list of objects (line, reason): the first bad entries
///   damage               null, or an object (line, column, byte, reason): where the file ceases to make sense
///   seconds              how long it took
///   entries_per_second   entries read in each
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(in crate::cli) struct Migrate {
    /// The file, or - for standard input.
    file: PathBuf,
    /// Of a database of Hermes, the rows of one scope only: a directory of sessions, as Hermes spells it [default: all].
    #[cfg(feature = "sqlite")]
    #[arg(long)]
    scope: Option<String>,
    /// Whose file it is.
    #[arg(long, value_enum, default_value_t = FileFormat::Auto)]
    format: FileFormat,
    /// Where naive times are at home: Europe/Berlin, +02:00, or local for the machine's own zone.
    #[arg(long, value_name = "ZONE", default_value = "local")]
    timezone: Zone,
    /// Which entry stays where the store has one: the one active last, the store's, or the file's.
    ///
    /// With newer, where both were active at the same time, the file's takes the place of one that was imported and not
    /// changed since.
    #[arg(long, value_name = "WHICH", value_enum, default_value_t = Conflict::Newer)]
    on_conflict: Conflict,
    /// Import times in the future as they are.
    ///
    /// Without it a few of them are moved to the time of the file; where many entries were active in the future, the
    /// clock is wrong, and nothing is imported.
    #[arg(long)]
    trust_times: bool,
    /// Only say what would be done. No quarantine is written unless --quarantine names one.
    #[arg(long)]
    dry_run: bool,
    /// Where bad entries go; it must not exist yet. With - they go to standard output, and the table is left out
    /// [default: FILE.quarantine.jsonl, or the next free .2, .3, …].
    #[arg(long, value_name = "FILE")]
    quarantine: Option<PathBuf>,
    #[command(flatten)]
    output: Format,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum FileFormat {
    Auto,
    Hermes,
    Openclaw,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Conflict {
    Newer,
    Keep,
    Replace,
}

#[derive(Serialize)]
struct Summary<'a> {
    file: String,
    db: String,
    #[serde(flatten)]
    report: &'a ImportReport,
    skipped: u64,
    quarantine: Option<String>,
    seconds: f64,
    entries_per_second: u64,
}

impl Migrate {
    pub(in crate::cli) fn run(self, db: &Db, out: &mut Out) -> Result<Exit> {
        let name = name(&self.file);
        let named = || format!("could not import {name}");
        let mut source = Source::open(&self.file, self.scope()).with_context(named)?;
        let to_stdout = self.quarantine.as_deref().is_some_and(is_standard);
        let (mut quarantine, is_wanted) = match &self.quarantine {
            Some(path) if to_stdout => (Quarantine::exactly(path.clone()), true),
            Some(path) => (Quarantine::exactly(free(path)?), true),
            None => (Quarantine::near(default_quarantine(&self.file)), !self.dry_run),
        };
        let started = Instant::now();
        let bar = progress::of_bytes(source.size);
        let opening = options(db).cache_bytes(CACHE);
        let sink: &mut dyn Write = if to_stdout { out } else { &mut quarantine };
        let options = self.options(&source, is_wanted.then_some(&mut *sink));
        let made = source.create(opening.clone(), options, |progress| show(&bar, progress));
        let report = match made {
            // Nothing of the file has been read yet.
            Err(Error::StoreExists { .. }) => {
                let opening = opening.max_pending(MAX_PENDING).cached_entries(CACHED_ENTRIES);
                with_opened(opening, |store| {
                    let options = self.options(&source, is_wanted.then_some(sink));
                    source.import(store, options, |progress| show(&bar, progress)).with_context(named)
                })
            }
            // It is not the file's fault.
            Err(error @ (Error::NotAStore { .. } | Error::Locked { .. } | Error::Exposed { .. })) => Err(error.into()),
            made => made.with_context(named),
        };
        bar.finish_and_clear();
        // The next attempt meets the same bad entries.
        let report = report.inspect_err(|_| quarantine.discard()).map_err(|error| {
            let Some(path) = quarantine.failed().map(Path::to_path_buf) else { return error };
            match error.downcast::<Error>() {
                Ok(source) => anyhow::Error::new(Failure::Quarantine { path, source }).context(named()),
                Err(error) => error,
            }
        })?;
        quarantine.finish().context("could not write the quarantine")?;

        let summary = self.summary(db, &report, quarantine.path(), started.elapsed());
        if self.output.json {
            out.json(&summary)?
        } else if !to_stdout {
            self.print(&summary, &source, out)?
        }
        if report.is_complete() {
            return Ok(Exit::Done);
        }
        let left_out = Failure::Incomplete {
            quarantined: report.quarantined,
            quarantine: quarantine.path().map(Path::to_path_buf),
            damage: report.damage.as_ref().map(|at| source.place(at)),
            advice: if self.dry_run { "everything else can be imported" } else { "everything else is in the store" },
        };
        Err(anyhow::Error::new(left_out).context(format!("{name} is not whole")))
    }

    /// Whether both the quarantine and the JSON are to go to standard output.
    pub(in crate::cli) fn contradicts_itself(&self) -> bool {
        self.quarantine.as_deref().is_some_and(is_standard) && self.output.json
    }

    #[cfg(feature = "sqlite")]
    fn scope(&self) -> Option<&str> {
        self.scope.as_deref()
    }

    #[cfg(not(feature = "sqlite"))]
    fn scope(&self) -> Option<&str> {
        None
    }

    fn options<'a>(&self, source: &Source, quarantine: Option<&'a mut dyn Write>) -> ImportOptions<'a> {
        let mut options = ImportOptions::new()
            .gateway(match self.format {
                FileFormat::Auto => None,
                FileFormat::Hermes => Some(Gateway::Hermes),
                FileFormat::Openclaw => Some(Gateway::OpenClaw),
            })
            .on_conflict(match self.on_conflict {
                Conflict::Newer => OnConflict::Newer,
                Conflict::Keep => OnConflict::Keep,
                Conflict::Replace => OnConflict::Replace,
            })
            .trust_times(self.trust_times)
            .dry_run(self.dry_run);
        if let Zone(Some(zone)) = &self.timezone {
            options = options.zone(zone.clone());
        }
        if let Some(time) = source.time {
            options = options.file_time(time);
        }
        match quarantine {
            Some(quarantine) => options.quarantine(quarantine),
            None => options,
        }
    }

    fn summary<'a>(&self, db: &Db, report: &'a ImportReport, quarantine: Option<&Path>, took: Duration) -> Summary<'a> {
        let seconds = took.as_secs_f64();
        Summary {
            file: self.file.display().to_string(),
            db: db.shown.clone(),
            report,
            skipped: report.kept + report.duplicates,
            quarantine: quarantine.map(|path| path.display().to_string()),
            seconds: (seconds * 1e6).round() / 1e6,
            entries_per_second: (report.read as f64 / seconds.max(1e-6)) as u64,
        }
    }

    fn print(&self, summary: &Summary<'_>, source: &Source, out: &mut Out) -> Result<()> {
        let report = summary.report;
        let mut table = Columns::pairs();
        let mut row = |name: &str, value: &str| table.row([name, value]);
        row("file", &summary.file);
        row("store", &summary.db);
        let format = match report.gateway {
            Some(Gateway::Hermes) => "Hermes",
            Some(Gateway::OpenClaw) => "OpenClaw",
            _ => "unknown",
        };
        row("format", format);
        row("naive times are in", &report.zone.to_string());
        row("read", &thousands(report.read));
        row(if report.dry_run { "would be imported" } else { "imported" }, &thousands(report.imported));
        row(if report.dry_run { "would be updated" } else { "updated" }, &thousands(report.updated));
        let kept = match self.on_conflict {
            Conflict::Newer => "skipped, the store's was active later",
            Conflict::Keep | Conflict::Replace => "skipped, in the store already",
        };
        let rare = [
            ("skipped, the same in the store", report.unchanged),
            ("skipped, changed in the store since it was imported", report.changed_here),
            (kept, report.kept - report.unchanged - report.changed_here),
            ("skipped, the key is in the file more than once", report.duplicates),
            ("in the store, and not in the file", report.not_in_file),
            ("notes", report.notes),
            ("notes left out: in the file more than once, or the store's stays", report.notes_left_out),
            ("times moved: before 1970 or in the far future", report.clamped),
            ("times moved: in an hour that the clocks skipped", report.skipped_hours),
            ("times taken for the earlier of a repeated hour", report.repeated_hours),
            ("without a time: as old as the file", report.without_time),
            ("times that cannot be parsed", report.unreadable_times),
            ("fields that hold what does not belong there: empty in the store", report.odd_values),
            ("fields left out, the entry has them again further on", report.repeated_fields),
            ("in the sessions.json beside it otherwise: the database counts", report.mirror_differs),
            ("only in the sessions.json beside it: not imported", report.mirror_only),
        ];
        for (name, count) in rare.into_iter().filter(|(_, count)| *count > 0) {
            row(name, &thousands(count));
        }
        row("quarantined", &thousands(report.quarantined));
        if let Some(path) = &summary.quarantine {
            row("quarantine", path);
        }
        row("took", &format!("{:.2} s, {} entries/s", summary.seconds, thousands(summary.entries_per_second)));
        table.print(out)?;
        if let Some(zone) = &report.kept_zone {
            out.line(clean(&format!(
                "the naive times of entries that were kept are those of {zone}: if that zone was wrong, import the file \
                 again with --on-conflict replace"
            )))?;
        }
        for problem in &report.problems {
            out.line(clean(&format!("bad entry {}: {}", source.line(problem.line), problem.reason)))?;
        }
        let untold = report.quarantined.saturating_sub(report.problems.len() as u64);
        if untold > 0 {
            out.line(format_args!("and {} bad entries more", thousands(untold)))?;
        }
        if let Some(at) = &report.damage {
            out.line(clean(&format!("damaged at {}: {}", source.place(at), at.reason)))?;
        }
        Ok(())
    }
}

fn name(file: &Path) -> String {
    if file.as_os_str() == "-" { "standard input".into() } else { file.display().to_string() }
}

/// The path, if nothing is there yet.
fn free(path: &Path) -> Result<PathBuf> {
    match path.symlink_metadata() {
        Ok(_) => Err(Failure::Exists { path: path.to_path_buf(), advice: "name another with --quarantine" }.into()),
        Err(_) => Ok(path.to_path_buf()),
    }
}
