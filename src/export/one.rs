//! One entry in a gateway's own JSON.

use crate::error::Result;
use crate::gateway::{Gateway, Times, write_entry};
use crate::json;
use crate::key::SessionKey;
use crate::store::SessionStore;
use crate::zone::TimeZone;

impl SessionStore {
    /// An entry with its extras as the gateway's own JSON, on one line, as [`export`](SessionStore::export) writes it. What
    /// [`put_json`](SessionStore::put_json) or an import read comes out equal. Costs the size of the extras.
    ///
    /// Naive times are those of the zone that the store remembers, or of the machine's where it remembers none.
    ///
    /// # Errors
    /// [`Error::LocalTimeZone`](crate::Error::LocalTimeZone) if no zone is known and the gateway is Hermes, which writes
    /// naive times; and the errors of the store.
    pub fn get_json(&self, key: &SessionKey, gateway: Gateway) -> Result<Option<String>> {
        let Some((mut entry, extras)) = self.get_with_extras(key)? else { return Ok(None) };
        let zone = match gateway {
            Gateway::Hermes => self.home_zone()?.1?,
            // It writes milliseconds since 1970.
            Gateway::OpenClaw => TimeZone::UTC,
        };
        let fields = write_entry(&mut entry, &extras, Times { gateway, zone: &zone });
        Ok(Some(object(&fields)))
    }
}

/// Fields as an object on one line.
pub(super) fn object(fields: &[(String, String)]) -> String {
    let fields: Vec<String> = fields.iter().map(|(name, text)| format!("{}:{text}", json::quote(name))).collect();
    format!("{{{}}}", fields.join(","))
}
