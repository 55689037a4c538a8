//! A repair takes away what leads nowhere, and nothing that is under way.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use cloakroom::change::{Expect, Put, Repoint};
use cloakroom::cluster::ClusterStore;
use cloakroom::{Error, Extras, SessionEntry, SessionId, SessionKey, Sessions as _, Timestamp};

use crate::common::{key, source};
use crate::conformance::{one, six};
use crate::nodes::{Cluster, Node, wait_for};

/// The names that a node has, by a pattern.
fn names(node: &Node, pattern: &str) -> Vec<String> {
    redis::from_redis_value(node.ask(&["KEYS", pattern])).unwrap()
}

/// Takes an entry away as no verb does: its hint, and what else hangs on it, stay.
fn tear_out(store: &ClusterStore, n: usize) -> String {
    let node = &one().nodes[0];
    let found = names(node, &format!("{}:*:e:{}", store.name(), key(n).as_str()));
    node.ask(&["DEL", &found[0]]);
    found[0].split_once("}:").unwrap().0.to_owned() + "}"
}

fn is_found(store: &ClusterStore, entry: &SessionEntry) -> bool {
    store.find_by_session_id(&entry.session_id).unwrap().items.iter().any(|found| found.key == entry.key)
}

#[test]
fn a_repair_takes_away_what_leads_nowhere() {
    let store = one().open();
    for n in 0..12 {
        store.resolve(&source(n)).unwrap();
        store.begin_turn(&key(n)).unwrap().unwrap();
        store.hold_until(&key(n), "job", Timestamp::MAX).unwrap().unwrap();
    }
    assert_eq!(store.repair().unwrap(), Default::default());
    for n in 0..4 {
        tear_out(&store, n);
    }
    // A turn of another session than the entry has.
    let node = &one().nodes[0];
    let turns = tear_out(&store, 4) + ":t";
    let marker: Vec<u8> = redis::from_redis_value(node.ask(&["HGET", &turns, key(4).as_str()])).unwrap();
    store.resolve(&source(4)).unwrap();
    let client = redis::Client::open(format!("redis://{}", node.address())).unwrap();
    let mut connection = client.get_connection().unwrap();
    redis::cmd("HSET").arg(&turns).arg(key(4).as_str()).arg(&marker).exec(&mut connection).unwrap();
    let found = store.verify().unwrap();
    assert_eq!((found.violations.len(), found.orphaned_turns, found.orphaned_leases), (4, 5, 4), "{found:?}");
    assert_eq!(found.stale_hints, 5);
    let rest: Vec<_> = (4..12).map(|n| store.get(&key(n)).unwrap().unwrap()).collect();
    let repairs = store.repair().unwrap();
    assert_eq!((repairs.hints_removed, repairs.rows_removed), (5, 4));
    assert_eq!((repairs.turns_removed, repairs.leases_removed), (5, 4));
    let found = store.verify().unwrap();
    assert_eq!((found.violations.as_slice(), found.orphaned_turns, found.orphaned_leases), ([].as_slice(), 0, 0));
    assert_eq!((found.stale_hints, found.without_hint, found.entries), (0, 0, 8));
    for entry in rest {
        assert_eq!(store.get(&entry.key).unwrap().as_ref(), Some(&entry));
        assert!(is_found(&store, &entry) && (entry.key == key(4)) != store.turn(&entry.key).unwrap().is_some());
    }
    assert_eq!(store.repair().unwrap(), Default::default());
    // What leads to entries that were lost is no hint that leads nowhere.
    let marks = names(node, &format!("{}:*:m", store.name()));
    node.ask(&["DEL", &marks[0]]);
    assert!(matches!(store.repair(), Err(Error::ShardLost { .. })));
}

/// A process that knows nothing of a sweep is refused once by each shard, and goes on.
#[test]
fn who_has_not_heard_of_a_sweep_writes_its_hint_again() {
    let store = one().open();
    let other = ClusterStore::open(one().options_of(&store).replicas(0)).unwrap();
    for round in 0..3 {
        let first = round * 100;
        for n in first..first + 60 {
            store.resolve(&source(n)).unwrap();
        }
        for n in first..first + 50 {
            tear_out(&store, n);
        }
        assert_eq!(store.repair().unwrap().hints_removed, 50);
        let mut all = Vec::new();
        for n in first..first + 60 {
            all.push(other.resolve(&source(n)).unwrap().entry);
            all.push(other.resolve(&source(first + 60 + n % 20)).unwrap().entry);
        }
        for n in first + 50..first + 60 {
            all.retain(|entry| entry.key != key(n));
            all.push(other.reset(&key(n)).unwrap().unwrap().entry);
        }
        all.iter().for_each(|entry| assert!(is_found(&store, entry), "no hint leads to {round}"));
        other.flush().unwrap();
        let found = store.verify().unwrap();
        assert_eq!((found.violations.as_slice(), found.stale_hints, found.without_hint), ([].as_slice(), 0, 0));
    }
}

/// A writer waits for a replica that is silent between its hint and its entry, while another process repairs.
#[test]
fn a_hint_whose_entry_is_on_its_way_is_missed_by_nobody() {
    let cluster = Cluster::patient();
    let writer = cluster.open();
    let sweeper = ClusterStore::open(cluster.options_of(&writer)).unwrap();
    let entry = |n: usize| SessionEntry::new(key(n), format!("id-{n}").parse().unwrap(), Timestamp::from_micros(1));
    let put = |n: usize| {
        let put = writer.put(&entry(n), &Extras::default(), Expect::Absent).unwrap();
        assert!(matches!(put, Put::Created(_)), "{put:?}");
    };
    // Their hints are on the first node, and they are not.
    let is_apart = |n: &usize| {
        let hints = format!("{}:*:i:id-{n}", writer.name());
        !names(&cluster.nodes[0], &hints).is_empty() && !cluster.has_key(0, &writer, &key(*n))
    };
    (0..80).for_each(put);
    let apart: Vec<_> = (0..80).filter(is_apart).collect();
    assert!(apart.len() > 4);
    (0..80).for_each(|n| drop(writer.remove(&key(n)).unwrap().unwrap()));
    writer.flush().unwrap();
    assert_eq!(writer.verify().unwrap().stale_hints, 0);
    let replica = &cluster.nodes[cluster.replica_of(0)];
    replica.signal("STOP");
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                // What it has done cannot be proven on the first node.
                let repaired = sweeper.repair();
                assert!(matches!(repaired, Ok(_) | Err(Error::NotReplicated { .. })), "{repaired:?}");
            }
        });
        apart.iter().for_each(|n| put(*n));
        is_over.store(true, Ordering::Relaxed);
    });
    for n in &apart {
        assert!(is_found(&writer, &entry(*n)), "no hint leads to {n}");
    }
    replica.signal("CONT");
    wait_for("the replica is back", || sweeper.repair().is_ok());
    let found = sweeper.verify().unwrap();
    assert_eq!((found.violations.as_slice(), found.stale_hints), ([].as_slice(), 0));
    assert!(apart.iter().all(|n| is_found(&sweeper, &entry(*n))));
}

/// The removal of an entry is not at the replica: a failover would give it back, and it would need its hint.
#[test]
fn a_hint_stays_as_long_as_a_failover_may_need_it() {
    let cluster = Cluster::patient();
    let store = cluster.open();
    for n in 0..40 {
        store.resolve(&source(n)).unwrap();
    }
    store.flush().unwrap();
    let is_apart = |n: &usize| {
        let id = store.get(&key(*n)).unwrap().unwrap().session_id;
        let hints = names(&cluster.nodes[0], &format!("{}:*:i:{}", store.name(), id.as_str()));
        cluster.has_key(0, &store, &key(*n)) && hints.is_empty()
    };
    let apart = (0..40).find(is_apart).unwrap();
    let replica = &cluster.nodes[cluster.replica_of(0)];
    replica.signal("STOP");
    drop(store.remove(&key(apart)).unwrap().unwrap());
    let sweeper = ClusterStore::open(cluster.options_of(&store)).unwrap();
    let repaired = sweeper.repair();
    assert!(matches!(repaired, Err(Error::NotReplicated { .. })), "{repaired:?}");
    assert_eq!(sweeper.verify().unwrap().stale_hints, 1);
    replica.signal("CONT");
    wait_for("the replica is back", || sweeper.repair().is_ok());
    assert_eq!(sweeper.verify().unwrap().stale_hints, 0);
}

/// Several stores, each of which knows of sweeps what its own requests have told it, as a process does.
#[test]
fn repairs_beside_changes_leave_no_entry_without_its_hint() {
    const WRITERS: usize = 4;
    let cluster = six();
    let first = ClusterStore::open(cluster.options().shards(2)).unwrap();
    let open = || ClusterStore::open(cluster.options_of(&first)).unwrap();
    let ids: Vec<SessionId> = (0..3).map(|n| format!("shared-{n}").parse().unwrap()).collect();
    let (running, swept) = (AtomicU64::new(WRITERS as u64), AtomicU64::new(0));
    thread::scope(|scope| {
        for writer in 0..WRITERS {
            let (store, running, swept, ids) = (open(), &running, &swept, &ids);
            scope.spawn(move || {
                let own = |n: usize| writer * 8 + n % 8;
                for n in 0..10_000 {
                    if n >= 120 && swept.load(Ordering::Relaxed) > 0 {
                        break;
                    }
                    let key: SessionKey = key(own(n));
                    store.resolve(&source(own(n))).unwrap();
                    match n % 5 {
                        0 => drop(store.remove(&key).unwrap()),
                        1 | 2 => drop(store.reset(&key).unwrap()),
                        // A session id that others have too: its hints are read by every repair.
                        _ => drop(store.repoint(&key, ids[n % 3].clone(), &Repoint::new()).unwrap()),
                    }
                }
                running.fetch_sub(1, Ordering::Relaxed);
            });
        }
        for _ in 0..2 {
            let (store, running, swept) = (open(), &running, &swept);
            scope.spawn(move || {
                while running.load(Ordering::Relaxed) > 0 {
                    swept.fetch_add(store.repair().unwrap().hints_removed, Ordering::Relaxed);
                }
            });
        }
    });
    assert!(swept.load(Ordering::Relaxed) > 0, "no sweep came between");
    let all: Vec<_> = (0..WRITERS * 8).filter_map(|n| first.get(&key(n)).unwrap()).collect();
    assert!(all.len() > WRITERS);
    all.iter().for_each(|entry| assert!(is_found(&first, entry), "no hint leads to {entry:?}"));
    first.repair().unwrap();
    let found = first.verify().unwrap();
    assert_eq!((found.violations.as_slice(), found.stale_hints, found.entries), ([].as_slice(), 0, all.len() as u64));
    all.iter().for_each(|entry| assert!(is_found(&first, entry), "a hint was taken away: {entry:?}"));
}
