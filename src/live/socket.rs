//! The socket of a view: it has its mode before it has its name, and goes with its maker.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use parking_lot::Mutex;

use crate::error::{Error, Result};
use crate::fork;
use crate::random;
use crate::socket::{NEW_PREFIX, POINTER, SOCKET};
use crate::storage::Hold;

/// What fits into the address of a socket on every Unix, with some to spare.
const MAX_PATH_BYTES: usize = 100;

/// The stores of this process that have a view, by the taking of their lock.
static SERVED: Mutex<BTreeSet<Hold>> = Mutex::new(BTreeSet::new());

/// Where the socket of a store's view is. No other view of the store is served while it is there.
#[derive(Debug)]
pub(super) struct Place {
    hold: Hold,
    store: PathBuf,
    socket: PathBuf,
    /// Device and inode of the socket that was made last.
    made: Mutex<Option<(u64, u64)>>,
}

impl Place {
    pub(super) fn take(store: &Path, hold: Hold, runtime_dir: Option<PathBuf>) -> Result<Self> {
        let socket = store.join(SOCKET);
        // It is made under the longer name.
        let longest = store.join(format!("{NEW_PREFIX}{:016x}", 0)).join("s");
        let socket = if longest.as_os_str().len() <= MAX_PATH_BYTES { socket } else { elsewhere(runtime_dir)? };
        if !SERVED.lock().insert(hold) {
            return Err(Error::Served { path: store.to_path_buf() });
        }
        Ok(Self { hold, store: store.to_path_buf(), socket, made: Mutex::new(None) })
    }

    pub(super) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Makes the socket. It is in nobody's reach before only its owner may use it.
    pub(super) fn bind(&self) -> Result<UnixListener> {
        let error = |e| Error::io("make the socket", &self.socket, e);
        let parent = crate::outfile::parent(&self.socket);
        let draft = Draft::new(parent).map_err(error)?;
        let listener = draft.bind(0o600).map_err(error)?;
        let made = identity(&draft.socket());
        fs::rename(draft.socket(), &self.socket).map_err(error)?;
        *self.made.lock() = made;
        if self.is_elsewhere() {
            self.point().map_err(|e| Error::io("write", self.store.join(POINTER), e))?;
        }
        Ok(listener)
    }

    /// Whether the socket that was made last has its name still.
    fn is_there(&self) -> bool {
        let found = identity(&self.socket);
        found.is_some() && found == *self.made.lock()
    }

    /// Makes anew what somebody has removed. Answers the socket, if that is another.
    pub(super) fn mend(&self) -> Result<Option<UnixListener>> {
        if !self.is_there() {
            return self.bind().map(Some);
        }
        let is_pointed_at =
            || fs::read(self.store.join(POINTER)).is_ok_and(|to| to == self.socket.as_os_str().as_bytes());
        if self.is_elsewhere() && !is_pointed_at() {
            self.point().map_err(|e| Error::io("write", self.store.join(POINTER), e))?;
        }
        Ok(None)
    }

    fn is_elsewhere(&self) -> bool {
        crate::outfile::parent(&self.socket) != self.store
    }

    fn point(&self) -> io::Result<()> {
        let draft = Draft::new(&self.store)?;
        let name = draft.0.join("p");
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&name)?;
        file.write_all(self.socket.as_os_str().as_bytes())?;
        fs::rename(&name, self.store.join(POINTER))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if fork::is_child() {
            return;
        }
        if self.is_there() {
            let _ = fs::remove_file(&self.socket);
            if self.is_elsewhere() {
                let _ = fs::remove_file(self.store.join(POINTER));
            }
        }
        SERVED.lock().remove(&self.hold);
    }
}

/// Device and inode of what is at a path.
fn identity(path: &Path) -> Option<(u64, u64)> {
    fs::symlink_metadata(path).ok().map(|meta| (meta.dev(), meta.ino()))
}

/// Where the socket of a monitoring program is, which others may reach. Peers are told apart by their user.
#[derive(Debug)]
pub(super) struct MonitorPlace {
    path: PathBuf,
    made: Option<(u64, u64)>,
}

impl MonitorPlace {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, made: None }
    }

    pub(super) fn bind(&mut self) -> Result<UnixListener> {
        let path = &self.path;
        if path.as_os_str().len() > MAX_PATH_BYTES {
            return Err(Error::Setting {
                setting: "the path of the monitoring socket",
                value: path.display().to_string(),
                expected: "it has at most 100 bytes",
            });
        }
        let error = |e| Error::io("make the socket", path, e);
        if UnixStream::connect(path).is_ok() {
            return Err(error(io::ErrorKind::AddrInUse.into()));
        }
        match fs::symlink_metadata(path) {
            Ok(meta) if std::os::unix::fs::FileTypeExt::is_socket(&meta.file_type()) => {
                fs::remove_file(path).map_err(error)?;
            }
            Ok(_) => return Err(error(io::ErrorKind::AlreadyExists.into())),
            Err(_) => {}
        }
        let listener = UnixListener::bind(path).map_err(error)?;
        fs::set_permissions(path, Permissions::from_mode(0o666)).map_err(error)?;
        self.made = identity(path);
        Ok(listener)
    }

    fn is_there(&self) -> bool {
        self.made.is_some() && identity(&self.path) == self.made
    }

    /// Makes it anew, if somebody has removed it.
    pub(super) fn mend(&mut self) -> Result<Option<UnixListener>> {
        if self.is_there() { Ok(None) } else { self.bind().map(Some) }
    }
}

impl Drop for MonitorPlace {
    fn drop(&mut self) {
        if !fork::is_child() && self.is_there() {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// A directory for this user alone, in which a file gets its mode before it gets its name.
struct Draft(PathBuf);

impl Draft {
    fn new(parent: &Path) -> io::Result<Self> {
        let random = random::bits().map_err(io::Error::other)?;
        let path = parent.join(format!("{NEW_PREFIX}{random:016x}"));
        DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self(path))
    }

    fn socket(&self) -> PathBuf {
        self.0.join("s")
    }

    fn bind(&self, mode: u32) -> io::Result<UnixListener> {
        let listener = UnixListener::bind(self.socket())?;
        fs::set_permissions(self.socket(), Permissions::from_mode(mode))?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A name for a socket whose store has too long a path.
fn elsewhere(runtime_dir: Option<PathBuf>) -> Result<PathBuf> {
    let uid = rustix::process::geteuid().as_raw();
    let directory = runtime_dir.unwrap_or_else(|| match std::env::var_os("XDG_RUNTIME_DIR") {
        Some(runtime) if !runtime.is_empty() => PathBuf::from(runtime).join("cloakroom"),
        _ => std::env::temp_dir().join(format!("cloakroom-{uid}")),
    });
    match DirBuilder::new().mode(0o700).create(&directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(Error::io("create", &directory, error));
        }
        _ => {}
    }
    let meta = fs::symlink_metadata(&directory).map_err(|e| Error::io("look at", &directory, e))?;
    if !meta.is_dir() || meta.uid() != uid || meta.mode() & 0o077 != 0 {
        let reason = "sockets lie in it, so it must be this user's, and closed to others (`chmod 700`)".into();
        return Err(Error::Exposed { path: directory, reason, group: None });
    }
    let random = random::bits()?;
    let socket = directory.join(format!("{random:016x}.sock"));
    let longest = directory.join(format!("{NEW_PREFIX}{random:016x}")).join("s");
    if longest.as_os_str().len() > MAX_PATH_BYTES {
        return Err(Error::Setting {
            setting: "the directory of sockets",
            value: directory.display().to_string(),
            expected: "its path is so long that no socket can be in it; name another",
        });
    }
    Ok(socket)
}
