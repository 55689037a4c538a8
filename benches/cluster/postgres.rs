//! The rows of a PostgreSQL, one server without a standby, beside awaited touches.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use ::postgres::{Client, Config, NoTls};
use cloakroom::cluster::ClusterStore;
use tempfile::TempDir;

use crate::common::{fast_dir, key};
use crate::nodes::{Cluster, wait_for};
use crate::rig::{self, Done, Servers};
use crate::rows::{SESSIONS, soon, touches};
use crate::{begin_sessions, pick};

/// A row as wide as an entry: 1 KB, most of it what a gateway says of the conversation.
const TABLE: &str = "
    CREATE TABLE sessions (
        key text PRIMARY KEY,
        id text NOT NULL,
        updated_at timestamptz NOT NULL,
        flags integer NOT NULL,
        input_tokens bigint NOT NULL,
        output_tokens bigint NOT NULL,
        details jsonb NOT NULL
    );
    CREATE INDEX ON sessions (updated_at);";
const FILL: &str = "
    INSERT INTO sessions
    SELECT key, md5(key), now(), 0, 0, 0, jsonb_build_object('origin', repeat('o', 300), 'name', repeat('n', 500))
    FROM unnest($1::text[]) AS key";
const UPDATE: &str = "UPDATE sessions SET updated_at = $2 WHERE key = $1";
/// What one caller collects of its touches, and sends together.
const BATCH: usize = 64;
const UPDATE_BATCH: &str = "UPDATE sessions SET updated_at = $2 WHERE key = ANY($1)";

/// The directory of its programs.
fn programs() -> Option<PathBuf> {
    let on_path = std::env::var_os("PATH").unwrap_or_default();
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut places: Vec<_> = std::env::split_paths(&on_path).collect();
    places.extend(versions.map(|version| version.path().join("bin")));
    places.into_iter().find(|place| place.join("initdb").exists() && place.join("postgres").exists())
}

/// Whom the server runs as where this is root, which it refuses.
fn somebody() -> Option<(u32, u32)> {
    rustix::process::geteuid().is_root().then(|| {
        let users = fs::read_to_string("/etc/passwd").unwrap();
        let user = ["postgres:", "nobody:"].iter().find_map(|name| users.lines().find(|line| line.starts_with(name)));
        let fields: Vec<_> = user.unwrap().split(':').collect();
        (fields[2].parse().unwrap(), fields[3].parse().unwrap())
    })
}

/// A server. It ends with this, and with the process.
struct Server {
    pid: u32,
    watcher: Child,
    open: Option<ChildStdin>,
    /// For questions about the server.
    asks: Mutex<Option<Client>>,
    dir: TempDir,
}

impl Server {
    fn start(programs: &Path) -> Self {
        let dir = std::env::var_os("CLOAKROOM_NODES").map_or_else(fast_dir, |dir| TempDir::new_in(dir).unwrap());
        let somebody = somebody();
        let program = |name: &str| {
            let mut command = Command::new(name);
            command.current_dir(dir.path()).env("LC_ALL", "C");
            if let Some((user, group)) = somebody {
                command.uid(user).gid(group);
            }
            command
        };
        if let Some((user, group)) = somebody {
            chown(dir.path(), Some(user), Some(group)).unwrap();
        }
        let initdb = programs.join("initdb");
        let made = program(initdb.to_str().unwrap())
            .args(["--auth=trust", "--username=bench", "--encoding=UTF8", "--no-sync", "data"])
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let script = r#""$@" >log 2>&1 & pid=$!; echo $pid; read -r _; kill -INT $pid 2>/dev/null; wait"#;
        let sockets = format!("unix_socket_directories={}", dir.path().display());
        let settings = ["listen_addresses=", &sockets, "synchronous_commit=on", "max_connections=300"];
        let mut watcher = program("sh")
            .args(["-c", script, "sh"])
            .arg(programs.join("postgres"))
            .args(["-D", "data"])
            .args(settings.iter().flat_map(|setting| ["-c", setting]))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(watcher.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let open = watcher.stdin.take();
        let server = Self { pid: line.trim().parse().unwrap(), watcher, open, asks: Mutex::default(), dir };
        wait_for("PostgreSQL answers", || server.try_connect().is_some());
        *server.asks.lock().unwrap() = server.try_connect();
        server
    }

    fn try_connect(&self) -> Option<Client> {
        Config::new().host_path(self.dir.path()).user("bench").dbname("postgres").connect(NoTls).ok()
    }

    fn connect(&self) -> Client {
        self.try_connect().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It waits until nobody is connected.
        drop(self.asks.lock().map(|mut client| client.take()));
        drop(self.open.take());
        let _ = self.watcher.wait();
    }
}

/// All of its processes, and its log.
impl Servers for Server {
    fn done(&self) -> Vec<Done> {
        let parent = format!(" {} ", self.pid);
        let processes = fs::read_dir("/proc").unwrap().flatten().filter_map(|process| {
            let stat = fs::read_to_string(process.path().join("stat")).ok()?;
            // The parent is the second after the name.
            let is_its = stat.rsplit_once(") ")?.1.get(1..)?.starts_with(&parent);
            (is_its || process.file_name().to_str() == Some(&self.pid.to_string())).then_some(process.path())
        });
        // In nanoseconds, for there are many processes, and each has little. None of them has a second thread.
        let ran = |process: PathBuf| -> Option<f64> {
            let stat = fs::read_to_string(process.join("schedstat")).ok()?;
            stat.split(' ').next()?.parse().ok()
        };
        let processor = processes.filter_map(ran).sum::<f64>() / 1e3;
        let written = "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint";
        let bytes: i64 = self.asks.lock().unwrap().as_mut().unwrap().query_one(written, &[]).unwrap().get(0);
        vec![Done { processor, bytes: bytes.try_into().unwrap() }]
    }
}

fn postgres(programs: &Path, time: Duration) {
    let server = Server::start(programs);
    let keys: Vec<_> = (0..SESSIONS).map(|n| key(n).as_str().to_owned()).collect();
    let mut client = server.connect();
    client.batch_execute(TABLE).unwrap();
    assert_eq!(client.execute(FILL, &[&keys]).unwrap(), SESSIONS as u64);
    client.batch_execute("VACUUM ANALYZE sessions").unwrap();
    let version: String = client.query_one("SHOW server_version", &[]).unwrap().get(0);
    println!("PostgreSQL {version}, synchronous_commit = on, no standby");
    for callers in [1, 8, 64, 256] {
        rig::run(&server, "UPDATE of a row", callers, time, &|caller| {
            let (mut client, keys) = (server.connect(), &keys);
            let update = client.prepare(UPDATE).unwrap();
            Box::new(move |turn| {
                let key = &keys[pick(caller, turn, SESSIONS)];
                assert_eq!(client.execute(&update, &[key, &SystemTime::now()]).unwrap(), 1);
            })
        });
    }
    // One caller: two would wait for each other's rows in an order that ends in a deadlock.
    let outcome = rig::run(&server, "UPDATE of 64 rows, not synchronous", 1, time, &|caller| {
        let (mut client, keys) = (server.connect(), &keys);
        client.batch_execute("SET synchronous_commit = off").unwrap();
        let update = client.prepare(UPDATE_BATCH).unwrap();
        Box::new(move |turn| {
            let batch: Vec<_> = (0..BATCH).map(|n| &keys[pick(caller, turn * BATCH + n, SESSIONS)]).collect();
            assert_eq!(client.execute(&update, &[&batch, &SystemTime::now()]).unwrap(), BATCH as u64);
        })
    });
    println!("{:>8.1} µs of the server for each row of them", outcome.processor / BATCH as f64);
}

pub fn run(time: Duration) {
    match programs() {
        Some(programs) => postgres(&programs, time),
        None => println!("PostgreSQL is not installed, so its rows are left out"),
    }
    let cluster = Cluster::six();
    let store = &ClusterStore::open(cluster.options().shards(4096)).unwrap();
    begin_sessions(store, SESSIONS);
    for callers in [1, 8, 64, 256] {
        touches(&cluster, store, SESSIONS, true, callers, time);
    }
    touches(&cluster, store, SESSIONS, false, 64, time);
    soon(&cluster, store, 64, time);
}
