//! A small fuzzer for a stable compiler: seeds, mutations, a time limit, and a file for each input that panics.
//!
//! It is not guided by coverage. Its mutations know what breaks readers of JSON instead: cut, doubled and swapped pieces,
//! changed bytes, and words from a dictionary.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// SplitMix64.
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % below.max(1) as u64) as usize
    }

    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.roll(of.len())]
    }

    /// Changes `bytes` in one to eight places.
    pub fn mutate(&mut self, bytes: &mut Vec<u8>, words: &[&[u8]]) {
        for _ in 0..=self.roll(8) {
            let at = self.roll(bytes.len() + 1);
            let length = match self.roll(3) {
                0 => 1,
                1 => self.roll(16),
                _ => self.roll(1024),
            };
            let end = (at + length).min(bytes.len());
            match self.roll(7) {
                0 => drop(bytes.drain(at..end)),
                1 => bytes.truncate(at),
                2 if at < bytes.len() => bytes[at] ^= 1 << self.roll(8),
                3 if at < bytes.len() => bytes[at] = self.roll(256) as u8,
                4 => {
                    let piece = bytes[at..end].to_vec();
                    let to = self.roll(bytes.len() + 1);
                    drop(bytes.splice(to..to, piece));
                }
                _ => {
                    let word = *self.pick(words);
                    // Over what is there, or between.
                    let end = if self.roll(2) == 0 { (at + word.len()).min(bytes.len()) } else { at };
                    drop(bytes.splice(at..end, word.iter().copied()));
                }
            }
        }
    }
}

/// Runs `case` on inputs that `next` makes, for the seconds in the first argument (60), from the seed in the second (1).
/// An input that makes it panic is written to `found-<name>-<number>` in the working directory. Ends with 1 if one did.
pub fn run(name: &str, mut next: impl FnMut(&mut Dice) -> Vec<u8>, mut case: impl FnMut(&[u8])) {
    let mut args = std::env::args().skip(1).map(|arg| arg.parse::<u64>().expect("SECONDS [SEED]"));
    let limit = Duration::from_secs(args.next().unwrap_or(60));
    let mut dice = Dice(args.next().unwrap_or(1));
    let started = Instant::now();
    let (mut runs, mut found) = (0_u64, 0_u64);
    while started.elapsed() < limit && found < 20 {
        let input = next(&mut dice);
        if catch_unwind(AssertUnwindSafe(|| case(&input))).is_err() {
            let path = PathBuf::from(format!("found-{name}-{found}"));
            std::fs::write(&path, &input).expect("the finding can be kept");
            println!("run {runs}: {}", path.display());
            found += 1;
        }
        runs += 1;
    }
    println!("{name}: {runs} runs in {:.0} s, {found} findings", started.elapsed().as_secs_f64());
    std::process::exit(i32::from(found > 0));
}
