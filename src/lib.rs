//! An embedded session store for chat gateways.
//!
//! A gateway (a bot on Discord, Telegram, Slack, …) maps a *session key*, which names a conversation, to a *session
//! entry*: the session that is live there, when it was last used, flags and counters. [`SessionStore`] holds that map
//! in [sled](https://docs.rs/sled/0.34.7) trees, in place of a `sessions.json` that is rewritten at every message.
//!
//! ```
//! use cloakroom::{Options, PrunePolicy, Resolution, SessionKey, SessionSource, SessionStore};
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
//! - [Pruning](SessionStore::prune) goes by the time of activity, asks the [guard](ActivityGuard) with the session
//!   *key*, and never removes a suspended entry or one that is touched meanwhile. A [`Watcher`] does it every hour.
//! - After a write or a sync has failed the store is read-only, and says why: [`Error::ReadOnly`].
//! - An unreadable store is an error, never an empty one.
//!
//! # What it is not
//!
//! It is not a database for several processes (one opens it at a time), a cache with a time to live (an entry goes by
//! activity, not by age), or a place for transcripts (the gateway keeps them).
//!
//! # Crate features
//!
//! - **cli** (default): the program `cloakroom`. A gateway needs none of it: with `default-features = false` it compiles
//!   55 other crates in place of 94 (`cargo tree`, on Linux).
//! - **metrics**: counters and times of a running store, through the facade crate
//!   [metrics](https://docs.rs/metrics/0.24); their names are listed at [`Stats`].
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
//! | [`ActivityGuard`] | the one that prunes or resolves: the caller's, or the watcher's `cloakroom-prune` |
//! | closures given to a verb, such as that of [`update`](SessionStore::update), and reports of progress | the caller's |
//! | [`WhatsAppAliases`] | the caller's, where a key is derived |
//! | wakers of receipts | `cloakroom-waker`, never the committer's; a slow one delays only other wakers |
//! | [`Clock`], recorders of metrics | any of these, and the committer's `cloakroom-write`: keep them quick |
//!
//! [`Events`] and the watcher's reports are channels that you read: a slow reader loses events, and delays nobody. A panic
//! of a guard counts as a failed guard, which keeps the entry; a panic of a waker is caught.
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
mod backup;
mod by_time;
mod clock_check;
mod codec;
mod commit;
mod compact;
mod config;
mod entry;
mod error;
mod events;
mod export;
mod extras;
mod fork;
mod gateway;
pub mod guide;
mod healing;
mod import;
mod json;
mod key;
mod keys;
mod leases;
mod meter;
mod modify;
mod outfile;
mod policy;
mod prune;
mod put;
mod query;
mod random;
mod remove_where;
mod rename;
mod repair;
mod resolve;
mod shared;
mod source;
mod storage;
mod store;
mod sync;
mod time;
mod turns;
mod unreadable;
mod watcher;
mod zone;

pub use answer::{
    Modified, OpenReport, Put, Removal, ReplaceReason, Repointed, Resolution, Resolved, Shortfall, Stats, Written,
};
pub use backup::{BackupOptions, BackupProgress, BackupReport};
pub use commit::Receipt;
pub use compact::CompactReport;
pub use config::{
    Config, DEFAULT_MAX_AGE_DAYS, DEFAULT_PRUNE_INTERVAL_MINUTES, Options, ResetConfig, ResetMode, ResetRule,
};
pub use entry::{Details, Extras, KeepExtras, Revision, SessionEntry, Touch, Usage};
pub use error::{Error, Result};
pub use events::{Event, EventKind, EventOptions, Events, NoEvent, PruneReason};
pub use export::{ExportFormat, ExportOptions, ExportReport};
pub use gateway::Gateway;
pub use import::{Damage, ImportOptions, ImportProgress, ImportReport, OnConflict, Problem};
pub use key::{MAX_ID_BYTES, MAX_KEY_BYTES, MAX_LEASE_NAME_BYTES, NameError, SessionId, SessionKey};
pub use keys::Keys;
pub use leases::{Lease, OpenLease};
pub use modify::{Draft, Edit};
pub use policy::{ResetPolicies, ResetPolicy};
pub use prune::{ActivityGuard, NoActivity, Protected, ProtectedBy, PrunePolicy, PruneReport, Verdict};
pub use put::Expect;
pub use query::{Cursor, Entries, Filter, Iter, Page, Summary};
pub use remove_where::{BulkRemoval, ForgetReport, RemovalReport};
pub use rename::RenameReport;
pub use resolve::{Repoint, Resolve};
pub use source::{KeyPolicy, SessionSource, WhatsAppAliases};
pub use storage::{Repairs, Verification, Violation};
pub use store::SessionStore;
pub use time::{BootTime, Clock, ManualClock, SystemClock, Timestamp};
pub use turns::{
    OpenTurn, RecoverOptions, ResumeClear, ResumeMark, TurnEnd, TurnRecovery, TurnStart, TurnToken, TurnTokenError,
    TurnsDiscarded,
};
pub use unreadable::{Listing, Unreadable, UnreadableRecord};
pub use watcher::{Watcher, WatcherConfig, WatcherStatus};
pub use zone::TimeZone;

/// Threads of a gateway share what they get from the store, or hand it on.
const _: fn() = || {
    fn is_shared<T: Send + Sync>() {}
    is_shared::<(SessionStore, Options, SessionEntry, SessionKey, SessionId, SessionSource, Extras)>();
    is_shared::<(Receipt, Events, Watcher, ResetPolicies, PrunePolicy, TimeZone, Error)>();
    is_shared::<(Iter, Entries, Page, Cursor, Filter, Resolved, Removal, OpenTurn, TurnRecovery, Verification)>();
    is_shared::<(Put, Modified, Repointed, Written, Revision, Expect, Edit, Touch, Draft<'_>)>();
    is_shared::<(OpenReport, Stats, PruneReport, ImportReport, ExportReport, BackupReport, CompactReport, Repairs)>();
};

/// The README's example is a test too.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
