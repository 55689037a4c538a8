//! `turns`, `leases`, `resume-pending`, `config check`, and `prune` by a config file and caps.

use std::fs;
use std::time::Duration;

use cloakroom::time::{Clock, ManualClock, SystemClock};
use cloakroom::{Options, SessionStore};
use serde_json::json;

use super::{DM, GROUP, OLD, Prepared, THREAD, key, run, timestamp};
use crate::turns::copy;

const CONFIG: &str = r#"
other = "somebody else's"
session_store_max_age_days = "30"
session_store_max_entries = 3
session_store_max_active_days = 180
session_store_max_disk_bytes = 1000000

[session_reset]
mode = "both"
time_zone = "Europe/Berlin"
[session_reset.platforms.discord]
mode = "idle"
idle_minutes = 60
[session_reset.chat_types.dm]
mode = "none"
"#;

fn with_config(store: &Prepared, text: &str) -> String {
    let file = store.db.with_file_name("config.toml");
    fs::write(&file, text).unwrap();
    file.to_str().unwrap().to_owned()
}

#[test]
fn turns_that_a_crash_interrupted_are_listed_and_recovered() {
    let store = Prepared::new();
    let crashed = store.db.with_file_name("crashed");
    {
        let open = store.open();
        open.begin_turn(&key(GROUP)).unwrap().unwrap().receipt.wait().unwrap();
        copy(&store.db, &crashed);
    }
    assert_eq!(store.ok(&["turns", "--json"]).out, "", "it was closed properly");
    // Looking changes nothing.
    for _ in 0..2 {
        let lines = run(&crashed, &["turns", "--json"]).json_lines();
        assert_eq!((lines.len(), &lines[0]["session_key"], &lines[0]["interrupted"]), (1, &json!(GROUP), &json!(true)));
    }
    let text = run(&crashed, &["turns"]).out;
    assert!(
        text.contains(GROUP)
            && text.contains("INTERRUPTED")
            && text.contains("  yes  ")
            && text.contains("1 open turns"),
        "{text}"
    );
    let recovered = run(&crashed, &["turns", "--recover", "1h", "--json"]).json();
    let cleared = json!({"resumable": [GROUP], "already_pending": [], "stale": 0, "suspended": 0, "orphaned": 0,
        "unreadable": 0});
    assert_eq!(recovered, cleared);
    assert_eq!(run(&crashed, &["turns", "--json"]).out, "");
    let pending = run(&crashed, &["resume-pending", "--json"]).json_lines();
    assert_eq!((pending.len(), &pending[0]["reason"]), (1, &json!("interrupted_turn")));
    assert_eq!(run(&crashed, &["turns", "--recover", "1h"]).row("resume pending"), "0");
}

#[test]
fn leases_are_listed_and_one_that_cannot_be_decoded_is_told() {
    let store = Prepared::new();
    assert_eq!(store.ok(&["leases", "--json"]).out, "");
    let (now, hour) = (SystemClock::new().now(), Duration::from_secs(3600));
    {
        let clock = ManualClock::new(now.saturating_sub(2 * hour));
        let open = SessionStore::open(Options::new(&store.db).clock(clock.clone())).unwrap();
        let hold = |entry: &str, name, end| open.hold_until(&key(entry), name, end).unwrap().unwrap();
        hold(OLD, "job", now.saturating_add(hour));
        hold(DM, "ended", now.saturating_sub(hour));
        clock.advance(hour);
        hold(GROUP, "a\u{202e}b", now.saturating_add(hour));
        let _of_the_process = open.hold(&key(DM)).unwrap().unwrap();
        open.close().unwrap();
    }
    let leases = store.ok(&["leases", "--json"]).json_lines();
    assert_eq!(leases.iter().map(|lease| &lease["session_key"]).collect::<Vec<_>>(), [OLD, GROUP]);
    assert_eq!((&leases[0]["name"], timestamp(&leases[0]["end"])), (&json!("job"), now.saturating_add(hour)));
    assert_eq!(leases[0]["age_seconds"].as_u64().unwrap() / 3600, 2);
    let text = store.ok(&["leases"]).out;
    assert!(["TAKEN", OLD, "job", "2 h", "a\\u{202e}b", "2 leases"].iter().all(|part| text.contains(part)), "{text}");
    let ran = store.ok(&["prune", "--max-age-days", "90"]);
    assert_eq!((ran.row("removed"), ran.row("kept, held")), ("0", "1"));
    store.vandalize("leases", |tree| {
        let (row, _) = tree.first().unwrap().unwrap();
        tree.insert(row, b"x").unwrap();
    });
    for args in [&["leases"][..], &["leases", "--json"]] {
        let ran = store.run(args);
        assert!(ran.code == 1 && ran.err.contains("cannot be decoded: 1"), "{ran:?}");
    }
}

#[test]
fn resume_pending_marks_lists_and_clears() {
    let store = Prepared::new();
    assert_eq!(store.ok(&["resume-pending", "--json"]).out, "");
    assert_eq!(store.ok(&["resume-pending", DM, "--reason", "restart"]).out, format!("to be resumed: {DM}\n"));
    let listed = store.ok(&["resume-pending", "--json"]).json_lines();
    assert_eq!((listed.len(), &listed[0]["session_key"], &listed[0]["reason"]), (1, &json!(DM), &json!("restart")));
    assert!(store.ok(&["resume-pending"]).out.contains(DM));
    let said = store.ok(&["resume-pending", DM, "--clear", "--json"]).json();
    assert_eq!(said, json!({"session_key": DM, "resume_pending": false}));
    assert!(!store.open().get(&key(DM)).unwrap().unwrap().resume_pending);
    store.run(&["resume-pending", THREAD]).failed(1, &["it is suspended"]);
    store.run(&["resume-pending", "agent:main:irc:dm:1"]).failed(1, &["no entry for this key"]);
    assert_eq!(store.run(&["resume-pending", "--clear"]).code, 2);
}

#[test]
fn config_check_prints_what_is_in_force() {
    let store = Prepared::new();
    let file = with_config(&store, CONFIG);
    let ran = store.ok(&["config", "check", "--config", &file]);
    assert_eq!(ran.row("prune what has been idle for"), "30 days");
    assert_eq!(ran.row("active protects for"), "180 days");
    assert_eq!(ran.row("entries at most"), "3");
    assert_eq!(ran.row("reset, default"), "idle for more than 1440 minutes, or daily at 04:00 (Europe/Berlin)");
    assert_eq!(ran.row("reset, platform discord"), "idle for more than 60 minutes");
    assert_eq!(ran.row("reset, chat type dm"), "none");
    let json = store.ok(&["config", "check", "--config", &file, "--json"]).json();
    assert_eq!((&json["session_store_max_age_days"], &json["policies"]["chat type dm"]), (&json!(30), &json!("none")));
    assert_eq!(json["session_reset"]["platforms"]["discord"]["idle_minutes"], 60);
    let defaults = store.ok(&["config", "check"]);
    assert_eq!((defaults.row("prune what has been idle for"), defaults.row("reset, default")), ("90 days", "none"));
}

#[test]
fn config_check_refuses_what_cannot_be_meant() {
    let store = Prepared::new();
    let cases = [
        ("session_store_max_age = 30", "session_store_max_age"),
        ("[session_reset]\nidle = 3", "session_reset.idle"),
        ("[session_reset.platforms.discord]\nhour = 3", "session_reset.platforms.discord.hour"),
        ("[session_reset]\nmode = \"weekly\"", "weekly"),
        ("[session_reset]\nat_hour = 24", "at_hour is 24 in [session_reset]: hours of a day are 0 to 23"),
        ("[session_reset.platforms.discord]\nat_hour = 300", "at_hour is 300 in [session_reset.platforms.discord]:"),
        ("[session_reset]\ntime_zone = \"Mars/Base\"", "time_zone is \"Mars/Base\" in [session_reset]:"),
        (
            "[session_reset.chat_types.dm]\ntime_zone = \"Mars\"",
            "time_zone is \"Mars\" in [session_reset.chat_types.dm]:",
        ),
        ("session_store_max_age_days = ", "(line 1)"),
    ];
    for (text, part) in cases {
        let file = with_config(&store, text);
        store.run(&["config", "check", "--config", &file]).failed(1, &[part]);
    }
    store.run(&["config", "check", "--config", "/nowhere.toml"]).failed(1, &["/nowhere.toml"]);
}

#[test]
fn prune_takes_the_config_file_and_flags_take_its_place() {
    let store = Prepared::new();
    let file = with_config(&store, CONFIG);
    let dry = |args: &[&str]| store.ok(&[&["prune", "--dry-run", "--json"], args].concat()).json();
    assert_eq!(dry(&["--config", &file])["removed"], 2, "DM and OLD are older than 30 days");
    let report = dry(&["--config", &file, "--max-age-days", "90"]);
    assert_eq!((&report["removed"], &report["removed_over_entries"]), (&json!(1), &json!(0)));
    assert!(report["live_bytes"].as_u64().unwrap() > 100);
    let report = dry(&["--config", &file, "--max-age-days", "0"]);
    assert_eq!((&report["removed"], &report["removed_over_entries"]), (&json!(1), &json!(1)));
    let ran = store.ok(&["prune", "--max-entries", "0"]);
    assert_eq!(ran.out, "0 days: pruning is off, nothing was removed\n");
    let ran = store.ok(&["prune", "--max-entries", "2", "--max-active-age", "180d"]);
    assert_eq!((ran.row("removed"), ran.row("of them, too many")), ("2", "2"));
    assert_eq!(store.ok(&["list", "--json"]).keys(), [GROUP, THREAD], "{OLD} and {DM} are gone");
}
