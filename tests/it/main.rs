//! Integration tests.

mod rig;
mod rig_selftest;
mod rig_sled;
