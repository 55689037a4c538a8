//! Import of the gateways' files, losing nothing.
//!
//! ```text
//! Read ─► splitter: keys and raw values ─┬► json: fields ─► read: entry + extras ─► target
//! database: the same from the rows ──────┘        └─ what is bad ─► quarantine
//! ```
//!
//! In memory there is one entry at a time, and what is on its way. The target is an open store and its committer, a store
//! in the making (`create`), or nothing. One in the making takes a file in one pass, for it is thrown away if the file
//! turns out to be none, or the clock wrong; an open store gets a file only after a first pass has seen all of it.

mod bad;
mod balance;
mod create;
#[cfg(feature = "sqlite")]
mod database;
mod evidence;
mod input;
mod looks;
mod merge;
mod one;
mod options;
mod place;
mod read;
mod report;
mod run;
mod seen;
mod splitter;
mod target;

#[cfg(feature = "sqlite")]
pub use database::Database;
#[cfg(feature = "valkey")]
pub(crate) use merge::OpenStore;
pub use options::{ImportOptions, OnConflict};
#[cfg(feature = "valkey")]
pub(crate) use place::{Decide, Holder, Present};
pub use report::{Damage, ImportProgress, ImportReport, Problem};
