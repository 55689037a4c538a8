//! What the primaries tell of themselves: memory, and how far their replicas are behind.

use super::map::Kind;
use super::store::ClusterStore;
use super::value::{at, text};
use crate::error::{Error, Result};

/// What the primaries tell by `INFO`.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Told {
    /// The sum of their memory.
    pub(super) used_memory: Option<u64>,
    /// The most that a connected replica of one of them has not acknowledged, in bytes.
    pub(super) replica_lag: Option<u64>,
}

impl ClusterStore {
    /// Asks the primary of each of these shards. Where one of them does not let this user ask nothing is known of the whole.
    pub(super) async fn told_by_primaries(&self, shards: impl IntoIterator<Item = u32>) -> Result<Told> {
        let ask = redis::cmd("INFO").arg("memory").arg("replication").to_owned();
        let mut all = Told { used_memory: Some(0), replica_lag: Some(0) };
        for shard in shards {
            let info = match self.call(shard, Kind::Read, &|_| vec![ask.clone()]).await {
                Ok(done) => text(at(&done.values, 0)).unwrap_or_default(),
                Err(Error::Refused { .. } | Error::Engine { .. }) => return Ok(Told::default()),
                Err(error) => return Err(error),
            };
            let Told { used_memory, replica_lag } = Told::of(&info);
            all.used_memory = all.used_memory.zip(used_memory).map(|(sum, more)| sum + more);
            // Of one without a replica nobody knows how far that would be behind.
            all.replica_lag = all.replica_lag.zip(replica_lag).map(|(most, more)| most.max(more));
        }
        Ok(all)
    }
}

impl Told {
    fn of(info: &str) -> Self {
        let number = |name: &str| {
            let value = |line: &str| line.strip_prefix(name)?.strip_prefix(':')?.trim().parse::<u64>().ok();
            info.lines().find_map(value)
        };
        let is_replica = |line: &&str| line.starts_with("slave") && line.contains("state=");
        let offset = |line: &str| line.split(',').find_map(|part| part.strip_prefix("offset=")?.trim().parse().ok());
        // One that is not online is still to get all that there is.
        let acknowledged = |line: &str| if line.contains("state=online") { offset(line).unwrap_or(0) } else { 0 };
        let acknowledged: Option<u64> = info.lines().filter(is_replica).map(acknowledged).min();
        let lag = number("master_repl_offset").zip(acknowledged);
        let replica_lag = lag.map(|(written, acknowledged)| written.saturating_sub(acknowledged));
        Self { used_memory: number("used_memory"), replica_lag }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_replica_that_is_farthest_behind_counts() {
        let info = "# Memory\r\nused_memory:1048576\r\nused_memory_human:1.00M\r\n# Replication\r\nrole:master\r\n\
            connected_slaves:3\r\nslave0:ip=::1,port=1,state=online,offset=90,lag=0,type=replica\r\n\
            slave1:ip=::1,port=2,state=online,offset=70,lag=1\r\nslave2:ip=::1,port=3,state=wait_bgsave,offset=0,lag=0\r\n\
            master_repl_offset:100\r\n";
        assert_eq!(Told::of(info), Told { used_memory: Some(1_048_576), replica_lag: Some(100) });
        let online = info.replace("wait_bgsave,offset=0", "online,offset=95");
        assert_eq!(Told::of(&online).replica_lag, Some(30));
        let alone = "used_memory:7\r\nrole:master\r\nconnected_slaves:0\r\nmaster_repl_offset:100\r\n";
        assert_eq!(Told::of(alone), Told { used_memory: Some(7), replica_lag: None });
        // What was acknowledged since the offset was read is not behind.
        let ahead = "slave0:ip=::1,port=1,state=online,offset=9,lag=0\r\nmaster_repl_offset:8\r\n";
        assert_eq!(Told::of(ahead), Told { used_memory: None, replica_lag: Some(0) });
        assert_eq!(Told::of(""), Told::default());
    }
}
