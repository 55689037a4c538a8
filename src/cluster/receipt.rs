//! The receipt of a change: it waits for the proofs of the connections over which its parts were sent.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use parking_lot::Mutex;

use super::proof::{Failed, Needs, Sent, State};
use crate::commit::Proof;
use crate::error::{Error, Result};
use crate::fork;

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
            return Some(Err(Error::Uncertain { node: node(), made: true, source: lost.as_ref().into() }));
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
        let asked = self
            .polled
            .lock()
            .get_or_insert_with(|| self.parts.iter().map(|part| part.link.state.lock().attempts).collect())
            .clone();
        for (part, asked) in self.parts.iter().zip(asked) {
            let waker = context.waker().clone();
            let mut state = part.link.state.lock();
            match Self::outcome(part, &state, Aim::Durable, Some(asked)) {
                Some(Ok(())) => {}
                Some(Err(error)) => return Poll::Ready(Err(error)),
                None => {
                    if !state.waiting.iter().any(|there| there.will_wake(&waker)) {
                        state.waiting.push(waker);
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
