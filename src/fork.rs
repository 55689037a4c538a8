//! Whether this process is a fork of one that has used stores.
//!
//! Of a fork's threads only the one that forked is in the child: the committer, sled's threads and whoever held a lock
//! are gone, and the file lock belongs to both. So a child leaves everything alone: every call answers
//! [`Error::Forked`](crate::Error::Forked) before a lock is taken, and what it drops is forgotten. It cannot open a store either,
//! for sled's threads are those of the process.
//!
//! A handler of `pthread_atfork` counts: to ask for the process id would cost a system call each time.

use std::io;
use std::sync::OnceLock;

use forkguard::atfork::Guard;

static FIRST_USE: OnceLock<Guard> = OnceLock::new();

/// Notices forks from now on.
pub(crate) fn notice() -> io::Result<()> {
    if FIRST_USE.get().is_none() {
        let guard = Guard::try_new().map_err(|error| io::Error::from_raw_os_error(error.code().get()))?;
        let _ = FIRST_USE.set(guard);
    }
    Ok(())
}

/// Whether the process was forked after it had used a store.
#[inline]
pub(crate) fn is_child() -> bool {
    // The guard forgets a fork that it has reported. Its copy may do so.
    FIRST_USE.get().is_some_and(|guard| guard.clone().detected_fork())
}

/// Keeps something from ever being dropped in a child: `shared` is another handle to it.
pub(crate) fn keep_in_child<T>(shared: impl FnOnce() -> T) {
    if is_child() {
        std::mem::forget(shared());
    }
}
