//! How much is measured: little by `cargo test`, some by default, much if asked for.

use std::time::Duration;

use crate::support::stream::{Shape, Time};

/// The size at which the file gets a figure for each thing it is for, and no more.
pub const MILLION: usize = 1_000_000;

/// How much is measured.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Test,
    Short,
    Full,
}

impl Mode {
    /// Cargo passes `--bench` for `cargo bench` only; criterion decides alike.
    pub fn of_run() -> Self {
        let has = |flag: &str| std::env::args().any(|arg| arg == flag);
        if !has("--bench") || has("--test") {
            Self::Test
        } else if std::env::var("CLOAKROOM_BENCH").is_ok_and(|mode| mode == "full") {
            Self::Full
        } else {
            Self::Short
        }
    }

    pub fn cloakroom_sizes(self) -> &'static [usize] {
        match self {
            Self::Test => &[300],
            Self::Short => &[1_000, 10_000, 100_000],
            Self::Full => &[1_000, 10_000, 100_000, 1_000_000],
        }
    }

    /// Each touch of this contender writes its whole file, so a newcomer is not made to wait for a large one.
    pub fn json_sizes(self) -> &'static [usize] {
        match self {
            Self::Test => &[300],
            Self::Short => &[1_000, 10_000],
            Self::Full => &[1_000, 10_000, 100_000, MILLION],
        }
    }

    /// To a file that is written whole one entry is like another, and at a million each touch takes seconds: what
    /// tells nothing new about the file is measured on small ones, or not at all.
    pub fn json_touches(self, size: usize, shape: Shape, time: Time) -> bool {
        match self {
            Self::Test => true,
            Self::Short | Self::Full => shape == Shape::Uniform && (time == Time::Stay || size < MILLION),
        }
    }

    pub fn import_sizes(self) -> &'static [usize] {
        match self {
            Self::Test => &[300],
            Self::Short => &[1_000, 4_000],
            Self::Full => &[1_000, 10_000, 100_000],
        }
    }

    /// Touches of one batch.
    pub fn batch(self, size: usize, time: Time) -> usize {
        match (self, time) {
            (Self::Test, _) => 300,
            (Self::Short, Time::Stay) => size.clamp(20_000, 100_000),
            (Self::Short, Time::Cross) => 10_000,
            (Self::Full, Time::Stay) => size.clamp(100_000, 200_000),
            (Self::Full, Time::Cross) => 100_000,
        }
    }

    pub fn measurement(self) -> Duration {
        if self == Self::Full { Duration::from_secs(3) } else { Duration::from_millis(500) }
    }
}
