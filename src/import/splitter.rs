//! Splits the one big object of a session file into its entries, without reading more than one of them into memory.
//!
//! It finds keys and the raw text of their values by counting brackets and leaves the grammar within to
//! [`json`](crate::json). That is what lets one bad entry be set aside and the rest go on: readers of JSON that are on
//! offer stop at the first error, refuse Python's `NaN`, or do not hand out the bytes of what they refuse.

use std::io::{self, Read};

use super::balance::{Balance, Feed};
use super::looks;

/// The longest entry, in bytes of the file. A longer one is passed over without being kept in memory.
pub(super) const MAX_ENTRY_BYTES: usize = 1 << 20;
/// The longest key as it is written. One byte of a key takes up to six: `\u0061`.
pub(super) const MAX_RAW_KEY_BYTES: usize = 6 * crate::key::MAX_KEY_BYTES + 2;
const BUFFER_BYTES: usize = 64 * 1024;

/// A place in the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    /// Bytes before it.
    pub(super) byte: u64,
    /// Line, from 1.
    pub(super) line: u64,
    /// Column in bytes, from 1.
    pub(super) column: u64,
}

/// A key and its value.
#[derive(Debug)]
pub(super) struct Item {
    /// Where the key begins.
    pub(super) place: Place,
    /// The key with its quotes; cut off where it is too long.
    pub(super) key: Vec<u8>,
    /// The value; cut off where it is too long.
    pub(super) value: Vec<u8>,
    /// Bytes of the value.
    pub(super) length: u64,
    /// The key is longer than any may be.
    pub(super) key_too_long: bool,
}

/// What follows the object in a file of one object a line.
pub(super) const LINES: &str = "another object follows: it is JSON Lines, and one object with all entries is expected";

/// What the splitter finds next.
#[derive(Debug)]
pub(super) enum Step {
    Item(Item),
    /// The object and the input are at their end.
    End,
    /// From `place` on the input makes no sense. The entry that was being read is `partial`.
    Damage {
        place: Place,
        reason: &'static str,
        partial: Option<Item>,
    },
}

/// What is no session file from its first character on.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Start {
    Object,
    Empty,
    /// What it is instead.
    Other(&'static str),
}

pub(super) struct Splitter<R> {
    input: R,
    buffer: Vec<u8>,
    at: usize,
    end: usize,
    place: Place,
    is_first: bool,
}

impl<R: Read> Splitter<R> {
    pub(super) fn new(input: R) -> Self {
        let place = Place { byte: 0, line: 1, column: 1 };
        Self { input, buffer: vec![0; BUFFER_BYTES], at: 0, end: 0, place, is_first: true }
    }

    /// Bytes read so far.
    pub(super) fn bytes(&self) -> u64 {
        self.place.byte
    }

    /// Reads up to the opening bracket.
    pub(super) fn start(&mut self) -> io::Result<Start> {
        if let Some(kind) = looks::of_head(self.head()?) {
            return Ok(Start::Other(kind));
        }
        for byte in [0xef, 0xbb, 0xbf] {
            if self.peek()? != Some(byte) {
                break;
            }
            self.bump();
        }
        Ok(match self.skip_space()? {
            None => Start::Empty,
            Some(b'{') => {
                self.bump();
                Start::Object
            }
            Some(byte) => Start::Other(looks::of_first(byte)),
        })
    }

    /// The first bytes, before any is taken.
    fn head(&mut self) -> io::Result<&[u8]> {
        while self.end < looks::HEAD_BYTES {
            match self.input.read(self.buffer.get_mut(self.end..).unwrap_or_default()) {
                Ok(0) => break,
                Ok(read) => self.end = self.buffer.len().min(self.end + read),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(self.buffer.get(..self.end).unwrap_or_default())
    }

    /// The next entry. After [`Step::End`] and [`Step::Damage`] there is none.
    pub(super) fn next(&mut self) -> io::Result<Step> {
        let is_first = std::mem::replace(&mut self.is_first, false);
        match self.skip_space()? {
            Some(b'}') => {
                self.bump();
                return Ok(match self.skip_space()? {
                    None => Step::End,
                    Some(b'{') => self.damage(LINES, None),
                    Some(_) => self.damage("there is something after the end of the object", None),
                });
            }
            Some(b',') if !is_first => {
                self.bump();
                self.skip_space()?;
            }
            Some(_) if is_first => {}
            Some(_) => return Ok(self.damage("a comma or the end of the object is expected here", None)),
            None => return Ok(self.damage("the file ends here, and the object does not", None)),
        }
        self.item()
    }

    fn item(&mut self) -> io::Result<Step> {
        let place = self.place;
        let mut item = Item { place, key: Vec::new(), value: Vec::new(), length: 0, key_too_long: false };
        match self.peek()? {
            Some(b'"') => {}
            Some(_) => return Ok(self.damage("a key in quotes is expected here", None)),
            None => return Ok(self.damage("the file ends here, and the object does not", None)),
        }
        let mut key = Balance::default();
        let mut key_bytes = 0;
        loop {
            let Some(byte) = self.peek()? else { return Ok(self.damage("the file ends within a key", Some(item))) };
            if byte == b'\n' {
                return Ok(self.damage("the key is not closed", Some(item)));
            }
            let feed = key.feed(byte);
            key_bytes += 1;
            if key_bytes <= MAX_RAW_KEY_BYTES {
                item.key.push(byte);
            }
            self.bump();
            if feed == Feed::Last {
                break;
            }
        }
        item.key_too_long = key_bytes > MAX_RAW_KEY_BYTES;
        match self.skip_space()? {
            Some(b':') => self.bump(),
            Some(_) => return Ok(self.damage("a colon is expected here", Some(item))),
            None => return Ok(self.damage("the file ends after a key", Some(item))),
        }
        self.skip_space()?;
        let is_whole = self.value(&mut item)?;
        Ok(if is_whole { Step::Item(item) } else { self.damage("the file ends within an entry", Some(item)) })
    }

    /// Reads a value into `item`. Answers whether it has an end.
    fn value(&mut self, item: &mut Item) -> io::Result<bool> {
        let mut balance = Balance::default();
        loop {
            if self.peek()?.is_none() {
                return Ok(false);
            }
            let rest = self.buffer.get(self.at..self.end).unwrap_or_default();
            let mut taken = 0;
            let mut ended = false;
            let mut line = None;
            for byte in rest {
                match balance.feed(*byte) {
                    Feed::More => taken += 1,
                    Feed::Last => {
                        taken += 1;
                        ended = true;
                        break;
                    }
                    Feed::Past => {
                        ended = true;
                        break;
                    }
                }
                if *byte == b'\n' {
                    self.place.line += 1;
                    line = Some(taken);
                }
            }
            let taken_bytes = rest.get(..taken).unwrap_or_default();
            let room = MAX_ENTRY_BYTES.saturating_sub(item.value.len());
            item.value.extend_from_slice(taken_bytes.get(..room).unwrap_or(taken_bytes));
            item.length += taken as u64;
            self.at += taken;
            self.place.byte += taken as u64;
            self.place.column = match line {
                Some(start) => (taken - start) as u64 + 1,
                None => self.place.column + taken as u64,
            };
            if ended {
                return Ok(true);
            }
        }
    }

    fn damage(&self, reason: &'static str, partial: Option<Item>) -> Step {
        let is_zero = self.buffer.get(self.at..self.end).is_some_and(|rest| rest.first() == Some(&0));
        let reason = if is_zero { "zero bytes begin here, as a power cut leaves them" } else { reason };
        Step::Damage { place: self.place, reason, partial }
    }

    fn skip_space(&mut self) -> io::Result<Option<u8>> {
        loop {
            match self.peek()? {
                Some(b' ' | b'\n' | b'\r' | b'\t') => self.bump(),
                other => return Ok(other),
            }
        }
    }

    fn peek(&mut self) -> io::Result<Option<u8>> {
        while self.at == self.end {
            match self.input.read(&mut self.buffer) {
                Ok(0) => return Ok(None),
                Ok(read) => (self.at, self.end) = (0, read.min(self.buffer.len())),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(self.buffer.get(self.at).copied())
    }

    fn bump(&mut self) {
        if self.buffer.get(self.at) == Some(&b'\n') {
            self.place.line += 1;
            self.place.column = 0;
        }
        self.at += 1;
        self.place.byte += 1;
        self.place.column += 1;
    }
}
