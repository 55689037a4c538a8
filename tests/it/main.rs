//! Integration tests.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, unreachable_pub)]

#[cfg(feature = "cli")]
mod cli;
mod exact_json;
mod export;
mod import;
mod rig;
mod rig_selftest;
mod rig_sled;
