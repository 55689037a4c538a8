//! The verbs, as calls with an answer that the specification knows.

use std::cell::Cell;
use std::time::Duration;

use cloakroom::change::{Edit, Expect, Modified, Put, Repoint, Repointed, Resolution, Touch};
use cloakroom::time::{Clock, SystemClock, Timer};
use cloakroom::{Extras, PrunePolicy, SessionEntry, SessionKey, Sessions, Timestamp, Usage};

use super::spec::{Answer, Entry, How, Leases, MAX_AGE, Op, Revision};
use crate::common::{NOW, key, source};

/// What the specification counts time in. All of a history lies within a day, so that no time is taken for wrong.
const TICK: Duration = Duration::from_secs(5 * 60);
const TICK_MICROS: i64 = TICK.as_micros() as i64;

thread_local! {
    /// What the clock says on this thread, in ticks. So each call has its own time, and no other call moves it.
    pub static TICKS: Cell<i64> = const { Cell::new(0) };
}

#[derive(Debug)]
pub struct ThreadClock(SystemClock);

impl ThreadClock {
    pub fn new() -> Self {
        Self(SystemClock::new())
    }
}

impl Clock for ThreadClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(NOW.as_micros() + TICKS.get() * TICK_MICROS)
    }

    fn monotonic(&self) -> Duration {
        self.0.monotonic()
    }

    fn after(&self, delay: Duration) -> Timer {
        self.0.after(delay)
    }
}

/// What a history is recorded of: a store, or one with a fault.
pub trait Verbs: Sync {
    fn call(&self, n: usize, op: Op) -> Answer;
}

pub fn compared(entry: &SessionEntry) -> Entry {
    Entry {
        id: entry.session_id.to_string(),
        updated_at: (entry.updated_at.as_micros() - NOW.as_micros()) / TICK_MICROS,
        suspended: entry.suspended,
        name: entry.details.display_name.clone().unwrap_or_default(),
        tokens: entry.usage.input_tokens,
        revision: Revision::of(number(entry)),
        leases: Leases::default(),
    }
}

/// That of a pass.
pub fn policy(pass: Op) -> PrunePolicy {
    if pass == Op::Cap {
        return PrunePolicy::max_age_days(0).max_disk_bytes(2, 1);
    }
    let mut policy = PrunePolicy::max_age_days(1);
    policy.max_age = Some(TICK * MAX_AGE as u32);
    policy
}

fn number(entry: &SessionEntry) -> u64 {
    u64::from_str_radix(&entry.revision.to_string(), 16).unwrap()
}

/// Reads an entry, appends, and puts it back, as `expects` says of the revision that was read.
pub fn put_back(store: &dyn Sessions, n: usize, letter: char, expects: impl Fn(&SessionEntry) -> Expect) -> Answer {
    let Some(mut entry) = store.get(&key(n)).unwrap() else { return Answer::Entry(None) };
    let (expected, expect) = (number(&entry), expects(&entry));
    // So that what is not one step comes apart.
    std::thread::yield_now();
    entry.details.display_name.get_or_insert_default().push(letter);
    match store.put(&entry, &Extras::default(), expect).unwrap() {
        Put::Created(written) | Put::Replaced(written) => {
            Answer::Put { expected, replaced: true, entry: Some(compared(&written.entry)) }
        }
        Put::Unexpected(found) => Answer::Put { expected, replaced: false, entry: found.as_ref().map(compared) },
        other => panic!("{other:?}"),
    }
}

/// The verbs that every engine has.
pub struct Plain<'a>(pub &'a dyn Sessions);

impl Verbs for Plain<'_> {
    fn call(&self, n: usize, op: Op) -> Answer {
        let (store, key) = (self.0, key(n));
        match op {
            Op::Get => Answer::Entry(store.get(&key).unwrap().as_ref().map(compared)),
            Op::Touch => Answer::Found(store.touch(&key).unwrap().is_some()),
            Op::Append(letter) => {
                let changed = store.update(&key, &mut |details| {
                    details.display_name.get_or_insert_default().push(letter);
                });
                Answer::Found(changed.unwrap().is_some())
            }
            Op::Modify(letter) => {
                let modified = store.modify(&key, Touch::Yes, &mut |draft| {
                    draft.entry.details.display_name.get_or_insert_default().push(letter);
                    Edit::Write
                });
                let (how, written) = match modified.unwrap() {
                    Modified::Created(written) => (How::Created, written),
                    Modified::Changed(written) => (How::Existing, written),
                    other => panic!("{other:?}"),
                };
                Answer::Resolved { how, entry: compared(&written.entry) }
            }
            Op::Put(letter) => put_back(store, n, letter, |entry| Expect::Revision(entry.revision)),
            Op::Repoint(n) => {
                let id = format!("run-{n}").parse().unwrap();
                Answer::Entry(match store.repoint(&key, id, &Repoint::new()).unwrap() {
                    Repointed::Switched(written) => Some(compared(&written.entry)),
                    Repointed::Same(entry) => Some(compared(&entry)),
                    Repointed::Missing => None,
                    other => panic!("{other:?}"),
                })
            }
            Op::Usage(input_tokens) => {
                Answer::Found(store.record_usage(&key, &Usage { input_tokens, ..Usage::ZERO }).unwrap().is_some())
            }
            Op::Suspend => Answer::Found(store.suspend(&key).unwrap().is_some()),
            Op::Unsuspend => Answer::Found(store.unsuspend(&key).unwrap().is_some()),
            Op::Remove => Answer::Found(store.remove(&key).unwrap().is_some()),
            Op::Resolve => {
                let resolved = store.resolve(&source(n)).unwrap();
                let how = match resolved.resolution {
                    Resolution::Created => How::Created,
                    Resolution::Existing => How::Existing,
                    Resolution::Replaced { previous, .. } => How::Replaced(previous.to_string()),
                    other => panic!("{other:?}"),
                };
                Answer::Resolved { how, entry: compared(&resolved.entry) }
            }
            Op::Reset => Answer::Entry(store.reset(&key).unwrap().map(|written| compared(&written.entry))),
            Op::Hold | Op::LetGo => panic!("not every engine has them"),
            Op::HoldUntil(is_ahead) => {
                let end = if is_ahead { NOW.saturating_add(TICK * 1000) } else { NOW };
                Answer::Found(store.hold_until(&key, "job", end).unwrap().is_some())
            }
            Op::Release => Answer::Found(store.release(&key, "job").unwrap().is_some()),
            Op::Prune | Op::Cap => {
                // The guard keeps the other key, so the report speaks of this one.
                let report = store.prune(&policy(op), &|other: &SessionKey| *other != key).unwrap();
                Answer::Pruned { removed: report.removed, meanwhile: report.touched_meanwhile > 0 }
            }
        }
    }
}
