//! [`SessionStore::import`], into a store that is open.

use std::io::{self, Read, Write};
use std::path::Path;

use tempfile::spooled_tempfile_in;

use super::input::{Input, Twice, read_failed};
use super::options::ImportOptions;
use super::place::Holder;
use super::report::{ImportProgress, ImportReport};
use super::run::Run;
use super::target::{Nowhere, Open};
use crate::error::{Error, Result};
use crate::store::SessionStore;
use crate::time::Timestamp;
use crate::unreadable::if_readable;

/// How much of the input is kept in memory until it is taken.
const SPOOL_IN_MEMORY: usize = 16 << 20;

impl SessionStore {
    /// Imports a gateway's `sessions.json` and answers what became of each entry.
    ///
    /// A bad entry goes to the [quarantine](ImportOptions::quarantine) and the rest goes on. Where the file is damaged
    /// or cut off, everything before that place is imported and the report says where it is. Limits: nesting 64, a key
    /// 1 KiB, an entry 1 MiB, a number 4 KiB.
    ///
    /// The input is read to its end before anything is changed, and kept meanwhile: more than 16 MiB of it in an unnamed
    /// file in the store's directory.
    ///
    /// Where there is no store yet, [`create_from`](SessionStore::create_from) is the faster way.
    ///
    /// When it returns, what was imported survives a power cut. Killed half-way and run again, it ends in the same
    /// state as one clean run. So does a trial with an earlier version of the file, as to the entries of the later one,
    /// where the store's were left alone in between: see [`Newer`](crate::import::OnConflict::Newer).
    ///
    /// Others may change the store meanwhile. What they make or change counts as the store's own.
    ///
    /// ```
    /// use cloakroom::import::ImportOptions;
    /// use cloakroom::{Options, SessionStore};
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("sessions.db");
    /// let file = r#"{"agent:main:discord:dm:1234": {"session_id": "20260612_000653_3f9a01c2",
    ///     "created_at": "2026-06-12T00:06:53", "updated_at": "2026-06-12T00:07:04.247913"}}"#;
    /// let store = SessionStore::open(Options::new(&path).create(true))?;
    /// let report = store.import(file.as_bytes(), ImportOptions::new().zone("Europe/Berlin".parse()?), |_| {})?;
    /// assert_eq!(report.imported, 1);
    /// assert!(report.is_complete());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::NotASessionFile`] if the input is empty, no JSON object, or one that has no good entry and something
    /// bad; [`Error::ClockBehind`] if too many entries were active in the [future](ImportOptions::trust_times);
    /// [`Error::LocalTimeZone`] if it has naive times and their zone is neither given nor known; [`Error::Io`] if it
    /// cannot be read. Nothing has been imported then. [`Error::Io`] if the quarantine cannot be written, and the errors
    /// of the store. What was imported before these stays.
    pub fn import(
        &self,
        input: impl Read,
        options: ImportOptions<'_>,
        progress: impl FnMut(&ImportProgress),
    ) -> Result<ImportReport> {
        self.import_of(spool(input, self.path())?, options, progress)
    }

    /// [`import`](Self::import) of an input that can be read twice.
    pub(super) fn import_of(
        &self,
        input: impl Input,
        options: ImportOptions<'_>,
        progress: impl FnMut(&ImportProgress),
    ) -> Result<ImportReport> {
        // One that cannot be decoded is as good as none.
        let zone = || Ok(if_readable(self.commits().engine()?.zone())?.flatten());
        let open = OpenStore {
            store: self,
            now: self.now(),
            entries: &|| Ok(self.len()),
            zone: &zone,
            flush: &|| self.flush().map(drop),
        };
        open.import(input, options, progress)
    }
}

/// A store that is open, and what an import has to know of it.
pub(crate) struct OpenStore<'a> {
    pub(crate) store: &'a dyn Holder,
    pub(crate) now: Timestamp,
    /// How many entries it has.
    pub(crate) entries: &'a dyn Fn() -> Result<u64>,
    /// The time zone that it remembers.
    pub(crate) zone: &'a dyn Fn() -> Result<Option<String>>,
    pub(crate) flush: &'a dyn Fn() -> Result<()>,
}

impl OpenStore<'_> {
    /// An input that is read once; a copy of what is long lies in a directory meanwhile.
    #[cfg(feature = "valkey")]
    pub(crate) fn import_once(
        &self,
        input: impl Read,
        dir: &Path,
        options: ImportOptions<'_>,
        progress: impl FnMut(&ImportProgress),
    ) -> Result<ImportReport> {
        self.import(spool(input, dir)?, options, progress)
    }

    fn import(
        &self,
        mut input: impl Input,
        options: ImportOptions<'_>,
        mut progress: impl FnMut(&ImportProgress),
    ) -> Result<ImportReport> {
        let mut look = Run::new(Nowhere::default(), options.unheard(), self.now, None);
        input.feed(&mut look, &mut |_| {})?;
        look.judge()?;
        drop(look);

        let before = (self.entries)()?;
        let target = Open::new(self.store, options.on_conflict, options.dry_run);
        let mut run = Run::new(target, options, self.now, (self.zone)()?);
        input.feed(&mut run, &mut progress)?;
        run.report.not_in_file = before.saturating_sub(run.report.updated + run.report.kept);
        if !run.report.dry_run {
            (self.flush)()?;
        }
        run.end(&mut progress)
    }
}

/// Copies the input to where it can be read twice.
fn spool(mut input: impl Read, dir: &Path) -> Result<Twice> {
    let mut spool = spooled_tempfile_in(SPOOL_IN_MEMORY, dir);
    let mut buffer = vec![0; 1 << 16];
    loop {
        match input.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => spool
                .write_all(buffer.get(..read).unwrap_or_default())
                .map_err(|e| Error::io("keep a copy of the input in", dir, e))?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(read_failed(error)),
        }
    }
    Ok(Twice(spool))
}
