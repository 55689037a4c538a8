//! The records of a backup. How they are framed is `crate::backup`'s business.
//!
//! Texts and records are kept as the trees have them, so a backup that was restored is the store it was taken from,
//! byte for byte. Frozen like all records.

use serde::{Deserialize, Serialize};

use super::records::ExtrasRef;
use super::{CodecError, Cold, Hot, MAX_EXTRAS_BYTES, MAX_VALUE_BYTES, Turn, decode, decode_blob, decode_cold, encode};
use crate::key::SessionKey;

/// One record of a backup, as it is encoded.
pub(crate) trait BackupRecord<'a>: Serialize + Deserialize<'a> {
    fn to_bytes(&self) -> Result<Vec<u8>, CodecError> {
        encode(self, 1024)
    }

    fn from_bytes(bytes: &'a [u8]) -> Result<Self, CodecError> {
        decode(bytes)
    }
}

/// What there is once in a store.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BackupStoreV1<'a> {
    /// The time zone of the last import.
    pub(crate) zone: Option<&'a str>,
}

/// A part of a note. The parts of one follow each other.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BackupNoteV1<'a> {
    pub(crate) name: &'a str,
    pub(crate) part: &'a [u8],
    pub(crate) is_last: bool,
}

/// An entry.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BackupEntryV1<'a> {
    pub(crate) key: &'a str,
    /// The value in `activity`.
    pub(crate) hot: &'a [u8],
    /// The value in `sessions`.
    pub(crate) cold: &'a [u8],
    /// What its extras are put together from.
    #[serde(borrow)]
    pub(crate) blob: Option<&'a [u8]>,
    /// The value in `turns`, if a turn is open.
    #[serde(borrow)]
    pub(crate) turn: Option<&'a [u8]>,
}

/// What there must have been before the end.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BackupEndV1 {
    pub(crate) entries: u64,
    pub(crate) notes: u64,
    /// A commit after every number that the entries have from the store.
    pub(crate) commit: u64,
    /// CRC-32 of the frames before this one, without their own checksums.
    pub(crate) crc: u32,
}

impl<'a> BackupRecord<'a> for BackupStoreV1<'a> {}
impl<'a> BackupRecord<'a> for BackupNoteV1<'a> {}
impl<'a> BackupRecord<'a> for BackupEntryV1<'a> {}
impl BackupRecord<'_> for BackupEndV1 {}

/// An entry of a backup that holds together.
#[derive(Debug)]
pub(crate) struct CheckedEntry<'a> {
    pub(crate) record: BackupEntryV1<'a>,
    pub(crate) key: SessionKey,
    pub(crate) hot: Hot,
    pub(crate) cold: Cold,
    /// The newest commit that may have given the entry a number.
    pub(crate) commit: u64,
}

impl<'a> BackupEntryV1<'a> {
    /// Decodes every part, so that nothing gets into a store that could not be read there.
    pub(crate) fn check(self) -> Result<CheckedEntry<'a>, CodecError> {
        for value in [Some(self.hot), Some(self.cold), self.turn].into_iter().flatten() {
            if value.len() > MAX_VALUE_BYTES {
                return Err(CodecError::TooLong(value.len()));
            }
        }
        let key = SessionKey::new(self.key)?;
        let hot = Hot::decode(self.hot)?;
        let (cold, spilled) = decode_cold(self.cold)?;
        let details = match (self.blob, cold.extras) {
            (None, None) => None,
            (Some(blob), Some(at)) => check_blob(blob, at)?,
            (blob, at) => {
                let expected = at.map_or(0, |at| at.bytes as usize);
                return Err(CodecError::ExtrasLength { found: blob.map_or(0, <[u8]>::len), expected });
            }
        };
        if spilled && details.is_none() {
            return Err(CodecError::NoDetails);
        }
        let turn = self.turn.map(Turn::decode).transpose()?;
        let numbers = [turn.map(|turn| turn.token), cold.extras.map(|at| at.generation)];
        // A number is that of the opening's commit, shifted, and a count.
        let commit = numbers.into_iter().flatten().max().unwrap_or(0) >> 24;
        Ok(CheckedEntry { record: self, key, hot, cold, commit })
    }
}

fn check_blob(blob: &[u8], at: ExtrasRef) -> Result<Option<crate::entry::Details>, CodecError> {
    let expected = usize::try_from(at.bytes).unwrap_or(usize::MAX);
    if blob.len() != expected || blob.len() > MAX_EXTRAS_BYTES {
        return Err(CodecError::ExtrasLength { found: blob.len(), expected });
    }
    Ok(decode_blob(blob)?.0)
}
