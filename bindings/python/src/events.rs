//! [`Events`]: what becomes of sessions, as an iterator and as an asynchronous one.
//!
//! For event loops the store's bell writes a byte into a pipe, on the thread that made the change, as the hub's wakers do. It never
//! calls Python, and nothing runs while there is nothing to tell.

use std::io::{PipeReader, PipeWriter, Read, Write, pipe};
use std::os::fd::AsRawFd;
use std::process;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use cloakroom::events::{EventOptions, Nothing};
use pyo3::exceptions::{PyRuntimeError, PyTypeError};
use pyo3::prelude::*;

use crate::convert::{python, report};
use crate::open::Busy;

/// How long a wait in a thread goes on before it looks for signals.
const LOOK: Duration = Duration::from_millis(100);

/// What becomes of sessions, from the call of `events` on. An iterator that waits for each event and ends when the store is
/// closed; in asyncio an asynchronous one. Be one or the other: once it was read in a loop, it is read there.
///
/// >>> events = store.events()
/// >>> _ = store.suspend(key)
/// >>> store.close()
/// >>> [event.event for event in events]
/// ['suspended']
#[pyclass(frozen, module = "cloakroom_store")]
pub(crate) struct Events {
    inner: cloakroom::events::Events,
    bell: Arc<Bell>,
    is_awaited: AtomicBool,
}

/// Tells an event loop that there is something to take. There is a byte in the pipe if and only if it rings.
struct Bell {
    /// None until the events are read in a loop.
    pipe: OnceLock<(PipeReader, PipeWriter)>,
    rings: AtomicBool,
    /// A copy of this in another process shares the pipe, and is not to write to it.
    process: u32,
}

impl Bell {
    fn ring(&self) {
        let Some((_, writer)) = self.pipe.get() else { return };
        if self.process == process::id() && !self.rings.swap(true, Ordering::AcqRel) {
            // It has room for one byte. Were it broken, nobody would be left to be told.
            let _ = (&*writer).write_all(&[0]);
        }
    }

    /// Silences it. Whether it was ringing: then look once more, for what came in between.
    fn silence(&self) -> bool {
        let Some((reader, _)) = self.pipe.get() else { return false };
        let was_ringing = self.rings.load(Ordering::Acquire);
        if was_ringing {
            let _ = (&*reader).read_exact(&mut [0]);
            self.rings.store(false, Ordering::Release);
        }
        was_ringing
    }
}

/// The store's hold on a bell: that it is let go is rung, too, since no event will come then.
struct Rope(Arc<Bell>);

impl Drop for Rope {
    fn drop(&mut self) {
        self.0.ring();
    }
}

impl Events {
    pub(crate) fn new(store: &cloakroom::SessionStore, options: EventOptions) -> Self {
        let bell = Arc::new(Bell { pipe: OnceLock::new(), rings: AtomicBool::new(false), process: process::id() });
        let rope = Rope(Arc::clone(&bell));
        let inner = store.events_with_bell(options, move || rope.0.ring());
        Self { inner, bell, is_awaited: AtomicBool::new(false) }
    }

    fn is_child(&self) -> bool {
        self.bell.process != process::id()
    }
}

#[pymethods]
impl Events {
    /// How many events were dropped because those before had not been taken: no writer ever waits for a reader.
    #[getter]
    fn dropped(&self) -> u64 {
        self.inner.dropped()
    }

    fn __iter__(slf: PyRef<'_, Self>) -> PyRef<'_, Self> {
        slf
    }

    fn __next__<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        if self.is_child() {
            return Ok(None);
        }
        if self.bell.pipe.get().is_some() {
            return Err(PyRuntimeError::new_err("these events are read in an event loop: use `async for`"));
        }
        let _busy = Busy::new();
        loop {
            match py.detach(|| self.inner.recv_timeout(LOOK)) {
                Ok(event) => return report(py, "Event", &event).map(Some),
                Err(Nothing::Yet) => py.check_signals()?,
                Err(_) => return Ok(None),
            }
        }
    }

    fn __aiter__<'py>(slf: Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        python(slf.py(), "_waiting", "Stream")?.call1((slf,))
    }

    /// The next event, if there is one, and whether there will be none any more.
    fn _next<'py>(&self, py: Python<'py>) -> PyResult<(Option<Bound<'py, PyAny>>, bool)> {
        if self.is_child() {
            return Ok((None, true));
        }
        loop {
            match self.inner.try_recv() {
                Ok(event) => return Ok((Some(report(py, "Event", &event)?), false)),
                Err(Nothing::Yet) if self.bell.silence() => {}
                Err(nothing) => return Ok((None, nothing != Nothing::Yet)),
            }
        }
    }

    /// Begins a wait: what the loop is to watch.
    fn _watch(&self) -> PyResult<i32> {
        if self.is_awaited.swap(true, Ordering::AcqRel) {
            return Err(PyRuntimeError::new_err("another task waits for these events: give each its own"));
        }
        if let Some((reader, _)) = self.bell.pipe.get() {
            return Ok(reader.as_raw_fd());
        }
        let made = pipe()?;
        // Only the one waiting loop comes here, so no other bell is made meanwhile. Events before it rang no bell.
        let (reader, _) = self.bell.pipe.get_or_init(|| made);
        self.bell.ring();
        Ok(reader.as_raw_fd())
    }

    /// Ends it.
    fn _unwatch(&self) {
        self.is_awaited.store(false, Ordering::Release);
    }

    fn __reduce__(&self) -> PyResult<()> {
        Err(PyTypeError::new_err("Events belong to the process that opened the store: listen there"))
    }
}
