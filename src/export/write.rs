//! The run of an export.

use std::collections::BTreeMap;
use std::io::{BufWriter, Write};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::one::object;
use super::options::{ExportFormat, ExportOptions};
use crate::entry::{Extras, SessionEntry};
use crate::error::{Error, Result};
use crate::gateway::{Gateway, Times, write_entry};
use crate::json;
use crate::rules::entry;
use crate::store::SessionStore;
#[cfg(feature = "sqlite")]
use crate::time::Timestamp;
use crate::unreadable::Unreadable;
use crate::zone::TimeZone;

/// What an export wrote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ExportReport {
    /// Entries.
    pub entries: u64,
    /// Notes.
    pub notes: u64,
    /// Fields that are null in [`ExportFormat::Jsonl`], because JSON cannot say what they hold (`NaN`).
    pub nulls: u64,
    /// Where naive times are at home.
    pub zone: TimeZone,
    /// Entries and notes that are left out because they cannot be decoded.
    pub unreadable: Unreadable,
}

impl SessionStore {
    /// Writes all entries in key order, after the notes of the imported file.
    ///
    /// What an import read comes out equal as JSON values, as far as the store still holds it: a touch changes the time
    /// of activity, a suspension its flag, and nothing else. Only what the import's report counts as moved or left out
    /// differs. An entry of the other gateway is written with the names of this one; fields that only the other knows
    /// keep theirs.
    ///
    /// An entry or a note that cannot be decoded is left out and counted; the others follow.
    ///
    /// All entries are of one moment, the one at which the call begins, and the notes of a moment soon after. Memory
    /// grows with what is changed meanwhile, as that of a [`backup`](SessionStore::backup) does, and not with the store.
    ///
    /// # Errors
    /// [`Error::Io`] if `output` fails, [`Error::TimeZone`] if the zone that the store remembers is not known here,
    /// [`Error::DamagedRecord`] if that zone cannot be decoded (then name it in the options), [`Error::SnapshotTooLarge`] if
    /// too much was changed meanwhile, and the errors of the store.
    pub fn export(&self, output: impl Write, options: &ExportOptions) -> Result<ExportReport> {
        let mut unreadable = Unreadable::default();
        let zone = match &options.zone {
            Some(zone) => zone.clone(),
            None => self.remembered_zone(options.format, &mut unreadable)?,
        };
        let entries = self.entries_of_now()?;
        write_all(output, options.format, zone, unreadable, self.commits().engine()?.notes(), entries)
    }

    /// All entries, of one moment, in key order.
    fn entries_of_now(&self) -> Result<impl Iterator<Item = Result<(SessionEntry, Extras)>> + '_> {
        let (engine, snapshot) = (self.commits().engine()?, self.commits().snapshot()?);
        Ok(snapshot.map(move |read| {
            let (key, whole) = read?;
            let extras = whole.extras().map_err(|e| engine.damaged_extras(&key, e))?;
            Ok((entry(&key, &whole.hot, Arc::unwrap_or_clone(whole.cold)), extras))
        }))
    }

    /// Hands out all entries in Hermes' form, in key order.
    #[cfg(feature = "sqlite")]
    pub(super) fn export_rows(
        &self,
        options: &ExportOptions,
        mut each: impl FnMut(&str, &str, Timestamp) -> Result<()>,
    ) -> Result<ExportReport> {
        let mut unreadable = Unreadable::default();
        let zone = match &options.zone {
            Some(zone) => zone.clone(),
            None => self.remembered_zone(ExportFormat::Hermes, &mut unreadable)?,
        };
        let entries = self.entries_of_now()?;
        let report = ExportReport { entries: 0, notes: 0, nulls: 0, zone: zone.clone(), unreadable };
        let mut run = Run { out: BufWriter::new(std::io::sink()), report };
        let times = Times { gateway: Gateway::Hermes, zone: &zone };
        run.for_each(entries, |_, entry, extras| {
            let updated_at = entry.updated_at;
            let fields = write_entry(entry, extras, times);
            each(entry.key.as_str(), &object(&fields), updated_at)
        })?;
        Ok(run.report)
    }

    /// The zone of the last import. Where it is lost, no times are written that need one: they would be hours off.
    fn remembered_zone(&self, format: ExportFormat, unreadable: &mut Unreadable) -> Result<TimeZone> {
        let zone = self.commits().engine()?.zone();
        let zone = if format == ExportFormat::Jsonl { unreadable.pass(zone)?.flatten() } else { zone? };
        match zone {
            Some(name) => name.parse(),
            // Of OpenClaw's files, and of no file. What is written as JSON lines is in UTC.
            None if format == ExportFormat::Hermes => TimeZone::local(),
            None => Ok(TimeZone::UTC),
        }
    }
}

/// Writes notes and entries, in the order in which they come.
pub(crate) fn write_all(
    output: impl Write,
    format: ExportFormat,
    zone: TimeZone,
    unreadable: Unreadable,
    notes: impl Iterator<Item = Result<(String, String)>>,
    entries: impl Iterator<Item = Result<(SessionEntry, Extras)>>,
) -> Result<ExportReport> {
    let report = ExportReport { entries: 0, notes: 0, nulls: 0, zone: zone.clone(), unreadable };
    let mut run = Run { out: BufWriter::new(output), report };
    match format {
        ExportFormat::Hermes => run.object(notes, entries, Times { gateway: Gateway::Hermes, zone: &zone })?,
        ExportFormat::OpenClaw => run.object(notes, entries, Times { gateway: Gateway::OpenClaw, zone: &zone })?,
        ExportFormat::Jsonl => run.lines(entries)?,
    }
    run.out.flush().map_err(write_failed)?;
    Ok(run.report)
}

fn write_failed(error: std::io::Error) -> Error {
    Error::io("write", "the export", error)
}

struct Run<W: Write> {
    out: BufWriter<W>,
    report: ExportReport,
}

/// One line of [`ExportFormat::Jsonl`].
#[derive(Serialize)]
struct Line<'a> {
    #[serde(flatten)]
    entry: &'a SessionEntry,
    extras: BTreeMap<&'a str, Option<Box<RawValue>>>,
}

impl<W: Write> Run<W> {
    fn object(
        &mut self,
        notes: impl Iterator<Item = Result<(String, String)>>,
        entries: impl Iterator<Item = Result<(SessionEntry, Extras)>>,
        times: Times<'_>,
    ) -> Result<()> {
        self.put("{")?;
        for note in notes {
            if let Some((name, text)) = self.report.unreadable.pass(note)? {
                self.member(&name, &text)?;
                self.report.notes += 1;
            }
        }
        self.for_each(entries, |run, entry, extras| {
            let fields = write_entry(entry, extras, times);
            run.member(entry.key.as_str(), &object(&fields))
        })?;
        self.put(if self.report.notes + self.report.entries > 0 { "\n}" } else { "}" })
    }

    fn lines(&mut self, entries: impl Iterator<Item = Result<(SessionEntry, Extras)>>) -> Result<()> {
        self.for_each(entries, |run, entry, extras| {
            let extras: BTreeMap<_, _> =
                extras.iter().map(|(name, text)| (name, RawValue::from_string(text.into()).ok())).collect();
            run.report.nulls += extras.values().filter(|value| value.is_none()).count() as u64;
            run.report.nulls += u64::from(!entry.usage.estimated_cost_usd.is_finite());
            let line = serde_json::to_string(&Line { entry, extras });
            let line = line.map_err(|e| write_failed(e.into()))?;
            run.put(&line)?;
            run.put("\n")
        })
    }

    /// One member of the object, on lines of its own. It counts itself only afterwards.
    fn member(&mut self, name: &str, text: &str) -> Result<()> {
        let is_first = self.report.notes + self.report.entries == 0;
        let mut out = String::with_capacity(text.len() * 3 / 2);
        out.push_str(if is_first { "\n  " } else { ",\n  " });
        out.push_str(&json::quote(name));
        out.push_str(": ");
        json::pretty(text, 1, &mut out);
        self.put(&out)
    }

    fn for_each(
        &mut self,
        entries: impl Iterator<Item = Result<(SessionEntry, Extras)>>,
        mut each: impl FnMut(&mut Self, &mut SessionEntry, &Extras) -> Result<()>,
    ) -> Result<()> {
        for read in entries {
            let Some((mut entry, extras)) = self.report.unreadable.pass(read)? else { continue };
            each(self, &mut entry, &extras)?;
            self.report.entries += 1;
        }
        Ok(())
    }

    fn put(&mut self, text: &str) -> Result<()> {
        self.out.write_all(text.as_bytes()).map_err(write_failed)
    }
}
