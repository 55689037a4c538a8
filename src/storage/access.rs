//! Who may use the store's directory: its owner, and nobody else.
//!
//! A directory that others can read is closed to them without a word. One that others can write to may hold anything
//! by now (a database of theirs, or a symlink where our files go), so it is refused. An empty one of our own is taken.

use std::fs::{self, DirBuilder, File, Metadata, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use super::files::{self, Found};
use crate::error::{Error, Result};

const WRITABLE_BY_OTHERS: u32 = 0o022;
const SEARCHABLE_BY_OTHERS: u32 = 0o011;
const WRITABLE_BY_ALL: u32 = 0o002;
const STICKY: u32 = 0o1000;

/// Makes the directory of a new store, for its owner alone, and the entry in its parent durable.
///
/// In a parent that all can write to, and that has no sticky bit, anyone could put another in its place.
pub(super) fn make_directory(path: &Path) -> Result<()> {
    let parent = crate::outfile::parent(path);
    // Where there is none, making the directory says so.
    if let Ok(meta) = fs::metadata(parent)
        && meta.mode() & WRITABLE_BY_ALL != 0
        && meta.mode() & STICKY == 0
    {
        let reason = "everyone can write to this directory, so anyone could put another store in the place of one \
            that is made in it: choose another, or set its sticky bit (`chmod +t`)";
        return exposed(parent, reason.into());
    }
    match DirBuilder::new().mode(0o700).create(path) {
        // Somebody else makes it at the same time. The lock tells us apart.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        made => made.map_err(|e| Error::io("create", path, e))?,
    }
    make_private(path)?;
    files::sync_directory(parent)
}

/// Makes a directory for its owner alone, whatever the umask is.
pub(super) fn private_directory(path: &Path) -> Result<()> {
    DirBuilder::new().mode(0o700).create(path).map_err(|e| Error::io("create", path, e))?;
    make_private(path)
}

/// Opens a file of ours to read and write; one that is made is for its owner alone, whatever the umask is.
pub(super) fn private_file(path: &Path) -> Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(|e| Error::io("open", path, e))?;
    let mode = file.metadata().map_err(|e| Error::io("look at", path, e))?.mode();
    if mode & 0o777 != 0o600 {
        file.set_permissions(Permissions::from_mode(0o600)).map_err(|e| Error::io("make private", path, e))?;
    }
    Ok(file)
}

/// Refuses a directory that others own or can write to. Changes nothing.
pub(super) fn check(path: &Path, found: &Found) -> Result<()> {
    let meta = metadata(path)?;
    check_owner(path, &meta)?;
    if *found == Found::Store {
        check_writable(path, &meta)?;
        let database = files::database(path);
        let inner = match fs::metadata(&database) {
            // Set aside by a compaction that was cut short, and back in a moment.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            inner => inner.map_err(|e| Error::io("look at", &database, e))?,
        };
        check_owner(&database, &inner)?;
        // Behind a directory that nobody else can enter its own mode means nothing.
        return if meta.mode() & SEARCHABLE_BY_OTHERS == 0 { Ok(()) } else { check_writable(&database, &inner) };
    }
    let mut entries = fs::read_dir(path).map_err(|e| Error::io("list", path, e))?;
    if entries.next().is_none() { Ok(()) } else { check_writable(path, &meta) }
}

/// Takes away what others may do with the directory; what is in it needs no more protection.
pub(super) fn make_private(path: &Path) -> Result<()> {
    if metadata(path)?.mode() & 0o777 == 0o700 {
        return Ok(());
    }
    fs::set_permissions(path, Permissions::from_mode(0o700)).map_err(|e| Error::io("make private", path, e))
}

fn metadata(path: &Path) -> Result<Metadata> {
    fs::metadata(path).map_err(|e| Error::io("look at", path, e))
}

fn check_owner(path: &Path, meta: &Metadata) -> Result<()> {
    let me = rustix::process::geteuid().as_raw();
    match meta.uid() {
        owner if owner == me => Ok(()),
        owner => exposed(path, format!("it belongs to user {owner}, and this is user {me}: run this as its owner")),
    }
}

fn check_writable(path: &Path, meta: &Metadata) -> Result<()> {
    let mode = meta.permissions().mode() & 0o7777;
    if mode & WRITABLE_BY_OTHERS == 0 {
        return Ok(());
    }
    exposed(
        path,
        format!("others can write to it (mode {mode:04o}): if you trust what is in it, `chmod 700` it and try again"),
    )
}

fn exposed(path: &Path, reason: String) -> Result<()> {
    Err(Error::Exposed { path: path.to_path_buf(), reason })
}
