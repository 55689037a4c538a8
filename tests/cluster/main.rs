//! A store on a cluster. Each test has a store of its own name; those that harm nodes have a cluster of their own.
//!
//! `CLOAKROOM_VALKEY` names the server; else it is `valkey-server` on the path, else it comes from the Python index.
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that fails may panic"
)]

mod awaited;
mod backup;
#[path = "../it/battery.rs"]
mod battery;
mod canary;
#[cfg(feature = "cli")]
mod cli;
mod clocks;
#[path = "../it/common.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod common;
mod conformance;
mod cost;
mod durable;
mod events;
mod failover;
mod flushing;
mod forks;
mod futures;
mod histories;
mod leases;
mod members;
mod metrics;
mod moving;
mod nodes;
mod once;
mod processes;
mod proxy;
mod pruning;
mod recovery;
mod refused;
mod relied_on;
mod repair;
mod resharding;
mod retries;
mod slots;
mod soon;
mod split;
#[path = "../suite/mod.rs"]
mod suite;
#[cfg(feature = "valkey-tls")]
mod tls;
mod wakers;
