//! [`SessionStore::compact`].

use crate::answer::CompactReport;
use crate::config::Options;
use crate::error::Result;
use crate::storage;
use crate::store::SessionStore;

impl SessionStore {
    /// Copies the store at the path of `options` to a new database that takes the place of the old one, and gives the
    /// difference back to the file system: the database's own file never shrinks.
    ///
    /// Nobody may have the store open; [`Options::compact_at_open`] does it as a part of an opening. It is checked first as [`verify`](SessionStore::verify) does, and every row of
    /// the copy is compared with the original, before the original goes. It needs space for the copy meanwhile.
    /// Entries, turn markers and notes stay as they are; what a crash has left of entries that are gone is not copied.
    ///
    /// Killed, or cut off from power, at any moment, it leaves the old database or the new one, whole; the next opening
    /// puts the directory in order. After an error the store is as it was.
    ///
    /// `progress` gets the number of rows that were copied and compared so far.
    ///
    /// # Errors
    /// [`Error::Unsound`](crate::Error::Unsound) if the check finds anything, [`Error::Damaged`](crate::Error::Damaged)
    /// if the store holds less than was synced, [`Error::Elsewhere`](crate::Error::Elsewhere) if the database is a link
    /// or a mount, which it would have to leave, [`Error::DiskFull`](crate::Error::DiskFull) if the copy does not fit,
    /// and those of [`open`](SessionStore::open). A store is never made, whatever `options` say.
    pub fn compact(options: Options, progress: impl FnMut(u64)) -> Result<CompactReport> {
        options.check()?;
        let (done, repairs) = storage::compact(&options.path, options.cache_bytes, options.trust_group, progress)?;
        for repair in &repairs {
            tracing::warn!(repair, "repaired");
        }
        Ok(CompactReport::of(&done))
    }
}
