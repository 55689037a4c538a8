//! Figures of a store, counted as it works: for the recorder of the `metrics` facade, behind the feature of that name, and
//! for the live view, behind the feature `live`. Without either these do nothing.
//!
//! `docs/metrics.md` lists names and units. Each store counts for itself: in the facade a label tells them apart, `store`,
//! its path.
//!
//! A recorder is the caller's code, and may use the store: call these with nothing locked. One that panics hurts nothing
//! but its own figures.
#![cfg_attr(
    not(all(feature = "metrics", feature = "live")),
    allow(dead_code, unused_variables, reason = "nobody counts, or not all of it")
)]

#[cfg(feature = "live")]
pub(crate) mod figures;

use std::path::Path;
use std::time::{Duration, Instant};

use crate::time::Timestamp;

/// Why entries were pruned, in the order in which they are counted.
pub(crate) const REASONS: [&str; 3] = ["age", "entries", "bytes"];
/// Why entries were kept, likewise.
pub(crate) const KEPT: [&str; 7] =
    ["suspended", "pinned", "held", "active", "guard_failed", "unreadable", "touched_meanwhile"];

/// What a pass of pruning did.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pruned {
    /// When it ended.
    pub(crate) at: Timestamp,
    /// Entries removed, by [`REASONS`].
    pub(crate) removed: [u64; 3],
    /// Entries kept, by [`KEPT`].
    pub(crate) kept: [u64; 7],
    pub(crate) oldest_protected: Option<Duration>,
}

/// How a store was opened.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Opened {
    pub(crate) clean: bool,
    pub(crate) repairs: usize,
    /// Entries that were missing, if less was found than had been synced.
    pub(crate) shortfall: Option<u64>,
    pub(crate) times_ahead: u64,
    pub(crate) clock_doubted: bool,
}

/// The figures of one store.
#[derive(Debug)]
pub(crate) struct Meter {
    /// Where the store is, from the root on: a process may have changed its directory, and whoever reads has another.
    pub(crate) store: String,
    #[cfg(feature = "live")]
    pub(crate) figures: figures::Figures,
    #[cfg(feature = "metrics")]
    facade: facade::Facade,
}

impl Meter {
    pub(crate) fn new(path: &Path) -> Self {
        let whole = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
        let store = whole.display().to_string();
        Self {
            #[cfg(feature = "live")]
            figures: figures::Figures::new(),
            #[cfg(feature = "metrics")]
            facade: facade::Facade::new(&store),
            store,
        }
    }

    /// The store was opened.
    pub(crate) fn opened(&self, opened: Opened) {
        #[cfg(feature = "metrics")]
        self.facade.opened(opened);
    }

    /// The store has failed, and takes no changes from now on.
    pub(crate) fn failed(&self) {
        #[cfg(feature = "metrics")]
        self.facade.failed();
    }

    /// A pass of the watcher was held.
    pub(crate) fn pass_held(&self) {
        #[cfg(feature = "metrics")]
        self.facade.pass_held();
    }

    /// A pass of the watcher has failed.
    pub(crate) fn pass_failed(&self) {
        #[cfg(feature = "metrics")]
        self.facade.pass_failed();
    }

    /// An entry was used.
    pub(crate) fn touched(&self) {
        #[cfg(feature = "live")]
        self.figures.touched();
        #[cfg(feature = "metrics")]
        self.facade.touched();
    }

    /// A commit that changed something is done.
    pub(crate) fn committed(&self, took: Duration, changes: usize, entries: u64, pending: usize, journal: usize) {
        #[cfg(feature = "live")]
        self.figures.committed(took, changes);
        #[cfg(feature = "metrics")]
        self.facade.committed(took, changes, entries, pending, journal);
    }

    /// The oldest change that is not synced has waited since then.
    pub(crate) fn waits_since(&self, since: Option<Instant>) {
        #[cfg(feature = "live")]
        self.figures.waits_since(since);
    }

    /// A pass has ended.
    pub(crate) fn pruned(&self, pass: &Pruned) {
        #[cfg(feature = "live")]
        self.figures.pruned(pass);
        #[cfg(feature = "metrics")]
        self.facade.pruned(pass);
    }

    /// Events that a full channel did not take.
    pub(crate) fn events_dropped(&self, count: u64) {
        if count == 0 {
            return;
        }
        #[cfg(feature = "live")]
        self.figures.events_dropped(count);
        #[cfg(feature = "metrics")]
        self.facade.events_dropped(count);
    }
}

#[cfg(feature = "metrics")]
mod facade {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::time::Duration;

    use metrics::{Key, Label, Level, Metadata, Recorder, SharedString, with_recorder};

    use crate::meter::{KEPT, Opened, Pruned, REASONS};

    const METADATA: Metadata<'_> = Metadata::new("cloakroom", Level::INFO, Some("cloakroom"));

    /// The names of the figures with the label of the store, made once: a touch is to make none.
    #[derive(Debug)]
    pub(super) struct Facade {
        touches: Key,
        commits: Key,
        commit_seconds: Key,
        commit_changes: Key,
        entries: Key,
        pending: Key,
        pruned: [Key; 3],
        kept: [Key; 7],
        oldest_protected: Key,
        last_prune: Key,
        prune_passes: Key,
        guard_failures: Key,
        held_passes: Key,
        failed_passes: Key,
        events_dropped: Key,
        journal_entries: Key,
        read_only: Key,
        info: Key,
        open_clean: Key,
        open_repairs: Key,
        open_shortfall: Key,
        open_shortfall_entries: Key,
        open_times_ahead: Key,
        open_clock_doubted: Key,
    }

    impl Facade {
        pub(super) fn new(store: &str) -> Self {
            let store = SharedString::from(store.to_owned());
            let of = |name: &'static str, labels: &[Label]| {
                Key::from_parts(name, [&[Label::new("store", store.clone())], labels].concat())
            };
            let with_reason = |name, reason: &'static str| of(name, &[Label::new("reason", reason)]);
            Self {
                touches: of("cloakroom_touches_total", &[]),
                commits: of("cloakroom_commits_total", &[]),
                commit_seconds: of("cloakroom_commit_seconds", &[]),
                commit_changes: of("cloakroom_commit_changes", &[]),
                entries: of("cloakroom_entries", &[]),
                pending: of("cloakroom_pending_changes", &[]),
                pruned: REASONS.map(|reason| with_reason("cloakroom_pruned_total", reason)),
                kept: KEPT.map(|reason| with_reason("cloakroom_prune_kept", reason)),
                oldest_protected: of("cloakroom_oldest_protected_seconds", &[]),
                last_prune: of("cloakroom_last_prune_timestamp_seconds", &[]),
                prune_passes: of("cloakroom_prune_passes_total", &[]),
                guard_failures: of("cloakroom_guard_failures_total", &[]),
                held_passes: of("cloakroom_held_passes_total", &[]),
                failed_passes: of("cloakroom_failed_passes_total", &[]),
                events_dropped: of("cloakroom_events_dropped_total", &[]),
                journal_entries: of("cloakroom_journal_entries", &[]),
                read_only: of("cloakroom_read_only", &[]),
                info: of("cloakroom_info", &[Label::new("version", env!("CARGO_PKG_VERSION"))]),
                open_clean: of("cloakroom_open_clean", &[]),
                open_repairs: of("cloakroom_open_repairs", &[]),
                open_shortfall: of("cloakroom_open_shortfall", &[]),
                open_shortfall_entries: of("cloakroom_open_shortfall_entries", &[]),
                open_times_ahead: of("cloakroom_open_times_ahead", &[]),
                open_clock_doubted: of("cloakroom_open_clock_doubted", &[]),
            }
        }

        pub(super) fn opened(&self, opened: Opened) {
            let Opened { clean, repairs, shortfall, times_ahead, clock_doubted } = opened;
            guarded(|recorder| {
                for (key, value) in [
                    (&self.info, 1.0),
                    (&self.read_only, 0.0),
                    (&self.open_clean, f64::from(clean)),
                    (&self.open_repairs, repairs as f64),
                    (&self.open_shortfall, f64::from(shortfall.is_some())),
                    (&self.open_shortfall_entries, shortfall.unwrap_or(0) as f64),
                    (&self.open_times_ahead, times_ahead as f64),
                    (&self.open_clock_doubted, f64::from(clock_doubted)),
                ] {
                    recorder.register_gauge(key, &METADATA).set(value);
                }
            });
        }

        pub(super) fn failed(&self) {
            guarded(|recorder| recorder.register_gauge(&self.read_only, &METADATA).set(1.0));
        }

        pub(super) fn pass_held(&self) {
            guarded(|recorder| recorder.register_counter(&self.held_passes, &METADATA).increment(1));
        }

        pub(super) fn pass_failed(&self) {
            guarded(|recorder| recorder.register_counter(&self.failed_passes, &METADATA).increment(1));
        }

        pub(super) fn touched(&self) {
            guarded(|recorder| recorder.register_counter(&self.touches, &METADATA).increment(1));
        }

        pub(super) fn committed(&self, took: Duration, changes: usize, entries: u64, pending: usize, journal: usize) {
            guarded(|recorder| {
                recorder.register_counter(&self.commits, &METADATA).increment(1);
                recorder.register_histogram(&self.commit_seconds, &METADATA).record(took);
                recorder.register_histogram(&self.commit_changes, &METADATA).record(changes as f64);
                recorder.register_gauge(&self.entries, &METADATA).set(entries as f64);
                recorder.register_gauge(&self.pending, &METADATA).set(pending as f64);
                recorder.register_gauge(&self.journal_entries, &METADATA).set(journal as f64);
            });
        }

        pub(super) fn pruned(&self, pass: &Pruned) {
            let [.., guard_failed, _, _] = pass.kept;
            guarded(|recorder| {
                recorder.register_counter(&self.prune_passes, &METADATA).increment(1);
                recorder.register_counter(&self.guard_failures, &METADATA).increment(guard_failed);
                for (key, count) in self.pruned.iter().zip(pass.removed) {
                    recorder.register_counter(key, &METADATA).increment(count);
                }
                for (key, count) in self.kept.iter().zip(pass.kept) {
                    recorder.register_gauge(key, &METADATA).set(count as f64);
                }
                let oldest = pass.oldest_protected.unwrap_or_default().as_secs_f64();
                recorder.register_gauge(&self.oldest_protected, &METADATA).set(oldest);
                recorder.register_gauge(&self.last_prune, &METADATA).set(pass.at.as_micros() as f64 / 1e6);
            });
        }

        pub(super) fn events_dropped(&self, count: u64) {
            guarded(|recorder| recorder.register_counter(&self.events_dropped, &METADATA).increment(count));
        }
    }

    fn guarded(record: impl FnOnce(&dyn Recorder)) {
        if catch_unwind(AssertUnwindSafe(|| with_recorder(record))).is_err() {
            tracing::debug!("the recorder of metrics panicked");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_is_named_from_the_root_on() {
        let here = std::env::current_dir().unwrap();
        assert_eq!(Meter::new("a/db".as_ref()).store, here.join("a/db").display().to_string());
        assert_eq!(Meter::new("/a/db".as_ref()).store, "/a/db");
    }
}
