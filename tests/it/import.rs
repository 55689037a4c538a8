//! Import: what becomes of each entry, of good files and of bad ones.

use std::io::{self, Read};
use std::time::Duration;

use cloakroom::export::{ExportFormat, ExportOptions};
use cloakroom::gateway::Gateway;
use cloakroom::import::{ImportOptions, ImportReport, OnConflict};
use cloakroom::query::Filter;
use cloakroom::time::ManualClock;
use cloakroom::{Error, Options, Revision, SessionEntry, SessionKey, SessionStore, Timestamp};
use serde_json::Value;

/// 2026-09-01T00:00:00Z, later than every time in the fixtures.
pub(crate) const NOW: i64 = 1_788_220_800_000_000;

/// An entry with the names and texts of its extras.
pub(crate) type Whole = (SessionKey, SessionEntry, Vec<(String, String)>);

/// A store in a directory of its own, with a clock that stands at [`NOW`].
pub(crate) struct Fresh {
    pub(crate) store: SessionStore,
    pub(crate) clock: ManualClock,
    dir: tempfile::TempDir,
}

impl Fresh {
    pub(crate) fn new() -> Self {
        Self::open(tempfile::tempdir().unwrap())
    }

    /// The store in a directory that may have one already.
    pub(crate) fn open(dir: tempfile::TempDir) -> Self {
        let clock = ManualClock::new(Timestamp::from_micros(NOW));
        let options = Options::new(dir.path().join("db")).create(true).clock(clock.clone()).cache_bytes(1 << 22);
        let options = options.commit_interval(Duration::from_millis(5));
        Self { store: SessionStore::open(options).unwrap(), clock, dir }
    }

    pub(crate) fn reopen(self) -> Self {
        let Self { store, dir, .. } = self;
        store.close().unwrap();
        drop(store);
        Self::open(dir)
    }

    /// Imports with the zone of the tests.
    pub(crate) fn import(&self, text: impl AsRef<[u8]>) -> ImportReport {
        self.import_with(text, ImportOptions::new())
    }

    pub(crate) fn import_with(&self, text: impl AsRef<[u8]>, options: ImportOptions<'_>) -> ImportReport {
        self.try_import(text, options).unwrap()
    }

    /// Checks what an import reports, and that one that fails changes nothing.
    pub(crate) fn try_import(&self, text: impl AsRef<[u8]>, options: ImportOptions<'_>) -> Result<ImportReport, Error> {
        let options = options.zone("Europe/Berlin".parse().unwrap());
        let changes = self.store.stats().unwrap().last_commit;
        let report = self.store.import(text.as_ref(), options, |_| {}).inspect_err(|_| {
            self.store.flush().unwrap();
            assert_eq!(self.store.stats().unwrap().last_commit, changes, "nothing was changed");
        })?;
        let outcomes = report.imported + report.updated + report.kept + report.duplicates + report.quarantined;
        assert_eq!(report.read, outcomes, "each entry has one outcome: {report:?}");
        assert!(report.unchanged + report.changed_here <= report.kept && report.notes_left_out <= report.notes);
        Ok(report)
    }

    pub(crate) fn get(&self, key: &str) -> SessionEntry {
        self.store.get(&key.parse().unwrap()).unwrap().unwrap_or_else(|| panic!("no {key}"))
    }

    /// A copy of everything, to compare two stores.
    pub(crate) fn all(&self) -> Vec<Whole> {
        let mut all: Vec<_> = self
            .store
            .iter(Default::default())
            .unwrap()
            .map(|summary| {
                let key = summary.unwrap().key;
                let (mut entry, extras) = self.store.get_with_extras(&key).unwrap().unwrap();
                // No two stores give the same.
                entry.revision = Revision::NONE;
                let extras = extras.iter().map(|(name, text)| (name.into(), text.into())).collect();
                (key, entry, extras)
            })
            .collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all
    }
}

pub(crate) fn fixture(name: &str) -> String {
    std::fs::read_to_string(format!("{}/tests/fixtures/{name}.json", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

/// A small good Hermes entry.
pub(crate) fn hermes(updated_at: &str, more: &str) -> String {
    format!(r#"{{"session_id": "s1", "created_at": "2026-06-01T10:00:00", "updated_at": "{updated_at}"{more}}}"#)
}

/// A file of entries under keys `k1`, `k2`, …
pub(crate) fn file(entries: &[String]) -> String {
    let members: Vec<_> = entries.iter().enumerate().map(|(n, entry)| format!("\"k{}\": {entry}", n + 1)).collect();
    format!("{{\n{}\n}}", members.join(",\n"))
}

fn micros(rfc3339: &str) -> Timestamp {
    rfc3339.parse::<chrono::DateTime<chrono::Utc>>().unwrap().into()
}

#[test]
fn a_hermes_file_is_read_into_typed_fields() {
    let fresh = Fresh::new();
    let report = fresh.import(fixture("hermes/discord-threads"));
    assert_eq!((report.gateway, report.read, report.imported), (Some(Gateway::Hermes), 99, 99));
    assert!(report.is_complete());
    let entry = fresh.get("agent:main:discord:thread:4216182594640053110:4216182594640053110");
    assert_eq!(entry.session_id.as_str(), "18806193_690083_8ts561ai");
    // Berlin was two hours ahead.
    assert_eq!(entry.updated_at, micros("2026-08-21T11:23:49.798817Z"));
    assert_eq!(entry.created_at, micros("2026-08-21T11:20:32.180895Z"));
    assert_eq!(entry.usage.last_prompt_tokens, 37393);
    let origin = entry.details.origin.unwrap();
    assert_eq!((origin.platform.as_str(), origin.chat_type.as_str()), ("discord", "thread"));
    assert_eq!(origin.parent_chat_id.as_deref(), Some("8921556591086509747"));
    // Nothing about such an entry needs more than its records.
    assert_eq!(entry.extras_bytes, 0);
}

/// A migration is worth nothing if the next message opens another session.
#[test]
fn a_message_finds_the_entry_that_was_imported() {
    let fresh = Fresh::new();
    let mut found = 0;
    for name in ["hermes/discord-threads", "hermes/profile", "hermes/small"] {
        let report = fresh.import(fixture(name));
        assert!(report.is_complete(), "{name}");
    }
    // As newer versions of Hermes write it: direct chats and members on WhatsApp, a thread to come, profiles, Slack.
    let origins = [
        (r#""whatsapp", "chat_id": "15551234567@s.whatsapp.net", "chat_type": "dm""#, "main:whatsapp:dm:15551234567"),
        (
            r#""whatsapp", "chat_id": "1@g.us", "chat_type": "group", "user_id": "15551234567:2@s.whatsapp.net""#,
            "main:whatsapp:group:1@g.us:15551234567",
        ),
        (
            r#""discord", "chat_id": "1", "chat_type": "group", "user_id": "2", "auto_thread_created": true, "prospective_thread_id": "3""#,
            "main:discord:thread:1:3",
        ),
        (r#""telegram", "chat_id": "1", "chat_type": "dm", "profile": "coder""#, "coder:telegram:dm:1"),
        (r#""telegram", "chat_id": "1", "chat_type": "dm", "profile": "main""#, "main~:telegram:dm:1"),
        (r#""slack", "chat_id": "D1", "chat_type": "dm", "scope_id": "T1", "guild_id": "T1""#, "main:slack:dm:T1:D1"),
    ];
    let entries: Vec<String> = (origins.iter().enumerate())
        .map(|(n, (origin, key))| {
            let origin = format!(r#"{{"platform": {origin}}}"#);
            format!(
                r#""agent:{key}": {{"session_id": "s{n}", "updated_at": "2026-06-01T00:00:00", "origin": {origin}}}"#
            )
        })
        .collect();
    assert!(fresh.import(format!("{{{}}}", entries.join(","))).is_complete());
    let entries: Vec<_> = fresh.store.iter(Filter::default()).unwrap().entries().map(Result::unwrap).collect();
    for entry in entries {
        let Some(origin) = entry.details.origin.clone() else { continue };
        let resolved = fresh.store.resolve(&origin).unwrap();
        assert_eq!(resolved.entry.key.as_str(), entry.key.as_str());
        assert_eq!(resolved.entry.session_id, entry.session_id);
        found += 1;
    }
    assert_eq!(found, 99 + 47 + 4 + origins.len());
}

/// The key says which chat it is; where the last reply went says less.
#[test]
fn the_platform_of_an_openclaw_entry() {
    let cases = [
        ("agent:main:feishu:direct:u", r#""lastChannel": "webchat", "channel": "webchat""#, Some("feishu")),
        ("agent:main:feishu:acc:direct:u", r#""deliveryContext": {"channel": "webchat"}"#, Some("feishu")),
        ("agent:main:slack:channel:c:thread:1", "", Some("slack")),
        ("agent:main:main", r#""channel": "discord", "lastChannel": "webchat""#, Some("discord")),
        (
            "agent:main:main",
            r#""delivery": {"kind": "external", "context": {"channel": "signal"}}, "lastChannel": "webchat""#,
            Some("signal"),
        ),
        ("agent:main:main", r#""delivery": {"kind": "external", "route": {"channel": "signal"}}"#, Some("signal")),
        ("agent:main:main", r#""deliveryContext": {"channel": "discord"}, "lastChannel": "webchat""#, Some("discord")),
        ("agent:main:main", r#""lastChannel": "webchat", "origin": {"provider": "discord"}"#, Some("webchat")),
        ("agent:main:main", r#""origin": {"provider": "discord"}"#, Some("discord")),
        ("agent:main:main", r#""origin": {"provider": "heartbeat"}, "delivery": "none", "lastChannel": 3"#, None),
        ("agent:main:direct:u", "", None),
        ("agent:main:cron:6p55392v:run:direct", "", None),
        ("agent:main::direct:u", "", None),
    ];
    for (key, fields, expected) in cases {
        let fresh = Fresh::new();
        let comma = if fields.is_empty() { "" } else { ", " };
        let file = format!(r#"{{"{key}": {{"sessionId": "s", "updatedAt": 1774868423845{comma}{fields}}}}}"#);
        assert!(fresh.import(&file).is_complete());
        assert_eq!(fresh.get(key).details.platform.as_deref(), expected, "{key} with {fields}");
        // It comes out as it went in.
        let mut out = Vec::new();
        fresh.store.export(&mut out, &ExportOptions::new(ExportFormat::OpenClaw)).unwrap();
        let values = [&file.into_bytes(), &out].map(|text| serde_json::from_slice::<Value>(text).unwrap());
        assert_eq!(values[0], values[1]);
    }
}

#[test]
fn an_openclaw_file_is_read_into_typed_fields() {
    let fresh = Fresh::new();
    let report = fresh.import(fixture("openclaw/main"));
    assert_eq!((report.gateway, report.read, report.imported), (Some(Gateway::OpenClaw), 15, 15));
    let key = "agent:main:feishu:direct:rm_4ammh0z08w5812k7b66q4517t5sq55l8";
    let (entry, extras) = fresh.store.get_with_extras(&key.parse().unwrap()).unwrap().unwrap();
    let original: Value = serde_json::from_str(&fixture("openclaw/main")).unwrap();
    let original = &original[key];
    assert_eq!(entry.updated_at.as_micros(), original["updatedAt"].as_i64().unwrap() * 1000);
    assert_eq!(entry.session_id.as_str(), original["sessionId"]);
    assert_eq!(entry.usage.total_tokens, original["totalTokens"].as_u64().unwrap());
    assert_eq!(entry.details.platform.as_deref(), original["lastChannel"].as_str());
    assert_eq!(extras.value("skillsSnapshot").as_ref(), Some(&original["skillsSnapshot"]));
    assert!(fresh.store.verify().unwrap().violations.is_empty());
}

#[test]
fn the_empty_object_is_an_empty_store_and_an_empty_file_is_none() {
    let fresh = Fresh::new();
    assert_eq!(fresh.import(fixture("openclaw/empty")).read, 0);
    assert_eq!(fresh.import("\u{feff} {} \n").damage, None);
    for (input, message) in [
        ("", "empty"),
        ("\u{feff}", "empty"),
        (" \n\t ", "empty"),
        ("[]", "object"),
        ("null", "object"),
        ("\"x\"", "object"),
        ("\u{0}\u{0}", "object"),
    ] {
        let error = fresh.store.import(input.as_bytes(), ImportOptions::new(), |_| {}).unwrap_err();
        assert!(matches!(error, Error::NotASessionFile { .. }) && error.to_string().contains(message), "{error}");
    }
    let error = fresh.store.import(&b"\xff\xfe{\0}\0"[..], ImportOptions::new(), |_| {}).unwrap_err();
    assert!(matches!(error, Error::NotASessionFile { .. }));
    assert_eq!(fresh.store.len(), 0);
}

#[test]
fn a_bad_entry_goes_to_the_quarantine_and_the_rest_goes_on() {
    let good = hermes("2026-06-03T00:41:19", "");
    let deep = format!(r#"{{"session_id": "s", "x": {}{}}}"#, "[".repeat(64), "]".repeat(64));
    let bad: Vec<(String, &str)> = vec![
        ("12".into(), "no object, but a number"),
        ("NaN".into(), "no object, but a number"),
        ("\"text\"".into(), "no object, but a text"),
        ("[{}, 1]".into(), "no object, but a list"),
        (" true ".trim().into(), "no object, but true or false"),
        ("null".into(), "no object, but null"),
        ("".into(), "a value is expected"),
        ("nul".into(), "a value is expected"),
        ("{}".into(), "no session"),
        (r#"{"session_id": 5}"#.into(), "its session_id is a number, and a text is expected"),
        (r#"{"session_id": null}"#.into(), "its session_id is null"),
        (r#"{"session_id": ["s"]}"#.into(), "its session_id is a list"),
        (r#"{"sessionId": "s"}"#.into(), "an entry of OpenClaw, and the file is read as one of Hermes"),
        (r#"{"k": {"session_id": "s"}}"#.into(), "no entry, but an object of entries"),
        (r#"{"session_id": "s\ud800"}"#.into(), "its session_id holds half of a surrogate pair"),
        (r#"{"session_id": "s", "\udc00": 1}"#.into(), "the name of one of its fields holds half of a surrogate pair"),
        (r#"{"session_id": "../x"}"#.into(), "\"..\""),
        (r#"{"session_id": "a/b"}"#.into(), "file name"),
        (r#"{"session_id": ""}"#.into(), "empty"),
        (r#"{"session_id": "s",, "a": 1}"#.into(), "a string is expected"),
        (r#"{"session_id": "s", "a": [1, 2}"#.into(), "a comma or a closing bracket"),
        (r#"{"session_id": "s", "a": {"b": 1]}}"#.into(), "a comma or a closing bracket"),
        (r#"{"session_id": "s", "a": "\x"}"#.into(), "escapes"),
        ("{\"session_id\": \"s\", \"a\": \"tab\there\"}".into(), "control character"),
        ("{\"session_id\": \"s\", \"a\": \"lost quote,\n\"b\": 1}".into(), "control character"),
        (format!(r#"{{"session_id": "s", "a": {}}}"#, "9".repeat(1_000_000)), "a number of 1000000 bytes"),
        (format!(r#"{{"session_id": "s", "a": "{}"}}"#, "x".repeat(1 << 20)), "limit"),
        (deep, "deeper than 64"),
        (format!(r#"{{"session_id": "s", "a": {}{}}}"#, "{\"b\":[".repeat(900), "]}".repeat(900)), "deeper than 64"),
    ];
    let mut entries = Vec::new();
    for (text, _) in &bad {
        entries.extend([text.clone(), good.clone()]);
    }
    let fresh = Fresh::new();
    let mut quarantine = Vec::new();
    let report =
        fresh.import_with(file(&entries), ImportOptions::new().gateway(Gateway::Hermes).quarantine(&mut quarantine));
    assert_eq!(report.damage, None);
    assert_eq!((report.quarantined, report.imported), (bad.len() as u64, bad.len() as u64));
    let lines: Vec<Value> =
        String::from_utf8(quarantine).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), bad.len());
    let mut line_number = 2;
    for (n, (line, (text, reason))) in lines.iter().zip(&bad).enumerate() {
        assert_eq!(line["key"], format!("k{}", 2 * n + 1));
        assert_eq!(line["line"], line_number, "{line}");
        assert!(line["reason"].as_str().unwrap().contains(reason), "{} is not {reason}", line["reason"]);
        let raw = line["raw"].as_str().unwrap();
        assert!(text.starts_with(raw) && raw.len() >= text.len().min(1 << 20), "{raw}");
        assert_eq!(line["bytes"], text.len());
        line_number += 2 + text.matches('\n').count();
    }
    assert_eq!(report.problems.len(), 20);
}

#[test]
fn an_entry_of_very_many_fields_is_kept_whole() {
    let fields: String = (0..100_000).map(|n| format!(r#","{n:05}":1"#)).collect();
    let fresh = Fresh::new();
    let report = fresh.import(file(&[hermes("2026-06-03T00:41:19", &fields)]));
    assert_eq!(report.imported, 1, "{report:?}");
    let fresh = fresh.reopen();
    assert_eq!(fresh.store.verify().unwrap().violations, []);
    let (_, extras) = fresh.store.get_with_extras(&"k1".parse().unwrap()).unwrap().unwrap();
    assert_eq!(extras.iter().filter(|(name, value)| name.len() == 5 && *value == "1").count(), 100_000);
}

#[test]
fn a_bad_key_goes_to_the_quarantine() {
    let good = hermes("2026-06-03T00:41:19", "");
    let long = "k".repeat(1025);
    let longer = "k".repeat(100_000);
    let keys = ["", "/etc", "a..b", "C:x", "a\\u0000b", "\\ud800", "\\q", "_note\\u0000", &long, &longer];
    let members: Vec<_> = keys.iter().map(|key| format!("\"{key}\": {good}")).collect();
    let fresh = Fresh::new();
    let mut quarantine = Vec::new();
    let text = format!("{{{}, \"{}\": {good}}}", members.join(", "), "k".repeat(1024));
    let report = fresh.import_with(text, ImportOptions::new().quarantine(&mut quarantine));
    assert_eq!((report.quarantined, report.imported, report.notes), (keys.len() as u64, 1, 0));
    let quarantine = String::from_utf8(quarantine).unwrap();
    assert_eq!(quarantine.lines().count(), keys.len());
    for line in quarantine.lines() {
        assert_eq!(serde_json::from_str::<Value>(line).unwrap()["raw"], good);
    }
    // Neither the report nor an error repeats a key.
    assert!(!serde_json::to_string(&report).unwrap().contains("etc"));
}

#[test]
fn what_is_no_utf8_is_quarantined_byte_by_byte() {
    let good = hermes("2026-06-03T00:41:19", "");
    let text = [b"{\"k1\": {\"session_id\": \"\xff\xfe\"}, \"k\xff2\": {}, \"k3\": ", good.as_bytes(), b"}"].concat();
    let fresh = Fresh::new();
    let mut quarantine = Vec::new();
    let report = fresh.import_with(text, ImportOptions::new().quarantine(&mut quarantine));
    assert_eq!((report.quarantined, report.imported), (2, 1));
    let lines: Vec<Value> =
        String::from_utf8(quarantine).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines[0]["raw_hex"], "7b2273657373696f6e5f6964223a2022fffe227d");
    assert_eq!(lines[1]["key_hex"], "226bff3222");
}

#[test]
fn a_damaged_file_gives_its_good_prefix_and_the_place_of_the_damage() {
    let good = hermes("2026-06-03T00:41:19", "");
    let start = format!("{{\n  \"k1\": {good},\n  \"k2\": {good}");
    let (entries, line, column) = (2, 3, 9 + good.len());
    for (tail, at, quarantined) in [
        ("", column, 0),
        (",", column + 1, 0),
        (";", column, 0),
        (", x", column + 2, 0),
        (", \"k3", column + 5, 1),
        (", \"k3\"", column + 6, 1),
        (", \"k3\" 5", column + 7, 1),
        (", \"k3\": {\"session_id\": \"s", column + 25, 1),
        ("} x", column + 2, 0),
        ("\0\0\0", column, 0),
        (",}", column + 1, 0),
    ] {
        let text = format!("{start}{tail}");
        let fresh = Fresh::new();
        let report = fresh.import(&text);
        let damage = report.damage.unwrap_or_else(|| panic!("{tail} is damage"));
        assert_eq!((damage.line, damage.column), (line, at as u64), "{tail}");
        assert_eq!(damage.byte, (start.len() + at - column) as u64, "{tail}");
        assert_eq!((report.imported, report.quarantined), (entries, quarantined), "{tail}");
        assert_eq!(damage.reason.contains("zero bytes"), tail.starts_with('\0'), "{tail}");
    }
}

#[test]
fn a_place_after_several_lines_is_told_exactly() {
    let text = "{\n  \"k1\": {\n    \"session_id\": \"s\"\n  } x";
    let damage = Fresh::new().import(text).damage.unwrap();
    assert_eq!((damage.line, damage.column, damage.byte), (4, 5, text.len() as u64 - 1));
    let cut = Fresh::new().try_import(&text[..text.len() - 5], ImportOptions::new()).unwrap_err().to_string();
    assert!(cut.contains("no whole entry before line 4, column 1: the file ends within an entry"), "{cut}");
}

#[test]
fn every_prefix_of_a_file_imports_its_whole_entries() {
    let text = fixture("hermes/small");
    let whole = Fresh::new();
    whole.import(&text);
    let whole = whole.all();
    for end in (1..text.len()).step_by(97) {
        let fresh = Fresh::new();
        let complete = text[..end].matches("\n  },").count() as u64;
        let report = match fresh.try_import(&text[..end], ImportOptions::new()) {
            Ok(report) => report,
            Err(Error::NotASessionFile { .. }) if complete == 0 => continue,
            Err(error) => panic!("at {end}: {error}"),
        };
        assert!(report.damage.is_some());
        for entry in fresh.all() {
            assert!(whole.contains(&entry));
        }
        assert_eq!(report.imported, complete, "at {end}");
    }
}

/// Hands out one byte at a time, with interruptions.
struct Trickle<'a>(&'a [u8], bool);

impl Read for Trickle<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.1 = !self.1;
        if self.1 {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let n = self.0.len().min(1);
        buffer[..n].copy_from_slice(&self.0[..n]);
        self.0 = &self.0[n..];
        Ok(n)
    }
}

#[test]
fn reading_byte_by_byte_is_the_same_and_a_failing_read_an_error() {
    let text = fixture("hermes/small");
    let (one, two) = (Fresh::new(), Fresh::new());
    let report = one.import(&text);
    let options = || ImportOptions::new().zone("Europe/Berlin".parse().unwrap());
    assert_eq!(two.store.import(Trickle(text.as_bytes(), false), options(), |_| {}).unwrap(), report);
    assert_eq!(one.all(), two.all());
    struct Fails;
    impl Read for Fails {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("unplugged"))
        }
    }
    let half = text.as_bytes()[..3000].chain(Fails);
    let error = two.store.import(half, options(), |_| {}).unwrap_err();
    assert!(matches!(error, Error::Io { .. }), "{error}");
}

#[test]
fn hours_that_the_clocks_skip_or_repeat_are_counted() {
    let fresh = Fresh::new();
    let report = fresh.import(file(&[
        hermes("2026-03-29T02:30:00.5", ""),
        hermes("2025-10-26T02:30:00", r#", "last_resume_marked_at": "2025-10-26T02:59:59""#),
        hermes("2025-10-26T02:30:00Z", ""),
        hermes("2025-10-26T02:30:00+01:00", ""),
    ]));
    assert_eq!((report.skipped_hours, report.repeated_hours, report.clamped), (1, 2, 0));
    assert_eq!(fresh.get("k1").updated_at, micros("2026-03-29T01:30:00.5Z"));
    assert_eq!(fresh.get("k2").updated_at, micros("2025-10-26T00:30:00Z"));
    assert_eq!(fresh.get("k3").updated_at, micros("2025-10-26T02:30:00Z"));
    assert_eq!(fresh.get("k4").updated_at, micros("2025-10-26T01:30:00Z"));
}

#[test]
fn times_that_cannot_be_are_moved_and_counted() {
    let fresh = Fresh::new();
    let file_time = Timestamp::from_micros(NOW - 5_000_000);
    let text = file(&[
        hermes("2026-09-02T01:59:59", ""),
        hermes("2026-09-02T02:00:01", ""),
        hermes("9999-12-31T23:59:59", r#", "active_turn_started_at": "2999-01-01T00:00:00+00:00""#),
        hermes("1969-12-31T23:59:59", ""),
        hermes("0001-01-01T00:00:00", ""),
    ]);
    let report = fresh.import_with(text, ImportOptions::new().file_time(file_time));
    assert_eq!(report.clamped, 5);
    assert_eq!(fresh.get("k1").updated_at, micros("2026-09-01T23:59:59Z"));
    assert_eq!(fresh.get("k2").updated_at, file_time);
    assert_eq!(fresh.get("k3").updated_at, file_time);
    assert_eq!(fresh.get("k3").details.active_turn_started_at, Some(file_time));
    assert_eq!(fresh.get("k4").updated_at, Timestamp::MIN);
    assert_eq!(fresh.get("k5").updated_at, Timestamp::MIN);
}

#[test]
fn entries_without_a_time_are_as_old_as_the_file() {
    let fresh = Fresh::new();
    let file_time = Timestamp::from_micros(NOW - 5_000_000);
    let text = file(&[
        r#"{"sessionId": "a"}"#.into(),
        r#"{"sessionId": "b", "updatedAt": null, "sessionStartedAt": 1000}"#.into(),
        r#"{"sessionId": "c", "updatedAt": "soon"}"#.into(),
        r#"{"sessionId": "d", "updatedAt": 1774868423845, "lastInteractionAt": 1774868000000}"#.into(),
        r#"{"sessionId": "e", "updatedAt": 1774868423845, "lastInteractionAt": null}"#.into(),
        r#"{"sessionId": "f", "updatedAt": -5}"#.into(),
        r#"{"sessionId": "g", "updatedAt": 99999999999999999999999}"#.into(),
    ]);
    let report = fresh.import_with(text, ImportOptions::new().file_time(file_time));
    assert_eq!((report.without_time, report.unreadable_times), (2, 1));
    assert_eq!((report.clamped, report.imported), (2, 7));
    for key in ["k1", "k2", "k3", "k7"] {
        assert_eq!(fresh.get(key).updated_at, file_time, "{key}");
    }
    assert_eq!(fresh.get("k2").created_at, Timestamp::from_micros(1_000_000));
    assert_eq!(fresh.get("k4").updated_at, Timestamp::from_micros(1_774_868_423_845_000));
    assert_eq!(fresh.get("k4").last_interaction, Some(Timestamp::from_micros(1_774_868_000_000_000)));
    assert_eq!(fresh.get("k5").last_interaction, None);
    assert_eq!(fresh.get("k5").updated_at, Timestamp::from_micros(1_774_868_423_845_000));
    assert_eq!(fresh.get("k6").updated_at, Timestamp::MIN);
    // The last interaction stands in for activity that the file does not say, or not as a time.
    let alone = Fresh::new();
    let report = alone.import(file(&[
        r#"{"sessionId": "a", "lastInteractionAt": 1774868000000}"#.into(),
        r#"{"sessionId": "b", "updatedAt": null, "lastInteractionAt": 1774868000000}"#.into(),
        r#"{"sessionId": "c", "updatedAt": "soon", "lastInteractionAt": 1774868000000, "sessionStartedAt": 1000}"#
            .into(),
    ]));
    assert_eq!((report.without_time, report.unreadable_times), (0, 1));
    for (key, created) in [("k1", 1_774_868_000_000_000), ("k2", 1_774_868_000_000_000), ("k3", 1_000_000)] {
        let time = Timestamp::from_micros(1_774_868_000_000_000);
        let entry = alone.get(key);
        assert_eq!((entry.updated_at, entry.last_interaction), (time, Some(time)), "{key}");
        assert_eq!(entry.created_at, Timestamp::from_micros(created), "{key}");
    }
    // A file time in the future is none.
    let late = Fresh::new();
    late.import_with(r#"{"k": {"sessionId": "a"}}"#, ImportOptions::new().file_time(Timestamp::MAX));
    assert_eq!(late.get("k").updated_at, Timestamp::from_micros(NOW));
}

#[test]
fn odd_values_leave_the_typed_field_at_its_default() {
    let fresh = Fresh::new();
    let report = fresh.import(file(&[hermes(
        "2026-06-03T00:41:19",
        r#", "input_tokens": 18446744073709551616, "output_tokens": -5, "cache_read_tokens": 2.0, "total_tokens": "7",
        "last_prompt_tokens": 18446744073709551615, "estimated_cost_usd": NaN, "platform": 5, "suspended": "yes",
        "memory_flushed": true, "prev_session_id": "../up", "origin": {"chat_id": -100123}, "session_key": "other""#,
    )]));
    // Two counts that are none, two of another kind, a cost, a platform, a flag and an id.
    assert_eq!(report.odd_values, 8);
    fresh.import(r#"{"k2": {"session_id": "s", "memory_flushed": false, "expiry_finalized": true}}"#);
    assert!(fresh.get("k2").details.expiry_finalized, "the newer name counts");
    let entry = fresh.get("k1");
    assert_eq!((entry.usage.input_tokens, entry.usage.output_tokens, entry.usage.cache_read_tokens), (0, 0, 0));
    assert_eq!((entry.usage.total_tokens, entry.usage.last_prompt_tokens), (0, u64::MAX));
    assert_eq!(entry.usage.estimated_cost_usd.to_bits(), 0);
    assert!(!entry.suspended && entry.details.expiry_finalized);
    assert_eq!((&entry.details.platform, &entry.details.prev_session_id), (&None, &None));
    assert_eq!(entry.details.origin.as_ref().unwrap().chat_id.as_deref(), Some("-100123"));
    // Nothing of it sticks.
    let turn = cloakroom::Usage { estimated_cost_usd: 0.5, ..cloakroom::Usage::ZERO };
    fresh.store.record_usage(&entry.key, &turn).unwrap().unwrap();
    assert_eq!(fresh.get("k1").usage.estimated_cost_usd, 0.5);
}

#[test]
fn of_two_entries_with_one_key_the_newest_counts() {
    let entry = |id: &str, day: u8| {
        format!(
            r#""k": {{"session_id": "{id}", "created_at": "2026-06-01T00:00:00", "updated_at": "2026-06-0{day}T00:00:00"}}"#
        )
    };
    for on_conflict in [OnConflict::Newer, OnConflict::Keep, OnConflict::Replace] {
        for (ids, expected) in [([1, 3, 2], "id3"), ([3, 2, 1], "id3"), ([1, 2, 3], "id3"), ([2, 2, 1], "later")] {
            let mut members: Vec<_> = ids.iter().map(|day| entry(&format!("id{day}"), *day)).collect();
            if expected == "later" {
                members[1] = entry("later", 2);
            }
            let text = format!("{{\"other\": {}, {}}}", hermes("2026-06-03T00:00:00", ""), members.join(", "));
            // Into an empty store, a second time, and into one with another entry.
            let (fresh, filled) = (Fresh::new(), Fresh::new());
            filled.import(file(&[hermes("2026-06-03T00:00:00", "")]));
            for (store, imported) in [(&fresh, 2), (&fresh, 0), (&filled, 2)] {
                let options = || ImportOptions::new().on_conflict(on_conflict);
                let dry = store.import_with(&text, options().dry_run(true));
                let report = store.import_with(&text, options());
                assert_eq!((report.duplicates, report.imported), (2, imported), "{on_conflict:?} {ids:?}");
                assert_eq!(dry.imported, report.imported);
                assert_eq!((dry.duplicates, dry.updated, dry.kept), (report.duplicates, report.updated, report.kept));
                assert_eq!(store.get("k").session_id.as_str(), expected, "{on_conflict:?} {ids:?}");
            }
        }
    }
}

#[test]
fn conflicts_with_the_store_are_settled_as_asked() {
    let text = |id: &str, day: u8| file(&[hermes(&format!("2026-06-0{day}T00:00:00"), "").replace("s1", id)]);
    for (on_conflict, day, expected, updated) in [
        (OnConflict::Newer, 1, "old", 0),
        (OnConflict::Newer, 2, "new", 1),
        (OnConflict::Newer, 3, "new", 1),
        (OnConflict::Keep, 3, "old", 0),
        (OnConflict::Replace, 1, "new", 1),
    ] {
        let fresh = Fresh::new();
        fresh.import(text("old", 2));
        for dry_run in [true, false] {
            let report =
                fresh.import_with(text("new", day), ImportOptions::new().on_conflict(on_conflict).dry_run(dry_run));
            assert_eq!((report.updated, report.kept), (updated, 1 - updated), "{on_conflict:?} {day}");
            let expected = if dry_run { "old" } else { expected };
            assert_eq!(fresh.get("k1").session_id.as_str(), expected, "{on_conflict:?} {day}");
        }
        assert!(fresh.store.verify().unwrap().violations.is_empty());
    }
}

#[test]
fn a_dry_run_changes_nothing_and_reports_the_same() {
    for name in ["hermes/profile", "openclaw/discord-channels"] {
        let fresh = Fresh::new();
        let dry = fresh.import_with(fixture(name), ImportOptions::new().dry_run(true));
        assert_eq!(fresh.store.len(), 0);
        let mut report = fresh.import(fixture(name));
        report.dry_run = true;
        assert_eq!(dry, report);
    }
}

#[test]
fn an_import_that_was_cut_short_and_run_again_ends_like_a_clean_one() {
    let newest = hermes("2026-06-05T00:00:00", "").replace("s1", "newest");
    let older = hermes("2026-06-04T00:00:00", "").replace("s1", "older");
    let mut members: Vec<_> =
        (0..30).map(|n| format!("\"k{n}\": {}", hermes(&format!("2026-06-03T00:00:{n:02}"), ""))).collect();
    members.insert(3, format!("\"k9\": {newest}"));
    members.insert(20, format!("\"k4\": {older}"));
    members.push(format!("\"_note\": {{\"n\": 1}}, \"k9\": {older}"));
    let text = format!("{{{}}}", members.join(","));
    for on_conflict in [OnConflict::Newer, OnConflict::Keep, OnConflict::Replace] {
        let clean = Fresh::new();
        clean.import_with(&text, ImportOptions::new().on_conflict(on_conflict));
        for end in (1..text.len()).step_by(211) {
            let fresh = Fresh::new();
            let cut = fresh.try_import(&text[..end], ImportOptions::new().on_conflict(on_conflict));
            assert!(cut.is_ok() || fresh.store.is_empty(), "{cut:?}");
            fresh.clock.advance(Duration::from_secs(60));
            fresh.import_with(&text, ImportOptions::new().on_conflict(on_conflict));
            assert_eq!(fresh.all(), clean.all(), "{on_conflict:?} cut at {end}");
        }
    }
}

#[test]
fn progress_is_told_and_bytes_are_counted() {
    let fresh = Fresh::new();
    let entries: Vec<_> = (0..1000).map(|_| hermes("2026-06-03T00:41:19", "")).collect();
    let text = file(&entries);
    let mut seen = Vec::new();
    let report = fresh.store.import(text.as_bytes(), ImportOptions::new(), |at| seen.push(*at)).unwrap();
    assert!(seen.len() >= 4 && seen.is_sorted_by_key(|at| at.bytes));
    assert_eq!((seen.last().unwrap().bytes, report.bytes), (text.len() as u64, text.len() as u64));
    assert_eq!(fresh.store.len(), 1000);
}

#[test]
fn a_long_entry_is_passed_over_without_being_kept() {
    let good = hermes("2026-06-03T00:41:19", "");
    let head = format!("{{\"k1\": {good}, \"k2\": {{\"session_id\": \"s\", \"x\": \"").into_bytes();
    let tail = format!("\"}}, \"k3\": {good}}}").into_bytes();
    let length = 64 << 20;
    let input = head.as_slice().chain(io::repeat(b'x').take(length)).chain(tail.as_slice());
    let fresh = Fresh::new();
    let mut quarantine = Vec::new();
    let report = fresh.store.import(input, ImportOptions::new().quarantine(&mut quarantine), |_| {}).unwrap();
    assert_eq!((report.imported, report.quarantined), (2, 1));
    assert!(quarantine.len() < 3 << 20);
}
