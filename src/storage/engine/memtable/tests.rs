use std::ops::Bound;

use super::*;

const ALL: AgeRange = (Bound::Unbounded, Bound::Unbounded);

fn touch(memtable: &Memtable, entry: u8, time: i64) {
    let newest = Newest::Time(Timestamp::from_micros(time));
    memtable.set(&[(Fingerprint::from_bytes([entry; 16]), newest)], 0);
}

fn newest_first(memtable: &Memtable) -> Vec<(u8, i64)> {
    let rows = memtable.rows(&ALL, AgeOrder::NewestFirst, usize::MAX);
    rows.iter().map(|row| (row.entry.as_bytes()[0], row.time.as_micros())).collect()
}

#[test]
fn rows_that_nobody_reads_are_dropped_and_listed_again() {
    let memtable = Memtable::new();
    // Entry 1 has its newest time early: the row of it is among the first that are dropped.
    touch(&memtable, 1, 10_000_000);
    let touches = 5 * MAX_UNREAD_ROWS as i64;
    for time in 0..touches {
        touch(&memtable, 2 + (time % 2) as u8, time);
        assert!(memtable.appended.lock().rows.len() <= MAX_UNREAD_ROWS + 1);
    }
    assert!(memtable.appended.lock().dropped.is_some());
    let last = touches - 1;
    assert_eq!(newest_first(&memtable), [(1, 10_000_000), (3, last), (2, last - 1)]);
    // From here on a read costs what came since the one before.
    assert!(memtable.appended.lock().dropped.is_none() && memtable.listed.lock().gap.is_none());
    touch(&memtable, 2, 20_000_000);
    assert_eq!(newest_first(&memtable), [(2, 20_000_000), (1, 10_000_000), (3, last)]);
}

#[test]
fn sorted_rows_go_too_where_nobody_reads_any_more() {
    let memtable = Memtable::new();
    (0..100).for_each(|time| touch(&memtable, time as u8, time));
    assert_eq!(newest_first(&memtable).len(), 100);
    (0..=MAX_UNREAD_ROWS as i64).for_each(|time| touch(&memtable, 7, 1000 + time));
    assert_eq!(memtable.listed.lock().runs.len(), 0);
    assert_eq!(newest_first(&memtable).len(), 100);
}

/// Up to `limit` of these from the newest, before a time.
fn newest(memtable: &Memtable, before: i64, limit: usize) -> Vec<i64> {
    let before = ActivityRow::first_at(Timestamp::from_micros(before));
    let rows = memtable.rows(&(Bound::Unbounded, Bound::Excluded(before)), AgeOrder::NewestFirst, limit);
    rows.iter().map(|row| row.time.as_micros()).collect()
}

#[test]
fn the_newest_are_there_though_others_were_dropped() {
    let memtable = Memtable::new();
    // An opening that finds nothing leaves nothing to list, whoever looks before there is something.
    memtable.replay(0, std::iter::empty(), 0);
    assert!(newest(&memtable, i64::MAX, 50).is_empty());
    let touches = 5 * MAX_UNREAD_ROWS as i64;
    for time in 0..touches {
        touch(&memtable, (time % 200) as u8, time);
    }
    let expected = |from: i64, count: i64| (0..count).map(|n| from - n).collect::<Vec<_>>();
    assert_eq!(newest(&memtable, i64::MAX, 50), expected(touches - 1, 50));
    assert_eq!(newest(&memtable, touches - 50, 50), expected(touches - 51, 50));
    assert!(memtable.listed.lock().gap.is_some(), "nothing else was listed");
    // Fewer than were asked for: nobody knows without a look at all.
    assert_eq!(newest(&memtable, i64::MAX, 201), expected(touches - 1, 200));
    assert!(memtable.listed.lock().gap.is_none());
    // What was dropped may be the newest: an entry that lies ahead.
    touch(&memtable, 201, 10 * touches);
    for time in touches..2 * touches {
        touch(&memtable, (time % 200) as u8, time);
    }
    assert_eq!(newest(&memtable, i64::MAX, 2), [10 * touches, 2 * touches - 1]);
    // One that goes back is no longer where it was.
    touch(&memtable, 201, 3);
    assert_eq!(newest(&memtable, i64::MAX, 2), expected(2 * touches - 1, 2));
    let rows = memtable.rows(&ALL, AgeOrder::OldestFirst, 1);
    assert_eq!(rows.first().map(|row| row.time.as_micros()), Some(3));
}

#[test]
fn any_part_of_the_rows_is_what_the_records_say() {
    let memtable = Memtable::new();
    let (mut seed, mut model) = (1_u64, std::collections::BTreeMap::new());
    let mut next = |below: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % below
    };
    for round in 0..300_i64 {
        for n in 0..next(400) {
            let entry = next(250) as u8;
            // Most go forward; some lie ahead, and some go back.
            let time = match next(100) {
                0 => 1_000_000 + n as i64,
                1 => next(1 + round as u64 * 400) as i64,
                _ => round * 400 + n as i64,
            };
            touch(&memtable, entry, time);
            model.insert(entry, time);
        }
        if next(3) == 0 {
            let (limit, before) = (1 + next(60) as usize, if next(2) == 0 { i64::MAX } else { round * 400 });
            let mut expected: Vec<_> = model.values().copied().filter(|time| *time < before).collect();
            expected.sort_unstable_by(|a, b| b.cmp(a));
            expected.truncate(limit);
            assert_eq!(newest(&memtable, before, limit), expected, "round {round}");
        }
        if next(20) == 0 {
            let from = ActivityRow::first_at(Timestamp::from_micros(round * 400 - 100));
            let rows = memtable.rows(&(Bound::Included(from), Bound::Unbounded), AgeOrder::OldestFirst, usize::MAX);
            let expected = model.values().filter(|time| **time >= round * 400 - 100).count();
            assert_eq!(rows.len(), expected, "round {round}");
        }
    }
}
