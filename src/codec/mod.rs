//! The on-disk format: records and index keys to and from bytes. Pure, and the only place that names `bincode`.
//!
//! | tree | key | value |
//! | --- | --- | --- |
//! | `sessions` | session key | version 1, `ColdV1` |
//! | `activity` | fingerprint | version 1, `ActivityV1`: the session key and the hot record |
//! | `journal` | number of the row `u64` big-endian | version 1, then records one after the other, newer than those in `activity`: a byte for the kind, the fingerprint, and `HotV1` (0), nothing (1, the trees know better) or `updated_at` in µs `u64` (2, a touch; 3, a row by age that the entry has left) |
//! | `by_updated_at` | the least row that it may have | version 1, then up to 32 rows in order, each `updated_at` in µs since 1970 as `u64` big-endian, fingerprint; rows that belong to the next page do not count |
//! | `by_session_id` | session id, `00`, fingerprint | empty |
//! | `extras` | fingerprint, generation `u64` big-endian, chunk `u32` big-endian | version 1, at most 2,047 bytes of a part |
//! | `turns` | fingerprint | version 1, `TurnV1` |
//! | `leases` | fingerprint, name of the lease | version 1, `TermV1` |
//! | `intent` | `group` | version 1, `IntentV1`: the structural changes under way |
//! | `meta` | `note`, `00`, name of a note, `00`, chunk number `u32` big-endian | version 1, at most 2,047 bytes of its text |
//! | `meta` | `clock` | version 1, `ClockNoteV1`; absent while there is nothing to remember |
//! | `meta` | `journal` | version 1, bincode of the number of the first row of `journal` that counts, and of the bytes before it; absent while all do |
//! | `meta` | `format`, `seed`, `count`, `commit`, `zone`, `compacted`, … | version 1, bincode of one value |
//!
//! A fingerprint is SipHash-1-3-128 of the session key under the store's `seed`, both halves little endian.
//!
//! A part of an entry's extras is a base, version 1 and `BaseV1`, or one JSON text as it is. Either is cut into chunks that
//! are full but for the last. What goes where: see `extras.rs`.
//!
//! A record is `[version byte][bincode]`, bincode 2 in its standard configuration (varint integers, little endian),
//! at most [`MAX_VALUE_BYTES`]. Records are frozen: a change of a struct is a new version byte and a new struct, and
//! the old one stays readable. Ids hold no control character, so `00` ends them.
//!
//! Decoding refuses unknown versions, trailing bytes and lengths beyond the limit with a [`CodecError`], never a panic.

mod arrange;
mod backup;
mod clock;
mod details;
mod extras;
mod fingerprint;
mod index;
mod intent;
mod journal;
mod lease;
mod note;
mod records;
mod turn;

use serde::Serialize;
use serde::de::DeserializeOwned;

pub(crate) use arrange::{ArrangeError, NewExtras, arrange};
pub(crate) use backup::{
    BackupEndV1, BackupEntryV1, BackupNoteV1, BackupPartV1, BackupRecord, BackupStoreV1, CheckedEntry,
};
pub(crate) use clock::{ClockNote, Held};
pub(crate) use extras::{Base, ExtrasIndex, ExtrasRef, Field, Parts, assemble, value_text};
pub(crate) use fingerprint::{Fingerprint, Seed};
pub(crate) use index::{ActivityRow, AgePage, ExtrasRow, IdRow, id_prefix, whole_fingerprint};
pub(crate) use intent::{Intent, Step};
pub(crate) use journal::{JournalRecord, JournalRow, MAX_JOURNAL_ROW};
pub(crate) use lease::{LeaseRow, Term};
pub(crate) use note::NoteRow;
pub(crate) use records::{AS_IMPORTED, Activity, Cold, Hot, PINNED, RESUME_PENDING, SUSPENDED, decode_cold};
pub(crate) use turn::Turn;

use crate::key::NameError;
use crate::time::Timestamp;

/// The largest value in any tree. sled counts a leaf of sixteen items as one and moves one over 128 KiB to files that
/// it never syncs.
pub(crate) const MAX_VALUE_BYTES: usize = 4096;
/// Bytes of text in one chunk, of extras or of a note. Half of what a value may hold: when leaves of sixteen chunks merge
/// and split, a single write costs several of them, and all of that counts as unsynced.
pub(crate) const CHUNK_BYTES: usize = MAX_VALUE_BYTES / 2 - 1;
/// The most that the extras of one entry may be, in bytes of names and texts.
pub(crate) const MAX_EXTRAS_BYTES: usize = 1 << 20;

/// Numbers that an opening gives out, of parts of extras and of turns, begin with its commit, shifted by so many bits. A commit
/// takes far fewer changes than there is room for, so the ranges of two openings never meet.
pub(crate) const COMMIT_SHIFT: u32 = 24;

const VERSION: u8 = 1;

/// Why bytes are no record or index key.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum CodecError {
    #[error("the value is empty")]
    Empty,
    #[error("a record of the journal is of kind {0}, which there is not")]
    Kind(u8),
    #[error("the value has version {found}, and this program reads up to {VERSION}")]
    Version { found: u8 },
    #[error("the record does not decode")]
    Decode(#[from] bincode::error::DecodeError),
    #[error("the record does not encode")]
    Encode(#[from] bincode::error::EncodeError),
    #[error("{0} bytes follow the record")]
    Trailing(usize),
    #[error("the row is too short")]
    Short,
    #[error("the text is not UTF-8")]
    Utf8(#[from] std::str::Utf8Error),
    #[error("the name is not valid")]
    Name(#[from] NameError),
    #[error("the extras have {found} of {expected} bytes")]
    ExtrasLength { found: usize, expected: usize },
    #[error("there is a part of extras that the record does not name")]
    StrayPart,
    #[error("a value has {0} bytes, which is more than the store keeps")]
    TooLong(usize),
    #[error("the record points to details that are not there")]
    NoDetails,
    #[error("the row is missing")]
    Missing,
    #[error("the row leads to another key")]
    WrongKey,
    #[error("the row has no time between 1970 and 9999")]
    NoTime,
    #[error("the rows of the page are not in order")]
    Order,
    #[error("chunk {0} is missing")]
    NoChunk(u32),
    #[error("the text is no JSON")]
    NoJson,
}

/// bincode's settings; the limit bounds what a damaged length can make it allocate. bincode counts what it decodes to,
/// and a length that takes one byte as eight: a million bytes of short names and texts count eight times that.
fn configuration() -> impl bincode::config::Config {
    bincode::config::standard().with_limit::<{ 16 * MAX_EXTRAS_BYTES }>()
}

/// `[version byte][bincode of value]`.
fn encode<T: Serialize>(value: &T, capacity: usize) -> Result<Vec<u8>, CodecError> {
    let mut bytes = Vec::with_capacity(capacity);
    bytes.push(VERSION);
    bincode::serde::encode_into_std_write(value, &mut bytes, configuration())?;
    Ok(bytes)
}

/// Undoes [`encode`]; the value may borrow from `bytes`.
fn decode<'a, T: serde::Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, CodecError> {
    let body = strip_version(bytes)?;
    let (value, read) = bincode::serde::borrow_decode_from_slice(body, configuration())?;
    match body.len() - read {
        0 => Ok(value),
        left => Err(CodecError::Trailing(left)),
    }
}

fn strip_version(bytes: &[u8]) -> Result<&[u8], CodecError> {
    match bytes.split_first() {
        None => Err(CodecError::Empty),
        Some((&VERSION, body)) => Ok(body),
        Some((&found, _)) => Err(CodecError::Version { found }),
    }
}

/// A time in a record or a row: microseconds since 1970.
fn micros(time: Timestamp) -> u64 {
    time.as_micros().unsigned_abs()
}

fn timestamp(micros: u64) -> Timestamp {
    Timestamp::from_micros(i64::try_from(micros).unwrap_or(i64::MAX))
}

/// Rows that hold a text or a blob, in order: a chunk each, under the prefix and the chunk's number.
fn chunks(prefix: Vec<u8>, bytes: &[u8]) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> {
    let row = move |(number, part): (u32, &[u8])| {
        ([prefix.as_slice(), &number.to_be_bytes()].concat(), [&[VERSION], part].concat())
    };
    (0_u32..).zip(bytes.chunks(CHUNK_BYTES)).map(row)
}

/// The bytes that the value of such a row holds.
pub(crate) fn chunk(value: &[u8]) -> Result<&[u8], CodecError> {
    strip_version(value)
}

/// Encodes one value of the `meta` tree.
pub(crate) fn encode_meta<T: Serialize>(value: &T) -> Result<Vec<u8>, CodecError> {
    encode(value, 16)
}

/// Decodes one value of the `meta` tree.
pub(crate) fn decode_meta<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    decode(bytes)
}

#[cfg(test)]
mod tests;
