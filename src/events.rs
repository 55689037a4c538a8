//! Events: what became of which session, for listeners.

use std::fmt;
use std::iter::FusedIterator;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use crossbeam_channel::{Sender, TrySendError};
use parking_lot::RwLock;
use serde::Serialize;

use crate::answer::ReplaceReason;
use crate::entry::{Revision, SessionEntry};
use crate::feed::Feed;
use crate::fork;
use crate::key::{SessionId, SessionKey};
use crate::time::Timestamp;

pub use crate::feed::Nothing;

/// The most events that a channel holds: their room is taken at once.
const MAX_CAPACITY: usize = 1 << 16;

/// Something became of a session.
///
/// It is sent when the change is made, before it is durable: a crash may undo the change. Events of one key from
/// different threads may come in another order than the changes were made in. Each call of a verb sends one event of
/// an entry, if it has changed it, and none for a wrong time that was set right meanwhile.
///
/// As JSON it is one object, whose fields are all there, `null` where they do not apply, but for `reason` and `from`:
///
/// ```json
/// {"session_key": "agent:main:discord:dm:1234", "event": "reset", "reason": "idle",
///  "at": "2026-06-12T00:06:53.123456Z", "old_session_id": "20260611_090000_0123456789ab",
///  "new_session_id": "20260612_000653_3f9a01c2d4e5", "revision": "00000000000000a1"}
/// ```
///
/// `event` is the kind in snake case. `reason` is there for `reset` (`suspended`, `idle`, `daily`, or `null` if somebody
/// asked for it), `resume_pending` (a text) and `pruned` (`age`, `entries`, `bytes`). `from`, the key before, is there for
/// `renamed`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Event {
    /// The conversation.
    #[serde(rename = "session_key")]
    pub key: SessionKey,
    /// What became of it.
    #[serde(flatten)]
    pub kind: EventKind,
    /// When, by the clock of the store.
    pub at: Timestamp,
    /// The session that was live before, where another has taken its place, or none.
    pub old_session_id: Option<SessionId>,
    /// The session that is live now, where it was not before.
    pub new_session_id: Option<SessionId>,
    /// The revision of the entry as it is now. `None` if it is gone; of a touch on a cluster too, which reads no entry.
    pub revision: Option<Revision>,
}

/// What became of a session, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
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
    /// Another entry was put in its place, whole: by an import too.
    Replaced,
    /// It was suspended.
    Suspended,
    /// Its suspension was taken back.
    Unsuspended,
    /// It was pinned.
    Pinned,
    /// It is pinned no more.
    Unpinned,
    /// The next message continues it.
    ResumePending {
        /// Why.
        reason: String,
    },
    /// That was taken back.
    ResumeCleared,
    /// Something else of it has changed: details, extras, counters, other flags, times. Sent to listeners that
    /// [asked for it](EventOptions::updates).
    Updated,
    /// The user was active, and nothing but `updated_at` and the turn has changed. Sent to listeners that
    /// [asked for it](EventOptions::touches).
    Touched,
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

impl EventKind {
    fn class(&self) -> u8 {
        match self {
            Self::Updated => UPDATES,
            Self::Touched => TOUCHES,
            _ => CHANGES,
        }
    }
}

/// What listeners may want, as bits.
pub(crate) const CHANGES: u8 = 1;
pub(crate) const UPDATES: u8 = 2;
pub(crate) const TOUCHES: u8 = 4;

/// What a listener wants: see [`SessionStore::events`](crate::SessionStore::events).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct EventOptions {
    capacity: usize,
    wanted: u8,
}

impl EventOptions {
    /// A channel that holds `capacity` events (at least 1, and at most 65,536), without updates and touches.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self { capacity, wanted: CHANGES }
    }

    /// Whether the channel gets [`EventKind::Updated`]. Off by default.
    #[must_use]
    pub fn updates(self, updates: bool) -> Self {
        self.want(UPDATES, updates)
    }

    /// Whether the channel gets [`EventKind::Touched`], one at each message. Off by default.
    #[must_use]
    pub fn touches(self, touches: bool) -> Self {
        self.want(TOUCHES, touches)
    }

    fn want(mut self, class: u8, want: bool) -> Self {
        self.wanted = if want { self.wanted | class } else { self.wanted & !class };
        self
    }
}

impl From<usize> for EventOptions {
    fn from(capacity: usize) -> Self {
        Self::new(capacity)
    }
}

/// Why an entry was pruned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum PruneReason {
    /// It had been idle for too long.
    Age,
    /// There were more than `max_entries`.
    Entries,
    /// They took more than `max_disk_bytes`.
    Bytes,
}

/// A channel of events. While it is full it drops newer ones: it never makes a writer wait.
///
/// It may be read from many threads at once; each event comes to one of them. As an iterator it waits for each event, and
/// ends when the store is gone.
#[derive(Debug)]
pub struct Events {
    events: Feed<Event>,
    dropped: Arc<AtomicU64>,
}

impl Events {
    /// Waits for the next event. `None` once the store is gone and all events were taken, and at once in a forked process.
    #[must_use]
    pub fn recv(&self) -> Option<Event> {
        self.events.recv()
    }

    /// As [`recv`](Events::recv), but waits at most for `timeout`.
    ///
    /// # Errors
    /// [`Nothing`] says whether another call may have more luck.
    pub fn recv_timeout(&self, timeout: Duration) -> Result<Event, Nothing> {
        self.events.recv_timeout(timeout)
    }

    /// The next event, if it is there. Does not wait.
    ///
    /// # Errors
    /// [`Nothing`] says whether another call may have more luck.
    pub fn try_recv(&self) -> Result<Event, Nothing> {
        self.events.try_recv()
    }

    /// The events that are there. Does not wait.
    pub fn drain(&self) -> impl Iterator<Item = Event> + '_ {
        self.events.drain()
    }

    /// How many events it holds at most.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.events.capacity()
    }

    /// How many events were dropped because nobody had taken those before.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

impl Iterator for Events {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        self.recv()
    }
}

impl FusedIterator for Events {}

/// The listeners of a store.
#[derive(Debug, Default)]
pub(crate) struct Listeners {
    all: RwLock<Vec<Listener>>,
    /// What any of them wants, so that telling nobody costs nothing.
    wanted: AtomicU8,
}

#[derive(Debug)]
struct Listener {
    /// Before the bell, so that who hears the bell go finds the end.
    events: Sender<Event>,
    bell: Option<Bell>,
    wanted: u8,
    dropped: Arc<AtomicU64>,
}

/// What rings when there is an event.
pub(crate) struct Bell(pub(crate) Box<dyn Fn() + Send + Sync>);

impl Bell {
    fn ring(&self) {
        // It is a stranger's, and must not cost the writer its change. The hook for panics has said what went wrong.
        let _ = catch_unwind(AssertUnwindSafe(|| (self.0)()));
    }
}

impl fmt::Debug for Bell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Bell")
    }
}

/// What listeners are to hear of an entry.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) kind: EventKind,
    pub(crate) old: Option<SessionId>,
    pub(crate) new: Option<SessionId>,
    pub(crate) revision: Option<Revision>,
}

impl Told {
    /// Of an entry that has this revision now.
    pub(crate) fn of(kind: EventKind, revision: Revision) -> Self {
        Self { kind, old: None, new: None, revision: Some(revision) }
    }

    /// Of an entry that is gone, with its session.
    pub(crate) fn gone(kind: EventKind, old: &SessionId) -> Self {
        Self { kind, old: Some(old.clone()), new: None, revision: None }
    }

    /// What the change of an entry is called, where its verb gives it no name.
    pub(crate) fn of_change(old: &SessionEntry, new: &SessionEntry) -> Self {
        let kind = if new.session_id != old.session_id {
            return Self::of(EventKind::Switched, new.revision).session(Some(&old.session_id), &new.session_id);
        } else if new.suspended != old.suspended {
            if new.suspended { EventKind::Suspended } else { EventKind::Unsuspended }
        } else if new.pinned != old.pinned {
            if new.pinned { EventKind::Pinned } else { EventKind::Unpinned }
        } else if new.resume_pending != old.resume_pending {
            match new.resume_pending {
                true => EventKind::ResumePending { reason: new.details.resume_reason.clone().unwrap_or_default() },
                false => EventKind::ResumeCleared,
            }
        } else if new.revision != old.revision {
            EventKind::Updated
        } else {
            // Its time alone: by a touch, or as it was set.
            EventKind::Touched
        };
        Self::of(kind, new.revision)
    }

    /// Another session has taken the place of `old`.
    pub(crate) fn session(self, old: Option<&SessionId>, new: &SessionId) -> Self {
        Self { old: old.cloned(), new: Some(new.clone()), ..self }
    }
}

impl Drop for Listeners {
    fn drop(&mut self) {
        // A forked process has not the threads that may have a channel's lock, and bells are the parent's.
        fork::keep_in_child(|| std::mem::take(self.all.get_mut()));
    }
}

impl Listeners {
    pub(crate) fn listen(&self, options: EventOptions, bell: Option<Bell>) -> Events {
        let EventOptions { capacity, wanted } = options;
        let (sender, events) = Feed::new(capacity.clamp(1, MAX_CAPACITY));
        let dropped = Arc::new(AtomicU64::new(0));
        if fork::is_child() {
            return Events { events: Feed::ended(), dropped };
        }
        let mut all = self.all.write();
        all.push(Listener { events: sender, bell, wanted, dropped: Arc::clone(&dropped) });
        self.count(&all);
        Events { events, dropped }
    }

    /// Whether anybody wants to hear of a class of events.
    pub(crate) fn want(&self, class: u8) -> bool {
        self.wanted.load(Ordering::Acquire) & class != 0
    }

    fn count(&self, all: &[Listener]) {
        self.wanted.store(all.iter().fold(0, |wanted, one| wanted | one.wanted), Ordering::Release);
    }

    /// Sends what became of an entry to all listeners that want its kind and have room for it. Answers how many had none.
    pub(crate) fn tell(&self, key: &SessionKey, told: Told, at: Timestamp) -> u64 {
        let class = told.kind.class();
        if !self.want(class) {
            return 0;
        }
        let Told { kind, old: old_session_id, new: new_session_id, revision } = told;
        let event = Event { key: key.clone(), kind, at, old_session_id, new_session_id, revision };
        let (mut gone, mut dropped) = (false, 0);
        for listener in self.all.read().iter().filter(|listener| listener.wanted & class != 0) {
            match listener.events.try_send(event.clone()) {
                Ok(()) => {
                    if let Some(bell) = &listener.bell {
                        bell.ring();
                    }
                }
                Err(TrySendError::Full(_)) => {
                    listener.dropped.fetch_add(1, Ordering::Relaxed);
                    dropped += 1;
                }
                Err(TrySendError::Disconnected(_)) => gone = true,
            }
        }
        // If the lock is taken, the next event cleans up.
        if gone && let Some(mut all) = self.all.try_write() {
            // The counter is shared with the listener, and with nobody else.
            all.retain(|listener| Arc::strong_count(&listener.dropped) > 1);
            self.count(&all);
        }
        dropped
    }
}
