//! Time zones: what a naive local time in a gateway's file means.

mod machine;
mod rules;
#[cfg(test)]
mod tests;

use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use chrono::{DateTime, FixedOffset, NaiveDateTime, TimeDelta, Utc};

use self::machine::Named;
pub(crate) use self::rules::Hour;
use self::rules::Rules;
use crate::error::{Error, Result};
use crate::time::Timestamp;

/// What the system is set to.
const LOCALTIME: &str = "/etc/localtime";

/// The time zone that naive times are local to: an IANA name (`Europe/Berlin`), a fixed offset (`+02:00`), or a POSIX
/// rule with daylight saving time (`EST5EDT,M3.2.0,M11.1.0`).
///
/// Names mean what this machine's zoneinfo says; where that has none, what came with this program. Two zones are equal
/// if they are written alike.
///
/// ```
/// use cloakroom::TimeZone;
/// let zone: TimeZone = "Europe/Berlin".parse()?;
/// assert_eq!(zone.to_string(), "Europe/Berlin");
/// assert_eq!("+0530".parse::<TimeZone>()?.to_string(), "+05:30");
/// # Ok::<(), cloakroom::Error>(())
/// ```
#[derive(Clone)]
pub struct TimeZone {
    /// How it is written; UTC without one.
    text: Option<Arc<str>>,
    rules: Rules,
}

impl TimeZone {
    /// Coordinated universal time.
    pub const UTC: Self = Self { text: None, rules: Rules::UTC };

    /// The machine's own, as the C library finds it: by `TZ` (a name, a path, a rule; UTC if it is empty), and if that
    /// is not set, by the content of `/etc/localtime`; UTC if that is not there.
    ///
    /// It is written as an IANA name if one says the same, or else as a rule. Where neither does, as for the zones of
    /// `right/` that count leap seconds, it is written as its file with a sum of its content, and can be read only
    /// where that file is, and has not changed.
    ///
    /// # Errors
    /// [`Error::LocalTimeZone`] where the C library would silently take UTC because it makes nothing of what is set: an
    /// unknown name, a missing zoneinfo, a damaged file. Let the user name the zone then.
    pub fn local() -> Result<Self> {
        machine::local(std::env::var_os("TZ").as_deref(), Path::new(LOCALTIME)).map(Self::from)
    }

    /// How many seconds clocks are ahead of UTC at a moment; fewer than zero if they are behind.
    #[must_use]
    pub fn utc_offset(&self, at: Timestamp) -> i32 {
        i32::try_from(self.rules.offset(at.as_micros().div_euclid(1_000_000))).unwrap_or_default()
    }

    /// The moment of a local time, in microseconds since 1970. A repeated time is the earlier of the two; a skipped
    /// one is moved forward by what the clocks skipped.
    pub(crate) fn resolve(&self, local: NaiveDateTime) -> (i64, Hour) {
        let local = local.and_utc();
        let (offset, hour) = self.rules.offset_at_local(local.timestamp());
        (local.timestamp_micros().saturating_sub(offset * 1_000_000), hour)
    }

    /// The local time at a moment.
    pub(crate) fn local_time(&self, time: Timestamp) -> NaiveDateTime {
        let utc = DateTime::<Utc>::from(time).naive_utc();
        utc.checked_add_signed(TimeDelta::seconds(self.utc_offset(time).into())).unwrap_or(utc)
    }
}

impl From<Named> for TimeZone {
    fn from((text, rules): Named) -> Self {
        Self { text: Some(text.into()), rules }
    }
}

impl PartialEq for TimeZone {
    fn eq(&self, other: &Self) -> bool {
        self.text() == other.text()
    }
}

impl Eq for TimeZone {}

impl TimeZone {
    fn text(&self) -> &str {
        self.text.as_deref().unwrap_or("UTC")
    }
}

impl fmt::Debug for TimeZone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TimeZone({self})")
    }
}

impl fmt::Display for TimeZone {
    /// As [`FromStr`] reads it back.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

impl serde::Serialize for TimeZone {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for TimeZone {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl FromStr for TimeZone {
    type Err = Error;

    /// Reads a name, an offset, a rule, or the path of a file of zoneinfo, absolute or below its directory.
    fn from_str(text: &str) -> Result<Self, Error> {
        let text = text.trim();
        let zone = match text {
            "Z" | "z" => Some(Self::UTC),
            // Names of zones hold signs too (Etc/GMT+2), but none begins with one.
            _ if text.starts_with(['+', '-']) => {
                offset(text).and_then(|offset| Some((offset.to_string(), Rules::fixed(offset)?))).map(Self::from)
            }
            _ => machine::by_text(text).map(Self::from),
        };
        zone.ok_or_else(|| Error::TimeZone { name: text.chars().take(64).collect() })
    }
}

/// `+02`, `+0200`, `+02:00` or `+02:00:00`, less than a day.
pub(crate) fn offset(text: &str) -> Option<FixedOffset> {
    let (sign, rest) = match text.split_at_checked(1)? {
        ("+", rest) => (1, rest),
        ("-", rest) => (-1, rest),
        _ => return None,
    };
    let digits: String = match rest.split(':').collect::<Vec<_>>().as_slice() {
        [digits] => (*digits).into(),
        parts if parts.iter().all(|part| part.len() == 2) => parts.concat(),
        _ => return None,
    };
    if !matches!(digits.len(), 2 | 4 | 6) || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let part = |at: usize| digits.get(at..at + 2).map_or(Some(0), |part| part.parse::<i32>().ok());
    let (hours, minutes, seconds) = (part(0)?, part(2)?, part(4)?);
    if hours > 23 || minutes > 59 || seconds > 59 {
        return None;
    }
    FixedOffset::east_opt(sign * (hours * 3600 + minutes * 60 + seconds))
}
