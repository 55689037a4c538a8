//! Keys of the notes of imported files.

use super::{CodecError, chunks};

/// The rows of `meta` that hold a note of an imported file.
pub(crate) struct NoteRow;

impl NoteRow {
    /// What the rows of all notes begin with.
    pub(crate) const ALL: &[u8] = b"note\0";

    /// What the rows of one note begin with. Its name holds no zero byte.
    pub(crate) fn prefix(name: &str) -> Vec<u8> {
        [Self::ALL, name.as_bytes(), &[0]].concat()
    }

    /// Where the rows of the next note begin at the earliest.
    pub(crate) fn after(name: &str) -> Vec<u8> {
        [Self::ALL, name.as_bytes(), &[1]].concat()
    }

    /// The rows that hold `text`, in order.
    pub(crate) fn encode_all(name: &str, text: &str) -> Vec<(Vec<u8>, Vec<u8>)> {
        chunks(Self::prefix(name), text.as_bytes()).collect()
    }

    /// The name that a row belongs to, and its chunk number.
    pub(crate) fn decode(row: &[u8]) -> Result<(&str, u32), CodecError> {
        let rest = row.strip_prefix(Self::ALL).ok_or(CodecError::Short)?;
        let (rest, chunk) = rest.split_last_chunk::<4>().ok_or(CodecError::Short)?;
        let name = rest.strip_suffix(&[0]).filter(|name| !name.contains(&0)).ok_or(CodecError::Short)?;
        Ok((std::str::from_utf8(name)?, u32::from_be_bytes(*chunk)))
    }
}
