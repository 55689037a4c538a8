//! What the files of `src/commit` take from their own `sync`, on shuttle.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Instant;

pub(super) use shuttle::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

/// shuttle's, with the signatures of `parking_lot`. No thread panics while it holds one.
#[derive(Debug, Default)]
pub(super) struct Mutex<T>(shuttle::sync::Mutex<T>);

#[derive(Debug)]
pub(super) struct MutexGuard<'a, T>(Option<shuttle::sync::MutexGuard<'a, T>>);

impl<T> Mutex<T> {
    pub(super) fn new(value: T) -> Self {
        Self(shuttle::sync::Mutex::new(value))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, T> {
        MutexGuard(Some(self.0.lock().expect("no panic")))
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0.as_ref().expect("it waits only in `wait`")
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.0.as_mut().expect("it waits only in `wait`")
    }
}

#[derive(Debug, Default)]
pub(super) struct Condvar(shuttle::sync::Condvar);

impl Condvar {
    pub(super) fn new() -> Self {
        Self::default()
    }

    pub(super) fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
        guard.0 = guard.0.take().map(|guard| self.0.wait(guard).expect("no panic"));
    }

    /// Time stands still: nothing times out.
    pub(super) fn wait_until<T>(&self, guard: &mut MutexGuard<'_, T>, _: Instant) -> TimedOut {
        self.wait(guard);
        TimedOut
    }

    pub(super) fn notify_all(&self) {
        self.0.notify_all();
    }
}

pub(super) struct TimedOut;

impl TimedOut {
    pub(super) fn timed_out(&self) -> bool {
        false
    }
}

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
