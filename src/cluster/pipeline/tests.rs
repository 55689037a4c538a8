use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::thread;

use super::*;
use crate::cluster::answer::{Slot, Turn};
use crate::cluster::proof::Nobody;
use crate::cluster::receipt::Proven;
use crate::commit::Proof as _;
use crate::error::Error;

/// Plays a node, and returns once it is left.
fn play(stream: &TcpStream, mut answer: impl FnMut(&[String]) -> String) {
    let mut from = BufReader::new(stream);
    let number = |line: &str| line.trim()[1..].parse::<usize>().unwrap();
    loop {
        let mut line = String::new();
        if from.read_line(&mut line).unwrap_or(0) == 0 {
            return;
        }
        let mut words = Vec::new();
        for _ in 0..number(&line) {
            let mut length = String::new();
            from.read_line(&mut length).unwrap();
            let mut word = vec![0; number(&length) + 2];
            from.read_exact(&mut word).unwrap();
            words.push(String::from_utf8_lossy(&word).trim().to_owned());
        }
        (&mut &*stream).write_all(answer(&words).as_bytes()).unwrap();
    }
}

/// What a node answers that has one replica, which has everything.
fn usual(word: &str) -> String {
    match word {
        "HINCRBY" | "WAIT" => ":1\r\n".to_owned(),
        "WAITAOF" | "TIME" => "*2\r\n:1\r\n:1\r\n".to_owned(),
        "INFO" => "$21\r\nmaster_replid:abcdef\n\r\n".to_owned(),
        _ => "+OK\r\n".to_owned(),
    }
}

/// Plays a primary with four replicas: two are at work, and one of them has not come to the end; one hangs, and one is given
/// its data. Returns for how many each `WAIT` has waited.
fn serve(stream: &TcpStream) -> Vec<u64> {
    let mut waits = Vec::new();
    play(stream, |words| {
        let replicas = [("online", 0), ("online", 1), ("online", 30), ("send_bulk", 0)].into_iter().enumerate();
        let replicas = replicas.map(|(n, (state, lag))| {
            format!("slave{n}:ip=127.0.0.1,port={n},state={state},offset=9,lag={lag},type=replica\r\n")
        });
        let told = format!("role:master\r\nconnected_slaves:4\r\n{}", replicas.collect::<String>());
        if words[0] == "WAIT" {
            waits.push(words[1].parse().unwrap());
        }
        match words[0].as_str() {
            "INFO" => format!("${}\r\n{told}\r\n", told.len()),
            word => usual(word),
        }
    });
    waits
}

/// A pipeline of one write, and where that was sent.
fn write(running: &mut Running, key: &str) -> Sent {
    let slot = Arc::new(Slot::default());
    let commands = vec![redis::cmd("SET").arg(key).arg(1).to_owned()];
    let (bytes, kind, answer) = (0, Kind::Write, Answer::to(&slot, &Arc::default()));
    let request = Request { commands, bytes, kind, asking: false, answer, leads: false };
    for (answer, answered) in running.one(vec![request], 1, |_| {}) {
        assert!(answer.give(answered).is_none());
    }
    let Turn::Done(Answered { sent: Some(sent), .. }) = slot.wait() else { panic!("there is no answer") };
    sent
}

/// A proof that asks whether the node is the primary that it was.
fn prove(running: &mut Running, sent: &Sent) {
    running.open.as_mut().unwrap().checked = Instant::now().checked_sub(CHECK * 2).unwrap();
    sent.link.state.lock().wants_sync = true;
    running.one(Vec::new(), 0, |_| {});
}

/// One that talks to a node which is played so.
fn running(
    needs: &Arc<Needs>,
    answer: impl Fn(&[String]) -> String + Send + 'static,
) -> (Running, thread::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let node = listener.local_addr().unwrap().to_string();
    let serving = thread::spawn(move || play(&listener.accept().unwrap().0, answer));
    let lane: Weak<dyn Way> = Weak::<Nobody>::new();
    let (wire, clock) = (Wire::new(None, None, None), Arc::new(ServerClock::new()));
    (Running::new(node, wire, Arc::clone(needs), clock, lane), serving)
}

/// A replica has come since the map was asked for. It can take over, so nothing is kept that it has not got.
#[test]
fn a_replica_that_is_connected_counts_before_the_map_has_it() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let node = listener.local_addr().unwrap().to_string();
    let serving = thread::spawn(move || serve(&listener.accept().unwrap().0));
    let needs = Arc::new(Needs::new("t".into(), true, 1));
    // The others were called failed when the map was asked for.
    needs.set(vec![(node.clone(), 1, 4)]);
    let lane: Weak<dyn Way> = Weak::<Nobody>::new();
    let mut running = Running::new(node, Wire::new(None, None, None), needs, Arc::new(ServerClock::new()), lane);
    let sent = write(&mut running, "st:{7}:u");
    prove(&mut running, &sent);
    assert!(!sent.is_replicated(), "one of two has it");
    let failed = sent.link.state.lock().failed.as_ref().map(|failed| (failed.wanted, failed.got));
    assert_eq!(failed, Some((2, 1)));
    drop((running, sent));
    assert_eq!(serving.join().unwrap(), [1, 2]);
}

/// What comes of a proof, and what was written before it, where a node answers so to writes to two marks and to one without a
/// key.
fn proven_by(
    marks: [&'static str; 2],
    without_key: &'static str,
) -> (Result<bool, Error>, Option<String>, Vec<String>) {
    let (tell, told) = channel();
    let needs = Arc::new(Needs::new("t".into(), true, 1));
    let (mut running, serving) = running(&needs, move |words| match words[0].as_str() {
        "HINCRBY" | "FUNCTION" => {
            tell.send(words[1].clone()).unwrap();
            let said = if words[0] == "FUNCTION" { without_key } else { marks[usize::from(words[1] == "st:{7}:m")] };
            format!("{said}\r\n")
        }
        word => usual(word),
    });
    let first = write(&mut running, "st:{7}:u");
    write(&mut running, "st:{8}:u");
    prove(&mut running, &first);
    let refused = first.link.state.lock().failed.as_ref().and_then(|failed| failed.refused.clone());
    let outcome = Proven::new(needs, vec![first]).is_durable();
    drop(running);
    serving.join().unwrap();
    (outcome, refused.map(|error| error.code().to_owned()), told.iter().collect())
}

/// A node that has none of the shards any more writes without a key. One that does not do that either will never prove what it
/// had, and only that ends the connection.
#[test]
fn a_node_without_shards_proves_what_it_had_or_says_that_it_never_will() {
    let (moved, ask) = ("-MOVED 1 127.0.0.1:1", "-ASK 1 127.0.0.1:1");
    let all = ["st:{8}:m", "st:{7}:m", "RESTORE"];
    let (outcome, _, written) = proven_by([moved, ask], "+OK");
    assert!(matches!(outcome, Ok(true)), "{outcome:?}");
    assert_eq!(written, all);

    let (outcome, _, written) =
        proven_by([ask, moved], "-ERR unknown command 'FUNCTION', with args beginning with: 'x'");
    let Err(Error::Uncertain { made: true, source, .. }) = outcome else { panic!("{outcome:?}") };
    let why = source.to_string();
    assert!(why.contains("at other nodes") && why.contains("unknown command") && !why.contains("'x'"), "{why}");
    assert_eq!(written, all);

    // Somebody can let it do that.
    let (outcome, refused, _) = proven_by([moved, moved], "-NOPERM it may not");
    assert!(matches!(outcome, Ok(false)), "{outcome:?}");
    assert_eq!(refused.as_deref(), Some("NOPERM"));

    // It may have the shards, and another node may be their primary: what it writes proves nothing.
    for down in [["-CLUSTERDOWN it is down", moved], [moved, "-CLUSTERDOWN it is down"]] {
        let (outcome, refused, written) = proven_by(down, "+OK");
        assert!(matches!(outcome, Ok(false)), "{outcome:?}");
        assert_eq!((refused, written.contains(&all[2].to_owned())), (None, false));
    }
}

/// All shards are at other nodes, and one of two replicas with them: it may be the one that has them.
#[test]
fn a_replica_that_took_the_place_of_its_node_has_to_have_what_that_had() {
    let needs = Arc::new(Needs::new("t".into(), true, 1));
    let is_replaced = Arc::new(AtomicBool::new(false));
    let moved = Arc::clone(&is_replaced);
    let (mut running, serving) = running(&needs, move |words| match words[0].as_str() {
        "HINCRBY" if moved.load(Ordering::Relaxed) => "-MOVED 1 127.0.0.1:1\r\n".to_owned(),
        word => usual(word),
    });
    let node = running.node.clone();
    needs.set(vec![(node.clone(), 2, 2)]);
    let sent = write(&mut running, "st:{7}:u");
    is_replaced.store(true, Ordering::Relaxed);
    needs.set(vec![(node, 1, 1)]);
    prove(&mut running, &sent);
    assert!(matches!(Proven::new(needs, vec![sent]).is_durable(), Ok(false)), "one replica has it, of two");
    drop(running);
    serving.join().unwrap();
}

/// A script of somebody else runs while a proof is asked for. The node does not say which primary it is, and is the same.
#[test]
fn a_node_that_is_busy_while_it_is_asked_for_a_proof_gives_it_later() {
    let needs = Arc::new(Needs::new("t".into(), true, 1));
    let busy = Arc::new(AtomicBool::new(false));
    let is_busy = Arc::clone(&busy);
    let (mut running, serving) = running(&needs, move |words| match is_busy.load(Ordering::Relaxed) {
        true => "-BUSY it runs a script\r\n".to_owned(),
        false => usual(&words[0]),
    });
    let sent = write(&mut running, "st:{7}:u");
    let receipt = Proven::new(needs, vec![sent.clone()]);
    busy.store(true, Ordering::Relaxed);
    prove(&mut running, &sent);
    assert!(sent.link.state.lock().failed.is_some(), "a caller that waits gets an error");
    assert!(matches!(receipt.is_durable(), Ok(false)), "it may be waited for again");
    busy.store(false, Ordering::Relaxed);
    prove(&mut running, &sent);
    assert!(matches!(receipt.is_durable(), Ok(true)));
    drop(running);
    serving.join().unwrap();
}
