//! Slots that move from one primary to another while all goes on.

use std::time::Duration;

use cloakroom::Sessions as _;
use cloakroom::cluster::ClusterStore;

use crate::battery::Battery;
use crate::failover::under_load;
use crate::nodes::{Cluster, wait_for};
use crate::slots::{Way, at_once, by_keys, can_at_once, owner};
use crate::suite::Dice;

/// Three keys at a time, and a pause, as for an operator's tool that has a network in between.
const SLOWLY: Way = |cluster, slot, from, to| by_keys(cluster, slot, from, to, 3, Duration::from_millis(5));

fn move_one(cluster: &Cluster, dice: &mut Dice, way: Way) {
    // Sixteen shards have their slots.
    let slot = (dice.roll(16) * 1024) as u16;
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
            SLOWLY(&cluster, slot, owner(&cluster, slot), 3);
        }
    });
    ledger.check_that_nothing_failed(&store);
}
