//! [`ClusterStore`], and the ways to its shards that all verbs share.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;
use parking_lot::Mutex;
use redis::{Cmd, Value};

use super::call::{Build, Done};
use super::caller::{Caller, wait};
use super::clock::ServerClock;
use super::door::{Door, UnderWay};
use super::dropped::Dropped;
use super::figures::{Counted, Figures};
use super::flights::Soon;
use super::layout::{FORMAT, Layout, Part};
use super::made::{Made, made};
use super::map::{Kind, Nodes};
use super::options::ClusterOptions;
use super::owed::Owed;
use super::proof::{Needs, Sent};
use super::receipt::Proven;
use super::scripts::Named;
use super::settings::Wanted;
use super::stale::StaleHints;
use super::swept::Swept;
use super::tls::Tls;
use super::value::{at, bytes, int, list, text};
use super::wire::{Wire, check_seed};
use crate::commit::Receipt;
use crate::error::{Error, Result};
use crate::events::Listeners;
use crate::fork;
use crate::key::SessionKey;
use crate::random;
use crate::time::{Clock, Timestamp};

/// How often it is looked whether changes are under way.
const PAUSE: Duration = Duration::from_millis(1);
/// How long it is noted what came of a change: at least as long as that is repeated.
const NOTED: Duration = Duration::from_secs(60);
/// The same once it was repeated: what was given up may lie with a node, and none lies longer.
const NOTED_LATE: Duration = Duration::from_secs(600);

/// A store on a cluster of Valkey or Redis, which many processes on many hosts share. Clones are the same store.
///
/// Its verbs are those of [`Sessions`](crate::Sessions); which of them promise less than on an embedded store is a table in
/// [the guide](crate::guide::cluster).
#[derive(Debug, Clone)]
pub struct ClusterStore {
    pub(super) inner: Arc<Inner>,
    pub(super) caller: Caller,
}

/// Keeps the member alive.
#[derive(Debug, Default)]
pub(super) struct Keeper {
    /// Ends the threads when it is dropped.
    pub(super) stop: Mutex<Option<Sender<()>>>,
    /// When the last renewal of the lease was sent that was answered.
    pub(super) renewed: Mutex<Option<Instant>>,
}

impl Drop for Keeper {
    fn drop(&mut self) {
        // A forked process has none of the threads, and one of them may have the channel's lock.
        fork::keep_in_child(|| self.stop.get_mut().take());
    }
}

pub(super) struct Inner {
    pub(super) nodes: Arc<Nodes>,
    pub(super) layout: Layout,
    pub(super) needs: Arc<Needs>,
    pub(super) figures: Arc<Figures>,
    pub(super) owed: Owed,
    pub(super) soon: Soon,
    pub(super) stale_hints: StaleHints,
    pub(super) dropped: Dropped,
    pub(super) swept: Swept,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) options: ClusterOptions,
    /// What each shard carries: id of the store, number of shards, format.
    pub(super) mark: String,
    /// Names this process, as a member and as the owner of turns.
    pub(super) member: String,
    pub(super) keeper: Keeper,
    pub(super) door: Door,
    pub(super) listeners: Listeners,
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterStore")
            .field("name", &self.layout.name())
            .field("member", &self.member)
            .finish_non_exhaustive()
    }
}

impl ClusterStore {
    /// Opens a store, and makes it if the options say so.
    ///
    /// Every node is asked for its settings, now and after each change of the cluster, and every shard for the mark of the
    /// store.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Unavailable`], [`Error::NodeSetting`], [`Error::OtherStore`], [`Error::ShardLost`],
    /// [`Error::Refused`], [`Error::Tls`], [`Error::Setting`], [`Error::Random`]; of a new store [`Error::NotReplicated`] and
    /// [`Error::Uncertain`], if its marks are not known to be kept. Where connections are to be encrypted also [`Error::Io`] and
    /// [`Error::PermissionDenied`] of the PEM files, and [`Error::Unsupported`] without the crate feature `valkey-tls`.
    pub fn open(options: ClusterOptions) -> Result<Self> {
        Self::open_for(options, None)
    }

    /// Makes a store that nobody opens until [`end_load`](Self::end_load), or takes over one that another restore makes, or
    /// has left. `loader` names this one.
    pub(super) fn begin_to_load(options: ClusterOptions, loader: &str) -> Result<Self> {
        Self::open_for(options.create(true), Some(loader))
    }

    fn open_for(options: ClusterOptions, loader: Option<&str>) -> Result<Self> {
        options.check()?;
        fork::notice().map_err(|e| Error::io("watch for forks of the process that opens", &options.name, e))?;
        options.seeds.iter().try_for_each(|seed| check_seed(seed))?;
        let server_clock = Arc::new(ServerClock::new());
        let clock: Arc<dyn Clock> = options.clock.clone().unwrap_or_else(|| Arc::clone(&server_clock) as _);
        let replicas = options.replicas;
        let needs = Arc::new(Needs::new(options.name.clone(), !options.relaxed, replicas));
        options.tls.as_ref().map_or(Ok(()), Tls::check)?;
        let wire = Wire::new(options.user.clone(), options.password.clone(), options.tls.clone());
        let wanted = Wanted { syncs: !options.relaxed, stated: options.stated };
        let figures = Arc::new(Figures::default());
        let told = Arc::clone(&figures);
        let nodes =
            Nodes::new(options.seeds.clone(), wire, Arc::clone(&needs), told, server_clock, wanted, options.patience);
        // Refused before anything is asked.
        let shards = options.shards.unwrap_or(ClusterOptions::DEFAULT_SHARDS);
        let first = Layout::new(&options.name, shards)?;
        nodes.open()?;
        let Made { id, layout, is_new } = made(&nodes, first, &options, loader)?;
        let mark = format!("{id}/{}/{FORMAT}", layout.shards());
        let member = format!("{:016x}", random::bits()?);
        let nodes = Arc::new(nodes);
        let (keeper, door, listeners) = (Keeper::default(), Door::default(), Listeners::default());
        let (owed, soon) = (Owed::default(), Soon::default());
        let (stale_hints, dropped) = (StaleHints::default(), Dropped::default());
        let inner = Inner {
            nodes,
            layout,
            needs,
            figures,
            owed,
            soon,
            stale_hints,
            dropped,
            swept: Swept::default(),
            clock,
            options,
            mark,
            member,
            keeper,
            door,
            listeners,
        };
        let store = Self::of(Arc::new(inner));
        wait(store.check_marks())?;
        if is_new && loader.is_none() {
            store.end_making()?;
        }
        store.start_keeper()?;
        Ok(store)
    }

    /// The store, for a thread that waits.
    pub(super) fn of(inner: Arc<Inner>) -> Self {
        Self { inner, caller: Caller::Blocks }
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

    /// The same store, for a verb that changes it.
    pub(super) fn writable(&self) -> Result<&Self> {
        self.inner.nodes.check_fork()?;
        if self.inner.door.is_closed() { Err(self.closed()) } else { Ok(self) }
    }

    /// A change begins. It is under way until the answer is dropped.
    pub(super) fn enter(&self) -> Result<UnderWay<'_>> {
        self.inner.door.enter().ok_or_else(|| self.closed())
    }

    /// Lets no change in from now on, and waits for those that are under way.
    pub(super) async fn shut(&self) {
        self.inner.door.shut();
        match self.caller {
            Caller::Blocks => self.inner.door.wait(),
            Caller::Awaits => {
                while self.inner.door.is_passed() {
                    self.inner.nodes.pause(self.caller, PAUSE).await;
                }
            }
        }
    }

    fn closed(&self) -> Error {
        Error::Closed { path: self.name().into() }
    }

    pub(super) async fn call(&self, shard: u32, kind: Kind, build: Build<'_>) -> Result<Done> {
        self.inner.nodes.check_fork()?;
        // A verb that had begun before the store was closed changes nothing after that.
        let _under_way = if kind.is_change() { Some(self.enter()?) } else { None };
        self.inner.nodes.call(self.caller, self.layout().slot_of(shard), kind, build).await
    }

    /// The arguments of a script: the mark that it compares, and then these.
    fn after_mark(&self, args: &[Vec<u8>]) -> Vec<Vec<u8>> {
        std::iter::once(self.inner.mark.clone().into_bytes()).chain(args.iter().cloned()).collect()
    }

    /// Runs a script; its answer, which has the mark's outcome in it, and how it went.
    pub(super) async fn script(
        &self,
        shard: u32,
        named: Named,
        keys: &[String],
        args: &[Vec<u8>],
    ) -> Result<(Value, Done)> {
        let all = self.after_mark(args);
        let done = self.call(shard, named.kind(), &|whole| vec![named.call(whole, keys, &all)]).await?;
        self.answered(shard, done)
    }

    /// The same for a change that another one may undo before it is repeated. The node carries it out once and notes the
    /// outcome. A repetition answers that outcome, and an attempt that comes late does nothing.
    pub(super) async fn script_once(
        &self,
        shard: u32,
        named: Named,
        keys: &[String],
        args: &[Vec<u8>],
    ) -> Result<(Value, Done)> {
        let mut keys = keys.to_vec();
        keys.push(self.layout().outcome(shard, &format!("{:016x}", random::bits()?)));
        let all = self.after_mark(args);
        let (length, all) = (all.len(), Mutex::new((0_u32, all)));
        let first = self.inner.options.patience.saturating_mul(2).clamp(NOTED, NOTED_LATE);
        let build = |whole| {
            let (attempt, all) = &mut *all.lock();
            let noted = if *attempt == 0 { first } else { NOTED_LATE };
            all.push(noted.as_millis().to_string().into_bytes());
            all.push(attempt.to_string().into_bytes());
            *attempt += 1;
            let command = named.call(whole, &keys, all);
            all.truncate(length);
            vec![command]
        };
        let done = self.call(shard, named.kind(), &build).await?;
        self.answered(shard, done)
    }

    pub(super) fn answered(&self, shard: u32, done: Done) -> Result<(Value, Done)> {
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

    async fn check_marks(&self) -> Result<()> {
        let ask =
            |shard| vec![redis::cmd("HMGET").arg(self.part(shard, Part::Mark)).arg(&["mark", "swept"]).to_owned()];
        for (shard, done) in self.scatter(0..self.layout().shards(), &ask).await? {
            let found = list(at(&done.values, 0));
            self.check_mark(shard, at(found, 0), &done.node)?;
            if let Some(sweep) = text(at(found, 1)) {
                self.inner.swept.put(shard, sweep);
            }
        }
        Ok(())
    }

    /// Reads from many shards, all of them at once.
    pub(super) async fn scatter(
        &self,
        shards: impl IntoIterator<Item = u32>,
        ask: &(dyn Fn(u32) -> Vec<Cmd> + Sync),
    ) -> Result<Vec<(u32, Done)>> {
        let slots: Vec<_> = shards.into_iter().map(|shard| (shard, self.layout().slot_of(shard))).collect();
        self.inner.nodes.scatter(self.caller, &slots, ask).await
    }

    pub(super) fn receipt(&self, parts: impl IntoIterator<Item = Option<Sent>>) -> Receipt {
        let parts = parts.into_iter().flatten().collect();
        let proof = Proven::new(Arc::clone(&self.inner.needs), parts);
        Receipt::other(Arc::new(Counted::new(proof, &self.inner.figures)))
    }

    /// The receipt of an entry that did not have to change. `None` if it has changed since it was seen, or a failover has
    /// taken that back.
    pub(super) async fn receipt_of_now(&self, key: &SessionKey, stamp: &str) -> Result<Option<Receipt>> {
        let shard = self.shard_of(key);
        let ask = redis::cmd("HGET").arg(self.layout().entry(shard, key)).arg("v").to_owned();
        let done = self.call(shard, Kind::Write, &|_| vec![ask.clone()]).await?;
        let is_same = bytes(at(&done.values, 0)) == Some(stamp.as_bytes());
        Ok(is_same.then(|| self.receipt([done.sent])))
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
        Err(Error::Contended { seconds: self.patience.as_secs() })
    }
}
