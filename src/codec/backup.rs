//! The records of a backup. How they are framed is `crate::backup`'s business.
//!
//! Texts and records are kept as the trees have them, so a backup that was restored is the store it was taken from,
//! byte for byte. Frozen like all records.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    Base, COMMIT_SHIFT, CodecError, Cold, Hot, MAX_EXTRAS_BYTES, MAX_VALUE_BYTES, Term, Turn, assemble, decode,
    decode_cold, encode,
};
use crate::key::{SessionKey, check_lease_name};

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
    /// What its extras are put together from, beside the record.
    #[serde(borrow)]
    pub(crate) parts: Vec<BackupPartV1<'a>>,
    /// The value in `turns`, if a turn is open.
    #[serde(borrow)]
    pub(crate) turn: Option<&'a [u8]>,
    /// Names and values in `leases`, in the order of the names.
    #[serde(borrow)]
    pub(crate) leases: Vec<(&'a str, &'a [u8])>,
}

/// A part of an entry's extras.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BackupPartV1<'a> {
    pub(crate) generation: u64,
    pub(crate) bytes: &'a [u8],
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
        let index = cold.extras.clone().unwrap_or_default();
        let parts: BTreeMap<u64, &[u8]> = self.parts.iter().map(|part| (part.generation, part.bytes)).collect();
        let (details, extras) = assemble(&index, |generation| parts.get(&generation).copied())?;
        let base = index.base.and_then(|at| parts.get(&at.generation)).map(|part| Base::decode(part)).transpose()?;
        let live = index.live(&base.unwrap_or_default());
        if !parts.keys().eq(&live) || parts.len() != self.parts.len() {
            return Err(CodecError::StrayPart);
        }
        let (found, expected) = (extras.bytes(), usize::try_from(index.bytes).unwrap_or(usize::MAX));
        if found != expected || found > MAX_EXTRAS_BYTES {
            return Err(CodecError::ExtrasLength { found, expected });
        }
        if spilled && details.is_none() {
            return Err(CodecError::NoDetails);
        }
        let turn = self.turn.map(Turn::decode).transpose()?;
        for (name, term) in &self.leases {
            check_lease_name(name)?;
            Term::decode(term)?;
        }
        let numbers = self.parts.iter().map(|part| part.generation).chain(turn.map(|turn| turn.token));
        let commit = numbers.max().unwrap_or(0) >> COMMIT_SHIFT;
        Ok(CheckedEntry { record: self, key, hot, cold, commit })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::codec::{ExtrasIndex, ExtrasRef, Field};
    use crate::entry::Details;
    use crate::key::SessionId;
    use crate::time::Timestamp;

    /// With a base, which has these bytes of names and texts in it.
    fn cold(base: Option<(ExtrasRef, u32)>) -> Cold {
        let index = |(at, bytes)| ExtrasIndex { bytes, base: Some(at), ..ExtrasIndex::default() };
        let extras = base.map(|base| Arc::new(index(base)));
        let created_at = Timestamp::from_micros(1);
        Cold { session_id: SessionId::new("s").unwrap(), created_at, details: Details::default(), extras }
    }

    /// Put together by hand: what is written must stay readable.
    #[test]
    fn golden_bytes() {
        let store = BackupStoreV1 { zone: Some("UTC") };
        assert_eq!(store.to_bytes().unwrap(), b"\x01\x01\x03UTC");
        let note = BackupNoteV1 { name: "_n", part: b"\"t\"", is_last: true };
        assert_eq!(note.to_bytes().unwrap(), b"\x01\x02_n\x03\"t\"\x01");
        let entry = BackupEntryV1 {
            key: "k",
            hot: b"h",
            cold: b"co",
            parts: vec![BackupPartV1 { generation: 5, bytes: b"blo" }],
            turn: None,
            leases: vec![("job", b"t")],
        };
        assert_eq!(entry.to_bytes().unwrap(), b"\x01\x01k\x01h\x02co\x01\x05\x03blo\x00\x01\x03job\x01t");
        let end = BackupEndV1 { entries: 2, notes: 1, commit: 250, crc: 251 };
        assert_eq!(end.to_bytes().unwrap(), b"\x01\x02\x01\xfa\xfb\xfb\x00");
        assert_eq!(BackupStoreV1::from_bytes(b"\x01\x01\x03UTC").unwrap(), store);
        assert_eq!(BackupNoteV1::from_bytes(b"\x01\x02_n\x03\"t\"\x01").unwrap(), note);
        assert_eq!(
            BackupEntryV1::from_bytes(b"\x01\x01k\x01h\x02co\x01\x05\x03blo\x00\x01\x03job\x01t").unwrap(),
            entry
        );
        assert_eq!(BackupEndV1::from_bytes(b"\x01\x02\x01\xfa\xfb\xfb\x00").unwrap(), end);
        assert!(matches!(BackupStoreV1::from_bytes(b"\x02\x00"), Err(CodecError::Version { found: 2 })));
    }

    #[test]
    fn an_entry_that_does_not_hold_together_is_refused() {
        let hot = Hot::fresh(Timestamp::from_micros(7)).encode().unwrap();
        let base = Base::encode(None, &[("metadata".into(), Field::Text("{}".into()))].into()).unwrap();
        let at = ExtrasRef { generation: 5 << 24 | 3, bytes: u32::try_from(base.len()).unwrap() };
        let part = |bytes| vec![BackupPartV1 { generation: at.generation, bytes }];
        let (with, without) = (cold(Some((at, 10))).to_bytes().unwrap(), cold(None).to_bytes().unwrap());
        let miscounted = cold(Some((at, 11))).to_bytes().unwrap();
        let spilled = cold(Some((at, 10))).encode_spilled().unwrap();
        let turn = Turn { token: 9 << 24, started_at: Timestamp::from_micros(1), session_id: cold(None).session_id };
        let turn = turn.encode().unwrap();
        let term = Term { since: Timestamp::from_micros(1), end: Timestamp::from_micros(2) }.encode().unwrap();
        let good = || BackupEntryV1 {
            key: "k",
            hot: &hot,
            cold: &with,
            parts: part(&base),
            turn: Some(&turn),
            leases: vec![("job", &term)],
        };
        let checked = good().check().unwrap();
        assert_eq!((checked.key.as_str(), checked.commit), ("k", 9));
        assert_eq!(BackupEntryV1 { turn: None, ..good() }.check().unwrap().commit, 5);

        let long = [&with[..], &[0; MAX_VALUE_BYTES]].concat();
        for bad in [
            BackupEntryV1 { key: "_k", ..good() },
            BackupEntryV1 { hot: b"", ..good() },
            BackupEntryV1 { cold: b"\x02", ..good() },
            BackupEntryV1 { cold: &without, ..good() },
            BackupEntryV1 { cold: &spilled, ..good() },
            BackupEntryV1 { cold: &long, ..good() },
            BackupEntryV1 { cold: &miscounted, ..good() },
            BackupEntryV1 { parts: Vec::new(), ..good() },
            BackupEntryV1 { parts: part(&base[1..]), ..good() },
            BackupEntryV1 { parts: part(&base).into_iter().chain(part(&base)).collect(), ..good() },
            BackupEntryV1 { parts: vec![BackupPartV1 { generation: 7, bytes: &base }], ..good() },
            BackupEntryV1 { turn: Some(b"\x01"), ..good() },
            BackupEntryV1 { leases: vec![("job", b"\x01")], ..good() },
            BackupEntryV1 { leases: vec![("", &term)], ..good() },
        ] {
            assert!(bad.check().is_err());
        }
        let at = ExtrasRef { bytes: at.bytes + 1, ..at };
        let more = cold(Some((at, 10))).to_bytes().unwrap();
        let found = BackupEntryV1 { cold: &more, ..good() }.check().unwrap_err();
        assert!(
            matches!(found, CodecError::ExtrasLength { found, expected } if found == base.len() && expected == found + 1)
        );
    }

    /// It would be read, but a store never holds so much in one place.
    #[test]
    fn what_is_larger_than_a_store_keeps_is_refused() {
        let hot = Hot::fresh(Timestamp::from_micros(7)).encode().unwrap();
        let named = |n: usize| {
            let details = Details { display_name: Some("x".repeat(n)), ..Details::default() };
            Cold { details, ..cold(None) }.encode().unwrap()
        };
        let room = (0..MAX_VALUE_BYTES).rev().find(|n| named(*n).is_some()).unwrap();
        let most = named(room).unwrap();
        let entry = |cold| BackupEntryV1 { key: "k", hot: &hot, cold, parts: Vec::new(), turn: None, leases: vec![] };
        assert_eq!((entry(&most).check().is_ok(), most.len()), (true, MAX_VALUE_BYTES));
        let mut more = most.clone();
        let length = more.windows(2).position(|bytes| bytes == (room as u16).to_le_bytes()).unwrap();
        more[length..length + 2].copy_from_slice(&(room as u16 + 1).to_le_bytes());
        more.insert(length + 2, b'x');
        assert!(decode_cold(&more).is_ok());
        assert!(matches!(entry(&more).check(), Err(CodecError::TooLong(_))));

        for (bytes, fits) in [(MAX_EXTRAS_BYTES - 8, true), (MAX_EXTRAS_BYTES - 7, false)] {
            let text = format!("\"{}\"", "1".repeat(bytes - 2)).into_bytes();
            let at = ExtrasRef { generation: 1, bytes: u32::try_from(bytes).unwrap() };
            let changed = [("metadata".into(), Some(Field::Stored(at)))].into();
            let index = ExtrasIndex { bytes: at.bytes + 8, changed, ..ExtrasIndex::default() };
            let cold = Cold { extras: Some(Arc::new(index)), ..cold(None) }.to_bytes().unwrap();
            let parts = vec![BackupPartV1 { generation: 1, bytes: &text }];
            let entry = BackupEntryV1 { key: "k", hot: &hot, cold: &cold, parts, turn: None, leases: vec![] };
            assert_eq!(entry.check().is_ok(), fits);
        }
    }
}
