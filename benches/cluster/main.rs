//! A store on a cluster, beside what most gateways keep their sessions in.
//!
//! `cargo bench --features valkey --bench cluster -- [SECONDS] [PART…]`: the seconds of each row, 2 by default, and the parts,
//! all by default:
//!
//! | part | |
//! | --- | --- |
//! | `rows` | touches, `resolve`, `get`, and a blob for each session |
//! | `postgres` | awaited touches beside the rows of a PostgreSQL, which is started where it is installed |
//! | `memory` | what `ENTRIES` sessions (10,000) take in primaries and replicas |
//! | `primaries` | three primaries beside one |
//! | `moving` | how long calls wait while slots move |
//! | `restore` | a backup and a restore of `ENTRIES` sessions (20,000) |
//!
//! The files lie in memory unless `CLOAKROOM_NODES` names a directory, such as one on a disk. All processes share the cores,
//! so ratios and the processor time of the servers are what to read.
#![allow(missing_docs, unreachable_pub, dead_code, reason = "a bench")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a bench")]

#[path = "../../tests/it/common.rs"]
mod common;
mod memory;
mod moving;
#[path = "../../tests/cluster/nodes.rs"]
mod nodes;
mod postgres;
mod primaries;
mod restore;
mod rig;
mod rows;
#[path = "../../tests/cluster/slots.rs"]
mod slots;

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use cloakroom::Sessions as _;
use cloakroom::cluster::ClusterStore;

use common::source;

type Part = (&'static str, fn(Duration));

const PARTS: [Part; 6] = [
    ("rows", rows::run),
    ("postgres", postgres::run),
    ("memory", memory::run),
    ("primaries", primaries::run),
    ("moving", moving::run),
    ("restore", restore::run),
];

/// Begins sessions, the first ones of [`source`].
fn begin_sessions(store: &ClusterStore, count: usize) {
    const CALLERS: usize = 64;
    std::thread::scope(|scope| {
        for caller in 0..CALLERS {
            scope.spawn(move || {
                for n in (caller..count).step_by(CALLERS) {
                    store.resolve(&source(n)).unwrap();
                }
            });
        }
    });
    store.flush().unwrap();
}

/// Which of so many sessions a caller takes in a turn.
fn pick(caller: usize, turn: usize, sessions: usize) -> usize {
    (caller * 7919 + turn * 104_729) % sessions
}

fn tell_conditions() {
    let directory = std::env::var_os("CLOAKROOM_NODES").map(PathBuf::from);
    if let Some(directory) = &directory {
        std::fs::create_dir_all(directory).unwrap();
    }
    let directory = directory.unwrap_or_else(|| common::fast_dir().path().parent().unwrap().to_owned());
    let kind = Command::new("stat").args(["-f", "-c", "%T"]).arg(&directory).output().unwrap().stdout;
    let load = std::fs::read_to_string("/proc/loadavg").unwrap();
    let cores = std::thread::available_parallelism().unwrap();
    println!(
        "{cores} cores, load average {}, files in {} ({})",
        load.split(' ').next().unwrap(),
        directory.display(),
        String::from_utf8_lossy(&kind).trim()
    );
}

fn main() {
    let (mut seconds, mut parts) = (2.0, Vec::new());
    for word in std::env::args().skip(1).filter(|word| !word.starts_with("--")) {
        match (word.parse(), PARTS.iter().find(|(name, _)| *name == word)) {
            (Ok(number), _) => seconds = number,
            (_, Some(part)) => parts.push(part),
            _ => panic!("{word:?} is no part: there are {:?}", PARTS.map(|(name, _)| name)),
        }
    }
    if parts.is_empty() {
        parts.extend(&PARTS);
    }
    tell_conditions();
    for (name, run) in parts {
        println!("\n{name}");
        run(Duration::from_secs_f64(seconds));
    }
}
