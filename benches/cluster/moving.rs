//! How long calls wait while slots move.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use cloakroom::cluster::ClusterStore;
use cloakroom::{Sessions, Usage};

use crate::common::key;
use crate::nodes::Cluster;
use crate::rig::quantile;
use crate::slots::{Way, at_once, by_keys, can_at_once, owner};
use crate::{begin_sessions, pick};

/// As many for each of 16 shards as a million sessions have on 4,096.
const SESSIONS: usize = 4096;
const SHARDS: u16 = 16;
const CALLERS: usize = 8;
/// A caller's pause after each call, so that what bounds them is what they wait for.
const PAUSE: Duration = Duration::from_millis(4);

const VERBS: [&str; 3] = ["get", "touch", "record_usage"];

fn call(store: &ClusterStore, verb: usize, n: usize) {
    match VERBS[verb] {
        "get" => drop(store.get(&key(n)).unwrap().unwrap()),
        "touch" => drop(store.touch(&key(n)).unwrap().unwrap()),
        _ => {
            let usage = Usage { input_tokens: 1, ..Usage::ZERO };
            drop(store.record_usage(&key(n), &usage).unwrap().unwrap());
        }
    }
}

/// The times of calls while something is done.
fn times_while(store: &ClusterStore, is_done: &mut dyn FnMut()) -> [Vec<Duration>; 3] {
    let (stop, times) = (AtomicBool::new(false), Mutex::new([const { Vec::new() }; 3]));
    thread::scope(|scope| {
        for caller in 0..CALLERS {
            let (stop, times) = (&stop, &times);
            scope.spawn(move || {
                let mut own = [const { Vec::new() }; 3];
                for turn in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let began = Instant::now();
                    call(store, turn % VERBS.len(), pick(caller, turn, SESSIONS));
                    own[turn % VERBS.len()].push(began.elapsed());
                    thread::sleep(PAUSE);
                }
                let mut times = times.lock().unwrap();
                times.iter_mut().zip(own).for_each(|(all, own)| all.extend(own));
            });
        }
        is_done();
        stop.store(true, Ordering::Relaxed);
    });
    times.into_inner().unwrap()
}

fn tell(name: &str, times: [Vec<Duration>; 3]) {
    for (verb, mut times) in VERBS.iter().zip(times) {
        times.sort_unstable();
        println!(
            "{name:<18} {verb:<12} {:>6} calls: p50 {:>7.2?}  p99 {:>7.2?}  longest {:>7.2?}",
            times.len(),
            quantile(&times, 0.5),
            quantile(&times, 0.99),
            quantile(&times, 1.0)
        );
    }
}

pub fn run(time: Duration) {
    let cluster = Cluster::six();
    let store = ClusterStore::open(cluster.options().shards(SHARDS.into())).unwrap();
    begin_sessions(&store, SESSIONS);
    println!(
        "{CALLERS} callers, each waits {PAUSE:?} after a call; {} sessions in a slot",
        SESSIONS / usize::from(SHARDS)
    );
    tell("no slot moves", times_while(&store, &mut || thread::sleep(time)));
    // Ten at a time, and no pause, as the server's own tool has it.
    let keys: Way = |cluster, slot, from, to| by_keys(cluster, slot, from, to, 10, Duration::ZERO);
    for (name, way) in
        [("key by key", Some(keys)), ("all of it at once", can_at_once(&cluster).then_some(at_once as Way))]
    {
        let Some(way) = way else {
            println!("{name}: the server has no CLUSTER MIGRATESLOTS");
            continue;
        };
        let mut took = Vec::new();
        let times = times_while(&store, &mut || {
            let end = Instant::now() + time;
            for shard in (0..SHARDS).cycle() {
                if shard == 0 && Instant::now() > end {
                    break;
                }
                let slot = shard * (16384 / SHARDS);
                let from = owner(&cluster, slot);
                let to = cluster.primaries().into_iter().cycle().skip_while(|n| *n != from).nth(1).unwrap();
                let began = Instant::now();
                way(&cluster, slot, from, to);
                took.push(began.elapsed());
            }
        });
        tell(name, times);
        took.sort_unstable();
        println!(
            "{:>18} {} slots, each in {:.0?} (p50), {:.0?} at most",
            "",
            took.len(),
            quantile(&took, 0.5),
            took[took.len() - 1]
        );
    }
}
