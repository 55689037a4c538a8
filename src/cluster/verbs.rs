//! The verbs on one entry: read, decide by the rules that the embedded store has, and write over what was seen.

use redis::Cmd;

use super::layout::Part;
use super::map::Kind;
use super::scripts::Named;
use super::store::{Change, ClusterStore, Kept, Look, Placed};
use super::value::{at, int, list};
use crate::answer::{Modified, Put, Removal, ReplaceReason, Repointed, Resolution, Resolved, Written};
use crate::codec::{PINNED, RESUME_PENDING, SUSPENDED};
use crate::commit::Receipt;
use crate::entry::{Details, Extras, KeepExtras, SessionEntry, Touch};
use crate::error::{Error, Result};
use crate::how::{Repoint, Resolve};
use crate::key::{SessionId, SessionKey};
use crate::modify::{Draft, Edit};
use crate::prune::{ActivityGuard, Answer, ask};
use crate::put::Expect;
use crate::random;
use crate::reset::ResetPolicy;
use crate::rules::{self, Edited, Lead};
use crate::time::Timestamp;

/// How often an entry that changes while the guard is asked is looked at again. After that it is in use, and kept.
const ATTEMPTS: usize = 8;

impl ClusterStore {
    pub(super) fn do_touch(&self, key: &SessionKey) -> Result<Option<Receipt>> {
        let (shard, now) = (self.shard_of(key), self.now().as_micros());
        let touch = self.touch_command(shard, Part::Updated, key, now);
        let done = self.call(shard, Kind::Write, &|_| vec![touch.clone()])?;
        if int(at(&done.values, 0)) == Some(1) {
            return Ok(Some(self.receipt([done.sent])));
        }
        // It did not move, or there is none.
        let look = || {
            let score = redis::cmd("ZSCORE").arg(self.part(shard, Part::Updated)).arg(key.as_str()).to_owned();
            let mark = redis::cmd("HGET").arg(self.part(shard, Part::Mark)).arg("mark").to_owned();
            vec![touch.clone(), score, mark]
        };
        let done = self.call(shard, Kind::Write, &|_| look())?;
        if int(at(&done.values, 1)).is_some() {
            return Ok(Some(self.receipt([done.sent])));
        }
        self.check_mark(shard, at(&done.values, 2), &done.node)?;
        Ok(None)
    }

    fn touch_command(&self, shard: u32, part: Part, key: &SessionKey, now: i64) -> Cmd {
        redis::cmd("ZADD").arg(self.part(shard, part)).arg(&["XX", "GT", "CH"]).arg(now).arg(key.as_str()).to_owned()
    }

    /// Looks at an entry for a message, and touches it, if that is asked and it stays, in one step.
    fn look_for_message(
        &self,
        key: &SessionKey,
        now: Option<Timestamp>,
    ) -> Result<(Option<Look>, Option<super::proof::Sent>)> {
        let shard = self.shard_of(key);
        let parts = [Part::Mark, Part::Updated, Part::Interaction].map(|part| self.part(shard, part));
        for with_extras in [false, true] {
            let (values, done) = match now {
                None => {
                    let done = self.call(shard, Kind::Write, &|_| self.look_commands(shard, key, with_extras))?;
                    (done.values.clone(), done)
                }
                Some(now) => {
                    let mut keys = parts.to_vec();
                    keys.push(self.layout().entry(shard, key));
                    if with_extras {
                        keys.push(self.layout().extras(shard, key));
                    }
                    let args = [key.as_str().as_bytes().to_vec(), now.as_micros().to_string().into_bytes()];
                    let done =
                        self.call(shard, Kind::Write, &|whole| vec![Named::Message.call(whole, &keys, &args)])?;
                    (list(at(&done.values, 0)).to_vec(), done)
                }
            };
            let look = self.looked(shard, key, &values, &done.node)?;
            if with_extras || !look.as_ref().is_some_and(|look| look.spilled) {
                return Ok((look, done.sent));
            }
        }
        Ok((None, None))
    }

    pub(super) fn do_resolve(&self, key: &SessionKey, how: &Resolve<'_>) -> Result<Resolved> {
        let tries = self.tries();
        loop {
            let now = self.now();
            let (seen, sent) = self.look_for_message(key, (how.touch == Touch::Yes && !how.fresh).then_some(now))?;
            let reason = seen.as_ref().and_then(|seen| rules::replaced(&seen.hot, how.fresh, None));
            if let Some(seen) = seen.as_ref().filter(|_| reason.is_none()) {
                let receipt = self.receipt([sent]);
                return Ok(Resolved { entry: seen.entry(key), resolution: Resolution::Existing, receipt });
            }
            if let Some(resolved) = self.start(key, how, seen.as_ref(), reason, now, false)? {
                return Ok(resolved);
            }
            tries.again()?;
        }
    }

    /// Starts a session, in the place of the one that was seen or where none was. `None` if another was first.
    fn start(
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
            let placed = self.write(key, Change { extras: Kept::New(&new), ..Change::of(None, hot, cold) })?;
            return Ok(placed.map(|placed| {
                let Written { entry, receipt } = written(key, placed);
                Resolved { entry, resolution: Resolution::Created, receipt }
            }));
        };
        let (hot, cold) = rules::replacement((&seen.hot, &seen.cold), how, reason, id, now);
        let Some(extras) = self.kept(key, seen, &how.keep)? else { return Ok(None) };
        let change = Change { extras: Kept::New(&extras), unless_touched, ..Change::of(Some(seen), hot, cold) };
        let Some(placed) = self.write(key, change)? else { return Ok(None) };
        let had_activity = rules::had_activity(&seen.hot);
        let resolution = Resolution::Replaced { reason, previous: seen.cold.session_id.clone(), had_activity };
        let Written { entry, receipt } = written(key, placed);
        Ok(Some(Resolved { entry, resolution, receipt }))
    }

    /// The extras that stay of an entry. `None` if it has changed since it was seen.
    fn kept(&self, key: &SessionKey, seen: &Look, keep: &KeepExtras) -> Result<Option<Extras>> {
        if *keep == KeepExtras::None || seen.cold.extras.is_none() {
            return Ok(Some(Extras::default()));
        }
        Ok(match self.look(key, true)? {
            Some(look) if look.hot.revision == seen.hot.revision => {
                let all = look.extras.unwrap_or_default();
                Some(keep.of(|| Ok::<_, Error>(all))?)
            }
            _ => None,
        })
    }

    pub(super) fn do_resolve_with(
        &self,
        key: &SessionKey,
        how: &Resolve<'_>,
        policy: &ResetPolicy,
        guard: &dyn ActivityGuard,
    ) -> Result<Resolved> {
        for _ in 0..ATTEMPTS {
            let Some(seen) = self.look(key, false)? else { break };
            let is_kept = [SUSPENDED, RESUME_PENDING, PINNED].iter().any(|flag| seen.hot.is(*flag));
            let entry = seen.entry(key);
            if is_kept || policy.due_for(&entry, self.now()).is_none() || self.is_held(key)? {
                break;
            }
            let own = self.inner.options.guard.clone();
            let own = own.as_ref().map_or(Answer::Idle, |own| ask(&**own, key));
            if own != Answer::Idle || ask(guard, key) != Answer::Idle {
                break;
            }
            let now = self.now();
            let Some(reason) = policy.due_for(&entry, now) else { break };
            if let Some(resolved) = self.start(key, how, Some(&seen), Some(reason), now, true)? {
                return Ok(resolved);
            }
        }
        self.do_resolve(key, how)
    }

    pub(super) fn do_put(&self, new: &SessionEntry, extras: &Extras, expect: Expect) -> Result<Put> {
        check_cost(new.usage.estimated_cost_usd)?;
        let (key, tries) = (&new.key, self.tries());
        loop {
            let seen = self.look(key, false)?;
            if !expect.is_met(seen.as_ref().map(|seen| seen.hot.revision)) {
                return Ok(Put::Unexpected(seen.map(|seen| seen.entry(key))));
            }
            let (hot, cold) = rules::records(new.clone());
            let (exact_time, exact_interaction) = (true, true);
            let change = Change {
                extras: Kept::New(extras),
                exact_time,
                exact_interaction,
                ..Change::of(seen.as_ref(), hot, cold)
            };
            if let Some(placed) = self.write(key, change)? {
                let written = written(key, placed);
                return Ok(if seen.is_none() { Put::Created(written) } else { Put::Replaced(written) });
            }
            tries.again()?;
        }
    }

    pub(super) fn do_modify(
        &self,
        key: &SessionKey,
        touch: Touch,
        change: &mut dyn FnMut(&mut Draft<'_>) -> Edit,
    ) -> Result<Modified> {
        let tries = self.tries();
        loop {
            let seen = self.look(key, false)?;
            let is_new = seen.is_none();
            let old = match &seen {
                Some(seen) => seen.entry(key),
                None => {
                    let now = self.now();
                    SessionEntry::new(key.clone(), random::session_id(now)?, now)
                }
            };
            let read = |name: &str| Ok(self.look(key, true)?.and_then(|look| look.extras?.text(name).map(Into::into)));
            let mut draft = Draft::new(old.clone(), is_new, &read);
            let edit = change(&mut draft);
            let (new, changed) = draft.into_parts();
            match edit {
                Edit::Keep => return Ok(Modified::Kept((!is_new).then_some(old))),
                Edit::Remove => {
                    let Some(seen) = &seen else { return Ok(Modified::Kept(None)) };
                    match self.remove_seen(key, seen, false)? {
                        Removal::Removed(receipt) => return Ok(Modified::Removed(receipt)),
                        Removal::Missing => return Ok(Modified::Kept(None)),
                        Removal::Changed => {
                            tries.again()?;
                            continue;
                        }
                    }
                }
                Edit::Write => check_cost(new.usage.estimated_cost_usd)?,
            }
            let exact_time = new.updated_at != old.updated_at;
            let exact_interaction = new.last_interaction != old.last_interaction;
            let touched_at = (touch == Touch::Yes).then(|| self.now());
            let there = seen.as_ref().map(|seen| (&seen.hot, &seen.cold));
            let (hot, cold) = match rules::edited(there, new, !changed.is_empty(), touched_at) {
                Edited::Nothing => return Ok(Modified::Kept(Some(old))),
                Edited::Both(hot, cold) => (hot, *cold),
                Edited::Hot(hot) => {
                    let Some(seen) = &seen else { return Ok(Modified::Kept(None)) };
                    let only_touched = crate::codec::Hot { updated_at: seen.hot.updated_at, ..hot } == seen.hot;
                    if only_touched && !exact_time {
                        if let Some(receipt) = self.do_touch(key)?
                            && let Some(now) =
                                self.look(key, false)?.filter(|now| now.hot.revision == seen.hot.revision)
                        {
                            return Ok(Modified::Changed(Written { entry: now.entry(key), receipt }));
                        }
                        tries.again()?;
                        continue;
                    }
                    (hot, seen.cold.clone())
                }
            };
            let mut extras = Extras::default();
            if !changed.is_empty() {
                if let Some(seen) = &seen {
                    match self.look(key, true)? {
                        Some(look) if look.hot.revision == seen.hot.revision => {
                            extras = look.extras.unwrap_or_default();
                        }
                        _ => {
                            tries.again()?;
                            continue;
                        }
                    }
                }
                for (name, text) in changed.clone() {
                    match text {
                        Some(text) => extras.insert_checked(name, text),
                        None => {
                            extras.remove(&name);
                        }
                    }
                }
            }
            let is_whole = is_new || !changed.is_empty();
            let extras = if is_whole { Kept::New(&extras) } else { Kept::As };
            let change = Change { extras, exact_time, exact_interaction, ..Change::of(seen.as_ref(), hot, cold) };
            if let Some(placed) = self.write(key, change)? {
                let written = written(key, placed);
                return Ok(if is_new { Modified::Created(written) } else { Modified::Changed(written) });
            }
            tries.again()?;
        }
    }

    /// Changes the records of an entry, if there is one. Where nothing is new it is left alone.
    pub(super) fn change(
        &self,
        key: &SessionKey,
        mut change: impl FnMut(&Look) -> Option<(crate::codec::Hot, crate::codec::Cold)>,
    ) -> Result<Option<Receipt>> {
        let tries = self.tries();
        loop {
            let Some(seen) = self.look(key, false)? else { return Ok(None) };
            let Some((hot, cold)) = change(&seen) else { return self.receipt_of_now(self.shard_of(key)).map(Some) };
            if let Some(placed) = self.write(key, Change::of(Some(&seen), hot, cold))? {
                return Ok(Some(placed.receipt));
            }
            tries.again()?;
        }
    }

    /// Changes the hot record of an entry.
    pub(super) fn change_hot(
        &self,
        key: &SessionKey,
        change: impl Fn(&mut crate::codec::Hot),
    ) -> Result<Option<Receipt>> {
        self.change(key, |seen| {
            let mut hot = seen.hot;
            change(&mut hot);
            (hot != seen.hot).then(|| (hot, seen.cold.clone()))
        })
    }

    pub(super) fn do_update(&self, key: &SessionKey, change: &mut dyn FnMut(&mut Details)) -> Result<Option<Receipt>> {
        self.change(key, |seen| {
            let mut cold = seen.cold.clone();
            change(&mut cold.details);
            Some((seen.hot, cold))
        })
    }

    /// Changes the extras of an entry, if there is one; `None` of `change` leaves them.
    pub(super) fn change_extras(
        &self,
        key: &SessionKey,
        change: &dyn Fn(&mut Extras) -> bool,
    ) -> Result<Option<Receipt>> {
        let tries = self.tries();
        loop {
            let Some(seen) = self.look(key, true)? else { return Ok(None) };
            let mut extras = seen.extras.clone().unwrap_or_default();
            if !change(&mut extras) {
                return Ok(None);
            }
            let mut change = Change::of(Some(&seen), seen.hot, seen.cold.clone());
            change.extras = Kept::New(&extras);
            if let Some(placed) = self.write(key, change)? {
                return Ok(Some(placed.receipt));
            }
            tries.again()?;
        }
    }

    pub(super) fn do_reset(&self, key: &SessionKey, keep: &KeepExtras) -> Result<Option<Written>> {
        let tries = self.tries();
        loop {
            let Some(seen) = self.look(key, false)? else { return Ok(None) };
            let now = self.now();
            let (hot, cold) = rules::reset((&seen.hot, &seen.cold), random::session_id(now)?, now);
            if let Some(extras) = self.kept(key, &seen, keep)? {
                let change = Change { extras: Kept::New(&extras), ..Change::of(Some(&seen), hot, cold) };
                if let Some(placed) = self.write(key, change)? {
                    return Ok(Some(written(key, placed)));
                }
            }
            tries.again()?;
        }
    }

    pub(super) fn do_repoint(&self, key: &SessionKey, id: &SessionId, how: &Repoint) -> Result<Repointed> {
        let tries = self.tries();
        loop {
            let Some(seen) = self.look(key, false)? else { return Ok(Repointed::Missing) };
            let (hot, cold) = match rules::repointed((&seen.hot, &seen.cold), id.clone(), how, self.now()) {
                Lead::Elsewhere => return Ok(Repointed::Unexpected(seen.entry(key))),
                Lead::There => return Ok(Repointed::Same(seen.entry(key))),
                Lead::Switch(hot, cold) => (hot, *cold),
            };
            if let Some(extras) = self.kept(key, &seen, &how.keep)? {
                let change = Change { extras: Kept::New(&extras), ..Change::of(Some(&seen), hot, cold) };
                if let Some(placed) = self.write(key, change)? {
                    return Ok(Repointed::Switched(written(key, placed)));
                }
            }
            tries.again()?;
        }
    }

    pub(super) fn do_remove(&self, key: &SessionKey) -> Result<Option<Receipt>> {
        let tries = self.tries();
        loop {
            let Some(seen) = self.look(key, false)? else { return Ok(None) };
            match self.remove_seen(key, &seen, false)? {
                Removal::Removed(receipt) => return Ok(Some(receipt)),
                Removal::Missing => return Ok(None),
                Removal::Changed => tries.again()?,
            }
        }
    }

    pub(super) fn do_remove_if(&self, key: &SessionKey, seen: &SessionEntry) -> Result<Removal> {
        let Some(look) = self.look(key, false)? else { return Ok(Removal::Missing) };
        if (look.hot.revision, look.hot.updated_at) != (seen.revision, seen.updated_at) {
            return Ok(Removal::Changed);
        }
        self.remove_seen(key, &look, true)
    }

    /// Removes an entry that was seen, if it is still the same.
    pub(super) fn remove_seen(&self, key: &SessionKey, seen: &Look, unless_touched: bool) -> Result<Removal> {
        let score = if unless_touched { seen.score.as_str() } else { "" };
        Ok(match self.remove_script(key, seen, score, None, "")? {
            (1, receipt) => Removal::Removed(receipt),
            (0, _) => Removal::Missing,
            _ => Removal::Changed,
        })
    }

    /// What the script that removes answers, and its receipt.
    pub(super) fn remove_script(
        &self,
        key: &SessionKey,
        seen: &Look,
        score: &str,
        unless_held_at: Option<Timestamp>,
        condemned: &str,
    ) -> Result<(i64, Receipt)> {
        let shard = self.shard_of(key);
        let parts = [Part::Mark, Part::Updated, Part::Interaction].map(|part| self.part(shard, part));
        let mut keys = parts.to_vec();
        keys.push(self.layout().entry(shard, key));
        keys.push(self.layout().extras(shard, key));
        keys.extend([Part::Turns, Part::Holds, Part::Leases].map(|part| self.part(shard, part)));
        keys.push(self.layout().leases(shard, key));
        keys.push(self.part(shard, Part::Condemned));
        let args = [
            key.as_str().to_owned(),
            seen.stamp(),
            score.to_owned(),
            unless_held_at.map(|now| now.as_micros().to_string()).unwrap_or_default(),
            condemned.to_owned(),
        ];
        let (value, done) = self.script(shard, Named::Remove, &keys, &args.map(String::into_bytes))?;
        let mut answer = int(&value).unwrap_or(0);
        if done.again {
            // It was there, and this call has sent its removal before.
            match answer {
                0 => answer = 1,
                // It may be another one, made since: to go on would remove that too.
                -1 => {
                    let source = "another change was made meanwhile".into();
                    return Err(Error::Uncertain { node: done.node, source });
                }
                _ => {}
            }
        }
        if answer == 1 && !seen.hint.is_empty() {
            self.forget_hint(key, &seen.cold.session_id, &seen.hint);
        }
        Ok((answer, self.receipt([done.sent])))
    }
}

fn check_cost(cost: f64) -> Result<()> {
    if cost.is_finite() { Ok(()) } else { Err(Error::InvalidCost { cost }) }
}

pub(super) fn written(key: &SessionKey, placed: Placed) -> Written {
    let Placed { hot, cold, receipt } = placed;
    Written { entry: rules::entry(key, &hot, cold), receipt }
}
