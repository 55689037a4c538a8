//! Compaction: the same store in a smaller file, whatever comes between.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cloakroom::query::Filter;
use cloakroom::time::ManualClock;
use cloakroom::turns::OpenTurn;
use cloakroom::{Error, SessionEntry, SessionKey, SessionStore, Usage};
use serde_json::json;

use crate::behind::open_sled;
use crate::common::{Home, NOW, assert_sound, chain, fast_dir, key, options, source};
use crate::rig::file_model::Dice;
use crate::rig::rebuild::{Model, Survival};
use crate::rig::{CHILD_PART, CHILD_ROOT, Failure, Inject, Rig, copy_tree};
use crate::rig_selftest::{ack, assert_trace_is_complete};

const MAIN: &str = "compact::child_main";

#[test]
fn child_main() {
    let (Ok(part), Ok(root)) = (std::env::var(CHILD_PART), std::env::var(CHILD_ROOT)) else { return };
    assert_eq!(part, "compact");
    let root = PathBuf::from(root);
    let done = SessionStore::compact(options(&root.join("sessions.db")), |_| {});
    ack(&root, &done.map_or_else(|error| format!("{error:?}"), |_| "compacted".into()));
}

/// All that a store holds.
pub type Everything = (Vec<(SessionEntry, Vec<(String, String)>)>, Vec<OpenTurn>);

pub fn everything(store: &SessionStore) -> Everything {
    let mut keys: Vec<SessionKey> = store.iter(Filter::default()).unwrap().map(|row| row.unwrap().key).collect();
    keys.sort();
    let entries = keys.iter().map(|key| {
        let (entry, extras) = store.get_with_extras(key).unwrap().unwrap();
        (entry, extras.iter().map(|(name, text)| (name.to_owned(), text.to_owned())).collect())
    });
    let entries = entries.collect();
    let mut turns = store.turns().unwrap().items;
    turns.sort_by(|a, b| a.key.cmp(&b.key));
    for turn in &mut turns {
        // The next opening finds them so.
        turn.interrupted = true;
    }
    (entries, turns)
}

/// A store with an entry of every kind, a note, a time zone, and open turns: made by a process that was killed.
pub fn fill(path: &Path, entries: usize) -> Everything {
    let clock = ManualClock::new(NOW);
    let store = SessionStore::open(options(path).clock(clock.clone())).unwrap();
    let file = r#"{"_README": "a note", "imported": {"session_id": "i", "created_at": "2026-06-01T10:00:00",
        "updated_at": "2026-06-03T00:41:19.752658", "unheard_of": [1, 2.50]}}"#;
    let import = cloakroom::import::ImportOptions::new().zone("Europe/Berlin".parse().unwrap());
    store.import(file.as_bytes(), import, |_| {}).unwrap();
    for n in 0..entries {
        clock.advance(Duration::from_secs(17));
        store.resolve(&source(n)).unwrap();
        let metadata = json!({"n": n, "text": "x".repeat([10, 3000, 20_000][n % 3])});
        match n % 6 {
            0 => drop(store.suspend(&key(n)).unwrap().unwrap()),
            1 => drop(store.set_metadata(&key(n), metadata.as_object().unwrap()).unwrap().unwrap()),
            2 => {
                let turn = Usage { input_tokens: 7, estimated_cost_usd: 0.125, ..Usage::ZERO };
                store.record_usage(&key(n), &turn).unwrap().unwrap();
            }
            // Details beyond what a record holds.
            3 => drop(store.update(&key(n), |at| at.display_name = Some("d".repeat(5000))).unwrap().unwrap()),
            4 => drop(store.begin_turn(&key(n)).unwrap().unwrap()),
            _ => drop(store.mark_resume_pending(&key(n), "because").unwrap()),
        }
    }
    store.flush().unwrap();
    let all = everything(&store);
    // As a kill leaves it: a clean close would discard the turns.
    let copy = fast_dir();
    copy_tree(path, &copy.path().join("db")).unwrap();
    store.close().unwrap();
    drop(store);
    fs::remove_dir_all(path).unwrap();
    copy_tree(&copy.path().join("db"), path).unwrap();
    all
}

/// What a small store keeps for a full disk, in bytes.
const BALLAST: u64 = 8 << 20;

fn names(path: &Path) -> Vec<String> {
    let names = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    // The ballast comes with an opening.
    let mut names: Vec<_> = names.filter(|name| name != "ballast").collect();
    names.sort();
    names
}

/// Opens what there is and compares it. Answers what the opening had to repair.
fn look(path: &Path, expected: &Everything) -> Vec<String> {
    let store = SessionStore::open(options(path).create(false)).unwrap_or_else(|error| panic!("{}", chain(&error)));
    assert_eq!(store.open_report().shortfall, None);
    assert_sound(&store);
    assert!(everything(&store) == *expected);
    assert_eq!(names(path), ["LOCK", "sled", "state"]);
    store.open_report().repairs.clone()
}

#[test]
fn a_store_that_was_pruned_shrinks_and_stays_the_same() {
    let home = Home::new();
    let store = home.open();
    for n in 0..6000 {
        store.resolve(&source(n)).unwrap();
    }
    store.flush().unwrap();
    for n in 0..6000 {
        if n % 20 != 0 {
            store.remove(&key(n)).unwrap().unwrap();
        }
    }
    store.close().unwrap();
    let commit = store.stats().unwrap().last_commit;
    let expected = everything(&store);
    drop(store);
    let mut told = Vec::new();
    let report = SessionStore::compact(home.options(), |rows| told.push(rows)).unwrap();
    println!("{report:?}");
    assert_eq!(report.entries, 300);
    assert!((report.bytes_after - BALLAST) * 4 < report.bytes_before - BALLAST, "{report:?}");
    assert!(told.is_sorted() && *told.last().unwrap() > 2 * 3 * 300, "{told:?}");
    assert_eq!(look(&home.path(), &expected), [""; 0]);
    // Numbers go on, so that nothing is taken for older than it is.
    let store = home.open();
    assert!(store.open_report().clean);
    let receipt = store.touch(&key(0)).unwrap().unwrap();
    receipt.wait().unwrap();
    assert!(receipt.commit() > commit, "{} after {commit}", receipt.commit());
}

#[test]
fn every_kind_of_entry_is_the_same_after_a_compaction() {
    let dir = fast_dir();
    let path = dir.path().join("db");
    let expected = fill(&path, 40);
    assert_eq!((expected.0.len(), expected.1.len()), (41, 6));
    for _ in 0..2 {
        SessionStore::compact(options(&path), |_| {}).unwrap();
        assert_eq!(names(&path), ["LOCK", "sled", "state"]);
    }
    look(&path, &expected);
    let store = SessionStore::open(options(&path)).unwrap();
    let mut out = Vec::new();
    let export = cloakroom::export::ExportOptions::new(cloakroom::export::ExportFormat::Hermes);
    let report = store.export(&mut out, &export).unwrap();
    assert_eq!((report.notes, report.zone.to_string().as_str()), (1, "Europe/Berlin"));
}

/// A store of two entries, and of notes that are too large for any ratio.
fn with_large_notes(home: &Home) {
    let store = home.open();
    let notes: String = (0..20).map(|n| format!(r#""_{n}": "{}", "#, "x".repeat(1_000_000))).collect();
    let entry =
        r#"{"session_id": "i", "created_at": "2026-06-01T10:00:00", "updated_at": "2026-06-03T00:41:19.752658"}"#;
    let file = format!(r#"{{{notes} "imported": {entry}}}"#);
    store
        .import(file.as_bytes(), cloakroom::import::ImportOptions::new().zone("Europe/Berlin".parse().unwrap()), |_| {})
        .unwrap();
    store.resolve(&source(1)).unwrap();
    store.close().unwrap();
}

#[test]
fn an_opening_compacts_a_store_that_has_grown() {
    let home = Home::new();
    let store = home.open();
    let metadata = json!({"text": "x".repeat(20_000)});
    for n in 0..1000 {
        store.resolve(&source(n)).unwrap();
        store.set_metadata(&key(n), metadata.as_object().unwrap()).unwrap();
    }
    store.flush().unwrap();
    for n in 50..1000 {
        store.remove(&key(n)).unwrap().unwrap();
    }
    store.close().unwrap();
    let expected = everything(&store);
    drop(store);
    let opened = |ratio| SessionStore::open(home.options().compact_at_open(ratio)).unwrap();
    let store = opened(1000.0);
    assert_eq!(store.open_report().compacted, None);
    drop(store);
    let store = opened(10.0);
    let report = store.open_report();
    assert!(report.clean && report.repairs.is_empty(), "{report:?}");
    let done = report.compacted.unwrap();
    assert_eq!(done.entries, 50);
    assert!((done.bytes_after - BALLAST) * 4 < done.bytes_before - BALLAST, "{done:?}");
    assert!(everything(&store) == expected);
    store.resolve(&source(2000)).unwrap().receipt.wait().unwrap();
    store.close().unwrap();
    drop(store);
    let store = opened(10.0);
    assert_eq!((store.open_report().compacted, store.len()), (None, 51));
    assert_sound(&store);
}

#[test]
fn an_opening_compacts_no_store_twice_in_vain() {
    let home = Home::new();
    with_large_notes(&home);
    let opened = || SessionStore::open(home.options().compact_at_open(2.0)).unwrap();
    let done = opened().open_report().compacted.unwrap();
    assert!(done.bytes_after > 16 << 20, "{done:?}");
    assert_eq!(opened().open_report().compacted, None);
}

#[test]
fn an_opening_leaves_a_store_that_it_cannot_compact_and_says_why() {
    let home = Home::new();
    with_large_notes(&home);
    {
        let db = open_sled(&sled::Config::new().path(home.path().join("sled"))).unwrap();
        db.open_tree("activity").unwrap().clear().unwrap();
        db.flush().unwrap();
    }
    let store = SessionStore::open(home.options().compact_at_open(2.0)).unwrap();
    let report = store.open_report();
    assert_eq!(report.compacted, None);
    assert!(report.repairs.iter().any(|repair| repair.starts_with("left the store as large as it was")), "{report:?}");
    store.resolve(&source(2)).unwrap().receipt.wait().unwrap();
    store.close().unwrap();
    assert_eq!(names(&home.path()), ["LOCK", "sled", "state"]);

    for ratio in [1.9, f64::NAN, f64::INFINITY, -3.0] {
        let error = SessionStore::open(home.options().compact_at_open(ratio)).unwrap_err();
        assert!(matches!(error, Error::Setting { setting: "compact_at_open", .. }), "{error:?}");
    }
}

#[test]
fn what_is_no_sound_store_is_left_as_it_is() {
    let home = Home::new();
    let missing = SessionStore::compact(home.options(), |_| {}).unwrap_err();
    assert!(matches!(missing, Error::NotFound { .. }), "{missing:?}");
    assert!(!home.path().exists());

    let store = home.open();
    store.resolve(&source(1)).unwrap();
    let open = SessionStore::compact(home.options(), |_| {}).unwrap_err();
    assert!(matches!(open, Error::Locked { .. }), "{open:?}");
    store.close().unwrap();
    drop(store);
    {
        let db = open_sled(&sled::Config::new().path(home.path().join("sled"))).unwrap();
        db.open_tree("activity").unwrap().clear().unwrap();
        db.flush().unwrap();
    }
    let unsound = SessionStore::compact(home.options(), |_| {}).unwrap_err();
    assert!(matches!(unsound, Error::Unsound { violations: 1.., .. }), "{unsound:?}");
    assert_eq!(names(&home.path()), ["LOCK", "sled", "state"]);
}

#[test]
fn a_store_that_lost_something_keeps_its_files() {
    let home = Home::new();
    let store = home.open();
    store.resolve(&source(1)).unwrap();
    store.close().unwrap();
    drop(store);
    let copy = fast_dir();
    copy_tree(&home.path().join("sled"), &copy.path().join("sled")).unwrap();
    let store = home.open();
    store.resolve(&source(2)).unwrap().receipt.wait().unwrap();
    store.close().unwrap();
    drop(store);
    fs::remove_dir_all(home.path().join("sled")).unwrap();
    copy_tree(&copy.path().join("sled"), &home.path().join("sled")).unwrap();
    let error = SessionStore::compact(home.options(), |_| {}).unwrap_err();
    let said = chain(&error);
    assert!(said.contains("it holds 1 entries, and there were 2 when it was last synced"), "{said}");
}

/// Every state that `src/storage/swap.rs` names, made by hand.
#[test]
fn an_opening_puts_the_directory_in_order() {
    let dir = fast_dir();
    let path = dir.path().join("db");
    let expected = fill(&path, 6);
    let (sled, old, new) = (path.join("sled"), path.join("sled.old-1"), path.join("sled.new-1"));

    // Set aside, with the new one finished; it would do as well, but the old one is the one that is known.
    fs::rename(&sled, &old).unwrap();
    fs::create_dir(&new).unwrap();
    let repairs = look(&path, &expected);
    assert!(repairs[0].contains("put sled.old-1 back") && repairs[1].contains("removed sled.new-1"), "{repairs:?}");

    // The new one in place, and a part of the old one.
    fs::create_dir(&old).unwrap();
    fs::write(old.join("conf"), b"torn").unwrap();
    let repairs = look(&path, &expected);
    assert!(repairs[0].contains("removed sled.old-1"), "{repairs:?}");

    // Set aside, and nothing else; also where a store may be made.
    fs::rename(&sled, &old).unwrap();
    let store = SessionStore::open(options(&path).create(true)).unwrap();
    assert!(!store.open_report().created);
    assert!(everything(&store) == expected);
    drop(store);

    // Two that were set aside: nobody knows which.
    fs::rename(&sled, &old).unwrap();
    copy_tree(&old, &path.join("sled.old-2")).unwrap();
    let error = SessionStore::open(options(&path)).unwrap_err();
    assert!(chain(&error).contains("more than one that was set aside"), "{}", chain(&error));
    assert_eq!(names(&path), ["LOCK", "sled.old-1", "sled.old-2", "state"]);
}

#[test]
fn a_kill_at_any_call_leaves_one_of_the_two_whole() {
    let base = fast_dir();
    let expected = fill(&base.path().join("db"), 12);
    let (mut calls, mut swept, mut put_back) = (0, 0, 0);
    for at in 1.. {
        let rig = Rig::new();
        let path = rig.root().join("sessions.db");
        copy_tree(&base.path().join("db"), &path).unwrap();
        let mut child = rig.child(MAIN, "compact");
        let ended = child.kill_at(at).output().unwrap().status.success();
        let repairs = look(&path, &expected);
        put_back += usize::from(repairs.iter().any(|repair| repair.contains("put sled.old-")));
        swept += usize::from(repairs.iter().any(|repair| repair.contains("removed sled.old-")));
        if ended {
            break;
        }
        calls = at;
    }
    println!("killed at each of {calls} calls; put back {put_back} times, the old one swept {swept} times");
    assert!(put_back >= 2 && swept >= 2 && calls > 50, "{put_back}, {swept}, {calls}");
}

#[test]
fn a_power_cut_at_any_moment_leaves_one_of_the_two_whole() {
    let rig = Rig::new();
    let path = rig.root().join("sessions.db");
    let expected = fill(&path, 12);
    assert!(rig.child(MAIN, "compact").status().unwrap().success());
    let trace = rig.trace();
    assert_trace_is_complete(&rig, &trace);
    let mut model = Model::new(&trace);
    // Every moment of the last part, in which the names change, and some of those before.
    let mut dice = Dice(3);
    let late = trace.len().saturating_sub(60);
    let mut moments: Vec<_> = (0..30).map(|_| dice.roll(late)).chain(late..=trace.len()).collect();
    moments.sort_unstable();
    for (n, at) in moments.into_iter().enumerate() {
        model.advance(at);
        for survival in [Survival::OnlySynced, Survival::Random { seed: n as u64 }] {
            let out = fast_dir();
            model.write(survival, out.path()).unwrap();
            println!("cut at {at} of {}, {survival:?}", trace.len());
            look(&out.path().join("sessions.db"), &expected);
        }
    }
}

#[test]
fn a_full_disk_leaves_the_old_database_as_it_was() {
    let base = fast_dir();
    let expected = fill(&base.path().join("db"), 12);
    let mut full = 0;
    for at in (1..).step_by(3) {
        let rig = Rig::new();
        let path = rig.root().join("sessions.db");
        copy_tree(&base.path().join("db"), &path).unwrap();
        let mut child = rig.child(MAIN, "compact");
        child.fail(&Failure { at, errno: 28, kinds: "write", mode: "forever" });
        let output = child.output().unwrap();
        assert!(output.status.success(), "{at}: {}", String::from_utf8_lossy(&output.stderr));
        let said = fs::read_to_string(rig.root().join("acks")).unwrap();
        println!("write {at}: {}", said.trim_end());
        let left = names(&path);
        look(&path, &expected);
        if said.starts_with("compacted") {
            break;
        }
        full += 1;
        assert!(said.starts_with("DiskFull") || said.contains("No space left"), "write {at}: {said}");
        assert!(!left.iter().any(|name| name.starts_with("sled.")), "write {at}: {left:?}");
    }
    assert!(full > 5, "only {full} failed");
}

/// The first sync that fails decides: the store is one of the two.
#[test]
fn a_failed_sync_leaves_one_of_the_two_whole() {
    let base = fast_dir();
    let expected = fill(&base.path().join("db"), 6);
    for at in 1.. {
        let rig = Rig::new();
        let path = rig.root().join("sessions.db");
        copy_tree(&base.path().join("db"), &path).unwrap();
        let mut child = rig.child(MAIN, "compact");
        child.fail(&Failure { at, errno: 5, kinds: "sync,rename", mode: "once" });
        assert!(child.output().unwrap().status.success());
        let said = fs::read_to_string(rig.root().join("acks")).unwrap();
        println!("sync {at}: {}", said.trim_end());
        look(&path, &expected);
        if said.starts_with("compacted") && rig.counts().matches < at {
            break;
        }
    }
}
