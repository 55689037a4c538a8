//! [`Hub`]: how an event loop learns of commits, without a thread of the store ever calling Python.
//!
//! A waker puts a number into a list and, if the list was empty, a byte into a pipe. The loop watches the pipe and takes
//! the list. The byte is written and read with the list locked: there is one in the pipe if and only if the list is not
//! empty, so neither side ever blocks. In a forked process, whose pipe is the parent's too, the list stays empty, and nothing is
//! read that the parent waits for.

use std::collections::HashMap;
use std::future::Future;
use std::io::{PipeReader, PipeWriter, Read, Write, pipe};
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use pyo3::prelude::*;

use crate::error::OrRaise;
use crate::receipt::Receipt;

/// One event loop's pipe. Both ends live as long as the last waker, so a waker never writes into a broken one.
#[pyclass(frozen, module = "cloakroom_store._core")]
pub(crate) struct Hub {
    shared: Arc<Shared>,
    watched: Mutex<HashMap<u64, cloakroom::Receipt>>,
}

struct Shared {
    reader: PipeReader,
    writer: PipeWriter,
    done: Mutex<Vec<u64>>,
}

struct Bell {
    number: u64,
    shared: Arc<Shared>,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        let mut done = lock(&self.shared.done);
        if done.is_empty() {
            // It has room for one byte. Were it broken, nobody would be left to be told.
            let _ = (&self.shared.writer).write_all(&[0]);
        }
        done.push(self.number);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[pymethods]
impl Hub {
    #[new]
    fn new() -> PyResult<Self> {
        let (reader, writer) = pipe()?;
        let shared = Shared { reader, writer, done: Mutex::default() };
        Ok(Self { shared: Arc::new(shared), watched: Mutex::default() })
    }

    /// What the loop is to watch.
    fn fileno(&self) -> i32 {
        self.shared.reader.as_raw_fd()
    }

    /// Whether the receipt's commit is durable. If it is not, `number` will be among what is taken once it is.
    fn watch(&self, py: Python<'_>, receipt: &Receipt, number: u64) -> PyResult<bool> {
        let mut inner = receipt.inner.clone();
        let waker = Waker::from(Arc::new(Bell { number, shared: Arc::clone(&self.shared) }));
        match py.detach(|| Pin::new(&mut inner).poll(&mut Context::from_waker(&waker))) {
            Poll::Ready(outcome) => outcome.or_raise(py).map(|()| true),
            Poll::Pending => {
                lock(&self.watched).insert(number, inner);
                Ok(false)
            }
        }
    }

    /// The numbers of what has become durable, or has failed, since the last call.
    fn take(&self) -> Vec<u64> {
        let taken = {
            let mut done = lock(&self.shared.done);
            if !done.is_empty() {
                let _ = (&self.shared.reader).read_exact(&mut [0]);
            }
            std::mem::take(&mut *done)
        };
        let mut watched = lock(&self.watched);
        for number in &taken {
            watched.remove(number);
        }
        taken
    }
}
