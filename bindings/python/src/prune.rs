//! Pruning, and the callable that says which conversations have work in progress.

use std::sync::{Mutex, PoisonError};

use cloakroom::prune::{ActivityGuard, Verdict};
use cloakroom::{PrunePolicy, SessionKey};
use pyo3::exceptions::{PyException, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::PyBool;

use crate::convert::duration;

/// How many exceptions of a guard a report holds.
const KEPT_ERRORS: usize = 10;

/// Asks a callable, on the thread that prunes: the caller's, which is one of Python's.
pub(crate) struct Guard {
    callable: Py<PyAny>,
    raised: Mutex<Raised>,
}

#[derive(Default)]
struct Raised {
    errors: Vec<PyErr>,
    /// Ctrl-C, or an exit: nothing is asked any more, and what is not asked for is kept.
    end: Option<PyErr>,
}

impl Guard {
    pub(crate) fn new(callable: Py<PyAny>) -> Self {
        Self { callable, raised: Mutex::default() }
    }

    /// What the callable raised, as far as a report holds it; or what is to be raised once more.
    pub(crate) fn into_errors(self) -> PyResult<Vec<PyErr>> {
        let Raised { errors, end } = self.raised.into_inner().unwrap_or_else(PoisonError::into_inner);
        end.map_or(Ok(errors), Err)
    }

    fn ask(&self, py: Python<'_>, key: &SessionKey) -> PyResult<bool> {
        let answer = self.callable.bind(py).call1((key.as_str(),))?;
        // A coroutine that nobody awaits is true, and None is false: neither is an answer.
        let Ok(answer) = answer.cast::<PyBool>() else {
            let class = answer.get_type().name()?.to_string();
            if answer.hasattr("close")? && answer.hasattr("__await__")? {
                answer.call_method0("close")?;
            }
            return Err(PyTypeError::new_err(format!(
                "the guard must answer True or False, and it answered a {class}"
            )));
        };
        Ok(answer.is_true())
    }
}

impl ActivityGuard for Guard {
    fn check(&self, key: &SessionKey) -> Verdict {
        let raised = || self.raised.lock().unwrap_or_else(PoisonError::into_inner);
        if raised().end.is_some() {
            return Verdict::Failed("the guard was interrupted".into());
        }
        Python::attach(|py| {
            let error = match self.ask(py, key) {
                Ok(active) => return active.into(),
                Err(error) => error,
            };
            let mut raised = raised();
            if !error.is_instance_of::<PyException>(py) {
                raised.end = Some(error);
            } else if raised.errors.len() < KEPT_ERRORS {
                raised.errors.push(error);
            }
            Verdict::Failed("the guard raised an exception".into())
        })
    }
}

/// The limits of a policy, as keyword arguments give them.
pub(crate) struct Limits {
    pub(crate) max_age_days: i64,
    pub(crate) max_entries: u64,
    pub(crate) max_disk_bytes: u64,
    pub(crate) low_water_bytes: Option<u64>,
    pub(crate) max_active_days: f64,
}

impl Limits {
    pub(crate) fn policy(self) -> PyResult<PrunePolicy> {
        let Self { max_age_days, max_entries, max_disk_bytes, low_water_bytes, max_active_days } = self;
        let low = low_water_bytes.unwrap_or(max_disk_bytes / 5 * 4);
        let policy =
            PrunePolicy::max_age_days(max_age_days).max_entries(max_entries).max_disk_bytes(max_disk_bytes, low);
        Ok(match duration(max_active_days * 24.0 * 60.0 * 60.0, "max_active_days")? {
            Some(age) => policy.max_active_age(age),
            None => policy,
        })
    }
}
