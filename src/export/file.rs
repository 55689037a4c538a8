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
    /// was there before, even after a power cut. A symlink is followed, and its target replaced. What exports that were
    /// killed left there is removed. A pipe or a character device is written to, whatever [`force`](ExportOptions::force)
    /// says.
    ///
    /// # Errors
    /// [`Error::Exists`](crate::Error::Exists) if there is a file at `path` and `force` is off,
    /// [`Error::Io`](crate::Error::Io) and its like, also if there is a directory or if the file is a mount of its own,
    /// and those of [`export`](SessionStore::export).
    pub fn export_to_file(&self, path: impl AsRef<Path>, options: &ExportOptions) -> Result<ExportReport> {
        write_whole(path.as_ref(), options.force, UNFINISHED, |file| self.export(file, options))
    }
}
