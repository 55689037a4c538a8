//! Whether all that belongs together agrees.

use std::collections::{BTreeSet, HashMap};

use redis::{Cmd, Value};
use serde::Serialize;

use super::caller::wait;
use super::entry::{Look, UNKEPT};
use super::layout::{Names, Part};
use super::store::ClusterStore;
use super::turns::Marker;
use super::value::{at, bytes, int, list, text};
use super::write::state;
use crate::error::{Error, Result, with_causes};
use crate::key::{SessionId, SessionKey};

/// Entries that are asked for together.
const AT_ONCE: usize = 256;
/// Shards whose keys are read together.
const SHARDS_AT_ONCE: u32 = 64;

/// What [`ClusterStore::verify`] found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ClusterVerification {
    /// Entries that were checked.
    pub entries: u64,
    /// What is broken. Empty if the store is sound.
    pub violations: Vec<ClusterViolation>,
    /// Entries that no search for their session id finds, since a failover lost a hint that no replica had. Their next change
    /// writes it again.
    pub without_hint: u64,
    /// Hints that lead to no entry with that session id: of changes that are under way, and left over by failovers, killed
    /// processes and [`Uncertain`](Error::Uncertain) changes. They are passed over; [`ClusterStore::repair`] takes them away.
    pub stale_hints: u64,
    /// Turns whose entry is gone or has another session. They are passed over.
    pub orphaned_turns: u64,
    /// Leases whose entry is gone.
    pub orphaned_leases: u64,
}

/// One broken rule. Keys are redacted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
#[serde(tag = "violation", rename_all = "snake_case")]
#[non_exhaustive]
pub enum ClusterViolation {
    /// A shard has no mark of the store: its node has lost its data.
    #[error("shard {shard} is not marked on {node}")]
    ShardLost {
        /// The shard.
        shard: u32,
        /// The node.
        node: String,
    },
    /// A record does not decode.
    #[error("{key}: cannot decode its {record} record: {reason}")]
    Unreadable {
        /// The entry.
        key: String,
        /// `h`, `c`, `x` or `t`.
        record: &'static str,
        /// Why not.
        reason: String,
    },
    /// An entry has no place in the order by time, so no list and no pass of pruning finds it.
    #[error("{key} has no row by time")]
    NoRow {
        /// The entry.
        key: String,
    },
    /// A place in the order by time, or in that of interactions, has no entry.
    #[error("{key} has a row ({part}) and no entry")]
    NoEntry {
        /// The key.
        key: String,
        /// `u`, or `l`.
        part: char,
    },
    /// An entry and what its shard says of it differ.
    #[error("{key}: its {what} is not that of its record")]
    Differs {
        /// The entry.
        key: String,
        /// `interaction` or `suspension`.
        what: &'static str,
    },
    /// An entry names a hint that is not there, so no search for its session id finds it.
    #[error("{key}: the hint that it names is not there")]
    NoHint {
        /// The entry.
        key: String,
    },
}

/// A hint that an entry names.
struct Hinted {
    key: SessionKey,
    id: SessionId,
    hint: String,
    is_hint_kept: bool,
    stamp: String,
}

/// A hint that leads to no entry with its session id.
#[derive(Debug)]
pub(super) struct Nowhere {
    pub(super) id: SessionId,
    pub(super) key: SessionKey,
    pub(super) hint: String,
    /// The revision of the entry that its key has; nothing where there is none.
    pub(super) stamp: String,
}

impl ClusterStore {
    /// Reads all of the store, and tells what does not agree: marks of shards, records, their places in each order, hints,
    /// turns, leases.
    ///
    /// It changes nothing, and locks nothing: an entry and what belongs to it are read in one step, and what others change
    /// meanwhile is looked at as it is then. The keys of all entries are held in memory.
    ///
    /// # Errors
    /// [`Error::Unavailable`](crate::Error::Unavailable) and its like; what is found is no error.
    pub fn verify(&self) -> Result<ClusterVerification> {
        let mut found = ClusterVerification::default();
        let names = self.inner.nodes.names(&format!("{}:{{", self.name()))?;
        let names = self.layout().sorted(&names);
        let keys = self.keys_of_all_parts(&names, &mut found)?;
        let mut hinted = Vec::new();
        for piece in keys.chunks(AT_ONCE) {
            self.verify_entries(piece, &mut hinted, &mut found)?;
        }
        for piece in hinted.chunks(AT_ONCE) {
            self.verify_hints(piece, &mut found)?;
        }
        for piece in names.ids.chunks(AT_ONCE) {
            found.stale_hints += self.nowhere(piece)?.len() as u64;
        }
        Ok(found)
    }

    /// The keys that anything is kept of.
    pub(super) fn keys_of_all_parts(&self, names: &Names, found: &mut ClusterVerification) -> Result<Vec<SessionKey>> {
        let shards = self.layout().shards();
        let mut keys: BTreeSet<SessionKey> = BTreeSet::new();
        for first in (0..shards).step_by(SHARDS_AT_ONCE as usize) {
            let ask = |shard| {
                let all = |part| redis::cmd("ZRANGE").arg(self.part(shard, part)).arg(0).arg(-1).to_owned();
                vec![
                    redis::cmd("HGET").arg(self.part(shard, Part::Mark)).arg("mark").to_owned(),
                    all(Part::Updated),
                    all(Part::Interaction),
                    all(Part::Leases),
                    redis::cmd("HKEYS").arg(self.part(shard, Part::Turns)).to_owned(),
                ]
            };
            for (shard, done) in wait(self.scatter(first..shards.min(first + SHARDS_AT_ONCE), &ask))? {
                if self.check_mark(shard, at(&done.values, 0), &done.node).is_err() {
                    found.violations.push(ClusterViolation::ShardLost { shard, node: done.node.clone() });
                }
                let parts = done.values.iter().skip(1).flat_map(list).filter_map(text);
                keys.extend(parts.filter_map(|key| SessionKey::new(key).ok()));
            }
        }
        keys.extend(names.keys.iter().cloned());
        Ok(keys.into_iter().collect())
    }

    fn verify_commands(&self, shard: u32, key: &SessionKey) -> Vec<Cmd> {
        let mut commands = self.look_commands(shard, key, true);
        let of_part =
            |command: &str, part| redis::cmd(command).arg(self.part(shard, part)).arg(key.as_str()).to_owned();
        commands.push(of_part("HGET", Part::Turns));
        commands.push(of_part("ZSCORE", Part::Leases));
        commands.push(redis::cmd("HGET").arg(self.layout().entry(shard, key)).arg("s").to_owned());
        commands
    }

    /// Runs commands for each of the keys, all at once.
    pub(super) fn ask_each<T: Sync>(
        &self,
        all: &[T],
        shard_of: impl Fn(&T) -> u32,
        ask: impl Fn(u32, &T) -> Vec<Cmd> + Sync,
    ) -> Result<Vec<(Vec<Value>, String)>> {
        let places: HashMap<u32, (u32, &T)> =
            (0..).zip(all).map(|(place, one)| (place, (shard_of(one), one))).collect();
        let mut slots: Vec<_> =
            places.iter().map(|(place, (shard, _))| (*place, self.layout().slot_of(*shard))).collect();
        slots.sort_unstable();
        let ask = |place| places.get(&place).map(|(shard, one)| ask(*shard, one)).unwrap_or_default();
        let done = wait(self.inner.nodes.scatter(self.caller, &slots, &ask))?;
        Ok(done.into_iter().map(|(_, done)| (done.values, done.node)).collect())
    }

    fn verify_entries(
        &self,
        keys: &[SessionKey],
        hinted: &mut Vec<Hinted>,
        found: &mut ClusterVerification,
    ) -> Result<()> {
        let answers = self.ask_each(keys, |key| self.shard_of(key), |shard, key| self.verify_commands(shard, key))?;
        for (key, (values, node)) in keys.iter().zip(answers) {
            match self.verify_entry(key, &values, &node, found) {
                Ok(Some(Look { cold, hint, hot, is_hint_kept, .. })) if !hint.is_empty() => {
                    let stamp = hot.revision.to_string();
                    hinted.push(Hinted { key: key.clone(), id: cold.session_id, hint, is_hint_kept, stamp });
                }
                Ok(Some(_)) => found.without_hint += 1,
                Ok(None) => {}
                Err(Error::DamagedRecord { record, source, .. }) => {
                    let reason = with_causes(&*source);
                    found.violations.push(ClusterViolation::Unreadable { key: key.to_string(), record, reason });
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// An entry as it was read, with all that belongs to it.
    fn verify_entry(
        &self,
        key: &SessionKey,
        values: &[Value],
        node: &str,
        found: &mut ClusterVerification,
    ) -> Result<Option<Look>> {
        let (row, interaction) = (int(at(values, 1)), int(at(values, 2)));
        let (marker, lease) = (bytes(at(values, 5)), int(at(values, 6)));
        let name = || key.to_string();
        let is_there = bytes(at(list(at(values, 0)), 0)).is_some();
        found.entries += u64::from(is_there);
        if !is_there {
            // Its mark was looked at before.
            let rows = [(row, 'u'), (interaction, 'l')].into_iter().filter(|(row, _)| row.is_some());
            found.violations.extend(rows.map(|(_, part)| ClusterViolation::NoEntry { key: name(), part }));
            found.orphaned_turns += u64::from(marker.is_some());
            found.orphaned_leases += u64::from(lease.is_some());
            return Ok(None);
        }
        if row.is_none() {
            found.violations.push(ClusterViolation::NoRow { key: name() });
        }
        let own = values.get(..5).unwrap_or_default();
        let Some(look) = self.looked(self.shard_of(key), key, own, node)? else { return Ok(None) };
        let mut differs = |what| found.violations.push(ClusterViolation::Differs { key: name(), what });
        let (there, due) = (text(at(values, 7)).unwrap_or_default(), state(&look.hot));
        let is_suspension = (there == "1") != (due == "1");
        if look.hot.last_interaction.is_some() != interaction.is_some() || (there != due && !is_suspension) {
            differs("interaction");
        }
        if is_suspension {
            differs("suspension");
        }
        if let Some(marker) = marker {
            let marker = Marker::decode(key, marker)?;
            found.orphaned_turns += u64::from(marker.turn.session_id != look.cold.session_id);
        }
        Ok(Some(look))
    }

    fn verify_hints(&self, all: &[Hinted], found: &mut ClusterVerification) -> Result<()> {
        let ask = |shard, Hinted { key, id, hint, .. }: &Hinted| {
            let member = format!("{hint}{}", key.as_str());
            vec![redis::cmd("SISMEMBER").arg(self.layout().hints(shard, id)).arg(member).to_owned()]
        };
        let answers = self.ask_each(all, |one| self.layout().shard_of_id(&one.id), ask)?;
        for (Hinted { key, stamp, is_hint_kept, .. }, (values, _)) in all.iter().zip(answers) {
            if int(at(&values, 0)) == Some(1) {
                continue;
            }
            // Its replicas never had it, and a failover lost it.
            if !is_hint_kept {
                found.without_hint += 1;
                continue;
            }
            // Another session since then has another hint.
            if wait(self.look(key, false))?.is_some_and(|look| look.stamp() == *stamp) {
                found.violations.push(ClusterViolation::NoHint { key: key.to_string() });
            }
        }
        Ok(())
    }

    /// Those of the hints of some session ids that lead to no entry with it.
    pub(super) fn nowhere(&self, ids: &[SessionId]) -> Result<Vec<Nowhere>> {
        let mut found = Vec::new();
        let ask = |shard, id: &SessionId| vec![redis::cmd("SMEMBERS").arg(self.layout().hints(shard, id)).to_owned()];
        let answers = self.ask_each(ids, |id| self.layout().shard_of_id(id), ask)?;
        let members = ids.iter().zip(&answers).flat_map(|(id, (values, _))| {
            let parts = move |member: &Value| {
                let member = text(member)?;
                let (hint, key) = member.split_at_checked(16)?;
                Some((id, hint.to_owned(), SessionKey::new(key).ok()?))
            };
            list(at(values, 0)).iter().filter_map(parts)
        });
        let members: Vec<_> = members.collect();
        let ask = |shard, (_, _, key): &(&SessionId, String, SessionKey)| {
            vec![redis::cmd("HMGET").arg(self.layout().entry(shard, key)).arg(&["v", "c", "i"]).to_owned()]
        };
        for members in members.chunks(AT_ONCE) {
            let answers = self.ask_each(members, |(_, _, key)| self.shard_of(key), ask)?;
            for ((id, hint, key), (values, _)) in members.iter().zip(answers) {
                let records = list(at(&values, 0));
                // What cannot be decoded was told already.
                let cold = bytes(at(records, 1)).map(crate::codec::decode_cold);
                let leads_there = cold.is_some_and(|cold| cold.map_or(true, |(cold, _)| cold.session_id == **id));
                let named = text(at(records, 2)).unwrap_or_default();
                if !leads_there && named.trim_start_matches(UNKEPT) != hint {
                    let stamp = text(at(records, 0)).unwrap_or_default();
                    found.push(Nowhere { id: (*id).clone(), key: key.clone(), hint: hint.clone(), stamp });
                }
            }
        }
        Ok(found)
    }
}
