//! Who is woken, who asks for a sync, and what a failure answers, without a committer.

use std::sync::atomic::AtomicUsize;
use std::task::Wake;

use super::*;

#[derive(Default)]
struct Counts(AtomicUsize);

impl Wake for Counts {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl Counts {
    fn poll(self: &Arc<Self>, receipt: &Receipt) -> Poll<Result<()>> {
        Pin::new(&mut receipt.clone()).poll(&mut Context::from_waker(&Waker::from(Arc::clone(self))))
    }

    fn so_far(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

/// Where commit 5 was the last, and receipts of the next two.
fn begun() -> (Arc<Progress>, Receipt, Receipt) {
    let progress = Arc::new(Progress::new("db".into(), 5, crossbeam_channel::bounded(1).0));
    let receipt = |commit| Receipt::new(commit, Arc::clone(&progress));
    let (six, seven) = (receipt(6), receipt(7));
    (progress, six, seven)
}

#[test]
fn a_task_is_woken_once_for_each_commit_that_it_waits_for() {
    let (progress, six, seven) = begun();
    let (one, two) = (Arc::new(Counts::default()), Arc::new(Counts::default()));
    for receipt in [&six, &seven, &six, &seven] {
        assert!(one.poll(receipt).is_pending());
    }
    assert!(two.poll(&seven).is_pending());
    progress.set_applied(6);
    assert_eq!((one.so_far(), two.so_far()), (0, 0), "it is not durable yet");
    progress.set_durable(6);
    assert_eq!((one.so_far(), two.so_far()), (1, 0));
    progress.set_durable(7);
    assert_eq!((one.so_far(), two.so_far()), (2, 1));
    progress.notify();
    assert_eq!((one.so_far(), two.so_far()), (2, 1));
    assert!(matches!(one.poll(&seven), Poll::Ready(Ok(()))));
}

#[test]
fn a_failure_is_the_answer_for_all_that_is_not_durable() {
    let (progress, six, seven) = begun();
    let task = Arc::new(Counts::default());
    assert!(task.poll(&seven).is_pending());
    progress.set_applied(6);
    progress.set_durable(6);
    progress.check_writable().unwrap();
    assert!(!progress.is_failed());
    for message in ["first", "second"] {
        progress.set_failed(Error::Panicked { message: message.into() });
    }
    assert_eq!(task.so_far(), 1);
    assert!(progress.is_failed());
    six.wait().unwrap();
    progress.wait_applied(6).unwrap();
    let Poll::Ready(polled) = task.poll(&seven) else { panic!("pending for ever") };
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
    let (progress, six, _) = begun();
    assert!(!six.is_durable().unwrap());
    progress.kick();
    assert!(!progress.take_sync_wanted());
    assert!(!six.wait_timeout(Duration::ZERO).unwrap());
    assert!(progress.take_sync_wanted());
    assert!(!progress.take_sync_wanted(), "asked once");
    assert!(Arc::new(Counts::default()).poll(&six).is_pending());
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
