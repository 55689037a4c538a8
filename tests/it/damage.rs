//! Damaged files: a store whose files were changed behind its back opens with an error that leaves them as they are,
//! or opens and says what is wrong. It never panics or hangs, and damage is never silent: where nothing is said, the
//! content is what was acknowledged.
//!
//! The files of a few stores are kept in memory. Each case damages a copy, and a child looks at it, so that an abort
//! or a hang is seen. `CLOAKROOM_DAMAGE` sets how many cases; see `battery.rs` for running them in parts.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{BufRead, BufReader, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use cloakroom::export::{ExportFormat, ExportOptions};
use cloakroom::import::ImportOptions;
use cloakroom::report::OpenReport;
use cloakroom::time::ManualClock;
use cloakroom::{Error, Options, SessionStore, Usage};
use serde_json::{Map, Value};

use crate::battery::Battery;
use crate::common::{NEVER, NOW, chain, fast_dir, key, source};
use crate::rig::CHILD_PART;
use crate::rig::file_model::Dice;

const MAIN: &str = "damage::child_main";
/// How long an opening may take.
const OPENING: Duration = crate::workload::MAX_OPEN;
/// How long a child may be silent.
const PATIENCE: Duration = Duration::from_secs(60);
const BLOCK: usize = 4096;

// The stores.

/// Files by their place below the store's directory.
type Files = BTreeMap<PathBuf, Vec<u8>>;

struct Base {
    name: &'static str,
    files: Files,
    /// The same store some generations earlier.
    older: Files,
    /// Where something is in each file: sled's is a sparse one, and most damage is to go there.
    used: BTreeMap<PathBuf, Vec<usize>>,
    /// What it holds.
    content: u64,
}

fn options(path: &Path, clock: &ManualClock) -> Options {
    Options::new(path).commit_interval(NEVER).cache_bytes(16 << 20).clock(clock.clone())
}

fn bases() -> Vec<Base> {
    let base = |name, entries, rounds, is_closed| {
        let dir = fast_dir();
        let (path, clock) = (dir.path().join("db"), ManualClock::new(NOW));
        let mut older = Files::new();
        for round in 0..rounds {
            let store = SessionStore::open(options(&path, &clock).create(true)).unwrap();
            work(&store, &clock, entries, round);
            if round + 1 < rounds {
                store.close().unwrap();
                drop(store);
                if round == rounds / 2 {
                    older = read(&path);
                }
                continue;
            }
            store.flush().unwrap();
            let acknowledged = entries_of(&store).unwrap();
            let files = if is_closed {
                store.close().unwrap();
                drop(store);
                read(&path)
            } else {
                // What a kill leaves: all of it is acknowledged, and nothing is closed.
                read(&path)
            };
            let content = undamaged(&files, acknowledged, &clock);
            return Base { name, used: files.iter().map(used).collect(), files, older, content };
        }
        unreachable!("the last round returns")
    };
    vec![base("closed", 200, 4, true), base("killed", 200, 4, false), base("small", 20, 2, false)]
}

/// One generation: new entries, changed and removed ones, of all kinds.
fn work(store: &SessionStore, clock: &ManualClock, entries: usize, round: usize) {
    let mut dice = Dice(round as u64);
    if round == 0 {
        let file = fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/hermes/discord-threads.json"));
        // It is of a later month than the clock.
        let options = ImportOptions::new().zone("Europe/Berlin".parse().unwrap()).trust_times(true);
        store.import(file.unwrap().as_slice(), options, |_| {}).unwrap();
    }
    for n in 0..entries {
        clock.advance(Duration::from_secs(7));
        if round > 0 && dice.roll(3) > 0 {
            continue;
        }
        let found = store.resolve(&source(n)).unwrap();
        match dice.roll(8) {
            0 => drop(store.suspend(&key(n)).unwrap()),
            1 => {
                let name = "n".repeat([10, 5000][dice.roll(2)]);
                store.update(&key(n), |details| details.display_name = Some(name.clone())).unwrap().unwrap();
            }
            2 | 3 => {
                let text = format!("{round} ").repeat(dice.roll(1500));
                store.set_metadata(&key(n), &Map::from_iter([("t".to_owned(), Value::from(text))])).unwrap().unwrap();
            }
            4 => drop(store.record_usage(&key(n), &Usage { input_tokens: 3, total_tokens: 3, ..Usage::ZERO }).unwrap()),
            5 => drop(store.reset(&key(n)).unwrap()),
            6 if round > 0 => drop(store.remove(&key(n)).unwrap()),
            _ => drop(store.begin_turn(&key(n)).unwrap()),
        }
        if dice.roll(20) == 0 {
            found.receipt.wait().unwrap();
        }
    }
}

/// What an undamaged copy holds: the entries that were acknowledged, and the turns that are open after an end.
fn undamaged(files: &Files, acknowledged: u64, clock: &ManualClock) -> u64 {
    let dir = fast_dir();
    write(files, dir.path());
    let store = SessionStore::open(options(dir.path(), clock)).unwrap();
    assert_eq!(entries_of(&store).unwrap(), acknowledged);
    content(&store).unwrap()
}

/// All that can be seen of a store, in one number.
fn content(store: &SessionStore) -> Result<u64, Error> {
    let mut turns = String::new();
    for turn in store.turns()? {
        let _ = writeln!(turns, "{} {turn:?}", turn.key.as_str());
    }
    let mut hasher = DefaultHasher::new();
    (turns, store.len(), entries_of(store)?).hash(&mut hasher);
    Ok(hasher.finish())
}

/// All entries, with their extras, and the notes.
fn entries_of(store: &SessionStore) -> Result<u64, Error> {
    let mut hasher = DefaultHasher::new();
    for format in [ExportFormat::Jsonl, ExportFormat::Hermes] {
        let mut out = Vec::new();
        let report = store.export(&mut out, &ExportOptions::new(format))?;
        (out, format!("{report:?}")).hash(&mut hasher);
    }
    Ok(hasher.finish())
}

fn read(path: &Path) -> Files {
    fn collect(root: &Path, dir: &Path, files: &mut Files) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                collect(root, &path, files);
            } else {
                files.insert(path.strip_prefix(root).unwrap().to_path_buf(), fs::read(&path).unwrap());
            }
        }
    }
    let mut files = Files::new();
    collect(path, path, &mut files);
    files
}

fn used((name, bytes): (&PathBuf, &Vec<u8>)) -> (PathBuf, Vec<usize>) {
    let blocks = (0..).step_by(64).zip(bytes.chunks(64));
    (name.clone(), blocks.filter(|(_, block)| **block != [0; 64][..block.len()]).map(|(at, _)| at).collect())
}

fn write(files: &Files, path: &Path) {
    for (name, bytes) in files {
        let file = path.join(name);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, bytes).unwrap();
    }
}

// The damage.

/// Damages one file; most often the database, seldom the small ones. Says what it did.
fn damage(base: &Base, files: &mut Files, dice: &mut Dice) -> String {
    let names: Vec<PathBuf> = files.keys().cloned().collect();
    let name = match dice.roll(4) {
        0 => names[dice.roll(names.len())].clone(),
        1 => {
            let snapshots: Vec<_> = names.iter().filter(|name| name.to_str().unwrap().contains("snap.")).collect();
            if snapshots.is_empty() { "sled/db".into() } else { snapshots[dice.roll(snapshots.len())].clone() }
        }
        _ => PathBuf::from("sled/db"),
    };
    let bytes = files.get_mut(&name).unwrap();
    let used = &base.used[&name];
    let at = |dice: &mut Dice| used.get(dice.roll(used.len().max(1))).map_or(0, |at| at + dice.roll(64));
    let what = match dice.roll(7) {
        0 | 1 => {
            let (at, bit) = (at(dice).min(bytes.len().saturating_sub(1)), dice.roll(8));
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << bit;
            }
            format!("bit {bit} of byte {at} is flipped")
        }
        2 => {
            let from = (at(dice) / BLOCK * BLOCK).min(bytes.len());
            let to = (from + BLOCK).min(bytes.len());
            bytes[from..to].fill(0);
            format!("block at {from} is zero")
        }
        3 => {
            let to = (at(dice) / BLOCK * BLOCK).min(bytes.len());
            bytes.truncate(to);
            format!("truncated to {to}")
        }
        4 => {
            files.remove(&name);
            "deleted".into()
        }
        5 => match base.older.get(&name) {
            Some(older) => {
                *bytes = older.clone();
                "the older one".into()
            }
            None => {
                let old = base.older.iter().find(|(older, _)| older.to_str().unwrap().contains("snap."));
                if let Some((older, bytes)) = old {
                    files.remove(&name);
                    files.insert(older.clone(), bytes.clone());
                }
                "replaced by the older snapshot".into()
            }
        },
        _ => {
            let garbage = (0..1 + dice.roll(3 * BLOCK)).map(|_| dice.roll(256) as u8);
            bytes.extend(garbage);
            "garbage at its end".into()
        }
    };
    format!("{}: {what}", name.display())
}

// The child.

#[test]
fn child_main() {
    if !std::env::var(CHILD_PART).is_ok_and(|part| part == "damage") {
        return;
    }
    std::panic::set_hook(Box::new(|_| {}));
    for line in std::io::stdin().lock().lines() {
        let line = line.unwrap();
        let (content, path) = line.split_once(' ').unwrap();
        let verdict = catch_unwind(AssertUnwindSafe(|| look(Path::new(path), content.parse().unwrap())));
        let verdict = verdict.unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
            format!("bad: panicked: {:?}", text.or_else(|| panic.downcast_ref::<String>().cloned()))
        });
        println!("\nVERDICT {}", verdict.replace('\n', " "));
    }
}

/// `exact`, `error: …`, `told: …`, `silent`, or `bad: …`.
fn look(path: &Path, expected: u64) -> String {
    let before = read(path);
    let clock = ManualClock::new(NOW);
    let started = Instant::now();
    let opened = SessionStore::open(options(path, &clock));
    if started.elapsed() > OPENING {
        return format!("bad: opening took {:?}", started.elapsed());
    }
    let store = match opened {
        Ok(store) => store,
        Err(error) => {
            let kind = format!("{error:?}");
            let kind = kind.split([' ', '{', '(']).next().unwrap_or_default();
            if let Some(file) = changed(&before, &read(path)) {
                return format!("bad: {kind}, and {file} was changed: {}", chain(&error));
            }
            // It stays an error: what does not open today is no emptier store tomorrow.
            return match SessionStore::open(options(path, &clock)) {
                Ok(_) => format!("bad: {kind}, and it opens the second time"),
                Err(_) => format!("error: {kind}: {}", chain(&error)),
            };
        }
    };
    let verdict = judge(&store, expected);
    let _ = store.close();
    drop(store);
    if verdict.starts_with("told: violations") {
        return match repaired(path, &clock) {
            Ok(()) => verdict,
            Err(error) => format!("bad: {error} after {verdict}"),
        };
    }
    verdict
}

/// A file that an opening which failed has changed. It may set snapshots aside and write the lock. And sled may write
/// to its log, from where it does not read on, before it gives up.
fn changed(before: &Files, after: &Files) -> Option<String> {
    let moved = |name: &Path| name.with_file_name(format!("aside.{}", name.file_name().unwrap().to_str().unwrap()));
    let lost = before.iter().find(|(name, bytes)| {
        let there = after.get(*name).or_else(|| after.get(&moved(name)));
        !name.ends_with("LOCK") && !name.ends_with("state") && !name.ends_with("db") && there != Some(bytes)
    });
    lost.map(|(name, _)| name.display().to_string())
}

fn judge(store: &SessionStore, expected: u64) -> String {
    let OpenReport { repairs, shortfall, .. } = store.open_report().clone();
    let verified = store.verify();
    let content = content(store);
    let said = match (&verified, &content) {
        (Err(error), _) => format!("verify fails: {}", chain(error)),
        (Ok(found), _) if !found.violations.is_empty() => format!("violations: {}", found.violations[0]),
        _ if shortfall.is_some() => "shortfall".into(),
        (_, Err(error)) => format!("reading fails: {}", chain(error)),
        (_, Ok(content)) if *content == expected => return "exact".into(),
        _ if !repairs.is_empty() => format!("repairs: {}", repairs.join(", ")),
        _ => return "silent".into(),
    };
    format!("told: {said}")
}

fn repaired(path: &Path, clock: &ManualClock) -> Result<(), String> {
    match SessionStore::repair(options(path, clock), path.with_extension("quarantine")) {
        Ok(_) => {}
        // The database itself cannot be opened.
        Err(Error::Engine { .. } | Error::Damaged { .. } | Error::DamagedRecord { .. }) => return Ok(()),
        Err(error) => return Err(format!("no repair: {}", chain(&error))),
    }
    let store = SessionStore::open(options(path, clock)).map_err(|error| format!("repaired: {}", chain(&error)))?;
    let found = store.verify().map_err(|error| format!("repaired: {}", chain(&error)))?;
    if found.violations.is_empty() { Ok(()) } else { Err(format!("repaired, and there is {}", found.violations[0])) }
}

// The parent.

/// A child that looks at one store after the other.
struct Looker {
    child: Child,
    answers: Receiver<String>,
}

impl Looker {
    fn start() -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", MAIN, "--nocapture", "--test-threads=1"])
            .env(CHILD_PART, "damage")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let (sender, answers) = channel();
        std::thread::spawn(move || {
            let verdicts = output.lines().map_while(Result::ok);
            for verdict in verdicts.filter_map(|line| line.strip_prefix("VERDICT ").map(str::to_owned)) {
                let _ = sender.send(verdict);
            }
        });
        Self { child, answers }
    }

    fn look(&mut self, path: &Path, content: u64) -> String {
        writeln!(self.child.stdin.as_ref().unwrap(), "{content} {}", path.display()).unwrap();
        match self.answers.recv_timeout(PATIENCE) {
            Ok(verdict) => verdict,
            Err(_) => {
                let ended = self.child.try_wait().unwrap();
                *self = Self::start();
                ended.map_or("bad: it hangs".into(), |status| format!("bad: the process died: {status}"))
            }
        }
    }
}

impl Drop for Looker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn damage_is_never_silent() {
    let bases = bases();
    let mut looker = Looker::start();
    let mut counts = BTreeMap::new();
    // Undamaged ones, so that a verdict means something.
    for base in &bases {
        let dir = fast_dir();
        write(&base.files, dir.path());
        assert_eq!(looker.look(dir.path(), base.content), "exact", "{}", base.name);
    }
    Battery::new("damage", 80).run(|case, mut dice| {
        let base = &bases[dice.roll(bases.len())];
        let mut files = base.files.clone();
        let what = damage(base, &mut files, &mut dice);
        let dir = fast_dir();
        let path = dir.path().join("db");
        write(&files, &path);
        let verdict = looker.look(&path, base.content);
        let kind = verdict.split(": ").next().unwrap().to_owned();
        *counts.entry(kind.clone()).or_insert(0_u64) += 1;
        let verdict = format!("case {case}: {}: {what}: {verdict}", base.name);
        assert!(!["silent", "bad"].contains(&kind.as_str()), "{verdict}");
        println!("{verdict}");
    });
    println!("{counts:?}");
}

/// What came after the last sync of the state file counts too: the commits before a kill, and what closing did.
#[test]
fn a_lost_tail_is_not_silent() {
    let dir = fast_dir();
    // The clock stands still, so the state file is never due.
    let (path, clock) = (dir.path().join("db"), ManualClock::new(NOW));
    let store = SessionStore::open(options(&path, &clock).create(true)).unwrap();
    let create = |from: usize| {
        for n in from..from + 10 {
            store.resolve(&source(n)).unwrap().receipt.wait().unwrap();
        }
    };
    create(0);
    store.begin_turn(&key(1)).unwrap().unwrap().receipt.wait().unwrap();
    let mut states = vec![("at first", read(&path))];
    create(10);
    states.push(("killed", read(&path)));
    store.close().unwrap();
    drop(store);
    states.push(("closed", read(&path)));

    let mut looker = Looker::start();
    let database = Path::new("sled/db");
    for pair in states.windows(2) {
        let [(_, before), (name, after)] = pair else { unreachable!() };
        let expected = undamaged(after, entries_of_files(after, &clock), &clock);
        let (old, new) = (&before[database], &after[database]);
        let written: Vec<usize> =
            (0..new.len()).filter(|at| new[*at] != 0 && old.get(*at) != Some(&new[*at])).collect();
        let mut told = 0;
        for at in written.iter().step_by(written.len().div_ceil(16)) {
            let mut files = after.clone();
            files.get_mut(database).unwrap()[*at] ^= 1;
            let dir = fast_dir();
            write(&files, dir.path());
            let verdict = looker.look(dir.path(), expected);
            assert!(!verdict.starts_with("silent") && !verdict.starts_with("bad"), "{name}, byte {at}: {verdict}");
            told += u32::from(verdict != "exact");
        }
        assert!(told > 3, "{name}: {told} of {} bytes", written.len());
    }
}

fn entries_of_files(files: &Files, clock: &ManualClock) -> u64 {
    let dir = fast_dir();
    write(files, dir.path());
    entries_of(&SessionStore::open(options(dir.path(), clock)).unwrap()).unwrap()
}
