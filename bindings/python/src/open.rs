//! Stores of this process that are open, and how they close: by a call, at the end of a `with`, when nobody holds them any
//! more, or when the interpreter exits.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, Weak};
use std::thread;
use std::time::{Duration, Instant};

use cloakroom::{Error, SessionStore};
use pyo3::prelude::*;

use crate::error::OrRaise;

static OPEN: Mutex<Vec<Weak<Opening>>> = Mutex::new(Vec::new());
/// The process that opened the first store: its children have a copy of all this, and no threads.
static OPENER: OnceLock<u32> = OnceLock::new();
static NUMBERS: AtomicU64 = AtomicU64::new(0);
/// How many threads are in a verb.
static BUSY: AtomicUsize = AtomicUsize::new(0);
/// How long the exit waits for them. Only a guard or a change of the caller's own takes long.
const PATIENCE: Duration = Duration::from_secs(5);

/// A thread is in a verb as long as it has one of these.
///
/// An interpreter that exits ends each of its threads where it wants the interpreter back: by unwinding, from within, what is below.
/// In some versions that aborts the process where Rust is below. So the exit waits until nobody is in a verb any more, and
/// since the stores are closed by then nobody begins one.
pub(crate) struct Busy;

impl Busy {
    pub(crate) fn new() -> Self {
        BUSY.fetch_add(1, Ordering::AcqRel);
        Self
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        BUSY.fetch_sub(1, Ordering::AcqRel);
    }
}

/// What works for a store on a thread of its own, until it is stopped or the store is closed.
pub(crate) type Part<T> = Mutex<Option<T>>;

trait AnyPart: Send + Sync {
    fn end(&self);
    fn has_ended(&self) -> bool;
}

impl<T: Send> AnyPart for Part<T> {
    fn end(&self) {
        let part = lock(self).take();
        drop(part);
    }

    fn has_ended(&self) -> bool {
        lock(self).is_none()
    }
}

/// One handle of Python's on a store, until it is closed.
pub(crate) struct Opening {
    pub(crate) number: u64,
    pub(crate) path: PathBuf,
    /// Others of this process use the store too, so it is not this handle's to close.
    is_shared: bool,
    store: RwLock<Option<SessionStore>>,
    parts: Mutex<Vec<Arc<dyn AnyPart>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether this is a copy of the process that opened its stores.
pub(crate) fn is_child() -> bool {
    OPENER.get().is_some_and(|opener| *opener != std::process::id())
}

impl Opening {
    pub(crate) fn new(store: SessionStore, is_shared: bool) -> Arc<Self> {
        OPENER.get_or_init(std::process::id);
        let opening = Arc::new(Self {
            number: NUMBERS.fetch_add(1, Ordering::Relaxed),
            path: store.path().to_owned(),
            is_shared,
            store: RwLock::new(Some(store)),
            parts: Mutex::default(),
        });
        let mut open = lock(&OPEN);
        open.retain(|other| other.strong_count() > 0);
        open.push(Arc::downgrade(&opening));
        opening
    }

    /// The store, if it is open. Never waits: in a forked process whoever has the lock may not be there.
    pub(crate) fn store(&self) -> Result<SessionStore, Error> {
        let store = self.store.try_read().ok().and_then(|store| store.clone());
        store.ok_or_else(|| Error::Closed { path: self.path.clone() })
    }

    /// Has a part end with the store. It goes on when nobody in Python holds it any more.
    pub(crate) fn keep<T: Send + 'static>(&self, part: T) -> Arc<Part<T>> {
        let part = Arc::new(Mutex::new(Some(part)));
        let mut parts = lock(&self.parts);
        parts.retain(|other| !other.has_ended());
        parts.push(Arc::clone(&part) as Arc<dyn AnyPart>);
        part
    }

    /// Commits what is pending and gives the store back. A second call finds nothing to do.
    pub(crate) fn close(&self) -> Result<(), Error> {
        if is_child() {
            return Err(Error::Forked { path: self.path.clone() });
        }
        let parts = std::mem::take(&mut *lock(&self.parts));
        parts.iter().for_each(|part| part.end());
        let store = self.store.write().unwrap_or_else(PoisonError::into_inner).take();
        match store {
            Some(store) if self.is_shared => store.flush(),
            Some(store) => store.close(),
            None => Ok(()),
        }
    }
}

/// Closes all stores that are open, as the interpreter does when it exits. Raises the first error, and closes the others
/// all the same. In a forked process it does nothing: they are the parent's.
#[pyfunction]
pub(crate) fn close_all(py: Python<'_>) -> PyResult<()> {
    if is_child() {
        return Ok(());
    }
    let outcome = py.detach(|| {
        let open = std::mem::take(&mut *lock(&OPEN));
        let outcome = open.iter().filter_map(Weak::upgrade).map(|opening| opening.close()).fold(Ok(()), Result::and);
        let began = Instant::now();
        while BUSY.load(Ordering::Acquire) > 0 && began.elapsed() < PATIENCE {
            thread::sleep(Duration::from_millis(1));
        }
        outcome
    });
    outcome.or_raise(py)
}
