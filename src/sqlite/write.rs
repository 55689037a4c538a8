//! A database with nothing in it but Hermes' table.

use std::path::Path;

use rusqlite::{Connection, params};

use crate::error::{Error, Result};

/// The table as Hermes makes it.
const TABLE: &str = "CREATE TABLE gateway_routing (
    scope TEXT NOT NULL DEFAULT '',
    session_key TEXT NOT NULL,
    entry_json TEXT NOT NULL,
    updated_at REAL NOT NULL,
    PRIMARY KEY (scope, session_key)
)";

/// A row that is to be written.
pub(crate) struct NewRow<'a> {
    pub(crate) key: &'a str,
    pub(crate) entry: &'a str,
    /// Seconds since 1970.
    pub(crate) updated_at: f64,
}

/// Makes a database at `path`, where there is an empty file or none, and lets `fill` put rows of one scope into it. It is
/// not synced.
pub(crate) fn write_routing<T>(
    path: &Path,
    scope: &str,
    fill: impl FnOnce(&mut dyn FnMut(NewRow<'_>) -> Result<()>) -> Result<T>,
) -> Result<T> {
    let failed = |error: rusqlite::Error| Error::io("write", path, std::io::Error::other(error));
    let connection = Connection::open(path).map_err(failed)?;
    connection.execute_batch("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; BEGIN").map_err(failed)?;
    connection.execute_batch(TABLE).map_err(failed)?;
    let filled = {
        let mut insert = connection.prepare("INSERT INTO gateway_routing VALUES (?1, ?2, ?3, ?4)").map_err(failed)?;
        fill(&mut |row| insert.execute(params![scope, row.key, row.entry, row.updated_at]).map(drop).map_err(failed))?
    };
    connection.execute_batch("COMMIT").map_err(failed)?;
    connection.close().map_err(|(_, error)| failed(error))?;
    Ok(filled)
}
