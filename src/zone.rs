//! Time zones: what a naive local time in a gateway's file means.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, FixedOffset, MappedLocalTime, NaiveDateTime, Offset, TimeZone as _, Utc};
use chrono_tz::{GapInfo, Tz};

use crate::error::Error;
use crate::time::Timestamp;

/// The time zone that naive times are local to: an IANA name (`Europe/Berlin`) or a fixed offset (`+02:00`).
///
/// ```
/// use cloakroom::TimeZone;
/// let zone: TimeZone = "Europe/Berlin".parse()?;
/// assert_eq!(zone.to_string(), "Europe/Berlin");
/// assert_eq!("+0530".parse::<TimeZone>()?.to_string(), "+05:30");
/// # Ok::<(), cloakroom::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeZone(Zone);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Zone {
    Named(Tz),
    Fixed(FixedOffset),
}

/// What the clocks did at a local time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hour {
    /// It happened once.
    Plain,
    /// It never happened: the clocks were put forward over it.
    Skipped,
    /// It happened twice: the clocks were put back.
    Repeated,
}

impl TimeZone {
    /// Coordinated universal time.
    pub const UTC: Self = Self(Zone::Named(Tz::UTC));

    /// The machine's own: the variable `TZ` if it names one, else what the system is set to, else UTC.
    #[must_use]
    pub fn local() -> Self {
        let named = |name: String| name.trim_start_matches(':').parse::<Tz>().ok();
        let set = std::env::var("TZ").ok().and_then(named);
        let zone = set.or_else(|| iana_time_zone::get_timezone().ok().and_then(named));
        Self(Zone::Named(zone.unwrap_or(Tz::UTC)))
    }

    /// The moment of a local time, in microseconds since 1970. A repeated time is the earlier of the two; a skipped
    /// one is moved forward by what the clocks skipped.
    pub(crate) fn resolve(self, local: NaiveDateTime) -> (i64, Hour) {
        let (offset, hour) = match self.0 {
            Zone::Fixed(offset) => (offset, Hour::Plain),
            Zone::Named(zone) => match zone.offset_from_local_datetime(&local) {
                MappedLocalTime::Single(offset) => (offset.fix(), Hour::Plain),
                MappedLocalTime::Ambiguous(one, other) => {
                    let (one, other) = (one.fix(), other.fix());
                    // The clocks were further ahead the first time.
                    (if one.local_minus_utc() > other.local_minus_utc() { one } else { other }, Hour::Repeated)
                }
                MappedLocalTime::None => {
                    let before = GapInfo::new(&local, &zone).and_then(|gap| gap.begin);
                    let offset = before.map_or_else(|| Utc.fix(), |(_, offset)| offset.fix());
                    (offset, Hour::Skipped)
                }
            },
        };
        let seconds = i64::from(offset.local_minus_utc());
        (local.and_utc().timestamp_micros().saturating_sub(seconds * 1_000_000), hour)
    }

    /// The local time at a moment.
    pub(crate) fn local_time(self, time: Timestamp) -> NaiveDateTime {
        let time = DateTime::<Utc>::from(time);
        match self.0 {
            Zone::Named(zone) => time.with_timezone(&zone).naive_local(),
            Zone::Fixed(offset) => time.with_timezone(&offset).naive_local(),
        }
    }
}

impl fmt::Display for TimeZone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Zone::Named(zone) => f.write_str(zone.name()),
            Zone::Fixed(offset) => write!(f, "{offset}"),
        }
    }
}

impl serde::Serialize for TimeZone {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl FromStr for TimeZone {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let text = text.trim();
        let zone = match text {
            "Z" | "z" => Some(Zone::Named(Tz::UTC)),
            // Names of zones hold signs too (Etc/GMT+2), but none begins with one.
            _ if text.starts_with(['+', '-']) => offset(text).map(Zone::Fixed),
            _ => text.parse().ok().map(Zone::Named),
        };
        zone.map(Self).ok_or_else(|| Error::TimeZone { name: text.chars().take(64).collect() })
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

#[cfg(test)]
mod tests {
    use super::*;

    fn local(text: &str) -> NaiveDateTime {
        text.parse().unwrap()
    }

    fn resolved(zone: &str, text: &str) -> (String, Hour) {
        let (micros, hour) = zone.parse::<TimeZone>().unwrap().resolve(local(text));
        (Timestamp::from_micros(micros).to_string(), hour)
    }

    #[test]
    fn hours_that_the_clocks_skip_or_repeat() {
        let cases = [
            ("Europe/Berlin", "2026-01-01T12:00:00", "2026-01-01T11:00:00.000000Z", Hour::Plain),
            ("Europe/Berlin", "2026-03-29T02:30:00", "2026-03-29T01:30:00.000000Z", Hour::Skipped),
            ("Europe/Berlin", "2026-10-25T02:30:00", "2026-10-25T00:30:00.000000Z", Hour::Repeated),
            ("America/New_York", "2026-03-08T02:00:00", "2026-03-08T07:00:00.000000Z", Hour::Skipped),
            ("America/New_York", "2026-11-01T01:59:59", "2026-11-01T05:59:59.000000Z", Hour::Repeated),
            // Half an hour.
            ("Australia/Lord_Howe", "2026-10-04T02:15:00", "2026-10-03T15:45:00.000000Z", Hour::Skipped),
            ("+05:30", "2026-01-01T12:00:00", "2026-01-01T06:30:00.000000Z", Hour::Plain),
            ("-0330", "2026-01-01T12:00:00", "2026-01-01T15:30:00.000000Z", Hour::Plain),
        ];
        for (zone, text, expected, hour) in cases {
            assert_eq!(resolved(zone, text), (expected.into(), hour), "{zone} {text}");
        }
    }

    #[test]
    fn names_and_offsets_and_nothing_else() {
        for (text, name) in
            [("UTC", "UTC"), ("Z", "UTC"), ("Asia/Tokyo", "Asia/Tokyo"), ("+02", "+02:00"), ("-0230", "-02:30")]
        {
            assert_eq!(text.parse::<TimeZone>().map(|zone| zone.to_string()).unwrap_or_default(), name);
        }
        for bad in ["", "+", "+24:00", "+1:00", "+02:00:00:00", "Mars/Base", "02:00", "+0é", "é"] {
            assert!(bad.parse::<TimeZone>().is_err(), "{bad}");
        }
    }
}
