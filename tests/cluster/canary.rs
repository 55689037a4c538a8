//! What the log at debug and above, errors, and the text of `Debug` say holds nothing of who chats with whom, and no password.
//!
//! A child does everything with ids, names and texts that all hold one random marker: on a node that is well, that loses
//! answers, that refuses what it is asked, that is full, has no replica, has damaged or lost what it had, or is gone. The marker
//! must not be in what it said.

use std::error::Error as _;
use std::fmt::{Debug, Write as _};
use std::hash::{BuildHasher, RandomState};
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind, panic_any};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cloakroom::change::{Edit, Expect, Repoint, Touch};
use cloakroom::cluster::{ClusterOptions, ClusterStore};
use cloakroom::export::{ExportFormat, ExportOptions};
use cloakroom::import::ImportOptions;
use cloakroom::prune::Verdict;
use cloakroom::query::Filter;
use cloakroom::reset::{ResetPolicies, ResetPolicy};
use cloakroom::source::KeyPolicy;
use cloakroom::time::ManualClock;
use cloakroom::turns::RecoverOptions;
use cloakroom::watcher::WatcherConfig;
use cloakroom::{
    Error, Extras, PrunePolicy, Receipt, SessionEntry, SessionKey, SessionSource, Sessions, Timestamp, Usage,
};
use serde_json::json;

use crate::common::NOW;
use crate::nodes::{Cluster, Node, wait_for};
use crate::proxy::Proxy;
use crate::retries::{Rig, rig};

const CHILD: &str = "CLOAKROOM_CANARY";
const DAY: Duration = Duration::from_secs(86_400);

/// All that was said.
#[derive(Clone, Default)]
struct Said(Arc<Mutex<Vec<u8>>>);

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

    /// Takes down what came of something: an answer as `Debug` prints it, an error in both ways of printing, with its causes.
    fn note<T: Debug>(&self, result: Result<T, Error>) -> Option<T> {
        match result {
            Ok(answer) => {
                self.debug(&answer);
                Some(answer)
            }
            Err(error) => {
                let mut text = format!("ERROR {error} {error:?}");
                let mut source = error.source();
                while let Some(cause) = source {
                    let _ = write!(text, " {cause} {cause:?}");
                    source = cause.source();
                }
                self.line(&text);
                None
            }
        }
    }

    fn debug(&self, value: impl Debug) {
        self.line(&format!("DEBUG {value:?}"));
    }

    fn receipt(&self, receipt: Option<Receipt>) {
        if let Some(receipt) = receipt {
            self.note(receipt.is_durable());
            self.note(receipt.wait());
            self.debug(receipt);
        }
    }

    fn has(&self, text: &str) -> bool {
        String::from_utf8_lossy(&self.0.lock().unwrap()).contains(text)
    }
}

#[test]
fn child() {
    let Ok(marker) = std::env::var(CHILD) else { return };
    let said = Said::default();
    let writer = said.clone();
    tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::DEBUG)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .init();
    let (panics, own) = (said.clone(), words(&marker));
    std::panic::set_hook(Box::new(move |panic| {
        // The guard's own words are its own.
        if panic.payload().downcast_ref::<String>().is_none_or(|text| *text != own) {
            panics.line(&format!("PANIC {panic}"));
        }
    }));
    let done = catch_unwind(AssertUnwindSafe(|| {
        let mut rig = rig();
        well(&marker, &said, &rig);
        answers_are_lost(&marker, &said, &rig);
        refuses(&marker, &said, &rig);
        damaged(&marker, &said, &rig);
        lost_and_gone(&marker, &said, &mut rig);
        lacks_a_command(&marker, &said);
    }));
    print!("\nSAID\n{}", String::from_utf8_lossy(&said.0.lock().unwrap()));
    assert!(done.is_ok(), "the child failed");
}

fn words(marker: &str) -> String {
    format!("guard {marker}")
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
        chat_topic: raw("topic"),
        guild_id: raw("guild"),
        message_id: raw("message"),
        ..SessionSource::default()
    }
}

fn key(marker: &str, n: usize) -> SessionKey {
    SessionKey::for_source(&source(marker, n), &KeyPolicy::default()).unwrap()
}

/// For a store of the node behind the proxy. What fails is given up soon.
fn options(proxy: &Proxy, name: &str) -> ClusterOptions {
    let options = ClusterOptions::new(name, [proxy.address()]).create(true).shards(4).replicas(0);
    options.patience(Duration::from_millis(20)).member_lease(Duration::from_secs(3600))
}

/// Every verb, on some entries, and on one that is not there.
fn verbs(marker: &str, said: &Said, store: &ClusterStore) {
    let usage = Usage { input_tokens: 1, total_tokens: 1, ..Usage::ZERO };
    let due = ResetPolicies::new(ResetPolicy::idle(1));
    let idle = |_: &SessionKey| -> Verdict { false.into() };
    said.note(store.resolve_with(&source(marker, 2), &due, &idle));
    for n in 0..3 {
        let key = key(marker, n);
        if n < 2 {
            said.note(store.resolve(&source(marker, n))).into_iter().for_each(|done| said.receipt(Some(done.receipt)));
        }
        let entry = said.note(store.get(&key)).flatten();
        said.note(store.get_with_extras(&key));
        said.note(store.contains(&key));
        said.receipt(said.note(store.touch(&key)).flatten());
        said.note(store.touch_soon(&key));
        said.receipt(said.note(store.record_usage(&key, &usage)).flatten());
        let shown = format!("{marker} shown");
        said.note(store.update(&key, &mut |details| details.display_name = Some(shown.clone())));
        said.note(store.modify(&key, Touch::Yes, &mut |draft| {
            draft.set_extra(marker, &json!(marker));
            draft.entry.details.display_name = Some(shown.clone());
            Edit::Write
        }));
        let new = entry.clone().unwrap_or_else(|| SessionEntry::new(key.clone(), "put".parse().unwrap(), NOW));
        said.note(store.put(&new, &Extras::default(), Expect::Absent));
        said.note(store.put(&new, &Extras::default(), Expect::Any));
        said.note(store.set_extra(&key, marker, &json!(marker.repeat(200))));
        said.note(store.set_extra(&key, marker, &json!(marker.repeat(400_000))));
        // The text of one is data.
        said.note(store.extra(&key, marker).map(|extra| extra.is_some()));
        said.note(store.remove_extra(&key, marker));
        said.note(store.mark_resume_pending(&key, &format!("{marker} asked")));
        said.note(store.clear_resume_pending(&key));
        said.note(store.suspend(&key));
        said.note(store.unsuspend(&key));
        said.note(store.pin(&key));
        said.note(store.unpin(&key));
        said.note(store.reset(&key));
        said.note(store.repoint(&key, format!("run-{n}").parse().unwrap(), &Repoint::new()));
        said.note(store.find_by_session_id(&format!("run-{n}").parse().unwrap()));
        if let Some(Some(begun)) = said.note(store.begin_turn(&key)) {
            said.note(store.try_begin_turn(&key));
            said.note(store.turn(&key));
            said.note(store.end_turn(&key, begun.token));
            said.note(store.begin_turn(&key));
        }
        let held = said.note(store.hold(&key));
        said.note(store.hold_until(&key, "job", Timestamp::MAX));
        said.note(store.release(&key, "other"));
        drop(held);
        if let Some(entry) = entry {
            said.note(store.remove_if(&key, &entry));
        }
    }
    said.note(store.turns());
    said.note(store.leases());
    said.note(store.recover_interrupted_turns(&RecoverOptions::new(None)));
    said.note(store.recent(10, None));
    said.note(store.iter(Filter::default()).collect::<Result<Vec<_>, _>>());
    said.note(store.len());
    said.note(store.keys(marker).map(Iterator::count));
    said.note(store.stats());
    said.note(store.metrics()).inspect(|text| said.line(text));
    said.note(store.verify()).inspect(|found| {
        said.line(&serde_json::to_string(found).unwrap());
        found.violations.iter().for_each(|violation| said.line(&violation.to_string()));
    });
    said.note(store.repair());
    said.note(store.backup(std::io::sink(), |_| {}));
    said.note(store.export(std::io::sink(), &ExportOptions::new(ExportFormat::Hermes)));
    let bad =
        format!("{{\"agent:{marker}\": {{\"session_id\": \"/{marker}\"}}, \"../{marker}\": [\"{marker}\"], {marker}");
    said.note(store.import(bad.as_bytes(), ImportOptions::new(), |progress| said.debug(progress)));
    let filter = Filter { key_prefix: Some(marker.to_owned()), ..Filter::default() };
    said.note(store.remove_where(&filter, Some(7)));
    said.note(store.remove_where(&filter, None));
    said.note(store.forget(marker));
    said.note(store.rename(marker, "other"));
    said.note(store.prune(&PrunePolicy::max_age_days(90), &idle));
    said.note(store.flush());
}

fn well(marker: &str, said: &Said, rig: &Rig) {
    let clock = ManualClock::new(NOW);
    let answer = words(marker);
    let guard = move |_: &SessionKey| -> Result<bool, String> { Err(answer.clone()) };
    let options = options(&rig.proxy, "well").clock(clock.clone()).guard(guard.clone());
    let store = said.note(ClusterStore::open(options.clone())).unwrap();
    said.debug(options);
    let events = store.own_events(1000);
    verbs(marker, said, &store);
    events.drain().for_each(|event| said.debug(&event.key));
    for text in ["/{m}", "{m}..", "{m}\n"] {
        let text = text.replace("{m}", marker);
        said.note(SessionKey::new(&text).map_err(Error::InvalidKey));
        said.note(store.resolve(&SessionSource { chat_id: Some(text), ..source(marker, 1) }));
    }
    // Guards that fail, each in its way.
    for n in 0..3 {
        said.note(store.resolve(&source(marker, n)));
    }
    clock.advance(200 * DAY);
    let (policy, own) = (PrunePolicy::max_age_days(90), words(marker));
    said.note(store.prune(&policy, &guard));
    said.note(store.prune_dry_run(&policy, &guard));
    said.note(store.prune(&policy, &|_: &SessionKey| -> bool { panic_any(own.clone()) }));
    let due = ResetPolicies::new(ResetPolicy::idle(1));
    said.note(store.resolve_with(&source(marker, 0), &due, &|_: &SessionKey| -> bool { panic_any(own.clone()) }));
    let watcher = said.note(store.watch(WatcherConfig { policy, ..WatcherConfig::default() })).unwrap();
    watcher.prune_now();
    wait_for("a pass", || watcher.status().passes > 0);
    said.debug(&watcher);
    said.debug(watcher.status());
    drop(watcher);
    said.debug(&store);
    said.note(store.close());
    verbs(marker, said, &store);
}

/// The answer to a change is lost, and nothing comes through after it.
fn answers_are_lost(marker: &str, said: &Said, Rig { proxy, .. }: &Rig) {
    let store = said.note(ClusterStore::open(options(proxy, "lost"))).unwrap();
    said.note(store.resolve(&source(marker, 1)));
    let key = key(marker, 1);
    let receipt = said.note(store.suspend(&key)).flatten();
    let changes: [&dyn Fn(); 5] = [
        &|| drop(said.note(store.reset(&key))),
        &|| drop(said.note(store.suspend(&key))),
        &|| drop(said.note(store.begin_turn(&key))),
        &|| drop(said.note(store.hold_until(&key, "job", Timestamp::MAX))),
        &|| drop(said.note(store.remove(&key))),
    ];
    for change in changes {
        proxy.lose_answer_to("EVALSHA", true);
        change();
        proxy.open();
    }
    said.receipt(receipt);
    said.note(store.flush());
}

/// The node has no memory left, or this user no right, or there is no replica.
fn refuses(marker: &str, said: &Said, Rig { _cluster: cluster, proxy, .. }: &Rig) {
    let (node, password) = (&cluster.nodes[0], format!(">{marker}"));
    let store = said.note(ClusterStore::open(options(proxy, "refuses"))).unwrap();
    verbs(marker, said, &store);
    node.ask(&["CONFIG", "SET", "maxmemory", "1"]);
    verbs(marker, said, &store);
    node.ask(&["CONFIG", "SET", "maxmemory", "0"]);

    let alone = said.note(ClusterStore::open(options(proxy, "refuses").replicas(1))).unwrap();
    verbs(marker, said, &alone);
    let relaxed = said.note(ClusterStore::open(options(proxy, "relaxed").relaxed())).unwrap();
    verbs(marker, said, &relaxed);

    node.ask(&["ACL", "SETUSER", "gateway", "on", &password, "~*", "&*", "+@all"]);
    let user = options(proxy, "refuses").login("gateway", marker);
    said.debug(&user);
    let store = said.note(ClusterStore::open(user)).unwrap();
    for right in ["-zadd", "-evalsha", "-hmget", "-waitaof"] {
        node.ask(&["ACL", "SETUSER", "gateway", right]);
        verbs(marker, said, &store);
        node.ask(&["ACL", "SETUSER", "gateway", &right.replace('-', "+")]);
    }
    node.ask(&["ACL", "SETUSER", "gateway", "resetkeys", "~other:*"]);
    verbs(marker, said, &store);
    said.note(ClusterStore::open(options(proxy, "refuses").login("gateway", format!("{marker}wrong"))));
    said.note(ClusterOptions::from_url(&format!("valkey://gateway:{marker}@127.0.0.1/refuses?{}", "replicas=x")));
}

/// Records that cannot be decoded, with the marker in their bytes.
fn damaged(marker: &str, said: &Said, Rig { _cluster: cluster, proxy, .. }: &Rig) {
    let store = said.note(ClusterStore::open(options(proxy, "damaged"))).unwrap();
    for n in 0..8 {
        said.note(store.resolve(&source(marker, n)));
        said.note(store.set_extra(&key(marker, n), marker, &json!(marker.repeat(200))));
        said.note(store.hold_until(&key(marker, n), "job", Timestamp::MAX));
    }
    let node = &cluster.nodes[0];
    let bad = ["h", "c", "i", "s", "v"];
    for (n, name) in named(node, "damaged:*:e:*").iter().enumerate() {
        node.ask(&["HSET", name, bad[n % bad.len()], &format!("\u{1}{marker}")]);
    }
    for shard in named(node, "damaged:*:m").iter().map(|name| name.trim_end_matches('m')) {
        node.ask(&["ZADD", &format!("{shard}u"), "7", &format!("_/{marker}")]);
        node.ask(&["HSET", &format!("{shard}t"), &format!("_/{marker}"), marker]);
        node.ask(&["HSET", &format!("{shard}t"), key(marker, 1).as_str(), marker]);
    }
    for name in named(node, "damaged:*:n:*") {
        node.ask(&["HSET", &name, "job", marker]);
    }
    verbs(marker, said, &store);
    let mut backup = Vec::new();
    let well = said.note(ClusterStore::open(options(proxy, "refuses"))).unwrap();
    said.note(well.resolve(&source(marker, 1)));
    said.note(well.backup(&mut backup, |_| {}));
    backup.truncate(backup.len() - 1);
    said.note(ClusterStore::restore(options(proxy, "restored"), &*backup, |_| {}));
    said.note(ClusterStore::restore(options(proxy, "restored"), marker.as_bytes(), |_| {}));
    said.note(ClusterStore::open(options(proxy, "restored")));
}

fn named(node: &Node, pattern: &str) -> Vec<String> {
    redis::from_redis_value(node.ask(&["KEYS", pattern])).unwrap()
}

/// A shard has no mark any more, and then the node is gone.
fn lost_and_gone(marker: &str, said: &Said, Rig { _cluster: cluster, proxy, .. }: &mut Rig) {
    let open = || said.note(ClusterStore::open(options(proxy, "refuses"))).unwrap();
    let [store, other] = [open(), open()];
    let receipt = said.note(store.resolve(&source(marker, 1))).map(|done| done.receipt);
    cluster.nodes[0].ask(&["FLUSHALL"]);
    verbs(marker, said, &store);
    cluster.nodes[0].kill();
    verbs(marker, said, &other);
    said.receipt(receipt);
    said.note(other.close());
    // What threads say of it.
    wait_for("a log line of the map", || said.has("the map of the cluster cannot be asked for"));
}

/// A node that does not know a command repeats what came with it.
fn lacks_a_command(marker: &str, said: &Said) {
    let cluster = Cluster::with(1, false, &["--rename-command", "SISMEMBER", "RENAMED"]);
    let store = said.note(ClusterStore::open(cluster.options().replicas(0))).unwrap();
    said.note(store.resolve(&source(marker, 1)));
    said.note(store.verify());
    assert!(said.has("unknown command"), "it knows it");
}

#[test]
fn nothing_said_tells_who_chats() {
    let marker = format!("zq{:016x}", RandomState::new().hash_one(0));
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "canary::child", "--nocapture", "--test-threads=1"])
        .env(CHILD, &marker)
        .output()
        .unwrap();
    let all = String::from_utf8_lossy(&output.stdout);
    let (_, said) = all.split_once("\nSAID\n").unwrap();
    let leaks: Vec<_> = said.lines().filter(|line| line.contains(&marker)).collect();
    assert!(leaks.is_empty(), "{} lines, among them\n{}", leaks.len(), leaks[..leaks.len().min(10)].join("\n"));
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    // It did say much.
    for what in
        ["Unavailable", "Uncertain", "Refused", "NotReplicated", "ShardLost", "DamagedRecord", "Closed", "Engine"]
    {
        assert!(said.lines().any(|line| line.starts_with("ERROR ") && line.contains(what)), "no {what}:\n{said}");
    }
    for (what, least) in [("ERROR ", 200), ("DEBUG ", 200), (" DEBUG cloakroom::cluster", 5), ("guard failed", 5)] {
        let lines = said.lines().filter(|line| line.contains(what)).count();
        assert!(lines >= least, "only {lines} lines with {what:?}:\n{said}");
    }
}
