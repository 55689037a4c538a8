//! [`TurnToken`], and its text.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Names one turn. No two turns of a store have the same, and newer ones are greater. On a cluster that holds of the turns of one
/// key alone, as far as the receipts of `begin_turn` are awaited: a failover may take back a turn whose receipt was not, and the
/// next one may have a lesser token than that. So await the receipt before you hand a token to somebody who compares tokens.
///
/// As text it is sixteen hexadecimal digits, so that tokens are in order as text too. It may be kept and read back, by
/// another process as well.
///
/// ```
/// use cloakroom::turns::TurnToken;
/// let token: TurnToken = "000000000300002a".parse()?;
/// assert_eq!(token.to_string(), "000000000300002a");
/// assert!("42".parse::<TurnToken>().is_err());
/// # Ok::<(), cloakroom::turns::TurnTokenError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TurnToken(pub(crate) u64);

/// How many digits a token has as text.
const DIGITS: usize = 16;

/// A text is no [`TurnToken`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a turn token is sixteen hexadecimal digits, as `TurnToken` prints it")]
#[non_exhaustive]
pub struct TurnTokenError;

impl fmt::Display for TurnToken {
    /// Sixteen hexadecimal digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:0DIGITS$x}", self.0)
    }
}

impl FromStr for TurnToken {
    type Err = TurnTokenError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // `from_str_radix` takes a sign and any number of digits.
        if text.len() != DIGITS || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(TurnTokenError);
        }
        u64::from_str_radix(text, 16).map(Self).map_err(|_| TurnTokenError)
    }
}

impl Serialize for TurnToken {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for TurnToken {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}
