//! What is measured apart, because it takes long or because only some can do it.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::adapters::Until;
use crate::measure::{Figures, Job, Keys, Rig, loaded, open, proc_figure, reopened};
use crate::support::cloakroom_store::CloakroomStore;
use crate::support::contender::bytes_on_disk;
use crate::support::people::{created_at, record};
use crate::support::stream::{MINUTE, Shape, Time};

/// Load, reads, and openings: the part of the table that a million entries are asked for.
pub fn read(job: &Job<'_>, dir: &Path) -> Value {
    let keys = Keys::of(job.contender, job.size);
    let rss = proc_figure("status", "VmRSS");
    let mut rig = loaded(job, dir, &keys);
    rig.reads();
    rig.note("rss_after_reads_mib", (proc_figure("status", "VmRSS") - rss) / 1024.0);
    json!(reopened(rig, dir, &keys).figures)
}

/// A gateway's file, in the order of creation, into a new store.
pub fn migrate(job: &Job<'_>, dir: &Path) -> Value {
    let file = dir.join("sessions.json");
    let mut out = BufWriter::new(File::create(&file).unwrap());
    for entry in 0..job.size {
        let record = record(entry, job.size, created_at(entry));
        let before = if entry == 0 { "{" } else { "," };
        write!(out, "{before}\n  {}: ", json!(record.session_key)).unwrap();
        serde_json::to_writer_pretty(&mut out, &record).unwrap();
    }
    out.write_all(b"\n}\n").unwrap();
    out.into_inner().unwrap().sync_all().unwrap();
    let keys = Keys::of(job.contender, job.size);

    let rss = proc_figure("status", "VmRSS");
    let started = Instant::now();
    let imported = CloakroomStore::migrate(dir, &file, created_at(job.size));
    let rate = job.size as f64 / started.elapsed().as_secs_f64();
    assert_eq!(imported, job.size as u64);
    let mut figures = Figures::new();
    figures.insert("migrate_per_s".into(), rate);
    figures.insert("migrate_rss_peak_mib".into(), (proc_figure("status", "VmHWM") - rss) / 1024.0);
    std::fs::remove_file(&file).unwrap();
    figures.insert("migrate_disk_bytes".into(), bytes_on_disk(dir) as f64);
    let started = Instant::now();
    let store = open(job.contender, dir, &keys, 0);
    figures.insert("migrate_open_ms".into(), started.elapsed().as_secs_f64() * 1e3);
    assert_eq!(store.count(), job.size as u64);
    assert_eq!(store.get(job.size / 2), Some(created_at(job.size / 2)));
    json!(figures)
}

/// Touches that cross minutes, for a long time. The rate counts the time in which the store finishes what it has put off;
/// `left_rows` are those that it has put off all the same, and it must be a handful.
pub fn sustained(job: &Job<'_>, dir: &Path) -> Value {
    let keys = Keys::of(job.contender, job.size);
    let mut rig = loaded(job, dir, &keys);
    sustain(&mut rig, Shape::Uniform, dir);
    sustain(&mut rig, Shape::Discord, dir);
    let Rig { store, mut figures, .. } = rig;
    drop(store);
    if job.contender == "cloakroom" {
        figures.insert("sustained_left_rows".into(), rows_put_off(dir) as f64);
    }
    json!(figures)
}

fn sustain(rig: &mut Rig<'_>, shape: Shape, dir: &Path) {
    let size = rig.job.size;
    let mut stream = rig.stream(shape, if shape == Shape::Uniform { Time::Cross } else { Time::Stay });
    if shape != Shape::Uniform {
        // A minute passes as often as it does to the uniform ones.
        let minutes = move |touch: usize| (touch / size) as i64 * MINUTE;
        stream = Box::new(stream.enumerate().map(move |(touch, (entry, now))| (entry, now + minutes(touch))));
    }
    let name = format!("sustained_{}", shape.name());
    let before = proc_figure("io", "write_bytes");
    let started = Instant::now();
    let mut most = 0;
    let (mut count, mut last) = (0, None);
    // In parts, to look at the disk in between.
    while started.elapsed() < rig.job.sustain {
        let part = (rig.job.sustain / 20).max(Duration::from_millis(1));
        let end = (Instant::now() + part).min(started + rig.job.sustain);
        let mut until = Until { stream: &mut stream, end, every: 64, count: 0, last: None };
        rig.store.touches(&mut until);
        count += until.count;
        last = until.last.or(last);
        most = most.max(bytes_on_disk(dir));
    }
    let touched = started.elapsed();
    rig.store.settle();
    let whole = started.elapsed();
    let (entry, now) = last.unwrap();
    assert!(rig.store.get(entry) >= Some(now), "the last touch is there");
    rig.latest = rig.latest.max(now) + MINUTE;
    let bytes = (proc_figure("io", "write_bytes") - before) / count as f64;
    rig.note(format!("{name}_per_s"), count as f64 / whole.as_secs_f64());
    rig.note(format!("{name}_settled_in_s"), (whole - touched).as_secs_f64());
    rig.note(format!("{name}_device_bytes"), bytes);
    rig.note(format!("{name}_disk_most_bytes"), most.max(bytes_on_disk(dir)) as f64);
    rig.note(format!("{name}_rss_peak_mib"), proc_figure("status", "VmHWM") / 1024.0);
}

/// Rows of the journal of a closed store, read by bare sled.
fn rows_put_off(dir: &Path) -> usize {
    let store = std::fs::read_dir(dir.join("sessions.db")).unwrap();
    let database = store.flatten().map(|file| file.path()).find(|path| path.join("conf").exists()).unwrap();
    let db = sled::Config::new().path(database).open().unwrap();
    assert!(db.tree_names().contains(&sled::IVec::from("journal")), "the journal has another name");
    db.open_tree("journal").unwrap().len()
}
