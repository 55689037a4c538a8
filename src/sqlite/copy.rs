//! A copy of a database that others may be writing.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use tempfile::TempDir;

use crate::error::{Error, Result};

/// How often a copy is tried, and the pause before the next.
const TRIES: u32 = 50;
const PAUSE: Duration = Duration::from_millis(40);

/// The file beside a database that ends with `-wal` or `-journal`.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

/// Whether there is something in a file beside a database.
pub(super) fn has(path: &Path, suffix: &str) -> bool {
    fs::metadata(beside(path, suffix)).is_ok_and(|meta| meta.len() > 0)
}

/// Copies a database with what stands beside it to a private directory. Both of one moment: the database and its rollback
/// journal did not change meanwhile. To the log of writes ahead others may have appended, and SQLite reads it to its last
/// whole transaction.
pub(super) fn copy(path: &Path) -> Result<(TempDir, PathBuf)> {
    let own = fs::Permissions::from_mode(0o700);
    let directory = tempfile::Builder::new().prefix("cloakroom-").permissions(own).tempdir();
    let directory = directory.map_err(|e| Error::io("make a directory in", std::env::temp_dir(), e))?;
    let target = directory.path().join("copy.db");
    let failed = |e| Error::io("copy", path, e);
    for _ in 0..TRIES {
        let before = state(path).map_err(failed)?;
        for suffix in ["", "-journal", "-wal"] {
            put(&beside(path, suffix), &beside(&target, suffix)).map_err(failed)?;
        }
        if state(path).map_err(failed)? == before {
            return Ok((directory, target));
        }
        sleep(PAUSE);
    }
    Err(failed(io::Error::new(io::ErrorKind::ResourceBusy, "it was written all the while: stop the gateway first")))
}

/// The inode, the size and the time of a file.
type Stamp = (u64, u64, i64, i64);

/// What changes when a database or its journal is written. A clock that counts in milliseconds may give two writes one
/// time, so what was written just now is waited for.
fn state(path: &Path) -> io::Result<[Option<Stamp>; 2]> {
    let of = |path: &Path| match fs::metadata(path) {
        Ok(meta) => {
            if meta.modified()?.elapsed().is_ok_and(|age| age < PAUSE) {
                sleep(PAUSE);
            }
            Ok(Some((meta.ino(), meta.len(), meta.mtime(), meta.mtime_nsec())))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    };
    Ok([of(path)?, of(&beside(path, "-journal"))?])
}

fn put(from: &Path, to: &Path) -> io::Result<()> {
    let mut input = match File::open(from) {
        // What the last try found may be gone.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return fs::remove_file(to).or_else(missing),
        input => input?,
    };
    let mut output = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(to)?;
    io::copy(&mut input, &mut output).map(drop)
}

fn missing(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}
