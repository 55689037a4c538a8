//! A store that is read-only is still looked over: what cannot be written any more is not waited for.

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::error::Error;
use crate::export::{ExportFormat, ExportOptions};

#[test]
fn lists_and_dry_runs_of_a_store_that_failed_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let clock = ManualClock::new(START);
    let is_failing = Arc::new(AtomicBool::new(false));
    let mut opened = storage::open(&dir.path().join("db"), true, 1 << 20, false).unwrap();
    let fails = Arc::clone(&is_failing);
    opened.writer.hook = Hook::new(move |_, _| match fails.load(Ordering::Relaxed) {
        true => Err(Error::Panicked { message: "planted".into() }),
        false => Ok(()),
    });
    let store = SessionStore::start(opened, options(&dir, &clock)).unwrap();
    let key = store.resolve(&source("a")).unwrap().entry.key;
    store.flush().unwrap();
    clock.advance(100 * DAY);
    is_failing.store(true, Ordering::Relaxed);
    store.suspend(&key).unwrap().unwrap();
    let new = store.resolve(&source("b")).unwrap().entry.key;
    assert!(matches!(store.flush(), Err(Error::ReadOnly { .. })));
    assert!(store.stats().unwrap().pending > 0, "the change that failed is still there");
    // An export has what `get` shows, though the trees do not.
    let mut lines = Vec::new();
    store.export(&mut lines, &ExportOptions::new(ExportFormat::Jsonl)).unwrap();
    let lines = String::from_utf8(lines).unwrap();
    assert!(lines.lines().count() == 2 && lines.contains(new.as_str()) && store.get(&new).unwrap().is_some());
    assert!(lines.contains(r#""suspended":true"#), "{lines}");
    assert_eq!(store.recent(9, None).unwrap().entries.len(), 1);
    assert_eq!(store.prune_dry_run(&ninety_days(), NoActivity).unwrap().kept_suspended, 1);
}
