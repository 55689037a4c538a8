//! JSON values between the two languages.

use cloakroom::serde_json::{Number, Value};
use pyo3::exceptions::{PyOverflowError, PyRecursionError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBool, PyFloat, PyInt, PyList, PyMapping, PyString, PyTuple};

/// The depth that the store takes, so that what is put can be read.
const MAX_DEPTH: usize = 63;
/// The longest number that it takes.
const MAX_DIGITS: usize = 4096;

/// The object for a JSON text, as `json.loads` has it.
pub(crate) fn loads<'py>(py: Python<'py>, text: &str) -> PyResult<Bound<'py, PyAny>> {
    static LOADS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    LOADS.import(py, "json", "loads")?.call1((text,))
}

/// The JSON text for an object. What JSON has no place for is an error, and never changed in silence: an infinite number, a
/// key that is no text. A whole number may have as many digits as the store takes.
pub(crate) fn text(object: &Bound<'_, PyAny>) -> PyResult<String> {
    let mut text = String::new();
    write(object, 0, &mut text)?;
    Ok(text)
}

/// The JSON text for each name of a mapping.
pub(crate) fn fields(mapping: &Bound<'_, PyMapping>) -> PyResult<Vec<(String, String)>> {
    let named = |item: Bound<'_, PyAny>| {
        let (name, value) = item.extract::<(Bound<'_, PyAny>, Bound<'_, PyAny>)>()?;
        Ok((self::name(&name)?, text(&value)?))
    };
    mapping.items()?.iter().map(named).collect()
}

/// Whether the store took a text that `text` made.
pub(crate) fn taken(taken: bool) -> PyResult<()> {
    if taken { Ok(()) } else { Err(PyValueError::new_err("the value has no place in JSON")) }
}

fn name(name: &Bound<'_, PyAny>) -> PyResult<String> {
    match name.cast::<PyString>() {
        Ok(name) => Ok(name.to_str()?.to_owned()),
        Err(_) => Err(PyTypeError::new_err("the names of a JSON object are texts")),
    }
}

fn write(object: &Bound<'_, PyAny>, depth: usize, out: &mut String) -> PyResult<()> {
    let nest = || match depth {
        MAX_DEPTH.. => Err(PyRecursionError::new_err(format!("the value is nested more than {MAX_DEPTH} deep"))),
        _ => Ok(()),
    };
    if object.is_none() {
        out.push_str("null");
    } else if let Ok(text) = object.cast::<PyString>() {
        quote(text.to_str()?, out);
    } else if let Ok(flag) = object.cast::<PyBool>() {
        // Before the numbers: a bool is one.
        out.push_str(if flag.is_true() { "true" } else { "false" });
    } else if object.is_instance_of::<PyInt>() {
        whole_number(object, out)?;
    } else if let Ok(number) = object.cast::<PyFloat>() {
        let number = Number::from_f64(number.value());
        let number = number.ok_or_else(|| PyValueError::new_err("JSON has no infinite number, and no NaN"))?;
        out.push_str(&number.to_string());
    } else if object.is_instance_of::<PyList>() || object.is_instance_of::<PyTuple>() {
        nest()?;
        out.push('[');
        for (number, item) in object.try_iter()?.enumerate() {
            out.push_str(if number > 0 { "," } else { "" });
            write(&item?, depth + 1, out)?;
        }
        out.push(']');
    } else if let Ok(mapping) = object.cast::<PyMapping>() {
        nest()?;
        out.push('{');
        for (number, item) in mapping.items()?.iter().enumerate() {
            out.push_str(if number > 0 { "," } else { "" });
            let (name, field) = item.extract::<(Bound<'_, PyAny>, Bound<'_, PyAny>)>()?;
            quote(&self::name(&name)?, out);
            out.push(':');
            write(&field, depth + 1, out)?;
        }
        out.push('}');
    } else {
        return Err(PyTypeError::new_err(format!("{} has no place in JSON", object.get_type().name()?)));
    }
    Ok(())
}

fn quote(text: &str, out: &mut String) {
    out.push_str(&Value::from(text).to_string());
}

fn whole_number(object: &Bound<'_, PyAny>, out: &mut String) -> PyResult<()> {
    if let Ok(number) = object.extract::<i64>() {
        out.push_str(&number.to_string());
        return Ok(());
    }
    // By the base class: what inherits from it may print itself as it likes.
    let digits = object.py().get_type::<PyInt>().call_method1("__repr__", (object,));
    let digits = digits.and_then(|digits| digits.extract::<String>()).ok().filter(|digits| digits.len() <= MAX_DIGITS);
    let Some(digits) = digits else {
        return Err(PyOverflowError::new_err(format!(
            "a whole number of more than {MAX_DIGITS} digits: give it as a text"
        )));
    };
    out.push_str(&digits);
    Ok(())
}
