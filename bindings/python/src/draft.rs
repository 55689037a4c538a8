//! [`Draft`]: an entry in the making.

use std::collections::BTreeMap;

use cloakroom::chrono::{DateTime, Utc};
use cloakroom::{SessionEntry, SessionId, SessionStore};
use pyo3::prelude::*;

use crate::convert::datetime;
use crate::error::OrRaise;
use crate::fields::{self, entry_getters, origin};
use crate::json::{loads, text};

/// An entry in the making, as `modify` hands it to its callable: its fields can be set.
///
/// >>> def suspends(draft):
/// ...     draft.suspended = True
/// >>> store.modify(key, suspends).entry.suspended
/// True
#[pyclass(module = "cloakroom_store")]
pub(crate) struct Draft {
    pub(crate) entry: SessionEntry,
    pub(crate) is_new: bool,
    pub(crate) extras: BTreeMap<String, Option<String>>,
    /// `None` once the callable has returned.
    pub(crate) store: Option<SessionStore>,
}

impl Draft {
    fn entry(&self) -> &SessionEntry {
        &self.entry
    }
}

entry_getters! { Draft {
    /// Whether the key has no entry yet.
    #[getter]
    fn is_new(&self) -> bool {
        self.is_new
    }

    /// One of the extras, as it is to be; `default` where there is none.
    ///
    /// >>> store.modify(key, lambda draft: print(draft.extra("model", "small"))).outcome
    /// small
    /// 'changed'
    #[pyo3(signature = (name, default=None))]
    fn extra<'py>(
        &self,
        py: Python<'py>,
        name: &str,
        default: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        let text = match (self.extras.get(name), &self.store) {
            (Some(changed), _) => changed.clone(),
            (None, Some(store)) if !self.is_new => py.detach(|| store.extra(&self.entry.key, name)).or_raise(py)?,
            (None, _) => None,
        };
        text.map_or(Ok(default), |text| loads(py, &text).map(Some))
    }

    /// Sets one of the extras to a value that JSON can hold.
    ///
    /// >>> _ = store.modify(key, lambda draft: draft.set_extra("model", "large"))
    /// >>> store.extra(key, "model")
    /// 'large'
    fn set_extra(&mut self, name: String, value: &Bound<'_, PyAny>) -> PyResult<()> {
        self.extras.insert(name, Some(text(value)?));
        Ok(())
    }

    /// Removes one of the extras.
    ///
    /// >>> _ = store.modify(key, lambda draft: draft.remove_extra("model"))
    fn remove_extra(&mut self, name: String) {
        self.extras.insert(name, None);
    }

    fn __setattr__(&mut self, name: &str, value: &Bound<'_, PyAny>) -> PyResult<()> {
        fields::set(&mut self.entry, name, value)
    }

    fn __repr__(&self) -> String {
        format!("<Draft of {}>", self.entry.key)
    }
}}
