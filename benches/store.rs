//! Cloakroom against the file that gateways write today.
//!
//! `cargo bench` is the short mode; `CLOAKROOM_BENCH=full cargo bench` adds the large sizes and more samples;
//! `cargo test --benches` runs each bench once on a small store. Ids are `group/size/contender`. One iteration of a
//! touch group is a batch of touches *and* the commit that makes all of them durable; the throughput is per touch.
#![allow(missing_docs, unreachable_pub, dead_code, reason = "a bench")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a bench")]

mod support;

use std::hint::black_box;
use std::path::Path;
use std::sync::atomic::{AtomicI64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use cloakroom::ImportOptions;
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, SamplingMode, Throughput};
use tempfile::TempDir;

use support::cloakroom_store::CloakroomStore;
use support::contender::Contender;
use support::json_store::JsonStore;
use support::people::{created_at, key, keys, source};
use support::stream::{MINUTE, Shape, Stream, Time, Touches};

/// How much is measured.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Test,
    Short,
    Full,
}

impl Mode {
    /// Cargo passes `--bench` for `cargo bench` only; criterion decides alike.
    fn of_run() -> Self {
        let has = |flag: &str| std::env::args().any(|arg| arg == flag);
        if !has("--bench") || has("--test") {
            Self::Test
        } else if std::env::var("CLOAKROOM_BENCH").is_ok_and(|mode| mode == "full") {
            Self::Full
        } else {
            Self::Short
        }
    }

    fn cloakroom_sizes(self) -> &'static [usize] {
        match self {
            Self::Test => &[300],
            Self::Short => &[1_000, 10_000, 100_000],
            Self::Full => &[1_000, 10_000, 100_000, 1_000_000],
        }
    }

    /// Each touch of this contender writes its whole file, so a newcomer is not made to wait for a large one.
    fn json_sizes(self) -> &'static [usize] {
        match self {
            Self::Test => &[300],
            Self::Short => &[1_000, 10_000],
            Self::Full => &[1_000, 10_000, 100_000],
        }
    }

    fn import_sizes(self) -> &'static [usize] {
        match self {
            Self::Test => &[300],
            Self::Short => &[1_000, 4_000],
            Self::Full => &[1_000, 10_000, 100_000],
        }
    }

    /// Touches of one batch.
    fn batch(self, size: usize, time: Time) -> usize {
        match (self, time) {
            (Self::Test, _) => 300,
            (Self::Short, Time::Stay) => size.clamp(20_000, 100_000),
            (Self::Short, Time::Cross) => 10_000,
            (Self::Full, Time::Stay) => size.clamp(100_000, 1_000_000),
            (Self::Full, Time::Cross) => 100_000,
        }
    }

    fn measurement(self) -> Duration {
        if self == Self::Full { Duration::from_secs(3) } else { Duration::from_millis(500) }
    }
}

fn id(size: usize, contender: &str) -> BenchmarkId {
    BenchmarkId::new(size.to_string(), contender)
}

fn group<'a>(criterion: &'a mut Criterion, name: &str) -> BenchmarkGroup<'a, WallTime> {
    let mut group = criterion.benchmark_group(name);
    group.sampling_mode(SamplingMode::Flat);
    group
}

/// A loaded store, and the latest time it has seen.
struct Loaded<C> {
    store: C,
    size: usize,
    latest: AtomicI64,
    dir: TempDir,
}

impl Loaded<CloakroomStore> {
    fn cloakroom(size: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = CloakroomStore::open(dir.path(), keys(size));
        Self::load(store, size, dir)
    }
}

impl Loaded<JsonStore> {
    fn json(size: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let keys = keys(size).iter().map(|key| key.as_str().to_owned()).collect();
        let store = JsonStore::open(dir.path(), keys);
        Self::load(store, size, dir)
    }
}

impl<C: Contender> Loaded<C> {
    fn load(store: C, size: usize, dir: TempDir) -> Self {
        store.create(0..size, &created_at);
        assert_eq!(store.count(), size as u64);
        Self { store, size, latest: AtomicI64::new(created_at(size)), dir }
    }

    /// Runs `touches` of a stream `batches` times, each with its commit.
    fn time_touches(&self, touches: &mut Touches, batch: usize, batches: u64) -> Duration {
        let mut time = Duration::ZERO;
        for _ in 0..batches {
            let mut last = None;
            let mut stream = touches.by_ref().take(batch).inspect(|touch| last = Some(*touch));
            let started = Instant::now();
            self.store.touches(&mut stream);
            time += started.elapsed();
            let (entry, now) = last.unwrap();
            assert_eq!(self.store.get(entry), Some(now));
            self.latest.fetch_max(now, Ordering::Relaxed);
        }
        time
    }

    fn touch(&self, group: &mut BenchmarkGroup<'_, WallTime>, shape: Shape, time: Time, batch: usize) {
        let after = self.latest.load(Ordering::Relaxed);
        let mut touches = Touches::new(shape, time, self.size, 7, after);
        if time == Time::Stay && batch > 1 {
            // Takes every entry into the bucket in which it is to stay.
            let mut now = touches.now();
            self.store.touches(&mut (0..self.size).map(|entry| {
                now += 1;
                (entry, now)
            }));
            touches = Touches::new(shape, time, self.size, 7, touches.now() - MINUTE);
            touches.nth(self.size);
        }
        group.throughput(Throughput::Elements(batch as u64));
        group.bench_function(id(self.size, self.store.name()), |bencher| {
            bencher.iter_custom(|batches| self.time_touches(&mut touches, batch, batches));
        });
    }

    /// `threads` threads, each waiting for its touch to be durable before the next.
    fn touch_durable(&self, group: &mut BenchmarkGroup<'_, WallTime>, threads: u64, each: usize) {
        let clock = AtomicI64::new((self.latest.load(Ordering::Relaxed) / MINUTE + 1) * MINUTE);
        group.throughput(Throughput::Elements(threads * each as u64));
        group.bench_function(id(self.size, self.store.name()), |bencher| {
            bencher.iter_custom(|rounds| {
                let started = Instant::now();
                thread::scope(|scope| {
                    for seed in 0..threads {
                        let mut stream = Stream::new(Shape::Uniform, self.size, seed);
                        let clock = &clock;
                        scope.spawn(move || {
                            for _ in 0..rounds * each as u64 {
                                let entry = stream.next().unwrap();
                                let now = clock.fetch_add(1, Ordering::Relaxed);
                                self.store.touch_durable(entry, now);
                                assert!(self.store.get(entry) >= Some(now - 1_000_000));
                            }
                        });
                    }
                });
                started.elapsed()
            });
        });
        self.latest.fetch_max(clock.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    fn get(&self, group: &mut BenchmarkGroup<'_, WallTime>, shape: Shape) {
        let mut stream = Stream::new(shape, self.size, 11);
        group.throughput(Throughput::Elements(1));
        group.bench_function(id(self.size, self.store.name()), |bencher| {
            bencher.iter(|| {
                let found = self.store.get(stream.next().unwrap());
                assert!(found.is_some());
                black_box(found)
            });
        });
    }

    fn prune_nothing(&self, group: &mut BenchmarkGroup<'_, WallTime>) {
        group.bench_function(id(self.size, self.store.name()), |bencher| {
            bencher.iter(|| assert_eq!(self.store.prune(created_at(0) - MINUTE), 0));
        });
        assert_eq!(self.store.count(), self.size as u64);
    }

    fn recent(&self, group: &mut BenchmarkGroup<'_, WallTime>) {
        group.throughput(Throughput::Elements(50));
        group.bench_function(id(self.size, self.store.name()), |bencher| {
            bencher.iter(|| {
                let recent = self.store.recent(50);
                assert_eq!(recent.len(), 50);
                assert!(recent.is_sorted_by(|newer, older| newer >= older));
                black_box(recent)
            });
        });
    }

    /// Prunes the oldest tenth; `remake` puts it back, unmeasured.
    fn prune_tenth(&self, group: &mut BenchmarkGroup<'_, WallTime>, remake: impl Fn(&C, usize)) {
        let tenth = self.size / 10;
        let mut whole = true;
        group.throughput(Throughput::Elements(tenth as u64));
        group.bench_function(id(self.size, self.store.name()), |bencher| {
            bencher.iter_custom(|rounds| {
                let mut time = Duration::ZERO;
                for _ in 0..rounds {
                    if !whole {
                        remake(&self.store, tenth);
                    }
                    let started = Instant::now();
                    let removed = self.store.prune(created_at(tenth));
                    time += started.elapsed();
                    assert_eq!(removed, tenth as u64);
                    whole = false;
                }
                time
            });
        });
        // A filter may have passed the bench over.
        if !whole {
            remake(&self.store, tenth);
        }
        assert_eq!(self.store.count(), self.size as u64);
    }
}

fn touches(criterion: &mut Criterion, mode: Mode, cloakroom: &[Loaded<CloakroomStore>], json: &[Loaded<JsonStore>]) {
    for shape in [Shape::Uniform, Shape::Zipf, Shape::Discord] {
        for time in [Time::Stay, Time::Cross] {
            let mut group = group(criterion, &format!("touch/{}/{}", shape.name(), time.name()));
            for loaded in cloakroom {
                loaded.touch(&mut group, shape, time, mode.batch(loaded.size, time));
            }
            // To a file that is written whole, one entry is like another.
            let shapes = if mode == Mode::Short {
                &[Shape::Uniform][..]
            } else {
                &[Shape::Uniform, Shape::Zipf, Shape::Discord]
            };
            for loaded in json.iter().filter(|_| shapes.contains(&shape)) {
                loaded.touch(&mut group, shape, time, 1);
            }
        }
    }
    for threads in [1, 8] {
        let mut group = group(criterion, &format!("touch_durable/{threads}_threads"));
        for loaded in cloakroom {
            loaded.touch_durable(&mut group, threads, if mode == Mode::Test { 3 } else { 50 });
        }
        for loaded in json {
            loaded.touch_durable(&mut group, threads, 1);
        }
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
    for loaded in json {
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

/// The file of a gateway with so many entries.
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
    imports(&mut criterion, mode);
    criterion.final_summary();
}
