//! Pruning: shard by shard, with the questions of the embedded store, and every live member's guard.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::caller::wait;
use super::clock::agree;
use super::entry::Look;
use super::late::Waits;
use super::layout::Part;
use super::map::Kind;
use super::proof::Sent;
use super::roll::Roll;
use super::scripts::Named;
use super::store::ClusterStore;
use super::value::{at, int, list, text};
use crate::codec::Activity;
use crate::error::{Error, Result, with_causes};
use crate::events::{EventKind, PruneReason};
use crate::key::{SessionId, SessionKey};
use crate::prune::{ActivityGuard, Answer, Due, PrunePolicy, PruneReport, Shelf, ask, decide};
use crate::time::Timestamp;

/// Entries that are looked at together.
const BATCH: usize = 512;
/// The roll of the members counts for so many entries, and for so long: others come while a pass is at work.
const ROLL_ENTRIES: u32 = 64;
const ROLL_TIME: Duration = Duration::from_secs(1);
/// How long a condemnation counts. What members said of it is of that time too.
const CONDEMNED_FOR: Duration = Duration::from_secs(2 * 86_400);

impl ClusterStore {
    pub(super) fn do_prune(
        &self,
        policy: &PrunePolicy,
        guard: &dyn ActivityGuard,
        dry_run: bool,
        go_on: &dyn Fn() -> bool,
    ) -> Result<PruneReport> {
        let (mut report, mut removals) = (PruneReport { dry_run, ..PruneReport::default() }, Vec::new());
        // A store that was closed changes nothing, and is read on.
        let go_on = || go_on() && (dry_run || !self.inner.door.is_closed());
        let mut waits = Waits::new(self.now(), self.inner.options.review_interval);
        let passed = self.pass(&policy.limits(), guard, &go_on, &mut report, &mut removals, &mut waits);
        report.kept_unreadable = report.unreadable.count;
        let receipt = (!removals.is_empty()).then(|| self.receipt(removals.into_iter().map(Some)));
        match passed.and_then(|()| wait(self.keep_all(receipt.as_slice()))) {
            Ok(()) => {}
            Err(Error::Closed { .. }) if !dry_run => report.stopped = true,
            Err(error) if dry_run || report.removed + report.kept_unreviewed == 0 => return Err(error),
            // As an error it would hide what was done. What a failover takes back is pruned again.
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    removed = report.removed,
                    "a pruning pass was cut short, or what it removed is not known to be kept"
                );
                report.failure = Some(with_causes(&error));
            }
        }
        self.inner.figures.pruned(&report, waits);
        Ok(report)
    }

    /// Walks over the shards. `removals` gets the last removal over each connection: its receipt covers those before.
    fn pass(
        &self,
        policy: &PrunePolicy,
        guard: &dyn ActivityGuard,
        go_on: &dyn Fn() -> bool,
        report: &mut PruneReport,
        removals: &mut Vec<Sent>,
        waits: &mut Waits,
    ) -> Result<()> {
        if policy.max_disk_bytes.is_some() {
            return Err(Error::Unsupported {
                what: "a cap on bytes (max_disk_bytes)",
                by: "on a cluster: use a cap on entries, or `maxmemory` of the nodes",
            });
        }
        let now = self.now();
        report.cutoff = policy.cutoff(now);
        if policy.is_disabled() {
            return Ok(());
        }
        if !self.clocks_agree()? {
            tracing::warn!("clocks of the cluster, or that of this host, are more than a minute apart: nothing ages");
            report.clock_doubted = true;
            return Ok(());
        }
        let shards = self.layout().shards();
        // The cap is split evenly, and what is left over goes to the first shards.
        let share = |shard: u32| {
            let (max, n) = (policy.max_entries?, u64::from(shards));
            Some(max / n + u64::from(u64::from(shard) < max % n))
        };
        for (shard, (counted, expired)) in wait(self.count_shards(report.cutoff))? {
            let is_over = share(shard).is_some_and(|share| counted > share);
            if expired == 0 && !is_over {
                continue;
            }
            let mut others = Others { members: BTreeSet::new(), called: Instant::now(), left: ROLL_ENTRIES };
            // A dry run asks no others, and calls no roll.
            if !report.dry_run {
                let roll = wait(self.roll())?;
                others.members = self.others(&roll);
                self.forget_reviews(shard, &roll)?;
            }
            let (mut aged, unreviewed) = (0, report.kept_unreviewed);
            let mut pass = Pass { store: self, shard, now, others: &mut others, from: None, go_on, removals, waits };
            if expired > 0
                && let Some(cutoff) = report.cutoff
            {
                aged = pass.walk(report, policy, guard, Some(cutoff), PruneReason::Age, u64::MAX)?;
            }
            if report.stopped {
                break;
            }
            let Some(share) = share(shard) else { continue };
            // Others may have made or removed some since all were counted. What came since waits for the next pass.
            let left = counted.saturating_sub(aged).min(self.count_shard(shard)?);
            let excess = left.saturating_sub(share);
            // What has expired, and others look at first, goes before anything that is fresh.
            let waits = report.kept_unreviewed - unreviewed;
            let mut gone = 0;
            if excess > waits {
                pass.from = report.cutoff;
                gone = pass.walk(report, policy, guard, None, PruneReason::Entries, excess - waits)?;
            }
            report.entries_over_cap += excess.saturating_sub(gone);
        }
        Ok(())
    }

    /// Forgets how far those have looked that are gone.
    fn forget_reviews(&self, shard: u32, roll: &Roll) -> Result<()> {
        let reviewed = self.part(shard, Part::Reviewed);
        let ask = redis::cmd("HKEYS").arg(&reviewed).to_owned();
        let done = wait(self.call(shard, Kind::Read, &|_| vec![ask.clone()]))?;
        let mut forget = redis::cmd("HDEL");
        forget.arg(&reviewed);
        let mut gone = 0;
        for member in list(at(&done.values, 0)).iter().filter_map(text) {
            if roll.is_steady && wait(self.is_gone(roll, &member, Timestamp::MIN))? {
                forget.arg(member);
                gone += 1;
            }
        }
        if gone > 0 {
            // One that has come since it was asked looks again, from the beginning.
            wait(self.call(shard, Kind::Write, &|_| vec![forget.clone()]))?;
        }
        Ok(())
    }

    /// Whether the clocks of all primaries and of this host are about the same. Where they are not nobody can tell whose is
    /// right: ages may be wrong, and so may be who is alive.
    fn clocks_agree(&self) -> Result<bool> {
        let mut times = self.inner.nodes.times()?;
        times.push(std::time::SystemTime::now().into());
        Ok(agree(&times))
    }
}

/// A pass over one shard.
struct Pass<'a> {
    store: &'a ClusterStore,
    shard: u32,
    now: Timestamp,
    others: &'a mut Others,
    /// Those before were decided on.
    from: Option<Timestamp>,
    go_on: &'a dyn Fn() -> bool,
    removals: &'a mut Vec<Sent>,
    waits: &'a mut Waits,
}

/// The others that have guards.
struct Others {
    members: BTreeSet<String>,
    /// When the roll was called, and for how many entries it counts still.
    called: Instant,
    left: u32,
}

impl Others {
    /// Calls the roll again before the next entry, if it is time.
    fn next(&mut self, store: &ClusterStore) -> Result<()> {
        if self.left == 0 || self.called.elapsed() > ROLL_TIME {
            let called = Instant::now();
            *self = Self { members: store.others(&wait(store.roll())?), called, left: ROLL_ENTRIES };
        }
        self.left -= 1;
        Ok(())
    }
}

impl Pass<'_> {
    /// Decides on the oldest entries, until so many are gone, or go once others have looked at them: to condemn more would take
    /// more than is wanted. Returns how many are gone.
    fn walk(
        &mut self,
        report: &mut PruneReport,
        policy: &PrunePolicy,
        guard: &dyn ActivityGuard,
        cutoff: Option<Timestamp>,
        reason: PruneReason,
        enough: u64,
    ) -> Result<u64> {
        let decided = |report: &PruneReport| report.removed + report.kept_unreviewed;
        let (before, decided_before) = (report.removed, decided(report));
        let end = cutoff.map_or("+inf".to_owned(), |cutoff| format!("({}", cutoff.as_micros()));
        let begin = self.from.map_or("-inf".to_owned(), |from| from.as_micros().to_string());
        // What stays in its place is passed over.
        let mut kept = 0_usize;
        loop {
            let mut rows = redis::cmd("ZRANGEBYSCORE");
            rows.arg(self.store.part(self.shard, Part::Updated)).arg(&begin).arg(&end);
            rows.arg("LIMIT").arg(kept).arg(BATCH);
            let done = wait(self.store.call(self.shard, Kind::Read, &|_| vec![rows.clone()]))?;
            let keys: Vec<_> = list(at(&done.values, 0)).iter().filter_map(text).collect();
            let found = keys.len();
            for key in keys {
                if !(self.go_on)() {
                    report.stopped = true;
                    return Ok(report.removed - before);
                }
                let was_removed = report.removed;
                let key = SessionKey::new(key).map_err(Error::InvalidKey)?;
                self.one(report, policy, guard, cutoff, reason, &key)?;
                if report.removed == was_removed || report.dry_run {
                    kept += 1;
                }
                if decided(report) - decided_before >= enough {
                    return Ok(report.removed - before);
                }
            }
            if found < BATCH {
                return Ok(report.removed - before);
            }
        }
    }

    fn one(
        &mut self,
        report: &mut PruneReport,
        policy: &PrunePolicy,
        guard: &dyn ActivityGuard,
        cutoff: Option<Timestamp>,
        reason: PruneReason,
        key: &SessionKey,
    ) -> Result<()> {
        if !report.dry_run {
            self.others.next(self.store)?;
        }
        let Some(Some(look)) = report.unreadable.pass(wait(self.store.look(key, false)))? else { return Ok(()) };
        if cutoff.is_some_and(|cutoff| look.hot.updated_at >= cutoff) {
            return Ok(());
        }
        let seen = Activity { key: key.clone(), hot: look.hot };
        let is_held = wait(self.store.is_held(key, report.dry_run))?;
        let due = Due { seen: &seen, idle: self.now.since(look.hot.updated_at), is_held, reason };
        // Both that of the call and that of the process.
        let own = self.store.inner.options.guard.clone();
        let both = |key: &SessionKey| match ask(guard, key) {
            Answer::Active => Ok(true),
            Answer::Failed => Err("the guard failed"),
            Answer::Idle => match own.as_ref().map(|own| ask(&**own, key)) {
                Some(Answer::Active) => Ok(true),
                Some(Answer::Failed) => Err("the guard failed"),
                Some(Answer::Idle) | None => Ok(false),
            },
        };
        let mut one = One { pass: self, look: &look, condemned: String::new() };
        decide(report, policy, &both, &due, &mut one)?;
        Ok(())
    }
}

/// One entry of a pass.
struct One<'a, 'b> {
    pass: &'a mut Pass<'b>,
    look: &'a Look,
    condemned: String,
}

impl Shelf for One<'_, '_> {
    /// Condemns the entry, and looks whether every live member has looked at that.
    fn is_unreviewed(&mut self, seen: &Activity, dry_run: bool) -> Result<bool> {
        let Pass { store, shard, ref others, ref mut waits, .. } = *self.pass;
        let others = &others.members;
        if others.is_empty() || dry_run {
            return Ok(false);
        }
        let [mark, updated, condemned] =
            [Part::Mark, Part::Updated, Part::Condemned].map(|part| store.part(shard, part));
        let keys = [mark, updated, condemned];
        let time = |time: Timestamp| time.as_micros().to_string();
        let now = store.now();
        let (now, oldest) = (time(now), time(now.saturating_sub(CONDEMNED_FOR)));
        let args = [seen.key.as_str().to_owned(), self.look.score.clone(), now, oldest].map(String::into_bytes);
        let (value, _) = wait(store.script(shard, Named::Condemn, &keys, &args))?;
        self.condemned = text(&value).unwrap_or_default();
        let Some((number, when)) = self.condemned.split_once(':') else {
            // It was used meanwhile, which the removal finds too.
            return Ok(false);
        };
        let number = number.parse::<i64>().unwrap_or(i64::MAX);
        let mut ask = redis::cmd("HMGET");
        ask.arg(store.part(shard, Part::Reviewed));
        for member in others {
            ask.arg(member);
        }
        let done = wait(store.call(shard, Kind::Write, &|_| vec![ask.clone()]))?;
        let reviewed = list(at(&done.values, 0));
        let is_reviewed = |place: usize| int(at(reviewed, place)).is_some_and(|upto| upto >= number);
        let missing = (0..).zip(others).filter(|(place, _)| !is_reviewed(*place)).map(|(_, member)| member);
        Ok(waits.note(missing, when))
    }

    fn remove(&mut self, seen: &Activity, dry_run: bool, is_overridden: bool) -> Result<Option<SessionId>> {
        let session = self.look.cold.session_id.clone();
        let Pass { store, now, ref others, .. } = *self.pass;
        if dry_run {
            return Ok(Some(session));
        }
        // A touch of it is on its way.
        if store.inner.owed.is_collected(&seen.key) {
            return Ok(None);
        }
        if !others.members.is_empty() && self.condemned.is_empty() {
            return Ok(None);
        }
        let unless_held_at = (!is_overridden).then_some(now);
        let (answer, sent) =
            wait(store.remove_script(&seen.key, self.look, &self.look.score, unless_held_at, &self.condemned))?;
        if answer == 1 {
            let removals = &mut *self.pass.removals;
            removals.retain(|before| sent.as_ref().is_none_or(|sent| !Arc::ptr_eq(&before.link, &sent.link)));
            removals.extend(sent);
            return Ok(Some(session));
        }
        Ok(None)
    }

    fn removed(&mut self, key: &SessionKey, reason: PruneReason, session: &SessionId) {
        self.pass.store.tell_gone(key, EventKind::Pruned { reason }, Some(session));
    }
}
