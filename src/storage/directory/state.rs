//! How things stand with a store: what was last synced, and how the last process that had it left it.
//!
//! A damaged sled database may open without an error and without its last writes. So the newest synced commit number and
//! entry count are kept here, and an open that finds less in the database reports the shortfall. Beside them stand the
//! [`State`] and the position up to which sled's log is on disk, by which the next opening knows what is in doubt.
//!
//! It is all in one file of two slots that are written in turn, in place: so there is no moment at which nothing is known,
//! and a full disk does not stand in the way. It is written after each sync of the database, which a kill cannot undo, but
//! synced itself only about once a second and at close, never on the way of a receipt: after a power cut it may lag behind
//! the database, and never runs ahead of it. The state needs no sync: what it speaks of are pages that are only in the page
//! cache, and they are gone when it is.
//!
//! The file is there, empty, before the database is, so a store without it is not whole. After a crash in between there
//! is no slot, which is not damage.
//!
//! A slot is 56 bytes at offset 0 or 512: `CLOAKRM2`, then sequence, commit and count as `u64`, the position as `i64` (all
//! little endian; a position below zero is none), a byte for the state, a byte that is 1 if commit and count say something,
//! six zero bytes, the CRC-32 of those 48 bytes, and four zero bytes. Sectors are written whole or not at all, so at most
//! one slot is ever torn.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use parking_lot::Mutex;

use super::{Position, access};
use crate::error::{Error, Result};

const MAGIC: &[u8; 8] = b"CLOAKRM2";
const SLOT_BYTES: usize = 56;
const BODY_BYTES: usize = 48;
const SLOT_DISTANCE: u64 = 512;

/// A commit that is known to be on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    /// The commit's number.
    pub(crate) commit: u64,
    /// How many entries there were.
    pub(crate) count: u64,
}

/// How things stand with what was written.
///
/// A write or a sync that fails leaves pages that look written, are not on disk, and that no sync saves unless they are
/// written again. Linux tells such an error once, and to nobody who opens the file later. So a process may die of, or
/// right after, a failure that nobody will ever hear of again, and any state but [`State::Closed`] leaves what was written
/// since the last sync in doubt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::storage) enum State {
    /// All is synced.
    Closed,
    /// sled is opening its files, and writes to any of them.
    Opening,
    /// The store is in use, and only the log is written.
    Open,
    /// A write or a sync failed.
    Failed,
    /// It failed because the disk was full.
    Full,
}

impl State {
    const ALL: [Self; 5] = [Self::Closed, Self::Opening, Self::Open, Self::Failed, Self::Full];
}

/// What the last process that had the store left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::storage) struct Left {
    pub(in crate::storage) state: State,
    /// Up to where sled's log is on disk. Not known before a database was opened.
    pub(in crate::storage) synced: Option<Position>,
    /// What the database holds at least.
    pub(in crate::storage) mark: Option<Mark>,
}

impl Left {
    /// Of a store in the making, or one that was made and not opened yet.
    const NEW: Self = Self { state: State::Closed, synced: None, mark: None };
}

/// The open file.
#[derive(Debug)]
pub(in crate::storage) struct StateFile {
    file: File,
    path: PathBuf,
    found: Left,
    is_damaged: bool,
    written: Mutex<Written>,
}

/// What the file says.
#[derive(Debug)]
struct Written {
    sequence: u64,
    left: Left,
    is_synced: bool,
}

impl StateFile {
    /// Makes the file, or empties the one there is.
    pub(in crate::storage) fn create(path: PathBuf) -> Result<Self> {
        let file = access::private_file(&path)?;
        if file.metadata().map_err(|e| Error::io("look at", &path, e))?.len() > 0 {
            file.set_len(0).map_err(|e| Error::io("empty", &path, e))?;
        }
        Ok(Self::new(file, path, 0, Left::NEW, false))
    }

    /// Opens the file; `None` if there is none.
    pub(in crate::storage) fn open(path: PathBuf) -> Result<Option<Self>> {
        match path.symlink_metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            found => found.map_err(|e| Error::io("look at", &path, e))?,
        };
        let file = access::private_file(&path)?;
        let failed = |error| Error::io("read", &path, error);
        let slots = [read_slot(&file, 0).map_err(failed)?, read_slot(&file, 1).map_err(failed)?];
        let newest = slots.into_iter().flatten().max_by_key(|(sequence, _)| *sequence);
        // A power cut may leave zeros where a first slot was about to be.
        let is_damaged = newest.is_none() && !is_blank(&file).map_err(failed)?;
        let (sequence, left) = newest.unwrap_or((0, Left::NEW));
        Ok(Some(Self::new(file, path, sequence, left, is_damaged)))
    }

    fn new(file: File, path: PathBuf, sequence: u64, left: Left, is_damaged: bool) -> Self {
        let written = Mutex::new(Written { sequence, left, is_synced: false });
        Self { file, path, found: left, is_damaged, written }
    }

    /// Whether it holds something, and no slot.
    pub(in crate::storage) fn is_damaged(&self) -> bool {
        self.is_damaged
    }

    /// Whether there was nothing in it when it was opened.
    pub(in crate::storage) fn is_blank(&self) -> bool {
        !self.is_damaged && self.found == Left::NEW
    }

    /// What it said when it was opened.
    pub(in crate::storage) fn found(&self) -> Left {
        self.found
    }

    /// Tells the next opening how things stand.
    pub(in crate::storage) fn set(&self, state: State) -> Result<()> {
        self.write(|left| Left { state, ..left })
    }

    /// Tells the next opening how things stand, and up to where the log is on disk.
    pub(in crate::storage) fn set_synced(&self, state: State, synced: Position) -> Result<()> {
        self.write(|left| Left { state, synced: Some(synced), ..left })
    }

    /// Tells the next opening all of it.
    pub(in crate::storage) fn note(&self, left: Left) -> Result<()> {
        self.write(|_| left)
    }

    /// Tells the next opening of a failure.
    pub(in crate::storage) fn fail(&self, error: &Error) -> Result<()> {
        self.set(if matches!(error, Error::DiskFull { .. }) { State::Full } else { State::Failed })
    }

    /// Makes what was written survive a power cut.
    pub(in crate::storage) fn sync(&self) -> Result<()> {
        let mut written = self.written.lock();
        if !written.is_synced {
            self.file.sync_data().map_err(|e| Error::io("sync", &self.path, e))?;
            written.is_synced = true;
        }
        Ok(())
    }

    /// Whether what was written would survive a power cut.
    pub(in crate::storage) fn is_synced(&self) -> bool {
        self.written.lock().is_synced
    }

    fn write(&self, change: impl FnOnce(Left) -> Left) -> Result<()> {
        let mut written = self.written.lock();
        let left = change(written.left);
        if written.left == left && written.sequence > 0 {
            return Ok(());
        }
        let sequence = written.sequence.wrapping_add(1);
        written.is_synced = false;
        let slot = encode(sequence, left);
        self.file.write_all_at(&slot, (sequence % 2) * SLOT_DISTANCE).map_err(|e| Error::io("write", &self.path, e))?;
        (written.sequence, written.left) = (sequence, left);
        Ok(())
    }
}

fn encode(sequence: u64, Left { state, synced, mark }: Left) -> Vec<u8> {
    let mut slot = Vec::with_capacity(SLOT_BYTES);
    slot.extend_from_slice(MAGIC);
    let Mark { commit, count } = mark.unwrap_or(Mark { commit: 0, count: 0 });
    for number in [sequence, commit, count] {
        slot.extend_from_slice(&number.to_le_bytes());
    }
    slot.extend_from_slice(&synced.unwrap_or(-1).to_le_bytes());
    let number = State::ALL.iter().position(|one| *one == state).and_then(|at| u8::try_from(at).ok());
    slot.extend_from_slice(&[number.unwrap_or(u8::MAX), u8::from(mark.is_some())]);
    slot.resize(BODY_BYTES, 0);
    slot.extend_from_slice(&crc32fast::hash(&slot).to_le_bytes());
    slot.resize(SLOT_BYTES, 0);
    slot
}

/// Sequence and content of a slot; `None` if it is none.
fn decode(slot: &[u8; SLOT_BYTES]) -> Option<(u64, Left)> {
    let (body, rest) = slot.split_at(BODY_BYTES);
    if !body.starts_with(MAGIC) || !rest.starts_with(&crc32fast::hash(body).to_le_bytes()) {
        return None;
    }
    let bytes = |from: usize| body.get(from..from + 8)?.try_into().ok();
    let mark = Mark { commit: u64::from_le_bytes(bytes(16)?), count: u64::from_le_bytes(bytes(24)?) };
    let synced = Some(Position::from_le_bytes(bytes(32)?)).filter(|at| *at >= 0);
    let &[state, has_mark] = body.get(40..42)? else { return None };
    let state = *State::ALL.get(usize::from(state))?;
    Some((u64::from_le_bytes(bytes(8)?), Left { state, synced, mark: (has_mark == 1).then_some(mark) }))
}

/// Whether there is nothing where the slots are, or only the beginning of the very first: a full disk may leave that. It is
/// the one behind, so the file has ended within it, and nothing is before it.
fn is_blank(file: &File) -> io::Result<bool> {
    let mut slots = [0; SLOT_DISTANCE as usize + SLOT_BYTES];
    let mut read = 0;
    while let Some(rest) = slots.get_mut(read..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, read as u64)? {
            0 => break,
            more => read += more,
        }
    }
    let counts = if read < slots.len() { SLOT_BYTES } else { slots.len() };
    Ok(slots.iter().take(counts).all(|byte| *byte == 0))
}

/// A slot of the file; `None` if it is empty or torn.
fn read_slot(file: &File, index: u64) -> io::Result<Option<(u64, Left)>> {
    let mut slot = [0; SLOT_BYTES];
    match file.read_exact_at(&mut slot, index * SLOT_DISTANCE) {
        Ok(()) => Ok(decode(&slot)),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_what_it_was() {
        let mark = Mark { commit: 3, count: 2 };
        let left = Left { state: State::Open, synced: Some(0x0405), mark: Some(mark) };
        let slot = encode(1, left);
        let hex = slot.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        assert_eq!(
            hex,
            "434c4f414b524d32010000000000000003000000000000000200000000000000050400000000000002010000000000008e20678200000000"
        );
        for state in State::ALL {
            for synced in [None, Some(0), Some(Position::MAX)] {
                for mark in [None, Some(mark), Some(Mark { commit: u64::MAX, count: u64::MAX })] {
                    let left = Left { state, synced, mark };
                    assert_eq!(decode(&encode(7, left).try_into().unwrap()), Some((7, left)));
                }
            }
        }
    }

    #[test]
    fn what_is_no_slot_is_no_state_and_what_cannot_be_read_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        let left = Left { state: State::Full, synced: Some(5), mark: Some(Mark { commit: 3, count: 2 }) };
        StateFile::create(path.clone()).unwrap().note(left).unwrap();
        let written = std::fs::read(&path).unwrap();
        let slot = |bytes: &[u8]| {
            let other = dir.path().join("other");
            std::fs::write(&other, bytes).unwrap();
            read_slot(&File::open(other).unwrap(), 0).unwrap()
        };
        // The first one goes to the second slot.
        let good = &written[SLOT_DISTANCE as usize..];
        assert_eq!(slot(good), Some((1, left)));
        assert_eq!(slot(&good[..SLOT_BYTES - 1]), None);
        let sealed = |body: &[u8]| [body, &crc32fast::hash(body).to_le_bytes(), &[0; 4]].concat();
        assert_eq!(slot(&sealed(&good[..BODY_BYTES])), Some((1, left)));
        assert_eq!(slot(&sealed(&[b"CLOAKRM1", &good[8..BODY_BYTES]].concat())), None, "not ours, though whole");
        let mut odd = good[..BODY_BYTES].to_vec();
        odd[40] = 5;
        assert_eq!(slot(&sealed(&odd)), None, "a state that there is not");
        assert_eq!(slot(&[&good[..BODY_BYTES], &[0; 8]].concat()), None, "ours, but torn");
        let unreadable = File::options().write(true).open(&path).unwrap();
        assert!(read_slot(&unreadable, 0).is_err());

        // A full disk has cut off the very first slot, or a later one.
        for (slots, is_damaged) in [(1, false), (2, true)] {
            let cut = dir.path().join(format!("cut after {slots}"));
            let state = StateFile::create(cut.clone()).unwrap();
            (0..slots).for_each(|_| state.set(State::Open).unwrap());
            File::options().write(true).open(&cut).unwrap().set_len(SLOT_DISTANCE + 20).unwrap();
            if is_damaged {
                File::options().write(true).open(&cut).unwrap().write_all_at(&[1], 20).unwrap();
            }
            let state = StateFile::open(cut).unwrap().unwrap();
            assert_eq!((state.is_damaged(), state.is_blank()), (is_damaged, !is_damaged), "after {slots}");
        }
    }
}
