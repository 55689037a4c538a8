//! The KEY of a command.

use std::str::FromStr;

use anyhow::Result;
use cloakroom::key::NameError;
use cloakroom::{Error, SessionKey, Sessions};

use super::failure::Failure;

/// A session key as an operator gives it: as it is, or as a table shows it, where a character that would steer the
/// terminal stands as `\u{202e}`.
#[derive(Debug, Clone)]
pub(super) struct KeyArg {
    given: SessionKey,
    /// The same without its escapes, where it has any.
    unescaped: Option<SessionKey>,
}

impl FromStr for KeyArg {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let unescaped = unescape(text).and_then(|text| SessionKey::new(text).ok());
        Ok(Self { given: SessionKey::new(text)?, unescaped })
    }
}

impl KeyArg {
    /// The keys that it may mean, the likeliest first.
    pub(super) fn candidates(&self) -> impl Iterator<Item = &SessionKey> {
        std::iter::once(&self.given).chain(&self.unescaped)
    }

    pub(super) fn given(&self) -> &SessionKey {
        &self.given
    }

    /// The key that has an entry. A key may hold what looks like an escape, so the text as it is comes first.
    pub(super) fn find(&self, store: &dyn Sessions) -> Result<SessionKey> {
        for key in self.candidates() {
            match store.contains(key) {
                Ok(false) => {}
                // One that cannot be decoded is there, and may be removed.
                Ok(true) | Err(Error::DamagedRecord { .. }) => return Ok(key.clone()),
                Err(error) => return Err(error.into()),
            }
        }
        Err(Failure::NoEntry(self.given.clone()).into())
    }
}

/// The text with its escapes undone; `None` if it has none.
fn unescape(text: &str) -> Option<String> {
    let mut parts = text.split("\\u{");
    let mut plain = parts.next()?.to_owned();
    let mut found = false;
    for part in parts {
        let escaped = part.split_once('}').and_then(|(code, rest)| {
            let code = u32::from_str_radix(code, 16).ok()?;
            Some((char::from_u32(code)?, rest))
        });
        match escaped {
            Some((c, rest)) => {
                found = true;
                plain.push(c);
                plain.push_str(rest);
            }
            None => {
                plain.push_str("\\u{");
                plain.push_str(part);
            }
        }
    }
    found.then_some(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_escapes_are_undone() {
        assert_eq!(unescape("a\\u{202e}b\\u{200f}").as_deref(), Some("a\u{202e}b\u{200f}"));
        assert_eq!(unescape("a\\u{202e}\\u{zz}\\u{d800}\\u{41").as_deref(), Some("a\u{202e}\\u{zz}\\u{d800}\\u{41"));
        assert_eq!(unescape("plain"), None);
        assert_eq!(unescape("a\\u{}"), None);
    }
}
