//! Turns: what is left of them after a crash, and what is made of it.

use std::fs;
use std::path::Path;
use std::time::Duration;

use cloakroom::{
    NoActivity, PrunePolicy, Repoint, ResetPolicies, ResetPolicy, Resolution, ResumeMark, SessionStore, TurnEnd,
    TurnRecovery,
};

use crate::common::{Home, assert_sound, key, options, source};

const MINUTE: Duration = Duration::from_secs(60);

/// The store as a crash would leave it now: a copy of its synced files, opened while the first goes on.
fn crashed(home: &Home, store: &SessionStore, name: &str) -> SessionStore {
    store.flush().unwrap();
    let to = home.path().with_file_name(name);
    copy(store.path(), &to);
    let store = SessionStore::open(options(&to).clock(home.clock.clone())).unwrap();
    assert!(!store.open_report().clean);
    store
}

pub(crate) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

fn open_turns(store: &SessionStore) -> Vec<(String, bool)> {
    store.turns().unwrap().into_iter().map(|turn| (turn.key.as_str().to_owned(), turn.interrupted)).collect()
}

fn named(n: usize, interrupted: bool) -> (String, bool) {
    (key(n).as_str().to_owned(), interrupted)
}

#[test]
fn an_older_turn_never_clears_a_newer_one() {
    let home = Home::new();
    let store = home.open();
    assert!(store.begin_turn(&key(0)).unwrap().is_none());
    store.resolve(&source(0)).unwrap();
    home.clock.advance(MINUTE);
    let (older, _) = store.begin_turn(&key(0)).unwrap().unwrap();
    assert_eq!(
        store.get(&key(0)).unwrap().unwrap().updated_at,
        store.turns().unwrap().items[0].started_at,
        "a turn touches"
    );
    let (newer, _) = store.begin_turn(&key(0)).unwrap().unwrap();
    assert!(newer > older);
    assert!(matches!(store.end_turn(&key(0), older).unwrap(), TurnEnd::NotCurrent));
    assert_eq!(open_turns(&store), [named(0, false)]);
    home.clock.advance(MINUTE);
    let before = store.get(&key(0)).unwrap().unwrap();
    let TurnEnd::Ended(receipt) = store.end_turn(&key(0), newer).unwrap() else { panic!("it was the current one") };
    receipt.wait().unwrap();
    assert_eq!(open_turns(&store), []);
    assert_eq!(store.get(&key(0)).unwrap().unwrap(), before, "the end of a turn is no activity");
    assert!(matches!(store.end_turn(&key(0), newer).unwrap(), TurnEnd::NotCurrent));
    assert!(matches!(store.end_turn(&key(1), newer).unwrap(), TurnEnd::Missing));
    let store = crashed(&home, &store, "crashed");
    assert_eq!(open_turns(&store), [], "its end was durable");
    let (after, _) = store.begin_turn(&key(0)).unwrap().unwrap();
    assert!(after > newer, "tokens are not used twice");
}

#[test]
fn a_crash_turns_fresh_turns_into_pending_resumes() {
    let home = Home::new();
    let store = home.open();
    for n in 0..6 {
        store.resolve(&source(n)).unwrap();
    }
    // Too old, exactly old enough, fresh but suspended, ended, and without any.
    store.begin_turn(&key(0)).unwrap().unwrap();
    home.clock.advance(Duration::from_micros(1));
    store.begin_turn(&key(1)).unwrap().unwrap();
    store.begin_turn(&key(2)).unwrap().unwrap();
    store.suspend(&key(2)).unwrap().unwrap();
    let (token, _) = store.begin_turn(&key(3)).unwrap().unwrap();
    assert!(matches!(store.end_turn(&key(3), token).unwrap(), TurnEnd::Ended(_)));
    // One whose session is replaced, and one that goes.
    store.begin_turn(&key(4)).unwrap().unwrap();
    store.flush().unwrap();
    store.reset(&key(4)).unwrap().unwrap();
    store.begin_turn(&key(5)).unwrap().unwrap();
    store.remove(&key(5)).unwrap().unwrap();
    home.clock.advance(10 * MINUTE);

    let store = crashed(&home, &store, "crashed");
    assert_eq!(open_turns(&store), [named(0, true), named(1, true), named(2, true)]);
    let before: Vec<_> = (0..5).map(|n| store.get(&key(n)).unwrap().unwrap()).collect();
    // A turn of this opening is not an interrupted one.
    store.begin_turn(&key(3)).unwrap().unwrap();
    let recovery = store.recover_interrupted_turns(10 * MINUTE).unwrap();
    assert_eq!(recovery.resumable, [key(1)]);
    assert_eq!((recovery.stale, recovery.suspended, recovery.orphaned), (1, 1, 0));
    assert_eq!(open_turns(&store), [named(3, false)]);
    assert_eq!(store.recover_interrupted_turns(10 * MINUTE).unwrap(), TurnRecovery::default(), "once");

    for n in [0, 2, 4] {
        assert_eq!(store.get(&key(n)).unwrap().unwrap(), before[n], "entry {n}");
    }
    let found = store.get(&key(1)).unwrap().unwrap();
    assert!(found.resume_pending);
    assert_eq!((&found.session_id, found.updated_at), (&before[1].session_id, before[1].updated_at));
    assert_eq!(found.details.resume_reason.as_deref(), Some("interrupted_turn"));
    assert_eq!(store.resolve(&source(1)).unwrap().entry.session_id, before[1].session_id, "its id is kept");
    assert_sound(&store);
    let again = crashed(&home, &store, "again");
    assert_eq!(open_turns(&again), [named(3, true)], "what recovery did is durable");
    assert_eq!(again.get(&key(1)).unwrap().unwrap().details.resume_reason, found.details.resume_reason);
}

#[test]
fn a_clean_close_discards_its_own_turns_only() {
    let home = Home::new();
    let store = home.open();
    for n in [0, 1] {
        store.resolve(&source(n)).unwrap();
        store.begin_turn(&key(n)).unwrap().unwrap();
    }
    // Somebody looks at the store before the gateway is back; that must not lose what was interrupted.
    let looking = crashed(&home, &store, "crashed");
    looking.begin_turn(&key(1)).unwrap().unwrap();
    looking.close().unwrap();
    drop(looking);
    let store_again =
        SessionStore::open(options(&home.path().with_file_name("crashed")).clock(home.clock.clone())).unwrap();
    assert!(store_again.open_report().clean);
    assert_eq!(open_turns(&store_again), [named(0, true)]);
    assert_eq!(store_again.recover_interrupted_turns(MINUTE).unwrap().resumable, [key(0)]);

    store.close().unwrap();
    drop(store);
    let store = home.open();
    assert!(store.open_report().clean);
    assert_eq!(open_turns(&store), []);
    assert_eq!(store.recover_interrupted_turns(MINUTE).unwrap(), TurnRecovery::default());
    assert_eq!(store.verify().unwrap().orphaned_turns, 0);
    assert!(!store.get(&key(0)).unwrap().unwrap().resume_pending);
}

#[test]
fn a_removal_or_another_session_clears_the_marker() {
    let home = Home::new();
    let store = home.open();
    for n in 0..4 {
        store.resolve(&source(n)).unwrap();
        store.begin_turn(&key(n)).unwrap().unwrap();
    }
    store.flush().unwrap();
    store.remove(&key(0)).unwrap().unwrap();
    store.reset(&key(1)).unwrap().unwrap();
    store.repoint(&key(2), "another".parse().unwrap(), &Repoint::new()).unwrap();
    store.update(&key(3), |details| details.display_name = Some("same session".into())).unwrap().unwrap();
    assert_eq!(open_turns(&store), [named(3, false)], "at once");
    store.flush().unwrap();
    let found = store.verify().unwrap();
    assert_eq!((found.violations.len(), found.orphaned_turns), (0, 0));
    // A turn of the new session is not taken for one of the old.
    store.reset(&key(1)).unwrap().unwrap();
    store.begin_turn(&key(1)).unwrap().unwrap();
    store.flush().unwrap();
    assert_eq!(open_turns(&store), [named(3, false), named(1, false)]);
    // It does not protect.
    home.clock.advance(100 * 24 * 60 * MINUTE);
    assert_eq!(store.prune(&PrunePolicy::max_age_days(90), NoActivity).unwrap().removed, 3);
    assert_eq!(open_turns(&store), []);
    assert_eq!(store.verify().unwrap().orphaned_turns, 0);
}

#[test]
fn a_pending_resume_keeps_its_id_and_is_never_armed_on_a_suspended_entry() {
    let home = Home::new();
    let store = home.open();
    assert!(matches!(store.mark_resume_pending(&key(0), "restart").unwrap(), ResumeMark::Missing));
    assert!(store.clear_resume_pending(&key(0)).unwrap().is_none());
    let id = store.resolve(&source(0)).unwrap().entry.session_id;
    let before = store.get(&key(0)).unwrap().unwrap();
    home.clock.advance(MINUTE);
    let ResumeMark::Marked(receipt) = store.mark_resume_pending(&key(0), "restart").unwrap() else { panic!() };
    receipt.wait().unwrap();
    let marked = store.get(&key(0)).unwrap().unwrap();
    assert!(marked.resume_pending);
    assert_eq!((marked.updated_at, &marked.session_id), (before.updated_at, &id));
    assert_eq!(marked.details.resume_reason.as_deref(), Some("restart"));
    assert_eq!(marked.details.last_resume_marked_at, Some(cloakroom::Clock::now(&home.clock)));
    // No policy ends it.
    home.clock.advance(1000 * MINUTE);
    let policies = ResetPolicies::from(ResetPolicy::idle(1));
    let found = store.resolve_with(&source(0), &policies, NoActivity).unwrap();
    assert_eq!((found.resolution, &found.entry.session_id), (Resolution::Existing, &id));
    store.clear_resume_pending(&key(0)).unwrap().unwrap();
    let cleared = store.get(&key(0)).unwrap().unwrap();
    assert_eq!((cleared.resume_pending, &cleared.details), (false, &before.details));

    store.suspend(&key(0)).unwrap().unwrap();
    let before = store.get(&key(0)).unwrap();
    assert!(matches!(store.mark_resume_pending(&key(0), "restart").unwrap(), ResumeMark::Suspended));
    assert_eq!(store.get(&key(0)).unwrap(), before);
    home.clock.advance(MINUTE);
    let found = store.resolve_with(&source(0), &policies, NoActivity).unwrap();
    assert!(matches!(found.resolution, Resolution::Replaced { .. }));
}
