//! Bad entries: why they are bad, and how they go into the quarantine.

use std::fmt::Write as _;
use std::io::{self, Write};

use super::splitter::{Item, MAX_ENTRY_BYTES};
use crate::gateway::Gateway;
use crate::json::{self, JsonError};
use crate::key::{MAX_KEY_BYTES, NameError};

/// Why an entry is not imported. Messages hold nothing of it.
#[derive(Debug, thiserror::Error)]
pub(super) enum Bad {
    #[error("it is not UTF-8 from byte {at} of it on")]
    Utf8 { at: usize },
    #[error("its key is not UTF-8")]
    KeyUtf8,
    #[error("its key is longer than {MAX_KEY_BYTES} bytes")]
    KeyTooLong,
    #[error("its key is no JSON string: {0}")]
    KeyJson(JsonError),
    /// It would come back as another key, and two such keys as one.
    #[error("its key holds half of a surrogate pair")]
    KeyHalf,
    #[error("its key is no session key: {0}")]
    Key(NameError),
    #[error("it names another session key")]
    OtherKey,
    #[error("the name of a note holds a NUL character")]
    NoteName,
    #[error("it is {0} bytes long, and {MAX_ENTRY_BYTES} is the limit")]
    TooLong(u64),
    #[error("it needs {bytes} bytes in the store, and {limit} is the limit")]
    TooLarge { bytes: usize, limit: usize },
    #[error("the store has an entry under its key whose {0} record cannot be decoded: repair the store")]
    Unreadable(&'static str),
    #[error("{0}")]
    Json(JsonError),
    #[error("it is no object, but {0}")]
    NoObject(&'static str),
    #[error("it is no entry, but an object of entries")]
    Entries,
    #[error("the name of one of its fields holds half of a surrogate pair")]
    FieldHalf,
    #[error("it has no {0}")]
    NoId(&'static str),
    #[error("it is an entry of {}, and the file is read as one of {}", is.name(), read_as.name())]
    OtherGateway { is: Gateway, read_as: Gateway },
    #[error("its {field} is {found}, and a text is expected")]
    IdKind { field: &'static str, found: &'static str },
    #[error("its {0} holds half of a surrogate pair")]
    IdHalf(&'static str),
    #[error("its session id is not valid: {0}")]
    Id(NameError),
    #[error("the file ends or is damaged within it")]
    Partial,
}

/// Writes one line.
pub(super) fn write_line(sink: &mut dyn Write, item: &Item, reason: &str) -> io::Result<()> {
    let mut line = format!("{{\"line\":{},\"byte\":{},", item.place.line, item.place.byte);
    match std::str::from_utf8(&item.key) {
        Ok(key) => {
            // Half of a surrogate pair is an error to many readers of JSON, so such a key stands as it was written.
            let spelled = json::normal(key).ok().filter(|spelled| !json::has_half(spelled));
            line += &format!("\"key\":{},", spelled.unwrap_or_else(|| json::quote(key)));
        }
        Err(_) => line += &format!("\"key_hex\":\"{}\",", hex(&item.key)),
    }
    line += &format!("\"reason\":{},\"bytes\":{},", json::quote(reason), item.length);
    match std::str::from_utf8(&item.value) {
        Ok(raw) => line += &format!("\"raw\":{}}}\n", json::quote(raw)),
        Err(_) => line += &format!("\"raw_hex\":\"{}\"}}\n", hex(&item.value)),
    }
    sink.write_all(line.as_bytes())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing to a String does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
