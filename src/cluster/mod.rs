//! The verbs of a store on a cluster of Valkey or Redis, for gateways of many processes on many hosts.
//!
//! *Rust decides, the shard compares and writes.* A verb reads an entry, decides by the same rules as the embedded store, and
//! writes by a script that compares the revision that was seen. So no lock is held across the network, and what another
//! process changed meanwhile is seen. A touch is one command, whatever the size of the entry.
//!
//! What is promised here and what is not stands in [the guide](crate::guide::cluster).
//!
//! Verbs fail with [`Error::Unavailable`] where no node answers within the patience, [`Error::Refused`] or [`Error::Tls`] where
//! one says no, [`Error::NodeSetting`] where one has settings with which it keeps nothing, [`Error::ShardLost`] where one has
//! lost its data, [`Error::DamagedRecord`] where an entry cannot be decoded, and [`Error::Forked`] in a forked child. Changes fail
//! also with [`Error::Uncertain`] and [`Error::Contended`]; those that wait for replicas, such as
//! [`hold`](crate::Sessions::hold), with [`Error::NotReplicated`].

mod answer;
mod asked;
mod backup;
mod call;
mod clock;
mod collected;
mod counts;
mod door;
mod entry;
mod events;
mod export;
mod figures;
mod flights;
mod hints;
mod import;
mod lane;
mod late;
mod layout;
mod leases;
mod lists;
mod made;
mod many;
mod map;
mod members;
mod message;
mod metrics;
mod options;
mod owed;
mod pipeline;
mod proof;
mod prune;
mod ready;
mod receipt;
mod recover;
mod removal;
mod resend;
mod restore;
mod roll;
mod scripts;
mod seen;
mod settings;
mod soon;
mod stale;
mod stats;
mod store;
mod tls;
mod turns;
mod url;
mod value;
mod verbs;
mod verify;
mod watch;
mod wire;
mod write;

use serde_json::Value;

use crate::answer::{Modified, Put, Removal, Repointed, Resolved, Written};
use crate::codec::{PINNED, SUSPENDED};
use crate::commit::Receipt;
use crate::entry::{Details, Extras, KeepExtras, SessionEntry, Touch, Usage};
use crate::error::{Error, Result};
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
use crate::sessions::Sessions;
use crate::source::SessionSource;
use crate::time::Timestamp;
use crate::turns::{
    BegunTurn, OpenTurn, RecoverOptions, ResumeClear, ResumeMark, TurnEnd, TurnRecovery, TurnStart, TurnToken,
};
use crate::unreadable::Listing;

pub use lists::ClusterIter;
pub use options::ClusterOptions;
pub use stats::ClusterStats;
pub use store::ClusterStore;
pub use verify::{ClusterVerification, ClusterViolation};
pub use watch::ClusterWatcher;

impl ClusterStore {
    fn key_for(&self, source: &SessionSource) -> Result<SessionKey> {
        SessionKey::for_source(source, &self.inner.options.key_policy).map_err(Error::InvalidKey)
    }
}

impl Sessions for ClusterStore {
    fn get(&self, key: &SessionKey) -> Result<Option<SessionEntry>> {
        Ok(self.look(key, false)?.map(|look| look.entry(key)))
    }

    fn get_with_extras(&self, key: &SessionKey) -> Result<Option<(SessionEntry, Extras)>> {
        let found = self.look(key, true)?;
        Ok(found.map(|look| (look.entry(key), look.extras.unwrap_or_default())))
    }

    fn contains(&self, key: &SessionKey) -> Result<bool> {
        Ok(self.look(key, false)?.is_some())
    }

    fn touch(&self, key: &SessionKey) -> Result<Option<Receipt>> {
        self.writable()?.do_touch(key)
    }

    fn resolve(&self, source: &SessionSource) -> Result<Resolved> {
        self.writable()?.do_resolve(&self.key_for(source)?, &Resolve::new().source(source))
    }

    fn resolve_as(&self, key: &SessionKey, how: &Resolve<'_>) -> Result<Resolved> {
        self.writable()?.do_resolve(key, how)
    }

    fn resolve_with(
        &self,
        source: &SessionSource,
        policies: &ResetPolicies,
        guard: &dyn ActivityGuard,
    ) -> Result<Resolved> {
        let how = Resolve::new().source(source);
        self.writable()?.do_resolve_with(&self.key_for(source)?, &how, &policies.for_source(source), guard)
    }

    fn resolve_as_with(
        &self,
        key: &SessionKey,
        how: &Resolve<'_>,
        policies: &ResetPolicies,
        guard: &dyn ActivityGuard,
    ) -> Result<Resolved> {
        let policy = match how.source {
            Some(source) => policies.for_source(source),
            None => {
                let details = self.look(key, false)?.map(|look| look.cold.details).unwrap_or_default();
                policies.of(details.platform.as_deref(), details.chat_type.as_deref())
            }
        };
        self.writable()?.do_resolve_with(key, how, &policy, guard)
    }

    fn put(&self, new: &SessionEntry, extras: &Extras, expect: Expect) -> Result<Put> {
        self.writable()?.do_put(new, extras, expect)
    }

    fn modify(
        &self,
        key: &SessionKey,
        touch: Touch,
        change: &mut dyn FnMut(&mut Draft<'_>) -> Edit,
    ) -> Result<Modified> {
        self.writable()?.do_modify(key, touch, change)
    }

    fn update(&self, key: &SessionKey, change: &mut dyn FnMut(&mut Details)) -> Result<Option<Receipt>> {
        self.writable()?.do_update(key, change)
    }

    fn record_usage(&self, key: &SessionKey, turn: &Usage) -> Result<Option<Receipt>> {
        let cost = turn.estimated_cost_usd;
        if !cost.is_finite() {
            return Err(Error::InvalidCost { cost });
        }
        self.writable()?.change_hot(key, |hot| hot.usage.add(turn))
    }

    fn suspend(&self, key: &SessionKey) -> Result<Option<Receipt>> {
        self.writable()?.change_hot(key, |hot| hot.set(SUSPENDED, true))
    }

    fn unsuspend(&self, key: &SessionKey) -> Result<Option<Receipt>> {
        self.writable()?.change_hot(key, |hot| hot.set(SUSPENDED, false))
    }

    fn pin(&self, key: &SessionKey) -> Result<Option<Receipt>> {
        self.writable()?.change_hot(key, |hot| hot.set(PINNED, true))
    }

    fn unpin(&self, key: &SessionKey) -> Result<Option<Receipt>> {
        self.writable()?.change_hot(key, |hot| hot.set(PINNED, false))
    }

    fn reset(&self, key: &SessionKey) -> Result<Option<Written>> {
        self.writable()?.do_reset(key, &KeepExtras::None)
    }

    fn reset_keeping(&self, key: &SessionKey, keep: &KeepExtras) -> Result<Option<Written>> {
        self.writable()?.do_reset(key, keep)
    }

    fn repoint(&self, key: &SessionKey, id: SessionId, how: &Repoint) -> Result<Repointed> {
        self.writable()?.do_repoint(key, &id, how)
    }

    fn remove(&self, key: &SessionKey) -> Result<Option<Receipt>> {
        self.writable()?.do_remove(key)
    }

    fn remove_if(&self, key: &SessionKey, seen: &SessionEntry) -> Result<Removal> {
        self.writable()?.do_remove_if(key, seen)
    }

    fn extra(&self, key: &SessionKey, name: &str) -> Result<Option<String>> {
        Ok(self.look(key, true)?.and_then(|look| look.extras?.text(name).map(Into::into)))
    }

    fn set_extra(&self, key: &SessionKey, name: &str, value: &Value) -> Result<Option<Receipt>> {
        self.writable()?.change_extras(key, &|extras| {
            extras.insert(name, value);
            true
        })
    }

    fn remove_extra(&self, key: &SessionKey, name: &str) -> Result<Option<Receipt>> {
        self.writable()?.change_extras(key, &|extras| extras.remove(name))
    }

    fn set_extras(&self, key: &SessionKey, new: &Extras) -> Result<Option<Receipt>> {
        self.writable()?.change_extras(key, &|extras| {
            extras.clone_from(new);
            true
        })
    }

    fn begin_turn(&self, key: &SessionKey) -> Result<Option<BegunTurn>> {
        match self.writable()?.do_begin(key, false)? {
            TurnStart::Begun(begun) => Ok(Some(begun)),
            TurnStart::Open(_) | TurnStart::Missing => Ok(None),
        }
    }

    fn try_begin_turn(&self, key: &SessionKey) -> Result<TurnStart> {
        self.writable()?.do_begin(key, true)
    }

    fn end_turn(&self, key: &SessionKey, token: TurnToken) -> Result<TurnEnd> {
        self.writable()?.do_end(key, token.0)
    }

    fn discard_turn(&self, key: &SessionKey) -> Result<TurnEnd> {
        self.writable()?.do_discard(key)
    }

    fn turn(&self, key: &SessionKey) -> Result<Option<OpenTurn>> {
        self.do_turn(key)
    }

    fn turns(&self) -> Result<Listing<OpenTurn>> {
        self.do_turns()
    }

    fn recover_interrupted_turns(&self, options: &RecoverOptions) -> Result<TurnRecovery> {
        self.writable()?.do_recover(options)
    }

    fn mark_resume_pending(&self, key: &SessionKey, reason: &str) -> Result<ResumeMark> {
        self.writable()?.do_mark(key, reason)
    }

    fn clear_resume_pending(&self, key: &SessionKey) -> Result<ResumeClear> {
        self.writable()?.do_clear(key)
    }

    fn hold(&self, key: &SessionKey) -> Result<Option<Lease>> {
        self.writable()?.do_hold_on(key)
    }

    fn hold_until(&self, key: &SessionKey, name: &str, end: Timestamp) -> Result<Option<Receipt>> {
        self.writable()?.do_hold(key, name, end)
    }

    fn release(&self, key: &SessionKey, name: &str) -> Result<Option<Receipt>> {
        self.writable()?.do_release(key, name)
    }

    fn leases(&self) -> Result<Listing<OpenLease>> {
        self.do_leases()
    }

    fn find_by_session_id(&self, id: &SessionId) -> Result<Listing<SessionEntry>> {
        self.do_find(id)
    }

    fn recent(&self, limit: usize, cursor: Option<&Cursor>) -> Result<Page> {
        self.do_recent(limit, cursor)
    }

    fn iter(&self, filter: Filter) -> Result<Box<dyn Iterator<Item = Result<Summary>> + '_>> {
        Ok(Box::new(ClusterStore::iter(self, filter)))
    }

    fn len(&self) -> Result<u64> {
        self.count()
    }

    fn keys(&self, prefix: &str) -> Result<Box<dyn Iterator<Item = Result<SessionKey>> + '_>> {
        Ok(Box::new(self.do_keys(prefix)?.into_iter().map(Ok)))
    }

    fn remove_where(&self, filter: &Filter, expected: Option<u64>) -> Result<BulkRemoval> {
        self.writable()?.do_remove_where(filter, expected)
    }

    fn forget(&self, prefix: &str) -> Result<ForgetReport> {
        self.writable()?.do_forget(prefix)
    }

    fn rename(&self, _: &str, _: &str) -> Result<RenameReport> {
        Err(Error::Unsupported { what: "another key for an entry", by: "on a cluster: the two may be on two nodes" })
    }

    fn prune(&self, policy: &PrunePolicy, guard: &dyn ActivityGuard) -> Result<PruneReport> {
        self.writable()?.do_prune(policy, guard, false, &|| true)
    }

    fn prune_dry_run(&self, policy: &PrunePolicy, guard: &dyn ActivityGuard) -> Result<PruneReport> {
        self.do_prune(policy, guard, true, &|| true)
    }

    fn flush(&self) -> Result<()> {
        self.inner.nodes.check_fork()?;
        self.flush_all()
    }

    fn close(&self) -> Result<()> {
        // Nobody ends what was under way in the parent.
        self.inner.nodes.check_fork()?;
        self.inner.door.close();
        // A process that has only read has nothing that a flush could keep.
        let flushed = if self.inner.door.is_used() { self.flush() } else { Ok(()) };
        // Others must not wait for this process because a change of it was lost.
        flushed.and(self.leave())
    }
}
