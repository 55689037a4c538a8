//! What a caller of a lane waits for: its answers, or its turn to lead.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use parking_lot::{Condvar, Mutex};
use redis::{RedisError, ServerError, ServerErrorKind, Value};

use super::proof::Sent;
use super::value::{at, list};
use crate::commit::Wakers;
use crate::fork;

/// What a request is: it decides over which way it goes, and what its answer tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// It goes another way, so that no proof stands in it.
    Read,
    /// A request that may write, and tells no caller of a change.
    Write,
    /// A step before or after a change. Its answer is 1 only where it has written.
    Step,
    /// A change. Its caller learns whether it was made.
    Change,
    /// The same, and its first answer begins with 1 only where it has written.
    Told,
    /// It moves a time on, and tells of that as `Told` does.
    Touch,
}

impl Kind {
    /// Whether the answers prove that it has written. Where they do not, nobody knows.
    pub(super) fn has_written(self, values: &[Value]) -> bool {
        let first = at(values, 0);
        matches!(self, Self::Step | Self::Told | Self::Touch) && *list(first).first().unwrap_or(first) == Value::Int(1)
    }

    /// Whether its caller learns of a change.
    pub(super) fn is_change(self) -> bool {
        matches!(self, Self::Change | Self::Told | Self::Touch)
    }
}

#[derive(Debug)]
pub(super) struct Answered {
    pub(super) values: std::result::Result<Vec<Value>, Trouble>,
    pub(super) sent: Option<Sent>,
}

/// Why there are no answers.
#[derive(Debug)]
pub(super) enum Trouble {
    /// Nothing was sent.
    Unsent(RedisError),
    /// The connection broke after the request was sent: it may have been carried out.
    Broken(RedisError),
    /// The server says no. Nothing was done.
    Server(ServerError),
}

/// What a caller waits for.
#[derive(Debug)]
pub(super) enum Turn {
    /// It is to lead: its request is among those that wait.
    Leads,
    Done(Answered),
}

#[derive(Debug, Default)]
pub(super) struct Slot {
    held: Mutex<Held>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Held {
    turn: Option<Turn>,
    /// That of a future.
    waker: Option<Waker>,
}

impl Slot {
    pub(super) fn wait(&self) -> Turn {
        let mut held = self.held.lock();
        loop {
            match held.turn.take() {
                Some(turn) => return turn,
                None => self.changed.wait(&mut held),
            }
        }
    }

    pub(super) fn look(&self) -> Option<Turn> {
        self.held.lock().turn.take()
    }

    /// The same for a future, which is woken once there is something.
    pub(super) fn poll(&self, context: &Context<'_>) -> Poll<Turn> {
        let mut held = self.held.lock();
        if let Some(turn) = held.turn.take() {
            return Poll::Ready(turn);
        }
        if !held.waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
            held.waker = Some(context.waker().clone());
        }
        Poll::Pending
    }

    /// Returns the waker that is to be called.
    fn set(&self, to: Turn) -> Option<Waker> {
        let mut held = self.held.lock();
        held.turn = Some(to);
        let waker = held.waker.take();
        self.changed.notify_one();
        waker
    }
}

/// Answers a request once. One that is dropped says that the lane has ended.
#[derive(Debug)]
pub(super) struct Answer(Option<(Arc<Slot>, Arc<Wakers>)>);

impl Answer {
    pub(super) fn to(slot: &Arc<Slot>, wakers: &Arc<Wakers>) -> Self {
        Self(Some((Arc::clone(slot), Arc::clone(wakers))))
    }

    /// Whether somebody waits for it, or may.
    pub(super) fn is_wanted(&self) -> bool {
        self.0.as_ref().is_some_and(|(slot, _)| Arc::strong_count(slot) > 1)
    }

    /// Returns the waker that is to be called, which may do anything: a thread that leads a lane does not.
    #[must_use]
    pub(super) fn give(mut self, answered: Answered) -> Option<Waker> {
        self.0.take().and_then(|(slot, _)| slot.set(Turn::Done(answered)))
    }

    pub(super) fn lead(&self) {
        if let Some((slot, _)) = &self.0 {
            // A future is not made to lead, and so none is woken.
            slot.set(Turn::Leads);
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        let Some((slot, wakers)) = self.0.take() else { return };
        let waker = slot.set(Turn::Done(Answered { values: Err(Trouble::Unsent(ended())), sent: None }));
        if waker.is_some() && !fork::is_child() {
            wakers.call(waker.into_iter().collect());
        }
    }
}

/// What a node answers while a script of somebody else runs for long.
pub(super) const BUSY: &str = "BUSY";

/// Whether a node says no for a reason that does not go away by itself.
pub(super) fn is_refusal(error: &ServerError) -> bool {
    let codes = ["OOM", "MISCONF", "NOREPLICAS", "NOAUTH", "WRONGPASS"];
    error.kind() == Some(ServerErrorKind::NoPerm) || codes.contains(&error.code())
}

pub(super) fn error_of(error: &ServerError) -> Box<dyn std::error::Error + Send + Sync> {
    // A node that does not know a command repeats what came with it, and so keys.
    if let Some((told, _)) = error.details().and_then(|details| details.split_once(", with args")) {
        return format!("{}: {told}", error.code()).into();
    }
    RedisError::from(error.clone()).into()
}

pub(super) fn ended() -> RedisError {
    std::io::Error::new(std::io::ErrorKind::NotConnected, "the lane has ended").into()
}
