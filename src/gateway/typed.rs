//! Values of fields, between JSON text and the entry.

use super::times::{Times, read_time, write_time};
use super::{Gateway, Kind, Slot};
use crate::json;
use crate::key::SessionId;
use crate::source::SessionSource;
use crate::time::Timestamp;

/// The value of a field.
#[derive(Debug, Clone)]
pub(crate) enum Typed {
    Null,
    Text(String),
    Flag(bool),
    Count(u64),
    Cost(f64),
    Time(Timestamp),
    Source(Box<SessionSource>),
}

impl PartialEq for Typed {
    /// Costs are compared by their bits: -0.0 is not 0.0.
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Null, Self::Null) => true,
            (Self::Text(a), Self::Text(b)) => a == b,
            (Self::Flag(a), Self::Flag(b)) => a == b,
            (Self::Count(a), Self::Count(b)) => a == b,
            (Self::Cost(a), Self::Cost(b)) => a.to_bits() == b.to_bits(),
            (Self::Time(a), Self::Time(b)) => a == b,
            (Self::Source(a), Self::Source(b)) => a == b,
            _ => false,
        }
    }
}

impl Typed {
    /// What a place holds when a file says nothing of it, or nothing that belongs there.
    pub(crate) fn default_of(kind: Kind) -> Self {
        match kind {
            Kind::Flag => Self::Flag(false),
            Kind::Count => Self::Count(0),
            Kind::Cost => Self::Cost(0.0),
            Kind::Text | Kind::Id | Kind::Time | Kind::Source => Self::Null,
        }
    }

    /// A short text that is the same for equal values, to know later whether a value has changed.
    pub(crate) fn mark(&self) -> String {
        match self {
            Self::Null => "null".into(),
            Self::Text(text) => json::quote(text),
            Self::Flag(flag) => flag.to_string(),
            Self::Count(count) => count.to_string(),
            Self::Cost(cost) => format!("{:016x}", cost.to_bits()),
            Self::Time(time) => time.as_micros().to_string(),
            Self::Source(source) => write_source(source, None),
        }
    }
}

/// Reads a normal JSON text as what belongs into a place of this kind; the default if it is something else.
pub(crate) fn read(kind: Kind, text: &str, times: Times<'_>) -> Typed {
    read_as(kind, text, times).unwrap_or_else(|| Typed::default_of(kind))
}

/// As [`read`]; `None` if the text says something, and nothing that belongs there.
pub(crate) fn read_as(kind: Kind, text: &str, times: Times<'_>) -> Option<Typed> {
    if text == "null" {
        return Some(Typed::default_of(kind));
    }
    match kind {
        Kind::Text => json::string(text).map(Typed::Text),
        Kind::Id => json::whole_string(text).filter(|text| SessionId::new(text).is_ok()).map(Typed::Text),
        Kind::Flag => text.parse().ok().map(Typed::Flag),
        Kind::Count => text.parse().ok().filter(|_| json::is_integer(text)).map(Typed::Count),
        Kind::Cost => read_cost(text).map(Typed::Cost),
        Kind::Time => read_time(text, times).map(|moment| Typed::Time(Timestamp::from_micros(moment.micros))),
        Kind::Source => read_source(text).map(|source| Typed::Source(Box::new(source))),
    }
}

/// What is not finite (Python writes `NaN`) is no cost: whatever was added to it would be lost. An export still has its
/// text.
fn read_cost(text: &str) -> Option<f64> {
    let is_number = text.starts_with(|c: char| c.is_ascii_digit() || c == '-');
    text.parse().ok().filter(|cost: &f64| is_number && cost.is_finite())
}

/// Writes a value as JSON text. `written` is how the file wrote the field before.
pub(crate) fn write(value: &Typed, slot: Slot, times: Times<'_>, written: Option<&str>) -> String {
    match value {
        Typed::Null => "null".into(),
        Typed::Text(text) => json::quote(text),
        Typed::Flag(flag) => flag.to_string(),
        Typed::Count(count) => count.to_string(),
        Typed::Cost(cost) => write_cost(*cost, times.gateway),
        Typed::Time(time) => write_time(*time, slot, times, written),
        Typed::Source(source) => write_source(source, written),
    }
}

fn write_cost(cost: f64, gateway: Gateway) -> String {
    match gateway {
        // JavaScript writes whole numbers without a fraction. Beyond 2^53 the digits would lie.
        Gateway::OpenClaw if cost.fract() == 0.0 && cost.abs() < 9e15 => format!("{cost:.0}"),
        _ => serde_json::Value::from(cost).to_string(),
    }
}

/// So many fields of an origin Hermes always writes.
const SOURCE_FIELDS_ALWAYS: usize = 8;

fn read_source(text: &str) -> Option<SessionSource> {
    let mut fields = json::fields(text).ok()??;
    Some(SessionSource::from_fields(|name| {
        let at = fields.iter().position(|(field, _)| unquoted(field) == name)?;
        let (_, text) = fields.swap_remove(at);
        // Some gateways write ids as numbers.
        if json::is_integer(&text) { Some(text) } else { json::string(&text) }
    }))
}

/// Fields that we do not know are taken over from how it was `written`.
fn write_source(source: &SessionSource, written: Option<&str>) -> String {
    let known = source.fields();
    let mut parts = Vec::new();
    for (at, (name, value)) in known.into_iter().enumerate() {
        match value {
            Some(text) => parts.push(format!("\"{name}\":{}", json::quote(text))),
            None if at < SOURCE_FIELDS_ALWAYS => parts.push(format!("\"{name}\":null")),
            None => {}
        }
    }
    let before = written.and_then(|text| json::fields(text).ok().flatten()).unwrap_or_default();
    let unknown = before.iter().filter(|(name, _)| known.iter().all(|(field, _)| *field != unquoted(name)));
    parts.extend(unknown.map(|(name, text)| format!("{name}:{text}")));
    format!("{{{}}}", parts.join(","))
}

/// A name without its quotes. Those that we know need no escapes.
fn unquoted(name: &str) -> &str {
    name.trim_matches('"')
}
