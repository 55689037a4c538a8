//! The one public error.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::key::{NameError, SessionKey};
use crate::time::Timestamp;

/// What went wrong.
///
/// Messages name the path or the (redacted) key they speak of and never hold raw chat or user ids. A message does not
/// repeat its cause, which is its [`source`](std::error::Error::source): print the whole chain, as anyhow does with `{:#}`.
///
/// A [`NameError`](crate::key::NameError) becomes one with `?`:
///
/// ```
/// fn key_of(chat: &str) -> cloakroom::Result<cloakroom::SessionKey> {
///     Ok(cloakroom::SessionKey::new(format!("mine:{chat}"))?)
/// }
/// assert_eq!(key_of("..").unwrap_err().kind(), "invalid_name");
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A text is no session key.
    #[error("not a session key")]
    InvalidKey(#[source] NameError),
    /// A text is no session id.
    #[error("not a session id")]
    InvalidId(#[source] NameError),
    /// A text is no name of a lease.
    #[error("not a name of a lease")]
    InvalidLease(#[source] NameError),
    /// An entry has as many leases with a name as it may have.
    #[error("{key} has {limit} leases, which is the limit; release those that are not needed, or use fewer names")]
    TooManyLeases {
        /// Which entry.
        key: SessionKey,
        /// The limit.
        limit: usize,
    },
    /// A text is not what it was to be, a session key or a session id. This is what `?` makes of a [`NameError`], which
    /// does not know which of the two was asked for.
    #[error("not a session key or session id")]
    InvalidName(#[from] NameError),
    /// Of two prefixes one begins with the other, so an entry could be renamed twice.
    #[error(
        "one of the prefixes begins with the other, so an entry could be renamed twice: rename by way of a third one"
    )]
    OverlappingPrefixes,
    /// A cost is infinite or no number, and would stay so whatever is added to it.
    #[error("the cost of a turn is {cost}: it must be a finite number")]
    InvalidCost {
        /// What was given.
        cost: f64,
    },
    /// There is nothing at this path.
    #[error("there is no store at {path}: name another, or let one be created (`create` in the options)")]
    NotFound {
        /// Where the store was looked for.
        path: PathBuf,
    },
    /// There is something at this path, but no store.
    #[error("{path} is not a store: {reason}")]
    NotAStore {
        /// Where the store was looked for.
        path: PathBuf,
        /// What is there instead.
        reason: String,
    },
    /// Another process, or another handle in this one, has the store open.
    #[error(
        "the store at {path} is in use{}{}",
        holder.as_deref().map(|h| format!(" by {h}")).unwrap_or_default(),
        if *this_process { ", which is this one: share it with `SessionStore::open_shared`, or drop it first" } else { "" }
    )]
    Locked {
        /// The store.
        path: PathBuf,
        /// The holder: its process id, and the name of its machine or container.
        holder: Option<String>,
        /// It is this process.
        this_process: bool,
    },
    /// The store has a live view already.
    #[error("the store at {path} has a live view already")]
    Served {
        /// The store.
        path: PathBuf,
    },
    /// [`open_shared`](crate::SessionStore::open_shared) found the store open in this process, with another setting.
    #[error("the store at {path} is open in this process with another {option}: open it with the same options")]
    OptionsDiffer {
        /// The store.
        path: PathBuf,
        /// The method of [`Options`](crate::Options) that sets it.
        option: &'static str,
    },
    /// The store was written by a newer version of this program.
    #[error("the store at {path} has format {found}, and this program reads up to {supported}: use a newer cloakroom")]
    NewerFormat {
        /// The store.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The newest that this program reads.
        supported: u32,
    },
    /// The store was written before the first release, and nothing reads it any more.
    #[error(
        "the store at {path} has format {found}, of before the first release, and {supported} is read: import again"
    )]
    OlderFormat {
        /// The store.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The one that this program reads.
        supported: u32,
    },
    /// Others than this user own the directory or can write to it, so what is in it cannot be trusted.
    #[error("{path} is not safe for a store: {reason}")]
    Exposed {
        /// The directory.
        path: PathBuf,
        /// What is wrong, and what to do.
        reason: String,
        /// The group that may be trusted, where that would do: see [`Options::trust_group`](crate::Options::trust_group).
        group: Option<u32>,
    },
    /// The operating system denies access.
    #[error("no permission to {action} {path}")]
    PermissionDenied {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The store is this user's and cannot be written: its mount is read-only, or its modes are. Opening writes, so open
    /// a copy of the directory. Nobody has it open.
    #[error("the store at {path} cannot be written, and opening one writes: open a copy of it")]
    Unwritable {
        /// The store.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The disk, or the quota on it, is full; or a file, the store's or one that was to be written, would be larger than the
    /// process or the file system allows. Where the store is read-only since, opening it again gives up the space that it
    /// keeps for this, so that it can be pruned; the open report's `repairs` say so.
    #[error(
        "no space left to {action} {path}: free some, and try again; a store that became read-only has to be opened again"
    )]
    DiskFull {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// Reading or writing failed for another reason.
    #[error("could not {action} {path}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// Parts of the store are missing, or the database's own files are damaged. Of them only `snap.*` files were set
    /// aside; but sled may have written to `sled/db`, from the damage on, before it gave up. Copy the directory before you
    /// try anything with it.
    #[error("the database at {path} is damaged: restore a backup, or import again")]
    Damaged {
        /// The database.
        path: PathBuf,
        /// What the engine said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A record cannot be decoded. The store is otherwise usable: `verify` lists all such records, and verbs over many
    /// entries pass them over and count them, see [`Unreadable`](crate::report::Unreadable).
    #[error("cannot decode the {record} record of {key}: {}", way_out(record))]
    DamagedRecord {
        /// `sessions`, `activity`, …: the tree it is in. On a cluster `h`, `c`, `x` or `t`, as `docs/cluster.md` lists them.
        record: &'static str,
        /// Which entry.
        key: String,
        /// Why not.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Some of the store's records break its rules, so it is left as it is.
    #[error("the store at {path} is not sound: {violations} violations; repair it first")]
    Unsound {
        /// The store.
        path: PathBuf,
        /// How many violations [`verify`](crate::SessionStore::verify) found.
        violations: u64,
    },
    /// The database lies elsewhere, behind a link or a mount, so no other can take its place. Nothing was changed.
    #[error("the store at {path} cannot be compacted: {reason}, and give that path instead")]
    Elsewhere {
        /// The store.
        path: PathBuf,
        /// What lies elsewhere.
        reason: String,
    },
    /// A write or a sync failed earlier, and the store has been read-only since. Open it again to write.
    #[error("the store at {path} is read-only since a failure")]
    ReadOnly {
        /// The store.
        path: PathBuf,
        /// The first failure.
        #[source]
        failure: Arc<Error>,
    },
    /// A thread of the store panicked. It was caught, and the store is read-only.
    #[error("the committer panicked: {message}")]
    Panicked {
        /// The panic's message.
        message: String,
    },
    /// Too much was changed while a backup or an export read the store as of one moment. What it wrote is no backup.
    #[error(
        "too many changes during the snapshot (more than {limit} bytes retained); retry when the store is less busy"
    )]
    SnapshotTooLarge {
        /// The limit, in bytes.
        limit: usize,
    },
    /// An entry would be larger than the store keeps.
    #[error("the extras of {key} are {bytes} bytes of JSON, and {limit} is the limit")]
    TooLarge {
        /// Which entry.
        key: SessionKey,
        /// How large it would be, in bytes.
        bytes: usize,
        /// The limit, in bytes.
        limit: usize,
    },
    /// The store was closed.
    #[error("the store at {path} is closed")]
    Closed {
        /// The store.
        path: PathBuf,
    },
    /// The files of an open store were removed. What was changed since then is not kept, and nothing more can be.
    #[error("the files of the store at {path} were removed while it was open: restore a backup, or import again")]
    Removed {
        /// The store.
        path: PathBuf,
    },
    /// The process was forked after a store was opened in it. The store belongs to the process that opened it, and no
    /// other can be opened in the child: open stores after the fork, or start another program (`exec`).
    #[error("the store at {path} cannot be used in a forked process: open it after the fork")]
    Forked {
        /// The store.
        path: PathBuf,
    },
    /// The operating system gave no random numbers, which ids and revisions need.
    #[error("no random numbers from the operating system: {message}")]
    Random {
        /// What it said.
        message: String,
    },
    /// A setting has a value that cannot work.
    #[error("{setting} is {value}: {expected}")]
    Setting {
        /// Which setting.
        setting: &'static str,
        /// Its value.
        value: String,
        /// What it should be.
        expected: &'static str,
    },
    /// The engine failed in a way that is no input or output error.
    #[error("the database failed to {action}")]
    Engine {
        /// What was tried.
        action: &'static str,
        /// What the engine said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// An export or a backup would replace what is at this path.
    #[error("{path} exists: name another file, or allow it to be replaced (`force` in the options)")]
    Exists {
        /// Where it was to go.
        path: PathBuf,
    },
    /// What was to be imported is no session file: no JSON object, or one in which not one good entry is. Nothing of it
    /// was imported.
    #[error("not a session file: {reason}")]
    NotASessionFile {
        /// What it is instead.
        reason: String,
    },
    /// Too many entries of a file were active in the future, so the clock is wrong. Nothing of it was imported.
    #[error(
        "entries that were active more than a day after now: {ahead} of {entries}, the last at {latest}, and by the \
         clock it is {now}: set the clock, or trust the times of the file (`trust_times` in the options)"
    )]
    ClockBehind {
        /// Entries that were active more than a day after now.
        ahead: u64,
        /// Entries of the file that say when they were active.
        entries: u64,
        /// The last of these times.
        latest: Timestamp,
        /// Now, by the store's clock.
        now: Timestamp,
    },
    /// What was to be restored is no backup.
    #[error("not a backup: {reason}")]
    NotABackup {
        /// What it is instead.
        reason: &'static str,
    },
    /// The backup was written by a newer version of this program.
    #[error("the backup has format {found}, and this program reads up to {supported}: use a newer cloakroom")]
    NewerBackup {
        /// Its format.
        found: u32,
        /// The newest that this program reads.
        supported: u32,
    },
    /// The backup was written before the first release, and nothing reads it any more.
    #[error("the backup has format {found}, of before the first release, and {supported} is read: restore another")]
    OlderBackup {
        /// Its format.
        found: u32,
        /// The one that this program reads.
        supported: u32,
    },
    /// The backup is damaged or cut off. No embedded store was made of it. On a cluster what came before the damage is there,
    /// and nobody opens it: restore another backup under that name.
    #[error("the backup is damaged at byte {byte}: restore another")]
    DamagedBackup {
        /// Where the record begins that is not right, counted from 0.
        byte: u64,
        /// What is wrong with it.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// There is a store where one was to be made.
    #[error("there is a store at {path} already")]
    StoreExists {
        /// Where it is.
        path: PathBuf,
    },
    /// A text that was to become an entry is none.
    #[error("the JSON given for {key} is no entry")]
    InvalidEntry {
        /// Where it was to go.
        key: SessionKey,
        /// What is wrong with it. Nothing of the text is in it.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// No node answered for long enough, or none could take the request. A change that was asked for may or may not have
    /// been made: the message of the cause says more.
    #[cfg(feature = "valkey")]
    #[error("{}", unavailable(*seconds, node))]
    Unavailable {
        /// How long was tried, in whole seconds. Zero where nobody tried twice.
        seconds: u64,
        /// The node that was asked last. Empty where none is known to ask.
        node: String,
        /// What came last.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Others changed the entry each time that this change was about to be made, until the patience was over. This change was
    /// not made.
    #[cfg(feature = "valkey")]
    #[error("others changed the entry all the time, for {seconds} s: this change was not made")]
    Contended {
        /// How long was tried, in whole seconds.
        seconds: u64,
    },
    /// A change was sent, its answer was lost, and what came of it cannot be told any more. It is not made twice.
    #[cfg(feature = "valkey")]
    #[error("{}", uncertain(node, *made))]
    Uncertain {
        /// The node.
        node: String,
        /// The change was made, and what was lost is the proof that it is kept: so say receipts, and a flush.
        made: bool,
        /// How it was lost.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Fewer replicas than are needed have the change. It stays in place, neither proven nor undone, and its receipt may be
    /// waited for again.
    #[cfg(feature = "valkey")]
    #[error("{got} replicas of {node} have the change, and {wanted} are needed: it stays, and may be waited for again")]
    NotReplicated {
        /// The primary.
        node: String,
        /// How many are needed.
        wanted: u64,
        /// How many have it.
        got: u64,
    },
    /// The store was opened in the relaxed mode, in which nothing is durable.
    #[cfg(feature = "valkey")]
    #[error(
        "the store {name} is relaxed, so no change of it is ever known to be durable: wait until it is replicated \
         (`Receipt::replicated`)"
    )]
    Relaxed {
        /// The store.
        name: String,
    },
    /// A node has a setting with which it cannot keep what is promised.
    #[cfg(feature = "valkey")]
    #[error("{setting} is {value} on {node}: {advice}")]
    NodeSetting {
        /// The node.
        node: String,
        /// The setting.
        setting: &'static str,
        /// Its value, or that it cannot be asked.
        value: String,
        /// What to do: mostly the line that its configuration needs.
        advice: &'static str,
    },
    /// A connection cannot be encrypted as the options and the node want it. Nothing was sent.
    #[cfg(feature = "valkey")]
    #[error("no connection to {node}: {advice}")]
    Tls {
        /// The node.
        node: String,
        /// What is wrong, and what to do.
        advice: &'static str,
        /// What was found.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A node said no, for a reason that does not go away by itself: it is out of memory, or the user may not do that. That
    /// request changed nothing; what a verb over many entries, or an import, did before stays. Of a receipt it is the proof that
    /// the node refuses: the change was made, and may be waited for again.
    #[cfg(feature = "valkey")]
    #[error(
        "{node} refused the request, which changed nothing, or the proof of a change, which stays: raise its `maxmemory`, or mend \
         the user's password or rights, whichever the cause names"
    )]
    Refused {
        /// The node.
        node: String,
        /// What it said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A shard has no mark of the store: the node has lost its data, or is another one. Its entries are not taken for
    /// missing.
    #[cfg(feature = "valkey")]
    #[error(
        "shard {shard} of the store {name} is not marked on {node}, which has lost its data: give that node its files back, or \
         restore a backup under another name"
    )]
    ShardLost {
        /// The store.
        name: String,
        /// The shard.
        shard: u32,
        /// The node.
        node: String,
    },
    /// The cluster has something of this name, and it cannot be opened, made or restored as was asked for.
    #[cfg(feature = "valkey")]
    #[error("the store {name} on the cluster: {reason}")]
    OtherStore {
        /// The store.
        name: String,
        /// What is there, and what to do.
        reason: String,
    },
    /// The engine that keeps this store cannot do that; or it cannot on this thread, which is its own.
    #[error("{what} is not supported {by}")]
    Unsupported {
        /// What was asked for.
        what: &'static str,
        /// Which engine or thread, and perhaps what to do instead.
        by: &'static str,
    },
    /// A time zone that is neither an IANA name nor an offset.
    #[error("{name:?} is no time zone: give an IANA name (Europe/Berlin) or an offset (+02:00)")]
    TimeZone {
        /// The name.
        name: String,
    },
    /// What is set to be the machine's own time zone is none that this machine knows.
    #[error("cannot tell the machine's time zone by {setting}")]
    LocalTimeZone {
        /// `TZ` with its value, or the path of a file.
        setting: String,
        /// What is wrong with it.
        source: io::Error,
    },
}

/// `std::result::Result` with [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// The variant's name in snake case, for programs that read JSON: `not_found`, `locked`, `disk_full`, …
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::InvalidKey(_) => "invalid_key",
            Self::InvalidId(_) => "invalid_id",
            Self::InvalidLease(_) => "invalid_lease",
            Self::TooManyLeases { .. } => "too_many_leases",
            Self::InvalidName(_) => "invalid_name",
            Self::OverlappingPrefixes => "overlapping_prefixes",
            Self::NotFound { .. } => "not_found",
            Self::NotAStore { .. } => "not_a_store",
            Self::Locked { .. } => "locked",
            Self::Served { .. } => "served",
            Self::OptionsDiffer { .. } => "options_differ",
            Self::NewerFormat { .. } => "newer_format",
            Self::OlderFormat { .. } => "older_format",
            Self::Exposed { .. } => "exposed",
            Self::PermissionDenied { .. } => "permission_denied",
            Self::DiskFull { .. } => "disk_full",
            Self::Unwritable { .. } => "unwritable",
            Self::Io { .. } => "io",
            Self::Damaged { .. } => "damaged",
            Self::DamagedRecord { .. } => "damaged_record",
            Self::Unsound { .. } => "unsound",
            Self::Elsewhere { .. } => "elsewhere",
            Self::ReadOnly { .. } => "read_only",
            Self::Panicked { .. } => "panicked",
            Self::SnapshotTooLarge { .. } => "snapshot_too_large",
            Self::TooLarge { .. } => "too_large",
            Self::InvalidCost { .. } => "invalid_cost",
            Self::Closed { .. } => "closed",
            Self::Forked { .. } => "forked",
            Self::Removed { .. } => "removed",
            Self::Random { .. } => "random",
            Self::Setting { .. } => "setting",
            Self::Engine { .. } => "engine",
            Self::Exists { .. } => "exists",
            Self::NotASessionFile { .. } => "not_a_session_file",
            Self::ClockBehind { .. } => "clock_behind",
            Self::NotABackup { .. } => "not_a_backup",
            Self::NewerBackup { .. } => "newer_backup",
            Self::OlderBackup { .. } => "older_backup",
            Self::DamagedBackup { .. } => "damaged_backup",
            Self::StoreExists { .. } => "store_exists",
            Self::InvalidEntry { .. } => "invalid_entry",
            #[cfg(feature = "valkey")]
            Self::Unavailable { .. } => "unavailable",
            #[cfg(feature = "valkey")]
            Self::Contended { .. } => "contended",
            #[cfg(feature = "valkey")]
            Self::Uncertain { .. } => "uncertain",
            #[cfg(feature = "valkey")]
            Self::NotReplicated { .. } => "not_replicated",
            #[cfg(feature = "valkey")]
            Self::Relaxed { .. } => "relaxed",
            #[cfg(feature = "valkey")]
            Self::NodeSetting { .. } => "node_setting",
            #[cfg(feature = "valkey")]
            Self::Tls { .. } => "tls",
            #[cfg(feature = "valkey")]
            Self::Refused { .. } => "refused",
            #[cfg(feature = "valkey")]
            Self::ShardLost { .. } => "shard_lost",
            #[cfg(feature = "valkey")]
            Self::OtherStore { .. } => "other_store",
            Self::Unsupported { .. } => "unsupported",
            Self::TimeZone { .. } => "time_zone",
            Self::LocalTimeZone { .. } => "local_time_zone",
        }
    }

    /// Sorts an I/O error by what the user can do about it.
    pub(crate) fn io(action: &'static str, path: impl AsRef<Path>, source: io::Error) -> Self {
        let path = path.as_ref().to_path_buf();
        match source.kind() {
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                Self::PermissionDenied { action, path, source }
            }
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
                Self::DiskFull { action, path, source }
            }
            _ => Self::Io { action, path, source },
        }
    }
}

#[cfg(feature = "valkey")]
fn unavailable(seconds: u64, node: &str) -> String {
    match (seconds, node) {
        (0, "") => "the cluster did not answer".into(),
        (0, node) => format!("{node} did not answer"),
        (seconds, "") => format!("the cluster did not answer for {seconds} s"),
        (seconds, node) => format!("the cluster did not answer for {seconds} s (last asked: {node})"),
    }
}

#[cfg(feature = "valkey")]
fn uncertain(node: &str, made: bool) -> String {
    if made {
        format!(
            "whether the change is kept is not known, for the connection to {node} broke before its proof: await another change \
             of the entry, such as a touch, and then read it"
        )
    } else {
        format!(
            "whether the change was made is not known, for the answer of {node} was lost: read the entry, and make the change \
             again if it is not there"
        )
    }
}

/// What there is to do about a record that cannot be decoded. On a cluster nothing repairs a store.
fn way_out(record: &str) -> &'static str {
    match record {
        "h" | "c" | "x" | "t" => "remove the entry, or restore a backup under another name",
        _ => "repair the store, or restore a backup",
    }
}

/// An error with its causes, on one line.
pub(crate) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// What a panic said, where it said something.
pub(crate) fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "a panic without a message".into())
}
