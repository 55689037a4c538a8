//! Any sequence of verbs on a few keys, against their specification; with commits, lists, checks and reopenings between
//! them. Three bytes are one step: what, on which key, and when.

#![no_main]
#![allow(unreachable_pub)]

#[path = "../../it/common.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod common;
#[path = "../../suite/histories/spec.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod spec;
#[path = "../../suite/histories/verbs.rs"]
mod verbs;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;

use cloakroom::query::Filter;
use cloakroom::SessionStore;
use libfuzzer_sys::fuzz_target;
use spec::{Call, Entry, Op};
use verbs::{Plain, TICKS, ThreadClock, Verbs, compared};

const KEYS: usize = 4;
const STEPS: usize = 200;
/// Inputs after which the store is made anew, so that its files stay small.
const INPUTS: usize = 1000;

struct Bench {
    dir: tempfile::TempDir,
    /// `None` between two openings.
    store: Option<SessionStore>,
    inputs: usize,
}

fn open(dir: &Path) -> SessionStore {
    // Little is kept in memory, and little may wait.
    let options = common::options(&dir.join("db")).cache_bytes(1 << 20).cached_entries(1).max_pending(40);
    SessionStore::open(options.clock(ThreadClock::new())).expect("a store")
}

impl Bench {
    fn new() -> Self {
        let dir = common::fast_dir();
        Self { store: Some(open(dir.path())), dir, inputs: 0 }
    }

    fn store(&self) -> &SessionStore {
        self.store.as_ref().expect("it is open")
    }

    fn reopen(&mut self) {
        self.store().close().expect("a clean close");
        self.store = None;
        self.store = Some(open(self.dir.path()));
        assert!(self.store().open_report().clean);
    }

    fn step(&mut self, states: &mut BTreeMap<usize, Entry>, step: [u8; 3], n: usize) {
        let [what, key, tick] = step;
        let (first, key, at) = (self.inputs * KEYS, usize::from(key) % KEYS, i64::from(tick % 8) * 20);
        let op = match what % 32 {
            0..=3 => Op::Get,
            4..=7 => Op::Touch,
            8..=10 => Op::Append(char::from(b'a' + (n % 26) as u8)),
            11 => Op::Usage(n as u64),
            12..=13 => Op::Suspend,
            14 => Op::Unsuspend,
            15..=16 => Op::Remove,
            17..=20 => Op::Resolve,
            21 => Op::Reset,
            22..=24 => Op::Prune,
            25..=26 => return self.store().flush().expect("a flush"),
            27..=28 => return self.assert_lists(states, first),
            29..=30 => return common::assert_sound(self.store()),
            _ => return self.reopen(),
        };
        TICKS.set(at);
        let answer = Plain(self.store()).call(first + key, op);
        let call = Call { thread: 0, key, op, at, answer, began: 0, ended: 0 };
        let after = call.step(states.get(&key), false);
        match after.unwrap_or_else(|| panic!("{call:?} in {:?}", states.get(&key))) {
            Some(entry) => drop(states.insert(key, entry)),
            None => drop(states.remove(&key)),
        }
    }

    fn assert_lists(&self, states: &BTreeMap<usize, Entry>, first: usize) {
        assert_eq!(self.store().len(), states.len() as u64);
        let listed =
            self.store().iter(Filter::default()).expect("the entries").map(|entry| entry.expect("an entry").key);
        let mut listed: Vec<_> = listed.collect();
        listed.sort();
        let mut expected: Vec<_> = states.keys().map(|key| common::key(first + key)).collect();
        expected.sort();
        assert_eq!(listed, expected);
        for (key, entry) in states {
            let found = self.store().get(&common::key(first + key)).expect("a read");
            assert_eq!(found.as_ref().map(compared).as_ref(), Some(entry));
        }
    }
}

static BENCH: Mutex<Option<Bench>> = Mutex::new(None);

fuzz_target!(|input: &[u8]| {
    let mut bench = BENCH.lock().expect("the store");
    if bench.as_ref().is_none_or(|bench| bench.inputs == INPUTS) {
        *bench = Some(Bench::new());
    }
    let bench = bench.as_mut().expect("it was made just now");
    let mut states = BTreeMap::new();
    for (n, step) in input.chunks_exact(3).take(STEPS).enumerate() {
        bench.step(&mut states, [step[0], step[1], step[2]], n);
    }
    bench.assert_lists(&states, bench.inputs * KEYS);
    for key in states.keys() {
        assert!(bench.store().remove(&common::key(bench.inputs * KEYS + key)).expect("a removal").is_some());
    }
    bench.inputs += 1;
});
