//! Tells which parts of extras the entries need.

use std::collections::BTreeMap;

use super::Engine;
use super::extras::PartsOf;
use crate::codec::{Cold, Field, Fingerprint};
use crate::error::Result;
use crate::unreadable::if_readable;

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
