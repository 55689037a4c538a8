//! One whole entry into an open store, in one step with the decision whether it takes the place of what is there.

use std::sync::Arc;

use crate::codec::{AS_IMPORTED, Cold, Hot};
use crate::commit::{Peeked, Placed};
use crate::entry::{Extras, SessionEntry};
use crate::error::Result;
use crate::events::{CHANGES, EventKind, Told};
use crate::key::SessionKey;
use crate::rules::{entry, records};
use crate::store::{SessionStore, both};
use crate::unreadable::if_readable;

/// An entry that is there already.
pub(crate) struct Present<'a> {
    pub(super) entry: SessionEntry,
    /// An import wrote it, and nothing but its time of activity has changed since.
    pub(super) is_as_imported: bool,
    extras: &'a dyn Fn() -> Result<Extras>,
}

impl<'a> Present<'a> {
    fn of(key: &SessionKey, hot: &Hot, cold: &Cold, extras: &'a dyn Fn() -> Result<Extras>) -> Self {
        Self { entry: entry(key, hot, cold.clone()), is_as_imported: hot.is(AS_IMPORTED), extras }
    }

    /// Of a store that does not know whether an import wrote it.
    #[cfg(feature = "valkey")]
    pub(crate) fn unmarked(entry: SessionEntry, extras: &'a dyn Fn() -> Result<Extras>) -> Self {
        Self { entry, is_as_imported: false, extras }
    }

    /// Whether it is what the file says, to the letter. Reads its extras if nothing else differs.
    pub(super) fn is(&self, new: &SessionEntry, extras: &Extras) -> Result<bool> {
        let &SessionEntry { extras_bytes, revision, .. } = new;
        let same = SessionEntry { extras_bytes, revision, ..self.entry.clone() } == *new;
        Ok(same && (self.extras)()? == *extras)
    }
}

/// Asked about an entry that is there: whether the new one takes its place.
pub(crate) type Decide<'a> = &'a mut dyn FnMut(&Present<'_>) -> Result<bool>;

/// A store that is open, as an import needs it.
pub(crate) trait Holder {
    /// Puts an entry in place, or where there is one already and `replaces` says no, leaves it.
    fn place(&self, new: &SessionEntry, extras: &Extras, replaces: Decide<'_>) -> Result<()>;

    /// As [`place`](Self::place), but changes nothing.
    fn look(&self, key: &SessionKey, replaces: Decide<'_>) -> Result<()>;

    /// Keeps a note, unless there is one and it `stays`, or nothing is to be changed. Answers whether it is there as it was
    /// given.
    fn put_note(&self, name: String, text: String, stays: bool, dry_run: bool) -> Result<bool>;

    /// Remembers the time zone.
    fn put_zone(&self, zone: String) -> Result<()>;
}

impl Holder for SessionStore {
    fn place(&self, new: &SessionEntry, extras: &Extras, replaces: Decide<'_>) -> Result<()> {
        let mut locked = self.commits().lock(&new.key)?;
        let old = both(&locked)?;
        if let Some((hot, cold)) = &old {
            let old_extras = || locked.extras(cold);
            if !replaces(&Present::of(&new.key, hot, cold, &old_extras))? {
                return Ok(());
            }
        }
        let (hot, cold) = records(new.clone());
        let Placed { hot, cold, .. } = locked.put_imported(hot, cold, extras)?;
        drop(locked);
        self.commits().kick_if_full();
        self.tell(&new.key, CHANGES, || {
            let kind = if old.is_some() { EventKind::Replaced } else { EventKind::Created };
            Told::of(kind, hot.revision).session(old.as_ref().map(|(_, old)| &old.session_id), &cold.session_id)
        });
        Ok(())
    }

    fn look(&self, key: &SessionKey, replaces: Decide<'_>) -> Result<()> {
        let Some(Peeked { hot, cold, .. }) = self.commits().peek(key, false)? else { return Ok(()) };
        let extras = || Ok(self.commits().peek(key, true)?.map(|found| found.extras).unwrap_or_default());
        replaces(&Present::of(key, &hot, &Arc::unwrap_or_clone(cold), &extras)).map(drop)
    }

    fn put_note(&self, name: String, text: String, stays: bool, dry_run: bool) -> Result<bool> {
        // One that cannot be decoded is there, too.
        let there = if_readable(self.commits().engine()?.note(&name))?;
        if stays && there != Some(None) {
            return Ok(there == Some(Some(text)));
        }
        if !dry_run {
            self.commits().set_note(name, text)?;
        }
        Ok(true)
    }

    fn put_zone(&self, zone: String) -> Result<()> {
        // The entry that went in by it is to be there first.
        self.commits().apply_pending()?;
        self.commits().set_zone(zone)
    }
}
