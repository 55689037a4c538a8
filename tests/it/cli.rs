//! Tests of the program: each runs the real binary on a store of its own.

mod change;
mod keep;
mod lifecycle;
mod mounts;
mod read;
mod refused;
mod scripts;
mod transfer;
mod whole;
mod zones;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use cloakroom::change::{Draft, Edit, Touch};
use cloakroom::time::{Clock, ManualClock, SystemClock};
use cloakroom::{Options, SessionKey, SessionSource, SessionStore, Timestamp};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::behind::open_sled;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

const GROUP: &str = "agent:main:discord:group:1234:5678";
const DM: &str = "agent:main:telegram:dm:99";
const THREAD: &str = "agent:main:discord:thread:1234:777";
const OLD: &str = "agent:main:slack:dm:42";

/// A store with four entries, the youngest first: `GROUP` (idle for two hours, with metadata), `DM` (40 days),
/// `THREAD` (100 days, suspended), `OLD` (100 days and an hour).
struct Prepared {
    _dir: TempDir,
    db: PathBuf,
}

impl Prepared {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let db = dir.path().join("store");
        Self::in_directory(&db);
        Self { _dir: dir, db }
    }

    /// Makes the store at `db`.
    fn in_directory(db: &Path) {
        let now = SystemClock::new().now();
        let clock = ManualClock::new(now.saturating_sub(100 * DAY + Duration::from_secs(3600)));
        let store = SessionStore::open(Options::new(db).create(true).clock(clock.clone())).unwrap();
        let resolve = |key: &str, source: SessionSource| {
            assert_eq!(store.resolve(&source).unwrap().entry.key.as_str(), key);
        };
        resolve(OLD, source("slack", "dm", "42", None, "someone"));
        clock.advance(Duration::from_secs(3600));
        resolve(THREAD, source("discord", "thread", "1234", Some("777"), "5678"));
        store.suspend(&key(THREAD)).unwrap().unwrap();
        clock.advance(60 * DAY);
        resolve(DM, source("telegram", "dm", "99", None, "31"));
        clock.advance(40 * DAY - Duration::from_secs(7200));
        resolve(GROUP, source("discord", "group", "1234", None, "5678"));
        let metadata = json!({"topic": "tea", "big": 12_345_678_901_234_567_u64});
        store.set_metadata(&key(GROUP), metadata.as_object().unwrap()).unwrap().unwrap();
        store.update(&key(GROUP), |details| details.display_name = Some("a\u{1b}[2Jb".into())).unwrap().unwrap();
        store.close().unwrap();
    }

    fn open(&self) -> SessionStore {
        SessionStore::open(Options::new(&self.db)).unwrap()
    }

    /// Adds entries to the four, each with a kilobyte.
    fn fill(&self, entries: usize) {
        let store = self.open();
        let metadata = json!({"text": "x".repeat(1000)});
        for chat in 0..entries {
            let source = source("discord", "group", &format!("more{chat}"), None, "1");
            let found = store.resolve(&source).unwrap();
            store.set_metadata(&found.entry.key, metadata.as_object().unwrap()).unwrap().unwrap();
        }
        store.close().unwrap();
    }

    fn id(&self, text: &str) -> String {
        self.open().get(&key(text)).unwrap().unwrap().session_id.to_string()
    }

    /// Runs a command on the store.
    fn run(&self, args: &[&str]) -> Ran {
        run(&self.db, args)
    }

    /// Runs it and expects success, with nothing on standard error.
    fn ok(&self, args: &[&str]) -> Ran {
        let ran = self.run(args);
        assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{args:?}: {}", ran.out);
        ran
    }

    /// Changes a tree behind the store's back.
    fn vandalize(&self, tree: &str, change: impl FnOnce(&sled::Tree)) {
        let db = open_sled(&sled::Config::new().path(self.db.join("sled"))).unwrap();
        change(&db.open_tree(tree).unwrap());
        db.flush().unwrap();
    }
}

fn source(platform: &str, chat_type: &str, chat: &str, thread: Option<&str>, user: &str) -> SessionSource {
    SessionSource {
        platform: platform.into(),
        chat_type: chat_type.into(),
        chat_id: Some(chat.into()),
        chat_name: Some(format!("chat {chat}")),
        thread_id: thread.map(Into::into),
        user_id: Some(user.into()),
        ..SessionSource::default()
    }
}

fn key(text: &str) -> SessionKey {
    text.parse().unwrap()
}

fn set_last_interaction(store: &SessionStore, text: &str) {
    let set = |draft: &mut Draft<'_>| {
        draft.entry.last_interaction = Some(draft.entry.updated_at);
        Edit::Write
    };
    let _ = store.modify(&key(text), Touch::No, set).unwrap();
}

/// What a command did.
#[derive(Debug)]
struct Ran {
    code: i32,
    out: String,
    err: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().expect("it ended by itself"),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

impl Ran {
    /// Standard output as one JSON value.
    fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {}", self.out))
    }

    /// Likewise, without the numbers that stand beside times: `scripts.rs` looks at those.
    fn json_without_epochs(&self) -> Value {
        let mut value = self.json();
        if let Some(fields) = value.as_object_mut() {
            fields.retain(|name, _| !name.ends_with("_epoch"));
        }
        value
    }

    /// Standard output as one JSON value a line.
    fn json_lines(&self) -> Vec<Value> {
        self.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// The session keys of JSON lines.
    fn keys(&self) -> Vec<String> {
        self.json_lines().iter().map(|line| line["session_key"].as_str().unwrap().to_owned()).collect()
    }

    /// Expects a failure told in one line on standard error, which holds all of `parts`, and no data.
    fn failed(&self, code: i32, parts: &[&str]) {
        assert_eq!((self.code, self.out.as_str()), (code, ""), "{}", self.err);
        self.error_line(parts);
    }

    /// Expects one line on standard error, which holds all of `parts`.
    fn error_line(&self, parts: &[&str]) {
        assert!(self.err.starts_with("error: "), "{}", self.err);
        assert_eq!(self.err.lines().count(), 1, "{}", self.err);
        for part in parts {
            assert!(self.err.contains(part), "{part:?} is not in {}", self.err);
        }
    }

    /// The value of a line of a table of two columns.
    fn row(&self, name: &str) -> &str {
        let values = self.out.lines().filter_map(|line| line.trim_start().strip_prefix(name)?.strip_prefix("  "));
        let mut values = values.map(str::trim);
        values.next().unwrap_or_else(|| panic!("no line {name:?} in\n{}", self.out))
    }
}

fn run(db: &Path, args: &[&str]) -> Ran {
    command(db, args).output().unwrap().into()
}

/// The program, with nothing of the tester's surroundings that could change what it prints.
fn command(db: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cloakroom"));
    command.args(args).arg("--db").arg(db).env_remove("CLOAKROOM_LOG").env("TZ", "UTC").stdin(Stdio::null());
    command
}

fn timestamp(value: &Value) -> Timestamp {
    serde_json::from_value(value.clone()).unwrap()
}
