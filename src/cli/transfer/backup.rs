//! `backup` and `restore`.

use std::io::{IsTerminal, Read, stdin, stdout};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use serde::Serialize;

use cloakroom::backup::{BackupOptions, BackupProgress, BackupReport};
use cloakroom::{Error, SessionStore};

use super::source::open_regular;
use super::{is_standard, open_stream};
use crate::cli::failure::Failure;
use crate::cli::output::{Out, clean, size, thousands};
use crate::cli::source::{Db, Source, with_source};
use crate::cli::{Exit, Format, options, progress};

/// Write all of the store into one file, which `restore` reads.
///
/// It holds every entry with its times, flags, counters and extras, open turns, leases, and the notes and the time zone of
/// imported files. Every record has a checksum. The file is there whole or not at all, and only its owner may read it;
/// a pipe or a device is written to. Nothing in it is encrypted. An entry that cannot be decoded stops the backup: repair
/// the store with `verify --repair` first.
///
/// All entries are of one moment, but not with --url: there each is as it was when it was read.
///
/// With --json, one object:
///
///   file         the backup
///   entries      entries in it
///   turns        open turns among them
///   leases       leases with an end among them
///   notes        notes of imported files in it
///   bytes        its size
///   one_moment   false, and there only with --url
///   began        when the first entry was read at the earliest (RFC 3339, UTC), likewise; ended is when the last one was at
///                the latest. The file itself does not tell this
///   seconds      how long it took
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(in crate::cli) struct Backup {
    /// The file to write, or - for standard output.
    file: PathBuf,
    /// Replace the file if it is there.
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    output: Format,
}

/// Make a store from a backup, at the path that --db names. A store that is there is never replaced.
///
/// Every checksum is verified before the store appears. If the backup is damaged, cut off, or of a newer version, the
/// error says where, and nothing is left behind. Turns that were open count as interrupted.
///
/// With --url entries are written as they are read. What is found to be damaged only then leaves a store that nobody opens,
/// until a backup is restored under that name to its end.
///
/// With --json, one object:
///
///   file, db   the backup, and the store
///   entries    entries restored
///   turns      open turns among them
///   leases     leases with an end among them
///   notes      notes of imported files restored
///   bytes      bytes read
///   seconds    how long it took
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(in crate::cli) struct Restore {
    /// The backup, or - for standard input.
    file: PathBuf,
    #[command(flatten)]
    output: Format,
}

#[derive(Serialize)]
struct Summary {
    file: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    db: Option<String>,
    #[serde(flatten)]
    report: BackupReport,
    /// Whether all entries are of one moment, if they are not.
    #[serde(skip_serializing_if = "Option::is_none")]
    one_moment: Option<bool>,
    seconds: f64,
}

impl Backup {
    /// Whether both the backup and the JSON are to go to standard output.
    pub(in crate::cli) fn contradicts_itself(&self) -> bool {
        is_standard(&self.file) && self.output.json
    }

    pub(in crate::cli) fn run(self, db: &Db, out: &mut Out) -> Result<Exit> {
        let started = Instant::now();
        if is_standard(&self.file) {
            if stdout().is_terminal() {
                bail!("standard output is a terminal: name a file, or send it to another program");
            }
            written(db, out)?;
            // In contrast to a list, one whose reader has gone is no backup.
            out.deliver().context("could not write the backup")?;
            return Ok(Exit::Done);
        }
        let report = if let Some(stream) = open_stream(&self.file)? {
            let mut stream = Out::to(stream);
            let report = written(db, &mut stream)?;
            stream.deliver().with_context(|| format!("could not write the backup to {}", self.file.display()))?;
            report
        } else {
            with_source(db, |source| {
                let done = match source {
                    Source::Store(store) => {
                        let bar = progress::of_entries(store.len());
                        let options = BackupOptions::new().force(self.force);
                        let done = store.backup_to_file(&self.file, options, |at| bar.set_position(at.entries));
                        bar.finish_and_clear();
                        done
                    }
                    Source::Live(client) => client.stream_to_file(BACKUP, &self.file, self.force),
                    #[cfg(feature = "valkey")]
                    Source::Cluster(store) => {
                        let bar = progress::of_entries(store.stats()?.entries);
                        let options = BackupOptions::new().force(self.force);
                        let done = store.backup_to_file(&self.file, options, |at| bar.set_position(at.entries));
                        bar.finish_and_clear();
                        done
                    }
                };
                done.map_err(|error| match error {
                    Error::Exists { path } => {
                        Failure::Exists { path, advice: "name another file, or replace it with --force" }.into()
                    }
                    error => anyhow::Error::new(error),
                })
            })?
        };
        let file = self.file.display().to_string();
        let one_moment = db.cluster.is_some().then_some(false);
        let apart =
            if one_moment.is_some() { "; not of one moment: each entry is as it was when it was read" } else { "" };
        let line = format!("backed up: {} to {file}, {}{apart}", counts(&report), size(report.bytes));
        let summary = Summary { file, db: None, report, one_moment, seconds: seconds(started.elapsed()) };
        if self.output.json {
            out.json(&summary)?
        } else {
            out.line(clean(&line))?
        }
        Ok(Exit::Done)
    }
}

impl Restore {
    pub(in crate::cli) fn run(self, db: &Db, out: &mut Out) -> Result<Exit> {
        let started = Instant::now();
        let named = || match is_standard(&self.file) {
            true => "could not restore standard input".to_owned(),
            false => format!("could not restore {}", self.file.display()),
        };
        let (input, bytes): (Box<dyn Read>, _) = if is_standard(&self.file) {
            (Box::new(stdin()), None)
        } else {
            let file = open_regular(&self.file).with_context(named)?;
            let bytes = file.metadata().as_ref().map(std::fs::Metadata::len).ok();
            (Box::new(file), bytes)
        };
        let bar = progress::of_bytes(bytes);
        let tell = |at: &BackupProgress| {
            bar.set_position(at.bytes);
            bar.set_message(format!("{} entries", thousands(at.entries)));
        };
        let done = match &db.cluster {
            #[cfg(feature = "valkey")]
            Some(options) => cloakroom::cluster::ClusterStore::restore(options.clone(), input, tell),
            _ => SessionStore::restore(options(db), input, tell),
        };
        bar.finish_and_clear();
        let report = done.map_err(|error| match error {
            // It is not the file's fault.
            error @ (Error::StoreExists { .. } | Error::NotAStore { .. }) => anyhow::Error::new(error),
            #[cfg(feature = "valkey")]
            error @ Error::OtherStore { .. } => anyhow::Error::new(error),
            error => anyhow::Error::new(error).context(named()),
        })?;
        let line = format!("restored: {} to {}", counts(&report), db.shown);
        let (file, db) = (self.file.display().to_string(), Some(db.shown.clone()));
        let summary = Summary { file, db, report, one_moment: None, seconds: seconds(started.elapsed()) };
        if self.output.json {
            out.json(&summary)?
        } else {
            out.line(clean(&line))?
        }
        Ok(Exit::Done)
    }
}

/// Where a view has it.
const BACKUP: &str = "/v1/backup";

fn written(db: &Db, out: &mut Out) -> Result<BackupReport> {
    with_source(db, |source| match source {
        Source::Store(store) => {
            let bar = progress::of_entries(store.len());
            let done = store.backup(out, |at| bar.set_position(at.entries));
            bar.finish_and_clear();
            Ok(done?)
        }
        Source::Live(client) => Ok(client.stream(BACKUP, out)?),
        #[cfg(feature = "valkey")]
        Source::Cluster(store) => Ok(store.backup(out, |_| {})?),
    })
}

fn counts(report: &BackupReport) -> String {
    let BackupReport { entries, turns, notes, .. } = *report;
    format!("{} entries, {} open turns and {} notes", thousands(entries), thousands(turns), thousands(notes))
}

fn seconds(took: Duration) -> f64 {
    (took.as_secs_f64() * 1e6).round() / 1e6
}
