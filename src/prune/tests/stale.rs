//! Rows that should not be in the index any more: carrying or a pass clears them, a dry run does not.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::error::Error;

/// A store in which the carrying of a touch was stopped before its `stop`-th write, a little after its next opening. Answers how
/// many rows the index had too many then.
fn old_rows_after(stop: usize) -> u64 {
    let dir = tempfile::tempdir().unwrap();
    let clock = ManualClock::new(START);
    let writes_left = Arc::new(AtomicUsize::new(usize::MAX));
    let mut opened = storage::open(&dir.path().join("db"), true, 1 << 20, false).unwrap();
    let left = Arc::clone(&writes_left);
    opened.writer.hook = Hook::new(move |_, _| match left.fetch_sub(1, Ordering::SeqCst) {
        1 => Err(Error::Panicked { message: "stopped".into() }),
        _ => Ok(()),
    });
    let store = SessionStore::start(opened, options(&dir, &clock).journal_bytes(1)).unwrap();
    store.resolve(&source("one")).unwrap().receipt.wait().unwrap();
    // What the journal noted of its making is done with.
    store.flush().unwrap();
    store.flush().unwrap();
    clock.advance(50 * DAY);
    // The touch has a row of the journal, the number of its commit, and a sync before.
    writes_left.store(3 + stop, Ordering::SeqCst);
    store.touch(&key("one")).unwrap().unwrap().wait().unwrap();
    // Nobody waits for what is carried.
    while !store.commits().is_read_only() {
        std::thread::yield_now();
    }
    drop(store);

    clock.advance(50 * DAY);
    let opened = storage::open(&dir.path().join("db"), false, 1 << 20, false).unwrap();
    let found = storage::verify(&opened.engine).unwrap();
    assert_eq!(found.violations, []);
    let store = SessionStore::start(opened, options(&dir, &clock)).unwrap();
    // What the journal has is carried by then, and what it notes is cleared.
    store.flush().unwrap();
    store.flush().unwrap();
    store.close().unwrap();
    drop(store);
    let store = SessionStore::open(options(&dir, &clock)).unwrap();
    assert_eq!(store.verify().unwrap().stale_rows, 0);
    found.stale_rows
}

#[test]
fn a_row_that_a_crash_left_goes_with_the_note_of_it() {
    // The note of both rows, the new row, the record; then the rows of the journal.
    assert_eq!([1, 2, 3, 4].map(old_rows_after), [0, 0, 1, 1]);
}

/// Damage may leave a row of which there is no note.
#[test]
fn a_row_that_is_out_of_date_is_cleared_but_not_by_a_dry_run() {
    let dir = tempfile::tempdir().unwrap();
    let clock = ManualClock::new(START.saturating_add(50 * DAY));
    let store = SessionStore::open(options(&dir, &clock).create(true)).unwrap();
    store.resolve(&source("one")).unwrap().receipt.wait().unwrap();
    store.close().unwrap();
    drop(store);
    let opened = storage::open(&dir.path().join("db"), false, 1 << 20, false).unwrap();
    storage::plant_age_row(&opened.engine, &key("one"), START);
    let store = SessionStore::start(opened, options(&dir, &clock)).unwrap();

    clock.advance(50 * DAY);
    let guard = |_: &SessionKey| true;
    let rows = || store.count_expired(&ninety_days(), store.now(), 10).unwrap();
    assert_eq!(rows(), 1);
    assert_eq!(store.prune_dry_run(&ninety_days(), guard).unwrap().stale_rows_cleared, 0);
    assert_eq!(rows(), 1);
    assert_eq!(store.prune(&ninety_days(), guard).unwrap().stale_rows_cleared, 1);
    assert_eq!(rows(), 0);
    assert_eq!(store.prune(&ninety_days(), guard).unwrap().stale_rows_cleared, 0);
    assert_eq!(store.verify().unwrap().stale_rows, 0);
}
