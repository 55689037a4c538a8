//! The command line on a store that somebody has open.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use cloakroom::live::{Client, LiveOptions};
use cloakroom::time::ManualClock;
use cloakroom::{Options, SessionStore, Timestamp};
use tempfile::TempDir;

use super::*;
use crate::callbacks::within;
use crate::common::{fast_dir, open_yielded};

/// Later than all times of the fixtures: 2026-11-01.
const NOW: Timestamp = Timestamp::from_micros(1_793_491_200_000_000);

/// A store that nobody has open, and a copy of it that this process has, with a view.
struct Both {
    _dir: TempDir,
    stopped: PathBuf,
    running: PathBuf,
    store: SessionStore,
    live: Live,
}

#[derive(Debug, PartialEq)]
struct Ran {
    code: Option<i32>,
    out: String,
}

fn program(db: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cloakroom"));
    let command = command.args(args).arg("--db").arg(db).env("TZ", "UTC");
    command.env_remove("CLOAKROOM_LOG").env("CLOAKROOM_TEST_NOW", NOW.to_string());
    command.stdin(Stdio::null()).output().unwrap()
}

fn ran(output: &Output) -> Ran {
    Ran { code: output.status.code(), out: String::from_utf8(output.stdout.clone()).unwrap() }
}

impl Both {
    /// From a fixture of a gateway.
    fn of(fixture: &str) -> Self {
        let dir = fast_dir();
        let (stopped, running) = (dir.path().join("stopped"), dir.path().join("running"));
        let file = file_of(fixture, dir.path());
        // What is bad in it is left out, which the exit code tells.
        program(&stopped, &["migrate", &file, "--timezone", "UTC"]);
        copy(&stopped, &running);
        let store = SessionStore::open(Options::new(&running).clock(ManualClock::new(NOW))).unwrap();
        let live = Live::serve(&store, LiveOptions::new().guard(|_: &SessionKey| false)).unwrap();
        Self { _dir: dir, stopped, running, store, live }
    }

    /// Runs a command on both, and expects the same of it.
    fn same(&self, args: &[&str]) -> Ran {
        let (stopped, asked) = (program(&self.stopped, args), program(&self.running, args));
        assert_eq!(ran(&asked), ran(&stopped), "{args:?}: {}", String::from_utf8_lossy(&asked.stderr));
        let said = format!("asked process {} on ", std::process::id());
        assert!(String::from_utf8_lossy(&asked.stderr).starts_with(&said), "{args:?}: {asked:?}");
        ran(&stopped)
    }

    fn keys(&self) -> Vec<String> {
        self.store.keys("").unwrap().map(|key| key.unwrap().as_str().to_owned()).collect()
    }
}

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures");

/// All fixtures: files and databases of both gateways.
fn fixtures() -> Vec<String> {
    let folders = ["hermes", "openclaw", "databases"];
    let mut found = Vec::new();
    for folder in folders {
        for file in std::fs::read_dir(format!("{ROOT}/{folder}")).unwrap() {
            let name = file.unwrap().file_name().into_string().unwrap();
            let is_database = name.ends_with(".sql");
            if is_database && cfg!(feature = "sqlite") || name.ends_with(".json") && folder != "databases" {
                found.push(format!("{folder}/{name}"));
            }
        }
    }
    assert!(found.len() >= 7, "{found:?}");
    found.sort();
    found
}

/// The file to import: a database is made of its text first.
fn file_of(fixture: &str, directory: &Path) -> String {
    let path = format!("{ROOT}/{fixture}");
    #[cfg(feature = "sqlite")]
    if fixture.ends_with(".sql") {
        let database = directory.join("state.db");
        let made = rusqlite::Connection::open(&database).unwrap();
        made.execute_batch(&std::fs::read_to_string(path).unwrap()).unwrap();
        return database.display().to_string();
    }
    let _ = directory;
    path
}

#[test]
fn what_is_printed_is_the_same_byte_for_byte() {
    for fixture in fixtures() {
        let both = Both::of(&fixture);
        assert_eq!(both.store.is_empty(), fixture == "openclaw/empty.json", "{fixture}");
        let looks: [&[&str]; 12] = [
            &["list"],
            &["list", "--json", "--limit", "all"],
            &["list", "--limit", "2"],
            &["list", "--suspended", "--platform", "discord"],
            &["list", "--idle", "1d", "--json"],
            &["turns"],
            &["leases", "--json"],
            &["verify"],
            &["verify", "--json"],
            &["export", "--format", "hermes"],
            &["export", "--format", "openclaw"],
            &["export", "--format", "jsonl"],
        ];
        for args in looks {
            both.same(args);
        }
        for (n, key) in both.keys().iter().enumerate() {
            if n < 3 {
                both.same(&["show", key]);
                both.same(&["show", key, "--json"]);
                let id = both.store.get(&key.parse().unwrap()).unwrap().unwrap().session_id.to_string();
                both.same(&["find", &id]);
                both.same(&["find", &id, "--json"]);
            }
        }
        both.same(&["prune", "--max-age-days", "30", "--dry-run", "--json"]);
        both.same(&["prune", "--max-age-days", "30", "--dry-run"]);
        both.same(&["resume-pending"]);
        both.same(&["show", "nobody"]);
        both.same(&["find", "nobody", "--json"]);
        // What a running store has and a stopped one has not is left out.
        let mut stats = [&both.stopped, &both.running]
            .map(|db| -> Value { serde_json::from_slice(&program(db, &["stats", "--json"]).stdout).unwrap() });
        for stats in &mut stats {
            stats
                .as_object_mut()
                .unwrap()
                .retain(|name, _| !["bytes_on_disk", "last_commit", "pending"].contains(&&**name));
        }
        assert_eq!(stats[0], stats[1], "{fixture}");
        // The width of a table is that of its longest figure.
        let tables = [&both.stopped, &both.running].map(|db| {
            let table = String::from_utf8(program(db, &["stats"]).stdout).unwrap();
            let lines = table.lines().filter(|line| !line.starts_with("on disk"));
            lines.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect::<Vec<_>>()
        });
        assert!(tables[0].len() >= 2 && tables[0] == tables[1], "{fixture}: {tables:?}");
        // A backup tells the last commit; what is restored of it is the same.
        let restored = [&both.stopped, &both.running].map(|db| {
            let (backup, restored) = (db.with_extension("backup"), db.with_extension("restored"));
            assert!(program(db, &["backup", backup.to_str().unwrap()]).status.success());
            assert!(program(&restored, &["restore", backup.to_str().unwrap()]).status.success());
            ran(&program(&restored, &["export", "--format", "jsonl"]))
        });
        assert_eq!(restored[0], restored[1], "{fixture}");
    }
}

#[test]
fn what_changes_is_the_same_too() {
    for fixture in fixtures() {
        let both = Both::of(&fixture);
        let keys = both.keys();
        if keys.is_empty() {
            continue;
        }
        let key = keys[0].as_str();
        for verb in ["suspend", "unsuspend", "pin", "unpin"] {
            both.same(&[verb, key]);
            both.same(&[verb, key, "--json"]);
        }
        both.same(&["resume-pending", key, "--reason", "a test", "--json"]);
        both.same(&["resume-pending", key, "--clear"]);
        both.same(&["suspend", key]);
        both.same(&["resume-pending", key]);
        both.same(&["suspend", "nobody", "--json"]);
        // The new id is random.
        let resets = [&both.stopped, &both.running].map(|db| {
            let mut reset: Value = serde_json::from_slice(&program(db, &["reset", key, "--json"]).stdout).unwrap();
            assert!(reset.as_object_mut().unwrap().remove("session_id").is_some());
            reset
        });
        assert_eq!(resets[0], resets[1]);
        both.same(&["remove", "--prefix", "agent:", "--expect", "1000", "--json"]);
        both.same(&["remove", "--prefix", "agent:"]);
        let last = keys.last().unwrap();
        both.same(&["remove", last, "--json"]);
        both.same(&["prune", "--max-age-days", "1"]);
        both.same(&["prune", "--max-age-days", "1", "--yes", "--json"]);
        let left = both.store.count_prefix("agent:").unwrap().to_string();
        both.same(&["remove", "--prefix", "agent:", "--expect", &left, "--json"]);
        assert_eq!(both.store.count_prefix("agent:").unwrap(), 0);
    }
}

#[test]
fn a_backup_and_an_export_to_a_file_are_whole() {
    let both = Both::of("hermes/discord-threads.json");
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| dir.path().join(name).display().to_string();
    for (n, db) in [&both.stopped, &both.running].into_iter().enumerate() {
        let name = file(&format!("backup{n}"));
        let output = program(db, &["backup", &name, "--json"]);
        assert!(output.status.success(), "{output:?}");
        let again = program(db, &["backup", &name]);
        assert!(!again.status.success() && String::from_utf8_lossy(&again.stderr).contains("--force"), "{again:?}");
        let restored = dir.path().join(format!("restored{n}"));
        let restore = program(&restored, &["restore", &name]);
        assert!(restore.status.success(), "{restore:?}");
        let export = file(&format!("export{n}"));
        assert!(program(db, &["export", "--format", "jsonl", "--output", &export]).status.success());
    }
    let read = |name: &str| std::fs::read(file(name)).unwrap();
    assert!(!read("export0").is_empty() && read("export0") == read("export1"));
    let piped = program(&both.running, &["backup", "-"]).stdout;
    assert_eq!(piped.len(), read("backup1").len());
}

#[test]
fn who_is_asked_can_be_chosen() {
    let both = Both::of("hermes/small.json");
    let offline = program(&both.running, &["list", "--offline"]);
    let said = String::from_utf8_lossy(&offline.stderr).into_owned();
    assert_eq!((offline.status.code(), offline.stdout.is_empty()), (Some(1), true));
    assert!(said.contains("is in use by process") && said.contains("stop that program first"), "{said}");
    let live = program(&both.running, &["list", "--live"]);
    assert!(live.status.success() && live.stderr.is_empty(), "{live:?}");
    let stopped = program(&both.stopped, &["list", "--live", "--json"]);
    assert_eq!(stopped.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&stopped.stdout).contains("\"kind\":\"not_served\""), "{stopped:?}");
    let said = String::from_utf8_lossy(&stopped.stderr).into_owned();
    assert!(said.contains("nobody serves a live view") && said.contains("leave out --live"), "{said}");
    for args in [&["list", "--live"][..], &["top", "--live"], &["web", "--live"]] {
        let nowhere = program(&both.stopped.with_extension("nowhere"), args);
        let said = String::from_utf8_lossy(&nowhere.stderr).into_owned();
        assert!(nowhere.status.code() == Some(1) && said.contains("there is no store at"), "{args:?}: {said}");
    }
    assert_eq!(program(&both.stopped, &["list", "--live", "--offline"]).status.code(), Some(2));
    let alone: [&[&str]; 5] = [
        &["compact"],
        &["verify", "--repair"],
        &["turns", "--recover", "1h"],
        &["forget", "a", "--yes"],
        &["restore", "nothing"],
    ];
    for args in alone {
        let refused = program(&both.stopped, &[args, &["--live"]].concat());
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(refused.status.code() == Some(2) && said.contains("leave --live out"), "{args:?}: {said}");
    }
    // What needs the store to itself says so as ever.
    for args in [&["compact"][..], &["verify", "--repair"], &["rename", "a", "b", "--yes"], &["forget", "a", "--yes"]] {
        let output = program(&both.running, args);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains("stop that program first") && !said.contains("asked"), "{args:?}: {said}");
    }
}

/// A store whose holder offers no view.
#[test]
fn a_holder_without_a_view_is_named_and_told_what_it_could_do() {
    let Both { _dir, running, store, live, .. } = Both::of("hermes/small.json");
    live.close();
    for args in [&["list"][..], &["suspend", "x"], &["top"], &["tail"], &["backup", "/dev/null"]] {
        let output = program(&running, args);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let holder = format!("is in use by process {}", std::process::id());
        assert!(
            said.contains(&holder) && said.contains("`Live::serve`") && said.contains("stop that program"),
            "{said}"
        );
        assert_eq!(said.lines().count(), 1, "{said}");
        assert_eq!(output.status.code(), Some(1));
    }
    drop(store);
}

#[test]
fn pruning_asks_the_gateway_what_is_running() {
    let Both { _dir, running, store, live, .. } = Both::of("hermes/small.json");
    live.close();
    // All of it is at work.
    let live = Live::serve(&store, LiveOptions::new().guard(|_: &SessionKey| true)).unwrap();
    let before = store.len();
    let output = program(&running, &["prune", "--max-age-days", "1", "--yes", "--json"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&report["removed"], store.len()), (&0.into(), before));
    assert!(report["kept_active"].as_u64().unwrap() > 0, "{report}");
    drop(live);
    let live = Live::serve(&store, LiveOptions::new()).unwrap();
    let output = program(&running, &["prune", "--max-age-days", "1", "--yes", "--json"]);
    assert!(String::from_utf8_lossy(&output.stdout).contains("\"kind\":\"no_guard\""), "{output:?}");
    drop(live);
}

#[test]
fn top_prints_one_screen_where_there_is_no_terminal() {
    let both = Both::of("hermes/small.json");
    for db in [&both.running, &both.stopped] {
        let output = program(db, &["top"]);
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.starts_with("cloakroom ") && text.contains("touches/s") && text.contains("  KEY\n"), "{text}");
        assert!(text.contains(&both.keys()[0]), "{text}");
    }
}

/// A terminal with `top` on it.
struct Terminal {
    control: std::fs::File,
    top: std::process::Child,
}

impl Terminal {
    fn new(db: &Path, args: &[&str]) -> Self {
        use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
        let control = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&control).unwrap();
        unlockpt(&control).unwrap();
        let size = rustix::termios::Winsize { ws_row: 30, ws_col: 120, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(&control, size).unwrap();
        let name = ptsname(&control, Vec::new()).unwrap();
        let screen = std::fs::OpenOptions::new().read(true).write(true).open(name.to_str().unwrap()).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_cloakroom"));
        command.arg("top").args(args).arg("--db").arg(db).stderr(Stdio::piped());
        let top = command.stdin(screen.try_clone().unwrap()).stdout(screen).spawn().unwrap();
        Self { control: control.into(), top }
    }

    /// Reads until a text is there.
    fn until(&mut self, text: &str) {
        let mut seen = Vec::new();
        while !String::from_utf8_lossy(&seen).contains(text) {
            let mut some = [0; 4096];
            let read = self.control.read(&mut some).unwrap();
            seen.extend_from_slice(&some[..read]);
        }
    }

    /// How it ended, and what it said.
    fn ended(self) -> (bool, String) {
        // What is printed last is read, so that it does not wait for that.
        let Self { mut control, top } = self;
        let reader = std::thread::spawn(move || while control.read(&mut [0; 4096]).is_ok_and(|read| read > 0) {});
        let output = top.wait_with_output().unwrap();
        reader.join().unwrap();
        (output.status.success(), String::from_utf8(output.stderr).unwrap())
    }
}

#[test]
fn top_draws_itself_anew_and_ends_with_q() {
    let both = Both::of("hermes/small.json");
    // As much of a key as fits.
    let (running, key) = (both.running.clone(), both.keys()[0][..20].to_owned());
    let ended = within("its end", move || {
        let mut terminal = Terminal::new(&running, &["--every", "10ms"]);
        for _ in 0..3 {
            terminal.until("touches/s");
            terminal.until(&key);
        }
        terminal.control.write_all(b"q").unwrap();
        terminal.ended()
    });
    assert!(ended.0 && ended.1.starts_with("asked process"), "{ended:?}");
}

/// However long its pause is.
#[test]
fn top_yields_a_store_to_a_gateway() {
    let both = Both::of("hermes/small.json");
    let stopped = both.stopped.clone();
    let ended = within("its end", move || {
        let mut terminal = Terminal::new(&stopped, &["--every", "1h"]);
        terminal.until("touches/s");
        let store = open_yielded(&Options::new(&stopped));
        assert!(!store.is_empty());
        terminal.ended()
    });
    assert!(ended.0 && ended.1.contains("a gateway has opened the store"), "{ended:?}");
}

/// A store that nobody else has is closed, and a terminal is as it was.
#[test]
fn top_and_tail_end_when_the_system_asks() {
    use rustix::process::{Pid, Signal, kill_process};
    let both = Both::of("hermes/small.json");
    let (running, stopped) = (both.running.clone(), both.stopped.clone());
    for (db, signal) in
        [(&running, Signal::TERM), (&stopped, Signal::TERM), (&stopped, Signal::HUP), (&stopped, Signal::INT)]
    {
        let db = db.clone();
        let ended = within("its end", move || {
            let mut terminal = Terminal::new(&db, &["--every", "1h"]);
            terminal.until("touches/s");
            kill_process(Pid::from_child(&terminal.top), signal).unwrap();
            // It shows the cursor again.
            terminal.until("\x1b[?25h");
            terminal.ended()
        });
        assert!(ended.0, "{signal:?}: {}", ended.1);
        assert!(!ended.1.contains("a gateway has opened"), "{}", ended.1);
    }
    for signal in [Signal::TERM, Signal::HUP, Signal::INT] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cloakroom"));
        let mut tail = command.args(["tail", "--db"]).arg(&stopped).stdout(Stdio::piped()).spawn().unwrap();
        let (db, socket) = (stopped.clone(), stopped.join("live.sock"));
        let ended = within("its end", move || {
            while !socket.exists() {
                std::thread::yield_now();
            }
            kill_process(Pid::from_child(&tail), signal).unwrap();
            tail.wait().unwrap()
        });
        assert!(ended.success(), "{signal:?}: {ended}");
        let store = SessionStore::open(Options::new(db)).unwrap();
        assert!(store.open_report().clean, "{signal:?}");
        store.close().unwrap();
    }
}

#[test]
fn tail_prints_events_as_they_happen() {
    let both = Both::of("hermes/small.json");
    let client = Client::at(both.live.socket()).unwrap();
    let key: SessionKey = both.keys()[0].parse().unwrap();
    for json in [true, false] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cloakroom"));
        command.args(["tail", "--count", "2", "--db"]).arg(&both.running).stdout(Stdio::piped()).env("TZ", "UTC");
        if json {
            command.arg("--json");
        }
        let mut tail = command.spawn().unwrap();
        // Until it listens, what happens is told to nobody: so it happens again.
        while tail.try_wait().unwrap().is_none() {
            both.store.suspend(&key).unwrap().unwrap();
            both.store.unsuspend(&key).unwrap().unwrap();
            // Not faster than the view takes them.
            client.get::<Value>("/v1/store").unwrap();
        }
        let mut text = String::new();
        tail.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text.lines().count(), 2, "{text}");
        for line in text.lines() {
            assert!(line.contains("suspended") && line.contains(key.as_str()), "{line}");
            assert_eq!(serde_json::from_str::<Value>(line).is_ok(), json, "{line}");
        }
    }
}
