//! Small stores, and what threads do to them at once.

use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Wake, Waker};

use shuttle::future::block_on;
use shuttle::thread;

use super::entry_lock::EntryLock;
use super::pending::Pending;
use super::receipt::{Progress, Receipt};
use super::snapshot::Snapshot;
use super::sync::{AtomicBool, AtomicU64, Ordering, Receiver, channel};
use super::turns::Turns;
use crate::codec::Hot;
use crate::error::{Error, Result};
use crate::key::SessionKey;
use crate::storage::{Engine, session_id};
use crate::time::Timestamp;

pub(crate) const ALL: [(&str, fn()); 8] = [
    ("waiters find their change synced", waiters_find_their_change_synced),
    ("a dropped or panicking waker hurts nobody", a_bad_waker_hurts_nobody),
    ("changes add up while slots are evicted", changes_add_up_while_slots_are_evicted),
    ("writers wait for room", writers_wait_for_room),
    ("a change is refused or committed by a close", a_change_is_refused_or_committed_by_a_close),
    ("a failure is told to all who wait", a_failure_is_told_to_all_who_wait),
    ("a snapshot is of one moment", a_snapshot_is_of_one_moment),
    ("a snapshot has the turns of its moment", a_snapshot_has_the_turns_of_its_moment),
];

struct Core {
    engine: Engine,
    pending: Pending,
    turns: Turns,
    progress: Arc<Progress>,
    max_pending: usize,
    /// The commit that fails.
    fails_at: u64,
    /// The last commit is to be made, and the committer to end.
    ends: AtomicBool,
}

/// Keys of one shard, so that their slots are in each other's way.
fn keys() -> &'static [SessionKey] {
    static KEYS: OnceLock<Vec<SessionKey>> = OnceLock::new();
    KEYS.get_or_init(|| {
        let engine = Engine::new(&[], Hot::fresh(Timestamp::MIN));
        let shard = |key: &SessionKey| (engine.fingerprint(key).table_hash() >> 40) % 64;
        let all = (0..).map(|n| SessionKey::new(format!("agent:main:discord:dm:{n}")).expect("a key"));
        let first = shard(&SessionKey::new("agent:main:discord:dm:0").expect("a key"));
        all.filter(|key| shard(key) == first).take(3).collect()
    })
}

fn start(max_pending: usize, fails_at: u64) -> (Arc<Core>, thread::JoinHandle<()>) {
    start_with(keys(), max_pending, fails_at)
}

fn start_with(keys: &[SessionKey], max_pending: usize, fails_at: u64) -> (Arc<Core>, thread::JoinHandle<()>) {
    let (kick, kicks) = channel();
    let engine = Engine::new(keys, Hot::fresh(Timestamp::MIN));
    let core = Arc::new(Core {
        engine,
        // Nothing is kept that is not needed.
        pending: Pending::new(0, keys.len() as u64, 0),
        turns: Turns::new(Vec::new(), 0),
        progress: Arc::new(Progress::new("store".into(), 0, kick)),
        max_pending,
        fails_at,
        ends: AtomicBool::new(false),
    });
    let shared = Arc::clone(&core);
    (core, thread::spawn(move || commit_until_told(&shared, &kicks)))
}

/// The committer.
fn commit_until_told(core: &Core, kicks: &Receiver) {
    loop {
        kicks.recv();
        let ends = core.ends.load(Ordering::Acquire);
        if core.progress.is_failed() {
            if ends {
                return;
            }
            continue;
        }
        let sync = core.progress.take_sync_wanted() || ends;
        let begun = core.turns.next_token();
        let (commit, changes) = core.pending.take();
        core.turns.follow(&changes, begun);
        core.turns.take_changed();
        if commit == core.fails_at {
            core.progress.set_failed(Error::Panicked { message: "planned".into() });
            continue;
        }
        for change in &changes {
            core.engine.write(change);
        }
        core.pending.settle(&changes);
        core.progress.notify();
        core.pending.set_applied(commit);
        core.progress.set_applied(commit);
        if sync {
            core.engine.sync();
            core.progress.set_durable(commit);
        }
        if ends {
            core.progress.set_durable(u64::MAX);
            return;
        }
    }
}

impl Core {
    /// As `Commits::lock` does.
    fn lock(&self, key: &SessionKey) -> Result<EntryLock<'_>> {
        self.progress.check_writable()?;
        if self.pending.weight() >= self.max_pending {
            self.progress.kick();
            self.progress.wait_for_room(|| self.pending.weight() < self.max_pending)?;
        }
        let entry = self.pending.lock(&self.engine, key)?;
        self.progress.check_writable()?;
        Ok(entry)
    }

    /// Adds to what the key's entry counts.
    fn add(&self, key: &SessionKey, tokens: u64) -> Result<Receipt> {
        let mut locked = self.lock(key)?;
        let mut hot = locked.hot().expect("the entry is there");
        hot.usage.input_tokens += tokens;
        let commit = locked.set_hot(hot);
        drop(locked);
        Ok(self.receipt(commit))
    }

    /// Begins a turn and counts it.
    fn begin_turn(&self, key: &SessionKey, at: Timestamp) -> Result<()> {
        let mut locked = self.lock(key)?;
        let hot = locked.hot().expect("the entry is there");
        self.turns.begin(self.engine.fingerprint(key), session_id(), at);
        locked.set_hot(Hot { updated_at: at, ..hot });
        Ok(())
    }

    /// As `Commits::snapshot` does.
    fn snapshot(&self) -> Snapshot<'_> {
        let kept = self.pending.begin_snapshot(&self.turns);
        let snapshot = Snapshot::new(&self.pending, &self.engine, kept);
        self.receipt(self.pending.open_commit()).wait().expect("a commit");
        snapshot
    }

    /// As `Commits::receipt` does.
    fn receipt(&self, commit: u64) -> Receipt {
        if self.pending.weight() >= self.max_pending / 2 {
            self.progress.kick();
        }
        Receipt::new(commit, Arc::clone(&self.progress))
    }

    fn read(&self, key: &SessionKey) -> u64 {
        let hot = self.pending.peek_hot(&self.engine, self.engine.fingerprint(key)).expect("a read");
        hot.expect("the entry is there").usage.input_tokens
    }

    fn synced(&self, key: &SessionKey) -> u64 {
        self.engine.synced(self.engine.fingerprint(key)).expect("the entry is there").usage.input_tokens
    }

    /// As `Commits::close` does. The committer's answer is its end.
    fn close(&self, committer: thread::JoinHandle<()>) {
        self.progress.set_closed();
        self.ends.store(true, Ordering::Release);
        self.progress.kick();
        committer.join().expect("the committer");
    }
}

fn spawn(core: &Arc<Core>, run: impl FnOnce(&Core) + Send + 'static) -> thread::JoinHandle<()> {
    let core = Arc::clone(core);
    thread::spawn(move || run(&core))
}

fn waiters_find_their_change_synced() {
    let (core, committer) = start(100, u64::MAX);
    let blocking = spawn(&core, |core| {
        let receipt = core.add(&keys()[0], 1).expect("a change");
        assert!(core.read(&keys()[0]) & 1 > 0, "its own change");
        receipt.wait().expect("a commit");
        assert!(receipt.is_durable().expect("an answer"));
        assert!(core.synced(&keys()[0]) & 1 > 0, "called durable, and is not");
    });
    let awaiting = spawn(&core, |core| {
        let receipt = core.add(&keys()[0], 2).expect("a change");
        block_on(receipt).expect("a commit");
        assert!(core.synced(&keys()[0]) & 2 > 0, "called durable, and is not");
    });
    let dropping = spawn(&core, |core| drop(core.add(&keys()[0], 4).expect("a change")));
    for thread in [blocking, awaiting, dropping] {
        thread.join().expect("a thread");
    }
    core.close(committer);
    assert_eq!(core.synced(&keys()[0]), 7);
}

struct Panics;

impl Wake for Panics {
    fn wake(self: Arc<Self>) {
        // Not `panic!`: that would print a message for each schedule.
        std::panic::resume_unwind(Box::new("a waker that panics"));
    }
}

fn a_bad_waker_hurts_nobody() {
    let (core, committer) = start(100, u64::MAX);
    let bad = spawn(&core, |core| {
        let mut receipt = pin!(core.add(&keys()[0], 1).expect("a change"));
        let waker = Waker::from(Arc::new(Panics));
        // Polled once and given up.
        let _ = receipt.as_mut().poll(&mut Context::from_waker(&waker));
        let waker = Waker::noop();
        let _ = receipt.as_mut().poll(&mut Context::from_waker(waker));
    });
    let good = spawn(&core, |core| block_on(core.add(&keys()[1], 2).expect("a change")).expect("a commit"));
    let blocking = spawn(&core, |core| core.add(&keys()[1], 4).expect("a change").wait().expect("a commit"));
    for thread in [bad, good, blocking] {
        thread.join().expect("a thread");
    }
    core.close(committer);
    assert_eq!((core.synced(&keys()[0]), core.synced(&keys()[1])), (1, 6));
}

fn changes_add_up_while_slots_are_evicted() {
    let (core, committer) = start(100, u64::MAX);
    let adders: Vec<_> = (0..2)
        .map(|n| {
            spawn(&core, move |core| {
                for (place, key) in keys().iter().enumerate() {
                    let before = core.read(key);
                    core.add(key, 1 << (8 * n + place)).expect("a change");
                    assert!(core.read(key) > before, "its own change");
                    core.progress.kick();
                }
            })
        })
        .collect();
    for thread in adders {
        thread.join().expect("a thread");
    }
    core.close(committer);
    for (place, key) in keys().iter().enumerate() {
        assert_eq!(core.synced(key), (1 << place) + (1 << (8 + place)), "a change was lost");
    }
    assert_eq!(core.pending.weight(), 0);
}

fn writers_wait_for_room() {
    let (core, committer) = start(2, u64::MAX);
    let writers: Vec<_> = (0..3)
        .map(|n| {
            spawn(&core, move |core| {
                for key in keys() {
                    core.add(key, 1 << n).expect("a change");
                    // A check and a change are two steps, so each writer may be one past the bound.
                    assert!(core.pending.weight() <= 2 + 3, "the bound does not hold");
                }
            })
        })
        .collect();
    for thread in writers {
        thread.join().expect("a thread");
    }
    core.close(committer);
    for key in keys() {
        assert_eq!(core.synced(key), 7);
    }
    assert_eq!(core.pending.weight(), 0);
}

fn a_change_is_refused_or_committed_by_a_close() {
    let (core, committer) = start(2, u64::MAX);
    let accepted = Arc::new(AtomicU64::new(0));
    let writers: Vec<_> = (0..2)
        .map(|n| {
            let accepted = Arc::clone(&accepted);
            spawn(&core, move |core| {
                for step in 0..2 {
                    let bit = 1 << (8 * n + step);
                    match core.add(&keys()[0], bit) {
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
        })
        .collect();
    core.close(committer);
    for thread in writers {
        thread.join().expect("a thread");
    }
    assert_eq!(core.synced(&keys()[0]), accepted.load(Ordering::Acquire));
}

fn a_failure_is_told_to_all_who_wait() {
    let (core, committer) = start(2, 2);
    let waits = |core: &Core, key: &SessionKey, bit: u64, wait: fn(Receipt) -> Result<()>| {
        for _ in 0..2 {
            match core.add(key, bit).and_then(wait) {
                Ok(()) => assert!(core.synced(key) >= bit, "called durable, and is not"),
                Err(error) => assert!(matches!(error, Error::ReadOnly { .. }), "{error}"),
            }
        }
    };
    let threads = [
        spawn(&core, move |core| waits(core, &keys()[0], 1, |receipt| receipt.wait())),
        spawn(&core, move |core| waits(core, &keys()[1], 1, |receipt| block_on(receipt))),
        spawn(&core, move |core| {
            if let Ok(receipt) = core.add(&keys()[2], 1) {
                let _ = core.progress.wait_applied(receipt.commit());
            }
        }),
    ];
    // The third one asks for no commit.
    core.progress.kick();
    core.progress.kick();
    for thread in threads {
        core.progress.kick();
        thread.join().expect("a thread");
    }
    core.progress.set_closed();
    core.ends.store(true, Ordering::Release);
    core.progress.kick();
    committer.join().expect("the committer");
}

/// One thread counts up one key after the other, round by round, and removes the last one in the end. So at any moment the
/// keys before some place are one ahead of those behind it.
fn a_snapshot_is_of_one_moment() {
    static KEYS: OnceLock<Vec<SessionKey>> = OnceLock::new();
    // Of many shards, most likely.
    let key = |n| SessionKey::new(format!("agent:main:discord:dm:{n}")).expect("a key");
    let keys = KEYS.get_or_init(|| (0..3).map(key).collect());
    let (core, committer) = start_with(keys, 100, u64::MAX);
    let writer = spawn(&core, move |core| {
        for _ in 0..2 {
            for key in keys {
                core.add(key, 1).expect("a change");
            }
            core.progress.kick();
        }
        core.lock(&keys[2]).expect("a lock").remove();
        core.progress.kick();
    });
    let reader = move |core: &Core| {
        let counts: Vec<_> = core
            .snapshot()
            .map(|entry| entry.expect("a read"))
            .map(|(key, whole)| (key, whole.hot.usage.input_tokens))
            .collect();
        assert!(counts.iter().map(|(key, _)| key).eq(&keys[..counts.len()]), "{counts:?}");
        let counts: Vec<_> = counts.into_iter().map(|(_, count)| count).collect();
        match counts[..] {
            [a, b, c] => assert!(a >= b && b >= c && a - c <= 1, "{counts:?}"),
            _ => assert_eq!(counts, [2, 2], "the last one was removed too early"),
        }
    };
    for thread in [spawn(&core, reader), spawn(&core, reader), writer] {
        thread.join().expect("a thread");
    }
    core.close(committer);
}

/// Each turn begins with a touch of its time.
fn a_snapshot_has_the_turns_of_its_moment() {
    let (core, committer) = start(100, u64::MAX);
    let writer = spawn(&core, |core| {
        for n in 1..4 {
            for key in keys() {
                core.begin_turn(key, Timestamp::from_micros(n)).expect("a turn");
            }
            core.progress.kick();
        }
    });
    let reader = spawn(&core, |core| {
        for entry in core.snapshot() {
            let (_, whole) = entry.expect("a read");
            let began = whole.turn.map(|turn| turn.started_at);
            assert_eq!(began.unwrap_or(Timestamp::MIN), whole.hot.updated_at, "turn and touch are of two moments");
        }
    });
    for thread in [writer, reader] {
        thread.join().expect("a thread");
    }
    core.close(committer);
}
