//! Cloakroom
mod codec;
mod commit;
mod config;
mod entry;
mod error;
mod json;
mod key;
mod query;
mod source;
mod storage;
mod store;
mod time;
mod zone;

pub use commit::Receipt;
pub use config::{Config, DEFAULT_MAX_AGE_DAYS, DEFAULT_PRUNE_INTERVAL_MINUTES, Options};
pub use entry::{Details, Extras, SessionEntry, Usage};
pub use error::{Error, Result};
pub use key::{MAX_ID_BYTES, MAX_KEY_BYTES, NameError, SessionId, SessionKey};
pub use query::{Cursor, Filter, Iter, Page, Summary};
pub use source::{KeyPolicy, SessionSource};
pub use storage::{Verification, Violation};
pub use store::{OpenReport, Removal, ReplaceReason, Resolution, Resolved, SessionStore, Shortfall, Stats};
pub use time::{Clock, ManualClock, SystemClock, Timestamp};
pub use zone::TimeZone;
