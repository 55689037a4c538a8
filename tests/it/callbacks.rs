//! Guards, clocks and wakers are the caller's code: slow, panicking, using the store, never answering, many at once.
//!
//! Whatever they do, other callers go on, only those that wait for them hang, nothing protected is pruned, and
//! the store opens again with everything that was awaited.

use std::cell::Cell;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use cloakroom::prune::{NoActivity, Verdict};
use cloakroom::reset::{ResetPolicies, ResetPolicy};
use cloakroom::time::{Clock, ManualClock, Timer};
use cloakroom::watcher::WatcherConfig;
use cloakroom::{Error, Options, PrunePolicy, Receipt, SessionKey, SessionStore, Timestamp, Watcher};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};

use crate::common::{Home, assert_sound, key, source};

const DAY: Duration = Duration::from_secs(86_400);
/// A thread that has not answered after this never will.
const HUNG: Duration = Duration::from_secs(60);
const ENTRIES: usize = 60;
/// Entries with a number below this are suspended, and those below twice this are active.
const PROTECTED: usize = 10;

/// What `work` answers, which must be soon.
pub(crate) fn within<T: Send + 'static>(what: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, receiver) = bounded(1);
    let thread = std::thread::spawn(move || sender.send(work()).unwrap());
    match receiver.recv_timeout(HUNG) {
        Ok(answer) => {
            thread.join().unwrap();
            answer
        }
        Err(_) => match thread.is_finished() {
            true => std::panic::resume_unwind(thread.join().unwrap_err()),
            false => panic!("{what} hangs"),
        },
    }
}

fn policy() -> PrunePolicy {
    PrunePolicy::max_age_days(90)
}

/// Entries of which all are old, and some protected.
fn old_entries(home: &Home) -> SessionStore {
    let store = SessionStore::open(home.options().max_pending(64)).unwrap();
    for n in 0..ENTRIES {
        store.resolve(&source(n)).unwrap();
        if n < PROTECTED {
            store.suspend(&key(n)).unwrap().unwrap();
        }
    }
    store.flush().unwrap();
    home.clock.advance(100 * DAY);
    store
}

fn is_active(asked: &SessionKey) -> bool {
    (PROTECTED..2 * PROTECTED).any(|n| key(n) == *asked)
}

/// The protected are there, and so is everything after another opening.
fn check(what: &str, home: &Home, store: SessionStore) {
    let there = |store: &SessionStore| (0..ENTRIES).filter(|n| store.get(&key(*n)).unwrap().is_some()).collect();
    let before: Vec<usize> = there(&store);
    assert!((0..2 * PROTECTED).all(|n| before.contains(&n)), "{what}: protected entries are gone: {before:?}");
    let closed = store.close();
    assert!(matches!(closed, Ok(()) | Err(Error::Closed { .. })), "{what}: {closed:?}");
    drop(store);
    let store = home.open();
    assert!(store.open_report().clean, "{what}");
    assert_eq!(there(&store), before, "{what}");
    assert_sound(&store);
}

type Act = fn(&SessionStore, &SessionKey) -> Verdict;

/// What a guard may take it into its head to do when it is asked of an entry that is not active.
const ACTS: [(&str, Act); 10] = [
    ("panics", |_, _| panic!("a guard")),
    ("fails", |_, _| Verdict::Failed("no answer".into())),
    ("is slow", |_, _| {
        // Not more: on a busy machine each may take as long as others run before it is its turn again.
        (0..50).for_each(|_| std::thread::yield_now());
        Verdict::Idle
    }),
    ("touches", |store, key| {
        store.touch(key).unwrap();
        Verdict::Idle
    }),
    ("waits for a touch", |store, key| {
        store.touch(key).unwrap().unwrap().wait().unwrap();
        Verdict::Idle
    }),
    ("prunes", |store, _| {
        store.prune(&policy(), is_active).unwrap();
        Verdict::Idle
    }),
    ("removes", |store, key| {
        store.remove(key).unwrap();
        Verdict::Idle
    }),
    ("resets", |store, key| {
        store.reset(key).unwrap();
        Verdict::Idle
    }),
    ("floods", |store, _| {
        (0..500).for_each(|n| drop(store.resolve(&source(1000 + n)).unwrap()));
        Verdict::Idle
    }),
    ("closes", |store, _| {
        store.close().unwrap();
        Verdict::Idle
    }),
];

#[test]
fn a_guard_may_do_what_it_likes() {
    for (what, act) in ACTS {
        let home = Home::new();
        let store = old_entries(&home);
        let inner = store.clone();
        let guard = move |key: &SessionKey| if is_active(key) { Verdict::Active } else { act(&inner, key) };
        let outer = store.clone();
        let report = within(what, move || outer.prune(&policy(), guard));
        match what {
            "closes" => assert!(matches!(report, Err(Error::Closed { .. })), "{report:?}"),
            "panics" | "fails" => {
                let report = report.unwrap();
                assert_eq!((report.removed, report.guard_failed), (0, (ENTRIES - 2 * PROTECTED) as u64));
            }
            "touches" | "waits for a touch" | "removes" | "resets" => assert_eq!(report.unwrap().removed, 0, "{what}"),
            _ => assert!(report.is_ok(), "{what}: {report:?}"),
        }
        check(what, &home, store);
    }
}

#[test]
fn the_same_in_a_watcher_and_when_resolving() {
    for (what, act) in ACTS {
        let home = Home::new();
        let store = old_entries(&home);
        let inner = store.clone();
        let guard = move |key: &SessionKey| if is_active(key) { Verdict::Active } else { act(&inner, key) };
        let policies = ResetPolicies::new(ResetPolicy::idle(60));
        let (outer, asked) = (store.clone(), guard.clone());
        within(what, move || {
            // Whatever comes of it, it comes.
            let _ = outer.resolve_with(&source(ENTRIES - 1), &policies, asked);
        });
        let config = WatcherConfig { policy: policy(), interval: DAY };
        let watcher = Watcher::spawn(&store, config, guard).unwrap();
        within(what, move || {
            while watcher.status().passes < 1 {
                std::thread::yield_now();
            }
            watcher.prune_now();
            while watcher.status().passes < 2 {
                std::thread::yield_now();
            }
            watcher.stop();
        });
        check(what, &home, store);
    }
}

#[test]
fn a_guard_that_never_answers_holds_up_its_own_pass_only() {
    let home = Home::new();
    let store = old_entries(&home);
    let (asked, is_asked) = bounded::<()>(1);
    let (answer, waits) = bounded::<()>(0);
    let pass = std::thread::spawn({
        let store = store.clone();
        move || {
            store.prune(&policy(), move |key: &SessionKey| {
                let _ = asked.try_send(());
                let _ = waits.recv();
                is_active(key)
            })
        }
    });
    is_asked.recv_timeout(HUNG).unwrap();
    let other = store.clone();
    let removed = within("the store", move || {
        for n in 0..ENTRIES {
            // All of them, the one that is asked about too.
            other.touch(&key(n)).unwrap().unwrap();
        }
        other.flush().unwrap();
        assert_sound(&other);
        let removed = other.prune(&policy(), NoActivity).unwrap().removed;
        other.close().unwrap();
        removed
    });
    assert_eq!(removed, 0, "all were touched");
    drop(answer);
    // It goes on, finds entries touched meanwhile, and removes none.
    let report = within("the pass", move || pass.join().unwrap());
    assert!(matches!(&report, Err(Error::Closed { .. })) || report.is_ok_and(|report| report.removed == 0));
    check("never answers", &home, store);
}

#[test]
fn a_guard_may_stop_its_own_watcher() {
    let home = Home::new();
    let store = old_entries(&home);
    let place: Arc<Mutex<Option<Watcher>>> = Arc::default();
    let (inside, stopped) = (Arc::clone(&place), bounded(1));
    let guard = move |key: &SessionKey| {
        if let Some(watcher) = inside.lock().unwrap().take() {
            watcher.stop();
            let _ = stopped.0.try_send(());
        }
        is_active(key)
    };
    // Held, so that the first pass finds the watcher in its place.
    let mut held = place.lock().unwrap();
    let config = WatcherConfig { policy: policy(), interval: DAY };
    *held = Some(Watcher::spawn(&store, config, guard).unwrap());
    drop(held);
    stopped.1.recv_timeout(HUNG).unwrap();
    // The guard goes with the watcher's thread, when that has ended its pass.
    assert_eq!(stopped.1.recv_timeout(HUNG), Err(RecvTimeoutError::Disconnected));
    check("stops", &home, store);
}

/// A clock of the caller's that does as it likes every seventh time that it is asked.
#[derive(Clone)]
struct WildClock {
    inner: ManualClock,
    asked: Arc<AtomicU64>,
    act: fn(&WildClock),
    store: Arc<OnceLock<SessionStore>>,
    hangs: Receiver<()>,
    monotonic_panics: bool,
}

impl fmt::Debug for WildClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WildClock")
    }
}

impl Clock for WildClock {
    fn now(&self) -> Timestamp {
        if self.asked.fetch_add(1, Ordering::Relaxed) % 7 == 6 {
            (self.act)(self);
        }
        self.inner.now()
    }

    fn monotonic(&self) -> Duration {
        assert!(!self.monotonic_panics || self.store.get().is_none(), "a clock");
        self.inner.monotonic()
    }

    fn after(&self, delay: Duration) -> Timer {
        assert!(!self.monotonic_panics, "a clock");
        self.inner.after(delay)
    }
}

fn wild(home: &Home, monotonic_panics: bool, act: fn(&WildClock)) -> (SessionStore, WildClock) {
    let (store, asked, hangs) = (Arc::default(), Arc::default(), crossbeam_channel::never());
    let clock = WildClock { inner: home.clock.clone(), asked, act, store, hangs, monotonic_panics };
    let options = Options::new(home.path()).create(true).cache_bytes(16 << 20).clock(clock.clone());
    let store = SessionStore::open(options).unwrap();
    clock.store.set(store.clone()).unwrap();
    (store, clock)
}

/// Every verb that asks the clock.
fn verbs(store: &SessionStore, n: usize) {
    let (source, key) = (source(n), key(n));
    let guard = |_: &SessionKey| false;
    store.resolve(&source).unwrap();
    store.resolve(&source).unwrap();
    store.touch(&key).unwrap();
    store.reset(&key).unwrap();
    store.resolve_with(&source, &ResetPolicies::new(ResetPolicy::idle(1)), guard).unwrap();
    let turn = store.begin_turn(&key).unwrap().unwrap().token;
    store.end_turn(&key, turn).unwrap();
    store.mark_resume_pending(&key, "test").unwrap();
    store.suspend(&key).unwrap();
    store.resolve(&source).unwrap();
    store.prune(&policy(), guard).unwrap();
}

#[test]
fn a_clock_may_use_the_store() {
    thread_local!(static IS_INSIDE: Cell<bool> = const { Cell::new(false) });
    let home = Home::new();
    let (store, clock) = wild(&home, false, |clock| {
        let Some(store) = clock.store.get() else { return };
        // The verbs below ask the clock in their turn.
        if IS_INSIDE.replace(true) {
            return;
        }
        // Of each key, the one that is being worked on too.
        for n in 0..5 {
            store.get(&key(n)).unwrap();
            store.suspend(&key(n)).unwrap();
            store.unsuspend(&key(n)).unwrap();
        }
        IS_INSIDE.set(false);
    });
    let inside = store.clone();
    within("a verb", move || (0..20).for_each(|n| verbs(&inside, n % 5)));
    assert!(clock.asked.load(Ordering::Relaxed) > 100);
    assert_sound(&store);
    store.close().unwrap();
}

/// A clock that uses its store on the committer's thread.
#[derive(Clone)]
struct BusyClock {
    inner: ManualClock,
    store: Arc<OnceLock<SessionStore>>,
    /// What the verbs said there that may have to wait.
    said: Arc<Mutex<Vec<Result<usize, &'static str>>>>,
}

impl fmt::Debug for BusyClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BusyClock")
    }
}

impl Clock for BusyClock {
    fn now(&self) -> Timestamp {
        self.inner.now()
    }

    fn monotonic(&self) -> Duration {
        thread_local!(static IS_INSIDE: Cell<bool> = const { Cell::new(false) });
        if std::thread::current().name() == Some("cloakroom-write")
            && let Some(store) = self.store.get()
            && !IS_INSIDE.replace(true)
        {
            store.leases().unwrap();
            let recent = store.recent(9, None).map(|recent| recent.entries.len());
            // It is asked while the store closes, too.
            let awaited = match store.touch(&key(0)) {
                Err(Error::Closed { .. }) => Ok(()),
                touched => touched.unwrap().unwrap().wait(),
            };
            let said = [
                recent,
                awaited.map(|()| 0),
                store.flush().map(|()| 0),
                store.prune_dry_run(&policy(), NoActivity).map(|report| report.removed as usize),
            ];
            self.said.lock().unwrap().extend(said.map(|said| said.map_err(|error| error.kind())));
            IS_INSIDE.set(false);
        }
        self.inner.monotonic()
    }

    fn after(&self, delay: Duration) -> Timer {
        self.inner.after(delay)
    }
}

/// Whoever waits for the committer on its own thread would wait for itself. A touch does not, though it looks at the clock, and
/// what has to is told so.
#[test]
fn a_clock_may_use_the_store_on_the_committers_thread() {
    let home = Home::new();
    let clock = BusyClock { inner: home.clock.clone(), store: Arc::default(), said: Arc::default() };
    let options = Options::new(home.path()).create(true).cache_bytes(16 << 20).clock(clock.clone());
    let store = SessionStore::open(options).unwrap();
    store.resolve(&source(0)).unwrap();
    store.flush().unwrap();
    // From now on the entry lies ahead, and the note of that is the committer's to write.
    home.clock.set_wall(home.clock.now().saturating_sub(3 * DAY));
    clock.store.set(store.clone()).unwrap();
    let inside = store.clone();
    within("a flush", move || {
        for n in 1..20 {
            inside.suspend(&key(0)).unwrap();
            inside.resolve(&source(n)).unwrap();
            inside.flush().unwrap();
            inside.prune(&policy(), NoActivity).unwrap();
        }
    });
    let said = clock.said.lock().unwrap().clone();
    assert!(said.contains(&Err("unsupported")), "the touch that is awaited: {said:?}");
    assert!(said.iter().all(|said| matches!(said, Ok(_) | Err("unsupported"))), "{said:?}");
    assert_sound(&store);
    store.close().unwrap();
}

#[test]
fn a_clock_that_panics_hurts_its_caller_only() {
    let home = Home::new();
    let (store, _) = wild(&home, false, |clock| assert!(clock.store.get().is_none(), "a clock"));
    let mut panics = 0;
    for n in 0..40 {
        let inside = store.clone();
        panics += usize::from(std::thread::spawn(move || verbs(&inside, n % 5)).join().is_err());
        let there = store.clone();
        within("the store", move || {
            there.flush().unwrap();
            (0..5).for_each(|n| drop(there.get(&key(n)).unwrap()));
        });
    }
    assert!(panics > 10, "{panics}");
    let config = WatcherConfig { policy: policy(), interval: DAY };
    let watcher = Watcher::spawn(&store, config, |_: &SessionKey| false).unwrap();
    within("the watcher", move || {
        // Some fail, and the next goes on.
        while watcher.status().failures < 8 || watcher.status().last_report.is_none() {
            watcher.prune_now();
            std::thread::yield_now();
        }
    });
    assert_sound(&store);
    store.close().unwrap();
}

#[test]
fn a_clock_that_panics_in_the_committer_makes_the_store_read_only() {
    let home = Home::new();
    let (store, _) = wild(&home, true, |_| {});
    // Durable before the clock is asked for the state file, or refused: the committer asks it when it begins, too.
    let awaited = store.resolve(&source(1)).and_then(|resolved| resolved.receipt.wait());
    let refused = within("the store", {
        let store = store.clone();
        move || loop {
            if let Err(error) = store.touch(&key(1)).and_then(|receipt| receipt.unwrap().wait()) {
                return error;
            }
        }
    });
    let Error::ReadOnly { failure, .. } = &refused else { panic!("{refused:?}") };
    assert!(matches!(**failure, Error::Panicked { .. }), "{failure:?}");
    let watcher = Watcher::spawn(&store, WatcherConfig::default(), |_: &SessionKey| false).unwrap();
    within("the watcher", move || watcher.stop());
    // The clock holds the store, so that it never goes: look at a copy.
    let copy = home.path().with_file_name("copy");
    crate::turns::copy(&home.path(), &copy);
    let store = SessionStore::open(crate::common::options(&copy)).unwrap();
    assert_eq!(store.get(&key(1)).unwrap().is_some(), awaited.is_ok());
    assert_sound(&store);
}

#[test]
fn a_clock_that_never_answers_holds_up_its_caller_only() {
    let home = Home::new();
    let (store, clock) = wild(&home, false, |clock| {
        if clock.store.get().is_some() && std::thread::current().name() == Some("patient") {
            let _ = clock.hangs.recv();
        }
    });
    store.resolve(&source(1)).unwrap();
    let (begun, begins) = unbounded();
    // Never joined: it ends with the process.
    let inside = store.clone();
    let patient = std::thread::Builder::new().name("patient".into()).spawn(move || {
        begun.send(()).unwrap();
        (0..100).for_each(|_| verbs(&inside, 1));
    });
    begins.recv_timeout(HUNG).unwrap();
    let inside = store.clone();
    within("the store", move || {
        (0..20).for_each(|n| verbs(&inside, n % 5));
        inside.flush().unwrap();
        assert_sound(&inside);
        inside.close().unwrap();
    });
    drop(clock);
    assert!(!patient.unwrap().is_finished());
}

type Woken = fn(&SessionStore);

struct Wakes(SessionStore, Woken, Sender<()>);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.1(&self.0);
        let _ = self.2.send(());
    }
}

/// A task that has polled the receipt of a change before its commit.
fn polled(store: &SessionStore, n: usize, waker: &Waker) -> Receipt {
    loop {
        let mut receipt = store.resolve(&source(n)).unwrap().receipt;
        if Pin::new(&mut receipt).poll(&mut Context::from_waker(waker)).is_pending() {
            return receipt;
        }
    }
}

#[test]
fn a_waker_may_use_the_store() {
    let acts: [(&str, Woken); 7] = [
        ("reads", |store| drop(store.get(&key(1)).unwrap())),
        // More than there is room for.
        ("changes", |store| (0..200).for_each(|n| drop(store.resolve(&source(n)).unwrap()))),
        ("waits for a commit", |store| store.resolve(&source(2)).unwrap().receipt.wait().unwrap()),
        ("awaits a commit", |store| pollster::block_on(store.resolve(&source(2)).unwrap().receipt).unwrap()),
        ("prunes", |store| drop(store.prune(&policy(), NoActivity).unwrap())),
        ("closes", |store| store.close().unwrap()),
        ("closes and panics", |store| {
            store.close().unwrap();
            panic!("a waker");
        }),
    ];
    for (what, act) in acts {
        let home = Home::new();
        let store = SessionStore::open(home.options().max_pending(64)).unwrap();
        let (sender, woken) = unbounded();
        let receipt = polled(&store, 1, &Waker::from(Arc::new(Wakes(store.clone(), act, sender))));
        match woken.recv_timeout(HUNG) {
            Err(RecvTimeoutError::Timeout) => panic!("a waker that {what} hangs"),
            woken => assert_eq!(woken.is_err(), what.contains("panics"), "{what}"),
        }
        within(what, move || drop((receipt, store.close(), store)));
        let store = within(what, {
            let options = home.options();
            move || loop {
                match SessionStore::open(options.clone()) {
                    Err(Error::Locked { .. }) => std::thread::yield_now(),
                    other => return other.unwrap(),
                }
            }
        });
        assert!(store.get(&key(1)).unwrap().is_some(), "{what}");
        assert_sound(&store);
    }
}

/// Takes what it holds and drops it.
struct Drops(Mutex<Option<SessionStore>>, Sender<()>);

impl Wake for Drops {
    fn wake(self: Arc<Self>) {
        drop(self.0.lock().unwrap().take());
        self.1.send(()).unwrap();
    }
}

#[test]
fn a_waker_may_drop_the_last_clone_of_the_store() {
    let home = Home::new();
    let store = home.open();
    let (sender, woken) = unbounded();
    let drops = Arc::new(Drops(Mutex::default(), sender));
    // Held, so that the store is in its place when the waker comes for it.
    let mut place = drops.0.lock().unwrap();
    let receipt = polled(&store, 1, &Waker::from(Arc::clone(&drops)));
    *place = Some(store);
    drop(place);
    woken.recv_timeout(HUNG).unwrap();
    receipt.wait().unwrap();
    // It was closed there, and is free.
    let store = home.open();
    assert!(store.open_report().clean && store.get(&key(1)).unwrap().is_some());
}

/// Waits until the other end is dropped.
struct Sticks(Sender<()>, Receiver<()>);

impl Wake for Sticks {
    fn wake(self: Arc<Self>) {
        let _ = self.0.send(());
        let _ = self.1.recv();
    }
}

#[test]
fn a_waker_that_never_returns_holds_up_nobody() {
    let home = Home::new();
    let store = SessionStore::open(home.options().max_pending(64)).unwrap();
    let (stick, sticks) = unbounded();
    let (release, released) = bounded(0);
    let sticky = Waker::from(Arc::new(Sticks(stick, released)));
    let stuck = polled(&store, 1, &sticky);
    sticks.recv_timeout(HUNG).unwrap();
    let inside = store.clone();
    // A thread that blocks goes on at once, and a task that awaits soon.
    within("a flood of changes", move || {
        (0..200).for_each(|n| drop(inside.resolve(&source(n)).unwrap()));
        inside.flush().unwrap();
        pollster::block_on(inside.resolve(&source(2)).unwrap().receipt).unwrap();
    });
    let inside = store.clone();
    within("a close", move || inside.close().unwrap());
    drop(store);
    assert!(home.open().open_report().clean);
    stuck.wait().unwrap();
    drop(release);
}

#[test]
fn nobody_listens_to_a_flood_of_events_and_reports() {
    let home = Home::new();
    let store = home.open();
    let events = store.events(8);
    let inside = store.clone();
    within("a writer", move || {
        for n in 0..2000 {
            inside.resolve(&source(n % 50)).unwrap();
            inside.suspend(&key(n % 50)).unwrap();
        }
    });
    assert_eq!(events.drain().count(), 8);
    assert!(events.dropped() > 1000);
    assert_sound(&store);
}

/// Notes go to the committer as orders. It ends with some of them waiting for it.
#[test]
fn a_call_that_meets_a_close_ends() {
    let notes: Vec<_> = (0..50).map(|n| format!("\"_note{n}\": {n}")).collect();
    let file: Arc<str> = format!("{{{}}}", notes.join(",")).into();
    for _ in 0..20 {
        let home = Home::new();
        let store = home.open();
        let (inside, file) = (store.clone(), Arc::clone(&file));
        let import = std::thread::spawn(move || {
            while inside.import(file.as_bytes(), cloakroom::import::ImportOptions::new(), |_| {}).is_ok() {}
        });
        std::thread::sleep(Duration::from_millis(1));
        store.close().unwrap();
        within("the import", move || import.join().unwrap());
    }
}
