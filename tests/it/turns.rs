//! Turns: what is left of them after a crash, and what is made of it.

use std::fs;
use std::path::Path;
use std::time::Duration;

use cloakroom::change::{Repoint, Resolution};
use cloakroom::prune::NoActivity;
use cloakroom::reset::{ResetPolicies, ResetPolicy};
use cloakroom::turns::{
    BegunTurn, RecoverOptions, ResumeClear, ResumeMark, TurnEnd, TurnRecovery, TurnStart, TurnToken,
};
use cloakroom::{Details, PrunePolicy, SessionStore};

use crate::common::{Home, assert_sound, key, options, source};

const MINUTE: Duration = Duration::from_secs(60);

/// The store as a crash would leave it now: a copy of its synced files, opened while the first goes on.
pub(crate) fn crashed(home: &Home, store: &SessionStore, name: &str) -> SessionStore {
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
    let older = store.begin_turn(&key(0)).unwrap().unwrap().token;
    assert_eq!(
        store.get(&key(0)).unwrap().unwrap().updated_at,
        store.turns().unwrap().items[0].started_at,
        "a turn touches"
    );
    let newer = store.begin_turn(&key(0)).unwrap().unwrap().token;
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
    let after = store.begin_turn(&key(0)).unwrap().unwrap().token;
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
    let token = store.begin_turn(&key(3)).unwrap().unwrap().token;
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
    assert!(matches!(store.clear_resume_pending(&key(0)).unwrap(), ResumeClear::Missing));
    let id = store.resolve(&source(0)).unwrap().entry.session_id;
    let before = store.get(&key(0)).unwrap().unwrap();
    home.clock.advance(MINUTE);
    let ResumeMark::Marked(receipt) = store.mark_resume_pending(&key(0), "restart").unwrap() else { panic!() };
    receipt.wait().unwrap();
    let marked = store.get(&key(0)).unwrap().unwrap();
    assert!(marked.resume_pending);
    assert_eq!((marked.updated_at, &marked.session_id), (before.updated_at, &id));
    assert_eq!(marked.details.resume_reason.as_deref(), Some("restart"));
    assert_eq!(marked.details.last_resume_marked_at, Some(cloakroom::time::Clock::now(&home.clock)));
    // No policy ends it.
    home.clock.advance(1000 * MINUTE);
    let policies = ResetPolicies::from(ResetPolicy::idle(1));
    let found = store.resolve_with(&source(0), &policies, NoActivity).unwrap();
    assert_eq!((found.resolution, &found.entry.session_id), (Resolution::Existing, &id));
    for is_pending in [true, false] {
        let cleared = store.clear_resume_pending(&key(0)).unwrap();
        assert!(matches!(cleared, ResumeClear::Cleared(_)) == is_pending, "{cleared:?}");
        assert!(matches!(cleared, ResumeClear::NotPending) != is_pending, "{cleared:?}");
    }
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

#[test]
fn a_token_is_read_back_from_its_text() {
    let home = Home::new();
    let store = home.open();
    store.resolve(&source(0)).unwrap();
    let token = store.begin_turn(&key(0)).unwrap().unwrap().token;
    // By another process, say.
    let text = token.to_string();
    assert_eq!((text.len(), text.parse::<TurnToken>()), (16, Ok(token)));
    let json = serde_json::to_string(&token).unwrap();
    assert_eq!((json.as_str(), serde_json::from_str::<TurnToken>(&json).unwrap()), (&*format!("\"{text}\""), token));
    assert_eq!(serde_json::from_slice::<TurnToken>(json.as_bytes()).unwrap(), token);
    assert_eq!(serde_json::from_value::<TurnToken>(token.to_string().into()).unwrap(), token);
    let upper = "00000000ABCDEF01".parse::<TurnToken>().unwrap();
    assert_eq!(upper.to_string(), "00000000abcdef01");
    for text in
        ["", "1", "+000000000000001", "-000000000000001", "0x00000000000001", "00000000000000000", "000000000000000g"]
    {
        let error = text.parse::<TurnToken>().unwrap_err();
        assert!(error.to_string().contains("sixteen hexadecimal digits"), "{text:?}");
        assert!(serde_json::from_value::<TurnToken>(text.into()).is_err(), "{text:?}");
    }
    assert!(serde_json::from_str::<TurnToken>("1").is_err(), "a number is no token");
    assert!(matches!(store.end_turn(&key(0), text.parse().unwrap()).unwrap(), TurnEnd::Ended(_)));
}

#[test]
fn the_turn_of_one_key_is_found() {
    let home = Home::new();
    let store = home.open();
    let turn = |store: &SessionStore, n| store.turn(&key(n)).unwrap();
    assert_eq!(turn(&store, 0), None, "there is no entry");
    for n in [0, 1, 2] {
        store.resolve(&source(n)).unwrap();
        assert_eq!(turn(&store, n), None);
        store.begin_turn(&key(n)).unwrap().unwrap();
        home.clock.advance(MINUTE);
    }
    let agrees = |store: &SessionStore| {
        let listed = store.turns().unwrap().items;
        let found: Vec<_> = (0..4).filter_map(|n| turn(store, n)).collect();
        assert_eq!(found, listed);
        found.len()
    };
    assert_eq!(agrees(&store), 3);
    let newer = store.begin_turn(&key(0)).unwrap().unwrap().token;
    assert_eq!(turn(&store, 0).unwrap().token, newer);
    store.end_turn(&key(0), newer).unwrap();
    store.reset(&key(1)).unwrap().unwrap();
    assert_eq!((turn(&store, 0), turn(&store, 1)), (None, None));
    let crashed = crashed(&home, &store, "crashed");
    assert!(turn(&crashed, 2).unwrap().interrupted);
    assert_eq!(agrees(&crashed), 1);
}

#[test]
fn of_several_that_try_one_begins() {
    let home = Home::new();
    let store = home.open();
    assert!(matches!(store.try_begin_turn(&key(0)).unwrap(), TurnStart::Missing));
    store.resolve(&source(0)).unwrap();
    let begun = std::sync::Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| match store.try_begin_turn(&key(0)).unwrap() {
                TurnStart::Begun(BegunTurn { token, receipt, .. }) => {
                    begun.lock().unwrap().push(token);
                    receipt.wait().unwrap();
                }
                TurnStart::Open(turn) => assert_eq!((turn.key, turn.interrupted), (key(0), false)),
                other => panic!("{other:?}"),
            });
        }
    });
    let [token] = *begun.into_inner().unwrap() else { panic!("not one") };
    home.clock.advance(MINUTE);
    let before = store.get(&key(0)).unwrap();
    let TurnStart::Open(open) = store.try_begin_turn(&key(0)).unwrap() else { panic!("it is open") };
    assert_eq!((open.token, store.get(&key(0)).unwrap()), (token, before), "nothing was touched");
    // Those that were interrupted are in nobody's way, and a session's turn is not the next one's.
    let again = crashed(&home, &store, "crashed");
    assert!(again.turn(&key(0)).unwrap().unwrap().interrupted);
    let TurnStart::Begun(BegunTurn { token: newer, .. }) = again.try_begin_turn(&key(0)).unwrap() else {
        panic!("it was interrupted")
    };
    assert!(newer > token);
    assert!(matches!(again.try_begin_turn(&key(0)).unwrap(), TurnStart::Open(_)));
    again.reset(&key(0)).unwrap().unwrap();
    assert!(matches!(again.try_begin_turn(&key(0)).unwrap(), TurnStart::Begun(..)));
    store.end_turn(&key(0), token).unwrap();
    let TurnStart::Begun(BegunTurn { token: next, .. }) = store.try_begin_turn(&key(0)).unwrap() else {
        panic!("the first has ended")
    };
    assert_eq!(store.get(&key(0)).unwrap().unwrap().updated_at, cloakroom::time::Clock::now(&home.clock), "it touches");
    assert!(matches!(store.end_turn(&key(0), next).unwrap(), TurnEnd::Ended(_)));
}

#[test]
fn turns_are_discarded_all_at_once_or_one() {
    let home = Home::new();
    let store = home.open();
    for n in 0..6 {
        store.resolve(&source(n)).unwrap();
        store.begin_turn(&key(n)).unwrap().unwrap();
    }
    assert!(matches!(store.discard_turn(&key(9)).unwrap(), TurnEnd::Missing));
    let TurnEnd::Ended(receipt) = store.discard_turn(&key(5)).unwrap() else { panic!("it is open") };
    receipt.wait().unwrap();
    assert!(matches!(store.discard_turn(&key(5)).unwrap(), TurnEnd::NotCurrent));
    // Two of an earlier opening, and one begun anew in this.
    let store = crashed(&home, &store, "crashed");
    for n in 1..3 {
        store.begin_turn(&key(n)).unwrap().unwrap();
    }
    home.clock.advance(MINUTE);
    let before: Vec<_> = (0..6).map(|n| store.get(&key(n)).unwrap()).collect();
    let report = store.discard_turns().unwrap();
    assert_eq!((report.discarded, report.unreadable.count), (5, 0));
    assert_eq!(serde_json::to_value(&report).unwrap()["discarded"], 5);
    assert_eq!(open_turns(&store), []);
    assert_eq!((0..6).map(|n| store.get(&key(n)).unwrap()).collect::<Vec<_>>(), before, "no entry has changed");
    assert_eq!(store.discard_turns().unwrap().discarded, 0);
    // Durable when it returns: nothing is left to resume.
    let to = home.path().with_file_name("again");
    copy(store.path(), &to);
    let again = SessionStore::open(options(&to).clock(home.clock.clone())).unwrap();
    assert_eq!(open_turns(&again), []);
    assert_eq!(again.recover_interrupted_turns(None).unwrap(), TurnRecovery::default());
    assert_sound(&again);
    again.close().unwrap();
    assert!(matches!(again.discard_turns(), Ok(report) if report.discarded == 0));
}

#[test]
fn a_closed_store_discards_nothing() {
    let home = Home::new();
    let store = home.open();
    store.resolve(&source(0)).unwrap();
    store.begin_turn(&key(0)).unwrap().unwrap();
    let store = crashed(&home, &store, "crashed");
    store.close().unwrap();
    assert!(matches!(store.discard_turns(), Err(cloakroom::Error::Closed { .. })));
    assert!(matches!(store.discard_turn(&key(0)), Err(cloakroom::Error::Closed { .. })));
    assert!(matches!(store.try_begin_turn(&key(0)), Err(cloakroom::Error::Closed { .. })));
}

#[test]
fn a_recovery_keeps_the_reason_of_a_resume_that_is_pending() {
    let home = Home::new();
    let store = home.open();
    for n in 0..4 {
        store.resolve(&source(n)).unwrap();
        store.begin_turn(&key(n)).unwrap().unwrap();
    }
    // The gateway said more before it was killed. One mark has no time, as older files have it.
    store.mark_resume_pending(&key(1), "restart_timeout").unwrap();
    store.mark_resume_pending(&key(2), "restart_timeout").unwrap();
    let untimed = |details: &mut Details| details.last_resume_marked_at = None;
    store.update(&key(2), untimed).unwrap().unwrap();
    let marked_at = store.get(&key(1)).unwrap().unwrap().details.last_resume_marked_at;
    store.mark_resume_pending(&key(3), "restart_timeout").unwrap();
    store.suspend(&key(3)).unwrap().unwrap();
    let store = crashed(&home, &store, "crashed");
    home.clock.advance(1000 * MINUTE);
    let events = store.events(10);
    let options = RecoverOptions::new(None).reason("restart_interrupted");
    let recovery = store.recover_interrupted_turns(options).unwrap();
    assert_eq!((&recovery.resumable[..], &recovery.already_pending[..]), (&[key(0)][..], &[key(1), key(2)][..]));
    assert_eq!((recovery.stale, recovery.suspended), (0, 1), "no age is too old");
    let json = serde_json::to_value(&recovery).unwrap();
    assert_eq!(
        (&json["resumable"][0], &json["already_pending"][1]),
        (&key(0).as_str().into(), &key(2).as_str().into())
    );
    let details = |n| store.get(&key(n)).unwrap().unwrap().details;
    let now = Some(cloakroom::time::Clock::now(&home.clock));
    let said = |n| (details(n).resume_reason, details(n).last_resume_marked_at);
    assert_eq!(said(0), (Some("restart_interrupted".into()), now));
    assert_eq!(said(1), (Some("restart_timeout".into()), marked_at));
    assert_eq!(said(2), (Some("restart_timeout".into()), now), "it counts from when it is found");
    assert_eq!(events.drain().map(|event| event.key).filter(|key| *key == self::key(0)).count(), 1);
    assert_eq!(open_turns(&store), []);
}

#[test]
fn a_limit_of_zero_is_a_limit_and_none_is_none() {
    for (max_age, resumable) in [(Some(Duration::ZERO), 0), (Some(MINUTE), 1), (None, 1)] {
        let home = Home::new();
        let store = home.open();
        store.resolve(&source(0)).unwrap();
        store.begin_turn(&key(0)).unwrap().unwrap();
        let store = crashed(&home, &store, "crashed");
        home.clock.advance(MINUTE);
        let recovery = store.recover_interrupted_turns(max_age).unwrap();
        assert_eq!((recovery.resumable.len(), recovery.stale), (resumable, 1 - resumable as u64), "{max_age:?}");
    }
}
