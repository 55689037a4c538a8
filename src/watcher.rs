//! [`Watcher`]: the thread that prunes.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TrySendError, select};
use parking_lot::Mutex;

use crate::config::Config;
use crate::error::{Error, Result, panic_message};
use crate::prune::{ActivityGuard, PrunePolicy, PruneReport};
use crate::store::SessionStore;
use crate::time::Timestamp;

/// A pass that would remove fewer entries than this is never held.
const HOLD_ABOVE: u64 = 100;
/// How far wall and monotonic clock may drift apart between two passes and still agree.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(60);
/// Reports that wait to be read. The newest are dropped when nobody reads them.
const REPORTS: usize = 16;

/// How the watcher works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatcherConfig {
    /// What to prune. A policy that disables pruning means no pass at all.
    pub policy: PrunePolicy,
    /// The time between two passes (default one hour).
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
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct WatcherStatus {
    /// Passes that ended, well or not.
    pub passes: u64,
    /// Passes that failed or panicked.
    pub failures: u64,
    /// Passes that were held, because they would have removed more than half of the entries.
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
/// use cloakroom::{Options, SessionKey, SessionStore, Watcher, WatcherConfig};
/// let store = SessionStore::open(Options::new("sessions.db").create(true))?;
/// let watcher = Watcher::spawn(&store, WatcherConfig::default(), |_: &SessionKey| false)?;
/// // … the gateway runs …
/// watcher.stop();
/// store.close()?;
/// # Ok::<(), cloakroom::Error>(())
/// ```
///
/// A pass that would remove more than half of the entries, and more than 100, is held: a clock that jumped ahead looks
/// just like that. It runs if the next pass finds the same, and the time of day moved with the monotonic clock in
/// between. [`SessionStore::prune`] and [`prune_now`](Watcher::prune_now), called by people, are not held.
///
/// Failures, panics of the guard's own code included, are counted and logged, and the next pass runs.
#[derive(Debug)]
pub struct Watcher {
    stop: Arc<AtomicBool>,
    /// Dropped to end the thread.
    wake: Option<Sender<()>>,
    kick: Sender<()>,
    status: Arc<Mutex<WatcherStatus>>,
    reports: Receiver<PruneReport>,
    thread: Option<JoinHandle<()>>,
}

impl Watcher {
    /// Starts the thread, named `cloakroom-prune`. Its first pass runs at once.
    pub fn spawn(store: &SessionStore, config: WatcherConfig, guard: impl ActivityGuard + 'static) -> Result<Self> {
        let (wake, stopped) = crossbeam_channel::bounded(0);
        let (kick, kicks) = crossbeam_channel::bounded(1);
        let (report, reports) = crossbeam_channel::bounded(REPORTS);
        let status = Arc::new(Mutex::new(WatcherStatus::default()));
        let stop = Arc::new(AtomicBool::new(false));
        let worker = Worker {
            store: store.clone(),
            config,
            guard: Box::new(guard),
            stop: Arc::clone(&stop),
            status: Arc::clone(&status),
            report,
            held: None,
        };
        let thread = std::thread::Builder::new()
            .name("cloakroom-prune".into())
            .spawn(move || worker.run(&stopped, &kicks))
            .map_err(|e| Error::io("start the watcher of", store.path(), e))?;
        Ok(Self { stop, wake: Some(wake), kick, status, reports, thread: Some(thread) })
    }

    /// Asks for a pass now. Does not wait for it: see [`reports`](Watcher::reports). Never held.
    pub fn prune_now(&self) {
        // Full means that a pass is asked for already; disconnected, that the thread has ended.
        let _ = self.kick.try_send(());
    }

    /// What has been done so far.
    #[must_use]
    pub fn status(&self) -> WatcherStatus {
        self.status.lock().clone()
    }

    /// The reports of the passes that ended well. It holds 16; while it is full newer ones are dropped, so it never
    /// blocks the watcher.
    #[must_use]
    pub fn reports(&self) -> Receiver<PruneReport> {
        self.reports.clone()
    }

    /// Ends the thread and waits for it: between two batches of a pass, so within milliseconds, unless a guard is slow.
    pub fn stop(self) {}
}

impl Drop for Watcher {
    fn drop(&mut self) {
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

/// What the thread owns.
struct Worker {
    store: SessionStore,
    config: WatcherConfig,
    guard: Box<dyn ActivityGuard>,
    stop: Arc<AtomicBool>,
    status: Arc<Mutex<WatcherStatus>>,
    report: Sender<PruneReport>,
    /// The clocks when a pass was held; the next one is compared with them.
    held: Option<(Timestamp, Duration)>,
}

impl Worker {
    fn run(mut self, stopped: &Receiver<()>, kicks: &Receiver<()>) {
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
                recv(tick) -> _ => {
                    tick = self.tick();
                    self.pass(false);
                }
            }
        }
    }

    /// The next tick; by the system's clock, if that of the store panics.
    fn tick(&self) -> Receiver<Instant> {
        let interval = self.config.interval;
        let tick = catch_unwind(AssertUnwindSafe(|| self.store.clock().after(interval)));
        tick.unwrap_or_else(|_| crossbeam_channel::after(interval))
    }

    /// One pass. Whatever happens in it, the thread goes on.
    fn pass(&mut self, asked_for: bool) {
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
                status.last_report = Some(report.clone());
                drop(status);
                if let Err(TrySendError::Full(_)) = self.report.try_send(report) {
                    tracing::trace!("nobody reads the reports; one was dropped");
                }
            }
            Ok(None) => status.held += 1,
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "a pruning pass failed; the next one will run"
                );
                status.failures += 1;
                status.last_failure = Some(error.to_string());
            }
        }
    }

    /// Prunes; `None` if the pass was held.
    fn prune(&mut self, asked_for: bool) -> Result<Option<PruneReport>> {
        if !asked_for && self.is_to_be_held()? {
            return Ok(None);
        }
        self.held = None;
        let stop = Arc::clone(&self.stop);
        self.store.prune_pass(&self.config.policy, &*self.guard, false, || !stop.load(Ordering::Acquire)).map(Some)
    }

    /// Whether a pass looks like the work of a wrong clock.
    fn is_to_be_held(&mut self) -> Result<bool> {
        let (now, monotonic) = (self.store.now(), self.store.clock().monotonic());
        let entries = self.store.len();
        let bound = HOLD_ABOVE.max(entries / 2);
        // Caps do not depend on the clock.
        let policy = self.config.policy.age_only();
        // Counting rows is cheap and finds most passes harmless; only then is every guard asked.
        if self.store.count_expired(&policy, bound + 1)? <= bound {
            return Ok(false);
        }
        let stop = Arc::clone(&self.stop);
        let would = self.store.prune_pass(&policy, &*self.guard, true, || !stop.load(Ordering::Acquire))?;
        if would.removed <= bound {
            return Ok(false);
        }
        let clocks_agree = self.held.is_some_and(|(held_now, held_monotonic)| {
            let wall = now.as_micros() - held_now.as_micros();
            let passed = i64::try_from(monotonic.saturating_sub(held_monotonic).as_micros()).unwrap_or(i64::MAX);
            wall.abs_diff(passed) <= CLOCK_TOLERANCE.as_micros() as u64
        });
        if clocks_agree {
            return Ok(false);
        }
        tracing::warn!(entries, "a pass would remove more than half of the entries; it waits for the next to agree");
        self.held = Some((now, monotonic));
        Ok(true)
    }
}
