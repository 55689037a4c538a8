//! Who may use a store: its owner alone. A directory that others can write to is refused.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use cloakroom::{Error, SessionStore};

use crate::common::{Home, fast_dir, key, options, source};
use crate::rig::{CHILD_PART, CHILD_ROOT, Rig};

const MAIN: &str = "access::child_main";

#[test]
fn child_main() {
    let (Ok(_), Ok(root)) = (std::env::var(CHILD_PART), std::env::var(CHILD_ROOT)) else {
        return;
    };
    let store = SessionStore::open(options(&PathBuf::from(root).join("sessions.db"))).unwrap();
    store.resolve(&source(1)).unwrap().receipt.wait().unwrap();
    let export = store.path().join("../export");
    let format = cloakroom::ExportOptions::new(cloakroom::ExportFormat::Jsonl).force(true);
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
    for name in ["LOCK", "checkpoint"] {
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
