//! The store's directory: all files beside those of sled.
//!
//! | file | what it knows |
//! | --- | --- |
//! | `files.rs` | names, and what is at a path |
//! | `access.rs` | owners and modes |
//! | `lock.rs` | `LOCK`: which process has the store open |
//! | `state.rs` | `state`: what was last synced, and how things stand |
//! | `parts.rs` | whether a store has all of its parts |
//! | `segments.rs` | what of sled's file is in doubt after a crash, and the writing of it again |
//! | `swap.rs` | a new database in the place of the old one |
//! | `ballast.rs` | space that is given up on a full disk |

pub(in crate::storage) mod access;
pub(in crate::storage) mod ballast;
pub(in crate::storage) mod files;
pub(in crate::storage) mod lock;
pub(in crate::storage) mod parts;
pub(in crate::storage) mod segments;
pub(in crate::storage) mod state;
pub(in crate::storage) mod swap;

/// A position in sled's log, in bytes since the database was made.
pub(in crate::storage) type Position = i64;
