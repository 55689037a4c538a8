//! What the program refuses, and how it ends.

use std::fs::{self, OpenOptions};
use std::io::{Read, pipe};
use std::process::Stdio;

use super::{DM, GROUP, Prepared, Ran, command, run};
use crate::rig::rebuild::Survival;
use crate::rig::{Failure, Inject, Rig};
use crate::rig_selftest::cut;

/// Each command but those that make a store, with arguments that are right.
const COMMANDS: [&[&str]; 18] = [
    &["backup", "/nonexistent/backup"],
    &["compact"],
    &["turns"],
    &["leases"],
    &["resume-pending", GROUP],
    &["list"],
    &["show", GROUP],
    &["find", "some-id"],
    &["prune", "--max-age-days", "90"],
    &["suspend", GROUP],
    &["unsuspend", GROUP],
    &["pin", GROUP],
    &["unpin", GROUP],
    &["reset", GROUP],
    &["remove", GROUP],
    &["remove", "--prefix", GROUP, "--expect", "1"],
    &["stats"],
    &["verify"],
];

#[test]
fn a_missing_store_stays_missing() {
    let dir = tempfile::tempdir().unwrap();
    let db = dir.path().join("store");
    for args in COMMANDS {
        run(&db, args).failed(1, &["there is no store at", db.to_str().unwrap(), "migrate"]);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "{args:?} left something");
    }
}

#[test]
fn the_default_store_is_in_the_working_directory() {
    let dir = tempfile::tempdir().unwrap();
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_cloakroom"))
        .arg("list")
        .current_dir(dir.path())
        .output()
        .unwrap();
    Ran::from(output).failed(1, &["there is no store at ./sessions.db"]);
}

#[test]
fn a_file_in_the_place_of_the_store_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let db = dir.path().join("store");
    fs::write(&db, b"a file").unwrap();
    for args in COMMANDS {
        run(&db, args).failed(1, &["is not a store: it is a file", db.to_str().unwrap(), "--db"]);
    }
    run(&db.join("below"), &["list"]).failed(1, &["a part of the path is a file"]);
    assert_eq!(fs::read(&db).unwrap(), b"a file");
}

#[test]
fn a_directory_of_something_else_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    run(dir.path(), &["list"]).failed(1, &["is not a store", "it is empty"]);
    fs::write(dir.path().join("notes.txt"), b"mine").unwrap();
    run(dir.path(), &["list"]).failed(1, &["is not a store", "notes.txt"]);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn a_store_in_use_names_who_uses_it() {
    let store = Prepared::new();
    let open = store.open();
    let holder = format!("is in use by process {}", std::process::id());
    for args in COMMANDS {
        store.run(args).failed(1, &[&holder, store.db.to_str().unwrap(), "stop that program"]);
    }
    open.close().unwrap();
    drop(open);
    store.ok(&["list"]);
}

#[test]
fn a_store_of_a_newer_format_is_refused() {
    let store = Prepared::new();
    store.vandalize("meta", |tree| {
        let mut format = tree.get("format").unwrap().unwrap().to_vec();
        *format.last_mut().unwrap() += 1;
        tree.insert("format", format).unwrap();
    });
    store.run(&["list"]).failed(1, &["has format 6", "use a newer cloakroom"]);
}

#[test]
fn wrong_use_is_told_apart() {
    let store = Prepared::new();
    let cases: [(&[&str], &str); 20] = [
        (&[], "Usage:"),
        (&["lst"], "unrecognized subcommand"),
        (&["list", "--nope"], "--nope"),
        (&["list", "extra"], "extra"),
        (&["list", "--limit", "some"], "give a number or `all`"),
        (&["list", "--limit", "-1"], "-1"),
        (&["list", "--active", "30"], "time unit needed"),
        (&["list", "--idle", "soon"], "soon"),
        (&["list", "--suspended=perhaps"], "perhaps"),
        (&["show"], "<KEY>"),
        (&["show", "_README"], "begins with '_'"),
        (&["suspend", "a/../b"], "it holds \"..\""),
        (&["unsuspend", ""], "it is empty"),
        (&["reset", "C:key"], "drive letter"),
        (&["remove", "/etc"], "begins with '/'"),
        (&["find", "a/b"], "an id becomes a file name"),
        (&["prune"], "--max-age-days <N>"),
        (&["prune", "--max-age-days", "-1"], "-1 is not in 0.."),
        (&["prune", "--max-age-days", "ninety"], "ninety"),
        (&["stats", "--limit", "1"], "--limit"),
    ];
    for (args, part) in cases {
        let ran = store.run(args);
        assert_eq!((ran.code, ran.out.as_str()), (2, ""), "{args:?}: {}", ran.err);
        assert!(ran.err.contains(part), "{args:?}: {part:?} is not in {}", ran.err);
    }
    assert_eq!(store.ok(&["stats"]).row("entries"), "4");
}

#[test]
fn wrong_use_needs_no_store() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(run(&dir.path().join("store"), &["show", "_README"]).code, 2);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn help_documents_the_json() {
    let store = Prepared::new();
    let helps: [(&str, &[&str]); 11] = [
        ("backup", &["entries", "turns", "notes", "bytes", "seconds"]),
        ("restore", &["entries", "turns", "notes", "bytes", "seconds"]),
        ("compact", &["entries", "bytes_before", "bytes_after", "seconds"]),
        ("list", &["session_key", "idle_seconds", "resume_pending", "display_name"]),
        ("show", &["extras", "idle_seconds"]),
        ("prune", &["removed", "kept_suspended", "guard_failed", "touched_meanwhile", "kept_unreviewed", "failure"]),
        ("stats", &["bytes_on_disk", "by_platform", "by_chat_type", "open_turns", "members"]),
        ("verify", &["violations", "shortfall", "stale_rows", "without_hint"]),
        ("tail", &["session_key", "reason", "from"]),
        ("turns", &["token", "interrupted"]),
        ("leases", &["name", "null for one that lives with its process"]),
    ];
    for (command, names) in helps {
        let help = store.ok(&[command, "--help"]).out;
        for name in names {
            assert!(help.contains(name), "`{command} --help` does not tell {name}");
        }
    }
    assert!(store.ok(&["--help"]).out.contains("Exit codes: 0 done, 1 failed, 2 wrong use, 3"));
    assert!(store.ok(&["--version"]).out.starts_with("cloakroom "));
}

#[test]
fn a_reader_that_leaves_is_no_failure() {
    let store = Prepared::new();
    let cases: [(&[&str], i32); 5] = [
        (&["list"], 0),
        (&["list", "--json", "--limit", "all"], 0),
        (&["show", GROUP, "--json"], 0),
        (&["stats"], 0),
        (&["suspend", DM], 0),
    ];
    for (args, code) in cases {
        let (reader, writer) = pipe().unwrap();
        // Gone before the first byte is written.
        drop(reader);
        let ended = command(&store.db, args).stdout(writer).stderr(Stdio::piped()).output().unwrap();
        let err = String::from_utf8_lossy(&ended.stderr);
        assert_eq!((ended.status.code(), &*err), (Some(code), ""), "{args:?}");
    }
    assert!(store.ok(&["show", DM]).row("suspended") == "yes", "the change is made all the same");

    store.vandalize("activity", |tree| drop(tree.pop_min().unwrap()));
    let (reader, writer) = pipe().unwrap();
    drop(reader);
    let ended = command(&store.db, &["verify"]).stdout(writer).output().unwrap();
    assert_eq!(ended.status.code(), Some(3), "what verify found is not lost with the reader");
}

#[test]
fn a_reader_that_leaves_in_the_middle_is_no_failure_either() {
    let store = Prepared::new();
    store.fill(2000);
    let (mut reader, writer) = pipe().unwrap();
    let mut command = command(&store.db, &["list", "--json", "--limit", "all"]);
    let mut child = command.stdout(writer).stderr(Stdio::piped()).spawn().unwrap();
    // The command keeps our copy of the writing end.
    drop(command);
    let mut first = [0; 1];
    reader.read_exact(&mut first).unwrap();
    drop(reader);
    let mut err = String::new();
    child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
    assert_eq!((child.wait().unwrap().code(), err.as_str()), (Some(0), ""));
}

/// A pager that stands at its end reads no more until somebody presses a key.
#[test]
fn a_reader_that_does_not_read_keeps_no_store_locked() {
    let store = Prepared::new();
    // More than a pipe holds; with the metadata more than is kept in memory.
    store.fill(1500);
    let commands: [&[&str]; 4] = [
        &["list", "--limit", "all"],
        &["list", "--limit", "all", "--json"],
        &["export", "--format", "hermes"],
        &["backup", "-"],
    ];
    for args in commands {
        let (mut reader, writer) = pipe().unwrap();
        let mut command = command(&store.db, args);
        let mut child = command.stdout(writer).spawn().unwrap();
        drop(command);
        let mut out = vec![0; 1];
        reader.read_exact(&mut out).unwrap();
        assert!(child.try_wait().unwrap().is_none(), "{args:?}: there is more to be printed than the pipe takes");
        assert_eq!(store.open().len(), 1504, "{args:?}");
        reader.read_to_end(&mut out).unwrap();
        assert!(child.wait().unwrap().success(), "{args:?}");
        assert!(args[0] == "list" || out.len() > 1 << 20, "{args:?}: {} bytes", out.len());
        // Nothing of it is missing.
        match args {
            ["backup", ..] => {
                let file = store.db.with_file_name("backup");
                fs::write(&file, out).unwrap();
                let ran = run(&store.db.with_file_name("back"), &["restore", file.to_str().unwrap()]);
                assert!(ran.out.starts_with("restored: 1,504 entries"), "{}", ran.err);
            }
            ["export", ..] => assert!(store.ok(args).out.as_bytes() == out, "{args:?}"),
            _ => {
                let lines = String::from_utf8(out).unwrap().lines().count();
                assert_eq!(lines, store.ok(args).out.lines().count(), "{args:?}");
            }
        }
    }
}

#[test]
fn a_full_disk_behind_standard_output_is_told() {
    let Ok(full) = OpenOptions::new().write(true).open("/dev/full") else { return };
    let store = Prepared::new();
    let ended = command(&store.db, &["list"]).stdout(full).stderr(Stdio::piped()).output().unwrap();
    let err = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(1));
    assert!(err.starts_with("error: could not write to standard output: "), "{err}");
}

#[test]
fn the_log_goes_to_standard_error() {
    let store = Prepared::new();
    let quiet = store.ok(&["list", "--json"]);
    let ended = command(&store.db, &["list", "--json"]).env("CLOAKROOM_LOG", "trace").output().unwrap();
    assert!(!ended.stderr.is_empty());
    assert_eq!(Ran::from(ended).keys(), quiet.keys());
}

#[test]
fn a_change_is_told_only_if_it_is_durable() {
    let suspend = |at| {
        let rig = Rig::new();
        let db = rig.root().join("store");
        Prepared::in_directory(&db);
        let mut command = rig.command(env!("CARGO_BIN_EXE_cloakroom"));
        command.args(["suspend", DM, "--db"]).arg(&db);
        command.fail(&Failure { at, errno: 5, kinds: "sync", mode: "forever" });
        let ran = Ran::from(command.output().unwrap());
        (rig, ran)
    };
    let (rig, ran) = suspend(u64::MAX);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    let syncs = rig.counts().matches;
    let mut failed = 0;
    for at in 1..=syncs {
        let (rig, ran) = suspend(at);
        if ran.code == 0 {
            assert_eq!(ran.out, format!("suspended: {DM}\n"));
            let trace = rig.trace();
            let state = cut(&trace, trace.len(), Survival::OnlySynced);
            let shown = run(&state.path().join("store"), &["show", DM]);
            assert_eq!(shown.row("suspended"), "yes", "told, but lost in a power cut after a failure of sync {at}");
        } else {
            failed += 1;
            assert_eq!((ran.code, ran.out.as_str()), (1, ""), "sync {at} failed");
            let last = ran.err.lines().last().unwrap();
            assert!(last.starts_with("error: ") && !last.contains("bug"), "sync {at} failed: {}", ran.err);
        }
    }
    assert!(failed > 0, "none of {syncs} syncs mattered");
}

/// Whoever built the program otherwise is told how.
#[cfg(not(feature = "valkey"))]
#[test]
fn a_store_on_a_cluster_needs_a_feature() {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_cloakroom"))
        .args(["--url", "valkey://127.0.0.1:1/st", "list"])
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && said.contains("feature `valkey`") && said.contains("--features"), "{said}");
}
