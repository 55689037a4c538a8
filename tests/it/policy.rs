//! Reset policies: when a session ends, and when it must not.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cloakroom::change::{Edit, Expect, ReplaceReason, Repoint, Repointed, Resolution, Resolve, Touch};
use cloakroom::config::Config;
use cloakroom::prune::{NoActivity, Verdict};
use cloakroom::reset::{DailyFrom, ResetPolicies, ResetPolicy};
use cloakroom::time::Clock;
use cloakroom::{Details, Extras, PrunePolicy, SessionEntry, SessionKey, SessionStore, TimeZone, Timestamp, Usage};

use crate::common::{Home, key, source};

const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn at(text: &str) -> Timestamp {
    serde_json::from_str(&format!("{text:?}")).unwrap()
}

fn zone(name: &str) -> TimeZone {
    name.parse().unwrap()
}

fn used() -> Usage {
    Usage { input_tokens: 1, ..Usage::ZERO }
}

#[test]
fn idleness_is_exact() {
    let policy = ResetPolicy::idle(ResetPolicy::DEFAULT_IDLE_MINUTES);
    let start = at("2026-06-12T10:00:00Z");
    assert_eq!(policy.due(start, start.saturating_add(DAY)), None, "1440 minutes are not more than 1440");
    assert_eq!(policy.due(start, start.saturating_add(DAY + Duration::from_micros(1))), Some(ReplaceReason::Idle));
    assert_eq!(policy.due(start, start.saturating_sub(DAY)), None, "a clock that went back");
    for never in [ResetPolicy::none(), ResetPolicy::idle(0), ResetPolicy::idle(u64::MAX)] {
        assert_eq!(never.due(Timestamp::MIN, at("2026-06-12T10:00:00Z")), None);
    }
}

#[test]
fn a_day_begins_at_its_hour() {
    let policy = ResetPolicy::daily(4, zone("Europe/Berlin")).unwrap();
    let cases = [
        // Before the hour, yesterday's counts.
        ("2026-06-12T01:00:00Z", "2026-06-12T01:59:59Z", false),
        ("2026-06-12T01:00:00Z", "2026-06-12T02:00:00Z", true),
        ("2026-06-12T02:00:00Z", "2026-06-13T01:59:59Z", false),
        ("2026-06-12T02:00:00Z", "2026-06-13T02:00:00Z", true),
        ("2026-06-11T01:59:59Z", "2026-06-12T01:00:00Z", true),
        ("2026-06-11T02:00:00Z", "2026-06-12T01:00:00Z", false),
        // A clock that went back.
        ("2026-06-13T02:00:00Z", "2026-06-12T05:00:00Z", false),
    ];
    for (updated, now, due) in cases {
        assert_eq!(policy.due(at(updated), at(now)), due.then_some(ReplaceReason::Daily), "{updated} {now}");
    }
    assert!(ResetPolicy::daily(24, TimeZone::UTC).is_err());
    assert!(ResetPolicy::both(1, 24, TimeZone::UTC).is_err());
}

#[test]
fn hours_that_the_clocks_skip_or_repeat() {
    // 02:00 to 03:00 does not exist: the reset is when the clocks go forward, at 01:00 UTC.
    let spring = ResetPolicy::daily(2, zone("Europe/Berlin")).unwrap();
    let evening = at("2026-03-28T20:00:00Z");
    assert_eq!(spring.due(evening, at("2026-03-29T00:59:59Z")), None);
    assert_eq!(spring.due(evening, at("2026-03-29T01:00:00Z")), Some(ReplaceReason::Daily));
    assert_eq!(spring.due(at("2026-03-29T01:00:00Z"), at("2026-03-29T23:59:59Z")), None, "once a day");
    assert_eq!(spring.due(at("2026-03-29T01:00:00Z"), at("2026-03-30T00:00:00Z")), Some(ReplaceReason::Daily));

    // 02:00 to 03:00 happens twice: the reset is at the first 02:00, at 00:00 UTC, and not again an hour later.
    let evening = at("2026-10-24T20:00:00Z");
    assert_eq!(spring.due(evening, at("2026-10-24T23:59:59Z")), None);
    assert_eq!(spring.due(evening, at("2026-10-25T00:00:00Z")), Some(ReplaceReason::Daily));
    assert_eq!(spring.due(at("2026-10-25T00:30:00Z"), at("2026-10-25T01:30:00Z")), None, "the hour comes again");
    assert_eq!(spring.due(at("2026-10-25T00:30:00Z"), at("2026-10-26T00:59:59Z")), None);
    assert_eq!(spring.due(at("2026-10-25T00:30:00Z"), at("2026-10-26T01:00:00Z")), Some(ReplaceReason::Daily));

    // Midnight itself is skipped.
    let midnight = ResetPolicy::daily(0, zone("Asia/Beirut")).unwrap();
    let change = at("2026-03-28T22:00:00Z");
    assert_eq!(midnight.due(at("2026-03-28T12:00:00Z"), change.saturating_sub(MINUTE)), None);
    assert_eq!(midnight.due(at("2026-03-28T12:00:00Z"), change), Some(ReplaceReason::Daily));

    // A whole day was: after the 29th of December 2011 came the 31st.
    let samoa = ResetPolicy::daily(12, zone("Pacific/Apia")).unwrap();
    assert_eq!(samoa.due(at("2011-12-29T23:00:00Z"), at("2011-12-30T21:59:59Z")), None);
    assert_eq!(samoa.due(at("2011-12-29T23:00:00Z"), at("2011-12-30T22:00:00Z")), Some(ReplaceReason::Daily));
    assert_eq!(samoa.due(at("2011-12-29T21:00:00Z"), at("2011-12-30T11:00:00Z")), Some(ReplaceReason::Daily));
}

#[test]
fn both_rules_and_which_is_told() {
    let policy = ResetPolicy::both(60, 4, TimeZone::UTC).unwrap();
    let start = at("2026-06-12T03:30:00Z");
    assert_eq!(policy.due(start, at("2026-06-12T04:00:00Z")), Some(ReplaceReason::Daily));
    assert_eq!(policy.due(start, at("2026-06-12T04:30:00.000001Z")), Some(ReplaceReason::Idle));
    assert_eq!(policy.due(at("2026-06-12T05:00:00Z"), at("2026-06-12T06:00:00Z")), None);
    assert_eq!(policy.due(at("2026-06-12T05:00:00Z"), at("2026-06-12T06:00:01Z")), Some(ReplaceReason::Idle));
}

#[test]
fn the_platform_counts_before_the_chat_type() {
    let policies = ResetPolicies::new(ResetPolicy::idle(1))
        .platform("discord", ResetPolicy::idle(2))
        .chat_type("group", ResetPolicy::idle(3));
    let mut source = source(1);
    assert_eq!(policies.for_source(&source), ResetPolicy::idle(2));
    source.platform = "matrix".into();
    assert_eq!(policies.for_source(&source), ResetPolicy::idle(3));
    source.chat_type = "dm".into();
    assert_eq!(policies.for_source(&source), ResetPolicy::idle(1));
    let described: Vec<_> = policies.describe().map(|(what, _)| what).collect();
    assert_eq!(described, ["default", "platform discord", "chat type group"]);
}

#[test]
fn an_expired_entry_is_replaced_and_the_answer_says_why() {
    let (home, policies) = (Home::new(), ResetPolicies::from(ResetPolicy::idle(10)));
    let store = home.open();
    let resolve = || store.resolve_with(&source(0), &policies, NoActivity).unwrap();
    let first = resolve();
    assert_eq!(first.resolution, Resolution::Created);
    home.clock.advance(10 * MINUTE);
    assert_eq!(resolve().resolution, Resolution::Existing, "and touched");
    home.clock.advance(10 * MINUTE);
    assert_eq!(resolve().resolution, Resolution::Existing);
    for (usage, had_activity) in [(Usage::ZERO, false), (used(), true)] {
        let previous = store.get(&key(0)).unwrap().unwrap().session_id;
        store.record_usage(&key(0), &usage).unwrap().unwrap();
        home.clock.advance(10 * MINUTE + Duration::from_micros(1));
        let second = resolve();
        let reason = ReplaceReason::Idle;
        assert_eq!(second.resolution, Resolution::Replaced { reason, previous: previous.clone(), had_activity });
        assert_ne!(second.entry.session_id, previous);
        assert_eq!(second.entry.details.auto_reset_reason.as_deref(), Some("idle"));
        assert_eq!(store.get(&key(0)).unwrap().unwrap(), second.entry);
    }
    home.clock.advance(DAY);
    assert_eq!(store.resolve(&source(0)).unwrap().resolution, Resolution::Existing, "no policy, no reset");
    home.clock.advance(DAY);
    let daily = ResetPolicies::from(ResetPolicy::daily(4, TimeZone::UTC).unwrap());
    let third = store.resolve_with(&source(0), &daily, NoActivity).unwrap();
    assert!(matches!(third.resolution, Resolution::Replaced { reason: ReplaceReason::Daily, .. }));
}

#[test]
fn it_never_fires_while_the_guard_says_active_or_fails() {
    let (home, policies) = (Home::new(), ResetPolicies::from(ResetPolicy::idle(10)));
    let store = home.open();
    store.resolve(&source(0)).unwrap();
    home.clock.advance(DAY);
    let verdicts: [fn() -> Verdict; 3] =
        [|| Verdict::Active, || Verdict::Failed("no answer".into()), || panic!("a guard that panics")];
    for verdict in verdicts {
        let asked = AtomicU64::new(0);
        let guard = |asked_for: &SessionKey| {
            assert_eq!(*asked_for, key(0), "by session key");
            asked.fetch_add(1, Ordering::Relaxed);
            verdict()
        };
        let before = store.get(&key(0)).unwrap().unwrap();
        let found = store.resolve_with(&source(0), &policies, guard).unwrap();
        assert_eq!(found.resolution, Resolution::Existing);
        assert_eq!(found.entry.session_id, before.session_id);
        assert_eq!(found.entry.updated_at, home.clock.now(), "the message touches it");
        assert_eq!(asked.into_inner(), 1);
        home.clock.advance(DAY);
    }
}

#[test]
fn the_guard_is_asked_only_about_what_is_over_and_holds_no_lock() {
    let (home, policies) = (Home::new(), ResetPolicies::from(ResetPolicy::idle(10)));
    let store = home.open();
    let never = |_: &SessionKey| -> bool { panic!("asked for nothing") };
    store.resolve_with(&source(0), &policies, never).unwrap();
    store.resolve_with(&source(0), &policies, never).unwrap();
    home.clock.advance(DAY);
    // A touch between the guard's answer and the replacement wins. That it is possible shows that no lock is held.
    let touching = |key: &SessionKey| {
        store.touch(key).unwrap().unwrap();
        false
    };
    let before = store.get(&key(0)).unwrap().unwrap().session_id;
    let found = store.resolve_with(&source(0), &policies, touching).unwrap();
    assert_eq!((found.resolution, found.entry.session_id), (Resolution::Existing, before));
    // Other changes are not activity: it is asked again, and then replaced.
    home.clock.advance(DAY);
    let asked = AtomicU64::new(0);
    let marking = |key: &SessionKey| {
        if asked.fetch_add(1, Ordering::Relaxed) == 0 {
            store.record_usage(key, &used()).unwrap().unwrap();
        }
        false
    };
    let found = store.resolve_with(&source(0), &policies, marking).unwrap();
    assert!(matches!(found.resolution, Resolution::Replaced { reason: ReplaceReason::Idle, had_activity: true, .. }));
    // One that goes meanwhile is created.
    home.clock.advance(DAY);
    let removing = |key: &SessionKey| {
        store.remove(key).unwrap().unwrap();
        false
    };
    assert_eq!(store.resolve_with(&source(0), &policies, removing).unwrap().resolution, Resolution::Created);
    // One that is suspended meanwhile is replaced, and for that reason.
    home.clock.advance(DAY);
    let suspending = |key: &SessionKey| {
        store.suspend(key).unwrap().unwrap();
        true
    };
    let found = store.resolve_with(&source(0), &policies, suspending).unwrap();
    assert!(matches!(found.resolution, Resolution::Replaced { reason: ReplaceReason::Suspended, .. }));
}

#[test]
fn the_same_end_by_either_road() {
    let (home, policies) = (Home::new(), ResetPolicies::from(ResetPolicy::idle(1440)));
    let store = home.open();
    // Each has all that a session can have.
    let mut previous = Vec::new();
    for n in [0, 1] {
        store.resolve(&source(n)).unwrap();
        store.record_usage(&key(n), &used()).unwrap().unwrap();
        let all = |details: &mut Details| {
            details.display_name = Some("another".into());
            details.cost_status = Some("estimated".into());
            details.expiry_finalized = true;
            details.resume_reason = Some("restart".into());
            details.last_resume_marked_at = Some(home.clock.now());
            details.active_turn_token = Some("token".into());
            details.active_turn_started_at = Some(home.clock.now());
            details.is_fresh_reset = true;
        };
        store.update(&key(n), all).unwrap().unwrap();
        let metadata = serde_json::json!({"topic": "tea"});
        store.set_metadata(&key(n), metadata.as_object().unwrap()).unwrap().unwrap();
        previous.push(store.get(&key(n)).unwrap().unwrap().session_id);
    }
    home.clock.advance(100 * DAY);
    // The first is pruned; the second is not there for that pass.
    let spare_the_second = |asked: &SessionKey| *asked == key(1);
    assert_eq!(store.prune(&PrunePolicy::max_age_days(90), spare_the_second).unwrap().removed, 1);
    let pruned = store.resolve_with(&source(0), &policies, NoActivity).unwrap();
    let reset = store.resolve_with(&source(1), &policies, NoActivity).unwrap();
    assert_eq!(pruned.resolution, Resolution::Created);
    assert!(matches!(reset.resolution, Resolution::Replaced { reason: ReplaceReason::Idle, .. }));

    for n in [0, 1] {
        assert!(store.get_with_extras(&key(n)).unwrap().unwrap().1.is_empty(), "no extras");
    }
    let names = |value: serde_json::Value| value.as_object().unwrap().keys().cloned().collect::<BTreeSet<_>>();
    let fields = |entry: SessionEntry| {
        assert!(!previous.contains(&entry.session_id), "a fresh id");
        // A new field fails here until somebody has thought of it.
        let mut others = names(serde_json::to_value(&entry).unwrap());
        for known in [serde_json::to_value(entry.usage).unwrap(), serde_json::to_value(&entry.details).unwrap()] {
            others.retain(|name| !names(known.clone()).contains(name));
        }
        let known = [
            "created_at",
            "extras_bytes",
            "last_interaction",
            "pinned",
            "resume_pending",
            "revision",
            "session_id",
            "session_key",
            "suspended",
            "updated_at",
        ];
        assert!(others.iter().eq(&known), "{others:?}");
        assert_eq!((entry.last_interaction, entry.pinned), (None, false));
        let SessionEntry { created_at, updated_at, suspended, resume_pending, usage, details, extras_bytes, .. } =
            entry;
        ((created_at, updated_at, suspended, resume_pending, usage, extras_bytes), details)
    };
    let (pruned, pruned_details) = fields(pruned.entry);
    let (reset, reset_details) = fields(reset.entry);
    let now = home.clock.now();
    assert_eq!(pruned, (now, now, false, false, Usage::ZERO, 0));
    assert_eq!(pruned, reset);
    assert_eq!(pruned_details, Details::from_source(source(0)));
    let told = Details {
        was_auto_reset: true,
        auto_reset_reason: Some("idle".into()),
        reset_had_activity: true,
        prev_session_id: Some(previous[1].clone()),
        ..Details::from_source(source(1))
    };
    assert_eq!(reset_details, told);
}

/// An entry of a gateway that tells messages from other activity.
fn talked_to(store: &SessionStore, n: usize, at: Timestamp) -> SessionEntry {
    let mut entry = SessionEntry::new(key(n), "s".parse().unwrap(), at);
    entry.last_interaction = Some(at);
    drop(store.put(&entry, &Extras::default(), Expect::Any).unwrap());
    store.get(&key(n)).unwrap().unwrap()
}

#[test]
fn idleness_counts_from_the_last_interaction_where_it_is_set() {
    let policy = ResetPolicy::both(10, 4, TimeZone::UTC).unwrap();
    let now = at("2026-06-12T12:00:00Z");
    let mut entry = SessionEntry::new(key(0), "s".parse().unwrap(), at("2026-06-12T03:00:00Z"));
    entry.updated_at = now;
    assert_eq!(policy.due_for(&entry, now), None);
    entry.last_interaction = Some(at("2026-06-12T11:49:59Z"));
    assert_eq!(policy.due_for(&entry, now), Some(ReplaceReason::Idle));
    // The day goes by all activity.
    assert_eq!(ResetPolicy::daily(4, TimeZone::UTC).unwrap().due_for(&entry, now), None);
    entry.last_interaction = Some(at("2026-06-12T11:50:00Z"));
    assert_eq!(policy.due_for(&entry, now), None);
    entry.updated_at = at("2026-06-12T11:00:00Z");
    assert_eq!(policy.due_for(&entry, now), None);
    // One that lies ahead counts for nothing, and a little ahead is now.
    entry.last_interaction = Some(at("2026-06-13T12:00:00Z"));
    assert_eq!(policy.due_for(&entry, now), None);
    entry.last_interaction = Some(at("2026-06-13T12:00:01Z"));
    assert_eq!(policy.due_for(&entry, now), Some(ReplaceReason::Idle));
}

#[test]
fn messages_keep_a_session_and_work_in_the_background_does_not() {
    let (home, policies) = (Home::new(), ResetPolicies::from(ResetPolicy::idle(10)));
    let store = home.open();
    let first = talked_to(&store, 0, home.clock.now());
    let get = || store.get(&key(0)).unwrap().unwrap();
    let resolve = || store.resolve_with(&source(0), &policies, NoActivity).unwrap();
    for _ in 0..3 {
        home.clock.advance(8 * MINUTE);
        let found = resolve();
        assert_eq!(found.resolution, Resolution::Existing, "its user writes");
        assert_eq!(found.entry.last_interaction, Some(home.clock.now()));
        assert_eq!(found.entry.revision, first.revision, "a message is no change");
        assert_eq!(found.entry, get());
    }
    // None of these is a message.
    let last = home.clock.now();
    home.clock.advance(8 * MINUTE);
    drop(store.touch(&key(0)).unwrap().unwrap());
    drop(store.modify(&key(0), Touch::Yes, |_| Edit::Write).unwrap());
    drop(store.begin_turn(&key(0)).unwrap());
    drop(store.discard_turns().unwrap());
    drop(store.resolve_as(&key(0), &Resolve::new().touch(Touch::No)).unwrap());
    assert_eq!((get().last_interaction, get().updated_at), (Some(last), home.clock.now()));
    home.clock.advance(3 * MINUTE);
    let next = resolve();
    assert!(matches!(next.resolution, Resolution::Replaced { reason: ReplaceReason::Idle, .. }), "{next:?}");
    // The next session goes by messages too, and so does one that the user asks for.
    assert_eq!(next.entry.last_interaction, Some(home.clock.now()));
    home.clock.advance(MINUTE);
    let reset = store.reset(&key(0)).unwrap().unwrap().entry;
    assert_eq!(reset.last_interaction, Some(home.clock.now()));
    // One that the key is led to has a user who is there, unless that is no activity, or the session stays the same.
    for (how, moves) in
        [(Repoint::new(), true), (Repoint::new().touch(Touch::No), false), (Repoint::new().keep_usage(true), false)]
    {
        home.clock.advance(MINUTE);
        let before = get().last_interaction;
        let id = format!("led-to-{:?}", home.clock.now()).replace([':', '.'], "-").parse().unwrap();
        assert!(matches!(store.repoint(&key(0), id, &how).unwrap(), Repointed::Switched(_)));
        assert_eq!(get().last_interaction, if moves { Some(home.clock.now()) } else { before }, "{how:?}");
    }
    // Where none is set, none is made.
    assert_eq!(store.resolve(&source(1)).unwrap().entry.last_interaction, None);
    assert_eq!(store.resolve(&source(1)).unwrap().entry.last_interaction, None);
    // A message while the draft is made is kept, and does not make it run again.
    home.clock.advance(MINUTE);
    let mut runs = 0;
    let change = |draft: &mut cloakroom::change::Draft<'_>| {
        runs += 1;
        store.resolve(&source(0)).unwrap();
        draft.entry.usage.total_tokens = 5;
        Edit::Write
    };
    drop(store.modify(&key(0), Touch::No, change).unwrap());
    assert_eq!((runs, get().last_interaction, get().usage.total_tokens), (1, Some(home.clock.now()), 5));
}

#[test]
fn a_last_interaction_ahead_of_the_clock_counts_for_nothing() {
    let (home, policies) = (Home::new(), ResetPolicies::from(ResetPolicy::idle(10)));
    let store = home.open();
    let resolve = |n| store.resolve_with(&source(n), &policies, NoActivity).unwrap();
    let ahead = |n| {
        let mut entry = talked_to(&store, n, home.clock.now());
        entry.last_interaction = Some(home.clock.now().saturating_add(3 * DAY));
        drop(store.put(&entry, &Extras::default(), Expect::Any).unwrap());
    };
    ahead(0);
    ahead(1);
    home.clock.advance(11 * MINUTE);
    assert!(matches!(resolve(0).resolution, Resolution::Replaced { reason: ReplaceReason::Idle, .. }));
    // The next change of any kind sets it right, and a message moves it on as ever.
    drop(store.suspend(&key(1)).unwrap().unwrap());
    drop(store.unsuspend(&key(1)).unwrap().unwrap());
    let healed = store.get(&key(1)).unwrap().unwrap();
    assert_eq!(healed.last_interaction, Some(healed.updated_at));
    ahead(2);
    home.clock.advance(9 * MINUTE);
    let found = resolve(2);
    assert_eq!((found.resolution, found.entry.last_interaction), (Resolution::Existing, Some(home.clock.now())));
}

#[test]
fn a_day_by_the_start_ends_a_session_in_constant_use() {
    let daily = ResetPolicy::daily(4, TimeZone::UTC).unwrap();
    let (by_use, by_start) =
        (ResetPolicies::from(daily.clone()), ResetPolicies::from(daily.daily_from(DailyFrom::Start)));
    let home = Home::new();
    let store = home.open();
    store.resolve(&source(0)).unwrap();
    store.resolve(&source(1)).unwrap();
    let (mut ends_by_use, mut ends_by_start) = (0, Vec::new());
    for _ in 0..3 * 24 * 4 {
        home.clock.advance(15 * MINUTE);
        let used = store.resolve_with(&source(0), &by_use, NoActivity).unwrap();
        // Only the first after the hour: it was last in use before.
        ends_by_use += u32::from(used.resolution != Resolution::Existing);
        let found = store.resolve_with(&source(1), &by_start, NoActivity).unwrap();
        if let Resolution::Replaced { reason, .. } = found.resolution {
            assert_eq!((reason, found.entry.created_at), (ReplaceReason::Daily, home.clock.now()));
            ends_by_start.push(home.clock.now());
        }
        // At the hour itself something is always in use.
        drop(store.touch(&key(1)).unwrap().unwrap());
    }
    assert_eq!((ends_by_use, ends_by_start.len()), (3, 3), "{ends_by_start:?}");
    // In use just after the hour, by work in the background: only the start tells that it is over.
    for n in [0, 1] {
        home.clock.advance(DAY);
        drop(store.touch(&key(n)).unwrap().unwrap());
    }
    let end = |n, policies: &ResetPolicies| store.resolve_with(&source(n), policies, NoActivity).unwrap().resolution;
    drop(store.touch(&key(0)).unwrap().unwrap());
    assert_eq!(end(0, &by_use), Resolution::Existing);
    assert!(matches!(end(1, &by_start), Resolution::Replaced { reason: ReplaceReason::Daily, .. }));
    // A session that began while the guard was asked is another one, though it has the same time of activity.
    home.clock.advance(DAY);
    drop(store.touch(&key(1)).unwrap().unwrap());
    let resetting = |key: &SessionKey| {
        drop(store.reset(key).unwrap().unwrap());
        false
    };
    assert_eq!(store.resolve_with(&source(1), &by_start, resetting).unwrap().resolution, Resolution::Existing);
    // One that is protected goes on all the same, and so does one whose start lies ahead while it is in use.
    home.clock.advance(DAY);
    assert_eq!(
        store.resolve_with(&source(1), &by_start, |_: &SessionKey| true).unwrap().resolution,
        Resolution::Existing
    );
    let mut entry = store.get(&key(1)).unwrap().unwrap();
    entry.created_at = home.clock.now().saturating_add(3 * DAY);
    drop(store.put(&entry, &Extras::default(), Expect::Any).unwrap());
    assert_eq!(end(1, &by_start), Resolution::Existing);
    home.clock.advance(DAY);
    assert!(matches!(end(1, &by_start), Resolution::Replaced { reason: ReplaceReason::Daily, .. }));
}

#[test]
fn the_file_says_what_a_day_counts_from() {
    let words = |rule: &str| {
        let config = format!(r#"{{"session_reset": {{"mode": "both", "time_zone": "UTC", {rule} "at_hour": 4}}}}"#);
        let config: Config = serde_json::from_str(&config)?;
        let (_, words) = ResetPolicies::try_from(&config).unwrap().describe().next().unwrap();
        Ok::<_, serde_json::Error>(words)
    };
    let by_use = "idle for more than 1440 minutes, or daily at 04:00 (UTC)";
    assert_eq!(words("").unwrap(), by_use);
    assert_eq!(words(r#""daily_from": "activity","#).unwrap(), by_use);
    assert_eq!(words(r#""daily_from": "start","#).unwrap(), format!("{by_use}, from the session's start"));
    assert!(words(r#""daily_from": "end","#).unwrap_err().to_string().contains("`start`"));
}
