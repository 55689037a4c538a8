//! Slots that move from one primary to another.

use std::thread;
use std::time::Duration;

use crate::nodes::{Cluster, wait_for};

/// Moves a slot from one node to another, by their numbers.
pub type Way = fn(&Cluster, u16, usize, usize);

/// The old way: key by key, some at a time.
pub fn by_keys(cluster: &Cluster, slot: u16, from: usize, to: usize, at_a_time: usize, pause: Duration) {
    send_keys(cluster, slot, from, to, at_a_time, pause);
    let (slot, target_id) = (slot.to_string(), cluster.nodes[to].ask_text(&["CLUSTER", "MYID"]));
    for node in [to, from] {
        cluster.nodes[node].ask(&["CLUSTER", "SETSLOT", &slot, "NODE", &target_id]);
    }
}

/// The same without its end: all keys are there, and the slot is not.
pub fn send_keys(cluster: &Cluster, slot: u16, from: usize, to: usize, at_a_time: usize, pause: Duration) {
    let slot = slot.to_string();
    let [source, target] = [from, to].map(|n| &cluster.nodes[n]);
    let [source_id, target_id] = [source, target].map(|node| node.ask_text(&["CLUSTER", "MYID"]));
    target.ask(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &source_id]);
    source.ask(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &target_id]);
    let (port, at_a_time) = (target.port.to_string(), at_a_time.to_string());
    loop {
        let found = source.ask(&["CLUSTER", "GETKEYSINSLOT", &slot, &at_a_time]);
        let keys: Vec<String> = redis::from_redis_value(found).unwrap();
        if keys.is_empty() {
            break;
        }
        let mut command = vec!["MIGRATE", "127.0.0.1", &port, "", "0", "5000", "KEYS"];
        command.extend(keys.iter().map(String::as_str));
        source.ask(&command);
        thread::sleep(pause);
    }
}

/// All of a slot at once, where the server can do that.
pub fn at_once(cluster: &Cluster, slot: u16, from: usize, to: usize) {
    let slot = slot.to_string();
    let [source, target] = [from, to].map(|n| &cluster.nodes[n]);
    let target_id = target.ask_text(&["CLUSTER", "MYID"]);
    source.ask(&["CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", &slot, &slot, "NODE", &target_id]);
    wait_for("the slot has moved", || owner(cluster, slot.parse().unwrap()) == to);
}

pub fn can_at_once(cluster: &Cluster) -> bool {
    let help: Vec<String> = redis::from_redis_value(cluster.nodes[0].ask(&["CLUSTER", "HELP"])).unwrap();
    help.iter().any(|line| line.starts_with("MIGRATESLOTS"))
}

/// Which primary says that it has a slot.
pub fn owner(cluster: &Cluster, slot: u16) -> usize {
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
