//! [`SessionStore::backup`].

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use super::frame::{FrameWriter, Kind};
use super::{BackupProgress, BackupReport};
use crate::codec::{
    BackupEndV1, BackupEntryV1, BackupNoteV1, BackupPartV1, BackupRecord, BackupStoreV1, CodecError, Turn,
};
use crate::commit::Whole;
use crate::error::Result;
use crate::key::SessionKey;
use crate::outfile::write_whole;
use crate::storage::encode_error;
use crate::store::SessionStore;

/// Entries between two calls of `progress`.
const TELL_EACH: u64 = 256;
/// Bytes of a note in one record.
const NOTE_PART: usize = 64 * 1024;
/// What the names of unfinished backups end with.
const UNFINISHED: &str = ".cloakroom-backup";

/// How to write a backup into a file.
#[derive(Debug, Clone, Copy, Default)]
pub struct BackupOptions {
    force: bool,
}

impl BackupOptions {
    /// A backup that replaces nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets the backup replace a file that is there.
    #[must_use]
    pub fn force(mut self, force: bool) -> Self {
        self.force = force;
        self
    }

    /// Writes a file, whole or not at all.
    pub(crate) fn write_whole<T>(self, path: &Path, write: impl FnOnce(&File) -> Result<T>) -> Result<T> {
        write_whole(path, self.force, UNFINISHED, write)
    }
}

impl SessionStore {
    /// Writes all of the store, as [`restore`](SessionStore::restore) reads it, while others go on using it.
    ///
    /// All entries are of one moment, the one at which the call begins, with their records, extras, open turns and leases with an end:
    /// nothing that is changed later is in it, and everything before is, and on disk when the first entry is written.
    /// Notes of imported files and the time zone are those of a moment soon after.
    ///
    /// Other threads wait until that moment is there, and while an entry is read that they want too. A thread that replaces
    /// or removes an entry before it is written reads it first, and its old content stays in memory until then: of a
    /// touched or new entry about 400 bytes, of a replaced or removed one all of it, extras included. With more than 256 MiB of that the
    /// backup fails. Beside that memory grows with the open turns, and not with the store.
    ///
    /// The format is documented in `src/backup/mod.rs`; it has the names and texts of people in it, and nothing is
    /// encrypted. `progress` is called now and then.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) and its like if `output` fails, [`Error::ReadOnly`](crate::Error::ReadOnly) if a
    /// write or a sync failed earlier (then open the store again),
    /// [`Error::SnapshotTooLarge`](crate::Error::SnapshotTooLarge) if too much was changed meanwhile, and
    /// [`Error::DamagedRecord`](crate::Error::DamagedRecord) if an entry, a turn or a note cannot be decoded: a backup has
    /// all of them, so [`repair`](SessionStore::repair) the store first. What was written by then is no backup, and a
    /// restoration refuses it.
    pub fn backup(&self, output: impl Write, mut progress: impl FnMut(&BackupProgress)) -> Result<BackupReport> {
        let snapshot = self.commits().snapshot()?;
        self.flush()?;
        let mut report = BackupReport::of(0, 0);
        let mut out = FrameWriter::begin(BufWriter::new(output))?;
        let zone = self.commits().engine()?.zone()?;
        self.put_record(&mut out, Kind::Store, &BackupStoreV1 { zone: zone.as_deref() })?;
        self.write_notes(&mut out, &mut report)?;
        // Those that cannot be decoded are not among the turns of the snapshot.
        self.commits().engine()?.turns()?.into_iter().try_for_each(|turn| turn.map(drop))?;
        self.commits().engine()?.leases()?.into_iter().try_for_each(|found| found.lease.map(drop))?;
        for entry in snapshot {
            let (key, whole) = entry?;
            self.write_entry(&mut out, &key, &whole)?;
            report.entries += 1;
            report.turns += u64::from(whole.turn.is_some());
            report.leases += whole.leases.len() as u64;
            if report.entries.is_multiple_of(TELL_EACH) {
                progress(&BackupProgress { entries: report.entries, bytes: out.bytes() });
            }
        }
        progress(&BackupProgress { entries: report.entries, bytes: out.bytes() });
        let BackupReport { entries, notes, .. } = report;
        let end = BackupEndV1 { entries, notes, commit: self.commits().open_commit(), crc: out.crc() };
        self.put_record(&mut out, Kind::End, &end)?;
        out.flush()?;
        report.bytes = out.bytes();
        Ok(report)
    }

    /// Writes a [`backup`](SessionStore::backup) into a file that only its owner may read.
    ///
    /// It is written beside `path` under another name, synced and renamed: at `path` there is a whole backup or what
    /// was there before, even after a power cut. A symlink is followed, and its target replaced. What backups that were
    /// killed left there is removed. A pipe or a character device is written to, whatever [`force`](BackupOptions::force)
    /// says.
    ///
    /// # Errors
    /// [`Error::Exists`](crate::Error::Exists) if there is a file at `path` and `force` is off,
    /// [`Error::Io`](crate::Error::Io) if there is a directory or if the file is a mount of its own, and those of
    /// [`backup`](SessionStore::backup).
    pub fn backup_to_file(
        &self,
        path: impl AsRef<Path>,
        options: BackupOptions,
        progress: impl FnMut(&BackupProgress),
    ) -> Result<BackupReport> {
        options.write_whole(path.as_ref(), |file| self.backup(file, progress))
    }

    fn write_notes<W: Write>(&self, out: &mut FrameWriter<W>, report: &mut BackupReport) -> Result<()> {
        for note in self.commits().engine()?.notes() {
            let (name, text) = note?;
            let mut parts = text.as_bytes().chunks(NOTE_PART).peekable();
            while let Some(part) = parts.next() {
                let is_last = parts.peek().is_none();
                self.put_record(out, Kind::Note, &BackupNoteV1 { name: &name, part, is_last })?;
            }
            report.notes += 1;
        }
        Ok(())
    }

    fn write_entry<W: Write>(&self, out: &mut FrameWriter<W>, key: &SessionKey, whole: &Whole) -> Result<()> {
        let hot = self.encoded(whole.hot.encode())?;
        let cold = self.encoded(whole.cold.to_bytes())?;
        let turn = whole.turn.as_ref().map(|turn| self.encoded(Turn::encode(turn))).transpose()?;
        let parts =
            whole.parts.iter().map(|(generation, bytes)| BackupPartV1 { generation: *generation, bytes }).collect();
        let terms: Vec<_> = whole.leases.values().map(|term| self.encoded(term.encode())).collect::<Result<_>>()?;
        let leases = whole.leases.keys().map(String::as_str).zip(terms.iter().map(Vec::as_slice)).collect();
        let entry = BackupEntryV1 { key: key.as_str(), hot: &hot, cold: &cold, parts, turn: turn.as_deref(), leases };
        self.put_record(out, Kind::Entry, &entry)
    }

    fn put_record<'a, W: Write>(
        &self,
        out: &mut FrameWriter<W>,
        kind: Kind,
        record: &impl BackupRecord<'a>,
    ) -> Result<()> {
        out.frame(kind, &self.encoded(record.to_bytes())?)
    }

    fn encoded(&self, bytes: Result<Vec<u8>, CodecError>) -> Result<Vec<u8>> {
        // In a forked process the error is `Forked`, whatever the record.
        self.commits().engine()?;
        bytes.map_err(encode_error)
    }
}
