//! Sends touches again to the primary that took over from one that may have kept them to itself.

use std::collections::BTreeMap;
use std::sync::Weak;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError};
use redis::Cmd;

use super::figures::Figures;
use super::layout::Part;
use super::map::Kind;
use super::owed::Touched;
use super::proof::Sent;
use super::store::{ClusterStore, Inner};
use crate::error::Result;
use crate::key::SessionKey;

/// How often it is looked for touches whose primary is gone, and for those that have no proof yet.
const LOOK: Duration = Duration::from_secs(1);
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
                let store = ClusterStore { inner };
                if let Err(error) = store.resend() {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(error, "cannot send touches again after a failover; they are tried again");
                }
                if let Err(error) = store.remove_stale_hints() {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(error, "cannot remove hints that lead nowhere; they are tried again");
                }
            }
        }
    }

    /// Sends those again whose primary was replaced, or whose connection broke before its replicas had them. Where a shard has
    /// no primary the others go on, and the first error is told.
    pub(super) fn resend(&self) -> Result<()> {
        let _only = self.inner.owed.resending();
        let nodes = &self.inner.nodes;
        let node = |key: &SessionKey| {
            let primary = nodes.primary(self.layout().slot_of(self.shard_of(key)))?;
            Some(primary.writes.node().to_owned())
        };
        let mut by_shard: BTreeMap<u32, Vec<(SessionKey, Touched)>> = BTreeMap::new();
        for (key, touched) in self.inner.owed.gone(node) {
            by_shard.entry(self.shard_of(&key)).or_default().push((key, touched));
        }
        let mut outcome = Ok(());
        for (shard, touched) in by_shard {
            outcome = outcome.and(touched.chunks(AT_ONCE).try_for_each(|piece| self.resend_piece(shard, piece)));
        }
        outcome
    }

    fn resend_piece(&self, shard: u32, gone: &[(SessionKey, Touched)]) -> Result<()> {
        let sending = self.inner.owed.begin_sending(gone);
        let piece = &sending.touched;
        if piece.is_empty() {
            return Ok(());
        }
        let commands = || -> Vec<Cmd> {
            let (mut updated, mut interaction) = (redis::cmd("ZADD"), redis::cmd("ZADD"));
            updated.arg(self.part(shard, Part::Updated)).arg(&["XX", "GT"]);
            interaction.arg(self.part(shard, Part::Interaction)).arg(&["XX", "GT"]);
            let mut has_messages = false;
            for (key, touched) in piece {
                updated.arg(touched.updated.time).arg(key.as_str());
                if let Some(set) = &touched.interaction {
                    has_messages = true;
                    interaction.arg(set.time).arg(key.as_str());
                }
            }
            if has_messages { vec![updated, interaction] } else { vec![updated] }
        };
        let done = self.call(shard, Kind::Write, &|_| commands())?;
        for (key, touched) in piece {
            Figures::add(&self.inner.figures.resent);
            self.owe(key, touched.updated.time, false, done.sent.as_ref());
            if let Some(set) = &touched.interaction {
                self.owe(key, set.time, true, done.sent.as_ref());
            }
        }
        Ok(())
    }
}
