//! Tests of the rig with sled: what its `flush` does and does not promise.
//!
//! The child makes the database in a temporary directory, syncs all of it and
//! renames it in place. Then it writes rows, and tells each row that it holds
//! for safe: after `flush` alone, or after a sync of sled's file besides.
//!
//! sled writes a snapshot at each open, as `snap.N.generating`, and takes such
//! a file for a snapshot if it finds one. A cut or a kill in that moment leaves
//! a database that does not open until the file is removed, so a careful user
//! of sled removes it first, and so do these tests.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::behind::open_sled;
use crate::rig::file_model::Dice;
use crate::rig::rebuild::{Model, Survival};
use crate::rig::trace::{Op, Trace};
use crate::rig::{CHILD_PART, CHILD_ROOT, Rig};
use crate::rig_selftest::{ack, assert_trace_is_complete, cut, sync_dir};

const MAIN: &str = "rig_sled::child_main";
const ROWS: u32 = 2000;
const BATCH: u32 = 20;

#[test]
fn child_main() {
    let Ok(part) = std::env::var(CHILD_PART) else {
        return;
    };
    let (part, rows) = part.split_once(' ').expect("part and rows");
    let root = PathBuf::from(std::env::var(CHILD_ROOT).expect("the root"));
    let draft = root.join("draft");
    drop(open(&draft).unwrap());
    sync_all(&draft);
    fs::rename(&draft, root.join("db")).unwrap();
    sync_dir(&root);

    let db = open(&root.join("db")).unwrap();
    let file = File::open(root.join("db/db")).unwrap();
    for row in 0..rows.parse::<u32>().unwrap() {
        db.insert(row.to_be_bytes(), value(row)).unwrap();
        if (row + 1) % BATCH == 0 {
            db.flush().unwrap();
            match part {
                "flush" => {}
                "sync" => file.sync_data().unwrap(),
                _ => panic!("unknown part {part}"),
            }
            ack(&root, &row.to_string());
        }
    }
    // No drop: sled would sync its file there.
    std::process::exit(0);
}

fn open(path: &Path) -> sled::Result<sled::Db> {
    open_sled(&sled::Config::new().path(path).flush_every_ms(None))
}

fn value(row: u32) -> Vec<u8> {
    row.to_le_bytes().repeat(100)
}

fn sync_all(path: &Path) {
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            sync_all(&entry.unwrap().path());
        }
    }
    sync_dir(path);
}

fn run(part: &str, rows: u32) -> Trace {
    let rig = Rig::new();
    let mut child = rig.child(MAIN, &format!("{part} {rows}"));
    assert!(child.status().unwrap().success());
    let trace = rig.trace();
    assert_trace_is_complete(&rig, &trace);
    assert_eq!(trace.acks_before(trace.len()).len() as u32, rows / BATCH);
    trace
}

fn remove_half_snapshots(db: &Path) -> usize {
    let entries = fs::read_dir(db).unwrap().map(|entry| entry.unwrap().path());
    let half = |path: &PathBuf| path.extension().is_some_and(|e| e == "generating");
    let found: Vec<PathBuf> = entries.filter(half).collect();
    found.iter().for_each(|path| fs::remove_file(path).unwrap());
    found.len()
}

/// Opens the state after a cut: (rows acknowledged, of these there).
fn look(trace: &Trace, at: usize, survival: Survival) -> Result<(u32, u32), String> {
    let acks = trace.acks_before(at);
    let told = acks.last().map_or(0, |row| row.parse::<u32>().unwrap() + 1);
    let state = cut(trace, at, survival);
    let path = state.path().join("db");
    if told == 0 && !path.exists() {
        return Ok((0, 0));
    }
    remove_half_snapshots(&path);
    let db = open(&path).map_err(|e| format!("open: {e}"))?;
    let mut there = 0;
    for row in 0..ROWS {
        match db.get(row.to_be_bytes()).map_err(|e| format!("get: {e}"))? {
            Some(found) if found != value(row) => return Err(format!("row {row} is wrong")),
            Some(_) if row < told => there += 1,
            _ => {}
        }
    }
    Ok((told, there))
}

#[test]
fn flush_alone_is_not_durable() {
    let trace = run("flush", ROWS);
    let (told, there) = look(&trace, trace.len(), Survival::OnlySynced).unwrap();
    assert_eq!(told, ROWS);
    assert!(there < told, "all {there} rows were there");
    // All rows are in the process's own view, so the loss is the cut's.
    assert_eq!(look(&trace, trace.len(), Survival::All), Ok((ROWS, ROWS)));
    // sled's only sync in flush is sync_file_range.
    let writes = trace.writes_to("db/db");
    let Op::Write { node: file, .. } = &trace.ops()[writes[0].op] else {
        panic!("a write");
    };
    let is_range = |op: &&Op| matches!(op, Op::RangeSync { node } if node == file);
    assert!(trace.ops().iter().filter(is_range).count() as u32 >= ROWS / BATCH);
    let written: u64 = writes.iter().map(|write| write.len).sum();
    assert!(trace.unsynced_high_water("db/db") > written / 2);
}

#[test]
fn flush_and_sync_is_durable() {
    let trace = run("sync", ROWS);
    let mut dice = Dice(7);
    for seed in 0..50 {
        let at = dice.roll(trace.len() + 1);
        for survival in [Survival::OnlySynced, Survival::Random { seed }] {
            let (told, there) =
                look(&trace, at, survival).unwrap_or_else(|error| panic!("cut at {at}, {survival:?}: {error}"));
            assert_eq!(told, there, "cut at {at}, {survival:?}");
        }
    }
}

/// A kill is enough: the state is what the process has written.
#[test]
fn sled_does_not_open_on_its_own_half_snapshot() {
    let trace = run("sync", BATCH);
    let half = trace.writes_to("snap.0000000000000060.generating");
    let state = cut(&trace, half[0].op + 1, Survival::All);
    let path = state.path().join("db");
    assert!(matches!(open(&path), Err(sled::Error::Corruption { .. })));
    assert_eq!(remove_half_snapshots(&path), 1);
    open(&path).unwrap();
}

/// Not a test of anything: prints how fast states are made.
/// `cargo test --release -- --ignored --nocapture speed`
#[test]
#[ignore = "a measurement"]
fn speed() {
    for part in ["flush", "sync"] {
        let trace = run(part, 3200);
        let bytes: u64 = trace.writes_to("db/db").iter().map(|write| write.len).sum();
        println!("{part}: {} operations, {bytes} bytes written", trace.len());
        let start = Instant::now();
        for seed in 0..100 {
            drop(cut(&trace, trace.len(), Survival::Random { seed }));
        }
        let rate = 100.0 / start.elapsed().as_secs_f64();
        println!("{part}: from the start, at the end: {rate:.0} states a second");
        let start = Instant::now();
        let mut model = Model::new(&trace);
        for at in 0..trace.len() {
            model.advance(at);
            let out = tempfile::tempdir().unwrap();
            let survival = Survival::Random { seed: at as u64 };
            model.write(survival, out.path()).unwrap();
        }
        let rate = trace.len() as f64 / start.elapsed().as_secs_f64();
        println!("{part}: one model, every cut: {rate:.0} states a second");
    }
}
