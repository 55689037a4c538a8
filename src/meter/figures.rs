//! Counters in memory, of a fixed size whether anybody reads them or not.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use super::Pruned;

/// The upper bounds of how long a commit takes, in microseconds.
pub(crate) const COMMIT_MICROS: [u64; 14] =
    [100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 5_000_000];
/// The upper bounds of how many entries a commit changes.
pub(crate) const COMMIT_CHANGES: [u64; 14] = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1_024, 4_096, 16_384, 65_536];

/// Values counted by the bound that they do not exceed.
#[derive(Debug)]
pub(crate) struct Histogram {
    bounds: &'static [u64; 14],
    /// One for each bound, and one for what is beyond.
    counts: [AtomicU64; 15],
    sum: AtomicU64,
}

/// A [`Histogram`] as it was at a moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Counts {
    pub(crate) bounds: &'static [u64; 14],
    pub(crate) counts: [u64; 15],
    pub(crate) sum: u64,
}

impl Histogram {
    const fn new(bounds: &'static [u64; 14]) -> Self {
        Self { bounds, counts: [const { AtomicU64::new(0) }; 15], sum: AtomicU64::new(0) }
    }

    fn record(&self, value: u64) {
        let place = self.bounds.partition_point(|bound| *bound < value);
        if let Some(count) = self.counts.get(place) {
            count.fetch_add(1, Relaxed);
        }
        self.sum.fetch_add(value, Relaxed);
    }

    pub(crate) fn read(&self) -> Counts {
        let counts = std::array::from_fn(|n| self.counts.get(n).map_or(0, |count| count.load(Relaxed)));
        Counts { bounds: self.bounds, counts, sum: self.sum.load(Relaxed) }
    }
}

impl Counts {
    pub(crate) fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// What has been counted since `before`.
    pub(crate) fn since(&self, before: &Self) -> Self {
        let mut counts = self.counts;
        for (now, then) in counts.iter_mut().zip(before.counts) {
            *now = now.saturating_sub(then);
        }
        Self { counts, sum: self.sum.saturating_sub(before.sum), ..*self }
    }

    /// The value that this share of all do not exceed, between two bounds in proportion. `None` if there are none.
    pub(crate) fn quantile(&self, share: f64) -> Option<f64> {
        let wanted = self.total() as f64 * share;
        let (mut below, mut from) = (0.0, 0.0);
        for (count, bound) in self.counts.iter().zip(self.bounds) {
            let (count, bound) = (*count as f64, *bound as f64);
            if count > 0.0 && below + count >= wanted {
                return Some(from + (bound - from) * (wanted - below).max(0.0) / count);
            }
            (below, from) = (below + count, bound);
        }
        (self.total() > 0).then_some(from)
    }
}

#[derive(Debug)]
pub(crate) struct Figures {
    began: Instant,
    pub(crate) touches: AtomicU64,
    /// In microseconds.
    pub(crate) commits: Histogram,
    pub(crate) changes: Histogram,
    /// Microseconds since `began`, and one; zero if nothing waits.
    unsynced_since: AtomicU64,
    pub(crate) passes: AtomicU64,
    /// By the reasons of `Pruned`.
    pub(crate) pruned: [AtomicU64; 3],
    pub(crate) kept: [AtomicU64; 7],
    pub(crate) guard_failures: AtomicU64,
    pub(crate) oldest_protected_seconds: AtomicU64,
    /// Microseconds since 1970; zero before the first pass.
    pub(crate) last_prune: AtomicU64,
    pub(crate) events_dropped: AtomicU64,
}

impl Figures {
    pub(super) fn new() -> Self {
        Self {
            began: Instant::now(),
            touches: AtomicU64::new(0),
            commits: Histogram::new(&COMMIT_MICROS),
            changes: Histogram::new(&COMMIT_CHANGES),
            unsynced_since: AtomicU64::new(0),
            passes: AtomicU64::new(0),
            pruned: Default::default(),
            kept: Default::default(),
            guard_failures: AtomicU64::new(0),
            oldest_protected_seconds: AtomicU64::new(0),
            last_prune: AtomicU64::new(0),
            events_dropped: AtomicU64::new(0),
        }
    }

    pub(super) fn touched(&self) {
        self.touches.fetch_add(1, Relaxed);
    }

    pub(super) fn committed(&self, took: Duration, changes: usize) {
        self.commits.record(micros(took));
        self.changes.record(changes as u64);
    }

    pub(super) fn waits_since(&self, since: Option<Instant>) {
        let since = since.map_or(0, |since| micros(since.saturating_duration_since(self.began)) + 1);
        self.unsynced_since.store(since, Relaxed);
    }

    /// How long the oldest change that is not durable has waited.
    pub(crate) fn durable_lag(&self) -> Duration {
        match self.unsynced_since.load(Relaxed) {
            0 => Duration::ZERO,
            since => self.began.elapsed().saturating_sub(Duration::from_micros(since - 1)),
        }
    }

    pub(super) fn pruned(&self, pass: &Pruned) {
        let Pruned { at, removed, kept, oldest_protected } = *pass;
        self.passes.fetch_add(1, Relaxed);
        for (count, removed) in self.pruned.iter().zip(removed) {
            count.fetch_add(removed, Relaxed);
        }
        for (count, kept) in self.kept.iter().zip(kept) {
            count.store(kept, Relaxed);
        }
        let [.., guard_failed, _, _] = kept;
        self.guard_failures.fetch_add(guard_failed, Relaxed);
        self.oldest_protected_seconds.store(oldest_protected.unwrap_or_default().as_secs(), Relaxed);
        self.last_prune.store(u64::try_from(at.as_micros()).unwrap_or(0), Relaxed);
    }

    pub(super) fn events_dropped(&self, count: u64) {
        self.events_dropped.fetch_add(count, Relaxed);
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
