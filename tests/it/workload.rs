//! What a child does to a store before it is killed or loses its power, and what must be left of it.
//!
//! The child says a line for each change that it awaited, after it awaited it, and one before each removal. State
//! only grows, so that whatever else it did meanwhile, the store must be at least as far as the lines say. Where two
//! fields are written by one change they must agree afterwards.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cloakroom::{
    Details, Extras, Filter, KeyPolicy, ManualClock, Options, Receipt, SessionEntry, SessionId, SessionKey,
    SessionSource, SessionStore, Timestamp, Usage,
};
use serde_json::{Map, Value, json};

use crate::common::NOW;
use crate::rig::file_model::Dice;

/// One child's work, also as a line of text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    pub seed: u64,
    pub threads: u64,
    /// Steps of each thread.
    pub steps: u64,
    /// Keys of each thread.
    pub keys: u64,
    /// Metadata is at most this large.
    pub metadata_bytes: u64,
    /// One change in so many is awaited.
    pub await_one_in: u64,
    /// The time between commits that nobody asked for.
    pub interval_ms: u64,
    /// Tells the children on one store apart. Time begins later in later rounds.
    pub round: u64,
    /// Close the store at the end, instead of falling dead.
    pub close: u64,
}

impl Plan {
    pub const SMALL: Self = Self {
        seed: 1,
        threads: 1,
        steps: 300,
        keys: 6,
        metadata_bytes: 9000,
        await_one_in: 4,
        interval_ms: 3_600_000,
        round: 0,
        close: 0,
    };

    pub fn to_line(self) -> String {
        let Self { seed, threads, steps, keys, metadata_bytes, await_one_in, interval_ms, round, close } = self;
        format!("{seed} {threads} {steps} {keys} {metadata_bytes} {await_one_in} {interval_ms} {round} {close}")
    }

    pub fn from_line(line: &str) -> Self {
        let numbers: Vec<u64> = line.split(' ').map(|number| number.parse().unwrap()).collect();
        let [seed, threads, steps, keys, metadata_bytes, await_one_in, interval_ms, round, close] = numbers[..] else {
            panic!("no plan: {line}");
        };
        Self { seed, threads, steps, keys, metadata_bytes, await_one_in, interval_ms, round, close }
    }
}

fn source(name: &str) -> SessionSource {
    SessionSource {
        platform: "discord".into(),
        chat_type: "channel".into(),
        chat_id: Some(name.into()),
        ..SessionSource::default()
    }
}

fn key(name: &str) -> SessionKey {
    SessionKey::for_source(&source(name), &KeyPolicy::default()).unwrap()
}

fn clock(round: u64) -> ManualClock {
    ManualClock::new(NOW.saturating_add(Duration::from_secs(round * 86_400 * 30)))
}

/// The metadata that is number `n` of its entry: what is in it follows from the number.
fn metadata(n: u64, limit: u64) -> Map<String, Value> {
    Map::from_iter([
        ("n".to_owned(), json!(n)),
        ("limit".to_owned(), json!(limit)),
        ("text".to_owned(), filler(n, limit).into()),
    ])
}

fn filler(n: u64, limit: u64) -> String {
    let bytes = n.wrapping_mul(0x9e37_79b9) % limit;
    char::from(b'a' + (n % 26) as u8).to_string().repeat(bytes as usize)
}

/// Does the work; `say` tells the world.
pub fn run(path: &Path, plan: Plan, say: &(dyn Fn(&str) + Sync)) {
    say("opening");
    let clock = clock(plan.round);
    let options = Options::new(path)
        .create(true)
        .cache_bytes(16 << 20)
        .commit_interval(Duration::from_millis(plan.interval_ms))
        .clock(clock.clone());
    let store = SessionStore::open(options).unwrap();
    assert_eq!(store.open_report().shortfall, None);
    say("opened");
    let fresh = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for thread in 0..plan.threads {
            let (store, clock, fresh) = (&store, &clock, &fresh);
            scope.spawn(move || {
                let dice = Dice(plan.seed * 1000 + thread);
                Worker { store, clock, fresh, plan, thread, dice, say }.run();
            });
        }
    });
    if plan.close == 1 {
        store.close().unwrap();
        say("closed");
    } else {
        // Dead, with what is pending unwritten.
        std::process::exit(0);
    }
}

struct Worker<'a> {
    store: &'a SessionStore,
    clock: &'a ManualClock,
    /// Numbers for names that are used once.
    fresh: &'a AtomicU64,
    plan: Plan,
    thread: u64,
    dice: Dice,
    say: &'a (dyn Fn(&str) + Sync),
}

impl Worker<'_> {
    fn run(mut self) {
        for _ in 0..self.plan.steps {
            self.step();
        }
    }

    fn step(&mut self) {
        // Most touches stay in their minute, some cross.
        let by = [0, 1, 7, 61][self.dice.roll(4)];
        self.clock.advance(Duration::from_secs(by));
        let name = format!("t{}-{}", self.thread, self.dice.roll(self.plan.keys as usize));
        let key = key(&name);
        match self.dice.roll(20) {
            0..8 => {
                let found = self.store.resolve(&source(&name)).unwrap();
                let time = found.entry.updated_at.as_micros();
                self.awaited(&found.receipt, &format!("touched {name} {time}"));
            }
            8..11 => {
                let turn = Usage { input_tokens: 1, output_tokens: 2, total_tokens: 3, ..Usage::ZERO };
                let Some(receipt) = self.store.record_usage(&key, &turn).unwrap() else { return };
                let Some(now) = self.store.get(&key).unwrap() else { return };
                self.awaited(&receipt, &format!("used {name} {}", now.usage.total_tokens));
            }
            11..13 => {
                let mut n = 0;
                let update = |details: &mut Details| {
                    n = details_number(details) + 1;
                    // Now and then more than fits into the record.
                    let padding = if n.is_multiple_of(7) { "x".repeat(5000) } else { String::new() };
                    details.display_name = Some(format!("{n}-{padding}"));
                    details.cost_status = Some(n.to_string());
                };
                let Some(receipt) = self.store.update(&key, update).unwrap() else { return };
                self.awaited(&receipt, &format!("updated {name} {n}"));
            }
            13..16 => {
                let Some((_, extras)) = self.store.get_with_extras(&key).unwrap() else { return };
                let n = metadata_number(&extras) + 1;
                let receipt = self.store.set_metadata(&key, &metadata(n, self.plan.metadata_bytes)).unwrap();
                self.awaited(&receipt.unwrap(), &format!("noted {name} {n}"));
            }
            16..18 => {
                // On keys of its own, since a new session has no metadata and no counters.
                let name = format!("w{name}");
                let entry = self.store.resolve(&source(&name)).unwrap().entry;
                let n = switch_number(&entry) + 1;
                let id = SessionId::new(format!("run-{n}-{name}")).unwrap();
                let (_, receipt) = self.store.switch(&entry.key, id).unwrap().unwrap();
                let extras = metadata(n, self.plan.metadata_bytes);
                let receipt = if n.is_multiple_of(2) {
                    self.store.set_metadata(&entry.key, &extras).unwrap().unwrap()
                } else {
                    receipt
                };
                self.awaited(&receipt, &format!("switched {name} {n}"));
            }
            18 => {
                let name = self.fresh_name();
                self.store.resolve(&source(&name)).unwrap();
                let receipt = self.store.suspend(&self::key(&name)).unwrap().unwrap();
                self.awaited(&receipt, &format!("suspended {name} 1"));
            }
            _ => {
                let name = self.fresh_name();
                let receipt = self.store.resolve(&source(&name)).unwrap().receipt;
                self.store.set_metadata(&self::key(&name), &metadata(1, self.plan.metadata_bytes)).unwrap();
                self.awaited(&receipt, &format!("touched {name} 0"));
                (self.say)(&format!("removing {name} 1"));
                let receipt = self.store.remove(&self::key(&name)).unwrap().unwrap();
                self.awaited(&receipt, &format!("removed {name} 1"));
            }
        }
    }

    fn fresh_name(&self) -> String {
        format!("f{}-{}", self.plan.round, self.fresh.fetch_add(1, Ordering::Relaxed))
    }

    /// Awaits some of the receipts, and says so.
    fn awaited(&mut self, receipt: &Receipt, line: &str) {
        if self.dice.roll(self.plan.await_one_in as usize) == 0 {
            receipt.wait().unwrap();
            (self.say)(line);
        }
    }
}

fn details_number(details: &Details) -> u64 {
    details.cost_status.as_ref().map_or(0, |n| n.parse().unwrap())
}

fn metadata_number(extras: &Extras) -> u64 {
    extras.value(Extras::METADATA).map_or(0, |value| value["n"].as_u64().unwrap())
}

fn switch_number(entry: &SessionEntry) -> u64 {
    let number = entry.session_id.as_str().strip_prefix("run-").and_then(|rest| rest.split('-').next());
    number.map_or(0, |n| n.parse().unwrap())
}

/// What the lines say of one entry.
#[derive(Debug, Clone, Default)]
struct Least {
    updated_at: i64,
    numbers: BTreeMap<String, u64>,
}

/// What must be there.
#[derive(Debug, Clone, Default)]
pub struct Expected {
    /// The store's creation was told.
    pub opened: bool,
    pub closed: bool,
    entries: BTreeMap<String, Least>,
}

impl Expected {
    pub fn from_lines(lines: &[String]) -> Self {
        let mut expected = Self::default();
        lines.iter().for_each(|line| expected.read(line));
        expected
    }

    pub fn read(&mut self, line: &str) {
        match *line.split(' ').collect::<Vec<_>>() {
            ["opening"] => self.closed = false,
            ["opened"] => self.opened = true,
            ["closed"] => self.closed = true,
            ["touched", name, micros] => {
                let least = self.entries.entry(name.into()).or_default();
                least.updated_at = least.updated_at.max(micros.parse().unwrap());
            }
            [what, name, n] => {
                let least = self.entries.entry(name.into()).or_default();
                let known = least.numbers.entry(what.into()).or_default();
                *known = (*known).max(n.parse().unwrap());
            }
            _ => panic!("no line of ours: {line}"),
        }
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// What is wrong with the store, if something is.
    pub fn check(&self, store: &SessionStore) -> Result<(), String> {
        let report = store.open_report();
        if report.shortfall.is_some() {
            return Err(format!("a shortfall: {report:?}"));
        }
        let found = store.verify().map_err(|error| format!("verify: {error}"))?;
        if !found.violations.is_empty() || !found.count_checked || found.entries != store.len() {
            return Err(format!("verify: {found:?}, and {} entries", store.len()));
        }
        for (name, least) in &self.entries {
            check_entry(store, name, least).map_err(|error| format!("{name}: {error}; told was {least:?}"))?;
        }
        let mut listed = 0;
        for row in store.iter(Filter::default()).map_err(|error| format!("list: {error}"))? {
            let row = row.map_err(|error| format!("list: {error}"))?;
            let (entry, extras) = store.get_with_extras(&row.key).map_err(|e| format!("{}: {e}", row.key))?.unwrap();
            whole(&entry, &extras).map_err(|error| format!("{}: {error}", row.key.as_str()))?;
            if !store.find_by_session_id(&entry.session_id).unwrap().contains(&entry) {
                return Err(format!("{} is not found by its id", row.key.as_str()));
            }
            listed += 1;
        }
        if listed != found.entries {
            return Err(format!("{listed} of {} entries are listed", found.entries));
        }
        Ok(())
    }
}

fn check_entry(store: &SessionStore, name: &str, least: &Least) -> Result<(), String> {
    let number = |what: &str| least.numbers.get(what).copied().unwrap_or(0);
    let found = store.get_with_extras(&key(name)).map_err(|error| error.to_string())?;
    let Some((entry, extras)) = found else {
        return if number("removing") > 0 { Ok(()) } else { Err("it is gone".into()) };
    };
    if number("removed") > 0 {
        return Err("it is back".into());
    }
    let checks = [
        ("updated_at", entry.updated_at >= Timestamp::from_micros(least.updated_at)),
        ("used", entry.usage.total_tokens >= number("used")),
        ("updated", details_number(&entry.details) >= number("updated")),
        ("noted", metadata_number(&extras) >= number("noted")),
        ("switched", switch_number(&entry) >= number("switched")),
        ("suspended", entry.suspended || number("suspended") == 0),
    ];
    match checks.iter().find(|(_, holds)| !holds) {
        Some((what, _)) => Err(format!("{what} is behind: {entry:?}")),
        None => Ok(()),
    }
}

/// What one change wrote is there as a whole.
fn whole(entry: &SessionEntry, extras: &Extras) -> Result<(), String> {
    let usage = entry.usage;
    if usage.output_tokens != 2 * usage.input_tokens || usage.total_tokens != 3 * usage.input_tokens {
        return Err(format!("half of the counters: {usage:?}"));
    }
    let n = details_number(&entry.details);
    let name = entry.details.display_name.as_deref().unwrap_or_default();
    let number = name.split_once('-').and_then(|(number, _)| number.parse().ok());
    if n > 0 && number != Some(n) {
        return Err(format!("half of the details: {n} and {number:?}"));
    }
    if let Some(value) = extras.value(Extras::METADATA) {
        let (n, limit) = (value["n"].as_u64().unwrap(), value["limit"].as_u64().unwrap());
        if value["text"].as_str() != Some(&filler(n, limit)) {
            return Err(format!("metadata {n} is not whole"));
        }
        if switch_number(entry) > 0 && switch_number(entry) != n {
            return Err(format!("metadata {n} with session {}", entry.session_id));
        }
    }
    Ok(())
}
