//! One atomic change of an entry: anything in it, its extras included, and the touch that goes with a message.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde_json::Value;

use crate::answer::Modified;
use crate::codec::{Cold, Hot};
use crate::commit::{EntryLock, Placed};
use crate::entry::{SessionEntry, Touch};
use crate::error::{Error, Result};
use crate::events::{CHANGES, EventKind, TOUCHES, Told, UPDATES};
use crate::json;
use crate::key::SessionKey;
use crate::random;
use crate::rules::{self, Edited, entry};
use crate::store::{SessionStore, both};
use crate::time::Timestamp;

/// What is to become of a [`Draft`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Edit {
    /// Write it.
    Write,
    /// Leave the entry as it is; it is not touched either.
    Keep,
    /// Remove the entry.
    Remove,
}

/// Reads one of the extras that are there.
type ReadExtra<'a> = dyn Fn(&str) -> Result<Option<String>> + Send + Sync + 'a;

/// An entry in the making, see [`SessionStore::modify`].
pub struct Draft<'a> {
    /// The entry as it is to be. Its key, `revision` and `extras_bytes` are not read.
    pub entry: SessionEntry,
    is_new: bool,
    read: &'a ReadExtra<'a>,
    /// What is new: a JSON text, or `None` for what goes.
    extras: BTreeMap<String, Option<String>>,
}

impl fmt::Debug for Draft<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Draft").field("entry", &self.entry).field("is_new", &self.is_new).finish_non_exhaustive()
    }
}

impl<'a> Draft<'a> {
    pub(crate) fn new(entry: SessionEntry, is_new: bool, read: &'a ReadExtra<'a>) -> Self {
        Self { entry, is_new, read, extras: BTreeMap::new() }
    }

    /// The entry as it is to be, and what is new of its extras.
    pub(crate) fn into_parts(self) -> (SessionEntry, BTreeMap<String, Option<String>>) {
        (self.entry, self.extras)
    }

    /// Whether the key has no entry yet: then `entry` is a fresh one, with a new id and zero counters.
    #[must_use]
    pub fn is_new(&self) -> bool {
        self.is_new
    }

    /// One of the extras, as it is to be, as a JSON text. Costs the size of that text.
    pub fn extra(&self, name: &str) -> Result<Option<String>> {
        match self.extras.get(name) {
            Some(changed) => Ok(changed.clone()),
            None if self.is_new => Ok(None),
            None => (self.read)(name),
        }
    }

    /// Sets one of the extras.
    pub fn set_extra(&mut self, name: impl Into<String>, value: &Value) {
        self.extras.insert(name.into(), Some(value.to_string()));
    }

    /// Sets one of the extras to a JSON text, as [`Extras::insert_text`](crate::Extras::insert_text) does. Returns whether it is one.
    #[must_use]
    pub fn set_extra_text(&mut self, name: impl Into<String>, text: &str) -> bool {
        let Ok(normal) = json::normal_field(text) else { return false };
        self.extras.insert(name.into(), Some(normal));
        true
    }

    /// Removes one of the extras.
    pub fn remove_extra(&mut self, name: impl Into<String>) {
        self.extras.insert(name.into(), None);
    }
}

impl SessionStore {
    /// Changes anything of an entry in one step: id, times, flags, counters, details, extras; or makes one where there is
    /// none, or removes it. Where the draft has nothing new, nothing is written.
    ///
    /// `change` is given a [`Draft`] and says what is to become of it. It runs with no lock held, and is run again if the
    /// entry was changed meanwhile. So it may be run any number of times, and should decide by the draft alone. A touch
    /// meanwhile does not make it run again, and is kept, unless the draft sets another `updated_at` or `last_interaction`.
    ///
    /// It reads the whole entry, without its extras. Where only `updated_at`, flags and counters are new, it writes as
    /// little as a touch. Extras cost the size of those that are new. After a crash before the receipt is durable, the old entry or the new one is there, whole.
    ///
    /// ```
    /// use cloakroom::change::{Edit, Modified, Touch};
    /// use cloakroom::{Options, SessionKey, SessionStore};
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("sessions.db");
    /// let store = SessionStore::open(Options::new(path).create(true))?;
    /// let key: SessionKey = "agent:main:discord:dm:1234".parse()?;
    /// // As a message needs it: touched, counted, and one of the gateway's own fields kept up to date.
    /// let done = store.modify(&key, Touch::Yes, |draft| {
    ///     draft.entry.usage.last_prompt_tokens = 812;
    ///     draft.set_extra("model_override", &serde_json::json!({"model": "small"}));
    ///     Edit::Write
    /// })?;
    /// let Modified::Created(written) = done else { unreachable!() };
    /// written.receipt.wait()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::TooLarge`] if the entry would keep more than 1 MiB of JSON, [`Error::InvalidCost`] if its cost is not
    /// finite.
    pub fn modify(
        &self,
        key: &SessionKey,
        touch: Touch,
        mut change: impl FnMut(&mut Draft<'_>) -> Edit,
    ) -> Result<Modified> {
        loop {
            let seen = self.commits().peek(key, false)?;
            let revision = seen.as_ref().map(|seen| seen.hot.revision);
            let is_new = seen.is_none();
            let old = match seen {
                Some(seen) => entry(key, &seen.hot, Arc::unwrap_or_clone(seen.cold)),
                None => {
                    let now = self.now();
                    SessionEntry::new(key.clone(), random::session_id(now)?, now)
                }
            };
            let read = |name: &str| self.extra(key, name);
            let mut draft = Draft::new(old.clone(), is_new, &read);
            let edit = change(&mut draft);
            let (mut new, extras) = draft.into_parts();
            if edit == Edit::Keep {
                return Ok(Modified::Kept((!is_new).then_some(old)));
            }
            let cost = new.usage.estimated_cost_usd;
            if !cost.is_finite() {
                return Err(Error::InvalidCost { cost });
            }
            let (mut locked, now) = self.lock_to_touch(key)?;
            let found = both(&locked)?;
            if found.as_ref().map(|(hot, _)| hot.revision) != revision {
                continue;
            }
            if edit == Edit::Remove {
                let Some((_, gone)) = found else { return Ok(Modified::Kept(None)) };
                return Ok(Modified::Removed(self.remove_locked(key, locked, &gone)));
            }
            if let Some((hot, _)) = &found {
                // They may have been moved since by a message, or set right.
                rules::keep_times(&mut new, &old, hot);
            }
            let touched_at = (touch == Touch::Yes).then_some(now);
            let Some(placed) = write(&mut locked, found, new, &extras, touched_at)? else {
                return Ok(Modified::Kept(Some(old)));
            };
            drop(locked);
            let written = self.placed(key, placed);
            if is_new {
                let now = &written.entry;
                self.tell(key, CHANGES, || Told::of(EventKind::Created, now.revision).session(None, &now.session_id));
                return Ok(Modified::Created(written));
            }
            self.tell(key, CHANGES | UPDATES | TOUCHES, || Told::of_change(&old, &written.entry));
            return Ok(Modified::Changed(written));
        }
    }
}

/// Writes what is new, and no more. `None` if nothing is.
fn write(
    locked: &mut EntryLock<'_>,
    found: Option<(Hot, Arc<Cold>)>,
    new: SessionEntry,
    changed: &BTreeMap<String, Option<String>>,
    touched_at: Option<Timestamp>,
) -> Result<Option<Placed>> {
    let there = found.as_ref().map(|(hot, cold)| (hot, &**cold));
    let (hot, cold) = match rules::edited(there, new, !changed.is_empty(), touched_at) {
        Edited::Nothing => return Ok(None),
        Edited::Both(hot, cold) if changed.is_empty() && found.is_some() => {
            return locked.put(hot, *cold, None).map(Some);
        }
        Edited::Both(hot, cold) => return locked.change_extras(hot, *cold, changed).map(Some),
        Edited::Hot(hot) => (hot, found),
    };
    let Some((_, cold)) = cold else { return Ok(None) };
    let commit = locked.set_hot(hot);
    // What was set, with the revision that it was given.
    Ok(Some(Placed { hot: locked.hot().unwrap_or(hot), cold, commit }))
}
