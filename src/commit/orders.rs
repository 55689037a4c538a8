//! What the committer writes beside commits, for it alone may write the trees.

use super::Commits;
use super::committer::Order;
use crate::codec::{ActivityRow, ClockNote};
use crate::error::Result;
use crate::storage::{Engine, Writer};

impl Commits {
    /// Clears those index rows that are out of date, on the committer. Returns how many were.
    pub(crate) fn recheck(&self, rows: Vec<ActivityRow>) -> Result<u64> {
        if rows.is_empty() {
            return Ok(0);
        }
        self.write(move |writer, engine| {
            rows.iter().try_fold(0, |cleared, row| Ok(cleared + u64::from(writer.recheck(engine, row)?)))
        })
    }

    /// Remembers the time zone of an import.
    pub(crate) fn set_zone(&self, zone: String) -> Result<()> {
        self.write(move |writer, engine| writer.set_zone(engine, &zone))
    }

    /// Keeps a note of an imported file.
    pub(crate) fn set_note(&self, name: String, text: String) -> Result<()> {
        self.write(move |writer, engine| writer.set_note(engine, &name, &text))
    }

    /// Remembers what the clock said. Durable with the next sync.
    pub(crate) fn set_clock_note(&self, note: ClockNote) -> Result<()> {
        self.write(move |writer, engine| writer.set_clock_note(engine, &note))
    }

    /// Lets the committer write something, between two commits.
    fn write<T: Send + 'static>(
        &self,
        write: impl FnOnce(&mut Writer, &Engine) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.order(|answer| {
            Order::Write(Box::new(move |committer| {
                let written = committer.guarded(|this| write(&mut this.writer, &this.core.engine));
                // The thread that asked may have given up.
                let _ = answer.send(written);
            }))
        })
    }
}
