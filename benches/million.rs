//! A store of `ENTRIES` entries: created, touched and pruned in one process, with its memory.
//!
//! `ENTRIES=1000000 cargo bench --bench million`. Does nothing without `ENTRIES`: a million take minutes.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, reason = "a bench that fails may panic")]

use std::time::{Duration, Instant};

use cloakroom::Timestamp;
use cloakroom::{KeyPolicy, ManualClock, NoActivity, Options, PrunePolicy, SessionKey, SessionSource, SessionStore};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn source(n: u64) -> SessionSource {
    SessionSource {
        platform: "discord".into(),
        chat_type: "group".into(),
        chat_id: Some(format!("{:019}", n.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 1)),
        chat_name: Some("a server / #a-channel".into()),
        user_id: Some(format!("{n:018}")),
        user_name: Some("the name of a user".into()),
        ..SessionSource::default()
    }
}

fn key(n: u64) -> SessionKey {
    SessionKey::for_source(&source(n), &KeyPolicy::default()).unwrap()
}

fn told(what: &str, count: u64, started: Instant) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or("?").trim().to_owned();
    let took = started.elapsed();
    let each = took.as_secs_f64() * 1e6 / count.max(1) as f64;
    println!("{what:<28} {count:>9}  {took:>10.2?}  {each:>8.2} us each  peak memory {peak}");
}

fn main() {
    let Some(entries) = std::env::var("ENTRIES").ok().and_then(|text| text.parse::<u64>().ok()) else {
        println!("set ENTRIES to the number of entries");
        return;
    };
    let touches = entries / 2;
    let directory = tempfile::tempdir_in(".").unwrap();
    let clock = ManualClock::new(Timestamp::from_micros(1_800_000_000_000_000));
    let options = Options::new(directory.path().join("sessions.db")).create(true).clock(clock.clone());
    let store = SessionStore::open(options).unwrap();

    let started = Instant::now();
    for n in 0..entries {
        clock.advance(Duration::from_millis(1));
        store.resolve(&source(n)).unwrap();
    }
    store.flush().unwrap();
    told("created", entries, started);

    for (what, step) in [("touched, in their bucket", 0), ("touched, crossing a bucket", 61)] {
        clock.advance(Duration::from_secs(step));
        let started = Instant::now();
        for n in 0..touches {
            clock.advance(Duration::from_micros(1));
            assert!(store.touch(&key(n.wrapping_mul(7_919) % entries)).unwrap().is_some());
        }
        store.flush().unwrap();
        told(what, touches, started);
    }

    clock.advance(80 * DAY);
    for n in 0..entries {
        if n % 10 != 0 {
            store.touch(&key(n)).unwrap();
        }
    }
    store.flush().unwrap();
    clock.advance(20 * DAY);
    let started = Instant::now();
    let removed = store.prune(&PrunePolicy::max_age_days(90), NoActivity).unwrap().removed;
    assert_eq!(removed, entries.div_ceil(10));
    told("pruned", removed, started);
    let started = Instant::now();
    store.prune(&PrunePolicy::max_age_days(90), NoActivity).unwrap();
    told("pruned, nothing to do", 1, started);
    store.close().unwrap();
}
