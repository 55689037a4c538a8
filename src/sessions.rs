//! [`Sessions`]: the verbs that every engine has.

use serde_json::{Map, Value};

use crate::answer::{Modified, Put, Removal, Repointed, Resolved, Written};
use crate::commit::Receipt;
use crate::entry::{Details, Extras, KeepExtras, SessionEntry, Touch, Usage};
use crate::error::Result;
use crate::how::{Repoint, Resolve};
use crate::key::{SessionId, SessionKey};
use crate::leases::{Lease, OpenLease};
use crate::modify::{Draft, Edit};
use crate::prune::{ActivityGuard, PrunePolicy, PruneReport};
use crate::put::Expect;
use crate::query::{Cursor, Filter, Page, Summary};
use crate::remove_where::{BulkRemoval, ForgetReport};
use crate::rename::RenameReport;
use crate::reset::ResetPolicies;
use crate::source::SessionSource;
use crate::store::SessionStore;
use crate::time::Timestamp;
use crate::turns::{
    BegunTurn, OpenTurn, RecoverOptions, ResumeClear, ResumeMark, TurnEnd, TurnRecovery, TurnStart, TurnToken,
};
use crate::unreadable::Listing;

/// The verbs of a store, whichever engine keeps it: for a gateway that chooses the engine by its configuration.
///
/// Each verb is described at the method of [`SessionStore`] that has its name. All of them block, for as long as that
/// engine takes. A store on a cluster weakens some: [the guide](crate::guide::cluster) says which.
///
/// ```
/// use cloakroom::change::Resolution;
/// use cloakroom::{Options, SessionSource, SessionStore, Sessions};
///
/// fn greet(sessions: &dyn Sessions, source: &SessionSource) -> cloakroom::Result<&'static str> {
///     let found = sessions.resolve(source)?;
///     Ok(if found.resolution == Resolution::Created { "hello" } else { "hello again" })
/// }
///
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path().join("sessions.db");
/// let store = SessionStore::open(Options::new(path).create(true))?;
/// let source = SessionSource { platform: "cli".into(), ..Default::default() };
/// assert_eq!(greet(&store, &source)?, "hello");
/// assert_eq!(greet(&store, &source)?, "hello again");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait Sessions: Send + Sync {
    /// The entry of a key, without its extras: [`get`](SessionStore::get).
    fn get(&self, key: &SessionKey) -> Result<Option<SessionEntry>>;

    /// The entry of a key and its extras: [`get_with_extras`](SessionStore::get_with_extras).
    fn get_with_extras(&self, key: &SessionKey) -> Result<Option<(SessionEntry, Extras)>>;

    /// Whether a key has an entry: [`contains`](SessionStore::contains).
    fn contains(&self, key: &SessionKey) -> Result<bool>;

    /// Notes that the user was active: [`touch`](SessionStore::touch).
    fn touch(&self, key: &SessionKey) -> Result<Option<Receipt>>;

    /// The entry for a message from `source`: [`resolve`](SessionStore::resolve).
    fn resolve(&self, source: &SessionSource) -> Result<Resolved>;

    /// As [`resolve`](Sessions::resolve), at a key of the gateway's own: [`resolve_as`](SessionStore::resolve_as).
    fn resolve_as(&self, key: &SessionKey, how: &Resolve<'_>) -> Result<Resolved>;

    /// As [`resolve`](Sessions::resolve), with policies that end sessions: [`resolve_with`](SessionStore::resolve_with).
    fn resolve_with(
        &self,
        source: &SessionSource,
        policies: &ResetPolicies,
        guard: &dyn ActivityGuard,
    ) -> Result<Resolved>;

    /// As [`resolve_as`](Sessions::resolve_as), with policies that end sessions: [`resolve_as_with`](SessionStore::resolve_as_with).
    fn resolve_as_with(
        &self,
        key: &SessionKey,
        how: &Resolve<'_>,
        policies: &ResetPolicies,
        guard: &dyn ActivityGuard,
    ) -> Result<Resolved>;

    /// Puts a whole entry in place: [`put`](SessionStore::put).
    fn put(&self, new: &SessionEntry, extras: &Extras, expect: Expect) -> Result<Put>;

    /// Changes anything of an entry in one step: [`modify`](SessionStore::modify).
    fn modify(
        &self,
        key: &SessionKey,
        touch: Touch,
        change: &mut dyn FnMut(&mut Draft<'_>) -> Edit,
    ) -> Result<Modified>;

    /// Changes an entry's details: [`update`](SessionStore::update).
    fn update(&self, key: &SessionKey, change: &mut dyn FnMut(&mut Details)) -> Result<Option<Receipt>>;

    /// Adds the use of one turn to the counters: [`record_usage`](SessionStore::record_usage).
    fn record_usage(&self, key: &SessionKey, turn: &Usage) -> Result<Option<Receipt>>;

    /// Suspends the session: [`suspend`](SessionStore::suspend).
    fn suspend(&self, key: &SessionKey) -> Result<Option<Receipt>>;

    /// Takes a suspension back: [`unsuspend`](SessionStore::unsuspend).
    fn unsuspend(&self, key: &SessionKey) -> Result<Option<Receipt>>;

    /// Pins the entry: [`pin`](SessionStore::pin).
    fn pin(&self, key: &SessionKey) -> Result<Option<Receipt>>;

    /// Takes that back: [`unpin`](SessionStore::unpin).
    fn unpin(&self, key: &SessionKey) -> Result<Option<Receipt>>;

    /// Starts a fresh session, as the user asked: [`reset`](SessionStore::reset).
    fn reset(&self, key: &SessionKey) -> Result<Option<Written>>;

    /// The same, but some extras stay: [`reset_keeping`](SessionStore::reset_keeping).
    fn reset_keeping(&self, key: &SessionKey, keep: &KeepExtras) -> Result<Option<Written>>;

    /// Leads the key to another session: [`repoint`](SessionStore::repoint).
    fn repoint(&self, key: &SessionKey, id: SessionId, how: &Repoint) -> Result<Repointed>;

    /// Removes an entry: [`remove`](SessionStore::remove).
    fn remove(&self, key: &SessionKey) -> Result<Option<Receipt>>;

    /// Removes an entry if it is still as it was seen: [`remove_if`](SessionStore::remove_if).
    fn remove_if(&self, key: &SessionKey, seen: &SessionEntry) -> Result<Removal>;

    /// The JSON text of one of the extras: [`extra`](SessionStore::extra).
    fn extra(&self, key: &SessionKey, name: &str) -> Result<Option<String>>;

    /// Sets one of the extras: [`set_extra`](SessionStore::set_extra).
    fn set_extra(&self, key: &SessionKey, name: &str, value: &Value) -> Result<Option<Receipt>>;

    /// Removes one of the extras: [`remove_extra`](SessionStore::remove_extra).
    fn remove_extra(&self, key: &SessionKey, name: &str) -> Result<Option<Receipt>>;

    /// Replaces all of the extras: [`set_extras`](SessionStore::set_extras).
    fn set_extras(&self, key: &SessionKey, extras: &Extras) -> Result<Option<Receipt>>;

    /// Notes that work on a message begins: [`begin_turn`](SessionStore::begin_turn). On a cluster tokens rise as far as receipts
    /// of it are awaited: see [`TurnToken`].
    fn begin_turn(&self, key: &SessionKey) -> Result<Option<BegunTurn>>;

    /// The same, unless a turn is open: [`try_begin_turn`](SessionStore::try_begin_turn). On a cluster that turn names the process
    /// that has begun it ([`owner`](OpenTurn::owner)).
    fn try_begin_turn(&self, key: &SessionKey) -> Result<TurnStart>;

    /// Notes that the work of a turn is done: [`end_turn`](SessionStore::end_turn).
    fn end_turn(&self, key: &SessionKey, token: TurnToken) -> Result<TurnEnd>;

    /// Clears the marker of whichever turn is open: [`discard_turn`](SessionStore::discard_turn).
    fn discard_turn(&self, key: &SessionKey) -> Result<TurnEnd>;

    /// The turn of a key that has begun and not ended: [`turn`](SessionStore::turn).
    fn turn(&self, key: &SessionKey) -> Result<Option<OpenTurn>>;

    /// The turns that have begun and not ended, the oldest first: [`turns`](SessionStore::turns).
    fn turns(&self) -> Result<Listing<OpenTurn>>;

    /// Deals with the turns whose owner is gone: [`recover_interrupted_turns`](SessionStore::recover_interrupted_turns).
    fn recover_interrupted_turns(&self, options: &RecoverOptions) -> Result<TurnRecovery>;

    /// Notes that the session was interrupted: [`mark_resume_pending`](SessionStore::mark_resume_pending).
    fn mark_resume_pending(&self, key: &SessionKey, reason: &str) -> Result<ResumeMark>;

    /// Takes that mark back: [`clear_resume_pending`](SessionStore::clear_resume_pending).
    fn clear_resume_pending(&self, key: &SessionKey) -> Result<ResumeClear>;

    /// Holds an entry until the answer is dropped, or the process ends: [`hold`](SessionStore::hold).
    fn hold(&self, key: &SessionKey) -> Result<Option<Lease>>;

    /// Holds an entry under a name until a time: [`hold_until`](SessionStore::hold_until).
    fn hold_until(&self, key: &SessionKey, name: &str, end: Timestamp) -> Result<Option<Receipt>>;

    /// Ends the lease of that name: [`release`](SessionStore::release).
    fn release(&self, key: &SessionKey, name: &str) -> Result<Option<Receipt>>;

    /// The leases that have not ended, the oldest first: [`leases`](SessionStore::leases).
    fn leases(&self) -> Result<Listing<OpenLease>>;

    /// All entries whose live session is `id`, in key order: [`find_by_session_id`](SessionStore::find_by_session_id).
    fn find_by_session_id(&self, id: &SessionId) -> Result<Listing<SessionEntry>>;

    /// The entries that were active last: [`recent`](SessionStore::recent).
    fn recent(&self, limit: usize, cursor: Option<&Cursor>) -> Result<Page>;

    /// How many entries there are: [`len`](SessionStore::len).
    fn len(&self) -> Result<u64>;

    /// The keys that begin with a prefix, in order: [`keys`](SessionStore::keys).
    fn keys(&self, prefix: &str) -> Result<Box<dyn Iterator<Item = Result<SessionKey>> + '_>>;

    /// Removes the entries that a filter accepts: [`remove_where`](SessionStore::remove_where).
    fn remove_where(&self, filter: &Filter, expected: Option<u64>) -> Result<BulkRemoval>;

    /// Removes all that there is of one user: [`forget`](SessionStore::forget).
    fn forget(&self, prefix: &str) -> Result<ForgetReport>;

    /// Gives each entry of a prefix another key: [`rename`](SessionStore::rename).
    ///
    /// # Errors
    /// [`Error::Unsupported`](crate::Error::Unsupported) on a cluster.
    fn rename(&self, old: &str, new: &str) -> Result<RenameReport>;

    /// Removes what has been idle for too long: [`prune`](SessionStore::prune).
    ///
    /// On a cluster a pass that has done something, and then fails, is no error: the report's
    /// [`failure`](PruneReport::failure) tells of it. So it is where it is not known that what went is kept.
    fn prune(&self, policy: &PrunePolicy, guard: &dyn ActivityGuard) -> Result<PruneReport>;

    /// Reports what [`prune`](Sessions::prune) would do: [`prune_dry_run`](SessionStore::prune_dry_run).
    fn prune_dry_run(&self, policy: &PrunePolicy, guard: &dyn ActivityGuard) -> Result<PruneReport>;

    /// Blocks until everything changed so far is as durable as a receipt says: [`flush`](SessionStore::flush).
    fn flush(&self) -> Result<()>;

    /// Finishes what is under way and closes the store: [`close`](SessionStore::close).
    fn close(&self) -> Result<()>;

    /// The entries that `filter` accepts, newest first: [`iter`](SessionStore::iter).
    fn iter(&self, filter: Filter) -> Result<Box<dyn Iterator<Item = Result<Summary>> + '_>>;

    /// Replaces the metadata, which is one of the extras: [`set_metadata`](SessionStore::set_metadata).
    fn set_metadata(&self, key: &SessionKey, metadata: &Map<String, Value>) -> Result<Option<Receipt>> {
        self.set_extra(key, Extras::METADATA, &Value::Object(metadata.clone()))
    }

    /// How many keys begin with a prefix: [`count_prefix`](SessionStore::count_prefix).
    fn count_prefix(&self, prefix: &str) -> Result<u64> {
        self.keys(prefix)?.try_fold(0, |count, key| key.map(|_| count + 1))
    }

    /// Whether there are no entries: [`is_empty`](SessionStore::is_empty).
    fn is_empty(&self) -> Result<bool> {
        Ok(self.len()? == 0)
    }
}

impl Sessions for SessionStore {
    fn get(&self, key: &SessionKey) -> Result<Option<SessionEntry>> {
        self.get(key)
    }

    fn get_with_extras(&self, key: &SessionKey) -> Result<Option<(SessionEntry, Extras)>> {
        self.get_with_extras(key)
    }

    fn contains(&self, key: &SessionKey) -> Result<bool> {
        self.contains(key)
    }

    fn touch(&self, key: &SessionKey) -> Result<Option<Receipt>> {
        self.touch(key)
    }

    fn resolve(&self, source: &SessionSource) -> Result<Resolved> {
        self.resolve(source)
    }

    fn resolve_as(&self, key: &SessionKey, how: &Resolve<'_>) -> Result<Resolved> {
        self.resolve_as(key, how)
    }

    fn resolve_with(
        &self,
        source: &SessionSource,
        policies: &ResetPolicies,
        guard: &dyn ActivityGuard,
    ) -> Result<Resolved> {
        self.resolve_with(source, policies, |key: &SessionKey| guard.check(key))
    }

    fn resolve_as_with(
        &self,
        key: &SessionKey,
        how: &Resolve<'_>,
        policies: &ResetPolicies,
        guard: &dyn ActivityGuard,
    ) -> Result<Resolved> {
        self.resolve_as_with(key, how, policies, |key: &SessionKey| guard.check(key))
    }

    fn put(&self, new: &SessionEntry, extras: &Extras, expect: Expect) -> Result<Put> {
        self.put(new, extras, expect)
    }

    fn modify(
        &self,
        key: &SessionKey,
        touch: Touch,
        change: &mut dyn FnMut(&mut Draft<'_>) -> Edit,
    ) -> Result<Modified> {
        self.modify(key, touch, change)
    }

    fn update(&self, key: &SessionKey, change: &mut dyn FnMut(&mut Details)) -> Result<Option<Receipt>> {
        self.update(key, change)
    }

    fn record_usage(&self, key: &SessionKey, turn: &Usage) -> Result<Option<Receipt>> {
        self.record_usage(key, turn)
    }

    fn suspend(&self, key: &SessionKey) -> Result<Option<Receipt>> {
        self.suspend(key)
    }

    fn unsuspend(&self, key: &SessionKey) -> Result<Option<Receipt>> {
        self.unsuspend(key)
    }

    fn pin(&self, key: &SessionKey) -> Result<Option<Receipt>> {
        self.pin(key)
    }

    fn unpin(&self, key: &SessionKey) -> Result<Option<Receipt>> {
        self.unpin(key)
    }

    fn reset(&self, key: &SessionKey) -> Result<Option<Written>> {
        self.reset(key)
    }

    fn reset_keeping(&self, key: &SessionKey, keep: &KeepExtras) -> Result<Option<Written>> {
        self.reset_keeping(key, keep)
    }

    fn repoint(&self, key: &SessionKey, id: SessionId, how: &Repoint) -> Result<Repointed> {
        self.repoint(key, id, how)
    }

    fn remove(&self, key: &SessionKey) -> Result<Option<Receipt>> {
        self.remove(key)
    }

    fn remove_if(&self, key: &SessionKey, seen: &SessionEntry) -> Result<Removal> {
        self.remove_if(key, seen)
    }

    fn extra(&self, key: &SessionKey, name: &str) -> Result<Option<String>> {
        self.extra(key, name)
    }

    fn set_extra(&self, key: &SessionKey, name: &str, value: &Value) -> Result<Option<Receipt>> {
        self.set_extra(key, name, value)
    }

    fn remove_extra(&self, key: &SessionKey, name: &str) -> Result<Option<Receipt>> {
        self.remove_extra(key, name)
    }

    fn set_extras(&self, key: &SessionKey, extras: &Extras) -> Result<Option<Receipt>> {
        self.set_extras(key, extras)
    }

    fn begin_turn(&self, key: &SessionKey) -> Result<Option<BegunTurn>> {
        self.begin_turn(key)
    }

    fn try_begin_turn(&self, key: &SessionKey) -> Result<TurnStart> {
        self.try_begin_turn(key)
    }

    fn end_turn(&self, key: &SessionKey, token: TurnToken) -> Result<TurnEnd> {
        self.end_turn(key, token)
    }

    fn discard_turn(&self, key: &SessionKey) -> Result<TurnEnd> {
        self.discard_turn(key)
    }

    fn turn(&self, key: &SessionKey) -> Result<Option<OpenTurn>> {
        self.turn(key)
    }

    fn turns(&self) -> Result<Listing<OpenTurn>> {
        self.turns()
    }

    fn recover_interrupted_turns(&self, options: &RecoverOptions) -> Result<TurnRecovery> {
        self.recover_interrupted_turns(options.clone())
    }

    fn mark_resume_pending(&self, key: &SessionKey, reason: &str) -> Result<ResumeMark> {
        self.mark_resume_pending(key, reason)
    }

    fn clear_resume_pending(&self, key: &SessionKey) -> Result<ResumeClear> {
        self.clear_resume_pending(key)
    }

    fn hold(&self, key: &SessionKey) -> Result<Option<Lease>> {
        self.hold(key)
    }

    fn hold_until(&self, key: &SessionKey, name: &str, end: Timestamp) -> Result<Option<Receipt>> {
        self.hold_until(key, name, end)
    }

    fn release(&self, key: &SessionKey, name: &str) -> Result<Option<Receipt>> {
        self.release(key, name)
    }

    fn leases(&self) -> Result<Listing<OpenLease>> {
        self.leases()
    }

    fn find_by_session_id(&self, id: &SessionId) -> Result<Listing<SessionEntry>> {
        self.find_by_session_id(id)
    }

    fn recent(&self, limit: usize, cursor: Option<&Cursor>) -> Result<Page> {
        self.recent(limit, cursor)
    }

    fn len(&self) -> Result<u64> {
        Ok(self.len())
    }

    fn keys(&self, prefix: &str) -> Result<Box<dyn Iterator<Item = Result<SessionKey>> + '_>> {
        Ok(Box::new(self.keys(prefix)?))
    }

    fn remove_where(&self, filter: &Filter, expected: Option<u64>) -> Result<BulkRemoval> {
        self.remove_where(filter, expected)
    }

    fn forget(&self, prefix: &str) -> Result<ForgetReport> {
        self.forget(prefix)
    }

    fn rename(&self, old: &str, new: &str) -> Result<RenameReport> {
        self.rename(old, new)
    }

    fn prune(&self, policy: &PrunePolicy, guard: &dyn ActivityGuard) -> Result<PruneReport> {
        self.prune(policy, |key: &SessionKey| guard.check(key))
    }

    fn prune_dry_run(&self, policy: &PrunePolicy, guard: &dyn ActivityGuard) -> Result<PruneReport> {
        self.prune_dry_run(policy, |key: &SessionKey| guard.check(key))
    }

    fn flush(&self) -> Result<()> {
        self.flush()
    }

    fn close(&self) -> Result<()> {
        self.close()
    }

    fn iter(&self, filter: Filter) -> Result<Box<dyn Iterator<Item = Result<Summary>> + '_>> {
        Ok(Box::new(self.iter(filter)?))
    }
}
