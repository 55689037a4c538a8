use std::io::{BufRead, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use super::*;
use crate::cluster::answer::{BUSY, Trouble};
use crate::cluster::receipt::Proven;
use crate::commit::Proof as _;

fn command(from: &mut impl BufRead) -> Option<Vec<String>> {
    let mut line = String::new();
    from.read_line(&mut line).ok().filter(|read| *read > 0)?;
    let count = line.trim().strip_prefix('*')?.parse().ok()?;
    let mut words = Vec::new();
    for _ in 0..count {
        let mut length = String::new();
        from.read_line(&mut length).ok()?;
        let mut word = vec![0; length.trim().strip_prefix('$')?.parse::<usize>().ok()? + 2];
        from.read_exact(&mut word).ok()?;
        words.push(String::from_utf8_lossy(&word).trim().to_owned());
    }
    Some(words)
}

/// Plays a node that holds back its answer to `WAIT` until the test lets it go on. Returns whether the test did so each time.
fn serve(stream: &TcpStream, go_on: &Receiver<()>) -> bool {
    let (mut from, mut was_told) = (BufReader::new(stream), true);
    while let Some(words) = command(&mut from) {
        let answer = match words[0].as_str() {
            "WAIT" => {
                was_told &= go_on.recv_timeout(Duration::from_secs(2)).is_ok();
                ":1\r\n"
            }
            "HINCRBY" => ":1\r\n",
            "WAITAOF" | "TIME" => "*2\r\n:1\r\n:1\r\n",
            _ => "+OK\r\n",
        };
        (&mut &*stream).write_all(answer.as_bytes()).unwrap();
    }
    was_told
}

/// A request in a pipeline that ends with a proof has its answer before the replicas have acknowledged anything.
#[test]
fn an_answer_waits_for_no_proof() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let node = listener.local_addr().unwrap().to_string();
    let (tell, told) = channel();
    let serving = thread::spawn(move || serve(&listener.accept().unwrap().0, &told));
    let needs = Arc::new(Needs::new("t".into(), true, 1));
    let lane = Lane::start(node, Wire::new(None, None, None), needs, Arc::new(ServerClock::new())).unwrap();
    let set = || vec![redis::cmd("SET").arg("st:{7}:u").arg(1).to_owned()];
    let sent = lane.run_as(Kind::Write, set(), false).sent.unwrap();
    sent.link.state.lock().wants_sync = true;
    let waiting = lane.send(Kind::Read, set(), false).wait();
    assert!(waiting.values.is_ok());
    tell.send(()).unwrap();
    // The proof is read before anything else.
    assert!(lane.run(set(), false).values.is_ok());
    assert!(sent.is_replicated());
    drop(lane);
    assert!(serving.join().unwrap(), "the answer came after that to WAIT");
}

#[test]
fn a_pipeline_has_no_more_bytes_than_it_may_but_for_one_request() {
    let slot = Arc::new(Slot::default());
    let request = |bytes: usize| {
        let commands = vec![redis::cmd("SET").arg("a").arg("x".repeat(bytes)).to_owned()];
        let (bytes, kind, answer) = (bytes_of(&commands), Kind::Write, Answer::to(&slot, &Arc::default()));
        Request { commands, bytes, kind, asking: false, answer, leads: false }
    };
    let mut line = Line::default();
    line.waiting.extend([10, 20, 3 * MAX_BYTES, 10, MAX_BYTES / 2, MAX_BYTES / 2, 10].map(request));
    let taken: Vec<_> = (0..4).map(|_| line.take().0.len()).collect();
    assert_eq!(taken, [2, 1, 2, 2]);
    assert!(line.waiting.is_empty());
}

#[test]
fn what_nobody_waits_for_any_more_is_not_sent() {
    let request = |slot: &Arc<Slot>| {
        let answer = Answer::to(slot, &Arc::default());
        Request { commands: Vec::new(), bytes: 0, kind: Kind::Change, asking: false, answer, leads: false }
    };
    let (dropped, waiting) = (Arc::new(Slot::default()), Arc::new(Slot::default()));
    let mut line = Line::default();
    line.waiting.extend([&dropped, &waiting, &dropped].map(request));
    line.waiting.push_front(request(&Arc::default()));
    assert_eq!(line.take().0.len(), 3);
    line.waiting.extend([&dropped, &waiting].map(request));
    drop(dropped);
    assert_eq!(line.take().0.len(), 1);
}

/// Plays a node whose replicas need a tenth of a second, but for the first time, when they need far more.
fn serve_slowly(stream: &TcpStream) {
    let (mut from, mut is_first) = (BufReader::new(stream), true);
    while let Some(words) = command(&mut from) {
        let is_in_time = || words.last().and_then(|time| time.parse::<u64>().ok()).is_some_and(|time| time >= 100);
        let answer = match words[0].as_str() {
            "WAIT" => format!(":{}\r\n", u8::from(!std::mem::take(&mut is_first) && is_in_time())),
            "WAITAOF" => format!("*2\r\n:1\r\n:{}\r\n", u8::from(is_in_time())),
            "HINCRBY" => ":1\r\n".into(),
            "TIME" => "*2\r\n:1\r\n:1\r\n".into(),
            _ => "+OK\r\n".into(),
        };
        (&mut &*stream).write_all(answer.as_bytes()).unwrap();
    }
}

/// It says nothing of its history, and so no later word of it may be taken for that of another primary.
#[test]
fn a_node_that_is_busy_is_connected_to_later() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let node = listener.local_addr().unwrap().to_string();
    let serving = thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let mut reader = BufReader::new(&stream);
        while let Some(words) = command(&mut reader) {
            let answer = if words[0] == "INFO" { "-BUSY it runs a script\r\n" } else { "+OK\r\n" };
            (&stream).write_all(answer.as_bytes()).unwrap();
        }
    });
    let needs = Arc::new(Needs::new("t".into(), true, 1));
    let lane = Lane::start(node, Wire::new(None, None, None), needs, Arc::new(ServerClock::new())).unwrap();
    let set = vec![redis::cmd("SET").arg("st:{7}:u").arg(1).to_owned()];
    let answered = lane.run_as(Kind::Write, set, false).values;
    assert!(matches!(&answered, Err(Trouble::Unsent(error)) if error.code() == Some(BUSY)), "{answered:?}");
    drop(lane);
    serving.join().unwrap();
}

/// Replicas that are slow, and well, are waited for again after they were too slow once.
#[test]
fn one_slow_proof_does_not_spoil_those_that_come_after() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let node = listener.local_addr().unwrap().to_string();
    let serving = thread::spawn(move || serve_slowly(&listener.accept().unwrap().0));
    let needs = Arc::new(Needs::new("t".into(), true, 1));
    let lane =
        Lane::start(node, Wire::new(None, None, None), Arc::clone(&needs), Arc::new(ServerClock::new())).unwrap();
    let told = |_| {
        let set = vec![redis::cmd("SET").arg("st:{7}:u").arg(1).to_owned()];
        let sent = lane.run_as(Kind::Write, set, false).sent;
        Proven::new(Arc::clone(&needs), sent.into_iter().collect()).wait_until(None).is_ok()
    };
    let told: Vec<_> = (0..10).map(told).collect();
    assert_eq!(told, [[false; 2].as_slice(), &[true; 8]].concat());
    drop(lane);
    serving.join().unwrap();
}
