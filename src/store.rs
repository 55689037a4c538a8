//! [`SessionStore`]: the verbs.

use std::path::Path;
use std::sync::Arc;

use serde::Serialize;
use serde_json::{Map, Value};

use crate::codec::{Cold, Hot, RESUME_PENDING, SUSPENDED};
use crate::commit::{Commits, EntryLock, Peeked, Receipt, Settings};
use crate::config::Options;
use crate::entry::{Details, Extras, SessionEntry, Usage};
use crate::error::{Error, Result};
use crate::events::{EventKind, Listeners};
use crate::key::{SessionId, SessionKey};
use crate::meter;
use crate::source::{KeyPolicy, SessionSource};
use crate::storage::{self, Verification};
use crate::time::{Clock, Timestamp};

/// An open store. Clones are the same store; it may be used from many threads.
///
/// Changes are visible at once and durable after the next commit; their [`Receipt`] tells when. Where a key has no
/// entry the answer is `None`, not an error. Errors are failures: see [`Error`].
///
/// Dropping the last clone commits what is pending and logs an error; [`close`](SessionStore::close) returns it. The
/// directory is free for another opener when the last clone is gone.
#[derive(Debug, Clone)]
pub struct SessionStore {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    commits: Commits,
    clock: Arc<dyn Clock>,
    key_policy: KeyPolicy,
    opened: OpenReport,
    listeners: Listeners,
}

/// What [`SessionStore::open`] found and did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct OpenReport {
    /// The store was made just now.
    pub created: bool,
    /// The store had been closed properly.
    pub clean: bool,
    /// What was put right after a crash, in words.
    pub repairs: Vec<String>,
    /// Set if the database holds less than had been synced: something damaged its files.
    pub shortfall: Option<Shortfall>,
}

/// How far a database is behind what had been synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Shortfall {
    /// The newest commit known to have been synced.
    pub expected_commit: u64,
    /// The newest commit in the database.
    pub found_commit: u64,
    /// The entries there were at that commit.
    pub expected_entries: u64,
    /// The entries there are.
    pub found_entries: u64,
}

/// What [`SessionStore::resolve`] answers.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// The entry to work with.
    pub entry: SessionEntry,
    /// Where it comes from.
    pub resolution: Resolution,
    /// Proof of the touch or the creation.
    pub receipt: Receipt,
}

/// Where a resolved entry comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Resolution {
    /// It was there, and was touched.
    Existing,
    /// There was none.
    Created,
    /// There was one, and it was replaced by a fresh one.
    Replaced {
        /// Why.
        reason: ReplaceReason,
        /// The session before.
        previous: SessionId,
        /// Whether that had used any tokens.
        had_activity: bool,
    },
}

/// Why an entry was replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReplaceReason {
    /// It was suspended.
    Suspended,
    /// It had been idle for longer than its policy allows.
    Idle,
    /// The hour of the day at which its policy starts afresh has passed since it was used.
    Daily,
}

impl ReplaceReason {
    /// The word that is kept in `auto_reset_reason`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Suspended => "suspended",
            Self::Idle => "idle",
            Self::Daily => "daily",
        }
    }
}

/// What [`SessionStore::remove_if`] answers.
#[derive(Debug, Clone)]
pub enum Removal {
    /// The entry is gone.
    Removed(Receipt),
    /// The entry is not the one that was seen, and stays.
    Changed,
    /// There is no entry.
    Missing,
}

/// What [`SessionStore::put`] did.
#[derive(Debug)]
pub(crate) enum Put {
    /// There was no entry.
    Created,
    /// There was one, and it is replaced.
    Replaced,
    /// There was one, and it stays.
    Kept,
}

/// Figures of a store.
///
/// With the feature `metrics` the library also tells these to the recorder of the crate `metrics`, if there is one, all
/// stores of a process together:
///
/// | name | kind | unit | what |
/// | --- | --- | --- | --- |
/// | `cloakroom_entries` | gauge | entries | entries there are, as of the last commit |
/// | `cloakroom_touches_total` | counter | touches | touches, resolved messages and turns included |
/// | `cloakroom_commits_total` | counter | commits | commits that changed something |
/// | `cloakroom_commit_seconds` | histogram | seconds | how long such a commit took, its sync included if it had one |
/// | `cloakroom_pending_changes` | gauge | changes | changes that wait for the next commit, as of the last one |
/// | `cloakroom_pruned_total`, `reason` = `age`, `entries`, `bytes` | counter | entries | entries removed by pruning |
/// | `cloakroom_last_prune_timestamp_seconds` | gauge | seconds since 1970 | when the last pass ended, dry runs left out |
/// | `cloakroom_events_dropped_total` | counter | events | events that a full channel did not take |
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Stats {
    /// How many entries there are.
    pub entries: u64,
    /// Bytes of all files of the store.
    pub bytes_on_disk: u64,
    /// Changes that wait for their commit.
    pub pending: usize,
    /// The number of the newest commit that changed something.
    pub last_commit: u64,
    /// `updated_at` of the entry idle for longest.
    pub oldest: Option<Timestamp>,
    /// `updated_at` of the entry active last.
    pub newest: Option<Timestamp>,
}

impl SessionStore {
    /// Opens a store, and makes it if `options` say so.
    ///
    /// What a crash left is repaired first. The call ends with a store or an error, and after an error nothing on
    /// disk has been lost.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::NotAStore`], [`Error::Locked`], [`Error::NewerFormat`], [`Error::Damaged`],
    /// [`Error::PermissionDenied`], [`Error::DiskFull`], [`Error::Io`], [`Error::Setting`].
    pub fn open(options: Options) -> Result<Self> {
        options.check()?;
        let opened = storage::open(&options.path, options.create, options.cache_bytes)?;
        let shortfall = opened.expected.map(|expected| Shortfall {
            expected_commit: expected.commit,
            found_commit: opened.mark.commit,
            expected_entries: expected.count,
            found_entries: opened.mark.count,
        });
        if let Some(shortfall) = &shortfall {
            tracing::error!(
                ?shortfall,
                "the store holds less than had been synced; restore a backup or check the disk"
            );
        }
        for repair in &opened.repairs {
            tracing::warn!(repair, "repaired");
        }
        let report = OpenReport { created: opened.created, clean: opened.clean, repairs: opened.repairs, shortfall };
        let settings = Settings {
            interval: options.commit_interval,
            max_pending: options.max_pending,
            cached_entries: options.cached_entries,
        };
        let commits = Commits::start(opened.engine, opened.writer, Arc::clone(&options.clock), settings)?;
        let inner = Inner {
            commits,
            clock: options.clock,
            key_policy: options.key_policy,
            opened: report,
            listeners: Listeners::default(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The directory of the store.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.commits().engine().path()
    }

    /// What opening found and did.
    #[must_use]
    pub fn open_report(&self) -> &OpenReport {
        &self.inner.opened
    }

    /// The entry of a key, without its extras.
    pub fn get(&self, key: &SessionKey) -> Result<Option<SessionEntry>> {
        Ok(self.commits().peek(key, false)?.map(|peeked| entry(key, &peeked.hot, &peeked.cold)))
    }

    /// The entry of a key and its extras, as of one moment. Costs the size of the extras.
    pub fn get_with_extras(&self, key: &SessionKey) -> Result<Option<(SessionEntry, Extras)>> {
        let peeked = self.commits().peek(key, true)?;
        Ok(peeked.map(|Peeked { hot, cold, extras }| (entry(key, &hot, &cold), extras)))
    }

    /// Whether a key has an entry.
    pub fn contains(&self, key: &SessionKey) -> Result<bool> {
        Ok(self.commits().peek_hot(self.commits().engine().fingerprint(key))?.is_some())
    }

    /// How many entries there are. O(1).
    #[must_use]
    pub fn len(&self) -> u64 {
        self.commits().count()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All entries whose live session is `id`, in key order. Several keys may share an id: a cron job and its run.
    pub fn find_by_session_id(&self, id: &SessionId) -> Result<Vec<SessionEntry>> {
        let mut found = Vec::new();
        for key in self.commits().candidates_of_id(id)? {
            found.extend(self.get(&key)?.filter(|entry| entry.session_id == *id));
        }
        Ok(found)
    }

    /// The entry for a message from `source`: touched if there is one, replaced by a fresh one if it is suspended,
    /// created if there is none. Concurrent calls for one key make one entry.
    pub fn resolve(&self, source: &SessionSource) -> Result<Resolved> {
        let key = self.key_for(source)?;
        let locked = self.commits().lock(&key)?;
        self.resolve_locked(locked, &key, source, None)
    }

    /// The key of the conversation that `source` belongs to.
    pub(crate) fn key_for(&self, source: &SessionSource) -> Result<SessionKey> {
        SessionKey::for_source(source, &self.inner.key_policy).map_err(Error::InvalidKey)
    }

    /// Resolves a locked entry; `due` says that a policy wants it replaced.
    pub(crate) fn resolve_locked(
        &self,
        mut locked: EntryLock<'_>,
        key: &SessionKey,
        source: &SessionSource,
        due: Option<ReplaceReason>,
    ) -> Result<Resolved> {
        let fresh_id = || new_session_id(self.now());
        let Some((hot, cold)) = both(&locked)? else {
            let cold = Cold {
                session_id: fresh_id()?,
                created_at: self.now(),
                details: Details::from_source(source.clone()),
                extras: None,
            };
            let hot = Hot::fresh(self.now());
            let entry = entry(key, &hot, &cold);
            let commit = locked.put(hot, cold, None)?;
            drop(locked);
            self.listeners().tell(key, EventKind::Created);
            return Ok(Resolved { entry, resolution: Resolution::Created, receipt: self.commits().receipt(commit) });
        };
        let reason = if hot.is(SUSPENDED) { Some(ReplaceReason::Suspended) } else { due };
        let Some(reason) = reason else {
            let hot = touched(hot, self.now());
            let commit = locked.set_hot(hot);
            drop(locked);
            meter::touched();
            let receipt = self.commits().receipt(commit);
            return Ok(Resolved { entry: entry(key, &hot, &cold), resolution: Resolution::Existing, receipt });
        };
        let had_activity = hot.usage != Usage::ZERO;
        let details = Details {
            was_auto_reset: true,
            auto_reset_reason: Some(reason.as_str().into()),
            reset_had_activity: had_activity,
            prev_session_id: Some(cold.session_id.clone()),
            ..Details::from_source(source.clone())
        };
        let (hot, new) = renewed(&hot, fresh_id()?, details, self.now());
        let entry = entry(key, &hot, &new);
        let commit = locked.put(hot, new, None)?;
        drop(locked);
        self.listeners().tell(key, EventKind::Reset { reason: Some(reason) });
        let resolution = Resolution::Replaced { reason, previous: cold.session_id.clone(), had_activity };
        Ok(Resolved { entry, resolution, receipt: self.commits().receipt(commit) })
    }

    /// Notes that the user was active: `updated_at` becomes now, and never goes back.
    pub fn touch(&self, key: &SessionKey) -> Result<Option<Receipt>> {
        let now = self.now();
        self.change_hot(key, |hot| {
            meter::touched();
            *hot = touched(*hot, now);
        })
    }

    /// Adds the use of one turn to the counters. `last_prompt_tokens` is replaced; `updated_at` stays.
    pub fn record_usage(&self, key: &SessionKey, turn: &Usage) -> Result<Option<Receipt>> {
        self.change_hot(key, |hot| hot.usage.add(turn))
    }

    /// Suspends the session: it is never pruned, and the next message starts a fresh one. `updated_at` stays.
    pub fn suspend(&self, key: &SessionKey) -> Result<Option<Receipt>> {
        self.set_suspended(key, true)
    }

    /// Takes a suspension back. `updated_at` stays.
    pub fn unsuspend(&self, key: &SessionKey) -> Result<Option<Receipt>> {
        self.set_suspended(key, false)
    }

    /// Changes an entry's details. `updated_at` stays.
    ///
    /// `change` runs with no lock held and may be run again, if another thread changed the details meanwhile.
    pub fn update(&self, key: &SessionKey, mut change: impl FnMut(&mut Details)) -> Result<Option<Receipt>> {
        loop {
            let Some(seen) = self.commits().peek(key, false)? else { return Ok(None) };
            let mut details = seen.cold.details.clone();
            change(&mut details);
            let mut locked = self.commits().lock(key)?;
            let Some((hot, cold)) = both(&locked)? else { return Ok(None) };
            if cold.details != seen.cold.details {
                continue;
            }
            let commit = locked.put(hot, Cold { details, ..Cold::clone(&cold) }, None)?;
            drop(locked);
            return Ok(Some(self.commits().receipt(commit)));
        }
    }

    /// Replaces an entry's metadata. Costs the size of its extras; `updated_at` stays.
    ///
    /// # Errors
    /// [`Error::TooLarge`] if the entry would keep more than 1 MiB of JSON.
    pub fn set_metadata(&self, key: &SessionKey, metadata: &Map<String, Value>) -> Result<Option<Receipt>> {
        let text = Value::Object(metadata.clone());
        let mut locked = self.commits().lock(key)?;
        let Some((hot, cold)) = both(&locked)? else { return Ok(None) };
        let mut extras = locked.extras(&cold)?;
        extras.insert(Extras::METADATA, &text);
        let commit = locked.put(hot, Cold::clone(&cold), Some(&extras))?;
        drop(locked);
        Ok(Some(self.commits().receipt(commit)))
    }

    /// Starts a fresh session, as the user asked: new id, zero counters, not suspended, no extras. Answers the entry.
    pub fn reset(&self, key: &SessionKey) -> Result<Option<(SessionEntry, Receipt)>> {
        let id = new_session_id(self.now())?;
        self.renew(key, id, true)
    }

    /// Points the key at another session, for instance one to be resumed: counters start at zero. Answers the entry.
    pub fn switch(&self, key: &SessionKey, id: SessionId) -> Result<Option<(SessionEntry, Receipt)>> {
        self.renew(key, id, false)
    }

    /// Puts a whole entry in place, as an import does. Where there is one already, `replaces` sees it and decides.
    pub(crate) fn put(
        &self,
        new: &SessionEntry,
        extras: &Extras,
        replaces: impl FnOnce(&SessionEntry) -> bool,
    ) -> Result<Put> {
        let mut locked = self.commits().lock(&new.key)?;
        let old = both(&locked)?.map(|(hot, cold)| entry(&new.key, &hot, &cold));
        if old.as_ref().is_some_and(|old| !replaces(old)) {
            return Ok(Put::Kept);
        }
        let mut hot = Hot { updated_at: new.updated_at, flags: 0, usage: new.usage };
        hot.set(SUSPENDED, new.suspended);
        hot.set(RESUME_PENDING, new.resume_pending);
        let cold = Cold {
            session_id: new.session_id.clone(),
            created_at: new.created_at,
            details: new.details.clone(),
            extras: None,
        };
        let commit = locked.put(hot, cold, Some(extras))?;
        drop(locked);
        self.commits().receipt(commit);
        self.listeners().tell(&new.key, if old.is_some() { EventKind::Replaced } else { EventKind::Created });
        Ok(if old.is_some() { Put::Replaced } else { Put::Created })
    }

    /// Removes an entry.
    pub fn remove(&self, key: &SessionKey) -> Result<Option<Receipt>> {
        let mut locked = self.commits().lock(key)?;
        if locked.hot().is_none() {
            return Ok(None);
        }
        let commit = locked.remove();
        drop(locked);
        self.listeners().tell(key, EventKind::Removed);
        Ok(Some(self.commits().receipt(commit)))
    }

    /// Removes an entry if it is still as it was `seen`, its time of activity included.
    pub fn remove_if(&self, key: &SessionKey, seen: &SessionEntry) -> Result<Removal> {
        let mut locked = self.commits().lock(key)?;
        let Some((hot, cold)) = both(&locked)? else { return Ok(Removal::Missing) };
        if entry(key, &hot, &cold) != *seen {
            return Ok(Removal::Changed);
        }
        let commit = locked.remove();
        drop(locked);
        self.listeners().tell(key, EventKind::Removed);
        Ok(Removal::Removed(self.commits().receipt(commit)))
    }

    /// Checks every invariant of the store, reading all of it, and reports each violation. Writers go on meanwhile.
    pub fn verify(&self) -> Result<Verification> {
        self.commits().apply_pending()?;
        storage::verify(self.commits().engine())
    }

    /// Figures of the store. O(1), but for the size on disk, which looks at each file.
    pub fn stats(&self) -> Result<Stats> {
        Ok(Stats {
            entries: self.len(),
            bytes_on_disk: self.commits().engine().bytes_on_disk()?,
            pending: self.commits().pending(),
            last_commit: self.commits().last_change(),
            oldest: self.oldest()?,
            newest: self.recent(1, None)?.entries.first().map(|newest| newest.updated_at),
        })
    }

    /// Blocks until everything changed so far survives a power cut.
    pub fn flush(&self) -> Result<()> {
        self.commits().receipt_of_all().wait()
    }

    /// Commits what is pending and closes the store, clones included: they answer [`Error::Closed`] to changes.
    pub fn close(&self) -> Result<()> {
        self.commits().close()
    }

    /// The clock of the store.
    pub(crate) fn clock(&self) -> &Arc<dyn Clock> {
        &self.inner.clock
    }

    /// The way to the trees, for work over many entries.
    pub(crate) fn commits(&self) -> &Commits {
        &self.inner.commits
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.inner.clock.now()
    }

    pub(crate) fn listeners(&self) -> &Listeners {
        &self.inner.listeners
    }

    fn set_suspended(&self, key: &SessionKey, suspended: bool) -> Result<Option<Receipt>> {
        let mut was = suspended;
        let done = self.change_hot(key, |hot| {
            was = hot.is(SUSPENDED);
            hot.set(SUSPENDED, suspended);
        })?;
        if was != suspended {
            self.listeners().tell(key, if suspended { EventKind::Suspended } else { EventKind::Unsuspended });
        }
        Ok(done)
    }

    fn change_hot(&self, key: &SessionKey, change: impl FnOnce(&mut Hot)) -> Result<Option<Receipt>> {
        let mut locked = self.commits().lock(key)?;
        let Some(mut hot) = locked.hot() else { return Ok(None) };
        change(&mut hot);
        let commit = locked.set_hot(hot);
        drop(locked);
        Ok(Some(self.commits().receipt(commit)))
    }

    fn renew(&self, key: &SessionKey, id: SessionId, by_user: bool) -> Result<Option<(SessionEntry, Receipt)>> {
        let mut locked = self.commits().lock(key)?;
        let Some((hot, cold)) = both(&locked)? else { return Ok(None) };
        let old = &cold.details;
        let details = Details {
            display_name: old.display_name.clone(),
            platform: old.platform.clone(),
            chat_type: old.chat_type.clone(),
            origin: old.origin.clone(),
            is_fresh_reset: by_user,
            reset_had_activity: hot.usage != Usage::ZERO,
            prev_session_id: Some(cold.session_id.clone()),
            ..Details::default()
        };
        let (hot, new) = renewed(&hot, id, details, self.now());
        let entry = entry(key, &hot, &new);
        let commit = locked.put(hot, new, None)?;
        drop(locked);
        self.listeners().tell(key, if by_user { EventKind::Reset { reason: None } } else { EventKind::Switched });
        Ok(Some((entry, self.commits().receipt(commit))))
    }
}

/// Both records of a locked entry.
pub(crate) fn both(locked: &EntryLock<'_>) -> Result<Option<(Hot, Arc<Cold>)>> {
    Ok(locked.hot().zip(locked.cold()?))
}

/// What a caller sees of two records.
pub(crate) fn entry(key: &SessionKey, hot: &Hot, cold: &Cold) -> SessionEntry {
    SessionEntry {
        key: key.clone(),
        session_id: cold.session_id.clone(),
        created_at: cold.created_at,
        updated_at: hot.updated_at,
        suspended: hot.is(SUSPENDED),
        resume_pending: hot.is(RESUME_PENDING),
        usage: hot.usage,
        details: cold.details.clone(),
        extras_bytes: cold.extras.map_or(0, |at| at.bytes),
    }
}

/// Activity at `now`; time never goes back.
pub(crate) fn touched(hot: Hot, now: Timestamp) -> Hot {
    Hot { updated_at: hot.updated_at.max(now), ..hot }
}

/// The records of a fresh session in the place of an old one.
fn renewed(old: &Hot, id: SessionId, details: Details, now: Timestamp) -> (Hot, Cold) {
    let hot = Hot::fresh(now.max(old.updated_at));
    (hot, Cold { session_id: id, created_at: now, details, extras: None })
}

/// A new id: date, time and 48 random bits, `20260612_000653_3f9a01c2d4e5`.
fn new_session_id(now: Timestamp) -> Result<SessionId> {
    let random = getrandom::u64().map_err(|e| Error::Random { message: e.to_string() })? >> 16;
    let time = chrono::DateTime::<chrono::Utc>::from(now).format("%Y%m%d_%H%M%S");
    SessionId::new(format!("{time}_{random:012x}")).map_err(Error::InvalidId)
}
