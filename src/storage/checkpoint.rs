//! What was last synced, in a file of our own.
//!
//! A damaged sled database may open without an error and without its last writes. So the newest synced commit number
//! and entry count are also kept here, in two slots that are written in turn; an open that finds less in the database
//! than in the newer valid slot reports the shortfall. The file is written after each synced commit, which a kill cannot
//! undo, but synced only about once a second and at close, never on the way of a receipt: after a power cut it may lag
//! behind the database. It never runs ahead of it.
//!
//! The file is there, empty, before the database is, so a store without it is not whole. After a crash in between there
//! is no mark, which is not damage.
//!
//! A slot is 40 bytes at offset 0 or 512: `CLOAKRM1`, then sequence, commit and count as `u64` little endian, the CRC-32
//! of those 32 bytes, and four zero bytes. Sectors are written whole or not at all, so at most one slot is ever torn.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use super::access;
use crate::error::{Error, Result};

const MAGIC: &[u8; 8] = b"CLOAKRM1";
const SLOT_BYTES: usize = 40;
const SLOT_DISTANCE: u64 = 512;

/// A commit that is known to be on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    /// The commit's number.
    pub(crate) commit: u64,
    /// How many entries there were.
    pub(crate) count: u64,
}

/// The open file.
#[derive(Debug)]
pub(crate) struct Checkpoint {
    file: File,
    path: PathBuf,
    sequence: u64,
    last: Option<Mark>,
    is_synced: bool,
    is_damaged: bool,
}

impl Checkpoint {
    /// Makes the file, or empties the one there is.
    pub(super) fn create(path: PathBuf) -> Result<Self> {
        let file = access::private_file(&path)?;
        if file.metadata().map_err(|e| Error::io("look at", &path, e))?.len() > 0 {
            file.set_len(0).map_err(|e| Error::io("empty", &path, e))?;
        }
        Ok(Self { file, path, sequence: 0, last: None, is_synced: false, is_damaged: false })
    }

    /// Opens the file; `None` if there is none.
    pub(super) fn open(path: PathBuf) -> Result<Option<Self>> {
        match path.symlink_metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            found => found.map_err(|e| Error::io("look at", &path, e))?,
        };
        let file = access::private_file(&path)?;
        let failed = |error| Error::io("read", &path, error);
        let mut newest = None;
        for index in 0..2 {
            newest = newest.max(read_slot(&file, index).map_err(failed)?);
        }
        let (sequence, last) = match newest {
            Some((sequence, commit, count)) => (sequence, Some(Mark { commit, count })),
            None => (0, None),
        };
        // A power cut may leave zeros where a first mark was about to be.
        let is_damaged = last.is_none() && !is_blank(&file).map_err(failed)?;
        Ok(Some(Self { file, path, sequence, last, is_synced: false, is_damaged }))
    }

    /// Whether it holds something, and no mark.
    pub(super) fn is_damaged(&self) -> bool {
        self.is_damaged
    }

    /// The newest mark.
    pub(super) fn last(&self) -> Option<Mark> {
        self.last
    }

    /// Writes and syncs `mark`.
    pub(crate) fn record(&mut self, mark: Mark) -> Result<()> {
        self.note(mark)?;
        self.sync()
    }

    /// Syncs what was written.
    pub(super) fn sync(&mut self) -> Result<()> {
        if !self.is_synced {
            self.file.sync_data().map_err(|e| Error::io("sync", &self.path, e))?;
            self.is_synced = true;
        }
        Ok(())
    }

    pub(super) fn is_synced(&self) -> bool {
        self.is_synced
    }

    /// Writes `mark`, unless it is what the file says already.
    pub(super) fn note(&mut self, mark: Mark) -> Result<()> {
        if self.last == Some(mark) {
            return Ok(());
        }
        let sequence = self.sequence.wrapping_add(1);
        let mut slot = Vec::with_capacity(SLOT_BYTES);
        slot.extend_from_slice(MAGIC);
        for number in [sequence, mark.commit, mark.count] {
            slot.extend_from_slice(&number.to_le_bytes());
        }
        slot.extend_from_slice(&crc32fast::hash(&slot).to_le_bytes());
        slot.resize(SLOT_BYTES, 0);
        self.is_synced = false;
        self.file.write_all_at(&slot, (sequence % 2) * SLOT_DISTANCE).map_err(|e| Error::io("write", &self.path, e))?;
        self.sequence = sequence;
        self.last = Some(mark);
        Ok(())
    }
}

/// Whether there is nothing where the slots are.
fn is_blank(file: &File) -> io::Result<bool> {
    let mut slots = [0; SLOT_DISTANCE as usize + SLOT_BYTES];
    let mut read = 0;
    while let Some(rest) = slots.get_mut(read..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, read as u64)? {
            0 => break,
            more => read += more,
        }
    }
    Ok(slots.iter().all(|byte| *byte == 0))
}

/// `(sequence, commit, count)` of a slot, or `None` if it is empty or torn.
fn read_slot(file: &File, index: u64) -> io::Result<Option<(u64, u64, u64)>> {
    let mut slot = [0; SLOT_BYTES];
    match file.read_exact_at(&mut slot, index * SLOT_DISTANCE) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    let (body, rest) = slot.split_at(32);
    let number = |from: usize| -> u64 {
        body.get(from..from + 8).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_le_bytes)
    };
    let valid = body.starts_with(MAGIC) && rest.starts_with(&crc32fast::hash(body).to_le_bytes());
    Ok(valid.then(|| (number(8), number(16), number(24))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_slot_is_no_mark_and_what_cannot_be_read_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("checkpoint");
        Checkpoint::create(path.clone()).unwrap().record(Mark { commit: 3, count: 2 }).unwrap();
        let written = std::fs::read(&path).unwrap();
        let slot = |bytes: &[u8]| {
            let other = dir.path().join("other");
            std::fs::write(&other, bytes).unwrap();
            read_slot(&File::open(other).unwrap(), 0).unwrap()
        };
        // The first one goes to the second slot.
        let good = &written[SLOT_DISTANCE as usize..];
        assert_eq!(slot(good), Some((1, 3, 2)));
        assert_eq!(slot(&good[..SLOT_BYTES - 1]), None);
        let sealed = |body: &[u8]| [body, &crc32fast::hash(body).to_le_bytes(), &[0; 4]].concat();
        assert_eq!(slot(&sealed(&good[..32])), Some((1, 3, 2)));
        assert_eq!(slot(&sealed(&[b"CLOAKRM2", &good[8..32]].concat())), None, "not ours, though whole");
        assert_eq!(slot(&[&good[..32], &[0; 8]].concat()), None, "ours, but torn");
        let unreadable = File::options().write(true).open(&path).unwrap();
        assert!(read_slot(&unreadable, 0).is_err());
    }
}
