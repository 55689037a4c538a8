//! A store of `ENTRIES` entries, loaded, read, touched, pruned and opened again in one process, with its memory at each
//! step; and what a touch costs by the number of entries.
//!
//! `ENTRIES=1000000 cargo bench --bench million`. Does nothing without `ENTRIES`: a million take minutes.
#![allow(missing_docs, unreachable_pub, dead_code, reason = "a bench")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a bench")]

mod rig;
mod sizes;
#[path = "../support/mod.rs"]
mod support;

use std::hint::black_box;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cloakroom::PrunePolicy;

use rig::Rig;
use support::api::{self, NoActivity};
use support::cloakroom_store::CloakroomStore;
use support::contender::bytes_on_disk;
use support::people::{created_at, key, source};
use support::stream::{MINUTE, Shape, Stream};

/// That of the program `cloakroom`. Without the default features it is the system's.
#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const DAYS: i64 = 90;

/// MiB that the process holds now, and the most it has held.
fn memory() -> (u64, u64) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let figure = |name: &str| -> u64 {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|line| line.split_whitespace().next()).and_then(|kib| kib.parse().ok()).unwrap_or(0)
    };
    (figure("VmRSS:") / 1024, figure("VmHWM:") / 1024)
}

/// A row: how many of a thing were done, and how long they took.
fn told(what: &str, count: usize, took: Duration) {
    println!("{}", row(what, count, took));
}

fn row(what: &str, count: usize, took: Duration) -> String {
    let each = took.as_secs_f64() * 1e6 / count.max(1) as f64;
    let (now, peak) = memory();
    format!("{what:<46} {count:>9} {took:>10.2?} {each:>11.2} {now:>8} {peak:>8}")
}

/// A row: the median of eleven, with the least and the most.
fn told_median(what: &str, mut work: impl FnMut()) {
    let mut times: Vec<Duration> = (0..11)
        .map(|_| {
            let started = Instant::now();
            work();
            started.elapsed()
        })
        .collect();
    times.sort_unstable();
    println!("{}  median of 11 [{:.2?} – {:.2?}]", row(what, 1, times[5]), times[0], times[10]);
}

/// Bytes on disk.
fn told_disk(rig: &Rig, what: &str) {
    println!("{:<46} {:>9.2} GB", format!("on disk, {what}"), bytes_on_disk(rig.dir.path()) as f64 / 1e9);
}

/// Whole entries, after as many that warm the caches.
fn gets(rig: &Rig, shape: Shape) {
    const READS: usize = 100_000;
    let mut took = Duration::ZERO;
    for (read, entry) in Stream::new(shape, rig.entries, 11).take(2 * READS).enumerate() {
        // Made one by one, for the memory that is measured is the store's.
        let key = rig.key(entry);
        let started = Instant::now();
        let found = rig.cloakroom.store.get(&key).unwrap();
        if read >= READS {
            took += started.elapsed();
        }
        assert!(black_box(found).is_some());
    }
    told(&format!("get, {}", shape.name()), READS, took);
}

fn backup(rig: &Rig) {
    let dir = tempfile::tempdir_in(".").unwrap();
    let started = Instant::now();
    let bytes = api::backup(&rig.cloakroom.store, &dir.path().join("backup"));
    told(&format!("backup, {} MB", bytes / 1_000_000), rig.entries, started.elapsed());
}

/// The fifty touched last, with nothing pending. The newest of them is of the time `newest`.
fn recent(rig: &Rig, what: &str, newest: i64) {
    rig.cloakroom.store.flush().unwrap();
    told_median(what, || {
        let page = rig.cloakroom.store.recent(50, None).unwrap();
        assert_eq!(page.entries.len(), 50);
        assert_eq!(page.entries[0].updated_at.as_micros(), newest);
        assert!(page.entries.is_sorted_by(|newer, older| newer.updated_at >= older.updated_at));
    });
}

fn prune_nothing(rig: &Rig, what: &str) {
    let policy = PrunePolicy::max_age_days(DAYS);
    told_median(what, || assert_eq!(rig.cloakroom.store.prune(&policy, NoActivity).unwrap().removed, 0));
}

/// Prunes the oldest tenth, which nobody has touched, and makes it again.
fn prune_tenth(rig: &mut Rig) {
    let tenth = rig.tenth();
    rig.now = created_at(tenth) + DAYS * 24 * 60 * MINUTE;
    rig.cloakroom.set_now(rig.now);
    let started = Instant::now();
    let removed = rig.cloakroom.store.prune(&PrunePolicy::max_age_days(DAYS), NoActivity).unwrap().removed;
    told("pruned, the oldest tenth", tenth, started.elapsed());
    assert_eq!(removed, tenth as u64);
    assert_eq!(rig.cloakroom.store.len(), (rig.entries - tenth) as u64);
    prune_nothing(rig, "pruned, nothing to do, right after");
    let now = rig.now;
    told("created, that tenth again", tenth, rig.create(0..tenth, &|entry| now + entry as i64));
    rig.now += tenth as i64;
}

/// Closes the store, and opens it twice in processes of their own, as a gateway does that starts: sled writes its snapshot
/// when it opens, so the first opening pays for all that was written since the one before. (In this process the heap
/// is as all of the above has left it, and an opening takes up to five times as long.)
fn reopen(rig: Rig) -> Rig {
    let started = Instant::now();
    rig.cloakroom.store.close().unwrap();
    // The directory is free for the next opener when the last clone is gone.
    drop(rig.cloakroom);
    told("closed", 1, started.elapsed());
    for what in ["after all of this", "with nothing since"] {
        let program = std::env::current_exe().unwrap();
        let status = Command::new(program)
            .env("OPENS", rig.dir.path())
            .args([what, &rig.entries.to_string(), &rig.now.to_string()])
            .status()
            .unwrap();
        assert!(status.success());
    }
    let cloakroom = CloakroomStore::open_at(rig.dir.path(), Arc::default(), rig.now);
    Rig { cloakroom, ..rig }
}

/// The process that opens the store of another, which has closed it.
fn open(dir: &Path, what: &str, entries: usize, now: i64) {
    let started = Instant::now();
    let cloakroom = CloakroomStore::open_at(dir, Arc::default(), now);
    told(&format!("opened, {what}"), 1, started.elapsed());
    assert!(cloakroom.store.open_report().clean);
    assert_eq!(cloakroom.store.len(), entries as u64);
    assert!(cloakroom.store.contains(&key(&source(entries / 2, entries))).unwrap());
    cloakroom.store.close().unwrap();
}

fn main() {
    if let Some(dir) = std::env::var_os("OPENS") {
        let args: Vec<String> = std::env::args().skip(1).collect();
        return open(Path::new(&dir), &args[0], args[1].parse().unwrap(), args[2].parse().unwrap());
    }
    let text = std::env::var("ENTRIES").unwrap_or_default();
    let Ok(entries) = text.replace('_', "").parse::<usize>() else {
        println!("set ENTRIES to the number of entries");
        return;
    };
    assert!(entries >= 1_000, "at least 1000 entries are needed");
    println!("{:<46} {:>9} {:>10} {:>11} {:>8} {:>8}", "", "count", "time", "us each", "RSS MiB", "peak MiB");

    let (mut rig, took) = Rig::load(entries);
    told("created, a hundred a minute", entries, took);
    told_disk(&rig, "after the load");
    gets(&rig, Shape::Uniform);
    gets(&rig, Shape::Zipf);
    recent(&rig, "recent(50), a hundred a minute", rig.now);
    prune_nothing(&rig, "pruned, nothing to do, after the load");

    let touched = rig.tenth()..entries;
    rig.next_minute();
    told("touched, each once, into one minute", touched.len(), rig.touch_each(touched.clone(), 1));
    told("touched, each once, within that minute", touched.len(), rig.touch_each(touched.clone(), 1));
    recent(&rig, "recent(50), nine tenths in the last minute", rig.now);
    rig.next_minute();
    let some = touched.start..touched.start + 500;
    rig.touch_each(some, MINUTE / 100);
    recent(&rig, "recent(50), a hundred touches a minute lately", rig.now);
    told_disk(&rig, "after the touches");
    prune_tenth(&mut rig);
    backup(&rig);
    told_disk(&rig, "after all of this");
    let mut rig = reopen(rig);

    let smaller = [1_000, 10_000, 100_000].into_iter().filter(|size| *size < entries);
    let mut rigs: Vec<Rig> = smaller.map(|size| Rig::load(size).0).collect();
    rig.next_minute();
    rigs.push(rig);
    sizes::compare(&mut rigs);
    rigs.into_iter().for_each(|rig| rig.cloakroom.store.close().unwrap());
}
