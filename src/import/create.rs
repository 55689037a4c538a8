//! [`SessionStore::create_from`].
//!
//! ```text
//! caller's thread: read, split, parse, encode ── batches ──► writer's thread: rows into a hidden database
//!                                            ◄─ emptied ──
//! ```

use std::io::Read;
use std::path::{Path, PathBuf};
use std::thread;

use crossbeam_channel::{Receiver, Sender, bounded};

use super::input::{Input, Once};
use super::options::{ImportOptions, OnConflict};
use super::read::ReadEntry;
use super::report::{ImportProgress, ImportReport};
use super::run::Run;
use super::target::{Fate, Nowhere, Target};
use crate::codec::{AS_IMPORTED, COMMIT_SHIFT, Fingerprint, Seed};
use crate::config::Options;
use crate::entry::Revision;
use crate::error::{Error, Result, panic_message};
use crate::random;
use crate::rules::records;
use crate::storage::{Batch, Loaded, NewStore, nothing_at};
use crate::store::SessionStore;
use crate::time::Timestamp;

/// The sizes of the first batch and of the largest, in bytes; each is twice the one before. So the writer has something
/// to do early, and later many rows of a batch share a leaf.
const FIRST_BATCH_BYTES: usize = 1 << 10;
const MAX_BATCH_BYTES: usize = 8 << 20;
/// Batches there are: one is filled, one waits, one is written.
const BATCHES: usize = 3;
/// The number of the first extras.
const FIRST_GENERATION: u64 = 1 << COMMIT_SHIFT;

impl SessionStore {
    /// Makes a store at the path of `options` from a gateway's `sessions.json`, and leaves it closed.
    ///
    /// It has the same outcome as an [`import`](SessionStore::import) into an empty store, entries, notes, time zone,
    /// report and quarantine, in half of the processor's time: nothing needs to be committed on the way.
    ///
    /// The store appears under its name when all of it is on disk. Killed, or cut off from power, before that, there
    /// is none, but for a directory and files in it that the next attempt, or the next opening that makes a store,
    /// removes. After an error nothing is left behind, but for a lock file in a directory that was there. A bad entry
    /// is no error, nor is a file that is damaged or cut off: see `import`.
    ///
    /// Of `options` the path, the trust in a group, the size of the cache and the clock count. With a cache of 24 MiB it
    /// took 80 MB of memory for a file of 100 MB, and 200 MB for one of 1 GiB: sled keeps something of each page in
    /// memory. A [dry run](ImportOptions::dry_run) makes nothing, and remembers about 40 bytes for each entry of the file.
    ///
    /// ```
    /// use cloakroom::import::ImportOptions;
    /// use cloakroom::{Options, SessionStore};
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("sessions.db");
    /// let file = r#"{"agent:main:discord:dm:1234": {"session_id": "20260612_000653_3f9a01c2",
    ///     "created_at": "2026-06-12T00:06:53", "updated_at": "2026-06-12T00:07:04.247913"}}"#;
    /// let options = Options::new(&path);
    /// let report = SessionStore::create_from(options.clone(), file.as_bytes(), ImportOptions::new(), |_| {})?;
    /// assert_eq!(report.imported, 1);
    /// assert_eq!(SessionStore::open(options)?.len(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::StoreExists`], before anything of the input is read; then `import` is the way. [`Error::NotAStore`],
    /// [`Error::Damaged`] where a part of a store is left, [`Error::Locked`], [`Error::Exposed`] and
    /// [`Error::PermissionDenied`] as when a store is opened.
    /// [`Error::NotASessionFile`] and [`Error::ClockBehind`] as by `import`, and [`Error::Io`] and its like if the
    /// input, the quarantine or the disk fails.
    pub fn create_from(
        options: Options,
        input: impl Read,
        import: ImportOptions<'_>,
        progress: impl FnMut(&ImportProgress),
    ) -> Result<ImportReport> {
        Self::create_of(options, Once(Some(input)), import, progress)
    }

    /// [`create_from`](Self::create_from) a file or another input.
    pub(super) fn create_of(
        options: Options,
        mut input: impl Input,
        import: ImportOptions<'_>,
        mut progress: impl FnMut(&ImportProgress),
    ) -> Result<ImportReport> {
        options.check()?;
        let now = options.clock.now();
        if import.dry_run {
            nothing_at(&options.path)?;
            let mut run = Run::new(Nowhere::default(), import, now, None);
            input.feed(&mut run, &mut progress)?;
            run.judge()?;
            return run.end(&mut progress);
        }
        let store = NewStore::create(&options.path, options.cache_bytes, options.trust_group)?;
        let (orders, writer_orders) = bounded(1);
        let (writer_emptied, emptied) = bounded(BATCHES);
        let building = &store;
        let (mut run, loaded) = thread::scope(|scope| {
            // Its end of the channel goes with it, if `progress` panics: the writer would be waited for for ever.
            let load = Load::new(&options.path, building.seed(), import.on_conflict, orders, emptied);
            let mut run = Run::new(load, import, now, None);
            let writer = thread::Builder::new()
                .name("cloakroom-load".into())
                .spawn_scoped(scope, move || write(building, writer_orders, writer_emptied))
                .map_err(|e| Error::io("start a thread for", &options.path, e))?;
            let read = input.feed(&mut run, &mut progress).and_then(|()| run.target.send_batch());
            run.target.orders = None;
            let written = writer
                .join()
                .unwrap_or_else(|panic| Err(Error::Engine { action: "write", source: panic_message(&*panic).into() }));
            // Where the writer failed, the reader found nobody there, and has nothing to say.
            written.and_then(|loaded| read.map(|()| (run, loaded)))
        })?;
        run.judge()?;
        run.report.imported += loaded.created;
        run.report.duplicates += loaded.duplicates;
        // What is missing in the store is in the quarantine.
        run.flush_quarantine()?;
        store.finish(run.target.generation >> COMMIT_SHIFT, loaded.created)?;
        run.end(&mut progress)
    }
}

/// What is for the writer to do, in this order.
enum Order {
    Put(Batch),
    Note {
        name: String,
        text: String,
        first_stays: bool,
    },
    Zone(String),
    /// When the entry was active that is there by now.
    Activity(Fingerprint, Sender<Option<Timestamp>>),
}

/// A store in the making, from the reader's side.
struct Load {
    path: PathBuf,
    seed: Seed,
    generation: u64,
    on_conflict: OnConflict,
    batch: Batch,
    /// How large it may grow.
    batch_bytes: usize,
    /// `None` at the end; the writer ends then.
    orders: Option<Sender<Order>>,
    emptied: Receiver<Batch>,
}

impl Load {
    fn new(path: &Path, seed: Seed, on_conflict: OnConflict, orders: Sender<Order>, emptied: Receiver<Batch>) -> Self {
        Self {
            path: path.to_path_buf(),
            seed,
            generation: FIRST_GENERATION,
            on_conflict,
            batch: Batch::default(),
            batch_bytes: FIRST_BATCH_BYTES,
            orders: Some(orders),
            emptied,
        }
    }

    /// Sends what was read so far to the writer.
    fn send_batch(&mut self) -> Result<()> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let empty = self.emptied.recv().map_err(|_| self.gone())?;
        let full = std::mem::replace(&mut self.batch, empty);
        self.send(Order::Put(full))
    }

    fn send(&self, order: Order) -> Result<()> {
        self.orders.as_ref().and_then(|orders| orders.send(order).ok()).ok_or_else(|| self.gone())
    }

    /// The writer has failed, and tells why itself.
    fn gone(&self) -> Error {
        Error::Closed { path: self.path.clone() }
    }

    /// When the entry was active that the file had before for this key.
    fn activity(&mut self, place: Fingerprint) -> Result<Option<Timestamp>> {
        self.send_batch()?;
        let (answer, told) = bounded(1);
        self.send(Order::Activity(place, answer))?;
        told.recv().map_err(|_| self.gone())
    }
}

impl Target for Load {
    fn put(&mut self, read: ReadEntry, report: &mut ImportReport) -> Result<Fate> {
        let key = read.entry.key.clone();
        let place = self.seed.fingerprint(&key);
        let (mut hot, cold) = records(read.entry);
        hot.set(AS_IMPORTED, true);
        hot.revision = Revision::from_number(random::bits()?);
        match self.batch.push(place, &key, &hot, cold, &read.extras, &mut self.generation) {
            // One that is older than what came before is left out for that reason.
            Err(Error::TooLarge { .. }) if self.activity(place)?.is_some_and(|before| before > hot.updated_at) => {
                report.duplicates += 1;
            }
            pushed => pushed?,
        }
        if self.batch.size() >= self.batch_bytes {
            self.batch_bytes = MAX_BATCH_BYTES.min(2 * self.batch_bytes);
            self.send_batch()?;
        }
        // This one, or another of the file.
        Ok(Fate::In)
    }

    fn put_note(&mut self, name: String, text: String) -> Result<bool> {
        self.send(Order::Note { name, text, first_stays: self.on_conflict == OnConflict::Keep }).map(|()| true)
    }

    fn put_zone(&mut self, zone: String) -> Result<()> {
        self.send(Order::Zone(zone))
    }
}

/// The writer's thread. It ends when there are no more orders, and at the first error.
fn write(store: &NewStore, orders: Receiver<Order>, emptied: Sender<Batch>) -> Result<Loaded> {
    for _ in 1..BATCHES {
        // There is room for all of them.
        let _ = emptied.try_send(Batch::default());
    }
    let mut loaded = Loaded::default();
    for order in orders {
        match order {
            Order::Put(mut batch) => {
                loaded.add(store.put_batch(&batch)?);
                batch.clear();
                // The reader may have failed.
                let _ = emptied.try_send(batch);
            }
            Order::Note { name, text, first_stays } => store.replace_note(&name, &text, first_stays)?,
            Order::Zone(zone) => store.put_zone(&zone)?,
            Order::Activity(place, answer) => {
                let _ = answer.send(store.activity(place)?);
            }
        }
    }
    Ok(loaded)
}
