//! The group commit (all of `src/commit`: pending changes, shards, receipts, turns, snapshots and the committer's thread), under
//! schedules that shuttle decides: a thousand for each scenario, `CLOAKROOM_SCHEDULES` asks for more. A deadlock, a lost
//! wake-up, a panic and a failed assertion all end the run, with the schedule that led there.
//!
//! `sync.rs` and `storage.rs` take the places of the library's: threads, locks and channels that run by a schedule, and
//! maps for trees. Time stands still.

#![allow(dead_code, unused_imports, unreachable_pub, missing_docs, unexpected_cfgs)]

#[path = "../../../src/codec/mod.rs"]
mod codec;
#[path = "../../../src/commit/mod.rs"]
mod commit;
#[path = "../../../src/entry.rs"]
mod entry;
#[path = "../../../src/error.rs"]
mod error;
#[path = "../../../src/fork.rs"]
mod fork;
#[path = "../../../src/json.rs"]
mod json;
#[path = "../../../src/key.rs"]
mod key;
#[path = "../../../src/meter.rs"]
mod meter;
mod scenarios;
#[path = "../../../src/source.rs"]
mod source;
mod storage;
mod sync;
#[path = "../../../src/time.rs"]
mod time;
#[path = "../../../src/unreadable.rs"]
mod unreadable;

fn main() {
    let schedules = std::env::var("CLOAKROOM_SCHEDULES").ok().and_then(|n| n.parse().ok()).unwrap_or(1000);
    let only = std::env::args().nth(1).unwrap_or_default();
    for (name, scenario) in scenarios::ALL.iter().filter(|(name, _)| name.contains(&only)) {
        let started = std::time::Instant::now();
        // Random schedules find what is likely; those with few changes of priority find what takes a long wait.
        shuttle::check_random(scenario, schedules / 2);
        shuttle::check_pct(scenario, schedules / 2, 3);
        println!("{name}: {schedules} schedules in {:.1} s", started.elapsed().as_secs_f64());
    }
}
