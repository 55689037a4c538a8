//! A lane: the connection over which everything goes to one node.
//!
//! Whoever finds nobody at work on it takes the lead: it takes all that waits, writes it as one pipeline, reads all answers
//! and wakes everybody. While one pipeline is in flight the next one fills, and the first of those that wait leads that. So a
//! caller that is alone sends and reads itself, and no other thread stands between it and the node. A thread of the lane's own
//! leads where nobody waits: for requests that are sent and waited for later, and for tasks.
//!
//! Where somebody waits for a receipt, `WAIT` and then `WAITAOF` end the pipeline, and all that wait share them: `WAITAOF`
//! alone takes a second with replicas, for one that gets a write and the request for its acknowledgement in one read answers
//! before it has synced. Both prove what this connection was the last to write, and nothing at all where it has written
//! nothing. So a small write comes before them, unless the answers that were read have told that the last request wrote.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};
use std::thread;

use parking_lot::{Condvar, Mutex};
use redis::{Arg, Cmd};

use super::answer::{Answer, Answered, Kind, Slot, Turn};
use super::caller::Caller;
use super::clock::ServerClock;
use super::pipeline::{Answers, MAX_BYTES, Request, Running};
use super::proof::{Needs, Way};
use super::wire::Wire;
use crate::commit::Wakers;
use crate::error::{Error, Result};
use crate::fork;

/// What goes in one pipeline, at most.
const MAX_COMMANDS: usize = 1024;

/// One node's lane.
#[derive(Debug)]
pub(super) struct Lane {
    shared: Arc<Shared>,
}

impl Lane {
    pub(super) fn start(node: String, wire: Wire, needs: Arc<Needs>, clock: Arc<ServerClock>) -> Result<Self> {
        let wakers = Arc::clone(needs.wakers());
        let shared = Arc::new_cyclic(|lane: &Weak<Shared>| {
            let lane: Weak<dyn Way> = lane.clone();
            let running = Running::new(node.clone(), wire, needs, clock, lane);
            Shared { node, line: Mutex::default(), work: Condvar::new(), running: Mutex::new(running), wakers }
        });
        let own = Arc::clone(&shared);
        thread::Builder::new()
            .name("cloakroom-lane".into())
            .spawn(move || own.serve())
            .map_err(|e| Error::io("start the lane of", &shared.node, e))?;
        Ok(Self { shared })
    }

    pub(super) fn node(&self) -> &str {
        &self.shared.node
    }

    /// Sends commands that only read, and waits for their answers.
    pub(super) fn run(&self, commands: Vec<Cmd>, asking: bool) -> Answered {
        self.run_as(Kind::Read, commands, asking)
    }

    /// Sends the commands, and waits for their answers as the caller may.
    pub(super) async fn ask(&self, caller: Caller, kind: Kind, commands: Vec<Cmd>, asking: bool) -> Answered {
        match caller {
            Caller::Blocks => self.run_as(kind, commands, asking),
            Caller::Awaits => self.send(kind, commands, asking).await,
        }
    }

    /// Sends the commands, and waits for their answers.
    pub(super) fn run_as(&self, kind: Kind, commands: Vec<Cmd>, asking: bool) -> Answered {
        let (slot, bytes) = (Arc::new(Slot::default()), bytes_of(&commands));
        let mut line = self.shared.line.lock();
        line.waiting.push_back(Request {
            commands,
            bytes,
            kind,
            asking,
            answer: Answer::to(&slot, &self.shared.wakers),
            leads: true,
        });
        let leads = !std::mem::replace(&mut line.is_led, true);
        drop(line);
        if leads {
            self.shared.lead();
        }
        loop {
            match slot.wait() {
                Turn::Leads => self.shared.lead(),
                Turn::Done(answered) => return answered,
            }
        }
    }

    /// Sends commands. Their answers may be waited for later.
    pub(super) fn send(&self, kind: Kind, commands: Vec<Cmd>, asking: bool) -> Waiting {
        let (slot, bytes) = (Arc::new(Slot::default()), bytes_of(&commands));
        let mut line = self.shared.line.lock();
        let answer = Answer::to(&slot, &self.shared.wakers);
        line.waiting.push_back(Request { commands, bytes, kind, asking, answer, leads: false });
        if !line.is_led {
            self.shared.work.notify_one();
        }
        Waiting(slot)
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        // A forked process has none of the threads, and may have the lock for ever.
        if fork::is_child() {
            return;
        }
        // It ends by itself once the node has answered; a node that is paused is not waited for.
        let mut line = self.shared.line.lock();
        line.has_ended = true;
        let waiting = std::mem::take(&mut line.waiting);
        self.shared.work.notify_one();
        drop(line);
        drop(waiting);
    }
}

/// An answer on its way.
#[derive(Debug)]
pub(super) struct Waiting(Arc<Slot>);

impl Waiting {
    /// The answer, if it is there.
    pub(super) fn look(self) -> std::result::Result<Answered, Self> {
        match self.0.look() {
            Some(Turn::Done(answered)) => Ok(answered),
            _ => Err(self),
        }
    }

    /// Waits for it as the caller may.
    pub(super) async fn answered(self, caller: Caller) -> Answered {
        match caller {
            Caller::Blocks => self.wait(),
            Caller::Awaits => self.await,
        }
    }

    pub(super) fn wait(self) -> Answered {
        loop {
            // Nobody makes one lead that was only sent.
            if let Turn::Done(answered) = self.0.wait() {
                return answered;
            }
        }
    }
}

impl Future for Waiting {
    type Output = Answered;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Answered> {
        loop {
            if let Turn::Done(answered) = ready!(self.0.poll(context)) {
                return Poll::Ready(answered);
            }
        }
    }
}

/// The requests that wait, and whether a thread leads.
#[derive(Debug, Default)]
struct Line {
    waiting: VecDeque<Request>,
    /// Somebody leads. Only then may requests be taken.
    is_led: bool,
    /// Somebody waits for a receipt.
    is_kicked: bool,
    has_ended: bool,
}

impl Line {
    /// What goes in the next pipeline, and how many commands about.
    fn take(&mut self) -> (Vec<Request>, usize) {
        self.is_kicked = false;
        let (mut requests, mut count, mut bytes) = (Vec::new(), 0, 0);
        while count < MAX_COMMANDS
            && self.waiting.front().is_some_and(|next| bytes == 0 || bytes + next.bytes <= MAX_BYTES)
            && let Some(request) = self.waiting.pop_front()
        {
            // Of a future that was dropped. Nothing was sent, and nothing is.
            if !request.answer.is_wanted() {
                continue;
            }
            count += request.commands.len() + 2;
            bytes += request.bytes;
            requests.push(request);
        }
        (requests, count)
    }
}

fn bytes_of(commands: &[Cmd]) -> usize {
    let length = |arg: Arg<&[u8]>| if let Arg::Simple(word) = arg { word.len() } else { 0 };
    commands.iter().flat_map(Cmd::args_iter).map(length).sum()
}

#[derive(Debug)]
struct Shared {
    node: String,
    line: Mutex<Line>,
    /// Wakes the lane's own thread.
    work: Condvar,
    running: Mutex<Running>,
    /// The threads that wake futures.
    wakers: Arc<Wakers>,
}

impl Shared {
    /// Leads where nobody else does, until the lane is dropped.
    fn serve(&self) {
        loop {
            let mut line = self.line.lock();
            while !line.has_ended && (line.is_led || (line.waiting.is_empty() && !line.is_kicked)) {
                self.work.wait(&mut line);
            }
            if line.has_ended {
                break;
            }
            line.is_led = true;
            drop(line);
            self.lead();
        }
        self.running.lock().end();
    }

    /// One pipeline of what waits. The caller has taken the lead.
    fn lead(&self) {
        let lead = Lead(self);
        let (requests, count) = self.line.lock().take();
        let answers = self.running.lock().one(requests, count, |answers| self.give(answers));
        // The next one begins before these wake.
        drop(lead);
        self.give(answers);
    }

    fn give(&self, answers: Answers) {
        let wakers: Vec<_> = answers.into_iter().filter_map(|(answer, answered)| answer.give(answered)).collect();
        if !wakers.is_empty() && !fork::is_child() {
            self.wakers.call(wakers);
        }
    }
}

/// The lead. Dropping it passes it to the first caller that waits, or gives it back.
struct Lead<'a>(&'a Shared);

impl Drop for Lead<'_> {
    fn drop(&mut self) {
        let mut line = self.0.line.lock();
        match line.waiting.front() {
            Some(request) if request.leads => request.answer.lead(),
            first => {
                let has_work = first.is_some() || line.is_kicked || line.has_ended;
                line.is_led = false;
                if has_work {
                    self.0.work.notify_one();
                }
            }
        }
    }
}

impl Way for Shared {
    fn kick(&self) {
        let mut line = self.line.lock();
        line.is_kicked = true;
        if !line.is_led {
            self.work.notify_one();
        }
    }

    fn drive(&self) {
        let mut line = self.line.lock();
        if line.has_ended {
            return;
        }
        if std::mem::replace(&mut line.is_led, true) {
            line.is_kicked = true;
            return;
        }
        drop(line);
        self.lead();
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write as _};
    use std::net::{TcpListener, TcpStream};
    use std::sync::mpsc::{Receiver, channel};
    use std::time::Duration;

    use super::super::answer::{BUSY, Trouble};
    use super::super::receipt::Proven;
    use super::*;
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
}
