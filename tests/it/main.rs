//! Integration tests.

mod exact_json;
mod export;
mod import;
mod rig;
mod rig_selftest;
mod rig_sled;
