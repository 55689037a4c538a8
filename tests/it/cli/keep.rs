//! `backup`, `restore` and `compact`.

use std::fs::{self, OpenOptions};
use std::io::{Write, pipe};
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

use serde_json::json;

use super::{DM, GROUP, Prepared, Ran, command, key, run};

#[test]
fn a_backup_comes_back_as_the_same_store() {
    let store = Prepared::new();
    let (file, back) = (store.db.with_file_name("backup"), store.db.with_file_name("back"));
    let (name, back_name) = (file.to_str().unwrap(), back.to_str().unwrap());
    let ran = store.ok(&["backup", name]);
    assert!(ran.out.starts_with(&format!("backed up: 4 entries, 0 open turns and 0 notes to {name}, ")), "{}", ran.out);
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let ran = run(&back, &["restore", name]);
    let said = format!("restored: 4 entries, 0 open turns and 0 notes to {back_name}\n");
    assert_eq!((ran.code, ran.out, ran.err.as_str()), (0, said, ""));
    for args in [&["list", "--limit", "all"][..], &["show", GROUP], &["show", DM, "--json"]] {
        let texts = [&store.db, &back].map(|db| {
            // Idle times go on while we look.
            let mut text = run(db, args).out;
            text.retain(|c| !c.is_ascii_digit());
            text
        });
        assert_eq!(texts[0], texts[1], "{args:?}");
    }
    assert_eq!(run(&back, &["verify"]).code, 0);
}

#[test]
fn reports_are_json_for_scripts() {
    let store = Prepared::new();
    let (file, back) = (store.db.with_file_name("backup"), store.db.with_file_name("back"));
    let name = file.to_str().unwrap();
    let told = store.ok(&["backup", name, "--json"]).json();
    let bytes = fs::metadata(&file).unwrap().len();
    assert!(told["seconds"].as_f64().unwrap() > 0.0);
    let expected = json!({
        "file": name, "entries": 4, "turns": 0, "leases": 0, "notes": 0, "bytes": bytes, "seconds": told["seconds"],
    });
    assert_eq!(told, expected);
    let told = run(&back, &["restore", name, "--json"]).json();
    let expected = json!({
        "file": name, "db": back.to_str().unwrap(), "entries": 4, "turns": 0, "leases": 0, "notes": 0, "bytes": bytes,
        "seconds": told["seconds"],
    });
    assert_eq!(told, expected);
    let told = run(&back, &["compact", "--json"]).json();
    let on_disk = run(&back, &["stats", "--json"]).json()["bytes_on_disk"].clone();
    assert!(on_disk.as_u64().unwrap() > 1000);
    let expected = json!({
        "db": back.to_str().unwrap(), "entries": 4, "bytes_before": told["bytes_before"],
        "bytes_after": told["bytes_after"], "seconds": told["seconds"],
    });
    assert_eq!(told, expected);
}

#[test]
fn a_file_or_a_store_that_is_there_stays() {
    let store = Prepared::new();
    let file = store.db.with_file_name("backup");
    let name = file.to_str().unwrap();
    fs::write(&file, "mine").unwrap();
    store.run(&["backup", name]).failed(1, &[name, "exists", "--force"]);
    assert_eq!(fs::read(&file).unwrap(), b"mine");
    store.ok(&["backup", name, "--force"]);
    store.run(&["restore", name]).failed(1, &["there is a store at", store.db.to_str().unwrap(), "--db"]);
    assert_eq!(store.ok(&["stats"]).row("entries"), "4");
}

#[test]
fn pipes_carry_a_backup() {
    let store = Prepared::new();
    let back = store.db.with_file_name("back");
    let written = command(&store.db, &["backup", "-"]).output().unwrap();
    assert!(written.status.success() && written.stderr.is_empty());
    let mut child = command(&back, &["restore", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(&written.stdout).unwrap();
    let ran = Ran::from(child.wait_with_output().unwrap());
    assert_eq!((ran.code, ran.out.starts_with("restored: 4 entries")), (0, true), "{}", ran.err);
    // In contrast to a list, a backup whose reader has gone is no backup.
    let (reader, writer) = pipe().unwrap();
    drop(reader);
    let ended = command(&store.db, &["backup", "-"]).stdout(writer).stderr(Stdio::piped()).output().unwrap();
    assert_eq!(ended.status.code(), Some(1));
    let err = String::from_utf8_lossy(&ended.stderr);
    assert!(err.starts_with("error: could not write the backup: "), "{err}");
    let ran = store.run(&["backup", "-", "--json"]);
    assert_eq!((ran.code, &ran.json()["error"]["kind"]), (2, &"usage".into()));
    assert!(ran.err.contains("leave --json out"), "{}", ran.err);
    if let Ok(full) = OpenOptions::new().write(true).open("/dev/full") {
        let ended = command(&store.db, &["backup", "-"]).stdout(full).stderr(Stdio::piped()).output().unwrap();
        assert_eq!(ended.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&ended.stderr).starts_with("error: could not write the backup: No space"));
    }
}

#[test]
fn what_is_no_whole_backup_makes_no_store() {
    let store = Prepared::new();
    let (file, back) = (store.db.with_file_name("backup"), store.db.with_file_name("back"));
    let name = file.to_str().unwrap();
    let refused = |parts: &[&str]| {
        let ran = run(&back, &["restore", name]);
        ran.failed(1, &[&["could not restore", name], parts].concat());
        assert!(!back.exists());
    };
    refused(&["No such file"]);
    fs::write(&file, "{}").unwrap();
    refused(&["not a backup"]);
    store.ok(&["backup", name, "--force"]);
    let mut bytes = fs::read(&file).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&file, &bytes).unwrap();
    refused(&["damaged at byte", "checksum"]);
    fs::write(&file, &bytes[..last]).unwrap();
    refused(&["damaged at byte", "it ends within a record"]);
    run(&back, &["restore", store.db.to_str().unwrap()]).failed(1, &["not a regular file"]);
}

#[test]
fn compacting_says_what_it_gave_back() {
    let store = Prepared::new();
    {
        let open = store.open();
        let notes = json!({"text": "x".repeat(20_000)});
        for chat in 0..1000 {
            open.resolve(&super::source("discord", "group", &format!("x{chat}"), None, "1")).unwrap();
            let note = notes.as_object().unwrap();
            open.set_metadata(&key(&format!("agent:main:discord:group:x{chat}:1")), note).unwrap().unwrap();
        }
        open.flush().unwrap();
        for chat in 0..1000 {
            open.remove(&key(&format!("agent:main:discord:group:x{chat}:1"))).unwrap().unwrap();
        }
        open.close().unwrap();
    }
    let before = store.ok(&["stats", "--json"]).json()["bytes_on_disk"].as_u64().unwrap();
    let list = store.ok(&["list", "--json"]).keys();
    let ran = store.ok(&["compact"]);
    assert!(ran.out.starts_with("compacted: 4 entries, ") && ran.out.contains(" MiB before and "), "{}", ran.out);
    let after = store.ok(&["stats", "--json"]).json()["bytes_on_disk"].as_u64().unwrap();
    let ballast = 8 << 20;
    assert!((after - ballast) * 4 < before - ballast, "{before} before and {after} now");
    assert_eq!(store.ok(&["list", "--json"]).keys(), list);
}

#[test]
fn an_unsound_store_is_not_compacted() {
    let store = Prepared::new();
    store.vandalize("activity", |tree| drop(tree.pop_min().unwrap()));
    store.run(&["compact"]).failed(1, &["is not sound: ", "; `cloakroom verify` names them"]);
}
