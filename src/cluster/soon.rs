//! Touches that nobody waits for. A thread collects them for a moment and sends them together, those of a shard in one command: the
//! least that a touch can cost a node, and its caller.
//!
//! Those of a shard are in *flight* from the moment that they are sent until they are answered. The thread looks for answers and
//! waits for none, so a node that is silent delays the touches of its own shards alone.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, select};

use super::answer::Trouble;
use super::call::{Next, Other};
use super::caller::wait;
use super::collected::Touch;
use super::figures::Figures;
use super::flights::Flight;
use super::layout::Part;
use super::map::{Kind, Primary};
use super::store::{ClusterStore, Inner};
use super::{answer, tls, wire};
use crate::error::{Error, Result};
use crate::key::SessionKey;

/// How long they are collected.
const COLLECTED: Duration = Duration::from_millis(100);
/// When it is looked for answers first; then after twice that, and so on.
const FIRST_LOOK: Duration = Duration::from_millis(1);
/// Keys of a shard that go in one command.
const AT_ONCE: usize = 256;

impl ClusterStore {
    /// Notes that the user was active, as [`touch`](crate::Sessions::touch) does, and waits for no node: touches are collected for
    /// a tenth of a second, of each entry the last, and sent together.
    ///
    /// Until a node has it nobody sees it, but that a pass and `resolve_with` of this process keep the entry; those of
    /// another process may prune or replace it. It ends with the process, and with the last handle where that was not closed. Once a
    /// node has it, it is as other touches whose receipt is dropped: what a failover loses of them is sent again.
    /// [`flush`](crate::Sessions::flush) and [`close`](crate::Sessions::close) send what was collected before, and wait until it is
    /// durable. Where a node does not answer, or refuses it, it is sent again and again; once 65,536 entries wait, or 16 MB, this is
    /// as `touch`. It does not say where there is no entry, and sends no [event](Self::own_events).
    ///
    /// # Errors
    /// [`Error::Closed`], [`Error::Forked`], [`Error::NodeSetting`]; where there is no room, those of `touch`.
    pub fn touch_soon(&self, key: &SessionKey) -> Result<()> {
        if self.collect(key)? { Ok(()) } else { wait(self.do_touch(key)).map(drop) }
    }

    /// False if there is no room.
    pub(super) fn collect(&self, key: &SessionKey) -> Result<bool> {
        let _under_way = self.writable()?.enter()?;
        // Nothing comes of it at a node that keeps nothing.
        self.inner.nodes.check()?;
        let has_room = self.inner.owed.collect(key, self.now().as_micros());
        if has_room {
            Figures::add(&self.inner.figures.touches);
            self.inner.soon.tell();
        }
        Ok(has_room)
    }

    /// What a thread runs. It sends what was collected, until somebody stops it.
    pub(super) fn sending_soon(inner: Weak<Inner>, stopped: Receiver<()>, told: Receiver<()>) -> impl FnOnce() + Send {
        let last = inner.clone();
        let send = move || {
            let rests = |time| stopped.recv_timeout(time) == Err(RecvTimeoutError::Timeout);
            loop {
                select! {
                    recv(told) -> told => if told.is_err() { return },
                    recv(stopped) -> _ => return,
                }
                loop {
                    if !rests(COLLECTED) {
                        return;
                    }
                    let (mut takes, mut nap) = (true, FIRST_LOOK);
                    // Most answers come at once; whoever sets an exact time waits for them.
                    let is_done = loop {
                        let Some(inner) = inner.upgrade() else { return };
                        let store = ClusterStore::of(inner);
                        if let Err(error) = store.send_round(takes) {
                            // It is tried again, and again: once there is no room callers are told.
                            let error = &error as &dyn std::error::Error;
                            tracing::debug!(error, "touches that were collected have not arrived");
                        }
                        let is_in_flight = store.is_in_flight();
                        if !is_in_flight || nap >= COLLECTED {
                            break !is_in_flight && !store.inner.owed.has_collected();
                        }
                        drop(store);
                        if !rests(nap) {
                            return;
                        }
                        (takes, nap) = (false, nap * 2);
                    };
                    if is_done {
                        break;
                    }
                }
            }
        };
        move || {
            send();
            if let Some(inner) = last.upgrade() {
                ClusterStore::of(inner).ground_flights();
            }
        }
    }

    /// Nobody looks for answers any more: what was in flight may have arrived, or not.
    pub(super) fn ground_flights(&self) {
        for flight in std::mem::take(&mut *self.inner.soon.flights.lock()) {
            self.inner.owed.arrived(flight.touches, true);
        }
    }

    fn is_in_flight(&self) -> bool {
        !self.inner.soon.flights.lock().is_empty()
    }

    /// Looks for answers, and sends what was collected if it `takes` that. It waits for no answer. What a node did not take is to be
    /// sent again, and the first reason is returned.
    fn send_round(&self, takes: bool) -> Result<()> {
        self.inner.nodes.check_fork()?;
        let (mut outcome, mut suspect) = (Ok(()), None);
        let mut flights = self.inner.soon.flights.lock();
        for flight in std::mem::take(&mut *flights) {
            match self.land(flight, &mut suspect) {
                Ok(flying) => flights.extend(flying),
                Err(error) => outcome = outcome.and(Err(error)),
            }
        }
        // Nothing comes of it at a node that keeps nothing.
        let sound = self.inner.nodes.check();
        let mut by_shard = BTreeMap::<u32, Vec<Touch>>::new();
        let collected = if takes && sound.is_ok() { self.inner.owed.take_collected() } else { Vec::new() };
        outcome = outcome.and(sound);
        for touch in collected {
            by_shard.entry(self.shard_of(&touch.key)).or_default().push(touch);
        }
        for (shard, mut touches) in by_shard {
            let primary = self.inner.nodes.primary(self.layout().slot_of(shard));
            while !touches.is_empty() {
                let piece = touches.split_off(touches.len().saturating_sub(AT_ONCE));
                flights.push(self.fly(shard, piece, primary.as_ref(), false));
            }
        }
        let is_in_flight = !flights.is_empty();
        drop(flights);
        if is_in_flight || outcome.is_err() {
            // A flush that has no more patience leaves them to the thread.
            self.inner.soon.tell();
        }
        if let Some(node) = suspect {
            self.inner.nodes.suspect(node);
        }
        outcome
    }

    fn fly(&self, shard: u32, touches: Vec<Touch>, to: Option<&Arc<Primary>>, asking: bool) -> Flight {
        let sent = to.map(|primary| {
            let mut all = redis::cmd("ZADD");
            all.arg(self.part(shard, Part::Updated)).arg(&["XX", "GT"]);
            for touch in &touches {
                all.arg(touch.time).arg(touch.key.as_str());
            }
            (primary.writes.node().to_owned(), primary.writes.send(Kind::Write, vec![all], asking))
        });
        Flight { shard, touches, sent }
    }

    /// Looks for the answer, and returns what is in flight still.
    fn land(&self, flight: Flight, suspect: &mut Option<String>) -> Result<Option<Flight>> {
        let Flight { shard, touches, sent } = flight;
        let Some((node, waiting)) = sent else {
            self.inner.owed.arrived(touches, true);
            *suspect = Some(String::new());
            return Err(unavailable(0, String::new(), "no node has the slot".into()));
        };
        let answered = match waiting.look() {
            Ok(answered) => answered,
            Err(waiting) => return Ok(Some(Flight { shard, touches, sent: Some((node, waiting)) })),
        };
        let reason = match answered.values {
            Ok(_) => {
                for touch in &touches {
                    self.owe(&touch.key, touch.time, false, answered.sent.as_ref());
                }
                self.inner.owed.arrived(touches, false);
                return Ok(None);
            }
            Err(Trouble::Server(error)) => match self.inner.nodes.judge(&error, &node, true) {
                // The slot is on its way, and the key is there already.
                Ok(Next::Other(Other { node, once: true })) => match self.inner.nodes.known(&node) {
                    Some(other) => {
                        Figures::add(&self.inner.figures.redirections);
                        return Ok(Some(self.fly(shard, touches, Some(&other), true)));
                    }
                    None => {
                        self.inner.owed.arrived(touches, true);
                        *suspect = Some(node.clone());
                        return Err(unavailable(0, node, "it has its first slot, and is not known yet".into()));
                    }
                },
                Ok(_) => Ok(answer::error_of(&error)),
                Err(refused) => Err(refused),
            },
            Err(Trouble::Unsent(error)) => match tls::refusal(&node, &error).or_else(|| wire::refusal(&node, &error)) {
                Some(refused) => Err(refused),
                None => Ok(error.into()),
            },
            Err(Trouble::Broken(error)) => Ok(error.into()),
        };
        self.inner.owed.arrived(touches, true);
        let source = reason?;
        *suspect = Some(node.clone());
        Err(unavailable(0, node, source))
    }

    /// Sends what was collected before, and waits until nodes have it, for as long as the patience lasts. Where a node refuses it,
    /// what was sent to others is waited for all the same.
    pub(super) async fn flush_collected(&self) -> Result<()> {
        let flush = self.inner.owed.begin_flush();
        let (began, patience) = (Instant::now(), self.inner.options.patience);
        let (mut silent, mut refused, mut nap) = (None, None, FIRST_LOOK);
        loop {
            let (flying, waits) = self.left_before(flush);
            match (flying, refused) {
                (None, Some(error)) => return Err(error),
                (None, None) if !waits => return Ok(()),
                (flying, error) if began.elapsed() > patience => {
                    let seconds = began.elapsed().as_secs();
                    return Err(error.unwrap_or_else(|| match silent {
                        Some((node, source)) => unavailable(seconds, node, source),
                        None => unavailable(seconds, flying.unwrap_or_default(), "it has not answered touches".into()),
                    }));
                }
                (_, error) => refused = error,
            }
            match self.send_round(refused.is_none()) {
                Ok(()) => {}
                Err(Error::Unavailable { node, source, .. }) => silent = Some((node, source)),
                Err(error) => refused = refused.or(Some(error)),
            }
            self.inner.nodes.pause(self.caller, nap).await;
            nap = (nap * 2).min(COLLECTED / 5);
        }
    }

    /// The node of a flight with a touch that was collected before a flush, and whether another one waits. Touches take off and come
    /// back under the lock of the flights, so none is overlooked.
    fn left_before(&self, flush: u64) -> (Option<String>, bool) {
        let flights = self.inner.soon.flights.lock();
        let flight = flights.iter().find(|flight| flight.touches.iter().any(|touch| touch.since < flush));
        let node = flight.map(|flight| flight.sent.as_ref().map(|(node, _)| node.clone()).unwrap_or_default());
        (node, self.inner.owed.has_collected_before(flush))
    }
}

fn unavailable(seconds: u64, node: String, source: Box<dyn std::error::Error + Send + Sync>) -> Error {
    Error::Unavailable { seconds, node, source }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use crossbeam_channel::bounded;

    use super::super::clock::ServerClock;
    use super::super::layout::Layout;
    use super::super::map::Nodes;
    use super::super::options::ClusterOptions;
    use super::super::proof::Needs;
    use super::super::settings::Wanted;
    use super::super::wire::Wire;
    use super::*;

    /// A store that knows of no node, and waits for none.
    fn store() -> ClusterStore {
        let options = ClusterOptions::new("t", ["127.0.0.1:1"]);
        let (needs, figures) = (Arc::new(Needs::new("t".into(), true, 0)), Arc::<Figures>::default());
        let (wire, clock) = (Wire::new(None, None, None), Arc::new(ServerClock::new()));
        let wanted = Wanted { syncs: true, stated: false };
        let (seeds, own, told) = (options.seeds.clone(), Arc::clone(&needs), Arc::clone(&figures));
        let nodes = Nodes::new(seeds, wire, own, told, Arc::clone(&clock), wanted, Duration::ZERO);
        let inner = Inner {
            nodes: Arc::new(nodes),
            layout: Layout::new("t", 1).unwrap(),
            needs,
            figures,
            owed: Default::default(),
            soon: Default::default(),
            stale_hints: Default::default(),
            dropped: Default::default(),
            swept: Default::default(),
            clock,
            options,
            mark: String::new(),
            member: String::new(),
            keeper: Default::default(),
            door: Default::default(),
            listeners: Default::default(),
        };
        ClusterStore::of(Arc::new(inner))
    }

    /// A touch of a key is in flight.
    fn flying(store: &ClusterStore, key: &SessionKey) {
        assert!(store.inner.owed.collect(key, 1));
        let touches = store.inner.owed.take_collected();
        assert_eq!(touches.len(), 1);
        store.inner.soon.flights.lock().push(Flight { shard: 0, touches, sent: None });
    }

    /// Whoever sets an exact time waits for what is in flight. Nobody looks for answers once the store is left, whether a handle closes it
    /// or the thread ends that looked for them.
    #[test]
    fn nothing_is_in_flight_where_nobody_looks_for_answers() {
        let (store, key) = (store(), SessionKey::new("a").unwrap());
        for ends in [false, true] {
            flying(&store, &key);
            let (tell, told) = bounded(1);
            let (other, same) = (store.clone(), key.clone());
            let setting = thread::spawn(move || {
                assert!(other.inner.owed.hold(&same).settle(Duration::from_secs(30)));
                tell.send(()).unwrap();
            });
            if ends {
                let (stop, stopped) = bounded(0);
                drop(stop);
                ClusterStore::sending_soon(Arc::downgrade(&store.inner), stopped, store.inner.soon.told())();
            } else {
                // No node can be told that it leaves.
                wait(store.leave()).unwrap_err();
            }
            assert_eq!(told.recv_timeout(Duration::from_secs(30)), Ok(()), "it waits for a flight");
            setting.join().unwrap();
            assert!(!store.is_in_flight() && store.inner.owed.has_collected(), "it may not have arrived");
        }
    }

    /// A node has settings with which it keeps nothing. Answers are looked for all the same, and nothing else is sent.
    #[test]
    fn what_is_in_flight_lands_though_a_node_is_unsound() {
        let (store, key) = (store(), SessionKey::new("a").unwrap());
        flying(&store, &key);
        store.inner.nodes.call_unsound();
        assert!(store.send_round(true).is_err());
        assert!(!store.is_in_flight() && store.inner.owed.has_collected());
        // Whoever sets an exact time does not wait.
        drop(store.inner.owed.hold(&key));
        let round = store.send_round(true);
        assert!(matches!(round, Err(Error::NodeSetting { .. })), "{round:?}");
        assert!(!store.is_in_flight() && store.inner.owed.has_collected());
    }
}
