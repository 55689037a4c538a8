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
    assert!(memtable.appended.lock().are_dropped);
    let last = touches - 1;
    assert_eq!(newest_first(&memtable), [(1, 10_000_000), (3, last), (2, last - 1)]);
    // From here on a read costs what came since the one before.
    assert!(!memtable.appended.lock().are_dropped);
    touch(&memtable, 2, 20_000_000);
    assert_eq!(newest_first(&memtable), [(2, 20_000_000), (1, 10_000_000), (3, last)]);
}

#[test]
fn sorted_rows_go_too_where_nobody_reads_any_more() {
    let memtable = Memtable::new();
    (0..100).for_each(|time| touch(&memtable, time as u8, time));
    assert_eq!(newest_first(&memtable).len(), 100);
    (0..=MAX_UNREAD_ROWS as i64).for_each(|time| touch(&memtable, 7, 1000 + time));
    assert_eq!(memtable.runs.lock().len(), 0);
    assert_eq!(newest_first(&memtable).len(), 100);
}
