//! [`Entry`]: what the store holds for a key.

use std::hash::{DefaultHasher, Hash, Hasher};

use cloakroom::chrono::{DateTime, Utc};
use cloakroom::serde_json::{self, Value};
use cloakroom::{SessionEntry, SessionId, Timestamp};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::convert::{datetime, key, python, session_id, timestamp};
use crate::fields::{self, entry_getters, origin};
use crate::json::loads;

/// What the store holds for a key. Never changes; prints without names, and with its key redacted.
///
/// >>> entry = Entry("mine:1", "run-1", platform="cron")
/// >>> entry.session_id, entry.updated_at == entry.created_at
/// ('run-1', True)
#[pyclass(frozen, module = "cloakroom_store")]
pub(crate) struct Entry {
    pub(crate) inner: SessionEntry,
}

impl Entry {
    fn entry(&self) -> &SessionEntry {
        &self.inner
    }
}

impl From<SessionEntry> for Entry {
    fn from(inner: SessionEntry) -> Self {
        Self { inner }
    }
}

entry_getters! { Entry {
    /// An entry to put into a store. Times that are not given are now.
    #[new]
    #[pyo3(signature = (key, session_id, **fields))]
    fn new(py: Python<'_>, key: &str, session_id: &str, fields: Option<&Bound<'_, PyDict>>) -> PyResult<Self> {
        let now = Timestamp::from(std::time::SystemTime::now());
        // An entry that began in the past was last used then, unless the caller says otherwise.
        let begins = match fields.map(|fields| fields.get_item("created_at")).transpose()?.flatten() {
            Some(time) => timestamp(&time)?,
            None => now,
        };
        let entry = SessionEntry::new(self::key(py, key)?, self::session_id(py, session_id)?, begins);
        Self::changed(entry, fields)
    }

    /// A copy with other values of these fields.
    ///
    /// >>> store.get(key).replace(suspended=True).suspended
    /// True
    #[pyo3(signature = (**fields))]
    fn replace(&self, fields: Option<&Bound<'_, PyDict>>) -> PyResult<Self> {
        Self::changed(self.inner.clone(), fields)
    }

    /// All fields as a new dict, as JSON has them: times are texts.
    ///
    /// >>> store.get(key).to_dict()["platform"]
    /// 'telegram'
    fn to_dict<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        loads(py, &self.json()?)
    }

    fn __eq__(&self, other: &Self) -> bool {
        self.inner == other.inner
    }

    fn __hash__(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        (self.inner.key.as_str(), self.inner.revision, self.inner.updated_at).hash(&mut hasher);
        hasher.finish()
    }

    fn __repr__(&self) -> String {
        let SessionEntry { key, session_id, updated_at, suspended, pinned, .. } = &self.inner;
        let flags = [(*suspended, ", suspended"), (*pinned, ", pinned")];
        let flags: String = flags.iter().filter_map(|(set, text)| set.then_some(*text)).collect();
        format!("<Entry {key}, session {session_id}, updated {updated_at}{flags}>")
    }

    fn __reduce__<'py>(&self, py: Python<'py>) -> PyResult<(Bound<'py, PyAny>, (String,))> {
        Ok((python(py, "_core", "entry_from_json")?, (self.json()?,)))
    }
}}

impl Entry {
    fn changed(mut entry: SessionEntry, changes: Option<&Bound<'_, PyDict>>) -> PyResult<Self> {
        for (name, value) in changes.into_iter().flatten() {
            fields::set(&mut entry, name.extract()?, &value)?;
        }
        Ok(Self { inner: entry })
    }

    fn json(&self) -> PyResult<String> {
        serde_json::to_string(&self.inner).map_err(|_| PyValueError::new_err("the entry has no JSON form"))
    }
}

/// What pickles of entries call.
#[pyfunction]
pub(crate) fn entry_from_json(py: Python<'_>, text: &str) -> PyResult<Entry> {
    read(py, text)?.ok_or_else(|| PyValueError::new_err("the text holds no entry"))
}

fn read(py: Python<'_>, text: &str) -> PyResult<Option<Entry>> {
    let Ok(value) = serde_json::from_str::<Value>(text) else { return Ok(None) };
    let text_of = |name: &str| value.get(name).and_then(Value::as_str);
    let time_of = |name: &str| value.get(name).and_then(|time| serde_json::from_value::<Timestamp>(time.clone()).ok());
    let flag_of = |name: &str| value.get(name).and_then(Value::as_bool).unwrap_or_default();
    let (Some(key_text), Some(id)) = (text_of("session_key"), text_of("session_id")) else { return Ok(None) };
    let (Some(created_at), Some(updated_at)) = (time_of("created_at"), time_of("updated_at")) else { return Ok(None) };
    let Ok(usage) = serde_json::from_value(value.clone()) else { return Ok(None) };
    let Ok(details) = serde_json::from_value(value.clone()) else { return Ok(None) };
    let mut entry = SessionEntry::new(key(py, key_text)?, session_id(py, id)?, created_at);
    entry.revision = text_of("revision").and_then(|text| text.parse().ok()).unwrap_or(entry.revision);
    entry.updated_at = updated_at;
    entry.last_interaction = time_of("last_interaction");
    (entry.suspended, entry.resume_pending, entry.pinned) =
        (flag_of("suspended"), flag_of("resume_pending"), flag_of("pinned"));
    (entry.usage, entry.details) = (usage, details);
    let bytes = value.get("extras_bytes").and_then(Value::as_u64).unwrap_or_default();
    entry.extras_bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
    Ok(Some(Entry { inner: entry }))
}
