//! The verbs of a message beside a blob for each session, which most gateways keep on a cluster today.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cloakroom::cluster::ClusterStore;
use cloakroom::{PrunePolicy, SessionKey, Sessions};

use crate::common::{key, source};
use crate::nodes::Cluster;
use crate::rig;
use crate::{begin_sessions, pick};

/// Sessions that are touched.
pub const SESSIONS: usize = 20_000;

/// A hash tag for each primary.
fn tags(cluster: &Cluster) -> Vec<(String, String)> {
    let is_its = |n: &usize, tag: &str| {
        let slot: u64 = redis::from_redis_value(cluster.nodes[*n].ask(&["CLUSTER", "KEYSLOT", tag])).unwrap();
        // As `Cluster` splits them.
        slot as usize * 3 / 16384 == *n
    };
    let tag = |n: usize| (0..).map(|tag| format!("{{{tag}}}")).find(|tag| is_its(&n, tag)).unwrap();
    (0..3).map(|n| (cluster.nodes[n].address(), tag(n))).collect()
}

/// Rows of touches, each of them awaited or not.
pub fn touches(
    cluster: &Cluster,
    store: &ClusterStore,
    sessions: usize,
    awaited: bool,
    callers: usize,
    time: Duration,
) {
    let keys: Vec<_> = (0..sessions).map(key).collect();
    let name = if awaited { "touch, awaited" } else { "touch" };
    rig::run(cluster, name, callers, time, &|caller| {
        let keys = &keys;
        Box::new(move |turn| {
            let receipt = store.touch(&keys[pick(caller, turn, sessions)]).unwrap().unwrap();
            if awaited {
                receipt.wait().unwrap();
            }
        })
    });
}

/// The same for tasks of one thread.
fn touches_of_tasks(cluster: &Cluster, store: &ClusterStore, awaited: bool, callers: usize, time: Duration) {
    let (keys, sessions) = (Arc::new((0..SESSIONS).map(key).collect::<Vec<_>>()), store.to_async());
    let name = if awaited { "touch, awaited, of tasks" } else { "touch, of tasks" };
    rig::run_tasks(cluster, name, callers, time, move |caller, turn| {
        let (keys, sessions) = (Arc::clone(&keys), sessions.clone());
        async move {
            let receipt = sessions.touch(&keys[pick(caller, turn, SESSIONS)]).await.unwrap().unwrap();
            if awaited {
                receipt.await.unwrap();
            }
        }
    });
}

/// Touches that nobody waits for, each of which goes to a node: a caller has sessions of its own, and waits for longer than touches are
/// collected before it touches them again.
pub fn soon(cluster: &Cluster, store: &ClusterStore, callers: usize, time: Duration) {
    let (keys, own): (Vec<_>, _) = ((0..SESSIONS).map(key).collect(), SESSIONS / callers);
    rig::run(cluster, "touch_soon, each goes to a node", callers, time, &|caller| {
        let keys = &keys;
        Box::new(move |turn| {
            if turn > 0 && turn % own == 0 {
                std::thread::sleep(Duration::from_millis(150));
            }
            store.touch_soon(&keys[caller * own + turn % own]).unwrap();
        })
    });
    store.flush().unwrap();
}

pub fn run(time: Duration) {
    let cluster = Cluster::six();
    let store = &ClusterStore::open(cluster.options().shards(4096)).unwrap();
    let pass = || {
        let began = Instant::now();
        let report = store.prune(&PrunePolicy::max_age_days(90), &|_: &SessionKey| false).unwrap();
        assert_eq!(report.removed, 0);
        began.elapsed()
    };
    let mut passes: Vec<_> = (0..5).map(|_| pass()).collect();
    passes.sort_unstable();
    println!("a pass over 4,096 shards with nothing to do: {:.0?}", passes[2]);

    begin_sessions(store, SESSIONS);
    for callers in [1, 8, 64] {
        touches(&cluster, store, SESSIONS, false, callers, time);
    }
    for callers in [1, 8, 64, 256] {
        touches_of_tasks(&cluster, store, false, callers, time);
    }
    let keys: Vec<_> = (0..SESSIONS).map(key).collect();
    for callers in [1, 8, 64] {
        // Of each session the last touch of a tenth of a second goes to its node.
        rig::run(&cluster, "touch_soon", callers, time, &|caller| {
            let keys = &keys;
            Box::new(move |turn| store.touch_soon(&keys[pick(caller, turn, SESSIONS)]).unwrap())
        });
        store.flush().unwrap();
        soon(&cluster, store, callers, time);
    }
    let tags = tags(&cluster);
    for (name, bytes) in [("SET … EX, 1 KB", 1000), ("SET … EX, 20 KB", 20_000)] {
        for callers in [1, 8, 64] {
            rig::run(&cluster, name, callers, time, &|caller| {
                let (address, tag) = &tags[caller % tags.len()];
                let client = redis::Client::open(format!("redis://{address}")).unwrap();
                let mut connection = client.get_connection().unwrap();
                let blob = "b".repeat(bytes);
                Box::new(move |turn| {
                    let key = format!("blob:{tag}:{}", pick(caller, turn, 1000));
                    redis::cmd("SET").arg(key).arg(&blob).arg("EX").arg(86_400).exec(&mut connection).unwrap();
                })
            });
        }
    }
    rig::run(&cluster, "PING", 1, time, &|_| {
        let mut connection = redis::Client::open(format!("redis://{}", tags[0].0)).unwrap().get_connection().unwrap();
        Box::new(move |_| redis::cmd("PING").exec(&mut connection).unwrap())
    });
    rig::run(&cluster, "resolve of a session that is there", 1, time, &|caller| {
        Box::new(move |turn| drop(store.resolve(&source(pick(caller, turn, SESSIONS))).unwrap()))
    });
    rig::run(&cluster, "get", 1, time, &|caller| {
        Box::new(move |turn| drop(store.get(&key(pick(caller, turn, SESSIONS))).unwrap().unwrap()))
    });
    for callers in [1, 8, 64, 256] {
        touches(&cluster, store, SESSIONS, true, callers, time);
    }
    for callers in [1, 8, 64, 256] {
        touches_of_tasks(&cluster, store, true, callers, time);
    }
}
