//! Standard output: lines, JSON, tables, and times and sizes in words.

mod epochs;

use std::borrow::Cow;
use std::fmt::{Display, Write as _};
use std::fs::File;
use std::io::{self, BufWriter, Seek, Write, stdout};
use std::os::fd::AsFd;
use std::sync::LazyLock;
use std::time::Duration;

use anyhow::{Context, Result};
use chrono::{DateTime, FixedOffset, Utc};
use comfy_table::{Cell, CellAlignment, ColumnConstraint, ContentArrangement, Table, TableStyle, Width};
use serde::Serialize;
use tempfile::{SpooledTempFile, spooled_tempfile};

use cloakroom::{TimeZone, Timestamp};

/// Bytes that wait in memory. What is more goes to a temporary file without a name.
const IN_MEMORY: usize = 1 << 20;

/// What is printed.
///
/// It waits until the command is done with the store: a pager that waits for its reader would keep the store locked.
/// What goes to a regular file never waits for anybody, and is written at once.
pub(crate) struct Out {
    to: Box<dyn Write>,
    /// `None` where nothing waits.
    waiting: Option<BufWriter<SpooledTempFile>>,
    printed: bool,
}

impl Out {
    pub(crate) fn to_stdout() -> Self {
        let stdout = stdout();
        let meta = stdout.as_fd().try_clone_to_owned().and_then(|copy| File::from(copy).metadata());
        if meta.is_ok_and(|meta| meta.is_file()) {
            Self { to: Box::new(BufWriter::new(stdout)), waiting: None, printed: false }
        } else {
            Self::to(stdout)
        }
    }

    /// Prints to a pipe, or to whatever else may keep its writer waiting.
    pub(super) fn to(stream: impl Write + 'static) -> Self {
        Self { to: Box::new(stream), waiting: Some(nothing_waits()), printed: false }
    }

    /// Whether anything has reached standard output. What waits has not.
    pub(crate) fn has_printed(&self) -> bool {
        self.printed
    }

    /// Writes all out that waits. That the reader has gone is an error.
    pub(super) fn deliver(&mut self) -> io::Result<()> {
        if let Some(waiting) = &mut self.waiting {
            let waiting = std::mem::replace(waiting, nothing_waits());
            let mut all = waiting.into_inner().map_err(|error| no_room(error.into_error()))?;
            all.rewind()?;
            self.printed |= io::copy(&mut all, &mut self.to)? > 0;
        }
        self.to.flush()
    }

    /// Writes all out that waits. Once the reader has gone (`| head`), it is dropped without a word.
    pub(crate) fn finish(&mut self) -> Result<()> {
        match self.deliver() {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            delivered => delivered.context(NOT_WRITTEN),
        }
    }

    /// Writes a line.
    pub(super) fn line(&mut self, text: impl Display) -> Result<()> {
        writeln!(self, "{text}").context(NOT_WRITTEN)
    }

    /// Writes one JSON value on a line of its own. Beside each time stands a number: see `epochs.rs`.
    pub(super) fn json(&mut self, value: &impl Serialize) -> Result<()> {
        let text = epochs::to_json(value).context("could not write the result as JSON")?;
        self.line(escape(&text, write_json_escape))
    }
}

impl Write for Out {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.waiting {
            Some(waiting) => waiting.write(bytes).map_err(no_room),
            None => {
                self.printed = true;
                self.to.write(bytes)
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        // What waits goes out with `deliver`.
        if self.waiting.is_some() { Ok(()) } else { self.to.flush() }
    }
}

const NOT_WRITTEN: &str = "could not write to standard output";

fn nothing_waits() -> BufWriter<SpooledTempFile> {
    BufWriter::new(spooled_tempfile(IN_MEMORY))
}

fn no_room(error: io::Error) -> io::Error {
    let directory = std::env::temp_dir();
    let text = format!("what is printed waits in {}, or where TMPDIR says: {error}", directory.display());
    io::Error::new(error.kind(), text)
}

/// Spaces between two columns.
const GAP: u16 = 2;

/// A table without lines, in columns that never wrap: a key stays in one piece.
pub(super) struct Columns {
    table: Table,
    right: &'static [usize],
    /// The widest cell of each column so far, so that later blocks line up with earlier ones.
    widths: Vec<u16>,
}

impl Columns {
    /// A table with these headings; the columns at `right` hold numbers.
    pub(super) fn new(headings: &[&str], right: &'static [usize]) -> Self {
        let mut table = Table::new();
        table.set_header(headings.iter().enumerate().map(|(at, heading)| cell(at, heading, right)));
        Self { table: plain(table), right, widths: Vec::new() }
    }

    /// A table of two columns: what, and how much.
    pub(super) fn pairs() -> Self {
        Self { table: plain(Table::new()), right: &[], widths: Vec::new() }
    }

    /// Adds a row. Cells come from chats: what could steer a terminal is shown, not sent.
    pub(super) fn row<T: AsRef<str>>(&mut self, cells: impl IntoIterator<Item = T>) {
        let right = self.right;
        self.table.add_row(cells.into_iter().enumerate().map(|(at, text)| cell(at, text.as_ref(), right)));
    }

    /// How many rows wait to be printed.
    pub(super) fn waiting(&self) -> usize {
        self.table.row_count()
    }

    /// Prints the rows so far, and goes on without them.
    pub(super) fn print(&mut self, out: &mut Out) -> Result<()> {
        let known = std::mem::take(&mut self.widths).into_iter().chain(std::iter::repeat(0));
        self.widths = self.table.column_max_content_widths().into_iter().zip(known).map(|(a, b)| a.max(b)).collect();
        for (column, width) in self.table.column_iter_mut().zip(&self.widths) {
            let width = width.saturating_add(GAP);
            column.set_padding((0, GAP)).set_constraint(ColumnConstraint::LowerBoundary(Width::Fixed(width)));
        }
        for line in self.table.lines() {
            out.line(line.trim_end())?;
        }
        self.table = plain(Table::new());
        Ok(())
    }
}

fn plain(mut table: Table) -> Table {
    table.load_style(TableStyle::new()).set_content_arrangement(ContentArrangement::Disabled);
    table
}

fn cell(at: usize, text: &str, right: &[usize]) -> Cell {
    let alignment = if right.contains(&at) { CellAlignment::Right } else { CellAlignment::Left };
    Cell::new(clean(text)).set_alignment(alignment)
}

/// The text with what a terminal would obey, or what would turn the line around, written as an escape.
pub(super) fn clean(text: &str) -> Cow<'_, str> {
    escape(text, |c| c.escape_unicode().to_string())
}

fn write_json_escape(c: char) -> String {
    // None of them lies beyond the first plane.
    format!("\\u{:04x}", u32::from(c))
}

fn escape(text: &str, escaped: impl Fn(char) -> String) -> Cow<'_, str> {
    if !text.contains(steers) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if steers(c) {
            safe.push_str(&escaped(c));
        } else {
            safe.push(c);
        }
    }
    Cow::Owned(safe)
}

/// Control characters, line separators, and marks that change the direction of writing.
fn steers(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// At most `max` characters of the text.
pub(super) fn shorten(text: &str, max: usize) -> Cow<'_, str> {
    match text.char_indices().nth(max) {
        None => Cow::Borrowed(text),
        Some(_) => Cow::Owned(text.chars().take(max.saturating_sub(1)).chain(['…']).collect()),
    }
}

/// A time in the machine's zone, with its offset: `2026-06-03 00:41:19 +02:00`, or `…Z` where that is UTC.
pub(super) fn local(time: Timestamp) -> String {
    /// What the C library makes of a zone that nobody knows.
    static ZONE: LazyLock<TimeZone> = LazyLock::new(|| {
        TimeZone::local().unwrap_or_else(|error| {
            tracing::warn!(%error, "times are shown in UTC");
            TimeZone::UTC
        })
    });
    let utc = DateTime::<Utc>::from(time);
    match FixedOffset::east_opt(ZONE.utc_offset(time)) {
        Some(offset) if offset.local_minus_utc() != 0 => {
            utc.with_timezone(&offset).format("%Y-%m-%d %H:%M:%S %:z").to_string()
        }
        _ => utc.format("%Y-%m-%d %H:%M:%SZ").to_string(),
    }
}

/// A duration in at most two units: `41 s`, `12 min`, `3 h 5 min`, `12 d 4 h`, `203 d`.
pub(super) fn words(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3_600, seconds / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min"),
        (0, _, _) => format!("{hours} h {} min", minutes % 60),
        (1..=99, _, _) => format!("{days} d {} h", hours % 24),
        _ => format!("{days} d"),
    }
}

/// A number with its thousands apart: `1,048,576`.
pub(super) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A size in the largest unit that fits: `12.4 MiB`.
pub(super) fn size(bytes: u64) -> String {
    let mut text = String::new();
    let mut amount = bytes as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        text.clear();
        let digits = usize::from(unit != "B");
        let _ = write!(text, "{amount:.digits$} {unit}");
        if amount < 1024.0 {
            break;
        }
        amount /= 1024.0;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_at_most_two_units() {
        let cases = [
            (0, "0 s"),
            (59, "59 s"),
            (60, "1 min"),
            (3_599, "59 min"),
            (3_600, "1 h 0 min"),
            (86_399, "23 h 59 min"),
            (86_400, "1 d 0 h"),
            (100 * 86_400, "100 d"),
        ];
        for (seconds, expected) in cases {
            assert_eq!(words(Duration::from_secs(seconds)), expected);
        }
    }

    #[test]
    fn numbers_and_sizes_are_grouped() {
        assert_eq!(thousands(0), "0");
        assert_eq!(thousands(999), "999");
        assert_eq!(thousands(1_000), "1,000");
        assert_eq!(thousands(12_345_678), "12,345,678");
        assert_eq!(size(1023), "1023 B");
        assert_eq!(size(1536), "1.5 KiB");
        assert_eq!(size(5 << 40), "5120.0 GiB");
    }

    #[test]
    fn nothing_that_steers_a_terminal_gets_through() {
        assert_eq!(clean("plain ünïcode 🎈"), "plain ünïcode 🎈");
        assert_eq!(clean("a\u{1b}[2Jb\nc\u{9b}d\u{202e}e"), "a\\u{1b}[2Jb\\u{a}c\\u{9b}d\\u{202e}e");
        assert_eq!(escape("\u{7f}\u{202e}", write_json_escape), "\\u007f\\u202e");
    }

    #[test]
    fn long_names_are_cut_by_characters() {
        assert_eq!(shorten("äöü", 3), "äöü");
        assert_eq!(shorten("äöüß", 3), "äö…");
    }
}
