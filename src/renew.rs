//! The verbs that start a session: for a message, for a user who asks, or in place of one that ended.

use std::sync::Arc;

use crate::answer::{ReplaceReason, Resolution, Resolved};
use crate::codec::{Cold, Hot, SUSPENDED};
use crate::commit::{EntryLock, Receipt};
use crate::entry::{Details, KeepExtras, SessionEntry, Usage};
use crate::error::{Error, Result};
use crate::events::EventKind;
use crate::key::{SessionId, SessionKey};
use crate::meter;
use crate::source::SessionSource;
use crate::store::{SessionStore, both, entry, touched};
use crate::time::Timestamp;

impl SessionStore {
    /// The entry for a message from `source`: touched if there is one, replaced by a fresh one if it is suspended,
    /// created if there is none. Concurrent calls for one key make one entry.
    pub fn resolve(&self, source: &SessionSource) -> Result<Resolved> {
        let key = self.key_for(source)?;
        let (locked, now) = self.lock_to_touch(&key)?;
        self.resolve_locked(locked, &key, source, now, None)
    }

    /// The key of the conversation that `source` belongs to.
    pub(crate) fn key_for(&self, source: &SessionSource) -> Result<SessionKey> {
        SessionKey::for_source(source, self.key_policy()).map_err(Error::InvalidKey)
    }

    /// Resolves a locked entry; `due` says that a policy wants it replaced.
    pub(crate) fn resolve_locked(
        &self,
        mut locked: EntryLock<'_>,
        key: &SessionKey,
        source: &SessionSource,
        now: Timestamp,
        due: Option<ReplaceReason>,
    ) -> Result<Resolved> {
        let fresh_id = || new_session_id(now);
        let Some((hot, cold)) = both(&locked)? else {
            let cold = Cold {
                session_id: fresh_id()?,
                created_at: now,
                details: Details::from_source(source.clone()),
                extras: None,
            };
            let (entry, commit) = started(&mut locked, key, Hot::fresh(now), cold)?;
            drop(locked);
            self.listeners().tell(key, EventKind::Created);
            return Ok(Resolved { entry, resolution: Resolution::Created, receipt: self.commits().receipt(commit) });
        };
        let reason = if hot.is(SUSPENDED) { Some(ReplaceReason::Suspended) } else { due };
        let Some(reason) = reason else {
            let hot = touched(hot, now);
            let commit = locked.set_hot(hot);
            drop(locked);
            meter::touched();
            let receipt = self.commits().receipt(commit);
            return Ok(Resolved {
                entry: entry(key, &hot, Arc::unwrap_or_clone(cold)),
                resolution: Resolution::Existing,
                receipt,
            });
        };
        let had_activity = hot.usage != Usage::ZERO;
        let details = Details {
            was_auto_reset: true,
            auto_reset_reason: Some(reason.as_str().into()),
            reset_had_activity: had_activity,
            prev_session_id: Some(cold.session_id.clone()),
            ..Details::from_source(source.clone())
        };
        let (hot, new) = renewed(&hot, fresh_id()?, details, now);
        let (entry, commit) = started(&mut locked, key, hot, new)?;
        drop(locked);
        self.listeners().tell(key, EventKind::Reset { reason: Some(reason) });
        let resolution = Resolution::Replaced { reason, previous: cold.session_id.clone(), had_activity };
        Ok(Resolved { entry, resolution, receipt: self.commits().receipt(commit) })
    }

    /// Starts a fresh session, as the user asked: new id, zero counters, not suspended, no extras. Answers the entry.
    pub fn reset(&self, key: &SessionKey) -> Result<Option<(SessionEntry, Receipt)>> {
        self.reset_keeping(key, &KeepExtras::None)
    }

    /// Like [`reset`](SessionStore::reset), but some extras stay: a model or a label that the user chose, say. Costs the
    /// size of the extras.
    pub fn reset_keeping(&self, key: &SessionKey, keep: &KeepExtras) -> Result<Option<(SessionEntry, Receipt)>> {
        let id = new_session_id(self.now())?;
        self.renew(key, id, true, keep)
    }

    /// Points the key at another session, for instance one to be resumed: counters start at zero. Answers the entry.
    pub fn switch(&self, key: &SessionKey, id: SessionId) -> Result<Option<(SessionEntry, Receipt)>> {
        self.renew(key, id, false, &KeepExtras::None)
    }

    fn renew(
        &self,
        key: &SessionKey,
        id: SessionId,
        by_user: bool,
        keep: &KeepExtras,
    ) -> Result<Option<(SessionEntry, Receipt)>> {
        let (mut locked, now) = self.lock_to_touch(key)?;
        let Some((hot, cold)) = both(&locked)? else { return Ok(None) };
        let old = &cold.details;
        let details = Details {
            display_name: old.display_name.clone(),
            platform: old.platform.clone(),
            chat_type: old.chat_type.clone(),
            origin: old.origin.clone(),
            is_fresh_reset: by_user,
            reset_had_activity: hot.usage != Usage::ZERO,
            prev_session_id: Some(cold.session_id.clone()),
            ..Details::default()
        };
        let extras = keep.of(|| locked.extras(&cold))?;
        let (hot, new) = renewed(&hot, id, details, now);
        let commit = locked.put(hot, new, Some(&extras))?;
        let Some((hot, cold)) = both(&locked)? else { return Ok(None) };
        drop(locked);
        let entry = entry(key, &hot, Arc::unwrap_or_clone(cold));
        self.listeners().tell(key, if by_user { EventKind::Reset { reason: None } } else { EventKind::Switched });
        Ok(Some((entry, self.commits().receipt(commit))))
    }
}

/// The records of a fresh session in the place of an old one.
fn renewed(old: &Hot, id: SessionId, details: Details, now: Timestamp) -> (Hot, Cold) {
    let hot = Hot::fresh(now.max(old.updated_at));
    (hot, Cold { session_id: id, created_at: now, details, extras: None })
}

/// Puts a fresh session in place. Answers it as it is there: details that do not fit into its record are with its extras.
fn started(locked: &mut EntryLock<'_>, key: &SessionKey, hot: Hot, mut cold: Cold) -> Result<(SessionEntry, u64)> {
    let commit = locked.put(hot, cold.clone(), None)?;
    cold.extras = locked.cold()?.and_then(|there| there.extras.clone());
    Ok((entry(key, &hot, cold), commit))
}

/// A new id: date, time and 48 random bits, `20260612_000653_3f9a01c2d4e5`.
fn new_session_id(now: Timestamp) -> Result<SessionId> {
    let random = getrandom::u64().map_err(|e| Error::Random { message: e.to_string() })? >> 16;
    let time = chrono::DateTime::<chrono::Utc>::from(now).format("%Y%m%d_%H%M%S");
    SessionId::new(format!("{time}_{random:012x}")).map_err(Error::InvalidId)
}
