//! Asking whoever has a store open to yield it.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{POINTER, SOCKET};

/// How long whoever yields a store may take for that.
pub(crate) const PATIENCE: Duration = Duration::from_secs(1);

/// Where the socket of a store's view is, if there is one.
pub(crate) fn find(store: &Path) -> Option<PathBuf> {
    if let Ok(path) = fs::read_to_string(store.join(POINTER)) {
        return Some(PathBuf::from(path.trim_end()));
    }
    let socket = store.join(SOCKET);
    fs::symlink_metadata(&socket).is_ok().then_some(socket)
}

/// Asks the process that has a store open to close it. Answers whether it does.
pub(crate) fn ask_to_close(store: &Path) -> bool {
    let ask = || {
        let mut stream = UnixStream::connect(find(store)?).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        stream.set_write_timeout(Some(PATIENCE)).ok()?;
        let request = b"POST /v1/handover HTTP/1.1\r\nHost: live\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
        stream.write_all(request).ok()?;
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).ok()?;
        Some(answer == *b"HTTP/1.1 202")
    };
    ask().unwrap_or(false)
}
