//! What a flush finds, and what it does all the same.

use cloakroom::cluster::ClusterStore;
use cloakroom::{Error, Sessions};

use crate::common::{key, source};
use crate::nodes::Cluster;

/// One of three nodes has lost the marks of its shards. A flush names it, and what the other two have is durable.
#[test]
fn a_flush_goes_on_past_a_mark_that_is_missing() {
    let cluster = Cluster::with(3, false, &[]);
    let store = ClusterStore::open(cluster.options().replicas(0)).unwrap();
    let receipts: Vec<_> = (0..30).map(|n| store.resolve(&source(n)).unwrap().receipt).collect();
    let (lost, others): (Vec<_>, Vec<_>) = (0..30).partition(|n| cluster.has_key(1, &store, &key(*n)));
    assert!(!lost.is_empty() && [0, 2].iter().all(|node| (0..30).any(|n| cluster.has_key(*node, &store, &key(n)))));
    let marks = cluster.nodes[1].ask(&["KEYS", &format!("{}:*:m", store.name())]);
    let marks: Vec<String> = redis::from_redis_value(marks).unwrap();
    for mark in &marks {
        cluster.nodes[1].ask(&["DEL", mark]);
    }
    // Twice, for each flush finds it.
    for _ in 0..2 {
        let flushed = store.flush();
        assert!(
            matches!(&flushed, Err(Error::ShardLost { node, .. }) if *node == cluster.nodes[1].address()),
            "{flushed:?}"
        );
    }
    assert!(others.iter().all(|n| receipts[*n].is_durable().unwrap()));
}
