//! Hints that no entry needs any more once the replicas have what was sent. [`hints`](super::hints) removes them then.

use std::sync::Arc;

use parking_lot::Mutex;

use super::proof::{Link, Sent};
use crate::key::{SessionId, SessionKey};

/// So many hints wait for their removal at most. No replica has answered for long then, and more are left over.
const MAX_STALE: usize = 1 << 15;

/// A hint that no entry needs once the replicas have what was sent.
#[derive(Debug)]
pub(super) struct Stale {
    pub(super) key: SessionKey,
    pub(super) id: SessionId,
    pub(super) hint: String,
    pub(super) sent: Sent,
}

/// The hints that wait for their removal.
#[derive(Debug, Default)]
pub(super) struct StaleHints(Mutex<Vec<Stale>>);

impl StaleHints {
    pub(super) fn put(&self, stale: Stale) {
        let mut all = self.0.lock();
        if all.len() < MAX_STALE {
            all.push(stale);
        }
    }

    /// Takes those whose replicas have it, or whose connection broke. It asks the other connections, and waits for nothing.
    pub(super) fn take(&self) -> Vec<Stale> {
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
