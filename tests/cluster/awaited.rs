//! The verbs as futures, for whatever is written for verbs that block: the suite, and the histories, those on six nodes too.

use cloakroom::change::{
    Draft, Edit, Expect, KeepExtras, Modified, Put, Removal, Repoint, Repointed, Resolve, Resolved, Touch, Written,
};
use cloakroom::cluster::{AsyncClusterStore, ClusterOptions, ClusterStore};
use cloakroom::leases::{Lease, OpenLease};
use cloakroom::prefix::{BulkRemoval, ForgetReport, RenameReport};
use cloakroom::prune::{ActivityGuard, PruneReport};
use cloakroom::query::{Cursor, Filter, Page, Summary};
use cloakroom::report::Listing;
use cloakroom::reset::ResetPolicies;
use cloakroom::time::ManualClock;
use cloakroom::turns::{
    BegunTurn, OpenTurn, RecoverOptions, ResumeClear, ResumeMark, TurnEnd, TurnRecovery, TurnStart, TurnToken,
};
use cloakroom::{
    Details, Extras, PrunePolicy, Receipt, Result, SessionEntry, SessionId, SessionKey, SessionSource, Sessions,
    Timestamp, Usage,
};
use pollster::block_on;
use serde_json::Value;

use crate::common::NOW;
use crate::conformance::one;
use crate::nodes::Cluster;
use crate::suite::{Can, Rig};

/// Each verb is a future, which a thread polls until it is ready. What is work for a thread is done by the store that blocks.
pub struct Awaited {
    pub store: ClusterStore,
    pub verbs: AsyncClusterStore,
}

impl Awaited {
    pub fn of(store: &ClusterStore) -> Self {
        Self { store: store.clone(), verbs: store.to_async() }
    }

    pub fn open(options: ClusterOptions) -> Self {
        Self::of(&ClusterStore::open(options).unwrap())
    }
}

struct Awaits {
    sessions: Awaited,
    clock: ManualClock,
}

impl Awaits {
    fn new(cluster: &Cluster) -> Self {
        let clock = ManualClock::new(NOW);
        Self { sessions: Awaited::open(cluster.options().clock(clock.clone())), clock }
    }
}

impl Rig for Awaits {
    fn sessions(&self) -> &dyn Sessions {
        &self.sessions
    }

    fn clock(&self) -> &ManualClock {
        &self.clock
    }

    fn can(&self, what: Can) -> bool {
        !matches!(what, Can::ExactCap | Can::Rename | Can::EndAtDrop)
    }
}

mod on_one_node {
    crate::conformance!(super::Awaits::new(super::one()));
}

impl Sessions for Awaited {
    fn get(&self, key: &SessionKey) -> Result<Option<SessionEntry>> {
        block_on(self.verbs.get(key))
    }

    fn get_with_extras(&self, key: &SessionKey) -> Result<Option<(SessionEntry, Extras)>> {
        block_on(self.verbs.get_with_extras(key))
    }

    fn contains(&self, key: &SessionKey) -> Result<bool> {
        block_on(self.verbs.contains(key))
    }

    fn touch(&self, key: &SessionKey) -> Result<Option<Receipt>> {
        block_on(self.verbs.touch(key))
    }

    fn resolve(&self, source: &SessionSource) -> Result<Resolved> {
        block_on(self.verbs.resolve(source))
    }

    fn resolve_as(&self, key: &SessionKey, how: &Resolve<'_>) -> Result<Resolved> {
        block_on(self.verbs.resolve_as(key, how))
    }

    fn resolve_with(
        &self,
        source: &SessionSource,
        policies: &ResetPolicies,
        guard: &dyn ActivityGuard,
    ) -> Result<Resolved> {
        block_on(self.verbs.resolve_with(source, policies, guard))
    }

    fn resolve_as_with(
        &self,
        key: &SessionKey,
        how: &Resolve<'_>,
        policies: &ResetPolicies,
        guard: &dyn ActivityGuard,
    ) -> Result<Resolved> {
        block_on(self.verbs.resolve_as_with(key, how, policies, guard))
    }

    fn put(&self, new: &SessionEntry, extras: &Extras, expect: Expect) -> Result<Put> {
        block_on(self.verbs.put(new, extras, expect))
    }

    fn modify(
        &self,
        key: &SessionKey,
        touch: Touch,
        change: &mut dyn FnMut(&mut Draft<'_>) -> Edit,
    ) -> Result<Modified> {
        block_on(self.verbs.modify(key, touch, change))
    }

    fn update(&self, key: &SessionKey, change: &mut dyn FnMut(&mut Details)) -> Result<Option<Receipt>> {
        block_on(self.verbs.update(key, change))
    }

    fn record_usage(&self, key: &SessionKey, turn: &Usage) -> Result<Option<Receipt>> {
        block_on(self.verbs.record_usage(key, turn))
    }

    fn suspend(&self, key: &SessionKey) -> Result<Option<Receipt>> {
        block_on(self.verbs.suspend(key))
    }

    fn unsuspend(&self, key: &SessionKey) -> Result<Option<Receipt>> {
        block_on(self.verbs.unsuspend(key))
    }

    fn pin(&self, key: &SessionKey) -> Result<Option<Receipt>> {
        block_on(self.verbs.pin(key))
    }

    fn unpin(&self, key: &SessionKey) -> Result<Option<Receipt>> {
        block_on(self.verbs.unpin(key))
    }

    fn reset(&self, key: &SessionKey) -> Result<Option<Written>> {
        block_on(self.verbs.reset(key))
    }

    fn reset_keeping(&self, key: &SessionKey, keep: &KeepExtras) -> Result<Option<Written>> {
        block_on(self.verbs.reset_keeping(key, keep))
    }

    fn repoint(&self, key: &SessionKey, id: SessionId, how: &Repoint) -> Result<Repointed> {
        block_on(self.verbs.repoint(key, id, how))
    }

    fn remove(&self, key: &SessionKey) -> Result<Option<Receipt>> {
        block_on(self.verbs.remove(key))
    }

    fn remove_if(&self, key: &SessionKey, seen: &SessionEntry) -> Result<Removal> {
        block_on(self.verbs.remove_if(key, seen))
    }

    fn extra(&self, key: &SessionKey, name: &str) -> Result<Option<String>> {
        block_on(self.verbs.extra(key, name))
    }

    fn set_extra(&self, key: &SessionKey, name: &str, value: &Value) -> Result<Option<Receipt>> {
        block_on(self.verbs.set_extra(key, name, value))
    }

    fn remove_extra(&self, key: &SessionKey, name: &str) -> Result<Option<Receipt>> {
        block_on(self.verbs.remove_extra(key, name))
    }

    fn set_extras(&self, key: &SessionKey, new: &Extras) -> Result<Option<Receipt>> {
        block_on(self.verbs.set_extras(key, new))
    }

    fn begin_turn(&self, key: &SessionKey) -> Result<Option<BegunTurn>> {
        block_on(self.verbs.begin_turn(key))
    }

    fn try_begin_turn(&self, key: &SessionKey) -> Result<TurnStart> {
        block_on(self.verbs.try_begin_turn(key))
    }

    fn end_turn(&self, key: &SessionKey, token: TurnToken) -> Result<TurnEnd> {
        block_on(self.verbs.end_turn(key, token))
    }

    fn discard_turn(&self, key: &SessionKey) -> Result<TurnEnd> {
        block_on(self.verbs.discard_turn(key))
    }

    fn turn(&self, key: &SessionKey) -> Result<Option<OpenTurn>> {
        block_on(self.verbs.turn(key))
    }

    fn turns(&self) -> Result<Listing<OpenTurn>> {
        block_on(self.verbs.turns())
    }

    fn recover_interrupted_turns(&self, options: &RecoverOptions) -> Result<TurnRecovery> {
        block_on(self.verbs.recover_interrupted_turns(options))
    }

    fn mark_resume_pending(&self, key: &SessionKey, reason: &str) -> Result<ResumeMark> {
        block_on(self.verbs.mark_resume_pending(key, reason))
    }

    fn clear_resume_pending(&self, key: &SessionKey) -> Result<ResumeClear> {
        block_on(self.verbs.clear_resume_pending(key))
    }

    fn hold(&self, key: &SessionKey) -> Result<Option<Lease>> {
        block_on(self.verbs.hold(key))
    }

    fn hold_until(&self, key: &SessionKey, name: &str, end: Timestamp) -> Result<Option<Receipt>> {
        block_on(self.verbs.hold_until(key, name, end))
    }

    fn release(&self, key: &SessionKey, name: &str) -> Result<Option<Receipt>> {
        block_on(self.verbs.release(key, name))
    }

    fn leases(&self) -> Result<Listing<OpenLease>> {
        block_on(self.verbs.leases())
    }

    fn find_by_session_id(&self, id: &SessionId) -> Result<Listing<SessionEntry>> {
        block_on(self.verbs.find_by_session_id(id))
    }

    fn recent(&self, limit: usize, cursor: Option<&Cursor>) -> Result<Page> {
        block_on(self.verbs.recent(limit, cursor))
    }

    fn iter(&self, filter: Filter) -> Result<Box<dyn Iterator<Item = Result<Summary>> + '_>> {
        let mut entries = self.verbs.iter(filter);
        let all: Vec<_> = block_on(async {
            let mut all = Vec::new();
            while let Some(next) = entries.next().await {
                all.push(next);
            }
            all
        });
        Ok(Box::new(all.into_iter()))
    }

    fn len(&self) -> Result<u64> {
        block_on(self.verbs.len())
    }

    fn keys(&self, prefix: &str) -> Result<Box<dyn Iterator<Item = Result<SessionKey>> + '_>> {
        Ok(Box::new(block_on(self.verbs.keys(prefix))?.into_iter().map(Ok)))
    }

    fn remove_where(&self, filter: &Filter, expected: Option<u64>) -> Result<BulkRemoval> {
        block_on(self.verbs.remove_where(filter, expected))
    }

    fn forget(&self, prefix: &str) -> Result<ForgetReport> {
        block_on(self.verbs.forget(prefix))
    }

    fn rename(&self, from: &str, to: &str) -> Result<RenameReport> {
        self.store.rename(from, to)
    }

    fn prune(&self, policy: &PrunePolicy, guard: &dyn ActivityGuard) -> Result<PruneReport> {
        self.store.prune(policy, guard)
    }

    fn prune_dry_run(&self, policy: &PrunePolicy, guard: &dyn ActivityGuard) -> Result<PruneReport> {
        self.store.prune_dry_run(policy, guard)
    }

    fn flush(&self) -> Result<()> {
        block_on(self.verbs.flush())
    }

    fn close(&self) -> Result<()> {
        block_on(self.verbs.close())
    }
}
