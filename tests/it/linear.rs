//! The verbs of one entry are single steps: whatever threads do at once, some order of their calls explains every answer.
//!
//! Small histories are recorded and searched for such an order. `CLOAKROOM_HISTORIES` asks for more of them.

mod spec;

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Barrier, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use cloakroom::{
    Clock, PrunePolicy, Resolution, SessionEntry, SessionKey, SessionStore, SystemClock, Timestamp, Usage,
};
use crossbeam_channel::Receiver;

use crate::common::{NOW, assert_sound, fast_dir, key, options, source};
use crate::rig::file_model::Dice;
use spec::{Answer, Call, Entry, How, MAX_AGE, Op, has_an_order};

const DAY: i64 = 24 * 60 * 60 * 1_000_000;
const CALLS: usize = 4;

thread_local! {
    /// What the clock says on this thread, in days. So each call has its own time, and no other call moves it.
    static TODAY: Cell<i64> = const { Cell::new(0) };
}

#[derive(Debug)]
struct ThreadClock(SystemClock);

impl Clock for ThreadClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(NOW.as_micros() + TODAY.get() * DAY)
    }

    fn monotonic(&self) -> Duration {
        self.0.monotonic()
    }

    fn after(&self, delay: Duration) -> Receiver<Instant> {
        self.0.after(delay)
    }
}

/// What a history is recorded of: the store, or one with a fault.
trait Verbs: Sync {
    fn call(&self, n: usize, op: Op) -> Answer;
}

fn compared(entry: &SessionEntry) -> Entry {
    Entry {
        id: entry.session_id.to_string(),
        updated_at: (entry.updated_at.as_micros() - NOW.as_micros()) / DAY,
        suspended: entry.suspended,
        name: entry.details.display_name.clone().unwrap_or_default(),
        tokens: entry.usage.input_tokens,
    }
}

fn name_of(entry: &SessionEntry) -> String {
    compared(entry).name
}

impl Verbs for SessionStore {
    fn call(&self, n: usize, op: Op) -> Answer {
        let key = key(n);
        match op {
            Op::Get => Answer::Entry(self.get(&key).unwrap().as_ref().map(compared)),
            Op::Touch => Answer::Found(self.touch(&key).unwrap().is_some()),
            Op::Append(letter) => {
                let changed = self.update(&key, |details| {
                    details.display_name.get_or_insert_default().push(letter);
                });
                Answer::Found(changed.unwrap().is_some())
            }
            Op::Usage(input_tokens) => {
                Answer::Found(self.record_usage(&key, &Usage { input_tokens, ..Usage::ZERO }).unwrap().is_some())
            }
            Op::Suspend => Answer::Found(self.suspend(&key).unwrap().is_some()),
            Op::Unsuspend => Answer::Found(self.unsuspend(&key).unwrap().is_some()),
            Op::Remove => Answer::Found(self.remove(&key).unwrap().is_some()),
            Op::Resolve => {
                let resolved = self.resolve(&source(n)).unwrap();
                let how = match resolved.resolution {
                    Resolution::Created => How::Created,
                    Resolution::Existing => How::Existing,
                    Resolution::Replaced { previous, .. } => How::Replaced(previous.to_string()),
                    other => panic!("{other:?}"),
                };
                Answer::Resolved { how, entry: compared(&resolved.entry) }
            }
            Op::Reset => Answer::Entry(self.reset(&key).unwrap().map(|(entry, _)| compared(&entry))),
            Op::Prune => {
                // The guard keeps the other key, so the report speaks of this one.
                let policy = PrunePolicy::max_age_days(MAX_AGE);
                let report = self.prune(&policy, |other: &SessionKey| *other != key).unwrap();
                Answer::Pruned { removed: report.removed > 0, meanwhile: report.touched_meanwhile > 0 }
            }
        }
    }
}

/// Records one history on the keys `first` and maybe `first + 1`, which nobody has used before.
fn record(verbs: &dyn Verbs, dice: &mut Dice, first: usize) -> Vec<Call> {
    let (keys, threads) = (1 + dice.roll(2), 3 + dice.roll(2));
    let ticket = AtomicU64::new(0);
    let call = |thread: usize, key: usize, op: Op, at: i64| {
        TODAY.set(at);
        let began = ticket.fetch_add(1, Ordering::SeqCst);
        let answer = verbs.call(first + key, op);
        Call { thread, key, op, at, answer, began, ended: ticket.fetch_add(1, Ordering::SeqCst) }
    };
    let mut calls = Vec::new();
    for key in 0..keys {
        if dice.roll(4) > 0 {
            calls.push(call(0, key, Op::Resolve, 0));
        }
    }
    let plans: Vec<Vec<_>> = (0..threads)
        .map(|thread| {
            (0..CALLS).map(|n| (dice.roll(keys), op(dice, thread * CALLS + n), dice.roll(8) as i64 * 20)).collect()
        })
        .collect();
    let start = Barrier::new(threads);
    thread::scope(|scope| {
        let run = |(thread, plan): (usize, Vec<(usize, Op, i64)>)| {
            let (call, start) = (&call, &start);
            scope.spawn(move || {
                start.wait();
                plan.into_iter().map(|(key, op, at)| call(thread + 1, key, op, at)).collect::<Vec<_>>()
            })
        };
        let running: Vec<_> = plans.into_iter().enumerate().map(run).collect();
        calls.extend(running.into_iter().flat_map(|thread| thread.join().unwrap()));
    });
    for key in 0..keys {
        calls.push(call(0, key, Op::Get, 0));
        calls.push(call(0, key, Op::Remove, 0));
    }
    calls
}

/// The `n`-th call of a history; what it writes no other one does.
fn op(dice: &mut Dice, n: usize) -> Op {
    match dice.roll(16) {
        0..2 => Op::Get,
        2..4 => Op::Touch,
        4..6 => Op::Append(char::from(b'a' + n as u8)),
        6 => Op::Usage(1 << n),
        7 => Op::Suspend,
        8 => Op::Unsuspend,
        9 => Op::Remove,
        10..12 => Op::Resolve,
        12 => Op::Reset,
        _ => Op::Prune,
    }
}

/// The keys of a history that no order explains.
fn unexplained(calls: &[Call]) -> Option<String> {
    let of_key = |key| calls.iter().filter(|call| call.key == key).cloned().collect::<Vec<_>>();
    let mut bad = (0..2).map(of_key).find(|calls| !calls.is_empty() && !has_an_order(calls))?;
    bad.sort_by_key(|call| call.began);
    let line = |Call { thread, op, at, answer, began, ended, .. }: &Call| {
        format!("{began:>3} to {ended:>3}, thread {thread}, day {at}: {op:?} answered {answer:?}\n")
    };
    Some(bad.iter().map(line).collect())
}

fn store(dir: &tempfile::TempDir) -> SessionStore {
    // Commits run all the time, and memory holds little: entries come from the trees as often as from there.
    let options = options(&dir.path().join("db")).commit_interval(Duration::from_millis(1)).cached_entries(1);
    SessionStore::open(options.clock(ThreadClock(SystemClock::new()))).unwrap()
}

#[test]
fn every_history_has_an_order() {
    let histories = std::env::var("CLOAKROOM_HISTORIES").ok().and_then(|n| n.parse().ok()).unwrap_or(2000);
    let dir = fast_dir();
    let store = store(&dir);
    let mut dice = Dice(0x11fe);
    for n in 0..histories {
        let calls = record(&store, &mut dice, 2 * n);
        if let Some(calls) = unexplained(&calls) {
            panic!("no order explains history {n}:\n{calls}");
        }
    }
    TODAY.set(0);
    assert!(store.is_empty());
    assert_sound(&store);
}

// The search itself: faults that it has to find.

/// Histories of `broken` until one has no order.
fn assert_found(broken: impl FnOnce(SessionStore) -> Box<dyn Verbs>) {
    let dir = fast_dir();
    let broken = broken(store(&dir));
    let mut dice = Dice(0xbad);
    let found = (0..20_000).any(|n| unexplained(&record(&*broken, &mut dice, 2 * n)).is_some());
    assert!(found, "the fault was not found");
}

/// Lets the others run, so that what is not one step comes apart.
fn pause() {
    for _ in 0..5 {
        thread::yield_now();
    }
}

/// Appends to what it read before, instead of to what is there.
struct ReadsThenWrites(SessionStore);

impl Verbs for ReadsThenWrites {
    fn call(&self, n: usize, op: Op) -> Answer {
        let Op::Append(letter) = op else { return self.0.call(n, op) };
        let Some(entry) = self.0.get(&key(n)).unwrap() else { return Answer::Found(false) };
        pause();
        let name = format!("{}{letter}", name_of(&entry));
        Answer::Found(self.0.update(&key(n), |details| details.display_name = Some(name.clone())).unwrap().is_some())
    }
}

/// Removes what was idle when it looked, whatever came since.
struct PrunesBlindly(SessionStore);

impl Verbs for PrunesBlindly {
    fn call(&self, n: usize, op: Op) -> Answer {
        let due = |entry: &Entry| !entry.suspended && entry.updated_at < TODAY.get() - MAX_AGE;
        if op != Op::Prune {
            return self.0.call(n, op);
        }
        let found = self.0.get(&key(n)).unwrap().as_ref().map(compared);
        pause();
        let removed = found.as_ref().is_some_and(due) && self.0.remove(&key(n)).unwrap().is_some();
        Answer::Pruned { removed, meanwhile: false }
    }
}

/// Answers readers with what an earlier one saw.
struct ReadsTheCache(SessionStore, Mutex<HashMap<usize, Option<Entry>>>);

impl Verbs for ReadsTheCache {
    fn call(&self, n: usize, op: Op) -> Answer {
        let cached = self.1.lock().unwrap().get(&n).cloned();
        match (op, cached) {
            (Op::Get, Some(cached)) => return Answer::Entry(cached),
            (Op::Remove, _) => drop(self.1.lock().unwrap().remove(&n)),
            _ => {}
        }
        let answer = self.0.call(n, op);
        if let (Op::Get, Answer::Entry(entry)) = (op, &answer) {
            self.1.lock().unwrap().insert(n, entry.clone());
        }
        answer
    }
}

#[test]
fn a_lost_update_is_found() {
    assert_found(|store| Box::new(ReadsThenWrites(store)));
}

#[test]
fn a_pass_that_does_not_look_again_is_found() {
    assert_found(|store| Box::new(PrunesBlindly(store)));
}

#[test]
fn a_stale_read_is_found() {
    assert_found(|store| Box::new(ReadsTheCache(store, Mutex::default())));
}

fn touch(thread: usize, answer: bool, began: u64, ended: u64) -> Call {
    Call { thread, key: 0, op: Op::Touch, at: 1, answer: Answer::Found(answer), began, ended }
}

#[test]
fn calls_may_change_places_only_while_they_overlap() {
    let entry = Entry { id: "a".into(), updated_at: 0, suspended: false, name: String::new(), tokens: 0 };
    let created = |began, ended| {
        let answer = Answer::Resolved { how: How::Created, entry: entry.clone() };
        Call { thread: 1, key: 0, op: Op::Resolve, at: 0, answer, began, ended }
    };
    assert!(has_an_order(&[touch(0, false, 0, 3), created(1, 2)]));
    assert!(has_an_order(&[touch(0, true, 0, 3), created(1, 2)]));
    assert!(has_an_order(&[touch(0, false, 0, 1), created(2, 3)]));
    assert!(!has_an_order(&[touch(0, true, 0, 1), created(2, 3)]));
    assert!(!has_an_order(&[touch(0, false, 2, 3), created(0, 1)]));
}
