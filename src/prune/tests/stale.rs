//! Rows that a crash left in the index: a pass clears them, a dry run does not.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::error::Error;

/// The rows that are cleared after the carrying of a touch was stopped before its `stop`-th write.
fn cleared_after(stop: usize) -> u64 {
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
    let store = SessionStore::open(options(&dir, &clock)).unwrap();
    // The journal knows better than a row of the index while it holds the entry. The second commit comes after it was
    // carried.
    store.flush().unwrap();
    store.flush().unwrap();
    let guard = |_: &SessionKey| true;
    let rows = || store.count_expired(&ninety_days(), store.now(), 10).unwrap();
    let before = rows();
    assert_eq!(store.prune_dry_run(&ninety_days(), guard).unwrap().stale_rows_cleared, 0);
    assert_eq!(rows(), before);
    let cleared = store.prune(&ninety_days(), guard).unwrap().stale_rows_cleared;
    assert_eq!(rows(), before - cleared);
    assert_eq!(store.prune(&ninety_days(), guard).unwrap().stale_rows_cleared, 0);
    cleared
}

#[test]
fn rows_that_a_crash_left_are_cleared_but_not_by_a_dry_run() {
    // The new row, the record, the old row.
    assert_eq!([1, 2, 3].map(cleared_after), [0, 0, 1]);
}
