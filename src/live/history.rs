//! How much was done in the last quarter of an hour: what plots are drawn from.

use std::collections::VecDeque;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::meter::figures::{Counts, Figures};

/// The time between two looks.
pub(super) const EVERY: Duration = Duration::from_secs(10);
/// How many there are: a quarter of an hour, and the one before it.
const LOOKS: usize = 91;

struct Look {
    at: Instant,
    touches: u64,
    commits: Counts,
    entries: u64,
}

/// The looks of the last quarter of an hour.
#[derive(Default)]
pub(super) struct History {
    looks: VecDeque<Look>,
}

/// What was done between two looks.
#[derive(Debug, Serialize)]
pub(super) struct Step {
    /// How long ago it ended.
    seconds_ago: f64,
    seconds: f64,
    touches_per_second: f64,
    commits_per_second: f64,
    /// `None` where there was no commit.
    commit_p50_seconds: Option<f64>,
    commit_p99_seconds: Option<f64>,
    entries: u64,
}

impl Look {
    fn at(figures: &Figures, entries: u64) -> Self {
        let (touches, commits) = (figures.touches.load(Relaxed), figures.commits.read());
        Self { at: Instant::now(), touches, commits, entries }
    }

    fn since(&self, before: &Self, now: Instant) -> Step {
        let seconds = self.at.duration_since(before.at).as_secs_f64().max(1e-6);
        let commits = self.commits.since(&before.commits);
        Step {
            seconds_ago: now.duration_since(self.at).as_secs_f64(),
            seconds,
            touches_per_second: self.touches.saturating_sub(before.touches) as f64 / seconds,
            commits_per_second: commits.total() as f64 / seconds,
            commit_p50_seconds: commits.quantile(0.5).map(|micros| micros / 1e6),
            commit_p99_seconds: commits.quantile(0.99).map(|micros| micros / 1e6),
            entries: self.entries,
        }
    }
}

impl History {
    pub(super) fn is_due(&self) -> bool {
        self.looks.back().is_none_or(|last| last.at.elapsed() >= EVERY)
    }

    pub(super) fn sample(&mut self, figures: &Figures, entries: u64) {
        self.looks.push_back(Look::at(figures, entries));
        if self.looks.len() > LOOKS {
            self.looks.pop_front();
        }
    }

    /// What was done in each step, the oldest first, up to now.
    pub(super) fn steps(&self, figures: &Figures, entries: u64) -> Vec<Step> {
        let now = Look::at(figures, entries);
        let looks: Vec<&Look> = self.looks.iter().chain([&now]).collect();
        looks.windows(2).filter_map(|pair| Some(pair.get(1)?.since(pair.first()?, now.at))).collect()
    }

    /// What was done in all of it.
    pub(super) fn whole(&self, figures: &Figures, entries: u64) -> Option<Step> {
        let now = Look::at(figures, entries);
        Some(now.since(self.looks.front()?, now.at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meter::Meter;

    #[test]
    fn it_keeps_a_quarter_of_an_hour_and_shows_what_was_done_in_it() {
        let meter = Meter::new("db".as_ref());
        let mut history = History::default();
        for n in 0..200 {
            history.sample(&meter.figures, n);
        }
        assert_eq!(history.looks.len(), LOOKS);
        meter.touched();
        for _ in 0..99 {
            meter.committed(Duration::from_micros(200), 1, 1, 0, 0);
        }
        meter.committed(Duration::from_millis(40), 1, 1, 0, 0);
        let whole = history.whole(&meter.figures, 7).unwrap();
        let within = |value: Option<f64>, low, high| assert!(value.is_some_and(|v| v > low && v <= high), "{value:?}");
        within(whole.commit_p50_seconds, 100e-6, 250e-6);
        within(whole.commit_p99_seconds, 100e-6, 50e-3);
        assert!(whole.touches_per_second > 0.0 && whole.entries == 7);
        let steps = history.steps(&meter.figures, 7);
        assert_eq!(steps.len(), LOOKS);
        assert_eq!(steps.iter().filter(|step| step.commits_per_second > 0.0).count(), 1);
    }
}
