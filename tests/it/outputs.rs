//! Where a backup or an export goes: a file, whole or not at all, on whatever mount; or a pipe or a device.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use cloakroom::backup::BackupOptions;
use cloakroom::export::{ExportFormat, ExportOptions};
use cloakroom::{Error, SessionStore};

use crate::common::{Home, chain, fast_dir, options, source};
use crate::rig::{CHILD_PART, CHILD_ROOT, Failure, Inject, Rig};

const MAIN: &str = "outputs::child_main";
const EPERM: i32 = 1;
const EIO: i32 = 5;
const EBUSY: i32 = 16;
const EINVAL: i32 = 22;
const ENOSPC: i32 = 28;
const EOPNOTSUPP: i32 = 95;

/// Writes a backup and an export, of a store that is elsewhere.
#[test]
fn child_main() {
    let (Ok(part), Ok(root)) = (std::env::var(CHILD_PART), std::env::var(CHILD_ROOT)) else {
        return;
    };
    let (_home, store) = filled();
    let root = PathBuf::from(root);
    let force = part == "force";
    let backup = store.backup_to_file(root.join("backup"), BackupOptions::new().force(force), |_| {});
    println!("END backup {}", backup.map_or_else(|error| chain(&error), |_| "done".into()));
    let export = store.export_to_file(root.join("export"), &lines().force(force));
    println!("END export {}", export.map_or_else(|error| chain(&error), |_| "done".into()));
}

fn lines() -> ExportOptions {
    ExportOptions::new(ExportFormat::Jsonl)
}

fn filled() -> (Home, SessionStore) {
    let home = Home::new();
    let store = home.open();
    for n in 0..50 {
        store.resolve(&source(n)).unwrap();
    }
    (home, store)
}

/// How the backup and the export of a child ended.
fn ends(rig: &Rig, part: &str, failure: &Failure) -> [String; 2] {
    let output = rig.child(MAIN, part).fail(failure).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    ["backup ", "export "].map(|what| {
        let ends = said.lines().find_map(|line| line.split_once("END ")?.1.strip_prefix(what));
        ends.unwrap_or_else(|| panic!("{said}")).to_owned()
    })
}

fn names(dir: &Path) -> Vec<String> {
    let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.collect();
    names.sort();
    names
}

fn assert_whole(root: &Path) {
    let restored = fast_dir();
    let db = restored.path().join("db");
    SessionStore::restore(options(&db), File::open(root.join("backup")).unwrap(), |_| {}).unwrap();
    assert_eq!(fs::read_to_string(root.join("export")).unwrap().lines().count(), 50);
}

#[test]
fn nothing_needs_hard_links() {
    for errno in [EPERM, 13, EOPNOTSUPP] {
        let rig = Rig::new();
        let failure = Failure { at: 1, errno, kinds: "link", mode: "forever" };
        assert_eq!(ends(&rig, "new", &failure), ["done", "done"], "{errno}");
        assert_eq!(names(rig.root()), ["backup", "export"], "{errno}");
        assert_whole(rig.root());
        // And nothing is replaced then either.
        for end in ends(&rig, "new", &failure) {
            assert!(end.contains("exists"), "{end}");
        }
        assert_eq!(names(rig.root()), ["backup", "export"], "{errno}");
    }
}

#[test]
fn a_directory_that_cannot_be_synced_is_no_failure() {
    for (errno, ends_well) in [(EINVAL, true), (EOPNOTSUPP, true), (EIO, false)] {
        let rig = Rig::new();
        let ends = ends(&rig, "new", &Failure { at: 1, errno, kinds: "syncdir", mode: "forever" });
        assert_eq!(rig.counts().matches, 2, "each syncs its directory");
        for end in ends {
            assert_eq!(end == "done", ends_well, "{errno}: {end}");
        }
        assert_whole(rig.root());
    }
}

#[test]
fn a_file_that_is_a_mount_of_its_own_says_so() {
    let rig = Rig::new();
    for name in ["backup", "export"] {
        fs::write(rig.root().join(name), "mine").unwrap();
    }
    for end in ends(&rig, "force", &Failure { at: 1, errno: EBUSY, kinds: "rename", mode: "forever" }) {
        assert!(end.contains("could not replace") && end.contains("mount the directory that it is in"), "{end}");
    }
    for name in ["backup", "export"] {
        assert_eq!(fs::read(rig.root().join(name)).unwrap(), b"mine");
    }
    assert_eq!(names(rig.root()), ["backup", "export"]);
}

#[test]
fn nothing_half_is_left_when_the_disk_is_full() {
    for (kinds, mode) in [("write", "short"), ("write", "forever"), ("sync", "forever"), ("open", "forever")] {
        for there in [false, true] {
            let rig = Rig::new();
            if there {
                fs::write(rig.root().join("backup"), "mine").unwrap();
                fs::write(rig.root().join("export"), "mine").unwrap();
            }
            let failure = Failure { at: 1, errno: ENOSPC, kinds, mode };
            for end in ends(&rig, if there { "force" } else { "new" }, &failure) {
                assert!(end.contains("no space left"), "{kinds} {mode}: {end}");
            }
            assert_eq!(names(rig.root()), if there { vec!["backup", "export"] } else { vec![] }, "{kinds} {mode}");
            for name in names(rig.root()) {
                assert_eq!(fs::read(rig.root().join(name)).unwrap(), b"mine", "{kinds} {mode}");
            }
        }
    }
}

#[test]
fn a_pipe_is_written_to_and_stays() {
    let (_home, store) = filled();
    let dir = fast_dir();
    let path = dir.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
    for force in [false, true] {
        let reader = std::thread::spawn({
            let path = path.clone();
            move || {
                let mut text = String::new();
                File::open(path).unwrap().read_to_string(&mut text).unwrap();
                text
            }
        });
        assert_eq!(store.export_to_file(&path, &lines().force(force)).unwrap().entries, 50);
        assert!(path.symlink_metadata().unwrap().file_type().is_fifo());
        assert_eq!(reader.join().unwrap().lines().count(), 50);
    }
    assert_eq!(names(dir.path()), ["pipe"]);
}

#[test]
fn what_is_neither_a_file_nor_a_pipe_is_refused() {
    let (_home, store) = filled();
    let dir = fast_dir();
    let (socket, directory) = (dir.path().join("socket"), dir.path().join("directory"));
    let _listener = UnixListener::bind(&socket).unwrap();
    fs::create_dir(&directory).unwrap();
    for path in [&socket, &directory] {
        let inode = fs::metadata(path).unwrap().ino();
        for force in [false, true] {
            let error = store.backup_to_file(path, BackupOptions::new().force(force), |_| {}).unwrap_err();
            assert!(matches!(&error, Error::Io { path: at, .. } if at == path), "{error:?}");
        }
        assert_eq!(fs::metadata(path).unwrap().ino(), inode);
    }
    assert_eq!(names(dir.path()), ["directory", "socket"]);
}

/// Only root may make devices; the test makes one of its own, for the old code would have replaced it.
#[test]
fn a_device_is_written_to_and_stays() {
    let dir = tempfile::tempdir().unwrap();
    let (null, full, link) = (dir.path().join("null"), dir.path().join("full"), dir.path().join("link"));
    let made = |path: &Path, minor: &str| Command::new("mknod").arg(path).args(["c", "1", minor]).status();
    let may_use = |path: &Path| fs::OpenOptions::new().write(true).open(path).is_ok();
    if !made(&null, "3").is_ok_and(|made| made.success()) || made(&full, "7").is_err() || !may_use(&null) {
        println!("skipped: this user may make no devices here");
        return;
    }
    std::os::unix::fs::symlink(&null, &link).unwrap();
    let (_home, store) = filled();
    for force in [false, true] {
        store.export_to_file(&null, &lines().force(force)).unwrap();
        store.backup_to_file(&link, BackupOptions::new().force(force), |_| {}).unwrap();
        let error = store.export_to_file(&full, &lines().force(force)).unwrap_err();
        assert!(matches!(error, Error::DiskFull { .. }), "{error:?}");
    }
    for path in [&null, &full] {
        assert!(path.symlink_metadata().unwrap().file_type().is_char_device());
    }
    assert!(link.symlink_metadata().unwrap().is_symlink());
    assert_eq!(names(dir.path()), ["full", "link", "null"]);
}
