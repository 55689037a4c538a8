//! The N-th write, sync, rename, open or unlink of a child fails, once or for ever, in several ways.
//!
//! Whatever fails: the child gets a typed error or none, no call hangs, what it reads is right, nothing is taken any
//! more after a failure, and the next opening finds everything that was awaited.
//!
//! The child opens a store that is there, or makes one, works with all verbs and closes. `CLOAKROOM_IO_FAILURES` sets
//! how many failures are looked at (120); any large number means all that there are.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use cloakroom::query::Filter;
use cloakroom::{Error, SessionStore};

use crate::battery::Battery;
use crate::common::{chain, key, source};
use crate::powercut::look;
use crate::rig::file_model::Dice;
use crate::rig::{CHILD_PART, CHILD_ROOT, Failure, Inject, Rig, copy_tree};
use crate::rig_selftest::ack;
use crate::workload::{Expected, Plan, open, run, work};

const MAIN: &str = "io_failures::child_main";
const EIO: i32 = 5;
const EACCES: i32 = 13;
const EMFILE: i32 = 24;
const ENOSPC: i32 = 28;

/// Kind of call, error, mode.
const WAYS: [(&str, i32, &str); 12] = [
    ("write", EIO, "once"),
    ("write", EIO, "forever"),
    ("write", ENOSPC, "once"),
    ("write", ENOSPC, "forever"),
    ("write", ENOSPC, "short"),
    ("sync", EIO, "once"),
    ("sync", EIO, "forever"),
    ("sync", ENOSPC, "once"),
    ("rename", EIO, "once"),
    ("open", EACCES, "once"),
    ("open", EMFILE, "forever"),
    ("unlink", EIO, "once"),
];

const BEFORE: Plan = Plan { seed: 80, steps: 60, metadata_bytes: 3000, close: 1, ..Plan::SMALL };
const WORK: Plan = Plan { seed: 81, steps: 60, await_one_in: 2, metadata_bytes: 3000, round: 1, ..Plan::SMALL };
/// A call that has not ended after this never will.
const HUNG: Duration = Duration::from_secs(60);

#[test]
fn child_main() {
    let (Ok(part), Ok(root)) = (std::env::var(CHILD_PART), std::env::var(CHILD_ROOT)) else {
        return;
    };
    let root = Path::new(&root);
    let path = root.join("sessions.db");
    let say = |line: &str| ack(root, line);
    if part == "before" {
        return run(&path, BEFORE, &say);
    }
    match open(&path, WORK, &say) {
        Err(error) => {
            assert!(typed(&error), "open: {}", chain(&error));
            println!("END no store: {error:?}");
        }
        Ok((store, clock)) => {
            let worked = work(&store, &clock, WORK, &say);
            if let Err(error) = &worked {
                after_a_failure(&store, error);
            }
            say("closing");
            match store.close() {
                Ok(()) if worked.is_ok() => say("closed"),
                Ok(()) => panic!("it failed, and closed well"),
                Err(error) => assert!(typed(&error), "close: {}", chain(&error)),
            }
            println!("END {worked:?}");
        }
    }
    // Without a drop: what is pending after a failure is lost anyway.
    std::process::exit(0);
}

/// What says what failed and where.
fn typed(error: &Error) -> bool {
    use Error::{Damaged, DiskFull, Engine, Io, PermissionDenied, ReadOnly, Unwritable};
    matches!(error, DiskFull { .. } | Io { .. } | PermissionDenied { .. } | ReadOnly { .. } | Unwritable { .. })
        // What sled says in its own words when its files cannot be read or made.
        || matches!(error, Engine { .. } | Damaged { .. })
}

/// The store is read-only, and what it still reads is right.
fn after_a_failure(store: &SessionStore, error: &Error) {
    assert!(typed(error), "{}", chain(error));
    for result in [
        store.resolve(&source(1)).map(drop),
        store.touch(&key(1)).map(drop),
        store.remove(&key(1)).map(drop),
        store.flush(),
    ] {
        assert!(matches!(result, Err(Error::ReadOnly { .. })), "{result:?} after {}", chain(error));
    }
    let Ok(rows) = store.iter(Filter::default()) else { return };
    for row in rows.flatten() {
        // sled may have left a leaf half split: reading that one is a write, and fails.
        match store.get_with_extras(&row.key) {
            Ok(found) => assert!(found.is_some(), "{}", row.key),
            Err(error) => assert!(typed(&error), "{}", chain(&error)),
        }
    }
}

/// How many calls of each kind there are, with and without a store to begin with.
fn calls(kind: &str, base: Option<&Path>) -> u64 {
    let rig = rig(base);
    let mut child = rig.child(MAIN, "work");
    // One that is never reached, so that its kind is counted.
    child.fail(&Failure { at: u64::MAX, errno: EIO, kinds: kind, mode: "once" });
    assert!(child.output().unwrap().status.success());
    rig.counts().matches
}

fn rig(base: Option<&Path>) -> Rig {
    let rig = Rig::new();
    if let Some(base) = base {
        fs::remove_dir(rig.root()).unwrap();
        copy_tree(base, rig.root()).unwrap();
    }
    rig
}

/// All failures there are: which call, in which way, with a store to begin with.
fn failures(base: &Path) -> Vec<(u64, usize, bool)> {
    let mut all = Vec::new();
    for there in [true, false] {
        for kind in ["write", "sync", "rename", "open", "unlink"] {
            let calls = calls(kind, there.then_some(base));
            let ways = WAYS.iter().enumerate().filter(|(_, way)| way.0 == kind);
            all.extend(ways.flat_map(|(way, _)| (1..=calls).map(move |at| (at, way, there))));
        }
    }
    // Spread over all of them, and the same in each run though the number of calls is not.
    all.sort_unstable_by_key(|&(at, way, there)| Dice(at << 8 | (way as u64) << 1 | u64::from(there)).roll(1 << 40));
    all
}

#[test]
fn whatever_call_fails_nothing_awaited_is_lost() {
    let base = Rig::new();
    assert!(base.child(MAIN, "before").status().unwrap().success());
    let all = failures(base.root());
    println!("{} failures there are", all.len());
    let mut ends = std::collections::BTreeMap::<String, u64>::new();
    Battery::new("io_failures", 120).run(|case, _| {
        let Some(&(at, way, there)) = usize::try_from(case).ok().and_then(|case| all.get(case)) else { return };
        let (kinds, errno, mode) = WAYS[way];
        let what = format!("{kinds} {at} fails {mode} with {errno}, a store there: {there}");
        let rig = rig(there.then_some(base.root()));
        let started = Instant::now();
        let mut child = rig.child(MAIN, "work");
        let output = child.fail(&Failure { at, errno, kinds, mode }).output().unwrap();
        assert!(started.elapsed() < HUNG, "{what}: {:?}", started.elapsed());
        let (said, cried) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{what}: {said}\n{cried}");
        let end = said.lines().find_map(|line| line.split_once("END ")).map_or("?", |(_, end)| end);
        let word = end.split([' ', '(', '{']).take(3).collect::<Vec<_>>().join(" ");
        *ends.entry(format!("{kinds}: {word}")).or_default() += 1;
        let told = fs::read_to_string(rig.root().join("acks")).unwrap_or_default();
        let told: Vec<String> = told.lines().map(str::to_owned).collect();
        look(&rig.root().join("sessions.db"), &Expected::from_lines(&told))
            .unwrap_or_else(|error| panic!("{what}: {error}\n{said}\n{cried}"));
    });
    println!("{ends:#?}");
}
