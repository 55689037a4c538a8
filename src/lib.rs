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
//! No database for many processes (one opens it at a time), no cache with a time to live (an entry goes by
//! activity, not by age), no place for transcripts (they are the gateway's).

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
mod healing;
mod import;
mod json;
mod key;
mod meter;
mod outfile;
mod policy;
mod prune;
mod query;
mod renew;
mod repair;
mod source;
mod storage;
mod store;
mod sync;
mod time;
mod turns;
mod unreadable;
mod watcher;
mod zone;

pub use answer::{OpenReport, Removal, ReplaceReason, Resolution, Resolved, Shortfall, Stats};
pub use backup::{BackupOptions, BackupProgress, BackupReport};
pub use commit::Receipt;
pub use compact::CompactReport;
pub use config::{
    Config, DEFAULT_MAX_AGE_DAYS, DEFAULT_PRUNE_INTERVAL_MINUTES, Options, ResetConfig, ResetMode, ResetRule,
};
pub use entry::{Details, Extras, KeepExtras, SessionEntry, Usage};
pub use error::{Error, Result};
pub use events::{Event, EventKind, Events, PruneReason};
pub use export::{ExportFormat, ExportOptions, ExportReport};
pub use gateway::Gateway;
pub use import::{Damage, ImportOptions, ImportProgress, ImportReport, OnConflict, Problem};
pub use key::{MAX_ID_BYTES, MAX_KEY_BYTES, NameError, SessionId, SessionKey};
pub use policy::{ResetPolicies, ResetPolicy};
pub use prune::{ActivityGuard, NoActivity, Protected, ProtectedBy, PrunePolicy, PruneReport, Verdict};
pub use query::{Cursor, Entries, Filter, Iter, Page, Summary};
pub use source::{KeyPolicy, SessionSource, WhatsAppAliases};
pub use storage::{Repairs, Verification, Violation};
pub use store::SessionStore;
pub use time::{BootTime, Clock, ManualClock, SystemClock, Timestamp};
pub use turns::{OpenTurn, ResumeMark, TurnEnd, TurnRecovery, TurnToken};
pub use unreadable::{Listing, Unreadable, UnreadableRecord};
pub use watcher::{Watcher, WatcherConfig, WatcherStatus};
pub use zone::TimeZone;

/// The README's example is a test too.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
