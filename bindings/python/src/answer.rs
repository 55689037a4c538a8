//! What verbs answer.

use cloakroom::change::{Modified, Put, Removal, Repointed, Resolution, Written};
use pyo3::prelude::*;

use crate::entry::Entry;
use crate::receipt::Receipt;

/// What became of a change: a word, the entry as it is now, and the receipt if there was something to change.
///
/// >>> change = store.repoint(key, "run-2")
/// >>> change.outcome, change.receipt.wait()
/// ('switched', True)
#[pyclass(frozen, module = "cloakroom_store")]
pub(crate) struct Change {
    /// What became of it.
    #[pyo3(get)]
    outcome: &'static str,
    /// The entry as it is now; None if there is none.
    #[pyo3(get)]
    entry: Option<Py<Entry>>,
    /// Tells when the change is durable; None if nothing was changed.
    #[pyo3(get)]
    receipt: Option<Py<Receipt>>,
}

/// What `resolve` answers.
///
/// >>> found = store.resolve_as(key)
/// >>> found.outcome, found.reason
/// ('existing', None)
#[pyclass(frozen, module = "cloakroom_store")]
pub(crate) struct Resolved {
    /// "existing", "created" or "replaced".
    #[pyo3(get)]
    outcome: &'static str,
    /// The entry to work with.
    #[pyo3(get)]
    entry: Py<Entry>,
    /// Tells when the touch or the creation is durable.
    #[pyo3(get)]
    receipt: Py<Receipt>,
    /// Why it was replaced: "suspended", "idle", "daily" or "requested".
    #[pyo3(get)]
    reason: Option<&'static str>,
    /// The id of the session that was replaced.
    #[pyo3(get)]
    previous_session_id: Option<String>,
    /// Whether that session had used any tokens.
    #[pyo3(get)]
    had_activity: bool,
    /// What the guard raised when it was asked, if it did: the session was kept then.
    #[pyo3(get)]
    guard_error: Option<Py<PyAny>>,
}

/// A turn that has just begun.
///
/// >>> len(store.begin_turn(key).token)
/// 16
#[pyclass(frozen, module = "cloakroom_store")]
pub(crate) struct Turn {
    /// Names the turn: sixteen hexadecimal digits.
    #[pyo3(get)]
    pub(crate) token: String,
    /// Tells when the turn's marker and the touch are durable.
    #[pyo3(get)]
    pub(crate) receipt: Py<Receipt>,
}

#[pymethods]
impl Change {
    fn __repr__(&self) -> String {
        format!("<Change {}>", self.outcome)
    }
}

#[pymethods]
impl Resolved {
    fn __repr__(&self) -> String {
        format!("<Resolved {}>", self.outcome)
    }
}

#[pymethods]
impl Turn {
    fn __repr__(&self) -> String {
        format!("<Turn {}>", self.token)
    }
}

/// Makes answers of one opening of a store.
#[derive(Clone, Copy)]
pub(crate) struct Answers<'py> {
    pub(crate) py: Python<'py>,
    pub(crate) opening: u64,
}

impl Answers<'_> {
    pub(crate) fn receipt(self, inner: cloakroom::Receipt) -> PyResult<Py<Receipt>> {
        Py::new(self.py, Receipt { inner, opening: self.opening })
    }

    pub(crate) fn change(
        self,
        outcome: &'static str,
        entry: Option<cloakroom::SessionEntry>,
        receipt: Option<cloakroom::Receipt>,
    ) -> PyResult<Change> {
        let entry = entry.map(|entry| Py::new(self.py, Entry::from(entry))).transpose()?;
        let receipt = receipt.map(|receipt| self.receipt(receipt)).transpose()?;
        Ok(Change { outcome, entry, receipt })
    }

    fn written(self, outcome: &'static str, Written { entry, receipt, .. }: Written) -> PyResult<Change> {
        self.change(outcome, Some(entry), Some(receipt))
    }

    pub(crate) fn put(self, put: Put) -> PyResult<Change> {
        match put {
            Put::Created(written) => self.written("created", written),
            Put::Replaced(written) => self.written("replaced", written),
            Put::Unexpected(entry) => self.change("unexpected", entry, None),
            _ => self.change("other", None, None),
        }
    }

    pub(crate) fn modified(self, modified: Modified) -> PyResult<Change> {
        match modified {
            Modified::Created(written) => self.written("created", written),
            Modified::Changed(written) => self.written("changed", written),
            Modified::Kept(entry) => self.change("kept", entry, None),
            Modified::Removed(receipt) => self.change("removed", None, Some(receipt)),
            _ => self.change("other", None, None),
        }
    }

    pub(crate) fn repointed(self, repointed: Repointed) -> PyResult<Change> {
        match repointed {
            Repointed::Switched(written) => self.written("switched", written),
            Repointed::Same(entry) => self.change("same", Some(entry), None),
            Repointed::Unexpected(entry) => self.change("unexpected", Some(entry), None),
            Repointed::Missing => self.change("missing", None, None),
            _ => self.change("other", None, None),
        }
    }

    pub(crate) fn removal(self, removal: Removal) -> PyResult<Change> {
        match removal {
            Removal::Removed(receipt) => self.change("removed", None, Some(receipt)),
            Removal::Changed => self.change("changed", None, None),
            Removal::Missing => self.change("missing", None, None),
            _ => self.change("other", None, None),
        }
    }

    pub(crate) fn reset(self, written: Option<Written>) -> PyResult<Option<Change>> {
        written.map(|written| self.written("reset", written)).transpose()
    }

    pub(crate) fn resolved(
        self,
        resolved: cloakroom::change::Resolved,
        guard_error: Option<PyErr>,
    ) -> PyResult<Resolved> {
        let (outcome, reason, previous_session_id, had_activity) = match resolved.resolution {
            Resolution::Existing => ("existing", None, None, false),
            Resolution::Created => ("created", None, None, false),
            Resolution::Replaced { reason, previous, had_activity } => {
                ("replaced", Some(reason.as_str()), Some(previous.as_str().to_owned()), had_activity)
            }
            _ => ("other", None, None, false),
        };
        let (entry, receipt) = (Py::new(self.py, Entry::from(resolved.entry))?, self.receipt(resolved.receipt)?);
        let guard_error = guard_error.map(|error| error.into_value(self.py).into_any());
        Ok(Resolved { outcome, entry, receipt, reason, previous_session_id, had_activity, guard_error })
    }
}
