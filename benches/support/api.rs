//! Names and verbs of Cloakroom that an older commit has not, or has elsewhere. `benches/peers/api_9f67c60.rs` takes the
//! place of this file where these benches are built against that commit: see `benches/README.md`.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use cloakroom::backup::BackupOptions;
pub use cloakroom::change::Resolution;
use cloakroom::change::{Edit, Modified, Touch};
use cloakroom::import::ImportOptions;
pub use cloakroom::prune::NoActivity;
pub use cloakroom::source::KeyPolicy;
pub use cloakroom::time::{Clock, Timer};
use cloakroom::{Options, SessionKey, SessionStore, TimeZone};

use super::contender::Fields;

pub const CAN_MODIFY: bool = true;

/// Changes two fields in one step with a touch at `now`.
pub fn modify(store: &SessionStore, key: &SessionKey, fields: Fields, now: i64) {
    let done = store.modify(key, Touch::Yes, |draft| {
        draft.entry.usage.total_tokens += 7;
        match fields {
            Fields::Counters => draft.entry.usage.last_prompt_tokens = now.unsigned_abs(),
            Fields::Details => draft.entry.details.display_name = Some(format!("shown {now}")),
        }
        Edit::Write
    });
    assert!(matches!(done, Ok(Modified::Changed(_))));
}

/// Makes a store from a gateway's file, whose naive times are UTC, and answers how many entries it got.
pub fn migrate(options: &Options, file: &Path) -> u64 {
    let import = ImportOptions::new().zone("UTC".parse::<TimeZone>().unwrap());
    let report = SessionStore::create_from(options.clone(), File::open(file).unwrap(), import, |_| {}).unwrap();
    assert!(report.is_complete());
    report.imported
}

/// Writes a backup, and answers its bytes.
pub fn backup(store: &SessionStore, path: &Path) -> u64 {
    store.backup_to_file(path, BackupOptions::default(), |_| {}).unwrap().bytes
}

pub fn timer(delay: Duration) -> Timer {
    Timer::after(delay)
}
