//! Recoveries of turns on which something goes wrong, or somebody comes.

use std::cell::RefCell;
use std::net::{IpAddr, Ipv4Addr};
use std::thread;
use std::time::Duration;

use cloakroom::cluster::ClusterStore;
use cloakroom::turns::{OpenTurn, RecoverOptions, TurnEnd, TurnStart};
use cloakroom::{SessionKey, Sessions};

use crate::common::{key, source};
use crate::conformance::one;
use crate::nodes::{Cluster, wait_for};
use crate::retries::{Rig, rig};

/// The turns that it tells of.
fn recover(store: &ClusterStore) -> Result<Vec<SessionKey>, cloakroom::Error> {
    let told = store.recover_interrupted_turns(&RecoverOptions::new(None))?;
    assert_eq!((told.orphaned, told.suspended, told.stale), (0, 0, 0));
    Ok([told.resumable, told.already_pending].concat())
}

/// An open turn names the process that began it. One that came with a backup names nobody.
#[test]
fn an_open_turn_names_the_process_that_has_begun_it() {
    let store = one().open();
    let other = ClusterStore::open(one().options_of(&store).replicas(0)).unwrap();
    assert_ne!(store.member(), other.member());
    store.resolve(&source(1)).unwrap();
    store.begin_turn(&key(1)).unwrap().unwrap();
    let owner_of = |turn: OpenTurn| turn.owner;
    let TurnStart::Open(open) = other.try_begin_turn(&key(1)).unwrap() else { panic!("it is not open") };
    assert_eq!(open.owner.as_deref(), Some(store.member()));
    assert_eq!(other.turns().unwrap().items, std::slice::from_ref(&open));
    assert_eq!(other.turn(&key(1)).unwrap(), Some(open));
    other.begin_turn(&key(1)).unwrap().unwrap();
    assert_eq!(store.turn(&key(1)).unwrap().and_then(owner_of).as_deref(), Some(other.member()));
    let mut backup = Vec::new();
    store.backup(&mut backup, |_| {}).unwrap();
    let restored = one().options();
    ClusterStore::restore(restored.clone(), &*backup, |_| {}).unwrap();
    let turn = ClusterStore::open(restored).unwrap().turn(&key(1)).unwrap().unwrap();
    assert!(turn.interrupted && turn.owner.is_none(), "{turn:?}");
}

/// Somebody reads all turns, or all leases, and it takes long. One whom nobody had heard of when that began comes, and takes up
/// work.
#[test]
fn a_process_that_comes_while_turns_are_read_is_not_gone() {
    // Those of the first shard.
    const TURNS: &str = "HGETALL\r\n$15\r\nbehind:{3560}:t";
    const LEASES: &str = "ZRANGEBYSCORE\r\n$15\r\nbehind:{3560}:n";
    let Rig { _cluster, proxy, options } = rig();
    let options = options.member_lease(Duration::from_secs(2));
    let store = ClusterStore::open(options.clone()).unwrap();
    for n in 0..4 {
        store.resolve(&source(n)).unwrap();
    }
    let gone = ClusterStore::open(options.clone()).unwrap();
    gone.begin_turn(&key(0)).unwrap().unwrap();
    drop(gone);
    wait_for("its lease has ended", || store.turn(&key(0)).unwrap().is_some_and(|turn| turn.interrupted));
    let came = RefCell::new(Vec::new());
    let comes_while = |read: &(dyn Fn() + Sync), bytes: &str, n: usize| {
        let before = proxy.swallowed().0;
        proxy.swallow(bytes);
        thread::scope(|scope| {
            let reading = scope.spawn(read);
            wait_for("they are read", || proxy.swallowed().0 > before);
            let new = ClusterStore::open(options.clone()).unwrap();
            let token = new.begin_turn(&key(n)).unwrap().unwrap().token;
            let lease = new.hold(&key(n)).unwrap().unwrap();
            came.borrow_mut().push((new, token, lease));
            proxy.open();
            // What was swallowed is asked for again at once.
            proxy.cut(&[IpAddr::V4(Ipv4Addr::LOCALHOST)]);
            proxy.cut(&[]);
            reading.join().unwrap();
        });
    };
    comes_while(&|| assert_eq!(recover(&store).unwrap(), [key(0)]), TURNS, 1);
    comes_while(&|| assert!(store.turns().unwrap().items.iter().all(|turn| !turn.interrupted)), TURNS, 2);
    comes_while(&|| assert_eq!(store.leases().unwrap().items.len(), 3), LEASES, 3);
    for (n, (new, token, _)) in came.take().into_iter().enumerate() {
        assert!(matches!(new.end_turn(&key(n + 1), token).unwrap(), TurnEnd::Ended(_)));
    }
}

/// The calls of a recovery that fail, and those that do not, tell of each turn once together.
fn tells_of_each_once(told: Vec<Result<Vec<SessionKey>, cloakroom::Error>>, turns: usize) {
    let mut told: Vec<_> = told.into_iter().filter_map(Result::ok).flatten().collect();
    told.sort();
    let mut all: Vec<_> = (0..turns).map(key).collect();
    all.sort();
    assert_eq!(told, all);
}

/// The node is lost on the way: some turns are ended by then, of one nobody knows, and the others are as they were.
#[test]
fn a_recovery_that_is_cut_short_tells_of_what_it_has_ended() {
    const TURNS: usize = 20;
    let Rig { _cluster, proxy, options } = rig();
    let store = ClusterStore::open(options.clone().patience(Duration::from_millis(300))).unwrap();
    let gone = ClusterStore::open(options).unwrap();
    let begin = |n: usize| {
        store.resolve(&source(n)).unwrap();
        gone.begin_turn(&key(n)).unwrap().unwrap().token
    };
    // So that the node knows the scripts.
    let other = begin(TURNS);
    gone.end_turn(&key(TURNS), other).unwrap();
    let tokens: Vec<_> = (0..TURNS).map(begin).collect();
    gone.close().unwrap();
    proxy.lose_answer_to(&tokens[TURNS / 2].to_string(), true);
    let first = recover(&store);
    assert!(proxy.has_lost());
    proxy.open();
    tells_of_each_once(vec![first, recover(&store), recover(&store)], TURNS);
    assert!(store.turns().unwrap().items.is_empty());
}

/// A primary has lost its replica, as after each failover: nothing is as durable as a receipt says until there is another.
#[test]
fn a_recovery_without_replicas_tells_of_what_it_has_ended() {
    let cluster = Cluster::one();
    let gone = cluster.open();
    for n in 0..2 {
        gone.resolve(&source(n)).unwrap();
        gone.begin_turn(&key(n)).unwrap().unwrap();
    }
    gone.close().unwrap();
    let store = ClusterStore::open(cluster.options_of(&gone).replicas(1)).unwrap();
    let told: Vec<_> = (0..3).map(|_| recover(&store)).collect();
    assert!(matches!(told[0], Err(cloakroom::Error::NotReplicated { .. })), "{told:?}");
    tells_of_each_once(told, 2);
}

/// A marker whose entry is gone is told of once, and is gone then.
#[test]
fn a_marker_without_an_entry_goes() {
    let cluster = Cluster::one();
    let (store, node) = (cluster.open(), &cluster.nodes[0]);
    let gone = ClusterStore::open(cluster.options_of(&store).replicas(0)).unwrap();
    store.resolve(&source(1)).unwrap();
    gone.begin_turn(&key(1)).unwrap().unwrap();
    let names: Vec<String> = redis::from_redis_value(node.ask(&["KEYS", &format!("{}:*:t", store.name())])).unwrap();
    let aside = format!("{}:aside", names[0]);
    node.ask(&["COPY", &names[0], &aside]);
    store.remove(&key(1)).unwrap().unwrap();
    node.ask(&["RENAME", &aside, &names[0]]);
    gone.close().unwrap();
    let recover = || store.recover_interrupted_turns(&RecoverOptions::new(None)).unwrap().orphaned;
    assert_eq!((recover(), recover()), (1, 0));
    assert_eq!(store.stats().unwrap().open_turns, 0);
}
