//! What `migrate` reads: a regular file, or standard input. It is only ever read.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, stdin};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use chrono::{DateTime, Utc};

use cloakroom::{Error, Timestamp};

/// The mark that some editors put at the beginning of a file.
const BOM: &[u8] = "\u{feff}".as_bytes();

/// An open source.
pub(super) struct Source {
    reader: BufReader<Box<dyn Read>>,
    /// Its size in bytes and the time it was written. Standard input has neither.
    pub(super) size: Option<u64>,
    pub(super) time: Option<Timestamp>,
}

impl Source {
    /// Opens the file, or standard input for `-`, and refuses what is no session file at first sight. So a wrong file
    /// does not become an empty store.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let mut source = if path.as_os_str() == "-" {
            Self { reader: BufReader::new(Box::new(stdin())), size: None, time: None }
        } else {
            let file = open_regular(path)?;
            let meta = file.metadata().context("could not look at it")?;
            let time = meta.modified().ok().map(|time| Timestamp::from(DateTime::<Utc>::from(time)));
            Self { reader: BufReader::new(Box::new(file)), size: Some(meta.len()), time }
        };
        source.look()?;
        Ok(source)
    }

    fn look(&mut self) -> Result<()> {
        let start = self.reader.fill_buf().context("could not read it")?;
        let text = start.strip_prefix(BOM).unwrap_or(start);
        match text.iter().find(|byte| !byte.is_ascii_whitespace()) {
            _ if start.is_empty() => bail!(Error::NotASessionFile { reason: "it is empty" }),
            Some(b'{') => Ok(()),
            Some(_) => bail!(Error::NotASessionFile { reason: "it is not one JSON object" }),
            // More blanks than the buffer holds: the import will see.
            None => Ok(()),
        }
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
