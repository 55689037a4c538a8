//! The roll of the members: who joins and leaves, and who is gone.
//!
//! A member whose lease has ended is gone only where renewals were taken for a whole lease before. Else the node that keeps the
//! roll was away, or another one took its place whose clock is ahead: the leases of all have ended then, and those who live
//! come back with their next renewal. One that is not on the roll at all has joined where this node has not heard of it, unless
//! it has left long ago.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::layout::Part;
use super::map::Kind;
use super::scripts::Named;
use super::store::ClusterStore;
use super::value::{at, int, list, text};
use crate::commit::Receipt;
use crate::error::Result;
use crate::time::Timestamp;

/// The owner of turns whose process is not known: no member has this name.
pub(super) const NOBODY: &str = "0000000000000000";
/// For how long it is known at least that a member was one.
const KNOWN: Duration = Duration::from_secs(86_400);

/// Who is there, as the node says that keeps the roll.
#[derive(Debug)]
pub(super) struct Roll {
    /// The processes whose lease has not ended.
    pub(super) members: BTreeSet<String>,
    /// Those of them that have guards.
    pub(super) guards: BTreeSet<String>,
    /// Those that have guards and may live though their lease has ended.
    late: BTreeSet<String>,
    /// Whether a lease that has ended tells that its member is gone.
    pub(super) is_steady: bool,
}

impl ClusterStore {
    /// Joins the members, or stays one.
    pub(super) async fn renew(&self) -> Result<Receipt> {
        let (lease, began) = (self.inner.options.lease.as_millis().to_string(), Instant::now());
        let (_, receipt) = self.call_roll(&self.inner.member, &lease).await?;
        let mut renewed = self.inner.keeper.renewed.lock();
        *renewed = (*renewed).max(Some(began));
        Ok(receipt)
    }

    /// Is no member from now on.
    pub(super) async fn strike(&self) -> Result<()> {
        self.call_roll(&self.inner.member, "").await.map(drop)
    }

    pub(super) async fn roll(&self) -> Result<Roll> {
        Ok(self.call_roll("", "").await?.0)
    }

    async fn call_roll(&self, member: &str, lease: &str) -> Result<(Roll, Receipt)> {
        let once = |what| self.layout().once(what);
        let keys = [self.part(0, Part::Mark), once("members"), once("guards"), once("renewals")];
        let guard = if self.inner.options.guard.is_some() { "1" } else { "0" };
        let whole = self.inner.options.lease.as_millis().to_string();
        let args = [member, lease, guard, &whole].map(|arg| arg.as_bytes().to_vec());
        let (value, done) = self.script(0, Named::Member, &keys, &args).await?;
        let names = |place: usize| list(at(list(&value), place)).iter().filter_map(text).collect();
        let is_steady = int(at(list(&value), 0)) == Some(1);
        let roll = Roll { members: names(1), guards: names(2), late: names(3), is_steady };
        Ok((roll, self.receipt([done.sent])))
    }

    /// Whether a member has left, or its lease has ended with nothing in its way. What it has it has had `since` then.
    pub(super) async fn is_gone(&self, roll: &Roll, member: &str, since: Timestamp) -> Result<bool> {
        if member == NOBODY {
            return Ok(true);
        }
        if member == self.inner.member || roll.members.contains(member) {
            return Ok(false);
        }
        let ask = redis::cmd("ZSCORE").arg(self.layout().once("members")).arg(member).to_owned();
        let commands = || vec![ask.clone(), redis::cmd("TIME").to_owned()];
        let done = self.call(0, Kind::Write, &|_| commands()).await?;
        let seconds = int(at(list(at(&done.values, 1)), 0)).unwrap_or(0);
        Ok(match int(at(&done.values, 0)) {
            Some(end) => end < 0 || roll.is_steady && end / 1000 < seconds,
            // A member that has left is known for a day. Any other has joined where this node has not heard of it.
            None => roll.is_steady && self.now().since(since) >= KNOWN,
        })
    }

    /// The same, and the roll is called for it.
    pub(super) async fn is_gone_now(&self, member: &str, since: Timestamp) -> Result<bool> {
        Ok(member != self.inner.member && self.is_gone(&self.roll().await?, member, since).await?)
    }

    /// The others that have guards, and are not known to be gone.
    pub(super) fn others(&self, roll: &Roll) -> BTreeSet<String> {
        roll.guards.union(&roll.late).filter(|member| **member != self.inner.member).cloned().collect()
    }
}
