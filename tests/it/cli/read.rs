//! `list`, `show`, `find`.

use cloakroom::change::Repoint;
use cloakroom::time::{Clock, SystemClock};
use serde_json::json;

use super::{DM, GROUP, OLD, Prepared, THREAD, command, run, source, timestamp};

#[test]
fn list_is_a_table_newest_first() {
    let store = Prepared::new();
    let ran = store.ok(&["list"]);
    let lines: Vec<_> = ran.out.lines().collect();
    assert_eq!(lines.len(), 6, "{}", ran.out);
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(
        words(lines[0]),
        ["IDLE", "LAST", "ACTIVE", "PLATFORM", "TYPE", "NAME", "STATE", "TOKENS", "SESSION", "KEY"]
    );
    for (line, key) in lines[1..5].iter().zip([GROUP, DM, THREAD, OLD]) {
        assert_eq!(line.split_whitespace().next_back(), Some(key));
    }
    assert!(lines[1].trim_start().starts_with("2 h "), "{}", lines[1]);
    assert!(lines[2].trim_start().starts_with("40 d "), "{}", lines[2]);
    assert!(lines[3].contains("  suspended  "), "{}", lines[3]);
    assert!(!lines[4].contains("suspended"), "{}", lines[4]);
    assert_eq!(lines[5], "4 of 4 entries");
    assert!(!ran.out.contains('\u{1b}'), "a name must not steer the terminal");
    assert!(lines[1].contains(r"a\u{1b}[2Jb"), "{}", lines[1]);
}

#[test]
fn list_shows_times_with_their_zone() {
    let store = Prepared::new();
    let updated = store.open().recent(1, None).unwrap().entries[0].updated_at;
    let utc: chrono::DateTime<chrono::Utc> = updated.into();
    let there = chrono::FixedOffset::east_opt(5 * 3600 + 1800).unwrap();
    for (zone, expected) in [
        ("UTC", utc.format("%Y-%m-%d %H:%M:%SZ").to_string()),
        ("Asia/Kolkata", utc.with_timezone(&there).format("%Y-%m-%d %H:%M:%S +05:30").to_string()),
    ] {
        let output = command(&store.db, &["list", "--limit", "1"]).env("TZ", zone).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains(&expected), "{expected} is not in {text}");
    }
}

#[test]
fn list_says_when_there_is_more() {
    let store = Prepared::new();
    assert!(store.ok(&["list", "--limit", "3"]).out.ends_with("3 of 4 entries (--limit shows more)\n"));
    assert!(store.ok(&["list", "--limit", "4"]).out.ends_with("\n4 of 4 entries\n"));
    assert_eq!(store.ok(&["list", "--limit", "2", "--json"]).keys(), [GROUP, DM]);
    assert_eq!(store.ok(&["list", "--limit", "all", "--json"]).keys().len(), 4);
    assert_eq!(store.ok(&["list", "--limit", "0", "--json"]).out, "");
}

#[test]
fn list_defaults_to_twenty() {
    let dir = tempfile::tempdir().unwrap();
    let db = dir.path().join("store");
    let options = cloakroom::Options::new(&db).create(true);
    let store = cloakroom::SessionStore::open(options).unwrap();
    for chat in 0..1005 {
        store.resolve(&source("discord", "group", &chat.to_string(), None, "1")).unwrap();
    }
    store.close().unwrap();
    drop(store);
    assert_eq!(run(&db, &["list", "--json"]).keys().len(), 20);
    // A table is laid out in blocks of a thousand. They have one heading and line up.
    let all = run(&db, &["list", "--limit", "all"]);
    assert_eq!(all.out.lines().filter(|line| line.contains("LAST ACTIVE")).count(), 1);
    assert!(all.out.ends_with("\n1,005 of 1,005 entries\n"));
    let starts: std::collections::BTreeSet<_> = all.out.lines().filter_map(|line| line.find("agent:main:")).collect();
    assert_eq!(starts.len(), 1, "{starts:?}");
}

#[test]
fn list_as_json_has_every_documented_field() {
    let store = Prepared::new();
    let id = store.id(GROUP);
    let lines = store.ok(&["list", "--json"]).json_lines();
    assert_eq!(lines.len(), 4);
    let group = lines[0].as_object().unwrap();
    let mut names: Vec<_> = group.keys().map(String::as_str).filter(|name| !name.ends_with("_epoch")).collect();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            "chat_type",
            "created_at",
            "display_name",
            "extras_bytes",
            "idle_seconds",
            "pinned",
            "platform",
            "resume_pending",
            "session_id",
            "session_key",
            "suspended",
            "total_tokens",
            "updated_at",
            "user_id"
        ]
    );
    assert_eq!(group["session_key"], GROUP);
    assert_eq!(group["session_id"], id.as_str());
    assert_eq!(group["platform"], "discord");
    assert_eq!(group["chat_type"], "group");
    assert_eq!(group["display_name"], "a\u{1b}[2Jb");
    assert_eq!(group["user_id"], "5678");
    assert_eq!(group["suspended"], false);
    assert_eq!(group["resume_pending"], false);
    let idle = group["idle_seconds"].as_u64().unwrap();
    assert!((7200..7260).contains(&idle), "{idle}");
    let since = SystemClock::new().now().since(timestamp(&group["updated_at"])).as_secs();
    assert!(since.abs_diff(idle) < 30, "{since} {idle}");
    assert_eq!(lines[2]["suspended"], true);
}

#[test]
fn list_filters() {
    let store = Prepared::new();
    let cases: [(&[&str], &[&str]); 12] = [
        (&["--active", "1h"], &[]),
        (&["--active", "3h"], &[GROUP]),
        (&["--active", "41d"], &[GROUP, DM]),
        (&["--idle", "30d"], &[DM, THREAD, OLD]),
        (&["--idle", "30d", "--active", "90d"], &[DM]),
        (&["--platform", "discord"], &[GROUP, THREAD]),
        (&["--platform", "disco"], &[]),
        (&["--chat-type", "dm"], &[DM, OLD]),
        (&["--prefix", "agent:main:discord:g"], &[GROUP]),
        (&["--user", "5678"], &[GROUP, THREAD]),
        (&["--suspended"], &[THREAD]),
        (&["--suspended=false"], &[GROUP, DM, OLD]),
    ];
    for (args, expected) in cases {
        let ran = store.ok(&[&["list", "--json"], args].concat());
        assert_eq!(ran.keys(), expected, "{args:?}");
    }
    let ran = store.ok(&["list", "--platform", "slack"]);
    assert!(ran.out.ends_with("\n1 of 4 entries\n"), "{}", ran.out);
    assert!(store.ok(&["list", "--platform", "irc"]).out.ends_with("\n0 of 4 entries\n"));
}

#[test]
fn list_leaves_out_what_does_not_read() {
    let store = Prepared::new();
    store.vandalize("sessions", |tree| drop(tree.insert(DM, b"nonsense").unwrap()));
    let ran = store.run(&["list", "--json"]);
    assert_eq!(ran.code, 1);
    assert_eq!(ran.keys(), [GROUP, THREAD, OLD]);
    assert!(ran.err.contains("error: left out because they cannot be decoded: 1; `cloakroom verify`"), "{}", ran.err);
    assert!(!ran.err.contains("99"), "logs are redacted: {}", ran.err);
}

#[test]
fn show_tells_everything() {
    let store = Prepared::new();
    let id = store.id(GROUP);
    let ran = store.ok(&["show", GROUP]);
    assert_eq!(ran.row("session key"), GROUP);
    assert_eq!(ran.row("session id"), id);
    assert!(ran.row("last active").ends_with("Z, 2 h 0 min ago"), "{}", ran.row("last active"));
    assert_eq!(ran.row("platform"), "discord");
    assert_eq!(ran.row("chat type"), "group");
    assert_eq!(ran.row("name"), r"a\u{1b}[2Jb");
    assert_eq!(ran.row("suspended"), "no");
    assert_eq!(ran.row("origin user id"), "5678");
    assert_eq!(ran.row("extra metadata"), r#"{"big":12345678901234567,"topic":"tea"}"#);
    assert_eq!(store.ok(&["show", THREAD]).row("suspended"), "yes");
    assert!(!ran.out.contains("last interaction"), "a gateway that keeps none gets no row");
    super::set_last_interaction(&store.open(), GROUP);
    let ran = store.ok(&["show", GROUP]);
    let used = ran.row("last active").split_once(',').unwrap().0;
    assert_eq!(ran.row("last interaction"), used);
}

#[test]
fn show_as_json_is_the_whole_entry() {
    let store = Prepared::new();
    let entry = store.open().get(&super::key(GROUP)).unwrap().unwrap();
    let shown = store.ok(&["show", GROUP, "--json"]).json_without_epochs();
    let mut expected = serde_json::to_value(&entry).unwrap();
    expected["extras"] = json!({"metadata": {"topic": "tea", "big": 12_345_678_901_234_567_u64}});
    expected["idle_seconds"] = shown["idle_seconds"].clone();
    assert_eq!(shown, expected);
    assert!((7200..7260).contains(&shown["idle_seconds"].as_u64().unwrap()));
    assert_eq!(shown["extras_bytes"], entry.extras_bytes);
    assert_eq!(shown["origin"]["chat_id"], "1234");
}

#[test]
fn find_lists_the_keys_of_a_session() {
    let store = Prepared::new();
    let id = store.id(DM);
    {
        let open = store.open();
        open.repoint(&super::key(OLD), id.parse().unwrap(), &Repoint::new()).unwrap();
        open.close().unwrap();
    }
    assert_eq!(store.ok(&["find", &id, "--json"]).keys(), [OLD, DM]);
    let ran = store.ok(&["find", &id]);
    assert!(ran.out.contains(DM) && ran.out.contains(OLD) && !ran.out.contains(GROUP), "{}", ran.out);
    assert!(ran.out.ends_with("\n2 of 4 entries\n"), "{}", ran.out);
    store.run(&["find", "nobody"]).failed(1, &["no entry has this session id: nobody"]);
}
