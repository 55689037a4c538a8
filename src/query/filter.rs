//! Which entries a list shows.

use crate::codec::{Hot, PINNED, SUSPENDED};
use crate::entry::SessionEntry;
use crate::key::SessionKey;
use crate::time::Timestamp;

/// Which entries a list shows. The default shows all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Only this platform. Reads the larger record.
    pub platform: Option<String>,
    /// Only this chat type. Reads the larger record.
    pub chat_type: Option<String>,
    /// Only this user id, `user_id` or `user_id_alt` of the origin. Reads the larger record.
    pub user_id: Option<String>,
    /// Only keys that begin with this. Where they are not very many, a list costs what they are, and not the store.
    pub key_prefix: Option<String>,
    /// Only entries active at this time or later.
    pub active_since: Option<Timestamp>,
    /// Only entries not active since this time: `updated_at` lies before it.
    pub idle_since: Option<Timestamp>,
    /// Only suspended ones, or only others.
    pub suspended: Option<bool>,
    /// Only pinned ones, or only others.
    pub pinned: Option<bool>,
}

impl Filter {
    /// Entries not active since `time`.
    #[must_use]
    pub fn idle_since(time: Timestamp) -> Self {
        Self { idle_since: Some(time), ..Self::default() }
    }

    pub(crate) fn accepts_hot(&self, hot: &Hot) -> bool {
        self.active_since.is_none_or(|since| hot.updated_at >= since)
            && self.idle_since.is_none_or(|since| hot.updated_at < since)
            && self.suspended.is_none_or(|suspended| hot.is(SUSPENDED) == suspended)
            && self.pinned.is_none_or(|pinned| hot.is(PINNED) == pinned)
    }

    pub(crate) fn accepts_key(&self, key: &SessionKey) -> bool {
        self.key_prefix.as_ref().is_none_or(|prefix| key.as_str().starts_with(prefix))
    }

    pub(crate) fn needs_entry(&self) -> bool {
        self.platform.is_some() || self.chat_type.is_some() || self.user_id.is_some()
    }

    pub(crate) fn accepts_entry(&self, entry: &SessionEntry) -> bool {
        let origin = entry.details.origin.as_ref();
        let is = |wanted: &Option<String>, found: Option<&String>| wanted.as_ref().is_none_or(|w| found == Some(w));
        is(&self.platform, entry.details.platform.as_ref())
            && is(&self.chat_type, entry.details.chat_type.as_ref())
            && self.user_id.as_ref().is_none_or(|user| {
                origin.is_some_and(|o| o.user_id.as_ref() == Some(user) || o.user_id_alt.as_ref() == Some(user))
            })
    }
}
