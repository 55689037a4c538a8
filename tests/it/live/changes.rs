//! Changes of one entry and of many.

use cloakroom::events::EventKind;
use cloakroom::live::LiveOptions;
use cloakroom::{Options, SessionStore};
use serde_json::json;

use super::*;
use crate::common::assert_sound;

#[test]
fn each_verb_changes_its_entry_and_tells_the_listeners() {
    let seen = Seen::new(2);
    let events = seen.store.events(100);
    let handle = seen.handle(&key(1));
    let entry = || seen.store.get(&key(1)).unwrap().unwrap();
    let change = |verb: &str, body: &str| seen.post(&format!("/v1/sessions/{handle}/{verb}"), body).ok();
    let suspended = change("suspend", "");
    assert_eq!((&suspended["suspended"], suspended["session_key"].as_str()), (&json!(true), Some(key(1).as_str())));
    assert_eq!(suspended["revision"], entry().revision.to_string());
    assert!(entry().suspended);
    let answer = seen.post(&format!("/v1/sessions/{handle}/resume-pending"), "");
    assert_eq!((answer.status, answer.kind().as_str()), (409, "suspended"));
    change("unsuspend", "");
    assert!(!entry().suspended);
    change("pin", "");
    assert!(entry().pinned);
    change("unpin", "");
    change("resume-pending", "{\"reason\": \"a test\"}");
    assert_eq!(entry().details.resume_reason.as_deref(), Some("a test"));
    change("clear-resume", "");
    assert!(!entry().resume_pending);
    assert_eq!(change("clear-resume", "")["resume_pending"], false);
    let before = entry().session_id;
    let reset = change("reset", "");
    assert_eq!(
        (reset["prev_session_id"].as_str(), reset["session_id"].as_str()),
        (Some(before.as_str()), Some(entry().session_id.as_str()))
    );
    let removed = seen.ask("DELETE", &format!("/v1/sessions/{handle}"), "", "").ok();
    assert_eq!((&removed["removed"], &removed["revision"]), (&json!(true), &json!(null)));
    assert!(!seen.store.contains(&key(1)).unwrap());
    let told: Vec<_> = events.drain().map(|event| event.kind).collect();
    assert_eq!(
        told,
        [
            EventKind::Suspended,
            EventKind::Unsuspended,
            EventKind::Pinned,
            EventKind::Unpinned,
            EventKind::ResumePending { reason: "a test".into() },
            EventKind::ResumeCleared,
            EventKind::Reset { reason: None },
            EventKind::Removed,
        ]
    );
    assert_sound(&seen.store);
}

#[test]
fn a_reset_keeps_the_extras_that_it_is_told() {
    let seen = Seen::new(1);
    seen.store.set_extra(&key(0), "model", &json!("large")).unwrap().unwrap();
    seen.store.set_extra(&key(0), "yolo", &json!(true)).unwrap().unwrap();
    let handle = seen.handle(&key(0));
    let reset = seen.post(&format!("/v1/sessions/{handle}/reset"), "{\"keep\": [\"model\"]}").ok();
    assert_eq!((&reset["kept"], &reset["dropped"]), (&json!(["model"]), &json!(["yolo"])));
}

/// What was changed since it was looked at is left as it is, whatever the verb.
#[test]
fn a_change_of_what_was_changed_meanwhile_is_refused() {
    let seen = Seen::new(1);
    let handle = seen.handle(&key(0));
    let revision = || seen.store.get(&key(0)).unwrap().unwrap().revision;
    for verb in ["suspend", "unsuspend", "pin", "unpin", "reset", "resume-pending", "clear-resume", "remove"] {
        let old = revision();
        seen.store.update(&key(0), |details| details.cost_status = Some(verb.into())).unwrap().unwrap();
        let before = seen.store.get(&key(0)).unwrap().unwrap();
        let (method, path) = match verb {
            "remove" => ("DELETE", format!("/v1/sessions/{handle}")),
            verb => ("POST", format!("/v1/sessions/{handle}/{verb}")),
        };
        let answer = seen.ask(method, &path, &format!("If-Match: \"{old}\"\r\n"), "");
        assert_eq!((answer.status, answer.kind().as_str()), (412, "changed"), "{verb}");
        assert_eq!(seen.store.get(&key(0)).unwrap(), Some(before), "{verb}");
        let answer = seen.ask(method, &path, "If-Match: \"x\"\r\n", "");
        assert_eq!(answer.status, 400, "{verb}");
        let answer = seen.ask(method, &path, &format!("If-Match: \"{}\"\r\n", revision()), "");
        assert_eq!(answer.status, 200, "{verb}");
    }
}

#[test]
fn what_is_answered_is_durable() {
    let seen = Seen::new(1);
    let handle = seen.handle(&key(0));
    seen.post(&format!("/v1/sessions/{handle}/suspend"), "").ok();
    // The directory as it is now, while nothing was closed.
    let copy = tempfile::tempdir().unwrap();
    let db = copy.path().join("db");
    crate::rig::copy_tree(&seen.home.path(), &db).unwrap();
    let store = SessionStore::open(Options::new(db)).unwrap();
    assert!(store.get(&key(0)).unwrap().unwrap().suspended);
}

#[test]
fn many_are_changed_only_if_they_are_no_more_than_were_seen() {
    let seen = Seen::new(12);
    let bulk = |body: serde_json::Value| seen.post("/v1/sessions:bulk", &body.to_string());
    let filter = json!({"prefix": "agent:main:discord:group:c1"});
    let answer = bulk(json!({"verb": "suspend", "filter": filter, "expected": 2}));
    assert_eq!((answer.status, answer.kind().as_str()), (409, "count_differs"));
    assert_eq!(answer.json()["error"]["found"], 3);
    assert_eq!(seen.get("/v1/sessions?suspended=true").ok()["sessions"], json!([]));
    let done = bulk(json!({"verb": "suspend", "filter": filter, "expected": 3})).ok();
    assert_eq!((&done["found"], &done["counts"]), (&json!(3), &json!({"done": 3})));
    assert_eq!(done["results"].as_array().unwrap().len(), 3);
    assert_eq!(numbers(&seen.get("/v1/sessions?suspended=true").ok(), "sessions"), [11, 10, 1]);
    let exact = bulk(json!({"verb": "remove", "filter": filter, "expected": 4, "exact": true}));
    assert_eq!((exact.status, &exact.json()["error"]["found"]), (409, &json!(3)));
    // What only a look at the entry tells.
    seen.store.update(&key(5), |details| details.display_name = Some("Five".into())).unwrap().unwrap();
    let done = bulk(json!({"verb": "remove", "filter": {"q": "five"}, "expected": 9})).ok();
    assert_eq!((&done["counts"], seen.store.len()), (&json!({"done": 1}), 11));
    let done = bulk(json!({"verb": "resume-pending", "filter": {}, "expected": 11})).ok();
    assert_eq!(done["counts"], json!({"done": 8, "suspended": 3}));
    let done = bulk(json!({"verb": "remove", "filter": filter, "expected": 3, "exact": true})).ok();
    assert_eq!((&done["removed"], seen.store.len()), (&json!(3), 8));
    for wrong in [
        json!({"verb": "explode", "expected": 1}),
        json!({"verb": "pin"}),
        json!({"verb": "pin", "expected": 100_001}),
        json!({"verb": "pin", "expected": 1, "filter": {"colour": "red"}}),
        json!({"verb": "pin", "expected": 99, "filter": {"limit": 1}}),
    ] {
        assert_eq!(bulk(wrong.clone()).status, 400, "{wrong}");
    }
    assert_sound(&seen.store);
}

#[test]
fn a_view_that_only_shows_changes_nothing() {
    let seen = Seen::with(1, LiveOptions::new().guard(|_: &SessionKey| false).read_only(true));
    let handle = seen.handle(&key(0));
    let before = seen.store.get(&key(0)).unwrap();
    seen.home.clock.advance(100 * DAY);
    let plan = seen.post("/v1/prune", "{\"policy\": {\"max_age_days\": 90}, \"dry_run\": true}").ok();
    for (method, path, body) in [
        ("POST", format!("/v1/sessions/{handle}/suspend"), String::new()),
        ("DELETE", format!("/v1/sessions/{handle}"), String::new()),
        ("POST", "/v1/sessions:bulk".into(), "{\"verb\": \"remove\", \"expected\": 9}".into()),
        ("POST", "/v1/prune".into(), json!({"plan": plan["plan"]}).to_string()),
        ("POST", "/v1/watcher/prune-now".into(), String::new()),
    ] {
        let answer = seen.ask(method, &path, "", &body);
        assert_eq!((answer.status, answer.kind().as_str()), (403, "read_only_view"), "{path}");
    }
    assert_eq!(seen.store.get(&key(0)).unwrap(), before);
}
