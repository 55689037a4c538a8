//! Events: what became of which session, for whoever wants to hear.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crossbeam_channel::{Receiver, Sender, TrySendError};
use parking_lot::RwLock;

use crate::answer::ReplaceReason;
use crate::fork;
use crate::key::SessionKey;
use crate::meter;
use crate::store::SessionStore;

/// The most events that a channel holds: their room is taken at once.
const MAX_CAPACITY: usize = 1 << 16;

/// Something became of a session.
///
/// It is told when the change is made, before it is durable: a crash may undo what was told. Events of one key from
/// different threads may be told in another order than the changes were made in.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Event {
    /// The conversation.
    pub key: SessionKey,
    /// What became of it.
    pub kind: EventKind,
}

/// What became of a session, and why. Touches, usage and changes of details are not told.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum EventKind {
    /// There is one where there was none.
    Created,
    /// It was replaced by a fresh one.
    Reset {
        /// The rule that did it; `None` if somebody asked for it.
        reason: Option<ReplaceReason>,
    },
    /// The key points to another session.
    Switched,
    /// An import has put another entry in its place.
    Replaced,
    /// It was suspended.
    Suspended,
    /// Its suspension was taken back.
    Unsuspended,
    /// The next message continues it.
    ResumePending {
        /// Why.
        reason: String,
    },
    /// That was taken back.
    ResumeCleared,
    /// It has another key: that of the event.
    Renamed {
        /// The key it had.
        from: SessionKey,
    },
    /// It was removed by its key, or with others.
    Removed,
    /// It was removed by pruning.
    Pruned {
        /// The rule that did it.
        reason: PruneReason,
    },
}

/// Why an entry was pruned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum PruneReason {
    /// It had been idle for too long.
    Age,
    /// There were more than `max_entries`.
    Entries,
    /// They took more than `max_disk_bytes`.
    Bytes,
}

/// A channel of events. It holds so many, and drops newer ones while it is full: it never makes a writer wait.
#[derive(Debug)]
pub struct Events {
    events: Receiver<Event>,
    /// For a forked process, in which nobody tells anything.
    ended: Receiver<Event>,
    dropped: Arc<AtomicU64>,
}

impl Drop for Events {
    fn drop(&mut self) {
        fork::keep_in_child(|| self.events.clone());
    }
}

impl Events {
    /// The channel itself, to wait on or to select from. It ends when the store is gone. In a forked process it has
    /// ended.
    #[must_use]
    pub fn receiver(&self) -> &Receiver<Event> {
        if fork::is_child() { &self.ended } else { &self.events }
    }

    /// The events that are there. Does not wait.
    pub fn drain(&self) -> impl Iterator<Item = Event> + '_ {
        self.receiver().try_iter()
    }

    /// How many events were dropped because nobody had read those before.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

/// Those who listen to a store.
#[derive(Debug, Default)]
pub(crate) struct Listeners {
    all: RwLock<Vec<Listener>>,
    /// How many there are, so that telling nobody costs nothing.
    count: AtomicUsize,
}

#[derive(Debug)]
struct Listener {
    events: Sender<Event>,
    dropped: Arc<AtomicU64>,
}

impl Listeners {
    fn listen(&self, capacity: usize) -> Events {
        let (sender, events) = crossbeam_channel::bounded(capacity.clamp(1, MAX_CAPACITY));
        let dropped = Arc::new(AtomicU64::new(0));
        let (_, ended) = crossbeam_channel::bounded(0);
        if fork::is_child() {
            return Events { events: ended.clone(), ended, dropped };
        }
        let mut all = self.all.write();
        all.push(Listener { events: sender, dropped: Arc::clone(&dropped) });
        self.count.store(all.len(), Ordering::Release);
        Events { events, ended, dropped }
    }

    /// Tells everybody who has room for it. Call it with no entry locked.
    pub(crate) fn tell(&self, key: &SessionKey, kind: EventKind) {
        if self.count.load(Ordering::Acquire) == 0 {
            return;
        }
        let event = Event { key: key.clone(), kind };
        let (mut gone, mut dropped) = (false, 0);
        for listener in &*self.all.read() {
            match listener.events.try_send(event.clone()) {
                Ok(()) => {}
                Err(TrySendError::Full(_)) => {
                    listener.dropped.fetch_add(1, Ordering::Relaxed);
                    dropped += 1;
                }
                Err(TrySendError::Disconnected(_)) => gone = true,
            }
        }
        // Who is in the way will do it with the next event.
        if gone && let Some(mut all) = self.all.try_write() {
            // The counter is shared with the one who listens, and with nobody else.
            all.retain(|listener| Arc::strong_count(&listener.dropped) > 1);
            self.count.store(all.len(), Ordering::Release);
        }
        meter::events_dropped(dropped);
    }
}

impl SessionStore {
    /// Listens to what becomes of sessions from now on, through a channel that holds `capacity` events (at least 1, and
    /// at most 65,536).
    ///
    /// Drop it to stop listening. Several may listen; each has a channel of its own.
    #[must_use]
    pub fn events(&self, capacity: usize) -> Events {
        self.listeners().listen(capacity)
    }
}
