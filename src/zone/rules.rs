//! What clocks show at a moment, by the content of a TZif file or by a POSIX rule.

use std::sync::Arc;

use chrono::FixedOffset;
use jiff::Timestamp;
use jiff::tz::{AmbiguousOffset, Offset, TimeZone};

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

/// How far the clocks of a zone are ahead of UTC, and when.
#[derive(Debug, Clone)]
pub(super) struct Rules {
    zone: TimeZone,
    /// Empty where the zone counts none, as nearly all do.
    leaps: Option<Arc<[Leap]>>,
}

/// A moment, and the seconds by which clocks that count leap seconds are behind from then on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Leap {
    from: i64,
    behind: i64,
}

impl Rules {
    pub(super) const UTC: Self = Self { zone: TimeZone::UTC, leaps: None };

    pub(super) fn fixed(offset: FixedOffset) -> Option<Self> {
        let offset = Offset::from_seconds(offset.local_minus_utc()).ok()?;
        Some(Self { zone: TimeZone::fixed(offset), leaps: None })
    }

    /// The content of a file of zoneinfo.
    pub(super) fn of_file(bytes: &[u8]) -> Option<Self> {
        let leaps = leaps(bytes)?;
        let zone = TimeZone::tzif("", bytes).ok()?;
        Some(Self { zone, leaps: (!leaps.is_empty()).then(|| leaps.into()) })
    }

    /// A POSIX rule, and its text. Without daylight saving time the text is an offset: `UTC+2` means two hours behind,
    /// and nobody would read it so. Daylight saving time without a rule is refused: what it means depends on the
    /// library and on a file, and glibc is hours off.
    pub(super) fn of_posix(text: &str) -> Option<(String, Self)> {
        let rules = Self { zone: TimeZone::posix(text).ok()?, leaps: None };
        if text.contains(',') {
            return Some((text.to_owned(), rules));
        }
        let offset = FixedOffset::east_opt(i32::try_from(rules.offset(0)).ok()?)?;
        Some((offset.to_string(), rules))
    }

    /// Seconds that clocks are ahead of UTC at a moment, in seconds since 1970.
    pub(super) fn offset(&self, moment: i64) -> i64 {
        i64::from(self.zone.to_offset(timestamp(moment)).seconds()) - self.behind(moment)
    }

    /// The same at what clocks show, in seconds as if it were UTC. It is the offset before the change, where the clocks
    /// skip or repeat that time.
    pub(super) fn offset_at_local(&self, local: i64) -> (i64, Hour) {
        let behind = self.behind(local);
        let civil = Offset::UTC.to_datetime(timestamp(local.saturating_add(behind)));
        let (offset, hour) = match self.zone.to_ambiguous_timestamp(civil).offset() {
            AmbiguousOffset::Unambiguous { offset } => (offset, Hour::Plain),
            AmbiguousOffset::Gap { before, .. } => (before, Hour::Skipped),
            AmbiguousOffset::Fold { before, .. } => (before, Hour::Repeated),
        };
        (i64::from(offset.seconds()) - behind, hour)
    }

    fn behind(&self, moment: i64) -> i64 {
        let leaps = self.leaps.as_deref().unwrap_or_default();
        leaps.iter().rev().find(|leap| leap.from <= moment).map_or(0, |leap| leap.behind)
    }

    /// Whether both say the same of every moment between two.
    pub(super) fn agree(&self, other: &Self, from: i64, to: i64) -> bool {
        let same = |at| self.offset(at) == other.offset(at);
        let mut changes = self.changes(from, to).chain(other.changes(from, to));
        self.leaps == other.leaps && same(from) && changes.all(same)
    }

    /// The moments between two at which the clocks change.
    pub(super) fn changes(&self, from: i64, to: i64) -> impl Iterator<Item = i64> {
        let changes = self.zone.following(timestamp(from)).map(|change| change.timestamp().as_second());
        // With a file that counts leap seconds, jiff 1.0.2 repeats one of them for ever.
        let mut last = i64::MIN;
        changes.take_while(move |at| *at < to && std::mem::replace(&mut last, *at) < *at)
    }

    #[cfg(test)]
    pub(super) fn counts_leaps(&self) -> bool {
        self.leaps.is_some()
    }
}

/// The nearest moment that a date can have.
fn timestamp(seconds: i64) -> Timestamp {
    let seconds = seconds.clamp(Timestamp::MIN.as_second(), Timestamp::MAX.as_second());
    Timestamp::from_second(seconds).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// The rule at the end of a TZif file, for all times after the last change that it lists.
pub(super) fn footer(bytes: &[u8]) -> Option<&str> {
    let before = bytes.strip_suffix(b"\n")?;
    let start = before.iter().rposition(|byte| *byte == b'\n')?;
    std::str::from_utf8(before.get(start + 1..)?).ok().filter(|rule| !rule.is_empty())
}

/// The leap seconds of a TZif file; `None` if it is none. jiff passes over them.
fn leaps(bytes: &[u8]) -> Option<Vec<Leap>> {
    let version = *bytes.strip_prefix(b"TZif")?.first()?;
    let first = Block::read(bytes, 4)?;
    let block = if version == 0 { first } else { Block::read(bytes.get(first.end..)?, 8)? };
    let entries = block.leaps.chunks_exact(block.width + 4);
    Some(
        entries
            .filter_map(|entry| {
                Some(Leap { from: integer(entry.get(..block.width)?), behind: integer(entry.get(block.width..)?) })
            })
            .collect(),
    )
}

/// One of the two blocks of a TZif file.
struct Block<'a> {
    /// Bytes of a time in it.
    width: usize,
    leaps: &'a [u8],
    end: usize,
}

impl<'a> Block<'a> {
    fn read(bytes: &'a [u8], width: usize) -> Option<Self> {
        let counts = bytes.strip_prefix(b"TZif")?.get(16..40)?.chunks_exact(4);
        let counts: Vec<usize> = counts.map(|count| usize::try_from(integer(count)).ok()).collect::<Option<_>>()?;
        let [utc, standard, leaps, times, types, letters] = *counts.as_slice() else { return None };
        let start = [44, times.checked_mul(width + 1)?, types.checked_mul(6)?, letters];
        let start = start.into_iter().try_fold(0_usize, usize::checked_add)?;
        let end = start.checked_add(leaps.checked_mul(width + 4)?)?;
        Some(Self { width, leaps: bytes.get(start..end)?, end: end.checked_add(standard)?.checked_add(utc)? })
    }
}

/// A signed integer, big-endian.
fn integer(bytes: &[u8]) -> i64 {
    let negative = bytes.first().is_some_and(|byte| *byte >= 0x80);
    bytes.iter().fold(if negative { -1 } else { 0 }, |number, byte| (number << 8) | i64::from(*byte))
}
