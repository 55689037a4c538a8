//! Leases: holds on a key, for work that must not lose its session.
//!
//! A lease protects its entry as an active process does: no pruning, no cap and no reset policy takes it, until it has
//! been idle for longer than [`max_active_age`](crate::PrunePolicy::max_active_age), where that is set. It is the key's
//! and not the session's: it stays when the entry is suspended, reset or pointed at another session. It follows the
//! entry to another key, and ends with the entry: one that is made again is held by nothing.
//!
//! [`hold`](SessionStore::hold) is for work inside this process and ends with it.
//! [`hold_until`](SessionStore::hold_until) is on disk, for work that may outlive a crash of the gateway: pruning begins
//! again when the gateway does, before anybody could tell it what is still running.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::codec::{Fingerprint, Term};
use crate::commit::{HeldBy, Leases, MAX_LEASES, Receipt};
use crate::error::{Error, Result};
use crate::fork;
use crate::key::{SessionKey, check_lease_name};
use crate::store::SessionStore;
use crate::time::Timestamp;
use crate::unreadable::{Listing, Unreadable};

/// Holds an entry until it is dropped. See [`SessionStore::hold`].
///
/// It does not keep the store open, and may be dropped after it.
#[must_use = "the lease ends when this is dropped"]
#[derive(Debug)]
pub struct Lease(Box<dyn Hold>);

impl Lease {
    /// Whether it holds an entry still: `false` once that was removed.
    #[must_use]
    pub fn is_held(&self) -> bool {
        !fork::is_child() && self.0.is_held()
    }

    pub(crate) fn of(hold: impl Hold + 'static) -> Self {
        Self(Box::new(hold))
    }
}

/// What an engine knows of a lease. Dropped, it has ended.
pub(crate) trait Hold: fmt::Debug + Send + Sync {
    /// Whether it holds an entry still.
    fn is_held(&self) -> bool;
}

/// A lease of a store that this process has for itself.
#[derive(Debug)]
struct HeldHere {
    leases: Arc<Leases>,
    number: u64,
}

impl Hold for HeldHere {
    fn is_held(&self) -> bool {
        self.leases.is_current(self.number)
    }
}

impl Drop for HeldHere {
    fn drop(&mut self) {
        // It is the parent's, whose threads may have held the table's lock when the process was forked.
        if !fork::is_child() {
            self.leases.drop_guard(self.number);
        }
    }
}

/// A lease that has not ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct OpenLease {
    /// The conversation.
    #[serde(rename = "session_key")]
    pub key: SessionKey,
    /// Its name; `None` for one that lives with its process.
    pub name: Option<String>,
    /// When it was taken. Setting another end does not change that.
    pub since: Timestamp,
    /// When it ends; `None` for one that lives with its process.
    pub end: Option<Timestamp>,
    /// How long ago it was taken, in seconds.
    #[serde(rename = "age_seconds", with = "crate::time::seconds")]
    pub age: Duration,
}

impl SessionStore {
    /// Holds an entry until the answer is dropped, or the process ends. `None` if there is no entry.
    ///
    /// Several may hold one key at once; each counts until it is dropped. Nothing is written: O(1).
    ///
    /// ```
    /// # use cloakroom::prune::NoActivity;
    /// # use cloakroom::{Options, PrunePolicy, SessionSource, SessionStore};
    /// # let directory = tempfile::tempdir()?;
    /// # let store = SessionStore::open(Options::new(directory.path().join("db")).create(true))?;
    /// # let key = store.resolve(&SessionSource { platform: "cli".into(), ..Default::default() })?.entry.key;
    /// let lease = store.hold(&key)?;
    /// // The job runs, and the session stays meanwhile.
    /// let report = store.prune(&PrunePolicy::max_age_days(90), NoActivity)?;
    /// drop(lease);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn hold(&self, key: &SessionKey) -> Result<Option<Lease>> {
        // The clock is the caller's code: never ask it with an entry locked.
        let now = self.now();
        let leases = Arc::clone(self.commits().leases()?);
        let Some(locked) = self.commits().look(key)? else { return Ok(None) };
        Ok(locked.hot().is_some().then(|| Lease::of(HeldHere { leases, number: locked.hold(now) })))
    }

    /// Holds an entry until `end`, whatever becomes of the process, or sets another end to the lease of that name. `None`
    /// if there is no entry.
    ///
    /// An `end` that has passed ends the lease of that name, if there is one, as [`release`](SessionStore::release) does.
    /// Protection begins at once; when the receipt is durable the lease survives a crash. O(1).
    ///
    /// Whether a lease has ended is judged by the clock. For an hour after the time of day has jumped while the store was
    /// open, no lease counts as ended: it holds and is listed. What has ended is removed from the disk by later passes of
    /// pruning, or where another lease of the key needs its room.
    ///
    /// # Errors
    /// [`Error::InvalidLease`] if `name` is empty, longer than 64 bytes or holds a control character;
    /// [`Error::TooManyLeases`] beyond 1,024 names of one key that have not ended.
    pub fn hold_until(&self, key: &SessionKey, name: &str, end: Timestamp) -> Result<Option<Receipt>> {
        check_lease_name(name).map_err(Error::InvalidLease)?;
        let checked = self.glance_at_clock()?;
        let now = checked.now.wall;
        let mut locked = self.commits().lock(key)?;
        if locked.hot().is_none() {
            return Ok(None);
        }
        let commit = if end > now {
            let held = locked.hold_until(name, Term { since: now, end }, checked.leases_at());
            held.ok_or_else(|| Error::TooManyLeases { key: key.clone(), limit: MAX_LEASES })?
        } else {
            match locked.release(name) {
                Some(commit) => commit,
                None => self.commits().open_commit(),
            }
        };
        drop(locked);
        Ok(Some(self.commits().receipt(commit)))
    }

    /// Ends the lease of that name. `None` if there is none, or no entry.
    ///
    /// After a crash before the receipt is durable it may be there again, until its end.
    pub fn release(&self, key: &SessionKey, name: &str) -> Result<Option<Receipt>> {
        let mut locked = self.commits().lock(key)?;
        let Some(commit) = locked.release(name) else { return Ok(None) };
        drop(locked);
        Ok(Some(self.commits().receipt(commit)))
    }

    /// The leases that have not ended, the oldest first: those that hold their entries for pruning now. Costs as much as
    /// there are of them.
    ///
    /// A lease that cannot be decoded is passed over, and counted: nobody can tell when it ends, so it holds its entry
    /// until [`repair`](SessionStore::repair) has removed it.
    pub fn leases(&self) -> Result<Listing<OpenLease>> {
        let checked = self.glance_at_clock()?;
        let now = checked.now.wall;
        let (mut items, mut unreadable) = (Vec::new(), Unreadable::default());
        for found in self.commits().engine()?.leases()? {
            unreadable.pass(found.lease)?;
        }
        for HeldBy { entry, name, since, end } in self.commits().leases()?.all(checked.leases_at()) {
            if let Some(Some(found)) = unreadable.pass(self.commits().peek_listed(entry))? {
                items.push(OpenLease { key: found.key, name, since, end, age: now.since(since) });
            }
        }
        items.sort_unstable_by(|a, b| (a.since, &a.key, &a.name).cmp(&(b.since, &b.key, &b.name)));
        Ok(Listing { items, unreadable })
    }

    /// The key of an entry, if there is such a one.
    pub(crate) fn key_of(&self, entry: Fingerprint) -> Result<Option<SessionKey>> {
        Ok(self.commits().peek_listed(entry)?.map(|found| found.key))
    }
}
