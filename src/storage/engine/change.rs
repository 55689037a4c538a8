//! What one commit changes.

use std::cmp::Ordering;
use std::sync::Arc;

use super::StoredCold;
use crate::codec::{ActivityRow, CodecError, Cold, Fingerprint, Hot, Parts, Term, Turn};
use crate::error::Error;
use crate::key::SessionKey;

/// An entry whose hot record alone is new: what most changes are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Late {
    pub(crate) entry: Fingerprint,
    pub(crate) hot: Hot,
    /// Nothing but its time of activity is new.
    pub(crate) is_touch: bool,
}

/// What becomes of one entry.
#[derive(Debug)]
pub(crate) struct Change {
    pub(crate) key: SessionKey,
    pub(crate) entry: Fingerprint,
    pub(crate) content: Content,
    /// Where the entry comes from, if it had another key until now.
    pub(crate) moved: Option<Box<MovedFrom>>,
    /// It is another entry than the one on disk, which was removed.
    pub(crate) is_another: bool,
    /// Leases of it that are new, or have ended. Those of an entry that goes are not among them.
    pub(crate) leases: Vec<(String, Option<Term>)>,
    /// What was there before, so that it is not read again; `None` if that is not known.
    pub(crate) before: Option<Box<Known>>,
}

/// What there is of an entry, in the trees and the journal.
#[derive(Debug, Clone)]
pub(crate) enum Known {
    Nothing,
    Entry { hot: Hot, cold: StoredCold },
}

/// The key that an entry leaves, with all that is stored under it.
#[derive(Debug)]
pub(crate) struct MovedFrom {
    pub(crate) key: SessionKey,
    pub(crate) entry: Fingerprint,
    /// The entry's turn, which goes with it.
    pub(crate) turn: Option<Turn>,
}

impl Change {
    /// The order in which sled takes changes best: that of the trees they go to.
    pub(crate) fn place(&self, other: &Self) -> Ordering {
        let structural = |change: &Self| !matches!(change.content, Content::Hot(_));
        match (structural(self), structural(other)) {
            (false, false) => self.entry.cmp(&other.entry),
            // What moves goes first in a commit, however many pieces that has.
            (true, true) => (self.moved.is_none(), &self.key).cmp(&(other.moved.is_none(), &other.key)),
            (this, that) => this.cmp(&that),
        }
    }

    /// The row by age that the entry comes to, if it comes, or is written anew.
    pub(in crate::storage) fn age_row(&self) -> Option<ActivityRow> {
        match &self.content {
            Content::Whole { hot, .. } => Some(ActivityRow::of(hot, self.entry)),
            Content::Hot(_) | Content::Gone => None,
        }
    }

    /// Whether the entry was there before with the time that it has now.
    pub(in crate::storage) fn keeps_time(&self) -> bool {
        let (Content::Whole { hot, .. }, Some(Known::Entry { hot: before, .. })) =
            (&self.content, self.before.as_deref())
        else {
            return false;
        };
        hot.updated_at == before.updated_at && !self.is_another && self.moved.is_none()
    }

    /// The row by age that the entry leaves because it goes, if that is known.
    pub(in crate::storage) fn left_row(&self) -> Option<ActivityRow> {
        match (&self.content, self.before.as_deref()) {
            (Content::Gone, Some(Known::Entry { hot, .. })) => Some(ActivityRow::of(hot, self.entry)),
            _ => None,
        }
    }
}

/// The new content of an entry.
#[derive(Debug)]
pub(crate) enum Content {
    /// Only the hot record is new, and leases. Without leases, see [`Late`].
    Hot(Hot),
    /// Both records are new, and so are these parts of the extras.
    Whole { hot: Hot, cold: Arc<Cold>, parts: Parts },
    /// The entry goes.
    Gone,
}

/// For a record that cannot be written.
pub(crate) fn encode_error(error: CodecError) -> Error {
    Error::Engine { action: "encode a record", source: Box::new(error) }
}
