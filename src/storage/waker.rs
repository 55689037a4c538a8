//! Wakes a flush that sled forgets.
//!
//! Where the write of a buffer fails in sled's own threads, sled 0.34.7 keeps the error, but does not always wake who
//! waits for that buffer (`exit_reservation`): on a full disk the committer hung for ever in every other run. Any
//! other flush then fails at once, and wakes the one that waits.

use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};

/// How long a forgotten flush may wait.
const TICK: Duration = Duration::from_millis(250);

/// The thread that looks. It ends when this is dropped, and lets go of the database before.
#[derive(Debug)]
pub(super) struct FlushWaker {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl FlushWaker {
    pub(super) fn start(db: sled::Db) -> std::io::Result<Self> {
        let (stop, stopped) = bounded::<()>(0);
        let thread = std::thread::Builder::new().name("cloakroom-waker".into()).spawn(move || {
            while stopped.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
                if db.context.global_error().is_err() {
                    // It fails, and whoever waits looks at the error again.
                    let _ = db.flush();
                }
            }
        })?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for FlushWaker {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // A panic of sled in there is of no consequence.
            let _ = thread.join();
        }
    }
}
