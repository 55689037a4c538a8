//! Backups: the same store again, and nothing made of a file that is not whole.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Cursor};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use cloakroom::backup::BackupOptions;
use cloakroom::export::{ExportFormat, ExportOptions};
use cloakroom::gateway::Gateway;
use cloakroom::import::ImportOptions;
use cloakroom::time::ManualClock;
use cloakroom::{Error, Options, SessionStore, Usage};
use serde_json::json;

use crate::behind::open_sled;
use crate::common::{Home, NOW, assert_sound, chain, fast_dir, key, options, source};
use crate::compact::{Everything, everything, fill};
use crate::rig::file_model::Dice;
use crate::rig::rebuild::{Model, Survival};
use crate::rig::{CHILD_PART, CHILD_ROOT, Failure, Inject, Rig};
use crate::rig_selftest::{ack, assert_trace_is_complete};
use crate::workload::{self, Plan};

const MAIN: &str = "backup::child_main";

#[test]
fn child_main() {
    let (Ok(part), Ok(root)) = (std::env::var(CHILD_PART), std::env::var(CHILD_ROOT)) else { return };
    let root = PathBuf::from(root);
    let done = match part.as_str() {
        "restore" => {
            let file = fs::File::open(root.join("backup")).unwrap();
            SessionStore::restore(options(&root.join("sessions.db")), file, |_| {}).map(drop)
        }
        "backup" => SessionStore::open(options(&root.join("sessions.db")).create(false)).and_then(|store| {
            let done = store.backup_to_file(root.join("backup"), BackupOptions::new().force(true), |_| {});
            done.map(drop)
        }),
        _ => panic!("unknown part {part}"),
    };
    ack(&root, &done.map_or_else(|error| format!("{error:?}"), |()| "done".into()));
}

fn backup(path: &Path) -> Vec<u8> {
    let store = SessionStore::open(options(path).create(false)).unwrap();
    let mut file = Vec::new();
    let report = store.backup(&mut file, |_| {}).unwrap();
    assert_eq!((report.entries, report.bytes), (store.len(), file.len() as u64));
    file
}

/// A store with all kinds of entries, and its backup.
fn filled(entries: usize) -> (Everything, Vec<u8>) {
    let dir = fast_dir();
    let path = dir.path().join("db");
    let expected = fill(&path, entries);
    (expected, backup(&path))
}

fn restore(path: &Path, file: &[u8]) -> Result<(), Error> {
    SessionStore::restore(options(path), file, |_| {}).map(drop)
}

fn look(path: &Path, expected: &Everything) {
    let store = SessionStore::open(options(path).create(false)).unwrap_or_else(|error| panic!("{}", chain(&error)));
    let report = store.open_report();
    assert!(report.clean && report.shortfall.is_none(), "{report:?}");
    assert_sound(&store);
    assert!(everything(&store) == *expected);
}

#[test]
fn every_kind_of_entry_is_the_same_after_a_restoration() {
    let dir = fast_dir();
    let path = dir.path().join("db");
    let expected = fill(&path, 40);
    let file = backup(&path);
    let back = dir.path().join("back");
    let mut told = Vec::new();
    let report = SessionStore::restore(options(&back), &*file, |at| told.push(*at)).unwrap();
    assert_eq!((report.entries, report.turns, report.notes, report.bytes), (41, 6, 1, file.len() as u64));
    assert_eq!(told.last().map(|at| (at.entries, at.bytes)), Some((41, file.len() as u64)));
    look(&back, &expected);

    // Numbers go on: nothing new may get one that an entry has from before.
    let stats = |path| SessionStore::open(options(path)).unwrap().stats().unwrap().last_commit;
    assert!(stats(&back) >= stats(&path));
    let store = SessionStore::open(options(&back)).unwrap();
    let newest = store.turns().unwrap().items.iter().map(|turn| turn.token).max().unwrap();
    assert!(store.begin_turn(&key(1)).unwrap().unwrap().token > newest);
    // And notes and zone are there.
    let export = |store: &SessionStore| {
        let mut out = Vec::new();
        let report = store.export(&mut out, &ExportOptions::new(ExportFormat::Hermes)).unwrap();
        (String::from_utf8(out).unwrap(), report)
    };
    drop(store);
    let (original, back) = (SessionStore::open(options(&path)).unwrap(), SessionStore::open(options(&back)).unwrap());
    assert!(export(&original).0.contains("a note"));
    let touched = back.get(&key(1)).unwrap().unwrap();
    assert!(touched.updated_at >= original.get(&key(1)).unwrap().unwrap().updated_at);
    assert_eq!(export(&original).1, export(&back).1);
}

#[test]
fn a_backup_of_a_restored_store_is_the_same_but_for_its_commit() {
    let (_, first) = filled(20);
    let dir = fast_dir();
    restore(&dir.path().join("db"), &first).unwrap();
    let second = backup(&dir.path().join("db"));
    // The last frame: head, version, three counts, checksums.
    let end = first.len().min(second.len()) - 40;
    assert!(first[..end] == second[..end]);
}

#[test]
fn every_fixture_survives_a_backup() {
    let mut seen = 0;
    for gateway in ["hermes", "openclaw"] {
        for fixture in fs::read_dir(format!("{}/tests/fixtures/{gateway}", env!("CARGO_MANIFEST_DIR"))).unwrap() {
            let path = fixture.unwrap().path();
            let home = Home::new();
            let store = home.open();
            // Some are of a later month than the clock.
            let import = ImportOptions::new().zone("Europe/Berlin".parse().unwrap()).trust_times(true);
            store.import(&*fs::read(&path).unwrap(), import, |_| {}).unwrap();
            let expected = everything(&store);
            let mut file = Vec::new();
            store.backup(&mut file, |_| {}).unwrap();
            let back = home.path().with_file_name("back");
            restore(&back, &file).unwrap();
            look(&back, &expected);
            seen += expected.0.len();
        }
    }
    assert!(seen > 100, "{seen}");
}

/// Stores that random work has made, with what it left in them.
#[test]
fn generated_stores_survive_a_backup_and_a_compaction() {
    for seed in 0..8 {
        let dir = fast_dir();
        let (path, back) = (dir.path().join("db"), dir.path().join("back"));
        workload::run(&path, Plan { seed, steps: 250, keys: 20, close: 1, ..Plan::SMALL }, &|_| {});
        let expected = everything(&SessionStore::open(options(&path)).unwrap());
        assert!(expected.0.len() > 10, "{}", expected.0.len());
        restore(&back, &backup(&path)).unwrap();
        look(&back, &expected);
        for path in [&path, &back] {
            SessionStore::compact(options(path), |_| {}).unwrap();
            look(path, &expected);
        }
    }
}

#[test]
fn an_empty_store_is_a_backup_too() {
    let (expected, file) = {
        let home = Home::new();
        let store = home.open();
        let mut file = Vec::new();
        store.backup(&mut file, |_| {}).unwrap();
        (everything(&store), file)
    };
    let dir = fast_dir();
    restore(&dir.path().join("db"), &file).unwrap();
    look(&dir.path().join("db"), &expected);
}

#[test]
fn what_was_pending_is_in_it() {
    let home = Home::new();
    let store = home.open();
    for n in 0..50 {
        store.resolve(&source(n)).unwrap();
        let metadata = json!({"text": "x".repeat(100 * n)});
        store.set_metadata(&key(n), metadata.as_object().unwrap()).unwrap().unwrap();
    }
    store.begin_turn(&key(3)).unwrap().unwrap();
    // Nothing has been committed yet: nobody asked, and the interval is long.
    let mut file = Vec::new();
    store.backup(&mut file, |_| {}).unwrap();
    let back = home.path().with_file_name("back");
    restore(&back, &file).unwrap();
    look(&back, &everything(&store));
}

/// Counters of one turn are written by one change, and so are details and metadata of one switch. A backup taken
/// meanwhile has all of a change or none of it, and all entries that were there before.
#[test]
fn entries_are_whole_though_they_change_meanwhile() {
    let home = Home::new();
    let store = SessionStore::open(home.options().commit_interval(Duration::from_millis(1))).unwrap();
    let entries = 400;
    for n in 0..entries {
        store.resolve(&source(n)).unwrap();
    }
    let (done, rounds) = (AtomicBool::new(false), AtomicU64::new(0));
    let backups = std::thread::scope(|scope| {
        let worker = scope.spawn(|| {
            let mut dice = Dice(5);
            while !done.load(Ordering::Relaxed) {
                let key = key(dice.roll(entries));
                let turn = Usage { input_tokens: 1, output_tokens: 2, total_tokens: 3, ..Usage::ZERO };
                store.record_usage(&key, &turn).unwrap().unwrap();
                let round = rounds.fetch_add(1, Ordering::Relaxed);
                let text = format!("{round}-").repeat(dice.roll(2000));
                let metadata = json!({"n": round, "text": text});
                store.set_metadata(&key, metadata.as_object().unwrap()).unwrap().unwrap();
                store
                    .update(&key, |details| details.display_name = Some("n".repeat(dice.roll(6000))))
                    .unwrap()
                    .unwrap();
                // One that comes and goes.
                let passing = source(entries + dice.roll(50));
                let entry = store.resolve(&passing).unwrap().entry;
                store.remove(&entry.key).unwrap();
            }
        });
        let mut backups = Vec::new();
        while backups.len() < 8 || rounds.load(Ordering::Relaxed) <= 20 && !worker.is_finished() {
            let mut file = Vec::new();
            store.backup(&mut file, |_| {}).unwrap();
            backups.push(file);
        }
        done.store(true, Ordering::Relaxed);
        worker.join().unwrap();
        backups
    });
    for file in backups {
        let dir = fast_dir();
        restore(&dir.path().join("db"), &file).unwrap();
        let back = SessionStore::open(options(&dir.path().join("db"))).unwrap();
        assert_sound(&back);
        for n in 0..entries {
            let (entry, extras) = back.get_with_extras(&key(n)).unwrap().unwrap();
            let usage = entry.usage;
            assert_eq!((usage.output_tokens, usage.total_tokens), (2 * usage.input_tokens, 3 * usage.input_tokens));
            if let Some(metadata) = extras.value("metadata") {
                let (n, text) = (metadata["n"].as_u64().unwrap(), metadata["text"].as_str().unwrap());
                assert!(text.split_terminator('-').all(|part| part == n.to_string()));
            }
        }
    }
}

/// A note is many rows, and an import writes it anew while backups are taken.
#[test]
fn notes_are_whole_though_they_change_meanwhile() {
    let home = Home::new();
    let store = home.open();
    let import = |letter: &str| {
        let file = format!(r#"{{"_note": "{}"}}"#, letter.repeat(200_000));
        store.import(file.as_bytes(), ImportOptions::new().gateway(Gateway::Hermes), |_| {}).unwrap();
    };
    import("a");
    let done = AtomicBool::new(false);
    let backups: Vec<Vec<u8>> = std::thread::scope(|scope| {
        scope.spawn(|| {
            for letter in ["b", "c", "d", "e", "f"].iter().cycle() {
                import(letter);
                if done.load(Ordering::Relaxed) {
                    break;
                }
            }
        });
        let backups = (0..60).map(|_| {
            let mut file = Vec::new();
            store.backup(&mut file, |_| {}).unwrap();
            file
        });
        let backups = backups.collect();
        done.store(true, Ordering::Relaxed);
        backups
    });
    let mut letters = BTreeSet::new();
    for file in backups {
        let notes: Vec<&[u8]> = frames(&file).into_iter().filter(|frame| frame[0] == b'N').collect();
        let first = notes.first().expect("a note was there all the time");
        let letter = first[first.len() / 2];
        letters.insert(letter);
        let letters = notes.concat().iter().filter(|byte| **byte == letter).count();
        assert!((200_000..200_100).contains(&letters), "{letters} times {}", char::from(letter));
    }
    assert!(letters.len() > 1, "no note was replaced meanwhile");
}

/// A writer that looks how long the store could not be used: its output is as slow as can be.
#[test]
fn touches_go_on_while_the_output_is_stuck() {
    struct Stuck<'a>(&'a SessionStore, u64);
    impl io::Write for Stuck<'_> {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            // On the backup's own thread, in the middle of it: a lock held here would never be freed.
            for n in [1, 77, 299] {
                self.0.touch(&key(n)).unwrap().unwrap().wait().unwrap();
            }
            self.0.resolve(&source(1000 + self.1 as usize)).unwrap().receipt.wait().unwrap();
            self.1 += 1;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let home = Home::new();
    let store = home.open();
    for n in 0..300 {
        store.resolve(&source(n)).unwrap();
    }
    let mut output = Stuck(&store, 0);
    let report = store.backup(&mut output, |_| {}).unwrap();
    assert!(output.1 > 3 && report.entries >= 300, "{report:?}");
}

// Files that are no backup.

fn refused(file: &[u8]) -> Error {
    let dir = fast_dir();
    let path = dir.path().join("db");
    let error = restore(&path, file).unwrap_err();
    assert!(!path.exists(), "left something after {error:?}");
    error
}

/// Bytes of the beginning, of the end, and others: of each as many as `CLOAKROOM_FLIPS` says, or all there are.
fn places(bytes: usize, beginning: usize, dice: &mut Dice) -> Vec<usize> {
    let count = std::env::var("CLOAKROOM_FLIPS").map_or(40, |count| count.parse().unwrap());
    let of = |count: usize, all: usize| (0..all).step_by((all / count.max(1)).max(1));
    let (first, last) = (of(count, beginning), of(count, 60).map(|at| bytes - 1 - at));
    first.chain((0..count).map(|_| dice.roll(bytes))).chain(last).collect()
}

#[test]
fn no_flipped_byte_goes_unseen() {
    let (_, file) = filled(7);
    let mut dice = Dice(9);
    for at in places(file.len(), 200, &mut dice) {
        let mut bad = file.clone();
        bad[at] ^= 1 << dice.roll(8);
        match refused(&bad) {
            Error::NotABackup { .. } => assert!(at < 8, "{at}"),
            Error::DamagedBackup { byte, .. } => assert!(byte <= at as u64, "{at} is told as {byte}"),
            error => panic!("{at}: {error:?}"),
        }
    }
}

#[test]
fn no_lost_end_goes_unseen() {
    let (_, file) = filled(7);
    let mut dice = Dice(10);
    for length in places(file.len(), 64, &mut dice) {
        match refused(&file[..length]) {
            Error::NotABackup { .. } => assert_eq!(length, 0),
            Error::DamagedBackup { byte, .. } => assert!(byte <= length as u64),
            error => panic!("{length}: {error:?}"),
        }
    }
    let mut longer = file.clone();
    longer.push(0);
    let error = refused(&longer);
    assert!(chain(&error).contains(&format!("byte {}", file.len())) && chain(&error).contains("follows"), "{error:?}");
}

/// The frames of a backup, header first.
fn frames(file: &[u8]) -> Vec<&[u8]> {
    let (header, mut rest) = file.split_at(16);
    let mut frames = vec![header];
    while !rest.is_empty() {
        let length = u32::from_le_bytes(rest[1..5].try_into().unwrap()) as usize;
        let (frame, more) = rest.split_at(5 + length + 4);
        frames.push(frame);
        rest = more;
    }
    frames
}

#[test]
fn frames_that_are_missing_doubled_or_moved_are_seen() {
    let (expected, file) = filled(7);
    let whole = frames(&file);
    // Header, store, note, entries, end.
    assert_eq!(whole.len(), 4 + expected.0.len());
    for at in 1..whole.len() {
        let mut missing = whole.clone();
        missing.remove(at);
        assert!(matches!(refused(&missing.concat()), Error::DamagedBackup { .. }), "without {at}");
        let mut doubled = whole.clone();
        doubled.insert(at, whole[at]);
        assert!(matches!(refused(&doubled.concat()), Error::DamagedBackup { .. }), "twice {at}");
        if at > 1 {
            let mut moved = whole.clone();
            moved.swap(at - 1, at);
            assert!(matches!(refused(&moved.concat()), Error::DamagedBackup { .. }), "moved {at}");
        }
    }
    // Entries of another backup, which are whole as such.
    let (_, other) = filled(8);
    let mut mixed = whole.clone();
    let foreign = frames(&other);
    mixed[5] = foreign[5];
    if mixed[5] != whole[5] {
        assert!(matches!(refused(&mixed.concat()), Error::DamagedBackup { .. }));
    }
}

#[test]
fn what_is_no_backup_is_told() {
    let cases: [(&[u8], &str); 4] = [
        (b"", "not a backup: it is empty"),
        (b"{\"agent:main\": {}}", "not a backup: it does not begin as one"),
        (b"CLOAKBAK", "the backup is damaged at byte 0"),
        (&[0; 4096], "not a backup"),
    ];
    for (file, said) in cases {
        let error = refused(file);
        assert!(chain(&error).contains(said), "{}", chain(&error));
    }
    let of_version = |version: u8| {
        let (_, mut file) = filled(1);
        file[8] = version;
        let crc = crc32fast::hash(&file[..12]).to_le_bytes();
        file[12..16].copy_from_slice(&crc);
        refused(&file)
    };
    let newer = of_version(3);
    assert!(matches!(newer, Error::NewerBackup { found: 3, supported: 2 }), "{newer:?}");
    let older = of_version(1);
    assert!(matches!(older, Error::OlderBackup { found: 1, supported: 2 }), "{older:?}");
}

#[test]
fn a_file_that_fails_to_read_leaves_nothing() {
    struct Failing(Cursor<Vec<u8>>);
    impl io::Read for Failing {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            match io::Read::read(&mut self.0, buffer)? {
                0 => Err(io::Error::other("the medium is bad")),
                read => Ok(read),
            }
        }
    }
    let (_, file) = filled(7);
    let dir = fast_dir();
    let path = dir.path().join("db");
    let input = Failing(Cursor::new(file[..file.len() - 100].to_vec()));
    let error = SessionStore::restore(options(&path), input, |_| {}).unwrap_err();
    assert!(matches!(error, Error::Io { .. }) && chain(&error).contains("the medium is bad"), "{error:?}");
    assert!(!path.exists());
}

// Where it is restored to.

#[test]
fn a_store_that_is_there_stays() {
    let (_, file) = filled(3);
    let home = Home::new();
    let store = home.open();
    store.resolve(&source(900)).unwrap();
    let expected = everything(&store);
    for closed in [false, true] {
        if closed {
            store.close().unwrap();
        }
        let error = restore(&home.path(), &file).unwrap_err();
        assert!(matches!(&error, Error::StoreExists { path } if *path == home.path()), "{error:?}");
    }
    drop(store);
    look(&home.path(), &expected);
    // So does one that a compaction had set aside.
    fs::rename(home.path().join("sled"), home.path().join("sled.old-1")).unwrap();
    assert!(matches!(restore(&home.path(), &file), Err(Error::StoreExists { .. })));
    // And what is no store.
    let dir = fast_dir();
    fs::write(dir.path().join("notes.txt"), "mine").unwrap();
    assert!(matches!(restore(dir.path(), &file), Err(Error::NotAStore { .. })));
    assert!(matches!(restore(&dir.path().join("notes.txt"), &file), Err(Error::NotAStore { .. })));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn an_empty_directory_is_no_obstacle_and_what_is_left_of_a_store_is() {
    let (expected, file) = filled(3);
    let home = Home::new();
    let store = home.open();
    for n in 0..60 {
        store.resolve(&source(n)).unwrap().receipt.wait().unwrap();
    }
    store.close().unwrap();
    drop(store);
    // Somebody has removed the database.
    fs::remove_dir_all(home.path().join("sled")).unwrap();
    let there = || fs::read_dir(home.path()).unwrap().count();
    let before = there();
    let error = restore(&home.path(), &file).unwrap_err();
    assert!(chain(&error).contains("60 entries had been synced"), "{}", chain(&error));
    assert_eq!(there(), before, "what was there stays");
    for name in ["state", "ballast", "LOCK"] {
        fs::remove_file(home.path().join(name)).unwrap();
    }
    let mut bad = file.clone();
    bad[300] ^= 1;
    restore(&home.path(), &bad).unwrap_err();
    assert_eq!(there(), 1, "the lock file");
    restore(&home.path(), &file).unwrap();
    look(&home.path(), &expected);
}

// Into a file.

#[test]
fn a_file_is_replaced_only_when_asked_and_is_private() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let home = Home::new();
    let store = home.open();
    store.resolve(&source(1)).unwrap();
    let dir = fast_dir();
    let (path, link, target) = (dir.path().join("backup"), dir.path().join("link"), dir.path().join("target"));
    let report = store.backup_to_file(&path, BackupOptions::new(), |_| {}).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().len(), report.bytes);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let error = store.backup_to_file(&path, BackupOptions::new(), |_| {}).unwrap_err();
    assert!(matches!(error, Error::Exists { .. }), "{error:?}");
    fs::write(&target, "mine").unwrap();
    symlink(&target, &link).unwrap();
    assert!(matches!(store.backup_to_file(&link, BackupOptions::new(), |_| {}), Err(Error::Exists { .. })));
    store.backup_to_file(&link, BackupOptions::new().force(true), |_| {}).unwrap();
    assert!(fs::read(&target).unwrap().starts_with(b"CLOAKBAK"));
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(fs::metadata(&target).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3);
}

#[test]
fn a_damaged_entry_is_no_part_of_a_backup() {
    let home = Home::new();
    let store = home.open();
    store.resolve(&source(1)).unwrap();
    store.close().unwrap();
    drop(store);
    {
        let db = open_sled(&sled::Config::new().path(home.path().join("sled"))).unwrap();
        db.open_tree("sessions").unwrap().insert(key(1).as_str(), b"nonsense").unwrap();
        db.flush().unwrap();
    }
    let store = home.open();
    let path = home.path().with_file_name("backup");
    let error = store.backup_to_file(&path, BackupOptions::new(), |_| {}).unwrap_err();
    assert!(matches!(error, Error::DamagedRecord { .. }), "{error:?}");
    assert!(!chain(&error).contains("u1") && !path.exists(), "{}", chain(&error));
}

// Crashes.

/// Whatever is there: no store, and then a restoration works; or the whole one.
fn nothing_or_all(path: &Path, file: &[u8], expected: &Everything) -> bool {
    let there = match SessionStore::open(options(path).create(false)) {
        Ok(_) => true,
        Err(Error::NotFound { .. } | Error::NotAStore { .. }) => false,
        Err(error) => panic!("{}", chain(&error)),
    };
    if !there {
        restore(path, file).unwrap();
    }
    look(path, expected);
    there
}

#[test]
fn a_kill_at_any_call_of_a_restoration_leaves_no_store_or_all_of_it() {
    let (expected, file) = filled(12);
    let (mut calls, mut there) = (0, 0);
    for at in 1.. {
        let rig = Rig::new();
        fs::write(rig.root().join("backup"), &file).unwrap();
        let mut child = rig.child(MAIN, "restore");
        let ended = child.kill_at(at).output().unwrap().status.success();
        there += u64::from(nothing_or_all(&rig.root().join("sessions.db"), &file, &expected));
        if ended {
            break;
        }
        calls = at;
    }
    println!("killed at each of {calls} calls; the store was there after {there}");
    assert!(calls > 15 && there > 1 && there < calls / 2, "{calls}, {there}");
}

#[test]
fn a_power_cut_during_a_restoration_leaves_no_store_or_all_of_it() {
    let (expected, file) = filled(12);
    let rig = Rig::new();
    fs::write(rig.root().join("backup"), &file).unwrap();
    assert!(rig.child(MAIN, "restore").status().unwrap().success());
    let trace = rig.trace();
    assert_trace_is_complete(&rig, &trace);
    let done = (0..=trace.len()).find(|at| !trace.acks_before(*at).is_empty()).unwrap();
    let mut model = Model::new(&trace);
    for at in 0..=trace.len() {
        model.advance(at);
        for survival in [Survival::OnlySynced, Survival::Random { seed: at as u64 }] {
            let out = fast_dir();
            model.write(survival, out.path()).unwrap();
            let there = nothing_or_all(&out.path().join("sessions.db"), &file, &expected);
            assert!(there || at < done, "told, but lost in a cut at {at} of {}, {survival:?}", trace.len());
        }
    }
}

#[test]
fn a_full_disk_leaves_no_store() {
    let (expected, file) = filled(12);
    let mut full = 0;
    for at in 1.. {
        let rig = Rig::new();
        fs::write(rig.root().join("backup"), &file).unwrap();
        let mut child = rig.child(MAIN, "restore");
        child.fail(&Failure { at, errno: 28, kinds: "write", mode: "forever" });
        let output = child.output().unwrap();
        assert!(output.status.success(), "{at}: {}", String::from_utf8_lossy(&output.stderr));
        let said = fs::read_to_string(rig.root().join("acks")).unwrap();
        println!("write {at}: {}", said.trim_end());
        let path = rig.root().join("sessions.db");
        if said.starts_with("done") {
            look(&path, &expected);
            break;
        }
        full += 1;
        assert!(said.starts_with("DiskFull") || said.contains("No space left"), "write {at}: {said}");
        assert!(!path.exists(), "write {at}");
    }
    assert!(full > 3, "only {full} failed");
}

#[test]
fn a_full_disk_leaves_the_backup_that_was_there() {
    let base = fast_dir();
    let expected = fill(&base.path().join("db"), 60);
    let mut full = 0;
    for at in 1.. {
        let rig = Rig::new();
        let path = rig.root().join("sessions.db");
        crate::rig::copy_tree(&base.path().join("db"), &path).unwrap();
        fs::write(rig.root().join("backup"), "the last one").unwrap();
        let mut child = rig.child(MAIN, "backup");
        child.fail(&Failure { at, errno: 28, kinds: "write", mode: "forever" });
        assert!(child.output().unwrap().status.success());
        let said = fs::read_to_string(rig.root().join("acks")).unwrap();
        let backup = fs::read(rig.root().join("backup")).unwrap();
        if said.starts_with("done") {
            let dir = fast_dir();
            restore(&dir.path().join("db"), &backup).unwrap();
            look(&dir.path().join("db"), &expected);
            break;
        }
        full += 1;
        assert!(said.starts_with("DiskFull") || said.contains("No space left"), "write {at}: {said}");
        assert_eq!(backup, b"the last one");
        let left: Vec<_> = fs::read_dir(rig.root()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left.len(), 3, "{left:?}");
        let store = SessionStore::open(options(&path)).unwrap();
        assert!(everything(&store) == expected);
    }
    assert!(full > 3, "only {full} failed");
}

#[test]
fn settings_that_cannot_work_are_refused() {
    let (_, file) = filled(1);
    let home = Home::new();
    let options: Options = home.options().cache_bytes(1000).clock(ManualClock::new(NOW));
    assert!(matches!(SessionStore::restore(options.clone(), &*file, |_| {}), Err(Error::Setting { .. })));
    assert!(matches!(SessionStore::compact(options, |_| {}), Err(Error::Setting { .. })));
    assert!(!home.path().exists());
}
