//! Which waiters are woken, which of them ask for a sync, and what a failure answers, without a committer.

use std::sync::atomic::AtomicUsize;
use std::task::Wake;
use std::time::Duration;

use super::*;
use crate::commit::Receipt;

#[derive(Default)]
struct Counts(AtomicUsize);

impl Wake for Counts {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl Counts {
    fn poll(self: &Arc<Self>, receipt: &mut Receipt) -> Poll<Result<()>> {
        Pin::new(receipt).poll(&mut Context::from_waker(&Waker::from(Arc::clone(self))))
    }

    fn so_far(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }

    /// Waits until it was woken `times` times.
    fn wait(&self, times: usize) {
        while self.so_far() < times {
            std::thread::yield_now();
        }
    }
}

/// Where commit 5 was the last, and receipts of the next two.
fn begun() -> (Arc<Progress>, Receipt, Receipt) {
    let progress = Arc::new(Progress::new("db".into(), 5, crossbeam_channel::bounded(1).0));
    let receipt = |commit| Receipt::of_commit(CommitReceipt::new(commit, Arc::clone(&progress)));
    let (six, seven) = (receipt(6), receipt(7));
    (progress, six, seven)
}

#[test]
fn a_task_is_woken_once_for_each_receipt_that_it_waits_for() {
    let (progress, mut six, mut seven) = begun();
    let (one, two) = (Arc::new(Counts::default()), Arc::new(Counts::default()));
    let mut other = seven.clone();
    for _ in 0..2 {
        assert!(one.poll(&mut six).is_pending());
        assert!(one.poll(&mut seven).is_pending());
    }
    assert!(two.poll(&mut other).is_pending());
    // The task that polled last is the one to be woken.
    let mut moved = seven.clone();
    assert!(two.poll(&mut moved).is_pending());
    assert!(one.poll(&mut moved).is_pending());
    drop(moved);
    progress.set_applied(6);
    assert_eq!((one.so_far(), two.so_far()), (0, 0), "it is not durable yet");
    progress.set_durable(6);
    one.wait(1);
    progress.set_durable(7);
    one.wait(2);
    two.wait(1);
    progress.notify_all();
    assert_eq!((one.so_far(), two.so_far()), (2, 1));
    assert!(matches!(one.poll(&mut seven), Poll::Ready(Ok(()))));
    assert!(progress.waiting.lock().commits.is_empty());
}

#[test]
fn a_failure_is_the_answer_for_all_that_is_not_durable() {
    let (progress, six, mut seven) = begun();
    let task = Arc::new(Counts::default());
    assert!(task.poll(&mut seven).is_pending());
    progress.set_applied(6);
    progress.set_durable(6);
    progress.check_writable().unwrap();
    assert!(!progress.is_failed());
    for message in ["first", "second"] {
        progress.set_failed(Error::Panicked { message: message.into() });
    }
    task.wait(1);
    assert!(progress.is_failed());
    six.wait().unwrap();
    progress.wait_applied(6).unwrap();
    let Poll::Ready(polled) = task.poll(&mut seven) else { panic!("pending for ever") };
    let answers = [
        polled,
        seven.wait(),
        seven.wait_timeout(Duration::ZERO).map(drop),
        seven.is_durable().map(drop),
        progress.wait_applied(7),
        progress.wait_for_room(|| true),
        progress.check_writable(),
    ];
    for answer in answers {
        let error = answer.unwrap_err();
        let Error::ReadOnly { failure, .. } = &error else { panic!("{error:?}") };
        assert!(matches!(&**failure, Error::Panicked { message } if message == "first"), "{error:?}");
    }
}

#[test]
fn only_who_waits_asks_for_a_sync() {
    let (progress, mut six, _) = begun();
    assert!(!six.is_durable().unwrap());
    progress.kick();
    assert!(!progress.take_sync_wanted());
    assert!(!six.wait_timeout(Duration::ZERO).unwrap());
    assert!(progress.take_sync_wanted());
    assert!(!progress.take_sync_wanted(), "asked once");
    assert!(Arc::new(Counts::default()).poll(&mut six).is_pending());
    assert!(progress.take_sync_wanted());
    progress.set_durable(6);
    assert!(six.wait_timeout(Duration::ZERO).unwrap());
    assert!(!progress.take_sync_wanted(), "it is durable already");
}

#[test]
fn a_closed_store_takes_no_changes() {
    let (progress, ..) = begun();
    progress.set_closed();
    assert!(matches!(progress.check_writable(), Err(Error::Closed { .. })));
    assert!(matches!(progress.wait_for_room(|| false), Err(Error::Closed { .. })));
}

/// What polling costs is counted, not timed: the places that were looked at.
#[test]
fn a_poll_looks_at_one_place_however_many_wait() {
    const MANY: usize = 10_000;
    const POLLS: usize = 4;
    let (progress, six, _) = begun();
    let tasks: Vec<_> = (0..MANY).map(|_| Arc::new(Counts::default())).collect();
    let mut receipts: Vec<_> = tasks.iter().map(|_| six.clone()).collect();
    for _ in 0..POLLS {
        for (task, receipt) in tasks.iter().zip(&mut receipts) {
            assert!(task.poll(receipt).is_pending());
        }
    }
    let steps = || progress.waiting.lock().steps;
    assert!(steps() <= MANY * POLLS, "{} places for {} polls", steps(), MANY * POLLS);
    // One that goes to another task, and one that is dropped, cost no more.
    let before = steps();
    for (task, receipt) in tasks.iter().rev().zip(&mut receipts) {
        assert!(task.poll(receipt).is_pending());
    }
    drop(receipts);
    assert!(steps() - before <= 3 * MANY, "{}", steps() - before);
    assert!(progress.waiting.lock().commits.is_empty(), "nothing is left of them");
    assert!(tasks.iter().all(|task| Arc::strong_count(task) == 1), "no waker is left");
}

#[test]
fn what_is_dropped_makes_room_for_the_next() {
    let (progress, six, _) = begun();
    let task = Arc::new(Counts::default());
    let mut first = six.clone();
    assert!(task.poll(&mut first).is_pending());
    for _ in 0..100 {
        let (mut cancelled, mut also) = (six.clone(), six.clone());
        assert!(task.poll(&mut cancelled).is_pending());
        assert!(task.poll(&mut also).is_pending());
    }
    assert_eq!(progress.waiting.lock().commits[&6].wakers.len(), 3);
    progress.set_durable(6);
    task.wait(1);
    assert!(matches!(task.poll(&mut first), Poll::Ready(Ok(()))));
    // Dropped after it was woken: its place is gone.
    drop(first);
    assert_eq!((task.so_far(), progress.waiting.lock().commits.len()), (1, 0));
}
