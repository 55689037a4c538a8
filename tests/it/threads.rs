//! The threads of a store: how they are called, when they sleep, and that nothing needs them to be asked.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cloakroom::prune::NoActivity;
use cloakroom::time::{Clock, ManualClock, Timer};
use cloakroom::turns::BegunTurn;
use cloakroom::watcher::WatcherConfig;
use cloakroom::{Options, SessionStore, Timestamp, Watcher};

use crate::common::{Home, NOW, key, source};
use crate::layers::collect;

/// As the kernel has them: it keeps 15 bytes of a name.
fn names() -> BTreeSet<String> {
    let tasks = fs::read_dir("/proc/self/task").unwrap().map(|task| task.unwrap().path().join("comm"));
    let names = tasks.filter_map(|comm| fs::read_to_string(comm).ok());
    names.map(|name| name.trim_end().to_owned()).filter(|name| name.starts_with("cloakroom")).collect()
}

#[test]
fn their_names_are_whole() {
    let home = Home::new();
    let store = home.open();
    let watcher = Watcher::spawn(&store, WatcherConfig::default(), NoActivity).unwrap();
    pollster::block_on(store.resolve(&source(1)).unwrap().receipt).unwrap();
    let known = ["write", "flush", "waker", "prune"].map(|name| format!("cloakroom-{name}"));
    // A thread sets its name itself, after it has started.
    while !known.iter().all(|name| names().contains(name)) {
        std::thread::yield_now();
    }
    drop(watcher);
}

#[test]
fn no_name_is_longer_than_the_kernel_keeps() {
    let mut files = Vec::new();
    collect(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut files);
    let mut found = BTreeSet::new();
    for file in files {
        let text = fs::read_to_string(file).unwrap();
        for line in
            text.lines().filter(|line| ["name(", "spawn(", "start_thread("].iter().any(|call| line.contains(call)))
        {
            let named = line.split('"').filter(|part| part.starts_with("cloakroom-")).map(str::to_owned);
            found.extend(named);
        }
    }
    assert!(found.contains("cloakroom-write") && found.len() > 8, "{found:?}");
    let long: Vec<_> = found.iter().filter(|name| name.len() > 15).collect();
    assert_eq!(long, [""; 0]);
}

/// Counts how often the time is asked for.
#[derive(Debug, Clone)]
struct Counting(ManualClock, Arc<AtomicU64>);

impl Clock for Counting {
    fn now(&self) -> Timestamp {
        self.0.now()
    }

    fn monotonic(&self) -> Duration {
        self.1.fetch_add(1, Ordering::SeqCst);
        self.0.monotonic()
    }

    fn after(&self, delay: Duration) -> Timer {
        self.0.after(delay)
    }
}

/// The committer asks for the time whenever it works.
#[test]
fn an_interval_of_zero_commits_each_change_and_sleeps_between() {
    let home = Home::new();
    let clock = Counting(ManualClock::new(NOW), Arc::default());
    let options = Options::new(home.path()).create(true).commit_interval(Duration::ZERO).clock(clock.clone());
    let store = SessionStore::open(options).unwrap();
    for n in 0..20 {
        let receipt = store.resolve(&source(n)).unwrap().receipt;
        while !receipt.is_durable().unwrap() {
            std::thread::yield_now();
        }
    }
    let other_home = Home::new();
    let other = other_home.open();
    let before = clock.1.load(Ordering::SeqCst);
    for n in 0..500 {
        other.resolve(&source(n)).unwrap().receipt.wait().unwrap();
    }
    // But for the state file, which is due after a second.
    let worked = clock.1.load(Ordering::SeqCst) - before;
    assert!(worked < 100, "it worked {worked} times, with nothing to do");
}

#[test]
fn what_nobody_waits_for_is_committed_all_the_same() {
    let home = Home::new();
    let store = SessionStore::open(home.options().commit_interval(Duration::from_millis(1))).unwrap();
    let created = store.resolve(&source(1)).unwrap().receipt;
    let is_durable = |receipt: &cloakroom::Receipt| {
        while !receipt.is_durable().unwrap() {
            std::thread::yield_now();
        }
    };
    is_durable(&created);
    for n in 0..50 {
        // The first after a rest, the first during a commit, and after one that nobody wanted synced.
        is_durable(&store.touch(&key(1)).unwrap().unwrap());
        let (touched, suspended) = (store.touch(&key(1)).unwrap().unwrap(), store.suspend(&key(1)).unwrap().unwrap());
        is_durable(&touched);
        let unsuspended = store.unsuspend(&key(1)).unwrap().unwrap();
        assert_eq!(store.iter(cloakroom::query::Filter::default()).unwrap().count(), 1);
        is_durable(&suspended);
        is_durable(&unsuspended);
        if n % 10 == 0 {
            let BegunTurn { token, receipt: begun, .. } = store.begin_turn(&key(1)).unwrap().unwrap();
            is_durable(&begun);
            match store.end_turn(&key(1), token).unwrap() {
                cloakroom::turns::TurnEnd::Ended(receipt) => is_durable(&receipt),
                other => panic!("{other:?}"),
            }
        }
    }
}
