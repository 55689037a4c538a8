//! Access to the store's directory: its owner may use it, and nobody else.
//!
//! A directory that others can read is closed to them without a word. One that others can write to may hold anything
//! by now (a database of theirs, or a symlink where our files go), so it is refused. An empty one of our own is taken.
//!
//! With [`trust_group`](crate::Options::trust_group) the group may write to it too, or it may be another user's, such as a volume
//! in Kubernetes, which is root's and its `fsGroup`'s. The group must be one of the process's own.

use std::fs::{self, DirBuilder, File, Metadata, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use super::files;
use super::files::Found;
use crate::error::{Error, Result};

const OTHERS: u32 = 0o077;
const OTHERS_BUT_GROUP: u32 = 0o007;
const WRITABLE_BY_GROUP: u32 = 0o020;
const WRITABLE_BY_ALL: u32 = 0o002;
const SEARCHABLE_BY_OTHERS: u32 = 0o011;
const STICKY: u32 = 0o1000;

/// Makes the directory of a new store, for its owner alone, and the entry in its parent durable.
///
/// In a parent that all can write to, and that has no sticky bit, anyone could put another in its place.
pub(in crate::storage) fn make_directory(path: &Path) -> Result<()> {
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
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => close_new(path)?,
        made => {
            made.map_err(|e| Error::io("create", path, e))?;
            close_new(path).inspect_err(|_| {
                // Nothing is in it yet, unless somebody else was faster.
                let _ = fs::remove_dir(path);
            })?;
        }
    }
    files::sync_directory(parent)
}

/// Makes the directory of a new store, or takes what was found there for one that its owner alone may use. That of a
/// store is closed to others later, with [`make_private`].
pub(in crate::storage) fn enter(path: &Path, found: &Found, trust_group: bool) -> Result<()> {
    match found {
        Found::Nothing => make_directory(path),
        Found::Empty => {
            check(path, found, trust_group)?;
            // Before anything is made in it.
            make_private(path, trust_group)
        }
        Found::Store => check(path, found, trust_group),
    }
}

/// Makes a directory for its owner alone, whatever the umask is.
pub(in crate::storage) fn private_directory(path: &Path) -> Result<()> {
    DirBuilder::new().mode(0o700).create(path).map_err(|e| Error::io("create", path, e))?;
    close_new(path)
}

/// Opens a file of ours to read and write; one that is made is for its owner alone, whatever the umask is.
pub(in crate::storage) fn private_file(path: &Path) -> Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(|e| Error::io("open", path, e))?;
    hide(path)?;
    Ok(file)
}

/// Hides a file of ours from others, whatever the umask is.
///
/// On some mounts no mode can be changed. The directory was looked at, so there only its owner's rights count.
pub(in crate::storage) fn hide(file: &Path) -> Result<()> {
    let mode = metadata(file)?.mode() & 0o777;
    if mode == 0o600 {
        return Ok(());
    }
    match fs::set_permissions(file, Permissions::from_mode(0o600)) {
        Err(error) if mode & 0o600 != 0o600 => Err(Error::io("make private", file, error)),
        _ => Ok(()),
    }
}

/// Refuses a directory that others own or can write to. Changes nothing.
pub(in crate::storage) fn check(path: &Path, found: &Found, trust_group: bool) -> Result<()> {
    let meta = metadata(path)?;
    check_owner(path, &meta, trust_group)?;
    if *found == Found::Store {
        check_writable(path, &meta, trust_group)?;
        let database = files::database(path);
        let inner = match fs::metadata(&database) {
            // Set aside by a compaction that was cut short, and back in a moment.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            inner => inner.map_err(|e| Error::io("look at", &database, e))?,
        };
        check_owner(&database, &inner, trust_group)?;
        // Behind a directory that nobody else can enter its own mode means nothing.
        let is_closed = meta.mode() & SEARCHABLE_BY_OTHERS == 0;
        return if is_closed { Ok(()) } else { check_writable(&database, &inner, trust_group) };
    }
    let is_empty = fs::read_dir(path).map_err(|e| Error::io("list", path, e))?.next().is_none();
    // One of our own is closed in a moment.
    if is_empty && meta.uid() == me() { Ok(()) } else { check_writable(path, &meta, trust_group) }
}

/// Takes away what others may do with the directory; what is in it needs no more protection.
pub(in crate::storage) fn make_private(path: &Path, trust_group: bool) -> Result<()> {
    let meta = metadata(path)?;
    let mode = meta.mode() & 0o7777;
    let others = if trust_group { OTHERS_BUT_GROUP } else { OTHERS };
    // Of one that is not ours the check has seen that only the group can write to it.
    if mode & others == 0 || meta.uid() != me() { Ok(()) } else { set_mode(path, mode & !others, others) }
}

/// Gives a directory that was made just now to its owner alone.
fn close_new(path: &Path) -> Result<()> {
    let mode = metadata(path)?.mode() & 0o7777;
    if mode & 0o777 == 0o700 { Ok(()) } else { set_mode(path, mode & !0o777 | 0o700, OTHERS) }
}

/// Sets the mode of a directory, and looks whether `others` have no rights then: some mounts keep no modes.
fn set_mode(path: &Path, mode: u32, others: u32) -> Result<()> {
    let set = fs::set_permissions(path, Permissions::from_mode(mode));
    let now = metadata(path)?.mode() & 0o7777;
    if now & others == 0 {
        return Ok(());
    }
    match set {
        Err(error) if error.kind() != io::ErrorKind::PermissionDenied => Err(Error::io("make private", path, error)),
        _ => exposed(
            path,
            format!(
                "its mode is {now:04o}, whatever is set, so others can look into it: its mount keeps no modes. Choose a \
                 directory on another, or mount this one for its owner alone (`umask=077`; SMB: \
                 `dir_mode=0700,file_mode=0600`; WSL: `metadata`)"
            ),
        ),
    }
}

fn metadata(path: &Path) -> Result<Metadata> {
    fs::metadata(path).map_err(|e| Error::io("look at", path, e))
}

fn me() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Whether the group of a file is one that this process is in.
fn is_own_group(meta: &Metadata) -> bool {
    let group = meta.gid();
    rustix::process::getegid().as_raw() == group
        || rustix::process::getgroups().is_ok_and(|groups| groups.iter().any(|own| own.as_raw() == group))
}

fn check_owner(path: &Path, meta: &Metadata, trust_group: bool) -> Result<()> {
    let (me, owner) = (me(), meta.uid());
    let is_groups = meta.mode() & WRITABLE_BY_GROUP != 0 && is_own_group(meta);
    if owner == me || (trust_group && is_groups) {
        return Ok(());
    }
    let group = is_groups.then(|| meta.gid());
    let advice = match group {
        Some(group) => format!("name a directory in it, or trust its group {group}"),
        None => "run this as its owner".into(),
    };
    let reason = format!("it belongs to user {owner}, and this is user {me}: {advice}");
    Err(Error::Exposed { path: path.to_path_buf(), reason, group })
}

fn check_writable(path: &Path, meta: &Metadata, trust_group: bool) -> Result<()> {
    let mode = meta.mode() & 0o7777;
    let group = mode & WRITABLE_BY_GROUP != 0;
    let all = mode & WRITABLE_BY_ALL != 0;
    if !all && (!group || (trust_group && is_own_group(meta))) {
        return Ok(());
    }
    let group = (!all && is_own_group(meta)).then(|| meta.gid());
    let or_trust = group.map(|group| format!(", or trust its group {group}")).unwrap_or_default();
    let reason = format!(
        "others can write to it (mode {mode:04o}): if you trust what is in it, `chmod 700` it{or_trust} and try again"
    );
    Err(Error::Exposed { path: path.to_path_buf(), reason, group })
}

fn exposed(path: &Path, reason: String) -> Result<()> {
    Err(Error::Exposed { path: path.to_path_buf(), reason, group: None })
}
