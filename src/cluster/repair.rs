//! A repair: it takes away what [`verify`](super::verify) finds that leads nowhere.
//!
//! A row, a turn or a lease is in the shard of its key. One script looks whether the entry is as it was seen, and removes what
//! hangs on none. Nothing comes in between.
//!
//! A hint lies in the shard of the session id, and it is written before the entry that has the id. So one that leads nowhere may
//! be left over, or its entry may be on its way, from any process, however long that was stopped. How old it is tells nothing.
//! Therefore each shard of entries has the name of its last sweep (`swept`, beside the mark), and each sweep gives it a new one:
//!
//! | who writes an entry | who sweeps |
//! | --- | --- |
//! | W0: takes the name of the shard's last sweep, as far as it knows it | |
//! | W1: writes the hint, and waits for its replicas | S1: reads the hint, and the entry, which does not have the id |
//! | W2: writes the entry, if the shard's last sweep is that of W0 | S2: if the entry is as it was seen, gives the sweep a name, in one script; waits until that is durable |
//! | | S3: removes the hint |
//!
//! A hint that goes was read, so W1 was before S1, and W0 before S2. W2 and S2 are scripts of one shard, so one is first. If W2
//! is, the entry has another revision at S2, and the hint stays. If S2 is, the name at W2 is a newer one than that of W0, and the
//! entry is not written: its writer learns the new name and begins anew, with another hint. A hint that replicas did not get is written
//! again under its name, and only for an entry that names it: at S2 that entry had another revision, or came after it, and then W2
//! refused it. So the two cannot miss each other, whatever time passes.
//!
//! Names of sweeps are random, a new one for each request, and never come back: a failover may forget one, and the same number
//! for another sweep would let a writer pass.
//!
//! What ends on the way:
//!
//! - The writer, after W1: the hint is left over, and goes with the next sweep.
//! - The writer's connection, at W2: a request that lies with the node still is refused if a sweep was there first.
//! - Who sweeps, after S2: the hint stays. Writers of the shard begin anew, once.
//! - Who sweeps, at S3: the hint is there or not, and leads nowhere in either case.
//! - The primary of the entry, before S2 is durable: the sweep fails before S3, and the hint stays. After that its replicas have
//!   the name, and what took the id from the entry, for that came before: none of them gives the id back.
//! - The primary of the hint: a failover may give a removed hint back. It leads nowhere, and goes with the next sweep.
//! - A primary that was replaced and does not know it: S2 is never durable there.
//!
//! What cannot be mended so stays, and `verify` goes on telling it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use redis::Cmd;
use serde::Serialize;

use super::caller::wait;
use super::layout::Part;
use super::scripts::Named;
use super::store::ClusterStore;
use super::turns::Marker;
use super::value::{at, bytes, int, list, text};
use super::verify::{ClusterVerification, ClusterViolation, Nowhere};
use crate::codec;
use crate::error::Result;
use crate::key::SessionKey;
use crate::random;

/// Keys and session ids that are dealt with together.
const AT_ONCE: usize = 256;

/// What [`ClusterStore::repair`] took away.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ClusterRepairs {
    /// Hints that led to no entry with that session id.
    pub hints_removed: u64,
    /// Places in the order by time, or in that of interactions, that had no entry.
    pub rows_removed: u64,
    /// Turns whose entry is gone or has another session.
    pub turns_removed: u64,
    /// Keys that had leases and no entry.
    pub leases_removed: u64,
}

impl ClusterStore {
    /// Takes away what [`verify`](Self::verify) finds that leads nowhere: hints, which processes that were killed, failovers and
    /// [`Uncertain`](crate::Error::Uncertain) changes leave; and rows, turns and leases that have no entry. No entry is changed.
    ///
    /// All others may go on meanwhile: what is under way in any process is not taken for a fault. A process that had the store open begins
    /// the next new session of each shard that was swept anew, once for each sweep: the closure of a `modify` that makes an entry runs again. The keys of all entries are held in memory.
    ///
    /// What else `verify` finds stays. The next change of an entry without a hint writes one; an entry that cannot be decoded goes by
    /// [`remove`](crate::Sessions::remove).
    ///
    /// # Errors
    /// Those of every change, see [the module](crate::cluster), and [`NotReplicated`](crate::Error::NotReplicated): nothing is taken
    /// away that a failover could give back to an entry. [`ShardLost`](crate::Error::ShardLost) before anything is done: what leads to
    /// entries that are lost leads nowhere. What was taken away before any other error stays so.
    pub fn repair(&self) -> Result<ClusterRepairs> {
        let (mut repairs, mut found) = (ClusterRepairs::default(), ClusterVerification::default());
        let names = self.inner.nodes.names(&format!("{}:{{", self.writable()?.name()))?;
        let names = self.layout().sorted(&names);
        let keys = self.keys_of_all_parts(&names, &mut found)?;
        if let Some(ClusterViolation::ShardLost { shard, node }) = found.violations.first() {
            return Err(self.lost(*shard, node));
        }
        for piece in keys.chunks(AT_ONCE) {
            self.tidy_all(piece, &mut repairs)?;
        }
        for piece in names.ids.chunks(AT_ONCE) {
            repairs.hints_removed += self.sweep(self.nowhere(piece)?)?;
        }
        wait(self.flush_all())?;
        tracing::info!(?repairs, "repaired");
        Ok(repairs)
    }

    fn hanging_commands(&self, shard: u32, key: &SessionKey) -> Vec<Cmd> {
        let of_part =
            |command: &str, part| redis::cmd(command).arg(self.part(shard, part)).arg(key.as_str()).to_owned();
        vec![
            redis::cmd("HMGET").arg(self.layout().entry(shard, key)).arg(&["v", "c"]).to_owned(),
            of_part("ZSCORE", Part::Updated),
            of_part("ZSCORE", Part::Interaction),
            of_part("ZSCORE", Part::Leases),
            of_part("HGET", Part::Turns),
        ]
    }

    /// Removes what hangs on no entry.
    fn tidy_all(&self, keys: &[SessionKey], repairs: &mut ClusterRepairs) -> Result<()> {
        let answers = self.ask_each(keys, |key| self.shard_of(key), |shard, key| self.hanging_commands(shard, key))?;
        for (key, (values, _)) in keys.iter().zip(answers) {
            let records = list(at(&values, 0));
            let (stamp, marker) = (text(at(records, 0)).unwrap_or_default(), bytes(at(&values, 4)));
            let is_of_none = if stamp.is_empty() {
                marker.is_some() || (1..4).any(|place| int(at(&values, place)).is_some())
            } else {
                // What cannot be decoded stays.
                let turn = marker.and_then(|marker| Marker::decode(key, marker).ok()).map(|marker| marker.turn);
                let cold = bytes(at(records, 1)).and_then(|cold| codec::decode_cold(cold).ok());
                turn.zip(cold).is_some_and(|(turn, (cold, _))| turn.session_id != cold.session_id)
            };
            if is_of_none {
                self.tidy(key, stamp, marker.unwrap_or_default(), repairs)?;
            }
        }
        Ok(())
    }

    fn tidy(&self, key: &SessionKey, stamp: String, marker: &[u8], repairs: &mut ClusterRepairs) -> Result<()> {
        let shard = self.writable()?.shard_of(key);
        let mut keys = vec![self.part(shard, Part::Mark), self.layout().entry(shard, key)];
        let parts = [Part::Updated, Part::Interaction, Part::Turns, Part::Leases];
        keys.extend(parts.map(|part| self.part(shard, part)));
        keys.push(self.layout().leases(shard, key));
        let args = [key.as_str().as_bytes().to_vec(), stamp.into_bytes(), marker.to_vec()];
        let (value, _) = wait(self.script(shard, Named::Tidy, &keys, &args))?;
        let count = |place| int(at(list(&value), place)).and_then(|count| u64::try_from(count).ok()).unwrap_or(0);
        repairs.rows_removed += count(0);
        repairs.turns_removed += count(1);
        repairs.leases_removed += count(2);
        Ok(())
    }

    /// Removes hints that led nowhere when they were read, but those whose entry has changed since. Answers how many.
    fn sweep(&self, all: Vec<Nowhere>) -> Result<u64> {
        let (mut of_shards, mut receipts, mut free) = (BTreeMap::<_, Vec<_>>::new(), Vec::new(), Vec::new());
        for one in all {
            of_shards.entry(self.writable()?.shard_of(&one.key)).or_default().push(one);
        }
        for (shard, all) in of_shards {
            let mut keys = vec![self.part(shard, Part::Mark)];
            keys.extend(all.iter().map(|one| self.layout().entry(shard, &one.key)));
            let (name, request) = (random::bits()?, AtomicU32::new(1));
            let build = |whole| {
                let sweep = format!("{name:016x}{}", request.fetch_add(1, Relaxed));
                let mut args = vec![self.inner.mark.clone().into_bytes(), sweep.into_bytes()];
                args.extend(all.iter().map(|one| one.stamp.clone().into_bytes()));
                vec![Named::Sweep.call(whole, &keys, &args)]
            };
            let (value, done) = self.answered(shard, wait(self.call(shard, Named::Sweep.kind(), &build))?)?;
            receipts.push(self.receipt([done.sent]));
            free.extend(all.into_iter().zip(list(&value)).filter(|(_, says)| int(says) == Some(1)).map(|(one, _)| one));
        }
        // Before that a failover might forget the sweep, or give an entry its session id back.
        wait(self.keep_all(&receipts))?;
        for Nowhere { id, key, hint, .. } in &free {
            wait(self.hint(key, id, hint, false))?;
        }
        Ok(free.len() as u64)
    }
}
