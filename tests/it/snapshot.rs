//! A backup is the store of one moment, whatever happens to it meanwhile, and so is an export.

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use cloakroom::change::Repoint;
use cloakroom::export::{ExportFormat, ExportOptions};
use cloakroom::prune::NoActivity;
use cloakroom::{Error, PrunePolicy, SessionId, SessionStore, Usage};
use serde_json::json;

use crate::behind::open_sled;
use crate::common::{Home, assert_sound, fast_dir, key, options, source};
use crate::compact::{everything, fill};
use crate::rig::file_model::Dice;

/// An output that uses the store each time it is written to: on the backup's own thread, in the middle of it.
struct Meddler<F>(Vec<u8>, F);

impl<F: FnMut(usize)> Write for Meddler<F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (self.1)(self.0.len());
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The store that a backup holds.
fn restored(file: &[u8], look: impl FnOnce(&SessionStore)) {
    let dir = fast_dir();
    let path = dir.path().join("db");
    SessionStore::restore(options(&path), file, |_| {}).unwrap();
    let store = SessionStore::open(options(&path)).unwrap();
    assert_sound(&store);
    look(&store);
}

/// One change of any kind.
fn change(store: &SessionStore, dice: &mut Dice, entries: usize) {
    let n = dice.roll(entries + 20);
    let key = key(n);
    match dice.roll(13) {
        0 | 1 => drop(store.touch(&key).unwrap()),
        2 => drop(store.resolve(&source(n)).unwrap()),
        3 => drop(store.remove(&key).unwrap()),
        4 => drop(store.reset(&key).unwrap()),
        5 => drop(store.suspend(&key).unwrap()),
        6 => drop(store.unsuspend(&key).unwrap()),
        7 => {
            let metadata = json!({"now": "m".repeat(dice.roll(9000))});
            drop(store.set_metadata(&key, metadata.as_object().unwrap()).unwrap());
        }
        8 => drop(store.update(&key, |at| at.display_name = Some("n".repeat(dice.roll(5000)))).unwrap()),
        9 => drop(store.record_usage(&key, &Usage { input_tokens: 1, ..Usage::ZERO }).unwrap()),
        10 => drop(store.repoint(&key, SessionId::new(format!("switched-{n}")).unwrap(), &Repoint::new()).unwrap()),
        11 => drop(store.begin_turn(&key).unwrap()),
        _ => {
            if let Some(turn) = store.turns().unwrap().items.iter().find(|turn| turn.key == key) {
                store.end_turn(&key, turn.token).unwrap();
            }
        }
    }
}

#[test]
fn nothing_that_comes_later_is_in_it() {
    let entries = 700;
    for seed in 0..3 {
        let home = Home::new();
        let expected = fill(&home.path(), entries);
        // Nothing stays in memory that is on disk.
        let store = SessionStore::open(home.options().cached_entries(0)).unwrap();
        assert_eq!(everything(&store), expected);
        home.clock.advance(Duration::from_secs(86_400));
        let (mut dice, mut changes) = (Dice(seed), 0);
        let mut file = Meddler(Vec::new(), |_| {
            for _ in 0..30 {
                change(&store, &mut dice, entries);
                changes += 1;
            }
            store.flush().unwrap();
            home.clock.advance(Duration::from_secs(40));
        });
        let report = store.backup(&mut file, |_| {}).unwrap();
        let file = file.0;
        assert!(changes > 1000, "only {changes} changes");
        assert_eq!(report.entries, expected.0.len() as u64);
        restored(&file, |back| assert!(everything(back) == expected, "seed {seed}"));
        assert!(everything(&store) != expected);
        assert_sound(&store);
    }
}

#[test]
fn an_export_too_has_nothing_that_comes_later() {
    for format in [ExportFormat::Hermes, ExportFormat::OpenClaw, ExportFormat::Jsonl] {
        let home = Home::new();
        drop(fill(&home.path(), 300));
        let store = home.open();
        let mut expected = Vec::new();
        store.export(&mut expected, &ExportOptions::new(format)).unwrap();
        home.clock.advance(Duration::from_secs(86_400));
        let (mut dice, mut changes) = (Dice(4), 0);
        let mut file = Meddler(Vec::new(), |_| {
            (0..30).for_each(|_| change(&store, &mut dice, 300));
            store.flush().unwrap();
            changes += 30;
        });
        store.export(&mut file, &ExportOptions::new(format)).unwrap();
        let file = file.0;
        assert!(changes > 300 && file == expected, "{format:?}, {changes} changes");
    }
}

#[test]
fn what_is_pruned_meanwhile_is_in_it() {
    let home = Home::new();
    let expected = fill(&home.path(), 600);
    let store = home.open();
    home.clock.advance(Duration::from_secs(100 * 86_400));
    let mut removed = 0;
    let mut file = Meddler(Vec::new(), |_| {
        removed += store.prune(&PrunePolicy::max_age_days(90), NoActivity).unwrap().removed;
        store.flush().unwrap();
    });
    store.backup(&mut file, |_| {}).unwrap();
    let file = file.0;
    assert!(removed > 400, "{removed}");
    restored(&file, |back| assert!(everything(back) == expected));
}

#[test]
fn two_at_once_are_of_two_moments() {
    let home = Home::new();
    let first = fill(&home.path(), 300);
    let store = home.open();
    home.clock.advance(Duration::from_secs(86_400));
    let mut second = None;
    let mut outer = Meddler(Vec::new(), |_| {
        if second.is_none() {
            for n in 0..300 {
                home.clock.advance(Duration::from_secs(1));
                store.touch(&key(n)).unwrap().unwrap();
            }
            let expected = everything(&store);
            let mut dice = Dice(9);
            let mut inner = Meddler(Vec::new(), |_| change(&store, &mut dice, 300));
            store.backup(&mut inner, |_| {}).unwrap();
            second = Some((expected, inner.0));
        }
        store.remove(&key(299)).unwrap();
    });
    store.backup(&mut outer, |_| {}).unwrap();
    let outer = outer.0;
    let (expected, inner) = second.unwrap();
    assert!(expected != first);
    restored(&inner, |back| assert!(everything(back) == expected));
    restored(&outer, |back| assert!(everything(back) == first));
}

/// A thread begins a turn of one entry after the other, round by round. At any moment those up to some place are in one
/// round, and those behind it in the round before; and each has the turn of its last touch.
#[test]
fn all_entries_are_of_one_moment() {
    let home = Home::new();
    let store = SessionStore::open(home.options().commit_interval(Duration::from_millis(1))).unwrap();
    let entries = 100;
    for n in 0..entries {
        store.resolve(&source(n)).unwrap();
        store.begin_turn(&key(n)).unwrap().unwrap();
    }
    let done = AtomicBool::new(false);
    let backups: Vec<Result<Vec<u8>, Error>> = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                for n in 0..entries {
                    home.clock.advance(Duration::from_millis(1));
                    store.begin_turn(&key(n)).unwrap().unwrap();
                }
            }
        });
        let backups = (0..60).map(|_| {
            let mut file = Vec::new();
            store.backup(&mut file, |_| {}).map(|_| file)
        });
        let backups = backups.collect();
        done.store(true, Ordering::Relaxed);
        backups
    });
    let mut steps = 0;
    for file in backups {
        restored(&file.unwrap(), |back| {
            let times: Vec<i64> =
                (0..entries).map(|n| back.get(&key(n)).unwrap().unwrap().updated_at.as_micros()).collect();
            let newest = times.iter().max().unwrap();
            let at = times.iter().position(|time| time == newest).unwrap();
            // From the place behind the newest on they follow each other, a millisecond apart, round to the newest.
            let order: Vec<i64> = times[at + 1..].iter().chain(&times[..=at]).copied().collect();
            steps += usize::from(at + 1 < entries);
            let is_round = order.windows(2).all(|two| two[1] - two[0] == 1000);
            // In the first round those behind it are all of the beginning.
            let is_first = order.windows(2).all(|two| [0, 1000].contains(&(two[1] - two[0])));
            assert!(is_round || is_first, "{order:?}");
            let turns = back.turns().unwrap();
            assert_eq!(turns.items.len(), entries);
            for turn in turns {
                assert_eq!(turn.started_at, back.get(&turn.key).unwrap().unwrap().updated_at);
            }
        });
    }
    assert!(steps > 10, "only {steps} came in the middle");
}

/// An entry that cannot be decoded is an error of the backup, not of the verb that removes it meanwhile.
#[test]
fn an_entry_that_does_not_read_may_be_removed_meanwhile() {
    let home = Home::new();
    let store = home.open();
    (0..200).for_each(|n| drop(store.resolve(&source(n)).unwrap()));
    // Behind enough others that something is written before it is read.
    let last = (0..200).map(key).max().unwrap();
    store.set_metadata(&last, json!({"text": "x".repeat(3000)}).as_object().unwrap()).unwrap().unwrap();
    store.close().unwrap();
    drop(store);
    {
        let db = open_sled(&sled::Config::new().path(home.path().join("sled"))).unwrap();
        let extras = db.open_tree("extras").unwrap();
        extras.iter().keys().for_each(|row| drop(extras.insert(row.unwrap(), b"nonsense").unwrap()));
        db.flush().unwrap();
    }
    let store = home.open();
    let mut removals = Vec::new();
    let mut file = Meddler(Vec::new(), |_| removals.push(store.remove(&last).unwrap()));
    let error = store.backup(&mut file, |_| {}).unwrap_err();
    assert!(matches!(error, Error::DamagedRecord { .. }), "{error:?}");
    assert!(removals[0].is_some());
    assert_eq!(store.get(&last).unwrap(), None);
}

/// A thread writes one number into the counters, the details and the metadata of one entry after the other. A backup has
/// the same number in all three of each, though it reads beside commits that replace them.
#[test]
fn each_entry_is_whole_beside_commits() {
    let home = Home::new();
    let options = home.options().commit_interval(Duration::from_millis(1)).cached_entries(0);
    let store = SessionStore::open(options).unwrap();
    let entries = 40;
    let write = |n: usize, round: u64| {
        let key = key(n);
        store.remove(&key).unwrap();
        store.resolve(&source(n)).unwrap();
        // Each a change of its own, so a backup may have some of them, of the entry that is being written.
        store.record_usage(&key, &Usage { input_tokens: round, ..Usage::ZERO }).unwrap().unwrap();
        store.update(&key, |at| at.display_name = Some(round.to_string().repeat(700))).unwrap().unwrap();
        let metadata = json!({"n": round, "text": round.to_string().repeat(1500)});
        store.set_metadata(&key, metadata.as_object().unwrap()).unwrap().unwrap();
    };
    (0..entries).for_each(|n| write(n, 0));
    let (done, rounds) = (AtomicBool::new(false), AtomicU64::new(0));
    let backups = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let round = rounds.fetch_add(1, Ordering::Relaxed) + 1;
                (0..entries).for_each(|n| write(n, round));
            }
        });
        let mut backups = Vec::new();
        while backups.len() < 15 || rounds.load(Ordering::Relaxed) < 2 && !writer.is_finished() {
            let mut file = Vec::new();
            backups.push(store.backup(&mut file, |_| {}).map(|_| file));
        }
        done.store(true, Ordering::Relaxed);
        writer.join().unwrap();
        backups
    });
    for file in backups {
        restored(&file.unwrap(), |back| {
            // At most one is being written.
            let mut odd = 0;
            for n in 0..entries {
                let Some((entry, extras)) = back.get_with_extras(&key(n)).unwrap() else {
                    odd += 1;
                    continue;
                };
                let round = entry.usage.input_tokens;
                let name =
                    entry.details.display_name.as_deref().is_some_and(|name| name == round.to_string().repeat(700));
                let metadata = extras.value("metadata").is_some_and(|metadata| {
                    metadata["n"] == round && metadata["text"] == round.to_string().repeat(1500)
                });
                odd += usize::from(!name || !metadata);
            }
            assert!(odd <= 1, "{odd} entries are of two moments");
        });
    }
}
