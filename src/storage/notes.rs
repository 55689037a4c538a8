//! Notes: what an imported file kept under keys that begin with `_`.

use super::{Engine, damaged_row, engine_error};
use crate::codec::NoteRow;
use crate::error::Result;

impl Engine {
    /// The JSON text of a note.
    pub(crate) fn note(&self, name: &str) -> Result<Option<String>> {
        let _whole = self.notes.lock();
        let mut bytes = Vec::new();
        for row in self.trees.meta.scan_prefix(NoteRow::prefix(name)) {
            let (row, value) = row.map_err(|e| engine_error("read notes", e))?;
            let (_, chunk) = NoteRow::decode(&row).map_err(|e| damaged_row("note", e))?;
            if bytes.is_empty() && chunk != 0 {
                // A crash came before the first chunk was written.
                return Ok(None);
            }
            bytes.extend_from_slice(NoteRow::part(&value).map_err(|e| damaged_row("note", e))?);
        }
        let text = String::from_utf8(bytes).map_err(|e| damaged_row("note", e.utf8_error().into()))?;
        Ok(Some(text).filter(|text| !text.is_empty()))
    }

    /// The name of the first note after `after`.
    pub(crate) fn next_note(&self, after: Option<&str>) -> Result<Option<String>> {
        let _whole = self.notes.lock();
        let mut start = after.map_or_else(|| NoteRow::ALL.to_vec(), NoteRow::prefix);
        if after.is_some() {
            start.extend([0xff; 4]);
        }
        for row in self.trees.meta.range(start..).keys() {
            let row = row.map_err(|e| engine_error("read notes", e))?;
            if !row.starts_with(NoteRow::ALL) {
                break;
            }
            let (name, _) = NoteRow::decode(&row).map_err(|e| damaged_row("note", e))?;
            if after != Some(name) {
                return Ok(Some(name.into()));
            }
        }
        Ok(None)
    }
}
