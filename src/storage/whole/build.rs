//! A database in the making, beside the store's own and under a name that no opening takes for it. Nobody else sees it,
//! so it needs no transactions and no order of writes: it is filled, closed, synced, and only then gets its name.

use crate::storage::engine::change::encode_error;
use std::fs;
use std::path::{Path, PathBuf};

use crate::codec::encode_meta;
use crate::error::{Error, Result};
use crate::fork;
use crate::storage::directory::{access, files, swap};
use crate::storage::engine::trees::{FORMAT, LastHandle, Trees, engine_error, meta, open_database, open_trees, put};
use crate::storage::engine::waker::FlushWaker;

/// A new database that is open.
pub(in crate::storage) struct NewDatabase {
    // In the order in which they go: the last handle after all others, and the files after it.
    waker: FlushWaker,
    pub(in crate::storage) trees: Trees,
    last: LastHandle,
    files: NewFiles,
}

/// The files of a new database. They go when this is dropped, unless they got their name.
pub(in crate::storage) struct NewFiles {
    path: PathBuf,
    store: PathBuf,
}

impl NewDatabase {
    /// An empty database under a temporary name in the directory of `store`.
    pub(in crate::storage) fn create(store: &Path, cache_bytes: u64) -> Result<Self> {
        let files = NewFiles { path: files::new_database(store)?, store: store.to_path_buf() };
        access::private_directory(&files.path)?;
        // sled would make it under the umask.
        access::private_directory(&files.path.join("blobs"))?;
        Self::open(files, cache_bytes)
    }

    /// Opens one that was closed.
    pub(in crate::storage) fn open(files: NewFiles, cache_bytes: u64) -> Result<Self> {
        let last;
        let db = open_database(&files.store, &files.path, cache_bytes)?;
        last = LastHandle::of(&db);
        let trees = open_trees(&db)?;
        let waker = FlushWaker::start(db).map_err(|e| Error::io("start a thread for", &files.path, e))?;
        Ok(Self { waker, trees, last, files })
    }

    /// Writes what every database has besides its entries.
    pub(in crate::storage) fn put_marks(&self, seed: [u8; 16], commit: u64, count: u64) -> Result<()> {
        self.put_meta(meta::FORMAT, &FORMAT)?;
        self.put_meta(meta::SEED, &seed)?;
        self.put_meta(meta::COUNT, &count)?;
        self.put_meta(meta::COMMIT, &commit)
    }

    pub(in crate::storage) fn put_meta<T: serde::Serialize>(&self, name: &'static str, value: &T) -> Result<()> {
        put(&self.trees.meta, name, &encode_meta(value).map_err(encode_error)?)
    }

    /// Writes it out and closes it. It is not synced yet.
    pub(in crate::storage) fn close(self) -> Result<NewFiles> {
        self.waker.watch(|| self.trees.meta.flush()).map_err(|e| engine_error("write", e))?;
        let Self { waker, trees, mut last, files } = self;
        drop((waker, trees));
        // sled syncs while it is dropped. If that fails no later sync saves what it wrote.
        last.close().map_err(|said| Error::Engine { action: "close the new database", source: said.into() })?;
        Ok(files)
    }
}

impl NewFiles {
    /// Makes the database durable and gives it its name, which is free.
    pub(in crate::storage) fn install(self) -> Result<()> {
        swap::install(&self.path, &self.store)
    }

    /// Makes the database durable and puts it in the place of the one there is.
    pub(in crate::storage) fn take_over(self) -> Result<()> {
        swap::swap(&self.path, &self.store)
    }
}

impl Drop for NewFiles {
    /// A full disk is the likely cause of a failure; half a database is not to stay on it. After a renaming there is
    /// nothing under this name.
    fn drop(&mut self) {
        if !fork::is_child() {
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}
