//! A file that is imported again after its gateway went on: neighbouring versions of real files, and what both sides
//! changed in between.

use std::collections::BTreeSet;

use cloakroom::import::{ImportOptions, OnConflict};
use cloakroom::{SessionKey, SessionSource, Timestamp, Usage};
use serde_json::{Map, Value, json};

use crate::import::{Fresh, NOW, Whole, file, fixture, hermes};
use crate::rig::file_model::Dice;

type File = Map<String, Value>;

/// What a gateway does to its file between two saves. Most of it leaves the time of activity alone.
fn go_on(file: &mut File, is_hermes: bool, dice: &mut Dice) {
    let keys: Vec<String> = file.keys().filter(|key| !key.starts_with('_')).cloned().collect();
    let (time, id) = if is_hermes { ("updated_at", "session_id") } else { ("updatedAt", "sessionId") };
    for _ in 0..=dice.roll(keys.len() / 3 + 1) {
        let key = &keys[dice.roll(keys.len())];
        let Some(entry) = file.get_mut(key).and_then(Value::as_object_mut) else { continue };
        let n = dice.roll(1000);
        match dice.roll(11) {
            0 => drop(entry.insert("suspended".into(), json!(n.is_multiple_of(2)))),
            1 => drop(entry.insert("model_override".into(), json!(format!("model-{n}")))),
            2 => drop(entry.insert(if is_hermes { "expiry_finalized" } else { "expiryFinalized" }.into(), json!(true))),
            3 => drop(entry.insert("metadata".into(), json!({"n": n}))),
            4 => drop(entry.insert(if is_hermes { "input_tokens" } else { "inputTokens" }.into(), json!(n))),
            5 => drop(
                entry.insert(if is_hermes { "display_name" } else { "displayName" }.into(), json!(format!("n{n}"))),
            ),
            6 => drop(entry.remove("metadata")),
            7 => {
                entry.insert(id.into(), json!(format!("again{n}")));
                later(entry, time);
            }
            8 => later(entry, time),
            9 if keys.len() > 2 => drop(file.remove(key)),
            _ => {
                let mut new = entry.clone();
                new.insert(id.into(), json!(format!("new{n}")));
                later(&mut new, time);
                file.insert(format!("{key}:{n}"), new.into());
            }
        }
    }
}

fn later(entry: &mut File, time: &str) {
    let old = entry.get(time).cloned().unwrap_or_default();
    let new = match &old {
        Value::String(text) if text.len() > 19 => json!(format!("{}9", &text[..text.len() - 1])),
        Value::Number(millis) => json!(millis.as_u64().unwrap_or_default() + 1000),
        _ => old,
    };
    // Its other name of the same time.
    if entry.contains_key("lastInteractionAt") {
        entry.insert("lastInteractionAt".into(), new.clone());
    }
    entry.insert(time.into(), new);
}

fn in_file<'a>(all: &'a [Whole], file: &File) -> Vec<&'a Whole> {
    all.iter().filter(|(key, ..)| file.contains_key(key.as_str())).collect()
}

#[test]
fn a_trial_and_the_final_run_end_where_the_final_run_alone_ends() {
    // `CLOAKROOM_VERSIONS` asks for more.
    let versions = std::env::var("CLOAKROOM_VERSIONS").ok().and_then(|n| n.parse().ok()).unwrap_or(4);
    let mut dice = Dice(11);
    let mut untouched = 0;
    for (name, is_hermes) in [
        ("hermes/profile", true),
        ("hermes/discord-threads", true),
        ("openclaw/discord-channels", false),
        ("openclaw/small", false),
    ] {
        let mut version: File = serde_json::from_str(&fixture(name)).unwrap();
        let mut trial = Fresh::new();
        // As this test spells numbers.
        trial.import(serde_json::to_string(&version).unwrap());
        for round in 0..versions {
            let before = version.clone();
            go_on(&mut version, is_hermes, &mut dice);
            let text = serde_json::to_string(&version).unwrap();
            let stored = trial.store.len();
            let dry = trial.import_with(&text, ImportOptions::new().dry_run(true));
            let mut report = trial.import(&text);
            let alone = Fresh::new();
            alone.import(&text);
            let (trial_all, alone_all) = (trial.all(), alone.all());
            assert_eq!(in_file(&trial_all, &version), in_file(&alone_all, &version), "{name} {round}");

            let keys = |file: &File| file.keys().filter(|key| !key.starts_with('_')).cloned().collect::<BTreeSet<_>>();
            let (old_keys, new_keys) = (keys(&before), keys(&version));
            let changed =
                new_keys.iter().filter(|key| before.get(*key).is_some_and(|old| *old != version[*key])).count();
            // A key may have gone and come again.
            assert_eq!(report.imported + report.updated, (changed + new_keys.difference(&old_keys).count()) as u64);
            assert_eq!((report.kept, report.changed_here), (report.unchanged, 0), "{name} {round}");
            assert_eq!(report.not_in_file, stored - report.updated - report.kept);
            report.dry_run = true;
            assert_eq!(dry, report, "{name} {round}");
            let is_late = |key: &String| {
                let time = if is_hermes { "updated_at" } else { "updatedAt" };
                before.get(key).is_some_and(|old| *old != version[key] && old[time] == version[key][time])
            };
            untouched += new_keys.iter().filter(|key| is_late(key)).count();
            // What is known of an entry survives.
            trial = trial.reopen();
        }
        assert!(trial.store.verify().unwrap().violations.is_empty());
    }
    assert!(untouched >= 5 * versions, "only {untouched} changes without a touch");
}

#[test]
fn what_was_changed_in_the_store_since_its_import_is_kept_and_counted() {
    let file_at = |more: &str| file(&[hermes("2026-06-03T00:41:19", more)]);
    let key: SessionKey = "k1".parse().unwrap();
    type Change = fn(&Fresh, &SessionKey);
    let changes: [(&str, Change); 5] = [
        ("suspended", |fresh, key| drop(fresh.store.suspend(key).unwrap())),
        ("used", |fresh, key| drop(fresh.store.record_usage(key, &Usage { input_tokens: 1, ..Usage::ZERO }).unwrap())),
        ("details", |fresh, key| drop(fresh.store.update(key, |details| details.expiry_finalized = true).unwrap())),
        ("metadata", |fresh, key| drop(fresh.store.set_metadata(key, &Map::new()).unwrap())),
        ("there and back", |fresh, key| {
            fresh.store.suspend(key).unwrap();
            fresh.store.unsuspend(key).unwrap();
        }),
    ];
    for (name, change) in changes {
        let fresh = Fresh::new();
        fresh.import(file_at(""));
        change(&fresh, &key);
        let before = fresh.all();
        for dry_run in [true, false] {
            let options = || ImportOptions::new().dry_run(dry_run);
            let report = fresh.import_with(file_at(r#", "model_override": "m""#), options());
            assert_eq!((report.updated, report.kept, report.changed_here), (0, 1, 1), "{name}");
            assert_eq!(fresh.all(), before, "{name}");
        }
        // The file's takes its place if that is asked for, and is as imported again.
        let replace = ImportOptions::new().on_conflict(OnConflict::Replace);
        assert_eq!(fresh.import_with(file_at(r#", "model_override": "m""#), replace).updated, 1, "{name}");
        assert_eq!(fresh.import(file_at("")).updated, 1, "{name}");
    }
    // Activity alone is no change: where the clock stands before it, the time is still the same.
    let fresh = Fresh::new();
    fresh.import(file_at(""));
    fresh.clock.set_wall(Timestamp::from_micros(NOW - 200 * 86_400_000_000));
    fresh.store.touch(&key).unwrap();
    let turn = fresh.store.begin_turn(&key).unwrap().unwrap().token;
    fresh.store.end_turn(&key, turn).unwrap();
    let options = ImportOptions::new().trust_times(true);
    assert_eq!(fresh.import_with(file_at(r#", "model_override": "m""#), options).updated, 1);
}

#[test]
fn an_entry_that_the_gateway_made_counts_as_the_stores_own() {
    let source = SessionSource {
        platform: "discord".into(),
        chat_type: "dm".into(),
        chat_id: Some("1".into()),
        ..SessionSource::default()
    };
    let fresh = Fresh::new();
    let made = fresh.store.resolve(&source).unwrap().entry;
    let text = |more: &str| {
        // 2026-09-01T02:00:00 in Berlin is now.
        format!("{{\"{}\": {}}}", made.key.as_str(), hermes("2026-09-01T02:00:00", more))
    };
    let report = fresh.import(text(""));
    assert_eq!((report.kept, report.changed_here), (1, 1));
    assert_eq!(fresh.get(made.key.as_str()), made);
}

/// Entries of direct chats, later than the clock by an hour.
fn chats(count: usize) -> String {
    let members: Vec<_> =
        (0..count).map(|n| format!("\"agent:main:discord:dm:{n}\": {}", hermes("2026-09-01T03:00:00", ""))).collect();
    format!("{{{}}}", members.join(",\n"))
}

#[test]
fn what_the_gateway_makes_during_an_import_obeys_the_option_too() {
    let source = |n: usize| SessionSource {
        platform: "discord".into(),
        chat_type: "dm".into(),
        chat_id: Some(n.to_string()),
        ..SessionSource::default()
    };
    for (on_conflict, stays) in [(OnConflict::Keep, true), (OnConflict::Newer, false), (OnConflict::Replace, false)] {
        let fresh = Fresh::new();
        let mut made = None;
        let options = ImportOptions::new().zone("Europe/Berlin".parse().unwrap()).on_conflict(on_conflict);
        // The store is empty when it begins, and at its first report the gateway gets a message of a later entry.
        let report = fresh.store.import(chats(600).as_bytes(), options, |_| {
            made.get_or_insert_with(|| fresh.store.resolve(&source(500)).unwrap().entry);
        });
        let (report, made) = (report.unwrap(), made.unwrap());
        let now = fresh.get(made.key.as_str());
        assert_eq!(now == made, stays, "{on_conflict:?}");
        assert_eq!((report.imported, report.updated), (599, u64::from(!stays)), "{on_conflict:?}");
        assert_eq!((report.kept, report.duplicates), (u64::from(stays), 0), "{on_conflict:?}");
    }
    // One that it changes between two of the same key in the file is the store's own as well.
    let fresh = Fresh::new();
    let text = chats(600).replacen(":599\"", ":0\"", 1);
    let key = "agent:main:discord:dm:0";
    let options = ImportOptions::new().zone("Europe/Berlin".parse().unwrap()).on_conflict(OnConflict::Keep);
    fresh
        .store
        .import(text.as_bytes(), options, |_| drop(fresh.store.suspend(&key.parse().unwrap()).unwrap()))
        .unwrap();
    assert!(fresh.get(key).suspended);
}

#[test]
fn a_zone_is_remembered_with_the_entries_that_went_in_by_it() {
    let text = file(&[hermes("2026-06-03T00:41:19", ""), hermes("2026-06-04T00:41:19", "")]);
    let exported = |fresh: &Fresh| {
        let mut out = Vec::new();
        fresh
            .store
            .export(&mut out, &cloakroom::export::ExportOptions::new(cloakroom::export::ExportFormat::Hermes))
            .unwrap();
        serde_json::from_slice::<Value>(&out).unwrap()["k1"]["updated_at"].as_str().unwrap().to_owned()
    };
    let import = |fresh: &Fresh, text: &str, zone: &str, on_conflict| {
        let options = ImportOptions::new().zone(zone.parse().unwrap()).on_conflict(on_conflict);
        let dry = fresh.store.import(text.as_bytes(), options.dry_run(true), |_| {}).unwrap();
        let options = ImportOptions::new().zone(zone.parse().unwrap()).on_conflict(on_conflict);
        let mut report = fresh.store.import(text.as_bytes(), options, |_| {}).unwrap();
        report.dry_run = true;
        assert_eq!(dry, report);
        report
    };
    let fresh = Fresh::new();
    assert_eq!(import(&fresh, &text, "America/New_York", OnConflict::Newer).kept_zone, None);
    // By the right zone all were earlier, so all stay, and so does the zone that they were read in.
    let report = import(&fresh, &text, "Asia/Tokyo", OnConflict::Newer);
    assert_eq!((report.kept, report.kept_zone.as_deref()), (2, Some("America/New_York")));
    assert_eq!(exported(&fresh), "2026-06-03T00:41:19");
    let report = import(&fresh, &text, "Asia/Tokyo", OnConflict::Keep);
    assert_eq!(report.kept_zone.as_deref(), Some("America/New_York"));
    assert_eq!(exported(&fresh), "2026-06-03T00:41:19");
    // What the run says to do.
    let report = import(&fresh, &text, "Asia/Tokyo", OnConflict::Replace);
    assert_eq!((report.updated, report.kept_zone), (2, None));
    assert_eq!(exported(&fresh), "2026-06-03T00:41:19");
    assert_eq!(fresh.get("k1").updated_at.to_string(), "2026-06-02T15:41:19.000000Z");
    // Nothing but the note and exact times goes in: they say nothing about a zone.
    let exact = text.replace("T00:41:19", "T22:41:19Z").replace("T10:00:00", "T10:00:00Z");
    let report = import(&fresh, &exact, "Europe/Berlin", OnConflict::Newer);
    assert_eq!((report.updated, report.kept_zone), (2, None));
    let report = import(&fresh, &text, "Europe/Berlin", OnConflict::Newer);
    assert_eq!(report.kept_zone.as_deref(), Some("Asia/Tokyo"));
    // Some went in and some stayed: the report counts both.
    let later = text.replace("2026-06-04T00:41:19", "2026-06-05T00:41:19");
    let report = import(&fresh, &later, "Europe/Berlin", OnConflict::Newer);
    assert_eq!((report.updated, report.kept, report.kept_zone.as_deref()), (1, 1, Some("Asia/Tokyo")));
    let report = import(&fresh, &later, "Europe/Berlin", OnConflict::Newer);
    assert_eq!((report.kept, report.kept_zone), (2, None), "the zone is Berlin by now");
}

#[test]
fn notes_that_are_left_out_are_counted() {
    let fresh = Fresh::new();
    let with = |notes: &str| format!("{{{notes}, \"k\": {}}}", hermes("2026-06-03T00:41:19", ""));
    let first = with(r#""_a": 1, "_b": 2"#);
    assert_eq!(fresh.import(&first).notes_left_out, 0);
    let keep = || ImportOptions::new().on_conflict(OnConflict::Keep);
    assert_eq!(fresh.import_with(&first, keep()).notes_left_out, 0);
    let other = with(r#""_a": 1, "_b": 3, "_c": 4"#);
    for dry_run in [true, false] {
        let report = fresh.import_with(&other, keep().dry_run(dry_run));
        assert_eq!((report.notes, report.notes_left_out), (3, 1));
    }
    let report = fresh.import(with(r#""_a": 1, "_b": 3, "_a": 5, "_a": 6"#));
    assert_eq!((report.notes, report.notes_left_out), (4, 2));
}
