//! How to serve a view.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use crate::prune::ActivityGuard;
use crate::watcher::{SeenWatcher, Watcher};

/// How [`Live::serve`](super::Live::serve) serves a view.
#[derive(Clone, Default)]
pub struct LiveOptions {
    pub(super) read_only: bool,
    pub(super) hands_over: bool,
    pub(super) guard: Option<Arc<dyn ActivityGuard>>,
    pub(super) watcher: Option<SeenWatcher>,
    pub(super) monitor: Option<Monitor>,
    pub(super) runtime_dir: Option<PathBuf>,
}

/// A second socket, for one more user.
#[derive(Debug, Clone)]
pub(super) struct Monitor {
    pub(super) path: PathBuf,
    pub(super) uid: u32,
}

impl fmt::Debug for LiveOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LiveOptions")
            .field("read_only", &self.read_only)
            .field("hands_over", &self.hands_over)
            .field("guard", &self.guard.is_some())
            .field("watcher", &self.watcher.is_some())
            .field("monitor", &self.monitor)
            .finish_non_exhaustive()
    }
}

impl LiveOptions {
    /// A view that may change the store, but not prune it: that takes a [`guard`](Self::guard) or a
    /// [`watcher`](Self::watcher).
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether the view refuses all changes.
    #[must_use]
    pub fn read_only(mut self, read_only: bool) -> Self {
        self.read_only = read_only;
        self
    }

    /// Shows what the watcher does, lets its next pass be asked for, and prunes with its guard.
    #[must_use]
    pub fn watcher(mut self, watcher: &Watcher) -> Self {
        self.watcher = Some(watcher.seen());
        self
    }

    /// Lets the view prune, and asks this guard then, where there is no watcher, or in the place of its guard.
    /// [`NoActivity`](crate::prune::NoActivity) says that nothing is ever active.
    #[must_use]
    pub fn guard(mut self, guard: impl ActivityGuard + 'static) -> Self {
        self.guard = Some(Arc::new(guard));
        self
    }

    /// A second socket at `path`, for the monitoring program of one more user: it offers `/metrics` and `/v1/store`, and
    /// nothing else. The directory must be one that this user can reach. The path has at most 100 bytes.
    #[must_use]
    pub fn monitor(mut self, path: impl Into<PathBuf>, uid: u32) -> Self {
        self.monitor = Some(Monitor { path: path.into(), uid });
        self
    }

    /// Where sockets go whose path in the store's directory would be too long. The default is `cloakroom` in
    /// `XDG_RUNTIME_DIR`, or a directory of this user in the system's one for temporary files. Nobody else may be able to
    /// write to it.
    #[must_use]
    pub fn runtime_dir(mut self, directory: impl Into<PathBuf>) -> Self {
        self.runtime_dir = Some(directory.into());
        self
    }

    /// Lets whoever wants to open the store ask this process to close it: see
    /// [`Options::take_over`](crate::Options::take_over). It is for programs that look at a store for a while and yield to the gateway. The view ends then, and
    /// [`Live::has_ended`](super::Live::has_ended) tells so; the program closes the store.
    #[must_use]
    pub fn hands_over(mut self, hands_over: bool) -> Self {
        self.hands_over = hands_over;
        self
    }
}
