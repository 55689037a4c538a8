//! A change is sent again, and in between another process comes: it is carried out once, and says what came of it.

use std::thread;
use std::time::Duration;

use cloakroom::cluster::{ClusterOptions, ClusterStore};
use cloakroom::{Sessions, Usage};

use crate::common::{key, source};
use crate::nodes::Cluster;
use crate::proxy::Proxy;
use crate::retries::{Rig, rig};

/// A node behind a proxy, and two processes, whose verbs alone call scripts.
struct Two {
    _cluster: Cluster,
    proxy: Proxy,
    store: ClusterStore,
    other: ClusterStore,
}

fn two(set: impl Fn(ClusterOptions) -> ClusterOptions) -> Two {
    let Rig { _cluster, proxy, options } = rig();
    let options = options.member_lease(Duration::from_secs(3600));
    let store = ClusterStore::open(set(options.clone())).unwrap();
    let other = ClusterStore::open(options).unwrap();
    for n in 0..4 {
        other.resolve(&source(n)).unwrap();
    }
    Two { _cluster, proxy, store, other }
}

/// A turn is begun at the second attempt, and the entry has changed by then: it is begun over what is there now.
#[test]
fn a_turn_is_begun_though_the_entry_changed_between_two_attempts() {
    let Two { _cluster, proxy, store, other } = two(|options| options.patience(Duration::from_secs(5)));
    let turn = Usage { input_tokens: 1, ..Usage::default() };
    other.record_usage(&key(0), &turn).unwrap().unwrap();
    proxy.break_before("EVALSHA");
    thread::scope(|scope| {
        let beginning = scope.spawn(|| store.begin_turn(&key(0)));
        proxy.wait_until_lost();
        other.record_usage(&key(0), &turn).unwrap().unwrap();
        proxy.open();
        let begun = beginning.join().unwrap().unwrap().unwrap();
        assert_eq!(other.turn(&key(0)).unwrap().unwrap().token, begun.token);
    });
}
