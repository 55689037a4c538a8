//! [`SessionStore::open_shared`]: one store for all of a process that open the same directory.

use std::collections::BTreeMap;
use std::thread::{ThreadId, current};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::config::Options;
use crate::error::{Error, Result};
use crate::storage::{self, Hold, Place};
use crate::store::{SessionStore, WeakStore};

/// How long an opening waits for the last commit of a store whose last handle was dropped.
const PATIENCE: Duration = Duration::from_secs(2);

/// What is known of each directory. The lock is held for a look only: never while a store is opened or closed.
static STORES: Mutex<BTreeMap<Place, Known>> = Mutex::new(BTreeMap::new());
/// An opening has ended.
static OPENED: Condvar = Condvar::new();

enum Known {
    /// A thread opens it, and others wait for that.
    Opening(ThreadId),
    Open(Shared),
}

struct Shared {
    store: WeakStore,
    hold: Hold,
}

impl Known {
    /// Whether it may still be needed. The lock of a store is free a little later than its last handle is gone.
    fn is_needed(&self) -> bool {
        match self {
            Self::Opening(_) => true,
            Self::Open(Shared { store, hold }) => !store.is_gone() || !storage::wait_released(*hold, Duration::ZERO),
        }
    }
}

/// What becomes of a call.
enum Turn {
    /// The store is open.
    Joins(SessionStore),
    /// This thread is to open it, once the lock of the one before is free.
    Opens(Opening, Option<Hold>),
    /// This thread is opening it already: a callback has come back.
    Returns,
}

/// The right to open a directory. Others wait until it is dropped, whatever becomes of it.
struct Opening(Place);

impl Opening {
    fn end(self, store: &SessionStore, hold: Hold) {
        let shared = Shared { store: store.downgrade(), hold };
        STORES.lock().insert(self.0, Known::Open(shared));
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        let mut stores = STORES.lock();
        if matches!(stores.get(&self.0), Some(Known::Opening(_))) {
            stores.remove(&self.0);
        }
        OPENED.notify_all();
    }
}

impl SessionStore {
    /// Opens a store as [`open`](SessionStore::open) does, or answers the one that this process has opened with this
    /// verb: all get clones of one store. It closes when the last clone of all is gone.
    ///
    /// A directory is the same whatever its path: by another spelling, a symbolic link, or after it was renamed. Of
    /// several threads that open one at once, one does, and the others wait for it. Openings of different directories do
    /// not wait for each other.
    ///
    /// The options must agree: `trust_group`, `commit_interval`, `max_pending`, `cache_bytes`, `cached_entries`,
    /// `journal_bytes`, `key_policy`, and `clock`. Of the clock that means that none is named, or that the options are a
    /// clone of those that the store was opened with. The path may be another, and `create` matters only where there is
    /// no store.
    ///
    /// A store that was closed, or whose files were removed, is not handed out again. The directory of a removed one is
    /// free at once; that of a closed one when its last clone is gone, and until then the answer is `Locked`. A store that
    /// is read-only since a failure is handed out: its changes answer why.
    ///
    /// # Errors
    /// Those of [`open`](SessionStore::open). [`Error::OptionsDiffer`] names the first setting that differs.
    /// [`Error::Locked`] also where this process has opened the store in another way, as its field `this_process` tells.
    ///
    /// ```
    /// # let directory = tempfile::tempdir()?;
    /// # let path = directory.path().join("sessions.db");
    /// use cloakroom::{Options, SessionStore};
    /// let options = Options::new(path).create(true);
    /// let gateway = SessionStore::open_shared(options.clone())?;
    /// let plugin = SessionStore::open_shared(options)?;
    /// drop(gateway);
    /// assert!(plugin.is_empty());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn open_shared(options: Options) -> Result<Self> {
        options.check()?;
        storage::check_process(&options.path)?;
        loop {
            let directory = storage::directory(&options.path, options.create)?;
            match turn(directory) {
                Turn::Joins(store) => {
                    return match store.options().difference(&options) {
                        None => Ok(store),
                        Some(option) => Err(Error::OptionsDiffer { path: options.path, option }),
                    };
                }
                Turn::Returns => return Err(Error::Locked { path: options.path, holder: None, this_process: true }),
                Turn::Opens(opening, before) => {
                    let store = open_after(before, &options)?;
                    let hold = store.commits().engine()?.hold();
                    // Another may have taken the directory's place before it was opened.
                    if storage::directory(&options.path, false).is_ok_and(|now| now == directory) {
                        opening.end(&store, hold);
                        return Ok(store);
                    }
                }
            }
        }
    }

    /// Whether it may be handed out.
    fn is_in_use(&self) -> bool {
        !self.commits().is_closed() && self.commits().engine().is_ok_and(|engine| !engine.is_removed())
    }
}

/// Opens a store. Where the last handle of the one before is gone, its lock will be free in a moment.
fn open_after(before: Option<Hold>, options: &Options) -> Result<SessionStore> {
    match (SessionStore::open(options.clone()), before) {
        (Err(Error::Locked { this_process: true, .. }), Some(hold)) if storage::wait_released(hold, PATIENCE) => {
            SessionStore::open(options.clone())
        }
        (opened, _) => opened,
    }
}

/// Finds out whether the store of a directory is open. Waits while another thread opens it.
fn turn(directory: Place) -> Turn {
    let mut stores = STORES.lock();
    stores.retain(|_, known| known.is_needed());
    loop {
        let before = match stores.get(&directory) {
            None => None,
            Some(Known::Opening(thread)) if *thread == current().id() => return Turn::Returns,
            Some(Known::Opening(_)) => {
                OPENED.wait(&mut stores);
                continue;
            }
            Some(Known::Open(Shared { store, hold })) => match (store.upgrade(), *hold) {
                (None, hold) => Some(hold),
                (Some(store), _) => {
                    // Dropped with no lock held: it may be the last handle by now.
                    drop(stores);
                    if store.is_in_use() {
                        return Turn::Joins(store);
                    }
                    let dead = store.downgrade();
                    drop(store);
                    stores = STORES.lock();
                    let is_dead = |known: &Known| matches!(known, Known::Open(shared) if shared.store.is_same(&dead));
                    if !stores.get(&directory).is_some_and(is_dead) {
                        continue;
                    }
                    None
                }
            },
        };
        stores.insert(directory, Known::Opening(current().id()));
        return Turn::Opens(Opening(directory), before);
    }
}
