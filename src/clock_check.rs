//! [`ClockCheck`]: whether the clock is to be believed, or the times of the entries.
//!
//! A touch takes the clock as it is. So a clock that ran ahead leaves entries that lie in the future, and a clock that
//! fell behind makes all entries lie there. How many they are tells the two apart. A few are *wrong*: they count as used
//! when they were found, and their next change sets them to now. If they are half of the entries or more, the clock is
//! *doubted* until it has run for a day without a jump: nothing ages and nothing is set right meanwhile.
//!
//! Entries are counted when the store is opened, by each pass that prunes, and after a jump of the time of day, which
//! shows against the time since the machine was started. A verb looks for a jump only where an entry lies ahead or is
//! about to be replaced for its age.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;

use crate::codec::{ClockNote, Fingerprint, Held};
use crate::commit::Commits;
use crate::error::Result;
use crate::storage::Engine;
use crate::time::{Reading, Timestamp};

/// A time that is later than this after now is wrong, or the clock is.
const AHEAD: Duration = Duration::from_secs(24 * 60 * 60);
/// How long a clock has to run without a jump to be believed against most of the entries.
const DOUBT: Duration = Duration::from_secs(24 * 60 * 60);
/// Entries that one verb may count, so that its cost is bounded. Where there are more, a pass or an opening counts.
const FEW: usize = 1024;

/// How long no session ends by a policy, and no lease is forgotten, after the time of day has jumped.
pub(crate) const AFTER_A_JUMP: Duration = Duration::from_secs(60 * 60);

/// Whether a time lies too far ahead to be right.
pub(crate) fn is_ahead(time: Timestamp, now: Timestamp) -> bool {
    time > now.saturating_add(AHEAD)
}

/// What a look at the clock found.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Checked {
    pub(crate) now: Reading,
    /// Nothing ages, and no time is set right.
    pub(crate) doubted: bool,
    /// How long ago the time of day jumped, if it did since the opening.
    jumped: Option<Duration>,
}

impl Checked {
    /// Whether a jump of the time of day was less than `interval` ago.
    pub(crate) fn has_jumped_within(&self, interval: Duration) -> bool {
        self.jumped.is_some_and(|ago| ago < interval)
    }

    /// The time that tells whether a lease has ended. After a jump of the time of day none has: the jump may be wrong, and
    /// would end all of them at once, so each that is not forgotten counts.
    pub(crate) fn leases_at(&self) -> Timestamp {
        if self.has_jumped_within(AFTER_A_JUMP) { Timestamp::MIN } else { self.now.wall }
    }
}

/// Two ticks of a timer may lie a little closer together than its interval.
pub(crate) fn almost(interval: Duration) -> Duration {
    interval - interval / 16
}

/// What is known of the clock since the opening.
#[derive(Debug)]
pub(crate) struct ClockCheck {
    state: Mutex<State>,
    /// The note on disk. Held while one is written: the committer, which writes it, may be in a callback that looks at the state.
    written: Mutex<ClockNote>,
}

/// Times are boot times.
#[derive(Debug)]
struct State {
    seen: Reading,
    jumped: Option<Duration>,
    /// The entries were counted since the last jump.
    is_counted: bool,
    /// There were too many for a verb to count: a pass has to.
    are_too_many: bool,
    /// Set while most entries lie ahead: when the doubt ends.
    doubt_ends: Option<Duration>,
    /// Entries that lie ahead, and when that was found. Not all of them while they are most.
    wrong: HashMap<Fingerprint, Duration>,
    /// How many lie ahead, at least.
    ahead: usize,
    /// What is to be kept on disk.
    note: ClockNote,
}

impl ClockCheck {
    /// Counts the entries of a store that was opened just now.
    pub(crate) fn open(commits: &Commits, now: Reading) -> Self {
        let note = commits.engine().and_then(Engine::clock_note).unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot read the note of the clock, which is passed over");
            ClockNote::default()
        });
        let wrong = HashMap::new();
        let (jumped, doubt_ends) = (None, None);
        let state =
            State { seen: now, jumped, is_counted: true, are_too_many: false, doubt_ends, wrong, ahead: 0, note };
        let this = Self { state: Mutex::new(state), written: Mutex::new(note) };
        if let Err(error) = this.count(commits, now) {
            // A disk that is full may refuse to read, and the store has to open to be pruned.
            tracing::warn!(%error, "cannot count the entries that lie ahead of the clock");
        }
        let (wrong, doubted) = (this.wrong(), this.is_doubted(now));
        if doubted {
            tracing::warn!(now = %now.wall, "half of the entries or more lie ahead of the clock: nothing ages until it is trusted");
        } else if wrong > 0 {
            tracing::info!(wrong, "entries lie ahead of the clock; their next change sets them to now");
        }
        this
    }

    /// Whether nothing ages.
    pub(crate) fn is_doubted(&self, now: Reading) -> bool {
        self.state.lock().checked(now).doubted
    }

    /// Entries that are known to lie ahead. There may be more once they are half of all.
    pub(crate) fn wrong(&self) -> usize {
        self.state.lock().ahead
    }

    /// How many entries lie ahead of the clock.
    pub(crate) fn times_ahead(commits: &Commits, now: Timestamp) -> Result<u64> {
        let ahead = commits.engine()?.entries_after(now.saturating_add(AHEAD), usize::MAX)?;
        Ok(ahead.len() as u64)
    }

    /// Looks at the clock alone: nothing is counted.
    pub(crate) fn glance(&self, commits: &Commits, now: Reading) -> Result<Checked> {
        // In a forked process the lock may be taken for ever.
        commits.engine()?;
        let mut state = self.state.lock();
        state.see(now);
        Ok(state.checked(now))
    }

    /// Looks at the clock. Counts entries only after a jump, and at most a few; on the committer's own thread none, for it would
    /// wait for itself.
    pub(crate) fn look(&self, commits: &Commits, now: Reading) -> Result<Checked> {
        let checked = self.glance(commits, now)?;
        let is_to_count = {
            let state = self.state.lock();
            !state.is_counted && !state.are_too_many && !commits.is_committer()
        };
        if is_to_count {
            return self.count_some(commits, now, FEW);
        }
        Ok(checked)
    }

    /// Looks at the clock and counts the entries ahead of it.
    pub(crate) fn count(&self, commits: &Commits, now: Reading) -> Result<Checked> {
        self.count_some(commits, now, usize::MAX)
    }

    fn count_some(&self, commits: &Commits, now: Reading, limit: usize) -> Result<Checked> {
        commits.apply_pending()?;
        let checked = {
            let mut state = self.state.lock();
            state.see(now);
            state.count(commits, now, limit)?;
            state.checked(now)
        };
        if let Err(error) = self.keep_note(commits) {
            tracing::warn!(%error, "cannot note that the clock is doubted");
        }
        Ok(checked)
    }

    /// Writes the note if it has changed. On the committer's thread it does nothing, since the thread that holds the lock may be
    /// waiting for the committer; the next look writes the note.
    fn keep_note(&self, commits: &Commits) -> Result<()> {
        if commits.is_committer() {
            return Ok(());
        }
        let mut written = self.written.lock();
        let note = self.state.lock().note;
        if note != *written {
            commits.set_clock_note(note)?;
            *written = note;
        }
        Ok(())
    }

    /// When an entry was used, as far as is known: its time, unless that is wrong.
    pub(crate) fn used_at(&self, entry: Fingerprint, updated_at: Timestamp, now: Reading) -> Timestamp {
        if !is_ahead(updated_at, now.wall) {
            return updated_at;
        }
        let found = self.state.lock().wrong.get(&entry).copied();
        now.wall.saturating_sub(found.map_or(Duration::ZERO, |found| now.boot.elapsed.saturating_sub(found)))
    }

    /// The entries that lie ahead, and when they count as used.
    pub(crate) fn wrong_entries(&self, now: Reading) -> Vec<(Timestamp, Fingerprint)> {
        let used = |found: Duration| now.wall.saturating_sub(now.boot.elapsed.saturating_sub(found));
        self.state.lock().wrong.iter().map(|(entry, found)| (used(*found), *entry)).collect()
    }

    /// An entry has another key.
    pub(crate) fn follow(&self, from: Fingerprint, to: Fingerprint) {
        let mut state = self.state.lock();
        if let Some(found) = state.wrong.remove(&from) {
            state.wrong.insert(to, found);
        }
    }

    /// The pass that was held.
    pub(crate) fn held(&self) -> Option<Held> {
        self.state.lock().note.held
    }

    /// Remembers the pass that was held, or that none is.
    pub(crate) fn set_held(&self, commits: &Commits, held: Option<Held>) -> Result<()> {
        self.state.lock().note.held = held;
        self.keep_note(commits)
    }
}

impl State {
    fn see(&mut self, now: Reading) {
        if now.since(self.seen).is_none() {
            tracing::warn!("the time of day has jumped");
            self.jumped = Some(now.boot.elapsed);
            (self.is_counted, self.are_too_many) = (false, false);
        }
        self.seen = now;
    }

    fn checked(&self, now: Reading) -> Checked {
        let now_elapsed = now.boot.elapsed;
        let jumped = self.jumped.map(|jumped| now_elapsed.saturating_sub(jumped));
        let unknown = !self.is_counted && jumped.is_some_and(|ago| ago < DOUBT);
        let doubted = unknown || self.doubt_ends.is_some_and(|end| now_elapsed < end);
        Checked { now, doubted, jumped }
    }

    /// Counts the entries that lie ahead, up to half of all, or up to `limit` if that decides. Once the doubt has ended
    /// all of them are wrong, however many there are.
    fn count(&mut self, commits: &Commits, now: Reading, limit: usize) -> Result<()> {
        let all = usize::try_from(commits.count()).unwrap_or(usize::MAX);
        let half = all.div_ceil(2).max(1);
        let is_trusted = self.doubt_ends.is_some_and(|end| now.boot.elapsed >= end);
        let enough = if is_trusted { limit } else { half.min(limit) };
        let (engine, latest) = (commits.engine()?, now.wall.saturating_add(AHEAD));
        let mut ahead = engine.entries_after(latest, enough.min(FEW))?;
        let mut are_most = ahead.len() >= half;
        if ahead.len() == FEW && FEW < enough {
            // Where hardly anything lies behind, that is counted instead: each entry ahead is a read of its own.
            are_most = !is_trusted && engine.are_few_until(latest, all.saturating_sub(half))?;
            if !are_most {
                ahead = engine.entries_after(latest, enough)?;
                are_most = ahead.len() >= half;
            }
        }
        self.are_too_many = !are_most && ahead.len() >= limit;
        if self.are_too_many {
            return Ok(());
        }
        let elapsed = now.boot.elapsed;
        self.ahead = if are_most { half.max(ahead.len()) } else { ahead.len() };
        let known = std::mem::take(&mut self.wrong);
        self.wrong = ahead.into_iter().map(|entry| (entry, known.get(&entry).copied().unwrap_or(elapsed))).collect();
        if !are_most {
            self.doubt_ends = None;
            self.note.doubted = None;
        } else if self.doubt_ends.is_none() || !self.is_counted {
            // Another process may have begun to doubt this clock, unless it jumped since.
            let kept = self.note.doubted.filter(|_| self.jumped.is_none());
            let kept = kept.and_then(|kept| Some((kept, now.since_kept(kept)?)));
            let (since, passed) = kept.unwrap_or((now, Duration::ZERO));
            self.doubt_ends = Some(elapsed.saturating_add(DOUBT.saturating_sub(passed)));
            self.note.doubted = Some(since);
        }
        self.is_counted = true;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
