//! What a power cut leaves of content and names.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::{MAIN, PAGE, ack, assert_trace_is_complete, cut, file, sync_dir, tree};
use crate::rig::Rig;
use crate::rig::rebuild::Survival;
use crate::rig::trace::Trace;

const PAGES: usize = 16;

// Content: what is synced stays, the rest is kept, lost or torn.

pub fn write_twice(root: &Path) {
    let file = File::create(root.join("f")).unwrap();
    file.write_all_at(&[b'A'; PAGES * PAGE], 0).unwrap();
    file.sync_all().unwrap();
    sync_dir(root);
    file.write_all_at(&[b'B'; PAGES * PAGE], 0).unwrap();
    file.write_all_at(b"tail", 20 * PAGE as u64).unwrap();
}

#[test]
fn only_the_synced_content_is_sure() {
    let rig = Rig::new();
    assert!(rig.child(MAIN, "twice").status().unwrap().success());
    let trace = rig.trace();
    assert_trace_is_complete(&rig, &trace);

    let sure = cut(&trace, trace.len(), Survival::OnlySynced);
    let content = fs::read(sure.path().join("f")).unwrap();
    assert!(content == [b'A'; PAGES * PAGE]);

    let (mut kept, mut lost, mut torn, mut lens) = (0, 0, 0, BTreeSet::new());
    for seed in 0..100 {
        let state = cut(&trace, trace.len(), Survival::Random { seed });
        let content = fs::read(state.path().join("f")).unwrap();
        lens.insert(content.len());
        for page in content[..PAGES * PAGE].chunks(PAGE) {
            for sector in page.chunks(512) {
                assert!(sector.iter().all(|byte| *byte == sector[0]));
                assert!(sector[0] == b'A' || sector[0] == b'B');
            }
            match (page.contains(&b'A'), page.contains(&b'B')) {
                (true, true) => torn += 1,
                (true, false) => lost += 1,
                _ => kept += 1,
            }
        }
        // What lies behind the old end is the tail or zeros.
        let behind = &content[PAGES * PAGE..];
        let (gap, tail) = behind.split_at(behind.len().min(4 * PAGE));
        assert!(gap.iter().all(|byte| *byte == 0));
        assert!([&b""[..], b"tail", b"\0\0\0\0"].contains(&tail));
    }
    assert!(kept > 100 && lost > 100 && torn > 100, "{kept} {lost} {torn}");
    assert_eq!(lens, [PAGES * PAGE, 20 * PAGE + 4].into());
    assert_eq!(trace.unsynced_high_water("f"), (PAGES * PAGE) as u64 + 4);
    let writes = trace.writes_to("f");
    assert_eq!(writes.len(), 3);
    assert_eq!((writes[2].offset, writes[2].len), (20 * PAGE as u64, 4));
}

// Names.

pub fn write_and_rename(root: &Path, sync: bool) {
    let mut file = File::create(root.join("tmp")).unwrap();
    file.write_all(b"new").unwrap();
    if sync {
        file.sync_all().unwrap();
    }
    fs::rename(root.join("tmp"), root.join("f")).unwrap();
    ack(root, "renamed");
    sync_dir(root);
    ack(root, "synced");
}

fn after_ack(trace: &Trace, line: &str) -> usize {
    let told = |at: &usize| trace.acks_before(*at).iter().any(|ack| ack == line);
    (0..=trace.len()).find(told).expect("the ack")
}

#[test]
fn a_rename_is_durable_with_its_directory() {
    let rig = Rig::new();
    fs::write(rig.root().join("f"), "old").unwrap();
    assert!(rig.child(MAIN, "rename").status().unwrap().success());
    let trace = rig.trace();
    assert_trace_is_complete(&rig, &trace);
    let (renamed, synced) = (after_ack(&trace, "renamed"), after_ack(&trace, "synced"));

    let before = BTreeMap::from([("f".into(), file("old")), ("tmp".into(), file("new"))]);
    let after = BTreeMap::from([("f".into(), file("new"))]);
    assert!(tree(cut(&trace, renamed, Survival::OnlySynced).path()) == before);
    assert!(tree(cut(&trace, synced, Survival::OnlySynced).path()) == after);

    let mut seen = BTreeSet::new();
    for seed in 0..40 {
        let survival = Survival::Random { seed };
        assert!(tree(cut(&trace, synced, survival).path()) == after);
        seen.insert(tree(cut(&trace, renamed, survival).path()));
    }
    assert!(seen == [before, after].into());
}

#[test]
fn a_rename_does_not_sync_the_content() {
    let rig = Rig::new();
    fs::write(rig.root().join("f"), "old").unwrap();
    assert!(rig.child(MAIN, "rename unsynced").status().unwrap().success());
    let trace = rig.trace();
    let (renamed, synced) = (after_ack(&trace, "renamed"), after_ack(&trace, "synced"));
    let old = BTreeMap::from([("f".into(), file("old"))]);
    let empty = BTreeMap::from([("f".into(), file(""))]);
    assert!(tree(cut(&trace, renamed, Survival::OnlySynced).path()) == old);
    assert!(tree(cut(&trace, synced, Survival::OnlySynced).path()) == empty);
}

pub fn entries(root: &Path) {
    let put = |name: &str, content: &str| {
        let mut file = File::create(root.join(name)).unwrap();
        file.write_all(content.as_bytes()).unwrap();
        file.sync_all().unwrap();
    };
    File::create(root.join("early")).unwrap();
    fs::create_dir(root.join("d")).unwrap();
    put("d/in", "in");
    put("late", "1");
    ack(root, "late");
    fs::rename(root.join("late"), root.join("moved")).unwrap();
    put("late", "2");
    ack(root, "again");
    sync_dir(root);
    ack(root, "all");
}

#[test]
fn an_entry_needs_its_own_sync() {
    let rig = Rig::new();
    assert!(rig.child(MAIN, "entries").status().unwrap().success());
    let trace = rig.trace();
    let sure = |line| {
        let at = after_ack(&trace, line);
        tree(cut(&trace, at, Survival::OnlySynced).path())
    };
    // A synced file in a directory that is not durable is lost with it.
    assert!(sure("late") == [("late".into(), file("1"))].into());
    // The new file under the old name makes the rename durable.
    let both = [("late".into(), file("2")), ("moved".into(), file("1"))];
    assert!(sure("again") == both.into());
    assert!(sure("all") == tree(rig.root()));
}

pub fn cut_and_write(root: &Path) {
    let file = File::create(root.join("f")).unwrap();
    file.write_all_at(&[b'A'; 2 * PAGE], 0).unwrap();
    file.sync_all().unwrap();
    file.set_len(100).unwrap();
    file.write_all_at(&[b'B'; 100], 6000).unwrap();
    file.write_all_at(&[b'B'; PAGE], 2 * PAGE as u64).unwrap();
}

#[test]
fn what_was_cut_off_does_not_come_back() {
    let rig = Rig::new();
    assert!(rig.child(MAIN, "cut").status().unwrap().success());
    let trace = rig.trace();
    assert_trace_is_complete(&rig, &trace);
    let mut lens = BTreeSet::new();
    for seed in 0..200 {
        let state = cut(&trace, trace.len(), Survival::Random { seed });
        let content = fs::read(state.path().join("f")).unwrap();
        lens.insert(content.len());
        if content.len() == 2 * PAGE {
            // The cut has not taken place, nor what came after it.
            assert!(content == [b'A'; 2 * PAGE]);
            continue;
        }
        assert!(content[..100] == [b'A'; 100]);
        assert!(content[100..].iter().all(|byte| *byte != b'A'));
    }
    assert_eq!(lens, [100, 6100, 2 * PAGE, 3 * PAGE].into());
}
