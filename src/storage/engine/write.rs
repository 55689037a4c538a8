//! The one writer: applies changes to the trees, and syncs.
//!
//! What a crash can leave, write by write:
//!
//! - A touch is a record in the journal, one plain write for many touches. Carrying it to its trees later is a note of the
//!   old index row and of the new one, then the new one, then the hot record, and much later the removal of the old row: see
//!   `carry.rs` and `gone.rs`. So every entry always has a row that is not later than its hot record, and pruning finds it. A crash may
//!   leave a row too many, of which the journal knows.
//! - A group of structural changes (create, new id, new details, remove) is announced by an intent; opening finishes it
//!   or takes it back, see `structural.rs`.
//! - New parts of extras of a whole piece are written and synced first; the groups that name them follow; the parts that
//!   nothing names any more go last. A crash may leave some that nothing names, which are swept when the entry gets its
//!   next part. Extras that the cold record has room for are part of it, and need none of this.
//!
//! A long run of unsynced writes overwrites older synced data, because sled recycles its segments. So whatever the
//! caller asked for, everything is synced at least every [`MAX_UNSYNCED_BYTES`].

use super::Engine;
use super::change::{Change, Content, Late};
use super::journal::Journal;
use super::trees::{delete, engine_error, meta, put};
use crate::codec::{ActivityRow, AgePage, CHUNK_BYTES, MAX_JOURNAL_ROW};
use crate::error::{Error, Result};
use crate::storage::directory::Position;
use crate::storage::directory::state::{Left, Mark, State};

/// The most that may be written to the log between two syncs, in bytes. Losses begin somewhere between 1.7 and 6.8 MB.
pub(in crate::storage) const MAX_UNSYNCED_BYTES: u64 = 512 * 1024;

/// Where a sync is due. The rest is for the end of a segment that a record did not fit into, and for a write that costs
/// more than its estimate: with 64 KiB more, 558 KB between two syncs were seen once.
const SYNC_AT_BYTES: u64 = MAX_UNSYNCED_BYTES - 176 * 1024;

/// What may be estimated before it is looked up, in bytes and in writes. A write, however small, may move a large page out of
/// a segment that is being cleaned. Where the bytes alone were estimated, 617 KB were written between two syncs, in one run of 60.
const MAX_ESTIMATED_BYTES: u64 = 32 * 1024;
const MAX_ESTIMATED_WRITES: u64 = 8;

/// A full row of extras, in bytes of key and value.
const MAX_CHUNK_ROW: u64 = 28 + 1 + CHUNK_BYTES as u64;

/// Writes the trees. There is one, and the committer's thread owns it.
#[derive(Debug)]
pub(crate) struct Writer {
    /// What has been applied to the trees.
    pub(in crate::storage) mark: Mark,
    pub(in crate::storage) journal: Journal,
    /// What the last whole commit came to.
    finished: Option<Mark>,
    unsynced: Unsynced,
    /// Whether extras are among them.
    pub(in crate::storage) has_unsynced_extras: bool,
    /// Whether the count of entries has turned out to be wrong. The next opening counts anew.
    pub(in crate::storage) is_count_wrong: bool,
    /// How far old rows of the index by age have been removed.
    pub(in crate::storage) cleared: Option<ActivityRow>,
    /// The largest row of extras that there may be, in bytes of key and value.
    pub(in crate::storage) largest_chunk: u64,
    /// Called before each write and each sync.
    #[cfg(test)]
    pub(crate) hook: crate::storage::Hook,
}

/// What has been written to the log since the last sync.
#[derive(Debug, Default)]
struct Unsynced {
    /// Where the log was at the last sync.
    synced: Position,
    /// How many bytes it had grown by when that was last looked up.
    looked_up: u64,
    /// Estimate of the bytes since then, and how many writes it is of.
    estimated: u64,
    writes: u64,
}

impl Unsynced {
    fn bytes(&self) -> u64 {
        self.looked_up + self.estimated
    }

    fn look(&mut self, engine: &Engine) -> Result<()> {
        let grown = engine.log_position()? - self.synced;
        *self = Self { looked_up: grown.unsigned_abs(), estimated: 0, writes: 0, ..*self };
        Ok(())
    }
}

impl Writer {
    pub(in crate::storage) fn new(mark: Mark, finished: Option<Mark>) -> Self {
        Self {
            mark,
            journal: Journal::new(),
            finished,
            unsynced: Unsynced::default(),
            has_unsynced_extras: false,
            is_count_wrong: false,
            cleared: None,
            largest_chunk: MAX_CHUNK_ROW,
            #[cfg(test)]
            hook: crate::storage::Hook::default(),
        }
    }

    /// Opening is a commit of its own, so that the numbers of two openings never meet.
    pub(in crate::storage) fn begin_use(&mut self, engine: &Engine, commit: u64) -> Result<()> {
        self.mark.commit = commit.saturating_add(1);
        if engine.trees.extras.is_empty() {
            self.largest_chunk = 0;
        }
        self.finish(engine, self.mark.commit)?;
        self.sync(engine)
    }

    /// Counts the entries, since what had been `counted` is in doubt. Reads all of them. Answers what it put right, in
    /// words.
    pub(in crate::storage) fn count_anew(&mut self, engine: &Engine, counted: Option<u64>) -> Result<Option<String>> {
        let mut count = 0;
        for row in &engine.trees.sessions {
            row.map_err(|e| engine_error("count the entries in", e))?;
            count += 1;
        }
        let before = std::mem::replace(&mut self.mark.count, count);
        self.put_meta(engine, meta::COUNT, &count)?;
        if counted.is_some() && before == count {
            return Ok(None);
        }
        let before = counted.map_or("missing".into(), |_| before.to_string());
        Ok(Some(format!("counted the entries anew: there are {count}, and the count was {before}")))
    }

    /// What has been applied.
    pub(crate) fn mark(&self) -> Mark {
        self.mark
    }

    /// Applies `changes`, at most one for each entry, best in the order of [`Change::place`], and tells of each `piece` of
    /// so many.
    ///
    /// When it returns, readers of the trees see them; they are durable after [`Writer::sync`].
    ///
    /// The rows of the index by age go first, and need no group: until their entries are there they lead nowhere, and the
    /// journal has a note of each. So those of one time share their pages, whatever the order of the keys.
    pub(crate) fn apply(
        &mut self,
        engine: &Engine,
        changes: &[Change],
        piece: usize,
        mut applied: impl FnMut(&[Change]),
    ) -> Result<()> {
        // What the journal says nothing of has its row.
        let is_new = |change: &&Change| !change.keeps_time() || engine.memtable.contains(change.entry);
        let mut ages: Vec<_> = changes.iter().filter(is_new).filter_map(Change::age_row).collect();
        self.append_left(engine, &ages)?;
        engine.gone.suspect(ages.iter().copied(), self.journal.epoch);
        self.write_age_rows(engine, &mut ages)?;
        for piece in changes.chunks(piece) {
            self.apply_piece(engine, piece)?;
            applied(piece);
        }
        // Of entries that a pass removes whole pages go.
        let mut left: Vec<_> = changes.iter().filter_map(Change::left_row).collect();
        left.sort_unstable();
        self.clear(engine, &left)?;
        // Each change leaves two rows at most, so this keeps pace, and what a crash has left holds up no commit.
        self.clear_gone(engine, self.most_gone(), 2 * changes.len())
    }

    fn apply_piece(&mut self, engine: &Engine, changes: &[Change]) -> Result<()> {
        let late = changes.iter().filter_map(|change| match &change.content {
            Content::Hot(hot) => Some(Late { entry: change.entry, hot: *hot, is_touch: false }),
            Content::Whole { .. } | Content::Gone => None,
        });
        self.apply_late(engine, late)?;
        for change in changes.iter().filter(|change| matches!(change.content, Content::Hot(_))) {
            self.write_leases(engine, change.entry, &change.leases)?;
        }
        self.apply_structural(engine, changes)
    }

    /// Writes down that all changes of `commit` have been applied.
    pub(crate) fn finish(&mut self, engine: &Engine, commit: u64) -> Result<()> {
        self.mark.commit = commit;
        self.put_meta(engine, meta::COMMIT, &commit)?;
        self.finished = Some(self.mark);
        Ok(())
    }

    /// Makes everything applied so far survive a power cut.
    pub(crate) fn sync(&mut self, engine: &Engine) -> Result<()> {
        #[cfg(test)]
        self.hook.call(engine, 0)?;
        let synced = engine.log_position()?;
        engine.waker.watch(|| engine.trees.meta.flush()).map_err(|e| engine_error("write", e))?;
        // sled's flush leaves the data in the page cache.
        engine.file.sync_data().map_err(|e| Error::io("sync", engine.path(), e))?;
        // A file without a name is synced as any other, and gone when it is closed.
        if engine.is_linked && engine.links()? == 0 {
            return Err(Error::Removed { path: engine.path().to_path_buf() });
        }
        self.unsynced = Unsynced { synced, ..Unsynced::default() };
        self.has_unsynced_extras = false;
        // What is later than this is in doubt if the process dies, of a failure of the next sync too.
        engine.state.note(Left { state: State::Open, synced: Some(synced), mark: self.finished })
    }

    /// Makes what was noted of the last sync survive a power cut.
    pub(crate) fn sync_state(&self, engine: &Engine) -> Result<()> {
        engine.state.sync()
    }

    /// Whether what was noted would not survive a power cut yet.
    pub(crate) fn is_state_due(&self, engine: &Engine) -> bool {
        !engine.state.is_synced()
    }

    /// Leaves a short journal, and the mark of a clean close, synced.
    /// Closing is a commit of its own, so that the loss of what came after the last one is seen.
    pub(crate) fn end_use(&mut self, engine: &Engine) -> Result<()> {
        self.clear_left(engine)?;
        self.condense(engine)?;
        self.finish(engine, self.mark.commit.saturating_add(1))?;
        self.sync(engine)?;
        engine.state.set(State::Closed)?;
        engine.state.sync()
    }

    /// Whether something was written since the last sync.
    pub(crate) fn is_dirty(&self) -> bool {
        self.unsynced.bytes() > 0
    }

    pub(in crate::storage) fn insert(
        &mut self,
        engine: &Engine,
        tree: &sled::Tree,
        row: impl AsRef<[u8]>,
        value: &[u8],
    ) -> Result<()> {
        let row = row.as_ref();
        self.before_write(engine, self.log_bytes(engine, tree, row.len() + value.len()))?;
        let _gate = engine.gate.lock();
        put(tree, row, value)
    }

    pub(in crate::storage) fn remove(
        &mut self,
        engine: &Engine,
        tree: &sled::Tree,
        row: impl AsRef<[u8]>,
    ) -> Result<()> {
        let row = row.as_ref();
        self.before_write(engine, self.log_bytes(engine, tree, row.len()))?;
        let _gate = engine.gate.lock();
        delete(tree, row)
    }

    /// Puts a row, or removes it where it has no value.
    pub(super) fn write(
        &mut self,
        engine: &Engine,
        tree: &sled::Tree,
        row: impl AsRef<[u8]>,
        value: Option<&[u8]>,
    ) -> Result<()> {
        match value {
            Some(value) => self.insert(engine, tree, row, value),
            None => self.remove(engine, tree, row),
        }
    }

    /// Like [`Writer::insert`]; the caller holds the gate.
    pub(in crate::storage) fn insert_held(
        &mut self,
        engine: &Engine,
        tree: &sled::Tree,
        row: &[u8],
        value: &[u8],
    ) -> Result<()> {
        self.before_write(engine, self.log_bytes(engine, tree, row.len() + value.len()))?;
        put(tree, row, value)
    }

    /// Like [`Writer::remove`]; the caller holds the gate.
    pub(in crate::storage) fn remove_held(&mut self, engine: &Engine, tree: &sled::Tree, row: &[u8]) -> Result<()> {
        self.before_write(engine, self.log_bytes(engine, tree, row.len()))?;
        delete(tree, row)
    }

    /// Counts a write of so much to the log, and syncs first if that would grow past the bound.
    fn before_write(&mut self, engine: &Engine, cost: u64) -> Result<()> {
        let full = |unsynced: &Unsynced| unsynced.bytes() + cost > SYNC_AT_BYTES;
        let Unsynced { estimated, writes, .. } = self.unsynced;
        if full(&self.unsynced) || estimated > MAX_ESTIMATED_BYTES || writes >= MAX_ESTIMATED_WRITES {
            self.unsynced.look(engine)?;
            if self.unsynced.looked_up > 0 && full(&self.unsynced) {
                self.sync(engine)?;
            }
        }
        self.unsynced.estimated += cost;
        self.unsynced.writes += 1;
        #[cfg(test)]
        self.hook.call(engine, cost)?;
        Ok(())
    }

    /// What a write of `bytes` of key and value to `tree` may put into sled's log, estimated high: the delta, its
    /// header, its share of the leaf that is rewritten about every tenth time, and of the segments that are cleaned
    /// meanwhile. A removal costs as much as an insertion. A test holds it against what was really written.
    fn log_bytes(&self, engine: &Engine, tree: &sled::Tree, bytes: usize) -> u64 {
        let bytes = bytes as u64;
        let name = tree.name();
        if name == engine.trees.extras.name() {
            // A leaf holds up to sixteen chunks, and any of them may be as large as the largest. The worst write merges
            // two leaves, splits what came of it, and moves two more out of segments that are cleaned.
            3 * bytes + 5 * 16 * self.largest_chunk + 192
        } else if name == engine.trees.journal.name() {
            // The same of rows that are as large as they may be.
            3 * bytes + 5 * 16 * (MAX_JOURNAL_ROW as u64 + 8) + 192
        } else if name == engine.trees.by_updated_at.name() {
            // And of pages.
            3 * bytes + 5 * 16 * AgePage::MAX_BYTES as u64 + 192
        } else if [&engine.trees.turns, &engine.trees.leases].iter().any(|t| t.name() == name) {
            // Rows come and go, so leaves split and merge.
            12 * bytes + 192
        } else {
            5 * bytes + 80
        }
    }
}
