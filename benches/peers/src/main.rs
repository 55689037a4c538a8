//! Cloakroom measured against what a gateway would use instead: one command prints the table and writes JSON, CSV and
//! pictures.
//!
//! ```text
//! cargo run --release --manifest-path benches/peers/Cargo.toml -- --size 100000 --rounds 3 --out benches/results
//! ```
//!
//! Every contender runs in a process of its own (its memory and its writes are its own), contenders take turns round by
//! round, each round has its own seed, and a figure is the median of the rounds. Durability is the same for all: a
//! relaxed touch is synced within 100 ms, a durable one before it returns. `sqlite_json` promises less: see `sqlite.rs`.

mod adapters;
mod curves;
mod fjall_store;
mod floor;
mod group;
mod heed_store;
mod kv;
mod layout;
mod longer;
mod measure;
mod plots;
mod redb_store;
mod report;
#[cfg(feature = "rocksdb")]
mod rocksdb_store;
mod sled_safe;
mod sled_store;
mod sqlite;
#[allow(dead_code, unreachable_pub, reason = "shared with the criterion benches")]
#[path = "../../support/mod.rs"]
mod support;

use std::cell::Cell;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use measure::{CONTENDERS, Job};
use report::Results;

#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const USAGE: &str = "options, with their defaults:
  --size 100000        entries
  --rounds 3           turns of each contender in the main table
  --seconds 2          time of each measurement
  --out <dir>          where JSON, CSV and pictures go; nothing is written without it
  --contenders a,b     cloakroom,json,sqlite_json,sqlite,redb,fjall,heed,sled,sled_safe,sled_safe4,floor; rocksdb with
                       the feature of that name
  --only table,curve,timeline,disk,large
                       and, where it is asked for: read, migrate (of cloakroom), sustained
  --touches <n>        of the disk curve; without it 200 for each entry, or what ten times --seconds allow
  --sustain <seconds>  of each stream of sustained touches; without it ten times --seconds
  --old <program>      this program, built against an older commit: it becomes the contender `old`
  --dir <dir>          where the stores are made: a real disk, or the figures mean nothing";

struct Args {
    size: usize,
    rounds: u64,
    seconds: f64,
    out: Option<PathBuf>,
    contenders: Vec<String>,
    only: Vec<String>,
    touches: Option<usize>,
    sustain: Option<f64>,
    old: Option<PathBuf>,
    dir: PathBuf,
    /// Set in a child process: what to measure, of whom, and the seed.
    child: Option<String>,
    seed: u64,
}

fn args() -> Result<Args, String> {
    let mut args = Args {
        size: 100_000,
        rounds: 3,
        seconds: 2.0,
        out: None,
        contenders: Vec::new(),
        only: ["table", "curve", "timeline", "disk", "large"].map(String::from).to_vec(),
        touches: None,
        sustain: None,
        old: None,
        dir: std::env::temp_dir(),
        child: None,
        seed: 1,
    };
    let mut words = std::env::args().skip(1);
    while let Some(name) = words.next() {
        let value = words.next().ok_or_else(|| format!("{name} needs a value\n{USAGE}"))?;
        let bad = |_| format!("{name} {value}: no number");
        let list = || value.split(',').map(String::from).collect::<Vec<_>>();
        match name.as_str() {
            "--size" => args.size = value.replace('_', "").parse().map_err(bad)?,
            "--rounds" => args.rounds = value.parse().map_err(bad)?,
            "--seconds" => args.seconds = value.parse().map_err(|_| format!("{name} {value}: no number"))?,
            "--out" => args.out = Some(value.into()),
            "--contenders" => args.contenders = list(),
            "--only" => args.only = list(),
            "--touches" => args.touches = Some(value.replace('_', "").parse().map_err(bad)?),
            "--sustain" => args.sustain = Some(value.parse().map_err(|_| format!("{name} {value}: no number"))?),
            "--old" => args.old = Some(value.into()),
            "--dir" => args.dir = value.into(),
            "--child" => args.child = Some(value),
            "--seed" => args.seed = value.parse().map_err(bad)?,
            _ => return Err(format!("{name} is unknown\n{USAGE}")),
        }
    }
    if args.contenders.is_empty() {
        let all = CONTENDERS.iter().filter(|name| **name != "old" || args.old.is_some());
        args.contenders = all.copied().map(String::from).collect();
    }
    if args.old.is_none() && args.contenders.iter().any(|name| name == "old") {
        return Err(format!("--old names the program of the contender old\n{USAGE}"));
    }
    if let Some(unknown) = args.contenders.iter().find(|name| !CONTENDERS.contains(&name.as_str())) {
        return Err(format!("no contender {unknown}\n{USAGE}"));
    }
    if args.size < 1_000 {
        return Err("--size: at least 1000 entries are needed".into());
    }
    Ok(args)
}

/// Measures one contender, and prints the figures as one line of JSON.
fn child(args: &Args, what: &str) {
    let dir = tempfile::Builder::new().prefix("cloakroom-peers-").tempdir_in(&args.dir).unwrap();
    let time = Duration::from_secs_f64(args.seconds);
    let sustain = args.sustain.map_or(10 * time, Duration::from_secs_f64);
    let (contender, size, seed, touches) = (&args.contenders[0], args.size, args.seed, args.touches);
    let job = Job { contender, size, time, seed, touches, sustain };
    let figures = match what {
        "table" => measure::all(&job, dir.path()),
        "curve" => curves::curve(&job, dir.path()),
        "timeline" => curves::timeline(&job, dir.path()),
        "disk" => curves::disk(&job, dir.path()),
        "large" => curves::large(&job, dir.path()),
        "read" => longer::read(&job, dir.path()),
        "migrate" => longer::migrate(&job, dir.path()),
        "sustained" => longer::sustained(&job, dir.path()),
        _ => panic!("nothing called {what} is measured"),
    };
    println!("{figures}");
}

/// Measures in a child process. A contender that fails is reported, and has no figures.
fn measure(args: &Args, what: &str, contender: &str, size: usize, seed: u64) -> Option<Value> {
    eprintln!("{what} {contender} {size} (seed {seed})");
    let (program, its_name) = match &args.old {
        Some(old) if contender == "old" => (old.clone(), "cloakroom"),
        _ => (std::env::current_exe().unwrap(), contender),
    };
    let mut command = Command::new(program);
    if let Some(sustain) = args.sustain {
        command.args(["--sustain", &sustain.to_string()]);
    }
    if let Some(touches) = args.touches {
        command.args(["--touches", &touches.to_string()]);
    }
    let output = command
        .args(["--child", what, "--contenders", its_name, "--size", &size.to_string(), "--seed", &seed.to_string()])
        .args(["--seconds", &args.seconds.to_string(), "--dir"])
        .arg(&args.dir)
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    if !output.status.success() {
        eprintln!("{what} {contender} failed: {}", output.status);
        return None;
    }
    Some(serde_json::from_slice(&output.stdout).unwrap())
}

/// Returns how many measurements failed.
fn run(args: &Args) -> usize {
    let failures = Cell::new(0);
    let measure = |what: &str, contender: &str, size: usize, seed: u64| {
        let figures = measure(args, what, contender, size, seed);
        failures.set(failures.get() + usize::from(figures.is_none()));
        figures
    };
    let mut results = Results::new(args.size, args.rounds, args.seconds);
    let wants = |what: &str| args.only.iter().any(|only| only == what);
    let is_ours = |contender: &str| matches!(contender, "cloakroom" | "old");
    for what in ["table", "read", "migrate", "sustained"].into_iter().filter(|what| wants(what)) {
        for round in 1..=args.rounds {
            for contender in &args.contenders {
                let can = match what {
                    "migrate" => is_ours(contender),
                    // The file takes seconds for a touch.
                    "sustained" => !matches!(contender.as_str(), "json" | "sqlite_json"),
                    _ => true,
                };
                if can && let Some(figures) = measure(what, contender, args.size, round) {
                    results.add_table(contender, &figures);
                }
            }
        }
    }
    if wants("curve") {
        let sizes = [1_000, 10_000, 100_000, 1_000_000].into_iter().filter(|size| *size <= args.size);
        for size in sizes {
            for contender in &args.contenders {
                // At a million a touch of the file takes seconds, and its line is known by then.
                if contender == "json" && size > 100_000 {
                    continue;
                }
                if let Some(figures) = measure("curve", contender, size, 1) {
                    results.add_curve(contender, size, &figures);
                }
            }
        }
    }
    for contender in &args.contenders {
        // The file cannot take 20,000 touches a second; the floor is no store.
        if wants("timeline")
            && !matches!(contender.as_str(), "json" | "sqlite_json" | "floor")
            && let Some(figures) = measure("timeline", contender, args.size, 1)
        {
            results.add_timeline(contender, &figures);
        }
        if wants("disk")
            && !matches!(contender.as_str(), "json" | "sqlite_json")
            && let Some(figures) = measure("disk", contender, args.size, 1)
        {
            results.add_disk(contender, &figures);
        }
    }
    for contender in args.contenders.iter().filter(|name| wants("large") && is_ours(name)) {
        if let Some(figures) = measure("large", contender, args.size, 1) {
            results.large.insert(contender.clone(), figures);
        }
    }
    println!("{}", results.table());
    if let Some(out) = &args.out {
        std::fs::create_dir_all(out).unwrap();
        std::fs::write(out.join("peers.json"), results.json()).unwrap();
        std::fs::write(out.join("peers.csv"), results.csv()).unwrap();
        plots::write(out, &results);
    }
    failures.get()
}

fn main() {
    match args() {
        Ok(args) => match &args.child {
            Some(what) => child(&args, what),
            None => {
                let failures = run(&args);
                if failures > 0 {
                    eprintln!("{failures} measurements failed");
                    std::process::exit(1);
                }
            }
        },
        Err(message) => {
            eprintln!("{message}");
            std::process::exit(2);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::support::stream::{entry_at, place_of};

    #[test]
    fn each_entry_has_a_place_of_its_own_and_neighbours_are_no_neighbours() {
        for entries in [1, 2, 3, 1_000, 4_096, 50_001] {
            let mut taken = vec![false; entries];
            let mut neighbours = 0;
            for entry in 0..entries {
                let place = place_of(entry, entries);
                assert!(!std::mem::replace(&mut taken[place], true));
                assert_eq!(entry_at(place, entries), entry);
                neighbours += usize::from(entry > 0 && place.abs_diff(place_of(entry - 1, entries)) == 1);
            }
            assert!(entries < 1_000 || neighbours < 10);
        }
    }
}
