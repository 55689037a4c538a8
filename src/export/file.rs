//! An export into a file, all of it or nothing.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::options::ExportOptions;
use super::write::ExportReport;
use crate::error::{Error, Result};
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
    /// [`Error::Exists`] if there is something at `path` and [`force`](ExportOptions::force) is off, [`Error::Io`] and
    /// its like, and those of [`export`](SessionStore::export).
    pub fn export_to_file(&self, path: impl AsRef<Path>, options: &ExportOptions) -> Result<ExportReport> {
        let path = path.as_ref();
        let exists = || Error::Exists { path: path.to_path_buf() };
        if !options.force && path.symlink_metadata().is_ok() {
            return Err(exists());
        }
        sweep(path);
        let unfinished = Unfinished::create(path)?;
        let report = self.export(&unfinished.file, options)?;
        unfinished.file.sync_all().map_err(|e| Error::io("sync", &unfinished.path, e))?;
        if options.force {
            fs::rename(&unfinished.path, path).map_err(|e| Error::io("rename", &unfinished.path, e))?;
        } else {
            // A link, in contrast to a rename, does not replace what came to be there meanwhile.
            fs::hard_link(&unfinished.path, path).map_err(|e| match e.kind() {
                io::ErrorKind::AlreadyExists => exists(),
                _ => Error::io("create", path, e),
            })?;
        }
        drop(unfinished);
        let parent = parent(path);
        File::open(parent).and_then(|parent| parent.sync_all()).map_err(|e| Error::io("sync", parent, e))?;
        Ok(report)
    }
}

/// A file that goes when it is dropped, unless it was renamed. Locked, so that others can tell it from one that a
/// killed export left.
struct Unfinished {
    path: PathBuf,
    file: File,
}

impl Unfinished {
    fn create(target: &Path) -> Result<Self> {
        let random = getrandom::u64().map_err(|e| Error::Random { message: e.to_string() })?;
        let path = parent(target).join(format!("{}{random:016x}{UNFINISHED}", prefix(target)?));
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(|e| Error::io("create", &path, e))?;
        let unfinished = Self { path, file };
        // Where files cannot be locked, nothing is swept either.
        let _ = unfinished.file.try_lock();
        Ok(unfinished)
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        // After a rename it is gone already.
        let _ = fs::remove_file(&self.path);
    }
}

/// Removes what killed exports to this path left. Whatever stands in the way is left to the next one.
fn sweep(target: &Path) {
    let Ok(prefix) = prefix(target) else { return };
    let Ok(entries) = fs::read_dir(parent(target)) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let is_ours = name.to_str().is_some_and(|name| {
            let random = name.strip_prefix(&prefix).and_then(|name| name.strip_suffix(UNFINISHED));
            random.is_some_and(|random| random.len() == 16 && random.bytes().all(|byte| byte.is_ascii_hexdigit()))
        });
        if is_ours
            && entry.file_type().is_ok_and(|kind| kind.is_file())
            && File::open(entry.path()).is_ok_and(|file| file.try_lock().is_ok())
        {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// What the names of unfinished exports to this path begin with.
fn prefix(target: &Path) -> Result<String> {
    let name = target.file_name().ok_or_else(|| {
        Error::io("create", target, io::Error::new(io::ErrorKind::InvalidInput, "the path names no file"))
    })?;
    Ok(format!(".{}.", name.to_string_lossy()))
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}
