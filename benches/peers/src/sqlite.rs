//! SQLite, twice: as gateways use it, and as well as it can be done.

use std::collections::HashMap;
use std::hint::black_box;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Instant;

use rusqlite::{Connection, params};

use crate::group::Group;
use crate::support::contender::{COMMIT_INTERVAL, Contender, Fields};
use crate::support::people::{Record, record, text_of_time, time_of_text};

fn connect(dir: &Path, schema: &str) -> Connection {
    let db = Connection::open(dir.join("sessions.sqlite")).unwrap();
    db.execute_batch("PRAGMA journal_mode = WAL; PRAGMA cache_size = -262144;").unwrap();
    db.execute_batch(schema).unwrap();
    db.set_prepared_statement_cache_capacity(32);
    db
}

/// One row of JSON for each entry, one UPSERT for each touch, each a transaction of its own. Relaxed touches use
/// `synchronous = NORMAL`, which syncs at checkpoints only: less than the others promise.
pub struct SqliteJson {
    db: Mutex<Connection>,
    sessions: Mutex<HashMap<usize, Record>>,
    keys: Arc<Vec<String>>,
}

impl SqliteJson {
    pub fn open(dir: &Path, keys: Arc<Vec<String>>) -> Self {
        let schema = "CREATE TABLE IF NOT EXISTS sessions (key TEXT PRIMARY KEY, value TEXT NOT NULL)";
        let db = connect(dir, schema);
        // All of it is in memory, as in a gateway.
        let mut select = db.prepare("SELECT value FROM sessions WHERE key = ?1").unwrap();
        let found = keys.iter().enumerate().filter_map(|(entry, key)| {
            let text: String = select.query_row([key], |row| row.get(0)).ok()?;
            Some((entry, serde_json::from_str(&text).unwrap()))
        });
        let sessions = Mutex::new(found.collect());
        drop(select);
        Self { db: Mutex::new(db), sessions, keys }
    }

    fn set_synchronous(&self, level: &str) {
        self.db.lock().unwrap().execute_batch(&format!("PRAGMA synchronous = {level}")).unwrap();
    }

    fn upsert(&self, db: &Connection, key: &str, record: &Record) {
        const SQL: &str = "INSERT INTO sessions VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET value = excluded.value";
        let text = serde_json::to_string(record).unwrap();
        assert_eq!(db.prepare_cached(SQL).unwrap().execute(params![key, text]).unwrap(), 1);
    }

    fn touch(&self, entry: usize, now: i64) {
        let mut sessions = self.sessions.lock().unwrap();
        let record = sessions.get_mut(&entry).unwrap();
        record.updated_at = text_of_time(now);
        self.upsert(&self.db.lock().unwrap(), &self.keys[entry], record);
    }
}

impl Contender for SqliteJson {
    fn name(&self) -> &'static str {
        "sqlite_json"
    }

    fn create(&self, entries: Range<usize>, at: &dyn Fn(usize) -> i64) {
        self.set_synchronous("FULL");
        let mut sessions = self.sessions.lock().unwrap();
        let mut db = self.db.lock().unwrap();
        let txn = db.transaction().unwrap();
        for entry in entries {
            let record = record(entry, self.keys.len(), at(entry));
            self.upsert(&txn, &self.keys[entry], &record);
            sessions.insert(entry, record);
        }
        txn.commit().unwrap();
    }

    fn touches(&self, stream: &mut dyn Iterator<Item = (usize, i64)>) {
        self.set_synchronous("NORMAL");
        for (entry, now) in stream {
            self.touch(entry, now);
        }
        let db = self.db.lock().unwrap();
        db.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(())).unwrap();
    }

    fn modifies(&self, fields: Fields, stream: &mut dyn Iterator<Item = (usize, i64)>) -> bool {
        self.set_synchronous("NORMAL");
        for (entry, now) in stream {
            let mut sessions = self.sessions.lock().unwrap();
            let record = sessions.get_mut(&entry).unwrap();
            record.change(fields, now);
            self.upsert(&self.db.lock().unwrap(), &self.keys[entry], record);
        }
        let db = self.db.lock().unwrap();
        db.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(())).unwrap();
        true
    }

    fn touch_durable(&self, entry: usize, now: i64) {
        // Set by the load; the relaxed touches come before. Cheap when it is so already.
        self.set_synchronous("FULL");
        self.touch(entry, now);
    }

    fn get(&self, entry: usize) -> Option<i64> {
        let db = self.db.lock().unwrap();
        let mut select = db.prepare_cached("SELECT value FROM sessions WHERE key = ?1").unwrap();
        let text: String = select.query_row([&self.keys[entry]], |row| row.get(0)).ok()?;
        let record: Record = serde_json::from_str(&text).unwrap();
        Some(time_of_text(&record.updated_at))
    }

    fn prune(&self, cutoff: i64) -> u64 {
        let cutoff = text_of_time(cutoff);
        let mut sessions = self.sessions.lock().unwrap();
        let expired: Vec<usize> =
            sessions.iter().filter(|(_, record)| record.updated_at < cutoff).map(|(entry, _)| *entry).collect();
        if expired.is_empty() {
            return 0;
        }
        self.set_synchronous("FULL");
        expired.iter().for_each(|entry| drop(sessions.remove(entry)));
        // A structural change replaces everything.
        let mut db = self.db.lock().unwrap();
        let txn = db.transaction().unwrap();
        txn.execute("DELETE FROM sessions", []).unwrap();
        for (entry, record) in sessions.iter() {
            self.upsert(&txn, &self.keys[*entry], record);
        }
        txn.commit().unwrap();
        expired.len() as u64
    }

    fn recent(&self, limit: usize) -> Vec<i64> {
        let sessions = self.sessions.lock().unwrap();
        let mut times: Vec<&String> = sessions.values().map(|record| &record.updated_at).collect();
        times.sort_unstable_by(|a, b| b.cmp(a));
        times.into_iter().take(limit).map(|text| time_of_text(text)).collect()
    }

    fn count(&self) -> u64 {
        self.db.lock().unwrap().query_row("SELECT count(*) FROM sessions", [], |row| row.get::<_, i64>(0)).unwrap()
            as u64
    }
}

/// Typed columns, an index on `updated_at`, prepared statements, transactions as long as Cloakroom's commits and synced
/// as those are.
pub struct Sqlite {
    db: Mutex<Connection>,
    keys: Arc<Vec<String>>,
    group: Group,
}

const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS sessions (
        id INTEGER PRIMARY KEY, updated_at INTEGER NOT NULL, flags INTEGER NOT NULL, input_tokens INTEGER NOT NULL,
        output_tokens INTEGER NOT NULL, total_tokens INTEGER NOT NULL, cost REAL NOT NULL, key TEXT NOT NULL UNIQUE,
        session_id TEXT NOT NULL, created_at INTEGER NOT NULL, display_name TEXT, platform TEXT, chat_type TEXT,
        cost_status TEXT, chat_id TEXT, chat_name TEXT, user_id TEXT, user_name TEXT, guild_id TEXT, message_id TEXT);
    CREATE INDEX IF NOT EXISTS by_updated_at ON sessions (updated_at);
    PRAGMA synchronous = FULL;";

impl Sqlite {
    pub fn open(dir: &Path, keys: Arc<Vec<String>>) -> Self {
        Self { db: Mutex::new(connect(dir, SCHEMA)), keys, group: Group::default() }
    }

    fn touch(&self, db: &Connection, (entry, now): (usize, i64)) {
        let mut update =
            db.prepare_cached("UPDATE sessions SET updated_at = max(updated_at, ?2) WHERE key = ?1").unwrap();
        assert_eq!(update.execute(params![self.keys[entry], now]).unwrap(), 1);
    }

    /// Transactions as long as Cloakroom's commits.
    fn in_groups(&self, stream: &mut dyn Iterator<Item = (usize, i64)>, change: impl Fn(&Connection, (usize, i64))) {
        let mut ended = false;
        while !ended {
            let mut db = self.db.lock().unwrap();
            let txn = db.transaction().unwrap();
            let started = Instant::now();
            'group: while started.elapsed() < COMMIT_INTERVAL {
                for _ in 0..16 {
                    match stream.next() {
                        Some(touch) => change(&txn, touch),
                        None => {
                            ended = true;
                            break 'group;
                        }
                    }
                }
            }
            txn.commit().unwrap();
            drop(db);
            thread::yield_now();
        }
    }
}

impl Contender for Sqlite {
    fn name(&self) -> &'static str {
        "sqlite"
    }

    fn create(&self, entries: Range<usize>, at: &dyn Fn(usize) -> i64) {
        const SQL: &str = "INSERT INTO sessions (updated_at, flags, input_tokens, output_tokens, total_tokens, cost,
            key, session_id, created_at, display_name, platform, chat_type, cost_status, chat_id, chat_name, user_id,
            user_name, guild_id, message_id)
            VALUES (?1, 0, 0, 0, 0, 0.0, ?2, ?3, ?1, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)";
        let mut db = self.db.lock().unwrap();
        let txn = db.transaction().unwrap();
        for entry in entries {
            let r = record(entry, self.keys.len(), at(entry));
            let o = &r.origin;
            let mut insert = txn.prepare_cached(SQL).unwrap();
            insert
                .execute(params![
                    at(entry),
                    r.session_key,
                    r.session_id,
                    r.display_name,
                    r.platform,
                    r.chat_type,
                    r.cost_status,
                    o.chat_id,
                    o.chat_name,
                    o.user_id,
                    o.user_name,
                    o.guild_id,
                    o.message_id
                ])
                .unwrap();
        }
        txn.commit().unwrap();
    }

    fn touches(&self, stream: &mut dyn Iterator<Item = (usize, i64)>) {
        self.in_groups(stream, |db, touch| self.touch(db, touch));
    }

    fn modifies(&self, fields: Fields, stream: &mut dyn Iterator<Item = (usize, i64)>) -> bool {
        self.in_groups(stream, |db, (entry, now)| {
            let key = &self.keys[entry];
            let set = "UPDATE sessions SET updated_at = max(updated_at, ?2), total_tokens = total_tokens + 7";
            let changed = match fields {
                Fields::Counters => {
                    let sql = format!("{set}, output_tokens = ?2 WHERE key = ?1");
                    db.prepare_cached(&sql).unwrap().execute(params![key, now])
                }
                Fields::Details => {
                    let sql = format!("{set}, display_name = ?3 WHERE key = ?1");
                    db.prepare_cached(&sql).unwrap().execute(params![key, now, format!("shown {now}")])
                }
            };
            assert_eq!(changed.unwrap(), 1);
        });
        true
    }

    fn touch_durable(&self, entry: usize, now: i64) {
        self.group.run((entry, now), |group| {
            let mut db = self.db.lock().unwrap();
            let txn = db.transaction().unwrap();
            group.iter().for_each(|touch| self.touch(&txn, *touch));
            txn.commit().unwrap();
        });
    }

    fn get(&self, entry: usize) -> Option<i64> {
        let db = self.db.lock().unwrap();
        let mut select = db.prepare_cached("SELECT * FROM sessions WHERE key = ?1").unwrap();
        let found = select.query_row([&self.keys[entry]], |row| {
            for column in [7, 8, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19] {
                black_box(row.get::<_, Option<String>>(column)?);
            }
            row.get("updated_at")
        });
        found.ok()
    }

    fn prune(&self, cutoff: i64) -> u64 {
        let db = self.db.lock().unwrap();
        db.prepare_cached("DELETE FROM sessions WHERE updated_at < ?1").unwrap().execute([cutoff]).unwrap() as u64
    }

    fn recent(&self, limit: usize) -> Vec<i64> {
        let db = self.db.lock().unwrap();
        let mut select =
            db.prepare_cached("SELECT key, updated_at, flags FROM sessions ORDER BY updated_at DESC LIMIT ?1").unwrap();
        let rows = select.query_map([limit as i64], |row| {
            black_box(row.get::<_, String>(0)?);
            row.get(1)
        });
        rows.unwrap().map(Result::unwrap).collect()
    }

    fn count(&self) -> u64 {
        self.db.lock().unwrap().query_row("SELECT count(*) FROM sessions", [], |row| row.get::<_, i64>(0)).unwrap()
            as u64
    }
}
