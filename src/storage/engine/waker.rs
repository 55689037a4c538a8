//! Wakes a flush that sled forgets.
//!
//! Where the write of a buffer fails in sled's own threads, sled 0.34.7 keeps the error, but does not always wake the
//! thread that waits for that buffer (`exit_reservation`): on a full disk the committer hung for ever in every other run. Any
//! other flush then fails at once, and wakes the one that waits.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, park, park_timeout};
use std::time::Duration;

use crate::fork;

/// How long a forgotten flush may wait.
const TICK: Duration = Duration::from_millis(250);

/// The thread that looks. It ends when this is dropped, and lets go of the database before.
#[derive(Debug)]
pub(in crate::storage) struct FlushWaker {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    is_flushing: AtomicBool,
    /// The thread sleeps until it is needed.
    is_asleep: AtomicBool,
    is_stopped: AtomicBool,
}

impl FlushWaker {
    pub(in crate::storage) fn start(db: sled::Db) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let inside = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("cloakroom-flush".into()).spawn(move || inside.run(&db))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Runs a flush, and looks after it meanwhile.
    pub(in crate::storage) fn watch<T>(&self, flush: impl FnOnce() -> T) -> T {
        let _flushing = Flushing(&self.shared.is_flushing);
        self.shared.is_flushing.store(true, Ordering::SeqCst);
        if self.shared.is_asleep.load(Ordering::SeqCst) {
            self.unpark();
        }
        flush()
    }

    fn unpark(&self) {
        if let Some(thread) = &self.thread {
            thread.thread().unpark();
        }
    }
}

/// Ends the watch, after a panic of sled too.
struct Flushing<'a>(&'a AtomicBool);

impl Drop for Flushing<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::SeqCst);
    }
}

impl Shared {
    fn run(&self, db: &sled::Db) {
        while !self.is_stopped.load(Ordering::SeqCst) {
            if !self.is_flushing.load(Ordering::SeqCst) {
                self.is_asleep.store(true, Ordering::SeqCst);
                // Each looks at the other's flag after it has set its own, so a flush that begins now is not missed.
                if !self.is_flushing.load(Ordering::SeqCst) && !self.is_stopped.load(Ordering::SeqCst) {
                    park();
                }
                self.is_asleep.store(false, Ordering::SeqCst);
            }
            park_timeout(TICK);
            if self.is_flushing.load(Ordering::SeqCst) && db.context.global_error().is_err() {
                // It fails, and the thread that waits looks at the error again.
                let _ = db.flush();
            }
        }
    }
}

impl Drop for FlushWaker {
    fn drop(&mut self) {
        if fork::is_child() {
            // There is no such thread, and its stack may be another's.
            std::mem::forget(self.thread.take());
            return;
        }
        self.shared.is_stopped.store(true, Ordering::SeqCst);
        self.unpark();
        if let Some(thread) = self.thread.take() {
            // A panic of sled in there is of no consequence.
            let _ = thread.join();
        }
    }
}
