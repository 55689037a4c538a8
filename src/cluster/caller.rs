//! Who runs a verb: a thread that may block, or a future that must not.
//!
//! Each verb is one `async fn`. For a caller that blocks it never waits for a waker: what has to be waited for blocks inside of its
//! poll, and so a caller that is alone leads its lane itself, and no other thread stands between it and the node. For one that
//! awaits nothing in a poll blocks: requests go over the lane's own thread, pauses over the [`Timer`]'s, and unknown nodes are
//! asked by the thread that looks at the map.

use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};
use parking_lot::Mutex;

use crate::commit::Wakers;
use crate::fork;

/// Who runs a verb.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Caller {
    /// A thread that waits.
    Blocks,
    /// A future, polled by whatever runtime the caller has.
    Awaits,
}

/// The outcome of a verb, for a thread that waits for it.
pub(super) fn wait<T>(verb: impl Future<Output = T>) -> T {
    pollster::block_on(verb)
}

/// When which waker is to be called.
type Due = (Instant, Waker);

/// Wakes futures that pause. Its thread begins with the first pause, and ends when this is dropped.
#[derive(Debug)]
pub(super) struct Timer {
    thread: Mutex<Option<Sender<Due>>>,
    wakers: Arc<Wakers>,
}

impl Timer {
    pub(super) fn new(wakers: Arc<Wakers>) -> Self {
        Self { thread: Mutex::default(), wakers }
    }

    pub(super) async fn pause(&self, caller: Caller, time: Duration) {
        if caller == Caller::Blocks {
            return thread::sleep(time);
        }
        let (until, mut is_set) = (Instant::now() + time, None::<Waker>);
        poll_fn(|context| {
            if Instant::now() >= until {
                return Poll::Ready(());
            }
            let waker = context.waker();
            if !is_set.as_ref().is_some_and(|set| set.will_wake(waker)) {
                if !self.wake_at(until, waker.clone()) {
                    // There is no thread to be had: to block for a moment is less than to spin.
                    thread::sleep(time);
                    return Poll::Ready(());
                }
                is_set = Some(waker.clone());
            }
            Poll::Pending
        })
        .await;
    }

    /// False if no thread can be started.
    fn wake_at(&self, at: Instant, waker: Waker) -> bool {
        let mut thread = self.thread.lock();
        if thread.is_none() {
            let (set, due) = unbounded();
            let wakers = Arc::clone(&self.wakers);
            let started = thread::Builder::new().name("cloakroom-timer".into()).spawn(move || serve(&due, &wakers));
            if let Err(error) = started {
                tracing::warn!(%error, "no thread can be started that wakes futures: they block for their pauses");
                return false;
            }
            *thread = Some(set);
        }
        thread.as_ref().is_some_and(|thread| thread.send((at, waker)).is_ok())
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        // A forked process has not the thread, which may have the channel's lock.
        fork::keep_in_child(|| self.thread.get_mut().take());
    }
}

fn serve(due: &Receiver<Due>, wakers: &Arc<Wakers>) {
    // Of two with one time the number tells which.
    let (mut all, mut number) = (BTreeMap::<(Instant, u64), Waker>::new(), 0);
    loop {
        let told = match all.first_key_value() {
            None => due.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(((next, _), _)) => due.recv_deadline(*next),
        };
        match told {
            Ok((at, waker)) => {
                number += 1;
                all.insert((at, number), waker);
            }
            Err(RecvTimeoutError::Timeout) => {
                let later = all.split_off(&(Instant::now(), u64::MAX));
                wakers.call(std::mem::replace(&mut all, later).into_values().collect());
            }
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn many_pauses_end_on_one_thread() {
        let timer = Timer::new(Arc::default());
        let ended = AtomicUsize::new(0);
        let pause = |n: u64| {
            let (timer, ended) = (&timer, &ended);
            async move {
                timer.pause(Caller::Awaits, Duration::from_millis(n % 20)).await;
                ended.fetch_add(1, Ordering::Relaxed);
            }
        };
        futures_executor::block_on(async {
            let mut all: Vec<_> = (0..200).map(|n| Box::pin(pause(n))).collect();
            poll_fn(|context| {
                all.retain_mut(|one| one.as_mut().poll(context).is_pending());
                if all.is_empty() { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
        });
        assert_eq!(ended.into_inner(), 200);
        timer.wakers.close();
    }
}
