//! The rules of the verbs: what becomes of the two records of an entry. Pure: no engine, no clock, no lock.

use std::time::Duration;

use crate::answer::ReplaceReason;
use crate::codec::{AS_IMPORTED, Cold, Hot, PINNED, RESUME_PENDING, SUSPENDED, Turn};
use crate::entry::{Details, SessionEntry, Touch, Usage};
use crate::how::{Repoint, Resolve, passed_on};
use crate::key::{SessionId, SessionKey};
use crate::time::Timestamp;

/// Both records of an entry.
pub(crate) type Both<'a> = (&'a Hot, &'a Cold);

/// The two records of an entry. Where its extras are is not known yet.
pub(crate) fn records(entry: SessionEntry) -> (Hot, Cold) {
    let SessionEntry { updated_at, last_interaction, revision, usage, .. } = entry;
    let mut hot = Hot { updated_at, flags: 0, revision, last_interaction, usage };
    hot.set(SUSPENDED, entry.suspended);
    hot.set(PINNED, entry.pinned);
    hot.set(RESUME_PENDING, entry.resume_pending);
    let SessionEntry { session_id, created_at, details, .. } = entry;
    (hot, Cold { session_id, created_at, details, extras: None })
}

/// What a caller sees of two records.
pub(crate) fn entry(key: &SessionKey, hot: &Hot, cold: Cold) -> SessionEntry {
    SessionEntry {
        key: key.clone(),
        session_id: cold.session_id,
        revision: hot.revision,
        created_at: cold.created_at,
        updated_at: hot.updated_at,
        last_interaction: hot.last_interaction,
        suspended: hot.is(SUSPENDED),
        resume_pending: hot.is(RESUME_PENDING),
        pinned: hot.is(PINNED),
        usage: hot.usage,
        details: cold.details,
        extras_bytes: cold.extras.as_ref().map_or(0, |extras| extras.bytes),
    }
}

/// Activity at `now`; a time that is right never goes back.
pub(crate) fn touched(hot: Hot, now: Timestamp) -> Hot {
    Hot { updated_at: hot.updated_at.max(now), ..hot }
}

/// A message of the user at `now`, which is activity too.
pub(crate) fn touched_by_message(hot: Hot, now: Timestamp) -> Hot {
    Hot { last_interaction: hot.last_interaction.map(|at| at.max(now)), ..touched(hot, now) }
}

/// Whether the session has used any tokens.
pub(crate) fn had_activity(hot: &Hot) -> bool {
    hot.usage != Usage::ZERO
}

/// Why a message starts a fresh session in the place of one that is there, if it does; `due` is what a policy says.
pub(crate) fn replaced(hot: &Hot, fresh: bool, due: Option<ReplaceReason>) -> Option<ReplaceReason> {
    if hot.is(SUSPENDED) {
        return Some(ReplaceReason::Suspended);
    }
    if fresh { Some(ReplaceReason::Requested) } else { due }
}

/// A session where there was none.
pub(crate) fn created(how: &Resolve<'_>, id: SessionId, now: Timestamp) -> (Hot, Cold) {
    (Hot::fresh(now), Cold { session_id: id, created_at: now, details: how.details(None), extras: None })
}

/// A session in the place of one that a message replaces.
pub(crate) fn replacement(
    (hot, cold): Both<'_>,
    how: &Resolve<'_>,
    reason: ReplaceReason,
    id: SessionId,
    now: Timestamp,
) -> (Hot, Cold) {
    let by_rule = reason.by_rule();
    let details = Details {
        is_fresh_reset: by_rule.is_none(),
        was_auto_reset: by_rule.is_some(),
        auto_reset_reason: by_rule.map(|reason| reason.as_str().into()),
        reset_had_activity: had_activity(hot),
        prev_session_id: Some(cold.session_id.clone()),
        ..how.details(Some(&cold.details))
    };
    renewed(hot, id, details, now)
}

/// A session in the place of one that the user wants no more.
pub(crate) fn reset((hot, cold): Both<'_>, id: SessionId, now: Timestamp) -> (Hot, Cold) {
    renewed(hot, id, Details { is_fresh_reset: true, ..successor(hot, cold) }, now)
}

/// Where a key leads, and is to lead.
pub(crate) enum Lead {
    /// To another session than was expected.
    Elsewhere,
    /// There already.
    There,
    /// There, with these records. They have no extras, or name those that the old ones do.
    Switch(Hot, Box<Cold>),
}

/// Leads a key to another session.
pub(crate) fn repointed((hot, cold): Both<'_>, id: SessionId, how: &Repoint, now: Timestamp) -> Lead {
    if how.expected.as_ref().is_some_and(|expected| *expected != cold.session_id) {
        return Lead::Elsewhere;
    }
    if id == cold.session_id {
        return Lead::There;
    }
    let (mut new_hot, new_cold) = if how.keep_usage {
        let details = Details { prev_session_id: Some(cold.session_id.clone()), ..cold.details.clone() };
        (*hot, Cold { session_id: id, details, ..cold.clone() })
    } else {
        renewed(hot, id, successor(hot, cold), now)
    };
    new_hot.updated_at = if how.touch == Touch::Yes { hot.updated_at.max(now) } else { hot.updated_at };
    if how.touch == Touch::No {
        new_hot.last_interaction = hot.last_interaction;
    }
    Lead::Switch(new_hot, Box::new(new_cold))
}

/// Marks a resume as pending, with the reason and the time, or takes that back.
pub(crate) fn with_resume((hot, cold): Both<'_>, reason: Option<(&str, Timestamp)>) -> (Hot, Cold) {
    let mut hot = *hot;
    hot.set(RESUME_PENDING, reason.is_some());
    let details = Details {
        resume_reason: reason.map(|(reason, _)| reason.into()),
        last_resume_marked_at: reason.map(|(_, now)| now),
        ..cold.details.clone()
    };
    (hot, Cold { details, ..cold.clone() })
}

/// What is to become of a turn that was interrupted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Recovered {
    /// Its entry is gone or has another session.
    Orphaned,
    /// Its entry is suspended.
    Suspended,
    /// It began too long ago.
    Stale,
    /// A resume is pending already; whether its time is missing.
    Pending { untimed: bool },
    /// A resume is to be marked.
    Resumable,
}

/// Judges a turn that was interrupted by the entry of its key.
pub(crate) fn recovered(found: Option<Both<'_>>, turn: &Turn, max_age: Option<Duration>, now: Timestamp) -> Recovered {
    let is_stale = max_age.is_some_and(|max_age| now.since(turn.started_at) > max_age);
    match found {
        None => Recovered::Orphaned,
        Some((_, cold)) if cold.session_id != turn.session_id => Recovered::Orphaned,
        Some((hot, _)) if hot.is(SUSPENDED) => Recovered::Suspended,
        Some(_) if is_stale => Recovered::Stale,
        Some((hot, cold)) if hot.is(RESUME_PENDING) => {
            Recovered::Pending { untimed: cold.details.last_resume_marked_at.is_none() }
        }
        Some(_) => Recovered::Resumable,
    }
}

/// Keeps the times that moved between a look at an entry, `old`, and its change, unless the change sets others.
pub(crate) fn keep_times(new: &mut SessionEntry, old: &SessionEntry, found: &Hot) {
    if new.updated_at == old.updated_at {
        new.updated_at = found.updated_at;
    }
    if new.last_interaction == old.last_interaction {
        new.last_interaction = found.last_interaction;
    }
}

/// How much of an edited entry is to be written.
pub(crate) enum Edited {
    /// Nothing is new.
    Nothing,
    /// The hot record.
    Hot(Hot),
    /// Both.
    Both(Hot, Box<Cold>),
}

/// What is new of an edited entry, which keeps its extras where they do not change.
pub(crate) fn edited(
    found: Option<Both<'_>>,
    new: SessionEntry,
    changes_extras: bool,
    touched_at: Option<Timestamp>,
) -> Edited {
    let (mut hot, mut cold) = records(new);
    if let Some(now) = touched_at {
        hot = touched(hot, now);
    }
    let Some((old, there)) = found else { return Edited::Both(hot, Box::new(cold)) };
    cold.extras.clone_from(&there.extras);
    if changes_extras || cold != *there {
        return Edited::Both(hot, Box::new(cold));
    }
    // The flags that callers do not see stay.
    hot = Hot { revision: old.revision, flags: hot.flags | (old.flags & AS_IMPORTED), ..hot };
    if hot == *old && touched_at.is_none() { Edited::Nothing } else { Edited::Hot(hot) }
}

/// The details of a session that takes the place of another.
fn successor(hot: &Hot, cold: &Cold) -> Details {
    Details {
        reset_had_activity: had_activity(hot),
        prev_session_id: Some(cold.session_id.clone()),
        ..passed_on(&cold.details)
    }
}

/// The records of a fresh session in the place of an old one.
fn renewed(old: &Hot, id: SessionId, details: Details, now: Timestamp) -> (Hot, Cold) {
    let mut hot = Hot::fresh(now.max(old.updated_at));
    // These are the conversation's.
    hot.set(PINNED, old.is(PINNED));
    hot.last_interaction = old.last_interaction.map(|_| hot.updated_at);
    (hot, Cold { session_id: id, created_at: now, details, extras: None })
}
