//! The receipt of a change: it waits for the proofs of the connections over which its parts were sent.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use super::answer::error_of;
use super::proof::{Failed, Needs, Sent, State};
use crate::commit::{Polled, Proof};
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
}

impl Proven {
    pub(super) fn new(needs: Arc<Needs>, parts: Vec<Sent>) -> Self {
        Self { needs, parts }
    }

    fn check_fork(&self) -> Result<()> {
        if fork::is_child() { Err(Error::Forked { path: self.needs.name.clone().into() }) } else { Ok(()) }
    }

    fn check(&self) -> Result<()> {
        self.check_fork()?;
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
        let failed = state.failed.as_ref().filter(|_| asked.is_some());
        let failed = failed.filter(|failed| Some(failed.attempt) > asked && failed.batch >= part.batch)?;
        Some(Err(match failed {
            Failed { refused: Some(error), .. } => Error::Refused { node: node(), source: error_of(error) },
            Failed { wanted, got, .. } => Error::NotReplicated { node: node(), wanted: *wanted, got: *got },
        }))
    }

    /// Asks for the proof of one part after the other, each as its turn comes: what was tried before says nothing.
    fn poll_parts(&self, aim: Aim, asked: &mut Vec<u64>, context: &Context<'_>) -> Poll<Result<()>> {
        for (place, part) in self.parts.iter().enumerate() {
            let waker = context.waker().clone();
            let mut state = part.link.state.lock();
            if asked.len() <= place {
                asked.push(state.attempts);
            }
            match Self::outcome(part, &state, aim, asked.get(place).copied()) {
                Some(outcome) => outcome?,
                None => {
                    if !state.waiting.iter().any(|there| there.will_wake(&waker)) {
                        state.waiting.push(waker);
                    }
                    let is_news = Self::want(&mut state, aim);
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

    fn poll(&self, polled: &mut Polled, context: &mut Context<'_>) -> Poll<Result<()>> {
        self.check()?;
        let outcome = self.poll_parts(Aim::Durable, &mut polled.0, context);
        if outcome.is_ready() {
            // The next wait begins with new attempts.
            polled.0.clear();
        }
        outcome
    }

    fn poll_replicated(&self, polled: &mut Polled, context: &mut Context<'_>) -> Poll<Result<()>> {
        self.check_fork()?;
        self.poll_parts(Aim::Replicated, &mut polled.0, context)
    }

    fn wait_replicated(&self) -> Result<()> {
        self.check_fork()?;
        self.wait_for(Aim::Replicated, None).map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future as _;
    use std::pin::pin;
    use std::sync::Weak;
    use std::task::Waker;

    use super::super::proof::{Link, Nobody, Way};
    use super::*;
    use crate::commit::Receipt;

    /// A receipt of a change at two nodes, and the connections to them.
    fn of_two() -> (Receipt, [Arc<Link>; 2]) {
        let needs = Arc::new(Needs::new("t".into(), true, 1));
        let way: Weak<dyn Way> = Weak::<Nobody>::new();
        let links = ["a:1", "b:1"].map(|node| Arc::new(Link::new(node.into(), way.clone(), &needs)));
        let parts = links.each_ref().map(|link| Sent { link: Arc::clone(link), batch: 1 });
        (Receipt::other(Arc::new(Proven::new(needs, parts.into()))), links)
    }

    /// What was asked for of a connection, and so many replicas have all.
    fn prove(link: &Link, got: u64) {
        let attempt = link.begin_proof(1, || 1).expect("a proof is asked for");
        let synced = attempt.syncs.then_some((Some(1), Some(got)));
        link.end_proof(&attempt, link.node(), Some(got), synced);
    }

    fn poll(receipt: &mut Receipt) -> Poll<Result<()>> {
        pin!(receipt).poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn a_proof_that_failed_before_it_was_asked_for_fails_no_receipt() {
        let (mut receipt, [first, second]) = of_two();
        assert!(poll(&mut receipt).is_pending());
        // Of the second one no more is asked than what is asked aside.
        second.ask_soon();
        prove(&second, 0);
        prove(&first, 1);
        assert!(poll(&mut receipt).is_pending());
        prove(&second, 1);
        assert!(matches!(poll(&mut receipt), Poll::Ready(Ok(()))));
    }

    #[test]
    fn a_receipt_that_failed_asks_anew_and_so_does_its_clone() {
        let (mut receipt, [first, second]) = of_two();
        assert!(poll(&mut receipt).is_pending());
        let mut clone = receipt.clone();
        prove(&first, 0);
        let failed = poll(&mut receipt);
        assert!(matches!(failed, Poll::Ready(Err(Error::NotReplicated { got: 0, .. }))), "{failed:?}");
        assert!(poll(&mut clone).is_pending() && poll(&mut receipt).is_pending());
        prove(&first, 1);
        assert!(poll(&mut receipt).is_pending() && poll(&mut clone).is_pending());
        prove(&second, 1);
        assert!(matches!((poll(&mut receipt), poll(&mut clone)), (Poll::Ready(Ok(())), Poll::Ready(Ok(())))));
    }
}
