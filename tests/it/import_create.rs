//! A store that is made from a file is the one that an import into an empty store gives.

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use cloakroom::export::{ExportFormat, ExportOptions};
use cloakroom::gateway::Gateway;
use cloakroom::import::{ImportOptions, ImportProgress, ImportReport, OnConflict};
use cloakroom::time::ManualClock;
use cloakroom::{Error, Options, SessionStore, Timestamp};
use proptest::prelude::*;

use crate::common::{assert_sound, chain, fast_dir};
use crate::import::{Fresh, NOW, Whole, file, fixture, hermes};
use crate::round_trip::{members, quoted, settings};

fn options(path: &Path) -> Options {
    Options::new(path).clock(ManualClock::new(Timestamp::from_micros(NOW))).cache_bytes(1 << 22)
}

fn create(path: &Path, text: impl AsRef<[u8]>) -> Result<ImportReport, Error> {
    SessionStore::create_from(options(path), text.as_ref(), ImportOptions::new(), |_| {})
}

/// All there is to see of an import.
#[derive(Debug, PartialEq)]
struct Outcome {
    report: Result<ImportReport, String>,
    quarantine: String,
    progress: Vec<ImportProgress>,
    entries: Vec<Whole>,
    /// Notes and the time zone show in an export.
    exports: Vec<String>,
}

type Set = fn(ImportOptions<'_>) -> ImportOptions<'_>;

fn outcome(text: &[u8], set: Set, create: bool) -> Outcome {
    let dir = fast_dir();
    let path = dir.path().join("db");
    let (mut quarantine, mut progress) = (Vec::new(), Vec::new());
    let import = set(ImportOptions::new().zone("Asia/Tokyo".parse().unwrap())).quarantine(&mut quarantine);
    let tell = |at: &ImportProgress| progress.push(*at);
    let report = if create {
        SessionStore::create_from(options(&path), text, import, tell)
    } else {
        SessionStore::open(options(&path).create(true)).and_then(|store| store.import(text, import, tell))
    };
    let fresh = Fresh::open(dir);
    if create && report.is_ok() {
        let opened = fresh.store.open_report();
        assert!(opened.clean && opened.shortfall.is_none() && opened.repairs.is_empty(), "{opened:?}");
    }
    assert_sound(&fresh.store);
    let export = |format| {
        let mut out = Vec::new();
        fresh.store.export(&mut out, &ExportOptions::new(format)).unwrap();
        String::from_utf8(out).unwrap()
    };
    if report.is_err() {
        // A store in the making is thrown away, so its file is taken at once.
        (quarantine, progress) = Default::default();
        assert!(fresh.store.is_empty());
    }
    Outcome {
        report: report.map_err(|error| error.to_string()),
        quarantine: String::from_utf8(quarantine).unwrap(),
        progress,
        entries: fresh.all(),
        exports: [ExportFormat::Hermes, ExportFormat::OpenClaw].map(export).into(),
    }
}

fn same_outcome(text: impl AsRef<[u8]>, set: Set) -> Result<ImportReport, String> {
    let text = text.as_ref();
    let (created, imported) = (outcome(text, set, true), outcome(text, set, false));
    assert_eq!(created, imported, "{}", String::from_utf8_lossy(text));
    created.report
}

fn same(text: impl AsRef<[u8]>, set: Set) -> ImportReport {
    same_outcome(text, set).unwrap()
}

#[test]
fn every_fixture_gives_the_same_store() {
    for name in [
        "hermes/discord-threads",
        "hermes/profile",
        "hermes/small",
        "openclaw/discord-channels",
        "openclaw/empty",
        "openclaw/main",
        "openclaw/small",
    ] {
        let report = same(fixture(name), |options| options);
        assert!(report.is_complete(), "{name}: {report:?}");
    }
}

#[test]
fn of_keys_that_come_again_the_same_one_stays() {
    // Older, newer and equal ones, near and far from each other, with extras and ids that come and go.
    let entries: Vec<_> = (0..400)
        .map(|n| {
            let more = format!(r#", "metadata": {{"x": "{}"}}"#, "x".repeat(n * 37 % 5000));
            let entry = hermes(
                &format!("2026-06-{:02}T00:{:02}:00", 1 + n * 7 % 28, n % 3),
                if n % 3 == 0 { "" } else { &more },
            );
            format!("\"k{}\": {}", n * 31 % 90, entry.replace("s1", &format!("s{}", n % 50)))
        })
        .collect();
    for set in [
        (|options| options.on_conflict(OnConflict::Newer)) as Set,
        |options| options.on_conflict(OnConflict::Keep),
        |options| options.on_conflict(OnConflict::Replace),
    ] {
        let report = same(format!("{{{}}}", entries.join(",\n")), set);
        assert_eq!((report.imported, report.duplicates), (90, 310));
    }
}

#[test]
fn of_notes_that_come_again_the_same_one_stays() {
    let text =
        format!("{{\"_a\": \"{}\", \"_b\": 1, \"_a\": [2], \"_b\": \"{}\"}}", "n".repeat(9000), "m".repeat(5000));
    assert_eq!(same(&text, |options| options).notes, 4);
    same(&text, |options| options.on_conflict(OnConflict::Keep));
}

#[test]
fn a_damaged_file_gives_the_same_prefix() {
    let whole = file(&[hermes("2026-06-03T00:41:19", ""), "{\"bad\": 1}".into(), hermes("2026-06-04T00:41:19", "")]);
    for cut in (1..whole.len()).step_by(7) {
        match same_outcome(&whole[..cut], |options| options) {
            Ok(report) => assert!(report.damage.is_some()),
            Err(error) => assert!(error.contains("no whole entry before"), "{error}"),
        }
    }
}

#[test]
fn an_entry_too_large_for_the_store_counts_the_same() {
    // Its origin is in its extras twice: as details that spilled, and as it was written.
    let large = |time: &str| {
        let name = "n".repeat(400_000);
        hermes(time, &format!(r#", "origin": {{"chat_name": "{name}", "odd": 1}}, "x": "{}""#, "x".repeat(600_000)))
    };
    let small = |time: &str| hermes(time, "");
    let member = |key: &str, entry: String| format!("\"{key}\": {entry}");
    let text = [
        member("k1", large("2026-06-03T00:00:00")),
        // Older than the one before, newer, and as old.
        member("k2", small("2026-06-05T00:00:00")),
        member("k2", large("2026-06-04T00:00:00")),
        member("k2", large("2026-06-06T00:00:00")),
        member("k2", large("2026-06-05T00:00:00")),
        member("k3", small("2026-06-05T00:00:00")),
    ];
    let report = same(format!("{{{}}}", text.join(",\n")), |options| options);
    assert_eq!((report.imported, report.duplicates, report.quarantined), (2, 1, 3));
}

#[test]
fn details_that_just_fit_without_their_extras_are_not_lost() {
    let kept = fast_dir();
    let open_store = SessionStore::open(options(&kept.path().join("db")).create(true)).unwrap();
    let read = |store: &SessionStore, length: usize| {
        let entry = store.get(&"k1".parse().unwrap()).unwrap_or_else(|error| panic!("{length}: {}", chain(&error)));
        assert_eq!(entry.unwrap().details.display_name.unwrap().len(), length);
    };
    for length in 3900..4096 {
        let dir = fast_dir();
        let path = dir.path().join("db");
        let more = format!(r#", "display_name": "{}", "metadata": {{}}"#, "d".repeat(length));
        let text = file(&[hermes("2026-06-03T00:41:19", &more)]);
        create(&path, &text).unwrap();
        read(&SessionStore::open(options(&path)).unwrap(), length);
        // Into a store that is there, whose committer writes it.
        let replace = ImportOptions::new().on_conflict(OnConflict::Replace);
        open_store.import(text.as_bytes(), replace, |_| {}).unwrap();
        open_store.flush().unwrap();
        read(&open_store, length);
    }
}

fn generated(gateway: Gateway, members: &[(String, String)]) {
    let lines: Vec<_> = members.iter().map(|(key, value)| format!("{}: {value}", quoted(key.clone()))).collect();
    // Three times over, so that keys come again in another batch.
    let text = format!("{{\n{}\n}}", [lines.as_slice(); 3].concat().join(",\n"));
    // A file that is refused is refused by both; with its times trusted more of them go in.
    match gateway {
        Gateway::OpenClaw => {
            let _ = same_outcome(&text, |options| options.gateway(Gateway::OpenClaw));
            let _ = same_outcome(&text, |options| options.gateway(Gateway::OpenClaw).trust_times(true));
        }
        _ => {
            let _ = same_outcome(&text, |options| options.gateway(Gateway::Hermes));
            let _ = same_outcome(&text, |options| options.gateway(Gateway::Hermes).trust_times(true));
        }
    }
}

proptest! {
    #![proptest_config(settings(32))]

    #[test]
    fn any_hermes_file_gives_the_same_store(members in members(Gateway::Hermes)) {
        generated(Gateway::Hermes, &members);
    }

    #[test]
    fn any_openclaw_file_gives_the_same_store(members in members(Gateway::OpenClaw)) {
        generated(Gateway::OpenClaw, &members);
    }
}

// What is left, and what is refused.

/// A file that ends with an error.
struct Failing<'a>(&'a [u8]);

impl Read for Failing<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.0.read(buffer)? {
            0 => Err(io::Error::other("the medium is bad")),
            read => Ok(read),
        }
    }
}

#[test]
fn after_an_error_nothing_is_left() {
    let entries: Vec<_> = (0..500).map(|_| hermes("2026-06-03T00:41:19", "")).collect();
    let text = file(&entries);
    let dir = fast_dir();
    let (none, empty) = (dir.path().join("none"), dir.path().join("empty"));
    fs::create_dir(&empty).unwrap();
    for path in [&none, &empty] {
        let input = Failing(&text.as_bytes()[..text.len() - 3]);
        let error = SessionStore::create_from(options(path), input, ImportOptions::new(), |_| {}).unwrap_err();
        assert!(matches!(error, Error::Io { .. }) && chain(&error).contains("the medium is bad"), "{error:?}");
        for text in ["", "[]", " "] {
            assert!(matches!(create(path, text), Err(Error::NotASessionFile { .. })), "{text:?}");
        }
        struct Full;
        impl io::Write for Full {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::Error::other("no room"))
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut full = Full;
        let import = ImportOptions::new().quarantine(&mut full);
        let error = SessionStore::create_from(options(path), &b"{\"k\": 1}"[..], import, |_| {}).unwrap_err();
        assert!(chain(&error).contains("no room"), "{error:?}");
        let panics =
            || SessionStore::create_from(options(path), text.as_bytes(), ImportOptions::new(), |_| panic!("progress"));
        assert!(std::panic::catch_unwind(panics).is_err());
    }
    assert!(!none.exists());
    let left: Vec<_> = fs::read_dir(&empty).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["LOCK"]);
    for path in [&none, &empty] {
        assert_eq!(create(path, &text).unwrap().imported, 500);
    }
}

#[test]
fn a_dry_run_makes_nothing_and_reports_the_same() {
    let entry = |time: &str| format!("\"k\": {}", hermes(time, ""));
    let text = format!("{{{}, \"bad\": 1, \"_n\": 2, {}}}", entry("2026-06-03T00:41:19"), entry("2026-06-02T00:41:19"));
    let dir = fast_dir();
    let path = dir.path().join("db");
    let dry = || {
        let import = ImportOptions::new().dry_run(true);
        SessionStore::create_from(options(&path), text.as_bytes(), import, |_| {})
    };
    let mut report = dry().unwrap();
    assert!(!path.exists());
    assert!(std::mem::take(&mut report.dry_run));
    assert_eq!(report, create(&path, &text).unwrap());
    assert_eq!((report.imported, report.duplicates, report.quarantined, report.notes), (1, 1, 1, 1));
    assert!(matches!(dry(), Err(Error::StoreExists { .. })));
}

#[test]
fn what_is_at_the_path_is_told_as_by_an_opening() {
    let text = file(&[hermes("2026-06-03T00:41:19", "")]);
    let dir = fast_dir();
    // A store, closed and open. Nothing of the input is read.
    let store = dir.path().join("store");
    create(&store, &text).unwrap();
    for _ in 0..2 {
        let mut input = text.as_bytes();
        let error = SessionStore::create_from(options(&store), &mut input, ImportOptions::new(), |_| {}).unwrap_err();
        assert!(matches!(&error, Error::StoreExists { path } if *path == store), "{error:?}");
        assert_eq!(input.len(), text.len());
        std::mem::forget(SessionStore::open(options(&store)));
    }
    // Not a store.
    let foreign = dir.path().join("foreign");
    fs::create_dir(&foreign).unwrap();
    fs::write(foreign.join("notes.txt"), "mine").unwrap();
    for path in [foreign.clone(), foreign.join("notes.txt"), foreign.join("notes.txt/db")] {
        assert!(matches!(create(&path, &text), Err(Error::NotAStore { .. })), "{path:?}");
    }
    assert_eq!(fs::read_dir(&foreign).unwrap().count(), 1);
    // A creation that another has begun.
    let begun = dir.path().join("begun");
    fs::create_dir(&begun).unwrap();
    let lock = fs::File::create(begun.join("LOCK")).unwrap();
    lock.lock().unwrap();
    assert!(matches!(create(&begun, &text), Err(Error::Locked { .. })));
    drop(lock);
    // What another may have put there: a link where our lock goes, say.
    fs::set_permissions(&begun, fs::Permissions::from_mode(0o777)).unwrap();
    assert!(matches!(create(&begun, &text), Err(Error::Exposed { .. })));
    fs::set_permissions(&begun, fs::Permissions::from_mode(0o700)).unwrap();
    assert_eq!(create(&begun, &text).unwrap().imported, 1);
    // Nowhere to make it.
    assert!(matches!(create(&dir.path().join("a/b"), &text), Err(Error::Io { .. } | Error::NotFound { .. })));
}
