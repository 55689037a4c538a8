//! The leases of entries, in memory. Those with a name and an end are on disk too; those of a process live here alone.
//!
//! A lease belongs to the key as long as that has an entry: whatever session it has, the lease stays, and it goes with
//! the entry. So leases are taken, moved and ended with their entry locked, and what changes of those on disk is queued
//! with the entry. The lock of the table is taken last, and nothing is called with it.
//!
//! Only the guard of a process lease ends it without its entry: it may be dropped anywhere.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::codec::{Fingerprint, Term};
use crate::storage::StoredLease;
use crate::sync::Mutex;
use crate::time::Timestamp;

/// The most leases on disk that one entry may have.
pub(crate) const MAX_LEASES: usize = 1024;

/// A change of a lease on disk: its name, and its term or that it goes.
pub(crate) type LeaseChange = (String, Option<Term>);

/// A lease as a list shows it.
#[derive(Debug)]
pub(crate) struct HeldBy {
    pub(crate) entry: Fingerprint,
    /// `None` for one of this process.
    pub(crate) name: Option<String>,
    pub(crate) since: Timestamp,
    pub(crate) end: Option<Timestamp>,
}

#[derive(Debug, Default)]
pub(crate) struct Leases {
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    entries: HashMap<Fingerprint, Held>,
    /// Those of this process: the entry of each, and since when.
    guards: HashMap<u64, (Fingerprint, Timestamp)>,
    /// The number of the next one.
    next: u64,
    /// Rows that are to go though nothing else of their entries changes.
    ended: BTreeSet<(Fingerprint, String)>,
}

/// What holds one entry.
#[derive(Debug, Default)]
struct Held {
    guards: BTreeSet<u64>,
    named: BTreeMap<String, Term>,
    /// Names whose rows are to be written as `named` has them.
    unwritten: BTreeSet<String>,
    /// A row cannot be decoded: nobody knows when it ends.
    is_unreadable: bool,
}

impl Held {
    fn is_empty(&self) -> bool {
        self.guards.is_empty() && self.named.is_empty() && self.unwritten.is_empty() && !self.is_unreadable
    }

    /// Forgets the names that have ended by `now`, and answers them.
    fn drop_ended(&mut self, now: Timestamp) -> impl Iterator<Item = String> + use<> {
        let (left, ended): (BTreeMap<_, _>, BTreeMap<_, _>) =
            std::mem::take(&mut self.named).into_iter().partition(|(_, term)| term.end > now);
        self.named = left;
        ended.into_keys()
    }

    fn holds(&self, now: Timestamp) -> bool {
        !self.guards.is_empty() || self.is_unreadable || self.named.values().any(|term| term.end > now)
    }
}

impl Leases {
    /// What the tree holds when the store is opened.
    pub(super) fn new(found: Vec<StoredLease>) -> Self {
        let mut table = Table::default();
        for StoredLease { entry, lease } in found {
            let Some(entry) = entry else { continue };
            let held = table.entries.entry(entry).or_default();
            match lease {
                Ok((name, term)) => drop(held.named.insert(name, term)),
                Err(_) => held.is_unreadable = true,
            }
        }
        Self { table: Mutex::new(table) }
    }

    /// Whether something holds the entry at `now`.
    pub(crate) fn is_held(&self, entry: Fingerprint, now: Timestamp) -> bool {
        self.table.lock().entries.get(&entry).is_some_and(|held| held.holds(now))
    }

    /// Holds a locked entry until the guard of the number that this returns is dropped.
    pub(super) fn hold(&self, entry: Fingerprint, since: Timestamp) -> u64 {
        let mut table = self.table.lock();
        let number = table.next;
        table.next += 1;
        table.guards.insert(number, (entry, since));
        table.entries.entry(entry).or_default().guards.insert(number);
        number
    }

    /// Whether the lease of a guard is there still.
    pub(crate) fn is_current(&self, guard: u64) -> bool {
        self.table.lock().guards.contains_key(&guard)
    }

    /// Ends the lease of a guard, wherever its entry is by now.
    pub(crate) fn drop_guard(&self, guard: u64) {
        let mut table = self.table.lock();
        let Some((entry, _)) = table.guards.remove(&guard) else { return };
        table.change(entry, |held| held.guards.remove(&guard));
    }

    /// Sets the end of a lease of a locked entry. One that has not ended by `now` stays since when it was. Returns whether
    /// there was room for it: those that have ended make some.
    pub(super) fn hold_until(&self, entry: Fingerprint, name: &str, term: Term, now: Timestamp) -> bool {
        let mut table = self.table.lock();
        let Table { entries, ended, .. } = &mut *table;
        let held = entries.entry(entry).or_default();
        let before = held.named.get(name).filter(|before| before.end > now);
        let since = before.map_or(term.since, |before| before.since);
        if held.named.len() >= MAX_LEASES && !held.named.contains_key(name) {
            ended.extend(held.drop_ended(now).map(|name| (entry, name)));
            if held.named.len() >= MAX_LEASES {
                return false;
            }
        }
        held.named.insert(name.into(), Term { since, ..term });
        held.unwritten.insert(name.into());
        true
    }

    /// Ends a lease of a locked entry. Returns whether there was one.
    pub(super) fn release(&self, entry: Fingerprint, name: &str) -> bool {
        let mut table = self.table.lock();
        let Some(held) = table.entries.get_mut(&entry) else { return false };
        let was_held = held.named.remove(name).is_some();
        if was_held {
            held.unwritten.insert(name.into());
        }
        was_held
    }

    /// Ends all leases of a locked entry, which is not there.
    pub(super) fn clear(&self, entry: Fingerprint) {
        let mut table = self.table.lock();
        if let Some(held) = table.entries.remove(&entry) {
            for guard in &held.guards {
                table.guards.remove(guard);
            }
        }
    }

    /// Moves all leases of an entry to the one that it has become; both are locked. Guards go on to stand for theirs.
    /// Returns whether there is something to write.
    pub(super) fn rename(&self, from: Fingerprint, to: Fingerprint) -> bool {
        let mut table = self.table.lock();
        let Some(mut held) = table.entries.remove(&from) else { return false };
        for guard in &held.guards {
            if let Some((entry, _)) = table.guards.get_mut(guard) {
                *entry = to;
            }
        }
        held.unwritten = held.named.keys().cloned().collect();
        // A row that cannot be decoded goes with the old key.
        held.is_unreadable = false;
        let is_to_write = !held.unwritten.is_empty();
        if !held.is_empty() {
            table.entries.insert(to, held);
        }
        is_to_write
    }

    /// What is to be written of a queued entry.
    pub(super) fn take_unwritten(&self, entry: Fingerprint) -> Vec<LeaseChange> {
        let mut changes = Vec::new();
        self.table.lock().change(entry, |held| {
            let names = std::mem::take(&mut held.unwritten).into_iter();
            changes.extend(names.map(|name| {
                let term = held.named.get(&name).copied();
                (name, term)
            }));
        });
        changes
    }

    /// Forgets the leases that have ended by `now`. Costs what there is of leases.
    pub(crate) fn drop_ended(&self, now: Timestamp) {
        let mut table = self.table.lock();
        let Table { entries, ended, .. } = &mut *table;
        entries.retain(|entry, held| {
            ended.extend(held.drop_ended(now).map(|name| (*entry, name)));
            !held.is_empty()
        });
    }

    /// The rows of leases that were forgotten, but for those that are held again.
    pub(super) fn take_ended(&self) -> Vec<(Fingerprint, String)> {
        let mut table = self.table.lock();
        let ended = std::mem::take(&mut table.ended);
        let is_held = |(entry, name): &(Fingerprint, String)| {
            table.entries.get(entry).is_some_and(|held| held.named.contains_key(name))
        };
        ended.into_iter().filter(|row| !is_held(row)).collect()
    }

    /// Every lease that has not ended by `now`. Whether its entry is there is for the caller to look at.
    pub(crate) fn all(&self, now: Timestamp) -> Vec<HeldBy> {
        let table = self.table.lock();
        let guards = table.guards.values();
        let guards = guards.map(|(entry, since)| HeldBy { entry: *entry, name: None, since: *since, end: None });
        let named = table.entries.iter().flat_map(|(entry, held)| held.named.iter().map(|named| (*entry, named)));
        let named = named.filter(|(_, (_, term))| term.end > now).map(|(entry, (name, term))| HeldBy {
            entry,
            name: Some(name.clone()),
            since: term.since,
            end: Some(term.end),
        });
        guards.chain(named).collect()
    }

    /// Those on disk, for a snapshot.
    pub(super) fn copy(&self) -> HashMap<Fingerprint, BTreeMap<String, Term>> {
        let table = self.table.lock();
        let named = table.entries.iter().filter(|(_, held)| !held.named.is_empty());
        named.map(|(entry, held)| (*entry, held.named.clone())).collect()
    }
}

impl Table {
    /// Changes what holds an entry, and lets go of it if that is nothing more.
    fn change<T>(&mut self, entry: Fingerprint, change: impl FnOnce(&mut Held) -> T) {
        let Some(held) = self.entries.get_mut(&entry) else { return };
        change(held);
        if held.is_empty() {
            self.entries.remove(&entry);
        }
    }
}
