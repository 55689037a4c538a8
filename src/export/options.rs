//! What an export is to write.

use std::str::FromStr;

use crate::error::Error;
use crate::zone::TimeZone;

/// The layout of an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ExportFormat {
    /// A `sessions.json` for Hermes Agent.
    Hermes,
    /// A `sessions.json` for OpenClaw, whose times are whole milliseconds: what is beyond is cut off, but for times that
    /// its file had.
    OpenClaw,
    /// One entry a line, with the names of [`SessionEntry`](crate::SessionEntry), times in RFC 3339 and the rest under
    /// `extras`. Strict JSON for scripts: what JSON cannot say (`NaN`) is null and counted, and notes are left out.
    Jsonl,
}

impl FromStr for ExportFormat {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "hermes" => Ok(Self::Hermes),
            "openclaw" => Ok(Self::OpenClaw),
            "jsonl" => Ok(Self::Jsonl),
            _ => Err(Error::Setting {
                setting: "format",
                value: text.chars().take(64).collect(),
                expected: "give hermes, openclaw or jsonl",
            }),
        }
    }
}

/// How to export.
#[derive(Debug, Clone)]
pub struct ExportOptions {
    pub(crate) format: ExportFormat,
    pub(crate) zone: Option<TimeZone>,
    pub(super) force: bool,
}

impl ExportOptions {
    /// An export in `format`, with naive times in the zone that the last import used.
    #[must_use]
    pub fn new(format: ExportFormat) -> Self {
        Self { format, zone: None, force: false }
    }

    /// Writes naive times of another zone. In the hour that a change of the clocks repeats, a naive time is the same
    /// text for two moments; that is the format's loss.
    #[must_use]
    pub fn zone(mut self, zone: TimeZone) -> Self {
        self.zone = Some(zone);
        self
    }

    /// Lets [`export_to_file`](crate::SessionStore::export_to_file) replace a file that is there.
    #[must_use]
    pub fn force(mut self, force: bool) -> Self {
        self.force = force;
        self
    }
}
