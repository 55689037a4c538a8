//! The page for operators, over HTTP: who may use it, what it shows, what it changes.

use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use cloakroom::live::LiveOptions;
use cloakroom::{SessionSource, SessionStore};
use rustix::process::{Pid, Signal, kill_process};

use super::*;
use crate::callbacks::within;
use crate::common::{assert_sound, open_yielded};

/// The page of a store, and a browser that has come in.
struct Page {
    program: Child,
    port: u16,
    token: String,
    cookie: String,
}

impl Drop for Page {
    fn drop(&mut self) {
        let _ = self.program.kill();
        let _ = self.program.wait();
    }
}

impl Page {
    /// Starts the program. Nobody has come in yet.
    fn start(db: &Path) -> Self {
        Self::started(Command::new(env!("CARGO_BIN_EXE_cloakroom")).args(["web", "--db"]).arg(db))
    }

    fn started(command: &mut Command) -> Self {
        let command = command.env("TZ", "UTC").env_remove("CLOAKROOM_LOG");
        let mut program = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(program.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let rest = line.trim_end().strip_prefix("http://127.0.0.1:").unwrap_or_else(|| panic!("{line}"));
        let (port, token) = rest.split_once("/login?token=").unwrap();
        Self { program, port: port.parse().unwrap(), token: token.to_owned(), cookie: String::new() }
    }

    fn open(db: &Path) -> Self {
        let mut page = Self::start(db);
        let answer = page.get(&format!("/login?token={}", page.token));
        assert_eq!(answer.status, 200, "{answer:?}");
        let cookie = answer.head.lines().find_map(|line| line.strip_prefix("set-cookie: ")).unwrap();
        page.cookie = cookie.split(';').next().unwrap().to_owned();
        page
    }

    fn ask(&self, method: &str, path: &str, headers: &str, body: &str) -> Answer {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nConnection: close\r\nContent-Length: {length}\r\nContent-Type: \
             application/x-www-form-urlencoded\r\n{headers}\r\n{body}"
        );
        stream.write_all(request.as_bytes()).unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        parse(&all)
    }

    fn host(&self) -> String {
        format!("Host: 127.0.0.1:{}\r\n", self.port)
    }

    /// What a browser that has come in sends.
    fn own(&self) -> String {
        format!("{}Cookie: {}\r\n", self.host(), self.cookie)
    }

    fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, &self.own(), "")
    }

    fn text(&self, path: &str) -> String {
        let answer = self.get(path);
        let text = String::from_utf8(answer.body).unwrap();
        assert_eq!(answer.status, 200, "{path}: {text}");
        text
    }

    /// Sends a form of the page.
    fn post(&self, path: &str, body: &str) -> Answer {
        self.ask("POST", path, &format!("{}Sec-Fetch-Site: same-origin\r\n", self.own()), body)
    }
}

/// The value of a hidden field.
fn field<'a>(text: &'a str, name: &str) -> &'a str {
    let rest = text.split(&format!("name=\"{name}\" value=\"")).nth(1).unwrap_or_else(|| panic!("{name}: {text}"));
    rest.split('"').next().unwrap()
}

#[test]
fn a_token_works_once_and_the_cookie_is_for_this_page_alone() {
    let seen = Seen::new(1);
    let page = Page::start(&seen.home.path());
    assert_eq!(page.token.len(), 64, "256 bits");
    for path in ["/", "/sessions", "/page.js", "/nothing", "/events/stream"] {
        let answer = page.ask("GET", path, &page.host(), "");
        assert_eq!(answer.status, 401, "{path}");
        assert!(String::from_utf8_lossy(&answer.body).contains("open the address"), "{answer:?}");
    }
    let wrong = page.token.replace(|c: char| c.is_ascii_digit(), "a");
    for token in ["", &wrong, &page.token[..63]] {
        assert_eq!(page.ask("GET", &format!("/login?token={token}"), &page.host(), "").status, 401);
    }
    let answer = page.ask("GET", &format!("/login?token={}", page.token), &page.host(), "");
    // A page that leads on, and no redirection: after one, a browser that came by a link would send no strict cookie.
    assert_eq!(answer.status, 200);
    assert!(
        String::from_utf8_lossy(&answer.body).contains("http-equiv=\"refresh\" content=\"0; url=/\""),
        "{answer:?}"
    );
    let cookie = answer.head.lines().find(|line| line.starts_with("set-cookie: ")).unwrap();
    for part in ["HttpOnly", "SameSite=Strict", "Path=/", &format!("cloakroom-{}=", page.port)] {
        assert!(cookie.contains(part), "{cookie}");
    }
    assert!(!cookie.contains(&page.token), "the secret of the address is not that of the cookie");
    let again = page.ask("GET", &format!("/login?token={}", page.token), &page.host(), "");
    assert_eq!(again.status, 401);
    // A browser that has lost its cookie has no use for that address.
    let lost = page.ask("GET", "/", &page.host(), "");
    let said = String::from_utf8_lossy(&lost.body).into_owned();
    assert!(lost.status == 401 && said.contains("start `cloakroom web` again") && !said.contains("open the"), "{said}");
    assert_eq!(page.ask("GET", "/", &format!("{}Cookie: cloakroom-{}=x\r\n", page.host(), page.port), "").status, 401);
}

/// A site that gives its own name our address is asked for by that name.
#[test]
fn another_host_is_refused() {
    let seen = Seen::new(1);
    let page = Page::open(&seen.home.path());
    let with = |host: &str| page.ask("GET", "/", &format!("Host: {host}\r\nCookie: {}\r\n", page.cookie), "").status;
    for name in ["127.0.0.1", "localhost", "[::1]"] {
        assert_eq!(with(&format!("{name}:{}", page.port)), 200, "{name}");
    }
    for host in [
        "evil.example".to_owned(),
        format!("evil.example:{}", page.port),
        "127.0.0.1".into(),
        "127.0.0.1:1".into(),
        format!("127.0.0.1.nip.io:{}", page.port),
    ] {
        assert_eq!(with(&host), 421, "{host}");
    }
}

#[test]
fn another_site_changes_nothing() {
    let seen = Seen::new(1);
    let page = Page::open(&seen.home.path());
    let path = format!("/session/{}/suspend", seen.handle(&key(0)));
    let own = format!("http://127.0.0.1:{}", page.port);
    for headers in [
        String::new(),
        "Sec-Fetch-Site: cross-site\r\n".into(),
        "Sec-Fetch-Site: same-site\r\n".into(),
        "Sec-Fetch-Site: none\r\n".into(),
        "Origin: http://evil.example\r\n".into(),
        "Origin: null\r\n".into(),
        format!("Sec-Fetch-Site: cross-site\r\nOrigin: {own}\r\n"),
    ] {
        let answer = page.ask("POST", &path, &format!("{}{headers}", page.own()), "");
        assert_eq!(answer.status, 403, "{headers}");
    }
    assert!(!seen.store.get(&key(0)).unwrap().unwrap().suspended);
    // What another site embeds or reads is none of its business either; whoever follows a link may come.
    for site in ["cross-site", "same-site"] {
        for (mode, status) in [("no-cors", 403), ("cors", 403), ("navigate", 200)] {
            let headers = format!("{}Sec-Fetch-Site: {site}\r\nSec-Fetch-Mode: {mode}\r\n", page.own());
            assert_eq!(page.ask("GET", "/prune", &headers, "").status, status, "{site} {mode}");
        }
    }
    // A look changes nothing, whatever its path.
    assert_eq!(page.get(&path).status, 405);
    assert_eq!(page.ask("POST", &path, &format!("{}Origin: {own}\r\n", page.own()), "").status, 303);
    assert!(seen.store.get(&key(0)).unwrap().unwrap().suspended);
}

#[test]
fn every_answer_tells_the_browser_to_keep_and_run_nothing() {
    let seen = Seen::new(1);
    let page = Page::open(&seen.home.path());
    for path in ["/", "/sessions", "/prune", "/events", "/page.css", "/page.js", "/nothing", "/login"] {
        let head = page.get(path).head.to_lowercase();
        for header in [
            "content-security-policy: default-src 'none';",
            "frame-ancestors 'none'",
            "form-action 'self'",
            "cache-control: no-store",
            "referrer-policy: no-referrer",
            "x-content-type-options: nosniff",
            "x-frame-options: deny",
            "cross-origin-resource-policy: same-origin",
            "cross-origin-opener-policy: same-origin",
        ] {
            assert!(head.contains(header), "{path}: {header} is not in {head}");
        }
        assert!(!head.contains("access-control-allow"), "{path}");
        assert!(!head.contains("unsafe-inline"), "{path}");
    }
    for path in ["/", "/sessions", "/prune", "/events"] {
        let text = page.text(path);
        assert!(!text.contains("style=\"") && !text.contains("onclick") && !text.contains("<style"), "{path}");
        assert_eq!(text.matches("<script").count(), text.matches("<script src=\"/page.js\"").count(), "{path}");
    }
}

/// Anybody on this machine can connect; whoever has not come in keeps nobody out.
#[test]
fn connections_that_say_nothing_yield_to_newer_ones() {
    let seen = Seen::new(1);
    let page = Page::open(&seen.home.path());
    within("answers", move || {
        let mut stream = TcpStream::connect(("127.0.0.1", page.port)).unwrap();
        write!(stream, "GET /events/stream HTTP/1.1\r\n{}\r\n", page.own()).unwrap();
        let mut lines = BufReader::new(stream).lines();
        while !lines.next().unwrap().unwrap().starts_with(": here") {}
        let mut silent = Vec::new();
        for n in 0..300 {
            let mut stream = TcpStream::connect(("127.0.0.1", page.port)).unwrap();
            if n % 2 == 1 {
                let _ = stream.write_all(b"GET / HTTP/1.1\r\nHo");
            }
            silent.push(stream);
        }
        assert_eq!(page.get("/").status, 200);
        // The stream of the browser that has come in is there still.
        seen.store.suspend(&key(0)).unwrap().unwrap();
        while !lines.next().unwrap().unwrap().contains("suspended") {}
    });
}

#[test]
fn streams_of_events_leave_room_for_pages() {
    let seen = Seen::new(1);
    let page = Page::open(&seen.home.path());
    within("answers", move || {
        let streams: Vec<_> = (0..8)
            .map(|_| {
                let mut stream = TcpStream::connect(("127.0.0.1", page.port)).unwrap();
                write!(stream, "GET /events/stream HTTP/1.1\r\n{}\r\n", page.own()).unwrap();
                let mut head = [0; 12];
                stream.read_exact(&mut head).unwrap();
                assert_eq!(&head, b"HTTP/1.1 200");
                stream
            })
            .collect();
        assert_eq!(page.get("/events/stream").status, 503);
        assert_eq!(page.get("/").status, 200);
        drop(streams);
    });
}

/// The arguments of a program are there for all to read.
#[test]
fn the_browser_is_given_no_token_in_its_arguments() {
    let seen = Seen::new(1);
    let dir = tempfile::tempdir().unwrap();
    let (script, told) = (dir.path().join("xdg-open"), dir.path().join("told"));
    let text = format!(
        "#!/bin/sh\nstat -c %a \"$1\" > {0}.new\necho \"$1\" >> {0}.new\ncat \"$1\" >> {0}.new\nmv {0}.new {0}\n",
        told.display()
    );
    std::fs::write(&script, text).unwrap();
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", dir.path().display(), std::env::var("PATH").unwrap());
    let page = Page::started(
        Command::new(env!("CARGO_BIN_EXE_cloakroom"))
            .args(["web", "--open", "--db"])
            .arg(seen.home.path())
            .env("PATH", path),
    );
    within("the browser", {
        let told = told.clone();
        move || {
            while !told.exists() {
                std::thread::yield_now();
            }
        }
    });
    let told = std::fs::read_to_string(told).unwrap();
    let mut lines = told.lines();
    assert_eq!(lines.next(), Some("600"));
    let argument = lines.next().unwrap();
    assert!(argument.ends_with(".html") && !argument.contains(&page.token), "{argument}");
    assert!(told.contains(&format!("http://127.0.0.1:{}/login?token={}", page.port, page.token)), "{told}");
}

#[test]
fn without_a_browser_the_address_is_good_all_the_same() {
    let seen = Seen::new(1);
    let nothing = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_cloakroom"));
    let command = command.args(["web", "--open", "--db"]).arg(seen.home.path()).env("PATH", nothing.path());
    let mut page = Page::started(command);
    let answer = page.ask("GET", &format!("/login?token={}", page.token), &page.host(), "");
    assert_eq!(answer.status, 200, "{answer:?}");
    let _ = page.program.kill();
    let mut said = String::new();
    page.program.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(said.contains("could not run xdg-open") && said.contains("open the address yourself"), "{said}");
}

/// Whether it has the store itself, or asks a gateway; and a store that it has is closed.
#[test]
fn it_ends_with_ctrl_c_by_the_system_and_when_nobody_asks() {
    let seen = Seen::new(1);
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        let mut page = Page::open(&seen.home.path());
        kill_process(Pid::from_child(&page.program), signal).unwrap();
        assert!(page.program.wait().unwrap().success(), "{signal:?}");
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_cloakroom"));
    let mut page = Page::started(command.args(["web", "--idle", "50ms", "--db"]).arg(seen.home.path()));
    let ended = within("its end", move || page.program.wait().unwrap());
    assert!(ended.success());
    let Seen { home, store, live } = seen;
    live.close();
    store.close().unwrap();
    drop(store);
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        let mut page = Page::open(&home.path());
        kill_process(Pid::from_child(&page.program), signal).unwrap();
        assert!(page.program.wait().unwrap().success(), "{signal:?}");
        let mut said = String::new();
        page.program.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        assert_eq!(said, "", "{signal:?}");
        let store = home.open();
        assert!(store.open_report().clean, "{signal:?}");
        store.close().unwrap();
    }
}

#[test]
fn it_listens_on_this_machine_only() {
    let seen = Seen::new(0);
    for address in ["0.0.0.0:0", "[::]:0", "192.0.2.1:80"] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cloakroom"));
        let output = command.args(["web", "--listen", address, "--db"]).arg(seen.home.path()).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{address}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("can be reached from elsewhere"), "{output:?}");
    }
}

/// Names and keys come from strangers.
#[test]
fn hostile_names_stay_text_and_keys_are_hidden_until_they_are_revealed() {
    let home = Home::new();
    let store = home.open();
    let hostile = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>&amp;\u{202e}";
    let source = SessionSource {
        platform: "dis<b>cord".into(),
        chat_type: "gr\"oup".into(),
        chat_id: Some("<i>secret-chat</i>".into()),
        chat_name: Some(hostile.into()),
        user_id: Some("u'1".into()),
        ..SessionSource::default()
    };
    let key = store.resolve(&source).unwrap().entry.key;
    let mut metadata = serde_json::Map::new();
    metadata.insert("<u>name</u>".into(), hostile.into());
    store.set_metadata(&key, &metadata).unwrap().unwrap();
    store.set_extra(&key, "<u>extra</u>", &hostile.into()).unwrap().unwrap();
    let _ = store.mark_resume_pending(&key, hostile).unwrap();
    let far = cloakroom::time::Clock::now(&home.clock).saturating_add(1000 * DAY);
    store.hold_until(&key, "<b>lease</b>", far).unwrap().unwrap().wait().unwrap();
    let live = Live::serve(&store, LiveOptions::new().guard(|_: &SessionKey| false)).unwrap();
    let seen = Seen { home, store, live };
    seen.home.clock.advance(100 * DAY);
    let page = Page::open(&seen.home.path());
    let one = format!("/session/{}", seen.handle(&key));
    let bulk = "/bulk?q=%3Cscript%3E&platform=%22%3E%3Ci%3E";
    for path in ["/", "/sessions", "/sessions?q=%3Cscript%3E", bulk, &one, "/prune", "/prune?days=90"] {
        let text = page.text(path);
        for bad in ["<script>", "<img src=x", "<b>", "<i>", "<u>", "onerror=alert(2)>"] {
            assert!(!text.contains(bad), "{path}: {bad} in {text}");
        }
        assert!(!text.contains("secret-chat"), "{path} shows the key");
    }
    let shown = page.text(&one);
    for good in ["&lt;script&gt;alert(1)&lt;/script&gt;", "&lt;b&gt;lease&lt;/b&gt;", "&lt;u&gt;extra&lt;/u&gt;"] {
        assert!(shown.contains(good), "{good} is not in {shown}");
    }
    for path in ["/sessions?reveal=1", &format!("{one}?reveal=1")] {
        let text = page.text(path);
        assert!(text.contains("&lt;i&gt;secret-chat&lt;/i&gt;") && !text.contains("<i>secret"), "{path}");
    }
    // What goes wrong is escaped, too.
    let failed = page.get("/sessions?cursor=%3Cscript%3E");
    assert_eq!(failed.status, 400);
    assert!(!String::from_utf8(failed.body).unwrap().contains("<script>"));
}

#[test]
fn sessions_are_filtered_paged_and_changed() {
    let seen = Seen::new(120);
    let page = Page::open(&seen.home.path());
    let first = page.text("/sessions");
    assert_eq!(first.matches("href=\"/session/").count(), 50);
    assert!(first.contains("120 in the store") && first.contains("discord <small>120</small>"), "{first}");
    let next = first.split("rel=\"next\" href=\"").nth(1).unwrap().split('"').next().unwrap().replace("&amp;", "&");
    assert_eq!(page.text(&next).matches("href=\"/session/").count(), 50);
    assert_eq!(page.text("/sessions?q=:c11:").matches("href=\"/session/").count(), 1);

    // One, by a button; and not if it has changed since.
    let path = format!("/session/{}", seen.handle(&key(7)));
    let shown = page.text(&path);
    let revision = field(&shown, "revision").to_owned();
    assert_eq!(page.post(&format!("{path}/suspend"), &format!("revision={revision}")).status, 303);
    assert!(seen.store.get(&key(7)).unwrap().unwrap().suspended);
    assert!(page.text(&path).contains("Unsuspend"));
    let late = page.post(&format!("{path}/remove"), &format!("revision={revision}"));
    assert_eq!(late.status, 412);
    assert!(String::from_utf8(late.body).unwrap().contains("Somebody was faster"));
    assert!(seen.store.contains(&key(7)).unwrap());

    // From the list, back to where it was; but to no other place.
    let own = "/sessions?q=:c8:";
    assert!(page.text(own).contains("name=\"back\" value=\"/sessions?q=%3Ac8%3A\""));
    for (back, target) in [
        ("/sessions%3Fq%3D%253Ac8", "/sessions?q=%3Ac8"),
        ("https%3A%2F%2Fevil.example", ""),
        ("%2F%2Fevil.example", ""),
        ("/sessions%0d%0aX: 1", ""),
    ] {
        let one = format!("/session/{}", seen.handle(&key(8)));
        let revision = field(&page.text(&one), "revision").to_owned();
        let answer = page.post(&format!("{one}/pin"), &format!("revision={revision}&back={back}"));
        let target = if target.is_empty() { one.as_str() } else { target };
        assert!(
            answer.status == 303 && answer.head.lines().any(|line| line == format!("location: {target}")),
            "{answer:?}"
        );
    }

    // Many: the number that was seen is that which is changed, and a large one has to be typed.
    let confirm = page.text("/bulk?q=:c1");
    let found = field(&confirm, "expected").to_owned();
    assert_eq!((found.as_str(), confirm.contains("name=\"typed\"")), ("31", false));
    seen.store.remove(&key(1)).unwrap().unwrap();
    let answer = page.post("/bulk", &format!("q=:c1&verb=pin&expected={found}"));
    assert!(String::from_utf8(answer.body).unwrap().contains("done 30"));
    let confirm = page.text("/bulk");
    assert!(confirm.contains("name=\"typed\"") && confirm.contains("every entry of the store"), "{confirm}");
    for typed in ["", "&typed=12"] {
        let answer = page.post("/bulk", &format!("verb=remove&expected=119{typed}"));
        assert!(String::from_utf8(answer.body).unwrap().contains("nothing was changed"));
    }
    assert_eq!(seen.store.len(), 119);
    let answer = page.post("/bulk", "q=u3&verb=remove&expected=0");
    assert_eq!(answer.status, 409);
    page.post("/bulk", "verb=remove&expected=119&typed=119");
    assert_eq!(seen.store.len(), 0);
    assert_sound(&seen.store);
}

#[test]
fn pruning_is_looked_at_and_then_run() {
    let seen = Seen::new(110);
    seen.store.suspend(&key(3)).unwrap().unwrap();
    seen.store.update(&key(6), |details| details.display_name = Some("Six <6>".into())).unwrap().unwrap();
    seen.home.clock.advance(100 * DAY);
    seen.store.touch(&key(5)).unwrap().unwrap();
    let page = Page::open(&seen.home.path());
    let shown = page.text("/prune?days=90");
    assert!(shown.contains("<strong>108</strong> of 110 entries would go") && shown.contains("suspended"), "{shown}");
    assert!(shown.contains("That is more than half") && shown.contains("class=\"cutoff\""), "{shown}");
    // Each list says that it is not all, and names what it can.
    assert!(shown.contains("The first 100 of 108.") && shown.matches("The first").count() == 1, "{shown}");
    assert!(shown.contains(">Six &lt;6&gt;</a>"), "{shown}");
    // The cutoff stands between two bars, wherever it lies.
    let other = page.text("/prune?days=45");
    let (above, below) = other.split_once("class=\"cutoff\"").unwrap();
    assert!(
        above.contains("up to 45 d<") && !above.contains("up to 60 d<") && below.contains("up to 60 d<"),
        "{other}"
    );
    let (plan, expected) = (field(&shown, "plan").to_owned(), field(&shown, "expected").to_owned());
    let refused = page.post("/prune", &format!("plan={plan}&expected={expected}&typed=1"));
    assert!(String::from_utf8(refused.body).unwrap().contains("nothing was removed"));
    assert_eq!(seen.store.len(), 110);
    let done = page.post("/prune", &format!("plan={plan}&expected={expected}&typed=108"));
    assert!(String::from_utf8(done.body).unwrap().contains("Removed 108"));
    assert_eq!(seen.store.len(), 2);
    assert_eq!(page.post("/prune", &format!("plan={plan}&expected=1")).status, 409);
    assert!(page.text("/prune?days=100000").contains("<strong>0</strong> of 2"));
}

#[test]
fn the_overview_has_its_figures_and_its_banners() {
    let seen = Seen::with(3, LiveOptions::new().read_only(true));
    let page = Page::open(&seen.home.path());
    let text = page.text("/");
    for part in [
        "Entries",
        "Touches per second",
        ">p99 ",
        "Durable lag",
        "On disk",
        "<polyline",
        "changes nothing",
        "no watcher",
    ] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    assert!(
        text.contains("lang=\"en\"") && text.contains("Skip to the content") && text.contains("aria-current=\"page\"")
    );
}

#[test]
fn a_store_that_takes_no_changes_has_a_banner_and_so_has_one_that_lost_entries() {
    let home = Home::new();
    let clock = super::reliability::BadClock::default();
    let store = SessionStore::open(home.options().clock(clock.clone())).unwrap();
    store.resolve(&source(0)).unwrap();
    store.flush().unwrap();
    let live = Live::serve(&store, LiveOptions::new()).unwrap();
    let page = Page::open(&home.path());
    assert!(!page.text("/").contains("role=\"alert\""));
    clock.0.store(1, std::sync::atomic::Ordering::SeqCst);
    assert!(store.touch(&key(0)).unwrap().unwrap().wait().is_err() || store.flush().is_err());
    let text = page.text("/");
    assert!(text.contains("role=\"alert\"") && text.contains("The store takes no changes."), "{text}");
    drop((live, store));

    let home = Home::new();
    let store = home.open();
    store.resolve(&source(0)).unwrap();
    store.close().unwrap();
    drop(store);
    let (sled, before) = (home.path().join("sled"), home.path().with_extension("before"));
    crate::rig::copy_tree(&sled, &before).unwrap();
    let store = home.open();
    store.resolve(&source(1)).unwrap().receipt.wait().unwrap();
    store.close().unwrap();
    drop(store);
    std::fs::remove_dir_all(&sled).unwrap();
    crate::rig::copy_tree(&before, &sled).unwrap();
    let store = home.open();
    let live = Live::serve(&store, LiveOptions::new()).unwrap();
    let text = Page::open(&home.path()).text("/");
    assert!(
        text.contains("Something damaged the files of the store.")
            && text.contains("There were 2 entries, and 1 were found"),
        "{text}"
    );
    drop((live, store));
}

#[test]
fn events_come_with_their_keys_hidden() {
    let seen = Seen::new(1);
    let page = Page::open(&seen.home.path());
    within("an event", move || {
        let mut stream = TcpStream::connect(("127.0.0.1", page.port)).unwrap();
        write!(stream, "GET /events/stream HTTP/1.1\r\n{}\r\n", page.own()).unwrap();
        let mut lines = BufReader::new(stream).lines();
        while !lines.next().unwrap().unwrap().starts_with(": here") {}
        seen.store.suspend(&key(0)).unwrap().unwrap();
        let data = loop {
            let line = lines.next().unwrap().unwrap();
            if let Some(data) = line.strip_prefix("data: ") {
                break data.to_owned();
            }
        };
        assert!(data.contains("suspended") && data.contains("discord:group:#") && !data.contains("group:c0"), "{data}");
        assert!(data.contains(&seen.handle(&key(0))), "{data}");
    });
}

/// Without a gateway it serves the store itself, and yields it to one. What it changes is logged, with the key redacted.
#[test]
fn it_opens_a_store_that_nobody_has_and_yields_it() {
    let home = Home::new();
    let store = home.open();
    store.resolve(&source(0)).unwrap();
    store.close().unwrap();
    drop(store);
    let mut page = Page::open(&home.path());
    let preview = page.text("/prune?days=90");
    assert!(preview.contains("Nobody tells what is at work"), "{preview}");
    let list = page.text("/sessions");
    let path = list.split("href=\"/session/").nth(1).unwrap().split('"').next().unwrap();
    let shown = page.text(&format!("/session/{path}"));
    let revision = field(&shown, "revision");
    assert_eq!(page.post(&format!("/session/{path}/suspend"), &format!("revision={revision}")).status, 303);
    let store = open_yielded(&home.options());
    assert!(store.get(&key(0)).unwrap().unwrap().suspended);
    let mut said = String::new();
    page.program.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(said.contains("a gateway has opened the store"), "{said}");
    assert!(said.contains("changed through the live view") && said.contains("discord:group:#"), "{said}");
    assert!(!said.contains(key(0).as_str()), "{said}");
}

/// A gateway that has gone is told, and the page says so rather than show nothing.
#[test]
fn a_gateway_that_ended_is_told() {
    let Seen { home, store, live } = Seen::new(1);
    let page = Page::open(&home.path());
    live.close();
    let answer = page.get("/");
    assert_eq!(answer.status, 502);
    assert!(String::from_utf8(answer.body).unwrap().contains("Is the gateway still running?"));
    drop(store);
}
