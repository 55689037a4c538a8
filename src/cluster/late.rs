//! Whom passes of pruning wait for: members that have not looked at what was condemned. Nothing of that goes while they live, so an
//! operator has to know which they are.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use parking_lot::Mutex;

use crate::time::Timestamp;

/// A member is late with what was condemned longer ago than so many intervals of reviews.
const INTERVALS: u32 = 3;

/// The members that the last pass of this process found late, and since when passes do.
#[derive(Debug, Default)]
pub(super) struct Late(Mutex<BTreeMap<String, Timestamp>>);

/// Whom a pass waits for.
#[derive(Debug)]
pub(super) struct Waits {
    now: Timestamp,
    interval: Duration,
    all: BTreeSet<String>,
    late: BTreeSet<String>,
}

impl Waits {
    /// Of a pass that begins now. Members look at what is condemned once in an interval.
    pub(super) fn new(now: Timestamp, interval: Duration) -> Self {
        Self { now, interval, all: BTreeSet::new(), late: BTreeSet::new() }
    }

    /// Notes the members that have not looked at an entry, and answers whether there are any. `condemned` begins with the time at which
    /// it was condemned, in microseconds; a colon may follow.
    pub(super) fn note<'a>(&mut self, members: impl Iterator<Item = &'a String>, condemned: &str) -> bool {
        let when = condemned.split(':').next().and_then(|when| when.parse().ok());
        let when = when.map_or(self.now, Timestamp::from_micros);
        let (is_late, mut is_anybody) = (self.now.since(when) > self.interval * INTERVALS, false);
        for member in members {
            is_anybody = true;
            self.all.insert(member.clone());
            if is_late {
                self.late.insert(member.clone());
            }
        }
        is_anybody
    }
}

impl Late {
    /// Tells at the end of a pass whom it waits for. A member that has just come is late with all that is old, and looks at it within
    /// an interval: so a warning is of those that were late that long ago.
    pub(super) fn tell(&self, Waits { now, interval, all, late }: Waits) {
        let named = |members: Vec<String>| members.join(" ");
        if !all.is_empty() {
            let members = named(all.into_iter().collect());
            tracing::debug!(members, "a pass waits for these members to look at what it condemned");
        }
        let mut known = self.0.lock();
        known.retain(|member, _| late.contains(member));
        for member in late {
            known.entry(member).or_insert(now);
        }
        let hang = known.iter().filter(|(_, since)| now.since(**since) >= interval);
        let hang: Vec<_> = hang.map(|(member, _)| member.clone()).collect();
        if !hang.is_empty() {
            tracing::warn!(
                members = named(hang),
                "these members have not looked for long at what is to be pruned, and it stays: the label `member` of the metrics tells \
                 which processes they are"
            );
        }
    }
}
