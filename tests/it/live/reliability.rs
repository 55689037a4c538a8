//! Clients that misbehave, and ends at the wrong moment.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::time::Instant;

use cloakroom::live::{Client, LiveOptions};

use super::*;
use crate::callbacks::within;
use crate::common::assert_sound;

/// So long a close takes at most, whatever its clients do. What waits for one of them takes ten or thirty.
const LIMIT: Duration = Duration::from_secs(5);
/// How often it may take longer, because the machine is busy.
const TRIES: usize = 4;

/// Closes views whose clients misbehave, until one close ends in time. One that waits for a client never does.
fn closes_in_time<T>(seen: Seen, misbehave: impl Fn(&Seen) -> T) -> Seen {
    let (mut seen, mut took) = (seen, Vec::new());
    while took.len() < TRIES {
        let clients = misbehave(&seen);
        let Seen { home, store, live } = seen;
        let began = Instant::now();
        live.close();
        took.push(began.elapsed());
        drop(clients);
        let live = Live::serve(&store, LiveOptions::new().guard(|_: &SessionKey| false)).unwrap();
        seen = Seen { home, store, live };
        if took.last().is_some_and(|took| *took < LIMIT) {
            return seen;
        }
    }
    panic!("{took:?}")
}

#[test]
fn a_thousand_clients_that_say_nothing_keep_nobody_out() {
    let seen = Seen::new(1);
    within("an answer", move || {
        closes_in_time(seen, |seen| {
            let mut silent = Vec::new();
            for n in 0..1000 {
                let Ok(mut stream) = UnixStream::connect(seen.socket()) else { break };
                if n % 2 == 1 {
                    // Half a request. One that was dropped already may not take it.
                    let _ = stream.write_all(b"GET /v1/store HTTP/1.1\r\nHo");
                }
                silent.push(stream);
                if n % 100 == 99 {
                    assert_eq!(seen.get("/v1/store").status, 200);
                }
            }
            assert_eq!(seen.get("/v1/store").status, 200);
            silent
        });
    });
}

#[test]
fn half_a_body_keeps_nobody_out() {
    let seen = Seen::new(1);
    within("an answer", move || {
        closes_in_time(seen, |seen| {
            let mut half = Vec::new();
            for n in 0..1000 {
                let Ok(mut stream) = UnixStream::connect(seen.socket()) else { break };
                // One that was dropped already may not take it.
                let _ = stream.write_all(b"POST /v1/handle HTTP/1.1\r\nHost: live\r\nContent-Length: 50\r\n\r\n{\"key");
                half.push(stream);
                if n % 100 == 99 {
                    assert_eq!(seen.get("/v1/store").status, 200);
                }
            }
            half
        });
    });
}

#[test]
fn a_slow_reader_of_an_export_holds_up_no_change_and_no_close() {
    let seen = Seen::new(2000);
    within("the end", move || {
        let seen = closes_in_time(seen, |seen| {
            let slow: Vec<_> = (0..2)
                .map(|_| {
                    let mut stream = UnixStream::connect(seen.socket()).unwrap();
                    stream.write_all(b"GET /v1/export HTTP/1.1\r\nHost: live\r\n\r\n").unwrap();
                    let mut head = [0; 12];
                    stream.read_exact(&mut head).unwrap();
                    assert_eq!(&head, b"HTTP/1.1 200");
                    stream
                })
                .collect();
            // There are no more streams than two at a time, and other requests go on.
            assert_eq!(seen.get("/v1/backup").kind(), "busy");
            let handle = seen.handle(&key(3));
            seen.post(&format!("/v1/sessions/{handle}/suspend"), "").ok();
            seen.store.touch(&key(4)).unwrap().unwrap().wait().unwrap();
            slow
        });
        seen.live.close();
        seen.store.close().unwrap();
    });
}

#[test]
fn a_close_ends_within_a_second_while_requests_run() {
    let seen = Seen::new(2000);
    within("the end", move || {
        let running = std::sync::Mutex::new(Vec::new());
        let seen = closes_in_time(seen, |seen| {
            let answered = Arc::new(AtomicU64::new(0));
            for path in ["/v1/sessions?limit=1000", "/v1/export", "/v1/stats", "/v1/events", "/metrics", "/v1/verify"] {
                let (socket, answered) = (seen.socket(), Arc::clone(&answered));
                running.lock().unwrap().push(std::thread::spawn(move || {
                    let client = Client::at(&socket).unwrap();
                    while client
                        .pieces(path, |_| {
                            answered.fetch_add(1, Ordering::SeqCst);
                            Ok(())
                        })
                        .is_ok()
                    {}
                }));
            }
            while answered.load(Ordering::SeqCst) < 20 {
                std::thread::yield_now();
            }
        });
        seen.live.close();
        for client in running.into_inner().unwrap() {
            client.join().unwrap();
        }
        assert_sound(&seen.store);
        seen.store.close().unwrap();
    });
}

#[test]
fn a_store_that_turned_read_only_is_shown_and_says_why() {
    let home = Home::new();
    let clock = BadClock::default();
    let store = cloakroom::SessionStore::open(home.options().clock(clock.clone())).unwrap();
    store.resolve(&source(0)).unwrap();
    store.flush().unwrap();
    let live = Live::serve(&store, LiveOptions::new().guard(|_: &SessionKey| false)).unwrap();
    let seen = Seen { home, store, live };
    let handle = seen.handle(&key(0));
    clock.0.store(1, Ordering::SeqCst);
    // The committer asks the clock, which panics on its thread.
    assert!(seen.store.touch(&key(0)).unwrap().unwrap().wait().is_err() || seen.store.flush().is_err());
    let shown = seen.get("/v1/store").ok();
    assert_eq!(shown["failure"]["kind"], "read_only");
    assert!(shown["failure"]["message"].as_str().unwrap().contains("no time"), "{shown}");
    let answer = seen.post(&format!("/v1/sessions/{handle}/suspend"), "");
    assert_eq!((answer.status, answer.kind().as_str()), (503, "read_only"));
    assert_eq!(numbers(&seen.get("/v1/sessions").ok(), "sessions"), [0]);
    assert!(String::from_utf8(seen.get("/metrics").body).unwrap().contains("cloakroom_read_only{store="));
}

/// A clock that panics on the committer's thread once it is told to.
#[derive(Debug, Clone, Default)]
pub(super) struct BadClock(pub(super) Arc<AtomicU64>);

impl cloakroom::time::Clock for BadClock {
    fn now(&self) -> cloakroom::Timestamp {
        crate::common::NOW
    }

    fn monotonic(&self) -> Duration {
        let is_committer = std::thread::current().name() == Some("cloakroom-write");
        assert!(!is_committer || self.0.load(Ordering::SeqCst) == 0, "no time");
        Duration::from_secs(1)
    }

    fn after(&self, delay: Duration) -> cloakroom::time::Timer {
        cloakroom::time::Timer::after(delay)
    }
}

#[test]
fn changes_through_the_view_and_beside_it_add_up() {
    let seen = Seen::new(8);
    within("the end", move || {
        let seen = &seen;
        let handles: Vec<_> = (0..8).map(|n| seen.handle(&key(n))).collect();
        let begin = Barrier::new(5);
        std::thread::scope(|scope| {
            for n in 0..4 {
                let (handles, begin) = (&handles, &begin);
                scope.spawn(move || {
                    begin.wait();
                    for round in 0..20 {
                        let handle = &handles[(n + round) % 8];
                        let verb = if round % 2 == 0 { "suspend" } else { "unsuspend" };
                        seen.post(&format!("/v1/sessions/{handle}/{verb}"), "").ok();
                    }
                });
            }
            begin.wait();
            for round in 0..2000 {
                seen.store.touch(&key(round % 8)).unwrap().unwrap();
            }
        });
        assert_sound(&seen.store);
    });
}

/// Serves a view in a process of its own, and then does what the variable says. The parent runs this test alone.
#[test]
fn child_main() {
    let (Ok(act), Ok(path)) = (std::env::var(ACT), std::env::var(STORE)) else { return };
    let store = cloakroom::SessionStore::open(crate::common::options(path.as_ref())).unwrap();
    for n in 0..4 {
        store.resolve(&source(n)).unwrap();
    }
    let yields = act == "promise";
    let live = Live::serve(&store, LiveOptions::new().guard(|_: &SessionKey| false).hands_over(yields)).unwrap();
    if act == "fork" {
        match fork::fork().unwrap() {
            fork::Fork::Parent(child) => {
                fork::waitpid(child).unwrap();
            }
            fork::Fork::Child => {
                drop(live);
                drop(store);
                std::process::exit(0);
            }
        }
    }
    println!("READY");
    // Until it is killed, or its input ends.
    let _ = std::io::stdin().read(&mut [0]);
    drop(live);
}

const ACT: &str = "CLOAKROOM_LIVE_ACT";
const STORE: &str = "CLOAKROOM_LIVE_STORE";

fn child(act: &str, db: &std::path::Path) -> std::process::Child {
    let mut child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "live::reliability::child_main", "--nocapture"])
        .env(ACT, act)
        .env(STORE, db)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.as_mut().unwrap()));
    while !lines.next().unwrap().unwrap().contains("READY") {}
    child
}

#[test]
fn a_forked_process_leaves_the_view_to_its_parent() {
    let home = Home::new();
    let mut child = child("fork", &home.path());
    assert!(home.path().join("live.sock").exists());
    let client = Client::of_store(&home.path()).unwrap();
    assert_eq!(client.get::<Value>("/v1/store").unwrap()["pid"], child.id());
    drop(child.stdin.take());
    child.wait().unwrap();
    assert!(!home.path().join("live.sock").exists());
}

/// It answers that it closes the store, and does not.
#[test]
fn nobody_waits_for_ever_for_a_promise_to_yield() {
    let home = Home::new();
    let mut child = child("promise", &home.path());
    let db = home.path();
    let refused = within("an answer", move || cloakroom::SessionStore::open(crate::common::options(&db)).map(drop));
    let id = child.id().to_string();
    assert!(
        matches!(&refused, Err(cloakroom::Error::Locked { holder: Some(holder), .. }) if holder.contains(&id)),
        "{refused:?}"
    );
    // It was asked, and its view has ended.
    assert!(matches!(Client::of_store(&home.path()), Err(cloakroom::live::AskError::NotServed { .. })));
    drop(child.stdin.take());
    child.wait().unwrap();
    crate::common::assert_sound(&home.open());
}

/// What was answered is there, and the next opening finds a sound store and no socket.
#[test]
fn a_gateway_is_killed_amid_requests() {
    let home = Home::new();
    let db = home.path();
    for round in 0..3 {
        let mut child = child("wait", &db);
        let answered: Vec<Option<String>> = within("the requests end with the process", {
            let db = db.clone();
            move || {
                let client = Client::of_store(&db).unwrap();
                let handle = |n| {
                    let answer: Value = client.post("/v1/handle", &serde_json::json!({"key": key(n)})).unwrap();
                    answer["handle"].as_str().unwrap().to_owned()
                };
                let handles: Vec<_> = (0..4).map(handle).collect();
                let done = std::sync::Mutex::new(vec![None; 4]);
                let count = AtomicU64::new(0);
                std::thread::scope(|scope| {
                    for (n, handle) in handles.iter().enumerate() {
                        let (db, done, count) = (&db, &done, &count);
                        scope.spawn(move || {
                            let client = Client::of_store(db).unwrap();
                            let path = format!("/v1/sessions/{handle}/reset");
                            while let Ok(answer) = client.post::<Value>(&path, &serde_json::json!({})) {
                                done.lock().unwrap()[n] = Some(answer["session_id"].as_str().unwrap().to_owned());
                                count.fetch_add(1, Ordering::SeqCst);
                            }
                        });
                    }
                    while count.load(Ordering::SeqCst) < 8 + round * 5 {
                        std::thread::yield_now();
                    }
                    child.kill().unwrap();
                    child.wait().unwrap();
                });
                done.into_inner().unwrap()
            }
        });
        assert!(db.join("live.sock").exists(), "nobody could remove it");
        let store = cloakroom::SessionStore::open(crate::common::options(&db)).unwrap();
        assert!(!db.join("live.sock").exists());
        assert_sound(&store);
        for (n, answered) in answered.into_iter().enumerate() {
            let Some(answered) = answered else { continue };
            let entry = store.get(&key(n)).unwrap().unwrap();
            // The reset in flight may have been made too.
            let previous = entry.details.prev_session_id.map(|id| id.to_string());
            assert!(entry.session_id.as_str() == answered || previous == Some(answered), "{n}");
        }
        store.close().unwrap();
    }
}
