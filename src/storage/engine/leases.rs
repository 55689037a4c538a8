//! The tree of leases: small, since each has an end.
//!
//! The rows of an entry are written with the group that makes it, or after its touch, and go with the group that removes
//! it: so an entry is never there without the leases that were moved to it, and one that is made again has none of the old
//! ones.

use super::Engine;
use super::change::encode_error;
use super::trees::{Write, engine_error};
use super::write::Writer;
use crate::codec::{Fingerprint, LeaseRow, Term};
use crate::error::Result;

/// A row of the tree.
#[derive(Debug)]
pub(crate) struct StoredLease {
    /// The entry that it belongs to, where that can be told.
    pub(crate) entry: Option<Fingerprint>,
    /// Its name and its term.
    pub(crate) lease: Result<(String, Term)>,
}

impl Engine {
    /// All leases, each read by itself.
    pub(crate) fn leases(&self) -> Result<Vec<StoredLease>> {
        let mut leases = Vec::new();
        for row in self.trees.leases.iter() {
            let (row, value) = row.map_err(|e| engine_error("read leases", e))?;
            let entry = LeaseRow::entry_of(&row);
            let lease = LeaseRow::decode(&row).and_then(|row| Ok((row.name.to_owned(), Term::decode(&value)?)));
            let lease = lease.map_err(|error| self.damaged_row("leases", &row, entry, error));
            leases.push(StoredLease { entry, lease });
        }
        Ok(leases)
    }

    /// The rows of an entry, readable or not.
    pub(in crate::storage) fn lease_rows(&self, entry: Fingerprint) -> Result<Vec<Vec<u8>>> {
        let rows = self.trees.leases.scan_prefix(entry.as_bytes()).keys();
        rows.map(|row| row.map(|row| row.to_vec()).map_err(|e| engine_error("read leases", e))).collect()
    }
}

/// What `leases` of one entry, to be set or removed, come to.
pub(in crate::storage) fn lease_writes(entry: Fingerprint, leases: &[(String, Option<Term>)]) -> Result<Vec<Write>> {
    let write = |(name, term): &(String, Option<Term>)| {
        let value = term.map(|term| term.encode().map_err(encode_error)).transpose()?;
        Ok((LeaseRow::encode(entry, name), value))
    };
    leases.iter().map(write).collect()
}

impl Writer {
    /// Sets or removes leases of an entry that is there.
    pub(in crate::storage) fn write_leases(
        &mut self,
        engine: &Engine,
        entry: Fingerprint,
        leases: &[(String, Option<Term>)],
    ) -> Result<()> {
        let writes = lease_writes(entry, leases)?;
        writes.into_iter().try_for_each(|(row, value)| self.write(engine, &engine.trees.leases, row, value.as_deref()))
    }

    /// Removes leases that have ended.
    pub(crate) fn drop_leases(&mut self, engine: &Engine, ended: &[(Fingerprint, String)]) -> Result<()> {
        ended
            .iter()
            .try_for_each(|(entry, name)| self.remove(engine, &engine.trees.leases, LeaseRow::encode(*entry, name)))
    }

    /// Removes the leases of an entry that is not there.
    pub(in crate::storage) fn drop_leases_of(&mut self, engine: &Engine, entry: Fingerprint) -> Result<()> {
        let rows = engine.lease_rows(entry)?;
        rows.into_iter().try_for_each(|row| self.remove(engine, &engine.trees.leases, row))
    }
}
