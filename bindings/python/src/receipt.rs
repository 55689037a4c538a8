//! [`Receipt`]: waiting until a change survives a power cut.

use std::time::{Duration, Instant};

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;

use crate::convert::{duration, python};
use crate::error::OrRaise;
use crate::open::Busy;

/// How long a wait goes on before it looks for signals, such as that of Ctrl-C.
const LOOK_FOR_SIGNALS: Duration = Duration::from_millis(100);

/// Proof that a change was taken, and the way to wait until it survives a power cut: `wait` in a thread, `await` in asyncio. In
/// trio, or in anyio over it: `await anyio.to_thread.run_sync(receipt.wait)`.
///
/// Whoever drops it accepts that a power cut may undo the last `commit_interval`.
///
/// >>> async def main():
/// ...     await store.touch(key)
/// >>> asyncio.run(main())
#[pyclass(frozen, module = "cloakroom_store")]
pub(crate) struct Receipt {
    pub(crate) inner: cloakroom::Receipt,
    /// Which opening it belongs to: commits are numbered by store.
    pub(crate) opening: u64,
}

#[pymethods]
impl Receipt {
    /// The number of the commit that takes the change.
    #[getter]
    fn commit(&self) -> u64 {
        self.inner.commit()
    }

    /// Tells the commits of several openings apart.
    #[getter]
    fn _opening(&self) -> u64 {
        self.opening
    }

    /// Whether the change survives a power cut by now. Starts no commit. Raises what `wait` would raise.
    #[getter]
    fn durable(&self, py: Python<'_>) -> PyResult<bool> {
        self.inner.is_durable().or_raise(py)
    }

    /// Waits until the change survives a power cut, or for `timeout` seconds: False means that they are over. Ctrl-C interrupts it.
    /// Raises ReadOnly if a write or a sync failed.
    ///
    /// >>> store.touch(key).wait(timeout=5.0)
    /// True
    #[pyo3(signature = (timeout=None))]
    fn wait(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<bool> {
        let _busy = Busy::new();
        let timeout = timeout.map(|seconds| duration(seconds, "timeout")).transpose()?.flatten();
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        loop {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let slice = left.unwrap_or(LOOK_FOR_SIGNALS).min(LOOK_FOR_SIGNALS);
            if py.detach(|| self.inner.wait_timeout(slice)).or_raise(py)? {
                return Ok(true);
            }
            py.check_signals()?;
            if left.is_some_and(|left| left <= slice) {
                return Ok(false);
            }
        }
    }

    fn __await__<'py>(slf: Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        python(slf.py(), "_waiting", "wait")?.call1((slf,))
    }

    fn __repr__(&self) -> String {
        let state = match self.inner.is_durable() {
            Ok(true) => "durable",
            Ok(false) => "pending",
            Err(_) => "failed",
        };
        format!("<Receipt of commit {}, {state}>", self.inner.commit())
    }

    fn __reduce__(&self) -> PyResult<()> {
        Err(PyTypeError::new_err("a Receipt belongs to the process that opened the store: wait for it there"))
    }
}
