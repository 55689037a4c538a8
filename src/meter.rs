//! Figures for the `metrics` facade, behind the feature of that name. Without it these do nothing.
//!
//! The docs of [`Stats`](crate::report::Stats) list names and units.
//!
//! All stores of a process count together. A recorder is the caller's code, and may use the store: call these with
//! nothing locked. One that panics hurts nothing but its own figures.

use std::time::Duration;

use crate::time::Timestamp;

#[cfg(feature = "metrics")]
fn guarded(record: impl FnOnce()) {
    if std::panic::catch_unwind(std::panic::AssertUnwindSafe(record)).is_err() {
        tracing::debug!("the recorder of metrics panicked");
    }
}

/// The entry was used.
pub(crate) fn touched() {
    #[cfg(feature = "metrics")]
    guarded(|| metrics::counter!("cloakroom_touches_total").increment(1));
}

/// A commit that changed something is done.
#[cfg_attr(not(feature = "metrics"), expect(unused_variables, reason = "nobody counts"))]
pub(crate) fn committed(took: Duration, entries: u64, pending: usize) {
    #[cfg(feature = "metrics")]
    guarded(|| {
        metrics::counter!("cloakroom_commits_total").increment(1);
        metrics::histogram!("cloakroom_commit_seconds").record(took);
        metrics::gauge!("cloakroom_entries").set(entries as f64);
        metrics::gauge!("cloakroom_pending_changes").set(pending as f64);
    });
}

/// A pass has ended at `now`; `reasons` counts the removed entries by reason.
#[cfg_attr(not(feature = "metrics"), expect(unused_variables, reason = "nobody counts"))]
pub(crate) fn pruned(now: Timestamp, reasons: [(&'static str, u64); 3]) {
    #[cfg(feature = "metrics")]
    guarded(|| {
        for (reason, removed) in reasons {
            metrics::counter!("cloakroom_pruned_total", "reason" => reason).increment(removed);
        }
        metrics::gauge!("cloakroom_last_prune_timestamp_seconds").set(now.as_micros() as f64 / 1e6);
    });
}

/// Events that a full channel did not take.
#[cfg_attr(not(feature = "metrics"), expect(unused_variables, reason = "nobody counts"))]
pub(crate) fn events_dropped(count: u64) {
    #[cfg(feature = "metrics")]
    if count > 0 {
        guarded(|| metrics::counter!("cloakroom_events_dropped_total").increment(count));
    }
}
