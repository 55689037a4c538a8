//! Calls that fail, kills, and the order of calls.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;

use super::{MAIN, PAGE, ack, assert_trace_is_complete, cut};
use crate::rig::rebuild::Survival;
use crate::rig::trace::{Op, Trace};
use crate::rig::{Failure, Inject, Rig};

// Failures.

/// Ten records of 8 bytes; every result is printed.
pub fn write_records(root: &Path) {
    let mut file = File::create(root.join("f")).unwrap();
    for number in 1..=10 {
        let told = match file.write(b"eightbyt").map_err(|e| e.raw_os_error().unwrap()) {
            Ok(n) => format!("{number} wrote {n}"),
            Err(errno) => format!("{number} errno {errno}"),
        };
        ack(root, &told);
    }
    let told = |what: &str, result: io::Result<()>| {
        let errno = result.map_or_else(|e| e.raw_os_error().unwrap(), |()| 0);
        ack(root, &format!("{what} {errno}"));
    };
    told("sync", file.sync_data());
    told("rename", fs::rename(root.join("f"), root.join("g")));
    told("open", File::open(root.join("g")).map(drop));
    told("unlink", fs::remove_file(root.join("g")));
}

fn acks_with(at: u64, errno: i32, kinds: &str, mode: &str) -> Vec<String> {
    let rig = Rig::new();
    let failure = Failure { at, errno, kinds, mode };
    let mut child = rig.child(MAIN, "records");
    assert!(child.fail(&failure).status().unwrap().success());
    let trace = rig.trace();
    assert_trace_is_complete(&rig, &trace);
    trace.acks_before(trace.len())
}

#[test]
fn the_chosen_call_fails() {
    let once = acks_with(3, 5, "write", "once");
    assert_eq!(once[1..4], ["2 wrote 8", "3 errno 5", "4 wrote 8"]);
    let forever = acks_with(3, 28, "write", "forever");
    assert_eq!(forever[1], "2 wrote 8");
    assert!(forever[2..10].iter().all(|ack| ack.ends_with("errno 28")));
    assert_eq!(forever[10], "sync 0");
    let short = acks_with(3, 28, "write", "short");
    assert_eq!(short[1..4], ["2 wrote 8", "3 wrote 4", "4 errno 28"]);
    assert_eq!(short[9], "10 errno 28");

    let last = |acks: Vec<String>| acks[10..].join(", ");
    let good = "sync 0, rename 0, open 0, unlink 0";
    assert_eq!(last(once), good);
    let told = last(acks_with(1, 5, "sync", "once"));
    assert_eq!(told, good.replace("sync 0", "sync 5"));
    let told = last(acks_with(1, 13, "rename", "once"));
    assert_eq!(told, "sync 0, rename 13, open 2, unlink 2");
    let told = last(acks_with(2, 24, "open", "once"));
    assert_eq!(told, good.replace("open 0", "open 24"));
    let told = last(acks_with(1, 30, "sync,unlink", "forever"));
    assert_eq!(told, "sync 30, rename 0, open 0, unlink 30");
}

pub fn failed_sync(root: &Path) {
    let file = File::create(root.join("f")).unwrap();
    file.write_all_at(&[b'A'; 2 * PAGE], 0).unwrap();
    assert!(file.sync_all().is_err());
    file.write_all_at(b"B", PAGE as u64).unwrap();
    file.sync_all().unwrap();
}

#[test]
fn a_sync_after_a_failed_sync_saves_only_new_writes() {
    let rig = Rig::new();
    let (at, errno, kinds, mode) = (1, 5, "sync", "once");
    let mut child = rig.child(MAIN, "failed sync");
    child.fail(&Failure { at, errno, kinds, mode });
    assert!(child.status().unwrap().success());
    let trace = rig.trace();
    let state = cut(&trace, trace.len(), Survival::OnlySynced);
    let content = fs::read(state.path().join("f")).unwrap();
    assert!(content[..PAGE] == [0; PAGE]);
    assert!(content[PAGE..PAGE + 2] == *b"BA");
}

// Kills.

#[test]
fn a_kill_stops_the_child_before_the_call() {
    let rig = Rig::new();
    assert!(rig.child(MAIN, "records").status().unwrap().success());
    // One create, ten writes, sync, rename, unlink; the opens change nothing.
    let changes = rig.counts().changes;
    assert_eq!(changes, 14);
    for n in 1..=changes + 1 {
        let rig = Rig::new();
        let mut child = rig.child(MAIN, "records");
        let status = child.kill_at(n).status().unwrap();
        let trace = rig.trace();
        assert_trace_is_complete(&rig, &trace);
        let acks = trace.acks_before(trace.len());
        if n > changes {
            assert!(status.success());
            continue;
        }
        assert_eq!(status.signal(), Some(9), "{n}");
        let wrote = acks.iter().filter(|ack| ack.ends_with("wrote 8"));
        assert_eq!(wrote.count() as u64, (n - 1).saturating_sub(1).min(10));
        let len = fs::metadata(rig.root().join("f")).map_or(0, |f| f.len());
        let gone = n > 13;
        assert_eq!(len, if gone { 0 } else { (n - 1).saturating_sub(1).min(10) * 8 });
    }
}

// Order.

const STEPS: usize = 300;

pub fn two_threads(root: &Path) {
    let mut options = OpenOptions::new();
    let log = options.append(true).create(true).open(root.join("log")).unwrap();
    std::thread::scope(|scope| {
        for name in ["a", "b"] {
            let mut log = log.try_clone().unwrap();
            scope.spawn(move || {
                let own = File::create(root.join(name)).unwrap();
                for step in 0..STEPS as u64 {
                    own.write_all_at(&step.to_le_bytes(), step * 8).unwrap();
                    log.write_all(format!("{name}{step:04}\n").as_bytes()).unwrap();
                }
            });
        }
    });
}

#[test]
fn threads_have_one_order() {
    let rig = Rig::new();
    assert!(rig.child(MAIN, "threads").status().unwrap().success());
    let trace = Trace::load(&rig.trace_path()).unwrap();
    assert_trace_is_complete(&rig, &trace);
    let log = trace.writes_to("log");
    assert_eq!(log.len(), 2 * STEPS);
    // The offsets of the common log rise with the order of the record.
    assert!(log.iter().zip(0..).all(|(write, n)| write.offset == n * 6));
    // Each line stands behind the write it tells of.
    for name in ["a", "b"] {
        let lines = log.iter().filter(|write| {
            let Op::Write { data, .. } = &trace.ops()[write.op] else {
                panic!("a write");
            };
            data.starts_with(name.as_bytes())
        });
        let own = trace.writes_to(name);
        assert!(own.iter().zip(lines).all(|(own, line)| own.op < line.op));
    }
}
