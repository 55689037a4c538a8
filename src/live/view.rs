//! What the requests of a view share.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use axum::body::Bytes;
use axum::extract::Path;
use axum::extract::rejection::{BytesRejection, PathRejection};
use axum::http::{StatusCode, Uri};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::timeout;

use super::error::{Fault, Outcome};
use super::feeds::Feeds;
use super::handle;
use super::history::History;
use super::options::LiveOptions;
use super::plans::Plans;
use crate::codec::Activity;
use crate::codec::Fingerprint;
use crate::prune::{ActivityGuard, NoActivity};
use crate::store::{SessionStore, WeakStore};
use crate::watcher::SeenWatcher;

/// Requests that work on the store at a time.
const WORKERS: usize = 4;
/// Exports, backups and checks at a time.
const STREAMS: usize = 2;
/// Requests at a time that take as long as the store is large.
const LONG: usize = 2;
/// The threads that they take.
pub(super) const THREADS: usize = WORKERS + STREAMS + LONG;
/// Changes that wait for their commit, up to which a list always has them applied first.
const FEW: usize = 1000;
/// The time between two times that lists have more of them applied: it costs whoever touches.
const SETTLED: Duration = if cfg!(test) { Duration::from_secs(3600) } else { Duration::from_millis(100) };
/// How long a request waits for a thread.
const TURN: Duration = Duration::from_secs(5);
/// How long a request works.
const ANSWER: Duration = if cfg!(test) { Duration::from_millis(50) } else { Duration::from_secs(30) };
/// How long one works that reads or changes as much as there is.
pub(super) const LONG_ANSWER: Duration = Duration::from_secs(30 * 60);

/// Sizes, and when they were told.
#[derive(Default)]
pub(super) struct Sizes {
    pub(super) told: Option<(Instant, u64, u64)>,
}

/// What the requests share.
pub(super) struct View {
    store: WeakStore,
    path: PathBuf,
    pub(super) read_only: bool,
    pub(super) hands_over: bool,
    guard: Option<Arc<dyn ActivityGuard>>,
    pub(super) watcher: Option<SeenWatcher>,
    pub(super) began: Instant,
    workers: Arc<Semaphore>,
    long: Arc<Semaphore>,
    streams: Arc<Semaphore>,
    pub(super) plans: Mutex<Plans>,
    pub(super) history: Mutex<History>,
    pub(super) sizes: Mutex<Sizes>,
    /// When a list had much applied last.
    settled: Mutex<Option<Instant>>,
    pub(super) feeds: Feeds,
    /// Work that goes on is to stop.
    ended: AtomicBool,
    stop: watch::Sender<bool>,
    stopped: watch::Receiver<bool>,
}

impl View {
    pub(super) fn new(
        store: &SessionStore,
        options: LiveOptions,
        stop: watch::Sender<bool>,
        stopped: watch::Receiver<bool>,
    ) -> Self {
        let LiveOptions { read_only, hands_over, guard, watcher, .. } = options;
        let guard = guard.or_else(|| watcher.as_ref().map(|watcher| Arc::clone(&watcher.guard)));
        Self {
            store: store.downgrade(),
            path: store.path().to_path_buf(),
            read_only,
            hands_over,
            guard,
            watcher,
            began: Instant::now(),
            workers: Arc::new(Semaphore::new(WORKERS)),
            long: Arc::new(Semaphore::new(LONG)),
            streams: Arc::new(Semaphore::new(STREAMS)),
            plans: Mutex::default(),
            history: Mutex::default(),
            sizes: Mutex::default(),
            settled: Mutex::default(),
            feeds: Feeds::default(),
            ended: AtomicBool::new(false),
            stop,
            stopped,
        }
    }

    pub(super) fn path(&self) -> &std::path::Path {
        &self.path
    }

    /// The store, while it is open.
    pub(super) fn store(&self) -> Outcome<SessionStore> {
        self.store.upgrade().ok_or_else(Fault::closed)
    }

    /// Whether nobody has the store any more.
    pub(super) fn is_gone(&self) -> bool {
        self.store.is_gone()
    }

    /// Asks the thread to end.
    pub(super) fn stop(&self) {
        let _ = self.stop.send(true);
    }

    /// Ends work that goes on.
    pub(super) fn end(&self) {
        self.ended.store(true, Ordering::Release);
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// Waits until the view is to end.
    pub(super) async fn ending(&self) {
        let _ = self.stopped.clone().wait_for(|stopped| *stopped).await;
    }

    /// Looks at the counters for the plots.
    pub(super) fn sample(&self) {
        let mut history = self.history.lock();
        if history.is_due()
            && let Some(store) = self.store.upgrade()
        {
            history.sample(&store.commits().meter().figures, store.len());
        }
    }

    /// Applies what waits for its commit, so that a list has it. Where much is changing all the time, the order of a list
    /// may be a moment old instead.
    pub(super) fn settle(&self, store: &SessionStore) -> Outcome<()> {
        if store.commits().pending() > FEW {
            let mut settled = self.settled.lock();
            if settled.is_some_and(|at| at.elapsed() < SETTLED) {
                return Ok(());
            }
            *settled = Some(Instant::now());
        }
        Ok(store.commits().apply_pending()?)
    }

    /// The guard that pruning asks.
    pub(super) fn guard(&self) -> Outcome<Arc<dyn ActivityGuard>> {
        self.guard.clone().ok_or_else(|| {
            Fault::forbidden("no_guard", "this process has given its view no guard to ask, so it does not prune")
        })
    }

    /// Whether it is one that knows what is at work, in a word.
    pub(super) fn guard_kind(&self) -> &'static str {
        match &self.guard {
            Some(guard) if guard.knows_nothing() => "none",
            Some(_) => "given",
            None => "missing",
        }
    }

    /// The same for a look, which removes nothing.
    pub(super) fn guard_to_look(&self) -> Arc<dyn ActivityGuard> {
        self.guard.clone().unwrap_or_else(|| Arc::new(NoActivity))
    }

    pub(super) fn may_change(&self) -> Outcome<()> {
        if self.read_only {
            return Err(Fault::forbidden("read_only_view", "this view changes nothing"));
        }
        Ok(())
    }

    /// Works on the store for a moment, on a thread that may block.
    pub(super) async fn work<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self, &SessionStore) -> Outcome<T> + Send + 'static,
    ) -> Outcome<T> {
        self.on_a_thread(&self.workers, ANSWER, work).await
    }

    /// Works on all of the store. It goes on to its end, though its client may be gone.
    pub(super) async fn work_long<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self, &SessionStore) -> Outcome<T> + Send + 'static,
    ) -> Outcome<T> {
        self.on_a_thread(&self.long, LONG_ANSWER, work).await
    }

    /// Looks at all of the store, for as long as somebody waits for the answer: `look` is given what tells it to go on.
    pub(super) async fn look<T: Send + 'static>(
        self: &Arc<Self>,
        look: impl FnOnce(&Self, &SessionStore, &dyn Fn() -> bool) -> Outcome<T> + Send + 'static,
    ) -> Outcome<T> {
        let waits = Arc::new(());
        let is_waited_for = Arc::downgrade(&waits);
        self.work_long(move |view, store| look(view, store, &|| !view.has_ended() && is_waited_for.strong_count() > 0))
            .await
    }

    async fn on_a_thread<T: Send + 'static>(
        self: &Arc<Self>,
        turns: &Arc<Semaphore>,
        patience: Duration,
        work: impl FnOnce(&Self, &SessionStore) -> Outcome<T> + Send + 'static,
    ) -> Outcome<T> {
        let turn = timeout(TURN, Arc::clone(turns).acquire_owned()).await;
        let permit = turn.map_err(|_| Fault::busy())?.map_err(|_| Fault::busy())?;
        let view = Arc::clone(self);
        let done = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            let store = view.store()?;
            work(&view, &store)
        });
        match timeout(patience, done).await {
            Ok(done) => done.unwrap_or_else(|_| {
                Err(Fault::new(StatusCode::INTERNAL_SERVER_ERROR, "panicked", "the request failed by a bug"))
            }),
            Err(_) => Err(Fault::new(StatusCode::GATEWAY_TIMEOUT, "timeout", "the request took too long")),
        }
    }

    /// The right to one more stream.
    pub(super) fn stream(&self) -> Outcome<OwnedSemaphorePermit> {
        Arc::clone(&self.streams).try_acquire_owned().map_err(|_| Fault::busy())
    }
}

impl SessionStore {
    /// The entry of a handle.
    pub(super) fn of_handle(&self, text: &str) -> Outcome<(Fingerprint, Activity)> {
        let entry =
            handle::parse(text).ok_or_else(|| Fault::bad_request("a handle is thirty-two hexadecimal digits"))?;
        let found = self.commits().peek_listed(entry)?.ok_or_else(Fault::no_entry)?;
        Ok((entry, found))
    }

    pub(super) fn handle(&self, key: &crate::key::SessionKey) -> String {
        handle::show(self.commits().fingerprint(key))
    }
}

/// What a URL asks for.
pub(super) fn query<T: DeserializeOwned>(uri: &Uri) -> Outcome<T> {
    let query = axum::extract::Query::<T>::try_from_uri(uri);
    query.map(|query| query.0).map_err(|rejected| Fault::bad_request(rejected.body_text()))
}

/// The parts of a path.
pub(super) type Parts<T> = Result<Path<T>, PathRejection>;

/// What the parts of a path are.
pub(super) fn parts<T>(path: Parts<T>) -> Outcome<T> {
    path.map(|path| path.0).map_err(|rejected| Fault::bad_request(rejected.body_text()))
}

/// What a body asks for. An empty one is an empty object.
pub(super) fn body<T: DeserializeOwned>(body: Result<Bytes, BytesRejection>) -> Outcome<T> {
    let body = body.map_err(|rejected| Fault::new(rejected.status(), "bad_request", rejected.body_text()))?;
    let text: &[u8] = if body.is_empty() { b"{}" } else { &body };
    serde_json::from_slice(text).map_err(|error| Fault::bad_request(error.to_string()))
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::time::{ManualClock, Timestamp};
    use crate::{Options, SessionKey, SessionSource};

    /// A view, and what keeps its store.
    fn view(dir: &tempfile::TempDir) -> (SessionStore, Arc<View>, tokio::runtime::Runtime) {
        let clock = ManualClock::new(Timestamp::from_micros(1_781_222_993_123_456));
        // What is changed waits until somebody has it committed.
        let interval = Duration::from_secs(60 * 60);
        let options = Options::new(dir.path().join("db")).create(true).clock(clock).commit_interval(interval);
        let store = SessionStore::open(options).unwrap();
        let (stop, stopped) = watch::channel(false);
        let view = Arc::new(View::new(&store, LiveOptions::new(), stop, stopped));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        (store, view, runtime)
    }

    #[test]
    fn a_request_that_takes_too_long_is_answered_so() {
        let dir = tempfile::tempdir().unwrap();
        let (_store, view, runtime) = view(&dir);
        let (go_on, waits) = mpsc::channel::<()>();
        let late = runtime.block_on(view.work(move |_, _| {
            let _ = waits.recv();
            Ok(())
        }));
        let late = late.unwrap_err();
        assert_eq!((late.status, late.kind), (StatusCode::GATEWAY_TIMEOUT, "timeout"));
        drop(go_on);
    }

    #[test]
    fn a_look_ends_where_nobody_waits_for_it() {
        let dir = tempfile::tempdir().unwrap();
        let (_store, view, runtime) = view(&dir);
        let (ended, is_over) = mpsc::channel();
        let (begun, has_begun) = mpsc::channel();
        runtime.block_on(async {
            let look = view.look(move |_, _, go_on| {
                begun.send(()).unwrap();
                while go_on() {
                    std::thread::yield_now();
                }
                ended.send(()).unwrap();
                Ok(())
            });
            let looking = tokio::spawn({
                let view = Arc::clone(&view);
                async move {
                    view.work_long(move |_, _| {
                        has_begun.recv().unwrap();
                        Ok(())
                    })
                    .await
                }
            });
            tokio::select! {
                biased;
                _ = look => unreachable!("it goes on while somebody waits"),
                begun = looking => begun.unwrap().unwrap(),
            }
            // Here the look was dropped, as that of a client that is gone.
        });
        is_over.recv().unwrap();
    }

    /// Lists that follow each other make no more commits than a store that nobody looks at.
    #[test]
    fn a_list_of_a_store_that_changes_much_applies_it_rarely() {
        let dir = tempfile::tempdir().unwrap();
        let (store, view, _runtime) = view(&dir);
        let keys: Vec<SessionKey> = (0..2 * FEW)
            .map(|n| {
                let source =
                    SessionSource { user_id: Some(format!("u{n}")), platform: "discord".into(), ..Default::default() };
                store.resolve(&source).unwrap().entry.key
            })
            .collect();
        view.settle(&store).unwrap();
        assert_eq!(store.commits().pending(), 0);
        for key in &keys {
            store.touch(key).unwrap().unwrap();
        }
        view.settle(&store).unwrap();
        assert!(store.commits().pending() > FEW, "once was enough");
        // Few are applied whenever somebody looks.
        store.flush().unwrap();
        store.touch(&keys[0]).unwrap().unwrap();
        view.settle(&store).unwrap();
        assert_eq!(store.commits().pending(), 0);
    }
}
