//! Streams of touches that end at a deadline, keep a pace, and take the time.

use std::thread;
use std::time::{Duration, Instant};

/// Ends a stream at a deadline, and counts. Looks at the time every 64 touches, or each time where a touch is slow.
pub struct Until<I> {
    pub stream: I,
    pub end: Instant,
    pub every: u64,
    pub count: u64,
    pub last: Option<(usize, i64)>,
}

impl<I: Iterator<Item = (usize, i64)>> Iterator for Until<I> {
    type Item = (usize, i64);
    fn next(&mut self) -> Option<(usize, i64)> {
        if self.count.is_multiple_of(self.every) && Instant::now() >= self.end {
            return None;
        }
        self.count += 1;
        self.last = self.stream.next();
        self.last
    }
}

/// Notes how long the contender takes between two touches it asks for; waits for the pace, if there is one.
pub struct Clocked<'a, I> {
    stream: I,
    given: Option<Instant>,
    due: Instant,
    pace: Duration,
    note: &'a mut dyn FnMut(Instant, Duration),
}

impl<'a, I> Clocked<'a, I> {
    pub fn new(stream: I, pace: Duration, note: &'a mut dyn FnMut(Instant, Duration)) -> Self {
        Self { stream, given: None, due: Instant::now(), pace, note }
    }
}

impl<I: Iterator<Item = (usize, i64)>> Iterator for Clocked<'_, I> {
    type Item = (usize, i64);
    fn next(&mut self) -> Option<(usize, i64)> {
        let now = Instant::now();
        if let Some(given) = self.given {
            (self.note)(now, now - given);
        }
        let next = self.stream.next()?;
        if !self.pace.is_zero() {
            self.due += self.pace;
            // Sleeps, so that the other threads have a core, and spins for the rest. A stall is not made up for.
            self.due = self.due.max(now);
            while let Some(wait) = self.due.checked_duration_since(Instant::now()) {
                if wait > Duration::from_micros(200) {
                    thread::sleep(wait - Duration::from_micros(150));
                }
            }
        }
        self.given = Some(Instant::now());
        Some(next)
    }
}
