//! Verbs as futures: on one thread, with a node that does not answer, and dropped half way.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use cloakroom::change::{Edit, Expect, KeepExtras, Repoint, Resolution, Resolve, Touch};
use cloakroom::cluster::{AsyncClusterStore, ClusterStore};
use cloakroom::prune::NoActivity;
use cloakroom::query::Filter;
use cloakroom::reset::ResetPolicies;
use cloakroom::time::ManualClock;
use cloakroom::turns::{RecoverOptions, TurnToken};
use cloakroom::{Error, Extras, Result, SessionEntry, SessionId, Sessions as _, Timestamp, Usage};
use pollster::block_on;
use serde_json::json;

use crate::awaited::Awaited;
use crate::common::{NOW, key, source};
use crate::conformance::one;
use crate::nodes::{Cluster, Node, wait_for};

type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

fn poll<T>(future: &mut Boxed<'_, T>) -> Poll<T> {
    future.as_mut().poll(&mut Context::from_waker(Waker::noop()))
}

/// Polls all of them on this thread until they are ready.
fn all<T>(mut futures: Vec<Boxed<'_, T>>) -> Vec<T> {
    let mut ready = Vec::new();
    block_on(poll_fn(|context| {
        futures.retain_mut(|future| match future.as_mut().poll(context) {
            Poll::Ready(value) => {
                ready.push(value);
                false
            }
            Poll::Pending => true,
        });
        if futures.is_empty() { Poll::Ready(()) } else { Poll::Pending }
    }));
    ready
}

fn boxed<'a, T>(verb: impl Future<Output = Result<T>> + 'a) -> Boxed<'a, Result<()>> {
    Box::pin(async { verb.await.map(drop) })
}

/// All verbs, each at a key of its own that has an entry.
fn all_verbs<'a>(
    store: &'a AsyncClusterStore,
    entries: &'a [SessionEntry],
    token: TurnToken,
) -> Vec<Boxed<'a, Result<()>>> {
    let mut rest = entries.iter();
    let mut own = || &rest.next().expect("there are enough").key;
    let verbs = vec![
        boxed(store.get(own())),
        boxed(store.get_with_extras(own())),
        boxed(store.contains(own())),
        boxed(store.touch(own())),
        boxed(async { store.resolve(&source(0)).await }),
        boxed(async { store.resolve_with(&source(1), &ResetPolicies::default(), &NoActivity).await }),
        boxed(store.modify(own(), Touch::Yes, |draft| {
            draft.entry.suspended = true;
            Edit::Write
        })),
        boxed(store.update(own(), |details| details.display_name = Some("x".into()))),
        boxed(store.suspend(own())),
        boxed(store.unsuspend(own())),
        boxed(store.pin(own())),
        boxed(store.unpin(own())),
        boxed(store.reset(own())),
        boxed(store.reset_keeping(own(), &KeepExtras::None)),
        boxed(store.remove(own())),
        boxed(store.extra(own(), "x")),
        boxed(store.remove_extra(own(), "x")),
        boxed(store.begin_turn(own())),
        boxed(store.try_begin_turn(own())),
        boxed(store.end_turn(own(), token)),
        boxed(store.discard_turn(own())),
        boxed(store.turn(own())),
        boxed(store.mark_resume_pending(own(), "x")),
        boxed(store.clear_resume_pending(own())),
        boxed(store.hold(own())),
        boxed(store.hold_until(own(), "x", Timestamp::MAX)),
        boxed(store.release(own(), "x")),
    ];
    let [first, second, third, fourth, fifth] = rest.as_slice() else { panic!("there are more or less") };
    let more = vec![
        boxed(async { store.resolve_as(&first.key, &Resolve::new()).await }),
        boxed(async { store.put(second, &Extras::default(), Expect::Any).await }),
        boxed(async { store.record_usage(&third.key, &Usage { input_tokens: 1, ..Usage::default() }).await }),
        boxed(async { store.repoint(&fourth.key, SessionId::new("other").unwrap(), &Repoint::default()).await }),
        boxed(store.remove_if(&fifth.key, fifth)),
        boxed(async { store.set_extra(&first.key, "x", &json!(1)).await }),
        boxed(async { store.set_extras(&second.key, &Extras::default()).await }),
        boxed(store.turns()),
        boxed(async { store.recover_interrupted_turns(&RecoverOptions::new(None)).await }),
        boxed(store.leases()),
        boxed(store.find_by_session_id(&first.session_id)),
        boxed(store.recent(10, None)),
        boxed(async { store.iter(Filter::default()).next().await.transpose() }),
        boxed(store.len()),
        boxed(store.keys("")),
        boxed(async { store.remove_where(&Filter::default(), Some(1_000_000)).await }),
        boxed(store.forget("nobody")),
        boxed(store.stats()),
        boxed(store.flush()),
    ];
    verbs.into_iter().chain(more).collect()
}

/// As many as those need, and a turn of one of them.
fn entries(store: &ClusterStore, first: usize) -> (Vec<SessionEntry>, TurnToken) {
    let entries: Vec<_> = (first..first + 30).map(|n| store.resolve(&source(n)).unwrap().entry).collect();
    let token = store.begin_turn(&entries[0].key).unwrap().unwrap().token;
    (entries, token)
}

/// The thread that polls them is the one that lets the node go on: a poll that waited for it would wait in vain, and come back with an
/// error. Each verb has gone on as far as so many polls take it when the node stops.
#[test]
fn no_poll_waits_for_a_node() {
    let cluster = Cluster::one();
    for polls in 0..6 {
        let own = Awaited::open(cluster.options());
        let (entries, token) = entries(&own.store, 0);
        let mut verbs = all_verbs(&own.verbs, &entries, token);
        verbs.retain_mut(|verb| !polled(verb, polls));
        assert!(polls > 0 || verbs.len() > 40);
        cluster.nodes[0].signal("STOP");
        for verb in &mut verbs {
            if let Poll::Ready(done) = poll(verb) {
                assert!(done.is_ok(), "{done:?}");
                *verb = Box::pin(async { Ok(()) });
            }
        }
        // That it waits for no node is what it is for.
        block_on(own.verbs.touch_soon(&entries[0].key)).unwrap();
        cluster.nodes[0].signal("CONT");
        for done in all(verbs) {
            // On a machine that is slow the connection may have been given up.
            assert!(matches!(done, Ok(()) | Err(Error::Uncertain { .. })), "{done:?}");
        }
        block_on(own.verbs.close()).unwrap();
    }
}

/// Polls it so often, each time once it is woken. Whether it is ready.
fn polled<T>(verb: &mut Boxed<'_, T>, polls: usize) -> bool {
    let woken = Woken::new();
    let waker = Waker::from(Arc::clone(&woken));
    for _ in 0..polls {
        let before = woken.count();
        if verb.as_mut().poll(&mut Context::from_waker(&waker)).is_ready() {
            return true;
        }
        woken.wait(before);
    }
    false
}

/// Nor do the pauses of a verb that tries again: this thread starts the node once the verb has found that it is gone.
#[test]
fn no_poll_waits_for_a_node_that_is_gone() {
    let mut cluster = Cluster::one();
    let own = Awaited::open(cluster.options());
    own.store.resolve(&source(1)).unwrap().receipt.wait().unwrap();
    cluster.nodes[0].kill();
    let (one, n) = (key(1), key(2));
    let mut verbs: Vec<Boxed<'_, Result<bool>>> =
        vec![Box::pin(async { own.verbs.contains(&one).await }), Box::pin(async { own.verbs.contains(&n).await })];
    // Each is polled whenever it is woken: by its pauses.
    let woken = Woken::new();
    let waker = Waker::from(Arc::clone(&woken));
    let mut polls = 0;
    while polls < 8 {
        let before = woken.count();
        assert!(verbs.iter_mut().all(|verb| verb.as_mut().poll(&mut Context::from_waker(&waker)).is_pending()));
        polls += 1;
        woken.wait(before);
    }
    cluster.nodes[0].run();
    let mut found: Vec<_> = all(verbs).into_iter().map(Result::unwrap).collect();
    found.sort_unstable();
    assert_eq!(found, [false, true]);
    own.store.close().unwrap();
}

/// Counts how often it is woken, and wakes the thread that made it.
struct Woken(AtomicUsize, Thread);

impl Woken {
    fn new() -> Arc<Self> {
        Arc::new(Self(AtomicUsize::new(0), thread::current()))
    }

    fn count(&self) -> usize {
        self.0.load(Ordering::Acquire)
    }

    /// Waits until it has been woken more often.
    fn wait(&self, before: usize) {
        let began = Instant::now();
        while self.count() == before {
            assert!(began.elapsed() < Duration::from_secs(30), "it is not woken");
            thread::park_timeout(Duration::from_secs(1));
        }
    }
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Release);
        self.1.unpark();
    }
}

#[test]
fn many_verbs_on_one_thread_make_one_session_of_each_key() {
    let own = Awaited::open(one().options());
    let resolve = |n: usize| -> Boxed<'_, Result<Resolution>> {
        let verbs = &own.verbs;
        Box::pin(async move {
            let resolved = verbs.resolve(&source(n % 50)).await?;
            resolved.receipt.await?;
            Ok(resolved.resolution)
        })
    };
    let made = all((0..1000).map(resolve).collect());
    let created = made.into_iter().map(Result::unwrap).filter(|made| *made == Resolution::Created).count();
    assert_eq!((created, block_on(own.verbs.len()).unwrap()), (50, 50));
    block_on(own.verbs.close()).unwrap();
}

/// A runtime of many tasks, which awaits receipts too.
#[test]
fn tasks_of_a_runtime_share_a_store() {
    let own = Awaited::open(one().options());
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let tasks: Vec<_> = (0..100)
            .map(|n| {
                let verbs = own.verbs.clone();
                tokio::spawn(async move {
                    let begun = verbs.resolve(&source(n)).await?;
                    let turn = verbs.begin_turn(&begun.entry.key).await?.expect("there is an entry");
                    verbs.record_usage(&begun.entry.key, &Usage { input_tokens: 7, ..Usage::default() }).await?;
                    verbs.end_turn(&begun.entry.key, turn.token).await?;
                    begun.receipt.await?;
                    verbs.touch(&begun.entry.key).await?.expect("there is an entry").await
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap().unwrap();
        }
        let rows = own.verbs.recent(1000, None).await.unwrap().entries;
        assert_eq!(rows.iter().map(|row| row.usage.input_tokens).sum::<u64>(), 700);
        assert!(own.verbs.turns().await.unwrap().items.is_empty());
        own.verbs.close().await.unwrap();
    });
}

/// After so many polls each is dropped. What it was about is whole, and can be changed.
#[test]
fn a_verb_that_is_dropped_leaves_nothing_half_done() {
    let own = Awaited::open(one().options());
    let mut dropped = 0;
    for polls in 0..12 {
        let (entries, token) = entries(&own.store, polls * 100);
        for mut verb in all_verbs(&own.verbs, &entries, token) {
            dropped += usize::from(!polled(&mut verb, polls + 1));
        }
        for entry in &entries {
            own.store.resolve_as(&entry.key, &Resolve::new()).unwrap().receipt.wait().unwrap();
        }
    }
    assert!(dropped > 50, "{dropped}");
    let verified = own.store.verify().unwrap();
    assert_eq!(verified.violations, []);
    // Leases that nobody was told of are ended by a thread.
    wait_for("the leases end", || own.store.leases().unwrap().items.iter().all(|lease| lease.name.is_some()));
    own.store.close().unwrap();
}

/// Its next step answers what the dropped one would have.
#[test]
fn a_list_goes_on_though_steps_are_dropped() {
    let own = Awaited::open(one().options());
    entries(&own.store, 0);
    let expected: Vec<_> = own.store.iter(Filter::default()).map(|row| row.unwrap().key).collect();
    let (mut rows, mut found, mut polls) = (own.verbs.iter(Filter::default()), Vec::new(), 0);
    loop {
        let mut row = None;
        let mut step: Boxed<'_, ()> = Box::pin(async { row = Some(rows.next().await) });
        polled(&mut step, polls % 5);
        drop(step);
        polls += 1;
        match row.unwrap_or_else(|| block_on(rows.next())) {
            Some(row) => found.push(row.unwrap().key),
            None => break,
        }
    }
    assert_eq!(found, expected);
    own.store.close().unwrap();
}

/// The receipt of a change was dropped, and the connection broke. The `close` that is awaited to its end tells of the loss, though others
/// were dropped before it.
#[test]
fn a_loss_is_told_by_the_close_that_is_awaited() {
    let mut cluster = Cluster::one();
    let own = Awaited::open(cluster.options());
    let (entries, _) = entries(&own.store, 0);
    block_on(own.verbs.flush()).unwrap();
    block_on(own.verbs.reset(&entries[0].key)).unwrap().unwrap();
    cluster.nodes[0].kill();
    cluster.nodes[0].run();
    let told = (0..).find_map(|polls| {
        let mut told = None;
        let mut close: Boxed<'_, ()> = Box::pin(async { told = Some(own.verbs.close().await) });
        polled(&mut close, polls);
        drop(close);
        told
    });
    assert!(matches!(told, Some(Err(Error::Uncertain { .. }))), "{told:?}");
}

/// A store that was closed is read on, also by futures, and finds the primary that has taken over.
#[test]
fn a_closed_store_is_read_on_after_a_failover() {
    let mut cluster = Cluster::six();
    let own = Awaited::open(cluster.options());
    let entry = own.store.resolve(&source(1)).unwrap();
    entry.receipt.wait().unwrap();
    block_on(own.verbs.close()).unwrap();
    let primary = cluster.primaries().into_iter().find(|n| cluster.has_key(*n, &own.store, &key(1))).unwrap();
    let replica = cluster.replica_of(primary);
    cluster.nodes[primary].kill();
    wait_for("the replica takes over", || cluster.primaries().contains(&replica));
    wait_for("it is found", || matches!(block_on(own.verbs.get(&key(1))), Ok(Some(found)) if found == entry.entry));
}

/// One that is under way is waited for, and one that is dropped is not.
#[test]
fn closing_waits_for_verbs_that_are_under_way() {
    let cluster = Cluster::one();
    for is_dropped in [true, false] {
        let own = Awaited::open(cluster.options());
        let (entries, _) = entries(&own.store, 0);
        cluster.nodes[0].signal("STOP");
        let verbs = own.verbs.clone();
        let mut suspend: Boxed<'_, Result<()>> = boxed(verbs.suspend(&entries[0].key));
        // It looks first, which is no change.
        assert!(poll(&mut suspend).is_pending());
        let mut pin = boxed(verbs.touch(&entries[1].key));
        assert!(poll(&mut pin).is_pending());
        let mut close = boxed(own.verbs.close());
        assert!(poll(&mut close).is_pending());
        cluster.nodes[0].signal("CONT");
        // The one that had only looked changes nothing any more.
        assert!(matches!(block_on(suspend), Err(Error::Closed { .. })));
        if is_dropped {
            drop(pin);
        } else {
            thread::scope(|scope| {
                scope.spawn(|| block_on(async { verbs.touch(&entries[1].key).await }).unwrap_err());
            });
            block_on(pin).unwrap();
        }
        block_on(close).unwrap();
        assert!(matches!(block_on(own.verbs.touch(&entries[0].key)), Err(Error::Closed { .. })));
    }
}

/// A lease that a future took is ended by a thread, so that its drop waits for no node.
#[test]
fn a_lease_of_a_future_ends_without_a_wait() {
    let cluster = Cluster::one();
    let own = Awaited::open(cluster.options().clock(ManualClock::new(NOW)));
    let (entries, _) = entries(&own.store, 0);
    let lease = block_on(own.verbs.hold(&entries[0].key)).unwrap().unwrap();
    assert!(lease.is_held());
    stopped(&cluster.nodes[0], || {
        drop(lease);
        // Nor is one left that was on its way.
        let mut hold = Box::pin(own.verbs.hold(&entries[0].key)) as Boxed<'_, _>;
        assert!(poll(&mut hold).is_pending());
    });
    wait_for("both end", || own.store.leases().unwrap().items.is_empty());
    own.store.close().unwrap();
}

fn stopped(node: &Node, what: impl FnOnce()) {
    node.signal("STOP");
    what();
    node.signal("CONT");
}
