//! The verbs that start a session: for a message, for a user who asks, or in place of one that ended.

use std::sync::Arc;

use crate::answer::{IfSeen, ReplaceReason, Repointed, Resolution, Resolved, Written};
use crate::codec::{Cold, Hot};
use crate::commit::EntryLock;
use crate::entry::{KeepExtras, Revision, SessionEntry, Touch};
use crate::error::{Error, Result};
use crate::events::{CHANGES, EventKind, TOUCHES, Told};
use crate::how::{Repoint, Resolve};
use crate::key::{SessionId, SessionKey};
use crate::random;
use crate::rules::{self, Lead, entry, touched_by_message};
use crate::source::SessionSource;
use crate::store::{SessionStore, both, differs};
use crate::time::Timestamp;

impl SessionStore {
    /// The entry for a message from `source`: touched if there is one, replaced by a fresh one if it is suspended,
    /// created if there is none. Concurrent calls for one key make one entry.
    ///
    /// # Errors
    /// [`Error::InvalidKey`] if the key of the source is none: ids from a chat may be too long, or hold what no key holds.
    /// Otherwise those of [every change](SessionStore#errors).
    pub fn resolve(&self, source: &SessionSource) -> Result<Resolved> {
        self.resolve_as(&self.key_for(source)?, &Resolve::new().source(source))
    }

    /// As [`resolve`](SessionStore::resolve), at a key of the gateway's own and as `how` says.
    ///
    /// ```
    /// use cloakroom::change::{Resolution, Resolve};
    /// use cloakroom::{Options, SessionKey, SessionStore};
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("sessions.db");
    /// let store = SessionStore::open(Options::new(path).create(true))?;
    /// let key: SessionKey = "agent:main:cron:nightly".parse()?;
    /// assert_eq!(store.resolve_as(&key, &Resolve::new())?.resolution, Resolution::Created);
    /// assert_eq!(store.resolve_as(&key, &Resolve::new())?.resolution, Resolution::Existing);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn resolve_as(&self, key: &SessionKey, how: &Resolve<'_>) -> Result<Resolved> {
        let mut id = None;
        loop {
            let (locked, now) = self.lock_to_touch(key)?;
            match self.resolve_locked(locked, key, how, now, None, id.take())? {
                Some(resolved) => return Ok(resolved),
                None => id = how.make_id(now),
            }
        }
    }

    /// The key of the conversation that `source` belongs to.
    pub(crate) fn key_for(&self, source: &SessionSource) -> Result<SessionKey> {
        SessionKey::for_source(source, self.key_policy()).map_err(Error::InvalidKey)
    }

    /// Resolves a locked entry; `due` says that a policy wants it replaced. `None` if the gateway has to make an id first.
    pub(crate) fn resolve_locked(
        &self,
        mut locked: EntryLock<'_>,
        key: &SessionKey,
        how: &Resolve<'_>,
        now: Timestamp,
        due: Option<ReplaceReason>,
        id: Option<SessionId>,
    ) -> Result<Option<Resolved>> {
        let found = both(&locked)?;
        let reason = found.as_ref().and_then(|(hot, _)| rules::replaced(hot, how.fresh, due));
        if let Some((hot, cold)) = &found
            && reason.is_none()
        {
            return Ok(Some(self.found(locked, key, *hot, cold, (how.touch == Touch::Yes).then_some(now))));
        }
        let id = match id {
            Some(id) => id,
            None if how.makes_ids() => return Ok(None),
            None => random::session_id(now)?,
        };
        let (Some((hot, cold)), Some(reason)) = (found, reason) else {
            let (hot, cold) = rules::created(how, id, now);
            let placed = locked.put(hot, cold, None)?;
            drop(locked);
            let Written { entry, receipt } = self.placed(key, placed);
            self.tell(key, CHANGES, || Told::of(EventKind::Created, entry.revision).session(None, &entry.session_id));
            return Ok(Some(Resolved { entry, resolution: Resolution::Created, receipt }));
        };
        let had_activity = rules::had_activity(&hot);
        let extras = how.keep.of(|| locked.extras(&cold))?;
        let (hot, new) = rules::replacement((&hot, &cold), how, reason, id, now);
        let placed = locked.put(hot, new, Some(&extras))?;
        drop(locked);
        let resolution = Resolution::Replaced { reason, previous: cold.session_id.clone(), had_activity };
        let Written { entry, receipt } = self.placed(key, placed);
        self.tell_renewed(key, EventKind::Reset { reason: reason.by_rule() }, &cold.session_id, &entry);
        Ok(Some(Resolved { entry, resolution, receipt }))
    }

    /// Answers an entry that stays, touched if it is to be.
    fn found(
        &self,
        mut locked: EntryLock<'_>,
        key: &SessionKey,
        mut hot: Hot,
        cold: &Arc<Cold>,
        touched_at: Option<Timestamp>,
    ) -> Resolved {
        let commit = match touched_at {
            Some(now) => {
                hot = touched_by_message(hot, now);
                locked.set_times(hot)
            }
            None => self.commits().open_commit(),
        };
        drop(locked);
        if touched_at.is_some() {
            self.commits().meter().touched();
            self.tell(key, TOUCHES, || Told::of(EventKind::Touched, hot.revision));
        }
        let entry = entry(key, &hot, Cold::clone(cold));
        Resolved { entry, resolution: Resolution::Existing, receipt: self.commits().receipt(commit) }
    }

    /// Starts a fresh session, as the user asked: new id, zero counters, not suspended, no extras. `None` if there is no
    /// entry.
    pub fn reset(&self, key: &SessionKey) -> Result<Option<Written>> {
        self.reset_keeping(key, &KeepExtras::None)
    }

    /// Like [`reset`](SessionStore::reset), but some extras stay: a model or a label that the user chose, say. Costs the
    /// size of the extras.
    pub fn reset_keeping(&self, key: &SessionKey, keep: &KeepExtras) -> Result<Option<Written>> {
        Ok(self.reset_seen(key, keep, None)?.done().flatten())
    }

    /// Likewise, if the entry has the revision that was `seen`.
    pub(crate) fn reset_seen(
        &self,
        key: &SessionKey,
        keep: &KeepExtras,
        seen: Option<Revision>,
    ) -> Result<IfSeen<Option<Written>>> {
        let id = random::session_id(self.now())?;
        let (mut locked, now) = self.lock_to_touch(key)?;
        if differs(&locked, seen) {
            return Ok(IfSeen::Differs);
        }
        let Some((hot, cold)) = both(&locked)? else { return Ok(IfSeen::Done(None)) };
        let extras = keep.of(|| locked.extras(&cold))?;
        let (hot, new) = rules::reset((&hot, &cold), id, now);
        let placed = locked.put(hot, new, Some(&extras))?;
        drop(locked);
        let written = self.placed(key, placed);
        self.tell_renewed(key, EventKind::Reset { reason: None }, &cold.session_id, &written.entry);
        Ok(IfSeen::Done(Some(written)))
    }

    /// Leads the key to another session: one to be resumed, or the same conversation under a new id. Where it leads there
    /// already nothing changes.
    ///
    /// One step to all threads: of two calls that expect the same session one answers [`Repointed::Unexpected`]. After a
    /// crash before the receipt is durable the old session or the new one is there, whole. It costs the size of the extras
    /// that are kept.
    pub fn repoint(&self, key: &SessionKey, id: SessionId, how: &Repoint) -> Result<Repointed> {
        let (mut locked, now) = self.lock_to_touch(key)?;
        let Some((hot, cold)) = both(&locked)? else { return Ok(Repointed::Missing) };
        let there = || entry(key, &hot, Cold::clone(&cold));
        let (new_hot, new_cold) = match rules::repointed((&hot, &cold), id, how, now) {
            Lead::Elsewhere => return Ok(Repointed::Unexpected(there())),
            Lead::There => return Ok(Repointed::Same(there())),
            Lead::Switch(hot, cold) => (hot, cold),
        };
        let kept = match how.keep {
            KeepExtras::All => None,
            _ => Some(how.keep.of(|| locked.extras(&cold))?),
        };
        let extras = cold.extras.clone().filter(|_| kept.is_none());
        let placed = locked.put(new_hot, Cold { extras, ..*new_cold }, kept.as_ref())?;
        drop(locked);
        let written = self.placed(key, placed);
        self.tell_renewed(key, EventKind::Switched, &cold.session_id, &written.entry);
        Ok(Repointed::Switched(written))
    }

    fn tell_renewed(&self, key: &SessionKey, kind: EventKind, old: &SessionId, new: &SessionEntry) {
        self.tell(key, CHANGES, || Told::of(kind, new.revision).session(Some(old), &new.session_id));
    }
}
