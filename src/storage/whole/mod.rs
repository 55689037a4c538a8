//! Work on a whole store.
//!
//! | file | what it does |
//! | --- | --- |
//! | `open.rs` | opens one, and puts right what a crash has left |
//! | `build.rs` | makes a database under a name that no opening takes |
//! | `new_store.rs`, `load.rs` | fill one from a backup, or from a gateway's file |
//! | `verify.rs`, `verification.rs` | check every invariant between the trees, and tell what is broken |
//! | `salvage.rs`, `repair.rs`, `quarantine.rs` | make the trees sound, and keep what has to go |
//! | `repairs.rs` | what that has changed |
//! | `compact.rs` | copies a store into a smaller file |

pub(in crate::storage) mod build;
pub(in crate::storage) mod compact;
pub(in crate::storage) mod load;
pub(in crate::storage) mod new_store;
pub(in crate::storage) mod open;
pub(in crate::storage) mod quarantine;
pub(in crate::storage) mod repair;
pub(in crate::storage) mod repairs;
pub(in crate::storage) mod salvage;
pub(in crate::storage) mod verification;
pub(in crate::storage) mod verify;
