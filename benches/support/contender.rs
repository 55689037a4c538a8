//! What every store is asked to do.

use std::fs;
use std::ops::Range;
use std::path::Path;
use std::time::Duration;

/// How long a relaxed touch may wait for its commit: Cloakroom's default.
pub const COMMIT_INTERVAL: Duration = Duration::from_millis(100);

/// Two fields of an entry, changed in one step with a touch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fields {
    /// Two counters.
    Counters,
    /// A counter, and the name that is shown.
    Details,
}

/// A store under test. Entries go by their number; each contender holds their keys ready.
///
/// Every method panics on failure: a bench that did nothing is no result.
pub trait Contender: Sync {
    fn name(&self) -> &'static str;

    /// Makes entries, each at its time; durable on return.
    fn create(&self, entries: Range<usize>, at: &dyn Fn(usize) -> i64);

    /// Touches each entry of the stream at its time, as one caller that waits for nothing. Commits at least every
    /// [`COMMIT_INTERVAL`]; all is durable on return.
    fn touches(&self, stream: &mut dyn Iterator<Item = (usize, i64)>);

    /// As [`touches`](Contender::touches), but each changes two fields as well. Answers whether the store can.
    fn modifies(&self, _fields: Fields, _stream: &mut dyn Iterator<Item = (usize, i64)>) -> bool {
        false
    }

    /// Finishes what the store has put off, as if nothing came for a long time.
    fn settle(&self) {}

    /// One touch, durable on return. Called from many threads.
    fn touch_durable(&self, entry: usize, now: i64);

    /// Reads the whole entry, and answers when it was touched.
    fn get(&self, entry: usize) -> Option<i64>;

    /// Removes what was last touched before `cutoff`; durable on return. Answers how many that were.
    fn prune(&self, cutoff: i64) -> u64;

    /// Times of the entries touched last, newest first.
    fn recent(&self, limit: usize) -> Vec<i64>;

    /// How many entries there are.
    fn count(&self) -> u64;
}

/// Bytes of all files below `dir`, as allocated on disk.
pub fn bytes_on_disk(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    // Files come and go while a store works; what is gone counts nothing.
    let Ok(files) = fs::read_dir(dir) else { return 0 };
    files
        .flatten()
        .map(|file| match file.metadata() {
            Ok(meta) if meta.is_dir() => bytes_on_disk(&file.path()),
            Ok(meta) => meta.blocks() * 512,
            Err(_) => 0,
        })
        .sum()
}

/// Bytes that this process has handed to `write` and its like.
pub fn bytes_written() -> u64 {
    let text = fs::read_to_string("/proc/self/io").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("wchar: ")).unwrap();
    line.parse().unwrap()
}
