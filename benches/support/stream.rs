//! Seeded streams of entries to touch.

/// SplitMix64.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.next()) * bound as u128) >> 64) as usize
    }

    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// Ranks by Zipf's law with exponent 0.99, by the method of Gray et al. (as in YCSB).
#[derive(Debug, Clone)]
struct Zipf {
    n: f64,
    zeta: f64,
    eta: f64,
}

const THETA: f64 = 0.99;

impl Zipf {
    fn new(n: usize) -> Self {
        let zeta = (1..=n).map(|i| (i as f64).powf(-THETA)).sum::<f64>();
        let two = 1.0 + 2_f64.powf(-THETA);
        let n = n as f64;
        Self { n, zeta, eta: (1.0 - (2.0 / n).powf(1.0 - THETA)) / (1.0 - two / zeta) }
    }

    fn draw(&self, random: &mut Random) -> usize {
        let u = random.unit();
        let uz = u * self.zeta;
        if uz < 1.0 {
            return 0;
        }
        if uz < 1.0 + 2_f64.powf(-THETA) {
            return 1;
        }
        let rank = self.n * (self.eta * u - self.eta + 1.0).powf(1.0 / (1.0 - THETA));
        (rank as usize).min(self.n as usize - 1)
    }
}

/// Which entries are touched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// Each as often as any other.
    Uniform,
    /// Few very often, spread over the whole key space.
    Zipf,
    /// Servers, channels and users (100 of each at a million entries), each by Zipf's law; a channel is busy for ten
    /// messages on average.
    Discord,
}

impl Shape {
    pub fn name(self) -> &'static str {
        match self {
            Self::Uniform => "uniform",
            Self::Zipf => "zipf",
            Self::Discord => "discord",
        }
    }
}

/// Servers, channels per server and users per channel for a number of entries.
pub fn side(entries: usize) -> usize {
    (1..).find(|side| side * side * side >= entries).unwrap()
}

/// A fixed shuffle of the numbers below `entries`, and its inverse, without a table: four rounds of Feistel over the next
/// even power of two, again and again until the number is below `entries`.
fn shuffle(number: usize, entries: usize, rounds: [u64; 4], inverse: bool) -> usize {
    let half = (usize::BITS - entries.max(2).saturating_sub(1).leading_zeros()).div_ceil(2);
    let mask = (1_u64 << half) - 1;
    let mut number = number as u64;
    loop {
        let (mut left, mut right) = (number >> half, number & mask);
        for round in rounds {
            if inverse {
                (left, right) = (right ^ (Random::new(left ^ round).next() & mask), left);
            } else {
                (left, right) = (right, left ^ (Random::new(right ^ round).next() & mask));
            }
        }
        number = left << half | right;
        if number < entries as u64 {
            return number as usize;
        }
    }
}

const SHUFFLE: [u64; 4] = [0x1000_0000, 0x2000_0000, 0x3000_0000, 0x4000_0000];

/// Where an entry takes place: entries are numbered by age, places by server, channel and user, as their keys are. Neither
/// order says anything of the other, as in life.
pub fn place_of(entry: usize, entries: usize) -> usize {
    shuffle(entry, entries, SHUFFLE, false)
}

/// And back.
pub fn entry_at(place: usize, entries: usize) -> usize {
    let [first, second, third, fourth] = SHUFFLE;
    shuffle(place, entries, [fourth, third, second, first], true)
}

/// An endless stream of entries, the same for the same seed.
#[derive(Debug, Clone)]
pub struct Stream {
    shape: Shape,
    entries: usize,
    random: Random,
    zipf: Zipf,
    /// Of the Discord shape: the first place of the channel that is busy.
    channel: usize,
}

impl Stream {
    pub fn new(shape: Shape, entries: usize, seed: u64) -> Self {
        let ranks = if shape == Shape::Discord { side(entries) } else { entries };
        Self { shape, entries, random: Random::new(seed), zipf: Zipf::new(ranks.max(2)), channel: 0 }
    }
}

impl Iterator for Stream {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        Some(match self.shape {
            Shape::Uniform => self.random.below(self.entries),
            // A large prime scatters the ranks.
            Shape::Zipf => (self.zipf.draw(&mut self.random) * 2_147_483_647) % self.entries,
            Shape::Discord => loop {
                let side = side_of(&self.zipf);
                if self.random.below(10) == 0 {
                    let server = self.zipf.draw(&mut self.random);
                    let channel = self.zipf.draw(&mut self.random);
                    self.channel = (server * side + channel) * side;
                }
                let place = self.channel + self.zipf.draw(&mut self.random);
                if place < self.entries {
                    break entry_at(place, self.entries);
                }
            },
        })
    }
}

fn side_of(zipf: &Zipf) -> usize {
    zipf.n as usize
}

/// Every entry once, in a seeded order.
pub fn shuffled(entries: usize, seed: u64) -> Vec<usize> {
    let mut random = Random::new(seed);
    let mut order: Vec<usize> = (0..entries).collect();
    for i in (1..entries).rev() {
        order.swap(i, random.below(i + 1));
    }
    order
}

/// What time does between touches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Time {
    /// A microsecond passes: a key stays in its bucket.
    Stay,
    /// Every touch takes its key into another bucket. Uniform: all keys in shuffled order, then a minute passes.
    /// Others: a minute passes at each touch.
    Cross,
}

impl Time {
    pub fn name(self) -> &'static str {
        match self {
            Self::Stay => "stay",
            Self::Cross => "cross",
        }
    }
}

pub const MINUTE: i64 = 60_000_000;

/// Entries with the times at which they are touched. Ends never.
#[derive(Debug, Clone)]
pub struct Touches {
    stream: Stream,
    time: Time,
    now: i64,
    round: Vec<usize>,
    at: usize,
}

impl Touches {
    /// Begins at the minute after `after`.
    pub fn new(shape: Shape, time: Time, entries: usize, seed: u64, after: i64) -> Self {
        let in_rounds = shape == Shape::Uniform && time == Time::Cross;
        let round = if in_rounds { shuffled(entries, seed) } else { Vec::new() };
        let now = (after / MINUTE + 1) * MINUTE;
        Self { stream: Stream::new(shape, entries, seed), time, now, round, at: 0 }
    }

    /// The time of the touch before.
    pub fn now(&self) -> i64 {
        self.now
    }
}

impl Iterator for Touches {
    type Item = (usize, i64);

    fn next(&mut self) -> Option<(usize, i64)> {
        self.now += 1;
        if self.round.is_empty() {
            if self.time == Time::Cross {
                self.now += MINUTE;
            }
            return Some((self.stream.next()?, self.now));
        }
        if self.at == self.round.len() {
            self.at = 0;
            self.now = (self.now / MINUTE + 1) * MINUTE;
        }
        self.at += 1;
        Some((self.round[self.at - 1], self.now))
    }
}
