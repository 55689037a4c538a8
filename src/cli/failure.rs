//! Errors as a person reads them: one line that names the cause and what to do.

use std::fmt::{self, Write as _};
use std::io::{Write as _, stderr};

use cloakroom::{Error, SessionId, SessionKey};

use super::Exit;
use super::output::clean;

/// What only the command line can say.
#[derive(Debug)]
pub(crate) enum Failure {
    /// A command was given a key that the store does not have.
    NoEntry(SessionKey),
    /// No entry has this session id.
    NoSession(SessionId),
    /// Entries were passed over.
    Unreadable(u64),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // The operator typed it: here the raw text helps, where a log would have to redact it.
            Self::NoEntry(key) => write!(f, "no entry for this key: {}", key.as_str()),
            Self::NoSession(id) => write!(f, "no entry has this session id: {id}"),
            Self::Unreadable(entries) => write!(f, "entries left out because they do not read: {entries}"),
        }
    }
}

impl std::error::Error for Failure {}

/// Writes `error: <what>: <cause>; <what to do>` to standard error.
pub(crate) fn report(error: &anyhow::Error) -> Exit {
    // Where standard error is gone, the exit code has to do.
    let _ = writeln!(stderr(), "{}", line(error));
    Exit::Failed
}

fn line(error: &anyhow::Error) -> String {
    let mut line = String::from("error");
    let mut said = String::new();
    for cause in error.chain().map(ToString::to_string) {
        // Some messages end with their cause already.
        if !said.ends_with(&cause) {
            let _ = write!(line, ": {cause}");
        }
        said = cause;
    }
    if let Some(advice) = error.chain().find_map(advice) {
        let _ = write!(line, "; {advice}");
    }
    clean(&line).into_owned()
}

fn advice(error: &(dyn std::error::Error + 'static)) -> Option<&'static str> {
    if let Some(failure) = error.downcast_ref::<Failure>() {
        return Some(match failure {
            Failure::NoEntry(_) | Failure::NoSession(_) => "`cloakroom list` shows what there is",
            Failure::Unreadable(_) => "`cloakroom verify` names them",
        });
    }
    match error.downcast_ref::<Error>()? {
        Error::NotAStore { .. } => Some("name the directory of a store with --db"),
        Error::Locked { .. } => Some("stop that program first"),
        Error::PermissionDenied { .. } => Some("run this as the user who owns it"),
        Error::DamagedRecord { .. } => Some("`cloakroom verify` lists what is damaged"),
        _ => None,
    }
}
