//! Import of the gateways' files, losing nothing.
//!
//! ```text
//! Read ─► splitter: keys and raw values ─► json: fields ─► read: entry + extras ─► target
//!                                   └─ what is bad ─► quarantine
//! ```
//!
//! One pass; in memory there is one entry at a time, and what is on its way. The target is an open store and its
//! committer, or a store in the making ([`create`]), or nothing.

mod bad;
mod balance;
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
