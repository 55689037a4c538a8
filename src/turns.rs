//! Turns: what a gateway was working on when it was stopped.
//!
//! A gateway that begins to work on a message says so with [`begin_turn`](SessionStore::begin_turn), and says when it
//! is done. Markers of turns that never ended, because the power went or the process was killed, are there when the
//! store is opened again: [`recover_interrupted_turns`](SessionStore::recover_interrupted_turns) turns the fresh ones
//! into `resume_pending`, so that the next message continues the session. A clean close discards its own markers.
//!
//! Markers are kept beside the entries. An entry's details have fields of the same name for what a gateway's own file
//! said; these verbs do not touch them.

use std::fmt;
use std::time::Duration;

use serde::{Serialize, Serializer};

use crate::codec::{Cold, Fingerprint, RESUME_PENDING, SUSPENDED};
use crate::commit::{EntryLock, Marker, Receipt};
use crate::entry::Details;
use crate::error::Result;
use crate::events::EventKind;
use crate::key::SessionKey;
use crate::meter;
use crate::store::{SessionStore, both, touched};
use crate::time::Timestamp;
use crate::unreadable::{Listing, Unreadable};

/// Why [`recover_interrupted_turns`](SessionStore::recover_interrupted_turns) marks an entry.
const INTERRUPTED: &str = "interrupted_turn";

/// Names one turn. No two turns of a store have the same, and newer ones are greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TurnToken(u64);

impl fmt::Display for TurnToken {
    /// Sixteen hexadecimal digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl Serialize for TurnToken {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What [`SessionStore::end_turn`] answers.
#[derive(Debug, Clone)]
pub enum TurnEnd {
    /// The turn's marker is cleared.
    Ended(Receipt),
    /// The entry has no marker, or one of a newer turn, and keeps it.
    NotCurrent,
    /// There is no entry.
    Missing,
}

/// What [`SessionStore::mark_resume_pending`] answers.
#[derive(Debug, Clone)]
pub enum ResumeMark {
    /// The next message continues the session.
    Marked(Receipt),
    /// The entry is suspended, so its next message starts a fresh session whatever is marked. It is left as it was.
    Suspended,
    /// There is no entry.
    Missing,
}

/// A turn that has begun and not ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct OpenTurn {
    /// The conversation.
    #[serde(rename = "session_key")]
    pub key: SessionKey,
    /// Names the turn.
    pub token: TurnToken,
    /// When it began.
    pub started_at: Timestamp,
    /// It began before the store was opened, and whoever worked on it is gone.
    pub interrupted: bool,
}

/// What [`SessionStore::recover_interrupted_turns`] did with the markers it found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TurnRecovery {
    /// Entries whose turn was fresh: a resume is pending now.
    pub resumable: Vec<SessionKey>,
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
    /// Notes that work on a message begins, and touches the entry. `None` if there is none.
    ///
    /// An earlier turn of the entry that has not ended is replaced: its token ends nothing any more. O(1). When the
    /// receipt is durable the marker is too; after a crash before that, neither marker nor touch may be there.
    pub fn begin_turn(&self, key: &SessionKey) -> Result<Option<(TurnToken, Receipt)>> {
        let (mut locked, now) = self.lock_to_touch(key)?;
        let Some((hot, cold)) = both(&locked)? else { return Ok(None) };
        let (token, commit) = locked.begin_turn(touched(hot, now), cold.session_id.clone(), now);
        drop(locked);
        meter::touched();
        Ok(Some((TurnToken(token), self.commits().receipt(commit))))
    }

    /// Notes that the work of `token` is done: clears the entry's marker if it is of that turn. `updated_at` stays.
    ///
    /// After a crash before the receipt is durable the turn may be taken for interrupted.
    pub fn end_turn(&self, key: &SessionKey, token: TurnToken) -> Result<TurnEnd> {
        let mut locked = self.lock_to_change(key)?;
        if locked.hot().is_none() {
            return Ok(TurnEnd::Missing);
        }
        let Some(commit) = locked.end_turn(token.0) else { return Ok(TurnEnd::NotCurrent) };
        drop(locked);
        Ok(TurnEnd::Ended(self.commits().receipt(commit)))
    }

    /// The turns that have begun and not ended, the oldest first. Costs as much as there are of them.
    ///
    /// A marker or an entry that cannot be decoded is passed over, and counted.
    pub fn turns(&self) -> Result<Listing<OpenTurn>> {
        let (mut items, mut unreadable) = (Vec::new(), self.unreadable_markers()?);
        for (entry, marker) in self.commits().turns()?.all() {
            let Some(Some(key)) = unreadable.pass(self.key_of(entry))? else { continue };
            let Some(Some(found)) = unreadable.pass(self.commits().peek(&key, false))? else { continue };
            if found.cold.session_id == marker.turn.session_id {
                let (token, started_at) = (TurnToken(marker.turn.token), marker.turn.started_at);
                items.push(OpenTurn { key, token, started_at, interrupted: marker.interrupted });
            }
        }
        items.sort_unstable_by_key(|turn| (turn.started_at, turn.token));
        Ok(Listing { items, unreadable })
    }

    /// The rows of markers that cannot be decoded; the others are in memory.
    fn unreadable_markers(&self) -> Result<Unreadable> {
        let mut unreadable = Unreadable::default();
        for marker in self.commits().engine()?.turns()? {
            unreadable.pass(marker)?;
        }
        Ok(unreadable)
    }

    /// Deals with the turns that a crash interrupted, once, after opening.
    ///
    /// Where a turn began at most `max_age` ago, and its entry still has that session and is not suspended, a resume
    /// is marked as pending, with the reason `interrupted_turn`: the id is kept, and the next message continues the
    /// session. Every such marker is cleared. Turns begun since the store was opened are left alone, and after a
    /// clean close there are none to recover. `updated_at` stays.
    ///
    /// Only entries with markers are visited. One that cannot be decoded keeps its marker, is counted, and stops no other.
    /// What it did is durable when it returns; after a crash before that, it
    /// may be run again.
    pub fn recover_interrupted_turns(&self, max_age: Duration) -> Result<TurnRecovery> {
        let mut recovery = TurnRecovery { unreadable: self.unreadable_markers()?, ..TurnRecovery::default() };
        let mut done = Vec::new();
        let interrupted: Vec<_> = self.commits().turns()?.all();
        for (entry, marker) in interrupted.into_iter().filter(|(_, marker)| marker.interrupted) {
            let recovered = self.recover(entry, &marker, max_age, &mut recovery);
            if recovery.unreadable.pass(recovered)? == Some(true) {
                done.push((entry, marker.turn.token));
            }
        }
        recovery.resumable.sort_unstable();
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
        max_age: Duration,
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
        match found {
            Some((_, cold)) if cold.session_id != marker.turn.session_id => recovery.orphaned += 1,
            None => recovery.orphaned += 1,
            Some((hot, _)) if hot.is(SUSPENDED) => recovery.suspended += 1,
            Some(_) if now.since(marker.turn.started_at) > max_age => recovery.stale += 1,
            Some(_) => {
                self.set_resume(&mut locked, Some((INTERRUPTED, now)))?;
                drop(locked);
                self.listeners().tell(&key, EventKind::ResumePending { reason: INTERRUPTED.into() });
                recovery.resumable.push(key);
            }
        }
        Ok(true)
    }

    /// Notes that the session was interrupted, and why: the next message continues it, and no reset policy ends it.
    /// `updated_at` stays, and pruning takes no notice.
    ///
    /// The mark stays until [`clear_resume_pending`](SessionStore::clear_resume_pending), or until the entry gets
    /// another session.
    pub fn mark_resume_pending(&self, key: &SessionKey, reason: &str) -> Result<ResumeMark> {
        let (mut locked, now) = self.lock_to_touch(key)?;
        match locked.hot() {
            None => Ok(ResumeMark::Missing),
            Some(hot) if hot.is(SUSPENDED) => Ok(ResumeMark::Suspended),
            Some(_) => {
                let commit = self.set_resume(&mut locked, Some((reason, now)))?;
                drop(locked);
                self.listeners().tell(key, EventKind::ResumePending { reason: reason.into() });
                Ok(commit.map_or(ResumeMark::Missing, |commit| ResumeMark::Marked(self.commits().receipt(commit))))
            }
        }
    }

    /// Takes the mark back, and its reason. `None` if there is no entry. `updated_at` stays.
    pub fn clear_resume_pending(&self, key: &SessionKey) -> Result<Option<Receipt>> {
        let mut locked = self.lock_to_change(key)?;
        let was_pending = locked.hot().is_some_and(|hot| hot.is(RESUME_PENDING));
        let commit = self.set_resume(&mut locked, None)?;
        drop(locked);
        if was_pending {
            self.listeners().tell(key, EventKind::ResumeCleared);
        }
        Ok(commit.map(|commit| self.commits().receipt(commit)))
    }

    /// Sets, with the time, or clears the mark of a locked entry. Returns the commit that takes it.
    fn set_resume(&self, locked: &mut EntryLock<'_>, reason: Option<(&str, Timestamp)>) -> Result<Option<u64>> {
        let Some((mut hot, cold)) = both(locked)? else { return Ok(None) };
        hot.set(RESUME_PENDING, reason.is_some());
        let details = Details {
            resume_reason: reason.map(|(reason, _)| reason.into()),
            last_resume_marked_at: reason.map(|(_, now)| now),
            ..cold.details.clone()
        };
        locked.put(hot, Cold { details, ..Cold::clone(&cold) }, None).map(|placed| Some(placed.commit))
    }

    /// The key of a marker's entry, if that is in the trees or on its way there.
    fn key_of(&self, entry: Fingerprint) -> Result<Option<SessionKey>> {
        match self.commits().engine()?.key_of_listed(entry)? {
            Some(key) => Ok(Some(key)),
            None => {
                self.commits().apply_pending()?;
                self.commits().engine()?.key_of_listed(entry)
            }
        }
    }
}

#[cfg(test)]
mod tests;
