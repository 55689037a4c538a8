//! In the place of the database: maps, of what was written and of what was synced.

#[path = "../../../src/storage/engine/extras.rs"]
mod extras;

#[path = "../../../src/storage/engine/change.rs"]
#[expect(dead_code, reason = "the database alone encodes")]
mod change;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

pub(crate) use change::{Change, Content, Known, Late, MovedFrom, encode_error};
pub(crate) use extras::PartsOf;

use crate::codec::{Activity, ActivityRow, ClockNote, CodecError, Cold, ExtrasRef, Fingerprint, Hot, Parts, Seed, Term, Turn};
use crate::entry::Details;
use crate::error::{Error, Result};
use crate::key::{SessionId, SessionKey};
use crate::sync::{AtomicBool, Condvar, Mutex, Ordering::SeqCst};
use crate::time::Timestamp;

/// As in the library.
#[derive(Debug)]
pub(crate) struct StoredLease {
    pub(crate) entry: Option<Fingerprint>,
    pub(crate) lease: Result<(String, Term)>,
}

/// As few as can be: each key is looked for by itself.
pub(crate) const KEYS_AT_A_TIME: usize = 1;

/// That of all entries.
pub(crate) fn session_id() -> SessionId {
    SessionId::new("a-session").expect("an id")
}

/// With the number in the place of the time of creation.
pub(crate) fn cold(number: i64) -> Cold {
    cold_of(session_id(), number)
}

/// Likewise, of another session.
pub(crate) fn cold_of(session_id: SessionId, number: i64) -> Cold {
    let created_at = Timestamp::from_micros(number);
    Cold { session_id, created_at, details: Details::default(), extras: None }
}

/// Not encoded.
#[derive(Debug, Clone)]
pub(crate) struct StoredCold(Arc<Cold>);

impl StoredCold {
    pub(crate) fn len(&self) -> usize {
        0
    }
}

type Entries = HashMap<Fingerprint, (Hot, Arc<Cold>)>;

/// What is on disk, for those who look at it from outside.
#[derive(Debug)]
pub(crate) struct Disk {
    seed: Seed,
    keys: Vec<SessionKey>,
    written: Mutex<Entries>,
    synced: Mutex<Entries>,
    /// The session that each marker names.
    markers: Mutex<HashMap<Fingerprint, SessionId>>,
    /// No turn ends but with its session or its entry.
    pub(crate) judges_markers: AtomicBool,
    /// The store was closed cleanly.
    pub(crate) closed: Mutex<bool>,
    pub(crate) closes: Condvar,
}

impl Disk {
    /// With an entry for each of the first `entries` keys. There will be no others than these keys.
    pub(crate) fn new(keys: &[SessionKey], entries: usize, hot: Hot) -> Arc<Self> {
        let seed = Seed::new(&[7; 16]);
        let cold = Arc::new(cold(0));
        let entry = |key| (seed.fingerprint(key), (hot, Arc::clone(&cold)));
        let entries: Entries = keys.iter().take(entries).map(entry).collect();
        Arc::new(Self {
            seed,
            keys: keys.to_vec(),
            written: Mutex::new(entries.clone()),
            synced: Mutex::new(entries),
            markers: Mutex::default(),
            judges_markers: AtomicBool::new(false),
            closed: Mutex::new(false),
            closes: Condvar::new(),
        })
    }

    /// How many entries the last sync found.
    pub(crate) fn count(&self) -> u64 {
        self.synced.lock().len() as u64
    }

    pub(crate) fn synced(&self, key: &SessionKey) -> Option<Hot> {
        self.synced.lock().get(&self.seed.fingerprint(key)).map(|(hot, _)| *hot)
    }
}

#[derive(Debug)]
pub(crate) struct Engine(pub(crate) Arc<Disk>);

impl Engine {
    pub(crate) fn path(&self) -> &Path {
        Path::new("store")
    }

    pub(crate) fn fingerprint(&self, key: &SessionKey) -> Fingerprint {
        self.0.seed.fingerprint(key)
    }

    pub(crate) fn journal_entries(&self) -> usize {
        0
    }

    pub(crate) fn turns(&self) -> Result<Vec<Result<(Fingerprint, Turn)>>> {
        Ok(Vec::new())
    }

    pub(crate) fn leases(&self) -> Result<Vec<StoredLease>> {
        Ok(Vec::new())
    }

    pub(crate) fn mark_suspect(&self, _: &Error) {}

    pub(crate) fn hot_of(&self, entry: Fingerprint, _: &SessionKey) -> Result<Option<Hot>> {
        Ok(self.0.written.lock().get(&entry).map(|(hot, _)| *hot))
    }

    pub(crate) fn listed(&self, entry: Fingerprint) -> Result<Option<Activity>> {
        let hot = self.0.written.lock().get(&entry).map(|(hot, _)| *hot);
        let key = self.0.keys.iter().find(|key| self.fingerprint(key) == entry).cloned();
        Ok(key.zip(hot).map(|(key, hot)| Activity { key, hot }))
    }

    pub(crate) fn of_row(&self, row: &ActivityRow) -> Result<Option<Activity>> {
        Ok(self.listed(row.entry)?.filter(|found| found.hot.updated_at == row.time))
    }

    /// Those of the first keys that are there still, in the order of the keys.
    pub(crate) fn keys(&self, after: Option<&SessionKey>, limit: usize) -> Result<Vec<Result<SessionKey>>> {
        let written = self.0.written.lock();
        let is_there = |key: &&SessionKey| written.contains_key(&self.fingerprint(key));
        let mut keys: Vec<_> = self.0.keys.iter().filter(is_there).cloned().collect();
        keys.sort_unstable();
        Ok(keys.into_iter().filter(|key| after.is_none_or(|after| key > after)).take(limit).map(Ok).collect())
    }

    pub(crate) fn keys_of_id(&self, id: &SessionId) -> Result<Vec<Result<SessionKey>>> {
        let written = self.0.written.lock();
        let has_id =
            |key: &&SessionKey| written.get(&self.fingerprint(key)).is_some_and(|(_, cold)| cold.session_id == *id);
        Ok(self.0.keys.iter().filter(has_id).cloned().map(Ok).collect())
    }

    pub(crate) fn stored_cold(&self, key: &SessionKey) -> Result<Option<StoredCold>> {
        Ok(self.0.written.lock().get(&self.fingerprint(key)).map(|(_, cold)| StoredCold(Arc::clone(cold))))
    }

    pub(crate) fn decode_cold(&self, _: &SessionKey, stored: &StoredCold) -> Result<Cold> {
        Ok(Cold::clone(&stored.0))
    }

    pub(crate) fn part(&self, _: &SessionKey, _: ExtrasRef) -> Result<Vec<u8>> {
        Ok(Vec::new())
    }

    pub(crate) fn contains(&self, key: &SessionKey) -> Result<bool> {
        Ok(self.0.written.lock().contains_key(&self.fingerprint(key)))
    }

    pub(crate) fn missing_record(&self, tree: &'static str, key: &SessionKey) -> Error {
        Error::DamagedRecord { record: tree, key: key.to_string(), source: Box::new(CodecError::Missing) }
    }

    pub(crate) fn damaged_extras(&self, key: &SessionKey, error: CodecError) -> Error {
        Error::DamagedRecord { record: "extras", key: key.to_string(), source: Box::new(error) }
    }
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Mark {
    pub(crate) commit: u64,
    pub(crate) count: u64,
}

#[derive(Debug)]
pub(crate) struct Writer {
    pub(crate) mark: Mark,
    /// The sync that fails, counted from 1; 0 for none.
    pub(crate) fails_at: u64,
    pub(crate) syncs: u64,
    pub(crate) is_dirty: bool,
}

impl Writer {
    pub(crate) fn mark(&self) -> Mark {
        self.mark
    }

    pub(crate) fn apply_late(&mut self, engine: &Engine, late: impl Iterator<Item = Late>) -> Result<()> {
        for Late { entry, hot, is_touch } in late {
            if let Some((there, _)) = engine.0.written.lock().get_mut(&entry) {
                assert!(!is_touch || hot == Hot { updated_at: hot.updated_at, ..*there }, "more than a touch");
                *there = hot;
            }
            self.is_dirty = true;
        }
        Ok(())
    }

    pub(crate) fn apply(
        &mut self,
        engine: &Engine,
        changes: &[Change],
        piece: usize,
        mut applied: impl FnMut(&[Change]),
    ) -> Result<()> {
        changes.chunks(piece).try_for_each(|piece| {
            self.apply_piece(engine, piece)?;
            applied(piece);
            Ok(())
        })
    }

    fn apply_piece(&mut self, engine: &Engine, changes: &[Change]) -> Result<()> {
        for change in changes {
            let mut written = engine.0.written.lock();
            if let Some(moved) = &change.moved {
                written.remove(&moved.entry);
            }
            let there = written.get(&change.entry);
            match change.before.as_deref() {
                None => {}
                Some(Known::Nothing) => assert!(there.is_none(), "there is something where nothing was known"),
                Some(Known::Entry { hot, cold }) => {
                    let is_known = there.is_some_and(|there| there.0 == *hot && Arc::ptr_eq(&there.1, &cold.0));
                    assert!(is_known, "another entry is there than the one that was known");
                }
            }
            match &change.content {
                Content::Hot(new) => {
                    if let Some((hot, _)) = written.get_mut(&change.entry) {
                        *hot = *new;
                    }
                }
                Content::Whole { hot, cold, .. } => drop(written.insert(change.entry, (*hot, Arc::clone(cold)))),
                Content::Gone => drop(written.remove(&change.entry)),
            }
            self.is_dirty = true;
        }
        Ok(())
    }

    /// A kill may come before and after each marker: what is there then must not have lost a turn.
    pub(crate) fn apply_turns(&mut self, engine: &Engine, turns: &[(Fingerprint, Option<Turn>)]) -> Result<()> {
        for (entry, turn) in turns {
            let session = engine.0.written.lock().get(entry).map(|(_, cold)| cold.session_id.clone());
            let mut markers = engine.0.markers.lock();
            if let Some(before) = markers.remove(entry)
                && turn.as_ref().is_none_or(|turn| turn.session_id != before)
                && engine.0.judges_markers.load(SeqCst)
            {
                assert_ne!(session, Some(before), "its marker goes before what ended the turn is written");
            }
            markers.extend(turn.as_ref().map(|turn| (*entry, turn.session_id.clone())));
        }
        self.is_dirty |= !turns.is_empty();
        Ok(())
    }

    pub(crate) fn drop_leases(&mut self, _: &Engine, _: &[(Fingerprint, String)]) -> Result<()> {
        Ok(())
    }

    pub(crate) fn tend_journal(&mut self, _: &Engine, _: Duration, _: usize) -> Result<()> {
        Ok(())
    }

    pub(crate) fn finish(&mut self, _: &Engine, commit: u64) -> Result<()> {
        self.mark.commit = commit;
        Ok(())
    }

    pub(crate) fn is_dirty(&self) -> bool {
        self.is_dirty
    }

    pub(crate) fn sync(&mut self, engine: &Engine) -> Result<()> {
        self.syncs += 1;
        if self.syncs == self.fails_at {
            return Err(Error::Panicked { message: "planned".into() });
        }
        let written = engine.0.written.lock().clone();
        *engine.0.synced.lock() = written;
        self.is_dirty = false;
        Ok(())
    }

    pub(crate) fn sync_state(&self, _: &Engine) -> Result<()> {
        Ok(())
    }

    pub(crate) fn is_state_due(&self, _: &Engine) -> bool {
        false
    }

    pub(crate) fn journal_due(&self, _: &Engine, _: Duration) -> Option<Duration> {
        None
    }

    pub(crate) fn recheck(&mut self, _: &Engine, _: &ActivityRow) -> Result<bool> {
        Ok(true)
    }

    pub(crate) fn set_zone(&mut self, _: &Engine, _: &str) -> Result<()> {
        Ok(())
    }

    pub(crate) fn set_note(&mut self, _: &Engine, _: &str, _: &str) -> Result<()> {
        Ok(())
    }

    pub(crate) fn set_clock_note(&mut self, _: &Engine, _: &ClockNote) -> Result<()> {
        Ok(())
    }

    pub(crate) fn end_use(&mut self, engine: &Engine) -> Result<()> {
        self.sync(engine)?;
        *engine.0.closed.lock() = true;
        engine.0.closes.notify_all();
        Ok(())
    }
}
