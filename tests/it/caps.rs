//! Caps: the oldest go until there is no more than is allowed, and the report counts what cannot go.

use std::sync::Mutex;
use std::time::Duration;

use cloakroom::prune::{NoActivity, ProtectedBy, Verdict};
use cloakroom::time::Clock;
use cloakroom::watcher::WatcherConfig;
use cloakroom::{PrunePolicy, SessionKey, SessionStore, Watcher};

use crate::common::{Home, assert_sound, key, source};

const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A store with entries 0 to `n`, each a second younger than the one before.
fn filled(home: &Home, n: usize) -> SessionStore {
    let store = home.open();
    for n in 0..n {
        store.resolve(&source(n)).unwrap();
        home.clock.advance(Duration::from_secs(1));
    }
    store
}

fn left(store: &SessionStore, n: usize) -> Vec<usize> {
    (0..n).filter(|n| store.contains(&key(*n)).unwrap()).collect()
}

#[test]
fn zero_is_no_cap() {
    let home = Home::new();
    let store = filled(&home, 3);
    for policy in [PrunePolicy::max_age_days(0), cap(0), PrunePolicy::max_age_days(0).max_disk_bytes(0, 0)] {
        assert!(policy.is_disabled(), "{policy:?}");
        assert_eq!(store.prune(&policy, NoActivity).unwrap().removed, 0);
    }
    for policy in [PrunePolicy::max_age_days(1), cap(1), PrunePolicy::max_age_days(0).max_disk_bytes(1, 1)] {
        assert!(!policy.is_disabled(), "{policy:?}");
    }
}

/// No age, only a cap.
fn cap(entries: u64) -> PrunePolicy {
    PrunePolicy::max_age_days(0).max_entries(entries)
}

#[test]
fn the_oldest_go_and_no_more_than_needed() {
    let home = Home::new();
    // Some in one bucket, where only their exact time tells which is older.
    let store = filled(&home, 200);
    // The oldest is the youngest now.
    store.touch(&key(0)).unwrap().unwrap();
    for entries in [0, 200, 1000] {
        assert_eq!(store.prune(&cap(entries), NoActivity).unwrap().removed, 0, "{entries}");
    }
    let dry = store.prune_dry_run(&cap(150), NoActivity).unwrap();
    assert_eq!((dry.removed, dry.entries_over_cap, store.len()), (50, 0, 200));
    let report = store.prune(&cap(150), NoActivity).unwrap();
    assert_eq!((report.removed, report.removed_over_entries, report.entries_over_cap), (50, 50, 0));
    assert_eq!((report.dry_run, report.cutoff), (false, None));
    assert_eq!(left(&store, 200), [0].into_iter().chain(51..200).collect::<Vec<_>>());
    assert_sound(&store);
}

#[test]
fn age_comes_first_and_never_depends_on_count() {
    let home = Home::new();
    let store = filled(&home, 10);
    home.clock.advance(91 * DAY);
    for n in 4..10 {
        home.clock.advance(Duration::from_secs(1));
        store.touch(&key(n)).unwrap().unwrap();
    }
    let policy = PrunePolicy::max_age_days(90).max_entries(5);
    let asked = Mutex::new(Vec::new());
    let guard = |key: &SessionKey| {
        asked.lock().unwrap().push(key.clone());
        false
    };
    let report = store.prune(&policy, guard).unwrap();
    assert_eq!((report.removed, report.removed_over_entries), (5, 1), "four too old, one too many");
    assert_eq!(left(&store, 10), [5, 6, 7, 8, 9]);
    assert_eq!(asked.into_inner().unwrap().len(), 5, "in one pass, each once");
    // Under the cap age counts all the same, and what is young stays however many there are.
    home.clock.advance(91 * DAY);
    store.touch(&key(9)).unwrap().unwrap();
    assert_eq!(store.prune(&policy, NoActivity).unwrap().removed, 4);
    assert_eq!(left(&store, 10), [9]);
}

#[test]
fn protected_entries_may_make_a_cap_unreachable_and_the_report_says_by_how_much() {
    let home = Home::new();
    let store = filled(&home, 20);
    for n in 0..8 {
        store.suspend(&key(n)).unwrap().unwrap();
    }
    let verdict = |key_asked: &SessionKey| match () {
        () if *key_asked == key(8) => Verdict::Active,
        () if *key_asked == key(9) => Verdict::Failed("no answer".into()),
        () if *key_asked == key(10) => panic!("a guard that panics"),
        () => Verdict::Idle,
    };
    for dry_run in [true, false] {
        let report =
            if dry_run { store.prune_dry_run(&cap(3), verdict) } else { store.prune(&cap(3), verdict) }.unwrap();
        assert_eq!((report.removed, report.entries_over_cap), (9, 8), "11 are protected, and 3 allowed");
        assert_eq!((report.kept_suspended, report.kept_active, report.guard_failed), (8, 1, 2));
        // The oldest of them, in order. Their keys are for acting on, and print redacted.
        let reasons: Vec<_> = report.protected.iter().map(|kept| kept.reason).collect();
        let expected =
            [vec![ProtectedBy::Suspended; 8], vec![ProtectedBy::Active], vec![ProtectedBy::GuardFailed]].concat();
        assert_eq!(reasons, expected);
        assert_eq!(report.protected[0].key, key(0));
        assert!(!format!("{report:?}").contains("u0"));
        assert!(serde_json::to_string(&report).unwrap().contains(key(0).as_str()));
        assert!(report.protected.is_sorted_by_key(|kept| std::cmp::Reverse(kept.idle)));
        assert_eq!(Some(report.protected[0].idle), report.oldest_protected);
    }
    assert_eq!(left(&store, 20), (0..11).collect::<Vec<_>>());
}

#[test]
fn active_protects_no_longer_than_allowed_and_suspended_for_ever() {
    let home = Home::new();
    let store = filled(&home, 3);
    store.suspend(&key(0)).unwrap().unwrap();
    home.clock.advance(180 * DAY);
    let policy = PrunePolicy::max_age_days(90).max_active_age(180 * DAY + Duration::from_secs(1));
    let guard =
        |key_asked: &SessionKey| if *key_asked == key(2) { Verdict::Failed("?".into()) } else { Verdict::Active };
    // Entry 1 has been idle for 180 days and two seconds, entry 2 for one second less.
    let report = store.prune_dry_run(&policy, guard).unwrap();
    assert_eq!((report.removed, report.removed_active), (1, 1));
    let report = store.prune(&policy, guard).unwrap();
    assert_eq!((report.removed, report.removed_active, report.kept_active), (1, 1, 0));
    assert_eq!((report.kept_suspended, report.guard_failed), (1, 1));
    let active = |_: &SessionKey| true;
    assert_eq!(store.prune(&policy, active).unwrap().kept_active, 1, "exactly as long as allowed");
    home.clock.advance(10 * 365 * DAY);
    let failed = |_: &SessionKey| Verdict::Failed("?".into());
    assert_eq!(store.prune(&policy, failed).unwrap().removed, 0, "who cannot tell has not said active");
    assert_eq!(store.prune(&policy, active).unwrap().removed, 1);
    assert_eq!(left(&store, 3), [0]);
}

#[test]
fn bytes_go_down_to_the_low_water_mark_once_they_are_above_the_cap() {
    let home = Home::new();
    let store = filled(&home, 100);
    let live =
        |high, low| store.prune_dry_run(&PrunePolicy::max_age_days(0).max_disk_bytes(high, low), NoActivity).unwrap();
    let small = live(u64::MAX, 0);
    let before = small.live_bytes.unwrap();
    assert_eq!((small.removed, small.bytes_over_cap), (0, 0), "below the cap nothing goes, whatever the mark");
    assert!((100 * 150..100 * 600).contains(&before), "{before}");
    // Extras count.
    let metadata = serde_json::json!({"text": "m".repeat(100_000)});
    for n in [0, 50] {
        store.set_metadata(&key(n), metadata.as_object().unwrap()).unwrap().unwrap();
    }
    let with_extras = live(u64::MAX, 0).live_bytes.unwrap();
    assert!((200_000..201_000).contains(&(with_extras - before)), "{}", with_extras - before);
    // The oldest is one of the large ones, so it is enough.
    let policy = PrunePolicy::max_age_days(0).max_disk_bytes(200_000, 150_000);
    let dry = store.prune_dry_run(&policy, NoActivity).unwrap();
    let report = store.prune(&policy, NoActivity).unwrap();
    assert_eq!((report.removed, report.removed_over_bytes, report.bytes_over_cap), (1, 1, 0));
    assert_eq!(dry.removed, 1);
    assert_eq!(left(&store, 100), (1..100).collect::<Vec<_>>());
    assert_eq!(report.live_bytes, live(u64::MAX, 0).live_bytes, "what it says is what is found later");
    assert_eq!(store.prune(&policy, NoActivity).unwrap().removed, 0, "and a second pass finds no more to do");
    // What cannot be reached is reported.
    for n in 1..100 {
        store.suspend(&key(n)).unwrap().unwrap();
    }
    let report = store.prune(&PrunePolicy::max_age_days(0).max_disk_bytes(1000, 500), NoActivity).unwrap();
    assert_eq!((report.removed, report.kept_suspended), (0, 99));
    assert_eq!(report.bytes_over_cap, report.live_bytes.unwrap() - 500);
}

#[test]
fn a_store_that_is_just_at_its_cap_loses_nothing() {
    let home = Home::new();
    let store = filled(&home, 20);
    let policy = |high| PrunePolicy::max_age_days(0).max_disk_bytes(high, 0);
    let live = store.prune_dry_run(&policy(u64::MAX), NoActivity).unwrap().live_bytes.unwrap();
    assert_eq!(store.prune(&policy(live), NoActivity).unwrap().removed, 0);
    let report = store.prune(&policy(live - 1), NoActivity).unwrap();
    assert_eq!((report.removed, report.live_bytes, report.bytes_over_cap), (20, Some(0), 0));
}

#[test]
fn the_estimate_of_many_is_near() {
    let home = Home::new();
    let store = filled(&home, 3000);
    let policy = |high| PrunePolicy::max_age_days(0).max_disk_bytes(high, 0);
    let estimate = store.prune_dry_run(&policy(u64::MAX), NoActivity).unwrap().live_bytes.unwrap();
    // Down to nothing by the estimate; the sizes of what goes are exact.
    let report = store.prune(&policy(estimate / 2), NoActivity).unwrap();
    assert!(report.removed > 2900, "{report:?} {estimate}");
    assert!(report.live_bytes.unwrap() < estimate / 30, "{report:?} {estimate}");
}

#[test]
fn a_touch_wins_over_a_cap_too() {
    let home = Home::new();
    let store = filled(&home, 3);
    let touching = |key: &SessionKey| {
        store.touch(key).unwrap().unwrap();
        false
    };
    let report = store.prune(&cap(2), touching).unwrap();
    assert_eq!((report.removed, report.touched_meanwhile, report.entries_over_cap), (0, 3, 1));
}

#[test]
fn the_watcher_applies_caps_without_an_age_and_does_not_hold_them() {
    let home = Home::new();
    let store = filled(&home, 300);
    let config = WatcherConfig { policy: cap(10), interval: 60 * MINUTE };
    let watcher = Watcher::spawn(&store, config, NoActivity).unwrap();
    let report = watcher.reports().recv_timeout(Duration::from_secs(20)).unwrap();
    assert_eq!((report.removed, store.len()), (290, 10));
    watcher.stop();
}

/// Some entries were touched while the clock was ahead. They do not push out those that were used since.
#[test]
fn caps_do_not_take_the_freshest_because_a_few_lie_in_the_future() {
    // Whether the store is opened anew after the clock was set right, and after the last messages.
    for (after_the_clock, at_the_end) in [(false, false), (true, false), (true, true), (false, true)] {
        let home = Home::new();
        let mut store = filled(&home, 12);
        let reopen = |store: SessionStore| {
            store.close().unwrap();
            drop(store);
            home.open()
        };
        let right = home.clock.now();
        home.clock.set_wall(right.saturating_add(400 * DAY));
        (0..5).for_each(|n| drop(store.touch(&key(n)).unwrap().unwrap()));
        home.clock.set_wall(right);
        if after_the_clock {
            store = reopen(store);
        }
        // Two write no more, and five do.
        home.clock.advance(2 * DAY);
        (7..12).for_each(|n| drop(store.touch(&key(n)).unwrap().unwrap()));
        home.clock.advance(MINUTE);
        if at_the_end {
            store = reopen(store);
        }
        let dry = store.prune_dry_run(&cap(5), NoActivity).unwrap();
        let report = store.prune(&cap(5), NoActivity).unwrap();
        assert_eq!((report.removed, report.removed_over_entries, dry.removed), (7, 7, 7));
        assert_eq!(left(&store, 12), [7, 8, 9, 10, 11], "{after_the_clock} {at_the_end}");
        assert_sound(&store);
    }
    // Those that were idle before go before them.
    let home = Home::new();
    let store = filled(&home, 12);
    let right = home.clock.now();
    home.clock.set_wall(right.saturating_add(400 * DAY));
    (0..5).for_each(|n| drop(store.touch(&key(n)).unwrap().unwrap()));
    home.clock.set_wall(right.saturating_add(3 * DAY));
    let asked = Mutex::new(Vec::new());
    let guard = |key: &SessionKey| {
        asked.lock().unwrap().push(key.clone());
        true
    };
    let report = store.prune(&PrunePolicy::max_age_days(0).max_disk_bytes(1, 0), guard).unwrap();
    assert_eq!((report.removed, report.kept_active), (0, 12), "each is asked about once");
    let asked = asked.into_inner().unwrap();
    assert_eq!(asked[..7], [5, 6, 7, 8, 9, 10, 11].map(key));
    assert_eq!(asked.len(), 12);
    assert_eq!(store.prune(&cap(8), NoActivity).unwrap().removed, 4);
    assert_eq!(left(&store, 12), [0, 1, 2, 3, 4, 9, 10, 11]);
}
