//! The fields of OpenClaw's files.

use super::Shown::{Alias, Always, IfSet};
use super::{Field, Shown, Slot};

const fn field(name: &'static str, slot: Slot, shown: Shown) -> Field {
    Field { name, slot, shown }
}

/// OpenClaw knows fewer than we do; the rest appears, where it is set, under names in its style.
pub(super) const FIELDS: &[Field] = &[
    field("sessionId", Slot::SessionId, Always),
    field("updatedAt", Slot::UpdatedAt, Always),
    // What the user did, where `updatedAt` is anything that changed the entry.
    field("lastInteractionAt", Slot::UpdatedAt, Alias),
    field("sessionStartedAt", Slot::CreatedAt, Always),
    field("displayName", Slot::DisplayName, IfSet),
    field("channel", Slot::Platform, IfSet),
    field("chatType", Slot::ChatType, IfSet),
    field("inputTokens", Slot::InputTokens, IfSet),
    field("outputTokens", Slot::OutputTokens, IfSet),
    field("cacheRead", Slot::CacheReadTokens, IfSet),
    field("cacheWrite", Slot::CacheWriteTokens, IfSet),
    field("totalTokens", Slot::TotalTokens, IfSet),
    field("lastPromptTokens", Slot::LastPromptTokens, IfSet),
    field("estimatedCostUsd", Slot::EstimatedCostUsd, IfSet),
    field("costStatus", Slot::CostStatus, IfSet),
    field("expiryFinalized", Slot::ExpiryFinalized, IfSet),
    field("suspended", Slot::Suspended, IfSet),
    field("resumePending", Slot::ResumePending, IfSet),
    field("resumeReason", Slot::ResumeReason, IfSet),
    field("lastResumeMarkedAt", Slot::LastResumeMarkedAt, IfSet),
    field("activeTurnToken", Slot::ActiveTurnToken, IfSet),
    field("activeTurnStartedAt", Slot::ActiveTurnStartedAt, IfSet),
    field("isFreshReset", Slot::IsFreshReset, IfSet),
    field("wasAutoReset", Slot::WasAutoReset, IfSet),
    field("autoResetReason", Slot::AutoResetReason, IfSet),
    field("resetHadActivity", Slot::ResetHadActivity, IfSet),
    field("prevSessionId", Slot::PrevSessionId, IfSet),
    // OpenClaw's own `origin` has another shape and is kept as it is.
    field("cloakroomOrigin", Slot::Origin, IfSet),
];
