//! [`ClusterStore`], and the ways to its records that all verbs share.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;
use parking_lot::Mutex;
use redis::{Cmd, Value};

use super::clock::ServerClock;
use super::layout::{FORMAT, Layout, Part};
use super::map::{Done, Kind, Nodes};
use super::options::ClusterOptions;
use super::proof::{Needs, Proven};
use super::scripts::Named;
use super::settings::Wanted;
use super::value::{at, bytes, int, list, pairs, text};
use super::wire::{Wire, check_seed};
use crate::codec::{self, AS_IMPORTED, ArrangeError, CodecError, Cold, Hot, NewExtras, SUSPENDED};
use crate::commit::Receipt;
use crate::entry::{Details, Extras, Revision, SessionEntry};
use crate::error::{Error, Result};
use crate::key::{SessionId, SessionKey};
use crate::random;
use crate::rules;
use crate::time::{Clock, Timestamp};

/// A store on a cluster of Valkey or Redis, which many processes on many hosts share. Clones are the same store.
///
/// Its verbs are those of [`Sessions`](crate::Sessions); which of them promise less than on an embedded store is a table in
/// [the guide](crate::guide::cluster).
#[derive(Debug, Clone)]
pub struct ClusterStore {
    pub(super) inner: Arc<Inner>,
}

/// Ends the thread that keeps the member alive, when it is dropped.
#[derive(Debug, Default)]
pub(super) struct Keeper(pub(super) Mutex<Option<Sender<()>>>);

pub(super) struct Inner {
    pub(super) nodes: Arc<Nodes>,
    pub(super) layout: Layout,
    pub(super) needs: Arc<Needs>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) options: ClusterOptions,
    /// What each shard carries: id of the store, number of shards, format.
    pub(super) mark: String,
    /// Names this process, as a member and as the owner of turns.
    pub(super) member: String,
    pub(super) keeper: Keeper,
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterStore")
            .field("name", &self.layout.name())
            .field("member", &self.member)
            .finish_non_exhaustive()
    }
}

/// An entry as it was read.
#[derive(Debug, Clone)]
pub(super) struct Look {
    pub(super) hot: Hot,
    pub(super) cold: Cold,
    /// The details were in the extras.
    pub(super) spilled: bool,
    pub(super) hint: String,
    /// `updated_at` as the server writes it.
    pub(super) score: String,
    /// All of them, if they were asked for.
    pub(super) extras: Option<Extras>,
}

impl Look {
    pub(super) fn entry(&self, key: &SessionKey) -> SessionEntry {
        rules::entry(key, &self.hot, self.cold.clone())
    }

    pub(super) fn stamp(&self) -> String {
        self.hot.revision.to_string()
    }
}

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
}

impl<'a> Change<'a> {
    pub(super) fn of(seen: Option<&'a Look>, hot: Hot, cold: Cold) -> Self {
        let (exact_time, exact_interaction, unless_touched) = (false, false, false);
        Self { seen, hot, cold, extras: Kept::As, exact_time, exact_interaction, unless_touched }
    }
}

/// An entry as it was written.
pub(super) struct Placed {
    pub(super) hot: Hot,
    pub(super) cold: Cold,
    pub(super) receipt: Receipt,
}

impl ClusterStore {
    /// Opens a store, and makes it if the options say so.
    ///
    /// Every node is asked for its settings, now and after each change of the cluster, and every shard for the mark of the
    /// store.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Unavailable`], [`Error::NodeSetting`], [`Error::OtherStore`], [`Error::ShardLost`],
    /// [`Error::Refused`], [`Error::Setting`].
    pub fn open(options: ClusterOptions) -> Result<Self> {
        Self::open_for(options, false)
    }

    /// Makes a store that nobody opens until [`end_load`](Self::end_load), or takes up one whose loading was cut short.
    pub(super) fn begin_to_load(options: ClusterOptions) -> Result<Self> {
        Self::open_for(options.create(true), true)
    }

    pub(super) fn end_load(&self) -> Result<()> {
        let ready = redis::cmd("HSET").arg(self.layout().once("meta")).arg("state").arg("ready").to_owned();
        self.call(0, Kind::Write, &|_| vec![ready.clone()]).map(drop)
    }

    /// Waits until all that was sent so far is as durable as a receipt says.
    pub(super) fn flush_all(&self) -> Result<()> {
        let sent = self.inner.nodes.all_sent().into_iter().map(Some);
        self.keep_all(&[self.receipt(sent)])
    }

    fn open_for(options: ClusterOptions, loads: bool) -> Result<Self> {
        options.seeds.iter().try_for_each(|seed| check_seed(seed))?;
        let server_clock = Arc::new(ServerClock::new());
        let clock: Arc<dyn Clock> = options.clock.clone().unwrap_or_else(|| Arc::clone(&server_clock) as _);
        let replicas = options.replicas;
        let needs = Arc::new(Needs::new(options.name.clone(), !options.relaxed, replicas));
        let wire = Wire::new(options.user.clone(), options.password.clone());
        let wanted = Wanted { syncs: !options.relaxed, stated: options.stated };
        let nodes = Nodes::new(options.seeds.clone(), wire, Arc::clone(&needs), server_clock, wanted, options.patience);
        // Refused before anything is asked.
        let shards = options.shards.unwrap_or(ClusterOptions::DEFAULT_SHARDS);
        let first = Layout::new(&options.name, shards)?;
        nodes.open()?;
        let (id, layout) = made(&nodes, first, &options, loads)?;
        let mark = format!("{id}/{}/{FORMAT}", layout.shards());
        let member = format!("{:016x}", random::bits()?);
        let nodes = Arc::new(nodes);
        let keeper = Keeper::default();
        let store = Self { inner: Arc::new(Inner { nodes, layout, needs, clock, options, mark, member, keeper }) };
        store.check_marks()?;
        store.start_keeper()?;
        Ok(store)
    }

    /// The name of the store.
    #[must_use]
    pub fn name(&self) -> &str {
        self.inner.layout.name()
    }

    pub(super) fn now(&self) -> Timestamp {
        self.inner.clock.now()
    }

    pub(super) fn layout(&self) -> &Layout {
        &self.inner.layout
    }

    pub(super) fn shard_of(&self, key: &SessionKey) -> u32 {
        self.layout().shard_of(key)
    }

    pub(super) fn part(&self, shard: u32, part: Part) -> String {
        self.layout().part(shard, part)
    }

    pub(super) fn call(&self, shard: u32, kind: Kind, build: &dyn Fn(bool) -> Vec<Cmd>) -> Result<Done> {
        self.inner.nodes.call(self.layout().slot_of(shard), kind, build)
    }

    /// Runs a script; its answer, which has the mark's outcome in it, and how it went.
    pub(super) fn script(&self, shard: u32, named: Named, keys: &[String], args: &[Vec<u8>]) -> Result<(Value, Done)> {
        let mut all = vec![self.inner.mark.clone().into_bytes()];
        all.extend_from_slice(args);
        let done = self.call(shard, Kind::Write, &|whole| vec![named.call(whole, keys, &all)])?;
        let value = at(&done.values, 0).clone();
        if int(&value) == Some(-9) || int(at(list(&value), 0)) == Some(-9) {
            return Err(self.lost(shard, &done.node));
        }
        Ok((value, done))
    }

    pub(super) fn lost(&self, shard: u32, node: &str) -> Error {
        Error::ShardLost { name: self.name().to_owned(), shard, node: node.to_owned() }
    }

    /// Refuses to take absence for a fact where the shard has no mark.
    pub(super) fn check_mark(&self, shard: u32, mark: &Value, node: &str) -> Result<()> {
        if bytes(mark) == Some(self.inner.mark.as_bytes()) { Ok(()) } else { Err(self.lost(shard, node)) }
    }

    fn check_marks(&self) -> Result<()> {
        let ask = |shard| vec![redis::cmd("HGET").arg(self.part(shard, Part::Mark)).arg("mark").to_owned()];
        for (shard, done) in self.scatter(0..self.layout().shards(), &ask)? {
            self.check_mark(shard, at(&done.values, 0), &done.node)?;
        }
        Ok(())
    }

    /// Reads from many shards, all of them at once.
    pub(super) fn scatter(
        &self,
        shards: impl IntoIterator<Item = u32>,
        ask: &(dyn Fn(u32) -> Vec<Cmd> + Sync),
    ) -> Result<Vec<(u32, Done)>> {
        let slots: Vec<_> = shards.into_iter().map(|shard| (shard, self.layout().slot_of(shard))).collect();
        self.inner.nodes.scatter(&slots, ask)
    }

    pub(super) fn receipt(&self, parts: impl IntoIterator<Item = Option<super::proof::Sent>>) -> Receipt {
        let parts = parts.into_iter().flatten().collect();
        Receipt::other(Arc::new(Proven::new(Arc::clone(&self.inner.needs), parts)))
    }

    /// The receipt of something that did not have to change.
    pub(super) fn receipt_of_now(&self, shard: u32) -> Result<Receipt> {
        let ask = redis::cmd("HGET").arg(self.part(shard, Part::Mark)).arg("mark").to_owned();
        let done = self.call(shard, Kind::Write, &|_| vec![ask.clone()])?;
        Ok(self.receipt([done.sent]))
    }

    /// The commands that read an entry; with its extras, if that is asked.
    pub(super) fn look_commands(&self, shard: u32, key: &SessionKey, with_extras: bool) -> Vec<Cmd> {
        let mut records = redis::cmd("HMGET");
        records.arg(self.layout().entry(shard, key)).arg(&["v", "h", "c", "i"]);
        let score = |part| redis::cmd("ZSCORE").arg(self.part(shard, part)).arg(key.as_str()).to_owned();
        let mark = redis::cmd("HGET").arg(self.part(shard, Part::Mark)).arg("mark").to_owned();
        let mut commands = vec![records, score(Part::Updated), score(Part::Interaction), mark];
        if with_extras {
            commands.push(redis::cmd("HGETALL").arg(self.layout().extras(shard, key)).to_owned());
        }
        commands
    }

    /// What those commands answered.
    pub(super) fn looked(&self, shard: u32, key: &SessionKey, values: &[Value], node: &str) -> Result<Option<Look>> {
        let records = list(at(values, 0));
        let Some(stamp) = text(at(records, 0)) else {
            self.check_mark(shard, at(values, 3), node)?;
            return Ok(None);
        };
        let damaged =
            |record, source: CodecError| Error::DamagedRecord { record, key: key.to_string(), source: source.into() };
        let mut hot = Hot::decode(bytes(at(records, 1)).unwrap_or_default()).map_err(|e| damaged("h", e))?;
        let (mut cold, spilled) =
            codec::decode_cold(bytes(at(records, 2)).unwrap_or_default()).map_err(|e| damaged("c", e))?;
        hot.revision = stamp.parse().unwrap_or(Revision::NONE);
        let time = |value: &Value| int(value).map(Timestamp::from_micros);
        if let Some(score) = time(at(values, 1)) {
            hot.updated_at = score;
        }
        hot.last_interaction = hot.last_interaction.map(|at_put| time(at(values, 2)).unwrap_or(at_put));
        let mut extras = None;
        if let Some(parts) = values.get(4) {
            let (details, all) = self.assemble(key, &cold, parts)?;
            if let Some(details) = details {
                cold.details = details;
            }
            extras = Some(all);
        }
        let hint = text(at(records, 3)).unwrap_or_default();
        let score = text(at(values, 1)).unwrap_or_default();
        Ok(Some(Look { hot, cold, spilled, hint, score, extras }))
    }

    fn assemble(&self, key: &SessionKey, cold: &Cold, parts: &Value) -> Result<(Option<Details>, Extras)> {
        let Some(index) = &cold.extras else { return Ok((None, Extras::default())) };
        let number = |name: &Value| text(name).and_then(|number| number.parse::<u64>().ok());
        let parts: BTreeMap<u64, &[u8]> =
            pairs(parts).into_iter().filter_map(|(name, value)| Some((number(name)?, bytes(value)?))).collect();
        codec::assemble(index, |generation| parts.get(&generation).copied()).map_err(|source| Error::DamagedRecord {
            record: "x",
            key: key.to_string(),
            source: source.into(),
        })
    }

    /// Reads an entry; with its extras, if that is asked.
    pub(super) fn look(&self, key: &SessionKey, with_extras: bool) -> Result<Option<Look>> {
        let shard = self.shard_of(key);
        let done = self.call(shard, Kind::Read, &|_| self.look_commands(shard, key, with_extras))?;
        match self.looked(shard, key, &done.values, &done.node)? {
            Some(look) if look.spilled && !with_extras => self.look(key, true),
            found => Ok(found),
        }
    }

    /// Writes an entry over the one that was seen, or where none was. `None` if another was first.
    pub(super) fn write(&self, key: &SessionKey, change: Change<'_>) -> Result<Option<Placed>> {
        let shard = self.shard_of(key);
        let Change { seen, mut hot, mut cold, extras, exact_time, exact_interaction, unless_touched } = change;
        hot.revision = Revision::from_number(random::bits()?.max(1));
        hot.set(AS_IMPORTED, false);
        let parts = self.arrange(key, seen, &mut cold, extras)?;
        let Some(parts) = parts else { return Ok(None) };
        let encode = |record: std::result::Result<Vec<u8>, CodecError>| {
            record.map_err(|source| Error::Engine { action: "encode an entry", source: source.into() })
        };
        let (hot_bytes, cold_bytes) = (encode(hot.encode())?, encode(cold.to_bytes())?);
        let same_id = seen.is_some_and(|seen| seen.cold.session_id == cold.session_id);
        let mut is_kept = true;
        let (hint, hinted) = match seen.filter(|seen| same_id && !seen.hint.is_empty()) {
            Some(seen) => (seen.hint.clone(), None),
            None => {
                let hint = format!("{:016x}", random::bits()?);
                let sent = self.hint(key, &cold.session_id, &hint, true)?;
                // A failover could lose the hint and keep the entry, and what is awaited later would be without one.
                is_kept = self.receipt([sent.clone()]).replicated().is_ok();
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
            // Where its replicas did not get it, the entry names none, and the next change writes another.
            if is_kept { hint.clone().into_bytes() } else { Vec::new() },
            hot_bytes,
            cold_bytes,
            flag(same_id),
            seen.filter(|_| unless_touched).map(|seen| seen.score.clone()).unwrap_or_default().into_bytes(),
            flag(hot.is(SUSPENDED)),
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
        let (value, done) = self.script(shard, Named::Put, &keys, &args)?;
        let answer = list(&value);
        if int(at(answer, 0)) != Some(1) {
            if done.again {
                // It may have been made, and changed by another since: to make it again would make it twice.
                let source = "another change was made meanwhile".into();
                return Err(Error::Uncertain { node: done.node, source });
            }
            if hinted.is_some() {
                self.hint(key, &cold.session_id, &hint, false)?;
            }
            return Ok(None);
        }
        if let Some(seen) = seen.filter(|seen| !same_id && !seen.hint.is_empty()) {
            // What is left of it, if this fails, leads nowhere and is passed over.
            let _ = self.hint(key, &seen.cold.session_id, &seen.hint, false);
        }
        if let Some(time) = int(at(answer, 1)) {
            hot.updated_at = Timestamp::from_micros(time);
        }
        hot.last_interaction = hot.last_interaction.map(|set| int(at(answer, 2)).map_or(set, Timestamp::from_micros));
        Ok(Some(Placed { hot, cold, receipt: self.receipt([done.sent, hinted]) }))
    }

    /// Gives the extras their places. `None` if the entry has changed since it was seen.
    fn arrange(
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
                    Some(seen) => match self.look(key, true)? {
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

    /// Notes that a key may have a session id, or that it has it no more. Before the entry names it, so that no entry is
    /// without.
    fn hint(&self, key: &SessionKey, id: &SessionId, hint: &str, is_there: bool) -> Result<Option<super::proof::Sent>> {
        let shard = self.layout().shard_of_id(id);
        let mut command = redis::cmd(if is_there { "SADD" } else { "SREM" });
        command.arg(self.layout().hints(shard, id)).arg(format!("{hint}{}", key.as_str()));
        let done = self.call(shard, Kind::Write, &|_| vec![command.clone()])?;
        Ok(done.sent)
    }

    pub(super) fn forget_hint(&self, key: &SessionKey, id: &SessionId, hint: &str) {
        // What is left of it, if this fails, leads nowhere and is passed over.
        let _ = self.hint(key, id, hint, false);
    }

    /// How long a verb goes on while others change the entry all the time.
    pub(super) fn tries(&self) -> Tries {
        Tries { until: Instant::now() + self.inner.options.patience, patience: self.inner.options.patience }
    }
}

/// Counts how often a verb begins anew.
pub(super) struct Tries {
    until: Instant,
    patience: Duration,
}

impl Tries {
    pub(super) fn again(&self) -> Result<()> {
        if Instant::now() < self.until {
            return Ok(());
        }
        let source = "others change the entry all the time".into();
        Err(Error::Unavailable { seconds: self.patience.as_secs(), node: String::new(), source })
    }
}

enum Parts {
    AsTheyAre,
    New(codec::Parts),
}

/// The id of the store, and its layout. Makes it if there is none and that is wanted.
fn made(nodes: &Nodes, first: Layout, options: &ClusterOptions, loads: bool) -> Result<(String, Layout)> {
    let meta = first.once("meta");
    let read = redis::cmd("HGETALL").arg(&meta).to_owned();
    let done = nodes.call(first.slot_of(0), Kind::Write, &|_| vec![read.clone()])?;
    let found: BTreeMap<_, _> = pairs(at(&done.values, 0))
        .into_iter()
        .map(|(name, value)| (text(name).unwrap_or_default(), text(value).unwrap_or_default()))
        .collect();
    let of = |name: &str| found.get(name).cloned();
    let other = |reason: String| Error::OtherStore { name: first.name().to_owned(), reason };
    match of("state").as_deref() {
        Some("making") if loads => return Err(other("it is being made".into())),
        Some("ready") if loads => return Err(other("it is there, and a restore makes a new one".into())),
        Some("loading") if !loads => {
            return Err(other("it is being restored, or that was cut short: restore it again".into()));
        }
        _ => {}
    }
    if let (Some(id), Some("ready")) = (of("id"), of("state").as_deref()) {
        if of("format") != Some(FORMAT.to_string()) {
            return Err(other(format!(
                "its format is {}, and this program reads {FORMAT}",
                of("format").unwrap_or_default()
            )));
        }
        let shards = of("shards").and_then(|shards| shards.parse().ok()).unwrap_or(0);
        if options.shards.is_some_and(|asked| asked != shards) {
            return Err(other(format!("it has {shards} shards")));
        }
        let layout = if shards == first.shards() { first } else { Layout::new(&options.name, shards)? };
        return Ok((id, layout));
    }
    if !options.create {
        return Err(Error::NotFound { path: first.name().into() });
    }
    // One that was not made to its end is made again, with the id that it has, if it is to have as many shards.
    if of("shards").is_some_and(|shards| shards != first.shards().to_string()) {
        return Err(other("it is being made with another number of shards".into()));
    }
    let new_id = format!("{:016x}", random::bits()?);
    let set = |name: &str, value: &str| redis::cmd("HSETNX").arg(&meta).arg(name).arg(value).to_owned();
    let state = if loads { "loading" } else { "making" };
    let commands = vec![
        set("state", state),
        set("id", &new_id),
        set("shards", &first.shards().to_string()),
        set("format", &FORMAT.to_string()),
        redis::cmd("HMGET").arg(&meta).arg(&["id", "shards", "state"]).to_owned(),
    ];
    let done = nodes.call(first.slot_of(0), Kind::Write, &|_| commands.clone())?;
    let settled = list(at(&done.values, 4));
    let id = text(at(settled, 0)).unwrap_or_default();
    // Another process may have been first.
    if (text(at(settled, 2)).as_deref() == Some("loading")) != loads {
        return Err(other("it is being made by another process".into()));
    }
    if text(at(settled, 1)) != Some(first.shards().to_string()) {
        return Err(other("it is being made with another number of shards".into()));
    }
    let mark = format!("{id}/{}/{FORMAT}", first.shards());
    let slots: Vec<_> = (0..first.shards()).map(|shard| (shard, first.slot_of(shard))).collect();
    let give = |shard| {
        let key = first.part(shard, Part::Mark);
        vec![
            redis::cmd("HSETNX").arg(&key).arg("mark").arg(&mark).to_owned(),
            redis::cmd("HGET").arg(&key).arg("mark").to_owned(),
        ]
    };
    for (shard, done) in nodes.scatter(&slots, &give)? {
        if bytes(at(&done.values, 1)) != Some(mark.as_bytes()) {
            // The first shard has lost what it knew, or the name was used before.
            return Err(other(format!("shard {shard} carries the mark of another; its first shard may be lost")));
        }
    }
    if loads {
        return Ok((id, first));
    }
    let ready = redis::cmd("HSET").arg(&meta).arg("state").arg("ready").to_owned();
    nodes.call(first.slot_of(0), Kind::Write, &|_| vec![ready.clone()])?;
    Ok((id, first))
}
