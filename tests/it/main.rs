//! Integration tests.

mod import;
mod rig;
mod rig_selftest;
mod rig_sled;
