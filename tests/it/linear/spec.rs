//! What the verbs answer when they run one after another, and the search for an order that explains a history.
//!
//! The search is Wing and Gong's: of the calls that no other one ended before, each is tried as the next; a set of calls
//! that are done and the state they led to is looked at once.

use std::collections::HashSet;

/// An entry, as far as it is compared.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Entry {
    pub id: String,
    /// In ticks of the clock, which all lie within a day.
    pub updated_at: i64,
    pub suspended: bool,
    /// The letters that were appended to the display name: they tell which changes a reader saw.
    pub name: String,
    pub tokens: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    Get,
    Touch,
    Append(char),
    Usage(u64),
    Suspend,
    Unsuspend,
    Remove,
    Resolve,
    Reset,
    Prune,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Entry(Option<Entry>),
    /// Whether there was an entry.
    Found(bool),
    /// The session that was replaced, and the entry after the call.
    Resolved {
        how: How,
        entry: Entry,
    },
    /// How many entries the pass removed, and whether one was changed between question and removal.
    Pruned {
        removed: u64,
        meanwhile: bool,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum How {
    Created,
    Existing,
    Replaced(String),
}

/// One call and the time between which it ran.
#[derive(Debug, Clone)]
pub struct Call {
    pub thread: usize,
    pub key: usize,
    pub op: Op,
    /// What the clock said in it, in ticks.
    pub at: i64,
    pub answer: Answer,
    pub began: u64,
    pub ended: u64,
}

/// Ticks that an entry may be idle.
pub const MAX_AGE: i64 = 90;

impl Call {
    fn overlaps(&self, other: &Self) -> bool {
        self.began < other.ended && other.began < self.ended
    }

    /// The state after the call, if its answer is the right one in `state`.
    ///
    /// A pass that removes nothing is right where there is nothing to remove. If the entry is `disturbed`, changed while
    /// the pass runs, it is always right: a pass may leave what it could have removed, and never the other way round.
    pub fn step(&self, state: Option<&Entry>, disturbed: bool) -> Option<Option<Entry>> {
        let changed = |change: &dyn Fn(&mut Entry)| {
            let mut after = state.cloned();
            after.iter_mut().for_each(change);
            after
        };
        let touched = |entry: &mut Entry| entry.updated_at = entry.updated_at.max(self.at);
        let after = match (self.op, &self.answer) {
            (Op::Get, Answer::Entry(found)) => return (found.as_ref() == state).then(|| state.cloned()),
            (Op::Resolve, Answer::Resolved { how, entry }) => {
                let expected = match (how, state) {
                    (How::Created, None) => Entry { id: entry.id.clone(), ..fresh(self.at) },
                    (How::Existing, Some(old)) if !old.suspended => changed(&touched)?,
                    (How::Replaced(previous), Some(old)) if old.suspended && *previous == old.id => {
                        Entry { id: entry.id.clone(), ..fresh(self.at.max(old.updated_at)) }
                    }
                    _ => return None,
                };
                return (expected == *entry).then_some(Some(expected));
            }
            (Op::Reset, Answer::Entry(None)) => return state.is_none().then_some(None),
            (Op::Reset, Answer::Entry(Some(entry))) => {
                let old = state?;
                let at = self.at.max(old.updated_at);
                let expected = Entry { id: entry.id.clone(), name: old.name.clone(), ..fresh(at) };
                return (expected == *entry && entry.id != old.id).then_some(Some(expected));
            }
            (Op::Prune, Answer::Pruned { removed, meanwhile }) => {
                let due = state.is_some_and(|entry| !entry.suspended && entry.updated_at < self.at - MAX_AGE);
                return match removed {
                    1 => due.then_some(None),
                    0 => (!due || *meanwhile || disturbed).then(|| state.cloned()),
                    _ => None,
                };
            }
            (Op::Touch, Answer::Found(_)) => changed(&touched),
            (Op::Append(letter), Answer::Found(_)) => changed(&|entry| entry.name.push(letter)),
            (Op::Usage(tokens), Answer::Found(_)) => changed(&|entry| entry.tokens += tokens),
            (Op::Suspend, Answer::Found(_)) => changed(&|entry| entry.suspended = true),
            (Op::Unsuspend, Answer::Found(_)) => changed(&|entry| entry.suspended = false),
            (Op::Remove, Answer::Found(_)) => None,
            _ => return None,
        };
        (self.answer == Answer::Found(state.is_some())).then_some(after)
    }
}

fn fresh(at: i64) -> Entry {
    Entry { id: String::new(), updated_at: at, suspended: false, name: String::new(), tokens: 0 }
}

fn single(call: &Call) -> Vec<Call> {
    match call.answer {
        Answer::Pruned { removed: removed @ 2.., meanwhile } => {
            let one = Call { answer: Answer::Pruned { removed: 1, meanwhile }, ..call.clone() };
            vec![one; removed as usize]
        }
        _ => vec![call.clone()],
    }
}

/// Whether some order explains the calls of one key, from nothing on. Keys are looked at one by one: a history has an
/// order if the part of each key has one.
///
/// A pass that removed an entry may meet its key again: another thread's clock may be behind, so that what it creates is
/// old at once. So a pass that removed several is as many calls that ran at the same time.
pub fn has_an_order(calls: &[Call]) -> bool {
    let calls: Vec<Call> = calls.iter().flat_map(single).collect();
    assert!(calls.len() <= 32, "a set of calls is 32 bits");
    let all = u32::MAX >> (32 - calls.len());
    let disturbed: Vec<bool> = calls
        .iter()
        .map(|call| calls.iter().any(|other| !matches!(other.op, Op::Get | Op::Prune) && call.overlaps(other)))
        .collect();
    let mut seen = HashSet::new();
    let mut open = vec![(0_u32, None)];
    while let Some((done, state)) = open.pop() {
        if done == all {
            return true;
        }
        let left = || (0..calls.len()).filter(|n| done & (1 << n) == 0);
        let first_end = left().map(|n| calls[n].ended).min().unwrap_or(0);
        for n in left().filter(|n| calls[*n].began <= first_end) {
            if let Some(after) = calls[n].step(state.as_ref(), disturbed[n]) {
                let next = (done | 1 << n, after);
                if seen.insert(next.clone()) {
                    open.push(next);
                }
            }
        }
    }
    false
}
