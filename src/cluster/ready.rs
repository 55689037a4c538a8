//! How a store that is made, or restored, is opened to all.

use std::collections::BTreeMap;

use super::caller::wait;
use super::layout::Part;
use super::map::Kind;
use super::scripts::Named;
use super::store::ClusterStore;
use super::value::{at, bytes, int, list};
use crate::error::{Error, Result};

impl ClusterStore {
    /// Opens a new store to all, once its marks are as durable as a receipt says: a failover that forgot one would leave a
    /// shard that counts as lost.
    pub(super) fn end_making(&self) -> Result<()> {
        let mut nodes = BTreeMap::new();
        let ask = |shard| vec![redis::cmd("HGET").arg(self.part(shard, Part::Mark)).arg("mark").to_owned()];
        for (shard, done) in wait(self.scatter(0..self.layout().shards(), &ask))? {
            nodes.entry(done.node).or_insert(shard);
        }
        let mut receipts = Vec::new();
        for shard in nodes.into_values() {
            // What is written after the marks proves them all.
            let mut again = redis::cmd("HSET");
            again.arg(self.part(shard, Part::Mark)).arg("mark").arg(&self.inner.mark);
            let done = wait(self.call(shard, Kind::Write, &|_| vec![again.clone()]))?;
            receipts.push(self.receipt([done.sent]));
        }
        wait(self.keep_all(&receipts))?;
        self.make_ready("making", "")
    }

    /// Opens a store to all that was restored.
    pub(super) fn end_load(&self, loader: &str) -> Result<()> {
        self.make_ready("loading", loader)
    }

    fn make_ready(&self, state: &str, loader: &str) -> Result<()> {
        let keys = [self.layout().once("meta")];
        let args = [state, loader].map(|arg| arg.as_bytes().to_vec());
        let done = wait(self.call(0, Kind::Write, &|whole| vec![Named::Ready.call(whole, &keys, &args)]))?;
        if int(at(&done.values, 0)) == Some(1) { Ok(()) } else { Err(self.taken_over()) }
    }

    /// Refuses to go on where another restore has begun since.
    pub(super) async fn check_loader(&self, loader: &str) -> Result<()> {
        let ask = redis::cmd("HMGET").arg(self.layout().once("meta")).arg(&["state", "loader"]).to_owned();
        let done = self.call(0, Kind::Write, &|_| vec![ask.clone()]).await?;
        let found = list(at(&done.values, 0));
        let is_own = bytes(at(found, 0)) == Some(b"loading") && bytes(at(found, 1)) == Some(loader.as_bytes());
        if is_own { Ok(()) } else { Err(self.taken_over()) }
    }

    fn taken_over(&self) -> Error {
        let reason = "another process has begun to restore it since, and goes on".into();
        Error::OtherStore { name: self.name().to_owned(), reason }
    }
}
