//! What `migrate` reads: a regular file, or standard input. It is only ever read.

use std::fs::{self, File};
use std::io::{self, Read, stdin};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use chrono::{DateTime, Utc};

use cloakroom::Timestamp;

/// An open source.
pub(super) struct Source {
    reader: Box<dyn Read>,
    /// Its size in bytes and the time it was written. Standard input has neither.
    pub(super) size: Option<u64>,
    pub(super) time: Option<Timestamp>,
}

impl Source {
    /// Opens the file, or standard input for `-`.
    pub(super) fn open(path: &Path) -> Result<Self> {
        if path.as_os_str() == "-" {
            return Ok(Self { reader: Box::new(stdin()), size: None, time: None });
        }
        let file = open_regular(path)?;
        let meta = file.metadata().context("could not look at it")?;
        let time = meta.modified().ok().map(|time| Timestamp::from(DateTime::<Utc>::from(time)));
        Ok(Self { reader: Box::new(file), size: Some(meta.len()), time })
    }
}

impl Read for Source {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.reader.read(buffer)
    }
}

/// Opens a regular file, by way of symlinks too. A pipe is refused before it is opened: that would wait for a writer.
pub(super) fn open_regular(path: &Path) -> Result<File> {
    if !fs::metadata(path)?.is_file() {
        bail!("it is not a regular file; give `-` to read standard input");
    }
    Ok(File::open(path)?)
}

/// Where bad entries of this source go, unless the operator says otherwise.
pub(super) fn default_quarantine(path: &Path) -> PathBuf {
    let mut name = if path.as_os_str() == "-" { "stdin".into() } else { path.as_os_str().to_owned() };
    name.push(".quarantine.jsonl");
    name.into()
}
