//! The baseline: what gateways do. A hash map in memory; each touch writes all of it to a temporary file, pretty-printed
//! with two blanks, syncs that and renames it into place.
//!
//! Faithful in what it writes; generous in how fast, since the gateways serialize in Python or JavaScript.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use super::contender::{Contender, Fields};
use super::people::{Record, record, text_of_time, time_of_text};

/// The whole store.
#[derive(Debug)]
pub struct JsonStore {
    path: PathBuf,
    keys: Vec<String>,
    sessions: Mutex<HashMap<String, Record>>,
}

impl JsonStore {
    /// Reads `sessions.json` in `dir`, if it is there.
    pub fn open(dir: &Path, keys: Vec<String>) -> Self {
        let path = dir.join("sessions.json");
        let sessions = match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).unwrap(),
            Err(_) => HashMap::new(),
        };
        Self { path, keys, sessions: Mutex::new(sessions) }
    }

    fn save(&self, sessions: &HashMap<String, Record>) {
        let temporary = self.path.with_extension("tmp");
        let mut file = BufWriter::with_capacity(1 << 20, File::create(&temporary).unwrap());
        serde_json::to_writer_pretty(&mut file, sessions).unwrap();
        file.flush().unwrap();
        file.get_ref().sync_all().unwrap();
        fs::rename(&temporary, &self.path).unwrap();
    }

    /// Makes entries without writing the file.
    pub fn create_unsaved(&self, entries: Range<usize>, at: &dyn Fn(usize) -> i64) {
        let mut sessions = self.sessions.lock().unwrap();
        for entry in entries {
            let record = record(entry, self.keys.len(), at(entry));
            sessions.insert(record.session_key.clone(), record);
        }
    }
}

impl Contender for JsonStore {
    fn name(&self) -> &'static str {
        "json"
    }

    fn create(&self, entries: Range<usize>, at: &dyn Fn(usize) -> i64) {
        self.create_unsaved(entries, at);
        self.save(&self.sessions.lock().unwrap());
    }

    fn touches(&self, stream: &mut dyn Iterator<Item = (usize, i64)>) {
        for (entry, now) in stream {
            self.touch_durable(entry, now);
        }
    }

    fn modifies(&self, fields: Fields, stream: &mut dyn Iterator<Item = (usize, i64)>) -> bool {
        for (entry, now) in stream {
            let mut sessions = self.sessions.lock().unwrap();
            sessions.get_mut(&self.keys[entry]).unwrap().change(fields, now);
            self.save(&sessions);
        }
        true
    }

    fn touch_durable(&self, entry: usize, now: i64) {
        let mut sessions = self.sessions.lock().unwrap();
        sessions.get_mut(&self.keys[entry]).unwrap().updated_at = text_of_time(now);
        self.save(&sessions);
    }

    fn get(&self, entry: usize) -> Option<i64> {
        let found = self.sessions.lock().unwrap().get(&self.keys[entry]).cloned();
        found.map(|record| time_of_text(&record.updated_at))
    }

    fn prune(&self, cutoff: i64) -> u64 {
        let mut sessions = self.sessions.lock().unwrap();
        let before = sessions.len();
        // The texts compare like the times, as in the gateways.
        let cutoff = text_of_time(cutoff);
        sessions.retain(|_, record| record.updated_at >= cutoff);
        let removed = before - sessions.len();
        if removed > 0 {
            self.save(&sessions);
        }
        removed as u64
    }

    fn recent(&self, limit: usize) -> Vec<i64> {
        let sessions = self.sessions.lock().unwrap();
        let mut all: Vec<&Record> = sessions.values().collect();
        all.sort_unstable_by(|a, b| b.updated_at.cmp(&a.updated_at));
        all.iter().take(limit).map(|record| time_of_text(&record.updated_at)).collect()
    }

    fn count(&self) -> u64 {
        self.sessions.lock().unwrap().len() as u64
    }
}
