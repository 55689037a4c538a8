//! Turns: what a gateway was working on when it was stopped.
//!
//! A gateway that begins to work on a message says so with [`begin_turn`](SessionStore::begin_turn), and says when it
//! is done. Markers of turns that never ended, because the power went or the process was killed, are there when the
//! store is opened again: [`recover_interrupted_turns`](SessionStore::recover_interrupted_turns) turns the fresh ones
//! into `resume_pending`, so that the next message continues the session. A clean close discards its own markers; on a cluster
//! it leaves them, as turns that were interrupted.
//!
//! Markers are kept beside the entries. An entry's details have fields of the same name for what a gateway's own file
//! said; these verbs do not touch them.

mod resume;
mod token;

use serde::{Deserialize, Serialize};

use crate::commit::{Marker, Receipt};
use crate::error::Result;
use crate::events::{EventKind, TOUCHES, Told};
use crate::key::SessionKey;
use crate::rules::touched;
use crate::store::{SessionStore, both};
use crate::time::Timestamp;
use crate::unreadable::{Listing, Unreadable};

pub use resume::{RecoverOptions, ResumeClear, ResumeMark, TurnRecovery};
pub use token::{TurnToken, TurnTokenError};

/// What [`SessionStore::end_turn`] answers.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum TurnEnd {
    /// The turn's marker is cleared.
    Ended(Receipt),
    /// The entry has no marker, or one of a newer turn, and keeps it.
    NotCurrent,
    /// There is no entry.
    Missing,
}

/// A turn that has begun and not ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct OpenTurn {
    /// The conversation.
    #[serde(rename = "session_key")]
    pub key: SessionKey,
    /// Names the turn.
    pub token: TurnToken,
    /// When it began.
    pub started_at: Timestamp,
    /// Whoever worked on it is gone: it began before the store was opened or, on a cluster, its process has ended.
    pub interrupted: bool,
    /// On a cluster, the process that has begun it, by the name that `ClusterStore::member` tells there: a message for the
    /// session may be sent to it. `None` where that is not known, as of a turn that came with a backup, and on an embedded store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
}

/// A turn that has just begun.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct BegunTurn {
    /// Names the turn.
    pub token: TurnToken,
    /// Tells when the turn's marker and the touch are durable.
    pub receipt: Receipt,
}

/// What [`SessionStore::try_begin_turn`] answers.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum TurnStart {
    /// It has begun, and the entry was touched.
    Begun(BegunTurn),
    /// Another one is open. Nothing was changed.
    Open(OpenTurn),
    /// There is no entry.
    Missing,
}

/// What [`SessionStore::discard_turns`] did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct TurnsDiscarded {
    /// Turns whose markers were cleared.
    pub discarded: u64,
    /// Markers and entries that cannot be decoded. Their markers stay.
    pub unreadable: Unreadable,
}

fn open_turn(key: SessionKey, marker: &Marker) -> OpenTurn {
    let (token, started_at) = (TurnToken(marker.turn.token), marker.turn.started_at);
    OpenTurn { key, token, started_at, interrupted: marker.interrupted, owner: None }
}

impl SessionStore {
    /// Notes that work on a message begins, and touches the entry. `None` if there is none.
    ///
    /// An earlier turn of the entry that has not ended is replaced: its token ends nothing any more. Where that must not
    /// happen there is [`try_begin_turn`](SessionStore::try_begin_turn). O(1). When the receipt is durable the marker is
    /// too; after a crash before that, neither marker nor touch may be there.
    pub fn begin_turn(&self, key: &SessionKey) -> Result<Option<BegunTurn>> {
        match self.begin(key, false)? {
            TurnStart::Begun(begun) => Ok(Some(begun)),
            TurnStart::Open(_) | TurnStart::Missing => Ok(None),
        }
    }

    /// Like [`begin_turn`](SessionStore::begin_turn), but leaves everything as it is while a turn of the entry is open:
    /// of several that begin at once, one does.
    ///
    /// A turn that was [`interrupted`](OpenTurn::interrupted) is in nobody's way, and is replaced.
    pub fn try_begin_turn(&self, key: &SessionKey) -> Result<TurnStart> {
        self.begin(key, true)
    }

    fn begin(&self, key: &SessionKey, unless_open: bool) -> Result<TurnStart> {
        let (mut locked, now) = self.lock_to_touch(key)?;
        let Some((hot, cold)) = both(&locked)? else { return Ok(TurnStart::Missing) };
        if let Some(marker) = locked.marker().filter(|marker| unless_open && !marker.interrupted) {
            return Ok(TurnStart::Open(open_turn(key.clone(), &marker)));
        }
        let (token, commit) = locked.begin_turn(touched(hot, now), cold.session_id.clone(), now);
        drop(locked);
        self.commits().meter().touched();
        self.tell(key, TOUCHES, || Told::of(EventKind::Touched, hot.revision));
        Ok(TurnStart::Begun(BegunTurn { token: TurnToken(token), receipt: self.commits().receipt(commit) }))
    }

    /// Notes that the work of `token` is done: clears the entry's marker if it is of that turn. `updated_at` stays.
    ///
    /// After a crash before the receipt is durable the turn may be taken for interrupted.
    pub fn end_turn(&self, key: &SessionKey, token: TurnToken) -> Result<TurnEnd> {
        self.end(key, Some(token.0))
    }

    /// Clears the entry's marker, of whichever turn it is: for one whose token is lost. `updated_at` stays.
    pub fn discard_turn(&self, key: &SessionKey) -> Result<TurnEnd> {
        self.end(key, None)
    }

    fn end(&self, key: &SessionKey, token: Option<u64>) -> Result<TurnEnd> {
        let mut locked = self.lock_to_change(key)?;
        if locked.hot().is_none() {
            return Ok(TurnEnd::Missing);
        }
        let Some(commit) = locked.end_turn(token) else { return Ok(TurnEnd::NotCurrent) };
        drop(locked);
        Ok(TurnEnd::Ended(self.commits().receipt(commit)))
    }

    /// Clears the markers of all turns that are open, interrupted ones included, and makes no resumes of them: for a
    /// gateway that knows that it was stopped cleanly. Turns that begin meanwhile stay. No `updated_at` moves.
    ///
    /// Costs as much as there are of them. It is durable when it returns; after a crash before that, some may be there
    /// still.
    pub fn discard_turns(&self) -> Result<TurnsDiscarded> {
        let mut report = TurnsDiscarded { discarded: 0, unreadable: self.unreadable_markers()? };
        for (entry, marker) in self.commits().turns()?.all() {
            // That of an entry that is gone is no open turn: the next recovery clears it.
            let Some(Some(key)) = report.unreadable.pass(self.key_of(entry))? else { continue };
            let ended = report.unreadable.pass(self.end(&key, Some(marker.turn.token)))?;
            report.discarded += u64::from(matches!(ended, Some(TurnEnd::Ended(_))));
        }
        self.flush()?;
        Ok(report)
    }

    /// The turn of a key that has begun and not ended. O(1).
    pub fn turn(&self, key: &SessionKey) -> Result<Option<OpenTurn>> {
        let Some(locked) = self.commits().look(key)? else { return Ok(None) };
        let Some(marker) = locked.marker() else { return Ok(None) };
        let is_its_own = locked.cold()?.is_some_and(|cold| cold.session_id == marker.turn.session_id);
        Ok(is_its_own.then(|| open_turn(key.clone(), &marker)))
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
                items.push(open_turn(key, &marker));
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
}

#[cfg(test)]
mod tests;
