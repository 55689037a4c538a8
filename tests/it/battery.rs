//! The case numbers of a long battery, which may be run in parts.
//!
//! `Battery::new("damage", 500).run(|case, dice| …)` counts from 0 to 500, or to what `CLOAKROOM_DAMAGE` says. A case
//! takes all its randomness from its dice, so the same number and seed are the same case.
//!
//! With `CLOAKROOM_STATE` set to a directory (`target/batteries`), the seed and the number reached are kept there in a
//! file, and the next run goes on behind the last case that passed. The seed of such a series is random.
//! `CLOAKROOM_SECONDS` ends a run early. Without these a run starts at 0 with a fixed seed and keeps nothing.

use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::suite::Dice;

/// How often the state is written. A run that is killed repeats so much.
const SAVE_INTERVAL: Duration = Duration::from_secs(1);
const SEED: u64 = 2026;

pub struct Battery {
    name: String,
    seed: u64,
    first: u64,
    /// The case to be given next; all before it have passed.
    next: u64,
    end: u64,
    file: Option<PathBuf>,
    saved: Instant,
    until: Option<Instant>,
}

impl Battery {
    /// `default_count` cases, unless the environment says how many there are in all.
    pub fn new(name: &str, default_count: u64) -> Self {
        let number = |variable: &str| -> Option<u64> {
            let text = std::env::var(variable).ok()?;
            Some(text.parse().unwrap_or_else(|_| panic!("{variable} is {text:?}: a number is expected")))
        };
        let count = number(&format!("CLOAKROOM_{}", name.to_uppercase())).unwrap_or(default_count);
        let directory = std::env::var_os("CLOAKROOM_STATE").map(PathBuf::from);
        let limit = number("CLOAKROOM_SECONDS").map(Duration::from_secs);
        Self::in_directory(name, count, directory.as_deref(), limit)
    }

    fn in_directory(name: &str, count: u64, directory: Option<&Path>, limit: Option<Duration>) -> Self {
        let file = directory.map(|directory| {
            fs::create_dir_all(directory).unwrap();
            directory.join(name)
        });
        let (seed, first) = match &file {
            None => (SEED, 0),
            Some(file) if !file.exists() => (RandomState::new().hash_one(name), 0),
            Some(file) => read(file),
        };
        let until = limit.map(|limit| Instant::now() + limit);
        println!("{name}: seed {seed}, cases {first} to {count}");
        Self { name: name.into(), seed, first, next: first, end: count, file, saved: Instant::now(), until }
    }

    #[allow(dead_code, reason = "not every binary asks")]
    /// Where the state is kept, if it is.
    pub fn directory(&self) -> Option<&Path> {
        self.file.as_deref().and_then(Path::parent)
    }

    fn save(&mut self) {
        let Some(file) = &self.file else { return };
        let new = file.with_extension("new");
        fs::write(&new, format!("seed {}\nreached {}\n", self.seed, self.next)).unwrap();
        fs::rename(&new, file).unwrap();
        self.saved = Instant::now();
    }

    /// Runs the cases that are left, or those there is time for. One fails by a panic, which ends the run.
    pub fn run(mut self, mut case: impl FnMut(u64, Dice)) {
        while self.next < self.end && self.until.is_none_or(|until| Instant::now() < until) {
            case(self.next, dice(self.seed, self.next));
            self.next += 1;
            if self.saved.elapsed() >= SAVE_INTERVAL {
                self.save();
            }
        }
    }
}

impl Drop for Battery {
    fn drop(&mut self) {
        self.save();
        let Self { name, seed, first, next, .. } = self;
        println!("{name}: seed {seed}, {} cases passed, {next} in all", *next - *first);
        if std::thread::panicking() {
            println!("{name}: case {next} failed");
        }
    }
}

/// The randomness of a case.
fn dice(seed: u64, case: u64) -> Dice {
    Dice(seed ^ case.wrapping_add(1).wrapping_mul(0xd1b5_4a32_d192_ed03))
}

fn read(file: &Path) -> (u64, u64) {
    let text = fs::read_to_string(file).unwrap();
    let number = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
    number("seed").zip(number("reached")).unwrap_or_else(|| panic!("{} does not read: delete it", file.display()))
}

#[test]
fn a_battery_goes_on_where_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let battery = |count| Battery::in_directory("some", count, Some(dir.path()), None);
    let mut seen = Vec::new();
    battery(3).run(|case, mut dice| seen.push((case, dice.roll(1 << 30))));
    let failed = std::panic::catch_unwind(|| battery(9).run(|case, _| assert_ne!(case, 5)));
    assert!(failed.is_err());
    // The one that failed is the first of the next run, with the same dice.
    let seed = battery(9).seed;
    battery(7).run(|case, mut dice| seen.push((case, dice.roll(1 << 30))));
    assert_eq!(seen.iter().map(|(case, _)| *case).collect::<Vec<_>>(), [0, 1, 2, 5, 6]);
    for (case, roll) in seen {
        assert_eq!(dice(seed, case).roll(1 << 30), roll);
    }
    battery(7).run(|case, _| panic!("{case} is done"));
}

#[test]
fn a_battery_without_a_state_starts_anew() {
    for _ in 0..2 {
        let mut cases = Vec::new();
        let battery = Battery::in_directory("some", 3, None, None);
        assert_eq!(battery.seed, SEED);
        battery.run(|case, _| cases.push(case));
        assert_eq!(cases, [0, 1, 2]);
    }
    Battery::in_directory("some", 3, None, Some(Duration::ZERO)).run(|case, _| panic!("{case} is too late"));
}
