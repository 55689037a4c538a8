//! Rows that a crash left in the index: a pass clears them, a dry run does not.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::error::Error;

/// The rows that are cleared after a touch was stopped before its `stop`-th write.
fn cleared_after(stop: usize) -> u64 {
    let dir = tempfile::tempdir().unwrap();
    let clock = ManualClock::new(START);
    let writes_left = Arc::new(AtomicUsize::new(usize::MAX));
    let mut opened = storage::open(&dir.path().join("db"), true, 1 << 20).unwrap();
    let left = Arc::clone(&writes_left);
    opened.writer.hook = Hook::new(move |_, _| match left.fetch_sub(1, Ordering::SeqCst) {
        1 => Err(Error::Panicked { message: "stopped".into() }),
        _ => Ok(()),
    });
    let store = SessionStore::start(opened, options(&dir, &clock)).unwrap();
    store.resolve(&source("one")).unwrap().receipt.wait().unwrap();
    clock.advance(50 * DAY);
    writes_left.store(stop, Ordering::SeqCst);
    let touched = store.touch(&key("one")).unwrap().unwrap();
    assert!(touched.wait().is_err(), "a touch that crosses has {stop} writes and a sync");
    drop(store);

    clock.advance(50 * DAY);
    let store = SessionStore::open(options(&dir, &clock)).unwrap();
    let guard = |_: &SessionKey| true;
    let rows = || store.count_expired(&ninety_days(), 10).unwrap();
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
