//! Caps: what goes beyond age, the oldest first, until there is little enough.

use std::iter::Peekable;
use std::time::Duration;

use super::{BATCH, Pass};
use crate::clock_check::is_ahead;
use crate::codec::{Activity, ActivityRow, Fingerprint};
use crate::error::Result;
use crate::events::PruneReason;
use crate::time::Timestamp;

/// In the order of the caps an entry whose time is wrong is so much older than it counts otherwise.
const WRONG_YIELDS: Duration = Duration::from_secs(24 * 60 * 60);

impl Pass<'_> {
    /// Removes the oldest entries while there is more than the caps allow. Those past the cutoff were decided on.
    pub(super) fn remove_excess(&mut self, go_on: &impl Fn() -> bool) -> Result<()> {
        // Bytes are brought down to the low-water mark, but only once they are above the cap.
        let high = self.policy.max_disk_bytes;
        self.is_too_large =
            high.zip(self.live_bytes).is_some_and(|(high, live)| live.saturating_sub(self.freed_bytes) > high);
        let mut after = self.report.cutoff.map(|cutoff| ActivityRow { entry: Fingerprint::FIRST, time: cutoff });
        let mut wrong = self.wrong_by_rank().into_iter().peekable();
        'pass: while self.over_cap().is_some() {
            let engine = self.store.commits().engine()?;
            let rows = engine.oldest_rows(after, None, BATCH, &mut self.report.unreadable)?;
            if !rows.is_empty() && !go_on() {
                self.report.stopped = true;
                break;
            }
            for row in &rows {
                // Those whose time is wrong have their place among the others.
                if !self.remove_wrong_excess(&mut wrong, row.time, go_on)? {
                    break 'pass;
                }
                let look = |this: &mut Self| {
                    let seen = this.report.unreadable.pass(this.look(*row))?.flatten();
                    // What lies ahead has its place elsewhere.
                    Ok(seen.filter(|seen| !is_ahead(seen.hot.updated_at, this.now.wall)))
                };
                self.remove_for_cap(look, row.entry)?;
            }
            after = rows.last().copied();
            if after.is_none() {
                self.remove_wrong_excess(&mut wrong, Timestamp::MAX, go_on)?;
                break;
            }
        }
        if self.is_too_large {
            self.report.bytes_over_cap = self.bytes_over();
        }
        Ok(())
    }

    /// The same of those whose time is wrong and whose place is before `until`. Answers whether the pass may go on.
    fn remove_wrong_excess(
        &mut self,
        wrong: &mut Peekable<impl Iterator<Item = (Timestamp, Fingerprint)>>,
        until: Timestamp,
        go_on: &impl Fn() -> bool,
    ) -> Result<bool> {
        let mut looks = 0;
        while let Some((_, entry)) = wrong.next_if(|(rank, _)| *rank <= until) {
            self.remove_for_cap(|this| this.look_at_wrong(entry), entry)?;
            looks += 1;
            if looks % BATCH == 0 && !go_on() {
                self.report.stopped = true;
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Decides on an entry, if a cap still wants more to go.
    fn remove_for_cap(
        &mut self,
        look: impl FnOnce(&mut Self) -> Result<Option<Activity>>,
        entry: Fingerprint,
    ) -> Result<()> {
        let Some(due) = self.over_cap() else { return Ok(()) };
        let seen_at = self.store.commits().seen_now();
        match look(self)? {
            Some(seen) => self.decide(entry, &seen, seen_at, due),
            None => Ok(()),
        }
    }

    /// The entries whose time is wrong and that are not past the cutoff, by their place among the others. When they
    /// were used is not known, so they go before all that were used in the day before they were found.
    fn wrong_by_rank(&self) -> Vec<(Timestamp, Fingerprint)> {
        let not_past = |used_at: Timestamp| self.report.cutoff.is_none_or(|cutoff| used_at >= cutoff);
        let wrong = self.wrong.iter().filter(|(used_at, _)| not_past(*used_at));
        wrong.map(|(used_at, entry)| (used_at.saturating_sub(WRONG_YIELDS), *entry)).collect()
    }

    /// The cap that more has to go for.
    fn over_cap(&self) -> Option<PruneReason> {
        let bytes = || (self.is_too_large && self.bytes_over() > 0).then_some(PruneReason::Bytes);
        if self.entries_over() > 0 { Some(PruneReason::Entries) } else { bytes() }
    }

    pub(super) fn entries_over(&self) -> u64 {
        let left = self.entries.saturating_sub(self.report.removed);
        // What others make meanwhile is for the next pass; what they remove need not be removed here.
        let left = if self.report.dry_run { left } else { left.min(self.store.len()) };
        self.policy.max_entries.map_or(0, |max| left.saturating_sub(max))
    }

    pub(super) fn bytes_over(&self) -> u64 {
        let left = self.live_bytes.unwrap_or(0).saturating_sub(self.freed_bytes);
        self.policy.low_water_bytes.map_or(0, |low| left.saturating_sub(low))
    }
}
