//! A flush: all that was sent so far is as durable as a receipt says, or an error tells that it is not.

use std::sync::Arc;

use super::layout::Part;
use super::map::Kind;
use super::proof::Sent;
use super::store::ClusterStore;
use super::value::at;
use crate::error::Result;

/// The changes that a flush found lost.
#[derive(Debug, Default)]
pub(super) struct Losses(Vec<Sent>);

impl Losses {
    /// The caller of the flush learns of them, so no other flush tells of them.
    pub(super) fn told(self) {
        self.0.iter().for_each(|sent| sent.link.forget_change(sent.batch));
    }
}

impl ClusterStore {
    /// Waits until all that was sent so far is as durable as a receipt says. What a connection took with it that broke can
    /// not be proven any more: that is an error, once.
    pub(super) async fn flush_all(&self) -> Result<()> {
        let mut losses = Losses::default();
        let flushed = self.flush_telling(&mut losses).await;
        losses.told();
        flushed
    }

    /// The same. Its caller has told of those losses once nothing is awaited any more: one that is dropped before tells nobody.
    pub(super) async fn flush_telling(&self, losses: &mut Losses) -> Result<()> {
        let sent = self.flush_collected().await;
        // A node that takes no touch keeps nobody from what was changed.
        self.flush_sent(losses).await.and(sent)
    }

    async fn flush_sent(&self, losses: &mut Losses) -> Result<()> {
        let mut lost = Ok(());
        self.resend().await?;
        let unproven = self.inner.needs.unproven();
        let sent = self.at_all_nodes(&mut lost).await?.into_iter().map(Some);
        self.keep_all(&[self.receipt(sent)]).await?;
        // That may have been the first to find that a primary is gone, and touches with it.
        self.resend().await?;
        self.keep_all(&[self.receipt(self.inner.owed.unproven().into_iter().map(Some))]).await?;
        let mut outcome = Ok(());
        for Sent { link, batch } in unproven {
            let kept = self.keep_all(&[self.receipt([Some(Sent { link: Arc::clone(&link), batch })])]).await;
            if kept.is_err() {
                losses.0.push(Sent { link, batch });
            }
            outcome = outcome.and(kept);
        }
        // A hint that stays leads nowhere, so an error of it comes after the loss of a change.
        outcome.and(lost).and(self.remove_stale_hints().await)
    }

    /// Asks each primary for the mark of a shard, over the way on which changes go. A receipt of that covers all that the node has.
    /// Where a mark is missing `lost` says so.
    async fn at_all_nodes(&self, lost: &mut Result<()>) -> Result<Vec<Sent>> {
        let (nodes, slot) = (&self.inner.nodes, |shard| self.layout().slot_of(shard));
        let (mut sent, mut shards) = (Vec::new(), (0..self.layout().shards()).collect::<Vec<_>>());
        while let Some(shard) = shards.pop() {
            let ask = redis::cmd("HGET").arg(self.part(shard, Part::Mark)).arg("mark").to_owned();
            let done = self.call(shard, Kind::Write, &|_| vec![ask.clone()]).await?;
            let marked = self.check_mark(shard, at(&done.values, 0), &done.node);
            *lost = std::mem::replace(lost, Ok(())).and(marked);
            shards.retain(|other| nodes.primary(slot(*other)).is_none_or(|it| it.writes.node() != done.node));
            sent.extend(done.sent);
        }
        Ok(sent)
    }
}
