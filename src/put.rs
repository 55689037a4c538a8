//! Writing a whole entry at a key of the gateway's own.

use crate::answer::Put;
use crate::codec::Cold;
use crate::entry::{Extras, Revision, SessionEntry};
use crate::error::{Error, Result};
use crate::events::{CHANGES, EventKind, Told};
use crate::rules::{entry, records};
use crate::store::{SessionStore, both};

/// What must be there for a [`put`](SessionStore::put) to go on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Expect {
    /// Whatever is there, or nothing.
    #[default]
    Any,
    /// Nothing.
    Absent,
    /// The entry of this revision.
    Revision(Revision),
}

impl Expect {
    pub(crate) fn is_met(self, found: Option<Revision>) -> bool {
        match self {
            Self::Any => true,
            Self::Absent => found.is_none(),
            Self::Revision(revision) => found == Some(revision),
        }
    }
}

impl SessionStore {
    /// Puts a whole entry in place, with its extras, if what is there is as expected; else it answers what is there.
    ///
    /// The entry's key says where. Its `revision` and `extras_bytes` are not read, and the answer has the new ones. Its
    /// `updated_at` is kept exactly, back or forth. A touch gives no new revision, so a put of what was read before may take
    /// one back. [`modify`](SessionStore::modify) keeps a touch that comes meanwhile.
    ///
    /// One step to all threads; costs the size of the entry. It waits for no sync; its commit makes one more where an extra
    /// is longer than 512 bytes. After a crash before the receipt is durable, the old entry or the new one is there, whole.
    ///
    /// ```
    /// use cloakroom::change::{Expect, Put};
    /// use cloakroom::{Extras, Options, SessionEntry, SessionId, SessionKey, SessionStore, Timestamp};
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("sessions.db");
    /// let store = SessionStore::open(Options::new(path).create(true))?;
    /// let key: SessionKey = "agent:main:cron:nightly".parse()?;
    /// let entry = SessionEntry::new(key, SessionId::new("run-1")?, Timestamp::from_micros(10));
    /// let Put::Created(written) = store.put(&entry, &Extras::default(), Expect::Absent)? else { unreachable!() };
    ///
    /// // Replaced only by a writer that has seen the newest revision.
    /// let seen = Expect::Revision(written.entry.revision);
    /// assert!(matches!(store.put(&entry, &Extras::default(), seen)?, Put::Replaced(_)));
    /// assert!(matches!(store.put(&entry, &Extras::default(), seen)?, Put::Unexpected(Some(_))));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::TooLarge`] if the entry would keep more than 1 MiB of JSON, [`Error::InvalidCost`] if its cost is not
    /// finite. Nothing is changed then.
    pub fn put(&self, new: &SessionEntry, extras: &Extras, expect: Expect) -> Result<Put> {
        self.put_over(new, extras, expect, |_, _| {})
    }

    /// As [`put`](SessionStore::put); `keep` carries over what is to stay of an entry that is replaced, which is locked.
    pub(crate) fn put_over(
        &self,
        new: &SessionEntry,
        extras: &Extras,
        expect: Expect,
        keep: impl FnOnce(&mut SessionEntry, &SessionEntry),
    ) -> Result<Put> {
        let cost = new.usage.estimated_cost_usd;
        if !cost.is_finite() {
            return Err(Error::InvalidCost { cost });
        }
        let mut locked = self.commits().lock(&new.key)?;
        let found = both(&locked)?;
        if !expect.is_met(found.as_ref().map(|(hot, _)| hot.revision)) {
            let found = found.map(|(hot, cold)| entry(&new.key, &hot, Cold::clone(&cold)));
            return Ok(Put::Unexpected(found));
        }
        let mut whole = new.clone();
        if let Some((hot, cold)) = &found {
            keep(&mut whole, &entry(&new.key, hot, Cold::clone(cold)));
        }
        let (hot, cold) = records(whole);
        let placed = locked.put(hot, cold, Some(extras))?;
        drop(locked);
        let is_new = found.is_none();
        let written = self.placed(&new.key, placed);
        self.tell(&new.key, CHANGES, || {
            let kind = if is_new { EventKind::Created } else { EventKind::Replaced };
            let old = found.as_ref().map(|(_, cold)| &cold.session_id);
            Told::of(kind, written.entry.revision).session(old, &written.entry.session_id)
        });
        Ok(if is_new { Put::Created(written) } else { Put::Replaced(written) })
    }
}
