//! A store that is used for hours. A child works on it at a steady pace, and is killed every two minutes.
//!
//! After each kill the store must be as `kill.rs` demands. The child's memory, at half its life and right before the
//! kill, and the size of the store are noted in a table: `soak.csv` where the state is kept, with the store beside
//! it, so that the sittings add up. At the end neither may have grown.
//!
//! `CLOAKROOM_SOAK` sets how many kills: 60 are two hours. Without it there are two, after a second each.
//! `CLOAKROOM_SOAK_LIFE` sets the seconds before a kill.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};
use std::{fs, process};

use cloakroom::SessionStore;

use crate::battery::Battery;
use crate::common::{fast_dir, options};
use crate::rig::CHILD_PART;
use crate::workload::{Expected, MAX_OPEN, Plan, open, work};

const STORE: &str = "CLOAKROOM_SOAK_STORE";
const LIFE: &str = "CLOAKROOM_SOAK_LIFE";
/// A child goes through rounds of the workload, a week each. A round begins with a prune: what is used again and again
/// stays, what was used in one round goes after three.
const DAYS: u64 = 7;
/// Less than a day goes by while a round works, so nothing becomes old but between two rounds.
const MAX_STEPS: u64 = 600;
/// More than there is time for.
const ROUNDS_PER_LIFE: u64 = 400;
/// A child that says nothing for this long hangs, however busy the machine is.
const MAX_SILENCE: Duration = Duration::from_secs(300);
/// Of fewer kills the figures say nothing.
const LEAST_KILLS: usize = 12;
/// How much more the last quarter of the kills may have than the first half, but for what warms up. Memory is within
/// a few percent from life to life, so medians are compared. sled's file is now small, now five times as large, as
/// free segments happen to lie at its end or not: the median is compared to the largest.
const MAX_MORE_MEMORY: f64 = 1.1;
const MAX_MORE_DISK: f64 = 1.25;

#[test]
fn child_main() {
    let (Ok(plan), Ok(path)) = (std::env::var(CHILD_PART), std::env::var(STORE)) else {
        return;
    };
    // A thread that fails takes the others along, or nobody would know.
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        process::exit(1);
    }));
    let plan = Plan::from_line(&plan);
    let say = |line: &str| std::io::stdout().lock().write_all(format!("ACK {line}\n").as_bytes()).unwrap();
    let (store, clock) = open(&PathBuf::from(path), plan, &say).unwrap();
    let seen = store.clone();
    thread::spawn(move || read(&seen, Duration::from_millis(plan.pause_ms)));
    for n in 0..ROUNDS_PER_LIFE {
        let plan = Plan { round: plan.round + n, seed: plan.seed + n, ..plan };
        clock.set_wall(plan.start());
        work(&store, &clock, plan, &say).unwrap();
    }
    panic!("the rounds of this child are over");
}

/// Lists the entries by recency, again and again, and looks each of them up.
fn read(store: &SessionStore, pause: Duration) {
    let mut cursor = None;
    loop {
        let page = store.recent(20, cursor.as_ref()).unwrap();
        for listed in &page.entries {
            // It may be gone by now.
            let Some(found) = store.get(&listed.key).unwrap() else { continue };
            assert!(found.updated_at >= listed.updated_at, "{listed:?}, then {found:?}");
            thread::sleep(pause);
        }
        cursor = page.next;
        thread::sleep(pause);
    }
}

#[test]
fn a_store_that_is_used_for_hours_stays_small() {
    let battery = Battery::new("soak", 2);
    let long = std::env::var_os("CLOAKROOM_SOAK").is_some();
    let life = std::env::var(LIFE).map_or(if long { 120 } else { 1 }, |seconds| seconds.parse().unwrap());
    let pause_ms = if life < 10 { 2 } else { 20 };
    let temporary = fast_dir();
    let home = battery.directory().unwrap_or(temporary.path()).to_path_buf();
    let (path, table) = (home.join("soak.db"), home.join("soak.csv"));
    let (mut expected, mut next) = (Expected::default(), None);
    if path.exists() {
        // What an earlier sitting left: nobody knows any more how far it was.
        let store = SessionStore::open(options(&path)).unwrap();
        expected.clear(&store, cloakroom::Timestamp::from_micros(i64::MAX)).unwrap();
    }
    battery.run(|kill, mut dice| {
        let plan = Plan {
            seed: dice.0 >> 20,
            threads: 3,
            // A round takes a tenth of a life, and more on a busy machine.
            steps: MAX_STEPS.min(life * 100 / pause_ms),
            keys: 100,
            metadata_bytes: [1000, 4000, 20_000][dice.roll(3)],
            await_one_in: 4,
            interval_ms: 100,
            round: next.unwrap_or(kill * ROUNDS_PER_LIFE),
            days: DAYS,
            pause_ms,
            ..Plan::SMALL
        };
        let (memory, rounds) = live_and_die(&path, plan, Duration::from_secs(life), &mut expected);
        next = Some(plan.round + rounds + 1);
        let disk = bytes_below(&path);
        let started = Instant::now();
        let store = SessionStore::open(options(&path)).unwrap_or_else(|error| panic!("kill {kill}: {error:?}"));
        let opening = started.elapsed();
        assert!(opening < MAX_OPEN, "kill {kill}: opening took {opening:?}");
        expected.check(&store).unwrap_or_else(|error| panic!("kill {kill}, {plan:?}: {error}"));
        let figures = Figures { memory, disk, entries: store.len() };
        figures.append_to(&table, kill, opening);
        // So that what is protected does not make the store grow.
        expected.clear(&store, plan.start()).unwrap();
    });
    let all = Figures::read_all(&table);
    println!("{} kills: {:?} to {:?}", all.len(), all.first(), all.last());
    check_flat(&all).unwrap();
}

/// Starts a child, and kills it that long after it had opened the store. Answers its memory, half way and at the end, and
/// how many rounds it had begun.
fn live_and_die(path: &Path, plan: Plan, life: Duration, expected: &mut Expected) -> ([u64; 2], u64) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "soak::child_main", "--nocapture", "--test-threads=1"])
        .env(CHILD_PART, plan.to_line())
        .env(STORE, path)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = lines_of(&mut child);
    let (mut opened, mut memory, mut heard, mut rounds) = (None, Vec::new(), Instant::now(), 0);
    loop {
        match lines.recv_timeout(Duration::from_millis(20)) {
            Ok(line) => {
                expected.read(&line);
                heard = Instant::now();
                rounds += u64::from(line.starts_with("pruning"));
                if line == "opened" {
                    opened = Some(heard);
                }
            }
            Err(RecvTimeoutError::Timeout) => assert!(heard.elapsed() < MAX_SILENCE, "the child hangs: {plan:?}"),
            Err(RecvTimeoutError::Disconnected) => break,
        }
        let lived = opened.map_or(Duration::ZERO, |opened: Instant| opened.elapsed());
        if memory.is_empty() && lived >= life / 2 {
            memory.extend(resident_bytes(&child));
        }
        if memory.len() == 1 && lived >= life {
            memory.extend(resident_bytes(&child));
            child.kill().unwrap();
        }
    }
    let end = child.wait_with_output().unwrap();
    let [half, end] = memory[..] else {
        panic!("the child ended by itself: {plan:?}\n{}", String::from_utf8_lossy(&end.stderr));
    };
    ([half, end], rounds)
}

/// What a child says, line by line.
fn lines_of(child: &mut Child) -> Receiver<String> {
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let (sender, lines) = channel();
    thread::spawn(move || {
        let mut line = String::new();
        // A last line without its end was being written at the kill.
        while output.read_line(&mut line).unwrap() > 0 && line.ends_with('\n') {
            // The harness may have begun a line of its own.
            if let Some((_, said)) = line.trim_end().split_once("ACK ") {
                sender.send(said.to_owned()).unwrap();
            }
            line.clear();
        }
    });
    lines
}

/// `None` if the process has ended.
fn resident_bytes(child: &Child) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).ok()?;
    let kilobytes = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.strip_suffix("kB"))?;
    Some(kilobytes.trim().parse::<u64>().unwrap() * 1024)
}

/// Without the ballast, which is always there.
fn bytes_below(directory: &Path) -> u64 {
    let files = fs::read_dir(directory).unwrap().map(|file| file.unwrap().path());
    let bytes = |file: PathBuf| if file.is_dir() { bytes_below(&file) } else { fs::metadata(file).unwrap().len() };
    files.filter(|file| !file.ends_with("ballast")).map(bytes).sum()
}

/// What was found at one kill.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Figures {
    /// Resident bytes of the child at half its life and before the kill.
    memory: [u64; 2],
    /// Bytes of all files of the store.
    disk: u64,
    entries: u64,
}

impl Figures {
    fn append_to(self, table: &Path, kill: u64, opening: Duration) {
        let Self { memory: [half, end], disk, entries } = self;
        let head = if table.exists() { "" } else { "kill,memory_half_way,memory_at_end,disk,entries,opening_us\n" };
        let row = format!("{head}{kill},{half},{end},{disk},{entries},{}\n", opening.as_micros());
        fs::OpenOptions::new().create(true).append(true).open(table).unwrap().write_all(row.as_bytes()).unwrap();
    }

    /// In the order of the kills. One that was repeated counts as it was last.
    fn read_all(table: &Path) -> Vec<Self> {
        let text = fs::read_to_string(table).unwrap();
        let rows = text.lines().skip(1).map(|row| {
            let numbers: Vec<u64> = row.split(',').map(|number| number.parse().unwrap()).collect();
            let [kill, half, end, disk, entries, _] = numbers[..] else { panic!("no row of ours: {row}") };
            (kill, Self { memory: [half, end], disk, entries })
        });
        rows.collect::<BTreeMap<_, _>>().into_values().collect()
    }
}

/// The last quarter must not have more than the first half, of which some kills are to warm up.
fn check_flat(all: &[Figures]) -> Result<(), String> {
    if all.len() < LEAST_KILLS {
        return Ok(());
    }
    let (before, after) = (&all[all.len() / 8..all.len() / 2], &all[all.len() / 4 * 3..]);
    let memory = |bytes: f64| bytes * MAX_MORE_MEMORY;
    let disk = |bytes: f64| bytes * MAX_MORE_DISK;
    let grown = [
        ("memory", memory(median(before, |at| at.memory[1])), median(after, |at| at.memory[1])),
        ("memory in a life", memory(median(all, |at| at.memory[0])), median(all, |at| at.memory[1])),
        ("disk", disk(before.iter().map(|at| at.disk).max().unwrap() as f64), median(after, |at| at.disk)),
    ];
    match grown.iter().find(|(_, most, found)| found > most) {
        Some((what, most, found)) => Err(format!("{what} grew: {found} bytes are more than {most}")),
        None => Ok(()),
    }
}

fn median(all: &[Figures], figure: impl Fn(&Figures) -> u64) -> f64 {
    let mut all: Vec<u64> = all.iter().map(figure).collect();
    all.sort_unstable();
    all[all.len() / 2] as f64
}

#[test]
fn growth_is_seen_and_noise_is_not() {
    let flat = |n: u64| Figures {
        memory: [40_000_000 + n * 37 % 11 * 400_000, 42_000_000 + n * 53 % 7 * 500_000],
        disk: 3_000_000 + n * 29 % 5 * 2_500_000,
        entries: 3000 + n * 41 % 900,
    };
    let check = |figures: &dyn Fn(u64) -> Figures| check_flat(&(0..60).map(figures).collect::<Vec<_>>());
    assert_eq!(check(&flat), Ok(()));
    // It warms up.
    let more = |n: u64| 2_000_000 * n.min(15);
    assert_eq!(check(&|n| Figures { disk: flat(n).disk + more(n), ..flat(n) }), Ok(()));
    // Little by little.
    let memory = |n| flat(n).memory.map(|bytes| bytes + (n << 18));
    assert!(check(&|n| Figures { memory: memory(n), ..flat(n) }).unwrap_err().contains("memory grew"));
    let memory = |n| [flat(n).memory[0], flat(n).memory[1] + (3 << 20)];
    assert!(check(&|n| Figures { memory: memory(n), ..flat(n) }).unwrap_err().contains("life grew"));
    assert!(check(&|n| Figures { disk: flat(n).disk + (n << 19), ..flat(n) }).unwrap_err().contains("disk grew"));
}
