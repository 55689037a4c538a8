//! How fast a store is loaded, and read into a backup.

use std::time::{Duration, Instant};

use cloakroom::Sessions as _;
use cloakroom::cluster::ClusterStore;

use crate::begin_sessions;
use crate::nodes::Cluster;

pub fn run(_: Duration) {
    let entries: usize = std::env::var("ENTRIES").map_or(20_000, |count| count.parse().unwrap());
    let cluster = Cluster::six();
    let options = || cluster.options().shards(4096);
    let store = ClusterStore::open(options()).unwrap();
    begin_sessions(&store, entries);
    let mut file = Vec::new();
    let tell = |what: &str, began: Instant| {
        let rate = entries as f64 / began.elapsed().as_secs_f64();
        println!("{what:<8} of {entries} entries: {rate:>7.0}/s");
    };
    let began = Instant::now();
    assert_eq!(store.backup(&mut file, |_| {}).unwrap().entries, entries as u64);
    tell("backup", began);
    let restored = options();
    let began = Instant::now();
    assert_eq!(ClusterStore::restore(restored.clone(), &*file, |_| {}).unwrap().entries, entries as u64);
    tell("restore", began);
    assert_eq!(ClusterStore::open(restored).unwrap().len().unwrap(), entries as u64);
}
