//! The store falls before each write of a commit that ends turns. What was awaited of them must be there.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tempfile::TempDir;

use crate::config::Options;
use crate::error::Error;
use crate::key::{SessionId, SessionKey};
use crate::prune::{NoActivity, PrunePolicy};
use crate::source::{KeyPolicy, SessionSource};
use crate::storage::{self, Hook};
use crate::store::SessionStore;
use crate::time::{ManualClock, Timestamp};
use crate::turns::TurnEnd;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// 2026-06-01T00:00:00Z
const START: Timestamp = Timestamp::from_micros(1_780_272_000_000_000);
/// More than a piece of a commit, which is small in unit tests.
const ENTRIES: usize = 6;
/// More writes than any commit here has.
const MOST: usize = 400;

fn source(n: usize) -> SessionSource {
    SessionSource { platform: "discord".into(), user_id: Some(n.to_string()), ..SessionSource::default() }
}

fn key(n: usize) -> SessionKey {
    SessionKey::for_source(&source(n), &KeyPolicy::default()).unwrap()
}

/// A store whose writer fails before a write, as a kill would stop it.
struct Bench {
    dir: TempDir,
    clock: ManualClock,
    store: SessionStore,
    left: Arc<AtomicUsize>,
    /// The session of each entry, and its turn, which was awaited.
    begun: Vec<(SessionId, super::TurnToken)>,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let clock = ManualClock::new(START);
        let left = Arc::new(AtomicUsize::new(usize::MAX));
        let mut opened = storage::open(&dir.path().join("db"), true, 1 << 20, false).unwrap();
        opened.writer.hook = falling(&left);
        let store = SessionStore::start(opened, options(&dir, &clock)).unwrap();
        let mut begun = Vec::new();
        for n in 0..ENTRIES {
            let id = store.resolve(&source(n)).unwrap().entry.session_id;
            begun.push((id, store.begin_turn(&key(n)).unwrap().unwrap().token));
        }
        store.flush().unwrap();
        Self { dir, clock, store, left, begun }
    }

    /// Commits what is pending up to the `stop`-th write, and writes no more. Answers whether there was one.
    fn fall_before(&self, stop: usize) -> bool {
        self.left.store(stop, Ordering::SeqCst);
        let fell = self.store.flush().is_err();
        self.left.store(0, Ordering::SeqCst);
        fell
    }
}

/// Counts `left` down with each write, and fails at 0.
fn falling(left: &Arc<AtomicUsize>) -> Hook {
    let left = Arc::clone(left);
    Hook::new(move |_, _| {
        let more = left.load(Ordering::SeqCst);
        left.store(more.saturating_sub(1), Ordering::SeqCst);
        if more == 0 { Err(Error::Panicked { message: "planned".into() }) } else { Ok(()) }
    })
}

fn options(dir: &TempDir, clock: &ManualClock) -> Options {
    Options::new(dir.path().join("db"))
        .commit_interval(Duration::from_secs(3600))
        .cache_bytes(1 << 20)
        .clock(clock.clone())
}

/// Has `act` done to the entries whose turns are open, and the store fall before each write of its commit. `ends` says
/// whether it ends the turns with no other change.
fn falls_before_every_write(what: &str, ends: bool, act: fn(&Bench, usize)) {
    for stop in 0..MOST {
        let bench = Bench::new();
        bench.clock.advance(DAY);
        // One comes in the same commit, with a turn, and one comes and goes.
        store_others(&bench.store);
        (0..ENTRIES).for_each(|n| act(&bench, n));
        let fell = bench.fall_before(stop);
        let Bench { dir, clock, store, begun, .. } = bench;
        drop(store);
        let store = SessionStore::open(options(&dir, &clock)).unwrap();
        let case = format!("{what}, before write {stop}");
        assert_eq!(store.verify().unwrap().violations, [], "{case}");
        let open: Vec<_> = store.turns().unwrap().into_iter().map(|turn| turn.key).collect();
        for (n, (id, _)) in begun.iter().enumerate() {
            let is_old = store.get(&key(n)).unwrap().is_some_and(|entry| entry.session_id == *id);
            assert!(!is_old || ends || open.contains(&key(n)), "{case}: entry {n} has its session, and no turn");
        }
        let recovered = store.recover_interrupted_turns(Duration::MAX).unwrap().resumable;
        assert!(open.iter().all(|key| recovered.contains(key)), "{case}: {open:?}, {recovered:?}");
        if !fell {
            assert!(stop > 3, "{case}: there was nothing to write");
            return;
        }
    }
    panic!("{what}: it never ends");
}

fn store_others(store: &SessionStore) {
    for n in [100, 101] {
        store.resolve(&source(n)).unwrap();
        store.begin_turn(&key(n)).unwrap().unwrap();
    }
    store.remove(&key(100)).unwrap().unwrap();
}

#[test]
fn a_reset_that_falls_leaves_the_turn() {
    falls_before_every_write("reset", false, |bench, n| drop(bench.store.reset(&key(n)).unwrap().unwrap()));
}

#[test]
fn a_removal_that_falls_leaves_the_turn() {
    falls_before_every_write("remove", false, |bench, n| drop(bench.store.remove(&key(n)).unwrap().unwrap()));
}

#[test]
fn a_return_of_the_removed_that_falls_leaves_the_turn() {
    falls_before_every_write("remove and resolve", false, |bench, n| {
        bench.store.remove(&key(n)).unwrap().unwrap();
        bench.store.resolve(&source(n)).unwrap();
    });
}

#[test]
fn a_prune_that_falls_leaves_the_turn() {
    for stop in 0..MOST {
        let bench = Bench::new();
        bench.clock.advance(100 * DAY);
        bench.left.store(stop, Ordering::SeqCst);
        let pruned = bench.store.prune(&PrunePolicy::max_age_days(90), NoActivity);
        bench.left.store(0, Ordering::SeqCst);
        let Bench { dir, clock, store, .. } = bench;
        drop(store);
        let store = SessionStore::open(options(&dir, &clock)).unwrap();
        let open: Vec<_> = store.turns().unwrap().into_iter().map(|turn| turn.key).collect();
        for n in 0..ENTRIES {
            let is_there = store.contains(&key(n)).unwrap();
            assert!(!is_there || open.contains(&key(n)), "before write {stop}: entry {n} is there, and no turn");
        }
        if pruned.is_ok() {
            assert!(stop > 3 && open.is_empty());
            return;
        }
    }
    panic!("it never ends");
}

/// The marker of the new session must not take the place of the old one before the session does.
#[test]
fn a_turn_of_the_next_session_that_falls_leaves_the_turn() {
    falls_before_every_write("reset and begin", false, |bench, n| {
        bench.store.reset(&key(n)).unwrap().unwrap();
        bench.store.begin_turn(&key(n)).unwrap().unwrap();
    });
}

#[test]
fn a_newer_turn_that_falls_leaves_a_turn() {
    falls_before_every_write("begin", false, |bench, n| {
        bench.store.begin_turn(&key(n)).unwrap().unwrap();
        if n % 2 == 0 {
            bench.store.set_metadata(&key(n), &serde_json::Map::new()).unwrap().unwrap();
        }
    });
}

#[test]
fn an_end_that_falls_is_sound() {
    falls_before_every_write("end", true, |bench, n| {
        let end = bench.store.end_turn(&key(n), bench.begun[n].1).unwrap();
        assert!(matches!(end, TurnEnd::Ended(_)));
        if n % 2 == 0 {
            bench.store.reset(&key(n)).unwrap().unwrap();
        }
    });
}

#[test]
fn a_recovery_that_falls_is_done_again() {
    for stop in 0..MOST {
        let bench = Bench::new();
        bench.left.store(0, Ordering::SeqCst);
        let Bench { dir, clock, store, left, .. } = bench;
        drop(store);
        let mut opened = storage::open(&dir.path().join("db"), true, 1 << 20, false).unwrap();
        left.store(stop, Ordering::SeqCst);
        opened.writer.hook = falling(&left);
        let store = SessionStore::start(opened, options(&dir, &clock)).unwrap();
        let recovered = store.recover_interrupted_turns(Duration::MAX);
        drop(store);
        let store = SessionStore::open(options(&dir, &clock)).unwrap();
        store.recover_interrupted_turns(Duration::MAX).unwrap();
        for n in 0..ENTRIES {
            assert!(store.get(&key(n)).unwrap().unwrap().resume_pending, "before write {stop}: entry {n}");
        }
        if recovered.is_ok() {
            assert!(stop > 3);
            return;
        }
    }
    panic!("it never ends");
}

#[test]
fn an_entry_that_moves_and_goes_in_one_commit_leaves_no_turn() {
    let bench = Bench::new();
    bench.left.store(usize::MAX, Ordering::SeqCst);
    let to = SessionKey::new("agent:other").unwrap();
    bench.store.commits().rename(&key(0), &to).unwrap();
    bench.store.remove(&to).unwrap().unwrap();
    bench.store.flush().unwrap();
    let found = bench.store.verify().unwrap();
    assert_eq!((found.violations, found.orphaned_turns), (vec![], 0));
    let open: Vec<_> = bench.store.turns().unwrap().into_iter().map(|turn| turn.key).collect();
    assert_eq!(open, (1..ENTRIES).map(key).collect::<Vec<_>>());
}
