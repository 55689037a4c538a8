//! A database takes the place of another.
//!
//! There is no exchange of two names in one step, so the old database is set aside first. What a kill or a power cut
//! may leave, step by step:
//!
//! | `sled` | `sled.old-*` | `sled.new-*` | what the next opening does |
//! | --- | --- | --- | --- |
//! | the old one | | in the making, or finished | removes the new one |
//! | | the old one | finished | puts the old one back, and removes the new one |
//! | the new one | the old one, or a part of it | | removes the old one |
//!
//! A database that an operator has put elsewhere, by a link or a mount, cannot be swapped by renaming. It is refused, for the
//! new one would lie on the disk that it was moved away from.
//!
//! The directory is synced between the steps, so a power cut leaves no other state. The old one is removed only when
//! the new one is durable under its name.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::access;
use super::files::{NEW_PREFIX, OLD_PREFIX, database, named, sync_directory};
use crate::error::{Error, Result};

/// Refuses a database of which any part lies elsewhere.
pub(in crate::storage) fn check_place(store: &Path) -> Result<()> {
    let elsewhere = |path: &Path, how: String| {
        let reason = format!(
            "{} {how}, and a new database would not be there: move the whole store to that place",
            path.display()
        );
        Err(Error::Elsewhere { path: store.to_path_buf(), reason })
    };
    let look = |path: &Path| path.symlink_metadata().map_err(|e| Error::io("look at", path, e));
    let current = database(store);
    // What is not there is for the opening to tell.
    let Ok(meta) = current.symlink_metadata() else { return Ok(()) };
    if let Ok(target) = fs::read_link(&current) {
        return elsewhere(&current, format!("is a link to {}", target.display()));
    }
    if meta.dev() != fs::metadata(store).map_err(|e| Error::io("look at", store, e))?.dev() {
        return elsewhere(&current, "is on a disk of its own".into());
    }
    for entry in fs::read_dir(&current).map_err(|e| Error::io("list", &current, e))? {
        let path = entry.map_err(|e| Error::io("list", &current, e))?.path();
        if look(&path)?.is_symlink() {
            return elsewhere(&path, "is a link".into());
        }
        if look(&path)?.dev() != meta.dev() {
            return elsewhere(&path, "is on a disk of its own".into());
        }
    }
    Ok(())
}

/// Puts the finished database at `new` in the place of the store's, and removes that.
///
/// After an error the store holds one or the other, whole, as after a kill.
pub(in crate::storage) fn swap(new: &Path, store: &Path) -> Result<()> {
    sync_tree(new)?;
    let name = new.file_name().unwrap_or_default().to_string_lossy();
    let old = store.join(name.replacen(NEW_PREFIX, OLD_PREFIX, 1));
    let current = database(store);
    let set_aside = rename(&current, &old)
        .and_then(|()| sync_directory(store))
        .and_then(|()| rename(new, &current))
        .inspect_err(|_| {
            if let Err(error) = put_back(store) {
                tracing::error!(error = &error as &dyn std::error::Error, "the next opening puts the database back");
            }
        });
    set_aside?;
    sync_directory(store)?;
    if let Err(error) = remove(&old) {
        tracing::warn!(error = &error as &dyn std::error::Error, "the next opening removes the old database");
    }
    Ok(())
}

/// Puts a database back that was set aside for one that never came. Returns what was done, in words.
pub(in crate::storage) fn put_back(store: &Path) -> Result<Option<String>> {
    let current = database(store);
    if current.symlink_metadata().is_ok() {
        return Ok(None);
    }
    let mut set_aside = named(store, OLD_PREFIX)?;
    let Some((name, path)) = set_aside.pop() else { return Ok(None) };
    if !set_aside.is_empty() {
        let source = format!("there is no {}, but more than one that was set aside", current.display()).into();
        return Err(Error::Damaged { path: store.to_path_buf(), source });
    }
    rename(&path, &current)?;
    sync_directory(store)?;
    Ok(Some(format!("put {name} back, set aside by a compaction that was cut short")))
}

/// Whether a compaction has set a database aside.
pub(in crate::storage) fn is_set_aside(store: &Path) -> Result<bool> {
    Ok(!named(store, OLD_PREFIX)?.is_empty())
}

/// Removes databases that never were, or are no longer, the store's. Returns what was removed, in words.
pub(in crate::storage) fn sweep(store: &Path) -> Result<Vec<String>> {
    let mut swept = Vec::new();
    for (name, path) in named(store, NEW_PREFIX)? {
        remove(&path)?;
        swept.push(format!("removed {name}, left by an interrupted creation"));
    }
    let old = named(store, OLD_PREFIX)?;
    if !old.is_empty() {
        // The kill may have come before the new one's name was durable.
        sync_directory(store)?;
    }
    for (name, path) in old {
        remove(&path)?;
        swept.push(format!("removed {name}, the database before a compaction"));
    }
    Ok(swept)
}

fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).map_err(|e| Error::io("rename", from, e))
}

fn remove(path: &Path) -> Result<()> {
    fs::remove_dir_all(path).map_err(|e| Error::io("remove", path, e))
}

/// Makes a finished new database durable and gives it its name.
pub(in crate::storage) fn install(new: &Path, store: &Path) -> Result<()> {
    sync_tree(new)?;
    // The name of the state file is to be durable first.
    sync_directory(store)?;
    fs::rename(new, database(store)).map_err(|e| Error::io("rename", new, e))?;
    sync_directory(store).inspect_err(|_| {
        // The caller gets an error, so there must be no database.
        let _ = fs::rename(database(store), new);
    })
}

/// Syncs every file and directory below and including `path`, and hides the files from others.
pub(in crate::storage) fn sync_tree(path: &Path) -> Result<()> {
    for entry in fs::read_dir(path).map_err(|e| Error::io("list", path, e))? {
        let path = entry.map_err(|e| Error::io("list", path, e))?.path();
        // Where an operator has put a link, what it leads to is what counts.
        let meta = fs::metadata(&path).map_err(|e| Error::io("look at", &path, e))?;
        if meta.is_dir() {
            sync_tree(&path)?;
        } else if meta.is_file() {
            access::hide(&path)?;
            File::open(&path).and_then(|file| file.sync_all()).map_err(|e| Error::io("sync", &path, e))?;
        }
    }
    sync_directory(path)
}
