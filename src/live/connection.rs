//! Connections: how many there are, which of them may be dropped for a newer one, and what a reader may not do.

use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tokio::sync::Notify;
use tokio::time::{Instant, Sleep, sleep};

/// Connections at a time.
pub(super) const MOST: usize = 64;
/// How long a reader may take nothing.
const PATIENCE: Duration = Duration::from_secs(30);

/// The connections there are, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Connections {
    all: Mutex<(u64, BTreeMap<u64, Arc<State>>)>,
}

/// What is known of a connection.
#[derive(Debug, Default)]
pub(super) struct State {
    /// Requests that are being answered.
    busy: AtomicUsize,
    /// Another needs its place.
    drop: Notify,
}

/// The place of a connection.
pub(super) struct Seat {
    connections: Arc<Connections>,
    number: u64,
    pub(super) state: Arc<State>,
}

/// A request that is being answered.
pub(super) struct Busy(Arc<State>);

impl Connections {
    /// A place for one more. Where there is none, the oldest connection that has nothing to be answered goes; where there
    /// is no such one either, the new one does.
    pub(super) fn seat(self: &Arc<Self>) -> Option<Seat> {
        let mut all = self.all.lock();
        let (next, seats) = &mut *all;
        if seats.len() >= MOST {
            let idle = seats.iter().find(|(_, state)| state.busy.load(Ordering::Acquire) == 0);
            let number = idle.map(|(number, _)| *number)?;
            if let Some(state) = seats.remove(&number) {
                state.drop.notify_one();
            }
        }
        *next += 1;
        let state = Arc::new(State::default());
        seats.insert(*next, Arc::clone(&state));
        Some(Seat { connections: Arc::clone(self), number: *next, state })
    }
}

impl Seat {
    /// Waits until another needs the place.
    pub(super) async fn is_needed(&self) {
        self.state.drop.notified().await;
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.connections.all.lock().1.remove(&self.number);
    }
}

impl Busy {
    pub(super) fn new(state: &Arc<State>) -> Self {
        state.busy.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(state))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A connection whose writes fail once its reader has taken nothing for a while.
pub(super) struct Patient {
    stream: UnixStream,
    stalled: Option<Pin<Box<Sleep>>>,
}

impl Patient {
    pub(super) fn new(stream: UnixStream) -> Self {
        Self { stream, stalled: None }
    }

    fn watched<T>(&mut self, context: &mut Context<'_>, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.stalled = None;
            return polled;
        }
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(PATIENCE)));
        if stalled.deadline() > Instant::now() || stalled.as_mut().poll(context).is_pending() {
            // Polled at least once, so that it wakes this task.
            let _ = stalled.as_mut().poll(context);
            return Poll::Pending;
        }
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Patient {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, to)
    }
}

impl AsyncWrite for Patient {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.watched(context, polled)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_flush(context);
        self.watched(context, polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
