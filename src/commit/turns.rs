//! The turns that have begun and not ended, in memory. The tree on disk is their mirror.
//!
//! Turns of this opening are *live*. Those found when the store was opened are *interrupted*: a clean close leaves none
//! of its live ones, so what is there was left by a crash. They stay until they are recovered, or their entry moves
//! on, whoever opens and closes the store in between.
//!
//! A turn is begun and ended with its entry locked, and its entry is queued meanwhile. So the commit that takes the
//! entry's change, and is told to the caller, takes the turn too.

use std::collections::{HashMap, HashSet};

use crate::codec::{Fingerprint, Turn};
use crate::key::SessionId;
use crate::storage::{Change, Content};
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
    /// Those that differ from the tree.
    changed: HashSet<Fingerprint>,
}

impl Turns {
    /// What the tree holds when the store is opened at `commit`, which no earlier opening has had.
    pub(super) fn new(found: Vec<(Fingerprint, Turn)>, commit: u64) -> Self {
        let markers = found.into_iter().map(|(entry, turn)| (entry, Marker { turn, interrupted: true })).collect();
        // A commit takes far fewer than 2^24 turns, so the ranges of two openings never meet.
        Self { table: Mutex::new(Table { markers, ..Table::default() }), next: AtomicU64::new(commit << 24) }
    }

    /// Begins a turn of a locked entry, in the place of the one there may be. Returns its token.
    pub(crate) fn begin(&self, entry: Fingerprint, session_id: SessionId, started_at: Timestamp) -> u64 {
        let mut table = self.table.lock();
        let token = self.next.fetch_add(1, Ordering::AcqRel);
        let turn = Turn { token, started_at, session_id };
        table.markers.insert(entry, Marker { turn, interrupted: false });
        table.changed.insert(entry);
        token
    }

    /// Clears the marker of a locked entry if it is that of `token`. Returns whether it was.
    pub(crate) fn end(&self, entry: Fingerprint, token: u64) -> bool {
        self.table.lock().clear_if(entry, |marker| marker.turn.token == token)
    }

    /// Every marker. Whether its entry is still there and has that session is for the caller to look at.
    pub(crate) fn all(&self) -> Vec<(Fingerprint, Marker)> {
        self.table.lock().markers.iter().map(|(entry, marker)| (*entry, marker.clone())).collect()
    }

    /// Every turn, for a snapshot.
    pub(super) fn copy(&self) -> HashMap<Fingerprint, Turn> {
        self.all().into_iter().map(|(entry, marker)| (entry, marker.turn)).collect()
    }

    /// The token that the next turn gets.
    pub(super) fn next_token(&self) -> u64 {
        self.next.load(Ordering::Acquire)
    }

    /// Clears the markers of entries that are gone or have another session, as `changes` show. `begun` is
    /// [`next_token`](Turns::next_token) from before they were taken: a later turn is one of a later session.
    pub(super) fn follow(&self, changes: &[Change], begun: u64) {
        let mut table = self.table.lock();
        if table.markers.is_empty() {
            return;
        }
        for change in changes {
            let session = match &change.content {
                Content::Hot(_) => continue,
                Content::Whole { cold, .. } => Some(&cold.session_id),
                Content::Gone => None,
            };
            table.clear_if(change.entry, |Marker { turn, .. }| {
                turn.token < begun && session.is_none_or(|session| *session != turn.session_id)
            });
        }
    }

    /// Whether the entry's marker is of this turn.
    pub(crate) fn is_current(&self, entry: Fingerprint, token: u64) -> bool {
        self.table.lock().markers.get(&entry).is_some_and(|marker| marker.turn.token == token)
    }

    /// What the tree does not have yet: markers to set and to remove.
    pub(super) fn take_changed(&self) -> Vec<(Fingerprint, Option<Turn>)> {
        let mut table = self.table.lock();
        let changed = std::mem::take(&mut table.changed);
        let turn = |entry| table.markers.get(&entry).map(|marker| marker.turn.clone());
        let mut changed: Vec<_> = changed.into_iter().map(|entry| (entry, turn(entry))).collect();
        changed.sort_unstable_by_key(|(entry, _)| *entry);
        changed
    }

    /// Discards the turns of this opening: it ends cleanly.
    pub(super) fn discard_live(&self) {
        let mut table = self.table.lock();
        let Table { markers, changed } = &mut *table;
        changed.extend(markers.iter().filter(|(_, marker)| !marker.interrupted).map(|(entry, _)| *entry));
        markers.retain(|_, marker| marker.interrupted);
    }
}

impl Table {
    fn clear_if(&mut self, entry: Fingerprint, wanted: impl FnOnce(&Marker) -> bool) -> bool {
        let found = self.markers.get(&entry).is_some_and(wanted);
        if found {
            self.markers.remove(&entry);
            self.changed.insert(entry);
        }
        found
    }
}
