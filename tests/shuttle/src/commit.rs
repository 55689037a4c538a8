//! The files of `src/commit` that do the sharing.

#[path = "../../../src/commit/entry_lock.rs"]
mod entry_lock;
#[path = "../../../src/commit/pending.rs"]
mod pending;
#[path = "../../../src/commit/receipt.rs"]
mod receipt;
#[path = "scenarios.rs"]
pub(crate) mod scenarios;
#[path = "../../../src/commit/shard.rs"]
mod shard;
#[path = "../../../src/commit/snapshot.rs"]
mod snapshot;
#[path = "sync.rs"]
mod sync;
#[path = "../../../src/commit/turns.rs"]
mod turns;
