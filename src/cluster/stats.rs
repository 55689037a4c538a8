//! Figures of the whole.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::caller::wait;
use super::layout::Part;
use super::store::ClusterStore;
use super::told::Told;
use super::value::{at, int, list};
use crate::error::Result;
use crate::time::Timestamp;

const MINUTE: Duration = Duration::from_secs(60);

/// Figures of a store on a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ClusterStats {
    /// When these were told, by the clock of the store.
    pub now: Timestamp,
    /// Entries.
    pub entries: u64,
    /// Those that were used within a minute before `now`.
    pub active_in_last_minute: u64,
    /// Shards that have any.
    pub shards_in_use: u64,
    /// Shards.
    pub shards: u64,
    /// The `updated_at` of the entry that has been idle for longest.
    pub oldest: Option<Timestamp>,
    /// The latest `updated_at`.
    pub newest: Option<Timestamp>,
    /// Turns that have begun and not ended.
    pub open_turns: u64,
    /// Entries that a pass of pruning wants gone, once all have been asked.
    pub condemned: u64,
    /// Processes that have the store open, this one among them.
    pub members: u64,
    /// Those that are asked before an entry is pruned.
    pub guards: u64,
    /// Bytes of memory that the primaries which have shards of the store use together, for all that they hold (`used_memory` of `INFO`). `None` where a node does
    /// not let this user ask.
    pub used_memory: Option<u64>,
    /// How far the replica that is farthest behind is behind its primary: the bytes of the replication stream that it has not
    /// acknowledged. A replica acknowledges once a second, and when a receipt asks, so what was just written counts too. One that is
    /// still to get the data of its primary is behind by all. `None` where a primary has no replica connected, or a node does not let
    /// this user ask.
    pub replica_lag: Option<u64>,
}

impl ClusterStore {
    /// Figures of the whole. Asks every shard once, whatever it holds, and then every primary.
    ///
    /// # Errors
    /// Those of every read, see [the module](crate::cluster).
    pub fn stats(&self) -> Result<ClusterStats> {
        wait(self.do_stats())
    }

    pub(super) async fn do_stats(&self) -> Result<ClusterStats> {
        let now = self.now();
        let minute_ago = now.saturating_sub(MINUTE).as_micros();
        let ask = |shard| {
            let updated = self.part(shard, Part::Updated);
            let edge =
                |place: i64| redis::cmd("ZRANGE").arg(&updated).arg(place).arg(place).arg("WITHSCORES").to_owned();
            let count = |command: &str, part| redis::cmd(command).arg(self.part(shard, part)).to_owned();
            vec![
                redis::cmd("ZCARD").arg(&updated).to_owned(),
                edge(0),
                edge(-1),
                count("HLEN", Part::Turns),
                count("HLEN", Part::Condemned),
                redis::cmd("HGET").arg(self.part(shard, Part::Mark)).arg("mark").to_owned(),
                redis::cmd("ZCOUNT").arg(&updated).arg(minute_ago).arg("+inf").to_owned(),
            ]
        };
        let roll = self.roll().await?;
        let mut stats = ClusterStats {
            now,
            entries: 0,
            active_in_last_minute: 0,
            shards_in_use: 0,
            shards: self.layout().shards().into(),
            oldest: None,
            newest: None,
            open_turns: 0,
            condemned: 0,
            members: roll.members.len() as u64,
            guards: roll.guards.len() as u64,
            used_memory: None,
            replica_lag: None,
        };
        let mut nodes = BTreeMap::new();
        for (shard, done) in self.scatter(0..self.layout().shards(), &ask).await? {
            self.check_mark(shard, at(&done.values, 5), &done.node)?;
            let count = |place| int(at(&done.values, place)).and_then(|count| u64::try_from(count).ok()).unwrap_or(0);
            let time = |place| int(at(list(at(&done.values, place)), 1)).map(Timestamp::from_micros);
            stats.entries += count(0);
            stats.shards_in_use += u64::from(count(0) > 0);
            stats.oldest = [stats.oldest, time(1)].into_iter().flatten().min();
            stats.newest = stats.newest.max(time(2));
            stats.open_turns += count(3);
            stats.condemned += count(4);
            stats.active_in_last_minute += count(6);
            nodes.entry(done.node).or_insert(shard);
        }
        let Told { used_memory, replica_lag } = self.told_by_primaries(nodes.into_values()).await?;
        Ok(ClusterStats { used_memory, replica_lag, ..stats })
    }
}
