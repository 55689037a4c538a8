//! Pruning: what goes, what stays, and why.

use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cloakroom::prune::{ActivityGuard, NoActivity, Verdict};
use cloakroom::time::ManualClock;
use cloakroom::{Options, PrunePolicy, SessionKey, SessionSource, SessionStore, Timestamp, Usage};

pub(crate) const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A store on a clock that moves only when told.
pub(crate) struct Bench {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) clock: ManualClock,
    pub(crate) store: SessionStore,
}

impl Bench {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        // 2026-06-01T00:00:00Z
        let clock = ManualClock::new(Timestamp::from_micros(1_780_272_000_000_000));
        let store = open(&directory, &clock);
        Self { directory, clock, store }
    }

    /// Creates the entry of `user` now.
    pub(crate) fn add(&self, user: &str) -> SessionKey {
        self.store.resolve(&source(user)).unwrap().entry.key
    }

    pub(crate) fn reopen(self) -> Self {
        let Self { directory, clock, store } = self;
        store.close().unwrap();
        drop(store);
        let store = open(&directory, &clock);
        Self { directory, clock, store }
    }

    fn has(&self, key: &SessionKey) -> bool {
        self.store.get(key).unwrap().is_some()
    }
}

fn open(directory: &tempfile::TempDir, clock: &ManualClock) -> SessionStore {
    let options = Options::new(directory.path().join("sessions.db")).create(true).clock(clock.clone());
    SessionStore::open(options).unwrap()
}

pub(crate) fn source(user: &str) -> SessionSource {
    SessionSource {
        platform: "discord".into(),
        chat_type: "group".into(),
        chat_id: Some("4711".into()),
        user_id: Some(user.into()),
        ..SessionSource::default()
    }
}

fn ninety_days() -> PrunePolicy {
    PrunePolicy::max_age_days(90)
}

#[test]
fn prunes_by_activity_not_by_creation() {
    let bench = Bench::new();
    let (idle, busy) = (bench.add("idle"), bench.add("busy"));
    bench.clock.advance(80 * DAY);
    bench.store.touch(&busy).unwrap().unwrap();
    bench.clock.advance(20 * DAY);

    let report = bench.store.prune(&ninety_days(), NoActivity).unwrap();
    assert_eq!(report.removed, 1);
    assert!(!bench.has(&idle));
    assert!(bench.has(&busy), "it was created as long ago, but used since");
}

#[test]
fn the_cutoff_is_exact() {
    let bench = Bench::new();
    let key = bench.add("edge");
    bench.clock.advance(90 * DAY);
    assert_eq!(
        bench.store.prune(&ninety_days(), NoActivity).unwrap().removed,
        0,
        "idle for 90 days is not more than 90"
    );
    bench.clock.advance(Duration::from_micros(1));
    assert_eq!(bench.store.prune(&ninety_days(), NoActivity).unwrap().removed, 1);
    assert!(!bench.has(&key));
}

#[test]
fn zero_and_negative_ages_disable() {
    let bench = Bench::new();
    let key = bench.add("old");
    bench.clock.advance(10_000 * DAY);
    for days in [0, -1, i64::MIN] {
        let report = bench.store.prune(&PrunePolicy::max_age_days(days), NoActivity).unwrap();
        assert_eq!((report.removed, report.cutoff), (0, None), "{days} days");
    }
    assert!(bench.has(&key));
    assert_eq!(bench.store.prune(&PrunePolicy::max_age_days(i64::MAX), NoActivity).unwrap().removed, 0);
    assert_eq!(bench.store.prune(&PrunePolicy::max_age_days(1), NoActivity).unwrap().removed, 1);
}

#[test]
fn keeps_suspended_entries() {
    let bench = Bench::new();
    let (suspended, resumed) = (bench.add("suspended"), bench.add("resumed"));
    for key in [&suspended, &resumed] {
        bench.store.suspend(key).unwrap().unwrap();
    }
    bench.store.unsuspend(&resumed).unwrap().unwrap();
    bench.clock.advance(100 * DAY);

    let report = bench.store.prune(&ninety_days(), NoActivity).unwrap();
    assert_eq!((report.removed, report.kept_suspended), (1, 1));
    assert!(bench.has(&suspended) && !bench.has(&resumed));
    assert_eq!(report.oldest_protected, Some(100 * DAY));
}

#[test]
fn keeps_active_entries_asked_by_key() {
    let bench = Bench::new();
    let (active, idle) = (bench.add("active"), bench.add("idle"));
    bench.clock.advance(100 * DAY);

    let running = active.clone();
    let report = bench.store.prune(&ninety_days(), move |key: &SessionKey| *key == running).unwrap();
    assert_eq!((report.removed, report.kept_active), (1, 1));
    assert!(bench.has(&active) && !bench.has(&idle));
}

/// The bug that began it all, as it would look here: a guard that knows sessions by their ids.
#[test]
fn a_guard_that_knows_only_ids_protects_nothing() {
    let bench = Bench::new();
    let key = bench.add("active");
    let id = bench.store.get(&key).unwrap().unwrap().session_id;
    bench.clock.advance(100 * DAY);

    let asked = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&asked);
    let by_id = move |key: &SessionKey| {
        log.lock().unwrap().push(key.as_str().to_owned());
        key.as_str() == id.as_str()
    };
    let report = bench.store.prune(&ninety_days(), by_id).unwrap();
    assert_eq!((report.removed, report.kept_active), (1, 0));
    assert_eq!(*asked.lock().unwrap(), [key.as_str()], "asked once, with the key");
}

#[test]
fn asks_the_guard_only_for_expired_unsuspended_entries() {
    let bench = Bench::new();
    let (old, held) = (bench.add("old"), bench.add("held"));
    bench.store.suspend(&held).unwrap().unwrap();
    bench.clock.advance(100 * DAY);
    bench.add("new");

    let asked = AtomicU64::new(0);
    let count = |key: &SessionKey| {
        assert_eq!(*key, old);
        asked.fetch_add(1, Ordering::Relaxed);
        false
    };
    assert_eq!(bench.store.prune(&ninety_days(), count).unwrap().removed, 1);
    assert_eq!(asked.into_inner(), 1);
}

#[test]
fn a_guard_that_fails_or_panics_keeps_the_entry_and_is_logged() {
    let bench = Bench::new();
    let keys = ["failing", "panicking", "idle"].map(|user| bench.add(user));
    bench.clock.advance(100 * DAY);

    let log = Log::default();
    // Of one subscriber alone tracing asks whether a place in the code is heard in the thread that comes there first, which may be another
    // test's, and keeps the answer. Of two it asks both.
    let _second = tracing::Dispatch::new(tracing_subscriber::registry());
    let subscriber = tracing_subscriber::fmt()
        .with_writer(log.clone())
        .with_max_level(tracing::Level::TRACE)
        .without_time()
        .finish();
    let guard = |key: &SessionKey| -> Result<bool, String> {
        match key.as_str() {
            text if text.ends_with("failing") => Err("the job table is locked".into()),
            text if text.ends_with("panicking") => panic!("a bug in the guard"),
            _ => Ok(false),
        }
    };
    let report = tracing::subscriber::with_default(subscriber, || bench.store.prune(&ninety_days(), guard)).unwrap();

    assert_eq!((report.removed, report.guard_failed, report.kept_active), (1, 2, 0));
    assert_eq!(keys.map(|key| bench.has(&key)), [true, true, false]);
    let log = log.text();
    assert!(
        log.contains("DEBUG") && log.contains("the job table is locked") && log.contains("a bug in the guard"),
        "{log}"
    );
    // Its own words may hold the key, which it was given.
    let above_trace = log.lines().filter(|line| !line.contains("TRACE"));
    assert_eq!(above_trace.filter(|line| line.contains("guard failed") && !line.contains("a bug")).count(), 2, "{log}");
    assert!(!log.contains("4711"), "no raw chat id in a log: {log}");
}

/// Collects what is logged.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> tracing_subscriber::fmt::MakeWriter<'a> for Log {
    type Writer = Self;
    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[test]
fn commits_if_and_only_if_something_was_removed() {
    let bench = Bench::new();
    let key = bench.add("one");
    bench.store.flush().unwrap();
    let commit = || bench.store.stats().unwrap().last_commit;
    let before = commit();

    bench.store.prune(&ninety_days(), NoActivity).unwrap();
    assert_eq!(commit(), before, "nothing has expired");
    bench.clock.advance(100 * DAY);
    bench.store.prune_dry_run(&ninety_days(), NoActivity).unwrap();
    assert_eq!(commit(), before, "a dry run removes nothing");
    let kept = key.clone();
    bench.store.prune(&ninety_days(), move |key: &SessionKey| *key == kept).unwrap();
    assert_eq!(commit(), before, "all that has expired is protected");
    bench.store.prune(&ninety_days(), NoActivity).unwrap();
    assert!(commit() > before);
}

#[test]
fn a_pass_that_removes_nothing_syncs_nothing() {
    let home = crate::common::Home::new();
    let store = home.open();
    let receipt = store.resolve(&source("one")).unwrap().receipt;
    assert_eq!(store.prune(&ninety_days(), NoActivity).unwrap().removed, 0);
    assert!(!receipt.is_durable().unwrap());
}

#[test]
fn a_dry_run_reports_what_a_run_would_do() {
    let bench = Bench::new();
    let (active, suspended) = (bench.add("active"), bench.add("suspended"));
    for user in ["a", "b", "c"] {
        bench.add(user);
    }
    bench.store.suspend(&suspended).unwrap().unwrap();
    bench.clock.advance(100 * DAY);
    bench.add("new");

    let guard = |key: &SessionKey| *key == active;
    let dry = bench.store.prune_dry_run(&ninety_days(), guard).unwrap();
    assert!(dry.dry_run);
    assert_eq!(bench.store.len(), 6);
    let mut real = bench.store.prune(&ninety_days(), guard).unwrap();
    real.dry_run = true;
    assert_eq!(real, dry);
    assert_eq!(bench.store.len(), 3);
}

#[test]
fn after_a_prune_the_user_gets_a_fresh_session() {
    let bench = Bench::new();
    let key = bench.add("returning");
    let old = bench.store.get(&key).unwrap().unwrap();
    bench.store.record_usage(&key, &Usage { total_tokens: 1234, ..Usage::ZERO }).unwrap().unwrap();
    bench.clock.advance(100 * DAY);
    bench.store.prune(&ninety_days(), NoActivity).unwrap();

    let back = bench.store.resolve(&source("returning")).unwrap();
    assert_eq!(back.resolution, cloakroom::change::Resolution::Created);
    assert_ne!(back.entry.session_id, old.session_id);
    assert_eq!(back.entry.usage, Usage::ZERO);
    assert_eq!(back.entry.details.prev_session_id, None);
}

#[test]
fn a_reopened_store_shows_the_pruned_state() {
    let bench = Bench::new();
    let gone = bench.add("gone");
    bench.clock.advance(100 * DAY);
    let stays = bench.add("stays");
    assert_eq!(bench.store.prune(&ninety_days(), NoActivity).unwrap().removed, 1);

    let bench = bench.reopen();
    assert_eq!(bench.store.len(), 1);
    assert!(!bench.has(&gone) && bench.has(&stays));
    assert_eq!(bench.store.verify().unwrap().violations, []);
}

/// A touch between the guard's answer and the removal. The guard itself makes it, so the order is certain.
#[test]
fn a_touch_that_races_a_prune_wins() {
    for clock_moves in [true, false] {
        let bench = Bench::new();
        let key = bench.add("racing");
        bench.clock.advance(100 * DAY);
        if !clock_moves {
            // Back to the moment of creation, so that the touch leaves the record as it was.
            bench.store.touch(&key).unwrap().unwrap();
            bench.clock.advance(100 * DAY);
        }
        let policy = ninety_days();
        let (store, clock) = (bench.store.clone(), bench.clock.clone());
        let guard = move |key: &SessionKey| {
            if !clock_moves {
                clock.set_wall(Timestamp::MIN);
            }
            store.touch(key).unwrap().unwrap();
            false
        };
        let report = bench.store.prune(&policy, guard).unwrap();
        assert_eq!((report.removed, report.touched_meanwhile), (0, 1), "clock moves: {clock_moves}");
        assert!(bench.has(&key));
    }
}

/// The same for every other verb that makes the entry worth keeping.
#[test]
fn any_change_that_races_a_prune_wins() {
    type Verb = fn(&SessionStore, &SessionKey);
    let verbs: [(&str, Verb); 4] = [
        ("suspend", |store, key| drop(store.suspend(key).unwrap().unwrap())),
        ("reset", |store, key| drop(store.reset(key).unwrap().unwrap())),
        ("resolve", |store, _| drop(store.resolve(&source("racing")).unwrap())),
        ("remove and create", |store, key| {
            store.remove(key).unwrap().unwrap();
            store.resolve(&source("racing")).unwrap();
        }),
    ];
    for (name, verb) in verbs {
        let bench = Bench::new();
        let key = bench.add("racing");
        bench.clock.advance(100 * DAY);
        let store = bench.store.clone();
        let guard = move |key: &SessionKey| {
            verb(&store, key);
            false
        };
        let report = bench.store.prune(&ninety_days(), guard).unwrap();
        assert_eq!((report.removed, report.touched_meanwhile), (0, 1), "{name}");
        assert!(bench.has(&key), "{name}");
    }
}

#[test]
fn concurrent_touches_and_reads_during_a_prune() {
    const ENTRIES: usize = 2_000;
    let bench = Bench::new();
    let keys: Vec<SessionKey> = (0..ENTRIES).map(|n| bench.add(&format!("{n:05}"))).collect();
    bench.clock.advance(100 * DAY);

    // Every second entry is touched by another thread while the prune runs.
    let start = std::sync::Barrier::new(3);
    let pruned = AtomicBool::new(false);
    let (report, survived_touch) = std::thread::scope(|scope| {
        let pruner = scope.spawn(|| {
            start.wait();
            let report = bench.store.prune(&ninety_days(), NoActivity).unwrap();
            pruned.store(true, Ordering::Release);
            report
        });
        let toucher = scope.spawn(|| {
            start.wait();
            let touched = keys.iter().step_by(2).filter(|key| bench.store.touch(key).unwrap().is_some());
            touched.cloned().collect::<Vec<_>>()
        });
        let reader = scope.spawn(|| {
            start.wait();
            while !pruned.load(Ordering::Acquire) {
                for key in keys.iter().step_by(97) {
                    if let Some(entry) = bench.store.get(key).unwrap() {
                        assert_eq!(entry.key, *key);
                    }
                }
            }
        });
        reader.join().unwrap();
        (pruner.join().unwrap(), toucher.join().unwrap())
    });

    for key in &survived_touch {
        assert!(bench.has(key), "a touch that found the entry was answered, so the entry stays");
    }
    assert_eq!(report.removed + bench.store.len(), ENTRIES as u64);
    assert_eq!(bench.store.len(), survived_touch.len() as u64, "what was not touched has gone");
    assert_eq!(bench.store.verify().unwrap().violations, []);
}

#[test]
fn works_through_many_batches_and_leaves_the_rest() {
    let bench = Bench::new();
    for n in 0..1_500 {
        bench.add(&format!("old{n:04}"));
        if n % 100 == 0 {
            bench.clock.advance(Duration::from_secs(60));
        }
    }
    bench.clock.advance(100 * DAY);
    for n in 0..100 {
        bench.add(&format!("new{n:04}"));
    }
    let report = bench.store.prune(&ninety_days(), NoActivity).unwrap();
    assert_eq!((report.removed, bench.store.len()), (1_500, 100));
    let again = bench.store.prune(&ninety_days(), NoActivity).unwrap();
    assert_eq!((again.removed, again.stale_rows_cleared), (0, 0));
}

/// The guard is the caller's code: it may use the store, even to prune or to close it.
#[test]
fn the_guard_may_use_the_store() {
    let bench = Bench::new();
    bench.add("one");
    bench.clock.advance(100 * DAY);
    struct Reentrant(SessionStore);
    impl ActivityGuard for Reentrant {
        fn check(&self, key: &SessionKey) -> Verdict {
            assert!(self.0.get(key).unwrap().is_some());
            assert_eq!(self.0.recent(10, None).unwrap().entries.len(), 1);
            self.0.prune_dry_run(&ninety_days(), NoActivity).unwrap();
            Verdict::Idle
        }
    }
    assert_eq!(bench.store.prune(&ninety_days(), Reentrant(bench.store.clone())).unwrap().removed, 1);
}
