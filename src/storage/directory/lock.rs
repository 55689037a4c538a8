//! The lock file. It names the process that has the store open.
//!
//! It is 256 bytes: a line that says by whom, a line that says whether a store was ever open here, and spaces. So where all
//! else is lost, an empty directory is not taken for one that never held a store. It is only ever written over in place, in
//! one write, and a full disk does not stand in the way.
//!
//! Which locks this process holds is kept in memory too: what the file says of the holder may be a namesake's, in another
//! container.

use std::collections::BTreeMap;
use std::fs::{File, Metadata, TryLockError};
use std::io::Read;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::error::{Error, Result};
use crate::fork;

use super::access;
use super::files::LOCK;

const BYTES: usize = 256;
const HAD_STORE: &str = "a store is or was here";
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

pub(in crate::storage) fn place_of(meta: &Metadata) -> Place {
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

/// Our own lock, taken before anything in the directory is read or repaired. Freed when dropped.
#[derive(Debug)]
pub(in crate::storage) struct Lock {
    file: File,
    path: PathBuf,
    /// A store was open here before.
    had_store: bool,
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
    pub(in crate::storage) fn take(store: &Path) -> Result<Self> {
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
        let had_store = read.is_ok() && lines.next() == Some(HAD_STORE);
        let lock = Self { file, path, had_store, place, hold };
        if let Some(denied) = denied {
            return Err(denied);
        }
        lock.write(had_store)?;
        Ok(lock)
    }

    /// Which taking of the lock this is.
    pub(in crate::storage) fn hold(&self) -> Hold {
        self.hold
    }

    /// Whether a store was open here before.
    pub(in crate::storage) fn had_store(&self) -> bool {
        self.had_store
    }

    /// Notes that a store is open here.
    pub(in crate::storage) fn note_store(&self) -> Result<()> {
        if self.had_store { Ok(()) } else { self.write(true) }
    }

    fn write(&self, had_store: bool) -> Result<()> {
        let second = if had_store { HAD_STORE } else { "" };
        let text = format!("process {} on {}\n{second}\n", std::process::id(), host());
        let text = format!("{text:<width$}\n", width = BYTES - 1);
        self.file.write_all_at(text.as_bytes(), 0).map_err(|e| Error::io("write", &self.path, e))
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
        lock.note_store().unwrap();
        assert_eq!(holder(), Some(me));
        // As it is between the making of the file and the first line.
        lock.file.set_len(0).unwrap();
        assert_eq!(holder(), None);
    }

    #[test]
    fn that_a_store_was_here_is_known_from_then_on() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(LOCK);
        let had_store = || Lock::take(dir.path()).unwrap().had_store();
        assert!(!had_store() && !had_store());
        Lock::take(dir.path()).unwrap().note_store().unwrap();
        assert!(had_store() && had_store());
        assert_eq!(std::fs::metadata(&path).unwrap().len(), BYTES as u64);
        for text in ["", "process 4194304\nwhatever"] {
            std::fs::write(&path, text).unwrap();
            assert!(!had_store());
        }
    }
}
