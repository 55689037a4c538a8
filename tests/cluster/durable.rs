//! Receipts are as good as the disk: by the calls that a server makes, and by what it is set to.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

use cloakroom::cluster::ClusterStore;
use cloakroom::{Error, Sessions};

use crate::common::{key, source};
use crate::conformance::{one, six};
use crate::failover::under_load;
use crate::nodes::{Cluster, Node, wait_for};

/// A receipt comes after the sync of what was written.
#[test]
fn a_sync_lies_between_a_write_and_its_receipt() {
    let cluster = Cluster::one();
    let store = cluster.open();
    let node = &cluster.nodes[0];
    store.resolve(&source(1)).unwrap().receipt.wait().unwrap();
    let log = node.dir().join("calls");
    let mut strace = Command::new("strace")
        .args(["-f", "-y", "-s", "300", "-e", "trace=write,writev,sendto,fdatasync", "-o"])
        .arg(&log)
        .args(["-p", &node.pid().to_string()])
        .stderr(Stdio::null())
        .spawn()
        .expect("strace is needed");
    wait_for("strace is attached", || {
        node.ask(&["PING"]);
        fs::read_to_string(&log).is_ok_and(|log| log.contains("PONG"))
    });
    for n in 2..8 {
        store.resolve(&source(n)).unwrap().receipt.wait().unwrap();
    }
    let text = || fs::read_to_string(&log).unwrap_or_default();
    wait_for("all is in the log", || text().contains(&format!(":e:{}", key(7).as_str())));
    let _ = Command::new("kill").args(["-INT", &strace.id().to_string()]).status();
    strace.wait().unwrap();
    let text = text();
    let lines: Vec<_> = text.lines().collect();
    let is_log = |line: &str| line.contains("appendonly");
    for n in 2..8 {
        let entry = format!(":e:{}", key(n).as_str());
        let written = lines.iter().position(|line| is_log(line) && line.contains("write") && line.contains(&entry));
        let written = written.unwrap_or_else(|| panic!("{entry} was never written:\n{text}"));
        let after = |from: usize, is_it: &dyn Fn(&str) -> bool| {
            lines[from..].iter().position(|line| is_it(line)).map(|place| from + place)
        };
        let synced = after(written, &|line| is_log(line) && line.contains("fdatasync")).expect("it is synced");
        // The answer to `WAITAOF`: two numbers, of which the first is this node.
        let told = after(written, &|line| !is_log(line) && line.contains(r"*2\r\n:1\r\n:0\r\n")).expect("it is told");
        assert!(written < synced && synced < told, "{written} {synced} {told}:\n{text}");
        // The answer to the script comes after it too, so a receipt that is dropped loses nothing to a power cut.
        let answered =
            after(written, &|line| !is_log(line) && line.contains(r"*3\r\n:1\r\n$16\r\n")).expect("it answers");
        assert!(synced < answered, "{synced} {answered}:\n{text}");
    }
}

/// The replicas are asked whether they have a change before they are asked whether they have synced it: the other way round
/// the second answer comes with their next second.
#[test]
fn replicas_are_waited_for_before_their_syncs() {
    let cluster = six();
    let store = cluster.open();
    store.resolve(&source(1)).unwrap().receipt.wait().unwrap();
    let node = &cluster.nodes[cluster.primaries().into_iter().find(|n| cluster.has_key(*n, &store, &key(1))).unwrap()];
    let mut monitor = TcpStream::connect(node.address()).unwrap();
    monitor.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    monitor.write_all(b"MONITOR\r\n").unwrap();
    let mut lines = BufReader::new(monitor).lines().map(Result::unwrap);
    assert_eq!(lines.next().unwrap(), "+OK");
    for _ in 0..5 {
        store.touch(&key(1)).unwrap().unwrap().wait().unwrap();
    }
    // Other tests are at work on the same node.
    let touch = format!(r#""{}:"#, store.name());
    let own = lines.find(|line| line.contains("ZADD") && line.contains(&touch)).unwrap();
    let connection = own[own.find('[').unwrap()..].split(']').next().unwrap().to_owned();
    let mut proofs = lines
        .filter(|line| line.contains(&connection))
        .filter_map(|line| [r#""WAIT" "1""#, r#""WAITAOF" "1" "1""#].into_iter().find(|proof| line.contains(proof)));
    for _ in 0..4 {
        assert_eq!(proofs.next(), Some(r#""WAIT" "1""#));
        // One more may come in between, for a touch that is not awaited yet.
        let synced = proofs.find(|proof| !proof.starts_with(r#""WAIT" "#));
        assert_eq!(synced, Some(r#""WAITAOF" "1" "1""#));
    }
}

/// A receipt is asked for while another caller, who asks for none, has a pipeline under way. Nobody comes after that one, and
/// the receipt is told all the same.
#[test]
fn a_receipt_that_is_asked_for_beside_another_call_is_told() {
    let options = one().options().member_lease(Duration::from_secs(3600));
    let store = ClusterStore::open(options).unwrap();
    for n in [1, 2] {
        store.resolve(&source(n)).unwrap();
    }
    for round in 0..300 {
        let receipt = store.touch(&key(1)).unwrap().unwrap();
        let together = Arc::new(Barrier::new(2));
        let other = thread::spawn({
            let (store, together) = (store.clone(), Arc::clone(&together));
            move || {
                together.wait();
                drop(store.touch(&key(2)).unwrap());
            }
        });
        let waiting = thread::spawn(move || {
            together.wait();
            match round % 3 {
                0 => receipt.wait().unwrap(),
                1 => pollster::block_on(receipt).unwrap(),
                _ => assert!(receipt.wait_timeout(Duration::from_secs(3600)).unwrap()),
            }
        });
        wait_for("the receipt is told", || waiting.is_finished());
        waiting.join().unwrap();
        other.join().unwrap();
    }
}

/// From now on each sync of a node fails.
fn fail_syncs_of(node: &Node) -> std::process::Child {
    let strace = Command::new("strace")
        .args(["-f", "-o", "/dev/null", "-e", "trace=fdatasync,fsync"])
        .args(["-e", "inject=fdatasync,fsync:error=EIO", "-p", &node.pid().to_string()])
        .stderr(Stdio::null())
        .spawn()
        .expect("strace is needed");
    wait_for("strace is attached", || {
        let status = fs::read_to_string(format!("/proc/{}/status", node.pid())).unwrap();
        // One that is at work has its sync at once, and ends.
        !status.contains("TracerPid:\t0") || node.is_gone()
    });
    strace
}

fn ended_itself(node: &Node) -> bool {
    let log = fs::read_to_string(node.dir().join("log")).unwrap();
    log.contains("fsync error when the AOF fsync policy is 'always'") && node.is_gone()
}

/// A node whose sync fails ends before it answers. So nothing that it could not keep was ever told, and its replica takes
/// over.
#[test]
fn a_primary_whose_sync_fails_ends_itself_and_has_told_nothing() {
    let mut cluster = Cluster::six();
    let store = cluster.open();
    store.resolve(&source(1)).unwrap().receipt.wait().unwrap();
    let victim = cluster.primaries().into_iter().find(|n| cluster.has_key(*n, &store, &key(1))).unwrap();
    let replica = cluster.replica_of(victim);
    let ledger = under_load(&store, || {
        let mut strace = fail_syncs_of(&cluster.nodes[victim]);
        wait_for("the node ends itself", || ended_itself(&cluster.nodes[victim]));
        strace.wait().unwrap();
        wait_for("the replica takes over", || cluster.primaries().contains(&replica));
        // All verbs go on, with the next primary.
        store.touch(&key(1)).unwrap().unwrap();
        cluster.nodes[victim].kill();
        cluster.nodes[victim].run();
        cluster.wait_until_whole();
    });
    ledger.check(&store);
    store.touch(&key(1)).unwrap().unwrap().wait().unwrap();
}

/// A replica whose sync fails acknowledges nothing more: a receipt fails, and no change is undone.
#[test]
fn a_replica_whose_sync_fails_ends_itself_and_acknowledges_nothing() {
    let mut cluster = Cluster::with(1, true, &[]);
    let store = cluster.open();
    store.resolve(&source(1)).unwrap().receipt.wait().unwrap();
    let mut strace = fail_syncs_of(&cluster.nodes[1]);
    let receipt = store.suspend(&key(1)).unwrap().unwrap();
    let waited = receipt.wait();
    assert!(matches!(waited, Err(Error::NotReplicated { wanted: 1, got: 0, .. })), "{waited:?}");
    assert!(!receipt.is_durable().unwrap() && store.get(&key(1)).unwrap().unwrap().suspended);
    wait_for("the node ends itself", || ended_itself(&cluster.nodes[1]));
    strace.wait().unwrap();
    cluster.nodes[1].kill();
    cluster.nodes[1].run();
    wait_for("the receipt is kept", || receipt.wait().is_ok());
}

/// A receipt fails while its replica hangs. It is kept once that goes on, also for a task that awaits it.
#[test]
fn a_receipt_that_failed_may_be_awaited_again() {
    let cluster = Cluster::with(1, true, &[]);
    let store = ClusterStore::open(cluster.options().member_lease(Duration::from_secs(3600))).unwrap();
    store.resolve(&source(1)).unwrap().receipt.wait().unwrap();
    cluster.nodes[1].signal("STOP");
    let receipt = store.suspend(&key(1)).unwrap().unwrap();
    let awaited = pollster::block_on(receipt.clone());
    assert!(matches!(awaited, Err(Error::NotReplicated { wanted: 1, got: 0, .. })), "{awaited:?}");
    cluster.nodes[1].signal("CONT");
    wait_for("the receipt is kept", || pollster::block_on(receipt.clone()).is_ok());
}

/// One of two replicas hangs. It is connected still, and holds up receipts no longer than until it is called failed.
#[test]
fn a_replica_that_hangs_is_not_waited_for_once_it_is_called_failed() {
    let mut cluster = Cluster::with(1, true, &[]);
    let hangs = Node::start(&[]);
    let (port, bus) = (cluster.nodes[0].port.to_string(), cluster.nodes[0].bus().to_string());
    hangs.ask(&["CLUSTER", "MEET", "127.0.0.1", &port, &bus]);
    let primary = cluster.nodes[0].ask_text(&["CLUSTER", "MYID"]);
    wait_for("all know each other", || {
        let known = cluster.nodes.iter().chain([&hangs]).map(|node| node.ask_text(&["CLUSTER", "NODES"]));
        known.into_iter().all(|nodes| nodes.lines().count() == 3 && !nodes.contains("handshake"))
    });
    hangs.ask(&["CLUSTER", "REPLICATE", &primary]);
    cluster.nodes.push(hangs);
    let online = || cluster.nodes[0].ask_text(&["INFO", "replication"]).matches("state=online").count();
    wait_for("both replicas are connected", || online() == 2);
    let store = cluster.open();
    store.resolve(&source(1)).unwrap().receipt.wait().unwrap();
    cluster.nodes[2].signal("STOP");
    wait_for("a receipt is kept without it", || {
        cluster.nodes[0].ask_text(&["CLUSTER", "NODES"]).contains("slave,fail ")
            && store.touch(&key(1)).unwrap().unwrap().wait().is_ok()
    });
    assert_eq!(online(), 2, "it is connected");
}

#[test]
fn a_node_that_does_not_sync_is_refused() {
    for (settings, setting) in [
        (["--appendfsync", "everysec"], "appendfsync"),
        (["--appendonly", "no"], "appendonly"),
        (["--no-appendfsync-on-rewrite", "yes"], "no-appendfsync-on-rewrite"),
        (["--maxmemory-policy", "allkeys-lru"], "maxmemory-policy"),
    ] {
        let cluster = Cluster::with(1, false, &settings);
        let refused = ClusterStore::open(cluster.options());
        let Err(Error::NodeSetting { setting: found, advice, node, .. }) = &refused else { panic!("{refused:?}") };
        assert_eq!((*found, node), (setting, &cluster.nodes[0].address()));
        assert!(advice.contains(&format!("put `{setting} ")), "{advice}");
        if setting == "maxmemory-policy" {
            assert!(ClusterStore::open(cluster.options().relaxed()).is_err(), "it would lose entries silently");
            continue;
        }
        // By name it may be so, and then nothing is called durable.
        let store = ClusterStore::open(cluster.options().relaxed()).unwrap();
        let receipt = store.resolve(&source(1)).unwrap().receipt;
        receipt.replicated().unwrap();
        assert!(!receipt.is_durable().unwrap());
        assert!(matches!(receipt.wait(), Err(Error::Relaxed { .. })));
        assert!(matches!(pollster::block_on(receipt), Err(Error::Relaxed { .. })));
        store.flush().unwrap();
    }
}

/// The user may not ask for settings, and the program states them. `INFO` tells one of them.
#[test]
fn a_policy_that_deletes_is_found_though_settings_are_stated() {
    let cluster = Cluster::one();
    let node = &cluster.nodes[0];
    let may = |more: &[&str]| {
        let usual = ["ACL", "SETUSER", "gateway", "reset", "on", ">password", "~*", "+@all", "-config"];
        node.ask(&[&usual[..], more].concat());
    };
    let options = cluster.options().login("gateway", "password").settings_are_stated();
    let opened = || ClusterStore::open(options.clone());
    let deletes = |found: &Error| matches!(found, Error::NodeSetting { setting: "maxmemory-policy", .. });
    may(&[]);
    node.ask(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]);
    let refused = opened().unwrap_err();
    assert!(deletes(&refused) && refused.to_string().contains("is allkeys-lru"), "{refused}");
    // Where nobody tells it is as the program says.
    may(&["-info"]);
    opened().unwrap();
    may(&[]);
    node.ask(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]);
    opened().unwrap();
}

/// A replica with another setting takes over: from then on nothing is promised, and so nothing is done.
#[test]
fn settings_are_asked_for_again_when_the_cluster_changes() {
    let cluster = Cluster::six();
    let store = cluster.open();
    store.resolve(&source(1)).unwrap().receipt.wait().unwrap();
    let replica = cluster.replica_of(0);
    cluster.nodes[replica].ask(&["CONFIG", "SET", "appendfsync", "everysec"]);
    cluster.nodes[replica].ask(&["CLUSTER", "FAILOVER"]);
    wait_for("the replica takes over", || cluster.primaries().contains(&replica));
    wait_for("the setting is found", || {
        let found = (0..20).map(|n| store.resolve(&source(n))).find_map(Result::err);
        matches!(found, Some(Error::NodeSetting { setting: "appendfsync", .. }))
    });
    // Set right it goes on.
    cluster.nodes[replica].ask(&["CONFIG", "SET", "appendfsync", "always"]);
    wait_for("it goes on", || store.resolve(&source(1)).is_ok_and(|found| found.receipt.wait().is_ok()));
}

/// A store is ready when its marks are where a failover finds them.
#[test]
fn a_store_whose_marks_no_replica_has_is_not_made() {
    let cluster = Cluster::six();
    let options = cluster.options();
    let replicas: Vec<_> = cluster.primaries().into_iter().map(|primary| cluster.replica_of(primary)).collect();
    replicas.iter().for_each(|n| cluster.nodes[*n].signal("STOP"));
    let made = ClusterStore::open(options.clone());
    assert!(matches!(made, Err(Error::NotReplicated { .. })), "{made:?}");
    replicas.iter().for_each(|n| cluster.nodes[*n].signal("CONT"));
    cluster.wait_until_whole();
    let store = ClusterStore::open(options).unwrap();
    store.resolve(&source(1)).unwrap().receipt.wait().unwrap();
}

/// A receipt is of a change that was made: its error does not advise to make it again, for it may be kept.
#[test]
fn a_receipt_whose_connection_broke_says_how_to_find_out() {
    let mut cluster = Cluster::one();
    let store = cluster.open();
    let receipt = store.resolve(&source(1)).unwrap().receipt;
    cluster.nodes[0].kill();
    let error = receipt.wait().unwrap_err();
    let Error::Uncertain { node, .. } = &error else { panic!("{error:?}") };
    let said = error.to_string();
    assert!(said.contains(node) && said.contains("then read it") && !said.contains("change again"), "{said}");
}
