//! Compaction: sled's file never shrinks, so a store is copied to a new database that takes the place of the old one.
//! By [`compact`] while nobody has it open, or by [`compact_opened`] as a part of its opening.

use std::path::Path;
use std::sync::Arc;

use super::build::NewDatabase;
use super::open::{Compacted, Opened, open};
use super::verify::verify;
use crate::codec::{ExtrasRow, JournalRow};
use crate::error::{Error, Result, with_causes};
use crate::storage::directory::lock::Lock;
use crate::storage::directory::state::{State, StateFile};
use crate::storage::directory::{files, swap};
use crate::storage::engine::Engine;
use crate::storage::engine::live_parts::LiveParts;
use crate::storage::engine::lookup::{LookUp, look_up};
use crate::storage::engine::trees::{Trees, engine_error, meta, put};
use crate::storage::engine::write::Writer;
use crate::unreadable::if_readable;

/// Rows between two calls that tell how far it is.
const BATCH: u64 = 1024;

/// A database of fewer bytes is not worth the copy.
const MIN_BYTES: u64 = 16 << 20;

/// Compacts the store at `path`, which nobody may have open. `progress` gets the number of rows copied and compared.
/// Answers also what opening the store had to put right, in words.
pub(crate) fn compact(
    path: &Path,
    cache_bytes: u64,
    trust_group: bool,
    progress: impl FnMut(u64),
) -> Result<(Compacted, Vec<String>)> {
    swap::check_place(path)?;
    let mut opened = open(path, false, cache_bytes, trust_group)?;
    let repairs = std::mem::take(&mut opened.repairs);
    Ok((rewrite(opened, cache_bytes, progress)?, repairs))
}

/// Compacts a store that was opened just now, where its database takes more than `ratio` times the live bytes, and opens
/// it again. Where that fails the store is opened as it was, and its repairs say why.
///
/// What a compaction came to is noted, since it may be more than `ratio` allows: the next one waits until the database is
/// a quarter larger.
pub(crate) fn compact_opened(
    mut opened: Opened,
    ratio: f64,
    cache_bytes: u64,
    reopen: impl FnOnce() -> Result<Opened>,
) -> Result<Opened> {
    if !is_worth_it(&opened, ratio)? {
        return Ok(opened);
    }
    let path = opened.engine.path.clone();
    if let Err(error) = swap::check_place(&path) {
        opened.repairs.push(not_compacted(&error));
        return Ok(opened);
    }
    let (clean, mut repairs) = (opened.clean, std::mem::take(&mut opened.repairs));
    let done = rewrite(opened, cache_bytes, |_| {});
    let mut again = reopen()?;
    repairs.append(&mut again.repairs);
    match done {
        Ok(done) => {
            let came_to = files::bytes_below(&files::database(&path))?;
            again.writer.put_meta(&again.engine, meta::COMPACTED, &came_to)?;
            again.compacted = Some(done);
        }
        Err(error) => repairs.push(not_compacted(&error)),
    }
    Ok(Opened { clean, repairs, ..again })
}

fn not_compacted(error: &Error) -> String {
    format!("left the store as large as it was: {}", with_causes(error))
}

#[expect(clippy::cast_precision_loss, reason = "a ratio of sizes")]
fn is_worth_it(opened: &Opened, ratio: f64) -> Result<bool> {
    // After a shortfall the old files may be all that is left to recover something from.
    if opened.created || opened.expected.is_some() {
        return Ok(false);
    }
    let bytes = files::bytes_below(&files::database(&opened.engine.path))?;
    let came_to: u64 = if_readable(opened.engine.meta_value(meta::COMPACTED))?.flatten().unwrap_or(0);
    if bytes < MIN_BYTES || bytes / 5 * 4 < came_to {
        return Ok(false);
    }
    Ok(bytes as f64 > ratio * opened.engine.live_bytes(opened.mark.count)? as f64)
}

/// Checks an opened store, copies it to a new database, compares every row, and lets the copy take its place.
fn rewrite(opened: Opened, cache_bytes: u64, mut progress: impl FnMut(u64)) -> Result<Compacted> {
    let Opened { engine, mut writer, mark, expected, .. } = opened;
    let path = engine.path.clone();
    writer.end_use(&engine).inspect_err(|error| engine.mark_suspect(error))?;
    if let Some(expected) = expected {
        // The old files may be all that is left to recover something from.
        let (there, here) = (expected.count, mark.count);
        let source = format!("it holds {here} entries, and there were {there} when it was last synced").into();
        return Err(Error::Damaged { path: files::database(&path), source });
    }
    let found = verify(&engine)?;
    if !found.violations.is_empty() {
        return Err(Error::Unsound { path, violations: found.violations.len() as u64 });
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
    let new = NewDatabase::create(&path, cache_bytes)?;
    let journal = engine.journal_start()?;
    copy(&engine.trees, journal, &new.trees, &mut tell)?;
    // Opened once more, so that what is compared is what was written.
    let new = NewDatabase::open(new.close()?, cache_bytes)?;
    compare(&engine.trees, journal, &new.trees, &mut tell)?;
    let new = new.close()?;

    drop(writer);
    let (_lock, state) = engine.close()?;
    // It may be either database that is there after an error, so all of it would be in doubt.
    new.take_over().or_else(|error| state.set_synced(State::Failed, 0).and(Err(error)))?;
    let bytes_after = files::bytes_below(&path)?;
    Ok(Compacted { entries: found.entries, bytes_before, bytes_after })
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

/// Visits the rows that count: of the journal those from `journal` on, and all others.
fn for_rows(
    trees: &Trees,
    tree: &sled::Tree,
    journal: u64,
    tell: &mut impl FnMut(u64),
    mut visit: impl FnMut(sled::IVec, sled::IVec) -> Result<()>,
) -> Result<()> {
    let is_journal = tree.name() == trees.journal.name();
    let mut told = 0;
    for row in if is_journal { tree.range(JournalRow::key(journal)..) } else { tree.iter() } {
        let (row, value) = row.map_err(|e| engine_error("read", e))?;
        visit(row, value)?;
        told += 1;
        if told == BATCH {
            tell(std::mem::take(&mut told));
        }
    }
    tell(told);
    Ok(())
}

/// Copies every row that counts. Rows that do not decode would be copied too: they are not for the copy to judge.
pub(in crate::storage) fn copy(original: &Trees, journal: u64, copy: &Trees, tell: &mut impl FnMut(u64)) -> Result<()> {
    for (from, to) in original.all().into_iter().zip(copy.all()) {
        for_rows(original, from, journal, tell, |row, value| put(to, row, &value))?;
    }
    Ok(())
}

/// Holds every row of the copy against the original.
pub(in crate::storage) fn compare(
    original: &Trees,
    journal: u64,
    copy: &Trees,
    tell: &mut impl FnMut(u64),
) -> Result<()> {
    for (tree, copy) in original.all().into_iter().zip(copy.all()) {
        let mut copied = copy.iter();
        for_rows(original, tree, journal, tell, |row, value| {
            let is_same = copied.next().transpose().map_err(|e| engine_error("read", e))? == Some((row, value));
            if is_same { Ok(()) } else { Err(differs(tree)) }
        })?;
        if copied.next().is_some() {
            return Err(differs(tree));
        }
    }
    Ok(())
}

fn differs(tree: &sled::Tree) -> Error {
    let name = String::from_utf8_lossy(&tree.name()).into_owned();
    Error::Engine { action: "copy the database", source: format!("the copy of {name} differs").into() }
}
