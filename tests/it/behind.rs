//! The database under a store, for tests that change it behind the store's back.

use std::time::{Duration, Instant};

/// A lock that is not free after this does not linger: it is held.
const LINGER: Duration = Duration::from_secs(60);

/// Opens a database of sled's behind the store's back.
///
/// sled's lock outlives the database for a moment: its threads have to end first, and a process that another test is
/// forking off holds a copy of it until it runs its own program.
pub fn open_sled(config: &sled::Config) -> sled::Result<sled::Db> {
    let begun = Instant::now();
    loop {
        match config.open() {
            Err(sled::Error::Io(error)) if error.to_string().contains("could not acquire lock") => {
                assert!(begun.elapsed() < LINGER, "somebody holds it: {error}");
                std::thread::sleep(Duration::from_millis(1));
            }
            opened => return opened,
        }
    }
}
