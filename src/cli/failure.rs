//! Errors as a person reads them: one line that names the cause and what to do.

use std::fmt::{self, Write as _};
use std::io::{self, Write as _, stderr, stdout};
use std::os::unix::fs::MetadataExt;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Result, anyhow};
use cloakroom::live::AskError;
use cloakroom::{Error, SessionId, SessionKey};

use super::Exit;
use super::output::clean;

/// What only the command line can say.
#[derive(Debug)]
pub(crate) enum Failure {
    /// There is nothing at the path that --db names.
    NoStore(PathBuf),
    /// The cluster that --url names has no such store.
    #[cfg_attr(not(feature = "valkey"), expect(dead_code, reason = "there is no cluster"))]
    NotOnCluster { shown: String },
    /// A command was given a key that the store does not have.
    NoEntry(SessionKey),
    /// No entry has this session id.
    NoSession(SessionId),
    /// Entries were passed over.
    Unreadable(u64),
    /// More than half of the entries would go, and there is nobody to ask.
    NeedsYes { removed: u64, entries: u64 },
    /// Many entries would change, likewise.
    NeedsYesTo { deed: String },
    /// Entries would be removed, and nobody said how many that should be.
    NeedsExpect { found: u64 },
    /// They are not as many as somebody said.
    CountDiffers { expected: u64, found: u64, unreadable: u64 },
    /// The answer to that was no.
    Declined { done: &'static str },
    /// Other entries have the keys that some were to get.
    Collision { collisions: u64, first: SessionKey },
    /// A file is in the way.
    Exists { path: PathBuf, advice: &'static str },
    /// What is to go to a quarantine cannot be written there.
    Quarantine { path: PathBuf, source: Error },
    /// Somebody has the store open, and offers no view of it.
    NotServed(Error),
    /// Something of an imported file was left out.
    Incomplete { quarantined: u64, quarantine: Option<PathBuf>, damage: Option<String>, advice: &'static str },
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoStore(path) => write!(f, "there is no store at {}", path.display()),
            Self::NotOnCluster { shown } => write!(f, "there is no store {shown}"),
            // The operator typed it: here the raw text helps, where a log would have to redact it.
            Self::NoEntry(key) => write!(f, "no entry for this key: {}", key.as_str()),
            Self::NotServed(locked) => write!(f, "{locked}"),
            Self::NoSession(id) => write!(f, "no entry has this session id: {id}"),
            Self::Unreadable(entries) => write!(f, "left out because they cannot be decoded: {entries}"),
            Self::NeedsYes { removed, entries } => write!(f, "this would remove {removed} of {entries} entries"),
            Self::NeedsYesTo { deed } => write!(f, "this would {deed}"),
            Self::NeedsExpect { found } => write!(f, "this would remove entries: {found}; nothing was removed"),
            Self::CountDiffers { expected, found, unreadable } => {
                write!(f, "entries expected: {expected}, found: {found}")?;
                if *unreadable > 0 {
                    write!(f, ", and cannot be decoded: {unreadable}")?;
                }
                f.write_str("; nothing was removed")
            }
            Self::Declined { done } => write!(f, "nothing was {done}"),
            Self::Collision { collisions, first } => {
                write!(f, "new keys that other entries have: {collisions}, the first is {}", first.as_str())
            }
            Self::Exists { path, .. } => write!(f, "{} exists", path.display()),
            Self::Quarantine { path, .. } => write!(f, "the quarantine {} cannot be written", path.display()),
            Self::Incomplete { quarantined, quarantine, damage, .. } => {
                if let Some(place) = damage {
                    write!(
                        f,
                        "it is damaged at {place} and was not read from there on{}",
                        if *quarantined > 0 { ", " } else { "" }
                    )?;
                }
                if *quarantined > 0 {
                    write!(f, "bad entries: {quarantined}")?;
                }
                quarantine.as_ref().map_or(Ok(()), |path| write!(f, " (see {})", path.display()))
            }
        }
    }
}

impl std::error::Error for Failure {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Quarantine { source, .. } => Some(source),
            _ => None,
        }
    }
}

impl Failure {
    /// Like [`Error::kind`], for programs that read JSON.
    fn kind(&self) -> &'static str {
        match self {
            Self::NoStore(_) | Self::NotOnCluster { .. } => "not_found",
            Self::NoEntry(_) => "no_entry",
            Self::NoSession(_) => "no_session",
            Self::NotServed(locked) => locked.kind(),
            Self::Unreadable(_) => "unreadable",
            Self::Exists { .. } => "exists",
            Self::NeedsYes { .. } | Self::NeedsYesTo { .. } => "needs_yes",
            Self::NeedsExpect { .. } => "needs_expect",
            Self::CountDiffers { .. } => "count_differs",
            Self::Declined { .. } => "declined",
            Self::Collision { .. } => "collision",
            Self::Quarantine { .. } => "quarantine",
            Self::Incomplete { .. } => "incomplete",
        }
    }
}

/// Logs panics for debugging, and prints none: the engine panics on some damaged files, and the library catches
/// that and says more than the panic does.
pub(crate) fn log_panics() {
    set_hook(Box::new(|panic| tracing::debug!(%panic, "panicked")));
}

/// Runs `work` and makes a panic in it an error.
pub(crate) fn catch<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
        Err(anyhow!(text.unwrap_or_else(|| "no message".into())).context("this is a bug in cloakroom"))
    })
}

/// Writes `error: <what>: <cause>; <what to do>` to standard error, and as JSON to standard output too if a script asked
/// for that.
pub(crate) fn report(error: &anyhow::Error, json: bool) -> Exit {
    let message = message(error);
    // Where standard error is gone, the exit code has to do.
    let _ = writeln!(stderr(), "error: {message}");
    if json {
        print_json(kind(error), &message);
    }
    match error.downcast_ref() {
        Some(Failure::NeedsYes { .. } | Failure::NeedsYesTo { .. } | Failure::NeedsExpect { .. }) => Exit::Misused,
        _ => Exit::Failed,
    }
}

/// Prints what the parser says: its complaint, or the help that was asked for.
pub(crate) fn report_wrong_use(wrong_use: &clap::Error, json: bool) -> ExitCode {
    // Nobody is left to tell if even this cannot be written.
    let _ = wrong_use.print();
    if json && wrong_use.use_stderr() {
        let text = wrong_use.render().to_string();
        let said = text.lines().take_while(|line| !line.is_empty()).collect::<Vec<_>>().join(" ");
        print_json("usage", said.trim_start_matches("error: "));
    }
    u8::try_from(wrong_use.exit_code()).unwrap_or(2).into()
}

fn print_json(kind: &str, message: &str) {
    let error = serde_json::json!({"error": {"kind": kind, "message": message}});
    let _ = writeln!(stdout(), "{error}");
}

fn kind(error: &anyhow::Error) -> &str {
    fn known<'a>(cause: &'a (dyn std::error::Error + 'static)) -> Option<&'a str> {
        let asked = |error: &'a AskError| match error {
            AskError::NotServed { .. } => "not_served",
            AskError::Refused { kind, .. } => kind.as_str(),
            _ => "not_answered",
        };
        let failed = cause.downcast_ref::<Failure>().map(Failure::kind);
        failed.or_else(|| cause.downcast_ref::<Error>().map(Error::kind)).or_else(|| cause.downcast_ref().map(asked))
    }
    error.chain().find_map(known).unwrap_or("failed")
}

fn message(error: &anyhow::Error) -> String {
    let mut line = String::new();
    let mut said = String::new();
    for cause in error.chain().map(ToString::to_string) {
        // Messages of other crates may end with their cause already.
        if !said.ends_with(&cause) || said.is_empty() {
            let _ = write!(line, "{}{cause}", if line.is_empty() { "" } else { ": " });
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
            Failure::NoStore(_) => "name another with --db, or make one with `cloakroom migrate`",
            Failure::NotOnCluster { .. } => "name another in --url, or make one with `migrate` or `restore`",
            Failure::NoEntry(_) | Failure::NoSession(_) => "`cloakroom list` shows those there are",
            Failure::NotServed(_) => "stop that program first, or have it offer a live view (`Live::serve`)",
            Failure::NeedsYes { .. } => "look at it with --dry-run, and repeat it with --yes if that is right",
            Failure::NeedsYesTo { .. } => "repeat it with --yes if that is right",
            Failure::NeedsExpect { .. } => {
                "look at them with `list --prefix`, and repeat it with --expect and that number"
            }
            Failure::CountDiffers { .. } => "`cloakroom list --prefix` shows those there are",
            Failure::Declined { .. } => return None,
            Failure::Collision { .. } => "remove or rename those first, and run it again",
            Failure::Unreadable(_) => "`cloakroom verify` names them",
            Failure::Quarantine { .. } => "name a place that can be written with --quarantine",
            Failure::Exists { advice, .. } | Failure::Incomplete { advice, .. } => advice,
        });
    }
    if let Some(AskError::NotServed { .. }) = error.downcast_ref() {
        return Some("leave out --live, or have the gateway serve one (`Live::serve`)");
    }
    match error.downcast_ref::<Error>()? {
        Error::NotAStore { .. } => Some("name the directory of a store with --db"),
        Error::Locked { .. } => Some("stop that program first"),
        Error::PermissionDenied { path, source, .. } => Some(denied(path, source)),
        Error::Unwritable { .. } => {
            Some("copy it (`cp -R`), make the copy writable (`chmod -R u+rwX`), and name the copy with --db")
        }
        Error::Exposed { group: Some(_), .. } => Some("CLOAKROOM_TRUST_GROUP=1 in the environment trusts its group"),
        Error::ClockBehind { .. } => Some("--trust-times does that, and nothing was imported"),
        Error::LocalTimeZone { .. } => Some("name the zone: with --timezone, or as time_zone in the config file"),
        Error::StoreExists { .. } => Some("name one that is free with --db"),
        Error::Unsound { .. } => Some("`cloakroom verify` names them, and `verify --repair` mends them"),
        Error::DamagedRecord { record: "h" | "c" | "x" | "t", .. } => {
            Some("`cloakroom verify` lists what is damaged, and `cloakroom remove` takes an entry away that is")
        }
        Error::DamagedRecord { .. } => Some("`cloakroom verify` lists what is damaged, and `verify --repair` mends it"),
        _ => None,
    }
}

/// What to do where the operating system denies access to `path`, or to making it.
fn denied(path: &Path, source: &io::Error) -> &'static str {
    if source.kind() == io::ErrorKind::ReadOnlyFilesystem {
        return "its mount is read-only: name a place that can be written";
    }
    let meta = path.ancestors().find_map(|path| path.symlink_metadata().ok());
    if meta.is_some_and(|meta| meta.uid() == rustix::process::geteuid().as_raw()) {
        "it is yours, and its mode denies that: change it with `chmod`"
    } else {
        "run this as the user who owns it"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_stand_on_one_line_and_none_twice() {
        let denied = io::Error::new(io::ErrorKind::PermissionDenied, "denied\nby the system");
        let error = Error::PermissionDenied { action: "open", path: "a/b".into(), source: denied };
        let expected = "no permission to open a/b: denied\\u{a}by the system; run this as the user who owns it";
        assert_eq!(message(&error.into()), expected);
        let bad = "a..b".parse::<SessionKey>().unwrap_err();
        assert_eq!(message(&Error::InvalidKey(bad).into()), "not a session key: it holds \"..\"");
    }

    #[test]
    fn a_panic_is_an_error() {
        let caught = catch::<()>(|| panic!("no {}", "luck")).unwrap_err();
        assert_eq!(message(&caught), "this is a bug in cloakroom: no luck");
        assert_eq!(catch(|| Ok(7)).unwrap(), 7);
    }
}
