//! What an import is to do.

use std::fmt;
use std::io::Write;
use std::str::FromStr;

use crate::error::Error;
use crate::gateway::Gateway;
use crate::time::Timestamp;
use crate::zone::TimeZone;

/// What happens to an entry of the file where the store has one for its key.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnConflict {
    /// The one with the later activity stays. Where that is equal, the file's takes its place, for a gateway changes
    /// entries without moving their time; but not one that was changed in the store since it was imported.
    #[default]
    Newer,
    /// The store's stays.
    Keep,
    /// The file's takes its place.
    Replace,
}

impl FromStr for OnConflict {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "newer" => Ok(Self::Newer),
            "keep" => Ok(Self::Keep),
            "replace" => Ok(Self::Replace),
            _ => Err(Error::Setting {
                setting: "on-conflict",
                value: text.chars().take(64).collect(),
                expected: "give newer, keep or replace",
            }),
        }
    }
}

/// How to import. The default reads either gateway's file with the machine's time zone and lets the newer entry win.
#[derive(Default)]
pub struct ImportOptions<'a> {
    pub(super) gateway: Option<Gateway>,
    pub(super) zone: Option<TimeZone>,
    pub(super) on_conflict: OnConflict,
    pub(super) dry_run: bool,
    pub(super) file_time: Option<Timestamp>,
    pub(super) trust_times: bool,
    pub(super) quarantine: Option<&'a mut dyn Write>,
}

impl fmt::Debug for ImportOptions<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ImportOptions")
            .field("gateway", &self.gateway)
            .field("zone", &self.zone)
            .field("on_conflict", &self.on_conflict)
            .field("dry_run", &self.dry_run)
            .field("file_time", &self.file_time)
            .field("trust_times", &self.trust_times)
            .field("quarantine", &self.quarantine.is_some())
            .finish()
    }
}

impl<'a> ImportOptions<'a> {
    /// The same without a quarantine, for a look at the file.
    pub(super) fn unheard(&self) -> ImportOptions<'static> {
        let Self { gateway, ref zone, on_conflict, dry_run, file_time, trust_times, quarantine: _ } = *self;
        ImportOptions { gateway, zone: zone.clone(), on_conflict, dry_run, file_time, trust_times, quarantine: None }
    }

    /// The defaults.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Whose file it is. `None`, the default: its first entry tells.
    #[must_use]
    pub fn gateway(mut self, gateway: impl Into<Option<Gateway>>) -> Self {
        self.gateway = gateway.into();
        self
    }

    /// Where the naive times of a Hermes file are at home; the [machine's own](TimeZone::local), if it is not said. The
    /// store remembers it for exports, once an entry went in by it.
    #[must_use]
    pub fn zone(mut self, zone: TimeZone) -> Self {
        self.zone = Some(zone);
        self
    }

    /// What happens to keys that the store has already.
    #[must_use]
    pub fn on_conflict(mut self, on_conflict: OnConflict) -> Self {
        self.on_conflict = on_conflict;
        self
    }

    /// Only says what would be done. The store is not changed; the quarantine is written.
    #[must_use]
    pub fn dry_run(mut self, dry_run: bool) -> Self {
        self.dry_run = dry_run;
        self
    }

    /// When the file was written; now, if it is not said. It is the age of entries without one, and the time that a
    /// time in the far future becomes. For these a time later than now counts as now.
    #[must_use]
    pub fn file_time(mut self, time: Timestamp) -> Self {
        self.file_time = Some(time);
        self
    }

    /// Takes times in the future as they are. Otherwise, where half or more of the entries that say when they were active
    /// say more than a day after now, or some do and the [file's time](ImportOptions::file_time) does too, the clock is
    /// wrong: nothing is imported, and the error is [`Error::ClockBehind`]. Single ones count as wrong themselves.
    #[must_use]
    pub fn trust_times(mut self, trust: bool) -> Self {
        self.trust_times = trust;
        self
    }

    /// Where bad entries go, one JSON object a line: `line`, `byte`, `key`, `reason`, `bytes` (of the value) and `raw`,
    /// the value as it was, at most its first MiB. In place of `key` and `raw` there are `key_hex` and `raw_hex` where
    /// the bytes are no UTF-8. The lines hold keys and texts of people. After an error it may hold some of them.
    #[must_use]
    pub fn quarantine(mut self, sink: &'a mut dyn Write) -> Self {
        self.quarantine = Some(sink);
        self
    }
}
