//! The backup of a store on a cluster is one of an embedded store.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use cloakroom::cluster::{ClusterOptions, ClusterStore};
use cloakroom::query::Filter;
use cloakroom::turns::TurnStart;
use cloakroom::{Error, Extras, Options, SessionEntry, SessionStore, Sessions, Usage};
use serde_json::json;

use crate::common::{fast_dir, key, source};
use crate::conformance::{one, six};
use crate::nodes::{Cluster, Node, wait_for};
use crate::retries::{Rig, rig};

#[test]
fn a_backup_becomes_an_embedded_store() {
    let store = six().open();
    for n in 0..40 {
        store.resolve(&source(n)).unwrap();
        let turn = Usage { input_tokens: n as u64, estimated_cost_usd: 0.5, ..Usage::ZERO };
        store.record_usage(&key(n), &turn).unwrap().unwrap();
    }
    store.suspend(&key(1)).unwrap().unwrap();
    store.pin(&key(2)).unwrap().unwrap();
    // Large enough for several parts, and for details that are kept with them.
    store.set_extra(&key(3), "large", &json!("e".repeat(50_000))).unwrap().unwrap();
    store.set_extra(&key(3), "small", &json!({"a": 1})).unwrap().unwrap();
    store.update(&key(4), &mut |details| details.display_name = Some("n".repeat(6000))).unwrap().unwrap();
    let TurnStart::Begun(begun) = store.try_begin_turn(&key(5)).unwrap() else { panic!() };
    let end = store.get(&key(6)).unwrap().unwrap().updated_at.saturating_add(Duration::from_secs(86_400));
    store.hold_until(&key(6), "job", end).unwrap().unwrap();
    let _here = store.hold(&key(7)).unwrap().unwrap();
    store.remove(&key(8)).unwrap().unwrap();

    let (mut file, mut told) = (Vec::new(), 0);
    let report = store.backup(&mut file, |progress| told = progress.entries).unwrap();
    assert_eq!((report.entries, report.turns, report.leases, report.bytes), (39, 1, 1, file.len() as u64));
    assert_eq!(told, 39);
    let dir = fast_dir();
    let options = || Options::new(dir.path().join("db"));
    let restored = SessionStore::restore(options(), &*file, |_| {}).unwrap();
    assert_eq!((restored.entries, restored.turns, restored.leases), (39, 1, 1));
    let embedded = SessionStore::open(options()).unwrap();
    for n in 0..40 {
        let (found, expected) = (embedded.get_with_extras(&key(n)).unwrap(), store.get_with_extras(&key(n)).unwrap());
        assert_eq!(found, expected, "{n}");
    }
    assert_eq!(embedded.iter(Filter::default()).unwrap().count(), 39);
    assert_eq!(embedded.turn(&key(5)).unwrap().unwrap().token, begun.token);
    let leases = embedded.leases().unwrap().items;
    assert!(leases.len() == 1 && leases[0].key == key(6) && leases[0].end == Some(end));
    assert_eq!(embedded.verify().unwrap().violations, []);
    // Numbers that are given later are later.
    embedded.set_extra(&key(3), "more", &json!("m".repeat(9000))).unwrap().unwrap();
    assert!(embedded.begin_turn(&key(5)).unwrap().unwrap().token > begun.token);
}

/// What is read of a file, and no more: then the disk, or the process, is gone.
pub struct CutShort<'a>(pub &'a [u8]);

impl std::io::Read for CutShort<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.0.is_empty() { Err(std::io::Error::other("gone")) } else { self.0.read(buffer) }
    }
}

#[test]
fn an_embedded_store_moves_to_a_cluster_and_back() {
    let dir = fast_dir();
    let embedded = SessionStore::open(Options::new(dir.path().join("db")).create(true)).unwrap();
    for n in 0..60 {
        embedded.resolve(&source(n)).unwrap();
        embedded.set_extra(&key(n), "a", &json!("e".repeat(n * 200))).unwrap().unwrap();
    }
    embedded.suspend(&key(1)).unwrap().unwrap();
    embedded.update(&key(4), |details| details.display_name = Some("n".repeat(6000))).unwrap().unwrap();
    let begun = embedded.begin_turn(&key(5)).unwrap().unwrap();
    let end = embedded.get(&key(6)).unwrap().unwrap().updated_at.saturating_add(Duration::from_secs(86_400));
    embedded.hold_until(&key(6), "job", end).unwrap().unwrap();
    let mut file = Vec::new();
    embedded.backup(&mut file, |_| {}).unwrap();

    let options = six().options();
    let cut = ClusterStore::restore(options.clone(), CutShort(&file[..file.len() * 2 / 3]), |_| {});
    assert!(cut.is_err(), "{cut:?}");
    // Half of a store is none.
    let half = ClusterStore::open(options.clone());
    assert!(matches!(&half, Err(Error::OtherStore { reason, .. }) if reason.contains("restore")), "{half:?}");
    // Another attempt begins anew, and may have another backup.
    embedded.remove(&key(7)).unwrap().unwrap();
    file.clear();
    embedded.backup(&mut file, |_| {}).unwrap();
    let report = ClusterStore::restore(options.clone(), &*file, |_| {}).unwrap();
    assert_eq!((report.entries, report.turns, report.leases, report.bytes), (59, 1, 1, file.len() as u64));
    let there = ClusterStore::restore(options.clone(), &*file, |_| {});
    assert!(matches!(there, Err(Error::OtherStore { .. })), "{there:?}");
    let store = ClusterStore::open(options).unwrap();
    let alike = |one: Option<(SessionEntry, Extras)>, other: Option<(SessionEntry, Extras)>| {
        let plain = |found: Option<(SessionEntry, Extras)>| {
            found.map(|(mut entry, extras)| {
                entry.revision = cloakroom::Revision::NONE;
                (entry, extras)
            })
        };
        assert_eq!(plain(one), plain(other));
    };
    for n in 0..60 {
        alike(store.get_with_extras(&key(n)).unwrap(), embedded.get_with_extras(&key(n)).unwrap());
    }
    assert_eq!(store.len().unwrap(), 59);
    let id = store.get(&key(9)).unwrap().unwrap().session_id;
    assert_eq!(store.find_by_session_id(&id).unwrap().items.len(), 1);
    let turn = store.turn(&key(5)).unwrap().unwrap();
    assert_eq!((turn.token, turn.interrupted), (begun.token, true));
    assert!(store.begin_turn(&key(5)).unwrap().unwrap().token > begun.token);
    assert_eq!(store.leases().unwrap().items[0].end, Some(end));
    // And back.
    file.clear();
    store.backup(&mut file, |_| {}).unwrap();
    let back = Options::new(dir.path().join("back"));
    SessionStore::restore(back.clone(), &*file, |_| {}).unwrap();
    let back = SessionStore::open(back).unwrap();
    for n in (0..60).filter(|n| *n != 5) {
        alike(back.get_with_extras(&key(n)).unwrap(), embedded.get_with_extras(&key(n)).unwrap());
    }
}

/// A file whose rest comes when somebody says so.
struct Waits<'a> {
    file: &'a [u8],
    at: usize,
    read: usize,
    /// That it waits is told here, and that it may go on comes from there.
    waits: mpsc::Sender<()>,
    goes_on: mpsc::Receiver<()>,
}

impl std::io::Read for Waits<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.read == self.at {
            self.waits.send(()).unwrap();
            self.goes_on.recv().unwrap();
        }
        let stop = if self.read < self.at { self.at } else { self.file.len() };
        let length = buffer.len().min(stop - self.read);
        buffer[..length].copy_from_slice(&self.file[self.read..self.read + length]);
        self.read += length;
        Ok(length)
    }
}

/// How many entries of a backup end before a byte.
fn entries_before(file: &[u8], end: usize) -> usize {
    let (mut at, mut entries) = (16, 0);
    loop {
        let length = u32::from_le_bytes(file[at + 1..at + 5].try_into().unwrap()) as usize;
        let next = at + 5 + length + 4;
        if next > end {
            return entries;
        }
        entries += usize::from(file[at] == b'E');
        at = next;
    }
}

/// How many entries of a store that is being made are on a node.
fn entries_on(node: &Node, name: &str) -> usize {
    let found: Vec<String> = redis::from_redis_value(node.ask(&["KEYS", &format!("{name}:*:e:*")])).unwrap();
    found.len()
}

/// A backup of an embedded store with these sessions.
fn backup_of(keys: std::ops::Range<usize>) -> Vec<u8> {
    let dir = fast_dir();
    let embedded = SessionStore::open(Options::new(dir.path().join("db")).create(true)).unwrap();
    keys.for_each(|n| drop(embedded.resolve(&source(n)).unwrap()));
    let mut file = Vec::new();
    embedded.backup(&mut file, |_| {}).unwrap();
    file
}

/// Of two restores of one store the one that began last goes on, and has the store; the other one says that it has not.
#[test]
fn of_two_restores_one_makes_the_store() {
    let (one, other) = (backup_of(0..60), backup_of(100..110));
    let (node, name) = (&crate::conformance::one().nodes[0], "two-restores");
    let options = ClusterOptions::new(name, [node.address()]).create(true).shards(16).replicas(0);
    let (waits, it_waits) = mpsc::channel();
    let (go_on, goes_on) = mpsc::channel();
    thread::scope(|scope| {
        let first = scope.spawn(|| {
            let file = Waits { file: &one, at: one.len() / 2, read: 0, waits, goes_on };
            ClusterStore::restore(options.clone(), file, |_| {})
        });
        it_waits.recv().unwrap();
        // Nothing of it is under way.
        let read = entries_before(&one, one.len() / 2);
        wait_for("what was read is written", || entries_on(node, name) == read);
        assert_eq!(ClusterStore::restore(options.clone(), &*other, |_| {}).unwrap().entries, 10);
        go_on.send(()).unwrap();
        let first = first.join().unwrap();
        assert!(matches!(first, Err(Error::OtherStore { .. })), "{first:?}");
    });
    let store = ClusterStore::open(options).unwrap();
    assert_eq!(store.len().unwrap(), 10);
    assert!((100..110).all(|n| store.contains(&key(n)).unwrap()));
}

/// An earlier restore has an entry on its way while a later one makes the whole store: it comes too late.
#[test]
fn what_an_earlier_restore_has_under_way_is_not_written() {
    let Rig { _cluster, proxy, options } = rig();
    let (one, other) = (backup_of(0..2), backup_of(100..110));
    let at = (16..one.len()).find(|end| entries_before(&one, *end) == 1).unwrap();
    // So that the node knows the scripts.
    let known = ClusterOptions::new("known", [proxy.address()]).create(true).shards(16).replicas(0);
    ClusterStore::restore(known, &*other, |_| {}).unwrap();
    let (waits, it_waits) = mpsc::channel();
    let (go_on, goes_on) = mpsc::channel();
    thread::scope(|scope| {
        proxy.withhold(&format!(":e:{}", key(0).as_str()));
        let first = scope.spawn(|| {
            let file = Waits { file: &one, at, read: 0, waits, goes_on };
            ClusterStore::restore(options.clone(), file, |_| {})
        });
        it_waits.recv().unwrap();
        wait_for("the entry is on its way", || proxy.is_open());
        assert_eq!(ClusterStore::restore(options.clone(), &*other, |_| {}).unwrap().entries, 10);
        proxy.deliver();
        go_on.send(()).unwrap();
        let first = first.join().unwrap();
        assert!(matches!(first, Err(Error::OtherStore { .. })), "{first:?}");
    });
    let store = ClusterStore::open(options).unwrap();
    assert_eq!(store.len().unwrap(), 10);
    assert_eq!(store.verify().unwrap().violations, []);
}

/// A node that answers nobody holds up a restore, which reads on as far as there are writers, and no further. The first error of a
/// writer ends it.
#[test]
fn a_restore_writes_many_entries_at_once_and_reads_no_more() {
    const ENTRIES: usize = 1200;
    let dir = fast_dir();
    let embedded = SessionStore::open(Options::new(dir.path().join("db")).create(true)).unwrap();
    for n in 0..ENTRIES {
        embedded.resolve(&source(n)).unwrap();
        embedded.set_extra(&key(n), "a", &json!("e".repeat(3000))).unwrap().unwrap();
    }
    let mut file = Vec::new();
    embedded.backup(&mut file, |_| {}).unwrap();
    let each = file.len() / ENTRIES;
    let cluster = Cluster::one();
    let node = &cluster.nodes[0];
    // Once the node hangs, and once it refuses whatever takes memory.
    for hangs in [true, false] {
        let (waits, it_waits) = mpsc::channel();
        let (go_on, goes_on) = mpsc::channel();
        let read = AtomicUsize::new(0);
        thread::scope(|scope| {
            let (options, file, read) = (cluster.options(), &file, &read);
            let restoring = scope.spawn(move || {
                let input = Waits { file, at: 2 * each, read: 0, waits, goes_on };
                ClusterStore::restore(options, Counted { input, read }, |_| {})
            });
            it_waits.recv().unwrap();
            if hangs {
                node.signal("STOP");
            } else {
                node.ask(&["CONFIG", "SET", "maxmemory", "1"]);
            }
            go_on.send(()).unwrap();
            if hangs {
                wait_for("it reads on", || read.load(Ordering::Relaxed) > 400 * each);
                let read = read.load(Ordering::Relaxed);
                node.signal("CONT");
                assert!(read < 560 * each, "{} entries are in memory", read / each);
                assert_eq!(restoring.join().unwrap().unwrap().entries, ENTRIES as u64);
            } else {
                let ended = restoring.join().unwrap();
                assert!(matches!(ended, Err(Error::Refused { .. })), "{ended:?}");
                assert!(read.load(Ordering::Relaxed) < 560 * each);
            }
        });
    }
}

/// Counts what was read.
struct Counted<'a, R> {
    input: R,
    read: &'a AtomicUsize,
}

impl<R: std::io::Read> std::io::Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let length = self.input.read(buffer)?;
        self.read.fetch_add(length, Ordering::Relaxed);
        Ok(length)
    }
}

/// Some of what comes before the damage is on the nodes by then, in a store that nobody opens, and another backup takes its place.
#[test]
fn a_damaged_backup_makes_no_store() {
    let store = crate::conformance::one().open();
    for n in 0..20 {
        store.resolve(&source(n)).unwrap();
    }
    let mut file = Vec::new();
    store.backup(&mut file, |_| {}).unwrap();
    let options = crate::conformance::one().options();
    let mut damaged = file.clone();
    damaged[file.len() * 3 / 4] ^= 1;
    let error = ClusterStore::restore(options.clone(), &*damaged, |_| {}).unwrap_err();
    assert!(matches!(&error, Error::DamagedBackup { byte, .. } if *byte > 100), "{error:?}");
    assert!(!error.to_string().contains("nothing"), "{error}");
    let opened = ClusterStore::open(options.clone());
    assert!(matches!(opened, Err(Error::OtherStore { .. })), "{opened:?}");
    assert_eq!(ClusterStore::restore(options.clone(), &*file, |_| {}).unwrap().entries, 20);
    assert_eq!(ClusterStore::open(options).unwrap().len().unwrap(), 20);
}

/// A process that made a store died before that was done. The store can be made, and restored.
#[test]
fn what_was_not_made_to_its_end_is_restored() {
    let cluster = crate::conformance::one();
    let store = cluster.open();
    store.resolve(&source(1)).unwrap();
    let mut file = Vec::new();
    store.backup(&mut file, |_| {}).unwrap();
    let options = cluster.options();
    ClusterStore::open(options.clone()).unwrap().close().unwrap();
    let name = ClusterStore::open(options.clone()).unwrap().name().to_owned();
    let found = cluster.nodes[0].ask(&["KEYS", &format!("{name}:*:meta")]);
    let found: Vec<String> = redis::from_redis_value(found).unwrap();
    cluster.nodes[0].ask(&["HSET", &found[0], "state", "making"]);
    assert_eq!(ClusterStore::restore(options.clone(), &*file, |_| {}).unwrap().entries, 1);
    assert!(ClusterStore::open(options).unwrap().contains(&key(1)).unwrap());
}

/// A backup of a cluster is not of one moment: its report says so, and that of an embedded store, and of any restore, has nothing to
/// say.
#[test]
fn a_report_says_when_a_backup_began_and_ended() {
    let store = one().open();
    store.resolve(&source(1)).unwrap();
    let (before, mut file) = (store.stats().unwrap().now, Vec::new());
    let report = store.backup(&mut file, |_| {}).unwrap();
    let (began, ended) = report.began.zip(report.ended).unwrap();
    assert!(before <= began && began <= ended && ended <= store.stats().unwrap().now, "{report:?}");
    let dir = fast_dir();
    let restored = SessionStore::restore(Options::new(dir.path().join("db")), &*file, |_| {}).unwrap();
    assert_eq!(restored.began.or(restored.ended), None);
    let embedded = SessionStore::open(Options::new(dir.path().join("db"))).unwrap();
    let report = embedded.backup(std::io::sink(), |_| {}).unwrap();
    assert_eq!((report.entries, report.began.or(report.ended)), (1, None));
    let said = serde_json::to_value(report).unwrap();
    assert!(said.get("began").is_none() && said.get("ended").is_none(), "{said}");
    let restored = ClusterStore::restore(one().options(), &*file, |_| {}).unwrap();
    assert_eq!(restored.began.or(restored.ended), None);
}
