//! A process that is forked while a store is open in it: the child is refused, and it ends.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::{Command, Stdio, exit};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use cloakroom::change::{Edit, Touch};
use cloakroom::cluster::{ClusterOptions, ClusterStore};
use cloakroom::{Error, Receipt, Sessions};
use fork::Fork;

use crate::common::{fast_dir, key, source};
use crate::nodes::signal_to;
use crate::retries::rig;

/// Names a directory to the process that forks.
const FORKS_IN: &str = "CLOAKROOM_FORKS_IN";
/// A call that has not returned after this never will.
const HUNG: Duration = Duration::from_secs(30);

/// It forks in a process of its own, where no other test has threads.
#[test]
fn a_forked_child_is_refused_and_ends_though_a_change_was_under_way() {
    let dir = fast_dir();
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "forks::forks", "--nocapture", "--test-threads=1"])
        .env(FORKS_IN, dir.path())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Ends the other threads after a panic too.
struct Stops<'a>(&'a AtomicBool);

impl Drop for Stops<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[test]
fn forks() {
    let Some(root) = std::env::var_os(FORKS_IN) else { return };
    let root = Path::new(&root);
    let rig = rig();
    let store = ClusterStore::open(rig.options.clone()).unwrap();
    (0..4).for_each(|n| drop(store.resolve(&source(n)).unwrap()));
    // The connection of the change is lost when that is delivered.
    store.flush().unwrap();
    // A change that a node does not answer is under way all the time.
    thread::scope(|scope| {
        rig.proxy.withhold("EVALSHA");
        let changing = scope.spawn(|| store.suspend(&key(1)));
        while !rig.proxy.is_open() {
            assert!(!changing.is_finished(), "{:?}", changing.join());
            thread::sleep(Duration::from_millis(1));
        }
        fork_once(&root.join("change"), &store, &rig.options);
        rig.proxy.deliver();
        drop(changing.join().unwrap().unwrap());
    });
    // And forks while other threads hold some lock or other.
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for n in 0..3 {
            let (store, stop) = (&store, &stop);
            scope.spawn(move || {
                while !stop.load(Ordering::SeqCst) {
                    store.touch(&key(n)).unwrap().unwrap().wait().unwrap();
                    store.get(&key(n)).unwrap().unwrap();
                }
            });
        }
        let _stops = Stops(&stop);
        (0..6).for_each(|n| fork_once(&root.join(n.to_string()), &store, &rig.options));
    });
    // The parent has lost nothing by it.
    assert_eq!(store.len().unwrap(), 4);
    store.close().unwrap();
}

/// How many bells have gone.
static GONE: AtomicUsize = AtomicUsize::new(0);

/// What a bell of the program's holds.
struct Held;

impl Drop for Held {
    fn drop(&mut self) {
        GONE.fetch_add(1, Ordering::SeqCst);
    }
}

/// `log` tells how far the child came.
fn fork_once(log: &Path, store: &ClusterStore, options: &ClusterOptions) {
    // Of this one nobody else has a handle, so the child drops all of it.
    let own = ClusterStore::open(options.clone()).unwrap();
    let held = Held;
    let events = own.own_events_with_bell(10, move || {
        let _ = &held;
    });
    own.touch_soon(&key(3)).unwrap();
    let receipt = own.touch(&key(0)).unwrap().unwrap();
    match fork::fork().unwrap() {
        Fork::Child => {
            let outcome = catch_unwind(AssertUnwindSafe(|| as_child(log, store, own, receipt, options)));
            exit(i32::from(outcome.is_err()));
        }
        Fork::Parent(child) => {
            let deadline = Instant::now() + HUNG;
            let status = loop {
                if let Some(status) = fork::waitpid_nohang(child).unwrap() {
                    break status;
                }
                if Instant::now() > deadline {
                    signal_to(u32::try_from(child).unwrap(), "KILL");
                    panic!("the child hangs at {}", fs::read_to_string(log).unwrap_or_default());
                }
                thread::sleep(Duration::from_millis(1));
            };
            assert_eq!(status, 0, "it failed at {}", fs::read_to_string(log).unwrap_or_default());
            receipt.wait().unwrap();
            own.close().unwrap();
            drop(events);
        }
    }
}

fn as_child(log: &Path, store: &ClusterStore, own: ClusterStore, receipt: Receipt, options: &ClusterOptions) {
    let step = |what: &str| fs::write(log, what).unwrap();
    let gone = GONE.load(Ordering::SeqCst);
    type Verb<'a> = (&'a str, &'a dyn Fn(&ClusterStore) -> Result<(), Error>);
    let verbs: [Verb<'_>; 14] = [
        ("get", &|store| store.get(&key(1)).map(drop)),
        ("touch", &|store| store.touch(&key(1)).map(drop)),
        ("touch_soon", &|store| store.touch_soon(&key(1))),
        ("resolve", &|store| store.resolve(&source(9)).map(drop)),
        ("modify", &|store| store.modify(&key(1), Touch::No, &mut |_| Edit::Write).map(drop)),
        ("remove", &|store| store.remove(&key(1)).map(drop)),
        ("hold", &|store| store.hold(&key(1)).map(drop)),
        ("begin_turn", &|store| store.begin_turn(&key(1)).map(drop)),
        ("turns", &|store| store.turns().map(drop)),
        ("len", &|store| store.len().map(drop)),
        ("flush", &|store| store.flush()),
        ("close", &|store| store.close()),
        ("close again", &|store| store.close()),
        ("review", &ClusterStore::review),
    ];
    for (what, verb) in verbs {
        for store in [store, &own] {
            step(what);
            let refused = verb(store);
            assert!(matches!(refused, Err(Error::Forked { .. })), "{what}: {refused:?}");
        }
    }
    step("open another");
    let opened = ClusterStore::open(options.clone());
    assert!(matches!(opened, Err(Error::Forked { .. })), "{opened:?}");
    step("wait");
    assert!(matches!(receipt.wait(), Err(Error::Forked { .. })));
    step("drop a receipt");
    drop(receipt);
    step("drop the store");
    drop(own);
    assert_eq!(GONE.load(Ordering::SeqCst), gone, "the bell is the parent's");
    step("exit");
}
