//! The live view: what it answers, who may ask, and what it changes.

mod changes;
#[cfg(feature = "cli")]
mod cli;
mod metrics;
mod pruning;
mod reads;
mod reliability;
mod socket;
mod streams;
#[cfg(feature = "cli")]
mod web;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use cloakroom::live::{Live, LiveOptions};
use cloakroom::{SessionKey, SessionStore};
use serde_json::Value;

use crate::common::{Home, key, source};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A store with some entries, each a minute younger than the one before, and its view.
struct Seen {
    home: Home,
    store: SessionStore,
    live: Live,
}

/// An answer.
#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {} {}", self.head, String::from_utf8_lossy(&self.body)))
    }

    fn kind(&self) -> String {
        self.json()["error"]["kind"].as_str().unwrap_or_else(|| panic!("{self:?}")).to_owned()
    }

    fn ok(self) -> Value {
        assert!((200..300).contains(&self.status), "{} {}", self.status, String::from_utf8_lossy(&self.body));
        self.json()
    }
}

impl Seen {
    fn new(entries: usize) -> Self {
        Self::with(entries, LiveOptions::new().guard(|_: &SessionKey| false))
    }

    fn with(entries: usize, options: LiveOptions) -> Self {
        let home = Home::new();
        let store = home.open();
        for n in 0..entries {
            home.clock.advance(Duration::from_secs(60));
            store.resolve(&source(n)).unwrap();
        }
        let live = Live::serve(&store, options).unwrap();
        Self { home, store, live }
    }

    fn socket(&self) -> PathBuf {
        self.home.path().join("live.sock")
    }

    fn ask(&self, method: &str, path: &str, headers: &str, body: &str) -> Answer {
        ask(&mut UnixStream::connect(self.socket()).unwrap(), method, path, headers, body)
    }

    fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, "", "")
    }

    fn post(&self, path: &str, body: &str) -> Answer {
        self.ask("POST", path, "", body)
    }

    fn handle(&self, key: &SessionKey) -> String {
        let answer = self.post("/v1/handle", &serde_json::json!({"key": key}).to_string()).ok();
        answer["handle"].as_str().unwrap().to_owned()
    }
}

/// Sends one request and reads all of the answer.
fn ask(stream: &mut UnixStream, method: &str, path: &str, headers: &str, body: &str) -> Answer {
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: live\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap();
    parse(&all)
}

fn parse(all: &[u8]) -> Answer {
    let end = all.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap_or_else(|| panic!("{all:?}"));
    let head = String::from_utf8(all[..end].to_vec()).unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let body = &all[end + 4..];
    let is_chunked = head.to_lowercase().contains("transfer-encoding: chunked");
    Answer { status, head, body: if is_chunked { unchunked(body) } else { body.to_vec() } }
}

/// The pieces of a body; one that was cut off ends early.
fn unchunked(mut rest: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(end) = rest.windows(2).position(|bytes| bytes == b"\r\n") {
        let size = usize::from_str_radix(std::str::from_utf8(&rest[..end]).unwrap(), 16).unwrap();
        if size == 0 {
            break;
        }
        body.extend_from_slice(&rest[end + 2..end + 2 + size]);
        rest = &rest[end + 2 + size + 2..];
    }
    body
}

/// Copies a directory as it is.
fn copy(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (kind, target) = (entry.file_type().unwrap(), to.join(entry.file_name()));
        if kind.is_dir() {
            copy(&entry.path(), &target);
        } else if kind.is_file() {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// The keys of a list, shortened to their numbers.
fn numbers(answer: &Value, list: &str) -> Vec<usize> {
    let keys = answer[list].as_array().unwrap().iter().map(|row| row["session_key"].as_str().unwrap().to_owned());
    keys.map(|text| (0..10_000).find(|n| key(*n).as_str() == text).unwrap()).collect()
}
