//! Import of the gateways' SQLite databases, and the way back.
//!
//! `tests/fixtures/databases` holds the tables as the gateways themselves made and filled them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use cloakroom::export::{ExportFormat, ExportOptions};
use cloakroom::import::{Database, ImportOptions, ImportReport};
use cloakroom::{Error, Options, SessionStore};
use rusqlite::Connection;
use serde_json::{Value, json};
use tempfile::TempDir;

const SCOPE: &str = "/home/ada/.hermes/sessions";
const TABLE: &str = "CREATE TABLE gateway_routing (scope TEXT NOT NULL DEFAULT '', session_key TEXT NOT NULL, \
     entry_json TEXT NOT NULL, updated_at REAL NOT NULL, PRIMARY KEY (scope, session_key));";

fn fixture(name: &str) -> String {
    fs::read_to_string(format!("{}/tests/fixtures/databases/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

/// A directory with a database, and a place for the store.
struct Home {
    dir: TempDir,
    db: PathBuf,
}

impl Home {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("gateway")).unwrap();
        let db = dir.path().join("gateway/state.db");
        Self { dir, db }
    }

    fn of(sql: &str) -> Self {
        let home = Self::new();
        home.connect().execute_batch(sql).unwrap();
        home
    }

    fn connect(&self) -> Connection {
        Connection::open(&self.db).unwrap()
    }

    fn store(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    fn create(&self) -> cloakroom::Result<ImportReport> {
        self.create_of(&Database::open(&self.db)?)
    }

    fn create_of(&self, database: &Database) -> cloakroom::Result<ImportReport> {
        let _ = fs::remove_dir_all(self.store());
        SessionStore::create_from_database(Options::new(self.store()), database, options(), |_| {})
    }

    /// All entries of the store, as the gateway writes them.
    fn entries(&self, format: ExportFormat) -> BTreeMap<String, Value> {
        let store = SessionStore::open(Options::new(self.store())).unwrap();
        let mut out = Vec::new();
        store.export(&mut out, &ExportOptions::new(format)).unwrap();
        serde_json::from_slice(&out).unwrap()
    }

    /// What is in the gateway's directory: names, contents, times.
    fn files(&self) -> BTreeMap<PathBuf, (Vec<u8>, SystemTime)> {
        let files = fs::read_dir(self.db.parent().unwrap()).unwrap().map(|entry| entry.unwrap().path());
        files.map(|p| (p.clone(), (fs::read(&p).unwrap(), p.metadata().unwrap().modified().unwrap()))).collect()
    }
}

fn options<'a>() -> ImportOptions<'a> {
    ImportOptions::new().zone("Europe/Berlin".parse().unwrap())
}

/// The rows of the table, read by SQLite itself.
fn rows(connection: &Connection, table: &str) -> BTreeMap<String, Value> {
    let mut statement = connection.prepare(&format!("SELECT session_key, entry_json FROM {table}")).unwrap();
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get::<_, String>(1)?))).unwrap();
    rows.map(|row| row.map(|(key, text)| (key, serde_json::from_str(&text).unwrap())).unwrap()).collect()
}

fn entry(id: &str) -> Value {
    json!({"session_id": id, "created_at": "2026-06-01T10:00:00", "updated_at": "2026-06-03T10:00:00"})
}

fn put(connection: &Connection, scope: &str, key: &str, entry: &str) {
    let sql = "INSERT OR REPLACE INTO gateway_routing VALUES (?1, ?2, ?3, 1.5)";
    connection.execute(sql, [scope, key, entry]).unwrap();
}

/// A database of Hermes with `count` entries.
fn many(count: usize) -> Home {
    let home = Home::of(TABLE);
    let connection = home.connect();
    connection.execute_batch("BEGIN").unwrap();
    for n in 0..count {
        put(&connection, SCOPE, &format!("mine:{n}"), &entry(&format!("run-{n}")).to_string());
    }
    connection.execute_batch("COMMIT").unwrap();
    home
}

#[test]
fn what_the_gateways_wrote_goes_in_and_comes_out() {
    for (name, table, format) in [
        ("hermes-0.19.0", "gateway_routing", ExportFormat::Hermes),
        ("hermes-0.22.2", "gateway_routing", ExportFormat::Hermes),
        ("openclaw-2026.9.6", "session_nodes", ExportFormat::OpenClaw),
    ] {
        for mode in ["DELETE", "WAL"] {
            let home = Home::of(&format!("PRAGMA journal_mode = {mode}; {}", fixture(&format!("{name}.sql"))));
            let expected = rows(&home.connect(), table);
            assert!(expected.len() >= 4);
            let before = home.files();
            let report = home.create().unwrap();
            assert_eq!(home.files(), before, "{name}, {mode}: nothing is written, and nothing left");
            assert_eq!((report.read, report.imported), (expected.len() as u64, expected.len() as u64), "{name}");
            assert!(report.is_complete() && report.clamped == 0 && report.odd_values == 0, "{report:?}");
            assert_eq!(home.entries(format), expected, "{name}, {mode}");
        }
    }
}

/// As a gateway leaves it that was killed: the newest entries are in the log only.
#[test]
fn a_log_of_writes_beside_it_counts() {
    let home = Home::of(&format!("PRAGMA journal_mode = WAL; {TABLE}"));
    let writer = home.connect();
    writer.execute_batch("PRAGMA wal_autocheckpoint = 0").unwrap();
    put(&writer, SCOPE, "mine:1", &entry("one").to_string());
    put(&writer, SCOPE, "mine:2", &entry("two").to_string());
    for with_index in [true, false] {
        let killed = Home::new();
        for suffix in ["", "-wal", "-shm"].iter().filter(|suffix| with_index || **suffix != "-shm") {
            fs::copy(format!("{}{suffix}", home.db.display()), format!("{}{suffix}", killed.db.display())).unwrap();
        }
        let before = killed.files();
        assert_eq!(before.len(), if with_index { 3 } else { 2 });
        assert_eq!(killed.create().unwrap().imported, 2);
        assert_eq!(killed.files(), before);
        assert_eq!(killed.entries(ExportFormat::Hermes)["mine:2"]["session_id"], "two");
    }
    // And while the gateway has it open.
    assert_eq!(home.create().unwrap().imported, 2);
    put(&writer, SCOPE, "mine:3", &entry("three").to_string());
    assert_eq!(home.create().unwrap().imported, 3);
}

#[test]
fn one_that_is_locked_is_copied_and_no_lock_is_left() {
    let home = many(3);
    let writer = home.connect();
    writer.busy_timeout(Duration::ZERO).unwrap();
    // Somebody is about to write, and what he writes is not there yet.
    writer.execute_batch("BEGIN EXCLUSIVE").unwrap();
    put(&writer, SCOPE, "mine:3", &entry("later").to_string());
    assert_eq!(home.create().unwrap().imported, 3);
    writer.execute_batch("COMMIT").unwrap();
    let database = Database::open(&home.db).unwrap();
    assert_eq!(home.create_of(&database).unwrap().imported, 4);
    drop(database);
    put(&writer, SCOPE, "mine:4", &entry("at once").to_string());
    assert_eq!(home.create().unwrap().imported, 5);
}

/// A transaction whose pages are in the database already when the gateway is killed is undone, in the copy.
#[test]
fn a_transaction_that_was_cut_short_does_not_count() {
    let home = many(400);
    let writer = home.connect();
    writer.execute_batch("PRAGMA cache_size = 2; BEGIN").unwrap();
    let changed = writer.execute("UPDATE gateway_routing SET entry_json = replace(entry_json, 'run-', 'bad-')", []);
    assert_eq!(changed.unwrap(), 400);
    let killed = Home::new();
    for suffix in ["", "-journal"] {
        fs::copy(format!("{}{suffix}", home.db.display()), format!("{}{suffix}", killed.db.display())).unwrap();
    }
    assert!(String::from_utf8_lossy(&fs::read(&killed.db).unwrap()).contains("bad-"), "it is not half written");
    let before = killed.files();
    assert_eq!(killed.create().unwrap().imported, 400);
    assert_eq!(killed.files(), before);
    let ids = killed.entries(ExportFormat::Hermes);
    assert!(ids.values().all(|entry| entry["session_id"].as_str().unwrap().starts_with("run-")));
}

/// Each transaction of the writer gives all entries one generation: an import that sees two of them is torn.
#[test]
fn one_that_is_written_meanwhile_is_of_one_moment() {
    for mode in ["DELETE", "WAL"] {
        let home = many(60);
        home.connect().execute_batch(&format!("PRAGMA journal_mode = {mode}")).unwrap();
        let ends = AtomicBool::new(false);
        let (mut seen, mut last) = (0, 0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let writer = home.connect();
                writer.busy_timeout(Duration::from_secs(60)).unwrap();
                writer.execute_batch("PRAGMA synchronous = OFF; PRAGMA wal_autocheckpoint = 50").unwrap();
                for generation in 1.. {
                    if ends.load(Ordering::Relaxed) {
                        break;
                    }
                    let text = entry(&format!("run-{generation}")).to_string();
                    writer.execute("UPDATE gateway_routing SET entry_json = ?1", [&text]).unwrap();
                    // A gateway rests between two messages.
                    std::thread::sleep(Duration::from_millis(5));
                }
            });
            while seen < 6 {
                match home.create() {
                    Ok(report) => assert_eq!((report.imported, report.damage), (60, None), "{mode}"),
                    // It was written all the while, which the message says.
                    Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::ResourceBusy => continue,
                    Err(error) => panic!("{mode}: {error}"),
                }
                let entries = home.entries(ExportFormat::Hermes);
                let ids: Vec<_> = entries.values().map(|entry| entry["session_id"].as_str().unwrap()).collect();
                let generation = |id: &str| id.strip_prefix("run-").unwrap().parse::<u32>().unwrap();
                if ids.iter().any(|id| *id != ids[0]) {
                    // Nothing has been written yet.
                    assert!(last == 0 && ids.iter().all(|id| generation(id) < 60), "{mode}: torn");
                    continue;
                }
                assert!(generation(ids[0]) >= last, "{mode}");
                last = generation(ids[0]);
                seen += 1;
            }
            ends.store(true, Ordering::Relaxed);
        });
    }
}

#[test]
fn bad_rows_are_set_aside_by_their_numbers() {
    let home = Home::of(TABLE);
    let connection = home.connect();
    put(&connection, SCOPE, "mine:1", &entry("one").to_string());
    put(&connection, SCOPE, "mine:2", "{\"session_id\": \"two\"");
    put(&connection, SCOPE, "mine:3", "} , \"x\": {");
    put(&connection, SCOPE, "", &entry("four").to_string());
    put(&connection, SCOPE, "mine:5", "7");
    connection.execute("INSERT INTO gateway_routing VALUES ('', x'ff', '{}', 1)", []).unwrap();
    connection.execute("INSERT INTO gateway_routing VALUES ('', 'mine:7', x'7bff', 1)", []).unwrap();
    connection.execute("INSERT INTO gateway_routing VALUES ('', 'mine:8', 12, 1)", []).unwrap();
    put(&connection, SCOPE, "mine:9", &json!({"session_id": "nine", "x": "x".repeat(2 << 20)}).to_string());
    put(&connection, SCOPE, &"k".repeat(10_000), &entry("ten").to_string());
    put(&connection, SCOPE, "mine:11", &entry("eleven").to_string());
    let mut quarantine = Vec::new();
    let database = Database::open(&home.db).unwrap();
    let import = options().quarantine(&mut quarantine);
    let report = SessionStore::create_from_database(Options::new(home.store()), &database, import, |_| {}).unwrap();
    assert_eq!((report.read, report.imported, report.quarantined), (11, 2, 9), "{report:?}");
    assert_eq!(report.problems.iter().map(|bad| bad.line).collect::<Vec<_>>(), [2, 3, 4, 5, 6, 7, 8, 9, 10]);
    let lines = String::from_utf8(quarantine).unwrap();
    let bad: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((&bad[0]["key"], &bad[0]["raw"]), (&json!("mine:2"), &json!("{\"session_id\": \"two\"")));
    assert_eq!((&bad[4]["key_hex"], &bad[5]["raw_hex"]), (&json!("22ff22"), &json!("7bff")));
    assert_eq!(bad[7]["raw"].as_str().unwrap().len(), 1 << 20, "a long one is cut");
}

#[test]
fn scopes_are_taken_together_or_one_alone() {
    let home = Home::of(TABLE);
    let connection = home.connect();
    put(&connection, "/a", "mine:1", &entry("older").to_string());
    put(&connection, "/b", "mine:1", &entry("newer").to_string().replace("06-03", "06-04"));
    put(&connection, "/b", "mine:2", &entry("two").to_string());
    let report = home.create().unwrap();
    assert_eq!((report.read, report.imported, report.duplicates), (3, 2, 1));
    assert_eq!(home.entries(ExportFormat::Hermes)["mine:1"]["session_id"], "newer");
    let report = home.create_of(&Database::open(&home.db).unwrap().scope("/a").unwrap()).unwrap();
    assert_eq!((report.read, report.imported), (1, 1));
    assert_eq!(home.entries(ExportFormat::Hermes)["mine:1"]["session_id"], "older");
    let error = Database::open(&home.db).unwrap().scope("/c").unwrap_err();
    assert!(error.to_string().contains("\"/a\", \"/b\""), "{error}");
    // The first builds had no scopes.
    let old = Home::of("CREATE TABLE gateway_routing (session_key TEXT PRIMARY KEY, entry_json TEXT, updated_at REAL)");
    let sql = "INSERT INTO gateway_routing VALUES ('mine:1', ?1, 1)";
    old.connect().execute(sql, [entry("one").to_string()]).unwrap();
    assert_eq!(old.create().unwrap().imported, 1);
}

#[test]
fn rows_that_openclaw_calls_absent_are_no_entries() {
    let home = Home::of(&fixture("openclaw-2026.9.6.sql"));
    let sql = "UPDATE session_nodes SET entry_json = '{}', entry_valid = -1 WHERE session_key LIKE '%:c2'";
    assert_eq!(home.connect().execute(sql, []).unwrap(), 1);
    let report = home.create().unwrap();
    assert_eq!((report.read, report.imported, report.quarantined), (3, 3, 0));
}

/// A store that is there takes a database as it takes a file.
#[test]
fn it_goes_into_a_store_that_is_there() {
    let home = many(5);
    home.create().unwrap();
    let store = SessionStore::open(Options::new(home.store())).unwrap();
    let database = Database::open(&home.db).unwrap();
    let report = store.import_database(&database, options(), |_| {}).unwrap();
    assert_eq!((report.read, report.imported, report.unchanged), (5, 0, 5));
    drop(database);
    put(&home.connect(), SCOPE, "mine:1", &entry("changed").to_string().replace("06-03", "06-04"));
    put(&home.connect(), SCOPE, "mine:9", &entry("new").to_string());
    let dry = store.import_database(&Database::open(&home.db).unwrap(), options().dry_run(true), |_| {}).unwrap();
    assert_eq!((dry.imported, dry.updated, store.len()), (1, 1, 5));
    let report = store.import_database(&Database::open(&home.db).unwrap(), options(), |_| {}).unwrap();
    assert_eq!((report.imported, report.updated, report.unchanged, store.len()), (1, 1, 4, 6));
}

#[test]
fn where_the_mirror_says_otherwise_the_table_counts() {
    for version in ["0.19.0", "0.22.2"] {
        let home = Home::of(&fixture(&format!("hermes-{version}.sql")));
        let mirror = home.db.with_file_name("sessions");
        fs::create_dir(&mirror).unwrap();
        let write = |text: &str| fs::write(mirror.join("sessions.json"), text).unwrap();
        let same = fixture(&format!("hermes-{version}.mirror.json"));
        write(&same);
        let report = home.create().unwrap();
        // 0.22 writes a row at a message, and the file only when something begins or ends.
        let late = report.mirror_differs;
        assert_eq!((late, report.mirror_only), (u64::from(version == "0.22.2") * late, 0), "{version}");
        let mut other: BTreeMap<String, Value> = serde_json::from_str(&same).unwrap();
        other.get_mut("agent:main:telegram:dm:c1").unwrap()["session_id"] = json!("elsewhere");
        other.insert("mine:gone".into(), entry("gone"));
        write(&serde_json::to_string(&other).unwrap());
        let report = home.create().unwrap();
        assert_eq!((report.imported, report.mirror_differs, report.mirror_only), (6, late + 1, 1), "{version}");
        let entries = home.entries(ExportFormat::Hermes);
        assert_ne!(entries["agent:main:telegram:dm:c1"]["session_id"], "elsewhere");
        assert!(!entries.contains_key("mine:gone"));
        // A mirror that is damaged says what it can, and hinders nothing.
        write(&same[..same.len() / 2]);
        assert_eq!(home.create().unwrap().mirror_only, 0);
        write("no mirror");
        assert_eq!(home.create().unwrap().imported, 6);
    }
}

/// Whatever is cut off or overwritten: what can be read before it goes in and the rest is named, or nothing goes in.
#[test]
fn a_damaged_database_gives_what_is_before_the_damage() {
    let home = many(400);
    let whole = fs::read(&home.db).unwrap();
    let (mut partial, mut refused, mut untouched) = (0, 0, 0);
    let mut check = |bytes: &[u8], what: &str| {
        fs::write(&home.db, bytes).unwrap();
        match home.create() {
            Ok(report) => {
                assert_eq!(report.read, report.imported + report.duplicates + report.quarantined, "{what}");
                assert!(report.damage.is_some() || !what.starts_with("cut"), "{what}");
                if let Some(damage) = &report.damage {
                    assert_eq!((damage.line, report.is_complete()), (report.read + 1, false), "{what}");
                    partial += 1;
                } else {
                    untouched += 1;
                }
                let entries = home.entries(ExportFormat::Hermes);
                assert_eq!(entries.len() as u64, report.imported, "{what}");
            }
            Err(Error::NotASessionFile { reason }) => {
                assert!(reason.contains("database"), "{reason}");
                refused += 1;
            }
            Err(error) => panic!("{what}: {error}"),
        }
    };
    for cut in [1, 2, 3, 5, 8, 10, 12] {
        check(&whole[..whole.len() * cut / 13], &format!("cut at {cut}/13"));
    }
    check(&whole[..4095], "cut within its first page");
    for page in (0..whole.len() / 4096).step_by(3) {
        let mut bytes = whole.clone();
        bytes[page * 4096 + 16..(page + 1) * 4096].fill(0xa5);
        check(&bytes, &format!("page {page}"));
    }
    assert!(partial > 3 && refused > 1 && untouched > 0, "{partial} {refused} {untouched}");
}

#[test]
fn other_databases_are_refused() {
    let home = Home::of("CREATE TABLE cookies (name TEXT)");
    let error = home.create().unwrap_err();
    assert!(error.to_string().contains("no table of sessions"), "{error}");
    let mut bytes = b"SQLite format 3\0".to_vec();
    bytes.resize(8192, 0xa5);
    fs::write(&home.db, &bytes).unwrap();
    assert!(matches!(home.create(), Err(Error::NotASessionFile { .. })));
    assert!(!home.store().exists());
    let missing = Database::open(home.dir.path().join("missing.db")).unwrap_err();
    assert!(matches!(missing, Error::Io { .. }), "{missing}");
    // A view is no table: what it says would have to be computed.
    let view = Home::of("CREATE VIEW gateway_routing AS SELECT 1 AS scope");
    assert!(matches!(view.create(), Err(Error::NotASessionFile { .. })));
}

#[test]
fn the_way_back_is_a_fresh_table() {
    let home = Home::of(&fixture("hermes-0.22.2.sql"));
    home.create().unwrap();
    let expected = rows(&home.connect(), "gateway_routing");
    let back = home.dir.path().join("back.db");
    let store = SessionStore::open(Options::new(home.store())).unwrap();
    let options = ExportOptions::new(ExportFormat::Hermes);
    let report = store.export_to_database(&back, SCOPE, &options).unwrap();
    assert_eq!((report.entries, report.notes), (6, 0));
    let made = Connection::open(&back).unwrap();
    assert_eq!(rows(&made, "gateway_routing"), expected);
    let schema = |of: &Connection| -> String {
        of.query_row("SELECT sql FROM sqlite_master WHERE name = 'gateway_routing'", [], |row| row.get(0)).unwrap()
    };
    assert_eq!(schema(&made), schema(&home.connect()), "the table is Hermes' own");
    let (scopes, time): (u32, f64) = made
        .query_row(
            "SELECT count(DISTINCT scope), max(updated_at) FROM gateway_routing WHERE scope = ?1",
            [SCOPE],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
        .unwrap();
    let newest = store.recent(1, None).unwrap().entries[0].updated_at;
    assert_eq!((scopes, time), (1, newest.as_micros() as f64 / 1e6));
    let mode = fs::metadata(&back).unwrap();
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&mode.permissions()) & 0o777, 0o600);
    assert!(matches!(store.export_to_database(&back, SCOPE, &options), Err(Error::Exists { .. })));
    store.export_to_database(&back, "/elsewhere", &options.force(true)).unwrap();
    let again = Database::open(&back).unwrap().scope("/elsewhere").unwrap();
    assert_eq!(store.import_database(&again, self::options(), |_| {}).unwrap().unchanged, 6);
    assert_eq!(names(home.dir.path()), ["back.db", "gateway", "store"]);
}

fn names(directory: &Path) -> Vec<String> {
    let names = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.collect();
    names.sort();
    names
}
