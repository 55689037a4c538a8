//! Turns, resumes and leases.

use std::sync::Barrier;
use std::thread;

use cloakroom::change::Repoint;
use cloakroom::turns::{ResumeClear, ResumeMark, TurnEnd, TurnStart};
use cloakroom::{Error, PrunePolicy, SessionId, SessionKey};

use super::{Can, DAY, MINUTE, Rig, begin, get};
use crate::common::{NOW, key, source};

pub fn a_turn_begins_and_ends(rig: &dyn Rig) {
    let store = rig.sessions();
    assert!(store.begin_turn(&key(1)).unwrap().is_none());
    begin(rig, 1);
    rig.clock().advance(MINUTE);
    let first = store.begin_turn(&key(1)).unwrap().unwrap().token;
    assert_eq!(get(rig, 1).updated_at, NOW.saturating_add(MINUTE));
    let open = store.turn(&key(1)).unwrap().unwrap();
    assert_eq!((open.token, open.started_at, open.interrupted), (first, NOW.saturating_add(MINUTE), false));
    let second = store.begin_turn(&key(1)).unwrap().unwrap().token;
    assert!(second > first);
    assert!(matches!(store.end_turn(&key(1), first).unwrap(), TurnEnd::NotCurrent));
    let TurnStart::Open(open) = store.try_begin_turn(&key(1)).unwrap() else { panic!() };
    assert_eq!(open.token, second);
    assert_eq!(store.turns().unwrap().items, [open]);
    assert!(matches!(store.end_turn(&key(1), second).unwrap(), TurnEnd::Ended(_)));
    assert!(matches!(store.end_turn(&key(1), second).unwrap(), TurnEnd::NotCurrent));
    assert!(store.turn(&key(1)).unwrap().is_none() && store.turns().unwrap().items.is_empty());
    let TurnStart::Begun(third) = store.try_begin_turn(&key(1)).unwrap() else { panic!() };
    assert!(third.token > second);
    assert!(matches!(store.discard_turn(&key(1)).unwrap(), TurnEnd::Ended(_)));
    assert!(matches!(store.discard_turn(&key(1)).unwrap(), TurnEnd::NotCurrent));
    assert!(matches!(store.try_begin_turn(&key(2)).unwrap(), TurnStart::Missing));
    assert!(matches!(store.end_turn(&key(2), second).unwrap(), TurnEnd::Missing));
    assert!(matches!(store.discard_turn(&key(2)).unwrap(), TurnEnd::Missing));
}

pub fn one_of_many_begins(rig: &dyn Rig) {
    let store = rig.sessions();
    for n in 0..10 {
        begin(rig, n);
        let start = Barrier::new(4);
        let begun: usize = thread::scope(|scope| {
            let begin = || {
                start.wait();
                usize::from(matches!(store.try_begin_turn(&key(n)).unwrap(), TurnStart::Begun(_)))
            };
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(begin)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(begun, 1);
    }
    assert_eq!(store.turns().unwrap().items.len(), 10);
}

pub fn a_turn_belongs_to_its_session(rig: &dyn Rig) {
    let store = rig.sessions();
    for n in [1, 2, 3] {
        begin(rig, n);
        store.begin_turn(&key(n)).unwrap().unwrap();
    }
    store.repoint(&key(1), SessionId::new("other").unwrap(), &Repoint::new()).unwrap();
    store.remove(&key(2)).unwrap().unwrap();
    begin(rig, 2);
    // Of the sessions that have gone there is no turn.
    assert!(store.turn(&key(1)).unwrap().is_none() && store.turn(&key(2)).unwrap().is_none());
    assert_eq!(store.turns().unwrap().items.iter().map(|turn| turn.key.clone()).collect::<Vec<_>>(), [key(3)]);
    for n in [1, 2] {
        let TurnStart::Begun(_) = store.try_begin_turn(&key(n)).unwrap() else { panic!("{n}") };
    }
    // A turn does not protect: it touches.
    rig.clock().advance(DAY * 2);
    assert_eq!(store.prune(&PrunePolicy::max_age_days(1), &|_: &SessionKey| false).unwrap().removed, 3);
    assert!(store.turns().unwrap().items.is_empty());
}

pub fn a_resume_is_marked_and_cleared(rig: &dyn Rig) {
    let store = rig.sessions();
    assert!(matches!(store.mark_resume_pending(&key(1), "restart").unwrap(), ResumeMark::Missing));
    assert!(matches!(store.clear_resume_pending(&key(1)).unwrap(), ResumeClear::Missing));
    begin(rig, 1);
    assert!(matches!(store.clear_resume_pending(&key(1)).unwrap(), ResumeClear::NotPending));
    rig.clock().advance(MINUTE);
    assert!(matches!(store.mark_resume_pending(&key(1), "restart").unwrap(), ResumeMark::Marked(_)));
    let entry = get(rig, 1);
    assert!(entry.resume_pending && entry.updated_at == NOW);
    assert_eq!(entry.details.resume_reason.as_deref(), Some("restart"));
    assert_eq!(entry.details.last_resume_marked_at, Some(NOW.saturating_add(MINUTE)));
    let found = store.resolve(&source(1)).unwrap().entry;
    assert!(found.resume_pending && found.session_id == entry.session_id);
    assert!(matches!(store.clear_resume_pending(&key(1)).unwrap(), ResumeClear::Cleared(_)));
    let entry = get(rig, 1);
    assert!(!entry.resume_pending && entry.details.resume_reason.is_none());
    store.suspend(&key(1)).unwrap().unwrap();
    assert!(matches!(store.mark_resume_pending(&key(1), "restart").unwrap(), ResumeMark::Suspended));
}

pub fn a_lease_holds_until_its_end(rig: &dyn Rig) {
    let store = rig.sessions();
    if !rig.can(Can::Leases) {
        assert!(matches!(store.hold_until(&key(1), "job", NOW), Err(Error::Unsupported { .. })));
        return;
    }
    assert!(store.hold_until(&key(1), "job", NOW).unwrap().is_none());
    begin(rig, 1);
    begin(rig, 2);
    let end = NOW.saturating_add(DAY * 4);
    store.hold_until(&key(1), "job", end).unwrap().unwrap();
    store.hold_until(&key(1), "other", NOW.saturating_add(DAY)).unwrap().unwrap();
    let leases = store.leases().unwrap().items;
    assert_eq!(leases.len(), 2);
    assert!(leases.iter().all(|lease| lease.key == key(1) && lease.since == NOW));
    rig.clock().advance(DAY * 2);
    let report = store.prune(&PrunePolicy::max_age_days(1), &|_: &SessionKey| false).unwrap();
    assert_eq!((report.removed, report.kept_held), (1, 1));
    assert_eq!(store.leases().unwrap().items.iter().map(|lease| lease.end).collect::<Vec<_>>(), [Some(end)]);
    assert!(store.release(&key(1), "job").unwrap().is_some());
    assert!(store.release(&key(1), "job").unwrap().is_none());
    assert_eq!(store.prune(&PrunePolicy::max_age_days(1), &|_: &SessionKey| false).unwrap().removed, 1);
    assert!(matches!(store.hold_until(&key(1), "", end), Err(Error::InvalidLease(_))));
}

pub fn a_lease_ends_with_its_entry(rig: &dyn Rig) {
    let store = rig.sessions();
    if !rig.can(Can::Leases) {
        return;
    }
    begin(rig, 1);
    store.hold_until(&key(1), "job", NOW.saturating_add(DAY * 400)).unwrap().unwrap();
    store.reset(&key(1)).unwrap().unwrap();
    assert_eq!(store.leases().unwrap().items.len(), 1, "it is the key's");
    store.remove(&key(1)).unwrap().unwrap();
    begin(rig, 1);
    assert!(store.leases().unwrap().items.is_empty());
    rig.clock().advance(DAY * 2);
    assert_eq!(store.prune(&PrunePolicy::max_age_days(1), &|_: &SessionKey| false).unwrap().removed, 1);
}

pub fn a_lease_lasts_as_long_as_it_is_held(rig: &dyn Rig) {
    let store = rig.sessions();
    assert!(store.hold(&key(1)).unwrap().is_none());
    begin(rig, 1);
    let (one, other) = (store.hold(&key(1)).unwrap().unwrap(), store.hold(&key(1)).unwrap().unwrap());
    assert!(one.is_held() && other.is_held());
    let leases = store.leases().unwrap().items;
    assert_eq!(leases.len(), 2);
    assert!(leases.iter().all(|lease| lease.key == key(1) && lease.name.is_none() && lease.end.is_none()));
    rig.clock().advance(DAY * 400);
    let removed = || {
        let report = store.prune(&PrunePolicy::max_age_days(1), &|_: &SessionKey| false).unwrap();
        (report.removed, report.kept_held)
    };
    assert_eq!(removed(), (0, 1));
    drop(one);
    assert_eq!(removed(), (0, 1), "it is held by the other");
    drop(other);
    while !rig.can(Can::EndAtDrop) && !store.leases().unwrap().items.is_empty() {
        std::thread::yield_now();
    }
    assert_eq!(removed(), (1, 0));
    // It ends with its entry, and holds none that is made again.
    begin(rig, 1);
    let lease = store.hold(&key(1)).unwrap().unwrap();
    store.remove(&key(1)).unwrap().unwrap();
    assert!(!lease.is_held());
    begin(rig, 1);
    assert!(!lease.is_held() && store.leases().unwrap().items.is_empty());
    rig.clock().advance(DAY * 2);
    assert_eq!(removed(), (1, 0));
}
