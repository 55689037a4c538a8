//! Asking whoever has a store open to yield it.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use super::{POINTER, SOCKET};

/// How long whoever yields a store may take for that, from the asking on.
pub(crate) const PATIENCE: Duration = if cfg!(test) { Duration::from_millis(50) } else { Duration::from_secs(1) };

/// Where the socket of a store's view is, if there is one.
pub(crate) fn find(store: &Path) -> Option<PathBuf> {
    if let Ok(path) = fs::read_to_string(store.join(POINTER)) {
        return Some(PathBuf::from(path.trim_end()));
    }
    let socket = store.join(SOCKET);
    fs::symlink_metadata(&socket).is_ok().then_some(socket)
}

/// Asks the process that has a store open to close it. Answers whether it does. One that hangs is not waited for.
pub(crate) fn ask_to_close(store: &Path) -> bool {
    let began = Instant::now();
    let ask = || {
        let mut stream = connected(&find(store)?)?;
        stream.set_write_timeout(Some(PATIENCE)).ok()?;
        let request = b"POST /v1/handover HTTP/1.1\r\nHost: live\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
        stream.write_all(request).ok()?;
        stream.set_read_timeout(Some(PATIENCE.checked_sub(began.elapsed()).filter(|left| !left.is_zero())?)).ok()?;
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).ok()?;
        Some(answer == *b"HTTP/1.1 202")
    };
    ask().unwrap_or(false)
}

/// A connection, if there is one at once: a process that hangs accepts none, and connecting would wait for it.
fn connected(socket: &Path) -> Option<UnixStream> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let stream = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).ok()?;
    connect(&stream, &SocketAddrUnix::new(socket).ok()?).ok()?;
    let stream = UnixStream::from(stream);
    stream.set_nonblocking(false).ok()?;
    Some(stream)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn nobody_waits_for_a_process_that_hangs() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!ask_to_close(dir.path()));
        let listener = UnixListener::bind(dir.path().join(SOCKET)).unwrap();
        // It takes the request, and says nothing.
        assert!(!ask_to_close(dir.path()));
        // It takes no connection any more.
        rustix::net::listen(&listener, 0).unwrap();
        let mut waiting = Vec::new();
        while let Some(stream) = connected(&dir.path().join(SOCKET)) {
            waiting.push(stream);
        }
        assert!(!ask_to_close(dir.path()));
    }
}
