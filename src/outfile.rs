//! A file that is written whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::random;

/// Lets `write` fill a file that only its owner may read, and puts it at `path`.
///
/// It is written beside `path` under another name, which ends with `unfinished`, synced and renamed: at `path` there is
/// the whole file or what was there before, even after a power cut. What was there is replaced only with `force`, and
/// through a symlink its target is. What killed runs left beside it is removed.
///
/// A pipe or a character device is no file that could be replaced: it is written to.
pub(crate) fn write_whole<T>(
    path: &Path,
    force: bool,
    unfinished: &'static str,
    write: impl FnOnce(&File) -> Result<T>,
) -> Result<T> {
    let exists = || Error::Exists { path: path.to_path_buf() };
    let target = match find(path).map_err(|e| Error::io("write to", path, e))? {
        Found::Stream => {
            let stream = OpenOptions::new().write(true).open(path).map_err(|e| Error::io("open", path, e))?;
            return write(&stream);
        }
        Found::Taken(_) if !force => return Err(exists()),
        Found::Taken(target) | Found::Free(target) => target,
    };
    sweep(&target, unfinished);
    let draft = Unfinished::create(&target, unfinished)?;
    let written = write(&draft.file)?;
    draft.file.sync_all().map_err(|e| Error::io("sync", &draft.path, e))?;
    if force {
        fs::rename(&draft.path, &target).map_err(|e| cannot_replace(path, e))?;
    } else {
        put(&draft.path, &target, &WAYS).map_err(|e| match e.kind() {
            io::ErrorKind::AlreadyExists => exists(),
            _ => Error::io("create", path, e),
        })?;
    }
    drop(draft);
    sync_directory(parent(&target))?;
    Ok(written)
}

/// What is at the path of an output, with symlinks followed.
enum Found {
    /// Nothing; a file may be made here.
    Free(PathBuf),
    /// A file, or the end of a symlink that leads to nothing.
    Taken(PathBuf),
    Stream,
}

fn find(path: &Path) -> io::Result<Found> {
    let kind = match fs::metadata(path) {
        Ok(meta) => meta.file_type(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let end = end_of_links(path);
            return Ok(if end == path { Found::Free(end) } else { Found::Taken(end) });
        }
        Err(error) => return Err(error),
    };
    if kind.is_file() {
        // After `metadata`, for which the system refuses a link that somebody else planted in a sticky directory.
        return Ok(Found::Taken(fs::canonicalize(path)?));
    }
    if kind.is_fifo() || kind.is_char_device() {
        return Ok(Found::Stream);
    }
    let what = if kind.is_dir() { "it is a directory" } else { "it is neither a file nor a pipe" };
    Err(io::Error::other(what))
}

/// Where a symlink leads that leads to nothing.
fn end_of_links(path: &Path) -> PathBuf {
    let mut end = path.to_path_buf();
    // There is no circle: the system would have said so.
    while let Ok(next) = fs::read_link(&end) {
        end = parent(&end).join(next);
    }
    end
}

type Way = fn(&Path, &Path) -> io::Result<()>;

/// How a draft gets a name that is free, the surest first.
///
/// The first two replace nothing, whatever comes to be there meanwhile. Not all mounts know them: there are no links on
/// exFAT, SMB, Android and most of FUSE, and no such rename on NFS. The last replaces what appears just then.
const WAYS: [Way; 3] = [
    |draft, path| fs::hard_link(draft, path),
    rename_to_free,
    |draft, path| {
        if path.symlink_metadata().is_ok() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        fs::rename(draft, path)
    },
];

fn put(draft: &Path, path: &Path, ways: &[Way]) -> io::Result<()> {
    let mut failed = io::ErrorKind::Unsupported.into();
    for way in ways {
        match way(draft, path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => failed = error,
            done => return done,
        }
    }
    Err(failed)
}

#[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple"))]
fn rename_to_free(draft: &Path, path: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    Ok(renameat_with(CWD, draft, CWD, path, RenameFlags::NOREPLACE)?)
}

#[cfg(not(any(target_os = "linux", target_os = "android", target_vendor = "apple")))]
fn rename_to_free(_: &Path, _: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

fn cannot_replace(path: &Path, error: io::Error) -> Error {
    let error = match error.kind() {
        io::ErrorKind::ResourceBusy => io::Error::new(
            error.kind(),
            "it is a mount of its own, so no other file can take its place: mount the directory that it is in, or \
             write to another file there and copy it",
        ),
        _ => error,
    };
    Error::io("replace", path, error)
}

/// A file that goes when it is dropped, unless it was renamed. Locked, so that others can tell it from one that a
/// killed run left.
struct Unfinished {
    path: PathBuf,
    file: File,
}

impl Unfinished {
    fn create(target: &Path, unfinished: &str) -> Result<Self> {
        let random = random::bits()?;
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

/// Makes the names in a directory durable.
///
/// Some mounts (FUSE, SMB) know no sync of a directory and say so. That is all that can be done there.
pub(crate) fn sync_directory(path: &Path) -> Result<()> {
    match File::open(path).and_then(|directory| directory.sync_all()) {
        Err(error) if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => Ok(()),
        synced => synced.map_err(|e| Error::io("sync", path, e)),
    }
}

/// The directory that `path` is in.
pub(crate) fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_way_puts_a_file_where_nothing_is_and_replaces_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (draft, path) = (dir.path().join("draft"), dir.path().join("file"));
        for way in 0..WAYS.len() {
            fs::write(&draft, "new").unwrap();
            put(&draft, &path, &WAYS[way..]).unwrap();
            assert_eq!(fs::read(&path).unwrap(), b"new", "{way}");
            // After a link it is the same file.
            let _ = fs::remove_file(&draft);
            fs::write(&path, "mine").unwrap();
            fs::write(&draft, "new").unwrap();
            let error = put(&draft, &path, &WAYS[way..]).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::AlreadyExists, "{way}");
            assert_eq!(fs::read(&path).unwrap(), b"mine", "{way}");
            fs::remove_file(&path).unwrap();
        }
    }

    #[test]
    fn the_next_way_is_taken_where_one_is_not_known() {
        let dir = tempfile::tempdir().unwrap();
        let (draft, path) = (dir.path().join("draft"), dir.path().join("file"));
        fs::write(&draft, "new").unwrap();
        let denied: Way = |_, _| Err(io::ErrorKind::PermissionDenied.into());
        let unknown: Way = |_, _| Err(io::ErrorKind::InvalidInput.into());
        assert_eq!(put(&draft, &path, &[denied, unknown]).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        put(&draft, &path, &[denied, unknown, WAYS[2]]).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
    }
}
