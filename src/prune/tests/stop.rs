//! Where a pass can be stopped, and what it has looked at by then.

use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::prune::Scope;

/// How many of 35 entries the guard is asked for, if a pass may go on that often.
fn asked(policy: &PrunePolicy, apart: Duration, allowed: usize) -> (usize, bool) {
    let dir = tempfile::tempdir().unwrap();
    let clock = ManualClock::new(START);
    let store = SessionStore::open(options(&dir, &clock).create(true)).unwrap();
    for n in 0..35 {
        store.resolve(&source(&n.to_string())).unwrap();
        clock.advance(apart);
    }
    clock.advance(100 * DAY);
    let asked = AtomicUsize::new(0);
    let guard = |_: &SessionKey| {
        asked.fetch_add(1, Ordering::SeqCst);
        true
    };
    let left = Cell::new(allowed);
    let go_on = || left.replace(left.get().saturating_sub(1)) > 0;
    let report = store.prune_pass(policy, &guard, None, false, Scope::All, go_on).unwrap();
    (asked.into_inner(), report.stopped)
}

#[test]
fn a_pass_stops_between_two_batches() {
    for apart in [Duration::ZERO, MINUTE] {
        let found = [0, 1, 3, 4, 9].map(|allowed| asked(&ninety_days(), apart, allowed));
        assert_eq!(found, [(0, true), (10, true), (30, true), (35, false), (35, false)]);
    }
}

#[test]
fn a_pass_over_a_cap_stops_between_two_batches() {
    let cap = PrunePolicy::max_age_days(0).max_entries(1);
    for apart in [Duration::ZERO, MINUTE] {
        let found = [0, 1, 3, 4, 9].map(|allowed| asked(&cap, apart, allowed));
        assert_eq!(found, [(0, true), (10, true), (30, true), (35, false), (35, false)]);
    }
}

#[test]
fn a_pass_over_a_cap_stops_among_entries_that_lie_ahead() {
    let dir = tempfile::tempdir().unwrap();
    let clock = ManualClock::new(START);
    let store = SessionStore::open(options(&dir, &clock).create(true)).unwrap();
    for n in 0..35 {
        store.resolve(&source(&n.to_string())).unwrap();
    }
    store.close().unwrap();
    drop(store);
    clock.set_wall(START.saturating_sub(9 * DAY));
    let store = SessionStore::open(options(&dir, &clock)).unwrap();
    // The clock is believed once it has said the same for a day.
    clock.advance(25 * 60 * MINUTE);
    let asked = AtomicUsize::new(0);
    let guard = |_: &SessionKey| {
        asked.fetch_add(1, Ordering::SeqCst);
        true
    };
    let left = Cell::new(1_usize);
    let go_on = || left.replace(left.get().saturating_sub(1)) > 0;
    let policy = PrunePolicy::max_age_days(0).max_entries(1);
    let report = store.prune_pass(&policy, &guard, None, false, Scope::All, go_on).unwrap();
    assert_eq!((asked.into_inner(), report.stopped, report.clock_doubted), (10, true, false), "{report:?}");
}

#[test]
fn what_others_remove_is_not_removed_once_more() {
    let dir = tempfile::tempdir().unwrap();
    let clock = ManualClock::new(START);
    let store = SessionStore::open(options(&dir, &clock).create(true)).unwrap();
    for n in 0..35 {
        store.resolve(&source(&n.to_string())).unwrap();
        clock.advance(MINUTE);
    }
    let asked = AtomicUsize::new(0);
    let guard = |_: &SessionKey| {
        if asked.fetch_add(1, Ordering::SeqCst) == 2 {
            for n in 20..24 {
                store.remove(&key(&n.to_string())).unwrap().unwrap();
            }
        }
        false
    };
    let report = store.prune(&PrunePolicy::max_age_days(0).max_entries(25), guard).unwrap();
    // Ten too many: two had gone when four others went, and the one in hand.
    assert_eq!((report.removed, report.entries_over_cap, store.len()), (6, 0, 25), "{report:?}");
}
