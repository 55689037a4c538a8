//! Opening: lock, repair what a crash may leave, open, and compare with what was last synced.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use parking_lot::Mutex;

use super::access;
use super::checkpoint::{Checkpoint, Mark};
use super::files::{self, Found, Lock};
use super::waker::FlushWaker;
use super::{Engine, FORMAT, LastHandle, Trees, Writer, damaged_row, engine_error, meta};
use crate::codec::{Seed, decode_meta, encode_meta};
use crate::error::{Error, Result};

/// sled counts its cache in bytes as they are on disk. In memory a page takes about three times as much.
const CACHE_EXPANSION: u64 = 3;

/// sled's lock may linger after a drop, while its threads end. Ours is free by then, so it is only a wait.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_STEP: Duration = Duration::from_millis(10);

/// An opened store.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) engine: Engine,
    pub(crate) writer: Writer,
    /// What the database holds.
    pub(crate) mark: Mark,
    /// What the checkpoint file says it should at least hold, where that is more.
    pub(crate) expected: Option<Mark>,
    /// The store was closed properly, or is new.
    pub(crate) clean: bool,
    /// The store was made just now.
    pub(crate) created: bool,
    /// What was put right, in words.
    pub(crate) repairs: Vec<String>,
}

/// Opens the store at `path`; makes it if there is none and `create` is set.
///
/// Nothing is changed on disk unless a store is there or is to be made.
pub(crate) fn open(path: &Path, create: bool, cache_bytes: u64) -> Result<Opened> {
    let found = files::inspect(path)?;
    match &found {
        Found::Nothing if !create => return Err(Error::NotFound { path: path.to_path_buf() }),
        Found::Empty if !create => {
            let reason = "it is empty".into();
            return Err(Error::NotAStore { path: path.to_path_buf(), reason });
        }
        Found::Nothing => access::make_directory(path)?,
        Found::Empty | Found::Store => access::check(path, &found)?,
    }
    // Before anything is made in it.
    access::make_private(path)?;
    let lock = Lock::take(path)?;
    let mut repairs = files::sweep(path)?;
    let created = files::inspect(path)? != Found::Store;
    if created {
        create_database(path, cache_bytes)?;
    }

    let database = files::database(path);
    for name in ["conf", "db"] {
        // sled would make a new, empty one.
        let file = database.join(name);
        if std::fs::metadata(&file).map_or(true, |meta| meta.len() == 0) {
            return Err(Error::Damaged {
                path: database,
                source: format!("{} is missing or empty", file.display()).into(),
            });
        }
    }
    repairs.extend(files::remove_half_snapshots(&database)?);
    if lock.is_suspect() {
        files::rewrite_tree(&database)?;
        repairs.push("wrote the database over, since a sync had failed".into());
    }
    // Declared first, so that it is dropped last, after an error too.
    let last;
    let db = match open_database(path, &database, cache_bytes) {
        Err(Error::Damaged { source, .. }) => {
            let aside = files::set_snapshots_aside(&database)?;
            if aside.is_empty() {
                return Err(Error::Damaged { path: database, source });
            }
            repairs.extend(aside);
            open_database(path, &database, cache_bytes)?
        }
        other => other?,
    };
    last = LastHandle::of(&db);

    // Recovery read what the page cache holds. Make that durable before anybody is told of it.
    let file = std::fs::File::open(database.join("db")).map_err(|e| Error::io("open", &database, e))?;
    files::sync_tree(&database).or_else(|error| lock.write(true).and(Err(error)))?;
    lock.write(false)?;

    let trees = open_trees(&db)?;
    let waker = FlushWaker::start(db).map_err(|e| Error::io("start a thread for", path, e))?;
    check_format(path, &trees, &database)?;
    let seed = read_seed(&trees, &database)?;
    let engine =
        Engine { path: path.to_path_buf(), _waker: waker, trees, seed, file, gate: Mutex::new(()), last, lock };
    let mark = Mark {
        commit: engine.meta_value(meta::COMMIT)?.unwrap_or(0),
        count: engine.meta_value(meta::COUNT)?.unwrap_or(0),
    };
    let clean = engine.meta_value(meta::CLEAN)?.unwrap_or(false);
    let checkpoint = Checkpoint::open(path.join(files::CHECKPOINT))?;
    // The count alone tells nothing: a crash may leave transactions of the next commit without its number.
    let expected = checkpoint.last().filter(|last| last.commit > mark.commit);
    let mut writer = Writer::new(mark, checkpoint);
    writer
        .begin_use(&engine, mark.commit.max(expected.map_or(0, |mark| mark.commit)))
        .inspect_err(|_| engine.mark_suspect())?;
    Ok(Opened { engine, writer, mark, expected, clean, created, repairs })
}

/// Makes the database under a temporary name and renames it into place, so that it is there whole or not at all.
fn create_database(store: &Path, cache_bytes: u64) -> Result<()> {
    let new = files::new_database(store)?;
    access::private_directory(&new)?;
    // sled would make it under the umask.
    access::private_directory(&new.join("blobs"))?;
    let made = (|| {
        let mut last;
        let db = open_database(store, &new, cache_bytes)?;
        last = LastHandle::of(&db);
        let trees = open_trees(&db)?;
        let seed = new_seed()?;
        for (name, value) in [
            (meta::FORMAT, encode_meta(&FORMAT)),
            (meta::SEED, encode_meta(&seed)),
            (meta::COUNT, encode_meta(&0_u64)),
            (meta::COMMIT, encode_meta(&0_u64)),
            (meta::CLEAN, encode_meta(&true)),
        ] {
            let value = value.map_err(|e| damaged_row("meta", e))?;
            trees.meta.insert(name, value).map_err(|e| engine_error("create", e))?;
        }
        db.flush().map_err(|e| engine_error("create", e))?;
        // sled syncs while it is dropped. If that fails no later sync saves what it wrote.
        drop((trees, db));
        last.close().map_err(|said| Error::Engine { action: "create the database", source: said.into() })?;
        files::install(&new, store)
    })();
    if made.is_err() {
        // A full disk is the likely cause; do not leave half a database on it.
        let _ = std::fs::remove_dir_all(&new);
    }
    made
}

fn open_database(store: &Path, database: &PathBuf, cache_bytes: u64) -> Result<sled::Db> {
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
                    return Err(Error::Locked { path: store.to_path_buf(), holder: None });
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

fn open_trees(db: &sled::Db) -> Result<Trees> {
    let tree = |name: &str| db.open_tree(name).map_err(|e| engine_error("open", e));
    Ok(Trees {
        sessions: tree("sessions")?,
        names: tree("names")?,
        activity: tree("activity")?,
        by_updated_at: tree("by_updated_at")?,
        by_session_id: tree("by_session_id")?,
        extras: tree("extras")?,
        turns: tree("turns")?,
        meta: tree("meta")?,
    })
}

fn check_format(store: &Path, trees: &Trees, database: &Path) -> Result<()> {
    let value = trees.meta.get(meta::FORMAT).map_err(|e| engine_error("read", e))?;
    let Some(value) = value else {
        let source = "the database has no format mark; its content is gone, or it is not ours".into();
        return Err(Error::Damaged { path: database.to_path_buf(), source });
    };
    match decode_meta::<u32>(&value).map_err(|e| damaged_row("meta", e))? {
        found if found > FORMAT => Err(Error::NewerFormat { path: store.to_path_buf(), found, supported: FORMAT }),
        _ => Ok(()),
    }
}

fn read_seed(trees: &Trees, database: &Path) -> Result<Seed> {
    let value = trees.meta.get(meta::SEED).map_err(|e| engine_error("read", e))?;
    let Some(value) = value else {
        let source = "the database has lost the seed of its fingerprints".into();
        return Err(Error::Damaged { path: database.to_path_buf(), source });
    };
    Ok(Seed::new(&decode_meta::<[u8; 16]>(&value).map_err(|e| damaged_row("meta", e))?))
}

#[cfg(not(test))]
fn new_seed() -> Result<[u8; 16]> {
    let mut seed = [0; 16];
    getrandom::fill(&mut seed).map_err(|e| Error::Random { message: e.to_string() })?;
    Ok(seed)
}

/// Unit tests plant rows, so they must know the fingerprints.
#[cfg(test)]
#[expect(clippy::unnecessary_wraps, reason = "it stands in for one that may fail")]
fn new_seed() -> Result<[u8; 16]> {
    Ok(super::tests::SEED)
}
