//! What the requests of a view share.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
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
            feeds: Feeds::default(),
            ended: AtomicBool::new(false),
            stop,
            stopped,
        }
    }

    pub(super) fn path(&self) -> &Path {
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

    /// The guard that pruning asks.
    pub(super) fn guard(&self) -> Outcome<Arc<dyn ActivityGuard>> {
        self.guard.clone().ok_or_else(|| {
            Fault::forbidden("no_guard", "this process has given its view no guard to ask, so it does not prune")
        })
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

/// What a body asks for. An empty one is an empty object.
pub(super) fn body<T: DeserializeOwned>(body: Result<Bytes, BytesRejection>) -> Outcome<T> {
    let body = body.map_err(|rejected| Fault::new(rejected.status(), "bad_request", rejected.body_text()))?;
    let text: &[u8] = if body.is_empty() { b"{}" } else { &body };
    serde_json::from_slice(text).map_err(|error| Fault::bad_request(error.to_string()))
}
