//! [`ClusterWatcher`]: the thread that prunes.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded, select};
use parking_lot::Mutex;

use super::store::ClusterStore;
use crate::error::{Error, Result, panic_message, with_causes};
use crate::fork;
use crate::prune::{NoActivity, PruneReport};
use crate::time::{Timer, Timestamp};
use crate::watcher::{WatcherConfig, WatcherStatus};

/// Passes do not follow each other faster.
const MIN_INTERVAL: Duration = Duration::from_secs(1);

/// Prunes a store on a cluster from a thread of its own: at once, then every interval, and when told. It stops when this is
/// dropped: a pass that is under way ends after the entry that it is at, which is waited for.
///
/// Any number of processes may have one, and one or two are enough: each walks over all shards by itself. What several of them find
/// they remove once, and each asks
/// [the guard of its process](super::ClusterOptions::guard) and waits for those of the others. So where others have guards an
/// entry goes with the second pass at the earliest: that comes after the
/// [interval of reviews](super::ClusterOptions::review_interval), if the one of the watcher is longer.
///
/// A pass that would remove more than half of the entries for their age is held, until one that finds no more of it an
/// interval later. While clocks disagree nothing is removed; that counts as held too.
#[must_use = "it stops when it is dropped"]
#[derive(Debug)]
pub struct ClusterWatcher {
    stop: Option<Sender<()>>,
    kick: Sender<()>,
    status: Arc<Mutex<WatcherStatus>>,
    thread: Option<JoinHandle<()>>,
}

impl ClusterStore {
    /// Starts a thread that prunes, named `cloakroom-prune`.
    ///
    /// # Errors
    /// [`Error::Setting`] if the interval is shorter than a second, [`Error::Unsupported`] for a cap on bytes.
    pub fn watch(&self, config: WatcherConfig) -> Result<ClusterWatcher> {
        if config.interval < MIN_INTERVAL {
            return Err(Error::Setting {
                setting: "the interval of the watcher",
                value: format!("{:?}", config.interval),
                expected: "there must be a second between two passes at least",
            });
        }
        if config.policy.limits().max_disk_bytes.is_some() {
            return Err(Error::Unsupported { what: "a cap on bytes", by: "on a cluster" });
        }
        let ((stop, stopped), (kick, kicks)) = (bounded(0), bounded(1));
        let status = Arc::new(Mutex::new(WatcherStatus::default()));
        let mut worker = Worker { store: self.clone(), config, status: Arc::clone(&status), held: None };
        let thread = thread::Builder::new()
            .name("cloakroom-prune".into())
            .spawn(move || worker.run(&stopped, &kicks))
            .map_err(|e| Error::io("start the watcher of", self.name(), e))?;
        Ok(ClusterWatcher { stop: Some(stop), kick, status, thread: Some(thread) })
    }
}

impl ClusterWatcher {
    /// Asks for a pass now, and does not wait for it. It is not held for how much it removes.
    pub fn prune_now(&self) {
        // Full means that a pass is asked for already.
        let _ = self.kick.try_send(());
    }

    /// What has been done so far.
    #[must_use]
    pub fn status(&self) -> WatcherStatus {
        self.status.lock().clone()
    }
}

impl Drop for ClusterWatcher {
    fn drop(&mut self) {
        // A thread of the parent may have the lock of one of them.
        fork::keep_in_child(|| (self.stop.clone(), self.kick.clone()));
        self.stop = None;
        if let Some(thread) = self.thread.take()
            && !fork::is_child()
            && thread.thread().id() != thread::current().id()
        {
            // Its panics are caught inside.
            let _ = thread.join();
        }
    }
}

/// What the thread owns.
struct Worker {
    store: ClusterStore,
    config: WatcherConfig,
    status: Arc<Mutex<WatcherStatus>>,
    /// What a pass that was held would have removed, and when that was.
    held: Option<(Timestamp, u64)>,
}

impl Worker {
    fn run(&mut self, stopped: &Receiver<()>, kicks: &Receiver<()>) {
        if self.config.policy.is_disabled() {
            tracing::info!("pruning is disabled");
            let _ = stopped.recv();
            return;
        }
        let go_on = || stopped.try_recv() == Err(TryRecvError::Empty);
        let mut tick = self.store.inner.clock.after(self.config.interval);
        let never = crossbeam_channel::never();
        // What others have to look at first is come back to when they have, as the same kind of pass.
        let mut asked_for = false;
        let mut back = self.pass(asked_for, &go_on);
        loop {
            select! {
                recv(stopped) -> _ => return,
                recv(kicks) -> _ => {
                    asked_for = true;
                    back = self.pass(asked_for, &go_on);
                }
                recv(back.as_ref().map_or(&never, Timer::receiver)) -> _ => back = self.pass(asked_for, &go_on),
                recv(tick.receiver()) -> _ => {
                    tick = self.store.inner.clock.after(self.config.interval);
                    asked_for = false;
                    back = self.pass(asked_for, &go_on);
                }
            }
        }
    }

    /// One pass. Whatever happens in it, the thread goes on. Answers when to come back before the interval is over.
    fn pass(&mut self, asked_for: bool, go_on: &dyn Fn() -> bool) -> Option<Timer> {
        let began = self.store.now();
        let pass = AssertUnwindSafe(|| self.prune(asked_for, began, go_on));
        let result =
            catch_unwind(pass).unwrap_or_else(|panic| Err(Error::Panicked { message: panic_message(&*panic) }));
        let mut status = self.status.lock();
        status.passes += 1;
        status.last_run = Some(began);
        status.next_run = Some(began.saturating_add(self.config.interval));
        match result {
            Ok(Some(report)) => {
                tracing::debug!(?report, "pruned");
                let soon = self.store.inner.options.review_interval.max(MIN_INTERVAL);
                let waits = report.kept_unreviewed > 0 && soon < self.config.interval;
                if let Some(failure) = &report.failure {
                    status.failures += 1;
                    status.last_failure = Some(failure.clone());
                }
                status.last_report = Some(report);
                if waits {
                    status.next_run = Some(began.saturating_add(soon));
                    return Some(self.store.inner.clock.after(soon));
                }
            }
            Ok(None) => status.held += 1,
            Err(error) => {
                let cause: &dyn std::error::Error = &error;
                tracing::warn!(error = cause, "a pruning pass failed; the next one will run");
                status.failures += 1;
                status.last_failure = Some(with_causes(&error));
            }
        }
        None
    }

    /// Prunes; `None` if the pass was held.
    fn prune(&mut self, asked_for: bool, now: Timestamp, go_on: &dyn Fn() -> bool) -> Result<Option<PruneReport>> {
        let policy = &self.config.policy;
        if !asked_for {
            let (all, expired) = self.store.count_expired(policy.age_only().cutoff(now))?;
            // Counting is cheap and finds most passes harmless; only then is every guard asked.
            if expired > all / 2 {
                let would = self.store.do_prune(&policy.age_only(), &NoActivity, true, go_on)?.removed;
                let is_confirmed = self.held.is_some_and(|(at, then)| {
                    would <= then && now.since(at) >= self.config.interval - self.config.interval / 16
                });
                if would > all / 2 && !is_confirmed {
                    if self.held.is_none_or(|(_, then)| would > then) {
                        self.held = Some((now, would));
                    }
                    tracing::warn!(
                        entries = all,
                        would,
                        "a pass would remove more than half of the entries; it waits for one that finds the same"
                    );
                    return Ok(None);
                }
            }
        }
        let report = self.store.do_prune(policy, &NoActivity, false, go_on)?;
        if report.clock_doubted {
            return Ok(None);
        }
        if report.kept_unreviewed == 0 && report.failure.is_none() && !report.stopped {
            self.held = None;
        }
        Ok(Some(report))
    }
}
