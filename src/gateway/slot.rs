//! The places of an entry that fields of a file go to.

use super::typed::Typed;
use crate::entry::SessionEntry;
use crate::key::SessionId;
use crate::source::SessionSource;
use crate::time::Timestamp;

/// Names a place of a [`SessionEntry`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Slot {
    Key,
    SessionId,
    CreatedAt,
    UpdatedAt,
    LastInteraction,
    DisplayName,
    Platform,
    ChatType,
    InputTokens,
    OutputTokens,
    CacheReadTokens,
    CacheWriteTokens,
    TotalTokens,
    LastPromptTokens,
    EstimatedCostUsd,
    CostStatus,
    ExpiryFinalized,
    Suspended,
    ResumePending,
    ResumeReason,
    LastResumeMarkedAt,
    ActiveTurnToken,
    ActiveTurnStartedAt,
    IsFreshReset,
    WasAutoReset,
    AutoResetReason,
    ResetHadActivity,
    PrevSessionId,
    Origin,
}

/// What kind of value belongs into a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Text,
    Id,
    Flag,
    Count,
    Cost,
    Time,
    Source,
}

/// The place itself.
enum Place<'a> {
    /// It cannot be changed.
    Fixed,
    Id(&'a mut SessionId),
    OptionalId(&'a mut Option<SessionId>),
    Text(&'a mut Option<String>),
    Flag(&'a mut bool),
    Count(&'a mut u64),
    Cost(&'a mut f64),
    Time(&'a mut Timestamp),
    OptionalTime(&'a mut Option<Timestamp>),
    Source(&'a mut Option<SessionSource>),
}

impl Slot {
    pub(crate) fn kind(self) -> Kind {
        match self {
            Self::SessionId | Self::PrevSessionId => Kind::Id,
            Self::CreatedAt
            | Self::UpdatedAt
            | Self::LastInteraction
            | Self::LastResumeMarkedAt
            | Self::ActiveTurnStartedAt => Kind::Time,
            Self::InputTokens
            | Self::OutputTokens
            | Self::CacheReadTokens
            | Self::CacheWriteTokens
            | Self::TotalTokens
            | Self::LastPromptTokens => Kind::Count,
            Self::EstimatedCostUsd => Kind::Cost,
            Self::ExpiryFinalized
            | Self::Suspended
            | Self::ResumePending
            | Self::IsFreshReset
            | Self::WasAutoReset
            | Self::ResetHadActivity => Kind::Flag,
            Self::Origin => Kind::Source,
            Self::Key
            | Self::DisplayName
            | Self::Platform
            | Self::ChatType
            | Self::CostStatus
            | Self::ResumeReason
            | Self::ActiveTurnToken
            | Self::AutoResetReason => Kind::Text,
        }
    }

    fn place(self, entry: &mut SessionEntry) -> Place<'_> {
        let SessionEntry { usage, details, .. } = entry;
        match self {
            Self::Key => Place::Fixed,
            Self::SessionId => Place::Id(&mut entry.session_id),
            Self::CreatedAt => Place::Time(&mut entry.created_at),
            Self::UpdatedAt => Place::Time(&mut entry.updated_at),
            Self::LastInteraction => Place::OptionalTime(&mut entry.last_interaction),
            Self::DisplayName => Place::Text(&mut details.display_name),
            Self::Platform => Place::Text(&mut details.platform),
            Self::ChatType => Place::Text(&mut details.chat_type),
            Self::InputTokens => Place::Count(&mut usage.input_tokens),
            Self::OutputTokens => Place::Count(&mut usage.output_tokens),
            Self::CacheReadTokens => Place::Count(&mut usage.cache_read_tokens),
            Self::CacheWriteTokens => Place::Count(&mut usage.cache_write_tokens),
            Self::TotalTokens => Place::Count(&mut usage.total_tokens),
            Self::LastPromptTokens => Place::Count(&mut usage.last_prompt_tokens),
            Self::EstimatedCostUsd => Place::Cost(&mut usage.estimated_cost_usd),
            Self::CostStatus => Place::Text(&mut details.cost_status),
            Self::ExpiryFinalized => Place::Flag(&mut details.expiry_finalized),
            Self::Suspended => Place::Flag(&mut entry.suspended),
            Self::ResumePending => Place::Flag(&mut entry.resume_pending),
            Self::ResumeReason => Place::Text(&mut details.resume_reason),
            Self::LastResumeMarkedAt => Place::OptionalTime(&mut details.last_resume_marked_at),
            Self::ActiveTurnToken => Place::Text(&mut details.active_turn_token),
            Self::ActiveTurnStartedAt => Place::OptionalTime(&mut details.active_turn_started_at),
            Self::IsFreshReset => Place::Flag(&mut details.is_fresh_reset),
            Self::WasAutoReset => Place::Flag(&mut details.was_auto_reset),
            Self::AutoResetReason => Place::Text(&mut details.auto_reset_reason),
            Self::ResetHadActivity => Place::Flag(&mut details.reset_had_activity),
            Self::PrevSessionId => Place::OptionalId(&mut details.prev_session_id),
            Self::Origin => Place::Source(&mut details.origin),
        }
    }

    /// What is there. The entry is not changed; one way through the places serves both directions.
    pub(crate) fn get(self, entry: &mut SessionEntry) -> Typed {
        match self.place(entry) {
            Place::Fixed => Typed::Text(entry.key.as_str().into()),
            Place::Id(id) => Typed::Text(id.as_str().into()),
            Place::OptionalId(id) => id.as_ref().map_or(Typed::Null, |id| Typed::Text(id.as_str().into())),
            Place::Text(text) => text.clone().map_or(Typed::Null, Typed::Text),
            Place::Flag(flag) => Typed::Flag(*flag),
            Place::Count(count) => Typed::Count(*count),
            Place::Cost(cost) => Typed::Cost(*cost),
            Place::Time(time) => Typed::Time(*time),
            Place::OptionalTime(time) => time.map_or(Typed::Null, Typed::Time),
            Place::Source(source) => source.clone().map_or(Typed::Null, |source| Typed::Source(Box::new(source))),
        }
    }

    /// Puts a value there. One of another kind leaves the place as it is.
    pub(crate) fn set(self, entry: &mut SessionEntry, value: Typed) {
        match (self.place(entry), value) {
            (Place::Text(place), Typed::Text(text)) => *place = Some(text),
            (Place::Flag(place), Typed::Flag(flag)) => *place = flag,
            (Place::Count(place), Typed::Count(count)) => *place = count,
            (Place::Cost(place), Typed::Cost(cost)) => *place = cost,
            (Place::Time(place), Typed::Time(time)) => *place = time,
            (Place::OptionalTime(place), Typed::Time(time)) => *place = Some(time),
            (Place::Source(place), Typed::Source(source)) => *place = Some(*source),
            (Place::Id(place), Typed::Text(text)) => {
                if let Ok(id) = SessionId::new(text) {
                    *place = id;
                }
            }
            (Place::OptionalId(place), Typed::Text(text)) => *place = SessionId::new(text).ok(),
            _ => {}
        }
    }
}
