//! What the verbs answer when they run one after another, and the search for an order that explains a history.
//!
//! The search is Wing and Gong's: of the calls that no other one ended before, each is tried as the next; a set of calls
//! that are done and the state they led to is looked at once.

use std::collections::{BTreeSet, HashSet};

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
    pub revision: Revision,
    /// No answer tells them: they show in what a pass leaves, and in whether one was there when it ended.
    pub leases: Leases,
}

/// What holds an entry. It stays with whatever session the key has, and goes with the entry.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Leases {
    /// The threads that hold it.
    guards: BTreeSet<usize>,
    /// One with a name, whose end no clock reaches.
    named: bool,
}

/// The revision of an entry. A call that does not answer the entry leaves it unknown; then it is none of those before.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Revision {
    pub known: Option<u64>,
    before: Vec<u64>,
}

impl Revision {
    pub fn of(number: u64) -> Self {
        Self { known: Some(number), before: Vec::new() }
    }

    /// After a change.
    fn next(&self) -> Self {
        let mut before = self.before.clone();
        before.extend(self.known);
        Self { known: None, before }
    }

    fn may_be(&self, number: u64) -> bool {
        self.known.map_or(!self.before.contains(&number), |known| known == number)
    }

    /// With what an answer told of it, if it may be that.
    fn told(&self, answer: &Self) -> Option<Self> {
        let number = answer.known?;
        self.may_be(number).then(|| Self { known: Some(number), before: self.before.clone() })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    Get,
    Touch,
    Append(char),
    /// Appends and touches in one step, and makes an entry where there is none.
    Modify(char),
    /// Reads, appends, and writes the whole entry back if its revision is still the same.
    Put(char),
    Repoint(u32),
    Usage(u64),
    Suspend,
    Unsuspend,
    Remove,
    Resolve,
    Reset,
    Prune,
    /// A pass by a cap that all of the store is above: what nothing protects goes, however young.
    Cap,
    /// Holds the entry for the thread, which drops what it held before.
    Hold,
    /// Drops what the thread holds. Answers whether that was a lease still.
    LetGo,
    /// Until a time that no clock here reaches, or one that has passed.
    HoldUntil(bool),
    Release,
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
    /// Whether the entry that had the revision `expected` was replaced; then the entry after the call, else before.
    Put {
        expected: u64,
        replaced: bool,
        entry: Option<Entry>,
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
            (Op::Get, Answer::Entry(found)) => return told(state, found.as_ref()),
            (Op::Resolve, Answer::Resolved { how, entry }) => {
                let expected = match (how, state) {
                    (How::Created, None) => Entry { id: entry.id.clone(), ..fresh(self.at) },
                    (How::Existing, Some(old)) if !old.suspended => changed(&touched)?,
                    (How::Replaced(previous), Some(old)) if old.suspended && *previous == old.id => {
                        let (revision, leases) = (old.revision.next(), old.leases.clone());
                        Entry { id: entry.id.clone(), revision, leases, ..fresh(self.at.max(old.updated_at)) }
                    }
                    _ => return None,
                };
                return told(Some(&expected), Some(entry));
            }
            (Op::Modify(letter), Answer::Resolved { how, entry }) => {
                let expected = match (how, state) {
                    (How::Created, None) => Entry { id: entry.id.clone(), name: letter.into(), ..fresh(self.at) },
                    (How::Existing, Some(_)) => changed(&|entry| {
                        touched(entry);
                        entry.name.push(letter);
                        entry.revision = entry.revision.next();
                    })?,
                    _ => return None,
                };
                return told(Some(&expected), Some(entry));
            }
            (Op::Put(_), Answer::Entry(None)) => return state.is_none().then_some(None),
            (Op::Put(letter), Answer::Put { expected, replaced: true, entry }) => {
                // The time that was read is put back, whatever touches came since: a touch gives no new revision.
                let read = entry.as_ref()?.updated_at;
                let after = changed(&|entry| {
                    entry.updated_at = entry.updated_at.min(read);
                    entry.name.push(letter);
                    entry.revision = entry.revision.next();
                });
                let is_met = state.is_some_and(|state| state.revision.may_be(*expected));
                return told(after.as_ref(), entry.as_ref()).filter(|_| is_met);
            }
            (Op::Put(_), Answer::Put { expected, replaced: false, entry }) => {
                let is_met = entry.as_ref().is_some_and(|entry| entry.revision.known == Some(*expected));
                return told(state, entry.as_ref()).filter(|_| !is_met);
            }
            (Op::Repoint(_), Answer::Entry(None)) => return state.is_none().then_some(None),
            (Op::Repoint(n), Answer::Entry(Some(entry))) => {
                let (old, id) = (state?, format!("run-{n}"));
                let at = self.at.max(old.updated_at);
                let (revision, leases) = (old.revision.next(), old.leases.clone());
                let expected = if old.id == id {
                    old.clone()
                } else {
                    Entry { id, name: old.name.clone(), revision, leases, ..fresh(at) }
                };
                return told(Some(&expected), Some(entry));
            }
            (Op::Reset, Answer::Entry(None)) => return state.is_none().then_some(None),
            (Op::Reset, Answer::Entry(Some(entry))) => {
                let old = state?;
                let at = self.at.max(old.updated_at);
                let (revision, leases) = (old.revision.next(), old.leases.clone());
                let expected = Entry { id: entry.id.clone(), name: old.name.clone(), revision, leases, ..fresh(at) };
                return told(Some(&expected), Some(entry)).filter(|_| entry.id != old.id);
            }
            (Op::Prune | Op::Cap, Answer::Pruned { removed, meanwhile }) => {
                let due = state.is_some_and(|entry| {
                    let is_held = entry.leases != Leases::default();
                    let is_old = self.op == Op::Cap || entry.updated_at < self.at - MAX_AGE;
                    !entry.suspended && !is_held && is_old
                });
                return match removed {
                    1 => due.then_some(None),
                    0 => (!due || *meanwhile || disturbed).then(|| state.cloned()),
                    _ => None,
                };
            }
            (Op::Touch, Answer::Found(_)) => changed(&touched),
            (Op::Append(letter), Answer::Found(_)) => changed(&|entry| {
                entry.name.push(letter);
                entry.revision = entry.revision.next();
            }),
            (Op::Usage(tokens), Answer::Found(_)) => changed(&|entry| {
                entry.tokens += tokens;
                entry.revision = entry.revision.next();
            }),
            (Op::Suspend, Answer::Found(_)) => changed(&|entry| entry.suspend(true)),
            (Op::Unsuspend, Answer::Found(_)) => changed(&|entry| entry.suspend(false)),
            (Op::Hold, Answer::Found(_)) => changed(&|entry| {
                entry.leases.guards.insert(self.thread);
            }),
            (Op::HoldUntil(is_ahead), Answer::Found(_)) => changed(&|entry| entry.leases.named = is_ahead),
            (Op::LetGo, Answer::Found(was_held)) => {
                let is_held = state.is_some_and(|entry| entry.leases.guards.contains(&self.thread));
                let after = changed(&|entry| {
                    entry.leases.guards.remove(&self.thread);
                });
                return (is_held == *was_held).then_some(after);
            }
            (Op::Release, Answer::Found(was_held)) => {
                let is_held = state.is_some_and(|entry| entry.leases.named);
                return (is_held == *was_held).then(|| changed(&|entry| entry.leases.named = false));
            }
            (Op::Remove, Answer::Found(_)) => None,
            _ => return None,
        };
        (self.answer == Answer::Found(state.is_some())).then_some(after)
    }
}

impl Entry {
    fn suspend(&mut self, suspended: bool) {
        if std::mem::replace(&mut self.suspended, suspended) != suspended {
            self.revision = self.revision.next();
        }
    }
}

/// The state with what an answer told of it, if that is what it may be.
fn told(state: Option<&Entry>, answer: Option<&Entry>) -> Option<Option<Entry>> {
    let (Some(state), Some(answer)) = (state, answer) else {
        return (state.is_none() && answer.is_none()).then_some(None);
    };
    let revision = state.revision.told(&answer.revision)?;
    let state = Entry { revision, ..state.clone() };
    let seen = Entry { revision: answer.revision.clone(), leases: answer.leases.clone(), ..state.clone() };
    (seen == *answer).then_some(Some(state))
}

fn fresh(at: i64) -> Entry {
    let (revision, leases) = (Revision::default(), Leases::default());
    Entry { id: String::new(), updated_at: at, suspended: false, name: String::new(), tokens: 0, revision, leases }
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
        .map(|call| {
            calls.iter().any(|other| !matches!(other.op, Op::Get | Op::Prune | Op::Cap) && call.overlaps(other))
        })
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
