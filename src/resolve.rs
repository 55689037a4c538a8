//! The verbs that start a session: for a message, for a user who asks, or in place of one that ended.

use std::fmt;
use std::sync::Arc;

use crate::answer::{ReplaceReason, Repointed, Resolution, Resolved, Written};
use crate::codec::{Cold, Hot, PINNED, SUSPENDED};
use crate::commit::EntryLock;
use crate::entry::{Details, KeepExtras, SessionEntry, Touch, Usage};
use crate::error::{Error, Result};
use crate::events::{CHANGES, EventKind, TOUCHES, Told};
use crate::key::{SessionId, SessionKey};
use crate::meter;
use crate::random;
use crate::source::SessionSource;
use crate::store::{SessionStore, both, entry, touched_by_message};
use crate::time::Timestamp;

/// Makes the id of a session that begins at a time.
type MakeId<'a> = &'a (dyn Fn(Timestamp) -> SessionId + 'a);

/// How [`SessionStore::resolve_as`] finds a session or starts one.
///
/// ```
/// use cloakroom::change::{Resolve, Touch};
/// use cloakroom::SessionId;
/// // A gateway with ids of its own, which only looks after its sessions here.
/// let id = |_| SessionId::new("20260612_000653_3f9a01c2").unwrap();
/// let how = Resolve::new().id_with(&id).touch(Touch::No);
/// ```
#[derive(Clone, Default)]
pub struct Resolve<'a> {
    pub(crate) source: Option<&'a SessionSource>,
    make_id: Option<MakeId<'a>>,
    fresh: bool,
    touch: Touch,
    keep: KeepExtras,
}

impl fmt::Debug for Resolve<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { fresh, touch, keep, .. } = self;
        f.debug_struct("Resolve")
            .field("fresh", fresh)
            .field("touch", touch)
            .field("keep", keep)
            .finish_non_exhaustive()
    }
}

impl<'a> Resolve<'a> {
    /// Touches the session, or starts one with an id of the store's own.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Where the message comes from: the details of a session that starts. Without it a new entry has none, and one that
    /// is replaced passes on its own.
    #[must_use]
    pub fn source(mut self, source: &'a SessionSource) -> Self {
        self.source = Some(source);
        self
    }

    /// Makes the id of a session that starts. It is called with no lock held, and its id may come to no use, if another
    /// thread is first.
    #[must_use]
    pub fn id_with(mut self, make_id: &'a (dyn Fn(Timestamp) -> SessionId + 'a)) -> Self {
        self.make_id = Some(make_id);
        self
    }

    /// Starts a fresh session even where there is one, as [`reset`](SessionStore::reset) does.
    #[must_use]
    pub fn fresh(mut self, fresh: bool) -> Self {
        self.fresh = fresh;
        self
    }

    /// Whether this counts as activity, which it does where nothing is said. A session that starts begins now in any
    /// case.
    #[must_use]
    pub fn touch(mut self, touch: Touch) -> Self {
        self.touch = touch;
        self
    }

    /// The extras that a session in the place of another keeps of it: none where nothing is said.
    #[must_use]
    pub fn keep(mut self, keep: KeepExtras) -> Self {
        self.keep = keep;
        self
    }

    /// An id of the gateway's making. Call it with no entry locked.
    pub(crate) fn make_id(&self, now: Timestamp) -> Option<SessionId> {
        self.make_id.map(|make_id| make_id(now))
    }

    /// The details of a session that starts in the place of `old`.
    fn details(&self, old: Option<&Details>) -> Details {
        match (self.source, old) {
            (Some(source), _) => Details::from_source(source.clone()),
            (None, Some(old)) => passed_on(old),
            (None, None) => Details::default(),
        }
    }
}

/// How [`SessionStore::repoint`] leads a key to another session.
#[derive(Debug, Clone, Default)]
pub struct Repoint {
    expected: Option<SessionId>,
    keep_usage: bool,
    keep: KeepExtras,
    touch: Touch,
}

impl Repoint {
    /// Touches the entry, whatever session it has, and begins the other with zero counters and no extras.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Does nothing unless this is the session that the key leads to.
    #[must_use]
    pub fn expected(mut self, id: SessionId) -> Self {
        self.expected = Some(id);
        self
    }

    /// The session goes on under another id: counters, details, flags and the time at which it began stay.
    #[must_use]
    pub fn keep_usage(mut self, keep: bool) -> Self {
        self.keep_usage = keep;
        self
    }

    /// The extras that stay: none where nothing is said.
    #[must_use]
    pub fn keep(mut self, keep: KeepExtras) -> Self {
        self.keep = keep;
        self
    }

    /// Whether this counts as activity, which it does where nothing is said.
    #[must_use]
    pub fn touch(mut self, touch: Touch) -> Self {
        self.touch = touch;
        self
    }
}

impl SessionStore {
    /// The entry for a message from `source`: touched if there is one, replaced by a fresh one if it is suspended,
    /// created if there is none. Concurrent calls for one key make one entry.
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
        let reason = match &found {
            Some((hot, _)) if hot.is(SUSPENDED) => Some(ReplaceReason::Suspended),
            Some(_) if how.fresh => Some(ReplaceReason::Requested),
            Some(_) => due,
            None => None,
        };
        if let Some((hot, cold)) = &found
            && reason.is_none()
        {
            return Ok(Some(self.found(locked, key, *hot, cold, (how.touch == Touch::Yes).then_some(now))));
        }
        let id = match id {
            Some(id) => id,
            None if how.make_id.is_some() => return Ok(None),
            None => random::session_id(now)?,
        };
        let (Some((hot, cold)), Some(reason)) = (found, reason) else {
            let cold = Cold { session_id: id, created_at: now, details: how.details(None), extras: None };
            let placed = locked.put(Hot::fresh(now), cold, None)?;
            drop(locked);
            let Written { entry, receipt } = self.placed(key, placed);
            self.tell(key, CHANGES, || Told::of(EventKind::Created, entry.revision).session(None, &entry.session_id));
            return Ok(Some(Resolved { entry, resolution: Resolution::Created, receipt }));
        };
        let had_activity = hot.usage != Usage::ZERO;
        let by_rule = (reason != ReplaceReason::Requested).then_some(reason);
        let details = Details {
            is_fresh_reset: by_rule.is_none(),
            was_auto_reset: by_rule.is_some(),
            auto_reset_reason: by_rule.map(|reason| reason.as_str().into()),
            reset_had_activity: had_activity,
            prev_session_id: Some(cold.session_id.clone()),
            ..how.details(Some(&cold.details))
        };
        let extras = how.keep.of(|| locked.extras(&cold))?;
        let (hot, new) = renewed(&hot, id, details, now);
        let placed = locked.put(hot, new, Some(&extras))?;
        drop(locked);
        let resolution = Resolution::Replaced { reason, previous: cold.session_id.clone(), had_activity };
        let Written { entry, receipt } = self.placed(key, placed);
        self.tell_renewed(key, EventKind::Reset { reason: by_rule }, &cold.session_id, &entry);
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
            meter::touched();
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
        let id = random::session_id(self.now())?;
        let (mut locked, now) = self.lock_to_touch(key)?;
        let Some((hot, cold)) = both(&locked)? else { return Ok(None) };
        let details = Details { is_fresh_reset: true, ..successor(&hot, &cold) };
        let extras = keep.of(|| locked.extras(&cold))?;
        let (hot, new) = renewed(&hot, id, details, now);
        let placed = locked.put(hot, new, Some(&extras))?;
        drop(locked);
        let written = self.placed(key, placed);
        self.tell_renewed(key, EventKind::Reset { reason: None }, &cold.session_id, &written.entry);
        Ok(Some(written))
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
        if how.expected.as_ref().is_some_and(|expected| *expected != cold.session_id) {
            return Ok(Repointed::Unexpected(there()));
        }
        if id == cold.session_id {
            return Ok(Repointed::Same(there()));
        }
        let (mut new_hot, new_cold) = if how.keep_usage {
            let details = Details { prev_session_id: Some(cold.session_id.clone()), ..cold.details.clone() };
            (hot, Cold { session_id: id, details, ..Cold::clone(&cold) })
        } else {
            renewed(&hot, id, successor(&hot, &cold), now)
        };
        new_hot.updated_at = if how.touch == Touch::Yes { hot.updated_at.max(now) } else { hot.updated_at };
        if how.touch == Touch::No {
            new_hot.last_interaction = hot.last_interaction;
        }
        let kept = match how.keep {
            KeepExtras::All => None,
            _ => Some(how.keep.of(|| locked.extras(&cold))?),
        };
        let extras = cold.extras.clone().filter(|_| kept.is_none());
        let placed = locked.put(new_hot, Cold { extras, ..new_cold }, kept.as_ref())?;
        drop(locked);
        let written = self.placed(key, placed);
        self.tell_renewed(key, EventKind::Switched, &cold.session_id, &written.entry);
        Ok(Repointed::Switched(written))
    }

    fn tell_renewed(&self, key: &SessionKey, kind: EventKind, old: &SessionId, new: &SessionEntry) {
        self.tell(key, CHANGES, || Told::of(kind, new.revision).session(Some(old), &new.session_id));
    }
}

/// What stays of the details whatever the session.
fn passed_on(old: &Details) -> Details {
    Details {
        display_name: old.display_name.clone(),
        platform: old.platform.clone(),
        chat_type: old.chat_type.clone(),
        origin: old.origin.clone(),
        ..Details::default()
    }
}

/// The details of a session that takes the place of another.
fn successor(hot: &Hot, cold: &Cold) -> Details {
    Details {
        reset_had_activity: hot.usage != Usage::ZERO,
        prev_session_id: Some(cold.session_id.clone()),
        ..passed_on(&cold.details)
    }
}

/// The records of a fresh session in the place of an old one.
fn renewed(old: &Hot, id: SessionId, details: Details, now: Timestamp) -> (Hot, Cold) {
    let mut hot = Hot::fresh(now.max(old.updated_at));
    // These are the conversation's.
    hot.set(PINNED, old.is(PINNED));
    hot.last_interaction = old.last_interaction.map(|_| hot.updated_at);
    (hot, Cold { session_id: id, created_at: now, details, extras: None })
}
