//! What a verb costs, by what the nodes count, and what may be under way.

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use cloakroom::cluster::{ClusterOptions, ClusterStore};
use cloakroom::{Error, Sessions};

use crate::common::{key, source};
use crate::nodes::{Cluster, Node, free_port, wait_for};
use crate::proxy::Proxy;

/// What a node counts.
struct Counted {
    /// Calls of each command.
    calls: BTreeMap<String, u64>,
    received: u64,
    sent: u64,
    replicated: u64,
}

fn counted(node: &Node) -> Counted {
    let number = |section: &str, name: &str| -> u64 {
        let info = node.ask_text(&["INFO", section]);
        info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')?.trim().parse().ok()).unwrap()
    };
    let commands = node.ask_text(&["INFO", "commandstats"]);
    let calls = commands.lines().filter_map(|line| {
        let (name, rest) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
        Some((name.to_owned(), rest.split(',').next()?.parse().ok()?))
    });
    Counted {
        calls: calls.collect(),
        received: number("stats", "total_net_input_bytes"),
        sent: number("stats", "total_net_output_bytes"),
        replicated: number("replication", "master_repl_offset"),
    }
}

/// A touch is one command, and moves as few bytes for a large entry as for a small one.
#[test]
fn a_touch_costs_the_same_whatever_the_size_of_the_entry() {
    const TOUCHES: u64 = 100;
    // What the node and the store say to each other meanwhile: a replica's acknowledgement, the time, what is counted here.
    const BESIDES: u64 = 12_000;
    let cluster = Cluster::with(1, true, &[]);
    let node = &cluster.nodes[0];
    let store = ClusterStore::open(cluster.options().member_lease(Duration::from_secs(3600))).unwrap();
    let large = "x".repeat(1_000_000);
    for n in [1, 2] {
        store.resolve(&source(n)).unwrap().receipt.wait().unwrap();
    }
    store.set_extra(&key(2), "history", &large.as_str().into()).unwrap().unwrap().wait().unwrap();
    for n in [1, 2] {
        let before = counted(node);
        for _ in 0..TOUCHES {
            store.touch(&key(n)).unwrap().unwrap();
        }
        let after = counted(node);
        // Now and then it is asked whether the replicas have what nobody awaits.
        let about = ["client|setinfo", "config|get", "hincrby", "info", "ping", "replconf", "time", "wait"];
        let calls: BTreeMap<_, _> = after
            .calls
            .iter()
            .filter(|(name, _)| !about.contains(&name.as_str()) && !name.starts_with("cluster|"))
            .map(|(name, calls)| (name.as_str(), calls - before.calls.get(name).unwrap_or(&0)))
            .filter(|(_, calls)| *calls > 0)
            .collect();
        assert_eq!(calls, BTreeMap::from([("zadd", TOUCHES)]));
        for (what, bytes, of_each) in [
            ("received", after.received - before.received, 150),
            ("sent", after.sent - before.sent, 150 + 10),
            ("to the replica", after.replicated - before.replicated, 150),
        ] {
            assert!(bytes <= TOUCHES * of_each + BESIDES, "{what}: {bytes} bytes for {TOUCHES} touches");
        }
    }
}

/// Each caller waits for its answer. So while a node is silent no more is on its way to it than there are callers, however
/// much they have to do. They all have their errors once it has been silent for some time, and not each at the end of another
/// such time.
#[test]
fn no_more_is_under_way_than_there_are_callers() {
    const CALLERS: usize = 32;
    let port = free_port();
    let proxy = Proxy::new(port);
    let announced = proxy.port.to_string();
    let settings = ["--cluster-announce-ip", "127.0.0.1", "--cluster-announce-port", &announced];
    let _cluster = Cluster::of(vec![Node::start_at(port, &settings)], 1);
    let options = ClusterOptions::new("stalled", [proxy.address()]).create(true).shards(16).replicas(0);
    let store = ClusterStore::open(options.patience(Duration::from_millis(100))).unwrap();
    for n in 0..CALLERS {
        store.resolve(&source(n)).unwrap();
    }
    proxy.swallow("ZADD");
    let callers: Vec<_> = (0..CALLERS)
        .map(|n| {
            let store = store.clone();
            thread::spawn(move || (0..100_000).find_map(|_| store.touch(&key(n)).err()))
        })
        .collect();
    wait_for("all callers have their errors", || callers.iter().all(thread::JoinHandle::is_finished));
    for caller in callers {
        let said = caller.join().unwrap();
        assert!(matches!(said, Some(Error::Uncertain { .. })), "{said:?}");
    }
    let (came, connected) = proxy.swallowed();
    assert!(came >= CALLERS, "all of them asked");
    assert!(came <= CALLERS * connected, "{came} requests of {CALLERS} callers over {connected} connections");
}
