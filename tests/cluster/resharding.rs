//! Slots that move from one primary to another while all goes on.

use std::thread;
use std::time::Duration;

use cloakroom::Sessions as _;
use cloakroom::cluster::ClusterStore;

use crate::battery::Battery;
use crate::failover::under_load;
use crate::nodes::{Cluster, wait_for};
use crate::suite::Dice;

/// The old way: key by key.
fn by_keys(cluster: &Cluster, slot: u16, from: usize, to: usize) {
    let slot = slot.to_string();
    let [source, target] = [from, to].map(|n| &cluster.nodes[n]);
    let [source_id, target_id] = [source, target].map(|node| node.ask_text(&["CLUSTER", "MYID"]));
    target.ask(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &source_id]);
    source.ask(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &target_id]);
    let port = target.port.to_string();
    loop {
        let found = source.ask(&["CLUSTER", "GETKEYSINSLOT", &slot, "3"]);
        let keys: Vec<String> = redis::from_redis_value(found).unwrap();
        if keys.is_empty() {
            break;
        }
        let mut command = vec!["MIGRATE", "127.0.0.1", &port, "", "0", "5000", "KEYS"];
        command.extend(keys.iter().map(String::as_str));
        source.ask(&command);
        // As an operator's tool does, which has a network in between.
        thread::sleep(Duration::from_millis(5));
    }
    for node in [target, source] {
        node.ask(&["CLUSTER", "SETSLOT", &slot, "NODE", &target_id]);
    }
}

/// All of a slot at once, where the server can do that.
fn at_once(cluster: &Cluster, slot: u16, from: usize, to: usize) {
    let slot = slot.to_string();
    let [source, target] = [from, to].map(|n| &cluster.nodes[n]);
    let target_id = target.ask_text(&["CLUSTER", "MYID"]);
    source.ask(&["CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", &slot, &slot, "NODE", &target_id]);
    wait_for("the slot has moved", || owner(cluster, slot.parse().unwrap()) == to);
}

fn can_at_once(cluster: &Cluster) -> bool {
    let help: Vec<String> = redis::from_redis_value(cluster.nodes[0].ask(&["CLUSTER", "HELP"])).unwrap();
    help.iter().any(|line| line.starts_with("MIGRATESLOTS"))
}

/// Which primary says that it has a slot.
fn owner(cluster: &Cluster, slot: u16) -> usize {
    let has = |n: &usize| {
        let nodes = cluster.nodes[*n].ask_text(&["CLUSTER", "NODES"]);
        let own = nodes.lines().find(|line| line.contains("myself")).unwrap();
        own.split(' ').skip(8).filter(|range| !range.starts_with('[')).any(|range| {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            (first.parse().unwrap()..=last.parse().unwrap()).contains(&slot)
        })
    };
    let mut found = None;
    wait_for("a node has the slot", || {
        found = cluster.primaries().iter().find(|n| has(n)).copied();
        found.is_some()
    });
    found.unwrap()
}

fn move_one(cluster: &Cluster, dice: &mut Dice, way: fn(&Cluster, u16, usize, usize)) {
    // Sixteen shards have their slots.
    let slot = (dice.roll(16) * 1024) as u16;
    let from = owner(cluster, slot);
    let others: Vec<_> = cluster.primaries().into_iter().filter(|n| *n != from).collect();
    way(cluster, slot, from, others[dice.roll(others.len())]);
}

#[test]
fn slots_move_and_no_verb_fails_or_is_made_twice() {
    let cluster = Cluster::six();
    let atomic = can_at_once(&cluster);
    Battery::new("resharded", 3).run(|_, mut dice| {
        let store = cluster.open();
        let ledger = under_load(&store, || {
            for n in 0..4 {
                let way = if n % 2 == 1 && atomic { at_once } else { by_keys };
                move_one(&cluster, &mut dice, way);
            }
        });
        ledger.check_that_nothing_failed(&store);
        // A store that is opened now sees the same.
        ledger.check(&ClusterStore::open(cluster.options_of(&store)).unwrap());
        store.close().unwrap();
    });
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
            by_keys(&cluster, slot, owner(&cluster, slot), 3);
        }
    });
    ledger.check_that_nothing_failed(&store);
}
