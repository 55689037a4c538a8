//! Encrypted connections: to servers that have TLS, or else to ones with something before them that has.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use std::time::Duration;

use cloakroom::cluster::{ClusterOptions, ClusterStore};
use cloakroom::{Error, Sessions as _};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection};

use crate::common::{fast_dir, key, source};
use crate::failover::under_load;
use crate::nodes::{Cluster, Node, free_port, server, wait_for};

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tls").join(name)
}

/// What a node shows, and whether it wants to be shown something too.
#[derive(Clone, Copy)]
struct Shows {
    certificate: &'static str,
    wants_client: bool,
}

const PROPER: Shows = Shows { certificate: "node", wants_client: false };

/// Ends encryption before a node that has none.
struct Front {
    port: u16,
    /// What came in, as it came over the network.
    seen: Arc<Mutex<Vec<u8>>>,
}

impl Front {
    fn new(target: u16, listener: TcpListener, shows: Shows) -> Self {
        let port = listener.local_addr().unwrap().port();
        let (config, seen) = (Arc::new(config(shows)), Arc::default());
        thread::spawn({
            let seen = Arc::clone(&seen);
            move || {
                for client in listener.incoming().map_while(Result::ok) {
                    let Ok(node) = TcpStream::connect(("127.0.0.1", target)) else { continue };
                    let tls = Arc::new(Mutex::new(ServerConnection::new(Arc::clone(&config)).unwrap()));
                    let copy = |stream: &TcpStream| stream.try_clone().unwrap();
                    let (back, to) = (copy(&node), copy(&client));
                    let (forth, seen) = (Arc::clone(&tls), Arc::clone(&seen));
                    thread::spawn(move || decrypt(client, node, &forth, &seen));
                    thread::spawn(move || encrypt(back, to, &tls));
                }
            }
        });
        Self { port, seen }
    }
}

fn config(shows: Shows) -> ServerConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions();
    let builder = if shows.wants_client {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(file("ca.pem")).unwrap()).unwrap();
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
        builder.unwrap().with_client_cert_verifier(verifier)
    } else {
        builder.unwrap().with_no_client_auth()
    };
    let certificate = CertificateDer::from_pem_file(file(&format!("{}.pem", shows.certificate))).unwrap();
    let key = PrivateKeyDer::from_pem_file(file(&format!("{}.key", shows.certificate))).unwrap();
    builder.with_single_cert(vec![certificate], key).unwrap()
}

fn decrypt(mut client: TcpStream, mut node: TcpStream, tls: &Mutex<ServerConnection>, seen: &Mutex<Vec<u8>>) {
    let mut buffer = vec![0; 1 << 16];
    while let Ok(length @ 1..) = client.read(&mut buffer) {
        seen.lock().unwrap().extend_from_slice(&buffer[..length]);
        let mut rest = &buffer[..length];
        let mut plain = Vec::new();
        let mut tls = tls.lock().unwrap();
        let mut is_well = true;
        while is_well && !rest.is_empty() {
            tls.read_tls(&mut rest).unwrap();
            is_well = tls.process_new_packets().is_ok();
            // That there is no more yet is an error, too.
            let _ = tls.reader().read_to_end(&mut plain);
        }
        while tls.wants_write() {
            if tls.write_tls(&mut client).is_err() {
                break;
            }
        }
        drop(tls);
        if !is_well || node.write_all(&plain).is_err() {
            break;
        }
    }
    let _ = node.shutdown(Shutdown::Both);
    let _ = client.shutdown(Shutdown::Both);
}

fn encrypt(mut node: TcpStream, mut client: TcpStream, tls: &Mutex<ServerConnection>) {
    let mut buffer = vec![0; 1 << 14];
    while let Ok(length @ 1..) = node.read(&mut buffer) {
        let mut tls = tls.lock().unwrap();
        tls.writer().write_all(&buffer[..length]).unwrap();
        while tls.wants_write() {
            if tls.write_tls(&mut client).is_err() {
                break;
            }
        }
    }
    let _ = client.shutdown(Shutdown::Both);
}

/// Whether the servers have TLS of their own. The wheel's have none, and Debian's have.
fn servers_have_tls() -> bool {
    static HAVE: OnceLock<bool> = OnceLock::new();
    *HAVE.get_or_init(|| {
        // It ends at once in any case: without the option, or without a certificate.
        let (dir, port) = (fast_dir(), free_port().to_string());
        let mut command = Command::new(server());
        command.args(["--port", "0", "--tls-port", &port]).current_dir(dir.path());
        String::from_utf8_lossy(&command.output().unwrap().stdout).contains("tls-cert-file")
    })
}

/// Nodes that are reached by TLS.
struct Encrypted {
    cluster: Cluster,
    ports: Vec<u16>,
    fronts: Vec<Front>,
    replicas: u64,
}

impl Encrypted {
    fn new(primaries: usize, shows: Shows) -> Self {
        Self::of(primaries, 0, shows)
    }

    /// With so many replicas of each primary.
    fn of(primaries: usize, replicas: usize, shows: Shows) -> Self {
        let (mut nodes, mut ports, mut fronts) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..primaries * (replicas + 1) {
            // It has its port before others are looked for, and is found at any address of the loopback.
            let listener = TcpListener::bind("0.0.0.0:0").unwrap();
            let own = (free_port(), free_port());
            if servers_have_tls() {
                let (port, path) = (free_port(), |name: String| file(&name).to_str().unwrap().to_owned());
                let settings = [
                    ["--bind", "0.0.0.0"],
                    ["--tls-port", &port.to_string()],
                    ["--tls-cert-file", &path(format!("{}.pem", shows.certificate))],
                    ["--tls-key-file", &path(format!("{}.key", shows.certificate))],
                    ["--tls-ca-cert-file", &path("ca.pem".into())],
                    ["--tls-auth-clients", if shows.wants_client { "yes" } else { "no" }],
                    ["--tls-replication", if replicas > 0 { "yes" } else { "no" }],
                ];
                nodes.push(Node::start_with(own, own, &settings.concat()));
                ports.push(port);
            } else {
                let front = Front::new(own.0, listener, shows);
                // The others find it at its own port, and clients at this one. Replicas find it where clients do, if nothing
                // else is said: that came with version 9.1.
                let setting = if replicas > 0 { "--cluster-announce-client-port" } else { "--cluster-announce-port" };
                let settings = [setting, &front.port.to_string()];
                nodes.push(Node::start_with(own, own, &settings));
                ports.push(front.port);
                fronts.push(front);
            }
        }
        Self { cluster: Cluster::of(nodes, primaries), ports, fronts, replicas: replicas as u64 }
    }

    fn options(&self) -> ClusterOptions {
        let seeds = self.ports.iter().map(|port| format!("127.0.0.1:{port}"));
        ClusterOptions::new("encrypted", seeds).create(true).shards(16).replicas(self.replicas)
    }

    /// All that came over the network is encrypted.
    fn assert_nothing_in_the_clear(&self) {
        for front in &self.fronts {
            let seen = front.seen.lock().unwrap();
            assert!(seen.first() == Some(&0x16), "a handshake comes first");
            let has = |text: &[u8]| seen.windows(text.len()).any(|window| window == text);
            assert!(!has(b"encrypted:{") && !has(b"ZADD"), "{} bytes", seen.len());
        }
    }
}

/// The advice of the error, which comes before patience is over.
#[track_caller]
fn advice(options: ClusterOptions) -> &'static str {
    match ClusterStore::open(options.patience(Duration::from_secs(20))) {
        Err(Error::Tls { advice, .. }) => advice,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_encrypted_store_does_what_others_do_and_nothing_goes_in_the_clear() {
    let nodes = Encrypted::new(3, PROPER);
    let store = ClusterStore::open(nodes.options().ca_file(file("ca.pem"))).unwrap();
    for n in 0..30 {
        store.resolve(&source(n)).unwrap().receipt.wait().unwrap();
        store.touch(&key(n)).unwrap().unwrap();
    }
    let token = store.begin_turn(&key(1)).unwrap().unwrap().token;
    store.end_turn(&key(1), token).unwrap();
    store.flush().unwrap();
    assert_eq!(store.len().unwrap(), 30);
    assert_eq!(store.recent(100, None).unwrap().entries.len(), 30);
    nodes.assert_nothing_in_the_clear();
    // The same by a URL.
    drop(store);
    let url = format!("valkeys://127.0.0.1:{}/encrypted", nodes.ports[0]);
    let store = ClusterStore::open(ClusterOptions::from_url(&url).unwrap().ca_file(file("ca.pem"))).unwrap();
    assert_eq!(store.len().unwrap(), 30);
}

/// Proofs of replicas come over encrypted connections too, and the replica that takes over is found by one.
#[test]
fn an_encrypted_primary_that_is_killed_loses_nothing_that_was_awaited() {
    let mut nodes = Encrypted::of(3, 1, PROPER);
    let store = ClusterStore::open(nodes.options().ca_file(file("ca.pem"))).unwrap();
    store.resolve(&source(1)).unwrap().receipt.wait().unwrap();
    // As they were made: the replicas come after the primaries.
    let victim = (0..3).find(|n| nodes.cluster.has_key(*n, &store, &key(1))).unwrap();
    let replica = victim + 3;
    let info = nodes.cluster.nodes[replica].ask_text(&["INFO", "replication"]);
    let port = if nodes.fronts.is_empty() { nodes.ports[victim] } else { nodes.cluster.nodes[victim].port };
    assert!(info.contains(&format!("master_port:{port}\r")), "a replica comes by its own way: {info}");
    nodes.cluster.nodes[replica].signal("STOP");
    let waited = store.touch(&key(1)).unwrap().unwrap().wait();
    assert!(matches!(waited, Err(Error::NotReplicated { wanted: 1, got: 0, .. })), "{waited:?}");
    nodes.cluster.nodes[replica].signal("CONT");
    let cluster = &mut nodes.cluster;
    let ledger = under_load(&store, || {
        thread::sleep(Duration::from_millis(300));
        cluster.nodes[victim].kill();
        wait_for("the replica takes over", || cluster.primaries().contains(&replica));
        store.touch(&key(1)).unwrap().unwrap();
        cluster.nodes[victim].run();
        cluster.wait_until_whole();
        thread::sleep(Duration::from_millis(300));
    });
    ledger.check(&store);
    nodes.assert_nothing_in_the_clear();
    ledger.check(&ClusterStore::open(nodes.options().ca_file(file("ca.pem"))).unwrap());
}

#[test]
fn an_authority_that_did_not_sign_is_refused() {
    let nodes = Encrypted::new(1, PROPER);
    let said = advice(nodes.options().ca_file(file("other-ca.pem")));
    assert!(said.contains("authority") && said.contains("give the file"), "{said}");
    // No system trusts that of the tests.
    let said = advice(nodes.options().tls());
    assert!(said.contains("authority"), "{said}");
}

#[test]
fn a_certificate_for_another_name_is_refused() {
    let nodes = Encrypted::new(1, Shows { certificate: "elsewhere", ..PROPER });
    let said = advice(nodes.options().ca_file(file("ca.pem")));
    assert!(said.contains("another name") && said.contains("cluster-announce-hostname"), "{said}");
}

/// It is found by a name that its certificate has, and sends clients on to an address that is not in it.
#[test]
fn a_node_that_is_named_otherwise_by_the_others_is_refused() {
    let nodes = Encrypted::new(1, PROPER);
    nodes.cluster.nodes[0].ask(&["CONFIG", "SET", "cluster-announce-ip", "127.0.0.2"]);
    let seed = format!("localhost:{}", nodes.ports[0]);
    let options = ClusterOptions::new("encrypted", [seed]).create(true).replicas(0).ca_file(file("ca.pem"));
    let said = advice(options);
    assert!(said.contains("another name"), "{said}");
}

#[test]
fn ports_of_the_other_kind_are_told() {
    let nodes = Encrypted::new(1, PROPER);
    let plain = ClusterOptions::new("encrypted", nodes.cluster.seeds()).create(true).replicas(0);
    let said = advice(plain.ca_file(file("ca.pem")));
    assert!(said.contains("does not speak TLS") && said.contains("tls-port"), "{said}");
    let said = advice(nodes.options());
    assert!(said.contains("speaks TLS") && said.contains("be encrypted"), "{said}");
}

#[test]
fn a_client_shows_a_certificate_where_one_is_wanted_and_the_newest() {
    let nodes = Encrypted::new(1, Shows { wants_client: true, ..PROPER });
    let options = || nodes.options().ca_file(file("ca.pem"));
    let said = advice(options());
    assert!(said.contains("certificate of the client"), "{said}");
    let dir = fast_dir();
    let (certificate, key_file) = (dir.path().join("client.pem"), dir.path().join("client.key"));
    let put = |from: &str, to: &Path| assert!(std::fs::copy(file(from), to).unwrap() > 0);
    put("gateway.pem", &certificate);
    put("gateway.key", &key_file);
    let options = options().client_certificate(&certificate, &key_file).patience(Duration::from_millis(200));
    let store = ClusterStore::open(options).unwrap();
    store.resolve(&source(1)).unwrap().receipt.wait().unwrap();
    // Connections that break are made with what is in the files by then.
    std::fs::write(&certificate, "").unwrap();
    nodes.cluster.nodes[0].ask(&["CLIENT", "KILL", "SKIPME", "yes"]);
    let found = store.get(&key(1));
    assert!(matches!(found, Err(Error::Unavailable { .. })), "{found:?}");
    put("gateway.pem", &certificate);
    assert!(store.get(&key(1)).unwrap().is_some());
}

#[test]
fn files_that_are_none_are_refused_before_anything_is_sent() {
    let options = || ClusterOptions::new("encrypted", ["127.0.0.1:1"]);
    let missing = ClusterStore::open(options().ca_file("nowhere.pem"));
    assert!(matches!(missing, Err(Error::Io { .. })), "{missing:?}");
    let no_certificate = ClusterStore::open(options().ca_file(file("node.key")));
    assert!(matches!(no_certificate, Err(Error::Setting { .. })), "{no_certificate:?}");
    let no_key = ClusterStore::open(options().client_certificate(file("gateway.pem"), file("gateway.pem")));
    assert!(matches!(no_key, Err(Error::Setting { .. })), "{no_key:?}");
}
