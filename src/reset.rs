//! Reset policies: when the next message of a conversation starts a fresh session.
//!
//! A policy is a pure rule over the times of an entry and now. [`SessionStore::resolve_with`] applies it, and asks the
//! [`ActivityGuard`] first, as pruning does.
//!
//! Whether an old session ends by a prune or by a policy, its user is in the same place at the next message: a fresh
//! id, counters at zero, no extras, the details of the new message's source. An entry that was reset also tells that
//! it was: `prev_session_id`, `was_auto_reset`, `auto_reset_reason`, `reset_had_activity`; and it has a `last_interaction` if the
//! old one had. Nothing else differs.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use chrono::NaiveDate;

use crate::answer::{ReplaceReason, Resolved};
use crate::clock_check::{AFTER_A_JUMP, Checked, is_ahead};
use crate::codec::{Hot, PINNED, RESUME_PENDING, SUSPENDED};
use crate::config::{Config, DEFAULT_AT_HOUR, DEFAULT_IDLE_MINUTES, ResetConfig, ResetMode, ResetRule};
use crate::entry::SessionEntry;
use crate::error::{Error, Result};
use crate::how::Resolve;
use crate::key::SessionKey;
use crate::prune::{ActivityGuard, Answer, ask};
use crate::source::SessionSource;
use crate::store::SessionStore;
use crate::time::Timestamp;
use crate::zone::TimeZone;

pub use crate::config::DailyFrom;

/// How often an entry that changes while the guard is asked is looked at again. After that it is in use, and kept.
const ATTEMPTS: usize = 8;
/// What an hour should be.
const HOURS: &str = "hours of a day are 0 to 23";
/// What a time zone should be.
const ZONES: &str = "give an IANA name (Europe/Berlin) or an offset (+02:00)";

/// When a session is over: after some minutes without activity, at an hour of the day, at whichever comes first, or
/// never.
///
/// It counts from these times of an entry:
///
/// | rule | from |
/// | --- | --- |
/// | idle | `last_interaction` where it is set, else `updated_at` |
/// | daily | `updated_at`; `created_at` with [`DailyFrom::Start`] |
///
/// A `last_interaction` or `created_at` that lies more than a day ahead of the clock counts for nothing: `updated_at`
/// stands in for it. For one of those that lies ahead see [`touch`](SessionStore::touch). Which verbs move
/// `last_interaction` is said [there](crate::SessionEntry::last_interaction): an entry that has one and is in use by
/// `resolve` is not idle, and one that only work in the background touches is.
///
/// ```
/// use cloakroom::change::ReplaceReason;
/// use cloakroom::reset::ResetPolicy;
/// use cloakroom::Timestamp;
/// let policy = ResetPolicy::both(1440, 4, "Europe/Berlin".parse()?)?;
/// let at = |text: &str| serde_json::from_str::<Timestamp>(&format!("{text:?}")).unwrap();
/// let evening = at("2026-06-12T20:00:00Z");
/// assert_eq!(policy.due(evening, at("2026-06-13T01:59:59Z")), None);
/// // Four o'clock in Berlin.
/// assert_eq!(policy.due(evening, at("2026-06-13T02:00:00Z")), Some(ReplaceReason::Daily));
/// # Ok::<(), cloakroom::Error>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResetPolicy {
    idle: Option<Duration>,
    daily: Option<Daily>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Daily {
    hour: u8,
    zone: TimeZone,
    from: DailyFrom,
}

/// The times that a policy counts from.
#[derive(Debug, Clone, Copy)]
struct Times {
    updated_at: Timestamp,
    interaction: Timestamp,
    start: Timestamp,
}

impl Times {
    /// A time that lies ahead is not to be believed, and `updated_at` stands in for it.
    fn new(
        updated_at: Timestamp,
        last_interaction: Option<Timestamp>,
        start: Option<Timestamp>,
        now: Timestamp,
    ) -> Self {
        let or_updated = |time: Option<Timestamp>| time.filter(|time| !is_ahead(*time, now)).unwrap_or(updated_at);
        Self { updated_at, interaction: or_updated(last_interaction), start: or_updated(start) }
    }
}

impl ResetPolicy {
    /// Minutes without activity, where nothing else is said.
    pub const DEFAULT_IDLE_MINUTES: u64 = DEFAULT_IDLE_MINUTES.unsigned_abs();
    /// The hour of the day, where nothing else is said.
    pub const DEFAULT_HOUR: u8 = DEFAULT_AT_HOUR as u8;

    /// Sessions never end by themselves. The default.
    #[must_use]
    pub const fn none() -> Self {
        Self { idle: None, daily: None }
    }

    /// A session ends when it has been idle for more than `minutes`. Zero is [`none`](ResetPolicy::none).
    #[must_use]
    pub fn idle(minutes: u64) -> Self {
        let idle = (minutes > 0).then(|| Duration::from_secs(minutes.saturating_mul(60)));
        Self { idle, daily: None }
    }

    /// A session ends at `hour` (0 to 23) by the clocks of `zone`.
    ///
    /// Where the clocks skip that hour it is when they go forward; where they repeat it, it is the first of the two,
    /// and once only.
    ///
    /// # Errors
    /// [`Error::Setting`] if there is no such hour.
    pub fn daily(hour: u8, zone: TimeZone) -> Result<Self> {
        if hour > 23 {
            let (setting, value) = ("the hour of a daily reset", hour.to_string());
            return Err(Error::Setting { setting, value, expected: HOURS });
        }
        Ok(Self { idle: None, daily: Some(Daily { hour, zone, from: DailyFrom::Activity }) })
    }

    /// A session ends by whichever of [`idle`](ResetPolicy::idle) and [`daily`](ResetPolicy::daily) comes first.
    ///
    /// # Errors
    /// [`Error::Setting`] if there is no such hour.
    pub fn both(minutes: u64, hour: u8, zone: TimeZone) -> Result<Self> {
        Ok(Self { idle: Self::idle(minutes).idle, ..Self::daily(hour, zone)? })
    }

    /// What the daily rule counts from: activity, where nothing is said. Without a daily rule it changes nothing.
    ///
    /// ```
    /// use cloakroom::TimeZone;
    /// use cloakroom::reset::{DailyFrom, ResetPolicy};
    /// let policy = ResetPolicy::daily(4, TimeZone::UTC)?.daily_from(DailyFrom::Start);
    /// assert_eq!(policy.to_string(), "daily at 04:00 (UTC), from the session's start");
    /// # Ok::<(), cloakroom::Error>(())
    /// ```
    #[must_use]
    pub fn daily_from(mut self, from: DailyFrom) -> Self {
        if let Some(daily) = &mut self.daily {
            daily.from = from;
        }
        self
    }

    /// The rule that ends, at `now`, a session of which one time is known, `updated_at`. Idleness comes first, where
    /// both do.
    #[must_use]
    pub fn due(&self, updated_at: Timestamp, now: Timestamp) -> Option<ReplaceReason> {
        self.rule(Times::new(updated_at, None, None, now), now)
    }

    /// The rule that ends the session of `entry` at `now`, by its times alone.
    #[must_use]
    pub fn due_for(&self, entry: &SessionEntry, now: Timestamp) -> Option<ReplaceReason> {
        self.rule(Times::new(entry.updated_at, entry.last_interaction, Some(entry.created_at), now), now)
    }

    fn rule(&self, times: Times, now: Timestamp) -> Option<ReplaceReason> {
        if self.idle.is_some_and(|idle| now.since(times.interaction) > idle) {
            return Some(ReplaceReason::Idle);
        }
        let daily = self.daily.as_ref()?;
        let time = if self.needs_start() { times.start } else { times.updated_at };
        (time < daily.last_before(now)?).then_some(ReplaceReason::Daily)
    }

    fn needs_start(&self) -> bool {
        self.daily.as_ref().is_some_and(|daily| daily.from == DailyFrom::Start)
    }
}

impl Daily {
    /// The newest reset that is not later than `now`.
    fn last_before(&self, now: Timestamp) -> Option<Timestamp> {
        let today = self.zone.local_time(now).date();
        // Today's may be still to come, and a zone may have skipped a whole day.
        let days = std::iter::successors(Some(today), NaiveDate::pred_opt).take(4);
        days.filter_map(|day| self.on(day)).find(|reset| *reset <= now)
    }

    fn on(&self, day: NaiveDate) -> Option<Timestamp> {
        let (micros, _) = self.zone.resolve(day.and_hms_opt(u32::from(self.hour), 0, 0)?);
        Some(Timestamp::from_micros(micros))
    }
}

impl std::fmt::Display for ResetPolicy {
    /// `none`, `idle for more than 1440 minutes`, `daily at 04:00 (Europe/Berlin)`, or both. A daily rule by the start of
    /// the session says so: `daily at 04:00 (Europe/Berlin), from the session's start`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(idle) = self.idle {
            write!(f, "idle for more than {} minutes", idle.as_secs() / 60)?;
        }
        match (self.idle, &self.daily) {
            (None, None) => f.write_str("none"),
            (_, None) => Ok(()),
            (idle, Some(Daily { hour, zone, from })) => {
                write!(f, "{}daily at {hour:02}:00 ({zone})", if idle.is_some() { ", or " } else { "" })?;
                match from {
                    DailyFrom::Activity => Ok(()),
                    DailyFrom::Start => f.write_str(", from the session's start"),
                }
            }
        }
    }
}

/// The policies of a gateway: a default, and others for platforms and chat types.
///
/// The platform's counts first, then the chat type's, then the default. Names are compared as the source spells them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResetPolicies {
    default: ResetPolicy,
    platforms: BTreeMap<String, ResetPolicy>,
    chat_types: BTreeMap<String, ResetPolicy>,
}

impl ResetPolicies {
    /// One policy for all.
    #[must_use]
    pub fn new(default: ResetPolicy) -> Self {
        Self { default, ..Self::default() }
    }

    /// Another policy for a platform: `discord`.
    #[must_use]
    pub fn platform(mut self, platform: impl Into<String>, policy: ResetPolicy) -> Self {
        self.platforms.insert(platform.into(), policy);
        self
    }

    /// Another policy for a chat type: `dm`.
    #[must_use]
    pub fn chat_type(mut self, chat_type: impl Into<String>, policy: ResetPolicy) -> Self {
        self.chat_types.insert(chat_type.into(), policy);
        self
    }

    /// The policy for messages from `source`.
    #[must_use]
    pub fn for_source(&self, source: &SessionSource) -> ResetPolicy {
        self.of(Some(&source.platform), Some(&source.chat_type))
    }

    pub(crate) fn of(&self, platform: Option<&str>, chat_type: Option<&str>) -> ResetPolicy {
        let found = platform.and_then(|platform| self.platforms.get(platform));
        let found = found.or_else(|| self.chat_types.get(chat_type?));
        found.unwrap_or(&self.default).clone()
    }

    /// All policies in words, the default first: what each is for, and what it says.
    pub fn describe(&self) -> impl Iterator<Item = (String, String)> {
        let named = |kind: &'static str, policies: &BTreeMap<String, ResetPolicy>| {
            policies.iter().map(|(name, policy)| (format!("{kind} {name}"), policy.to_string())).collect::<Vec<_>>()
        };
        let default = ("default".to_owned(), self.default.to_string());
        std::iter::once(default).chain(named("platform", &self.platforms)).chain(named("chat type", &self.chat_types))
    }
}

impl From<ResetPolicy> for ResetPolicies {
    fn from(policy: ResetPolicy) -> Self {
        Self::new(policy)
    }
}

impl TryFrom<&Config> for ResetPolicies {
    type Error = Error;

    /// # Errors
    /// [`Error::Setting`] for an hour that no day has, or a zone that does not exist, even where the mode makes no use of
    /// them. [`Error::LocalTimeZone`] where a mode has use for the machine's own zone, and that is not known.
    fn try_from(config: &Config) -> Result<Self> {
        let ResetConfig { default, platforms, chat_types } = &config.session_reset;
        let mut policies = Self::new(policy(default, "session_reset")?);
        for (platform, rule) in platforms {
            policies = policies.platform(platform, policy(rule, &format!("session_reset.platforms.{platform}"))?);
        }
        for (chat_type, rule) in chat_types {
            policies = policies.chat_type(chat_type, policy(rule, &format!("session_reset.chat_types.{chat_type}"))?);
        }
        Ok(policies)
    }
}

/// The policy of a rule, which stands in the table of this name.
fn policy(rule: &ResetRule, table: &str) -> Result<ResetPolicy> {
    let bad = |setting, value: &dyn fmt::Display, expected| {
        Err(Error::Setting { setting, value: format!("{value} in [{table}]"), expected })
    };
    let hour = match u8::try_from(rule.at_hour) {
        Ok(hour @ 0..24) => hour,
        _ => return bad("at_hour", &rule.at_hour, HOURS),
    };
    let zone = match (&rule.time_zone, rule.mode) {
        (Some(zone), _) => match zone.parse() {
            Err(Error::TimeZone { name }) => return bad("time_zone", &format_args!("{name:?}"), ZONES),
            zone => zone?,
        },
        (None, ResetMode::None | ResetMode::Idle) => TimeZone::UTC,
        (None, ResetMode::Daily | ResetMode::Both) => TimeZone::local()?,
    };
    let minutes = u64::try_from(rule.idle_minutes).unwrap_or(0);
    let both = ResetPolicy::both(minutes, hour, zone)?;
    let ResetPolicy { idle, daily } = both.daily_from(rule.daily_from);
    Ok(match rule.mode {
        ResetMode::None => ResetPolicy::none(),
        ResetMode::Idle => ResetPolicy { idle, daily: None },
        ResetMode::Daily => ResetPolicy { idle: None, daily },
        ResetMode::Both => ResetPolicy { idle, daily },
    })
}

impl SessionStore {
    /// The entry for a message from `source`, as [`resolve`](SessionStore::resolve), but that an entry whose policy
    /// says so is replaced by a fresh one. The answer tells which rule fired, the session before, and whether that
    /// had used any tokens.
    ///
    /// A policy never fires while a lease holds the entry ([`hold`](SessionStore::hold)), or while `guard`, asked with the session key and with no lock held, says that work is in
    /// progress, or fails or panics: the entry is then kept and touched. A touch between its answer and the
    /// replacement wins. An entry with a resume pending keeps its id, and so does a pinned one; a suspended one is replaced in any case. For an
    /// hour after the time of day has jumped, and while the clock is [doubted](crate::report::OpenReport::clock_doubted), none
    /// fires either.
    ///
    /// # Errors
    /// As [`resolve`](SessionStore::resolve). What the guard says is not an error.
    pub fn resolve_with(
        &self,
        source: &SessionSource,
        policies: &ResetPolicies,
        guard: impl ActivityGuard,
    ) -> Result<Resolved> {
        let policy = policies.for_source(source);
        let key = self.key_for(source)?;
        let how = Resolve::new().source(source);
        self.resolve_by(&key, &how, &policy, &guard)
    }

    /// As [`resolve_as`](SessionStore::resolve_as), but that an entry whose policy says so is replaced by a fresh one, as by
    /// [`resolve_with`](SessionStore::resolve_with). Without a source the policy is that of the entry's own platform and
    /// chat type.
    ///
    /// # Errors
    /// Those of [every change](SessionStore#errors). What the guard says is not an error.
    pub fn resolve_as_with(
        &self,
        key: &SessionKey,
        how: &Resolve<'_>,
        policies: &ResetPolicies,
        guard: impl ActivityGuard,
    ) -> Result<Resolved> {
        let policy = match how.source {
            Some(source) => policies.for_source(source),
            None => {
                let found = self.commits().peek(key, false)?;
                let details = found.map(|found| found.cold.details.clone()).unwrap_or_default();
                policies.of(details.platform.as_deref(), details.chat_type.as_deref())
            }
        };
        self.resolve_by(key, how, &policy, &guard)
    }

    fn resolve_by(
        &self,
        key: &SessionKey,
        how: &Resolve<'_>,
        policy: &ResetPolicy,
        guard: &dyn ActivityGuard,
    ) -> Result<Resolved> {
        let entry = self.commits().fingerprint(key);
        let mut id = None;
        for _ in 0..ATTEMPTS {
            let Some(seen) = self.commits().peek_hot(key)? else { break };
            let Some(Over { checked, .. }) = self.over(policy, key, &seen)? else { break };
            if self.commits().leases()?.is_held(entry, checked.leases_at()) {
                break;
            }
            match ask(guard, key) {
                Answer::Active | Answer::Failed => break,
                Answer::Idle => {}
            }
            let Some(Over { reason, start, checked }) = self.over(policy, key, &seen)? else { break };
            let mut locked = self.commits().lock(key)?;
            let times = |hot: &Hot| (hot.updated_at, hot.last_interaction);
            let same = |now: Hot| times(&now) == times(&seen) && now.flags == seen.flags;
            let same_start = match start {
                Some(start) => locked.cold()?.is_some_and(|cold| cold.created_at == start),
                None => true,
            };
            if locked.hot().is_some_and(same) && same_start && !locked.is_held(checked.leases_at()) {
                self.heal(&mut locked, &checked);
                let now = checked.now.wall;
                match self.resolve_locked(locked, key, how, now, Some(reason), id.take())? {
                    Some(resolved) => return Ok(resolved),
                    None => id = how.make_id(now),
                }
            }
        }
        self.resolve_as(key, how)
    }

    /// The rule by which a session is over. While the clock may be wrong none is. Reads the larger record of the entry only
    /// where the policy counts from the start.
    fn over(&self, policy: &ResetPolicy, key: &SessionKey, hot: &Hot) -> Result<Option<Over>> {
        if hot.is(SUSPENDED) || hot.is(RESUME_PENDING) || hot.is(PINNED) {
            return Ok(None);
        }
        let start = if policy.needs_start() {
            let Some(found) = self.commits().peek(key, false)? else { return Ok(None) };
            Some(found.cold.created_at)
        } else {
            None
        };
        let due = |used_at, now| policy.rule(Times::new(used_at, hot.last_interaction, start, now), now);
        let now = self.now();
        if due(hot.updated_at, now).is_none() && !is_ahead(hot.updated_at, now) {
            return Ok(None);
        }
        let checked = self.look_at_clock()?;
        if checked.doubted || checked.has_jumped_within(AFTER_A_JUMP) {
            return Ok(None);
        }
        let entry = self.commits().fingerprint(key);
        let used_at = self.clock_check().used_at(entry, hot.updated_at, checked.now);
        Ok(due(used_at, checked.now.wall).map(|reason| Over { reason, start, checked }))
    }
}

/// A session that a policy ends.
struct Over {
    reason: ReplaceReason,
    /// When it began, if that mattered.
    start: Option<Timestamp>,
    /// What the clock said.
    checked: Checked,
}
