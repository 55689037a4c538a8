//! [`Watcher`]: pruning in the background.

use std::sync::{Arc, PoisonError};

use cloakroom::live::LiveOptions;
use cloakroom::serde_json::{Value, json};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;

use crate::convert::python;
use crate::open::Part;

/// Prunes at once and then at intervals, on a thread of its own, until it is stopped or the store is closed. It asks nobody:
/// leases protect. A context manager.
///
/// >>> with store.watch(90) as watcher:
/// ...     watcher.status().failures
/// 0
#[pyclass(frozen, module = "cloakroom_store")]
pub(crate) struct Watcher {
    pub(crate) inner: Arc<Part<cloakroom::Watcher>>,
}

impl Watcher {
    /// A view that shows it, and prunes as it does.
    pub(crate) fn seen_by(&self, options: LiveOptions) -> PyResult<LiveOptions> {
        match &*self.inner.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(watcher) => Ok(options.watcher(watcher)),
            None => Err(PyValueError::new_err("the watcher was stopped")),
        }
    }
}

#[pymethods]
impl Watcher {
    /// Asks for a pass now, and does not wait for it.
    ///
    /// >>> store.watch(90).prune_now()
    fn prune_now(&self) {
        if let Some(watcher) = &*self.inner.lock().unwrap_or_else(PoisonError::into_inner) {
            watcher.prune_now();
        }
    }

    /// What has been done so far; None once it was stopped.
    ///
    /// >>> store.watch(90).status().held
    /// 0
    fn status<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let status = match &*self.inner.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(watcher) => watcher.status(),
            None => return Ok(None),
        };
        let value: Value = json!({
            "passes": status.passes,
            "failures": status.failures,
            "held": status.held,
            "last_run": status.last_run,
            "last_report": status.last_report,
            "last_failure": status.last_failure,
            "next_run": status.next_run,
        });
        python(py, "_reports", "make")?.call1(("WatcherStatus", value.to_string())).map(Some)
    }

    /// Ends the thread and waits for it: milliseconds. May be called again.
    ///
    /// >>> watcher = store.watch(90)
    /// >>> watcher.stop()
    fn stop(&self, py: Python<'_>) {
        let watcher = self.inner.lock().unwrap_or_else(PoisonError::into_inner).take();
        py.detach(move || drop(watcher));
    }

    fn __enter__(slf: PyRef<'_, Self>) -> PyRef<'_, Self> {
        slf
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__(&self, py: Python<'_>, _exception: &Bound<'_, PyAny>) {
        self.stop(py);
    }

    fn __reduce__(&self) -> PyResult<()> {
        Err(PyTypeError::new_err("a Watcher belongs to the process that opened the store"))
    }
}
