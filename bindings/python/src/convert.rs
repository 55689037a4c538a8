//! Values between the two languages.

use std::time::Duration;

use cloakroom::change::{Expect, KeepExtras, Touch};
use cloakroom::chrono::{DateTime, Utc};
use cloakroom::gateway::Gateway;
use cloakroom::{Error, Revision, SessionId, SessionKey, SessionSource, Timestamp, serde_json};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDateTime, PyString, PyTzInfo};

use crate::error::OrRaise;
use crate::json;

/// Something of the package's Python part, which is imported where it is needed: it imports this one.
pub(crate) fn python<'py>(py: Python<'py>, module: &str, name: &str) -> PyResult<Bound<'py, PyAny>> {
    py.import(format!("cloakroom_store.{module}").as_str())?.getattr(name)
}

pub(crate) fn key(py: Python<'_>, text: &str) -> PyResult<SessionKey> {
    SessionKey::new(text).map_err(Error::InvalidKey).or_raise(py)
}

pub(crate) fn session_id(py: Python<'_>, text: &str) -> PyResult<SessionId> {
    SessionId::new(text).map_err(Error::InvalidId).or_raise(py)
}

pub(crate) fn revision(py: Python<'_>, text: &str) -> PyResult<Revision> {
    text.parse().map_err(Error::InvalidName).or_raise(py)
}

/// `any`, `absent`, or a revision.
pub(crate) fn expect(py: Python<'_>, text: &str) -> PyResult<Expect> {
    match text {
        "any" => Ok(Expect::Any),
        "absent" => Ok(Expect::Absent),
        revision_text => revision(py, revision_text).map(Expect::Revision),
    }
}

pub(crate) fn gateway(name: &str) -> PyResult<Gateway> {
    match name {
        "hermes" => Ok(Gateway::Hermes),
        "openclaw" => Ok(Gateway::OpenClaw),
        _ => Err(PyValueError::new_err("the gateway is \"hermes\" or \"openclaw\"")),
    }
}

pub(crate) fn touch(touch: bool) -> Touch {
    if touch { Touch::Yes } else { Touch::No }
}

/// `"all"`, or the names of extras.
pub(crate) fn keep(names: Option<&Bound<'_, PyAny>>) -> PyResult<KeepExtras> {
    let Some(names) = names else { return Ok(KeepExtras::None) };
    match names.cast::<PyString>() {
        Ok(word) if word.to_str()? == "all" => Ok(KeepExtras::All),
        Ok(_) => Err(PyValueError::new_err("keep is \"all\", or a collection of names")),
        Err(_) => {
            let names = names.try_iter()?.map(|name| name?.extract::<String>());
            Ok(KeepExtras::Named(names.collect::<PyResult<_>>()?))
        }
    }
}

/// A source as a mapping: a field that is no text, or null, is an error; one that is not known is passed over.
pub(crate) fn source(mapping: &Bound<'_, PyAny>) -> PyResult<SessionSource> {
    let text = json::text(mapping)?;
    Some(text).filter(|text| text.starts_with('{')).and_then(|text| serde_json::from_str(&text).ok()).ok_or_else(|| {
        PyTypeError::new_err("a source is a mapping of names to texts, such as `platform`, `chat_type` and `chat_id`")
    })
}

/// A time that says where it is at home.
pub(crate) fn timestamp(time: &Bound<'_, PyAny>) -> PyResult<Timestamp> {
    let time = time.cast::<PyDateTime>()?;
    if time.getattr("tzinfo")?.is_none() {
        return Err(PyValueError::new_err("the time is naive: give one with a time zone, such as datetime.now(UTC)"));
    }
    let utc = time.call_method1("astimezone", (PyTzInfo::utc(time.py())?,))?;
    Ok(utc.extract::<DateTime<Utc>>()?.into())
}

pub(crate) fn datetime(time: Timestamp) -> DateTime<Utc> {
    time.into()
}

/// A time span in seconds. `None` for what is longer than a clock counts.
pub(crate) fn duration(seconds: f64, what: &str) -> PyResult<Option<Duration>> {
    if seconds.is_nan() || seconds < 0.0 {
        return Err(PyValueError::new_err(format!("{what} is a number of seconds, and not less than 0")));
    }
    Ok(Duration::try_from_secs_f64(seconds).ok())
}

/// A report as JSON.
pub(crate) fn json_text(value: &impl serde::Serialize) -> PyResult<String> {
    serde_json::to_string(value).map_err(|_| PyValueError::new_err("the report has no JSON form"))
}

/// A report of the store as one of the package's classes.
pub(crate) fn report<'py>(py: Python<'py>, class: &str, value: &impl serde::Serialize) -> PyResult<Bound<'py, PyAny>> {
    python(py, "_reports", "make")?.call1((class, json_text(value)?))
}
