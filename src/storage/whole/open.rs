//! Opening: lock, repair what a crash may leave, open, and compare with what was last synced.

use crate::storage::engine::trees::{check_clock, open_database, open_trees};
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;

use super::build::NewDatabase;
use crate::codec::{Seed, decode_meta};
use crate::error::{Error, Result};
use crate::storage::directory::files::Found;
use crate::storage::directory::lock::{Lock, Place, check_process, place_of};
use crate::storage::directory::segments::Segments;
use crate::storage::directory::state::{Left, Mark, State, StateFile};
use crate::storage::directory::{access, ballast, files, parts, swap};
use crate::storage::engine::Engine;
use crate::storage::engine::gone::Gone;
use crate::storage::engine::memtable::Memtable;
use crate::storage::engine::structural::Settled;
use crate::storage::engine::trees::{FORMAT, LastHandle, Trees, engine_error, meta};
use crate::storage::engine::waker::FlushWaker;
use crate::storage::engine::write::Writer;
use crate::unreadable::if_readable;

/// An opened store.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) engine: Engine,
    pub(crate) writer: Writer,
    /// What the database holds.
    pub(crate) mark: Mark,
    /// What the state file says it should at least hold, where that is more.
    pub(crate) expected: Option<Mark>,
    /// The store was closed properly, or is new.
    pub(crate) clean: bool,
    /// The store was made just now.
    pub(crate) created: bool,
    /// What was put right, in words.
    pub(crate) repairs: Vec<String>,
    /// What compacting it came to, if that was done.
    pub(crate) compacted: Option<Compacted>,
}

/// What a compaction did.
#[derive(Debug)]
pub(crate) struct Compacted {
    pub(crate) entries: u64,
    pub(crate) bytes_before: u64,
    pub(crate) bytes_after: u64,
}

/// Opens the store at `path`; makes it if there is none and `create` is set.
///
/// Nothing is changed on disk unless a store is there or is to be made.
pub(crate) fn open(path: &Path, create: bool, cache_bytes: u64, trust_group: bool) -> Result<Opened> {
    open_parts(path, create, false, cache_bytes, trust_group)
}

/// Like [`open`], for a repair, which also takes a store whose state is lost.
pub(crate) fn open_to_repair(path: &Path, cache_bytes: u64, trust_group: bool) -> Result<Opened> {
    open_parts(path, false, true, cache_bytes, trust_group)
}

/// Which directory `path` names, however it is spelled. Makes it, empty, if there is none and `create` is set.
pub(crate) fn directory(path: &Path, create: bool) -> Result<Place> {
    if files::inspect(path)? == Found::Nothing {
        if !create {
            return Err(Error::NotFound { path: path.to_path_buf() });
        }
        check_clock()?;
        access::make_directory(path)?;
    }
    std::fs::metadata(path).map(|meta| place_of(&meta)).map_err(|e| Error::io("look at", path, e))
}

fn open_parts(path: &Path, create: bool, repair: bool, cache_bytes: u64, trust_group: bool) -> Result<Opened> {
    check_process(path)?;
    let found = files::inspect(path)?;
    let nothing = || match found {
        Found::Nothing => Error::NotFound { path: path.to_path_buf() },
        _ => Error::NotAStore { path: path.to_path_buf(), reason: "it is empty".into() },
    };
    if !create && found != Found::Store {
        return Err(nothing());
    }
    check_clock()?;
    access::enter(path, &found, trust_group)?;
    let lock = Arc::new(Lock::take(path).map_err(|error| unwritable(path, &found, error))?);
    if found == Found::Store {
        // Not sooner: one that is refused stays as it is.
        access::make_private(path, trust_group)?;
    }
    let mut repairs: Vec<String> = swap::put_back(path)?.into_iter().collect();
    let gathered = parts::gather(path, &lock, repair)?;
    let created = gathered.is_none();
    let state = gathered.map(|(state, more)| {
        repairs.extend(more);
        state
    });
    repairs.extend(swap::sweep(path)?);
    ballast::sweep(path)?;
    let state = Arc::new(match state {
        Some(state) => state,
        // Somebody may have removed it since it was looked for.
        None if !create => return Err(nothing()),
        None => create_database(path, cache_bytes)?,
    });
    lock.note_store()?;

    let mut gave_up = false;
    let mut give_up = || -> Result<bool> {
        gave_up = ballast::give_up(path)?;
        repairs.extend(gave_up.then(|| "gave up the ballast, since the disk was full".to_owned()));
        Ok(gave_up)
    };
    let left = state.found();
    let was_full = left.state == State::Full;
    if was_full {
        // Opening may still find room. The writes that failed would not.
        give_up()?;
    }
    let mut opened = match open_locked(path, &lock, &state, left, cache_bytes) {
        // What the first attempt wrote may look written and not be.
        Err(Error::DiskFull { .. }) if give_up()? => {
            open_locked(path, &lock, &state, Left { state: State::Full, ..left }, cache_bytes)?
        }
        other => other?,
    };
    if gave_up || was_full {
        opened.writer.hold_journal();
    }
    if !gave_up {
        repairs.extend(ballast::take(path));
    }
    opened.created = created;
    opened.repairs.splice(..0, repairs);
    Ok(opened)
}

/// The lock is the first file that is written. Where that is denied to the owner of a store, none of it can be.
fn unwritable(path: &Path, found: &Found, error: Error) -> Error {
    match error {
        Error::PermissionDenied { source, .. } if *found == Found::Store => {
            Error::Unwritable { path: path.to_path_buf(), source }
        }
        error => error,
    }
}

/// Opens the database of a store that is there and locked, and makes what is found durable.
fn open_locked(path: &Path, lock: &Arc<Lock>, state: &Arc<StateFile>, left: Left, cache_bytes: u64) -> Result<Opened> {
    let database = files::database(path);
    let mut repairs = files::remove_half_snapshots(&database)?;
    let segments = Segments::read(&database)?;
    if let Some(bytes) = segments.rewrite_doubted(left)? {
        repairs.push(format!(
            "wrote the database over from its last sync on ({} KiB), since {}",
            bytes.div_ceil(1024),
            match left.state {
                State::Failed | State::Full => "a write or a sync had failed",
                State::Closed | State::Opening | State::Open => "it had not been closed",
            }
        ));
    }
    state.set_synced(State::Opening, segments.doubted_from(left))?;
    let marked = |error: Error| state.fail(&error).and(Err(error));
    // Declared first, so that it is dropped last, after an error too.
    let last;
    let mut are_snapshots_lost = false;
    let db = match open_database(path, &database, cache_bytes) {
        Err(Error::Damaged { source, .. }) => {
            let aside = files::set_snapshots_aside(&database)?;
            if aside.is_empty() {
                return Err(Error::Damaged { path: database, source });
            }
            are_snapshots_lost = true;
            repairs.extend(aside);
            open_database(path, &database, cache_bytes)?
        }
        other => other?,
    };
    last = LastHandle::of(&db);

    // sled wrote its snapshot, gave it its name, and then cleared segments that only an older one needs. The name goes first: with
    // the older snapshot and those segments cleared nothing would be found.
    files::sync_directory(&database).or_else(marked)?;
    // Recovery read what the page cache holds. Make that durable before anybody hears of it.
    let file = std::fs::File::open(database.join("db")).map_err(|e| Error::io("open", &database, e))?;
    swap::sync_tree(&database).or_else(marked)?;
    // Up to where it is synced says the next sync: sled may hold something that it has not written yet.
    state.set(State::Open)?;

    let trees = open_trees(&db)?;
    let waker = FlushWaker::start(db).map_err(|e| Error::io("start a thread for", path, e))?;
    check_format(path, &trees, &database)?;
    let seed = read_seed(&trees, &database)?;
    let mut engine = Engine {
        path: path.to_path_buf(),
        waker,
        trees,
        memtable: Memtable::new(),
        gone: Gone::default(),
        seed,
        file,
        is_linked: false,
        gate: Mutex::default(),
        notes: Mutex::default(),
        last,
        state: Arc::clone(state),
        lock: Arc::clone(lock),
        #[cfg(test)]
        rows_read: std::sync::atomic::AtomicU64::new(0),
    };
    engine.is_linked = engine.links()? > 0;
    let count = if_readable(engine.meta_value(meta::COUNT))?.flatten();
    let commit = if_readable(engine.meta_value(meta::COMMIT))?.flatten().unwrap_or(0);
    let found = Mark { commit, count: count.unwrap_or(0) };
    let (clean, synced) = (left.state == State::Closed, left.mark);
    // The count alone tells nothing: a crash may leave groups of the next commit without its number.
    let expected = synced.filter(|synced| synced.commit > found.commit);
    let mut writer = Writer::new(found, synced);
    let newest = found.commit.max(expected.map_or(0, |mark| mark.commit));
    let mut put_in_order = || {
        // Before what the journal is to forget is settled.
        writer.replay(&engine)?;
        let is_settled = writer.settle(&engine)?;
        // Counting reads the whole store, so it is done only where something speaks against the count.
        let is_doubted = count.is_none()
            || are_snapshots_lost
            || expected.is_some()
            || synced.is_none_or(|synced| synced.commit == found.commit && synced.count != writer.mark().count);
        if is_settled == Settled::Unsure || is_doubted {
            repairs.extend(writer.count_anew(&engine, count)?);
        }
        writer.begin_use(&engine, newest)
    };
    put_in_order().inspect_err(|error| engine.mark_suspect(error))?;
    let mark = Mark { commit: found.commit, count: writer.mark().count };
    Ok(Opened { engine, writer, mark, expected, clean, created: false, repairs, compacted: None })
}

/// Makes the database under a temporary name and renames it into place, so that it is there whole or not at all.
fn create_database(store: &Path, cache_bytes: u64) -> Result<StateFile> {
    let state = StateFile::create(store.join(files::STATE))?;
    let new = NewDatabase::create(store, cache_bytes)?;
    new.put_marks(new_seed()?, 0, 0)?;
    new.close()?.install()?;
    Ok(state)
}

fn check_format(store: &Path, trees: &Trees, database: &Path) -> Result<()> {
    let value = trees.meta.get(meta::FORMAT).map_err(|e| engine_error("read", e))?;
    let Some(value) = value else {
        let source = "the database has no format mark; its content is gone, or it is not ours".into();
        return Err(Error::Damaged { path: database.to_path_buf(), source });
    };
    let damaged = |e| Error::Damaged { path: database.to_path_buf(), source: Box::new(e) };
    match decode_meta::<u32>(&value).map_err(damaged)? {
        found if found > FORMAT => Err(Error::NewerFormat { path: store.to_path_buf(), found, supported: FORMAT }),
        found if found < FORMAT => Err(Error::OlderFormat { path: store.to_path_buf(), found, supported: FORMAT }),
        _ => Ok(()),
    }
}

fn read_seed(trees: &Trees, database: &Path) -> Result<Seed> {
    let value = trees.meta.get(meta::SEED).map_err(|e| engine_error("read", e))?;
    let Some(value) = value else {
        let source = "the database has lost the seed of its fingerprints".into();
        return Err(Error::Damaged { path: database.to_path_buf(), source });
    };
    let seed = decode_meta::<[u8; 16]>(&value);
    Ok(Seed::new(&seed.map_err(|e| Error::Damaged { path: database.to_path_buf(), source: Box::new(e) })?))
}

#[cfg(not(test))]
pub(in crate::storage) fn new_seed() -> Result<[u8; 16]> {
    let mut seed = [0; 16];
    getrandom::fill(&mut seed).map_err(|e| Error::Random { message: e.to_string() })?;
    Ok(seed)
}

/// Unit tests plant rows, so they must know the fingerprints.
#[cfg(test)]
#[expect(clippy::unnecessary_wraps, reason = "it stands in for one that may fail")]
pub(in crate::storage) fn new_seed() -> Result<[u8; 16]> {
    Ok(crate::storage::tests::SEED)
}
