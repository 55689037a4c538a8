//! Stands between a store and a node, or two nodes. It loses an answer, or cuts somebody off, when it is told to.

use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

/// What becomes of connections.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Rule {
    Pass,
    /// The answer to the next request that holds these bytes is lost, and so is its connection. Are new ones let through?
    Lose(String, bool),
    /// The next request that holds these bytes is not delivered, its connection is lost, and no new one is let through.
    Break(String),
    /// The next request that holds these bytes waits here.
    Withhold(String),
    /// It is delivered now, whoever hears its answer.
    Deliver,
    /// Connections that there are go on, and no new one is let through.
    Closed,
    /// Requests that hold these bytes, and what comes after them, are not delivered.
    Swallow(String),
}

pub struct Proxy {
    pub port: u16,
    shared: Arc<Shared>,
}

struct Shared {
    target: String,
    rule: Mutex<Rule>,
    changed: Condvar,
    /// How many requests were swallowed, and how many connections are silent since.
    swallowed: Mutex<(usize, usize)>,
    /// The hosts that are cut off.
    cut: Mutex<Vec<IpAddr>>,
    /// From which host each connection is, and both of its ends.
    open: Mutex<Vec<(IpAddr, TcpStream, TcpStream)>>,
}

impl Proxy {
    /// One that leads to a port of the loopback, which may be opened later.
    pub fn new(target: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let target = format!("127.0.0.1:{target}");
        let shared = Shared {
            target,
            rule: Mutex::new(Rule::Pass),
            changed: Condvar::new(),
            swallowed: Mutex::default(),
            cut: Mutex::default(),
            open: Mutex::default(),
        };
        let shared = Arc::new(shared);
        thread::spawn({
            let shared = Arc::downgrade(&shared);
            move || {
                for client in listener.incoming().map_while(Result::ok) {
                    let Some(shared) = shared.upgrade() else { return };
                    if *shared.rule.lock().unwrap() != Rule::Closed {
                        shared.join(&client);
                    }
                }
            }
        });
        Self { port, shared }
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Loses the answer to the next request that holds these bytes. With `closes` no new connection comes through from then
    /// on, until [`open`](Self::open).
    pub fn lose_answer_to(&self, bytes: &str, closes: bool) {
        self.set(Rule::Lose(bytes.to_owned(), closes));
    }

    /// Does not deliver the next request that holds these bytes, and breaks its connection. No new one comes through until
    /// [`open`](Self::open).
    pub fn break_before(&self, bytes: &str) {
        self.set(Rule::Break(bytes.to_owned()));
    }

    /// Withholds the next request that holds these bytes until [`deliver`](Self::deliver).
    pub fn withhold(&self, bytes: &str) {
        self.set(Rule::Withhold(bytes.to_owned()));
    }

    /// Delivers what was withheld, and waits until it is answered.
    pub fn deliver(&self) {
        self.set(Rule::Deliver);
        self.shared.changed.notify_all();
        let rule = self.shared.rule.lock().unwrap();
        let is_under_way = |rule: &mut Rule| *rule != Rule::Pass;
        let (_rule, waited) =
            self.shared.changed.wait_timeout_while(rule, Duration::from_secs(20), is_under_way).unwrap();
        assert!(!waited.timed_out(), "nothing was withheld, or it has no answer");
    }

    /// Delivers no request that holds these bytes, and nothing after it on its connection.
    pub fn swallow(&self, bytes: &str) {
        self.set(Rule::Swallow(bytes.to_owned()));
    }

    /// How many requests were swallowed, and of how many connections.
    pub fn swallowed(&self) -> (usize, usize) {
        *self.shared.swallowed.lock().unwrap()
    }

    /// Cuts off these hosts, and no others: what they have open ends, and nothing new is let through.
    pub fn cut(&self, hosts: &[IpAddr]) {
        *self.shared.cut.lock().unwrap() = hosts.to_vec();
        self.shared.open.lock().unwrap().retain(|(from, client, server)| {
            let stays = !hosts.contains(from);
            if !stays {
                let _ = client.shutdown(Shutdown::Both);
                let _ = server.shutdown(Shutdown::Both);
            }
            stays
        });
    }

    pub fn open(&self) {
        self.set(Rule::Pass);
    }

    fn set(&self, rule: Rule) {
        *self.shared.rule.lock().unwrap() = rule;
    }

    /// Waits until an answer was lost, or a request was not delivered.
    pub fn wait_until_lost(&self) {
        let rule = self.shared.rule.lock().unwrap();
        let is_armed = |rule: &mut Rule| matches!(rule, Rule::Lose(..) | Rule::Break(_));
        let (_rule, waited) = self.shared.changed.wait_timeout_while(rule, Duration::from_secs(20), is_armed).unwrap();
        assert!(!waited.timed_out(), "no such request came");
    }

    /// Runs a verb whose first attempt is lost, by a rule that is set already, and something before the second one.
    pub fn between_attempts<T: Send>(&self, verb: &(dyn Fn() -> T + Sync), between: &dyn Fn()) -> T {
        thread::scope(|scope| {
            let waiting = scope.spawn(verb);
            self.wait_until_lost();
            between();
            self.open();
            waiting.join().unwrap()
        })
    }

    /// Whether all goes through, or has been withheld that was to be.
    pub fn is_open(&self) -> bool {
        *self.shared.rule.lock().unwrap() == Rule::Pass
    }

    pub fn has_lost(&self) -> bool {
        !matches!(*self.shared.rule.lock().unwrap(), Rule::Lose(..))
    }
}

impl Shared {
    fn join(self: &Arc<Self>, client: &TcpStream) {
        let Ok(from) = client.peer_addr().map(|address| address.ip()) else { return };
        let Ok(server) = TcpStream::connect(&self.target) else { return };
        // Until it is among those that are open nobody else may cut it off.
        let cut = self.cut.lock().unwrap();
        if cut.contains(&from) {
            return;
        }
        let loses = Arc::new(Mutex::new(false));
        let copy = |stream: &TcpStream| stream.try_clone().unwrap();
        self.open.lock().unwrap().push((from, copy(client), copy(&server)));
        drop(cut);
        thread::spawn({
            let (this, loses) = (Arc::clone(self), Arc::clone(&loses));
            let (client, server) = (copy(client), copy(&server));
            move || this.forth(client, server, &loses)
        });
        thread::spawn({
            let (this, client) = (Arc::clone(self), copy(client));
            move || this.back(server, client, &loses)
        });
    }

    fn forth(&self, mut client: TcpStream, mut server: TcpStream, loses: &Mutex<bool>) {
        let (mut buffer, mut is_silent) = (vec![0; 1 << 16], false);
        while let Ok(length @ 1..) = client.read(&mut buffer) {
            let request = &buffer[..length];
            if let Rule::Swallow(bytes) = &*self.rule.lock().unwrap() {
                let found = request.windows(bytes.len()).filter(|window| *window == bytes.as_bytes()).count();
                let mut swallowed = self.swallowed.lock().unwrap();
                swallowed.0 += found;
                if found > 0 && !std::mem::replace(&mut is_silent, true) {
                    swallowed.1 += 1;
                }
            }
            if is_silent {
                continue;
            }
            {
                let mut rule = self.rule.lock().unwrap();
                if let Rule::Break(bytes) = &*rule
                    && request.windows(bytes.len()).any(|window| window == bytes.as_bytes())
                {
                    *rule = Rule::Closed;
                    self.changed.notify_all();
                    break;
                }
            }
            let mut rule = self.rule.lock().unwrap();
            if let Rule::Withhold(bytes) = &*rule
                && request.windows(bytes.len()).any(|window| window == bytes.as_bytes())
            {
                *rule = Rule::Pass;
                let rule = self.changed.wait_while(rule, |rule| *rule != Rule::Deliver).unwrap();
                *loses.lock().unwrap() = true;
                let _ = server.write_all(request);
                // Its client is gone, and its connection ends when it is answered.
                let _rule = self.changed.wait_while(rule, |rule| *rule == Rule::Deliver).unwrap();
                break;
            }
            drop(rule);
            if let Rule::Lose(bytes, _) = &*self.rule.lock().unwrap()
                && request.windows(bytes.len()).any(|window| window == bytes.as_bytes())
            {
                *loses.lock().unwrap() = true;
            }
            if server.write_all(request).is_err() {
                break;
            }
        }
        let _ = server.shutdown(Shutdown::Both);
        let _ = client.shutdown(Shutdown::Both);
    }

    fn back(&self, mut server: TcpStream, mut client: TcpStream, loses: &Mutex<bool>) {
        let mut buffer = vec![0; 1 << 16];
        while let Ok(length @ 1..) = server.read(&mut buffer) {
            if *loses.lock().unwrap() {
                let mut rule = self.rule.lock().unwrap();
                let closes = matches!(*rule, Rule::Lose(_, true));
                *rule = if closes { Rule::Closed } else { Rule::Pass };
                self.changed.notify_all();
                break;
            }
            if client.write_all(&buffer[..length]).is_err() {
                break;
            }
        }
        let _ = server.shutdown(Shutdown::Both);
        let _ = client.shutdown(Shutdown::Both);
    }
}
