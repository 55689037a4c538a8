//! Channels that a user of the store reads: of events, of a watcher's reports.

use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError};

use crate::fork;

/// There is nothing to be had from a channel now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Nothing {
    /// Nothing has come yet.
    #[error("nothing has come yet")]
    Yet,
    /// Nothing will come: the other end is gone, or this process was forked from the one that has it.
    #[error("nothing will come any more")]
    Ended,
}

/// The reading end of a bounded channel. In a forked process it has ended.
#[derive(Debug, Clone)]
pub(crate) struct Feed<T> {
    items: Receiver<T>,
    /// For a forked process, in which nothing is sent.
    ended: Receiver<T>,
}

impl<T> Drop for Feed<T> {
    fn drop(&mut self) {
        fork::keep_in_child(|| self.items.clone());
    }
}

impl<T> Feed<T> {
    /// A channel that holds `capacity` items.
    pub(crate) fn new(capacity: usize) -> (Sender<T>, Self) {
        let (sender, items) = crossbeam_channel::bounded(capacity);
        (sender, Self { items, ended: ended() })
    }

    /// One that nothing will come through.
    pub(crate) fn ended() -> Self {
        Self { items: ended(), ended: ended() }
    }

    fn receiver(&self) -> &Receiver<T> {
        if fork::is_child() { &self.ended } else { &self.items }
    }

    pub(crate) fn recv(&self) -> Option<T> {
        self.receiver().recv().ok()
    }

    pub(crate) fn recv_timeout(&self, timeout: Duration) -> Result<T, Nothing> {
        self.receiver().recv_timeout(timeout).map_err(|error| match error {
            RecvTimeoutError::Timeout => Nothing::Yet,
            RecvTimeoutError::Disconnected => Nothing::Ended,
        })
    }

    pub(crate) fn try_recv(&self) -> Result<T, Nothing> {
        self.receiver().try_recv().map_err(|error| match error {
            TryRecvError::Empty => Nothing::Yet,
            TryRecvError::Disconnected => Nothing::Ended,
        })
    }

    pub(crate) fn drain(&self) -> impl Iterator<Item = T> + '_ {
        self.receiver().try_iter()
    }

    /// How many items it holds at most.
    pub(crate) fn capacity(&self) -> usize {
        self.items.capacity().unwrap_or(0)
    }
}

fn ended<T>() -> Receiver<T> {
    crossbeam_channel::bounded(0).1
}
