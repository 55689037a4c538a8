//! Small stores, and what threads do to them at once.

use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use shuttle::future::block_on;
use shuttle::thread::{self, JoinHandle};

use crate::codec::{ActivityRow, Hot};
use crate::commit::{Commits, Moved, Receipt, Settings};
use crate::entry::Revision;
use crate::error::{Error, Result};
use crate::key::{SessionId, SessionKey};
use crate::storage::{Disk, Engine, Mark, Writer, cold, cold_of};
use crate::sync::{AtomicBool, AtomicU64, Condvar, Mutex, Ordering};
use crate::time::{ManualClock, Timestamp};
use crate::unreadable::Unreadable;

pub(crate) const ALL: [(&str, fn()); 16] = [
    ("waiters find their change synced", waiters_find_their_change_synced),
    ("what nobody waits for is committed", what_nobody_waits_for_is_committed),
    ("a dropped or panicking waker hurts nobody", a_bad_waker_hurts_nobody),
    ("changes add up while slots are evicted", changes_add_up_while_slots_are_evicted),
    ("writers wait for room", writers_wait_for_room),
    ("a change is refused or committed by a close", a_change_is_refused_or_committed_by_a_close),
    ("an order is carried out or refused by a close", an_order_is_carried_out_or_refused_by_a_close),
    ("a waker drops the store", a_waker_drops_the_store),
    ("a waker is stuck", a_waker_is_stuck),
    ("a failure is told to all who wait", a_failure_is_told_to_all_who_wait),
    ("a snapshot is of one moment", a_snapshot_is_of_one_moment),
    ("a snapshot has the turns of its moment", a_snapshot_has_the_turns_of_its_moment),
    ("an id is found at every moment", an_id_is_found_at_every_moment),
    ("a turn ends after its session", a_turn_ends_after_its_session),
    ("an entry that moves in a shard is under one key", an_entry_that_moves_in_a_shard_is_under_one_key),
    ("an entry that moves between shards is under one key", an_entry_that_moves_between_shards_is_under_one_key),
];

struct Store {
    commits: Commits,
    disk: Arc<Disk>,
}

/// Keys of one shard, so that their slots are in each other's way.
fn keys() -> &'static [SessionKey] {
    static KEYS: OnceLock<Vec<SessionKey>> = OnceLock::new();
    KEYS.get_or_init(|| {
        let all = keys_and_shards();
        let first = all.clone().next().map(|(_, shard)| shard);
        all.filter(|(_, shard)| Some(*shard) == first).map(|(key, _)| key).take(3).collect()
    })
}

/// Keys of three shards, in the order of these.
fn keys_apart() -> &'static [SessionKey] {
    static KEYS: OnceLock<Vec<SessionKey>> = OnceLock::new();
    KEYS.get_or_init(|| {
        let mut keys: Vec<(SessionKey, u64)> = Vec::new();
        for (key, shard) in keys_and_shards() {
            if keys.last().is_none_or(|(_, last)| *last < shard) {
                keys.push((key, shard));
            }
            if keys.len() == 3 {
                break;
            }
        }
        keys.into_iter().map(|(key, _)| key).collect()
    })
}

fn keys_and_shards() -> impl Iterator<Item = (SessionKey, u64)> + Clone {
    let engine = Arc::new(Engine(Disk::new(&[], 0, Hot::fresh(Timestamp::MIN))));
    let all = (0..).map(|n| SessionKey::new(format!("agent:main:discord:dm:{n}")).expect("a key"));
    all.map(move |key| {
        let shard = (engine.fingerprint(&key).table_hash() >> 40) % 64;
        (key, shard)
    })
}

/// More than any scenario has pending at a time.
const PLENTY: usize = 1000;

/// Nothing is ever due: whoever waits for something has to see to it.
fn start(max_pending: usize) -> Arc<Store> {
    start_with(keys(), max_pending, 0)
}

/// A store whose n-th sync fails.
fn start_with(keys: &[SessionKey], max_pending: usize, fails_at: u64) -> Arc<Store> {
    start_every(Duration::MAX, keys, max_pending, fails_at)
}

fn start_every(interval: Duration, keys: &[SessionKey], max_pending: usize, fails_at: u64) -> Arc<Store> {
    start_on(Disk::new(keys, keys.len(), Hot::fresh(Timestamp::MIN)), interval, max_pending, fails_at)
}

fn start_on(disk: Arc<Disk>, interval: Duration, max_pending: usize, fails_at: u64) -> Arc<Store> {
    let writer = Writer { mark: Mark { commit: 0, count: disk.count() }, fails_at, syncs: 0, is_dirty: false };
    // Nothing is kept in memory that is not needed.
    let settings = Settings { interval, max_pending, cached_entries: 0, first_revision: Revision::NONE };
    let clock = Arc::new(ManualClock::new(Timestamp::MIN));
    let commits = Commits::start(Engine(Arc::clone(&disk)), writer, clock, settings).expect("a store");
    Arc::new(Store { commits, disk })
}

impl Store {
    /// Adds to what the key's entry counts.
    fn add(&self, key: &SessionKey, tokens: u64) -> Result<Receipt> {
        let mut locked = self.commits.lock(key)?;
        let mut hot = locked.hot().expect("the entry is there");
        hot.usage.input_tokens += tokens;
        let commit = locked.set_hot(hot);
        drop(locked);
        Ok(self.commits.receipt(commit))
    }

    /// Begins a turn, and touches the entry.
    fn begin_turn(&self, key: &SessionKey, at: Timestamp) -> Result<Receipt> {
        let mut locked = self.commits.lock(key)?;
        let hot = locked.hot().expect("the entry is there");
        let id = locked.cold().expect("a read").expect("the entry is there").session_id.clone();
        let (_, commit) = locked.begin_turn(Hot { updated_at: at, ..hot }, id, at);
        drop(locked);
        Ok(self.commits.receipt(commit))
    }

    /// Gives the entry this session.
    fn put(&self, key: &SessionKey, id: &SessionId, number: i64) -> Result<Receipt> {
        let mut locked = self.commits.lock(key)?;
        let commit = locked.put(Hot::fresh(Timestamp::MIN), cold_of(id.clone(), number), None)?.commit;
        drop(locked);
        Ok(self.commits.receipt(commit))
    }

    fn read(&self, key: &SessionKey) -> u64 {
        let hot = self.commits.peek_hot(key).expect("a read");
        hot.expect("the entry is there").usage.input_tokens
    }

    fn synced(&self, key: &SessionKey) -> u64 {
        synced(&self.disk, key)
    }

    fn close(&self) {
        self.commits.close().expect("a close");
        assert!(*self.disk.closed.lock(), "it is not closed");
    }
}

fn synced(disk: &Disk, key: &SessionKey) -> u64 {
    disk.synced(key).expect("the entry is there").usage.input_tokens
}

fn spawn(store: &Arc<Store>, run: impl FnOnce(&Store) + Send + 'static) -> JoinHandle<()> {
    let store = Arc::clone(store);
    thread::spawn(move || run(&store))
}

fn join(threads: impl IntoIterator<Item = JoinHandle<()>>) {
    threads.into_iter().for_each(|thread| thread.join().expect("a thread"));
}

fn waiters_find_their_change_synced() {
    let store = start(PLENTY);
    let blocking = spawn(&store, |store| {
        let receipt = store.add(&keys()[0], 1).expect("a change");
        assert!(store.read(&keys()[0]) & 1 > 0, "its own change");
        receipt.wait().expect("a commit");
        assert!(receipt.is_durable().expect("an answer"));
        assert!(store.synced(&keys()[0]) & 1 > 0, "called durable, and is not");
    });
    let awaiting = spawn(&store, |store| {
        let receipt = store.add(&keys()[0], 2).expect("a change");
        block_on(receipt).expect("a commit");
        assert!(store.synced(&keys()[0]) & 2 > 0, "called durable, and is not");
    });
    let dropping = spawn(&store, |store| drop(store.add(&keys()[0], 4).expect("a change")));
    join([blocking, awaiting, dropping]);
    store.close();
    assert_eq!(store.synced(&keys()[0]), 7);
}

/// They look whether it is, and ask for nothing.
fn what_nobody_waits_for_is_committed() {
    let store = start_every(Duration::ZERO, keys(), PLENTY, 0);
    join([0, 1].map(|n| {
        spawn(&store, move |store| {
            for step in 0..2 {
                let receipt = store.add(&keys()[n], 1).expect("a change");
                if step == 0 && n == 0 {
                    store.commits.apply_pending().expect("a commit");
                }
                while !receipt.is_durable().expect("an answer") {
                    thread::yield_now();
                }
            }
        })
    }));
    store.close();
}

struct Panics;

impl Wake for Panics {
    fn wake(self: Arc<Self>) {
        // Not `panic!`: that would print a message for each schedule.
        std::panic::resume_unwind(Box::new("a waker that panics"));
    }
}

fn a_bad_waker_hurts_nobody() {
    let store = start(PLENTY);
    let bad = spawn(&store, |store| {
        let mut receipt = pin!(store.add(&keys()[0], 1).expect("a change"));
        let waker = Waker::from(Arc::new(Panics));
        // Polled once and given up.
        let _ = receipt.as_mut().poll(&mut Context::from_waker(&waker));
        let waker = Waker::noop();
        let _ = receipt.as_mut().poll(&mut Context::from_waker(waker));
    });
    let good = spawn(&store, |store| block_on(store.add(&keys()[1], 2).expect("a change")).expect("a commit"));
    let blocking = spawn(&store, |store| store.add(&keys()[1], 4).expect("a change").wait().expect("a commit"));
    join([bad, good, blocking]);
    store.close();
    assert_eq!((store.synced(&keys()[0]), store.synced(&keys()[1])), (1, 6));
}

fn changes_add_up_while_slots_are_evicted() {
    let store = start(4);
    join([0, 1].map(|n| {
        spawn(&store, move |store| {
            for (place, key) in keys().iter().enumerate() {
                let before = store.read(key);
                store.add(key, 1 << (8 * n + place)).expect("a change");
                assert!(store.read(key) > before, "its own change");
            }
        })
    }));
    store.close();
    for (place, key) in keys().iter().enumerate() {
        assert_eq!(store.synced(key), (1 << place) + (1 << (8 + place)), "a change was lost");
    }
    assert_eq!(store.commits.pending(), 0);
}

fn writers_wait_for_room() {
    let store = start(2);
    join([0, 1, 2].map(|n| {
        spawn(&store, move |store| {
            for key in keys() {
                store.add(key, 1 << n).expect("a change");
                // A check and a change are two steps, so each writer may be one past the bound.
                assert!(store.commits.pending() <= 2 + 3, "the bound does not hold");
            }
        })
    }));
    store.close();
    for key in keys() {
        assert_eq!(store.synced(key), 7);
    }
    assert_eq!(store.commits.pending(), 0);
}

fn a_change_is_refused_or_committed_by_a_close() {
    let store = start(2);
    let accepted = Arc::new(AtomicU64::new(0));
    let writers = [0, 1].map(|n| {
        let accepted = Arc::clone(&accepted);
        spawn(&store, move |store| {
            for step in 0..2 {
                let bit = 1 << (8 * n + step);
                match store.add(&keys()[0], bit) {
                    Ok(receipt) => {
                        accepted.fetch_add(bit, Ordering::AcqRel);
                        if step == 1 {
                            receipt.wait().expect("what was accepted is committed");
                        }
                    }
                    Err(error) => assert!(matches!(error, Error::Closed { .. }), "{error}"),
                }
            }
        })
    });
    store.close();
    join(writers);
    assert_eq!(store.synced(&keys()[0]), accepted.load(Ordering::Acquire));
}

fn an_order_is_carried_out_or_refused_by_a_close() {
    let store = start(PLENTY);
    let ordering = [0, 1].map(|_| {
        spawn(&store, |store| {
            let entry = store.commits.fingerprint(&keys()[0]);
            let row = ActivityRow { time: Timestamp::MIN, entry };
            match store.commits.recheck(vec![row]) {
                Ok(cleared) => assert_eq!(cleared, 1),
                Err(error) => assert!(matches!(error, Error::Closed { .. }), "{error}"),
            }
        })
    });
    // Each of them finds it closed.
    let closing = spawn(&store, Store::close);
    store.close();
    join(ordering.into_iter().chain([closing]));
}

/// Holds the last clone of a store until it is woken.
struct Holds(Mutex<Option<Arc<Store>>>);

impl Wake for Holds {
    fn wake(self: Arc<Self>) {
        let store = self.0.lock().take();
        drop(store);
    }
}

/// On a thread of the wakers, which the close must not wait for.
fn a_waker_drops_the_store() {
    let store = start(PLENTY);
    let disk = Arc::clone(&store.disk);
    let changing = spawn(&store, |store| drop(store.add(&keys()[1], 2).expect("a change")));
    {
        let mut receipt = pin!(store.add(&keys()[0], 1).expect("a change"));
        let waker = Waker::from(Arc::new(Holds(Mutex::new(Some(store)))));
        if receipt.as_mut().poll(&mut Context::from_waker(&waker)).is_ready() {
            // Nobody wakes it any more.
            waker.wake();
        }
    }
    join([changing]);
    let mut closed = disk.closed.lock();
    while !*closed {
        disk.closes.wait(&mut closed);
    }
    drop(closed);
    assert_eq!((synced(&disk, &keys()[0]), synced(&disk, &keys()[1])), (1, 2));
}

/// Returns when another has been called as often as it wants.
struct Waits(Arc<Mutex<u64>>, Arc<Condvar>, u64);

impl Wake for Waits {
    fn wake(self: Arc<Self>) {
        let mut called = self.0.lock();
        *called += 1;
        self.1.notify_all();
        while *called < self.2 {
            self.1.wait(&mut called);
        }
    }
}

/// Two wakers return only when a third has been called, whose task waits for the same commit or a later one.
fn a_waker_is_stuck() {
    let store = start(PLENTY);
    let (called, changed) = (Arc::new(Mutex::new(0)), Arc::new(Condvar::new()));
    let mut receipts = Vec::new();
    for n in 0..3 {
        let waker = Waker::from(Arc::new(Waits(Arc::clone(&called), Arc::clone(&changed), 3)));
        let mut receipt = Box::pin(store.add(&keys()[n], 1).expect("a change"));
        if receipt.as_mut().poll(&mut Context::from_waker(&waker)).is_ready() {
            spawn(&store, move |_| waker.wake());
        }
        receipts.push(receipt);
    }
    store.commits.receipt_of_all().expect("a receipt").wait().expect("a commit");
    store.close();
    let mut now = called.lock();
    while *now < 3 {
        changed.wait(&mut now);
    }
}

fn a_failure_is_told_to_all_who_wait() {
    let store = start_with(keys(), 2, 2);
    let waits = |store: &Store, key: &SessionKey, wait: fn(Receipt) -> Result<()>| {
        for _ in 0..2 {
            let before = store.read(key);
            match store.add(key, 1).and_then(wait) {
                Ok(()) => assert!(store.synced(key) > before, "called durable, and is not"),
                Err(error) => assert!(matches!(error, Error::ReadOnly { .. }), "{error}"),
            }
        }
    };
    join([
        spawn(&store, move |store| waits(store, &keys()[0], |receipt| receipt.wait())),
        spawn(&store, move |store| waits(store, &keys()[1], |receipt| block_on(receipt))),
        spawn(&store, move |store| {
            if store.add(&keys()[2], 1).is_ok() {
                // It asks for no sync.
                let _ = store.commits.apply_pending();
            }
        }),
    ]);
    // The second sync is that of the close, if all went on in one commit. Two are told the same.
    let other = Arc::new(AtomicBool::new(false));
    let closing = spawn(&store, {
        let other = Arc::clone(&other);
        move |store| other.store(close_fails(store), Ordering::Release)
    });
    let failed = close_fails(&store);
    join([closing]);
    assert_eq!(failed, other.load(Ordering::Acquire));
}

fn close_fails(store: &Store) -> bool {
    let closed = store.commits.close();
    assert!(matches!(closed, Ok(()) | Err(Error::ReadOnly { .. })), "{closed:?}");
    closed.is_err()
}

/// What a thread does, one after the other: the key, and the number that it then has in both records, in the hot one
/// alone, or none if it is removed.
const STEPS: [(usize, Option<u64>, bool); 9] = [
    (0, Some(1), false),
    (1, Some(1), true),
    (2, Some(1), false),
    (1, None, true),
    (0, Some(2), true),
    (1, Some(2), true),
    (2, Some(2), false),
    (2, None, true),
    (0, Some(3), false),
];

/// A snapshot is the store as it was after some step.
fn a_snapshot_is_of_one_moment() {
    static KEYS: OnceLock<Vec<SessionKey>> = OnceLock::new();
    // Of many shards, most likely.
    let key = |n| SessionKey::new(format!("agent:main:discord:dm:{n}")).expect("a key");
    let keys = KEYS.get_or_init(|| (0..3).map(key).collect());
    let store = start_with(keys, 16, 0);
    let writer = spawn(&store, move |store| {
        for (n, number, is_whole) in STEPS {
            let mut locked = store.commits.lock(&keys[n]).expect("a lock");
            let mut hot = locked.hot().unwrap_or(Hot::fresh(Timestamp::MIN));
            let commit = match number {
                None => locked.remove(),
                Some(number) => {
                    hot.usage.input_tokens = number;
                    match is_whole {
                        true => locked.put(hot, cold(number as i64), None).expect("a change").commit,
                        false => locked.set_hot(hot),
                    }
                }
            };
            drop(locked);
            store.commits.receipt(commit);
        }
    });
    let reader = move |store: &Store| {
        let read = store.commits.snapshot().expect("a snapshot").map(|entry| entry.expect("a read"));
        let read: Vec<_> = read
            .map(|(key, whole)| (key, whole.hot.usage.input_tokens, whole.cold.created_at.as_micros() as u64))
            .collect();
        let mut state = [Some((0, 0)); 3];
        let mut is_state = |step: Option<(usize, Option<u64>, bool)>| {
            if let Some((n, number, is_whole)) = step {
                let old = state[n].map_or(0, |(_, cold)| cold);
                state[n] = number.map(|number| (number, if is_whole { number } else { old }));
            }
            let there = keys.iter().zip(state).filter_map(|(key, at)| at.map(|(hot, cold)| (key.clone(), hot, cold)));
            there.eq(read.iter().cloned())
        };
        assert!(std::iter::once(None).chain(STEPS.map(Some)).any(&mut is_state), "of no moment: {read:?}");
    };
    join([spawn(&store, reader), spawn(&store, reader), writer]);
    store.close();
}

/// Each turn begins with a touch of its time.
fn a_snapshot_has_the_turns_of_its_moment() {
    let store = start(4);
    let writer = spawn(&store, |store| {
        for n in 1..4 {
            for key in keys() {
                store.begin_turn(key, Timestamp::from_micros(n)).expect("a turn");
            }
        }
    });
    let reader = spawn(&store, |store| {
        for entry in store.commits.snapshot().expect("a snapshot") {
            let (_, whole) = entry.expect("a read");
            let began = whole.turn.map(|turn| turn.started_at);
            assert_eq!(began.unwrap_or(Timestamp::MIN), whole.hot.updated_at, "turn and touch are of two moments");
        }
    });
    join([writer, reader]);
    store.close();
}

fn id(text: &str) -> SessionId {
    SessionId::new(text).expect("an id")
}

/// An entry keeps its id while it is changed, committed, and changed again. Another has it in between.
fn an_id_is_found_at_every_moment() {
    let store = start(PLENTY);
    store.put(&keys()[0], &id("kept"), 0).expect("a change");
    let writer = spawn(&store, |store| {
        for n in 1..4 {
            store.put(&keys()[0], &id("kept"), n).expect("a change");
            store.put(&keys()[1], &id(if n == 2 { "kept" } else { "other" }), n).expect("a change");
        }
    });
    let committing = spawn(&store, |store| {
        store.add(&keys()[2], 1).expect("a change").wait().expect("a commit");
    });
    let reader = spawn(&store, |store| {
        for _ in 0..4 {
            let found = store.commits.candidates_of_id(&id("kept"), &mut Unreadable::default()).expect("a read");
            assert!(found.contains(&keys()[0]), "the entry is there, and is not found by its id");
        }
    });
    join([writer, committing, reader]);
    store.close();
    assert_eq!(store.commits.candidates_of_id(&id("kept"), &mut Unreadable::default()).expect("a read"), keys()[..1]);
}

/// Turns begin, and end with their session or their entry, while commits take both. The writer looks at each marker.
fn a_turn_ends_after_its_session() {
    let store = start(PLENTY);
    store.disk.judges_markers.store(true, Ordering::SeqCst);
    let writers = [0, 1].map(|n| {
        spawn(&store, move |store| {
            let key = &keys()[n];
            for session in ["second", "third"] {
                store.begin_turn(key, Timestamp::MIN).expect("a turn").wait().expect("a commit");
                // Another in its place, and nobody waits.
                store.begin_turn(key, Timestamp::MIN).expect("a turn");
                store.put(key, &id(session), 1).expect("a change");
            }
            let mut locked = store.commits.lock(key).expect("a lock");
            locked.remove();
        })
    });
    let committing = spawn(&store, |store| {
        for _ in 0..3 {
            store.add(&keys()[2], 1).expect("a change").wait().expect("a commit");
        }
    });
    join(writers.into_iter().chain([committing]));
    store.close();
    assert!(store.commits.turns().expect("this process").all().is_empty(), "no entry is left");
}

fn an_entry_that_moves_in_a_shard_is_under_one_key() {
    an_entry_moves(keys());
}

/// Threads lock two shards at a time, and a snapshot all of them.
fn an_entry_that_moves_between_shards_is_under_one_key() {
    an_entry_moves(keys_apart());
}

/// Threads move it to and fro, and another changes it: each sync and each snapshot finds it under one key, with each
/// change.
fn an_entry_moves(keys: &'static [SessionKey]) {
    let store = start_on(Disk::new(keys, 1, Hot::fresh(Timestamp::MIN)), Duration::MAX, PLENTY, 0);
    let mover = |steps: &'static [(usize, usize)]| {
        spawn(&store, move |store| {
            for (from, to) in steps {
                if let Moved::There(commit) = store.commits.rename(&keys[*from], &keys[*to]).expect("an answer") {
                    store.commits.receipt(commit).wait().expect("a sync");
                }
                assert_eq!(store.disk.count(), 1, "on disk");
            }
        })
    };
    let movers = [mover(&[(0, 1), (1, 2), (2, 0)]), mover(&[(1, 0), (0, 2)])];
    let changes = Arc::new(AtomicU64::new(0));
    let changing = spawn(&store, {
        let changes = Arc::clone(&changes);
        move |store| {
            for key in keys.iter().chain(keys) {
                let mut locked = store.commits.lock(key).expect("a lock");
                let Some(mut hot) = locked.hot() else { continue };
                hot.usage.input_tokens += 1;
                let commit = locked.set_hot(hot);
                drop(locked);
                changes.fetch_add(1, Ordering::AcqRel);
                store.commits.receipt(commit).wait().expect("a sync");
                assert_eq!(store.disk.count(), 1, "on disk");
            }
        }
    });
    let reading = spawn(&store, |store| {
        for _ in 0..2 {
            let read = store.commits.snapshot().expect("a snapshot").map(|entry| entry.expect("a read").0);
            assert_eq!(read.count(), 1, "in a snapshot");
        }
    });
    join(movers.into_iter().chain([changing, reading]));
    assert_eq!(store.commits.count(), 1);
    store.close();
    assert_eq!(store.disk.count(), 1);
    let found = keys.iter().find_map(|key| store.disk.synced(key)).expect("the entry is there");
    assert_eq!(found.usage.input_tokens, changes.load(Ordering::Acquire), "a change was lost");
}
