//! The verbs of a message: a touch, and the session that it goes to.

use redis::Cmd;

use super::entry::Look;
use super::figures::Figures;
use super::layout::Part;
use super::map::Kind;
use super::proof::Sent;
use super::scripts::Named;
use super::store::ClusterStore;
use super::value::{at, int, list};
use super::write::{Change, Kept, written};
use crate::answer::{ReplaceReason, Resolution, Resolved, Written};
use crate::codec::{PINNED, RESUME_PENDING, SUSPENDED};
use crate::commit::Receipt;
use crate::entry::{Extras, KeepExtras, Touch};
use crate::error::{Error, Result};
use crate::events::EventKind;
use crate::how::Resolve;
use crate::key::SessionKey;
use crate::prune::{ActivityGuard, Answer, ask};
use crate::random;
use crate::reset::ResetPolicy;
use crate::rules;
use crate::time::Timestamp;

/// How often an entry that changes while the guard is asked is looked at again. After that it is in use, and kept.
const ATTEMPTS: usize = 8;

impl ClusterStore {
    pub(super) async fn do_touch(&self, key: &SessionKey) -> Result<Option<Receipt>> {
        let receipt = self.touch_untold(key).await?;
        if receipt.is_some() {
            self.tell_touched(key, None);
        }
        Ok(receipt)
    }

    /// A touch, which its caller tells the listeners of.
    pub(super) async fn touch_untold(&self, key: &SessionKey) -> Result<Option<Receipt>> {
        Figures::add(&self.inner.figures.touches);
        let (shard, now) = (self.shard_of(key), self.now().as_micros());
        let touch = || self.touch_command(shard, Part::Updated, key, now);
        let done = self.call(shard, Kind::Touch, &|_| vec![touch()]).await?;
        if int(at(&done.values, 0)) == Some(1) {
            self.owe(key, now, false, done.sent.as_ref());
            return Ok(Some(self.receipt([done.sent])));
        }
        // It did not move, or there is none.
        let look = || {
            let score = redis::cmd("ZSCORE").arg(self.part(shard, Part::Updated)).arg(key.as_str()).to_owned();
            let mark = redis::cmd("HGET").arg(self.part(shard, Part::Mark)).arg("mark").to_owned();
            vec![touch(), score, mark]
        };
        let done = self.call(shard, Kind::Touch, &|_| look()).await?;
        if int(at(&done.values, 1)).is_some() {
            self.owe(key, now, false, done.sent.as_ref());
            return Ok(Some(self.receipt([done.sent])));
        }
        self.check_mark(shard, at(&done.values, 2), &done.node)?;
        Ok(None)
    }

    fn touch_command(&self, shard: u32, part: Part, key: &SessionKey, now: i64) -> Cmd {
        // It is made for each touch, so its room is made once.
        let part = self.part(shard, part);
        let mut command = Cmd::with_capacity(7, 48 + part.len() + key.as_str().len());
        command.arg("ZADD").arg(part).arg(&["XX", "GT", "CH"]).arg(now).arg(key.as_str());
        command
    }

    /// Looks at an entry for a message, and touches it, if that is asked and it stays, in one step.
    async fn look_for_message(&self, key: &SessionKey, now: Option<Timestamp>) -> Result<(Option<Look>, Option<Sent>)> {
        let shard = self.shard_of(key);
        let parts = [Part::Mark, Part::Updated, Part::Interaction].map(|part| self.part(shard, part));
        for with_extras in [false, true] {
            let (values, done) = match now {
                None => {
                    let done = self.call(shard, Kind::Write, &|_| self.look_commands(shard, key, with_extras)).await?;
                    (done.values.clone(), done)
                }
                Some(now) => {
                    Figures::add(&self.inner.figures.touches);
                    let mut keys = parts.to_vec();
                    keys.push(self.layout().entry(shard, key));
                    if with_extras {
                        keys.push(self.layout().extras(shard, key));
                    }
                    let args = [key.as_str().as_bytes().to_vec(), now.as_micros().to_string().into_bytes()];
                    let done = self
                        .call(shard, Named::Message.kind(), &|whole| vec![Named::Message.call(whole, &keys, &args)])
                        .await?;
                    // The first is whether it has written.
                    (list(at(&done.values, 0)).get(1..).unwrap_or_default().to_vec(), done)
                }
            };
            let look = self.looked(shard, key, &values, &done.node)?;
            if with_extras || !look.as_ref().is_some_and(|look| look.spilled) {
                return Ok((look, done.sent));
            }
        }
        Ok((None, None))
    }

    pub(super) async fn do_resolve(&self, key: &SessionKey, how: &Resolve<'_>) -> Result<Resolved> {
        let tries = self.tries();
        loop {
            let now = self.now();
            let (seen, sent) =
                self.look_for_message(key, (how.touch == Touch::Yes && !how.fresh).then_some(now)).await?;
            let reason = seen.as_ref().and_then(|seen| rules::replaced(&seen.hot, how.fresh, None));
            if let Some(seen) = seen.as_ref().filter(|_| reason.is_none()) {
                if how.touch == Touch::Yes {
                    self.owe(key, now.as_micros(), true, sent.as_ref());
                    self.tell_touched(key, Some(seen));
                }
                let receipt = self.receipt([sent]);
                return Ok(Resolved { entry: seen.entry(key), resolution: Resolution::Existing, receipt });
            }
            if let Some(resolved) = self.start(key, how, seen.as_ref(), reason, now, false).await? {
                return Ok(resolved);
            }
            tries.again()?;
        }
    }

    /// Starts a session, in the place of the one that was seen or where none was. `None` if another was first.
    async fn start(
        &self,
        key: &SessionKey,
        how: &Resolve<'_>,
        seen: Option<&Look>,
        reason: Option<ReplaceReason>,
        now: Timestamp,
        unless_touched: bool,
    ) -> Result<Option<Resolved>> {
        let id = how.make_id(now).map_or_else(|| random::session_id(now), Ok)?;
        let Some((seen, reason)) = seen.zip(reason) else {
            let (hot, cold) = rules::created(how, id, now);
            let new = Extras::default();
            let placed = self.write(key, Change { extras: Kept::New(&new), ..Change::of(None, hot, cold) }).await?;
            return Ok(placed.map(|placed| {
                let Written { entry, receipt } = written(key, placed);
                Resolved { entry, resolution: Resolution::Created, receipt }
            }));
        };
        let (hot, cold) = rules::replacement((&seen.hot, &seen.cold), how, reason, id, now);
        let Some(extras) = self.kept(key, seen, &how.keep).await? else { return Ok(None) };
        let kind = Some(EventKind::Reset { reason: reason.by_rule() });
        let change = Change { extras: Kept::New(&extras), unless_touched, kind, ..Change::of(Some(seen), hot, cold) };
        let Some(placed) = self.write(key, change).await? else { return Ok(None) };
        let had_activity = rules::had_activity(&seen.hot);
        let resolution = Resolution::Replaced { reason, previous: seen.cold.session_id.clone(), had_activity };
        let Written { entry, receipt } = written(key, placed);
        Ok(Some(Resolved { entry, resolution, receipt }))
    }

    /// The extras that stay of an entry. `None` if it has changed since it was seen.
    pub(super) async fn kept(&self, key: &SessionKey, seen: &Look, keep: &KeepExtras) -> Result<Option<Extras>> {
        if *keep == KeepExtras::None || seen.cold.extras.is_none() {
            return Ok(Some(Extras::default()));
        }
        Ok(match self.look(key, true).await? {
            Some(look) if look.hot.revision == seen.hot.revision => {
                let all = look.extras.unwrap_or_default();
                Some(keep.of(|| Ok::<_, Error>(all))?)
            }
            _ => None,
        })
    }

    pub(super) async fn do_resolve_with(
        &self,
        key: &SessionKey,
        how: &Resolve<'_>,
        policy: &ResetPolicy,
        guard: &dyn ActivityGuard,
    ) -> Result<Resolved> {
        for _ in 0..ATTEMPTS {
            let Some(seen) = self.look(key, false).await? else { break };
            let is_kept = [SUSPENDED, RESUME_PENDING, PINNED].iter().any(|flag| seen.hot.is(*flag));
            let entry = seen.entry(key);
            if is_kept || policy.due_for(&entry, self.now()).is_none() || self.is_held(key, false).await? {
                break;
            }
            let own = self.inner.options.guard.clone();
            let own = own.as_ref().map_or(Answer::Idle, |own| ask(&**own, key));
            if own != Answer::Idle || ask(guard, key) != Answer::Idle {
                break;
            }
            let now = self.now();
            let Some(reason) = policy.due_for(&entry, now) else { break };
            // A touch may have been collected while others were asked.
            if self.inner.owed.is_collected(key) {
                break;
            }
            if let Some(resolved) = self.start(key, how, Some(&seen), Some(reason), now, true).await? {
                return Ok(resolved);
            }
        }
        self.do_resolve(key, how).await
    }
}
