//! What is not so is not taken to be so: lost data, other stores, nodes that say no.

use std::thread;
use std::time::{Duration, Instant};

use cloakroom::change::{Draft, Edit, Modified, Touch};
use cloakroom::cluster::{ClusterOptions, ClusterStore};
use cloakroom::query::Filter;
use cloakroom::turns::TurnEnd;
use cloakroom::{Error, PrunePolicy, SessionKey, Sessions};

use crate::common::{key, source};
use crate::conformance::one;
use crate::nodes::{Cluster, Node, wait_for};

/// A node that lost its data makes nobody start afresh.
#[test]
fn an_empty_shard_is_an_error_and_not_an_empty_store() {
    let cluster = Cluster::one();
    let store = cluster.open();
    let entry = store.resolve(&source(1)).unwrap().entry;
    store.begin_turn(&key(1)).unwrap().unwrap();
    cluster.nodes[0].ask(&["FLUSHALL"]);
    let is_lost = |result: Result<(), Error>| {
        assert!(
            matches!(&result, Err(Error::ShardLost { node, .. }) if *node == cluster.nodes[0].address()),
            "{result:?}"
        );
    };
    is_lost(store.get(&key(1)).map(drop));
    is_lost(store.contains(&key(1)).map(drop));
    is_lost(store.touch(&key(1)).map(drop));
    is_lost(store.resolve(&source(1)).map(drop));
    is_lost(store.put(&entry, &cloakroom::Extras::default(), cloakroom::change::Expect::Absent).map(drop));
    is_lost(store.remove(&key(1)).map(drop));
    is_lost(store.begin_turn(&key(1)).map(drop));
    is_lost(store.hold_until(&key(1), "job", cloakroom::Timestamp::MAX).map(drop));
    is_lost(store.turns().map(drop));
    is_lost(store.leases().map(drop));
    is_lost(store.find_by_session_id(&entry.session_id).map(drop));
    // Where nobody looks for an answer, a flush does.
    store.touch_soon(&key(1)).unwrap();
    is_lost(store.flush());
    is_lost(store.recent(10, None).map(drop));
    is_lost(store.len().map(drop));
    is_lost(store.prune(&PrunePolicy::max_age_days(1), &|_: &SessionKey| false).map(drop));
    // Nor is it made anew over what other nodes may have.
    let again = ClusterStore::open(ClusterOptions::new(store.name(), cluster.seeds()).shards(16).replicas(0));
    assert!(matches!(again, Err(Error::NotFound { .. })), "{again:?}");
}

/// A shard that loses its data while it is listed makes no list that ends early.
#[test]
fn a_list_of_a_shard_that_is_lost_meanwhile_is_an_error() {
    let cluster = Cluster::one();
    let store = cluster.open();
    for n in 0..200 {
        store.resolve(&source(n)).unwrap();
    }
    let mut listed = store.iter(Filter::default());
    listed.next().unwrap().unwrap();
    cluster.nodes[0].ask(&["FLUSHALL"]);
    let rest: Result<Vec<_>, _> = listed.collect();
    assert!(matches!(rest, Err(Error::ShardLost { .. })), "{}", rest.unwrap().len());
}

/// The node that knows of the store is the one that lost its data: the others carry marks.
#[test]
fn a_store_is_not_made_over_the_rest_of_another() {
    let cluster = Cluster::with(3, false, &[]);
    let options = cluster.options().replicas(0);
    let store = ClusterStore::open(options.clone()).unwrap();
    store.resolve(&source(1)).unwrap();
    cluster.nodes[0].ask(&["FLUSHALL"]);
    let again = ClusterStore::open(options);
    assert!(matches!(again, Err(Error::OtherStore { .. })), "{again:?}");
}

/// A primary comes back without its files, and with its slots: it says of each key that there is none.
#[test]
fn a_primary_that_lost_its_files_is_named() {
    let mut cluster = Cluster::with(3, false, &[]);
    let store = ClusterStore::open(cluster.options().replicas(0)).unwrap();
    for n in 0..30 {
        store.resolve(&source(n)).unwrap();
    }
    store.flush().unwrap();
    let lost: Vec<_> = (0..30).filter(|n| cluster.has_key(1, &store, &key(*n))).collect();
    assert!(!lost.is_empty() && lost.len() < 30);
    cluster.nodes[1].kill();
    std::fs::remove_dir_all(cluster.nodes[1].dir().join("appendonlydir")).unwrap();
    cluster.nodes[1].run();
    cluster.wait_until_whole();
    for n in 0..30 {
        match store.resolve(&source(n)) {
            Ok(found) => {
                assert!(!lost.contains(&n), "{n} was made afresh");
                assert_eq!(found.resolution, cloakroom::change::Resolution::Existing);
            }
            Err(Error::ShardLost { node, .. }) => {
                assert!(lost.contains(&n) && node == cluster.nodes[1].address());
            }
            Err(other) => panic!("{other:?}"),
        }
    }
    assert!(matches!(store.len(), Err(Error::ShardLost { .. })));
}

#[test]
fn another_store_or_a_bad_name_is_refused() {
    let store = one().open();
    let options = || ClusterOptions::new(store.name(), one().seeds()).replicas(0);
    assert!(matches!(ClusterStore::open(options().shards(32)), Err(Error::OtherStore { .. })));
    assert!(ClusterStore::open(options()).is_ok(), "it knows its number of shards");
    let missing = ClusterStore::open(ClusterOptions::new("nothing", one().seeds()).replicas(0));
    assert!(matches!(missing, Err(Error::NotFound { .. })));
    let newer = one().open();
    one().nodes[0].ask(&["EVAL", "redis.call('HSET', KEYS[1], 'format', '99')", "1", &meta_of(&newer)]);
    let refused = ClusterStore::open(ClusterOptions::new(newer.name(), one().seeds()).replicas(0));
    assert!(matches!(&refused, Err(Error::OtherStore { reason, .. }) if reason.contains("99")), "{refused:?}");
    for name in ["", "a{b}", "a b"] {
        let bad = ClusterStore::open(ClusterOptions::new(name, one().seeds()).create(true));
        assert!(matches!(bad, Err(Error::Setting { .. })));
    }
    let bad = ClusterStore::open(ClusterOptions::new("x", ["nowhere"]));
    assert!(matches!(bad, Err(Error::Setting { .. })));
    let nobody = ClusterOptions::new("x", ["127.0.0.1:1"]).patience(Duration::from_millis(50));
    let unavailable = ClusterStore::open(nobody);
    assert!(matches!(&unavailable, Err(Error::Unavailable { node, .. }) if node == "127.0.0.1:1"), "{unavailable:?}");
}

/// Each has limits within which all works, and the error names it before any node is asked.
#[test]
fn times_with_which_nothing_works_are_refused() {
    let options = || ClusterOptions::new("x", ["127.0.0.1:1"]).patience(Duration::ZERO);
    let url = |seconds: &str| ClusterOptions::from_url(&format!("valkey://127.0.0.1:1/x?patience={seconds}")).unwrap();
    let day = Duration::from_secs(86_400);
    let (zero, tiny) = (Duration::ZERO, Duration::from_millis(1));
    for (options, named) in [
        (options().member_lease(zero), "member_lease is 0ns: "),
        (options().member_lease(tiny), "member_lease is 1ms: "),
        (options().member_lease(day * 2), "member_lease is 172800s: "),
        (options().review_interval(zero), "review_interval is 0ns: "),
        (options().review_interval(Duration::MAX), "review_interval is 18446744073709551615.999999999s: "),
        (options().patience(Duration::from_secs(301)), "patience is 301s: "),
        (options().patience(Duration::MAX), "patience is 18446744073709551615.999999999s: "),
        (url("301"), "patience is 301s: "),
        (url("18446744073709551615"), "patience is 18446744073709551615s: "),
    ] {
        let error = ClusterStore::open(options).unwrap_err();
        assert!(matches!(error, Error::Setting { .. }) && error.to_string().starts_with(named), "{named}{error:?}");
    }
    let longest = options().member_lease(day).review_interval(day);
    let shortest = options().member_lease(Duration::from_millis(100)).review_interval(Duration::from_millis(10));
    for allowed in [longest, shortest] {
        let error = ClusterStore::open(allowed).unwrap_err();
        assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");
    }
}

fn meta_of(store: &ClusterStore) -> String {
    let found = one().nodes[0].ask(&["KEYS", &format!("{}:*:meta", store.name())]);
    let found: Vec<String> = redis::from_redis_value(found).unwrap();
    found[0].clone()
}

#[test]
fn a_node_without_memory_says_no_to_writes_alone() {
    let cluster = Cluster::one();
    let store = cluster.open();
    let entry = store.resolve(&source(1)).unwrap().entry;
    store.resolve(&source(3)).unwrap();
    let token = store.begin_turn(&key(3)).unwrap().unwrap().token;
    store.hold_until(&key(3), "job", cloakroom::Timestamp::MAX).unwrap().unwrap();
    cluster.nodes[0].ask(&["CONFIG", "SET", "maxmemory", "1"]);
    let refused = store.resolve(&source(2));
    assert!(matches!(refused, Err(Error::Refused { .. })), "{refused:?}");
    assert_eq!(store.get(&key(1)).unwrap().map(|found| found.session_id), Some(entry.session_id));
    // What makes room goes on.
    assert!(matches!(store.end_turn(&key(3), token).unwrap(), TurnEnd::Ended(_)));
    assert!(store.release(&key(3), "job").unwrap().is_some() && store.release(&key(3), "job").unwrap().is_none());
    store.remove(&key(3)).unwrap().unwrap();
    cluster.nodes[0].ask(&["CONFIG", "SET", "maxmemory", "0"]);
    store.resolve(&source(2)).unwrap();
}

/// The hint of a session goes to another node than the session, and before it.
#[test]
fn a_session_that_a_node_refuses_leaves_no_hint_on_another() {
    let cluster = Cluster::with(3, false, &[]);
    let store = ClusterStore::open(cluster.options().replicas(0)).unwrap();
    (0..40).for_each(|n| drop(store.resolve(&source(n)).unwrap()));
    let at_first: Vec<_> = (0..40).filter(|n| cluster.has_key(0, &store, &key(*n))).collect();
    assert!(at_first.len() > 5);
    let (stays, goes) = at_first.split_at(at_first.len() / 2);
    goes.iter().for_each(|n| drop(store.remove(&key(*n)).unwrap().unwrap()));
    wait_for("their hints have gone", || store.verify().unwrap().stale_hints == 0);
    cluster.nodes[0].ask(&["CONFIG", "SET", "maxmemory", "1"]);
    // Two thirds of the hints have a place.
    for n in goes.iter().cycle().take(40) {
        let refused = store.resolve(&source(*n));
        assert!(matches!(refused, Err(Error::Refused { .. })), "{refused:?}");
    }
    for n in stays {
        let refused = store.reset(&key(*n));
        assert!(matches!(refused, Err(Error::Refused { .. })), "{refused:?}");
    }
    assert_eq!(store.verify().unwrap().stale_hints, 0);
    cluster.nodes[0].ask(&["CONFIG", "SET", "maxmemory", "0"]);
    for n in &at_first {
        let entry = store.resolve(&source(*n)).unwrap().entry;
        assert_eq!(store.find_by_session_id(&entry.session_id).unwrap().items, [entry]);
    }
}

/// A node that is full refuses the write before a proof too, unless it is told that this one may be done.
#[test]
fn what_makes_room_at_a_full_node_can_be_awaited() {
    let cluster = Cluster::with(1, true, &[]);
    let store = cluster.open();
    store.resolve(&source(1)).unwrap();
    let token = store.begin_turn(&key(1)).unwrap().unwrap().token;
    store.hold_until(&key(1), "job", cloakroom::Timestamp::MAX).unwrap().unwrap();
    cluster.nodes[0].ask(&["CONFIG", "SET", "maxmemory", "1"]);
    let ended = store.end_turn(&key(1), token).unwrap();
    let TurnEnd::Ended(receipt) = ended else { panic!("{ended:?}") };
    receipt.wait().unwrap();
    store.release(&key(1), "job").unwrap().unwrap().wait().unwrap();
    store.flush().unwrap();
    store.remove(&key(1)).unwrap().unwrap().wait().unwrap();
    // It is a member still, and leaves.
    store.close().unwrap();
}

/// Who may not do what a proof needs is told so by its receipts, in the words of the node.
#[test]
fn a_node_that_refuses_a_proof_is_named_with_its_words() {
    let cluster = Cluster::with(1, true, &[]);
    let user = ["ACL", "SETUSER", "gateway", "on", ">password", "~*", "&*", "+@all"];
    cluster.nodes.iter().for_each(|node| drop(node.ask(&user)));
    let store = ClusterStore::open(cluster.options().login("gateway", "password")).unwrap();
    store.resolve(&source(1)).unwrap();
    let primary = &cluster.nodes[0];
    let is_named = |outcome: Result<(), Error>, command: &str| {
        let is_so = matches!(&outcome, Err(Error::Refused { node, source })
            if *node == primary.address() && source.to_string().contains(command));
        assert!(is_so, "{outcome:?}");
    };
    primary.ask(&["ACL", "SETUSER", "gateway", "-hincrby"]);
    is_named(store.flush(), "the 'hincrby' command");
    primary.ask(&["ACL", "SETUSER", "gateway", "+hincrby", "-wait"]);
    let receipt = store.suspend(&key(1)).unwrap().unwrap();
    is_named(receipt.wait(), "the 'wait' command");
    is_named(pollster::block_on(receipt.clone()), "the 'wait' command");
    // It may be waited for again.
    primary.ask(&["ACL", "SETUSER", "gateway", "+wait"]);
    receipt.wait().unwrap();
    store.flush().unwrap();
}

/// The first of three nodes refuses to remove what led to sessions that were replaced, here 30 on all of them.
fn one_that_keeps_hints() -> (Cluster, ClusterStore, Vec<String>) {
    let cluster = Cluster::with(3, false, &[]);
    let user = ["ACL", "SETUSER", "gateway", "on", ">password", "~*", "&*", "+@all"];
    cluster.nodes.iter().for_each(|node| drop(node.ask(&user)));
    let options = cluster.options().replicas(0).login("gateway", "password").member_lease(Duration::from_secs(3600));
    let store = ClusterStore::open(options).unwrap();
    cluster.nodes[0].ask(&["ACL", "SETUSER", "gateway", "-srem"]);
    let replaced = (0..30).map(|n| {
        let replaced = store.resolve(&source(n)).unwrap().entry.session_id;
        drop(store.reset(&key(n)).unwrap().unwrap());
        replaced.as_str().to_owned()
    });
    let replaced = replaced.collect();
    (cluster, store, replaced)
}

#[test]
fn hints_that_one_node_keeps_hold_up_no_others() {
    let (cluster, store, replaced) = one_that_keeps_hints();
    let are_there = |node: &Node| {
        let names: Vec<String> =
            redis::from_redis_value(node.ask(&["KEYS", &format!("{}:*:i:*", store.name())])).unwrap();
        replaced.iter().any(|id| names.iter().any(|name| name.ends_with(id.as_str())))
    };
    wait_for("those of the other nodes go", || !are_there(&cluster.nodes[1]) && !are_there(&cluster.nodes[2]));
    assert!(are_there(&cluster.nodes[0]));
    cluster.nodes[0].ask(&["ACL", "SETUSER", "gateway", "+srem"]);
    wait_for("the rest goes", || store.verify().unwrap().stale_hints == 0);
}

/// A flush that cannot remove hints tells of what may be lost all the same.
#[test]
fn hints_that_stay_keep_no_loss_from_a_flush() {
    let (cluster, store, _) = one_that_keeps_hints();
    let changed = (0..30).map(key).find(|key| cluster.has_key(1, &store, key)).unwrap();
    drop(store.suspend(&changed).unwrap().unwrap());
    cluster.nodes[1].ask(&["CLIENT", "KILL", "USER", "gateway"]);
    let flushed = store.flush();
    assert!(matches!(flushed, Err(Error::Uncertain { .. })), "{flushed:?}");
    let flushed = store.flush();
    assert!(matches!(flushed, Err(Error::Refused { .. })), "{flushed:?}");
    cluster.nodes[0].ask(&["ACL", "SETUSER", "gateway", "+srem"]);
    store.flush().unwrap();
}

/// Until somebody ends that script, or it ends.
#[test]
fn a_node_that_is_busy_with_a_script_is_waited_for() {
    let cluster = Cluster::with(1, false, &["--busy-reply-threshold", "50"]);
    let store = cluster.open();
    let hasty = cluster.options_of(&store).replicas(0).patience(Duration::from_millis(200));
    let hasty = ClusterStore::open(hasty).unwrap();
    store.resolve(&source(1)).unwrap();
    let node = &cluster.nodes[0];
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut connection =
                redis::Client::open(format!("redis://{}", node.address())).unwrap().get_connection().unwrap();
            // If nobody ends it, it ends by itself.
            let script = "local began = redis.call('TIME')[1]; while redis.call('TIME')[1] - began < 30 do end";
            assert!(redis::cmd("EVAL").arg(script).arg(0).exec(&mut connection).is_err(), "it is ended");
        });
        let is_busy = |source: &dyn std::error::Error| source.to_string().to_lowercase().contains("busy");
        wait_for("the node says that it is busy", || match hasty.get(&key(1)) {
            Err(Error::Unavailable { source, .. }) => is_busy(&*source),
            Ok(_) => false,
            other => panic!("{other:?}"),
        });
        let waiting = scope.spawn(|| store.suspend(&key(1)).unwrap().is_some());
        node.ask(&["SCRIPT", "KILL"]);
        assert!(waiting.join().unwrap());
    });
    assert!(store.get(&key(1)).unwrap().unwrap().suspended);
}

/// A node that has come back and still loads its files says so. It is waited for within the patience, and until then nobody
/// is told that there is nothing.
#[test]
fn a_node_that_loads_its_files_is_waited_for() {
    // It would say first that the cluster is down.
    let mut cluster = Cluster::with(1, false, &["--cluster-allow-reads-when-down", "yes"]);
    let patient = cluster.open();
    let hasty =
        ClusterStore::open(cluster.options_of(&patient).replicas(0).patience(Duration::from_millis(200))).unwrap();
    let entry = patient.resolve(&source(1)).unwrap().entry;
    patient.flush().unwrap();
    let node = &mut cluster.nodes[0];
    let filler = "for n = 1, 1500 do redis.call('SET', KEYS[1] .. n, string.rep('f', 1000)) end";
    node.ask(&["EVAL", filler, "1", "{filler}"]);
    node.ask(&["BGREWRITEAOF"]);
    wait_for("its files are rewritten", || {
        let info = node.ask_text(&["INFO", "persistence"]);
        info.contains("aof_rewrite_in_progress:0") && info.contains("aof_rewrite_scheduled:0")
    });
    node.kill();
    node.run_loading();
    let loads = |result: Result<(), Error>| match result {
        Err(Error::Unavailable { source, node, .. }) => (source.to_string(), node),
        other => panic!("{other:?}"),
    };
    let says_so = || {
        let (why, named) = loads(hasty.get(&key(1)).map(drop));
        assert_eq!(named, cluster.nodes[0].address());
        why.contains("loading the dataset")
    };
    // Now and then it does not answer in time at all.
    wait_for("it says that it loads", says_so);
    // The first one goes over the connection that broke with the node: nobody knows whether it came through.
    let first = hasty.resolve(&source(1));
    assert!(matches!(first, Err(Error::Uncertain { .. } | Error::Unavailable { .. })), "{first:?}");
    // What is sent to be written, and what would begin anew, waits too.
    loads(hasty.resolve(&source(1)).map(drop));
    loads(hasty.suspend(&key(1)).map(drop));
    loads(hasty.touch(&key(1)).map(drop));
    let opened = ClusterStore::open(cluster.options_of(&patient).replicas(0).patience(Duration::from_millis(200)));
    let (why, _) = loads(opened.map(drop));
    assert!(!why.is_empty());
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| patient.modify(&key(1), Touch::Yes, &mut count));
        wait_for("it loads still", says_so);
        assert!(!waiting.is_finished());
        cluster.nodes[0].end_loading();
        assert!(matches!(waiting.join().unwrap().unwrap(), Modified::Changed(_)));
    });
    let found = patient.get(&key(1)).unwrap().unwrap();
    assert_eq!((found.session_id, found.usage.input_tokens, found.suspended), (entry.session_id, 1, false));
    assert_eq!(patient.len().unwrap(), 1);
}

fn count(draft: &mut Draft<'_>) -> Edit {
    draft.entry.usage.input_tokens += 1;
    Edit::Write
}

#[test]
fn scripts_that_a_node_forgot_go_as_text() {
    let cluster = Cluster::one();
    let store = cluster.open();
    for n in 0..5 {
        cluster.nodes[0].ask(&["SCRIPT", "FLUSH"]);
        store.resolve(&source(n)).unwrap();
        cluster.nodes[0].ask(&["SCRIPT", "FLUSH"]);
        store.begin_turn(&key(n)).unwrap().unwrap();
        store.remove(&key(n)).unwrap().unwrap();
    }
}

/// Nodes that do not let the user in say so at once, and do not count as gone.
#[test]
fn who_is_not_let_in_is_told_so() {
    let cluster = Cluster::one();
    let options = || cluster.options();
    let refuses = |options: ClusterOptions| {
        let refused = ClusterStore::open(options);
        assert!(
            matches!(&refused, Err(Error::Refused { node, .. }) if *node == cluster.nodes[0].address()),
            "{refused:?}"
        );
    };
    cluster.nodes[0].ask(&["ACL", "SETUSER", "blind", "on", ">password", "~*", "+@all", "-cluster"]);
    refuses(options().login("blind", "password"));
    refuses(options().login("blind", "wrong"));
    refuses(options().login("nobody", "password"));
    cluster.nodes[0].ask(&["CONFIG", "SET", "requirepass", "secret"]);
    refuses(options());
    ClusterStore::open(options().login("default", "secret")).unwrap();
}

/// One node among others may not know the user, or not any more.
#[test]
fn one_node_of_several_that_does_not_let_the_user_in_is_named() {
    let cluster = Cluster::with(1, true, &[]);
    let [primary, replica] = &cluster.nodes[..] else { panic!("two nodes") };
    let all = ["ACL", "SETUSER", "gateway", "on", ">password", "~*", "&*", "+@all"];
    primary.ask(&all);
    let patience = Duration::from_secs(60);
    let options = cluster.options().login("gateway", "password").patience(patience);
    let is_named = |node: &Node, error: &Error| match error {
        Error::Refused { node: named, source } => *named == node.address() && source.to_string().contains("WRONGPASS"),
        _ => false,
    };
    let refused = ClusterStore::open(options.clone()).unwrap_err();
    assert!(is_named(replica, &refused), "{refused:?}");
    replica.ask(&all);
    let store = ClusterStore::open(options).unwrap();
    store.resolve(&source(1)).unwrap();
    // Who is in stays in until the connection breaks.
    primary.ask(&["ACL", "SETUSER", "gateway", "resetpass", ">other"]);
    store.touch(&key(1)).unwrap().unwrap().wait().unwrap();
    let began = Instant::now();
    primary.ask(&["CLIENT", "KILL", "USER", "gateway"]);
    let read = store.get(&key(1)).unwrap_err();
    assert!(is_named(primary, &read), "{read:?}");
    // The first one may have gone over the connection that broke.
    let first = store.suspend(&key(1)).unwrap_err();
    assert!(matches!(first, Error::Refused { .. } | Error::Uncertain { .. }), "{first:?}");
    let second = store.suspend(&key(1)).unwrap_err();
    assert!(is_named(primary, &second), "{second:?}");
    assert!(began.elapsed() < patience / 2, "it was waited for");
    primary.ask(&["ACL", "SETUSER", "gateway", "resetpass", ">password"]);
    store.suspend(&key(1)).unwrap().unwrap().wait().unwrap();
}

/// A node that has no room for a connection says so where it was to be told the password. It has room again in a moment.
#[test]
fn a_node_without_room_for_a_connection_is_waited_for() {
    let cluster = Cluster::one();
    let node = &cluster.nodes[0];
    node.ask(&["ACL", "SETUSER", "gateway", "on", ">password", "~*", "&*", "+@all"]);
    let store = ClusterStore::open(cluster.options().login("gateway", "password")).unwrap();
    store.resolve(&source(1)).unwrap();
    let client = redis::Client::open(format!("redis://{}", node.address())).unwrap();
    let mut operator = client.get_connection().unwrap();
    let mut ask =
        |words: &[&str]| -> redis::Value { redis::cmd(words[0]).arg(&words[1..]).query(&mut operator).unwrap() };
    ask(&["CONFIG", "SET", "maxclients", "1"]);
    ask(&["CLIENT", "KILL", "USER", "gateway"]);
    thread::scope(|scope| {
        let reading = scope.spawn(|| store.get(&key(1)));
        wait_for("it is turned away", || {
            let told: String = redis::from_redis_value(ask(&["INFO", "stats"])).unwrap();
            let count = told.lines().find_map(|line| line.strip_prefix("rejected_connections:")).unwrap();
            reading.is_finished() || count.parse::<u64>().unwrap() >= 10
        });
        assert!(!reading.is_finished(), "{:?}", reading.join());
        ask(&["CONFIG", "SET", "maxclients", "1000"]);
        assert!(reading.join().unwrap().unwrap().is_some());
    });
}

/// The user that the guide shows may do all that the store does, and nothing to other names.
#[test]
fn a_user_with_few_rights_is_enough() {
    let cluster = Cluster::one();
    let guide = include_str!("../../docs/cluster.md");
    let line = guide.lines().find(|line| line.starts_with("ACL SETUSER")).unwrap();
    let words: Vec<_> = line.split(' ').collect();
    cluster.nodes[0].ask(&words);
    let options = || ClusterOptions::new("gateway", cluster.seeds()).create(true).shards(16).replicas(0);
    let store = ClusterStore::open(options().login("gateway", "password")).unwrap();
    store.resolve(&source(1)).unwrap().receipt.wait().unwrap();
    store.set_extra(&key(1), "a", &1.into()).unwrap().unwrap();
    let token = store.begin_turn(&key(1)).unwrap().unwrap().token;
    store.end_turn(&key(1), token).unwrap();
    store.hold_until(&key(1), "job", cloakroom::Timestamp::MAX).unwrap().unwrap();
    assert_eq!((store.recent(9, None).unwrap().entries.len(), store.leases().unwrap().items.len()), (1, 1));
    store.prune(&PrunePolicy::max_age_days(1), &|_: &SessionKey| false).unwrap();
    store.remove(&key(1)).unwrap().unwrap();
    // The removal leaves a hint for some time.
    store.repair().unwrap();
    assert!(store.stats().unwrap().used_memory.is_some());
    let other = ClusterOptions::new("other", cluster.seeds()).create(true).shards(16).replicas(0);
    let refused = ClusterStore::open(other.login("gateway", "password"));
    assert!(matches!(refused, Err(Error::Refused { .. })), "{refused:?}");
    // Who may not ask for settings has to state them.
    cluster.nodes[0].ask(&["ACL", "SETUSER", "gateway", "-config|get"]);
    let blind = ClusterStore::open(options().login("gateway", "password"));
    let Err(blind @ Error::NodeSetting { setting: "appendfsync", .. }) = blind else { panic!("{blind:?}") };
    let said = blind.to_string();
    assert!(
        said.contains("call `CONFIG GET`, or state the settings") && !said.contains("into its configuration"),
        "{said}"
    );
    ClusterStore::open(options().login("gateway", "password").settings_are_stated()).unwrap();
}
