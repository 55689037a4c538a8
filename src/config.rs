//! Settings: [`Options`] for the program that opens a store, [`Config`] for the file that a person writes.

mod reset;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::source::KeyPolicy;
use crate::time::{Clock, SystemClock};

pub(crate) use reset::{DEFAULT_AT_HOUR, DEFAULT_IDLE_MINUTES};
pub use reset::{DailyFrom, ResetConfig, ResetMode, ResetRule};

/// Bytes that each half of the journal may hold, unless the options say otherwise.
pub(crate) const DEFAULT_JOURNAL_BYTES: u64 = 64 << 20;

/// The clock of all options that name none: one for the process, so that two of them agree.
fn system_clock() -> Arc<dyn Clock> {
    static CLOCK: OnceLock<Arc<dyn Clock>> = OnceLock::new();
    Arc::clone(CLOCK.get_or_init(|| Arc::new(SystemClock::new())))
}

/// How to open a store.
///
/// ```no_run
/// use std::time::Duration;
/// use cloakroom::{Options, SessionStore};
/// let store = SessionStore::open(
///     Options::new("sessions.db").create(true).commit_interval(Duration::from_millis(50)),
/// )?;
/// # Ok::<(), cloakroom::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Options {
    pub(crate) path: PathBuf,
    pub(crate) create: bool,
    pub(crate) trust_group: bool,
    pub(crate) take_over: bool,
    pub(crate) commit_interval: Duration,
    pub(crate) max_pending: usize,
    pub(crate) cache_bytes: u64,
    pub(crate) cached_entries: usize,
    pub(crate) journal_bytes: u64,
    pub(crate) compact_at_open: Option<f64>,
    pub(crate) key_policy: KeyPolicy,
    pub(crate) clock: Arc<dyn Clock>,
}

impl Options {
    /// The defaults, for the store in the directory `path`.
    pub fn new(path: impl AsRef<Path>) -> Self {
        Self {
            path: path.as_ref().to_path_buf(),
            create: false,
            trust_group: false,
            take_over: true,
            commit_interval: Duration::from_millis(100),
            max_pending: 1 << 17,
            cache_bytes: 256 << 20,
            cached_entries: 1 << 17,
            journal_bytes: DEFAULT_JOURNAL_BYTES,
            compact_at_open: None,
            key_policy: KeyPolicy::default(),
            clock: system_clock(),
        }
    }

    /// Another directory, with all else as it is: the clock too, which [`open_shared`](crate::SessionStore::open_shared)
    /// wants to be the same.
    #[must_use]
    pub fn path(mut self, path: impl AsRef<Path>) -> Self {
        self.path = path.as_ref().to_path_buf();
        self
    }

    /// Whether to ask whoever has the store open to close it, where that is a program that yields: an operator's page or
    /// list (`cloakroom web`, `cloakroom top`). On by default; the opening waits a second at most. With the feature
    /// `live` only.
    #[must_use]
    pub fn take_over(mut self, take_over: bool) -> Self {
        self.take_over = take_over;
        self
    }

    /// Whether to make a store where there is none. Off by default: a wrong path is an error, not an empty store.
    #[must_use]
    pub fn create(mut self, create: bool) -> Self {
        self.create = create;
        self
    }

    /// Whether the directory may be writable by its group, or be another user's, if that group is one of this process's
    /// own. Off by default: whoever can write to the directory can make the store anything. It is for volumes that a
    /// group owns, as `fsGroup` has it in Kubernetes, which opens what is in the volume to the group at each start. A
    /// directory that everyone can write to is refused all the same.
    #[must_use]
    pub fn trust_group(mut self, trust: bool) -> Self {
        self.trust_group = trust;
        self
    }

    /// How long a change may wait for its commit when nobody waits for it (default 100 ms, at most an hour). A power
    /// cut undoes at most this much, and the commit in flight. With zero, changes are committed at once; those that
    /// come meanwhile share the next commit.
    #[must_use]
    pub fn commit_interval(mut self, interval: Duration) -> Self {
        self.commit_interval = interval;
        self
    }

    /// How many changes may wait for the committer (default 131,072, about 250 bytes each; at least 2). Writers beyond
    /// that wait. A structural change counts eight, and one more for each 256 bytes of extras.
    #[must_use]
    pub fn max_pending(mut self, changes: usize) -> Self {
        self.max_pending = changes;
        self
    }

    /// The memory for sled's page cache in bytes (default 256 MiB, at least 1 MiB). A loose bound: sled counts bytes as they are on
    /// disk, and its pages take about three times that in memory, which is allowed for.
    #[must_use]
    pub fn cache_bytes(mut self, bytes: u64) -> Self {
        self.cache_bytes = bytes;
        self
    }

    /// How many entries to keep in memory, so that touching them reads nothing (default 131,072). Each takes about 250
    /// bytes, and up to 1 KiB more once it was read. With zero, only those whose changes wait are kept.
    #[must_use]
    pub fn cached_entries(mut self, entries: usize) -> Self {
        self.cached_entries = entries;
        self
    }

    /// About how many bytes of activity each half of the journal may hold before they are carried to the indexes
    /// (default 64 MiB). After a minute they are carried in any case; with zero, from the next commit on. A touch takes 25, a
    /// change of flags or counters up to 110. An opening reads both halves, and closing shortens them. In memory an entry
    /// that the journal knows takes 60 to 200 bytes, however often it was touched.
    #[must_use]
    pub fn journal_bytes(mut self, bytes: u64) -> Self {
        self.journal_bytes = bytes;
        self
    }

    /// Whether an opening [compacts](crate::SessionStore::compact) the store first, and when: if its database takes more than
    /// `ratio` times the bytes that its entries hold, at least 2, and at least 16 MiB. Off by default.
    ///
    /// A database that was just made takes about four times what entries of 300 bytes hold, and less with large extras; ten
    /// is a fair ratio. The opening takes longer then: about a tenth of a millisecond for each entry, half of it for the check. It
    /// needs room for the copy, and the page cache twice. What it did is in [`OpenReport::compacted`](crate::report::OpenReport::compacted);
    /// where it fails, the store is opened as it was.
    #[must_use]
    pub fn compact_at_open(mut self, ratio: f64) -> Self {
        self.compact_at_open = Some(ratio);
        self
    }

    /// How [`resolve`](crate::SessionStore::resolve) derives keys.
    #[must_use]
    pub fn key_policy(mut self, policy: KeyPolicy) -> Self {
        self.key_policy = policy;
        self
    }

    /// What tells the time. Tests pass a [`ManualClock`](crate::time::ManualClock).
    #[must_use]
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// The first setting by which `other` opens a store otherwise. Where it is, whether it may be made or is compacted, matter no more
    /// once it is open. Clocks are the same if one is a copy of the other's options.
    pub(crate) fn difference(&self, other: &Self) -> Option<&'static str> {
        let same_clock = std::ptr::addr_eq(Arc::as_ptr(&self.clock), Arc::as_ptr(&other.clock));
        let Self { path: _, create: _, trust_group, commit_interval, max_pending, cache_bytes, .. } = other;
        let Self { cached_entries, journal_bytes, key_policy, .. } = other;
        [
            ("trust_group", self.trust_group == *trust_group),
            ("commit_interval", self.commit_interval == *commit_interval),
            ("max_pending", self.max_pending == *max_pending),
            ("cache_bytes", self.cache_bytes == *cache_bytes),
            ("cached_entries", self.cached_entries == *cached_entries),
            ("journal_bytes", self.journal_bytes == *journal_bytes),
            ("key_policy", self.key_policy == *key_policy),
            ("clock", same_clock),
        ]
        .into_iter()
        .find_map(|(option, is_same)| (!is_same).then_some(option))
    }

    /// Refuses settings that cannot work.
    pub(crate) fn check(&self) -> Result<()> {
        let refuse = |setting, value: String, expected| Err(Error::Setting { setting, value, expected });
        if self.max_pending < 2 {
            return refuse("max_pending", self.max_pending.to_string(), "at least 2 changes must be able to wait");
        }
        if self.commit_interval > Duration::from_secs(3600) {
            return refuse("commit_interval", format!("{:?}", self.commit_interval), "at most an hour may be at risk");
        }
        if self.cache_bytes < 1 << 20 {
            return refuse("cache_bytes", self.cache_bytes.to_string(), "at least 1 MiB is needed");
        }
        if let Some(ratio) = self.compact_at_open.filter(|ratio| !ratio.is_finite() || *ratio < 2.0) {
            return refuse("compact_at_open", ratio.to_string(), "a finite ratio of at least 2 is needed");
        }
        Ok(())
    }
}

/// Days after which an idle session is pruned, unless the file says otherwise.
pub const DEFAULT_MAX_AGE_DAYS: i64 = 90;
/// Minutes between two passes of the watcher, unless the file says otherwise.
pub const DEFAULT_PRUNE_INTERVAL_MINUTES: i64 = 60;

/// The settings that a person writes into the gateway's configuration file, in any format that serde reads.
///
/// Reading is lenient where people slip. A whole number may be written as text (`"30"`) or with a fraction, which is
/// cut off. A negative number counts as 0. What is no number at all (null, true, a list, NaN, `"soon"`) gives the
/// default and a warning in the log. A number beyond the calendar means never.
///
/// ```
/// let config: cloakroom::config::Config = serde_json::from_str(r#"{"session_store_max_age_days": "30"}"#)?;
/// assert_eq!(config.session_store_max_age_days, 30);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// Prune what has been idle for more days than this. 0 disables pruning.
    #[serde(deserialize_with = "days")]
    pub session_store_max_age_days: i64,
    /// Minutes between two passes of the watcher; at least one.
    #[serde(deserialize_with = "minutes")]
    pub session_store_prune_interval_minutes: i64,
    /// Days of idleness after which "active" protects an entry no more. 0 means it always does.
    #[serde(deserialize_with = "active_days")]
    pub session_store_max_active_days: i64,
    /// Keep at most this many entries. 0 means no cap.
    #[serde(deserialize_with = "entries")]
    pub session_store_max_entries: i64,
    /// Prune once live data is more than this many bytes, see
    /// [`PrunePolicy::max_disk_bytes`](crate::PrunePolicy::max_disk_bytes). 0 means no cap.
    #[serde(deserialize_with = "disk_bytes")]
    pub session_store_max_disk_bytes: i64,
    /// Prune then until live data is at most this many bytes. 0 means four fifths of the cap.
    #[serde(deserialize_with = "low_water")]
    pub session_store_low_water_bytes: i64,
    /// When sessions end by themselves.
    pub session_reset: ResetConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            session_store_max_age_days: DEFAULT_MAX_AGE_DAYS,
            session_store_prune_interval_minutes: DEFAULT_PRUNE_INTERVAL_MINUTES,
            session_store_max_active_days: 0,
            session_store_max_entries: 0,
            session_store_max_disk_bytes: 0,
            session_store_low_water_bytes: 0,
            session_reset: ResetConfig::default(),
        }
    }
}

impl Config {
    /// The time between two passes of the watcher.
    #[must_use]
    pub fn prune_interval(&self) -> Duration {
        let minutes = u64::try_from(self.session_store_prune_interval_minutes).unwrap_or(1).max(1);
        Duration::from_secs(minutes.saturating_mul(60))
    }
}

fn days<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    lenient(deserializer, "session_store_max_age_days", DEFAULT_MAX_AGE_DAYS)
}

fn minutes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    lenient(deserializer, "session_store_prune_interval_minutes", DEFAULT_PRUNE_INTERVAL_MINUTES)
}

fn active_days<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    lenient(deserializer, "session_store_max_active_days", 0)
}

fn entries<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    lenient(deserializer, "session_store_max_entries", 0)
}

fn disk_bytes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    lenient(deserializer, "session_store_max_disk_bytes", 0)
}

fn low_water<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    lenient(deserializer, "session_store_low_water_bytes", 0)
}

fn lenient<'de, D: Deserializer<'de>>(deserializer: D, name: &'static str, default: i64) -> Result<i64, D::Error> {
    let number = deserializer.deserialize_any(LenientNumber)?;
    Ok(number.map_or_else(
        || {
            tracing::warn!(setting = name, default, "the setting is no number; the default is used");
            default
        },
        |number| number.max(0),
    ))
}

/// Reads anything; `None` if it is no number.
struct LenientNumber;

impl<'de> Visitor<'de> for LenientNumber {
    type Value = Option<i64>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number")
    }

    fn visit_i64<E>(self, number: i64) -> Result<Self::Value, E> {
        Ok(Some(number))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Self::Value, E> {
        Ok(Some(i64::try_from(number).unwrap_or(i64::MAX)))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Self::Value, E> {
        // The cast cuts the fraction off and saturates.
        Ok((!number.is_nan()).then_some(number as i64))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        let text = text.trim();
        if let Ok(number) = text.parse::<i64>() {
            return Ok(Some(number));
        }
        // Rust also reads "inf" and "nan" as numbers; a person who writes those means none.
        let number = text.parse::<f64>().ok().filter(|_| text.contains(|c: char| c.is_ascii_digit()));
        Ok(number.filter(|number| !number.is_nan()).map(|number| number as i64))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_none<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(None)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(None)
    }
}
