//! A lane: the connection over which everything goes to one node.
//!
//! Whoever finds nobody at work on it takes the lead: it takes all that waits, writes it as one pipeline, reads all answers
//! and wakes everybody. While one pipeline is in flight the next one fills, and the first of those that wait leads that. So a
//! caller that is alone sends and reads itself, and no other thread stands between it and the node. A thread of the lane's own
//! leads where nobody waits: for requests that are sent and waited for later, and for tasks.
//!
//! Where somebody waits for a receipt, `WAIT` and then `WAITAOF` end the pipeline, and all that wait share them: `WAITAOF`
//! alone takes a second with replicas, for one that gets a write and the request for its acknowledgement in one read answers
//! before it has synced. Both prove what this connection was the last to write, and nothing at all where it has written
//! nothing. So a small write comes before them, unless the answers that were read have told that the last request wrote.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};
use std::thread;

use parking_lot::{Condvar, Mutex};
use redis::{Arg, Cmd};

use super::answer::{Answer, Answered, Kind, Slot, Turn};
use super::caller::Caller;
use super::clock::ServerClock;
use super::pipeline::{Answers, MAX_BYTES, Request, Running};
use super::proof::{Needs, Way};
use super::wire::Wire;
use crate::commit::Wakers;
use crate::error::{Error, Result};
use crate::fork;

/// What goes in one pipeline, at most.
const MAX_COMMANDS: usize = 1024;

/// One node's lane.
#[derive(Debug)]
pub(super) struct Lane {
    shared: Arc<Shared>,
}

impl Lane {
    pub(super) fn start(node: String, wire: Wire, needs: Arc<Needs>, clock: Arc<ServerClock>) -> Result<Self> {
        let wakers = Arc::clone(needs.wakers());
        let shared = Arc::new_cyclic(|lane: &Weak<Shared>| {
            let lane: Weak<dyn Way> = lane.clone();
            let running = Running::new(node.clone(), wire, needs, clock, lane);
            Shared { node, line: Mutex::default(), work: Condvar::new(), running: Mutex::new(running), wakers }
        });
        let own = Arc::clone(&shared);
        thread::Builder::new()
            .name("cloakroom-lane".into())
            .spawn(move || own.serve())
            .map_err(|e| Error::io("start the lane of", &shared.node, e))?;
        Ok(Self { shared })
    }

    pub(super) fn node(&self) -> &str {
        &self.shared.node
    }

    /// Sends commands that only read, and waits for their answers.
    pub(super) fn run(&self, commands: Vec<Cmd>, asking: bool) -> Answered {
        self.run_as(Kind::Read, commands, asking)
    }

    /// Sends the commands, and waits for their answers as the caller may.
    pub(super) async fn ask(&self, caller: Caller, kind: Kind, commands: Vec<Cmd>, asking: bool) -> Answered {
        match caller {
            Caller::Blocks => self.run_as(kind, commands, asking),
            Caller::Awaits => self.send(kind, commands, asking).await,
        }
    }

    /// Sends the commands, and waits for their answers.
    pub(super) fn run_as(&self, kind: Kind, commands: Vec<Cmd>, asking: bool) -> Answered {
        let (slot, bytes) = (Arc::new(Slot::default()), bytes_of(&commands));
        let mut line = self.shared.line.lock();
        line.waiting.push_back(Request {
            commands,
            bytes,
            kind,
            asking,
            answer: Answer::to(&slot, &self.shared.wakers),
            leads: true,
        });
        let leads = !std::mem::replace(&mut line.is_led, true);
        drop(line);
        if leads {
            self.shared.lead();
        }
        loop {
            match slot.wait() {
                Turn::Leads => self.shared.lead(),
                Turn::Done(answered) => return answered,
            }
        }
    }

    /// Sends commands. Their answers may be waited for later.
    pub(super) fn send(&self, kind: Kind, commands: Vec<Cmd>, asking: bool) -> Waiting {
        let (slot, bytes) = (Arc::new(Slot::default()), bytes_of(&commands));
        let mut line = self.shared.line.lock();
        let answer = Answer::to(&slot, &self.shared.wakers);
        line.waiting.push_back(Request { commands, bytes, kind, asking, answer, leads: false });
        if !line.is_led {
            self.shared.work.notify_one();
        }
        Waiting(slot)
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        // A forked process has none of the threads, and may have the lock for ever.
        if fork::is_child() {
            return;
        }
        // It ends by itself once the node has answered; a node that is paused is not waited for.
        let mut line = self.shared.line.lock();
        line.has_ended = true;
        let waiting = std::mem::take(&mut line.waiting);
        self.shared.work.notify_one();
        drop(line);
        drop(waiting);
    }
}

/// An answer on its way.
#[derive(Debug)]
pub(super) struct Waiting(Arc<Slot>);

impl Waiting {
    /// The answer, if it is there.
    pub(super) fn look(self) -> std::result::Result<Answered, Self> {
        match self.0.look() {
            Some(Turn::Done(answered)) => Ok(answered),
            _ => Err(self),
        }
    }

    /// Waits for it as the caller may.
    pub(super) async fn answered(self, caller: Caller) -> Answered {
        match caller {
            Caller::Blocks => self.wait(),
            Caller::Awaits => self.await,
        }
    }

    pub(super) fn wait(self) -> Answered {
        loop {
            // Nobody makes one lead that was only sent.
            if let Turn::Done(answered) = self.0.wait() {
                return answered;
            }
        }
    }
}

impl Future for Waiting {
    type Output = Answered;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Answered> {
        loop {
            if let Turn::Done(answered) = ready!(self.0.poll(context)) {
                return Poll::Ready(answered);
            }
        }
    }
}

/// The requests that wait, and whether a thread leads.
#[derive(Debug, Default)]
struct Line {
    waiting: VecDeque<Request>,
    /// Somebody leads. Only then may requests be taken.
    is_led: bool,
    /// Somebody waits for a receipt.
    is_kicked: bool,
    has_ended: bool,
}

impl Line {
    /// What goes in the next pipeline, and how many commands about.
    fn take(&mut self) -> (Vec<Request>, usize) {
        self.is_kicked = false;
        let (mut requests, mut count, mut bytes) = (Vec::new(), 0, 0);
        while count < MAX_COMMANDS
            && self.waiting.front().is_some_and(|next| bytes == 0 || bytes + next.bytes <= MAX_BYTES)
            && let Some(request) = self.waiting.pop_front()
        {
            // Of a future that was dropped. Nothing was sent, and nothing is.
            if !request.answer.is_wanted() {
                continue;
            }
            count += request.commands.len() + 2;
            bytes += request.bytes;
            requests.push(request);
        }
        (requests, count)
    }
}

fn bytes_of(commands: &[Cmd]) -> usize {
    let length = |arg: Arg<&[u8]>| if let Arg::Simple(word) = arg { word.len() } else { 0 };
    commands.iter().flat_map(Cmd::args_iter).map(length).sum()
}

#[derive(Debug)]
struct Shared {
    node: String,
    line: Mutex<Line>,
    /// Wakes the lane's own thread.
    work: Condvar,
    running: Mutex<Running>,
    /// The threads that wake futures.
    wakers: Arc<Wakers>,
}

impl Shared {
    /// Leads where nobody else does, until the lane is dropped.
    fn serve(&self) {
        loop {
            let mut line = self.line.lock();
            while !line.has_ended && (line.is_led || (line.waiting.is_empty() && !line.is_kicked)) {
                self.work.wait(&mut line);
            }
            if line.has_ended {
                break;
            }
            line.is_led = true;
            drop(line);
            self.lead();
        }
        self.running.lock().end();
    }

    /// One pipeline of what waits. The caller has taken the lead.
    fn lead(&self) {
        let lead = Lead(self);
        let (requests, count) = self.line.lock().take();
        let answers = self.running.lock().one(requests, count, |answers| self.give(answers));
        // The next one begins before these wake.
        drop(lead);
        self.give(answers);
    }

    fn give(&self, answers: Answers) {
        let wakers: Vec<_> = answers.into_iter().filter_map(|(answer, answered)| answer.give(answered)).collect();
        if !wakers.is_empty() && !fork::is_child() {
            self.wakers.call(wakers);
        }
    }
}

/// The lead. Dropping it passes it to the first caller that waits, or gives it back.
struct Lead<'a>(&'a Shared);

impl Drop for Lead<'_> {
    fn drop(&mut self) {
        let mut line = self.0.line.lock();
        match line.waiting.front() {
            Some(request) if request.leads => request.answer.lead(),
            first => {
                let has_work = first.is_some() || line.is_kicked || line.has_ended;
                line.is_led = false;
                if has_work {
                    self.0.work.notify_one();
                }
            }
        }
    }
}

impl Way for Shared {
    fn kick(&self) {
        let mut line = self.line.lock();
        line.is_kicked = true;
        if !line.is_led {
            self.work.notify_one();
        }
    }

    fn drive(&self) {
        let mut line = self.line.lock();
        if line.has_ended {
            return;
        }
        if std::mem::replace(&mut line.is_led, true) {
            line.is_kicked = true;
            return;
        }
        drop(line);
        self.lead();
    }
}

#[cfg(test)]
mod tests;
