//! sled's database and its trees: how they are opened, and how they are closed.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::error::{Error, Result};
use crate::fork;

/// The format this program writes, and the only one it reads: before the first release the old ones are dropped.
pub(in crate::storage) const FORMAT: u32 = 5;

/// Names in the `meta` tree.
pub(in crate::storage) mod meta {
    pub(in crate::storage) const FORMAT: &str = "format";
    pub(in crate::storage) const SEED: &str = "seed";
    pub(in crate::storage) const COUNT: &str = "count";
    pub(in crate::storage) const COMMIT: &str = "commit";
    pub(in crate::storage) const ZONE: &str = "zone";
    pub(in crate::storage) const CLOCK: &str = "clock";
    /// The number of the first row of the journal that counts, and the bytes of those before it; absent while all do.
    pub(in crate::storage) const JOURNAL: &str = "journal";
    /// The bytes of the database after it was last compacted by an opening; absent where none did.
    pub(in crate::storage) const COMPACTED: &str = "compacted";
}

/// The one row of `intent`.
pub(in crate::storage) const INTENT: &[u8] = b"group";

#[derive(Debug, Clone)]
pub(in crate::storage) struct Trees {
    pub(in crate::storage) sessions: sled::Tree,
    pub(in crate::storage) activity: sled::Tree,
    pub(in crate::storage) by_updated_at: sled::Tree,
    pub(in crate::storage) by_session_id: sled::Tree,
    pub(in crate::storage) extras: sled::Tree,
    pub(in crate::storage) journal: sled::Tree,
    pub(in crate::storage) turns: sled::Tree,
    pub(in crate::storage) leases: sled::Tree,
    pub(in crate::storage) intent: sled::Tree,
    pub(in crate::storage) meta: sled::Tree,
}

impl Trees {
    /// Each of them, always in the same order.
    pub(in crate::storage) fn all(&self) -> [&sled::Tree; 10] {
        let Self { sessions, activity, by_updated_at, by_session_id, extras, journal, turns, leases, intent, meta } =
            self;
        [sessions, activity, by_updated_at, by_session_id, extras, journal, turns, leases, intent, meta]
    }
}

/// sled counts its cache in bytes as they are on disk. In memory a page takes about three times as much.
const CACHE_EXPANSION: u64 = 3;

/// sled's lock may linger after a drop, while its threads end. We hold our own lock, so waiting is safe.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_STEP: Duration = Duration::from_millis(10);

/// Before 1970 sled panics as soon as it is configured, for a name that it does not need.
pub(in crate::storage) fn check_clock() -> Result<()> {
    SystemTime::now().duration_since(UNIX_EPOCH).map(drop).map_err(|_| {
        let source = "the clock of this machine stands before 1970: set it".into();
        Error::Engine { action: "start", source }
    })
}

pub(in crate::storage) fn open_database(store: &Path, database: &PathBuf, cache_bytes: u64) -> Result<sled::Db> {
    check_clock()?;
    let config = sled::Config::new()
        .path(database)
        .cache_capacity(cache_bytes / CACHE_EXPANSION)
        .mode(sled::Mode::HighThroughput)
        // The committer decides when to flush.
        .flush_every_ms(None);
    let mut waited = Duration::ZERO;
    loop {
        // sled panics on some damaged files.
        let error = match catch_unwind(AssertUnwindSafe(|| config.open())) {
            Ok(Ok(db)) => return Ok(db),
            Ok(Err(error)) => error,
            Err(panic) => {
                let source = crate::error::panic_message(&*panic).into();
                return Err(Error::Damaged { path: database.clone(), source });
            }
        };
        match error {
            sled::Error::Io(error) if error.to_string().contains("could not acquire lock") => {
                if waited >= LINGER {
                    return Err(Error::Locked { path: store.to_path_buf(), holder: None, this_process: false });
                }
                std::thread::sleep(LINGER_STEP);
                waited += LINGER_STEP;
            }
            sled::Error::Io(error) if error.kind() != std::io::ErrorKind::UnexpectedEof => {
                return Err(Error::io("open", database, error));
            }
            error => return Err(Error::Damaged { path: database.clone(), source: Box::new(error) }),
        }
    }
}

pub(in crate::storage) fn open_trees(db: &sled::Db) -> Result<Trees> {
    let tree = |name: &str| db.open_tree(name).map_err(|e| engine_error("open", e));
    Ok(Trees {
        sessions: tree("sessions")?,
        activity: tree("activity")?,
        by_updated_at: tree("by_updated_at")?,
        by_session_id: tree("by_session_id")?,
        extras: tree("extras")?,
        journal: tree("journal")?,
        turns: tree("turns")?,
        leases: tree("leases")?,
        intent: tree("intent")?,
        meta: tree("meta")?,
    })
}

/// A handle that outlives all others, so that the database closes when it is dropped. sled panics there after a failed
/// write; that panic ends here. Each tree is a handle too.
#[derive(Debug)]
pub(in crate::storage) struct LastHandle(Option<sled::Db>);

impl LastHandle {
    pub(in crate::storage) fn of(db: &sled::Db) -> Self {
        Self(Some(db.clone()))
    }

    /// Drops it. The error is what sled's panic said: its last sync failed.
    pub(in crate::storage) fn close(&mut self) -> Result<(), String> {
        let db = self.0.take();
        if fork::is_child() {
            std::mem::forget(db);
            return Ok(());
        }
        catch_unwind(AssertUnwindSafe(|| drop(db))).map_err(|panic| crate::error::panic_message(&*panic))
    }

    pub(in crate::storage) fn db(&self) -> Option<&sled::Db> {
        self.0.as_ref()
    }
}

impl Drop for LastHandle {
    fn drop(&mut self) {
        if self.close().is_err() {
            tracing::warn!("the database panicked while closing; what was synced is safe");
        }
    }
}

/// A row of a tree to be written: its key, and its value or that it goes.
pub(in crate::storage) type Write = (Vec<u8>, Option<Vec<u8>>);

pub(in crate::storage) fn put(tree: &sled::Tree, row: impl AsRef<[u8]>, value: &[u8]) -> Result<()> {
    tree.insert(row, value).map(drop).map_err(|e| engine_error("write", e))
}

pub(in crate::storage) fn delete(tree: &sled::Tree, row: impl AsRef<[u8]>) -> Result<()> {
    tree.remove(row).map(drop).map_err(|e| engine_error("write", e))
}

/// Turns sled's error into ours. sled's own type stays inside.
pub(in crate::storage) fn engine_error(action: &'static str, error: sled::Error) -> Error {
    match error {
        sled::Error::Io(source) => Error::io(action, "the database", source),
        other => Error::Engine { action, source: Box::new(other) },
    }
}
