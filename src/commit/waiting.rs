//! The tasks that wait for a commit.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::task::Waker;

/// Tasks that wait, by the commit they wait for. Each has a place there, so that polling costs the same however many
/// there are. What is left of one that no longer waits is room for another.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    pub(super) commits: BTreeMap<u64, Places>,
    /// Places that were looked at.
    #[cfg(test)]
    pub(super) steps: usize,
}

#[derive(Debug, Default)]
pub(super) struct Places {
    pub(super) wakers: Vec<Option<Waker>>,
    free: Vec<usize>,
}

impl Waiting {
    pub(super) fn place(&mut self, commit: u64, place: usize) -> Option<&mut Option<Waker>> {
        #[cfg(test)]
        {
            self.steps += 1;
        }
        self.commits.get_mut(&commit)?.wakers.get_mut(place)
    }

    /// Puts a waker into its place. Returns the place, and the waker that was there.
    pub(super) fn put(&mut self, commit: u64, place: Option<usize>, waker: Waker) -> (usize, Option<Waker>) {
        if let Some((place, there)) = place.and_then(|place| Some((place, self.place(commit, place)?))) {
            return (place, there.replace(waker));
        }
        let Places { wakers, free } = self.commits.entry(commit).or_default();
        if let Some(place) = free.pop()
            && let Some(there) = wakers.get_mut(place)
        {
            return (place, there.replace(waker));
        }
        wakers.push(Some(waker));
        (wakers.len() - 1, None)
    }

    /// Takes the waker out of its place, which is free then. Returns what is to be dropped with no lock held.
    pub(super) fn leave(&mut self, commit: u64, place: usize) -> Option<Waker> {
        let waker = self.place(commit, place)?.take();
        if let Entry::Occupied(mut places) = self.commits.entry(commit) {
            places.get_mut().free.push(place);
            if places.get().free.len() == places.get().wakers.len() {
                places.remove();
            }
        }
        waker
    }

    /// Takes those that wait for a commit up to `commit`.
    pub(super) fn take_until(&mut self, commit: u64) -> Vec<Waker> {
        let later = commit.checked_add(1).map(|next| self.commits.split_off(&next)).unwrap_or_default();
        let done = std::mem::replace(&mut self.commits, later);
        done.into_values().flat_map(|places| places.wakers).flatten().collect()
    }
}
