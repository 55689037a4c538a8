//! What a process tells of itself and of the whole.

use std::collections::BTreeSet;
use std::future::{Future as _, IntoFuture as _};
use std::time::Duration;

use cloakroom::cluster::ClusterStore;
use cloakroom::prune::NoActivity;
use cloakroom::time::ManualClock;
use cloakroom::{PrunePolicy, SessionKey, Sessions as _, time::Clock};

use crate::common::{key, source};
use crate::conformance::{one, six};
use crate::nodes::{Cluster, wait_for};

/// The figure of this name.
#[track_caller]
pub fn figure(store: &ClusterStore, name: &str) -> u64 {
    let text = store.metrics().unwrap();
    let line = text.lines().find(|line| line.starts_with(&format!("cloakroom_cluster_{name}{{")));
    let line = line.unwrap_or_else(|| panic!("no {name} in {text}"));
    assert!(line.contains(&format!("store=\"{}\"", store.name())) && line.contains("member=\""));
    line.rsplit_once(' ').unwrap().1.parse().unwrap()
}

#[test]
fn a_process_tells_what_it_did_and_what_there_is() {
    let clock = ManualClock::new(cloakroom::time::SystemClock::new().now());
    let options = one().options().clock(clock.clone()).review_interval(Duration::from_secs(3600));
    let store = ClusterStore::open(options.clone()).unwrap();
    for n in 0..4 {
        store.resolve(&source(n)).unwrap();
    }
    for _ in 0..3 {
        store.touch(&key(0)).unwrap().unwrap();
    }
    // A message touches; what creates an entry does not.
    store.resolve(&source(1)).unwrap();
    store.begin_turn(&key(2)).unwrap().unwrap();
    let named = ["entries", "open_turns", "members", "guards", "condemned", "receipts_waiting", "uncertain_total"];
    assert_eq!(named.map(|name| figure(&store, name)), [4, 1, 1, 0, 0, 0, 0]);
    let touched = figure(&store, "touches_total");
    assert_eq!(touched, 8, "four looks that found nobody, three touches and a message");
    // One who waits is counted until it is told, or no longer asks.
    let mut receipt = Box::pin(store.touch(&key(0)).unwrap().unwrap().into_future());
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(receipt.as_mut().poll(&mut context).is_pending());
    assert_eq!(figure(&store, "receipts_waiting"), 1);
    drop(receipt);
    assert_eq!(figure(&store, "receipts_waiting"), 0);
    // Another process with a guard has not looked yet.
    let other = ClusterStore::open(options.guard(|_: &SessionKey| false)).unwrap();
    clock.advance(Duration::from_secs(10 * 86_400));
    store.touch(&key(3)).unwrap().unwrap();
    let report = store.prune(&PrunePolicy::max_age_days(1), &NoActivity).unwrap();
    assert_eq!((report.removed, report.kept_unreviewed), (0, 3));
    let named = ["members", "guards", "condemned", "kept_unreviewed", "prune_passes_total", "pruned_total"];
    assert_eq!(named.map(|name| figure(&store, name)), [2, 1, 3, 3, 1, 0]);
    other.review().unwrap();
    assert_eq!((figure(&other, "reviews_total"), figure(&store, "reviews_total")), (1, 0));
    store.prune(&PrunePolicy::max_age_days(1), &NoActivity).unwrap();
    let named = ["condemned", "kept_unreviewed", "prune_passes_total", "pruned_total", "entries"];
    assert_eq!(named.map(|name| figure(&store, name)), [0, 0, 2, 3, 1]);
    // A script reads what Prometheus reads.
    let text = store.metrics().unwrap();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (name, value) = line.rsplit_once(' ').unwrap();
        assert!(name.ends_with('}') && value.parse::<u64>().is_ok(), "{line}");
    }
}

/// Of all primaries together, and of the replica that is farthest behind. A user that may not ask learns the rest.
#[test]
fn nodes_tell_of_their_memory_and_of_replicas_that_are_behind() {
    let cluster = Cluster::patient();
    let store = cluster.open();
    let memory = |n: usize| {
        let info = cluster.nodes[n].ask_text(&["INFO", "memory"]);
        info.lines().find_map(|line| line.strip_prefix("used_memory:")?.trim().parse::<u64>().ok()).unwrap()
    };
    let least = (0..3).map(memory).min().unwrap();
    let stats = store.stats().unwrap();
    assert!(stats.used_memory.unwrap() > least * 2, "{stats:?}, of {least} at least each");
    wait_for("the replicas have all", || store.stats().unwrap().replica_lag == Some(0));
    let replica = &cluster.nodes[cluster.replica_of(1)];
    replica.signal("STOP");
    for n in 0..30 {
        store.resolve(&source(n)).unwrap();
    }
    // Each of these is longer than what goes to a replica to keep its connection.
    assert!((0..30).any(|n| cluster.has_key(1, &store, &key(n))));
    assert!(store.stats().unwrap().replica_lag.unwrap() > 200);
    assert!(figure(&store, "replica_lag_bytes") > 200 && figure(&store, "used_memory_bytes") > least * 2);
    replica.signal("CONT");
    wait_for("it has caught up", || store.stats().unwrap().replica_lag == Some(0));
    // One node has no replica.
    let alone = one().open().stats().unwrap();
    assert!(alone.used_memory.unwrap() > 0 && alone.replica_lag.is_none(), "{alone:?}");
    assert!(!one().open().metrics().unwrap().contains("replica_lag"));
    for node in &cluster.nodes {
        node.ask(&["ACL", "SETUSER", "blind", "on", ">sesame", "~*", "+@all", "-info"]);
    }
    let blind = cluster.options_of(&store).login("blind", "sesame").settings_are_stated().replicas(0);
    let blind = ClusterStore::open(blind).unwrap();
    let stats = blind.stats().unwrap();
    assert_eq!((stats.entries, stats.used_memory, stats.replica_lag), (30, None, None));
    assert_eq!(figure(&blind, "entries"), 30);
}

/// The page has a row for each figure, and each row is one.
#[test]
fn the_page_lists_every_figure_of_a_cluster() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md")).unwrap();
    let part = page.split("## On a cluster").nth(1).unwrap().split("\n## ").next().unwrap();
    let rows = part.lines().filter(|line| line.starts_with("| `")).map(|line| line.split('|').nth(1).unwrap());
    let listed: BTreeSet<_> = rows.flat_map(|names| names.split('`').skip(1).step_by(2)).collect();
    let text = ClusterStore::open(six().options()).unwrap().metrics().unwrap();
    let told = text.lines().filter_map(|line| line.strip_prefix("# TYPE cloakroom_cluster_"));
    assert_eq!(listed, told.map(|line| line.split(' ').next().unwrap()).collect());
}
