//! What `migrate` reads: a regular file, standard input, or a database. It is only ever read.

use std::fs::{self, File, Metadata};
use std::io::{Read, stdin};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use chrono::{DateTime, Utc};

#[cfg(feature = "sqlite")]
use cloakroom::import::Database;
use cloakroom::import::{Damage, ImportOptions, ImportProgress, ImportReport};
use cloakroom::{Options, SessionStore, Timestamp};

/// An open source.
pub(super) struct Source {
    content: Content,
    /// Its size in bytes and the time it was written, where they are known.
    pub(super) size: Option<u64>,
    pub(super) time: Option<Timestamp>,
}

enum Content {
    Text(Box<dyn Read>),
    #[cfg(feature = "sqlite")]
    Database(Database),
}

impl Source {
    /// Opens the file, or standard input for `-`. `scope` names the part of a database.
    pub(super) fn open(path: &Path, scope: Option<&str>) -> Result<Self> {
        if path.as_os_str() == "-" {
            only_of_a_database(scope)?;
            return Ok(Self { content: Content::Text(Box::new(stdin())), size: None, time: None });
        }
        #[cfg(feature = "sqlite")]
        if fs::metadata(path).is_ok_and(|meta| meta.is_file()) && Database::is_at(path)? {
            let database = Database::open(path)?;
            let database = if let Some(scope) = scope { database.scope(scope)? } else { database };
            // The log of writes is younger than what it is to be written to.
            let mut log = path.as_os_str().to_owned();
            log.push("-wal");
            let times = [path, Path::new(&log)].into_iter().filter_map(|path| written(&fs::metadata(path).ok()?));
            return Ok(Self { time: times.max(), content: Content::Database(database), size: None });
        }
        only_of_a_database(scope)?;
        let file = open_regular(path)?;
        let meta = file.metadata().context("could not look at it")?;
        Ok(Self { time: written(&meta), content: Content::Text(Box::new(file)), size: Some(meta.len()) })
    }

    /// Makes a store of it.
    pub(super) fn create(
        &mut self,
        store: Options,
        import: ImportOptions<'_>,
        progress: impl FnMut(&ImportProgress),
    ) -> cloakroom::Result<ImportReport> {
        match &mut self.content {
            Content::Text(text) => SessionStore::create_from(store, text, import, progress),
            #[cfg(feature = "sqlite")]
            Content::Database(database) => SessionStore::create_from_database(store, database, import, progress),
        }
    }

    /// Imports it into a store that is there.
    pub(super) fn import(
        &mut self,
        store: &SessionStore,
        import: ImportOptions<'_>,
        progress: impl FnMut(&ImportProgress),
    ) -> cloakroom::Result<ImportReport> {
        match &mut self.content {
            Content::Text(text) => store.import(text, import, progress),
            #[cfg(feature = "sqlite")]
            Content::Database(database) => store.import_database(database, import, progress),
        }
    }

    /// Where a line begins, or a row.
    pub(super) fn line(&self, number: u64) -> String {
        match self.content {
            Content::Text(_) => format!("on line {number}"),
            #[cfg(feature = "sqlite")]
            Content::Database(_) => format!("in row {number}"),
        }
    }

    /// Where it is damaged.
    pub(super) fn place(&self, damage: &Damage) -> String {
        match self.content {
            Content::Text(_) => format!("line {}, column {}", damage.line, damage.column),
            #[cfg(feature = "sqlite")]
            Content::Database(_) => format!("row {}", damage.line),
        }
    }
}

fn only_of_a_database(scope: Option<&str>) -> Result<()> {
    if scope.is_some() {
        bail!("only a database has scopes: leave --scope out");
    }
    Ok(())
}

fn written(meta: &Metadata) -> Option<Timestamp> {
    meta.modified().ok().map(|time| Timestamp::from(DateTime::<Utc>::from(time)))
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
