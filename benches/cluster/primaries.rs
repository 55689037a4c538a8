//! Three primaries beside one, each with its replica.

use std::time::Duration;

use cloakroom::Sessions as _;
use cloakroom::cluster::ClusterStore;

use crate::common::key;
use crate::nodes::Cluster;
use crate::rig;
use crate::rows::SESSIONS;
use crate::{begin_sessions, pick};

pub fn run(time: Duration) {
    let keys: Vec<_> = (0..SESSIONS).map(key).collect();
    let clusters = [1, 3].map(|primaries| {
        let cluster = Cluster::with(primaries, true, &[]);
        let store = ClusterStore::open(cluster.options().shards(4096)).unwrap();
        begin_sessions(&store, SESSIONS);
        (primaries, cluster, store)
    });
    for callers in [64, 256] {
        for awaited in [false, true] {
            // The most that they could do, if they alone were what bounds it.
            let mut room = Vec::new();
            for (primaries, cluster, store) in &clusters {
                let name = format!("{primaries} primaries: touch{}", if awaited { ", awaited" } else { "" });
                let outcome = rig::run(cluster, &name, callers, time, &|caller| {
                    let keys = &keys;
                    Box::new(move |turn| {
                        let receipt = store.touch(&keys[pick(caller, turn, SESSIONS)]).unwrap().unwrap();
                        if awaited {
                            receipt.wait().unwrap();
                        }
                    })
                });
                room.push(1e6 / outcome.busiest);
                println!("{:>8.0}/s would take all of a core of the busiest primary", 1e6 / outcome.busiest);
            }
            println!("{:>8.1} times as many by three as by one", room[1] / room[0]);
        }
    }
}
