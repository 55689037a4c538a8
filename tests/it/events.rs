//! Events: told once, with their reasons, and never in a writer's way.

use std::time::Duration;

use cloakroom::{
    EventKind, NoActivity, PrunePolicy, PruneReason, ReplaceReason, Repoint, ResetPolicies, ResetPolicy, ResumeClear,
};

use crate::common::{Home, key, source};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

#[test]
fn each_verb_tells_what_became_of_the_session() {
    use EventKind::*;
    let home = Home::new();
    let store = home.open();
    let events = store.events(100);
    let told = || events.drain().map(|event| (event.key, event.kind)).collect::<Vec<_>>();
    let expect = |kinds: &[EventKind]| {
        assert_eq!(told(), kinds.iter().map(|kind| (key(0), kind.clone())).collect::<Vec<_>>());
    };
    store.touch(&key(0)).unwrap();
    store.suspend(&key(0)).unwrap();
    store.remove(&key(0)).unwrap();
    store.reset(&key(0)).unwrap();
    expect(&[]);
    store.resolve(&source(0)).unwrap();
    store.resolve(&source(0)).unwrap();
    store.touch(&key(0)).unwrap().unwrap();
    expect(&[Created]);
    store.reset(&key(0)).unwrap().unwrap();
    store.repoint(&key(0), "another".parse().unwrap(), &Repoint::new()).unwrap();
    expect(&[Reset { reason: None }, Switched]);
    store.unsuspend(&key(0)).unwrap().unwrap();
    store.suspend(&key(0)).unwrap().unwrap();
    store.suspend(&key(0)).unwrap().unwrap();
    store.resolve(&source(0)).unwrap();
    expect(&[Suspended, Reset { reason: Some(ReplaceReason::Suspended) }]);
    store.suspend(&key(0)).unwrap().unwrap();
    store.unsuspend(&key(0)).unwrap().unwrap();
    expect(&[Suspended, Unsuspended]);
    assert!(matches!(store.clear_resume_pending(&key(0)).unwrap(), ResumeClear::NotPending));
    store.mark_resume_pending(&key(0), "restart").unwrap();
    assert!(matches!(store.clear_resume_pending(&key(0)).unwrap(), ResumeClear::Cleared(_)));
    expect(&[ResumePending { reason: "restart".into() }, ResumeCleared]);
    home.clock.advance(2 * DAY);
    store.resolve_with(&source(0), &ResetPolicies::from(ResetPolicy::idle(1440)), NoActivity).unwrap();
    expect(&[Reset { reason: Some(ReplaceReason::Idle) }]);
    store.remove(&key(0)).unwrap().unwrap();
    expect(&[Removed]);
    store.resolve(&source(0)).unwrap();
    home.clock.advance(100 * DAY);
    store.prune_dry_run(&PrunePolicy::max_age_days(90), NoActivity).unwrap();
    store.prune(&PrunePolicy::max_age_days(90), NoActivity).unwrap();
    expect(&[Created, Pruned { reason: PruneReason::Age }]);
    store.resolve(&source(0)).unwrap();
    home.clock.advance(DAY);
    store.resolve(&source(1)).unwrap();
    told();
    store.prune(&PrunePolicy::max_age_days(90).max_entries(1), NoActivity).unwrap();
    expect(&[Pruned { reason: PruneReason::Entries }]);
    store.resolve(&source(0)).unwrap();
    told();
    store.remove(&key(1)).unwrap().unwrap();
    told();
    store.prune(&PrunePolicy::max_age_days(0).max_disk_bytes(1, 0), NoActivity).unwrap();
    expect(&[Pruned { reason: PruneReason::Bytes }]);
    assert_eq!(events.dropped(), 0);
}

#[test]
fn a_full_channel_drops_and_counts_and_nobody_waits() {
    let home = Home::new();
    let store = home.open();
    let (small, large, gone) = (store.events(2), store.events(100), store.events(1));
    drop(gone);
    for n in 0..10 {
        store.resolve(&source(n)).unwrap();
    }
    assert_eq!((small.drain().count(), small.dropped()), (2, 8));
    assert_eq!((large.drain().count(), large.dropped()), (10, 0));
    store.resolve(&source(10)).unwrap();
    assert_eq!((small.drain().count(), small.dropped()), (1, 8), "there is room again");
    drop(store);
    large.drain().for_each(drop);
    assert!(large.receiver().recv().is_err(), "it ends with the store");
}
