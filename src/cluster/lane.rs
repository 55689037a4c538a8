//! A lane: the connection over which everything goes to one node.
//!
//! Whoever finds nobody at work on it takes the lead: it takes all that waits, writes it as one pipeline, reads all answers
//! and wakes everybody. While one pipeline is in flight the next one fills, and the first of those that wait leads that. So a
//! caller that is alone sends and reads itself, and no other thread stands between it and the node. A thread of the lane's own
//! leads where nobody waits: for requests that are sent and waited for later, and for tasks.
//!
//! Where somebody waits for a receipt, `WAIT` and then `WAITAOF` end the pipeline, and all that wait share them: `WAITAOF`
//! alone takes a second with replicas, for one that gets a write and the request for its acknowledgement in one read answers
//! before it has synced.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use redis::{Cmd, Connection, ConnectionLike as _, RedisError, ServerError, Value};

use super::clock::ServerClock;
use super::proof::{Link, Needs, Sent, Way};
use super::value::{at, int, list};
use super::wire::Wire;
use crate::error::{Error, Result};

/// What goes in one pipeline, at most.
const MAX_COMMANDS: usize = 1024;
const MAX_BYTES: usize = 256 << 10;
/// How long an answer may take, but for what it waits for replicas. A node that is paused is asked elsewhere then.
const ANSWER: Duration = Duration::from_secs(2);
/// How long replicas may take to acknowledge.
const ACKNOWLEDGE: Duration = Duration::from_secs(1);
/// The same after one did not, so that a replica that is gone does not hold up the rest.
const ACKNOWLEDGE_LATE: Duration = Duration::from_millis(50);
/// How often the server is asked for the time.
const TIME: Duration = Duration::from_secs(1);

/// Commands that belong together: several of them are one transaction.
#[derive(Debug)]
struct Request {
    commands: Vec<Cmd>,
    asking: bool,
    answer: Answer,
    /// Its caller waits, and may lead.
    leads: bool,
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

/// One node's lane.
#[derive(Debug)]
pub(super) struct Lane {
    shared: Arc<Shared>,
}

impl Lane {
    pub(super) fn start(node: String, wire: Wire, needs: Arc<Needs>, clock: Arc<ServerClock>) -> Result<Self> {
        let shared = Arc::new_cyclic(|lane: &Weak<Shared>| {
            let lane = Weak::clone(lane);
            let (open, batches, is_late, timed) = (None, 0, false, None);
            let running = Running { node: node.clone(), wire, needs, clock, lane, open, batches, is_late, timed };
            Shared { node, line: Mutex::default(), work: Condvar::new(), running: Mutex::new(running) }
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

    /// Sends the commands, and waits for their answers.
    pub(super) fn run(&self, commands: Vec<Cmd>, asking: bool) -> Answered {
        let slot = Arc::new(Slot::default());
        let mut line = self.shared.line.lock();
        line.waiting.push_back(Request { commands, asking, answer: Answer(Some(Arc::clone(&slot))), leads: true });
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

    /// Sends the commands.
    pub(super) fn send(&self, commands: Vec<Cmd>, asking: bool) -> Waiting {
        let slot = Arc::new(Slot::default());
        let mut line = self.shared.line.lock();
        line.waiting.push_back(Request { commands, asking, answer: Answer(Some(Arc::clone(&slot))), leads: false });
        if !line.is_led {
            self.shared.work.notify_one();
        }
        Waiting(slot)
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
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
pub(super) struct Waiting(Arc<Slot>);

impl Waiting {
    pub(super) fn wait(self) -> Answered {
        loop {
            // Nobody makes one lead that was only sent.
            if let Turn::Done(answered) = self.0.wait() {
                return answered;
            }
        }
    }
}

/// What a caller waits for.
#[derive(Debug)]
enum Turn {
    /// It is to lead: its request is among those that wait.
    Leads,
    Done(Answered),
}

#[derive(Debug, Default)]
struct Slot {
    turn: Mutex<Option<Turn>>,
    changed: Condvar,
}

impl Slot {
    fn wait(&self) -> Turn {
        let mut turn = self.turn.lock();
        loop {
            match turn.take() {
                Some(turn) => return turn,
                None => self.changed.wait(&mut turn),
            }
        }
    }

    fn set(&self, to: Turn) {
        *self.turn.lock() = Some(to);
        self.changed.notify_one();
    }
}

/// Answers a request once. One that is dropped says that the lane has ended.
#[derive(Debug)]
struct Answer(Option<Arc<Slot>>);

impl Answer {
    fn give(mut self, answered: Answered) {
        if let Some(slot) = self.0.take() {
            slot.set(Turn::Done(answered));
        }
    }

    fn lead(&self) {
        if let Some(slot) = &self.0 {
            slot.set(Turn::Leads);
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if let Some(slot) = self.0.take() {
            slot.set(Turn::Done(Answered { values: Err(Trouble::Unsent(ended())), sent: None }));
        }
    }
}

fn ended() -> RedisError {
    std::io::Error::new(std::io::ErrorKind::NotConnected, "the lane has ended").into()
}

/// What waits, and who is at work on it.
#[derive(Debug, Default)]
struct Line {
    waiting: VecDeque<Request>,
    /// Somebody leads. Only then may requests be taken.
    is_led: bool,
    /// Somebody waits for a receipt.
    is_kicked: bool,
    has_ended: bool,
}

#[derive(Debug)]
struct Shared {
    node: String,
    line: Mutex<Line>,
    /// Wakes the lane's own thread.
    work: Condvar,
    running: Mutex<Running>,
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
        let (mut requests, mut count) = (Vec::new(), 0);
        {
            let mut line = self.line.lock();
            line.is_kicked = false;
            while count < MAX_COMMANDS
                && let Some(request) = line.waiting.pop_front()
            {
                count += request.commands.len() + 2;
                requests.push(request);
            }
        }
        let answers = self.running.lock().one(requests, count);
        // The next one begins before these wake.
        drop(lead);
        for (answer, answered) in answers {
            answer.give(answered);
        }
    }
}

/// Whoever has it leads. When it is dropped the first of those that wait has it, or nobody.
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

/// An open connection, and what is known of what went over it.
struct Open {
    connection: Connection,
    link: Arc<Link>,
}

impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Running").field("node", &self.node).finish_non_exhaustive()
    }
}

struct Running {
    node: String,
    wire: Wire,
    needs: Arc<Needs>,
    clock: Arc<ServerClock>,
    lane: Weak<Shared>,
    open: Option<Open>,
    batches: u64,
    /// The replicas did not acknowledge the last time.
    is_late: bool,
    timed: Option<Instant>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}

/// Requests, and what came of them.
type Answers = Vec<(Answer, Answered)>;

/// The same for all of them.
fn all(requests: Vec<Request>, trouble: impl Fn() -> Trouble) -> Answers {
    let answered = || Answered { values: Err(trouble()), sent: None };
    requests.into_iter().map(|request| (request.answer, answered())).collect()
}

impl Running {
    fn end(&mut self) {
        if let Some(open) = self.open.take() {
            open.link.lose(&ended());
        }
    }

    /// One pipeline.
    fn one(&mut self, requests: Vec<Request>, count: usize) -> Answers {
        if requests.is_empty() && self.open.is_none() {
            return Vec::new();
        }
        if let Err(error) = self.connect() {
            return all(requests, || Trouble::Unsent(error.clone()));
        }
        let Some(Open { connection, link }) = &mut self.open else { return Vec::new() };
        let mut bytes = Vec::with_capacity((count * 64).min(MAX_BYTES));
        let mut replies = 0;
        let asks_time = self.timed.is_none_or(|at| at.elapsed() > TIME);
        if asks_time {
            redis::cmd("TIME").write_packed_command(&mut bytes);
            replies += 1;
        }
        // Before the first one: where each request's answers begin, and how many there are.
        let mut places = Vec::with_capacity(requests.len());
        for request in &requests {
            let begin = replies;
            let is_transaction = request.commands.len() > 1;
            if request.asking {
                redis::cmd("ASKING").write_packed_command(&mut bytes);
                replies += 1;
            }
            if is_transaction {
                redis::cmd("MULTI").write_packed_command(&mut bytes);
                replies += 1;
            }
            for command in &request.commands {
                command.write_packed_command(&mut bytes);
                replies += 1;
            }
            if is_transaction {
                redis::cmd("EXEC").write_packed_command(&mut bytes);
                replies += 1;
            }
            places.push((begin, replies, is_transaction));
        }
        if !requests.is_empty() {
            self.batches += 1;
        }
        let batch = self.batches;
        let proof = link.begin_proof(batch, || self.needs.of(&self.node));
        if let Some(proof) = &proof {
            let time = if self.is_late { ACKNOWLEDGE_LATE } else { ACKNOWLEDGE };
            let time = u64::try_from(time.as_millis()).unwrap_or(1);
            if proof.replicas > 0 {
                redis::cmd("WAIT").arg(proof.replicas).arg(time).write_packed_command(&mut bytes);
                replies += 1;
            }
            if proof.syncs {
                // The one before the slash is this node's own.
                redis::cmd("WAITAOF").arg(1).arg(proof.replicas).arg(time).write_packed_command(&mut bytes);
                replies += 1;
            }
        }
        if replies == 0 {
            // No replica is asked, and no sync: what was answered is all there is to prove.
            if let Some(proof) = proof {
                link.end_proof(&proof, &self.node, Some(0), None);
            }
            return Vec::new();
        }
        let began = Instant::now();
        let answers = match ask(connection, &bytes, replies) {
            Ok(answers) => answers,
            Err(error) => {
                tracing::debug!(node = self.node, %error, "a connection broke");
                link.lose(&error);
                self.open = None;
                return all(requests, || Trouble::Broken(error.clone()));
            }
        };
        if asks_time {
            self.timed = Some(began);
            self.clock.told(&self.node, began, list(at(&answers, 0)));
        }
        let sent = Sent { link: Arc::clone(link), batch };
        if let Some(proof) = proof {
            let waits = usize::from(proof.replicas > 0);
            let first = replies - waits - usize::from(proof.syncs);
            let replicated = if waits > 0 { count_of(at(&answers, first)) } else { Some(0) };
            let synced = proof.syncs.then(|| {
                let both = list(at(&answers, first + waits));
                (count_of(at(both, 0)), count_of(at(both, 1)))
            });
            self.is_late = !link.end_proof(&proof, &self.node, replicated, synced);
        }
        let unpacked = |(request, (begin, end, is_transaction)): (Request, (usize, usize, bool))| {
            let own = answers.get(begin..end).unwrap_or_default();
            (request.answer, Answered { values: unpack(own, is_transaction), sent: Some(sent.clone()) })
        };
        requests.into_iter().zip(places).map(unpacked).collect()
    }

    fn connect(&mut self) -> std::result::Result<(), RedisError> {
        if self.open.as_ref().is_some_and(|open| open.connection.is_open()) {
            return Ok(());
        }
        let connection = self.wire.connect(&self.node)?;
        connection.set_read_timeout(Some(ANSWER + ACKNOWLEDGE * 2))?;
        connection.set_write_timeout(Some(ANSWER))?;
        self.open = Some(Open { connection, link: Arc::new(Link::new(self.node.clone(), self.lane.clone())) });
        Ok(())
    }
}

/// The answers to a pipeline. The first one that does not come ends it: to wait for each of them in turn would take a node
/// that is silent for so much longer than [`ANSWER`].
fn ask(connection: &mut Connection, bytes: &[u8], replies: usize) -> std::result::Result<Vec<Value>, RedisError> {
    connection.send_packed_command(bytes)?;
    (0..replies).map(|_| connection.recv_response()).collect()
}

fn count_of(value: &Value) -> Option<u64> {
    int(value).and_then(|count| u64::try_from(count).ok())
}

/// The answers to a request's commands.
fn unpack(own: &[Value], is_transaction: bool) -> std::result::Result<Vec<Value>, Trouble> {
    // The reason why a transaction was not carried out comes before the answer that says so.
    if let Some(Value::ServerError(error)) = own.iter().find(|value| matches!(value, Value::ServerError(_))) {
        return Err(Trouble::Server(error.clone()));
    }
    if !is_transaction {
        return Ok(own.last().cloned().into_iter().collect());
    }
    let values = list(own.last().unwrap_or(&Value::Nil)).to_vec();
    match values.iter().find(|value| matches!(value, Value::ServerError(_))) {
        Some(Value::ServerError(error)) => Err(Trouble::Server(error.clone())),
        _ => Ok(values),
    }
}
