//! Asking the view of a store that another process has open.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::body::{Body as _, Frame, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

use super::body::REPORT;
use super::view::LONG_ANSWER;
use crate::error::Error;
use crate::{outfile, socket};

/// How long a view may take to begin its answer.
const PATIENCE: Duration = Duration::from_secs(40);
/// The same of what takes as long as the store is large.
const LONG_PATIENCE: Duration = LONG_ANSWER.saturating_add(PATIENCE);
const LONG: [&str; 5] = ["/v1/histogram", "/v1/protected", "/v1/prune", "/v1/sessions:bulk", "/v1/stats"];

/// A view could not be asked, or did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AskError {
    /// There is no view of the store: no process has it open, or the one that has it offers none.
    #[error("nobody serves a live view of the store at {path}")]
    NotServed {
        /// The store.
        path: PathBuf,
    },
    /// Somebody else than the owner of the store has made the socket.
    #[error("the socket {socket} is served by user {uid}, who does not own the store")]
    Stranger {
        /// The socket.
        socket: PathBuf,
        /// Who serves it.
        uid: u32,
    },
    /// The connection failed, or broke.
    #[error("could not ask the live view at {socket}")]
    Io {
        /// The socket.
        socket: PathBuf,
        /// What the operating system said, or the other end.
        source: io::Error,
    },
    /// The view refused.
    #[error("{message}")]
    Refused {
        /// The status of the answer.
        status: u16,
        /// As [`Error::kind`](crate::Error::kind), or one of the view's own: see its OpenAPI document.
        kind: String,
        /// What it said.
        message: String,
        /// What it said besides: fields of the error.
        details: serde_json::Value,
    },
    /// The answer is not what this version understands.
    #[error("the live view answered what this version does not understand: is it of another version?")]
    Answer {
        /// Why not.
        source: serde_json::Error,
    },
}

type Result<T> = std::result::Result<T, AskError>;

/// Asks the view of a store. Its calls block.
///
/// # Errors
/// Each request may fail with [`AskError::Io`] if the connection fails or the view does not answer in time,
/// [`AskError::Stranger`] before anything is sent, [`AskError::Refused`] with what the view says, and [`AskError::Answer`].
#[derive(Debug)]
pub struct Client {
    runtime: Runtime,
    socket: PathBuf,
    /// The owner of the store, beside whom root and this user may serve its view. `None` lets anybody.
    owner: Option<u32>,
}

impl Client {
    /// Finds the view of the store at a path. It may be another process's, or this one's.
    ///
    /// # Errors
    /// [`AskError::NotServed`] if nobody serves one.
    pub fn of_store(path: &Path) -> Result<Self> {
        let socket = socket::find(path).ok_or_else(|| AskError::NotServed { path: path.to_path_buf() })?;
        let mut client = Self::at(&socket)?;
        client.owner = Some(fs::metadata(path).map_err(|source| client.failed(source))?.uid());
        match client.runtime.block_on(async { client.connect().await }) {
            // A dead socket is no view.
            Err(AskError::Io { source, .. })
                if matches!(source.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound) =>
            {
                Err(AskError::NotServed { path: path.to_path_buf() })
            }
            stream => stream.map(|_| client),
        }
    }

    /// Another client of the same view, for another thread.
    pub fn another(&self) -> Result<Self> {
        Ok(Self { owner: self.owner, ..Self::at(&self.socket)? })
    }

    /// Where the view is.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Asks whoever serves a socket.
    pub fn at(socket: &Path) -> Result<Self> {
        let failed = |source| AskError::Io { socket: socket.to_path_buf(), source };
        let runtime = Builder::new_current_thread().enable_all().build().map_err(failed)?;
        Ok(Self { runtime, socket: socket.to_path_buf(), owner: None })
    }

    fn failed(&self, source: io::Error) -> AskError {
        AskError::Io { socket: self.socket.clone(), source }
    }

    async fn connect(&self) -> Result<UnixStream> {
        let stream = timeout(PATIENCE, UnixStream::connect(&self.socket)).await;
        let stream = stream.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        let stream = stream.map_err(|source| self.failed(source))?;
        let Some(owner) = self.owner else { return Ok(stream) };
        let uid = stream.peer_cred().map_err(|source| self.failed(source))?.uid();
        if ![owner, 0, rustix::process::geteuid().as_raw()].contains(&uid) {
            return Err(AskError::Stranger { socket: self.socket.clone(), uid });
        }
        Ok(stream)
    }

    /// Sends a request and waits for the head of its answer.
    async fn send(&self, request: Request<Body>) -> Result<Response<Incoming>> {
        let broken = |error: hyper::Error| self.failed(io::Error::other(error));
        let stream = self.connect().await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        tokio::spawn(connection);
        let patience = if LONG.contains(&request.uri().path()) { LONG_PATIENCE } else { PATIENCE };
        let answer = timeout(patience, sender.send_request(request)).await;
        let answer = answer.map_err(|_| self.failed(io::ErrorKind::TimedOut.into()))?.map_err(broken)?;
        if answer.status().is_success() {
            return Ok(answer);
        }
        let status = answer.status();
        let mut body = Vec::new();
        self.read(answer.into_body(), |bytes| {
            body.extend_from_slice(bytes);
            Ok(())
        })
        .await?;
        Err(refused(status, &body))
    }

    /// Reads a body, piece by piece, and answers its trailers.
    async fn read(&self, mut body: Incoming, mut each: impl FnMut(&[u8]) -> io::Result<()>) -> Result<HeaderMap> {
        let mut trailers = HeaderMap::new();
        loop {
            let frame: Option<std::result::Result<Frame<_>, hyper::Error>> =
                std::future::poll_fn(|context| std::pin::Pin::new(&mut body).poll_frame(context)).await;
            let Some(frame) = frame else { return Ok(trailers) };
            let frame = frame.map_err(|error| self.failed(io::Error::other(error)))?;
            match frame.into_data() {
                Ok(bytes) => each(&bytes).map_err(|source| self.failed(source))?,
                Err(frame) => trailers.extend(frame.into_trailers().unwrap_or_default()),
            }
        }
    }

    fn request(&self, method: Method, path: &str, body: Body) -> Result<Request<Body>> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "live")
            .header(header::TE, "trailers")
            .header(header::CONTENT_TYPE, "application/json");
        request.body(body).map_err(|error| self.failed(io::Error::new(io::ErrorKind::InvalidInput, error)))
    }

    fn ask<T: DeserializeOwned>(&self, request: Request<Body>) -> Result<T> {
        let mut text = Vec::new();
        self.runtime.block_on(async {
            let answer = self.send(request).await?;
            let keep = |bytes: &[u8]| {
                text.extend_from_slice(bytes);
                Ok(())
            };
            // It was made before its head was sent.
            let read = timeout(PATIENCE, self.read(answer.into_body(), keep)).await;
            read.unwrap_or_else(|_| Err(self.failed(io::ErrorKind::TimedOut.into())))
        })?;
        serde_json::from_slice(&text).map_err(|source| AskError::Answer { source })
    }

    /// Asks for what is at a path, as JSON.
    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        self.ask(self.request(Method::GET, path, Body::empty())?)
    }

    /// Sends JSON to a path, and reads the answer.
    pub fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T> {
        let body = serde_json::to_vec(body).map_err(|source| AskError::Answer { source })?;
        self.ask(self.request(Method::POST, path, body.into())?)
    }

    /// Removes what is at a path.
    pub fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        self.ask(self.request(Method::DELETE, path, Body::empty())?)
    }

    /// Hands on what is at a path, piece by piece, for as long as it comes.
    pub fn pieces(&self, path: &str, each: impl FnMut(&[u8]) -> io::Result<()>) -> Result<()> {
        let request = self.request(Method::GET, path, Body::empty())?;
        self.runtime.block_on(async {
            let answer = self.send(request).await?;
            self.read(answer.into_body(), each).await
        })?;
        Ok(())
    }

    /// Hands on the stream of events, from the one behind `last` on, where that is given.
    pub fn events(&self, last: Option<&str>, each: impl FnMut(&[u8]) -> io::Result<()>) -> Result<()> {
        let mut request = self.request(Method::GET, "/v1/events", Body::empty())?;
        if let Some(last) = last.and_then(|last| HeaderValue::from_str(last).ok()) {
            request.headers_mut().insert("last-event-id", last);
        }
        self.runtime.block_on(async {
            let answer = self.send(request).await?;
            self.read(answer.into_body(), each).await
        })?;
        Ok(())
    }

    /// Writes what is at a path, and answers the report that stands at its end. Where that is missing what was written is
    /// not whole, and the answer is an error.
    pub fn stream<T: DeserializeOwned>(&self, path: &str, mut output: impl Write) -> Result<T> {
        let request = self.request(Method::GET, path, Body::empty())?;
        let trailers = self.runtime.block_on(async {
            let answer = self.send(request).await?;
            self.read(answer.into_body(), |bytes| output.write_all(bytes)).await
        })?;
        output.flush().map_err(|source| self.failed(source))?;
        let report = trailers.get(REPORT).map(HeaderValue::as_bytes);
        let report = report.ok_or_else(|| self.failed(io::ErrorKind::UnexpectedEof.into()))?;
        serde_json::from_slice(report).map_err(|source| AskError::Answer { source })
    }
}

impl Client {
    /// The same into a file, which is there whole or not at all, and which only its owner may read.
    ///
    /// # Errors
    /// [`Error::Exists`] if something is at the path and `force` does not allow to replace it; [`Error::Io`] and its kin,
    /// with the [`AskError`] as the source where the view is the reason.
    pub fn stream_to_file<T: DeserializeOwned>(
        &self,
        path: &str,
        file: &Path,
        force: bool,
    ) -> std::result::Result<T, Error> {
        outfile::write_whole(file, force, ".unfinished", |mut output| {
            self.stream(path, &mut output)
                .map_err(|error| Error::io("read from", &self.socket, io::Error::other(error)))
        })
    }

    /// Changes an entry, if it has the revision that was seen.
    pub fn post_if<T: DeserializeOwned>(&self, path: &str, seen: Option<&str>, body: &impl Serialize) -> Result<T> {
        let body = serde_json::to_vec(body).map_err(|source| AskError::Answer { source })?;
        self.ask(matching(self.request(Method::POST, path, body.into())?, seen))
    }

    /// Removes what is at a path, if it has the revision that was seen.
    pub fn delete_if<T: DeserializeOwned>(&self, path: &str, seen: Option<&str>) -> Result<T> {
        self.ask(matching(self.request(Method::DELETE, path, Body::empty())?, seen))
    }
}

fn matching(mut request: Request<Body>, seen: Option<&str>) -> Request<Body> {
    if let Some(seen) = seen.and_then(|seen| HeaderValue::from_str(seen).ok()) {
        request.headers_mut().insert(header::IF_MATCH, seen);
    }
    request
}

fn refused(status: StatusCode, body: &[u8]) -> AskError {
    let mut error = serde_json::from_slice::<serde_json::Value>(body).unwrap_or_default();
    let details = error.get_mut("error").map(serde_json::Value::take).unwrap_or_default();
    let text = |name: &str| details.get(name).and_then(|text| text.as_str()).map(str::to_owned);
    let kind = text("kind").unwrap_or_else(|| "refused".into());
    let message = text("message").unwrap_or_else(|| format!("the live view answered {status}"));
    AskError::Refused { status: status.as_u16(), kind, message, details }
}
