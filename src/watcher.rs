//! [`Watcher`]: the thread that prunes.

use std::fmt;
use std::iter::FusedIterator;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, TrySendError, select};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::clock_check::{Checked, almost};
use crate::codec::Held;
use crate::config::Config;
use crate::error::{Error, Result, panic_message, with_causes};
use crate::feed::Feed;
use crate::fork;
use crate::prune::{ActivityGuard, PrunePolicy, PruneReport, Scope};
use crate::store::SessionStore;
use crate::time::{Timer, Timestamp};

pub use crate::feed::Nothing;

/// Passes do not follow each other faster.
const MIN_INTERVAL: Duration = Duration::from_secs(1);
/// Reports that wait to be read. The newest are dropped when nobody reads them.
const REPORTS: usize = 16;

/// How the watcher works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatcherConfig {
    /// What to prune. A policy that disables pruning means no pass at all.
    pub policy: PrunePolicy,
    /// The time between two passes (default one hour, at least a second).
    pub interval: Duration,
}

impl Default for WatcherConfig {
    fn default() -> Self {
        Self::from(&Config::default())
    }
}

impl From<&Config> for WatcherConfig {
    fn from(config: &Config) -> Self {
        Self { policy: config.into(), interval: config.prune_interval() }
    }
}

/// What the watcher has done so far.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct WatcherStatus {
    /// Passes that ended, well or not.
    pub passes: u64,
    /// Passes that failed or panicked, and on a cluster those whose report names a [failure](PruneReport::failure).
    pub failures: u64,
    /// Passes that were held: they would have removed more than half of the entries, or the clock was in doubt.
    pub held: u64,
    /// When the last pass began.
    pub last_run: Option<Timestamp>,
    /// What the last pass that ended well reported.
    pub last_report: Option<PruneReport>,
    /// What the last failure was.
    pub last_failure: Option<String>,
    /// When the next pass is due, by the clock as it was at the last one. `None` if pruning is disabled.
    pub next_run: Option<Timestamp>,
}

/// Prunes a store from a thread of its own: at once, then every interval, and when told.
///
/// ```no_run
/// use cloakroom::watcher::WatcherConfig;
/// use cloakroom::{Options, SessionKey, SessionStore, Watcher};
/// let store = SessionStore::open(Options::new("sessions.db").create(true))?;
/// let watcher = Watcher::spawn(&store, WatcherConfig::default(), |_: &SessionKey| false)?;
/// // … the gateway runs …
/// watcher.stop();
/// store.close()?;
/// # Ok::<(), cloakroom::Error>(())
/// ```
///
/// A pass that would remove more than half of the entries for their age is held: a clock that jumped ahead looks just
/// like that. What was held is kept in the store, and removed by a pass that finds no more of it an interval later, if
/// the time of day has kept step with the time since the machine was started. So a process that is restarted more often
/// than the interval prunes too. After a restart of the machine the time of day alone tells when the interval is over.
///
/// After a jump of the time of day a pass that would remove something waits for an interval as well, and while the clock
/// is [doubted](crate::report::OpenReport::clock_doubted) none runs. [`SessionStore::prune`] and
/// [`prune_now`](Watcher::prune_now), called by people, are not held.
///
/// Failures, panics of the guard's own code included, are counted and logged, and the next pass runs.
///
/// In a forked process there is no such thread: nothing has been done, nothing is asked for, and reports have ended.
pub struct Watcher {
    stop: Arc<AtomicBool>,
    /// Dropped to end the thread.
    wake: Option<Sender<()>>,
    kick: Sender<()>,
    status: Arc<Mutex<WatcherStatus>>,
    reports: Reports,
    thread: Option<JoinHandle<()>>,
    #[cfg(feature = "live")]
    config: WatcherConfig,
    #[cfg(feature = "live")]
    guard: Arc<dyn ActivityGuard>,
}

/// A watcher as the live view sees it.
#[cfg(feature = "live")]
#[derive(Clone)]
pub(crate) struct SeenWatcher {
    kick: Sender<()>,
    status: Arc<Mutex<WatcherStatus>>,
    pub(crate) config: WatcherConfig,
    pub(crate) guard: Arc<dyn ActivityGuard>,
}

#[cfg(feature = "live")]
impl SeenWatcher {
    pub(crate) fn status(&self) -> WatcherStatus {
        self.status.lock().clone()
    }

    /// Asks for a pass. Answers whether there is a thread to make it.
    pub(crate) fn prune_now(&self) -> bool {
        !matches!(self.kick.try_send(()), Err(TrySendError::Disconnected(())))
    }
}

impl Watcher {
    /// Starts the thread, named `cloakroom-prune`. Its first pass runs at once.
    ///
    /// # Errors
    /// [`Error::Setting`] if the interval is shorter than a second.
    pub fn spawn(store: &SessionStore, config: WatcherConfig, guard: impl ActivityGuard + 'static) -> Result<Self> {
        store.commits().engine()?;
        if config.interval < MIN_INTERVAL {
            return Err(Error::Setting {
                setting: "the interval of the watcher",
                value: format!("{:?}", config.interval),
                expected: "there must be a second between two passes at least",
            });
        }
        let (wake, stopped) = crossbeam_channel::bounded(0);
        let (kick, kicks) = crossbeam_channel::bounded(1);
        let (report, reports) = Feed::new(REPORTS);
        let status = Arc::new(Mutex::new(WatcherStatus::default()));
        let stop = Arc::new(AtomicBool::new(false));
        let guard: Arc<dyn ActivityGuard> = Arc::new(guard);
        #[cfg(feature = "live")]
        let (asked, asks) = (Arc::clone(&guard), config.clone());
        let worker = Worker {
            store: store.clone(),
            config,
            guard,
            stop: Arc::clone(&stop),
            status: Arc::clone(&status),
            report,
        };
        let thread = std::thread::Builder::new()
            .name("cloakroom-prune".into())
            .spawn(move || worker.run(&stopped, &kicks))
            .map_err(|e| Error::io("start the watcher of", store.path(), e))?;
        let reports = Reports { reports };
        Ok(Self {
            stop,
            wake: Some(wake),
            kick,
            status,
            reports,
            thread: Some(thread),
            #[cfg(feature = "live")]
            config: asks,
            #[cfg(feature = "live")]
            guard: asked,
        })
    }

    /// What the live view needs of it. It does not keep the thread.
    #[cfg(feature = "live")]
    pub(crate) fn seen(&self) -> SeenWatcher {
        let (kick, status) = (self.kick.clone(), Arc::clone(&self.status));
        SeenWatcher { kick, status, config: self.config.clone(), guard: Arc::clone(&self.guard) }
    }

    /// Asks for a pass now. Does not wait for it: see [`reports`](Watcher::reports). Never held.
    pub fn prune_now(&self) {
        if fork::is_child() {
            return;
        }
        // Full means that a pass is asked for already; disconnected, that the thread has ended.
        let _ = self.kick.try_send(());
    }

    /// What has been done so far.
    #[must_use]
    pub fn status(&self) -> WatcherStatus {
        if fork::is_child() {
            return WatcherStatus::default();
        }
        self.status.lock().clone()
    }

    /// The reports of the passes that ended well.
    #[must_use]
    pub fn reports(&self) -> Reports {
        self.reports.clone()
    }

    /// Ends the thread and waits for it: between two batches of a pass, so within milliseconds, unless a guard is slow.
    pub fn stop(self) {}
}

impl fmt::Debug for Watcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watcher").field("status", &self.status).finish_non_exhaustive()
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        if fork::is_child() {
            // There is no such thread, and its stack may be another's.
            std::mem::forget((self.thread.take(), self.wake.take(), self.kick.clone()));
            return;
        }
        self.stop.store(true, Ordering::Release);
        self.wake = None;
        if let Some(thread) = self.thread.take()
            && thread.thread().id() != std::thread::current().id()
        {
            // Its panics are caught inside.
            let _ = thread.join();
        }
    }
}

/// A channel of the reports of passes that ended well. It holds 16; while it is full newer ones are dropped, so it never
/// makes the watcher wait.
///
/// Clones are the same channel; each report comes to one reader. As an iterator it waits for each report, and ends when
/// the watcher has stopped.
#[derive(Debug, Clone)]
pub struct Reports {
    reports: Feed<PruneReport>,
}

impl Reports {
    /// Waits for the next report. `None` once the watcher has stopped and all reports were taken, and at once in a forked
    /// process.
    #[must_use]
    pub fn recv(&self) -> Option<PruneReport> {
        self.reports.recv()
    }

    /// As [`recv`](Reports::recv), but waits at most for `timeout`.
    ///
    /// # Errors
    /// [`Nothing`] says whether another call may have more luck.
    pub fn recv_timeout(&self, timeout: Duration) -> Result<PruneReport, Nothing> {
        self.reports.recv_timeout(timeout)
    }

    /// The next report, if it is there. Does not wait.
    ///
    /// # Errors
    /// [`Nothing`] says whether another call may have more luck.
    pub fn try_recv(&self) -> Result<PruneReport, Nothing> {
        self.reports.try_recv()
    }

    /// The reports that are there. Does not wait.
    pub fn drain(&self) -> impl Iterator<Item = PruneReport> + '_ {
        self.reports.drain()
    }
}

impl Iterator for Reports {
    type Item = PruneReport;

    fn next(&mut self) -> Option<PruneReport> {
        self.recv()
    }
}

impl FusedIterator for Reports {}

/// What the thread owns.
struct Worker {
    store: SessionStore,
    config: WatcherConfig,
    guard: Arc<dyn ActivityGuard>,
    stop: Arc<AtomicBool>,
    status: Arc<Mutex<WatcherStatus>>,
    report: Sender<PruneReport>,
}

/// What becomes of a pass.
enum Decision {
    Hold,
    Run,
    /// Runs with the cutoff of an earlier one, which was held.
    RunAsOf(Timestamp),
}

impl Worker {
    fn run(self, stopped: &Receiver<()>, kicks: &Receiver<()>) {
        if self.config.policy.is_disabled() {
            tracing::info!("pruning is disabled");
            // Nothing to do but wait for the end.
            let _ = stopped.recv();
            return;
        }
        // Armed before the pass, so that slow passes do not add to the interval.
        let mut tick = self.tick();
        self.pass(false);
        loop {
            select! {
                recv(stopped) -> _ => return,
                recv(kicks) -> _ => self.pass(true),
                recv(tick.receiver()) -> _ => {
                    tick = self.tick();
                    self.pass(false);
                }
            }
        }
    }

    /// The next tick; by the system's clock, if that of the store panics.
    fn tick(&self) -> Timer {
        let interval = self.config.interval;
        let tick = catch_unwind(AssertUnwindSafe(|| self.store.clock().after(interval)));
        tick.unwrap_or_else(|_| Timer::after(interval))
    }

    /// One pass. Whatever happens in it, the thread goes on.
    fn pass(&self, asked_for: bool) {
        let mut began = None;
        let pass = AssertUnwindSafe(|| {
            began = Some(self.store.now());
            self.prune(asked_for)
        });
        let result =
            catch_unwind(pass).unwrap_or_else(|panic| Err(Error::Panicked { message: panic_message(&*panic) }));
        let mut status = self.status.lock();
        status.passes += 1;
        status.last_run = began.or(status.last_run);
        status.next_run = status.last_run.map(|began| began.saturating_add(self.config.interval));
        match result {
            Ok(Some(report)) => {
                tracing::debug!(?report, "pruned");
                if !report.unreadable.is_empty() {
                    tracing::warn!(
                        records = report.unreadable.count,
                        "kept what cannot be decoded; a check of the store names it"
                    );
                }
                status.last_report = Some(report.clone());
                drop(status);
                if let Err(TrySendError::Full(_)) = self.report.try_send(report) {
                    tracing::trace!("nobody reads the reports; one was dropped");
                }
            }
            Ok(None) => {
                status.held += 1;
                drop(status);
                self.store.commits().meter().pass_held();
            }
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "a pruning pass failed; the next one will run"
                );
                status.failures += 1;
                status.last_failure = Some(with_causes(&error));
                drop(status);
                self.store.commits().meter().pass_failed();
            }
        }
    }

    /// Prunes; `None` if the pass was held.
    fn prune(&self, asked_for: bool) -> Result<Option<PruneReport>> {
        let as_of = match if asked_for { Decision::Run } else { self.decide()? } {
            Decision::Hold => return Ok(None),
            Decision::Run => None,
            Decision::RunAsOf(time) => Some(time),
        };
        let report = self.run_pass(&self.config.policy, as_of, false)?;
        if !report.stopped && !report.clock_doubted {
            self.store.clock_check().set_held(self.store.commits(), None)?;
        }
        Ok(Some(report))
    }

    fn run_pass(&self, policy: &PrunePolicy, as_of: Option<Timestamp>, dry_run: bool) -> Result<PruneReport> {
        let stop = Arc::clone(&self.stop);
        let go_on = || !stop.load(Ordering::Acquire);
        self.store.prune_pass(policy, &*self.guard, as_of, dry_run, Scope::All, go_on)
    }

    fn decide(&self) -> Result<Decision> {
        let checked = self.store.check_clock()?;
        if checked.doubted {
            tracing::warn!("half of the entries or more lie ahead of the clock, so no pass runs until it is trusted");
            return Ok(Decision::Hold);
        }
        if self.would_remove_most(&checked)? {
            return self.decide_on_most(&checked);
        }
        let waits = checked.has_jumped_within(almost(self.config.interval));
        if waits && self.run_pass(&self.config.policy, None, true)?.removed > 0 {
            tracing::warn!("the time of day has jumped; a pass waits for an interval");
            return Ok(Decision::Hold);
        }
        Ok(Decision::Run)
    }

    /// Whether more than half of the entries would go for their age. Caps do not depend on the clock.
    fn would_remove_most(&self, checked: &Checked) -> Result<bool> {
        let bound = self.store.len() / 2;
        let policy = self.config.policy.age_only();
        // Counting rows is cheap and finds most passes harmless; only then is every guard asked.
        let expired = self.store.count_expired(&policy, checked.now.wall, bound + 1)?;
        if expired + self.store.clock_check().wrong() as u64 <= bound {
            return Ok(false);
        }
        Ok(self.run_pass(&policy, None, true)?.removed > bound)
    }

    /// Holds a pass that would remove most of the entries, until one that was held before is confirmed. Then it runs
    /// as that one would have: what has expired since is for the next.
    fn decide_on_most(&self, checked: &Checked) -> Result<Decision> {
        let (clock_check, policy) = (self.store.clock_check(), self.config.policy.age_only());
        let expired_by = |time, limit| self.store.count_expired(&policy, time, limit);
        if let Some(Held { at, expired }) = clock_check.held()
            && let Some(passed) = checked.now.since_kept(at)
            && expired_by(at.wall, expired.saturating_add(1))? <= expired
        {
            let interval = almost(self.config.interval);
            let waits = passed < interval || checked.has_jumped_within(interval);
            return Ok(if waits { Decision::Hold } else { Decision::RunAsOf(at.wall) });
        }
        let expired = expired_by(checked.now.wall, u64::MAX)?;
        tracing::warn!(
            entries = self.store.len(),
            expired,
            "a pass would remove more than half of the entries; it waits for one that finds the same after an interval"
        );
        clock_check.set_held(self.store.commits(), Some(Held { at: checked.now, expired }))?;
        Ok(Decision::Hold)
    }
}
