//! Pruning through the view: a preview, its plan, the watcher.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use cloakroom::live::LiveOptions;
use cloakroom::watcher::WatcherConfig;
use cloakroom::{PrunePolicy, Watcher};
use serde_json::{Value, json};

use super::*;
use crate::common::assert_sound;

const NINETY: &str = "{\"policy\": {\"max_age_days\": 90}, \"dry_run\": true}";

fn run(seen: &Seen, preview: &Value) -> Answer {
    seen.post("/v1/prune", &json!({"plan": preview["plan"]}).to_string())
}

/// Six entries that are past the cutoff, of which one is suspended and one is pinned, and one that is not.
fn old(options: LiveOptions) -> Seen {
    let seen = Seen::with(6, options);
    seen.store.suspend(&key(1)).unwrap().unwrap();
    seen.store.pin(&key(2)).unwrap().unwrap();
    seen.home.clock.advance(100 * DAY);
    seen.store.resolve(&source(6)).unwrap();
    seen
}

#[test]
fn a_preview_makes_a_plan_that_is_run_once() {
    let seen = old(LiveOptions::new().guard(|found: &SessionKey| *found == key(3)));
    let preview = seen.post("/v1/prune", NINETY).ok();
    assert_eq!((&preview["report"]["removed"], &preview["report"]["dry_run"]), (&json!(3), &json!(true)));
    assert_eq!((&preview["planned"], &preview["entries"]), (&json!(3), &json!(7)));
    assert_eq!(numbers(&preview, "first"), [0, 4, 5]);
    assert_eq!(numbers(&preview, "kept"), [1, 2, 3]);
    let reasons: Vec<_> =
        preview["kept"].as_array().unwrap().iter().map(|kept| kept["reason"].as_str().unwrap()).collect();
    assert_eq!(reasons, ["suspended", "pinned", "active"]);
    assert_eq!(preview["kept"][0]["handle"], seen.handle(&key(1)));
    assert_eq!(seen.store.len(), 7);
    let done = run(&seen, &preview).ok();
    assert_eq!(
        (&done["report"]["removed"], &done["report"]["dry_run"], &done["entries"]),
        (&json!(3), &json!(false), &json!(4))
    );
    assert_eq!(run(&seen, &preview).kind(), "no_plan");
    assert_sound(&seen.store);
}

#[test]
fn what_changed_since_the_preview_or_was_kept_then_is_kept() {
    let seen = old(LiveOptions::new().guard(|_: &SessionKey| false));
    let preview = seen.post("/v1/prune", NINETY).ok();
    assert_eq!(numbers(&preview, "first"), [0, 3, 4, 5]);
    // Changed, but as idle as before.
    seen.store.update(&key(3), |details| details.cost_status = Some("x".into())).unwrap().unwrap();
    // Kept then, and not protected now.
    seen.store.unsuspend(&key(1)).unwrap().unwrap();
    seen.store.unpin(&key(2)).unwrap().unwrap();
    // Used.
    seen.store.touch(&key(4)).unwrap().unwrap();
    // Expired since.
    seen.home.clock.advance(91 * DAY);
    let done = run(&seen, &preview).ok();
    assert_eq!((&done["report"]["removed"], &done["report"]["touched_meanwhile"]), (&json!(2), &json!(3)));
    assert_eq!(done["report"]["cutoff"], preview["report"]["cutoff"]);
    let left: Vec<_> = (0..7).filter(|n| seen.store.contains(&key(*n)).unwrap()).collect();
    assert_eq!(left, [1, 2, 3, 4, 6]);
}

#[test]
fn a_run_asks_the_guard_and_the_leases_again() {
    let busy = Arc::new(AtomicBool::new(false));
    let asked = Arc::clone(&busy);
    let seen =
        old(LiveOptions::new().guard(move |found: &SessionKey| *found == key(0) && asked.load(Ordering::SeqCst)));
    let preview = seen.post("/v1/prune", NINETY).ok();
    assert_eq!(numbers(&preview, "first"), [0, 3, 4, 5]);
    busy.store(true, Ordering::SeqCst);
    let lease = seen.store.hold(&key(5)).unwrap();
    let done = run(&seen, &preview).ok();
    let report = &done["report"];
    assert_eq!((&report["removed"], &report["kept_active"], &report["kept_held"]), (&json!(2), &json!(1), &json!(1)));
    assert!(seen.store.contains(&key(0)).unwrap() && seen.store.contains(&key(5)).unwrap());
    drop(lease);
}

#[test]
fn a_guard_that_knows_of_nothing_is_told_apart() {
    let of = |options| Seen::with(0, options).get("/v1/store").ok()["guard"].as_str().unwrap().to_owned();
    assert_eq!(of(LiveOptions::new().guard(|_: &SessionKey| false)), "given");
    assert_eq!(of(LiveOptions::new().guard(cloakroom::prune::NoActivity)), "none");
    assert_eq!(of(LiveOptions::new()), "missing");
}

#[test]
fn a_preview_names_what_would_go() {
    let seen = old(LiveOptions::new());
    seen.store.update(&key(3), |details| details.display_name = Some("Three".into())).unwrap().unwrap();
    let preview = seen.post("/v1/prune", NINETY).ok();
    assert_eq!(numbers(&preview, "first"), [0, 3, 4, 5]);
    assert_eq!(
        (&preview["first"][0]["display_name"], &preview["first"][1]["display_name"]),
        (&json!(null), &json!("Three"))
    );
}

#[test]
fn without_a_guard_nothing_is_pruned() {
    let seen = old(LiveOptions::new());
    let preview = seen.post("/v1/prune", NINETY).ok();
    let answer = run(&seen, &preview);
    assert_eq!((answer.status, answer.kind().as_str()), (403, "no_guard"));
    assert_eq!(seen.store.len(), 7);
}

#[test]
fn what_pins_the_store_is_shown_with_its_reasons() {
    let seen = old(LiveOptions::new().guard(|found: &SessionKey| *found == key(3)));
    let lease = seen.store.hold(&key(4)).unwrap();
    let protected = seen.get("/v1/protected?max_age_days=90").ok();
    assert_eq!(numbers(&protected, "protected"), [1, 2, 3, 4]);
    assert_eq!(protected["counts"]["held"], 1);
    assert_eq!((&protected["complete"], protected["protected"][3]["reason"].as_str()), (&json!(true), Some("held")));
    // A click away: the revision is there.
    let revision = seen.store.get(&key(1)).unwrap().unwrap().revision.to_string();
    assert_eq!(protected["protected"][0]["revision"], revision);
    // The default is that of whoever says nothing: 90 days.
    assert_eq!(numbers(&seen.get("/v1/protected").ok(), "protected"), [1, 2, 3, 4]);
    drop(lease);
}

#[test]
fn the_watcher_is_shown_and_asked_for_a_pass() {
    let Seen { home, store, live } = old(LiveOptions::new());
    live.close();
    let config = WatcherConfig { policy: PrunePolicy::max_age_days(3650), interval: Duration::from_secs(3600) };
    let watcher = Watcher::spawn(&store, config, |found: &SessionKey| *found == key(3)).unwrap();
    let reports = watcher.reports();
    reports.recv().unwrap();
    let live = Live::serve(&store, LiveOptions::new().watcher(&watcher)).unwrap();
    let seen = Seen { home, store, live };
    let shown = seen.get("/v1/watcher").ok();
    assert_eq!((&shown["status"]["passes"], &shown["interval_seconds"]), (&json!(1), &json!(3600)));
    assert_eq!(shown["policy"]["max_age_seconds"], 3650 * 86_400_u64);
    assert_eq!(seen.get("/v1/store").ok()["watcher"], shown);
    assert_eq!(seen.post("/v1/watcher/prune-now", "").status, 202);
    reports.recv().unwrap();
    // Its guard is that of the view.
    let preview = seen.post("/v1/prune", NINETY).ok();
    assert_eq!(numbers(&preview, "first"), [0, 4, 5]);
    assert_eq!(numbers(&preview, "kept"), [1, 2, 3]);
    let report = &run(&seen, &preview).ok()["report"];
    assert_eq!((&report["removed"], &report["kept_active"]), (&json!(3), &json!(1)));
    watcher.stop();
    assert_eq!(seen.post("/v1/watcher/prune-now", "").kind(), "no_watcher");
}
