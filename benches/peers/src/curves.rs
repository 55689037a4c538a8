//! What changes over sizes, over time, over touches, and with the size of an entry.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use crate::adapters::Clocked;
use crate::measure::{Figures, Job, Keys, Rig, loaded, percentile};
use crate::support::cloakroom_store::CloakroomStore;
use crate::support::contender::{Contender, bytes_on_disk};
use crate::support::people::{created_at, keys};
use crate::support::stream::{MINUTE, Shape, Stream, Time};

/// Only the touch, for the curve over sizes.
pub fn curve(job: &Job<'_>, dir: &Path) -> Value {
    let keys = Keys::of(job.contender, job.size);
    let mut rig = loaded(job, dir, &keys);
    rig.touches(Shape::Uniform, Time::Stay);
    rig.touches(Shape::Uniform, Time::Cross);
    json!(rig.figures)
}

/// Latency over time, 20,000 touches a second, with a prune of a tenth in the middle.
pub fn timeline(job: &Job<'_>, dir: &Path) -> Value {
    const WINDOW: u128 = 250;
    let keys = Keys::of(job.contender, job.size);
    let mut rig = loaded(job, dir, &keys);
    let tenth = job.size / 10;
    let latest = rig.latest;
    // The tenth that is to go is not touched.
    let stream = Stream::new(Shape::Uniform, job.size - tenth, job.seed).enumerate();
    let stream = stream.map(|(i, entry)| (tenth + entry, latest + i as i64));
    let started = Instant::now();
    let (end, pruned) = (started + 4 * job.time, AtomicBool::new(false));
    let mut windows: BTreeMap<u128, Vec<u32>> = BTreeMap::new();
    let mut samples: Vec<(u128, u32)> = Vec::with_capacity(1 << 20);

    let (begun, done) = {
        let store = &*rig.store;
        let mut note = |now: Instant, took: Duration| {
            samples.push(((now - started).as_micros(), u32::try_from(took.as_nanos()).unwrap_or(u32::MAX)));
        };
        thread::scope(|scope| {
            let pruner = scope.spawn(|| {
                thread::sleep(2 * job.time);
                let begun = started.elapsed();
                assert_eq!(store.prune(created_at(tenth)), tenth as u64);
                let done = started.elapsed();
                pruned.store(true, Ordering::Relaxed);
                (begun, done)
            });
            // A long prune is seen to its end.
            let is_over = || pruned.load(Ordering::Relaxed) && Instant::now() >= end;
            let stream = stream.take_while(|_| !is_over());
            store.touches(&mut Clocked::new(stream, Duration::from_micros(50), &mut note));

            pruner.join().unwrap()
        })
    };
    // What comes late belongs to the last whole window: one of a few touches has no p99.
    let last = ((4 * job.time).max(done).as_millis() / WINDOW).saturating_sub(1);
    for (at, nanos) in &samples {
        windows.entry((at / 1000 / WINDOW).min(last)).or_default().push(*nanos);
    }
    let rows: Vec<Value> = windows
        .into_iter()
        .map(|(window, mut nanos)| {
            nanos.sort_unstable();
            let of = |share| percentile(&nanos, share);
            json!([(window * WINDOW) as f64 / 1e3, of(0.5), of(0.99), of(0.999), of(1.0)])
        })
        .collect();
    let p99 = |mut nanos: Vec<u32>| {
        nanos.sort_unstable();
        if nanos.is_empty() { 0.0 } else { percentile(&nanos, 0.99) }
    };
    let pruning = begun.as_micros()..done.as_micros();
    let within = samples.iter().filter(|(at, _)| pruning.contains(at)).map(|(_, nanos)| *nanos).collect();
    let before = samples.iter().filter(|(at, _)| *at < pruning.start).map(|(_, nanos)| *nanos).collect();
    rig.note("p99_before_prune_ns", p99(before));
    rig.note("p99_while_pruning_ns", p99(within));
    rig.note("pruned_from_s", begun.as_secs_f64());
    rig.note("pruned_until_s", done.as_secs_f64());
    rig.note("prune_while_touched_per_s", tenth as f64 / (done - begun).as_secs_f64());
    json!({ "figures": rig.figures, "windows": rows })
}

/// Disk size over touches: as many as asked for, or else two hundred for each entry or what fits into ten times
/// `--seconds`.
pub fn disk(job: &Job<'_>, dir: &Path) -> Value {
    let keys = Keys::of(job.contender, job.size);
    let mut rig = loaded(job, dir, &keys);
    let mut stream = rig.stream(Shape::Uniform, Time::Stay);
    let (most, longest) = match job.touches {
        Some(touches) => (touches, Duration::MAX),
        None => (200 * job.size, 10 * job.time),
    };
    let step = (job.size / 2).max(most / 400);
    let started = Instant::now();
    let mut rows = vec![json!([0, bytes_on_disk(dir)])];
    let mut done = 0;
    while done < most && started.elapsed() < longest {
        let some = stream.by_ref().take(step.min(most - done)).enumerate();
        // A minute passes with each lap, as in life: rows of the index move too.
        let lap = |touch: usize| (touch / job.size) as i64 * MINUTE;
        rig.store.touches(&mut some.map(|(i, (entry, now))| (entry, now + lap(done + i))));
        done += step.min(most - done);
        rows.push(json!([done, bytes_on_disk(dir)]));
    }
    json!({ "rows": rows })
}

/// Entries of 100 KB against small ones. Only Cloakroom keeps what is large apart.
pub fn large(job: &Job<'_>, dir: &Path) -> Value {
    let size = job.size.min(2_000);
    let job = Job { size, ..*job };
    let cloakroom_keys = keys(size);
    let store = CloakroomStore::open(dir, cloakroom_keys.clone());
    let handle = store.store.clone();
    store.create(0..size, &created_at);
    let latest = created_at(size);
    let mut rig = Rig { job: &job, store: Box::new(store), latest, figures: Figures::new() };
    let mut result = Figures::new();
    // The first is not to pay for what is warm to the second.
    rig.touches(Shape::Uniform, Time::Cross);
    for bytes in [350, 100_000] {
        if bytes == 100_000 {
            let mut metadata = Map::new();
            metadata.insert("notes".into(), "x".repeat(bytes).into());
            for key in &cloakroom_keys {
                handle.set_metadata(key, &metadata).unwrap().unwrap();
            }
            handle.flush().unwrap();
        }
        for time in [Time::Stay, Time::Cross] {
            result.insert(format!("{}_{bytes}_per_s", time.name()), rig.touches(Shape::Uniform, time));
        }
    }
    json!(result)
}
