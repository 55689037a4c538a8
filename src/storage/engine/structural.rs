//! Structural changes: what touches many trees at once.
//!
//! sled has transactions over many trees. Each rolls its buffer twice, looks each row up twice, and takes a lock that stops
//! every reader of every store in the process: loading 200,000 entries took a fifth longer. So a group of changes is written like a touch, row by
//! row, in an order from which a half can be told. Before it goes its [`Intent`], which says what it is about; an opening that
//! finds one finishes the group or takes it back ([`Writer::settle`]). A crash keeps a prefix of the writes, so
//! where the intent is missing, nothing of the group is there.

use super::trees::INTENT;
use std::collections::BTreeSet;

use super::change::{Change, Content, encode_error};
use super::group::{Group, MayHave};
use super::trees::{engine_error, meta};
use super::write::Writer;
use super::{Engine, damaged_at};
use crate::codec::{Activity, ActivityRow, ExtrasRow, Fingerprint, Hot, IdRow, Intent, Parts, Step, encode_meta};
use crate::error::{Error, Result};
use crate::key::SessionId;

/// What became of changes that a crash cut short.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::storage) enum Settled {
    /// Each is there or not, and counted.
    All,
    /// Some could not be decoded, so the count of entries may be wrong.
    Unsure,
}

impl Writer {
    /// Applies the structural ones among `changes`: what moves first, so that another entry could come to a key that one leaves.
    /// The verbs make no such commit, see `moving.rs`.
    pub(in crate::storage) fn apply_structural(&mut self, engine: &Engine, changes: &[Change]) -> Result<()> {
        let structural = || changes.iter().filter(|change| !matches!(change.content, Content::Hot(_)));
        if structural().next().is_none() {
            return Ok(());
        }
        self.write_structural(engine, structural().filter(|change| change.moved.is_some()))?;
        self.write_structural(engine, structural().filter(|change| change.moved.is_none()))?;
        self.remove(engine, &engine.trees.intent, INTENT)
    }

    fn write_structural<'a>(
        &mut self,
        engine: &Engine,
        changes: impl Iterator<Item = &'a Change> + Clone,
    ) -> Result<()> {
        // All extras go first, so that one sync serves many groups.
        for change in changes.clone() {
            if let Content::Whole { parts, .. } = &change.content {
                self.write_parts(engine, change.entry, parts)?;
            }
        }
        // Of an entry that is changed here no other change of the commit puts anything there.
        let trees = &engine.trees;
        let may_have = MayHave { leases: !trees.leases.is_empty(), extras: !trees.extras.is_empty() };
        let new = || Group::new(may_have);
        let mut group = new();
        for change in changes {
            if change.is_another {
                // A group has one step for an entry, and what belonged to the old one is not to be the new one's.
                group.add_removal(engine, change)?;
                self.write_group(engine, std::mem::replace(&mut group, new()))?;
            }
            group.add(engine, change)?;
            if group.is_full() {
                self.write_group(engine, std::mem::replace(&mut group, new()))?;
            }
        }
        self.write_group(engine, group)
    }

    fn write_parts(&mut self, engine: &Engine, entry: Fingerprint, parts: &Parts) -> Result<()> {
        for (generation, part) in parts {
            for (row, value) in ExtrasRow::encode_all(entry, *generation, part) {
                self.largest_chunk = self.largest_chunk.max((row.len() + value.len()) as u64);
                self.insert(engine, &engine.trees.extras, row, &value)?;
                self.has_unsynced_extras = true;
            }
        }
        Ok(())
    }

    fn write_group(&mut self, engine: &Engine, mut group: Group) -> Result<()> {
        if group.steps.is_empty() {
            return Ok(());
        }
        if group.has_new_extras && self.has_unsynced_extras {
            self.sync(engine)?;
        }
        for row in std::mem::take(&mut group.stray_leases) {
            self.remove(engine, &engine.trees.leases, row)?;
        }
        let left = std::mem::take(&mut group.left_ages);
        self.append_left(engine, &left)?;
        engine.gone.suspect(left.iter().copied(), self.journal.epoch);
        let intent = Intent { count: self.mark.count, steps: std::mem::take(&mut group.steps) };
        self.insert(engine, &engine.trees.intent, INTENT, &intent.encode().map_err(encode_error)?)?;
        let count = self.mark.count.checked_add_signed(group.added).unwrap_or_else(|| {
            tracing::error!("more entries were removed than were counted; the next opening counts them");
            self.is_count_wrong = true;
            0
        });
        {
            // A holder of the gate sees the whole group or nothing of it.
            let mut groups = engine.gate.lock();
            for (tree, rows) in group.puts(&engine.trees) {
                for (row, value) in rows {
                    self.insert_held(engine, tree, &row, &value)?;
                }
            }
            for (tree, rows) in group.removals(&engine.trees) {
                for row in rows {
                    self.remove_held(engine, tree, &row)?;
                }
            }
            let row = meta::COUNT.as_bytes();
            if self.is_count_wrong {
                self.remove_held(engine, &engine.trees.meta, row)?;
            } else if group.added != 0 {
                let value = encode_meta(&count).map_err(encode_error)?;
                self.insert_held(engine, &engine.trees.meta, row, &value)?;
            }
            self.forget_held(engine, intent.steps.iter().flat_map(Step::entries))?;
            *groups += 1;
        }
        self.mark.count = count;
        engine.gone.add(left, self.journal.epoch);
        // An entry may come to a row that another of its key has just left.
        engine.gone.forget(&group.new_ages);
        for (entry, live) in &group.stale_extras {
            self.drop_extras(engine, *entry, live)?;
        }
        Ok(())
    }

    /// Removes every part of an entry's extras but the `live` ones. Those are skipped, however long they are.
    fn drop_extras(&mut self, engine: &Engine, entry: Fingerprint, live: &BTreeSet<u64>) -> Result<()> {
        let tree = &engine.trees.extras;
        let mut from = entry.as_bytes().to_vec();
        while let Some(row) = tree.range(from..).keys().next() {
            let row = row.map_err(|e| engine_error("read", e))?;
            if !row.starts_with(entry.as_bytes()) {
                break;
            }
            from = match ExtrasRow::decode(&row) {
                Ok(row) if live.contains(&row.generation) => match row.generation.checked_add(1) {
                    Some(next) => ExtrasRow::prefix(entry, next),
                    None => break,
                },
                _ => {
                    self.remove(engine, tree, &row)?;
                    [&row[..], &[0]].concat()
                }
            };
        }
        Ok(())
    }

    /// Finishes, or takes back, the group that a crash cut short.
    ///
    /// Each step may be done twice, so a crash in here does no harm. What cannot be decoded is left to `verify`.
    pub(in crate::storage) fn settle(&mut self, engine: &Engine) -> Result<Settled> {
        let value = engine.trees.intent.get(INTENT).map_err(|e| engine_error("read", e))?;
        let Some(value) = value else { return Ok(Settled::All) };
        let settled = match Intent::decode(&value) {
            Ok(intent) => self.settle_steps(engine, intent)?,
            Err(error) => {
                let error = damaged_at("intent", INTENT, error);
                tracing::error!(error = &error as &dyn std::error::Error, "changes cut short are left as they are");
                Settled::Unsure
            }
        };
        if settled == Settled::Unsure {
            // It must not be forgotten if this opening ends here.
            self.remove(engine, &engine.trees.meta, meta::COUNT)?;
        }
        self.remove(engine, &engine.trees.intent, INTENT)?;
        tracing::debug!("settled the changes that were under way");
        Ok(settled)
    }

    fn settle_steps(&mut self, engine: &Engine, intent: Intent) -> Result<Settled> {
        let (mut count, mut settled) = (Some(intent.count), Settled::All);
        for step in &intent.steps {
            match self.settle_step(engine, step) {
                Ok(added) => count = count.and_then(|count| count.checked_add_signed(added)),
                Err(error @ Error::DamagedRecord { .. }) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::error!(error, "a change cut short is left as it is");
                    settled = Settled::Unsure;
                }
                Err(error) => return Err(error),
            }
        }
        let Some(count) = count else { return Ok(Settled::Unsure) };
        self.mark.count = count;
        self.put_meta(engine, meta::COUNT, &count)?;
        Ok(settled)
    }

    /// Answers what it adds to the number of entries.
    fn settle_step(&mut self, engine: &Engine, step: &Step) -> Result<i64> {
        match step {
            Step::Create(entry) => Ok(i64::from(self.settle_new(engine, *entry)?)),
            Step::Remove(entry) => {
                self.erase(engine, *entry)?;
                self.forget(engine, *entry).map(|()| -1)
            }
            // Nothing of the old key is removed before all of the new one is there.
            Step::Move { from, to } => {
                if self.settle_new(engine, *to)? {
                    self.erase(engine, *from)?;
                    self.forget(engine, *from)?;
                }
                Ok(0)
            }
            Step::Replace { entry, checksum, hot, old_id } => {
                self.replace_again(engine, *entry, *checksum, hot, old_id.as_ref()).map(|()| 0)
            }
        }
    }

    /// Finishes a new entry if its cold record is there, and removes what there is of it otherwise. Returns whether it is
    /// there.
    fn settle_new(&mut self, engine: &Engine, entry: Fingerprint) -> Result<bool> {
        let cold = match engine.key_of(entry)? {
            Some(key) => engine.stored_cold(&key)?.map(|stored| (key, stored)),
            None => None,
        };
        let Some((key, cold)) = cold else {
            self.erase(engine, entry)?;
            return Ok(false);
        };
        let (cold, _) = cold.decode(&key)?;
        self.insert(engine, &engine.trees.by_session_id, IdRow::encode(&cold.session_id, entry), &[])?;
        if let Some(hot) = engine.stored_hot(entry)? {
            self.put_age_rows(engine, vec![ActivityRow::of(&hot, entry)])?;
        }
        self.forget(engine, entry)?;
        Ok(true)
    }

    /// Removes what there is of an entry, and last what leads to the rest.
    fn erase(&mut self, engine: &Engine, entry: Fingerprint) -> Result<()> {
        let trees = &engine.trees;
        self.drop_extras(engine, entry, &BTreeSet::new())?;
        self.remove(engine, &trees.turns, entry.as_bytes())?;
        self.drop_leases_of(engine, entry)?;
        let Some(value) = engine.activity(entry)? else { return Ok(()) };
        let Activity { key, hot } = Activity::decode(&value).map_err(|e| super::damaged("activity", &entry, e))?;
        if let Some(value) = engine.stored_cold(&key)? {
            let (cold, _) = value.decode(&key)?;
            self.remove(engine, &trees.by_session_id, IdRow::encode(&cold.session_id, entry))?;
        }
        self.remove_age_rows(engine, vec![ActivityRow::of(&hot, entry)])?;
        self.remove(engine, &trees.sessions, key.as_str())?;
        self.remove(engine, &trees.activity, entry.as_bytes())
    }

    /// Writes what follows an entry's new row in `sessions`, if that row is there.
    fn replace_again(
        &mut self,
        engine: &Engine,
        entry: Fingerprint,
        checksum: u32,
        hot: &Hot,
        old_id: Option<&SessionId>,
    ) -> Result<()> {
        let trees = &engine.trees;
        let Some(key) = engine.key_of(entry)? else { return Ok(()) };
        let value = engine.stored_cold(&key)?.filter(|value| crc32fast::hash(&value.0) == checksum);
        let Some(value) = value else { return Ok(()) };
        let (cold, _) = value.decode(&key)?;
        self.insert(engine, &trees.by_session_id, IdRow::encode(&cold.session_id, entry), &[])?;
        self.put_age_rows(engine, vec![ActivityRow::of(hot, entry)])?;
        let value = Activity::encode(&key, hot).map_err(encode_error)?;
        self.insert(engine, &trees.activity, entry.as_bytes(), &value)?;
        // Its old row by age is stale now, which does no harm.
        if let Some(old) = old_id {
            self.remove(engine, &trees.by_session_id, IdRow::encode(old, entry))?;
        }
        self.forget(engine, entry)
    }
}
