//! `prune`, `suspend`, `unsuspend`, `pin`, `unpin`, `reset`, `remove`, `rename`, `forget`.

use serde_json::json;

use super::{DAY, DM, GROUP, OLD, Prepared, THREAD, key, timestamp};
use cloakroom::prune::NoActivity;
use cloakroom::time::{Clock, ManualClock, SystemClock};
use cloakroom::{Error, Options, PrunePolicy, SessionStore};

fn keys(store: &Prepared) -> Vec<String> {
    store.ok(&["list", "--limit", "all", "--json"]).keys()
}

#[test]
fn prune_removes_the_idle_and_keeps_the_suspended() {
    let store = Prepared::new();
    let ran = store.ok(&["prune", "--max-age-days", "90", "--json"]);
    let report = ran.json_without_epochs();
    let cutoff = timestamp(&report["cutoff"]);
    let days = SystemClock::new().now().since(cutoff).as_secs() / 86_400;
    assert_eq!(days, 90);
    let protected = report["oldest_protected_seconds"].as_u64().unwrap();
    assert_eq!(protected / 86_400, 100);
    let expected = json!({
        "dry_run": false, "cutoff": report["cutoff"], "removed": 1, "kept_suspended": 1, "kept_pinned": 0, "kept_held": 0, "kept_active": 0,
        "guard_failed": 0, "kept_unreadable": 0, "touched_meanwhile": 0,
        "stale_rows_cleared": report["stale_rows_cleared"],
        "oldest_protected_seconds": protected, "stopped": false, "removed_over_entries": 0, "removed_over_bytes": 0,
        "unreadable": {"count": 0, "first": []}, "removed_active": 0, "entries_over_cap": 0, "live_bytes": null,
        "bytes_over_cap": 0, "clock_doubted": false,
        "protected": [{"key": THREAD, "reason": "suspended", "idle_seconds": protected}],
    });
    assert_eq!(report, expected);
    assert_eq!(keys(&store), [GROUP, DM, THREAD]);
}

/// Damage to one entry is an error of the verbs on that entry, and of no others.
#[test]
fn an_entry_that_does_not_read_is_kept_and_stops_nobody() {
    let store = Prepared::new();
    store.vandalize("sessions", |tree| assert!(tree.insert(OLD, vec![9, 9]).unwrap().is_some()));
    for dry_run in [true, false] {
        let args = ["prune", "--max-age-days", "90", "--json", "--dry-run"];
        let report = store.ok(&args[..args.len() - usize::from(!dry_run)]).json();
        let counts = ["removed", "kept_unreadable", "kept_suspended"].map(|name| report[name].as_u64().unwrap());
        assert_eq!(counts, [0, 1, 1], "{report}");
    }
    let open = store.open();
    let policy = PrunePolicy::max_age_days(90);
    assert_eq!(open.prune(&policy, NoActivity).unwrap().kept_unreadable, 1);
    assert!(matches!(open.remove(&key(OLD)), Err(Error::DamagedRecord { .. })));
    open.touch(&key(DM)).unwrap().unwrap().wait().unwrap();
    open.remove(&key(DM)).unwrap().unwrap().wait().unwrap();
    assert_eq!(open.len(), 3);
}

#[test]
fn prune_says_what_it_did() {
    let store = Prepared::new();
    let ran = store.ok(&["prune", "--max-age-days", "30"]);
    assert_eq!(ran.row("removed"), "2");
    assert_eq!(ran.row("kept, suspended"), "1");
    assert_eq!(ran.row("oldest kept has been idle for"), "100 d");
    assert_eq!(ran.row("entries in the store"), "2");
    assert_eq!(keys(&store), [GROUP, THREAD]);
}

#[test]
fn a_dry_run_removes_nothing() {
    let store = Prepared::new();
    let ran = store.ok(&["prune", "--max-age-days", "90", "--dry-run"]);
    assert_eq!(ran.row("would be removed"), "1");
    assert_eq!(ran.row("entries in the store"), "4");
    let report = store.ok(&["prune", "--max-age-days", "90", "--dry-run", "--json"]).json();
    assert_eq!((&report["dry_run"], &report["removed"]), (&json!(true), &json!(1)));
    assert_eq!(keys(&store).len(), 4);
}

#[test]
fn more_than_half_needs_a_yes() {
    let store = Prepared::new();
    store.ok(&["unsuspend", THREAD]);
    for args in
        [&["--max-age-days", "30"][..], &["--max-entries", "1"], &["--max-age-days", "90", "--max-entries", "1"]]
    {
        let args = [&["prune"], args].concat();
        store.run(&args).failed(2, &["3 of 4 entries", "--dry-run", "--yes"]);
        let ran = store.run(&[&args[..], &["--json"]].concat());
        assert_eq!((ran.code, &ran.json()["error"]["kind"]), (2, &json!("needs_yes")));
        let dry = [&args[..], &["--dry-run"]].concat();
        assert_eq!(store.ok(&dry).row("would be removed"), "3");
    }
    assert_eq!(keys(&store).len(), 4);
    assert_eq!(store.ok(&["prune", "--max-age-days", "90"]).row("removed"), "2", "no more than half");
    assert_eq!(store.ok(&["prune", "--max-entries", "1", "--yes"]).row("removed"), "1");
    assert_eq!(store.ok(&["prune", "--max-age-days", "1", "--yes"]).row("removed"), "0");
    assert_eq!(keys(&store), [GROUP]);
}

#[test]
fn nothing_is_pruned_while_the_clock_is_doubted() {
    let store = Prepared::new();
    {
        let clock = ManualClock::new(SystemClock::new().now().saturating_add(1000 * DAY));
        let ahead = SessionStore::open(Options::new(&store.db).clock(clock)).unwrap();
        for text in [GROUP, DM] {
            ahead.touch(&key(text)).unwrap().unwrap().wait().unwrap();
        }
        ahead.close().unwrap();
    }
    let ran = store.run(&["prune", "--max-age-days", "30"]);
    assert!(ran.code == 0 && ran.out.contains("the clock is doubted") && ran.row("removed") == "0", "{ran:?}");
    let report = store.run(&["prune", "--max-age-days", "30", "--json"]).json();
    assert_eq!((&report["clock_doubted"], &report["removed"]), (&json!(true), &json!(0)));
    let ran = store.run(&["verify"]);
    assert_eq!((ran.code, ran.row("times ahead of the clock")), (0, "2"));
    assert!(ran.out.contains("nothing ages"), "{}", ran.out);
}

#[test]
fn zero_days_prune_nothing() {
    let store = Prepared::new();
    let ran = store.ok(&["prune", "--max-age-days", "0"]);
    assert_eq!(ran.out, "0 days: pruning is off, nothing was removed\n");
    let report = store.ok(&["prune", "--max-age-days", "0", "--json"]).json();
    assert_eq!((&report["cutoff"], &report["removed"]), (&json!(null), &json!(0)));
    assert_eq!(keys(&store).len(), 4);
}

#[test]
fn suspend_and_unsuspend() {
    let store = Prepared::new();
    let before = store.open().get(&key(DM)).unwrap().unwrap();
    assert_eq!(store.ok(&["suspend", DM]).out, format!("suspended: {DM}\n"));
    let suspended = store.open().get(&key(DM)).unwrap().unwrap();
    assert!(suspended.suspended);
    assert_eq!(suspended.updated_at, before.updated_at);
    assert_eq!(store.ok(&["unsuspend", DM]).out, format!("no longer suspended: {DM}\n"));
    assert!(!store.open().get(&key(DM)).unwrap().unwrap().suspended);
    let said = store.ok(&["suspend", DM, "--json"]).json();
    assert_eq!(said, json!({"session_key": DM, "suspended": true}));
    let said = store.ok(&["unsuspend", DM, "--json"]).json();
    assert_eq!(said, json!({"session_key": DM, "suspended": false}));
}

#[test]
fn pin_and_unpin() {
    let store = Prepared::new();
    let before = store.open().get(&key(OLD)).unwrap().unwrap();
    assert_eq!(store.ok(&["pin", OLD]).out, format!("pinned: {OLD}\n"));
    let pinned = store.open().get(&key(OLD)).unwrap().unwrap();
    assert_eq!((pinned.pinned, pinned.updated_at), (true, before.updated_at));
    let ran = store.ok(&["prune", "--max-age-days", "90"]);
    assert_eq!((ran.row("removed"), ran.row("kept, pinned")), ("0", "1"));
    assert_eq!(store.ok(&["unpin", OLD]).out, format!("no longer pinned: {OLD}\n"));
    assert!(!store.open().get(&key(OLD)).unwrap().unwrap().pinned);
    assert_eq!(store.ok(&["pin", DM, "--json"]).json(), json!({"session_key": DM, "pinned": true}));
    assert_eq!(store.ok(&["unpin", DM, "--json"]).json(), json!({"session_key": DM, "pinned": false}));
}

#[test]
fn reset_starts_a_fresh_session() {
    let store = Prepared::new();
    let (first, other) = (store.id(THREAD), store.id(GROUP));
    let said = store.ok(&["reset", THREAD, "--json"]).json();
    let second = store.id(THREAD);
    assert_ne!(first, second);
    let expected = json!({
        "session_key": THREAD, "session_id": second, "prev_session_id": first, "kept": [], "dropped": [],
    });
    assert_eq!(said, expected);
    assert!(!store.open().get(&key(THREAD)).unwrap().unwrap().suspended);
    let ran = store.ok(&["reset", THREAD]);
    assert_eq!(ran.out, format!("reset to session {}: {THREAD}\n", store.id(THREAD)));
    assert_ne!(store.id(THREAD), second);
    assert_eq!(store.id(GROUP), other);
}

#[test]
fn remove_removes_one_entry() {
    let store = Prepared::new();
    assert_eq!(store.ok(&["remove", DM]).out, format!("removed: {DM}\n"));
    assert_eq!(keys(&store), [GROUP, THREAD, OLD]);
    let said = store.ok(&["remove", OLD, "--json"]).json();
    assert_eq!(said, json!({"session_key": OLD, "removed": true}));
    assert_eq!(keys(&store), [GROUP, THREAD]);
}

#[test]
fn remove_takes_a_prefix_only_with_the_right_number() {
    let store = Prepared::new();
    let discord = "agent:main:discord:";
    let remove = |rest: &[&str]| store.run(&[&["remove", "--prefix", discord], rest].concat());
    remove(&[]).failed(2, &["remove entries: 2", "nothing was removed", "--expect"]);
    for wrong in ["0", "1", "3"] {
        let named = [format!("expected: {wrong}"), "found: 2".into(), "nothing was removed".into()];
        remove(&["--expect", wrong]).failed(1, &named.each_ref().map(String::as_str));
    }
    let kind = |ran: super::Ran| ran.json()["error"]["kind"].clone();
    assert_eq!(kind(remove(&["--json"])), "needs_expect");
    assert_eq!(kind(remove(&["--expect", "3", "--json"])), "count_differs");
    assert_eq!(keys(&store), [GROUP, DM, THREAD, OLD]);
    let said = remove(&["--expect", "2", "--json"]);
    assert_eq!((said.code, &said.json()["removed"], &said.json()["changed"]), (0, &json!(2), &json!(0)), "{said:?}");
    assert_eq!(keys(&store), [DM, OLD], "a suspended one goes, too");
    assert_eq!(store.ok(&["remove", "--prefix", discord, "--expect", "0"]).out, "removed 0 entries\n");
    // Bytes are compared.
    assert_eq!(store.ok(&["remove", "--prefix", "agent:main:tele", "--expect", "1"]).out, "removed 1 entries\n");
    // One that cannot be decoded is in no number, and stays.
    store.vandalize("activity", |tree| {
        let (row, _) = tree.first().unwrap().unwrap();
        tree.insert(row, vec![9, 9]).unwrap();
    });
    store.run(&["remove", "--prefix", "agent:", "--expect", "1"]).failed(1, &["found: 0, and cannot be decoded: 1"]);
    let ran = store.run(&["remove", "--prefix", "agent:", "--expect", "0"]);
    assert_eq!((ran.code, ran.out.as_str()), (1, "removed 0 entries\n"));
    assert!(ran.err.contains("cannot be decoded: 1; `cloakroom verify`"), "{}", ran.err);
    for wrong in [&["remove"][..], &["remove", DM, "--prefix", "a"], &["remove", DM, "--expect", "1"]] {
        assert_eq!(store.run(wrong).code, 2, "{wrong:?}");
    }
    assert_eq!(store.run(&["remove", "--prefix", "", "--expect", "0"]).code, 2);
}

#[test]
fn unknown_keys_are_refused_by_name() {
    let store = Prepared::new();
    let unknown = "agent:main:irc:dm:1";
    for command in ["show", "suspend", "unsuspend", "pin", "unpin", "reset", "remove"] {
        store.run(&[command, unknown]).failed(1, &["no entry for this key", unknown, "`cloakroom list`"]);
    }
    assert_eq!(keys(&store).len(), 4);
}

#[test]
fn rename_and_forget_need_a_yes_and_say_what_they_did() {
    let store = Prepared::new();
    let all = keys(&store);
    let prefix = "agent:main:";
    for args in [&["rename", prefix, "agent:b:"][..], &["forget", prefix]] {
        store.run(args).failed(2, &["4 entries", "--yes"]);
    }
    store.run(&["rename", prefix, "agent:main:b:", "--yes"]).failed(1, &["begins with the other"]);
    assert_eq!(keys(&store), all);
    let report = store.ok(&["rename", prefix, "agent:b:", "--yes", "--json"]).json();
    assert_eq!((&report["moved"], &report["collisions"]), (&json!(4), &json!(0)));
    let renamed: Vec<_> = all.iter().map(|key| key.replace(prefix, "agent:b:")).collect();
    assert_eq!(keys(&store), renamed);

    // A key that is taken.
    let one = renamed[0].replace("agent:b:", "agent:c:");
    store.ok(&["rename", &renamed[0], &one, "--yes"]);
    store.ok(&["rename", &renamed[1], &one.replace("agent:c:", "agent:d:"), "--yes"]);
    store.run(&["rename", "agent:c:", "agent:d:", "--yes"]).failed(1, &["other entries have: 1", "agent:d:"]);

    assert_eq!(store.ok(&["forget", "agent:c:", "--yes", "--json"]).json()["removed"], json!(1));
    let ran = store.ok(&["forget", "agent:", "--yes"]);
    assert!(ran.out.contains("removed 3 entries") && ran.out.contains("cloakroom compact"));
    assert!(keys(&store).is_empty());
    assert_eq!(store.run(&["forget", "", "--yes"]).code, 2);
}
