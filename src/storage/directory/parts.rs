//! Whether a store has all of its parts.
//!
//! An interrupted copy, a disk that is not mounted or a careless hand may leave some of them. sled would make a new,
//! empty database in the place of a lost one, and all sessions would be forgotten without a word. So a part that is missing
//! is damage, and reported before anything is written, with how many entries there had been.
//!
//! | missing | what happens |
//! | --- | --- |
//! | `sled`, or a file in it that every database has | damage |
//! | `state`, or what it held | damage, for nobody can tell then whether the database is whole; a repair makes it anew |
//! | sled's snapshot | sled reads its whole log instead |
//! | `sled/blobs` | it is made again: nothing is ever in it |
//! | `LOCK`, `ballast` | they are made again |

use std::fs;
use std::io;
use std::path::Path;

use super::files::Found;
use super::lock::Lock;
use super::state::{Mark, State, StateFile};
use super::{access, files, swap};
use crate::error::{Error, Result};

/// Looks whether all parts are there, and answers the state file and what was put right, in words; `None` if there are none.
/// With `repair` a lost state is made anew.
///
/// Call it with the store locked: a compaction may be at work otherwise.
pub(in crate::storage) fn gather(store: &Path, lock: &Lock, repair: bool) -> Result<Option<(StateFile, Vec<String>)>> {
    let database = files::database(store);
    let state = StateFile::open(store.join(files::STATE))?;
    let mark = state.as_ref().and_then(|state| state.found().mark);
    let damaged = |what: String| {
        let source = format!("{what}{}", entries_there_were(mark)).into();
        Err(Error::Damaged { path: database.clone(), source })
    };
    let Some(meta) = metadata(&database)? else {
        if let Ok(target) = fs::read_link(&database) {
            return damaged(format!(
                "it is a link to {}, and nothing is there: is that disk mounted",
                target.display()
            ));
        }
        let is_left = lock.had_store() || store.join(files::BALLAST).exists();
        if is_left || state.is_some_and(|state| !state.is_blank()) {
            return damaged("it is gone; move what is left of the store away before another is made here".into());
        }
        return Ok(None);
    };
    if !meta.is_dir() {
        return damaged("it is a file, not a directory".into());
    }
    for name in ["conf", "db"] {
        let file = database.join(name);
        if metadata(&file)?.is_none_or(|meta| meta.len() == 0) {
            return damaged(format!("{} is missing or empty", file.display()));
        }
    }
    let mut repairs = Vec::new();
    let state = match state.filter(|state| !state.is_damaged()) {
        Some(state) => state,
        None if !repair => return Err(no_state(store)),
        None => {
            let state = StateFile::create(store.join(files::STATE))?;
            // Nobody knows how the last process that had the store left it.
            state.set(State::Failed)?;
            files::sync_directory(store)?;
            repairs.push("made the state file anew, which was lost".into());
            state
        }
    };
    let blobs = database.join("blobs");
    if metadata(&blobs)?.is_none() {
        // sled would make it under the umask.
        access::private_directory(&blobs)?;
        repairs.push("made sled/blobs again, which is always empty".into());
    }
    Ok(Some((state, repairs)))
}

fn no_state(store: &Path) -> Error {
    let source = format!(
        "{} is missing or does not decode, so the database may be a part of a copy: copy the whole store again, or repair \
         it if what it holds is all there was",
        store.join(files::STATE).display()
    );
    Error::Damaged { path: files::database(store), source: source.into() }
}

/// Why no store can be made where something is: there is one, or what is left of one.
pub(in crate::storage) fn occupied(store: &Path) -> Error {
    let exists = || Error::StoreExists { path: store.to_path_buf() };
    if files::database(store).exists() {
        return exists();
    }
    // The process that has it locked may be putting the database in its place.
    let look = || {
        // It is only looked at.
        access::check(store, &Found::Store, true)?;
        let lock = Lock::take(store)?;
        if swap::is_set_aside(store)? { Ok(None) } else { gather(store, &lock, false) }
    };
    match look() {
        Ok(_) | Err(Error::Locked { .. }) => exists(),
        Err(error) => error,
    }
}

fn entries_there_were(mark: Option<Mark>) -> String {
    mark.map_or(String::new(), |mark| format!("; {} entries had been synced, up to commit {}", mark.count, mark.commit))
}

fn metadata(path: &Path) -> Result<Option<fs::Metadata>> {
    match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        found => found.map(Some).map_err(|e| Error::io("look at", path, e)),
    }
}
