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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::Options;
    use crate::source::SessionSource;
    use crate::storage::{self, Hook};
    use crate::time::{ManualClock, Timestamp};

    const OLD: &str = "agent:main:discord:";
    const NEW: &str = "agent:main:signal:";
    const ENTRIES: usize = 4;

    fn key(prefix: &str, n: usize) -> SessionKey {
        SessionKey::new(format!("{prefix}dm:{n}")).unwrap()
    }

    /// In `storage::tests::writes` a commit of moves stops before each of its writes. Here a rename of several commits
    /// does, and is run again.
    #[test]
    fn a_rename_that_a_crash_ended_goes_on_with_those_that_are_left() {
        let mut ended_halfway = 0;
        for stop in 1.. {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("db");
            let options = |path| {
                let options = Options::new(path).create(true).commit_interval(Duration::from_secs(3600));
                // A rename is several commits, and all carry their changes at once.
                options.max_pending(2).journal_bytes(1).cache_bytes(16 << 20).clock(ManualClock::new(Timestamp::MIN))
            };
            let store = SessionStore::open(options(&path)).unwrap();
            let ids: Vec<_> = (0..ENTRIES)
                .map(|n| {
                    let source = SessionSource {
                        platform: "discord".into(),
                        chat_type: "dm".into(),
                        chat_id: Some(n.to_string()),
                        ..SessionSource::default()
                    };
                    store.resolve(&source).unwrap().entry.session_id
                })
                .collect();
            store.set_metadata(&key(OLD, 1), &serde_json::Map::from_iter([("n".into(), 1.into())])).unwrap().unwrap();
            store.close().unwrap();
            drop(store);

            let mut opened = storage::open(&path, false, 1 << 20, false).unwrap();
            let mut writes = 0;
            opened.writer.hook = Hook::new(move |_, _| {
                writes += 1;
                if writes < stop { Ok(()) } else { Err(Error::Panicked { message: "stopped".into() }) }
            });
            let store = SessionStore::start(opened, options(&path)).unwrap();
            let is_done = store.rename(OLD, NEW).is_ok();
            drop(store);

            let store = SessionStore::open(options(&path)).unwrap();
            let found = store.verify().unwrap();
            assert_eq!((found.violations, found.orphaned_chunks), (vec![], 0), "stopped at {stop}");
            let mut left = 0;
            for (n, id) in ids.iter().enumerate() {
                let there = [OLD, NEW].map(|prefix| store.get(&key(prefix, n)).unwrap().map(|entry| entry.session_id));
                let is_old = there[0].is_some();
                left += u64::from(is_old);
                let expected = if is_old { [Some(id.clone()), None] } else { [None, Some(id.clone())] };
                assert_eq!(there, expected, "stopped at {stop}: entry {n}");
            }
            ended_halfway += usize::from(0 < left && left < ENTRIES as u64);
            let again = store.rename(OLD, NEW).unwrap();
            assert_eq!((again.moved, again.collisions), (left, 0), "stopped at {stop}");
            assert!(
                ids.iter()
                    .enumerate()
                    .all(|(n, id)| { store.get(&key(NEW, n)).unwrap().is_some_and(|entry| entry.session_id == *id) })
            );
            assert_eq!((store.len(), store.count_prefix(OLD).unwrap()), (ENTRIES as u64, 0));
            assert_eq!(store.extra(&key(NEW, 1), "metadata").unwrap().as_deref(), Some(r#"{"n":1}"#));
            if is_done {
                break;
            }
        }
        assert!(ended_halfway > 3, "stopped between two moves only {ended_halfway} times");
    }
}
