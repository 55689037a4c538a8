//! How a request finds its way: redirections, and patience while the cluster changes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use redis::{Cmd, ServerError, ServerErrorKind, Value};

use super::answer::{Answered, BUSY, Trouble, error_of, is_refusal};
use super::caller::Caller;
use super::figures::Figures;
use super::map::{Kind, Nodes, Primary, REFRESH};
use super::proof::Sent;
use super::seen::named_by;
use super::{tls, wire};
use crate::error::{Error, Result};

/// Redirections that are followed at once: nodes of two minds may send a request to and fro.
const HOPS: u32 = 5;
/// Requests that are under way together, at most.
const AT_ONCE: usize = 4096;

/// Makes the commands of a request; with scripts as text if its argument is true.
pub(super) type Build<'a> = &'a (dyn Fn(bool) -> Vec<Cmd> + Sync);

/// What came of a request.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) values: Vec<Value>,
    pub(super) sent: Option<Sent>,
    pub(super) node: String,
    /// A connection broke on the way: it may have been carried out before.
    pub(super) again: bool,
}

/// What to do about an answer that is none.
pub(super) enum Next {
    Whole,
    Other(Other),
    /// The keys are in two places.
    Apart,
    Wait,
}

/// A node that another one named; for one time only, while a slot is on its way.
pub(super) struct Other {
    pub(super) node: String,
    pub(super) once: bool,
}

impl Nodes {
    /// Runs commands at the primary of a slot, until it answers or `patience` is over. They may be run more than once. `build`
    /// makes them. Once a change was sent and its answer is lost, no later
    /// error says that nothing was changed.
    pub(super) async fn call(&self, caller: Caller, slot: u16, kind: Kind, build: Build<'_>) -> Result<Done> {
        self.call_since(caller, Instant::now(), slot, kind, build).await
    }

    /// The same for one of several calls that have one patience together, since they began. Each of them is tried once at least.
    pub(super) async fn call_since(
        &self,
        caller: Caller,
        began: Instant,
        slot: u16,
        kind: Kind,
        build: Build<'_>,
    ) -> Result<Done> {
        let mut broken = None;
        self.try_call(caller, began, slot, kind, build, &mut broken).await.map_err(|error| {
            match broken.filter(|_| kind.is_change()) {
                Some(node) => self.figures.failed(Error::Uncertain { node, made: false, source: error.into() }),
                None => error,
            }
        })
    }

    /// The same; `broken` is the node whose connection broke on the way.
    async fn try_call(
        &self,
        caller: Caller,
        began: Instant,
        slot: u16,
        kind: Kind,
        build: Build<'_>,
        broken: &mut Option<String>,
    ) -> Result<Done> {
        let (mut delay, mut whole, mut ask) = (Duration::from_millis(1), false, None::<Other>);
        let mut hops = 0;
        loop {
            self.check()?;
            let commands = build(whole);
            let is_single = commands.len() == 1;
            let asked = ask.take();
            let primary = match &asked {
                Some(other) => self.named_for(caller, &other.node).await?,
                None => self.primary(slot),
            };
            let (node, source): (String, Box<dyn std::error::Error + Send + Sync>) = match primary {
                None => match &asked {
                    Some(Other { node, .. }) => {
                        (node.clone(), "another node has named it, and it is not in use yet".into())
                    }
                    None => (String::new(), format!("no node has slot {slot}").into()),
                },
                Some(primary) => {
                    let lane = if kind == Kind::Read { &primary.reads } else { &primary.writes };
                    let node = lane.node().to_owned();
                    let is_once = asked.is_some_and(|other| other.once);
                    let answered = lane.ask(caller, kind, commands, is_once).await;
                    match answered.values {
                        Ok(values) => {
                            return Ok(Done { values, sent: answered.sent, node, again: broken.is_some() });
                        }
                        Err(Trouble::Unsent(error)) => {
                            let refusal = tls::refusal(&node, &error).filter(|_| broken.is_none());
                            match refusal.or_else(|| wire::refusal(&node, &error)) {
                                Some(refusal) => return Err(refusal),
                                None => (node, error.into()),
                            }
                        }
                        Err(Trouble::Broken(error)) => {
                            *broken = Some(node.clone());
                            (node, error.into())
                        }
                        Err(Trouble::Server(error)) => match self.judge(&error, &node, is_single)? {
                            Next::Whole if !whole => {
                                whole = true;
                                continue;
                            }
                            Next::Other(other) => {
                                hops += 1;
                                Figures::add(&self.figures.redirections);
                                ask = Some(other).filter(|_| hops % HOPS != 0);
                                (node, error_of(&error))
                            }
                            Next::Apart if kind == Kind::Read && !is_single => {
                                if let Some(done) = Box::pin(self.apart(caller, slot, build)).await? {
                                    return Ok(done);
                                }
                                (node, error_of(&error))
                            }
                            Next::Whole | Next::Apart | Next::Wait => (node, error_of(&error)),
                        },
                    }
                }
            };
            if began.elapsed() > self.patience() {
                return Err(Error::Unavailable { seconds: began.elapsed().as_secs(), node, source });
            }
            if ask.is_none() {
                Figures::add(&self.figures.retries);
                match caller {
                    Caller::Blocks => self.refresh(Some(&node)),
                    Caller::Awaits => self.suspect(node),
                }
                self.pause(caller, delay).await;
                delay = (delay * 2).min(REFRESH);
            }
        }
    }

    /// The node that another one named. One that is not known is asked what it is first: by another thread where the caller must not
    /// block, and `None` until that has been done.
    async fn named_for(&self, caller: Caller, node: &str) -> Result<Option<Arc<Primary>>> {
        if caller == Caller::Blocks {
            return self.named(node);
        }
        let known = self.known(node);
        if known.is_none() {
            self.suspect(node.to_owned());
        }
        Ok(known)
    }

    /// Reads while a slot is on its way: of a transaction some keys may be here and some there, so each command goes by
    /// itself. `None` if what the first one answers has changed meanwhile.
    async fn apart(&self, caller: Caller, slot: u16, build: Build<'_>) -> Result<Option<Done>> {
        let (mut all, commands) = (None::<Done>, build(true));
        for command in &commands {
            let one = self.call(caller, slot, Kind::Read, &|_| vec![command.clone()]).await?;
            match &mut all {
                Some(all) => all.values.extend(one.values),
                None => all = Some(one),
            }
        }
        let Some((done, first)) = all.zip(commands.first()) else { return Ok(None) };
        let again = self.call(caller, slot, Kind::Read, &|_| vec![first.clone()]).await?;
        Ok((again.values.first() == done.values.first()).then_some(done))
    }

    /// Runs the commands that `ask` makes for each of the shards, all at once, over the ways for reading.
    pub(super) async fn scatter(
        &self,
        caller: Caller,
        shards: &[(u32, u16)],
        ask: &(dyn Fn(u32) -> Vec<Cmd> + Sync),
    ) -> Result<Vec<(u32, Done)>> {
        self.check()?;
        let mut all = Vec::with_capacity(shards.len());
        for piece in shards.chunks(AT_ONCE) {
            let primaries: Vec<_> = piece.iter().map(|(_, slot)| self.primary(*slot)).collect();
            let send = |(shard, primary): (u32, &Option<Arc<Primary>>)| {
                primary
                    .as_ref()
                    .map(|primary| (primary.reads.node().to_owned(), primary.reads.send(Kind::Read, ask(shard), false)))
            };
            let sent: Vec<_> = piece.iter().map(|(shard, _)| *shard).zip(&primaries).map(send).collect();
            for ((shard, slot), sent) in piece.iter().zip(sent) {
                let answered = match sent {
                    Some((node, waiting)) => Some((node, waiting.answered(caller).await)),
                    None => None,
                };
                let done = match answered {
                    Some((node, Answered { values: Ok(values), sent })) => Done { values, sent, node, again: false },
                    // One by one, with patience.
                    _ => self.call(caller, *slot, Kind::Read, &|_| ask(*shard)).await?,
                };
                all.push((*shard, done));
            }
        }
        Ok(all)
    }

    pub(super) fn judge(&self, error: &ServerError, node: &str, is_single: bool) -> Result<Next> {
        match error.kind() {
            Some(ServerErrorKind::NoScript) => Ok(Next::Whole),
            Some(ServerErrorKind::Ask) if is_single => {
                Ok(named_by(error, node).map_or(Next::Wait, |(_, node)| Next::Other(Other { node, once: true })))
            }
            Some(ServerErrorKind::Ask | ServerErrorKind::TryAgain) => Ok(Next::Apart),
            Some(ServerErrorKind::Moved) => Ok(match named_by(error, node) {
                Some((slot, target)) if self.moved(slot, &target) => Next::Other(Other { node: target, once: false }),
                _ => Next::Wait,
            }),
            Some(
                ServerErrorKind::BusyLoading
                | ServerErrorKind::ClusterDown
                | ServerErrorKind::MasterDown
                | ServerErrorKind::ReadOnly,
            ) => Ok(Next::Wait),
            None if ["UNBLOCKED", BUSY].contains(&error.code()) => Ok(Next::Wait),
            // Where reads are allowed then, a script gets as far as its first write.
            _ if error.details().is_some_and(|details| details.contains("while the cluster is down")) => Ok(Next::Wait),
            _ if is_refusal(error) => Err(Error::Refused { node: node.to_owned(), source: error_of(error) }),
            _ => Err(Error::Engine { action: "run a command", source: error_of(error) }),
        }
    }
}
