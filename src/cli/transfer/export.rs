//! `export`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};

use cloakroom::export::{ExportFormat, ExportOptions, ExportReport};
use cloakroom::{Error, TimeZone};

use super::{Zone, is_standard, open_stream};
use crate::cli::Exit;
use crate::cli::failure::Failure;
use crate::cli::list::none_unreadable;
use crate::cli::output::{Out, clean, thousands};
use crate::cli::source::{Db, Source, escaped, with_source};
#[cfg(feature = "sqlite")]
use crate::cli::with_store;

/// Write all entries in a gateway's format, as lines of JSON, or into a fresh database.
///
/// What `migrate` read comes out equal as JSON values, as far as the store still holds it. Entries are in key order,
/// notes first. With --output, the file is there whole or not at all, and only its owner may read it; a pipe or a
/// device is written to.
///
/// As jsonl, one object a line: the fields that `show --json` has, but for idle_seconds, and under `extras` what the
/// gateway kept besides (null where that is no JSON). Notes are left out.
///
/// As hermes-table, a new SQLite database with Hermes' table gateway_routing, in which the entries are rows of --scope; notes
/// are left out.
///
/// An entry that cannot be decoded is left out; the others are written, and the exit code is 1.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(in crate::cli) struct Export {
    /// What to write.
    #[arg(long, value_enum)]
    format: Layout,
    /// The file to write, or - for standard output [default: standard output].
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Replace the file if it is there.
    #[arg(long, requires = "output")]
    force: bool,
    /// The scope of the rows: the directory of sessions, as Hermes spells it (an absolute path without links).
    #[cfg(feature = "sqlite")]
    #[arg(long, required_if_eq("format", "hermes-table"))]
    scope: Option<String>,
    /// Write naive times of this zone: Europe/Berlin, +02:00, or local [default: that of the last import].
    #[arg(long, value_name = "ZONE")]
    timezone: Option<Zone>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Layout {
    Hermes,
    Openclaw,
    Jsonl,
    #[cfg(feature = "sqlite")]
    HermesTable,
}

impl Export {
    /// Whether it writes a database, for which no view is asked.
    pub(in crate::cli) fn makes_a_database(&self) -> bool {
        match self.format {
            Layout::Hermes | Layout::Openclaw | Layout::Jsonl => false,
            #[cfg(feature = "sqlite")]
            Layout::HermesTable => true,
        }
    }

    pub(in crate::cli) fn run(self, db: &Db, out: &mut Out) -> Result<Exit> {
        let mut options = ExportOptions::new(match self.format {
            Layout::Hermes => ExportFormat::Hermes,
            Layout::Openclaw => ExportFormat::OpenClaw,
            Layout::Jsonl => ExportFormat::Jsonl,
            #[cfg(feature = "sqlite")]
            Layout::HermesTable => ExportFormat::Hermes,
        })
        .force(self.force);
        let zone =
            self.timezone.as_ref().map(|Zone(zone)| zone.clone().map_or_else(TimeZone::local, Ok)).transpose()?;
        let path_of_view = format!(
            "/v1/export?format={}{}",
            match self.format {
                Layout::Hermes => "hermes",
                Layout::Openclaw => "openclaw",
                Layout::Jsonl => "jsonl",
                // That is written below.
                #[cfg(feature = "sqlite")]
                Layout::HermesTable => "hermes",
            },
            zone.as_ref().map(|zone| format!("&zone={}", escaped(&zone.to_string()))).unwrap_or_default()
        );
        if let Some(zone) = zone {
            options = options.zone(zone);
        }
        let exists = |error| match error {
            Error::Exists { path } => {
                let advice = "name another with --output, or replace it with --force";
                Failure::Exists { path, advice }.into()
            }
            error => anyhow::Error::new(error),
        };
        #[cfg(feature = "sqlite")]
        if let (Layout::HermesTable, Some(scope)) = (self.format, &self.scope) {
            let Some(path) = self.output.filter(|path| !is_standard(path)) else {
                anyhow::bail!("a database goes to a file: name it with --output");
            };
            let report = with_store(db, |store| store.export_to_database(&path, scope, &options).map_err(exists))?;
            return tell(&report, &path, out);
        }
        let write = |output: &mut Out| -> Result<ExportReport> {
            with_source(db, |source| match source {
                Source::Store(store) => Ok(store.export(output, &options)?),
                Source::Live(client) => Ok(client.stream(&path_of_view, output)?),
                #[cfg(feature = "valkey")]
                Source::Cluster(_) => anyhow::bail!("an export reads an embedded store"),
            })
        };
        let Some(path) = self.output.filter(|path| !is_standard(path)) else {
            let report = write(out)?;
            return none_unreadable(0, &report.unreadable);
        };
        let report = if let Some(stream) = open_stream(&path)? {
            let mut stream = Out::to(stream);
            let report = write(&mut stream)?;
            stream.deliver().with_context(|| format!("could not write to {}", path.display()))?;
            report
        } else {
            with_source(db, |source| {
                let done = match source {
                    Source::Store(store) => store.export_to_file(&path, &options),
                    Source::Live(client) => client.stream_to_file(&path_of_view, &path, self.force),
                    #[cfg(feature = "valkey")]
                    Source::Cluster(_) => anyhow::bail!("an export reads an embedded store"),
                };
                done.map_err(exists)
            })?
        };
        tell(&report, &path, out)
    }
}

/// Says what was written.
fn tell(report: &ExportReport, path: &Path, out: &mut Out) -> Result<Exit> {
    let nulls = match report.nulls {
        0 => String::new(),
        nulls => format!(", null where JSON cannot say it: {} fields", thousands(nulls)),
    };
    out.line(clean(&format!(
        "exported: {} entries and {} notes to {}, naive times in {}{nulls}",
        thousands(report.entries),
        thousands(report.notes),
        path.display(),
        report.zone,
    )))?;
    none_unreadable(0, &report.unreadable)
}
