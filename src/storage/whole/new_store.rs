//! A store that is made whole, from records that were checked.

use std::fs;
use std::path::{Path, PathBuf};

use super::build::NewDatabase;
use super::open::new_seed;
use crate::codec::{Activity, ActivityRow, CheckedEntry, ExtrasRow, IdRow, LeaseRow, NoteRow, Seed};
use crate::error::{Error, Result};
use crate::fork;
use crate::storage::directory::files::Found;
use crate::storage::directory::lock::{Lock, check_process};
use crate::storage::directory::state::{Left, Mark, State, StateFile};
use crate::storage::directory::{access, files, parts, swap};
use crate::storage::engine::ages;
use crate::storage::engine::bytes;
use crate::storage::engine::change::encode_error;
use crate::storage::engine::trees::{check_clock, meta, put};

/// A store in the making. Unless it is finished, nothing of it stays.
pub(crate) struct NewStore {
    // Goes before its place.
    pub(in crate::storage) database: NewDatabase,
    seed: [u8; 16],
    state: StateFile,
    place: Place,
    /// Rows of the index by age that are to be written together.
    ages: Vec<ActivityRow>,
}

/// How many of them.
const AGES: usize = 16 * 1024;

/// Where the store is to be.
struct Place {
    // Goes before its lock, so that nobody else is in it by then.
    directory: NewDirectory,
    lock: Lock,
}

impl NewStore {
    /// Begins a store at `path`, where there is none.
    pub(crate) fn create(path: &Path, cache_bytes: u64, trust_group: bool) -> Result<Self> {
        check_process(path)?;
        let found = look(path)?;
        check_clock()?;
        access::enter(path, &found, trust_group)?;
        let mut directory =
            NewDirectory { path: path.to_path_buf(), is_ours: found == Found::Nothing, has_state: false };
        let lock = Lock::take(path).inspect_err(|error| {
            // Somebody was faster, and it is theirs now.
            directory.is_ours &= !matches!(error, Error::Locked { .. });
        })?;
        let mut place = Place { directory, lock };
        // Somebody may have been faster.
        if files::inspect(path)? == Found::Store || parts::gather(path, &place.lock, false)?.is_some() {
            return Err(Error::StoreExists { path: path.to_path_buf() });
        }
        swap::sweep(path)?;
        place.directory.has_state = true;
        let state = StateFile::create(path.join(files::STATE))?;
        let database = NewDatabase::create(path, cache_bytes)?;
        Ok(Self { database, seed: new_seed()?, state, place, ages: Vec::new() })
    }

    /// What fingerprints are made with.
    pub(crate) fn seed(&self) -> Seed {
        Seed::new(&self.seed)
    }

    pub(crate) fn put_zone(&self, zone: &str) -> Result<()> {
        self.database.put_meta(meta::ZONE, &zone)
    }

    pub(crate) fn put_note(&self, name: &str, text: &str) -> Result<()> {
        let rows = NoteRow::encode_all(name, text);
        rows.into_iter().try_for_each(|(row, value)| put(&self.database.trees.meta, row, &value))
    }

    pub(crate) fn put_entry(&mut self, entry: &CheckedEntry<'_>) -> Result<()> {
        let CheckedEntry { record, key, hot, cold, .. } = entry;
        let trees = &self.database.trees;
        let place = Seed::new(&self.seed).fingerprint(key);
        for part in &record.parts {
            for (row, value) in ExtrasRow::encode_all(place, part.generation, part.bytes) {
                put(&trees.extras, row, &value)?;
            }
        }
        put(&trees.sessions, bytes(key), record.cold)?;
        put(&trees.activity, place.as_bytes(), &Activity::encode(key, hot).map_err(encode_error)?)?;
        put(&trees.by_session_id, IdRow::encode(&cold.session_id, place), &[])?;
        for (name, term) in &record.leases {
            put(&trees.leases, LeaseRow::encode(place, name), term)?;
        }
        record.turn.map_or(Ok(()), |turn| put(&trees.turns, place.as_bytes(), turn))?;
        self.ages.push(ActivityRow::of(hot, place));
        if self.ages.len() >= AGES { self.put_ages() } else { Ok(()) }
    }

    fn put_ages(&mut self) -> Result<()> {
        let tree = &self.database.trees.by_updated_at;
        self.ages.sort_unstable();
        ages::write(tree, ages::puts(tree, &self.ages)?)?;
        self.ages.clear();
        Ok(())
    }

    /// Makes the store durable and lets it appear. Its commit numbers go on after `commit`.
    pub(crate) fn finish(mut self, commit: u64, entries: u64) -> Result<()> {
        self.put_ages()?;
        let Self { mut place, seed, database, state, ages: _ } = self;
        database.put_marks(seed, commit, entries)?;
        database.close()?.install()?;
        (place.directory.is_ours, place.directory.has_state) = (false, false);
        // It is a whole store without this too.
        let mark = Some(Mark { commit, count: entries });
        let written = state.note(Left { state: State::Closed, synced: None, mark });
        if let Err(error) = written.and_then(|()| state.sync()) {
            tracing::warn!(error = &error as &dyn std::error::Error, "the state file says nothing yet");
        }
        Ok(())
    }
}

/// Whether a store can be made at `path`: nothing is there, or an empty directory. Changes nothing.
pub(crate) fn nothing_at(path: &Path) -> Result<()> {
    look(path).map(drop)
}

fn look(path: &Path) -> Result<Found> {
    match files::inspect(path)? {
        Found::Store => Err(parts::occupied(path)),
        found => Ok(found),
    }
}

/// The directory of the store. Taken away again if it was made for nothing.
struct NewDirectory {
    path: PathBuf,
    is_ours: bool,
    has_state: bool,
}

impl Drop for NewDirectory {
    fn drop(&mut self) {
        if fork::is_child() {
            return;
        }
        if self.has_state {
            let _ = fs::remove_file(self.path.join(files::STATE));
        }
        if self.is_ours {
            let _ = fs::remove_file(self.path.join(files::LOCK));
            // What somebody else put there stays, and the directory with it.
            let _ = fs::remove_dir(&self.path);
        }
    }
}
