//! Processes of their own: what one of them is at work on, and what becomes of it when it is killed, hangs, or goes.
//!
//! A child is this program once more, with [`child`] for its only test. It does what the lines on its standard input say, and
//! answers each with a line.

use std::io::{BufRead, BufReader, Lines, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use cloakroom::cluster::{ClusterOptions, ClusterStore};
use cloakroom::prune::{PruneReport, Verdict};
use cloakroom::time::ManualClock;
use cloakroom::turns::{RecoverOptions, TurnEnd, TurnStart, TurnToken};
use cloakroom::{PrunePolicy, SessionKey, Sessions};

use crate::battery::Battery;
use crate::common::{NOW, key, source};
use crate::conformance::{one, six};
use crate::nodes::{Cluster, signal_to, wait_for};

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);
/// Long enough for a child that waits for two busy cores.
const LEASE: Duration = Duration::from_secs(5);

/// Name of the store, then the nodes.
const CHILD: &str = "CLOAKROOM_CLUSTER_CHILD";

struct Process {
    child: Child,
    said: Lines<BufReader<ChildStdout>>,
    order: ChildStdin,
}

impl Process {
    fn start(cluster: &Cluster, store: &ClusterStore) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "processes::child", "--nocapture"])
            .env(CHILD, format!("{} {}", store.name(), cluster.seeds().join(" ")))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let said = BufReader::new(child.stdout.take().unwrap()).lines();
        let order = child.stdin.take().unwrap();
        let mut this = Self { child, said, order };
        assert_eq!(this.answer(), "open");
        this
    }

    fn send(&mut self, order: &str) {
        writeln!(self.order, "{order}").unwrap();
    }

    /// What it says next; the lines of the test harness are not for us.
    fn answer(&mut self) -> String {
        let line = self.said.find_map(|line| Some(line.unwrap().split_once("say ")?.1.to_owned()));
        line.expect("the child has ended")
    }

    fn ask(&mut self, order: &str) -> String {
        self.send(order);
        self.answer()
    }

    fn signal(&self, signal: &str) {
        signal_to(self.child.id(), signal);
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn options(name: &str, seeds: Vec<String>, clock: &ManualClock) -> ClusterOptions {
    let options = ClusterOptions::new(name, seeds).clock(clock.clone());
    // Reviews are made soon, and by the threads that are there for it.
    options.member_lease(LEASE).review_interval(Duration::from_millis(50))
}

#[test]
fn child() {
    let Ok(which) = std::env::var(CHILD) else { return };
    let mut words = which.split(' ').map(str::to_owned);
    let (name, seeds): (_, Vec<_>) = (words.next().unwrap(), words.collect());
    let clock = ManualClock::new(NOW);
    let jobs = Arc::new(Mutex::new(Vec::<SessionKey>::new()));
    let hangs = Arc::new(AtomicBool::new(false));
    let guard = {
        let (jobs, hangs) = (Arc::clone(&jobs), Arc::clone(&hangs));
        move |asked: &SessionKey| {
            while hangs.load(Ordering::Relaxed) {
                thread::sleep(Duration::from_millis(1));
            }
            Verdict::from(jobs.lock().unwrap().contains(asked))
        }
    };
    // Three nodes are three primaries.
    let replicas = u64::from(seeds.len() > 3);
    let store = ClusterStore::open(options(&name, seeds, &clock).replicas(replicas).guard(guard)).unwrap();
    let mut holds = Vec::new();
    println!("say open");
    for line in std::io::stdin().lines().map_while(Result::ok) {
        let (order, n) = line.split_once(' ').unwrap_or((&line, "0"));
        let key = || key(n.parse().unwrap());
        let said = match order {
            "job" => {
                jobs.lock().unwrap().push(key());
                "done".into()
            }
            "hang" => {
                hangs.store(true, Ordering::Relaxed);
                "done".into()
            }
            "days" => {
                clock.advance(DAY * n.parse().unwrap());
                "done".into()
            }
            "hold" => {
                holds.push(store.hold(&key()).unwrap().unwrap());
                "done".into()
            }
            "begin" => match store.try_begin_turn(&key()).unwrap() {
                TurnStart::Begun(begun) => {
                    begun.receipt.wait().unwrap();
                    format!("begun {}", begun.token)
                }
                TurnStart::Open(_) => "open".into(),
                TurnStart::Missing => "missing".into(),
                _ => "?".into(),
            },
            "resolve" => {
                let resolved = store.resolve(&source(n.parse().unwrap())).unwrap();
                format!("{}", resolved.entry.session_id)
            }
            _ => "?".into(),
        };
        println!("say {said}");
    }
}

fn pass(store: &ClusterStore) -> PruneReport {
    store.prune(&PrunePolicy::max_age_days(1), &|_: &SessionKey| false).unwrap()
}

/// The founding bug at the scale of a cluster, with processes: what only B knows as active is never removed by a pass of A,
/// until B is gone and its lease has ended.
#[test]
fn jobs_of_another_process_protect_until_it_is_gone() {
    let cluster = one();
    let clock = ManualClock::new(NOW);
    let name = cluster.open().name().to_owned();
    let a = ClusterStore::open(options(&name, cluster.seeds(), &clock).replicas(0).guard(|_: &SessionKey| false));
    let a = a.unwrap();
    for n in 1..=4 {
        a.resolve(&source(n)).unwrap();
    }
    let (mut b, mut c) = (Process::start(cluster, &a), Process::start(cluster, &a));
    assert_eq!(b.ask("job 1"), "done");
    assert_eq!(c.ask("job 2"), "done");
    clock.advance(DAY * 2);
    [&mut b, &mut c].iter_mut().for_each(|process| assert_eq!(process.ask("days 2"), "done"));
    // Both look by themselves, and what neither is at work on goes.
    wait_for("what nobody is at work on goes", || {
        pass(&a);
        !a.contains(&key(3)).unwrap() && !a.contains(&key(4)).unwrap()
    });
    for _ in 0..20 {
        pass(&a);
        assert!(a.contains(&key(1)).unwrap() && a.contains(&key(2)).unwrap());
    }
    b.kill();
    clock.advance(HOUR);
    assert_eq!(c.ask("days 0"), "done");
    wait_for("its jobs have ended with it", || {
        pass(&a);
        !a.contains(&key(1)).unwrap()
    });
    // The guard of C hangs, and it lives: that keeps everything, for longer than its lease.
    assert_eq!(c.ask("hang"), "done");
    a.resolve(&source(5)).unwrap();
    clock.advance(DAY * 2);
    let began = std::time::Instant::now();
    let mut reports = 0;
    while began.elapsed() < LEASE * 2 {
        let report = pass(&a);
        assert_eq!(report.removed, 0, "{report:?}");
        reports += u64::from(report.kept_unreviewed > 0);
        thread::sleep(Duration::from_millis(50));
    }
    assert!(reports > 0, "it was not reported");
    assert!(a.contains(&key(2)).unwrap() && a.contains(&key(5)).unwrap());
    c.kill();
    wait_for("the one that hung is gone", || {
        pass(&a);
        a.is_empty().unwrap()
    });
}

/// The node that keeps the leases of processes is away for longer than they last. All of them have ended when it is back, and
/// nobody has died.
#[test]
fn leases_that_end_while_nobody_can_renew_them_end_nobodys_jobs() {
    let mut cluster = Cluster::with(3, false, &[]);
    let clock = ManualClock::new(NOW);
    let own = options("outage", cluster.seeds(), &clock).create(true).shards(16).replicas(0);
    let a = ClusterStore::open(own.guard(|_: &SessionKey| false)).unwrap();
    let mut b = Process::start(&cluster, &a);
    for n in 0..40 {
        a.resolve(&source(n)).unwrap();
    }
    // On another node than the leases.
    let mut elsewhere = (0..40).filter(|n| cluster.has_key(1, &a, &key(*n)));
    let [turn, job, hold, idle] = [(); 4].map(|()| elsewhere.next().unwrap());
    assert!(b.ask(&format!("begin {turn}")).starts_with("begun"));
    assert_eq!((b.ask(&format!("job {job}")), b.ask(&format!("hold {hold}"))), ("done".into(), "done".into()));
    clock.advance(DAY * 2);
    a.touch(&key(turn)).unwrap().unwrap();
    cluster.nodes[0].kill();
    thread::sleep(LEASE + LEASE / 2);
    // It comes last.
    b.signal("STOP");
    cluster.nodes[0].run();
    cluster.wait_until_whole();
    let is_open = || {
        let said = a.try_begin_turn(&key(turn)).unwrap();
        assert!(matches!(&said, TurnStart::Open(open) if !open.interrupted), "{said:?}");
        assert!(a.recover_interrupted_turns(&RecoverOptions::new(None)).unwrap().resumable.is_empty());
    };
    is_open();
    let report = pass(&a);
    assert_eq!(report.removed, 0, "{report:?}");
    b.signal("CONT");
    assert_eq!(b.ask("days 2"), "done");
    wait_for("what nobody is at work on goes", || {
        pass(&a);
        !a.contains(&key(idle)).unwrap()
    });
    is_open();
    assert!(a.contains(&key(job)).unwrap() && a.contains(&key(hold)).unwrap());
    // And when it dies, that is seen again.
    b.kill();
    wait_for("its jobs have ended with it", || {
        pass(&a);
        !a.contains(&key(hold)).unwrap()
    });
}

/// One of two processes begins each turn; the one that is killed is recovered, once; tokens rise.
#[test]
fn one_of_two_processes_begins_each_turn() {
    let cluster = six();
    let clock = ManualClock::new(NOW);
    let name = cluster.open().name().to_owned();
    let a = ClusterStore::open(options(&name, cluster.seeds(), &clock)).unwrap();
    let two = || [Process::start(cluster, &a), Process::start(cluster, &a)];
    let mut racers = Some(two());
    let recover = || a.recover_interrupted_turns(&RecoverOptions::new(None)).unwrap();
    Battery::new("turn_races", 21).run(|round, mut dice| {
        let (n, [one, other]) = (round as usize, racers.as_mut().unwrap());
        // Who made the session does not matter, and there is one.
        one.send(&format!("resolve {n}"));
        other.send(&format!("resolve {n}"));
        assert_eq!(one.answer(), other.answer());
        let mut last = None::<TurnToken>;
        for _ in 0..2 {
            let (first, second) = if dice.roll(2) == 0 { (&mut *one, &mut *other) } else { (&mut *other, &mut *one) };
            first.send(&format!("begin {n}"));
            second.send(&format!("begin {n}"));
            let mut said = [first.answer(), second.answer()];
            said.sort();
            let token = said[0].strip_prefix("begun ").unwrap_or_else(|| panic!("{said:?}"));
            let token: TurnToken = token.parse().unwrap();
            assert_eq!(said[1], "open");
            assert!(Some(token) > last);
            last = Some(token);
            assert_eq!(a.turn(&key(n)).unwrap().unwrap().token, token);
            assert!(recover().resumable.is_empty(), "its process lives");
            if round % 10 != 0 {
                assert!(matches!(a.end_turn(&key(n), token).unwrap(), TurnEnd::Ended(_)));
            } else {
                break;
            }
        }
        if round % 10 == 0 {
            racers.take().into_iter().flatten().for_each(Process::kill);
            wait_for("their leases have ended", || a.turn(&key(n)).unwrap().is_some_and(|turn| turn.interrupted));
            assert_eq!(recover().resumable, [key(n)]);
            assert!(recover().resumable.is_empty());
            racers = Some(two());
        }
    });
}
