//! Whatever threads of two handles do at once, some order of their calls explains every answer. `CLOAKROOM_CLUSTER_HISTORIES`
//! and `CLOAKROOM_FAILOVER_HISTORIES` ask for more.

use std::sync::atomic::{AtomicUsize, Ordering};

use cloakroom::cluster::{ClusterOptions, ClusterStore};

use crate::awaited::Awaited;
use crate::battery::Battery;
use crate::conformance::one;
use crate::nodes::{Cluster, wait_for};
use crate::suite::Dice;
use crate::suite::histories::spec::{Answer, Op};
use crate::suite::histories::verbs::{Plain, ThreadClock, Verbs};
use crate::suite::histories::{record, unexplained};

/// Calls go to one handle and the other in turn: verbs that block, and those that are futures.
pub struct Both(pub ClusterStore, Awaited, AtomicUsize);

impl Verbs for Both {
    fn call(&self, n: usize, op: Op) -> Answer {
        let is_even = self.2.fetch_add(1, Ordering::Relaxed).is_multiple_of(2);
        Plain(if is_even { &self.0 } else { &self.1 }).call(n, op)
    }
}

#[test]
fn every_history_has_an_order() {
    let both = both(one().options());
    Battery::new("cluster_histories", 150).run(|n, mut dice| check(&both, &mut dice, n));
}

/// Replicas take over between the histories, as an operator makes them. Each begins with a map that is wrong, and nobody may
/// notice. (While one takes over, the old primary may answer a read for some milliseconds more: what is promised then is
/// looked at in `failover.rs`.)
#[test]
fn every_history_has_an_order_after_replicas_took_over() {
    let cluster = Cluster::six();
    let both = both(cluster.options());
    Battery::new("failover_histories", 40).run(|n, mut dice| {
        if n % 10 == 9 {
            let primaries = cluster.primaries();
            let replica = cluster.replica_of(primaries[dice.roll(primaries.len())]);
            cluster.nodes[replica].ask(&["CLUSTER", "FAILOVER"]);
            wait_for("the replica takes over", || cluster.primaries().contains(&replica));
            cluster.wait_until_whole();
        }
        check(&both, &mut dice, n);
    });
}

pub fn both(options: ClusterOptions) -> Both {
    let options = options.clock(ThreadClock::new());
    Both(ClusterStore::open(options.clone()).unwrap(), Awaited::open(options), AtomicUsize::default())
}

pub fn check(both: &Both, dice: &mut Dice, n: u64) {
    let has = |op: Op| !matches!(op, Op::Hold | Op::LetGo | Op::Cap);
    let calls = record(both, dice, 2 * n as usize, &has);
    if let Some(calls) = unexplained(&calls) {
        panic!("no order explains history {n}:\n{calls}");
    }
}
