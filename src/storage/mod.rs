//! The store on disk, and the only place that names `sled`.
//!
//! It has three rooms, and each uses those before it:
//!
//! - [`directory`]: the files beside sled's own: who has the store, how things stand with it, whether all parts are there,
//!   who may read them, what is put aside while a store is rebuilt.
//! - [`engine`]: the trees. [`Engine`] answers reads, from the trees and from the journal of late hot records; [`Writer`]
//!   is the one that writes, and belongs to the committer's thread.
//! - [`whole`]: work on a whole store: opening it, making a new one, checking every invariant, repair, compaction.

mod directory;
mod engine;
mod whole;

pub(crate) use directory::lock::{Hold, Place, check_process, wait_released};
pub(crate) use engine::change::{Change, Content, Known, Late, MovedFrom, encode_error};
pub(crate) use engine::extras::PartsOf;
pub(crate) use engine::leases::StoredLease;
pub(crate) use engine::scan::{Direction, KEYS_AT_A_TIME, KeyRange};
pub(crate) use engine::write::Writer;
pub(crate) use engine::{Engine, StoredCold};
pub(crate) use whole::compact::{compact, compact_opened};
pub(crate) use whole::load::{Batch, Loaded};
pub(crate) use whole::new_store::{NewStore, nothing_at};
pub(crate) use whole::open::{Compacted, Opened, directory, open, open_to_repair};
pub(crate) use whole::repair::repair;
pub use whole::repairs::Repairs;
pub use whole::verification::{Verification, Violation};
pub(crate) use whole::verify::verify;

#[cfg(test)]
pub(crate) use tests::{Hook, plant_age_row};

#[cfg(test)]
mod tests;
