//! The tree of turn markers: small, since it holds only turns that have not ended.
//!
//! A marker is a plain write. It names the session it belongs to, so one that a crash leaves without its entry, or
//! with another session in its place, means nothing: it is an orphan, harmless, and cleared at the next recovery.

use super::Engine;
use super::change::encode_error;
use super::trees::engine_error;
use super::write::Writer;
use crate::codec::{Fingerprint, Turn, whole_fingerprint};
use crate::error::Result;

impl Engine {
    /// All markers, each read by itself.
    pub(crate) fn turns(&self) -> Result<Vec<Result<(Fingerprint, Turn)>>> {
        let mut turns = Vec::new();
        for row in self.trees.turns.iter() {
            let (row, value) = row.map_err(|e| engine_error("read turns", e))?;
            let turn = Turn::of_row(&row, &value);
            turns.push(turn.map_err(|error| self.damaged_row("turns", &row, whole_fingerprint(&row).ok(), error)));
        }
        Ok(turns)
    }
}

impl Writer {
    /// Sets or removes the markers of entries. They are durable after [`Writer::sync`].
    pub(crate) fn apply_turns(&mut self, engine: &Engine, turns: &[(Fingerprint, Option<Turn>)]) -> Result<()> {
        for (entry, turn) in turns {
            let value = turn.as_ref().map(Turn::encode).transpose().map_err(encode_error)?;
            self.write(engine, &engine.trees.turns, entry.as_bytes(), value.as_deref())?;
        }
        Ok(())
    }
}
