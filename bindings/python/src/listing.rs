//! Iterators over keys and entries. They read a few hundred at a time, without the interpreter.

use std::sync::{Mutex, PoisonError};

use cloakroom::{prefix, query};
use pyo3::prelude::*;

use crate::entry::Entry;
use crate::error::OrRaise;
use crate::open::Busy;

/// Keys in key order.
#[pyclass(frozen, module = "cloakroom_store._core")]
pub(crate) struct Keys {
    pub(crate) inner: Mutex<prefix::Keys>,
}

/// Entries, newest first.
#[pyclass(frozen, module = "cloakroom_store._core")]
pub(crate) struct Entries {
    pub(crate) inner: Mutex<query::Entries>,
}

#[pymethods]
impl Keys {
    fn __iter__(slf: PyRef<'_, Self>) -> PyRef<'_, Self> {
        slf
    }

    fn __next__(&self, py: Python<'_>) -> PyResult<Option<String>> {
        let _busy = Busy::new();
        let next = py.detach(|| self.inner.lock().unwrap_or_else(PoisonError::into_inner).next());
        Ok(next.transpose().or_raise(py)?.map(|key| key.as_str().to_owned()))
    }
}

#[pymethods]
impl Entries {
    fn __iter__(slf: PyRef<'_, Self>) -> PyRef<'_, Self> {
        slf
    }

    fn __next__(&self, py: Python<'_>) -> PyResult<Option<Entry>> {
        let _busy = Busy::new();
        let next = py.detach(|| self.inner.lock().unwrap_or_else(PoisonError::into_inner).next());
        Ok(next.transpose().or_raise(py)?.map(Entry::from))
    }
}
