//! What a repair keeps, what it makes anew, and where the rest goes.

use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::entry::Revision;

/// Faults of every kind in one store of eight entries. Those of 1 and 2 cannot be decoded any more.
fn ruined(dir: &Path) -> Opened {
    let mut opened = with_entries(dir);
    let new: Vec<_> = (4..9).map(|n| whole(n, n, NOW, Some((n as u64, 6000)))).collect();
    commit(&mut opened, &new).unwrap();
    opened.writer.carry_all(&opened.engine).unwrap();
    let turn = |session| crate::codec::Turn { token: 1, started_at: NOW, session_id: id(session) };
    let turns = [(entry(1), Some(turn(1))), (entry(3), Some(turn(3))), (entry(4), Some(turn(77)))];
    opened.writer.apply_turns(&opened.engine, &turns).unwrap();
    let trees = &opened.engine.trees;

    trees.sessions.insert(bytes(&key(1)), &[9, 9]).unwrap();
    trees.sessions.remove(bytes(&key(2))).unwrap();
    trees.sessions.insert(b"_note", b"mine").unwrap();
    // Its hot record is lost; the index knows when it was active.
    trees.activity.insert(entry(3).as_bytes(), &[9]).unwrap();
    put_age_row(trees, 3, later(40));
    // And this one's too, with its row.
    trees.activity.remove(entry(4).as_bytes()).unwrap();
    remove_age_row(trees, 4, NOW);
    // Extras in pieces, once with the details in them.
    let chunk = |n: usize| ExtrasRow::encode_all(entry(n), n as u64, &[0; 6000]).nth(1).unwrap().0;
    trees.extras.remove(chunk(5)).unwrap();
    let at = Some(ExtrasRef { generation: 6, bytes: u32::try_from(base(6000).len()).unwrap() });
    trees.sessions.insert(bytes(&key(6)), cold(6, at).encode_spilled().unwrap()).unwrap();
    trees.by_session_id.remove(IdRow::encode(&id(7), entry(7))).unwrap();
    trees.by_session_id.insert(IdRow::encode(&id(70), entry(7)), vec![]).unwrap();
    for (row, value) in ExtrasRow::encode_all(entry(8), 99, &[1; 5000]) {
        trees.extras.insert(row, value).unwrap();
    }
    for tree in [&trees.activity, &trees.by_updated_at, &trees.by_session_id, &trees.extras, &trees.turns] {
        tree.insert(b"short", b"x").unwrap();
    }
    opened.writer.put_meta(&opened.engine, meta::COUNT, &77_u64).unwrap();
    opened.writer.sync(&opened.engine).unwrap();
    opened
}

/// Every row of every tree but the one that says how often the store was opened.
fn rows(engine: &Engine) -> Vec<(String, Vec<u8>, Vec<u8>)> {
    let trees = &engine.trees;
    let all = [
        &trees.sessions,
        &trees.activity,
        &trees.by_updated_at,
        &trees.by_session_id,
        &trees.extras,
        &trees.turns,
        &trees.meta,
    ];
    let rows = all.into_iter().flat_map(|tree| {
        tree.iter().map(|row| {
            let (row, mut value) = row.unwrap();
            // Those that a repair gives are random.
            if let (b"activity", Ok(Activity { key, hot })) = (&*tree.name(), Activity::decode(&value)) {
                value = Activity::encode(&key, &Hot { revision: Revision::NONE, ..hot }).unwrap().into();
            }
            (String::from_utf8(tree.name().to_vec()).unwrap(), row.to_vec(), value.to_vec())
        })
    });
    rows.filter(|(_, row, _)| row != meta::COMMIT.as_bytes()).collect()
}

fn lines(dir: &Path) -> Vec<serde_json::Value> {
    let text = fs::read_to_string(quarantine(dir)).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn what_reads_is_kept_and_the_rest_goes_to_the_quarantine() {
    let dir = tempfile::tempdir().unwrap();
    let opened = ruined(dir.path());
    let before = rows(&opened.engine);
    let repairs = heals(dir.path(), opened);
    assert_eq!((repairs.entries, repairs.entries_lost, repairs.extras_lost, repairs.details_lost), (6, 2, 2, 1));
    assert_eq!((repairs.activity_from_index, repairs.activity_from_creation), (1, 1));
    assert_eq!((repairs.id_rows_written, repairs.age_rows_written), (1, 0));
    // Of 1 and 2, and one that cannot be decoded; of the ids, also the wrong one of 7.
    assert_eq!((repairs.activity_removed, repairs.id_rows_removed), (3, 4));
    // 2's five, what is left of 5's and 6's, the two of 8 that nobody names, and one that cannot be decoded.
    assert_eq!((repairs.turns_removed, repairs.chunks_removed), (3, 5 + 2 + 3 + 3 + 1));
    // Of 1 and 2, the older one of 3, and one that cannot be decoded.
    assert_eq!(repairs.age_rows_removed, 4);
    assert!(repairs.count_corrected && repairs.has_losses());

    let opened = open_at(dir.path());
    let engine = &opened.engine;
    assert_eq!(hot_of(engine, &key(3)).unwrap().unwrap().updated_at, later(40));
    assert_eq!(hot_of(engine, &key(4)).unwrap().unwrap().updated_at, NOW);
    let kept = cold_of(engine, 5).unwrap();
    assert_eq!((kept.extras, kept.details.platform.as_deref()), (None, Some("discord")));
    let kept = cold_of(engine, 6).unwrap();
    assert_eq!((kept.session_id, kept.extras, kept.details.platform), (id(6), None, None));
    assert!(
        PartsOf { engine, key: &key(8), waiting: None }.extras(cold_of(engine, 8).unwrap().extras.as_deref()).is_ok()
    );
    assert_eq!(engine.turns().unwrap().len(), 1);

    // Nothing that held something is gone: it is in the store, or in the quarantine as it was.
    let lines = lines(dir.path());
    assert_eq!(lines.len() as u64, repairs.quarantined);
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let after = rows(engine);
    for (tree, row, value) in before.iter().filter(|row| !after.contains(row)) {
        let of_8_or_stale = tree == "by_updated_at"
            || tree == "meta"
            || tree == "turns" && row == entry(4).as_bytes()
            || tree == "extras" && row.starts_with(entry(8).as_bytes())
            || tree == "by_session_id" && row.starts_with(id(70).as_str().as_bytes());
        let quarantined = lines.iter().any(|line| {
            let key = line["key"].as_str().is_some_and(|key| key.as_bytes() == &row[..]);
            let key = key || line["key_hex"].as_str() == Some(&hex(row));
            line["tree"] == tree.as_str() && key && line["value_hex"] == hex(value).as_str()
        });
        assert!(of_8_or_stale || quarantined, "{tree:?} {row:?}");
    }
    assert!(lines.iter().any(|line| line["tree"] == "sessions" && line["key"] == key(1).as_str()));
    // And what is sound is not in the quarantine too.
    for (tree, row, _) in after.iter().filter(|(tree, ..)| tree.starts_with("by_")) {
        let is_row = |line: &&serde_json::Value| line["tree"] == tree.as_str() && line["key_hex"] == hex(row).as_str();
        assert_eq!(lines.iter().find(is_row), None);
    }
    let mode = fs::metadata(quarantine(dir.path())).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_repair_may_stop_anywhere() {
    let clean = tempfile::tempdir().unwrap();
    heals(clean.path(), ruined(clean.path()));
    let expected = rows(&open_at(clean.path()).engine);
    let expected_lines = lines(clean.path());
    let mut stops = 0;
    for stop in 1.. {
        let dir = tempfile::tempdir().unwrap();
        let mut opened = ruined(dir.path());
        let mut calls = 0;
        let (at, all) = (dir.path().to_path_buf(), expected_lines.clone());
        opened.writer.hook = Hook(Some(Box::new(move |_, _| {
            calls += 1;
            // All that is to go is in the quarantine before the first change.
            assert_eq!(lines(&at), all, "{stop}");
            if calls == stop { Err(Error::Panicked { message: "stopped".into() }) } else { Ok(()) }
        })));
        let stopped = repair(&opened.engine, &mut opened.writer, &quarantine(dir.path())).is_err();
        drop(opened);
        let mut opened = open_at(dir.path());
        repair(&opened.engine, &mut opened.writer, &quarantine(dir.path())).unwrap();
        assert_healed(&mut opened, &quarantine(dir.path()));
        assert_eq!(rows(&opened.engine), expected, "stopped at {stop}");
        assert!(lines(dir.path()).starts_with(&expected_lines));
        if !stopped {
            break;
        }
        stops = stop;
    }
    assert!(stops > 30, "only {stops}");
}

#[test]
fn without_a_quarantine_nothing_is_changed() {
    let dir = tempfile::tempdir().unwrap();
    let mut opened = ruined(dir.path());
    let before = rows(&opened.engine);
    let nowhere = dir.path().join("no/such/directory/file");
    let error = repair(&opened.engine, &mut opened.writer, &nowhere).unwrap_err();
    assert!(matches!(&error, Error::Io { path, .. } if *path == nowhere), "{error:?}");
    assert_eq!(rows(&opened.engine), before);
}

#[test]
fn a_sound_store_has_no_quarantine() {
    let dir = tempfile::tempdir().unwrap();
    let mut opened = with_entries(dir.path());
    let before = rows(&opened.engine);
    assert_healed(&mut opened, &quarantine(dir.path()));
    assert_eq!(rows(&opened.engine), before);
    assert!(!quarantine(dir.path()).exists());
}

#[test]
fn each_repair_is_counted_once() {
    let repaired = |plant: fn(&Trees)| {
        let dir = tempfile::tempdir().unwrap();
        let opened = with_entries(dir.path());
        plant(&opened.engine.trees);
        heals(dir.path(), opened)
    };
    let nothing = Repairs { entries: 3, ..Repairs::default() };
    let age_row = |trees: &Trees| remove_age_row(trees, 1, NOW);
    assert_eq!(repaired(age_row), Repairs { age_rows_written: 1, ..nothing });
    let id_row = |trees: &Trees| drop(trees.by_session_id.remove(IdRow::encode(&id(1), entry(1))).unwrap().unwrap());
    assert_eq!(repaired(id_row), Repairs { id_rows_written: 1, ..nothing });
    let orphan =
        |trees: &Trees| drop(trees.activity.insert(entry(8).as_bytes(), activity(8, &Hot::fresh(NOW))).unwrap());
    assert_eq!(repaired(orphan), Repairs { activity_removed: 1, quarantined: 1, ..nothing });
    let intent = |trees: &Trees| drop(trees.intent.insert("group", &[9, 9]).unwrap());
    assert_eq!(repaired(intent), Repairs { intent_removed: true, ..nothing });
    let journal = |trees: &Trees| drop(trees.journal.insert([0; 8], &[9, 9]).unwrap());
    assert_eq!(repaired(journal), Repairs { journal_rows_lost: 1, quarantined: 1, ..nothing });
}

#[test]
fn what_cannot_be_made_anew_is_a_loss() {
    let none =
        Repairs { entries: 3, id_rows_written: 1, chunks_removed: 2, count_corrected: true, ..Repairs::default() };
    assert!(!none.has_losses());
    for lost in [
        Repairs { quarantined: 1, ..none },
        Repairs { activity_from_index: 1, ..none },
        Repairs { activity_from_creation: 1, ..none },
        Repairs { activity_from_index: 1, activity_from_creation: 1, ..none },
    ] {
        assert!(lost.has_losses(), "{lost:?}");
    }
}

/// A hundred entries, a minute apart, and bytes that are no page in place of one of the pages of their rows.
fn with_broken_page(dir: &Path, page: usize) -> Opened {
    let mut opened = open_at(dir);
    let new: Vec<_> = (0..100).map(|n| whole(n, n, later(n as i64), None)).collect();
    commit(&mut opened, &new).unwrap();
    let tree = &opened.engine.trees.by_updated_at;
    assert_eq!(tree.len(), 4);
    let key = tree.iter().keys().nth(page).unwrap().unwrap();
    tree.insert(key, vec![9, 9]).unwrap();
    opened
}

/// The row that is the key of a page belongs to an entry too.
#[test]
fn each_entry_of_a_page_that_cannot_be_decoded_gets_its_row() {
    for page in 0..4 {
        let dir = tempfile::tempdir().unwrap();
        let opened = with_broken_page(dir.path(), page);
        let repairs = heals(dir.path(), opened);
        assert_eq!((repairs.entries, repairs.age_rows_removed), (100, 1));
        assert_eq!(repairs.age_rows_written, [32, 32, 32, 4][page]);
    }
}

/// Lists tell of a page that cannot be decoded wherever it lies, from both ends and in pieces of any size.
#[test]
fn lists_tell_of_each_page_that_cannot_be_decoded() {
    for page in 0..4 {
        let dir = tempfile::tempdir().unwrap();
        let Opened { engine, .. } = with_broken_page(dir.path(), page);
        for piece in [1, 4, 32, 68, 96, 100, 1000] {
            for newest_first in [true, false] {
                let (mut unreadable, mut last, mut met) = (Unreadable::default(), None, 0);
                loop {
                    let rows = match newest_first {
                        true => engine.newest_rows(last, piece, &mut unreadable),
                        false => engine.oldest_rows(last, None, piece, &mut unreadable),
                    };
                    let rows = rows.unwrap();
                    met += rows.len();
                    last = rows.last().copied().or(last);
                    if rows.len() < piece {
                        break;
                    }
                }
                assert_eq!(met, 100 - [32, 32, 32, 4][page]);
                assert!((1..=2).contains(&unreadable.count), "page {page}, pieces of {piece}: {}", unreadable.count);
            }
        }
    }
}
