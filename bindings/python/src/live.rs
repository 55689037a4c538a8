//! [`Live`]: the view of a store that is open.
//!
//! Its threads are the store's and ask Python nothing: what protects entries are leases.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError};

use cloakroom::live;
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;

use crate::open::{Part, is_child};

/// A view of the store, for programs beside this one, until it or the store is closed. A context manager. In a forked process it
/// is not there.
///
/// >>> with store.serve_live() as live:
/// ...     live.closed
/// False
#[pyclass(frozen, module = "cloakroom_store")]
pub(crate) struct Live {
    pub(crate) inner: Arc<Part<live::Live>>,
    pub(crate) socket: PathBuf,
}

#[pymethods]
impl Live {
    /// Where the socket is: `live.sock` in the directory of the store, or elsewhere if its path is too long for one.
    #[getter]
    fn socket<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        py.import("pathlib")?.getattr("Path")?.call1((self.socket.as_os_str(),))
    }

    /// Whether it has ended, or is another process's.
    #[getter]
    fn closed(&self) -> bool {
        let has_ended = |live: &Option<live::Live>| live.as_ref().is_none_or(live::Live::has_ended);
        is_child() || has_ended(&self.inner.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Ends it, within a second: what is being answered is cut off then. May be called again.
    ///
    /// >>> live = store.serve_live()
    /// >>> live.close()
    /// >>> live.closed
    /// True
    fn close(&self, py: Python<'_>) {
        if is_child() {
            return;
        }
        py.detach(|| {
            let live = self.inner.lock().unwrap_or_else(PoisonError::into_inner).take();
            drop(live);
        });
    }

    fn __enter__(slf: PyRef<'_, Self>) -> PyRef<'_, Self> {
        slf
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__(&self, py: Python<'_>, _exception: &Bound<'_, PyAny>) {
        self.close(py);
    }

    fn __repr__(&self) -> String {
        let state = if self.closed() { ", closed" } else { "" };
        format!("<Live {:?}{state}>", self.socket)
    }

    fn __reduce__(&self) -> PyResult<()> {
        Err(PyTypeError::new_err("a Live belongs to the process that opened the store"))
    }
}
