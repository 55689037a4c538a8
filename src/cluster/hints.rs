//! Hints: which keys may have a session id.
//!
//! A hint is written, and at the replicas, before the entry that has the id. It is removed only when the replicas have the change
//! that took the id from the entry: a failover may give it back, and the entry would be without a hint for good. What is left of
//! a hint leads nowhere, and is passed over.

use super::entry::UNKEPT;
use super::map::Kind;
use super::proof::Sent;
use super::stale::Stale;
use super::store::ClusterStore;
use super::value::{at, text};
use crate::error::Result;
use crate::key::{SessionId, SessionKey};

impl ClusterStore {
    /// Notes that a key may have a session id, or that it has it no more.
    pub(super) fn hint(&self, key: &SessionKey, id: &SessionId, hint: &str, is_there: bool) -> Result<Option<Sent>> {
        let shard = self.layout().shard_of_id(id);
        let mut command = redis::cmd(if is_there { "SADD" } else { "SREM" });
        command.arg(self.layout().hints(shard, id)).arg(format!("{hint}{}", key.as_str()));
        let done = self.call(shard, Kind::Step, &|_| vec![command.clone()])?;
        Ok(done.sent)
    }

    /// Removes a hint of an entry once the replicas have what was sent.
    pub(super) fn forget_hint(&self, key: &SessionKey, id: &SessionId, hint: &str, sent: Option<&Sent>) {
        if let Some(sent) = sent.filter(|_| !hint.is_empty()) {
            let (key, id, hint, sent) = (key.clone(), id.clone(), hint.to_owned(), sent.clone());
            self.inner.stale_hints.put(Stale { key, id, hint, sent });
        }
    }

    /// Removes the hints that nothing can bring back to use.
    pub(super) fn remove_stale_hints(&self) -> Result<()> {
        let mut settled = self.inner.stale_hints.take().into_iter();
        while let Some(stale) = settled.next() {
            if let Err(error) = self.remove_stale_hint(&stale) {
                std::iter::once(stale).chain(settled).for_each(|stale| self.inner.stale_hints.put(stale));
                return Err(error);
            }
        }
        Ok(())
    }

    fn remove_stale_hint(&self, stale: &Stale) -> Result<()> {
        let Stale { key, id, hint, sent } = stale;
        if sent.is_replicated() {
            return self.hint(key, id, hint, false).map(drop);
        }
        // The connection broke: the change may be undone, and if it is not that is to be proven anew.
        let shard = self.shard_of(key);
        let ask = redis::cmd("HGET").arg(self.layout().entry(shard, key)).arg("i").to_owned();
        let done = self.call(shard, Kind::Write, &|_| vec![ask.clone()])?;
        let named = text(at(&done.values, 0)).unwrap_or_default();
        if named.trim_start_matches(UNKEPT) != hint {
            self.forget_hint(key, id, hint, done.sent.as_ref());
        }
        Ok(())
    }
}
