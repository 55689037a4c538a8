//! A child is killed just before its N-th call that changes a file, for each N.
//!
//! First while it creates a store, then while it opens one, commits, prunes and closes, then in a longer run of all
//! verbs. `CLOAKROOM_KILL_CALLS` sets how many calls are looked at in that order (by default those of the first two);
//! any large number means all that there are.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;

use cloakroom::SessionStore;

use crate::battery::Battery;
use crate::common::{chain, options};
use crate::powercut::{DATABASE, look};
use crate::rig::{CHILD_PART, CHILD_ROOT, Failure, Inject, Rig, copy_tree};
use crate::rig_selftest::ack;
use crate::workload::{Expected, Plan, run};

const MAIN: &str = "kill_calls::child_main";
const SIGKILL: i32 = 9;
/// The part of a child that only opens the store.
const OPEN: &str = "open";

/// What makes the store that the second and third child find.
const BEFORE: Plan = Plan { seed: 70, steps: 60, metadata_bytes: 3000, ..Plan::SMALL };

const CHILDREN: [Plan; 3] = [
    Plan { seed: 71, steps: 0, ..Plan::SMALL },
    Plan { seed: 75, steps: 8, await_one_in: 1, metadata_bytes: 3000, round: 1, close: 1, ..Plan::SMALL },
    Plan { seed: 73, steps: 300, metadata_bytes: 6000, round: 1, close: 1, ..Plan::SMALL },
];

#[test]
fn child_main() {
    let (Ok(plan), Ok(root)) = (std::env::var(CHILD_PART), std::env::var(CHILD_ROOT)) else {
        return;
    };
    let root = Path::new(&root);
    if plan == OPEN {
        drop(SessionStore::open(options(&root.join("sessions.db")).create(false)).unwrap());
        return;
    }
    run(&root.join("sessions.db"), Plan::from_line(&plan), &|line| ack(root, line));
}

/// Runs the child up to a call, or to its end. Answers how many calls there were, if it came to its end.
fn run_to(number: usize, base: &Path, call: Option<u64>) -> (Rig, Option<u64>) {
    let rig = Rig::new();
    if number > 0 {
        fs::remove_dir(rig.root()).unwrap();
        copy_tree(base, rig.root()).unwrap();
    }
    let mut child = rig.child(MAIN, &CHILDREN[number].to_line());
    if let Some(call) = call {
        child.kill_at(call);
    }
    let output = child.output().unwrap();
    if output.status.signal() == Some(SIGKILL) {
        return (rig, None);
    }
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let calls = rig.counts().changes;
    (rig, Some(calls))
}

#[test]
fn a_kill_before_any_call_loses_nothing_awaited() {
    let base = Rig::new();
    assert!(base.child(MAIN, &BEFORE.to_line()).status().unwrap().success());
    let calls: Vec<u64> = (0..3).map(|number| run_to(number, base.root(), None).1.unwrap()).collect();
    println!("{calls:?} calls");
    let (mut kills, all) = (0, calls.iter().sum());
    Battery::new("kill_calls", calls[0] + calls[1]).run(|case, _| {
        if case >= all {
            return;
        }
        let number = if case < calls[0] { 0 } else { 1 + usize::from(case >= calls[0] + calls[1]) };
        let call = case - calls[..number].iter().sum::<u64>() + 1;
        let (rig, ended) = run_to(number, base.root(), Some(call));
        kills += u64::from(ended.is_none());
        let told = fs::read_to_string(rig.root().join("acks")).unwrap_or_default();
        let told: Vec<String> = told.lines().map(str::to_owned).collect();
        look(&rig.root().join("sessions.db"), &Expected::from_lines(&told))
            .unwrap_or_else(|error| panic!("child {number}, killed before call {call}: {error}"));
    });
    println!("{kills} kills");
}

/// A sync fails, and the process is killed before it can say so: what it believed written is not on disk, and the next
/// one must not build on it. Other syncs may fail unknown: those of the state file, and of sled when all is on disk.
#[test]
fn a_kill_right_after_a_failed_sync_is_known_to_the_next_opening() {
    let base = Rig::new();
    assert!(base.child(MAIN, &BEFORE.to_line()).status().unwrap().success());
    let mut rewritten = 0;
    for at in 1..=40 {
        let rig = Rig::new();
        fs::remove_dir(rig.root()).unwrap();
        copy_tree(base.root(), rig.root()).unwrap();
        let mut child = rig.child(MAIN, &CHILDREN[1].to_line());
        let failure = Failure { at, errno: 5, kinds: "sync", mode: "kill" };
        let output = child.fail(&failure).output().unwrap();
        if output.status.signal() != Some(SIGKILL) {
            // One of sled's hints to the kernel: the process heard of it.
            continue;
        }
        let lost = rig.trace().unsynced_parts(DATABASE);
        let mut opener = rig.child(MAIN, OPEN);
        assert!(opener.status().unwrap().success());
        let written = rig.trace();
        assert!(written.unsynced_parts(DATABASE).is_empty());
        let written: Vec<_> = written.writes_to(DATABASE).into_iter().map(|w| w.offset..w.offset + w.len).collect();
        for part in &lost {
            let missing = part.clone().find(|byte| !written.iter().any(|part| part.contains(byte)));
            assert_eq!(missing, None, "sync {at} did not save {lost:?}, and the opening wrote {written:?}");
        }
        rewritten += usize::from(!lost.is_empty());
        let path = rig.root().join("sessions.db");
        SessionStore::open(options(&path).create(false)).unwrap_or_else(|error| panic!("{}", chain(&error)));
    }
    // One for each of the eight steps at least.
    assert!(rewritten >= 8, "only {rewritten} syncs that failed had anything to save");
}
