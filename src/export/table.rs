//! An export into a table as Hermes keeps it.

use std::fs::File;
use std::io;
use std::path::Path;

use super::options::ExportOptions;
use super::write::ExportReport;
use crate::error::{Error, Result};
use crate::outfile::write_whole;
use crate::sqlite::{NewRow, write_routing};
use crate::store::SessionStore;

/// What the names of unfinished exports end with.
const UNFINISHED: &str = ".cloakroom-export";

impl SessionStore {
    /// Exports into a fresh SQLite database with one table, Hermes' `gateway_routing`, in which the entries are rows of
    /// `scope`. The path of the directory of sessions is Hermes' own. Needs the feature `sqlite`.
    ///
    /// The format of the options is not asked, for the entries are Hermes'. Notes have no place in the table and are left
    /// out. Each row says that it was written when its entry was active. The file is made as
    /// [`export_to_file`](SessionStore::export_to_file) makes one, after a draft in the directory for temporary files.
    ///
    /// # Errors
    /// As `export_to_file`.
    pub fn export_to_database(
        &self,
        path: impl AsRef<Path>,
        scope: &str,
        options: &ExportOptions,
    ) -> Result<ExportReport> {
        write_whole(path.as_ref(), options.force, UNFINISHED, |mut file| {
            let draft = tempfile::NamedTempFile::new();
            let draft = draft.map_err(|e| Error::io("make a file in", std::env::temp_dir(), e))?;
            let report = write_routing(draft.path(), scope, |put| {
                self.export_rows(options, |key, entry, updated_at| {
                    put(NewRow { key, entry, updated_at: updated_at.as_micros() as f64 / 1e6 })
                })
            })?;
            File::open(draft.path())
                .and_then(|mut made| io::copy(&mut made, &mut file))
                .map_err(|e| Error::io("write", path.as_ref(), e))?;
            Ok(report)
        })
    }
}
