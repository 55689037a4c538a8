//! In the place of `src/sync.rs`: the same on shuttle, which decides who runs next.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Instant;

pub(crate) use shuttle::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
pub(crate) use shuttle::thread::{JoinHandle, ThreadId, current};

/// shuttle's, with the signatures of `parking_lot`. No thread panics while it holds one.
#[derive(Debug, Default)]
pub(crate) struct Mutex<T>(shuttle::sync::Mutex<T>);

#[derive(Debug)]
pub(crate) struct MutexGuard<'a, T>(Option<shuttle::sync::MutexGuard<'a, T>>, &'a shuttle::sync::Mutex<T>);

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(shuttle::sync::Mutex::new(value))
    }

    pub(crate) fn get_mut(&mut self) -> &mut T {
        self.0.get_mut().expect("no panic")
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        MutexGuard(Some(self.0.lock().expect("no panic")), &self.0)
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
pub(crate) struct Condvar(shuttle::sync::Condvar);

impl Condvar {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
        guard.0 = guard.0.take().map(|guard| self.0.wait(guard).expect("no panic"));
    }

    /// Any time may pass until this thread runs again, so it always times out.
    pub(crate) fn wait_until<T>(&self, guard: &mut MutexGuard<'_, T>, _: Instant) -> TimedOut {
        guard.0 = None;
        shuttle::thread::yield_now();
        guard.0 = Some(guard.1.lock().expect("no panic"));
        TimedOut
    }

    pub(crate) fn notify_one(&self) {
        self.0.notify_one();
    }

    pub(crate) fn notify_all(&self) {
        self.0.notify_all();
    }
}

pub(crate) struct TimedOut;

impl TimedOut {
    pub(crate) fn timed_out(&self) -> bool {
        true
    }
}

/// Rung whenever something has changed in a channel.
#[derive(Debug, Default)]
struct Bell {
    rings: Mutex<u64>,
    rung: Condvar,
}

impl Bell {
    fn ring(&self) {
        *self.rings.lock() += 1;
        self.rung.notify_all();
    }

    /// Calls `look` until it finds something, again after each ring.
    fn wait_for<T>(&self, mut look: impl FnMut() -> Option<T>) -> T {
        loop {
            let seen = *self.rings.lock();
            if let Some(found) = look() {
                return found;
            }
            let mut rings = self.rings.lock();
            while *rings == seen {
                self.rung.wait(&mut rings);
            }
        }
    }
}

struct Channel<T> {
    /// `None` once the receiver is gone.
    queue: Mutex<Option<VecDeque<T>>>,
    has_senders: AtomicBool,
    bell: Arc<Bell>,
}

/// The one sender. `send` does not wait: there is room for whatever the scenarios send.
pub(crate) struct Sender<T>(Arc<Channel<T>>);

pub(crate) struct Receiver<T>(Arc<Channel<T>>);

impl<T> fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sender")
    }
}

fn channel<T>(bell: &Arc<Bell>) -> (Sender<T>, Receiver<T>) {
    let (queue, has_senders) = (Mutex::new(Some(VecDeque::new())), AtomicBool::new(true));
    let channel = Arc::new(Channel { queue, has_senders, bell: Arc::clone(bell) });
    (Sender(Arc::clone(&channel)), Receiver(channel))
}

impl<T> Sender<T> {
    pub(crate) fn send(&self, message: T) -> Result<(), T> {
        match &mut *self.0.queue.lock() {
            Some(queue) => queue.push_back(message),
            None => return Err(message),
        }
        self.0.bell.ring();
        Ok(())
    }

    /// As if there were room for one message.
    pub(crate) fn try_send(&self, message: T) -> Result<(), T> {
        if self.0.queue.lock().as_ref().is_none_or(|queue| !queue.is_empty()) {
            return Err(message);
        }
        self.send(message)
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.0.has_senders.store(false, Ordering::SeqCst);
        self.0.bell.ring();
    }
}

impl<T> Receiver<T> {
    /// An error once the sender is gone; `None` if there may be something later.
    fn look(&self) -> Option<Result<T, ()>> {
        let has_senders = self.0.has_senders.load(Ordering::SeqCst);
        let first = self.0.queue.lock().as_mut().and_then(VecDeque::pop_front);
        first.map(Ok).or((!has_senders).then_some(Err(())))
    }

    pub(crate) fn recv(&self) -> Result<T, ()> {
        self.0.bell.wait_for(|| self.look())
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        // What is in them may be the sender of an answer, for which somebody waits.
        let messages = self.0.queue.lock().take();
        drop(messages);
    }
}

pub(crate) enum Wake<T> {
    Order(T),
    Kick,
    Due,
    Gone,
}

pub(crate) struct Inbox<T> {
    kicks: Receiver<()>,
    orders: Receiver<T>,
}

impl<T> Inbox<T> {
    pub(crate) fn new() -> (Sender<()>, Sender<T>, Self) {
        let bell = Arc::default();
        let ((kick, kicks), (order, orders)) = (channel(&bell), channel(&bell));
        (kick, order, Self { kicks, orders })
    }

    /// What is due is due as soon as there is nothing else.
    pub(crate) fn next(&self, due: Option<Instant>) -> Wake<T> {
        self.orders.0.bell.wait_for(|| {
            let order = self.orders.look().map(|order| order.map_or(Wake::Gone, Wake::Order));
            let wake = order.or_else(|| self.kicks.look().map(|_| Wake::Kick));
            wake.or_else(|| due.map(|_| Wake::Due))
        })
    }
}

pub(crate) fn answer<T>() -> (Sender<T>, Receiver<T>) {
    channel(&Arc::default())
}

pub(crate) fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    shuttle::thread::Builder::new().name(name.into()).spawn(run)
}
