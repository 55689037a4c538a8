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

/// An entry that is there already.
pub(super) struct Present<'a> {
    pub(super) entry: SessionEntry,
    /// An import wrote it, and nothing but its time of activity has changed since.
    pub(super) is_as_imported: bool,
    extras: &'a dyn Fn() -> Result<Extras>,
}

impl<'a> Present<'a> {
    fn new(key: &SessionKey, hot: &Hot, cold: &Cold, extras: &'a dyn Fn() -> Result<Extras>) -> Self {
        Self { entry: entry(key, hot, cold.clone()), is_as_imported: hot.is(AS_IMPORTED), extras }
    }

    /// Whether it is what the file says, to the letter. Reads its extras if nothing else differs.
    pub(super) fn is(&self, new: &SessionEntry, extras: &Extras) -> Result<bool> {
        let &SessionEntry { extras_bytes, revision, .. } = new;
        let same = SessionEntry { extras_bytes, revision, ..self.entry.clone() } == *new;
        Ok(same && (self.extras)()? == *extras)
    }
}

/// Asked about an entry that is there: whether the new one takes its place.
pub(super) type Decide<'a> = &'a mut dyn FnMut(&Present<'_>) -> Result<bool>;

/// Puts an entry in place, or where there is one already and `replaces` says no, leaves it.
pub(super) fn place(store: &SessionStore, new: &SessionEntry, extras: &Extras, replaces: Decide<'_>) -> Result<()> {
    let mut locked = store.commits().lock(&new.key)?;
    let old = both(&locked)?;
    if let Some((hot, cold)) = &old {
        let old_extras = || locked.extras(cold);
        if !replaces(&Present::new(&new.key, hot, cold, &old_extras))? {
            return Ok(());
        }
    }
    let (hot, cold) = records(new.clone());
    let Placed { hot, cold, commit } = locked.put_imported(hot, cold, extras)?;
    drop(locked);
    store.commits().receipt(commit);
    store.tell(&new.key, CHANGES, || {
        let kind = if old.is_some() { EventKind::Replaced } else { EventKind::Created };
        Told::of(kind, hot.revision).session(old.as_ref().map(|(_, old)| &old.session_id), &cold.session_id)
    });
    Ok(())
}

/// As [`place`], but changes nothing.
pub(super) fn look(store: &SessionStore, key: &SessionKey, replaces: Decide<'_>) -> Result<()> {
    let Some(Peeked { hot, cold, .. }) = store.commits().peek(key, false)? else { return Ok(()) };
    let extras = || Ok(store.commits().peek(key, true)?.map(|found| found.extras).unwrap_or_default());
    replaces(&Present::new(key, &hot, &Arc::unwrap_or_clone(cold), &extras)).map(drop)
}
