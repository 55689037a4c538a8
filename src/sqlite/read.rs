//! The rows of a gateway's table.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension};

use super::copy;
use crate::error::{Error, Result};
use crate::gateway::Gateway;

/// How a database begins.
const MAGIC: &[u8; 16] = b"SQLite format 3\0";
/// Where it says how it is written, and with which number that it goes by way of a log of writes ahead.
const WRITE_VERSION: usize = 18;
const AHEAD: u8 = 2;
/// How long somebody else's lock is waited for before a copy is made.
const BUSY: Duration = Duration::from_millis(500);

/// A row: what its key, its entry and its scope hold, of whatever type they are.
pub(crate) struct Row<'a> {
    pub(crate) scope: &'a [u8],
    pub(crate) key: &'a [u8],
    pub(crate) entry: &'a [u8],
}

/// A database that is open for reading.
#[derive(Debug)]
pub(crate) struct Reader {
    connection: Connection,
    path: PathBuf,
    pub(crate) gateway: Gateway,
    /// Rows that the gateway takes for absent are marked.
    marks_absent: bool,
    /// The first builds of Hermes' table had no scope.
    has_scope: bool,
    /// The file is shorter than it says.
    is_cut: bool,
}

/// Whether the file at `path` begins as a database does.
pub(crate) fn is_one(path: &Path) -> io::Result<bool> {
    head(path).map(|head| head.starts_with(MAGIC))
}

fn head(path: &Path) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    File::open(path)?.take(100).read_to_end(&mut head)?;
    Ok(head)
}

/// Whether a file has fewer pages than its head says, if what that says is up to date.
fn is_cut(path: &Path, head: &[u8]) -> bool {
    let number = |at: usize| {
        let bytes = head.get(at..at + 4)?;
        Some(u32::from_be_bytes(bytes.try_into().ok()?))
    };
    let size = head.get(16..18).and_then(|size| size.try_into().ok());
    let page = size.map_or(0, |size| u64::from(u16::from_be_bytes(size)));
    let page = if page == 1 { 1 << 16 } else { page };
    let pages = number(28).filter(|_| number(24) == number(92)).unwrap_or(0);
    path.metadata().is_ok_and(|meta| meta.len() < page * u64::from(pages))
}

impl Reader {
    /// Opens a database without writing to it or to what is beside it.
    ///
    /// One that goes by way of a log of writes ahead, has a journal beside it or is locked is copied, and the copy is read:
    /// a reader of the first leaves an index of its log beside it, and the second has to be mended first.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let head = head(path).map_err(|e| Error::io("read", path, e))?;
        let is_ahead = head.get(WRITE_VERSION) == Some(&AHEAD);
        let in_place = if is_ahead || copy::has(path, "-wal") || copy::has(path, "-journal") {
            None
        } else {
            Self::in_place(path)?
        };
        let connection = match in_place {
            Some(connection) => connection,
            None => Self::of_copy(path)?,
        };
        Self::look(connection, path, is_cut(path, &head))
    }

    /// `None` if it has to be a copy.
    fn in_place(path: &Path) -> Result<Option<Connection>> {
        let opened = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).and_then(begin);
        match opened {
            Ok(connection) => Ok(Some(connection)),
            Err(error) => match error.sqlite_error_code() {
                Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked | ErrorCode::ReadOnly) => Ok(None),
                _ => Err(refused(path, error)),
            },
        }
    }

    fn of_copy(path: &Path) -> Result<Connection> {
        let (directory, copy) = copy::copy(path)?;
        // Nobody else knows of it, so no index of the log has to be shared.
        let opened = Connection::open_with_flags(copy, OpenFlags::SQLITE_OPEN_READ_WRITE)
            .and_then(|connection| {
                connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
                begin(connection)
            })
            .map_err(|error| refused(path, error))?;
        // The names are not needed any more, and the copy goes with the connection, however that ends.
        drop(directory);
        Ok(opened)
    }

    fn look(connection: Connection, path: &Path, is_cut: bool) -> Result<Self> {
        let has = |name: &str| {
            let found =
                connection
                    .query_row("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?1", [name], |_| Ok(()));
            found.optional().map(|found| found.is_some())
        };
        let has_column = |table: &str, column: &str| {
            let found = connection.query_row(
                "SELECT 1 FROM pragma_table_info(?1) WHERE name = ?2",
                [table, column],
                |_| Ok(()),
            );
            found.optional().map(|found| found.is_some())
        };
        let told = || -> rusqlite::Result<_> {
            Ok((
                has("gateway_routing")?,
                has("session_nodes")?,
                has_column("gateway_routing", "scope")?,
                has_column("session_nodes", "entry_valid")?,
            ))
        };
        let (hermes, openclaw, has_scope, marks_absent) = told().map_err(|error| refused(path, error))?;
        let gateway = match (hermes, openclaw) {
            (true, _) => Gateway::Hermes,
            (false, true) => Gateway::OpenClaw,
            (false, false) => {
                let reason =
                    "it is an SQLite database, but has no table of sessions (gateway_routing or session_nodes)";
                return Err(Error::NotASessionFile { reason: reason.into() });
            }
        };
        Ok(Self { connection, path: path.to_path_buf(), gateway, marks_absent, has_scope, is_cut })
    }

    /// Hands out each row, of one scope or of all. Answers why the database ceases to make sense, if it does.
    pub(crate) fn each(
        &self,
        scope: Option<&str>,
        mut each: impl FnMut(Row<'_>) -> Result<()>,
    ) -> Result<Option<String>> {
        let table = match self.gateway {
            Gateway::Hermes => "gateway_routing",
            Gateway::OpenClaw => "session_nodes",
        };
        let column = if self.has_scope { "scope" } else { "''" };
        let valid = if self.marks_absent { "entry_valid <> -1" } else { "1" };
        // Not by an index, which may be damaged where the table is not.
        let select = format!(
            "SELECT {column}, session_key, entry_json FROM {table} NOT INDEXED \
             WHERE (?1 IS NULL OR {column} = ?1) AND {valid}"
        );
        let mut statement = self.connection.prepare(&select).map_err(|e| refused(&self.path, e))?;
        let mut rows = statement.query([scope]).map_err(|e| refused(&self.path, e))?;
        loop {
            let row = match rows.next() {
                Ok(Some(row)) => row,
                Ok(None) => return Ok(self.is_cut.then(|| "the file ends before its last page".into())),
                Err(error) => return damage(error).map(Some).map_err(|e| failed(&self.path, e)),
            };
            let value = |index| row.get_ref(index).map_err(|e| failed(&self.path, e));
            let texts = [text(value(0)?), text(value(1)?), text(value(2)?)];
            let [scope, key, entry] = &texts;
            each(Row { scope, key, entry })?;
        }
    }

    /// The scopes that rows have.
    pub(crate) fn scopes(&self) -> Result<Vec<String>> {
        if !self.has_scope {
            return Ok(vec![String::new()]);
        }
        let read = || {
            let mut statement = self.connection.prepare("SELECT DISTINCT scope FROM gateway_routing NOT INDEXED")?;
            let scopes = statement.query_map([], |row| row.get_ref(0).map(|value| text(value).into_owned()))?;
            scopes.collect::<rusqlite::Result<Vec<_>>>()
        };
        // Where it is damaged, those before the damage are found when the rows are read.
        let scopes = read().or_else(|error| damage(error).map(|_| Vec::new())).map_err(|e| failed(&self.path, e))?;
        Ok(scopes.iter().map(|scope| String::from_utf8_lossy(scope).into_owned()).collect())
    }
}

/// Begins a transaction, so that all is of one moment, and reads something, which settles whether the database can be read.
fn begin(connection: Connection) -> rusqlite::Result<Connection> {
    connection.busy_timeout(BUSY)?;
    connection.pragma_update(None, "trusted_schema", false)?;
    // Otherwise nothing at all is read of a file that was cut off.
    connection.pragma_update(None, "writable_schema", true)?;
    connection.execute_batch("BEGIN")?;
    connection.query_row("SELECT count(*) FROM sqlite_master", [], |_| Ok(()))?;
    Ok(connection)
}

/// What a value is as text, whatever it is. The parser of entries says what it thinks of that.
fn text(value: ValueRef<'_>) -> Cow<'_, [u8]> {
    match value {
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => Cow::Borrowed(bytes),
        ValueRef::Null => Cow::Borrowed(b"null"),
        ValueRef::Integer(number) => Cow::Owned(number.to_string().into_bytes()),
        ValueRef::Real(number) => Cow::Owned(number.to_string().into_bytes()),
    }
}

/// What is wrong with the database, if that is the error.
fn damage(error: rusqlite::Error) -> rusqlite::Result<String> {
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase | ErrorCode::SystemIoFailure) => {
            Ok(error.to_string())
        }
        _ => Err(error),
    }
}

/// Why nothing of a database can be read.
fn refused(path: &Path, error: rusqlite::Error) -> Error {
    match damage(error) {
        Ok(damage) => Error::NotASessionFile { reason: format!("the database cannot be read: {damage}") },
        Err(error) => failed(path, error),
    }
}

pub(super) fn failed(path: &Path, error: rusqlite::Error) -> Error {
    Error::io("read", path, io::Error::other(error))
}
