//! Touches that nobody waits for.

use std::time::{Duration, Instant};

use cloakroom::change::{Draft, Edit, Expect, Modified, Resolution, Touch};
use cloakroom::cluster::ClusterStore;
use cloakroom::prune::NoActivity;
use cloakroom::reset::{ResetPolicies, ResetPolicy};
use cloakroom::time::ManualClock;
use cloakroom::{Error, Extras, PrunePolicy, SessionEntry, Sessions, Timestamp};

use crate::common::{NOW, key, source};
use crate::conformance::one;
use crate::metrics::figure;
use crate::nodes::{Cluster, wait_for};
use crate::slots::send_keys;

const DAY: Duration = Duration::from_secs(86_400);

/// When an entry was used last.
fn used(store: &ClusterStore, n: usize) -> Timestamp {
    store.get(&key(n)).unwrap().unwrap().updated_at
}

/// A store with so many entries, a clock that is a day later, and another handle.
fn aged(entries: usize) -> (ClusterStore, ClusterStore, ManualClock) {
    let clock = ManualClock::new(NOW);
    let store = ClusterStore::open(one().options().clock(clock.clone())).unwrap();
    for n in 0..entries {
        store.resolve(&source(n)).unwrap();
    }
    let other = ClusterStore::open(one().options_of(&store).replicas(0).clock(clock.clone())).unwrap();
    clock.advance(DAY);
    (store, other, clock)
}

#[test]
fn a_touch_that_nobody_waits_for_arrives() {
    let (store, other, clock) = aged(600);
    let later = clock_now(&clock);
    for n in 0..600 {
        store.touch_soon(&key(n)).unwrap();
    }
    store.touch_soon(&key(1000)).unwrap();
    wait_for("they have arrived", || (0..600).all(|n| used(&other, n) == later));
    assert!(!other.contains(&key(1000)).unwrap(), "a touch makes no entry");
    // The next ones too.
    clock.advance(DAY);
    store.touch_soon(&key(7)).unwrap();
    wait_for("it has arrived", || used(&other, 7) == clock_now(&clock));
    assert_eq!((used(&other, 8), figure(&store, "touches_total")), (later, 600 + 602));
}

fn clock_now(clock: &ManualClock) -> Timestamp {
    cloakroom::time::Clock::now(clock)
}

#[test]
fn a_flush_and_a_close_send_what_was_collected() {
    let (store, other, clock) = aged(2);
    store.touch_soon(&key(0)).unwrap();
    store.flush().unwrap();
    assert_eq!(used(&other, 0), clock_now(&clock));
    // It is all that this handle has changed.
    other.touch_soon(&key(1)).unwrap();
    other.close().unwrap();
    assert_eq!(used(&store, 1), clock_now(&clock));
    assert!(matches!(other.touch_soon(&key(1)), Err(Error::Closed { .. })));
}

#[test]
fn a_time_that_is_set_is_not_moved_on_by_a_touch_that_was_collected() {
    let (store, other, clock) = aged(1);
    let mut entry = store.get(&key(0)).unwrap().unwrap();
    entry.updated_at = NOW;
    for _ in 0..20 {
        clock.advance(DAY);
        store.touch_soon(&key(0)).unwrap();
        store.put(&entry, &Extras::default(), Expect::Any).unwrap();
        store.flush().unwrap();
        assert_eq!(used(&other, 0), NOW);
    }
}

#[test]
fn a_pass_keeps_what_was_touched_and_nobody_has_told_the_node() {
    let (store, _other, clock) = aged(0);
    let old = SessionEntry::new(key(0), "old".parse().unwrap(), NOW);
    let policy = PrunePolicy::max_age_days(90);
    for _ in 0..20 {
        store.put(&old, &Extras::default(), Expect::Any).unwrap();
        clock.advance(DAY * 100);
        let removing = store.prune_dry_run(&policy, &NoActivity).unwrap().removed;
        store.touch_soon(&key(0)).unwrap();
        assert_eq!((removing, store.prune(&policy, &NoActivity).unwrap().removed), (1, 0));
        assert!(store.contains(&key(0)).unwrap());
    }
}

/// Of each entry the last touch is sent, and those of a shard in one command.
#[test]
fn touches_that_are_collected_go_together() {
    let cluster = Cluster::one();
    let store = ClusterStore::open(cluster.options().shards(4)).unwrap();
    for n in 0..100 {
        store.resolve(&source(n)).unwrap();
    }
    cluster.nodes[0].ask(&["CONFIG", "RESETSTAT"]);
    let began = Instant::now();
    for _ in 0..50 {
        (0..100).for_each(|n| store.touch_soon(&key(n)).unwrap());
    }
    store.flush().unwrap();
    let told = cluster.nodes[0].ask_text(&["INFO", "commandstats"]);
    let calls = told.lines().find_map(|line| line.strip_prefix("cmdstat_zadd:calls=")?.split(',').next());
    let calls: u64 = calls.unwrap().parse().unwrap();
    // The thread has sent some before, each tenth of a second.
    let rounds = began.elapsed().as_millis() as u64 / 100 + 2;
    assert!((4..=4 * rounds).contains(&calls), "{calls} in {rounds} rounds");
}

/// While a primary is gone they wait, and go to the one that takes over.
#[test]
fn touches_that_are_collected_outlive_a_failover() {
    let mut cluster = Cluster::six();
    let store = cluster.open();
    for n in 0..30 {
        store.resolve(&source(n)).unwrap();
    }
    store.flush().unwrap();
    let before: Vec<_> = (0..30).map(|n| used(&store, n)).collect();
    let victim = cluster.primaries()[0];
    let replica = cluster.replica_of(victim);
    cluster.nodes[victim].kill();
    (0..30).for_each(|n| store.touch_soon(&key(n)).unwrap());
    wait_for("the replica takes over", || cluster.primaries().contains(&replica));
    wait_for("they have arrived", || (0..30).all(|n| store.get(&key(n)).unwrap().unwrap().updated_at > before[n]));
    // A flush finds nothing left over.
    cluster.nodes[victim].run();
    cluster.wait_until_whole();
    store.flush().unwrap();
    wait_for("replicas have them", || figure(&store, "touches_remembered") == 0);
}

#[test]
fn a_last_interaction_that_is_set_takes_no_touch_back() {
    let (store, other, clock) = aged(1);
    let set = &mut |draft: &mut Draft<'_>| {
        draft.entry.last_interaction = Some(NOW);
        Edit::Write
    };
    store.touch_soon(&key(0)).unwrap();
    assert!(matches!(store.modify(&key(0), Touch::No, set).unwrap(), Modified::Changed(_)));
    store.flush().unwrap();
    assert_eq!(used(&other, 0), clock_now(&clock));
}

#[test]
fn a_session_that_was_touched_is_not_idle_though_no_node_knows() {
    let (store, _other, clock) = aged(1);
    let policies = ResetPolicies::from(ResetPolicy::idle(60));
    for _ in 0..20 {
        clock.advance(DAY);
        store.touch_soon(&key(0)).unwrap();
        let resolved = store.resolve_with(&source(0), &policies, &NoActivity).unwrap();
        assert!(matches!(resolved.resolution, Resolution::Existing), "{:?}", resolved.resolution);
    }
}

/// One node is silent. The others have their touches, again and again, and an exact time may be set there.
#[test]
fn a_node_that_is_silent_delays_no_touch_of_others() {
    let cluster = Cluster::with(3, false, &[]);
    let clock = ManualClock::new(NOW);
    let options = cluster.options().replicas(0).clock(clock.clone());
    let store = ClusterStore::open(options.clone()).unwrap();
    (0..40).for_each(|n| drop(store.resolve(&source(n)).unwrap()));
    let (own, others): (Vec<_>, Vec<_>) = (0..40).partition(|n| cluster.has_key(1, &store, &key(*n)));
    assert!(!own.is_empty() && !others.is_empty());
    let touch = || {
        clock.advance(DAY);
        (0..40).for_each(|n| store.touch_soon(&key(n)).unwrap());
    };
    cluster.nodes[1].signal("STOP");
    for _ in 0..3 {
        touch();
        wait_for("the others have them", || others.iter().all(|n| used(&store, *n) == clock_now(&clock)));
    }
    let mut entry = store.get(&key(others[0])).unwrap().unwrap();
    entry.updated_at = NOW;
    store.put(&entry, &Extras::default(), Expect::Any).unwrap();
    assert_eq!(used(&store, others[0]), NOW);
    cluster.nodes[1].signal("CONT");
    wait_for("it has them too", || own.iter().all(|n| used(&store, *n) == clock_now(&clock)));
    store.flush().unwrap();
}

/// A full node takes no touch. All else is awaited, and the touch comes when there is room.
#[test]
fn a_node_that_takes_no_touch_keeps_nobody_from_what_was_changed() {
    let cluster = Cluster::with(1, true, &[]);
    let clock = ManualClock::new(NOW);
    let store = ClusterStore::open(cluster.options().clock(clock.clone())).unwrap();
    (0..2).for_each(|n| drop(store.resolve(&source(n)).unwrap()));
    store.flush().unwrap();
    clock.advance(DAY);
    store.touch(&key(1)).unwrap().unwrap();
    let node = &cluster.nodes[cluster.primaries()[0]];
    node.ask(&["CONFIG", "SET", "maxmemory", "1"]);
    store.touch_soon(&key(0)).unwrap();
    let flushed = store.flush();
    assert!(matches!(flushed, Err(Error::Refused { .. })), "{flushed:?}");
    assert_eq!(figure(&store, "touches_remembered"), 1, "that of the other one is kept");
    node.ask(&["CONFIG", "SET", "maxmemory", "0"]);
    store.flush().unwrap();
    assert_eq!(used(&store, 0), clock_now(&clock));
}

/// A slot is on its way, and its keys are at the other node already.
#[test]
fn touches_that_are_collected_follow_a_slot() {
    let cluster = Cluster::with(3, false, &[]);
    let clock = ManualClock::new(NOW);
    let store = ClusterStore::open(cluster.options().replicas(0).shards(1).clock(clock.clone())).unwrap();
    store.resolve(&source(0)).unwrap();
    clock.advance(DAY);
    let from = (0..3).find(|n| cluster.has_key(*n, &store, &key(0))).unwrap();
    let names = cluster.nodes[from].ask(&["KEYS", &format!("{}:*:u", store.name())]);
    let names: Vec<String> = redis::from_redis_value(names).unwrap();
    let slot: u16 = redis::from_redis_value(cluster.nodes[from].ask(&["CLUSTER", "KEYSLOT", &names[0]])).unwrap();
    send_keys(&cluster, slot, from, (from + 1) % 3, 10, Duration::ZERO);
    store.touch_soon(&key(0)).unwrap();
    wait_for("it has arrived", || used(&store, 0) == clock_now(&clock));
    store.flush().unwrap();
}
