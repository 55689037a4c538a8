//! [`AsyncClusterStore`]: the verbs as futures.

use serde_json::Value;

use super::caller::Caller;
use crate::answer::{Modified, Put, Removal, Repointed, Resolved, Written};
use crate::codec::{PINNED, SUSPENDED};
use crate::commit::Receipt;
use crate::entry::{Details, Extras, KeepExtras, SessionEntry, Touch, Usage};
use crate::error::{Error, Result};
use crate::how::{Repoint, Resolve};
use crate::key::{SessionId, SessionKey};
use crate::leases::{Lease, OpenLease};
use crate::modify::{Draft, Edit};
use crate::prune::ActivityGuard;
use crate::put::Expect;
use crate::query::{Cursor, Filter, Page};
use crate::remove_where::{BulkRemoval, ForgetReport};
use crate::reset::ResetPolicies;
use crate::source::SessionSource;
use crate::time::Timestamp;
use crate::turns::{
    BegunTurn, OpenTurn, RecoverOptions, ResumeClear, ResumeMark, TurnEnd, TurnRecovery, TurnStart, TurnToken,
};
use crate::unreadable::Listing;

use super::flush::Losses;
use super::lists::AsyncClusterIter;
use super::stats::ClusterStats;
use super::store::ClusterStore;

/// A store on a cluster, with verbs that are `async`: for gateways on an async runtime, whichever it is.
///
/// It is the same store as the [`ClusterStore`] that it was [made from](ClusterStore::to_async), as one more handle to it: same
/// connections, same member, same listeners. Its verbs are those of [`Sessions`](crate::Sessions), with the errors that
/// [the module](crate::cluster) tells of. No poll blocks: answers are read by the threads of the connections, and
/// wakers are called on threads of the store. Guards, and what `modify` and `update` are given, are called within a poll.
///
/// A future that is dropped before it is ready leaves it open whether its change was made, as [`Error::Uncertain`] does; what it had
/// not sent by then is not sent. Nothing of an entry is half done then, but a turn that it has begun stays open, and a hint may be left
/// that leads nowhere. Await [`remove_where`](Self::remove_where), [`forget`](Self::forget), [`close`](Self::close) and
/// [`recover_interrupted_turns`](Self::recover_interrupted_turns) to their end: what the last one had ended before it was dropped no
/// other one tells of. [The guide](crate::guide::cluster) says more.
///
/// Passes of pruning, backups and restores, [`verify`](ClusterStore::verify) and what else takes long have no such form: they are
/// work for a thread, as that of a [`ClusterWatcher`](super::ClusterWatcher). Nor has [`open`](ClusterStore::open), which a
/// program does once.
///
/// ```no_run
/// use cloakroom::{SessionSource, cluster::{ClusterOptions, ClusterStore}};
///
/// # async fn f(options: ClusterOptions, source: &SessionSource) -> cloakroom::Result<()> {
/// let sessions = ClusterStore::open(options)?.to_async();
/// let found = sessions.resolve(source).await?;
/// found.receipt.await?; // on the disks of the primary and its replicas
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct AsyncClusterStore {
    store: ClusterStore,
}

impl ClusterStore {
    /// The same store, with verbs that are futures.
    #[must_use]
    pub fn to_async(&self) -> AsyncClusterStore {
        AsyncClusterStore { store: Self { caller: Caller::Awaits, ..self.clone() } }
    }

    /// The verbs, for the caller that this store has.
    pub(super) fn verbs(&self) -> AsyncClusterStore {
        AsyncClusterStore { store: self.clone() }
    }

    fn key_for(&self, source: &SessionSource) -> Result<SessionKey> {
        SessionKey::for_source(source, &self.inner.options.key_policy).map_err(Error::InvalidKey)
    }
}

impl AsyncClusterStore {
    /// The same store, with verbs that block.
    #[must_use]
    pub fn to_blocking(&self) -> ClusterStore {
        ClusterStore { caller: Caller::Blocks, ..self.store.clone() }
    }

    /// The entry of a key, without its extras: [`get`](crate::SessionStore::get).
    pub async fn get(&self, key: &SessionKey) -> Result<Option<SessionEntry>> {
        Ok(self.store.look(key, false).await?.map(|look| look.entry(key)))
    }

    /// The entry of a key and its extras: [`get_with_extras`](crate::SessionStore::get_with_extras).
    pub async fn get_with_extras(&self, key: &SessionKey) -> Result<Option<(SessionEntry, Extras)>> {
        let found = self.store.look(key, true).await?;
        Ok(found.map(|look| (look.entry(key), look.extras.unwrap_or_default())))
    }

    /// Whether a key has an entry: [`contains`](crate::SessionStore::contains).
    pub async fn contains(&self, key: &SessionKey) -> Result<bool> {
        Ok(self.store.look(key, false).await?.is_some())
    }

    /// Notes that the user was active: [`touch`](crate::SessionStore::touch).
    pub async fn touch(&self, key: &SessionKey) -> Result<Option<Receipt>> {
        self.store.writable()?.do_touch(key).await
    }

    /// Notes that the user was active, and waits for no node, unless there is no room: [`touch_soon`](ClusterStore::touch_soon).
    pub async fn touch_soon(&self, key: &SessionKey) -> Result<()> {
        if self.store.collect(key)? { Ok(()) } else { self.touch(key).await.map(drop) }
    }

    /// The entry for a message from `source`: [`resolve`](crate::SessionStore::resolve).
    pub async fn resolve(&self, source: &SessionSource) -> Result<Resolved> {
        self.store.writable()?.do_resolve(&self.store.key_for(source)?, &Resolve::new().source(source)).await
    }

    /// As [`resolve`](Self::resolve), at a key of the gateway's own: [`resolve_as`](crate::SessionStore::resolve_as).
    pub async fn resolve_as(&self, key: &SessionKey, how: &Resolve<'_>) -> Result<Resolved> {
        self.store.writable()?.do_resolve(key, how).await
    }

    /// As [`resolve`](Self::resolve), with policies that end sessions: [`resolve_with`](crate::SessionStore::resolve_with).
    pub async fn resolve_with(
        &self,
        source: &SessionSource,
        policies: &ResetPolicies,
        guard: &dyn ActivityGuard,
    ) -> Result<Resolved> {
        let how = Resolve::new().source(source);
        self.store
            .writable()?
            .do_resolve_with(&self.store.key_for(source)?, &how, &policies.for_source(source), guard)
            .await
    }

    /// As [`resolve_as`](Self::resolve_as), with policies that end sessions: [`resolve_as_with`](crate::SessionStore::resolve_as_with).
    pub async fn resolve_as_with(
        &self,
        key: &SessionKey,
        how: &Resolve<'_>,
        policies: &ResetPolicies,
        guard: &dyn ActivityGuard,
    ) -> Result<Resolved> {
        let policy = match how.source {
            Some(source) => policies.for_source(source),
            None => {
                let details = self.store.look(key, false).await?.map(|look| look.cold.details).unwrap_or_default();
                policies.of(details.platform.as_deref(), details.chat_type.as_deref())
            }
        };
        self.store.writable()?.do_resolve_with(key, how, &policy, guard).await
    }

    /// Puts a whole entry in place: [`put`](crate::SessionStore::put).
    pub async fn put(&self, new: &SessionEntry, extras: &Extras, expect: Expect) -> Result<Put> {
        self.store.writable()?.do_put(new, extras, expect).await
    }

    /// Changes anything of an entry in one step: [`modify`](crate::SessionStore::modify).
    pub async fn modify(
        &self,
        key: &SessionKey,
        touch: Touch,
        mut change: impl FnMut(&mut Draft<'_>) -> Edit,
    ) -> Result<Modified> {
        self.store.writable()?.do_modify(key, touch, &mut change).await
    }

    /// Changes an entry's details: [`update`](crate::SessionStore::update).
    pub async fn update(&self, key: &SessionKey, mut change: impl FnMut(&mut Details)) -> Result<Option<Receipt>> {
        self.store.writable()?.do_update(key, &mut change).await
    }

    /// Adds the use of one turn to the counters: [`record_usage`](crate::SessionStore::record_usage).
    pub async fn record_usage(&self, key: &SessionKey, turn: &Usage) -> Result<Option<Receipt>> {
        let cost = turn.estimated_cost_usd;
        if !cost.is_finite() {
            return Err(Error::InvalidCost { cost });
        }
        self.store.writable()?.change_hot(key, |hot| hot.usage.add(turn)).await
    }

    /// Suspends the session: [`suspend`](crate::SessionStore::suspend).
    pub async fn suspend(&self, key: &SessionKey) -> Result<Option<Receipt>> {
        self.store.writable()?.change_hot(key, |hot| hot.set(SUSPENDED, true)).await
    }

    /// Takes a suspension back: [`unsuspend`](crate::SessionStore::unsuspend).
    pub async fn unsuspend(&self, key: &SessionKey) -> Result<Option<Receipt>> {
        self.store.writable()?.change_hot(key, |hot| hot.set(SUSPENDED, false)).await
    }

    /// Pins the entry: [`pin`](crate::SessionStore::pin).
    pub async fn pin(&self, key: &SessionKey) -> Result<Option<Receipt>> {
        self.store.writable()?.change_hot(key, |hot| hot.set(PINNED, true)).await
    }

    /// Takes that back: [`unpin`](crate::SessionStore::unpin).
    pub async fn unpin(&self, key: &SessionKey) -> Result<Option<Receipt>> {
        self.store.writable()?.change_hot(key, |hot| hot.set(PINNED, false)).await
    }

    /// Starts a fresh session, as the user asked: [`reset`](crate::SessionStore::reset).
    pub async fn reset(&self, key: &SessionKey) -> Result<Option<Written>> {
        self.store.writable()?.do_reset(key, &KeepExtras::None).await
    }

    /// The same, but some extras stay: [`reset_keeping`](crate::SessionStore::reset_keeping).
    pub async fn reset_keeping(&self, key: &SessionKey, keep: &KeepExtras) -> Result<Option<Written>> {
        self.store.writable()?.do_reset(key, keep).await
    }

    /// Leads the key to another session: [`repoint`](crate::SessionStore::repoint).
    pub async fn repoint(&self, key: &SessionKey, id: SessionId, how: &Repoint) -> Result<Repointed> {
        self.store.writable()?.do_repoint(key, &id, how).await
    }

    /// Removes an entry: [`remove`](crate::SessionStore::remove).
    pub async fn remove(&self, key: &SessionKey) -> Result<Option<Receipt>> {
        self.store.writable()?.do_remove(key).await
    }

    /// Removes an entry if it is still as it was seen: [`remove_if`](crate::SessionStore::remove_if).
    pub async fn remove_if(&self, key: &SessionKey, seen: &SessionEntry) -> Result<Removal> {
        self.store.writable()?.do_remove_if(key, seen).await
    }

    /// The JSON text of one of the extras: [`extra`](crate::SessionStore::extra).
    pub async fn extra(&self, key: &SessionKey, name: &str) -> Result<Option<String>> {
        Ok(self.store.look(key, true).await?.and_then(|look| look.extras?.text(name).map(Into::into)))
    }

    /// Sets one of the extras: [`set_extra`](crate::SessionStore::set_extra).
    pub async fn set_extra(&self, key: &SessionKey, name: &str, value: &Value) -> Result<Option<Receipt>> {
        self.store
            .writable()?
            .change_extras(key, &|extras| {
                extras.insert(name, value);
                true
            })
            .await
    }

    /// Removes one of the extras: [`remove_extra`](crate::SessionStore::remove_extra).
    pub async fn remove_extra(&self, key: &SessionKey, name: &str) -> Result<Option<Receipt>> {
        self.store.writable()?.change_extras(key, &|extras| extras.remove(name)).await
    }

    /// Replaces all of the extras: [`set_extras`](crate::SessionStore::set_extras).
    pub async fn set_extras(&self, key: &SessionKey, new: &Extras) -> Result<Option<Receipt>> {
        self.store
            .writable()?
            .change_extras(key, &|extras| {
                extras.clone_from(new);
                true
            })
            .await
    }

    /// Notes that work on a message begins: [`begin_turn`](crate::SessionStore::begin_turn). On a cluster tokens rise as far as receipts
    /// of it are awaited: see [`TurnToken`].
    pub async fn begin_turn(&self, key: &SessionKey) -> Result<Option<BegunTurn>> {
        match self.store.writable()?.do_begin(key, false).await? {
            TurnStart::Begun(begun) => Ok(Some(begun)),
            TurnStart::Open(_) | TurnStart::Missing => Ok(None),
        }
    }

    /// The same, unless a turn is open: [`try_begin_turn`](crate::SessionStore::try_begin_turn).
    pub async fn try_begin_turn(&self, key: &SessionKey) -> Result<TurnStart> {
        self.store.writable()?.do_begin(key, true).await
    }

    /// Notes that the work of a turn is done: [`end_turn`](crate::SessionStore::end_turn).
    pub async fn end_turn(&self, key: &SessionKey, token: TurnToken) -> Result<TurnEnd> {
        self.store.writable()?.do_end(key, token.0).await
    }

    /// Clears the marker of whichever turn is open: [`discard_turn`](crate::SessionStore::discard_turn).
    pub async fn discard_turn(&self, key: &SessionKey) -> Result<TurnEnd> {
        self.store.writable()?.do_discard(key).await
    }

    /// The turn of a key that has begun and not ended: [`turn`](crate::SessionStore::turn).
    pub async fn turn(&self, key: &SessionKey) -> Result<Option<OpenTurn>> {
        self.store.do_turn(key).await
    }

    /// The turns that have begun and not ended, the oldest first: [`turns`](crate::SessionStore::turns).
    pub async fn turns(&self) -> Result<Listing<OpenTurn>> {
        self.store.do_turns().await
    }

    /// Deals with the turns whose owner is gone: [`recover_interrupted_turns`](crate::SessionStore::recover_interrupted_turns).
    pub async fn recover_interrupted_turns(&self, options: &RecoverOptions) -> Result<TurnRecovery> {
        self.store.writable()?.do_recover(options).await
    }

    /// Notes that the session was interrupted: [`mark_resume_pending`](crate::SessionStore::mark_resume_pending).
    pub async fn mark_resume_pending(&self, key: &SessionKey, reason: &str) -> Result<ResumeMark> {
        self.store.writable()?.do_mark(key, reason).await
    }

    /// Takes that mark back: [`clear_resume_pending`](crate::SessionStore::clear_resume_pending).
    pub async fn clear_resume_pending(&self, key: &SessionKey) -> Result<ResumeClear> {
        self.store.writable()?.do_clear(key).await
    }

    /// Holds an entry until the answer is dropped, or the process ends: [`hold`](crate::SessionStore::hold). The drop waits for nothing:
    /// a thread of the store ends the lease. [`Lease::is_held`] asks the node, and blocks.
    pub async fn hold(&self, key: &SessionKey) -> Result<Option<Lease>> {
        self.store.writable()?.do_hold_on(key).await
    }

    /// Holds an entry under a name until a time: [`hold_until`](crate::SessionStore::hold_until).
    pub async fn hold_until(&self, key: &SessionKey, name: &str, end: Timestamp) -> Result<Option<Receipt>> {
        self.store.writable()?.do_hold(key, name, end).await
    }

    /// Ends the lease of that name: [`release`](crate::SessionStore::release).
    pub async fn release(&self, key: &SessionKey, name: &str) -> Result<Option<Receipt>> {
        self.store.writable()?.do_release(key, name).await
    }

    /// The leases that have not ended, the oldest first: [`leases`](crate::SessionStore::leases).
    pub async fn leases(&self) -> Result<Listing<OpenLease>> {
        self.store.do_leases().await
    }

    /// All entries whose live session is `id`, in key order: [`find_by_session_id`](crate::SessionStore::find_by_session_id).
    pub async fn find_by_session_id(&self, id: &SessionId) -> Result<Listing<SessionEntry>> {
        self.store.do_find(id).await
    }

    /// The entries that were active last: [`recent`](crate::SessionStore::recent).
    pub async fn recent(&self, limit: usize, cursor: Option<&Cursor>) -> Result<Page> {
        self.store.do_recent(limit, cursor).await
    }

    /// The entries that a filter accepts, newest first. It asks all shards, so it is for people and reports.
    #[must_use]
    pub fn iter(&self, filter: Filter) -> AsyncClusterIter<'_> {
        AsyncClusterIter::new(self.store.iter(filter))
    }

    /// How many entries there are: [`len`](crate::SessionStore::len).
    pub async fn len(&self) -> Result<u64> {
        self.store.count().await
    }

    /// The keys that begin with a prefix, in order: [`keys`](crate::SessionStore::keys).
    pub async fn keys(&self, prefix: &str) -> Result<Vec<SessionKey>> {
        self.store.do_keys(prefix).await
    }

    /// Removes the entries that a filter accepts: [`remove_where`](crate::SessionStore::remove_where).
    pub async fn remove_where(&self, filter: &Filter, expected: Option<u64>) -> Result<BulkRemoval> {
        self.store.writable()?.do_remove_where(filter, expected).await
    }

    /// Removes all that there is of one user: [`forget`](crate::SessionStore::forget).
    pub async fn forget(&self, prefix: &str) -> Result<ForgetReport> {
        self.store.writable()?.do_forget(prefix).await
    }

    /// What there is of the store on all shards: [`stats`](ClusterStore::stats).
    pub async fn stats(&self) -> Result<ClusterStats> {
        self.store.do_stats().await
    }

    /// Waits until everything changed so far is as durable as a receipt says: [`flush`](crate::SessionStore::flush).
    pub async fn flush(&self) -> Result<()> {
        self.store.inner.nodes.check_fork()?;
        self.store.flush_all().await
    }

    /// Finishes what is under way and closes the store: [`close`](crate::SessionStore::close). It waits for verbs that others have
    /// begun and poll no more, as their futures are dropped or go on.
    pub async fn close(&self) -> Result<()> {
        // Nobody ends what was under way in the parent.
        self.store.inner.nodes.check_fork()?;
        self.store.shut().await;
        // A process that has only read has nothing that a flush could keep.
        let mut losses = Losses::default();
        let flushed = match self.store.inner.door.is_used() {
            true => self.store.flush_telling(&mut losses).await,
            false => Ok(()),
        };
        // Others must not wait for this process because a change of it was lost.
        let left = self.store.leave().await;
        losses.told();
        flushed.and(left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prune::NoActivity;

    /// A runtime may poll them on any of its threads.
    #[test]
    fn all_verbs_can_be_sent_to_another_thread() {
        fn send<T: Send>(_: T) {}
        let _ = |store: &AsyncClusterStore,
                 key: &SessionKey,
                 entry: &SessionEntry,
                 id: SessionId,
                 source: &SessionSource| {
            send((store.get(key), store.get_with_extras(key), store.contains(key), store.touch(key)));
            send((store.touch_soon(key), store.resolve(source), store.resolve_as(key, &Resolve::new())));
            let policies = ResetPolicies::default();
            send(store.resolve_with(source, &policies, &NoActivity));
            send(store.resolve_as_with(key, &Resolve::new(), &policies, &NoActivity));
            send(store.put(entry, &Extras::default(), Expect::Any));
            send(store.modify(key, Touch::Yes, |_| Edit::Keep));
            send(store.update(key, |_| {}));
            send(store.record_usage(key, &Usage::default()));
            send((store.suspend(key), store.unsuspend(key), store.pin(key), store.unpin(key)));
            send((store.reset(key), store.reset_keeping(key, &KeepExtras::None)));
            send(store.repoint(key, id.clone(), &Repoint::default()));
            send((store.remove(key), store.remove_if(key, entry)));
            send((store.extra(key, ""), store.set_extra(key, "", &Value::Null), store.remove_extra(key, "")));
            send(store.set_extras(key, &Extras::default()));
            send((store.begin_turn(key), store.try_begin_turn(key), store.end_turn(key, TurnToken(1))));
            send((store.discard_turn(key), store.turn(key), store.turns()));
            send(store.recover_interrupted_turns(&RecoverOptions::new(None)));
            send((store.mark_resume_pending(key, ""), store.clear_resume_pending(key)));
            send((store.hold(key), store.hold_until(key, "", Timestamp::MAX), store.release(key, ""), store.leases()));
            send((store.find_by_session_id(&id), store.recent(1, None), store.len(), store.keys("")));
            send(store.iter(Filter::default()).next());
            send((store.remove_where(&Filter::default(), None), store.forget("a")));
            send((store.stats(), store.flush(), store.close()));
        };
    }
}
