//! Any parameters of a request to the live view: a refusal with a kind or an answer, never a panic, and never a figure that is
//! no JSON. The requests go through a real socket, so the parsing of their heads is in it.
//!
//! The first byte picks the request, the rest is its parameter: raw bytes, or text as the part of a URL or of a body.

#![no_main]

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::LazyLock;

use cloakroom::live::{Live, LiveOptions};
use cloakroom::{Options, SessionKey, SessionSource, SessionStore};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

struct Stage {
    store: SessionStore,
    _live: Live,
    socket: PathBuf,
    /// One that is there.
    handle: String,
}

static STAGE: LazyLock<Stage> = LazyLock::new(|| {
    // What is told of each request would fill the screen, and a bug is seen in the answer.
    let directory = tempfile::tempdir().expect("a directory").keep();
    let store = SessionStore::open(Options::new(directory.join("db")).create(true)).expect("a store");
    let live = Live::serve(&store, LiveOptions::new().guard(|_: &SessionKey| false)).expect("a view");
    let socket = live.socket().to_path_buf();
    let mut stage = Stage { store, _live: live, socket, handle: String::new() };
    let key = stage.fill();
    let answer = stage.ask("POST", "/v1/handle", &[], serde_json::json!({"key": key}).to_string().as_bytes());
    let answer: Value = serde_json::from_slice(&answer.1).expect("JSON");
    stage.handle = answer["handle"].as_str().expect("a handle").to_owned();
    stage
});

/// Lists that take parameters.
const LISTS: [&str; 6] = ["/v1/sessions", "/v1/histogram", "/v1/protected", "/v1/export", "/v1/stats", "/v1/events"];
/// Names of parameters, so that not all are refused for their names.
const NAMES: [&str; 16] = [
    "platform",
    "chat_type",
    "user",
    "prefix",
    "active_seconds",
    "idle_seconds",
    "active_since",
    "idle_since",
    "suspended",
    "pinned",
    "resume_pending",
    "q",
    "limit",
    "cursor",
    "max_age_days",
    "zone",
];
const VERBS: [&str; 8] = ["suspend", "unsuspend", "pin", "unpin", "reset", "resume-pending", "clear-resume", "remove"];

fn escaped(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("%{byte:02x}")).collect()
}

impl Stage {
    fn fill(&self) -> SessionKey {
        let keys = (0..3).map(|n| {
            let source = SessionSource {
                platform: "discord".into(),
                chat_type: "dm".into(),
                chat_id: Some(format!("c{n}")),
                ..SessionSource::default()
            };
            self.store.resolve(&source).expect("a session").entry.key
        });
        keys.last().expect("three")
    }

    fn ask(&self, method: &str, target: &str, header: &[u8], body: &[u8]) -> (u16, Vec<u8>) {
        let mut stream = UnixStream::connect(&self.socket).expect("the view is there");
        let mut request = format!(
            "{method} {target} HTTP/1.1\r\nHost: live\r\nConnection: close\r\nContent-Length: {}\r\n",
            body.len()
        )
        .into_bytes();
        request.extend_from_slice(header);
        request.extend_from_slice(b"\r\n");
        request.extend_from_slice(body);
        // A head that is refused may end the connection before all of it was taken.
        let _ = stream.write_all(&request);
        let mut answer = Vec::new();
        if target.starts_with("/v1/events") {
            let mut some = [0; 12];
            let read = stream.read(&mut some).unwrap_or(0);
            answer.extend_from_slice(&some[..read]);
        } else {
            let _ = stream.read_to_end(&mut answer);
        }
        let text = String::from_utf8_lossy(&answer);
        let status = text.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        let body = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").map_or(&[][..], |end| &answer[end + 4..]);
        (status, body.to_vec())
    }
}

fuzz_target!(|input: &[u8]| {
    let stage = &*STAGE;
    let Some((&which, rest)) = input.split_first() else { return };
    if stage.store.is_empty() {
        stage.fill();
    }
    let (first, second) = rest.split_at(rest.len().min(usize::from(which % 8)));
    let handle = &stage.handle;
    let (status, body) = match which % 8 {
        0 => stage.ask("GET", &format!("{}?{}", LISTS[rest.len() % LISTS.len()], escaped(rest)), b"", b""),
        1 | 2 => {
            let name = NAMES[usize::from(rest.first().copied().unwrap_or(0)) % NAMES.len()];
            let list = LISTS[usize::from(which / 8) % LISTS.len()];
            stage.ask("GET", &format!("{list}?{name}={}", escaped(rest.get(1..).unwrap_or(b""))), b"", b"")
        }
        3 => stage.ask("GET", &format!("/v1/sessions/{}", escaped(rest)), b"", b""),
        4 => stage.ask("GET", &format!("/v1/ids/{}", escaped(rest)), b"", b""),
        5 => {
            let verb = VERBS[usize::from(which / 8) % VERBS.len()];
            let header: Vec<u8> = [b"If-Match: ", first, b"\r\n"].concat();
            stage.ask("POST", &format!("/v1/sessions/{handle}/{verb}"), &header, second)
        }
        6 => stage.ask("POST", "/v1/sessions:bulk", b"", rest),
        _ => stage.ask("POST", ["/v1/prune", "/v1/handle"][usize::from(which / 8) % 2], b"", rest),
    };
    // What the head makes impossible, such as an empty one, has no answer, or one without a body.
    assert!(status != 500, "{}", String::from_utf8_lossy(&body));
    if status >= 400 && !body.is_empty() {
        let error: Value = serde_json::from_slice(&body).expect("an error is JSON");
        assert!(error["error"]["kind"].is_string(), "{error}");
    }
});
