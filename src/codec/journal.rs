//! Rows of the journal: what became of hot records since they were last carried to `activity`.

use super::records::HotV1;
use super::{CodecError, Fingerprint, Hot, VERSION, configuration, micros, strip_version, timestamp};
use crate::time::Timestamp;

/// The largest row of the journal, in bytes of its value. A leaf of sled holds sixteen rows, and now and then all of it
/// is written again.
pub(crate) const MAX_JOURNAL_ROW: usize = 1024;

/// The most bytes that one record takes, and the fewest.
const MAX_RECORD: usize = 112;
const MIN_RECORD: usize = 17;

/// What became of one hot record. Later ones replace earlier ones.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum JournalRecord {
    /// It is this now.
    Set(Fingerprint, Hot),
    /// Its time of activity is this now. The rest is as it was.
    Touch(Fingerprint, Timestamp),
    /// What the journal said before is done with: the trees know better.
    Forget(Fingerprint),
    /// The index by age may have a row of this time, which the entry has left.
    Left(Fingerprint, Timestamp),
}

/// The first byte of a record; the fingerprint follows.
const SET: u8 = 0;
const FORGET: u8 = 1;
const TOUCH: u8 = 2;
const LEFT: u8 = 3;

/// A row in the making: records one after the other, until it is full.
#[derive(Debug)]
pub(crate) struct JournalRow(Vec<u8>);

impl JournalRow {
    pub(crate) fn new() -> Self {
        let mut value = Vec::with_capacity(MAX_JOURNAL_ROW);
        value.push(VERSION);
        Self(value)
    }

    /// Its key: rows are read in the order of their numbers.
    pub(crate) fn key(number: u64) -> [u8; 8] {
        number.to_be_bytes()
    }

    /// Undoes [`JournalRow::key`].
    pub(crate) fn number(key: &[u8]) -> Result<u64, CodecError> {
        match key.split_first_chunk::<8>() {
            Some((number, [])) => Ok(u64::from_be_bytes(*number)),
            Some((_, rest)) => Err(CodecError::Trailing(rest.len())),
            None => Err(CodecError::Short),
        }
    }

    pub(crate) fn push(&mut self, record: &JournalRecord) -> Result<(), CodecError> {
        let (kind, entry) = match record {
            JournalRecord::Set(entry, _) => (SET, entry),
            JournalRecord::Touch(entry, _) => (TOUCH, entry),
            JournalRecord::Forget(entry) => (FORGET, entry),
            JournalRecord::Left(entry, _) => (LEFT, entry),
        };
        self.0.push(kind);
        self.0.extend_from_slice(entry.as_bytes());
        match record {
            JournalRecord::Set(_, hot) => {
                bincode::serde::encode_into_std_write(HotV1::of(hot), &mut self.0, configuration())?;
            }
            JournalRecord::Touch(_, time) | JournalRecord::Left(_, time) => {
                self.0.extend_from_slice(&micros(*time).to_le_bytes())
            }
            JournalRecord::Forget(_) => {}
        }
        Ok(())
    }

    /// Whether another record might not fit.
    pub(crate) fn is_full(&self) -> bool {
        self.0.len() + MAX_RECORD > MAX_JOURNAL_ROW
    }

    /// Empties it, to be used again.
    pub(crate) fn clear(&mut self) {
        self.0.truncate(1);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.len() <= 1
    }

    /// Its value.
    pub(crate) fn value(&self) -> &[u8] {
        &self.0
    }

    /// The records of a value, in order.
    pub(crate) fn decode(value: &[u8]) -> Result<Vec<JournalRecord>, CodecError> {
        let mut rest = strip_version(value)?;
        let mut records = Vec::with_capacity(rest.len() / MIN_RECORD);
        while let Some((kind, after)) = rest.split_first() {
            let (entry, after) = after.split_first_chunk().ok_or(CodecError::Short)?;
            let entry = Fingerprint::from_bytes(*entry);
            let (record, after) = match *kind {
                SET => {
                    let (hot, read) = bincode::serde::decode_from_slice::<HotV1, _>(after, configuration())?;
                    (JournalRecord::Set(entry, hot.into()), after.get(read..).unwrap_or_default())
                }
                TOUCH => {
                    let (time, after) = after.split_first_chunk().ok_or(CodecError::Short)?;
                    (JournalRecord::Touch(entry, timestamp(u64::from_le_bytes(*time))), after)
                }
                FORGET => (JournalRecord::Forget(entry), after),
                LEFT => {
                    let (time, after) = after.split_first_chunk().ok_or(CodecError::Short)?;
                    (JournalRecord::Left(entry, timestamp(u64::from_le_bytes(*time))), after)
                }
                kind => return Err(CodecError::Kind(kind)),
            };
            records.push(record);
            rest = after;
        }
        Ok(records)
    }
}
