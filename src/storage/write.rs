//! The one writer: applies changes to the trees, and syncs.
//!
//! What a crash can leave, write by write:
//!
//! - A touch is the new index row, then the hot record, then the removal of the old row, each a plain write in that
//!   order. So every entry always has a row that is not later than its hot record, and pruning finds it. A crash may
//!   leave an extra row, which is harmless and cleared when met.
//! - A structural change (create, new id, new details, remove) is a transaction over five trees: all of it or nothing.
//!   Transactions roll sled's buffer twice and take a lock that stops every reader, so they are grouped, but small.
//! - Extras of a whole piece are written and synced first, under new generations; the transactions that name them
//!   follow; the old generations go last. A crash may leave a generation that nothing names, which is swept at the next change.
//!
//! A long run of unsynced writes overwrites older synced data, because sled recycles its segments. So whatever the
//! caller asked for, everything is synced at least every [`MAX_UNSYNCED_BYTES`].

use std::cmp::Ordering;
use std::sync::Arc;

use sled::transaction::{ConflictableTransactionError, TransactionError, Transactional, TransactionalTree};

use super::checkpoint::{Checkpoint, Mark};
use super::{Engine, bytes, engine_error, meta};
use crate::codec::{
    ActivityRow, Bucket, CodecError, Cold, ExtrasRow, Fingerprint, Hot, IdRow, MAX_VALUE_BYTES, NoteRow, decode_cold,
    encode_meta, encode_name,
};
use crate::error::{Error, Result};
use crate::key::SessionKey;

/// The most that may be written to the log between two syncs, in bytes. Losses begin somewhere between 1.7 and 6.8 MB.
pub(super) const MAX_UNSYNCED_BYTES: u64 = 512 * 1024;
/// How much goes into one transaction, in bytes of keys and values.
const MAX_TRANSACTION_BYTES: usize = 64 * 1024;

/// A full row of extras, in bytes of key and value.
const MAX_CHUNK_ROW: u64 = 28 + MAX_VALUE_BYTES as u64;

/// What becomes of one entry.
#[derive(Debug)]
pub(crate) struct Change {
    pub(crate) key: SessionKey,
    pub(crate) entry: Fingerprint,
    /// The bucket of its row on disk; `None` if there is no entry on disk.
    pub(crate) stored: Option<Bucket>,
    pub(crate) content: Content,
}

impl Change {
    /// The order in which sled takes changes best: that of the trees they go to.
    pub(crate) fn place(&self, other: &Self) -> Ordering {
        let structural = |change: &Self| !matches!(change.content, Content::Hot(_));
        match (structural(self), structural(other)) {
            (false, false) => self.entry.cmp(&other.entry),
            (true, true) => self.key.cmp(&other.key),
            (this, that) => this.cmp(&that),
        }
    }
}

/// The new content of an entry.
#[derive(Debug)]
pub(crate) enum Content {
    /// Only the hot record is new.
    Hot(Hot),
    /// Both records are new; so is the JSON of the extras, where it is given.
    Whole { hot: Hot, cold: Arc<Cold>, blob: Option<Arc<[u8]>> },
    /// The entry goes.
    Gone,
}

/// Writes the trees. There is one, and the committer's thread owns it.
#[derive(Debug)]
pub(crate) struct Writer {
    /// What has been applied to the trees.
    mark: Mark,
    checkpoint: Checkpoint,
    /// Estimate of the bytes written to the log since the last sync.
    unsynced: u64,
    /// Whether extras are among them.
    has_unsynced_extras: bool,
    /// The largest row of extras that there may be, in bytes of key and value.
    largest_chunk: u64,
    /// Called before each write and each sync.
    #[cfg(test)]
    pub(super) hook: super::tests::Hook,
}

impl Writer {
    pub(super) fn new(mark: Mark, checkpoint: Checkpoint) -> Self {
        Self {
            mark,
            checkpoint,
            unsynced: 0,
            has_unsynced_extras: false,
            largest_chunk: MAX_CHUNK_ROW,
            #[cfg(test)]
            hook: super::tests::Hook::default(),
        }
    }

    /// Takes the clean mark away, so that a crash from now on is seen. Opening is a commit of its own, so that the
    /// numbers of two openings never meet.
    pub(super) fn begin_use(&mut self, engine: &Engine, commit: u64) -> Result<()> {
        self.mark.commit = commit.saturating_add(1);
        if engine.trees.extras.is_empty() {
            self.largest_chunk = 0;
        }
        self.put_meta(engine, meta::CLEAN, &false)?;
        self.put_meta(engine, meta::COMMIT, &self.mark.commit.clone())?;
        self.sync(engine)
    }

    /// What has been applied.
    pub(crate) fn mark(&self) -> Mark {
        self.mark
    }

    /// Applies `changes`, at most one for each entry, best in the order of [`Change::place`].
    ///
    /// When it returns, readers of the trees see them; they are durable after [`Writer::sync`].
    pub(crate) fn apply(&mut self, engine: &Engine, changes: &[Change]) -> Result<()> {
        self.apply_touches(engine, changes)?;
        self.apply_structural(engine, changes)
    }

    /// Writes down that all changes of `commit` have been applied.
    pub(crate) fn finish(&mut self, engine: &Engine, commit: u64) -> Result<()> {
        self.mark.commit = commit;
        self.put_meta(engine, meta::COMMIT, &commit)
    }

    /// The plain writes, in three phases that keep the order for each entry and sled's favourite order among entries.
    fn apply_touches(&mut self, engine: &Engine, changes: &[Change]) -> Result<()> {
        let touches = || {
            changes.iter().filter_map(|change| match &change.content {
                Content::Hot(hot) => Some((change.entry, hot, change.stored, Bucket::of(hot.updated_at))),
                _ => None,
            })
        };
        let (mut new, mut old) = (Vec::new(), Vec::new());
        for (entry, _, stored, bucket) in touches().filter(|(_, _, stored, bucket)| *stored != Some(*bucket)) {
            new.push(ActivityRow { bucket, entry });
            old.extend(stored.map(|bucket| ActivityRow { bucket, entry }));
        }
        new.sort_unstable();
        old.sort_unstable();

        for row in new {
            self.insert(engine, &engine.trees.by_updated_at, row.encode(), &[])?;
        }
        for (entry, hot, _, _) in touches() {
            let value = hot.encode().map_err(encode_error)?;
            self.insert(engine, &engine.trees.activity, entry.as_bytes(), &value)?;
        }
        for row in old {
            self.remove(engine, &engine.trees.by_updated_at, row.encode())?;
        }
        Ok(())
    }

    fn apply_structural(&mut self, engine: &Engine, changes: &[Change]) -> Result<()> {
        // All extras go first, so that one sync serves many transactions.
        for change in changes {
            if let Content::Whole { cold, blob: Some(blob), .. } = &change.content {
                self.write_extras(engine, change.entry, cold, blob)?;
            }
        }
        let mut group = Group::default();
        for change in changes {
            let before = match change.content {
                Content::Hot(_) => continue,
                Content::Whole { .. } | Content::Gone => Before::read(engine, change)?,
            };
            group.add(change, before)?;
            if group.bytes >= MAX_TRANSACTION_BYTES {
                self.commit_group(engine, std::mem::take(&mut group))?;
            }
        }
        self.commit_group(engine, group)
    }

    fn write_extras(&mut self, engine: &Engine, entry: Fingerprint, cold: &Cold, blob: &[u8]) -> Result<()> {
        let Some(at) = cold.extras else { return Ok(()) };
        for (row, value) in ExtrasRow::encode_all(entry, at.generation, blob) {
            self.largest_chunk = self.largest_chunk.max((row.len() + value.len()) as u64);
            self.insert(engine, &engine.trees.extras, row, &value)?;
            self.has_unsynced_extras = true;
        }
        Ok(())
    }

    fn commit_group(&mut self, engine: &Engine, group: Group) -> Result<()> {
        if group.is_empty() {
            return Ok(());
        }
        if group.has_new_extras && self.has_unsynced_extras {
            self.sync(engine)?;
        }
        let count = self.mark.count.saturating_add_signed(group.added);
        let count_value = encode_meta(&count).map_err(encode_error)?;
        self.before_write(engine, 5 * group.bytes as u64 + 320 * group.rows() as u64)?;
        let trees = &engine.trees;
        let views =
            [&trees.sessions, &trees.names, &trees.activity, &trees.by_updated_at, &trees.by_session_id, &trees.meta];
        {
            let _gate = engine.gate.lock();
            let views = views.map(Clone::clone);
            views
                .as_slice()
                .transaction(|views| {
                    let [sessions, names, activity, by_updated_at, by_session_id, meta_tree] = views.as_slice() else {
                        return Ok(());
                    };
                    group.sessions.write(sessions)?;
                    group.names.write(names)?;
                    group.activity.write(activity)?;
                    group.by_updated_at.write(by_updated_at)?;
                    group.by_session_id.write(by_session_id)?;
                    meta_tree.insert(meta::COUNT, count_value.as_slice())?;
                    Ok(())
                })
                .map_err(|error: TransactionError<()>| match error {
                    TransactionError::Storage(error) => engine_error("write", error),
                    TransactionError::Abort(()) => engine_error("write", sled::Error::Unsupported("abort".into())),
                })?;
        }
        self.mark.count = count;
        for (entry, keep) in &group.stale_extras {
            self.drop_extras(engine, *entry, *keep)?;
        }
        Ok(())
    }

    /// Removes every generation of an entry's extras but `keep`.
    fn drop_extras(&mut self, engine: &Engine, entry: Fingerprint, keep: Option<u64>) -> Result<()> {
        let kept = keep.map(|generation| ExtrasRow::prefix(entry, generation));
        for row in engine.trees.extras.scan_prefix(entry.as_bytes()).keys() {
            let row = row.map_err(|e| engine_error("read", e))?;
            if !kept.as_ref().is_some_and(|prefix| row.starts_with(prefix)) {
                self.remove(engine, &engine.trees.extras, row)?;
            }
        }
        Ok(())
    }

    /// Clears an index row that a crash or a race has left: its entry is gone, or the row is earlier than the hot
    /// record on disk. A row that is later stays, for a touch may be about to write that record. Returns whether it
    /// was cleared.
    pub(crate) fn recheck(&mut self, engine: &Engine, row: &ActivityRow) -> Result<bool> {
        let stale = match engine.hot(row.entry)? {
            None => true,
            Some(hot) => row.bucket < Bucket::of(hot.updated_at),
        };
        if stale {
            self.remove(engine, &engine.trees.by_updated_at, row.encode())?;
        }
        Ok(stale)
    }

    /// Remembers the time zone of an import.
    pub(crate) fn set_zone(&mut self, engine: &Engine, zone: &str) -> Result<()> {
        self.put_meta(engine, meta::ZONE, &zone)
    }

    /// Keeps a note of an imported file in place of the one of that name.
    pub(crate) fn set_note(&mut self, engine: &Engine, name: &str, text: &str) -> Result<()> {
        for row in engine.trees.meta.scan_prefix(NoteRow::prefix(name)).keys() {
            let row = row.map_err(|e| engine_error("read notes", e))?;
            self.remove(engine, &engine.trees.meta, row)?;
        }
        // The first chunk goes last: without it a note is not there, so a crash leaves no half of one.
        for (row, value) in NoteRow::encode_all(name, text).into_iter().rev() {
            self.insert(engine, &engine.trees.meta, row, &value)?;
        }
        Ok(())
    }

    /// Makes everything applied so far survive a power cut.
    pub(crate) fn sync(&mut self, engine: &Engine) -> Result<()> {
        #[cfg(test)]
        self.hook.call(engine, 0)?;
        let trees = &engine.trees;
        trees.meta.flush().map_err(|e| engine_error("write", e))?;
        // sled's flush leaves the data in the page cache.
        engine.file.sync_data().map_err(|e| Error::io("sync", engine.path(), e))?;
        self.unsynced = 0;
        self.has_unsynced_extras = false;
        Ok(())
    }

    /// Writes down what is durable. Call it after [`Writer::sync`].
    pub(crate) fn checkpoint(&mut self) -> Result<()> {
        self.checkpoint.record(self.mark)
    }

    /// Leaves the mark of a clean close, synced.
    pub(crate) fn end_use(&mut self, engine: &Engine) -> Result<()> {
        self.put_meta(engine, meta::CLEAN, &true)?;
        self.sync(engine)?;
        self.checkpoint()
    }

    /// Whether something was written since the last sync.
    pub(crate) fn is_dirty(&self) -> bool {
        self.unsynced > 0
    }

    fn put_meta<T: serde::Serialize>(&mut self, engine: &Engine, name: &'static str, value: &T) -> Result<()> {
        let value = encode_meta(value).map_err(encode_error)?;
        self.insert(engine, &engine.trees.meta, name, &value)
    }

    pub(super) fn insert(
        &mut self,
        engine: &Engine,
        tree: &sled::Tree,
        row: impl AsRef<[u8]>,
        value: &[u8],
    ) -> Result<()> {
        let row = row.as_ref();
        self.before_write(engine, self.log_bytes(engine, tree, row.len() + value.len()))?;
        let _gate = engine.gate.lock();
        tree.insert(row, value).map_err(|e| engine_error("write", e))?;
        Ok(())
    }

    pub(super) fn remove(&mut self, engine: &Engine, tree: &sled::Tree, row: impl AsRef<[u8]>) -> Result<()> {
        let row = row.as_ref();
        self.before_write(engine, self.log_bytes(engine, tree, row.len()))?;
        let _gate = engine.gate.lock();
        tree.remove(row).map_err(|e| engine_error("write", e))?;
        Ok(())
    }

    /// Counts a write of so much to the log, and syncs first if that would grow past the bound.
    fn before_write(&mut self, engine: &Engine, cost: u64) -> Result<()> {
        if self.unsynced + cost > MAX_UNSYNCED_BYTES {
            self.sync(engine)?;
        }
        self.unsynced += cost;
        #[cfg(test)]
        self.hook.call(engine, cost)?;
        Ok(())
    }

    /// What a write of `bytes` of key and value to `tree` puts into sled's log, estimated high: the delta, its header,
    /// its share of the leaf that is rewritten about every tenth time, and of the segments that are cleaned meanwhile.
    /// A removal costs as much as an insertion. A test holds it against what was really written.
    fn log_bytes(&self, engine: &Engine, tree: &sled::Tree, bytes: usize) -> u64 {
        let bytes = bytes as u64;
        let name = tree.name();
        if name == engine.trees.extras.name() {
            // A leaf holds up to sixteen chunks, and any of them may be as large as the largest.
            3 * bytes + 14 * self.largest_chunk + 192
        } else if name == engine.trees.by_updated_at.name() || name == engine.trees.turns.name() {
            // Rows come and go, so leaves split and merge.
            12 * bytes + 192
        } else {
            5 * bytes + 80
        }
    }
}

/// What a structural change replaces.
#[derive(Debug, Default)]
struct Before {
    exists: bool,
    row: Option<ActivityRow>,
    id_row: Option<Vec<u8>>,
    extras: Option<u64>,
}

impl Before {
    fn read(engine: &Engine, change: &Change) -> Result<Self> {
        let key = &change.key;
        let value = engine.trees.sessions.get(bytes(key)).map_err(|e| engine_error("read", e))?;
        let Some(value) = value else { return Ok(Self::default()) };
        let (cold, _) = decode_cold(&value).map_err(|e| super::damaged("sessions", key, e))?;
        let row = |hot: Hot| ActivityRow { bucket: Bucket::of(hot.updated_at), entry: change.entry };
        Ok(Self {
            exists: true,
            row: engine.hot(change.entry)?.map(row),
            id_row: Some(IdRow::encode(&cold.session_id, change.entry)),
            extras: cold.extras.map(|at| at.generation),
        })
    }
}

/// The writes of one transaction, tree by tree.
#[derive(Debug, Default)]
struct Group {
    sessions: Rows,
    names: Rows,
    activity: Rows,
    by_updated_at: Rows,
    by_session_id: Rows,
    bytes: usize,
    /// Entries created less entries removed.
    added: i64,
    has_new_extras: bool,
    /// Entries whose extras are to be swept after the transaction, but for the generation given.
    stale_extras: Vec<(Fingerprint, Option<u64>)>,
}

impl Group {
    fn add(&mut self, change: &Change, before: Before) -> Result<()> {
        let (key, entry) = (bytes(&change.key).to_vec(), change.entry);
        let entry_row = || entry.as_bytes().to_vec();
        let kept = match &change.content {
            Content::Hot(_) => return Ok(()),
            Content::Gone => {
                self.remove(|group| &mut group.sessions, key);
                self.remove(|group| &mut group.names, entry_row());
                self.remove(|group| &mut group.activity, entry_row());
                before.id_row.into_iter().for_each(|row| self.remove(|group| &mut group.by_session_id, row));
                before
                    .row
                    .into_iter()
                    .for_each(|row| self.remove(|group| &mut group.by_updated_at, row.encode().into()));
                self.added -= i64::from(before.exists);
                None
            }
            Content::Whole { hot, cold, blob } => {
                let record = match cold.encode().map_err(encode_error)? {
                    Some(record) => record,
                    None => cold.encode_spilled().map_err(encode_error)?,
                };
                let row = ActivityRow { bucket: Bucket::of(hot.updated_at), entry };
                if let Some(old) = before.row.filter(|old| *old != row) {
                    self.remove(|group| &mut group.by_updated_at, old.encode().into());
                }
                let id_row = IdRow::encode(&cold.session_id, entry);
                if let Some(old) = before.id_row.filter(|old| *old != id_row) {
                    self.remove(|group| &mut group.by_session_id, old);
                }
                self.put(|group| &mut group.by_updated_at, row.encode().into(), Vec::new());
                self.put(|group| &mut group.by_session_id, id_row, Vec::new());
                self.put(|group| &mut group.activity, entry_row(), hot.encode().map_err(encode_error)?);
                if !before.exists {
                    self.put(|group| &mut group.names, entry_row(), encode_name(&change.key));
                }
                self.put(|group| &mut group.sessions, key, record);
                self.added += i64::from(!before.exists);
                self.has_new_extras |= blob.is_some();
                cold.extras.map(|at| at.generation)
            }
        };
        // Chunks of an older generation, and those that a crash left before anything named them.
        let wrote_extras = matches!(&change.content, Content::Whole { blob: Some(_), .. });
        if wrote_extras || (before.extras.is_some() && before.extras != kept) {
            self.stale_extras.push((entry, kept));
        }
        Ok(())
    }

    fn put(&mut self, rows: fn(&mut Self) -> &mut Rows, row: Vec<u8>, value: Vec<u8>) {
        self.bytes += row.len() + value.len();
        rows(self).0.push((row, Some(value)));
    }

    fn remove(&mut self, rows: fn(&mut Self) -> &mut Rows, row: Vec<u8>) {
        self.bytes += row.len();
        rows(self).0.push((row, None));
    }

    fn rows(&self) -> usize {
        let trees = [&self.sessions, &self.names, &self.activity, &self.by_updated_at, &self.by_session_id];
        trees.iter().map(|rows| rows.0.len()).sum()
    }

    fn is_empty(&self) -> bool {
        self.rows() == 0
    }
}

/// Rows to put (`Some`) or to remove (`None`).
#[derive(Debug, Default)]
struct Rows(Vec<(Vec<u8>, Option<Vec<u8>>)>);

impl Rows {
    fn write(&self, tree: &TransactionalTree) -> Result<(), ConflictableTransactionError<()>> {
        for (row, value) in &self.0 {
            match value {
                Some(value) => tree.insert(row.as_slice(), value.as_slice())?,
                None => tree.remove(row.as_slice())?,
            };
        }
        Ok(())
    }
}

fn encode_error(error: CodecError) -> Error {
    Error::Engine { action: "encode a record", source: Box::new(error) }
}
