//! Backups: the whole store in one file, and a store from such a file.
//!
//! ```text
//! file   = header frame*
//! header = "CLOAKBAK", version u32, CRC-32 of these 12 bytes
//! frame  = kind u8, length of the payload u32, payload, CRC-32 of all before in this frame
//! ```
//!
//! Numbers are little endian, and the version is 2. The header stays as it is in all versions. Payloads are records of
//! `crate::codec`, in this order:
//!
//! | kind | payload | how often |
//! | --- | --- | --- |
//! | `S` | what there is once: the time zone of the last import | once |
//! | `N` | a part of a note of an imported file | for each |
//! | `E` | an entry: key, hot and cold record, extras, open turn, leases | for each, in key order |
//! | `Z` | counts, the commit number, and the CRC-32 of the frames before, their own checksums left out | once, at the end |
//!
//! A damaged frame is found by its own checksum, which tells the place; one that is missing, doubled, moved or exchanged
//! by the last. That leaves the other checksums out because a CRC does not see the exchange of one text that ends with
//! its own CRC for another of the same length. The seed of the fingerprints is no part of it: a restored store has one of its own.
//!
//! The file does not say whether its entries are of one moment. No reader of version 2 passes over what it does not know: the
//! header has no room, a record with another field is damage to it, and so is a frame of another kind. So that is in the report
//! alone ([`BackupReport::began`]), until there is another version for another reason.

mod frame;
mod restore;
mod write;

use serde::{Deserialize, Serialize};

use crate::time::Timestamp;

#[cfg(feature = "valkey")]
pub(crate) use frame::{FrameReader, FrameWriter, Kind as FrameKind};
pub use write::BackupOptions;

/// How far a backup or a restoration is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct BackupProgress {
    /// Entries written, or read.
    pub entries: u64,
    /// Bytes of the backup written, or read.
    pub bytes: u64,
}

/// What a backup holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct BackupReport {
    /// Entries.
    pub entries: u64,
    /// Open turns among them.
    pub turns: u64,
    /// Leases on disk among them, ended ones included.
    pub leases: u64,
    /// Notes of imported files.
    pub notes: u64,
    /// Bytes of the backup.
    pub bytes: u64,
    /// When the backup began, if it is not of one moment, as that of a cluster: each entry is as it was when it was read, at some
    /// time from this to [`ended`](Self::ended). The file does not tell this, so a restore does not either.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub began: Option<Timestamp>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Timestamp>,
}

impl BackupReport {
    pub(crate) fn of(entries: u64, bytes: u64) -> Self {
        Self { entries, turns: 0, leases: 0, notes: 0, bytes, began: None, ended: None }
    }
}
