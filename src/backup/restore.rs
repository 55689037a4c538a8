//! [`SessionStore::restore`].

use std::io::{BufReader, Read};

use super::frame::{FrameReader, Kind};
use super::{BackupProgress, BackupReport};
use crate::codec::{BackupEndV1, BackupEntryV1, BackupNoteV1, BackupRecord, BackupStoreV1};
use crate::config::Options;
use crate::error::Result;
use crate::key::SessionKey;
use crate::storage::NewStore;
use crate::store::SessionStore;

/// Entries between two calls that tell how far it is.
const BATCH: u64 = 256;

impl SessionStore {
    /// Makes a store at the path of `options` from a backup, and leaves it closed.
    ///
    /// Every entry is as it was: ids, times, flags, counters, extras, open turns, leases with an end; and so are the notes and the time
    /// zone of imported files. Turns that were open count as interrupted at the next opening.
    /// Leases end when they would have ended.
    ///
    /// The store appears under its name when every checksum and the count were right and all of it is on disk. Killed,
    /// or cut off from power, before that, there is none, but for an empty directory and files that the next attempt
    /// removes. After an error nothing is left behind. `progress` is called now and then.
    ///
    /// # Errors
    /// [`Error::StoreExists`](crate::Error::StoreExists), [`Error::NotABackup`](crate::Error::NotABackup),
    /// [`Error::NewerBackup`](crate::Error::NewerBackup), [`Error::OlderBackup`](crate::Error::OlderBackup),
    /// [`Error::DamagedBackup`](crate::Error::DamagedBackup) with the place, [`Error::Io`](crate::Error::Io) and its like if
    /// `input` or the disk fails, [`Error::Exposed`](crate::Error::Exposed), [`Error::Locked`](crate::Error::Locked),
    /// [`Error::Forked`](crate::Error::Forked) and [`Error::Setting`](crate::Error::Setting) as by
    /// [`open`](SessionStore::open),
    /// [`Error::Damaged`](crate::Error::Damaged) if the path holds what is left of a store, and
    /// [`Error::NotAStore`](crate::Error::NotAStore) if something else is there.
    pub fn restore(options: Options, input: impl Read, progress: impl FnMut(&BackupProgress)) -> Result<BackupReport> {
        options.check()?;
        // A file that is no backup is refused before anything is made.
        let frames = FrameReader::begin(BufReader::new(input))?;
        let store = NewStore::create(&options.path, options.cache_bytes, options.trust_group)?;
        let report = BackupReport::of(0, 0);
        Run { frames, store, report, progress, last: None, note: None, commit: 0 }.run()
    }
}

struct Run<R, P> {
    frames: FrameReader<R>,
    store: NewStore,
    report: BackupReport,
    progress: P,
    last: Option<SessionKey>,
    /// Name and text so far of the note that goes on.
    note: Option<(String, Vec<u8>)>,
    /// The newest commit that the entries know of.
    commit: u64,
}

impl<R: Read, P: FnMut(&BackupProgress)> Run<R, P> {
    fn run(mut self) -> Result<BackupReport> {
        let mut before = None;
        loop {
            let (kind, payload) = self.frames.next()?;
            let payload = payload.to_vec();
            let is_in_place = match kind {
                Kind::Store => before.is_none(),
                Kind::Note => matches!(before, Some(Kind::Store | Kind::Note)),
                Kind::Entry | Kind::End => before.is_some() && self.note.is_none(),
            };
            if !is_in_place {
                return Err(self.frames.damaged("a record is out of its place"));
            }
            before = Some(kind);
            match kind {
                Kind::Store => self.begin(&payload)?,
                Kind::Note => self.take_note(&payload)?,
                Kind::Entry => self.take_entry(&payload)?,
                Kind::End => {
                    let commit = self.check_end(&payload)?;
                    self.report.bytes = self.frames.bytes();
                    self.tell();
                    self.store.finish(commit, self.report.entries)?;
                    return Ok(self.report);
                }
            }
        }
    }

    fn begin(&mut self, payload: &[u8]) -> Result<()> {
        let store = BackupStoreV1::from_bytes(payload).map_err(|e| self.frames.damaged(e))?;
        store.zone.map_or(Ok(()), |zone| self.store.put_zone(zone))
    }

    fn take_note(&mut self, payload: &[u8]) -> Result<()> {
        let part = BackupNoteV1::from_bytes(payload).map_err(|e| self.frames.damaged(e))?;
        let (name, mut text) = self.note.take().unwrap_or_else(|| (part.name.to_owned(), Vec::new()));
        if name != part.name {
            return Err(self.frames.damaged("a note is not whole"));
        }
        text.extend_from_slice(part.part);
        if !part.is_last {
            self.note = Some((name, text));
            return Ok(());
        }
        let text = String::from_utf8(text).map_err(|e| self.frames.damaged(e))?;
        self.report.notes += 1;
        self.store.put_note(&name, &text)
    }

    fn take_entry(&mut self, payload: &[u8]) -> Result<()> {
        let entry = BackupEntryV1::from_bytes(payload).and_then(BackupEntryV1::check);
        let entry = entry.map_err(|e| self.frames.damaged(e))?;
        if self.last.as_ref().is_some_and(|last| *last >= entry.key) {
            return Err(self.frames.damaged("an entry is out of its place"));
        }
        self.store.put_entry(&entry)?;
        self.commit = self.commit.max(entry.commit);
        self.report.turns += u64::from(entry.record.turn.is_some());
        self.report.leases += entry.record.leases.len() as u64;
        self.report.entries += 1;
        self.last = Some(entry.key);
        if self.report.entries.is_multiple_of(BATCH) {
            self.tell();
        }
        Ok(())
    }

    /// The commit number that the store goes on from.
    fn check_end(&mut self, payload: &[u8]) -> Result<u64> {
        let end = BackupEndV1::from_bytes(payload).map_err(|e| self.frames.damaged(e))?;
        if (end.entries, end.notes) != (self.report.entries, self.report.notes) {
            let BackupReport { entries, notes, .. } = self.report;
            let (expected, more) = (end.entries, end.notes);
            return Err(self.frames.damaged(format!(
                "{entries} entries and {notes} notes are here, and {expected} and {more} were written"
            )));
        }
        if end.crc != self.frames.crc_before() {
            return Err(self.frames.damaged("the checksum of the whole is wrong"));
        }
        if self.commit > end.commit {
            return Err(self.frames.damaged("an entry has a number that the store had not given yet"));
        }
        self.frames.expect_end()?;
        Ok(end.commit)
    }

    fn tell(&mut self) {
        (self.progress)(&BackupProgress { entries: self.report.entries, bytes: self.frames.bytes() });
    }
}
