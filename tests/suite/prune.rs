//! What goes by itself, and what does not.

use std::sync::Mutex;

use cloakroom::change::{ReplaceReason, Resolution, Resolve};
use cloakroom::prune::{ActivityGuard, NoActivity, ProtectedBy, Verdict};
use cloakroom::reset::{ResetPolicies, ResetPolicy};
use cloakroom::{PrunePolicy, SessionKey};

use super::{Can, DAY, MINUTE, Rig, begin, get};
use crate::common::{key, source};

const IDLE: &dyn ActivityGuard = &NoActivity;

fn days(days: i64) -> PrunePolicy {
    PrunePolicy::max_age_days(days)
}

pub fn what_is_idle_goes_and_what_is_protected_stays(rig: &dyn Rig) {
    let store = rig.sessions();
    for n in 0..6 {
        begin(rig, n);
    }
    rig.clock().advance(DAY * 2);
    begin(rig, 6);
    store.suspend(&key(1)).unwrap().unwrap();
    store.pin(&key(2)).unwrap().unwrap();
    store.touch(&key(3)).unwrap().unwrap();
    let active = |asked: &SessionKey| *asked == key(4);
    let report = store.prune(&days(1), &active).unwrap();
    assert_eq!((report.removed, report.kept_suspended, report.kept_pinned, report.kept_active), (2, 1, 1, 1));
    assert_eq!((report.touched_meanwhile, report.guard_failed, report.dry_run), (0, 0, false));
    assert_eq!(report.oldest_protected, Some(DAY * 2));
    let reasons: Vec<_> = report.protected.iter().map(|one| one.reason).collect();
    for reason in [ProtectedBy::Suspended, ProtectedBy::Pinned, ProtectedBy::Active] {
        assert!(reasons.contains(&reason));
    }
    let left: Vec<_> = (0..7).filter(|n| store.contains(&key(*n)).unwrap()).collect();
    assert_eq!(left, [1, 2, 3, 4, 6]);
    assert_eq!(store.len().unwrap(), 5);
    // Exactly as old as is allowed is not too old.
    assert_eq!(store.prune(&days(2), &|_: &SessionKey| false).unwrap().removed, 0);
    assert_eq!(store.prune(&days(0), IDLE).unwrap().removed, 0);
}

pub fn a_dry_run_tells_the_same(rig: &dyn Rig) {
    let store = rig.sessions();
    for n in 0..9 {
        begin(rig, n);
    }
    store.suspend(&key(1)).unwrap().unwrap();
    store.pin(&key(2)).unwrap().unwrap();
    rig.clock().advance(DAY * 3);
    let guard = |asked: &SessionKey| match asked {
        asked if *asked == key(3) => Verdict::Active,
        asked if *asked == key(4) => Verdict::Failed("it does not know".into()),
        _ => Verdict::Idle,
    };
    let dry = store.prune_dry_run(&days(2), &guard).unwrap();
    assert!(dry.dry_run);
    assert_eq!(store.len().unwrap(), 9);
    let mut done = store.prune(&days(2), &guard).unwrap();
    done.dry_run = true;
    // Of one time any order will do.
    let sorted = |mut report: cloakroom::prune::PruneReport| {
        report.protected.sort_by(|a, b| a.key.cmp(&b.key));
        report
    };
    assert_eq!(sorted(done), sorted(dry));
    assert_eq!(store.len().unwrap(), 4);
}

pub fn the_guard_is_asked_with_the_key(rig: &dyn Rig) {
    let store = rig.sessions();
    let old = begin(rig, 1);
    begin(rig, 2);
    rig.clock().advance(DAY * 2);
    begin(rig, 3);
    let asked = Mutex::new(Vec::new());
    let report = store
        .prune(&days(1), &|asked_of: &SessionKey| {
            asked.lock().unwrap().push(asked_of.clone());
            // A guard that knows session ids only protects nothing.
            asked_of.as_str() == old.session_id.as_str()
        })
        .unwrap();
    assert_eq!(report.removed, 2);
    let mut asked = asked.into_inner().unwrap();
    asked.sort();
    // Only what is too old.
    assert_eq!(asked, [key(1), key(2)]);
}

pub fn a_touch_wins_against_a_pass(rig: &dyn Rig) {
    let store = rig.sessions();
    begin(rig, 1);
    begin(rig, 2);
    rig.clock().advance(DAY * 2);
    let report = store
        .prune(&days(1), &|asked: &SessionKey| {
            if *asked == key(1) {
                store.touch(asked).unwrap().unwrap();
            }
            false
        })
        .unwrap();
    assert_eq!((report.removed, report.touched_meanwhile), (1, 1));
    assert!(store.contains(&key(1)).unwrap());
    // Under a clock that stands still, too, and by any other change.
    for change in [0, 1, 2] {
        rig.clock().advance(DAY * 2);
        let old = get(rig, 1).updated_at;
        rig.clock().set_wall(old.saturating_add(DAY * 2));
        let report = store
            .prune(&days(1), &|asked: &SessionKey| {
                match change {
                    0 => drop(store.pin(asked).unwrap().unwrap()),
                    1 => drop(store.unpin(asked).unwrap()),
                    _ => drop(store.set_extra(asked, "a", &serde_json::json!(1)).unwrap().unwrap()),
                }
                false
            })
            .unwrap();
        if change == 1 {
            // It was pinned, so nobody was asked.
            assert_eq!((report.removed, report.kept_pinned), (0, 1));
            store.unpin(&key(1)).unwrap().unwrap();
        } else {
            assert_eq!((report.removed, report.touched_meanwhile), (0, 1), "{change}");
        }
    }
    assert!(store.contains(&key(1)).unwrap());
}

pub fn a_guard_that_fails_keeps(rig: &dyn Rig) {
    let store = rig.sessions();
    begin(rig, 1);
    begin(rig, 2);
    rig.clock().advance(DAY * 2);
    let report = store
        .prune(&days(1), &|asked: &SessionKey| match *asked == key(1) {
            true => Verdict::Failed("no".into()),
            false => panic!("the guard panics"),
        })
        .unwrap();
    assert_eq!((report.removed, report.guard_failed), (0, 2));
}

pub fn what_is_active_for_too_long_goes(rig: &dyn Rig) {
    let store = rig.sessions();
    begin(rig, 1);
    rig.clock().advance(DAY * 2);
    begin(rig, 2);
    rig.clock().advance(DAY * 2);
    let policy = days(1).max_active_age(DAY * 3);
    let report = store.prune(&policy, &|_: &SessionKey| true).unwrap();
    assert_eq!((report.removed, report.removed_active, report.kept_active), (1, 1, 1));
    assert!(store.contains(&key(2)).unwrap());
}

pub fn a_cap_takes_the_oldest(rig: &dyn Rig) {
    let store = rig.sessions();
    for n in 0..40 {
        begin(rig, n);
        rig.clock().advance(MINUTE);
    }
    let report = store.prune(&days(0).max_entries(10), IDLE).unwrap();
    let left: Vec<_> = (0..40).filter(|n| store.contains(&key(*n)).unwrap()).collect();
    assert_eq!(report.removed, 40 - left.len() as u64);
    assert_eq!(report.removed, report.removed_over_entries);
    if rig.can(Can::ExactCap) {
        assert_eq!(left, (30..40).collect::<Vec<_>>());
        assert_eq!(report.entries_over_cap, 0);
    }
}

pub fn a_policy_ends_sessions(rig: &dyn Rig) {
    let store = rig.sessions();
    let policies = ResetPolicies::from(ResetPolicy::idle(10));
    let first = begin(rig, 1);
    rig.clock().advance(MINUTE * 10);
    let found = store.resolve_with(&source(1), &policies, IDLE).unwrap();
    assert_eq!((found.resolution, found.entry.session_id), (Resolution::Existing, first.session_id.clone()));
    rig.clock().advance(MINUTE * 11);
    // Not while work is in progress, nor where nobody knows, nor where it is pinned.
    let found = store.resolve_with(&source(1), &policies, &|asked: &SessionKey| *asked == key(1)).unwrap();
    assert_eq!(found.resolution, Resolution::Existing);
    rig.clock().advance(MINUTE * 11);
    let fails = |_: &SessionKey| Verdict::Failed("no".into());
    assert_eq!(store.resolve_with(&source(1), &policies, &fails).unwrap().resolution, Resolution::Existing);
    rig.clock().advance(MINUTE * 11);
    store.pin(&key(1)).unwrap().unwrap();
    assert_eq!(store.resolve_with(&source(1), &policies, IDLE).unwrap().resolution, Resolution::Existing);
    store.unpin(&key(1)).unwrap().unwrap();
    // A touch while the guard is asked wins.
    rig.clock().advance(MINUTE * 11);
    let touches = |asked: &SessionKey| {
        store.touch(asked).unwrap().unwrap();
        false
    };
    assert_eq!(store.resolve_with(&source(1), &policies, &touches).unwrap().resolution, Resolution::Existing);
    rig.clock().advance(MINUTE * 11);
    let found = store.resolve_with(&source(1), &policies, IDLE).unwrap();
    let (reason, previous) = (ReplaceReason::Idle, first.session_id);
    assert_eq!(found.resolution, Resolution::Replaced { reason, previous, had_activity: false });
    assert_eq!(found.entry.details.auto_reset_reason.as_deref(), Some("idle"));
    assert_eq!(get(rig, 1), found.entry);
    rig.clock().advance(MINUTE * 11);
    let found = store.resolve_as_with(&key(1), &Resolve::new(), &policies, IDLE).unwrap();
    assert!(matches!(found.resolution, Resolution::Replaced { reason: ReplaceReason::Idle, .. }));
}
