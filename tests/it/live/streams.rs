//! Exports, backups, checks, events.

use std::io::{BufRead, BufReader};

use cloakroom::export::{ExportFormat, ExportOptions};
use cloakroom::live::{Client, LiveOptions};
use cloakroom::{Options, SessionStore};
use serde_json::{Value, json};

use super::*;
use crate::callbacks::within;

#[test]
fn an_export_is_that_of_the_store_and_says_what_it_wrote() {
    let seen = Seen::new(300);
    for (name, format) in
        [("jsonl", ExportFormat::Jsonl), ("hermes", ExportFormat::Hermes), ("openclaw", ExportFormat::OpenClaw)]
    {
        let mut expected = Vec::new();
        seen.store.export(&mut expected, &ExportOptions::new(format)).unwrap();
        let mut written = Vec::new();
        let client = Client::at(&seen.socket()).unwrap();
        let report: Value = client.stream(&format!("/v1/export?format={name}"), &mut written).unwrap();
        assert_eq!(report["entries"], 300, "{name}");
        assert!(written == expected, "{name}");
        assert!(seen.get(&format!("/v1/export?format={name}")).body == expected, "{name}, by a plain client");
    }
}

#[test]
fn a_backup_restores() {
    let seen = Seen::new(50);
    let client = Client::at(&seen.socket()).unwrap();
    let mut backup = Vec::new();
    let report: Value = client.stream("/v1/backup", &mut backup).unwrap();
    assert_eq!((&report["entries"], &report["bytes"]), (&json!(50), &json!(backup.len())));
    let dir = tempfile::tempdir().unwrap();
    let db = dir.path().join("db");
    SessionStore::restore(Options::new(&db), &*backup, |_| {}).unwrap();
    assert_eq!(SessionStore::open(Options::new(&db)).unwrap().len(), 50);
}

#[test]
fn a_check_finds_what_the_store_finds() {
    let seen = Seen::new(5);
    let found = seen.get("/v1/verify").ok();
    assert_eq!(found["found"], serde_json::to_value(seen.store.verify().unwrap()).unwrap());
    assert_eq!(found["open_report"]["created"], true);
}

/// A stream of events, line by line.
struct Listener(BufReader<UnixStream>);

impl Listener {
    fn new(seen: &Seen, path: &str, headers: &str) -> Self {
        let mut stream = UnixStream::connect(seen.socket()).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: live\r\n{headers}\r\n").unwrap();
        let mut listener = Self(BufReader::new(stream));
        // It listens once it has said so.
        while !listener.line().starts_with(": here") {}
        listener
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        assert!(!line.is_empty(), "it has ended");
        line.trim_end().to_owned()
    }

    /// The next event with its id.
    fn next(&mut self) -> (String, Value) {
        let mut id = String::new();
        loop {
            let line = self.line();
            if let Some(found) = line.strip_prefix("id: ") {
                id = found.to_owned();
            }
            if let Some(data) = line.strip_prefix("data: ") {
                return (id, serde_json::from_str(data).unwrap());
            }
        }
    }
}

#[test]
fn events_come_as_they_happen_and_go_on_where_they_ended() {
    let seen = Seen::new(2);
    within("events", move || {
        let mut listener = Listener::new(&seen, "/v1/events", "");
        seen.store.touch(&key(0)).unwrap().unwrap();
        seen.store.suspend(&key(0)).unwrap().unwrap();
        let (id, event) = listener.next();
        assert_eq!(
            (event["event"].as_str(), event["session_key"].as_str()),
            (Some("suspended"), Some(key(0).as_str()))
        );
        assert_eq!(event["handle"], seen.handle(&key(0)));
        drop(listener);
        seen.store.unsuspend(&key(0)).unwrap().unwrap();
        seen.store.pin(&key(1)).unwrap().unwrap();
        let mut listener = Listener::new(&seen, "/v1/events", &format!("Last-Event-ID: {id}\r\n"));
        assert_eq!(listener.next().1["event"], "unsuspended");
        assert_eq!(listener.next().1["event"], "pinned");
        // Of another process: nobody knows what was lost.
        let mut listener = Listener::new(&seen, "/v1/events", "Last-Event-ID: abc-1\r\n");
        assert_eq!(listener.next().1, json!({"lost": null}));
        assert_eq!(listener.next().1["event"], "suspended");
        let mut touches = Listener::new(&seen, "/v1/events?touches=true", "");
        seen.store.touch(&key(1)).unwrap().unwrap();
        assert_eq!(touches.next().1["event"], "touched");
    });
}

#[test]
fn who_comes_back_too_late_is_told_how_much_is_lost() {
    let seen = Seen::new(1);
    within("events", move || {
        let mut listener = Listener::new(&seen, "/v1/events", "");
        seen.store.suspend(&key(0)).unwrap().unwrap();
        let (id, _) = listener.next();
        // 2,000 more, of which 1,024 are kept. They are read here, so that none is on its way still.
        for n in 0..2000 {
            if n % 2 == 0 { seen.store.unsuspend(&key(0)) } else { seen.store.suspend(&key(0)) }.unwrap().unwrap();
        }
        while !listener.next().0.ends_with("-2001") {}
        drop(listener);
        let mut listener = Listener::new(&seen, "/v1/events", &format!("Last-Event-ID: {id}\r\n"));
        assert_eq!(listener.next().1, json!({"lost": 2000 - 1024}));
        let (next, _) = listener.next();
        assert_eq!(next.split_once('-').unwrap().1, (2001 - 1024 + 1).to_string());
    });
}

#[test]
fn there_are_no_more_listeners_than_sixteen() {
    let seen = Seen::new(1);
    let listeners: Vec<_> = (0..16).map(|_| Listener::new(&seen, "/v1/events", "")).collect();
    let answer = seen.get("/v1/events");
    assert_eq!((answer.status, answer.kind().as_str()), (503, "busy"));
    drop(listeners);
}

/// Nothing listens to the store but while somebody reads.
#[test]
fn a_view_that_nobody_reads_costs_the_store_no_events() {
    let seen = Seen::with(1, LiveOptions::new());
    seen.get("/v1/store").ok();
    let text = String::from_utf8(seen.get("/metrics").body).unwrap();
    for _ in 0..5000 {
        seen.store.suspend(&key(0)).unwrap().unwrap();
        seen.store.unsuspend(&key(0)).unwrap().unwrap();
    }
    let after = String::from_utf8(seen.get("/metrics").body).unwrap();
    let dropped =
        |text: &str| text.lines().find(|line| line.starts_with("cloakroom_events_dropped_total{")).unwrap().to_owned();
    assert_eq!(dropped(&text), dropped(&after));
    assert_eq!(text.lines().count(), after.lines().count());
}
