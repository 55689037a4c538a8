//! The threads that run wakers.
//!
//! A waker is the caller's code: it may be slow, block, panic, use the store, close it, or drop the last clone of it. So
//! it runs on a thread of its own. Neither the committer nor a caller that waits for a commit ever waits for a waker.
//!
//! One thread runs wakers, one after the other. A second one watches it while others wait. A waker that takes longer
//! than [`PATIENCE`] keeps its thread, and the second thread goes on with the others. The threads start with the first
//! waker and end when the committer has ended, or nothing of a store on a cluster is left, and all wakers were called. Nobody
//! joins them.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant};

use crate::sync::{Condvar, Mutex, spawn};

/// How long the others wait for one waker.
const PATIENCE: Duration = if cfg!(test) { Duration::from_millis(1) } else { Duration::from_secs(1) };
/// How many threads are left to wakers that do not return. With more of them the others wait until one returns.
const MAX_STUCK: usize = 16;

#[derive(Debug, Default)]
pub(crate) struct Wakers {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<Waker>,
    /// The number of the waker that the others wait for, and when it was called.
    running: Option<(u64, Instant)>,
    /// How many wakers have been called.
    called: u64,
    /// A thread measures how long `running` takes.
    is_watched: bool,
    /// Threads, without the stuck ones.
    threads: usize,
    stuck: usize,
    is_closed: bool,
}

impl Wakers {
    /// Queues the wakers for a thread to call. Does not wait for them.
    pub(crate) fn call(self: &Arc<Self>, wakers: Vec<Waker>) {
        let mut state = self.state.lock();
        state.queue.extend(wakers);
        // Some may be left from a time at which no thread could be started.
        self.rouse(&mut state);
    }

    /// The threads end when all wakers have been called.
    pub(crate) fn close(self: &Arc<Self>) {
        let mut state = self.state.lock();
        state.is_closed = true;
        self.rouse(&mut state);
        self.changed.notify_all();
    }

    /// Makes sure that a thread calls what waits, and that another watches it.
    fn rouse(self: &Arc<Self>, state: &mut State) {
        let is_running = state.running.is_some();
        if state.queue.is_empty() || (is_running && state.is_watched) {
            return;
        }
        if state.threads > usize::from(is_running) {
            self.changed.notify_one();
            return;
        }
        let this = Arc::clone(self);
        match spawn("cloakroom-waker", move || this.run()) {
            Ok(_) => state.threads += 1,
            // The next commit tries again, and the close.
            Err(error) => tracing::error!(%error, "could not start a thread to call wakers"),
        }
    }

    fn run(self: &Arc<Self>) {
        let mut state = self.state.lock();
        loop {
            if state.queue.is_empty() {
                if state.is_closed {
                    break;
                }
                self.changed.wait(&mut state);
                continue;
            }
            let Some((number, since)) = state.running else {
                let Some(waker) = state.queue.pop_front() else { continue };
                state.called += 1;
                let number = state.called;
                state.running = Some((number, Instant::now()));
                self.rouse(&mut state);
                drop(state);
                if catch_unwind(AssertUnwindSafe(|| waker.wake())).is_err() {
                    tracing::warn!("a waker panicked");
                }
                state = self.state.lock();
                if state.running.is_some_and(|(running, _)| running == number) {
                    state.running = None;
                    continue;
                }
                // Another thread has taken its place.
                state.stuck -= 1;
                self.changed.notify_all();
                return;
            };
            if state.is_watched || state.stuck == MAX_STUCK {
                self.changed.wait(&mut state);
                continue;
            }
            state.is_watched = true;
            let timed_out = self.changed.wait_until(&mut state, since + PATIENCE).timed_out();
            state.is_watched = false;
            if timed_out && state.running.is_some_and(|(running, _)| running == number) {
                state.running = None;
                state.threads -= 1;
                state.stuck += 1;
                let stuck = state.stuck;
                drop(state);
                tracing::warn!(stuck, "a waker has not returned for a second; the others go on without it");
                state = self.state.lock();
            }
        }
        state.threads -= 1;
        // The watching thread, if there is one, ends too.
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::task::Wake;

    use crossbeam_channel::{Receiver, Sender, bounded, unbounded};

    use super::*;

    /// Says its number, and waits until the other end is dropped.
    struct Sticks(usize, Sender<usize>, Receiver<()>);

    impl Wake for Sticks {
        fn wake(self: Arc<Self>) {
            self.1.send(self.0).unwrap();
            let _ = self.2.recv();
        }
    }

    #[test]
    fn each_gets_its_turn_and_threads_are_bounded() {
        let wakers = Arc::new(Wakers::default());
        let (called, calls) = unbounded();
        let (release, released) = bounded(0);
        let waker = |n| Waker::from(Arc::new(Sticks(n, called.clone(), released.clone())));
        wakers.call((0..20).map(waker).collect());
        wakers.call((20..40).map(waker).collect());
        // Each is passed by after its time, but for the last that there is a thread for.
        let mut first: Vec<_> = calls.iter().take(MAX_STUCK + 1).collect();
        // A thread that the system stops before its call is passed by too, and the call comes later.
        first.sort_unstable();
        assert_eq!(first, (0..=MAX_STUCK).collect::<Vec<_>>());
        {
            let state = wakers.state.lock();
            assert_eq!((state.stuck, state.threads, state.queue.len()), (MAX_STUCK, 2, 40 - MAX_STUCK - 1));
        }
        assert!(calls.is_empty());
        wakers.close();
        drop(release);
        assert_eq!(calls.iter().take(40 - MAX_STUCK - 1).count(), 40 - MAX_STUCK - 1);
        // They end, and hold nothing.
        while Arc::strong_count(&wakers) > 1 {
            std::thread::yield_now();
        }
        let state = wakers.state.lock();
        assert_eq!((state.stuck, state.threads, state.queue.len()), (0, 0, 0));
    }
}
