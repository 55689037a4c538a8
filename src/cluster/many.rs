//! Verbs over many keys. No order by key goes over the shards, so they read the keys of all.

use super::entry::Look;
use super::layout::Part;
use super::store::ClusterStore;
use super::value::{at, list, text};
use crate::answer::Removal;
use crate::error::{Error, Result};
use crate::key::SessionKey;
use crate::query::Filter;
use crate::remove_where::{BulkRemoval, ForgetReport, RemovalReport};

/// Shards whose keys are read together.
const AT_ONCE: u32 = 64;

impl ClusterStore {
    /// The keys that begin with a prefix, in order.
    pub(super) async fn do_keys(&self, prefix: &str) -> Result<Vec<SessionKey>> {
        let shards = self.layout().shards();
        let mut found = Vec::new();
        for first in (0..shards).step_by(AT_ONCE as usize) {
            let ask = |shard| {
                let mark = redis::cmd("HGET").arg(self.part(shard, Part::Mark)).arg("mark").to_owned();
                vec![redis::cmd("ZRANGE").arg(self.part(shard, Part::Updated)).arg(0).arg(-1).to_owned(), mark]
            };
            for (shard, done) in self.scatter(first..shards.min(first + AT_ONCE), &ask).await? {
                self.check_mark(shard, at(&done.values, 1), &done.node)?;
                for key in list(at(&done.values, 0)).iter().filter_map(text) {
                    if key.starts_with(prefix) {
                        found.push(SessionKey::new(key).map_err(Error::InvalidKey)?);
                    }
                }
            }
        }
        found.sort_unstable();
        Ok(found)
    }

    pub(super) async fn do_remove_where(&self, filter: &Filter, expected: Option<u64>) -> Result<BulkRemoval> {
        let mut report = RemovalReport::default();
        let keys = self.matching(filter, &mut report).await?;
        let found = keys.len() as u64;
        if let Some(expected) = expected.filter(|expected| *expected != found) {
            return Ok(BulkRemoval::CountDiffers { expected, found, unreadable: report.unreadable });
        }
        self.remove_all(&keys, Some(filter), &mut report).await?;
        Ok(BulkRemoval::Removed(report))
    }

    pub(super) async fn do_forget(&self, prefix: &str) -> Result<ForgetReport> {
        if prefix.is_empty() {
            let expected = "the beginning of the keys of one user";
            return Err(Error::Setting { setting: "the prefix to forget", value: String::new(), expected });
        }
        let mut report = RemovalReport::default();
        let mut keys = self.do_keys(prefix).await?;
        keys.retain(|key| key.is_within(prefix));
        self.remove_all(&keys, None, &mut report).await?;
        Ok(ForgetReport { removed: report.removed, unreadable: report.unreadable })
    }

    /// Removes all that there is.
    pub(super) async fn do_remove_all(&self) -> Result<()> {
        let keys = self.do_keys("").await?;
        self.remove_all(&keys, None, &mut RemovalReport::default()).await
    }

    /// The keys of the entries that a filter accepts.
    async fn matching(&self, filter: &Filter, report: &mut RemovalReport) -> Result<Vec<SessionKey>> {
        let mut keys = self.do_keys(filter.key_prefix.as_deref().unwrap_or_default()).await?;
        let mut kept = Vec::new();
        for key in keys.drain(..) {
            let look = report.unreadable.pass(self.look(&key, false).await)?.flatten();
            if look.is_some_and(|look| accepts(filter, &key, &look)) {
                kept.push(key);
            }
        }
        Ok(kept)
    }

    /// Removes those that the filter accepts still, and returns when that is as durable as a receipt says. Without a filter
    /// those go too that cannot be decoded.
    async fn remove_all(&self, keys: &[SessionKey], filter: Option<&Filter>, report: &mut RemovalReport) -> Result<()> {
        let mut receipts = Vec::new();
        for key in keys {
            let tries = self.tries();
            loop {
                let removal = match (filter, self.look(key, false).await) {
                    (None, Err(Error::DamagedRecord { .. })) => self.remove_unread(key).await?,
                    (_, look) => {
                        let Some(look) = report.unreadable.pass(look)? else { break };
                        let accepted = look.filter(|look| filter.is_none_or(|filter| accepts(filter, key, look)));
                        let Some(look) = accepted else {
                            report.changed += 1;
                            break;
                        };
                        self.remove_seen(key, &look, true).await?
                    }
                };
                match removal {
                    Removal::Removed(receipt) => {
                        report.removed += 1;
                        receipts.push(receipt);
                        break;
                    }
                    // Looked at again.
                    Removal::Missing | Removal::Changed => tries.again()?,
                }
            }
        }
        self.keep_all(&receipts).await?;
        // They hold the keys too.
        self.remove_stale_hints().await
    }
}

fn accepts(filter: &Filter, key: &SessionKey, look: &Look) -> bool {
    filter.accepts_hot(&look.hot) && (!filter.needs_entry() || filter.accepts_entry(&look.entry(key)))
}
