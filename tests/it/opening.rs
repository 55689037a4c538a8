//! What an opening does about a store that is not as it was left: parts that are missing, a count that is wrong, writes that
//! may not be on disk; and about machines that are not as usual: links, limits, and a clock before 1970.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use cloakroom::backup::BackupOptions;
use cloakroom::import::ImportOptions;
use cloakroom::query::Filter;
use cloakroom::report::RepairReport;
use cloakroom::time::{Clock, SystemClock};
use cloakroom::{Error, PrunePolicy, SessionKey, SessionStore, Timestamp};
use serde_json::{Map, Value};

use crate::behind::open_sled;
use crate::common::{Home, assert_sound, chain, fast_dir, key, options, source};
use crate::rig::{CHILD_PART, CHILD_ROOT, Inject, Rig, copy_tree};

const MAIN: &str = "opening::child_main";

#[test]
fn child_main() {
    let (Ok(part), Ok(root)) = (std::env::var(CHILD_PART), std::env::var(CHILD_ROOT)) else {
        return;
    };
    let path = Path::new(&root).join("sessions.db");
    match part.as_str() {
        "limited" => limited(&path),
        "long ago" => long_ago(&path),
        "work" => {
            let store = SessionStore::open(options(&path)).unwrap();
            for n in 0..50 {
                store.touch(&key(n)).unwrap();
                store.resolve(&source(100_000 + n)).unwrap().receipt.wait().unwrap();
            }
        }
        _ => panic!("unknown part {part}"),
    }
}

fn reopened(path: &Path) -> SessionStore {
    SessionStore::open(options(path).create(false)).unwrap_or_else(|error| panic!("{}", chain(&error)))
}

fn fill(path: &Path, entries: usize) -> SessionStore {
    let store = SessionStore::open(options(path)).unwrap();
    for n in 0..entries {
        store.resolve(&source(n)).unwrap();
    }
    store.flush().unwrap();
    store
}

// The count.

const COUNTED: &str = "counted the entries anew";

/// Changes what the database says of the number of entries. `bytes` is as a store with other entries has it.
fn set_count(store: &Path, bytes: Option<&[u8]>) {
    let db = open_sled(&sled::Config::new().path(store.join("sled"))).unwrap();
    let meta = db.open_tree("meta").unwrap();
    match bytes {
        Some(bytes) => meta.insert("count", bytes).unwrap(),
        None => meta.remove("count").unwrap(),
    };
    db.flush().unwrap();
}

fn count_of(entries: usize) -> Vec<u8> {
    let dir = fast_dir();
    fill(&dir.path().join("db"), entries).close().unwrap();
    let db = open_sled(&sled::Config::new().path(dir.path().join("db/sled"))).unwrap();
    db.open_tree("meta").unwrap().get("count").unwrap().unwrap().to_vec()
}

/// Nothing is taken for far too many.
fn removes_none_by_a_cap(store: &SessionStore, entries: u64) {
    assert_eq!(store.len(), entries);
    assert_eq!(store.stats().unwrap().entries, entries);
    let report = store.prune(&PrunePolicy::max_age_days(0).max_entries(100_000), |_: &SessionKey| false).unwrap();
    assert_eq!(report.removed, 0);
    assert_eq!(store.iter(Filter::default()).unwrap().count() as u64, entries);
}

#[test]
fn a_count_that_cannot_be_trusted_is_counted_anew() {
    let [one, twenty] = [1, 20].map(count_of);
    let faults: [(&str, Option<&[u8]>); 4] =
        [("missing", None), ("too low", Some(&one)), ("too high", Some(&twenty)), ("unreadable", Some(b"\xff\xff"))];
    for (fault, bytes) in faults {
        for is_closed in [true, false] {
            let dir = fast_dir();
            let path = dir.path().join("db");
            let store = fill(&dir.path().join("at first"), 9);
            if is_closed {
                store.close().unwrap();
                drop(store);
                copy_tree(&dir.path().join("at first"), &path).unwrap();
            } else {
                copy_tree(&dir.path().join("at first"), &path).unwrap();
                drop(store);
            }
            set_count(&path, bytes);
            let store = reopened(&path);
            let repairs = store.open_report().repairs.join(", ");
            let told = format!("{COUNTED}: there are 9");
            assert!(repairs.contains(&told), "{fault}, closed {is_closed}: {repairs}");
            store.remove(&key(0)).unwrap().unwrap();
            removes_none_by_a_cap(&store, 8);
            assert_sound(&store);
            store.close().unwrap();
            drop(store);
            let store = reopened(&path);
            assert_eq!(store.open_report().repairs, [""; 0], "{fault}");
            removes_none_by_a_cap(&store, 8);
        }
    }
}

/// A count that nothing speaks against is seen to be wrong when more entries go than there should be.
#[test]
fn a_count_never_wraps_and_is_counted_anew_by_the_next_opening() {
    let one = count_of(1);
    let dir = fast_dir();
    let path = dir.path().join("db");
    let store = fill(&path, 0);
    let earlier = fs::read(path.join("state")).unwrap();
    for n in 0..9 {
        store.resolve(&source(n)).unwrap();
    }
    store.close().unwrap();
    drop(store);
    set_count(&path, Some(&one));
    fs::write(path.join("state"), earlier).unwrap();
    let store = reopened(&path);
    assert_eq!(store.len(), 1, "nothing speaks against it");
    for n in 0..3 {
        store.remove(&key(n)).unwrap().unwrap();
        store.flush().unwrap();
        removes_none(&store);
    }
    store.resolve(&source(0)).unwrap();
    store.close().unwrap();
    drop(store);
    let store = reopened(&path);
    let repairs = store.open_report().repairs.join(", ");
    assert!(repairs.contains(&format!("{COUNTED}: there are 7")), "{repairs}");
    removes_none_by_a_cap(&store, 7);
    assert_sound(&store);
}

fn removes_none(store: &SessionStore) {
    assert!(store.len() <= 1, "{}", store.len());
    let report = store.prune(&PrunePolicy::max_age_days(0).max_entries(100_000), |_: &SessionKey| false).unwrap();
    assert_eq!(report.removed, 0);
}

// Parts that are missing.

/// By their place in the store, those of sled first. A snapshot's name is its own.
const PARTS: [&str; 7] = ["sled/conf", "sled/db", "sled/blobs", "sled/snap.", "state", "LOCK", "ballast"];
const ENTRIES: usize = 5;

struct Whole {
    files: BTreeMap<PathBuf, Vec<u8>>,
    backup: Vec<u8>,
}

impl Whole {
    fn new() -> Self {
        let dir = fast_dir();
        let path = dir.path().join("db");
        fill(&path, ENTRIES).close().unwrap();
        // So that there is a snapshot.
        let store = reopened(&path);
        let mut backup = Vec::new();
        store.backup(&mut backup, |_| {}).unwrap();
        store.close().unwrap();
        drop(store);
        let mut files = files_below(&path);
        files.insert("LOCK".into(), fs::read(path.join("LOCK")).unwrap());
        for part in PARTS {
            assert!(part == "sled/blobs" || files.keys().any(|file| is_part(file, part)), "{part}");
        }
        Self { files, backup }
    }

    fn without(&self, missing: &[&str], has_sled: bool) -> tempfile::TempDir {
        let dir = fast_dir();
        let path = dir.path().join("db");
        fs::create_dir(&path).unwrap();
        if has_sled {
            fs::create_dir(path.join("sled")).unwrap();
            if !missing.contains(&"sled/blobs") {
                fs::create_dir(path.join("sled/blobs")).unwrap();
            }
        }
        for (file, content) in &self.files {
            let is_missing = missing.iter().any(|part| is_part(file, part)) || (!has_sled && file.starts_with("sled"));
            if is_missing {
                continue;
            }
            if file == Path::new("ballast") {
                // Its size is what counts.
                fs::File::create(path.join(file)).unwrap().set_len(content.len() as u64).unwrap();
            } else {
                fs::write(path.join(file), content).unwrap();
            }
        }
        dir
    }
}

fn is_part(file: &Path, part: &str) -> bool {
    file.to_str().unwrap().starts_with(part)
}

fn files_below(path: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    fn collect(root: &Path, dir: &Path, files: &mut BTreeMap<PathBuf, Vec<u8>>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                collect(root, &path, files);
            } else {
                files.insert(path.strip_prefix(root).unwrap().to_path_buf(), fs::read(&path).unwrap());
            }
        }
    }
    let mut files = BTreeMap::new();
    collect(path, path, &mut files);
    // Taking the lock writes there.
    files.remove(Path::new("LOCK"));
    files
}

/// What a verb makes of a store: how many entries there are then.
type Verb = fn(&Path, &Whole) -> Result<u64, Error>;

const VERBS: [(&str, Verb); 7] = [
    ("open", |path, _| Ok(SessionStore::open(options(path).create(false))?.len())),
    ("open or create", |path, _| Ok(SessionStore::open(options(path))?.len())),
    ("create", |path, _| {
        let file = r#"{"agent:main:discord:dm:1": {"session_id": "s", "created_at": "2026-06-12T00:06:53Z",
            "updated_at": "2026-06-12T00:06:53Z"}}"#;
        Ok(SessionStore::create_from(options(path), file.as_bytes(), ImportOptions::new(), |_| {})?.imported)
    }),
    ("create, dry", |path, _| {
        let import = ImportOptions::new().dry_run(true);
        Ok(SessionStore::create_from(options(path), &b"{}"[..], import, |_| {})?.imported)
    }),
    ("restore", |path, whole| Ok(SessionStore::restore(options(path), whole.backup.as_slice(), |_| {})?.entries)),
    ("compact", |path, _| Ok(SessionStore::compact(options(path), |_| {})?.entries)),
    ("repair", |path, _| Ok(SessionStore::repair(options(path), path.with_extension("bad"))?.repairs.entries)),
];

#[test]
fn a_part_that_is_missing_is_told_and_nothing_is_made_in_its_place() {
    let whole = Whole::new();
    let mut told = 0;
    for has_sled in [true, false] {
        for missing in 0..1_u32 << PARTS.len() {
            let missing: Vec<&str> =
                (0..).zip(PARTS).filter(|(n, _)| missing >> n & 1 == 1).map(|(_, part)| part).collect();
            if !has_sled && missing.iter().any(|part| part.starts_with("sled/")) {
                continue;
            }
            for (verb, run) in VERBS {
                let case = format!("{verb} without {missing:?}{}", if has_sled { "" } else { " and sled" });
                let dir = whole.without(&missing, has_sled);
                let path = dir.path().join("db");
                let is_missing = |part: &str| missing.contains(&part);
                let is_gone = !has_sled || is_missing("sled/conf") || is_missing("sled/db");
                let is_empty = !has_sled && ["state", "LOCK", "ballast"].iter().all(|part| is_missing(part));
                // Only the lock file, which may be of a creation that was cut short.
                let is_lock_alone = !has_sled && is_missing("state") && is_missing("ballast");
                let makes = verb.starts_with("create") || verb == "restore";
                let before = files_below(&path);
                let done = run(&path, &whole);
                if is_empty || (is_lock_alone && matches!(verb, "open" | "compact" | "repair" | "create, dry")) {
                    match verb {
                        "open" | "compact" | "repair" => {
                            assert!(matches!(done, Err(Error::NotAStore { .. })), "{case}")
                        }
                        "open or create" => assert_eq!(done.unwrap(), 0, "{case}"),
                        _ => drop(done.unwrap()),
                    }
                    continue;
                }
                let is_damaged = is_gone || (is_missing("state") && verb != "repair");
                match done {
                    Err(Error::StoreExists { .. }) if makes && has_sled => {}
                    Err(error @ Error::Damaged { .. }) if is_damaged => {
                        let text = chain(&error);
                        if is_gone && !is_missing("state") {
                            assert!(text.contains(&format!("{ENTRIES} entries had been synced")), "{case}: {text}");
                        }
                        told += 1;
                    }
                    Ok(entries) if !is_damaged && !makes => {
                        assert_eq!(entries, ENTRIES as u64, "{case}");
                        let store = reopened(&path);
                        assert_sound(&store);
                        assert_eq!(store.len(), ENTRIES as u64);
                        continue;
                    }
                    other => panic!("{case}: {other:?}"),
                }
                assert!(files_below(&path) == before, "{case}: changed");
            }
        }
    }
    println!("{told} told");
    assert!(told > 400, "only {told}");
}

#[test]
fn a_state_file_that_does_not_decode_is_told_and_a_repair_makes_it_anew() {
    let whole = Whole::new();
    let good = &whole.files[Path::new("state")];
    let torn = |at: &[usize]| {
        let mut bytes = good.clone();
        at.iter().for_each(|at| bytes[*at] ^= 1);
        bytes
    };
    let (one, both, garbage) = (torn(&[9]), torn(&[9, 512 + 33]), vec![0xff; 1024]);
    for (bytes, is_damaged) in [(&one, false), (&both, true), (&garbage, true)] {
        let dir = whole.without(&[], true);
        let path = dir.path().join("db");
        fs::write(path.join("state"), bytes).unwrap();
        if is_damaged {
            let error = SessionStore::open(options(&path)).unwrap_err();
            assert!(chain(&error).contains("state") && matches!(error, Error::Damaged { .. }), "{error:?}");
            assert_eq!(fs::read(path.join("state")).unwrap(), *bytes);
            let RepairReport { repairs, opened: report, .. } =
                SessionStore::repair(options(&path), dir.path().join("bad")).unwrap();
            assert_eq!(repairs.entries, ENTRIES as u64);
            assert!(report.repairs.iter().any(|repair| repair.contains("state")), "{report:?}");
        }
        let store = reopened(&path);
        assert_sound(&store);
        assert_eq!((store.len(), store.open_report().shortfall), (ENTRIES as u64, None));
    }
}

/// What came before the database was under its name is no store.
#[test]
fn a_creation_that_was_cut_short_is_begun_again() {
    let mut calls = 0;
    for at in 1.. {
        let rig = Rig::new();
        let path = rig.root().join("sessions.db");
        let ended = rig.child(MAIN, "work").kill_at(at).output().unwrap().status.success();
        let was_there = path.join("sled").exists();
        let store = SessionStore::open(options(&path)).unwrap_or_else(|error| panic!("{at}: {}", chain(&error)));
        assert_eq!(store.open_report().created, !was_there, "{at}");
        if was_there || ended {
            break;
        }
        calls = at;
    }
    assert!(calls > 10, "{calls}");
}

// What may not be on disk.

/// A kill leaves the last writes in doubt, and no others.
#[test]
fn after_a_kill_only_what_was_written_since_the_last_sync_is_written_again() {
    let rig = Rig::new();
    let path = rig.root().join("sessions.db");
    let store = SessionStore::open(options(&path)).unwrap();
    for n in 0..1500 {
        store.resolve(&source(n)).unwrap();
        let text = Value::from("x".repeat(6000));
        store.set_metadata(&key(n), &Map::from_iter([("t".to_owned(), text)])).unwrap().unwrap();
    }
    store.close().unwrap();
    drop(store);
    let bytes = fs::metadata(path.join("sled/db")).unwrap().len();
    assert!(bytes > 12 << 20, "{bytes}");
    for kill in [60, 97, 134, 171, 208] {
        let output = rig.child(MAIN, "work").kill_at(kill).output().unwrap();
        assert!(output.status.signal().is_some(), "{kill}");
        let store = reopened(&path);
        let repairs = store.open_report().repairs.join(", ");
        println!("{kill}: {repairs}");
        let written = repairs.split_once("last sync on (").and_then(|(_, rest)| rest.split_once(" KiB)"));
        let written: u64 = written.unwrap_or_else(|| panic!("{kill}: {repairs}")).0.parse().unwrap();
        assert!(written <= 4 * 512 + 64, "{written} KiB of {} KiB", bytes >> 10);
        assert_sound(&store);
        store.close().unwrap();
    }
    assert_eq!(reopened(&path).open_report().repairs, [""; 0]);
}

// Links.

#[test]
fn a_database_behind_a_link_stays_where_it_is() {
    let home = Home::new();
    let other = fast_dir();
    let (path, link) = (home.path(), home.path().join("sled"));
    fill(&path, 300).close().unwrap();
    let away = other.path().join("of sessions");
    let files = || files_below(other.path());
    for move_away in ["sled", "sled/db"] {
        let (from, to) = (path.join(move_away), away.clone());
        fs::rename(&from, &to).unwrap();
        symlink(&to, &from).unwrap();
        let before = files();
        let error = SessionStore::compact(options(&path), |_| {}).unwrap_err();
        assert!(matches!(&error, Error::Elsewhere { path: found, .. } if *found == path), "{error:?}");
        assert!(error.to_string().contains(from.to_str().unwrap()), "{error}");
        assert!(files() == before);
        SessionStore::repair(options(&path), other.path().join("bad")).unwrap();
        // A kill: what is in doubt is written again over there.
        let store = reopened(&path);
        assert!(store.stats().unwrap().bytes_on_disk > 4_500_000, "{:?}", store.stats());
        store.touch(&key(1)).unwrap().unwrap().wait().unwrap();
        let copy = fast_dir();
        fs::copy(path.join("state"), copy.path().join("state")).unwrap();
        drop(store);
        fs::copy(copy.path().join("state"), path.join("state")).unwrap();
        let store = reopened(&path);
        assert!(store.open_report().repairs[0].contains("wrote the database over"), "{:?}", store.open_report());
        assert_sound(&store);
        drop(store);
        assert!(fs::symlink_metadata(&from).unwrap().is_symlink() && to.exists());
        // The disk is not mounted.
        fs::rename(&to, other.path().join("unmounted")).unwrap();
        for create in [false, true] {
            let error = SessionStore::open(options(&path).create(create)).unwrap_err();
            assert!(matches!(error, Error::Damaged { .. }), "{error:?}");
            if move_away == "sled" {
                let text = chain(&error);
                assert!(text.contains("is a link to") && text.contains("300 entries had been synced"), "{text}");
            }
        }
        assert!(!to.exists());
        fs::remove_file(&from).unwrap();
        fs::rename(other.path().join("unmounted"), &from).unwrap();
    }
    assert!(!fs::symlink_metadata(&link).unwrap().is_symlink());
    SessionStore::compact(options(&path), |_| {}).unwrap();
    assert_eq!(reopened(&path).len(), 300);
}

// Limits.

fn limited(path: &Path) {
    use rustix::process::{Resource, getrlimit, setrlimit};
    // Enough for the database, and not for the ballast.
    let limit = rustix::process::Rlimit { current: Some(3 << 20), ..getrlimit(Resource::Fsize) };
    setrlimit(Resource::Fsize, limit).unwrap();
    for _ in 0..2 {
        let store = SessionStore::open(options(path)).unwrap();
        let repairs = store.open_report().repairs.join(", ");
        assert!(repairs.contains("no space is kept for a full disk") && repairs.contains("ulimit"), "{repairs}");
        store.resolve(&source(1)).unwrap().receipt.wait().unwrap();
        store.close().unwrap();
    }
    assert!(!path.join("ballast").exists() && !path.join("ballast.new").exists());
}

/// A write beyond a limit on the size of files sends a signal that kills.
#[test]
fn a_limit_on_the_size_of_files_leaves_a_store_without_its_ballast() {
    let dir = fast_dir();
    // Without the rig, whose record is a file too.
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", MAIN, "--nocapture", "--test-threads=1"])
        .env(CHILD_PART, "limited")
        .env(CHILD_ROOT, dir.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}: {}", output.status, String::from_utf8_lossy(&output.stdout));
    let path = dir.path().join("sessions.db");
    assert_eq!(reopened(&path).len(), 1);
    assert!(path.join("ballast").exists());
}

// A clock before 1970.

/// From any year of this century to one before 1970.
const LONG_AGO: &str = "-4000000000";

fn long_ago(path: &Path) {
    assert_eq!(SystemClock::new().now(), Timestamp::MIN);
    for (verb, run) in VERBS {
        let error =
            run(path, &Whole { files: BTreeMap::new(), backup: fs::read(path.with_extension("backup")).unwrap() });
        let error = error.map_or_else(|error| chain(&error), |entries| panic!("{verb}: {entries}"));
        assert!(error.contains("1970") || error.contains("already"), "{verb}: {error}");
    }
    // Nothing is made that is then in the way.
    let new = path.with_extension("new");
    let error = SessionStore::open(options(&new)).unwrap_err();
    assert!(chain(&error).contains("1970") && !new.exists(), "{error:?}");
}

/// sled cannot be started then, and says so by a panic.
#[test]
fn a_clock_before_1970_is_told() {
    let rig = Rig::new();
    let path = rig.root().join("sessions.db");
    let store = fill(&path, 3);
    store.backup_to_file(path.with_extension("backup"), BackupOptions::new(), |_| {}).unwrap();
    store.close().unwrap();
    drop(store);
    let before = files_below(&path);
    let output = rig.child(MAIN, "long ago").env("SHIM_CLOCK", LONG_AGO).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert!(files_below(&path) == before);
    assert_sound(&reopened(&path));
}

#[cfg(feature = "cli")]
#[test]
fn the_program_tells_a_clock_before_1970() {
    let rig = Rig::new();
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/hermes/discord-threads.json");
    for args in
        [&["migrate", fixture.to_str().unwrap(), "--timezone", "Europe/Berlin"][..], &["list"], &["stats", "--json"]]
    {
        let mut command = rig.command(env!("CARGO_BIN_EXE_cloakroom"));
        command.current_dir(rig.root()).args(args).args(["--db", "db"]).env("SHIM_CLOCK", LONG_AGO);
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        let expected = if args[0] == "migrate" { "1970" } else { "no store" };
        assert!(
            output.status.code() == Some(1) && said.contains(expected) && !said.contains("bug"),
            "{args:?}: {said}"
        );
    }
}
