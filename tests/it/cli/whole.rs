//! `stats`, `verify`.

use std::fs;
use std::path::Path;

use cloakroom::{Options, SessionStore};
use serde_json::json;

use super::{DM, GROUP, OLD, Prepared, key, source, timestamp};

#[test]
fn stats_count_entries() {
    let store = Prepared::new();
    let ran = store.ok(&["stats"]);
    assert_eq!(ran.row("entries"), "4");
    assert!(ran.row("on disk").ends_with("iB"), "{}", ran.row("on disk"));
    assert!(ran.row("oldest").ends_with('Z') && ran.row("newest").ends_with('Z'));
    assert_eq!(ran.row("suspended"), "1");
    assert_eq!(ran.row("platform discord"), "2");
    assert_eq!(ran.row("chat type dm"), "2");
}

#[test]
fn stats_as_json() {
    let store = Prepared::new();
    let (oldest, newest) = {
        let open = store.open();
        let at = |text| open.get(&key(text)).unwrap().unwrap().updated_at;
        (at(OLD), at(GROUP))
    };
    let stats = store.ok(&["stats", "--json"]).json_without_epochs();
    assert_eq!(timestamp(&stats["oldest"]), oldest);
    assert_eq!(timestamp(&stats["newest"]), newest);
    assert!(stats["last_commit"].as_u64().unwrap() > 0);
    assert!(stats["bytes_on_disk"].as_u64().unwrap() > 1000);
    let expected = json!({
        "entries": 4, "bytes_on_disk": stats["bytes_on_disk"], "oldest": stats["oldest"], "newest": stats["newest"],
        "suspended": 1, "resume_pending": 0, "by_platform": {"discord": 2, "slack": 1, "telegram": 1},
        "by_chat_type": {"dm": 2, "group": 1, "thread": 1}, "unreadable": 0, "pending": 0,
        "last_commit": stats["last_commit"],
    });
    assert_eq!(stats, expected);
}

#[test]
fn stats_know_the_unknown_and_the_unreadable() {
    let store = Prepared::new();
    {
        let open = store.open();
        open.update(&key(GROUP), |details| details.platform = None).unwrap().unwrap();
        open.close().unwrap();
    }
    store.vandalize("sessions", |tree| drop(tree.insert(DM, b"nonsense").unwrap()));
    let ran = store.run(&["stats", "--json"]);
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("error: left out because they cannot be decoded: 1"), "{}", ran.err);
    let stats = ran.json();
    assert_eq!(stats["by_platform"], json!({"discord": 1, "slack": 1, "unknown": 1}));
    assert_eq!((&stats["entries"], &stats["unreadable"]), (&json!(4), &json!(1)));
}

#[test]
fn a_sound_store_verifies() {
    let store = Prepared::new();
    let ran = store.ok(&["verify"]);
    assert_eq!((ran.row("entries"), ran.row("violations")), ("4", "0"));
    let found = store.ok(&["verify", "--json"]).json();
    let expected = json!({
        "entries": 4, "violations": [], "stale_rows": found["stale_rows"], "orphaned_chunks": 0, "orphaned_turns": 0, "orphaned_leases": 0, "count_checked": true,
        "times_ahead": 0, "clock_doubted": false, "shortfall": null, "repairs": [], "repaired": null, "quarantine": null,
    });
    assert_eq!(found, expected);
    let ran = store.run(&["verify", "--quarantine", "x"]);
    assert!(ran.code == 2 && ran.err.contains("--repair"), "{}", ran.err);
}

#[test]
fn verify_repairs_what_is_broken() {
    let store = Prepared::new();
    let sound = store.ok(&["verify", "--repair", "--json"]).json();
    assert_eq!((&sound["repaired"]["entries"], &sound["quarantine"]), (&json!(4), &json!(null)));
    store.vandalize("by_updated_at", |tree| tree.clear().unwrap());
    store.vandalize("by_session_id", |tree| tree.clear().unwrap());
    assert_eq!(store.run(&["verify"]).code, 3);
    let ran = store.ok(&["verify", "--repair"]);
    assert_eq!(
        (ran.row("rows by time written"), ran.row("rows by session id written"), ran.row("violations")),
        ("4", "4", "0")
    );

    // An entry that cannot be decoded goes, raw, beside the store.
    store.vandalize("sessions", |tree| drop(tree.insert(DM, vec![9, 1, 2]).unwrap()));
    let ran = store.run(&["verify", "--repair", "--json"]);
    assert_eq!((ran.code, ran.err.as_str()), (3, ""));
    let found = ran.json();
    let quarantine = store.db.with_file_name("store.quarantine.jsonl");
    assert_eq!(found["quarantine"], json!(quarantine.canonicalize().unwrap()));
    assert_eq!((&found["violations"], &found["repaired"]["entries_lost"]), (&json!([]), &json!(1)));
    let lines = fs::read_to_string(&quarantine).unwrap();
    assert!(lines.contains(&format!("\"key\":\"{DM}\",\"value_hex\":\"090102\"")), "{lines}");
    let ran = store.ok(&["verify", "--repair"]);
    assert_eq!((ran.row("entries"), ran.row("violations")), ("3", "0"));
    assert_eq!(fs::read_to_string(&quarantine).unwrap(), lines, "there was nothing more to do");
    store.ok(&["verify"]);
    assert_eq!(store.open().len(), 3);

    // Nothing is made where there is no store.
    let nowhere = store.db.with_file_name("nowhere");
    super::run(&nowhere, &["verify", "--repair"]).failed(1, &["there is no store"]);
    assert!(!nowhere.exists());
}

#[test]
fn verify_names_what_is_broken() {
    let store = Prepared::new();
    store.vandalize("activity", |tree| {
        let has_key = |value: &[u8]| value.windows(DM.len()).any(|part| part == DM.as_bytes());
        let (row, _) = tree.iter().flatten().find(|(_, value)| has_key(value)).unwrap();
        tree.remove(row).unwrap();
    });
    let ran = store.run(&["verify"]);
    assert_eq!((ran.code, ran.err.as_str()), (3, ""));
    assert_eq!(ran.row("violations"), "1");
    let name = key(DM).to_string();
    assert!(ran.out.contains(&format!("violation: {name} has no activity record\n")), "{}", ran.out);
    let ran = store.run(&["verify", "--json"]);
    assert_eq!((ran.code, ran.err.as_str()), (3, ""));
    assert_eq!(ran.json()["violations"], json!([{"violation": "no_activity", "key": name}]));
}

#[test]
fn verify_reports_a_shortfall() {
    let store = Prepared::new();
    let copy = tempfile::tempdir().unwrap();
    copy_tree(&store.db.join("sled"), &copy.path().join("sled"));
    {
        let open = store.open();
        open.resolve(&source("irc", "group", "1", None, "1")).unwrap().receipt.wait().unwrap();
        open.close().unwrap();
    }
    fs::remove_dir_all(store.db.join("sled")).unwrap();
    copy_tree(&copy.path().join("sled"), &store.db.join("sled"));

    let ran = store.run(&["verify", "--json"]);
    assert_eq!(ran.code, 3, "{}", ran.out);
    let found = ran.json();
    assert_eq!(found["violations"], json!([]));
    let lost = &found["shortfall"];
    assert_eq!((&lost["expected_entries"], &lost["found_entries"]), (&json!(5), &json!(4)));
}

fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_tree(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

#[test]
fn a_database_that_does_not_open_is_unsound() {
    let store = Prepared::new();
    fs::write(store.db.join("sled").join("db"), b"").unwrap();
    store.run(&["verify"]).failed(3, &["is damaged", "restore a backup"]);
    store.run(&["list"]).failed(1, &["is damaged"]);
}

#[test]
fn complaints_of_the_engine_are_told_in_one_line() {
    let store = Prepared::new();
    let conf = store.db.join("sled").join("conf");
    let mut bytes = fs::read(&conf).unwrap();
    bytes.iter_mut().for_each(|byte| *byte = !*byte);
    fs::write(&conf, bytes).unwrap();
    store.run(&["list"]).failed(1, &["is damaged"]);
}

#[test]
fn an_empty_store_is_sound() {
    let dir = tempfile::tempdir().unwrap();
    let db = dir.path().join("store");
    SessionStore::open(Options::new(&db).create(true)).unwrap().close().unwrap();
    let ran = super::run(&db, &["stats", "--json"]);
    assert_eq!((ran.code, &ran.json()["oldest"]), (0, &json!(null)));
    assert_eq!(super::run(&db, &["verify"]).code, 0);
    assert_eq!(super::run(&db, &["list"]).out.lines().last(), Some("0 of 0 entries"));
}
