//! Keys of the index trees.

use super::{CHUNK_BYTES, CodecError, Fingerprint, VERSION, strip_version};
use crate::key::{SessionId, SessionKey};
use crate::time::Timestamp;

/// The minute of an `updated_at`, counted from 1970. Busy chats stay in their bucket, so a touch seldom moves a row.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub(crate) struct Bucket(u32);

const MICROS_PER_BUCKET: i64 = 60_000_000;

impl Bucket {
    pub(crate) fn of(time: Timestamp) -> Self {
        // The range of Timestamp, 1970 to 9999, has 4,223,371,680 minutes: less than u32::MAX.
        Self(u32::try_from(time.as_micros() / MICROS_PER_BUCKET).unwrap_or(u32::MAX))
    }

    /// The last one.
    pub(crate) const LAST: Self = Self(u32::MAX);

    /// That of a row of `by_updated_at`, whatever follows it there.
    pub(crate) fn of_row(row: &[u8]) -> Option<Self> {
        row.first_chunk().map(|bucket| Self(u32::from_be_bytes(*bucket)))
    }

    /// Its first moment.
    pub(crate) fn start(self) -> Timestamp {
        Timestamp::from_micros(i64::from(self.0) * MICROS_PER_BUCKET)
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
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct ActivityRow {
    pub(crate) bucket: Bucket,
    pub(crate) entry: Fingerprint,
}

impl ActivityRow {
    pub(crate) fn encode(&self) -> [u8; 20] {
        let mut row = [0; 20];
        let (bucket, entry) = row.split_at_mut(4);
        bucket.copy_from_slice(&self.bucket.prefix());
        entry.copy_from_slice(self.entry.as_bytes());
        row
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let (bucket, entry) = bytes.split_first_chunk::<4>().ok_or(CodecError::Short)?;
        Ok(Self { bucket: Bucket(u32::from_be_bytes(*bucket)), entry: whole_fingerprint(entry)? })
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
        let prefix = Self::prefix(entry, generation);
        (0_u32..)
            .zip(blob.chunks(CHUNK_BYTES))
            .map(move |(chunk, part)| ([prefix.as_slice(), &chunk.to_be_bytes()].concat(), [&[VERSION], part].concat()))
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

    /// The part of the blob that a row's value holds.
    pub(crate) fn part(value: &[u8]) -> Result<&[u8], CodecError> {
        strip_version(value)
    }
}

/// The value of `names`: the key that a fingerprint stands for.
pub(crate) fn encode_name(key: &SessionKey) -> Vec<u8> {
    [&[VERSION], key.as_str().as_bytes()].concat()
}

/// Undoes [`encode_name`].
pub(crate) fn decode_name(value: &[u8]) -> Result<SessionKey, CodecError> {
    Ok(SessionKey::new(std::str::from_utf8(strip_version(value)?)?)?)
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
