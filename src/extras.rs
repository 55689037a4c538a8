//! One of an entry's extras, some, or all of them.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::codec::Cold;
use crate::commit::{Placed, Receipt};
use crate::entry::Extras;
use crate::error::{Error, Result};
use crate::events::{EventKind, Told, UPDATES};
use crate::json;
use crate::key::SessionKey;
use crate::store::{SessionStore, both};

impl SessionStore {
    /// The JSON text of one of an entry's extras, as it was written; `None` if there is none of that name, or no such
    /// entry.
    ///
    /// It costs the size of that text, and a look at the names where an entry has more of them than its record has room
    /// for. Others that are large or damaged do not matter.
    ///
    /// # Errors
    /// [`Error::DamagedRecord`](crate::Error::DamagedRecord) if the text or the names cannot be read.
    pub fn extra(&self, key: &SessionKey, name: &str) -> Result<Option<String>> {
        let Some(locked) = self.commits().look(key)? else { return Ok(None) };
        let Some((_, cold)) = both(&locked)? else { return Ok(None) };
        locked.extra(&cold, name)
    }

    /// Sets one of an entry's extras; the others stay. `None` if there is no such entry. `updated_at` stays.
    ///
    /// It costs the size of the new text, however large the others are: a text of up to 512 bytes is written with the
    /// entry's record, a longer one apart from it. After a crash before the receipt is durable, the old text or the new
    /// one is there, whole.
    ///
    /// ```
    /// use cloakroom::{Options, SessionSource, SessionStore};
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("sessions.db");
    /// let store = SessionStore::open(Options::new(path).create(true))?;
    /// let key = store.resolve(&SessionSource { user_id: Some("ada".into()), ..SessionSource::default() })?.entry.key;
    /// store.set_extra(&key, "model", &"small".into())?;
    /// assert_eq!(store.extra(&key, "model")?.as_deref(), Some("\"small\""));
    /// store.remove_extra(&key, "model")?;
    /// assert_eq!(store.extra(&key, "model")?, None);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::TooLarge`](crate::Error::TooLarge) if the entry would keep more than 1 MiB of JSON.
    pub fn set_extra(&self, key: &SessionKey, name: &str, value: &Value) -> Result<Option<Receipt>> {
        self.change_extra(key, name, Some(value.to_string()))
    }

    /// As [`set_extra`](Self::set_extra), with a JSON text, whose numbers keep all their digits.
    ///
    /// # Errors
    /// [`Error::InvalidEntry`] if it is no JSON, or nests deeper than 63; and those of `set_extra`.
    pub fn set_extra_text(&self, key: &SessionKey, name: &str, text: &str) -> Result<Option<Receipt>> {
        let invalid = |error| Error::InvalidEntry { key: key.clone(), source: Box::new(error) };
        self.change_extra(key, name, Some(json::normal_field(text).map_err(invalid)?))
    }

    /// Removes one of an entry's extras; the others stay, and so does `updated_at`. `None` if there is no such entry,
    /// or it has none of this name. Costs a look at the names, and one at the record.
    pub fn remove_extra(&self, key: &SessionKey, name: &str) -> Result<Option<Receipt>> {
        self.change_extra(key, name, None)
    }

    /// Replaces all of an entry's extras: those that are not in `extras` are removed. `None` if there is no such entry.
    /// Costs the size of `extras`; `updated_at` stays.
    ///
    /// # Errors
    /// [`Error::TooLarge`](crate::Error::TooLarge) if they are more than 1 MiB of JSON.
    pub fn set_extras(&self, key: &SessionKey, extras: &Extras) -> Result<Option<Receipt>> {
        let mut locked = self.lock_to_change(key)?;
        let Some((hot, cold)) = both(&locked)? else { return Ok(None) };
        let placed = locked.put(hot, Cold::clone(&cold), Some(extras))?;
        drop(locked);
        Ok(Some(self.updated(key, &placed)))
    }

    /// Replaces an entry's metadata, which is one of its extras: as [`set_extra`](Self::set_extra) does.
    ///
    /// # Errors
    /// [`Error::TooLarge`](crate::Error::TooLarge) if the entry would keep more than 1 MiB of JSON.
    pub fn set_metadata(&self, key: &SessionKey, metadata: &Map<String, Value>) -> Result<Option<Receipt>> {
        self.set_extra(key, Extras::METADATA, &Value::Object(metadata.clone()))
    }

    fn change_extra(&self, key: &SessionKey, name: &str, text: Option<String>) -> Result<Option<Receipt>> {
        let mut locked = self.lock_to_change(key)?;
        let Some((hot, cold)) = both(&locked)? else { return Ok(None) };
        if text.is_none() && !locked.has_extra(&cold, name)? {
            return Ok(None);
        }
        let changes = BTreeMap::from([(name.to_owned(), text)]);
        let placed = locked.change_extras(hot, Cold::clone(&cold), &changes)?;
        drop(locked);
        Ok(Some(self.updated(key, &placed)))
    }

    /// Tells of a change that is made. Call it with no entry locked.
    fn updated(&self, key: &SessionKey, placed: &Placed) -> Receipt {
        self.tell(key, UPDATES, || Told::of(EventKind::Updated, placed.hot.revision));
        self.commits().receipt(placed.commit)
    }
}
