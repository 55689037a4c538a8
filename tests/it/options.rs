//! Each setting at both of its ends: refused, or with the meaning that its documentation gives.

use std::time::Duration;

use cloakroom::config::{Config, ResetConfig, ResetMode, ResetRule};
use cloakroom::import::ImportOptions;
use cloakroom::prune::NoActivity;
use cloakroom::query::Filter;
use cloakroom::reset::{ResetPolicies, ResetPolicy};
use cloakroom::watcher::WatcherConfig;
use cloakroom::{Error, Options, PrunePolicy, SessionKey, SessionStore, TimeZone, Timestamp, Watcher};

use crate::common::{Home, NEVER, NOW, assert_sound, key, options, source};

const DAY: Duration = Duration::from_secs(86_400);
const ENTRIES: usize = 40;

/// Which setting is refused.
fn setting<T: std::fmt::Debug>(answer: Result<T, Error>) -> &'static str {
    match answer {
        Err(Error::Setting { setting, .. }) => setting,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_cannot_work_is_refused() {
    let home = Home::new();
    for (wrong, name) in [
        (home.options().commit_interval(Duration::MAX), "commit_interval"),
        (home.options().commit_interval(NEVER + Duration::from_nanos(1)), "commit_interval"),
        (home.options().max_pending(0), "max_pending"),
        (home.options().max_pending(1), "max_pending"),
        (home.options().cache_bytes(0), "cache_bytes"),
        (home.options().cache_bytes((1 << 20) - 1), "cache_bytes"),
    ] {
        assert_eq!(setting(SessionStore::open(wrong)), name);
        assert!(!home.path().exists());
    }
}

/// Every verb that a setting of `Options` may matter to.
fn work(options: Options) {
    let store = SessionStore::open(options.clone()).unwrap();
    for round in 0..3 {
        for n in 0..ENTRIES {
            let mut resolved = store.resolve(&source(n)).unwrap();
            if n == 0 {
                pollster::block_on(&mut resolved.receipt).unwrap();
            }
            store.touch(&key(n)).unwrap().unwrap();
        }
        store.set_metadata(&key(round), &serde_json::Map::from_iter([("a".into(), "b".into())])).unwrap().unwrap();
        store.touch(&key(round)).unwrap().unwrap().wait().unwrap();
        assert_eq!(store.iter(Filter::default()).unwrap().count(), ENTRIES);
    }
    assert_sound(&store);
    store.close().unwrap();
    drop(store);
    let store = SessionStore::open(options).unwrap();
    assert_eq!(store.len(), ENTRIES as u64);
    assert!(store.open_report().clean && store.get(&key(ENTRIES - 1)).unwrap().is_some());
}

#[test]
fn options_work_at_both_ends() {
    let ends: [fn(Options) -> Options; 11] = [
        |options| options.commit_interval(Duration::ZERO),
        |options| options.commit_interval(Duration::from_nanos(1)),
        |options| options.commit_interval(NEVER),
        |options| options.max_pending(2),
        |options| options.max_pending(usize::MAX),
        |options| options.cache_bytes(1 << 20),
        |options| options.cache_bytes(u64::MAX),
        |options| options.cached_entries(0),
        |options| options.cached_entries(usize::MAX),
        |options| options.journal_bytes(0),
        |options| options.journal_bytes(u64::MAX),
    ];
    for end in ends {
        let home = Home::new();
        // By the system's clock, which moves.
        work(end(options(&home.path())));
    }
}

#[test]
fn an_interval_of_the_watcher_is_a_second_at_least() {
    let home = Home::new();
    let store = home.open();
    store.resolve(&source(1)).unwrap();
    let spawn =
        |interval| Watcher::spawn(&store, WatcherConfig { policy: PrunePolicy::max_age_days(1), interval }, NoActivity);
    for interval in [Duration::ZERO, Duration::from_nanos(1), Duration::from_millis(999)] {
        assert_eq!(setting(spawn(interval)), "the interval of the watcher");
    }
    for interval in [Duration::from_secs(1), Duration::MAX] {
        let watcher = spawn(interval).unwrap();
        let reports = watcher.reports();
        reports.recv().unwrap();
        watcher.prune_now();
        reports.recv().unwrap();
        watcher.stop();
    }
}

/// A store whose entries were all used a day ago.
fn old_entries() -> (Home, SessionStore) {
    let home = Home::new();
    let store = home.open();
    (0..ENTRIES).for_each(|n| drop(store.resolve(&source(n)).unwrap()));
    home.clock.advance(DAY);
    (home, store)
}

#[test]
fn zero_is_no_limit_and_the_largest_number_is_none_either() {
    let (_home, store) = old_entries();
    let mut policies = vec![
        PrunePolicy::max_age_days(0),
        PrunePolicy::max_age_days(i64::MIN),
        PrunePolicy::max_age_days(i64::MAX),
        PrunePolicy::max_age_days(0).max_entries(0),
        PrunePolicy::max_age_days(0).max_entries(u64::MAX),
        PrunePolicy::max_age_days(0).max_disk_bytes(0, 0),
        PrunePolicy::max_age_days(0).max_disk_bytes(u64::MAX, 0),
        PrunePolicy::max_age_days(0).max_disk_bytes(u64::MAX, u64::MAX),
    ];
    // The fields may be set without the functions.
    let set = |change: fn(&mut PrunePolicy)| {
        let mut policy = PrunePolicy::max_age_days(0);
        change(&mut policy);
        policy
    };
    policies.extend([
        set(|policy| policy.max_age = Some(Duration::ZERO)),
        set(|policy| policy.max_age = Some(Duration::MAX)),
        set(|policy| policy.max_entries = Some(0)),
        set(|policy| policy.max_disk_bytes = Some(0)),
        set(|policy| (policy.max_disk_bytes, policy.low_water_bytes) = (Some(0), Some(0))),
        set(|policy| (policy.max_disk_bytes, policy.low_water_bytes) = (Some(1), Some(u64::MAX))),
    ]);
    for policy in policies {
        assert_eq!(store.prune(&policy, NoActivity).unwrap().removed, 0, "{policy:?}");
    }
    assert!(set(|policy| policy.max_age = Some(Duration::ZERO)).is_disabled());
    let active = |_: &SessionKey| true;
    for age in [Duration::ZERO, Duration::MAX] {
        let mut policy = PrunePolicy::max_age_days(0).max_active_age(age);
        policy.max_age = Some(Duration::from_secs(1));
        assert_eq!(store.prune(&policy, active).unwrap().kept_active, ENTRIES as u64, "{age:?}");
    }
    // And one is as little as can be.
    let least = PrunePolicy::max_age_days(0).max_entries(1);
    assert_eq!(store.prune(&least, NoActivity).unwrap().removed, ENTRIES as u64 - 1);
    let least = PrunePolicy::max_age_days(0).max_disk_bytes(1, 0);
    assert_eq!(store.prune(&least, NoActivity).unwrap().removed, 1);
}

#[test]
fn what_a_person_writes_works_at_both_ends() {
    for number in [i64::MIN, 0, i64::MAX] {
        let rule = ResetRule { mode: ResetMode::Both, idle_minutes: number, ..ResetRule::default() };
        let config = Config {
            session_store_max_age_days: number,
            session_store_prune_interval_minutes: number,
            session_store_max_active_days: number,
            session_store_max_entries: number,
            session_store_max_disk_bytes: number,
            session_store_low_water_bytes: number,
            session_reset: ResetConfig { default: rule.clone(), ..ResetConfig::default() },
        };
        let (_home, store) = old_entries();
        let policy = PrunePolicy::from(&config);
        assert_eq!(store.prune(&policy, NoActivity).unwrap().removed, 0, "{number}");
        let interval = WatcherConfig::from(&config).interval;
        assert!(interval >= Duration::from_secs(60));
        drop(Watcher::spawn(&store, WatcherConfig::from(&config), NoActivity).unwrap());
        assert!(ResetPolicies::try_from(&config).is_ok());
        let bad = ResetRule { at_hour: if number == 0 { 24 } else { number }, ..rule };
        let bad = Config { session_reset: ResetConfig { default: bad, ..ResetConfig::default() }, ..config };
        assert_eq!(setting(ResetPolicies::try_from(&bad)), "at_hour");
    }
}

#[test]
fn a_reset_policy_works_at_both_ends() {
    let late = Timestamp::MAX;
    assert_eq!(ResetPolicy::idle(0).due(Timestamp::MIN, late), None);
    assert_eq!(ResetPolicy::idle(u64::MAX).due(Timestamp::MIN, late), None);
    assert!(ResetPolicy::idle(1).due(Timestamp::MIN, late).is_some());
    let zone: TimeZone = "Europe/Berlin".parse().unwrap();
    for hour in [0, 23] {
        let policy = ResetPolicy::daily(hour, zone.clone()).unwrap();
        assert!(policy.due(Timestamp::MIN, late).is_some());
        assert_eq!(policy.due(late, late), None);
        assert_eq!(policy.due(Timestamp::MIN, Timestamp::MIN), None);
    }
    for hour in [24, u8::MAX] {
        assert_eq!(setting(ResetPolicy::daily(hour, zone.clone())), "the hour of a daily reset");
    }
}

#[test]
fn filters_and_lists_work_at_both_ends() {
    let (_home, store) = old_entries();
    let all = ENTRIES;
    for (filter, shown) in [
        (Filter { active_since: Some(Timestamp::MIN), ..Filter::default() }, all),
        (Filter { active_since: Some(Timestamp::MAX), ..Filter::default() }, 0),
        (Filter::idle_since(Timestamp::MIN), 0),
        (Filter::idle_since(Timestamp::MAX), all),
        (Filter { key_prefix: Some(String::new()), ..Filter::default() }, all),
        (Filter { key_prefix: Some("a".repeat(1 << 20)), ..Filter::default() }, 0),
        (Filter { platform: Some(String::new()), ..Filter::default() }, 0),
        (Filter { user_id: Some(String::new()), chat_type: Some(String::new()), ..Filter::default() }, 0),
    ] {
        assert_eq!(store.iter(filter.clone()).unwrap().count(), shown, "{filter:?}");
    }
    assert_eq!(store.recent(0, None).unwrap().entries.len(), 0);
    assert_eq!(store.recent(usize::MAX, None).unwrap().entries.len(), all);
}

#[test]
fn channels_of_events_have_bounds() {
    let home = Home::new();
    let store = home.open();
    for (capacity, room) in [(0, 1), (1, 1), (usize::MAX, 65_536)] {
        let events = store.events(capacity);
        assert_eq!(events.capacity(), room);
    }
}

#[test]
fn an_import_takes_any_time_of_its_file() {
    let file = br#"{"agent:main:discord:dm:1": {"session_id": "a", "updated_at": "2026-06-12T00:00:00"}}"#;
    for time in [Timestamp::MIN, Timestamp::MAX] {
        let home = Home::new();
        let store = home.open();
        let import = ImportOptions::new().zone("UTC".parse().unwrap()).file_time(time);
        assert_eq!(store.import(&file[..], import, |_| {}).unwrap().imported, 1);
        let entry = store.recent(1, None).unwrap().entries.remove(0);
        assert!(entry.updated_at <= NOW, "{}", entry.updated_at);
        assert_sound(&store);
    }
}

#[test]
fn waiting_takes_any_time() {
    let home = Home::new();
    let store = home.open();
    for timeout in [Duration::ZERO, Duration::MAX] {
        let receipt = store.resolve(&source(1)).unwrap().receipt;
        let in_time = receipt.wait_timeout(timeout).unwrap();
        assert!(in_time || timeout.is_zero());
        for max_age in [Duration::ZERO, Duration::MAX] {
            assert_eq!(store.recover_interrupted_turns(max_age).unwrap().resumable, []);
        }
    }
}
