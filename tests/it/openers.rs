//! Processes race for one store: at most one has it at a time, whatever becomes of it.
//!
//! The holder works for a moment, and then closes, falls dead, is killed, or hands it to the next in this process. The
//! others get an error that names the holder. `CLOAKROOM_OPENERS` sets how many races (50).

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Child;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use cloakroom::{Error, SessionStore};

use crate::battery::Battery;
use crate::common::{assert_sound, chain, fast_dir, key, options, source};
use crate::rig::{CHILD_PART, CHILD_ROOT};
use crate::rig_selftest::ack;

const MAIN: &str = "openers::child_main";
const HELD: &str = "held";
/// Nobody waits longer than this for a store that nobody holds.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often each child has the store.
const TURNS: usize = 3;

#[test]
fn child_main() {
    let (Ok(part), Ok(root)) = (std::env::var(CHILD_PART), std::env::var(CHILD_ROOT)) else {
        return;
    };
    let (me, end) = part.split_once(' ').unwrap();
    contend(Path::new(&root), me.parse().unwrap(), end);
}

fn contend(root: &Path, me: usize, end: &str) {
    let pid = std::process::id();
    for turn in 0..TURNS {
        let store = acquire(&root.join("sessions.db"), pid);
        // The process that wrote this last is dead, or let go.
        let held = root.join(HELD);
        if let Ok(holder) = fs::read_to_string(&held) {
            assert!(!is_alive(&holder), "{holder} has it too");
        }
        fs::write(&held, pid.to_string()).unwrap();
        for n in 0..3 {
            let n = me * 100 + turn * 10 + n;
            store.resolve(&source(n)).unwrap().receipt.wait().unwrap();
            ack(root, &format!("{n}"));
        }
        assert_eq!(fs::read_to_string(&held).unwrap(), pid.to_string(), "somebody else came in");
        if turn + 1 == TURNS {
            match end {
                "abort" => std::process::abort(),
                "exit" => std::process::exit(0),
                _ => {}
            }
        }
        fs::remove_file(&held).unwrap();
        store.close().unwrap();
    }
}

/// Tries until it has the store. What it hears until then must be that somebody else has it.
fn acquire(path: &Path, me: u32) -> SessionStore {
    let started = Instant::now();
    loop {
        match SessionStore::open(options(path)) {
            Ok(store) => return store,
            Err(Error::Locked { holder, .. }) => {
                // Its own name stands there once it has had the store, and the other has not yet written over it.
                let known = holder.is_none_or(|holder| holder.starts_with("process "));
                assert!(known, "{me}");
            }
            Err(error) => panic!("{}", chain(&error)),
        }
        assert!(started.elapsed() < PATIENCE, "nobody let go of it");
        std::thread::yield_now();
    }
}

/// Whether it still runs. One that is ending has given its locks back before it is seen to be dead.
fn is_alive(pid: &str) -> bool {
    const EXITING: u64 = 4;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let Some((_, rest)) = stat.rsplit_once(") ") else { return false };
    let flags: u64 = rest.split(' ').nth(6).unwrap().parse().unwrap();
    flags & EXITING == 0
}

fn start(root: &Path, me: usize, end: &str) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", MAIN, "--nocapture", "--test-threads=1"])
        .env(CHILD_PART, format!("{me} {end}"))
        .env(CHILD_ROOT, root)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

#[test]
fn one_at_a_time_whatever_becomes_of_it() {
    Battery::new("openers", 50).run(|_, mut dice| {
        let home = fast_dir();
        let root = home.path();
        let ends = ["close", "exit", "abort", "kill"];
        let ends = [ends[dice.roll(4)], ends[dice.roll(4)]];
        let mut children: Vec<Child> = (0..2).map(|me| start(root, me, ends[me])).collect();
        for (child, end) in children.iter_mut().zip(ends) {
            if end == "kill" {
                // At any moment, its opening included.
                for _ in 0..dice.roll(20_000) {
                    std::thread::yield_now();
                }
                child.kill().unwrap();
            }
        }
        for (child, end) in children.into_iter().zip(ends) {
            let output = child.wait_with_output().unwrap();
            let cried = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success() || output.status.signal().is_some(), "{end}: {cried}");
        }
        // Nobody holds it: it opens at once, with all that was awaited.
        let started = Instant::now();
        let store = SessionStore::open(options(&root.join("sessions.db"))).unwrap();
        assert!(started.elapsed() < crate::workload::MAX_OPEN);
        assert_eq!(store.open_report().shortfall, None);
        assert_sound(&store);
        let acks = fs::read_to_string(root.join("acks")).unwrap_or_default();
        for n in acks.lines().filter_map(|line| line.parse().ok()) {
            assert!(store.get(&key(n)).unwrap().is_some(), "{n} was awaited");
        }
    });
}
