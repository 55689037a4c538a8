//! Any bytes through an import: it never panics, each entry has one outcome, what was imported comes out of an export as
//! it went in, and what came out goes in again and comes out the same.

#![no_main]

#[path = "../../it/exact_json.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod exact_json;

use std::sync::Mutex;
use std::time::Duration;

use cloakroom::export::{ExportFormat, ExportOptions};
use cloakroom::gateway::Gateway;
use cloakroom::import::{ImportOptions, ImportReport};
use cloakroom::query::Filter;
use cloakroom::{Error, Options, SessionStore};
use exact_json::Exact;
use libfuzzer_sys::fuzz_target;

/// Inputs after which the stores are made anew: notes cannot be removed, so they pile up.
const INPUTS: u32 = 300;

struct Stores {
    _dir: tempfile::TempDir,
    one: SessionStore,
    two: SessionStore,
    inputs: u32,
}

impl Stores {
    fn new() -> Self {
        let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a directory");
        let open = |name: &str| {
            let options = Options::new(dir.path().join(name)).create(true).cache_bytes(1 << 20).cached_entries(64);
            SessionStore::open(options.commit_interval(Duration::from_secs(3600))).expect("a store")
        };
        Self { one: open("one"), two: open("two"), _dir: dir, inputs: 0 }
    }
}

fn import(store: &SessionStore, input: &[u8], gateway: Option<Gateway>, dry_run: bool) -> Option<ImportReport> {
    let mut quarantine = Vec::new();
    let mut options = ImportOptions::new().zone("Europe/Berlin".parse().expect("a zone")).dry_run(dry_run);
    if let Some(gateway) = gateway {
        options = options.gateway(gateway);
    }
    let report = match store.import(input, options.quarantine(&mut quarantine), |_| {}) {
        Ok(report) => report,
        Err(Error::NotASessionFile { .. } | Error::ClockBehind { .. }) => return None,
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

fn export(store: &SessionStore, gateway: Gateway) -> String {
    let format = match gateway {
        Gateway::OpenClaw => ExportFormat::OpenClaw,
        _ => ExportFormat::Hermes,
    };
    let mut out = Vec::new();
    let options = ExportOptions::new(format).zone("Europe/Berlin".parse().expect("a zone"));
    store.export(&mut out, &options).expect("an export");
    store.export(std::io::sink(), &ExportOptions::new(ExportFormat::Jsonl)).expect("an export of lines");
    String::from_utf8(out).expect("UTF-8")
}

/// The file's own value of each of its keys, where nothing was left out, moved or there twice. Notes of earlier inputs
/// are in the export too.
fn assert_same(input: &[u8], out: &str, report: &ImportReport) {
    let is_plain = report.is_complete() && report.clamped + report.duplicates + report.repeated_fields + report.notes_left_out == 0;
    if !is_plain {
        return;
    }
    let (input, out) = (Exact::parse(std::str::from_utf8(input).expect("a whole file is UTF-8")), Exact::parse(out));
    for (key, value) in input.fields() {
        assert_eq!(out.fields().get(key), Some(value), "{key}");
    }
    let is_entry = |key: &&String| !key.starts_with('_');
    assert_eq!(out.fields().keys().filter(is_entry).count(), input.fields().keys().filter(is_entry).count());
}

fn empty(store: &SessionStore) {
    for entry in store.iter(Filter::default()).expect("the entries") {
        drop(store.remove(&entry.expect("an entry").key).expect("a removal"));
    }
    store.flush().expect("a flush");
}

static STORES: Mutex<Option<Stores>> = Mutex::new(None);

fuzz_target!(|input: &[u8]| {
    let mut stores = STORES.lock().expect("the stores");
    if stores.as_ref().is_none_or(|stores| stores.inputs == INPUTS) {
        *stores = Some(Stores::new());
    }
    let Stores { one, two, inputs, .. } = stores.as_mut().expect("it was made just now");
    *inputs += 1;
    let Some(dry) = import(one, input, None, true) else { return };
    let report = import(one, input, None, false).expect("what a dry run takes");
    assert_eq!((dry.read, dry.imported, dry.quarantined), (report.read, report.imported, report.quarantined));
    let gateway = report.gateway.unwrap_or(Gateway::Hermes);
    let first = export(one, gateway);
    assert_same(input, &first, &report);
    let again = import(two, first.as_bytes(), Some(gateway), false).expect("an export is a session file");
    assert!(again.is_complete() && again.clamped + again.duplicates + again.repeated_fields == 0, "{again:?}");
    assert_eq!(export(two, gateway), first);
    empty(one);
    empty(two);
});
