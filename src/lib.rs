//! Cloakroom
mod codec;
mod commit;
mod config;
mod entry;
mod error;
mod events;
mod export;
mod gateway;
mod import;
mod json;
mod key;
mod meter;
mod policy;
mod prune;
mod query;
mod source;
mod storage;
mod store;
mod time;
mod turns;
mod watcher;
mod zone;

pub use commit::Receipt;
pub use config::{
    Config, DEFAULT_MAX_AGE_DAYS, DEFAULT_PRUNE_INTERVAL_MINUTES, Options, ResetConfig, ResetMode, ResetRule,
};
pub use entry::{Details, Extras, SessionEntry, Usage};
pub use error::{Error, Result};
pub use events::{Event, EventKind, Events, PruneReason};
pub use export::{ExportFormat, ExportOptions, ExportReport};
pub use gateway::Gateway;
pub use import::{Damage, ImportOptions, ImportProgress, ImportReport, OnConflict, Problem};
pub use key::{MAX_ID_BYTES, MAX_KEY_BYTES, NameError, SessionId, SessionKey};
pub use policy::{ResetPolicies, ResetPolicy};
pub use prune::{ActivityGuard, NoActivity, Protected, ProtectedBy, PrunePolicy, PruneReport, Verdict};
pub use query::{Cursor, Filter, Iter, Page, Summary};
pub use source::{KeyPolicy, SessionSource};
pub use storage::{Verification, Violation};
pub use store::{OpenReport, Removal, ReplaceReason, Resolution, Resolved, SessionStore, Shortfall, Stats};
pub use time::{Clock, ManualClock, SystemClock, Timestamp};
pub use turns::{OpenTurn, ResumeMark, TurnEnd, TurnRecovery, TurnToken};
pub use watcher::{Watcher, WatcherConfig, WatcherStatus};
pub use zone::TimeZone;
