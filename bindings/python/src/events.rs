//! [`Events`]: what becomes of sessions, as an iterator and as an asynchronous one.
//!
//! For event loops a thread takes the events from the store's channel into a short queue and writes a byte into a pipe, as
//! the hub's wakers do. It never calls Python, and ends soon after nobody holds the events any more.

use std::collections::VecDeque;
use std::io::{PipeReader, PipeWriter, Read, Write, pipe};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use std::{process, thread};

use cloakroom::events::{Event, Nothing};
use pyo3::exceptions::{PyRuntimeError, PyTypeError};
use pyo3::prelude::*;

use crate::convert::{python, report};

/// How long a wait goes on before it looks for signals, or whether it is still wanted.
const LOOK: Duration = Duration::from_millis(100);
/// How many events the queue of a loop holds. What is beyond waits in the store's channel, which drops what it has no room for.
const QUEUE: usize = 64;

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
    inner: Arc<cloakroom::events::Events>,
    queue: Mutex<Option<Arc<Queue>>>,
    is_awaited: AtomicBool,
    /// A copy of this in another process has no thread, and locks that nobody opens.
    process: u32,
}

struct Queue {
    reader: PipeReader,
    writer: PipeWriter,
    state: Mutex<State>,
    has_room: Condvar,
}

/// There is a byte in the pipe if and only if there is an event, or the end.
#[derive(Default)]
struct State {
    events: VecDeque<Event>,
    has_ended: bool,
}

impl State {
    fn says_nothing(&self) -> bool {
        self.events.is_empty() && !self.has_ended
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Queue {
    fn add(&self, change: impl FnOnce(&mut State)) {
        let mut state = lock(&self.state);
        if state.says_nothing() {
            // It has room for one byte. Were it broken, nobody would be left to be told.
            let _ = (&self.writer).write_all(&[0]);
        }
        change(&mut state);
    }

    /// The next event; otherwise whether there will be none.
    fn next(&self) -> Result<Event, bool> {
        let mut state = lock(&self.state);
        let next = state.events.pop_front().ok_or(state.has_ended)?;
        if state.says_nothing() {
            let _ = (&self.reader).read_exact(&mut [0]);
        }
        self.has_room.notify_one();
        Ok(next)
    }
}

/// What the thread does.
fn forward(events: &cloakroom::events::Events, queue: &Weak<Queue>) {
    while let Some(queue) = queue.upgrade() {
        let state = lock(&queue.state);
        if state.events.len() >= QUEUE {
            let _ = queue.has_room.wait_timeout(state, LOOK);
            continue;
        }
        drop(state);
        match events.recv_timeout(LOOK) {
            Ok(event) => queue.add(|state| state.events.push_back(event)),
            Err(Nothing::Yet) => {}
            Err(_) => return queue.add(|state| state.has_ended = true),
        }
    }
}

impl Events {
    pub(crate) fn new(inner: cloakroom::events::Events) -> Self {
        Self {
            inner: Arc::new(inner),
            queue: Mutex::default(),
            is_awaited: AtomicBool::new(false),
            process: process::id(),
        }
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
        if lock(&self.queue).is_some() {
            return Err(PyRuntimeError::new_err("these events are read in an event loop: use `async for`"));
        }
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
        let next = self.queue()?.next();
        match next {
            Ok(event) => Ok((Some(report(py, "Event", &event)?), false)),
            Err(has_ended) => Ok((None, has_ended)),
        }
    }

    /// Begins a wait: what the loop is to watch.
    fn _watch(&self) -> PyResult<i32> {
        if self.is_awaited.swap(true, Ordering::AcqRel) {
            return Err(PyRuntimeError::new_err("another task waits for these events: give each its own"));
        }
        Ok(self.queue()?.reader.as_raw_fd())
    }

    /// Ends it.
    fn _unwatch(&self) {
        self.is_awaited.store(false, Ordering::Release);
    }

    fn __reduce__(&self) -> PyResult<()> {
        Err(PyTypeError::new_err("Events belong to the process that opened the store: listen there"))
    }
}

impl Events {
    fn is_child(&self) -> bool {
        self.process != process::id()
    }

    fn queue(&self) -> PyResult<Arc<Queue>> {
        let mut made = lock(&self.queue);
        if let Some(queue) = &*made {
            return Ok(Arc::clone(queue));
        }
        let (reader, writer) = pipe()?;
        let queue = Queue { reader, writer, state: Mutex::default(), has_room: Condvar::new() };
        let queue = Arc::new(queue);
        let (events, weak) = (Arc::clone(&self.inner), Arc::downgrade(&queue));
        thread::Builder::new().name("cloakroom-feed".into()).spawn(move || forward(&events, &weak))?;
        *made = Some(Arc::clone(&queue));
        Ok(queue)
    }
}
