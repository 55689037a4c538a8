//! What a dry run would do, and the passes that make such a plan or keep to it.

use std::collections::HashMap;
use std::time::Duration;

use super::decide::Outcome;
use super::report::Protected;
use crate::codec::{Activity, Fingerprint};
use crate::entry::Revision;
use crate::time::Timestamp;

/// Which entries a pass is about.
pub(crate) enum Scope<'a> {
    /// All that are due.
    All,
    /// All that are due, and which those are that a dry run would remove.
    #[cfg_attr(not(feature = "live"), expect(dead_code, reason = "the live view makes plans"))]
    Note(&'a mut Planned),
    /// Those of a plan that have not changed since.
    #[cfg_attr(not(feature = "live"), expect(dead_code, reason = "the live view makes plans"))]
    Only(&'a HashMap<Fingerprint, State>),
}

/// An entry as it was seen: its revision and its time of activity.
pub(crate) type State = (Revision, Timestamp);

/// What a dry run would do with which entry.
#[derive(Debug, Default)]
pub(crate) struct Planned {
    /// What it would remove.
    pub(crate) remove: HashMap<Fingerprint, State>,
    /// The first of those, the oldest first: at most [`NOTED`](Self::NOTED).
    pub(crate) first: Vec<Activity>,
    /// What it would keep, likewise.
    pub(crate) keep: Vec<(Fingerprint, Protected)>,
}

impl Planned {
    /// How many entries it names.
    pub(crate) const NOTED: usize = 1000;
    /// How many entries it would remove at most: forty bytes each are kept in memory.
    const MOST: usize = 1 << 20;

    pub(super) fn note(&mut self, entry: Fingerprint, seen: &Activity, outcome: Outcome, idle: Duration) {
        match outcome {
            Outcome::Removed => {
                if self.remove.len() < Self::MOST {
                    self.remove.insert(entry, (seen.hot.revision, seen.hot.updated_at));
                }
                if self.first.len() < Self::NOTED {
                    self.first.push(seen.clone());
                }
            }
            Outcome::Kept(reason) if self.keep.len() < Self::NOTED => {
                self.keep.push((entry, Protected { key: seen.key.clone(), reason, idle }));
            }
            Outcome::Kept(_) | Outcome::Changed | Outcome::Unreviewed => {}
        }
    }
}
