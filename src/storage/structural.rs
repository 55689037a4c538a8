//! Structural changes: what is written in transactions over many trees.

use sled::transaction::{ConflictableTransactionError, TransactionError, Transactional, TransactionalTree};

use super::write::{Change, Content, Writer, encode_error};
use super::{Engine, bytes, engine_error, meta};
use crate::codec::{
    ActivityRow, Bucket, Cold, ExtrasRow, Fingerprint, Hot, IdRow, decode_cold, encode_meta, encode_name,
};
use crate::error::Result;

/// How much goes into one transaction, in bytes of keys and values.
const MAX_TRANSACTION_BYTES: usize = 64 * 1024;

impl Writer {
    /// Applies the structural ones among `changes`.
    pub(super) fn apply_structural(&mut self, engine: &Engine, changes: &[Change]) -> Result<()> {
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
                        return Err(ConflictableTransactionError::Abort(()));
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
                let record = cold.to_bytes().map_err(encode_error)?;
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
