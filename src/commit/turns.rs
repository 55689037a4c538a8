//! The turns that have begun and not ended, in memory. The tree on disk is their mirror.
//!
//! Turns of this opening are *live*. Those found when the store was opened are *interrupted*: a clean close leaves none
//! of its live ones, so what is there was left by a crash. They stay until they are recovered, or their entry moves
//! on, whoever opens and closes the store in between.
//!
//! A turn begins, ends and is followed up with its entry locked, and its entry is queued with it: see
//! [`EntryLock`](super::EntryLock). The commit that takes the entry's change takes the marker as it is at that moment,
//! and writes it after the change. So a marker is never gone before what ended its turn is there, and never there before
//! the session that it names: a crash in between leaves a marker of a session that was replaced, which means nothing.

use std::collections::{BTreeSet, HashMap};

use crate::codec::{COMMIT_SHIFT, Fingerprint, Turn};
use crate::key::SessionId;
use crate::sync::{AtomicU64, Mutex, Ordering};
use crate::time::Timestamp;

/// A marker as it is known in memory.
#[derive(Debug, Clone)]
pub(crate) struct Marker {
    pub(crate) turn: Turn,
    /// It was there when the store was opened.
    pub(crate) interrupted: bool,
}

#[derive(Debug)]
pub(crate) struct Turns {
    table: Mutex<Table>,
    /// The next token. Never used twice, and greater than every one before.
    next: AtomicU64,
}

#[derive(Debug, Default)]
struct Table {
    markers: HashMap<Fingerprint, Marker>,
    /// Those that were cleared with no change of their entry, and are still in the tree.
    dropped: BTreeSet<Fingerprint>,
}

impl Turns {
    /// What the tree holds when the store is opened at `commit`, which no earlier opening has had.
    pub(super) fn new(found: Vec<(Fingerprint, Turn)>, commit: u64) -> Self {
        let markers = found.into_iter().map(|(entry, turn)| (entry, Marker { turn, interrupted: true })).collect();
        Self { table: Mutex::new(Table { markers, ..Table::default() }), next: AtomicU64::new(commit << COMMIT_SHIFT) }
    }

    /// Begins a turn of a locked entry, in the place of the one there may be. Returns its token.
    pub(super) fn begin(&self, entry: Fingerprint, session_id: SessionId, started_at: Timestamp) -> u64 {
        let mut table = self.table.lock();
        let token = self.next.fetch_add(1, Ordering::AcqRel);
        let turn = Turn { token, started_at, session_id };
        table.markers.insert(entry, Marker { turn, interrupted: false });
        token
    }

    /// Clears the marker of a locked entry if it is that of `token`, or any. Returns whether it was.
    pub(super) fn end(&self, entry: Fingerprint, token: Option<u64>) -> bool {
        self.table.lock().clear_if(entry, |turn| token.is_none_or(|token| turn.token == token))
    }

    /// Clears the marker of a locked entry that has this session from now on, or is gone. Returns whether there was one
    /// of another session.
    pub(super) fn follow(&self, entry: Fingerprint, session_id: Option<&SessionId>) -> bool {
        self.table.lock().clear_if(entry, |turn| session_id != Some(&turn.session_id))
    }

    /// The marker of a locked entry.
    pub(super) fn marker(&self, entry: Fingerprint) -> Option<Marker> {
        self.table.lock().markers.get(&entry).cloned()
    }

    /// The turn of an entry goes with it to another key. Both are locked. Returns whether there was one.
    pub(super) fn rename(&self, from: Fingerprint, to: Fingerprint) -> bool {
        let mut table = self.table.lock();
        let Some(marker) = table.markers.remove(&from) else { return false };
        table.markers.insert(to, marker);
        true
    }

    /// The turn of a locked entry.
    pub(super) fn get(&self, entry: Fingerprint) -> Option<Turn> {
        self.marker(entry).map(|marker| marker.turn)
    }

    /// Drops the marker of `token`, whose turn is dealt with for good: what was made of it is durable, or its entry is
    /// not there. Returns whether there was one.
    pub(crate) fn drop_marker(&self, entry: Fingerprint, token: u64) -> bool {
        let mut table = self.table.lock();
        let found = table.clear_if(entry, |turn| turn.token == token);
        if found {
            table.dropped.insert(entry);
        }
        found
    }

    /// Every marker. Whether its entry is still there and has that session is for the caller to look at.
    pub(crate) fn all(&self) -> Vec<(Fingerprint, Marker)> {
        self.table.lock().markers.iter().map(|(entry, marker)| (*entry, marker.clone())).collect()
    }

    /// Every turn, for a snapshot.
    pub(super) fn copy(&self) -> HashMap<Fingerprint, Turn> {
        self.all().into_iter().map(|(entry, marker)| (entry, marker.turn)).collect()
    }

    /// Whether the entry's marker is of this turn.
    pub(crate) fn is_current(&self, entry: Fingerprint, token: u64) -> bool {
        self.table.lock().markers.get(&entry).is_some_and(|marker| marker.turn.token == token)
    }

    /// The entries whose marker is to go though nothing else of them changes. A turn that has begun since then comes, and
    /// goes, with its entry.
    pub(super) fn take_dropped(&self) -> Vec<Fingerprint> {
        let mut table = self.table.lock();
        let mut dropped = std::mem::take(&mut table.dropped);
        dropped.retain(|entry| !table.markers.contains_key(entry));
        dropped.into_iter().collect()
    }

    /// Drops the turns of this opening: it ends cleanly.
    pub(super) fn drop_live(&self) {
        let mut table = self.table.lock();
        let Table { markers, dropped } = &mut *table;
        dropped.extend(markers.iter().filter(|(_, marker)| !marker.interrupted).map(|(entry, _)| *entry));
        markers.retain(|_, marker| marker.interrupted);
    }
}

impl Table {
    fn clear_if(&mut self, entry: Fingerprint, wanted: impl FnOnce(&Turn) -> bool) -> bool {
        let found = self.markers.get(&entry).is_some_and(|marker| wanted(&marker.turn));
        if found {
            self.markers.remove(&entry);
        }
        found
    }
}
