//! An entry as it is read.

use std::collections::BTreeMap;

use redis::{Cmd, Value};

use super::layout::Part;
use super::map::Kind;
use super::store::ClusterStore;
use super::value::{at, bytes, int, list, pairs, text};
use crate::codec::{self, CodecError, Cold, Hot};
use crate::entry::{Details, Extras, Revision, SessionEntry};
use crate::error::{Error, Result};
use crate::key::SessionKey;
use crate::rules;
use crate::time::Timestamp;

/// Before the name of a hint that the replicas did not acknowledge.
pub(super) const UNKEPT: char = '?';

/// An entry as it was read.
#[derive(Debug, Clone)]
pub(super) struct Look {
    pub(super) hot: Hot,
    pub(super) cold: Cold,
    /// The details were in the extras.
    pub(super) spilled: bool,
    pub(super) hint: String,
    /// Replicas are known to have it.
    pub(super) is_hint_kept: bool,
    /// `updated_at` as the server writes it.
    pub(super) score: String,
    /// All of them, if they were asked for.
    pub(super) extras: Option<Extras>,
}

impl Look {
    pub(super) fn entry(&self, key: &SessionKey) -> SessionEntry {
        rules::entry(key, &self.hot, self.cold.clone())
    }

    pub(super) fn stamp(&self) -> String {
        self.hot.revision.to_string()
    }
}

impl ClusterStore {
    /// The commands that read an entry; with its extras, if that is asked.
    pub(super) fn look_commands(&self, shard: u32, key: &SessionKey, with_extras: bool) -> Vec<Cmd> {
        let mut records = redis::cmd("HMGET");
        records.arg(self.layout().entry(shard, key)).arg(&["v", "h", "c", "i"]);
        let score = |part| redis::cmd("ZSCORE").arg(self.part(shard, part)).arg(key.as_str()).to_owned();
        let mark = redis::cmd("HGET").arg(self.part(shard, Part::Mark)).arg("mark").to_owned();
        let mut commands = vec![records, score(Part::Updated), score(Part::Interaction), mark];
        if with_extras {
            commands.push(redis::cmd("HGETALL").arg(self.layout().extras(shard, key)).to_owned());
        }
        commands
    }

    /// What those commands answered.
    pub(super) fn looked(&self, shard: u32, key: &SessionKey, values: &[Value], node: &str) -> Result<Option<Look>> {
        let records = list(at(values, 0));
        let Some(stamp) = text(at(records, 0)) else {
            self.check_mark(shard, at(values, 3), node)?;
            return Ok(None);
        };
        let damaged =
            |record, source: CodecError| Error::DamagedRecord { record, key: key.to_string(), source: source.into() };
        let mut hot = Hot::decode(bytes(at(records, 1)).unwrap_or_default()).map_err(|e| damaged("h", e))?;
        let (mut cold, spilled) =
            codec::decode_cold(bytes(at(records, 2)).unwrap_or_default()).map_err(|e| damaged("c", e))?;
        hot.revision = stamp.parse().unwrap_or(Revision::NONE);
        let time = |value: &Value| int(value).map(Timestamp::from_micros);
        if let Some(score) = time(at(values, 1)) {
            hot.updated_at = score;
        }
        hot.last_interaction = hot.last_interaction.map(|at_put| time(at(values, 2)).unwrap_or(at_put));
        let mut extras = None;
        if let Some(parts) = values.get(4) {
            let (details, all) = self.assemble(key, &cold, parts)?;
            if let Some(details) = details {
                cold.details = details;
            }
            extras = Some(all);
        }
        let named = text(at(records, 3)).unwrap_or_default();
        let hint = named.trim_start_matches(UNKEPT).to_owned();
        let is_hint_kept = hint == named;
        let score = text(at(values, 1)).unwrap_or_default();
        Ok(Some(Look { hot, cold, spilled, hint, is_hint_kept, score, extras }))
    }

    fn assemble(&self, key: &SessionKey, cold: &Cold, parts: &Value) -> Result<(Option<Details>, Extras)> {
        let Some(index) = &cold.extras else { return Ok((None, Extras::default())) };
        let number = |name: &Value| text(name).and_then(|number| number.parse::<u64>().ok());
        let parts: BTreeMap<u64, &[u8]> =
            pairs(parts).into_iter().filter_map(|(name, value)| Some((number(name)?, bytes(value)?))).collect();
        codec::assemble(index, |generation| parts.get(&generation).copied()).map_err(|source| Error::DamagedRecord {
            record: "x",
            key: key.to_string(),
            source: source.into(),
        })
    }

    /// Reads an entry; with its extras, if that is asked.
    pub(super) async fn look(&self, key: &SessionKey, mut with_extras: bool) -> Result<Option<Look>> {
        let shard = self.shard_of(key);
        loop {
            let done = self.call(shard, Kind::Read, &|_| self.look_commands(shard, key, with_extras)).await?;
            match self.looked(shard, key, &done.values, &done.node)? {
                // Its details are there.
                Some(look) if look.spilled && !with_extras => with_extras = true,
                found => return Ok(found),
            }
        }
    }
}
