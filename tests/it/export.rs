//! Export, and the round trip: what comes out is what went in, as far as the store still holds it.

use std::time::Duration;

use cloakroom::Error;
use cloakroom::export::{ExportFormat, ExportOptions};
use cloakroom::import::{ImportOptions, OnConflict};
use serde_json::Value;

use crate::exact_json::Exact;
use crate::import::{Fresh, NOW, file, fixture, hermes};

impl Fresh {
    fn export(&self, format: ExportFormat) -> String {
        let mut out = Vec::new();
        self.store.export(&mut out, &ExportOptions::new(format)).unwrap();
        String::from_utf8(out).unwrap()
    }
}

fn format_of(name: &str) -> ExportFormat {
    if name.starts_with("hermes") { ExportFormat::Hermes } else { ExportFormat::OpenClaw }
}

const FIXTURES: [&str; 7] = [
    "hermes/small",
    "hermes/profile",
    "hermes/discord-threads",
    "openclaw/small",
    "openclaw/main",
    "openclaw/discord-channels",
    "openclaw/empty",
];

#[test]
fn every_fixture_comes_out_as_it_went_in() {
    for name in FIXTURES {
        let fresh = Fresh::new();
        let report = fresh.import(fixture(name));
        assert!(report.is_complete(), "{report:?}");
        let out = fresh.export(format_of(name));
        assert_eq!(Exact::parse(&out), Exact::parse(&fixture(name)), "{name}");
    }
}

#[test]
fn the_layout_is_the_gateways() {
    // Entries are in key order in this one, so even the bytes are the same.
    let fresh = Fresh::new();
    fresh.import(fixture("openclaw/empty"));
    assert_eq!(fresh.export(ExportFormat::OpenClaw), "{}");
    let text = fixture("hermes/profile");
    fresh.import(&text);
    let out = fresh.export(ExportFormat::Hermes);
    let sorted = |text: &str| {
        let mut lines: Vec<_> = text.lines().map(|line| line.trim_end_matches(',').to_owned()).collect();
        lines.sort();
        lines
    };
    assert_eq!(sorted(&out), sorted(&text));
}

/// Everything odd that a Hermes file may hold, in one.
fn odd_hermes() -> String {
    let odd = [
        r#", "session_key": "k1", "platform": "carrier-pigeon", "metadata": {"a": [1, {}], "b": {}}"#,
        r#", "session_key": "another", "display_name": null, "platform": "discord", "chat_type": 5"#,
        r#", "input_tokens": 18446744073709551616, "output_tokens": -5, "cache_read_tokens": 2.0, "total_tokens": "7""#,
        r#", "last_prompt_tokens": 18446744073709551615, "input_tokens": 1e3, "output_tokens": null"#,
        r#", "estimated_cost_usd": 0"#,
        r#", "estimated_cost_usd": 0.1000000000000000055511151231257827"#,
        r#", "estimated_cost_usd": -0.0"#,
        r#", "estimated_cost_usd": NaN, "x": Infinity, "y": [-Infinity, NaN]"#,
        r#", "estimated_cost_usd": -Infinity, "z": 123456789012345678901234567890.5e-400"#,
        r#", "memory_flushed": true"#,
        r#", "memory_flushed": false, "expiry_finalized": true"#,
        r#", "expiry_finalized": 1, "suspended": true, "resume_pending": null, "is_fresh_reset": "no""#,
        r#", "active_turn_token": null, "active_turn_started_at": null, "prev_session_id": null, "origin": null"#,
        r#", "active_turn_token": "t", "active_turn_started_at": "2026-06-03T00:41:19.752658+00:00""#,
        r#", "active_turn_started_at": "2026-06-03T00:41:19Z", "last_resume_marked_at": "never""#,
        r#", "prev_session_id": "../x", "model_override": {"model": "m", "n": 9007199254740993}"#,
        r#", "origin": {}"#,
        r#", "origin": {"platform": "telegram", "chat_id": -1001234567890123456789, "new": [null], "chat_type": "dm"}"#,
        r#", "origin": {"platform": "discord", "chat_id": "1", "chat_name": null, "chat_type": "dm", "user_id": "é\u0000\"\\", "user_name": null, "thread_id": null, "chat_topic": null, "profile": null}"#,
        r#", "origin": [1], "metadata": null"#,
        r#", "cost_status": "unknown", "resume_reason": "", "auto_reset_reason": "\ud83d\ude00""#,
        r#", "": 1, "ключ": "значение", "a\"b": true, "_private": 1"#,
    ];
    let mut entries: Vec<_> = odd.iter().map(|more| hermes("2026-06-03T00:41:19.752658", more)).collect();
    for time in [
        "2026-06-03T00:41:19",
        "2026-06-03T00:41:19.5",
        "2026-06-03T00:41:19.100000",
        "2026-06-03T00:41:19.123456789",
        "2026-06-03 00:41:19",
        "2026-06-03T00:41",
        "2026-06-03",
        "2026-06-03T00:41:19Z",
        "2026-06-03T00:41:19.752658+05:30",
        "2026-03-29T02:30:00",
        "2025-10-26T02:30:00",
        "yesterday",
    ] {
        entries.push(hermes(time, ""));
    }
    entries.push(r#"{"session_id": "bare"}"#.into());
    entries.push(r#"{"session_id": "null", "created_at": null, "updated_at": null}"#.into());
    entries.push(r#"{"session_id": "odd", "created_at": 5, "updated_at": {"a": 1}}"#.into());
    let text = file(&entries);
    text.replacen('{', r#"{"_README": "x", "_list": [1, 2.50], "_": null, "_long": "LONG", "#, 1)
        .replace("LONG", &"лонг".repeat(3000))
}

#[test]
fn an_odd_hermes_file_comes_out_as_it_went_in() {
    let fresh = Fresh::new();
    let text = format!("\u{feff}{}", odd_hermes());
    let report = fresh.import(&text);
    assert!(report.is_complete(), "{report:?}");
    assert_eq!((report.notes, report.without_time, report.clamped), (4, 2, 0));
    assert_eq!((report.unreadable_times, report.odd_values), (4, 12));
    let out = fresh.export(ExportFormat::Hermes);
    assert_same(&out, &text);
    assert!(out.find("_README").unwrap() < out.find("\"k1\"").unwrap());
    // What came out goes in again, over itself and into another store.
    let again = fresh.import(&out);
    assert_eq!((again.kept, again.notes), (report.imported, 4));
    let other = Fresh::new();
    other.import(&out);
    assert_eq!(other.export(ExportFormat::Hermes), out);
}

#[test]
fn half_of_a_surrogate_pair_comes_out_as_it_went_in() {
    let fresh = Fresh::new();
    let more = r#", "display_name": "cut \uD83D", "platform": "x\ude00y", "prev_session_id": "p\ud800",
        "origin": {"platform": "discord", "chat_id": "c", "chat_name": "\ud83d", "n\udfffew": [1]},
        "metadata": {"\udc00": "\ud83d\ude00\ude00"}, "model_override": "\\ud83d \ud83d""#;
    let text = format!("{{\"_note\": \"\\ud83d\", {}", &file(&[hermes("2026-06-03T00:41:19", more)])[1..]);
    let report = fresh.import(&text);
    assert!(report.is_complete() && report.imported == 1, "{report:?}");
    // An id that would not be what the file says is none.
    assert_eq!(report.odd_values, 1);
    let (entry, extras) = fresh.store.get_with_extras(&"k1".parse().unwrap()).unwrap().unwrap();
    assert_eq!(entry.details.display_name.as_deref(), Some("cut \u{fffd}"));
    assert_eq!(entry.details.platform.as_deref(), Some("x\u{fffd}y"));
    assert_eq!(entry.details.origin.unwrap().chat_name.as_deref(), Some("\u{fffd}"));
    assert_eq!(entry.details.prev_session_id, None);
    assert_eq!(extras.value("model_override").unwrap(), "\\ud83d \u{fffd}");
    assert_same(&fresh.export(ExportFormat::Hermes), &text);
    assert_eq!(fresh.import(fresh.export(ExportFormat::Hermes)).unchanged, 1);
    // A change of one field leaves the others as they were written.
    let key = "k1".parse().unwrap();
    fresh.store.update(&key, |details| details.display_name = Some("whole".into())).unwrap().unwrap();
    let origin = |details: &mut cloakroom::Details| details.origin.as_mut().unwrap().chat_id = Some("other".into());
    fresh.store.update(&key, origin).unwrap().unwrap();
    let mut out = Exact::parse(&fresh.export(ExportFormat::Hermes));
    let mut before = Exact::parse(&text);
    assert_eq!(out.entry("k1")["platform"], before.entry("k1")["platform"]);
    assert_eq!(out.entry("k1")["display_name"], Exact::Text("whole".into()));
    let unknown = |all: &mut Exact| all.entry("k1")["origin"].fields()["n\u{10fffd}dfffew"].clone();
    assert_eq!(unknown(&mut out), unknown(&mut before));
}

#[test]
fn fields_that_come_again_in_an_entry_are_counted() {
    let fresh = Fresh::new();
    let time = "2026-06-03T00:41:19.752658";
    let report = fresh.import(file(&[
        hermes(time, ""),
        hermes(time, r#", "platform": "discord", "new": 1, "new": 2, "n\u0065w": 3, "platform": "telegram""#),
        // Within a value they stay.
        hermes(time, r#", "new": {"a": 1, "a": 2}, "metadata": {"b": 1, "b": 2}"#),
        // An entry that is not in counts for nothing.
        r#"{"session_id": "..", "a": 1, "a": 2}"#.into(),
    ]));
    assert_eq!((report.repeated_fields, report.imported, report.quarantined), (3, 3, 1));
    assert_eq!(fresh.get("k2").details.platform.as_deref(), Some("telegram"));
    let out = fresh.export(ExportFormat::Hermes).replace([' ', '\n'], "");
    assert!(out.contains(r#""new":{"a":1,"a":2}"#) && out.contains(r#""metadata":{"b":1,"b":2}"#), "{out}");
    assert!(out.contains(r#""new":3"#) && !out.contains(r#""new":1"#), "{out}");
}

fn assert_same(out: &str, text: &str) {
    let (out, text) = (Exact::parse(out), Exact::parse(text));
    let keys = |value: &Exact| value.fields().keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(&out), keys(&text));
    for (key, value) in text.fields() {
        assert_eq!(&out.fields()[key], value, "{key}");
    }
}

fn odd_openclaw() -> String {
    let odd = [
        r#"{"sessionId": "a", "updatedAt": 1774868423845}"#,
        r#"{"sessionId": "b"}"#,
        r#"{"sessionId": "c", "updatedAt": null, "lastInteractionAt": 1774868423000}"#,
        r#"{"sessionId": "d", "updatedAt": 1774868423845, "lastInteractionAt": 1774868423000, "sessionStartedAt": 5}"#,
        r#"{"sessionId": "e", "updatedAt": 1774868423845.5, "estimatedCostUsd": 0.0, "inputTokens": 0}"#,
        r#"{"sessionId": "f", "updatedAt": "soon", "estimatedCostUsd": 1e-7, "totalTokens": 3.0, "cacheRead": -1}"#,
        r#"{"sessionId": "g", "updatedAt": 1774868423845, "channel": null, "lastChannel": "slack", "suspended": true}"#,
        r#"{"sessionId": "h", "updatedAt": 1774868423845, "origin": {"from": "x"}, "metadata": {"a": 1}, "session_id": 3}"#,
        r#"{"sessionId": "i", "updatedAt": 1.774868423845e12, "displayName": "", "chatType": {}, "cloakroomOrigin": 5}"#,
        r#"{"sessionId": "j", "updatedAt": 1774868423845, "sessionStartedAt": "x", "big": 123456789012345678901234567890}"#,
        r#"{"sessionId": "k", "updatedAt": 1774868423845, "lastInteractionAt": "soon"}"#,
        r#"{"sessionId": "l", "lastInteractionAt": 1774868423000.25}"#,
        r#"{"sessionId": "m", "updatedAt": 1774868423845, "lastInteractionAt": null}"#,
    ];
    file(&odd.map(String::from))
}

#[test]
fn an_odd_openclaw_file_comes_out_as_it_went_in() {
    let fresh = Fresh::new();
    let report = fresh.import(odd_openclaw());
    assert!(report.is_complete(), "{report:?}");
    assert_same(&fresh.export(ExportFormat::OpenClaw), &odd_openclaw());
}

#[test]
fn a_moved_time_comes_out_as_it_was_moved() {
    let fresh = Fresh::new();
    let right = "2026-06-03T00:41:19";
    let times = ["2999-01-01T00:00:00", "1900-01-01T00:00:00", "2999-01-01T00:00:00Z", right, right];
    fresh.import(file(&times.map(|time| hermes(time, ""))));
    let mut out = Exact::parse(&fresh.export(ExportFormat::Hermes));
    assert_eq!(out.entry("k1")["updated_at"], Exact::Text("2026-09-01T02:00:00".into()));
    assert_eq!(out.entry("k2")["updated_at"], Exact::Text("1970-01-01T01:00:00".into()));
    assert_eq!(out.entry("k3")["updated_at"], Exact::Text("2026-09-01T00:00:00Z".into()));
    // A second name of a time is moved too, not lost.
    let fresh = Fresh::new();
    let right = r#"{"sessionId": "s", "updatedAt": 5}"#;
    let report = fresh.import(format!(
        r#"{{"k": {{"sessionId": "s", "updatedAt": 5, "lastInteractionAt": 99999999999999}}, "a": {right}, "b": {right}}}"#
    ));
    assert_eq!(report.clamped, 1);
    let mut out = Exact::parse(&fresh.export(ExportFormat::OpenClaw));
    assert_eq!(out.entry("k")["updatedAt"], Exact::Word("5".into()));
    assert_eq!(out.entry("k")["lastInteractionAt"], Exact::Word((NOW / 1000).to_string()));
}

/// Changes each entry of a file in the store and checks that only the named fields come out changed.
fn only_these_change(name: &str, text: &str, change: impl Fn(&Fresh, &cloakroom::SessionKey), names: &[&str]) {
    let fresh = Fresh::new();
    fresh.import(text);
    fresh.clock.advance(Duration::from_millis(90_250));
    let keys: Vec<_> = fresh.all().into_iter().map(|(key, ..)| key).collect();
    keys.iter().for_each(|key| change(&fresh, key));
    let (out, before) = (Exact::parse(&fresh.export(format_of(name))), Exact::parse(text));
    for key in &keys {
        let (after, before) = (out.fields()[key.as_str()].fields(), before.fields()[key.as_str()].fields());
        let mut changed: Vec<_> =
            after.keys().chain(before.keys()).filter(|n| after.get(*n) != before.get(*n)).collect();
        changed.sort();
        changed.dedup();
        assert!(!changed.is_empty(), "{name} {key}");
        assert!(changed.iter().all(|changed| names.contains(&changed.as_str())), "{name}: {changed:?}");
    }
}

#[test]
fn it_is_the_store_that_answers() {
    let files = FIXTURES.iter().map(|name| (*name, fixture(name)));
    let odd = [("hermes/odd", odd_hermes()), ("openclaw/odd", odd_openclaw())];
    for (name, text) in files.chain(odd) {
        let touch = |fresh: &Fresh, key: &cloakroom::SessionKey| drop(fresh.store.touch(key).unwrap().unwrap());
        only_these_change(name, &text, touch, &["updated_at", "updatedAt"]);
        let suspend = |fresh: &Fresh, key: &cloakroom::SessionKey| {
            let suspended = fresh.store.get(key).unwrap().unwrap().suspended;
            let store = &fresh.store;
            drop(if suspended { store.unsuspend(key) } else { store.suspend(key) }.unwrap().unwrap());
        };
        only_these_change(name, &text, suspend, &["suspended"]);
        let rename = |fresh: &Fresh, key: &cloakroom::SessionKey| {
            drop(fresh.store.update(key, |details| details.display_name = Some("new".into())).unwrap().unwrap());
        };
        only_these_change(name, &text, rename, &["display_name", "displayName"]);
        let annotate = |fresh: &Fresh, key: &cloakroom::SessionKey| {
            let metadata = serde_json::json!({"seen": true});
            drop(fresh.store.set_metadata(key, metadata.as_object().unwrap()).unwrap().unwrap());
        };
        only_these_change(name, &text, annotate, &["metadata"]);
    }
}

#[test]
fn a_changed_time_keeps_the_style_of_the_file() {
    let fresh = Fresh::new();
    let times = ["2026-06-03T00:41:19", "2026-06-03T00:41:19Z", "2026-06-03T00:41:19+05:30"];
    fresh.import(file(&times.map(|time| hermes(time, ""))));
    fresh.clock.advance(Duration::from_micros(1_000_001));
    for key in ["k1", "k2", "k3"] {
        drop(fresh.store.touch(&key.parse().unwrap()).unwrap());
    }
    let mut out = Exact::parse(&fresh.export(ExportFormat::Hermes));
    for (key, expected) in [
        ("k1", "2026-09-01T02:00:01.000001"),
        ("k2", "2026-09-01T00:00:01.000001Z"),
        ("k3", "2026-09-01T00:00:01.000001+00:00"),
    ] {
        assert_eq!(out.entry(key)["updated_at"], Exact::Text(expected.into()));
    }
}

#[test]
fn the_turn_that_is_worked_on_began_at_an_aware_time() {
    let fresh = Fresh::new();
    fresh.import(file(&[hermes("2026-06-03T00:41:19", "")]));
    let at = cloakroom::Timestamp::from_micros(NOW);
    let key = "k1".parse().unwrap();
    drop(fresh.store.update(&key, |details| details.active_turn_started_at = Some(at)).unwrap());
    let mut out = Exact::parse(&fresh.export(ExportFormat::Hermes));
    assert_eq!(out.entry("k1")["active_turn_started_at"], Exact::Text("2026-09-01T00:00:00+00:00".into()));
}

#[test]
fn notes_are_kept_replaced_and_outlive_a_reopening() {
    let fresh = Fresh::new();
    let long = format!("\"{}\"", "n".repeat(20_000));
    let notes = |fresh: &Fresh| Exact::parse(&fresh.export(ExportFormat::Hermes));
    let import = |text: &str, on_conflict, dry_run| {
        fresh.import_with(text, ImportOptions::new().on_conflict(on_conflict).dry_run(dry_run))
    };
    let first = format!(r#"{{"_a": {long}, "_ab": 1, "_a b": [2]}}"#);
    assert_eq!(import(&first, OnConflict::Newer, true).notes, 3);
    assert_eq!(notes(&fresh), Exact::parse("{}"), "a dry run keeps none");
    import(&first, OnConflict::Newer, false);
    assert_eq!(notes(&fresh), Exact::parse(&first));
    import(r#"{"_a": "other", "_c": null}"#, OnConflict::Keep, false);
    assert_eq!(notes(&fresh), Exact::parse(&first.replace('}', r#", "_c": null}"#)));
    import(r#"{"_a": "short"}"#, OnConflict::Newer, false);
    let last = r#"{"_a": "short", "_ab": 1, "_a b": [2], "_c": null}"#;
    assert_eq!(notes(&fresh), Exact::parse(last));
    let fresh = fresh.reopen();
    assert_eq!(notes(&fresh), Exact::parse(last));
    assert!(fresh.store.verify().unwrap().violations.is_empty());
}

#[test]
fn what_is_unknown_of_an_origin_outlives_a_change_of_it() {
    let fresh = Fresh::new();
    fresh.import(file(&[hermes(
        "2026-06-03T00:41:19",
        r#", "origin": {"platform": "discord", "chat_type": "dm", "new": 1.50}"#,
    )]));
    let key = "k1".parse().unwrap();
    let change = |details: &mut cloakroom::Details| details.origin.as_mut().unwrap().user_name = Some("u".into());
    drop(fresh.store.update(&key, change).unwrap());
    let mut out = Exact::parse(&fresh.export(ExportFormat::Hermes));
    let origin = out.entry("k1")["origin"].fields();
    assert_eq!((&origin["new"], &origin["user_name"]), (&Exact::Word("1.50".into()), &Exact::Text("u".into())));
}

#[test]
fn the_zone_of_the_import_is_remembered_and_can_be_overridden() {
    let fresh = Fresh::new();
    fresh.import(file(&[hermes("2026-06-03T00:41:19.5", ""), hermes("2026-06-03T00:41:19Z", "")]));
    let export = |options: &ExportOptions| {
        let mut out = Vec::new();
        let report = fresh.store.export(&mut out, options).unwrap();
        let mut out = Exact::parse(&String::from_utf8(out).unwrap());
        let text = |out: &mut Exact, key: &str| match &out.entry(key)["updated_at"] {
            Exact::Text(text) => text.clone(),
            other => panic!("{other:?}"),
        };
        (report.zone.to_string(), text(&mut out, "k1"), text(&mut out, "k2"))
    };
    let options = ExportOptions::new(ExportFormat::Hermes);
    let same = "2026-06-03T00:41:19Z".to_owned();
    assert_eq!(export(&options), ("Europe/Berlin".into(), "2026-06-03T00:41:19.5".into(), same.clone()));
    let tokyo = options.zone("Asia/Tokyo".parse().unwrap());
    assert_eq!(export(&tokyo), ("Asia/Tokyo".into(), "2026-06-03T07:41:19.500000".into(), same));
}

#[test]
fn lines_are_strict_json() {
    let fresh = Fresh::new();
    fresh.import(odd_hermes());
    let out = fresh.export(ExportFormat::Jsonl);
    let lines: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len() as u64, fresh.store.len());
    // An extra of NaN. A cost of NaN counts as none.
    let more = r#", "estimated_cost_usd": NaN, "x": [NaN], "y": null"#;
    let odd = Fresh::new();
    odd.import(file(&[hermes("2026-06-03T00:41:19", more), hermes("2026-06-03T00:41:19", "")]));
    let report = odd.store.export(std::io::sink(), &ExportOptions::new(ExportFormat::Jsonl)).unwrap();
    assert_eq!((report.entries, report.nulls), (2, 1));
    assert!(lines.is_sorted_by_key(|line| line["session_key"].as_str().unwrap().to_owned()));
    assert!(lines[0]["updated_at"].as_str().unwrap().ends_with('Z'));
    assert!(out.contains(r#""model_override":{"model":"m","n":9007199254740993}"#));
}

#[test]
fn the_other_gateways_format_keeps_what_both_know() {
    let fresh = Fresh::new();
    fresh.import(fixture("openclaw/main"));
    let other = Fresh::new();
    let mut out = Vec::new();
    let options = ExportOptions::new(ExportFormat::Hermes).zone("Europe/Berlin".parse().unwrap());
    fresh.store.export(&mut out, &options).unwrap();
    let report = other.import(out);
    assert_eq!((report.imported, report.quarantined), (15, 0));
    for ((key, one, _), (_, two, _)) in fresh.all().into_iter().zip(other.all()) {
        assert_eq!((one.session_id, one.updated_at, one.usage), (two.session_id, two.updated_at, two.usage), "{key}");
        assert_eq!(one.details, two.details);
    }
}

#[test]
fn a_reset_session_forgets_how_the_old_one_was_written() {
    let fresh = Fresh::new();
    fresh.import(odd_hermes());
    let key = "k3".parse().unwrap();
    let entry = fresh.store.reset(&key).unwrap().unwrap().entry;
    let mut out = Exact::parse(&fresh.export(ExportFormat::Hermes));
    let fields = out.entry("k3");
    assert_eq!(fields["session_id"], Exact::Text(entry.session_id.as_str().into()));
    assert_eq!(fields["input_tokens"], Exact::Word("0".into()));
    assert_eq!(fields["is_fresh_reset"], Exact::Word("true".into()));
    assert_eq!(fields["prev_session_id"], Exact::Text("s1".into()));
}

mod to_file {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn names(dir: &std::path::Path) -> Vec<String> {
        let mut names: Vec<_> =
            std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_is_whole_private_and_not_replaced_unless_asked() {
        let fresh = Fresh::new();
        fresh.import(fixture("hermes/small"));
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out.json");
        // What a killed export left, and what only looks like it.
        std::fs::write(dir.path().join(".out.json.0123456789abcdef.cloakroom-export"), "half").unwrap();
        std::fs::write(dir.path().join(".out.json.mine.cloakroom-export"), "not ours").unwrap();
        let options = ExportOptions::new(ExportFormat::Hermes);
        assert_eq!(fresh.store.export_to_file(&path, &options).unwrap().entries, 4);
        assert_eq!(names(dir.path()), [".out.json.mine.cloakroom-export", "out.json"]);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let text = std::fs::read_to_string(&path).unwrap();
        assert_same(&text, &fixture("hermes/small"));

        std::fs::write(&path, "mine").unwrap();
        let error = fresh.store.export_to_file(&path, &options).unwrap_err();
        assert!(matches!(error, Error::Exists { .. }), "{error}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "mine");
        fresh.store.export_to_file(&path, &options.force(true)).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        assert_eq!(names(dir.path()), [".out.json.mine.cloakroom-export", "out.json"]);
    }

    #[test]
    fn through_a_symlink_its_target_is_replaced() {
        let fresh = Fresh::new();
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let target = other.path().join("target");
        symlink(&target, other.path().join("link")).unwrap();
        // Relative, through a directory that is a link too.
        symlink(other.path(), dir.path().join("away")).unwrap();
        let path = dir.path().join("out.json");
        symlink("away/link", &path).unwrap();
        let options = ExportOptions::new(ExportFormat::Hermes);
        // A link to nowhere is something too.
        for there in [false, true] {
            if there {
                std::fs::write(&target, "precious").unwrap();
            }
            assert!(matches!(fresh.store.export_to_file(&path, &options), Err(Error::Exists { .. })));
            assert_eq!(std::fs::read(&target).ok(), there.then(|| b"precious".to_vec()));
            fresh.store.export_to_file(&path, &options.clone().force(true)).unwrap();
            assert_eq!(std::fs::read_to_string(&target).unwrap(), "{}");
        }
        assert_eq!(
            (names(dir.path()), names(other.path())),
            (vec!["away".into(), "out.json".into()], vec!["link".into(), "target".into()])
        );
        assert!(path.symlink_metadata().unwrap().is_symlink());
    }

    #[test]
    fn bad_places_are_errors() {
        let fresh = Fresh::new();
        let dir = tempfile::tempdir().unwrap();
        let options = ExportOptions::new(ExportFormat::Hermes).force(true);
        for path in [dir.path().join("no/such/dir.json"), dir.path().join(".."), "/".into()] {
            assert!(fresh.store.export_to_file(&path, &options).is_err(), "{path:?}");
        }
        std::fs::create_dir(dir.path().join("taken")).unwrap();
        assert!(fresh.store.export_to_file(dir.path().join("taken"), &options).is_err());
        assert_eq!(names(dir.path()), ["taken"]);
    }
}

#[test]
fn a_report_says_what_was_written() {
    let fresh = Fresh::new();
    fresh.import_with(odd_hermes(), ImportOptions::new());
    let report = fresh.store.export(std::io::sink(), &ExportOptions::new(ExportFormat::Hermes)).unwrap();
    assert_eq!((report.entries, report.notes), (fresh.store.len(), 4));
    assert!(fresh.all().iter().all(|(_, entry, _)| entry.updated_at.as_micros() <= NOW));
}
