//! An embedded session store for chat gateways.
//!
//! A gateway (a bot on Discord, Telegram, Slack, …) maps a *session key*, which names a conversation, to a *session
//! entry*: the session that is live there, when it was last used, flags and counters. [`SessionStore`] holds that map
//! in [sled](https://docs.rs/sled/0.34.7) trees, in place of a `sessions.json` that is rewritten at every message.
//!
//! ```
//! use cloakroom::change::Resolution;
//! use cloakroom::{Options, PrunePolicy, SessionKey, SessionSource, SessionStore};
//!
//! # let directory = tempfile::tempdir()?;
//! # let path = directory.path().join("sessions.db");
//! let store = SessionStore::open(Options::new(path).create(true))?;
//!
//! // A message comes in: touch the session of its conversation, or start one.
//! let source = SessionSource {
//!     platform: "discord".into(),
//!     chat_type: "group".into(),
//!     chat_id: Some("1234".into()),
//!     user_id: Some("5678".into()),
//!     ..Default::default()
//! };
//! let resolved = store.resolve(&source)?;
//! assert_eq!(resolved.resolution, Resolution::Created);
//!
//! // Visible at once, durable within `commit_interval`; or wait for it, blocking or with `.await`.
//! resolved.receipt.wait()?;
//!
//! // Remove what nobody has used for 90 days, but nothing whose key has work in progress.
//! let running = [resolved.entry.key.clone()];
//! let report = store.prune(&PrunePolicy::max_age_days(90), |key: &SessionKey| running.contains(key))?;
//! assert_eq!(report.removed, 0);
//! store.close()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What is promised
//!
//! - A [touch](SessionStore::touch) costs O(1), whatever the number of entries and their size.
//! - A [`Receipt`] is kept through a power cut once it has been awaited. Changes whose receipt was dropped may be lost
//!   if they are younger than [`commit_interval`](Options::commit_interval), and the commit in flight.
//! - [Pruning](SessionStore::prune) goes by the time of activity, asks the [guard](prune::ActivityGuard) with the session
//!   *key*, and never removes an entry that is suspended, pinned, held by a lease, or touched meanwhile. A [`Watcher`]
//!   does it every hour.
//! - After a write or a sync has failed the store is read-only, and says why: [`Error::ReadOnly`].
//! - An unreadable store is an error, never an empty one.
//!
//! # What it is not
//!
//! It is not a database for several processes (one opens it at a time; for many there is `cluster::ClusterStore`, on Valkey), a
//! cache with a time to live (an entry goes by activity, not by age), or a place for transcripts (the gateway keeps them).
//!
//! # Crate features
//!
//! - **cli** (default): the program `cloakroom`, and its allocator **mimalloc**, which needs a C compiler. A gateway needs none of it:
//!   with `default-features = false` 55 other crates are compiled in place of 138 (`cargo tree`, on Linux).
//! - **sqlite** (default): import of the databases in which gateways keep their entries, and export into one. It brings SQLite,
//!   which needs a C compiler.
//! - **metrics**: counters and times of a running store, through the facade crate
//!   [metrics](https://docs.rs/metrics/0.24), listed in [the guide](guide::metrics).
//! - **live**: [a view of the running store](live), which the program asks. `cli` turns it on.
//! - **valkey**: `cluster`, the same verbs on a cluster of Valkey or Redis, for gateways of many processes. See the
//!   [guide](guide::cluster). **valkey-tls** encrypts its connections; it brings `ring`, which needs a C compiler.
//!
//! # Threads and async code
//!
//! A [`SessionStore`] is `Send + Sync`, clones are the same store, and every verb takes `&self`. There is no async
//! runtime in it.
//!
//! Verbs on one entry block briefly: on the lock of its shard, on a read of the disk if the entry is not in memory, and
//! on the committer while [`max_pending`](Options::max_pending) changes wait for it. They do not wait for a sync, so most
//! gateways call them from async code as they are. Await the [`Receipt`] where a change must be durable, on any runtime.
//!
//! These block for as long as their work takes, and belong on a thread that may block (tokio's `spawn_blocking`):
//! [`open`](SessionStore::open), [`close`](SessionStore::close) and the drop of the last clone,
//! [`flush`](SessionStore::flush), [`Receipt::wait`], [`prune`](SessionStore::prune),
//! [`import`](SessionStore::import), [`export`](SessionStore::export), [`backup`](SessionStore::backup),
//! [`restore`](SessionStore::restore), [`verify`](SessionStore::verify),
//! [`recover_interrupted_turns`](SessionStore::recover_interrupted_turns), and the lists.
//!
//! Your own code is called with no entry locked, so it may use the store. It runs
//!
//! | what | on which thread |
//! | --- | --- |
//! | [`ActivityGuard`](prune::ActivityGuard) | the one that prunes or resolves: the caller's, the watcher's `cloakroom-prune`, the live view's `cloakroom-view`; of a cluster also `cloakroom-guard`, for what other processes prune |
//! | the bell of [`events_with_bell`](SessionStore::events_with_bell) | the one that made the change: it must not use the store |
//! | closures given to a verb, such as that of [`update`](SessionStore::update), and reports of progress | the caller's |
//! | [`WhatsAppAliases`](source::WhatsAppAliases) | the caller's, where a key is derived |
//! | wakers of receipts | `cloakroom-waker`, never the committer's, nor one that asks a node of a cluster; a slow one delays only other wakers |
//! | [`Clock`](time::Clock), recorders of metrics | any of these, and the committer's `cloakroom-write`: keep them quick |
//!
//! [`Events`](events::Events) and the watcher's reports are channels that you read: a slow reader loses events, and delays nobody. A panic
//! of a guard counts as a failed guard, which keeps the entry; a panic of a waker is caught.
//!
//! # What may come
//!
//! Answers, reports, events and errors are `non_exhaustive`: a later version may add fields and variants. The structs that
//! you fill in yourself are not, so that a literal works: [`SessionSource`], [`Details`], [`Usage`],
//! [`Filter`](query::Filter), [`KeyPolicy`](source::KeyPolicy), [`WatcherConfig`](watcher::WatcherConfig) and
//! [`Config`](config::Config). End it with `..Default::default()`, for they may grow too. A
//! [`BootTime`](time::BootTime) is complete.
//!
//! # Types of other crates
//!
//! Two crates show in signatures, and are exported with this one, so that a gateway needs no dependency of the same
//! version: [`serde_json`] (values of [extras](SessionStore::set_extra) and the
//! [metadata](SessionStore::set_metadata)) and [`chrono`] (conversions of [`Timestamp`]). Reports, events and entries
//! implement the traits of [serde](https://docs.rs/serde/1).
//!
//! ```
//! use cloakroom::change::Resolve;
//! use cloakroom::serde_json::{Map, json};
//! # let directory = tempfile::tempdir()?;
//! # let path = directory.path().join("sessions.db");
//! # let store = cloakroom::SessionStore::open(cloakroom::Options::new(path).create(true))?;
//! let key = "agent:main:cron:nightly".parse()?;
//! let found = store.resolve_as(&key, &Resolve::new())?;
//! store.set_extra(&key, "model", &json!({"name": "large"}))?;
//! store.set_metadata(&key, &Map::from_iter([("state".to_owned(), json!("idle"))]))?;
//! let created: cloakroom::chrono::DateTime<cloakroom::chrono::Utc> = found.entry.created_at.into();
//! # assert_eq!(cloakroom::Timestamp::from(created), found.entry.created_at);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Logs
//!
//! They go through [tracing](https://docs.rs/tracing/0.1). The spans `open`, `commit`, `carry` (late activity is brought to
//! the indexes) and `prune` are at debug, so a subscriber at info sees only what an operator should know. Session keys and
//! names print redacted; what is raw is at trace.
//!
//! # Platforms
//!
//! It needs a Unix, since it relies on file modes, owners and `flock`, and 64-bit atomics. It is tested on Linux.
//!
//! # More
//!
//! The [`guide`] has a page on each subject, recipes among them.

#[cfg(not(unix))]
compile_error!("cloakroom keeps stores private by Unix file modes and owners, and so compiles on Unix only");
#[cfg(not(target_has_atomic = "64"))]
compile_error!("cloakroom counts commits and times in 64-bit atomics, which this target does not have");
#[cfg(target_pointer_width = "16")]
compile_error!("cloakroom needs pointers of at least 32 bits");

mod answer;
pub mod backup;
mod clock_check;
#[cfg(feature = "valkey")]
pub mod cluster;
mod codec;
mod commit;
mod compact;
pub mod config;
mod entry;
mod error;
pub mod events;
pub mod export;
mod extras;
mod feed;
mod fork;
pub mod gateway;
pub mod guide;
mod healing;
mod how;
pub mod import;
mod json;
pub mod key;
mod keys;
pub mod leases;
mod listen;
#[cfg(feature = "live")]
pub mod live;
mod meter;
mod modify;
mod outfile;
pub mod prune;
mod put;
pub mod query;
mod random;
mod remove_where;
mod rename;
mod repair;
pub mod reset;
mod resolve;
mod rules;
mod sessions;
mod shared;
mod socket;
pub mod source;
#[cfg(feature = "sqlite")]
mod sqlite;
mod storage;
mod store;
mod sync;
pub mod time;
pub mod turns;
mod unreadable;
pub mod watcher;
mod zone;

#[doc(no_inline)]
pub use {chrono, serde_json};

pub use commit::Receipt;
pub use config::Options;
pub use entry::{Details, Extras, Revision, SessionEntry, Usage};
pub use error::{Error, Result};
pub use key::{SessionId, SessionKey};
pub use prune::PrunePolicy;
pub use sessions::Sessions;
pub use source::SessionSource;
pub use store::SessionStore;
pub use time::Timestamp;
pub use watcher::Watcher;
pub use zone::TimeZone;

/// What the verbs of [`SessionStore`] that change an entry are given, and what they answer.
///
/// One rule holds for all answers: what has changed comes with a [`Receipt`], and what has not comes without one.
///
/// - `Option<Receipt>` where there is nothing else to say, such as [`touch`](SessionStore::touch) or
///   [`suspend`](SessionStore::suspend): `None` if there is no entry.
/// - A struct with a field `receipt` where there is: [`Written`](change::Written) with the entry, [`Resolved`](change::Resolved) with the entry and where it
///   comes from, [`BegunTurn`](crate::turns::BegunTurn) with the token. It is in an `Option` in the same sense.
/// - An enum where a verb may decline for other reasons: [`Put`](change::Put), [`Modified`](change::Modified),
///   [`Repointed`](change::Repointed), [`Removal`](change::Removal),
///   [`TurnStart`](crate::turns::TurnStart), [`TurnEnd`](crate::turns::TurnEnd),
///   [`ResumeMark`](crate::turns::ResumeMark), [`ResumeClear`](crate::turns::ResumeClear). Each variant that stands for a
///   change holds a receipt or such a struct; the others say what is there instead.
///
/// Where nothing had to change, as when what is pinned is pinned, the receipt is that of the next commit: once it is durable, so
/// is the state that the verb saw.
pub mod change {
    pub use crate::answer::{Modified, Put, Removal, ReplaceReason, Repointed, Resolution, Resolved, Written};
    pub use crate::entry::{KeepExtras, Touch};
    pub use crate::how::{Repoint, Resolve};
    pub use crate::modify::{Draft, Edit};
    pub use crate::put::Expect;
}

/// The verbs by prefix: what they answer.
pub mod prefix {
    pub use crate::keys::Keys;
    pub use crate::remove_where::{BulkRemoval, ForgetReport, RemovalReport};
    pub use crate::rename::RenameReport;
}

/// What is known of a store as a whole: on opening it, by its figures, after a check, a repair or a compaction.
pub mod report {
    pub use crate::answer::{CompactReport, OpenReport, Shortfall, Stats};
    pub use crate::repair::RepairReport;
    pub use crate::storage::{Repairs, Verification, Violation};
    pub use crate::unreadable::{Listing, Unreadable, UnreadableRecord};
}

/// Threads of a gateway share what they get from the store, or hand it on.
const _: fn() = || {
    fn is_shared<T: Send + Sync>() {}
    is_shared::<(SessionStore, Options, SessionEntry, SessionKey, SessionId, SessionSource, Extras)>();
    is_shared::<(Receipt, events::Events, watcher::Reports, Watcher, reset::ResetPolicies, PrunePolicy, TimeZone, Error)>(
    );
    is_shared::<(
        query::Iter,
        query::Entries,
        query::Page,
        query::Cursor,
        query::Filter,
        change::Resolved,
        change::Removal,
        turns::OpenTurn,
        turns::TurnRecovery,
        report::Verification,
    )>();
    is_shared::<(
        change::Put,
        change::Modified,
        change::Repointed,
        change::Written,
        Revision,
        change::Expect,
        change::Edit,
        change::Touch,
        change::Draft<'_>,
    )>();
    is_shared::<(
        report::OpenReport,
        report::Stats,
        prune::PruneReport,
        import::ImportReport,
        export::ExportReport,
        backup::BackupReport,
        report::CompactReport,
        report::Repairs,
    )>();
};

/// The README's example is a test too.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
