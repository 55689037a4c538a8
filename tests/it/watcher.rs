//! The watcher: when it prunes, when it holds back, and how it ends.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cloakroom::prune::{NoActivity, PruneReport};
use cloakroom::time::Clock;
use cloakroom::watcher::{Reports, WatcherConfig};
use cloakroom::{PrunePolicy, SessionKey, Watcher};

use crate::prune::{Bench, DAY};

const HOUR: Duration = Duration::from_secs(60 * 60);
/// Long enough for any machine; no test waits this long unless it fails.
const PATIENCE: Duration = Duration::from_secs(20);

fn config() -> WatcherConfig {
    WatcherConfig { policy: PrunePolicy::max_age_days(90), interval: HOUR }
}

fn next(reports: &Reports) -> PruneReport {
    reports.recv_timeout(PATIENCE).expect("a pass")
}

#[test]
fn prunes_at_once_then_hourly_and_when_kicked() {
    let bench = Bench::new();
    bench.add("first");
    bench.clock.advance(100 * DAY);
    // So that it is no more than half.
    bench.add("young");
    let watcher = Watcher::spawn(&bench.store, config(), NoActivity).unwrap();
    let reports = watcher.reports();
    assert_eq!(next(&reports).removed, 1, "the first pass runs at once");

    bench.add("second");
    bench.clock.advance(HOUR - Duration::from_secs(1));
    // A kick is answered in order, so its report shows that the clock alone caused no pass before it.
    watcher.prune_now();
    next(&reports);
    assert_eq!(watcher.status().passes, 2, "within the hour only the kick made a pass");

    bench.clock.advance(Duration::from_secs(1));
    next(&reports);
    let status = watcher.status();
    assert_eq!((status.passes, status.failures, status.held), (3, 0, 0));
    assert_eq!(status.last_run, Some(bench.clock.now()));
    assert_eq!(status.next_run, Some(bench.clock.now().saturating_add(HOUR)));
    watcher.stop();
}

#[test]
fn zero_days_mean_no_pass_at_all() {
    let bench = Bench::new();
    bench.add("old");
    bench.clock.advance(1_000 * DAY);
    let config = WatcherConfig { policy: PrunePolicy::max_age_days(0), ..config() };
    let watcher = Watcher::spawn(&bench.store, config, NoActivity).unwrap();
    watcher.prune_now();
    bench.clock.advance(10 * HOUR);
    let (status, reports) = (watcher.status(), watcher.reports());
    watcher.stop();
    assert_eq!(status.passes, 0);
    assert!(reports.try_recv().is_err());
    assert_eq!(bench.store.len(), 1);
}

#[test]
fn a_panic_or_failure_in_a_pass_does_not_end_it() {
    let bench = Bench::new();
    bench.add("one");
    bench.clock.advance(100 * DAY);
    bench.add("young");
    let broken = Arc::new(AtomicBool::new(true));
    let guard = {
        let broken = Arc::clone(&broken);
        move |_: &SessionKey| -> bool { if broken.load(Ordering::SeqCst) { panic!("broken") } else { false } }
    };
    let watcher = Watcher::spawn(&bench.store, config(), guard).unwrap();
    let reports = watcher.reports();
    assert_eq!(next(&reports).guard_failed, 1);
    broken.store(false, Ordering::SeqCst);
    bench.clock.advance(HOUR);
    assert_eq!(next(&reports).removed, 1, "the next tick runs");
}

#[test]
fn a_closed_store_is_a_counted_failure() {
    let bench = Bench::new();
    bench.add("one");
    let watcher = Watcher::spawn(&bench.store, config(), NoActivity).unwrap();
    next(&watcher.reports());
    bench.clock.advance(100 * DAY);
    bench.store.close().unwrap();
    watcher.prune_now();
    // There is no report of a failed pass to wait for.
    while watcher.status().passes < 3 {
        std::thread::yield_now();
    }
    let status = watcher.status();
    assert!(status.failures >= 1, "{status:?}");
    assert!(status.last_failure.unwrap().contains("closed"));
}

#[test]
fn stops_between_batches() {
    let bench = old_entries(5_000);
    let asked = Arc::new(AtomicU64::new(0));
    let itself: Arc<Mutex<Option<Watcher>>> = Arc::default();
    let guard = {
        let (asked, itself) = (Arc::clone(&asked), Arc::clone(&itself));
        move |_: &SessionKey| {
            if asked.fetch_add(1, Ordering::SeqCst) == 0 {
                drop(itself.lock().unwrap().take());
            }
            true
        }
    };
    let mut place = itself.lock().unwrap();
    let watcher = Watcher::spawn(&bench.store, config(), guard).unwrap();
    let mut reports = watcher.reports();
    *place = Some(watcher);
    drop(place);
    // They end with the thread.
    assert!(reports.all(|report| report.stopped));
    assert_eq!(asked.load(Ordering::SeqCst), 512);
    assert_eq!(bench.store.len(), 5_000);
}

#[test]
fn stopping_waits_for_the_end_of_the_thread() {
    let bench = old_entries(5_000);
    let asked = Arc::new(AtomicU64::new(0));
    let (entered, entries) = crossbeam_channel::bounded(1);
    let guard = {
        let asked = Arc::clone(&asked);
        move |_: &SessionKey| {
            asked.fetch_add(1, Ordering::SeqCst);
            let _ = entered.try_send(());
            true
        }
    };
    let watcher = Watcher::spawn(&bench.store, config(), guard).unwrap();
    entries.recv_timeout(PATIENCE).unwrap();
    watcher.stop();
    assert_eq!(Arc::strong_count(&asked), 1, "the guard went with the thread");
}

/// Entries that have expired.
fn old_entries(n: usize) -> Bench {
    let bench = Bench::new();
    for n in 0..n {
        bench.add(&format!("{n:05}"));
    }
    bench.clock.advance(100 * DAY);
    bench
}

/// The store is small: 150 entries, all of which look expired to a clock that jumped ahead.
#[test]
fn holds_a_pass_that_a_wrong_clock_would_cause() {
    let bench = Bench::new();
    for n in 0..150 {
        bench.add(&format!("{n:03}"));
    }
    let right = bench.clock.now();
    bench.clock.set_wall(right.saturating_add(400 * DAY));
    let watcher = Watcher::spawn(&bench.store, config(), NoActivity).unwrap();
    wait_for_passes(&watcher, 1);
    assert_eq!((watcher.status().held, bench.store.len()), (1, 150), "held");

    // The clock is put right before the next pass, which then finds nothing to do.
    bench.clock.set_wall(right.saturating_add(HOUR));
    bench.clock.advance(HOUR);
    assert_eq!(next(&watcher.reports()).removed, 0);

    // It jumps again, and again within the hour: the clocks disagree, so the pass is held on.
    bench.clock.set_wall(right.saturating_add(400 * DAY));
    bench.clock.advance(HOUR);
    wait_for_passes(&watcher, 3);
    bench.clock.set_wall(right.saturating_add(500 * DAY));
    bench.clock.advance(HOUR);
    wait_for_passes(&watcher, 4);
    assert_eq!((watcher.status().held, bench.store.len()), (3, 150));

    // A whole hour on which both clocks agree: it is the time, and the entries are old.
    bench.clock.advance(HOUR);
    assert_eq!(next(&watcher.reports()).removed, 150);
}

#[test]
fn an_operator_is_not_held() {
    let bench = Bench::new();
    for n in 0..150 {
        bench.add(&format!("{n:03}"));
    }
    bench.clock.advance(400 * DAY);
    let watcher = Watcher::spawn(&bench.store, config(), NoActivity).unwrap();
    wait_for_passes(&watcher, 1);
    assert_eq!(watcher.status().held, 1);
    watcher.prune_now();
    assert_eq!(next(&watcher.reports()).removed, 150);
}

#[test]
fn holds_by_the_age_of_its_own_policy_and_not_for_its_caps() {
    let bench = old_entries(150);
    bench.clock.set_wall(bench.clock.now().saturating_sub(40 * DAY));
    let policy = PrunePolicy::max_age_days(30);
    let watcher = Watcher::spawn(&bench.store, WatcherConfig { policy, interval: HOUR }, NoActivity).unwrap();
    wait_for_passes(&watcher, 1);
    assert_eq!((watcher.status().held, bench.store.len()), (1, 150));
    watcher.stop();

    for policy in [config().policy.max_entries(1), config().policy.max_disk_bytes(1, 0)] {
        let bench = old_entries(250);
        for n in 250..400 {
            bench.add(&format!("{n:05}"));
        }
        // By age 150 of the 400 go, by the cap all but what is active.
        let active = |key: &SessionKey| key.as_str().contains(":000");
        let watcher = Watcher::spawn(&bench.store, WatcherConfig { policy, interval: HOUR }, active).unwrap();
        let report = next(&watcher.reports());
        assert_eq!((report.removed, report.kept_active, watcher.status().held), (300, 100, 0));
    }
}

#[test]
fn holds_whatever_the_size_and_half_is_not_more_than_half() {
    for entries in [1, 2, 8, 38, 99, 100] {
        let bench = old_entries(entries);
        let watcher = Watcher::spawn(&bench.store, config(), NoActivity).unwrap();
        wait_for_passes(&watcher, 1);
        assert_eq!((watcher.status().held, bench.store.len()), (1, entries as u64));
        bench.clock.advance(HOUR);
        assert_eq!(next(&watcher.reports()).removed, entries as u64, "it was right");
    }
    let bench = old_entries(4);
    (0..4).for_each(|n| drop(bench.add(&format!("young{n}"))));
    let watcher = Watcher::spawn(&bench.store, config(), NoActivity).unwrap();
    assert_eq!(next(&watcher.reports()).removed, 4);
}

#[test]
fn protected_entries_are_not_held() {
    let bench = old_entries(300);
    let watcher = Watcher::spawn(&bench.store, config(), |_: &SessionKey| true).unwrap();
    assert_eq!(next(&watcher.reports()).kept_active, 300, "what is protected would not be removed");
}

/// A watcher of a process that opens the store, makes one pass and is gone. Answers what it removed, if it was not held.
fn short_life(bench: Bench, config: WatcherConfig) -> (Bench, Option<u64>) {
    let bench = bench.reopen();
    let watcher = Watcher::spawn(&bench.store, config, NoActivity).unwrap();
    wait_for_passes(&watcher, 1);
    let (held, reports) = (watcher.status().held, watcher.reports());
    watcher.stop();
    let removed = reports.try_recv().ok().map(|report| report.removed);
    assert_eq!(held, u64::from(removed.is_none()));
    (bench, removed)
}

#[test]
fn a_process_that_restarts_more_often_than_the_interval_prunes_in_the_end() {
    let mut bench = old_entries(150);
    for minutes in [0, 1, 10, 10, 10, 10, 10] {
        bench.clock.advance(Duration::from_secs(60 * minutes));
        let removed;
        (bench, removed) = short_life(bench, config());
        assert_eq!((removed, bench.store.len()), (None, 150));
    }
    bench.clock.advance(Duration::from_secs(60 * 9));
    let (bench, removed) = short_life(bench, config());
    assert_eq!((removed, bench.store.len()), (Some(150), 0), "an hour since it was held");
}

#[test]
fn what_was_held_by_a_wrong_clock_is_not_confirmed_by_restarts() {
    let bench = Bench::new();
    (0..38).for_each(|n| drop(bench.add(&n.to_string())));
    let right = bench.clock.now();
    bench.clock.set_wall(right.saturating_add(400 * DAY));
    let (bench, removed) = short_life(bench, config());
    assert_eq!(removed, None);
    let (bench, removed) = short_life(bench, config());
    assert_eq!(removed, None, "two quick restarts");
    // It jumps on: by the time of day an interval has passed, by the machine's own none.
    bench.clock.set_wall(right.saturating_add(500 * DAY));
    let (bench, removed) = short_life(bench, config());
    assert_eq!(removed, None);
    // Another run of the machine, where only the time of day tells.
    bench.clock.reboot();
    bench.clock.advance(HOUR / 2);
    let (bench, removed) = short_life(bench, config());
    assert_eq!(removed, None, "half an hour");
    // Put right, it takes nothing, and forgets what was held.
    bench.clock.set_wall(right.saturating_add(HOUR));
    let (bench, removed) = short_life(bench, config());
    assert_eq!((removed, bench.store.len()), (Some(0), 38));
    bench.clock.set_wall(right.saturating_add(600 * DAY));
    bench.clock.reboot();
    let (bench, removed) = short_life(bench, config());
    assert_eq!((removed, bench.store.len()), (None, 38));
}

#[test]
fn what_was_held_is_confirmed_by_the_time_of_day_after_a_restart_of_the_machine() {
    let bench = old_entries(38);
    let (bench, removed) = short_life(bench, config());
    assert_eq!(removed, None);
    bench.clock.reboot();
    bench.clock.advance(HOUR);
    let (bench, removed) = short_life(bench, config());
    assert_eq!((removed, bench.store.len()), (Some(38), 0));
}

/// While a pass is held more entries expire, at each pass some. They are left for the next.
#[test]
fn what_expires_meanwhile_delays_nothing() {
    let bench = Bench::new();
    (0..60).for_each(|n| drop(bench.add(&format!("old{n}"))));
    for hour in 1..=30 {
        bench.clock.advance(HOUR);
        bench.add(&format!("hour{hour}"));
    }
    bench.clock.advance(90 * DAY - 29 * HOUR - HOUR / 2);
    let watcher = Watcher::spawn(&bench.store, config(), NoActivity).unwrap();
    wait_for_passes(&watcher, 1);
    assert_eq!((watcher.status().held, bench.store.len()), (1, 90));
    bench.clock.advance(HOUR);
    assert_eq!(next(&watcher.reports()).removed, 60);
    bench.clock.advance(HOUR);
    assert!(next(&watcher.reports()).removed > 0);
}

/// More is found than was held, by another policy.
#[test]
fn what_finds_more_is_held_anew() {
    let bench = Bench::new();
    (0..30).for_each(|n| drop(bench.add(&format!("old{n}"))));
    bench.clock.advance(60 * DAY);
    (0..20).for_each(|n| drop(bench.add(&format!("less{n}"))));
    bench.clock.advance(40 * DAY);
    let (bench, removed) = short_life(bench, config());
    assert_eq!(removed, None);
    bench.clock.advance(HOUR);
    let thirty = WatcherConfig { policy: PrunePolicy::max_age_days(30), interval: HOUR };
    let (bench, removed) = short_life(bench, thirty.clone());
    assert_eq!((removed, bench.store.len()), (None, 50));
    bench.clock.advance(HOUR);
    let (bench, removed) = short_life(bench, thirty);
    assert_eq!((removed, bench.store.len()), (Some(50), 0));
}

/// Less than half would go, but the clock has just jumped.
#[test]
fn a_pass_waits_for_an_interval_after_a_jump() {
    let bench = old_entries(40);
    bench.clock.advance(10 * DAY);
    (0..60).for_each(|n| drop(bench.add(&format!("young{n}"))));
    bench.clock.set_wall(bench.clock.now().saturating_sub(30 * DAY));
    let watcher = Watcher::spawn(&bench.store, config(), NoActivity).unwrap();
    wait_for_passes(&watcher, 1);
    // The young are most, and lie ahead now.
    assert_eq!((watcher.status().held, bench.store.len()), (1, 100));
    bench.clock.set_wall(bench.clock.now().saturating_add(30 * DAY));
    bench.clock.advance(HOUR);
    wait_for_passes(&watcher, 2);
    assert_eq!((watcher.status().held, bench.store.len()), (2, 100));
    bench.clock.advance(HOUR);
    assert_eq!(next(&watcher.reports()).removed, 40);
}

#[test]
fn unread_reports_never_block_it() {
    let bench = Bench::new();
    let watcher = Watcher::spawn(&bench.store, config(), NoActivity).unwrap();
    for passes in 1..=40 {
        wait_for_passes(&watcher, passes);
        bench.clock.advance(HOUR);
    }
    let reports = watcher.reports();
    // A pass may be under way, and would send while those before it are taken.
    drop(watcher);
    assert!((1..=16).contains(&reports.drain().count()));
}

/// Waits until the watcher has done its passes, and has set its timer again.
fn wait_for_passes(watcher: &Watcher, passes: u64) {
    let deadline = std::time::Instant::now() + PATIENCE;
    while watcher.status().passes < passes {
        assert!(std::time::Instant::now() < deadline, "{:?}", watcher.status());
        std::thread::yield_now();
    }
}
