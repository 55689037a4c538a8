//! Clocks that go back and forth, by seconds and by years, that stand still, and that say what no clock should.
//!
//! Random walks of the clock and of what is done meanwhile, against a map. A time within a day of the clock never goes
//! back; one that lies further ahead is set to now, or stays while most do. A prune takes exactly what is older than its
//! cutoff and not protected, or nothing while the clock is doubted, and the indexes agree at every opening.
//! `CLOAKROOM_CLOCK_WALKS` sets how many walks (50). The rules one by one follow.

use std::collections::BTreeMap;
use std::time::Duration;

use cloakroom::change::{ReplaceReason, Repoint, Resolution};
use cloakroom::prune::{NoActivity, PruneReport};
use cloakroom::reset::{ResetPolicies, ResetPolicy};
use cloakroom::time::{Clock, ManualClock};
use cloakroom::watcher::WatcherConfig;
use cloakroom::{PrunePolicy, SessionId, SessionKey, SessionStore, Timestamp, Usage, Watcher};

use crate::battery::Battery;
use crate::common::{Home, NOW, assert_sound, key, source};
use crate::rig::file_model::Dice;

const SECOND: i64 = 1_000_000;
const DAY: i64 = 86_400 * SECOND;
const YEAR: i64 = 365 * DAY;
const KEYS: usize = 6;
const STEPS: usize = 60;

/// What is known of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Known {
    updated_at: Timestamp,
    suspended: bool,
}

struct Walk {
    home: Home,
    store: SessionStore,
    known: BTreeMap<usize, Known>,
    /// Monotonic time of the opening.
    opened: Duration,
    /// Half of the entries or more lay ahead at some moment since the opening, so the clock may be doubted.
    may_doubt: bool,
}

impl Walk {
    fn new() -> Self {
        let home = Home::new();
        let store = home.open();
        Self { home, store, known: BTreeMap::new(), opened: Duration::ZERO, may_doubt: false }
    }

    fn is_ahead(&self, known: &Known) -> bool {
        known.updated_at > self.home.clock.now().saturating_add(Duration::from_micros(DAY as u64))
    }

    /// Call it after each step: of the clock, or of the entries.
    fn note_doubt(&mut self) {
        let ahead = self.known.values().filter(|known| self.is_ahead(known)).count();
        self.may_doubt |= ahead > 0 && 2 * ahead >= self.known.len();
    }

    /// What a change at `now` may have made of a time, and did.
    fn changed(&self, n: usize, found: Timestamp, is_touch: bool) {
        let now = self.home.clock.now();
        let Some(before) = self.known.get(&n) else { return assert_eq!(found, now, "{n}") };
        if !self.is_ahead(before) {
            let expected = if is_touch { before.updated_at.max(now) } else { before.updated_at };
            assert_eq!(found, expected, "{n} at {now}");
        } else if !(self.may_doubt && found == before.updated_at) {
            assert_eq!(found, now, "{n} was {}", before.updated_at);
        }
    }

    fn jump(&mut self, to: Timestamp) {
        self.home.clock.set_wall(to);
        self.note_doubt();
    }

    fn resolve(&mut self, n: usize) {
        let found = self.store.resolve(&source(n)).unwrap().entry;
        if !self.known.get(&n).is_some_and(|known| known.suspended) {
            self.changed(n, found.updated_at, true);
        }
        self.known.insert(n, Known { updated_at: found.updated_at, suspended: false });
        self.note_doubt();
    }

    /// Changes an entry, if there is one.
    fn change(&mut self, n: usize, is_touch: bool, verb: impl FnOnce(&SessionStore, &SessionKey) -> bool) {
        let is_there = verb(&self.store, &key(n));
        assert_eq!(is_there, self.known.contains_key(&n), "{n}");
        if !is_there {
            return;
        }
        let entry = self.store.get(&key(n)).unwrap().unwrap();
        self.changed(n, entry.updated_at, is_touch);
        self.known.insert(n, Known { updated_at: entry.updated_at, suspended: entry.suspended });
        self.note_doubt();
    }

    fn touch(&mut self, n: usize) {
        self.change(n, true, |store, key| store.touch(key).unwrap().is_some());
    }

    fn suspend(&mut self, n: usize, suspended: bool) {
        let verb = if suspended { SessionStore::suspend } else { SessionStore::unsuspend };
        self.change(n, false, |store, key| verb(store, key).unwrap().is_some());
        assert!(self.known.get(&n).is_none_or(|known| known.suspended == suspended));
    }

    fn prune(&mut self, days: i64) {
        let policy = PrunePolicy::max_age_days(days);
        let cutoff = policy.cutoff(self.home.clock.now());
        let foretold = self.store.prune_dry_run(&policy, NoActivity).unwrap();
        let report = self.store.prune(&policy, NoActivity).unwrap();
        assert_eq!((foretold.removed, foretold.clock_doubted), (report.removed, report.clock_doubted));
        assert!(!report.clock_doubted || self.may_doubt, "{report:?}");
        let before = self.known.len();
        // An entry that lies ahead counts as used at the opening, or later.
        let ran = self.home.clock.monotonic() - self.opened;
        let has_run_for_long = policy.max_age.is_some_and(|age| ran > age);
        let kept = self.known.clone().into_iter().filter(|(n, known)| {
            let is_there = self.store.contains(&key(*n)).unwrap();
            let has_expired = cutoff.is_some_and(|cutoff| known.updated_at < cutoff);
            if self.is_ahead(known) {
                assert!(is_there || has_run_for_long && !known.suspended && !report.clock_doubted, "{n}");
            } else {
                assert_eq!(is_there, known.suspended || !has_expired || report.clock_doubted, "{n} {report:?}");
            }
            is_there
        });
        self.known = kept.collect();
        assert_eq!(report.removed, (before - self.known.len()) as u64, "{days} days, {report:?}");
        self.note_doubt();
    }

    fn look(&self, n: usize) {
        let found = self.store.get(&key(n)).unwrap();
        let found = found.map(|entry| Known { updated_at: entry.updated_at, suspended: entry.suspended });
        assert_eq!(found.as_ref(), self.known.get(&n), "{n}");
    }

    fn look_at_all(&self) {
        (0..KEYS).for_each(|n| self.look(n));
        assert_eq!(self.store.len(), self.known.len() as u64);
        let stats = self.store.stats().unwrap();
        let times = || self.known.values().map(|known| known.updated_at);
        assert_eq!((stats.oldest, stats.newest), (times().min(), times().max()));
        assert_sound(&self.store);
    }

    fn reopen(self) -> Self {
        self.store.close().unwrap();
        let Self { home, store, known, .. } = self;
        drop(store);
        let store = home.open();
        let (report, opened) = (store.open_report().clone(), home.clock.monotonic());
        let mut walk = Self { home, store, known, opened, may_doubt: false };
        walk.note_doubt();
        assert_eq!(report.shortfall, None);
        assert!(!report.clock_doubted || walk.may_doubt);
        let ahead = walk.known.values().filter(|known| walk.is_ahead(known)).count();
        assert_eq!(report.times_ahead, ahead.min(walk.known.len().div_ceil(2)) as u64);
        assert_eq!(walk.store.verify().unwrap().times_ahead, ahead as u64);
        walk
    }
}

/// Where a clock may jump to.
fn jump(dice: &mut Dice, now: Timestamp) -> Timestamp {
    let by = [1, 59 * SECOND, 61 * SECOND, 3600 * SECOND, DAY, 100 * DAY, YEAR, 100 * YEAR][dice.roll(8)];
    let by = by * (1 + dice.roll(3) as i64);
    match dice.roll(12) {
        0 => Timestamp::MIN,
        1 => Timestamp::MAX,
        2 => Timestamp::from_micros(i64::MIN),
        3 => Timestamp::from_micros(i64::MAX),
        4 => NOW,
        5..8 => Timestamp::from_micros(now.as_micros() - by),
        _ => Timestamp::from_micros(now.as_micros().saturating_add(by)),
    }
}

#[test]
fn walks() {
    Battery::new("clock_walks", 50).run(|_, mut dice| {
        let mut walk = Walk::new();
        // Half of the walks stay where clocks should.
        let is_wild = dice.roll(2) == 0;
        for _ in 0..STEPS {
            let n = dice.roll(KEYS);
            match dice.roll(16) {
                0..3 => {
                    let to = jump(&mut dice, walk.home.clock.now());
                    let from_now = to.as_micros().abs_diff(NOW.as_micros());
                    walk.jump(if is_wild || from_now < 3 * YEAR as u64 { to } else { NOW });
                }
                3 => {
                    walk.home.clock.advance(Duration::from_secs(dice.roll(200 * 86_400) as u64));
                    walk.note_doubt();
                }
                4..8 => walk.resolve(n),
                8..11 => walk.touch(n),
                11 => walk.suspend(n, true),
                12 => walk.suspend(n, false),
                13 => walk.prune([1, 30, 90, 36_500, i64::MAX, 0][dice.roll(6)]),
                14 if dice.roll(4) == 0 => {
                    walk = walk.reopen();
                    walk.look_at_all();
                }
                _ => walk.look(n),
            }
        }
        walk.look_at_all();
        walk.reopen().look_at_all();
    });
}

#[test]
fn a_clock_that_stands_still() {
    let mut walk = Walk::new();
    for n in 0..KEYS {
        walk.resolve(n);
        (0..10).for_each(|_| walk.touch(n));
    }
    walk.prune(1);
    assert_eq!(walk.known.len(), KEYS);
    walk.reopen().look_at_all();
}

/// From each extreme to each, and back to the present.
#[test]
fn from_one_end_of_time_to_the_other() {
    let ends = [Timestamp::MIN, Timestamp::from_micros(1), NOW, Timestamp::from_micros(-YEAR), Timestamp::MAX];
    for from in ends {
        for to in ends {
            let mut walk = Walk::new();
            walk.jump(from);
            walk.resolve(0);
            walk.jump(to);
            walk.touch(0);
            walk.resolve(1);
            walk.look_at_all();
            walk.jump(NOW);
            walk.resolve(2);
            walk.prune(90);
            walk.prune(i64::MAX);
            walk.reopen().look_at_all();
        }
    }
}

/// The clock is wrong for one pass of the watcher, by each of these, and right at the next. However small the store is.
#[test]
fn a_watcher_prunes_nothing_while_the_clock_is_wrong() {
    for (wrong, entries) in [NOW.saturating_add(200 * A_DAY), Timestamp::MAX, Timestamp::MIN]
        .into_iter()
        .flat_map(|wrong| [1, 8, 38, 99, 100, 150].map(|entries| (wrong, entries)))
    {
        let mut walk = Walk::new();
        (0..entries).for_each(|n| walk.resolve(n));
        walk.store.flush().unwrap();
        walk.jump(wrong);
        let config = WatcherConfig { policy: PrunePolicy::max_age_days(90), interval: HOUR };
        let watcher = Watcher::spawn(&walk.store, config, NoActivity).unwrap();
        for passes in 1..4 {
            while watcher.status().passes < passes || walk.home.clock.timers() == 0 {
                std::thread::yield_now();
            }
            // Set right, and wrong again.
            walk.jump(if passes % 2 == 1 { NOW } else { wrong });
            walk.home.clock.advance(HOUR);
        }
        watcher.stop();
        assert_eq!(walk.store.len(), entries as u64, "{wrong}");
        assert_sound(&walk.store);
    }
}

const HOUR: Duration = Duration::from_secs(3600);
const A_DAY: Duration = Duration::from_secs(24 * 3600);

/// A store of `entries`, of which the first `ahead` were touched while the clock was 400 days ahead, and reopened since
/// if `reopened`.
fn with_times_ahead(entries: usize, ahead: usize, reopened: bool) -> (Home, SessionStore) {
    let home = Home::new();
    let mut store = home.open();
    for n in 0..entries {
        store.resolve(&source(n)).unwrap();
    }
    home.clock.set_wall(NOW.saturating_add(400 * A_DAY));
    for n in 0..ahead {
        store.touch(&key(n)).unwrap().unwrap();
    }
    home.clock.set_wall(NOW.saturating_add(HOUR));
    if reopened {
        store = reopen(&home, store);
    }
    (home, store)
}

fn reopen(home: &Home, store: SessionStore) -> SessionStore {
    store.close().unwrap();
    drop(store);
    home.open()
}

fn updated_at(store: &SessionStore, n: usize) -> Timestamp {
    store.get(&key(n)).unwrap().unwrap().updated_at
}

fn prune(store: &SessionStore, days: i64) -> PruneReport {
    store.prune(&PrunePolicy::max_age_days(days), NoActivity).unwrap()
}

type Verb = fn(&SessionStore, &SessionKey);

/// Every verb that changes an entry and lets it be.
const VERBS: [(&str, Verb); 13] = [
    ("touch", |store, key| drop(store.touch(key).unwrap().unwrap())),
    ("reset", |store, key| drop(store.reset(key).unwrap().unwrap())),
    ("repoint", |store, key| drop(store.repoint(key, SessionId::new("another").unwrap(), &Repoint::new()).unwrap())),
    ("suspend", |store, key| drop(store.suspend(key).unwrap().unwrap())),
    ("unsuspend", |store, key| drop(store.unsuspend(key).unwrap().unwrap())),
    ("record_usage", |store, key| drop(store.record_usage(key, &Usage::ZERO).unwrap().unwrap())),
    ("update", |store, key| drop(store.update(key, |details| details.expiry_finalized = true).unwrap().unwrap())),
    ("set_metadata", |store, key| drop(store.set_metadata(key, &serde_json::Map::new()).unwrap().unwrap())),
    ("begin_turn", |store, key| drop(store.begin_turn(key).unwrap().unwrap())),
    ("mark_resume_pending", |store, key| drop(store.mark_resume_pending(key, "test").unwrap())),
    ("clear_resume_pending", |store, key| drop(store.clear_resume_pending(key).unwrap())),
    ("resolve", |store, _| drop(store.resolve(&source(0)).unwrap())),
    ("resolve_with", |store, _| {
        let policies = ResetPolicies::from(ResetPolicy::idle(10));
        assert_eq!(store.resolve_with(&source(0), &policies, NoActivity).unwrap().resolution, Resolution::Existing);
    }),
];

#[test]
fn a_few_times_ahead_are_set_right_by_the_next_change() {
    for (name, verb) in VERBS {
        for reopened in [true, false] {
            let (home, store) = with_times_ahead(5, 2, reopened);
            let report = store.open_report();
            assert_eq!((report.times_ahead, report.clock_doubted), (if reopened { 2 } else { 0 }, false));
            assert_eq!(store.verify().unwrap().times_ahead, 2);
            verb(&store, &key(0));
            assert_eq!(updated_at(&store, 0), home.clock.now(), "{name}, reopened: {reopened}");
            assert_eq!(store.verify().unwrap().times_ahead, 1, "the other stays as it is");
            assert_sound(&store);
            let store = reopen(&home, store);
            assert_eq!(updated_at(&store, 0), home.clock.now(), "{name}");
        }
    }
}

#[test]
fn a_change_asks_the_clock_whatever_it_said_last() {
    let (home, store) = with_times_ahead(5, 2, false);
    let ahead = updated_at(&store, 0);
    let right = home.clock.now();
    // The clock is ahead for one look, and is set right.
    home.clock.set_wall(ahead);
    assert!(!store.prune_dry_run(&PrunePolicy::max_age_days(90), NoActivity).unwrap().clock_doubted);
    home.clock.set_wall(right);
    store.suspend(&key(0)).unwrap().unwrap();
    assert_eq!(updated_at(&store, 0), right);
    assert_sound(&store);
}

#[test]
fn a_time_ahead_counts_as_used_when_it_was_found() {
    let (home, store) = with_times_ahead(5, 2, true);
    home.clock.advance(90 * A_DAY);
    for n in 2..5 {
        store.touch(&key(n)).unwrap().unwrap();
    }
    assert_eq!(prune(&store, 90).removed, 0, "idle for exactly as long as the store is open");
    home.clock.advance(Duration::from_micros(1));
    store.suspend(&key(1)).unwrap().unwrap();
    let report = store.prune(&PrunePolicy::max_age_days(90), |_: &SessionKey| true).unwrap();
    assert_eq!((report.kept_active, report.oldest_protected), (1, Some(90 * A_DAY + Duration::from_micros(1))));
    let report = prune(&store, 90);
    assert_eq!((report.removed, store.contains(&key(0)).unwrap()), (1, false), "{report:?}");
    assert_sound(&store);

    // One that was touched in the middle, while the clock was ahead for a moment, is not as old as the opening.
    let (home, store) = with_times_ahead(5, 0, false);
    home.clock.advance(100 * A_DAY);
    for n in 0..5 {
        store.touch(&key(n)).unwrap().unwrap();
    }
    let right = home.clock.now();
    home.clock.set_wall(right.saturating_add(400 * A_DAY));
    store.touch(&key(0)).unwrap().unwrap();
    home.clock.set_wall(right);
    assert_eq!(prune(&store, 90).removed, 0);
    home.clock.advance(91 * A_DAY);
    assert_eq!((prune(&store, 90).removed, store.len()), (5, 0));
}

#[test]
fn a_policy_ends_a_session_whose_time_lies_ahead() {
    let (home, store) = with_times_ahead(5, 2, true);
    let policies = ResetPolicies::from(ResetPolicy::idle(10));
    home.clock.advance(Duration::from_secs(10 * 60 + 1));
    let found = store.resolve_with(&source(0), &policies, NoActivity).unwrap();
    assert!(matches!(found.resolution, Resolution::Replaced { reason: ReplaceReason::Idle, .. }), "{found:?}");
    assert_eq!(found.entry.updated_at, home.clock.now());
}

#[test]
fn where_most_times_lie_ahead_the_clock_is_wrong_and_nothing_ages_or_is_set_right() {
    for (entries, ahead) in [(1, 1), (2, 1), (5, 3), (6, 3), (300, 300)] {
        let (home, store) = with_times_ahead(entries, ahead, true);
        let report = store.open_report();
        assert!(report.clock_doubted, "{ahead} of {entries}");
        assert_eq!(report.times_ahead, entries.div_ceil(2) as u64);
        home.clock.advance(23 * HOUR);
        let policies = ResetPolicies::from(ResetPolicy::both(1, 4, cloakroom::TimeZone::UTC).unwrap());
        for n in [0, entries - 1] {
            let before = updated_at(&store, n);
            let found = store.resolve_with(&source(n), &policies, NoActivity).unwrap();
            assert_eq!(found.resolution, Resolution::Existing);
            store.suspend(&key(n)).unwrap().unwrap();
            store.unsuspend(&key(n)).unwrap().unwrap();
            assert_eq!(updated_at(&store, n), before.max(home.clock.now()));
        }
        for policy in [PrunePolicy::max_age_days(1), PrunePolicy::max_age_days(0).max_entries(1)] {
            let report = store.prune(&policy, NoActivity).unwrap();
            assert_eq!((report.removed, report.clock_doubted), (0, true));
        }
        // After a day without a jump it is right.
        home.clock.advance(HOUR);
        store.touch(&key(0)).unwrap().unwrap();
        assert_eq!(updated_at(&store, 0), home.clock.now());
        assert!(!prune(&store, 1).clock_doubted);
    }
}

#[test]
fn once_the_clock_is_trusted_every_time_ahead_is_wrong_and_ages() {
    let (home, store) = with_times_ahead(10, 10, true);
    home.clock.advance(25 * HOUR);
    assert_eq!(prune(&store, 90).removed, 0);
    home.clock.advance(91 * A_DAY);
    assert_eq!(prune(&store, 90).removed, 10);
}

#[test]
fn a_clock_that_fell_behind_takes_nothing_and_is_right_again_when_it_is_set() {
    for reopened in [true, false] {
        let home = Home::new();
        let mut store = home.open();
        (0..10).for_each(|n| drop(store.resolve(&source(n)).unwrap()));
        home.clock.set_wall(NOW.saturating_sub(400 * A_DAY));
        if reopened {
            store = reopen(&home, store);
        }
        for n in 0..10 {
            store.touch(&key(n)).unwrap().unwrap();
            store.reset(&key(n)).unwrap().unwrap();
            assert_eq!(updated_at(&store, n), NOW, "reopened: {reopened}");
        }
        assert!(prune(&store, 90).clock_doubted);
        home.clock.advance(23 * HOUR);
        // A jump, and the day begins anew.
        home.clock.set_wall(NOW.saturating_sub(300 * A_DAY));
        assert!(prune(&store, 90).clock_doubted);
        home.clock.advance(23 * HOUR);
        assert!(prune(&store, 90).clock_doubted);
        assert_eq!(updated_at(&store, 0), NOW);
        home.clock.set_wall(NOW.saturating_add(2 * A_DAY));
        assert!(!prune(&store, 90).clock_doubted);
        store.touch(&key(0)).unwrap().unwrap();
        assert_eq!(updated_at(&store, 0), home.clock.now());
    }
}

#[test]
fn the_day_of_a_doubt_goes_on_over_restarts() {
    // Of the process.
    let (home, mut store) = with_times_ahead(5, 5, true);
    for doubted in [true, true, true, false] {
        assert_eq!(store.open_report().clock_doubted, doubted);
        home.clock.advance(8 * HOUR);
        store = reopen(&home, store);
    }
    store.touch(&key(0)).unwrap().unwrap();
    assert_eq!(updated_at(&store, 0), home.clock.now());
    // Of the machine, where only the time of day tells.
    let (home, mut store) = with_times_ahead(5, 5, true);
    for (hours, doubted) in [(5, true), (5, true), (-12, true), (23, true), (1, false)] {
        home.clock.reboot();
        home.clock.set_wall(Timestamp::from_micros(home.clock.now().as_micros() + hours * 3600 * SECOND));
        store = reopen(&home, store);
        assert_eq!(store.open_report().clock_doubted, doubted, "{hours}");
    }
    // One that ended leaves nothing that shortens the next.
    (0..5).for_each(|n| drop(store.touch(&key(n)).unwrap().unwrap()));
    let mut store = reopen(&home, store);
    assert!(!store.open_report().clock_doubted);
    let right = home.clock.now();
    home.clock.set_wall(right.saturating_sub(10 * A_DAY));
    home.clock.reboot();
    store = reopen(&home, store);
    assert!(store.open_report().clock_doubted);
}

#[test]
fn a_right_clock_is_not_doubted_after_a_quiet_year_or_on_an_old_copy() {
    let home = Home::new();
    let store = home.open();
    (0..10).for_each(|n| drop(store.resolve(&source(n)).unwrap()));
    home.clock.advance(365 * A_DAY);
    home.clock.reboot();
    let store = reopen(&home, store);
    assert_eq!((store.open_report().clock_doubted, store.open_report().times_ahead), (false, 0));
    let policies = ResetPolicies::from(ResetPolicy::idle(10));
    let found = store.resolve_with(&source(0), &policies, NoActivity).unwrap();
    assert!(matches!(found.resolution, Resolution::Replaced { .. }));
    assert_eq!(prune(&store, 90).removed, 9);
    // On a machine that knows nothing of the clock before.
    let later = ManualClock::new(home.clock.now().saturating_add(365 * A_DAY));
    store.close().unwrap();
    drop(store);
    let store = SessionStore::open(home.options().clock(later)).unwrap();
    assert!(!store.open_report().clock_doubted);
    assert_eq!(prune(&store, 90).removed, 1);
}

#[test]
fn no_session_ends_by_a_policy_for_an_hour_after_a_jump() {
    let home = Home::new();
    let store = home.open();
    (0..3).for_each(|n| drop(store.resolve(&source(n)).unwrap()));
    let policies = ResetPolicies::from(ResetPolicy::both(10, 4, cloakroom::TimeZone::UTC).unwrap());
    let resolve = |n| store.resolve_with(&source(n), &policies, NoActivity).unwrap().resolution;
    home.clock.set_wall(NOW.saturating_add(A_DAY));
    assert_eq!(resolve(0), Resolution::Existing, "an hour to put it right");
    home.clock.advance(Duration::from_secs(59 * 60));
    assert_eq!(resolve(1), Resolution::Existing);
    home.clock.advance(Duration::from_secs(60));
    assert!(matches!(resolve(2), Resolution::Replaced { .. }));
    // A time server that moves it by less is no jump.
    home.clock.advance(HOUR);
    home.clock.set_wall(home.clock.now().saturating_add(Duration::from_secs(59)));
    assert!(matches!(resolve(2), Resolution::Replaced { .. }));
}
