//! Leases on a cluster, but for what all engines share.

use std::time::Duration;

use cloakroom::Sessions;
use cloakroom::cluster::ClusterStore;
use cloakroom::time::{Clock, ManualClock};

use crate::common::{NOW, key, source};
use crate::conformance::one;

/// The most that one key may have.
const LIMIT: usize = 1024;

/// Each job has a name of its own, and nobody releases it; or its process is gone.
#[test]
fn leases_that_have_ended_do_not_count() {
    let clock = ManualClock::new(NOW);
    let options = one().options().clock(clock.clone());
    let store = ClusterStore::open(options.clone()).unwrap();
    store.resolve(&source(1)).unwrap();
    let hold = |name: &str| {
        store.hold_until(&key(1), name, clock.now().saturating_add(Duration::from_secs(1))).unwrap().unwrap();
    };
    for n in 0..=LIMIT {
        hold(&format!("job-{n}"));
        clock.advance(Duration::from_secs(1));
    }
    hold("job");
    clock.advance(Duration::from_secs(3600));
    hold("job");
    let leases = store.leases().unwrap().items;
    assert_eq!((leases.len(), leases[0].since), (1, clock.now()), "it is another one of that name");

    store.resolve(&source(2)).unwrap();
    let gone = ClusterStore::open(options).unwrap();
    for _ in 0..LIMIT {
        // It is dropped with its store, so it cannot end itself.
        std::mem::forget(gone.hold(&key(2)).unwrap().unwrap());
    }
    let refused = store.hold(&key(2));
    assert!(matches!(refused, Err(cloakroom::Error::TooManyLeases { .. })), "{refused:?}");
    gone.close().unwrap();
    drop(store.hold(&key(2)).unwrap().unwrap());
    assert_eq!(store.leases().unwrap().items.len(), 1);
}
