//! What the threads of the group commit share and wait for. `tests/shuttle` compiles `src/commit` with another file in
//! the place of this one, whose locks, channels and threads run by a schedule.

use std::io;
use std::time::Instant;

pub(crate) use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
pub(crate) use std::thread::{JoinHandle, ThreadId, current};

pub(crate) use crossbeam_channel::Sender;
use crossbeam_channel::{Receiver, at, bounded, never, select, unbounded};
pub(crate) use parking_lot::{Condvar, Mutex, MutexGuard};

/// What wakes the owner of an [`Inbox`].
pub(crate) enum Wake<T> {
    Order(T),
    Kick,
    /// Nothing came until then.
    Due,
    /// Nobody is left to order anything.
    Gone,
}

/// Where a thread waits for orders, and for kicks, of which many are as good as one.
#[derive(Debug)]
pub(crate) struct Inbox<T> {
    kicks: Receiver<()>,
    orders: Receiver<T>,
}

impl<T> Inbox<T> {
    /// With the senders of kicks and of orders.
    pub(crate) fn new() -> (Sender<()>, Sender<T>, Self) {
        let (kick, kicks) = bounded(1);
        // A bounded channel keeps what was sent when its receiver goes, and whoever ordered it would wait for ever.
        let (order, orders) = unbounded();
        (kick, order, Self { kicks, orders })
    }

    /// What comes next, in no order where there is both. Waits until `due` at most.
    pub(crate) fn next(&self, due: Option<Instant>) -> Wake<T> {
        let due = due.map_or_else(never, at);
        select! {
            recv(self.orders) -> order => order.map_or(Wake::Gone, Wake::Order),
            recv(self.kicks) -> _ => Wake::Kick,
            recv(due) -> _ => Wake::Due,
        }
    }
}

/// A way for one answer.
pub(crate) fn answer<T>() -> (Sender<T>, Receiver<T>) {
    bounded(1)
}

/// Starts a thread of that name.
pub(crate) fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(name.into()).spawn(run)
}
