//! Clocks that go back and forth, by seconds and by years, that stand still, and that say what no clock should.
//!
//! Random walks of the clock and of what is done meanwhile, against a map. Activity never goes back, a prune takes
//! exactly what is older than its cutoff and not protected, and the indexes agree at every opening.
//! `CLOAKROOM_CLOCK_WALKS` sets how many walks (50).

use std::collections::BTreeMap;
use std::time::Duration;

use cloakroom::{Clock, NoActivity, PrunePolicy, SessionStore, Timestamp, Watcher, WatcherConfig};

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
}

impl Walk {
    fn new() -> Self {
        let home = Home::new();
        let store = home.open();
        Self { home, store, known: BTreeMap::new() }
    }

    fn jump(&self, to: Timestamp) {
        self.home.clock.set_wall(to);
    }

    fn resolve(&mut self, n: usize) {
        let now = self.home.clock.now();
        let found = self.store.resolve(&source(n)).unwrap().entry;
        let before = self.known.get(&n).map_or(Timestamp::MIN, |known| known.updated_at);
        let known = Known { updated_at: before.max(now), suspended: false };
        assert_eq!(found.updated_at, known.updated_at, "{n} at {now}");
        self.known.insert(n, known);
    }

    fn touch(&mut self, n: usize) {
        let now = self.home.clock.now();
        let touched = self.store.touch(&key(n)).unwrap().is_some();
        assert_eq!(touched, self.known.contains_key(&n), "{n}");
        if let Some(known) = self.known.get_mut(&n) {
            known.updated_at = known.updated_at.max(now);
        }
    }

    fn suspend(&mut self, n: usize, suspended: bool) {
        let verb = if suspended { SessionStore::suspend } else { SessionStore::unsuspend };
        verb(&self.store, &key(n)).unwrap();
        if let Some(known) = self.known.get_mut(&n) {
            known.suspended = suspended;
        }
    }

    fn prune(&mut self, days: i64) {
        let policy = PrunePolicy::max_age_days(days);
        let cutoff = policy.cutoff(self.home.clock.now());
        let expected = self.known.clone().into_iter();
        let kept =
            expected.filter(|(_, known)| known.suspended || cutoff.is_none_or(|cutoff| known.updated_at >= cutoff));
        let kept: BTreeMap<usize, Known> = kept.collect();
        let foretold = self.store.prune_dry_run(&policy, NoActivity).unwrap();
        let report = self.store.prune(&policy, NoActivity).unwrap();
        assert_eq!(report.removed, (self.known.len() - kept.len()) as u64, "{days} days, {report:?}");
        assert_eq!(foretold.removed, report.removed);
        self.known = kept;
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
        let Self { home, store, known } = self;
        drop(store);
        let store = home.open();
        assert_eq!(store.open_report().shortfall, None);
        Self { home, store, known }
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
                3 => walk.home.clock.advance(Duration::from_secs(dice.roll(200 * 86_400) as u64)),
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

/// The clock is wrong for one pass of the watcher, by each of these, and right at the next.
#[test]
fn a_watcher_prunes_nothing_while_the_clock_is_wrong() {
    for wrong in [NOW.saturating_add(Duration::from_secs(200 * 86_400)), Timestamp::MAX, Timestamp::MIN] {
        let mut walk = Walk::new();
        (0..150).for_each(|n| walk.resolve(n));
        walk.store.flush().unwrap();
        walk.jump(wrong);
        let interval = Duration::from_secs(3600);
        let config = WatcherConfig { policy: PrunePolicy::max_age_days(90), interval };
        let watcher = Watcher::spawn(&walk.store, config, NoActivity).unwrap();
        for passes in 1..4 {
            while watcher.status().passes < passes || walk.home.clock.timers() == 0 {
                std::thread::yield_now();
            }
            // Set right, and wrong again.
            walk.jump(if passes % 2 == 1 { NOW } else { wrong });
            walk.home.clock.advance(interval);
        }
        watcher.stop();
        assert_eq!(walk.store.len(), 150, "{wrong}");
        assert_sound(&walk.store);
    }
}
