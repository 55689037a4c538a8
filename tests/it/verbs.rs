//! The verbs of a gateway with keys and ids of its own: `put`, `modify`, `resolve_as`, `repoint`, and revisions.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cloakroom::change::{
    Draft, Edit, Expect, KeepExtras, Modified, Put, Removal, ReplaceReason, Repoint, Repointed, Resolution, Resolve,
    Touch, Written,
};
use cloakroom::events::EventKind;
use cloakroom::gateway::Gateway;
use cloakroom::prune::NoActivity;
use cloakroom::reset::{ResetPolicies, ResetPolicy};
use cloakroom::time::Clock;
use cloakroom::{Error, Extras, Revision, SessionEntry, SessionId, SessionKey, SessionStore, Timestamp, Usage};
use serde_json::json;

use crate::common::{Home, NOW, assert_sound, key, source};

const HOUR: Duration = Duration::from_secs(3600);

fn id(text: &str) -> SessionId {
    text.parse().unwrap()
}

fn extras(name: &str) -> Extras {
    let mut extras = Extras::default();
    extras.insert("name", &json!(name));
    extras
}

fn fresh(n: usize, session: &str) -> SessionEntry {
    SessionEntry::new(key(n), id(session), NOW)
}

fn written(put: Put) -> SessionEntry {
    match put {
        Put::Created(Written { entry, .. }) | Put::Replaced(Written { entry, .. }) => entry,
        other => panic!("{other:?}"),
    }
}

fn changed(modified: Modified) -> SessionEntry {
    match modified {
        Modified::Created(Written { entry, .. }) | Modified::Changed(Written { entry, .. }) => entry,
        other => panic!("{other:?}"),
    }
}

fn get(store: &SessionStore, n: usize) -> SessionEntry {
    store.get(&key(n)).unwrap().unwrap()
}

#[test]
fn a_put_writes_what_it_is_given() {
    let home = Home::new();
    let store = home.open();
    let mut new = fresh(0, "a");
    // Long ago, and later than now by more than a day: kept exactly.
    for at in [Timestamp::from_micros(10), NOW.saturating_add(100 * HOUR)] {
        new.updated_at = at;
        new.last_interaction = Some(Timestamp::from_micros(5));
        new.suspended = true;
        new.usage.total_tokens = 7;
        new.details.display_name = Some("shown".into());
        let found = written(store.put(&new, &extras("x"), Expect::Any).unwrap());
        assert_eq!(found, get(&store, 0));
        let mut found = found;
        (found.revision, found.extras_bytes) = (new.revision, 0);
        assert_eq!(found, new);
        let (_, kept) = store.get_with_extras(&key(0)).unwrap().unwrap();
        assert_eq!(kept, extras("x"));
        store.flush().unwrap();
    }
    assert_sound(&store);
    store.close().unwrap();
    drop(store);
    let store = home.open();
    assert_eq!(get(&store, 0).updated_at, NOW.saturating_add(100 * HOUR));
    assert_eq!(get(&store, 0).last_interaction, Some(Timestamp::from_micros(5)));

    let mut bad = fresh(1, "b");
    bad.usage.estimated_cost_usd = f64::NAN;
    assert!(matches!(store.put(&bad, &Extras::default(), Expect::Any), Err(Error::InvalidCost { .. })));
    let mut large = Extras::default();
    large.insert("much", &json!("x".repeat(1 << 20)));
    assert!(matches!(store.put(&fresh(1, "b"), &large, Expect::Any), Err(Error::TooLarge { .. })));
    assert!(!store.contains(&key(1)).unwrap());
}

#[test]
fn a_put_answers_what_was_not_expected_and_changes_nothing() {
    let home = Home::new();
    let store = home.open();
    let put = |session: &str, expect| store.put(&fresh(0, session), &Extras::default(), expect).unwrap();
    let nothing = Expect::Revision(Revision::NONE);
    assert!(matches!(put("a", nothing), Put::Unexpected(None)));
    let first = written(put("a", Expect::Absent));
    let Put::Unexpected(Some(found)) = put("b", Expect::Absent) else { panic!() };
    assert_eq!(found.clone(), get(&store, 0));
    assert_eq!(found.session_id, id("a"));
    let second = written(put("b", Expect::Revision(first.revision)));
    let Put::Unexpected(Some(found)) = put("c", Expect::Revision(first.revision)) else { panic!() };
    assert_eq!((found.session_id.clone(), found.revision), (id("b"), second.revision));
    assert!(matches!(put("c", nothing), Put::Unexpected(Some(_))));
    assert!(store.find_by_session_id(&id("c")).unwrap().items.is_empty());
    assert_sound(&store);
}

/// Each of these makes another revision.
#[test]
fn every_change_but_a_touch_and_a_turn_gives_a_new_revision() {
    type Verb = fn(&SessionStore, &SessionKey);
    let home = Home::new();
    let store = home.open();
    let verbs: [(&str, Verb); 15] = [
        ("usage", |s, k| drop(s.record_usage(k, &Usage { total_tokens: 1, ..Usage::ZERO }).unwrap())),
        ("suspend", |s, k| drop(s.suspend(k).unwrap())),
        ("unsuspend", |s, k| drop(s.unsuspend(k).unwrap())),
        ("update", |s, k| drop(s.update(k, |details| details.display_name = Some("x".into())).unwrap())),
        ("metadata", |s, k| drop(s.set_metadata(k, &serde_json::Map::new()).unwrap())),
        ("metadata, the same", |s, k| drop(s.set_metadata(k, &serde_json::Map::new()).unwrap())),
        ("extra", |s, k| drop(s.set_extra(k, "yolo", &json!(true)).unwrap().unwrap())),
        ("no extra", |s, k| drop(s.remove_extra(k, "yolo").unwrap().unwrap())),
        ("extras", |s, k| drop(s.set_extras(k, &Extras::default()).unwrap().unwrap())),
        ("resume", |s, k| drop(s.mark_resume_pending(k, "why").unwrap())),
        ("no resume", |s, k| drop(s.clear_resume_pending(k).unwrap())),
        ("reset", |s, k| drop(s.reset(k).unwrap())),
        ("repoint", |s, k| drop(s.repoint(k, id("other"), &Repoint::new()).unwrap())),
        ("modify", |s, k| {
            changed(
                s.modify(k, Touch::No, |draft| {
                    draft.entry.usage.last_prompt_tokens = 9;
                    Edit::Write
                })
                .unwrap(),
            );
        }),
        ("removed and made again", |s, k| {
            s.remove(k).unwrap().unwrap();
            s.resolve(&source(0)).unwrap();
        }),
    ];
    let mut seen = vec![store.resolve(&source(0)).unwrap().entry.revision];
    for round in 0..2 {
        for (name, verb) in verbs {
            verb(&store, &key(0));
            let revision = get(&store, 0).revision;
            assert!(!seen.contains(&revision), "{name}, {round}");
            seen.push(revision);
        }
        store.flush().unwrap();
    }
    let before = get(&store, 0);
    home.clock.advance(HOUR);
    store.touch(&key(0)).unwrap().unwrap();
    let token = store.begin_turn(&key(0)).unwrap().unwrap().token;
    store.end_turn(&key(0), token).unwrap();
    let after = store.resolve(&source(0)).unwrap().entry;
    assert_eq!(after.revision, before.revision);
    assert_ne!(after.updated_at, before.updated_at);

    // Kept over a restart; what comes then is new again.
    store.close().unwrap();
    drop(store);
    let store = home.open();
    assert_eq!(get(&store, 0), after);
    store.suspend(&key(0)).unwrap();
    assert!(!seen.contains(&get(&store, 0).revision));
    let text = after.revision.to_string();
    assert_eq!(text.parse::<Revision>().unwrap(), after.revision);
    assert_eq!(serde_json::from_value::<Revision>(json!(text)).unwrap(), after.revision);
    for wrong in ["", "12", "00000000000000000", "000000000000000G", "00000000000000AB", "+000000000000001"] {
        wrong.parse::<Revision>().unwrap_err();
    }
}

/// A writer that saw an entry before a backup was taken must not take a later one of the restored store for it.
#[test]
fn two_openings_never_give_the_same_revisions() {
    let (a, b) = (Home::new(), Home::new());
    let revisions = |home: &Home| {
        let store = home.open();
        (0..100).map(|n| store.resolve(&source(n)).unwrap().entry.revision).collect::<Vec<_>>()
    };
    let (a, b) = (revisions(&a), revisions(&b));
    assert!(a.iter().all(|revision| !b.contains(revision)));
}

#[test]
fn remove_if_goes_by_the_revision_and_the_time() {
    let home = Home::new();
    let store = home.open();
    let seen = store.resolve(&source(0)).unwrap().entry;
    home.clock.advance(HOUR);
    store.touch(&key(0)).unwrap().unwrap();
    assert!(matches!(store.remove_if(&key(0), &seen).unwrap(), Removal::Changed));
    // There and back again.
    let seen = get(&store, 0);
    store.suspend(&key(0)).unwrap().unwrap();
    store.unsuspend(&key(0)).unwrap().unwrap();
    assert!(matches!(store.remove_if(&key(0), &seen).unwrap(), Removal::Changed));
    assert!(matches!(store.remove_if(&key(0), &get(&store, 0)).unwrap(), Removal::Removed(_)));
}

#[test]
fn a_modify_changes_anything_in_one_step() {
    let home = Home::new();
    let store = home.open();
    // Made where there is none, with an id of the gateway's own.
    let made = changed(
        store
            .modify(&key(0), Touch::Yes, |draft| {
                assert!(draft.is_new());
                assert_eq!(draft.extra("yolo").unwrap(), None);
                draft.entry.session_id = id("mine");
                draft.entry.usage.add(&Usage { total_tokens: 3, ..Usage::ZERO });
                draft.set_extra("yolo", &json!(true));
                assert_eq!(draft.extra("yolo").unwrap().unwrap(), "true");
                Edit::Write
            })
            .unwrap(),
    );
    assert_eq!((made.session_id.as_str(), made.usage.total_tokens, made.updated_at), ("mine", 3, NOW));
    assert_eq!(get(&store, 0), made);
    home.clock.advance(HOUR);
    let then = home.clock.now();
    let next = changed(
        store
            .modify(&key(0), Touch::Yes, |draft| {
                assert_eq!(draft.extra("yolo").unwrap().unwrap(), "true");
                draft.entry.usage.add(&Usage { total_tokens: 3, ..Usage::ZERO });
                draft.entry.pinned = true;
                draft.entry.last_interaction = Some(NOW);
                draft.entry.details.display_name = Some("shown".into());
                draft.set_extra("model", &json!({"name": "small"}));
                draft.remove_extra("yolo");
                Edit::Write
            })
            .unwrap(),
    );
    assert_eq!((next.usage.total_tokens, next.updated_at, next.pinned), (6, then, true));
    assert_eq!((next.last_interaction, next.created_at), (Some(NOW), NOW));
    assert_eq!(store.extra(&key(0), "yolo").unwrap(), None);
    assert_eq!(store.extra(&key(0), "model").unwrap().unwrap(), r#"{"name":"small"}"#);
    assert_eq!(get(&store, 0), next);
    // A time that is given is kept, back too.
    let back = changed(
        store
            .modify(&key(0), Touch::No, |draft| {
                draft.entry.updated_at = Timestamp::from_micros(10);
                Edit::Write
            })
            .unwrap(),
    );
    assert_eq!(back.updated_at, Timestamp::from_micros(10));
    // Kept, nothing new, removed, and not there.
    let keep = |draft: &mut Draft<'_>| {
        draft.entry.suspended = true;
        Edit::Keep
    };
    assert!(matches!(store.modify(&key(0), Touch::Yes, keep).unwrap(), Modified::Kept(Some(_))));
    assert!(matches!(store.modify(&key(0), Touch::No, |_| Edit::Write).unwrap(), Modified::Kept(Some(_))));
    assert_eq!(get(&store, 0), back);
    assert!(matches!(store.modify(&key(1), Touch::Yes, |_| Edit::Keep).unwrap(), Modified::Kept(None)));
    assert!(matches!(store.modify(&key(1), Touch::Yes, |_| Edit::Remove).unwrap(), Modified::Kept(None)));
    assert!(matches!(store.modify(&key(0), Touch::Yes, |_| Edit::Remove).unwrap(), Modified::Removed(_)));
    assert_eq!(store.len(), 0);
    let nan = |draft: &mut Draft<'_>| {
        draft.entry.usage.estimated_cost_usd = f64::INFINITY;
        Edit::Write
    };
    assert!(matches!(store.modify(&key(1), Touch::Yes, nan), Err(Error::InvalidCost { .. })));
    assert_sound(&store);
}

#[test]
fn a_modify_is_run_again_if_the_entry_changed_but_not_for_a_touch() {
    let home = Home::new();
    let store = home.open();
    store.resolve(&source(0)).unwrap();
    let mut runs = 0;
    let done = store
        .modify(&key(0), Touch::No, |draft| {
            runs += 1;
            if runs < 4 {
                // With no lock held: the store may be used.
                store.record_usage(&key(0), &Usage { total_tokens: 10, ..Usage::ZERO }).unwrap().unwrap();
            }
            if runs == 4 {
                home.clock.advance(HOUR);
                store.touch(&key(0)).unwrap().unwrap();
            }
            draft.entry.usage.total_tokens += 1;
            Edit::Write
        })
        .unwrap();
    let done = changed(done);
    assert_eq!((runs, done.usage.total_tokens), (4, 31));
    assert_eq!(done.updated_at, home.clock.now(), "the touch is not lost");
}

/// A lost update would show in the sum.
#[test]
fn no_update_is_lost_between_threads() {
    const EACH: u64 = 500;
    let home = Home::new();
    let store = home.open();
    let runs = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (store, runs) = (&store, &runs);
            scope.spawn(move || {
                for n in 0..EACH {
                    if thread == 3 {
                        // By hand: read, change, put, again if it was changed.
                        loop {
                            let Some((mut entry, mut extras)) = store.get_with_extras(&key(0)).unwrap() else {
                                let new = fresh(0, "a");
                                store.put(&new, &Extras::default(), Expect::Absent).unwrap();
                                continue;
                            };
                            let seen = Expect::Revision(entry.revision);
                            entry.usage.total_tokens += 1;
                            extras.insert("by hand", &json!(n + 1));
                            match store.put(&entry, &extras, seen).unwrap() {
                                Put::Replaced(_) => break,
                                Put::Unexpected(_) => {}
                                other => panic!("it was there: {other:?}"),
                            }
                        }
                        continue;
                    }
                    let name = format!("thread {thread}");
                    changed(
                        store
                            .modify(&key(0), Touch::Yes, |draft| {
                                runs.fetch_add(1, Ordering::Relaxed);
                                draft.entry.usage.total_tokens += 1;
                                draft.set_extra(name.as_str(), &json!(n + 1));
                                Edit::Write
                            })
                            .unwrap(),
                    );
                }
            });
        }
    });
    let (entry, extras) = store.get_with_extras(&key(0)).unwrap().unwrap();
    assert_eq!(entry.usage.total_tokens, 4 * EACH);
    for name in ["thread 0", "thread 1", "thread 2", "by hand"] {
        assert_eq!(extras.value(name), Some(json!(EACH)), "{name}");
    }
    assert!(runs.into_inner() >= 3 * EACH);
    assert_sound(&store);
}

#[test]
fn a_key_is_resolved_with_an_id_of_the_gateways() {
    let home = Home::new();
    let store = home.open();
    let own: SessionKey = "agent:main:cron:nightly".parse().unwrap();
    let count = AtomicU64::new(0);
    let make = |now: Timestamp| {
        assert_eq!(now, home.clock.now());
        id(&format!("run-{}", count.fetch_add(1, Ordering::Relaxed)))
    };
    let how = Resolve::new().id_with(&make);
    let first = store.resolve_as(&own, &how).unwrap();
    assert_eq!((first.resolution, first.entry.session_id), (Resolution::Created, id("run-0")));
    assert_eq!(first.entry.details, Default::default());
    home.clock.advance(HOUR);
    // Not asked for one that is not needed.
    let again = store.resolve_as(&own, &how).unwrap();
    assert_eq!((again.resolution, again.entry.updated_at), (Resolution::Existing, home.clock.now()));
    assert_eq!(count.load(Ordering::Relaxed), 1);
    let seen = store.get(&own).unwrap().unwrap();
    home.clock.advance(HOUR);
    let untouched = store.resolve_as(&own, &how.clone().touch(Touch::No)).unwrap();
    assert_eq!(untouched.entry, seen);
    assert_eq!(store.get(&own).unwrap().unwrap(), seen);
    untouched.receipt.wait().unwrap();

    // A fresh one, as a user asked for it: what is to stay stays.
    store.set_extra(&own, "model", &json!("large")).unwrap().unwrap();
    store.set_extra(&own, "other", &json!(1)).unwrap().unwrap();
    store.update(&own, |details| details.display_name = Some("shown".into())).unwrap().unwrap();
    let fresh = store.resolve_as(&own, &how.clone().fresh(true).keep(KeepExtras::named(["model"]))).unwrap();
    let Resolution::Replaced { reason: ReplaceReason::Requested, previous, had_activity: false } = fresh.resolution
    else {
        panic!("{:?}", fresh.resolution)
    };
    assert_eq!((previous, &fresh.entry.session_id), (id("run-0"), &id("run-1")));
    let details = &fresh.entry.details;
    assert_eq!((details.is_fresh_reset, details.was_auto_reset, &details.auto_reset_reason), (true, false, &None));
    assert_eq!(details.display_name.as_deref(), Some("shown"));
    assert_eq!(store.extra(&own, "model").unwrap().unwrap(), "\"large\"");
    assert_eq!(store.extra(&own, "other").unwrap(), None);

    // By a rule: with the source's details, and what is to be kept.
    let there = source(7);
    let policy = ResetPolicies::new(ResetPolicy::idle(30));
    home.clock.advance(HOUR);
    let how = how.source(&there).keep(KeepExtras::All);
    let ended = store.resolve_as_with(&own, &how, &policy, NoActivity).unwrap();
    assert!(matches!(ended.resolution, Resolution::Replaced { reason: ReplaceReason::Idle, .. }));
    assert_eq!(ended.entry.session_id, id("run-2"));
    assert_eq!(ended.entry.details.origin.as_ref(), Some(&there));
    assert_eq!(store.extra(&own, "model").unwrap().unwrap(), "\"large\"");
    // Without a source the entry's own platform names the policy.
    let platform = ResetPolicies::default().platform(there.platform.clone(), ResetPolicy::idle(30));
    home.clock.advance(HOUR);
    let ended = store.resolve_as_with(&own, &Resolve::new(), &platform, NoActivity).unwrap();
    assert!(matches!(ended.resolution, Resolution::Replaced { reason: ReplaceReason::Idle, .. }));
    let busy = |_: &SessionKey| true;
    home.clock.advance(HOUR);
    assert_eq!(store.resolve_as_with(&own, &Resolve::new(), &platform, busy).unwrap().resolution, Resolution::Existing);
    assert_sound(&store);
}

#[test]
fn a_key_is_led_to_another_session() {
    let home = Home::new();
    let store = home.open();
    assert!(matches!(store.repoint(&key(0), id("a"), &Repoint::new()).unwrap(), Repointed::Missing));
    let mut new = fresh(0, "a");
    new.usage.total_tokens = 5;
    let mut all = extras("kept");
    all.insert("other", &json!(1));
    store.put(&new, &all, Expect::Any).unwrap();
    let events = store.events(10);
    let before = get(&store, 0);
    home.clock.advance(HOUR);
    assert!(matches!(store.repoint(&key(0), id("a"), &Repoint::new()).unwrap(), Repointed::Same(_)));
    let wrong = Repoint::new().expected(id("b"));
    let Repointed::Unexpected(found) = store.repoint(&key(0), id("c"), &wrong).unwrap() else { panic!() };
    assert_eq!((found, get(&store, 0)), (before.clone(), before.clone()));
    assert_eq!(events.drain().count(), 0);

    // The same conversation under another id.
    let how = Repoint::new().expected(id("a")).keep_usage(true).keep(KeepExtras::All).touch(Touch::No);
    let Repointed::Switched(Written { entry: on, .. }) = store.repoint(&key(0), id("b"), &how).unwrap() else {
        panic!()
    };
    assert_eq!((on.usage, on.created_at, on.updated_at), (before.usage, before.created_at, before.updated_at));
    assert_eq!((&on.session_id, on.details.prev_session_id.as_ref()), (&id("b"), Some(&id("a"))));
    assert_eq!(store.get_with_extras(&key(0)).unwrap().unwrap(), (on, all.clone()));
    assert_eq!(events.drain().map(|event| event.kind).collect::<Vec<_>>(), [EventKind::Switched]);

    // One that is resumed.
    let how = Repoint::new().keep(KeepExtras::named(["name"]));
    let Repointed::Switched(Written { entry: on, .. }) = store.repoint(&key(0), id("c"), &how).unwrap() else {
        panic!()
    };
    assert_eq!((on.usage, on.created_at, on.updated_at), (Usage::ZERO, home.clock.now(), home.clock.now()));
    assert_eq!(store.get_with_extras(&key(0)).unwrap().unwrap(), (on, extras("kept")));
    for (old, found) in [("a", 0), ("b", 0), ("c", 1)] {
        assert_eq!(store.find_by_session_id(&id(old)).unwrap().items.len(), found);
    }
    assert_sound(&store);
}

fn put_json(store: &SessionStore, n: usize, text: &str, gateway: Gateway) -> cloakroom::Result<Put> {
    store.put_json(&key(n), text, gateway, Expect::Any)
}

fn json_of(store: &SessionStore, n: usize, gateway: Gateway) -> serde_json::Value {
    serde_json::from_str(&store.get_json(&key(n), gateway).unwrap().unwrap()).unwrap()
}

#[test]
fn an_entry_goes_in_and_out_in_the_gateways_own_json() {
    let home = Home::new();
    let store = home.open();
    let hermes = json!({
        "session_key": key(0).as_str(), "session_id": "20260612_000653_3f9a01c2", "display_name": null,
        "created_at": "2026-06-12T00:06:53.5", "updated_at": "2026-06-12T00:07:04.247913", "yolo": true,
        "total_tokens": 7, "prompt_pin": {"text": "x", "n": 1.50}, "suspended": false,
    });
    assert_eq!(store.get_json(&key(0), Gateway::Hermes).unwrap(), None);
    written(put_json(&store, 0, &hermes.to_string(), Gateway::Hermes).unwrap());
    assert_eq!(json_of(&store, 0, Gateway::Hermes), hermes);
    assert_eq!(get(&store, 0).usage.total_tokens, 7);
    assert_eq!(store.extra(&key(0), "yolo").unwrap().unwrap(), "true");
    // What the text does not speak of stays.
    changed(
        store
            .modify(&key(0), Touch::No, |draft| {
                (draft.entry.pinned, draft.entry.last_interaction) = (true, Some(NOW));
                Edit::Write
            })
            .unwrap(),
    );
    let again = written(put_json(&store, 0, &hermes.to_string(), Gateway::Hermes).unwrap());
    assert_eq!((again.pinned, again.last_interaction), (true, Some(NOW)));

    // A time of long ago, and one of the far future.
    for updated_at in [10, 4_102_444_800_000_u64] {
        let openclaw = json!({"sessionId": "a", "updatedAt": updated_at, "modelSelectionLocked": true});
        written(put_json(&store, 1, &openclaw.to_string(), Gateway::OpenClaw).unwrap());
        assert_eq!(json_of(&store, 1, Gateway::OpenClaw), openclaw);
        assert_eq!(get(&store, 1).updated_at, Timestamp::from_micros(updated_at as i64 * 1000));
    }
    let told = |at: serde_json::Value| json!({"sessionId": "a", "updatedAt": 2000, "lastInteractionAt": at, "sessionStartedAt": 500});
    for (at, read) in [(json!(1000), Some(1_000_000)), (json!("soon"), None), (json!(1000.5), Some(1_000_500))] {
        written(put_json(&store, 1, &told(at.clone()).to_string(), Gateway::OpenClaw).unwrap());
        assert_eq!(json_of(&store, 1, Gateway::OpenClaw), told(at.clone()));
        assert_eq!(get(&store, 1).last_interaction, read.map(Timestamp::from_micros), "{at}");
    }
    let interaction = |at| {
        let change = |draft: &mut Draft<'_>| {
            draft.entry.last_interaction = at;
            Edit::Write
        };
        changed(store.modify(&key(1), Touch::No, change).unwrap())
    };
    interaction(Some(Timestamp::from_micros(1_500_000)));
    let text = store.get_json(&key(1), Gateway::OpenClaw).unwrap().unwrap();
    assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), told(json!(1500)));
    let places: Vec<_> = ["updatedAt", "lastInteractionAt", "sessionStartedAt"].map(|name| text.find(name)).into();
    assert!(places.is_sorted() && places.iter().all(Option::is_some), "{text}");
    interaction(None);
    assert_eq!(json_of(&store, 1, Gateway::OpenClaw), told(json!(null)));
    // A text that says none takes it away.
    interaction(Some(NOW));
    written(put_json(&store, 1, r#"{"sessionId": "a", "updatedAt": 2000}"#, Gateway::OpenClaw).unwrap());
    assert_eq!(get(&store, 1).last_interaction, None);
    let first = get(&store, 1).revision;
    let put = |expect| store.put_json(&key(1), r#"{"sessionId": "b"}"#, Gateway::OpenClaw, expect).unwrap();
    assert!(matches!(put(Expect::Absent), Put::Unexpected(Some(_))));
    assert_eq!(written(put(Expect::Revision(first))).updated_at, NOW, "now, where none is said");

    let other = hermes.to_string().replace(key(0).as_str(), "agent:main:other");
    for (text, gateway) in [
        (other.as_str(), Gateway::Hermes),
        ("", Gateway::Hermes),
        ("[]", Gateway::Hermes),
        ("{}", Gateway::OpenClaw),
        (r#"{"session_id": "a"}"#, Gateway::OpenClaw),
        (r#"{"sessionId": "a"} {}"#, Gateway::OpenClaw),
        (r#"{"sessionId": 1}"#, Gateway::OpenClaw),
    ] {
        let error = put_json(&store, 2, text, gateway).unwrap_err();
        assert!(matches!(error, Error::InvalidEntry { .. }), "{text}: {error:?}");
        assert!(std::error::Error::source(&error).is_some());
    }
    assert!(!store.contains(&key(2)).unwrap());
    assert_sound(&store);
}
