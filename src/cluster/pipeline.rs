//! A pipeline: requests that are written to a node together, and whose answers are read together.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use redis::{Cmd, Connection, ConnectionLike as _, RedisError, Value};

use super::answer::{Answer, Answered, Trouble, ended};
use super::clock::ServerClock;
use super::proof::{Link, Needs, Sent, Way};
use super::value::{at, int, list};
use super::wire::Wire;

/// What is set aside for the bytes of a pipeline before it is written, at most.
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
pub(super) struct Request {
    pub(super) commands: Vec<Cmd>,
    pub(super) asking: bool,
    pub(super) answer: Answer,
    /// Its caller waits, and may lead.
    pub(super) leads: bool,
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

pub(super) struct Running {
    node: String,
    wire: Wire,
    needs: Arc<Needs>,
    clock: Arc<ServerClock>,
    lane: Weak<dyn Way>,
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
pub(super) type Answers = Vec<(Answer, Answered)>;

/// The same for all of them.
fn all(requests: Vec<Request>, trouble: impl Fn() -> Trouble) -> Answers {
    let answered = || Answered { values: Err(trouble()), sent: None };
    requests.into_iter().map(|request| (request.answer, answered())).collect()
}

impl Running {
    /// Nothing is open yet.
    pub(super) fn new(
        node: String,
        wire: Wire,
        needs: Arc<Needs>,
        clock: Arc<ServerClock>,
        lane: Weak<dyn Way>,
    ) -> Self {
        Self { node, wire, needs, clock, lane, open: None, batches: 0, is_late: false, timed: None }
    }

    pub(super) fn end(&mut self) {
        if let Some(open) = self.open.take() {
            open.link.lose(&ended());
        }
    }

    /// One pipeline.
    pub(super) fn one(&mut self, requests: Vec<Request>, count: usize) -> Answers {
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
            let time = if self.is_late || proof.is_aside { ACKNOWLEDGE_LATE } else { ACKNOWLEDGE };
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
            let is_enough = link.end_proof(&proof, &self.node, replicated, synced);
            // In a moment they may just not have come to it.
            self.is_late = !is_enough && (self.is_late || !proof.is_aside);
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
