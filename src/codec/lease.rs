//! Leases: what holds an entry beyond the life of a process.

use serde::{Deserialize, Serialize};

use super::{CodecError, Fingerprint, decode, encode, micros, timestamp};
use crate::key::check_lease_name;
use crate::time::Timestamp;

/// From when and until when a lease holds its entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Term {
    pub(crate) since: Timestamp,
    pub(crate) end: Timestamp,
}

#[derive(Serialize, Deserialize)]
struct TermV1 {
    since: u64,
    end: u64,
}

impl Term {
    pub(crate) fn encode(&self) -> Result<Vec<u8>, CodecError> {
        encode(&TermV1 { since: micros(self.since), end: micros(self.end) }, 24)
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let TermV1 { since, end } = decode(bytes)?;
        Ok(Self { since: timestamp(since), end: timestamp(end) })
    }
}

/// A key of `leases`.
#[derive(Debug)]
pub(crate) struct LeaseRow<'a> {
    pub(crate) entry: Fingerprint,
    pub(crate) name: &'a str,
}

impl<'a> LeaseRow<'a> {
    pub(crate) fn encode(entry: Fingerprint, name: &str) -> Vec<u8> {
        [entry.as_bytes().as_slice(), name.as_bytes()].concat()
    }

    pub(crate) fn decode(bytes: &'a [u8]) -> Result<Self, CodecError> {
        let (entry, name) = bytes.split_first_chunk::<16>().ok_or(CodecError::Short)?;
        let name = std::str::from_utf8(name)?;
        check_lease_name(name)?;
        Ok(Self { entry: Fingerprint::from_bytes(*entry), name })
    }

    /// What a row of `leases` says: the entry and the term.
    pub(crate) fn term(row: &[u8], value: &[u8]) -> Result<(Fingerprint, Term), CodecError> {
        Ok((LeaseRow::decode(row)?.entry, Term::decode(value)?))
    }

    /// The entry of a row, whatever else it says.
    pub(crate) fn entry_of(bytes: &[u8]) -> Option<Fingerprint> {
        bytes.first_chunk::<16>().map(|entry| Fingerprint::from_bytes(*entry))
    }
}
