//! What a session takes in the memory of its primary and of its replica.

use std::thread;
use std::time::{Duration, Instant};

use cloakroom::Sessions as _;
use cloakroom::cluster::ClusterStore;

use crate::begin_sessions;
use crate::nodes::Cluster;
use crate::rig::info;

/// What nodes hold, without what they hold for connections: that grows up to a bound, whatever there is.
fn held(cluster: &Cluster, nodes: &[usize]) -> u64 {
    let besides = ["mem_total_replication_buffers", "mem_clients_normal", "mem_aof_buffer"];
    let of = |n: usize| {
        let besides: u64 = besides.iter().map(|name| info(cluster, n, "memory", name)).sum();
        info(cluster, n, "memory", "used_memory").saturating_sub(besides)
    };
    nodes.iter().map(|n| of(*n)).sum()
}

/// What their processes hold.
fn resident(cluster: &Cluster, nodes: &[usize]) -> u64 {
    nodes.iter().map(|n| info(cluster, *n, "memory", "used_memory_rss")).sum()
}

pub fn run(_: Duration) {
    let entries: usize = std::env::var("ENTRIES").map_or(10_000, |count| count.parse().unwrap());
    let cluster = Cluster::six();
    let store = ClusterStore::open(cluster.options().shards(4096)).unwrap();
    let primaries = cluster.primaries();
    let replicas: Vec<_> = (0..cluster.nodes.len()).filter(|n| !primaries.contains(n)).collect();
    let all = [("primaries", primaries), ("replicas", replicas)];
    let before = all.each_ref().map(|(_, nodes)| held(&cluster, nodes));
    let began = Instant::now();
    begin_sessions(&store, entries);
    let rate = entries as f64 / began.elapsed().as_secs_f64();
    println!("{entries} sessions begun by 64 callers, {rate:.0}/s");
    assert_eq!(store.len().unwrap(), entries as u64);
    let tell = |when: &str| {
        for ((who, nodes), before) in all.iter().zip(before) {
            let grown = held(&cluster, nodes).saturating_sub(before);
            println!(
                "{when}: {who:<10} {:>6} bytes for each, with its hint: {} MB; their processes hold {} MB",
                grown / entries as u64,
                grown / 1_000_000,
                resident(&cluster, nodes) / 1_000_000
            );
        }
    };
    tell("at once");
    if std::env::var_os("ENTRIES").is_some() {
        // Until then there is a note of each that has been begun.
        thread::sleep(Duration::from_secs(80));
        tell("without notes");
    }
}
