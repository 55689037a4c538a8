//! The lock file: who has the store open, and what the next opening must know of it.
//!
//! It is 256 bytes: a line that says by whom, a line that says how things stand, a line that says how far the log was
//! synced, and spaces. It is only ever written over in place, in one write. So there is no moment at which a mark is
//! gone, and a full disk does not stand in the way.
//!
//! Which locks this process holds is kept in memory too: what the file says of the holder may be a namesake's, in another
//! container.

use std::collections::BTreeMap;
use std::fs::{File, Metadata, TryLockError};
use std::io::Read;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::error::{Error, Result};
use crate::fork;

use super::access;
use super::files::LOCK;
use super::log::Position;

const BYTES: usize = 256;
/// The most of a host's name that is written down. Linux allows 64 bytes.
const MAX_HOST_CHARS: usize = 64;

/// The locks that this process holds, and which one each is.
static HELD: Mutex<BTreeMap<Place, Hold>> = Mutex::new(BTreeMap::new());
static RELEASED: Condvar = Condvar::new();
static NEXT: AtomicU64 = AtomicU64::new(0);

/// Which file or directory, whatever its path: device and inode. No other has the same while it is open.
pub(crate) type Place = (u64, u64);

/// Names one taking of a lock. No two of a process are the same.
pub(crate) type Hold = u64;

pub(super) fn place_of(meta: &Metadata) -> Place {
    (meta.dev(), meta.ino())
}

/// Waits until a lock is free, at most for `patience`. Answers whether it is.
pub(crate) fn wait_released(hold: Hold, patience: Duration) -> bool {
    let deadline = Instant::now() + patience;
    let mut held = HELD.lock();
    while held.values().any(|one| *one == hold) {
        if RELEASED.wait_until(&mut held, deadline).timed_out() {
            return false;
        }
    }
    true
}

/// How things stand with what was written.
///
/// A write or a sync that fails leaves pages that look written, are not on disk, and that no sync saves unless they are
/// written again. Linux reports such an error once, and never to a process that opens the file later. So a process may die of, or
/// right after, a failure that nobody will ever hear of again, and any state but [`State::Closed`] leaves what was written
/// since the last sync in doubt.
///
/// The mark needs no sync of its own: what it speaks of are pages that are only in the page cache, and they are gone when
/// it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
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

    fn text(self) -> &'static str {
        match self {
            Self::Closed => "",
            Self::Opening => "opening",
            Self::Open => "open",
            Self::Failed => "a write or a sync failed",
            Self::Full => "the disk is full",
        }
    }

    /// What is to be noted of a failure.
    fn after(error: &Error) -> Self {
        if matches!(error, Error::DiskFull { .. }) { Self::Full } else { Self::Failed }
    }
}

/// What the last one who had the store left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Left {
    pub(super) state: State,
    /// Up to where sled's log is on disk. Not known before a database was opened.
    pub(super) synced: Option<Position>,
}

/// Our own lock, taken before anything in the directory is read or repaired. Freed when dropped.
#[derive(Debug)]
pub(super) struct Lock {
    file: File,
    path: PathBuf,
    left: Left,
    /// The position that is written down with each state; negative if there is none.
    synced: AtomicI64,
    place: Place,
    hold: Hold,
}

impl Drop for Lock {
    /// A process that is being forked off at this moment holds a copy of the descriptor until it executes its
    /// program. Closing ours would leave the lock to that copy; unlocking frees it.
    ///
    /// A forked child shares the lock with its parent, whose it is.
    fn drop(&mut self) {
        if fork::is_child() {
            return;
        }
        // Held meanwhile, so that the next thread that takes the lock comes in after this.
        let mut held = HELD.lock();
        if let Err(error) = self.file.unlock() {
            tracing::warn!(%error, "the store could not be unlocked; closing its file does that too");
        }
        held.remove(&self.place);
        RELEASED.notify_all();
    }
}

/// Refuses to open a store in a process that was forked after another was opened. Later forks are noticed.
pub(crate) fn check_process(store: &Path) -> Result<()> {
    fork::notice().map_err(|error| Error::io("watch for forks of the process that opens", store, error))?;
    if fork::is_child() { Err(Error::Forked { path: store.to_path_buf() }) } else { Ok(()) }
}

impl Lock {
    pub(super) fn take(store: &Path) -> Result<Self> {
        let path = store.join(LOCK);
        let (mut file, denied) = match access::private_file(&path) {
            // One that cannot be written can be locked all the same. That the store is in use is reported first: a copy
            // would not be whole.
            Err(denied @ Error::PermissionDenied { .. }) => match File::open(&path) {
                Ok(file) => (file, Some(denied)),
                Err(_) => return Err(denied),
            },
            file => (file?, None),
        };
        let place = place_of(&file.metadata().map_err(|e| Error::io("look at", &path, e))?);
        let hold = NEXT.fetch_add(1, Ordering::Relaxed);
        let (locked, this_process) = {
            let mut held = HELD.lock();
            let locked = file.try_lock();
            let this_process = locked.is_err() && held.contains_key(&place);
            if locked.is_ok() {
                held.insert(place, hold);
            }
            (locked, this_process)
        };
        let mut text = String::new();
        let read = Read::by_ref(&mut file).take(BYTES as u64).read_to_string(&mut text);
        let mut lines = text.lines().map(str::trim);
        let holder = lines.next().filter(|holder| !holder.is_empty());
        match locked {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let holder = holder.map(str::to_owned);
                return Err(Error::Locked { path: store.to_path_buf(), holder, this_process });
            }
            Err(TryLockError::Error(error)) => return Err(Error::io("lock", &path, error)),
        }
        let mark = lines.next().unwrap_or_default();
        let known = State::ALL.into_iter().find(|state| state.text() == mark).filter(|_| read.is_ok());
        let synced = lines.next().and_then(|line| line.strip_prefix("synced ")?.parse().ok());
        let left = Left { state: known.unwrap_or(State::Failed), synced: synced.filter(|at| *at >= 0) };
        let lock = Self { file, path, left, synced: AtomicI64::new(left.synced.unwrap_or(-1)), place, hold };
        if let Some(denied) = denied {
            return Err(denied);
        }
        lock.write(left.state)?;
        Ok(lock)
    }

    /// Which taking of the lock this is.
    pub(super) fn hold(&self) -> Hold {
        self.hold
    }

    /// How things stood when it was taken.
    pub(super) fn left(&self) -> Left {
        self.left
    }

    /// Tells the next opening how things stand.
    pub(super) fn write(&self, state: State) -> Result<()> {
        let synced = match self.synced.load(Ordering::Relaxed) {
            synced @ 0.. => format!("synced {synced}"),
            _ => String::new(),
        };
        let text = format!("process {} on {}\n{}\n{synced}\n", std::process::id(), host(), state.text());
        let text = format!("{text:<width$}\n", width = BYTES - 1);
        self.file.write_all_at(text.as_bytes(), 0).map_err(|e| Error::io("write", &self.path, e))
    }

    /// Tells the next opening how things stand, and up to where the log is on disk.
    pub(super) fn write_synced(&self, state: State, synced: Position) -> Result<()> {
        self.synced.store(synced, Ordering::Relaxed);
        self.write(state)
    }

    /// Tells the next opening of a failure.
    pub(super) fn fail(&self, error: &Error) -> Result<()> {
        self.write(State::after(error))
    }
}

/// The name of this machine, or of the container: a process id alone means nothing outside of it.
fn host() -> String {
    let name = rustix::system::uname();
    let name = name.nodename().to_string_lossy();
    name.chars().map(|char| if char.is_ascii_graphic() { char } else { '?' }).take(MAX_HOST_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_free_though_a_forked_process_holds_a_copy_of_its_descriptor() {
        let dir = tempfile::tempdir().unwrap();
        let lock = Lock::take(dir.path()).unwrap();
        let copy = lock.file.try_clone().unwrap();
        assert!(matches!(Lock::take(dir.path()), Err(Error::Locked { .. })));
        drop(lock);
        Lock::take(dir.path()).unwrap();
        drop(copy);
    }

    #[test]
    fn who_comes_too_late_is_told_the_holder() {
        let dir = tempfile::tempdir().unwrap();
        let holder = || match Lock::take(dir.path()) {
            Err(Error::Locked { path, holder, this_process: true }) if path == dir.path() => holder,
            other => panic!("{other:?}"),
        };
        let lock = Lock::take(dir.path()).unwrap();
        let me = format!("process {} on {}", std::process::id(), host());
        assert!(!host().is_empty() && host().len() <= MAX_HOST_CHARS);
        assert_eq!(holder(), Some(me.clone()));
        lock.write_synced(State::Full, Position::MAX).unwrap();
        assert_eq!(holder(), Some(me));
        // As it is between the making of the file and the first line.
        lock.file.set_len(0).unwrap();
        assert_eq!(holder(), None);
    }

    #[test]
    fn a_mark_stays_until_it_is_written_over() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(LOCK);
        let left = || Lock::take(dir.path()).unwrap().left();
        for state in State::ALL {
            Lock::take(dir.path()).unwrap().write(state).unwrap();
            for _ in 0..2 {
                assert_eq!(left(), Left { state, synced: None });
            }
            assert_eq!(std::fs::metadata(&path).unwrap().len(), BYTES as u64);
        }
        for (state, synced) in State::ALL.into_iter().zip([0, 7, 12_345_678_901, Position::MAX, 0]) {
            Lock::take(dir.path()).unwrap().write_synced(state, synced).unwrap();
            for _ in 0..2 {
                assert_eq!(left(), Left { state, synced: Some(synced) });
            }
            assert_eq!(std::fs::metadata(&path).unwrap().len(), BYTES as u64);
        }
        // A line that cannot be read counts as the worst state.
        for (text, state) in [("", State::Closed), ("process 4194304\nwhatever", State::Failed)] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(left(), Left { state, synced: None });
        }
    }
}
