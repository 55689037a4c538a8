//! Which node has which slot, and how a request finds the right one.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};
use redis::{Cmd, Connection, ServerError, ServerErrorKind, Value};

use super::clock::ServerClock;
use super::lane::{Answered, Lane, Trouble};
use super::layout::SLOTS;
use super::proof::{Needs, Sent};
use super::settings::{self, Wanted};
use super::value::{at, int, list, text};
use super::wire::Wire;
use crate::error::{Error, Result};
use crate::fork;

/// The map is asked for no more often.
const REFRESH: Duration = Duration::from_millis(100);
/// Settings are asked for again after so long.
const RECHECK: Duration = Duration::from_secs(30);

/// Requests that are under way together, at most.
const AT_ONCE: usize = 4096;

/// Whether a request only reads: such ones go another way, so that no proof stands in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Read,
    Write,
}

/// A primary, and the two ways to it.
#[derive(Debug)]
struct Primary {
    writes: Lane,
    reads: Lane,
}

#[derive(Debug, Default)]
struct Map {
    epoch: u64,
    /// The place of the primary of each slot.
    slots: Vec<Option<u16>>,
    primaries: Vec<Arc<Primary>>,
    replicas: Vec<(String, Vec<String>)>,
}

impl Map {
    fn primary(&self, slot: u16) -> Option<&Arc<Primary>> {
        let place = self.slots.get(usize::from(slot)).copied().flatten()?;
        self.primaries.get(usize::from(place))
    }

    fn nodes(&self) -> Vec<String> {
        let mut nodes: Vec<_> = self.primaries.iter().map(|primary| primary.writes.node().to_owned()).collect();
        nodes.extend(self.replicas.iter().flat_map(|(_, replicas)| replicas.iter().cloned()));
        nodes
    }
}

#[derive(Debug)]
struct Refreshed {
    at: Option<Instant>,
    checked: Option<Instant>,
    /// The nodes that were asked for their settings, and are as they have to be.
    sound: Vec<String>,
}

/// The nodes of a cluster.
#[derive(Debug)]
pub(super) struct Nodes {
    seeds: Vec<String>,
    wire: Wire,
    needs: Arc<Needs>,
    clock: Arc<ServerClock>,
    wanted: Wanted,
    patience: Duration,
    map: RwLock<Map>,
    refreshed: Mutex<Refreshed>,
    /// A node has a setting with which nothing can be promised.
    unsound: RwLock<Option<(String, &'static str, String, &'static str)>>,
}

/// What came of a request.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) values: Vec<Value>,
    pub(super) sent: Option<Sent>,
    pub(super) node: String,
    /// A connection broke on the way: it may have been carried out before.
    pub(super) again: bool,
}

impl Nodes {
    pub(super) fn new(
        seeds: Vec<String>,
        wire: Wire,
        needs: Arc<Needs>,
        clock: Arc<ServerClock>,
        wanted: Wanted,
        patience: Duration,
    ) -> Self {
        let refreshed = Mutex::new(Refreshed { at: None, checked: None, sound: Vec::new() });
        Self {
            seeds,
            wire,
            needs,
            clock,
            wanted,
            patience,
            map: RwLock::default(),
            refreshed,
            unsound: RwLock::default(),
        }
    }

    /// Looks for the cluster until `patience` is over.
    pub(super) fn open(&self) -> Result<()> {
        let (began, mut delay) = (Instant::now(), Duration::from_millis(5));
        loop {
            let error = match self.look(None) {
                Ok(()) => return self.check_sound(),
                Err(error) => error,
            };
            if !matches!(error, Error::Unavailable { .. }) || began.elapsed() > self.patience {
                return Err(error);
            }
            thread::sleep(delay);
            delay = (delay * 2).min(REFRESH);
        }
    }

    /// Runs commands at the primary of a slot, until it answers or `patience` is over. They have to be such that they may
    /// be run again; `build` is told whether scripts go as text.
    pub(super) fn call(&self, slot: u16, kind: Kind, build: &dyn Fn(bool) -> Vec<Cmd>) -> Result<Done> {
        let began = Instant::now();
        let (mut delay, mut again, mut whole, mut ask) = (Duration::from_millis(1), false, false, None::<String>);
        loop {
            if fork::is_child() {
                return Err(Error::Forked { path: self.needs.name.clone().into() });
            }
            self.check_sound()?;
            let commands = build(whole);
            let is_single = commands.len() == 1;
            let primary = {
                let map = self.map.read();
                match &ask {
                    Some(node) => map.primaries.iter().find(|one| one.writes.node() == node).cloned(),
                    None => map.primary(slot).cloned(),
                }
            };
            let (node, source): (String, Box<dyn std::error::Error + Send + Sync>) = match primary {
                None => (ask.take().unwrap_or_default(), format!("no node has slot {slot}").into()),
                Some(primary) => {
                    let lane = if kind == Kind::Read { &primary.reads } else { &primary.writes };
                    let node = lane.node().to_owned();
                    let answered = lane.run(commands, ask.take().is_some());
                    match answered.values {
                        Ok(values) => return Ok(Done { values, sent: answered.sent, node, again }),
                        Err(Trouble::Unsent(error)) => (node, error.into()),
                        Err(Trouble::Broken(error)) => {
                            again = true;
                            (node, error.into())
                        }
                        Err(Trouble::Server(error)) => match self.judge(&error, &node, is_single)? {
                            Next::Whole if !whole => {
                                whole = true;
                                continue;
                            }
                            Next::Ask(other) => {
                                ask = Some(other);
                                (node, error_of(&error))
                            }
                            Next::Whole | Next::Wait => (node, error_of(&error)),
                        },
                    }
                }
            };
            if began.elapsed() > self.patience {
                return Err(Error::Unavailable { seconds: began.elapsed().as_secs(), node, source });
            }
            if ask.is_none() {
                self.refresh(Some(&node));
                thread::sleep(delay);
                delay = (delay * 2).min(REFRESH);
            }
        }
    }

    fn judge(&self, error: &ServerError, node: &str, is_single: bool) -> Result<Next> {
        let refused = || Err(Error::Refused { node: node.to_owned(), source: error_of(error) });
        match error.kind() {
            Some(ServerErrorKind::NoScript) => Ok(Next::Whole),
            Some(ServerErrorKind::Ask) if is_single => {
                let target = error.details().and_then(|details| details.split_whitespace().nth(1));
                Ok(target.map_or(Next::Wait, |target| Next::Ask(target.to_owned())))
            }
            Some(
                ServerErrorKind::Moved
                | ServerErrorKind::Ask
                | ServerErrorKind::TryAgain
                | ServerErrorKind::BusyLoading
                | ServerErrorKind::ClusterDown
                | ServerErrorKind::MasterDown
                | ServerErrorKind::ReadOnly,
            ) => Ok(Next::Wait),
            Some(ServerErrorKind::NoPerm) => refused(),
            None if error.code() == "UNBLOCKED" => Ok(Next::Wait),
            _ if ["OOM", "MISCONF", "NOREPLICAS", "NOAUTH", "WRONGPASS"].contains(&error.code()) => refused(),
            _ => Err(Error::Engine { action: "run a command", source: error_of(error) }),
        }
    }

    fn check_sound(&self) -> Result<()> {
        match &*self.unsound.read() {
            None => Ok(()),
            Some((node, setting, value, line)) => {
                let (node, value) = (node.clone(), value.clone());
                Err(Error::NodeSetting { node, setting, value, line })
            }
        }
    }

    /// Asks for the map, if that was not done just now.
    pub(super) fn refresh(&self, suspect: Option<&str>) {
        if let Err(error) = self.look(suspect) {
            tracing::debug!(error = &error as &dyn std::error::Error, "the map of the cluster cannot be asked for");
        }
    }

    fn look(&self, suspect: Option<&str>) -> Result<()> {
        let mut refreshed = self.refreshed.lock();
        if refreshed.at.is_some_and(|at| at.elapsed() < REFRESH) {
            return Ok(());
        }
        let mut nodes = self.map.read().nodes();
        nodes.extend(self.seeds.iter().cloned());
        // One that did not answer comes last.
        nodes.sort_by_key(|node| Some(node.as_str()) == suspect);
        let mut last: (String, Box<dyn std::error::Error + Send + Sync>) = (String::new(), "no node is known".into());
        let mut asked = Vec::new();
        for node in nodes {
            if asked.contains(&node) {
                continue;
            }
            asked.push(node.clone());
            let found =
                self.wire.connect(&node).map_err(Into::into).and_then(|mut connection| seen_by(&node, &mut connection));
            match found {
                Ok(seen) if seen.epoch >= self.map.read().epoch => {
                    let result = self.take(seen, &mut refreshed);
                    refreshed.at = Some(Instant::now());
                    return result;
                }
                Ok(_) => last = (node, "it is behind the others".into()),
                Err(error) => last = (node, error),
            }
        }
        let (node, source) = last;
        refreshed.at = Some(Instant::now());
        Err(Error::Unavailable { seconds: 0, node, source })
    }

    /// Takes a map for the newest.
    fn take(&self, seen: Seen, refreshed: &mut Refreshed) -> Result<()> {
        let mut primaries: Vec<Arc<Primary>> = Vec::new();
        let mut slots = vec![None; usize::from(SLOTS)];
        {
            let map = self.map.read();
            for (node, ranges) in &seen.primaries {
                let known = map.primaries.iter().find(|primary| primary.writes.node() == node).cloned();
                let start =
                    || Lane::start(node.clone(), self.wire.clone(), Arc::clone(&self.needs), Arc::clone(&self.clock));
                let primary = match known {
                    Some(primary) => primary,
                    None => Arc::new(Primary { writes: start()?, reads: start()? }),
                };
                let place = u16::try_from(primaries.len()).ok();
                for slot in ranges.iter().flat_map(|(first, last)| *first..=*last) {
                    if let Some(slot) = slots.get_mut(usize::from(slot)) {
                        *slot = place;
                    }
                }
                primaries.push(primary);
            }
        }
        self.needs.set(seen.replicas.iter().map(|(node, replicas)| (node.clone(), replicas.len() as u64)).collect());
        let map = Map { epoch: seen.epoch, slots, primaries, replicas: seen.replicas };
        let nodes = map.nodes();
        let is_changed = std::mem::replace(&mut *self.map.write(), map).nodes() != nodes;
        let is_due = refreshed.checked.is_none_or(|at| at.elapsed() > RECHECK);
        let is_unsound = self.unsound.read().is_some();
        if is_due || is_unsound || is_changed {
            refreshed.sound.clear();
        }
        refreshed.sound.retain(|node| nodes.contains(node));
        let mut unsound = None;
        for node in nodes {
            if refreshed.sound.contains(&node) {
                continue;
            }
            let connected = self.wire.connect(&node);
            match connected.map(|mut connection| settings::check(&node, &mut connection, self.wanted)) {
                Ok(Ok(())) => refreshed.sound.push(node),
                Ok(Err(Error::NodeSetting { node, setting, value, line })) => {
                    unsound = Some((node, setting, value, line));
                }
                Ok(Err(error)) => return Err(error),
                // It is asked when it is back: until then it acknowledges nothing.
                Err(error) => tracing::debug!(node, %error, "a node does not tell its settings"),
            }
        }
        if is_due {
            refreshed.checked = Some(Instant::now());
        }
        *self.unsound.write() = unsound;
        Ok(())
    }

    /// Runs the commands that `ask` makes for each of the shards, all at once, over the ways for reading.
    pub(super) fn scatter(
        &self,
        shards: &[(u32, u16)],
        ask: &(dyn Fn(u32) -> Vec<Cmd> + Sync),
    ) -> Result<Vec<(u32, Done)>> {
        if fork::is_child() {
            return Err(Error::Forked { path: self.needs.name.clone().into() });
        }
        self.check_sound()?;
        let mut all = Vec::with_capacity(shards.len());
        for piece in shards.chunks(AT_ONCE) {
            let primaries: Vec<_> = {
                let map = self.map.read();
                piece.iter().map(|(_, slot)| map.primary(*slot).cloned()).collect()
            };
            let send = |(shard, primary): (u32, &Option<Arc<Primary>>)| {
                primary.as_ref().map(|primary| (primary.reads.node().to_owned(), primary.reads.send(ask(shard), false)))
            };
            let sent: Vec<_> = piece.iter().map(|(shard, _)| *shard).zip(&primaries).map(send).collect();
            for ((shard, slot), sent) in piece.iter().zip(sent) {
                let done = match sent.map(|(node, waiting)| (node, waiting.wait())) {
                    Some((node, Answered { values: Ok(values), sent })) => Done { values, sent, node, again: false },
                    // One by one, with patience.
                    _ => self.call(*slot, Kind::Read, &|_| ask(*shard))?,
                };
                all.push((*shard, done));
            }
        }
        Ok(all)
    }

    /// A receipt of all that was sent so far to each primary.
    pub(super) fn all_sent(&self) -> Vec<Sent> {
        let primaries: Vec<_> = self.map.read().primaries.to_vec();
        let ping = |primary: &Arc<Primary>| primary.writes.run(vec![redis::cmd("PING")], false).sent;
        primaries.iter().filter_map(ping).collect()
    }
}

/// What to do about an answer that is none.
enum Next {
    Whole,
    Ask(String),
    Wait,
}

fn error_of(error: &ServerError) -> Box<dyn std::error::Error + Send + Sync> {
    redis::RedisError::from(error.clone()).into()
}

/// The map as a node sees it.
struct Seen {
    epoch: u64,
    primaries: Vec<(String, Vec<(u16, u16)>)>,
    replicas: Vec<(String, Vec<String>)>,
}

fn seen_by(
    node: &str,
    connection: &mut Connection,
) -> std::result::Result<Seen, Box<dyn std::error::Error + Send + Sync>> {
    let timeout = Some(Duration::from_secs(1));
    connection.set_read_timeout(timeout)?;
    connection.set_write_timeout(timeout)?;
    let info: Value = redis::cmd("CLUSTER").arg("INFO").query(connection)?;
    let info = text(&info).unwrap_or_default();
    let of = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
    if of("cluster_state") != Some("ok") {
        return Err("the cluster is down, as this node sees it".into());
    }
    let epoch = of("cluster_current_epoch").and_then(|epoch| epoch.parse().ok()).unwrap_or(0);
    let slots: Value = redis::cmd("CLUSTER").arg("SLOTS").query(connection)?;
    let own_host = node.rsplit_once(':').map_or("", |(host, _)| host);
    let name = |value: &Value| {
        let (host, port) = (text(at(list(value), 0)).unwrap_or_default(), int(at(list(value), 1)).unwrap_or(0));
        // A node that does not know its own address.
        let host = if host.is_empty() || host == "?" { own_host.to_owned() } else { host };
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    };
    let mut seen = Seen { epoch, primaries: Vec::new(), replicas: Vec::new() };
    for range in list(&slots) {
        let range = list(range);
        let bound = |place| int(at(range, place)).and_then(|slot| u16::try_from(slot).ok());
        let (Some(first), Some(last)) = (bound(0), bound(1)) else { continue };
        let primary = name(at(range, 2));
        match seen.primaries.iter_mut().find(|(node, _)| *node == primary) {
            Some((_, ranges)) => ranges.push((first, last)),
            None => {
                let replicas = range.get(3..).unwrap_or_default().iter().map(name).collect();
                seen.replicas.push((primary.clone(), replicas));
                seen.primaries.push((primary, vec![(first, last)]));
            }
        }
    }
    Ok(seen)
}
