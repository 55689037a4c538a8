//! Plans of pruning: what a preview said would go. A plan is used once, and lasts ten minutes.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use crate::codec::Fingerprint;
use crate::prune::{PrunePolicy, State};
use crate::time::Timestamp;

/// How long a plan lasts.
pub(super) const LASTS: Duration = Duration::from_secs(10 * 60);
/// Plans that are kept: each look at the page makes one, and who looks must not take the plan of who decides. The oldest
/// goes for a newer one.
const KEPT: usize = 64;
/// Entries of all plans together, which is what they cost.
const ENTRIES: usize = 1 << 20;

/// What a preview said would go.
pub(super) struct Plan {
    pub(super) policy: PrunePolicy,
    /// When it was made, by the clock of the store: what expired since stays.
    pub(super) as_of: Timestamp,
    pub(super) remove: HashMap<Fingerprint, State>,
    made: Instant,
}

#[derive(Default)]
pub(super) struct Plans {
    plans: VecDeque<(String, Plan)>,
}

impl Plan {
    pub(super) fn new(policy: PrunePolicy, as_of: Timestamp, remove: HashMap<Fingerprint, State>) -> Self {
        Self { policy, as_of, remove, made: Instant::now() }
    }
}

impl Plans {
    pub(super) fn keep(&mut self, name: String, plan: Plan) {
        self.plans.push_back((name, plan));
        let entries = |plans: &VecDeque<(String, Plan)>| plans.iter().map(|(_, plan)| plan.remove.len()).sum::<usize>();
        while self.plans.len() > 1 && (self.plans.len() > KEPT || entries(&self.plans) > ENTRIES) {
            self.plans.pop_front();
        }
    }

    /// Takes a plan, to be used.
    pub(super) fn take(&mut self, name: &str) -> Option<Plan> {
        self.take_at(name, Instant::now())
    }

    fn take_at(&mut self, name: &str, now: Instant) -> Option<Plan> {
        self.plans.retain(|(_, plan)| now.saturating_duration_since(plan.made) < LASTS);
        let place = self.plans.iter().position(|(other, _)| other == name)?;
        self.plans.remove(place).map(|(_, plan)| plan)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(entries: u64) -> Plan {
        let entry = |n: u64| Fingerprint::from_bytes((u128::from(n)).to_be_bytes());
        let state = (crate::entry::Revision::NONE, Timestamp::MIN);
        Plan::new(PrunePolicy::max_age_days(90), Timestamp::MIN, (0..entries).map(|n| (entry(n), state)).collect())
    }

    #[test]
    fn a_plan_is_used_once_and_lasts_ten_minutes() {
        let mut plans = Plans::default();
        plans.keep("a".into(), plan(1));
        plans.keep("b".into(), plan(1));
        assert!(plans.take("c").is_none());
        assert!(plans.take("a").is_some() && plans.take("a").is_none());
        let now = Instant::now();
        assert!(plans.take_at("b", now + LASTS).is_none());
        plans.keep("c".into(), plan(1));
        assert!(plans.take_at("c", now + LASTS - Duration::from_secs(1)).is_some());
    }

    #[test]
    fn what_another_looks_at_takes_no_plan_away() {
        let mut plans = Plans::default();
        plans.keep("mine".into(), plan(1000));
        for n in 0..40 {
            plans.keep(format!("theirs {n}"), plan(1000));
        }
        assert!(plans.take("mine").is_some());
    }

    #[test]
    fn all_of_them_are_bounded() {
        let mut plans = Plans::default();
        for n in 0..2 * KEPT {
            plans.keep(n.to_string(), plan(1));
        }
        assert_eq!(plans.plans.len(), KEPT);
        assert!(plans.take("0").is_none() && plans.take(&(2 * KEPT - 1).to_string()).is_some());
        plans.keep("large".into(), plan(ENTRIES as u64));
        assert_eq!(plans.plans.len(), 1);
    }
}
