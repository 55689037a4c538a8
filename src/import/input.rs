//! Where an import gets its entries from, one after the other: a text that is read once, one that can be read again.

use std::io::{self, Read, Seek, SeekFrom};

use tempfile::SpooledTempFile;

use super::report::ImportProgress;
use super::run::Run;
use super::splitter::{Splitter, Start, Step};
use super::target::Target;
use crate::error::{Error, Result};

/// Hands all that it holds to a run, to its end or to where it is damaged.
pub(super) trait Input {
    fn feed<T: Target>(&mut self, run: &mut Run<'_, T>, progress: &mut impl FnMut(&ImportProgress)) -> Result<()>;
}

/// A text that is read once.
pub(super) struct Once<R>(pub(super) Option<R>);

impl<R: Read> Input for Once<R> {
    fn feed<T: Target>(&mut self, run: &mut Run<'_, T>, progress: &mut impl FnMut(&ImportProgress)) -> Result<()> {
        self.0.take().map_or(Ok(()), |input| read(input, run, progress))
    }
}

/// A text that is read from its beginning each time.
pub(super) struct Twice(pub(super) SpooledTempFile);

impl Input for Twice {
    fn feed<T: Target>(&mut self, run: &mut Run<'_, T>, progress: &mut impl FnMut(&ImportProgress)) -> Result<()> {
        self.0.seek(SeekFrom::Start(0)).map_err(read_failed)?;
        read(&mut self.0, run, progress)
    }
}

pub(super) fn read_failed(error: io::Error) -> Error {
    Error::io("read", "the input", error)
}

fn read<T: Target>(input: impl Read, run: &mut Run<'_, T>, progress: &mut impl FnMut(&ImportProgress)) -> Result<()> {
    let mut splitter = Splitter::new(input);
    match splitter.start().map_err(read_failed)? {
        Start::Object => {}
        Start::Empty => return Err(Error::NotASessionFile { reason: "it is empty".into() }),
        Start::Other(kind) => {
            return Err(Error::NotASessionFile { reason: format!("it is not one JSON object, but {kind}") });
        }
    }
    loop {
        let step = splitter.next().map_err(read_failed)?;
        run.report.bytes = splitter.bytes();
        match step {
            Step::Item(item) => run.item(&item, progress)?,
            Step::End => return Ok(()),
            Step::Damage { place, reason, partial } => return run.damage(place, reason, partial),
        }
    }
}
