//! Hints: which keys may have a session id.
//!
//! A hint is written, and at the replicas, before the entry that has the id. It is removed only when the replicas have the change
//! that took the id from the entry: a failover may give it back, and the entry would be without a hint for good. What is left of
//! a hint leads nowhere, and is passed over.

use std::sync::Arc;

use parking_lot::Mutex;

use super::entry::UNKEPT;
use super::map::Kind;
use super::proof::{Link, Sent};
use super::store::ClusterStore;
use super::value::{at, text};
use crate::error::Result;
use crate::key::{SessionId, SessionKey};

/// So many hints wait for their removal at most. No replica has answered for long then, and more are left over.
const MAX_STALE: usize = 1 << 15;

/// A hint that no entry needs once the replicas have what was sent.
#[derive(Debug)]
struct Stale {
    key: SessionKey,
    id: SessionId,
    hint: String,
    sent: Sent,
}

/// The hints that wait for their removal.
#[derive(Debug, Default)]
pub(super) struct StaleHints(Mutex<Vec<Stale>>);

impl StaleHints {
    fn put(&self, stale: Stale) {
        let mut all = self.0.lock();
        if all.len() < MAX_STALE {
            all.push(stale);
        }
    }

    /// Takes those whose replicas have it, or whose connection broke. It asks the other connections, and waits for nothing.
    fn take(&self) -> Vec<Stale> {
        let is_settled = |stale: &mut Stale| stale.sent.is_replicated() || stale.sent.link.is_lost();
        let mut all = self.0.lock();
        let settled = all.extract_if(.., is_settled).collect();
        let mut links: Vec<Arc<Link>> = Vec::new();
        for Stale { sent, .. } in &*all {
            if !links.iter().any(|link| Arc::ptr_eq(link, &sent.link)) {
                links.push(Arc::clone(&sent.link));
            }
        }
        drop(all);
        links.iter().for_each(|link| link.ask_soon());
        settled
    }
}

impl ClusterStore {
    /// Notes that a key may have a session id, or that it has it no more.
    pub(super) fn hint(&self, key: &SessionKey, id: &SessionId, hint: &str, is_there: bool) -> Result<Option<Sent>> {
        let shard = self.layout().shard_of_id(id);
        let mut command = redis::cmd(if is_there { "SADD" } else { "SREM" });
        command.arg(self.layout().hints(shard, id)).arg(format!("{hint}{}", key.as_str()));
        let done = self.call(shard, Kind::Write, &|_| vec![command.clone()])?;
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
