//! Moving in and out: `migrate`, `export`, `backup`, `restore`.

mod backup;
mod export;
mod migrate;
mod progress;
mod quarantine;
mod source;

pub(super) use backup::{Backup, Restore};
pub(super) use export::Export;
pub(super) use migrate::Migrate;

use cloakroom::{Error, TimeZone};

/// A zone as it is typed: `local` for the machine's own.
fn zone(text: &str) -> Result<TimeZone, Error> {
    if text.eq_ignore_ascii_case("local") { Ok(TimeZone::local()) } else { text.parse() }
}
