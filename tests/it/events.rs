//! Events: told once, with their reasons, and never in a writer's way.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use cloakroom::change::{Edit, Expect, ReplaceReason, Repoint, Resolve, Touch};
use cloakroom::events::{Event, EventKind, EventOptions, Nothing, PruneReason};
use cloakroom::import::ImportOptions;
use cloakroom::prune::NoActivity;
use cloakroom::reset::{ResetPolicies, ResetPolicy};
use cloakroom::turns::{RecoverOptions, ResumeClear};
use cloakroom::{Extras, PrunePolicy, SessionId, SessionStore, Usage};

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
    assert_eq!((small.recv().map(|event| event.key), small.dropped()), (Some(key(10)), 8), "there is room again");
    assert_eq!(small.try_recv(), Err(Nothing::Yet));
    assert_eq!(small.recv_timeout(Duration::ZERO), Err(Nothing::Yet));
    drop(store);
    large.drain().for_each(drop);
    assert_eq!((large.recv(), large.try_recv()), (None, Err(Nothing::Ended)), "it ends with the store");
    assert_eq!(large.recv_timeout(Duration::MAX), Err(Nothing::Ended));
}

/// A verb, and the kind of the one event that it tells of the entry of `key(0)`; none where nothing has changed.
type Case = (&'static str, Option<&'static str>, fn(&SessionStore));

/// Each goes on from where the one before it has left the entry.
const CASES: &[Case] = &[
    ("touch nothing", None, |store| drop(store.touch(&key(0)).unwrap())),
    ("remove nothing", None, |store| drop(store.remove(&key(0)).unwrap())),
    ("begin nothing", None, |store| drop(store.begin_turn(&key(0)).unwrap())),
    ("resolve", Some("created"), |store| drop(store.resolve(&source(0)).unwrap())),
    ("resolve again", Some("touched"), |store| drop(store.resolve(&source(0)).unwrap())),
    ("look", None, |store| drop(store.resolve_as(&key(0), &Resolve::new().touch(Touch::No)).unwrap())),
    ("fresh", Some("reset"), |store| drop(store.resolve_as(&key(0), &Resolve::new().fresh(true)).unwrap())),
    ("touch", Some("touched"), |store| drop(store.touch(&key(0)).unwrap().unwrap())),
    ("record_usage", Some("updated"), |store| drop(store.record_usage(&key(0), &used(1)).unwrap().unwrap())),
    ("record no usage", None, |store| drop(store.record_usage(&key(0), &used(0)).unwrap().unwrap())),
    ("update", Some("updated"), |store| {
        drop(store.update(&key(0), |details| details.expiry_finalized = true).unwrap().unwrap());
    }),
    ("set_metadata", Some("updated"), |store| drop(store.set_metadata(&key(0), &serde_json::Map::new()).unwrap())),
    ("set_extra", Some("updated"), |store| drop(store.set_extra(&key(0), "a", &1.into()).unwrap().unwrap())),
    ("remove_extra", Some("updated"), |store| drop(store.remove_extra(&key(0), "a").unwrap().unwrap())),
    ("remove no extra", None, |store| assert!(store.remove_extra(&key(0), "a").unwrap().is_none())),
    ("set_extras", Some("updated"), |store| drop(store.set_extras(&key(0), &Extras::default()).unwrap().unwrap())),
    ("suspend", Some("suspended"), |store| drop(store.suspend(&key(0)).unwrap().unwrap())),
    ("suspend again", None, |store| drop(store.suspend(&key(0)).unwrap().unwrap())),
    ("unsuspend", Some("unsuspended"), |store| drop(store.unsuspend(&key(0)).unwrap().unwrap())),
    ("begin_turn", Some("touched"), |store| drop(store.begin_turn(&key(0)).unwrap().unwrap())),
    ("try to begin", None, |store| drop(store.try_begin_turn(&key(0)).unwrap())),
    ("discard_turn", None, |store| drop(store.discard_turn(&key(0)).unwrap())),
    ("try_begin_turn", Some("touched"), |store| drop(store.try_begin_turn(&key(0)).unwrap())),
    ("discard_turns", None, |store| assert_eq!(store.discard_turns().unwrap().discarded, 1)),
    ("mark_resume_pending", Some("resume_pending"), |store| drop(store.mark_resume_pending(&key(0), "why").unwrap())),
    ("clear_resume_pending", Some("resume_cleared"), |store| drop(store.clear_resume_pending(&key(0)).unwrap())),
    ("clear again", None, |store| drop(store.clear_resume_pending(&key(0)).unwrap())),
    ("reset", Some("reset"), |store| drop(store.reset(&key(0)).unwrap().unwrap())),
    ("repoint", Some("switched"), |store| drop(store.repoint(&key(0), id("one"), &Repoint::new()).unwrap())),
    ("repoint to the same", None, |store| drop(store.repoint(&key(0), id("one"), &Repoint::new()).unwrap())),
    ("modify nothing", None, |store| drop(store.modify(&key(0), Touch::No, |_| Edit::Write).unwrap())),
    ("modify and keep", None, |store| drop(store.modify(&key(0), Touch::Yes, |_| Edit::Keep).unwrap())),
    ("modify and touch", Some("touched"), |store| drop(store.modify(&key(0), Touch::Yes, |_| Edit::Write).unwrap())),
    ("modify counters", Some("updated"), |store| modify(store, |draft| draft.entry.usage.output_tokens += 1)),
    ("modify extras", Some("updated"), |store| modify(store, |draft| draft.set_extra("a", &1.into()))),
    ("modify and suspend", Some("suspended"), |store| modify(store, |draft| draft.entry.suspended = true)),
    ("modify and unsuspend", Some("unsuspended"), |store| modify(store, |draft| draft.entry.suspended = false)),
    ("modify and resume", Some("resume_pending"), |store| modify(store, |draft| draft.entry.resume_pending = true)),
    ("modify and clear", Some("resume_cleared"), |store| modify(store, |draft| draft.entry.resume_pending = false)),
    ("modify the id", Some("switched"), |store| modify(store, |draft| draft.entry.session_id = id("two"))),
    ("modify and remove", Some("removed"), |store| drop(store.modify(&key(0), Touch::No, |_| Edit::Remove).unwrap())),
    ("modify and create", Some("created"), |store| modify(store, |draft| draft.entry.session_id = id("three"))),
    ("put over", Some("replaced"), |store| {
        let entry = store.get(&key(0)).unwrap().unwrap();
        store.put(&entry, &Extras::default(), Expect::Any).unwrap();
    }),
    ("put what is not expected", None, |store| {
        let entry = store.get(&key(0)).unwrap().unwrap();
        store.put(&entry, &Extras::default(), Expect::Absent).unwrap();
    }),
    ("remove_if", Some("removed"), |store| {
        let seen = store.get(&key(0)).unwrap().unwrap();
        store.remove_if(&key(0), &seen).unwrap();
    }),
    ("import", Some("created"), |store| import(store, "2026-06-11T00:00:00Z")),
    ("import the same", None, |store| import(store, "2026-06-11T00:00:00Z")),
    ("import over", Some("replaced"), |store| import(store, "2026-06-11T00:00:01Z")),
    ("remove", Some("removed"), |store| drop(store.remove(&key(0)).unwrap().unwrap())),
];

fn used(input_tokens: u64) -> Usage {
    Usage { input_tokens, ..Usage::ZERO }
}

fn id(name: &str) -> SessionId {
    SessionId::new(name).unwrap()
}

fn modify(store: &SessionStore, mut change: impl FnMut(&mut cloakroom::change::Draft<'_>)) {
    let modified = store.modify(&key(0), Touch::No, |draft| {
        change(draft);
        Edit::Write
    });
    drop(modified.unwrap());
}

fn import(store: &SessionStore, updated_at: &str) {
    let file = serde_json::json!({key(0).as_str(): {"session_id": "imported", "updated_at": updated_at}}).to_string();
    store.import(file.as_bytes(), ImportOptions::new().zone("UTC".parse().unwrap()), |_| {}).unwrap();
}

/// Every verb, with what it sends to a listener that asked for everything, and to one that asked for nothing more.
#[test]
fn each_verb_tells_one_event_with_its_time_ids_and_revision() {
    let home = Home::new();
    let store = home.open();
    let (all, few) = (store.events(EventOptions::new(100).updates(true).touches(true)), store.events(100));
    for (verb, kind, act) in CASES {
        home.clock.advance(Duration::from_secs(1));
        let before = store.get(&key(0)).unwrap();
        act(&store);
        let after = store.get(&key(0)).unwrap();
        let told: Vec<Event> = all.drain().collect();
        let kinds: Vec<_> = told.iter().map(|event| serde_json::to_value(event).unwrap()["event"].clone()).collect();
        assert_eq!(kinds, kind.iter().copied().collect::<Vec<_>>(), "{verb}: {told:?}");
        let changed = before.as_ref().map(|entry| entry.revision) != after.as_ref().map(|entry| entry.revision);
        assert_eq!(changed, kind.is_some_and(|kind| kind != "touched"), "{verb}");
        let is_few = kind.is_some_and(|kind| !matches!(kind, "touched" | "updated"));
        assert_eq!(
            few.drain().collect::<Vec<_>>(),
            told.iter().filter(|_| is_few).cloned().collect::<Vec<_>>(),
            "{verb}"
        );
        let Some(event) = told.first() else { continue };
        assert_eq!((&event.key, event.at), (&key(0), cloakroom::time::Clock::now(&home.clock)), "{verb}");
        assert_eq!(event.revision, after.as_ref().map(|entry| entry.revision), "{verb}");
        let ids = [before, after].map(|entry| entry.map(|entry| entry.session_id));
        let is_whole = *kind == Some("replaced");
        let [old, new] = if ids[0] == ids[1] && !is_whole { [None, None] } else { ids };
        assert_eq!((&event.old_session_id, &event.new_session_id), (&old, &new), "{verb}");
    }
    assert_eq!((all.dropped(), few.dropped()), (0, 0));
}

#[test]
fn an_event_has_one_layout_as_json() {
    let home = Home::new();
    let store = home.open();
    let events = store.events(EventOptions::new(100).updates(true).touches(true));
    let first = store.resolve(&source(0)).unwrap().entry;
    let reset = store.reset(&key(0)).unwrap().unwrap().entry;
    store.mark_resume_pending(&key(0), "restart").unwrap();
    let marked = store.get(&key(0)).unwrap().unwrap().revision;
    home.clock.advance(100 * DAY);
    store.prune(&PrunePolicy::max_age_days(90), NoActivity).unwrap();
    let (at, later) = ("2026-06-12T00:06:53.123456Z", "2026-09-20T00:06:53.123456Z");
    let none = serde_json::Value::Null;
    let (key, old, new) = (key(0).as_str().to_owned(), first.session_id, reset.session_id);
    let expected = [
        serde_json::json!({"session_key": key, "event": "created", "at": at, "old_session_id": none,
            "new_session_id": old, "revision": first.revision}),
        serde_json::json!({"session_key": key, "event": "reset", "reason": none, "at": at, "old_session_id": old,
            "new_session_id": new, "revision": reset.revision}),
        serde_json::json!({"session_key": key, "event": "resume_pending", "reason": "restart", "at": at,
            "old_session_id": none, "new_session_id": none, "revision": marked}),
        serde_json::json!({"session_key": key, "event": "pruned", "reason": "age", "at": later, "old_session_id": new,
            "new_session_id": none, "revision": none}),
    ];
    let told: Vec<_> = events.drain().map(|event| serde_json::to_value(event).unwrap()).collect();
    assert_eq!(told, expected);
    for (kind, json) in [
        (EventKind::Reset { reason: Some(ReplaceReason::Idle) }, r#"{"event":"reset","reason":"idle"}"#),
        (EventKind::Pruned { reason: PruneReason::Bytes }, r#"{"event":"pruned","reason":"bytes"}"#),
        (EventKind::Unsuspended, r#"{"event":"unsuspended"}"#),
    ] {
        assert_eq!(serde_json::to_string(&kind).unwrap(), json);
    }
}

/// A resume that was pending without a time gets one, which is an update; one that is new is a resume.
#[test]
fn a_recovery_tells_one_event_an_entry() {
    let home = Home::new();
    let store = home.open();
    for n in 0..3 {
        store.resolve(&source(n)).unwrap();
        store.begin_turn(&key(n)).unwrap().unwrap();
    }
    for n in 1..3 {
        store.mark_resume_pending(&key(n), "restart").unwrap();
    }
    store.update(&key(2), |details| details.last_resume_marked_at = None).unwrap().unwrap();
    store.flush().unwrap();
    let to = home.path().with_file_name("crashed");
    crate::turns::copy(store.path(), &to);
    let store = SessionStore::open(home.options().path(&to)).unwrap();
    let events = store.events(EventOptions::new(100).updates(true).touches(true));
    store.recover_interrupted_turns(RecoverOptions::new(None).reason("why")).unwrap();
    let mut told: Vec<_> = events.drain().map(|event| (event.key, event.kind)).collect();
    told.sort_by(|one, other| one.0.cmp(&other.0));
    let pending = EventKind::ResumePending { reason: "why".into() };
    assert_eq!(told, [(key(0), pending), (key(2), EventKind::Updated)]);
}

#[test]
fn events_are_an_iterator_that_ends_with_the_store() {
    let home = Home::new();
    let store = home.open();
    let events = store.events(EventOptions::new(10).touches(true).touches(false));
    let reader = std::thread::spawn(move || events.map(|event| event.key).collect::<Vec<_>>());
    for n in 0..3 {
        store.resolve(&source(n)).unwrap();
        store.touch(&key(n)).unwrap().unwrap();
    }
    drop(store);
    assert_eq!(reader.join().unwrap(), [key(0), key(1), key(2)]);
}

/// The bell of a listener counts how often it rings, and says when it is let go.
#[test]
fn a_bell_rings_for_each_event_that_was_taken_and_is_let_go_at_the_end() {
    let home = Home::new();
    let store = home.open();
    let (rings, gone) = (Arc::new(AtomicUsize::new(0)), Arc::new(()));
    let (counter, held) = (Arc::clone(&rings), Arc::clone(&gone));
    let events = store.events_with_bell(2, move || {
        let _ = &held;
        counter.fetch_add(1, Ordering::Relaxed);
    });
    // It is a stranger's: one that panics costs the writer nothing.
    let others = store.events_with_bell(10, || panic!("a bell that is broken"));
    for n in 0..3 {
        store.resolve(&source(n)).unwrap();
    }
    assert_eq!((rings.load(Ordering::Relaxed), events.dropped()), (2, 1));
    assert_eq!((events.drain().count(), others.drain().count()), (2, 3));
    assert_eq!(Arc::strong_count(&gone), 2);
    store.close().unwrap();
    drop(store);
    assert_eq!((Arc::strong_count(&gone), events.try_recv()), (1, Err(Nothing::Ended)));
}
