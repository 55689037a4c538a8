//! What a store remembers of its clock, so that a process that is restarted often gets on.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{CodecError, decode, encode, timestamp};
use crate::time::{BootTime, Reading};

/// What the clock said when something began that waits for it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct ClockNote {
    /// When the clock was first taken for wrong.
    pub(crate) doubted: Option<Reading>,
    /// The pass that was held.
    pub(crate) held: Option<Held>,
}

/// A pass that was held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) at: Reading,
    /// How many entries were past its cutoff.
    pub(crate) expired: u64,
}

#[derive(Serialize, Deserialize)]
struct ClockNoteV1 {
    doubted: Option<ReadingV1>,
    held: Option<HeldV1>,
}

#[derive(Serialize, Deserialize)]
struct HeldV1 {
    at: ReadingV1,
    expired: u64,
}

/// Times in microseconds.
#[derive(Serialize, Deserialize)]
struct ReadingV1 {
    wall: u64,
    boot_id: Option<u128>,
    elapsed: u64,
}

impl ClockNote {
    pub(crate) fn encode(&self) -> Result<Vec<u8>, CodecError> {
        let held = self.held.map(|held| HeldV1 { at: ReadingV1::of(held.at), expired: held.expired });
        encode(&ClockNoteV1 { doubted: self.doubted.map(ReadingV1::of), held }, 64)
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let ClockNoteV1 { doubted, held } = decode(bytes)?;
        let held = held.map(|held| Held { at: held.at.into(), expired: held.expired });
        Ok(Self { doubted: doubted.map(Reading::from), held })
    }
}

impl ReadingV1 {
    fn of(reading: Reading) -> Self {
        let BootTime { boot_id, elapsed } = reading.boot;
        Self {
            wall: u64::try_from(reading.wall.as_micros()).unwrap_or(0),
            boot_id,
            elapsed: u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX),
        }
    }
}

impl From<ReadingV1> for Reading {
    fn from(record: ReadingV1) -> Self {
        let elapsed = Duration::from_micros(record.elapsed);
        Self { wall: timestamp(record.wall), boot: BootTime { boot_id: record.boot_id, elapsed } }
    }
}
