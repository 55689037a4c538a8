//! What is known of the sweeps of each shard: see [`repair`](super::repair).

use std::collections::HashMap;

use parking_lot::Mutex;

/// The name of the last sweep of each shard that had one, as this process knows it.
#[derive(Debug, Default)]
pub(super) struct Swept(Mutex<HashMap<u32, String>>);

impl Swept {
    /// Nothing where no sweep is known.
    pub(super) fn of(&self, shard: u32) -> String {
        self.0.lock().get(&shard).cloned().unwrap_or_default()
    }

    pub(super) fn put(&self, shard: u32, sweep: String) {
        self.0.lock().insert(shard, sweep);
    }
}
