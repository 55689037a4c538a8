//! What is known of what went over a connection: how far it is durable.
//!
//! `WAIT` and `WAITAOF` speak of the last write of their own connection, and of all that its node had before. So a receipt
//! belongs to a connection, and where that broke before its proof nobody can tell any more: the receipt fails, and never says
//! that it was kept. Where a request found nothing to change, [`pipeline`](super::pipeline) writes something first.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, RwLock};
use redis::RedisError;

use crate::commit::Proof;
use crate::error::{Error, Result};
use crate::fork;

/// How often a proof is asked for that nobody waits for.
const ASIDE: Duration = Duration::from_millis(200);
/// The same after many that failed.
const ASIDE_LATE: Duration = Duration::from_secs(16);

/// What a proof needs: set by the options, and by what the map knows of each primary.
#[derive(Debug)]
pub(super) struct Needs {
    pub(super) name: String,
    /// Syncs are asked for; in the relaxed mode they are not.
    pub(super) syncs: bool,
    /// The fewest replicas that have to have a change.
    pub(super) replicas: u64,
    /// How many each primary has.
    known: RwLock<Vec<(String, u64)>>,
}

impl Needs {
    pub(super) fn new(name: String, syncs: bool, replicas: u64) -> Self {
        Self { name, syncs, replicas, known: RwLock::default() }
    }

    pub(super) fn set(&self, known: Vec<(String, u64)>) {
        *self.known.write() = known;
    }

    /// Notes how many a node has that is not in the map yet.
    pub(super) fn add(&self, node: &str, replicas: u64) {
        let mut known = self.known.write();
        known.retain(|(name, _)| name != node);
        known.push((node.to_owned(), replicas));
    }

    /// All that the primary has, and no fewer than there have to be.
    pub(super) fn of(&self, node: &str) -> u64 {
        let known = self.known.read();
        let of_node = known.iter().find(|(name, _)| name == node).map_or(0, |(_, replicas)| *replicas);
        of_node.max(self.replicas)
    }
}

/// Whether the node itself has synced, and how many replicas.
pub(super) type Synced = (Option<u64>, Option<u64>);

/// An attempt to prove all up to a batch.
#[derive(Debug)]
pub(super) struct Attempt {
    number: u64,
    batch: u64,
    pub(super) replicas: u64,
    pub(super) syncs: bool,
    /// Nobody waits for it, so it holds up the rest for a moment only.
    pub(super) is_aside: bool,
}

/// What proves that a change is kept.
pub(super) trait Way: Send + Sync {
    /// Asks for a proof, and waits for nothing.
    fn kick(&self);
    /// Gets one on this thread, unless another thread is at it.
    fn drive(&self);
}

/// Where a request was sent, so that its receipt can be told.
#[derive(Debug, Clone)]
pub(super) struct Sent {
    pub(super) link: Arc<Link>,
    pub(super) batch: u64,
}

/// A connection.
pub(super) struct Link {
    node: String,
    way: Weak<dyn Way>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Somebody waits for syncs, or for replicas.
    wants_sync: bool,
    wants_replicas: bool,
    /// Nobody waits, but it is wanted some time that replicas have all.
    wants_aside: bool,
    aside: Aside,
    attempts: u64,
    /// The last batch that changed something that a caller was told of.
    changed: u64,
    durable: u64,
    replicated: u64,
    failed: Option<Failed>,
    lost: Option<Arc<str>>,
    wakers: Vec<Waker>,
}

/// When a proof was wanted that nobody waits for, and how long not to want another one.
#[derive(Debug, Default)]
struct Aside {
    at: Option<Instant>,
    pause: Duration,
}

#[derive(Debug, Clone, Copy)]
struct Failed {
    attempt: u64,
    batch: u64,
    wanted: u64,
    got: u64,
}

impl Sent {
    /// The replicas have it.
    pub(super) fn is_replicated(&self) -> bool {
        self.link.state.lock().replicated >= self.batch
    }
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").field("node", &self.node).finish_non_exhaustive()
    }
}

impl Link {
    pub(super) fn new(node: String, way: Weak<dyn Way>) -> Self {
        Self { node, way, state: Mutex::default(), changed: Condvar::new() }
    }

    pub(super) fn node(&self) -> &str {
        &self.node
    }

    pub(super) fn is_lost(&self) -> bool {
        self.state.lock().lost.is_some()
    }

    /// Asks the replicas for what was sent, and waits for nothing. Not again at once, and ever more seldom while they do not
    /// acknowledge: each time holds up what else goes over this connection.
    pub(super) fn ask_soon(&self) {
        let mut state = self.state.lock();
        let is_failing = state.failed.is_some_and(|failed| failed.attempt == state.attempts);
        let Aside { at, pause } = &mut state.aside;
        if at.is_some_and(|at| at.elapsed() < *pause) {
            return;
        }
        *pause = if is_failing { (*pause * 2).min(ASIDE_LATE) } else { ASIDE };
        *at = Some(Instant::now());
        state.wants_aside = true;
        drop(state);
        if let Some(way) = self.way.upgrade() {
            way.kick();
        }
    }

    /// Begins an attempt, if somebody waits for one.
    pub(super) fn begin_proof(&self, batch: u64, replicas: impl FnOnce() -> u64) -> Option<Attempt> {
        let mut state = self.state.lock();
        let (syncs, is_awaited) = (state.wants_sync, state.wants_sync || state.wants_replicas);
        let is_wanted = is_awaited || state.wants_aside;
        (state.wants_sync, state.wants_replicas, state.wants_aside) = (false, false, false);
        if !is_wanted {
            return None;
        }
        state.attempts += 1;
        let number = state.attempts;
        drop(state);
        Some(Attempt { number, batch, replicas: replicas(), syncs, is_aside: !is_awaited })
    }

    /// Ends it: how many replicas have it, and how many have synced it, this node's own sync before. Returns whether that
    /// is enough.
    pub(super) fn end_proof(
        &self,
        attempt: &Attempt,
        node: &str,
        replicated: Option<u64>,
        synced: Option<Synced>,
    ) -> bool {
        let wanted = attempt.replicas;
        let mut state = self.state.lock();
        let has_replicas = replicated.is_some_and(|got| got >= wanted);
        if has_replicas {
            state.replicated = state.replicated.max(attempt.batch);
        }
        let got = match synced {
            None => replicated.unwrap_or(0),
            Some((own, others)) => {
                let others = others.unwrap_or(0).min(replicated.unwrap_or(0));
                if own.is_some_and(|own| own >= 1) && others >= wanted && has_replicas {
                    state.durable = state.durable.max(attempt.batch);
                }
                others
            }
        };
        let is_enough = if attempt.syncs { state.durable >= attempt.batch } else { has_replicas };
        if !is_enough {
            tracing::debug!(node, wanted, got, "a change is not on as many nodes as it has to be");
            state.failed = Some(Failed { attempt: attempt.number, batch: attempt.batch, wanted, got });
        }
        self.tell(state);
        is_enough
    }

    /// A batch changed something that a caller was told of.
    pub(super) fn note_change(&self, batch: u64) {
        self.state.lock().changed = batch;
    }

    /// The connection is gone.
    pub(super) fn lose(&self, error: &RedisError) {
        let mut state = self.state.lock();
        state.lost = Some(error.to_string().into());
        self.tell(state);
    }

    fn tell(&self, mut state: parking_lot::MutexGuard<'_, State>) {
        let wakers = std::mem::take(&mut state.wakers);
        self.changed.notify_all();
        drop(state);
        for waker in wakers {
            if catch_unwind(AssertUnwindSafe(|| waker.wake())).is_err() {
                tracing::warn!("a waker panicked");
            }
        }
    }
}

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Aim {
    Durable,
    Replicated,
}

/// The receipt of a change: where its parts were sent.
#[derive(Debug)]
pub(super) struct Proven {
    needs: Arc<Needs>,
    parts: Vec<Sent>,
    /// The attempts that had begun when the receipt was first polled.
    polled: Mutex<Option<Vec<u64>>>,
}

impl Proven {
    pub(super) fn new(needs: Arc<Needs>, parts: Vec<Sent>) -> Self {
        Self { needs, parts, polled: Mutex::default() }
    }

    fn check(&self) -> Result<()> {
        if fork::is_child() {
            return Err(Error::Forked { path: self.needs.name.clone().into() });
        }
        match self.needs.syncs {
            true => Ok(()),
            false => Err(Error::Relaxed { name: self.needs.name.clone() }),
        }
    }

    /// The outcome of a part, as far as attempts that began after `asked` tell.
    fn outcome(part: &Sent, state: &State, aim: Aim, asked: Option<u64>) -> Option<Result<()>> {
        let reached = if aim == Aim::Durable { state.durable } else { state.replicated };
        if reached >= part.batch {
            return Some(Ok(()));
        }
        let node = || part.link.node.clone();
        if let Some(lost) = &state.lost {
            return Some(Err(Error::Uncertain { node: node(), source: lost.as_ref().into() }));
        }
        let failed = state.failed.filter(|failed| Some(failed.attempt) > asked && failed.batch >= part.batch);
        let Failed { wanted, got, .. } = failed.filter(|_| asked.is_some())?;
        Some(Err(Error::NotReplicated { node: node(), wanted, got }))
    }

    /// Notes that a proof is wanted. Whether that is news, and the lane has to hear of it.
    fn want(state: &mut State, aim: Aim) -> bool {
        let wanted = if aim == Aim::Durable { &mut state.wants_sync } else { &mut state.wants_replicas };
        !std::mem::replace(wanted, true)
    }

    fn wait_for(&self, aim: Aim, deadline: Option<Instant>) -> Result<bool> {
        for part in &self.parts {
            let mut state = part.link.state.lock();
            let asked = state.attempts;
            loop {
                if let Some(outcome) = Self::outcome(part, &state, aim, Some(asked)) {
                    outcome?;
                    break;
                }
                if Self::want(&mut state, aim) {
                    drop(state);
                    if let Some(way) = part.link.way.upgrade() {
                        // A pipeline takes as long as it takes: a caller that has not the time leaves it to others.
                        if deadline.is_none() { way.drive() } else { way.kick() }
                    }
                    state = part.link.state.lock();
                    if let Some(outcome) = Self::outcome(part, &state, aim, Some(asked)) {
                        outcome?;
                        break;
                    }
                }
                match deadline {
                    None => part.link.changed.wait(&mut state),
                    Some(deadline) => {
                        if part.link.changed.wait_until(&mut state, deadline).timed_out() {
                            return Ok(false);
                        }
                    }
                }
            }
        }
        Ok(true)
    }
}

impl Proof for Proven {
    fn commit(&self) -> u64 {
        self.parts.iter().map(|part| part.batch).max().unwrap_or(0)
    }

    fn is_durable(&self) -> Result<bool> {
        if !self.needs.syncs {
            return Ok(false);
        }
        self.check()?;
        for part in &self.parts {
            match Self::outcome(part, &part.link.state.lock(), Aim::Durable, None) {
                None => return Ok(false),
                Some(outcome) => outcome?,
            }
        }
        Ok(true)
    }

    fn wait_until(&self, deadline: Option<Instant>) -> Result<bool> {
        self.check()?;
        self.wait_for(Aim::Durable, deadline)
    }

    fn poll(&self, context: &mut Context<'_>) -> Poll<Result<()>> {
        if let Err(error) = self.check() {
            return Poll::Ready(Err(error));
        }
        let mut polled = self.polled.lock();
        let asked = polled
            .get_or_insert_with(|| self.parts.iter().map(|part| part.link.state.lock().attempts).collect())
            .clone();
        for (part, asked) in self.parts.iter().zip(asked) {
            let waker = context.waker().clone();
            let mut state = part.link.state.lock();
            match Self::outcome(part, &state, Aim::Durable, Some(asked)) {
                Some(Ok(())) => {}
                Some(Err(error)) => return Poll::Ready(Err(error)),
                None => {
                    if !state.wakers.iter().any(|there| there.will_wake(&waker)) {
                        state.wakers.push(waker);
                    }
                    let is_news = Self::want(&mut state, Aim::Durable);
                    drop(state);
                    if let Some(way) = part.link.way.upgrade().filter(|_| is_news) {
                        way.kick();
                    }
                    return Poll::Pending;
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    fn wait_replicated(&self) -> Result<()> {
        if fork::is_child() {
            return Err(Error::Forked { path: self.needs.name.clone().into() });
        }
        self.wait_for(Aim::Replicated, None).map(|_| ())
    }
}
