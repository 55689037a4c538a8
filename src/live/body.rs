//! Bodies: of streams, which a thread writes, and of answers that keep a connection busy until they were read.

use std::io::{self, Write};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Bytes;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use hyper::body::{Body, Frame, SizeHint};
use serde::Serialize;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::timeout;

/// The trailer of a stream that says what was written.
pub(super) const REPORT: &str = "cloakroom-report";
/// Bytes that are sent together.
const PIECE: usize = 64 << 10;
/// Pieces that wait for a reader.
const PIECES: usize = 4;
/// How long a reader may take none.
const PATIENCE: Duration = Duration::from_secs(30);

type Sent = Result<Frame<Bytes>, io::Error>;

/// A body that a thread writes.
pub(super) struct Flow {
    frames: mpsc::Receiver<Sent>,
    _permit: Option<OwnedSemaphorePermit>,
}

/// Where the thread writes it. Each piece waits until its reader has room, but not for ever.
pub(super) struct Pipe {
    frames: mpsc::Sender<Sent>,
    runtime: Handle,
    waiting: Vec<u8>,
}

impl Flow {
    /// Call it on a thread of the runtime.
    pub(super) fn new(permit: Option<OwnedSemaphorePermit>) -> (Pipe, Self) {
        let (sender, frames) = mpsc::channel(PIECES);
        let pipe = Pipe { frames: sender, runtime: Handle::current(), waiting: Vec::with_capacity(PIECE) };
        (pipe, Self { frames, _permit: permit })
    }

    /// A body whose frames come from elsewhere.
    pub(super) fn of(frames: mpsc::Receiver<Sent>, permit: Option<OwnedSemaphorePermit>) -> Self {
        Self { frames, _permit: permit }
    }
}

impl Body for Flow {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Sent>> {
        self.frames.poll_recv(context)
    }
}

impl Pipe {
    fn send(&self, frame: Sent) -> io::Result<()> {
        let sent = self.runtime.block_on(async { timeout(PATIENCE, self.frames.send(frame)).await });
        match sent {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(io::ErrorKind::BrokenPipe.into()),
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    /// Ends the body with a report, or cuts it off: what was written then is not whole.
    pub(super) fn end<T: Serialize, E: std::fmt::Display>(mut self, outcome: Result<T, E>) {
        let ended = match outcome {
            Ok(report) => self.flush().and_then(|()| {
                let text = ascii(&serde_json::to_string(&report)?);
                let value = HeaderValue::from_str(&text).map_err(io::Error::other)?;
                self.send(Ok(Frame::trailers(HeaderMap::from_iter([(HeaderName::from_static(REPORT), value)]))))
            }),
            Err(error) => self.send(Err(io::Error::other(error.to_string()))),
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "a stream was not read to its end");
        }
    }
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = PIECE.saturating_sub(self.waiting.len()).max(1);
        let now = bytes.get(..bytes.len().min(room)).unwrap_or_default();
        self.waiting.extend_from_slice(now);
        if self.waiting.len() >= PIECE {
            self.flush()?;
        }
        Ok(now.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        let piece = std::mem::replace(&mut self.waiting, Vec::with_capacity(PIECE));
        self.send(Ok(Frame::data(piece.into())))
    }
}

/// JSON with an escape for each character that a header does not take.
fn ascii(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        if c.is_ascii() && !c.is_control() {
            text.push(c);
        } else {
            for unit in c.encode_utf16(&mut [0; 2]) {
                text.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
    text
}

/// A body, and something that is dropped with it.
pub(super) struct With<B, T> {
    body: B,
    _kept: T,
}

impl<B, T> With<B, T> {
    pub(super) fn new(body: B, kept: T) -> Self {
        Self { body, _kept: kept }
    }
}

impl<B: Body + Unpin, T: Unpin> Body for With<B, T> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_fits_into_a_header() {
        let text = ascii("{\"a\":\"ü🎈\"}");
        assert_eq!(text, "{\"a\":\"\\u00fc\\ud83c\\udf88\"}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap()["a"], "ü🎈");
    }
}
