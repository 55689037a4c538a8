//! The live view: a store as it runs, over HTTP on a Unix socket.
//!
//! sled lets one process in. So the gateway, which has the store open, offers a view of it. [`Live::serve`] starts it; the socket is `live.sock` in the directory of the store, and
//! only the user of this process and root may use it. There is no network port.
//!
//! ```no_run
//! use cloakroom::live::{Live, LiveOptions};
//! use cloakroom::watcher::WatcherConfig;
//! use cloakroom::{Options, SessionKey, SessionStore, Watcher};
//! let store = SessionStore::open(Options::new("sessions.db").create(true))?;
//! let watcher = Watcher::spawn(&store, WatcherConfig::default(), |_: &SessionKey| false)?;
//! let live = Live::serve(&store, LiveOptions::new().watcher(&watcher))?;
//! // … the gateway runs; beside it: `curl --unix-socket sessions.db/live.sock http://live/v1/store`
//! live.close();
//! # watcher.stop();
//! # store.close()?;
//! # Ok::<(), cloakroom::Error>(())
//! ```
//!
//! # What it offers
//!
//! `GET /v1/openapi.json` describes all requests. In short: figures of the store, lists with filters and a search, one
//! session, what protects entries from pruning, changes of one entry (`If-Match` takes its revision) or of many, pruning by
//! a plan that was looked at before, events as they happen, exports, backups and checks as streams, and `/metrics` for
//! Prometheus. Entries have *handles* in URLs, sixteen bytes in hexadecimal that stand for a key in this store, so that
//! keys end up in no history. An error is `{"error": {"kind": …, "message": …}}` with the kinds of [`Error`].
//!
//! # What it costs
//!
//! One thread, and up to eight more while requests work on the store. Nothing of it waits for a lock that a touch needs for
//! longer than a look at an entry. Connections, bodies, pages and times are bounded. Lists show what is there now; where more
//! than a thousand changes wait for their commit, the order of a list may be a tenth of a second old.
//!
//! # The end
//!
//! It does not keep the store open. Close it before the store: what is being answered ends then within a second. In a
//! forked process it is not there.

mod body;
mod bulk;
mod change;
mod client;
mod connection;
mod error;
mod events;
mod feeds;
mod handle;
mod history;
mod metrics;
mod options;
mod overview;
mod plans;
mod prune;
mod router;
mod serve;
mod sessions;
mod socket;
mod streams;
mod view;

use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::sync::watch;

use crate::error::{Error, Result};
use crate::fork;
use crate::store::SessionStore;

pub use client::{AskError, Client};
pub use options::LiveOptions;
pub use router::OPENAPI;
use serve::Server;
use socket::Place;
use view::View;

/// The view of a store. See the [module](self).
#[derive(Debug)]
#[must_use = "the view ends when this is dropped"]
pub struct Live {
    stop: watch::Sender<bool>,
    place: Arc<Place>,
    thread: Option<JoinHandle<()>>,
}

impl Live {
    /// Begins to serve the view of a store.
    ///
    /// # Errors
    /// [`Error::Served`] if a view of the store is there already, [`Error::Setting`] if the path of the socket for a
    /// monitoring program is too long, [`Error::Io`] if a socket cannot be made.
    pub fn serve(store: &SessionStore, options: LiveOptions) -> Result<Self> {
        let hold = store.commits().engine()?.hold();
        let place = Arc::new(Place::take(store.path(), hold, options.runtime_dir.clone())?);
        let (stop, stopped) = watch::channel(false);
        let monitor = options.monitor.clone();
        let view = Arc::new(View::new(store, options, stop.clone(), stopped.clone()));
        let server = Server::new(view, Arc::clone(&place), monitor, stopped)?;
        let thread = std::thread::Builder::new()
            .name("cloakroom-live".into())
            .spawn(move || server.run())
            .map_err(|e| Error::io("start the live view of", store.path(), e))?;
        Ok(Self { stop, place, thread: Some(thread) })
    }

    /// Where the socket is.
    #[must_use]
    pub fn socket(&self) -> &std::path::Path {
        self.place.socket()
    }

    /// Ends it, within a second: requests that are being answered get a moment to end, and are cut off then.
    pub fn close(self) {}

    /// Whether it has ended by itself, or is about to: its store is gone, or somebody asked for it where that is allowed.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        *self.stop.borrow() || self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        if fork::is_child() {
            // The thread and the socket are the parent's.
            std::mem::forget((self.thread.take(), self.stop.clone(), Arc::clone(&self.place)));
            return;
        }
        let _ = self.stop.send(true);
        if let Some(thread) = self.thread.take()
            && thread.thread().id() != std::thread::current().id()
        {
            // Its panics are caught inside.
            let _ = thread.join();
        }
    }
}
