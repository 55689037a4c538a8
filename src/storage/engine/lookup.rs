//! What a fingerprint leads to, and what a session id does.

use super::trees::engine_error;
use super::{Engine, damaged, damaged_at};
use crate::codec::{CodecError, Cold, Fingerprint, IdRow, decode_cold, id_prefix};
use crate::error::Result;
use crate::key::{SessionId, SessionKey};
use crate::unreadable::if_readable;

/// What there is at the end of the way from a fingerprint.
pub(in crate::storage) enum LookUp {
    Entry(Box<Cold>),
    Missing,
    /// A row on the path cannot be decoded, which is reported on its own.
    Unreadable,
}

pub(in crate::storage) fn look_up(engine: &Engine, entry: Fingerprint) -> Result<LookUp> {
    let Some(key) = if_readable(engine.key_of(entry))? else { return Ok(LookUp::Unreadable) };
    let Some(key) = key else { return Ok(LookUp::Missing) };
    Ok(match engine.stored_cold(&key)?.map(|stored| decode_cold(&stored.0)) {
        Some(Ok((cold, _))) => LookUp::Entry(Box::new(cold)),
        Some(Err(_)) => LookUp::Unreadable,
        None => LookUp::Missing,
    })
}

impl Engine {
    /// The keys whose entry on disk has this id. Each row that leads to one is read by itself.
    pub(crate) fn keys_of_id(&self, id: &SessionId) -> Result<Vec<Result<SessionKey>>> {
        let mut keys = Vec::new();
        for row in self.trees.by_session_id.scan_prefix(id_prefix(id)).keys() {
            let row = row.map_err(|e| engine_error("read", e))?;
            let entry = IdRow::decode(&row).map_err(|e| damaged_at("by_session_id", &row, e)).map(|row| row.entry);
            let key = entry.and_then(|entry| match self.key_of(entry)? {
                // The record of the entry comes before this row and goes after it.
                None if has(&self.trees.by_session_id, &row)? => Err(damaged("activity", &entry, CodecError::Missing)),
                key => Ok(key),
            });
            keys.extend(key.transpose());
        }
        Ok(keys)
    }
}

pub(in crate::storage) fn has(tree: &sled::Tree, row: impl AsRef<[u8]>) -> Result<bool> {
    tree.contains_key(row).map_err(|e| engine_error("read", e))
}

pub(in crate::storage) fn key(row: &[u8]) -> Result<SessionKey, CodecError> {
    Ok(SessionKey::new(std::str::from_utf8(row)?)?)
}
