//! Any bytes through an import: it never panics, each entry has one outcome, and what was imported comes out of an
//! export as it goes in again.

use std::fs;
use std::path::Path;
use std::time::Duration;

use cloakroom::{
    Error, ExportFormat, ExportOptions, Filter, Gateway, ImportOptions, ImportReport, Options, SessionStore,
};
use cloakroom_fuzz::{Dice, run};

const WORDS: &[&[u8]] = &[
    b"{",
    b"}",
    b"[",
    b"]",
    b"\"",
    b":",
    b",",
    b"\\",
    b"\n",
    b"null",
    b"true",
    b"NaN",
    b"-Infinity",
    b"0",
    b"-1",
    b"1e999",
    b"123456789012345678901234567890",
    b"1.50",
    b"\\ud800",
    b"\\u0000",
    b"\xff",
    b"\xef\xbb\xbf",
    b"\"_note\": ",
    b"\"a\": {}",
    b"\"session_id\": ",
    b"\"sessionId\": ",
    b"\"updated_at\": ",
    b"\"updatedAt\": ",
    b"\"lastInteractionAt\": ",
    b"\"memory_flushed\": true,",
    b"\"metadata\": {}",
    b"\"2026-03-29T02:30:00\"",
    b"\"2026-10-25T02:30:00.5\"",
    b"\"2999-01-01T00:00:00Z\"",
    b"\"0000-00-00T99:99:99\"",
    b"\"2026-06-03T00:41:19+05:30\"",
    b"9223372036854775807",
    b"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[",
    b"\"..\"",
    b"\"a/b\"",
];

fn seeds() -> Vec<Vec<u8>> {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut seeds = vec![b"{}".to_vec(), Vec::new()];
    for dir in ["fixtures/hermes", "fixtures/openclaw", "cases/import"] {
        let Ok(files) = fs::read_dir(tests.join(dir)) else { continue };
        seeds.extend(files.map(|file| fs::read(file.expect("a file").path()).expect("a readable file")));
    }
    seeds
}

/// A seed, or a piece of one that holds a few entries: small inputs run more often.
fn next(dice: &mut Dice, seeds: &[Vec<u8>]) -> Vec<u8> {
    let seed = dice.pick(seeds);
    let mut input = if seed.len() > 8192 && dice.roll(20) > 0 {
        let from = dice.roll(seed.len() - 4096);
        let start = seed[from..].windows(5).position(|w| w.starts_with(b"\n  \"")).map_or(0, |at| from + at);
        let end = seed.len().min(start + 1024 + dice.roll(8192));
        let close = seed[start..end].windows(4).rposition(|w| w == b"\n  }").map_or(end, |at| start + at + 4);
        [b"{", &seed[start..close], b"\n}"].concat()
    } else {
        seed.clone()
    };
    if dice.roll(50) > 0 {
        dice.mutate(&mut input, WORDS);
    }
    input
}

struct Stores {
    _dir: tempfile::TempDir,
    one: SessionStore,
    two: SessionStore,
}

impl Stores {
    fn new() -> Self {
        let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a directory");
        let open = |name: &str| {
            let options = Options::new(dir.path().join(name)).create(true).cache_bytes(1 << 20).cached_entries(64);
            SessionStore::open(options.commit_interval(Duration::from_secs(3600))).expect("a store")
        };
        Self { one: open("one"), two: open("two"), _dir: dir }
    }
}

fn import(store: &SessionStore, input: &[u8], dry_run: bool) -> Option<ImportReport> {
    let mut quarantine = Vec::new();
    let options = ImportOptions::new().zone("Europe/Berlin".parse().expect("a zone")).dry_run(dry_run);
    let report = match store.import(input, options.quarantine(&mut quarantine), |_| {}) {
        Ok(report) => report,
        Err(Error::NotASessionFile { .. }) => return None,
        Err(error) => panic!("{error}"),
    };
    let outcomes = report.imported + report.updated + report.kept + report.duplicates + report.quarantined;
    assert_eq!(report.read, outcomes);
    let lines = quarantine.split_inclusive(|byte| *byte == b'\n').inspect(|line| {
        serde_json::from_slice::<serde_json::Value>(line).expect("a line of the quarantine is JSON");
    });
    assert_eq!(lines.count() as u64, report.quarantined);
    Some(report)
}

fn export(store: &SessionStore, gateway: Gateway) -> Vec<u8> {
    let format = match gateway {
        Gateway::OpenClaw => ExportFormat::OpenClaw,
        _ => ExportFormat::Hermes,
    };
    let mut out = Vec::new();
    let options = ExportOptions::new(format).zone("Europe/Berlin".parse().expect("a zone"));
    store.export(&mut out, &options).expect("an export");
    store.export(std::io::sink(), &ExportOptions::new(ExportFormat::Jsonl)).expect("an export of lines");
    out
}

fn empty(store: &SessionStore) {
    for entry in store.iter(Filter::default()).expect("the entries") {
        drop(store.remove(&entry.expect("an entry").key).expect("a removal"));
    }
    store.flush().expect("a flush");
}

fn main() {
    let seeds = seeds();
    let mut stores = Stores::new();
    let mut runs = 0_u32;
    run(
        "import",
        |dice| next(dice, &seeds),
        |input| {
            runs += 1;
            if runs.is_multiple_of(300) {
                // Notes cannot be removed, so they pile up.
                stores = Stores::new();
            }
            let Some(dry) = import(&stores.one, input, true) else { return };
            let report = import(&stores.one, input, false).expect("what a dry run takes");
            assert_eq!((dry.read, dry.imported, dry.quarantined), (report.read, report.imported, report.quarantined));
            let gateway = report.gateway.unwrap_or(Gateway::Hermes);
            let first = export(&stores.one, gateway);
            if let Some(again) = import(&stores.two, &first, false) {
                assert!(again.is_complete() && again.clamped == 0, "{again:?}");
                if report.gateway.is_some() && report.notes == 0 && runs % 300 < 2 || again.notes == report.notes {
                    let entries = |text: &[u8]| String::from_utf8_lossy(text).matches("\n  \"").count();
                    assert_eq!(entries(&first), entries(&export(&stores.two, gateway)));
                }
            }
            empty(&stores.one);
            empty(&stores.two);
        },
    );
}
