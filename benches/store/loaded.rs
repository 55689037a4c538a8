//! A loaded store, and what is measured of it.

use std::hint::black_box;
use std::sync::atomic::{AtomicI64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Throughput};
use tempfile::TempDir;

use crate::support::cloakroom_store::CloakroomStore;
use crate::support::contender::{Contender, Fields};
use crate::support::json_store::JsonStore;
use crate::support::people::{created_at, keys};
use crate::support::stream::{MINUTE, Shape, Stream, Time, Touches};

pub fn id(size: usize, contender: &str) -> BenchmarkId {
    BenchmarkId::new(size.to_string(), contender)
}

/// A loaded store, and the latest time it has seen.
pub struct Loaded<C> {
    pub store: C,
    pub size: usize,
    latest: AtomicI64,
    pub dir: TempDir,
}

impl Loaded<CloakroomStore> {
    pub fn cloakroom(size: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = CloakroomStore::open(dir.path(), keys(size));
        Self::load(store, size, dir)
    }
}

impl Loaded<JsonStore> {
    pub fn json(size: usize) -> Self {
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

    pub fn touch(&self, group: &mut BenchmarkGroup<'_, WallTime>, shape: Shape, time: Time, batch: usize) {
        let after = self.latest.load(Ordering::Relaxed);
        let mut touches = Touches::new(shape, time, self.size, 7, after);
        let mut gathered = time == Time::Cross || batch == 1;
        group.throughput(Throughput::Elements(batch as u64));
        group.bench_function(id(self.size, self.store.name()), |bencher| {
            // Here, so that a bench that a filter passes over costs nothing.
            if !gathered {
                touches = self.gather(shape, touches.now());
                gathered = true;
            }
            bencher.iter_custom(|batches| self.time_touches(&mut touches, batch, batches));
        });
    }

    /// Two fields changed in one step with each touch.
    pub fn modify(&self, group: &mut BenchmarkGroup<'_, WallTime>, fields: Fields, batch: usize) {
        group.throughput(Throughput::Elements(batch as u64));
        let mut touches = None;
        group.bench_function(id(self.size, self.store.name()), |bencher| {
            let after = self.latest.load(Ordering::Relaxed);
            let touches = touches.get_or_insert_with(|| self.gather(Shape::Uniform, after));
            bencher.iter_custom(|batches| {
                let started = Instant::now();
                for _ in 0..batches {
                    assert!(self.store.modifies(fields, &mut touches.by_ref().take(batch)));
                }
                self.latest.fetch_max(touches.now(), Ordering::Relaxed);
                started.elapsed()
            });
        });
    }

    /// Takes every entry into one bucket, and answers a stream that stays in it.
    fn gather(&self, shape: Shape, mut now: i64) -> Touches {
        let start = now;
        self.store.touches(&mut (0..self.size).map(|entry| {
            now += 1;
            (entry, now)
        }));
        let mut touches = Touches::new(shape, Time::Stay, self.size, 7, start - MINUTE);
        touches.nth(self.size);
        touches
    }

    /// `threads` threads, each waiting for its touch to be durable before the next.
    pub fn touch_durable(&self, group: &mut BenchmarkGroup<'_, WallTime>, threads: u64, each: usize) {
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

    pub fn get(&self, group: &mut BenchmarkGroup<'_, WallTime>, shape: Shape) {
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

    pub fn prune_nothing(&self, group: &mut BenchmarkGroup<'_, WallTime>) {
        group.bench_function(id(self.size, self.store.name()), |bencher| {
            bencher.iter(|| assert_eq!(self.store.prune(created_at(0) - MINUTE), 0));
        });
        assert_eq!(self.store.count(), self.size as u64);
    }

    pub fn recent(&self, group: &mut BenchmarkGroup<'_, WallTime>) {
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
    pub fn prune_tenth(&self, group: &mut BenchmarkGroup<'_, WallTime>, remake: impl Fn(&C, usize)) {
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
