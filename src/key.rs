//! Names: [`SessionKey`] says which conversation, [`SessionId`] which run of it.
//!
//! The two are separate types with no conversion between them. A guard that is asked with an id where it expects a
//! key answers "not active" for everything, and live work is pruned; here that mistake does not compile.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The longest session key, in bytes.
pub const MAX_KEY_BYTES: usize = 1024;
/// The longest session id, in bytes. An id becomes a file name elsewhere.
pub const MAX_ID_BYTES: usize = 255;

/// Why a text is no session key or session id.
///
/// The message names the rule and never repeats the text: keys hold chat and user ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// The text has no bytes.
    #[error("it is empty")]
    Empty,
    /// The text has more bytes than allowed.
    #[error("it is {len} bytes long, and {max} is the limit")]
    TooLong {
        /// Its length in bytes.
        len: usize,
        /// The limit in bytes.
        max: usize,
    },
    /// The text holds a control character.
    #[error("it holds a control character at byte {at}")]
    Control {
        /// Byte offset of the character.
        at: usize,
    },
    /// The text starts with a character that is kept for notes and paths.
    #[error("it begins with {0:?}, which no key may")]
    Start(char),
    /// The text starts like a Windows path, `C:`.
    #[error("it begins with a drive letter and a colon")]
    Drive,
    /// The text holds `..`, which climbs out of a directory.
    #[error("it holds \"..\"")]
    DotDot,
    /// The text holds a path separator.
    #[error("it holds {0:?}, and an id becomes a file name")]
    Separator(char),
    /// The text is no revision or token.
    #[error("it is not sixteen lower-case hexadecimal digits")]
    Digits,
}

/// The longest name of a lease, in bytes.
pub const MAX_LEASE_NAME_BYTES: usize = 64;

/// Whether a text may name a lease: 1 to 64 bytes without control characters.
pub(crate) fn check_lease_name(text: &str) -> Result<(), NameError> {
    check_length(text, MAX_LEASE_NAME_BYTES)
}

/// The rules that keys and ids share.
fn check_common(text: &str, max: usize) -> Result<(), NameError> {
    check_length(text, max)?;
    if text.contains("..") {
        return Err(NameError::DotDot);
    }
    let mut start = text.chars();
    if matches!((start.next(), start.next()), (Some(drive), Some(':')) if drive.is_ascii_alphabetic()) {
        return Err(NameError::Drive);
    }
    Ok(())
}

/// The rules that all names share.
fn check_length(text: &str, max: usize) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    if text.len() > max {
        return Err(NameError::TooLong { len: text.len(), max });
    }
    if let Some((at, _)) = text.char_indices().find(|(_, c)| c.is_control()) {
        return Err(NameError::Control { at });
    }
    Ok(())
}

/// Names a conversation: `agent:main:discord:group:<chat>:<user>`.
///
/// Owned by the gateway and unique in a store. 1 to 1,024 bytes of UTF-8 without control characters and without
/// `..`, not beginning with `_`, `/`, `\` or a drive letter. Cloning shares the text.
///
/// `Debug` and `Display` are redacted: the platform and the chat type stay, the rest is a short stable hash, so that
/// lines of a log can be matched without naming anybody. The hash is a pseudonym and no secret: whoever knows a key can
/// compute it. [`SessionKey::as_str`] is the raw text.
///
/// ```
/// use cloakroom::SessionKey;
/// let key: SessionKey = "agent:main:discord:group:1234:5678".parse()?;
/// assert!(key.to_string().starts_with("discord:group:#"));
/// assert!(!format!("{key:?}").contains("1234"));
/// # Ok::<(), cloakroom::key::NameError>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionKey(Arc<str>);

impl SessionKey {
    /// Checks `text` and wraps it.
    ///
    /// # Errors
    /// [`NameError`], which says what a key may not be.
    pub fn new(text: impl AsRef<str>) -> Result<Self, NameError> {
        let text = text.as_ref();
        check_common(text, MAX_KEY_BYTES)?;
        match text.chars().next() {
            Some(c @ ('_' | '/' | '\\')) => Err(NameError::Start(c)),
            _ => Ok(Self(text.into())),
        }
    }

    /// The raw text. It holds chat and user ids: keep it out of logs.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is `part`, or goes on behind it with a colon, or `part` ends with one: `agent:a:dm:56:7` is within
    /// `agent:a:dm:56`, and `agent:a:dm:567` is not.
    #[must_use]
    pub fn is_within(&self, part: &str) -> bool {
        let rest = self.0.strip_prefix(part);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(':') || part.is_empty() || part.ends_with(':'))
    }

    /// The platform and the chat type, where the key has the shape `<a>:<b>:<platform>:<chat type>:…`.
    fn public_parts(&self) -> Option<(&str, &str)> {
        let mut parts = self.0.split(':').skip(2);
        let (platform, chat_type) = (parts.next()?, parts.next()?);
        let is_word = !platform.is_empty()
            && platform.len() <= 24
            && platform.bytes().all(|b| b.is_ascii_lowercase() || b == b'_' || b == b'-');
        (is_word && CHAT_TYPES.contains(&chat_type)).then_some((platform, chat_type))
    }
}

/// The chat types that gateways use. Anything else in that place of a key may be a name, and is hidden.
const CHAT_TYPES: [&str; 11] =
    ["dm", "direct", "private", "group", "supergroup", "channel", "thread", "forum", "topic", "room", "webhook"];

impl fmt::Display for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hash = crc32fast::hash(self.0.as_bytes());
        match self.public_parts() {
            Some((platform, chat_type)) => write!(f, "{platform}:{chat_type}:#{hash:08x}"),
            None => write!(f, "#{hash:08x}"),
        }
    }
}

impl fmt::Debug for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionKey({self})")
    }
}

/// Names one run of a conversation, for instance the transcript `20260612_000653_p67x61eb`.
///
/// 1 to 255 bytes of UTF-8 without control characters, `/`, `\`, `..` or a leading drive letter. An id never stands
/// in for a [`SessionKey`]: there is no conversion, and two keys may share one id.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SessionId(Arc<str>);

impl SessionId {
    /// Checks `text` and wraps it.
    ///
    /// # Errors
    /// [`NameError`], which says what an id may not be.
    pub fn new(text: impl AsRef<str>) -> Result<Self, NameError> {
        let text = text.as_ref();
        check_common(text, MAX_ID_BYTES)?;
        match text.chars().find(|c| matches!(c, '/' | '\\')) {
            Some(c) => Err(NameError::Separator(c)),
            None => Ok(Self(text.into())),
        }
    }

    /// The raw text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Borrow<str> for SessionKey {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl FromStr for SessionKey {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::new(text)
    }
}

impl FromStr for SessionId {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::new(text)
    }
}

impl Serialize for SessionKey {
    /// Writes the raw text: serialized entries are data, not logs.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl Serialize for SessionId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for SessionKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

impl<'de> Deserialize<'de> for SessionId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}
