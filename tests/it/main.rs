//! Tests of behaviour, a module for each subject.
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that fails may panic"
)]

mod access;
mod backup;
mod bad_record;
mod battery;
mod behind;
mod callbacks;
mod canary;
mod caps;
#[cfg(feature = "cli")]
mod cli;
mod clocks;
mod common;
mod compact;
mod config;
mod conformance;
mod damage;
#[cfg(feature = "sqlite")]
mod databases;
mod dependencies;
mod entries;
mod events;
mod exact_json;
mod export;
mod extras;
mod failures;
mod fork;
mod full_disk;
mod hot_switch;
mod import;
mod import_create;
mod import_kill;
mod import_refused;
mod import_versions;
mod io_failures;
mod kill;
mod kill_calls;
mod layers;
mod leases;
mod linear;
#[cfg(feature = "live")]
mod live;
#[cfg(feature = "metrics")]
mod metrics;
mod model;
mod names;
mod one_minute;
mod openers;
mod opening;
mod options;
mod outputs;
mod papers;
mod policy;
mod powercut;
mod prefix;
mod prune;
mod receipts;
mod removed;
mod rig;
mod rig_selftest;
mod rig_sled;
mod round_trip;
mod shared;
mod single_extras;
mod snapshot;
mod soak;
mod spans;
#[path = "../suite/mod.rs"]
mod suite;
mod threads;
mod turns;
mod verbs;
mod watcher;
mod workload;
