//! What a fingerprint leads to.

use super::Engine;
use super::trees::engine_error;
use crate::codec::{CodecError, Cold, Fingerprint, decode_cold};
use crate::error::Result;
use crate::key::SessionKey;
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

pub(in crate::storage) fn has(tree: &sled::Tree, row: impl AsRef<[u8]>) -> Result<bool> {
    tree.contains_key(row).map_err(|e| engine_error("read", e))
}

pub(in crate::storage) fn key(row: &[u8]) -> Result<SessionKey, CodecError> {
    Ok(SessionKey::new(std::str::from_utf8(row)?)?)
}
