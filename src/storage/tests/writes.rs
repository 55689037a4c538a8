//! What a crash between any two writes leaves.

use super::*;

/// A crash after a load leaves a note of each entry. Carrying looks at them, and the next commit does not.
#[test]
fn what_a_crash_left_holds_up_no_commit() {
    let dir = tempfile::tempdir().unwrap();
    let mut opened = open_at(dir.path());
    let new: Vec<_> = (0..3000).map(|n| whole(n, n, NOW, None)).collect();
    commit(&mut opened, &new).unwrap();
    drop(opened);
    let mut opened = open_at(dir.path());
    assert_eq!(opened.engine.gone.len(), 3000);
    commit(&mut opened, &[gone(1), whole(3001, 3001, NOW, None)]).unwrap();
    assert!(opened.engine.gone.len() > 2900, "{}", opened.engine.gone.len());
}

/// Before each write of a commit a reader finds each row of the index either with its entry or with a note that it has none.
#[test]
fn no_row_is_taken_for_damage_while_its_entry_comes_or_goes() {
    let dir = tempfile::tempdir().unwrap();
    let mut opened = with_entries(dir.path());
    let looks = Arc::new(Mutex::new(0));
    let seen = Arc::clone(&looks);
    opened.writer.hook = Hook::new(move |engine, _| {
        let mut unreadable = Unreadable::default();
        for row in engine.oldest_rows(None, None, 100, &mut unreadable)? {
            engine.of_row(&row)?;
            *seen.lock() += 1;
        }
        assert_eq!(unreadable.count, 0);
        Ok(())
    });
    let changes = [gone(1), whole(2, 22, later(7), None), whole(8, 8, later(8), None), whole(9, 9, later(9), None)];
    commit(&mut opened, &changes).unwrap();
    assert!(*looks.lock() > 40, "{}", looks.lock());
}

/// What its rows say already is not written again: a change of details is its two records and what makes them one.
#[test]
fn a_change_that_keeps_its_time_and_its_session_leaves_their_rows() {
    let dir = tempfile::tempdir().unwrap();
    let mut opened = with_entries(dir.path());
    let known = |engine: &Engine, n| {
        let (hot, cold) =
            (engine.stored_hot(entry(n)).unwrap().unwrap(), engine.stored_cold(&key(n)).unwrap().unwrap());
        Some(Box::new(Known::Entry { hot, cold }))
    };
    let writes = Arc::new(Mutex::new(0));
    let counted = Arc::clone(&writes);
    opened.writer.hook = Hook::new(move |_, cost| {
        *counted.lock() += usize::from(cost > 0);
        Ok(())
    });
    let before = known(&opened.engine, 1);
    commit(&mut opened, &[Change { before, ..whole(1, 1, NOW, None) }]).unwrap();
    // The intent, the two records, the end of the intent, the number of the commit.
    assert_eq!(std::mem::take(&mut *writes.lock()), 5);
    assert_eq!(violations(&opened.engine), []);

    // Another session has a row, and the old one's goes; another time has one, and there is a note of the old one.
    let before = known(&opened.engine, 1);
    commit(&mut opened, &[Change { before, ..whole(1, 11, NOW, None) }]).unwrap();
    assert_eq!(std::mem::take(&mut *writes.lock()), 7);
    let before = known(&opened.engine, 1);
    commit(&mut opened, &[Change { before, ..whole(1, 11, later(1), None) }]).unwrap();
    assert_eq!(violations(&opened.engine), []);
    // The journal knows a later time: the row in the index is that of an earlier one.
    commit(&mut opened, &[touch(1, later(2))]).unwrap();
    let before = known(&opened.engine, 1).map(|_| {
        let hot = Hot::fresh(later(2));
        Box::new(Known::Entry { hot, cold: opened.engine.stored_cold(&key(1)).unwrap().unwrap() })
    });
    commit(&mut opened, &[Change { before, ..whole(1, 11, later(2), None) }]).unwrap();
    assert_eq!((violations(&opened.engine), age_rows(&opened.engine.trees)), (vec![], 3 + opened.engine.gone.len()));
}

/// Stops the writer before each of its writes in turn, and then what settles it likewise. Outside of a group the
/// invariants hold at every one of them, and so they do after a reopening; then each change is there as a whole or not
/// at all.
fn stop_everywhere(name: &str, changes: impl Fn() -> Vec<Change>, done: impl Fn(&Engine) -> bool) {
    let dir = tempfile::tempdir().unwrap();
    let mut opened = with_entries(dir.path());
    assert!(!done(&opened.engine), "{name}");
    let before = contents(&opened.engine);
    commit(&mut opened, &changes()).unwrap();
    assert!(done(&opened.engine), "{name}");
    let after = contents(&opened.engine);
    let found = verify(&opened.engine).unwrap();
    assert_eq!((found.stale_rows, found.orphaned_chunks), (0, 0), "{name}");
    drop(opened);

    let (mut stops, mut settling_stopped) = (0, 0);
    loop {
        let dir = tempfile::tempdir().unwrap();
        let mut opened = with_entries(dir.path());
        opened.writer.hook = stop_before(stops + 1);
        if commit(&mut opened, &changes()).is_ok() {
            break;
        }
        stops += 1;
        opened.writer.hook = stop_before(stops % 7 + 1);
        settling_stopped += usize::from(opened.writer.settle(&opened.engine).is_err());
        drop(opened);

        let opened = open_at(dir.path());
        assert_eq!(violations(&opened.engine), [], "{name}, stopped at {stops}");
        assert!(opened.expected.is_none(), "{name}, stopped at {stops}: {opened:?}");
        let left = contents(&opened.engine);
        for n in before.keys().chain(after.keys()) {
            let is = left.get(n);
            assert!(is == before.get(n) || is == after.get(n), "{name}, stopped at {stops}: half of entry {n}");
        }
        for change in changes() {
            let Some(moved) = &change.moved else { continue };
            let there = [&moved.key, &change.key].map(|key| opened.engine.contains(key).unwrap());
            let turns = opened.engine.turns().unwrap().into_iter().map(|turn| turn.unwrap().0).collect::<Vec<_>>();
            assert!(there[0] != there[1], "{name}, stopped at {stops}: under both keys or none");
            assert_eq!(turns.contains(&change.entry), there[1], "{name}, stopped at {stops}");
        }
    }
    assert!(stops >= 3, "{name}: only {stops} writes were seen");
    let is_structural = changes().iter().any(|change| !matches!(change.content, Content::Hot(_)));
    assert_eq!(settling_stopped > 0, is_structural, "{name}: {settling_stopped} of {stops}");
}

/// A hook that stops the writer before its `stop`-th write, and checks the store until then.
pub(super) fn stop_before(stop: usize) -> Hook {
    let mut calls = 0;
    Hook::new(move |engine, _| {
        // Within a group only an opening can tell; it settles the group first.
        let in_group = engine.gate.try_lock().is_none() || engine.trees.intent.contains_key("group").unwrap();
        if !in_group {
            assert_eq!(violations(engine), []);
        }
        calls += 1;
        if calls == stop { Err(Error::Panicked { message: "stopped".into() }) } else { Ok(()) }
    })
}

/// Both records of each entry.
pub(super) fn contents(engine: &Engine) -> BTreeMap<usize, (Option<Hot>, Option<Cold>)> {
    let read = |n: usize| (hot_of(engine, &key(n)).unwrap(), cold_of(engine, n));
    (0..10).map(|n| (n, read(n))).filter(|(_, (hot, cold))| hot.is_some() || cold.is_some()).collect()
}

/// The committer serves everybody: what one entry was before does not stop it.
#[test]
fn a_record_that_cannot_be_decoded_is_written_over() {
    let dir = tempfile::tempdir().unwrap();
    let mut opened = with_entries(dir.path());
    opened.engine.trees.sessions.insert(bytes(&key(1)), &[9, 9]).unwrap();
    commit(&mut opened, &[whole(1, 5, NOW, None), gone(2)]).unwrap();
    assert_eq!(cold_of(&opened.engine, 1).unwrap().session_id, id(5));
    assert!(!opened.engine.contains(&key(2)).unwrap());
    // Its old row by session id is nobody's now.
    assert!(matches!(&violations(&opened.engine)[..], [Violation::WrongIdRow { .. }]));
}

#[test]
fn a_touch_that_crosses_may_stop_anywhere() {
    let done = |engine: &Engine| hot_of(engine, &key(1)).unwrap().unwrap().updated_at == later(5);
    stop_everywhere("touch", || vec![touch(1, later(5)), touch(2, later(6))], done);
}

#[test]
fn a_creation_may_stop_anywhere() {
    let done = |engine: &Engine| engine.contains(&key(9)).unwrap();
    stop_everywhere("create", || vec![whole(9, 9, later(1), None)], done);
    stop_everywhere("create with extras", || vec![whole(9, 9, later(1), Some((7, 9000)))], done);
}

#[test]
fn a_reset_may_stop_anywhere() {
    let done = |engine: &Engine| cold_of(engine, 2).unwrap().session_id == id(77);
    stop_everywhere("reset", || vec![whole(2, 77, later(1), None)], done);
}

#[test]
fn new_extras_may_stop_anywhere() {
    let done = |engine: &Engine| {
        cold_of(engine, 2)
            .unwrap()
            .extras
            .and_then(|extras| extras.base)
            .is_some_and(|at| at.generation == 8 && at.bytes > 5000)
    };
    stop_everywhere("extras", || vec![whole(2, 2, NOW, Some((8, 6000)))], done);
}

#[test]
fn a_removal_may_stop_anywhere() {
    let done = |engine: &Engine| !engine.contains(&key(2)).unwrap();
    stop_everywhere("remove", || vec![gone(2)], done);
}

#[test]
fn a_mixed_commit_may_stop_anywhere() {
    let changes = || vec![touch(1, later(5)), gone(2), touch(3, later(1)), whole(4, 4, later(5), Some((9, 5000)))];
    let done = |engine: &Engine| !engine.contains(&key(2)).unwrap() && engine.contains(&key(4)).unwrap();
    stop_everywhere("mixed", changes, done);
}

/// Under one key, or under the other, with its turn.
#[test]
fn an_entry_that_moves_may_stop_anywhere() {
    let done = |engine: &Engine| engine.contains(&key(8)).unwrap();
    stop_everywhere("move", || vec![moved(1, 8, None)], done);
    stop_everywhere("move with extras", || vec![moved(2, 8, Some((7, 9000)))], done);
    stop_everywhere(
        "two moves and a touch",
        || vec![touch(3, later(2)), moved(2, 8, None), moved(1, 7, Some((7, 50)))],
        done,
    );
}

#[test]
fn what_the_journal_says_of_an_entry_stays_behind() {
    let dir = tempfile::tempdir().unwrap();
    let mut opened = with_entries(dir.path());
    commit(&mut opened, &[touch(2, later(50))]).unwrap();
    commit(&mut opened, &[moved(2, 8, None)]).unwrap();
    drop(opened);
    let opened = open_at(dir.path());
    assert_eq!(violations(&opened.engine), []);
    let times = [2, 8].map(|n| hot_of(&opened.engine, &key(n)).unwrap().map(|hot| hot.updated_at));
    assert_eq!(times, [None, Some(later(3))]);
}

/// The order of a commit is that of the writer: what comes to the old key comes after what leaves it.
#[test]
fn a_key_that_an_entry_has_left_may_get_another_one_in_the_same_commit() {
    let dir = tempfile::tempdir().unwrap();
    let mut opened = with_entries(dir.path());
    let mut changes = vec![whole(2, 99, later(9), Some((20, 3000))), moved(2, 8, Some((21, 4000)))];
    changes.sort_by(Change::place);
    commit(&mut opened, &changes).unwrap();
    assert_eq!(violations(&opened.engine), []);
    let ids = [2, 8].map(|n| cold_of(&opened.engine, n).unwrap().session_id);
    assert_eq!(ids, [id(99), id(2)]);
}

/// It came to a key and was removed there, all before its commit.
#[test]
fn an_entry_that_moves_and_goes_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let mut opened = with_entries(dir.path());
    let Change { moved, .. } = moved(2, 8, None);
    commit(&mut opened, &[Change { moved, ..gone(8) }]).unwrap();
    assert_eq!(violations(&opened.engine), []);
    assert_eq!([2, 8].map(|n| opened.engine.contains(&key(n)).unwrap()), [false, false]);
}

const TERM: Term = Term { since: NOW, end: Timestamp::from_micros(4_000_000_000_000_000) };

fn leased(change: Change, name: &str) -> Change {
    Change { leases: vec![(name.into(), Some(TERM))], ..change }
}

/// The entries that a lease of this name belongs to.
fn leases(engine: &Engine, name: &str) -> Vec<Fingerprint> {
    let all = engine.leases().unwrap().into_iter();
    all.filter(|found| found.lease.as_ref().unwrap().0 == name).filter_map(|found| found.entry).collect()
}

/// Stops the writer before each of its writes in turn, in a store whose entries 1 and 2 have a lease. Whatever is there
/// then, `check` is asked after a reopening.
fn stop_with_leases(name: &str, changes: impl Fn() -> Vec<Change>, check: impl Fn(&Engine)) {
    let mut stops = 0;
    loop {
        let dir = tempfile::tempdir().unwrap();
        let mut opened = with_entries(dir.path());
        commit(&mut opened, &[leased(touch(1, NOW), "job"), leased(touch(2, NOW), "job")]).unwrap();
        opened.writer.hook = stop_before(stops + 1);
        let is_done = commit(&mut opened, &changes()).is_ok();
        stops += 1;
        drop(opened);
        let opened = open_at(dir.path());
        let found = verify(&opened.engine).unwrap();
        assert_eq!((found.violations, found.orphaned_leases), (vec![], 0), "{name}, stopped at {stops}");
        check(&opened.engine);
        if is_done {
            break;
        }
    }
    assert!(stops > 3, "{name}: only {stops} writes were seen");
}

#[test]
fn an_entry_that_is_made_again_has_none_of_the_leases_wherever_that_stops() {
    let again = || {
        let change = leased(whole(2, 77, later(1), Some((7, 9000))), "new");
        vec![Change { is_another: true, ..change }, whole(4, 4, NOW, None)]
    };
    stop_with_leases("again", again, |engine| {
        let id_there = cold_of(engine, 2).map(|cold| cold.session_id);
        let held = |name| leases(engine, name).contains(&entry(2));
        let (old, new) = (id_there == Some(id(2)), id_there == Some(id(77)));
        assert_eq!((held("job"), held("new")), (old, new), "{id_there:?}");
    });
    stop_with_leases(
        "remove",
        || vec![gone(2)],
        |engine| {
            assert_eq!(leases(engine, "job").contains(&entry(2)), engine.contains(&key(2)).unwrap());
        },
    );
}

#[test]
fn leases_stay_with_what_is_replaced_and_go_with_what_moves_wherever_that_stops() {
    stop_with_leases(
        "reset",
        || vec![whole(2, 77, later(1), None)],
        |engine| {
            assert!(leases(engine, "job").contains(&entry(2)));
        },
    );
    stop_with_leases(
        "move",
        || vec![leased(moved(1, 8, None), "job")],
        |engine| {
            let held = leases(engine, "job");
            assert!(held.contains(&entry(if engine.contains(&key(1)).unwrap() { 1 } else { 8 })), "{held:?}");
        },
    );
}

/// Damage may leave the leases of no entry. One that is made there does not get them.
#[test]
fn what_is_made_gets_no_lease_that_was_there_before_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut opened = with_entries(dir.path());
    let row = crate::codec::LeaseRow::encode(entry(9), "stray");
    opened.engine.trees.leases.insert(row, TERM.encode().unwrap()).unwrap();
    assert_eq!(verify(&opened.engine).unwrap().orphaned_leases, 1);
    commit(&mut opened, &[leased(whole(9, 9, NOW, None), "job")]).unwrap();
    assert_eq!((leases(&opened.engine, "stray"), leases(&opened.engine, "job")), (vec![], vec![entry(9)]));
    opened.engine.trees.leases.insert(b"short", b"x").unwrap();
    heals(dir.path(), opened);
}

/// Lists go by the trees as soon as a piece is told of: an entry is there though one of its key has left the same row.
#[test]
fn what_is_told_of_is_in_the_lists() {
    let another = Change { is_another: true, ..whole(1, 4, NOW, None) };
    for changes in [vec![another], vec![moved(1, 5, None), whole(1, 4, NOW, None)]] {
        let dir = tempfile::tempdir().unwrap();
        let Opened { engine, mut writer, .. } = with_entries(dir.path());
        let mut told = 0;
        writer
            .apply(&engine, &changes, 1, |piece| {
                told += piece.len();
                let listed = engine.newest_rows(None, 10, &mut Unreadable::default()).unwrap();
                for change in piece {
                    let row = change.age_row().unwrap();
                    assert!(listed.contains(&row), "{row:?} is not in {listed:?}");
                }
            })
            .unwrap();
        assert_eq!(told, changes.len());
        assert_eq!(violations(&engine), []);
    }
}

/// An entry that is whole has its row, though another of its key has just left it, and others of the commit are still to come.
#[test]
fn a_whole_entry_has_its_row_while_others_are_written() {
    let dir = tempfile::tempdir().unwrap();
    let Opened { engine, mut writer, .. } = with_entries(dir.path());
    let another = |n: usize| Change { is_another: true, ..whole(n, n + 10, NOW, None) };
    let (looks, seen) = (Arc::new(Mutex::new(0)), Arc::new(Mutex::new(vec![])));
    let (looked, told) = (Arc::clone(&looks), Arc::clone(&seen));
    writer.hook = Hook::new(move |engine, _| {
        // Between two groups nobody has the gate.
        let Some(_gate) = engine.gate.try_lock() else { return Ok(()) };
        if cold_of(engine, 1).is_some_and(|cold| cold.session_id == id(11)) {
            *looked.lock() += 1;
            let row = ActivityRow { time: NOW, entry: entry(1) };
            if !engine.has_age_row(&row)? {
                told.lock().push(*looked.lock());
            }
        }
        Ok(())
    });
    writer.apply(&engine, &[another(1), another(2), another(3)], 3, |_| {}).unwrap();
    assert!(*looks.lock() > 2);
    assert_eq!(*seen.lock(), Vec::<i32>::new());
}
