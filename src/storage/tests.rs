//! What a crash between any two writes leaves, what `verify` sees, and what opening repairs.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use tempfile::TempDir;

use super::directory::state::{Left, Mark, State, StateFile};
use super::engine::ages::{self, Pages};
use super::engine::runs::AgeOrder;
use super::engine::trees::{FORMAT, Trees, meta};
use super::engine::{Engine, bytes};
use super::whole::open::Opened;
use super::*;
use crate::codec::{
    Activity, ActivityRow, Base, CHUNK_BYTES, Cold, ExtrasIndex, ExtrasRef, ExtrasRow, Field, Fingerprint, Hot, IdRow,
    Intent, Parts, SUSPENDED, Seed, Step, Term, Turn, encode_meta,
};
use crate::entry::Details;
use crate::error::{Error, Result};
use crate::key::{SessionId, SessionKey};
use crate::time::Timestamp;
use crate::unreadable::Unreadable;

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

/// The hot record of the entry of a key.
fn hot_of(engine: &Engine, key: &SessionKey) -> Result<Option<Hot>> {
    engine.hot_of(engine.fingerprint(key), key)
}

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
    open(&dir.join("db"), true, CACHE, false).unwrap()
}

fn cold(n: usize, extras: Option<ExtrasRef>) -> Cold {
    let details = Details { platform: Some("discord".into()), ..Details::default() };
    // Of the base all but the name and the text are eight bytes, or six around a short text.
    let index = |at: ExtrasRef| {
        let bytes = at.bytes - if at.bytes > 260 { 8 } else { 6 };
        Arc::new(ExtrasIndex { bytes, base: Some(at), ..ExtrasIndex::default() })
    };
    Cold { session_id: id(n), created_at: NOW, details, extras: extras.map(index) }
}

/// A base with a text of that many bytes.
fn base(bytes: usize) -> Arc<[u8]> {
    let text = format!("\"{}\"", "x".repeat(bytes));
    Base::encode(None, &BTreeMap::from([("metadata".to_owned(), Field::Text(text))])).unwrap().into()
}

/// A new or changed entry, with extras in a base of number `generation` if it is given.
fn whole(n: usize, session: usize, at: Timestamp, extras: Option<(u64, usize)>) -> Change {
    let parts: Parts = extras.map(|(generation, bytes)| (generation, base(bytes))).into_iter().collect();
    let of = |(generation, part): (&u64, &Arc<[u8]>)| ExtrasRef {
        generation: *generation,
        bytes: u32::try_from(part.len()).unwrap(),
    };
    let cold = Arc::new(cold(session, parts.iter().next().map(of)));
    Change {
        key: key(n),
        entry: entry(n),
        content: Content::Whole { hot: Hot::fresh(at), cold, parts },
        moved: None,
        is_another: false,
        leases: vec![],
        before: None,
    }
}

/// Puts a row into the index by age, or takes one away, as damage might.
fn put_age_row(trees: &Trees, n: usize, time: Timestamp) {
    let tree = &trees.by_updated_at;
    ages::write(tree, ages::puts(tree, &[ActivityRow { time, entry: entry(n) }]).unwrap()).unwrap();
}

/// Like `put_age_row`, for tests of other modules.
pub(crate) fn plant_age_row(engine: &Engine, key: &SessionKey, time: Timestamp) {
    let tree = &engine.trees.by_updated_at;
    let row = ActivityRow { time, entry: engine.fingerprint(key) };
    ages::write(tree, ages::puts(tree, &[row]).unwrap()).unwrap();
}

fn remove_age_row(trees: &Trees, n: usize, time: Timestamp) {
    let tree = &trees.by_updated_at;
    let writes = ages::removals(tree, &[ActivityRow { time, entry: entry(n) }]).unwrap();
    assert_eq!(writes.len(), 1);
    ages::write(tree, writes).unwrap();
}

/// How many rows the index by age has.
fn age_rows(trees: &Trees) -> usize {
    let all = (Bound::Unbounded, Bound::Unbounded);
    let pages = Pages::of(&trees.by_updated_at, &all, AgeOrder::OldestFirst).unwrap();
    pages.map(|page| page.unwrap().rows.map_or(0, |rows| rows.len())).sum()
}

fn touch(n: usize, to: Timestamp) -> Change {
    Change {
        key: key(n),
        entry: entry(n),
        content: Content::Hot(Hot::fresh(to)),
        moved: None,
        is_another: false,
        leases: vec![],
        before: None,
    }
}

fn gone(n: usize) -> Change {
    Change {
        key: key(n),
        entry: entry(n),
        content: Content::Gone,
        moved: None,
        is_another: false,
        leases: vec![],
        before: None,
    }
}

/// Entry `from` moves to key `to`, with a turn of its session.
fn moved(from: usize, to: usize, extras: Option<(u64, usize)>) -> Change {
    let turn = Some(Turn { token: 5, started_at: NOW, session_id: id(from) });
    let moved = Some(Box::new(MovedFrom { key: key(from), entry: entry(from), turn }));
    Change { moved, ..whole(to, from, later(3), extras) }
}

/// The row of an entry in `activity`.
fn activity(n: usize, hot: &Hot) -> Vec<u8> {
    Activity::encode(&key(n), hot).unwrap()
}

fn is_late(change: &Change) -> bool {
    matches!(change.content, Content::Hot(_)) && change.leases.is_empty()
}

/// A touch if nothing but the time is new, as the committer knows it.
fn as_late(engine: &Engine, change: &Change) -> Option<Late> {
    let Content::Hot(hot) = change.content else { return None };
    let before = hot_of(engine, &change.key).unwrap();
    let is_touch = before.is_some_and(|before| hot == Hot { updated_at: hot.updated_at, ..before });
    Some(Late { entry: change.entry, hot, is_touch })
}

fn commit(opened: &mut Opened, changes: &[Change]) -> Result<()> {
    let next = opened.writer.mark().commit + 1;
    let Opened { engine, writer, .. } = opened;
    for run in changes.chunk_by(|one, next| is_late(one) == is_late(next)) {
        if run.iter().all(is_late) {
            let late: Vec<_> = run.iter().filter_map(|change| as_late(engine, change)).collect();
            writer.apply_late(engine, late.into_iter())?;
        } else {
            writer.apply(engine, run, usize::MAX, |_| {})?;
        }
    }
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
        content: Content::Whole { hot, cold: Arc::new(cold(3, None)), parts: Parts::new() },
        moved: None,
        is_another: false,
        leases: vec![],
        before: None,
    };
    let changes = [whole(1, 1, NOW, None), whole(2, 2, NOW, Some((1, 9000))), suspended];
    commit(&mut opened, &changes).unwrap();
    opened
}

/// The cold record of an entry on disk.
fn cold_of(engine: &Engine, n: usize) -> Option<Cold> {
    engine.stored_cold(&key(n)).unwrap().map(|stored| engine.decode_cold(&key(n), &stored).unwrap())
}

fn violations(engine: &Engine) -> Vec<Violation> {
    verify(engine).unwrap().violations
}

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

mod compact;
mod costs;
mod journal;
mod load;
mod open;
mod repair;
mod verify;
mod writes;
