//! What scripts rely on: times, errors as JSON, keys that can be given back, settings that are really read.

use std::fs;

use cloakroom::{Extras, SessionSource, Timestamp};
use serde_json::{Value, json};

use super::{DM, GROUP, OLD, Prepared, Ran, key, run, set_last_interaction, timestamp};

/// The error object at the end of standard output.
fn error(ran: &Ran) -> Value {
    let last = ran.out.lines().last().unwrap_or_else(|| panic!("nothing on standard output: {}", ran.err));
    serde_json::from_str::<Value>(last).unwrap()["error"].clone()
}

fn kind(ran: &Ran) -> String {
    error(ran)["kind"].as_str().unwrap().to_owned()
}

/// Every field that is a time, with its number.
fn times(value: &Value, found: &mut Vec<(String, Value)>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                if value.as_str().is_some_and(|text| text.len() == 27 && text.ends_with('Z')) {
                    let number = fields.get(&format!("{name}_epoch")).unwrap_or_else(|| panic!("{name} has no number"));
                    let micros = timestamp(value).as_micros();
                    assert_eq!(number.as_f64().unwrap(), micros as f64 / 1e6, "{name}");
                    found.push((name.clone(), value.clone()));
                }
                times(value, found);
            }
        }
        Value::Array(values) => values.iter().for_each(|value| times(value, found)),
        Value::String(text) => assert!(!text.contains("T00:") || text.len() == 27, "another layout: {text}"),
        _ => {}
    }
}

#[test]
fn times_have_one_layout_and_a_number_beside_each() {
    let store = Prepared::new();
    let open = store.open();
    open.begin_turn(&key(DM)).unwrap().unwrap().receipt.wait().unwrap();
    open.mark_resume_pending(&key(GROUP), "test").unwrap();
    open.hold_until(&key(GROUP), "job", Timestamp::MAX).unwrap().unwrap();
    set_last_interaction(&open, GROUP);
    open.close().unwrap();
    drop(open);
    let cases: [(&[&str], &[&str]); 6] = [
        (&["list", "--limit", "1", "--json"], &["created_at", "updated_at"]),
        (&["show", GROUP, "--json"], &["created_at", "last_interaction", "last_resume_marked_at", "updated_at"]),
        (&["stats", "--json"], &["newest", "oldest"]),
        (&["prune", "--max-age-days", "90", "--dry-run", "--json"], &["cutoff"]),
        (&["resume-pending", "--json"], &["marked_at", "updated_at"]),
        (&["leases", "--json"], &["end", "since"]),
    ];
    for (args, expected) in cases {
        let mut found = Vec::new();
        times(&store.ok(args).json(), &mut found);
        assert_eq!(found.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), expected, "{args:?}");
    }
    // Whole seconds were written without a fraction once, and sorted after those with one.
    let rows = store.ok(&["list", "--limit", "all", "--json"]).json_lines();
    let mut sorted: Vec<_> = rows.iter().map(|row| row["updated_at"].as_str().unwrap()).collect();
    assert!(sorted.iter().all(|time| time.len() == 27), "{sorted:?}");
    let by_time: Vec<_> = sorted.iter().rev().copied().collect();
    sorted.sort_unstable();
    assert_eq!(sorted, by_time);
}

#[test]
fn a_failure_is_an_object_for_scripts_too() {
    let store = Prepared::new();
    let missing = store.db.with_file_name("missing");
    let cases = [
        (run(&missing, &["list", "--json"]), 1, "not_found", "there is no store at"),
        (store.run(&["show", "nobody", "--json"]), 1, "no_entry", "no entry for this key: nobody; `cloakroom list`"),
        (store.run(&["find", "nothing", "--json"]), 1, "no_session", "no entry has this session id"),
        (store.run(&["list", "--json", "--limit", "some"]), 2, "usage", "give a number or `all`"),
        (store.run(&["prune", "--json"]), 2, "usage", "say what to prune"),
        (store.run(&["stats", "--json", "--config", "any"]), 2, "usage", "leave it out here"),
    ];
    for (ran, code, kind, part) in cases {
        assert_eq!((ran.code, ran.out.lines().count()), (code, 1), "{ran:?}");
        let found = error(&ran);
        assert_eq!(found["kind"], kind);
        assert!(found["message"].as_str().unwrap().contains(part), "{found}");
        assert!(ran.err.starts_with("error: "), "{}", ran.err);
    }
    // Without --json, standard output stays empty.
    run(&missing, &["list"]).failed(1, &["there is no store at"]);
    // What was printed before the failure says more.
    store.vandalize("sessions", |tree| assert!(tree.insert(OLD, vec![9, 9]).unwrap().is_some()));
    assert_eq!(store.run(&["stats", "--json"]).json()["unreadable"], 1);
    let ran = store.run(&["list", "--limit", "all", "--json"]);
    assert_eq!((ran.code, ran.keys().len()), (1, 3));
    let held = store.open();
    assert_eq!(kind(&store.run(&["stats", "--json"])), "locked");
    drop(held);
}

#[test]
fn help_is_no_failure() {
    let store = Prepared::new();
    let ran = store.ok(&["list", "--json", "--help"]);
    assert!(ran.out.contains("Usage:") && !ran.out.contains("{\"error\""), "{}", ran.out);
}

#[test]
fn a_setting_that_nobody_would_read_is_told() {
    let store = Prepared::new();
    let file = store.db.with_file_name("gateway.toml");
    let check = |text: &str| {
        fs::write(&file, text).unwrap();
        run(&store.db, &["config", "check", "--config", file.to_str().unwrap()])
    };
    for (text, place, name) in [
        ("[gateway]\nsession_store_max_age_days = 365\n", "[gateway]", "session_store_max_age_days"),
        ("[a.b]\nx = 1\n[a.b.c]\nsession_store_max_entries = 3\n", "[a.b.c]", "session_store_max_entries"),
        ("session_store_max_age_days = 1\n[gateway.session_reset]\nmode = 'idle'\n", "[gateway]", "session_reset"),
    ] {
        let ran = check(text);
        let advice = if name == "session_reset" { "call the table [session_reset]" } else { "before any [table]" };
        ran.failed(1, &[place, name, advice]);
        let args = ["prune", "--max-age-days", "1", "--config", file.to_str().unwrap()];
        store.run(&args).failed(1, &[place, name]);
    }
    assert_eq!(store.ok(&["list", "--limit", "all", "--json"]).json_lines().len(), 4);

    let ran = check("[gateway]\nport = 8080\n");
    assert_eq!(ran.code, 0);
    assert!(ran.err.contains("no setting that begins with `session_`"), "{}", ran.err);
    let ran = check("session_store_max_age_days = 365\n[gateway]\nport = 8080\n");
    assert_eq!((ran.code, ran.err.as_str(), ran.row("prune what has been idle for")), (0, "", "365 days"));
}

#[test]
fn a_config_file_that_a_command_does_not_read_is_refused() {
    let store = Prepared::new();
    let file = store.db.with_file_name("gateway.toml");
    fs::write(&file, "session_store_max_age_days = 365\n").unwrap();
    for args in [&["list"][..], &["suspend", GROUP], &["verify"]] {
        let args = [args, &["--config", file.to_str().unwrap()]].concat();
        let ran = store.run(&args);
        assert_eq!(ran.code, 2, "{args:?}");
        assert!(ran.err.contains("only `prune` and `config check` read --config"), "{}", ran.err);
    }
    assert!(!store.open().get(&key(GROUP)).unwrap().unwrap().suspended);
}

#[test]
fn a_reset_says_what_it_drops_and_keeps_what_it_is_told_to() {
    let store = Prepared::new();
    let open = store.open();
    let file = json!({GROUP: {
        "session_id": "with-extras", "updated_at": "2026-06-01T00:00:00", "model_override": {"model": "m"}, "yolo": true,
        "metadata": {"topic": "tea"},
    }});
    drop(open);
    let path = store.db.with_file_name("sessions.json");
    fs::write(&path, file.to_string()).unwrap();
    store.ok(&["migrate", path.to_str().unwrap(), "--on-conflict", "replace", "--format", "hermes"]);

    let ran = store.ok(&["reset", GROUP, "--keep", "yolo,nothing", "--keep", "model_override", "--json"]).json();
    assert_eq!((&ran["kept"], &ran["dropped"]), (&json!(["model_override", "yolo"]), &json!(["metadata"])));
    let (entry, extras) = store.open().get_with_extras(&key(GROUP)).unwrap().unwrap();
    assert_eq!(entry.session_id.as_str(), ran["session_id"].as_str().unwrap());
    assert_eq!(extras.value("model_override"), Some(json!({"model": "m"})));
    assert_eq!((extras.text(Extras::METADATA), extras.iter().count()), (None, 2));

    let ran = store.ok(&["reset", GROUP]);
    assert!(ran.out.contains(", without model_override, yolo: "), "{}", ran.out);
    assert_eq!(store.open().get_with_extras(&key(GROUP)).unwrap().unwrap().1.iter().count(), 0);
}

#[test]
fn a_key_can_be_given_back_as_it_was_shown() {
    let store = Prepared::new();
    let open = store.open();
    let odd = |user: &str| SessionSource {
        platform: "discord".into(),
        chat_type: "dm".into(),
        user_id: Some(user.into()),
        ..SessionSource::default()
    };
    let turned = open.resolve(&odd("a\u{202e}b")).unwrap().entry;
    let literal = open.resolve(&odd("c\\u{202e}d")).unwrap().entry;
    drop(open);
    let shown = |id: &str| {
        let table = store.ok(&["list"]).out;
        let line = table.lines().find(|line| line.contains(id)).unwrap().to_owned();
        line.split_whitespace().last().unwrap().to_owned()
    };
    let key = shown(turned.session_id.as_str());
    assert!(key.ends_with("a\\u{202e}b"), "{key}");
    for entry in [&turned, &literal] {
        let key = shown(entry.session_id.as_str());
        assert_eq!(store.ok(&["show", &key, "--json"]).json()["session_id"], entry.session_id.as_str());
        store.ok(&["resume-pending", &key]);
        store.ok(&["suspend", &key]);
        assert!(store.open().get(&entry.key).unwrap().unwrap().suspended);
        store.ok(&["remove", &key]);
        assert!(store.open().get(&entry.key).unwrap().is_none());
    }
    store.run(&["show", "no\\u{202e}body"]).failed(1, &["no entry for this key"]);
}
