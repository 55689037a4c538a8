//! The fields of Hermes' files.

use super::Shown::{Alias, Always, IfSet};
use super::{Field, Shown, Slot};

const fn field(name: &'static str, slot: Slot, shown: Shown) -> Field {
    Field { name, slot, shown }
}

/// Those that came later are left out while they are null, as older versions do.
pub(super) const FIELDS: &[Field] = &[
    field("session_key", Slot::Key, Always),
    field("session_id", Slot::SessionId, Always),
    field("created_at", Slot::CreatedAt, Always),
    field("updated_at", Slot::UpdatedAt, Always),
    field("display_name", Slot::DisplayName, Always),
    field("platform", Slot::Platform, Always),
    field("chat_type", Slot::ChatType, Always),
    field("input_tokens", Slot::InputTokens, Always),
    field("output_tokens", Slot::OutputTokens, Always),
    field("cache_read_tokens", Slot::CacheReadTokens, Always),
    field("cache_write_tokens", Slot::CacheWriteTokens, Always),
    field("total_tokens", Slot::TotalTokens, Always),
    field("last_prompt_tokens", Slot::LastPromptTokens, Always),
    field("estimated_cost_usd", Slot::EstimatedCostUsd, Always),
    field("cost_status", Slot::CostStatus, Always),
    field("expiry_finalized", Slot::ExpiryFinalized, Always),
    // Its name in older files.
    field("memory_flushed", Slot::ExpiryFinalized, Alias),
    field("suspended", Slot::Suspended, Always),
    field("resume_pending", Slot::ResumePending, Always),
    field("resume_reason", Slot::ResumeReason, Always),
    field("last_resume_marked_at", Slot::LastResumeMarkedAt, Always),
    field("active_turn_token", Slot::ActiveTurnToken, IfSet),
    field("active_turn_started_at", Slot::ActiveTurnStartedAt, IfSet),
    field("is_fresh_reset", Slot::IsFreshReset, Always),
    field("was_auto_reset", Slot::WasAutoReset, Always),
    field("auto_reset_reason", Slot::AutoResetReason, Always),
    field("reset_had_activity", Slot::ResetHadActivity, Always),
    field("prev_session_id", Slot::PrevSessionId, IfSet),
    field("origin", Slot::Origin, IfSet),
];
