//! Hints: which keys may have a session id.
//!
//! A hint is written, and at the replicas, before the entry that has the id. It is removed only when the replicas have the change
//! that took the id from the entry: a failover may give it back, and the entry would be without a hint for good. What is left of
//! a hint leads nowhere, and is passed over; a [`repair`](super::repair) takes it away.

use std::time::Instant;

use redis::Cmd;

use super::entry::UNKEPT;
use super::map::Kind;
use super::proof::Sent;
use super::stale::Stale;
use super::store::ClusterStore;
use super::value::{at, text};
use crate::error::{Error, Result};
use crate::key::{SessionId, SessionKey};

impl ClusterStore {
    /// Notes that a key may have a session id, or that it has it no more.
    pub(super) async fn hint(
        &self,
        key: &SessionKey,
        id: &SessionId,
        hint: &str,
        is_there: bool,
    ) -> Result<Option<Sent>> {
        let shard = self.layout().shard_of_id(id);
        let command = self.hint_command(key, id, hint, is_there);
        let done = self.call(shard, Kind::Step, &|_| vec![command.clone()]).await?;
        Ok(done.sent)
    }

    fn hint_command(&self, key: &SessionKey, id: &SessionId, hint: &str, is_there: bool) -> Cmd {
        let hints = self.layout().hints(self.layout().shard_of_id(id), id);
        let mut command = redis::cmd(if is_there { "SADD" } else { "SREM" });
        command.arg(hints).arg(format!("{hint}{}", key.as_str()));
        command
    }

    /// Removes a hint of an entry once the replicas have what was sent.
    pub(super) fn forget_hint(&self, key: &SessionKey, id: &SessionId, hint: &str, sent: Option<&Sent>) {
        if let Some(sent) = sent.filter(|_| !hint.is_empty()) {
            let (key, id, hint, sent) = (key.clone(), id.clone(), hint.to_owned(), sent.clone());
            self.inner.stale_hints.put(Stale { key, id, hint, sent });
        }
    }

    /// Removes the hints that nothing can bring back to use. Where a node does not answer, or says no, the other ones are served
    /// all the same, and the first error is returned. All share one patience.
    pub(super) async fn remove_stale_hints(&self) -> Result<()> {
        let began = Instant::now();
        let (mut outcome, mut silent) = (Ok(()), Vec::new());
        let mut taken = self.inner.stale_hints.take();
        while let Some(stale) = taken.next() {
            let shard = if stale.sent.is_replicated() {
                self.layout().shard_of_id(&stale.id)
            } else {
                self.shard_of(&stale.key)
            };
            let node = self.inner.nodes.primary(self.layout().slot_of(shard)).map(|it| it.writes.node().to_owned());
            // The first connection may be one that broke since it was used.
            let is_silent = silent.iter().filter(|silent| **silent == node).count() > 1;
            let removed = if is_silent { None } else { Some(self.remove_stale_hint(began, stale).await) };
            if matches!(removed, Some(Err(Error::Unavailable { .. }))) {
                silent.push(node);
            }
            taken.done(matches!(removed, Some(Ok(()))));
            outcome = outcome.and(removed.unwrap_or(Ok(())));
        }
        outcome
    }

    async fn remove_stale_hint(&self, began: Instant, stale: &Stale) -> Result<()> {
        let Stale { key, id, hint, sent } = stale;
        let (nodes, slot) = (&self.inner.nodes, |shard| self.layout().slot_of(shard));
        if sent.is_replicated() {
            let command = self.hint_command(key, id, hint, false);
            let slot = slot(self.layout().shard_of_id(id));
            return nodes.call_since(self.caller, began, slot, Kind::Step, &|_| vec![command.clone()]).await.map(drop);
        }
        // The connection broke: the change may be undone, and if it is not that is to be proven anew.
        let shard = self.shard_of(key);
        let ask = redis::cmd("HGET").arg(self.layout().entry(shard, key)).arg("i").to_owned();
        let done = nodes.call_since(self.caller, began, slot(shard), Kind::Write, &|_| vec![ask.clone()]).await?;
        let named = text(at(&done.values, 0)).unwrap_or_default();
        if named.trim_start_matches(UNKEPT) != hint {
            self.forget_hint(key, id, hint, done.sent.as_ref());
        }
        Ok(())
    }
}
