//! What a store holds for a key: [`SessionEntry`] and its parts.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::json;
use crate::key::{SessionId, SessionKey};
use crate::source::SessionSource;
use crate::time::Timestamp;

/// What is known of one conversation.
///
/// Put together from a small record that each touch rewrites (`updated_at`, the flags, the counters) and a larger one
/// that only structural changes do. Whatever else a gateway stored is in [`Extras`].
#[derive(Clone, Serialize)]
pub struct SessionEntry {
    /// Names the conversation.
    #[serde(rename = "session_key")]
    pub key: SessionKey,
    /// Names the run that is live now.
    pub session_id: SessionId,
    /// When this run began.
    pub created_at: Timestamp,
    /// When the user was last active. Bookkeeping never moves it, unless it lies in the future: see
    /// [`touch`](crate::SessionStore::touch).
    pub updated_at: Timestamp,
    /// Replaced by a fresh session at the next message, and never pruned.
    pub suspended: bool,
    /// Interrupted by a restart: the next message continues this run. Does not protect from pruning.
    pub resume_pending: bool,
    /// Token counters and cost of this run.
    #[serde(flatten)]
    pub usage: Usage,
    /// What callers may change freely, see [`update`](crate::SessionStore::update).
    #[serde(flatten)]
    pub details: Details,
    /// Bytes of the names and the texts of its [`Extras`]; zero if it has none.
    pub extras_bytes: u32,
    /// Which extras those are: a number that a store never uses twice. Zero if there are none.
    #[serde(skip)]
    pub(crate) extras_generation: u64,
}

impl PartialEq for SessionEntry {
    /// What the fields say. Of the extras only the size is among them.
    fn eq(&self, other: &Self) -> bool {
        let Self {
            key,
            session_id,
            created_at,
            updated_at,
            suspended,
            resume_pending,
            usage,
            details,
            extras_bytes,
            extras_generation: _,
        } = other;
        (&self.key, &self.session_id, self.created_at, self.updated_at) == (key, session_id, *created_at, *updated_at)
            && (self.suspended, self.resume_pending, self.usage) == (*suspended, *resume_pending, *usage)
            && self.details == *details
            && self.extras_bytes == *extras_bytes
    }
}

impl std::fmt::Debug for SessionEntry {
    /// Without names, and with the key redacted.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SessionEntry")
            .field("key", &self.key)
            .field("session_id", &self.session_id)
            .field("created_at", &self.created_at)
            .field("updated_at", &self.updated_at)
            .field("suspended", &self.suspended)
            .field("resume_pending", &self.resume_pending)
            .field("usage", &self.usage)
            .finish_non_exhaustive()
    }
}

/// Token counters and cost of a session.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Usage {
    /// Tokens read.
    pub input_tokens: u64,
    /// Tokens written.
    pub output_tokens: u64,
    /// Tokens read from the model's prompt cache.
    pub cache_read_tokens: u64,
    /// Tokens written to it.
    pub cache_write_tokens: u64,
    /// All tokens, as the gateway adds them up.
    pub total_tokens: u64,
    /// Tokens of the latest prompt: a reading, not a sum.
    pub last_prompt_tokens: u64,
    /// Estimated cost in US dollars. Finite: see [`record_usage`](crate::SessionStore::record_usage).
    pub estimated_cost_usd: f64,
}

impl PartialEq for Usage {
    /// The cost is compared by its bits, so that every entry equals itself: what is removed only if it is unchanged could
    /// never be removed otherwise.
    fn eq(&self, other: &Self) -> bool {
        let counts = |u: &Self| {
            [
                u.input_tokens,
                u.output_tokens,
                u.cache_read_tokens,
                u.cache_write_tokens,
                u.total_tokens,
                u.last_prompt_tokens,
                u.estimated_cost_usd.to_bits(),
            ]
        };
        counts(self) == counts(other)
    }
}

impl Usage {
    /// Nothing used yet.
    pub const ZERO: Self = Self {
        input_tokens: 0,
        output_tokens: 0,
        cache_read_tokens: 0,
        cache_write_tokens: 0,
        total_tokens: 0,
        last_prompt_tokens: 0,
        estimated_cost_usd: 0.0,
    };

    /// Adds the use of one turn: sums add up (saturating), `last_prompt_tokens` is replaced.
    pub(crate) fn add(&mut self, turn: &Self) {
        self.input_tokens = self.input_tokens.saturating_add(turn.input_tokens);
        self.output_tokens = self.output_tokens.saturating_add(turn.output_tokens);
        self.cache_read_tokens = self.cache_read_tokens.saturating_add(turn.cache_read_tokens);
        self.cache_write_tokens = self.cache_write_tokens.saturating_add(turn.cache_write_tokens);
        self.total_tokens = self.total_tokens.saturating_add(turn.total_tokens);
        self.last_prompt_tokens = turn.last_prompt_tokens;
        // What is not finite would stay so.
        let finite = |cost: f64| if cost.is_finite() { cost } else { 0.0 };
        let sum = finite(self.estimated_cost_usd) + finite(turn.estimated_cost_usd);
        self.estimated_cost_usd = sum.clamp(f64::MIN, f64::MAX);
    }
}

/// The fields of an entry that a caller may change with [`update`](crate::SessionStore::update). None of them moves
/// `updated_at`.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Details {
    /// The name that people see.
    pub display_name: Option<String>,
    /// `discord`, `telegram`, …
    pub platform: Option<String>,
    /// `dm`, `group`, `thread`, …
    pub chat_type: Option<String>,
    /// Where the conversation takes place.
    pub origin: Option<SessionSource>,
    /// How sure the cost is: `unknown`, `estimated`, …
    pub cost_status: Option<String>,
    /// The end of the session has been dealt with (older files: `memory_flushed`).
    pub expiry_finalized: bool,
    /// Why a resume is pending.
    pub resume_reason: Option<String>,
    /// When it was marked.
    pub last_resume_marked_at: Option<Timestamp>,
    /// The turn that is being worked on, if one is.
    pub active_turn_token: Option<String>,
    /// When that turn began.
    pub active_turn_started_at: Option<Timestamp>,
    /// The user asked for this fresh start.
    pub is_fresh_reset: bool,
    /// The store or the gateway did.
    pub was_auto_reset: bool,
    /// Which rule made it.
    pub auto_reset_reason: Option<String>,
    /// The session before had been used.
    pub reset_had_activity: bool,
    /// The session before.
    pub prev_session_id: Option<SessionId>,
}

impl std::fmt::Debug for Details {
    /// Without names.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Details")
            .field("platform", &self.platform)
            .field("chat_type", &self.chat_type)
            .field("prev_session_id", &self.prev_session_id)
            .finish_non_exhaustive()
    }
}

impl Details {
    /// The details of a session that begins with a message from `source`.
    #[must_use]
    pub fn from_source(source: SessionSource) -> Self {
        Self {
            display_name: source.chat_name.clone().or_else(|| source.user_name.clone()),
            platform: Some(source.platform.clone()),
            chat_type: Some(source.chat_type.clone()),
            origin: Some(source),
            ..Self::default()
        }
    }
}

/// What a gateway keeps with an entry and Cloakroom does not read: named JSON texts, up to 1 MiB in all.
///
/// The text is kept as it was written, so numbers of any size and precision survive. `metadata` is one of the names.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Extras {
    /// Name → JSON text.
    fields: BTreeMap<String, String>,
    /// How an imported file wrote the entry, where the fields alone do not tell. Import and export know its form.
    pub(crate) form: Option<String>,
}

impl std::fmt::Debug for Extras {
    /// Only how much there is.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Extras({} fields)", self.fields.len())
    }
}

/// Which [`Extras`] a fresh session keeps of the one before it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeepExtras {
    /// None.
    #[default]
    None,
    /// All of them.
    All,
    /// Those with these names.
    Named(Vec<String>),
}

impl KeepExtras {
    /// Those with these names.
    pub fn named(names: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self::Named(names.into_iter().map(Into::into).collect())
    }

    /// What is kept of `old`. Reads nothing if nothing is to be kept.
    pub(crate) fn of<E>(&self, old: impl FnOnce() -> Result<Extras, E>) -> Result<Extras, E> {
        let names = match self {
            Self::None => return Ok(Extras::default()),
            Self::All => None,
            Self::Named(names) => Some(names),
        };
        let mut fields = old()?.fields;
        fields.retain(|name, _| names.is_none_or(|names| names.contains(name)));
        Ok(Extras { fields, form: None })
    }
}

impl Extras {
    /// The name under which a gateway's own notes are kept.
    pub const METADATA: &str = "metadata";

    pub(crate) fn from_parts(fields: Vec<(&str, &str)>, form: Option<&str>) -> Self {
        let fields = fields.into_iter().map(|(name, text)| (name.into(), text.into())).collect();
        Self { fields, form: form.map(Into::into) }
    }

    /// Whether there is nothing to keep.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.fields.is_empty() && self.form.is_none()
    }

    /// The JSON text of a field.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        self.fields.get(name).map(String::as_str)
    }

    /// A field as a value, with U+FFFD for each half of a surrogate pair; `None` if it is missing or holds what JSON
    /// cannot say (Python writes `NaN`).
    #[must_use]
    pub fn value(&self, name: &str) -> Option<Value> {
        serde_json::from_str(&json::whole(self.text(name)?)).ok()
    }

    /// Sets a field.
    pub fn insert(&mut self, name: impl Into<String>, value: &Value) {
        self.insert_text(name.into(), value.to_string());
    }

    /// Removes a field. Returns whether it was there.
    pub fn remove(&mut self, name: &str) -> bool {
        self.fields.remove(name).is_some()
    }

    /// All fields with their JSON text, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.fields.iter().map(|(name, text)| (name.as_str(), text.as_str()))
    }

    /// Bytes of all names and texts.
    pub(crate) fn bytes(&self) -> usize {
        let fields: usize = self.iter().map(|(name, text)| name.len() + text.len()).sum();
        fields + self.form.as_ref().map_or(0, String::len)
    }

    /// Sets a field to a JSON text that is known to be one.
    pub(crate) fn insert_text(&mut self, name: String, text: String) {
        self.fields.insert(name, text);
    }
}
