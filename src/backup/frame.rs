//! The frames of a backup: written, and read back without trust.

use std::io::{self, Read, Write};

use crc32fast::Hasher;

use crate::error::{Error, Result};

const MAGIC: &[u8; 8] = b"CLOAKBAK";
/// The version this program writes, and the only one it reads.
const VERSION: u32 = 2;
const HEADER_BYTES: usize = 16;
/// The largest payload: more than an entry with the largest extras takes.
const MAX_PAYLOAD: usize = 3 << 20;

/// What is in a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Store,
    Note,
    Entry,
    End,
}

impl Kind {
    const ALL: [(Self, u8); 4] = [(Self::Store, b'S'), (Self::Note, b'N'), (Self::Entry, b'E'), (Self::End, b'Z')];

    fn byte(self) -> u8 {
        Self::ALL.iter().find(|(kind, _)| *kind == self).map_or(0, |(_, byte)| *byte)
    }

    fn of(byte: u8) -> Option<Self> {
        Self::ALL.iter().find(|(_, known)| *known == byte).map(|(kind, _)| *kind)
    }
}

/// Writes frames.
pub(crate) struct FrameWriter<W> {
    out: W,
    bytes: u64,
    /// The checksum of all frames, without their own.
    all: Hasher,
}

impl<W: Write> FrameWriter<W> {
    /// Writes the header.
    pub(crate) fn begin(out: W) -> Result<Self> {
        let mut this = Self { out, bytes: 0, all: Hasher::new() };
        let mut header = Vec::with_capacity(HEADER_BYTES);
        header.extend_from_slice(MAGIC);
        header.extend_from_slice(&VERSION.to_le_bytes());
        header.extend_from_slice(&crc32fast::hash(&header).to_le_bytes());
        this.put(&header)?;
        Ok(this)
    }

    pub(crate) fn frame(&mut self, kind: Kind, payload: &[u8]) -> Result<()> {
        let too_large = || io::Error::other(format!("a record of {} bytes is too large for a backup", payload.len()));
        let length = u32::try_from(payload.len()).ok().filter(|_| payload.len() <= MAX_PAYLOAD);
        let length = length.ok_or_else(|| write_failed(too_large()))?.to_le_bytes();
        let [a, b, c, d] = length;
        let head = [kind.byte(), a, b, c, d];
        let mut crc = Hasher::new();
        crc.update(&head);
        crc.update(payload);
        self.all.update(&head);
        self.all.update(payload);
        self.put(&head)?;
        self.put(payload)?;
        self.put(&crc.finalize().to_le_bytes())
    }

    /// Bytes written so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The checksum of all frames so far.
    pub(crate) fn crc(&self) -> u32 {
        self.all.clone().finalize()
    }

    pub(crate) fn flush(&mut self) -> Result<()> {
        self.out.flush().map_err(write_failed)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.out.write_all(bytes).map_err(write_failed)?;
        self.bytes += bytes.len() as u64;
        Ok(())
    }
}

fn write_failed(error: io::Error) -> Error {
    Error::io("write", "the backup", error)
}

/// Reads frames, and says where one is damaged.
pub(crate) struct FrameReader<R> {
    input: R,
    /// Where the last frame began.
    start: u64,
    bytes: u64,
    /// The checksum of all frames, without their own.
    all: Hasher,
    /// The same without the last frame.
    before: u32,
    payload: Vec<u8>,
}

impl<R: Read> FrameReader<R> {
    /// Reads the header.
    pub(crate) fn begin(input: R) -> Result<Self> {
        let mut this = Self { input, start: 0, bytes: 0, all: Hasher::new(), before: 0, payload: Vec::new() };
        let mut header = [0; HEADER_BYTES];
        let read = this.fill(&mut header)?;
        let found = header.get(..read.min(MAGIC.len())).unwrap_or_default();
        if found.is_empty() || !MAGIC.starts_with(found) {
            let reason = if read == 0 { "it is empty" } else { "it does not begin as one" };
            return Err(Error::NotABackup { reason });
        }
        let (body, crc) = header.split_at(HEADER_BYTES - 4);
        if read < HEADER_BYTES || crc != crc32fast::hash(body).to_le_bytes() {
            return Err(this.damaged("the header is not whole"));
        }
        match body.last_chunk::<4>().map_or(0, |version| u32::from_le_bytes(*version)) {
            VERSION => Ok(this),
            found if found < VERSION => Err(Error::OlderBackup { found, supported: VERSION }),
            found => Err(Error::NewerBackup { found, supported: VERSION }),
        }
    }

    /// The next frame, whose checksum is right.
    pub(crate) fn next(&mut self) -> Result<(Kind, &[u8])> {
        self.start = self.bytes;
        self.before = self.all.clone().finalize();
        let mut head = [0; 5];
        if self.fill(&mut head)? < head.len() {
            return Err(self.damaged("it ends too early"));
        }
        let [kind, length @ ..] = head;
        let length = u32::from_le_bytes(length) as usize;
        if length > MAX_PAYLOAD {
            return Err(self.damaged("the length of a record is impossible"));
        }
        let mut payload = std::mem::take(&mut self.payload);
        payload.resize(length, 0);
        let mut found = [0; 4];
        if self.fill(&mut payload)? < length || self.fill(&mut found)? < found.len() {
            return Err(self.damaged("it ends within a record"));
        }
        self.payload = payload;
        let mut crc = Hasher::new();
        crc.update(&head);
        crc.update(&self.payload);
        if found != crc.finalize().to_le_bytes() {
            return Err(self.damaged("the checksum of a record is wrong"));
        }
        self.all.update(&head);
        self.all.update(&self.payload);
        match Kind::of(kind) {
            Some(kind) => Ok((kind, &self.payload)),
            None => Err(self.damaged("it holds a record of an unknown kind")),
        }
    }

    /// Refuses whatever follows the last frame.
    pub(crate) fn expect_end(&mut self) -> Result<()> {
        self.start = self.bytes;
        match self.fill(&mut [0])? {
            0 => Ok(()),
            _ => Err(self.damaged("something follows its end")),
        }
    }

    /// Bytes read so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The checksum of all frames before the last.
    pub(crate) fn crc_before(&self) -> u32 {
        self.before
    }

    /// An error for the last frame.
    pub(crate) fn damaged(&self, reason: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
        Error::DamagedBackup { byte: self.start, source: reason.into() }
    }

    /// Reads until `buffer` is full or the input ends. Returns how much was read.
    fn fill(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let mut read = 0;
        while let Some(rest) = buffer.get_mut(read..).filter(|rest| !rest.is_empty()) {
            match self.input.read(rest) {
                Ok(0) => break,
                Ok(more) => read += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::io("read", "the backup", error)),
            }
        }
        self.bytes += read as u64;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Put together by hand from the table of the format: a backup that exists must stay readable.
    #[test]
    fn golden_bytes() {
        let mut file = Vec::new();
        let mut out = FrameWriter::begin(&mut file).unwrap();
        out.frame(Kind::Entry, b"abc").unwrap();
        assert_eq!((out.bytes(), out.crc()), (28, crc32fast::hash(b"E\x03\0\0\0abc")));
        let mut expected = b"CLOAKBAK\x02\0\0\0".to_vec();
        expected.extend(crc32fast::hash(&expected).to_le_bytes());
        expected.extend(b"E\x03\0\0\0abc");
        expected.extend(crc32fast::hash(b"E\x03\0\0\0abc").to_le_bytes());
        assert_eq!(file, expected);

        let mut frames = FrameReader::begin(&*file).unwrap();
        assert_eq!(frames.next().unwrap(), (Kind::Entry, &b"abc"[..]));
        assert_eq!(frames.crc_before(), crc32fast::hash(b""));
        frames.expect_end().unwrap();
    }

    #[test]
    fn a_record_that_no_reader_would_take_is_not_written() {
        let mut out = FrameWriter::begin(Vec::new()).unwrap();
        out.frame(Kind::Entry, &vec![0; MAX_PAYLOAD]).unwrap();
        assert!(out.frame(Kind::Entry, &vec![0; MAX_PAYLOAD + 1]).is_err());
    }

    #[test]
    fn an_impossible_length_and_an_unknown_kind_are_damage() {
        for (head, said) in [(*b"E\xff\xff\xff\xff", "length"), (*b"Q\0\0\0\0", "unknown kind")] {
            let mut file = Vec::new();
            FrameWriter::begin(&mut file).unwrap();
            file.extend(head);
            file.extend(crc32fast::hash(&head).to_le_bytes());
            let mut frames = FrameReader::begin(&*file).unwrap();
            let Err(Error::DamagedBackup { byte: 16, source }) = frames.next() else { panic!("{head:?}") };
            assert!(source.to_string().contains(said), "{source}");
        }
    }
}
