//! What the files of `src/commit` take from their own `sync`, on shuttle.

use std::sync::Arc;

pub(super) use parking_lot::{Condvar, Mutex, MutexGuard};
pub(super) use shuttle::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

/// A channel with room for one message, as the committer's kicks have.
pub(super) fn channel() -> (Sender<()>, Receiver) {
    let kick = Arc::new(Kick::default());
    (Sender(Arc::clone(&kick), std::marker::PhantomData), Receiver(kick))
}

#[derive(Debug, Default)]
struct Kick {
    waits: Mutex<bool>,
    changed: Condvar,
}

#[derive(Debug, Clone)]
pub(super) struct Sender<T>(Arc<Kick>, std::marker::PhantomData<T>);

impl Sender<()> {
    pub(super) fn try_send(&self, (): ()) -> Result<(), ()> {
        let mut waits = self.0.waits.lock();
        self.0.changed.notify_all();
        if std::mem::replace(&mut *waits, true) { Err(()) } else { Ok(()) }
    }
}

pub(super) struct Receiver(Arc<Kick>);

impl Receiver {
    pub(super) fn recv(&self) {
        let mut waits = self.0.waits.lock();
        while !std::mem::take(&mut *waits) {
            self.0.changed.wait(&mut waits);
        }
    }
}
