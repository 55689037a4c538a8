//! Turns whose process is gone: which of them are resumed, and by whom.

use super::store::ClusterStore;
use super::turns::Marker;
use super::write::Change;
use crate::commit::Receipt;
use crate::entry::Details;
use crate::error::{Error, Result};
use crate::key::SessionKey;
use crate::rules::{self, Recovered};
use crate::turns::{RecoverOptions, TurnEnd, TurnRecovery};
use crate::unreadable::Unreadable;

impl ClusterStore {
    /// Deals with the turns whose owner is gone. Of several that do so at once each turn is told of by the one that ended it; if
    /// another one had marked it just before, as one that was marked already. What fails once a turn was ended is no error: the
    /// next recovery tells of the rest.
    pub(super) async fn do_recover(&self, options: &RecoverOptions) -> Result<TurnRecovery> {
        let mut recovery = TurnRecovery::default();
        let mut unreadable = Unreadable::default();
        let (mut receipts, mut judged) = (Vec::new(), Vec::new());
        let (found, roll) = self.markers(&mut unreadable).await?;
        for (key, marker) in found {
            if !self.is_gone(&roll, &marker.owner, marker.turn.started_at).await? {
                continue;
            }
            let judgement = self.judge_turn(&key, &marker, options, &mut receipts).await;
            if let Some(judgement) = unreadable.pass(judgement)?.flatten() {
                judged.push((key, marker.token, judgement));
            }
        }
        // The markers go when what was made of them is kept: a crash in between must not lose both.
        self.keep_all(&receipts).await?;
        let (mut receipts, mut told, mut failed) = (Vec::new(), 0, None);
        for (key, token, judgement) in judged {
            match self.do_end(&key, token).await {
                Ok(TurnEnd::Ended(receipt)) => receipts.push(receipt),
                Ok(TurnEnd::Missing) => {}
                // Another one ended it, and tells of it.
                Ok(TurnEnd::NotCurrent) => continue,
                Err(error) => {
                    // It may have been ended: then nobody else tells of it.
                    let is_told = matches!(error, Error::Uncertain { .. });
                    failed = Some(error);
                    if !is_told {
                        break;
                    }
                }
            }
            told += 1;
            match judgement {
                Recovered::Orphaned => recovery.orphaned += 1,
                Recovered::Suspended => recovery.suspended += 1,
                Recovered::Stale => recovery.stale += 1,
                Recovered::Pending { .. } => recovery.already_pending.push(key),
                Recovered::Resumable => recovery.resumable.push(key),
            }
            if failed.is_some() {
                break;
            }
        }
        // An error would hide the turns that were ended, and no other recovery finds them. The rest has its markers still, or
        // again where a failover takes their end back.
        let kept = match failed {
            None => self.keep_all(&receipts).await,
            Some(error) => Err(error),
        };
        match kept {
            Err(error) if told == 0 => return Err(error),
            Err(error) => tracing::warn!(
                error = &error as &dyn std::error::Error,
                "a recovery of turns was cut short; the next one tells of the rest"
            ),
            Ok(()) => {}
        }
        recovery.resumable.sort_unstable();
        recovery.already_pending.sort_unstable();
        recovery.unreadable = unreadable;
        Ok(recovery)
    }

    /// Judges a turn by its entry, and marks that if it is to be resumed. `None` if the turn is over.
    ///
    /// The mark is set only on the entry that was seen with the turn: where another one dealt with the turn meanwhile, it may
    /// have been resumed already, and must not be again.
    async fn judge_turn(
        &self,
        key: &SessionKey,
        marker: &Marker,
        options: &RecoverOptions,
        receipts: &mut Vec<Receipt>,
    ) -> Result<Option<Recovered>> {
        let tries = self.tries();
        loop {
            let now = self.now();
            let Some((seen, there)) = self.look_at_turn(key).await? else { return Ok(Some(Recovered::Orphaned)) };
            let there = there.map(|there| Marker::decode(key, &there)).transpose()?;
            if there.is_none_or(|there| there.token != marker.token) {
                return Ok(None);
            }
            let both = (&seen.hot, &seen.cold);
            let judgement = rules::recovered(Some(both), &marker.turn, options.max_age, now);
            let (hot, cold) = match judgement {
                Recovered::Resumable => rules::with_resume(both, Some((&options.reason, now))),
                Recovered::Pending { untimed: true } => {
                    let details = Details { last_resume_marked_at: Some(now), ..seen.cold.details.clone() };
                    (seen.hot, crate::codec::Cold { details, ..seen.cold.clone() })
                }
                _ => return Ok(Some(judgement)),
            };
            if let Some(placed) = self.write(key, Change::of(Some(&seen), hot, cold)).await? {
                receipts.push(placed.receipt);
                return Ok(Some(judgement));
            }
            tries.again()?;
        }
    }
}
