//! Errors of the store as exceptions of the package.

use std::error::Error as StdError;
use std::io;
use std::path::Path;

use cloakroom::Error;
use pyo3::exceptions::PyOSError;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::convert::python;

/// Answers of the store as answers to Python.
pub(crate) trait OrRaise<T> {
    fn or_raise(self, py: Python<'_>) -> PyResult<T>;
}

impl<T> OrRaise<T> for Result<T, Error> {
    fn or_raise(self, py: Python<'_>) -> PyResult<T> {
        self.map_err(|error| exception(py, &error).unwrap_or_else(|error| error))
    }
}

/// The exception for an error, with its causes.
fn exception(py: Python<'_>, error: &Error) -> PyResult<PyErr> {
    let about = PyDict::new(py);
    about.set_item("path", path(error).map(|path| path.as_os_str()))?;
    about.set_item("errno", errno(py, error)?)?;
    if let Error::Locked { holder, this_process, .. } = error {
        about.set_item("holder", holder.as_deref())?;
        about.set_item("this_process", *this_process)?;
    }
    let made = python(py, "_errors", "make")?.call1((error.kind(), error.to_string(), about))?;
    let raised = PyErr::from_value(made);
    if let Some(cause) = cause_of(py, error)? {
        raised.set_cause(py, Some(cause));
    }
    Ok(raised)
}

fn cause_of(py: Python<'_>, error: &Error) -> PyResult<Option<PyErr>> {
    match error {
        Error::ReadOnly { failure, .. } => exception(py, failure).map(Some),
        other => other.source().map(|source| cause(py, source)).transpose(),
    }
}

/// The exception for what lies below an error of the store.
fn cause(py: Python<'_>, error: &(dyn StdError + 'static)) -> PyResult<PyErr> {
    if let Some(error) = error.downcast_ref::<Error>() {
        return exception(py, error);
    }
    let raised = match number(py, error)? {
        // Python finds its own class for the number: `PermissionError`, `FileNotFoundError`, …
        Some(number) => {
            let text = python(py, "_errors", "strerror")?.call1((number,))?;
            PyErr::from_value(py.get_type::<PyOSError>().call1((number, text))?)
        }
        None => PyErr::from_value(python(py, "_errors", "Cause")?.call1((error.to_string(),))?),
    };
    if let Some(source) = error.source() {
        raised.set_cause(py, Some(cause(py, source)?));
    }
    Ok(raised)
}

/// The number that the operating system gave, wherever in the chain it is.
fn errno(py: Python<'_>, error: &Error) -> PyResult<Option<i32>> {
    if let Error::ReadOnly { failure, .. } = error {
        return errno(py, failure);
    }
    let mut next = error.source();
    while let Some(error) = next {
        if let Some(number) = number(py, error)? {
            return Ok(Some(number));
        }
        next = error.source();
    }
    Ok(None)
}

fn number(py: Python<'_>, error: &(dyn StdError + 'static)) -> PyResult<Option<i32>> {
    let Some(error) = error.downcast_ref::<io::Error>() else { return Ok(None) };
    if let Some(number) = error.raw_os_error() {
        return Ok(Some(number));
    }
    // The engine keeps what kind of an error it was, but not its number.
    let name = match error.kind() {
        io::ErrorKind::StorageFull => "ENOSPC",
        io::ErrorKind::QuotaExceeded => "EDQUOT",
        io::ErrorKind::FileTooLarge => "EFBIG",
        io::ErrorKind::PermissionDenied => "EACCES",
        io::ErrorKind::ReadOnlyFilesystem => "EROFS",
        _ => return Ok(None),
    };
    py.import("errno")?.getattr(name)?.extract().map(Some)
}

/// The file or the directory that an error speaks of.
fn path(error: &Error) -> Option<&Path> {
    match error {
        Error::NotFound { path }
        | Error::NotAStore { path, .. }
        | Error::Locked { path, .. }
        | Error::OptionsDiffer { path, .. }
        | Error::NewerFormat { path, .. }
        | Error::OlderFormat { path, .. }
        | Error::Exposed { path, .. }
        | Error::PermissionDenied { path, .. }
        | Error::Unwritable { path, .. }
        | Error::DiskFull { path, .. }
        | Error::Io { path, .. }
        | Error::Damaged { path, .. }
        | Error::Unsound { path, .. }
        | Error::Elsewhere { path, .. }
        | Error::ReadOnly { path, .. }
        | Error::Closed { path }
        | Error::Removed { path }
        | Error::Forked { path }
        | Error::Exists { path }
        | Error::StoreExists { path }
        | Error::Served { path } => Some(path),
        _ => None,
    }
}
