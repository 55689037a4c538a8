//! What of a database is in doubt after its process has died, and the writing of it again.
//!
//! A page whose write failed looks written, and no sync saves it. Linux reports that to the processes that have the file open at
//! the time, and to no other once it has done so. So what was written since the last sync that is known to have succeeded
//! is written again, with what it holds, and the next sync tells how that went.
//!
//! sled's file is a row of segments of one size. Each begins with a header that says at which position of the log it
//! begins, so the segments that hold what is later than the last sync are found without reading the others. A segment
//! without a valid header holds nothing; sled clears those, and all others that it does not use, at each opening.
//!
//! Of the other files sled writes its snapshot while it opens, and nothing while the store is open.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::Position;
use super::files::SNAPSHOT;
use super::state::{Left, State};
use crate::error::{Error, Result};

/// sled's default, which `trees.rs` does not change.
const SEGMENT_BYTES: u64 = 512 * 1024;
const SEGMENT: Position = 512 * 1024;
const HEADER_BYTES: usize = 20;
const BUFFER_BYTES: usize = 256 * 1024;

/// The segments of a database's file.
#[derive(Debug)]
pub(in crate::storage) struct Segments {
    database: PathBuf,
    /// Where each begins, in the file and in the log.
    all: Vec<(u64, Position)>,
    /// No less is in doubt while sled opens the database: it writes to the segment in which the log ends, and to those after
    /// that. That one is found by what the headers say of the log before them.
    tail: Position,
}

impl Segments {
    /// Reads the headers.
    pub(in crate::storage) fn read(database: &Path) -> Result<Self> {
        let path = database.join("db");
        let failed = |error| Error::io("read", &path, error);
        let file = File::open(&path).map_err(failed)?;
        let bytes = file.metadata().map_err(failed)?.len();
        let (mut all, mut stable) = (Vec::new(), 0);
        for at in (0..bytes).step_by(SEGMENT_BYTES as usize) {
            if let Some(header) = read_header(&file, at).map_err(failed)? {
                all.push((at, header.begin));
                stable = stable.max(header.stable);
            }
        }
        // One more, for a segment that was begun while sled was opening.
        let tail = stable / SEGMENT * SEGMENT - SEGMENT;
        Ok(Self { database: database.to_path_buf(), all, tail })
    }

    /// From which position of the log on all is in doubt once sled begins to open this database.
    pub(in crate::storage) fn doubted_from(&self, left: Left) -> Position {
        match (left.state, left.synced) {
            (State::Closed, None) => self.tail,
            (_, None) => 0,
            (_, Some(synced)) => synced.min(self.tail),
        }
        .max(0)
    }

    /// Writes again what is in doubt, with what it holds. Answers how many bytes, or `None` if nothing is.
    pub(in crate::storage) fn rewrite_doubted(&self, left: Left) -> Result<Option<u64>> {
        if left.state == State::Closed {
            return Ok(None);
        }
        let from = self.doubted_from(left) / SEGMENT * SEGMENT;
        let path = self.database.join("db");
        let mut written = 0;
        let mut rewrite_segments = || {
            let file = OpenOptions::new().read(true).write(true).open(&path)?;
            for (at, _) in self.all.iter().filter(|(_, begin)| *begin >= from) {
                written += rewrite(&file, *at..at + SEGMENT_BYTES)?;
            }
            Ok(())
        };
        rewrite_segments().map_err(|e| Error::io("write again", &path, e))?;
        Ok(Some(written + rewrite_files(&self.database, left.state != State::Open)?))
    }
}

/// Writes again all files below `path` but the log.
fn rewrite_files(path: &Path, with_snapshots: bool) -> Result<u64> {
    let mut written = 0;
    for entry in fs::read_dir(path).map_err(|e| Error::io("list", path, e))? {
        let entry = entry.map_err(|e| Error::io("list", path, e))?;
        let (path, name) = (entry.path(), entry.file_name());
        let is_snapshot = name.to_string_lossy().starts_with(SNAPSHOT);
        if path.is_dir() {
            written += rewrite_files(&path, with_snapshots)?;
        } else if name != "db" && (with_snapshots || !is_snapshot) {
            let file = OpenOptions::new().read(true).write(true).open(&path);
            written +=
                file.and_then(|file| rewrite(&file, 0..u64::MAX)).map_err(|e| Error::io("write again", &path, e))?;
        }
    }
    Ok(written)
}

/// Writes a part of a file over with what it holds, so that the next sync covers it.
fn rewrite(file: &File, part: std::ops::Range<u64>) -> io::Result<u64> {
    let (mut buffer, mut at) = (vec![0; BUFFER_BYTES], part.start);
    while at < part.end {
        let wanted = (part.end - at).min(BUFFER_BYTES as u64) as usize;
        let read = file.read_at(buffer.get_mut(..wanted).unwrap_or_default(), at)?;
        let Some(piece) = buffer.get(..read).filter(|piece| !piece.is_empty()) else { break };
        file.write_all_at(piece, at)?;
        at += read as u64;
    }
    Ok(at - part.start)
}

/// The header of a segment.
struct Header {
    /// Where it begins in the log.
    begin: Position,
    /// Up to where the log had been written when it was begun.
    stable: Position,
}

/// The header at `at`; `None` if there is no valid one.
fn read_header(file: &File, at: u64) -> io::Result<Option<Header>> {
    let mut bytes = [0; HEADER_BYTES];
    match file.read_exact_at(&mut bytes, at) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    // sled inverts bits, so that zeros are no header.
    let (checksum, numbers) = bytes.split_at(4);
    if !checksum.iter().map(|byte| !byte).eq(crc32fast::hash(numbers).to_le_bytes()) {
        return Ok(None);
    }
    let number = |from: usize| {
        let bytes = numbers.get(from..from + 8).and_then(|bytes| bytes.try_into().ok());
        Position::MAX ^ bytes.map_or(0, Position::from_le_bytes)
    };
    Ok(Some(Header { begin: number(0), stable: number(8) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(dir: &Path, rows: u32) -> Position {
        // As the engine does: sled's flusher would clean segments while it closes.
        let db = sled::Config::new().path(dir).flush_every_ms(None).open().unwrap();
        for n in 0..rows {
            db.insert(n.to_be_bytes(), vec![n as u8; 1000]).unwrap();
        }
        db.flush().unwrap();
        crate::storage::engine::log_position::position(&db).unwrap()
    }

    fn left(state: State, synced: impl Into<Option<Position>>) -> Left {
        Left { state, synced: synced.into(), mark: None }
    }

    #[test]
    fn the_segments_are_those_of_sled_and_only_what_is_later_is_written_again() {
        let dir = tempfile::tempdir().unwrap();
        let end = filled(dir.path(), 12_000);
        let segments = Segments::read(dir.path()).unwrap();
        assert!(end > 20 * SEGMENT, "{end}");
        // Where nothing was used twice they follow one another.
        let mut begins: Vec<_> = segments.all.iter().map(|(_, begin)| *begin).collect();
        begins.sort_unstable();
        begins.dedup();
        assert_eq!(begins.len(), segments.all.len());
        assert!(begins.iter().all(|begin| begin % SEGMENT == 0));
        // sled may begin one more while it closes. How far the tail lies behind depends on when its threads last wrote a snapshot.
        let (holds_end, last) = (end / SEGMENT * SEGMENT, *begins.last().unwrap());
        assert!(begins.contains(&holds_end) && last - holds_end <= SEGMENT, "{last} of {end}");
        assert!(segments.tail <= last, "{} of {last}", segments.tail);

        let content = fs::read(dir.path().join("db")).unwrap();
        let all = segments.all.len() as u64 * SEGMENT_BYTES;
        let others = rewrite_files(dir.path(), true).unwrap();
        let snapshots = others - rewrite_files(dir.path(), false).unwrap();
        let rewritten = |left| segments.rewrite_doubted(left).unwrap();
        assert_eq!(rewritten(left(State::Closed, None)), None);
        assert_eq!(rewritten(left(State::Closed, 5)), None);
        let cut = all - content.len() as u64;
        for state in [State::Opening, State::Failed, State::Full] {
            assert_eq!(rewritten(left(state, None)), Some(all - cut + others), "{state:?}");
        }
        assert_eq!(rewritten(left(State::Open, 0)), Some(all - cut + others - snapshots));
        // How many those are depends on when sled's threads wrote the last ones; that they are no others does not.
        for synced in [end, end - 6 * SEGMENT] {
            let doubted = synced.min(segments.tail) / SEGMENT * SEGMENT;
            let later = segments.all.iter().filter(|(_, begin)| *begin >= doubted).count() as u64;
            assert!(later < segments.all.len() as u64, "{later} after {doubted} of {end}");
            let expected = later * SEGMENT_BYTES - cut + others - snapshots;
            assert_eq!(rewritten(left(State::Open, synced)), Some(expected), "after {synced} of {end}");
        }
        assert_eq!(fs::read(dir.path().join("db")).unwrap(), content, "with what it held");
    }

    #[test]
    fn what_is_no_header_is_no_segment() {
        let dir = tempfile::tempdir().unwrap();
        filled(dir.path(), 3000);
        let path = dir.path().join("db");
        let segments = Segments::read(dir.path()).unwrap().all.len();
        let mut bytes = fs::read(&path).unwrap();
        bytes[SEGMENT_BYTES as usize + 7] ^= 1;
        bytes[2 * SEGMENT_BYTES as usize..][..HEADER_BYTES].fill(0);
        bytes.truncate(bytes.len() / SEGMENT_BYTES as usize * SEGMENT_BYTES as usize + HEADER_BYTES - 1);
        fs::write(&path, bytes).unwrap();
        let left = Segments::read(dir.path()).unwrap().all.len();
        assert!(left == segments - 2 || left == segments - 3, "{left} of {segments}");
    }
}
