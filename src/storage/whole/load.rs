//! Entries of an imported file on their way into a store in the making.
//!
//! They are encoded in the thread that reads the file and written in another. Freeing on
//! another thread is slow, so the bytes of many entries share one buffer, a [`Batch`], which is recycled.
//!
//! Each tree gets its rows of a batch in key order: its leaves are then found, and read back into sled's cache, once
//! for many rows.

use std::convert::Infallible;
use std::ops::Range;
use std::thread;

use super::new_store::NewStore;
use crate::codec::{
    Activity, ActivityRow, ArrangeError, Base, Cold, ExtrasRef, ExtrasRow, Fingerprint, Hot, IdRow, MAX_EXTRAS_BYTES,
    NewExtras, NoteRow, arrange, decode_cold,
};
use crate::entry::Extras;
use crate::error::{Error, Result, panic_message};
use crate::key::SessionKey;
use crate::storage::engine::ages;
use crate::storage::engine::change::encode_error;
use crate::storage::engine::trees::{delete, engine_error, put};
use crate::storage::engine::{bytes, damaged};
use crate::time::Timestamp;

/// Entries that are written together. One key may be there several times.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    bytes: Vec<u8>,
    /// In the order in which they came.
    entries: Vec<Encoded>,
}

/// Where the rows of an entry are in the buffer of its batch.
#[derive(Debug)]
struct Encoded {
    place: Fingerprint,
    updated_at: Timestamp,
    key: Range<usize>,
    /// The key in `by_session_id`.
    id_row: Range<usize>,
    activity: Range<usize>,
    cold: Range<usize>,
    /// Generations and bytes of the parts of its extras.
    parts: Vec<(u64, Range<usize>)>,
}

/// What became of the entries of a batch.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Loaded {
    /// Entries that the store did not have.
    pub(crate) created: u64,
    /// Entries whose key came before. Of these the newest stays; the later one, if they are equal.
    pub(crate) duplicates: u64,
}

impl Loaded {
    pub(crate) fn add(&mut self, other: Self) {
        self.created += other.created;
        self.duplicates += other.duplicates;
    }
}

impl Batch {
    /// Adds an entry; the parts of its extras, if it has any, under numbers from `generation`, which goes on after them.
    pub(crate) fn push(
        &mut self,
        place: Fingerprint,
        key: &SessionKey,
        hot: &Hot,
        mut cold: Cold,
        extras: &Extras,
        generation: &mut u64,
    ) -> Result<()> {
        let parts = arrange(&mut cold, NewExtras::All(extras), no_base, || {
            *generation += 1;
            *generation - 1
        });
        let parts = parts.map_err(|error| match error {
            ArrangeError::TooLarge(bytes) => Error::TooLarge { key: key.clone(), bytes, limit: MAX_EXTRAS_BYTES },
            ArrangeError::Encode(error) => encode_error(error),
            ArrangeError::Base(never) => match never {},
        })?;
        let record = cold.to_bytes().map_err(encode_error)?;
        let entry = Encoded {
            place,
            updated_at: hot.updated_at,
            key: self.add(bytes(key)),
            id_row: self.add(&IdRow::encode(&cold.session_id, place)),
            activity: self.add(&Activity::encode(key, hot).map_err(encode_error)?),
            cold: self.add(&record),
            parts: parts.into_iter().map(|(generation, part)| (generation, self.add(&part))).collect(),
        };
        self.entries.push(entry);
        Ok(())
    }

    fn add(&mut self, bytes: &[u8]) -> Range<usize> {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        start..self.bytes.len()
    }

    fn get(&self, range: &Range<usize>) -> &[u8] {
        self.bytes.get(range.clone()).unwrap_or_default()
    }

    /// How much memory it takes, in bytes.
    pub(crate) fn size(&self) -> usize {
        self.bytes.len() + self.entries.len() * size_of::<Encoded>()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Empties it and keeps its memory.
    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.entries.clear();
    }
}

/// An imported entry has none.
fn no_base(_: ExtrasRef) -> Result<Base, Infallible> {
    Ok(Base::default())
}

impl NewStore {
    /// Writes the entries of a batch.
    pub(crate) fn put_batch(&self, batch: &Batch) -> Result<Loaded> {
        let trees = &self.database.trees;
        let mut entries: Vec<&Encoded> = batch.entries.iter().collect();
        // Stable, so of one key they stay in the order in which they came.
        entries.sort_by_key(|entry| entry.place);
        entries.dedup_by(|later, earlier| {
            let is_one = later.place == earlier.place;
            if is_one && later.updated_at >= earlier.updated_at {
                *earlier = *later;
            }
            is_one
        });

        let mut loaded = Loaded::default();
        let mut new = Vec::with_capacity(entries.len());
        for entry in entries {
            let row = entry.place.as_bytes();
            // Whether the key came in an earlier batch costs nothing to know here, and the memory for it does not
            // grow with the file.
            let old = trees.activity.insert(row, batch.get(&entry.activity)).map_err(|e| engine_error("write", e))?;
            match old {
                None => {
                    loaded.created += 1;
                    new.push(entry);
                }
                Some(old) => {
                    let activity = Activity::decode(&old).map_err(|e| damaged("activity", &entry.place, e))?;
                    if activity.hot.updated_at > entry.updated_at {
                        put(&trees.activity, row, &old)?;
                    } else {
                        self.forget(entry.place, &activity)?;
                        new.push(entry);
                    }
                }
            }
        }
        loaded.duplicates = batch.entries.len() as u64 - loaded.created;

        // Nobody sees the store yet, so the order among the trees is free. The cold records take about as long as the rest.
        let ((), ()) = join(|| self.put_indexes(batch, new.clone()), || self.put_cold(batch, new.clone()))?;
        Ok(loaded)
    }

    fn put_indexes(&self, batch: &Batch, mut new: Vec<&Encoded>) -> Result<()> {
        let trees = &self.database.trees;
        for entry in &new {
            for (generation, part) in &entry.parts {
                for (row, value) in ExtrasRow::encode_all(entry.place, *generation, batch.get(part)) {
                    put(&trees.extras, row, &value)?;
                }
            }
        }
        let age_row = |entry: &&Encoded| ActivityRow { time: entry.updated_at, entry: entry.place };
        let mut rows: Vec<_> = new.iter().map(age_row).collect();
        rows.sort_unstable();
        ages::write(&trees.by_updated_at, ages::puts(&trees.by_updated_at, &rows)?)?;
        new.sort_unstable_by_key(|entry| batch.get(&entry.id_row));
        new.iter().try_for_each(|entry| put(&trees.by_session_id, batch.get(&entry.id_row), &[]))
    }

    fn put_cold(&self, batch: &Batch, mut new: Vec<&Encoded>) -> Result<()> {
        let sessions = &self.database.trees.sessions;
        new.sort_unstable_by_key(|entry| batch.get(&entry.key));
        new.iter().try_for_each(|entry| put(sessions, batch.get(&entry.key), batch.get(&entry.cold)))
    }

    /// Removes the rows of an entry that the next one of its key does not write over.
    fn forget(&self, place: Fingerprint, Activity { key, hot }: &Activity) -> Result<()> {
        let trees = &self.database.trees;
        let read = |e| engine_error("read", e);
        let Some(cold) = trees.sessions.get(bytes(key)).map_err(read)? else { return Ok(()) };
        let (cold, _) = decode_cold(&cold).map_err(|e| damaged("sessions", key, e))?;
        delete(&trees.by_session_id, IdRow::encode(&cold.session_id, place))?;
        let removals = ages::removals(&trees.by_updated_at, &[ActivityRow::of(hot, place)])?;
        ages::write(&trees.by_updated_at, removals)?;
        for row in trees.extras.scan_prefix(place.as_bytes()).keys() {
            delete(&trees.extras, row.map_err(read)?)?;
        }
        Ok(())
    }

    /// When the entry of a key that came already was active.
    pub(crate) fn activity(&self, place: Fingerprint) -> Result<Option<Timestamp>> {
        let value = self.database.trees.activity.get(place.as_bytes()).map_err(|e| engine_error("read", e))?;
        let hot =
            value.map(|value| Activity::decode_hot(&value)).transpose().map_err(|e| damaged("activity", &place, e))?;
        Ok(hot.map(|hot| hot.updated_at))
    }

    /// Keeps a note in place of the one of that name, unless that one is to stay.
    pub(crate) fn replace_note(&self, name: &str, text: &str, first_stays: bool) -> Result<()> {
        let meta = &self.database.trees.meta;
        for row in meta.scan_prefix(NoteRow::prefix(name)).keys() {
            if first_stays {
                return Ok(());
            }
            delete(meta, row.map_err(|e| engine_error("read notes", e))?)?;
        }
        self.put_note(name, text)
    }
}

/// Does two things at once.
fn join<A: Send, B>(a: impl FnOnce() -> Result<A> + Send, b: impl FnOnce() -> Result<B>) -> Result<(A, B)> {
    thread::scope(|scope| {
        let a = thread::Builder::new()
            .name("cloakroom-input".into())
            .spawn_scoped(scope, a)
            .map_err(|e| Error::io("start a thread for", "an import", e))?;
        let b = b();
        let a = a.join().unwrap_or_else(|panic| Err(Error::Panicked { message: panic_message(&*panic) }));
        Ok((a?, b?))
    })
}
