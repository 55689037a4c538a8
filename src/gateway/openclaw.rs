//! The fields of OpenClaw's files.

use std::collections::BTreeMap;

use super::Shown::{Always, IfSet};
use super::{Field, Shown, Slot};
use crate::json;

/// Kinds of chats in keys.
const DIRECT: [&str; 2] = ["direct", "dm"];
const SHARED: [&str; 2] = ["group", "channel"];
/// What OpenClaw says in place of a provider where it began a turn itself.
const ITSELF: [&str; 3] = ["heartbeat", "cron-event", "exec-event"];

/// The platform of an entry's conversation: what its key names first, since that never changes; then the channel
/// that the entry belongs to. The others say where the last reply went or the last message came from, and a glance at
/// the conversation in the web chat moves them. Cron runs have none.
pub(super) fn platform(key: &str, fields: &BTreeMap<&str, &str>) -> Option<String> {
    let in_key = || {
        let parts: Vec<&str> = key.split(':').collect();
        match parts.as_slice() {
            ["agent", _, platform, kind, _, ..] if DIRECT.contains(kind) || SHARED.contains(kind) => Some(*platform),
            ["agent", _, platform, _account, kind, _, ..] if DIRECT.contains(kind) => Some(*platform),
            _ => None,
        }
    };
    let text = |path: &[&str]| {
        let (first, rest) = path.split_first()?;
        let found = rest.iter().try_fold((*fields.get(first)?).to_owned(), |text, name| {
            let fields = json::fields(&text).ok()??;
            // Names come with their quotes.
            fields.into_iter().find(|(field, _)| field.trim_matches('"') == *name).map(|(_, text)| text)
        });
        json::string(&found?).filter(|text| !text.is_empty())
    };
    let provider = || text(&["origin", "provider"]).filter(|provider| !ITSELF.contains(&provider.as_str()));
    in_key()
        .filter(|platform| !platform.is_empty())
        .map(str::to_owned)
        .or_else(|| text(&["channel"]))
        .or_else(|| text(&["delivery", "context", "channel"]))
        .or_else(|| text(&["delivery", "route", "channel"]))
        .or_else(|| text(&["deliveryContext", "channel"]))
        .or_else(|| text(&["lastChannel"]))
        .or_else(provider)
}

const fn field(name: &'static str, slot: Slot, shown: Shown) -> Field {
    Field { name, slot, shown }
}

/// OpenClaw knows fewer than we do; the rest appears, where it is set, under names in its style.
pub(super) const FIELDS: &[Field] = &[
    field("sessionId", Slot::SessionId, Always),
    field("updatedAt", Slot::UpdatedAt, Always),
    // What a person did, where `updatedAt` is anything that changed the entry.
    field("lastInteractionAt", Slot::LastInteraction, IfSet),
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
