//! Connections of browsers. Anybody on this machine can make one, so whoever has not come in yields to a newer one.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::sleep;

/// Connections at a time.
const MOST: usize = 64;
/// How long a browser may take for the head of a request, and for the next one.
const HEAD: Duration = Duration::from_secs(15);

/// The place of a connection.
#[derive(Debug, Clone, Default)]
pub(super) struct Seat(Arc<AtomicBool>);

impl Seat {
    /// Its browser has come in: nobody takes its place.
    pub(super) fn keep(&self) {
        self.0.store(true, Ordering::Release);
    }

    fn is_kept(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// Answers all who connect, for ever.
pub(super) async fn serve(listener: TcpListener, router: Router) -> io::Result<()> {
    let mut connections: VecDeque<(Seat, JoinHandle<()>)> = VecDeque::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // There may be no descriptors left; a moment later there may be.
            sleep(Duration::from_millis(50)).await;
            continue;
        };
        connections.retain(|(_, task)| !task.is_finished());
        if connections.len() >= MOST {
            let Some(place) = connections.iter().position(|(seat, _)| !seat.is_kept()) else { continue };
            if let Some((_, task)) = connections.remove(place) {
                task.abort();
            }
        }
        let seat = Seat::default();
        let task = tokio::spawn(connection(stream, router.clone(), seat.clone()));
        connections.push_back((seat, task));
    }
}

async fn connection(stream: TcpStream, router: Router, seat: Seat) {
    let router = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(seat.clone());
        router.call(request)
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(64 << 10)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a connection to the page broke");
    }
}
