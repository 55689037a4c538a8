//! Bad input and failing disks: each its own error, with a message that names the path.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use cloakroom::{Error, SessionStore, Usage};

use crate::common::{Home, assert_sound, chain, key, options, source};
use crate::rig::{CHILD_PART, CHILD_ROOT, Failure, Inject, Rig};
use crate::rig_selftest::ack;

const MAIN: &str = "failures::child_main";
const ENOSPC: i32 = 28;
const EIO: i32 = 5;
const EACCES: i32 = 13;

#[test]
fn child_main() {
    let (Ok(part), Ok(root)) = (std::env::var(CHILD_PART), std::env::var(CHILD_ROOT)) else {
        return;
    };
    let root = PathBuf::from(root);
    match part.as_str() {
        "work" => work_until_failure(&root),
        "open" => {
            let result = SessionStore::open(options(&root.join("sessions.db")));
            ack(&root, &result.map_or_else(|error| format!("{error:?}"), |_| "opened".into()));
        }
        "hold" => {
            let _store = SessionStore::open(options(&root)).unwrap();
            println!("held");
            let _ = std::io::stdin().read(&mut [0]);
        }
        _ => panic!("unknown part {part}"),
    }
}

// Paths.

fn refused(path: &Path) -> Error {
    let error = SessionStore::open(options(path).create(false)).unwrap_err();
    assert!(error.to_string().contains(path.to_str().unwrap()), "{error} does not name {}", path.display());
    error
}

#[test]
fn a_missing_store_is_not_made() {
    let home = Home::new();
    let error = refused(&home.path());
    assert!(matches!(error, Error::NotFound { .. }), "{error:?}");
    assert!(!home.path().exists());
    // Nor is a directory above it.
    let below = home.path().join("below");
    let error = SessionStore::open(options(&below)).unwrap_err();
    assert!(matches!(&error, Error::Io { path, .. } if *path == below), "{error:?}");
    assert!(!home.path().exists());
}

#[test]
fn a_file_is_no_store() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("sessions.json");
    fs::write(&file, "{}").unwrap();
    for create in [false, true] {
        for path in [file.clone(), file.join("below")] {
            let error = SessionStore::open(options(&path).create(create)).unwrap_err();
            assert!(matches!(error, Error::NotAStore { .. }), "{error:?}");
            assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
        }
    }
    assert_eq!(fs::read(&file).unwrap(), b"{}");
}

#[test]
fn a_directory_of_other_things_is_no_store() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("notes.txt"), "mine").unwrap();
    for create in [false, true] {
        let error = SessionStore::open(options(dir.path()).create(create)).unwrap_err();
        assert!(matches!(error, Error::NotAStore { .. }), "{error:?}");
        assert!(error.to_string().contains("notes.txt"), "{error}");
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing was added");
}

#[test]
fn an_empty_directory_is_a_store_only_when_asked() {
    let dir = tempfile::tempdir().unwrap();
    let error = refused(dir.path());
    assert!(matches!(error, Error::NotAStore { .. }), "{error:?}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    let store = SessionStore::open(options(dir.path())).unwrap();
    assert!(store.open_report().created);
}

#[test]
fn settings_that_cannot_work_are_refused() {
    let home = Home::new();
    let day = std::time::Duration::from_secs(86_400);
    for (options, name) in [
        (home.options().max_pending(1), "max_pending"),
        (home.options().commit_interval(day), "commit_interval"),
        (home.options().cache_bytes(1000), "cache_bytes"),
    ] {
        let error = SessionStore::open(options).unwrap_err();
        assert!(matches!(&error, Error::Setting { setting, .. } if *setting == name), "{error:?}");
        assert!(error.to_string().contains(name));
    }
    assert!(!home.path().exists());
}

#[test]
fn extras_beyond_the_limit_are_refused() {
    let home = Home::new();
    let store = home.open();
    store.resolve(&source(1)).unwrap();
    let large = |bytes: usize| serde_json::Map::from_iter([("text".to_owned(), "x".repeat(bytes).into())]);
    let error = store.set_metadata(&key(1), &large(1 << 20)).unwrap_err();
    assert!(matches!(&error, Error::TooLarge { key: of, .. } if *of == key(1)), "{error:?}");
    assert!(!error.to_string().contains("c1"), "{error}");
    assert_eq!(store.get(&key(1)).unwrap().unwrap().extras_bytes, 0);
    store.set_metadata(&key(1), &large((1 << 20) - 100)).unwrap().unwrap().wait().unwrap();
    assert_sound(&store);
}

// Two openers.

#[test]
fn a_second_opener_in_this_process_is_refused() {
    let home = Home::new();
    let store = home.open();
    let error = refused(&home.path());
    let me = format!("process {} on {}", std::process::id(), rustix::system::uname().nodename().to_str().unwrap());
    assert!(matches!(&error, Error::Locked { holder: Some(holder), .. } if *holder == me), "{error:?}");
    assert!(error.to_string().contains(&me), "{error}");
    // Closed is not dropped: the store still reads.
    store.close().unwrap();
    assert!(matches!(refused(&home.path()), Error::Locked { .. }));
    drop(store);
    home.open();
}

#[test]
fn a_second_opener_in_another_process_is_refused() {
    let home = Home::new();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", MAIN, "--nocapture", "--test-threads=1"])
        .env(CHILD_PART, "hold")
        .env(CHILD_ROOT, home.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let output = BufReader::new(child.stdout.take().unwrap());
    assert!(output.lines().any(|line| line.unwrap().contains("held")));
    let error = refused(&home.path());
    let holder = format!("process {} on ", child.id());
    let Error::Locked { holder: Some(found), this_process: false, .. } = &error else { panic!("{error:?}") };
    assert!(found.starts_with(&holder), "{error:?}");
    assert!(error.to_string().contains(&holder) && !error.to_string().contains("open_shared"), "{error}");
    child.stdin.take().unwrap().write_all(b".").unwrap();
    child.wait().unwrap();
    // A lock that nobody holds is no lock, whatever the file says.
    home.open();
}

// Permissions.

#[test]
fn no_permission_is_told_with_the_path() {
    let mut denied = 0;
    for at in 1..=40 {
        let rig = Rig::new();
        let mut child = rig.child(MAIN, "open");
        child.fail(&Failure { at, errno: EACCES, kinds: "open", mode: "once" });
        let output = child.output().unwrap();
        assert!(output.status.success(), "{at}: {}", String::from_utf8_lossy(&output.stderr));
        let said = fs::read_to_string(rig.root().join("acks")).unwrap();
        if said.trim_end() == "opened" {
            continue;
        }
        denied += 1;
        let named = said.contains("/root") || said.contains("the database");
        assert!(said.starts_with("PermissionDenied") && named, "open {at}: {said}");
        // It was once: the next opening goes on from what there is.
        let store = SessionStore::open(options(&rig.root().join("sessions.db"))).unwrap();
        assert_sound(&store);
    }
    assert!(denied > 10, "only {denied} of the opens were seen");
}

#[test]
fn a_directory_without_permission_is_refused() {
    let home = Home::new();
    drop(home.open());
    fs::set_permissions(home.path(), fs::Permissions::from_mode(0o000)).unwrap();
    if fs::read_dir(home.path()).is_ok() {
        println!("skipped: this user may read everything");
    } else {
        assert!(matches!(refused(&home.path()), Error::PermissionDenied { .. }));
    }
    fs::set_permissions(home.path(), fs::Permissions::from_mode(0o700)).unwrap();
}

// Failing disks.

/// A leaf of sled's holds no more.
const LEAF: usize = 16;

/// Creates entries and awaits each until that fails. Then the store must still read, and promise nothing more.
fn work_until_failure(root: &Path) {
    let store = match SessionStore::open(options(&root.join("sessions.db"))) {
        Ok(store) => store,
        Err(error) => {
            ack(root, &format!("no store: {error:?}"));
            std::process::exit(0);
        }
    };
    let mut told = 0;
    let failure = loop {
        if told == 400 {
            ack(root, "no failure");
            std::process::exit(0);
        }
        let awaited = store.resolve(&source(told)).and_then(|found| found.receipt.wait());
        match awaited {
            Ok(()) => ack(root, &format!("told {told}")),
            Err(error) => break error,
        }
        told += 1;
    };
    let Error::ReadOnly { failure, path } = &failure else { panic!("{failure:?}") };
    assert_eq!(*path, root.join("sessions.db"));
    assert!(Error::ReadOnly { failure: failure.clone(), path: path.clone() }.to_string().contains("sessions.db"));
    let kind = match &**failure {
        Error::DiskFull { .. } => "full",
        Error::Io { .. } => "io",
        _ => "other",
    };
    // Everything that was answered can be read. sled may have left a node half split, the root of a small tree even: reading what
    // is below it is a write, and fails.
    let mut unread = 0;
    for n in 0..told {
        match store.get(&key(n)) {
            Ok(found) => assert!(found.is_some(), "{n}"),
            Err(Error::DiskFull { .. } | Error::Io { .. }) => unread += 1,
            Err(error) => panic!("{n}: {error:?}"),
        }
    }
    assert!(unread <= LEAF || unread < told / 2, "{unread} of {told} do not read");
    // Nothing is taken or promised any more, and nobody hangs.
    let refused = [
        store.resolve(&source(9000)).map(drop),
        store.touch(&key(0)).map(drop),
        store.record_usage(&key(0), &Usage::ZERO).map(drop),
        store.remove(&key(0)).map(drop),
        store.flush(),
        store.close(),
        store.clone().close(),
    ];
    for (n, result) in refused.into_iter().enumerate() {
        // An entry that was never there may be answered as such.
        assert!(matches!(result, Err(Error::ReadOnly { .. })), "{n}: {result:?}");
    }
    drop(store);
    ack(root, &format!("{kind}: {}; {unread} of {told} do not read", chain(failure)));
    std::process::exit(0);
}

/// Lets the `at`-th call fail and answers what the child said of it. Afterwards everything told is there.
fn fail_at(failure: &Failure) -> String {
    let rig = Rig::new();
    let mut child = rig.child(MAIN, "work");
    let output = child.fail(failure).output().unwrap();
    let at = failure.at;
    assert!(output.status.success(), "{at}: {}", String::from_utf8_lossy(&output.stderr));
    let acks = fs::read_to_string(rig.root().join("acks")).unwrap();
    let told: Vec<usize> = acks.lines().filter_map(|line| line.strip_prefix("told ")?.parse().ok()).collect();
    let said = acks.lines().last().unwrap().to_owned();
    let store = SessionStore::open(options(&rig.root().join("sessions.db")))
        .unwrap_or_else(|error| panic!("{at}, {said}: {}", chain(&error)));
    assert_eq!(store.open_report().shortfall, None);
    assert_sound(&store);
    for n in told {
        assert!(store.get(&key(n)).unwrap().is_some(), "{at}: {n} was told");
    }
    store.resolve(&source(0)).unwrap().receipt.wait().unwrap();
    println!("call {at}: {said}");
    said
}

#[test]
fn a_full_disk_makes_the_store_read_only() {
    let mut full = 0;
    for at in [1, 4, 9, 15, 25, 40, 60, 90, 130, 200] {
        for mode in ["forever", "short"] {
            let said = fail_at(&Failure { at, errno: ENOSPC, kinds: "write", mode });
            if let Some(error) = said.strip_prefix("no store: ") {
                assert!(error.starts_with("DiskFull"), "write {at}, {mode}: {said}");
            } else {
                full += 1;
                assert!(said.starts_with("full: no space left"), "write {at}, {mode}: {said}");
            }
        }
    }
    assert!(full > 6, "only {full} failed after the opening");
}

#[test]
fn a_failed_sync_makes_the_store_read_only() {
    let (mut failed, mut ballast) = (0, 0);
    // One is that of the ballast, which a store does without: the twentieth or so.
    for at in [1, 3, 8, 14, 21, 27, 28, 29, 30, 31, 50, 51, 52, 53, 150, 151] {
        let said = fail_at(&Failure { at, errno: EIO, kinds: "sync", mode: "once" });
        if said.starts_with("io: ") {
            failed += 1;
        } else if said == "no failure" {
            ballast += 1;
        } else {
            let known = ["no store: Io", "no store: Damaged", "no store: Engine"].iter().any(|it| said.starts_with(it));
            assert!(known, "sync {at}: {said}");
        }
    }
    assert!(failed > 6 && ballast <= 1, "{failed} failed after the opening, and {ballast} did not");
}
