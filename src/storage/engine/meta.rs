//! What the tree `meta` says of a store, value by value. Notes of imported files are in it too: see `notes.rs`.

use super::change::encode_error;
use super::trees::{engine_error, meta};
use super::write::Writer;
use super::{Engine, damaged};
use crate::codec::{ClockNote, decode_meta, encode_meta};
use crate::error::Result;

impl Engine {
    /// The time zone that an import used.
    pub(crate) fn zone(&self) -> Result<Option<String>> {
        self.meta_value(meta::ZONE)
    }

    /// What the store remembers of its clock. A record that does not decode counts as none: it protects nothing that
    /// the next pass does not.
    pub(crate) fn clock_note(&self) -> Result<ClockNote> {
        let value = self.trees.meta.get(meta::CLOCK).map_err(|e| engine_error("read", e))?;
        let note = value.map(|value| ClockNote::decode(&value)).transpose();
        Ok(note
            .unwrap_or_else(|error| {
                tracing::warn!(%error, "cannot decode the note of the clock, which is passed over");
                None
            })
            .unwrap_or_default())
    }

    pub(in crate::storage) fn meta_value<T: serde::de::DeserializeOwned>(
        &self,
        name: &'static str,
    ) -> Result<Option<T>> {
        let value = self.trees.meta.get(name).map_err(|e| engine_error("read", e))?;
        value.map(|value| decode_meta(&value)).transpose().map_err(|e| damaged("meta", &name, e))
    }
}

impl Writer {
    /// Remembers the time zone of an import.
    pub(crate) fn set_zone(&mut self, engine: &Engine, zone: &str) -> Result<()> {
        self.put_meta(engine, meta::ZONE, &zone)
    }

    /// Remembers what the clock said, or forgets it.
    pub(crate) fn set_clock_note(&mut self, engine: &Engine, note: &ClockNote) -> Result<()> {
        if *note == ClockNote::default() {
            return self.remove(engine, &engine.trees.meta, meta::CLOCK);
        }
        let value = note.encode().map_err(encode_error)?;
        self.insert(engine, &engine.trees.meta, meta::CLOCK, &value)
    }

    pub(in crate::storage) fn put_meta<T: serde::Serialize>(
        &mut self,
        engine: &Engine,
        name: &'static str,
        value: &T,
    ) -> Result<()> {
        let value = encode_meta(value).map_err(encode_error)?;
        self.insert(engine, &engine.trees.meta, name, &value)
    }
}
