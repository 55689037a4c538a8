//! One small extra changed in an entry that has a large one beside it, by itself and with all others.
//!
//! Ids are `extras/size/verb`. One iteration is a change in each of [`ENTRIES`] entries *and* the commit that makes all of
//! them durable; the throughput is per change. `cargo test --bench extras` runs each once.

#![allow(missing_docs, unreachable_pub, dead_code, reason = "a bench")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a bench")]

mod support;

use std::time::Duration;

use cloakroom::{Extras, SessionKey, SessionStore};
use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput};
use serde_json::Value;

use support::cloakroom_store::CloakroomStore;
use support::contender::Contender;
use support::people::{created_at, keys};

/// The changes of one batch.
const ENTRIES: usize = 100;
const SMALL: &str = "small";

/// A JSON text of 20 bytes, another for each number.
fn small(n: u64) -> Value {
    format!("{n:018}").into()
}

/// Changes the small one of each entry, with another text each time, and commits.
fn batch(store: &SessionStore, keys: &[SessionKey], n: &mut u64, change: impl Fn(&SessionKey, &Value)) {
    *n += 1;
    keys.iter().for_each(|key| change(key, &small(*n)));
    store.flush().unwrap();
}

fn main() {
    let mut criterion = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(3))
        .without_plots()
        .configure_from_args();
    let mut group = criterion.benchmark_group("extras");
    group.sampling_mode(SamplingMode::Flat).throughput(Throughput::Elements(ENTRIES as u64));
    for (size, bytes) in [("1_KB", 1_000), ("100_KB", 100_000)] {
        let (dir, keys) = (tempfile::tempdir().unwrap(), keys(ENTRIES));
        let contender = CloakroomStore::open(dir.path(), keys.clone());
        contender.create(0..ENTRIES, &created_at);
        let store = &contender.store;
        let mut all = Extras::default();
        all.insert("large", &"x".repeat(bytes).into());
        keys.iter().for_each(|key| drop(store.set_extras(key, &all).unwrap().unwrap()));
        store.flush().unwrap();

        let mut n = 0;
        let set_extra = |key: &SessionKey, text: &Value| drop(store.set_extra(key, SMALL, text).unwrap().unwrap());
        group.bench_function(BenchmarkId::new(size, "set_extra"), |bencher| {
            bencher.iter(|| batch(store, &keys, &mut n, set_extra));
        });
        let set_extras = |key: &SessionKey, text: &Value| {
            let mut all = all.clone();
            all.insert(SMALL, text);
            drop(store.set_extras(key, &all).unwrap().unwrap());
        };
        group.bench_function(BenchmarkId::new(size, "set_extras"), |bencher| {
            bencher.iter(|| batch(store, &keys, &mut n, set_extras));
        });
    }
    group.finish();
    criterion.final_summary();
}
