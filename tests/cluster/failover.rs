//! Nodes that die, hang, or come back: what was awaited is there, and nothing is answered that is not so.
//!
//! `CLOAKROOM_PRIMARY_KILLS` and `CLOAKROOM_CLUSTER_KILLS` set how many rounds are run, and `CLOAKROOM_STATE` where the
//! numbers reached are kept.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use cloakroom::change::{Draft, Edit, Modified, Touch};
use cloakroom::cluster::ClusterStore;
use cloakroom::turns::TurnToken;
use cloakroom::{Error, SessionEntry, SessionKey, Sessions};
use pollster::block_on;

use crate::awaited::Awaited;
use crate::battery::Battery;
use crate::common::{key, source};
use crate::metrics::figure;
use crate::nodes::{Cluster, Node, wait_for};

const WRITERS: usize = 8;
const KEYS_EACH: usize = 4;

/// What writers have awaited, and tried, for each key.
#[derive(Default)]
pub struct Ledger {
    awaited: Mutex<BTreeMap<SessionKey, u64>>,
    tried: Mutex<BTreeMap<SessionKey, u64>>,
    /// What a verb, or a receipt, failed with.
    failed: Mutex<Vec<Error>>,
}

impl Ledger {
    /// Counts up its keys, each change awaited, until it is told to stop.
    fn write(&self, store: &dyn Sessions, writer: usize, stop: &AtomicBool) {
        let mut n = 0;
        while !stop.load(Ordering::Relaxed) {
            for k in 0..KEYS_EACH {
                n += 1;
                let key = key(writer * KEYS_EACH + k);
                let count = &mut |draft: &mut Draft<'_>| {
                    draft.entry.usage.input_tokens += 1;
                    draft.entry.usage.last_prompt_tokens = draft.entry.usage.input_tokens;
                    Edit::Write
                };
                *self.tried.lock().unwrap().entry(key.clone()).or_default() += 1;
                let written = match store.modify(&key, Touch::Yes, count) {
                    Ok(Modified::Created(written) | Modified::Changed(written)) => written,
                    Ok(other) => panic!("{other:?}"),
                    Err(error) => {
                        self.failed.lock().unwrap().push(error);
                        continue;
                    }
                };
                // Nobody else writes these keys: what was awaited is in what it has been added to.
                let before = self.awaited.lock().unwrap().get(&key).copied().unwrap_or(0);
                let counted = written.entry.usage.input_tokens;
                assert!(counted > before, "{counted} after {before} were awaited: an awaited change is lost");
                // Some are dropped: they may be lost.
                if n % 5 == 0 {
                    continue;
                }
                let kept = if writer.is_multiple_of(2) { written.receipt.wait() } else { block_on(written.receipt) };
                match kept {
                    Ok(()) => drop(self.awaited.lock().unwrap().insert(key, counted)),
                    Err(error) => self.failed.lock().unwrap().push(error),
                }
            }
        }
    }

    /// Nothing that was awaited is missing, nothing was made twice, and nothing is half there.
    pub fn check(&self, store: &ClusterStore) {
        let (awaited, tried) = (self.awaited.lock().unwrap(), self.tried.lock().unwrap());
        assert!(awaited.len() > WRITERS, "hardly anything was awaited");
        let mut listed: Vec<_> = store.recent(1000, None).unwrap().entries;
        listed.sort_by(|a, b| a.key.cmp(&b.key));
        for (key, expected) in awaited.iter() {
            let entry = store.get(key).unwrap().expect("an awaited entry is there");
            let counted = entry.usage.input_tokens;
            assert!(counted >= *expected, "{counted} of {expected} awaited");
            assert!(counted <= tried[key], "{counted} of {} tried", tried[key]);
            assert_eq!(entry.usage.last_prompt_tokens, counted, "half of a change");
            let row = &listed[listed.binary_search_by(|row| row.key.cmp(key)).expect("it is in the list")];
            assert_eq!((row.updated_at, row.usage.input_tokens), (entry.updated_at, counted));
            let found = store.find_by_session_id(&entry.session_id).unwrap().items;
            assert!(found.contains(&entry), "no hint leads to it");
        }
        assert_eq!(store.len().unwrap(), listed.len() as u64);
        // What leads nowhere may be left, and is passed over.
        assert_eq!(store.verify().unwrap().violations, []);
    }
}

impl Ledger {
    /// Every verb went well, and was made once.
    pub fn check_that_nothing_failed(&self, store: &ClusterStore) {
        self.check(store);
        assert!(self.failed.lock().unwrap().is_empty(), "{:?}", self.failed.lock().unwrap());
        for (key, tried) in self.tried.lock().unwrap().iter() {
            assert_eq!(store.get(key).unwrap().unwrap().usage.input_tokens, *tried);
        }
    }
}

/// Half of the writers block, and half are futures.
pub fn under_load(store: &ClusterStore, harm: impl FnOnce()) -> Ledger {
    let (ledger, stop) = (Ledger::default(), AtomicBool::new(false));
    thread::scope(|scope| {
        for writer in 0..WRITERS {
            let (ledger, stop) = (&ledger, &stop);
            scope.spawn(move || match writer % 2 {
                0 => ledger.write(store, writer, stop),
                _ => ledger.write(&Awaited::of(store), writer, stop),
            });
        }
        // The writers stop too if this fails.
        let harmed = catch_unwind(AssertUnwindSafe(harm));
        stop.store(true, Ordering::Relaxed);
        harmed.unwrap_or_else(|failure| resume_unwind(failure));
    });
    ledger
}

/// Where receipts were dropped and a connection broke, closing tells of it, once.
pub fn close_after_losses(store: &ClusterStore) {
    let closed = store.close();
    assert!(matches!(closed, Ok(()) | Err(Error::Uncertain { .. })), "{closed:?}");
    store.close().unwrap();
}

#[test]
fn a_primary_that_is_killed_loses_nothing_that_was_awaited() {
    let mut cluster = Cluster::six();
    Battery::new("primary_kills", 2).run(|round, mut dice| {
        let store = cluster.open();
        let primaries = cluster.primaries();
        let victim = primaries[dice.roll(primaries.len())];
        let replica = cluster.replica_of(victim);
        let ledger = under_load(&store, || {
            thread::sleep(Duration::from_millis(300 + dice.roll(300) as u64));
            if round % 2 == 0 {
                // The replica is behind: what only the primary has is lost with it. Its connection goes too, or it would find
                // in its buffers what the primary sent.
                cluster.nodes[replica].signal("STOP");
                cluster.nodes[victim].ask(&["CLIENT", "KILL", "TYPE", "replica"]);
                thread::sleep(Duration::from_millis(200 + dice.roll(500) as u64));
            }
            cluster.nodes[victim].kill();
            cluster.nodes[replica].signal("CONT");
            wait_for("the replica takes over", || cluster.primaries().contains(&replica));
            // Without a second replica nothing can be awaited there, but all the verbs go on.
            store.modify(&key(0), Touch::Yes, &mut |_| Edit::Write).unwrap();
            cluster.nodes[victim].run();
            cluster.wait_until_whole();
            thread::sleep(Duration::from_millis(300));
        });
        ledger.check(&store);
        // A store that is opened now sees the same.
        ledger.check(&ClusterStore::open(cluster.options_of(&store)).unwrap());
        close_after_losses(&store);
    });
}

#[test]
fn all_nodes_that_are_killed_at_once_lose_nothing_that_was_awaited() {
    let mut cluster = Cluster::six();
    Battery::new("cluster_kills", 1).run(|_, mut dice| {
        let store = cluster.open();
        let ledger = under_load(&store, || {
            thread::sleep(Duration::from_millis(300 + dice.roll(400) as u64));
            cluster.nodes.iter_mut().for_each(crate::nodes::Node::kill);
            cluster.nodes.iter_mut().for_each(crate::nodes::Node::run);
            cluster.wait_until_whole();
            // No node knows the scripts any more.
            cluster.nodes.iter().for_each(|node| drop(node.ask(&["SCRIPT", "FLUSH"])));
            thread::sleep(Duration::from_millis(500));
        });
        ledger.check(&store);
        close_after_losses(&store);
    });
}

/// A primary that hangs, and is replaced, still answers when it goes on. No receipt believes it.
#[test]
fn a_primary_that_was_replaced_proves_nothing() {
    let cluster = Cluster::six();
    let store = cluster.open();
    store.resolve(&source(1)).unwrap().receipt.wait().unwrap();
    let victim = cluster.primaries().into_iter().find(|n| cluster.has_key(*n, &store, &key(1))).unwrap();
    let replica = cluster.replica_of(victim);
    cluster.nodes[replica].signal("STOP");
    let count = &mut |draft: &mut Draft<'_>| {
        draft.entry.usage.input_tokens = 7;
        Edit::Write
    };
    let Modified::Changed(written) = store.modify(&key(1), Touch::Yes, count).unwrap() else { panic!() };
    assert!(!written.receipt.is_durable().unwrap());
    // Nothing of what the primary sends it is delivered any more.
    cluster.nodes[victim].signal("STOP");
    let waiting = thread::spawn({
        let receipt = written.receipt.clone();
        move || receipt.wait()
    });
    cluster.nodes[replica].signal("CONT");
    wait_for("the replica takes over", || {
        cluster.nodes[replica].ask_text(&["INFO", "replication"]).contains("role:master")
    });
    let waited = waiting.join().unwrap();
    cluster.nodes[victim].signal("CONT");
    wait_for("the old primary gives in", || {
        cluster.nodes[victim].ask_text(&["INFO", "replication"]).contains("role:slave")
    });
    assert!(matches!(waited, Err(Error::Uncertain { .. } | Error::NotReplicated { .. })), "{waited:?}");
    assert!(written.receipt.wait().is_err() && written.receipt.is_durable().is_err());
    cluster.wait_until_whole();
    // All goes on without a new opening.
    let entry = store.get(&key(1)).unwrap().unwrap();
    store.touch(&key(1)).unwrap().unwrap().wait().unwrap();
    assert_eq!(store.get(&key(1)).unwrap().unwrap().usage, entry.usage);
}

/// A primary is replaced by a replica that lacks a change, becomes its replica, and takes over again: the connection to it was
/// open all the time. The change is gone, and its receipt does not say that it is kept.
#[test]
fn a_primary_that_came_back_proves_nothing_of_before() {
    let cluster = Cluster::with(1, true, &[]);
    let store = ClusterStore::open(cluster.options().member_lease(Duration::from_secs(3600))).unwrap();
    store.resolve(&source(1)).unwrap().receipt.wait().unwrap();
    let [first, second] = &cluster.nodes[..] else { panic!("two nodes") };
    cut_off(&cluster, 0, 1);
    let receipt = store.suspend(&key(1)).unwrap().unwrap();
    // The second one must not hear of it before it takes over.
    first.signal("STOP");
    second.signal("CONT");
    second.ask(&["CLUSTER", "FAILOVER", "TAKEOVER"]);
    let is_replica = |node: &Node| {
        let told = node.ask_text(&["INFO", "replication"]);
        told.contains("role:slave") && told.contains("master_link_status:up")
    };
    first.signal("CONT");
    wait_for("the first one follows", || is_replica(first));
    first.ask(&["CLUSTER", "FAILOVER"]);
    wait_for("it takes over again", || is_replica(second));
    // What its replica has is more than there was before.
    first.ask(&["SET", "{filler}", &"f".repeat(10_000)]);
    let waited = receipt.wait();
    assert!(matches!(waited, Err(Error::Uncertain { .. })), "{waited:?}");
    wait_for("all goes on", || store.get(&key(1)).is_ok());
    assert!(!store.get(&key(1)).unwrap().unwrap().suspended);
    store.suspend(&key(1)).unwrap().unwrap().wait().unwrap();
}

fn counts_to(count: u64) -> impl FnMut(&mut Draft<'_>) -> Edit {
    move |draft| {
        draft.entry.usage.input_tokens = count;
        Edit::Write
    }
}

/// A replica hears nothing more from its primary, and what was on its way is gone.
fn cut_off(cluster: &Cluster, primary: usize, replica: usize) {
    cluster.nodes[replica].signal("STOP");
    cluster.nodes[primary].ask(&["CLIENT", "KILL", "TYPE", "replica"]);
}

/// What a dropped receipt may lose: by a failover, all that the replica has not got.
#[test]
fn a_failover_loses_what_was_not_awaited_and_no_more() {
    let mut cluster = Cluster::six();
    let store = cluster.open();
    for n in 0..30 {
        store.resolve(&source(n)).unwrap();
    }
    store.flush().unwrap();
    let victim = cluster.primaries()[0];
    let own: Vec<_> = (0..30).filter(|n| cluster.has_key(victim, &store, &key(*n))).map(key).collect();
    let [covered, lost, next, ..] = &own[..] else { panic!("{} of 30 keys are there", own.len()) };
    let entry = store.get(lost).unwrap().unwrap();
    // A receipt that is awaited covers what was dropped before it on the same node.
    drop(store.modify(covered, Touch::Yes, &mut counts_to(7)).unwrap());
    store.suspend(next).unwrap().unwrap().wait().unwrap();
    let replica = cluster.replica_of(victim);
    cut_off(&cluster, victim, replica);
    drop(store.modify(lost, Touch::No, &mut counts_to(9)).unwrap());
    // All see it, until the node is gone.
    let other = ClusterStore::open(cluster.options_of(&store)).unwrap();
    assert_eq!(other.get(lost).unwrap().unwrap().usage.input_tokens, 9);
    cluster.nodes[victim].kill();
    cluster.nodes[replica].signal("CONT");
    wait_for("the replica takes over", || cluster.primaries().contains(&replica));
    // Nothing is half there.
    assert_eq!(store.get(lost).unwrap(), Some(entry));
    assert_eq!(store.get(covered).unwrap().unwrap().usage.input_tokens, 7);
    assert!(store.get(next).unwrap().unwrap().suspended);
    assert_eq!((store.len().unwrap(), store.recent(100, None).unwrap().entries.len()), (30, 30));
}

/// The token of a turn is greater than those of the same key that were awaited before it, though their primary is lost in
/// between. A begin that nobody awaited goes with that, and the number of its token is given again.
#[test]
fn a_token_is_greater_than_those_that_were_awaited_before_a_failover() {
    let mut cluster = Cluster::six();
    let store = cluster.open();
    store.resolve(&source(1)).unwrap();
    let begin = || store.begin_turn(&key(1)).unwrap().unwrap();
    let mut awaited = Vec::new();
    for _ in 0..3 {
        let begun = begin();
        wait_for("the turn is kept", || begun.receipt.wait().is_ok());
        awaited.push(begun.token);
    }
    let victim = cluster.primaries().into_iter().find(|n| cluster.has_key(*n, &store, &key(1))).unwrap();
    let replica = cluster.replica_of(victim);
    cut_off(&cluster, victim, replica);
    let lost = begin().token;
    cluster.nodes[victim].kill();
    cluster.nodes[replica].signal("CONT");
    wait_for("the replica takes over", || cluster.primaries().contains(&replica));
    assert_eq!(store.turn(&key(1)).unwrap().map(|turn| turn.token), awaited.last().copied());
    awaited.push(begin().token);
    assert!(awaited.is_sorted_by(|a, b| a < b), "{awaited:?}");
    // What comes after the number is random.
    let number = |token: &TurnToken| token.to_string()[..12].to_owned();
    assert_eq!(awaited.last().map(number), Some(number(&lost)));
}

/// Nobody awaits a change, and its primary is lost with it. A flush, and so a close, tells of that, once.
#[test]
fn a_flush_tells_of_what_a_failover_may_have_lost() {
    let mut cluster = Cluster::six();
    let store = cluster.open();
    let other = ClusterStore::open(cluster.options_of(&store)).unwrap();
    for n in 0..30 {
        store.resolve(&source(n)).unwrap();
    }
    store.flush().unwrap();
    let victim = cluster.primaries()[0];
    let lost = (0..30).map(key).find(|key| cluster.has_key(victim, &store, key)).unwrap();
    let replica = cluster.replica_of(victim);
    cut_off(&cluster, victim, replica);
    drop(store.modify(&lost, Touch::No, &mut counts_to(9)).unwrap());
    cluster.nodes[victim].kill();
    cluster.nodes[replica].signal("CONT");
    wait_for("the replica takes over", || cluster.primaries().contains(&replica));
    cluster.nodes[victim].run();
    cluster.wait_until_whole();
    assert_eq!(store.get(&lost).unwrap().unwrap().usage.input_tokens, 0);
    let closed = store.close();
    assert!(matches!(closed, Err(Error::Uncertain { .. })), "{closed:?}");
    assert_eq!(figure(&other, "members"), 1, "it has left all the same");
    store.flush().unwrap();
    // It had nothing to lose.
    other.flush().unwrap();
}

/// A flush is the first to find that a primary was replaced. It sends the touches again that went with it.
#[test]
fn a_flush_sends_the_touches_again_that_it_finds_lost() {
    // Nobody calls the replica failed while it is stopped.
    let mut cluster = Cluster::with(1, true, &["--cluster-node-timeout", "60000"]);
    // One that has nothing is not shown.
    cluster.nodes[0].ask(&["SET", "{filler}", "f"]);
    let replica = format!("({})", cluster.nodes[1].port);
    wait_for("all know of the replica", || {
        cluster.nodes.iter().all(|node| format!("{:?}", node.ask(&["CLUSTER", "SLOTS"])).contains(&replica))
    });
    let options = || cluster.options().replicas(0);
    let store = ClusterStore::open(options()).unwrap();
    let resolved = store.resolve(&source(1)).unwrap();
    resolved.receipt.wait().unwrap();
    let again = cluster.options_of(&store).replicas(0);
    cut_off(&cluster, 0, 1);
    drop(store.touch(&key(1)).unwrap().unwrap());
    let touched = store.get(&key(1)).unwrap().unwrap().updated_at;
    assert!(touched > resolved.entry.updated_at);
    // Closing ends the thread that would look for what is lost.
    let closed = store.close();
    assert!(matches!(closed, Err(Error::NotReplicated { .. })), "{closed:?}");
    cluster.nodes[0].kill();
    cluster.nodes[1].signal("CONT");
    cluster.nodes[1].ask(&["CLUSTER", "FAILOVER", "TAKEOVER"]);
    wait_for("the replica takes over", || cluster.primaries() == [1]);
    store.flush().unwrap();
    let other = ClusterStore::open(again).unwrap();
    assert_eq!(other.get(&key(1)).unwrap().unwrap().updated_at, touched);
}

/// A primary has no replica, as after a failover. Who has only read has nothing to lose, and closes.
#[test]
fn who_has_changed_nothing_closes_though_nothing_can_be_proven() {
    let cluster = Cluster::one();
    let maker = cluster.open();
    maker.resolve(&source(1)).unwrap();
    let open = || ClusterStore::open(cluster.options_of(&maker).replicas(1)).unwrap();
    let store = open();
    assert!(store.get(&key(1)).unwrap().is_some());
    store.close().unwrap();
    let touches = |store: &ClusterStore| drop(store.touch(&key(1)).unwrap().unwrap());
    let suspends = |store: &ClusterStore| drop(store.suspend(&key(1)).unwrap().unwrap());
    for change in [&touches as &dyn Fn(&ClusterStore), &suspends] {
        let store = open();
        change(&store);
        let closed = store.close();
        assert!(matches!(closed, Err(Error::NotReplicated { .. })), "{closed:?}");
    }
    let flushed = open().flush();
    assert!(matches!(flushed, Err(Error::NotReplicated { .. })), "{flushed:?}");
}

/// A flush needs the answer of every primary.
#[test]
fn a_flush_fails_where_a_primary_does_not_answer() {
    let mut cluster = Cluster::six();
    let store = ClusterStore::open(cluster.options().patience(Duration::from_millis(500))).unwrap();
    store.flush().unwrap();
    let victim = cluster.primaries()[0];
    let replica = cluster.replica_of(victim);
    [victim, replica].iter().for_each(|n| cluster.nodes[*n].kill());
    let flushed = store.flush();
    assert!(matches!(flushed, Err(Error::Unavailable { .. })), "{flushed:?}");
}

/// A failover undoes a reset and a removal. The entries are as they were, and what leads to them from their session ids, on
/// other nodes, is there still.
#[test]
fn an_entry_that_a_failover_gives_back_is_found_by_its_id() {
    let mut cluster = Cluster::six();
    let store = cluster.open();
    for n in 0..60 {
        store.resolve(&source(n)).unwrap();
    }
    store.flush().unwrap();
    let victim = cluster.primaries()[0];
    let is_elsewhere = |entry: &SessionEntry| {
        let pattern = format!("{}:*:i:{}", store.name(), entry.session_id.as_str());
        let names: Vec<String> = redis::from_redis_value(cluster.nodes[victim].ask(&["KEYS", &pattern])).unwrap();
        names.is_empty()
    };
    let own = (0..60).map(key).filter(|key| cluster.has_key(victim, &store, key));
    let entries: Vec<_> = own.map(|key| store.get(&key).unwrap().unwrap()).filter(is_elsewhere).collect();
    let [reset, removed, ..] = &entries[..] else { panic!("{} of 60 entries are there", entries.len()) };
    let replica = cluster.replica_of(victim);
    cut_off(&cluster, victim, replica);
    drop(store.reset(&reset.key).unwrap().unwrap());
    drop(store.remove(&removed.key).unwrap().unwrap());
    cluster.nodes[victim].kill();
    cluster.nodes[replica].signal("CONT");
    wait_for("the replica takes over", || cluster.primaries().contains(&replica));
    let check = || {
        for entry in [reset, removed] {
            assert_eq!(store.get(&entry.key).unwrap().as_ref(), Some(entry));
            assert_eq!(store.find_by_session_id(&entry.session_id).unwrap().items, std::slice::from_ref(entry));
        }
        assert_eq!(store.verify().unwrap().violations, []);
    };
    check();
    cluster.nodes[victim].run();
    cluster.wait_until_whole();
    close_after_losses(&store);
    check();
}

/// What leads from a session id to its entry goes once the replicas have the change that took the id from it.
#[test]
fn what_led_to_a_session_that_is_gone_goes() {
    let store = crate::conformance::six().open();
    for n in 0..8 {
        store.resolve(&source(n)).unwrap();
        drop(if n < 4 { store.reset(&key(n)).unwrap().map(|it| it.receipt) } else { store.remove(&key(n)).unwrap() });
    }
    wait_for("nothing leads nowhere", || store.verify().unwrap().stale_hints == 0);
    for n in 0..4 {
        drop(store.reset(&key(n)).unwrap().unwrap());
    }
    store.flush().unwrap();
    assert_eq!(store.verify().unwrap().stale_hints, 0);
}

/// A process that lives on sends the touches again that a failover may have lost. It makes nothing that is not there.
#[test]
fn touches_that_were_not_awaited_outlive_a_failover() {
    let mut cluster = Cluster::six();
    let store = cluster.open();
    for n in 0..30 {
        store.resolve(&source(n)).unwrap();
    }
    store.flush().unwrap();
    let victim = cluster.primaries()[0];
    let own: Vec<_> = (0..30).filter(|n| cluster.has_key(victim, &store, &key(*n))).collect();
    let [touched, addressed, removed, ..] = own[..] else { panic!("{} of 30 keys are there", own.len()) };
    let other = ClusterStore::open(cluster.options_of(&store)).unwrap();
    let replica = cluster.replica_of(victim);
    cut_off(&cluster, victim, replica);
    drop(store.touch(&key(touched)).unwrap().unwrap());
    drop(store.resolve(&source(addressed)).unwrap());
    drop(store.touch(&key(removed)).unwrap().unwrap());
    let times = || {
        let entries = [touched, addressed].map(|n| other.get(&key(n)).unwrap().unwrap());
        entries.map(|entry| (entry.updated_at, entry.last_interaction))
    };
    let told = times();
    assert!(figure(&store, "touches_remembered") >= 3);
    cluster.nodes[victim].kill();
    cluster.nodes[replica].signal("CONT");
    wait_for("the replica takes over", || cluster.primaries().contains(&replica));
    other.remove(&key(removed)).unwrap().unwrap();
    // Nothing but that thread of it is at work.
    wait_for("both are sent again", || times() == told);
    wait_for("all are sent again", || figure(&store, "touches_resent_total") >= 3);
    assert_eq!(other.len().unwrap(), 29);
    assert_eq!(figure(&store, "touches_forgotten_total"), 0);
}

/// How often a node was called so since it runs.
pub fn calls(node: &Node, name: &str) -> u64 {
    let told = node.ask_text(&["INFO", "commandstats"]);
    let name = format!("cmdstat_{name}:calls=");
    let calls = told.lines().find_map(|line| line.strip_prefix(&name)?.split_once(','));
    calls.map_or(0, |(calls, _)| calls.parse().unwrap())
}

/// One primary is gone and nobody takes over. Of another one the connections broke, and its replica has nothing yet.
fn two_that_are_in_trouble(patience: Duration) -> (Cluster, ClusterStore, [usize; 2]) {
    let mut cluster = Cluster::with(3, true, &["--cluster-require-full-coverage", "no"]);
    let store = ClusterStore::open(cluster.options().patience(patience)).unwrap();
    for n in 0..30 {
        store.resolve(&source(n)).unwrap();
    }
    store.flush().unwrap();
    let touched = [0, 1].map(|node| (0..30).find(|n| cluster.has_key(node, &store, &key(*n))).unwrap());
    (3..6).for_each(|replica| cluster.nodes[replica].signal("STOP"));
    touched.iter().for_each(|n| drop(store.touch(&key(*n)).unwrap().unwrap()));
    cluster.nodes[0].kill();
    cluster.nodes[1].ask(&["CLIENT", "KILL", "TYPE", "normal"]);
    (cluster, store, touched)
}

/// Touches of one shard wait for its primary, and those of the others do not.
#[test]
fn touches_are_sent_again_though_another_shard_has_no_primary() {
    let (cluster, store, _) = two_that_are_in_trouble(Duration::from_millis(300));
    let before = calls(&cluster.nodes[1], "zadd");
    wait_for("the other one is sent again", || calls(&cluster.nodes[1], "zadd") > before);
    drop(store);
}

/// Nobody takes over many shards with touches. Closing waits for all of them together, and not for each in turn.
#[test]
fn closing_waits_once_for_all_shards_of_a_primary_that_is_gone() {
    let mut cluster = Cluster::with(3, true, &["--cluster-require-full-coverage", "no"]);
    let store = ClusterStore::open(cluster.options().shards(64).patience(Duration::from_secs(1))).unwrap();
    for n in 0..90 {
        store.resolve(&source(n)).unwrap();
    }
    store.flush().unwrap();
    let touched: Vec<_> = (0..90).map(key).filter(|key| cluster.has_key(0, &store, key)).collect();
    assert!(touched.len() > 15, "{} of 90 keys are there", touched.len());
    (3..6).for_each(|replica| cluster.nodes[replica].signal("STOP"));
    touched.iter().for_each(|key| drop(store.touch(key).unwrap().unwrap()));
    cluster.nodes[0].kill();
    // It finds that its connection broke.
    store.flush().unwrap_err();
    // Who waits for a primary asks for the map ten times a second.
    let asked = || [1, 2].map(|n| calls(&cluster.nodes[n], "cluster|nodes")).iter().sum::<u64>();
    let before = asked();
    let closed = store.close();
    assert!(matches!(closed, Err(Error::Unavailable { .. })), "{closed:?}");
    let asked = asked() - before;
    assert!(asked < 150, "it waited for {asked} tenths of a second");
}

/// A touch is to be sent again, and waits for that. Its process sets an earlier time meanwhile, which stays.
#[test]
fn a_time_that_was_set_is_not_moved_on_by_a_touch_before_it() {
    let (mut cluster, store, [_, there]) = two_that_are_in_trouble(Duration::from_secs(30));
    // Only one that does not find its primary asks for the map that often.
    let asked = || calls(&cluster.nodes[1], "cluster|nodes");
    let before = asked();
    wait_for("they are to be sent again", || asked() > before + 10);
    let mut entry = store.get(&key(there)).unwrap().unwrap();
    entry.updated_at = cloakroom::Timestamp::from_micros(1_000_000);
    drop(store.put(&entry, &cloakroom::Extras::default(), cloakroom::change::Expect::Any).unwrap());
    cluster.nodes[0].run();
    wait_for("that of the other one is sent", || calls(&cluster.nodes[0], "zadd") > 0);
    // Whatever was to be sent with it was then.
    wait_for("its replica is asked for it", || calls(&cluster.nodes[0], "wait") >= 2);
    assert_eq!(store.get(&key(there)).unwrap().unwrap().updated_at, entry.updated_at);
}

/// What it may not: a node writes, and syncs, before it answers, so it comes back with all that it has told.
#[test]
fn a_node_that_comes_back_has_what_was_not_awaited() {
    let mut cluster = Cluster::with(1, false, &[]);
    let store = ClusterStore::open(cluster.options().replicas(0)).unwrap();
    for n in 0..20 {
        drop(store.resolve(&source(n)).unwrap());
        drop(store.modify(&key(n), Touch::Yes, &mut counts_to(7)).unwrap());
    }
    let told: Vec<_> = (0..20).map(|n| store.get(&key(n)).unwrap()).collect();
    cluster.nodes[0].kill();
    cluster.nodes[0].run();
    cluster.wait_until_whole();
    for (n, told) in told.iter().enumerate() {
        assert_eq!(&store.get(&key(n)).unwrap(), told);
    }
}

#[test]
fn a_replica_that_hangs_holds_up_receipts_alone() {
    let cluster = Cluster::six();
    let store = cluster.open();
    store.resolve(&source(1)).unwrap().receipt.wait().unwrap();
    let primary = cluster.primaries().into_iter().find(|n| cluster.has_key(*n, &store, &key(1))).unwrap();
    let replica = cluster.replica_of(primary);
    cluster.nodes[replica].signal("STOP");
    let receipt = store.touch(&key(1)).unwrap().unwrap();
    let waited = receipt.wait();
    assert!(matches!(waited, Err(Error::NotReplicated { wanted: 1, got: 0, .. })), "{waited:?}");
    assert!(!receipt.is_durable().unwrap());
    // The others go on.
    store.suspend(&key(1)).unwrap().unwrap();
    assert!(store.get(&key(1)).unwrap().unwrap().suspended);
    cluster.nodes[replica].signal("CONT");
    wait_for("the receipt is kept", || receipt.wait().is_ok());
    assert!(receipt.is_durable().unwrap());
}

/// Most of the primaries hang: there are errors, and no wrong answers, until they go on.
#[test]
fn without_a_majority_there_are_errors_and_then_all_goes_on() {
    let cluster = Cluster::six();
    let options = cluster.options().patience(Duration::from_secs(1));
    let store = ClusterStore::open(options).unwrap();
    for n in 0..20 {
        store.resolve(&source(n)).unwrap();
    }
    store.flush().unwrap();
    let primaries = cluster.primaries();
    for n in &primaries[..2] {
        cluster.nodes[*n].signal("STOP");
        cluster.nodes[cluster.nodes.len() / 2 + n].signal("STOP");
    }
    let mut failed = 0;
    for n in 0..20 {
        match store.get(&key(n)) {
            Ok(found) => assert!(found.is_some(), "an entry that cannot be asked for is not missing"),
            Err(Error::Unavailable { .. }) => failed += 1,
            Err(other) => panic!("{other:?}"),
        }
        if failed > 2 {
            break;
        }
    }
    assert!(failed > 0);
    cluster.nodes.iter().for_each(|node| node.signal("CONT"));
    cluster.wait_until_whole();
    for n in 0..20 {
        wait_for("it is there again", || matches!(store.get(&key(n)), Ok(Some(_))));
    }
    assert_eq!(store.len().unwrap(), 20);
}
