//! One entry in a gateway's own JSON, into an open store.

use super::bad::Bad;
use super::read::{Bounds, Fields, ReadEntry, read_entry};
use super::splitter::MAX_ENTRY_BYTES;
use crate::answer::Put;
use crate::error::{Error, Result};
use crate::gateway::{Gateway, Slot, Times};
use crate::json;
use crate::key::SessionKey;
use crate::put::Expect;
use crate::store::SessionStore;
use crate::time::Timestamp;
use crate::zone::TimeZone;

impl SessionStore {
    /// Puts an entry in place that a gateway wrote as JSON, as [`import`](SessionStore::import) reads it and
    /// [`get_json`](SessionStore::get_json) writes it, if what is there is as expected.
    ///
    /// All times are kept exactly. Where the text says no `updated_at` it is now, or OpenClaw's
    /// `lastInteractionAt` where the text says that. `pinned`, and with Hermes `last_interaction`, of which the text does
    /// not speak, stay as they are. Naive times are at home in the zone that the
    /// store remembers; where it remembers none yet, the machine's is taken and remembered. Otherwise as
    /// [`put`](SessionStore::put).
    ///
    /// # Errors
    /// [`Error::InvalidEntry`] if the text is no entry of this gateway, or names another key;
    /// [`Error::LocalTimeZone`] if a time is naive and no zone is known; [`Error::TooLarge`], and the errors of
    /// [`put`](SessionStore::put). Nothing is changed then.
    pub fn put_json(&self, key: &SessionKey, text: &str, gateway: Gateway, expect: Expect) -> Result<Put> {
        let (remembered, zone) = self.home_zone()?;
        // Where none is known it is of no account: a naive time is an error then.
        let any = TimeZone::UTC;
        let times_zone = zone.as_ref().unwrap_or(&any);
        let read = self
            .read_json(key, text, Times { gateway, zone: times_zone })
            .map_err(|bad| Error::InvalidEntry { key: key.clone(), source: Box::new(bad) })?;
        let ReadEntry { entry, extras, is_naive, .. } = read;
        let new_zone = match (is_naive, remembered) {
            (false, _) => None,
            (true, None) => Some(zone?),
            (true, Some(_)) => zone.map(|_| None)?,
        };
        let put = self.put_over(&entry, &extras, expect, |new, old| {
            new.pinned = old.pinned;
            if gateway == Gateway::Hermes {
                new.last_interaction = old.last_interaction;
            }
        })?;
        if let (Some(zone), Put::Created(_) | Put::Replaced(_)) = (new_zone, &put) {
            // The entry that went in by it is to be there first, as in an import.
            self.commits().apply_pending()?;
            self.commits().set_zone(zone.to_string())?;
        }
        Ok(put)
    }

    fn read_json(&self, key: &SessionKey, text: &str, times: Times<'_>) -> Result<ReadEntry, Bad> {
        if text.len() > MAX_ENTRY_BYTES {
            return Err(Bad::TooLong(text.len() as u64));
        }
        let fields = Fields::read(text)?;
        let named = times.gateway.fields().iter().find(|field| field.slot == Slot::Key);
        if let Some(named) = named.and_then(|field| fields.text(field.name))
            && named != "null"
            && json::string(named).as_deref() != Some(key.as_str())
        {
            return Err(Bad::OtherKey);
        }
        let bounds = Bounds { file_time: self.now(), latest: Timestamp::MAX };
        read_entry(key.clone(), &fields, times, bounds)
    }
}
