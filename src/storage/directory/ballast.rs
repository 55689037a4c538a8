//! Space kept for bad times.
//!
//! On a full disk opening fails: sled writes a snapshot when it opens, and its log grows by segments of 512 KiB. A
//! store that does not open cannot be pruned either. So a file of our own holds some space, which is given up when
//! there is no other, and taken again at a later opening. Where messages or a large pass use that up too, the store opens once
//! some space is free.
//!
//! Its content is random, for file systems that would store nothing for zeros.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use rustix::process::{Resource, getrlimit};

use super::{access, files};
use crate::error::{Error, Result};

/// What an opening and a pass of pruning need besides the snapshot. Where all of the disk is full, a pass that removes six of seven
/// entries took up to 5 MB in a store of 24 MB, and 3 to 28 MB in stores of 100 to 170: sled uses a segment again when half of
/// what is in it is out of date. (2026-11-27; `tests/README.md` has more.)
const SPARE_BYTES: u64 = 8 << 20;
/// It has a whole number of such blocks, so that it is not made again each time the snapshot has grown a little.
const BLOCK_BYTES: u64 = 1 << 20;

/// Takes the space, if there is some. A store without it is a whole store, so a failure is no error. Answers it, in words.
pub(in crate::storage) fn take(store: &Path) -> Option<String> {
    let wanted = (SPARE_BYTES + files::snapshot_bytes(&files::database(store))).next_multiple_of(BLOCK_BYTES);
    let path = store.join(files::BALLAST);
    if fs::metadata(&path).is_ok_and(|meta| meta.len() >= wanted) {
        return None;
    }
    // A write beyond this limit does not only fail: it kills the process (SIGXFSZ).
    if let Some(limit) = getrlimit(Resource::Fsize).current.filter(|limit| *limit < wanted) {
        let told = format!(
            "no space is kept for a full disk: it takes a file of {wanted} bytes, and this process may \
            write {limit} to a file (`ulimit -f`)"
        );
        tracing::warn!("{told}");
        return Some(told);
    }
    let new = store.join(files::NEW_BALLAST);
    let filled = access::private_file(&new).map(|file| fill(file, wanted).and_then(|()| fs::rename(&new, &path)));
    let taken = filled.and_then(|taken| taken.map_err(|e| Error::io("write", &new, e)));
    let error = taken.err()?;
    // Half of it would take space and help nobody.
    let _ = fs::remove_file(&new);
    tracing::warn!(error = &error as &dyn std::error::Error, bytes = wanted, "no space could be kept for a full disk");
    Some(format!("no space is kept for a full disk: {error}"))
}

fn fill(mut file: File, bytes: u64) -> io::Result<()> {
    let mut block = vec![0; usize::try_from(BLOCK_BYTES).unwrap_or_default()];
    getrandom::fill(&mut block).map_err(|error| io::Error::other(error.to_string()))?;
    for _ in 0..bytes / BLOCK_BYTES {
        file.write_all(&block)?;
        // No two blocks are the same, for file systems that store such ones once.
        block.rotate_left(1);
    }
    file.sync_all()
}

/// Removes one whose making was cut short.
pub(in crate::storage) fn sweep(store: &Path) -> Result<()> {
    remove(&store.join(files::NEW_BALLAST)).map(drop)
}

/// Removes a file. Returns whether there was one.
fn remove(path: &Path) -> Result<bool> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(Error::io("remove", path, error)),
    }
}

/// Gives the space up. Returns whether there was any.
pub(in crate::storage) fn give_up(store: &Path) -> Result<bool> {
    if !remove(&store.join(files::BALLAST))? {
        return Ok(false);
    }
    // Some file systems give the space back only with the next sync.
    if let Err(error) = files::sync_directory(store) {
        tracing::warn!(error = &error as &dyn std::error::Error, "the removal of the ballast could not be synced");
    }
    Ok(true)
}
