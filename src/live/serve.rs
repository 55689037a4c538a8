//! The thread of a view: it accepts connections, from those who may connect, and ends in time.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener as StdListener;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response, StatusCode};
use axum::response::IntoResponse;
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{UnixListener, UnixStream};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use super::body::With;
use super::connection::{Busy, Connections, Patient};
use super::error::{Fault, Outcome};
use super::options::Monitor;
use super::router;
use super::socket::{MonitorPlace, Place};
use super::view::{THREADS, View};
use crate::error::{Error, Result, panic_message};

/// How long a client may take for the head of a request, and for its body.
const HEAD: Duration = Duration::from_secs(10);
/// The largest head of a request.
const MAX_HEAD: usize = 64 << 10;
/// How often it looks whether its socket and its store are there.
const LOOK: Duration = Duration::from_millis(500);
/// How long answers may take once the view is to end.
const GRACE: Duration = Duration::from_millis(500);
/// How long the threads of requests may take after that.
const THREADS_GRACE: Duration = Duration::from_millis(200);

/// What runs on the thread.
pub(super) struct Server {
    view: Arc<View>,
    place: Arc<Place>,
    runtime: Runtime,
    listener: StdListener,
    monitor: Option<Watched>,
    stopped: watch::Receiver<bool>,
}

/// The socket of a monitoring program, and its user.
struct Watched {
    listener: StdListener,
    place: MonitorPlace,
    uid: u32,
}

/// Who may connect to a socket, and what it offers.
#[derive(Clone)]
struct Door {
    router: Router,
    users: Arc<[u32]>,
    connections: Arc<Connections>,
    /// Whoever else tries again and again fills no log.
    has_refused: Arc<AtomicBool>,
}

impl Server {
    pub(super) fn new(
        view: Arc<View>,
        place: Arc<Place>,
        monitor: Option<Monitor>,
        stopped: watch::Receiver<bool>,
    ) -> Result<Self> {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .thread_name("cloakroom-view")
            .max_blocking_threads(THREADS)
            .build()
            .map_err(|e| Error::io("start the live view of", view.path(), e))?;
        let monitor = monitor.map(|Monitor { path, uid }| {
            let mut place = MonitorPlace::new(path);
            Ok::<_, Error>(Watched { listener: place.bind()?, place, uid })
        });
        let monitor = monitor.transpose()?;
        Ok(Self { listener: place.bind()?, view, place, runtime, monitor, stopped })
    }

    pub(super) fn run(self) {
        let Self { view, place, runtime, listener, monitor, stopped } = self;
        let served =
            catch_unwind(AssertUnwindSafe(|| runtime.block_on(serve(view, &place, listener, monitor, stopped))));
        match served {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the live view has ended"),
            Err(panic) => tracing::error!(message = panic_message(&*panic), "the live view panicked"),
        }
        runtime.shutdown_timeout(THREADS_GRACE);
    }
}

async fn serve(
    view: Arc<View>,
    place: &Place,
    listener: StdListener,
    monitor: Option<Watched>,
    stopped: watch::Receiver<bool>,
) -> io::Result<()> {
    let own = rustix::process::geteuid().as_raw();
    let door = |router, users: &[u32]| Door {
        router,
        users: users.into(),
        connections: Arc::default(),
        has_refused: Arc::default(),
    };
    let main = door(router::all(&view), &[own, 0]);
    let mut listener = listen(listener)?;
    let (mut monitor, mut monitor_place) = match monitor {
        Some(Watched { listener, place, uid }) => {
            (Some((listen(listener)?, door(router::monitor(&view), &[own, 0, uid]))), Some(place))
        }
        None => (None, None),
    };
    let mut tasks = JoinSet::new();
    let mut look = interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = view.ending() => break,
            _ = look.tick() => {
                view.sample();
                if view.is_gone() {
                    break;
                }
                if let Some(made) = mended(place.mend()) {
                    listener = made;
                }
                if let (Some(place), Some((listener, _))) = (&mut monitor_place, &mut monitor)
                    && let Some(made) = mended(place.mend())
                {
                    *listener = made;
                }
            }
            accepted = listener.accept() => admit(accepted, &main, &mut tasks, &stopped).await,
            accepted = from(monitor.as_ref()) => {
                if let Some((_, door)) = &monitor {
                    admit(accepted, door, &mut tasks, &stopped).await;
                }
            }
            Some(_) = tasks.join_next() => {}
        }
    }
    view.end();
    // A forked process may hold the listener too: then nobody would answer there.
    let _ = rustix::net::shutdown(listener.as_fd(), rustix::net::Shutdown::Both);
    drop(listener);
    let _ = timeout(GRACE, async { while tasks.join_next().await.is_some() {} }).await;
    tasks.abort_all();
    Ok(())
}

/// The socket that was made because another was removed.
fn mended(made: Result<Option<StdListener>>) -> Option<UnixListener> {
    let made = made.map_err(io::Error::other).and_then(|made| made.map(listen).transpose());
    match made {
        Ok(Some(made)) => {
            tracing::warn!("a socket of the live view was removed; there is another");
            Some(made)
        }
        Ok(None) => None,
        Err(error) => {
            tracing::debug!(%error, "a socket of the live view cannot be made again");
            None
        }
    }
}

fn listen(listener: StdListener) -> io::Result<UnixListener> {
    listener.set_nonblocking(true)?;
    UnixListener::from_std(listener)
}

type Accepted = io::Result<(UnixStream, tokio::net::unix::SocketAddr)>;

async fn from(monitor: Option<&(UnixListener, Door)>) -> Accepted {
    match monitor {
        Some((listener, _)) => listener.accept().await,
        None => std::future::pending().await,
    }
}

async fn admit(accepted: Accepted, door: &Door, tasks: &mut JoinSet<()>, stopped: &watch::Receiver<bool>) {
    let stream = match accepted {
        Ok((stream, _)) => stream,
        Err(error) => {
            // There may be no descriptors left; a moment later there may be.
            tracing::debug!(%error, "a connection was not accepted");
            sleep(Duration::from_millis(50)).await;
            return;
        }
    };
    let user = stream.peer_cred().map(|peer| peer.uid());
    if !user.as_ref().is_ok_and(|user| door.users.contains(user)) {
        if door.has_refused.swap(true, Ordering::Relaxed) {
            tracing::debug!(?user, "somebody else wanted to look at the store");
        } else {
            tracing::warn!(?user, "somebody else wanted to look at the store; who tries again is not told here");
        }
        return;
    }
    // While connection comes upon connection, nobody else clears them away.
    while tasks.try_join_next().is_some() {}
    tasks.spawn(connection(stream, door.clone(), stopped.clone()));
}

/// Answers the requests of one connection.
async fn connection(stream: UnixStream, door: Door, mut stopped: watch::Receiver<bool>) {
    let Some(seat) = door.connections.seat() else { return };
    let (router, state) = (TowerToHyperService::new(door.router), Arc::clone(&seat.state));
    let service = service_fn(move |request: Request<Incoming>| {
        let (router, state) = (router.clone(), Arc::clone(&state));
        async move {
            let (head, body) = request.into_parts();
            // Until all of it is there, nothing is done for it, and another may have the place.
            let body = timeout(HEAD, whole(body)).await.unwrap_or_else(|_| {
                Err(Fault::new(StatusCode::REQUEST_TIMEOUT, "timeout", "the body of the request did not come"))
            });
            let busy = Busy::new(&state);
            let answer: Response<Body> = match body {
                Ok(body) => match router.call(Request::from_parts(head, Body::from(body))).await {
                    Ok(answer) => answer,
                    Err(never) => match never {},
                },
                Err(fault) => fault.into_response(),
            };
            Ok::<_, std::convert::Infallible>(answer.map(|body| With::new(body, busy)))
        }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(MAX_HEAD)
        .max_headers(64)
        .serve_connection(TokioIo::new(Patient::new(stream)), service);
    let mut served = std::pin::pin!(served);
    tokio::select! {
        ended = &mut served => {
            if let Err(error) = ended {
                tracing::debug!(%error, "a connection to the live view broke");
            }
            return;
        }
        () = seat.is_needed() => return,
        _ = stopped.wait_for(|stopped| *stopped) => {}
    }
    served.as_mut().graceful_shutdown();
    let _ = served.await;
}

/// The body of a request.
async fn whole(mut body: Incoming) -> Outcome<Vec<u8>> {
    let mut bytes = Vec::new();
    while let Some(frame) = std::future::poll_fn(|context| std::pin::Pin::new(&mut body).poll_frame(context)).await {
        let broken = |_| Fault::bad_request("the body of the request broke off");
        let Ok(piece) = frame.map_err(broken)?.into_data() else { continue };
        if bytes.len() + piece.len() > router::MAX_BODY {
            let why = format!("a body has at most {} bytes", router::MAX_BODY);
            return Err(Fault::new(StatusCode::PAYLOAD_TOO_LARGE, "bad_request", why));
        }
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes)
}
