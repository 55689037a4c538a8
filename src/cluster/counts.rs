//! How many entries there are: in all, in a shard, and before a time.

use super::caller::wait;
use super::layout::Part;
use super::map::Kind;
use super::store::ClusterStore;
use super::value::{at, int};
use crate::error::Result;
use crate::time::Timestamp;

impl ClusterStore {
    /// How many entries each shard has, and how many of them are older than the cutoff.
    pub(super) async fn count_shards(&self, cutoff: Option<Timestamp>) -> Result<Vec<(u32, (u64, u64))>> {
        let ask = |shard| {
            let updated = self.part(shard, Part::Updated);
            let mut expired = redis::cmd("ZCOUNT");
            let cutoff = cutoff.map_or(i64::MIN, Timestamp::as_micros);
            expired.arg(&updated).arg("-inf").arg(format!("({cutoff}"));
            let mark = redis::cmd("HGET").arg(self.part(shard, Part::Mark)).arg("mark").to_owned();
            vec![redis::cmd("ZCARD").arg(&updated).to_owned(), expired, mark]
        };
        let mut counts = Vec::new();
        for (shard, done) in self.scatter(0..self.layout().shards(), &ask).await? {
            self.check_mark(shard, at(&done.values, 2), &done.node)?;
            let count = |place| int(at(&done.values, place)).and_then(|count| u64::try_from(count).ok()).unwrap_or(0);
            counts.push((shard, (count(0), count(1))));
        }
        Ok(counts)
    }

    /// How many entries a shard has now.
    pub(super) fn count_shard(&self, shard: u32) -> Result<u64> {
        let ask = redis::cmd("ZCARD").arg(self.part(shard, Part::Updated)).to_owned();
        let done = wait(self.call(shard, Kind::Read, &|_| vec![ask.clone()]))?;
        Ok(int(at(&done.values, 0)).and_then(|count| u64::try_from(count).ok()).unwrap_or(0))
    }

    /// How many entries there are, and how many of them are older than the cutoff.
    pub(super) fn count_expired(&self, cutoff: Option<Timestamp>) -> Result<(u64, u64)> {
        let counts = wait(self.count_shards(cutoff))?.into_iter().map(|(_, counts)| counts);
        let (all, old) = counts.fold((0, 0), |(all, old), (entries, expired)| (all + entries, old + expired));
        Ok((all, if cutoff.is_some() { old } else { 0 }))
    }

    /// How many entries there are.
    pub(super) async fn count(&self) -> Result<u64> {
        Ok(self.count_shards(None).await?.into_iter().map(|(_, (entries, _))| entries).sum())
    }
}
