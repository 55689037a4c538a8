//! The journal of hot records: what makes a touch cost the same in a store of any size.
//!
//! A touch changes a hot record and, now and then, its row in the index by age: three writes at three random places of
//! two trees. In a large store each of them misses the processor's caches. So the committer writes the new hot records
//! one after the other into rows of the tree `journal`, and keeps them in the [`Memtable`](super::memtable) for all
//! readers. Later, and in the order of their times, it *carries* them to `activity` and `by_updated_at`, and removes the
//! rows (`carry.rs`). The journal has two halves: while one is carried, the other grows. (Log-structured merge trees do this with
//! all their data: O'Neil and others, 1996.)
//!
//! What holds at every moment, and so after a crash:
//!
//! - The trees alone are a sound store, some touches older. The journal makes them complete.
//! - Of two records of one entry the later one counts, and rows are removed from the front. So what is left of the
//!   journal never says less than the trees.
//! - A structural change writes the trees, and then, before its intent goes, a `Forget` for each entry of which the
//!   journal speaks. Opening reads the journal first and then settles the intent, so it ends likewise.
//!
//! Of a touch the record says the time alone, sixteen bytes for the entry and eight for the time: the rest of the hot record is
//! in `activity`, or earlier in the same half of the journal, whose rows go together. Of anything else it says all of it.
//! After an opening such a touch stands for its time, and reads take the rest from `activity`.
//!
//! A row costs about as much as one touch did, and holds up to 37 of them.

use std::collections::BTreeSet;
use std::time::Duration;

use super::memtable::{Epoch, PARTS};
use crate::codec::{ActivityRow, MAX_JOURNAL_ROW};
use crate::config::DEFAULT_JOURNAL_BYTES;

/// How many entries the memtable may hold before it is time to carry them: with the two halves, twice as many.
const MAX_ENTRIES: usize = 1 << 20;
/// What is carried at a time in the background, in records.
pub(super) const SLICE: usize = 64;
/// How long a half may grow. Openings read less, and pruning finds its rows in the tree.
pub(super) const MAX_AGE: Duration = Duration::from_secs(60);

/// Where the journal has come to. It belongs to the [`Writer`].
#[derive(Debug, Default)]
pub(in crate::storage) struct Journal {
    /// The number of the next row.
    pub(in crate::storage) next: u64,
    /// Bytes in the half that grows, and when it began to.
    pub(in crate::storage) bytes: u64,
    pub(in crate::storage) began: Option<Duration>,
    pub(in crate::storage) epoch: Epoch,
    /// Bytes of rows that do not count any more and are still there: they go with the half that is carried.
    pub(in crate::storage) outdated: u64,
    /// The half that is carried.
    pub(in crate::storage) carry: Option<Carry>,
    pub(in crate::storage) last_slice: Duration,
    /// Bytes written, and changes made, that nothing was carried for yet, while carrying must exceed its background rate.
    pub(in crate::storage) unmatched: (u64, u64),
    pub(in crate::storage) limit: u64,
    /// Carry nothing that can wait: there is hardly any space.
    pub(in crate::storage) is_held: bool,
    /// Rows that cannot be decoded. They stay, for `verify` to report and a repair to keep.
    pub(in crate::storage) unreadable: BTreeSet<u64>,
}

/// How far the half that is carried has come.
#[derive(Debug, Default)]
pub(in crate::storage) struct Carry {
    /// The next part of the memtable whose records are to be listed.
    pub(in crate::storage) part: usize,
    /// What is to be carried, and once all is listed the newest first: it is taken from the end.
    pub(in crate::storage) rows: Vec<ActivityRow>,
    /// How far the rows of the index were gone through that are noted in this half, and whether to the end.
    pub(in crate::storage) noted: Option<ActivityRow>,
    pub(in crate::storage) are_notes_done: bool,
    /// The number of the first row that is not of this half.
    pub(in crate::storage) end: u64,
    /// How large it is.
    pub(in crate::storage) bytes: u64,
}

impl Journal {
    pub(in crate::storage) fn new() -> Self {
        Self { limit: DEFAULT_JOURNAL_BYTES, ..Self::default() }
    }

    /// Begins to carry the half that has grown.
    pub(in crate::storage) fn swap_halves(&mut self) {
        let (end, bytes) = (self.next, self.bytes);
        self.carry = Some(Carry { end, bytes, ..Carry::default() });
        self.epoch = self.epoch.wrapping_add(1);
        (self.bytes, self.began) = (0, None);
    }

    /// The size of the half that is carried.
    pub(super) fn carried_bytes(&self) -> u64 {
        self.carry.as_ref().map_or(0, |carry| carry.bytes)
    }

    pub(super) fn is_due(&self, now: Duration, entries: usize) -> bool {
        let is_old = self.began.is_some_and(|began| now.saturating_sub(began) >= MAX_AGE);
        self.bytes > 0 && (is_old || self.bytes >= self.limit || entries >= MAX_ENTRIES)
    }

    /// Counts the bytes of a row.
    pub(in crate::storage) fn grow(&mut self, bytes: u64) {
        self.bytes += bytes;
        self.unmatched.0 += bytes;
    }

    /// How much of what is `left` to be carried has to be done now, a slice or nothing: in proportion to what
    /// has been written of the room that there is. So it is done about when the half that grows is full, whatever
    /// fills it, and a burst that leaves half of it empty pays for nothing. What carrying itself writes counts too.
    pub(in crate::storage) fn take_share(&mut self, changes: usize, entries: usize, left: usize) -> usize {
        if !self.is_pressed(entries) {
            self.unmatched = (0, 0);
            return 0;
        }
        self.unmatched.1 += changes as u64;
        let (bytes, changes) = self.unmatched;
        let room =
            (self.limit.saturating_sub(self.bytes)).min(self.limit.saturating_mul(2).saturating_sub(self.all_bytes()));
        let room_for_entries = (2 * MAX_ENTRIES).saturating_sub(entries) as u64;
        // Twice the share, so that it is done somewhat earlier.
        let share = |new: u64, room: u64, all: u64| (2 * left as u64).saturating_mul(new) / room.max(all / 8).max(1);
        let of_entries = if entries >= MAX_ENTRIES { share(changes, room_for_entries, MAX_ENTRIES as u64) } else { 0 };
        let share = usize::try_from(share(bytes, room, self.limit).max(of_entries)).unwrap_or(left).min(left);
        if share < SLICE.min(left) {
            return 0;
        }
        self.unmatched = (0, 0);
        share.max(SLICE)
    }

    /// Whether carrying must exceed its background rate. After an opening both halves of the last one are carried.
    fn is_pressed(&self, entries: usize) -> bool {
        self.bytes >= self.limit.div_ceil(2)
            || self.all_bytes() >= self.limit.saturating_add(self.limit / 2)
            || entries >= MAX_ENTRIES * 3 / 2
    }

    fn all_bytes(&self) -> u64 {
        self.bytes + self.outdated + self.carried_bytes()
    }

    /// About how many records and rows are left to be carried, of so many entries.
    pub(super) fn left(&self, entries: usize) -> usize {
        let Some(carry) = &self.carry else { return 0 };
        let records = if carry.part < PARTS { entries } else { carry.rows.len() };
        let rows = (carry.bytes + self.outdated).div_ceil(MAX_JOURNAL_ROW as u64);
        records + usize::try_from(rows).unwrap_or(usize::MAX)
    }
}
