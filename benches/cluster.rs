//! A store on a cluster of six nodes against a blob for each session, which most gateways keep there today.
//!
//! `cargo bench --features valkey --bench cluster`; a number after `--` sets the seconds of each row. The nodes' files lie in
//! memory unless `CLOAKROOM_NODES` names a directory. Every process shares the cores, so ratios and the processor time of the
//! primaries are what to read.
#![allow(missing_docs, unreachable_pub, dead_code, reason = "a bench")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a bench")]

#[path = "../tests/it/common.rs"]
mod common;
#[path = "../tests/cluster/nodes.rs"]
mod nodes;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use cloakroom::cluster::ClusterStore;
use cloakroom::{PrunePolicy, SessionKey, Sessions};

use common::{key, source};
use nodes::Cluster;

/// Sessions that are touched.
const SESSIONS: usize = 20_000;

/// What the primaries have done so far.
struct Done {
    /// Processor time, in µs. It is counted in hundredths of a second.
    processor: f64,
    /// Bytes to replicas, and about as many to the log.
    replicated: u64,
}

fn info(cluster: &Cluster, node: usize, section: &str, name: &str) -> u64 {
    let info = cluster.nodes[node].ask_text(&["INFO", section]);
    let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap().trim().parse().unwrap()
}

fn done(cluster: &Cluster, primaries: &[usize]) -> Done {
    let mut done = Done { processor: 0.0, replicated: 0 };
    for &n in primaries {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", cluster.nodes[n].pid())).unwrap();
        let fields: Vec<_> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
        let ticks: f64 = fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap();
        done.processor += ticks * 10_000.0;
        done.replicated += info(cluster, n, "replication", "master_repl_offset");
    }
    done
}

/// Runs callers for some time; each does one thing again and again, by its number and the number of the turn.
fn run<'a>(
    cluster: &Cluster,
    name: &str,
    callers: usize,
    time: Duration,
    each: &'a (dyn Fn(usize) -> Call<'a> + Sync),
) {
    let primaries = cluster.primaries();
    let (stop, count) = (AtomicBool::new(false), AtomicU64::new(0));
    let start = std::sync::Barrier::new(callers + 1);
    let mut times = Vec::new();
    let (mut before, mut took) = (None, Duration::ZERO);
    thread::scope(|scope| {
        let running: Vec<_> = (0..callers)
            .map(|caller| {
                let (stop, count, start) = (&stop, &count, &start);
                scope.spawn(move || {
                    let (mut call, mut times) = (each(caller), Vec::new());
                    start.wait();
                    for n in 0.. {
                        if stop.load(Ordering::Relaxed) {
                            break;
                        }
                        let began = Instant::now();
                        call(n);
                        times.push(began.elapsed());
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                    times
                })
            })
            .collect();
        before = Some(done(cluster, &primaries));
        start.wait();
        let began = Instant::now();
        thread::sleep(time);
        stop.store(true, Ordering::Relaxed);
        took = began.elapsed();
        times.extend(running.into_iter().flat_map(|caller| caller.join().unwrap()));
    });
    let (before, after) = (before.unwrap(), done(cluster, &primaries));
    times.sort_unstable();
    let calls = count.into_inner();
    let per = |all: f64| all / calls as f64;
    println!(
        "{name:<34} {callers:>4} callers: {:>7.0}/s  p50 {:>7.0} µs  p99 {:>7.0} µs  {:>6.1} µs of the primaries  {:>7.0} bytes",
        calls as f64 / took.as_secs_f64(),
        times[times.len() / 2].as_secs_f64() * 1e6,
        times[times.len() * 99 / 100].as_secs_f64() * 1e6,
        per(after.processor - before.processor),
        per((after.replicated - before.replicated) as f64),
    );
}

type Call<'a> = Box<dyn FnMut(usize) + 'a>;

/// A hash tag for each primary.
fn tags(cluster: &Cluster) -> Vec<(String, String)> {
    let is_its = |n: &usize, tag: &str| {
        let slot: u64 = redis::from_redis_value(cluster.nodes[*n].ask(&["CLUSTER", "KEYSLOT", tag])).unwrap();
        // As `Cluster` splits them.
        slot as usize * 3 / 16384 == *n
    };
    let tag = |n: usize| (0..).map(|tag| format!("{{{tag}}}")).find(|tag| is_its(&n, tag)).unwrap();
    (0..3).map(|n| (cluster.nodes[n].address(), tag(n))).collect()
}

fn main() {
    let seconds = std::env::args().find_map(|word| word.parse().ok()).unwrap_or(2.0);
    let time = Duration::from_secs_f64(seconds);
    let cluster = Cluster::six();
    let store = ClusterStore::open(cluster.options().shards(4096)).unwrap();
    let used = |what: &str| (0..3).map(|n| info(&cluster, n, "memory", what)).sum::<u64>();

    // Nothing to do, over all shards.
    let pass = || {
        let began = Instant::now();
        let report = store.prune(&PrunePolicy::max_age_days(90), &|_: &SessionKey| false).unwrap();
        assert_eq!(report.removed, 0);
        began.elapsed()
    };
    let mut passes: Vec<_> = (0..5).map(|_| pass()).collect();
    passes.sort_unstable();
    println!("a pass over 4,096 shards with nothing to do: {:.0?}", passes[2]);

    let (before, began) = (used("used_memory"), Instant::now());
    thread::scope(|scope| {
        for thread in 0..64 {
            let store = &store;
            scope.spawn(move || {
                for n in (thread..SESSIONS).step_by(64) {
                    store.resolve(&source(n)).unwrap();
                }
            });
        }
    });
    let rate = SESSIONS as f64 / began.elapsed().as_secs_f64();
    store.flush().unwrap();
    let each = (used("used_memory") - before) / SESSIONS as u64;
    println!("{rate:.0} sessions begun a second; {each} bytes of memory for each, with its hint");

    let keys: Vec<_> = (0..SESSIONS).map(key).collect();
    let pick = |caller: usize, n: usize| (caller * 7919 + n * 104_729) % SESSIONS;
    for callers in [1, 8, 64] {
        run(&cluster, "touch", callers, time, &|caller| {
            let (store, keys) = (&store, &keys);
            Box::new(move |n| drop(store.touch(&keys[pick(caller, n)]).unwrap().unwrap()))
        });
    }
    let tags = tags(&cluster);
    for (name, bytes) in [("SET … EX, 1 KB", 1000), ("SET … EX, 20 KB", 20_000)] {
        for callers in [1, 8, 64] {
            run(&cluster, name, callers, time, &|caller| {
                let (address, tag) = &tags[caller % tags.len()];
                let client = redis::Client::open(format!("redis://{address}")).unwrap();
                let mut connection = client.get_connection().unwrap();
                let blob = "b".repeat(bytes);
                Box::new(move |n| {
                    let key = format!("blob:{tag}:{}", pick(caller, n) % 1000);
                    redis::cmd("SET").arg(key).arg(&blob).arg("EX").arg(86_400).exec(&mut connection).unwrap();
                })
            });
        }
    }
    run(&cluster, "PING", 1, time, &|_| {
        let mut connection = redis::Client::open(format!("redis://{}", tags[0].0)).unwrap().get_connection().unwrap();
        Box::new(move |_| redis::cmd("PING").exec(&mut connection).unwrap())
    });
    run(&cluster, "resolve of a session that is there", 1, time, &|caller| {
        let store = &store;
        Box::new(move |n| drop(store.resolve(&source(pick(caller, n))).unwrap()))
    });
    run(&cluster, "get", 1, time, &|caller| {
        let (store, keys) = (&store, &keys);
        Box::new(move |n| drop(store.get(&keys[pick(caller, n)]).unwrap().unwrap()))
    });
    for callers in [1, 8, 64, 256] {
        run(&cluster, "touch, awaited", callers, time, &|caller| {
            let (store, keys) = (&store, &keys);
            Box::new(move |n| store.touch(&keys[pick(caller, n)]).unwrap().unwrap().wait().unwrap())
        });
    }
}
