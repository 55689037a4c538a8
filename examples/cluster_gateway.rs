//! A gateway of three processes on a cluster of six nodes, all on this machine. See `docs/cluster.md`.
//!
//! ```text
//! cluster_gateway six DIR     starts six nodes with their files in DIR, and makes a cluster of them, unless earlier ones run
//! cluster_gateway serve DIR   three processes answer messages for 20 seconds; then what they awaited is looked for
//! cluster_gateway kill DIR    kills a primary
//! cluster_gateway end DIR     ends the nodes
//! ```
//!
//! The server is what `CLOAKROOM_VALKEY` names, else `valkey-server`. `serve` takes the seconds as a second argument, and
//! `kill` at the end of that kills a primary half way.
#![allow(clippy::indexing_slicing, reason = "it is a program that may panic")]

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use cloakroom::change::{Edit, Modified, Touch};
use cloakroom::cluster::{ClusterOptions, ClusterStore};
use cloakroom::{SessionKey, SessionSource, Sessions};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

const PRIMARIES: usize = 3;
const PROCESSES: usize = 3;
/// Chats of each process.
const CHATS: usize = 8;

fn main() -> Result<()> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let words: Vec<_> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["six", dir] => six(Path::new(dir)),
        ["serve", dir] => serve(dir, 20, false),
        ["serve", dir, seconds] => serve(dir, seconds.parse()?, false),
        ["serve", dir, seconds, "kill"] => serve(dir, seconds.parse()?, true),
        ["kill", dir] => kill(Path::new(dir)),
        ["end", dir] => end(Path::new(dir)),
        ["gateway", dir, number] => gateway(Path::new(dir), number.parse()?),
        _ => Err("six, serve, kill or end, and a directory".into()),
    }
}

/// A node that runs.
struct Node {
    port: u16,
    pid: u32,
}

/// The nodes, as `six` noted them.
fn nodes(dir: &Path) -> Result<Vec<Node>> {
    let text = fs::read_to_string(dir.join("nodes"))?;
    let node = |line: &str| {
        let (port, pid) = line.split_once(' ').ok_or("a line of the nodes is cut off")?;
        Ok(Node { port: port.parse()?, pid: pid.parse()? })
    };
    text.lines().map(node).collect()
}

/// Asks a node, once more if it takes too long: six of them start at once.
fn ask(port: u16, command: &[&str]) -> Result<String> {
    ask_once(port, command).or_else(|_| ask_once(port, command))
}

fn ask_once(port: u16, command: &[&str]) -> Result<String> {
    let client = redis::Client::open(format!("redis://127.0.0.1:{port}"))?;
    let mut connection = client.get_connection_with_timeout(Duration::from_secs(2))?;
    connection.set_read_timeout(Some(Duration::from_secs(2)))?;
    let mut request = redis::Cmd::new();
    for word in command {
        request.arg(*word);
    }
    Ok(request.query(&mut connection)?)
}

fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) -> Result<()> {
    let began = Instant::now();
    while !is_so() {
        if began.elapsed() > Duration::from_secs(30) {
            return Err(format!("waited too long: {what}").into());
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Starts six nodes, and makes a cluster of them.
fn six(dir: &Path) -> Result<()> {
    if dir.join("nodes").exists() {
        for node in nodes(dir)? {
            if runs(node.pid)? {
                // Their ids are noted in this directory only, and new ones would take their place.
                return Err(format!("process {} of an earlier `six` runs still: use `end` first", node.pid).into());
            }
        }
    }
    let server = std::env::var_os("CLOAKROOM_VALKEY").map_or_else(|| PathBuf::from("valkey-server"), PathBuf::from);
    // Below those that the system gives to connections, which may take one before its server does.
    let first = 10_000 + u16::try_from(std::process::id() % 20_000)?;
    let is_free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    let ports: Vec<u16> = (first..32_768).filter(is_free).take(PRIMARIES * 4).collect();
    let mut noted = String::new();
    for pair in ports.chunks(2) {
        let [port, bus] = [pair[0], pair[1]].map(|port| port.to_string());
        let home = dir.join(&port);
        fs::create_dir_all(&home)?;
        let mut command = Command::new(&server);
        command.args(["--port", &port, "--cluster-port", &bus, "--bind", "127.0.0.1", "--logfile", "log"]);
        command.args(["--cluster-enabled", "yes", "--cluster-node-timeout", "2000", "--repl-diskless-sync-delay", "0"]);
        // What a receipt needs.
        command.args(["--appendonly", "yes", "--appendfsync", "always", "--maxmemory-policy", "noeviction"]);
        command.args(["--save", "", "--dir"]).arg(&home);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        noted += &format!("{port} {}\n", child.id());
    }
    fs::write(dir.join("nodes"), noted)?;
    let nodes = nodes(dir)?;
    for node in &nodes {
        wait_for("a node answers", || ask(node.port, &["PING"]).is_ok())?;
    }
    let (first, bus) = (ports[0].to_string(), ports[1].to_string());
    for (n, node) in nodes.iter().enumerate() {
        ask(node.port, &["CLUSTER", "SET-CONFIG-EPOCH", &(n + 1).to_string()])?;
        ask(node.port, &["CLUSTER", "MEET", "127.0.0.1", &first, &bus])?;
    }
    for (n, node) in nodes.iter().enumerate() {
        if n < PRIMARIES {
            let [begin, end] = [n, n + 1].map(|n| n * 16384 / PRIMARIES);
            ask(node.port, &["CLUSTER", "ADDSLOTSRANGE", &begin.to_string(), &(end - 1).to_string()])?;
        } else {
            let primary = ask(nodes[n - PRIMARIES].port, &["CLUSTER", "MYID"])?;
            wait_for("a replica knows its primary", || ask(node.port, &["CLUSTER", "REPLICATE", &primary]).is_ok())?;
        }
    }
    for (n, node) in nodes.iter().enumerate() {
        let is_up = || {
            let says = |command: &[&str], what: &str| ask(node.port, command).is_ok_and(|said| said.contains(what));
            let role = if n < PRIMARIES { "state=online" } else { "master_link_status:up" };
            says(&["CLUSTER", "INFO"], "cluster_state:ok") && says(&["INFO", "replication"], role)
        };
        wait_for("the cluster is up", is_up)?;
    }
    println!("six nodes are up: {}", seeds(&nodes).join(" "));
    Ok(())
}

fn seeds(nodes: &[Node]) -> Vec<String> {
    nodes.iter().map(|node| format!("127.0.0.1:{}", node.port)).collect()
}

fn open(dir: &Path) -> Result<ClusterStore> {
    // This process is at work on nothing that a pass of pruning would have to know of.
    let guard = |_: &SessionKey| false;
    Ok(ClusterStore::open(ClusterOptions::new("gateway", seeds(&nodes(dir)?)).create(true).shards(256).guard(guard))?)
}

/// Sends a signal by the program `kill`, which takes numbers of processes and nothing else here.
fn signal(name: &str, pid: u32) -> Result<()> {
    let done = Command::new("kill").args([format!("-{name}"), pid.to_string()]).stderr(Stdio::null()).status()?;
    if done.success() { Ok(()) } else { Err(format!("no process {pid}").into()) }
}

/// Kills a primary.
fn kill(dir: &Path) -> Result<()> {
    let is_primary =
        |node: &&Node| ask(node.port, &["INFO", "replication"]).is_ok_and(|said| said.contains("role:master"));
    let nodes = nodes(dir)?;
    let victim = nodes.iter().find(is_primary).ok_or("no primary runs")?;
    signal("KILL", victim.pid)?;
    println!("killed the primary 127.0.0.1:{}", victim.port);
    Ok(())
}

/// Ends the nodes by their ids, and waits until they are gone, so that whoever called may remove their directory.
fn end(dir: &Path) -> Result<()> {
    let nodes = nodes(dir)?;
    for node in &nodes {
        // One was killed, maybe.
        let _ = signal("TERM", node.pid);
    }
    for node in &nodes {
        let patience = Instant::now() + Duration::from_secs(10);
        while runs(node.pid)? {
            if Instant::now() > patience {
                let _ = signal("KILL", node.pid);
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
    Ok(())
}

/// Whether a process is there, and not only the answer that nobody fetched from it.
fn runs(pid: u32) -> Result<bool> {
    let state = Command::new("ps").args(["-o", "stat=", "-p", &pid.to_string()]).output()?.stdout;
    Ok(!matches!(state.first(), None | Some(b'Z')))
}

/// One process of the gateway: each message is counted in its session, and answered once that is durable.
fn gateway(dir: &Path, number: usize) -> Result<()> {
    let store = open(dir)?;
    loop {
        for chat in 0..CHATS {
            let source = SessionSource {
                platform: "demo".into(),
                chat_type: "dm".into(),
                chat_id: Some(format!("{number}-{chat}")),
                ..SessionSource::default()
            };
            let answered = || -> cloakroom::Result<Option<u64>> {
                let key = store.resolve(&source)?.entry.key;
                let count = &mut |draft: &mut cloakroom::change::Draft<'_>| {
                    draft.entry.usage.input_tokens += 1;
                    Edit::Write
                };
                let Modified::Changed(written) = store.modify(&key, Touch::Yes, count)? else { return Ok(None) };
                written.receipt.wait()?;
                println!("{key} {}", written.entry.usage.input_tokens, key = key.as_str());
                Ok(Some(written.entry.usage.input_tokens))
            };
            // A gateway would send its answer after this, or say that it could not.
            if let Err(error) = answered() {
                println!("error {error}");
            }
        }
    }
}

/// What was awaited, by session key, and what went wrong.
#[derive(Default)]
struct Seen {
    awaited: BTreeMap<String, u64>,
    answers: u64,
    errors: BTreeMap<String, u64>,
    last: Option<Instant>,
    pause: Duration,
}

/// Runs the processes, and looks for all that they awaited.
fn serve(dir: &str, seconds: u64, kills: bool) -> Result<()> {
    let seen = Mutex::new(Seen::default());
    let mut children = Vec::new();
    for number in 0..PROCESSES {
        let mut command = Command::new(std::env::current_exe()?);
        children.push(command.args(["gateway", dir, &number.to_string()]).stdout(Stdio::piped()).spawn()?);
    }
    let stop = |children: &mut Vec<Child>| {
        for child in children {
            let _ = child.kill();
            let _ = child.wait();
        }
    };
    let killed = thread::scope(|scope| {
        for child in &mut children {
            let (said, seen) = (child.stdout.take(), &seen);
            scope.spawn(move || {
                for line in
                    said.into_iter().flat_map(|said| BufReader::new(said).lines()).map_while(std::io::Result::ok)
                {
                    let Ok(mut seen) = seen.lock() else { return };
                    match line.rsplit_once(' ') {
                        _ if line.starts_with("error ") => *seen.errors.entry(line).or_default() += 1,
                        Some((key, count)) => {
                            let count = count.parse().unwrap_or(0);
                            seen.awaited.insert(key.to_owned(), count);
                            seen.answers += 1;
                            let now = Instant::now();
                            seen.pause = seen.last.map_or(seen.pause, |last| seen.pause.max(now - last));
                            seen.last = Some(now);
                        }
                        None => {}
                    }
                }
            });
        }
        thread::sleep(Duration::from_secs(seconds) / 2);
        let killed = if kills { kill(Path::new(dir)) } else { Ok(()) };
        thread::sleep(Duration::from_secs(seconds) / 2);
        stop(&mut children);
        killed
    });
    killed?;
    let Seen { awaited, answers, errors, pause, .. } = seen.into_inner().map_err(|_| "a thread panicked")?;
    let store = open(Path::new(dir))?;
    let mut missing = 0;
    for (key, count) in &awaited {
        let found = store.get(&SessionKey::new(key.clone())?)?.map_or(0, |entry| entry.usage.input_tokens);
        if found < *count {
            println!("{key}: {found} of {count}");
            missing += 1;
        }
    }
    for (error, times) in errors {
        println!("{times} times: {error}");
    }
    println!("{answers} messages in {} sessions were awaited; the longest pause was {pause:.1?}", awaited.len());
    println!("{missing} sessions lack what was awaited");
    if missing == 0 && answers > 0 { Ok(()) } else { Err("something that was awaited is gone".into()) }
}
