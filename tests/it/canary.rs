//! What the log at debug and above, errors and panics say holds nothing of who chats with whom.
//!
//! A child does everything with ids, names and texts that all hold one random marker, also with bad input, damaged
//! records and guards that fail. The marker must not be in what it said. Paths are left out: they are the operator's.

use std::error::Error as _;
use std::fmt::{Debug, Write as _};
use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cloakroom::change::Repoint;
use cloakroom::export::{ExportFormat, ExportOptions};
use cloakroom::import::ImportOptions;
use cloakroom::prune::Verdict;
use cloakroom::query::Filter;
use cloakroom::reset::{ResetPolicies, ResetPolicy};
use cloakroom::source::KeyPolicy;
use cloakroom::time::ManualClock;
use cloakroom::watcher::WatcherConfig;
use cloakroom::{
    Error, Options, PrunePolicy, Revision, SessionId, SessionKey, SessionSource, SessionStore, Usage, Watcher,
};
use serde_json::{Map, json};

use crate::behind::open_sled;
use crate::common::{NEVER, NOW, fast_dir};
use crate::rig::CHILD_PART;

const MAIN: &str = "canary::child_main";
const DAY: Duration = Duration::from_secs(86_400);

/// All that was said.
#[derive(Clone, Default)]
pub(crate) struct Said(pub(crate) Arc<Mutex<Vec<u8>>>);

impl Write for Said {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Said {
    fn line(&self, text: &str) {
        writeln!(self.clone(), "{text}").unwrap();
    }

    /// Takes an error down, with its causes, in both ways of printing.
    fn note<T>(&self, result: Result<T, Error>) -> Option<T> {
        result.inspect_err(|error| self.error(error)).ok()
    }

    fn error(&self, error: &Error) {
        let mut text = format!("ERROR {error} {error:?}");
        let mut source = error.source();
        while let Some(cause) = source {
            let _ = write!(text, " {cause} {cause:?}");
            source = cause.source();
        }
        self.line(&text);
    }

    fn debug(&self, value: impl Debug) {
        self.line(&format!("DEBUG {value:?}"));
    }
}

#[test]
fn child_main() {
    let Some(marker) = std::env::var(CHILD_PART).ok().and_then(|part| Some(part.strip_prefix("canary ")?.to_owned()))
    else {
        return;
    };
    let said = Said::default();
    let writer = said.clone();
    tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::DEBUG)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .init();
    let (panics, own) = (said.clone(), format!("guard {marker}"));
    std::panic::set_hook(Box::new(move |panic| {
        // The guard's own words are its own.
        let text = panic.payload().downcast_ref::<String>();
        if text.is_none_or(|text| *text != own) {
            panics.line(&format!("PANIC {panic}"));
        }
    }));
    let dir = fast_dir();
    let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let clock = ManualClock::new(NOW);
        let options = Options::new(dir.path().join("db")).create(true).commit_interval(NEVER).clock(clock.clone());
        work(&marker, &said, &clock, &options);
        imports(&marker, &said, &options);
        damaged(&marker, &said, &options, dir.path());
    }));
    print!("\nSAID\n{}", String::from_utf8_lossy(&said.0.lock().unwrap()));
    assert!(done.is_ok(), "the child failed");
}

fn source(marker: &str, n: usize) -> SessionSource {
    let raw = |what: &str| Some(format!("{marker}{what}{n}"));
    SessionSource {
        platform: "discord".into(),
        chat_type: "group".into(),
        chat_id: raw("chat"),
        chat_name: raw("chat name"),
        user_id: raw("user"),
        user_name: raw("user name"),
        thread_id: None,
        chat_topic: raw("topic"),
        user_id_alt: raw("alt"),
        chat_id_alt: raw("chat alt"),
        scope_id: raw("scope"),
        guild_id: raw("guild"),
        parent_chat_id: raw("parent"),
        message_id: raw("message"),
        profile: raw("profile"),
        prospective_thread_id: raw("thread to come"),
    }
}

fn key(marker: &str, n: usize) -> SessionKey {
    SessionKey::for_source(&source(marker, n), &KeyPolicy::default()).unwrap()
}

/// Every verb, on entries that are there and on one that is not.
fn verbs(marker: &str, said: &Said, store: &SessionStore) {
    let usage = Usage { input_tokens: 1, total_tokens: 1, ..Usage::ZERO };
    for n in 0..12 {
        let key = key(marker, n);
        let id = SessionId::new(format!("{marker}-session-{n}")).unwrap();
        let metadata = Map::from_iter([(format!("{marker} field"), json!(format!("{marker} text")))]);
        said.note(store.get(&key)).inspect(|entry| said.debug(entry.as_ref().map(|entry| &entry.details)));
        said.note(store.get_with_extras(&key)).flatten().inspect(|(_, extras)| said.debug(extras));
        said.note(store.contains(&key));
        said.note(store.touch(&key)).inspect(|receipt| said.debug(receipt));
        said.note(store.record_usage(&key, &usage));
        said.note(store.update(&key, |details| details.display_name = Some(format!("{marker} shown"))));
        said.note(store.set_metadata(&key, &metadata));
        let too_large = Map::from_iter([(marker.to_owned(), json!(marker.repeat(100_000)))]);
        said.note(store.set_metadata(&key, &too_large));
        said.note(store.mark_resume_pending(&key, &format!("{marker} asked")));
        said.note(store.clear_resume_pending(&key));
        said.note(store.suspend(&key));
        said.note(store.unsuspend(&key));
        said.note(store.reset(&key));
        said.note(store.repoint(&key, id.clone(), &Repoint::new()));
        said.note(store.find_by_session_id(&id));
        if let Some(Some(begun)) = said.note(store.begin_turn(&key)) {
            said.note(store.end_turn(&key, begun.token));
            said.note(store.begin_turn(&key));
        }
        if let Some(Some(mut entry)) = said.note(store.get(&key)) {
            entry.revision = Revision::NONE;
            said.note(store.remove_if(&key, &entry));
        }
    }
    said.note(store.turns()).inspect(|turns| said.debug(turns));
    said.note(store.recover_interrupted_turns(DAY)).inspect(|done| said.debug(done));
    for row in said.note(store.iter(Filter::default())).into_iter().flatten() {
        said.note(row).inspect(|row| said.debug(&row.key));
    }
    said.note(store.recent(100, None));
    said.note(store.stats()).inspect(|stats| said.debug(stats));
    said.note(store.verify()).inspect(|found| {
        said.debug(found);
        said.line(&serde_json::to_string(found).unwrap());
        found.violations.iter().for_each(|violation| said.line(&violation.to_string()));
    });
    for format in [ExportFormat::Hermes, ExportFormat::OpenClaw, ExportFormat::Jsonl] {
        said.note(store.export(std::io::sink(), &ExportOptions::new(format))).inspect(|report| said.debug(report));
    }
    said.note(store.flush());
}

fn work(marker: &str, said: &Said, clock: &ManualClock, options: &Options) {
    let store = said.note(SessionStore::open(options.clone())).unwrap();
    said.note(SessionStore::open(options.clone()));
    let events = store.events(1000);
    for n in 0..10 {
        store.resolve(&source(marker, n)).unwrap();
    }
    verbs(marker, said, &store);
    for text in ["/{m}", "C:{m}", "{m}..", "{m}\n", "_{m}"] {
        let text = text.replace("{m}", marker);
        said.note(SessionKey::new(&text).map_err(Error::InvalidKey));
        said.note(SessionId::new(&text).map_err(Error::InvalidId));
        said.note(store.resolve(&SessionSource { chat_id: Some(text), ..source(marker, 1) }));
    }
    let zone = format!("{marker}/Nowhere").parse::<cloakroom::TimeZone>();
    assert!(zone.is_err(), "its message repeats what an operator typed, and is left out");

    // Guards that fail, each in its way.
    clock.advance(200 * DAY);
    let policy = PrunePolicy::max_age_days(90).max_active_age(500 * DAY);
    let words = format!("guard {marker}");
    let fails = |_: &SessionKey| -> Result<bool, String> { Err(words.clone()) };
    said.note(store.prune_dry_run(&policy, fails)).inspect(|report| said.debug(report));
    let due = ResetPolicies::new(ResetPolicy::idle(1));
    let resets = |guard: &(dyn Fn(&SessionKey) -> Verdict + Sync)| {
        let asked = AtomicBool::new(false);
        let guard = |key: &SessionKey| {
            asked.store(true, Ordering::Relaxed);
            guard(key)
        };
        said.note(store.resolve_with(&source(marker, 0), &due, guard));
        assert!(asked.into_inner(), "nothing was due");
        clock.advance(DAY);
    };
    resets(&|key| fails(key).into());
    resets(&|_| std::panic::panic_any(words.clone()));
    clock.advance(200 * DAY);
    said.note(store.prune(&policy, |_: &SessionKey| -> bool { std::panic::panic_any(words.clone()) }))
        .inspect(|report| said.debug(report));
    let config = WatcherConfig { policy, ..WatcherConfig::default() };
    let of_watcher = words.clone();
    let panics = move |_: &SessionKey| -> bool { std::panic::panic_any(of_watcher.clone()) };
    let watcher = said.note(Watcher::spawn(&store, config, panics)).unwrap();
    said.debug(watcher.reports().recv_timeout(Duration::from_secs(60)).unwrap());
    said.debug(watcher.status());
    watcher.stop();
    let one = key(marker, 1);
    let report = said.note(store.prune(&policy, move |key: &SessionKey| *key == one));
    assert!(report.is_some_and(|report| report.removed > 0));
    // Their kinds hold session ids, which are data and print as they are.
    events.drain().for_each(|event| said.debug(&event.key));
    for n in 0..10 {
        store.resolve(&source(marker, n)).unwrap();
    }
    store.remove(&key(marker, 9)).unwrap();
    said.note(store.close());
    said.note(store.touch(&key(marker, 1)));
}

fn imports(marker: &str, said: &Said, options: &Options) {
    let store = said.note(SessionStore::open(options.clone())).unwrap();
    let good = format!(
        r#""agent:main:discord:group:{marker}1": {{"session_id": "{marker}s", "updated_at": "2026-01-01T00:00:00", "x": "{marker}"}}"#
    );
    for text in [
        format!("{{\"_{marker}\": \"{marker}\", {good}}}"),
        format!(
            "{{{good}, {good}, \"{marker}\": 7, \"../{marker}\": {{}}, \"{marker}2\": {{\"session_id\": \"/{marker}\"}}}}"
        ),
        format!(
            "{{{good}, \"{marker}3\": {{\"session_id\": \"a\", \"updated_at\": \"{marker}\", \"input_tokens\": \"{marker}\"}}}}"
        ),
        format!("{{{good}, \"{marker}4\": {{\"session_id\": \"b\", {marker}"),
        format!("{{{good}, \"{marker}5\": {{\"session_id\": \"\\q{marker}\"}}, \"{marker}6\": [\"{marker}\"]}}"),
        format!("[\"{marker}\"]"),
        marker.to_owned(),
    ] {
        let mut quarantine = Vec::new();
        let import = ImportOptions::new().quarantine(&mut quarantine);
        let report = said.note(store.import(text.as_bytes(), import, |progress| said.debug(progress)));
        report.inspect(|report| said.debug(report));
    }
    said.note(store.close());
}

/// Records that cannot be decoded, with the marker in their bytes.
fn damaged(marker: &str, said: &Said, options: &Options, dir: &Path) {
    let database = dir.join("db/sled");
    {
        let db = open_sled(&sled::Config::new().path(&database)).unwrap();
        let tree = |name: &str| db.open_tree(name).unwrap();
        let bad = [&[9], marker.as_bytes()].concat();
        let text = [&[1], b"_", marker.as_bytes()].concat();
        tree("sessions").insert(key(marker, 2).as_str(), bad.clone()).unwrap();
        tree("sessions").insert(key(marker, 3).as_str(), text.clone()).unwrap();
        tree("sessions").insert(format!("_{marker}"), bad.clone()).unwrap();
        for name in ["activity", "turns", "leases", "extras", "by_updated_at", "by_session_id"] {
            let rows: Vec<_> = tree(name).iter().keys().flatten().collect();
            for (n, row) in rows.iter().step_by(3).enumerate() {
                tree(name).insert(row, if n % 2 == 0 { bad.clone() } else { text.clone() }).unwrap();
            }
            tree(name).insert(marker, bad.clone()).unwrap();
        }
        db.flush().unwrap();
    }
    let store = said.note(SessionStore::open(options.clone())).unwrap();
    for n in 0..10 {
        said.note(store.resolve(&source(marker, n)));
    }
    verbs(marker, said, &store);
    said.note(store.prune_dry_run(&PrunePolicy::max_age_days(1), cloakroom::prune::NoActivity));
    said.note(store.close());
    drop(store);
    let quarantine = dir.join("quarantine");
    said.note(SessionStore::repair(options.clone(), dir.join("no/such"))).inspect(|done| said.debug(done));
    said.note(SessionStore::repair(options.clone(), &quarantine)).inspect(|done| said.debug(done));
    assert!(fs::read_to_string(quarantine).unwrap().contains(marker), "data is no log");
    // A file of garbage in the place of the database.
    fs::write(database.join("db"), marker.repeat(100_000)).unwrap();
    said.note(SessionStore::open(options.clone()));
}

#[test]
fn nothing_said_tells_who_chats() {
    let marker = format!("zq{:016x}", RandomState::new().hash_one(0));
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", MAIN, "--nocapture", "--test-threads=1"])
        .env(CHILD_PART, format!("canary {marker}"))
        .output()
        .unwrap();
    let all = String::from_utf8_lossy(&output.stdout);
    let (_, said) = all.split_once("\nSAID\n").unwrap();
    let leaks: Vec<_> = said.lines().filter(|line| line.contains(&marker)).collect();
    assert!(leaks.is_empty(), "{} lines, among them\n{}", leaks.len(), leaks[..leaks.len().min(10)].join("\n"));
    assert!(output.status.success(), "{}\n{}", said, String::from_utf8_lossy(&output.stderr));
    // It did say much.
    for (what, least) in [("ERROR ", 30), ("DEBUG", 50), ("guard failed", 10), ("cannot be decoded", 5), ("WARN", 1)] {
        let lines = said.lines().filter(|line| line.contains(what)).count();
        assert!(lines >= least, "only {lines} lines with {what:?}:\n{said}");
    }
}
