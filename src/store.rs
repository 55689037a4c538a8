//! [`SessionStore`]: the verbs.

use std::path::Path;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tracing::field::Empty;

use crate::answer::{IfSeen, OpenReport, Removal, Stats, Written};
use crate::clock_check::ClockCheck;
use crate::codec::{Cold, Hot, PINNED, SUSPENDED};
use crate::commit::{Commits, EntryLock, Peeked, Placed, Receipt, Settings};
use crate::config::Options;
use crate::entry::{Details, Extras, Revision, SessionEntry, Usage};
use crate::error::{Error, Result};
use crate::events::{CHANGES, EventKind, Listeners, TOUCHES, Told, UPDATES};
use crate::fork;
use crate::key::{SessionId, SessionKey};
use crate::meter;
use crate::random;
use crate::rules::entry;
use crate::socket;
use crate::source::KeyPolicy;
use crate::storage::{self, Opened, Verification};
use crate::time::{Clock, Reading, Timestamp};
use crate::unreadable::{Listing, Unreadable};
use crate::zone::TimeZone;

/// An open store. Clones are the same store; it may be used from many threads.
///
/// Changes are visible at once and durable after the next commit; their [`Receipt`] tells when. Where a key has no
/// entry the answer is `None`, not an error.
///
/// # Errors
/// Errors are failures, and where a verb says nothing of its own they are these. Reads fail with [`Error::DamagedRecord`](crate::Error::DamagedRecord)
/// where the entry cannot be decoded, and with [`Error::Engine`](crate::Error::Engine), [`Error::Io`](crate::Error::Io) or one of its like where the
/// database cannot be read. Changes fail with those, with [`Error::Closed`](crate::Error::Closed) once the store is closed, and with
/// [`Error::ReadOnly`](crate::Error::ReadOnly) once a write or a sync has failed; its source is that failure. What derives a key from a source may
/// find that it is none ([`Error::InvalidKey`](crate::Error::InvalidKey)), and what makes an id needs random numbers ([`Error::Random`](crate::Error::Random)).
/// Verbs over many entries pass records over that cannot be decoded, and count them.
///
/// # What a crash leaves
/// Each entry is whole, as one of its changes left it: the newest whose receipt is durable, or a later one. A verb on one
/// entry is one step; a verb over many makes a step of each, and a crash may come between two.
///
/// # Closing
/// Dropping the last clone commits what is pending and logs an error; [`close`](SessionStore::close) returns it. The
/// directory is free for another opener when the last clone is gone.
///
/// It belongs to the process that opened it. In a forked child every call answers [`Error::Forked`](crate::Error::Forked),
/// and what is dropped there is left as it is. A process that forks opens its stores afterwards.
#[derive(Debug, Clone)]
pub struct SessionStore {
    inner: Arc<Inner>,
}

impl Drop for SessionStore {
    fn drop(&mut self) {
        fork::keep_in_child(|| Arc::clone(&self.inner));
    }
}

#[derive(Debug)]
struct Inner {
    commits: Commits,
    options: Options,
    clock_check: ClockCheck,
    opened: OpenReport,
    listeners: Listeners,
    /// The time zone of naive times, and under which name the store remembers it: to parse one takes longer than the rest
    /// of a look at an entry.
    zone: Mutex<Option<(Option<String>, TimeZone)>>,
}

/// A store that others keep open, or nobody any more.
#[derive(Debug, Clone)]
pub(crate) struct WeakStore(Weak<Inner>);

impl WeakStore {
    /// The store, if it is open. Where that was the last handle meanwhile, dropping it closes the store.
    pub(crate) fn upgrade(&self) -> Option<SessionStore> {
        self.0.upgrade().map(|inner| SessionStore { inner })
    }

    /// Whether nobody keeps it open. It may be on its way to be closed.
    pub(crate) fn is_gone(&self) -> bool {
        self.0.strong_count() == 0
    }

    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Weak::ptr_eq(&self.0, &other.0)
    }
}

impl SessionStore {
    /// Opens a store, and makes it if `options` say so.
    ///
    /// The directory is closed to all but its owner. One that others own, or can write to, is refused, unless it is
    /// empty; and none is made where all can write and there is no sticky bit, or where a mount keeps no modes.
    /// [`Options::trust_group`](crate::Options::trust_group) lets a group in. Opening writes: of a store that cannot be
    /// written open a copy.
    ///
    /// What a crash left is repaired first. The call ends with a store or an error, and after an error nothing on
    /// disk has been lost.
    ///
    /// # Errors
    /// [`Error::NotFound`](crate::Error::NotFound), [`Error::NotAStore`](crate::Error::NotAStore), [`Error::Locked`](crate::Error::Locked), [`Error::NewerFormat`](crate::Error::NewerFormat),
    /// [`Error::OlderFormat`](crate::Error::OlderFormat), [`Error::Damaged`](crate::Error::Damaged), [`Error::Engine`](crate::Error::Engine), [`Error::Random`](crate::Error::Random),
    /// [`Error::Exposed`](crate::Error::Exposed), [`Error::Unwritable`](crate::Error::Unwritable), [`Error::PermissionDenied`](crate::Error::PermissionDenied), [`Error::DiskFull`](crate::Error::DiskFull), [`Error::Io`](crate::Error::Io), [`Error::Setting`](crate::Error::Setting), [`Error::Forked`](crate::Error::Forked).
    pub fn open(options: Options) -> Result<Self> {
        options.check()?;
        let span =
            tracing::debug_span!("open", path = %options.path.display(), created = Empty, entries = Empty).entered();
        let opened = Self::opened(&options)?;
        socket::sweep(&options.path);
        let store = Self::start(opened, options)?;
        span.record("created", store.open_report().created).record("entries", store.len());
        Ok(store)
    }

    fn opened(options: &Options) -> Result<Opened> {
        let open = || storage::open(&options.path, options.create, options.cache_bytes, options.trust_group);
        let opened = open();
        #[cfg(feature = "live")]
        let opened = Self::yielded(opened, options, open);
        match options.compact_at_open {
            Some(ratio) => storage::compact_opened(opened?, ratio, options.cache_bytes, open),
            None => opened,
        }
    }

    /// Opens a store that was taken, where the program that has it yields it.
    #[cfg(feature = "live")]
    fn yielded(opened: Result<Opened>, options: &Options, open: impl Fn() -> Result<Opened>) -> Result<Opened> {
        let began = std::time::Instant::now();
        let is_taken = matches!(opened, Err(Error::Locked { this_process: false, .. }));
        if !is_taken || !options.take_over || !socket::ask_to_close(&options.path) {
            return opened;
        }
        tracing::info!("the program that has the store open yields it");
        loop {
            match open() {
                Err(Error::Locked { .. }) if began.elapsed() < socket::PATIENCE => {
                    std::thread::sleep(std::time::Duration::from_millis(5));
                }
                opened => return opened,
            }
        }
    }

    /// Starts the committer of an opened store, and tells what was wrong with it.
    pub(crate) fn start(mut opened: Opened, options: Options) -> Result<Self> {
        let mut report = OpenReport::of(&mut opened);
        opened.writer.set_journal_bytes(options.journal_bytes);
        let settings = Settings {
            interval: options.commit_interval,
            max_pending: options.max_pending,
            cached_entries: options.cached_entries,
            first_revision: Revision::from_number(random::bits()?),
        };
        let commits = Commits::start(opened.engine, opened.writer, Arc::clone(&options.clock), settings)?;
        let now = Reading::of(&*options.clock);
        let clock_check = ClockCheck::open(&commits, now);
        report.times_ahead = clock_check.wrong() as u64;
        report.clock_doubted = clock_check.is_doubted(now);
        commits.meter().opened(meter::Opened {
            clean: report.clean,
            repairs: report.repairs.len(),
            shortfall: report.shortfall.map(|lost| lost.expected_entries.saturating_sub(lost.found_entries)),
            times_ahead: report.times_ahead,
            clock_doubted: report.clock_doubted,
        });
        let (listeners, zone) = (Listeners::default(), Mutex::default());
        let inner = Inner { commits, options, clock_check, opened: report, listeners, zone };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The name of the time zone that the store remembers, and the zone in which naive times are at home: that one, or the
    /// machine's.
    pub(crate) fn home_zone(&self) -> Result<(Option<String>, Result<TimeZone>)> {
        let remembered = self.commits().engine()?.zone()?;
        let mut known = self.inner.zone.lock();
        if let Some((_, zone)) = known.as_ref().filter(|(name, _)| *name == remembered) {
            return Ok((remembered, Ok(zone.clone())));
        }
        let zone = remembered.as_ref().map_or_else(TimeZone::local, |name| name.parse());
        if let Ok(zone) = &zone {
            *known = Some((remembered.clone(), zone.clone()));
        }
        Ok((remembered, zone))
    }

    /// A handle that does not keep the store open.
    pub(crate) fn downgrade(&self) -> WeakStore {
        WeakStore(Arc::downgrade(&self.inner))
    }

    /// How it was opened.
    pub(crate) fn options(&self) -> &Options {
        &self.inner.options
    }

    /// The directory of the store.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.commits().path()
    }

    /// What opening found and did.
    #[must_use]
    pub fn open_report(&self) -> &OpenReport {
        &self.inner.opened
    }

    /// The entry of a key, without its extras.
    pub fn get(&self, key: &SessionKey) -> Result<Option<SessionEntry>> {
        let Some(locked) = self.commits().look(key)? else { return Ok(None) };
        seen(key, &locked)
    }

    /// Like [`SessionStore::get`], for scans: bypasses the cache so that it is not flushed.
    pub(crate) fn peek(&self, key: &SessionKey) -> Result<Option<SessionEntry>> {
        let peeked = self.commits().peek(key, false)?;
        Ok(peeked.map(|Peeked { hot, cold, .. }| entry(key, &hot, Arc::unwrap_or_clone(cold))))
    }

    /// The entry of a key and its extras, as of one moment. Costs the size of the extras.
    pub fn get_with_extras(&self, key: &SessionKey) -> Result<Option<(SessionEntry, Extras)>> {
        let peeked = self.commits().peek(key, true)?;
        Ok(peeked.map(|Peeked { hot, cold, extras }| (entry(key, &hot, Arc::unwrap_or_clone(cold)), extras)))
    }

    /// Whether a key has an entry.
    pub fn contains(&self, key: &SessionKey) -> Result<bool> {
        Ok(self.commits().peek_hot(key)?.is_some())
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
    ///
    /// A record that cannot be decoded is passed over, and counted.
    pub fn find_by_session_id(&self, id: &SessionId) -> Result<Listing<SessionEntry>> {
        let (mut items, mut unreadable) = (Vec::new(), Unreadable::default());
        for key in self.commits().candidates_of_id(id, &mut unreadable)? {
            let entry = unreadable.pass(self.get(&key))?.flatten();
            items.extend(entry.filter(|entry| entry.session_id == *id));
        }
        Ok(Listing { items, unreadable })
    }

    /// Notes that the user was active: `updated_at` becomes now, and never goes back.
    ///
    /// Where a clock that ran ahead has left a time that lies more than a day in the future, and few entries have such
    /// a time, this and every other change sets it to now. Where half of the entries or more do, the clock is taken for
    /// wrong, see [`OpenReport::clock_doubted`].
    pub fn touch(&self, key: &SessionKey) -> Result<Option<Receipt>> {
        let (mut locked, now) = self.lock_to_touch(key)?;
        let Some((commit, revision)) = locked.touch(now) else { return Ok(None) };
        drop(locked);
        self.commits().meter().touched();
        self.tell(key, TOUCHES, || Told::of(EventKind::Touched, revision));
        Ok(Some(self.commits().receipt(commit)))
    }

    /// Adds the use of one turn to the counters, which end at the largest number there is. `last_prompt_tokens` is
    /// replaced; `updated_at` stays.
    ///
    /// # Errors
    /// [`Error::InvalidCost`](crate::Error::InvalidCost) if the cost is not finite. Nothing is counted then.
    pub fn record_usage(&self, key: &SessionKey, turn: &Usage) -> Result<Option<Receipt>> {
        let cost = turn.estimated_cost_usd;
        if !cost.is_finite() {
            return Err(Error::InvalidCost { cost });
        }
        let locked = self.lock_to_change(key)?;
        let Some((changed, receipt)) = self.change_hot(locked, |hot| hot.usage.add(turn)) else { return Ok(None) };
        if let Some(revision) = changed {
            self.tell(key, UPDATES, || Told::of(EventKind::Updated, revision));
        }
        Ok(Some(receipt))
    }

    /// Suspends the session: it is never pruned, and the next message starts a fresh one. `updated_at` stays.
    pub fn suspend(&self, key: &SessionKey) -> Result<Option<Receipt>> {
        self.set_flag(key, SUSPENDED, true, EventKind::Suspended)
    }

    /// Takes a suspension back. `updated_at` stays.
    pub fn unsuspend(&self, key: &SessionKey) -> Result<Option<Receipt>> {
        self.set_flag(key, SUSPENDED, false, EventKind::Unsuspended)
    }

    /// Pins the entry: it is never pruned, no cap takes it, and no policy replaces it, until it is unpinned. Unlike
    /// suspension it does not end the session at the next message. `updated_at` stays. `None` if there is no entry.
    ///
    /// It belongs to the conversation: a reset, a fresh start and another session under the key keep it. O(1); when the
    /// receipt is durable it survives a crash.
    pub fn pin(&self, key: &SessionKey) -> Result<Option<Receipt>> {
        self.set_flag(key, PINNED, true, EventKind::Pinned)
    }

    /// Takes that back. `updated_at` stays.
    pub fn unpin(&self, key: &SessionKey) -> Result<Option<Receipt>> {
        self.set_flag(key, PINNED, false, EventKind::Unpinned)
    }

    /// Changes an entry's details. `updated_at` stays.
    ///
    /// `change` runs with no lock held and may be run again, if another thread changed the details meanwhile.
    pub fn update(&self, key: &SessionKey, mut change: impl FnMut(&mut Details)) -> Result<Option<Receipt>> {
        loop {
            let Some(seen) = self.commits().peek(key, false)? else { return Ok(None) };
            let mut details = seen.cold.details.clone();
            change(&mut details);
            let mut locked = self.lock_to_change(key)?;
            let Some((hot, cold)) = both(&locked)? else { return Ok(None) };
            if cold.details != seen.cold.details {
                continue;
            }
            let Placed { hot, commit, .. } = locked.put(hot, Cold { details, ..Cold::clone(&cold) }, None)?;
            drop(locked);
            self.tell(key, UPDATES, || Told::of(EventKind::Updated, hot.revision));
            return Ok(Some(self.commits().receipt(commit)));
        }
    }

    /// Removes an entry.
    pub fn remove(&self, key: &SessionKey) -> Result<Option<Receipt>> {
        Ok(self.remove_seen(key, None)?.done().flatten())
    }

    /// Removes an entry if it has the revision that was `seen`.
    pub(crate) fn remove_seen(&self, key: &SessionKey, seen: Option<Revision>) -> Result<IfSeen<Option<Receipt>>> {
        let locked = self.commits().lock(key)?;
        if differs(&locked, seen) {
            return Ok(IfSeen::Differs);
        }
        // A record that cannot be decoded is an error here, and not of the committer.
        let Some((_, gone)) = both(&locked)? else { return Ok(IfSeen::Done(None)) };
        Ok(IfSeen::Done(Some(self.remove_locked(key, locked, &gone))))
    }

    /// Removes an entry if it is still as it was `seen`: its revision and its time of activity are the same. A turn that
    /// has begun meanwhile shows in its time of activity only.
    pub fn remove_if(&self, key: &SessionKey, seen: &SessionEntry) -> Result<Removal> {
        let locked = self.commits().lock(key)?;
        let Some((hot, gone)) = both(&locked)? else { return Ok(Removal::Missing) };
        if (hot.revision, hot.updated_at) != (seen.revision, seen.updated_at) {
            return Ok(Removal::Changed);
        }
        Ok(Removal::Removed(self.remove_locked(key, locked, &gone)))
    }

    /// Removes a locked entry that has the record `gone`, and tells of it.
    pub(crate) fn remove_locked(&self, key: &SessionKey, mut locked: EntryLock<'_>, gone: &Cold) -> Receipt {
        let commit = locked.remove();
        drop(locked);
        self.tell(key, CHANGES, || Told::gone(EventKind::Removed, &gone.session_id));
        self.commits().receipt(commit)
    }

    /// Checks every invariant of the store, reading all of it, and reports each violation. Writers go on meanwhile.
    pub fn verify(&self) -> Result<Verification> {
        self.commits().apply_pending()?;
        let mut found = storage::verify(self.commits().engine()?)?;
        found.times_ahead = self.times_ahead()?;
        Ok(found)
    }

    /// Figures of the store. Costs a look at each file and at a few entries, and at the out-of-date index rows of entries that
    /// were touched within the last minutes.
    pub fn stats(&self) -> Result<Stats> {
        let mut unreadable = Unreadable::default();
        // Before the look at the trees has them written.
        let pending = self.commits().pending();
        let (oldest, newest) = self.ends(&mut unreadable)?.unzip();
        Ok(Stats {
            entries: self.len(),
            bytes_on_disk: self.commits().engine()?.bytes_on_disk()?,
            pending,
            last_commit: self.commits().last_change(),
            oldest,
            newest,
            unreadable,
        })
    }

    /// Blocks until everything changed so far survives a power cut.
    pub fn flush(&self) -> Result<()> {
        self.commits().receipt_of_all()?.wait()
    }

    /// Commits what is pending and closes the store, clones included: they answer [`Error::Closed`](crate::Error::Closed) to changes.
    ///
    /// It may be called more than once, and by many threads at once: each call returns when the store is closed, with
    /// the same outcome.
    ///
    /// # Errors
    /// [`Error::ReadOnly`](crate::Error::ReadOnly) if a write or a sync failed, now or before: what is not durable by then may be lost.
    /// [`Error::Closed`](crate::Error::Closed) to a callback that runs on the committer's thread (the clock, a recorder of metrics), which cannot
    /// wait for it: changes are refused from then on, and the next call, or the drop of the last clone, commits them.
    pub fn close(&self) -> Result<()> {
        self.commits().close()
    }

    /// The clock of the store.
    pub(crate) fn clock(&self) -> &Arc<dyn Clock> {
        &self.inner.options.clock
    }

    /// Whether it is to be believed.
    pub(crate) fn clock_check(&self) -> &ClockCheck {
        &self.inner.clock_check
    }

    /// The way to the trees, for work over many entries.
    pub(crate) fn commits(&self) -> &Commits {
        &self.inner.commits
    }

    /// How keys are derived.
    pub(crate) fn key_policy(&self) -> &KeyPolicy {
        &self.inner.options.key_policy
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.inner.options.clock.now()
    }

    pub(crate) fn listeners(&self) -> &Listeners {
        &self.inner.listeners
    }

    fn set_flag(&self, key: &SessionKey, flag: u8, on: bool, kind: EventKind) -> Result<Option<Receipt>> {
        Ok(self.set_flag_seen(key, (flag, on), kind, None)?.done().flatten())
    }

    /// Sets a flag of an entry if it has the revision that was `seen`.
    pub(crate) fn set_flag_seen(
        &self,
        key: &SessionKey,
        (flag, on): (u8, bool),
        kind: EventKind,
        seen: Option<Revision>,
    ) -> Result<IfSeen<Option<Receipt>>> {
        let locked = self.lock_to_change(key)?;
        if differs(&locked, seen) {
            return Ok(IfSeen::Differs);
        }
        let Some((changed, receipt)) = self.change_hot(locked, |hot| hot.set(flag, on)) else {
            return Ok(IfSeen::Done(None));
        };
        if let Some(revision) = changed {
            self.tell(key, CHANGES, || Told::of(kind, revision));
        }
        Ok(IfSeen::Done(Some(receipt)))
    }

    /// What a verb answers of an entry that it put in place. Call it with no entry locked.
    pub(crate) fn placed(&self, key: &SessionKey, placed: Placed) -> Written {
        let Placed { hot, cold, commit } = placed;
        Written { entry: entry(key, &hot, Arc::unwrap_or_clone(cold)), receipt: self.commits().receipt(commit) }
    }

    /// Changes the hot record of a locked entry, and answers its new revision if more is new than the time. `None` if there
    /// is none.
    fn change_hot(
        &self,
        mut locked: EntryLock<'_>,
        change: impl FnOnce(&mut Hot),
    ) -> Option<(Option<Revision>, Receipt)> {
        let before = locked.hot()?;
        let mut hot = before;
        change(&mut hot);
        let commit = locked.set_hot(hot);
        let revision = locked.hot().unwrap_or(hot).revision;
        drop(locked);
        Some(((revision != before.revision).then_some(revision), self.commits().receipt(commit)))
    }
}

/// Whether a locked entry has another revision than was `seen`.
pub(crate) fn differs(locked: &EntryLock<'_>, seen: Option<Revision>) -> bool {
    seen.zip(locked.hot()).is_some_and(|(seen, hot)| hot.revision != seen)
}

/// Both records of a locked entry.
pub(crate) fn both(locked: &EntryLock<'_>) -> Result<Option<(Hot, Arc<Cold>)>> {
    Ok(locked.hot().zip(locked.cold()?))
}

/// What a caller sees of a locked entry.
pub(crate) fn seen(key: &SessionKey, locked: &EntryLock<'_>) -> Result<Option<SessionEntry>> {
    Ok(both(locked)?.map(|(hot, cold)| entry(key, &hot, Arc::unwrap_or_clone(cold))))
}
