//! Verbs over all entries of a prefix.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cloakroom::change::{Expect, Put};
use cloakroom::events::EventKind;
use cloakroom::prefix::BulkRemoval;
use cloakroom::query::Filter;
use cloakroom::time::{Clock, ManualClock, Timer};
use cloakroom::turns::TurnEnd;
use cloakroom::{Details, Error, Extras, Revision, SessionEntry, SessionKey, SessionSource, SessionStore, Timestamp};
use serde_json::{Map, json};

use crate::common::{Home, assert_sound};

/// An entry with a key that begins with `agent:main:<platform>:`.
fn create(store: &SessionStore, platform: &str, chat: &str) -> SessionEntry {
    let source = SessionSource {
        platform: platform.into(),
        chat_type: "dm".into(),
        chat_id: Some(chat.into()),
        ..SessionSource::default()
    };
    store.resolve(&source).unwrap().entry
}

fn key(text: &str) -> SessionKey {
    SessionKey::new(text).unwrap()
}

fn forth(store: &SessionStore, prefix: &str) -> Vec<String> {
    store.keys(prefix).unwrap().map(|key| key.unwrap().as_str().to_owned()).collect()
}

fn back(store: &SessionStore, prefix: &str) -> Vec<String> {
    store.keys(prefix).unwrap().rev().map(|key| key.unwrap().as_str().to_owned()).collect()
}

const TELEGRAM: &str = "agent:main:telegram:";
const SIGNAL: &str = "agent:main:signal:";
const DISCORD: &str = "agent:main:discord:";

#[test]
fn keys_come_in_order_from_both_ends_pending_ones_too() {
    let home = Home::new();
    let store = home.open();
    for platform in ["telegram", "discord", "signal"] {
        for n in 0..600 {
            create(&store, platform, &n.to_string());
        }
    }
    store.flush().unwrap();
    // Pending: one comes, one goes.
    create(&store, "telegram", "zzz");
    store.remove(&key("agent:main:telegram:dm:7")).unwrap().unwrap();
    let mut expected: Vec<String> = (0..600).filter(|n| *n != 7).map(|n| format!("{TELEGRAM}dm:{n}")).collect();
    expected.push(format!("{TELEGRAM}dm:zzz"));
    expected.sort();
    assert_eq!(forth(&store, TELEGRAM), expected);
    assert_eq!(store.count_prefix(TELEGRAM).unwrap(), 600);
    assert_eq!(store.count_prefix("").unwrap(), 1800);
    assert_eq!(store.count_prefix("agent:nobody:").unwrap(), 0);
    assert_eq!(store.count_prefix("agent:main:telegram:dm:59").unwrap(), 11);
    expected.reverse();
    assert_eq!(back(&store, TELEGRAM), expected);
    assert_eq!(back(&store, "").len(), 1800);

    // From both ends at once, in uneven steps.
    let mut keys = store.keys(TELEGRAM).unwrap();
    let (mut front, mut end) = (Vec::new(), Vec::new());
    loop {
        let Some(key) = keys.next() else { break };
        front.push(key.unwrap());
        for _ in 0..2 {
            end.extend(keys.next_back().map(Result::unwrap));
        }
    }
    assert!(keys.next().is_none() && keys.next_back().is_none());
    front.extend(end.into_iter().rev());
    expected.reverse();
    assert_eq!(front.iter().map(SessionKey::as_str).collect::<Vec<_>>(), expected);
}

#[test]
fn what_comes_and_goes_meanwhile_is_shown_once_at_most() {
    let home = Home::new();
    let store = home.open();
    for n in 0..300 {
        create(&store, "telegram", &format!("{n:03}"));
    }
    let mut keys = store.keys(TELEGRAM).unwrap();
    let first: Vec<_> = (0..256).map(|_| keys.next().unwrap().unwrap()).collect();
    store.remove(&key("agent:main:telegram:dm:299")).unwrap().unwrap();
    create(&store, "telegram", "001a");
    let rest: Vec<_> = keys.map(Result::unwrap).collect();
    assert_eq!(rest.len(), 43);
    assert_eq!(first.iter().chain(&rest).collect::<BTreeSet<_>>().len(), 299);
}

#[test]
fn a_list_by_prefix_is_that_of_all_with_the_others_left_out() {
    let home = Home::new();
    let store = home.open();
    for n in 0..40 {
        home.clock.advance(Duration::from_secs(n * 7));
        create(&store, ["telegram", "discord"][n as usize % 2], &n.to_string());
    }
    store.suspend(&key("agent:main:telegram:dm:8")).unwrap().unwrap();
    let filter = |suspended| Filter { key_prefix: Some(TELEGRAM.into()), suspended, ..Filter::default() };
    for suspended in [None, Some(true), Some(false)] {
        let all = store.iter(Filter { suspended, ..Filter::default() }).unwrap().map(Result::unwrap);
        let expected: Vec<_> = all.filter(|row| row.key.as_str().starts_with(TELEGRAM)).collect();
        assert_eq!(store.iter(filter(suspended)).unwrap().map(Result::unwrap).collect::<Vec<_>>(), expected);
    }
}

#[test]
fn a_wrong_count_removes_nothing() {
    let home = Home::new();
    let store = home.open();
    for n in 0..5 {
        create(&store, "telegram", &n.to_string());
        create(&store, "discord", &n.to_string());
    }
    store.suspend(&key("agent:main:telegram:dm:1")).unwrap().unwrap();
    store.begin_turn(&key("agent:main:telegram:dm:2")).unwrap().unwrap();
    let filter = Filter { key_prefix: Some(TELEGRAM.into()), ..Filter::default() };
    for wrong in [0, 4, 6] {
        let answer = store.remove_where(&filter, wrong).unwrap();
        let BulkRemoval::CountDiffers { expected, found, .. } = answer else { panic!("{answer:?}") };
        assert_eq!((expected, found, store.len()), (wrong, 5, 10));
    }
    let events = store.events(100);
    let open = Filter { suspended: Some(false), ..filter.clone() };
    let removed = |answer: BulkRemoval| match answer {
        BulkRemoval::Removed(report) => (report.removed, report.changed),
        other => panic!("{other:?}"),
    };
    assert_eq!(removed(store.remove_where(&open, 4).unwrap()), (4, 0));
    assert_eq!(events.drain().filter(|event| event.kind == EventKind::Removed).count(), 4);
    // A suspended one goes too, unless the filter says otherwise.
    assert_eq!(removed(store.remove_where(&filter, None).unwrap()), (1, 0));
    assert_eq!((store.len(), store.count_prefix(DISCORD).unwrap(), store.turns().unwrap().items.len()), (5, 5, 0));
    // Without a prefix, and by what the larger record says.
    let platform = Filter { platform: Some("discord".into()), ..Filter::default() };
    assert_eq!(removed(store.remove_where(&platform, 5).unwrap()), (5, 0));
    assert!(store.is_empty());
    assert_sound(&store);
}

/// Everything that there is of an entry, but for its key.
fn all_of(store: &SessionStore, of: &SessionKey) -> Option<(SessionEntry, Extras)> {
    let (mut entry, extras) = store.get_with_extras(of).unwrap()?;
    entry.key = key("no:key");
    entry.revision = Revision::NONE;
    Some((entry, extras))
}

#[test]
fn an_entry_moves_with_all_there_is_of_it() {
    let home = Home::new();
    let store = home.open();
    for n in 0..4 {
        create(&store, "telegram", &n.to_string());
    }
    create(&store, "discord", "9");
    let old: Vec<_> = (0..4).map(|n| key(&format!("{TELEGRAM}dm:{n}"))).collect();
    let new: Vec<_> = (0..4).map(|n| key(&format!("{SIGNAL}dm:{n}"))).collect();
    let metadata = Map::from_iter([("text".to_owned(), json!("m".repeat(6000)))]);
    store.set_metadata(&old[1], &metadata).unwrap().unwrap();
    // More than fits into the record.
    store.update(&old[2], |details: &mut Details| details.display_name = Some("n".repeat(9000))).unwrap().unwrap();
    store.suspend(&old[0]).unwrap().unwrap();
    store.flush().unwrap();
    // Late changes, in the journal or pending, move with it.
    home.clock.advance(Duration::from_secs(300));
    store.touch(&old[1]).unwrap().unwrap();
    let token = store.begin_turn(&old[3]).unwrap().unwrap().token;
    let before: Vec<_> = old.iter().map(|key| all_of(&store, key)).collect();
    home.clock.advance(Duration::from_secs(300));
    let events = store.events(100);

    let revision = |key: &SessionKey| store.get(key).unwrap().unwrap().revision;
    let revisions: Vec<_> = old.iter().map(revision).collect();
    let report = store.rename(TELEGRAM, SIGNAL).unwrap();
    assert_eq!((report.moved, report.collisions, report.unreadable.count), (4, 0, 0));
    assert!(new.iter().zip(revisions).all(|(key, before)| revision(key) != before));
    let told: Vec<_> = events.drain().map(|event| (event.kind, event.key)).collect();
    let renamed = old.iter().zip(&new).map(|(from, to)| (EventKind::Renamed { from: from.clone() }, to.clone()));
    assert_eq!(told, renamed.collect::<Vec<_>>());
    let check = |store: &SessionStore| {
        assert_eq!(new.iter().map(|key| all_of(store, key)).collect::<Vec<_>>(), before);
        assert!(old.iter().all(|key| all_of(store, key).is_none()));
        assert_eq!((store.len(), store.count_prefix(TELEGRAM).unwrap()), (5, 0));
        for key in &new {
            let id = store.get(key).unwrap().unwrap().session_id;
            assert_eq!(store.find_by_session_id(&id).unwrap().items.len(), 1);
        }
        assert_sound(store);
    };
    check(&store);
    assert_eq!(store.verify().unwrap().orphaned_turns, 0);
    let turns = store.turns().unwrap().items;
    assert_eq!(turns.iter().map(|turn| &turn.key).collect::<Vec<_>>(), [&new[3]]);
    assert!(matches!(store.end_turn(&old[3], token).unwrap(), TurnEnd::Missing));
    assert!(matches!(store.end_turn(&new[3], token).unwrap(), TurnEnd::Ended(_)));
    store.close().unwrap();
    drop(store);
    check(&home.open());
}

#[test]
fn what_comes_after_a_move_is_kept() {
    let home = Home::new();
    let store = home.open();
    let old = create(&store, "telegram", "1").key;
    let new = key(&format!("{SIGNAL}dm:1"));
    store.flush().unwrap();
    let _ = store.rename(TELEGRAM, SIGNAL).unwrap();
    // Another entry under the old key, which moves on; and the moved one changes.
    let second = create(&store, "telegram", "1");
    assert_eq!(second.key, old);
    home.clock.advance(Duration::from_secs(60));
    store.touch(&new).unwrap().unwrap();
    let moved = store.get(&new).unwrap().unwrap();
    assert_ne!(moved.session_id, second.session_id);
    let report = store.rename(TELEGRAM, DISCORD).unwrap();
    assert_eq!(report.moved, 1);
    let report = store.rename(SIGNAL, TELEGRAM).unwrap();
    assert_eq!(report.moved, 1);
    store.close().unwrap();
    drop(store);
    let store = home.open();
    assert_eq!(store.get(&old).unwrap().unwrap().session_id, moved.session_id);
    assert_eq!(store.get(&old).unwrap().unwrap().updated_at, moved.updated_at);
    assert_eq!(forth(&store, ""), [format!("{DISCORD}dm:1"), format!("{TELEGRAM}dm:1")]);
    assert_sound(&store);
}

#[test]
fn collisions_are_found_before_anything_moves() {
    let home = Home::new();
    let store = home.open();
    for n in 0..20 {
        create(&store, "telegram", &n.to_string());
    }
    for n in 0..15 {
        create(&store, "signal", &n.to_string());
    }
    let report = store.rename(TELEGRAM, SIGNAL).unwrap();
    assert_eq!((report.moved, report.collisions, report.colliding.len()), (0, 15, 10));
    assert!(report.colliding.iter().all(|key| store.contains(key).unwrap()));
    assert_eq!((store.count_prefix(TELEGRAM).unwrap(), store.len()), (20, 35));
}

/// Makes an entry when it is asked for the time of an event, so between two steps of a rename.
#[derive(Debug, Clone)]
struct Meddler {
    clock: ManualClock,
    /// The store, and how often the time is told until then.
    due: Arc<Mutex<Option<(SessionStore, usize)>>>,
}

impl Clock for Meddler {
    fn now(&self) -> Timestamp {
        let mut due = self.due.lock().unwrap();
        match due.take() {
            Some((store, 0)) => {
                drop(due);
                create(&store, "signal", "3");
            }
            Some((store, left)) => *due = Some((store, left - 1)),
            None => {}
        }
        self.clock.now()
    }

    fn monotonic(&self) -> Duration {
        self.clock.monotonic()
    }

    fn after(&self, delay: Duration) -> Timer {
        self.clock.after(delay)
    }
}

#[test]
fn a_collision_that_appears_meanwhile_stops_the_run_and_another_goes_on() {
    let home = Home::new();
    let clock = Meddler { clock: home.clock.clone(), due: Arc::default() };
    let store = SessionStore::open(home.options().clock(clock.clone())).unwrap();
    let ids: Vec<_> = (0..6).map(|n| create(&store, "telegram", &n.to_string()).session_id).collect();
    let events = store.events(100);
    // Events tell the time of each move: the second one finds another entry made.
    *clock.due.lock().unwrap() = Some((store.clone(), 1));
    let report = store.rename(TELEGRAM, SIGNAL).unwrap();
    let taken = key("agent:main:signal:dm:3");
    assert_eq!((report.moved, report.collisions, &report.colliding[..]), (3, 1, std::slice::from_ref(&taken)));
    let told = || events.drain().filter(|event| matches!(event.kind, EventKind::Renamed { .. })).count();
    assert_eq!(told(), 3);
    let other = store.get(&taken).unwrap().unwrap().session_id;
    let id =
        |prefix: &str, n: usize| store.get(&key(&format!("{prefix}dm:{n}"))).unwrap().map(|entry| entry.session_id);
    for (n, own) in ids.iter().enumerate() {
        let there = [id(TELEGRAM, n), id(SIGNAL, n)];
        let expected = match n {
            0..3 => [None, Some(own.clone())],
            3 => [Some(own.clone()), Some(other.clone())],
            _ => [Some(own.clone()), None],
        };
        assert_eq!(there, expected, "{n}");
    }
    // While it is there, nothing moves.
    assert_eq!(store.rename(TELEGRAM, SIGNAL).unwrap().moved, 0);
    store.remove(&taken).unwrap().unwrap();
    let report = store.rename(TELEGRAM, SIGNAL).unwrap();
    assert_eq!((report.moved, report.collisions, told()), (3, 0, 3));
    assert_eq!((0..6).map(|n| id(SIGNAL, n).unwrap()).collect::<Vec<_>>(), ids);
    assert_eq!(store.len(), 6);
    assert_sound(&store);
}

#[test]
fn prefixes_that_overlap_and_keys_that_are_none_are_refused() {
    let home = Home::new();
    let store = home.open();
    create(&store, "telegram", "1");
    for (old, new) in [("agent:", "agent:a:"), ("agent:main:", "agent:"), ("", "x:"), ("agent:", "agent:")] {
        assert!(matches!(store.rename(old, new), Err(Error::OverlappingPrefixes)), "{old} to {new}");
    }
    assert!(matches!(store.rename(TELEGRAM, "_notes:"), Err(Error::InvalidKey(_))));
    assert!(matches!(store.rename(TELEGRAM, &"x".repeat(1024)), Err(Error::InvalidKey(_))));
    assert_eq!(store.count_prefix(TELEGRAM).unwrap(), 1);
}

/// Threads touch, make anew and look while the entries move to and fro: no entry is lost, and none is doubled.
#[test]
fn entries_move_under_the_feet_of_others() {
    let home = Home::new();
    let store = home.open();
    let ids: BTreeSet<_> = (0..30).map(|n| create(&store, "telegram", &n.to_string()).session_id).collect();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for thread in 0..2 {
            let (store, done) = (&store, &done);
            scope.spawn(move || {
                let mut n = thread;
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    n = (n + 7) % 30;
                    for prefix in [TELEGRAM, SIGNAL] {
                        store.touch(&key(&format!("{prefix}dm:{n}"))).unwrap();
                        store.begin_turn(&key(&format!("{prefix}dm:{n}"))).unwrap();
                    }
                }
            });
        }
        for round in 0..20 {
            let (from, to) = if round % 2 == 0 { (TELEGRAM, SIGNAL) } else { (SIGNAL, TELEGRAM) };
            assert_eq!(store.rename(from, to).unwrap().moved, 30);
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    let left: BTreeSet<_> =
        store.keys("").unwrap().map(|key| store.get(&key.unwrap()).unwrap().unwrap().session_id).collect();
    assert_eq!((left, store.len()), (ids, 30));
    store.flush().unwrap();
    assert_sound(&store);
    assert_eq!(store.verify().unwrap().orphaned_turns, 0);
}

/// Whether some file below `dir` holds the bytes.
fn holds(dir: &Path, bytes: &[u8]) -> bool {
    std::fs::read_dir(dir).unwrap().any(|item| {
        let item = item.unwrap();
        if item.file_type().unwrap().is_dir() {
            return holds(&item.path(), bytes);
        }
        let all = std::fs::read(item.path()).unwrap();
        all.windows(bytes.len()).any(|part| part == bytes)
    })
}

#[test]
fn what_is_forgotten_is_in_no_file_after_a_compaction() {
    let home = Home::new();
    let store = home.open();
    let user = create(&store, "telegram", "erased-user");
    create(&store, "telegram", "other-user");
    store.update(&user.key, |details| details.display_name = Some("Erased-Name".into())).unwrap().unwrap();
    let metadata = Map::from_iter([("text".to_owned(), json!("erased-extra".repeat(900)))]);
    store.set_metadata(&user.key, &metadata).unwrap().unwrap();
    store.suspend(&user.key).unwrap().unwrap();
    store.begin_turn(&user.key).unwrap().unwrap();
    store.flush().unwrap();

    assert!(matches!(store.forget(""), Err(Error::Setting { .. })), "that would be everything");
    let report = store.forget("agent:main:telegram:dm:erased-user").unwrap();
    assert_eq!((report.removed, report.unreadable.count, store.len()), (1, 0, 1));
    assert!(store.turns().unwrap().items.is_empty());
    assert!(!store.contains(&user.key).unwrap());
    store.close().unwrap();
    drop(store);
    let traces = ["erased-user", "Erased-Name", "erased-extra", user.session_id.as_str()];
    let found = || traces.map(|trace| holds(&home.path(), trace.as_bytes()));
    // As the docs say: the files keep them until then.
    assert_eq!(found(), [true; 4]);
    SessionStore::compact(home.options(), |_| {}).unwrap();
    assert_eq!(found(), [false; 4]);
    assert!(holds(&home.path(), b"other-user"));
    assert_sound(&home.open());
}

#[test]
fn to_forget_one_user_takes_nobody_whose_key_only_begins_alike() {
    let home = Home::new();
    let store = home.open();
    for chat in ["56", "567", "56-a"] {
        create(&store, "telegram", chat);
    }
    let below = SessionEntry::new(key("agent:main:telegram:dm:56:topic"), "below".parse().unwrap(), home.clock.now());
    let put = store.put(&below, &Extras::default(), Expect::Absent).unwrap();
    assert!(matches!(put, Put::Created(_)));
    assert_eq!(store.forget("agent:main:telegram:dm:5").unwrap().removed, 0);
    assert_eq!(store.forget("agent:main:telegram:dm:56").unwrap().removed, 2);
    assert_eq!(forth(&store, ""), ["agent:main:telegram:dm:56-a", "agent:main:telegram:dm:567"]);
    assert_eq!(store.forget("agent:main:telegram:dm:").unwrap().removed, 2);
}
