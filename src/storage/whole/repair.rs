//! The second half of a repair: rebuilds every index from the entries, and removes what belongs to none.
//!
//! It is for a store that nobody else writes: it takes the [`Writer`] before the committer has it. Each step is a
//! plain write that brings the trees nearer to the end, in whatever state they are, so a repair that is cut short is
//! run again and ends the same.

use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;

use super::quarantine::Quarantine;
use super::repairs::Repairs;
use super::salvage::{Salvaged, salvage, salvage_journal};
use crate::codec::{
    Activity, ActivityRow, CodecError, Cold, ExtrasIndex, ExtrasRow, Fingerprint, Hot, IdRow, LeaseRow,
    MAX_VALUE_BYTES, Turn, decode_cold,
};
use crate::entry::Revision;
use crate::error::Result;
use crate::key::SessionKey;
use crate::random;
use crate::storage::engine::change::encode_error;
use crate::storage::engine::extras::PartsOf;
use crate::storage::engine::live_parts::LiveParts;
use crate::storage::engine::lookup::{LookUp, has, key, look_up};
use crate::storage::engine::memtable::Newest;
use crate::storage::engine::trees::{engine_error, meta};
use crate::storage::engine::write::Writer;
use crate::storage::engine::{Engine, bytes};
use crate::time::Timestamp;
use crate::unreadable::if_readable;

/// Rows read before any of them is changed.
const BATCH: usize = 512;

/// Makes the trees sound. What is removed and held something goes to `quarantine` first.
pub(crate) fn repair(engine: &Engine, writer: &mut Writer, quarantine: &Path) -> Result<Repairs> {
    let mut quarantine = Quarantine::new(quarantine);
    let (journal_rows_lost, late) = salvage_journal(engine, &mut quarantine)?;
    writer.carry_all(engine)?;
    let salvaged = Salvaged { late, ..salvage(engine, &mut quarantine)? };
    let done = Repairs { quarantined: quarantine.lines(), journal_rows_lost, ..Repairs::default() };
    let mut repair = Repair { engine, writer, salvaged, done };
    repair.journal()?;
    repair.broken_pages()?;
    repair.entries()?;
    repair.activity()?;
    repair.age_rows()?;
    repair.id_rows()?;
    repair.extras()?;
    repair.turns()?;
    repair.leases()?;
    repair.notes()?;
    repair.intent()?;
    repair.count()?;
    repair.writer.sync(engine)?;
    Ok(repair.done)
}

struct Repair<'a> {
    engine: &'a Engine,
    writer: &'a mut Writer,
    salvaged: Salvaged,
    done: Repairs,
}

impl Repair<'_> {
    /// Gives each entry that reads all that belongs to it.
    fn entries(&mut self) -> Result<()> {
        let tree = &self.engine.trees.sessions;
        self.each(tree, |this, row, value| match key(row).and_then(|key| Ok((key, decode_cold(value)?))) {
            Ok((key, (cold, spilled))) => {
                this.done.entries += 1;
                this.entry(&key, cold, spilled)
            }
            Err(_) => {
                this.done.entries_lost += 1;
                this.writer.remove(this.engine, tree, row)
            }
        })
    }

    fn entry(&mut self, key: &SessionKey, cold: Cold, spilled: bool) -> Result<()> {
        let (engine, trees) = (self.engine, &self.engine.trees);
        let entry = engine.fingerprint(key);
        let id_row = IdRow::encode(&cold.session_id, entry);
        if !has(&trees.by_session_id, &id_row)? {
            self.writer.insert(engine, &trees.by_session_id, id_row, &[])?;
            self.done.id_rows_written += 1;
        }
        let time = self.hot(key, entry, &cold)?;
        let age_row = ActivityRow { time, entry };
        if !engine.has_age_row(&age_row)? {
            self.writer.put_age_rows(engine, vec![age_row])?;
            self.done.age_rows_written += 1;
        }
        if self.salvaged.broken_extras.contains(&entry) {
            self.without_broken(key, cold, spilled)?;
        }
        Ok(())
    }

    /// The time of the hot record, which is made anew if it is missing: the journal's, or one at the time that the index
    /// had.
    fn hot(&mut self, key: &SessionKey, entry: Fingerprint, cold: &Cold) -> Result<Timestamp> {
        let Some(newest) = self.salvaged.without_hot.get(&entry) else {
            let hot = self.engine.hot_of(entry, key)?;
            return Ok(hot.map_or(cold.created_at, |hot| hot.updated_at));
        };
        let hot = match self.salvaged.late.get(&entry) {
            Some(Newest::Hot(late)) => {
                self.done.activity_from_journal += 1;
                *late
            }
            late => {
                let newest = (*newest).max(late.map(Newest::updated_at));
                match newest {
                    Some(_) => self.done.activity_from_index += 1,
                    None => self.done.activity_from_creation += 1,
                }
                let updated_at = newest.map_or(cold.created_at, |time| time.max(cold.created_at));
                Hot { revision: Revision::from_number(random::bits()?), ..Hot::fresh(updated_at) }
            }
        };
        let value = Activity::encode(key, &hot).map_err(encode_error)?;
        // The row of the index first, as for a touch: an entry is never without one.
        let (engine, trees) = (self.engine, &self.engine.trees);
        self.writer.put_age_rows(engine, vec![ActivityRow::of(&hot, entry)])?;
        self.writer.insert(engine, &trees.activity, entry.as_bytes(), &value)?;
        Ok(hot.updated_at)
    }

    /// Writes the cold record without those of its extras that are broken. Chunks of theirs are then nobody's.
    fn without_broken(&mut self, key: &SessionKey, cold: Cold, spilled: bool) -> Result<()> {
        let parts = PartsOf { engine: self.engine, key, waiting: None };
        let mut index = cold.extras.as_deref().cloned().unwrap_or_default();
        let base = if_readable(parts.base_of(&index))?;
        let has_details = !spilled || base.as_ref().is_some_and(|base| base.details.is_some());
        if base.is_none() || !has_details {
            index.base = None;
        }
        let mut kept_bytes = 0;
        for (name, field) in index.directory(base.unwrap_or_default()) {
            if if_readable(parts.text_of(&field))?.is_some() {
                kept_bytes += name.len() + field.len();
                if index.base.is_none() {
                    index.changed.insert(name, Some(field));
                }
            } else {
                index.changed.insert(name, None);
            }
        }
        if index.base.is_none() {
            index.changed.retain(|_, field| field.is_some());
        }
        if let Some(form) = index.form.take()
            && if_readable(parts.text_of(&form))?.is_some()
        {
            kept_bytes += form.len();
            index.form = Some(form);
        }
        index.bytes = u32::try_from(kept_bytes).unwrap_or(u32::MAX);
        let is_kept = index != ExtrasIndex::default();
        let mended = Cold { extras: is_kept.then(|| Arc::new(index)), ..cold.clone() };
        let in_base = spilled && has_details;
        let record = if in_base { mended.encode_spilled().map(Some) } else { mended.encode() };
        let fits = record.map_err(encode_error)?.filter(|record| record.len() <= MAX_VALUE_BYTES);
        self.done.extras_lost += 1;
        let record = match fits {
            Some(record) => {
                self.done.details_lost += u64::from(!has_details);
                record
            }
            None => {
                self.done.details_lost += u64::from(spilled);
                let record = Cold { extras: None, ..cold }.encode().map_err(encode_error)?;
                // It fitted with the extras, or holds no details at all.
                record.ok_or_else(|| encode_error(CodecError::NoDetails))?
            }
        };
        self.writer.insert(self.engine, &self.engine.trees.sessions, bytes(key), &record)
    }

    /// What is left of it could not be decoded.
    fn journal(&mut self) -> Result<()> {
        let tree = &self.engine.trees.journal;
        self.each(tree, |this, row, _| this.writer.remove(this.engine, tree, row))
    }

    fn activity(&mut self) -> Result<()> {
        let tree = &self.engine.trees.activity;
        self.keep(
            tree,
            |done| &mut done.activity_removed,
            |engine, row, value| {
                let Ok((_, found)) = engine.activity_row(row, value) else { return Ok(false) };
                engine.contains(&found.key)
            },
        )
    }

    /// Before the entries get their rows: none goes into a page that cannot be decoded.
    fn broken_pages(&mut self) -> Result<()> {
        let tree = &self.engine.trees.by_updated_at;
        let is_page = |engine: &Engine, key: &[u8], value: &[u8]| Ok(engine.page(key, value)?.rows.is_ok());
        self.keep(tree, |done| &mut done.age_rows_removed, is_page)
    }

    fn age_rows(&mut self) -> Result<()> {
        let tree = &self.engine.trees.by_updated_at;
        self.each(tree, |this, key, value| {
            let rows = this.engine.page(key, value)?.rows.unwrap_or_default();
            let mut old = Vec::new();
            for row in rows {
                if this.engine.stored_hot(row.entry)?.is_none_or(|hot| hot.updated_at != row.time) {
                    old.push(row);
                }
            }
            this.done.age_rows_removed += old.len() as u64;
            this.writer.remove_age_rows(this.engine, old).map(drop)
        })
    }

    fn id_rows(&mut self) -> Result<()> {
        let tree = &self.engine.trees.by_session_id;
        self.keep(
            tree,
            |done| &mut done.id_rows_removed,
            |engine, row, _| {
                let Ok(row) = IdRow::decode(row) else { return Ok(false) };
                Ok(matches!(look_up(engine, row.entry)?, LookUp::Entry(cold) if cold.session_id == row.id))
            },
        )
    }

    fn extras(&mut self) -> Result<()> {
        let tree = &self.engine.trees.extras;
        let mut live = LiveParts::default();
        self.keep(
            tree,
            |done| &mut done.chunks_removed,
            |engine, row, _| {
                let Ok(row) = ExtrasRow::decode(row) else { return Ok(false) };
                let LookUp::Entry(cold) = look_up(engine, row.entry)? else { return Ok(false) };
                live.needs(engine, row.entry, &cold, row.generation)
            },
        )
    }

    fn turns(&mut self) -> Result<()> {
        let tree = &self.engine.trees.turns;
        self.keep(
            tree,
            |done| &mut done.turns_removed,
            |engine, row, value| {
                let Ok((entry, turn)) = Turn::of_row(row, value) else { return Ok(false) };
                Ok(matches!(look_up(engine, entry)?, LookUp::Entry(cold) if cold.session_id == turn.session_id))
            },
        )
    }

    fn leases(&mut self) -> Result<()> {
        let tree = &self.engine.trees.leases;
        self.keep(
            tree,
            |done| &mut done.leases_removed,
            |engine, row, value| {
                let Ok((entry, _)) = LeaseRow::term(row, value) else { return Ok(false) };
                Ok(matches!(look_up(engine, entry)?, LookUp::Entry(_)))
            },
        )
    }

    fn notes(&mut self) -> Result<()> {
        let tree = &self.engine.trees.meta;
        for rows in std::mem::take(&mut self.salvaged.broken_notes) {
            rows.iter().try_for_each(|row| self.writer.remove(self.engine, tree, row))?;
            self.done.notes_lost += 1;
        }
        if self.salvaged.broken_zone {
            self.writer.remove(self.engine, tree, meta::ZONE)?;
            self.done.zone_lost = true;
        }
        Ok(())
    }

    /// Opening has settled what it could.
    fn intent(&mut self) -> Result<()> {
        let tree = &self.engine.trees.intent;
        self.each(tree, |this, row, _| {
            this.done.intent_removed = true;
            this.writer.remove(this.engine, tree, row)
        })
    }

    fn count(&mut self) -> Result<()> {
        let counted: Option<u64> = if_readable(self.engine.meta_value(meta::COUNT))?.flatten();
        if counted != Some(self.done.entries) {
            self.done.count_corrected = true;
            self.writer.put_meta(self.engine, meta::COUNT, &self.done.entries)?;
        }
        self.writer.mark.count = self.done.entries;
        Ok(())
    }

    /// Removes the rows of `tree` that are not right, and counts them.
    fn keep(
        &mut self,
        tree: &sled::Tree,
        count: fn(&mut Repairs) -> &mut u64,
        mut is_right: impl FnMut(&Engine, &[u8], &[u8]) -> Result<bool>,
    ) -> Result<()> {
        self.each(tree, |this, row, value| {
            if is_right(this.engine, row, value)? {
                return Ok(());
            }
            *count(&mut this.done) += 1;
            this.writer.remove(this.engine, tree, row)
        })
    }

    /// Visits every row of `tree` as it was when its batch was read.
    fn each(&mut self, tree: &sled::Tree, mut visit: impl FnMut(&mut Self, &[u8], &[u8]) -> Result<()>) -> Result<()> {
        let mut after: Option<sled::IVec> = None;
        loop {
            let rows = match &after {
                None => tree.iter(),
                Some(row) => tree.range::<&sled::IVec, _>((Bound::Excluded(row), Bound::Unbounded)),
            };
            let rows = rows.take(BATCH).collect::<Result<Vec<_>, _>>().map_err(|e| engine_error("read", e))?;
            for (row, value) in &rows {
                visit(self, row, value)?;
            }
            match rows.into_iter().next_back() {
                Some((last, _)) => after = Some(last),
                None => return Ok(()),
            }
        }
    }
}
