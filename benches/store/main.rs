//! Cloakroom against the file that gateways write today.
//!
//! `cargo bench` is the short mode; `CLOAKROOM_BENCH=full cargo bench` adds the large sizes and longer measurements;
//! `cargo test --benches` runs each bench once on a small store. Ids are `group/size/contender`. One iteration of a
//! touch group is a batch of touches *and* the commit that makes all of them durable; the throughput is per touch.
#![allow(missing_docs, unreachable_pub, dead_code, reason = "a bench")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a bench")]

mod loaded;
mod mode;
#[path = "../support/mod.rs"]
mod support;

use std::path::Path;
use std::time::{Duration, Instant};

use cloakroom::import::ImportOptions;
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, SamplingMode, Throughput};
use tempfile::TempDir;

use loaded::{Loaded, id};
use mode::{MILLION, Mode};
use support::cloakroom_store::CloakroomStore;
use support::contender::{Contender, Fields};
use support::json_store::JsonStore;
use support::people::{created_at, key, source};
use support::stream::{Shape, Time};

fn group<'a>(criterion: &'a mut Criterion, name: &str) -> BenchmarkGroup<'a, WallTime> {
    let mut group = criterion.benchmark_group(name);
    group.sampling_mode(SamplingMode::Flat);
    group
}

fn touches(criterion: &mut Criterion, mode: Mode, cloakroom: &[Loaded<CloakroomStore>], json: &[Loaded<JsonStore>]) {
    for shape in [Shape::Uniform, Shape::Zipf, Shape::Discord] {
        for time in [Time::Stay, Time::Cross] {
            let mut group = group(criterion, &format!("touch/{}/{}", shape.name(), time.name()));
            for loaded in cloakroom {
                loaded.touch(&mut group, shape, time, mode.batch(loaded.size, time));
            }
            for loaded in json.iter().filter(|loaded| mode.json_touches(loaded.size, shape, time)) {
                loaded.touch(&mut group, shape, time, 1);
            }
        }
    }
    for threads in [1, 8] {
        let mut group = group(criterion, &format!("touch_durable/{threads}_threads"));
        for loaded in cloakroom {
            loaded.touch_durable(&mut group, threads, if mode == Mode::Test { 3 } else { 50 });
        }
        // Each touch of the file is durable: at a million it has been measured.
        for loaded in json.iter().filter(|loaded| loaded.size < MILLION) {
            loaded.touch_durable(&mut group, threads, 1);
        }
    }
}

/// `modify`, and a touch beside it in the same run.
fn modifies(criterion: &mut Criterion, mode: Mode, cloakroom: &[Loaded<CloakroomStore>]) {
    for (name, fields) in [("counters", Fields::Counters), ("details", Fields::Details)] {
        let mut group = group(criterion, &format!("modify/{name}"));
        for loaded in cloakroom {
            loaded.modify(&mut group, fields, mode.batch(loaded.size, Time::Stay).min(10_000));
        }
    }
    let mut group = group(criterion, "modify/touch");
    for loaded in cloakroom {
        let batch = mode.batch(loaded.size, Time::Stay).min(10_000);
        loaded.touch(&mut group, Shape::Uniform, Time::Stay, batch);
    }
}

fn reads(criterion: &mut Criterion, cloakroom: &[Loaded<CloakroomStore>], json: &[Loaded<JsonStore>]) {
    for shape in [Shape::Uniform, Shape::Zipf] {
        let mut group = group(criterion, &format!("get/{}", shape.name()));
        cloakroom.iter().for_each(|loaded| loaded.get(&mut group, shape));
        json.iter().for_each(|loaded| loaded.get(&mut group, shape));
    }
    let mut group = group(criterion, "recent/50");
    cloakroom.iter().for_each(|loaded| loaded.recent(&mut group));
    json.iter().for_each(|loaded| loaded.recent(&mut group));
}

fn prunes(criterion: &mut Criterion, cloakroom: &[Loaded<CloakroomStore>], json: &[Loaded<JsonStore>]) {
    {
        let mut group = group(criterion, "prune/nothing");
        cloakroom.iter().for_each(|loaded| loaded.prune_nothing(&mut group));
        json.iter().for_each(|loaded| loaded.prune_nothing(&mut group));
    }
    let mut group = group(criterion, "prune/tenth");
    for loaded in cloakroom {
        loaded.prune_tenth(&mut group, |store, tenth| store.create(0..tenth, &created_at));
    }
    for loaded in json.iter().filter(|loaded| loaded.size < MILLION) {
        loaded.prune_tenth(&mut group, |store, tenth| store.create_unsaved(0..tenth, &created_at));
    }
}

/// Opens and closes a store; opening is measured.
fn time_open<C>(rounds: u64, open: impl Fn() -> C, check: impl Fn(&C)) -> Duration {
    let mut time = Duration::ZERO;
    for _ in 0..rounds {
        let started = Instant::now();
        let store = open();
        time += started.elapsed();
        check(&store);
    }
    time
}

fn opens(criterion: &mut Criterion, cloakroom: Vec<Loaded<CloakroomStore>>, json: Vec<Loaded<JsonStore>>) {
    let mut group = group(criterion, "open/clean");
    for Loaded { store, size, dir, .. } in cloakroom {
        store.store.close().unwrap();
        // The directory is free for the next opener.
        drop(store);
        let key = &key(&source(size / 2, size));
        group.bench_function(id(size, "cloakroom"), |bencher| {
            bencher.iter_custom(|rounds| {
                time_open(
                    rounds,
                    || CloakroomStore::open(dir.path(), Vec::new()),
                    |opened| {
                        assert!(opened.store.open_report().clean);
                        assert_eq!(opened.count(), size as u64);
                        assert!(opened.store.contains(key).unwrap());
                    },
                )
            });
        });
    }
    for Loaded { size, dir, .. } in json {
        group.bench_function(id(size, "json"), |bencher| {
            bencher.iter_custom(|rounds| {
                time_open(
                    rounds,
                    || JsonStore::open(dir.path(), Vec::new()),
                    |opened| assert_eq!(opened.count(), size as u64),
                )
            });
        });
    }
}

/// The file of a gateway with the given number of entries.
fn gateway_file(size: usize) -> (TempDir, Vec<u8>) {
    let loaded = Loaded::json(size);
    let text = std::fs::read(loaded.dir.path().join("sessions.json")).unwrap();
    (loaded.dir, text)
}

fn time_import(rounds: u64, size: usize, text: &[u8], import: impl Fn(&Path, &[u8]) -> u64) -> Duration {
    let mut time = Duration::ZERO;
    for _ in 0..rounds {
        let dir = tempfile::tempdir().unwrap();
        let started = Instant::now();
        let imported = import(dir.path(), text);
        time += started.elapsed();
        assert_eq!(imported, size as u64);
    }
    time
}

fn imports(criterion: &mut Criterion, mode: Mode) {
    let mut group = group(criterion, "import/hermes");
    for size in mode.import_sizes().iter().copied() {
        let (_dir, text) = gateway_file(size);
        group.throughput(Throughput::Elements(size as u64));
        group.bench_function(id(size, "cloakroom"), |bencher| {
            bencher.iter_custom(|rounds| {
                time_import(rounds, size, &text, |dir, text| {
                    let rig = CloakroomStore::open(dir, Vec::new());
                    rig.set_now(created_at(size));
                    let options = ImportOptions::new().zone("UTC".parse().unwrap());
                    let report = rig.store.import(text, options, |_| {}).unwrap();
                    assert!(report.is_complete());
                    report.imported
                })
            });
        });
        // To the file itself an import is a copy that was read once.
        group.bench_function(id(size, "json"), |bencher| {
            bencher.iter_custom(|rounds| {
                time_import(rounds, size, &text, |dir, text| {
                    std::fs::write(dir.join("sessions.json"), text).unwrap();
                    let store = JsonStore::open(dir, Vec::new());
                    store.create(0..0, &created_at);
                    store.count()
                })
            });
        });
    }
}

fn main() {
    let mode = Mode::of_run();
    let mut criterion = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(mode.measurement())
        .without_plots()
        .configure_from_args();
    let load_cloakroom = || -> Vec<_> { mode.cloakroom_sizes().iter().map(|size| Loaded::cloakroom(*size)).collect() };
    let load_json = || -> Vec<_> { mode.json_sizes().iter().map(|size| Loaded::json(*size)).collect() };

    let (cloakroom, json) = (load_cloakroom(), load_json());
    reads(&mut criterion, &cloakroom, &json);
    opens(&mut criterion, cloakroom, json);

    let (cloakroom, json) = (load_cloakroom(), load_json());
    prunes(&mut criterion, &cloakroom, &json);
    touches(&mut criterion, mode, &cloakroom, &json);
    modifies(&mut criterion, mode, &cloakroom);
    imports(&mut criterion, mode);
    criterion.final_summary();
}
