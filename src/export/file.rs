//! An export into a file, all of it or nothing.

use std::path::Path;

use super::options::ExportOptions;
use super::write::ExportReport;
use crate::error::Result;
use crate::outfile::write_whole;
use crate::store::SessionStore;

/// What the names of unfinished exports end with.
const UNFINISHED: &str = ".cloakroom-export";

impl SessionStore {
    /// Exports into a file that only its owner may read.
    ///
    /// It is written beside `path` under another name, synced and renamed: at `path` there is a whole export or what
    /// was there before, even after a power cut. A symlink at `path` is replaced rather than followed. What exports
    /// that were killed left beside `path` is removed.
    ///
    /// # Errors
    /// [`Error::Exists`](crate::Error::Exists) if there is something at `path` and [`force`](ExportOptions::force) is
    /// off, [`Error::Io`](crate::Error::Io) and its like, and those of [`export`](SessionStore::export).
    pub fn export_to_file(&self, path: impl AsRef<Path>, options: &ExportOptions) -> Result<ExportReport> {
        write_whole(path.as_ref(), options.force, UNFINISHED, |file| self.export(file, options))
    }
}
