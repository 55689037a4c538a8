//! Verbs on one entry.

use std::sync::Barrier;
use std::thread;

use cloakroom::change::{
    Edit, Expect, KeepExtras, Modified, Put, Removal, ReplaceReason, Repoint, Repointed, Resolution, Resolve, Touch,
};
use cloakroom::{Details, Error, Extras, Revision, SessionEntry, SessionId, SessionKey, Timestamp, Usage};
use serde_json::json;

use super::{MINUTE, Rig, begin, get, seen, with};
use crate::common::{NOW, key, source};

fn id(text: &str) -> SessionId {
    SessionId::new(text).unwrap()
}

fn extras(fields: &[(&str, &str)]) -> Extras {
    let mut extras = Extras::default();
    fields.iter().for_each(|(name, value)| extras.insert(*name, &json!(value)));
    extras
}

pub fn a_message_starts_touches_or_replaces_a_session(rig: &dyn Rig) {
    let store = rig.sessions();
    assert!(!store.contains(&key(1)).unwrap() && store.get(&key(1)).unwrap().is_none());
    let first = begin(rig, 1);
    assert_eq!((first.created_at, first.updated_at, first.usage), (NOW, NOW, Usage::ZERO));
    assert_eq!(first.details, Details::from_source(source(1)));
    assert_eq!(get(rig, 1), first);

    rig.clock().advance(MINUTE);
    let again = store.resolve(&source(1)).unwrap();
    assert_eq!(again.resolution, Resolution::Existing);
    assert_eq!(
        again.entry,
        with(first.clone(), |entry| {
            entry.updated_at = NOW.saturating_add(MINUTE);
        })
    );
    assert_eq!(get(rig, 1), again.entry);

    store.record_usage(&key(1), &Usage { input_tokens: 3, ..Usage::ZERO }).unwrap().unwrap();
    store.suspend(&key(1)).unwrap().unwrap();
    assert!(get(rig, 1).suspended);
    rig.clock().advance(MINUTE);
    let fresh = store.resolve(&source(1)).unwrap();
    let (reason, previous) = (ReplaceReason::Suspended, first.session_id.clone());
    assert_eq!(fresh.resolution, Resolution::Replaced { reason, previous, had_activity: true });
    assert_ne!(fresh.entry.session_id, first.session_id);
    assert_eq!(fresh.entry.details.prev_session_id, Some(first.session_id));
    assert_eq!(fresh.entry.details.auto_reset_reason.as_deref(), Some("suspended"));
    assert!(fresh.entry.details.was_auto_reset && fresh.entry.details.reset_had_activity && !fresh.entry.suspended);
    assert_eq!((fresh.entry.usage, fresh.entry.created_at), (Usage::ZERO, NOW.saturating_add(MINUTE * 2)));
    assert_eq!(get(rig, 1), fresh.entry);
    assert!(store.contains(&key(1)).unwrap());
    assert_eq!(store.len().unwrap(), 1);
}

pub fn a_gateway_has_keys_and_ids_of_its_own(rig: &dyn Rig) {
    let store = rig.sessions();
    let key: SessionKey = "mine:cron:nightly".parse().unwrap();
    let make = |at: Timestamp| id(&format!("run-{}", at.as_micros()));
    let how = Resolve::new().id_with(&make);
    let first = store.resolve_as(&key, &how).unwrap();
    assert_eq!((first.resolution, first.entry.session_id.clone()), (Resolution::Created, make(NOW)));
    assert_eq!(first.entry.details, Details::default());

    rig.clock().advance(MINUTE);
    let untouched = store.resolve_as(&key, &Resolve::new().touch(Touch::No)).unwrap();
    assert_eq!((untouched.resolution, untouched.entry.updated_at), (Resolution::Existing, NOW));
    assert_eq!(store.get(&key).unwrap().unwrap().updated_at, NOW);

    store.set_extras(&key, &extras(&[("model", "small"), ("label", "work")])).unwrap().unwrap();
    let how = Resolve::new().id_with(&make).fresh(true).keep(KeepExtras::named(["model"]));
    let fresh = store.resolve_as(&key, &how).unwrap();
    let (reason, previous) = (ReplaceReason::Requested, make(NOW));
    assert_eq!(fresh.resolution, Resolution::Replaced { reason, previous, had_activity: false });
    let (entry, kept) = store.get_with_extras(&key).unwrap().unwrap();
    assert!(entry.details.is_fresh_reset && !entry.details.was_auto_reset);
    assert_eq!(kept, extras(&[("model", "small")]));
    assert_eq!(entry, fresh.entry);
}

pub fn a_touch_never_goes_back(rig: &dyn Rig) {
    let store = rig.sessions();
    assert!(store.touch(&key(1)).unwrap().is_none());
    assert!(!store.contains(&key(1)).unwrap());
    let entry = begin(rig, 1);
    rig.clock().advance(MINUTE);
    store.touch(&key(1)).unwrap().unwrap();
    let touched = with(entry, |entry| {
        entry.updated_at = NOW.saturating_add(MINUTE);
    });
    assert_eq!(get(rig, 1), touched);
    rig.clock().set_wall(NOW);
    store.touch(&key(1)).unwrap().unwrap();
    assert_eq!(store.resolve(&source(1)).unwrap().entry, touched);
    assert_eq!(get(rig, 1), touched);
    // Nor does a change of something else.
    store.pin(&key(1)).unwrap().unwrap();
    assert_eq!(get(rig, 1).updated_at, touched.updated_at);
    assert!(store.touch(&key(2)).unwrap().is_none());
}

pub fn many_threads_get_one_session(rig: &dyn Rig) {
    let store = rig.sessions();
    for n in 0..20 {
        let start = Barrier::new(4);
        let found: Vec<_> = thread::scope(|scope| {
            let resolve = || {
                start.wait();
                store.resolve(&source(n)).unwrap()
            };
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(resolve)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let created = found.iter().filter(|found| found.resolution == Resolution::Created).count();
        assert_eq!(created, 1);
        assert!(found.iter().all(|one| one.entry.session_id == found[0].entry.session_id));
    }
    assert_eq!(store.len().unwrap(), 20);
}

pub fn no_change_is_lost_between_threads(rig: &dyn Rig) {
    const EACH: usize = 15;
    let store = rig.sessions();
    begin(rig, 1);
    thread::scope(|scope| {
        for letter in ["a", "b"] {
            scope.spawn(move || {
                for _ in 0..EACH {
                    let append = &mut |details: &mut Details| {
                        details.display_name.get_or_insert_default().push_str(letter);
                    };
                    store.update(&key(1), append).unwrap().unwrap();
                }
            });
        }
        scope.spawn(|| {
            for _ in 0..EACH {
                store.record_usage(&key(1), &Usage { input_tokens: 1, ..Usage::ZERO }).unwrap().unwrap();
                let count = &mut |draft: &mut cloakroom::change::Draft<'_>| {
                    draft.entry.usage.output_tokens += 1;
                    Edit::Write
                };
                let Modified::Changed(_) = store.modify(&key(1), Touch::No, count).unwrap() else { panic!() };
            }
        });
    });
    let entry = get(rig, 1);
    let name = entry.details.display_name.unwrap_or_default();
    assert_eq!([name.matches('a').count(), name.matches('b').count()], [EACH, EACH]);
    assert_eq!((entry.usage.input_tokens, entry.usage.output_tokens), (EACH as u64, EACH as u64));
}

pub fn a_put_goes_by_what_is_there(rig: &dyn Rig) {
    let store = rig.sessions();
    let mut entry = SessionEntry::new(key(1), id("run-1"), NOW);
    let seen_first = Expect::Revision(Revision::NONE);
    assert!(matches!(store.put(&entry, &Extras::default(), seen_first).unwrap(), Put::Unexpected(None)));
    let Put::Created(first) = store.put(&entry, &extras(&[("a", "1")]), Expect::Absent).unwrap() else { panic!() };
    seen(rig, &first);
    let Put::Unexpected(Some(there)) = store.put(&entry, &Extras::default(), Expect::Absent).unwrap() else { panic!() };
    assert_eq!(there, first.entry);

    entry.session_id = id("run-2");
    entry.pinned = true;
    let expect = Expect::Revision(first.entry.revision);
    let Put::Replaced(second) = store.put(&entry, &extras(&[("b", "2")]), expect).unwrap() else { panic!() };
    seen(rig, &second);
    assert_ne!(second.entry.revision, first.entry.revision);
    let Put::Unexpected(Some(there)) = store.put(&entry, &Extras::default(), expect).unwrap() else { panic!() };
    assert_eq!(there, second.entry);
    assert_eq!(store.get_with_extras(&key(1)).unwrap().unwrap().1, extras(&[("b", "2")]));
    let Put::Replaced(third) = store.put(&entry, &Extras::default(), Expect::Any).unwrap() else { panic!() };
    seen(rig, &third);
    assert!(store.get_with_extras(&key(1)).unwrap().unwrap().1.is_empty());
}

pub fn a_put_keeps_its_time_exactly(rig: &dyn Rig) {
    let store = rig.sessions();
    begin(rig, 1);
    for at in [NOW.saturating_sub(MINUTE * 60), NOW.saturating_add(MINUTE), Timestamp::from_micros(7)] {
        let put = with(get(rig, 1), |entry| {
            entry.updated_at = at;
        });
        let Put::Replaced(written) = store.put(&put, &Extras::default(), Expect::Any).unwrap() else { panic!() };
        assert_eq!(written.entry.updated_at, at);
        seen(rig, &written);
        let page = store.recent(2, None).unwrap();
        assert_eq!(page.entries.iter().map(|row| row.updated_at).collect::<Vec<_>>(), [at]);
    }
}

pub fn an_entry_is_modified_in_one_step(rig: &dyn Rig) {
    let store = rig.sessions();
    let keep = store.modify(&key(1), Touch::Yes, &mut |draft| {
        assert!(draft.is_new() && draft.extra("model").unwrap().is_none());
        Edit::Keep
    });
    assert!(matches!(keep.unwrap(), Modified::Kept(None)));
    let made = store.modify(&key(1), Touch::Yes, &mut |draft| {
        draft.entry.usage.last_prompt_tokens = 812;
        draft.set_extra("model", &json!("small"));
        Edit::Write
    });
    let Modified::Created(made) = made.unwrap() else { panic!() };
    seen(rig, &made);
    rig.clock().advance(MINUTE);
    let changed = store.modify(&key(1), Touch::No, &mut |draft| {
        assert_eq!(draft.extra("model").unwrap().as_deref(), Some("\"small\""));
        draft.set_extra("label", &json!("work"));
        draft.remove_extra("model");
        assert_eq!(draft.extra("model").unwrap(), None);
        draft.entry.session_id = id("run-2");
        draft.entry.suspended = true;
        Edit::Write
    });
    let Modified::Changed(changed) = changed.unwrap() else { panic!() };
    seen(rig, &changed);
    assert_eq!((changed.entry.updated_at, changed.entry.session_id.as_str()), (NOW, "run-2"));
    assert_eq!(store.get_with_extras(&key(1)).unwrap().unwrap().1, extras(&[("label", "work")]));
    // Nothing new: nothing is written, unless it touches.
    let nothing = store.modify(&key(1), Touch::No, &mut |_| Edit::Write).unwrap();
    assert!(matches!(nothing, Modified::Kept(Some(there)) if there == changed.entry));
    let Modified::Changed(touched) = store.modify(&key(1), Touch::Yes, &mut |_| Edit::Write).unwrap() else { panic!() };
    assert_eq!(
        touched.entry,
        with(changed.entry, |entry| {
            entry.updated_at = NOW.saturating_add(MINUTE);
        })
    );
    assert!(matches!(store.modify(&key(1), Touch::Yes, &mut |_| Edit::Remove).unwrap(), Modified::Removed(_)));
    assert!(!store.contains(&key(1)).unwrap());
}

pub fn a_modification_runs_again_after_a_change(rig: &dyn Rig) {
    let store = rig.sessions();
    begin(rig, 1);
    rig.clock().advance(MINUTE);
    let mut runs = 0;
    let changed = store.modify(&key(1), Touch::No, &mut |draft| {
        runs += 1;
        match runs {
            1 => drop(store.suspend(&key(1)).unwrap()),
            // A touch does not make it run again, and is kept.
            _ => drop(store.touch(&key(1)).unwrap()),
        }
        draft.entry.usage.input_tokens += 1;
        Edit::Write
    });
    let Modified::Changed(written) = changed.unwrap() else { panic!() };
    assert_eq!((runs, written.entry.suspended, written.entry.usage.input_tokens), (2, true, 1));
    assert_eq!(written.entry.updated_at, NOW.saturating_add(MINUTE));
    seen(rig, &written);
}

pub fn a_key_leads_to_another_session(rig: &dyn Rig) {
    let store = rig.sessions();
    assert!(matches!(store.repoint(&key(1), id("x"), &Repoint::new()).unwrap(), Repointed::Missing));
    let first = begin(rig, 1);
    store.set_extras(&key(1), &extras(&[("model", "small"), ("label", "work")])).unwrap().unwrap();
    store.record_usage(&key(1), &Usage { total_tokens: 9, ..Usage::ZERO }).unwrap().unwrap();
    let wrong = Repoint::new().expected(id("other"));
    assert!(matches!(store.repoint(&key(1), id("x"), &wrong).unwrap(), Repointed::Unexpected(_)));
    let same = store.repoint(&key(1), first.session_id.clone(), &Repoint::new()).unwrap();
    assert!(matches!(same, Repointed::Same(there) if there == get(rig, 1)));

    rig.clock().advance(MINUTE);
    let goes_on = Repoint::new().keep_usage(true).keep(KeepExtras::All).touch(Touch::No);
    let Repointed::Switched(written) = store.repoint(&key(1), id("x"), &goes_on).unwrap() else { panic!() };
    seen(rig, &written);
    assert_eq!((written.entry.usage.total_tokens, written.entry.updated_at), (9, NOW));
    assert_eq!(written.entry.details.prev_session_id, Some(first.session_id));
    assert_eq!(store.get_with_extras(&key(1)).unwrap().unwrap().1, extras(&[("model", "small"), ("label", "work")]));

    let fresh = Repoint::new().expected(id("x")).keep(KeepExtras::named(["label"]));
    let Repointed::Switched(written) = store.repoint(&key(1), id("y"), &fresh).unwrap() else { panic!() };
    seen(rig, &written);
    assert_eq!((written.entry.usage, written.entry.updated_at), (Usage::ZERO, NOW.saturating_add(MINUTE)));
    assert_eq!(store.get_with_extras(&key(1)).unwrap().unwrap().1, extras(&[("label", "work")]));
}

pub fn a_reset_keeps_what_it_is_to(rig: &dyn Rig) {
    let store = rig.sessions();
    assert!(store.reset(&key(1)).unwrap().is_none());
    let first = begin(rig, 1);
    store.pin(&key(1)).unwrap().unwrap();
    store.set_extras(&key(1), &extras(&[("model", "small"), ("label", "work")])).unwrap().unwrap();
    let written = store.reset_keeping(&key(1), &KeepExtras::named(["model"])).unwrap().unwrap();
    seen(rig, &written);
    assert!(written.entry.pinned && written.entry.details.is_fresh_reset);
    assert_ne!(written.entry.session_id, first.session_id);
    assert_eq!(store.get_with_extras(&key(1)).unwrap().unwrap().1, extras(&[("model", "small")]));
    store.reset(&key(1)).unwrap().unwrap();
    assert!(store.get_with_extras(&key(1)).unwrap().unwrap().1.is_empty());
}

pub fn extras_go_by_name(rig: &dyn Rig) {
    let store = rig.sessions();
    assert!(store.set_extra(&key(1), "a", &json!(1)).unwrap().is_none());
    assert!(store.remove_extra(&key(1), "a").unwrap().is_none() && store.extra(&key(1), "a").unwrap().is_none());
    let entry = begin(rig, 1);
    let long = "é".repeat(40_000);
    for (name, value) in [("a", json!(1)), ("long", json!(long)), ("", json!({"x": [null, "\u{0}"]}))] {
        store.set_extra(&key(1), name, &value).unwrap().unwrap();
        assert_eq!(store.extra(&key(1), name).unwrap(), Some(value.to_string()));
    }
    let (now, all) = store.get_with_extras(&key(1)).unwrap().unwrap();
    assert_eq!(all.iter().map(|(name, _)| name).collect::<Vec<_>>(), ["", "a", "long"]);
    assert_eq!(now.updated_at, entry.updated_at);
    assert!(now.extras_bytes > 80_000);
    assert_eq!(get(rig, 1), now);
    store.remove_extra(&key(1), "long").unwrap().unwrap();
    assert!(store.remove_extra(&key(1), "long").unwrap().is_none());
    assert_eq!(store.extra(&key(1), "long").unwrap(), None);
    store.set_metadata(&key(1), &serde_json::Map::from_iter([("n".into(), json!(7))])).unwrap().unwrap();
    assert_eq!(store.extra(&key(1), "metadata").unwrap().as_deref(), Some(r#"{"n":7}"#));
    store.set_extras(&key(1), &extras(&[("only", "one")])).unwrap().unwrap();
    assert_eq!(store.get_with_extras(&key(1)).unwrap().unwrap().1, extras(&[("only", "one")]));
}

pub fn too_much_is_refused(rig: &dyn Rig) {
    let store = rig.sessions();
    begin(rig, 1);
    store.set_extra(&key(1), "a", &json!("x".repeat(600_000))).unwrap().unwrap();
    let before = store.get_with_extras(&key(1)).unwrap();
    let refused = store.set_extra(&key(1), "b", &json!("y".repeat(600_000)));
    assert!(matches!(refused, Err(Error::TooLarge { .. })), "{refused:?}");
    let refused = store.put(&get(rig, 1), &extras(&[("a", &"z".repeat(2_000_000))]), Expect::Any);
    assert!(matches!(refused, Err(Error::TooLarge { .. })), "{refused:?}");
    assert_eq!(store.get_with_extras(&key(1)).unwrap(), before);
}

pub fn what_is_seen_may_be_removed(rig: &dyn Rig) {
    let store = rig.sessions();
    let first = begin(rig, 1);
    rig.clock().advance(MINUTE);
    store.touch(&key(1)).unwrap().unwrap();
    assert!(matches!(store.remove_if(&key(1), &first).unwrap(), Removal::Changed));
    let seen = get(rig, 1);
    store.suspend(&key(1)).unwrap().unwrap();
    assert!(matches!(store.remove_if(&key(1), &seen).unwrap(), Removal::Changed));
    assert!(matches!(store.remove_if(&key(1), &get(rig, 1)).unwrap(), Removal::Removed(_)));
    assert!(matches!(store.remove_if(&key(1), &seen).unwrap(), Removal::Missing));
    assert!(store.remove(&key(1)).unwrap().is_none());
    begin(rig, 1);
    store.set_extra(&key(1), "a", &json!(1)).unwrap().unwrap();
    store.remove(&key(1)).unwrap().unwrap();
    assert_eq!(store.len().unwrap(), 0);
    // The next one has nothing of it.
    begin(rig, 1);
    assert!(store.get_with_extras(&key(1)).unwrap().unwrap().1.is_empty());
}

pub fn every_change_gives_a_new_revision(rig: &dyn Rig) {
    let store = rig.sessions();
    let mut before = vec![begin(rig, 1).revision];
    let mut changed = |is_new: bool| {
        let now = get(rig, 1).revision;
        assert_eq!(before.contains(&now), !is_new);
        before.push(now);
    };
    store.touch(&key(1)).unwrap().unwrap();
    let token = store.begin_turn(&key(1)).unwrap().unwrap().token;
    store.end_turn(&key(1), token).unwrap();
    store.suspend(&key(1)).unwrap().unwrap();
    changed(true);
    // It is so already.
    store.suspend(&key(1)).unwrap().unwrap();
    changed(false);
    store.unsuspend(&key(1)).unwrap().unwrap();
    changed(true);
    store.update(&key(1), &mut |_| {}).unwrap().unwrap();
    changed(true);
    store.set_extra(&key(1), "a", &json!(1)).unwrap().unwrap();
    changed(true);
    store.record_usage(&key(1), &Usage { input_tokens: 1, ..Usage::ZERO }).unwrap().unwrap();
    changed(true);
    store.reset(&key(1)).unwrap().unwrap();
    changed(true);
    store.remove(&key(1)).unwrap().unwrap();
    begin(rig, 1);
    changed(true);
}

pub fn an_entry_keeps_all_of_its_fields(rig: &dyn Rig) {
    let store = rig.sessions();
    let text = |n: usize| Some(format!("ω{n}\n\"{{}}\""));
    let mut entry = SessionEntry::new(key(1), id("run-1"), NOW);
    entry.created_at = Timestamp::from_micros(1);
    entry.last_interaction = Some(NOW.saturating_sub(MINUTE));
    (entry.suspended, entry.pinned, entry.resume_pending) = (true, true, true);
    entry.usage = Usage {
        input_tokens: u64::MAX,
        output_tokens: 2,
        cache_read_tokens: 3,
        cache_write_tokens: 4,
        total_tokens: 5,
        last_prompt_tokens: 6,
        estimated_cost_usd: -0.0,
    };
    entry.details = Details {
        display_name: Some("n".repeat(9000)),
        platform: text(1),
        chat_type: text(2),
        origin: Some(source(3)),
        cost_status: text(4),
        expiry_finalized: true,
        resume_reason: text(5),
        last_resume_marked_at: Some(NOW),
        active_turn_token: text(6),
        active_turn_started_at: Some(NOW),
        is_fresh_reset: true,
        was_auto_reset: true,
        auto_reset_reason: text(7),
        reset_had_activity: true,
        prev_session_id: Some(id("run-0")),
    };
    let all = extras(&[("a", "1"), ("b", &"2".repeat(5000))]);
    let Put::Created(written) = store.put(&entry, &all, Expect::Absent).unwrap() else { panic!() };
    let (found, kept) = store.get_with_extras(&key(1)).unwrap().unwrap();
    assert_eq!(
        found,
        with(entry, |entry| {
            entry.revision = found.revision;
            entry.extras_bytes = found.extras_bytes;
        })
    );
    assert_eq!((written.entry, kept), (found, all));
}

pub fn odd_keys_are_keys(rig: &dyn Rig) {
    let store = rig.sessions();
    let keys = ["{}", "{a}:b", "a{b", "ключ:{7}", "with space", "a*b?[c]", "x"];
    for text in keys {
        let key: SessionKey = text.parse().unwrap();
        let created = store.resolve_as(&key, &Resolve::new()).unwrap();
        assert_eq!(created.resolution, Resolution::Created, "{text}");
        assert_eq!(store.get(&key).unwrap(), Some(created.entry));
    }
    let mut listed: Vec<_> =
        store.recent(100, None).unwrap().entries.into_iter().map(|row| row.key.as_str().to_owned()).collect();
    listed.sort();
    let mut expected = keys.map(str::to_owned);
    expected.sort();
    assert_eq!(listed, expected);
}

pub fn a_receipt_is_kept(rig: &dyn Rig) {
    let store = rig.sessions();
    let created = store.resolve(&source(1)).unwrap();
    let touched = store.touch(&key(1)).unwrap().unwrap();
    if rig.can(super::Can::Durable) {
        touched.wait().unwrap();
        created.receipt.wait().unwrap();
        assert!(touched.is_durable().unwrap() && created.receipt.is_durable().unwrap());
        pollster::block_on(store.pin(&key(1)).unwrap().unwrap()).unwrap();
    }
    store.flush().unwrap();
}

pub fn a_bad_cost_is_refused(rig: &dyn Rig) {
    let store = rig.sessions();
    let before = begin(rig, 1);
    for cost in [f64::NAN, f64::INFINITY] {
        let turn = Usage { estimated_cost_usd: cost, ..Usage::ZERO };
        assert!(matches!(store.record_usage(&key(1), &turn), Err(Error::InvalidCost { .. })));
        let bad = with(before.clone(), |entry| {
            entry.usage = turn;
        });
        assert!(matches!(store.put(&bad, &Extras::default(), Expect::Any), Err(Error::InvalidCost { .. })));
        let modified = store.modify(&key(1), Touch::Yes, &mut |draft| {
            draft.entry.usage = turn;
            Edit::Write
        });
        assert!(matches!(modified, Err(Error::InvalidCost { .. })));
    }
    assert_eq!(get(rig, 1), before);
}

pub fn the_last_interaction_follows_messages(rig: &dyn Rig) {
    let store = rig.sessions();
    begin(rig, 1);
    rig.clock().advance(MINUTE);
    store.resolve(&source(1)).unwrap();
    assert_eq!(get(rig, 1).last_interaction, None);
    let set = &mut |draft: &mut cloakroom::change::Draft<'_>| {
        draft.entry.last_interaction = Some(NOW);
        Edit::Write
    };
    let Modified::Changed(written) = store.modify(&key(1), Touch::No, set).unwrap() else { panic!() };
    seen(rig, &written);
    rig.clock().advance(MINUTE);
    store.touch(&key(1)).unwrap().unwrap();
    assert_eq!(get(rig, 1).last_interaction, Some(NOW));
    let found = store.resolve(&source(1)).unwrap().entry;
    let now = NOW.saturating_add(MINUTE * 2);
    assert_eq!((found.last_interaction, found.revision), (Some(now), written.entry.revision));
    assert_eq!(get(rig, 1), found);
    let written = store.reset(&key(1)).unwrap().unwrap();
    assert_eq!(written.entry.last_interaction, Some(now));
    seen(rig, &written);
    let clear = &mut |draft: &mut cloakroom::change::Draft<'_>| {
        draft.entry.last_interaction = None;
        Edit::Write
    };
    let Modified::Changed(written) = store.modify(&key(1), Touch::No, clear).unwrap() else { panic!() };
    assert_eq!(written.entry.last_interaction, None);
    seen(rig, &written);
}
