//! How the verbs deal with a clock that was wrong, or is: see [`ClockCheck`].

use crate::clock_check::{Checked, ClockCheck, is_ahead};
use crate::codec::Hot;
use crate::commit::EntryLock;
use crate::error::Result;
use crate::key::SessionKey;
use crate::store::SessionStore;
use crate::time::{Reading, Timestamp};

impl SessionStore {
    /// Locks an entry to touch it, and answers the time too. An entry whose time is wrong is set to now first.
    pub(crate) fn lock_to_touch(&self, key: &SessionKey) -> Result<(EntryLock<'_>, Timestamp)> {
        // The clock is the caller's code, and may use the store: never ask it with an entry locked.
        let now = self.now();
        let locked = self.commits().lock(key)?;
        if !locked.hot_ref().is_some_and(|hot| lies_ahead(hot, now)) {
            return Ok((locked, now));
        }
        drop(locked);
        let checked = self.look_at_clock()?;
        let mut locked = self.commits().lock(key)?;
        self.heal(&mut locked, &checked);
        Ok((locked, checked.now.wall))
    }

    /// Locks an entry to change it otherwise. An entry whose time is wrong is set to now first.
    pub(crate) fn lock_to_change(&self, key: &SessionKey) -> Result<EntryLock<'_>> {
        self.lock_to_touch(key).map(|(locked, _)| locked)
    }

    /// Sets the time of a locked entry to now if it is wrong. That of the last interaction goes back to it.
    pub(crate) fn heal(&self, locked: &mut EntryLock<'_>, checked: &Checked) {
        let now = checked.now.wall;
        if let Some(hot) = locked.hot().filter(|hot| !checked.doubted && lies_ahead(hot, now)) {
            let updated_at = if is_ahead(hot.updated_at, now) { now } else { hot.updated_at };
            let last_interaction = hot.last_interaction.map(|at| if is_ahead(at, now) { updated_at } else { at });
            locked.set_times(Hot { updated_at, last_interaction, ..hot });
        }
    }

    /// Looks at the clock: whether it has jumped, or is doubted. O(1), but for the first look after a jump.
    pub(crate) fn look_at_clock(&self) -> Result<Checked> {
        self.clock_check().look(self.commits(), Reading::of(&**self.clock()))
    }

    /// Looks at the clock alone: no entry is counted.
    pub(crate) fn glance_at_clock(&self) -> Result<Checked> {
        self.clock_check().glance(self.commits(), Reading::of(&**self.clock()))
    }

    /// How many entries lie ahead of the clock. Costs what there is of them.
    pub(crate) fn times_ahead(&self) -> Result<u64> {
        ClockCheck::times_ahead(self.commits(), self.now())
    }

    /// The same, counting the entries that lie ahead. Costs what there is of them, and at most half of all.
    pub(crate) fn check_clock(&self) -> Result<Checked> {
        self.clock_check().count(self.commits(), Reading::of(&**self.clock()))
    }
}

/// Whether one of an entry's times of use is wrong.
fn lies_ahead(hot: &Hot, now: Timestamp) -> bool {
    is_ahead(hot.updated_at, now) || hot.last_interaction.is_some_and(|at| is_ahead(at, now))
}
