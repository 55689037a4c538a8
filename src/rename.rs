//! Another key for each entry of a prefix.

use serde::Serialize;

use crate::commit::Moved;
use crate::entry::Revision;
use crate::error::{Error, Result};
use crate::events::{CHANGES, EventKind, Told};
use crate::key::SessionKey;
use crate::store::SessionStore;
use crate::unreadable::{Unreadable, if_readable};

/// How many keys a report names.
const NAMED: usize = 10;

/// What [`SessionStore::rename`] did.
#[must_use = "a collision stops a rename"]
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct RenameReport {
    /// Entries that have their new key.
    pub moved: u64,
    /// New keys that other entries have. If there were any at the beginning, nothing was moved; if one appeared later, the
    /// run stopped there.
    pub collisions: u64,
    /// The first of those keys, at most ten.
    pub colliding: Vec<SessionKey>,
    /// Entries that cannot be decoded, which keep their old key, and rows that hold no key.
    pub unreadable: Unreadable,
}

impl RenameReport {
    fn collide(&mut self, key: SessionKey) {
        self.collisions += 1;
        if self.colliding.len() < NAMED {
            self.colliding.push(key);
        }
    }
}

impl SessionStore {
    /// Gives each entry whose key begins with `old` the key that begins with `new` instead, and goes on in the same way:
    /// with `agent:a:` and `agent:b:`, `agent:a:x` becomes `agent:b:x`. Returns when that is durable.
    ///
    /// An entry moves in one step, with all there is of it: its session, times, counters, details, extras and its open
    /// turn. `updated_at` stays. After a crash it is under one of its keys, never under both or neither. Others
    /// go on working meanwhile; a change of a key that an entry has just left waits for the next commit.
    ///
    /// First the new keys of all entries are looked at. If other entries have some of them, nothing is moved, and the
    /// report names them. One that appears later stops the run. After that, or after a crash, run it again: it goes on with
    /// the entries that are left. What is made under `old` behind the run stays there, so have the gateway use `new`
    /// first, or run it twice.
    ///
    /// Costs what matches, twice: each entry as much as a removal and a creation, extras included.
    ///
    /// # Errors
    /// [`Error::OverlappingPrefixes`](crate::Error::OverlappingPrefixes) if one prefix begins with the other: an entry could be moved twice.
    /// [`Error::InvalidKey`](crate::Error::InvalidKey) if a new key would not be one. Nothing is moved then.
    pub fn rename(&self, old: &str, new: &str) -> Result<RenameReport> {
        if old.starts_with(new) || new.starts_with(old) {
            return Err(Error::OverlappingPrefixes);
        }
        let renamed = |key: &SessionKey| {
            let rest = key.as_str().strip_prefix(old).unwrap_or_default();
            SessionKey::new(format!("{new}{rest}")).map_err(Error::InvalidKey)
        };
        let mut report = RenameReport::default();
        for key in self.keys(old)? {
            let to = renamed(&key?)?;
            // One that cannot be decoded is there, too.
            if if_readable(self.contains(&to))?.unwrap_or(true) {
                report.collide(to);
            }
        }
        if report.collisions > 0 {
            return Ok(report);
        }
        let mut keys = self.keys(old)?;
        for key in &mut keys {
            let key = key?;
            let to = renamed(&key)?;
            match report.unreadable.pass(self.commits().rename(&key, &to))? {
                Some(Moved::There(_)) => {}
                Some(Moved::Taken) => {
                    report.collide(to);
                    break;
                }
                Some(Moved::Missing) | None => continue,
            }
            let moved_to = self.commits().fingerprint(&to);
            self.clock_check().follow(self.commits().fingerprint(&key), moved_to);
            self.tell(&to, CHANGES, || {
                // Another thread may have removed it since.
                let hot = self.commits().peek_hot(&to).ok().flatten();
                Told::of(EventKind::Renamed { from: key }, hot.map_or(Revision::NONE, |hot| hot.revision))
            });
            report.moved += 1;
        }
        report.unreadable.add_all(keys.unreadable());
        self.flush()?;
        Ok(report)
    }
}
