//! A child that works at full speed is killed at random moments. What it said it had awaited must be there.
//!
//! `CLOAKROOM_KILL_ROUNDS` sets how many kills (100). Up to fifty in a row hit the same store.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;

use cloakroom::SessionStore;

use crate::battery::Battery;
use crate::common::{fast_dir, options};
use crate::rig::CHILD_PART;
use crate::workload::{Expected, MAX_OPEN, Plan, run};

const STORE: &str = "CLOAKROOM_KILL_STORE";
const ROUNDS_PER_STORE: u64 = 50;

#[test]
fn child_main() {
    let (Ok(plan), Ok(path)) = (std::env::var(CHILD_PART), std::env::var(STORE)) else {
        return;
    };
    run(&PathBuf::from(path), Plan::from_line(&plan), &|line| {
        // One write a line, so that a kill leaves whole lines and at most one part.
        std::io::stdout().lock().write_all(format!("ACK {line}\n").as_bytes()).unwrap();
    });
}

#[test]
fn what_was_awaited_survives_a_kill() {
    let mut home = fast_dir();
    let mut expected = Expected::default();
    let mut repairs = 0;
    let battery = Battery::new("kill_rounds", 100);
    battery.run(|round, mut dice| {
        if round % ROUNDS_PER_STORE == 0 {
            home = fast_dir();
            expected = Expected::default();
        }
        let path = home.path().join("sessions.db");
        let plan = Plan {
            seed: dice.0 >> 20,
            threads: 3,
            steps: 1_000_000,
            keys: 8,
            metadata_bytes: [100, 1000, 4000, 20_000][dice.roll(4)],
            await_one_in: [1, 3, 12][dice.roll(3)],
            interval_ms: [0, 5, 1000][dice.roll(3)],
            round: round % ROUNDS_PER_STORE,
            ..Plan::SMALL
        };
        // One kill in eight as soon as the child begins to open, some right after, most while it works.
        let lines = [1, 2, 3, 5, 8, 15, 25, 40][dice.roll(8)];
        kill_after(&path, plan, lines, dice.roll(1000), &mut expected);
        // Often the next child finds what the kill left.
        if dice.roll(3) > 0 && round % ROUNDS_PER_STORE != ROUNDS_PER_STORE - 1 {
            return;
        }
        let started = Instant::now();
        let store = SessionStore::open(options(&path)).unwrap_or_else(|error| panic!("round {round}: {error:?}"));
        assert!(started.elapsed() < MAX_OPEN, "round {round}: opening took {:?}", started.elapsed());
        repairs += store.open_report().repairs.len();
        expected.check(&store).unwrap_or_else(|error| panic!("round {round}, {plan:?}, after {lines} lines: {error}"));
    });
    println!("{repairs} repairs");
}

/// Starts a child and kills it a moment after it has printed the given number of lines.
fn kill_after(path: &std::path::Path, plan: Plan, lines: usize, moment: usize, expected: &mut Expected) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "kill::child_main", "--nocapture", "--test-threads=1"])
        .env(CHILD_PART, plan.to_line())
        .env(STORE, path)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let (mut said, mut killed, mut line) = (0, false, String::new());
    loop {
        line.clear();
        // The pipe's end: the child is dead. A last line without its end was being written.
        if output.read_line(&mut line).unwrap() == 0 || !line.ends_with('\n') {
            break;
        }
        // The harness may have begun a line of its own.
        if let Some((_, ack)) = line.trim_end().split_once("ACK ") {
            expected.read(ack);
            said += 1;
        }
        if said == lines && !killed {
            for _ in 0..moment {
                std::hint::spin_loop();
                std::thread::yield_now();
            }
            child.kill().unwrap();
            killed = true;
        }
    }
    let end = child.wait_with_output().unwrap();
    assert!(killed, "the child ended by itself: {}", String::from_utf8_lossy(&end.stderr));
}
