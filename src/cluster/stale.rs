//! Hints that no entry needs any more once the replicas have what was sent. [`hints`](super::hints) removes them then.

use std::sync::Arc;

use parking_lot::Mutex;

use super::proof::{Link, Sent};
use crate::fork;
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
        self.put_all([stale]);
    }

    fn put_all(&self, new: impl IntoIterator<Item = Stale>) {
        let mut all = self.0.lock();
        let room = MAX_STALE.saturating_sub(all.len());
        all.extend(new.into_iter().take(room));
    }

    /// Takes those whose replicas have it, or whose connection broke. It asks the other connections, and waits for nothing.
    pub(super) fn take(&self) -> Taken<'_> {
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
        Taken { from: self, left: settled, kept: Vec::new() }
    }
}

/// Hints that are being removed. Those that are not, or are kept, go back when this is dropped.
pub(super) struct Taken<'a> {
    from: &'a StaleHints,
    left: Vec<Stale>,
    kept: Vec<Stale>,
}

impl Taken<'_> {
    /// The next one, which [`done`](Self::done) is for.
    pub(super) fn next(&self) -> Option<&Stale> {
        self.left.last()
    }

    /// It was removed, or is kept for another time.
    pub(super) fn done(&mut self, is_removed: bool) {
        let one = self.left.pop();
        self.kept.extend(one.filter(|_| !is_removed));
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        // A forked process drops futures of its parent, a thread of which may have the lock for ever.
        if !fork::is_child() {
            self.from.put_all(self.left.drain(..).chain(self.kept.drain(..)));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Weak;

    use redis::RedisError;

    use super::super::proof::{Needs, Nobody, Way};
    use super::*;

    /// Whoever removes them may be a future that is dropped.
    #[test]
    fn what_is_not_removed_goes_back() {
        let way: Weak<dyn Way> = Weak::<Nobody>::new();
        let link = Arc::new(Link::new("a:1".into(), way, &Needs::new("t".into(), true, 1)));
        link.lose(&RedisError::from(std::io::Error::other("it broke")));
        let hints = StaleHints::default();
        for n in 0..5 {
            let (key, id) = (SessionKey::new(format!("{n}")).unwrap(), SessionId::new("id").unwrap());
            hints.put(Stale { key, id, hint: "a".into(), sent: Sent { link: Arc::clone(&link), batch: 1 } });
        }
        let mut taken = hints.take();
        assert!(hints.take().next().is_none());
        for is_removed in [true, false, true] {
            assert!(taken.next().is_some());
            taken.done(is_removed);
        }
        drop(taken);
        let mut left = hints.take();
        let mut count = 0;
        while left.next().is_some() {
            left.done(true);
            count += 1;
        }
        assert_eq!(count, 3);
    }
}
