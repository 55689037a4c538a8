//! Leases and pins: what holds an entry for work that must not lose its session.

use std::io::Write;
use std::process::Command;
use std::time::Duration;

use cloakroom::change::{ReplaceReason, Repoint, Resolution};
use cloakroom::events::{EventKind, EventOptions};
use cloakroom::leases::OpenLease;
use cloakroom::prune::{NoActivity, ProtectedBy};
use cloakroom::query::Filter;
use cloakroom::reset::{ResetPolicies, ResetPolicy};
use cloakroom::time::Clock;
use cloakroom::{Options, PrunePolicy, SessionId, SessionKey, SessionStore, Timestamp};

use crate::behind::open_sled;
use crate::common::{Home, NEVER, assert_sound, key, options, source};
use crate::turns::crashed;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Entries 0, 1, …
fn filled(home: &Home, entries: usize) -> SessionStore {
    let store = home.open();
    for n in 0..entries {
        store.resolve(&source(n)).unwrap();
    }
    store.flush().unwrap();
    store
}

fn old() -> PrunePolicy {
    PrunePolicy::max_age_days(90)
}

fn after(home: &Home, time: Duration) -> Timestamp {
    home.clock.now().saturating_add(time)
}

fn is_there(store: &SessionStore, n: usize) -> bool {
    store.contains(&key(n)).unwrap()
}

fn held(store: &SessionStore) -> Vec<(SessionKey, Option<String>)> {
    store.leases().unwrap().into_iter().map(|lease| (lease.key, lease.name)).collect()
}

fn job(n: usize) -> (SessionKey, Option<String>) {
    (key(n), Some("job".into()))
}

#[test]
fn what_is_held_is_not_pruned_until_every_lease_has_ended() {
    let home = Home::new();
    let store = filled(&home, 4);
    assert!(store.hold(&key(9)).unwrap().is_none());
    let (first, second) = (store.hold(&key(0)).unwrap(), store.hold(&key(0)).unwrap());
    store.hold_until(&key(1), "job", after(&home, 100 * DAY)).unwrap().unwrap();
    store.hold_until(&key(2), "job", after(&home, 91 * DAY)).unwrap().unwrap();
    home.clock.advance(91 * DAY);
    for dry_run in [true, false] {
        let report = if dry_run { store.prune_dry_run(&old(), NoActivity) } else { store.prune(&old(), NoActivity) };
        let report = report.unwrap();
        assert_eq!((report.removed, report.kept_held, report.removed_active), (2, 2, 0), "{report:?}");
        assert!(report.protected.iter().all(|kept| kept.reason == ProtectedBy::Held));
        assert!(serde_json::to_string(&report).unwrap().contains(r#""reason":"held""#));
    }
    assert_eq!([0, 1, 2, 3].map(|n| is_there(&store, n)), [true, true, false, false]);
    drop(first);
    assert_eq!(store.prune(&old(), NoActivity).unwrap().kept_held, 2, "the other counts still");
    drop(second);
    home.clock.advance(9 * DAY);
    assert_eq!(store.prune(&old(), NoActivity).unwrap().removed, 2);
}

#[test]
fn no_lease_ends_for_pruning_within_an_hour_of_a_jump() {
    let home = Home::new();
    let store = filled(&home, 2);
    store.hold_until(&key(0), "job", after(&home, DAY)).unwrap().unwrap();
    // Live work, and then a clock that is wrong.
    home.clock.set_wall(after(&home, 200 * DAY));
    // Whoever looks first, a list or a pass.
    assert_eq!(held(&store), [job(0)]);
    for dry_run in [true, false] {
        let report = if dry_run { store.prune_dry_run(&old(), NoActivity) } else { store.prune(&old(), NoActivity) };
        let report = report.unwrap();
        assert_eq!((report.removed, report.kept_held), (1, 1), "{report:?}");
        assert_eq!(held(&store), [job(0)], "what protects is listed");
    }
    // If it runs on without a jump, it is right.
    home.clock.advance(DAY / 24);
    assert_eq!(held(&store), []);
    assert_eq!(store.prune(&old(), NoActivity).unwrap().removed, 1);
    assert!(store.is_empty());
}

#[test]
fn no_cap_takes_what_is_held() {
    let home = Home::new();
    let store = filled(&home, 4);
    let lease = store.hold(&key(0)).unwrap();
    store.hold_until(&key(1), "job", after(&home, DAY)).unwrap().unwrap();
    let report = store.prune(&PrunePolicy::max_age_days(0).max_entries(1), NoActivity).unwrap();
    assert_eq!((report.removed, report.kept_held, report.entries_over_cap), (2, 2, 1));
    drop(lease);
    let report = store.prune(&PrunePolicy::max_age_days(0).max_disk_bytes(2, 1), NoActivity).unwrap();
    assert_eq!((report.removed, report.kept_held), (1, 1));
    assert!(is_there(&store, 1));
}

#[test]
fn no_policy_replaces_what_is_held_and_a_suspended_one_is_replaced_with_its_lease() {
    let home = Home::new();
    let store = filled(&home, 2);
    let policies = ResetPolicies::new(ResetPolicy::idle(60));
    let lease = store.hold(&key(0)).unwrap().unwrap();
    store.hold_until(&key(1), "job", after(&home, DAY)).unwrap().unwrap();
    home.clock.advance(Duration::from_secs(2 * 3600));
    for n in [0, 1] {
        let resolved = store.resolve_with(&source(n), &policies, NoActivity).unwrap();
        assert_eq!(resolved.resolution, Resolution::Existing, "{n}");
    }
    store.suspend(&key(0)).unwrap();
    let resolved = store.resolve_with(&source(0), &policies, NoActivity).unwrap();
    assert!(matches!(resolved.resolution, Resolution::Replaced { reason: ReplaceReason::Suspended, .. }));
    store.reset(&key(1)).unwrap().unwrap();
    store.repoint(&key(1), SessionId::new("other").unwrap(), &Repoint::new()).unwrap();
    assert!(lease.is_held());
    assert_eq!(held(&store), [(key(0), None), job(1)], "they are the keys' and not the sessions'");
    drop(lease);
    store.release(&key(1), "job").unwrap().unwrap();
    home.clock.advance(Duration::from_secs(2 * 3600));
    for n in [0, 1] {
        let resolved = store.resolve_with(&source(n), &policies, NoActivity).unwrap();
        assert!(matches!(resolved.resolution, Resolution::Replaced { reason: ReplaceReason::Idle, .. }), "{n}");
    }
}

#[test]
fn a_lease_with_an_end_survives_a_crash_and_one_of_the_process_does_not() {
    let home = Home::new();
    let store = filled(&home, 4);
    let lease = store.hold(&key(0)).unwrap().unwrap();
    store.hold_until(&key(1), "job", after(&home, 95 * DAY)).unwrap().unwrap();
    store.hold_until(&key(2), "job", after(&home, 200 * DAY)).unwrap().unwrap().wait().unwrap();
    store.hold_until(&key(3), "job", after(&home, 200 * DAY)).unwrap().unwrap();
    store.release(&key(3), "job").unwrap().unwrap().wait().unwrap();
    home.clock.advance(91 * DAY);
    let again = crashed(&home, &store, "again");
    assert_eq!(held(&again), [job(1), job(2)]);
    // What the first pass of a watcher does, which runs at once.
    let report = again.prune(&old(), NoActivity).unwrap();
    assert_eq!((report.removed, report.kept_held), (2, 2));
    home.clock.advance(5 * DAY);
    assert_eq!(held(&again), [job(2)]);
    assert_eq!(again.prune(&old(), NoActivity).unwrap().removed, 1);
    again.close().unwrap();
    drop(again);
    let again = SessionStore::open(options(&home.path().with_file_name("again")).clock(home.clock.clone())).unwrap();
    assert_eq!(held(&again), [job(2)]);
    assert_sound(&again);
    drop(lease);
}

#[test]
fn the_list_tells_name_age_and_end() {
    let home = Home::new();
    let store = filled(&home, 2);
    let since = home.clock.now();
    store.hold_until(&key(1), "job", after(&home, DAY)).unwrap().unwrap();
    home.clock.advance(Duration::from_secs(5));
    let _lease = store.hold(&key(0)).unwrap();
    // Another end is no other lease.
    let end = after(&home, 2 * DAY);
    store.hold_until(&key(1), "job", end).unwrap().unwrap();
    let listed: Vec<OpenLease> = store.leases().unwrap().items;
    let [named, guard] = &listed[..] else { panic!("{listed:?}") };
    assert_eq!((named.since, named.end, named.age), (since, Some(end), Duration::from_secs(5)));
    assert_eq!((&guard.name, guard.end, guard.age), (&None, None, Duration::ZERO));
    let json = serde_json::to_value(named).unwrap();
    assert_eq!(
        (&json["session_key"], &json["name"], &json["age_seconds"]),
        (&key(1).as_str().into(), &"job".into(), &5.into())
    );
    assert!(!format!("{listed:?}").contains("u1"));
}

#[test]
fn an_end_that_has_passed_is_no_lease_and_names_are_checked() {
    let home = Home::new();
    let store = filled(&home, 1);
    assert!(store.hold_until(&key(1), "job", after(&home, DAY)).unwrap().is_none());
    assert!(store.hold_until(&key(0), "job", home.clock.now()).unwrap().is_some());
    assert_eq!(held(&store), []);
    store.hold_until(&key(0), "job", after(&home, DAY)).unwrap().unwrap();
    store.hold_until(&key(0), "job", home.clock.now()).unwrap().unwrap().wait().unwrap();
    assert_eq!((held(&store), held(&crashed(&home, &store, "again"))), (vec![], vec![]));
    assert!(store.release(&key(0), "job").unwrap().is_none());
    assert!(store.release(&key(7), "job").unwrap().is_none());
    let longest = "x".repeat(64);
    assert!(store.hold_until(&key(0), &longest, after(&home, DAY)).unwrap().is_some());
    for bad in ["", "a\nb", &"x".repeat(65)] {
        let error = store.hold_until(&key(0), bad, after(&home, DAY)).unwrap_err();
        assert_eq!(error.kind(), "invalid_lease", "{bad:?}");
    }
    for n in 1..1024 {
        store.hold_until(&key(0), &n.to_string(), after(&home, DAY)).unwrap().unwrap();
    }
    let error = store.hold_until(&key(0), "one more", after(&home, DAY)).unwrap_err();
    assert_eq!(error.kind(), "too_many_leases");
    assert!(store.hold_until(&key(0), "7", after(&home, 2 * DAY)).unwrap().is_some());
}

#[test]
fn leases_that_have_ended_make_room_and_begin_anew() {
    let home = Home::new();
    let store = filled(&home, 1);
    let begin = home.clock.now();
    store.hold_until(&key(0), "job", after(&home, DAY)).unwrap().unwrap();
    for n in 1..1024 {
        store.hold_until(&key(0), &n.to_string(), after(&home, 1000 * DAY)).unwrap().unwrap();
    }
    let since = |store: &SessionStore, name: &str| {
        let leases = store.leases().unwrap().items;
        leases.into_iter().find(|lease| lease.name.as_deref() == Some(name)).map(|lease| lease.since)
    };
    // The end of one that holds still is another; it began when it did.
    home.clock.advance(DAY / 2);
    store.hold_until(&key(0), "job", after(&home, DAY)).unwrap().unwrap();
    assert_eq!(since(&store, "job"), Some(begin));
    home.clock.advance(2 * DAY);
    store.hold_until(&key(0), "one more", after(&home, DAY)).unwrap().unwrap();
    let error = store.hold_until(&key(0), "job", after(&home, DAY)).unwrap_err();
    assert_eq!(error.kind(), "too_many_leases", "its place is taken");
    home.clock.advance(2 * DAY);
    // Nothing has forgotten that it has ended.
    store.hold_until(&key(0), "one more", after(&home, DAY)).unwrap().unwrap().wait().unwrap();
    assert_eq!(since(&store, "one more"), Some(home.clock.now()));
    let again = crashed(&home, &store, "again");
    assert_eq!((since(&again, "one more"), since(&again, "job")), (Some(home.clock.now()), None));
    assert_eq!(again.leases().unwrap().items.len(), 1024);
    assert_sound(&again);
}

#[test]
fn an_entry_that_is_made_again_is_held_by_nothing() {
    for commit_between in [true, false] {
        let home = Home::new();
        let store = filled(&home, 3);
        let lease = store.hold(&key(0)).unwrap().unwrap();
        store.hold_until(&key(0), "job", after(&home, DAY)).unwrap().unwrap().wait().unwrap();
        store.set_metadata(&key(0), serde_json::json!({"n": 1}).as_object().unwrap()).unwrap();
        store.remove(&key(0)).unwrap().unwrap();
        if commit_between {
            store.flush().unwrap();
        }
        store.resolve(&source(0)).unwrap();
        store.set_metadata(&key(0), serde_json::json!({"n": 2}).as_object().unwrap()).unwrap();
        store.hold_until(&key(0), "another", after(&home, DAY)).unwrap().unwrap();
        let names = [(key(0), Some("another".into()))];
        assert!(!lease.is_held());
        drop(lease);
        assert_eq!(held(&store), names);
        let again = crashed(&home, &store, "again");
        assert_eq!(held(&again), names);
        let (_, extras) = again.get_with_extras(&key(0)).unwrap().unwrap();
        assert_eq!(extras.value("metadata"), Some(serde_json::json!({"n": 2})));
        assert_eq!(again.len(), 3);
        let found = again.verify().unwrap();
        assert_eq!((found.violations, found.orphaned_leases, found.orphaned_chunks), (vec![], 0, 0));
        assert_sound(&again);
    }
}

#[test]
fn what_is_pruned_ends_its_leases_and_they_protect_no_longer_than_allowed() {
    let home = Home::new();
    let store = filled(&home, 3);
    let lease = store.hold(&key(0)).unwrap().unwrap();
    store.hold_until(&key(1), "job", after(&home, 1000 * DAY)).unwrap().unwrap();
    home.clock.advance(180 * DAY);
    store.touch(&key(2)).unwrap();
    let report = store.prune(&old().max_active_age(180 * DAY), NoActivity).unwrap();
    assert_eq!((report.removed, report.kept_held), (0, 2), "exactly as long as allowed");
    home.clock.advance(Duration::from_secs(1));
    let report = store.prune(&old().max_active_age(180 * DAY), NoActivity).unwrap();
    assert_eq!((report.removed, report.removed_active, report.kept_held), (2, 2, 0));
    assert!(!lease.is_held());
    assert_eq!(held(&store), []);
    store.resolve(&source(1)).unwrap();
    assert_eq!(held(&crashed(&home, &store, "again")), []);
}

/// A hold between the look at an entry and its removal wins. The guard is asked in between.
#[test]
fn a_lease_that_is_taken_while_the_guard_is_asked_wins() {
    let home = Home::new();
    let store = filled(&home, 1);
    home.clock.advance(91 * DAY);
    let taken = std::sync::Mutex::new(None);
    let guard = |key: &SessionKey| {
        *taken.lock().unwrap() = store.hold(key).unwrap();
        false
    };
    let report = store.prune(&old(), guard).unwrap();
    assert_eq!((report.removed, report.touched_meanwhile), (0, 1));
    taken.lock().unwrap().take();
    let policies = ResetPolicies::new(ResetPolicy::idle(1));
    let resolved = store.resolve_with(&source(0), &policies, guard).unwrap();
    assert_eq!(resolved.resolution, Resolution::Existing);
}

#[test]
fn leases_follow_their_entry_to_another_key() {
    let home = Home::new();
    let store = filled(&home, 1);
    let lease = store.hold(&key(0)).unwrap().unwrap();
    store.hold_until(&key(0), "job", after(&home, DAY)).unwrap().unwrap().wait().unwrap();
    let new: SessionKey = key(0).as_str().replacen("agent:main:", "agent:other:", 1).parse().unwrap();
    assert_eq!(store.rename("agent:main:", "agent:other:").unwrap().moved, 1);
    let names = [(new.clone(), None), (new.clone(), Some("job".to_owned()))];
    assert_eq!(held(&store), names);
    assert!(lease.is_held());
    let again = crashed(&home, &store, "again");
    assert_eq!(held(&again), names[1..]);
    assert_sound(&again);
    assert_eq!(again.verify().unwrap().orphaned_leases, 0);
    // What comes to the old key is held by nothing.
    again.resolve(&source(0)).unwrap();
    assert_eq!(held(&again), names[1..]);
    drop(lease);
    assert_eq!(held(&store), names[1..]);
}

#[test]
fn a_backup_has_the_leases_of_its_moment_and_a_compaction_keeps_them() {
    let home = Home::new();
    let store = filled(&home, 2);
    store.hold_until(&key(0), "job", after(&home, DAY)).unwrap().unwrap();
    let _lease = store.hold(&key(1)).unwrap();

    struct Late<'a>(&'a SessionStore, Vec<u8>, Timestamp);
    impl Write for Late<'_> {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.release(&key(0), "job").unwrap();
            self.0.hold_until(&key(1), "late", self.2).unwrap();
            self.0.flush().unwrap();
            self.1.write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut late = Late(&store, Vec::new(), after(&home, DAY));
    let report = store.backup(&mut late, |_| {}).unwrap();
    assert_eq!((report.entries, report.leases), (2, 1));
    let to = options(&home.path().with_file_name("restored")).clock(home.clock.clone());
    assert_eq!(SessionStore::restore(to.clone(), &late.1[..], |_| {}).unwrap().leases, 1);
    assert_eq!(held(&SessionStore::open(to.clone()).unwrap()), [job(0)]);
    SessionStore::compact(to.clone(), |_| {}).unwrap();
    let again = SessionStore::open(to).unwrap();
    assert_eq!(held(&again), [job(0)]);
    assert_sound(&again);
}

#[test]
fn a_lease_that_cannot_be_decoded_holds_until_it_is_repaired() {
    let home = Home::new();
    let store = filled(&home, 2);
    for n in [0, 1] {
        store.hold_until(&key(n), "job", after(&home, DAY)).unwrap().unwrap();
    }
    store.close().unwrap();
    drop(store);
    let db = open_sled(&sled::Config::new().path(home.path().join("sled"))).unwrap();
    let leases = db.open_tree("leases").unwrap();
    let (row, _) = leases.first().unwrap().unwrap();
    leases.insert(row, &[9, 9]).unwrap();
    drop((leases, db));

    home.clock.advance(91 * DAY);
    let store = home.open();
    assert_eq!(store.leases().unwrap().unreadable.count, 1);
    let report = store.prune(&old(), NoActivity).unwrap();
    assert_eq!((report.removed, report.kept_held), (1, 1));
    assert!(store.backup(Vec::new(), |_| {}).is_err());
    store.close().unwrap();
    drop(store);
    let quarantine = home.path().with_extension("quarantine");
    let repairs = SessionStore::repair(home.options(), &quarantine).unwrap();
    assert!(format!("{repairs:?}").contains("leases_removed: 1"), "{repairs:?}");
    assert!(std::fs::read_to_string(&quarantine).unwrap().contains(r#""tree":"leases""#));
    let store = home.open();
    assert_eq!(store.prune(&old(), NoActivity).unwrap().removed, 1);
}

#[test]
fn a_pin_protects_and_does_not_end_the_session() {
    let home = Home::new();
    let store = filled(&home, 3);
    let events = store.events(EventOptions::new(100));
    store.pin(&key(0)).unwrap().unwrap();
    store.pin(&key(0)).unwrap().unwrap();
    assert!(store.pin(&key(9)).unwrap().is_none());
    home.clock.advance(91 * DAY);
    store.touch(&key(2)).unwrap();
    let policies = ResetPolicies::new(ResetPolicy::idle(1));
    let report = store.prune(&old(), NoActivity).unwrap();
    assert_eq!((report.removed, report.kept_pinned), (1, 1));
    assert_eq!(report.protected[0].reason, ProtectedBy::Pinned);
    let report = store.prune(&PrunePolicy::max_age_days(0).max_entries(1), NoActivity).unwrap();
    assert_eq!((report.removed, report.kept_pinned), (1, 1));
    let resolved = store.resolve_with(&source(0), &policies, NoActivity).unwrap();
    assert_eq!((resolved.resolution, resolved.entry.pinned), (Resolution::Existing, true));
    let entry = store.reset(&key(0)).unwrap().unwrap().entry;
    assert!(entry.pinned, "it is the conversation's");
    store.resolve(&source(5)).unwrap();
    let listed = |pinned| {
        let filter = Filter { pinned, ..Filter::default() };
        store.iter(filter).unwrap().map(|row| row.unwrap().key).collect::<Vec<_>>()
    };
    assert_eq!((listed(Some(true)), listed(Some(false)), listed(None).len()), (vec![key(0)], vec![key(5)], 2));
    store.unpin(&key(0)).unwrap().unwrap();
    let kinds: Vec<_> = events.drain().filter(|event| event.key == key(0)).map(|event| event.kind).collect();
    assert_eq!(kinds, [EventKind::Pinned, EventKind::Reset { reason: None }, EventKind::Unpinned]);
    assert!(!crashed(&home, &store, "again").get(&key(0)).unwrap().unwrap().pinned);
    home.clock.advance(91 * DAY);
    assert_eq!(store.prune(&old(), NoActivity).unwrap().removed, 2);
}

#[test]
fn pruning_from_the_command_line_honours_leases_and_pins() {
    let home = Home::new();
    // By the machine's clock, which the program uses.
    let store = SessionStore::open(Options::new(home.path()).create(true).commit_interval(NEVER)).unwrap();
    let long_ago = Timestamp::from_micros(1_000_000_000_000_000);
    for n in 0..4 {
        let entry = store.resolve(&source(n)).unwrap().entry;
        store.remove(&key(n)).unwrap();
        let entry = {
            let mut entry = entry;
            entry.updated_at = long_ago;
            entry
        };
        store.put(&entry, &cloakroom::Extras::default(), cloakroom::change::Expect::Any).unwrap();
    }
    store.hold_until(&key(0), "job", Timestamp::from_micros(4_000_000_000_000_000)).unwrap().unwrap();
    store.pin(&key(1)).unwrap().unwrap();
    store.close().unwrap();
    drop(store);
    let run = |args: &[&str]| {
        let db = home.path();
        let ran = Command::new(env!("CARGO_BIN_EXE_cloakroom")).arg("--db").arg(db).args(args).output().unwrap();
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
        String::from_utf8(ran.stdout).unwrap()
    };
    let report: serde_json::Value =
        serde_json::from_str(&run(&["prune", "--max-age-days", "90", "--dry-run", "--json"])).unwrap();
    assert_eq!([&report["removed"], &report["kept_held"], &report["kept_pinned"]], [2, 1, 1]);
    let text = run(&["prune", "--max-age-days", "90", "--yes"]);
    assert!(text.contains("kept, held") && text.contains("kept, pinned"), "{text}");
    assert_eq!(run(&["list", "--pinned", "--json"]).lines().count(), 1);
}
