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
mod async_store;
mod backup;
mod call;
mod caller;
mod clock;
mod collected;
mod counts;
mod door;
mod dropped;
mod entry;
mod events;
mod export;
mod figures;
mod flights;
mod flush;
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
mod repair;
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
mod swept;
mod tls;
mod told;
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

use caller::wait;

pub use async_store::AsyncClusterStore;
pub use lists::{AsyncClusterIter, ClusterIter};
pub use options::ClusterOptions;
pub use repair::ClusterRepairs;
pub use stats::ClusterStats;
pub use store::ClusterStore;
pub use verify::{ClusterVerification, ClusterViolation};
pub use watch::ClusterWatcher;

impl Sessions for ClusterStore {
    fn get(&self, key: &SessionKey) -> Result<Option<SessionEntry>> {
        wait(self.verbs().get(key))
    }

    fn get_with_extras(&self, key: &SessionKey) -> Result<Option<(SessionEntry, Extras)>> {
        wait(self.verbs().get_with_extras(key))
    }

    fn contains(&self, key: &SessionKey) -> Result<bool> {
        wait(self.verbs().contains(key))
    }

    fn touch(&self, key: &SessionKey) -> Result<Option<Receipt>> {
        wait(self.verbs().touch(key))
    }

    fn resolve(&self, source: &SessionSource) -> Result<Resolved> {
        wait(self.verbs().resolve(source))
    }

    fn resolve_as(&self, key: &SessionKey, how: &Resolve<'_>) -> Result<Resolved> {
        wait(self.verbs().resolve_as(key, how))
    }

    fn resolve_with(
        &self,
        source: &SessionSource,
        policies: &ResetPolicies,
        guard: &dyn ActivityGuard,
    ) -> Result<Resolved> {
        wait(self.verbs().resolve_with(source, policies, guard))
    }

    fn resolve_as_with(
        &self,
        key: &SessionKey,
        how: &Resolve<'_>,
        policies: &ResetPolicies,
        guard: &dyn ActivityGuard,
    ) -> Result<Resolved> {
        wait(self.verbs().resolve_as_with(key, how, policies, guard))
    }

    fn put(&self, new: &SessionEntry, extras: &Extras, expect: Expect) -> Result<Put> {
        wait(self.verbs().put(new, extras, expect))
    }

    fn modify(
        &self,
        key: &SessionKey,
        touch: Touch,
        change: &mut dyn FnMut(&mut Draft<'_>) -> Edit,
    ) -> Result<Modified> {
        wait(self.verbs().modify(key, touch, change))
    }

    fn update(&self, key: &SessionKey, change: &mut dyn FnMut(&mut Details)) -> Result<Option<Receipt>> {
        wait(self.verbs().update(key, change))
    }

    fn record_usage(&self, key: &SessionKey, turn: &Usage) -> Result<Option<Receipt>> {
        wait(self.verbs().record_usage(key, turn))
    }

    fn suspend(&self, key: &SessionKey) -> Result<Option<Receipt>> {
        wait(self.verbs().suspend(key))
    }

    fn unsuspend(&self, key: &SessionKey) -> Result<Option<Receipt>> {
        wait(self.verbs().unsuspend(key))
    }

    fn pin(&self, key: &SessionKey) -> Result<Option<Receipt>> {
        wait(self.verbs().pin(key))
    }

    fn unpin(&self, key: &SessionKey) -> Result<Option<Receipt>> {
        wait(self.verbs().unpin(key))
    }

    fn reset(&self, key: &SessionKey) -> Result<Option<Written>> {
        wait(self.verbs().reset(key))
    }

    fn reset_keeping(&self, key: &SessionKey, keep: &KeepExtras) -> Result<Option<Written>> {
        wait(self.verbs().reset_keeping(key, keep))
    }

    fn repoint(&self, key: &SessionKey, id: SessionId, how: &Repoint) -> Result<Repointed> {
        wait(self.verbs().repoint(key, id, how))
    }

    fn remove(&self, key: &SessionKey) -> Result<Option<Receipt>> {
        wait(self.verbs().remove(key))
    }

    fn remove_if(&self, key: &SessionKey, seen: &SessionEntry) -> Result<Removal> {
        wait(self.verbs().remove_if(key, seen))
    }

    fn extra(&self, key: &SessionKey, name: &str) -> Result<Option<String>> {
        wait(self.verbs().extra(key, name))
    }

    fn set_extra(&self, key: &SessionKey, name: &str, value: &Value) -> Result<Option<Receipt>> {
        wait(self.verbs().set_extra(key, name, value))
    }

    fn remove_extra(&self, key: &SessionKey, name: &str) -> Result<Option<Receipt>> {
        wait(self.verbs().remove_extra(key, name))
    }

    fn set_extras(&self, key: &SessionKey, new: &Extras) -> Result<Option<Receipt>> {
        wait(self.verbs().set_extras(key, new))
    }

    fn begin_turn(&self, key: &SessionKey) -> Result<Option<BegunTurn>> {
        wait(self.verbs().begin_turn(key))
    }

    fn try_begin_turn(&self, key: &SessionKey) -> Result<TurnStart> {
        wait(self.verbs().try_begin_turn(key))
    }

    fn end_turn(&self, key: &SessionKey, token: TurnToken) -> Result<TurnEnd> {
        wait(self.verbs().end_turn(key, token))
    }

    fn discard_turn(&self, key: &SessionKey) -> Result<TurnEnd> {
        wait(self.verbs().discard_turn(key))
    }

    fn turn(&self, key: &SessionKey) -> Result<Option<OpenTurn>> {
        wait(self.verbs().turn(key))
    }

    fn turns(&self) -> Result<Listing<OpenTurn>> {
        wait(self.verbs().turns())
    }

    fn recover_interrupted_turns(&self, options: &RecoverOptions) -> Result<TurnRecovery> {
        wait(self.verbs().recover_interrupted_turns(options))
    }

    fn mark_resume_pending(&self, key: &SessionKey, reason: &str) -> Result<ResumeMark> {
        wait(self.verbs().mark_resume_pending(key, reason))
    }

    fn clear_resume_pending(&self, key: &SessionKey) -> Result<ResumeClear> {
        wait(self.verbs().clear_resume_pending(key))
    }

    fn hold(&self, key: &SessionKey) -> Result<Option<Lease>> {
        wait(self.verbs().hold(key))
    }

    fn hold_until(&self, key: &SessionKey, name: &str, end: Timestamp) -> Result<Option<Receipt>> {
        wait(self.verbs().hold_until(key, name, end))
    }

    fn release(&self, key: &SessionKey, name: &str) -> Result<Option<Receipt>> {
        wait(self.verbs().release(key, name))
    }

    fn leases(&self) -> Result<Listing<OpenLease>> {
        wait(self.verbs().leases())
    }

    fn find_by_session_id(&self, id: &SessionId) -> Result<Listing<SessionEntry>> {
        wait(self.verbs().find_by_session_id(id))
    }

    fn recent(&self, limit: usize, cursor: Option<&Cursor>) -> Result<Page> {
        wait(self.verbs().recent(limit, cursor))
    }

    fn iter(&self, filter: Filter) -> Result<Box<dyn Iterator<Item = Result<Summary>> + '_>> {
        Ok(Box::new(ClusterStore::iter(self, filter)))
    }

    fn len(&self) -> Result<u64> {
        wait(self.verbs().len())
    }

    fn keys(&self, prefix: &str) -> Result<Box<dyn Iterator<Item = Result<SessionKey>> + '_>> {
        Ok(Box::new(wait(self.verbs().keys(prefix))?.into_iter().map(Ok)))
    }

    fn remove_where(&self, filter: &Filter, expected: Option<u64>) -> Result<BulkRemoval> {
        wait(self.verbs().remove_where(filter, expected))
    }

    fn forget(&self, prefix: &str) -> Result<ForgetReport> {
        wait(self.verbs().forget(prefix))
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
        wait(self.verbs().flush())
    }

    fn close(&self) -> Result<()> {
        wait(self.verbs().close())
    }
}
