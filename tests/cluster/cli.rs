//! The command line on a store of a cluster.

use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use cloakroom::change::{Expect, Resolution};
use cloakroom::cluster::{ClusterOptions, ClusterStore};
use cloakroom::prefix::BulkRemoval;
use cloakroom::query::Filter;
use cloakroom::{Error, Extras, SessionEntry, Sessions as _, Timestamp};
use serde_json::{Value, json};

use crate::backup::CutShort;
use crate::common::{fast_dir, key, source};
use crate::conformance::one;
use crate::nodes::Cluster;

fn url(store: &ClusterStore) -> String {
    format!("valkey://{}/{}?replicas=0", one().nodes[0].address(), store.name())
}

fn run(url: &str, words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_cloakroom")).args(["--url", url]).args(words).output().unwrap()
}

/// What a command prints that does what it is to do.
#[track_caller]
fn printed(url: &str, words: &[&str]) -> String {
    let output = run(url, words);
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[track_caller]
fn lines(url: &str, words: &[&str]) -> Vec<Value> {
    printed(url, words).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// How a command ends that does not, and what it says.
#[track_caller]
fn refused(url: &str, words: &[&str]) -> (i32, String) {
    let output = run(url, words);
    assert!(!output.status.success(), "{words:?} was done");
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}

fn three() -> ClusterStore {
    let store = one().open();
    for n in 0..3 {
        store.resolve(&source(n)).unwrap();
    }
    store
}

#[test]
fn commands_say_of_a_cluster_what_they_say_of_an_embedded_store() {
    let store = three();
    store.set_extra(&key(1), "label", &json!("x")).unwrap().unwrap();
    store.begin_turn(&key(2)).unwrap().unwrap();
    store.hold_until(&key(2), "job", Timestamp::MAX).unwrap().unwrap();
    // The same entries, in both.
    let dir = fast_dir();
    let (db, backup) = (dir.path().join("db"), dir.path().join("backup"));
    let (db, backup) = (db.to_str().unwrap(), backup.to_str().unwrap());
    let url = url(&store);
    let said = printed(&url, &["backup", backup]);
    assert!(said.starts_with("backed up: 3 entries") && said.contains("not of one moment"), "{said}");
    let embedded = |words: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_cloakroom")).args(["--db", db]).args(words).output().unwrap();
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    embedded(&["restore", backup]);
    let first = store.get(&key(1)).unwrap().unwrap();
    let (key_of, id) = (key(1), first.session_id.as_str().to_owned());
    let without_time = |text: &str| {
        let mut values: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        values.iter_mut().for_each(|value| {
            for name in ["idle_seconds", "interrupted", "owner", "age_seconds"] {
                value.as_object_mut().unwrap().remove(name);
            }
        });
        values
    };
    let all: [&[&str]; 5] = [
        &["list", "--json"],
        &["show", key_of.as_str(), "--json"],
        &["find", &id, "--json"],
        &["turns", "--json"],
        &["resume-pending", "--json"],
    ];
    for words in all {
        assert_eq!(without_time(&printed(&url, words)), without_time(&embedded(words)), "{words:?}");
    }
    assert_eq!(lines(&url, &["turns", "--json"])[0]["owner"], store.member());
    assert_eq!(lines(&url, &["leases", "--json"])[0]["name"], "job");
    assert_eq!(printed(&url, &["list", "--limit", "1"]).lines().last(), Some("1 of 3 entries (--limit shows more)"));
    let stats = &lines(&url, &["stats", "--json"])[0];
    assert_eq!(
        (&stats["entries"], &stats["open_turns"], &stats["by_platform"]["discord"]),
        (&3.into(), &1.into(), &3.into())
    );
    assert!(stats["used_memory"].as_u64() > Some(0) && stats["replica_lag"].is_null(), "{stats}");
    assert!(printed(&url, &["stats"]).contains("memory of the primaries"));
    // What goes out goes in, by the formats of the gateways too.
    let session_file = dir.path().join("sessions.json");
    let session_file = session_file.to_str().unwrap();
    printed(&url, &["export", "--format", "hermes", "--output", session_file]);
    assert_eq!(printed(&url, &["export", "--format", "jsonl"]), embedded(&["export", "--format", "jsonl"]));
    let imported = url.replace(store.name(), "imported");
    printed(&imported, &["migrate", session_file]);
    assert_eq!(lines(&imported, &["list", "--json"]).len(), 3);
    let (_, said) = refused(&imported, &["migrate", session_file]);
    assert!(said.contains("already"), "{said}");
    let report = &lines(&url, &["backup", backup, "--force", "--json"])[0];
    assert_eq!((&report["entries"], &report["one_moment"]), (&3.into(), &false.into()));
    let time_of = |name: &str| serde_json::from_value::<Timestamp>(report[name].clone()).unwrap();
    assert!(time_of("began") <= time_of("ended"));
    let restored = url.replace(store.name(), "restored");
    let report = &lines(&restored, &["restore", backup, "--json"])[0];
    assert_eq!((&report["entries"], report.get("one_moment")), (&3.into(), None));
    let found = ClusterStore::open(ClusterOptions::from_url(&restored).unwrap()).unwrap();
    assert_eq!(found.get(&key(1)).unwrap().map(|entry| entry.session_id), Some(first.session_id));
}

/// The files of both gateways go into a store on a cluster and out of it as they go into an embedded one and out of it, as far as
/// the commands print it.
#[test]
fn the_fixtures_go_in_and_out_as_with_an_embedded_store() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let (mut files, mut entries) = (0, 0);
    for format in ["hermes", "openclaw"] {
        for file in std::fs::read_dir(root.join(format)).unwrap().map(|file| file.unwrap().path()) {
            let dir = fast_dir();
            let (db, copy) = (dir.path().join("db"), dir.path().join("sessions.json"));
            std::fs::copy(&file, &copy).unwrap();
            let (db, file) = (db.to_str().unwrap(), copy.to_str().unwrap());
            let other = one().open();
            let made = url(&other).replace(other.name(), &format!("{}-file", other.name()));
            let stores = [["--db", db], ["--url", &made]];
            // What both print, without what tells where the store is and how long it took.
            let both = |words: &[&str]| {
                stores.map(|store| {
                    let output =
                        Command::new(env!("CARGO_BIN_EXE_cloakroom")).args(store).args(words).output().unwrap();
                    let said = String::from_utf8(output.stderr).unwrap();
                    assert!(output.status.success(), "{store:?} {words:?}: {said}");
                    String::from_utf8(output.stdout).unwrap()
                })
            };
            let reports = both(&["migrate", file, "--timezone", "Europe/Berlin", "--json"]).map(|printed| {
                let mut report: Value = serde_json::from_str(&printed).unwrap();
                for name in ["db", "seconds", "entries_per_second"] {
                    assert!(report.as_object_mut().unwrap().remove(name).is_some());
                }
                report
            });
            assert_eq!(reports[0], reports[1], "{file}");
            entries += reports[1]["imported"].as_u64().unwrap();
            // A store on a cluster does not know the zone of the file.
            let [of_embedded, of_cluster] = both(&["export", "--format", format, "--timezone", "Europe/Berlin"]);
            assert!(of_embedded == of_cluster, "{file}");
            let original: Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
            assert_eq!(serde_json::from_str::<Value>(&of_cluster).unwrap(), original, "{file}");
            files += 1;
        }
    }
    assert!(files >= 7 && entries > 100, "{files} files, {entries} entries");
}

/// What a restore that was cut short has left is no store, and a migration makes one in its place.
#[test]
fn a_migration_goes_over_a_store_that_was_cut_short() {
    let store = three();
    let dir = fast_dir();
    let (session_file, backup) = (dir.path().join("sessions.json"), dir.path().join("backup"));
    let (session_file, backup) = (session_file.to_str().unwrap(), backup.to_str().unwrap());
    printed(&url(&store), &["export", "--format", "hermes", "--output", session_file]);
    // Others than those of the file, and more of them.
    let larger = one().open();
    for n in 10..60 {
        larger.resolve(&source(n)).unwrap();
    }
    printed(&url(&larger), &["backup", backup]);
    let backup = std::fs::read(backup).unwrap();
    let made = url(&store).replace(store.name(), &format!("{}-made", store.name()));
    let options = ClusterOptions::from_url(&made).unwrap().create(true);
    let cut = ClusterStore::restore(options.clone(), CutShort(&backup[..backup.len() / 2]), |_| {});
    assert!(cut.is_err(), "{cut:?}");
    let (_, said) = refused(&made, &["list"]);
    assert!(said.contains("restore"), "{said}");
    printed(&made, &["migrate", session_file]);
    let found = ClusterStore::open(options).unwrap();
    assert_eq!(found.len().unwrap(), 3);
    for n in 0..3 {
        let id = |store: &ClusterStore| store.get(&key(n)).unwrap().unwrap().session_id;
        assert_eq!(id(&found), id(&store));
    }
    assert_eq!(found.verify().unwrap().violations, []);
    let (_, said) = refused(&made, &["migrate", session_file]);
    assert!(said.contains("already"), "{said}");
}

#[test]
fn commands_change_a_store_on_a_cluster() {
    let store = three();
    let (url, key_of) = (url(&store), key(1));
    let key_of = key_of.as_str();
    let entry = || store.get(&key(1)).unwrap().unwrap();
    printed(&url, &["suspend", key_of]);
    assert!(entry().suspended);
    printed(&url, &["unsuspend", key_of]);
    printed(&url, &["pin", key_of]);
    assert!(entry().pinned && !entry().suspended);
    printed(&url, &["unpin", key_of]);
    let before = entry();
    let fresh = &lines(&url, &["reset", key_of, "--json"])[0];
    assert_eq!(
        (&fresh["session_id"], &fresh["prev_session_id"]),
        (&json!(entry().session_id), &json!(before.session_id))
    );
    printed(&url, &["resume-pending", key_of]);
    assert!(entry().resume_pending);
    store.begin_turn(&key(2)).unwrap().unwrap();
    let recovered = &lines(&url, &["turns", "--recover", "1h", "--json"])[0];
    assert_eq!(recovered["resumable"], json!([]), "its process lives");
    assert!(refused(&url, &["remove", "--prefix", "agent:"]).0 == 2);
    printed(&url, &["remove", key_of]);
    assert!(store.get(&key(1)).unwrap().is_none());
    assert!(refused(&url, &["show", key_of]).1.contains("no entry for this key"));
    let pruned = &lines(&url, &["prune", "--max-age-days", "1", "--json"])[0];
    assert_eq!((&pruned["removed"], &pruned["dry_run"]), (&0.into(), &false.into()));
    printed(&url, &["forget", key(2).as_str(), "--yes"]);
    assert_eq!(store.len().unwrap(), 1);
    assert_eq!(store.verify().unwrap().violations, []);
}

/// A pass prints what it removed, though no replica has that.
#[test]
fn a_prune_that_fails_prints_what_it_did() {
    let store = three();
    let mut expired = store.get(&key(1)).unwrap().unwrap();
    expired.updated_at = Timestamp::from_micros(1_000_000);
    store.put(&expired, &Extras::default(), Expect::Any).unwrap();
    // It wants a replica of each primary.
    let url = url(&store).replace("?replicas=0", "");
    let output = run(&url, &["prune", "--max-age-days", "1", "--json"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.code(), &report["removed"]), (Some(1), &1.into()), "{report}");
    assert!(report["failure"].as_str().unwrap().contains("0 replicas"), "{report}");
    assert_eq!(store.len().unwrap(), 2);
}

/// What `top` prints where there is no terminal.
#[test]
fn a_store_on_a_cluster_is_looked_at_on_one_screen() {
    let store = three();
    store.begin_turn(&key(2)).unwrap().unwrap();
    store.suspend(&key(1)).unwrap().unwrap();
    let old = SessionEntry::new(key(3), "old".parse().unwrap(), Timestamp::from_micros(0));
    store.put(&old, &Extras::default(), Expect::Absent).unwrap();
    let screen = printed(&url(&store), &["top"]);
    let lines: Vec<_> = screen.lines().collect();
    assert!(lines[0].starts_with("cloakroom ") && lines[0].ends_with(&url(&store)), "{screen}");
    assert!(lines[1].starts_with("entries 4  active in the last minute 3  in "), "{screen}");
    assert_eq!(lines[2], "open turns 1  to be pruned 0");
    assert!(lines[3].starts_with("processes 2, this one too"), "{screen}");
    let keys: Vec<_> = lines[7..].iter().map(|line| line.rsplit("  ").next().unwrap()).collect();
    let suspended = format!("{} (suspended)", key(1).as_str());
    assert_eq!(keys, [key(2).as_str(), &suspended, key(0).as_str(), key(3).as_str()]);
}

#[test]
fn what_has_no_meaning_on_a_cluster_says_so() {
    let store = one().open();
    let url = url(&store);
    let kept = ["verify", "--repair", "--quarantine", "x"];
    let all: [&[&str]; 6] = [&["compact"], &["rename", "a", "b"], &["tail"], &["web"], &kept, &["config", "check"]];
    for words in all {
        let (code, said) = refused(&url, words);
        assert!(code == 2 && (said.contains("cluster") || said.contains("--url")), "{words:?}: {said}");
    }
    let (_, said) = refused(&url, &["--db", "x", "list"]);
    assert!(said.contains("cannot be used with"), "{said}");
    let (_, said) = refused(&url.replace(store.name(), "nowhere"), &["list"]);
    assert!(said.contains("no store valkey://") && said.contains("name another in --url"), "{said}");
}

#[test]
fn a_password_comes_from_the_environment_or_a_file() {
    let cluster = Cluster::one();
    cluster.nodes[0].ask(&["ACL", "SETUSER", "gateway", "on", ">sesame", "~*", "+@all"]);
    let address = cluster.nodes[0].address();
    let make = ClusterStore::open(cluster.options().login("gateway", "sesame")).unwrap();
    let url = format!("valkey://gateway@{address}/{}?replicas=0&patience=1", make.name());
    let program = || Command::new(env!("CARGO_BIN_EXE_cloakroom"));
    let works = |command: &mut Command| command.args(["--url", &url, "stats"]).output().unwrap().status.success();
    assert!(works(program().env("CLOAKROOM_PASSWORD", "sesame")));
    assert!(!works(program().env("CLOAKROOM_PASSWORD", "other")));
    let dir = fast_dir();
    let file = dir.path().join("password");
    std::fs::write(&file, "sesame\n").unwrap();
    assert!(works(program().arg("--password-file").arg(&file)));
    let (_, said) = refused(&url.replace("gateway@", "gateway:sesame@"), &["stats"]);
    assert!(said.contains("CLOAKROOM_PASSWORD") && !said.contains("sesame"), "{said}");
}

/// Whatever does not agree is found, and what others do meanwhile is not.
#[test]
fn verify_finds_what_does_not_agree() {
    let store = one().open();
    for n in 0..20 {
        store.resolve(&source(n)).unwrap();
    }
    store.set_extra(&key(9), "large", &json!("e".repeat(20_000))).unwrap().unwrap();
    store.begin_turn(&key(10)).unwrap().unwrap();
    store.hold_until(&key(11), "job", Timestamp::MAX).unwrap().unwrap();
    let sound = store.verify().unwrap();
    assert_eq!((sound.entries, sound.violations.as_slice(), sound.stale_hints), (20, [].as_slice(), 0));
    assert_eq!((sound.orphaned_turns, sound.orphaned_leases, sound.without_hint), (0, 0, 0));
    let url = url(&store);
    assert_eq!(lines(&url, &["verify", "--json"])[0]["entries"], 20);

    let node = &one().nodes[0];
    let named = |pattern: String| -> String {
        let names: Vec<String> = redis::from_redis_value(node.ask(&["KEYS", &pattern])).unwrap();
        assert_eq!(names.len(), 1, "{pattern}");
        names[0].clone()
    };
    let entry = |n: usize| named(format!("{}:*:e:{}", store.name(), key(n).as_str()));
    let part = |n: usize, letter: char| format!("{}:{letter}", entry(n).split_once("}:").unwrap().0.to_owned() + "}");
    let part_of: Vec<_> = (0..20).map(|n| (part(n, 'u'), part(n, 't'), part(n, 'n'))).collect();
    let key_of = |n: usize| key(n).as_str().to_owned();
    // A row without an entry, and an entry without a row.
    node.ask(&["DEL", &entry(0)]);
    node.ask(&["ZREM", &part_of[1].0, &key_of(1)]);
    node.ask(&["HSET", &entry(2), "h", "\u{1}"]);
    node.ask(&["HSET", &entry(3), "c", "\u{1}"]);
    node.ask(&["HSET", &entry(4), "s", "1"]);
    node.ask(&["HSET", &entry(12), "s", "2"]);
    let id = store.get(&key(5)).unwrap().unwrap().session_id;
    node.ask(&["DEL", &named(format!("{}:*:i:{}", store.name(), id.as_str()))]);
    node.ask(&["HSET", &entry(6), "i", ""]);
    node.ask(&["DEL", &named(format!("{}:*:x:{}", store.name(), key_of(9)))]);
    // All of an entry but what hangs on it.
    for n in [10, 11] {
        node.ask(&["DEL", &entry(n)]);
        node.ask(&["ZREM", &part_of[n].0, &key_of(n)]);
    }
    let found = store.verify().unwrap();
    let kinds: Vec<_> = found
        .violations
        .iter()
        .map(|violation| serde_json::to_value(violation).unwrap()["violation"].as_str().unwrap().to_owned())
        .collect();
    let count = |kind: &str| kinds.iter().filter(|one| *one == kind).count();
    let expected = [("no_entry", 1), ("no_row", 1), ("unreadable", 3), ("differs", 2), ("no_hint", 1)];
    for (kind, number) in expected {
        assert_eq!(count(kind), number, "{kind}: {:?}", found.violations);
    }
    assert_eq!(kinds.len(), 8, "{:?}", found.violations);
    assert_eq!((found.entries, found.orphaned_turns, found.orphaned_leases), (17, 1, 1));
    assert_eq!((found.without_hint, found.stale_hints), (1, 3));
    let output = run(&url, &["verify"]);
    let said = String::from_utf8(output.stdout).unwrap();
    let violations = said.lines().filter(|line| line.starts_with("violation:")).count();
    assert_eq!((output.status.code(), violations), (Some(3), 8), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(!said.contains(key(0).as_str()), "keys are redacted");
    // A repair takes away what leads nowhere, and tells the rest.
    let output = run(&url, &["verify", "--repair", "--json"]);
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    let repaired = json!({"hints_removed": 3, "rows_removed": 1, "turns_removed": 1, "leases_removed": 1});
    assert_eq!((output.status.code(), &said["repaired"]), (Some(3), &repaired), "{said}");
    assert_eq!((said["violations"].as_array().unwrap().len(), &said["without_hint"]), (7, &1.into()), "{said}");
    for name in ["stale_hints", "orphaned_turns", "orphaned_leases"] {
        assert_eq!(said[name], 0, "{said}");
    }
}

/// No repair mends an entry that nobody can read, so it has to go by a removal.
#[test]
fn an_entry_that_cannot_be_decoded_is_removed() {
    let store = one().open();
    for n in 0..5 {
        store.resolve(&source(n)).unwrap();
        store.begin_turn(&key(n)).unwrap().unwrap();
        store.hold_until(&key(n), "job", Timestamp::MAX).unwrap().unwrap();
    }
    let ids: Vec<_> = (0..5).map(|n| store.get(&key(n)).unwrap().unwrap().session_id).collect();
    let node = &one().nodes[0];
    for (n, record) in [(0, "h"), (1, "c"), (2, "h"), (3, "c")] {
        let pattern = format!("{}:*:e:{}", store.name(), key(n).as_str());
        let names: Vec<String> = redis::from_redis_value(node.ask(&["KEYS", &pattern])).unwrap();
        node.ask(&["HSET", &names[0], record, "\u{1}"]);
        let error = store.get(&key(n)).unwrap_err();
        assert!(matches!(error, Error::DamagedRecord { .. }) && error.to_string().contains("remove"), "{error}");
    }
    let url = url(&store);
    let (_, said) = refused(&url, &["show", key(0).as_str()]);
    assert!(said.contains("`cloakroom remove`") && !said.contains("--repair"), "{said}");
    // What a filter says of them nobody knows.
    let filter = Filter { key_prefix: Some(key(0).as_str().to_owned()), ..Filter::default() };
    let BulkRemoval::Removed(report) = store.remove_where(&filter, None).unwrap() else { panic!("a count differs") };
    assert_eq!((report.removed, report.unreadable.count), (0, 1));
    store.remove(&key(0)).unwrap().unwrap().wait().unwrap();
    printed(&url, &["remove", key(1).as_str()]);
    for n in [2, 3] {
        printed(&url, &["forget", key(n).as_str(), "--yes"]);
    }
    assert!((0..4).all(|n| !store.contains(&key(n)).unwrap()));
    assert_eq!((store.len().unwrap(), store.turns().unwrap().items.len()), (1, 1));
    assert!(store.leases().unwrap().items.iter().all(|lease| lease.key == key(4)));
    assert!(ids[..4].iter().all(|id| store.find_by_session_id(id).unwrap().items.is_empty()));
    store.flush().unwrap();
    let found = store.verify().unwrap();
    // Those whose session id could not be read.
    assert_eq!((found.violations.as_slice(), found.entries, found.stale_hints), ([].as_slice(), 1, 2));
    assert_eq!(store.repair().unwrap().hints_removed, 2);
    assert_eq!(store.resolve(&source(1)).unwrap().resolution, Resolution::Created);
    assert!(store.remove(&key(0)).unwrap().is_none());
}

#[test]
fn verify_takes_no_change_for_a_fault() {
    let store = one().open();
    // One that is there from the beginning, and is never removed: the threads may come late.
    store.resolve(&source(0)).unwrap();
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        for n in 0..4 {
            let (store, is_over) = (&store, &is_over);
            scope.spawn(move || {
                for turn in 0.. {
                    if is_over.load(Ordering::Relaxed) {
                        return;
                    }
                    let n = n * 8 + turn % 8;
                    store.resolve(&source(n)).unwrap();
                    match turn % 4 {
                        0 => drop(store.reset(&key(n)).unwrap()),
                        1 => drop(store.remove(&key(n)).unwrap()),
                        2 => drop(store.suspend(&key(n)).unwrap()),
                        _ => drop(store.begin_turn(&key(n)).unwrap()),
                    }
                }
            });
        }
        let found: Vec<_> = (0..10).map(|_| store.verify().unwrap()).collect();
        is_over.store(true, Ordering::Relaxed);
        assert!(found.iter().any(|found| found.entries > 0));
        assert!(found.iter().all(|found| found.violations.is_empty()), "{found:?}");
    });
}

#[test]
fn verify_names_a_shard_that_lost_its_mark() {
    let store = one().open();
    store.resolve(&source(1)).unwrap();
    let found = one().nodes[0].ask(&["KEYS", &format!("{}:*:m", store.name())]);
    let marks: Vec<String> = redis::from_redis_value(found).unwrap();
    one().nodes[0].ask(&["DEL", &marks[0]]);
    let found = store.verify().unwrap();
    assert!(format!("{:?}", found.violations).contains("ShardLost"), "{found:?}");
    assert_eq!(run(&url(&store), &["verify"]).status.code(), Some(3));
}
