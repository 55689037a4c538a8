//! The details of an entry, as the cold record or the base of the extras has them.

use serde::{Deserialize, Serialize};

use super::{CodecError, micros, timestamp};
use crate::entry::Details;
use crate::key::SessionId;
use crate::source::SessionSource;

#[derive(Serialize, Deserialize)]
pub(super) struct DetailsV1<'a> {
    display_name: Option<&'a str>,
    platform: Option<&'a str>,
    chat_type: Option<&'a str>,
    #[serde(borrow)]
    origin: Option<SourceV1<'a>>,
    cost_status: Option<&'a str>,
    expiry_finalized: bool,
    resume_reason: Option<&'a str>,
    last_resume_marked_at: Option<u64>,
    active_turn_token: Option<&'a str>,
    active_turn_started_at: Option<u64>,
    is_fresh_reset: bool,
    was_auto_reset: bool,
    auto_reset_reason: Option<&'a str>,
    reset_had_activity: bool,
    prev_session_id: Option<&'a str>,
}

#[derive(Serialize, Deserialize)]
struct SourceV1<'a> {
    platform: &'a str,
    chat_type: &'a str,
    chat_id: Option<&'a str>,
    chat_name: Option<&'a str>,
    user_id: Option<&'a str>,
    user_name: Option<&'a str>,
    thread_id: Option<&'a str>,
    chat_topic: Option<&'a str>,
    user_id_alt: Option<&'a str>,
    chat_id_alt: Option<&'a str>,
    scope_id: Option<&'a str>,
    guild_id: Option<&'a str>,
    parent_chat_id: Option<&'a str>,
    message_id: Option<&'a str>,
    profile: Option<&'a str>,
    prospective_thread_id: Option<&'a str>,
}

pub(super) fn details_v1(d: &Details) -> DetailsV1<'_> {
    DetailsV1 {
        display_name: d.display_name.as_deref(),
        platform: d.platform.as_deref(),
        chat_type: d.chat_type.as_deref(),
        origin: d.origin.as_ref().map(source_v1),
        cost_status: d.cost_status.as_deref(),
        expiry_finalized: d.expiry_finalized,
        resume_reason: d.resume_reason.as_deref(),
        last_resume_marked_at: d.last_resume_marked_at.map(micros),
        active_turn_token: d.active_turn_token.as_deref(),
        active_turn_started_at: d.active_turn_started_at.map(micros),
        is_fresh_reset: d.is_fresh_reset,
        was_auto_reset: d.was_auto_reset,
        auto_reset_reason: d.auto_reset_reason.as_deref(),
        reset_had_activity: d.reset_had_activity,
        prev_session_id: d.prev_session_id.as_ref().map(SessionId::as_str),
    }
}

pub(super) fn details(d: DetailsV1<'_>) -> Result<Details, CodecError> {
    Ok(Details {
        display_name: d.display_name.map(Into::into),
        platform: d.platform.map(Into::into),
        chat_type: d.chat_type.map(Into::into),
        origin: d.origin.map(source),
        cost_status: d.cost_status.map(Into::into),
        expiry_finalized: d.expiry_finalized,
        resume_reason: d.resume_reason.map(Into::into),
        last_resume_marked_at: d.last_resume_marked_at.map(timestamp),
        active_turn_token: d.active_turn_token.map(Into::into),
        active_turn_started_at: d.active_turn_started_at.map(timestamp),
        is_fresh_reset: d.is_fresh_reset,
        was_auto_reset: d.was_auto_reset,
        auto_reset_reason: d.auto_reset_reason.map(Into::into),
        reset_had_activity: d.reset_had_activity,
        prev_session_id: d.prev_session_id.map(SessionId::new).transpose()?,
    })
}

fn source_v1(s: &SessionSource) -> SourceV1<'_> {
    SourceV1 {
        platform: &s.platform,
        chat_type: &s.chat_type,
        chat_id: s.chat_id.as_deref(),
        chat_name: s.chat_name.as_deref(),
        user_id: s.user_id.as_deref(),
        user_name: s.user_name.as_deref(),
        thread_id: s.thread_id.as_deref(),
        chat_topic: s.chat_topic.as_deref(),
        user_id_alt: s.user_id_alt.as_deref(),
        chat_id_alt: s.chat_id_alt.as_deref(),
        scope_id: s.scope_id.as_deref(),
        guild_id: s.guild_id.as_deref(),
        parent_chat_id: s.parent_chat_id.as_deref(),
        message_id: s.message_id.as_deref(),
        profile: s.profile.as_deref(),
        prospective_thread_id: s.prospective_thread_id.as_deref(),
    }
}

fn source(s: SourceV1<'_>) -> SessionSource {
    SessionSource {
        platform: s.platform.into(),
        chat_type: s.chat_type.into(),
        chat_id: s.chat_id.map(Into::into),
        chat_name: s.chat_name.map(Into::into),
        user_id: s.user_id.map(Into::into),
        user_name: s.user_name.map(Into::into),
        thread_id: s.thread_id.map(Into::into),
        chat_topic: s.chat_topic.map(Into::into),
        user_id_alt: s.user_id_alt.map(Into::into),
        chat_id_alt: s.chat_id_alt.map(Into::into),
        scope_id: s.scope_id.map(Into::into),
        guild_id: s.guild_id.map(Into::into),
        parent_chat_id: s.parent_chat_id.map(Into::into),
        message_id: s.message_id.map(Into::into),
        profile: s.profile.map(Into::into),
        prospective_thread_id: s.prospective_thread_id.map(Into::into),
    }
}
