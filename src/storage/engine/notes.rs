//! Notes: what an imported file kept under keys that begin with `_`.

use super::trees::engine_error;
use super::write::Writer;
use super::{Engine, damaged_at};
use crate::codec::{CodecError, NoteRow, chunk};
use crate::error::Result;
use crate::json;

impl Engine {
    /// The JSON text of a note.
    pub(crate) fn note(&self, name: &str) -> Result<Option<String>> {
        let _whole = self.notes.lock();
        let mut bytes = Vec::new();
        for (expected, row) in (0_u32..).zip(self.trees.meta.scan_prefix(NoteRow::prefix(name))) {
            let (row, value) = row.map_err(|e| engine_error("read notes", e))?;
            let part = NoteRow::decode(&row).and_then(|(_, number)| Ok((number, chunk(&value)?)));
            match part.map_err(|e| damaged_at("meta", &row, e))? {
                // A crash came before the first chunk was written.
                (number, _) if expected == 0 && number != 0 => return Ok(None),
                (number, _) if number != expected => {
                    return Err(damaged_at("meta", &row, CodecError::NoChunk(expected)));
                }
                (_, part) => bytes.extend_from_slice(part),
            }
        }
        if bytes.is_empty() {
            return Ok(None);
        }
        let place = NoteRow::prefix(name);
        let text = String::from_utf8(bytes).map_err(|e| damaged_at("meta", &place, e.utf8_error().into()))?;
        // The end of it may be missing.
        json::normal(&text).map_err(|_| damaged_at("meta", &place, CodecError::NoJson))?;
        Ok(Some(text))
    }

    /// All notes with their texts, in the order of their names. One that cannot be decoded is an error of its own, and
    /// the others follow.
    pub(crate) fn notes(&self) -> impl Iterator<Item = Result<(String, String)>> {
        let mut start = Some(NoteRow::ALL.to_vec());
        std::iter::from_fn(move || {
            loop {
                let name = match self.next_note(start.take()?)? {
                    Ok((name, next)) => {
                        start = Some(next);
                        name
                    }
                    Err(error) => return Some(Err(error)),
                };
                match name.and_then(|name| Ok(self.note(&name)?.map(|text| (name, text)))) {
                    Ok(None) => {}
                    Ok(Some(note)) => return Some(Ok(note)),
                    Err(error) => return Some(Err(error)),
                }
            }
        })
    }

    /// The name of the first note from the row `start` on, and where the next one begins. `None` after the last.
    fn next_note(&self, start: Vec<u8>) -> Option<Result<(Result<String>, Vec<u8>)>> {
        let _whole = self.notes.lock();
        let row = match self.trees.meta.range(start..).keys().next()? {
            Ok(row) => row,
            Err(error) => return Some(Err(engine_error("read notes", error))),
        };
        if !row.starts_with(NoteRow::ALL) {
            return None;
        }
        Some(Ok(match NoteRow::decode(&row) {
            Ok((name, _)) => (Ok(name.into()), NoteRow::after(name)),
            Err(error) => (Err(damaged_at("meta", &row, error)), [&row[..], &[0]].concat()),
        }))
    }
}

impl Writer {
    /// Keeps a note of an imported file in place of the one of that name.
    pub(crate) fn set_note(&mut self, engine: &Engine, name: &str, text: &str) -> Result<()> {
        let _whole = engine.notes.lock();
        for row in engine.trees.meta.scan_prefix(NoteRow::prefix(name)).keys() {
            let row = row.map_err(|e| engine_error("read notes", e))?;
            self.remove(engine, &engine.trees.meta, row)?;
        }
        // The first chunk goes last: without it a note is not there, so a crash leaves no half of one.
        for (row, value) in NoteRow::encode_all(name, text).into_iter().rev() {
            self.insert(engine, &engine.trees.meta, row, &value)?;
        }
        Ok(())
    }
}
