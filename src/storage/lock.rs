//! The lock file: who has the store open, and what the next opening must know of it.
//!
//! It is 64 bytes: a line that says by whom, a line that says how things stand, and spaces. It is only ever written
//! over in place, in one write. So there is no moment at which a mark is gone, and a full disk does not stand in the way.

use std::fs::{File, TryLockError};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::fork;

use super::access;
use super::files::LOCK;

const BYTES: usize = 64;

/// How things stand with what was written.
///
/// A write or a sync that fails leaves pages that look written, are not on disk, and that no sync saves unless they are
/// written again. The mark needs no sync of its own: what it speaks of are pages that are only in the page cache, and
/// they are gone when it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Well,
    /// A sync has begun. Who finds this does not know how it ended.
    Syncing,
    Failed,
    /// It failed because the disk was full.
    Full,
}

impl State {
    const ALL: [Self; 4] = [Self::Well, Self::Syncing, Self::Failed, Self::Full];

    fn text(self) -> &'static str {
        match self {
            Self::Well => "",
            Self::Syncing => "a sync has begun",
            Self::Failed => "a sync failed",
            Self::Full => "the disk is full",
        }
    }

    /// What is to be noted of a failure.
    pub(super) fn after(error: &Error) -> Self {
        if matches!(error, Error::DiskFull { .. }) { Self::Full } else { Self::Failed }
    }
}

/// Our own lock, taken before anything in the directory is read or repaired. Freed when dropped.
#[derive(Debug)]
pub(super) struct Lock {
    file: File,
    path: PathBuf,
    found: State,
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
        if let Err(error) = self.file.unlock() {
            tracing::warn!(%error, "the store could not be unlocked; closing its file does that too");
        }
    }
}

/// Refuses to open a store in a process that was forked after another was opened. Whoever forks later is noticed.
pub(super) fn check_process(store: &Path) -> Result<()> {
    fork::notice().map_err(|error| Error::io("watch for forks of the process that opens", store, error))?;
    if fork::is_child() { Err(Error::Forked { path: store.to_path_buf() }) } else { Ok(()) }
}

impl Lock {
    pub(super) fn take(store: &Path) -> Result<Self> {
        let path = store.join(LOCK);
        let (mut file, denied) = match access::private_file(&path) {
            // One that cannot be written can be locked all the same. Who has it open elsewhere is told first: a copy
            // would not be whole.
            Err(denied @ Error::PermissionDenied { .. }) => match File::open(&path) {
                Ok(file) => (file, Some(denied)),
                Err(_) => return Err(denied),
            },
            file => (file?, None),
        };
        let locked = file.try_lock();
        let mut text = String::new();
        let read = Read::by_ref(&mut file).take(BYTES as u64).read_to_string(&mut text);
        let mut lines = text.lines().map(str::trim);
        let holder = lines.next().filter(|holder| !holder.is_empty());
        match locked {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Error::Locked { path: store.to_path_buf(), holder: holder.map(str::to_owned) });
            }
            Err(TryLockError::Error(error)) => return Err(Error::io("lock", &path, error)),
        }
        if let Some(denied) = denied {
            return Err(denied);
        }
        let mark = lines.next().unwrap_or_default();
        let known = State::ALL.into_iter().find(|state| state.text() == mark).filter(|_| read.is_ok());
        let found = known.unwrap_or(State::Failed);
        let lock = Self { file, path, found };
        lock.write(found)?;
        Ok(lock)
    }

    /// How things stood when it was taken.
    pub(super) fn found(&self) -> State {
        self.found
    }

    /// Tells the next opening.
    pub(super) fn write(&self, state: State) -> Result<()> {
        let text = format!("process {}\n{}\n", std::process::id(), state.text());
        let text = format!("{text:<width$}\n", width = BYTES - 1);
        self.file.write_all_at(text.as_bytes(), 0).map_err(|e| Error::io("write", &self.path, e))
    }
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
            Err(Error::Locked { path, holder }) if path == dir.path() => holder,
            other => panic!("{other:?}"),
        };
        let lock = Lock::take(dir.path()).unwrap();
        assert_eq!(holder(), Some(format!("process {}", std::process::id())));
        // As it is between the making of the file and the first line.
        lock.file.set_len(0).unwrap();
        assert_eq!(holder(), None);
    }

    #[test]
    fn a_mark_stays_until_it_is_written_over() {
        let dir = tempfile::tempdir().unwrap();
        for state in State::ALL {
            Lock::take(dir.path()).unwrap().write(state).unwrap();
            for _ in 0..2 {
                assert_eq!(Lock::take(dir.path()).unwrap().found(), state);
            }
            let text = std::fs::read_to_string(dir.path().join(LOCK)).unwrap();
            assert_eq!(text.len(), BYTES);
            assert_eq!(text.lines().next().unwrap(), format!("process {}", std::process::id()));
        }
        // As earlier versions wrote it.
        std::fs::write(dir.path().join(LOCK), "process 4194304\na sync failed").unwrap();
        assert_eq!(Lock::take(dir.path()).unwrap().found(), State::Failed);
    }
}
