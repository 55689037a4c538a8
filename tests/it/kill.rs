//! A child that works at full speed is killed at random moments. What it said it had awaited must be there.
//!
//! `CLOAKROOM_KILL_ROUNDS` sets how many kills (100).

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use cloakroom::SessionStore;

use crate::common::{fast_dir, options};
use crate::rig::CHILD_PART;
use crate::rig::file_model::Dice;
use crate::workload::{Expected, Plan, run};

const STORE: &str = "CLOAKROOM_KILL_STORE";
const ROUNDS_PER_STORE: u64 = 25;

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
    let rounds: u64 = std::env::var("CLOAKROOM_KILL_ROUNDS").map_or(100, |rounds| rounds.parse().unwrap());
    let mut dice = Dice(2026);
    let mut home = fast_dir();
    let mut expected = Expected::default();
    let mut repairs = 0;
    for round in 0..rounds {
        if round % ROUNDS_PER_STORE == 0 {
            home = fast_dir();
            expected = Expected::default();
        }
        let path = home.path().join("sessions.db");
        let plan = Plan {
            seed: round,
            threads: 3,
            steps: 1_000_000,
            keys: 8,
            metadata_bytes: [100, 4000, 20_000][dice.roll(3)],
            await_one_in: [1, 4, 50][dice.roll(3)],
            interval_ms: [0, 5, 1000][dice.roll(3)],
            round: round % ROUNDS_PER_STORE,
            ..Plan::SMALL
        };
        // One kill in eight as soon as the child begins to open, some right after, most while it works.
        let lines = [1, 2, 3, 10, 40, 80, 150, 250][dice.roll(8)];
        kill_after(&path, plan, lines, dice.roll(3000), &mut expected);
        // Now and then the next child finds what the kill left.
        if dice.roll(4) == 0 && round % ROUNDS_PER_STORE != ROUNDS_PER_STORE - 1 && round + 1 < rounds {
            continue;
        }
        let store = SessionStore::open(options(&path)).unwrap_or_else(|error| panic!("round {round}: {error:?}"));
        repairs += store.open_report().repairs.len();
        expected.check(&store).unwrap_or_else(|error| panic!("round {round}, {plan:?}, after {lines} lines: {error}"));
    }
    println!("{repairs} repairs");
}

/// Starts a child and kills it when it has said so many lines, and a moment after.
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
