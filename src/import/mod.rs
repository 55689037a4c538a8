//! Import of the gateways' files, losing nothing.
//!
//! ```text
//! Read ─► splitter: keys and raw values ─► json: fields ─► read: entry + extras ─► store
//!                                   └─ what is bad ─► quarantine
//! ```
//!
//! One pass; in memory there is one entry at a time, and what the committer has pending.

mod bad;
mod create;
mod options;
mod read;
mod report;
mod run;
mod seen;
mod splitter;
mod target;

pub use options::{ImportOptions, OnConflict};
pub use report::{Damage, ImportProgress, ImportReport, Problem};
