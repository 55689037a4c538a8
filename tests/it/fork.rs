//! A process that is forked while a store is open in it: the child is refused, and its parent notices nothing.

use std::fmt::Debug;
use std::fs;
use std::future::Future;
use std::io::{empty, sink};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::pin::Pin;
use std::process::{Command, Stdio, exit};
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use cloakroom::backup::BackupOptions;
use cloakroom::change::Repoint;
use cloakroom::events::{Events, Nothing};
use cloakroom::export::{ExportFormat, ExportOptions};
use cloakroom::import::ImportOptions;
use cloakroom::prune::NoActivity;
use cloakroom::query::{Filter, Iter};
use cloakroom::reset::{ResetPolicies, ResetPolicy};
use cloakroom::turns::{BegunTurn, TurnToken};
use cloakroom::watcher::WatcherConfig;
use cloakroom::{Error, Options, PrunePolicy, Receipt, Result, SessionId, SessionStore, Usage, Watcher};
use fork::Fork;

use crate::common::{assert_sound, fast_dir, key, options, source};
use crate::rig::{CHILD_PART, CHILD_ROOT};

const MAIN: &str = "fork::child_main";
/// Forks, each while other threads hold some lock or other.
const FORKS: usize = 12;
/// A call that has not returned after this never will.
const HUNG: Duration = Duration::from_secs(30);

#[test]
fn a_forked_child_is_refused_and_leaves_its_parent_alone() {
    let dir = fast_dir();
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", MAIN, "--nocapture", "--test-threads=1"])
        .env(CHILD_PART, "")
        .env(CHILD_ROOT, dir.path())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Everything that a child inherits.
struct Inherited {
    store: SessionStore,
    watcher: Watcher,
    events: Events,
    rows: Iter,
    durable: Receipt,
    pending: Receipt,
    token: TurnToken,
}

/// Ends the other threads after a panic too.
struct Stops<'a>(&'a AtomicBool);

impl Drop for Stops<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[test]
fn child_main() {
    let (Ok(_), Ok(root)) = (std::env::var(CHILD_PART), std::env::var(CHILD_ROOT)) else {
        return;
    };
    let root = Path::new(&root);
    let path = root.join("sessions.db");
    let shared = options(&path).commit_interval(Duration::from_millis(1)).max_pending(64);
    let store = SessionStore::open_shared(shared.clone()).unwrap();
    (0..20).for_each(|n| drop(store.resolve(&source(n)).unwrap()));
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for thread in 0..3 {
            let (store, stop) = (&store, &stop);
            scope.spawn(move || {
                // The others stay where lists find them.
                for n in (0..10).cycle().take_while(|_| !stop.load(Ordering::SeqCst)) {
                    let receipt = store.touch(&key(n)).unwrap().unwrap();
                    match thread {
                        0 => receipt.wait().unwrap(),
                        1 => pollster::block_on(receipt).unwrap(),
                        _ => drop((store.suspend(&key(n)).unwrap(), store.unsuspend(&key(n)).unwrap())),
                    }
                }
            });
        }
        let _stops = Stops(&stop);
        (0..FORKS).for_each(|n| fork_once(root, &store, n));
    });
    // The parent has lost nothing by it.
    assert!(SessionStore::open_shared(shared).unwrap().contains(&key(1)).unwrap());
    assert!(matches!(SessionStore::open(options(&path)), Err(Error::Locked { .. })), "a child has unlocked it");
    assert_sound(&store);
    store.close().unwrap();
    drop(store);
    let store = SessionStore::open(options(&path)).unwrap();
    assert!(store.open_report().clean);
    assert_eq!(store.len(), 20);
}

fn fork_once(root: &Path, store: &SessionStore, n: usize) {
    let BegunTurn { token, receipt: durable, .. } = store.begin_turn(&key(1)).unwrap().unwrap();
    durable.wait().unwrap();
    let mut rows = store.iter(Filter::default()).unwrap();
    rows.next().unwrap().unwrap();
    let mut pending = store.touch(&key(2)).unwrap().unwrap();
    let _ = Pin::new(&mut pending).poll(&mut Context::from_waker(Waker::noop()));
    let watcher = Watcher::spawn(store, WatcherConfig::default(), NoActivity).unwrap();
    let all = Inherited { store: store.clone(), watcher, events: store.events(4), rows, durable, pending, token };
    match fork::fork().unwrap() {
        Fork::Child => {
            let outcome = catch_unwind(AssertUnwindSafe(|| as_child(&root.join(format!("child{n}")), all)));
            exit(i32::from(outcome.is_err()));
        }
        Fork::Parent(child) => {
            let deadline = Instant::now() + HUNG;
            let status = loop {
                if let Some(status) = fork::waitpid_nohang(child).unwrap() {
                    break status;
                }
                if Instant::now() > deadline {
                    let child = rustix::process::Pid::from_raw(child).unwrap();
                    rustix::process::kill_process(child, rustix::process::Signal::KILL).unwrap();
                    panic!("the child hangs, after {}", fs::read_to_string(root.join(format!("child{n}"))).unwrap());
                }
                std::thread::yield_now();
            };
            assert_eq!(status, 0, "{}", fs::read_to_string(root.join(format!("child{n}"))).unwrap_or_default());
            // Dropped by the parent, they end as ever.
            all.pending.wait().unwrap();
        }
    }
}

/// Tries everything. `log` tells how far it came.
fn as_child(log: &Path, mut all: Inherited) {
    let Inherited { store, .. } = &all;
    let key = &key(1);
    let step = |what: &str| fs::write(log, what).unwrap();
    let refused = |what: &str, error: Option<Error>| {
        assert!(matches!(error, Some(Error::Forked { .. })), "{what}: {error:?}");
    };
    fn verb<T: Debug>(answer: Result<T>) -> Option<Error> {
        answer.err()
    }
    let entry = cloakroom::SessionId::new("other").unwrap();
    let policies = ResetPolicies::new(ResetPolicy::idle(1));
    let policy = PrunePolicy::max_age_days(1);
    let new = log.with_extension("db");
    let sessions = r#"{"agent:main:discord:dm:1": {"session_id": "a", "updated_at": "2026-06-12T00:07:04"}}"#;
    let export = ExportOptions::new(ExportFormat::Hermes);
    type Verb<'a> = (&'a str, Box<dyn Fn() -> Option<Error> + 'a>);
    let verbs: Vec<Verb<'_>> = vec![
        ("get", Box::new(|| verb(store.get(key)))),
        ("get_with_extras", Box::new(|| verb(store.get_with_extras(key)))),
        ("contains", Box::new(|| verb(store.contains(key)))),
        ("find_by_session_id", Box::new(|| verb(store.find_by_session_id(&entry)))),
        ("touch", Box::new(|| verb(store.touch(key)))),
        ("record_usage", Box::new(|| verb(store.record_usage(key, &Usage::default())))),
        ("suspend", Box::new(|| verb(store.suspend(key)))),
        ("unsuspend", Box::new(|| verb(store.unsuspend(key)))),
        ("pin", Box::new(|| verb(store.pin(key)))),
        ("unpin", Box::new(|| verb(store.unpin(key)))),
        ("hold", Box::new(|| verb(store.hold(key)))),
        ("hold_until", Box::new(|| verb(store.hold_until(key, "job", cloakroom::Timestamp::from_micros(i64::MAX))))),
        ("release", Box::new(|| verb(store.release(key, "job")))),
        ("leases", Box::new(|| verb(store.leases()))),
        ("update", Box::new(|| verb(store.update(key, |_| {})))),
        ("set_metadata", Box::new(|| verb(store.set_metadata(key, &serde_json::Map::new())))),
        ("remove", Box::new(|| verb(store.remove(key)))),
        ("verify", Box::new(|| verb(store.verify()))),
        ("stats", Box::new(|| verb(store.stats()))),
        ("flush", Box::new(|| verb(store.flush()))),
        ("close", Box::new(|| verb(store.close()))),
        ("resolve", Box::new(|| verb(store.resolve(&source(1))))),
        ("resolve_with", Box::new(|| verb(store.resolve_with(&source(1), &policies, NoActivity)))),
        ("reset", Box::new(|| verb(store.reset(key)))),
        ("repoint", Box::new(|| verb(store.repoint(key, SessionId::new("b").unwrap(), &Repoint::new())))),
        ("begin_turn", Box::new(|| verb(store.begin_turn(key)))),
        ("end_turn", Box::new(|| verb(store.end_turn(key, all.token)))),
        ("try_begin_turn", Box::new(|| verb(store.try_begin_turn(key)))),
        ("turn", Box::new(|| verb(store.turn(key)))),
        ("discard_turn", Box::new(|| verb(store.discard_turn(key)))),
        ("discard_turns", Box::new(|| verb(store.discard_turns()))),
        ("turns", Box::new(|| verb(store.turns()))),
        ("recover_interrupted_turns", Box::new(|| verb(store.recover_interrupted_turns(HUNG)))),
        ("mark_resume_pending", Box::new(|| verb(store.mark_resume_pending(key, "test")))),
        ("clear_resume_pending", Box::new(|| verb(store.clear_resume_pending(key)))),
        ("recent", Box::new(|| verb(store.recent(1, None)))),
        ("iter", Box::new(|| verb(store.iter(Filter::default())))),
        ("prune", Box::new(|| verb(store.prune(&policy, NoActivity)))),
        ("prune_dry_run", Box::new(|| verb(store.prune_dry_run(&policy, NoActivity)))),
        ("import", Box::new(|| verb(store.import(sessions.as_bytes(), ImportOptions::new(), |_| {})))),
        ("export", Box::new(|| verb(store.export(sink(), &export)))),
        ("backup", Box::new(|| verb(store.backup(sink(), |_| {})))),
        ("backup_to_file", Box::new(|| verb(store.backup_to_file(&new, BackupOptions::new(), |_| {})))),
        ("watcher", Box::new(|| verb(Watcher::spawn(store, WatcherConfig::default(), NoActivity)))),
        ("is_durable", Box::new(|| verb(all.durable.is_durable()))),
        ("wait", Box::new(|| verb(all.pending.wait()))),
        ("wait_timeout", Box::new(|| verb(all.pending.wait_timeout(Duration::ZERO)))),
        // sled's threads are not there for another store either.
        ("open", Box::new(|| verb(SessionStore::open(Options::new(&new).create(true))))),
        ("open the same", Box::new(|| verb(SessionStore::open(Options::new(store.path()))))),
        ("open shared", Box::new(|| verb(SessionStore::open_shared(Options::new(&new).create(true))))),
        ("open the same shared", Box::new(|| verb(SessionStore::open_shared(Options::new(store.path()))))),
        ("repair", Box::new(|| verb(SessionStore::repair(Options::new(&new), new.with_extension("q"))))),
        ("compact", Box::new(|| verb(SessionStore::compact(Options::new(&new), |_| {})))),
        ("create_from", {
            let create = || SessionStore::create_from(Options::new(&new), empty(), ImportOptions::new(), |_| {});
            Box::new(move || verb(create()))
        }),
    ];
    for (what, verb) in verbs {
        step(what);
        refused(what, verb());
    }
    assert!(!new.exists(), "it made something");

    step("an iterator");
    refused("an iterator", all.rows.next().and_then(Result::err));
    assert!(all.rows.next().is_none());
    step("await");
    for receipt in [&mut all.durable, &mut all.pending] {
        match Pin::new(receipt).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Err(Error::Forked { .. })) => {}
            other => panic!("{other:?}"),
        }
    }
    // What answers no error answers nothing.
    step("events");
    assert!(all.events.recv().is_none() && all.events.drain().next().is_none());
    assert_eq!(all.store.events(1).try_recv(), Err(Nothing::Ended));
    step("a watcher");
    all.watcher.prune_now();
    assert_eq!(all.watcher.status().passes, 0);
    assert!(all.watcher.reports().recv().is_none());
    step("the rest");
    assert!(!all.store.is_empty() && all.store.open_report().created);
    let Inherited { store, watcher, events, rows, durable, pending, .. } = all;
    for (what, rest) in [
        ("drop a receipt", Box::new(durable) as Box<dyn std::any::Any>),
        ("drop a polled receipt", Box::new(pending)),
        ("drop events", Box::new(events)),
        ("drop an iterator", Box::new(rows)),
        ("drop a watcher", Box::new(watcher)),
        ("drop the store", Box::new(store)),
    ] {
        step(what);
        drop(rest);
    }
    step("exit");
}
