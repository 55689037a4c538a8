//! The two gateways' files: which field of theirs is which of ours. Import and export both work from these tables, so
//! what goes in one way comes out the same way.
//!
//! A field of a file that has a place in [`SessionEntry`](crate::SessionEntry) is put there; all others are kept as text
//! in [`Extras`](crate::Extras). How the typed ones were written is kept only where it is not what an export would write
//! anyway: see [`form`].

mod form;
mod hermes;
mod openclaw;
mod slot;
mod times;
mod typed;

pub(crate) use form::{Form, write_entry};
pub(crate) use slot::{Kind, Slot};
pub(crate) use times::{Times, read_time};
pub(crate) use typed::{Typed, read};

use serde::{Deserialize, Serialize};

/// Whose file it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
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

    /// The field that names the session.
    pub(crate) fn id_field(self) -> &'static str {
        match self {
            Self::Hermes => "session_id",
            Self::OpenClaw => "sessionId",
        }
    }

    /// Whose entry it is, told by the names of its fields; `None` if they tell nothing.
    pub(crate) fn of<'a>(names: impl Iterator<Item = &'a str>) -> Option<Self> {
        let mut found = None;
        for name in names {
            match name {
                "session_id" | "updated_at" => return Some(Self::Hermes),
                "sessionId" | "updatedAt" => found = Some(Self::OpenClaw),
                _ => {}
            }
        }
        found
    }
}
