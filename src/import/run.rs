//! The run of an import.

use std::collections::HashSet;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::io::Write;
use std::time::Duration;

use super::bad::{Bad, write_line};
use super::evidence::Evidence;
use super::options::ImportOptions;
use super::read::{Bounds, Fields, ReadEntry, read_entry};
use super::report::{Damage, ImportProgress, ImportReport, Problem};
use super::splitter::{Item, LINES, MAX_ENTRY_BYTES, Place};
use super::target::{Fate, Target};
use crate::error::{Error, Result};
use crate::gateway::{Gateway, Times};
use crate::json;
use crate::key::{MAX_KEY_BYTES, SessionKey};
use crate::time::Timestamp;
use crate::unreadable::Unreadable;
use crate::zone::TimeZone;

/// Later than this after now, a time is taken for an error of the clock.
const FUTURE: Duration = Duration::from_secs(24 * 60 * 60);
/// Entries between two calls of the progress callback.
const PROGRESS_EVERY: u64 = 256;

/// Reads a file and hands what it holds to a target.
pub(super) struct Run<'q, T> {
    pub(super) target: T,
    zone: TimeZone,
    /// Why the machine's zone, which was to be taken, is not known.
    unknown_zone: Option<Error>,
    quarantine: Option<&'q mut dyn Write>,
    bounds: Bounds,
    evidence: Evidence,
    /// The zone that the store remembered at the beginning.
    store_zone: Option<String>,
    zone_is_kept: bool,
    /// Entries with naive times were kept.
    kept_naive: bool,
    note_names: HashSet<u64>,
    hasher: RandomState,
    pub(super) report: ImportReport,
}

/// What stands under a key of the file.
enum Content {
    Note { name: String, text: String },
    Entry(Gateway, Box<ReadEntry>),
}

impl<'q, T: Target> Run<'q, T> {
    /// `store_zone` is what the store remembers.
    pub(super) fn new(target: T, options: ImportOptions<'q>, now: Timestamp, store_zone: Option<String>) -> Self {
        let file_time = options.file_time.map_or(now, |time| time.min(now));
        let tomorrow = now.saturating_add(FUTURE);
        let latest = if options.trust_times { Timestamp::MAX } else { tomorrow };
        // OpenClaw's times have no use for it.
        let (zone, unknown_zone) = match options.zone.map_or_else(TimeZone::local, Ok) {
            Ok(zone) => (zone, None),
            Err(error) => (TimeZone::UTC, Some(error)),
        };
        Self {
            target,
            zone: zone.clone(),
            unknown_zone,
            quarantine: options.quarantine,
            bounds: Bounds { file_time, latest },
            evidence: Evidence::new(now, latest, options.file_time),
            store_zone,
            zone_is_kept: false,
            kept_naive: false,
            note_names: HashSet::new(),
            hasher: RandomState::new(),
            report: ImportReport::new(options.gateway, zone, options.dry_run),
        }
    }

    /// Whether the file is one, and the clock right. Asked when all of it was read, before anything is kept of it.
    pub(super) fn judge(&self) -> Result<()> {
        let ImportReport { read, quarantined, damage, .. } = &self.report;
        if read == quarantined && (*quarantined > 0 || damage.is_some()) {
            return Err(Error::NotASessionFile { reason: self.shape() });
        }
        self.evidence.judge()
    }

    /// What a file looks like that has no good entry.
    fn shape(&self) -> String {
        let members = self.report.read;
        match (&self.report.damage, self.report.problems.first()) {
            (Some(damage), _) if damage.reason == LINES => format!("on line {}, {LINES}", damage.line),
            // The entry that was cut off is the first.
            (Some(Damage { line, column, reason, .. }), _) if members <= 1 => {
                format!("it has no whole entry before line {line}, column {column}: {reason}")
            }
            (_, Some(Problem { line, reason })) => format!(
                "it is a JSON object, but none of its members is a session entry (members: {members}); the first, on \
                 line {line}: {reason}"
            ),
            (_, None) => "it has no entry".into(),
        }
    }

    /// Ends a run whose entries are where they belong.
    pub(super) fn end(mut self, progress: &mut impl FnMut(&ImportProgress)) -> Result<ImportReport> {
        let zone = self.zone.to_string();
        self.report.kept_zone = self.store_zone.take().filter(|kept| self.kept_naive && *kept != zone);
        self.flush_quarantine()?;
        progress(&self.report.progress());
        Ok(self.report)
    }

    /// Writes out what went to the quarantine.
    pub(super) fn flush_quarantine(&mut self) -> Result<()> {
        let Some(sink) = &mut self.quarantine else { return Ok(()) };
        sink.flush().map_err(|e| Error::io("write", "the quarantine", e))
    }

    /// Takes what an input has next.
    pub(super) fn item(&mut self, item: &Item, progress: &mut impl FnMut(&ImportProgress)) -> Result<()> {
        self.take(item)?;
        if self.report.read.is_multiple_of(PROGRESS_EVERY) {
            progress(&self.report.progress());
        }
        Ok(())
    }

    /// Takes note of where the input ceases to make sense, and of the entry that it breaks off in.
    pub(super) fn damage(&mut self, place: Place, reason: &str, partial: Option<Item>) -> Result<()> {
        let Place { byte, line, column } = place;
        self.report.damage = Some(Damage { line, column, byte, reason: reason.into() });
        let Some(item) = partial else { return Ok(()) };
        self.report.read += 1;
        self.set_aside(&item, &Bad::Partial)
    }

    fn take(&mut self, item: &Item) -> Result<()> {
        match self.content(item) {
            Ok(Content::Note { name, text }) => {
                self.report.notes += 1;
                let is_repeated = !self.note_names.insert(self.hasher.hash_one(&name));
                let is_in = self.target.put_note(name, text)?;
                self.report.notes_left_out += u64::from(is_repeated || !is_in);
                Ok(())
            }
            Ok(Content::Entry(gateway, read)) => {
                self.report.read += 1;
                let ReadEntry { repairs, activity, is_naive, .. } = *read;
                if is_naive {
                    self.unknown_zone.take().map_or(Ok(()), Err)?;
                }
                match self.target.put(*read, &mut self.report) {
                    Ok(fate) => {
                        self.report.gateway = Some(gateway);
                        self.evidence.add(activity);
                        repairs.count_in(&mut self.report);
                        self.keep_zone(fate, is_naive)
                    }
                    Err(Error::TooLarge { bytes, limit, .. }) => self.set_aside(item, &Bad::TooLarge { bytes, limit }),
                    // What the store has under this key may be saved by a repair, so it stays.
                    Err(error) => match Unreadable::split::<()>(Err(error))? {
                        Ok(()) => Ok(()),
                        Err(record) => self.set_aside(item, &Bad::Unreadable(record.tree)),
                    },
                }
            }
            Err(bad) => {
                self.report.read += 1;
                self.set_aside(item, &bad)
            }
        }
    }

    fn content(&self, item: &Item) -> Result<Content, Bad> {
        let key = std::str::from_utf8(&item.key).map_err(|_| Bad::KeyUtf8)?;
        if item.key_too_long {
            return Err(Bad::KeyTooLong);
        }
        let key = json::normal(key).map_err(Bad::KeyJson)?;
        let key = json::whole_string(&key).ok_or(Bad::KeyHalf)?;
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
        let fields = Fields::read(text)?;
        let told = self.report.gateway.or_else(|| Gateway::of(|name| fields.has(name)));
        let untold = || if fields.are_entries() { Bad::Entries } else { Bad::NoId("session id") };
        let gateway = told.ok_or_else(untold)?;
        let read = read_entry(key, &fields, Times { gateway, zone: &self.zone }, self.bounds)?;
        Ok(Content::Entry(gateway, Box::new(read)))
    }

    /// Remembers the time zone when the first entry is in whose times depend on it. Where the store remembers none yet,
    /// any entry will do. It is written after the entry: cut short between the two, the next run finds the entry in and
    /// writes it.
    fn keep_zone(&mut self, fate: Fate, is_naive: bool) -> Result<()> {
        if self.report.gateway != Some(Gateway::Hermes) {
            return Ok(());
        }
        self.kept_naive |= is_naive && fate == Fate::Kept;
        let is_first = self.store_zone.is_none();
        if !self.zone_is_kept && self.unknown_zone.is_none() && fate == Fate::In && (is_first || is_naive) {
            self.zone_is_kept = true;
            let zone = self.zone.to_string();
            if self.store_zone.as_ref() != Some(&zone) {
                self.target.put_zone(zone)?;
            }
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
