//! Which node has which slot, and what the nodes promise.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::{Mutex, RwLock};
use redis::Value;

pub(super) use super::answer::Kind;
use super::caller::{Caller, Timer};
use super::clock::{ServerClock, time_of};
use super::figures::Figures;
use super::lane::Lane;
use super::layout::SLOTS;
use super::proof::Needs;
use super::seen::{Owner, Seen, seen_by};
use super::settings::{self, Asked, Unsound, Wanted};
use super::tls;
use super::value::{at, list, text};
use super::wire::{self, Wire};
use crate::error::{Error, Result};
use crate::fork;
use crate::time::Timestamp;

/// The map is asked for no more often.
pub(super) const REFRESH: Duration = Duration::from_millis(100);

/// A primary, and the two ways to it.
#[derive(Debug)]
pub(super) struct Primary {
    pub(super) writes: Lane,
    pub(super) reads: Lane,
}

#[derive(Debug, Default)]
struct Map {
    /// The place of the primary of each slot.
    slots: Vec<Option<u16>>,
    /// The epoch since which that one has the slot: a later owner has a higher one.
    since: Vec<u64>,
    primaries: Vec<Arc<Primary>>,
    replicas: Vec<(String, Vec<String>)>,
    /// Nodes that get their first slot just now.
    guests: Vec<Arc<Primary>>,
}

impl Map {
    fn primary(&self, slot: u16) -> Option<&Arc<Primary>> {
        let place = self.slots.get(usize::from(slot)).copied().flatten()?;
        self.primaries.get(usize::from(place))
    }

    /// Whether a node has not heard of an owner of a slot that is known here. To believe it would lead back to one that was
    /// replaced, and answers what it knew.
    fn is_ahead_of(&self, seen: &Seen) -> bool {
        let is_older =
            |owner: &Owner| owner.slots().any(|slot| self.since.get(slot).is_some_and(|at| *at > owner.epoch));
        seen.primaries.iter().any(is_older)
    }

    fn node(&self, name: &str) -> Option<&Arc<Primary>> {
        self.primaries.iter().chain(&self.guests).find(|one| one.writes.node() == name)
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
    asked: Asked,
}

/// The nodes of a cluster.
#[derive(Debug)]
pub(super) struct Nodes {
    seeds: Vec<String>,
    wire: Wire,
    needs: Arc<Needs>,
    pub(super) figures: Arc<Figures>,
    clock: Arc<ServerClock>,
    wanted: Wanted,
    patience: Duration,
    map: RwLock<Map>,
    refreshed: Mutex<Refreshed>,
    /// A node has a setting with which nothing can be promised.
    unsound: RwLock<Option<Unsound>>,
    suspect: Sender<String>,
    suspects: Receiver<String>,
    timer: Timer,
}

impl Drop for Nodes {
    fn drop(&mut self) {
        // A forked process has not the thread that hears of suspects, which may have the channel's lock.
        fork::keep_in_child(|| (self.suspect.clone(), self.suspects.clone()));
    }
}

impl Nodes {
    pub(super) fn new(
        seeds: Vec<String>,
        wire: Wire,
        needs: Arc<Needs>,
        figures: Arc<Figures>,
        clock: Arc<ServerClock>,
        wanted: Wanted,
        patience: Duration,
    ) -> Self {
        let refreshed = Mutex::new(Refreshed { at: None, asked: Asked::default() });
        let ((suspect, suspects), timer) = (bounded(1), Timer::new(Arc::clone(needs.wakers())));
        Self {
            seeds,
            wire,
            needs,
            figures,
            clock,
            wanted,
            patience,
            map: RwLock::default(),
            refreshed,
            unsound: RwLock::default(),
            suspect,
            suspects,
            timer,
        }
    }

    /// Looks for the cluster until `patience` is over.
    pub(super) fn open(&self) -> Result<()> {
        let began = Instant::now();
        loop {
            match self.look(None) {
                Ok(()) => return self.check_sound(),
                Err(Error::Unavailable { node, source, .. }) if began.elapsed() > self.patience => {
                    return Err(Error::Unavailable { seconds: began.elapsed().as_secs(), node, source });
                }
                Err(Error::Unavailable { .. }) => {}
                Err(error) => return Err(error),
            }
            // Before that nobody is asked again.
            thread::sleep(REFRESH);
        }
    }

    /// The primary of a slot, as far as it is known.
    pub(super) fn primary(&self, slot: u16) -> Option<Arc<Primary>> {
        self.map.read().primary(slot).cloned()
    }

    pub(super) fn patience(&self) -> Duration {
        self.patience
    }

    /// Whether anything may be asked at all.
    pub(super) fn check(&self) -> Result<()> {
        self.check_fork()?;
        self.check_sound()
    }

    /// Refuses a forked child. It comes before any lock: a thread of the parent may have that for ever.
    pub(super) fn check_fork(&self) -> Result<()> {
        if fork::is_child() { Err(Error::Forked { path: self.needs.name.clone().into() }) } else { Ok(()) }
    }

    /// The node that another one named. It may have no slot yet, and then it is asked for its settings first.
    pub(super) fn named(&self, node: &str) -> Result<Option<Arc<Primary>>> {
        if let Some(known) = self.map.read().node(node) {
            return Ok(Some(Arc::clone(known)));
        }
        let Ok(mut connection) = self.wire.connect(node) else { return Ok(None) };
        match settings::check(node, &mut connection, self.wanted) {
            Err(Error::Unavailable { .. }) => return Ok(None),
            checked => checked?,
        }
        let info: Option<Value> = redis::cmd("INFO").arg("replication").query(&mut connection).ok();
        let info = info.as_ref().and_then(text).unwrap_or_default();
        let replicas = info.lines().find_map(|line| line.strip_prefix("connected_slaves:")?.trim().parse().ok());
        self.needs.add(node, replicas.unwrap_or(0));
        let mut map = self.map.write();
        if let Some(known) = map.node(node) {
            return Ok(Some(Arc::clone(known)));
        }
        let primary = Arc::new(self.start(node)?);
        map.guests.push(Arc::clone(&primary));
        Ok(Some(primary))
    }

    fn start(&self, node: &str) -> Result<Primary> {
        let lane = || Lane::start(node.to_owned(), self.wire.clone(), Arc::clone(&self.needs), Arc::clone(&self.clock));
        Ok(Primary { writes: lane()?, reads: lane()? })
    }

    /// Notes where a slot is, as the node that had it says, until the map is asked for again.
    pub(super) fn moved(&self, slot: u16, node: &str) -> bool {
        let mut map = self.map.write();
        let place = map.primaries.iter().position(|primary| primary.writes.node() == node);
        let place = place.and_then(|place| u16::try_from(place).ok());
        match (place, map.slots.get_mut(usize::from(slot))) {
            (Some(place), Some(entry)) => {
                *entry = Some(place);
                true
            }
            _ => false,
        }
    }

    fn check_sound(&self) -> Result<()> {
        match &*self.unsound.read() {
            None => Ok(()),
            Some(unsound) => Err(unsound.clone().into()),
        }
    }

    #[cfg(test)]
    pub(super) fn call_unsound(&self) {
        *self.unsound.write() = Some(Unsound::any());
    }

    /// The node that another one named, if it is known.
    pub(super) fn known(&self, node: &str) -> Option<Arc<Primary>> {
        self.map.read().node(node).cloned()
    }

    /// A node did not answer, or another one has named it: the map is to be looked at, by a thread that may wait for nodes. Where
    /// another one is suspected already, that will do.
    pub(super) fn suspect(&self, node: String) {
        let _ = self.suspect.try_send(node);
    }

    /// Hears of those.
    pub(super) fn suspects(&self) -> Receiver<String> {
        self.suspects.clone()
    }

    pub(super) async fn pause(&self, caller: Caller, time: Duration) {
        self.timer.pause(caller, time).await;
    }

    /// Gets to know a node that another one has named, or that did not answer, and asks for the map.
    pub(super) fn look_at(&self, node: Option<&str>) {
        let known = node.filter(|node| !node.is_empty()).map_or(Ok(None), |node| self.named(node));
        if let Err(error) = known {
            tracing::debug!(error = &error as &dyn std::error::Error, "a node that another one named is of no use");
        }
        self.refresh(node);
    }

    /// Asks for the map, if that was not done just now.
    pub(super) fn refresh(&self, suspect: Option<&str>) {
        if let Err(error) = self.look(suspect) {
            tracing::debug!(error = &error as &dyn std::error::Error, "the map of the cluster cannot be asked for");
        }
    }

    fn look(&self, suspect: Option<&str>) -> Result<()> {
        // Who finds another one at it goes on with what is known: nodes that are silent take their time.
        let Some(mut refreshed) = self.refreshed.try_lock() else { return Ok(()) };
        if refreshed.at.is_some_and(|at| at.elapsed() < REFRESH) {
            return Ok(());
        }
        let mut nodes = self.map.read().nodes();
        nodes.extend(self.seeds.iter().cloned());
        // One that did not answer comes last.
        nodes.sort_by_key(|node| Some(node.as_str()) == suspect);
        let mut last: (String, Box<dyn std::error::Error + Send + Sync>) = (String::new(), "no node is known".into());
        let (mut asked, mut refusal) = (Vec::new(), None);
        for node in nodes {
            if asked.contains(&node) {
                continue;
            }
            asked.push(node.clone());
            let connected = self.wire.connect(&node);
            if let Err(error) = &connected {
                // To ask one whether it speaks TLS takes time, and there is none once others have answered.
                let is_opening = self.map.read().primaries.is_empty();
                let mismatch = || is_opening.then(|| self.wire.mismatch(&node, error)).flatten();
                refusal = refusal.or_else(|| tls::refusal(&node, error)).or_else(|| wire::refusal(&node, error));
                refusal = refusal.or_else(mismatch);
            }
            let found = connected.map_err(Into::into).and_then(|mut connection| seen_by(&node, &mut connection));
            if let Err(error) = &found {
                let refuses = || wire::refusal(&node, error.downcast_ref()?);
                refusal = refusal.or_else(refuses);
            }
            match found {
                Ok(seen) if !self.map.read().is_ahead_of(&seen) => {
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
        if let Some(refusal) = refusal {
            return Err(refusal);
        }
        Err(Error::Unavailable { seconds: 0, node, source })
    }

    /// Takes a map for the newest.
    fn take(&self, seen: Seen, refreshed: &mut Refreshed) -> Result<()> {
        let mut primaries: Vec<Arc<Primary>> = Vec::new();
        let mut slots = vec![None; usize::from(SLOTS)];
        let mut since = vec![0; usize::from(SLOTS)];
        {
            let map = self.map.read();
            for owner in &seen.primaries {
                let primary = match map.node(&owner.node) {
                    Some(known) => Arc::clone(known),
                    None => Arc::new(self.start(&owner.node)?),
                };
                let place = u16::try_from(primaries.len()).ok();
                for slot in owner.slots() {
                    if let (Some(slot), Some(since)) = (slots.get_mut(slot), since.get_mut(slot)) {
                        (*slot, *since) = (place, owner.epoch);
                    }
                }
                primaries.push(primary);
            }
        }
        let known = seen.primaries.iter().zip(&seen.replicas);
        let known = known.map(|(owner, (_, replicas))| (owner.node.clone(), replicas.len() as u64, owner.replicas));
        self.needs.set(known.collect());
        // Receipts may be waited for at one that has no slot yet.
        let is_guest = |one: &&Arc<Primary>| !primaries.iter().any(|known| known.writes.node() == one.writes.node());
        let guests = self.map.read().guests.iter().filter(is_guest).cloned().collect();
        let map = Map { slots, since, primaries, replicas: seen.replicas, guests };
        let nodes = map.nodes();
        let is_changed = std::mem::replace(&mut *self.map.write(), map).nodes() != nodes;
        let before = self.unsound.read().clone();
        let unsound = refreshed.asked.ask(nodes, is_changed, before, &self.wire, self.wanted)?;
        *self.unsound.write() = unsound;
        Ok(())
    }

    /// What the clock of each primary says. One that does not answer is an error: its clock may be the wrong one.
    pub(super) fn times(&self) -> Result<Vec<Timestamp>> {
        let primaries: Vec<_> = self.map.read().primaries.to_vec();
        let time = |primary: &Arc<Primary>| {
            // The first connection may be one that broke since it was used.
            let mut answers = (0..2).map(|_| primary.reads.run(vec![redis::cmd("TIME")], false).values);
            let time = answers.find_map(|values| time_of(list(at(&values.ok()?, 0))));
            time.ok_or_else(|| {
                let (node, source) = (primary.reads.node().to_owned(), "it does not tell its time".into());
                Error::Unavailable { seconds: 0, node, source }
            })
        };
        primaries.iter().map(time).collect()
    }

    /// The names of all keys that begin with this, as the primaries know them. It asks for a few at a time, so that nobody
    /// waits for it; what is made or removed meanwhile may be among them or not.
    pub(super) fn names(&self, prefix: &str) -> Result<Vec<String>> {
        let primaries: Vec<_> = self.map.read().primaries.to_vec();
        let mut names = Vec::new();
        for primary in primaries {
            let mut cursor = "0".to_owned();
            loop {
                let mut scan = redis::cmd("SCAN");
                scan.arg(&cursor).arg("MATCH").arg(format!("{prefix}*")).arg("COUNT").arg(1000);
                // The first connection may be one that broke since it was used.
                let mut answers = (0..2).map(|_| primary.reads.run(vec![scan.clone()], false).values);
                let answer = answers.find_map(Result::ok).ok_or_else(|| {
                    let (node, source) = (primary.reads.node().to_owned(), "it does not list its keys".into());
                    Error::Unavailable { seconds: 0, node, source }
                })?;
                let answer = list(at(&answer, 0));
                names.extend(list(at(answer, 1)).iter().filter_map(text));
                cursor = text(at(answer, 0)).unwrap_or_else(|| "0".to_owned());
                if cursor == "0" {
                    break;
                }
            }
        }
        Ok(names)
    }
}
