//! Leases: those with an end, and those that last as long as a process holds them.
//!
//! Both are names of a key, with a beginning and an end. One of the second kind is named after its member and has no end that
//! comes: it counts until the member is gone, and the first that looks at it afterwards ends it.

use std::future::poll_fn;
use std::sync::{Arc, Weak};
use std::task::Poll;
use std::thread;
use std::time::Duration;

use futures_channel::mpsc::UnboundedReceiver;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;

use super::caller::{Caller, wait};
use super::dropped::Named as Ended;
use super::layout::Part;
use super::map::Kind;
use super::scripts::Named;
use super::store::{ClusterStore, Inner};
use super::value::{at, int, list, pairs, text};
use crate::commit::{MAX_LEASES, Receipt};
use crate::error::{Error, Result};
use crate::fork;
use crate::key::{SessionKey, check_lease_name};
use crate::leases::{Hold, Lease, OpenLease};
use crate::random;
use crate::time::Timestamp;
use crate::unreadable::{Listing, Unreadable};

/// How long until a lease is ended again whose node did not answer.
const AGAIN: Duration = Duration::from_secs(1);
/// No name that a user may give begins with it.
const OF_MEMBER: char = '\u{1}';

pub(super) struct Term {
    pub(super) name: String,
    pub(super) since: Timestamp,
    pub(super) end: Timestamp,
}

/// The member whose lease has this name, if it is one of a process.
pub(super) fn member_of(name: &str) -> Option<&str> {
    Some(name.strip_prefix(OF_MEMBER)?.split_once(':')?.0)
}

/// The leases in the hash of a key.
pub(super) fn terms_of(hash: &redis::Value) -> Vec<Term> {
    let time = |text: &str| text.parse().map(Timestamp::from_micros).unwrap_or(Timestamp::MIN);
    let term = |(name, term): (&redis::Value, &redis::Value)| {
        let (name, term) = (text(name).unwrap_or_default(), text(term).unwrap_or_default());
        let times = term.split_once(':').map(|(since, end)| (time(since), time(end)));
        let (since, end) = times.unwrap_or((Timestamp::MIN, Timestamp::MIN));
        Term { name, since, end }
    };
    pairs(hash).into_iter().map(term).collect()
}

/// A lease that lasts until this is dropped.
#[derive(Debug)]
struct HeldHere {
    store: Weak<Inner>,
    caller: Caller,
    key: SessionKey,
    name: String,
}

/// The store, unless it is closed: that ends all leases of its process.
fn still_open(inner: &Weak<Inner>) -> Option<ClusterStore> {
    inner.upgrade().filter(|inner| !inner.door.is_closed()).map(ClusterStore::of)
}

impl Hold for HeldHere {
    fn is_held(&self) -> bool {
        let Some(store) = still_open(&self.store) else { return false };
        let terms = wait(store.terms(store.shard_of(&self.key), &self.key));
        terms.is_ok_and(|terms| terms.iter().any(|term| term.name == self.name))
    }
}

impl HeldHere {
    /// There is nothing to end.
    fn forget(mut self) {
        self.store = Weak::new();
    }
}

impl Drop for HeldHere {
    fn drop(&mut self) {
        let Some(store) = still_open(&self.store).filter(|_| !fork::is_child()) else { return };
        match self.caller {
            Caller::Blocks => store.end_lease(&self.key, &self.name),
            Caller::Awaits => {
                let ending = ending(self.store.clone());
                store.inner.dropped.put((self.key.clone(), self.name.clone()), ending);
            }
        }
    }
}

/// Ends leases as they come, until no more do. One whose node does not answer is tried again, and delays no other one.
async fn end_all(inner: &Weak<Inner>, mut dropped: UnboundedReceiver<Ended>) {
    let (mut ending, mut is_over) = (FuturesUnordered::new(), false);
    while !is_over || !ending.is_empty() {
        let next = poll_fn(|context| match ending.poll_next_unpin(context) {
            Poll::Ready(Some(())) => Poll::Ready(None),
            Poll::Ready(None) | Poll::Pending if !is_over => dropped.poll_next_unpin(context).map(Some),
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        });
        match next.await {
            None => {}
            Some(Some((key, name))) => ending.push(end_one(inner, key, name)),
            Some(None) => is_over = true,
        }
    }
}

async fn end_one(inner: &Weak<Inner>, key: SessionKey, name: String) {
    while let Some(store) = still_open(inner) {
        let store = ClusterStore { caller: Caller::Awaits, ..store };
        match store.lease_script(&key, &name, "", "").await {
            Err(Error::Unavailable { .. } | Error::Uncertain { .. }) => {
                // The store may go meanwhile.
                let nodes = Arc::clone(&store.inner.nodes);
                drop(store);
                nodes.pause(Caller::Awaits, AGAIN).await;
            }
            Err(error) => return not_ended(&key, &error),
            Ok(_) => return,
        }
    }
}

fn not_ended(key: &SessionKey, error: &Error) {
    let cause: &dyn std::error::Error = error;
    tracing::warn!(error = cause, %key, "a lease cannot be ended; it ends with this process");
}

/// Starts the thread that ends leases, and says whether it could.
fn ending(inner: Weak<Inner>) -> impl FnOnce(UnboundedReceiver<Ended>) -> bool {
    move |dropped| {
        let run = move || wait(end_all(&inner, dropped));
        let started = thread::Builder::new().name("cloakroom-drop".into()).spawn(run);
        if let Err(error) = &started {
            tracing::warn!(%error, "a lease cannot be ended for want of a thread; it ends with this process");
        }
        started.is_ok()
    }
}

impl ClusterStore {
    /// Ends a lease of this process that nobody holds any more.
    fn end_lease(&self, key: &SessionKey, name: &str) {
        if let Err(error) = wait(self.lease_script(key, name, "", "")) {
            not_ended(key, &error);
        }
    }

    /// Whether a lease, or work that a member knows of, holds an entry. Leases of processes that are gone are ended, unless it
    /// only looks.
    pub(super) async fn is_held(&self, key: &SessionKey, only_looks: bool) -> Result<bool> {
        let (shard, now) = (self.shard_of(key), self.now().as_micros());
        let ask = |part| redis::cmd("ZSCORE").arg(self.part(shard, part)).arg(key.as_str()).to_owned();
        let done = self.call(shard, Kind::Read, &|_| vec![ask(Part::Holds), ask(Part::Leases)]).await?;
        let is_ahead = |place| int(at(&done.values, place)).is_some_and(|end| end > now);
        if is_ahead(0) || !is_ahead(1) {
            return Ok(is_ahead(0));
        }
        self.is_leased(shard, key, now, only_looks).await
    }

    /// Whether a lease holds an entry. Those of processes that are gone are ended, unless it only looks.
    async fn is_leased(&self, shard: u32, key: &SessionKey, now: i64, only_looks: bool) -> Result<bool> {
        let (mut roll, mut is_held) = (None, false);
        for Term { name, since, end } in self.terms(shard, key).await? {
            let Some(member) = member_of(&name) else {
                is_held |= end.as_micros() > now;
                continue;
            };
            let roll = match &mut roll {
                Some(roll) => roll,
                None => roll.insert(self.roll().await?),
            };
            if !self.is_gone(roll, member, since).await? {
                is_held = true;
            } else if !only_looks {
                self.lease_script(key, &name, "", "").await?;
            }
        }
        Ok(is_held)
    }

    /// Holds an entry while this process lives, until the answer is dropped.
    pub(super) async fn do_hold_on(&self, key: &SessionKey) -> Result<Option<Lease>> {
        self.stay().await?;
        let name = format!("{OF_MEMBER}{}:{:016x}", self.inner.member, random::bits()?);
        let (now, end) = (self.now().as_micros(), Timestamp::MAX.as_micros());
        // Whoever gives up meanwhile does not leave it behind.
        let store = Arc::downgrade(&self.inner);
        let held = HeldHere { store, caller: self.caller, key: key.clone(), name: name.clone() };
        let receipt = match self.take(key, &name, &format!("{now}:{end}"), &end.to_string()).await {
            Ok(Some(receipt)) => receipt,
            Ok(None) => {
                held.forget();
                return Ok(None);
            }
            Err(error) => {
                // It may have been taken, and nobody would end it while this process lives.
                if !matches!(error, Error::Uncertain { .. }) {
                    held.forget();
                }
                return Err(error);
            }
        };
        // A failover must not forget it: others would prune what is at work here.
        self.keep_all(&[receipt]).await?;
        Ok(Some(Lease::of(held)))
    }

    /// The leases of a key, those included that have ended.
    pub(super) async fn terms(&self, shard: u32, key: &SessionKey) -> Result<Vec<Term>> {
        let ask = redis::cmd("HGETALL").arg(self.layout().leases(shard, key)).to_owned();
        let done = self.call(shard, Kind::Read, &|_| vec![ask.clone()]).await?;
        Ok(terms_of(at(&done.values, 0)))
    }

    pub(super) async fn do_hold(&self, key: &SessionKey, name: &str, end: Timestamp) -> Result<Option<Receipt>> {
        check_lease_name(name).map_err(Error::InvalidLease)?;
        let now = self.now();
        if end <= now {
            return match self.lease_script(key, name, "", "").await? {
                (0, _) => Ok(None),
                (_, receipt) => Ok(Some(receipt)),
            };
        }
        let (term, end) = (format!("{}:{}", now.as_micros(), end.as_micros()), end.as_micros().to_string());
        self.take(key, name, &term, &end).await
    }

    /// Takes a lease, or sets its end. Where there are too many those of processes that are gone make room.
    async fn take(&self, key: &SessionKey, name: &str, term: &str, end: &str) -> Result<Option<Receipt>> {
        for _ in 0..2 {
            match self.lease_script(key, name, term, end).await? {
                (1, receipt) => return Ok(Some(receipt)),
                (-2, _) => self.is_leased(self.shard_of(key), key, self.now().as_micros(), false).await.map(drop)?,
                _ => return Ok(None),
            }
        }
        Err(Error::TooManyLeases { key: key.clone(), limit: MAX_LEASES })
    }

    pub(super) async fn do_release(&self, key: &SessionKey, name: &str) -> Result<Option<Receipt>> {
        let (answer, receipt) = self.lease_script(key, name, "", "").await?;
        Ok((answer == 1).then_some(receipt))
    }

    pub(super) async fn lease_script(
        &self,
        key: &SessionKey,
        name: &str,
        term: &str,
        end: &str,
    ) -> Result<(i64, Receipt)> {
        let shard = self.shard_of(key);
        let keys = [
            self.part(shard, Part::Mark),
            self.layout().entry(shard, key),
            self.part(shard, Part::Leases),
            self.layout().leases(shard, key),
        ];
        let limit = MAX_LEASES.to_string();
        let args = [key.as_str(), name, term, end, &limit].map(|arg| arg.as_bytes().to_vec());
        let (value, done) = self.script_once(shard, Named::Hold, &keys, &args).await?;
        Ok((int(&value).unwrap_or(0), self.receipt([done.sent])))
    }

    pub(super) async fn do_leases(&self) -> Result<Listing<OpenLease>> {
        let now = self.now();
        let ask = |shard| {
            let mut held = redis::cmd("ZRANGEBYSCORE");
            held.arg(self.part(shard, Part::Leases)).arg(format!("({}", now.as_micros())).arg("+inf");
            let mark = redis::cmd("HGET").arg(self.part(shard, Part::Mark)).arg("mark").to_owned();
            vec![held, mark]
        };
        let (mut found, mut items) = (Vec::new(), Vec::new());
        for (shard, done) in self.scatter(0..self.layout().shards(), &ask).await? {
            self.check_mark(shard, at(&done.values, 1), &done.node)?;
            for key in list(at(&done.values, 0)) {
                let key = SessionKey::new(text(key).unwrap_or_default()).map_err(Error::InvalidKey)?;
                found.extend(self.terms(shard, &key).await?.into_iter().map(|term| (key.clone(), term)));
            }
        }
        // The roll is called after the leases are read: each process that has one had joined by then.
        let roll = self.roll().await?;
        for (key, Term { name, since, end }) in found {
            let (name, end) = match member_of(&name) {
                Some(member) if !self.is_gone(&roll, member, since).await? => (None, None),
                None if end > now => (Some(name), Some(end)),
                _ => continue,
            };
            items.push(OpenLease { key, name, since, end, age: now.since(since) });
        }
        items.sort_unstable_by(|a, b| (a.since, &a.key, &a.name).cmp(&(b.since, &b.key, &b.name)));
        Ok(Listing { items, unreadable: Unreadable::default() })
    }
}
