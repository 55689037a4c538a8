//! Leases: what holds an entry beyond the life of a process.

use serde::{Deserialize, Serialize};

use super::{CodecError, Fingerprint, decode, encode};
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
        let [since, end] = [self.since, self.end].map(|time| time.as_micros().unsigned_abs());
        encode(&TermV1 { since, end }, 24)
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let TermV1 { since, end } = decode(bytes)?;
        let time = |micros| Timestamp::from_micros(i64::try_from(micros).unwrap_or(i64::MAX));
        Ok(Self { since: time(since), end: time(end) })
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

    /// The entry of a row, whatever else it says.
    pub(crate) fn entry_of(bytes: &[u8]) -> Option<Fingerprint> {
        bytes.first_chunk::<16>().map(|entry| Fingerprint::from_bytes(*entry))
    }
}
