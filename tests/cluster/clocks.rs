//! Clocks that are wrong: they must not empty a store.

use cloakroom::cluster::ClusterStore;
use cloakroom::{PrunePolicy, SessionKey, Sessions, Timestamp};

use crate::common::{key, source};
use crate::nodes::Cluster;

const DAY: u64 = 86_400;

fn pass(store: &ClusterStore) -> cloakroom::prune::PruneReport {
    store.prune(&PrunePolicy::max_age_days(1), &|_: &SessionKey| false).unwrap()
}

/// Of three primaries one is a week ahead: the others are believed, and no pass runs.
#[test]
fn a_node_whose_clock_is_ahead_empties_nothing() {
    let mut cluster = Cluster::with(3, false, &[]);
    let store = ClusterStore::open(cluster.options().replicas(0)).unwrap();
    for n in 0..20 {
        store.resolve(&source(n)).unwrap();
    }
    assert_eq!((pass(&store).removed, pass(&store).clock_doubted), (0, false));
    store.flush().unwrap();
    cluster.nodes[0].kill();
    cluster.nodes[0].ahead = 7 * DAY;
    cluster.nodes[0].run();
    cluster.wait_until_whole();
    // Also for a process that begins now.
    for store in [&store, &ClusterStore::open(cluster.options_of(&store).replicas(0)).unwrap()] {
        let report = pass(store);
        assert!(report.clock_doubted && report.removed == 0, "{report:?}");
        for n in 0..20 {
            store.touch(&key(n)).unwrap().unwrap();
            let now: Timestamp = std::time::SystemTime::now().into();
            let ahead = store.get(&key(n)).unwrap().unwrap().updated_at.since(now);
            assert!(ahead.as_secs() < DAY, "a touch at the time of the wrong node");
        }
    }
    assert_eq!(store.len().unwrap(), 20);
    cluster.nodes[0].kill();
    cluster.nodes[0].ahead = 0;
    cluster.nodes[0].run();
    cluster.wait_until_whole();
    assert!(!pass(&store).clock_doubted);
}

/// There is one node, and its clock is wrong: that of this host says so.
#[test]
fn the_only_node_may_be_wrong() {
    let mut cluster = Cluster::one();
    let store = cluster.open();
    store.resolve(&source(1)).unwrap();
    store.close().unwrap();
    cluster.nodes[0].kill();
    cluster.nodes[0].ahead = 7 * DAY;
    cluster.nodes[0].run();
    let store = ClusterStore::open(cluster.options_of(&store).replicas(0)).unwrap();
    let report = pass(&store);
    assert!(report.clock_doubted && report.removed == 0, "{report:?}");
    assert!(store.contains(&key(1)).unwrap());
}
