//! The store's directory: what is in it, and how it comes into being.
//!
//! ```text
//! sessions.db/        0700
//!     LOCK            held with flock(2) while the store is open, see `lock.rs`
//!     state           what was last synced and how things stand, see `state.rs`; empty while the store is being made
//!     ballast         space kept for a full disk, see `ballast.rs`
//!     ballast.new     the same in the making
//!     sled/           the database
//!     sled.new-*/     a database that is being made; swept if its maker died
//!     sled.old-*/     the database before a compaction, see `swap.rs`
//!     live.*          the socket of a live view, see `src/socket.rs`
//! ```
//!
//! sled writes its `conf` file in two parts and syncs neither, and a torn one cannot be opened again. So a database is
//! created under another name, synced file by file, and renamed into place.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::random;
use crate::socket;

pub(in crate::storage) use crate::outfile::sync_directory;

pub(in crate::storage) const LOCK: &str = "LOCK";
const DATABASE: &str = "sled";
/// What sled's snapshots begin with.
pub(super) const SNAPSHOT: &str = "snap.";
pub(in crate::storage) const NEW_PREFIX: &str = "sled.new-";
pub(in crate::storage) const OLD_PREFIX: &str = "sled.old-";
pub(in crate::storage) const STATE: &str = "state";
pub(in crate::storage) const BALLAST: &str = "ballast";
pub(in crate::storage) const NEW_BALLAST: &str = "ballast.new";

/// What stands at a path.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::storage) enum Found {
    Nothing,
    /// An empty directory, or one in which a creation was cut short.
    Empty,
    /// A store, or what is left of one: see `parts.rs`.
    Store,
}

/// Looks without changing anything.
pub(in crate::storage) fn inspect(path: &Path) -> Result<Found> {
    let not_a_store = |reason: String| Err(Error::NotAStore { path: path.to_path_buf(), reason });
    match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let Ok(target) = fs::read_link(path) else { return Ok(Found::Nothing) };
            return not_a_store(format!(
                "it is a link to {}, where there is nothing: make that directory, or mount what it is on",
                target.display()
            ));
        }
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            return not_a_store("a part of the path is a file".into());
        }
        Err(error) => return Err(Error::io("look at", path, error)),
        Ok(meta) if !meta.is_dir() => return not_a_store("it is a file, not a directory".into()),
        Ok(_) => {}
    }
    let (mut foreign, mut is_root) = (None, false);
    for entry in fs::read_dir(path).map_err(|e| Error::io("list", path, e))? {
        let entry = entry.map_err(|e| Error::io("list", path, e))?;
        let name = entry.file_name();
        match name.to_str() {
            // The ballast comes when the database is there.
            Some(DATABASE | BALLAST) => return Ok(Found::Store),
            // Set aside by a compaction that was cut short.
            Some(name) if name.starts_with(OLD_PREFIX) => return Ok(Found::Store),
            Some(STATE) if entry.metadata().is_ok_and(|meta| meta.len() > 0) => return Ok(Found::Store),
            Some(LOCK | STATE | NEW_BALLAST) => {}
            Some(name) if name.starts_with(NEW_PREFIX) || socket::is_name(name) => {}
            Some("lost+found") => is_root = true,
            _ => foreign = Some(name),
        }
    }
    match foreign {
        None if is_root => not_a_store(format!(
            "it is the root of a file system, with lost+found in it: name a directory in it, such as {}",
            path.join("sessions.db").display()
        )),
        None => Ok(Found::Empty),
        Some(name) => not_a_store(format!("it holds {} and no database", name.display())),
    }
}

/// Where the database is.
pub(in crate::storage) fn database(store: &Path) -> PathBuf {
    store.join(DATABASE)
}

/// A name for a database in the making that nobody can guess.
pub(in crate::storage) fn new_database(store: &Path) -> Result<PathBuf> {
    let random = random::bits()?;
    Ok(store.join(format!("{NEW_PREFIX}{random:016x}")))
}

/// Half-written snapshots: sled takes the name for the newest one and refuses to open.
pub(in crate::storage) fn remove_half_snapshots(database: &Path) -> Result<Vec<String>> {
    let mut removed = Vec::new();
    for (name, path) in named(database, SNAPSHOT)?.into_iter().filter(|(name, _)| name.ends_with(".generating")) {
        fs::remove_file(&path).map_err(|e| Error::io("remove", &path, e))?;
        removed.push(format!("removed the half-written snapshot {name}"));
    }
    Ok(removed)
}

/// Moves all snapshots out of sled's sight; it then reads its whole log instead.
pub(in crate::storage) fn set_snapshots_aside(database: &Path) -> Result<Vec<String>> {
    let mut moved = Vec::new();
    for (name, path) in named(database, SNAPSHOT)? {
        let aside = path.with_file_name(format!("aside.{name}"));
        fs::rename(&path, &aside).map_err(|e| Error::io("rename", &path, e))?;
        moved.push(format!("set the snapshot {name} aside"));
    }
    Ok(moved)
}

/// What is in a directory under a name that begins with `prefix`: the names and the paths.
pub(in crate::storage) fn named(directory: &Path, prefix: &str) -> Result<Vec<(String, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).map_err(|e| Error::io("list", directory, e))? {
        let entry = entry.map_err(|e| Error::io("list", directory, e))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with(prefix) {
            found.push((name, entry.path()));
        }
    }
    Ok(found)
}

/// The size of all snapshots. A new one is written before an old one goes.
pub(in crate::storage) fn snapshot_bytes(database: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(database) else { return 0 };
    let snapshots = entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with(SNAPSHOT));
    snapshots.filter_map(|entry| entry.metadata().ok()).map(|meta| meta.len()).sum()
}

/// The size of all files below `path`, in bytes.
pub(in crate::storage) fn bytes_below(path: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(path).map_err(|e| Error::io("list", path, e))? {
        let path = entry.map_err(|e| Error::io("list", path, e))?.path();
        match fs::metadata(&path) {
            Ok(meta) if meta.is_dir() => bytes += bytes_below(&path)?,
            Ok(meta) => bytes += meta.len(),
            // sled removes snapshots while we look.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(Error::io("look at", path, error)),
        }
    }
    Ok(bytes)
}

/// How many names a file has.
///
/// This is asked at each sync, so nothing else is asked with it: who asks for the times of a file too makes Linux (6.13 and
/// later, on ext4, XFS, Btrfs and tmpfs) give it new ones at the next write, and the sync after that waits for a fifth longer.
pub(in crate::storage) fn links(file: &File) -> io::Result<u64> {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    {
        use rustix::fs::{AtFlags, StatxFlags, statx};
        match statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::NLINK) {
            Ok(found) if StatxFlags::from_bits_retain(found.stx_mask).contains(StatxFlags::NLINK) => {
                return Ok(found.stx_nlink.into());
            }
            // There are sandboxes that do not know the call.
            Ok(_) | Err(_) => {}
        }
    }
    file.metadata().map(|meta| meta.nlink())
}
