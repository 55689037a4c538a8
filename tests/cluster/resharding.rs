//! Slots that move from one primary to another while all goes on.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use cloakroom::cluster::{ClusterOptions, ClusterStore};
use cloakroom::time::ManualClock;
use cloakroom::turns::{ResumeClear, ResumeMark, TurnEnd, TurnStart, TurnToken};
use cloakroom::{Error, SessionEntry, Sessions, Timestamp};
use serde_json::json;

use crate::battery::Battery;
use crate::common::{NOW, key, source};
use crate::failover::under_load;
use crate::histories::{both, check};
use crate::nodes::{Cluster, wait_for};
use crate::slots::{Way, at_once, by_keys, can_at_once, owner};
use crate::suite::Dice;
use crate::suite::histories::verbs::TICKS;

/// Three keys at a time, and a pause, as for an operator's tool that has a network in between.
const SLOWLY: Way = |cluster, slot, from, to| by_keys(cluster, slot, from, to, 3, Duration::from_millis(5));

/// The slot of one of the shards of a store.
fn move_one(cluster: &Cluster, shards: usize, dice: &mut Dice, way: Way) {
    let slot = (dice.roll(shards) * (16384 / shards)) as u16;
    let from = owner(cluster, slot);
    let others: Vec<_> = cluster.primaries().into_iter().filter(|n| *n != from).collect();
    way(cluster, slot, from, others[dice.roll(others.len())]);
}

#[test]
fn slots_move_and_no_verb_fails_or_is_made_twice() {
    let cluster = Cluster::patient();
    let atomic = can_at_once(&cluster);
    Battery::new("resharded", 3).run(|_, mut dice| {
        let store = cluster.open();
        let ledger = under_load(&store, || {
            for n in 0..4 {
                let way = if n % 2 == 1 && atomic { at_once as Way } else { SLOWLY };
                move_one(&cluster, 16, &mut dice, way);
            }
        });
        ledger.check_that_nothing_failed(&store);
        // A store that is opened now sees the same.
        ledger.check(&ClusterStore::open(cluster.options_of(&store)).unwrap());
        store.close().unwrap();
    });
}

/// Many keys at a time: what became of changes is noted in keys too, for a minute.
const FASTER: Way = |cluster, slot, from, to| by_keys(cluster, slot, from, to, 30, Duration::from_millis(2));

/// Of four shards one is always on its way. Some order of the calls of each history explains its answers, no verb fails, and the
/// verbs that histories have not answer what they have to. `CLOAKROOM_MOVED_HISTORIES` sets how many slots move.
#[test]
fn every_history_has_an_order_while_slots_move() {
    let cluster = Cluster::patient();
    let (atomic, both) = (can_at_once(&cluster), both(cluster.options().shards(4)));
    let (mut histories, mut rest) = (0, Rest::new(&both.0, 1_000_000));
    let still: Vec<_> = (2_000_000..2_000_012).map(|n| make_still(&both.0, n)).collect();
    Battery::new("moved_histories", 16).run(|n, mut dice| {
        let way = if n % 2 == 1 && atomic { at_once as Way } else { FASTER };
        let (mut own, has_moved) = (Dice(dice.roll(1 << 30) as u64), AtomicBool::new(false));
        thread::scope(|scope| {
            scope.spawn(|| {
                while !has_moved.load(Ordering::Relaxed) {
                    check(&both, &mut own, histories);
                    histories += 1;
                }
            });
            scope.spawn(|| {
                while !has_moved.load(Ordering::Relaxed) {
                    rest.run();
                }
            });
            scope.spawn(|| {
                while !has_moved.load(Ordering::Relaxed) {
                    look_at(&both.0, &still);
                }
            });
            // The others stop too if this fails.
            let moved = catch_unwind(AssertUnwindSafe(|| move_one(&cluster, 4, &mut dice, way)));
            has_moved.store(true, Ordering::Relaxed);
            moved.unwrap_or_else(|failure| resume_unwind(failure));
        });
        println!("{histories} histories, {} rounds of the rest", rest.rounds);
    });
    assert_eq!(both.0.verify().unwrap().violations, []);
}

/// A node loses its last shard, and with it all that is written to before a proof. What it had is proven all the same: by a write
/// that has no key, which its replica has to acknowledge too. The user that the guide names may do that, and functions that the node
/// has stay.
#[test]
fn what_a_node_had_that_lost_its_last_shard_is_proven_all_the_same() {
    let cluster = Cluster::patient();
    let guide = include_str!("../../docs/cluster.md");
    let user: Vec<_> = guide.lines().find(|line| line.starts_with("ACL SETUSER gateway")).unwrap().split(' ').collect();
    cluster.nodes.iter().for_each(|node| drop(node.ask(&user)));
    for (n, way) in [FASTER, at_once].into_iter().take(if can_at_once(&cluster) { 2 } else { 1 }).enumerate() {
        let options =
            ClusterOptions::new("gateway", cluster.seeds()).login("gateway", "password").create(true).shards(1);
        let store = ClusterStore::open(options.clock(ManualClock::new(NOW))).unwrap();
        store.resolve(&source(n)).unwrap().receipt.wait().unwrap();
        let from = owner(&cluster, 0);
        let library = "#!lua name=theirs\nredis.register_function('theirs', function() return 1 end)";
        cluster.nodes[from].ask(&["FUNCTION", "LOAD", "REPLACE", library]);
        let changed = store.suspend(&key(n)).unwrap().unwrap();
        // The clock stands still, so it writes nothing.
        let found = store.touch(&key(n)).unwrap().unwrap();
        way(&cluster, 0, from, cluster.primaries().into_iter().find(|n| *n != from).unwrap());
        let replica = &cluster.nodes[cluster.replica_of(from)];
        replica.signal("STOP");
        for receipt in [&changed, &found] {
            let waited = receipt.wait();
            assert!(matches!(waited, Err(Error::NotReplicated { wanted: 1, got: 0, .. })), "{waited:?}");
        }
        replica.signal("CONT");
        wait_for("the replica has it", || changed.wait().is_ok() && found.wait().is_ok());
        store.flush().unwrap();
        store.pin(&key(n)).unwrap().unwrap().wait().unwrap();
        let entry = store.get(&key(n)).unwrap().unwrap();
        assert!(entry.suspended && entry.pinned);
        store.close().unwrap();
        let functions = cluster.nodes[from].ask(&["FUNCTION", "LIST"]);
        assert!(format!("{functions:?}").contains("theirs"), "{functions:?}");
    }
}

/// A node that has lost all its slots becomes a replica of another one. Nobody can tell then what it had, as after a failover.
#[test]
fn a_node_that_has_lost_all_its_slots_is_as_one_that_was_replaced() {
    let cluster = Cluster::patient();
    if !can_at_once(&cluster) {
        return;
    }
    let store = ClusterStore::open(cluster.options().shards(1)).unwrap();
    store.resolve(&source(1)).unwrap().receipt.wait().unwrap();
    let receipt = store.suspend(&key(1)).unwrap().unwrap();
    let other = cluster.nodes[1].ask_text(&["CLUSTER", "MYID"]);
    cluster.nodes[0].ask(&["CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", "0", "5460", "NODE", &other]);
    wait_for("the node has none", || !cluster.primaries().contains(&0));
    let mut waited = Ok(());
    wait_for("it says of itself what it follows", || {
        waited = receipt.wait();
        !matches!(waited, Err(Error::NotReplicated { .. }))
    });
    assert!(matches!(waited, Err(Error::Uncertain { made: true, .. })), "{waited:?}");
    store.pin(&key(1)).unwrap().unwrap().wait().unwrap();
    let entry = store.get(&key(1)).unwrap().unwrap();
    assert!(entry.suspended && entry.pinned);
    let flushed = store.flush();
    assert!(matches!(flushed, Err(Error::Uncertain { made: true, .. })), "a flush tells of the loss: {flushed:?}");
    store.close().unwrap();
}

/// An entry with all that lists tell of. Nothing of it changes.
fn make_still(store: &ClusterStore, n: usize) -> SessionEntry {
    store.resolve(&source(n)).unwrap();
    store.begin_turn(&key(n)).unwrap().unwrap();
    store.hold_until(&key(n), "still", Timestamp::MAX).unwrap().unwrap();
    store.get(&key(n)).unwrap().unwrap()
}

/// All reads find what stays as it is, and those that ask all shards pass over none.
fn look_at(store: &ClusterStore, still: &[SessionEntry]) {
    let rows = store.recent(1000, None).unwrap().entries;
    let keys: Vec<_> = store.keys("").unwrap().map(Result::unwrap).collect();
    let (turns, leases) = (store.turns().unwrap().items, store.leases().unwrap().items);
    for entry in still {
        assert!(rows.iter().any(|row| row.key == entry.key) && keys.contains(&entry.key));
        assert!(turns.iter().any(|turn| turn.key == entry.key) && leases.iter().any(|lease| lease.key == entry.key));
        assert_eq!(store.get(&entry.key).unwrap().as_ref(), Some(entry));
        assert_eq!(store.find_by_session_id(&entry.session_id).unwrap().items, std::slice::from_ref(entry));
    }
    assert!(store.len().unwrap() >= still.len() as u64);
}

/// The verbs that histories have not, on an entry that nobody else changes: what they answer is known.
struct Rest<'a> {
    store: &'a ClusterStore,
    n: usize,
    rounds: u64,
    last: Option<TurnToken>,
}

impl<'a> Rest<'a> {
    fn new(store: &'a ClusterStore, n: usize) -> Self {
        Self { store, n, rounds: 0, last: None }
    }

    fn run(&mut self) {
        let (store, key) = (self.store, key(self.n));
        self.rounds += 1;
        TICKS.set(0);
        let entry = store.resolve(&source(self.n)).unwrap().entry;
        let begun = store.begin_turn(&key).unwrap().unwrap();
        assert!(Some(begun.token) > self.last, "{begun:?} after {:?}", self.last);
        self.last = Some(begun.token);
        let open = store.try_begin_turn(&key).unwrap();
        assert!(matches!(&open, TurnStart::Open(open) if open.token == begun.token), "{open:?}");
        assert!(store.turns().unwrap().items.iter().any(|turn| turn.token == begun.token && turn.key == key));
        let ended = [(); 2].map(|()| store.end_turn(&key, begun.token).unwrap());
        assert!(matches!(ended, [TurnEnd::Ended(_), TurnEnd::NotCurrent]), "{ended:?}");
        assert_eq!(store.turn(&key).unwrap(), None);

        store.hold_until(&key, "rest", Timestamp::MAX).unwrap().unwrap();
        let held = store.hold(&key).unwrap().unwrap();
        assert!(
            store.leases().unwrap().items.iter().any(|lease| lease.key == key && lease.name.as_deref() == Some("rest"))
        );
        drop(held);
        assert!(store.release(&key, "rest").unwrap().is_some());
        store.set_extra(&key, "round", &json!(self.rounds)).unwrap().unwrap();
        assert_eq!(store.extra(&key, "round").unwrap(), Some(self.rounds.to_string()));
        assert!(matches!(store.mark_resume_pending(&key, "rest").unwrap(), ResumeMark::Marked(_)));
        assert!(matches!(store.clear_resume_pending(&key).unwrap(), ResumeClear::Cleared(_)));

        let reset = store.reset(&key).unwrap().unwrap().entry;
        assert_eq!(reset.details.prev_session_id, Some(entry.session_id));
        let found = store.find_by_session_id(&reset.session_id).unwrap().items;
        assert_eq!(found.iter().map(|entry| &entry.key).collect::<Vec<_>>(), [&key]);
        assert!(store.keys(key.as_str()).unwrap().any(|found| found.unwrap() == key));
        assert!(store.recent(1000, None).unwrap().entries.iter().any(|row| row.key == key));
        assert!(store.len().unwrap() >= 1);
        TICKS.set(1);
        store.touch_soon(&key).unwrap();
        store.flush().unwrap();
        let updated_at = store.get(&key).unwrap().unwrap().updated_at;
        assert!(updated_at > reset.updated_at, "{updated_at:?} after {:?}", reset.updated_at);
        store.remove(&key).unwrap().unwrap();
        assert_eq!(store.get(&key).unwrap(), None);
    }
}

/// The first slot of a node that had none, so no map names it while the slot is on its way.
#[test]
fn a_node_that_gets_its_first_slot_is_found() {
    let mut cluster = Cluster::with(3, false, &[]);
    let store = ClusterStore::open(cluster.options().replicas(0)).unwrap();
    let node = crate::nodes::Node::start(&[]);
    let (port, bus) = (cluster.nodes[0].port.to_string(), cluster.nodes[0].bus().to_string());
    node.ask(&["CLUSTER", "MEET", "127.0.0.1", &port, &bus]);
    let id = node.ask_text(&["CLUSTER", "MYID"]);
    wait_for("all know the new one", || {
        cluster.nodes.iter().all(|known| {
            let nodes = known.ask_text(&["CLUSTER", "NODES"]);
            nodes.lines().any(|line| line.starts_with(&id) && line.contains("connected") && !line.contains("handshake"))
        }) && node.ask_text(&["CLUSTER", "INFO"]).contains("cluster_state:ok")
    });
    cluster.nodes.push(node);
    let ledger = under_load(&store, || {
        for slot in [0, 1024] {
            SLOWLY(&cluster, slot, owner(&cluster, slot), 3);
        }
    });
    ledger.check_that_nothing_failed(&store);
}
