//! Rows of the journal: what became of hot records since they were last carried to `activity`.

use serde::{Deserialize, Serialize};

use super::records::HotV1;
use super::{CodecError, Fingerprint, Hot, VERSION, configuration, strip_version};

/// The largest row of the journal, in bytes of its value. A leaf of sled holds sixteen rows, and now and then all of it
/// is written again.
pub(crate) const MAX_JOURNAL_ROW: usize = 1024;

/// The most bytes that one record takes.
const MAX_RECORD: usize = 112;

/// What became of one hot record. Later ones replace earlier ones.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum JournalRecord {
    /// It is this now.
    Set(Fingerprint, Hot),
    /// What the journal said before is done with: the trees know better.
    Forget(Fingerprint),
}

#[derive(Serialize, Deserialize)]
enum JournalRecordV1 {
    Set([u8; 16], HotV1),
    Forget([u8; 16]),
}

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
        let record = match record {
            JournalRecord::Set(entry, hot) => JournalRecordV1::Set(*entry.as_bytes(), HotV1::of(hot)),
            JournalRecord::Forget(entry) => JournalRecordV1::Forget(*entry.as_bytes()),
        };
        bincode::serde::encode_into_std_write(record, &mut self.0, configuration())?;
        Ok(())
    }

    /// Whether another record might not fit.
    pub(crate) fn is_full(&self) -> bool {
        self.0.len() + MAX_RECORD > MAX_JOURNAL_ROW
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
        let mut records = Vec::new();
        while !rest.is_empty() {
            let (record, read) = bincode::serde::decode_from_slice(rest, configuration())?;
            records.push(match record {
                JournalRecordV1::Set(entry, hot) => JournalRecord::Set(Fingerprint::from_bytes(entry), hot.into()),
                JournalRecordV1::Forget(entry) => JournalRecord::Forget(Fingerprint::from_bytes(entry)),
            });
            rest = rest.get(read..).unwrap_or_default();
        }
        Ok(records)
    }
}
