//! The rows that a group of structural changes writes.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::change::{Change, Content, Known, MovedFrom, encode_error};
use super::extras::PartsOf;
use super::leases::lease_writes;
use super::lookup::has;
use super::trees::Trees;
use super::{Engine, StoredCold, bytes};
use crate::codec::{
    Activity, ActivityRow, Cold, ExtrasIndex, Fingerprint, Hot, IdRow, MAX_VALUE_BYTES, Step, decode_cold,
};
use crate::error::Result;
use crate::key::{SessionId, SessionKey};
use crate::unreadable::if_readable;

/// How much goes into one group, in bytes of keys and values.
const MAX_GROUP_BYTES: usize = 64 * 1024;
/// How much its steps may take: the longest step has to fit as well, and the intent's own fields.
const MAX_STEPS_BYTES: usize = MAX_VALUE_BYTES - 512;

/// Structural changes that are written together.
#[derive(Debug, Default)]
pub(in crate::storage) struct Group {
    sessions: Rows,
    /// Of new entries; those of others are in `activity`.
    new_activity: Rows,
    activity: Rows,
    by_session_id: Rows,
    turns: Rows,
    leases: Rows,
    bytes: usize,
    /// Rows of the index by age that entries leave.
    pub(in crate::storage) left_ages: Vec<ActivityRow>,
    /// Those that entries come to: another of the key may just have left one of them.
    pub(in crate::storage) new_ages: Vec<ActivityRow>,
    pub(in crate::storage) steps: Vec<Step>,
    steps_bytes: usize,
    /// Entries created less entries removed.
    pub(in crate::storage) added: i64,
    pub(in crate::storage) has_new_extras: bool,
    /// What may be there of any entry, so that it is not looked for in vain.
    may_have: MayHave,
    /// Leases of no entry, as damage may leave them: they go before one is made that would have them.
    pub(in crate::storage) stray_leases: Vec<Vec<u8>>,
    /// Entries whose extras are to be swept afterwards, but for the generations given.
    pub(in crate::storage) stale_extras: Vec<(Fingerprint, BTreeSet<u64>)>,
}

/// A tree and its rows of a group, in key order.
pub(in crate::storage) type TreeRows<'a, Row> = (&'a sled::Tree, Vec<Row>);

/// Which of the trees that most entries have nothing in have rows at all.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::storage) struct MayHave {
    pub(in crate::storage) leases: bool,
    pub(in crate::storage) extras: bool,
}

impl Group {
    pub(in crate::storage) fn new(may_have: MayHave) -> Self {
        Self { may_have, ..Self::default() }
    }

    /// Adds the removal of the entry in whose place `change` puts another.
    pub(in crate::storage) fn add_removal(&mut self, engine: &Engine, change: &Change) -> Result<()> {
        let Some(before) = Before::of(engine, change)? else { return Ok(()) };
        self.remove(engine, &change.key, change.entry, &before)?;
        self.step(Step::Remove(change.entry));
        // The parts that the new one names are on their way already.
        if let Content::Whole { parts, .. } = &change.content {
            self.stale_extras.push((change.entry, parts.keys().copied().collect()));
        }
        Ok(())
    }

    /// Adds a structural change. No other one of the group may be about the same keys.
    pub(in crate::storage) fn add(&mut self, engine: &Engine, change: &Change) -> Result<()> {
        let left = match &change.moved {
            Some(moved) => Before::read(engine, &moved.key, moved.entry)?.map(|before| (moved, before)),
            None => None,
        };
        let before = match change.content {
            Content::Hot(_) => return Ok(()),
            // It was removed from the trees just now.
            Content::Whole { .. } if change.is_another => None,
            Content::Whole { .. } | Content::Gone => Before::of(engine, change)?,
        };
        let extras_before = before.as_ref().and_then(|before| before.extras.clone());
        let (extras, parts) = match &change.content {
            Content::Whole { hot, cold, parts } => {
                let step = self.put(engine, change, hot, cold, before)?;
                match left {
                    Some((moved, left)) => self.leave(engine, change.entry, moved, &left)?,
                    None => self.step(step),
                }
                (cold.extras.as_deref(), Some(parts))
            }
            Content::Gone | Content::Hot(_) => {
                if let Some(before) = before {
                    self.remove(engine, &change.key, change.entry, &before)?;
                    self.step(Step::Remove(change.entry));
                }
                // It was removed after it had come here.
                if let Some((moved, left)) = left {
                    self.remove(engine, &moved.key, moved.entry, &left)?;
                    self.drop_turn(engine, moved)?;
                    self.step(Step::Remove(moved.entry));
                }
                (None, None)
            }
        };
        // Parts that were named, and those that a crash left before anything named them.
        let has_new_parts = parts.is_some_and(|parts| !parts.is_empty());
        self.has_new_extras |= has_new_parts;
        let is_gone = self.may_have.extras && matches!(change.content, Content::Gone);
        if has_new_parts || is_gone || ExtrasIndex::may_let_go(extras_before.as_deref(), extras) {
            let of = PartsOf { engine, key: &change.key, waiting: parts };
            let live = extras.map(|index| of.base_of(index).map(|base| index.live(&base)));
            // Where that cannot be read, it is not known what else must stay.
            if let Some(live) = live.map_or_else(|| Ok(Some(BTreeSet::new())), if_readable)? {
                self.stale_extras.push((change.entry, live));
            }
        }
        if let Some(moved) = change.moved.as_ref().filter(|_| self.may_have.extras) {
            self.stale_extras.push((moved.entry, BTreeSet::new()));
        }
        Ok(())
    }

    /// The rows of an entry that comes or is replaced, and the step that does it.
    fn put(
        &mut self,
        engine: &Engine,
        change: &Change,
        hot: &Hot,
        cold: &Cold,
        before: Option<Before>,
    ) -> Result<Step> {
        let (entry, row) = (change.entry, change.entry.as_bytes().to_vec());
        let record = match cold.encode().map_err(encode_error)? {
            Some(record) => record,
            None => cold.encode_spilled().map_err(encode_error)?,
        };
        let activity = (row, Activity::encode(&change.key, hot).map_err(encode_error)?);
        let age_row = ActivityRow::of(hot, entry);
        self.new_ages.push(age_row);
        let keeps_id = before.as_ref().is_some_and(|before| before.session_id.as_ref() == Some(&cold.session_id));
        let step = match before {
            None => {
                self.new_activity.put.push(activity);
                self.added += 1;
                if self.may_have.leases {
                    self.stray_leases.extend(engine.lease_rows(entry)?);
                }
                Step::Create(entry)
            }
            Some(before) => {
                self.left_ages.extend(before.age_rows.into_iter().flatten().filter(|old| *old != age_row));
                let old_id = before.session_id.filter(|old| *old != cold.session_id);
                self.by_session_id.gone.extend(old_id.as_ref().map(|old| IdRow::encode(old, entry)));
                self.activity.put.push(activity);
                Step::Replace { entry, checksum: crc32fast::hash(&record), hot: *hot, old_id }
            }
        };
        self.bytes += 2 * change.key.as_str().len() + record.len() + 160;
        self.sessions.put.push((bytes(&change.key).to_vec(), record));
        if !keeps_id {
            self.by_session_id.put.push((IdRow::encode(&cold.session_id, entry), Vec::new()));
        }
        for (row, value) in lease_writes(entry, &change.leases)? {
            self.bytes += row.len() + 32;
            match value {
                Some(value) => self.leases.put.push((row, value)),
                None => self.leases.gone.push(row),
            }
        }
        Ok(step)
    }

    /// An entry that is put under a new key leaves its old one, and what hangs on it goes with it.
    fn leave(&mut self, engine: &Engine, entry: Fingerprint, moved: &MovedFrom, left: &Before) -> Result<()> {
        self.remove(engine, &moved.key, moved.entry, left)?;
        self.step(Step::Move { from: moved.entry, to: entry });
        if let Some(turn) = &moved.turn {
            self.turns.put.push((entry.as_bytes().to_vec(), turn.encode().map_err(encode_error)?));
        }
        self.drop_turn(engine, moved)
    }

    /// The marker of the turn that moved goes from where it was.
    fn drop_turn(&mut self, engine: &Engine, moved: &MovedFrom) -> Result<()> {
        if has(&engine.trees.turns, moved.entry.as_bytes())? {
            self.turns.gone.push(moved.entry.as_bytes().to_vec());
        }
        Ok(())
    }

    /// The rows of an entry that goes.
    fn remove(&mut self, engine: &Engine, key: &SessionKey, entry: Fingerprint, before: &Before) -> Result<()> {
        let row = entry.as_bytes().to_vec();
        self.bytes += key.as_str().len() + 160;
        self.added -= 1;
        self.by_session_id.gone.extend(before.session_id.as_ref().map(|id| IdRow::encode(id, entry)));
        self.left_ages.extend(before.age_rows.into_iter().flatten());
        self.sessions.gone.push(bytes(key).to_vec());
        self.activity.gone.push(row);
        if self.may_have.leases {
            self.leases.gone.extend(engine.lease_rows(entry)?);
        }
        Ok(())
    }

    fn step(&mut self, step: Step) {
        self.steps_bytes += step.max_bytes();
        self.steps.push(step);
    }

    pub(in crate::storage) fn is_full(&self) -> bool {
        self.bytes >= MAX_GROUP_BYTES || self.steps_bytes >= MAX_STEPS_BYTES
    }

    /// The rows to put, in the order in which their trees are to be written. What leads from a new entry's fingerprint to
    /// its key goes before the cold records, by which it can be told what a crash has left; then comes what can be made
    /// anew from them. Leases and turns cannot, so they go first.
    pub(in crate::storage) fn puts<'a>(&mut self, trees: &'a Trees) -> [TreeRows<'a, (Vec<u8>, Vec<u8>)>; 6] {
        [
            (&trees.leases, self.leases.take_put()),
            (&trees.turns, self.turns.take_put()),
            (&trees.activity, self.new_activity.take_put()),
            (&trees.sessions, self.sessions.take_put()),
            (&trees.by_session_id, self.by_session_id.take_put()),
            (&trees.activity, self.activity.take_put()),
        ]
    }

    /// The rows to remove, after all were put, likewise. What leads to an entry's other rows goes last.
    pub(in crate::storage) fn removals<'a>(&mut self, trees: &'a Trees) -> [TreeRows<'a, Vec<u8>>; 5] {
        [
            (&trees.leases, self.leases.take_gone()),
            (&trees.turns, self.turns.take_gone()),
            (&trees.by_session_id, self.by_session_id.take_gone()),
            (&trees.sessions, self.sessions.take_gone()),
            (&trees.activity, self.activity.take_gone()),
        ]
    }
}

/// The rows of one tree.
#[derive(Debug, Default)]
struct Rows {
    put: Vec<(Vec<u8>, Vec<u8>)>,
    gone: Vec<Vec<u8>>,
}

impl Rows {
    fn take_put(&mut self) -> Vec<(Vec<u8>, Vec<u8>)> {
        self.put.sort_unstable();
        std::mem::take(&mut self.put)
    }

    fn take_gone(&mut self) -> Vec<Vec<u8>> {
        self.gone.sort_unstable();
        std::mem::take(&mut self.gone)
    }
}

/// The entry that a structural change replaces.
#[derive(Debug)]
struct Before {
    /// `None` if its record cannot be decoded: the verbs have seen a better one, and the committer serves all others too.
    session_id: Option<SessionId>,
    /// The rows that the index may have of it: its own, and the one that carrying gives it, and may have given it before a
    /// crash.
    age_rows: [Option<ActivityRow>; 2],
    extras: Option<Arc<ExtrasIndex>>,
}

impl Before {
    /// What a change replaces: what its slot knows, or what is read now.
    fn of(engine: &Engine, change: &Change) -> Result<Option<Self>> {
        match change.before.as_deref() {
            Some(Known::Nothing) => Ok(None),
            // While the journal speaks of the entry, its row by age is older than the hot record that is known.
            Some(Known::Entry { hot, cold }) if !engine.memtable.contains(change.entry) => {
                Ok(Some(Self::new(Some(hot), None, cold, change.entry)))
            }
            _ => Self::read(engine, &change.key, change.entry),
        }
    }

    fn read(engine: &Engine, key: &SessionKey, entry: Fingerprint) -> Result<Option<Self>> {
        let Some(stored) = engine.stored_cold(key)? else { return Ok(None) };
        // A record that cannot be decoded is about to be written over, or to go. An old row by age is stale then, which
        // does no harm.
        let hot = if_readable(engine.stored_hot(entry))?.flatten();
        let late = engine.memtable.get(entry).map(|newest| ActivityRow { time: newest.updated_at(), entry });
        Ok(Some(Self::new(hot.as_ref(), late, &stored, entry)))
    }

    fn new(hot: Option<&Hot>, late: Option<ActivityRow>, cold: &StoredCold, entry: Fingerprint) -> Self {
        let cold = decode_cold(&cold.0).ok().map(|(cold, _)| cold);
        Self {
            age_rows: [hot.map(|hot| ActivityRow::of(hot, entry)), late],
            extras: cold.as_ref().and_then(|cold| cold.extras.clone()),
            session_id: cold.map(|cold| cold.session_id),
        }
    }
}
