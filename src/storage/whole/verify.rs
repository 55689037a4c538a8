//! Checks every invariant between the trees and reports each violation.
//!
//! It runs beside writers: a batch of rows is checked while the writer's gate is held, and what holds at every crash
//! holds between any two writes.

use std::collections::{HashMap, HashSet};
use std::ops::Bound;

use parking_lot::MutexGuard;

use super::verification::{Verification, Violation};
use crate::codec::{
    Activity, ActivityRow, ExtrasRow, Fingerprint, IdRow, Intent, JournalRow, LeaseRow, Turn, decode_cold,
    whole_fingerprint,
};
use crate::error::Result;
use crate::key::SessionKey;
use crate::storage::engine::live_parts::LiveParts;
use crate::storage::engine::lookup::{LookUp, has, key, look_up};
use crate::storage::engine::trees::{INTENT, engine_error, meta};
use crate::storage::engine::{Engine, damaged, damaged_at};
use crate::time::Timestamp;
use crate::unreadable::if_readable;

/// Rows checked while the writer waits.
const BATCH: usize = 512;
/// Bytes of extras likewise; those of one entry are looked at in one go.
const BATCH_BYTES: u64 = 1 << 20;
/// What a look at another row counts as.
const LOOK_BYTES: u64 = BATCH_BYTES / BATCH as u64;

/// Checks the trees of `engine`.
pub(crate) fn verify(engine: &Engine) -> Result<Verification> {
    let mut found = Verification::default();
    let (mut without_age_row, mut lost) = (WithoutAgeRow::default(), HashSet::new());
    let groups_before = *engine.gate.lock();
    let trees = &engine.trees;
    in_batches(engine, &trees.sessions, |row, value| {
        found.entries += 1;
        check_entry(engine, row, value, &mut found, &mut without_age_row, &mut lost)
    })?;
    // Nothing leads from the fingerprint of such an entry to its key, which is reported on its own.
    let look_up = |engine: &Engine, entry: Fingerprint| {
        if lost.contains(&entry) { Ok(LookUp::Unreadable) } else { look_up(engine, entry) }
    };
    in_batches(engine, &trees.activity, |row, value| {
        match engine.activity_row(row, value) {
            Err(error) => found.fault(engine.damaged_row("activity", row, whole_fingerprint(row).ok(), error))?,
            Ok((_, Activity { key, .. })) => {
                if !engine.contains(&key)? {
                    found.violations.push(Violation::OrphanedActivity { key: key.to_string() });
                }
            }
        }
        Ok(0)
    })?;
    in_batches(engine, &trees.by_updated_at, |key, value| {
        let rows = match engine.page(key, value)?.rows {
            Err(error) => {
                found.fault(damaged_at("by_updated_at", key, error))?;
                return Ok(0);
            }
            Ok(rows) => rows,
        };
        for row in rows.iter().filter(|row| !engine.gone.contains(row)) {
            without_age_row.meet(row);
            // A hot record that cannot be decoded is reported with its own tree.
            if let Some(hot) = if_readable(engine.stored_hot(row.entry))?
                && hot.is_none_or(|hot| hot.updated_at != row.time)
            {
                found.stale_rows += 1;
            }
        }
        Ok(LOOK_BYTES * rows.len() as u64)
    })?;
    without_age_row.report(engine, &mut found)?;
    in_batches(engine, &trees.by_session_id, |row, _| {
        match IdRow::decode(row) {
            Err(error) => found.fault(damaged_at("by_session_id", row, error))?,
            Ok(row) => match look_up(engine, row.entry)? {
                LookUp::Entry(cold) if cold.session_id == row.id => {}
                LookUp::Unreadable => {}
                _ => found.violations.push(Violation::WrongIdRow { key: row.entry.to_string() }),
            },
        }
        Ok(0)
    })?;
    let mut live = LiveParts::default();
    in_batches(engine, &trees.extras, |row, _| {
        match ExtrasRow::decode(row) {
            Err(error) => found.fault(damaged_at("extras", row, error))?,
            Ok(row) => match look_up(engine, row.entry)? {
                LookUp::Entry(cold) if live.needs(engine, row.entry, &cold, row.generation)? => {}
                LookUp::Unreadable => {}
                _ => found.orphaned_chunks += 1,
            },
        }
        Ok(0)
    })?;
    in_batches(engine, &trees.journal, |row, value| {
        if let Err(error) = JournalRow::number(row).and_then(|_| JournalRow::decode(value)) {
            found.fault(damaged_at("journal", row, error))?;
        }
        Ok(0)
    })?;
    let mut late = engine.memtable.entries();
    loop {
        let entries: Vec<_> = late.by_ref().take(BATCH).collect();
        if entries.is_empty() {
            break;
        }
        let _gate = engine.gate.lock();
        for entry in entries {
            if engine.memtable.contains(entry)
                && let LookUp::Missing = look_up(engine, entry)?
            {
                found.violations.push(Violation::OrphanedActivity { key: entry.to_string() });
            }
        }
    }
    in_batches(engine, &trees.turns, |row, value| {
        match Turn::of_row(row, value) {
            Err(error) => found.fault(engine.damaged_row("turns", row, whole_fingerprint(row).ok(), error))?,
            Ok((entry, turn)) => match look_up(engine, entry)? {
                LookUp::Entry(cold) if cold.session_id == turn.session_id => {}
                LookUp::Unreadable => {}
                _ => found.orphaned_turns += 1,
            },
        }
        Ok(0)
    })?;
    in_batches(engine, &trees.leases, |row, value| {
        match LeaseRow::term(row, value) {
            Err(error) => found.fault(engine.damaged_row("leases", row, LeaseRow::entry_of(row), error))?,
            Ok((entry, _)) => found.orphaned_leases += u64::from(matches!(look_up(engine, entry)?, LookUp::Missing)),
        }
        Ok(0)
    })?;
    for note in engine.notes() {
        found.report(note.map(drop))?;
    }
    found.report(engine.zone().map(drop))?;
    let groups = engine.gate.lock();
    let intent = engine.trees.intent.get(INTENT).map_err(|e| engine_error("read", e))?;
    if let Some(Err(error)) = intent.map(|value| Intent::decode(&value)) {
        found.fault(damaged_at("intent", INTENT, error))?;
    }
    let counted = found.report(engine.meta_value(meta::COUNT))?;
    found.count_checked = *groups == groups_before;
    if let Some(counted) = counted.map(|counted: Option<u64>| counted.unwrap_or(0))
        && found.count_checked
        && counted != found.entries
    {
        found.violations.push(Violation::WrongCount { counted, found: found.entries });
    }
    Ok(found)
}

/// Entries whose row by age is not where it belongs. An earlier one would do; the walk over the index looks for it, so
/// that verifying costs the same for few and for many.
#[derive(Default)]
struct WithoutAgeRow(HashMap<Fingerprint, (SessionKey, Timestamp)>);

impl WithoutAgeRow {
    /// Takes a row of the index, and lets go of the entry that it serves.
    fn meet(&mut self, row: &ActivityRow) {
        if self.0.get(&row.entry).is_some_and(|(_, time)| row.time <= *time) {
            self.0.remove(&row.entry);
        }
    }

    /// Reports those that are left, unless they got their row meanwhile.
    fn report(self, engine: &Engine, found: &mut Verification) -> Result<()> {
        let mut left: Vec<_> = self.0.into_iter().map(|(entry, (key, _))| (key, entry)).collect();
        left.sort_unstable();
        for piece in left.chunks(BATCH) {
            let _gate = engine.gate.lock();
            for (key, entry) in piece {
                if !engine.contains(key)? || age_row(engine, *entry)?.is_none_or(|(_, has_row)| has_row) {
                    continue;
                }
                found.violations.push(Violation::NoAgeRow { key: key.to_string() });
            }
        }
        Ok(())
    }
}

/// The time of an entry's hot record in its tree, and whether the index has its row there. `None` where that record is
/// missing or cannot be decoded, which is reported on its own.
fn age_row(engine: &Engine, entry: Fingerprint) -> Result<Option<(Timestamp, bool)>> {
    let Some(Ok(hot)) = engine.activity(entry)?.map(|value| Activity::decode_hot(&value)) else { return Ok(None) };
    Ok(Some((hot.updated_at, engine.has_age_row(&ActivityRow::of(&hot, entry))?)))
}

/// Visits every row of `tree`, a piece at a time, with the writer stopped meanwhile. `visit` answers how many bytes it
/// looked at besides the row.
fn in_batches(engine: &Engine, tree: &sled::Tree, mut visit: impl FnMut(&[u8], &[u8]) -> Result<u64>) -> Result<()> {
    let mut after: Option<sled::IVec> = None;
    loop {
        let gate = engine.gate.lock();
        let mut rows = match &after {
            None => tree.iter(),
            Some(row) => tree.range::<&sled::IVec, _>((Bound::Excluded(row), Bound::Unbounded)),
        };
        let (mut visited, mut bytes) = (0, 0);
        while visited < BATCH && bytes < BATCH_BYTES {
            let Some(row) = rows.next() else { return Ok(()) };
            let (row, value) = row.map_err(|e| engine_error("read", e))?;
            engine.count_row();
            bytes += visit(&row, &value)?;
            after = Some(row);
            visited += 1;
        }
        // Otherwise this thread would take it again before the writer wakes up.
        MutexGuard::unlock_fair(gate);
    }
}

/// Answers how many bytes of extras it looked at.
fn check_entry(
    engine: &Engine,
    row: &[u8],
    value: &[u8],
    found: &mut Verification,
    without_age_row: &mut WithoutAgeRow,
    lost: &mut HashSet<Fingerprint>,
) -> Result<u64> {
    let key = match key(row) {
        Ok(key) => key,
        Err(error) => {
            found.fault(damaged_at("sessions", row, error))?;
            return Ok(0);
        }
    };
    let entry = engine.fingerprint(&key);
    let mut bytes = 0;
    match decode_cold(value) {
        Err(error) => found.fault(damaged("sessions", &key, error))?,
        Ok((cold, _)) => {
            if !has(&engine.trees.by_session_id, IdRow::encode(&cold.session_id, entry))? {
                found.violations.push(Violation::NoIdRow { key: key.to_string() });
            }
            bytes = cold.extras.map_or(0, |extras| extras.bytes_outside());
            if let Err(reason) = engine.check_extras(&key, value)? {
                found.violations.push(Violation::BrokenExtras { key: key.to_string(), reason });
            }
        }
    }
    if !has(&engine.trees.activity, entry.as_bytes())? {
        found.violations.push(Violation::NoActivity { key: key.to_string() });
        lost.insert(entry);
    } else if let Some((time, false)) = age_row(engine, entry)? {
        without_age_row.0.insert(entry, (key, time));
    }
    Ok(bytes)
}
