//! Where the live view of a store has its socket, and what a dead one leaves.
//!
//! ```text
//! sessions.db/
//!     live.sock       the socket
//!     live.sock.path  where it is instead, if the path of the directory is too long for a socket
//!     live.new-*/     a socket that is being made
//! ```

#[cfg(feature = "live")]
mod yields;

use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

#[cfg(feature = "live")]
pub(crate) use yields::{PATIENCE, ask_to_close, find};

pub(crate) const SOCKET: &str = "live.sock";
pub(crate) const POINTER: &str = "live.sock.path";
pub(crate) const NEW_PREFIX: &str = "live.new-";

/// Whether a file of a store's directory belongs to a live view.
pub(crate) fn is_name(name: &str) -> bool {
    matches!(name, SOCKET | POINTER) || name.starts_with(NEW_PREFIX)
}

/// Removes what the view of a dead process has left. The caller holds the store's lock and has no view yet.
pub(crate) fn sweep(store: &Path) {
    let Ok(entries) = fs::read_dir(store) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(name) = name.to_str().filter(|name| is_name(name)) else { continue };
        let path = entry.path();
        if name == POINTER
            && let Ok(target) = fs::read_to_string(&path)
            && fs::symlink_metadata(target.trim_end()).is_ok_and(|meta| meta.file_type().is_socket())
        {
            let _ = fs::remove_file(target.trim_end());
        }
        let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
        let removed = if is_directory { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        if let Err(error) = removed
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::debug!(%error, name, "a dead socket stays");
        }
    }
}
