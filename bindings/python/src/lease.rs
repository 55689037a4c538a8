//! [`Lease`]: a hold on an entry, for work in this process.

use std::sync::{Mutex, PoisonError};

use cloakroom::leases;
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;

/// Holds an entry until it is released, dropped, or the process ends. A context manager.
///
/// >>> with store.hold(key) as lease:
/// ...     lease.held
/// True
#[pyclass(frozen, module = "cloakroom_store")]
pub(crate) struct Lease {
    inner: Mutex<Option<leases::Lease>>,
}

impl Lease {
    pub(crate) fn new(lease: leases::Lease) -> Self {
        Self { inner: Mutex::new(Some(lease)) }
    }
}

#[pymethods]
impl Lease {
    /// Whether it holds an entry still: False once it was released, or the entry removed.
    #[getter]
    fn held(&self) -> bool {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).as_ref().is_some_and(leases::Lease::is_held)
    }

    /// Ends it. May be called again.
    ///
    /// >>> lease = store.hold(key)
    /// >>> lease.release()
    /// >>> lease.held
    /// False
    fn release(&self) {
        let lease = self.inner.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(lease);
    }

    fn __enter__(slf: PyRef<'_, Self>) -> PyRef<'_, Self> {
        slf
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__(&self, _exception: &Bound<'_, PyAny>) {
        self.release();
    }

    fn __repr__(&self) -> &'static str {
        if self.held() { "<Lease, held>" } else { "<Lease, ended>" }
    }

    fn __reduce__(&self) -> PyResult<()> {
        let text = "a Lease ends with the process that took it: take one with a name and an end by hold_until";
        Err(PyTypeError::new_err(text))
    }
}
