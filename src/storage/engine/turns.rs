//! The tree of turn markers: small, since it holds only turns that have not ended.
//!
//! A marker is a plain write. It names the session it belongs to, so one that a crash leaves without its entry, or
//! with another session in its place, means nothing: it is an orphan, harmless, and cleared at the next recovery.

use super::trees::engine_error;
use super::write::Writer;
use super::{Engine, damaged, damaged_at};
use crate::codec::{Fingerprint, Turn, whole_fingerprint};
use crate::error::{Error, Result};

impl Engine {
    /// All markers, each read by itself.
    pub(crate) fn turns(&self) -> Result<Vec<Result<(Fingerprint, Turn)>>> {
        let mut turns = Vec::new();
        for row in self.trees.turns.iter() {
            let (row, value) = row.map_err(|e| engine_error("read turns", e))?;
            turns.push(match whole_fingerprint(&row) {
                Ok(entry) => {
                    Turn::decode(&value).map(|turn| (entry, turn)).map_err(|e| damaged("turns", &self.shown(entry), e))
                }
                Err(error) => Err(damaged_at("turns", &row, error)),
            });
        }
        Ok(turns)
    }
}

impl Writer {
    /// Sets or removes the markers of entries. They are durable after [`Writer::sync`].
    pub(crate) fn apply_turns(&mut self, engine: &Engine, turns: &[(Fingerprint, Option<Turn>)]) -> Result<()> {
        for (entry, turn) in turns {
            match turn {
                Some(turn) => {
                    let value =
                        turn.encode().map_err(|e| Error::Engine { action: "encode a record", source: Box::new(e) })?;
                    self.insert(engine, &engine.trees.turns, entry.as_bytes(), &value)?;
                }
                None => self.remove(engine, &engine.trees.turns, entry.as_bytes())?,
            }
        }
        Ok(())
    }
}
