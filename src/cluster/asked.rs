//! The end of a pipeline that asks for a proof, and what has to be known for that.

use std::collections::VecDeque;
use std::time::Duration;

use redis::{Arg, Cmd, ServerError, ServerErrorKind, Value};

use super::answer::{Kind, is_refusal};
use super::layout::mark_beside;
use super::proof::{Attempt, Link, Synced};
use super::value::{at, int, list, text};

/// So many shards are remembered that a proof may write to: slots move.
const MARKS: usize = 4;
/// How long ago, in seconds, a replica that is at work has told how far it is.
const LAG: u64 = 2;
/// The write before a proof, where a node is full.
const WHEN_FULL: &str = include_str!("scripts/proof.lua");
/// The dump of no functions, in the format of Redis 7.2, which all know. To restore it is a write that changes nothing.
const NO_FUNCTIONS: &[u8] = b"\x0b\0\x34\x44\xe1\x33\xf2\xe0\x4b\x53";

/// What is known of the last that a connection wrote.
///
/// `WAIT` and `WAITAOF` prove that and all that its node had before. A request that found nothing to change writes nothing, and
/// relies on what another connection may have written just before: so they prove nothing of it.
#[derive(Default)]
pub(super) struct Writes {
    /// The last request that was answered has surely written.
    pub(super) is_last: bool,
    /// The marks of shards that were written to, the newest first.
    pub(super) marks: VecDeque<Vec<u8>>,
}

impl Writes {
    /// Notes to which shard a request goes.
    pub(super) fn note(&mut self, commands: &[Cmd]) {
        let mut words = commands.last().into_iter().flat_map(Cmd::args_iter);
        let is_script = matches!(words.next(), Some(Arg::Simple(name)) if name.starts_with(b"EVAL"));
        let Some(Arg::Simple(key)) = words.nth(if is_script { 2 } else { 0 }) else { return };
        let Some(mark) = mark_beside(key) else { return };
        self.marks.retain(|known| *known != mark);
        self.marks.push_front(mark);
        self.marks.truncate(MARKS);
    }

    pub(super) fn answered(&mut self, kind: Kind, values: &[Value], link: &Link, batch: u64) {
        self.is_last = kind.has_written(values);
        if kind == Kind::Change || kind == Kind::Told && self.is_last {
            link.note_change(batch);
        }
    }
}

/// What is written before a proof.
#[derive(Clone, Copy)]
pub(super) enum Before<'a> {
    /// To the mark of a shard.
    Mark(&'a [u8]),
    /// The same where the node has refused that for want of memory.
    WhenFull(&'a [u8]),
    /// To no key: none of the shards is at the node any more.
    NoKey,
}

/// The end of a pipeline that asks for a proof.
pub(super) struct Asked {
    pub(super) attempt: Attempt,
    pub(super) time: Duration,
    /// What is written before it.
    write: Option<Cmd>,
    /// That is to no key.
    pub(super) has_no_key: bool,
    /// It asks whether the node is the primary that it was.
    pub(super) checks: bool,
}

impl Asked {
    pub(super) fn new(attempt: Attempt, time: Duration, before: Option<Before<'_>>, checks: bool) -> Self {
        let asks = attempt.replicas > 0 || attempt.syncs;
        // This node alone has synced what it has before it answers anybody.
        let before = before.filter(|_| attempt.replicas > 0);
        let write = before.map(|before| match before {
            Before::Mark(mark) => redis::cmd("HINCRBY").arg(mark).arg("proof").arg(1).to_owned(),
            Before::WhenFull(mark) => redis::cmd("EVAL").arg(WHEN_FULL).arg(1).arg(mark).to_owned(),
            Before::NoKey => redis::cmd("FUNCTION").arg("RESTORE").arg(NO_FUNCTIONS).to_owned(),
        });
        let has_no_key = matches!(before, Some(Before::NoKey));
        Self { attempt, time, write, has_no_key, checks: checks && asks }
    }

    pub(super) fn replies(&self) -> usize {
        let parts = [self.write.is_some(), self.attempt.replicas > 0, self.attempt.syncs, self.checks];
        parts.into_iter().map(usize::from).sum()
    }

    pub(super) fn write(&self, bytes: &mut Vec<u8>) {
        let time = u64::try_from(self.time.as_millis()).unwrap_or(1);
        if let Some(write) = &self.write {
            write.write_packed_command(bytes);
        }
        if self.attempt.replicas > 0 {
            redis::cmd("WAIT").arg(self.attempt.replicas).arg(time).write_packed_command(bytes);
        }
        if self.attempt.syncs {
            // The one before the slash is this node's own.
            redis::cmd("WAITAOF").arg(1).arg(self.attempt.replicas).arg(time).write_packed_command(bytes);
        }
        if self.checks {
            redis::cmd("INFO").arg("replication").write_packed_command(bytes);
        }
    }

    /// Answers three things: whether the write before the proof was made, if there was one; how many replicas have everything;
    /// and who has synced it.
    pub(super) fn read(&self, answers: &[Value]) -> (Option<bool>, Option<u64>, Option<Synced>) {
        let mut answers = answers.iter();
        let has_written = self.write.is_some().then(|| matches!(answers.next(), Some(Value::Int(_) | Value::Okay)));
        let acknowledged = if self.attempt.replicas > 0 { answers.next().and_then(count_of) } else { Some(0) };
        let synced = self.attempt.syncs.then(|| {
            let both = list(answers.next().unwrap_or(&Value::Nil));
            (count_of(at(both, 0)), count_of(at(both, 1)))
        });
        (has_written, acknowledged, synced)
    }

    /// Why the write before it was not made.
    pub(super) fn unwritten<'a>(&self, answers: &'a [Value]) -> Option<&'a ServerError> {
        match answers.first().filter(|_| self.write.is_some()) {
            Some(Value::ServerError(error)) => Some(error),
            _ => None,
        }
    }

    /// The shard that it was to write to is not at the node any more, or not yet.
    pub(super) fn is_elsewhere(&self, answers: &[Value]) -> bool {
        let kind = self.unwritten(answers).and_then(ServerError::kind);
        matches!(kind, Some(ServerErrorKind::Moved | ServerErrorKind::Ask))
    }

    /// What the node refuses to do for it. A user may be one that must not ask for the replication, and goes without.
    pub(super) fn refused<'a>(&self, answers: &'a [Value]) -> Option<&'a ServerError> {
        let needed = self.replies() - usize::from(self.checks);
        answers.iter().take(needed).find_map(|answer| match answer {
            Value::ServerError(error) if is_refusal(error) => Some(error),
            _ => None,
        })
    }
}

/// How many replicas are connected to a node and tell it how far they are, in what it tells of its replication. They do that each
/// second; one that hangs is connected for long.
pub(super) fn connected_to(told: &Value) -> u64 {
    let told = text(told).unwrap_or_default();
    let is_at_work = |line: &&str| {
        let mut parts = line.split(',');
        let is_online = line.starts_with("slave") && parts.any(|part| part == "state=online");
        let lag = parts.find_map(|part| part.strip_prefix("lag=")?.trim().parse::<u64>().ok());
        is_online && lag.is_some_and(|lag| lag <= LAG)
    };
    told.lines().filter(is_at_work).count() as u64
}

/// What names the history of a node, in what it tells of its replication.
pub(super) fn history_of(told: &Value) -> Option<String> {
    let told = text(told)?;
    told.lines().find_map(|line| line.strip_prefix("master_replid:")).map(|id| id.trim().to_owned())
}

fn count_of(value: &Value) -> Option<u64> {
    int(value).and_then(|count| u64::try_from(count).ok())
}
