//! What a crash between any two writes leaves, what `verify` sees, and what opening repairs.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use tempfile::TempDir;

use super::checkpoint::{Checkpoint, Mark};
use super::open::Opened;
use super::*;
use crate::codec::{ActivityRow, Bucket, CHUNK_BYTES, Intent, SUSPENDED, Step, encode_blob, encode_meta, encode_name};
use crate::entry::Details;
use crate::time::Timestamp;

type Call = Box<dyn FnMut(&Engine, u64) -> Result<()> + Send>;

/// Called before each write and each sync of a [`Writer`], with the estimated cost of the write (0 for a sync). An
/// error stops the writer there, as a crash would.
#[derive(Default)]
pub(crate) struct Hook(Option<Call>);

impl Hook {
    pub(crate) fn new(call: impl FnMut(&Engine, u64) -> Result<()> + Send + 'static) -> Self {
        Self(Some(Box::new(call)))
    }

    pub(super) fn call(&mut self, engine: &Engine, cost: u64) -> Result<()> {
        self.0.as_mut().map_or(Ok(()), |call| call(engine, cost))
    }
}

impl fmt::Debug for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hook")
    }
}

const NOW: Timestamp = Timestamp::from_micros(1_781_222_813_123_456);
const CACHE: u64 = 16 << 20;

/// The seed of every store in unit tests.
pub(super) const SEED: [u8; 16] = [7; 16];

fn entry(n: usize) -> Fingerprint {
    Seed::new(&SEED).fingerprint(&key(n))
}

fn key(n: usize) -> SessionKey {
    SessionKey::new(format!("agent:main:discord:group:{n:06}:{n}")).unwrap()
}

fn id(n: usize) -> SessionId {
    SessionId::new(format!("20260612_000653_{n:012}")).unwrap()
}

fn later(minutes: i64) -> Timestamp {
    Timestamp::from_micros(NOW.as_micros() + minutes * 60_000_000)
}

fn open_at(dir: &Path) -> Opened {
    open(&dir.join("db"), true, CACHE).unwrap()
}

fn cold(n: usize, extras: Option<ExtrasRef>) -> Cold {
    let details = Details { platform: Some("discord".into()), ..Details::default() };
    Cold { session_id: id(n), created_at: NOW, details, extras }
}

fn blob(bytes: usize) -> Arc<[u8]> {
    let text = format!("\"{}\"", "x".repeat(bytes));
    encode_blob(None, &Extras::from_parts(vec![("metadata", &text)], None)).unwrap().into()
}

/// A new or changed entry, with extras under `generation` if it is given.
fn whole(n: usize, session: usize, at: Timestamp, extras: Option<(u64, usize)>) -> Change {
    let blob = extras.map(|(_, bytes)| blob(bytes));
    let at_extras = extras
        .zip(blob.as_ref())
        .map(|((generation, _), blob)| ExtrasRef { generation, bytes: u32::try_from(blob.len()).unwrap() });
    let cold = Arc::new(cold(session, at_extras));
    Change { key: key(n), entry: entry(n), stored: None, content: Content::Whole { hot: Hot::fresh(at), cold, blob } }
}

fn touch(n: usize, from: Timestamp, to: Timestamp) -> Change {
    Change { key: key(n), entry: entry(n), stored: Some(Bucket::of(from)), content: Content::Hot(Hot::fresh(to)) }
}

fn gone(n: usize) -> Change {
    Change { key: key(n), entry: entry(n), stored: None, content: Content::Gone }
}

fn commit(opened: &mut Opened, changes: &[Change]) -> Result<()> {
    let next = opened.writer.mark().commit + 1;
    opened.writer.apply(&opened.engine, changes)?;
    opened.writer.finish(&opened.engine, next)?;
    opened.writer.sync(&opened.engine)
}

/// Three entries, one of them with extras, one suspended.
fn with_entries(dir: &Path) -> Opened {
    let mut opened = open_at(dir);
    let mut hot = Hot::fresh(NOW);
    hot.set(SUSPENDED, true);
    let suspended = Change {
        key: key(3),
        entry: entry(3),
        stored: None,
        content: Content::Whole { hot, cold: Arc::new(cold(3, None)), blob: None },
    };
    let changes = [whole(1, 1, NOW, None), whole(2, 2, NOW, Some((1, 9000))), suspended];
    commit(&mut opened, &changes).unwrap();
    opened
}

fn violations(engine: &Engine) -> Vec<Violation> {
    verify(engine).unwrap().violations
}

// Between any two writes.

/// Stops the writer before each of its writes in turn, and then what settles it likewise. Outside of a group the
/// invariants hold at every one of them, and so they do after a reopening; then each change is there as a whole or not
/// at all.
fn stop_everywhere(name: &str, changes: impl Fn() -> Vec<Change>, done: impl Fn(&Engine) -> bool) {
    let dir = tempfile::tempdir().unwrap();
    let mut opened = with_entries(dir.path());
    assert!(!done(&opened.engine), "{name}");
    let before = contents(&opened.engine);
    commit(&mut opened, &changes()).unwrap();
    assert!(done(&opened.engine), "{name}");
    let after = contents(&opened.engine);
    let found = verify(&opened.engine).unwrap();
    assert_eq!((found.stale_rows, found.orphaned_chunks), (0, 0), "{name}");
    drop(opened);

    let (mut stops, mut settling_stopped) = (0, 0);
    loop {
        let dir = tempfile::tempdir().unwrap();
        let mut opened = with_entries(dir.path());
        opened.writer.hook = stop_before(stops + 1);
        if commit(&mut opened, &changes()).is_ok() {
            break;
        }
        stops += 1;
        opened.writer.hook = stop_before(stops % 7 + 1);
        settling_stopped += usize::from(opened.writer.settle(&opened.engine).is_err());
        drop(opened);

        let opened = open_at(dir.path());
        assert_eq!(violations(&opened.engine), [], "{name}, stopped at {stops}");
        assert!(opened.expected.is_none(), "{name}, stopped at {stops}: {opened:?}");
        let left = contents(&opened.engine);
        for n in before.keys().chain(after.keys()) {
            let is = left.get(n);
            assert!(is == before.get(n) || is == after.get(n), "{name}, stopped at {stops}: half of entry {n}");
        }
    }
    assert!(stops >= 3, "{name}: only {stops} writes were seen");
    let is_structural = changes().iter().any(|change| !matches!(change.content, Content::Hot(_)));
    assert_eq!(settling_stopped > 0, is_structural, "{name}: {settling_stopped} of {stops}");
}

/// A hook that stops the writer before its `stop`-th write, and checks the store until then.
fn stop_before(stop: usize) -> Hook {
    let mut calls = 0;
    Hook::new(move |engine, _| {
        // Within a group only an opening can tell; it settles the group first.
        let in_group = engine.gate.try_lock().is_none() || engine.trees.intent.contains_key("group").unwrap();
        if !in_group {
            assert_eq!(violations(engine), []);
        }
        calls += 1;
        if calls == stop { Err(Error::Panicked { message: "stopped".into() }) } else { Ok(()) }
    })
}

/// Both records of each entry.
fn contents(engine: &Engine) -> BTreeMap<usize, (Option<Hot>, Option<Cold>)> {
    let read = |n: usize| (engine.hot(entry(n)).unwrap(), engine.cold(&key(n)).unwrap());
    (0..10).map(|n| (n, read(n))).filter(|(_, (hot, cold))| hot.is_some() || cold.is_some()).collect()
}

#[test]
fn a_touch_that_crosses_may_stop_anywhere() {
    let done = |engine: &Engine| engine.hot(entry(1)).unwrap().unwrap().updated_at == later(5);
    stop_everywhere("touch", || vec![touch(1, NOW, later(5)), touch(2, NOW, later(6))], done);
}

#[test]
fn a_creation_may_stop_anywhere() {
    let done = |engine: &Engine| engine.contains(&key(9)).unwrap();
    stop_everywhere("create", || vec![whole(9, 9, later(1), None)], done);
    stop_everywhere("create with extras", || vec![whole(9, 9, later(1), Some((7, 9000)))], done);
}

#[test]
fn a_reset_may_stop_anywhere() {
    let done = |engine: &Engine| engine.cold(&key(2)).unwrap().unwrap().session_id == id(77);
    stop_everywhere("reset", || vec![whole(2, 77, later(1), None)], done);
}

#[test]
fn new_extras_may_stop_anywhere() {
    let done = |engine: &Engine| {
        engine.cold(&key(2)).unwrap().unwrap().extras.is_some_and(|at| at.generation == 8 && at.bytes > 5000)
    };
    stop_everywhere("extras", || vec![whole(2, 2, NOW, Some((8, 6000)))], done);
}

#[test]
fn a_removal_may_stop_anywhere() {
    let done = |engine: &Engine| !engine.contains(&key(2)).unwrap();
    stop_everywhere("remove", || vec![gone(2)], done);
}

#[test]
fn a_mixed_commit_may_stop_anywhere() {
    let changes =
        || vec![touch(1, NOW, later(5)), gone(2), touch(3, NOW, later(1)), whole(4, 4, later(5), Some((9, 5000)))];
    let done = |engine: &Engine| !engine.contains(&key(2)).unwrap() && engine.contains(&key(4)).unwrap();
    stop_everywhere("mixed", changes, done);
}

// Stale rows.

#[test]
fn only_rows_that_nobody_needs_are_cleared() {
    let dir = tempfile::tempdir().unwrap();
    let Opened { engine, mut writer, .. } = with_entries(dir.path());
    let row = |n: usize, time: Timestamp| ActivityRow { bucket: Bucket::of(time), entry: entry(n) };
    for row in [row(1, later(-9)), row(1, later(9)), row(8, NOW)] {
        engine.trees.by_updated_at.insert(row.encode(), vec![]).unwrap();
    }
    let found = verify(&engine).unwrap();
    assert_eq!((found.violations, found.stale_rows), (vec![], 3));
    assert!(writer.recheck(&engine, &row(1, later(-9))).unwrap(), "earlier than the record");
    assert!(!writer.recheck(&engine, &row(1, later(9))).unwrap(), "later: a touch may be about to write the record");
    assert!(!writer.recheck(&engine, &row(1, NOW)).unwrap(), "the row itself");
    assert!(writer.recheck(&engine, &row(8, NOW)).unwrap(), "no entry");
    assert_eq!(verify(&engine).unwrap().stale_rows, 1);
}

// What `verify` finds.

/// Plants one fault in a sound store and answers what `verify` says.
fn planted(plant: impl FnOnce(&Trees)) -> Vec<Violation> {
    let dir = tempfile::tempdir().unwrap();
    let opened = with_entries(dir.path());
    assert_eq!(violations(&opened.engine), []);
    plant(&opened.engine.trees);
    let found = violations(&opened.engine);
    for violation in &found {
        let text = format!("{violation} {violation:?} {}", serde_json::to_string(violation).unwrap());
        assert!(!text.contains("00000"), "a raw id: {text}");
    }
    if !found.is_empty() {
        heals(dir.path(), opened);
    }
    found
}

fn quarantine(dir: &Path) -> PathBuf {
    dir.join("quarantine.jsonl")
}

/// A repair makes `verify` silent, and a second one finds nothing to do, after a reopening too.
fn heals(dir: &Path, mut opened: Opened) -> Repairs {
    let repairs = repair(&opened.engine, &mut opened.writer, &quarantine(dir)).unwrap();
    assert!(!repairs.is_empty(), "{repairs:?}");
    assert_healed(&mut opened, &quarantine(dir));
    opened.writer.end_use(&opened.engine).unwrap();
    drop(opened);
    assert_healed(&mut open_at(dir), &quarantine(dir));
    repairs
}

fn assert_healed(opened: &mut Opened, quarantine: &Path) {
    let found = verify(&opened.engine).unwrap();
    let expected = Verification { entries: found.entries, count_checked: true, ..Verification::default() };
    assert_eq!(found, expected);
    let written = fs::read(quarantine).ok();
    let again = repair(&opened.engine, &mut opened.writer, quarantine).unwrap();
    assert!(again.is_empty() && again.entries == found.entries, "{again:?}");
    assert_eq!(fs::read(quarantine).ok(), written);
}

fn name(n: usize) -> String {
    key(n).to_string()
}

#[test]
fn a_record_that_does_not_read_is_found() {
    for (tree, named) in [("sessions", name(1)), ("activity", entry(1).to_string()), ("names", entry(1).to_string())] {
        let found = planted(|trees| {
            match tree {
                "sessions" => trees.sessions.insert(bytes(&key(1)), &[9, 9]),
                "names" => trees.names.insert(entry(1).as_bytes(), &[9, 9]),
                _ => trees.activity.insert(entry(1).as_bytes(), &[9, 9]),
            }
            .unwrap();
        });
        assert!(
            matches!(&found[..], [Violation::Unreadable { tree: at, key, reason }]
                if *at == tree && *key == named && reason.contains("version 9")),
            "{found:?}"
        );
    }
}

#[test]
fn a_row_that_does_not_read_is_found() {
    type Pick = fn(&Trees) -> &sled::Tree;
    let rows: [(&str, Pick, &[u8]); 6] = [
        ("sessions", |trees| &trees.sessions, b"_note"),
        ("activity", |trees| &trees.activity, b"\xff\xff"),
        ("by_updated_at", |trees| &trees.by_updated_at, b"abc"),
        ("by_session_id", |trees| &trees.by_session_id, b"no zero"),
        ("names", |trees| &trees.names, b"short"),
        ("extras", |trees| &trees.extras, b"short"),
    ];
    for (tree, pick, row) in rows {
        let mut found = planted(|trees| {
            pick(trees).insert(row, vec![1]).unwrap();
        });
        // A row of `sessions` counts, whatever it is.
        found.retain(|violation| !matches!(violation, Violation::WrongCount { .. }));
        assert!(matches!(&found[..], [Violation::Unreadable { tree: at, .. }] if *at == tree), "{tree}: {found:?}");
    }
}

#[test]
fn a_missing_hot_record_is_found() {
    let found = planted(|trees| drop(trees.activity.remove(entry(1).as_bytes()).unwrap()));
    assert_eq!(found, [Violation::NoActivity { key: name(1) }]);
}

#[test]
fn a_missing_age_row_is_found() {
    let row = |time: Timestamp| ActivityRow { bucket: Bucket::of(time), entry: entry(1) }.encode();
    let found = planted(|trees| drop(trees.by_updated_at.remove(row(NOW)).unwrap()));
    assert_eq!(found, [Violation::NoAgeRow { key: name(1) }]);
    // A later row does not help: pruning would look for the entry too late.
    let found = planted(|trees| {
        trees.by_updated_at.remove(row(NOW)).unwrap();
        trees.by_updated_at.insert(row(later(1)), vec![]).unwrap();
    });
    assert_eq!(found, [Violation::NoAgeRow { key: name(1) }]);
    // An earlier one does.
    let found = planted(|trees| {
        trees.by_updated_at.remove(row(NOW)).unwrap();
        trees.by_updated_at.insert(row(later(-1)), vec![]).unwrap();
    });
    assert_eq!(found, []);
}

#[test]
fn a_missing_id_row_is_found() {
    let found = planted(|trees| drop(trees.by_session_id.remove(IdRow::encode(&id(1), entry(1))).unwrap()));
    assert_eq!(found, [Violation::NoIdRow { key: name(1) }]);
}

#[test]
fn a_hot_record_without_an_entry_is_found() {
    let hot = Hot::fresh(NOW).encode().unwrap();
    let found = planted(|trees| drop(trees.activity.insert(entry(8).as_bytes(), hot).unwrap()));
    assert_eq!(found, [Violation::OrphanedActivity { key: entry(8).to_string() }]);
}

#[test]
fn a_missing_or_wrong_name_is_found() {
    let missing = |trees: &Trees| drop(trees.names.remove(entry(1).as_bytes()).unwrap());
    assert_eq!(planted(missing)[0], Violation::NoName { key: name(1) });
    let orphan = |trees: &Trees| drop(trees.names.insert(entry(8).as_bytes(), encode_name(&key(8))).unwrap());
    assert_eq!(planted(orphan), [Violation::OrphanedName { key: name(8) }]);
    let wrong = |trees: &Trees| drop(trees.names.insert(entry(1).as_bytes(), encode_name(&key(2))).unwrap());
    let found = planted(wrong);
    assert!(found.contains(&Violation::NoName { key: name(1) }), "{found:?}");
    assert!(found.contains(&Violation::OrphanedName { key: name(2) }), "{found:?}");
}

#[test]
fn a_wrong_id_row_is_found() {
    for (wrong, of) in [(id(5), 1), (id(1), 8)] {
        let found =
            planted(|trees| drop(trees.by_session_id.insert(IdRow::encode(&wrong, entry(of)), vec![]).unwrap()));
        assert_eq!(found, [Violation::WrongIdRow { key: entry(of).to_string() }]);
    }
}

#[test]
fn broken_extras_are_found() {
    fn row(chunk: usize) -> Vec<u8> {
        ExtrasRow::encode_all(entry(2), 1, &[0; 9000]).nth(chunk).unwrap().0
    }
    type Plant = Box<dyn FnOnce(&Trees)>;
    let faults: [(&str, Plant); 5] = [
        ("a chunk is missing", Box::new(|trees| drop(trees.extras.remove(row(1)).unwrap()))),
        ("a chunk is cut", Box::new(|trees| drop(trees.extras.insert(row(2), vec![1, b'x']).unwrap()))),
        ("a chunk has another version", Box::new(|trees| drop(trees.extras.insert(row(0), vec![9; 4096]).unwrap()))),
        ("the text is no blob", Box::new(|trees| drop(trees.extras.insert(row(0), vec![1; CHUNK_BYTES + 1]).unwrap()))),
        (
            "details are nowhere",
            Box::new(|trees| {
                let at = Some(ExtrasRef { generation: 1, bytes: u32::try_from(blob(9000).len()).unwrap() });
                trees.sessions.insert(bytes(&key(2)), cold(2, at).encode_spilled().unwrap()).unwrap();
            }),
        ),
    ];
    for (what, plant) in faults {
        let found = planted(plant);
        assert!(matches!(&found[..], [Violation::BrokenExtras { key, .. }] if *key == name(2)), "{what}: {found:?}");
    }
}

#[test]
fn a_wrong_count_is_found() {
    let found = planted(|trees| drop(trees.meta.insert(meta::COUNT, encode_meta(&7_u64).unwrap()).unwrap()));
    assert_eq!(found, [Violation::WrongCount { counted: 7, found: 3 }]);
}

#[test]
fn turns_without_their_session_are_counted_and_those_that_do_not_read_are_found() {
    let turn = |session| crate::codec::Turn { token: 1, started_at: NOW, session_id: id(session) };
    let dir = tempfile::tempdir().unwrap();
    let mut opened = with_entries(dir.path());
    let turns = [(entry(1), Some(turn(1))), (entry(2), Some(turn(77))), (entry(50), Some(turn(1)))];
    opened.writer.apply_turns(&opened.engine, &turns).unwrap();
    let found = verify(&opened.engine).unwrap();
    assert_eq!((found.violations, found.orphaned_turns), (vec![], 2));
    opened.engine.trees.turns.insert(entry(2).as_bytes(), vec![9, 9]).unwrap();
    let found = verify(&opened.engine).unwrap();
    assert!(matches!(&found.violations[..], [Violation::Unreadable { tree: "turns", .. }]), "{found:?}");
    assert_eq!(opened.engine.turns().unwrap().len(), 2, "the others are read");
    opened.writer.apply_turns(&opened.engine, &[(entry(1), None), (entry(2), None), (entry(50), None)]).unwrap();
    assert!(opened.engine.turns().unwrap().is_empty());
}

#[test]
fn orphaned_chunks_are_counted_and_no_fault() {
    let dir = tempfile::tempdir().unwrap();
    let mut opened = with_entries(dir.path());
    for (row, value) in ExtrasRow::encode_all(entry(2), 99, &[1; 3 * CHUNK_BYTES]) {
        opened.engine.trees.extras.insert(row, value).unwrap();
    }
    let found = verify(&opened.engine).unwrap();
    assert_eq!((found.violations, found.orphaned_chunks), (vec![], 3));
    // They are swept with the next change.
    commit(&mut opened, &[whole(2, 2, NOW, Some((100, 50)))]).unwrap();
    assert_eq!(verify(&opened.engine).unwrap().orphaned_chunks, 0);
    assert_eq!(opened.engine.trees.extras.len(), 1);
}

// The checkpoint file.

fn checkpoint(dir: &TempDir) -> (Checkpoint, PathBuf) {
    let path = dir.path().join("checkpoint");
    (Checkpoint::open(path.clone()).unwrap(), path)
}

fn damage(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 1;
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_torn_slot_gives_the_mark_before() {
    let dir = tempfile::tempdir().unwrap();
    let (mut file, path) = checkpoint(&dir);
    assert_eq!(file.last(), None);
    let marks = [3, 4, 5].map(|commit| Mark { commit, count: 10 * commit });
    for mark in marks {
        file.record(mark).unwrap();
    }
    assert_eq!(checkpoint(&dir).0.last(), Some(marks[2]));
    // The third mark has sequence 3 and so the second slot; each of its bytes counts.
    let whole = fs::read(&path).unwrap();
    for at in 0..36 {
        damage(&path, 512 + at);
        assert_eq!(checkpoint(&dir).0.last(), Some(marks[1]), "byte {at}");
        fs::write(&path, &whole).unwrap();
    }
    fs::write(&path, &whole[..512 + 20]).unwrap();
    let (mut file, _) = checkpoint(&dir);
    assert_eq!(file.last(), Some(marks[1]));
    // The next mark goes over the torn one, and not over the good one.
    file.record(marks[2]).unwrap();
    assert_eq!(fs::read(&path).unwrap()[..40], whole[..40]);
    assert_eq!(checkpoint(&dir).0.last(), Some(marks[2]));
}

#[test]
fn two_torn_slots_give_no_mark() {
    let dir = tempfile::tempdir().unwrap();
    let (mut file, path) = checkpoint(&dir);
    for commit in [1, 2] {
        file.record(Mark { commit, count: 0 }).unwrap();
    }
    damage(&path, 9);
    damage(&path, 512 + 33);
    assert_eq!(checkpoint(&dir).0.last(), None);
    fs::write(&path, b"").unwrap();
    assert_eq!(checkpoint(&dir).0.last(), None);
}

#[test]
fn a_store_without_its_checkpoint_opens() {
    let dir = tempfile::tempdir().unwrap();
    drop(with_entries(dir.path()));
    for content in [None, Some(vec![0xff; 1024])] {
        let path = dir.path().join("db/checkpoint");
        match content {
            None => fs::remove_file(&path).unwrap(),
            Some(content) => fs::write(&path, content).unwrap(),
        }
        let mut opened = open_at(dir.path());
        assert_eq!((opened.expected, opened.mark.count), (None, 3));
        opened.writer.checkpoint().unwrap();
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to)
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

#[test]
fn an_older_database_under_a_newer_checkpoint_is_a_shortfall() {
    let dir = tempfile::tempdir().unwrap();
    let sled = dir.path().join("db/sled");
    drop(with_entries(dir.path()));
    copy(&sled, &dir.path().join("older"));
    let mut opened = open_at(dir.path());
    commit(&mut opened, &[whole(7, 7, NOW, None)]).unwrap();
    opened.writer.checkpoint().unwrap();
    let synced = opened.writer.mark();
    drop(opened);

    fs::remove_dir_all(&sled).unwrap();
    copy(&dir.path().join("older"), &sled);
    let opened = open_at(dir.path());
    assert_eq!(opened.expected, Some(synced));
    assert_eq!(synced.count, 4);
    assert_eq!((opened.mark.count, opened.mark.commit < synced.commit), (3, true));
    // Numbers go on behind the lost ones, so that none is used twice.
    assert!(opened.writer.mark().commit > synced.commit);
    drop(opened);
    // It was told once. The store goes on from what there is.
    let mut opened = open_at(dir.path());
    assert_eq!(opened.expected, None);
    opened.writer.end_use(&opened.engine).unwrap();
}

// Opening.

#[test]
fn half_snapshots_and_half_databases_are_removed() {
    let dir = tempfile::tempdir().unwrap();
    drop(with_entries(dir.path()));
    let (half, left) = (dir.path().join("db/sled/snap.9.generating"), dir.path().join("db/sled.new-xyz"));
    fs::write(&half, b"half").unwrap();
    fs::create_dir(&left).unwrap();
    fs::write(left.join("db"), b"half").unwrap();
    let opened = open_at(dir.path());
    assert_eq!(opened.mark.count, 3);
    assert!(!half.exists() && !left.exists());
    assert_eq!(opened.repairs.len(), 2, "{:?}", opened.repairs);
    assert!(opened.repairs[0].contains("sled.new-xyz") && opened.repairs[1].contains("snap.9.generating"));
    assert_eq!(violations(&opened.engine), []);
}

#[test]
fn a_torn_snapshot_is_set_aside() {
    let dir = tempfile::tempdir().unwrap();
    drop(with_entries(dir.path()));
    drop(open_at(dir.path()));
    let database = dir.path().join("db/sled");
    let snapshot = fs::read_dir(&database).unwrap().map(|entry| entry.unwrap().path());
    let snapshot = snapshot.filter(|path| path.to_str().unwrap().contains("snap.")).max().unwrap();
    let content = fs::read(&snapshot).unwrap();
    fs::write(&snapshot, &content[..content.len() / 2]).unwrap();
    let opened = open_at(dir.path());
    assert_eq!((opened.mark.count, violations(&opened.engine)), (3, vec![]));
    assert!(opened.repairs.iter().any(|repair| repair.contains("aside")), "{:?}", opened.repairs);
}

fn files_below(path: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files: Vec<_> = fs::read_dir(path)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file())
        .map(|path| (path.clone(), fs::read(&path).unwrap()))
        .collect();
    files.sort();
    files
}

/// sled would make a new, empty database in the place of a lost one, and everybody would be forgotten.
#[test]
fn a_database_without_its_files_is_damaged() {
    type Fault = fn(&Path);
    let faults: [(&str, Fault); 5] = [
        ("db", |path| fs::remove_file(path.join("db")).unwrap()),
        ("db", |path| fs::write(path.join("db"), b"").unwrap()),
        ("conf", |path| fs::remove_file(path.join("conf")).unwrap()),
        ("conf", |path| fs::write(path.join("conf"), b"").unwrap()),
        ("db", |path| {
            fs::remove_dir_all(path).unwrap();
            fs::create_dir(path).unwrap();
        }),
    ];
    for (name, fault) in faults {
        let dir = tempfile::tempdir().unwrap();
        drop(with_entries(dir.path()));
        let database = dir.path().join("db/sled");
        fault(&database);
        let before = files_below(&database);
        for _ in 0..2 {
            let error = open(&dir.path().join("db"), true, CACHE).unwrap_err();
            assert!(matches!(&error, Error::Damaged { path, .. } if *path == database), "{error:?}");
            let cause = std::error::Error::source(&error).unwrap().to_string();
            assert!(cause.contains(name) || before.is_empty(), "{cause}");
        }
        assert_eq!(files_below(&database), before, "nothing was changed");
    }
}

#[test]
fn a_database_of_zeros_is_damaged() {
    let dir = tempfile::tempdir().unwrap();
    drop(with_entries(dir.path()));
    let file = dir.path().join("db/sled/db");
    let zeros = vec![0; fs::metadata(&file).unwrap().len() as usize];
    fs::write(&file, &zeros).unwrap();
    let error = open(&dir.path().join("db"), true, CACHE).unwrap_err();
    assert!(matches!(error, Error::Damaged { .. }), "{error:?}");
}

#[test]
fn a_newer_format_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let opened = with_entries(dir.path());
    opened.engine.trees.meta.insert(meta::FORMAT, encode_meta(&(FORMAT + 1)).unwrap()).unwrap();
    drop(opened);
    let path = dir.path().join("db");
    let error = open(&path, false, CACHE).unwrap_err();
    assert!(matches!(error, Error::NewerFormat { found: 2, supported: FORMAT, .. }), "{error:?}");
    assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
}

// The estimate of what a write costs.

/// Bytes that this process has written, by its own account.
fn written() -> u64 {
    let text = fs::read_to_string("/proc/self/io").unwrap();
    text.lines().find_map(|line| line.strip_prefix("wchar: ")).unwrap().parse().unwrap()
}

#[derive(Default)]
struct Costs {
    estimated: u64,
    /// Bytes written when the last sync was done.
    synced: u64,
    most: u64,
    syncs: u64,
}

/// Not a test: holds the estimated cost of writes against the real one. Run it alone:
/// `cargo test --lib -- --ignored --nocapture costs_of_writes`
#[test]
#[ignore = "a measurement"]
fn costs_of_writes() {
    const ENTRIES: usize = 20_000;
    type Make = fn(usize, usize) -> Change;
    let large: Make = |n, round| {
        let details = Details { display_name: Some("x".repeat(3500)), ..Details::default() };
        let cold = Arc::new(Cold { details, ..cold(n + round, None) });
        let content = Content::Whole { hot: Hot::fresh(later(40)), cold, blob: None };
        let n = n * 7 % 500;
        Change { key: key(n), entry: entry(n), stored: None, content }
    };
    let kinds: [(&str, usize, Make); 8] = [
        ("touches in their bucket, uniform", 60_000, |n, _| touch(n * 7919 % ENTRIES, NOW, NOW)),
        ("touches that cross, uniform", 60_000, |n, round| {
            touch(n * 7919 % ENTRIES, later(round as i64), later(round as i64 + 1))
        }),
        ("touches that cross, 100 entries", 60_000, |n, round| {
            touch(n % 100, later(round as i64), later(round as i64 + 1))
        }),
        ("new ids", 20_000, |n, round| whole(n * 7919 % ENTRIES, n + round, later(40), None)),
        ("extras of 1 KB, 200 entries", 6_000, |n, _| whole(n * 7 % 200, n, later(40), Some((n as u64 + 100, 1000)))),
        ("extras of 20 KB, 200 entries", 3_000, |n, _| {
            whole(n * 7 % 200, n, later(40), Some((n as u64 + 10_000, 20_000)))
        }),
        ("extras of 100 KB, 20 entries", 600, |n, _| whole(n % 20, n, later(40), Some((n as u64 + 20_000, 100_000)))),
        ("large details, 500 entries", 10_000, large),
    ];
    for per_commit in [10, 1000] {
        let dir = tempfile::tempdir().unwrap();
        let mut opened = open_at(dir.path());
        for n in (0..ENTRIES).step_by(1000) {
            let new: Vec<_> = (n..n + 1000).map(|n| whole(n, n, NOW, None)).collect();
            commit(&mut opened, &new).unwrap();
        }
        for (name, changes, make) in &kinds {
            let costs = Arc::new(Mutex::new(Costs { synced: written(), ..Costs::default() }));
            let seen = Arc::clone(&costs);
            opened.writer.hook = Hook::new(move |engine, cost| {
                let mut seen = seen.lock();
                seen.estimated += cost;
                if cost == 0 {
                    // As the sync is about to do, so that its writes are counted before it.
                    engine.trees.meta.flush().unwrap();
                    let now = written();
                    seen.most = seen.most.max(now - seen.synced);
                    seen.synced = now;
                    seen.syncs += 1;
                }
                Ok(())
            });
            let start = written();
            let changes = changes * per_commit / 1000 + changes / 10;
            for round in 0..changes.div_ceil(per_commit) {
                let first = round * per_commit;
                let mut batch: Vec<_> = (first..first + per_commit).map(|n| make(n, round % 30)).collect();
                batch.sort_by(|a, b| a.key.cmp(&b.key));
                batch.dedup_by(|a, b| a.key == b.key);
                let next = opened.writer.mark().commit + 1;
                opened.writer.apply(&opened.engine, &batch).unwrap();
                opened.writer.finish(&opened.engine, next).unwrap();
                // With no sync asked for but those of the bound, as in a long stretch where nobody waits.
            }
            opened.writer.sync(&opened.engine).unwrap();
            let (real, costs) = (written() - start, costs.lock());
            println!(
                "{per_commit:5} a commit, {name:34} {:8} B a change, real/estimated {:.2}, {} syncs, at most {} KiB between two",
                real / changes as u64,
                real as f64 / costs.estimated as f64,
                costs.syncs,
                costs.most / 1024,
            );
        }
    }
}

mod repair;

#[test]
fn an_intent_that_does_not_read_is_found_and_stops_nobody() {
    let found = planted(|trees| drop(trees.intent.insert("group", &[9, 9]).unwrap()));
    assert!(matches!(&found[..], [Violation::Unreadable { tree: "intent", .. }]), "{found:?}");

    // Nor does one about an entry that does not read.
    let dir = tempfile::tempdir().unwrap();
    let opened = with_entries(dir.path());
    let trees = &opened.engine.trees;
    trees.sessions.insert(bytes(&key(1)), &[9, 9]).unwrap();
    let steps = vec![Step::Remove(entry(1)), Step::Remove(entry(3))];
    trees.intent.insert("group", Intent { count: 3, steps }.encode().unwrap()).unwrap();
    drop(opened);
    let opened = open_at(dir.path());
    assert!(!opened.engine.contains(&key(3)).unwrap());
    assert_eq!(opened.mark.count, 2);
    assert!(matches!(&violations(&opened.engine)[..], [Violation::Unreadable { tree: "sessions", .. }]));
}
