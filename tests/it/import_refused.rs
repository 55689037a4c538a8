//! What is no session file, and a clock that cannot be right: nothing is imported, and the error says why.

use std::fs;

use cloakroom::import::{ImportOptions, ImportReport};
use cloakroom::time::ManualClock;
use cloakroom::{Error, Options, SessionStore, Timestamp};

use crate::common::fast_dir;
use crate::import::{Fresh, NOW, file, fixture, hermes};

/// Imports into an empty store and makes a store, as trial and for good; all four must fail alike and change nothing.
fn refused(input: &[u8], set: impl Fn(ImportOptions<'_>) -> ImportOptions<'_>) -> Error {
    let dir = fast_dir();
    let path = dir.path().join("db");
    let options = Options::new(&path).clock(ManualClock::new(Timestamp::from_micros(NOW)));
    let mut errors = Vec::new();
    for dry_run in [true, false] {
        let fresh = Fresh::new();
        let text = |error: Error| error.to_string();
        errors.push(fresh.try_import(input, set(ImportOptions::new()).dry_run(dry_run)).map_err(text));
        assert!(fresh.store.is_empty());
        let import = set(ImportOptions::new()).zone("Europe/Berlin".parse().unwrap()).dry_run(dry_run);
        errors.push(SessionStore::create_from(options.clone(), input, import, |_| {}).map_err(text));
        assert!(!path.exists());
    }
    errors.dedup();
    assert!(matches!(errors.as_slice(), [Err(_)]), "{errors:?}");
    let import = set(ImportOptions::new()).zone("Europe/Berlin".parse().unwrap());
    SessionStore::create_from(options, input, import, |_| {}).unwrap_err()
}

fn taken(input: &str, set: impl Fn(ImportOptions<'_>) -> ImportOptions<'_>) -> ImportReport {
    let report = Fresh::new().import_with(input, set(ImportOptions::new()));
    let dir = fast_dir();
    let options = Options::new(dir.path().join("db")).clock(ManualClock::new(Timestamp::from_micros(NOW)));
    let import = set(ImportOptions::new()).zone("Europe/Berlin".parse().unwrap());
    assert_eq!(SessionStore::create_from(options, input.as_bytes(), import, |_| {}).unwrap(), report);
    report
}

#[test]
fn a_json_object_of_another_shape_is_no_session_file() {
    let entry = hermes("2026-06-03T00:41:19", "");
    let lines = format!("{}\n{}\n", entry.replace('\n', " "), entry.replace('\n', " "));
    let cases = [
        (
            format!(r#"{{"version": 1, "sessions": {{"k1": {entry}}}}}"#),
            "(members: 2); the first, on line 1: it is no object, but a number",
        ),
        (format!(r#"{{"sessions": {{"k1": {entry}}}}}"#), "line 1: it is no entry, but an object of entries"),
        (
            r#"{"name": "gateway", "version": "1.0.0", "dependencies": {"left-pad": "^1.0.0"}}"#.into(),
            "(members: 3); the first, on line 1: it is no object, but a text",
        ),
        // OpenClaw's sessions.json.telegram-sent-messages.json.
        (
            r#"{"-1001234": {"55": 1774868423845}, "99": {"7": 1774868423846}}"#.into(),
            "(members: 2); the first, on line 1: it has no session id",
        ),
        (r#"{"_note": 1, "x": 2}"#.into(), "(members: 1); the first, on line 1: it is no object, but a number"),
        (entry.clone(), "it is no object, but a text"),
        (lines, "on line 2, another object follows: it is JSON Lines"),
        ("{}\n{}\n".into(), "on line 2, another object follows: it is JSON Lines"),
        ("{".into(), "no whole entry before line 1, column 2: the file ends here"),
        ("{\"_note\": 1,".into(), "no whole entry before line 1, column 13: the file ends here"),
        (
            "{\"k1\": {\"session_id\": \"s".into(),
            "no whole entry before line 1, column 25: the file ends within an entry",
        ),
        (
            "{\"k1\": {\"session_id\": \"a/b\"}, \"k2\": 5".into(),
            "(members: 2); the first, on line 1: its session id is not valid",
        ),
    ];
    for (text, says) in cases {
        let error = refused(text.as_bytes(), |options| options);
        assert!(matches!(error, Error::NotASessionFile { .. }), "{text}: {error}");
        assert!(error.to_string().starts_with("not a session file: ") && error.to_string().contains(says), "{error}");
    }
    // The other gateway's file, where the format is said.
    let error =
        refused(fixture("openclaw/small").as_bytes(), |options| options.gateway(cloakroom::gateway::Gateway::Hermes));
    assert!(error.to_string().contains("it is an entry of OpenClaw, and the file is read as one of Hermes"), "{error}");
    // Valid and empty.
    for text in ["{}", " {\n} ", r#"{"_README": "a note"}"#] {
        assert!(taken(text, |options| options).is_complete(), "{text}");
    }
    // One good entry is enough, wherever it is.
    let report = taken(&format!("{{\"version\": 1, \"k1\": {entry}, \"x\""), |options| options);
    assert_eq!((report.imported, report.quarantined), (1, 2));
}

#[test]
fn a_file_of_another_kind_is_named() {
    let utf16 = |bytes: fn(u16) -> [u8; 2]| "{\"k\": 1}".encode_utf16().flat_map(bytes).collect::<Vec<u8>>();
    let cases: [(Vec<u8>, &str); 18] = [
        (b"SQLite format 3\0\x10\0".into(), "an SQLite database"),
        (b"\x1f\x8b\x08\0\0".into(), "gzip data"),
        (b"PK\x03\x04\x14".into(), "a zip archive"),
        (b"\x28\xb5\x2f\xfd\x04".into(), "Zstandard data"),
        (b"\xfd7zXZ\0\0".into(), "xz data"),
        (b"BZh91AY".into(), "bzip2 data"),
        (b"CLOAKBAK\x01".into(), "a backup of a store"),
        ([vec![0xff, 0xfe], utf16(u16::to_le_bytes)].concat(), "UTF-16 text"),
        ([vec![0xfe, 0xff], utf16(u16::to_be_bytes)].concat(), "UTF-16 text"),
        (utf16(u16::to_le_bytes), "UTF-16 text"),
        (utf16(u16::to_be_bytes), "UTF-16 text"),
        (vec![0; 4096], "zero bytes"),
        (b" [{\"session_id\": \"s\"}]".into(), "a list"),
        (b"\"text\"".into(), "a text"),
        (b"null".into(), "another text"),
        (b"5".into(), "a number"),
        (b"<!DOCTYPE html>".into(), "HTML or XML"),
        (b"\xe4\xf6".into(), "binary data"),
    ];
    for (bytes, kind) in cases {
        let error = refused(&bytes, |options| options).to_string();
        assert!(
            error.starts_with("not a session file: it is not one JSON object, but ") && error.contains(kind),
            "{error}"
        );
    }
    for empty in ["", "\u{feff}", " \n"] {
        assert_eq!(refused(empty.as_bytes(), |options| options).to_string(), "not a session file: it is empty");
    }
}

/// Of 200 entries `count` are of next week.
fn ahead(count: usize) -> String {
    let time =
        |n| if n < count { format!("2026-09-08T00:{:02}:{:02}", n / 60, n % 60) } else { "2026-08-01T10:00:00".into() };
    file(&(0..200).map(|n| hermes(&time(n), "")).collect::<Vec<_>>())
}

#[test]
fn many_entries_from_the_future_are_proof_of_a_wrong_clock() {
    for (text, shown) in [
        (
            ahead(145),
            "145 of 200, the last at 2026-09-07T22:02:24.000000Z, and by the clock it is 2026-09-01T00:00:00.000000Z",
        ),
        (ahead(100), "100 of 200"),
        (ahead(200), "200 of 200"),
        // However few there are.
        (file(&[hermes("2026-09-08T00:00:00", "")]), "1 of 1"),
        (r#"{"k": {"sessionId": "s", "updatedAt": 1788825600000}}"#.into(), "1 of 1"),
        // Entries that do not say when they were active say nothing about the clock.
        (file(&[hermes("2026-09-08T00:00:00", ""), r#"{"session_id": "s"}"#.into(), "7".into()]), "1 of 1"),
    ] {
        let error = refused(text.as_bytes(), |options| options);
        assert!(matches!(error, Error::ClockBehind { .. }) && error.to_string().contains(shown), "{error}");
    }
    // Fewer are wrong themselves.
    let report = taken(&ahead(99), |options| options);
    assert_eq!((report.imported, report.clamped), (200, 99));
    // Unless the file is from the future too.
    let next_week = Timestamp::from_micros(NOW + 7 * 86_400_000_000);
    let error = refused(ahead(1).as_bytes(), |options| options.file_time(next_week));
    assert!(matches!(error, Error::ClockBehind { ahead: 1, entries: 200, .. }), "{error}");
    assert_eq!(taken(&ahead(0), |options| options.file_time(next_week)).clamped, 0);
    // A time that is not the one of activity, unless it stands in for it.
    let made = r#", "last_resume_marked_at": "2026-09-08T00:00:00""#;
    assert_eq!(taken(&file(&[hermes("2026-08-01T10:00:00", made)]), |options| options).clamped, 1);
    let both = r#"{"k": {"sessionId": "s", "updatedAt": 5000, "lastInteractionAt": 1788825600000}}"#;
    assert_eq!(taken(both, |options| options).clamped, 1);
    let alone = r#"{"k": {"sessionId": "s", "lastInteractionAt": 1788825600000}}"#;
    assert!(matches!(refused(alone.as_bytes(), |options| options), Error::ClockBehind { ahead: 1, entries: 1, .. }));
}

#[test]
fn times_that_are_trusted_go_in_as_they_are() {
    let report = taken(&ahead(145), |options| options.trust_times(true));
    assert_eq!((report.imported, report.clamped), (200, 0));
    let fresh = Fresh::new();
    fresh.import_with(ahead(145), ImportOptions::new().trust_times(true));
    // Not even one beyond the calendar stops it.
    let beyond = r#"{"k": {"sessionId": "s", "updatedAt": 9007199254740993000}}"#;
    let report = Fresh::new().import_with(beyond, ImportOptions::new().trust_times(true));
    assert_eq!((report.imported, report.clamped), (1, 1));
    assert_eq!(fresh.get("k1").updated_at.to_string(), "2026-09-07T22:00:00.000000Z");
    assert_eq!(fresh.get("k145").updated_at.to_string(), "2026-09-07T22:02:24.000000Z");
    assert!(fresh.store.verify().unwrap().violations.is_empty());
}

#[test]
fn a_reader_that_fails_half_way_changes_nothing() {
    struct Fails<'a>(&'a [u8]);
    impl std::io::Read for Fails<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            match self.0.read(buffer)? {
                0 => Err(std::io::Error::other("unplugged")),
                read => Ok(read),
            }
        }
    }
    let fresh = Fresh::new();
    let text = fixture("hermes/small");
    let error = fresh.store.import(Fails(&text.as_bytes()[..3000]), ImportOptions::new(), |_| {}).unwrap_err();
    assert!(matches!(error, Error::Io { .. }), "{error}");
    assert!(fresh.store.is_empty());
}

#[test]
fn a_file_that_does_not_fit_into_memory_is_kept_beside_the_store_for_a_while() {
    let dir = fast_dir();
    let fresh = Fresh::open(dir);
    let more = format!(r#", "x": "{}""#, "x".repeat(1 << 19));
    let text = file(&(0..40).map(|n| hermes(&format!("2026-06-03T00:41:{n:02}"), &more)).collect::<Vec<_>>());
    assert!(text.len() > 20 << 20);
    let names = || {
        let mut names: Vec<_> = fs::read_dir(fresh.store.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let before = names();
    assert_eq!(fresh.import(&text).imported, 40);
    assert_eq!(names(), before);
}

#[cfg(feature = "cli")]
#[test]
fn the_command_line_says_why_and_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let (path, db) = (dir.path().join("sessions.json"), dir.path().join("db"));
    let migrate = |args: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_cloakroom"));
        command.args(["migrate", path.to_str().unwrap(), "--db", db.to_str().unwrap(), "--timezone", "UTC"]).args(args);
        let ran = command.output().unwrap();
        (ran.status.code(), String::from_utf8(ran.stderr).unwrap(), String::from_utf8(ran.stdout).unwrap())
    };
    let left = || fs::read_dir(dir.path()).unwrap().count();
    fs::write(&path, r#"{"version": 1, "sessions": {}}"#).unwrap();
    let (code, error, _) = migrate(&[]);
    assert_eq!((code, left()), (Some(1), 1), "{error}");
    assert!(error.contains("none of its members is a session entry") && error.lines().count() == 1, "{error}");

    let future = |n: usize| hermes(&format!("2199-01-01T00:00:{n:02}"), "");
    let mixed = [future(1), future(2), "5".into()];
    fs::write(&path, file(&mixed)).unwrap();
    let (code, error, _) = migrate(&[]);
    assert_eq!((code, left()), (Some(1), 1), "{error}");
    assert!(error.contains("active more than a day after now: 2 of 2") && error.contains("--trust-times"), "{error}");
    let (code, error, out) = migrate(&["--trust-times", "--json"]);
    assert_eq!((code, left()), (Some(1), 3), "{error}{out}");
    assert!(out.contains(r#""imported":2"#) && out.contains(r#""clamped":0"#), "{out}");

    // Into the store that is there now.
    fs::write(&path, file(&[future(3), "{\"session_id\": 1}".into()])).unwrap();
    let (code, error, _) = migrate(&[]);
    assert_eq!((code, left()), (Some(1), 3), "{error}");
    fs::write(&path, "").unwrap();
    assert!(migrate(&[]).1.contains("it is empty"));
    assert_eq!(left(), 3);
}
