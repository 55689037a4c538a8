//! The suite that all engines share, on one node and on six.

use std::sync::OnceLock;

use cloakroom::Sessions;
use cloakroom::cluster::ClusterStore;
use cloakroom::time::ManualClock;

use crate::common::NOW;
use crate::nodes::Cluster;
use crate::suite::{Can, Rig};

/// What all tests that harm nothing share.
pub fn one() -> &'static Cluster {
    static ONE: OnceLock<Cluster> = OnceLock::new();
    ONE.get_or_init(Cluster::one)
}

pub fn six() -> &'static Cluster {
    static SIX: OnceLock<Cluster> = OnceLock::new();
    SIX.get_or_init(Cluster::patient)
}

struct Clustered {
    store: ClusterStore,
    clock: ManualClock,
}

impl Clustered {
    fn new(cluster: &Cluster) -> Self {
        let clock = ManualClock::new(NOW);
        Self { store: ClusterStore::open(cluster.options().clock(clock.clone())).unwrap(), clock }
    }
}

impl Rig for Clustered {
    fn sessions(&self) -> &dyn Sessions {
        &self.store
    }

    fn clock(&self) -> &ManualClock {
        &self.clock
    }

    fn can(&self, what: Can) -> bool {
        // Each shard has its share of a cap, and no entry goes from one to another.
        !matches!(what, Can::ExactCap | Can::Rename)
    }
}

mod on_one_node {
    crate::conformance!(super::Clustered::new(super::one()));
}

mod on_six_nodes {
    crate::conformance!(super::Clustered::new(super::six()));
}
