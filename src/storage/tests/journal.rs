//! The journal: what it says, what carrying leaves of it, and what a crash in between does.

use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;

use super::engine::journal::Journal;
use super::writes::{contents, stop_before};
use super::*;
use crate::codec::{JournalRecord, JournalRow};

/// Long enough for the journal to be carried.
const MINUTE: Duration = Duration::from_secs(60);

fn minutes(n: u32) -> Duration {
    MINUTE * n
}

/// Commits, and tends the journal as the committer does.
fn tend(opened: &mut Opened, now: Duration, changes: &[Change]) -> Result<()> {
    commit(opened, changes)?;
    opened.writer.tend_journal(&opened.engine, now, changes.len())?;
    opened.writer.sync(&opened.engine)
}

/// Tends the journal until it is empty.
fn carry(opened: &mut Opened) {
    for n in 1..100 {
        opened.writer.tend_journal(&opened.engine, minutes(n), 0).unwrap();
        if opened.engine.trees.journal.is_empty() {
            return;
        }
    }
    panic!("the journal does not end");
}

fn stored(engine: &Engine, n: usize) -> Timestamp {
    engine.stored_hot(entry(n)).unwrap().unwrap().updated_at
}

fn seen(engine: &Engine, n: usize) -> Timestamp {
    hot_of(engine, &key(n)).unwrap().unwrap().updated_at
}

fn many(n: usize) -> Vec<Change> {
    (0..n).map(|n| whole(n, n, NOW, None)).collect()
}

#[test]
fn many_touches_are_few_writes_and_wait_in_the_journal() {
    let dir = tempfile::tempdir().unwrap();
    let mut opened = open_at(dir.path());
    commit(&mut opened, &many(100)).unwrap();
    let writes = Arc::new(Mutex::new(0));
    let counted = Arc::clone(&writes);
    opened.writer.hook = Hook::new(move |_, cost| {
        *counted.lock() += usize::from(cost > 0);
        Ok(())
    });
    let touches: Vec<_> = (0..100).map(|n| touch(n, later(5))).collect();
    commit(&mut opened, &touches).unwrap();
    assert!(*writes.lock() <= 5, "{} writes", writes.lock());
    for n in 0..100 {
        assert_eq!((seen(&opened.engine, n), stored(&opened.engine, n)), (later(5), NOW));
    }
    let mut none = Unreadable::default();
    let newest = opened.engine.newest_rows(None, 1000, &mut none).unwrap();
    let mut oldest = opened.engine.oldest_rows(None, None, 1000, &mut none).unwrap();
    assert!(oldest.len() == 100 && oldest.iter().all(|row| row.time == later(5)));
    oldest.reverse();
    assert_eq!(oldest, newest);
    assert_eq!(opened.engine.count_rows(later(5), 1000).unwrap(), 0);
    assert_eq!(opened.engine.count_rows(later(6), 1000).unwrap(), 100);
}

#[test]
fn touches_of_one_time_are_one_row_each() {
    let dir = tempfile::tempdir().unwrap();
    let mut opened = open_at(dir.path());
    commit(&mut opened, &many(3)).unwrap();
    for touched in [0, 1, 2, 0] {
        commit(&mut opened, &[touch(touched, later(5))]).unwrap();
        // Each look sorts what came since the last one.
        assert!(opened.engine.count_rows(later(6), 1000).unwrap() >= 3);
    }
    for limit in 1..4 {
        assert_eq!(opened.engine.count_rows(later(6), limit).unwrap(), limit);
        assert_eq!(
            opened.engine.newest_rows(None, limit as usize, &mut Unreadable::default()).unwrap().len(),
            limit as usize
        );
    }
}

#[test]
fn an_opening_reads_the_journal_and_carries_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut opened = with_entries(dir.path());
    commit(&mut opened, &[touch(1, later(5)), touch(2, later(6))]).unwrap();
    commit(&mut opened, &[touch(1, later(7))]).unwrap();
    drop(opened);
    let mut opened = open_at(dir.path());
    assert_eq!((seen(&opened.engine, 1), stored(&opened.engine, 1)), (later(7), NOW));
    assert_eq!(seen(&opened.engine, 2), later(6));
    carry(&mut opened);
    assert_eq!((stored(&opened.engine, 1), stored(&opened.engine, 2)), (later(7), later(6)));
    assert_eq!(opened.engine.memtable.len(), 0);
    let found = verify(&opened.engine).unwrap();
    assert_eq!((found.violations, found.stale_rows), (vec![], 0));
}

#[test]
fn counters_and_flags_go_through_the_journal() {
    let dir = tempfile::tempdir().unwrap();
    let mut opened = with_entries(dir.path());
    let mut hot = Hot::fresh(later(3));
    hot.usage.input_tokens = 7;
    hot.set(SUSPENDED, true);
    commit(
        &mut opened,
        &[Change {
            key: key(1),
            entry: entry(1),
            content: Content::Hot(hot),
            moved: None,
            is_another: false,
            leases: vec![],
            before: None,
        }],
    )
    .unwrap();
    assert_eq!(hot_of(&opened.engine, &key(1)).unwrap(), Some(hot));
    drop(opened);
    let mut opened = open_at(dir.path());
    assert_eq!(hot_of(&opened.engine, &key(1)).unwrap(), Some(hot));
    carry(&mut opened);
    assert_eq!(opened.engine.stored_hot(entry(1)).unwrap(), Some(hot));
}

/// However short the openings are, the journal keeps its bound, and what was carried is not carried again.
#[test]
fn short_openings_carry_too() {
    let dir = tempfile::tempdir().unwrap();
    let mut opened = open_at(dir.path());
    commit(&mut opened, &many(2000)).unwrap();
    let mut last = 0;
    for round in 1..60 {
        drop(opened);
        opened = open_at(dir.path());
        opened.writer.set_journal_bytes(30_000);
        // Fewer than there are entries: no opening could carry all of them.
        let touches: Vec<_> = (0..300).map(|n| touch((round * 300 + n) % 2000, later(round as i64))).collect();
        for touches in touches.chunks(100) {
            tend(&mut opened, Duration::ZERO, touches).unwrap();
        }
        last = opened.engine.trees.journal.iter().values().map(|value| value.unwrap().len()).sum();
        assert!(last < 120_000, "{last} bytes in the journal after {round} openings");
    }
    assert!(last > 0);
    assert_eq!(violations(&opened.engine), []);
}

/// On a disk with hardly any space nothing is carried that can wait: the space is for pruning.
#[test]
fn a_journal_that_is_held_waits() {
    let dir = tempfile::tempdir().unwrap();
    let mut opened = with_entries(dir.path());
    opened.writer.hold_journal();
    touched(&mut opened);
    let size = |opened: &Opened| opened.engine.log_position().unwrap();
    let before = size(&opened);
    for n in 1..100 {
        opened.writer.tend_journal(&opened.engine, minutes(n), 0).unwrap();
    }
    assert!(size(&opened) - before < 100, "something was written");
    assert_eq!(stored(&opened.engine, 1), NOW);
    // With no room left each commit carries its share.
    opened.writer.set_journal_bytes(1);
    opened.writer.tend_journal(&opened.engine, minutes(100), 0).unwrap();
    assert_eq!(stored(&opened.engine, 1), NOW);
    tend(&mut opened, minutes(100), &[touch(2, later(9))]).unwrap();
    assert_eq!(stored(&opened.engine, 1), later(5));
}

/// Of what is to be carried a hundredth is left when the half that grows is full, however little each commit writes. And
/// commits that write little carry little, however many changes they have.
#[test]
fn carrying_goes_by_what_is_written() {
    let limit = 1_000_000;
    for (bytes, changes) in [(25, 1), (40, 1), (2_500, 100), (100, 100), (100_000, 4_000)] {
        let (mut journal, mut left, mut largest) = (Journal::new(), 30_000, 0);
        journal.limit = limit;
        journal.grow(limit);
        journal.swap_halves();
        while journal.bytes < limit {
            journal.grow(bytes);
            let share = journal.take_share(changes, 30_000, left);
            assert!(share == 0 || journal.bytes >= limit / 2, "{share} were carried though there was room");
            left = left.saturating_sub(share);
            largest = largest.max(share);
        }
        assert!(left <= 300, "{left} are left after commits of {bytes} bytes");
        let written = usize::try_from(bytes).unwrap();
        assert!(largest <= 64 + 30_000 * written * 4 / 1_000_000, "{largest} at once for {bytes} bytes");
    }
}

/// A row that cannot be decoded may have said that an entry was made anew.
#[test]
fn what_may_have_been_forgotten_does_not_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let mut opened = with_entries(dir.path());
    let mut old = Hot::fresh(later(1));
    old.set(SUSPENDED, true);
    let suspend = |n| Change {
        key: key(n),
        entry: entry(n),
        content: Content::Hot(old),
        moved: None,
        is_another: false,
        leases: vec![],
        before: None,
    };
    commit(&mut opened, &[suspend(1), suspend(2), suspend(3)]).unwrap();
    commit(&mut opened, &[whole(1, 77, later(1), None), gone(2)]).unwrap();
    let forgot = opened.engine.trees.journal.last().unwrap().unwrap().0;
    opened.engine.trees.journal.insert(forgot, vec![9, 9]).unwrap();
    drop(opened);
    let mut opened = open_at(dir.path());
    for _ in 0..2 {
        assert_eq!(hot_of(&opened.engine, &key(1)).unwrap(), Some(Hot::fresh(later(1))));
        assert_eq!(hot_of(&opened.engine, &key(2)).unwrap(), None);
        assert_eq!(hot_of(&opened.engine, &key(3)).unwrap(), Some(old));
        for n in 1..9 {
            opened.writer.tend_journal(&opened.engine, minutes(n), 0).unwrap();
        }
    }
    let found = verify(&opened.engine).unwrap();
    assert!(matches!(&found.violations[..], [Violation::Unreadable { tree: "journal", .. }]), "{found:?}");
}

/// The bytes of an activity record that cannot be decoded are kept, though the journal has a newer one.
#[test]
fn a_repair_keeps_what_carrying_writes_over() {
    let dir = tempfile::tempdir().unwrap();
    let mut opened = with_entries(dir.path());
    touched(&mut opened);
    opened.engine.trees.activity.insert(entry(1).as_bytes(), vec![9, 7]).unwrap();
    // Neither a change nor a pass that meets it stops the store.
    commit(&mut opened, &[whole(1, 1, later(5), None)]).unwrap();
    opened.engine.trees.activity.insert(entry(2).as_bytes(), vec![9, 7]).unwrap();
    let row = ActivityRow { time: NOW, entry: entry(2) };
    assert!(!opened.writer.recheck(&opened.engine, &row).unwrap());
    let repairs = heals(dir.path(), opened);
    assert_eq!((repairs.quarantined, repairs.activity_from_index, repairs.activity_from_journal), (2, 0, 1));
    let kept = fs::read_to_string(quarantine(dir.path())).unwrap();
    assert!(kept.contains("\"value_hex\":\"0907\"") && kept.contains("\"tree\":\"activity\""), "{kept}");
    assert_eq!(stored(&open_at(dir.path()).engine, 2), later(6));
}

/// What was carried and is touched again meanwhile stays in the journal.
#[test]
fn the_journal_keeps_its_bound_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut opened = open_at(dir.path());
    opened.writer.set_journal_bytes(20_000);
    commit(&mut opened, &many(500)).unwrap();
    let (mut largest, mut turns) = (0, 0);
    for round in 0..200_usize {
        let last = round as i64;
        let mut touches: Vec<_> = (0..50).map(|n| touch((round * 37 + n * 7) % 500, later(last))).collect();
        touches.sort_by(Change::place);
        touches.dedup_by_key(|change| change.entry);
        // No time passes, so only the bound makes it carry.
        tend(&mut opened, Duration::ZERO, &touches).unwrap();
        let bytes: usize = opened.engine.trees.journal.iter().values().map(|value| value.unwrap().len()).sum();
        turns += usize::from(bytes < largest / 2);
        largest = largest.max(bytes);
    }
    assert!(largest < 45_000, "{largest} bytes in the journal");
    assert!(turns > 5, "{turns} turns");
    let before: Vec<_> = (0..500).map(|n| seen(&opened.engine, n)).collect();
    drop(opened);
    let mut opened = open_at(dir.path());
    assert_eq!((0..500).map(|n| seen(&opened.engine, n)).collect::<Vec<_>>(), before);
    carry(&mut opened);
    assert_eq!((0..500).map(|n| stored(&opened.engine, n)).collect::<Vec<_>>(), before);
    assert_eq!(violations(&opened.engine), []);
}

/// Stops the writer before each of its writes in turn while it does `work`. After an opening each entry must be as it was
/// before the work or after it, also when the journal was carried.
fn stop_anywhere(name: &str, prepare: &dyn Fn(&mut Opened), work: &dyn Fn(&mut Opened) -> Result<()>) {
    let mut wanted: Vec<BTreeMap<_, _>> = Vec::new();
    for whole in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let mut opened = with_entries(dir.path());
        prepare(&mut opened);
        if whole {
            work(&mut opened).unwrap();
        }
        wanted.push(contents(&opened.engine));
    }
    let mut stops = 0;
    loop {
        let dir = tempfile::tempdir().unwrap();
        let mut opened = with_entries(dir.path());
        prepare(&mut opened);
        opened.writer.hook = stop_before(stops + 1);
        if work(&mut opened).is_ok() {
            break;
        }
        stops += 1;
        drop(opened);
        let mut opened = open_at(dir.path());
        assert_eq!(violations(&opened.engine), [], "{name}, stopped at {stops}");
        for carried in [false, true] {
            if carried {
                carry(&mut opened);
                assert_eq!(violations(&opened.engine), [], "{name}, stopped at {stops} and carried");
            }
            let left = contents(&opened.engine);
            for n in 0..10 {
                let is = left.get(&n);
                let ok = wanted.iter().any(|wanted| wanted.get(&n) == is);
                assert!(ok, "{name}, stopped at {stops}, carried {carried}: entry {n} is {is:?}");
            }
        }
    }
    assert!(stops >= 4, "{name}: only {stops} writes were seen");
}

fn touched(opened: &mut Opened) {
    commit(opened, &[touch(1, later(5)), touch(2, later(6)), touch(3, later(7))]).unwrap();
}

/// Carried, but the rows of the journal are still there.
fn half_carried(opened: &mut Opened) {
    touched(opened);
    opened.writer.hook = Hook::new(move |engine, _| {
        let is_carried = (1..=3).all(|n| stored(engine, n) == seen(engine, n));
        let is_clean = age_rows(&engine.trees) - engine.gone.len() == 3;
        if is_carried && is_clean { Err(Error::Panicked { message: "stopped".into() }) } else { Ok(()) }
    });
    carry_slices(opened, 1).unwrap_err();
    opened.writer.hook = Hook::default();
    assert!((1..=3).all(|n| stored(&opened.engine, n) == seen(&opened.engine, n)));
    assert!(!opened.engine.trees.journal.is_empty());
}

/// Waits until the journal is old enough, and then for the given number of slices.
fn carry_slices(opened: &mut Opened, count: u64) -> Result<()> {
    let slices = (0..count).map(|n| 60_000 + 100 * n);
    let mut times = [0, 59_900].into_iter().chain(slices);
    times.try_for_each(|time| opened.writer.tend_journal(&opened.engine, Duration::from_millis(time), 0))
}

/// A store in which the second entry was touched, and a crash stopped what carries it: the new row is there, and the record is not.
fn stopped_before_the_record(dir: &Path) -> Opened {
    let mut opened = with_entries(dir);
    commit(&mut opened, &[touch(2, later(6))]).unwrap();
    opened.writer.hook = Hook::new(|engine, _| match age_rows(&engine.trees) {
        4 => Err(Error::Panicked { message: "stopped".into() }),
        _ => Ok(()),
    });
    carry_slices(&mut opened, 3).unwrap_err();
    drop(opened);
    open_at(dir)
}

/// What removes the entry removes that row too.
#[test]
fn a_removal_takes_the_row_that_carrying_put_before_a_crash() {
    let dir = tempfile::tempdir().unwrap();
    let mut opened = stopped_before_the_record(dir.path());
    assert_eq!((stored(&opened.engine, 2), seen(&opened.engine, 2)), (NOW, later(6)));
    commit(&mut opened, &[gone(2)]).unwrap();
    opened.writer.end_use(&opened.engine).unwrap();
    assert_eq!(age_rows(&opened.engine.trees), 2);
}

/// Likewise if the entry has moved on before it is carried again, so that nothing but the note knows of that row.
#[test]
fn a_row_that_carrying_put_before_a_crash_is_forgotten_by_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let mut opened = stopped_before_the_record(dir.path());
    commit(&mut opened, &[touch(2, later(7))]).unwrap();
    carry(&mut opened);
    commit(&mut opened, &[gone(2)]).unwrap();
    let row = ActivityRow { time: later(6), entry: entry(2) };
    assert_eq!(opened.engine.of_row(&row).unwrap(), None);
    opened.writer.end_use(&opened.engine).unwrap();
    assert_eq!(age_rows(&opened.engine.trees), 2);
}

#[test]
fn carrying_may_stop_anywhere() {
    stop_anywhere("carry", &touched, &|opened| carry_slices(opened, 3));
}

#[test]
fn structural_changes_of_what_the_journal_knows_may_stop_anywhere() {
    for (state, prepare) in [("touched", &touched as &dyn Fn(&mut Opened)), ("carried", &half_carried)] {
        let name = |what: &str| format!("{what} of what is {state}");
        stop_anywhere(&name("removal"), prepare, &|opened| commit(opened, &[gone(2)]));
        stop_anywhere(&name("reset"), prepare, &|opened| commit(opened, &[whole(2, 77, later(6), None)]));
        stop_anywhere(&name("all"), prepare, &|opened| {
            commit(opened, &[touch(1, later(8)), gone(2), whole(3, 33, later(9), None), whole(4, 4, later(9), None)])
        });
    }
}

/// The journal must not bring back what was there before a removal or a reset, with a clock that stands still.
#[test]
fn what_is_made_anew_is_not_what_the_journal_said() {
    for prepare in [&touched as &dyn Fn(&mut Opened), &half_carried] {
        let dir = tempfile::tempdir().unwrap();
        let mut opened = with_entries(dir.path());
        prepare(&mut opened);
        commit(&mut opened, &[gone(1), whole(2, 77, later(1), None)]).unwrap();
        commit(&mut opened, &[whole(1, 78, later(1), None)]).unwrap();
        for _ in 0..2 {
            assert_eq!((seen(&opened.engine, 1), seen(&opened.engine, 2)), (later(1), later(1)));
            drop(opened);
            opened = open_at(dir.path());
        }
        carry(&mut opened);
        assert_eq!((stored(&opened.engine, 1), stored(&opened.engine, 2)), (later(1), later(1)));
        assert_eq!(violations(&opened.engine), []);
    }
}

#[test]
fn rows_that_do_not_read_are_found_kept_and_repaired() {
    let dir = tempfile::tempdir().unwrap();
    let mut opened = with_entries(dir.path());
    for minute in 1..=3 {
        commit(&mut opened, &[touch(1, later(minute))]).unwrap();
    }
    opened.engine.trees.journal.insert(JournalRow::key(1), vec![9, 9]).unwrap();
    opened.engine.trees.journal.insert("short", vec![1]).unwrap();
    drop(opened);
    let mut opened = open_at(dir.path());
    assert_eq!(seen(&opened.engine, 1), later(3));
    for n in 1..9 {
        opened.writer.tend_journal(&opened.engine, minutes(n), 0).unwrap();
    }
    assert_eq!(stored(&opened.engine, 1), later(3));
    let found = violations(&opened.engine);
    assert!(
        found.len() == 2 && found.iter().all(|v| matches!(v, Violation::Unreadable { tree: "journal", .. })),
        "{found:?}"
    );
    let repairs = heals(dir.path(), opened);
    assert_eq!((repairs.journal_rows_lost, repairs.quarantined), (2, 2));
}

#[test]
fn a_record_without_an_entry_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let mut opened = with_entries(dir.path());
    commit(&mut opened, &[touch(8, NOW)]).unwrap();
    assert_eq!(violations(&opened.engine), [Violation::OrphanedActivity { key: entry(8).to_string() }]);
    heals(dir.path(), opened);
}

#[derive(Debug, Clone)]
enum Move {
    Touch(usize, i64),
    /// Counts tokens, and moves no time.
    Count(usize),
    Remove(usize),
    Create(usize, i64),
    Carry(u32),
    Reopen,
    /// No close comes before it.
    Crash,
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let one = prop_oneof![
        6 => (0..12_usize, 0..6_i64).prop_map(|(n, minute)| Move::Touch(n, minute)),
        2 => (0..12_usize).prop_map(Move::Count),
        1 => (0..12_usize).prop_map(Move::Remove),
        2 => (0..12_usize, 0..6_i64).prop_map(|(n, minute)| Move::Create(n, minute)),
        1 => (0..3_u32).prop_map(Move::Carry),
        1 => Just(Move::Reopen),
        1 => Just(Move::Crash),
    ];
    proptest::collection::vec(one, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    /// Whatever is in the journal and whatever in the trees, a reader sees one index, and the newest hot record of each entry.
    #[test]
    fn the_index_is_read_as_one(moves in moves()) {
        let dir = tempfile::tempdir().unwrap();
        let mut opened = open_at(dir.path());
        let mut model: BTreeMap<usize, (i64, Hot)> = BTreeMap::new();
        let (mut now, mut may_have_old) = (0, false);
        for step in moves {
            match step {
                Move::Touch(n, minute) => {
                    let Some((at, hot)) = model.get_mut(&n) else { continue };
                    *at = minute.max(*at);
                    hot.updated_at = later(*at);
                    commit(&mut opened, &[Change { content: Content::Hot(*hot), ..touch(n, NOW) }]).unwrap();
                }
                Move::Count(n) => {
                    let Some((_, hot)) = model.get_mut(&n) else { continue };
                    hot.usage.total_tokens += 1;
                    commit(&mut opened, &[Change { content: Content::Hot(*hot), ..touch(n, NOW) }]).unwrap();
                }
                Move::Remove(n) => {
                    commit(&mut opened, &[gone(n)]).unwrap();
                    model.remove(&n);
                }
                Move::Create(n, minute) => {
                    commit(&mut opened, &[whole(n, n, later(minute), None)]).unwrap();
                    model.insert(n, (minute, Hot::fresh(later(minute))));
                }
                Move::Carry(more) => {
                    now += more;
                    opened.writer.tend_journal(&opened.engine, minutes(now), 0).unwrap();
                }
                Move::Reopen => {
                    opened.writer.end_use(&opened.engine).unwrap();
                    drop(opened);
                    opened = open_at(dir.path());
                }
                Move::Crash => {
                    drop(opened);
                    opened = open_at(dir.path());
                    may_have_old = true;
                }
            }
            for (n, (_, hot)) in &model {
                prop_assert_eq!(hot_of(&opened.engine, &key(*n)).unwrap(), Some(*hot));
            }
            let times = model.iter().map(|(n, (minute, _))| (*n, *minute)).collect();
            assert_one_index(&opened.engine, &times, may_have_old);
        }
    }
}

/// A crash may leave rows that are out of date, which readers tell by the record.
fn assert_one_index(engine: &Engine, model: &BTreeMap<usize, i64>, may_have_old: bool) {
    let row = |(n, minute): (&usize, &i64)| ActivityRow { time: later(*minute), entry: entry(*n) };
    let wanted: BTreeSet<ActivityRow> = model.iter().map(row).collect();
    assert_eq!(violations(engine), []);
    let mut none = Unreadable::default();
    for (n, minute) in model {
        assert_eq!(seen(engine, *n), later(*minute));
    }
    for minute in -1..7 {
        let edge = ActivityRow::first_at(later(minute));
        let before: Vec<_> = wanted.iter().copied().filter(|row| *row < edge).collect();
        let not_before: Vec<_> = wanted.iter().copied().filter(|row| *row >= edge).collect();
        for limit in [1, 3, 100] {
            let all = |read: &mut dyn FnMut(Option<ActivityRow>) -> Vec<ActivityRow>| {
                let (mut all, mut last) = (Vec::new(), None);
                loop {
                    let rows = read(last);
                    let Some(end) = rows.last().copied() else { return all };
                    assert!(rows.len() <= limit);
                    all.extend(rows.into_iter().filter(|row| !may_have_old || engine.of_row(row).unwrap().is_some()));
                    last = Some(end);
                }
            };
            let until = all(&mut |last| engine.oldest_rows(last, Some(edge), limit, &mut none).unwrap());
            assert_eq!(until, before);
            let from = all(&mut |last| engine.oldest_rows(last.or(Some(edge)), None, limit, &mut none).unwrap());
            assert_eq!(from, not_before);
            let mut back = all(&mut |last| engine.newest_rows(last.or(Some(edge)), limit, &mut none).unwrap());
            back.reverse();
            assert_eq!(back, before);
            let (counted, wanted) = (engine.count_rows(later(minute), limit as u64).unwrap(), before.len().min(limit));
            assert!(counted == wanted as u64 || may_have_old && counted > wanted as u64, "{counted} of {wanted}");
        }
    }
}

#[test]
fn numbers_of_rows_go_on_after_an_opening() {
    let dir = tempfile::tempdir().unwrap();
    let mut opened = with_entries(dir.path());
    for minute in 1..4 {
        commit(&mut opened, &[touch(1, later(minute))]).unwrap();
        drop(opened);
        opened = open_at(dir.path());
    }
    let rows: Vec<_> = opened.engine.trees.journal.iter().map(Result::unwrap).collect();
    let read: Vec<_> = rows.iter().map(|(_, value)| JournalRow::decode(value).unwrap()).collect();
    let touch = |minute| vec![JournalRecord::Touch(entry(1), later(minute))];
    // Before them come notes of the rows that the entries got when they were made.
    assert_eq!(read[1..], [touch(1), touch(2), touch(3)]);
}

/// A touch says its time alone only where the rest outlives the other half of the journal.
#[test]
fn a_touch_keeps_what_the_half_that_is_carried_says() {
    let dir = tempfile::tempdir().unwrap();
    let mut opened = open_at(dir.path());
    commit(&mut opened, &many(300)).unwrap();
    let changed = |at: i64| {
        let mut hot = Hot::fresh(later(at));
        hot.usage.total_tokens = 7;
        hot
    };
    let change =
        |at| (0..300).map(|n| Change { content: Content::Hot(changed(at)), ..touch(n, NOW) }).collect::<Vec<_>>();
    tend(&mut opened, Duration::ZERO, &change(1)).unwrap();
    // The half is being carried, and not all of it yet.
    tend(&mut opened, MINUTE, &[]).unwrap();
    let carried = (0..300).filter(|n| stored(&opened.engine, *n) == later(1)).count();
    assert!((1..300).contains(&carried), "{carried}");
    let end = opened.writer.journal.carry.as_ref().unwrap().end;
    commit(&mut opened, &change(2)).unwrap();
    // Its rows go, and those of the touches stay.
    for n in 1..100 {
        opened.writer.tend_journal(&opened.engine, MINUTE + n * Duration::from_millis(25), 0).unwrap();
    }
    let first = opened.engine.trees.journal.first().unwrap().unwrap().0;
    assert_eq!(JournalRow::number(&first).unwrap(), end);
    drop(opened);
    let opened = open_at(dir.path());
    assert!(!opened.engine.trees.journal.is_empty());
    for n in 0..300 {
        assert_eq!(hot_of(&opened.engine, &key(n)).unwrap(), Some(changed(2)), "{n}");
    }
}

#[test]
fn a_list_passes_over_no_rows_of_all_that_has_moved_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut opened = open_at(dir.path());
    commit(&mut opened, &many(300)).unwrap();
    let touches: Vec<_> = (0..280).map(|n| touch(n, later(100 + n as i64))).collect();
    commit(&mut opened, &touches).unwrap();
    let engine = &opened.engine;
    let read = || engine.rows_read.load(std::sync::atomic::Ordering::Relaxed);
    let before = read();
    let rows = engine.newest_rows(None, 10, &mut Unreadable::default()).unwrap();
    let newest: Vec<_> =
        (270..280).rev().map(|n| ActivityRow { time: later(100 + n as i64), entry: entry(n) }).collect();
    assert_eq!(rows, newest);
    assert!(read() - before <= 10, "{} rows of the tree were read", read() - before);
    // All of them, in pieces.
    let (mut all, mut last) = (Vec::new(), None);
    while let Some(row) = engine.newest_rows(last, 7, &mut Unreadable::default()).unwrap().last().copied() {
        all.extend(engine.newest_rows(last, 7, &mut Unreadable::default()).unwrap());
        last = Some(row);
    }
    assert_eq!(all.len(), 300);
    assert!(all.is_sorted_by(|a, b| a > b));
}

#[test]
fn an_entry_of_which_the_journal_alone_speaks_is_damaged() {
    let dir = tempfile::tempdir().unwrap();
    let mut opened = with_entries(dir.path());
    commit(&mut opened, &[touch(1, later(5)), touch(2, later(6))]).unwrap();
    let row = |n, minutes| ActivityRow { time: later(minutes), entry: entry(n) };
    let engine = &opened.engine;
    engine.trees.activity.remove(entry(1).as_bytes()).unwrap();
    assert!(matches!(engine.of_row(&row(1, 5)), Err(Error::DamagedRecord { record: "activity", .. })));
    // One whose time has moved on has another row.
    assert!(engine.of_row(&row(1, 4)).unwrap().is_none());
    commit(&mut opened, &[Change { content: Content::Gone, ..touch(2, later(7)) }]).unwrap();
    assert!(opened.engine.of_row(&row(2, 6)).unwrap().is_none());
}

/// A journal that says little for its length.
fn long(opened: &mut Opened) {
    let late = |n: i64| {
        let (entry, hot) =
            (entry(1 + n as usize % 3), hot_of(&opened.engine, &key(1 + n as usize % 3)).unwrap().unwrap());
        Late { entry, hot: Hot { updated_at: later(5 + n / 1000), ..hot }, is_touch: true }
    };
    let late: Vec<_> = (0..3000).map(late).collect();
    opened.writer.apply_late(&opened.engine, late.into_iter()).unwrap();
    opened.writer.sync(&opened.engine).unwrap();
}

#[test]
fn closing_writes_a_long_journal_anew() {
    let dir = tempfile::tempdir().unwrap();
    let mut opened = with_entries(dir.path());
    long(&mut opened);
    let (before, end) = (contents(&opened.engine), opened.writer.journal.next);
    opened.writer.end_use(&opened.engine).unwrap();
    drop(opened);
    for _ in 0..3 {
        let mut opened = open_at(dir.path());
        assert_eq!((contents(&opened.engine), violations(&opened.engine)), (before.clone(), vec![]));
        // One row was enough, and closing again writes none.
        assert_eq!(opened.writer.journal.next, end + 1);
        opened.writer.end_use(&opened.engine).unwrap();
    }
    let mut opened = open_at(dir.path());
    assert!(opened.engine.trees.journal.len() > 50);
    carry(&mut opened);
    commit(&mut opened, &[touch(1, later(60))]).unwrap();
    drop(opened);
    // Numbers go on, or the newest row would not count.
    assert_eq!(seen(&open_at(dir.path()).engine, 1), later(60));
}

#[test]
fn a_compaction_leaves_out_what_closing_has_put_out_of_date() {
    let dir = tempfile::tempdir().unwrap();
    let mut opened = with_entries(dir.path());
    long(&mut opened);
    let before = contents(&opened.engine);
    opened.writer.end_use(&opened.engine).unwrap();
    assert!(opened.engine.trees.journal.len() > 50);
    drop(opened);
    assert!(open_at(dir.path()).writer.journal.outdated > 0);
    compact(&dir.path().join("db"), CACHE, false, |_| {}).unwrap();
    let opened = open_at(dir.path());
    assert_eq!((contents(&opened.engine), violations(&opened.engine)), (before, vec![]));
    assert_eq!((opened.engine.trees.journal.len(), opened.writer.journal.outdated), (1, 0));
}

/// What a crash has left to be looked at does not keep a journal long, however short the openings are.
#[test]
fn closing_writes_notes_anew_too() {
    let dir = tempfile::tempdir().unwrap();
    let mut opened = with_entries(dir.path());
    drop(opened);
    for round in 1..4 {
        // Its journal notes the rows of the three entries: after a crash each is to be looked at.
        opened = open_at(dir.path());
        assert_eq!(opened.engine.gone.len(), 3);
        long(&mut opened);
        opened.writer.end_use(&opened.engine).unwrap();
        assert!(opened.engine.journal_start().unwrap() > 0, "round {round}: the journal is as long as it was");
        drop(opened);
    }
    let mut opened = open_at(dir.path());
    carry(&mut opened);
    assert_eq!((age_rows(&opened.engine.trees), violations(&opened.engine)), (3, vec![]));
}

/// What closing has put out of date counts, or openings that are short would leave more of it each time.
#[test]
fn a_journal_that_is_written_anew_keeps_its_bound() {
    let dir = tempfile::tempdir().unwrap();
    let mut opened = open_at(dir.path());
    commit(&mut opened, &many(300)).unwrap();
    let (limit, mut most) = (400_000, 0);
    for round in 1..30 {
        opened.writer.set_journal_bytes(limit);
        for n in 0..16_i64 {
            let touches: Vec<_> = (0..300).map(|entry| touch(entry, later(16 * round + n))).collect();
            tend(&mut opened, Duration::ZERO, &touches).unwrap();
        }
        opened.writer.end_use(&opened.engine).unwrap();
        let bytes: usize = opened.engine.trees.journal.iter().values().map(|value| value.unwrap().len()).sum();
        most = most.max(bytes);
        drop(opened);
        opened = open_at(dir.path());
    }
    assert!(most > 400_000, "{most}: nothing was out of date");
    assert!(most < 1_200_000, "{most} bytes in the journal");
    assert_eq!(violations(&opened.engine), []);
}

#[test]
fn writing_a_journal_anew_may_stop_anywhere() {
    stop_anywhere("condense", &long, &|opened| opened.writer.end_use(&opened.engine));
}
