//! The file that bad entries go to. It is made when there is one, and takes the place of nothing.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// How many names are tried before giving up.
const NAMES: u32 = 1000;

pub(super) struct Quarantine {
    path: PathBuf,
    /// Whether another name will do if this one is taken.
    may_rename: bool,
    file: Option<BufWriter<File>>,
    failed: bool,
}

impl Quarantine {
    /// A quarantine in exactly this file.
    pub(super) fn exactly(path: PathBuf) -> Self {
        Self { path, may_rename: false, file: None, failed: false }
    }

    /// A quarantine in this file, or, if earlier runs left theirs, in `….2`, `….3`.
    pub(super) fn near(path: PathBuf) -> Self {
        Self { path, may_rename: true, file: None, failed: false }
    }

    /// The file, if there is one.
    pub(super) fn path(&self) -> Option<&Path> {
        self.file.as_ref().map(|_| self.path.as_path())
    }

    /// Where it was to be, if it could not be written.
    pub(super) fn failed(&self) -> Option<&Path> {
        self.failed.then_some(&self.path)
    }

    /// Makes what was written durable.
    pub(super) fn finish(&mut self) -> io::Result<()> {
        self.flush()?;
        let Some(file) = &self.file else { return Ok(()) };
        file.get_ref().sync_all().map_err(|error| self.named(error))
    }

    /// Removes the file, if there is one: the run failed.
    pub(super) fn discard(&mut self) {
        if self.file.take().is_some() {
            // Where it stays, nothing is lost.
            let _ = fs::remove_file(&self.path);
        }
    }

    fn create(&mut self) -> io::Result<BufWriter<File>> {
        let first = self.path.clone();
        for number in 1..NAMES {
            if number > 1 {
                let mut name = first.clone().into_os_string();
                name.push(format!(".{number}"));
                self.path = name.into();
            }
            // The lines hold keys and texts of people. A symlink is not followed.
            match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&self.path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && self.may_rename => {}
                Err(error) => return Err(self.named(error)),
                Ok(file) => return Ok(BufWriter::new(file)),
            }
        }
        Err(self.named(io::ErrorKind::AlreadyExists.into()))
    }

    fn named(&self, error: io::Error) -> io::Error {
        io::Error::new(error.kind(), format!("{}: {error}", self.path.display()))
    }
}

impl Write for Quarantine {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let created = if self.file.is_none() { self.create().map(Some) } else { Ok(None) };
        let written = created.and_then(|created| {
            self.file = created.or_else(|| self.file.take());
            self.file.as_mut().map_or(Ok(0), |file| file.write(bytes)).map_err(|error| self.named(error))
        });
        self.failed |= written.is_err();
        written
    }

    fn flush(&mut self) -> io::Result<()> {
        let flushed = self.file.as_mut().map_or(Ok(()), BufWriter::flush);
        self.failed |= flushed.is_err();
        flushed.map_err(|error| self.named(error))
    }
}
