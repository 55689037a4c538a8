//! A network that is split: a primary on one side, with clients that reach it, and the rest on the other.

use std::net::{IpAddr, Ipv4Addr};
use std::thread;
use std::time::Duration;

use cloakroom::cluster::{ClusterOptions, ClusterStore};

use crate::battery::Battery;
use crate::failover::{close_after_losses, under_load};
use crate::nodes::{Cluster, Node, free_port, wait_for};
use crate::proxy::Proxy;

const NODES: usize = 6;

/// Where a node's own connections come from.
fn host(node: usize) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2 + node as u8))
}

/// Six nodes that reach each other, and are reached, through proxies.
struct Network {
    cluster: Cluster,
    clients: Vec<Proxy>,
    buses: Vec<Proxy>,
}

impl Network {
    fn new() -> Self {
        let (mut nodes, mut clients, mut buses) = (Vec::new(), Vec::new(), Vec::new());
        for n in 0..NODES {
            let own = (free_port(), free_port());
            let (client, bus) = (Proxy::new(own.0), Proxy::new(own.1));
            let (port, bus_port, from) = (client.port.to_string(), bus.port.to_string(), host(n).to_string());
            let settings = [
                ["--cluster-announce-ip", "127.0.0.1"],
                ["--cluster-announce-port", &port],
                ["--cluster-announce-bus-port", &bus_port],
                ["--bind-source-addr", &from],
            ];
            nodes.push(Node::start_with(own, (client.port, bus.port), &settings.concat()));
            clients.push(client);
            buses.push(bus);
        }
        Self { cluster: Cluster::of(nodes, NODES / 2), clients, buses }
    }

    /// Cuts a node off from the others, and leaves it to the clients.
    fn cut_off(&self, node: usize) {
        for n in 0..NODES {
            let hosts: Vec<_> = if n == node { (0..NODES).map(host).collect() } else { vec![host(node)] };
            self.clients[n].cut(&hosts);
            self.buses[n].cut(&hosts);
        }
    }

    fn heal(&self) {
        self.clients.iter().chain(&self.buses).for_each(|proxy| proxy.cut(&[]));
    }
}

#[test]
fn a_split_loses_nothing_that_was_awaited_on_either_side() {
    let network = Network::new();
    let cluster = &network.cluster;
    Battery::new("splits", 1).run(|_, mut dice| {
        let seeds = network.clients.iter().map(Proxy::address);
        let store = ClusterStore::open(
            ClusterOptions::new(format!("split-{}", dice.roll(1 << 40)), seeds).create(true).shards(16),
        )
        .unwrap();
        let primaries = cluster.primaries();
        let victim = primaries[dice.roll(primaries.len())];
        let replica = cluster.replica_of(victim);
        let ledger = under_load(&store, || {
            thread::sleep(Duration::from_millis(300));
            network.cut_off(victim);
            wait_for("the replica takes over", || cluster.primaries().contains(&replica));
            // Both say that they are, and clients reach both.
            assert!(cluster.primaries().contains(&victim));
            thread::sleep(Duration::from_millis(500));
            network.heal();
            wait_for("the old one gives in", || !cluster.primaries().contains(&victim));
            cluster.wait_until_whole();
            thread::sleep(Duration::from_millis(300));
        });
        ledger.check(&store);
        close_after_losses(&store);
    });
}
