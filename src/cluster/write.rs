//! An entry as it is written: over what was seen, with its hint and its extras.

use std::time::{Duration, Instant};

use super::caller::Caller;
use super::entry::{Look, UNKEPT};
use super::layout::Part;
use super::owed::Held;
use super::scripts::Named;
use super::store::ClusterStore;
use super::value::{at, int, list, text};
use crate::answer::Written;
use crate::codec::{self, AS_IMPORTED, ArrangeError, CodecError, Cold, Hot, NewExtras, SUSPENDED};
use crate::commit::Receipt;
use crate::entry::{Extras, Revision};
use crate::error::{Error, Result};
use crate::events::EventKind;
use crate::key::SessionKey;
use crate::random;
use crate::rules;
use crate::time::Timestamp;

/// How often it is looked whether a touch that is on its way has arrived.
const SETTLES: Duration = Duration::from_millis(1);

/// What becomes of the extras.
pub(super) enum Kept<'a> {
    As,
    New(&'a Extras),
}

/// An entry to be written.
pub(super) struct Change<'a> {
    pub(super) seen: Option<&'a Look>,
    pub(super) hot: Hot,
    pub(super) cold: Cold,
    pub(super) extras: Kept<'a>,
    /// The time is set, and not only moved on.
    pub(super) exact_time: bool,
    pub(super) exact_interaction: bool,
    /// A touch since it was seen wins.
    pub(super) unless_touched: bool,
    /// Nobody else writes to the store.
    pub(super) is_loaded: bool,
    /// What its verb calls it, where what is new does not say that.
    pub(super) kind: Option<EventKind>,
}

impl<'a> Change<'a> {
    pub(super) fn of(seen: Option<&'a Look>, hot: Hot, cold: Cold) -> Self {
        let (exact_time, exact_interaction, unless_touched, is_loaded) = (false, false, false, false);
        Self { seen, hot, cold, extras: Kept::As, exact_time, exact_interaction, unless_touched, is_loaded, kind: None }
    }
}

/// An entry as it was written.
pub(super) struct Placed {
    pub(super) hot: Hot,
    pub(super) cold: Cold,
    pub(super) receipt: Receipt,
}

enum Parts {
    AsTheyAre,
    New(codec::Parts),
}

/// What the script of a message has to know of an entry without decoding it.
pub(super) fn state(hot: &Hot) -> &'static str {
    match hot.last_interaction {
        _ if hot.is(SUSPENDED) => "1",
        Some(_) => "2",
        None => "0",
    }
}

pub(super) fn written(key: &SessionKey, placed: Placed) -> Written {
    let Placed { hot, cold, receipt } = placed;
    Written { entry: rules::entry(key, &hot, cold), receipt }
}

impl ClusterStore {
    /// Writes an entry over the one that was seen, or where none was. `None` if another was first.
    pub(super) async fn write(&self, key: &SessionKey, change: Change<'_>) -> Result<Option<Placed>> {
        let shard = self.shard_of(key);
        let Change { seen, mut hot, mut cold, extras, exact_time, exact_interaction, unless_touched, is_loaded, kind } =
            change;
        hot.revision = Revision::from_number(random::bits()?.max(1));
        hot.set(AS_IMPORTED, false);
        let parts = self.arrange(key, seen, &mut cold, extras).await?;
        let Some(parts) = parts else { return Ok(None) };
        let encode = |record: std::result::Result<Vec<u8>, CodecError>| {
            record.map_err(|source| Error::Engine { action: "encode an entry", source: source.into() })
        };
        let (hot_bytes, cold_bytes) = (encode(hot.encode())?, encode(cold.to_bytes())?);
        let mut held = (exact_time || exact_interaction).then(|| self.inner.owed.hold(key));
        if let Some(held) = &mut held {
            self.settle(held).await?;
        }
        let same_id = seen.is_some_and(|seen| seen.cold.session_id == cold.session_id);
        // Known before the hint is written: `repair` says why.
        let (mut is_kept, mut swept) = (true, "*".to_owned());
        let named = seen.filter(|seen| same_id && !seen.hint.is_empty());
        let (hint, hinted) = match named {
            Some(seen) if seen.is_hint_kept => (seen.hint.clone(), None),
            _ => {
                // The same one again, or another would be left over each time that the replicas do not answer.
                let hint = named
                    .map_or_else(|| random::bits().map(|bits| format!("{bits:016x}")), |it| Ok(it.hint.clone()))?;
                swept = self.inner.swept.of(shard);
                let sent = self.hint(key, &cold.session_id, &hint, true).await?;
                // A failover could lose the hint and keep the entry, and what is awaited later would be without one.
                is_kept = self.replicated(&self.receipt([sent.clone()])).await.is_ok();
                (hint, sent)
            }
        };
        let flag = |on: bool| if on { b"1".to_vec() } else { b"0".to_vec() };
        let number = |time: Timestamp| time.as_micros().to_string().into_bytes();
        let mut args = vec![
            key.as_str().as_bytes().to_vec(),
            seen.map(Look::stamp).unwrap_or_default().into_bytes(),
            hot.revision.to_string().into_bytes(),
            number(hot.updated_at),
            flag(exact_time || seen.is_none()),
            hot.last_interaction.map(number).unwrap_or_default(),
            flag(exact_interaction || seen.is_none()),
            // Where its replicas did not get it, the next change writes it again.
            if is_kept { hint.clone() } else { format!("{UNKEPT}{hint}") }.into_bytes(),
            hot_bytes,
            cold_bytes,
            flag(same_id),
            seen.filter(|_| unless_touched).map(|seen| seen.score.clone()).unwrap_or_default().into_bytes(),
            state(&hot).as_bytes().to_vec(),
            swept.into_bytes(),
        ];
        match parts {
            Parts::AsTheyAre => args.push(b"=".to_vec()),
            Parts::New(parts) => {
                args.push(b"!".to_vec());
                for (generation, part) in parts {
                    args.push(generation.to_string().into_bytes());
                    args.push(part.to_vec());
                }
            }
        }
        let keys = [
            self.part(shard, Part::Mark),
            self.part(shard, Part::Updated),
            self.part(shard, Part::Interaction),
            self.layout().entry(shard, key),
            self.layout().extras(shard, key),
            self.part(shard, Part::Turns),
        ];
        // One that the entry named before is not to be removed.
        let is_new_hint = hinted.is_some() && named.is_none();
        let outcome = match seen {
            // What is seen is compared. Where none was a removal may come in between, and what it removed come back.
            None if !is_loaded => self.script_once(shard, Named::Put, &keys, &args).await,
            _ => self.script(shard, Named::Put, &keys, &args).await,
        };
        // Whoever tries again takes another hint. What was written, perhaps, needs this one.
        if is_new_hint
            && matches!(&outcome, Err(error) if !matches!(error, Error::Uncertain { .. }))
            && let Err(error) = self.hint(key, &cold.session_id, &hint, false).await
        {
            tracing::debug!(error = &error as &dyn std::error::Error, "a hint that leads nowhere is left over");
        }
        let (value, done) = outcome?;
        let answer = list(&value);
        if int(at(answer, 0)) != Some(1) {
            // A sweep may have taken the hint away: it begins anew, with another one.
            let is_swept = int(at(answer, 0)) == Some(-8);
            // A restore does not begin anew: another one has taken over.
            if is_swept && !is_loaded {
                self.inner.swept.put(shard, text(at(answer, 1)).unwrap_or_default());
            }
            if done.again && seen.is_some() && !is_swept {
                // It may have been made, and changed by another since: to make it again would make it twice.
                let source = "another change was made meanwhile".into();
                return Err(self.inner.figures.failed(Error::Uncertain { node: done.node, made: false, source }));
            }
            // One that the entry named before may be that of whoever was first.
            if is_new_hint {
                self.hint(key, &cold.session_id, &hint, false).await?;
            }
            return Ok(None);
        }
        if let Some(held) = held {
            held.forget(exact_time, exact_interaction);
        }
        if let Some(seen) = seen.filter(|_| !same_id) {
            self.forget_hint(key, &seen.cold.session_id, &seen.hint, done.sent.as_ref());
        }
        if let Some(time) = int(at(answer, 1)) {
            hot.updated_at = Timestamp::from_micros(time);
        }
        hot.last_interaction = hot.last_interaction.map(|set| int(at(answer, 2)).map_or(set, Timestamp::from_micros));
        let placed = Placed { hot, cold, receipt: self.receipt([done.sent, hinted]) };
        self.tell_written(key, kind, seen, &placed);
        Ok(Some(placed))
    }

    /// Waits until no touch of an entry is on its way whose time is to be set.
    async fn settle(&self, held: &mut Held<'_>) -> Result<()> {
        let (began, patience) = (Instant::now(), self.inner.options.patience);
        let is_settled = match self.caller {
            Caller::Blocks => held.settle(patience),
            Caller::Awaits => loop {
                if held.is_settled() {
                    break true;
                }
                if began.elapsed() > patience {
                    break false;
                }
                self.inner.nodes.pause(self.caller, SETTLES).await;
            },
        };
        // It may be one of a flush that nobody polls.
        let source = "a touch of the entry is on its way, and its answer does not come";
        let error =
            || Error::Unavailable { seconds: began.elapsed().as_secs(), node: String::new(), source: source.into() };
        if is_settled { Ok(()) } else { Err(error()) }
    }

    /// Gives the extras their places. `None` if the entry has changed since it was seen.
    async fn arrange(
        &self,
        key: &SessionKey,
        seen: Option<&Look>,
        cold: &mut Cold,
        extras: Kept<'_>,
    ) -> Result<Option<Parts>> {
        let read;
        let all = match extras {
            Kept::New(extras) => extras,
            Kept::As => {
                let fits = cold.encode().ok().flatten().is_some();
                let spilled = seen.is_some_and(|seen| seen.spilled);
                if fits && !spilled {
                    cold.extras = seen.and_then(|seen| seen.cold.extras.clone());
                    if cold.encode().ok().flatten().is_some() {
                        return Ok(Some(Parts::AsTheyAre));
                    }
                }
                read = match seen {
                    Some(Look { extras: Some(extras), .. }) => extras.clone(),
                    Some(seen) => match self.look(key, true).await? {
                        Some(Look { extras: Some(extras), hot, .. }) if hot.revision == seen.hot.revision => extras,
                        _ => return Ok(None),
                    },
                    None => Extras::default(),
                };
                &read
            }
        };
        let mut generation = 0;
        let next = || {
            generation += 1;
            generation
        };
        let parts = codec::arrange(cold, NewExtras::All(all), |_| Err(()), next);
        let parts = parts.map_err(|error| match error {
            ArrangeError::TooLarge(bytes) => {
                Error::TooLarge { key: key.clone(), bytes, limit: codec::MAX_EXTRAS_BYTES }
            }
            ArrangeError::Encode(source) => Error::Engine { action: "encode an entry", source: source.into() },
            ArrangeError::Base(()) => {
                Error::Engine { action: "encode an entry", source: "its extras need a base".into() }
            }
        })?;
        Ok(Some(Parts::New(parts)))
    }
}
