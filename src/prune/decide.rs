//! What becomes of an entry that is due: the order of the questions, and how the answers are counted.

use std::time::Duration;

use super::PrunePolicy;
use super::guard::{ActivityGuard, Answer, ask};
use super::report::{ProtectedBy, PruneReport};
use crate::codec::{Activity, PINNED, SUSPENDED};
use crate::error::Result;
use crate::events::PruneReason;
use crate::key::{SessionId, SessionKey};

/// An entry that is past the cutoff, or that a cap wants gone.
pub(crate) struct Due<'a> {
    pub(crate) seen: &'a Activity,
    pub(crate) idle: Duration,
    /// A lease holds it.
    pub(crate) is_held: bool,
    pub(crate) reason: PruneReason,
}

/// What a pass takes entries from.
pub(crate) trait Shelf {
    /// Removes the entry, or looks whether it could be removed. Returns its session; `None` if it has changed since it was
    /// seen, or is held by now and that protects it.
    fn remove(&mut self, seen: &Activity, dry_run: bool, is_overridden: bool) -> Result<Option<SessionId>>;

    /// Whether somebody else has to say first that no work is in progress. Asked before the removal, and by default nobody.
    fn is_unreviewed(&mut self, _seen: &Activity, _dry_run: bool) -> Result<bool> {
        Ok(false)
    }

    /// Tells of an entry that was removed.
    fn removed(&mut self, key: &SessionKey, reason: PruneReason, session: &SessionId);
}

/// What became of an entry that was due.
pub(crate) enum Outcome {
    /// It is gone, or would be.
    Removed,
    Kept(ProtectedBy),
    /// It had changed since it was seen.
    Changed,
    /// Somebody else has to say first that no work is in progress.
    Unreviewed,
}

/// Asks what protects an entry, from cheap to dear, and removes it if nothing does.
pub(crate) fn decide(
    report: &mut PruneReport,
    policy: &PrunePolicy,
    guard: &dyn ActivityGuard,
    due: &Due<'_>,
    shelf: &mut dyn Shelf,
) -> Result<Outcome> {
    let Due { seen: Activity { key, hot }, idle, is_held, reason } = *due;
    // What is at work for longer is protected by that no more.
    let is_overridden = policy.max_active_age.is_some_and(|max| idle > max);
    let mut is_active = is_held;
    let protected = if hot.is(SUSPENDED) {
        Some(ProtectedBy::Suspended)
    } else if hot.is(PINNED) {
        Some(ProtectedBy::Pinned)
    } else if is_held && !is_overridden {
        Some(ProtectedBy::Held)
    } else {
        match ask(guard, key) {
            Answer::Idle => None,
            Answer::Active => {
                is_active = true;
                (!is_overridden).then_some(ProtectedBy::Active)
            }
            Answer::Failed => Some(ProtectedBy::GuardFailed),
        }
    };
    if let Some(reason) = protected {
        report.keep(key, reason, idle);
        return Ok(Outcome::Kept(reason));
    }
    if shelf.is_unreviewed(due.seen, report.dry_run)? {
        report.kept_unreviewed += 1;
        return Ok(Outcome::Unreviewed);
    }
    let removed = shelf.remove(due.seen, report.dry_run, is_overridden);
    let session = match report.unreadable.pass(removed)? {
        Some(Some(session)) => session,
        Some(None) => {
            report.touched_meanwhile += 1;
            return Ok(Outcome::Changed);
        }
        // To remove it would lose what a repair may save.
        None => {
            report.keep(key, ProtectedBy::Unreadable, idle);
            return Ok(Outcome::Kept(ProtectedBy::Unreadable));
        }
    };
    if is_active {
        tracing::warn!(%key, idle_seconds = idle.as_secs(), "held or called active for too long; removed");
    }
    if !report.dry_run {
        tracing::debug!(%key, idle_seconds = idle.as_secs(), "pruned");
        shelf.removed(key, reason, &session);
    }
    report.removed += 1;
    report.removed_active += u64::from(is_active);
    report.removed_over_entries += u64::from(reason == PruneReason::Entries);
    report.removed_over_bytes += u64::from(reason == PruneReason::Bytes);
    Ok(Outcome::Removed)
}
