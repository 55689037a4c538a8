//! Touches that nobody waits for. A thread collects them for a moment and sends them together, those of a shard in one command: the
//! least that a touch can cost a node, and its caller.

use std::collections::BTreeMap;
use std::sync::Weak;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, select};
use redis::Cmd;

use super::figures::Figures;
use super::layout::Part;
use super::map::Kind;
use super::proof::Sent;
use super::store::{ClusterStore, Inner};
use crate::error::{Error, Result};
use crate::key::SessionKey;

/// How long they are collected.
const COLLECTED: Duration = Duration::from_millis(100);
/// Keys of a shard that go in one command.
const AT_ONCE: usize = 256;

/// Touches of one shard that go in one command.
type Piece<'a> = (u32, Vec<&'a (SessionKey, i64)>);

impl ClusterStore {
    /// Notes that the user was active, as [`touch`](crate::Sessions::touch) does, and waits for no node: touches are collected for
    /// a tenth of a second, of each entry the last, and sent together.
    ///
    /// Until then nobody sees it, this process neither, and it ends with the process. A pass of another process may prune the
    /// entry meanwhile; one of this process keeps it. Once sent, it is as other touches whose receipt is dropped: what a failover
    /// loses of them is sent again. [`flush`](crate::Sessions::flush) and [`close`](crate::Sessions::close) send what was collected,
    /// and wait until it is durable. Where no node answers it is sent again and again; once 65,536 entries wait, or 16 MB, it is
    /// as `touch`. Nobody is told where there is no entry, and no [event](Self::own_events) comes of it.
    ///
    /// # Errors
    /// [`Error::Closed`], [`Error::Forked`]; where there is no room, those of `touch`.
    pub fn touch_soon(&self, key: &SessionKey) -> Result<()> {
        let _under_way = self.writable()?.enter()?;
        if !self.inner.owed.collect(key, self.now().as_micros()) {
            return self.do_touch(key).map(drop);
        }
        Figures::add(&self.inner.figures.touches);
        // Where it was told already, it comes.
        let _ = self.inner.keeper.collected.0.try_send(());
        Ok(())
    }

    /// The work of a thread: it sends what was collected, until it is told to stop.
    pub(super) fn sending_collected(
        inner: Weak<Inner>,
        stopped: Receiver<()>,
        told: Receiver<()>,
    ) -> impl FnOnce() + Send {
        move || loop {
            select! {
                recv(told) -> told => if told.is_err() { return },
                recv(stopped) -> _ => return,
            }
            loop {
                if stopped.recv_timeout(COLLECTED) != Err(RecvTimeoutError::Timeout) {
                    return;
                }
                let Some(inner) = inner.upgrade() else { return };
                let store = ClusterStore { inner };
                if let Err(error) = store.send_collected(false) {
                    // It is tried again, and again: once there is no room callers are told.
                    tracing::debug!(
                        error = &error as &dyn std::error::Error,
                        "cannot send touches that were collected"
                    );
                }
                if !store.inner.owed.has_collected() {
                    break;
                }
            }
        }
    }

    /// Sends what was collected, all of it before the first answer is waited for. What a node did not take is sent the next time, or
    /// again and again now, until the patience is over.
    pub(super) fn send_collected(&self, patiently: bool) -> Result<()> {
        let began = Instant::now();
        let (owed, nodes) = (&self.inner.owed, &self.inner.nodes);
        let _only = owed.sending_collected();
        let sending = owed.take_collected();
        let mut by_shard = BTreeMap::<u32, Vec<&(SessionKey, i64)>>::new();
        for touched in &sending.touched {
            by_shard.entry(self.shard_of(&touched.0)).or_default().push(touched);
        }
        let pieces: Vec<Piece<'_>> = by_shard
            .into_iter()
            .flat_map(|(shard, all)| all.chunks(AT_ONCE).map(|piece| (shard, piece.to_vec())).collect::<Vec<_>>())
            .collect();
        let sent: Vec<_> = pieces
            .iter()
            .map(|piece| {
                let primary = nodes.primary(self.layout().slot_of(piece.0))?;
                let waiting = primary.writes.send(Kind::Write, vec![self.touch_all(piece)]);
                Some((primary, waiting))
            })
            .collect();
        let (mut outcome, mut silent) = (Ok(()), Vec::new());
        for (piece, sent) in pieces.iter().zip(sent) {
            let slot = self.layout().slot_of(piece.0);
            let node = sent.as_ref().map(|(primary, _)| primary.writes.node().to_owned());
            if let Some(answered) = sent.map(|(_, waiting)| waiting.wait())
                && answered.values.is_ok()
            {
                self.owe_all(piece, answered.sent.as_ref());
                continue;
            }
            nodes.refresh(node.as_deref());
            // Others must not wait as long again for each shard of a node that is silent.
            let done = if patiently && silent.iter().filter(|silent| **silent == node).count() < 2 {
                nodes.call_since(began, slot, Kind::Write, &|_| vec![self.touch_all(piece)])
            } else {
                let (node, source) = (node.clone().unwrap_or_default(), "it did not take touches".into());
                Err(Error::Unavailable { seconds: began.elapsed().as_secs(), node, source })
            };
            match done {
                Ok(done) => self.owe_all(piece, done.sent.as_ref()),
                Err(error) => {
                    silent.push(node);
                    owed.collect_again(&piece.1.iter().map(|touched| (*touched).clone()).collect::<Vec<_>>());
                    outcome = outcome.and(Err(error));
                }
            }
        }
        outcome
    }

    fn touch_all(&self, (shard, touched): &Piece<'_>) -> Cmd {
        let mut all = redis::cmd("ZADD");
        all.arg(self.part(*shard, Part::Updated)).arg(&["XX", "GT"]);
        for (key, time) in touched {
            all.arg(*time).arg(key.as_str());
        }
        all
    }

    fn owe_all(&self, (_, touched): &Piece<'_>, sent: Option<&Sent>) {
        for (key, time) in touched {
            self.owe(key, *time, false, sent);
        }
    }
}
