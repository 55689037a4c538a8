//! What `verify` finds, and what clears rows that are out of date.

use super::*;

#[test]
fn only_rows_that_nobody_needs_are_cleared() {
    let dir = tempfile::tempdir().unwrap();
    let Opened { engine, mut writer, .. } = with_entries(dir.path());
    let row = |n: usize, time: Timestamp| ActivityRow { time, entry: entry(n) };
    for (n, time) in [(1, later(-9)), (1, later(9)), (8, NOW)] {
        put_age_row(&engine.trees, n, time);
    }
    let found = verify(&engine).unwrap();
    assert_eq!((found.violations, found.stale_rows), (vec![], 3));
    assert!(writer.recheck(&engine, &row(1, later(-9))).unwrap(), "earlier than the record");
    assert!(!writer.recheck(&engine, &row(1, later(9))).unwrap(), "later: a touch may be about to write the record");
    assert!(!writer.recheck(&engine, &row(1, NOW)).unwrap(), "the row itself");
    assert!(!writer.recheck(&engine, &row(8, NOW)).unwrap(), "no record: it may be lost, and its time is known here");
    assert_eq!(verify(&engine).unwrap().stale_rows, 2);
    // Of an entry that has no other it is the last trace: the right one takes its place.
    remove_age_row(&engine.trees, 2, NOW);
    put_age_row(&engine.trees, 2, later(-9));
    assert!(writer.recheck(&engine, &row(2, later(-9))).unwrap());
    let found = verify(&engine).unwrap();
    assert_eq!((found.violations, found.stale_rows), (vec![], 2));
}

#[test]
fn a_record_that_does_not_read_is_found() {
    for (tree, named) in [("sessions", name(1)), ("activity", entry(1).to_string())] {
        let found = planted(|trees| {
            match tree {
                "sessions" => trees.sessions.insert(bytes(&key(1)), &[9, 9]),
                _ => trees.activity.insert(entry(1).as_bytes(), &[9, 9]),
            }
            .unwrap();
        });
        assert!(
            matches!(&found[..], [Violation::Unreadable { tree: at, key, reason }]
                if *at == tree && *key == named && reason.contains("version 9")),
            "{found:?}"
        );
    }
}

#[test]
fn a_row_that_does_not_read_is_found() {
    type Pick = fn(&Trees) -> &sled::Tree;
    let rows: [(&str, Pick, &[u8]); 5] = [
        ("sessions", |trees| &trees.sessions, b"_note"),
        ("activity", |trees| &trees.activity, b"\xff\xff"),
        ("by_updated_at", |trees| &trees.by_updated_at, b"abc"),
        ("by_session_id", |trees| &trees.by_session_id, b"no zero"),
        ("extras", |trees| &trees.extras, b"short"),
    ];
    for (tree, pick, row) in rows {
        let mut found = planted(|trees| {
            pick(trees).insert(row, vec![1]).unwrap();
        });
        // A row of `sessions` counts, whatever it is.
        found.retain(|violation| !matches!(violation, Violation::WrongCount { .. }));
        assert!(matches!(&found[..], [Violation::Unreadable { tree: at, .. }] if *at == tree), "{tree}: {found:?}");
    }
}

#[test]
fn a_missing_hot_record_is_found() {
    let found = planted(|trees| drop(trees.activity.remove(entry(1).as_bytes()).unwrap()));
    assert_eq!(found, [Violation::NoActivity { key: name(1) }]);
}

#[test]
fn a_missing_age_row_is_found() {
    let found = planted(|trees| remove_age_row(trees, 1, NOW));
    assert_eq!(found, [Violation::NoAgeRow { key: name(1) }]);
    // A later row does not help: pruning would look for the entry too late.
    let found = planted(|trees| {
        remove_age_row(trees, 1, NOW);
        put_age_row(trees, 1, later(1));
    });
    assert_eq!(found, [Violation::NoAgeRow { key: name(1) }]);
    // An earlier one does.
    let found = planted(|trees| {
        remove_age_row(trees, 1, NOW);
        put_age_row(trees, 1, later(-1));
    });
    assert_eq!(found, []);
}

/// Half of the entries without their row: each row of the index is read once, not once for each of them.
#[test]
fn many_missing_age_rows_cost_no_more_than_few() {
    let read = |entries: usize| {
        let dir = tempfile::tempdir().unwrap();
        let mut opened = open_at(dir.path());
        let new: Vec<_> = (0..entries).map(|n| whole(n, n, later(n as i64 / 8), None)).collect();
        commit(&mut opened, &new).unwrap();
        for n in (0..entries).step_by(2) {
            remove_age_row(&opened.engine.trees, n, later(n as i64 / 8));
        }
        let found = violations(&opened.engine);
        let missing = found.iter().filter(|violation| matches!(violation, Violation::NoAgeRow { .. })).count();
        assert_eq!((missing, found.len()), (entries / 2, entries / 2));
        opened.engine.rows_read()
    };
    let (few, many) = (read(200), read(800));
    assert!(many <= 5 * few, "{few} rows for 200 entries, and {many} for 800");
}

#[test]
fn a_missing_id_row_is_found() {
    let found = planted(|trees| drop(trees.by_session_id.remove(IdRow::encode(&id(1), entry(1))).unwrap()));
    assert_eq!(found, [Violation::NoIdRow { key: name(1) }]);
}

#[test]
fn a_hot_record_without_an_entry_is_found() {
    let row = activity(8, &Hot::fresh(NOW));
    let found = planted(|trees| drop(trees.activity.insert(entry(8).as_bytes(), row).unwrap()));
    assert_eq!(found, [Violation::OrphanedActivity { key: name(8) }]);
}

#[test]
fn a_hot_record_under_another_entry_is_found() {
    let row = activity(2, &Hot::fresh(NOW));
    let found = planted(|trees| drop(trees.activity.insert(entry(1).as_bytes(), row).unwrap()));
    assert!(
        matches!(&found[..], [Violation::Unreadable { tree: "activity", key, reason }]
            if *key == entry(1).to_string() && reason.contains("another key")),
        "{found:?}"
    );
}

#[test]
fn a_wrong_id_row_is_found() {
    for (wrong, of) in [(id(5), 1), (id(1), 8)] {
        let found =
            planted(|trees| drop(trees.by_session_id.insert(IdRow::encode(&wrong, entry(of)), vec![]).unwrap()));
        assert_eq!(found, [Violation::WrongIdRow { key: entry(of).to_string() }]);
    }
}

#[test]
fn broken_extras_are_found() {
    fn row(chunk: usize) -> Vec<u8> {
        ExtrasRow::encode_all(entry(2), 1, &[0; 9000]).nth(chunk).unwrap().0
    }
    type Plant = Box<dyn FnOnce(&Trees)>;
    let faults: [(&str, Plant); 5] = [
        ("a chunk is missing", Box::new(|trees| drop(trees.extras.remove(row(1)).unwrap()))),
        ("a chunk is cut", Box::new(|trees| drop(trees.extras.insert(row(2), vec![1, b'x']).unwrap()))),
        ("a chunk has another version", Box::new(|trees| drop(trees.extras.insert(row(0), vec![9; 4096]).unwrap()))),
        ("the text is no blob", Box::new(|trees| drop(trees.extras.insert(row(0), vec![1; CHUNK_BYTES + 1]).unwrap()))),
        (
            "details are nowhere",
            Box::new(|trees| {
                let at = Some(ExtrasRef { generation: 1, bytes: u32::try_from(base(9000).len()).unwrap() });
                trees.sessions.insert(bytes(&key(2)), cold(2, at).encode_spilled().unwrap()).unwrap();
            }),
        ),
    ];
    for (what, plant) in faults {
        let found = planted(plant);
        assert!(matches!(&found[..], [Violation::BrokenExtras { key, .. }] if *key == name(2)), "{what}: {found:?}");
    }
}

#[test]
fn a_wrong_count_is_found() {
    let found = planted(|trees| drop(trees.meta.insert(meta::COUNT, encode_meta(&7_u64).unwrap()).unwrap()));
    assert_eq!(found, [Violation::WrongCount { counted: 7, found: 3 }]);
}

#[test]
fn turns_without_their_session_are_counted_and_those_that_do_not_read_are_found() {
    let turn = |session| crate::codec::Turn { token: 1, started_at: NOW, session_id: id(session) };
    let dir = tempfile::tempdir().unwrap();
    let mut opened = with_entries(dir.path());
    let turns = [(entry(1), Some(turn(1))), (entry(2), Some(turn(77))), (entry(50), Some(turn(1)))];
    opened.writer.apply_turns(&opened.engine, &turns).unwrap();
    let found = verify(&opened.engine).unwrap();
    assert_eq!((found.violations, found.orphaned_turns), (vec![], 2));
    opened.engine.trees.turns.insert(entry(2).as_bytes(), vec![9, 9]).unwrap();
    let found = verify(&opened.engine).unwrap();
    assert!(matches!(&found.violations[..], [Violation::Unreadable { tree: "turns", .. }]), "{found:?}");
    assert_eq!(opened.engine.turns().unwrap().iter().filter(|turn| turn.is_ok()).count(), 2, "the others are read");
    opened.writer.apply_turns(&opened.engine, &[(entry(1), None), (entry(2), None), (entry(50), None)]).unwrap();
    assert!(opened.engine.turns().unwrap().is_empty());
}

#[test]
fn orphaned_chunks_are_counted_and_no_fault() {
    let dir = tempfile::tempdir().unwrap();
    let mut opened = with_entries(dir.path());
    for (row, value) in ExtrasRow::encode_all(entry(2), 99, &[1; 3 * CHUNK_BYTES]) {
        opened.engine.trees.extras.insert(row, value).unwrap();
    }
    let found = verify(&opened.engine).unwrap();
    assert_eq!((found.violations, found.orphaned_chunks), (vec![], 3));
    // They are swept with the next change.
    commit(&mut opened, &[whole(2, 2, NOW, Some((100, 50)))]).unwrap();
    assert_eq!(verify(&opened.engine).unwrap().orphaned_chunks, 0);
    assert_eq!(opened.engine.trees.extras.len(), 1);
}

#[test]
fn an_intent_that_does_not_read_is_found_and_stops_nobody() {
    let found = planted(|trees| drop(trees.intent.insert("group", &[9, 9]).unwrap()));
    assert!(matches!(&found[..], [Violation::Unreadable { tree: "intent", .. }]), "{found:?}");

    // Nor does one about an entry that cannot be decoded.
    let dir = tempfile::tempdir().unwrap();
    let opened = with_entries(dir.path());
    let trees = &opened.engine.trees;
    trees.sessions.insert(bytes(&key(1)), &[9, 9]).unwrap();
    let steps = vec![Step::Remove(entry(1)), Step::Remove(entry(3))];
    trees.intent.insert("group", Intent { count: 3, steps }.encode().unwrap()).unwrap();
    drop(opened);
    let opened = open_at(dir.path());
    assert!(!opened.engine.contains(&key(3)).unwrap());
    assert_eq!(opened.mark.count, 2);
    assert!(matches!(&violations(&opened.engine)[..], [Violation::Unreadable { tree: "sessions", .. }]));
}
