//! Import of the databases in which the gateways keep their entries.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::fs::File;
use std::hash::BuildHasher;
use std::io;
use std::path::{Path, PathBuf};

use super::input::Input;
use super::options::ImportOptions;
use super::report::{ImportProgress, ImportReport};
use super::run::Run;
use super::splitter::{Item, MAX_ENTRY_BYTES, MAX_RAW_KEY_BYTES, Place, Splitter, Start, Step};
use super::target::Target;
use crate::config::Options;
use crate::error::{Error, Result};
use crate::gateway::Gateway;
use crate::json;
use crate::sqlite::{Reader, Row, is_one};
use crate::store::SessionStore;

/// A gateway's SQLite database, open for reading: Hermes' `state.db` with its table `gateway_routing`, or that of an agent
/// of OpenClaw with `session_nodes`. Needs the feature `sqlite`.
///
/// Nothing is written to it or beside it. Where it goes by way of a log of writes ahead (WAL), has a journal or is locked,
/// a copy in the directory for temporary files is read, the log included; the copy has no name any more when this exists.
/// Otherwise writers wait while this is open. Do not open one that the same process has open through an SQLite of its own,
/// which would lose its locks.
///
/// ```no_run
/// use cloakroom::import::{Database, ImportOptions};
/// use cloakroom::{Options, SessionStore};
/// let database = Database::open("/home/ada/.hermes/state.db")?;
/// let options = ImportOptions::new().zone("Europe/Berlin".parse()?);
/// let report = SessionStore::create_from_database(Options::new("sessions.db"), &database, options, |_| {})?;
/// println!("{} entries", report.imported);
/// # Ok::<(), cloakroom::Error>(())
/// ```
#[derive(Debug)]
pub struct Database {
    reader: Reader,
    scope: Option<String>,
    mirror: Mirror,
}

impl Database {
    /// Whether the file at `path` begins as a database does. It may be none of a gateway.
    ///
    /// # Errors
    /// Those of opening and reading the file.
    pub fn is_at(path: impl AsRef<Path>) -> io::Result<bool> {
        is_one(path.as_ref())
    }

    /// Opens a database, with the rows of all its scopes.
    ///
    /// # Errors
    /// [`Error::NotASessionFile`] if it has no table of sessions, or is damaged at its beginning; [`Error::Io`] and its like
    /// if it cannot be read or copied.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let reader = Reader::open(path)?;
        let mirror = Mirror::beside(path, &reader)?;
        Ok(Self { reader, scope: None, mirror })
    }

    /// Takes the rows of one scope only. To Hermes a scope is the absolute path of a directory of sessions. Of a database with
    /// several, otherwise, the newest entry of a key counts.
    ///
    /// # Errors
    /// [`Error::NotASessionFile`] if there is no row of this scope; the message names those there are.
    pub fn scope(mut self, scope: &str) -> Result<Self> {
        let scopes = self.reader.scopes()?;
        if !scopes.iter().any(|there| there == scope) {
            let there = scopes.iter().map(|scope| format!("{scope:?}")).collect::<Vec<_>>().join(", ");
            let reason = format!("the database has no entry of the scope {scope:?}, but of these: {there}");
            return Err(Error::NotASessionFile { reason });
        }
        self.scope = Some(scope.to_owned());
        Ok(self)
    }
}

impl SessionStore {
    /// Makes a store from a gateway's database, as [`create_from`](SessionStore::create_from) does from a file.
    ///
    /// Entries are read, judged and counted alike. Places are rows: [`line`](super::Problem::line) is the number of the row.
    /// Where the database is damaged or cut off, the rows that SQLite can still hand out before that are imported. Beside
    /// Hermes' table stands a `sessions.json` that mirrors it: where the two disagree, the table counts, and the report
    /// [says](ImportReport::mirror_differs) how often.
    ///
    /// # Errors
    /// As `create_from`.
    pub fn create_from_database(
        options: Options,
        database: &Database,
        import: ImportOptions<'_>,
        progress: impl FnMut(&ImportProgress),
    ) -> Result<ImportReport> {
        Self::create_of(options, database, import, progress)
    }

    /// Imports a gateway's database into a store that is there, as [`import`](SessionStore::import) does a file. See
    /// [`create_from_database`](SessionStore::create_from_database).
    ///
    /// # Errors
    /// As `import`.
    pub fn import_database(
        &self,
        database: &Database,
        options: ImportOptions<'_>,
        progress: impl FnMut(&ImportProgress),
    ) -> Result<ImportReport> {
        self.import_of(database, options, progress)
    }
}

impl Input for &Database {
    fn feed<T: Target>(&mut self, run: &mut Run<'_, T>, progress: &mut impl FnMut(&ImportProgress)) -> Result<()> {
        let mut place = Place { byte: 0, line: 1, column: 1 };
        let mut met = 0;
        let damage = self.reader.each(self.scope.as_deref(), |row| {
            run.report.bytes = place.byte + (row.key.len() + row.entry.len()) as u64;
            if let Some(is_same) = self.mirror.compare(&row) {
                met += 1;
                run.report.mirror_differs += u64::from(!is_same);
            }
            run.item(&item(&row, place), progress)?;
            place = Place { byte: run.report.bytes, line: place.line + 1, column: 1 };
            Ok(())
        })?;
        match damage {
            Some(reason) => run.damage(place, &reason, None),
            None => {
                run.report.mirror_only = self.mirror.entries(self.scope.as_deref()).saturating_sub(met);
                Ok(())
            }
        }
    }
}

fn item(row: &Row<'_>, place: Place) -> Item {
    let key = match std::str::from_utf8(row.key) {
        Ok(key) => json::quote(key).into_bytes(),
        Err(_) => [b"\"", row.key, b"\""].concat(),
    };
    Item {
        place,
        key_too_long: key.len() > MAX_RAW_KEY_BYTES,
        key: key.get(..MAX_RAW_KEY_BYTES).unwrap_or(&key).to_vec(),
        value: row.entry.get(..MAX_ENTRY_BYTES).unwrap_or(row.entry).to_vec(),
        length: row.entry.len() as u64,
    }
}

/// What Hermes' `sessions.json` beside its table says: for each key a hash of the entry.
#[derive(Debug, Default)]
struct Mirror {
    hasher: RandomState,
    /// By a hash of scope and key.
    entries: HashMap<u64, u64>,
    /// How many of each scope.
    counts: HashMap<String, u64>,
}

impl Mirror {
    /// Reads those of all scopes. One that is not there, or damaged from some place on, says nothing from there on.
    fn beside(database: &Path, reader: &Reader) -> Result<Self> {
        let mut mirror = Self::default();
        if reader.gateway != Gateway::Hermes {
            return Ok(mirror);
        }
        for scope in reader.scopes()? {
            if let Some(file) = mirror_of(database, &scope) {
                // It says what it can: the table counts.
                if let Err(error) = mirror.read(file, &scope) {
                    tracing::warn!(%error, "the mirror beside the table was not read to its end");
                }
            }
        }
        Ok(mirror)
    }

    fn read(&mut self, file: File, scope: &str) -> io::Result<()> {
        let mut splitter = Splitter::new(file);
        if splitter.start()? != Start::Object {
            return Ok(());
        }
        while let Step::Item(item) = splitter.next()? {
            let key = std::str::from_utf8(&item.key).ok().and_then(|key| json::normal(key).ok());
            let Some(key) = key.and_then(|key| json::whole_string(&key)).filter(|key| !key.starts_with('_')) else {
                continue;
            };
            let place = self.hasher.hash_one((scope.as_bytes(), key.as_bytes()));
            if self.entries.insert(place, self.of_entry(&item.value)).is_none() {
                *self.counts.entry(scope.to_owned()).or_default() += 1;
            }
        }
        Ok(())
    }

    /// A hash that white space, escapes and the order of fields do not change.
    fn of_entry(&self, bytes: &[u8]) -> u64 {
        match serde_json::from_slice::<serde_json::Value>(bytes) {
            Ok(value) => self.hasher.hash_one(value.to_string().as_bytes()),
            Err(_) => self.hasher.hash_one(bytes),
        }
    }

    /// Whether it says the same of a row, if it says anything.
    fn compare(&self, row: &Row<'_>) -> Option<bool> {
        if self.entries.is_empty() {
            return None;
        }
        let there = self.entries.get(&self.hasher.hash_one((row.scope, row.key)))?;
        Some(*there == self.of_entry(row.entry))
    }

    fn entries(&self, scope: Option<&str>) -> u64 {
        match scope {
            Some(scope) => self.counts.get(scope).copied().unwrap_or_default(),
            None => self.counts.values().sum(),
        }
    }
}

/// The mirror of a scope: in the directory that the scope names, or, where the database was moved, beside it.
fn mirror_of(database: &Path, scope: &str) -> Option<File> {
    let named = Path::new(scope).join("sessions.json");
    let moved = database.with_file_name("sessions").join("sessions.json");
    let places: [Option<PathBuf>; 2] = [named.is_absolute().then_some(named), Some(moved)];
    places.into_iter().flatten().filter(|path| path.is_file()).find_map(|path| File::open(path).ok())
}
