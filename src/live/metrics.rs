//! The figures of the store as text for Prometheus. Names and units: `docs/metrics.md`.
//!
//! It is written from the store's own counters, which have a fixed size: a recorder of the `metrics` facade that the host
//! has is left alone, and nothing grows while nobody asks.

use std::fmt::{Display, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::http::{HeaderName, header};

use super::error::Outcome;
use super::view::View;
use crate::meter::figures::Counts;
use crate::meter::{KEPT, REASONS};
use crate::store::SessionStore;

/// How long sizes count as known: to tell them takes a look at every file, and at five hundred entries.
const KNOWN: Duration = Duration::from_secs(15);
const TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Figures in the making.
struct Text {
    text: String,
    /// The label that every figure has.
    store: String,
}

pub(super) async fn metrics(State(view): State<Arc<View>>) -> Outcome<([(HeaderName, &'static str); 1], String)> {
    view.work(|view, store| Ok(([(header::CONTENT_TYPE, TYPE)], text(view, store)?))).await
}

/// A label's value, as Prometheus reads it.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

impl Text {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn line(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        let _ = write!(self.text, "{name}{{store=\"{}\"", self.store);
        for (label, value) in labels {
            let _ = write!(self.text, ",{label}=\"{}\"", escaped(value));
        }
        let _ = writeln!(self.text, "}} {value}");
    }

    fn one(&mut self, name: &str, kind: &str, help: &str, value: impl Display) {
        self.head(name, kind, help);
        self.line(name, &[], value);
    }

    fn counter(&mut self, name: &str, help: &str, value: &AtomicU64) {
        self.one(name, "counter", help, value.load(Relaxed));
    }

    /// A histogram whose bounds are so many to one of the unit.
    fn histogram(&mut self, name: &str, help: &str, counts: &Counts, per_unit: f64) {
        self.head(name, "histogram", help);
        let (mut below, bucket) = (0, format!("{name}_bucket"));
        for (count, bound) in counts.counts.iter().zip(counts.bounds) {
            below += count;
            self.line(&bucket, &[("le", &(*bound as f64 / per_unit).to_string())], below);
        }
        self.line(&bucket, &[("le", "+Inf")], counts.total());
        self.line(&format!("{name}_sum"), &[], counts.sum as f64 / per_unit);
        self.line(&format!("{name}_count"), &[], counts.total());
    }
}

fn sizes(view: &View, store: &SessionStore) -> Outcome<(u64, u64)> {
    let mut sizes = view.sizes.lock();
    if let Some((at, disk, live)) = sizes.told
        && at.elapsed() < KNOWN
    {
        return Ok((disk, live));
    }
    let engine = store.commits().engine()?;
    let (disk, live) = (engine.bytes_on_disk()?, engine.live_bytes(store.len())?);
    sizes.told = Some((Instant::now(), disk, live));
    Ok((disk, live))
}

fn text(view: &View, store: &SessionStore) -> Outcome<String> {
    let figures = &store.commits().meter().figures;
    let (disk, live) = sizes(view, store)?;
    let mut text = Text { text: String::with_capacity(8 << 10), store: escaped(&store.commits().meter().store) };
    text.head("cloakroom_info", "gauge", "The version of the library; the value is always 1.");
    text.line("cloakroom_info", &[("version", env!("CARGO_PKG_VERSION"))], 1);
    text.one("cloakroom_entries", "gauge", "Entries in the store.", store.len());
    text.counter("cloakroom_touches_total", "Touches, with resolved messages and turns.", &figures.touches);
    let commits = figures.commits.read();
    text.one("cloakroom_commits_total", "counter", "Commits that changed something.", commits.total());
    let help = "How long such a commit took, with its sync if it had one.";
    text.histogram("cloakroom_commit_seconds", help, &commits, 1e6);
    let help = "Entries that such a commit changed.";
    text.histogram("cloakroom_commit_changes", help, &figures.changes.read(), 1.0);
    let help = "How long the oldest change that is not durable has waited.";
    text.one("cloakroom_durable_lag_seconds", "gauge", help, figures.durable_lag().as_secs_f64());
    let help = "Entries whose changes wait for their commit.";
    text.one("cloakroom_pending_changes", "gauge", help, store.commits().pending());
    text.one("cloakroom_live_bytes", "gauge", "Estimate of the bytes of all entries.", live);
    text.one("cloakroom_disk_bytes", "gauge", "Bytes of all files of the store.", disk);
    let journal = store.commits().engine()?.journal_entries();
    text.one("cloakroom_journal_entries", "gauge", "Entries with late activity in the journal.", journal);
    text.head("cloakroom_pruned_total", "counter", "Entries removed by pruning, by the rule that did it.");
    for (reason, count) in REASONS.iter().zip(&figures.pruned) {
        text.line("cloakroom_pruned_total", &[("reason", reason)], count.load(Relaxed));
    }
    text.head("cloakroom_prune_kept", "gauge", "Entries that the last pass was to remove and kept, by what kept them.");
    for (reason, count) in KEPT.iter().zip(&figures.kept) {
        text.line("cloakroom_prune_kept", &[("reason", reason)], count.load(Relaxed));
    }
    let help = "How long the oldest entry that the last pass kept had been idle.";
    text.one("cloakroom_oldest_protected_seconds", "gauge", help, figures.oldest_protected_seconds.load(Relaxed));
    let help = "Entries that passes kept because the guard failed.";
    text.counter("cloakroom_guard_failures_total", help, &figures.guard_failures);
    text.counter("cloakroom_prune_passes_total", "Passes of pruning that ended, without dry runs.", &figures.passes);
    let last = figures.last_prune.load(Relaxed) as f64 / 1e6;
    text.one("cloakroom_last_prune_timestamp_seconds", "gauge", "When the last pass ended; 0 before the first.", last);
    if let Some(watcher) = &view.watcher {
        let status = watcher.status();
        let help = "Passes of the watcher that were held.";
        text.one("cloakroom_held_passes_total", "counter", help, status.held);
        let help = "Passes of the watcher that failed or panicked.";
        text.one("cloakroom_failed_passes_total", "counter", help, status.failures);
    }
    text.one("cloakroom_leases", "gauge", "Leases that have not ended.", store.leases()?.items.len());
    let help = "Events that a full channel did not take.";
    text.counter("cloakroom_events_dropped_total", help, &figures.events_dropped);
    let opened = store.open_report();
    let flag = u8::from;
    text.one("cloakroom_open_clean", "gauge", "1 if the store had been closed properly.", flag(opened.clean));
    text.one("cloakroom_open_repairs", "gauge", "What was put right at the opening.", opened.repairs.len());
    let lost = opened.shortfall.map_or(0, |lost| lost.expected_entries.saturating_sub(lost.found_entries));
    let help = "1 if less was found at the opening than had been synced.";
    text.one("cloakroom_open_shortfall", "gauge", help, flag(opened.shortfall.is_some()));
    text.one("cloakroom_open_shortfall_entries", "gauge", "Entries that were missing then.", lost);
    let help = "Entries whose time lay ahead of the clock at the opening.";
    text.one("cloakroom_open_times_ahead", "gauge", help, opened.times_ahead);
    let help = "1 if the clock was doubted at the opening.";
    text.one("cloakroom_open_clock_doubted", "gauge", help, flag(opened.clock_doubted));
    let help = "1 if the store is read-only since a failure.";
    text.one("cloakroom_read_only", "gauge", help, flag(store.commits().failure().is_some()));
    Ok(text.text)
}
