//! The first half of a repair: looks at every row, and puts the bytes of what cannot stay into the quarantine.
//!
//! The journal comes first, and is carried to its trees. After that this half changes nothing in them, and all of it is
//! synced before the second half begins. So a repair that is cut short has lost nothing, and is run again.
//!
//! An entry is what has a cold record that reads, under a key that is one. Rows that belong to no entry go into the
//! quarantine if they hold something: they may be all that is left of one.

use std::collections::{HashMap, HashSet};

use super::quarantine::Quarantine;
use crate::codec::{
    Activity, AgePage, CodecError, ExtrasRow, Fingerprint, IdRow, JournalRow, LeaseRow, NoteRow, Turn, decode_cold,
    whole_fingerprint,
};
use crate::error::{Result, with_causes};
use crate::key::SessionKey;
use crate::storage::engine::change::encode_error;
use crate::storage::engine::lookup::key;
use crate::storage::engine::memtable::Newest;
use crate::storage::engine::trees::{engine_error, meta};
use crate::storage::engine::{Engine, bytes};
use crate::time::Timestamp;
use crate::unreadable::Unreadable;

/// What the second half has to know.
#[derive(Debug, Default)]
pub(in crate::storage) struct Salvaged {
    /// Entries without a hot record that reads, and the newest time at which the index has them.
    pub(in crate::storage) without_hot: HashMap<Fingerprint, Option<Timestamp>>,
    /// What the journal says of entries that have no readable row in `activity`.
    pub(in crate::storage) late: HashMap<Fingerprint, Newest>,
    /// Entries whose extras are not whole.
    pub(in crate::storage) broken_extras: HashSet<Fingerprint>,
    /// Notes that cannot be decoded: the keys of their rows.
    pub(in crate::storage) broken_notes: Vec<Vec<sled::IVec>>,
    /// The time zone of the last import cannot be decoded.
    pub(in crate::storage) broken_zone: bool,
}

#[derive(Debug)]
struct Survey<'a> {
    engine: &'a Engine,
    quarantine: &'a mut Quarantine,
    live: HashSet<Fingerprint>,
    /// Entries of which there are remains, but no cold record.
    lost: HashSet<Fingerprint>,
    salvaged: Salvaged,
}

/// Puts what carrying the journal would lose into the quarantine, and syncs it: rows that cannot be decoded, and records
/// that have no readable row in `activity` to replace. Answers how many rows of the journal cannot be decoded, and those
/// records.
pub(in crate::storage) fn salvage_journal(
    engine: &Engine,
    quarantine: &mut Quarantine,
) -> Result<(u64, HashMap<Fingerprint, Newest>)> {
    for row in &engine.trees.journal {
        let (row, value) = row.map_err(|e| engine_error("read", e))?;
        if let Err(error) = JournalRow::number(&row).and_then(|_| JournalRow::decode(&value)) {
            quarantine.add("journal", &row, &value, &with_causes(&error))?;
        }
    }
    let unreadable = quarantine.lines();
    let mut late = HashMap::new();
    for entry in engine.memtable.entries() {
        let Some(newest) = engine.memtable.get(entry) else { continue };
        let stored = engine.activity(entry)?;
        let reason = match stored.as_deref().map(Activity::decode) {
            Some(Ok(_)) => continue,
            Some(Err(error)) => with_causes(&error),
            None => "it has no row in activity".into(),
        };
        let mut row = JournalRow::new();
        row.push(&newest.record(entry)).map_err(encode_error)?;
        quarantine.add("journal", entry.as_bytes(), row.value(), &reason)?;
        late.insert(entry, newest);
    }
    quarantine.sync()?;
    Ok((unreadable, late))
}

/// Fills the quarantine and syncs it.
pub(in crate::storage) fn salvage(engine: &Engine, quarantine: &mut Quarantine) -> Result<Salvaged> {
    let mut survey =
        Survey { engine, quarantine, live: HashSet::new(), lost: HashSet::new(), salvaged: Salvaged::default() };
    survey.entries()?;
    survey.activity()?;
    survey.index_rows()?;
    survey.extras()?;
    survey.turns()?;
    survey.leases()?;
    survey.notes()?;
    survey.zone()?;
    survey.quarantine.sync()?;
    Ok(survey.salvaged)
}

impl Survey<'_> {
    fn entries(&mut self) -> Result<()> {
        for row in self.engine.trees.sessions.iter() {
            let (row, value) = row.map_err(|e| engine_error("read", e))?;
            let key = match key(&row) {
                Ok(key) => key,
                Err(error) => {
                    self.quarantine.add("sessions", &row, &value, &with_causes(&error))?;
                    continue;
                }
            };
            let entry = self.engine.fingerprint(&key);
            match decode_cold(&value) {
                Ok(_) => {
                    self.live.insert(entry);
                    self.extras_of(&key, entry, &value)?;
                }
                Err(error) => {
                    self.lost.insert(entry);
                    self.quarantine.add("sessions", &row, &value, &with_causes(&error))?;
                }
            }
        }
        Ok(())
    }

    /// Notes an entry whose extras, or the details that were spilled into them, are not whole.
    fn extras_of(&mut self, key: &SessionKey, entry: Fingerprint, value: &[u8]) -> Result<()> {
        if let Err(error) = self.engine.check_extras(key, value)? {
            self.salvaged.broken_extras.insert(entry);
            self.quarantine.add("sessions", bytes(key), value, &format!("its extras are not whole: {error}"))?;
        }
        Ok(())
    }

    fn activity(&mut self) -> Result<()> {
        let mut with_hot = HashSet::new();
        for row in self.engine.trees.activity.iter() {
            let (row, value) = row.map_err(|e| engine_error("read", e))?;
            let reason = match self.engine.activity_row(&row, &value) {
                Err(error) => with_causes(&error),
                Ok((entry, _)) if self.live.contains(&entry) => {
                    with_hot.insert(entry);
                    continue;
                }
                Ok(_) => "it has no entry".into(),
            };
            self.lost.extend(whole_fingerprint(&row).ok().filter(|entry| !self.live.contains(entry)));
            self.quarantine.add("activity", &row, &value, &reason)?;
        }
        self.salvaged.without_hot = self.live.difference(&with_hot).map(|entry| (*entry, None)).collect();
        Ok(())
    }

    fn index_rows(&mut self) -> Result<()> {
        for row in self.engine.trees.by_updated_at.iter() {
            let (row, value) = row.map_err(|e| engine_error("read", e))?;
            match AgePage::decode(&row, &value) {
                Err(error) => self.quarantine.add("by_updated_at", &row, &value, &with_causes(&error))?,
                Ok(rows) => {
                    for row in rows {
                        if let Some(newest) = self.salvaged.without_hot.get_mut(&row.entry) {
                            *newest = (*newest).max(Some(row.time));
                        }
                        if self.lost.contains(&row.entry) {
                            self.quarantine.add("by_updated_at", &row.encode(), &[], "its entry is lost")?;
                        }
                    }
                }
            }
        }
        self.each("by_session_id", &self.engine.trees.by_session_id, |this, row, _| match IdRow::decode(row) {
            Err(error) => Some(with_causes(&error)),
            Ok(row) => (!this.live.contains(&row.entry)).then(|| "it has no entry".into()),
        })
    }

    /// Chunks that nobody names are the ordinary remains of a crash, but not where their entry is lost.
    fn extras(&mut self) -> Result<()> {
        self.each("extras", &self.engine.trees.extras, |this, row, _| {
            let entry = ExtrasRow::decode(row).map(|row| row.entry);
            let is_broken = entry.as_ref().is_ok_and(|entry| this.salvaged.broken_extras.contains(entry));
            this.why_lost(entry).or_else(|| is_broken.then(|| "a part of extras that are not whole".into()))
        })
    }

    fn turns(&mut self) -> Result<()> {
        let tree = &self.engine.trees.turns;
        self.each("turns", tree, |this, row, value| this.why_lost(Turn::of_row(row, value).map(|(entry, _)| entry)))
    }

    fn leases(&mut self) -> Result<()> {
        let tree = &self.engine.trees.leases;
        self.each("leases", tree, |this, row, value| this.why_lost(LeaseRow::term(row, value).map(|(entry, _)| entry)))
    }

    /// Why a row does not stay, if it cannot be decoded or its entry is lost.
    fn why_lost(&self, entry: Result<Fingerprint, CodecError>) -> Option<String> {
        match entry {
            Err(error) => Some(with_causes(&error)),
            Ok(entry) => self.lost.contains(&entry).then(|| "its entry is lost".into()),
        }
    }

    /// Puts the rows of a tree into the quarantine for which there is a reason.
    fn each(
        &mut self,
        name: &str,
        tree: &sled::Tree,
        reason: impl Fn(&Self, &[u8], &[u8]) -> Option<String>,
    ) -> Result<()> {
        for row in tree {
            let (row, value) = row.map_err(|e| engine_error("read", e))?;
            if let Some(reason) = reason(self, &row, &value) {
                self.quarantine.add(name, &row, &value, &reason)?;
            }
        }
        Ok(())
    }
}

impl Survey<'_> {
    /// Notes are rows of `meta` that belong together. Where one of them is lost the text is no JSON any more.
    fn notes(&mut self) -> Result<()> {
        let meta = &self.engine.trees.meta;
        let mut start = NoteRow::ALL.to_vec();
        while let Some(row) = meta.range(start..).keys().next() {
            let row = row.map_err(|e| engine_error("read notes", e))?;
            if !row.starts_with(NoteRow::ALL) {
                break;
            }
            let (prefix, reason) = match NoteRow::decode(&row) {
                Ok((name, _)) => {
                    start = NoteRow::after(name);
                    let reason = Unreadable::split(self.engine.note(name))?.err().map(|record| record.reason);
                    (NoteRow::prefix(name), reason)
                }
                Err(error) => {
                    start = [&row[..], &[0]].concat();
                    (row.to_vec(), Some(with_causes(&error)))
                }
            };
            let Some(reason) = reason else { continue };
            let mut rows = Vec::new();
            for part in meta.scan_prefix(&prefix) {
                let (part, value) = part.map_err(|e| engine_error("read notes", e))?;
                // A row that is none goes alone, whatever begins like it.
                if prefix.last() == Some(&0) || part == row {
                    self.quarantine.add("meta", &part, &value, &reason)?;
                    rows.push(part);
                }
            }
            self.salvaged.broken_notes.push(rows);
        }
        Ok(())
    }

    fn zone(&mut self) -> Result<()> {
        if let Err(record) = Unreadable::split(self.engine.zone())? {
            let value = self.engine.trees.meta.get(meta::ZONE).map_err(|e| engine_error("read", e))?;
            self.quarantine.add("meta", meta::ZONE.as_bytes(), &value.unwrap_or_default(), &record.reason)?;
            self.salvaged.broken_zone = true;
        }
        Ok(())
    }
}
