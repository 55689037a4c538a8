//! Compaction: sled's file never shrinks, so a store is copied to a new database that takes the place of the old one.

use std::path::Path;
use std::sync::Arc;

use super::build::{NewDatabase, put};
use super::open::{Opened, open};
use super::verify::verify;
use crate::codec::ExtrasRow;
use crate::error::{Error, Result};
use crate::storage::directory::lock::Lock;
use crate::storage::directory::state::{State, StateFile};
use crate::storage::directory::{files, swap};
use crate::storage::engine::Engine;
use crate::storage::engine::live_parts::LiveParts;
use crate::storage::engine::lookup::{LookUp, look_up};
use crate::storage::engine::trees::{Trees, engine_error};
use crate::storage::engine::write::Writer;

/// Rows between two calls that tell how far it is.
const BATCH: u64 = 1024;

/// What a compaction did.
#[derive(Debug)]
pub(crate) struct Compacted {
    pub(crate) entries: u64,
    pub(crate) bytes_before: u64,
    pub(crate) bytes_after: u64,
    /// What opening the store had to put right, in words.
    pub(crate) repairs: Vec<String>,
}

/// Compacts the store at `path`, which nobody may have open. `progress` gets the number of rows copied and compared.
pub(crate) fn compact(
    path: &Path,
    cache_bytes: u64,
    trust_group: bool,
    mut progress: impl FnMut(u64),
) -> Result<Compacted> {
    swap::check_place(path)?;
    let Opened { engine, mut writer, mark, expected, repairs, .. } = open(path, false, cache_bytes, trust_group)?;
    writer.end_use(&engine).inspect_err(|error| engine.mark_suspect(error))?;
    if let Some(expected) = expected {
        // The old files may be all that is left to recover something from.
        let (there, here) = (expected.count, mark.count);
        let source = format!("it holds {here} entries, and there were {there} when it was last synced").into();
        return Err(Error::Damaged { path: files::database(path), source });
    }
    let found = verify(&engine)?;
    if !found.violations.is_empty() {
        return Err(Error::Unsound { path: path.to_path_buf(), violations: found.violations.len() as u64 });
    }
    let bytes_before = engine.bytes_on_disk()?;
    if found.orphaned_chunks + found.orphaned_turns > 0 {
        writer.drop_orphans(&engine)?;
    }

    let mut rows = 0;
    let mut tell = |more: u64| {
        rows += more;
        progress(rows);
    };
    let new = NewDatabase::create(path, cache_bytes)?;
    copy(&engine.trees, &new.trees, &mut tell)?;
    // Opened once more, so that what is compared is what was written.
    let new = NewDatabase::open(new.close()?, cache_bytes)?;
    compare(&engine.trees, &new.trees, &mut tell)?;
    let new = new.close()?;

    drop(writer);
    let (_lock, state) = engine.close()?;
    // It may be either database that is there after an error, so all of it would be in doubt.
    new.take_over().or_else(|error| state.set_synced(State::Failed, 0).and(Err(error)))?;
    let bytes_after = files::bytes_below(path)?;
    Ok(Compacted { entries: found.entries, bytes_before, bytes_after, repairs })
}

impl Engine {
    /// Closes the database and keeps the store locked.
    fn close(self) -> Result<(Arc<Lock>, Arc<StateFile>)> {
        let Self { path, waker, trees, file, mut last, state, lock, .. } = self;
        drop((waker, trees, file));
        match last.close() {
            Ok(()) => Ok((lock, state)),
            Err(said) => {
                state.set(State::Failed)?;
                Err(Error::Damaged { path: files::database(&path), source: said.into() })
            }
        }
    }
}

impl Writer {
    /// Removes what a crash has left of entries that are gone: nobody could name it any more to have it erased.
    fn drop_orphans(&mut self, engine: &Engine) -> Result<()> {
        let mut parts = LiveParts::default();
        for row in engine.trees.extras.iter().keys() {
            let row = row.map_err(|e| engine_error("read", e))?;
            let Ok(ExtrasRow { entry, generation, .. }) = ExtrasRow::decode(&row) else { continue };
            let is_needed = match look_up(engine, entry)? {
                LookUp::Entry(cold) => parts.needs(engine, entry, &cold, generation)?,
                LookUp::Missing => false,
                // It is not known whose it is.
                LookUp::Unreadable => true,
            };
            if !is_needed {
                self.remove(engine, &engine.trees.extras, row)?;
            }
        }
        for (entry, turn) in engine.turns()?.into_iter().flatten() {
            if !matches!(look_up(engine, entry)?, LookUp::Entry(cold) if cold.session_id == turn.session_id) {
                self.remove(engine, &engine.trees.turns, entry.as_bytes())?;
            }
        }
        self.end_use(engine)
    }
}

/// Copies every row. Rows that do not decode would be copied too: they are not for the copy to judge.
pub(in crate::storage) fn copy(from: &Trees, to: &Trees, tell: &mut impl FnMut(u64)) -> Result<()> {
    for (from, to) in from.all().into_iter().zip(to.all()) {
        let mut rows = 0;
        for row in from.iter() {
            let (row, value) = row.map_err(|e| engine_error("read", e))?;
            put(to, row, &value)?;
            rows += 1;
            if rows == BATCH {
                tell(std::mem::take(&mut rows));
            }
        }
        tell(rows);
    }
    Ok(())
}

/// Holds every row of the copy against the original.
pub(in crate::storage) fn compare(original: &Trees, copy: &Trees, tell: &mut impl FnMut(u64)) -> Result<()> {
    for (original, copy) in original.all().into_iter().zip(copy.all()) {
        let mut rows = 0;
        let mut copied = copy.iter();
        for row in original.iter() {
            let row = row.map_err(|e| engine_error("read", e))?;
            if copied.next().transpose().map_err(|e| engine_error("read", e))? != Some(row) {
                return Err(differs(original));
            }
            rows += 1;
            if rows == BATCH {
                tell(std::mem::take(&mut rows));
            }
        }
        if copied.next().is_some() {
            return Err(differs(original));
        }
        tell(rows);
    }
    Ok(())
}

fn differs(tree: &sled::Tree) -> Error {
    let name = String::from_utf8_lossy(&tree.name()).into_owned();
    Error::Engine { action: "copy the database", source: format!("the copy of {name} differs").into() }
}
