//! Removing many entries: those that a filter accepts, and all of a user's.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::codec::{Cold, Hot};
use crate::error::{Error, Result};
use crate::events::{CHANGES, EventKind, Told};
use crate::key::SessionKey;
use crate::keys::Keys;
use crate::query::{Filter, Iter};
use crate::rules::entry;
use crate::store::{SessionStore, both};
use crate::unreadable::Unreadable;

/// What [`SessionStore::remove_where`] did.
#[must_use = "with a wrong count nothing is removed"]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum BulkRemoval {
    /// The entries are gone.
    Removed(RemovalReport),
    /// Nothing was removed: the filter accepts another number of entries than expected.
    CountDiffers {
        /// How many it was to accept.
        expected: u64,
        /// How many it accepts.
        found: u64,
        /// Records that cannot be decoded, and are in no count.
        unreadable: Unreadable,
    },
}

/// How much [`SessionStore::remove_where`] removed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RemovalReport {
    /// Entries removed.
    pub removed: u64,
    /// Entries that the filter accepted at first, and that were gone or no longer accepted when their turn came.
    pub changed: u64,
    /// Records that cannot be decoded. They stay.
    pub unreadable: Unreadable,
}

/// What [`SessionStore::forget`] did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ForgetReport {
    /// Entries removed.
    pub removed: u64,
    /// Records that cannot be decoded. They stay: after a [`repair`](SessionStore::repair) run it again. On a cluster, which has
    /// no repair, they are removed like all others.
    pub unreadable: Unreadable,
}

impl SessionStore {
    /// Removes the entries that `filter` accepts, if they are as many as `expected`, and returns when that is durable.
    /// `None` expects any number.
    ///
    /// They are counted first. If they are more or fewer, nothing is removed, and the answer says how many there are. Of
    /// those that were counted, each is looked at once more when its turn comes: one that the filter accepts no longer,
    /// for it was used meanwhile, say, stays. Entries that it accepts only since the count stay too, where a number was
    /// expected.
    ///
    /// Nothing else protects an entry: suspended ones go, unless the filter says [`suspended`](Filter::suspended), and so do
    /// those with an open turn or with work in progress. To remove what is old and unused, [`prune`](SessionStore::prune).
    ///
    /// With a [`key_prefix`](Filter::key_prefix) it costs what begins with that; without one, what is as old as the filter
    /// says. While it works it keeps the keys of the `expected` entries in memory.
    ///
    /// A crash may leave some of the entries removed, each of them whole or not at all.
    pub fn remove_where(&self, filter: &Filter, expected: impl Into<Option<u64>>) -> Result<BulkRemoval> {
        let (mut report, expected) = (RemovalReport::default(), expected.into());
        Ok(match (expected, self.remove_where_into(filter, expected, &mut report)?) {
            (Some(expected), Some(found)) => {
                BulkRemoval::CountDiffers { expected, found, unreadable: report.unreadable }
            }
            _ => BulkRemoval::Removed(report),
        })
    }

    /// The same, with a report that tells of an error too what was removed before it. Answers how many entries there are, if
    /// that is why nothing was removed.
    pub(crate) fn remove_where_into(
        &self,
        filter: &Filter,
        expected: Option<u64>,
        report: &mut RemovalReport,
    ) -> Result<Option<u64>> {
        let Some(expected) = expected else {
            let mut matches = self.matches(filter)?;
            while let Some(key) = matches.next(&mut report.unreadable)? {
                self.remove_match(&key, filter, report)?;
            }
            matches.end(&mut report.unreadable);
            self.flush()?;
            return Ok(None);
        };
        let (mut keys, mut found) = (Vec::new(), 0);
        let mut matches = self.matches(filter)?;
        while let Some(key) = matches.next(&mut report.unreadable)? {
            found += 1;
            if found > expected {
                keys = Vec::new();
            } else {
                keys.push(key);
            }
        }
        matches.end(&mut report.unreadable);
        if found != expected {
            return Ok(Some(found));
        }
        for key in keys {
            self.remove_match(&key, filter, report)?;
        }
        self.flush()?;
        Ok(None)
    }

    /// Removes the entry whose key is `prefix`, and each one below it, whatever protects them. It is for a user who asks to
    /// be erased, and returns when the removal is durable.
    ///
    /// A key is below `prefix` if it goes on with a colon, or `prefix` ends with one
    /// ([`is_within`](SessionKey::is_within)): `agent:main:telegram:dm:56` takes `agent:main:telegram:dm:56:7` with it, and
    /// never another user's `agent:main:telegram:dm:567`. [`keys`](SessionStore::keys) and the other verbs over prefixes
    /// compare bytes alone.
    ///
    /// The entries can be read no more as soon as it returns, and no crash brings them back. Their bytes go later:
    ///
    /// - **Files of the store**: sled writes behind what is there, and lets go of old bytes only by and by. Until then
    ///   the files hold keys, names and extras. After [`compact`](SessionStore::compact) they hold nothing of the entries; it
    ///   needs the store closed. The file system, and a disk that
    ///   spreads its writes, may keep the blocks of deleted files for longer.
    /// - **Journal**: it never holds keys, names or extras, but times and counters under a number that stands for the
    ///   key. Those of the entries count no more at once, and go from the files as above.
    /// - **Memory**: what was cached is freed, not overwritten.
    /// - **Backups, exports, quarantine files, and copies of the directory**: they are not the store's, and it does not know
    ///   where they are. They go when the operator removes them. A backup that is restored brings the entries back.
    /// - **Elsewhere in the store**: an entry under another key may name one of the erased sessions (its
    ///   `prev_session_id`), and the notes of an imported file may hold anything; `forget` looks at neither. Transcripts
    ///   are not the store's.
    ///
    /// An entry that is made under the prefix while it runs may stay. Costs what begins with the prefix.
    ///
    /// # Errors
    /// [`Error::Setting`] if the prefix is empty: that would remove everything.
    ///
    /// ```no_run
    /// # fn f(options: cloakroom::Options) -> cloakroom::Result<()> {
    /// use cloakroom::SessionStore;
    ///
    /// let store = SessionStore::open(options.clone())?;
    /// let forgotten = store.forget("agent:main:telegram:dm:5678")?;
    /// assert!(forgotten.unreadable.is_empty());
    /// store.close()?;
    /// drop(store);
    /// SessionStore::compact(options, |_| {})?; // the bytes are gone now
    /// # Ok(()) }
    /// ```
    pub fn forget(&self, prefix: &str) -> Result<ForgetReport> {
        if prefix.is_empty() {
            let expected = "the beginning of the keys of one user";
            return Err(Error::Setting { setting: "the prefix to forget", value: String::new(), expected });
        }
        let filter = Filter { key_prefix: Some(prefix.to_owned()), ..Filter::default() };
        let mut report = RemovalReport::default();
        let mut keys = self.keys(prefix)?;
        for key in &mut keys {
            let key = key?;
            if key.is_within(prefix) {
                self.remove_match(&key, &filter, &mut report)?;
            }
        }
        report.unreadable.add_all(keys.unreadable());
        self.flush()?;
        Ok(ForgetReport { removed: report.removed, unreadable: report.unreadable })
    }

    /// Removes an entry if the filter still accepts it.
    fn remove_match(&self, key: &SessionKey, filter: &Filter, report: &mut RemovalReport) -> Result<()> {
        let remove = || {
            let mut locked = self.commits().lock(key)?;
            let accepted = both(&locked)?.filter(|(hot, cold)| accepts(filter, key, hot, cold));
            if accepted.is_some() {
                locked.remove();
            }
            Ok(accepted.map(|(_, cold)| cold))
        };
        match report.unreadable.pass(remove())? {
            Some(Some(cold)) => {
                report.removed += 1;
                tracing::debug!(%key, "removed");
                self.tell(key, CHANGES, || Told::gone(EventKind::Removed, &cold.session_id));
            }
            Some(None) => report.changed += 1,
            None => {}
        }
        Ok(())
    }

    /// The keys of the entries that a filter accepts: in key order where it has a prefix, else by time.
    fn matches<'a>(&'a self, filter: &'a Filter) -> Result<Matches<'a>> {
        Ok(match &filter.key_prefix {
            Some(prefix) => Matches::ByKey(self, filter, self.keys(prefix)?),
            None => Matches::ByTime(self.iter(filter.clone())?),
        })
    }
}

/// Whether a filter accepts an entry, whose key begins as it should.
fn accepts(filter: &Filter, key: &SessionKey, hot: &Hot, cold: &Arc<Cold>) -> bool {
    filter.accepts_hot(hot) && (!filter.needs_entry() || filter.accepts_entry(&entry(key, hot, Cold::clone(cold))))
}

enum Matches<'a> {
    ByKey(&'a SessionStore, &'a Filter, Keys),
    ByTime(Iter),
}

impl Matches<'_> {
    fn next(&mut self, unreadable: &mut Unreadable) -> Result<Option<SessionKey>> {
        match self {
            Self::ByTime(rows) => Ok(rows.next().transpose()?.map(|row| row.key)),
            Self::ByKey(store, filter, keys) => {
                for key in keys {
                    let key = key?;
                    let accepted = || {
                        if !filter.needs_entry() {
                            let hot = store.commits().peek_hot(&key)?;
                            return Ok(hot.is_some_and(|hot| filter.accepts_hot(&hot)));
                        }
                        let found = store.commits().peek(&key, false)?;
                        Ok(found.is_some_and(|found| accepts(filter, &key, &found.hot, &found.cold)))
                    };
                    if unreadable.pass(accepted())? == Some(true) {
                        return Ok(Some(key));
                    }
                }
                Ok(None)
            }
        }
    }

    /// What was passed over on the way.
    fn end(&self, unreadable: &mut Unreadable) {
        unreadable.add_all(match self {
            Self::ByKey(_, _, keys) => keys.unreadable(),
            Self::ByTime(rows) => rows.unreadable(),
        });
    }
}
