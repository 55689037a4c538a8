//! What a subscriber of tracing sees of the store's longer work: spans at debug, none at info, and no names in them.

use std::process::Command;
use std::time::Duration;

use cloakroom::prefix::BulkRemoval;
use cloakroom::query::Filter;
use cloakroom::time::ManualClock;
use cloakroom::{Options, PrunePolicy, SessionKey, SessionSource, SessionStore};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::format::FmtSpan;

use crate::canary::Said;
use crate::common::{NOW, fast_dir};
use crate::rig::CHILD_PART;

const DAY: Duration = Duration::from_secs(86_400);

/// A subscriber is of the whole process, and the committer's thread is one of those that it hears.
#[test]
fn child_main() {
    let level = match std::env::var(CHILD_PART).as_deref() {
        Ok("spans debug") => LevelFilter::DEBUG,
        Ok("spans info") => LevelFilter::INFO,
        _ => return,
    };
    let said = Said::default();
    let writer = said.clone();
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_span_events(FmtSpan::CLOSE)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .init();
    let dir = fast_dir();
    let clock = ManualClock::new(NOW);
    // Without room the journal is carried from the next commit on.
    let options = Options::new(dir.path().join("db")).create(true).journal_bytes(0).clock(clock.clone());
    let store = SessionStore::open(options).unwrap();
    let source = SessionSource {
        platform: "discord".into(),
        chat_type: "dm".into(),
        chat_id: Some("secret-chat".into()),
        ..SessionSource::default()
    };
    let key = store.resolve(&source).unwrap().entry.key;
    for _ in 0..3 {
        clock.advance(Duration::from_secs(60));
        store.touch(&key).unwrap().unwrap().wait().unwrap();
    }
    clock.advance(100 * DAY);
    let report = store.prune(&PrunePolicy::max_age_days(90), |_: &SessionKey| false).unwrap();
    assert_eq!(report.removed, 1);
    store.resolve(&source).unwrap();
    assert!(matches!(store.remove_where(&Filter::default(), 1).unwrap(), BulkRemoval::Removed(_)));
    store.close().unwrap();
    print!("\nSAID\n{}", String::from_utf8_lossy(&said.0.lock().unwrap()));
}

fn said(part: &str) -> String {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "spans::child_main", "--nocapture"])
        .env(CHILD_PART, part)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    text.split_once("\nSAID\n").unwrap().1.to_owned()
}

#[test]
fn opening_commits_carrying_and_pruning_are_spans_at_debug() {
    let said = said("spans debug");
    let has = |parts: &[&str]| said.lines().any(|line| parts.iter().all(|part| line.contains(part)));
    assert!(has(&["DEBUG open{path=", "created=true entries=0}", "close"]), "{said}");
    assert!(has(&["DEBUG commit{commit=", "changes=1 sync=true}", "close"]), "{said}");
    assert!(has(&["DEBUG carry{records=1", "close"]), "{said}");
    assert!(has(&["DEBUG prune{dry_run=false cutoff=", "removed=1 stopped=false}", "close"]), "{said}");
    // Each entry that goes is named, redacted.
    assert!(has(&["DEBUG prune", "pruned key=discord:dm:#", "idle_seconds=8640000"]), "{said}");
    assert!(has(&["DEBUG", " removed key=discord:dm:#"]), "{said}");
    assert!(!said.contains("secret-chat"), "{said}");
}

#[test]
fn at_info_there_are_none() {
    let said = said("spans info");
    assert!(["open{", "commit{", "carry{", "prune{"].iter().all(|span| !said.contains(span)), "{said}");
}
