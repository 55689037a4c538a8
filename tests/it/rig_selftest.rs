//! Tests of the rig itself, with children that use plain files.
//!
//! Each child is this test binary again, running only `child_main`.

mod calls;
mod complete;
mod states;

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::rig::rebuild::{PowerCut, Survival, rebuild};
use crate::rig::trace::Trace;
use crate::rig::{CHILD_PART, CHILD_ROOT, Rig};

const MAIN: &str = "rig_selftest::child_main";
const PAGE: usize = 4096;

#[test]
fn child_main() {
    let Ok(part) = std::env::var(CHILD_PART) else {
        return;
    };
    let root = PathBuf::from(std::env::var(CHILD_ROOT).expect("the root"));
    match part.as_str() {
        "twice" => states::write_twice(&root),
        "rename" => states::write_and_rename(&root, true),
        "rename unsynced" => states::write_and_rename(&root, false),
        "entries" => states::entries(&root),
        "cut" => states::cut_and_write(&root),
        "records" => calls::write_records(&root),
        "threads" => calls::two_threads(&root),
        "mixed" => complete::mixed(&root),
        "failed sync" => calls::failed_sync(&root),
        _ => panic!("unknown part {part}"),
    }
}

/// Says something to the world outside.
pub fn ack(root: &Path, line: &str) {
    let mut options = OpenOptions::new();
    let mut file = options.append(true).create(true).open(root.join("acks")).unwrap();
    file.write_all(format!("{line}\n").as_bytes()).unwrap();
}

pub fn sync_dir(dir: &Path) {
    File::open(dir).unwrap().sync_all().unwrap();
}

/// The state after a cut.
pub fn cut(trace: &Trace, at: usize, survival: Survival) -> tempfile::TempDir {
    let out = tempfile::tempdir().unwrap();
    rebuild(trace, &PowerCut { at, survival }, out.path()).unwrap();
    out
}

/// All files (with content) and directories below, but not `acks`.
fn tree(dir: &Path) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
    fn walk(dir: &Path, top: &Path, found: &mut BTreeMap<PathBuf, Option<Vec<u8>>>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(top).unwrap().to_owned();
            if path.is_dir() {
                found.insert(name, None);
                walk(&path, top, found);
            } else {
                found.insert(name, Some(fs::read(&path).unwrap()));
            }
        }
    }
    let mut found = BTreeMap::new();
    walk(dir, dir, &mut found);
    found.remove(Path::new("acks"));
    found
}

/// The trace is complete: replayed without loss it gives the real directory.
pub fn assert_trace_is_complete(rig: &Rig, trace: &Trace) {
    let out = cut(trace, trace.len(), Survival::All);
    assert!(tree(out.path()) == tree(rig.root()), "the trace is incomplete");
}

fn file(content: &str) -> Option<Vec<u8>> {
    Some(content.as_bytes().to_vec())
}
