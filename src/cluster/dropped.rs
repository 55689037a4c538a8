//! Leases that futures have dropped. A drop must not block, so a thread ends them.

use futures_channel::mpsc::{UnboundedReceiver, UnboundedSender, unbounded};
use parking_lot::Mutex;

use crate::fork;
use crate::key::SessionKey;

/// A lease: its key and its name.
pub(super) type Named = (SessionKey, String);

/// The way to the thread, which begins with the first of them and ends when this is dropped.
#[derive(Debug, Default)]
pub(super) struct Dropped(Mutex<Option<UnboundedSender<Named>>>);

impl Dropped {
    /// Leaves a lease to the thread. Where there is none `start` starts it, or says that it cannot.
    pub(super) fn put(&self, lease: Named, start: impl FnOnce(UnboundedReceiver<Named>) -> bool) {
        let mut thread = self.0.lock();
        if thread.is_none() {
            let (put, dropped) = unbounded();
            if !start(dropped) {
                return;
            }
            *thread = Some(put);
        }
        if let Some(thread) = &*thread {
            let _ = thread.unbounded_send(lease);
        }
    }
}

impl Drop for Dropped {
    fn drop(&mut self) {
        // A forked process has not the thread, which may have the channel's lock.
        fork::keep_in_child(|| self.0.get_mut().take());
    }
}
