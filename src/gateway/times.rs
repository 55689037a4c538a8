//! Times as the gateways write them: ISO 8601, mostly naive, or milliseconds since 1970.

use chrono::{DateTime, NaiveDate, NaiveDateTime, NaiveTime, SecondsFormat, Timelike, Utc};

use super::{Gateway, Slot};
use crate::json;
use crate::time::Timestamp;
use crate::zone::{Hour, TimeZone, offset};

/// How times are read and written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Times<'a> {
    pub(crate) gateway: Gateway,
    /// Where naive times are at home.
    pub(crate) zone: &'a TimeZone,
}

/// A time that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Moment {
    /// Microseconds since 1970; may be outside what a [`Timestamp`] holds.
    pub(crate) micros: i64,
    pub(crate) hour: Hour,
    /// It depends on the zone.
    pub(crate) is_naive: bool,
}

impl Moment {
    fn naive(local: NaiveDateTime, zone: &TimeZone) -> Self {
        let (micros, hour) = zone.resolve(local);
        Self { micros, hour, is_naive: true }
    }

    fn exact(micros: i64) -> Self {
        Self { micros, hour: Hour::Plain, is_naive: false }
    }
}

/// Reads a JSON text as a time; `None` if it is none.
pub(crate) fn read_time(text: &str, times: Times<'_>) -> Option<Moment> {
    match times.gateway {
        Gateway::Hermes => read_iso(&json::string(text)?, times.zone),
        Gateway::OpenClaw => read_millis(text).map(Moment::exact),
    }
}

/// Milliseconds, perhaps with a fraction.
fn read_millis(text: &str) -> Option<i64> {
    if json::is_integer(text) {
        // More digits than fit are far in the future or the past all the same.
        let bound = if text.starts_with('-') { i64::MIN } else { i64::MAX };
        return Some(text.parse::<i64>().unwrap_or(bound).saturating_mul(1000));
    }
    let starts = text.starts_with(|c: char| c.is_ascii_digit() || c == '-');
    let millis = text.parse::<f64>().ok().filter(|millis| starts && millis.is_finite())?;
    // The cast saturates.
    Some((millis * 1000.0).round() as i64)
}

/// What Python's `isoformat` writes and its `fromisoformat` reads: a date, any separator, a time with or without
/// seconds and fraction, with or without an offset.
fn read_iso(text: &str, zone: &TimeZone) -> Option<Moment> {
    let date = NaiveDate::parse_from_str(text.get(..10)?, "%Y-%m-%d").ok()?;
    let mut rest = text.get(10..)?.chars();
    if rest.next().is_none() {
        return Some(Moment::naive(date.and_time(NaiveTime::MIN), zone));
    }
    let rest = rest.as_str();
    let end = rest.find(['Z', 'z', '+', '-']).unwrap_or(rest.len());
    let (time, suffix) = rest.split_at_checked(end)?;
    let time = read_clock(time)?;
    let local = NaiveDateTime::new(date, time);
    let offset = match suffix {
        "" => return Some(Moment::naive(local, zone)),
        "Z" | "z" => 0,
        text => i64::from(offset(text)?.local_minus_utc()),
    };
    Some(Moment::exact(local.and_utc().timestamp_micros().saturating_sub(offset * 1_000_000)))
}

/// `HH:MM`, `HH:MM:SS` or `HH:MM:SS.f…`; digits beyond a microsecond are cut off.
fn read_clock(text: &str) -> Option<NaiveTime> {
    let (whole, fraction) = text.split_once(['.', ',']).unwrap_or((text, "0"));
    let parts: Vec<u32> = whole.split(':').map(two_digits).collect::<Option<_>>()?;
    let (hour, minute, second) = match parts.as_slice() {
        [hour, minute] => (*hour, *minute, 0),
        [hour, minute, second] => (*hour, *minute, *second),
        _ => return None,
    };
    if fraction.is_empty() || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let micros: String = fraction.chars().chain("000000".chars()).take(6).collect();
    NaiveTime::from_hms_micro_opt(hour, minute, second, micros.parse().ok()?)
}

fn two_digits(text: &str) -> Option<u32> {
    (text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().ok())?
}

/// Writes a time as JSON text. `written` is how the file wrote it before: a time with an offset stays one.
pub(crate) fn write_time(time: Timestamp, slot: Slot, times: Times<'_>, written: Option<&str>) -> String {
    if times.gateway == Gateway::OpenClaw {
        return (time.as_micros() / 1000).to_string();
    }
    let written = written.and_then(json::string).unwrap_or_default();
    let ends_with_z = written.ends_with(['Z', 'z']);
    let clock = written.get(11..).unwrap_or_default();
    if ends_with_z || clock.contains(['+', '-']) || slot == Slot::ActiveTurnStartedAt {
        let utc = DateTime::<Utc>::from(time);
        let digits = if utc.timestamp_subsec_micros() == 0 { SecondsFormat::Secs } else { SecondsFormat::Micros };
        return json::quote(&utc.to_rfc3339_opts(digits, ends_with_z));
    }
    let local = times.zone.local_time(time);
    // As Python does: no fraction if it is zero, else six digits.
    let layout = if local.nanosecond() == 0 { "%Y-%m-%dT%H:%M:%S" } else { "%Y-%m-%dT%H:%M:%S%.6f" };
    json::quote(&local.format(layout).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn iso_times() {
        let zone = "Asia/Tokyo".parse().unwrap();
        let times = Times { gateway: Gateway::Hermes, zone: &zone };
        let read =
            |text: &str| read_time(&json::quote(text), times).map(|m| Timestamp::from_micros(m.micros).to_string());
        let cases = [
            ("2026-06-03T00:41:19.752658", "2026-06-02T15:41:19.752658Z"),
            ("2026-06-03T00:41:19", "2026-06-02T15:41:19.000000Z"),
            ("2026-06-03 00:41", "2026-06-02T15:41:00.000000Z"),
            ("2026-06-03", "2026-06-02T15:00:00.000000Z"),
            ("2026-06-03T00:41:19.5Z", "2026-06-03T00:41:19.500000Z"),
            ("2026-06-03T00:41:19.123456789+02:00", "2026-06-02T22:41:19.123456Z"),
            ("2026-06-03T00:41:19-0330", "2026-06-03T04:11:19.000000Z"),
        ];
        for (text, expected) in cases {
            assert_eq!(read(text).as_deref(), Some(expected), "{text}");
        }
        for bad in [
            "",
            "yesterday",
            "2026-13-01T00:00:00",
            "2026-06-03T25:00:00",
            "2026-06-03T1:2:3",
            "2026-06-03T00:00:00.",
            "2026-06-03T00:00:00+",
            "2026-06-0\u{e9}T00:00",
            "2026-06-03T",
        ] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }

    #[test]
    fn milliseconds() {
        assert_eq!(read_millis("1774868423845"), Some(1_774_868_423_845_000));
        assert_eq!(read_millis("1774868423845.25"), Some(1_774_868_423_845_250));
        assert_eq!(read_millis("1.774868423845e12"), Some(1_774_868_423_845_000));
        assert_eq!(read_millis(&"9".repeat(40)), Some(i64::MAX));
        assert_eq!(read_millis("-1"), Some(-1000));
        for bad in ["null", "NaN", "Infinity", "\"1\"", "true", "{}"] {
            assert_eq!(read_millis(bad), None, "{bad}");
        }
    }
}
