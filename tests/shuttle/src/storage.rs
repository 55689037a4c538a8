//! In the place of the database: maps, of what was written and of what was synced.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::Arc;

use shuttle::sync::{Mutex, MutexGuard};

use crate::codec::{CodecError, Cold, ExtrasRef, Fingerprint, Hot, Seed};
use crate::entry::{Details, Extras};
use crate::error::{Error, Result};
use crate::key::{SessionId, SessionKey};
use crate::time::Timestamp;

/// As in the library.
#[derive(Debug)]
pub(crate) struct Change {
    pub(crate) key: SessionKey,
    pub(crate) entry: Fingerprint,
    pub(crate) content: Content,
}

impl Change {
    pub(crate) fn place(&self, other: &Self) -> Ordering {
        self.entry.cmp(&other.entry)
    }
}

/// As in the library.
#[derive(Debug)]
pub(crate) enum Content {
    Hot(Hot),
    Whole { hot: Hot, cold: Arc<Cold>, blob: Option<Arc<[u8]>> },
    Gone,
}

/// That of all entries.
pub(crate) fn session_id() -> SessionId {
    SessionId::new("a-session").expect("an id")
}

/// The same of all entries.
#[derive(Debug, Clone)]
pub(crate) struct StoredCold;

impl StoredCold {
    pub(crate) fn len(&self) -> usize {
        0
    }
}

#[derive(Debug)]
pub(crate) struct Engine {
    seed: Seed,
    keys: Vec<SessionKey>,
    written: Mutex<HashMap<Fingerprint, Hot>>,
    synced: Mutex<HashMap<Fingerprint, Hot>>,
}

impl Engine {
    /// With an entry for each of the keys.
    pub(crate) fn new(keys: &[SessionKey], hot: Hot) -> Self {
        let seed = Seed::new(&[7; 16]);
        let entries: HashMap<_, _> = keys.iter().map(|key| (seed.fingerprint(key), hot)).collect();
        Self { seed, keys: keys.to_vec(), written: Mutex::new(entries.clone()), synced: Mutex::new(entries) }
    }

    fn written(&self) -> MutexGuard<'_, HashMap<Fingerprint, Hot>> {
        self.written.lock().expect("no panic")
    }

    pub(crate) fn write(&self, change: &Change) {
        match &change.content {
            Content::Hot(hot) | Content::Whole { hot, .. } => self.written().insert(change.entry, *hot),
            Content::Gone => self.written().remove(&change.entry),
        };
    }

    pub(crate) fn sync(&self) {
        let written = self.written().clone();
        *self.synced.lock().expect("no panic") = written;
    }

    pub(crate) fn synced(&self, entry: Fingerprint) -> Option<Hot> {
        self.synced.lock().expect("no panic").get(&entry).copied()
    }

    pub(crate) fn fingerprint(&self, key: &SessionKey) -> Fingerprint {
        self.seed.fingerprint(key)
    }

    pub(crate) fn hot(&self, entry: Fingerprint) -> Result<Option<Hot>> {
        Ok(self.written().get(&entry).copied())
    }

    /// Those of the first keys that are there still, in the order of the keys.
    pub(crate) fn keys(&self, after: Option<&SessionKey>, _: &str, limit: usize) -> Result<Vec<SessionKey>> {
        let written = self.written();
        let is_there = |key: &&SessionKey| written.contains_key(&self.fingerprint(key));
        let mut keys: Vec<_> = self.keys.iter().filter(is_there).cloned().collect();
        keys.sort_unstable();
        Ok(keys.into_iter().filter(|key| after.is_none_or(|after| key > after)).take(limit).collect())
    }

    pub(crate) fn stored_cold(&self, key: &SessionKey) -> Result<Option<StoredCold>> {
        Ok(self.written().contains_key(&self.fingerprint(key)).then_some(StoredCold))
    }

    pub(crate) fn decode_cold(&self, _: &SessionKey, _: &StoredCold) -> Result<Cold> {
        Ok(Cold { session_id: session_id(), created_at: Timestamp::MIN, details: Details::default(), extras: None })
    }

    pub(crate) fn extras(&self, _: &SessionKey, _: ExtrasRef) -> Result<Extras> {
        Ok(Extras::default())
    }

    pub(crate) fn blob(&self, _: &SessionKey, _: ExtrasRef) -> Result<Vec<u8>> {
        Ok(Vec::new())
    }

    pub(crate) fn damaged_extras(&self, key: &SessionKey, error: CodecError) -> Error {
        Error::DamagedRecord { record: "extras", key: key.to_string(), source: Box::new(error) }
    }

    pub(crate) fn encode_failed(&self, error: CodecError) -> Error {
        Error::Engine { action: "encode a record", source: Box::new(error) }
    }
}
