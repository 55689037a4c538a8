//! Random sequences of all verbs, against a plain map.
//!
//! The committer runs only when a step asks for it, when a small bound on what may be pending makes it run, and at a
//! reopening. So steps meet entries that wait, that are in flight, that are cached, and that are on disk only.
//! `CLOAKROOM_CASES` sets how many sequences are run.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use cloakroom::change::{
    Edit, Expect, KeepExtras, Modified, Put, Removal, ReplaceReason, Repoint, Repointed, Resolution, Resolve, Touch,
    Written,
};
use cloakroom::prefix::BulkRemoval;
use cloakroom::prune::Verdict;
use cloakroom::query::Filter;
use cloakroom::reset::{ResetPolicies, ResetPolicy};
use cloakroom::turns::{BegunTurn, ResumeClear, ResumeMark, TurnEnd, TurnStart, TurnToken};
use cloakroom::{
    Details, Error, Extras, Options, PrunePolicy, Revision, SessionEntry, SessionId, SessionKey, SessionStore,
    Timestamp, Usage,
};
use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::{Map, json};

use crate::common::{Home, assert_sound, key, options, source};
use crate::turns::copy;

const KEYS: usize = 5;
/// Of extras beside the metadata.
const NAMES: usize = 4;
const MINUTE: Duration = Duration::from_secs(60);

#[derive(Debug, Clone)]
enum Step {
    Resolve(usize),
    Touch(usize),
    RecordUsage(usize, u64),
    Suspend(usize),
    Unsuspend(usize),
    /// Bytes of the display name; a large one does not fit into the record.
    Update(usize, usize),
    /// Changes nothing, but through `update`.
    Keep(usize),
    SetMetadata(usize, usize),
    /// The name's number, and the bytes of its text.
    SetExtra(usize, usize, usize),
    RemoveExtra(usize, usize),
    Reset(usize),
    /// To one of a few ids, so that keys share one.
    Switch(usize, u8),
    /// Under another id, with all that there is, and untouched.
    Continue(usize, u8),
    /// A whole entry: at any time, over what is expected or not.
    Put(usize, Expected, Duration),
    Modify(usize, Change, bool),
    /// A fresh one or not, touched or not.
    ResolveAs(usize, bool, bool),
    Remove(usize),
    /// Pins or unpins.
    Pin(usize, bool),
    /// Under one of a few names, until so long from now.
    HoldUntil(usize, u8, Duration),
    Release(usize, u8),
    /// Held by the process and until then, removed, and made again; with a commit before the removal or not.
    Again(usize, u8, Duration, bool),
    /// All that is at this key or below it.
    Forget(usize),
    /// With what is there, or with what was there before a touch.
    RemoveIf(usize, bool),
    /// Of the key, or of all; suspended ones, others, or both; expecting that many too much.
    RemoveWhere(Option<usize>, Option<bool>, u64),
    /// From one key to another, whether there are entries or not.
    Rename(usize, usize),
    Advance(Duration),
    JumpBack(Duration),
    Flush,
    Wait(usize),
    Look(usize),
    Lists,
    Reopen,
    /// By a policy of that many idle minutes, and with a guard of that answer.
    ResolveWith(usize, u64, Guard),
    BeginTurn(usize),
    /// With the newest token of the key, or with the one before.
    EndTurn(usize, bool),
    TryBeginTurn(usize),
    DiscardTurn(usize),
    DiscardTurns,
    MarkResume(usize),
    ClearResume(usize),
    /// Past that many days, down to that many entries (0: any number), and with a guard of that answer for every other key.
    Prune {
        days: u64,
        entries: u64,
        guard: Guard,
        dry_run: bool,
    },
    /// Goes on with what a crash would leave now, and recovers turns of at most this age.
    Crash(Duration),
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Expected {
    Any,
    Absent,
    Seen,
    Wrong,
}

/// What a `modify` does to an entry.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Change {
    Counters(u64),
    Name(usize),
    SetMetadata(usize),
    RemoveMetadata,
    Id(u8),
    Pin(bool),
    Nothing,
    Keep,
    Remove,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Guard {
    Idle,
    Active,
    Fails,
}

impl Guard {
    fn verdict(self) -> Verdict {
        match self {
            Self::Idle => Verdict::Idle,
            Self::Active => Verdict::Active,
            Self::Fails => Verdict::Failed("no answer".into()),
        }
    }
}

fn any_step() -> impl Strategy<Value = Step> {
    use Step::*;
    let k = 0..KEYS;
    let guard = prop_oneof![2 => Just(Guard::Idle), 1 => Just(Guard::Active), 1 => Just(Guard::Fails)];
    let prune = (prop_oneof![Just(0_u64), 1..6_u64], 0..5_u64, guard.clone(), any::<bool>());
    let bytes = prop_oneof![4 => 0..300_usize, 1 => 4000..9000_usize];
    let change = prop_oneof![
        (0..9_u64).prop_map(Change::Counters),
        bytes.clone().prop_map(Change::Name),
        bytes.clone().prop_map(Change::SetMetadata),
        Just(Change::RemoveMetadata),
        (0..3_u8).prop_map(Change::Id),
        any::<bool>().prop_map(Change::Pin),
        Just(Change::Nothing),
        Just(Change::Keep),
        Just(Change::Remove),
    ];
    let expected =
        prop_oneof![Just(Expected::Any), Just(Expected::Absent), Just(Expected::Seen), Just(Expected::Wrong)];
    let time = prop_oneof![
        Just(Duration::ZERO),
        Just(Duration::from_micros(1)),
        Just(MINUTE / 2),
        Just(3 * MINUTE),
        (0..10_u64).prop_map(|days| Duration::from_secs(days * 86_400))
    ];
    prop_oneof![
        12 => k.clone().prop_map(Resolve),
        12 => k.clone().prop_map(Touch),
        4 => (k.clone(), 0..1000_u64).prop_map(|(k, n)| RecordUsage(k, n)),
        4 => k.clone().prop_map(Suspend),
        3 => k.clone().prop_map(Unsuspend),
        5 => (k.clone(), bytes.clone()).prop_map(|(k, n)| Update(k, n)),
        2 => k.clone().prop_map(Keep),
        4 => (k.clone(), bytes.clone()).prop_map(|(k, n)| SetMetadata(k, n)),
        24 => (0..2_usize, 0..NAMES, bytes).prop_map(|(k, name, n)| SetExtra(k, name, n)),
        12 => (0..2_usize, 0..NAMES).prop_map(|(k, name)| RemoveExtra(k, name)),
        5 => k.clone().prop_map(Reset),
        4 => (k.clone(), 0..3_u8).prop_map(|(k, id)| Switch(k, id)),
        3 => (k.clone(), 0..3_u8).prop_map(|(k, id)| Continue(k, id)),
        5 => (k.clone(), expected, (0..20_u64).prop_map(|m| MINUTE * m as u32)).prop_map(|(k, e, back)| Put(k, e, back)),
        9 => (k.clone(), change, any::<bool>()).prop_map(|(k, change, touch)| Modify(k, change, touch)),
        3 => (k.clone(), any::<bool>(), any::<bool>()).prop_map(|(k, fresh, touch)| ResolveAs(k, fresh, touch)),
        4 => k.clone().prop_map(Remove),
        4 => (k.clone(), any::<bool>()).prop_map(|(k, pinned)| Pin(k, pinned)),
        12 => (k.clone(), 0..2_u8, time.clone()).prop_map(|(k, name, end)| HoldUntil(k, name, end)),
        3 => (k.clone(), 0..2_u8).prop_map(|(k, name)| Release(k, name)),
        2 => (k.clone(), 0..2_u8, time.clone(), any::<bool>())
            .prop_map(|(k, name, end, flush)| Again(k, name, end, flush)),
        1 => k.clone().prop_map(Forget),
        4 => (k.clone(), any::<bool>()).prop_map(|(k, seen)| RemoveIf(k, seen)),
        2 => (proptest::option::of(k.clone()), any::<Option<bool>>(), 0..2_u64)
            .prop_map(|(k, suspended, over)| RemoveWhere(k, suspended, over)),
        6 => (k.clone(), k.clone()).prop_map(|(from, to)| Rename(from, to)),
        6 => (k.clone(), prop_oneof![Just(0_u64), Just(2), Just(1440)], guard)
            .prop_map(|(k, minutes, guard)| ResolveWith(k, minutes, guard)),
        5 => k.clone().prop_map(BeginTurn),
        4 => (k.clone(), any::<bool>()).prop_map(|(k, newest)| EndTurn(k, newest)),
        3 => k.clone().prop_map(TryBeginTurn),
        1 => k.clone().prop_map(DiscardTurn),
        1 => Just(DiscardTurns),
        3 => k.clone().prop_map(MarkResume),
        2 => k.clone().prop_map(ClearResume),
        5 => prune.prop_map(|(days, entries, guard, dry_run)| Prune { days, entries, guard, dry_run }),
        2 => time.clone().prop_map(Crash),
        8 => time.prop_map(Advance),
        // Together they stay below what counts as a jump, whose rules are those of `clocks.rs`.
        2 => (0..1000_u64).prop_map(|ms| JumpBack(Duration::from_millis(ms))),
        4 => Just(Flush),
        2 => k.clone().prop_map(Wait),
        6 => k.prop_map(Look),
        4 => Just(Lists),
        2 => Just(Reopen),
    ]
}

/// What the store should hold for a key.
#[derive(Debug, Clone, PartialEq)]
struct Entry {
    session_id: SessionId,
    created_at: Timestamp,
    updated_at: Timestamp,
    suspended: bool,
    pinned: bool,
    resume_pending: bool,
    usage: Usage,
    details: Details,
    extras: Extras,
}

impl Entry {
    fn from_store(entry: &SessionEntry, extras: &Extras) -> Self {
        assert!(extras.is_empty() || entry.extras_bytes > 0);
        Self {
            session_id: entry.session_id.clone(),
            created_at: entry.created_at,
            updated_at: entry.updated_at,
            suspended: entry.suspended,
            pinned: entry.pinned,
            resume_pending: entry.resume_pending,
            usage: entry.usage,
            details: entry.details.clone(),
            extras: extras.clone(),
        }
    }

    /// What `reset` and `switch` make of it.
    fn renewed(&self, id: &SessionId, now: Timestamp, by_user: bool) -> Self {
        let old = &self.details;
        Self {
            session_id: id.clone(),
            created_at: now,
            updated_at: now.max(self.updated_at),
            suspended: false,
            pinned: self.pinned,
            resume_pending: false,
            usage: Usage::ZERO,
            details: Details {
                display_name: old.display_name.clone(),
                platform: old.platform.clone(),
                chat_type: old.chat_type.clone(),
                origin: old.origin.clone(),
                is_fresh_reset: by_user,
                reset_had_activity: self.usage != Usage::ZERO,
                prev_session_id: Some(self.session_id.clone()),
                ..Details::default()
            },
            extras: Extras::default(),
        }
    }
}

fn metadata(bytes: usize) -> Map<String, serde_json::Value> {
    Map::from_iter([("text".to_owned(), json!("m".repeat(bytes)))])
}

/// Long names, so that two of them are more than a record has room for.
fn extra(name: usize) -> String {
    format!("extra-{name:-<1000}")
}

struct Run {
    home: Home,
    options: Options,
    open: Option<SessionStore>,
    model: BTreeMap<SessionKey, Entry>,
    ids: BTreeSet<SessionId>,
    /// The open turn of a key: its token, when it began, and its session.
    turns: BTreeMap<SessionKey, (TurnToken, Timestamp, SessionId)>,
    /// The two newest tokens of a key, the newest first.
    tokens: BTreeMap<SessionKey, Vec<TurnToken>>,
    /// The leases of a key: the end of each. One that has ended may be forgotten by the store or not.
    leases: BTreeMap<SessionKey, BTreeMap<u8, Timestamp>>,
    crashes: usize,
    cached_entries: usize,
    max_pending: usize,
}

impl Run {
    fn new(cached_entries: usize, max_pending: usize) -> Self {
        let home = Home::new();
        let options = home.options().cached_entries(cached_entries).max_pending(max_pending);
        let store = SessionStore::open(options.clone()).unwrap();
        Self {
            home,
            options,
            open: Some(store),
            model: BTreeMap::new(),
            ids: BTreeSet::new(),
            turns: BTreeMap::new(),
            tokens: BTreeMap::new(),
            leases: BTreeMap::new(),
            crashes: 0,
            cached_entries,
            max_pending,
        }
    }

    fn store(&self) -> &SessionStore {
        self.open.as_ref().unwrap()
    }

    fn now(&self) -> Timestamp {
        use cloakroom::time::Clock as _;
        self.home.clock.now()
    }

    fn step(&mut self, step: &Step) {
        use Step::*;
        let now = self.now();
        match *step {
            Resolve(k) => self.resolve(k, None),
            ResolveWith(k, minutes, guard) => self.resolve(k, Some((minutes, guard))),
            BeginTurn(k) => self.begin_turn(k),
            EndTurn(k, newest) => self.end_turn(k, newest),
            TryBeginTurn(k) => self.try_begin_turn(k),
            DiscardTurn(k) => self.discard_turn(k),
            DiscardTurns => {
                assert_eq!(self.store().discard_turns().unwrap().discarded, self.open_turns().len() as u64);
                self.turns.clear();
            }
            MarkResume(k) => self.mark_resume(k),
            ClearResume(k) => self.clear_resume(k),
            Prune { days, entries, guard, dry_run } => self.prune(days, entries, guard, dry_run),
            Crash(max_age) => self.crash(max_age),
            Touch(k) => self.change(
                k,
                |store, key| store.touch(key).unwrap().is_some(),
                |entry| {
                    entry.updated_at = entry.updated_at.max(now);
                },
            ),
            RecordUsage(k, n) => {
                let turn = Usage {
                    input_tokens: n,
                    total_tokens: u64::MAX / 3,
                    last_prompt_tokens: n,
                    estimated_cost_usd: 0.25,
                    ..Usage::ZERO
                };
                self.change(
                    k,
                    |store, key| store.record_usage(key, &turn).unwrap().is_some(),
                    |entry| {
                        entry.usage.input_tokens += n;
                        entry.usage.total_tokens = entry.usage.total_tokens.saturating_add(u64::MAX / 3);
                        entry.usage.last_prompt_tokens = n;
                        entry.usage.estimated_cost_usd += 0.25;
                    },
                );
            }
            Suspend(k) => {
                self.change(k, |store, key| store.suspend(key).unwrap().is_some(), |entry| entry.suspended = true);
            }
            Unsuspend(k) => {
                self.change(k, |store, key| store.unsuspend(key).unwrap().is_some(), |entry| entry.suspended = false);
            }
            Update(k, bytes) => {
                let name = "n".repeat(bytes);
                let change = |details: &mut Details| details.display_name = Some(name.clone());
                self.change(
                    k,
                    |store, key| store.update(key, change).unwrap().is_some(),
                    |entry| {
                        change(&mut entry.details);
                    },
                );
            }
            Keep(k) => self.change(k, |store, key| store.update(key, |_| {}).unwrap().is_some(), |_| {}),
            SetMetadata(k, bytes) => {
                let new = metadata(bytes);
                self.change(
                    k,
                    |store, key| store.set_metadata(key, &new).unwrap().is_some(),
                    |entry| {
                        entry.extras.insert(Extras::METADATA, &new.clone().into());
                    },
                );
            }
            SetExtra(k, name, bytes) => {
                let (name, value) = (extra(name), json!("e".repeat(bytes)));
                self.change(
                    k,
                    |store, key| store.set_extra(key, &name, &value).unwrap().is_some(),
                    |entry| entry.extras.insert(name.clone(), &value),
                );
            }
            RemoveExtra(k, name) => {
                let removed = self.store().remove_extra(&key(k), &extra(name)).unwrap().is_some();
                let entry = self.model.get_mut(&key(k));
                assert_eq!(removed, entry.is_some_and(|entry| entry.extras.remove(&extra(name))));
            }
            Reset(k) => self.renew(k, None),
            Switch(k, n) => self.renew(k, Some(SessionId::new(format!("shared-{n}")).unwrap())),
            Continue(k, n) => self.carry_on(k, SessionId::new(format!("shared-{n}")).unwrap()),
            Put(k, expected, back) => self.put(k, expected, back),
            Modify(k, change, touch) => self.modify(k, change, touch),
            ResolveAs(k, fresh, touch) => self.resolve_as(k, fresh, touch),
            Remove(k) => {
                let removed = self.store().remove(&key(k)).unwrap().is_some();
                assert_eq!(removed, self.model.remove(&key(k)).is_some());
            }
            Pin(k, pinned) => self.change(
                k,
                |store, key| if pinned { store.pin(key) } else { store.unpin(key) }.unwrap().is_some(),
                |entry| entry.pinned = pinned,
            ),
            HoldUntil(k, name, end) => self.hold_until(k, name, now.saturating_add(end)),
            Release(k, name) => self.release(k, name),
            Again(k, name, end, flush) => self.again(k, name, end, flush),
            Forget(k) => {
                let removed = self.store().forget(key(k).as_str()).unwrap().removed;
                assert_eq!(removed, u64::from(self.model.remove(&key(k)).is_some()));
            }
            RemoveIf(k, as_seen) => self.remove_if(k, as_seen),
            RemoveWhere(k, suspended, over) => self.remove_where(k, suspended, over),
            Rename(from, to) => self.rename(&key(from), &key(to)),
            Advance(by) => self.home.clock.advance(by),
            JumpBack(by) => self.home.clock.set_wall(now.saturating_sub(by)),
            Flush => self.store().flush().unwrap(),
            Wait(k) => {
                if let Some(receipt) = self.store().suspend(&key(k)).unwrap() {
                    self.model.get_mut(&key(k)).unwrap().suspended = true;
                    receipt.wait().unwrap();
                    assert!(receipt.is_durable().unwrap());
                }
            }
            Look(k) => self.look(k),
            Lists => self.lists(),
            Reopen => self.reopen(),
        }
        // Leases go with their entry, and turns with their session, though it should come back.
        self.leases.retain(|key, _| self.model.contains_key(key));
        let open: BTreeSet<_> = self.open_turns().into_iter().map(|(_, key, _)| key).collect();
        self.turns.retain(|key, _| open.contains(key));
    }

    fn is_held(&self, key: &SessionKey) -> bool {
        self.leases.get(key).is_some_and(|named| named.values().any(|end| *end > self.now()))
    }

    fn hold_until(&mut self, k: usize, name: u8, end: Timestamp) {
        let held = self.store().hold_until(&key(k), &name.to_string(), end).unwrap();
        assert_eq!(held.is_some(), self.model.contains_key(&key(k)));
        let is_past = end <= self.now();
        let named = self.leases.entry(key(k)).or_default();
        if is_past {
            named.remove(&name);
        } else {
            named.insert(name, end);
        }
    }

    fn again(&mut self, k: usize, name: u8, end: Duration, flush: bool) {
        self.step(&Step::Resolve(k));
        self.step(&Step::HoldUntil(k, name, end));
        let lease = self.store().hold(&key(k)).unwrap().unwrap();
        if flush {
            self.step(&Step::Flush);
        }
        self.step(&Step::Remove(k));
        self.step(&Step::Resolve(k));
        assert!(!lease.is_held());
        self.leases_are_listed();
    }

    fn leases_are_listed(&self) {
        let now = self.now();
        let named = self.leases.iter().flat_map(|(key, named)| named.iter().map(move |lease| (key.clone(), lease)));
        let expected: BTreeSet<_> =
            named.filter(|(_, (_, end))| **end > now).map(|(key, (name, end))| (key, name.to_string(), *end)).collect();
        let leases = self.store().leases().unwrap();
        assert!(leases.unreadable.is_empty());
        let found: BTreeSet<_> =
            leases.into_iter().map(|lease| (lease.key, lease.name.unwrap(), lease.end.unwrap())).collect();
        assert_eq!(found, expected);
    }

    fn release(&mut self, k: usize, name: u8) {
        let released = self.store().release(&key(k), &name.to_string()).unwrap().is_some();
        let now = self.now();
        match self.leases.get_mut(&key(k)).and_then(|named| named.remove(&name)) {
            Some(end) if end > now => assert!(released),
            Some(_) => {}
            None => assert!(!released),
        }
    }

    /// A verb that answers whether there is an entry, and what it makes of it.
    fn change(
        &mut self,
        k: usize,
        verb: impl FnOnce(&SessionStore, &SessionKey) -> bool,
        expected: impl FnOnce(&mut Entry),
    ) {
        let found = verb(self.store(), &key(k));
        assert_eq!(found, self.model.contains_key(&key(k)));
        if let Some(entry) = self.model.get_mut(&key(k)) {
            expected(entry);
        }
    }

    fn resolve(&mut self, k: usize, policy: Option<(u64, Guard)>) {
        let now = self.now();
        let found = match policy {
            None => self.store().resolve(&source(k)),
            Some((minutes, guard)) => {
                let policies = ResetPolicies::from(ResetPolicy::idle(minutes));
                self.store().resolve_with(&source(k), &policies, |_: &SessionKey| guard.verdict())
            }
        }
        .unwrap();
        let reason = self.model.get(&key(k)).and_then(|old| {
            let idle = |minutes: u64| minutes > 0 && now.since(old.updated_at) > MINUTE * minutes as u32;
            let is_free = !old.resume_pending && !old.pinned && !self.is_held(&key(k));
            let over = |(minutes, guard)| idle(minutes) && guard == Guard::Idle && is_free;
            match old.suspended {
                true => Some(ReplaceReason::Suspended),
                false => policy.filter(|policy| over(*policy)).map(|_| ReplaceReason::Idle),
            }
        });
        let id = found.entry.session_id.clone();
        let fresh = Entry {
            session_id: id.clone(),
            created_at: now,
            updated_at: now,
            suspended: false,
            pinned: false,
            resume_pending: false,
            usage: Usage::ZERO,
            details: Details::from_source(source(k)),
            extras: Extras::default(),
        };
        let (expected, resolution) = match (self.model.get(&key(k)), reason) {
            (None, _) => (fresh, Resolution::Created),
            (Some(old), Some(reason)) => {
                let had_activity = old.usage != Usage::ZERO;
                let details = Details {
                    was_auto_reset: true,
                    auto_reset_reason: Some(reason.as_str().into()),
                    reset_had_activity: had_activity,
                    prev_session_id: Some(old.session_id.clone()),
                    ..fresh.details
                };
                let previous = old.session_id.clone();
                let resolution = Resolution::Replaced { reason, previous, had_activity };
                (Entry { details, pinned: old.pinned, updated_at: now.max(old.updated_at), ..fresh }, resolution)
            }
            (Some(old), None) => (Entry { updated_at: now.max(old.updated_at), ..old.clone() }, Resolution::Existing),
        };
        assert_eq!(found.resolution, resolution);
        if resolution != Resolution::Existing {
            assert!(self.ids.insert(id), "a fresh id");
        }
        assert_eq!(Entry::from_store(&found.entry, &expected.extras), expected);
        self.model.insert(key(k), expected);
    }

    fn begin_turn(&mut self, k: usize) {
        let begun = self.store().begin_turn(&key(k)).unwrap();
        assert_eq!(begun.is_some(), self.model.contains_key(&key(k)));
        if let Some(begun) = begun {
            self.begun(k, begun.token);
        }
    }

    fn begun(&mut self, k: usize, token: TurnToken) {
        let now = self.now();
        let entry = self.model.get_mut(&key(k)).unwrap();
        entry.updated_at = entry.updated_at.max(now);
        self.turns.insert(key(k), (token, now, entry.session_id.clone()));
        let tokens = self.tokens.entry(key(k)).or_default();
        assert!(tokens.iter().all(|older| *older < token));
        tokens.insert(0, token);
    }

    fn try_begin_turn(&mut self, k: usize) {
        let open = self.open_turns().into_iter().find(|(_, open, _)| *open == key(k));
        match (self.store().try_begin_turn(&key(k)).unwrap(), open) {
            (TurnStart::Begun(BegunTurn { token, .. }), None) => self.begun(k, token),
            (TurnStart::Open(turn), Some((started_at, _, token))) => {
                assert_eq!((turn.started_at, turn.token), (started_at, token));
            }
            (TurnStart::Missing, None) => assert!(!self.model.contains_key(&key(k))),
            other => panic!("{other:?}"),
        }
    }

    fn discard_turn(&mut self, k: usize) {
        let is_open = self.open_turns().iter().any(|(_, open, _)| *open == key(k));
        match self.store().discard_turn(&key(k)).unwrap() {
            TurnEnd::Ended(_) => assert!(is_open),
            TurnEnd::NotCurrent => assert!(!is_open && self.model.contains_key(&key(k))),
            TurnEnd::Missing => assert!(!self.model.contains_key(&key(k))),
            other => panic!("{other:?}"),
        }
        self.turns.remove(&key(k));
    }

    fn end_turn(&mut self, k: usize, newest: bool) {
        let tokens = self.tokens.get(&key(k)).map_or(&[][..], Vec::as_slice);
        let Some(token) = tokens.get(usize::from(!newest)).copied() else { return };
        let answer = self.store().end_turn(&key(k), token).unwrap();
        let is_open = self.open_turns().iter().any(|(_, _, open)| *open == token);
        match answer {
            TurnEnd::Ended(_) => assert!(self.model.contains_key(&key(k))),
            TurnEnd::NotCurrent => assert!(!is_open),
            TurnEnd::Missing => assert!(!self.model.contains_key(&key(k))),
            other => panic!("{other:?}"),
        }
        if is_open {
            assert!(matches!(answer, TurnEnd::Ended(_)));
        }
        if self.turns.get(&key(k)).is_some_and(|(open, ..)| *open == token) {
            self.turns.remove(&key(k));
        }
    }

    /// The turns whose session is still there, the oldest first.
    fn open_turns(&self) -> Vec<(Timestamp, SessionKey, TurnToken)> {
        let is_open =
            |key: &SessionKey, id: &SessionId| self.model.get(key).is_some_and(|entry| entry.session_id == *id);
        let open = self.turns.iter().filter(|(key, (_, _, id))| is_open(key, id));
        let mut open: Vec<_> = open.map(|(key, (token, at, _))| (*at, key.clone(), *token)).collect();
        open.sort_by_key(|(at, _, token)| (*at, *token));
        open
    }

    fn mark_resume(&mut self, k: usize) {
        let now = self.now();
        let answer = self.store().mark_resume_pending(&key(k), "restart").unwrap();
        match (answer, self.model.get_mut(&key(k))) {
            (ResumeMark::Marked(_), Some(entry)) if !entry.suspended => {
                entry.resume_pending = true;
                entry.details.resume_reason = Some("restart".into());
                entry.details.last_resume_marked_at = Some(now);
            }
            (ResumeMark::Suspended, Some(entry)) if entry.suspended => {}
            (ResumeMark::Missing, None) => {}
            other => panic!("{other:?}"),
        }
    }

    fn clear_resume(&mut self, k: usize) {
        match (self.store().clear_resume_pending(&key(k)).unwrap(), self.model.get_mut(&key(k))) {
            (ResumeClear::Cleared(_), Some(entry)) if entry.resume_pending => {
                entry.resume_pending = false;
                entry.details.resume_reason = None;
                entry.details.last_resume_marked_at = None;
            }
            (ResumeClear::NotPending, Some(entry)) if !entry.resume_pending => {}
            (ResumeClear::Missing, None) => {}
            other => panic!("{other:?}"),
        }
    }

    fn prune(&mut self, days: u64, entries: u64, guard: Guard, dry_run: bool) {
        let now = self.now();
        // Every other key has a guard that says something.
        let guarded: Vec<_> = (0..KEYS).step_by(2).map(key).collect();
        let policy = PrunePolicy::max_age_days(days as i64).max_entries(entries);
        let verdict = |asked: &SessionKey| if guarded.contains(asked) { guard.verdict() } else { Verdict::Idle };
        let report = match dry_run {
            true => self.store().prune_dry_run(&policy, verdict),
            false => self.store().prune(&policy, verdict),
        }
        .unwrap();
        let may_go = |key: &SessionKey, entry: &Entry| {
            let is_free = !entry.suspended && !entry.pinned && !self.is_held(key);
            is_free && (guard == Guard::Idle || !guarded.contains(key))
        };
        let too_old = |entry: &Entry| days > 0 && now.since(entry.updated_at) > Duration::from_secs(days * 86_400);
        let mut left = self.model.clone();
        left.retain(|key, entry| !(too_old(entry) && may_go(key, entry)));
        let by_age = self.model.len() - left.len();
        if entries == 0 {
            let old = || self.model.iter().filter(|(_, entry)| too_old(entry) && !entry.suspended);
            let pinned = old().filter(|(_, entry)| entry.pinned).count();
            let held = old().filter(|(key, entry)| !entry.pinned && self.is_held(key)).count();
            assert_eq!((report.kept_pinned, report.kept_held), (pinned as u64, held as u64), "{report:?}");
        }
        // Then the oldest; of one microsecond any may go, so the store's choice is looked at below.
        let mut rest: Vec<_> =
            left.iter().filter(|(key, entry)| may_go(key, entry)).map(|(key, e)| (e.updated_at, key.clone())).collect();
        rest.sort();
        let over = if entries > 0 { left.len().saturating_sub(entries as usize) } else { 0 };
        let by_count = over.min(rest.len());
        assert_eq!(report.removed, (by_age + by_count) as u64, "{report:?}");
        assert_eq!(report.removed_over_entries, by_count as u64);
        assert_eq!(report.entries_over_cap, (over - by_count) as u64);
        assert_eq!((report.touched_meanwhile, report.stopped, report.dry_run), (0, false, dry_run));
        if dry_run {
            return;
        }
        let youngest_gone = by_count.checked_sub(1).map(|last| rest[last].0);
        let gone: Vec<_> = left.keys().filter(|key| !self.store().contains(key).unwrap()).cloned().collect();
        assert_eq!(gone.len(), by_count);
        for key in gone {
            let entry = left.remove(&key).unwrap();
            assert!(may_go(&key, &entry) && Some(entry.updated_at) <= youngest_gone, "the oldest go");
        }
        self.model = left;
        // What has ended is forgotten, also by a pass that prunes nothing. If the clock goes back a little, it does not hold again.
        for named in self.leases.values_mut() {
            named.values_mut().filter(|end| **end <= now).for_each(|end| *end = Timestamp::MIN);
        }
    }

    /// Goes on with a copy of the files: what a crash leaves right after a sync.
    fn crash(&mut self, max_age: Duration) {
        let now = self.now();
        // Rows of leases that have ended go some time later, and would come back.
        for (key, named) in &mut self.leases {
            let store = self.open.as_ref().unwrap();
            named.retain(|name, end| {
                let has_ended = *end <= now;
                if has_ended {
                    let _ = store.release(key, &name.to_string()).unwrap();
                }
                !has_ended
            });
        }
        self.store().flush().unwrap();
        self.crashes += 1;
        let copied = self.home.path().with_file_name(format!("crash-{}", self.crashes));
        copy(self.store().path(), &copied);
        self.options = options(&copied)
            .clock(self.home.clock.clone())
            .cached_entries(self.cached_entries)
            .max_pending(self.max_pending);
        self.open = Some(SessionStore::open(self.options.clone()).unwrap());
        assert!(!self.store().open_report().clean);
        let found: Vec<_> = self.store().turns().unwrap().into_iter().map(|turn| turn.key).collect();
        let of_each: Vec<_> = (0..KEYS).filter_map(|k| self.store().turn(&key(k)).unwrap()).collect();
        assert!(of_each.len() == found.len() && of_each.iter().all(|turn| turn.interrupted));
        let expected = self.open_turns();
        assert_eq!(found, expected.iter().map(|(_, key, _)| key.clone()).collect::<Vec<_>>());
        let recovery = self.store().recover_interrupted_turns(max_age).unwrap();
        let (mut resumable, mut already_pending) = (Vec::new(), Vec::new());
        for (started_at, key, _) in expected {
            let entry = self.model.get_mut(&key).unwrap();
            if entry.suspended || now.since(started_at) > max_age {
                continue;
            }
            if entry.resume_pending {
                already_pending.push(key);
                continue;
            }
            entry.resume_pending = true;
            entry.details.resume_reason = Some("interrupted_turn".into());
            entry.details.last_resume_marked_at = Some(now);
            resumable.push(key);
        }
        resumable.sort();
        already_pending.sort();
        assert_eq!((recovery.resumable, recovery.already_pending), (resumable, already_pending));
        self.turns.clear();
        assert_eq!(self.store().turns().unwrap().items, []);
        assert_sound(self.store());
        self.lists();
    }

    fn renew(&mut self, k: usize, to: Option<SessionId>) {
        let answer = match &to {
            Some(id) => match self.store().repoint(&key(k), id.clone(), &Repoint::new()).unwrap() {
                Repointed::Switched(written) => Some(written),
                Repointed::Missing => None,
                Repointed::Same(found) => {
                    let known = &self.model[&key(k)];
                    assert_eq!(found.session_id, *id);
                    return assert_eq!(
                        Entry::from_store(&found, &Extras::default()),
                        Entry { extras: Extras::default(), ..known.clone() }
                    );
                }
                other => panic!("{other:?}"),
            },
            None => self.store().reset(&key(k)).unwrap(),
        };
        assert_eq!(answer.is_some(), self.model.contains_key(&key(k)));
        let Some(Written { entry: found, .. }) = answer else { return };
        let is_new = self.ids.insert(found.session_id.clone());
        assert!(is_new || to.is_some());
        assert!(to.as_ref().is_none_or(|id| *id == found.session_id));
        let expected = self.model[&key(k)].renewed(&found.session_id, self.now(), to.is_none());
        assert_eq!(Entry::from_store(&found, &Extras::default()), expected);
        // The extras are gone; only details that do not fit are kept there.
        let name = found.details.display_name.as_ref().map_or(0, String::len);
        assert!(found.extras_bytes == 0 || name > 3000);
        self.model.insert(key(k), expected);
    }

    fn remove_if(&mut self, k: usize, as_seen: bool) {
        let Some(mut seen) = self.store().get(&key(k)).unwrap() else {
            assert!(!self.model.contains_key(&key(k)));
            return;
        };
        if !as_seen {
            seen.updated_at = seen.updated_at.saturating_sub(MINUTE);
        }
        match self.store().remove_if(&key(k), &seen).unwrap() {
            Removal::Removed(_) if as_seen => assert!(self.model.remove(&key(k)).is_some()),
            Removal::Changed if !as_seen => assert!(self.model.contains_key(&key(k))),
            other => panic!("{other:?}"),
        }
        assert!(matches!(self.store().remove_if(&key(KEYS), &seen).unwrap(), Removal::Missing));
    }

    /// What an entry is that begins now, with nothing known of it.
    fn blank(&self, id: &SessionId) -> Entry {
        let now = self.now();
        Entry {
            session_id: id.clone(),
            created_at: now,
            updated_at: now,
            suspended: false,
            pinned: false,
            resume_pending: false,
            usage: Usage::ZERO,
            details: Details::default(),
            extras: Extras::default(),
        }
    }

    fn carry_on(&mut self, k: usize, id: SessionId) {
        let how = Repoint::new().keep_usage(true).keep(KeepExtras::All).touch(Touch::No);
        let answer = self.store().repoint(&key(k), id.clone(), &how).unwrap();
        let Some(entry) = self.model.get_mut(&key(k)) else { return assert!(matches!(answer, Repointed::Missing)) };
        let previous = std::mem::replace(&mut entry.session_id, id.clone());
        if previous == id {
            return assert!(matches!(answer, Repointed::Same(_)));
        }
        entry.details.prev_session_id = Some(previous);
        let Repointed::Switched(Written { entry: found, .. }) = answer else { panic!("{answer:?}") };
        assert_eq!(found.session_id, id);
    }

    fn put(&mut self, k: usize, expected: Expected, back: Duration) {
        let seen = self.store().get(&key(k)).unwrap();
        let revision = seen.as_ref().map(|seen| seen.revision);
        let (expect, is_met) = match (expected, revision) {
            (Expected::Any, _) => (Expect::Any, true),
            (Expected::Absent, there) => (Expect::Absent, there.is_none()),
            (Expected::Seen, Some(revision)) => (Expect::Revision(revision), true),
            (Expected::Seen | Expected::Wrong, _) => (Expect::Revision(Revision::NONE), false),
        };
        let at = self.now().saturating_sub(back);
        let id = SessionId::new(format!("put-{}", self.ids.len())).unwrap();
        let mut new = SessionEntry::new(key(k), id.clone(), at);
        new.suspended = back == MINUTE;
        new.pinned = back == 2 * MINUTE;
        new.usage.total_tokens = 5;
        let mut extras = Extras::default();
        extras.insert(Extras::METADATA, &metadata(7).into());
        match self.store().put(&new, &extras, expect).unwrap() {
            Put::Unexpected(found) => {
                assert!(!is_met);
                assert_eq!(found, seen);
                return;
            }
            Put::Created(written) => assert_eq!((seen, written.entry.updated_at), (None, at)),
            Put::Replaced(written) => assert_ne!(written.entry.revision, revision.unwrap()),
            other => panic!("{other:?}"),
        }
        assert!(is_met);
        self.ids.insert(id.clone());
        let times = Entry { created_at: at, updated_at: at, ..self.blank(&id) };
        let entry = Entry { suspended: new.suspended, pinned: new.pinned, usage: new.usage, extras, ..times };
        self.model.insert(key(k), entry);
    }

    fn modify(&mut self, k: usize, change: Change, touch: bool) {
        let mut runs = 0;
        let how = if touch { Touch::Yes } else { Touch::No };
        let answer = self.store().modify(&key(k), how, |draft| {
            runs += 1;
            match change {
                Change::Counters(n) => draft.entry.usage.input_tokens = n,
                Change::Name(bytes) => draft.entry.details.display_name = Some("n".repeat(bytes)),
                Change::SetMetadata(bytes) => draft.set_extra(Extras::METADATA, &metadata(bytes).into()),
                Change::RemoveMetadata => draft.remove_extra(Extras::METADATA),
                Change::Pin(pinned) => draft.entry.pinned = pinned,
                Change::Id(n) => draft.entry.session_id = SessionId::new(format!("shared-{n}")).unwrap(),
                Change::Nothing => {}
                Change::Keep => return Edit::Keep,
                Change::Remove => return Edit::Remove,
            }
            Edit::Write
        });
        assert_eq!(runs, 1, "nobody else changes it");
        let before = self.model.get(&key(k)).cloned();
        let written = match answer.unwrap() {
            Modified::Removed(_) => {
                assert_eq!((change, self.model.remove(&key(k)).is_some()), (Change::Remove, true));
                return;
            }
            Modified::Kept(found) => {
                let same = before.as_ref().map(|before| before.session_id.clone());
                assert_eq!(found.map(|found| found.session_id), same);
                return self.look(k);
            }
            Modified::Created(written) => {
                assert!(before.is_none());
                written
            }
            Modified::Changed(written) => {
                assert!(before.is_some());
                written
            }
            other => panic!("{other:?}"),
        };
        assert!(!matches!(change, Change::Keep | Change::Remove));
        let mut entry = before.unwrap_or_else(|| self.blank(&written.entry.session_id));
        match change {
            Change::Counters(n) => entry.usage.input_tokens = n,
            Change::Name(bytes) => entry.details.display_name = Some("n".repeat(bytes)),
            Change::SetMetadata(bytes) => entry.extras.insert(Extras::METADATA, &metadata(bytes).into()),
            Change::RemoveMetadata => drop(entry.extras.remove(Extras::METADATA)),
            Change::Pin(pinned) => entry.pinned = pinned,
            Change::Id(n) => entry.session_id = SessionId::new(format!("shared-{n}")).unwrap(),
            Change::Nothing | Change::Keep | Change::Remove => {}
        }
        if touch {
            entry.updated_at = entry.updated_at.max(self.now());
        }
        self.ids.insert(entry.session_id.clone());
        self.model.insert(key(k), entry);
        self.look(k);
    }

    fn resolve_as(&mut self, k: usize, fresh: bool, touch: bool) {
        let id = SessionId::new(format!("own-{}", self.ids.len())).unwrap();
        let make = |_| id.clone();
        let touched = if touch { Touch::Yes } else { Touch::No };
        let how = Resolve::new().id_with(&make).fresh(fresh).touch(touched).keep(KeepExtras::All);
        let found = self.store().resolve_as(&key(k), &how).unwrap();
        let now = self.now();
        let expected = match self.model.get(&key(k)) {
            None => self.blank(&id),
            Some(old) if old.suspended || fresh => {
                let mut new = Entry { extras: old.extras.clone(), ..old.renewed(&id, now, !old.suspended) };
                if old.suspended {
                    new.details.was_auto_reset = true;
                    new.details.auto_reset_reason = Some("suspended".into());
                }
                new
            }
            Some(old) if touch => Entry { updated_at: now.max(old.updated_at), ..old.clone() },
            Some(old) => old.clone(),
        };
        self.ids.insert(found.entry.session_id.clone());
        assert_eq!(found.entry.updated_at, expected.updated_at);
        self.model.insert(key(k), expected);
        self.look(k);
    }

    fn remove_where(&mut self, k: Option<usize>, suspended: Option<bool>, over: u64) {
        let prefix = k.map_or_else(String::new, |k| key(k).as_str().to_owned());
        let matches = |key: &SessionKey, entry: &Entry| {
            key.as_str().starts_with(&prefix) && suspended.is_none_or(|suspended| entry.suspended == suspended)
        };
        let count = self.model.iter().filter(|(key, entry)| matches(key, entry)).count() as u64;
        let filter = Filter { key_prefix: k.map(|_| prefix.clone()), suspended, ..Filter::default() };
        match self.store().remove_where(&filter, count + over).unwrap() {
            BulkRemoval::Removed(report) => assert_eq!((report.removed, report.changed, over), (count, 0, 0)),
            BulkRemoval::CountDiffers { found, .. } => assert_eq!((found, over), (count, 1)),
            other => panic!("{other:?}"),
        }
        self.model.retain(|key, entry| over > 0 || !matches(key, entry));
    }

    fn rename(&mut self, from: &SessionKey, to: &SessionKey) {
        let renamed = self.store().rename(from.as_str(), to.as_str());
        if from == to {
            assert!(matches!(renamed, Err(Error::OverlappingPrefixes)));
            return;
        }
        let report = renamed.unwrap();
        let (is_there, is_taken) = (self.model.contains_key(from), self.model.contains_key(to));
        assert_eq!(report.moved, u64::from(is_there && !is_taken));
        assert_eq!(report.colliding, Vec::from_iter((is_there && is_taken).then(|| to.clone())));
        if report.moved == 0 {
            return;
        }
        let entry = self.model.remove(from).unwrap();
        self.model.insert(to.clone(), entry);
        self.turns.remove(to);
        if let Some(turn) = self.turns.remove(from) {
            self.turns.insert(to.clone(), turn);
        }
        self.leases.remove(to);
        if let Some(named) = self.leases.remove(from) {
            self.leases.insert(to.clone(), named);
        }
        let tokens = self.tokens.remove(from).unwrap_or_default();
        self.tokens.insert(to.clone(), tokens);
    }

    /// One key, in all ways.
    fn look(&self, k: usize) {
        let expected = self.model.get(&key(k));
        let found = self.store().get_with_extras(&key(k)).unwrap();
        assert_eq!(found.as_ref().map(|(entry, extras)| Entry::from_store(entry, extras)).as_ref(), expected);
        assert_eq!(self.store().get(&key(k)).unwrap(), found.map(|(entry, _)| entry));
        for name in (0..NAMES).map(extra) {
            let text = expected.and_then(|entry| entry.extras.text(&name));
            assert_eq!(self.store().extra(&key(k), &name).unwrap().as_deref(), text);
        }
        assert_eq!(self.store().contains(&key(k)).unwrap(), expected.is_some());
        assert_eq!(self.store().len(), self.model.len() as u64);
        assert_eq!(self.store().is_empty(), self.model.is_empty());
    }

    /// The keys that a filter leaves, newest first.
    fn listed(&self, accepts: impl Fn(&SessionKey, &Entry) -> bool) -> Vec<SessionKey> {
        let mut rows: Vec<_> = self.model.iter().filter(|(key, entry)| accepts(key, entry)).collect();
        rows.sort_by(|(a_key, a), (b_key, b)| b.updated_at.cmp(&a.updated_at).then(a_key.cmp(b_key)));
        rows.into_iter().map(|(key, _)| key.clone()).collect()
    }

    /// Checks that the keys stand newest first, and puts those of one microsecond in key order, as [`Self::listed`] does.
    fn in_order(&self, mut keys: Vec<SessionKey>) -> Vec<SessionKey> {
        let time = |key: &SessionKey| std::cmp::Reverse(self.model[key].updated_at);
        assert!(keys.is_sorted_by_key(time), "newest first");
        keys.sort_by_key(|key| (time(key), key.clone()));
        keys
    }

    fn lists(&self) {
        for k in 0..=KEYS {
            self.look(k);
        }
        for id in &self.ids {
            let found: Vec<_> =
                self.store().find_by_session_id(id).unwrap().into_iter().map(|entry| entry.key).collect();
            let expected: Vec<_> =
                self.model.iter().filter(|(_, entry)| entry.session_id == *id).map(|(key, _)| key.clone()).collect();
            assert_eq!(found, expected, "{id}");
        }
        for prefix in [String::new(), "agent:main:discord:".to_owned(), key(1).as_str().to_owned(), "z".to_owned()] {
            let expected: Vec<_> = self.model.keys().filter(|key| key.as_str().starts_with(&prefix)).cloned().collect();
            let mut found: Vec<_> = self.store().keys(&prefix).unwrap().map(Result::unwrap).collect();
            assert_eq!(found, expected);
            assert_eq!(self.store().count_prefix(&prefix).unwrap(), expected.len() as u64);
            found.reverse();
            assert_eq!(self.store().keys(&prefix).unwrap().rev().map(Result::unwrap).collect::<Vec<_>>(), found);
        }
        self.leases_are_listed();
        let turns: Vec<_> =
            self.store().turns().unwrap().into_iter().map(|turn| (turn.started_at, turn.key, turn.token)).collect();
        assert_eq!(turns, self.open_turns());
        let all = self.listed(|_, _| true);
        for limit in [1, 2, 100] {
            let (mut found, mut cursor) = (Vec::new(), None);
            loop {
                let page = self.store().recent(limit, cursor.as_ref()).unwrap();
                assert!(page.entries.len() <= limit);
                for row in page.entries {
                    let expected = &self.model[&row.key];
                    assert_eq!((row.updated_at, row.suspended), (expected.updated_at, expected.suspended));
                    assert_eq!((row.usage, row.resume_pending), (expected.usage, expected.resume_pending));
                    found.push(row.key);
                }
                match page.next {
                    Some(next) => cursor = Some(next),
                    None => break,
                }
            }
            assert_eq!(self.in_order(found), all, "pages of {limit}");
        }

        let iter = |filter: Filter| -> Vec<SessionKey> {
            self.in_order(self.store().iter(filter).unwrap().map(|row| row.unwrap().key).collect())
        };
        // At, just before and just after each entry's time, and elsewhere.
        let near = |time: Timestamp| [-1, 0, 1].map(|by| Timestamp::from_micros(time.as_micros() + by));
        let times =
            self.model.values().flat_map(|entry| near(entry.updated_at)).chain([Timestamp::MIN, Timestamp::MAX]);
        for time in times {
            let idle = self.in_order(self.store().idle_since(time).unwrap().map(|row| row.unwrap().key).collect());
            assert_eq!(idle, self.listed(|_, entry| entry.updated_at < time), "idle since {time}");
            let active = iter(Filter { active_since: Some(time), ..Filter::default() });
            assert_eq!(active, self.listed(|_, entry| entry.updated_at >= time), "active since {time}");
            let both =
                Filter { active_since: Some(time), idle_since: Some(time.saturating_add(MINUTE)), ..Filter::default() };
            let until = time.saturating_add(MINUTE);
            assert_eq!(iter(both), self.listed(|_, entry| entry.updated_at >= time && entry.updated_at < until));
        }
        for suspended in [true, false] {
            let found = iter(Filter { suspended: Some(suspended), ..Filter::default() });
            assert_eq!(found, self.listed(|_, entry| entry.suspended == suspended));
        }
        for k in 0..=KEYS {
            let prefix = key(k).as_str().to_owned();
            let found = iter(Filter { key_prefix: Some(prefix.clone()), ..Filter::default() });
            assert_eq!(found, self.listed(|key, _| key.as_str().starts_with(&prefix)));
            let user = format!("u{k}");
            let found = iter(Filter { user_id: Some(user.clone()), ..Filter::default() });
            assert_eq!(
                found,
                self.listed(|_, entry| entry
                    .details
                    .origin
                    .as_ref()
                    .is_some_and(|o| o.user_id.as_ref() == Some(&user)))
            );
        }
        let discord = self.listed(|_, entry| entry.details.platform.as_deref() == Some("discord"));
        assert_eq!(iter(Filter { platform: Some("discord".into()), ..Filter::default() }), discord);
        assert_eq!(iter(Filter { chat_type: Some("dm".into()), ..Filter::default() }), []);

        let stats = self.store().stats().unwrap();
        let times = || self.model.values().map(|entry| entry.updated_at);
        assert_eq!((stats.entries, stats.oldest, stats.newest), (all.len() as u64, times().min(), times().max()));
        assert!(stats.bytes_on_disk > 0);
    }

    fn reopen(&mut self) {
        self.store().close().unwrap();
        // Dropped first, so that the directory is free.
        self.open = None;
        self.open = Some(SessionStore::open(self.options.clone()).unwrap());
        let report = self.store().open_report();
        assert!(
            report.clean && !report.created && report.repairs.is_empty() && report.shortfall.is_none(),
            "{report:?}"
        );
        assert_sound(self.store());
        assert_eq!(self.store().verify().unwrap().orphaned_turns, 0);
        // A clean close discards its turns.
        self.turns.clear();
        self.lists();
    }
}

fn settings() -> ProptestConfig {
    let cases = std::env::var("CLOAKROOM_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(64);
    ProptestConfig { cases, failure_persistence: None, max_shrink_iters: 400, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(settings())]

    #[test]
    fn the_store_is_a_map(
        steps in vec(any_step(), 1..60),
        cached_entries in prop_oneof![Just(0_usize), Just(1), Just(1000)],
        max_pending in prop_oneof![Just(2_usize), Just(5), Just(100_000)],
    ) {
        let mut run = Run::new(cached_entries, max_pending);
        for step in &steps {
            run.step(step);
        }
        run.lists();
        run.reopen();
    }
}
