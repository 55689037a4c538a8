//! Events of a process: the same as those of an embedded store, and none of what other processes do.

use std::time::Duration;

use cloakroom::change::{Edit, Expect, Repoint, Resolve, Touch};
use cloakroom::cluster::ClusterStore;
use cloakroom::events::{Event, EventKind, EventOptions, Events, Nothing};
use cloakroom::import::ImportOptions;
use cloakroom::prefix::BulkRemoval;
use cloakroom::prune::NoActivity;
use cloakroom::query::Filter;
use cloakroom::reset::{ResetPolicies, ResetPolicy};
use cloakroom::time::ManualClock;
use cloakroom::turns::TurnStart;
use cloakroom::{Extras, Options, PrunePolicy, SessionStore, Sessions, Usage};

use crate::common::{NOW, key, source};
use crate::conformance::one;
use crate::metrics::figure;

const DAY: Duration = Duration::from_secs(86_400);

/// All that a listener may hear.
fn all() -> EventOptions {
    EventOptions::new(1000).updates(true).touches(true)
}

/// An event without what differs between two stores: ids are told by their place among all that were told.
fn plain(events: &Events) -> Vec<String> {
    let mut ids = Vec::new();
    let mut place = |id: Option<cloakroom::SessionId>| {
        id.map(|id| {
            ids.iter().position(|seen| *seen == id).unwrap_or_else(|| {
                ids.push(id);
                ids.len() - 1
            })
        })
    };
    let told = events.drain().map(|event| {
        let Event { key, kind, at, old_session_id, new_session_id, revision, .. } = event;
        let (old, new) = (place(old_session_id), place(new_session_id));
        // A touch on a cluster may know of none.
        let revision = if kind == EventKind::Touched { "-" } else { if revision.is_some() { "is" } else { "gone" } };
        format!("{kind:?} {} {old:?} {new:?} {at:?} {revision}", key.as_str())
    });
    told.collect()
}

/// A bit of everything that becomes of sessions.
fn live(store: &dyn Sessions, clock: &ManualClock) {
    let (a, b) = (key(0), key(1));
    assert!(store.touch(&a).unwrap().is_none() && store.suspend(&a).unwrap().is_none());
    store.resolve(&source(0)).unwrap();
    store.resolve(&source(0)).unwrap();
    store.touch(&a).unwrap().unwrap();
    store.record_usage(&a, &Usage { total_tokens: 3, ..Usage::default() }).unwrap().unwrap();
    store.reset(&a).unwrap().unwrap();
    store.repoint(&a, "another".parse().unwrap(), &Repoint::new()).unwrap();
    store.suspend(&a).unwrap().unwrap();
    // It is that already.
    store.suspend(&a).unwrap().unwrap();
    store.resolve(&source(0)).unwrap();
    store.resolve_as(&a, &Resolve::new().fresh(true)).unwrap();
    store.pin(&a).unwrap().unwrap();
    store.unpin(&a).unwrap().unwrap();
    store.mark_resume_pending(&a, "restart").unwrap();
    store.mark_resume_pending(&a, "restart").unwrap();
    store.clear_resume_pending(&a).unwrap();
    store.set_extra(&a, "label", &"blue".into()).unwrap().unwrap();
    store.remove_extra(&a, "label").unwrap().unwrap();
    store.set_extras(&a, &Extras::default()).unwrap().unwrap();
    store.update(&a, &mut |details| details.display_name = Some("Alice".into())).unwrap().unwrap();
    let token = store.begin_turn(&a).unwrap().unwrap().token;
    store.end_turn(&a, token).unwrap();
    assert!(matches!(store.try_begin_turn(&a).unwrap(), TurnStart::Begun(_)));
    assert!(matches!(store.try_begin_turn(&a).unwrap(), TurnStart::Open(_)));
    store.discard_turn(&a).unwrap();
    store.modify(&b, Touch::Yes, &mut |_| Edit::Write).unwrap();
    let mut pinned = |draft: &mut cloakroom::change::Draft<'_>| {
        draft.entry.pinned = true;
        Edit::Write
    };
    store.modify(&b, Touch::No, &mut pinned).unwrap();
    store.modify(&b, Touch::Yes, &mut |_| Edit::Write).unwrap();
    store.modify(&b, Touch::No, &mut |_| Edit::Keep).unwrap();
    store.modify(&b, Touch::No, &mut |_| Edit::Remove).unwrap();
    let seen = store.get(&a).unwrap().unwrap();
    store.put(&seen, &Extras::default(), Expect::Any).unwrap();
    store.remove(&a).unwrap().unwrap();
    store.put(&seen, &Extras::default(), Expect::Absent).unwrap();
    clock.advance(DAY * 2);
    let policies = ResetPolicies::from(ResetPolicy::idle(1440));
    store.resolve_with(&source(0), &policies, &NoActivity).unwrap();
    let seen = store.get(&a).unwrap().unwrap();
    store.remove_if(&a, &seen).unwrap();
    for n in 2..6 {
        store.resolve_as(&key(n), &Resolve::new()).unwrap();
    }
    let removed = store.remove_where(&Filter { key_prefix: Some(key(2).as_str().into()), ..Filter::default() }, None);
    assert!(matches!(removed, Ok(BulkRemoval::Removed(_))));
    store.forget(key(3).as_str()).unwrap();
    store.suspend(&key(4)).unwrap().unwrap();
    clock.advance(DAY * 100);
    let policy = PrunePolicy::max_age_days(90);
    assert_eq!(store.prune_dry_run(&policy, &NoActivity).unwrap().removed, 1);
    assert_eq!(store.prune(&policy, &NoActivity).unwrap().removed, 1);
}

#[test]
fn a_process_tells_of_its_changes_what_an_embedded_store_tells() {
    let dir = tempfile::tempdir().unwrap();
    let clock = ManualClock::new(NOW);
    let options = Options::new(dir.path().join("db")).create(true).clock(clock.clone());
    let embedded = SessionStore::open(options).unwrap();
    let events = embedded.events(all());
    live(&embedded, &clock);
    let expected = plain(&events);
    assert!(expected.last().unwrap().starts_with("Pruned"), "{expected:#?}");
    let clock = ManualClock::new(NOW);
    let store = ClusterStore::open(one().options().clock(clock.clone())).unwrap();
    let events = store.own_events(all());
    live(&store, &clock);
    assert_eq!(plain(&events), expected);
    // And of what comes from a file.
    let file =
        br#"{"k": {"session_key": "agent:main:discord:dm:9", "session_id": "s", "updated_at": "2026-06-01T00:00:00"}}"#;
    for kind in [EventKind::Created, EventKind::Replaced] {
        let how = cloakroom::import::OnConflict::Replace;
        store.import(&file[..], ImportOptions::new().on_conflict(how), |_| {}).unwrap();
        assert_eq!(events.drain().map(|event| event.kind).collect::<Vec<_>>(), [kind]);
    }
}

#[test]
fn what_other_processes_do_is_not_told() {
    let store = one().open();
    let other = ClusterStore::open(one().options_of(&store)).unwrap();
    let (events, others) = (store.own_events(all()), other.own_events(all()));
    other.resolve(&source(0)).unwrap();
    assert_eq!(events.try_recv(), Err(Nothing::Yet));
    assert_eq!(others.try_recv().unwrap().kind, EventKind::Created);
    // A listener holds nobody up. It learns how many events it had no room for.
    let full = other.own_events(1);
    other.reset(&key(0)).unwrap();
    other.remove(&key(0)).unwrap();
    assert_eq!((full.dropped(), figure(&other, "events_dropped_total")), (1, 1));
    drop(other);
    assert_eq!(full.recv().unwrap().kind, EventKind::Reset { reason: None });
    assert_eq!(full.recv(), None, "the store is gone");
}
