//! Passes of pruning while the store changes under them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use cloakroom::change::Expect;
use cloakroom::cluster::{ClusterStore, ClusterWatcher};
use cloakroom::prune::NoActivity;
use cloakroom::time::ManualClock;
use cloakroom::watcher::WatcherConfig;
use cloakroom::{Extras, PrunePolicy, SessionEntry, SessionId, SessionKey, Sessions};

use crate::common::{NOW, key, source};
use crate::conformance::one;
use crate::nodes::{Cluster, wait_for};
use crate::retries::{Rig, rig};

const DAY: Duration = Duration::from_secs(86_400);
const HOUR: Duration = Duration::from_secs(3600);

/// The number in the names of the shard of an entry.
fn shard(store: &ClusterStore, key: &SessionKey) -> String {
    let pattern = format!("{}:*:e:{}", store.name(), key.as_str());
    let names: Vec<String> = redis::from_redis_value(one().nodes[0].ask(&["KEYS", &pattern])).unwrap();
    names[0].split(['{', '}']).nth(1).unwrap().to_owned()
}

/// A pass removes more of a shard than that had when it was counted, for another process has put old entries there. That is not
/// taken for an excess over the cap.
#[test]
fn what_expires_during_a_pass_is_no_excess() {
    let clock = ManualClock::new(NOW);
    let store = ClusterStore::open(one().options().shards(2).clock(clock.clone())).unwrap();
    let mut shards = BTreeMap::<_, Vec<_>>::new();
    for n in 0..40 {
        store.resolve(&source(n)).unwrap();
        shards.entry(shard(&store, &key(n))).or_default().push(key(n));
    }
    let shards: Vec<_> = shards.into_values().collect();
    clock.advance(DAY * 2);
    // Of each two are left: one that has expired, and a fresh one.
    for keys in &shards {
        store.touch(&keys[1]).unwrap().unwrap();
        keys[2..].iter().for_each(|key| drop(store.remove(key).unwrap().unwrap()));
    }
    let was_asked = AtomicBool::new(false);
    let guard = |asked: &SessionKey| {
        if !was_asked.swap(true, Ordering::Relaxed) {
            let other = shards.iter().find(|keys| !keys.contains(asked)).unwrap();
            for (n, key) in other[2..7].iter().enumerate() {
                let old = SessionEntry::new(key.clone(), SessionId::new(format!("old-{n}")).unwrap(), NOW);
                store.put(&old, &Extras::default(), Expect::Absent).unwrap();
            }
        }
        false
    };
    let report = store.prune(&PrunePolicy::max_age_days(1).max_entries(1000), &guard).unwrap();
    assert_eq!((report.removed, report.removed_over_entries, report.entries_over_cap), (7, 0, 0));
    assert!(shards.iter().all(|keys| store.contains(&keys[1]).unwrap()), "a fresh one is gone");
}

/// A process that comes while a pass is at work on one shard is asked too.
#[test]
fn who_comes_while_a_shard_is_pruned_is_asked() {
    let clock = ManualClock::new(NOW);
    let options = one().options().shards(1).clock(clock.clone());
    let store = ClusterStore::open(options.clone()).unwrap();
    for n in 0..200 {
        store.resolve(&source(n)).unwrap();
    }
    clock.advance(DAY * 2);
    let came = Mutex::new(None);
    let joins = |_: &SessionKey| {
        came.lock()
            .unwrap()
            .get_or_insert_with(|| ClusterStore::open(options.clone().guard(|_: &SessionKey| true)).unwrap());
        false
    };
    let report = store.prune(&PrunePolicy::max_age_days(1), &joins).unwrap();
    assert!(report.kept_unreviewed > 100, "{report:?}");
}

/// A cap takes as many as are too much, the oldest first, though others have to look at each before it goes.
#[test]
fn a_cap_condemns_no_more_than_its_excess() {
    let clock = ManualClock::new(NOW);
    let options = one().options().shards(1).clock(clock.clone()).review_interval(HOUR);
    let [a, b] = [(); 2].map(|()| ClusterStore::open(options.clone().guard(NoActivity)).unwrap());
    for n in 0..100 {
        a.resolve(&source(n)).unwrap();
        clock.advance(Duration::from_secs(1));
    }
    let pass = |policy: PrunePolicy| {
        let report = a.prune(&policy, &NoActivity).unwrap();
        (report.removed, report.kept_unreviewed, report.entries_over_cap, a.stats().unwrap().condemned)
    };
    let capped = |entries| PrunePolicy::max_age_days(0).max_entries(entries);
    assert_eq!(pass(capped(99)), (0, 1, 1, 1));
    assert_eq!(pass(capped(99)), (0, 1, 1, 1), "nobody has looked since");
    b.review().unwrap();
    assert_eq!(pass(capped(99)), (1, 0, 0, 0));
    assert!(!a.contains(&key(0)).unwrap());
    // What has expired goes first: then nothing is too much.
    clock.advance(DAY);
    let fresh = (11..100).map(key);
    fresh.for_each(|key| drop(a.touch(&key).unwrap().unwrap()));
    clock.advance(HOUR);
    let both = PrunePolicy::max_age_days(1).max_entries(95);
    assert_eq!(pass(both), (0, 10, 4, 10));
    b.review().unwrap();
    assert_eq!(pass(both), (10, 0, 0, 0));
}

/// A dry run changes nothing: it does not even end the lease of a process that is gone, so a store that was closed has it too.
#[test]
fn a_dry_run_ends_no_lease() {
    let clock = ManualClock::new(NOW);
    let options = one().options().clock(clock.clone()).member_lease(Duration::from_secs(2));
    let [a, b] = [(); 2].map(|()| ClusterStore::open(options.clone()).unwrap());
    a.resolve(&source(1)).unwrap();
    std::mem::forget(b.hold(&key(1)).unwrap().unwrap());
    clock.advance(DAY * 2);
    drop(b);
    let policy = PrunePolicy::max_age_days(1);
    // Where nobody has renewed for a while, as on a slow machine, none counts as gone for a lease.
    let would_go = || a.prune_dry_run(&policy, &NoActivity).unwrap().removed == 1;
    wait_for("its process counts as gone", would_go);
    let leases = || -> Vec<String> {
        redis::from_redis_value(one().nodes[0].ask(&["KEYS", &format!("{}:*:n:*", a.name())])).unwrap()
    };
    assert_eq!(leases().len(), 1);
    a.close().unwrap();
    wait_for("a closed store sees it", would_go);
    assert_eq!(leases().len(), 1);
    let c = ClusterStore::open(options).unwrap();
    wait_for("it goes", || c.prune(&policy, &NoActivity).unwrap().removed == 1);
    assert!(leases().is_empty());
}

/// A pass that is under way stops where the store is closed. Nothing is condemned after that, and a dry run reads on.
#[test]
fn a_pass_stops_when_the_store_is_closed() {
    let clock = ManualClock::new(NOW);
    let options = one().options().shards(1).clock(clock.clone()).review_interval(HOUR);
    let [a, b] = [(); 2].map(|()| ClusterStore::open(options.clone().guard(NoActivity)).unwrap());
    for n in 0..20 {
        a.resolve(&source(n)).unwrap();
    }
    clock.advance(DAY * 2);
    let asked = AtomicUsize::new(0);
    // It is asked with nothing locked.
    let closes = |_: &SessionKey| {
        if asked.fetch_add(1, Ordering::Relaxed) == 5 {
            a.close().unwrap();
        }
        false
    };
    let policy = PrunePolicy::max_age_days(1);
    let report = a.prune(&policy, &closes).unwrap();
    assert!(report.stopped && report.failure.is_none(), "{report:?}");
    assert_eq!(asked.load(Ordering::Relaxed), 6);
    assert!(b.stats().unwrap().condemned <= 6);
    let report = a.prune_dry_run(&policy, &closes).unwrap();
    assert_eq!((report.removed, report.stopped, asked.load(Ordering::Relaxed)), (20, false, 26));
}

/// A watcher that is dropped stops where its pass is, and not at the end of that.
#[test]
fn a_watcher_that_is_dropped_stops_its_pass() {
    let clock = ManualClock::new(NOW);
    let store = ClusterStore::open(one().options().shards(1).clock(clock.clone())).unwrap();
    for n in 0..60 {
        store.resolve(&source(n)).unwrap();
    }
    clock.advance(DAY * 2);
    // Most are fresh, so the pass is not held.
    (20..60).for_each(|n| drop(store.touch(&key(n)).unwrap().unwrap()));
    let (asked, watcher) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(None::<ClusterWatcher>)));
    let (tell, ended) = channel::<()>();
    let guard = {
        let (asked, watcher) = (Arc::clone(&asked), Arc::clone(&watcher));
        move |_: &SessionKey| {
            // It goes with the last handle, which the watcher's thread has.
            let _tell = &tell;
            if asked.fetch_add(1, Ordering::Relaxed) == 0 {
                wait_for("the watcher is told of", || watcher.lock().unwrap().is_some());
                let dropped = watcher.lock().unwrap().take();
                drop(dropped);
            }
            false
        }
    };
    let other = ClusterStore::open(one().options_of(&store).replicas(0).clock(clock.clone()).guard(guard)).unwrap();
    let config = WatcherConfig { policy: PrunePolicy::max_age_days(1), interval: HOUR };
    *watcher.lock().unwrap() = Some(other.watch(config).unwrap());
    drop(other);
    assert_eq!(ended.recv_timeout(Duration::from_secs(30)), Err(RecvTimeoutError::Disconnected));
    assert_eq!(asked.load(Ordering::Relaxed), 1);
    assert_eq!(store.len().unwrap(), 59, "that one was decided on");
}

/// There is no replica, as after each failover: what a pass removed is not known to be kept. It tells of that, and of what it
/// did.
#[test]
fn a_pass_without_replicas_tells_of_what_it_removed() {
    let cluster = Cluster::one();
    let clock = ManualClock::new(NOW);
    let options = cluster.options().clock(clock.clone());
    let other = ClusterStore::open(options.clone()).unwrap();
    let expire = |expired: std::ops::Range<usize>, fresh: std::ops::Range<usize>| {
        expired.for_each(|n| drop(other.resolve(&source(n)).unwrap()));
        clock.advance(DAY * 2);
        fresh.for_each(|n| drop(other.resolve(&source(n)).unwrap()));
    };
    expire(0..3, 100..110);
    let store = ClusterStore::open(options.replicas(1)).unwrap();
    let report = store.prune(&PrunePolicy::max_age_days(1), &NoActivity).unwrap();
    assert_eq!(report.removed, 3);
    let is_told = |failure: Option<&String>| failure.is_some_and(|failure| failure.contains("0 replicas"));
    assert!(is_told(report.failure.as_ref()), "{report:?}");
    assert!(store.metrics().unwrap().lines().any(|line| line.contains("pruned_total") && line.ends_with(" 3")));
    // So does a watcher.
    clock.advance(DAY * 2);
    expire(0..0, 200..230);
    let watcher = store.watch(WatcherConfig { policy: PrunePolicy::max_age_days(1), interval: HOUR }).unwrap();
    wait_for("a pass has ended", || watcher.status().passes > 0);
    let status = watcher.status();
    assert_eq!(
        (status.failures, status.last_report.as_ref().map(|report| report.removed)),
        (1, Some(10)),
        "{status:?}"
    );
    assert!(is_told(status.last_failure.as_ref()), "{status:?}");
}

/// The node is lost on the way. The pass tells of what it removed by then, and the next one of the rest.
#[test]
fn a_pass_that_is_cut_short_tells_of_what_it_removed() {
    let Rig { _cluster, proxy, options } = rig();
    let clock = ManualClock::new(NOW);
    let options = options.shards(1).clock(clock.clone()).patience(Duration::from_millis(300));
    let store = ClusterStore::open(options).unwrap();
    for n in 10..30 {
        store.resolve(&source(n)).unwrap();
        clock.advance(Duration::from_secs(1));
    }
    clock.advance(DAY * 2);
    let once = OnceLock::new();
    // The last question before an entry goes: what names it next is the removal.
    let guard = |asked: &SessionKey| {
        if *asked == key(20) {
            once.get_or_init(|| proxy.lose_answer_to(key(20).as_str(), true));
        }
        false
    };
    let policy = PrunePolicy::max_age_days(1);
    let report = store.prune(&policy, &guard).unwrap();
    assert!(proxy.has_lost());
    assert!(report.removed == 10 && report.failure.is_some(), "{report:?}");
    proxy.open();
    let report = store.prune(&policy, &guard).unwrap();
    // That one was removed, and nobody knew.
    assert_eq!((report.removed, report.failure), (9, None));
}

/// The connection breaks on the way, before it is proven what was removed over it. What is proven over the next one says nothing
/// of that.
#[test]
fn a_pass_whose_connection_breaks_says_that_nobody_knows() {
    let cluster = Cluster::with(1, true, &[]);
    let clock = ManualClock::new(NOW);
    let store = ClusterStore::open(cluster.options().shards(1).clock(clock.clone())).unwrap();
    for n in 0..2 {
        store.resolve(&source(n)).unwrap();
        clock.advance(Duration::from_secs(1));
    }
    clock.advance(DAY * 2);
    let (primary, replica) = (&cluster.nodes[0], &cluster.nodes[1]);
    replica.signal("STOP");
    let breaks = |asked: &SessionKey| {
        if *asked == key(1) {
            primary.ask(&["CLIENT", "KILL", "TYPE", "normal"]);
            replica.signal("CONT");
        }
        false
    };
    let report = store.prune(&PrunePolicy::max_age_days(1), &breaks).unwrap();
    assert!(report.removed == 2 && report.failure.is_some(), "{report:?}");
}
