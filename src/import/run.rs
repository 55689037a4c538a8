//! The run of an import.

use std::io::{Read, Write};
use std::time::Duration;

use super::bad::{Bad, write_line};
use super::options::ImportOptions;
use super::read::{Bounds, ReadEntry, read_entry};
use super::report::{Damage, ImportProgress, ImportReport};
use super::splitter::{Item, MAX_ENTRY_BYTES, Splitter, Start, Step};
use super::target::{Open, Target};
use crate::error::{Error, Result};
use crate::gateway::{Gateway, Times};
use crate::json;
use crate::key::{MAX_KEY_BYTES, SessionKey};
use crate::store::SessionStore;
use crate::time::Timestamp;
use crate::zone::TimeZone;

/// Later than this after now, a time is taken for an error of the clock.
const FUTURE: Duration = Duration::from_secs(24 * 60 * 60);
/// Entries between two calls of the progress callback.
const PROGRESS_EVERY: u64 = 256;

impl SessionStore {
    /// Imports a gateway's `sessions.json` and answers what became of each entry.
    ///
    /// A bad entry goes to the [quarantine](ImportOptions::quarantine) and the rest goes on. Where the file is damaged
    /// or cut off, everything before that place is imported and the report says where it is. Limits: nesting 64, a key
    /// 1 KiB, an entry 1 MiB, a number 4 KiB.
    ///
    /// Where there is no store yet, [`create_from`](SessionStore::create_from) is the faster way.
    ///
    /// When it returns, what was imported survives a power cut. Killed half-way and run again, it ends in the same
    /// state as one clean run.
    ///
    /// ```
    /// use cloakroom::{ImportOptions, Options, SessionStore};
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("sessions.db");
    /// let file = r#"{"agent:main:discord:dm:1234": {"session_id": "20260612_000653_3f9a01c2",
    ///     "created_at": "2026-06-12T00:06:53", "updated_at": "2026-06-12T00:07:04.247913"}}"#;
    /// let store = SessionStore::open(Options::new(&path).create(true))?;
    /// let report = store.import(file.as_bytes(), ImportOptions::new().zone("Europe/Berlin".parse()?), |_| {})?;
    /// assert_eq!(report.imported, 1);
    /// assert!(report.is_complete());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::NotASessionFile`] if the input is empty or no JSON object, [`Error::Io`] if it cannot be read or the
    /// quarantine not written, and the errors of the store. What was imported before an error stays.
    pub fn import(
        &self,
        input: impl Read,
        options: ImportOptions<'_>,
        mut progress: impl FnMut(&ImportProgress),
    ) -> Result<ImportReport> {
        let target = Open::new(self, options.on_conflict, options.dry_run);
        let mut run = Run::new(target, options, self.now());
        run.read(input, &mut progress)?;
        if !run.report.dry_run {
            self.flush()?;
        }
        run.end(&mut progress)
    }
}

/// Reads a file and hands what it holds to a target.
pub(super) struct Run<'q, T> {
    pub(super) target: T,
    zone: TimeZone,
    quarantine: Option<&'q mut dyn Write>,
    bounds: Bounds,
    zone_is_kept: bool,
    pub(super) report: ImportReport,
}

/// What stands under a key of the file.
enum Content {
    Note { name: String, text: String },
    Entry(Box<ReadEntry>),
}

impl<'q, T: Target> Run<'q, T> {
    pub(super) fn new(target: T, options: ImportOptions<'q>, now: Timestamp) -> Self {
        let file_time = options.file_time.map_or(now, |time| time.min(now));
        Self {
            target,
            zone: options.zone,
            quarantine: options.quarantine,
            bounds: Bounds { file_time, latest: now.saturating_add(FUTURE) },
            zone_is_kept: false,
            report: ImportReport::new(options.gateway, options.zone, options.dry_run),
        }
    }

    /// Reads the file to its end, or to where it is damaged.
    pub(super) fn read(&mut self, input: impl Read, progress: &mut impl FnMut(&ImportProgress)) -> Result<()> {
        let mut splitter = Splitter::new(input);
        let read_failed = |e| Error::io("read", "the input", e);
        match splitter.start().map_err(read_failed)? {
            Start::Object => {}
            Start::Empty => return Err(Error::NotASessionFile { reason: "it is empty" }),
            Start::Other => return Err(Error::NotASessionFile { reason: "it is not one JSON object" }),
        }
        loop {
            let step = splitter.next().map_err(read_failed)?;
            self.report.bytes = splitter.bytes();
            match step {
                Step::Item(item) => self.item(&item)?,
                Step::End => return Ok(()),
                Step::Damage { place, reason, partial } => {
                    let damage =
                        Damage { line: place.line, column: place.column, byte: place.byte, reason: reason.into() };
                    self.report.damage = Some(damage);
                    if let Some(item) = partial {
                        self.report.read += 1;
                        self.set_aside(&item, &Bad::Partial)?;
                    }
                    return Ok(());
                }
            }
            if self.report.read.is_multiple_of(PROGRESS_EVERY) {
                progress(&self.report.progress());
            }
        }
    }

    /// Ends a run whose entries are where they belong.
    pub(super) fn end(mut self, progress: &mut impl FnMut(&ImportProgress)) -> Result<ImportReport> {
        self.flush_quarantine()?;
        progress(&self.report.progress());
        Ok(self.report)
    }

    /// Writes out what went to the quarantine.
    pub(super) fn flush_quarantine(&mut self) -> Result<()> {
        let Some(sink) = &mut self.quarantine else { return Ok(()) };
        sink.flush().map_err(|e| Error::io("write", "the quarantine", e))
    }

    fn item(&mut self, item: &Item) -> Result<()> {
        match self.content(item) {
            Ok(Content::Note { name, text }) => {
                self.report.notes += 1;
                self.target.put_note(name, text)
            }
            Ok(Content::Entry(read)) => {
                self.report.read += 1;
                self.keep_zone()?;
                let repairs = read.repairs;
                match self.target.put(*read, &mut self.report) {
                    Ok(()) => {
                        repairs.count_in(&mut self.report);
                        Ok(())
                    }
                    Err(Error::TooLarge { bytes, limit, .. }) => self.set_aside(item, &Bad::TooLarge { bytes, limit }),
                    Err(error) => Err(error),
                }
            }
            Err(bad) => {
                self.report.read += 1;
                self.set_aside(item, &bad)
            }
        }
    }

    fn content(&mut self, item: &Item) -> Result<Content, Bad> {
        let key = std::str::from_utf8(&item.key).map_err(|_| Bad::KeyUtf8)?;
        if item.key_too_long {
            return Err(Bad::KeyTooLong);
        }
        let key = json::normal(key).map_err(Bad::KeyJson)?;
        let key = json::string(&key).unwrap_or_default();
        if key.len() > MAX_KEY_BYTES {
            return Err(Bad::KeyTooLong);
        }
        if item.length > MAX_ENTRY_BYTES as u64 {
            return Err(Bad::TooLong(item.length));
        }
        let text = std::str::from_utf8(&item.value).map_err(|e| Bad::Utf8 { at: e.valid_up_to() })?;
        if key.starts_with('_') {
            if key.contains('\0') {
                return Err(Bad::NoteName);
            }
            return Ok(Content::Note { name: key, text: json::normal(text).map_err(Bad::Json)? });
        }
        let key = SessionKey::new(key).map_err(Bad::Key)?;
        let fields = json::all_fields(text).map_err(Bad::Json)?.ok_or(Bad::NoObject)?;
        let told = self.report.gateway.or_else(|| Gateway::of(fields.iter().map(|(name, _)| name.as_str())));
        let gateway = told.ok_or(Bad::NoId("session id"))?;
        self.report.gateway = told;
        let read = read_entry(key, fields, Times { gateway, zone: self.zone }, self.bounds)?;
        Ok(Content::Entry(Box::new(read)))
    }

    /// Remembers the time zone before the first entry whose times depend on it.
    fn keep_zone(&mut self) -> Result<()> {
        if self.report.gateway == Some(Gateway::Hermes) && !std::mem::replace(&mut self.zone_is_kept, true) {
            self.target.put_zone(self.zone.to_string())?;
        }
        Ok(())
    }

    fn set_aside(&mut self, item: &Item, bad: &Bad) -> Result<()> {
        let reason = bad.to_string();
        if let Some(sink) = &mut self.quarantine {
            write_line(*sink, item, &reason).map_err(|e| Error::io("write", "the quarantine", e))?;
        }
        self.report.add_problem(item.place.line, reason);
        Ok(())
    }
}
