//! Figures for the `metrics` facade, behind the feature of that name. Without it these do nothing.
//!
//! | name | kind | unit | what |
//! | --- | --- | --- | --- |
//! | `cloakroom_entries` | gauge | entries | entries there are, as of the last commit |
//! | `cloakroom_touches_total` | counter | touches | touches, resolved messages and turns included |
//! | `cloakroom_commits_total` | counter | commits | commits that changed something |
//! | `cloakroom_commit_seconds` | histogram | seconds | how long such a commit took, its sync included if it had one |
//! | `cloakroom_pending_changes` | gauge | changes | changes that wait for the next commit, as of the last one |
//! | `cloakroom_pruned_total`, `reason` = `age`, `entries`, `bytes` | counter | entries | entries removed by pruning |
//! | `cloakroom_last_prune_timestamp_seconds` | gauge | seconds since 1970 | when the last pass ended, dry runs left out |
//! | `cloakroom_events_dropped_total` | counter | events | events that a full channel did not take |
//!
//! All stores of a process count together. A recorder that panics hurts nothing but its own figures.

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

/// A pass has ended at `now`, and removed so many entries for each reason.
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

/// An event was not taken.
pub(crate) fn event_dropped() {
    #[cfg(feature = "metrics")]
    guarded(|| metrics::counter!("cloakroom_events_dropped_total").increment(1));
}
