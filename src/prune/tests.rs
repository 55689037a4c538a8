//! A pass and the committer, forced into every order in which they can meet.
//!
//! The committer is stopped before its n-th write, and the pass goes on until it is through or needs the committer; so
//! for each n. Nothing is left to the scheduler.

use std::sync::Arc;
use std::thread::{self, ScopedJoinHandle};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use tempfile::TempDir;

use super::{NoActivity, PrunePolicy, PruneReport};
use crate::commit::Receipt;
use crate::config::Options;
use crate::entry::Usage;
use crate::key::SessionKey;
use crate::source::{KeyPolicy, SessionSource};
use crate::storage::{self, Hook};
use crate::store::SessionStore;
use crate::time::{ManualClock, Timestamp};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const MINUTE: Duration = Duration::from_secs(60);
/// The committer works only when it is asked to.
const NEVER: Duration = Duration::from_secs(3600);
/// 2026-06-01T00:00:00Z
const START: Timestamp = Timestamp::from_micros(1_780_272_000_000_000);
/// More writes than any commit here has.
const MOST: usize = 400;

/// What is done to an entry while a pass runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Touch,
    Turn,
    Suspend,
    Reset,
    Recreate,
    Usage,
    Update,
    Metadata,
}

const KINDS: [Kind; 8] =
    [Kind::Touch, Kind::Turn, Kind::Suspend, Kind::Reset, Kind::Recreate, Kind::Usage, Kind::Update, Kind::Metadata];

impl Kind {
    /// Whether it keeps an entry that the pass looks at only afterwards. The others leave `updated_at` as it was.
    fn saves(self) -> bool {
        matches!(self, Self::Touch | Self::Turn | Self::Suspend | Self::Reset | Self::Recreate)
    }

    fn apply(self, store: &SessionStore, user: &str) -> Receipt {
        let key = &key(user);
        match self {
            Self::Touch => store.touch(key).unwrap().unwrap(),
            Self::Turn => store.begin_turn(key).unwrap().unwrap().receipt,
            Self::Suspend => store.suspend(key).unwrap().unwrap(),
            Self::Reset => store.reset(key).unwrap().unwrap().receipt,
            Self::Recreate => {
                store.remove(key).unwrap().unwrap();
                store.resolve(&source(user)).unwrap().receipt
            }
            Self::Usage => store.record_usage(key, &Usage { input_tokens: 5, ..Usage::ZERO }).unwrap().unwrap(),
            Self::Update => store.update(key, |details| details.display_name = Some("new".into())).unwrap().unwrap(),
            Self::Metadata => {
                let metadata = serde_json::json!({"text": "x".repeat(5000)});
                store.set_metadata(key, metadata.as_object().unwrap()).unwrap().unwrap()
            }
        }
    }
}

fn source(user: &str) -> SessionSource {
    SessionSource {
        platform: "discord".into(),
        chat_type: "group".into(),
        chat_id: Some("4711".into()),
        user_id: Some(user.into()),
        ..SessionSource::default()
    }
}

fn key(user: &str) -> SessionKey {
    SessionKey::for_source(&source(user), &KeyPolicy::default()).unwrap()
}

/// Where the committer stands.
#[derive(Debug, Default)]
struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// The write before which it is to stand.
    stop: Option<usize>,
    writes: usize,
    standing: bool,
}

impl Gate {
    /// Stops the committer before its `stop`-th write from now on.
    fn arm(&self, stop: usize) {
        *self.state.lock() = State { stop: Some(stop), ..State::default() };
    }

    /// Lets it go, and does not stop it again.
    fn release(&self) {
        *self.state.lock() = State::default();
        self.changed.notify_all();
    }

    fn is_standing(&self) -> bool {
        self.state.lock().standing
    }

    /// On the committer's thread, before a write or a sync.
    fn pass(&self) {
        let mut state = self.state.lock();
        let Some(stop) = state.stop else { return };
        state.writes += 1;
        if state.writes == stop {
            state.standing = true;
            while state.standing {
                self.changed.wait(&mut state);
            }
        }
    }
}

struct Bench {
    dir: TempDir,
    clock: ManualClock,
    gate: Arc<Gate>,
    store: SessionStore,
}

impl Bench {
    /// Entries of these users, a minute apart and a hundred days old.
    fn new(users: &[String]) -> Self {
        let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let clock = ManualClock::new(START);
        let gate = Arc::new(Gate::default());
        let options = options(&dir, &clock);
        let mut opened = storage::open(&dir.path().join("db"), true, 1 << 20, false).unwrap();
        let hook = Arc::clone(&gate);
        opened.writer.hook = Hook::new(move |_, _| {
            hook.pass();
            Ok(())
        });
        let store = SessionStore::start(opened, options).unwrap();
        for user in users {
            store.resolve(&source(user)).unwrap();
            clock.advance(MINUTE);
        }
        clock.advance(100 * DAY);
        store.flush().unwrap();
        Self { dir, clock, gate, store }
    }

    /// Starts a commit and waits until the committer stands, or is done without having come that far.
    fn commit_up_to(&self, stop: usize, last: &Receipt) -> bool {
        self.gate.arm(stop);
        last.wait_timeout(Duration::ZERO).unwrap();
        while !self.gate.is_standing() && !last.is_durable().unwrap() {
            thread::yield_now();
        }
        let stands = self.gate.is_standing();
        if !stands {
            self.gate.release();
        }
        stands
    }

    /// Lets the pass go on as far as it can come while the committer stands, then both to their ends.
    fn finish(&self, pass: ScopedJoinHandle<'_, PruneReport>) -> PruneReport {
        let needs_it = || self.gate.is_standing() && self.store.commits().is_asked();
        while !(pass.is_finished() || needs_it()) {
            thread::yield_now();
        }
        self.gate.release();
        pass.join().unwrap()
    }

    /// The users that have an entry, in the store as it is and after it was opened again.
    fn assert_left(self, users: &[String], expected: &[String], case: &str) {
        let left = |store: &SessionStore| -> Vec<String> {
            let found = store.verify().unwrap();
            assert_eq!(found.violations, [], "{case}");
            assert!(found.count_checked, "{case}");
            let left: Vec<_> = users.iter().filter(|user| store.get(&key(user)).unwrap().is_some()).cloned().collect();
            assert_eq!((store.len(), found.entries), (left.len() as u64, left.len() as u64), "{case}");
            left
        };
        assert_eq!(left(&self.store), expected, "{case}");
        self.store.close().unwrap();
        let Self { dir, clock, store, .. } = self;
        drop(store);
        let again = SessionStore::open(options(&dir, &clock)).unwrap();
        assert_eq!(left(&again), expected, "{case}, opened again");
    }
}

fn options(dir: &TempDir, clock: &ManualClock) -> Options {
    Options::new(dir.path().join("db")).commit_interval(NEVER).cache_bytes(1 << 20).clock(clock.clone())
}

fn ninety_days() -> PrunePolicy {
    PrunePolicy::max_age_days(90)
}

/// A first batch of ten rows and a second one of the rest: an idle entry, the one that the guard is being asked for, and
/// one of each kind twice. Those of the first batch are looked at after their rows were read.
fn users() -> Vec<String> {
    let kinds = |batch: &'static str| KINDS.map(|kind| format!("{batch}-{kind:?}"));
    ["idle".to_owned(), "asked".to_owned()].into_iter().chain(kinds("first")).chain(kinds("second")).collect()
}

fn change_all(store: &SessionStore) -> Receipt {
    let changed = ["first", "second"].map(|batch| KINDS.map(|kind| kind.apply(store, &format!("{batch}-{kind:?}"))));
    changed.into_iter().flatten().last().unwrap()
}

/// Which entries are left if `asked` was changed between the question and the removal.
fn left(asked: bool) -> Vec<String> {
    let saved = |user: &String| {
        KINDS.iter().any(|kind| kind.saves() && user.ends_with(&format!("-{kind:?}"))) || (asked && user == "asked")
    };
    users().into_iter().filter(saved).collect()
}

/// Runs a pass in which the guard, asked for the second entry, has everything changed and its commit brought up to the
/// `stop`-th write. Answers whether the commit had that many.
fn changed_within_a_pass(policy: &PrunePolicy, stop: usize, all: bool, asked: Kind) -> bool {
    let bench = Bench::new(&users());
    let stood = Mutex::new(false);
    let guard = |asked_for: &SessionKey| {
        if *asked_for == key("asked") {
            let receipt = asked.apply(&bench.store, "asked");
            let last = if all { change_all(&bench.store) } else { receipt };
            *stood.lock() = bench.commit_up_to(stop, &last);
        }
        false
    };
    let report = thread::scope(|scope| bench.finish(scope.spawn(|| bench.store.prune(policy, guard).unwrap())));
    let stood = stood.into_inner();
    let case = format!("{asked:?} before write {stop}: {report:?}");
    let mut expected = left(true);
    if !all {
        expected = vec!["asked".to_owned()];
    }
    assert_eq!((report.guard_failed, report.touched_meanwhile), (0, 1), "{case}");
    assert_eq!(report.removed, (users().len() - expected.len()) as u64, "{case}");
    assert_eq!(report.kept_suspended, if all { 2 } else { 0 }, "{case}");
    bench.assert_left(&users(), &expected, &case);
    stood
}

/// Runs `case` for each write of a commit.
fn before_every_write(least: usize, case: impl Fn(usize) -> bool) {
    // A commit that begins by itself just before the gate is armed has no write left to stop: one of a few tries has.
    let writes = (1..MOST).find(|stop| !(0..4).any(|_| case(*stop))).unwrap() - 1;
    assert!(writes >= least, "the committer stood only {writes} times");
}

#[test]
fn changes_within_a_pass_win_before_every_write_of_their_commit() {
    before_every_write(25, |stop| changed_within_a_pass(&ninety_days(), stop, true, KINDS[stop % KINDS.len()]));
}

#[test]
fn changes_within_a_pass_over_a_cap_win_before_every_write_of_their_commit() {
    let policy = PrunePolicy::max_age_days(0).max_entries(left(true).len() as u64);
    before_every_write(25, |stop| changed_within_a_pass(&policy, stop, true, KINDS[stop % KINDS.len()]));
}

#[test]
fn a_change_between_question_and_removal_wins_before_every_write_of_its_commit() {
    for kind in KINDS {
        before_every_write(3, |stop| changed_within_a_pass(&ninety_days(), stop, false, kind));
    }
}

#[test]
fn a_pass_that_begins_within_a_commit_finds_its_changes_before_every_write() {
    before_every_write(25, |stop| {
        let bench = Bench::new(&users());
        let stood = bench.commit_up_to(stop, &change_all(&bench.store));
        let report =
            thread::scope(|scope| bench.finish(scope.spawn(|| bench.store.prune(&ninety_days(), NoActivity).unwrap())));
        let case = format!("before write {stop}: {report:?}");
        assert_eq!((report.removed, report.kept_suspended), ((users().len() - left(false).len()) as u64, 2), "{case}");
        bench.assert_left(&users(), &left(false), &case);
        stood
    });
}

#[test]
fn an_entry_comes_back_before_every_write_of_its_removal() {
    let users: Vec<String> = ["a", "b", "c", "kept"].map(str::to_owned).to_vec();
    before_every_write(3, |stop| {
        let bench = Bench::new(&users);
        bench.store.touch(&key("kept")).unwrap().unwrap().wait().unwrap();
        let mut stood = false;
        let report = thread::scope(|scope| {
            bench.gate.arm(stop);
            let pass = scope.spawn(|| bench.store.prune(&ninety_days(), NoActivity).unwrap());
            while !bench.gate.is_standing() && !pass.is_finished() {
                thread::yield_now();
            }
            stood = bench.gate.is_standing();
            if stood {
                assert!(bench.store.touch(&key("a")).unwrap().is_none(), "it is gone already");
                bench.store.resolve(&source("b")).unwrap();
                bench.store.resolve(&source("c")).unwrap();
                bench.store.remove(&key("c")).unwrap().unwrap();
                bench.store.suspend(&key("kept")).unwrap().unwrap();
            }
            bench.gate.release();
            pass.join().unwrap()
        });
        let case = format!("before write {stop} of the removal: {report:?}");
        assert_eq!(report.removed, 3, "{case}");
        let expected: &[&str] = if stood { &["b", "kept"] } else { &["kept"] };
        let expected: Vec<String> = expected.iter().map(|user| (*user).to_owned()).collect();
        bench.assert_left(&users, &expected, &case);
        stood
    });
}

mod cost;
mod failed;
mod stale;
mod stop;
