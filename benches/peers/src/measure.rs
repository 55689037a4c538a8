//! What one child process measures of one contender: all that fits into one table.

use std::collections::BTreeMap;
use std::fs;
use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::adapters::{Clocked, Until};
#[cfg(feature = "rocksdb")]
use crate::rocksdb_store;
use crate::support::cloakroom_store::CloakroomStore;
use crate::support::contender::{Contender, Fields, bytes_on_disk};
use crate::support::json_store::JsonStore;
use crate::support::people::{created_at, keys};
use crate::support::stream::{MINUTE, Shape, Stream, Time, Touches, shuffled};
use crate::{fjall_store, floor, heed_store, kv, redb_store, sled_safe, sled_store, sqlite};

pub const CONTENDERS: &[&str] = &[
    "cloakroom",
    "old",
    "json",
    "sqlite_json",
    "sqlite",
    "redb",
    "fjall",
    "heed",
    #[cfg(feature = "rocksdb")]
    "rocksdb",
    "sled",
    "sled_safe",
    "sled_safe4",
    "floor",
];

pub struct Job<'a> {
    pub contender: &'a str,
    pub size: usize,
    pub time: Duration,
    pub seed: u64,
    /// Of the disk curve.
    pub touches: Option<usize>,
    /// How long touches are sustained.
    pub sustain: Duration,
}

pub type Figures = BTreeMap<String, f64>;

fn texts(size: usize) -> Arc<Vec<String>> {
    Arc::new(keys(size).iter().map(|key| key.as_str().to_owned()).collect())
}

/// Keys, made before anything is measured.
pub enum Keys {
    Shared(Arc<Vec<String>>),
    Cloakroom(Arc<Vec<cloakroom::SessionKey>>),
}

impl Keys {
    pub fn of(contender: &str, size: usize) -> Self {
        if contender == "cloakroom" { Self::Cloakroom(Arc::new(keys(size))) } else { Self::Shared(texts(size)) }
    }
}

/// Opens a store at the time `now`, and makes it where there is none.
pub fn open(contender: &str, dir: &Path, keys: &Keys, now: i64) -> Box<dyn Contender> {
    let texts = match keys {
        Keys::Cloakroom(keys) => return Box::new(CloakroomStore::open_at(dir, Arc::clone(keys), now)),
        Keys::Shared(texts) => Arc::clone(texts),
    };
    match contender {
        "json" => Box::new(JsonStore::open(dir, texts.to_vec())),
        "sqlite_json" => Box::new(sqlite::SqliteJson::open(dir, texts)),
        "sqlite" => Box::new(sqlite::Sqlite::open(dir, texts)),
        "redb" => Box::new(kv::Kv::new(redb_store::Redb::open(dir), texts)),
        "fjall" => Box::new(kv::Kv::new(fjall_store::Fjall::open(dir), texts)),
        "heed" => Box::new(kv::Kv::new(heed_store::Heed::open(dir), texts)),
        #[cfg(feature = "rocksdb")]
        "rocksdb" => Box::new(kv::Kv::new(rocksdb_store::Rocksdb::open(dir), texts)),
        "sled" => Box::new(kv::Kv::new(sled_store::Sled::open(dir), texts)),
        "sled_safe" | "sled_safe4" => {
            Box::new(kv::Kv::new(sled_safe::SledSafe::open(dir, contender == "sled_safe"), texts))
        }
        "floor" => Box::new(floor::Floor::open(dir, texts)),
        _ => panic!("no contender {contender}"),
    }
}

/// A figure of /proc/self: `VmRSS` and `VmHWM` of `status` in KiB, `write_bytes` of `io` in bytes.
pub fn proc_figure(file: &str, name: &str) -> f64 {
    let text = fs::read_to_string(format!("/proc/self/{file}")).unwrap();
    let line = text.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

pub fn percentile(sorted: &[u32], share: f64) -> f64 {
    let at = (sorted.len() as f64 * share) as usize;
    f64::from(sorted[at.min(sorted.len() - 1)])
}

pub struct Rig<'a> {
    pub job: &'a Job<'a>,
    pub store: Box<dyn Contender>,
    /// The latest time that an entry was touched at.
    pub latest: i64,
    pub figures: Figures,
}

impl Rig<'_> {
    pub fn note(&mut self, name: impl Into<String>, value: f64) {
        self.figures.insert(name.into(), value);
    }

    fn is_slow(&self) -> bool {
        matches!(self.job.contender, "json" | "sqlite_json")
    }

    /// Entries to touch, drawn before the clock runs, and their times.
    pub fn stream(&mut self, shape: Shape, time: Time) -> Box<dyn Iterator<Item = (usize, i64)>> {
        let (size, seed) = (self.job.size, self.job.seed);
        if time == Time::Cross && shape == Shape::Uniform {
            return Box::new(Touches::new(shape, time, size, seed, self.latest));
        }
        let drawn: Vec<u32> =
            Stream::new(shape, size, seed).take(1 << 20).map(|entry| u32::try_from(entry).unwrap()).collect();
        let step = if time == Time::Cross { MINUTE } else { 1 };
        let mut now = self.latest;
        Box::new((0..drawn.len()).cycle().map(move |at| {
            now += step;
            (drawn[at] as usize, now)
        }))
    }

    /// Takes every entry into one bucket. To a store that writes everything at each touch buckets are nothing.
    fn gather(&mut self) {
        let start = (self.latest / MINUTE + 1) * MINUTE;
        if self.job.contender != "json" {
            self.store.touches(&mut (0..self.job.size).map(|entry| (entry, start + entry as i64 / 1000)));
        }
        self.latest = start + self.job.size as i64 / 1000;
    }

    /// Touches until the time is over, and notes the rate with the final commit, and the bytes per touch.
    pub fn touches(&mut self, shape: Shape, time: Time) -> f64 {
        if time == Time::Stay {
            self.gather();
        }
        let stream = self.stream(shape, time);
        let every = if self.is_slow() { 1 } else { 64 };
        let before = proc_figure("io", "write_bytes");
        let started = Instant::now();
        let mut until = Until { stream, end: started + self.job.time, every, count: 0, last: None };
        self.store.touches(&mut until);
        let rate = until.count as f64 / started.elapsed().as_secs_f64();
        let (entry, now) = until.last.unwrap();
        assert_eq!(self.store.get(entry), Some(now), "the last touch is there");
        self.latest = self.latest.max(now);
        let bytes = (proc_figure("io", "write_bytes") - before) / until.count as f64;
        let name = format!("touch_{}_{}", shape.name(), time.name());
        self.note(format!("{name}_per_s"), rate);
        self.note(format!("{name}_device_bytes"), bytes);
        rate
    }

    /// Two fields changed in one step with each touch, where the store can.
    fn modifies(&mut self, fields: Fields, name: &str) {
        // What has just been opened has read nothing yet.
        assert!((0..self.job.size).all(|entry| self.store.get(entry).is_some()));
        self.gather();
        let stream = self.stream(Shape::Uniform, Time::Stay);
        let started = Instant::now();
        let every = if self.is_slow() { 1 } else { 64 };
        let mut until = Until { stream, end: started + self.job.time, every, count: 0, last: None };
        if !self.store.modifies(fields, &mut until) {
            return;
        }
        let rate = until.count as f64 / started.elapsed().as_secs_f64();
        let (entry, now) = until.last.unwrap();
        assert_eq!(self.store.get(entry), Some(now), "the last change is there");
        self.latest = self.latest.max(now);
        self.note(format!("modify_{name}_per_s"), rate);
    }

    fn latency(&mut self, name: &str, pace: Duration) {
        self.gather();
        let stream = self.stream(Shape::Uniform, Time::Stay);
        let end = Instant::now() + self.job.time;
        let mut nanos: Vec<u32> = Vec::with_capacity(1 << 22);
        let mut note = |_: Instant, took: Duration| {
            if nanos.len() < nanos.capacity() {
                nanos.push(u32::try_from(took.as_nanos()).unwrap_or(u32::MAX));
            }
        };
        let mut until = Until { stream, end, every: if self.is_slow() { 1 } else { 16 }, count: 0, last: None };
        self.store.touches(&mut Clocked::new(&mut until, pace, &mut note));
        self.latest = until.last.unwrap().1;
        nanos.sort_unstable();
        for (label, share) in [("p50", 0.5), ("p99", 0.99), ("p999", 0.999), ("max", 1.0)] {
            self.note(format!("{name}_{label}_ns"), percentile(&nanos, share));
        }
    }

    fn durable(&mut self, threads: u64) {
        let clock = AtomicI64::new(self.latest + MINUTE);
        let total = AtomicU64::new(0);
        let started = Instant::now();
        thread::scope(|scope| {
            for thread in 0..threads {
                let mut stream = Stream::new(Shape::Uniform, self.job.size, self.job.seed * 100 + thread);
                let (store, clock, total, time) = (&*self.store, &clock, &total, self.job.time);
                scope.spawn(move || {
                    while started.elapsed() < time {
                        store.touch_durable(stream.next().unwrap(), clock.fetch_add(1, Ordering::Relaxed));
                        total.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        });
        let rate = total.into_inner() as f64 / started.elapsed().as_secs_f64();
        self.latest = clock.into_inner();
        self.note(format!("durable_{threads}_threads_per_s"), rate);
    }

    /// Reads whole entries, after a pass that warms the caches.
    fn gets(&mut self, shape: Shape, name: &str) {
        let mut stream = Stream::new(shape, self.job.size, self.job.seed);
        let mut nanos = Vec::with_capacity(100_000);
        for _ in 0..2 {
            nanos.clear();
            for _ in 0..100_000 {
                let entry = stream.next().unwrap();
                let started = Instant::now();
                let found = self.store.get(entry);
                nanos.push(u32::try_from(started.elapsed().as_nanos()).unwrap_or(u32::MAX));
                assert!(black_box(found).is_some());
            }
        }
        let sum: f64 = nanos.iter().map(|nanos| f64::from(*nanos)).sum();
        self.note(format!("{name}_per_s"), 1e9 * nanos.len() as f64 / sum);
        nanos.sort_unstable();
        self.note(format!("{name}_p50_ns"), percentile(&nanos, 0.5));
        self.note(format!("{name}_p99_ns"), percentile(&nanos, 0.99));
    }

    pub fn reads(&mut self) {
        self.gets(Shape::Uniform, "get");
        self.gets(Shape::Zipf, "get_zipf");
        let recent = median_micros(|| {
            let recent = self.store.recent(50);
            assert_eq!(recent.len(), 50);
            assert_eq!(recent[0], created_at(self.job.size - 1));
            assert_eq!(recent[49], created_at(self.job.size - 50));
        });
        self.note("recent_50_us", recent);
    }

    fn prunes(&mut self) {
        let nothing = median_micros(|| assert_eq!(self.store.prune(created_at(0) - MINUTE), 0));
        self.note("prune_nothing_us", nothing);
        let tenth = self.job.size / 10;
        let started = Instant::now();
        assert_eq!(self.store.prune(created_at(tenth)), tenth as u64);
        self.note("prune_tenth_per_s", tenth as f64 / started.elapsed().as_secs_f64());
        let size = self.job.size;
        self.store.create(0..tenth, &|entry| created_at(size + entry));
        self.latest = created_at(size + tenth);
    }

    /// The fifty touched last, where nine tenths of the store were touched in one minute. Not of the file: each touch
    /// would write all of it.
    fn recent_in_crowd(&mut self) {
        if self.job.contender == "json" {
            return;
        }
        let start = (self.latest / MINUTE + 2) * MINUTE;
        let tenth = self.job.size / 10;
        let crowd = shuffled(self.job.size - tenth, self.job.seed);
        let last = start + crowd.len() as i64 - 1;
        assert!(last < start + MINUTE, "the minute has a microsecond for each");
        self.store.touches(&mut crowd.iter().zip(start..).map(|(entry, now)| (tenth + entry, now)));
        self.latest = last;
        let recent = median_micros(|| {
            let recent = self.store.recent(50);
            assert_eq!((recent.len(), recent[0], recent[49]), (50, last, last - 49));
        });
        self.note("recent_50_crowded_us", recent);
    }
}

fn median_micros(mut work: impl FnMut()) -> f64 {
    let mut times: Vec<f64> = (0..11)
        .map(|_| {
            let started = Instant::now();
            work();
            started.elapsed().as_secs_f64() * 1e6
        })
        .collect();
    times.sort_unstable_by(f64::total_cmp);
    times[5]
}

pub fn loaded<'a>(job: &'a Job<'a>, dir: &Path, keys: &Keys) -> Rig<'a> {
    let rss = proc_figure("status", "VmRSS");
    let store = open(job.contender, dir, keys, 0);
    assert_eq!(store.name(), job.contender);
    let started = Instant::now();
    store.create(0..job.size, &created_at);
    let load = job.size as f64 / started.elapsed().as_secs_f64();
    let mut rig = Rig { job, store, latest: created_at(job.size), figures: Figures::new() };
    rig.note("load_per_s", load);
    rig.note("rss_after_load_mib", (proc_figure("status", "VmRSS") - rss) / 1024.0);
    rig.note("disk_after_load_bytes", bytes_on_disk(dir) as f64);
    rig
}

/// Everything that fits into one table.
pub fn all(job: &Job<'_>, dir: &Path) -> Value {
    let keys = Keys::of(job.contender, job.size);
    let rss = proc_figure("status", "VmRSS");
    let mut rig = loaded(job, dir, &keys);
    assert_eq!(rig.store.count(), job.size as u64);
    rig.reads();
    rig.prunes();
    rig.recent_in_crowd();
    assert_eq!(rig.store.count(), job.size as u64);
    for shape in [Shape::Uniform, Shape::Zipf, Shape::Discord] {
        rig.touches(shape, Time::Stay);
    }
    rig.touches(Shape::Uniform, Time::Cross);
    rig.note("rss_mib", (proc_figure("status", "VmRSS") - rss) / 1024.0);
    rig.latency("touch_flat_out", Duration::ZERO);
    rig.latency("touch_paced", Duration::from_micros(50));
    rig.durable(1);
    rig.durable(8);
    rig.note("disk_bytes", bytes_on_disk(dir) as f64);
    rig.note("rss_peak_mib", (proc_figure("status", "VmHWM") - rss) / 1024.0);
    let mut rig = reopened(rig, dir, &keys);
    // The last, since commit 9f67c60 cannot, and all else is to be the same work for both.
    rig.modifies(Fields::Counters, "counters");
    rig.modifies(Fields::Details, "details");
    json!(rig.figures)
}

/// Closes the store and opens it, twice: the first opening may pay for what was changed since the one before.
pub fn reopened<'a>(rig: Rig<'a>, dir: &Path, keys: &Keys) -> Rig<'a> {
    let Rig { job, mut store, mut figures, latest } = rig;
    // It cannot be opened again.
    if job.contender == "floor" {
        return Rig { job, store, figures, latest };
    }
    for prefix in ["", "later_"] {
        let started = Instant::now();
        drop(store);
        let closed = started.elapsed().as_secs_f64() * 1e3;
        let started = Instant::now();
        store = open(job.contender, dir, keys, latest);
        let opened = started.elapsed().as_secs_f64() * 1e3;
        figures.insert(format!("{prefix}close_ms"), closed);
        figures.insert(format!("{prefix}open_ms"), opened);
        figures.insert(format!("{prefix}close_and_open_ms"), closed + opened);
        assert!(store.get(job.size / 2).is_some());
        assert_eq!(store.count(), job.size as u64);
    }
    Rig { job, store, figures, latest }
}
