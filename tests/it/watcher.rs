//! The watcher: when it prunes, when it holds back, and how it ends.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cloakroom::{Clock, NoActivity, PrunePolicy, PruneReport, SessionKey, Watcher, WatcherConfig};
use crossbeam_channel::Receiver;

use crate::prune::{Bench, DAY};

const HOUR: Duration = Duration::from_secs(60 * 60);
/// Long enough for any machine; no test waits this long unless it fails.
const PATIENCE: Duration = Duration::from_secs(20);

fn config() -> WatcherConfig {
    WatcherConfig { policy: PrunePolicy::max_age_days(90), interval: HOUR }
}

fn next(reports: &Receiver<PruneReport>) -> PruneReport {
    reports.recv_timeout(PATIENCE).expect("a pass")
}

#[test]
fn prunes_at_once_then_hourly_and_when_kicked() {
    let bench = Bench::new();
    bench.add("first");
    bench.clock.advance(100 * DAY);
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
    let reports = watcher.reports().clone();
    *place = Some(watcher);
    drop(place);
    // They end with the thread.
    assert!(reports.iter().all(|report| report.stopped));
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
fn few_entries_or_protected_ones_are_not_held() {
    let bench = Bench::new();
    for n in 0..100 {
        bench.add(&format!("{n:03}"));
    }
    bench.clock.advance(400 * DAY);
    let watcher = Watcher::spawn(&bench.store, config(), NoActivity).unwrap();
    assert_eq!(next(&watcher.reports()).removed, 100, "all of them, but no more than 100");
    watcher.stop();

    for n in 0..300 {
        bench.add(&format!("{n:03}"));
    }
    bench.clock.advance(400 * DAY);
    let watcher = Watcher::spawn(&bench.store, config(), |_: &SessionKey| true).unwrap();
    assert_eq!(next(&watcher.reports()).kept_active, 300, "what is protected would not be removed");
}

#[test]
fn unread_reports_never_block_it() {
    let bench = Bench::new();
    let watcher = Watcher::spawn(&bench.store, config(), NoActivity).unwrap();
    for passes in 1..=40 {
        wait_for_passes(&watcher, passes);
        bench.clock.advance(HOUR);
    }
    assert!(watcher.reports().len() <= 16);
}

/// Waits until the watcher has done its passes, and has set its timer again.
fn wait_for_passes(watcher: &Watcher, passes: u64) {
    let deadline = std::time::Instant::now() + PATIENCE;
    while watcher.status().passes < passes {
        assert!(std::time::Instant::now() < deadline, "{:?}", watcher.status());
        std::thread::yield_now();
    }
}
