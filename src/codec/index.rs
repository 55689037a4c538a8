//! Keys of the index trees.

use super::{CodecError, Fingerprint, Hot, VERSION, chunks, micros, strip_version};
use crate::key::SessionId;
use crate::time::Timestamp;

/// A row of the index by age, as pages of `by_updated_at` have them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct ActivityRow {
    pub(crate) time: Timestamp,
    pub(crate) entry: Fingerprint,
}

impl ActivityRow {
    /// The row of an entry with this hot record.
    pub(crate) fn of(hot: &Hot, entry: Fingerprint) -> Self {
        Self { time: hot.updated_at, entry }
    }

    /// The first that a row of this time may be.
    pub(crate) fn first_at(time: Timestamp) -> Self {
        Self { time, entry: Fingerprint::FIRST }
    }

    pub(crate) fn encode(&self) -> [u8; 24] {
        let mut row = [0; 24];
        let (time, entry) = row.split_at_mut(8);
        time.copy_from_slice(&micros(self.time).to_be_bytes());
        entry.copy_from_slice(self.entry.as_bytes());
        row
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let (time, entry) = bytes.split_first_chunk::<8>().ok_or(CodecError::Short)?;
        let micros = i64::try_from(u64::from_be_bytes(*time)).ok();
        let time = micros.map(Timestamp::from_micros).filter(|time| Some(time.as_micros()) == micros);
        Ok(Self { time: time.ok_or(CodecError::NoTime)?, entry: whole_fingerprint(entry)? })
    }
}

/// A page of `by_updated_at`: rows in their order, none of them before the page's key.
///
/// A row of sled's costs about the same whatever is in it, so many of these share one.
pub(crate) enum AgePage {}

impl AgePage {
    /// How many rows it may have.
    pub(crate) const MAX_ROWS: usize = 32;
    /// The key of the page that has what comes before all others.
    pub(crate) const FIRST: [u8; 24] = [0; 24];
    /// The most bytes of its key and its value.
    pub(crate) const MAX_BYTES: usize = 24 + 1 + 24 * Self::MAX_ROWS;

    pub(crate) fn encode(rows: &[ActivityRow]) -> Vec<u8> {
        let mut value = Vec::with_capacity(1 + 24 * rows.len());
        value.push(VERSION);
        value.extend(rows.iter().flat_map(ActivityRow::encode));
        value
    }

    pub(crate) fn decode(key: &[u8], value: &[u8]) -> Result<Vec<ActivityRow>, CodecError> {
        let mut least = ActivityRow::decode(key)?;
        let (rows, rest) = strip_version(value)?.as_chunks::<24>();
        if !rest.is_empty() {
            return Err(CodecError::Trailing(rest.len()));
        }
        let rows = rows.iter().map(|row| ActivityRow::decode(row)).collect::<Result<Vec<_>, _>>()?;
        for (at, row) in rows.iter().enumerate() {
            if *row < least || (*row == least && at > 0) {
                return Err(CodecError::Order);
            }
            least = *row;
        }
        Ok(rows)
    }
}

/// A row of `by_session_id`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct IdRow {
    pub(crate) id: SessionId,
    pub(crate) entry: Fingerprint,
}

impl IdRow {
    pub(crate) fn encode(id: &SessionId, entry: Fingerprint) -> Vec<u8> {
        [id.as_str().as_bytes(), &[0], entry.as_bytes()].concat()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let (id, rest) = split_at_zero(bytes)?;
        Ok(Self { id: SessionId::new(std::str::from_utf8(id)?)?, entry: whole_fingerprint(rest)? })
    }
}

/// What the rows of `by_session_id` for one id begin with.
pub(crate) fn id_prefix(id: &SessionId) -> Vec<u8> {
    [id.as_str().as_bytes(), &[0]].concat()
}

/// A row of `extras`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ExtrasRow {
    pub(crate) entry: Fingerprint,
    pub(crate) generation: u64,
    pub(crate) chunk: u32,
}

impl ExtrasRow {
    /// What the rows of one generation begin with.
    pub(crate) fn prefix(entry: Fingerprint, generation: u64) -> Vec<u8> {
        [entry.as_bytes().as_slice(), &generation.to_be_bytes()].concat()
    }

    /// The rows that hold `blob`, in order.
    pub(crate) fn encode_all(
        entry: Fingerprint,
        generation: u64,
        blob: &[u8],
    ) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> {
        chunks(Self::prefix(entry, generation), blob)
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let (entry, rest) = bytes.split_first_chunk::<16>().ok_or(CodecError::Short)?;
        let (generation, rest) = rest.split_first_chunk::<8>().ok_or(CodecError::Short)?;
        let (chunk, rest) = rest.split_first_chunk::<4>().ok_or(CodecError::Short)?;
        if !rest.is_empty() {
            return Err(CodecError::Trailing(rest.len()));
        }
        Ok(Self {
            entry: Fingerprint::from_bytes(*entry),
            generation: u64::from_be_bytes(*generation),
            chunk: u32::from_be_bytes(*chunk),
        })
    }
}

/// A row of a tree whose keys are fingerprints.
pub(crate) fn whole_fingerprint(bytes: &[u8]) -> Result<Fingerprint, CodecError> {
    match bytes.split_first_chunk::<16>() {
        Some((entry, [])) => Ok(Fingerprint::from_bytes(*entry)),
        Some((_, rest)) => Err(CodecError::Trailing(rest.len())),
        None => Err(CodecError::Short),
    }
}

fn split_at_zero(bytes: &[u8]) -> Result<(&[u8], &[u8]), CodecError> {
    let mut parts = bytes.splitn(2, |byte| *byte == 0);
    parts.next().zip(parts.next()).ok_or(CodecError::Short)
}
