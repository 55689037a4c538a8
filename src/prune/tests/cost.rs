//! What a pass writes.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

/// Those that a pass removes go in groups: each costs the removals of its rows, and a share of what its group writes.
#[test]
fn many_that_are_removed_share_their_group() {
    const COUNT: usize = 200;
    let dir = tempfile::tempdir().unwrap();
    let clock = ManualClock::new(START);
    let mut opened = storage::open(&dir.path().join("db"), true, 1 << 20, false).unwrap();
    let writes = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&writes);
    opened.writer.hook = Hook::new(move |_, _| {
        counted.fetch_add(1, Ordering::SeqCst);
        Ok(())
    });
    let store = SessionStore::start(opened, options(&dir, &clock)).unwrap();
    for n in 0..COUNT {
        store.resolve(&source(&format!("user{n}"))).unwrap();
    }
    store.flush().unwrap();
    clock.advance(100 * DAY);
    let before = writes.load(Ordering::SeqCst);
    let report = store.prune(&PrunePolicy::max_age_days(90), NoActivity).unwrap();
    store.flush().unwrap();
    assert_eq!((report.removed, store.len()), (COUNT as u64, 0));
    // Of `sessions`, `activity` and `by_session_id` a row each. Tests have pieces, and so groups, of four: a quarter of a note,
    // of an intent, of its end and of the count. Each by itself it would be more than six.
    let each = (writes.load(Ordering::SeqCst) - before) as f64 / COUNT as f64;
    assert!((4.0..4.5).contains(&each), "{each} writes for each");
}
