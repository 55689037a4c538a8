//! What several tests need.

use std::path::{Path, PathBuf};
use std::time::Duration;

use cloakroom::source::KeyPolicy;
use cloakroom::time::ManualClock;
use cloakroom::{Error, Options, SessionKey, SessionSource, SessionStore, Timestamp};
use tempfile::TempDir;

/// 2026-06-12T00:06:53.123456Z.
pub const NOW: Timestamp = Timestamp::from_micros(1_781_222_813_123_456);
/// Longer than any test: the committer runs only when asked.
pub const NEVER: Duration = Duration::from_secs(3600);

/// A directory for a store, and its clock.
pub struct Home {
    dir: TempDir,
    pub clock: ManualClock,
}

/// A directory in memory, where there is one: syncs cost nothing there, and no test of ours depends on a disk.
pub fn fast_dir() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

impl Home {
    pub fn new() -> Self {
        Self { dir: fast_dir(), clock: ManualClock::new(NOW) }
    }

    pub fn path(&self) -> PathBuf {
        self.dir.path().join("sessions.db")
    }

    /// Commits only when somebody waits, so that tests decide what is pending.
    pub fn options(&self) -> Options {
        options(&self.path()).clock(self.clock.clone())
    }

    pub fn open(&self) -> SessionStore {
        SessionStore::open(self.options()).unwrap()
    }
}

pub fn options(path: &Path) -> Options {
    Options::new(path).create(true).commit_interval(NEVER).cache_bytes(16 << 20)
}

/// A user in a group chat.
pub fn source(n: usize) -> SessionSource {
    SessionSource {
        platform: "discord".into(),
        chat_type: "group".into(),
        chat_id: Some(format!("c{n}")),
        user_id: Some(format!("u{n}")),
        ..SessionSource::default()
    }
}

/// The key of [`source`].
pub fn key(n: usize) -> SessionKey {
    SessionKey::for_source(&source(n), &KeyPolicy::default()).unwrap()
}

/// Opens a store that another program has and yields, however slow the machine is: in one try an opening waits for a second.
pub fn open_yielded(options: &Options) -> SessionStore {
    loop {
        match SessionStore::open(options.clone()) {
            Err(Error::Locked { .. }) => std::thread::yield_now(),
            opened => return opened.unwrap(),
        }
    }
}

/// An error with all of its causes.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

pub fn assert_sound(store: &SessionStore) {
    let found = store.verify().unwrap();
    assert_eq!(found.violations, [], "{found:?}");
    assert!(found.count_checked);
    assert_eq!(found.entries, store.len());
}
