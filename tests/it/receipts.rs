//! Receipts: what was awaited is durable, by threads and by tasks.

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, OnceLock};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::ScopedJoinHandle;
use std::time::Duration;

use cloakroom::change::{Repoint, Resolution};
use cloakroom::time::{Clock, ManualClock, Timer};
use cloakroom::{Error, Receipt, SessionStore, Timestamp, Usage};
use crossbeam_channel::{Receiver, Sender, unbounded};

use crate::common::{Home, assert_sound, key, source};

/// A change that no commit has taken.
fn pending(store: &SessionStore, n: usize) -> Receipt {
    let receipt = store.resolve(&source(n)).unwrap().receipt;
    assert!(!receipt.is_durable().unwrap());
    receipt
}

#[test]
fn a_receipt_waits_for_its_commit() {
    let home = Home::new();
    let store = home.open();
    let (one, two) = (pending(&store, 1), pending(&store, 2));
    assert_eq!(one.commit(), two.commit());
    one.wait().unwrap();
    // One sync for all changes of the commit.
    assert!(one.is_durable().unwrap() && two.is_durable().unwrap());
    one.wait().unwrap();
    let three = pending(&store, 3);
    assert!(three.commit() > one.commit());
    assert!(three.wait_timeout(Duration::from_secs(600)).unwrap());
    // Time may be over at once. The commit goes on.
    let four = pending(&store, 4);
    let in_time = four.wait_timeout(Duration::ZERO).unwrap();
    assert!(!in_time || four.is_durable().unwrap());
    four.wait().unwrap();
}

#[test]
fn a_receipt_is_a_future_on_any_executor() {
    let home = Home::new();
    let store = home.open();
    pollster::block_on(pending(&store, 1)).unwrap();
    futures_executor::block_on(pending(&store, 2)).unwrap();
    // In a task that may move between threads.
    let receipt = pending(&store, 3);
    std::thread::spawn(move || futures_executor::block_on(receipt)).join().unwrap().unwrap();
    // Many tasks on one thread.
    let mut pool = futures_executor::LocalPool::new();
    let receipts: Vec<_> = (10..60).map(|n| pending(&store, n)).collect();
    for receipt in &receipts {
        pool.run_until(receipt.clone()).unwrap();
    }
    assert!(receipts.iter().all(|receipt| receipt.is_durable().unwrap()));
}

#[test]
fn many_may_wait_for_one_commit() {
    let home = Home::new();
    let store = home.open();
    store.resolve(&source(0)).unwrap().receipt.wait().unwrap();
    let start = Barrier::new(32);
    std::thread::scope(|scope| {
        for thread in 0..32 {
            let (store, start) = (&store, &start);
            scope.spawn(move || {
                start.wait();
                for _ in 0..20 {
                    let receipt = store.touch(&key(0)).unwrap().unwrap();
                    if thread % 2 == 0 {
                        receipt.wait().unwrap()
                    } else {
                        pollster::block_on(receipt.clone()).unwrap()
                    }
                    assert!(receipt.is_durable().unwrap());
                }
            });
        }
    });
}

struct Counts(AtomicUsize);

impl Wake for Counts {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

struct Panics;

impl Wake for Panics {
    fn wake(self: Arc<Self>) {
        panic!("the waker of a test panics");
    }
}

fn poll(receipt: &mut Receipt, waker: &Waker) -> Poll<cloakroom::Result<()>> {
    Pin::new(receipt).poll(&mut Context::from_waker(waker))
}

/// A receipt, and a task that has polled it before its commit.
fn polled(store: &SessionStore, waker: &Waker) -> Receipt {
    loop {
        let mut receipt = store.touch(&key(1)).unwrap().unwrap();
        if poll(&mut receipt, waker).is_pending() {
            return receipt;
        }
    }
}

#[test]
fn a_waker_that_panics_hurts_nobody_else() {
    let home = Home::new();
    let store = home.open();
    store.resolve(&source(1)).unwrap();
    let counts = Arc::new(Counts(AtomicUsize::new(0)));
    let (good, bad) = (Waker::from(Arc::clone(&counts)), Waker::from(Arc::new(Panics)));
    for _ in 0..5 {
        let before = counts.0.load(Ordering::SeqCst);
        let receipts = [polled(&store, &bad), polled(&store, &good), polled(&store, &bad)];
        store.flush().unwrap();
        while counts.0.load(Ordering::SeqCst) == before {
            std::thread::yield_now();
        }
        for mut receipt in receipts {
            assert!(matches!(poll(&mut receipt, &good), Poll::Ready(Ok(()))));
        }
    }
    store.close().unwrap();
}

/// A task that polls again and again is woken once, and a task that is gone is no harm.
#[test]
fn polling_again_adds_no_waker() {
    let home = Home::new();
    let store = home.open();
    store.resolve(&source(1)).unwrap();
    let counts = Arc::new(Counts(AtomicUsize::new(0)));
    let waker = Waker::from(Arc::clone(&counts));
    let mut receipt = polled(&store, &waker);
    for _ in 0..100 {
        let _ = poll(&mut receipt, &waker);
    }
    drop(polled(&store, &Waker::from(Arc::new(Counts(AtomicUsize::new(0))))));
    store.close().unwrap();
    assert!(counts.0.load(Ordering::SeqCst) <= 1, "woken {counts} times", counts = counts.0.load(Ordering::SeqCst));
    assert!(matches!(poll(&mut receipt, &waker), Poll::Ready(Ok(()))));
}

#[test]
fn a_dropped_receipt_still_commits() {
    let home = Home::new();
    let store = home.open();
    drop(pending(&store, 1));
    pending(&store, 2).wait().unwrap();
    drop(pending(&store, 3));
    drop(store);
    let store = home.open();
    assert!(store.open_report().clean);
    assert_eq!(store.len(), 3);
}

#[test]
fn receipts_outlive_the_store() {
    let home = Home::new();
    let store = home.open();
    let closed = pending(&store, 1);
    store.close().unwrap();
    closed.wait().unwrap();
    assert!(closed.is_durable().unwrap());
    pollster::block_on(closed).unwrap();
    drop(store);

    let store = home.open();
    let dropped = pending(&store, 2);
    drop(store);
    dropped.wait().unwrap();
    assert!(dropped.wait_timeout(Duration::ZERO).unwrap());
    assert_eq!(home.open().len(), 2);
}

#[test]
fn a_closed_store_reads_and_refuses_changes() {
    let home = Home::new();
    let store = home.open();
    let clone = store.clone();
    store.resolve(&source(1)).unwrap();
    let seen = store.get(&key(1)).unwrap().unwrap();
    store.close().unwrap();
    store.close().unwrap();
    store.flush().unwrap();
    let refused = [
        clone.resolve(&source(2)).map(drop),
        clone.touch(&key(1)).map(drop),
        clone.record_usage(&key(1), &Usage::ZERO).map(drop),
        clone.suspend(&key(1)).map(drop),
        clone.unsuspend(&key(1)).map(drop),
        clone.update(&key(1), |_| {}).map(drop),
        clone.set_metadata(&key(1), &serde_json::Map::new()).map(drop),
        clone.reset(&key(1)).map(drop),
        clone.repoint(&key(1), "b".parse().unwrap(), &Repoint::new()).map(drop),
        clone.remove(&key(1)).map(drop),
        clone.remove_if(&key(1), &seen).map(drop),
    ];
    for (n, result) in refused.into_iter().enumerate() {
        let error = result.expect_err("a change");
        assert!(matches!(&error, Error::Closed { path } if *path == home.path()), "{n}: {error:?}");
        assert!(error.to_string().contains("sessions.db"));
    }
    assert_eq!(clone.get(&key(1)).unwrap(), Some(seen));
    assert_eq!(clone.recent(9, None).unwrap().entries.len(), 1);
    assert_sound(&clone);
}

#[test]
fn closing_while_others_write_loses_nothing_that_was_taken() {
    let home = Home::new();
    let store = home.open();
    let taken = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (store, taken) = (store.clone(), &taken);
            scope.spawn(move || {
                for n in 0.. {
                    match store.resolve(&source(thread * 100_000 + n)) {
                        Ok(_) => taken.fetch_add(1, Ordering::SeqCst),
                        Err(Error::Closed { .. }) => break,
                        Err(error) => panic!("{error}"),
                    };
                }
            });
        }
        while taken.load(Ordering::SeqCst) < 200 {
            std::thread::yield_now();
        }
        store.close().unwrap();
    });
    drop(store);
    let store = home.open();
    assert_eq!(store.len(), taken.load(Ordering::SeqCst));
    assert_sound(&store);
}

/// All of them wait for it, and what was pending is durable for each.
#[test]
fn every_close_answers_when_the_store_is_closed() {
    let home = Home::new();
    let store = home.open();
    for _ in 0..30 {
        let receipts: Vec<_> = (0..50).map(|n| store.resolve(&source(n)).unwrap().receipt).collect();
        drop(receipts);
    }
    let last = store.touch(&key(1)).unwrap().unwrap();
    let start = Barrier::new(4);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                start.wait();
                store.close().unwrap();
                assert!(last.is_durable().unwrap(), "it answered while the first was at work");
            });
        }
    });
    drop(store);
    assert!(home.open().open_report().clean);
}

/// The commit that a close makes waits for the clock here. Another close must not answer meanwhile, the clock's own
/// must not wait for itself.
#[test]
fn a_close_waits_for_the_one_before_it_and_never_for_itself() {
    #[derive(Debug, Clone)]
    struct Closes {
        inner: ManualClock,
        store: Arc<OnceLock<SessionStore>>,
        asked: Sender<cloakroom::Result<()>>,
        go_on: Receiver<()>,
    }
    impl Clock for Closes {
        fn now(&self) -> Timestamp {
            self.inner.now()
        }
        fn monotonic(&self) -> Duration {
            // On the committer's thread, after a commit.
            if let Some(store) = self.store.get() {
                let _ = self.asked.send(store.close());
                let _ = self.go_on.recv();
            }
            self.inner.monotonic()
        }
        fn after(&self, delay: Duration) -> Timer {
            self.inner.after(delay)
        }
    }
    let home = Home::new();
    let ((asked, is_asked), (go, go_on)) = (unbounded(), unbounded());
    let clock = Closes { inner: home.clock.clone(), store: Arc::default(), asked, go_on };
    let store = SessionStore::open(home.options().clock(clock.clone())).unwrap();
    store.resolve(&source(1)).unwrap();
    clock.store.set(store.clone()).unwrap();
    std::thread::scope(|scope| {
        let own = is_asked.recv().unwrap();
        let closing = [0, 1].map(|_| scope.spawn(|| store.close()));
        assert!(matches!(own, Err(Error::Closed { .. })), "{own:?}");
        for _ in 0..1000 {
            assert!(!closing.iter().any(ScopedJoinHandle::is_finished), "it answered while the first was at work");
            std::thread::yield_now();
        }
        drop(go);
        closing.into_iter().for_each(|closing| closing.join().unwrap().unwrap());
    });
}

/// Many tasks await one commit, and some give up: each of the others is woken once, and nothing is left of those.
#[test]
fn of_many_that_await_one_commit_each_is_woken_once() {
    #[derive(Default)]
    struct Counts(AtomicUsize);
    impl Wake for Counts {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    let home = Home::new();
    let store = home.open();
    store.resolve(&source(1)).unwrap().receipt.wait().unwrap();
    let tasks: Vec<_> = (0..10_000).map(|_| Arc::new(Counts::default())).collect();
    let receipts: Vec<_> = tasks
        .iter()
        .enumerate()
        .map(|(n, task)| {
            let mut receipt = store.touch(&key(1)).unwrap().unwrap();
            let waker = Waker::from(Arc::clone(task));
            let polls = [(); 3].map(|()| Pin::new(&mut receipt).poll(&mut Context::from_waker(&waker)).is_pending());
            let waits = polls == [true; 3];
            if n % 2 == 0 {
                return (None, waits);
            }
            (Some(receipt), waits)
        })
        .collect();
    store.flush().unwrap();
    store.close().unwrap();
    drop(store);
    while tasks.iter().any(|task| Arc::strong_count(task) > 1) {
        std::thread::yield_now();
    }
    for (task, (receipt, waits)) in tasks.iter().zip(receipts) {
        let woken = task.0.load(Ordering::SeqCst);
        match receipt {
            Some(receipt) => {
                assert!(receipt.is_durable().unwrap());
                assert!(woken <= 1 && (woken == 1) >= waits, "{woken}, {waits}");
            }
            None => assert!(woken <= 1, "{woken}"),
        }
    }
}

#[test]
fn what_is_pending_is_told() {
    let home = Home::new();
    let store = home.open();
    store.resolve(&source(1)).unwrap().receipt.wait().unwrap();
    let pending = || store.stats().unwrap().pending;
    assert_eq!(pending(), 0);
    home.clock.advance(Duration::from_secs(1));
    store.touch(&key(1)).unwrap().unwrap();
    assert_eq!(pending(), 1);
    // Entries, whatever is changed of them and however often. To look has them written.
    store.flush().unwrap();
    (0..2).for_each(|_| drop(store.touch(&key(1)).unwrap().unwrap()));
    store.resolve(&source(2)).unwrap();
    let metadata = serde_json::json!({"text": "x".repeat(10_000)});
    store.set_metadata(&key(2), metadata.as_object().unwrap()).unwrap().unwrap();
    assert_eq!(pending(), 2);
    store.flush().unwrap();
    store.remove(&key(2)).unwrap().unwrap();
    assert_eq!(pending(), 1);
    store.flush().unwrap();
    assert_eq!(pending(), 0);
}

/// Writers beyond the bound wait for the committer, and all of their changes arrive.
#[test]
fn what_is_pending_is_bounded() {
    for max_pending in [2, 7] {
        let home = Home::new();
        let store = SessionStore::open(home.options().max_pending(max_pending).cached_entries(0)).unwrap();
        let most = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (store, most) = (&store, &most);
                scope.spawn(move || {
                    for n in 0..150 {
                        store.resolve(&source(thread * 1000 + n)).unwrap();
                        store.touch(&key(thread * 1000 + n / 2)).unwrap().unwrap();
                        most.fetch_max(store.stats().unwrap().pending, Ordering::Relaxed);
                    }
                });
            }
        });
        // Each of four threads may have passed the gate with one change.
        assert!(most.load(Ordering::Relaxed) <= max_pending + 4, "{most:?} were pending");
        assert_eq!(store.len(), 600);
        assert_sound(&store);
        drop(store);
        assert_eq!(home.open().len(), 600);
    }
}

#[test]
fn a_race_for_one_key_makes_one_entry() {
    let home = Home::new();
    let store = home.open();
    for n in 0..50 {
        let start = Barrier::new(8);
        let answers: Vec<_> = std::thread::scope(|scope| {
            let race = |_| {
                let (store, start) = (&store, &start);
                scope.spawn(move || {
                    start.wait();
                    let found = store.resolve(&source(n)).unwrap();
                    store.touch(&found.entry.key).unwrap().unwrap();
                    (found.entry.session_id, found.resolution)
                })
            };
            let threads: Vec<_> = (0..8).map(race).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let created = answers.iter().filter(|(_, resolution)| *resolution == Resolution::Created).count();
        assert_eq!(created, 1);
        assert!(answers.iter().all(|(_, it)| matches!(it, Resolution::Created | Resolution::Existing)));
        assert_eq!(answers.iter().map(|(id, _)| id).collect::<BTreeSet<_>>().len(), 1);
    }
    assert_eq!(store.len(), 50);
    assert_sound(&store);
}

#[test]
fn a_race_for_a_suspended_key_replaces_it_once() {
    let home = Home::new();
    let store = home.open();
    for n in 0..30 {
        let old = store.resolve(&source(n)).unwrap().entry.session_id;
        store.suspend(&key(n)).unwrap().unwrap();
        let start = Barrier::new(6);
        let replaced = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..6 {
                scope.spawn(|| {
                    start.wait();
                    match store.resolve(&source(n)).unwrap().resolution {
                        Resolution::Replaced { previous, .. } => {
                            assert_eq!(previous, old);
                            replaced.fetch_add(1, Ordering::SeqCst);
                        }
                        Resolution::Existing => {}
                        other => panic!("{other:?}"),
                    }
                });
            }
        });
        assert_eq!(replaced.into_inner(), 1);
    }
    assert_sound(&store);
}

/// Changes of one entry by many threads are all counted, while commits run.
#[test]
fn no_change_of_a_race_is_lost() {
    let home = Home::new();
    let store = home.open();
    store.resolve(&source(1)).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..6 {
            let store = &store;
            scope.spawn(move || {
                for n in 0..200 {
                    let turn = Usage { input_tokens: 1, ..Usage::ZERO };
                    let receipt = store.record_usage(&key(1), &turn).unwrap().unwrap();
                    let count = |details: &mut cloakroom::Details| {
                        let now: u64 = details.cost_status.as_deref().map_or(0, |text| text.parse().unwrap());
                        details.cost_status = Some((now + 1).to_string());
                    };
                    store.update(&key(1), count).unwrap().unwrap();
                    if n % 20 == thread {
                        receipt.wait().unwrap();
                    }
                }
            });
        }
    });
    let check = |store: &SessionStore| {
        let entry = store.get(&key(1)).unwrap().unwrap();
        assert_eq!((entry.usage.input_tokens, entry.details.cost_status.as_deref()), (1200, Some("1200")));
    };
    check(&store);
    drop(store);
    check(&home.open());
}

/// A waker that owns the store and lets go of it when it is woken, which is on the committer's thread.
#[test]
fn a_waker_may_drop_the_store() {
    struct Owner(std::sync::Mutex<Option<SessionStore>>);
    impl Wake for Owner {
        fn wake(self: Arc<Self>) {
            drop(self.0.lock().unwrap().take());
        }
    }
    let home = Home::new();
    let store = home.open();
    let mut receipt = store.resolve(&source(1)).unwrap().receipt;
    let later = store.touch(&key(1)).unwrap().unwrap();
    let waker = Waker::from(Arc::new(Owner(std::sync::Mutex::new(Some(store)))));
    let mut context = Context::from_waker(&waker);
    while Pin::new(&mut receipt).poll(&mut context).is_pending() {
        std::thread::yield_now();
    }
    later.wait().unwrap();
    // The committer lets go of the files a moment later, when its thread ends.
    let again = loop {
        match SessionStore::open(home.options()) {
            Err(Error::Locked { .. }) => std::thread::yield_now(),
            opened => break opened.unwrap(),
        }
    };
    assert!(again.open_report().clean, "the last commit was made");
    assert_eq!(again.len(), 1);
}
