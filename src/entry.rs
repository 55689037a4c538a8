//! What a store holds for a key: [`SessionEntry`] and its parts.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use crate::json;
use crate::key::{NameError, SessionId, SessionKey};
use crate::source::SessionSource;
use crate::time::Timestamp;

/// What is known of one conversation.
///
/// Put together from a small record that each touch rewrites (`updated_at`, the flags, the counters) and a larger one
/// that only structural changes do. Whatever else a gateway stored is in [`Extras`].
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SessionEntry {
    /// Names the conversation.
    #[serde(rename = "session_key")]
    pub key: SessionKey,
    /// Names the run that is live now.
    pub session_id: SessionId,
    /// Names this state of the entry: new at each change of anything but `updated_at`, the marker of a turn, and
    /// `last_interaction` where a message moves it.
    pub revision: Revision,
    /// When this run began.
    pub created_at: Timestamp,
    /// When the user was last active. Bookkeeping never moves it, unless it lies in the future: see
    /// [`touch`](crate::SessionStore::touch).
    pub updated_at: Timestamp,
    /// When a person last wrote, where the gateway tells that apart from other activity: OpenClaw's `lastInteractionAt`.
    /// Idle [policies](crate::reset::ResetPolicy) count from it where it is set, pruning never does.
    ///
    /// The store sets none by itself. A time that is set follows the user's messages:
    /// [`resolve`](crate::SessionStore::resolve) and its kin move it to now where they touch the entry, and a session that
    /// starts in the place of another by [`reset`](crate::SessionStore::reset), by one of these or by a
    /// [`repoint`](crate::SessionStore::repoint) that touches begins with now. [`touch`](crate::SessionStore::touch), a turn, and
    /// [`modify`](crate::SessionStore::modify) leave it alone, but that the draft may set it: a gateway that tells messages
    /// by these verbs sets it at each. A time more than a day in the future counts for nothing, and the next
    /// change sets it back to `updated_at`.
    pub last_interaction: Option<Timestamp>,
    /// Replaced by a fresh session at the next message, and never pruned.
    pub suspended: bool,
    /// Interrupted by a restart: the next message continues this run. Does not protect from pruning.
    pub resume_pending: bool,
    /// Never pruned, and replaced by no policy. Unlike suspension it does not end the session.
    pub pinned: bool,
    /// Token counters and cost of this run.
    #[serde(flatten)]
    pub usage: Usage,
    /// What callers may change freely, see [`update`](crate::SessionStore::update).
    #[serde(flatten)]
    pub details: Details,
    /// Bytes of the names and the texts of its [`Extras`]; zero if it has none.
    pub extras_bytes: u32,
}

impl SessionEntry {
    /// An entry that begins at `at`, with nothing used, no flag set and no details.
    #[must_use]
    pub fn new(key: SessionKey, session_id: SessionId, at: Timestamp) -> Self {
        Self {
            key,
            session_id,
            revision: Revision::NONE,
            created_at: at,
            updated_at: at,
            last_interaction: None,
            suspended: false,
            resume_pending: false,
            pinned: false,
            usage: Usage::ZERO,
            details: Details::default(),
            extras_bytes: 0,
        }
    }
}

/// Names one state of an entry. Two are equal or not; nothing else can be told from them.
///
/// A key never has the same revision twice: not after it was removed and made again, and not after a backup was restored.
/// Each opening of a store begins at a random number and counts on from there. On a cluster each is a random number.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Revision(u64);

impl Revision {
    /// That of an entry which is in no store yet.
    pub const NONE: Self = Self(0);

    pub(crate) fn from_number(number: u64) -> Self {
        Self(number)
    }

    pub(crate) fn number(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Revision {
    /// Sixteen hexadecimal digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Revision {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let digits = text.len() == 16 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let number = digits.then(|| u64::from_str_radix(text, 16).ok()).flatten();
        number.map(Self).ok_or(NameError::Digits)
    }
}

impl Serialize for Revision {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Revision {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl fmt::Debug for SessionEntry {
    /// Without names, and with the key redacted.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionEntry")
            .field("key", &self.key)
            .field("session_id", &self.session_id)
            .field("revision", &self.revision)
            .field("created_at", &self.created_at)
            .field("updated_at", &self.updated_at)
            .field("suspended", &self.suspended)
            .field("resume_pending", &self.resume_pending)
            .field("pinned", &self.pinned)
            .field("usage", &self.usage)
            .finish_non_exhaustive()
    }
}

/// Whether a change counts as activity.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Touch {
    /// It does: `updated_at` becomes now, and never goes back.
    #[default]
    Yes,
    /// It does not: `updated_at` stays.
    No,
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
    pub fn add(&mut self, turn: &Self) {
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

impl fmt::Debug for Details {
    /// Without names.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
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

impl fmt::Debug for Extras {
    /// Only how much there is.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
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
        self.insert_checked(name.into(), value.to_string());
    }

    /// Sets a field to a JSON text, whose numbers keep all their digits. Returns whether it is one; nothing is set if it is
    /// not, or nests deeper than 63.
    ///
    /// ```
    /// let mut extras = cloakroom::Extras::default();
    /// assert!(extras.insert_text("id", "123456789012345678901234567890"));
    /// assert!(!extras.insert_text("id", "1 2"));
    /// assert!(!extras.insert_text("deep", &("[".repeat(64) + &"]".repeat(64))));
    /// assert_eq!(extras.text("id"), Some("123456789012345678901234567890"));
    /// ```
    #[must_use]
    pub fn insert_text(&mut self, name: impl Into<String>, text: &str) -> bool {
        let Ok(normal) = json::normal_field(text) else { return false };
        self.insert_checked(name.into(), normal);
        true
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
    pub(crate) fn insert_checked(&mut self, name: String, text: String) {
        self.fields.insert(name, text);
    }
}
