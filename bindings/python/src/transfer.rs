//! In and out: imports, exports, backups.

use std::fs::{File, OpenOptions, metadata};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use cloakroom::backup::{BackupOptions, BackupReport};
use cloakroom::chrono::{DateTime, Utc};
use cloakroom::export::{ExportFormat, ExportOptions, ExportReport};
use cloakroom::gateway::Gateway;
use cloakroom::import::{ImportOptions, ImportReport, OnConflict};
use cloakroom::{Options, SessionStore, TimeZone, Timestamp};
use pyo3::exceptions::{PyOSError, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::convert::{gateway, timestamp};
use crate::error::OrRaise;

/// A file that is to come in, and how.
pub(crate) struct Import {
    file: File,
    how: How,
}

#[derive(Default)]
struct How {
    quarantine: Option<Quarantine>,
    gateway: Option<Gateway>,
    zone: Option<TimeZone>,
    on_conflict: OnConflict,
    trust_times: bool,
    dry_run: bool,
    file_time: Option<Timestamp>,
}

impl Import {
    pub(crate) fn new(py: Python<'_>, file: &Path, given: Option<&Bound<'_, PyDict>>) -> PyResult<Self> {
        if !metadata(file)?.is_file() {
            return Err(PyOSError::new_err("what is imported is a regular file"));
        }
        let file = File::open(file)?;
        let written = file.metadata().and_then(|meta| meta.modified()).ok();
        let mut how = How { file_time: written.map(|time| DateTime::<Utc>::from(time).into()), ..How::default() };
        for (name, value) in given.into_iter().flatten().filter(|(_, value)| !value.is_none()) {
            match name.extract()? {
                "gateway" => how.gateway = Some(gateway(value.extract()?)?),
                "zone" => how.zone = Some(value.extract::<&str>()?.parse().or_raise(py)?),
                "on_conflict" => how.on_conflict = value.extract::<&str>()?.parse().or_raise(py)?,
                "trust_times" => how.trust_times = value.extract()?,
                "dry_run" => how.dry_run = value.extract()?,
                "file_time" => how.file_time = Some(timestamp(&value)?),
                "quarantine" => how.quarantine = Some(Quarantine { path: value.extract()?, file: None }),
                name => return Err(PyTypeError::new_err(format!("an import has no keyword argument {name:?}"))),
            }
        }
        Ok(Self { file, how })
    }

    pub(crate) fn create(mut self, store: Options) -> Result<ImportReport, cloakroom::Error> {
        let file = self.file;
        SessionStore::create_from(store, file, self.how.options(), |_| {})
    }

    pub(crate) fn merge(mut self, store: &SessionStore) -> Result<ImportReport, cloakroom::Error> {
        let file = self.file;
        store.import(file, self.how.options(), |_| {})
    }
}

impl How {
    fn options(&mut self) -> ImportOptions<'_> {
        let mut options = ImportOptions::new()
            .gateway(self.gateway)
            .on_conflict(self.on_conflict)
            .trust_times(self.trust_times)
            .dry_run(self.dry_run);
        if let Some(zone) = self.zone.take() {
            options = options.zone(zone);
        }
        if let Some(time) = self.file_time {
            options = options.file_time(time);
        }
        match &mut self.quarantine {
            Some(quarantine) => options.quarantine(quarantine),
            None => options,
        }
    }
}

/// The file of bad entries, made when there is one. It takes the place of nothing.
struct Quarantine {
    path: PathBuf,
    file: Option<File>,
}

impl Write for Quarantine {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let file = match self.file.take() {
            Some(file) => file,
            None => OpenOptions::new().write(true).create_new(true).mode(0o600).open(&self.path)?,
        };
        self.file.insert(file).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.as_ref().map_or(Ok(()), File::sync_all)
    }
}

pub(crate) fn export(
    py: Python<'_>,
    format: &str,
    zone: Option<&str>,
    force: bool,
) -> PyResult<impl FnOnce(&SessionStore, &Path) -> Result<ExportReport, cloakroom::Error> + Send> {
    let format: ExportFormat = format.parse().or_raise(py)?;
    let mut options = ExportOptions::new(format).force(force);
    if let Some(zone) = zone {
        options = options.zone(zone.parse::<TimeZone>().or_raise(py)?);
    }
    Ok(move |store: &SessionStore, path: &Path| store.export_to_file(path, &options))
}

pub(crate) fn backup(store: &SessionStore, path: &Path, force: bool) -> Result<BackupReport, cloakroom::Error> {
    store.backup_to_file(path, BackupOptions::new().force(force), |_| {})
}

pub(crate) fn restore(py: Python<'_>, backup: &Path, store: Options) -> PyResult<BackupReport> {
    let file = File::open(backup)?;
    py.detach(|| SessionStore::restore(store, file, |_| {})).or_raise(py)
}
