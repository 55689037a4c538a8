//! Everything that std does with files is seen.

use std::fs::{self, OpenOptions};
use std::io::{IoSlice, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::{MAIN, assert_trace_is_complete, cut, file, tree};
use crate::rig::file_model::Dice;
use crate::rig::rebuild::Survival;
use crate::rig::{Rig, copy_tree};

pub fn mixed(root: &Path) {
    std::env::set_current_dir(root).unwrap();
    let mut file = OpenOptions::new().append(true).create(true).open("a").unwrap();
    file.write_all(b"hello").unwrap();
    let mut copy = file.try_clone().unwrap();
    let parts = [IoSlice::new(b" wo"), IoSlice::new(b"rld")];
    assert_eq!(copy.write_vectored(&parts).unwrap(), 6);
    file.write_all_at(b"!", 0).unwrap(); // appends, as the file is open for append
    fs::copy("a", "./b").unwrap();
    fs::hard_link("b", "c").unwrap();
    fs::remove_file("b").unwrap();
    file.set_len(3).unwrap();
    file.set_len(9000).unwrap();
    fs::create_dir_all("x/y/z").unwrap();
    fs::write("x/y/../y/deep", b"first").unwrap();
    fs::write("x/y/deep", b"2nd").unwrap();
    fs::rename("x/y", "w").unwrap();
    fs::write("w/z/more", b"more").unwrap();
    fs::create_dir_all("gone/er").unwrap();
    fs::write("gone/er/f", b"1").unwrap();
    fs::remove_dir_all("gone").unwrap();
    // Inode numbers come back, and closed directories leave their fds.
    for n in 0..50 {
        fs::write("again", [n; 7]).unwrap();
        fs::rename("again", format!("w/n{}", n % 3)).unwrap();
        fs::remove_file(format!("w/n{}", n % 3)).unwrap();
    }
    fs::write("old", b"changed").unwrap();
    fs::write("last", b"last").unwrap();
    assert!(fs::rename("last", "/tmp/rig-outside").is_err());
}

#[test]
fn the_trace_is_complete() {
    let rig = Rig::new();
    fs::write(rig.root().join("old"), b"what was there before").unwrap();
    assert!(rig.child(MAIN, "mixed").status().unwrap().success());
    let trace = rig.trace();
    assert_trace_is_complete(&rig, &trace);
    assert_eq!(fs::read(rig.root().join("c")).unwrap(), b"hello world!");
    // Nothing was synced, so the state before is all that is sure.
    let state = cut(&trace, trace.len(), Survival::OnlySynced);
    assert!(tree(state.path()) == [("old".into(), file("what was there before"))].into());
    // Any cut can be rebuilt, and the same seed gives the same state.
    let mut dice = Dice(1);
    for seed in 0..100 {
        let (at, survival) = (dice.roll(trace.len() + 1), Survival::Random { seed });
        let (one, two) = (cut(&trace, at, survival), cut(&trace, at, survival));
        assert!(tree(one.path()) == tree(two.path()));
    }
    // A second child goes on from the first one's state.
    let copy = tempfile::tempdir().unwrap();
    copy_tree(rig.root(), &copy.path().join("root")).unwrap();
    assert!(rig.child(MAIN, "twice").status().unwrap().success());
    assert_trace_is_complete(&rig, &rig.trace());
    let start = cut(&rig.trace(), 0, Survival::OnlySynced);
    assert!(tree(start.path()) == tree(&copy.path().join("root")));
}

/// fork, exec, inherited files and several processes at once.
#[test]
fn a_shell_is_seen_too() {
    let script = "set -e
        echo one > a; (echo two; echo three) >> a; cat a a > b; mkdir d
        mv a d/moved; ln b d/b; rm b; rmdir d/none 2>/dev/null || true
        (for n in $(seq 500); do echo left >> log; done) &
        for n in $(seq 500); do echo right >> log; done
        wait";
    let rig = Rig::new();
    let mut shell = rig.command("/bin/sh");
    shell.args(["-c", script]).current_dir(rig.root());
    assert!(shell.status().unwrap().success());
    let trace = rig.trace();
    assert_trace_is_complete(&rig, &trace);
    let log = trace.writes_to("log");
    assert_eq!(log.len(), 1000);
    assert!(log.is_sorted_by_key(|write| write.offset));
    assert_eq!(trace.writes_to("b").len(), 2);
}
