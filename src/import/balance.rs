//! Where a key or a value ends, told by its brackets and quotes alone.

/// Levels at which the kind of bracket is checked. Deeper ones, which no good entry has, are only counted.
const TRACKED_DEPTH: u64 = 64;

/// Where a value ends.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Feed {
    More,
    /// This byte is the value's last one.
    Last,
    /// This byte no longer belongs to it.
    Past,
}

/// Counts brackets and quotes.
#[derive(Debug, Default)]
pub(super) struct Balance {
    depth: u64,
    /// One bit for each of the outer levels that are open, set where it is an object; the outermost lowest.
    objects: u64,
    in_string: bool,
    escaped: bool,
    /// A number or a word.
    in_word: bool,
}

impl Balance {
    pub(super) fn feed(&mut self, byte: u8) -> Feed {
        if self.in_string {
            return self.feed_string(byte);
        }
        match byte {
            b'"' if !self.in_word => {
                self.in_string = true;
                Feed::More
            }
            b'{' | b'[' if !self.in_word => {
                self.open(byte == b'{');
                Feed::More
            }
            _ if self.depth == 0 => {
                // A word at the top ends where it cannot go on.
                if matches!(byte, b',' | b'}' | b']' | b' ' | b'\n' | b'\r' | b'\t') {
                    return Feed::Past;
                }
                self.in_word = true;
                Feed::More
            }
            b'}' | b']' => self.close(byte == b'}'),
            _ => Feed::More,
        }
    }

    fn feed_string(&mut self, byte: u8) -> Feed {
        // No string goes over a line end: one that seems to has lost its quote, and the damage ends here.
        let ends = byte == b'\n' || (byte == b'"' && !self.escaped);
        self.escaped = byte == b'\\' && !self.escaped;
        self.in_string = !ends;
        if ends && self.depth == 0 { Feed::Last } else { Feed::More }
    }

    fn open(&mut self, is_object: bool) {
        let bit = Self::bit(self.depth);
        self.objects = if is_object { self.objects | bit } else { self.objects & !bit };
        self.depth += 1;
    }

    /// The bit of the level that is opened at `depth`; none where levels are only counted.
    fn bit(depth: u64) -> u64 {
        if depth < TRACKED_DEPTH { 1 << depth } else { 0 }
    }

    /// Closes the innermost level of the kind, and those within it that were left open.
    fn close(&mut self, is_object: bool) -> Feed {
        let is_tracked = self.depth <= TRACKED_DEPTH;
        let closed = if is_tracked {
            (0..self.depth).rev().find(|depth| (self.objects & Self::bit(*depth) != 0) == is_object)
        } else {
            Some(self.depth - 1)
        };
        match closed {
            Some(depth) => {
                self.depth = depth;
                if depth == 0 { Feed::Last } else { Feed::More }
            }
            // An array left open in the file's own object, which ends here.
            None if is_object => Feed::Past,
            None => Feed::More,
        }
    }
}
