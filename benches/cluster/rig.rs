//! Callers that do one thing again and again, and what that costs them and the servers.

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use crate::nodes::Cluster;

/// What a server has done so far.
#[derive(Clone, Copy)]
pub struct Done {
    /// Processor time, in µs. It is counted in hundredths of a second.
    pub processor: f64,
    /// Bytes to its log, or to its replicas.
    pub bytes: u64,
}

/// The servers that work for the callers.
pub trait Servers {
    fn done(&self) -> Vec<Done>;
}

/// Processor time of a process, in µs, by its line in `/proc`.
fn processor(stat: &str) -> f64 {
    let fields: Vec<_> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) * 10_000.0
}

pub fn info(cluster: &Cluster, node: usize, section: &str, name: &str) -> u64 {
    let info = cluster.nodes[node].ask_text(&["INFO", section]);
    let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap().trim().parse().unwrap()
}

/// The primaries.
impl Servers for Cluster {
    fn done(&self) -> Vec<Done> {
        let of = |n: usize| {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.nodes[n].pid())).unwrap();
            Done { processor: processor(&stat), bytes: info(self, n, "replication", "master_repl_offset") }
        };
        self.primaries().into_iter().map(of).collect()
    }
}

/// What a caller does in a turn.
pub type Call<'a> = Box<dyn FnMut(usize) + 'a>;

/// What came of a row.
pub struct Outcome {
    pub rate: f64,
    /// Processor time of the servers, and of the busiest of them, for each call, in µs.
    pub processor: f64,
    pub busiest: f64,
}

/// The time within which this part of the calls was answered. They are sorted.
pub fn quantile(times: &[Duration], part: f64) -> Duration {
    times[((times.len() - 1) as f64 * part) as usize]
}

/// Runs callers for some time, and prints the row. `each` makes what a caller does, by its number.
pub fn run<'a>(
    servers: &dyn Servers,
    name: &str,
    callers: usize,
    time: Duration,
    each: &'a (dyn Fn(usize) -> Call<'a> + Sync),
) -> Outcome {
    let stop = AtomicBool::new(false);
    let together = Barrier::new(callers + 1);
    let mut times: Vec<Duration> = Vec::new();
    let (mut before, mut after, mut took) = (Vec::new(), Vec::new(), Duration::ZERO);
    thread::scope(|scope| {
        let running: Vec<_> = (0..callers)
            .map(|caller| {
                let (stop, together) = (&stop, &together);
                scope.spawn(move || {
                    let (mut call, mut times) = (each(caller), Vec::new());
                    together.wait();
                    together.wait();
                    for turn in 0.. {
                        if stop.load(Ordering::Relaxed) {
                            break;
                        }
                        let began = Instant::now();
                        call(turn);
                        times.push(began.elapsed());
                    }
                    // A connection that is closed may take the figures of its process with it.
                    together.wait();
                    together.wait();
                    times
                })
            })
            .collect();
        together.wait();
        before = servers.done();
        together.wait();
        let began = Instant::now();
        thread::sleep(time);
        stop.store(true, Ordering::Relaxed);
        took = began.elapsed();
        together.wait();
        after = servers.done();
        together.wait();
        times.extend(running.into_iter().flat_map(|caller| caller.join().unwrap()));
    });
    tell(name, callers, times, took, &before, &after)
}

/// The same for callers that are tasks of one thread. `each` makes the future of a turn, by the number of its caller.
pub fn run_tasks<F: Future<Output = ()> + Send + 'static>(
    servers: &dyn Servers,
    name: &str,
    callers: usize,
    time: Duration,
    each: impl Fn(usize, usize) -> F + Send + Sync + 'static,
) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let (each, stop) = (Arc::new(each), Arc::new(AtomicBool::new(false)));
    let before = servers.done();
    let began = Instant::now();
    let task = |caller| {
        let (each, stop) = (Arc::clone(&each), Arc::clone(&stop));
        runtime.spawn(async move {
            let mut times = Vec::new();
            for turn in 0.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                let began = Instant::now();
                each(caller, turn).await;
                times.push(began.elapsed());
            }
            times
        })
    };
    let tasks: Vec<_> = (0..callers).map(task).collect();
    let (times, took) = runtime.block_on(async {
        tokio::time::sleep(time).await;
        stop.store(true, Ordering::Relaxed);
        let took = began.elapsed();
        let mut times = Vec::new();
        for task in tasks {
            times.extend(task.await.unwrap());
        }
        (times, took)
    });
    tell(name, callers, times, took, &before, &servers.done())
}

fn tell(
    name: &str,
    callers: usize,
    mut times: Vec<Duration>,
    took: Duration,
    before: &[Done],
    after: &[Done],
) -> Outcome {
    times.sort_unstable();
    let calls = times.len() as f64;
    let spent: Vec<_> = after.iter().zip(before).map(|(after, before)| after.processor - before.processor).collect();
    let bytes: u64 = after.iter().zip(before).map(|(after, before)| after.bytes - before.bytes).sum();
    let outcome = Outcome {
        rate: calls / took.as_secs_f64(),
        processor: spent.iter().sum::<f64>() / calls,
        busiest: spent.iter().copied().fold(0.0, f64::max) / calls,
    };
    let micros = |part: f64| quantile(&times, part).as_secs_f64() * 1e6;
    println!(
        "{name:<34} {callers:>4} callers: {:>7.0}/s  p50 {:>7.0} µs  p99 {:>7.0} µs  {:>6.1} µs of the servers  {:>7.0} bytes",
        outcome.rate,
        micros(0.5),
        micros(0.99),
        outcome.processor,
        bytes as f64 / calls,
    );
    outcome
}
