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

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::str::FromStr;

use anyhow::{Context, Result};
use cloakroom::{Error, TimeZone};

/// Whether a path means standard input or output.
pub(super) fn is_standard(path: &Path) -> bool {
    path.as_os_str() == "-"
}

/// What is at the path of an output, if it is a pipe or a device. It is opened before the store is, and written when the
/// store is closed: both may wait for a reader.
fn open_stream(path: &Path) -> Result<Option<File>> {
    let kind = fs::metadata(path).map(|meta| meta.file_type());
    if !kind.is_ok_and(|kind| kind.is_fifo() || kind.is_char_device()) {
        return Ok(None);
    }
    let stream = OpenOptions::new().write(true).open(path);
    stream.map(Some).with_context(|| format!("could not open {}", path.display()))
}

/// A zone as it is typed; `None` is `local`, the machine's own.
#[derive(Debug, Clone)]
struct Zone(Option<TimeZone>);

impl FromStr for Zone {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        if text.eq_ignore_ascii_case("local") { Ok(Self(None)) } else { text.parse().map(Some).map(Self) }
    }
}
