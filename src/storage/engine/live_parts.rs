//! Tells which parts of extras the entries need, and whether those are whole.

use std::collections::BTreeMap;

use super::Engine;
use super::extras::PartsOf;
use crate::codec::{CodecError, Cold, Field, Fingerprint, assemble, decode_cold};
use crate::error::{Result, with_causes};
use crate::key::SessionKey;
use crate::unreadable::{Unreadable, if_readable};

/// Tells which generations an entry needs. Remembers the base it read last, since rows of one entry follow each other.
#[derive(Default)]
pub(in crate::storage) struct LiveParts(Option<(u64, Option<BTreeMap<u64, String>>)>);

impl LiveParts {
    /// Whether `cold`, the record of `entry`, needs `generation`. Where its base cannot be read, any may be needed.
    pub(in crate::storage) fn needs(
        &mut self,
        engine: &Engine,
        entry: Fingerprint,
        cold: &Cold,
        generation: u64,
    ) -> Result<bool> {
        let Some(index) = &cold.extras else { return Ok(false) };
        if index.named().any(|at| at.generation == generation) {
            return Ok(true);
        }
        let Some(at) = index.base else { return Ok(false) };
        if self.0.as_ref().is_none_or(|(last, _)| *last != at.generation) {
            let Some(key) = engine.key_of(entry)? else { return Ok(false) };
            let base = if_readable(PartsOf { engine, key: &key, waiting: None }.base(at))?;
            let stored = |(name, field): (String, Field)| Some((field.stored()?.generation, name));
            self.0 = Some((at.generation, base.map(|base| base.fields.into_iter().filter_map(stored).collect())));
        }
        Ok(match &self.0 {
            Some((_, Some(stored))) => stored.get(&generation).is_some_and(|name| !index.changed.contains_key(name)),
            _ => true,
        })
    }
}

impl Engine {
    /// Whether an entry's extras, and details that were spilled into them, are whole. The inner error says what is
    /// wrong, as `verify` does.
    pub(in crate::storage) fn check_extras(&self, key: &SessionKey, value: &[u8]) -> Result<Result<(), String>> {
        let (cold, spilled) = match decode_cold(value) {
            Ok(decoded) => decoded,
            Err(error) => return Ok(Err(with_causes(&error))),
        };
        let damaged = |error| super::damaged("extras", key, error);
        let index = cold.extras.unwrap_or_default();
        let whole = PartsOf { engine: self, key, waiting: None }.all(Some(&index)).and_then(|parts| {
            let part = |generation| parts.get(&generation).map(|part| &**part);
            let (details, extras) = assemble(&index, part).map_err(damaged)?;
            let (found, expected) = (extras.bytes(), usize::try_from(index.bytes).unwrap_or(usize::MAX));
            match details {
                None if spilled => Err(super::damaged("sessions", key, CodecError::NoDetails)),
                _ if found != expected => Err(damaged(CodecError::ExtrasLength { found, expected })),
                _ => Ok(()),
            }
        });
        Ok(Unreadable::split(whole)?.map_err(|record| record.reason))
    }
}
