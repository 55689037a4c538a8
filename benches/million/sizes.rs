//! What a touch costs by the number of entries. At every size a commit holds the same number of touches, and no key
//! twice, so none is saved by coalescing and none pays for more of the sync than another.

use std::time::{Duration, Instant};

use cloakroom::SessionKey;

use crate::rig::Rig;
use crate::support::stream::{MINUTE, Time, shuffled};

/// Touches of one commit: a store of 1,000 has no more keys.
const COMMIT: usize = 1_000;
const COMMITS: usize = 10;
const ROUNDS: usize = 11;

/// µs per touch: median, least and most of the rounds.
struct Cost([f64; 3]);

/// Touches all stores in turns, and prints the table.
pub fn compare(rigs: &mut [Rig]) {
    let mut walks: Vec<Walk> = rigs.iter().map(|rig| Walk { order: shuffled(rig.entries, 13), at: 0 }).collect();
    for rig in rigs.iter_mut() {
        // Takes every entry into the minute in which it is to stay.
        rig.next_minute();
        rig.touch_each(0..rig.entries, 1);
    }
    let stay = rounds(rigs, &mut walks, Time::Stay);
    let cross = rounds(rigs, &mut walks, Time::Cross);
    println!("\nus for a touch and its share of the commit; {COMMIT} touches to a commit, no key twice in it;");
    println!("medians of {ROUNDS} rounds of {} touches [least – most]\n", COMMIT * COMMITS);
    println!("{:>9} {:>24} {:>24}", "entries", "stays in its minute", "crosses into another");
    for ((rig, stay), cross) in rigs.iter().zip(&stay).zip(&cross) {
        println!("{:>9} {:>24} {:>24}", rig.entries, stay.text(), cross.text());
    }
    let ratio = |costs: &[Cost]| format!("{:.2} x", costs[costs.len() - 1].0[0] / costs[0].0[0]);
    println!("{:>9} {:>24} {:>24}", "ratio", ratio(&stay), ratio(&cross));
}

impl Cost {
    fn of(mut rounds: Vec<Duration>) -> Self {
        rounds.sort_unstable();
        let each = |took: Duration| took.as_secs_f64() * 1e6 / (COMMIT * COMMITS) as f64;
        Self([rounds[rounds.len() / 2], rounds[0], rounds[rounds.len() - 1]].map(each))
    }

    fn text(&self) -> String {
        let [median, least, most] = self.0;
        format!("{median:.2} [{least:.2} – {most:.2}]")
    }
}

/// All entries in a seeded order, again and again: a run no longer than the store holds no entry twice.
struct Walk {
    order: Vec<usize>,
    at: usize,
}

impl Walk {
    fn next(&mut self) -> usize {
        self.at = (self.at + 1) % self.order.len();
        self.order[self.at]
    }
}

fn rounds(rigs: &mut [Rig], walks: &mut [Walk], time: Time) -> Vec<Cost> {
    let mut times = vec![Vec::new(); rigs.len()];
    // The first round takes what is in the caches of one store and not of another.
    for round in 0..=ROUNDS {
        for ((rig, walk), times) in rigs.iter_mut().zip(walks.iter_mut()).zip(&mut times) {
            let took = self::round(rig, walk, time);
            if round > 0 {
                times.push(took);
            }
        }
    }
    times.into_iter().map(Cost::of).collect()
}

fn round(rig: &mut Rig, walk: &mut Walk, time: Time) -> Duration {
    let mut took = Duration::ZERO;
    for _ in 0..COMMITS {
        let entries: Vec<usize> = (0..COMMIT).map(|_| walk.next()).collect();
        let keys: Vec<SessionKey> = entries.iter().map(|entry| rig.key(*entry)).collect();
        let minute = rig.now / MINUTE;
        if time == Time::Cross {
            rig.next_minute();
        }
        let started = Instant::now();
        for key in &keys {
            rig.now += 1;
            rig.cloakroom.set_now(rig.now);
            rig.cloakroom.store.touch(key).unwrap().unwrap();
        }
        rig.cloakroom.store.flush().unwrap();
        took += started.elapsed();
        assert_eq!(rig.now / MINUTE, if time == Time::Cross { minute + 1 } else { minute });
        rig.assert_touched(entries[COMMIT - 1]);
    }
    took
}
