//! The fields of an entry, in one table: entries show them, drafts and `Entry.replace` set them.

/// Makes the getters of a class whose method `entry` gives the [`SessionEntry`](cloakroom::SessionEntry), beside its other
/// methods.
macro_rules! entry_getters {
    ($class:ident { $($rest:tt)* }) => {
        #[pymethods]
        impl $class {
            /// Names the conversation.
            #[getter] fn key(&self) -> &str { self.entry().key.as_str() }
            /// Names the run that is live.
            #[getter] fn session_id(&self) -> &str { self.entry().session_id.as_str() }
            /// Names this state of the entry: new at each change of anything but the time of activity. "0000000000000000" in one that no store holds.
            #[getter] fn revision(&self) -> String { self.entry().revision.to_string() }
            /// When this run began.
            #[getter] fn created_at(&self) -> DateTime<Utc> { datetime(self.entry().created_at) }
            /// When the user was last active.
            #[getter] fn updated_at(&self) -> DateTime<Utc> { datetime(self.entry().updated_at) }
            /// When a person last wrote, where the gateway tells that apart.
            #[getter] fn last_interaction(&self) -> Option<DateTime<Utc>> { self.entry().last_interaction.map(datetime) }
            /// Replaced by a fresh session at the next message, and never pruned.
            #[getter] fn suspended(&self) -> bool { self.entry().suspended }
            /// The next message continues this run. Does not protect from pruning.
            #[getter] fn resume_pending(&self) -> bool { self.entry().resume_pending }
            /// Never pruned, and replaced by no policy.
            #[getter] fn pinned(&self) -> bool { self.entry().pinned }
            /// Tokens read.
            #[getter] fn input_tokens(&self) -> u64 { self.entry().usage.input_tokens }
            /// Tokens written.
            #[getter] fn output_tokens(&self) -> u64 { self.entry().usage.output_tokens }
            /// Tokens read from the model's prompt cache.
            #[getter] fn cache_read_tokens(&self) -> u64 { self.entry().usage.cache_read_tokens }
            /// Tokens written to it.
            #[getter] fn cache_write_tokens(&self) -> u64 { self.entry().usage.cache_write_tokens }
            /// All tokens, as the gateway adds them up.
            #[getter] fn total_tokens(&self) -> u64 { self.entry().usage.total_tokens }
            /// Tokens of the latest prompt: a reading, not a sum.
            #[getter] fn last_prompt_tokens(&self) -> u64 { self.entry().usage.last_prompt_tokens }
            /// Estimated cost in US dollars.
            #[getter] fn estimated_cost_usd(&self) -> f64 { self.entry().usage.estimated_cost_usd }
            /// The name that people see.
            #[getter] fn display_name(&self) -> Option<&str> { self.entry().details.display_name.as_deref() }
            /// "discord", "telegram", …
            #[getter] fn platform(&self) -> Option<&str> { self.entry().details.platform.as_deref() }
            /// "dm", "group", "thread", …
            #[getter] fn chat_type(&self) -> Option<&str> { self.entry().details.chat_type.as_deref() }
            /// Where the conversation takes place: a new dict of the fields that are set.
            #[getter] fn origin<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> { origin(py, self.entry()) }
            /// How sure the cost is.
            #[getter] fn cost_status(&self) -> Option<&str> { self.entry().details.cost_status.as_deref() }
            /// The end of the session has been dealt with.
            #[getter] fn expiry_finalized(&self) -> bool { self.entry().details.expiry_finalized }
            /// Why a resume is pending.
            #[getter] fn resume_reason(&self) -> Option<&str> { self.entry().details.resume_reason.as_deref() }
            /// When it was marked.
            #[getter] fn last_resume_marked_at(&self) -> Option<DateTime<Utc>> { self.entry().details.last_resume_marked_at.map(datetime) }
            /// The turn that a gateway's own file says is being worked on. `begin_turn` keeps its markers elsewhere.
            #[getter] fn active_turn_token(&self) -> Option<&str> { self.entry().details.active_turn_token.as_deref() }
            /// When that turn began.
            #[getter] fn active_turn_started_at(&self) -> Option<DateTime<Utc>> { self.entry().details.active_turn_started_at.map(datetime) }
            /// The user asked for this fresh start.
            #[getter] fn is_fresh_reset(&self) -> bool { self.entry().details.is_fresh_reset }
            /// The store or the gateway did.
            #[getter] fn was_auto_reset(&self) -> bool { self.entry().details.was_auto_reset }
            /// Which rule made it.
            #[getter] fn auto_reset_reason(&self) -> Option<&str> { self.entry().details.auto_reset_reason.as_deref() }
            /// The session before had been used.
            #[getter] fn reset_had_activity(&self) -> bool { self.entry().details.reset_had_activity }
            /// The session before.
            #[getter] fn prev_session_id(&self) -> Option<&str> { self.entry().details.prev_session_id.as_ref().map(SessionId::as_str) }
            /// Bytes of the names and the JSON texts of its extras.
            #[getter] fn extras_bytes(&self) -> u32 { self.entry().extras_bytes }
            $($rest)*
        }
    };
}
pub(crate) use entry_getters;

use cloakroom::SessionEntry;
use cloakroom::serde_json::{self, Value};
use pyo3::exceptions::{PyAttributeError, PyTypeError};
use pyo3::prelude::*;

use crate::convert::{session_id, source, timestamp};
use crate::json::loads;

/// The origin as a dict, without the fields that are not set.
pub(crate) fn origin<'py>(py: Python<'py>, entry: &SessionEntry) -> PyResult<Option<Bound<'py, PyAny>>> {
    let Some(origin) = &entry.details.origin else { return Ok(None) };
    let mut fields = serde_json::to_value(origin).unwrap_or_default();
    if let Value::Object(fields) = &mut fields {
        fields.retain(|_, field| !field.is_null());
    }
    loads(py, &fields.to_string()).map(Some)
}

/// Sets one field. The key, the revision and the size of the extras are not the caller's to set.
pub(crate) fn set(entry: &mut SessionEntry, name: &str, value: &Bound<'_, PyAny>) -> PyResult<()> {
    let (py, usage, details) = (value.py(), &mut entry.usage, &mut entry.details);
    match name {
        "session_id" => entry.session_id = session_id(py, value.extract()?)?,
        "created_at" => entry.created_at = timestamp(value)?,
        "updated_at" => entry.updated_at = timestamp(value)?,
        "last_interaction" => entry.last_interaction = some(value, timestamp)?,
        "suspended" => entry.suspended = value.extract()?,
        "resume_pending" => entry.resume_pending = value.extract()?,
        "pinned" => entry.pinned = value.extract()?,
        "input_tokens" => usage.input_tokens = value.extract()?,
        "output_tokens" => usage.output_tokens = value.extract()?,
        "cache_read_tokens" => usage.cache_read_tokens = value.extract()?,
        "cache_write_tokens" => usage.cache_write_tokens = value.extract()?,
        "total_tokens" => usage.total_tokens = value.extract()?,
        "last_prompt_tokens" => usage.last_prompt_tokens = value.extract()?,
        "estimated_cost_usd" => usage.estimated_cost_usd = value.extract()?,
        "display_name" => details.display_name = value.extract()?,
        "platform" => details.platform = value.extract()?,
        "chat_type" => details.chat_type = value.extract()?,
        "origin" => details.origin = some(value, source)?,
        "cost_status" => details.cost_status = value.extract()?,
        "expiry_finalized" => details.expiry_finalized = value.extract()?,
        "resume_reason" => details.resume_reason = value.extract()?,
        "last_resume_marked_at" => details.last_resume_marked_at = some(value, timestamp)?,
        "active_turn_token" => details.active_turn_token = value.extract()?,
        "active_turn_started_at" => details.active_turn_started_at = some(value, timestamp)?,
        "is_fresh_reset" => details.is_fresh_reset = value.extract()?,
        "was_auto_reset" => details.was_auto_reset = value.extract()?,
        "auto_reset_reason" => details.auto_reset_reason = value.extract()?,
        "reset_had_activity" => details.reset_had_activity = value.extract()?,
        "prev_session_id" => details.prev_session_id = some(value, |text| session_id(py, text.extract()?))?,
        "key" | "revision" | "extras_bytes" => {
            return Err(PyAttributeError::new_err(format!("{name} is the store's to set")));
        }
        _ => {
            return Err(PyTypeError::new_err(format!(
                "an entry has no field {name:?}: what else a gateway keeps is in the extras"
            )));
        }
    }
    Ok(())
}

fn some<'py, T>(value: &Bound<'py, PyAny>, read: impl Fn(&Bound<'py, PyAny>) -> PyResult<T>) -> PyResult<Option<T>> {
    (!value.is_none()).then(|| read(value)).transpose()
}
