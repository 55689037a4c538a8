//! How a person writes reset policies down.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};

use super::lenient;

/// Minutes without activity after which a session ends, unless the file says otherwise.
pub(crate) const DEFAULT_IDLE_MINUTES: i64 = 1440;
/// The hour of the day at which a session ends, unless the file says otherwise.
pub(crate) const DEFAULT_AT_HOUR: i64 = 4;

/// When sessions end: one rule for all, and others for platforms and chat types. The platform's counts first.
///
/// A mode that does not exist is an error, unlike the slips that [`Config`](super::Config) forgives: a session that
/// never ends, or ends too soon, is not what its owner meant.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ResetConfig {
    /// The rule for all others.
    #[serde(flatten)]
    pub default: ResetRule,
    /// Rules by platform.
    pub platforms: BTreeMap<String, ResetRule>,
    /// Rules by chat type.
    pub chat_types: BTreeMap<String, ResetRule>,
}

/// When a session ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ResetRule {
    /// Which of the rules below count (default: none).
    pub mode: ResetMode,
    /// Minutes without activity (default 1440); 0 disables.
    #[serde(deserialize_with = "idle_minutes")]
    pub idle_minutes: i64,
    /// The hour of the day, 0 to 23 (default 4).
    #[serde(deserialize_with = "at_hour")]
    pub at_hour: i64,
    /// The time zone of that hour, `Europe/Berlin` or `+02:00` (default: the machine's own).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time_zone: Option<String>,
    /// What that hour ends a session by (default: its last activity).
    pub daily_from: DailyFrom,
}

/// What a daily rule counts from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum DailyFrom {
    /// A session ends that was last active before the hour: one in use around it goes on.
    #[default]
    Activity,
    /// A session ends that began before the hour, however much it is in use.
    Start,
}

/// Which rules end a session.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ResetMode {
    /// None.
    #[default]
    None,
    /// Time without activity.
    Idle,
    /// The hour of the day.
    Daily,
    /// Whichever comes first.
    Both,
}

impl Default for ResetRule {
    fn default() -> Self {
        Self {
            mode: ResetMode::None,
            idle_minutes: DEFAULT_IDLE_MINUTES,
            at_hour: DEFAULT_AT_HOUR,
            time_zone: None,
            daily_from: DailyFrom::Activity,
        }
    }
}

fn idle_minutes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    lenient(deserializer, "idle_minutes", DEFAULT_IDLE_MINUTES)
}

fn at_hour<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    lenient(deserializer, "at_hour", DEFAULT_AT_HOUR)
}
