//! Resumes: sessions that the next message continues, after a crash or because somebody said so.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::answer::IfSeen;
use crate::codec::{Cold, Fingerprint, RESUME_PENDING, SUSPENDED};
use crate::commit::{EntryLock, Marker, Placed, Receipt};
use crate::entry::{Details, Revision};
use crate::error::Result;
use crate::events::{CHANGES, EventKind, Told, UPDATES};
use crate::key::SessionKey;
use crate::rules::{self, Recovered};
use crate::store::{SessionStore, both, differs};
use crate::time::Timestamp;
use crate::unreadable::Unreadable;

/// How [`SessionStore::recover_interrupted_turns`] deals with what it finds. Made from a [`Duration`], or from an
/// `Option` of one, where only the age matters.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RecoverOptions {
    pub(crate) max_age: Option<Duration>,
    pub(crate) reason: String,
}

impl RecoverOptions {
    /// The reason that is noted where none is given.
    pub const DEFAULT_REASON: &str = "interrupted_turn";

    /// Turns that began at most `max_age` ago are resumed; with `None` all are. With zero, only those of this
    /// microsecond.
    pub fn new(max_age: impl Into<Option<Duration>>) -> Self {
        Self { max_age: max_age.into(), reason: Self::DEFAULT_REASON.into() }
    }

    /// The reason that is noted with the resumes (default `interrupted_turn`; Hermes' is `restart_interrupted`).
    #[must_use]
    pub fn reason(mut self, reason: impl Into<String>) -> Self {
        self.reason = reason.into();
        self
    }
}

impl From<Duration> for RecoverOptions {
    fn from(max_age: Duration) -> Self {
        Self::new(max_age)
    }
}

impl From<Option<Duration>> for RecoverOptions {
    fn from(max_age: Option<Duration>) -> Self {
        Self::new(max_age)
    }
}

/// What [`SessionStore::mark_resume_pending`] answers.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum ResumeMark {
    /// The next message continues the session.
    Marked(Receipt),
    /// The entry is suspended, so its next message starts a fresh session whatever is marked. It is left as it was.
    Suspended,
    /// There is no entry.
    Missing,
}

/// What [`SessionStore::clear_resume_pending`] answers.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum ResumeClear {
    /// The mark is taken back.
    Cleared(Receipt),
    /// There was none. The entry is left as it was.
    NotPending,
    /// There is no entry.
    Missing,
}

/// What [`SessionStore::recover_interrupted_turns`] did with the markers it found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct TurnRecovery {
    /// Entries whose turn was fresh: a resume is pending now, and none was before.
    pub resumable: Vec<SessionKey>,
    /// Entries whose turn was fresh, and for which a resume was pending already. They keep its reason, which says more,
    /// and its time.
    pub already_pending: Vec<SessionKey>,
    /// Markers cleared because their turn began too long ago.
    pub stale: u64,
    /// Markers cleared because their entry is suspended.
    pub suspended: u64,
    /// Markers cleared because their entry is gone or has another session.
    pub orphaned: u64,
    /// Markers and entries that cannot be decoded. Their markers stay, for the next recovery after a
    /// [`repair`](SessionStore::repair).
    pub unreadable: Unreadable,
}

impl SessionStore {
    /// Deals with the turns that a crash interrupted, once, after opening.
    ///
    /// Where a turn began at most [`max_age`](RecoverOptions::new) ago, and its entry still has that session and is not
    /// suspended, a resume is marked as pending: the id is kept, and the next message continues the session. A resume
    /// that was pending before keeps its reason, and its time if it has one. Every such marker is cleared. Turns begun
    /// since the store was opened are left alone, and after a clean close there are none to recover. On a cluster those of
    /// processes that are gone are recovered, and a process that has closed the store is. `updated_at` stays.
    ///
    /// Only entries with markers are visited. One that cannot be decoded keeps its marker, is counted, and stops no
    /// other. A turn whose entry gets another key meanwhile is left for the next call. What it did is durable when it returns;
    /// after a crash before that, it may be run again.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # let directory = tempfile::tempdir()?;
    /// # let store = cloakroom::SessionStore::open(cloakroom::Options::new(directory.path()).create(true))?;
    /// use cloakroom::turns::RecoverOptions;
    /// let hour = Duration::from_secs(60 * 60);
    /// let recovery = store.recover_interrupted_turns(RecoverOptions::new(hour).reason("restart_interrupted"))?;
    /// assert!(recovery.resumable.is_empty());
    /// // However old they are.
    /// store.recover_interrupted_turns(None)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn recover_interrupted_turns(&self, options: impl Into<RecoverOptions>) -> Result<TurnRecovery> {
        let options = options.into();
        let mut recovery = TurnRecovery { unreadable: self.unreadable_markers()?, ..TurnRecovery::default() };
        let mut done = Vec::new();
        let interrupted: Vec<_> = self.commits().turns()?.all();
        for (entry, marker) in interrupted.into_iter().filter(|(_, marker)| marker.interrupted) {
            let recovered = self.recover(entry, &marker, &options, &mut recovery);
            if recovery.unreadable.pass(recovered)? == Some(true) {
                done.push((entry, marker.turn.token));
            }
        }
        recovery.resumable.sort_unstable();
        recovery.already_pending.sort_unstable();
        // The markers go when what was made of them is durable: a crash in between must not lose both.
        self.flush()?;
        for (entry, token) in done {
            self.commits().turns()?.drop_marker(entry, token);
        }
        self.flush()?;
        Ok(recovery)
    }

    /// Deals with one marker. Returns whether it is to go once that is durable.
    fn recover(
        &self,
        entry: Fingerprint,
        marker: &Marker,
        options: &RecoverOptions,
        recovery: &mut TurnRecovery,
    ) -> Result<bool> {
        let Some(key) = self.key_of(entry)? else {
            recovery.orphaned += u64::from(self.commits().turns()?.drop_marker(entry, marker.turn.token));
            return Ok(false);
        };
        let (mut locked, now) = self.lock_to_touch(&key)?;
        let found = both(&locked)?;
        // A turn that has begun meanwhile has taken its place.
        if !self.commits().turns()?.is_current(entry, marker.turn.token) {
            return Ok(false);
        }
        let there = found.as_ref().map(|(hot, cold)| (hot, &**cold));
        match rules::recovered(there, &marker.turn, options.max_age, now) {
            Recovered::Orphaned => recovery.orphaned += 1,
            Recovered::Suspended => recovery.suspended += 1,
            Recovered::Stale => recovery.stale += 1,
            Recovered::Pending { untimed } => {
                if let Some((hot, cold)) = found.filter(|_| untimed) {
                    let details = Details { last_resume_marked_at: Some(now), ..cold.details.clone() };
                    let Placed { hot, .. } = locked.put(hot, Cold { details, ..Cold::clone(&cold) }, None)?;
                    drop(locked);
                    self.tell(&key, UPDATES, || Told::of(EventKind::Updated, hot.revision));
                }
                recovery.already_pending.push(key);
            }
            Recovered::Resumable => {
                let placed = self.set_resume(&mut locked, Some((&options.reason, now)))?;
                drop(locked);
                self.tell_resume(&key, Some(&options.reason), placed.as_ref());
                recovery.resumable.push(key);
            }
        }
        Ok(true)
    }

    /// Notes that the session was interrupted, and why: the next message continues it, and no reset policy ends it.
    /// `updated_at` stays, and pruning takes no notice.
    ///
    /// The mark stays until [`clear_resume_pending`](SessionStore::clear_resume_pending), or until the entry gets
    /// another session. Where a resume is pending already, its reason and its time are replaced.
    pub fn mark_resume_pending(&self, key: &SessionKey, reason: &str) -> Result<ResumeMark> {
        Ok(self.mark_resume_seen(key, reason, None)?.done().unwrap_or(ResumeMark::Missing))
    }

    /// Likewise, if the entry has the revision that was `seen`.
    pub(crate) fn mark_resume_seen(
        &self,
        key: &SessionKey,
        reason: &str,
        seen: Option<Revision>,
    ) -> Result<IfSeen<ResumeMark>> {
        let (mut locked, now) = self.lock_to_touch(key)?;
        if differs(&locked, seen) {
            return Ok(IfSeen::Differs);
        }
        Ok(IfSeen::Done(match locked.hot() {
            None => ResumeMark::Missing,
            Some(hot) if hot.is(SUSPENDED) => ResumeMark::Suspended,
            Some(_) => {
                let placed = self.set_resume(&mut locked, Some((reason, now)))?;
                drop(locked);
                self.tell_resume(key, Some(reason), placed.as_ref());
                let marked = |placed: Placed| ResumeMark::Marked(self.commits().receipt(placed.commit));
                placed.map_or(ResumeMark::Missing, marked)
            }
        }))
    }

    /// Takes the mark back, its reason and its time, where there is one. `updated_at` stays.
    pub fn clear_resume_pending(&self, key: &SessionKey) -> Result<ResumeClear> {
        Ok(self.clear_resume_seen(key, None)?.done().unwrap_or(ResumeClear::Missing))
    }

    /// Likewise, if the entry has the revision that was `seen`.
    pub(crate) fn clear_resume_seen(&self, key: &SessionKey, seen: Option<Revision>) -> Result<IfSeen<ResumeClear>> {
        let mut locked = self.lock_to_change(key)?;
        if differs(&locked, seen) {
            return Ok(IfSeen::Differs);
        }
        Ok(IfSeen::Done(match locked.hot() {
            None => ResumeClear::Missing,
            Some(hot) if !hot.is(RESUME_PENDING) => ResumeClear::NotPending,
            Some(_) => {
                let placed = self.set_resume(&mut locked, None)?;
                drop(locked);
                self.tell_resume(key, None, placed.as_ref());
                let cleared = |placed: Placed| ResumeClear::Cleared(self.commits().receipt(placed.commit));
                placed.map_or(ResumeClear::Missing, cleared)
            }
        }))
    }

    fn tell_resume(&self, key: &SessionKey, reason: Option<&str>, placed: Option<&Placed>) {
        let Some(Placed { hot, .. }) = placed else { return };
        self.tell(key, CHANGES, || {
            let pending = |reason: &str| EventKind::ResumePending { reason: reason.into() };
            Told::of(reason.map_or(EventKind::ResumeCleared, pending), hot.revision)
        });
    }

    /// Sets, with the time, or clears the mark of a locked entry.
    fn set_resume(&self, locked: &mut EntryLock<'_>, reason: Option<(&str, Timestamp)>) -> Result<Option<Placed>> {
        let Some((hot, cold)) = both(locked)? else { return Ok(None) };
        let (hot, cold) = rules::with_resume((&hot, &cold), reason);
        locked.put(hot, cold, None).map(Some)
    }
}
