//! Where the store and the outputs are: mounts that cannot be written, roots of file systems, links, pipes.

use std::fs::{self, File};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use super::{GROUP, Prepared, Ran, command, run};

/// A session file.
const BAD_AND_GOOD: &str = r#"{"agent:main:discord:dm:1": 5, "agent:main:discord:dm:2": {"session_id": "a"}}"#;

/// Commands that only look.
const READING: [&[&str]; 8] = [
    &["list"],
    &["show", GROUP],
    &["stats"],
    &["turns"],
    &["verify"],
    &["export", "--format", "hermes"],
    &["backup", "/dev/null"],
    &["compact"],
];

/// Each file below `path`, and `path`: mode and content.
fn content(path: &Path) -> Vec<(PathBuf, u32, Option<Vec<u8>>)> {
    let mut all = vec![(path.to_path_buf(), fs::metadata(path).unwrap().mode(), fs::read(path).ok())];
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            all.extend(content(&entry.unwrap().path()));
        }
    }
    all.sort();
    all
}

fn each(path: &Path, change: &impl Fn(&Path, u32)) {
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            each(&entry.unwrap().path(), change);
        }
    }
    change(path, fs::metadata(path).unwrap().mode() & 0o7777);
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// A store that its owner cannot write, for modes count for nothing with root.
struct Denied {
    store: Prepared,
    program: File,
    user: Option<u32>,
}

impl Denied {
    /// `None` if nothing can be given to another user.
    fn new() -> Option<Self> {
        let store = Prepared::new();
        let program = File::open(env!("CARGO_BIN_EXE_cloakroom")).unwrap();
        let is_root = fs::metadata(&store.db).unwrap().uid() == 0;
        let user = is_root.then_some(12_345);
        let this = Self { store, program, user };
        this.give(this.directory())?;
        set_mode(this.directory(), 0o755);
        Some(this)
    }

    fn directory(&self) -> &Path {
        self.store.db.parent().unwrap()
    }

    fn give(&self, path: &Path) -> Option<()> {
        let Some(user) = self.user else { return Some(()) };
        chown(path, Some(user), Some(user)).ok()?;
        each(path, &|path, _| chown(path, Some(user), Some(user)).unwrap());
        Some(())
    }

    fn run(&self, db: &Path, args: &[&str]) -> Ran {
        // The program's own path may be closed to others; this one is not.
        let mut command = Command::new(format!("/proc/self/fd/{}", self.program.as_raw_fd()));
        command.args(args).arg("--db").arg(db).env_remove("CLOAKROOM_LOG").env("TZ", "UTC").stdin(Stdio::null());
        if let Some(user) = self.user {
            command.uid(user).gid(user);
        }
        command.current_dir("/").output().unwrap().into()
    }
}

#[test]
fn a_store_that_its_owner_cannot_write_says_that_a_copy_can_be_opened() {
    let Some(denied) = Denied::new() else { return println!("skipped: this user may give nothing away") };
    let db = denied.store.db.clone();
    for is_readable in [false, true] {
        each(&db, &|path, mode| {
            let mode = mode & !0o222;
            // As an archive has them, others may look into it too.
            set_mode(path, if is_readable && path.is_dir() { mode | 0o055 } else { mode });
        });
        let before = content(&db);
        for args in READING {
            let ran = denied.run(&db, args);
            ran.failed(1, &[db.to_str().unwrap(), "cannot be written", "Permission denied", "`cp -R`", "--db"]);
            assert!(!ran.err.contains("owns it"), "{}", ran.err);
        }
        assert!(content(&db) == before, "nothing is changed, modes neither");
    }
    // What it says works.
    let copy = db.with_file_name("copy");
    assert!(Command::new("cp").arg("-R").args([&db, &copy]).status().unwrap().success());
    assert!(Command::new("chmod").args(["-R", "u+rwX"]).arg(&copy).status().unwrap().success());
    denied.give(&copy).unwrap();
    for args in READING {
        let ran = denied.run(&copy, args);
        assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{args:?}");
    }
}

#[test]
fn a_store_that_somebody_has_open_is_not_to_be_copied() {
    let Some(denied) = Denied::new() else { return println!("skipped: this user may give nothing away") };
    let other = Prepared::new();
    let open = other.open();
    each(&other.db, &|path, mode| set_mode(path, mode & !0o222));
    denied.give(other.db.parent().unwrap()).unwrap();
    denied.run(&other.db, &["list"]).failed(1, &["in use by process", "stop that program"]);
    drop(open);
    denied.run(&other.db, &["list"]).failed(1, &["`cp -R`"]);
}

/// The program in a namespace with a mount of its own, which `mount` makes; `None` where this user may not.
fn mounted(mount: &str, at: &Path, db: &Path, args: &[&str]) -> Option<Ran> {
    let may = Command::new("unshare").args(["--mount", "true"]).stderr(Stdio::null()).status();
    if !may.is_ok_and(|may| may.success()) {
        println!("skipped: this user may mount nothing");
        return None;
    }
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", &format!("{mount} && exec \"$@\"")]).arg(at);
    command.arg(env!("CARGO_BIN_EXE_cloakroom")).args(args).arg("--db").arg(db);
    Some(command.env_remove("CLOAKROOM_LOG").env("TZ", "UTC").stdin(Stdio::null()).output().unwrap().into())
}

const READ_ONLY: &str = r#"mount --bind "$0" "$0" && mount -o remount,bind,ro "$0""#;

#[test]
fn a_store_on_a_read_only_mount_says_that_a_copy_can_be_opened() {
    let store = Prepared::new();
    for args in READING {
        let Some(ran) = mounted(READ_ONLY, &store.db, &store.db, args) else { return };
        ran.failed(1, &[store.db.to_str().unwrap(), "cannot be written", "Read-only file system", "`cp -R`"]);
    }
    let new = store.db.join("new");
    let file = store.db.with_file_name("sessions.json");
    fs::write(&file, "{}").unwrap();
    let ran = mounted(READ_ONLY, &store.db, &new, &["migrate", file.to_str().unwrap()]).unwrap();
    ran.failed(1, &["Read-only file system", "its mount is read-only"]);
}

#[test]
fn a_file_that_is_a_mount_of_its_own_says_what_to_do() {
    let store = Prepared::new();
    let (file, other) = (store.db.with_file_name("out"), store.db.with_file_name("other"));
    fs::write(&file, "mine").unwrap();
    fs::write(&other, "").unwrap();
    let mount = format!(r#"mount --bind {} "$0""#, other.display());
    let args = ["export", "--format", "jsonl", "--force", "--output", file.to_str().unwrap()];
    let Some(ran) = mounted(&mount, &file, &store.db, &args) else { return };
    ran.failed(1, &["could not replace", file.to_str().unwrap(), "mount the directory that it is in"]);
    assert_eq!(fs::read(&file).unwrap(), b"mine");
}

#[test]
fn a_quarantine_that_cannot_be_written_names_its_option() {
    let Some(denied) = Denied::new() else { return println!("skipped: this user may give nothing away") };
    let source = tempfile::tempdir().unwrap();
    let file = source.path().join("sessions.json");
    fs::write(&file, BAD_AND_GOOD).unwrap();
    denied.give(source.path()).unwrap();
    set_mode(source.path(), 0o555);
    set_mode(&file, 0o444);
    let args = ["migrate", file.to_str().unwrap()];
    let path = source.path().join("sessions.json.quarantine.jsonl");
    // Into a store that is there, and into a new one.
    for db in [&denied.store.db, &denied.directory().join("new")] {
        let ran = denied.run(db, &args);
        ran.failed(1, &["could not import", path.to_str().unwrap(), "Permission denied", "--quarantine"]);
        let elsewhere = denied.directory().join("bad");
        let ran = denied.run(db, &[&args[..], &["--quarantine", elsewhere.to_str().unwrap()]].concat());
        assert_eq!(ran.code, 1);
        ran.error_line(&["bad entries: 1"]);
        fs::remove_file(elsewhere).unwrap();
    }

    // Beside the store, what a repair removes.
    denied.store.vandalize("sessions", |tree| drop(tree.insert(GROUP, b"nonsense").unwrap()));
    denied.give(denied.directory()).unwrap();
    set_mode(denied.directory(), 0o555);
    let db = &denied.store.db;
    denied.run(db, &["verify", "--repair"]).failed(1, &["store.quarantine.jsonl", "Permission denied", "--quarantine"]);
    let elsewhere = tempfile::tempdir().unwrap();
    denied.give(elsewhere.path()).unwrap();
    let file = elsewhere.path().join("removed");
    assert_eq!(denied.run(db, &["verify", "--repair", "--quarantine", file.to_str().unwrap()]).code, 3);
    assert!(fs::read_to_string(file).unwrap().lines().count() > 0);
    set_mode(denied.directory(), 0o755);
    set_mode(source.path(), 0o755);
}

#[test]
fn a_place_of_ones_own_that_cannot_be_written_is_not_told_to_its_owner_as_anothers() {
    let Some(denied) = Denied::new() else { return println!("skipped: this user may give nothing away") };
    set_mode(denied.directory(), 0o555);
    let out = denied.directory().join("out");
    let ran = denied.run(&denied.store.db, &["backup", out.to_str().unwrap()]);
    ran.failed(1, &["no permission", "it is yours", "chmod"]);
    set_mode(denied.directory(), 0o755);
}

#[test]
fn the_root_of_a_file_system_and_a_link_to_nowhere_say_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let (root, link, file) = (dir.path().join("root"), dir.path().join("link"), dir.path().join("sessions.json"));
    fs::create_dir_all(root.join("lost+found")).unwrap();
    symlink("not/mounted", &link).unwrap();
    fs::write(&file, "{}").unwrap();
    for args in [&["list"][..], &["migrate", file.to_str().unwrap()]] {
        run(&root, args).failed(1, &["lost+found", root.join("sessions.db").to_str().unwrap()]);
        run(&link, args).failed(1, &["it is a link to not/mounted, where there is nothing", "make that directory"]);
    }
    assert_eq!(fs::read_dir(&root).unwrap().count(), 1);
    // What they say works.
    let migrate = ["migrate", file.to_str().unwrap()];
    assert_eq!(run(&root.join("sessions.db"), &migrate).code, 0);
    fs::create_dir_all(dir.path().join("not/mounted")).unwrap();
    assert_eq!(run(&link, &migrate).code, 0);
    assert_eq!(run(&link, &["list"]).code, 0);
    // Beside a store it disturbs nobody.
    fs::create_dir(dir.path().join("not/mounted/lost+found")).unwrap();
    assert_eq!(run(&link, &["list"]).code, 0);
}

// `-` and pipes.

#[test]
fn a_dash_is_standard_output() {
    let store = Prepared::new();
    let dir = tempfile::tempdir().unwrap();
    let in_dir = |args: &[&str]| -> Ran { command(&store.db, args).current_dir(dir.path()).output().unwrap().into() };
    let plain = in_dir(&["export", "--format", "hermes"]);
    for args in [&["--output", "-"][..], &["--output", "-", "--force"]] {
        let ran = in_dir(&[&["export", "--format", "hermes"], args].concat());
        assert_eq!((ran.code, ran.out.as_str(), ran.err.as_str()), (0, plain.out.as_str(), ""));
    }
    let file = dir.path().join("sessions.json");
    fs::write(&file, BAD_AND_GOOD).unwrap();
    let migrate = ["migrate", file.to_str().unwrap(), "--quarantine", "-"];
    let ran = in_dir(&migrate);
    assert_eq!((ran.code, ran.json_lines().len()), (1, 1));
    assert_eq!(ran.json_lines()[0]["key"], "agent:main:discord:dm:1");
    ran.error_line(&["bad entries: 1"]);
    for args in [&[&migrate[..], &["--json"]].concat()[..], &["verify", "--repair", "--quarantine", "-"]] {
        let ran = in_dir(args);
        assert!(ran.code == 2 && ran.err.contains("name a file"), "{ran:?}");
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn a_pipe_at_the_path_of_an_output_is_written_to_with_the_store_closed() {
    let store = Prepared::new();
    let pipe = store.db.with_file_name("pipe");
    let name = pipe.to_str().unwrap();
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    store.fill(300);
    let outputs: [&[&str]; 2] = [&["export", "--format", "jsonl", "--output", name, "--force"], &["backup", name]];
    for args in outputs {
        let child = command(&store.db, args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut reader = File::open(&pipe).unwrap();
        let mut read = [0; 1];
        std::io::Read::read_exact(&mut reader, &mut read).unwrap();
        assert_eq!(store.open().len(), 304, "more than the pipe takes is not read yet");
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut reader, &mut bytes).unwrap();
        let ran = Ran::from(child.wait_with_output().unwrap());
        assert_eq!((ran.code, ran.err.as_str()), (0, ""));
        assert!(ran.out.contains("304 entries"), "{}", ran.out);
        assert!(bytes.len() > 100_000);
        drop(reader);
        // That the reader is gone is reported.
        let child = command(&store.db, args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(File::open(&pipe).unwrap());
        Ran::from(child.wait_with_output().unwrap()).failed(1, &[name, "Broken pipe"]);
    }
    assert!(!pipe.symlink_metadata().unwrap().is_file());
}

#[test]
fn where_nothing_can_wait_that_is_told() {
    let store = Prepared::new();
    store.fill(1500);
    let nowhere = store.db.with_file_name("nowhere");
    let mut command = command(&store.db, &["export", "--format", "jsonl"]);
    let ended = command.env("TMPDIR", &nowhere).stdout(Stdio::piped()).output().unwrap();
    assert_eq!(ended.status.code(), Some(1));
    let err = String::from_utf8(ended.stderr).unwrap();
    assert!(err.contains("TMPDIR") && err.contains(nowhere.to_str().unwrap()), "{err}");
    // To a file it goes at once.
    let file = File::create(store.db.with_file_name("out")).unwrap();
    assert!(command.stdout(file).status().unwrap().success());
    let text = fs::read_to_string(store.db.with_file_name("out")).unwrap();
    let lines: Result<Vec<Value>, _> = text.lines().map(serde_json::from_str).collect();
    assert_eq!(lines.unwrap().len(), 1504);
}

#[test]
fn standard_output_at_a_path_is_a_pipe_like_any_other() {
    let store = Prepared::new();
    let args = ["backup", "/dev/stdout"];
    let ended = command(&store.db, &args).stdout(Stdio::piped()).output().unwrap();
    assert!(ended.status.success());
    let back = store.db.with_file_name("back");
    let mut child = command(&back, &["restore", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let end = ended.stdout.windows(11).position(|part| part == b"backed up: ").unwrap();
    child.stdin.take().unwrap().write_all(&ended.stdout[..end]).unwrap();
    assert!(child.wait().unwrap().success());
}
