//! An import that is killed at random moments and run again ends like one clean run.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use cloakroom::import::{ImportOptions, ImportProgress};
use cloakroom::time::ManualClock;
use cloakroom::{Error, Options, SessionStore, Timestamp};

use crate::import::{Fresh, NOW, hermes};
use crate::rig::file_model::Dice;

const STORE: &str = "CLOAKROOM_IMPORT_STORE";
/// Set where the child is to make the store.
const CREATE: &str = "CLOAKROOM_IMPORT_CREATE";

/// Entries of several sizes, some keys twice, and a note.
fn text() -> String {
    let mut members: Vec<_> = (0..2000)
        .map(|n| {
            let more = format!(r#", "metadata": {{"x": "{}"}}"#, "x".repeat([0, 10, 3000, 9000][n % 4]));
            let entry = hermes(&format!("2026-06-03T{:02}:{:02}:19", n * 7 % 24, n * 13 % 60), &more);
            format!("\"k{}\": {}", n * 31 % 1700, entry.replace("s1", &format!("s{n}")))
        })
        .collect();
    members.insert(700, format!("\"_note\": \"{}\"", "n".repeat(9000)));
    format!("{{{}}}", members.join(",\n"))
}

#[test]
fn child_main() {
    let Ok(path) = std::env::var(STORE) else { return };
    let clock = ManualClock::new(Timestamp::from_micros(NOW));
    let options =
        Options::new(path).create(true).clock(clock).commit_interval(Duration::from_millis(2)).max_pending(300);
    let import = ImportOptions::new().zone("Europe/Berlin".parse().unwrap());
    let tell = |at: &ImportProgress| println!("AT {}", at.read);
    if std::env::var_os(CREATE).is_some() {
        SessionStore::create_from(options, text().as_bytes(), import, tell).unwrap();
    } else {
        SessionStore::open(options).unwrap().import(text().as_bytes(), import, tell).unwrap();
    }
}

#[test]
fn an_import_that_is_killed_and_run_again_ends_like_a_clean_one() {
    let clean = Fresh::new();
    let report = clean.import(text());
    assert_eq!((report.imported, report.duplicates, report.notes), (1700, 300, 1));
    let clean = clean.all();
    let mut dice = Dice(4);
    let mut cut_short = 0;
    for round in 0..6 {
        let dir = tempfile::tempdir().unwrap();
        // Killed once or twice, then run to its end.
        for _ in 0..=dice.roll(2) {
            kill(&dir.path().join("db"), false, dice.roll(7), dice.roll(3000));
        }
        let fresh = Fresh::open(dir);
        cut_short += u64::from(fresh.store.len() < 1700);
        assert!(fresh.store.verify().unwrap().violations.is_empty());
        fresh.import(text());
        assert!(fresh.all() == clean, "round {round}");
        assert!(fresh.store.verify().unwrap().violations.is_empty());
    }
    assert!(cut_short >= 2, "only {cut_short} imports were cut short");
}

#[test]
fn a_creation_that_is_killed_leaves_no_store_or_all_of_it() {
    let clean = Fresh::new();
    clean.import(text());
    let clean = clean.all();
    let mut dice = Dice(5);
    let (mut cut_short, mut left) = (0, 0);
    for round in 0..6 {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        for _ in 0..=dice.roll(2) {
            kill(&path, true, dice.roll(9), dice.roll(3000));
        }
        left += u64::from(in_the_making(&path) > 0);
        let options = Options::new(&path).clock(ManualClock::new(Timestamp::from_micros(NOW)));
        match SessionStore::open(options.clone()) {
            Ok(store) => assert_eq!(store.len(), 1700, "round {round}"),
            Err(Error::NotFound { .. } | Error::NotAStore { .. }) => {
                cut_short += 1;
                let import = ImportOptions::new().zone("Europe/Berlin".parse().unwrap());
                SessionStore::create_from(options, text().as_bytes(), import, |_| {}).unwrap();
            }
            Err(error) => panic!("round {round}: {error:?}"),
        }
        assert_eq!(in_the_making(&path), 0, "round {round}: what was left is swept");
        let fresh = Fresh::open(dir);
        assert!(fresh.all() == clean, "round {round}");
        assert!(fresh.store.verify().unwrap().violations.is_empty());
    }
    assert!(cut_short >= 2 && left >= 1, "only {cut_short} creations were cut short, {left} left something");
}

/// How many databases in the making are in the directory of a store.
fn in_the_making(store: &Path) -> usize {
    let Ok(entries) = std::fs::read_dir(store) else { return 0 };
    entries.filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().starts_with("sled.")).count()
}

/// Starts the child and kills it when it has reported its progress that often, and a moment after.
fn kill(store: &Path, create: bool, lines: usize, micros: usize) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "import_kill::child_main", "--nocapture", "--test-threads=1"])
        .env(STORE, store)
        .envs(create.then_some((CREATE, "1")))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let told = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    told.filter(|line| line.contains("AT ")).take(lines).for_each(drop);
    std::thread::sleep(Duration::from_micros(micros as u64));
    child.kill().unwrap();
    child.wait().unwrap();
}
