//! The verbs of one entry are single steps: whatever threads do at once, some order of their calls explains every answer.
//!
//! Small histories are recorded and searched for such an order (`tests/suite/histories`). `CLOAKROOM_HISTORIES` asks for more of them.
//!
//! The search looks at each key by itself, and that is why a rename is not among the verbs: it is one step of two keys.
//! `model.rs` renames entries with leases, `prefix.rs` while others use them, and the schedules of `tests/shuttle` hold
//! moves against changes of either key.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::mem::ManuallyDrop;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use cloakroom::change::Expect;
use cloakroom::leases::Lease;
use cloakroom::{SessionKey, SessionStore};

use crate::common::{assert_sound, fast_dir, key, options};
use crate::suite::Dice;
use crate::suite::histories::spec::{Answer, Call, Entry, How, Leases, MAX_AGE, Op, Revision, has_an_order};
use crate::suite::histories::verbs::{self, Plain, TICKS, ThreadClock, Verbs, compared, put_back};
use crate::suite::histories::{record, unexplained};

thread_local! {
    /// What this thread holds. It does not let go by ending: that would be no call. The leases end with their entries.
    static HELD: RefCell<HashMap<usize, ManuallyDrop<Lease>>> = RefCell::default();
}

impl Verbs for SessionStore {
    fn call(&self, n: usize, op: Op) -> Answer {
        match op {
            Op::Hold => {
                let Some(lease) = self.hold(&key(n)).unwrap() else { return Answer::Found(false) };
                let before = HELD.with_borrow_mut(|held| held.insert(n, ManuallyDrop::new(lease)));
                drop(before.map(ManuallyDrop::into_inner));
                Answer::Found(true)
            }
            Op::LetGo => {
                let lease = HELD.with_borrow_mut(|held| held.remove(&n)).map(ManuallyDrop::into_inner);
                Answer::Found(lease.is_some_and(|lease| lease.is_held()))
            }
            _ => Plain(self).call(n, op),
        }
    }
}

/// One history with all verbs.
fn record_all(verbs: &dyn Verbs, dice: &mut Dice, first: usize) -> Vec<Call> {
    record(verbs, dice, first, &|_| true)
}

fn store(dir: &tempfile::TempDir) -> SessionStore {
    // Commits run all the time, and memory holds little: entries come from the trees as often as from there.
    let options = options(&dir.path().join("db")).commit_interval(Duration::from_millis(1)).cached_entries(1);
    SessionStore::open(options.clock(ThreadClock::new())).unwrap()
}

#[test]
fn every_history_has_an_order() {
    let histories = std::env::var("CLOAKROOM_HISTORIES").ok().and_then(|n| n.parse().ok()).unwrap_or(2000);
    let dir = fast_dir();
    let store = store(&dir);
    let mut dice = Dice(0x11fe);
    for n in 0..histories {
        let calls = record_all(&store, &mut dice, 2 * n);
        if let Some(calls) = unexplained(&calls) {
            panic!("no order explains history {n}:\n{calls}");
        }
    }
    TICKS.set(0);
    assert!(store.is_empty());
    assert_sound(&store);
}

// The search itself: faults that it has to find. In the store itself, removal that did not end leases was
// found by history 117 of `every_history_has_an_order`.

/// Histories of `broken` until one has no order.
fn assert_found(broken: impl FnOnce(SessionStore) -> Box<dyn Verbs>) {
    let dir = fast_dir();
    let broken = broken(store(&dir));
    let mut dice = Dice(0xbad);
    let found = (0..20_000).any(|n| unexplained(&record_all(&*broken, &mut dice, 2 * n)).is_some());
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
        let name = format!("{}{letter}", compared(&entry).name);
        Answer::Found(self.0.update(&key(n), |details| details.display_name = Some(name.clone())).unwrap().is_some())
    }
}

/// Removes what was idle when it looked, whatever came since.
struct PrunesBlindly(SessionStore);

impl Verbs for PrunesBlindly {
    fn call(&self, n: usize, op: Op) -> Answer {
        let due = |entry: &Entry| !entry.suspended && entry.updated_at < TICKS.get() - MAX_AGE;
        if op != Op::Prune {
            return self.0.call(n, op);
        }
        let found = self.0.get(&key(n)).unwrap().as_ref().map(compared);
        pause();
        let removed = found.as_ref().is_some_and(due) && self.0.remove(&key(n)).unwrap().is_some();
        Answer::Pruned { removed: u64::from(removed), meanwhile: false }
    }
}

/// Removes what is held in one kind of pass, as if no lease were there.
struct PrunesOverLeases(SessionStore, Op);

impl Verbs for PrunesOverLeases {
    fn call(&self, n: usize, op: Op) -> Answer {
        if op != self.1 {
            return self.0.call(n, op);
        }
        let policy = verbs::policy(op).max_active_age(Duration::from_secs(1));
        let report = self.0.prune(&policy, |other: &SessionKey| *other != key(n)).unwrap();
        Answer::Pruned { removed: report.removed, meanwhile: report.touched_meanwhile > 0 }
    }
}

/// Leaves the lease behind when an entry goes: the next one of the key has it.
struct RemovesWithoutTheLease(SessionStore, Mutex<HashSet<usize>>);

impl Verbs for RemovesWithoutTheLease {
    fn call(&self, n: usize, op: Op) -> Answer {
        let answer = self.0.call(n, op);
        match (op, &answer) {
            (Op::HoldUntil(true), Answer::Found(true)) => {
                self.1.lock().unwrap().insert(n);
            }
            (Op::HoldUntil(false) | Op::Release, _) => {
                self.1.lock().unwrap().remove(&n);
            }
            (_, Answer::Resolved { how: How::Created, .. }) if self.1.lock().unwrap().contains(&n) => {
                let _ = self.0.call(n, Op::HoldUntil(true));
            }
            _ => {}
        }
        answer
    }
}

/// Puts back what it read, whatever came since.
struct PutsBlindly(SessionStore);

impl Verbs for PutsBlindly {
    fn call(&self, n: usize, op: Op) -> Answer {
        let Op::Put(letter) = op else { return self.0.call(n, op) };
        put_back(&self.0, n, letter, |_| Expect::Any)
    }
}

/// Answers readers with what an earlier one saw.
struct ReadsTheCache(SessionStore, Mutex<HashMap<usize, Option<Entry>>>);

impl Verbs for ReadsTheCache {
    fn call(&self, n: usize, op: Op) -> Answer {
        let cached = self.1.lock().unwrap().get(&n).cloned();
        match (op, cached) {
            (Op::Get, Some(cached)) => return Answer::Entry(cached),
            (Op::Remove, _) => {
                self.1.lock().unwrap().remove(&n);
            }
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
fn a_put_over_what_was_not_seen_is_found() {
    assert_found(|store| Box::new(PutsBlindly(store)));
}

#[test]
fn a_pass_that_does_not_look_again_is_found() {
    assert_found(|store| Box::new(PrunesBlindly(store)));
}

#[test]
fn a_pass_over_leases_is_found() {
    for pass in [Op::Prune, Op::Cap] {
        assert_found(|store| Box::new(PrunesOverLeases(store, pass)));
    }
}

#[test]
fn a_lease_that_outlives_its_entry_is_found() {
    assert_found(|store| Box::new(RemovesWithoutTheLease(store, Mutex::default())));
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
    let revision = Revision::of(1);
    let leases = Leases::default();
    let entry =
        Entry { id: "a".into(), updated_at: 0, suspended: false, name: String::new(), tokens: 0, revision, leases };
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

#[test]
fn a_pass_may_remove_what_was_created_behind_it() {
    let entry = |id: &str, updated_at| {
        let revision = Revision::of(u64::from(id.as_bytes()[0]));
        let leases = Leases::default();
        Entry { id: id.into(), updated_at, suspended: false, name: String::new(), tokens: 0, revision, leases }
    };
    let call = |op, at, answer, began, ended| Call { thread: 0, key: 0, op, at, answer, began, ended };
    let created = |id: &str, at, began, ended| {
        call(Op::Resolve, at, Answer::Resolved { how: How::Created, entry: entry(id, at) }, began, ended)
    };
    let passed = |removed| call(Op::Prune, 140, Answer::Pruned { removed, meanwhile: false }, 2, 5);
    let history = |removed| [created("a", 0, 0, 1), passed(removed), created("b", 40, 3, 4), created("c", 40, 6, 7)];
    assert!(has_an_order(&history(2)));
    assert!(!has_an_order(&history(1)), "then one of them went by itself");
    assert!(!has_an_order(&history(3)));
}
