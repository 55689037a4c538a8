//! What a child does to a store before it is killed or loses its power, and what must be left of it.
//!
//! The child says a line for each change that it awaited, after it awaited it, and one before each that takes
//! something away. State only grows otherwise, so that whatever else it did meanwhile, the store must be at least as far
//! as the lines say. Where two fields are written by one change they must agree afterwards.
//!
//! A child prunes when it begins, and what no child before has used for [`MAX_IDLE_DAYS`] goes, but not what is
//! suspended or what the guard calls active: names that begin with `g`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cloakroom::change::{Removal, Repoint, Repointed, Written};
use cloakroom::query::Filter;
use cloakroom::source::KeyPolicy;
use cloakroom::time::{Clock, ManualClock};
use cloakroom::turns::{BegunTurn, ResumeMark, TurnEnd};
use cloakroom::{
    Details, Extras, Options, PrunePolicy, Receipt, Result, SessionEntry, SessionId, SessionKey, SessionSource,
    SessionStore, Timestamp, Usage,
};
use serde_json::{Map, Value, json};

use crate::common::NOW;
use crate::rig::file_model::Dice;
use crate::single_extras;

/// An opening must have ended after this. A debug build has longer, beside whatever else a machine does.
pub const MAX_OPEN: Duration = Duration::from_secs(if cfg!(debug_assertions) { 30 } else { 5 });

const MAX_IDLE_DAYS: i64 = 20;
/// What names begin with that the guard protects.
const GUARDED: &str = "g";
/// Leases end here, after all time that passes.
const FAR: Timestamp = Timestamp::from_micros(4_000_000_000_000_000);

/// The same of entries that get another key, and what that begins with.
const MOVES: &str = "m";
const MOVED: &str = "n";

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
    /// One change in this many is awaited.
    pub await_one_in: u64,
    /// The time between commits that nobody asked for.
    pub interval_ms: u64,
    /// Tells the children on one store apart. Time begins later in later rounds.
    pub round: u64,
    /// From the beginning of a round to that of the next.
    pub days: u64,
    /// Close the store at the end, instead of falling dead.
    pub close: u64,
    /// What a thread waits after each step.
    pub pause_ms: u64,
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
        days: 30,
        close: 0,
        pause_ms: 0,
    };

    pub fn to_line(self) -> String {
        let Self { seed, threads, steps, keys, metadata_bytes, await_one_in, interval_ms, .. } = self;
        let Self { round, days, close, pause_ms, .. } = self;
        let all = [seed, threads, steps, keys, metadata_bytes, await_one_in, interval_ms, round, days, close, pause_ms];
        all.map(|number| number.to_string()).join(" ")
    }

    pub fn from_line(line: &str) -> Self {
        let numbers: Vec<u64> = line.split(' ').map(|number| number.parse().unwrap()).collect();
        let [seed, threads, steps, keys, metadata_bytes, await_one_in, interval_ms, ref rest @ ..] = numbers[..] else {
            panic!("no plan: {line}");
        };
        let [round, days, close, pause_ms] = *rest else { panic!("no plan: {line}") };
        Self { seed, threads, steps, keys, metadata_bytes, await_one_in, interval_ms, round, days, close, pause_ms }
    }

    /// When its round begins.
    pub fn start(self) -> Timestamp {
        NOW.saturating_add(Duration::from_secs(self.round * self.days * 86_400))
    }
}

pub fn source(name: &str) -> SessionSource {
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

/// The name of an entry that got another key.
fn renamed(name: &str) -> String {
    format!("{MOVED}{}", name.strip_prefix(MOVES).unwrap())
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
    let (store, clock) = open(path, plan, say).unwrap();
    work(&store, &clock, plan, say).unwrap();
    if plan.close == 1 {
        say("closing");
        store.close().unwrap();
        say("closed");
    } else {
        // Dead, with what is pending unwritten.
        std::process::exit(0);
    }
}

/// Opens the store for the plan, on a clock of its own.
pub fn open(path: &Path, plan: Plan, say: &dyn Fn(&str)) -> Result<(SessionStore, ManualClock)> {
    say("opening");
    let clock = ManualClock::new(plan.start());
    let options = Options::new(path)
        .create(true)
        .cache_bytes(16 << 20)
        // Carried at once, all the time, or never.
        .journal_bytes(*[1, 4096, 64 << 20].get((plan.seed % 3) as usize).unwrap())
        .commit_interval(Duration::from_millis(plan.interval_ms))
        .clock(clock.clone());
    let store = SessionStore::open(options)?;
    assert_eq!(store.open_report().shortfall, None);
    // A child before this one may have let more time pass, and a clock that is behind would take its times for wrong.
    if let Some(newest) = store.stats()?.newest {
        clock.advance(newest.since(clock.now()));
    }
    say("opened");
    Ok((store, clock))
}

/// All threads' steps, or the first failure.
pub fn work(store: &SessionStore, clock: &ManualClock, plan: Plan, say: &(dyn Fn(&str) + Sync)) -> Result<()> {
    store.recover_interrupted_turns(Duration::MAX)?;
    prune(store, clock, say)?;
    let fresh = &AtomicU64::new(0);
    std::thread::scope(|scope| {
        let worker = |thread| {
            let dice = Dice(plan.seed * 1000 + thread);
            scope.spawn(move || Worker { store, clock, fresh, plan, thread, dice, say }.run())
        };
        let threads: Vec<_> = (0..plan.threads).map(worker).collect();
        threads.into_iter().try_for_each(|thread| thread.join().unwrap())
    })
}

/// Says what may go, and prunes.
fn prune(store: &SessionStore, clock: &ManualClock, say: &dyn Fn(&str)) -> Result<()> {
    let policy = PrunePolicy::max_age_days(MAX_IDLE_DAYS);
    say(&format!("pruning {}", policy.cutoff(clock.now()).unwrap().as_micros()));
    store.prune(&policy, guard)?;
    say("pruned");
    Ok(())
}

fn guard(asked: &SessionKey) -> bool {
    asked.as_str().contains(&format!(":{GUARDED}"))
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
    fn run(mut self) -> Result<()> {
        let pause = Duration::from_millis(self.plan.pause_ms);
        (0..self.plan.steps).try_for_each(|_| {
            self.step()?;
            if !pause.is_zero() {
                std::thread::sleep(pause);
            }
            Ok(())
        })
    }

    fn step(&mut self) -> Result<()> {
        // Most touches stay in their minute, some cross.
        let by = [0, 1, 7, 61][self.dice.roll(4)];
        self.clock.advance(Duration::from_secs(by));
        let name = format!("t{}-{}", self.thread, self.dice.roll(self.plan.keys as usize));
        let key = key(&name);
        match self.dice.roll(31) {
            0..8 => {
                let found = self.store.resolve(&source(&name))?;
                let time = found.entry.updated_at.as_micros();
                self.awaited(&found.receipt, &format!("touched {name} {time}"))
            }
            8..11 => {
                let turn = Usage { input_tokens: 1, output_tokens: 2, total_tokens: 3, ..Usage::ZERO };
                let Some(receipt) = self.store.record_usage(&key, &turn)? else { return Ok(()) };
                let Some(now) = self.store.get(&key)? else { return Ok(()) };
                self.awaited(&receipt, &format!("used {name} {}", now.usage.total_tokens))
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
                let Some(receipt) = self.store.update(&key, update)? else { return Ok(()) };
                self.awaited(&receipt, &format!("updated {name} {n}"))
            }
            13..16 => {
                let Some((_, extras)) = self.store.get_with_extras(&key)? else { return Ok(()) };
                let n = metadata_number(&extras) + 1;
                let receipt = self.store.set_metadata(&key, &metadata(n, self.plan.metadata_bytes))?;
                self.awaited(&receipt.unwrap(), &format!("noted {name} {n}"))
            }
            16..18 => {
                // On keys of its own, since a new session has no metadata and no counters.
                let name = format!("w{name}");
                let entry = self.store.resolve(&source(&name))?.entry;
                let n = switch_number(&entry) + 1;
                let id = SessionId::new(format!("run-{n}-{name}")).unwrap();
                let Repointed::Switched(Written { receipt, .. }) =
                    self.store.repoint(&entry.key, id, &Repoint::new())?
                else {
                    panic!("{name} has the id already");
                };
                let extras = metadata(n, self.plan.metadata_bytes);
                let receipt =
                    if n.is_multiple_of(2) { self.store.set_metadata(&entry.key, &extras)?.unwrap() } else { receipt };
                self.awaited(&receipt, &format!("switched {name} {n}"))
            }
            18 => {
                let (name, entry) = self.fresh("f")?;
                let receipt = self.store.suspend(&entry.key)?.unwrap();
                self.awaited(&receipt, &format!("suspended {name} 1"))?;
                if self.dice.roll(2) == 0 {
                    return Ok(());
                }
                (self.say)(&format!("unsuspending {name} 1"));
                let receipt = self.store.unsuspend(&entry.key)?.unwrap();
                self.awaited(&receipt, &format!("unsuspended {name} 1"))
            }
            19 => {
                let (name, entry) = self.fresh("f")?;
                self.store.set_metadata(&entry.key, &metadata(1, self.plan.metadata_bytes))?;
                let receipt = self.store.touch(&entry.key)?.unwrap();
                self.awaited(&receipt, &format!("touched {name} 0"))?;
                (self.say)(&format!("removing {name} 1"));
                let receipt = if self.dice.roll(2) == 0 {
                    self.store.remove(&entry.key)?.unwrap()
                } else {
                    let seen = self.store.get(&entry.key)?.unwrap();
                    let Removal::Removed(receipt) = self.store.remove_if(&entry.key, &seen)? else { panic!("{name}") };
                    receipt
                };
                self.awaited(&receipt, &format!("removed {name} 1"))
            }
            20 => {
                let (name, entry) = self.fresh("f")?;
                let mark = self.store.mark_resume_pending(&entry.key, "test")?;
                let ResumeMark::Marked(receipt) = mark else { panic!("{name}: {mark:?}") };
                self.awaited(&receipt, &format!("marked {name} 1"))
            }
            21..23 => {
                let (name, entry) = self.fresh("f")?;
                let BegunTurn { token: turn, receipt, .. } = self.store.begin_turn(&entry.key)?.unwrap();
                self.awaited(&receipt, &format!("begun {name} 1"))?;
                match self.dice.roll(7) {
                    // It is interrupted, or pruned.
                    0 | 1 => Ok(()),
                    2 | 3 => {
                        (self.say)(&format!("ending {name} 1"));
                        let end = self.store.end_turn(&entry.key, turn)?;
                        let TurnEnd::Ended(receipt) = end else { panic!("{name}: {end:?}") };
                        self.awaited(&receipt, &format!("ended {name} 1"))
                    }
                    4 => {
                        (self.say)(&format!("removing {name} 1"));
                        let receipt = self.store.remove(&entry.key)?.unwrap();
                        self.awaited(&receipt, &format!("removed {name} 1"))
                    }
                    ends => {
                        (self.say)(&format!("resetting {name} 1"));
                        let receipt = self.store.reset(&entry.key)?.unwrap().receipt;
                        if ends == 5 {
                            return self.awaited(&receipt, &format!("reset {name} 1"));
                        }
                        let receipt = self.store.begin_turn(&entry.key)?.unwrap().receipt;
                        self.awaited(&receipt, &format!("begun {name} 2"))
                    }
                }
            }
            23 => {
                // On keys of its own, since a new session has no counters.
                let name = format!("r{name}");
                let key = self.store.resolve(&source(&name))?.entry.key;
                let Written { entry, receipt, .. } = self.store.reset(&key)?.unwrap();
                self.awaited(&receipt, &format!("touched {name} {}", entry.updated_at.as_micros()))
            }
            24 => {
                let (name, entry) = self.fresh(GUARDED)?;
                let receipt = self.store.touch(&entry.key)?.unwrap();
                self.awaited(&receipt, &format!("touched {name} 0"))
            }
            25 => self.rename(),
            27 => {
                let (name, entry) = self.fresh("h")?;
                let receipt = self.store.hold_until(&entry.key, "job", FAR)?.unwrap();
                self.awaited(&receipt, &format!("held {name} 1"))?;
                match self.dice.roll(5) {
                    0 | 1 => Ok(()),
                    2 => {
                        (self.say)(&format!("releasing {name} 1"));
                        let receipt = self.store.release(&entry.key, "job")?.unwrap();
                        self.awaited(&receipt, &format!("released {name} 1"))
                    }
                    ends => {
                        (self.say)(&format!("removing {name} 1"));
                        let receipt = self.store.remove(&entry.key)?.unwrap();
                        if ends == 3 {
                            return self.awaited(&receipt, &format!("removed {name} 1"));
                        }
                        let again = self.store.resolve(&source(&name))?;
                        self.awaited(&again.receipt, &format!("again {name} 1"))
                    }
                }
            }
            28..31 => self.single_extras(),
            _ => self.prune(),
        }
    }

    /// Sets and removes some, in an entry of its own, where many pile up.
    fn single_extras(&mut self) -> Result<()> {
        let name = format!("xt{}-{}", self.thread, self.dice.roll(2));
        let found = self.store.resolve(&source(&name))?;
        let time = found.entry.updated_at.as_micros();
        self.awaited(&found.receipt, &format!("touched {name} {time}"))?;
        for _ in 0..=self.dice.roll(8) {
            let which = single_extras::any(&mut self.dice);
            if self.dice.roll(4) > 0 {
                self.set_single(&name, which)?;
                continue;
            }
            let n = self.next_single();
            (self.say)(&format!("unsetting-{which} {name} {n}"));
            if let Some(receipt) = self.store.remove_extra(&found.entry.key, &single_extras::name(which))? {
                self.awaited(&receipt, &format!("unset-{which} {name} {n}"))?;
            }
        }
        Ok(())
    }

    fn set_single(&mut self, name: &str, which: usize) -> Result<()> {
        let n = self.next_single();
        let value = single_extras::value(which, n);
        let receipt = self.store.set_extra(&key(name), &single_extras::name(which), &value)?.unwrap();
        self.awaited(&receipt, &format!("set-{which} {name} {n}"))
    }

    /// Larger than any before, in earlier rounds too.
    fn next_single(&self) -> u64 {
        (self.plan.round + 1) << 32 | self.fresh.fetch_add(1, Ordering::Relaxed)
    }

    /// Three entries get another key, one of them with extras and one with a turn.
    fn rename(&mut self) -> Result<()> {
        let (name, _) = self.fresh(MOVES)?;
        let names = ["a", "b", "c"].map(|end| format!("{name}x{end}"));
        for name in &names {
            self.store.resolve(&source(name))?;
        }
        let receipt = self.store.set_metadata(&key(&names[0]), &metadata(1, self.plan.metadata_bytes))?.unwrap();
        self.awaited(&receipt, &format!("noted {} 1", names[0]))?;
        let singles = [single_extras::a_small_one(&mut self.dice), single_extras::a_large_one(&mut self.dice)];
        singles.into_iter().try_for_each(|which| self.set_single(&names[0], which))?;
        let receipt = self.store.begin_turn(&key(&names[1]))?.unwrap().receipt;
        self.awaited(&receipt, &format!("begun {} 1", names[1]))?;
        let receipt = self.store.touch(&key(&names[2]))?.unwrap();
        self.awaited(&receipt, &format!("touched {} 0", names[2]))?;
        names.iter().for_each(|name| (self.say)(&format!("renaming {name} 1")));
        let old = format!("{name}x");
        let report = self.store.rename(key(&old).as_str(), key(&renamed(&old)).as_str())?;
        assert_eq!((report.moved, report.collisions), (3, 0));
        names.iter().for_each(|name| (self.say)(&format!("renamed {name} 1")));
        Ok(())
    }

    /// Everything else is young, so only what is protected is there to be pruned. A thread that is alone now and then
    /// makes all of it old.
    fn prune(&mut self) -> Result<()> {
        if self.plan.threads == 1 {
            if self.dice.roll(8) == 0 {
                self.clock.advance(Duration::from_secs((MAX_IDLE_DAYS as u64 + 1) * 86_400));
            }
            return prune(self.store, self.clock, self.say);
        }
        self.store.prune(&PrunePolicy::max_age_days(MAX_IDLE_DAYS), guard).map(drop)
    }

    /// An entry with a name that is used once.
    fn fresh(&self, kind: &str) -> Result<(String, SessionEntry)> {
        let name = format!("{kind}{}-{}", self.plan.round, self.fresh.fetch_add(1, Ordering::Relaxed));
        Ok((name.clone(), self.store.resolve(&source(&name))?.entry))
    }

    /// Awaits some of the receipts, and says so.
    fn awaited(&mut self, receipt: &Receipt, line: &str) -> Result<()> {
        if self.dice.roll(self.plan.await_one_in as usize) == 0 {
            receipt.wait()?;
            (self.say)(line);
        }
        Ok(())
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
    /// A pass was about to remove it.
    may_be_gone: bool,
    numbers: BTreeMap<String, u64>,
}

impl Least {
    fn number(&self, what: &str) -> u64 {
        self.numbers.get(what).copied().unwrap_or(0)
    }

    fn is_held(&self) -> bool {
        self.number("held") > 0 && self.number("releasing") == 0 && self.number("removing") == 0
    }

    fn is_suspended(&self) -> bool {
        self.number("suspended") > 0 && self.number("unsuspending") == 0
    }
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
            ["closing"] => {
                // It discards the markers of turns.
                for least in self.entries.values_mut() {
                    least.numbers.remove("begun");
                }
            }
            ["pruning", cutoff] => self.give_up(cutoff.parse().unwrap()),
            ["pruned"] => self.entries.retain(|_, least| !least.may_be_gone),
            ["touched", name, micros] => {
                let least = self.entries.entry(name.into()).or_default();
                least.updated_at = least.updated_at.max(micros.parse().unwrap());
            }
            // Said before the change: tells nothing of an entry that was not told of.
            ["ending" | "resetting" | "unsuspending" | "renaming" | "releasing", name, _]
                if !self.entries.contains_key(name) => {}
            [what, name, _] if what.starts_with("unsetting-") && !self.entries.contains_key(name) => {}
            [what, name, n] => {
                let least = self.entries.entry(name.into()).or_default();
                let known = least.numbers.entry(what.into()).or_default();
                *known = (*known).max(n.parse().unwrap());
            }
            _ => panic!("no line of ours: {line}"),
        }
    }

    /// What is not protected and was last used before the cutoff may go. Until it does it is as it was. When the pass is
    /// over it may come back as a fresh entry.
    fn give_up(&mut self, cutoff: i64) {
        for (name, least) in &mut self.entries {
            let stays =
                least.updated_at >= cutoff || name.starts_with(GUARDED) || least.is_suspended() || least.is_held();
            least.may_be_gone |= !stays;
        }
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Removes what was last used before `time`, and expects it no more: what is protected would pile up for ever.
    pub fn clear(&mut self, store: &SessionStore, time: Timestamp) -> Result<()> {
        let old = store.idle_since(time)?.map(|row| Ok(row?.key)).collect::<Result<BTreeSet<_>>>()?;
        for key in &old {
            store.remove(key)?;
        }
        let is_old = |name: &str| old.contains(&key(name));
        self.entries.retain(|name, _| !(is_old(name) || name.starts_with(MOVES) && is_old(&renamed(name))));
        Ok(())
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
        let turns = store.turns().map_err(|error| format!("turns: {error}"))?;
        let turns: BTreeSet<SessionKey> = turns.into_iter().map(|turn| turn.key).collect();
        let held = store.leases().map_err(|error| format!("leases: {error}"))?;
        let held: BTreeSet<SessionKey> = held.into_iter().map(|lease| lease.key).collect();
        if found.orphaned_leases > 0 {
            return Err(format!("leases of no entry: {found:?}"));
        }
        for (name, least) in &self.entries {
            check_entry(store, name, least, &turns, &held)
                .map_err(|error| format!("{name}: {error}; told was {least:?}"))?;
        }
        let mut listed = 0;
        for row in store.iter(Filter::default()).map_err(|error| format!("list: {error}"))? {
            let row = row.map_err(|error| format!("list: {error}"))?;
            let (entry, extras) = store.get_with_extras(&row.key).map_err(|e| format!("{}: {e}", row.key))?.unwrap();
            if let Some((_, name)) = row.key.as_str().rsplit_once(&format!(":{MOVES}"))
                && store.contains(&key(&format!("{MOVED}{name}"))).map_err(|error| error.to_string())?
            {
                return Err(format!("{} is under two keys", row.key.as_str()));
            }
            whole(&entry, &extras).map_err(|error| format!("{}: {error}", row.key.as_str()))?;
            if !store.find_by_session_id(&entry.session_id).unwrap().items.contains(&entry) {
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

fn check_entry(
    store: &SessionStore,
    name: &str,
    least: &Least,
    turns: &BTreeSet<SessionKey>,
    held: &BTreeSet<SessionKey>,
) -> Result<(), String> {
    let number = |what: &str| least.number(what);
    let look = |name: &str| store.get_with_extras(&key(name)).map_err(|error| error.to_string());
    let mut found = look(name)?;
    if number("renaming") + number("renamed") > 0 {
        let moved = look(&renamed(name))?;
        if found.is_some() && moved.is_some() {
            return Err("it is under both keys".into());
        }
        if found.is_some() && number("renamed") > 0 {
            return Err("it is under its old key".into());
        }
        found = moved.or(found);
    }
    let Some((entry, extras)) = found else {
        return if number("removing") > 0 || least.may_be_gone { Ok(()) } else { Err("it is gone".into()) };
    };
    if number("removed") > 0 {
        return Err("it is back".into());
    }
    let turn = turns.contains(&entry.key);
    let held = held.contains(&entry.key);
    let goes_on = turn || entry.resume_pending;
    let is_reset = entry.details.is_fresh_reset;
    let begun = match number("begun") {
        0 => true,
        1 => goes_on || number("ending") > 0 || (is_reset && number("resetting") > 0),
        // That of the session after the reset.
        _ => is_reset && goes_on,
    };
    let checks = [
        ("updated_at", entry.updated_at >= Timestamp::from_micros(least.updated_at)),
        ("used", entry.usage.total_tokens >= number("used")),
        ("updated", details_number(&entry.details) >= number("updated")),
        ("noted", metadata_number(&extras) >= number("noted")),
        ("switched", switch_number(&entry) >= number("switched")),
        ("suspended", entry.suspended || !least.is_suspended()),
        ("unsuspended", !entry.suspended || number("unsuspended") == 0),
        ("marked", entry.resume_pending || number("marked") == 0),
        ("begun", begun),
        ("reset", number("reset") == 0 || (is_reset && !goes_on)),
        ("ended", !turn || number("ended") == 0),
        ("held", held || !least.is_held()),
        ("released", !held || number("released") == 0),
        ("made again", !held || number("again") == 0),
    ];
    match checks.iter().find(|(_, holds)| !holds) {
        Some((what, _)) => Err(format!("{what} does not hold: {entry:?}")),
        None => single_extras::check(&extras, number),
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
    single_extras::whole(extras)
}
