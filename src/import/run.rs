//! The run of an import.

use std::io::{Read, Write};
use std::time::Duration;

use super::bad::{Bad, write_line};
use super::options::{ImportOptions, OnConflict};
use super::read::{Bounds, ReadEntry, read_entry};
use super::report::{Damage, ImportProgress, ImportReport};
use super::seen::{Mark, Seen};
use super::splitter::{Item, MAX_ENTRY_BYTES, Splitter, Start, Step};
use crate::answer::Put;
use crate::entry::SessionEntry;
use crate::error::{Error, Result};
use crate::gateway::{Gateway, Times};
use crate::json;
use crate::key::{MAX_KEY_BYTES, SessionKey};
use crate::store::SessionStore;
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
        let now = self.now();
        let file_time = options.file_time.map_or(now, |time| time.min(now));
        let mut run = Run {
            store: self,
            zone: options.zone,
            on_conflict: options.on_conflict,
            quarantine: options.quarantine,
            bounds: Bounds { file_time, latest: now.saturating_add(FUTURE) },
            seen: Seen::new(options.dry_run || !self.is_empty()),
            zone_is_kept: false,
            report: ImportReport::new(options.gateway, options.zone, options.dry_run),
        };
        let mut splitter = Splitter::new(input);
        let read_failed = |e| Error::io("read", "the input", e);
        match splitter.start().map_err(read_failed)? {
            Start::Object => {}
            Start::Empty => return Err(Error::NotASessionFile { reason: "it is empty" }),
            Start::Other => return Err(Error::NotASessionFile { reason: "it is not one JSON object" }),
        }
        loop {
            let step = splitter.next().map_err(read_failed)?;
            run.report.bytes = splitter.bytes();
            match step {
                Step::Item(item) => run.item(&item)?,
                Step::End => break,
                Step::Damage { place, reason, partial } => {
                    let damage =
                        Damage { line: place.line, column: place.column, byte: place.byte, reason: reason.into() };
                    run.report.damage = Some(damage);
                    if let Some(item) = partial {
                        run.report.read += 1;
                        run.set_aside(&item, &Bad::Partial)?;
                    }
                    break;
                }
            }
            if run.report.read.is_multiple_of(PROGRESS_EVERY) {
                progress(&run.report.progress());
            }
        }
        if !run.report.dry_run {
            self.flush()?;
        }
        if let Some(sink) = &mut run.quarantine {
            sink.flush().map_err(|e| Error::io("write", "the quarantine", e))?;
        }
        progress(&run.report.progress());
        Ok(run.report)
    }
}

struct Run<'a, 'q> {
    store: &'a SessionStore,
    zone: TimeZone,
    on_conflict: OnConflict,
    quarantine: Option<&'q mut dyn Write>,
    bounds: Bounds,
    seen: Seen,
    zone_is_kept: bool,
    report: ImportReport,
}

/// What stands under a key of the file.
enum Content {
    Note { name: String, text: String },
    Entry(Box<ReadEntry>),
}

impl Run<'_, '_> {
    fn item(&mut self, item: &Item) -> Result<()> {
        match self.read(item) {
            Ok(Content::Note { name, text }) => self.note(name, text),
            Ok(Content::Entry(read)) => {
                self.report.read += 1;
                match self.put(&read) {
                    Ok(()) => {
                        read.repairs.count_in(&mut self.report);
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

    fn read(&mut self, item: &Item) -> Result<Content, Bad> {
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

    fn note(&mut self, name: String, text: String) -> Result<()> {
        self.report.notes += 1;
        let engine = self.store.commits().engine();
        let stays = self.on_conflict == OnConflict::Keep && engine.note(&name)?.is_some();
        if self.report.dry_run || stays { Ok(()) } else { self.store.commits().set_note(name, text) }
    }

    fn put(&mut self, read: &ReadEntry) -> Result<()> {
        if !self.report.dry_run {
            self.keep_zone()?;
        }
        let new = &read.entry;
        let first = self.seen.get(&new.key);
        let mut had = None;
        let mut decide = |old: &SessionEntry| {
            had = Some((old.updated_at, is_same(old, new)));
            self.replaces(new, old, first)
        };
        let (is_new, is_in) = if self.report.dry_run {
            // In a dry run the store does not have what the file had before.
            let mut old = self.store.peek(&new.key)?;
            if let (Some(mark), None) = (first, &old) {
                old = Some(SessionEntry { updated_at: mark.updated_at, ..new.clone() });
            } else if let (Some(mark), Some(old)) = (first, &mut old) {
                old.updated_at = mark.updated_at;
            }
            match &old {
                None => (true, true),
                Some(old) => (false, decide(old)),
            }
        } else {
            match self.store.put(new, &read.extras, &mut decide)? {
                Put::Created => (true, true),
                Put::Replaced => (false, true),
                Put::Kept => (false, false),
            }
        };
        let counter = match (first, is_new, is_in) {
            (Some(_), ..) => &mut self.report.duplicates,
            (None, true, _) => &mut self.report.imported,
            // Into an empty store: what it has came from this file.
            (None, false, _) if matches!(self.seen, Seen::Nothing) => &mut self.report.duplicates,
            (None, false, true) => &mut self.report.updated,
            (None, false, false) => &mut self.report.kept,
        };
        *counter += 1;
        let was_ours = first.is_some_and(|mark| mark.is_ours);
        let mark = match had {
            Some((updated_at, is_same)) if !is_in => Mark { is_ours: was_ours || is_same, updated_at },
            _ => Mark { is_ours: true, updated_at: new.updated_at },
        };
        self.seen.set(&new.key, mark);
        Ok(())
    }

    /// Whether an entry of the file takes the place of the one in the store. Of two in the file the newer one counts,
    /// and the later one if they are equal.
    fn replaces(&self, new: &SessionEntry, old: &SessionEntry, first: Option<Mark>) -> bool {
        let old_is_ours = matches!(self.seen, Seen::Nothing) || first.is_some_and(|mark| mark.is_ours);
        match self.on_conflict {
            _ if old_is_ours => new.updated_at >= old.updated_at,
            OnConflict::Newer => new.updated_at > old.updated_at,
            OnConflict::Keep => false,
            OnConflict::Replace => true,
        }
    }

    /// Remembers the time zone before the first entry whose times depend on it.
    fn keep_zone(&mut self) -> Result<()> {
        if self.report.gateway == Some(Gateway::Hermes) && !std::mem::replace(&mut self.zone_is_kept, true) {
            self.store.commits().set_zone(self.zone.to_string())?;
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

/// Whether the store's entry is what the file says: then an earlier run of the import may have put it there.
fn is_same(old: &SessionEntry, new: &SessionEntry) -> bool {
    SessionEntry { extras_bytes: new.extras_bytes, ..old.clone() } == *new
}
