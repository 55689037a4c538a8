//! What the readers of events share: the events that are kept, numbered.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use parking_lot::Mutex;
use tokio::sync::watch;

use super::error::{Fault, Outcome};

/// Readers at a time.
const READERS: usize = 16;

/// The feed of changes, and the one that has touches too.
#[derive(Default)]
pub(super) struct Feeds {
    pub(super) feeds: [Mutex<Option<Arc<Feed>>>; 2],
    pub(super) readers: Arc<AtomicUsize>,
}

/// Events that happened, numbered from one.
pub(super) struct Feed {
    /// So that numbers of another feed are not taken for its own.
    pub(super) name: u64,
    pub(super) kept: Mutex<Kept>,
    pub(super) newest: watch::Sender<u64>,
}

pub(super) struct Kept {
    pub(super) events: VecDeque<Arc<str>>,
    /// The number of the first.
    pub(super) first: u64,
    /// How many did not fit into the channel.
    pub(super) dropped: u64,
    pub(super) read_at: Instant,
}

/// A reader that is there.
pub(super) struct Reader(Arc<AtomicUsize>);

impl Drop for Reader {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Feeds {
    pub(super) fn reader(&self) -> Outcome<Reader> {
        if self.readers.fetch_add(1, Ordering::AcqRel) >= READERS {
            self.readers.fetch_sub(1, Ordering::AcqRel);
            return Err(Fault::busy());
        }
        Ok(Reader(Arc::clone(&self.readers)))
    }
}

impl Kept {
    /// The number of the next event.
    pub(super) fn next(&self) -> u64 {
        self.first + self.events.len() as u64
    }

    /// The events from a number on, and how many of those are gone.
    pub(super) fn from(&self, number: u64) -> (u64, Vec<Arc<str>>) {
        let lost = self.first.saturating_sub(number);
        let skipped = usize::try_from(number.saturating_sub(self.first)).unwrap_or(usize::MAX);
        (lost, self.events.iter().skip(skipped).cloned().collect())
    }
}
