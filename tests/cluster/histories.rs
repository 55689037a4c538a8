//! Whatever threads of two handles do at once, some order of their calls explains every answer. `CLOAKROOM_HISTORIES` asks
//! for more.

use std::sync::atomic::{AtomicUsize, Ordering};

use cloakroom::cluster::ClusterStore;

use crate::conformance::one;
use crate::suite::Dice;
use crate::suite::histories::spec::{Answer, Op};
use crate::suite::histories::verbs::{Plain, ThreadClock, Verbs};
use crate::suite::histories::{record, unexplained};

/// Calls go to one handle and the other in turn.
struct Both(ClusterStore, ClusterStore, AtomicUsize);

impl Verbs for Both {
    fn call(&self, n: usize, op: Op) -> Answer {
        let is_even = self.2.fetch_add(1, Ordering::Relaxed).is_multiple_of(2);
        Plain(if is_even { &self.0 } else { &self.1 }).call(n, op)
    }
}

#[test]
fn every_history_has_an_order() {
    let histories = std::env::var("CLOAKROOM_HISTORIES").ok().and_then(|n| n.parse().ok()).unwrap_or(150);
    let options = one().options().clock(ThreadClock::new());
    let open = || ClusterStore::open(options.clone()).unwrap();
    let both = Both(open(), open(), AtomicUsize::default());
    let has = |op: Op| !matches!(op, Op::Hold | Op::LetGo | Op::Cap);
    let mut dice = Dice(0xc1);
    for n in 0..histories {
        let calls = record(&both, &mut dice, 2 * n, &has);
        if let Some(calls) = unexplained(&calls) {
            panic!("no order explains history {n}:\n{calls}");
        }
    }
}
