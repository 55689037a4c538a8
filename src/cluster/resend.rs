//! Sends touches again to the primary that took over from one that may have kept them to itself.

use std::collections::BTreeMap;
use std::sync::Weak;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};
use redis::Cmd;

use super::caller::wait;
use super::figures::Figures;
use super::layout::Part;
use super::map::Kind;
use super::owed::Touched;
use super::proof::Sent;
use super::store::{ClusterStore, Inner};
use crate::error::{Error, Result};
use crate::key::SessionKey;

/// How often it is looked for touches whose primary is gone, and for those that have no proof yet.
const LOOK: Duration = Duration::from_secs(1);
/// How long to wait for another one that sends some again.
const PAUSE: Duration = Duration::from_millis(1);
/// Keys of a shard that go in one command.
const AT_ONCE: usize = 256;

impl ClusterStore {
    /// Remembers a touch that was answered, until the replicas have it.
    pub(super) fn owe(&self, key: &SessionKey, time: i64, is_message: bool, sent: Option<&Sent>) {
        let has_room = sent.is_none_or(|sent| self.inner.owed.note(key, time, is_message, sent.clone()));
        if !has_room {
            Figures::add(&self.inner.figures.forgotten);
        }
    }

    /// The work of a thread: it looks for touches to be sent again, until it is told to stop.
    pub(super) fn resending(inner: Weak<Inner>, stopped: Receiver<()>) -> impl FnOnce() + Send + 'static {
        move || {
            while stopped.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
                let Some(inner) = inner.upgrade() else { return };
                let store = ClusterStore::of(inner);
                if let Err(error) = wait(store.resend()) {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(error, "cannot send touches again after a failover; they are tried again");
                }
                if let Err(error) = wait(store.remove_stale_hints()) {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(error, "cannot remove hints that lead nowhere; they are tried again");
                }
            }
        }
    }

    /// Sends those again whose primary was replaced, or whose connection broke before its replicas had them. Where a node does
    /// not answer the other ones are served all the same, and the first error is returned. All shards share one patience, for there may
    /// be many.
    pub(super) async fn resend(&self) -> Result<()> {
        // What another round takes counts too.
        let began = Instant::now();
        let _only = loop {
            match self.inner.owed.resending() {
                Some(only) => break only,
                // It may be a flush that nobody polls.
                None if began.elapsed() > self.inner.options.patience => {
                    let (seconds, source) =
                        (began.elapsed().as_secs(), "another flush that began before has not ended".into());
                    return Err(Error::Unavailable { seconds, node: String::new(), source });
                }
                None => self.inner.nodes.pause(self.caller, PAUSE).await,
            }
        };
        let nodes = &self.inner.nodes;
        let node = |shard| Some(nodes.primary(self.layout().slot_of(shard))?.writes.node().to_owned());
        let mut by_shard: BTreeMap<u32, Vec<(SessionKey, Touched)>> = BTreeMap::new();
        for (key, touched) in self.inner.owed.gone(|key| node(self.shard_of(key))) {
            by_shard.entry(self.shard_of(&key)).or_default().push((key, touched));
        }
        let (mut outcome, mut silent) = (Ok(()), Vec::new());
        for (shard, touched) in by_shard {
            let node = node(shard);
            // The first connection may be one that broke since it was used. Shards without a primary are alike.
            if silent.iter().filter(|silent| **silent == node).count() > 1 {
                continue;
            }
            let mut sent = Ok(());
            for piece in touched.chunks(AT_ONCE) {
                sent = self.resend_piece(began, shard, piece).await;
                if sent.is_err() {
                    break;
                }
            }
            if matches!(sent, Err(Error::Unavailable { .. })) {
                silent.push(node);
            }
            outcome = outcome.and(sent);
        }
        outcome
    }

    async fn resend_piece(&self, began: Instant, shard: u32, gone: &[(SessionKey, Touched)]) -> Result<()> {
        let sending = self.inner.owed.begin_sending(gone);
        let piece = &sending.touched;
        if piece.is_empty() {
            return Ok(());
        }
        let commands = || -> Vec<Cmd> {
            let (mut updated, mut interaction) = (redis::cmd("ZADD"), redis::cmd("ZADD"));
            updated.arg(self.part(shard, Part::Updated)).arg(&["XX", "GT"]);
            interaction.arg(self.part(shard, Part::Interaction)).arg(&["XX", "GT"]);
            let (mut touches, mut messages) = (0, 0);
            for (key, touched) in piece {
                if let Some(set) = &touched.updated {
                    touches += 1;
                    updated.arg(set.time).arg(key.as_str());
                }
                if let Some(set) = &touched.interaction {
                    messages += 1;
                    interaction.arg(set.time).arg(key.as_str());
                }
            }
            let all = [(touches, updated), (messages, interaction)].into_iter();
            all.filter(|(count, _)| *count > 0).map(|(_, command)| command).collect()
        };
        let slot = self.layout().slot_of(shard);
        let done = self.inner.nodes.call_since(self.caller, began, slot, Kind::Write, &|_| commands()).await?;
        for (key, touched) in piece {
            Figures::add(&self.inner.figures.resent);
            let has_room = done.sent.as_ref().is_none_or(|sent| self.inner.owed.note_again(key, touched, sent));
            if !has_room {
                Figures::add(&self.inner.figures.forgotten);
            }
        }
        Ok(())
    }
}
