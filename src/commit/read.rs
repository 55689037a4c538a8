//! Reads what there is of an entry beside its hot record: in its slot, or on disk.

use std::sync::Arc;

use super::shard::Slot;
use crate::codec::{Cold, Parts};
use crate::entry::Extras;
use crate::error::Result;
use crate::key::SessionKey;
use crate::storage::{Engine, PartsOf};

/// Bytes of extras that count as one more pending entry.
const BYTES_PER_WEIGHT: usize = 256;
/// Cold records up to this size are kept in memory once they were read, in bytes.
const MAX_KEPT_BYTES: usize = 1024;
/// What a cold record counts that waits: it is in memory up to three times, with the names and texts in it.
const STRUCTURAL_WEIGHT: usize = 8;

/// The cold record of an entry that has a hot one: that in memory, or the one on disk, whose bytes its slot keeps.
pub(super) fn read_cold(engine: &Engine, key: &SessionKey, slot: Option<&Slot>) -> Result<Arc<Cold>> {
    if let Some(new) = slot.and_then(|slot| slot.cold.as_ref()) {
        return Ok(Arc::clone(&new.cold));
    }
    if let Some(stored) = slot.and_then(|slot| slot.stored.get()) {
        return Ok(Arc::new(engine.decode_cold(key, stored)?));
    }
    let stored = engine.stored_cold(key)?.ok_or_else(|| engine.missing_record("sessions", key))?;
    let cold = engine.decode_cold(key, &stored)?;
    if let Some(slot) = slot.filter(|_| stored.len() <= MAX_KEPT_BYTES) {
        // There is none yet, or it would have been taken.
        let _ = slot.stored.set(stored);
    }
    Ok(Arc::new(cold))
}

/// A cold record, and all parts of its extras.
pub(super) type Rest = (Arc<Cold>, Parts);

/// What there is of an entry beside its hot record, in memory or on disk.
pub(super) fn read_rest(engine: &Engine, key: &SessionKey, slot: Option<&Slot>) -> Result<Rest> {
    let cold = read_cold(engine, key, slot)?;
    let parts = parts_of(engine, key, slot).all(cold.extras.as_deref())?;
    Ok((cold, parts))
}

/// The extras in memory, or those on disk.
pub(super) fn read_extras(engine: &Engine, key: &SessionKey, cold: &Cold, slot: Option<&Slot>) -> Result<Extras> {
    parts_of(engine, key, slot).extras(cold.extras.as_deref())
}

/// Where the parts of an entry's extras are.
pub(super) fn parts_of<'a>(engine: &'a Engine, key: &'a SessionKey, slot: Option<&'a Slot>) -> PartsOf<'a> {
    PartsOf { engine, key, waiting: slot.and_then(|slot| slot.cold.as_ref()).map(|new| &new.parts) }
}

/// What a change of both records counts against the bound on pending ones.
pub(super) fn structural_weight(cold: &Cold, parts: &Parts) -> usize {
    let inline = cold.extras.as_ref().map_or(0, |extras| extras.inline_len());
    STRUCTURAL_WEIGHT + (inline + parts_bytes(parts)) / BYTES_PER_WEIGHT
}

/// Bytes of parts of extras.
pub(super) fn parts_bytes(parts: &Parts) -> usize {
    parts.values().map(|part| part.len()).sum()
}
