//! The binary form of one record of the trace; the shim has the other half.

use std::io;

/// One record as the shim has written it; see there for the layout.
pub struct Record<'a> {
    pub kind: u8,
    pub inode: u64,
    pub number: u64,
    pub one: &'a [u8],
    pub two: &'a [u8],
}

impl<'a> Record<'a> {
    /// Takes the next record off the bytes; None if there is no whole one.
    pub fn take(rest: &mut &'a [u8]) -> Option<Record<'a>> {
        let (head, tail) = rest.split_first_chunk::<25>()?;
        let long = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().expect("8"));
        let (one, two) = (long(17) as u32 as usize, (long(17) >> 32) as usize);
        let (one, tail) = tail.split_at_checked(one)?;
        let (two, tail) = tail.split_at_checked(two)?;
        *rest = tail;
        let (kind, inode, number) = (head[0], long(1), long(9));
        Some(Record { kind, inode, number, one, two })
    }

    pub fn path(&self) -> io::Result<&'a str> {
        std::str::from_utf8(self.one).map_err(|_| bad("a path is not UTF-8"))
    }

    pub fn second(&self) -> io::Result<&'a str> {
        std::str::from_utf8(self.two).map_err(|_| bad("a path is not UTF-8"))
    }
}

pub fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("trace: {what}"))
}
