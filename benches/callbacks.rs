//! What callbacks that misbehave, and a backup, cost those who have nothing to do with them.
//!
//! ```text
//! cargo bench --bench callbacks -- run
//! cargo bench --bench callbacks -- run lists  # the first row, and those whose name has this
//! ```
//!
//! One thread touches half of the entries as fast as it can; the other half is old and active, so a pass asks the guard
//! of each. Meanwhile another thread does what the row says, again and again. The rows come in turns, round by round, and
//! each figure is the median of the rounds; `ratio` is the p99 against that of the first row. A callback that works takes
//! a core, of which there should be two.

#![allow(missing_docs, unreachable_pub, dead_code, reason = "a bench")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a bench")]

mod support;

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Wake, Waker};
use std::time::{Duration, Instant};

use cloakroom::change::Resolution;
use cloakroom::live::{Client, Live, LiveOptions};
use cloakroom::prune::Verdict;
use cloakroom::{PrunePolicy, SessionKey, SessionStore};
use support::cloakroom_store::CloakroomStore;
use support::people::{START, keys, source};
use support::stream::Random;

const DAY: i64 = 86_400_000_000;
const ROUNDS: usize = 5;

/// What the other thread does, again and again. Each counts the calls of its callback: a round has one at least.
type Deed = fn(&Stage);

const ROWS: [(&str, Deed); 10] = [
    ("nothing else", |stage| {
        stage.calls.fetch_add(1, Ordering::Relaxed);
        stage.pause();
    }),
    ("a guard that answers at once", |stage| stage.prune(|_, _| Verdict::Active)),
    ("a guard that takes 1 ms", |stage| {
        stage.prune(|stage, _| {
            stage.pause();
            Verdict::Active
        });
    }),
    ("a guard that panics", |stage| stage.prune(|_, _| panic!("a guard"))),
    ("a guard that touches", |stage| {
        stage.prune(|stage, key| {
            assert!(stage.store.touch(stage.key_of_half(key)).unwrap().is_some());
            Verdict::Active
        });
    }),
    ("a guard that never answers", |stage| {
        stage.prune(|stage, _| {
            while !stage.is_over() {
                stage.pause();
            }
            Verdict::Active
        });
    }),
    ("events that nobody reads", |stage| {
        let events = stage.store.events(8);
        for key in stage.old().iter().take_while(|_| !stage.is_over()) {
            stage.store.suspend(key).unwrap().unwrap();
            stage.store.unsuspend(key).unwrap().unwrap();
            stage.calls.fetch_add(1, Ordering::Relaxed);
        }
        drop(events);
    }),
    ("a backup", |stage| {
        let report = stage.store.backup(std::io::sink(), |_| {}).unwrap();
        assert_eq!(report.entries, stage.keys.len() as u64);
        stage.calls.fetch_add(1, Ordering::Relaxed);
    }),
    ("50 lists of 100 rows a second", |stage| {
        let live = Live::serve(&stage.store, LiveOptions::new()).unwrap();
        let client = Client::at(live.socket()).unwrap();
        let mut due = Instant::now();
        while !stage.is_over() {
            // The client takes the page, and nothing more: what it does with it is its own.
            let mut page = Vec::new();
            let read = client.pieces("/v1/sessions?limit=100", |piece| {
                page.extend_from_slice(piece);
                Ok(())
            });
            read.unwrap();
            assert!(page.len() > 100 * 200 && page.ends_with(b"}"), "{}", page.len());
            stage.calls.fetch_add(1, Ordering::Relaxed);
            due += Duration::from_millis(20);
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
        }
        live.close();
    }),
    ("a waker that takes 1 ms", |stage| {
        let waker = Waker::from(Arc::new(Slow));
        let mut receipt = pin!(stage.store.touch(&stage.old()[0]).unwrap().unwrap());
        while !stage.is_over() && receipt.as_mut().poll(&mut Context::from_waker(&waker)).is_pending() {
            stage.pause();
        }
        stage.calls.fetch_add(1, Ordering::Relaxed);
    }),
];

struct Slow;

impl Wake for Slow {
    fn wake(self: Arc<Self>) {
        std::thread::sleep(Duration::from_millis(1));
    }
}

struct Stage {
    store: SessionStore,
    keys: Vec<SessionKey>,
    over: AtomicBool,
    calls: AtomicU64,
}

impl Stage {
    /// The half that is not touched.
    fn old(&self) -> &[SessionKey] {
        &self.keys[self.keys.len() / 2..]
    }

    /// An entry of the other half.
    fn key_of_half(&self, key: &SessionKey) -> &SessionKey {
        &self.keys[key.as_str().len() * 97 % (self.keys.len() / 2)]
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    fn pause(&self) {
        std::thread::sleep(Duration::from_millis(1));
    }

    /// One pass, which ends early when the round is over.
    fn prune(&self, guard: fn(&Self, &SessionKey) -> Verdict) {
        let asked = |key: &SessionKey| {
            self.calls.fetch_add(1, Ordering::Relaxed);
            if self.is_over() { Verdict::Active } else { guard(self, key) }
        };
        let report = self.store.prune(&PrunePolicy::max_age_days(90), asked).unwrap();
        assert_eq!(report.removed, 0);
    }

    /// Sorted times of touches, in ns, until the time is up and the callback was called.
    fn touch(&self, time: Duration) -> Vec<u32> {
        let mut random = Random::new(7);
        let (mut nanos, begun) = (Vec::with_capacity(4_000_000), Instant::now());
        let mut last = begun;
        while last - begun < time || self.calls.load(Ordering::Relaxed) == 0 {
            let key = &self.keys[random.below(self.keys.len() / 2)];
            assert!(self.store.touch(key).unwrap().is_some());
            let now = Instant::now();
            nanos.push(u32::try_from((now - last).as_nanos()).unwrap_or(u32::MAX));
            last = now;
        }
        nanos.sort_unstable();
        nanos
    }
}

fn main() {
    // `cargo test --benches` runs each row once.
    let is_asked = |for_it: &str| std::env::args().any(|arg| arg == for_it);
    let is_test = !is_asked("--bench");
    if !is_test && !is_asked("run") {
        println!("give `run`: it takes a minute");
        return;
    }
    let (entries, rounds, time) =
        if is_test { (2000, 1, Duration::from_millis(20)) } else { (100_000, ROUNDS, Duration::from_secs(1)) };
    let dir = tempfile::tempdir_in(".").unwrap();
    let cloakroom = CloakroomStore::open(dir.path(), Vec::new());
    cloakroom.set_now(START);
    for entry in 0..entries {
        let resolved = cloakroom.store.resolve(&source(entry, entries)).unwrap();
        assert_eq!(resolved.resolution, Resolution::Created);
    }
    cloakroom.store.flush().unwrap();
    cloakroom.set_now(START + 100 * DAY);
    let stage = Stage {
        store: cloakroom.store.clone(),
        keys: keys(entries),
        over: AtomicBool::new(false),
        calls: AtomicU64::new(0),
    };
    for key in &stage.keys[..entries / 2] {
        stage.store.touch(key).unwrap().unwrap();
    }
    stage.store.flush().unwrap();
    // One row panics a thousand times; others tell.
    let told = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if panic.payload().downcast_ref::<&str>() != Some(&"a guard") {
            told(panic);
        }
    }));

    let wanted = std::env::args().skip(1).find(|arg| arg != "run" && !arg.starts_with("--"));
    let is_wanted = |row: usize| row == 0 || wanted.as_ref().is_none_or(|wanted| ROWS[row].0.contains(wanted.as_str()));
    let rows = || (0..ROWS.len()).filter(|row| is_wanted(*row));
    let mut figures = vec![Vec::new(); ROWS.len()];
    for _ in 0..rounds {
        for row in rows() {
            let deed = ROWS[row].1;
            stage.over.store(false, Ordering::Relaxed);
            stage.calls.store(0, Ordering::Relaxed);
            let nanos = std::thread::scope(|scope| {
                let other = scope.spawn(|| {
                    while !stage.is_over() {
                        deed(&stage);
                    }
                });
                let nanos = stage.touch(time);
                stage.over.store(true, Ordering::Relaxed);
                other.join().unwrap();
                nanos
            });
            let at = |share: f64| f64::from(nanos[((nanos.len() - 1) as f64 * share) as usize]) / 1000.0;
            let rate = nanos.len() as f64 * 1e9 / nanos.iter().map(|nanos| f64::from(*nanos)).sum::<f64>();
            figures[row].push([at(0.5), at(0.99), at(0.999), rate]);
            stage.store.flush().unwrap();
        }
    }

    println!("{entries} entries; touches in us, medians of {rounds} rounds\n");
    println!("{:30} {:>8} {:>8} {:>8} {:>7} {:>10}", "meanwhile", "p50", "p99", "p99.9", "ratio", "touches/s");
    let mut first = None;
    for row in rows() {
        let [p50, p99, p999, rate] = [0, 1, 2, 3].map(|column| median(&mut figures[row], column));
        let ratio = p99 / *first.get_or_insert(p99);
        println!("{:30} {p50:8.2} {p99:8.2} {p999:8.1} {ratio:7.2} {rate:10.0}", ROWS[row].0);
    }
}

fn median(rounds: &mut [[f64; 4]], column: usize) -> f64 {
    rounds.sort_by(|a, b| a[column].total_cmp(&b[column]));
    rounds[rounds.len() / 2][column]
}
