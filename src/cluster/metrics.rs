//! Figures as text for Prometheus.

use std::fmt::{Display, Write};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::figures::Figures;
use super::store::ClusterStore;
use crate::error::Result;

impl ClusterStore {
    /// What names this process among those that have the store open: the label `member` of its [metrics](Self::metrics), the
    /// [`owner`](crate::turns::OpenTurn::owner) of its turns, and in the warning about processes that keep a pass of pruning waiting. A store that is opened again has another one.
    #[must_use]
    pub fn member(&self) -> &str {
        &self.inner.member
    }

    /// Figures as text for Prometheus (format 0.0.4): what this process has done since it opened the store, and the state
    /// of the whole, for which all shards are asked once. What no node tells is left out. Whoever serves it for scrapes does that in few processes, or in
    /// all: the label `member` tells them apart.
    ///
    /// # Errors
    /// Those of [`stats`](Self::stats).
    pub fn metrics(&self) -> Result<String> {
        let stats = self.stats()?;
        let Figures { touches, retries, redirections, uncertain, resent, forgotten, waiting, reviews, .. } =
            &*self.inner.figures;
        let Figures { passes, pruned, kept_unreviewed, events_dropped, .. } = &*self.inner.figures;
        let mut text = String::new();
        let labels = format!("{{store=\"{}\",member=\"{}\"}}", self.name(), self.inner.member);
        let mut put = |name: &str, kind: &str, help: &str, value: &dyn Display| {
            let name = format!("cloakroom_cluster_{name}");
            // Writing to a text does not fail.
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name}{labels} {value}");
        };
        let counters: [(&str, &AtomicU64, &str); 10] = [
            ("touches_total", touches, "Touches by this process, those of messages among them."),
            ("retries_total", retries, "Requests that were sent again, for they got no answer."),
            ("redirections_total", redirections, "Requests that a node sent on to another one."),
            ("uncertain_total", uncertain, "Changes and receipts whose outcome could not be told."),
            ("touches_resent_total", resent, "Touches that were sent again, for a failover may have lost them."),
            (
                "touches_forgotten_total",
                forgotten,
                "Touches that a failover may lose, for too many were remembered already.",
            ),
            ("reviews_total", reviews, "Looks at what other processes want to prune."),
            ("prune_passes_total", passes, "Passes of pruning by this process."),
            ("pruned_total", pruned, "Entries that this process pruned."),
            ("events_dropped_total", events_dropped, "Events that a listener had no room for."),
        ];
        for (name, value, help) in counters {
            put(name, "counter", help, &value.load(Relaxed));
        }
        let gauges = [
            ("touches_remembered", self.inner.owed.len(), "Touches that replicas may not have yet."),
            ("receipts_waiting", waiting.load(Relaxed), "Receipts that are waited for."),
            (
                "kept_unreviewed",
                kept_unreviewed.load(Relaxed),
                "Entries that the last pass of this process kept, for not all have looked at them.",
            ),
            ("entries", stats.entries, "Entries of the store."),
            ("active_entries", stats.active_in_last_minute, "Entries that were used within the last minute."),
            ("open_turns", stats.open_turns, "Turns that have begun and not ended."),
            ("condemned", stats.condemned, "Entries to be pruned once all processes have looked at them."),
            ("members", stats.members, "Processes that have the store open."),
            ("guards", stats.guards, "Those that are asked before an entry is pruned."),
        ];
        let told = [
            ("used_memory_bytes", stats.used_memory, "Memory that the primaries use together, for all that they hold."),
            (
                "replica_lag_bytes",
                stats.replica_lag,
                "What the replica that is farthest behind has not acknowledged of the replication stream.",
            ),
        ];
        let told = told.into_iter().filter_map(|(name, value, help)| Some((name, value?, help)));
        for (name, value, help) in gauges.into_iter().chain(told) {
            put(name, "gauge", help, &value);
        }
        Ok(text)
    }
}
