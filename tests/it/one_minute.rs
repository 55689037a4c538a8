//! Very many entries of one minute: the index by age knows no more than that.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use cloakroom::import::ImportOptions;
use cloakroom::prune::NoActivity;
use cloakroom::query::Filter;
use cloakroom::{PrunePolicy, SessionKey, SessionStore, Timestamp};

use crate::common::Home;

/// More than what is looked at together, everywhere.
const ENTRIES: usize = 3000;
/// Beginning of the minute.
const BEGIN: i64 = 1_781_222_820_000_000;

fn key(n: usize) -> SessionKey {
    format!("agent:main:discord:dm:{n}").parse().unwrap()
}

/// The time of the `n`-th entry: in an order that is not that of the keys, each twice.
fn time(n: usize, entries: usize) -> Timestamp {
    Timestamp::from_micros(BEGIN + ((n / 2 * 7919) % entries) as i64 * (59_000_000 / entries as i64))
}

fn store(home: &Home, entries: usize) -> SessionStore {
    let lines: Vec<_> = (0..entries)
        .map(|n| {
            let (key, time) = (key(n), time(n, entries));
            format!(r#""{}": {{"session_id": "s{n}", "created_at": "{time}", "updated_at": "{time}"}}"#, key.as_str())
        })
        .collect();
    let store = home.open();
    let file = format!("{{{}}}", lines.join(","));
    let options = ImportOptions::new().gateway(cloakroom::gateway::Gateway::Hermes).zone("UTC".parse().unwrap());
    assert_eq!(store.import(file.as_bytes(), options, |_| {}).unwrap().imported, entries as u64);
    store
}

#[test]
fn pages_and_lists_agree() {
    let home = Home::new();
    let store = store(&home, ENTRIES);
    let listed: Vec<_> = store.iter(Filter::default()).unwrap().map(Result::unwrap).collect();
    assert_eq!(listed.len(), ENTRIES);
    assert!(listed.windows(2).all(|two| two[0].updated_at >= two[1].updated_at));
    for limit in [1, 299, 5000] {
        let (mut cursor, mut paged) = (None, Vec::new());
        loop {
            let page = store.recent(limit, cursor.as_ref()).unwrap();
            assert!(page.entries.len() <= limit);
            paged.extend(page.entries);
            cursor = page.next;
            if cursor.is_none() || limit == 1 && paged.len() == 20 {
                break;
            }
        }
        assert_eq!(paged, listed[..paged.len()]);
        assert!(limit == 1 || paged.len() == ENTRIES);
    }
}

#[test]
fn caps_take_the_oldest() {
    let home = Home::new();
    let store = store(&home, ENTRIES);
    let oldest_first: Vec<_> = store.iter(Filter::default()).unwrap().map(|row| row.unwrap()).collect();
    // The oldest thousand are in use, so the pass has to look for others.
    let used: BTreeSet<_> = oldest_first.iter().rev().take(1000).map(|row| row.key.clone()).collect();
    let policy = PrunePolicy::max_age_days(0).max_entries(2990);
    let report = store.prune(&policy, |key: &SessionKey| used.contains(key)).unwrap();
    assert_eq!((report.removed, report.kept_active), (10, 1000));
    let left: Vec<_> = store.iter(Filter::default()).unwrap().map(|row| row.unwrap().updated_at).collect();
    let expected: Vec<_> = oldest_first.iter().map(|row| row.updated_at).collect();
    assert_eq!(left, [&expected[..ENTRIES - 1010], &expected[ENTRIES - 1000..]].concat());
}

#[test]
fn the_oldest_and_the_newest_are_of_that_minute() {
    let home = Home::new();
    let few = store(&home, 1000);
    let times: BTreeSet<_> = (0..1000).map(|n| time(n, 1000)).collect();
    let stats = few.stats().unwrap();
    assert_eq!((stats.oldest, stats.newest), (times.first().copied(), times.last().copied()));
    few.prune(&PrunePolicy::max_age_days(0).max_entries(1), NoActivity).unwrap();
    drop(few);
    let home = Home::new();
    let stats = store(&home, ENTRIES).stats().unwrap();
    let minute = Timestamp::from_micros(BEGIN)..Timestamp::from_micros(BEGIN + 60_000_000);
    assert!(minute.contains(&stats.oldest.unwrap()) && minute.contains(&stats.newest.unwrap()), "{stats:?}");
    assert!(stats.oldest < stats.newest);
}

#[test]
#[ignore = "it measures"]
fn what_it_costs() {
    let entries = 20_000;
    let home = Home::new();
    let store = store(&home, entries);
    let measure = |what: &str, work: &dyn Fn()| {
        let mut took: Vec<Duration> = (0..5)
            .map(|_| {
                let begun = Instant::now();
                work();
                begun.elapsed()
            })
            .collect();
        took.sort();
        println!("{what}: {:?}", took[2]);
    };
    measure("stats", &|| drop(store.stats().unwrap()));
    measure("recent(1)", &|| drop(store.recent(1, None).unwrap()));
    measure("recent(50)", &|| drop(store.recent(50, None).unwrap()));
    measure("iter, the first", &|| drop(store.iter(Filter::default()).unwrap().next()));
    measure("iter, all", &|| assert_eq!(store.iter(Filter::default()).unwrap().count(), entries));
    measure("verify", &|| drop(store.verify().unwrap()));
}
