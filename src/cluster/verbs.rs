//! The verbs that change one entry: read, decide by the rules that the embedded store has, and write over what was seen.

use super::caller::{Caller, wait};
use super::entry::Look;
use super::store::ClusterStore;
use super::write::{Change, Kept, written};
use crate::answer::{Modified, Put, Removal, Repointed, Written};
use crate::commit::Receipt;
use crate::entry::{Details, Extras, KeepExtras, SessionEntry, Touch};
use crate::error::{Error, Result};
use crate::events::EventKind;
use crate::how::Repoint;
use crate::key::{SessionId, SessionKey};
use crate::modify::{Draft, Edit};
use crate::put::Expect;
use crate::random;
use crate::rules::{self, Edited, Lead};

impl ClusterStore {
    pub(super) async fn do_put(&self, new: &SessionEntry, extras: &Extras, expect: Expect) -> Result<Put> {
        check_cost(new.usage.estimated_cost_usd)?;
        let (key, tries) = (&new.key, self.tries());
        loop {
            let seen = self.look(key, false).await?;
            if !expect.is_met(seen.as_ref().map(|seen| seen.hot.revision)) {
                return Ok(Put::Unexpected(seen.map(|seen| seen.entry(key))));
            }
            let (hot, cold) = rules::records(new.clone());
            let (exact_time, exact_interaction) = (true, true);
            let change = Change {
                extras: Kept::New(extras),
                exact_time,
                exact_interaction,
                kind: Some(EventKind::Replaced),
                ..Change::of(seen.as_ref(), hot, cold)
            };
            if let Some(placed) = self.write(key, change).await? {
                let written = written(key, placed);
                return Ok(if seen.is_none() { Put::Created(written) } else { Put::Replaced(written) });
            }
            tries.again()?;
        }
    }

    pub(super) async fn do_modify(
        &self,
        key: &SessionKey,
        touch: Touch,
        change: &mut (impl FnMut(&mut Draft<'_>) -> Edit + ?Sized),
    ) -> Result<Modified> {
        let tries = self.tries();
        loop {
            // What is asked for within `change` cannot be awaited, so it is read before.
            let seen = self.look(key, self.caller == Caller::Awaits).await?;
            let is_new = seen.is_none();
            let old = match &seen {
                Some(seen) => seen.entry(key),
                None => {
                    let now = self.now();
                    SessionEntry::new(key.clone(), random::session_id(now)?, now)
                }
            };
            let (edit, (new, changed)) = {
                let read = |name: &str| match seen.as_ref().and_then(|seen| seen.extras.as_ref()) {
                    Some(extras) => Ok(extras.text(name).map(Into::into)),
                    None => Ok(wait(self.look(key, true))?.and_then(|look| look.extras?.text(name).map(Into::into))),
                };
                let mut draft = Draft::new(old.clone(), is_new, &read);
                (change(&mut draft), draft.into_parts())
            };
            match edit {
                Edit::Keep => return Ok(Modified::Kept((!is_new).then_some(old))),
                Edit::Remove => {
                    let Some(seen) = &seen else { return Ok(Modified::Kept(None)) };
                    match self.remove_seen(key, seen, false).await? {
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
                        if let Some(receipt) = self.touch_untold(key).await?
                            && let Some(now) =
                                self.look(key, false).await?.filter(|now| now.hot.revision == seen.hot.revision)
                        {
                            self.tell_touched(key, Some(&now));
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
                    match self.look(key, true).await? {
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
            if let Some(placed) = self.write(key, change).await? {
                let written = written(key, placed);
                return Ok(if is_new { Modified::Created(written) } else { Modified::Changed(written) });
            }
            tries.again()?;
        }
    }

    /// Changes the records of an entry, if there is one. Where nothing is new it is left alone.
    pub(super) async fn change(
        &self,
        key: &SessionKey,
        kind: Option<EventKind>,
        mut change: impl FnMut(&Look) -> Option<(crate::codec::Hot, crate::codec::Cold)>,
    ) -> Result<Option<Receipt>> {
        let tries = self.tries();
        loop {
            let Some(seen) = self.look(key, false).await? else { return Ok(None) };
            let Some((hot, cold)) = change(&seen) else {
                match self.receipt_of_now(key, &seen.stamp()).await? {
                    None => tries.again()?,
                    kept => return Ok(kept),
                }
                continue;
            };
            let change = Change { kind: kind.clone(), ..Change::of(Some(&seen), hot, cold) };
            if let Some(placed) = self.write(key, change).await? {
                return Ok(Some(placed.receipt));
            }
            tries.again()?;
        }
    }

    /// Changes the hot record of an entry.
    pub(super) async fn change_hot(
        &self,
        key: &SessionKey,
        change: impl Fn(&mut crate::codec::Hot),
    ) -> Result<Option<Receipt>> {
        self.change(key, None, |seen| {
            let mut hot = seen.hot;
            change(&mut hot);
            (hot != seen.hot).then(|| (hot, seen.cold.clone()))
        })
        .await
    }

    pub(super) async fn do_update(
        &self,
        key: &SessionKey,
        change: &mut (impl FnMut(&mut Details) + ?Sized),
    ) -> Result<Option<Receipt>> {
        self.change(key, None, |seen| {
            let mut cold = seen.cold.clone();
            change(&mut cold.details);
            Some((seen.hot, cold))
        })
        .await
    }

    /// Changes the extras of an entry, if there is one; `None` of `change` leaves them.
    pub(super) async fn change_extras(
        &self,
        key: &SessionKey,
        change: &(dyn Fn(&mut Extras) -> bool + Sync),
    ) -> Result<Option<Receipt>> {
        let tries = self.tries();
        loop {
            let Some(seen) = self.look(key, true).await? else { return Ok(None) };
            let mut extras = seen.extras.clone().unwrap_or_default();
            if !change(&mut extras) {
                return Ok(None);
            }
            let mut change = Change::of(Some(&seen), seen.hot, seen.cold.clone());
            change.extras = Kept::New(&extras);
            if let Some(placed) = self.write(key, change).await? {
                return Ok(Some(placed.receipt));
            }
            tries.again()?;
        }
    }

    pub(super) async fn do_reset(&self, key: &SessionKey, keep: &KeepExtras) -> Result<Option<Written>> {
        let tries = self.tries();
        loop {
            let Some(seen) = self.look(key, false).await? else { return Ok(None) };
            let now = self.now();
            let (hot, cold) = rules::reset((&seen.hot, &seen.cold), random::session_id(now)?, now);
            if let Some(extras) = self.kept(key, &seen, keep).await? {
                let kind = Some(EventKind::Reset { reason: None });
                let change = Change { extras: Kept::New(&extras), kind, ..Change::of(Some(&seen), hot, cold) };
                if let Some(placed) = self.write(key, change).await? {
                    return Ok(Some(written(key, placed)));
                }
            }
            tries.again()?;
        }
    }

    pub(super) async fn do_repoint(&self, key: &SessionKey, id: &SessionId, how: &Repoint) -> Result<Repointed> {
        let tries = self.tries();
        loop {
            let Some(seen) = self.look(key, false).await? else { return Ok(Repointed::Missing) };
            let (hot, cold) = match rules::repointed((&seen.hot, &seen.cold), id.clone(), how, self.now()) {
                Lead::Elsewhere => return Ok(Repointed::Unexpected(seen.entry(key))),
                Lead::There => return Ok(Repointed::Same(seen.entry(key))),
                Lead::Switch(hot, cold) => (hot, *cold),
            };
            if let Some(extras) = self.kept(key, &seen, &how.keep).await? {
                let change = Change { extras: Kept::New(&extras), ..Change::of(Some(&seen), hot, cold) };
                if let Some(placed) = self.write(key, change).await? {
                    return Ok(Repointed::Switched(written(key, placed)));
                }
            }
            tries.again()?;
        }
    }
}

fn check_cost(cost: f64) -> Result<()> {
    if cost.is_finite() { Ok(()) } else { Err(Error::InvalidCost { cost }) }
}
