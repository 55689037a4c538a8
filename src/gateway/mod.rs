//! The two gateways' files: which field of theirs is which of ours. Import and export both work from these tables, so
//! what goes in one way comes out the same way.
//!
//! A field of a file that has a place in [`SessionEntry`](crate::SessionEntry) is put there; all others are kept as text
//! in [`Extras`](crate::Extras). How the typed ones were written is kept only where it is not what an export would write
//! anyway: see `form`.

mod form;
mod hermes;
mod openclaw;
mod slot;
mod times;
mod typed;

pub(crate) use form::{Form, write_entry};
pub(crate) use slot::{Kind, Slot};
pub(crate) use times::{Moment, Times, read_time};
pub(crate) use typed::{Typed, read_as};

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Whose file it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Gateway {
    /// Hermes Agent: `sessions/sessions.json`.
    Hermes,
    /// OpenClaw: `agents/<id>/sessions/sessions.json`.
    OpenClaw,
}

/// A field of a gateway's file that has a place in an entry.
#[derive(Debug)]
pub(crate) struct Field {
    pub(crate) name: &'static str,
    pub(crate) slot: Slot,
    pub(crate) shown: Shown,
}

/// When an export writes a field of which it knows nothing more than its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shown {
    Always,
    /// Unless it is null, false or zero.
    IfSet,
    /// A second name of another field: never of its own accord.
    Alias,
}

impl Gateway {
    /// The fields, in the order in which the gateway writes them.
    pub(crate) fn fields(self) -> &'static [Field] {
        match self {
            Self::Hermes => hermes::FIELDS,
            Self::OpenClaw => openclaw::FIELDS,
        }
    }

    /// The platform of an entry, where the fields do not say it each for itself.
    pub(crate) fn platform(self, key: &str, fields: &BTreeMap<&str, &str>) -> Option<String> {
        match self {
            Self::Hermes => None,
            Self::OpenClaw => openclaw::platform(key, fields),
        }
    }

    /// The field that names the session.
    pub(crate) fn id_field(self) -> &'static str {
        match self {
            Self::Hermes => "session_id",
            Self::OpenClaw => "sessionId",
        }
    }

    /// What people call it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Hermes => "Hermes",
            Self::OpenClaw => "OpenClaw",
        }
    }

    /// Whose entry it is, told by whether it has a field of a name; `None` if that tells nothing. An id tells more than
    /// a time.
    pub(crate) fn of(has: impl Fn(&str) -> bool) -> Option<Self> {
        let names = [
            ("session_id", Self::Hermes),
            ("sessionId", Self::OpenClaw),
            ("updated_at", Self::Hermes),
            ("updatedAt", Self::OpenClaw),
        ];
        names.into_iter().find(|(name, _)| has(name)).map(|(_, gateway)| gateway)
    }
}
