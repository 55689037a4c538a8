//! Access to a store: its owner alone may use it. A directory that others can write to is refused.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use cloakroom::{Error, Options, SessionStore};

use crate::common::{Home, fast_dir, key, options, source};
use crate::rig::{CHILD_PART, CHILD_ROOT, Rig};

const MAIN: &str = "access::child_main";

#[test]
fn child_main() {
    let (Ok(part), Ok(root)) = (std::env::var(CHILD_PART), std::env::var(CHILD_ROOT)) else {
        return;
    };
    if part == "make" {
        return println!("END {:?}", make_all(Path::new(&root)));
    }
    if part != "work" {
        return println!("END {}", open_volume(Path::new(&root), &part));
    }
    let store = SessionStore::open(options(&PathBuf::from(root).join("sessions.db"))).unwrap();
    store.resolve(&source(1)).unwrap().receipt.wait().unwrap();
    let export = store.path().join("../export");
    let format = cloakroom::export::ExportOptions::new(cloakroom::export::ExportFormat::Jsonl).force(true);
    store.export_to_file(export, &format).unwrap();
    store.close().unwrap();
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn refused(path: &Path, at: &Path, part: &str) {
    let error = SessionStore::open(options(path)).unwrap_err();
    assert!(matches!(&error, Error::Exposed { path, .. } if *path == at), "{error:?}");
    assert!(error.to_string().contains(part) && error.to_string().contains(at.to_str().unwrap()), "{error}");
}

fn store() -> (Home, PathBuf) {
    let home = Home::new();
    home.open().resolve(&source(1)).unwrap();
    let path = home.path();
    (home, path)
}

#[test]
fn others_may_not_read_a_store() {
    fn each(dir: &Path, look: &mut impl FnMut(&Path)) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            look(&path);
            if path.is_dir() {
                each(&path, look);
            }
        }
    }
    for umask in ["0", "022", "077", "0177", "0777"] {
        let rig = Rig::new();
        let mut shell = rig.command("/bin/sh");
        shell
            .args(["-c", &format!("umask {umask}; exec \"$0\" \"$@\"")])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", MAIN, "--nocapture", "--test-threads=1"])
            .env(CHILD_PART, "work");
        for _ in 0..2 {
            let output = shell.output().unwrap();
            assert!(output.status.success(), "{umask}: {}", String::from_utf8_lossy(&output.stderr));
        }
        let path = rig.root().join("sessions.db");
        assert_eq!(mode(&path), 0o700, "{umask}");
        let mut files = 0;
        each(&path, &mut |path| {
            files += 1;
            let expected = if path.is_dir() { 0o700 } else { 0o600 };
            assert_eq!(mode(path), expected, "umask {umask}: {}", path.display());
        });
        assert!(files >= 6);
        assert_eq!(mode(&rig.root().join("export")) & 0o077, 0, "{umask}");
    }
}

#[test]
fn a_store_that_others_can_read_is_closed_to_them() {
    let (home, path) = store();
    for readable in [0o755, 0o750, 0o711, 0o705] {
        set_mode(&path, readable);
        assert_eq!(home.open().len(), 1);
        assert_eq!(mode(&path), 0o700);
    }
}

#[test]
fn a_store_that_others_can_write_to_is_refused() {
    let (home, path) = store();
    let before = fs::read(path.join("sled/db")).unwrap();
    for writable in [0o777, 0o770, 0o720, 0o702, 0o1777] {
        set_mode(&path, writable);
        refused(&path, &path, "chmod 700");
        assert_eq!((mode(&path), fs::read(path.join("sled/db")).unwrap() == before), (writable, true));
    }
    // The directory within counts where others get at it.
    set_mode(&path, 0o755);
    set_mode(&path.join("sled"), 0o777);
    refused(&path, &path.join("sled"), "chmod 700");
    set_mode(&path, 0o700);
    assert!(home.open().contains(&key(1)).unwrap());
}

#[test]
fn a_store_of_another_user_is_refused() {
    let (_home, path) = store();
    if chown(&path, Some(12_345), None).is_err() {
        println!("skipped: this user may give nothing away");
        return;
    }
    refused(&path, &path, "belongs to user 12345");
    let me = fs::metadata(path.join("sled")).unwrap().uid();
    chown(&path, Some(me), None).unwrap();
    chown(path.join("sled"), Some(12_345), None).unwrap();
    refused(&path, &path.join("sled"), "belongs to user 12345");
}

#[test]
fn an_empty_directory_that_all_can_write_to_is_taken_and_closed() {
    let home = Home::new();
    fs::create_dir(home.path()).unwrap();
    set_mode(&home.path(), 0o777);
    drop(home.open());
    assert_eq!(mode(&home.path()), 0o700);
}

/// A file that we would open and write may be a symlink to another of ours.
#[test]
fn a_planted_file_is_not_followed() {
    let dir = fast_dir();
    let (path, victim) = (dir.path().join("db"), dir.path().join("victim"));
    fs::write(&victim, "mine").unwrap();
    for name in ["LOCK", "state"] {
        fs::create_dir(&path).unwrap();
        set_mode(&path, 0o777);
        symlink(&victim, path.join(name)).unwrap();
        refused(&path, &path, "chmod 700");
        assert_eq!(fs::read(&victim).unwrap(), b"mine");
        fs::remove_dir_all(&path).unwrap();
    }
}

#[test]
fn no_store_is_made_where_anyone_could_replace_it() {
    let dir = fast_dir();
    let path = dir.path().join("db");
    set_mode(dir.path(), 0o777);
    refused(&path, dir.path(), "sticky");
    assert!(!path.exists());
    set_mode(dir.path(), 0o1777);
    drop(SessionStore::open(options(&path)).unwrap());
    // What is there is opened: nobody else can look into it or change it.
    set_mode(dir.path(), 0o777);
    drop(SessionStore::open(options(&path)).unwrap());
}

/// Makes a store in each of the three ways, in a directory that is there and in one that is not. How each ended, and
/// whether the second opening ends likewise.
fn make_all(root: &Path) -> Vec<String> {
    let mut ends = Vec::new();
    let backup = {
        let home = Home::new();
        let mut backup = Vec::new();
        home.open().backup(&mut backup, |_| {}).unwrap();
        backup
    };
    for there in [false, true] {
        for way in ["open", "import", "restore"] {
            let path = root.join(format!("{way}-{there}"));
            if there {
                fs::create_dir(&path).unwrap();
            }
            let made = match way {
                "open" => SessionStore::open(options(&path)).map(drop),
                "import" => SessionStore::create_from(
                    options(&path),
                    &b"{}"[..],
                    cloakroom::import::ImportOptions::new(),
                    |_| {},
                )
                .map(drop),
                _ => SessionStore::restore(options(&path), &backup[..], |_| {}).map(drop),
            };
            let left = path.exists().then(|| fs::read_dir(&path).unwrap().count());
            if made.is_ok() {
                SessionStore::open(Options::new(&path)).unwrap().close().unwrap();
            }
            let end = made.err().map_or_else(|| "made".into(), |error| format!("{left:?} {error}"));
            ends.push(end);
        }
    }
    ends
}

/// A mount that keeps no modes, where `SHIM_MODES` says what they are, and `SHIM_CHMOD_ERRNO` what chmod answers.
fn make_on(modes: &str, errno: &str) -> String {
    let rig = Rig::new();
    let mut child = rig.child(MAIN, "make");
    let output = child.env("SHIM_MODES", modes).env("SHIM_CHMOD_ERRNO", errno).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    said.lines().find_map(|line| line.split_once("END ")).unwrap().1.to_owned()
}

#[test]
fn a_mount_that_keeps_no_modes_is_refused_before_a_store_is_made_there() {
    for modes in ["777", "770", "755", "711"] {
        // vfat refuses, SMB and FUSE say nothing.
        for errno in ["0", "1"] {
            let said = make_on(modes, errno);
            assert_eq!(said.matches("its mount keeps no modes").count(), 6, "{modes} {errno}: {said}");
            // A directory that was made is gone, and one that was there is empty as before.
            assert_eq!(said.matches("\"None ").count(), 3, "{modes} {errno}: {said}");
            assert_eq!(said.matches("\"Some(0) ").count(), 3, "{modes} {errno}: {said}");
        }
    }
}

#[test]
fn a_mount_that_is_its_owners_alone_needs_to_keep_no_modes() {
    for errno in ["0", "1"] {
        let said = make_on("700", errno);
        assert_eq!(said.matches("\"made\"").count(), 6, "{errno}: {said}");
    }
}

// A group that is trusted.

/// Opens the volume below `root` as a gateway would that trusts its group, or not.
fn open_volume(root: &Path, part: &str) -> String {
    let path = root.join(part.split_once(' ').unwrap().1);
    let store = SessionStore::open(options(&path).trust_group(part.starts_with("trusting")));
    let entered = store.and_then(|store| {
        store.resolve(&source(store.len() as usize))?;
        let entries = store.len();
        store.close().map(|()| format!("{entries} entries"))
    });
    entered.unwrap_or_else(|error| match &error {
        Error::Exposed { group, .. } => format!("{group:?} {error}"),
        _ => panic!("{error:?}"),
    })
}

/// The user and the group of a pod.
const USER: u32 = 12_345;
const GROUP: u32 = 23_456;

fn each(path: &Path, change: &mut impl FnMut(&Path)) {
    change(path);
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            each(&entry.unwrap().path(), change);
        }
    }
}

/// What the kubelet does to a volume at each start of a pod with an `fsGroup`.
fn give_to_group(volume: &Path) {
    each(volume, &mut |path| {
        chown(path, None, Some(GROUP)).unwrap();
        let more = if path.is_dir() { 0o2770 } else { 0o660 };
        set_mode(path, mode(path) | more);
    });
}

#[test]
fn a_volume_of_an_own_group_is_taken_if_the_group_is_trusted() {
    let rig = Rig::new();
    let volume = rig.root().join("volume");
    fs::create_dir(&volume).unwrap();
    if chown(&volume, Some(0), Some(GROUP)).is_err() {
        println!("skipped: this user may give nothing away");
        return;
    }
    set_mode(&volume, 0o2775);
    set_mode(rig.root().parent().unwrap(), 0o711);
    let program = File::open(std::env::current_exe().unwrap()).unwrap();
    let open = |part: &str| {
        // Its own path may be closed to others; this one is not.
        let output = Command::new(format!("/proc/self/fd/{}", program.as_raw_fd()))
            .args(["--exact", MAIN, "--nocapture", "--test-threads=1"])
            .env(CHILD_PART, part)
            .env(CHILD_ROOT, rig.root())
            .uid(USER)
            .gid(GROUP)
            .current_dir("/")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
        said.lines().find_map(|line| line.split_once("END ")).unwrap().1.to_owned()
    };
    // The volume itself.
    let said = open("careful volume");
    assert!(said.contains(&format!("Some({GROUP})")) && said.contains("belongs to user 0"), "{said}");
    assert_eq!(fs::read_dir(&volume).unwrap().count(), 0);
    for entries in 1..4 {
        assert_eq!(open("trusting volume"), format!("{entries} entries"));
        assert_eq!((mode(&volume), fs::metadata(&volume).unwrap().uid()), (0o2775, 0));
        give_to_group(&volume);
    }
    // A directory in it is taken as any other, until the volume is given to the group again.
    let inner = volume.join("inner");
    assert_eq!(open("careful volume/inner"), "1 entries");
    give_to_group(&volume);
    let said = open("careful volume/inner");
    assert!(said.contains(&format!("Some({GROUP})")) && said.contains("trust its group"), "{said}");
    for entries in 2..4 {
        assert_eq!(open("trusting volume/inner"), format!("{entries} entries"));
        assert_eq!(mode(&inner) & 0o777, 0o770);
        give_to_group(&volume);
    }
}

#[test]
fn of_a_trusted_group_nobody_else_may_do_anything() {
    let (home, path) = store();
    let trusting = || home.options().trust_group(true);
    set_mode(&path, 0o2770);
    let error = SessionStore::open(home.options()).unwrap_err();
    let own = fs::metadata(&path).unwrap().gid();
    assert!(matches!(error, Error::Exposed { group: Some(group), .. } if group == own), "{error:?}");
    assert_eq!(SessionStore::open(trusting()).unwrap().len(), 1);
    assert_eq!(mode(&path), 0o2770, "what the group may do is left to it");
    set_mode(&path, 0o2775);
    assert_eq!(SessionStore::open(trusting()).unwrap().len(), 1);
    assert_eq!(mode(&path), 0o2770);
    for writable in [0o2777, 0o772, 0o702] {
        set_mode(&path, writable);
        let error = SessionStore::open(trusting()).unwrap_err();
        assert!(matches!(error, Error::Exposed { group: None, .. }), "{error:?}");
    }
    set_mode(&path, 0o2770);
    if chown(&path, None, Some(GROUP)).is_ok() {
        set_mode(&path, 0o2770);
        let error = SessionStore::open(trusting()).unwrap_err();
        assert!(matches!(error, Error::Exposed { group: None, .. }), "{error:?}");
    }
}

#[test]
fn a_store_that_is_refused_stays_as_it_is() {
    let (home, path) = store();
    let open = home.open();
    set_mode(&path, 0o755);
    assert!(matches!(SessionStore::open(home.options()), Err(Error::Locked { .. })));
    assert_eq!(mode(&path), 0o755);
    drop(open);
    drop(home.open());
    assert_eq!(mode(&path), 0o700);
}
