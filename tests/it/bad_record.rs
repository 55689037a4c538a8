//! One bad record stops nobody (a record that cannot be decoded, or one that is missing).
//!
//! One row of one tree is damaged behind the store's back, in each tree and in each way. Then every verb runs: it works for
//! all other entries, counts what it passed over, and removes nothing that it cannot read. At the end a repair makes the
//! store sound.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cloakroom::export::{ExportFormat, ExportOptions};
use cloakroom::import::{ImportOptions, OnConflict};
use cloakroom::prune::NoActivity;
use cloakroom::query::Filter;
use cloakroom::report::{Unreadable, Violation};
use cloakroom::time::{Clock, ManualClock};
use cloakroom::watcher::WatcherConfig;
use cloakroom::{Error, Options, PrunePolicy, SessionEntry, SessionKey, SessionStore, Watcher};
use serde_json::json;

use crate::behind::open_sled;
use crate::common::{NEVER, NOW, chain, fast_dir, key, source};

const ENTRIES: usize = 24;
/// How many rows a page of the index by age has here.
const PAGE_ROWS: usize = 3;
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const MINUTE: Duration = Duration::from_secs(60);
const NOTE: &str = "_notes";

type Files = BTreeMap<PathBuf, Vec<u8>>;

/// What a kill leaves of a store of entries of all kinds: half of them idle for 100 days, all turns open, touches in the
/// journal.
struct Base {
    files: Files,
    clock: ManualClock,
    entries: BTreeMap<SessionKey, SessionEntry>,
}

fn options(path: &Path, clock: &ManualClock) -> Options {
    Options::new(path).commit_interval(NEVER).cache_bytes(16 << 20).clock(clock.clone())
}

impl Base {
    fn new() -> Self {
        let dir = fast_dir();
        let (path, clock) = (dir.path().join("db"), ManualClock::new(NOW));
        let store = SessionStore::open(options(&path, &clock).create(true)).unwrap();
        let note = "n".repeat(5000);
        let file = format!(
            r#"{{"{NOTE}": "{note}", "agent:main:discord:dm:imported": {{"session_id": "20260101_000000_abcd", "updated_at": "2026-01-01T00:00:00"}}}}"#
        );
        store.import(file.as_bytes(), ImportOptions::new().zone("Europe/Berlin".parse().unwrap()), |_| {}).unwrap();
        for n in 0..ENTRIES {
            if n == ENTRIES / 2 {
                clock.advance(100 * DAY);
            }
            clock.advance(7 * MINUTE);
            store.resolve(&source(n)).unwrap();
            let text = "x".repeat([10, 5000][n % 2]);
            store.set_metadata(&key(n), json!({ "text": text }).as_object().unwrap()).unwrap().unwrap();
            if n % 3 == 0 {
                // Too long for the record: it goes into the extras.
                store.update(&key(n), |details| details.display_name = Some("n".repeat(5000))).unwrap().unwrap();
            }
            store.begin_turn(&key(n)).unwrap().unwrap();
            if n >= ENTRIES / 2 {
                store.hold_until(&key(n), "job", clock.now().saturating_add(DAY)).unwrap().unwrap();
            }
        }
        // What the journal noted of their making is done with: of a record that is lost while there is a note lists tell nothing.
        for _ in 0..10 {
            store.flush().unwrap();
            clock.advance(MINUTE);
        }
        // They stay in the journal.
        for n in ENTRIES - 3..ENTRIES {
            clock.advance(MINUTE);
            store.touch(&key(n)).unwrap().unwrap();
        }
        store.flush().unwrap();
        let entries = store.iter(Filter::default()).unwrap().entries();
        let entries = entries.map(|entry| entry.unwrap()).map(|entry| (entry.key.clone(), entry)).collect();
        Self { files: read(&path), clock, entries }
    }

    /// A copy with one tree changed.
    fn damaged(&self, tree: &str, change: impl FnOnce(&sled::Tree)) -> (tempfile::TempDir, PathBuf) {
        let dir = fast_dir();
        let path = dir.path().join("db");
        for (name, bytes) in &self.files {
            let file = path.join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, bytes).unwrap();
        }
        let db = open_sled(&sled::Config::new().path(path.join("sled"))).unwrap();
        let tree = db.open_tree(tree).unwrap();
        if &*tree.name() == b"by_updated_at" {
            put_pages(&tree, &pages(&tree));
        }
        change(&tree);
        db.flush().unwrap();
        drop(db);
        (dir, path)
    }

    fn open(&self, path: &Path) -> Result<SessionStore, Error> {
        SessionStore::open(options(path, &self.clock))
    }
}

/// The rows of the index by age, which has many in a page.
fn pages(tree: &sled::Tree) -> Vec<Vec<u8>> {
    let rows = |value: sled::IVec| value[1..].chunks(24).map(<[u8]>::to_vec).collect::<Vec<_>>();
    tree.iter().values().flat_map(|value| rows(value.unwrap())).collect()
}

/// Writes rows in small pages, as they may be, so that damage to one does not concern all.
fn put_pages(tree: &sled::Tree, rows: &[Vec<u8>]) {
    tree.clear().unwrap();
    for (n, rows) in rows.chunks(PAGE_ROWS).enumerate() {
        let key = if n == 0 { vec![0; 24] } else { rows[0].clone() };
        tree.insert(key, [&[1], &rows.concat()[..]].concat()).unwrap();
    }
}

fn read(path: &Path) -> Files {
    fn collect(root: &Path, dir: &Path, files: &mut Files) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                collect(root, &path, files);
            } else if path.file_name().unwrap() != "ballast" {
                files.insert(path.strip_prefix(root).unwrap().to_path_buf(), fs::read(&path).unwrap());
            }
        }
    }
    let mut files = Files::new();
    collect(path, path, &mut files);
    files
}

/// What is done to one row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Harm {
    /// One bit of its value's first byte.
    Flipped,
    /// Half of its value is gone.
    Cut,
    Empty,
    /// It has another row's value.
    Swapped,
    Garbage,
    Missing,
    /// Its key lacks a byte.
    ShortKey,
    /// Its key has one too many.
    LongKey,
    /// Another row, whose key is three bytes that are no text.
    Foreign,
}

const HARMS: [Harm; 9] = [
    Harm::Flipped,
    Harm::Cut,
    Harm::Empty,
    Harm::Swapped,
    Harm::Garbage,
    Harm::Missing,
    Harm::ShortKey,
    Harm::LongKey,
    Harm::Foreign,
];

impl Harm {
    /// Does it to the `at`-th row. Answers the row that is left in its place, if one is.
    fn apply(self, tree: &sled::Tree, at: usize) -> Option<(Vec<u8>, Vec<u8>)> {
        let (row, value) = tree.iter().nth(at).unwrap().unwrap();
        let (row, value) = (row.to_vec(), value.to_vec());
        let other = tree.iter().values().map(Result::unwrap).find(|other| *other != value).unwrap_or_default().to_vec();
        let put = |row: Vec<u8>, value: Vec<u8>| {
            tree.insert(row.clone(), value.clone()).unwrap();
            Some((row, value))
        };
        match self {
            Self::Flipped => put(row, value.iter().enumerate().map(|(n, b)| if n == 0 { b ^ 2 } else { *b }).collect()),
            Self::Cut => put(row, value[..value.len() / 2].to_vec()),
            Self::Empty => put(row, Vec::new()),
            Self::Swapped => put(row, other),
            Self::Garbage => put(row, b"\xffgarbage".repeat(9)),
            Self::Missing => {
                tree.remove(row).unwrap();
                None
            }
            Self::ShortKey | Self::LongKey => {
                tree.remove(&row).unwrap();
                let key =
                    if self == Self::ShortKey { row[..row.len() - 1].to_vec() } else { [&row, &[7][..]].concat() };
                put(key, value)
            }
            Self::Foreign => put(b"\xff\xfe\xfd".to_vec(), b"foreign".to_vec()),
        }
    }
}

/// What a store is like after one row was damaged.
struct Case<'a> {
    base: &'a Base,
    name: String,
    path: PathBuf,
    tree: &'static str,
    harm: Harm,
    /// Nobody can see it from the rows: an index no longer leads to the entry, or the record is another's, and decodes.
    is_unseen: bool,
}

impl Case<'_> {
    fn ok<T>(&self, verb: &str, result: Result<T, Error>) -> T {
        result.unwrap_or_else(|error| panic!("{}: {verb}: {}", self.name, chain(&error)))
    }

    /// How many entries the damage may concern.
    fn concerned(&self) -> usize {
        if self.tree == "by_updated_at" { PAGE_ROWS } else { 1 }
    }

    /// At most one entry cannot be got. Answers those that can.
    fn get_all(&self, store: &SessionStore) -> BTreeSet<SessionKey> {
        let mut good = BTreeSet::new();
        for key in self.base.entries.keys() {
            match store.get_with_extras(key) {
                Ok(Some(_)) => drop(good.insert(key.clone())),
                // A row under another key than its own is another entry.
                Ok(None) => assert_eq!(self.tree, "sessions", "{}: {key} is not there", self.name),
                Err(Error::DamagedRecord { .. }) => {}
                Err(error) => panic!("{}: get: {}", self.name, chain(&error)),
            }
        }
        assert!(good.len() + 1 >= self.base.entries.len(), "{}: only {} can be got", self.name, good.len());
        good
    }

    /// An entry whose row in `activity` is damaged can be got while the journal speaks of it. When that is carried, its
    /// place is lost.
    fn is_late_no_more(&self, store: &SessionStore, key: &SessionKey) -> bool {
        self.tree == "activity" && matches!(store.get(key), Err(Error::DamagedRecord { .. }))
    }

    /// What is missing in a list was counted, but for what no index leads to any more.
    fn assert_told(&self, verb: &str, missing: usize, unreadable: &Unreadable) {
        assert!(missing <= self.concerned(), "{}: {verb}: {missing} are missing", self.name);
        // A turn or a lease without an entry is what a crash may leave, too.
        let is_orphan = ["turns", "leases", "recover"].contains(&verb)
            && self.tree == "activity"
            && [Harm::Missing, Harm::ShortKey, Harm::LongKey].contains(&self.harm);
        if is_orphan {
            return;
        }
        // An export walks the entries' own rows, and verify tells of those that are missing.
        let is_unseen = self.is_unseen || verb == "export" && self.harm == Harm::Missing;
        assert!(missing == 0 || is_unseen || unreadable.count > 0, "{}: {verb}: not counted", self.name);
        assert!(unreadable.count <= 3, "{}: {verb}: {unreadable:?}", self.name);
        let text = format!("{unreadable:?}");
        assert!(!text.contains(":c1") && !text.contains("imported"), "{}: a raw key: {text}", self.name);
    }

    fn lists(&self, store: &SessionStore) {
        let all = self.base.entries.len();
        let mut iter = self.ok("iter", store.iter(Filter::default()));
        let listed: Vec<_> = iter.by_ref().map(|row| self.ok("iter", row).key).collect();
        let distinct: BTreeSet<_> = listed.iter().collect();
        assert_eq!(distinct.len(), listed.len(), "{}: one is listed twice", self.name);
        self.assert_told("iter", all.saturating_sub(listed.len()), iter.unreadable());

        let filter = Filter { platform: Some("discord".into()), ..Filter::default() };
        let mut entries = self.ok("entries", store.iter(filter)).entries();
        let found: Vec<_> = entries.by_ref().map(|entry| self.ok("entries", entry)).collect();
        // The imported one does not say its platform.
        self.assert_told("entries", (all - 1).saturating_sub(found.len()), entries.unreadable());

        let (mut cursor, mut paged) = (None, Vec::new());
        loop {
            let page = self.ok("recent", store.recent(5, cursor.as_ref()));
            paged.extend(page.entries.into_iter().map(|summary| summary.key));
            cursor = page.next;
            if cursor.is_none() {
                break;
            }
        }
        assert_eq!(paged, listed, "{}: recent", self.name);

        let stats = self.ok("stats", store.stats());
        assert!(stats.oldest.is_some() && stats.newest.is_some(), "{}: {stats:?}", self.name);
        for entry in self.base.entries.values() {
            let found = self.ok("find", store.find_by_session_id(&entry.session_id));
            let missing = usize::from(!found.items.iter().any(|found| found.key == entry.key));
            self.assert_told("find", missing, &found.unreadable);
        }
        let turns = self.ok("turns", store.turns());
        self.assert_told("turns", ENTRIES.saturating_sub(turns.items.len()), &turns.unreadable);
        let leases = self.ok("leases", store.leases());
        self.assert_told("leases", (ENTRIES / 2).saturating_sub(leases.items.len()), &leases.unreadable);
    }

    fn copies(&self, store: &SessionStore, good: &BTreeSet<SessionKey>) {
        for format in [ExportFormat::Jsonl, ExportFormat::Hermes, ExportFormat::OpenClaw] {
            let mut out = Vec::new();
            match store.export(&mut out, &ExportOptions::new(format)) {
                Ok(report) => {
                    let missing = self.base.entries.len().saturating_sub(usize::try_from(report.entries).unwrap());
                    self.assert_told("export", missing, &report.unreadable);
                    let text = String::from_utf8(out).unwrap();
                    let lost =
                        good.iter().find(|key| !text.contains(key.as_str()) && !self.is_late_no_more(store, key));
                    assert!(lost.is_none(), "{}: export: {lost:?}, {:?}", self.name, report.unreadable);
                    if format != ExportFormat::Jsonl {
                        serde_json::from_str::<serde_json::Value>(&text).unwrap();
                        assert!(
                            report.notes == 1 || report.unreadable.count > 0 || self.tree == "meta",
                            "{}",
                            self.name
                        );
                    }
                }
                // Its times would be hours off. With a zone it goes on.
                Err(Error::DamagedRecord { record: "meta", .. }) if self.tree == "meta" => {
                    let options = ExportOptions::new(format).zone("Europe/Berlin".parse().unwrap());
                    self.ok("export", store.export(Vec::new(), &options));
                }
                Err(error) => panic!("{}: export: {}", self.name, chain(&error)),
            }
        }
        match store.backup(Vec::new(), |_| {}) {
            Ok(report) => assert!(report.entries >= good.len() as u64, "{}: backup", self.name),
            // It has all of them, or it is none.
            Err(error @ Error::DamagedRecord { .. }) => {
                let text = error.to_string();
                assert!(text.contains("repair the store") && !text.contains(":c1"), "{}: {text}", self.name);
            }
            Err(error) => panic!("{}: backup: {}", self.name, chain(&error)),
        }
    }

    fn changes(&self, store: &SessionStore, good: &BTreeSet<SessionKey>) {
        let recovery = self.ok("recover", store.recover_interrupted_turns(1000 * DAY));
        let cleared = u64::try_from(recovery.resumable.len()).unwrap() + recovery.orphaned;
        self.assert_told("recover", ENTRIES.saturating_sub(usize::try_from(cleared).unwrap()), &recovery.unreadable);
        for key in good {
            let updated = store.update(key, |details| details.cost_status = Some("known".into()));
            let used = store.record_usage(key, &cloakroom::Usage::ZERO);
            for (verb, changed) in [("update", updated), ("record_usage", used)] {
                if changed.is_err() && self.is_late_no_more(store, key) {
                    continue;
                }
                self.ok(verb, changed).unwrap();
            }
        }
        let entries: Vec<_> = self
            .base
            .entries
            .keys()
            .map(|key| format!(r#""{}": {{"session_id": "new", "updated_at": "2026-01-01T00:00:00"}}"#, key.as_str()))
            .collect();
        let file = format!("{{{}}}", entries.join(","));
        let options = ImportOptions::new().zone("Europe/Berlin".parse().unwrap()).on_conflict(OnConflict::Keep);
        let report = self.ok("import", store.import(file.as_bytes(), options, |_| {}));
        assert!(report.kept + report.imported + 1 >= report.read, "{}: {report:?}", self.name);
        self.ok("flush", store.flush());
    }

    /// The older half goes, but for what cannot be read.
    fn prune(&self, store: &SessionStore) {
        let policies = [
            PrunePolicy::max_age_days(90),
            PrunePolicy::max_age_days(0).max_entries(5),
            PrunePolicy::max_age_days(0).max_disk_bytes(20_000, 10_000),
        ];
        for (n, policy) in policies.into_iter().enumerate() {
            let dry = self.ok("dry run", store.prune_dry_run(&policy, NoActivity));
            self.assert_told("dry run", 0, &dry.unreadable);
            let report = if n == 1 {
                let config = WatcherConfig { policy, ..WatcherConfig::default() };
                let watcher = Watcher::spawn(store, config, |_: &SessionKey| false).unwrap();
                let report = watcher.reports().recv_timeout(Duration::from_secs(60));
                report.unwrap_or_else(|_| panic!("{}: watcher: {:?}", self.name, watcher.status()))
            } else {
                self.ok("prune", store.prune(&policy, NoActivity))
            };
            assert_eq!(report.removed, dry.removed, "{}: {report:?}", self.name);
            self.assert_told("prune", 0, &report.unreadable);
            if n == 0 {
                assert!(report.removed >= (ENTRIES / 2 - self.concerned()) as u64, "{}: {report:?}", self.name);
            }
        }
    }
}

/// Everything, after one row was damaged.
fn stands(base: &Base, tree: &'static str, at: usize, harm: Harm) {
    let mut left = None;
    let (_dir, path) = base.damaged(tree, |tree| left = harm.apply(tree, at));
    let is_gone = harm == Harm::Missing && ["by_updated_at", "turns", "leases"].contains(&tree);
    let is_unseen = tree == "by_session_id" || harm == Harm::Swapped || is_gone;
    let case = Case { base, name: format!("{tree}, row {at}: {harm:?}"), path, tree, harm, is_unseen };
    let store = match base.open(&case.path) {
        Ok(store) => store,
        Err(Error::Damaged { .. }) if tree == "meta" => return,
        Err(error) => panic!("{}: open: {}", case.name, chain(&error)),
    };
    let before = case.ok("verify", store.verify());
    let good = case.get_all(&store);
    case.lists(&store);
    case.copies(&store, &good);
    case.changes(&store, &good);
    case.prune(&store);
    // The committer is well.
    let new = case.ok("resolve", store.resolve(&source(1000)));
    case.ok("wait", new.receipt.wait());
    let after = case.ok("verify", store.verify());
    case.ok("close", store.close());
    drop(store);

    let unreadable = |violations: &[Violation]| {
        violations.iter().any(|violation| matches!(violation, Violation::Unreadable { tree: at, .. } if *at == tree))
    };
    // What cannot be read was reported, and nothing has removed it. But a turn goes with its entry, and so do extras, late activity
    // of the journal takes the place of a hot record, and marks of the store are written anew.
    let is_mark = tree == "meta" && !left.as_ref().is_some_and(|(row, _)| row.starts_with(b"note\0"));
    let is_late = tree == "activity" && good.len() == base.entries.len();
    let is_replaced = is_mark || is_late || ["turns", "leases", "extras"].contains(&tree);
    if unreadable(&before.violations) && !is_replaced {
        assert!(unreadable(&after.violations), "{}: {:?}", case.name, after.violations);
        let (row, value) = left.unwrap();
        let db = open_sled(&sled::Config::new().path(case.path.join("sled"))).unwrap();
        assert_eq!(db.open_tree(tree).unwrap().get(row).unwrap().as_deref(), Some(&value[..]), "{}", case.name);
    }

    let quarantine = case.path.with_extension("quarantine");
    case.ok("repair", SessionStore::repair(options(&case.path, &base.clock), quarantine));
    let store = case.ok("open again", base.open(&case.path));
    assert_eq!(case.ok("verify again", store.verify()).violations, [], "{}", case.name);
    let mut all = case.ok("iter again", store.iter(Filter::default()));
    let listed = all.by_ref().filter(Result::is_ok).count() as u64;
    assert_eq!((listed, all.unreadable().count), (store.len(), 0), "{}", case.name);
    case.ok("backup again", store.backup(Vec::new(), |_| {}));
}

fn each_harm(tree: &'static str) {
    let base = Base::new();
    let mut rows = 0;
    let (_dir, path) = base.damaged(tree, |tree| rows = tree.len());
    drop(path);
    assert!(rows > 0, "{tree} is empty");
    for harm in HARMS {
        // Of an old entry and of a young one, or of a part of something and its end.
        for at in BTreeSet::from([0, rows - 1]) {
            stands(&base, tree, at, harm);
        }
    }
}

#[test]
fn in_sessions() {
    each_harm("sessions");
}

#[test]
fn in_activity() {
    each_harm("activity");
}

#[test]
fn in_the_journal() {
    each_harm("journal");
}

#[test]
fn in_by_updated_at() {
    each_harm("by_updated_at");
}

#[test]
fn in_by_session_id() {
    each_harm("by_session_id");
}

#[test]
fn in_extras() {
    each_harm("extras");
}

#[test]
fn in_turns() {
    each_harm("turns");
}

#[test]
fn in_leases() {
    each_harm("leases");
}

/// Notes, the time zone, the counter, the marks of the last commit: each row by its name.
#[test]
fn in_meta() {
    let base = Base::new();
    let mut names = Vec::new();
    let (_dir, _) = base.damaged("meta", |tree| names.extend(tree.iter().keys().map(|row| row.unwrap().to_vec())));
    assert!(names.len() >= 8, "{names:?}");
    for at in 0..names.len() {
        for harm in [Harm::Flipped, Harm::Empty, Harm::Garbage, Harm::Missing, Harm::ShortKey] {
            stands(&base, "meta", at, harm);
        }
    }
}

/// The index by age is what pruning goes by. A row out of date is cleared, but not where the right one is missing.
#[test]
fn an_entry_without_its_row_by_age_is_found_again() {
    let base = Base::new();
    let old = base.entries[&key(1)].updated_at;
    let (_dir, path) = base.damaged("by_updated_at", |tree| {
        let mut rows = pages(tree);
        let at = rows.iter().position(|row| row.starts_with(&old.as_micros().to_be_bytes())).unwrap();
        let row = rows.remove(at);
        rows.insert(0, [&9_u64.to_be_bytes(), &row[8..]].concat());
        put_pages(tree, &rows);
    });
    let store = base.open(&path).unwrap();
    let report = store.prune(&PrunePolicy::max_age_days(90), NoActivity).unwrap();
    assert_eq!(report.stale_rows_cleared, 1);
    store.prune(&PrunePolicy::max_age_days(90), NoActivity).unwrap();
    assert_eq!(store.get(&key(1)).unwrap(), None, "{report:?}");
    assert_eq!(store.verify().unwrap().violations, []);
}
