//! Power cuts: only what was synced is sure to be left.
//!
//! A child works under the rig, which records each write and each sync. Then the files are rebuilt as a cut at some
//! moment may leave them, and the store must open with everything that the child had awaited by then.
//! `CLOAKROOM_CUTS` sets how many states are looked at in all (250), by several tests. Each keeps its own count.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use cloakroom::{Error, SessionStore};

use crate::battery::Battery;
use crate::common::{chain, fast_dir, options};
use crate::rig::file_model::Dice;
use crate::rig::rebuild::{Model, Survival};
use crate::rig::trace::{Op, Trace};
use crate::rig::{CHILD_PART, CHILD_ROOT, Rig};
use crate::rig_selftest::assert_trace_is_complete;
use crate::workload::{Expected, MAX_OPEN, Plan, open, run, source};

const MAIN: &str = "powercut::child_main";
/// The part of a child that touches everything at once.
const ALL_WAKE: &str = "all wake";
/// The bound on what is written between two syncs.
const MAX_UNSYNCED: u64 = 512 * 1024;
/// sled's file, by the name it has from its creation on.
pub const DATABASE: &str = "sled/db";

#[test]
fn child_main() {
    let (Ok(plan), Ok(root)) = (std::env::var(CHILD_PART), std::env::var(CHILD_ROOT)) else {
        return;
    };
    let root = Path::new(&root);
    let acks = OpenOptions::new().append(true).create(true).open(root.join("acks")).unwrap();
    let acks = Mutex::new(acks);
    if plan == ALL_WAKE {
        return wake_all(&root.join("sessions.db"), &|line| {
            acks.lock().unwrap().write_all(format!("{line}\n").as_bytes()).unwrap();
        });
    }
    run(&root.join("sessions.db"), Plan::from_line(&plan), &|line| {
        acks.lock().unwrap().write_all(format!("{line}\n").as_bytes()).unwrap();
    });
}

fn traced(plan: Plan) -> Trace {
    traced_part(&plan.to_line())
}

fn traced_part(part: &str) -> Trace {
    let rig = Rig::new();
    let output = rig.child(MAIN, part).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let trace = rig.trace();
    assert_trace_is_complete(&rig, &trace);
    trace
}

/// The first moment at which the lines say so.
fn first_at(trace: &Trace, say: impl Fn(&[String]) -> bool) -> usize {
    let (mut from, mut to) = (0, trace.len());
    while from < to {
        let at = (from + to) / 2;
        if say(&trace.acks_before(at)) { to = at } else { from = at + 1 }
    }
    from
}

/// States that are looked at of one recorded run.
const STATES: usize = 80;

/// Records runs, each with a seed of its own, and looks at so many states of each that a test with this share in all
/// of them comes to its number. The battery counts the runs.
fn runs(name: &str, percent: usize, most: usize, mut run: impl FnMut(u64, usize, &mut Dice)) {
    let all: usize = std::env::var("CLOAKROOM_CUTS").map_or(250, |cuts| cuts.parse().unwrap());
    let share = (all * percent).div_ceil(100);
    let states = most.min(share);
    println!("{name}: {states} states of each run");
    Battery::new(name, share.div_ceil(states) as u64).run(|case, mut dice| run(1000 * case, states, &mut dice));
}

/// Looks at `states` states between two operations. Every other one keeps only what was synced.
fn cut(trace: &Trace, states: usize, (from, to): (usize, usize), seed: u64) {
    let mut dice = Dice(seed);
    let mut moments: Vec<usize> = (0..states.div_ceil(2)).map(|_| from + dice.roll(to - from + 1)).collect();
    moments.sort_unstable();
    let mut model = Model::new(trace);
    for (n, at) in moments.into_iter().enumerate() {
        model.advance(at);
        for survival in [Survival::OnlySynced, Survival::Random { seed: seed + n as u64 }] {
            let out = fast_dir();
            model.write(survival, out.path()).unwrap();
            let expected = Expected::from_lines(&trace.acks_before(at));
            if let Err(error) = look(&out.path().join("sessions.db"), &expected) {
                panic!("cut at {at} of {}, {survival:?}, {} entries told: {error}", trace.len(), expected.len());
            }
        }
    }
}

/// Opens what a cut has left and checks it.
pub fn look(path: &Path, expected: &Expected) -> Result<(), String> {
    let started = Instant::now();
    let store = match SessionStore::open(options(path).create(false)) {
        Ok(store) => store,
        // Its creation had not been told: then there may be nothing, or an empty directory.
        Err(Error::NotFound { .. } | Error::NotAStore { .. }) if !expected.opened => {
            SessionStore::open(options(path)).map_err(|error| format!("create: {}", chain(&error)))?
        }
        Err(error) => return Err(format!("open: {}", chain(&error))),
    };
    let took = started.elapsed();
    if took > MAX_OPEN {
        return Err(format!("opening took {took:?}"));
    }
    expected.check(&store)?;
    if expected.closed && !store.open_report().clean {
        return Err("it was closed, and is not clean".into());
    }
    store.close().map_err(|error| format!("close: {}", chain(&error)))?;
    drop(store);
    // And once more, after what the opening repaired.
    let again = SessionStore::open(options(path).create(false)).map_err(|error| format!("again: {}", chain(&error)))?;
    expected.check(&again).map_err(|error| format!("again: {error}"))
}

fn assert_bounded(trace: &Trace) {
    let most = trace.unsynced_high_water(DATABASE);
    let written: u64 = trace.writes_to(DATABASE).iter().map(|write| write.len).sum();
    println!("{written} bytes written, at most {most} of them between two syncs");
    let writes = || trace.most_unsynced(DATABASE);
    assert!(most <= MAX_UNSYNCED, "{most} bytes were written without a sync, at {:?}", writes());
}

#[test]
fn one_thread() {
    runs("cuts_one_thread", 20, STATES, |seed, states, _| {
        let trace = traced(Plan { seed: seed + 11, steps: 400, ..Plan::SMALL });
        assert_bounded(&trace);
        cut(&trace, states, (0, trace.len()), seed + 1);
    });
}

#[test]
fn three_threads() {
    runs("cuts_three_threads", 20, STATES, |seed, states, _| {
        let trace = traced(Plan { seed: seed + 12, threads: 3, steps: 150, interval_ms: 5, ..Plan::SMALL });
        assert_bounded(&trace);
        cut(&trace, states, (0, trace.len()), seed + 2);
    });
}

/// Before the store's creation is told.
#[test]
fn while_it_is_created() {
    runs("cuts_created", 15, STATES, |seed, states, _| {
        let trace = traced(Plan { seed: seed + 13, steps: 3, close: 1, ..Plan::SMALL });
        let opened = first_at(&trace, |acks| Expected::from_lines(acks).opened);
        cut(&trace, states, (0, opened), seed + 3);
        // After a proper close nothing at all may be missing.
        cut(&trace, 2, (trace.len(), trace.len()), seed + 4);
    });
}

/// A small store, rewritten many times over, so that sled uses its segments again.
#[test]
fn while_segments_are_used_again() {
    let plan = Plan { seed: 14, steps: 1500, keys: 12, metadata_bytes: 60_000, await_one_in: 40, ..Plan::SMALL };
    runs("cuts_segments", 20, STATES, |seed, states, _| {
        let trace = traced(Plan { seed: seed + plan.seed, ..plan });
        assert_bounded(&trace);
        let writes = trace.writes_to(DATABASE);
        let end = writes.iter().map(|write| write.offset + write.len).max().unwrap();
        let written: u64 = writes.iter().map(|write| write.len).sum();
        assert!(written > end, "{written} bytes written to a file of {end}: nothing was used again");
        cut(&trace, states, (trace.len() / 4, trace.len()), seed + 5);
    });
}

/// Many chats wake, each into another bucket, and hardly anybody waits.
#[test]
fn while_many_wake() {
    let plan = Plan { seed: 15, steps: 6000, keys: 2500, metadata_bytes: 300, await_one_in: 500, ..Plan::SMALL };
    runs("cuts_wake", 5, STATES, |seed, states, _| {
        let trace = traced(Plan { seed: seed + plan.seed, ..plan });
        assert_bounded(&trace);
        cut(&trace, states, (trace.len() / 2, trace.len()), seed + 7);
    });
}

/// Touches everything, again and again, each time in one commit and into another bucket. The journal holds less than a
/// commit, so after each of them all of it is carried.
fn wake_all(path: &Path, say: &dyn Fn(&str)) {
    let (store, clock) = open(path, Plan::SMALL, say).unwrap();
    for _ in 0..20 {
        let mut lines = Vec::new();
        for n in 0..1500 {
            let name = format!("t0-{n}");
            let entry = store.resolve(&source(&name)).unwrap().entry;
            lines.push(format!("touched {name} {}", entry.updated_at.as_micros()));
        }
        store.flush().unwrap();
        lines.iter().for_each(|line| say(line));
        clock.advance(Duration::from_secs(61));
    }
    std::process::exit(0);
}

/// The bound makes the committer sync in the middle of what it carries, between the writes of one entry. Right after
/// each sync that is what a cut leaves.
#[test]
fn in_the_middle_of_a_commit_of_touches() {
    let trace = traced_part(ALL_WAKE);
    assert_bounded(&trace);
    let told = first_at(&trace, |acks| acks.len() > 1000);
    let syncs = trace.syncs_of(DATABASE);
    let mut model = Model::new(&trace);
    let mut looked_at = 0;
    for at in syncs.into_iter().filter(|at| *at > told) {
        model.advance(at + 1);
        let out = fast_dir();
        model.write(Survival::OnlySynced, out.path()).unwrap();
        let store = SessionStore::open(options(&out.path().join("sessions.db"))).unwrap();
        let found = store.verify().unwrap();
        assert_eq!(found.violations, [], "sync {at} of {}", trace.len());
        assert_eq!(found.entries, 1500);
        looked_at += 1;
    }
    println!("{looked_at} syncs");
    assert!(looked_at > 10, "only {looked_at} syncs");
}

/// Without its last slot a database that lost its tail would open unseen.
#[test]
fn the_state_file_is_on_disk_after_a_close() {
    let trace = traced(Plan { seed: 16, steps: 50, close: 1, ..Plan::SMALL });
    let mut model = Model::new(&trace);
    model.advance(trace.len());
    let left = |survival| {
        let out = fast_dir();
        model.write(survival, out.path()).unwrap();
        std::fs::read(out.path().join("sessions.db/state")).unwrap()
    };
    let synced = left(Survival::OnlySynced);
    assert!(synced.starts_with(b"CLOAKRM2"));
    assert_eq!(synced, left(Survival::All));
}

/// While a store is open, too: seconds of its clock pass between most of the steps.
#[test]
fn the_state_file_is_synced_from_time_to_time() {
    let trace = traced(Plan { seed: 17, steps: 50, await_one_in: 1, ..Plan::SMALL });
    let synced = trace.syncs_of("sessions.db/state").len();
    println!("{synced} syncs of the state file, {} of the database", trace.syncs_of(DATABASE).len());
    assert!(synced > 15, "only {synced}");
}

/// A kill leaves unsynced writes in the page cache, the next process builds on them, and then the power goes.
#[test]
fn after_a_kill() {
    // Both under one shell: what a child finds counts as durable, and here it is not.
    let script = "SHIM_KILL_AT=$RIG_KILL_AT RIG_CHILD_PART=$RIG_FIRST \"$0\" \"$@\" >/dev/null 2>&1
        exec \"$0\" \"$@\"";
    runs("cuts_kill", 10, STATES / 10, |round, states, dice| {
        let rig = Rig::new();
        let first = Plan { seed: 20 + round, steps: 400, await_one_in: 12, interval_ms: 2, ..Plan::SMALL };
        let second = Plan { seed: 30 + round, steps: 60, round: 1, ..Plan::SMALL };
        let kill_at = 60 + dice.roll(400) as u64;
        let mut shell = rig.command("/bin/sh");
        shell
            .args(["-c", script])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", MAIN, "--nocapture", "--test-threads=1"])
            .env("RIG_KILL_AT", kill_at.to_string())
            .env("RIG_FIRST", first.to_line())
            .env(CHILD_PART, second.to_line());
        let output = shell.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let trace = rig.trace();
        assert_trace_is_complete(&rig, &trace);
        let begun = |acks: &[String]| acks.iter().filter(|ack| *ack == "opening").count();
        assert_eq!(begun(&trace.acks_before(trace.len())), 2, "the first child was killed at {kill_at}");
        let second = first_at(&trace, |acks| begun(acks) == 2);
        cut(&trace, states, (second, trace.len()), 40 + round);
    });
}

/// sled clears segments that its newest snapshot does without. Were that durable before the snapshot's name, the one before would
/// find nothing.
#[test]
fn a_snapshot_has_its_name_before_the_database_is_synced() {
    let trace = traced(Plan { seed: 18, steps: 20, close: 1, ..Plan::SMALL });
    let database = trace.syncs_of(DATABASE);
    let mut snapshots = 0;
    for (at, op) in trace.ops().iter().enumerate() {
        let Op::Rename { to, .. } = op else { continue };
        if !to.name.starts_with("snap.") {
            continue;
        }
        snapshots += 1;
        let next = *database.iter().find(|sync| **sync > at).unwrap();
        let is_named = |op: &Op| matches!(op, Op::Sync { node } if *node == to.dir);
        assert!(trace.ops()[at..next].iter().any(is_named), "renamed at {at}, the database synced at {next}");
    }
    assert!(snapshots > 0);
}

/// A failed sync leaves pages that look written and are not, and that no later sync saves. The store is opened again
/// on top of them, goes on, and then the power goes.
#[test]
fn after_a_failed_sync() {
    let script = "SHIM_FAIL_AT=$RIG_FAIL_AT SHIM_FAIL_KIND=sync SHIM_FAIL_ERRNO=5 SHIM_FAIL_MODE=once \
        RIG_CHILD_PART=$RIG_FIRST \"$0\" \"$@\" >/dev/null 2>&1
        exec \"$0\" \"$@\"";
    runs("cuts_failed_sync", 10, STATES / 10, |round, states, dice| {
        let rig = Rig::new();
        let first = Plan { seed: 50 + round, steps: 400, ..Plan::SMALL };
        let second = Plan { seed: 60 + round, steps: 60, round: 1, ..Plan::SMALL };
        let fail_at = 40 + dice.roll(120) as u64;
        let mut shell = rig.command("/bin/sh");
        shell
            .args(["-c", script])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", MAIN, "--nocapture", "--test-threads=1"])
            .env("RIG_FAIL_AT", fail_at.to_string())
            .env("RIG_FIRST", first.to_line())
            .env(CHILD_PART, second.to_line());
        let output = shell.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let trace = rig.trace();
        let begun = |acks: &[String]| acks.iter().filter(|ack| *ack == "opening").count();
        assert_eq!(begun(&trace.acks_before(trace.len())), 2);
        let second = first_at(&trace, |acks| begun(acks) == 2);
        cut(&trace, states, (second, trace.len()), 70 + round);
    });
}
