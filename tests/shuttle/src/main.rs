//! What threads share in the group commit (`src/commit`: pending changes, shards, receipts), under schedules that shuttle
//! decides: a thousand for each scenario, `CLOAKROOM_SCHEDULES` asks for more. A deadlock, a lost wake-up, a panic and a
//! failed assertion all end the run, with the schedule that led there.
//!
//! The committer's loop is written again here, in its order of steps, since it waits in a `select!`.

#![allow(dead_code, unused_imports, unreachable_pub, missing_docs)]

#[path = "../../../src/codec/mod.rs"]
mod codec;
mod commit;
#[path = "../../../src/entry.rs"]
mod entry;
#[path = "../../../src/error.rs"]
mod error;
#[path = "../../../src/key.rs"]
mod key;
#[path = "../../../src/source.rs"]
mod source;
mod storage;
#[path = "../../../src/time.rs"]
mod time;

fn main() {
    let schedules = std::env::var("CLOAKROOM_SCHEDULES").ok().and_then(|n| n.parse().ok()).unwrap_or(1000);
    let only = std::env::args().nth(1).unwrap_or_default();
    for (name, scenario) in commit::scenarios::ALL.iter().filter(|(name, _)| name.contains(&only)) {
        let started = std::time::Instant::now();
        // Random schedules find what is likely; those with few changes of priority find what takes a long wait.
        shuttle::check_random(scenario, schedules / 2);
        shuttle::check_pct(scenario, schedules / 2, 3);
        println!("{name}: {schedules} schedules in {:.1} s", started.elapsed().as_secs_f64());
    }
}
