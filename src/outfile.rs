//! A file that is written whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Has `write` fill a file that only its owner may read, and puts it at `path`.
///
/// It is written beside `path` under another name, which ends with `unfinished`, synced and renamed: at `path` there is
/// the whole file or what was there before, even after a power cut. A symlink at `path` is replaced rather than
/// followed. What was there is replaced only with `force`. What killed runs left beside `path` is removed.
pub(crate) fn write_whole<T>(
    path: &Path,
    force: bool,
    unfinished: &'static str,
    write: impl FnOnce(&File) -> Result<T>,
) -> Result<T> {
    let exists = || Error::Exists { path: path.to_path_buf() };
    if !force && path.symlink_metadata().is_ok() {
        return Err(exists());
    }
    sweep(path, unfinished);
    let draft = Unfinished::create(path, unfinished)?;
    let written = write(&draft.file)?;
    draft.file.sync_all().map_err(|e| Error::io("sync", &draft.path, e))?;
    if force {
        fs::rename(&draft.path, path).map_err(|e| Error::io("rename", &draft.path, e))?;
    } else {
        // A link, in contrast to a rename, does not replace what came to be there meanwhile.
        fs::hard_link(&draft.path, path).map_err(|e| match e.kind() {
            io::ErrorKind::AlreadyExists => exists(),
            _ => Error::io("create", path, e),
        })?;
    }
    drop(draft);
    let parent = parent(path);
    File::open(parent).and_then(|parent| parent.sync_all()).map_err(|e| Error::io("sync", parent, e))?;
    Ok(written)
}

/// A file that goes when it is dropped, unless it was renamed. Locked, so that others can tell it from one that a
/// killed run left.
struct Unfinished {
    path: PathBuf,
    file: File,
}

impl Unfinished {
    fn create(target: &Path, unfinished: &str) -> Result<Self> {
        let random = getrandom::u64().map_err(|e| Error::Random { message: e.to_string() })?;
        let path = parent(target).join(format!("{}{random:016x}{unfinished}", prefix(target)?));
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

/// Removes what killed runs for this path left. Whatever stands in the way is left to the next one.
fn sweep(target: &Path, unfinished: &str) {
    let Ok(prefix) = prefix(target) else { return };
    let Ok(entries) = fs::read_dir(parent(target)) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let is_ours = name.to_str().is_some_and(|name| {
            let random = name.strip_prefix(&prefix).and_then(|name| name.strip_suffix(unfinished));
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

/// What the names of unfinished files for this path begin with.
fn prefix(target: &Path) -> Result<String> {
    let name = target.file_name().ok_or_else(|| {
        Error::io("create", target, io::Error::new(io::ErrorKind::InvalidInput, "the path names no file"))
    })?;
    Ok(format!(".{}.", name.to_string_lossy()))
}

/// The directory that `path` is in.
pub(crate) fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}
