//! Keys of the index trees.

use std::fmt;

use super::{CHUNK_BYTES, CodecError, VERSION, strip_version};
use crate::key::{SessionId, SessionKey};
use crate::time::Timestamp;

/// The minute of an `updated_at`, counted from 1970. Busy chats stay in their bucket, so a touch seldom moves a row.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub(crate) struct Bucket(u32);

const MICROS_PER_BUCKET: i64 = 60_000_000;

impl Bucket {
    pub(crate) fn of(time: Timestamp) -> Self {
        // The range of Timestamp, 1970 to 9999, has 4,223,376,960 minutes: less than u32::MAX.
        Self(u32::try_from(time.as_micros() / MICROS_PER_BUCKET).unwrap_or(u32::MAX))
    }

    /// What the rows of this bucket begin with.
    pub(crate) fn prefix(self) -> [u8; 4] {
        self.0.to_be_bytes()
    }

    /// The bucket after, if this is not the last.
    pub(crate) fn next(self) -> Option<Self> {
        self.0.checked_add(1).map(Self)
    }

    /// The bucket before, if this is not the first.
    pub(crate) fn previous(self) -> Option<Self> {
        self.0.checked_sub(1).map(Self)
    }
}

/// A row of `by_updated_at`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct ActivityRow {
    pub(crate) bucket: Bucket,
    pub(crate) key: SessionKey,
}

impl ActivityRow {
    pub(crate) fn encode(bucket: Bucket, key: &SessionKey) -> Vec<u8> {
        [bucket.prefix().as_slice(), key.as_str().as_bytes()].concat()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let (bucket, key) = bytes.split_first_chunk::<4>().ok_or(CodecError::Short)?;
        Ok(Self { bucket: Bucket(u32::from_be_bytes(*bucket)), key: SessionKey::new(std::str::from_utf8(key)?)? })
    }
}

/// A row of `by_session_id`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct IdRow {
    pub(crate) id: SessionId,
    pub(crate) key: SessionKey,
}

impl IdRow {
    pub(crate) fn encode(id: &SessionId, key: &SessionKey) -> Vec<u8> {
        [id.as_str().as_bytes(), &[0], key.as_str().as_bytes()].concat()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let mut parts = bytes.splitn(2, |byte| *byte == 0);
        let (Some(id), Some(key)) = (parts.next(), parts.next()) else { return Err(CodecError::Short) };
        Ok(Self { id: SessionId::new(std::str::from_utf8(id)?)?, key: SessionKey::new(std::str::from_utf8(key)?)? })
    }
}

/// What the rows of `by_session_id` for one id begin with.
pub(crate) fn id_prefix(id: &SessionId) -> Vec<u8> {
    [id.as_str().as_bytes(), &[0]].concat()
}

/// A row of `extras`.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct ExtrasRow {
    pub(crate) key: SessionKey,
    pub(crate) generation: u64,
    pub(crate) chunk: u32,
}

impl fmt::Debug for ExtrasRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ExtrasRow({}, {}, {})", self.key, self.generation, self.chunk)
    }
}

impl ExtrasRow {
    /// What all rows of `key` begin with.
    pub(crate) fn key_prefix(key: &SessionKey) -> Vec<u8> {
        [key.as_str().as_bytes(), &[0]].concat()
    }

    /// What the rows of one generation begin with.
    pub(crate) fn prefix(key: &SessionKey, generation: u64) -> Vec<u8> {
        [key.as_str().as_bytes(), &[0], &generation.to_be_bytes()].concat()
    }

    /// The rows that hold `blob`, in order.
    pub(crate) fn encode_all(
        key: &SessionKey,
        generation: u64,
        blob: &[u8],
    ) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> {
        let prefix = Self::prefix(key, generation);
        (0_u32..)
            .zip(blob.chunks(CHUNK_BYTES))
            .map(move |(chunk, part)| ([prefix.as_slice(), &chunk.to_be_bytes()].concat(), [&[VERSION], part].concat()))
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let end = bytes.iter().position(|byte| *byte == 0).ok_or(CodecError::Short)?;
        let (key, rest) = bytes.split_at(end);
        let rest = rest.get(1..).ok_or(CodecError::Short)?;
        let (generation, rest) = rest.split_first_chunk::<8>().ok_or(CodecError::Short)?;
        let (chunk, rest) = rest.split_first_chunk::<4>().ok_or(CodecError::Short)?;
        if !rest.is_empty() {
            return Err(CodecError::Trailing(rest.len()));
        }
        Ok(Self {
            key: SessionKey::new(std::str::from_utf8(key)?)?,
            generation: u64::from_be_bytes(*generation),
            chunk: u32::from_be_bytes(*chunk),
        })
    }

    /// The part of the blob that a row's value holds.
    pub(crate) fn part(value: &[u8]) -> Result<&[u8], CodecError> {
        strip_version(value)
    }
}

/// The rows of `meta` that hold a note of an imported file.
pub(crate) struct NoteRow;

impl NoteRow {
    /// What the rows of all notes begin with.
    pub(crate) const ALL: &[u8] = b"note\0";

    /// What the rows of one note begin with. Its name holds no zero byte.
    pub(crate) fn prefix(name: &str) -> Vec<u8> {
        [Self::ALL, name.as_bytes(), &[0]].concat()
    }

    /// The rows that hold `text`, in order.
    pub(crate) fn encode_all(name: &str, text: &str) -> Vec<(Vec<u8>, Vec<u8>)> {
        let prefix = Self::prefix(name);
        let chunks = (0_u32..).zip(text.as_bytes().chunks(CHUNK_BYTES));
        chunks.map(|(n, part)| ([prefix.as_slice(), &n.to_be_bytes()].concat(), [&[VERSION], part].concat())).collect()
    }

    /// The name that a row belongs to, and its chunk number.
    pub(crate) fn decode(row: &[u8]) -> Result<(&str, u32), CodecError> {
        let rest = row.strip_prefix(Self::ALL).ok_or(CodecError::Short)?;
        let (rest, chunk) = rest.split_last_chunk::<4>().ok_or(CodecError::Short)?;
        let name = rest.strip_suffix(&[0]).ok_or(CodecError::Short)?;
        Ok((std::str::from_utf8(name)?, u32::from_be_bytes(*chunk)))
    }

    /// The part of the text that a row's value holds.
    pub(crate) fn part(value: &[u8]) -> Result<&[u8], CodecError> {
        strip_version(value)
    }
}
