//! A pipeline: requests that are written to a node together, and whose answers are read together.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use redis::{Cmd, Connection, ConnectionLike as _, RedisError, Value};

use super::answer::{Answer, Answered, BUSY, Kind, Trouble, ended, error_of};
use super::asked::{Asked, Before, Writes, connected_to, history_of};
use super::clock::ServerClock;
use super::proof::{Link, Needs, Sent, Way};
use super::value::{at, list};
use super::wire::Wire;

/// The bytes of a pipeline, at most, but for one request that has more: a small one does not wait for many large ones.
pub(super) const MAX_BYTES: usize = 256 << 10;
/// How long an answer may take, but for what it waits for replicas. A node that is paused is asked elsewhere then.
const ANSWER: Duration = Duration::from_secs(2);
/// How long replicas may take to acknowledge.
const ACKNOWLEDGE: Duration = Duration::from_secs(1);
/// The same after one did not, so that a replica that is gone does not hold up the rest.
const ACKNOWLEDGE_LATE: Duration = Duration::from_millis(50);
/// So many proofs in a row have the shorter time at most.
const MOST_LATE: u32 = 256;
/// How often the server is asked for the time.
const TIME: Duration = Duration::from_secs(1);
/// How often a proof asks whether its node is the primary that it was, and for its replicas: to be replaced and to come back takes
/// far longer.
const CHECK: Duration = Duration::from_millis(100);

/// Commands that belong together: several of them are one transaction.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) commands: Vec<Cmd>,
    /// Those of its commands' words, about.
    pub(super) bytes: usize,
    pub(super) kind: Kind,
    pub(super) asking: bool,
    pub(super) answer: Answer,
    /// Its caller waits, and may lead.
    pub(super) leads: bool,
}

/// An open connection, and what is known of what went over it.
struct Open {
    connection: Connection,
    link: Arc<Link>,
    writes: Writes,
    /// The most replicas that its node had to have had so far.
    replicas: u64,
    /// Names what its node has written since it is a primary: another one begins when it is one again.
    history: Option<String>,
    checked: Instant,
}

/// How many proofs have the shorter time, since the replicas did not acknowledge within the whole one. The one after them has
/// that again: replicas may be slow, and well. Each time that they do not, twice as many come in between.
#[derive(Default)]
struct Late {
    proofs: u32,
    left: u32,
}

impl Late {
    /// What came of a proof that somebody waits for.
    fn note(&mut self, is_enough: bool) {
        if is_enough {
            *self = Self::default();
        } else if let Some(left) = self.left.checked_sub(1) {
            self.left = left;
        } else {
            self.proofs = (self.proofs * 2).clamp(1, MOST_LATE);
            self.left = self.proofs;
        }
    }
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
    late: Late,
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
        Self { node, wire, needs, clock, lane, open: None, batches: 0, late: Late::default(), timed: None }
    }

    pub(super) fn end(&mut self) {
        if let Some(open) = self.open.take() {
            open.link.lose(&ended());
        }
    }

    /// One pipeline, and its answers. Where a proof is asked for they go to `early` before that is read, which takes as long
    /// as replicas take.
    pub(super) fn one(&mut self, requests: Vec<Request>, count: usize, early: impl FnOnce(Answers)) -> Answers {
        if requests.is_empty() && self.open.is_none() {
            return Vec::new();
        }
        if let Err(error) = self.connect() {
            return all(requests, || Trouble::Unsent(error.clone()));
        }
        let Some(Open { connection, link, writes, replicas, checked, .. }) = &mut self.open else { return Vec::new() };
        *replicas = self.needs.of(&self.node).max(*replicas);
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
        if let Some(last) = requests.last() {
            self.batches += 1;
            if last.kind != Kind::Read {
                writes.note(&last.commands);
            }
        }
        let batch = self.batches;
        let attempt = link.begin_proof(batch, || self.needs.of(&self.node));
        let proof = attempt.map(|attempt| {
            let time = if self.late.left > 0 || attempt.is_aside { ACKNOWLEDGE_LATE } else { ACKNOWLEDGE };
            // Only their answers tell whether the last of these requests has written.
            let mark = writes.marks.front().filter(|_| !writes.is_last || !requests.is_empty());
            let proof = Asked::new(attempt, time, mark.map(|mark| Before::Mark(mark)), checked.elapsed() > CHECK);
            proof.write(&mut bytes);
            proof
        });
        let proofs = proof.as_ref().map_or(0, Asked::replies);
        if replies + proofs == 0 {
            // No replica is asked, and no sync: what was answered is all there is to prove.
            if let Some(Asked { attempt, .. }) = proof {
                link.end_proof(&attempt, &self.node, Some(0), None);
            }
            return Vec::new();
        }
        let began = Instant::now();
        let sending = connection.send_packed_command(&bytes);
        let answers = match sending.and_then(|()| read(connection, replies)) {
            Ok(answers) => answers,
            Err(error) => {
                self.lose(&error);
                return all(requests, || Trouble::Broken(error.clone()));
            }
        };
        if asks_time {
            self.timed = Some(began);
            self.clock.told(&self.node, began, list(at(&answers, 0)));
        }
        let sent = Sent { link: Arc::clone(link), batch };
        let unpacked = |(request, (begin, end, is_transaction)): (Request, (usize, usize, bool))| {
            let values = unpack(answers.get(begin..end).unwrap_or_default(), is_transaction);
            if let Ok(values) = &values {
                writes.answered(request.kind, values, link, batch);
            }
            (request.answer, Answered { values, sent: Some(sent.clone()) })
        };
        let answers = requests.into_iter().zip(places).map(unpacked).collect();
        let Some(proof) = proof else { return answers };
        early(answers);
        if let Err(error) = self.prove(proof) {
            self.lose(&error);
        }
        Vec::new()
    }

    /// Reads the answers to the end of a pipeline.
    fn prove(&mut self, mut proof: Asked) -> std::result::Result<(), RedisError> {
        let Some(Open { connection, link, writes, replicas, history, checked }) = &mut self.open else { return Ok(()) };
        let (mut tries, mut elsewhere, mut is_full) = (0, 0, false);
        loop {
            let answers = read(connection, proof.replies())?;
            if proof.checks {
                if matches!(answers.last(), Some(Value::ServerError(error)) if error.code() == BUSY) {
                    // It says nothing of itself until a script has ended.
                    link.end_proof(&proof.attempt, &self.node, None, proof.attempt.syncs.then_some((None, None)));
                    return Ok(());
                }
                *checked = Instant::now();
                if answers.last().and_then(history_of) != *history {
                    // It was replaced, and has come back without what the other one did not have.
                    return Err(std::io::Error::other("another node was the primary meanwhile").into());
                }
            }
            proof.attempt.refused = proof.refused(&answers).cloned();
            elsewhere += usize::from(proof.is_elsewhere(&answers));
            let (has_written, acknowledged, synced) = proof.read(&answers);
            match has_written {
                Some(true) => writes.is_last = true,
                // It will never prove what it had: its receipts have to say so.
                Some(false) if proof.has_no_key && proof.attempt.refused.is_none() => {
                    let why = proof.unwritten(&answers).map(|error| error_of(error).to_string()).unwrap_or_default();
                    let text = format!("its shards are at other nodes now, and it takes no write for a proof: {why}");
                    return Err(std::io::Error::other(text).into());
                }
                // The shard is not here any more, or not yet: another one may be.
                Some(false) if proof.attempt.refused.is_none() && !writes.marks.is_empty() => {
                    writes.marks.rotate_left(1)
                }
                _ => {}
            }
            let told = answers.last().filter(|_| proof.checks);
            let needed = told.map_or(0, |told| self.needs.connected(&self.node, connected_to(told)));
            let has_come = needed > proof.attempt.replicas;
            if has_come {
                // Since it was asked for the map. It may take over, so it is waited for too.
                proof.attempt.replicas = needed;
            } else if writes.is_last || proof.attempt.replicas == 0 {
                let is_enough = link.end_proof(&proof.attempt, &self.node, acknowledged, synced);
                // In a moment they may just not have come to it.
                if is_enough || !proof.attempt.is_aside {
                    self.late.note(is_enough);
                }
                return Ok(());
            }
            // What they acknowledge may be older than what was found here.
            tries += 1;
            let refused = proof.attempt.refused.as_ref();
            is_full |= refused.is_some_and(|error| error.code() == "OOM");
            // Those that it had are at other nodes: it still takes a write that has no key.
            let has_none = elsewhere >= writes.marks.len();
            let has_more = (has_none || tries < writes.marks.len().max(2)) && !proof.has_no_key;
            let may_go_on = has_more && (is_full || refused.is_none());
            let before = writes.marks.front().filter(|_| !writes.is_last).map(|mark| match is_full {
                _ if has_none => Before::NoKey,
                true => Before::WhenFull(mark),
                false => Before::Mark(mark),
            });
            if !may_go_on && !has_come || before.is_none() && !writes.is_last {
                link.end_proof(&proof.attempt, &self.node, None, proof.attempt.syncs.then_some((None, None)));
                return Ok(());
            }
            if has_none {
                // Another node may have taken over without telling: it was one of these.
                proof.attempt.replicas = proof.attempt.replicas.max(*replicas);
            }
            proof = Asked::new(proof.attempt, proof.time, before, true);
            let mut bytes = Vec::new();
            proof.write(&mut bytes);
            connection.send_packed_command(&bytes)?;
        }
    }

    fn lose(&mut self, error: &RedisError) {
        if let Some(open) = self.open.take() {
            tracing::debug!(node = self.node, %error, "a connection broke");
            open.link.lose(error);
        }
    }

    fn connect(&mut self) -> std::result::Result<(), RedisError> {
        if self.open.as_ref().is_some_and(|open| open.connection.is_open()) {
            return Ok(());
        }
        let mut connection = self.wire.connect(&self.node)?;
        connection.set_read_timeout(Some(ANSWER + ACKNOWLEDGE * 2))?;
        connection.set_write_timeout(Some(ANSWER))?;
        // Before anything is written. A user that may not ask is not told.
        let history = match redis::cmd("INFO").arg("replication").query(&mut connection) {
            Err(error) if error.is_io_error() || error.code() == Some(BUSY) => return Err(error),
            told => told.ok().as_ref().and_then(history_of),
        };
        let link = Arc::new(Link::new(self.node.clone(), self.lane.clone(), &self.needs));
        self.end();
        self.needs.watch(&link);
        let writes = Writes::default();
        self.open = Some(Open { connection, link, writes, replicas: 0, history, checked: Instant::now() });
        Ok(())
    }
}

/// So many answers. The first one that does not come ends it: to wait for each of them in turn would take a node that is
/// silent for so much longer than [`ANSWER`].
fn read(connection: &mut Connection, replies: usize) -> std::result::Result<Vec<Value>, RedisError> {
    (0..replies).map(|_| connection.recv_response()).collect()
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

#[cfg(test)]
mod tests;
