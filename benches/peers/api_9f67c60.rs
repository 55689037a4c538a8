//! `benches/support/api.rs` for commit 9f67c60.

use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

pub use cloakroom::{Clock, KeyPolicy, NoActivity, Resolution};
use cloakroom::{BackupOptions, ImportOptions, Options, SessionKey, SessionStore, TimeZone};

use super::contender::Fields;

pub type Timer = crossbeam_channel::Receiver<Instant>;

/// There is no verb for it.
pub const CAN_MODIFY: bool = false;

pub fn modify(_: &SessionStore, _: &SessionKey, _: Fields, _: i64) {
    unreachable!("see CAN_MODIFY")
}

/// Makes a store from a gateway's file, whose naive times are UTC, and answers how many entries it got.
pub fn migrate(options: &Options, file: &Path) -> u64 {
    let import = ImportOptions::new().zone("UTC".parse::<TimeZone>().unwrap());
    let report = SessionStore::create_from(options, File::open(file).unwrap(), import, |_| {}).unwrap();
    assert!(report.is_complete());
    report.imported
}

/// Writes a backup, and answers its bytes.
pub fn backup(store: &SessionStore, path: &Path) -> u64 {
    store.backup_to_file(path, BackupOptions::default(), |_| {}).unwrap().bytes
}

pub fn timer(delay: Duration) -> Timer {
    crossbeam_channel::after(delay)
}
