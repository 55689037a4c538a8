//! Receipts of what another connection wrote: a request that found nothing to change relies on it, and `WAIT` proves only what
//! its own connection wrote. While the replica is stopped none of them may say that anything is kept.

use std::time::Duration;

use cloakroom::change::{Draft, Edit, Modified, Resolution, Resolve, Touch};
use cloakroom::cluster::{ClusterOptions, ClusterStore};
use cloakroom::time::{Clock as _, ManualClock, SystemClock};
use cloakroom::turns::TurnEnd;
use cloakroom::{Error, Receipt, Sessions as _, Timestamp, Usage};

use crate::common::{key, source};
use crate::failover::calls;
use crate::metrics::figure;
use crate::nodes::{Cluster, Node, free_port, wait_for};
use crate::proxy::Proxy;

const LONG: Duration = Duration::from_secs(3600);

struct Rig {
    cluster: Cluster,
    proxy: Proxy,
    options: ClusterOptions,
}

/// A primary that says of itself that it is behind a proxy, and its replica.
fn rig() -> Rig {
    let own = (free_port(), free_port());
    let proxy = Proxy::new(own.0);
    let announced = proxy.port.to_string();
    let settings = ["--cluster-announce-ip", "127.0.0.1", "--cluster-announce-port", &announced];
    let primary = Node::start_with(own, (proxy.port, own.1), &settings);
    let cluster = Cluster::of(vec![primary, Node::start(&[])], 1);
    let options = ClusterOptions::new("relied", [proxy.address()]).create(true).shards(16).replicas(1);
    Rig { cluster, proxy, options: options.member_lease(LONG) }
}

#[track_caller]
fn assert_unproven(what: &str, receipt: &Receipt) {
    let waited = receipt.wait();
    assert!(matches!(waited, Err(Error::NotReplicated { wanted: 1, got: 0, .. })), "{what}: {waited:?}");
    assert!(!receipt.is_durable().unwrap(), "{what}");
}

fn count(draft: &mut Draft<'_>) -> Edit {
    draft.entry.usage.input_tokens += 1;
    Edit::Write
}

/// A change whose answer is lost is found done over the next connection, which has written nothing.
#[test]
fn a_change_that_is_found_done_is_not_proven_by_that() {
    let Rig { cluster, proxy, options } = rig();
    let store = ClusterStore::open(options).unwrap();
    for n in 0..6 {
        store.resolve(&source(n)).unwrap().receipt.wait().unwrap();
    }
    let begun = store.begin_turn(&key(3)).unwrap().unwrap();
    store.hold_until(&key(4), "job", Timestamp::MAX).unwrap().unwrap();
    store.flush().unwrap();
    cluster.nodes[1].signal("STOP");
    let mut receipts = Vec::new();
    let mut lose = |what: &'static str, verb: &dyn Fn() -> Receipt| {
        proxy.lose_answer_to("EVALSHA", false);
        let receipt = verb();
        assert!(proxy.has_lost(), "{what}");
        assert_unproven(what, &receipt);
        receipts.push(receipt);
    };
    lose("modify", &|| match store.modify(&key(0), Touch::Yes, &mut count).unwrap() {
        Modified::Changed(written) => written.receipt,
        other => panic!("{other:?}"),
    });
    lose("begin_turn", &|| store.begin_turn(&key(1)).unwrap().unwrap().receipt);
    lose("hold_until", &|| store.hold_until(&key(2), "job", Timestamp::MAX).unwrap().unwrap());
    lose("end_turn", &|| match store.end_turn(&key(3), begun.token).unwrap() {
        TurnEnd::Ended(receipt) => receipt,
        other => panic!("{other:?}"),
    });
    lose("release", &|| store.release(&key(4), "job").unwrap().unwrap());
    lose("remove", &|| store.remove(&key(5)).unwrap().unwrap());
    cluster.nodes[1].signal("CONT");
    // Only the last connection is there to prove anything, and proves it now.
    wait_for("the receipt is kept", || receipts.last().unwrap().wait().is_ok());
}

/// What one process wrote and nobody awaits, another finds as it wants it.
#[test]
fn what_another_process_wrote_is_not_proven_by_finding_it() {
    let cluster = Cluster::with(1, true, &[]);
    let clock = ManualClock::new(SystemClock::new().now());
    let options = cluster.options().member_lease(LONG).clock(clock.clone());
    let writer = ClusterStore::open(options).unwrap();
    let finder = ClusterStore::open(cluster.options_of(&writer).member_lease(LONG).clock(clock.clone())).unwrap();
    for n in 0..2 {
        writer.resolve(&source(n)).unwrap().receipt.wait().unwrap();
    }
    finder.flush().unwrap();
    cluster.nodes[1].signal("STOP");
    clock.advance(Duration::from_secs(1));
    drop(writer.suspend(&key(0)).unwrap().unwrap());
    drop(writer.touch(&key(1)).unwrap().unwrap());
    let untouched = Resolve::new().touch(Touch::No);
    let found = finder.resolve_as(&key(1), &untouched).unwrap();
    assert_eq!((found.resolution, found.entry.updated_at), (Resolution::Existing, clock.now()));
    let receipts = [
        ("suspend", finder.suspend(&key(0)).unwrap().unwrap()),
        ("touch", finder.touch(&key(1)).unwrap().unwrap()),
        ("resolve", finder.resolve(&source(1)).unwrap().receipt),
        ("resolve that touches nothing", found.receipt),
    ];
    for (what, receipt) in &receipts {
        assert_unproven(what, receipt);
    }
    let flushed = finder.flush();
    assert!(matches!(flushed, Err(Error::NotReplicated { .. })), "{flushed:?}");
    cluster.nodes[1].signal("CONT");
    for (what, receipt) in &receipts {
        wait_for(what, || receipt.wait().is_ok());
    }
    finder.flush().unwrap();
}

/// While no replica answers each change of an entry writes its hint again, and no other one beside it.
#[test]
fn a_hint_that_no_replica_has_is_written_again() {
    let cluster = Cluster::with(1, true, &[]);
    let store = ClusterStore::open(cluster.options().member_lease(LONG)).unwrap();
    cluster.nodes[1].signal("STOP");
    let id = store.resolve(&source(0)).unwrap().entry.session_id;
    for _ in 0..10 {
        store.record_usage(&key(0), &Usage { input_tokens: 1, ..Usage::default() }).unwrap().unwrap();
    }
    let hints = || -> Vec<String> {
        let node = &cluster.nodes[0];
        let names = node.ask(&["KEYS", &format!("{}:*:i:{}", store.name(), id.as_str())]);
        let [name] = &redis::from_redis_value::<Vec<String>>(names).unwrap()[..] else { panic!("one set of hints") };
        redis::from_redis_value(node.ask(&["SMEMBERS", name])).unwrap()
    };
    let written = hints();
    assert_eq!(written.len(), 1, "{written:?}");
    let found = || store.find_by_session_id(&id).unwrap().items.len();
    assert_eq!(found(), 1);
    cluster.nodes[1].signal("CONT");
    wait_for("its replica answers", || store.suspend(&key(0)).unwrap().unwrap().wait().is_ok());
    store.pin(&key(0)).unwrap().unwrap().wait().unwrap();
    assert_eq!((hints(), found()), (written, 1));
    // It is known to be kept, and goes with the entry.
    store.remove(&key(0)).unwrap().unwrap().wait().unwrap();
    assert_eq!(store.verify().unwrap().violations, []);
}

/// A touch is sent again after its connection broke, and moves nothing: it was there. Its process remembers it until a replica
/// has it.
#[test]
fn a_touch_that_is_found_made_is_remembered() {
    let Rig { cluster, proxy, options } = rig();
    let store = ClusterStore::open(options).unwrap();
    for n in 0..2 {
        store.resolve(&source(n)).unwrap().receipt.wait().unwrap();
    }
    store.flush().unwrap();
    wait_for("all is kept", || figure(&store, "touches_remembered") == 0);
    cluster.nodes[1].signal("STOP");
    drop(store.touch(&key(0)).unwrap().unwrap());
    proxy.lose_answer_to("ZADD", false);
    drop(store.touch(&key(1)).unwrap().unwrap());
    assert!(proxy.has_lost());
    wait_for("it is sent again", || figure(&store, "touches_resent_total") >= 1);
    let asked = || calls(&cluster.nodes[0], "wait");
    let before = asked();
    wait_for("its replica is asked for it", || asked() >= before + 2);
    assert_eq!(figure(&store, "touches_remembered"), 2);
    cluster.nodes[1].signal("CONT");
    wait_for("its replica has it", || figure(&store, "touches_remembered") == 0);
}
