//! A lane: the thread and the connection over which everything goes to one node.
//!
//! It takes all that waits, writes it as one pipeline, reads all answers and wakes everybody. While one pipeline is in
//! flight the next one fills. Where somebody waits for a receipt, `WAIT` and then `WAITAOF` end the pipeline, and all that
//! wait share them: `WAITAOF` alone takes a second with replicas, for one that gets a write and the request for its
//! acknowledgement in one read answers before it has synced.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded, unbounded};
use redis::{Cmd, Connection, ConnectionLike as _, RedisError, ServerError, Value};

use super::clock::ServerClock;
use super::proof::{Kick, Link, Needs, Sent};
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

/// Something for a lane to do.
#[derive(Debug)]
enum Order {
    Run(Request),
    /// Somebody waits for a receipt.
    Kick,
    Stop,
}

/// Commands that belong together: several of them are one transaction.
#[derive(Debug)]
struct Request {
    commands: Vec<Cmd>,
    asking: bool,
    answer: Sender<Answered>,
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
    node: String,
    orders: Sender<Order>,
}

impl Lane {
    pub(super) fn start(node: String, wire: Wire, needs: Arc<Needs>, clock: Arc<ServerClock>) -> Result<Self> {
        let (orders, inbox) = unbounded();
        let to_itself = orders.clone();
        // A lane that has ended has told its receipts so.
        let kick: Kick = Arc::new(move || drop(to_itself.send(Order::Kick)));
        let mut running = Running {
            node: node.clone(),
            wire,
            needs,
            clock,
            kick,
            inbox,
            open: None,
            batches: 0,
            is_late: false,
            timed: None,
        };
        thread::Builder::new()
            .name("cloakroom-lane".into())
            .spawn(move || running.run())
            .map_err(|e| Error::io("start the lane of", &node, e))?;
        Ok(Self { node, orders })
    }

    pub(super) fn node(&self) -> &str {
        &self.node
    }

    /// Sends the commands, and waits for their answers.
    pub(super) fn run(&self, commands: Vec<Cmd>, asking: bool) -> Answered {
        self.send(commands, asking).wait()
    }

    /// Sends the commands.
    pub(super) fn send(&self, commands: Vec<Cmd>, asking: bool) -> Waiting {
        let (answer, answers) = bounded(1);
        // If it has ended, nobody answers.
        let _ = self.orders.send(Order::Run(Request { commands, asking, answer }));
        Waiting(answers)
    }
}

/// An answer on its way.
pub(super) struct Waiting(Receiver<Answered>);

impl Waiting {
    pub(super) fn wait(self) -> Answered {
        self.0.recv().unwrap_or_else(|_| Answered { values: Err(Trouble::Unsent(ended())), sent: None })
    }
}

fn ended() -> RedisError {
    std::io::Error::new(std::io::ErrorKind::NotConnected, "the lane has ended").into()
}

impl Drop for Lane {
    fn drop(&mut self) {
        // It ends by itself once the node has answered; a node that is paused is not waited for.
        let _ = self.orders.send(Order::Stop);
    }
}

/// An open connection, and what is known of what went over it.
struct Open {
    connection: Connection,
    link: Arc<Link>,
}

struct Running {
    node: String,
    wire: Wire,
    needs: Arc<Needs>,
    clock: Arc<ServerClock>,
    kick: Kick,
    inbox: Receiver<Order>,
    open: Option<Open>,
    batches: u64,
    /// The replicas did not acknowledge the last time.
    is_late: bool,
    timed: Option<Instant>,
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(open) = self.open.take() {
            open.link.lose(&ended());
        }
    }
}

impl Running {
    fn run(&mut self) {
        loop {
            let Ok(first) = self.inbox.recv() else { return };
            let (mut requests, mut count, mut stops) = (Vec::new(), 0, false);
            let mut next = Some(first);
            while let Some(order) = next {
                match order {
                    Order::Run(request) => {
                        count += request.commands.len() + 2;
                        requests.push(request);
                    }
                    Order::Kick => {}
                    Order::Stop => {
                        stops = true;
                        break;
                    }
                }
                next = match self.inbox.try_recv() {
                    Ok(order) if count < MAX_COMMANDS => Some(order),
                    Ok(order) => {
                        self.one(requests, count);
                        (requests, count) = (Vec::new(), 0);
                        Some(order)
                    }
                    Err(TryRecvError::Empty | TryRecvError::Disconnected) => None,
                };
            }
            self.one(requests, count);
            if stops {
                return;
            }
        }
    }

    /// One pipeline.
    fn one(&mut self, requests: Vec<Request>, count: usize) {
        if requests.is_empty() && self.open.is_none() {
            return;
        }
        if let Err(error) = self.connect() {
            for Request { answer, .. } in requests {
                let _ = answer.send(Answered { values: Err(Trouble::Unsent(error.clone())), sent: None });
            }
            return;
        }
        let Some(Open { connection, link }) = &mut self.open else { return };
        let mut bytes = Vec::with_capacity((count * 64).min(MAX_BYTES));
        let mut replies = 0;
        let asks_time = self.timed.is_none_or(|at| at.elapsed() > TIME);
        if asks_time {
            bytes.extend(redis::cmd("TIME").get_packed_command());
            replies += 1;
        }
        // Before the first one: where each request's answers begin, and how many there are.
        let mut places = Vec::with_capacity(requests.len());
        for request in &requests {
            let begin = replies;
            let is_transaction = request.commands.len() > 1;
            if request.asking {
                bytes.extend(redis::cmd("ASKING").get_packed_command());
                replies += 1;
            }
            if is_transaction {
                bytes.extend(redis::cmd("MULTI").get_packed_command());
                replies += 1;
            }
            for command in &request.commands {
                bytes.extend(command.get_packed_command());
                replies += 1;
            }
            if is_transaction {
                bytes.extend(redis::cmd("EXEC").get_packed_command());
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
                bytes.extend(redis::cmd("WAIT").arg(proof.replicas).arg(time).get_packed_command());
                replies += 1;
            }
            if proof.syncs {
                // The one before the slash is this node's own.
                let command = redis::cmd("WAITAOF").arg(1).arg(proof.replicas).arg(time).get_packed_command();
                bytes.extend(command);
                replies += 1;
            }
        }
        if replies == 0 {
            // No replica is asked, and no sync: what was answered is all there is to prove.
            if let Some(proof) = proof {
                link.end_proof(&proof, &self.node, Some(0), None);
            }
            return;
        }
        let began = Instant::now();
        let answers = match ask(connection, &bytes, replies) {
            Ok(answers) => answers,
            Err(error) => {
                tracing::debug!(node = self.node, %error, "a connection broke");
                link.lose(&error);
                self.open = None;
                for Request { answer, .. } in requests {
                    let _ = answer.send(Answered { values: Err(Trouble::Broken(error.clone())), sent: None });
                }
                return;
            }
        };
        if asks_time {
            self.timed = Some(began);
            self.clock.told(&self.node, began, list(at(&answers, 0)));
        }
        let sent = Sent { link: Arc::clone(link), batch };
        for (Request { answer, .. }, (begin, end, is_transaction)) in requests.into_iter().zip(places) {
            let own = answers.get(begin..end).unwrap_or_default();
            let values = unpack(own, is_transaction);
            let _ = answer.send(Answered { values, sent: Some(sent.clone()) });
        }
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
    }

    fn connect(&mut self) -> std::result::Result<(), RedisError> {
        if self.open.as_ref().is_some_and(|open| open.connection.is_open()) {
            return Ok(());
        }
        let connection = self.wire.connect(&self.node)?;
        connection.set_read_timeout(Some(ANSWER + ACKNOWLEDGE * 2))?;
        connection.set_write_timeout(Some(ANSWER))?;
        self.open = Some(Open { connection, link: Arc::new(Link::new(self.node.clone(), Arc::clone(&self.kick))) });
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
