//! Rows of the index by age, sorted when a reader asks: the writer only appends them.

use std::ops::Bound;

use crate::codec::ActivityRow;

/// Which end of the index by age comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AgeOrder {
    OldestFirst,
    NewestFirst,
}

/// Rows of the index by age, from one to another.
pub(in crate::storage) type AgeRange = (Bound<ActivityRow>, Bound<ActivityRow>);

/// Rows that a reader has sorted, in runs: a later one is less than half as long as that before it.
#[derive(Debug, Default)]
pub(super) struct Runs(Vec<Vec<ActivityRow>>);

impl Runs {
    pub(super) fn len(&self) -> usize {
        self.0.iter().map(Vec::len).sum()
    }

    pub(super) fn add(&mut self, mut run: Vec<ActivityRow>) {
        run.sort_unstable();
        run.dedup();
        while let Some(before) = self.0.pop_if(|before| before.len() <= 2 * run.len()) {
            run = [before, run].concat();
            // A merge: it finds the two runs.
            run.sort();
            run.dedup();
        }
        if !run.is_empty() {
            self.0.push(run);
        }
    }

    /// Keeps some of the rows, in one run.
    pub(super) fn retain(&mut self, keeps: impl FnMut(&ActivityRow) -> bool) {
        let all = std::mem::take(&mut self.0).concat();
        self.add(all.into_iter().filter(keeps).collect());
    }

    /// The rows of a range, from one of its ends.
    pub(super) fn iter(&self, range: &AgeRange, order: AgeOrder) -> impl Iterator<Item = ActivityRow> {
        let mut left: Vec<&[ActivityRow]> = self.0.iter().map(|run| part(run, range)).collect();
        std::iter::from_fn(move || {
            let ends = left.iter().enumerate();
            let (at, row) = match order {
                AgeOrder::OldestFirst => {
                    ends.filter_map(|(at, run)| Some((at, *run.first()?))).min_by_key(|(_, row)| *row)
                }
                AgeOrder::NewestFirst => {
                    ends.filter_map(|(at, run)| Some((at, *run.last()?))).max_by_key(|(_, row)| *row)
                }
            }?;
            let run = left.get_mut(at)?;
            let rest = match order {
                AgeOrder::OldestFirst => run.split_first().map(|(_, rest)| rest),
                AgeOrder::NewestFirst => run.split_last().map(|(_, rest)| rest),
            };
            *run = rest.unwrap_or_default();
            Some(row)
        })
    }
}

/// What lies in a range.
fn part<'a>(run: &'a [ActivityRow], (from, to): &AgeRange) -> &'a [ActivityRow] {
    let start = match from {
        Bound::Included(from) => run.partition_point(|row| row < from),
        Bound::Excluded(from) => run.partition_point(|row| row <= from),
        Bound::Unbounded => 0,
    };
    let end = match to {
        Bound::Included(to) => run.partition_point(|row| row <= to),
        Bound::Excluded(to) => run.partition_point(|row| row < to),
        Bound::Unbounded => run.len(),
    };
    run.get(start..end).unwrap_or_default()
}
