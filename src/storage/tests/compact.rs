//! A copy that differs is not taken for the store.

use super::*;
use crate::storage::whole::compact::{compare, copy};

#[test]
fn a_copy_that_differs_in_any_tree_is_found() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut original = with_entries(dir.path());
    let turn = crate::codec::Turn { token: 1, started_at: NOW, session_id: id(1) };
    original.writer.apply_turns(&original.engine, &[(entry(1), Some(turn))]).unwrap();
    let leases = vec![("job".into(), Some(Term { since: NOW, end: later(9) }))];
    commit(&mut original, &[Change { leases, ..touch(1, later(5)) }]).unwrap();
    let original = &original.engine.trees;
    // There is none in a sound store.
    original.intent.insert("group", vec![1]).unwrap();
    let new = open_at(other.path());
    let new = &new.engine.trees;
    new.meta.clear().unwrap();
    let mut rows = 0;
    copy(original, 0, new, &mut |more| rows += more).unwrap();
    let compared = || compare(original, 0, new, &mut |_| {});
    compared().unwrap();
    let expected: u64 = original.all().iter().map(|tree| tree.len() as u64).sum();
    assert_eq!(rows, expected);

    for tree in new.all() {
        let name = String::from_utf8(tree.name().to_vec()).unwrap();
        let differs = |what: &str| {
            let error = compared().unwrap_err();
            let source = std::error::Error::source(&error).unwrap().to_string();
            assert_eq!(source, format!("the copy of {name} differs"), "{what}");
        };
        let (first, value) = tree.first().unwrap().unwrap();
        tree.remove(&first).unwrap();
        differs("a row is missing");
        tree.insert(&first, b"other").unwrap();
        differs("a value is another");
        tree.insert(&first, value).unwrap();
        tree.insert([0xff; 40], b"").unwrap();
        differs("a row too many, behind all others");
        tree.remove([0xff; 40]).unwrap();
        compared().unwrap();
    }
}

/// Nobody could have it erased: no entry has that key any more.
#[test]
fn what_a_crash_left_of_an_entry_that_is_gone_is_not_copied() {
    let dir = tempfile::tempdir().unwrap();
    let mut opened = with_entries(dir.path());
    let trees = &opened.engine.trees;
    for (n, generation) in [(9, 5), (2, 77)] {
        for (row, value) in crate::codec::ExtrasRow::encode_all(entry(n), generation, &[7; 5000]) {
            trees.extras.insert(row, value).unwrap();
        }
    }
    let turn = |n| (entry(n), Some(Turn { token: 1, started_at: NOW, session_id: id(1) }));
    opened.writer.apply_turns(&opened.engine, &[turn(9), turn(1)]).unwrap();
    let before = verify(&opened.engine).unwrap();
    assert_eq!((before.orphaned_chunks, before.orphaned_turns), (6, 1));
    drop(opened);
    compact(&dir.path().join("db"), 16 << 20, false, |_| {}).unwrap();
    let opened = open_at(dir.path());
    let after = verify(&opened.engine).unwrap();
    assert_eq!((&after.violations, after.orphaned_chunks, after.orphaned_turns), (&Vec::new(), 0, 0));
    assert_eq!(opened.engine.turns().unwrap().len(), 1);
    let index = cold_of(&opened.engine, 2).unwrap().extras.unwrap();
    let parts = PartsOf { engine: &opened.engine, key: &key(2), waiting: None };
    assert!(!parts.all(Some(&index)).unwrap().is_empty());
}
