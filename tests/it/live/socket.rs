//! The socket: who may use it, where it is, and when it goes.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;

use cloakroom::live::{AskError, Client, LiveOptions};
use cloakroom::{Error, Options, SessionStore};

use super::*;
use crate::callbacks::within;
use crate::common::{fast_dir, open_yielded, options};

fn names(directory: &std::path::Path) -> Vec<String> {
    let names = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with("live")).collect()
}

#[test]
fn only_its_owner_may_use_it_and_it_goes_with_the_view() {
    let seen = Seen::new(1);
    let meta = fs::symlink_metadata(seen.socket()).unwrap();
    assert!(meta.file_type().is_socket());
    assert_eq!(meta.mode() & 0o777, 0o600);
    assert_eq!(fs::metadata(seen.home.path()).unwrap().mode() & 0o777, 0o700);
    assert_eq!(names(&seen.home.path()), ["live.sock"]);
    assert_eq!(seen.live.socket(), seen.socket());
    let Seen { home, store, live } = seen;
    live.close();
    assert_eq!(names(&home.path()), Vec::<String>::new());
    drop(store);
}

/// It has its mode before it has its name: whoever watches the directory never sees another.
#[test]
fn it_has_no_other_mode_at_any_moment() {
    let home = Home::new();
    let store = home.open();
    let socket = home.path().join("live.sock");
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let (watched, ended) = (socket.clone(), std::sync::Arc::clone(&stop));
    let watcher = std::thread::spawn(move || {
        let mut seen = std::collections::BTreeSet::new();
        while !ended.load(std::sync::atomic::Ordering::SeqCst) {
            seen.extend(fs::symlink_metadata(&watched).ok().map(|meta| meta.permissions().mode() & 0o777));
        }
        seen
    });
    for _ in 0..20 {
        Live::serve(&store, LiveOptions::new()).unwrap().close();
    }
    let live = Live::serve(&store, LiveOptions::new()).unwrap();
    stop.store(true, std::sync::atomic::Ordering::SeqCst);
    assert!(watcher.join().unwrap().into_iter().all(|mode| mode == 0o600));
    drop(live);
}

#[test]
fn a_store_has_one_view() {
    let seen = Seen::new(1);
    let again = Live::serve(&seen.store, LiveOptions::new()).unwrap_err();
    assert!(matches!(&again, Error::Served { path } if *path == seen.home.path()), "{again:?}");
    assert_eq!(again.kind(), "served");
    assert_eq!(seen.get("/v1/store").status, 200);
    let Seen { home, store, live } = seen;
    live.close();
    let live = Live::serve(&store, LiveOptions::new()).unwrap();
    let seen = Seen { home, store, live };
    assert_eq!(seen.get("/v1/store").status, 200);
}

#[test]
fn a_dead_socket_is_swept_by_the_next_opening() {
    let dir = fast_dir();
    let db = dir.path().join("sessions.db");
    drop(SessionStore::open(options(&db)).unwrap());
    // As a process that was killed leaves them.
    drop(UnixListener::bind(db.join("live.sock")).unwrap());
    let elsewhere = dir.path().join("elsewhere.sock");
    drop(UnixListener::bind(&elsewhere).unwrap());
    fs::write(db.join("live.sock.path"), elsewhere.as_os_str().as_encoded_bytes()).unwrap();
    fs::create_dir(db.join("live.new-0123456789abcdef")).unwrap();
    drop(UnixListener::bind(db.join("live.new-0123456789abcdef/s")).unwrap());
    assert!(matches!(Client::of_store(&db), Err(AskError::NotServed { .. })));
    let store = SessionStore::open(options(&db)).unwrap();
    assert_eq!(names(&db), Vec::<String>::new());
    assert!(!elsewhere.exists());
    drop(store);
    // What the pointer names is removed only if it is a socket.
    let precious = dir.path().join("precious");
    fs::write(&precious, "x").unwrap();
    fs::write(db.join("live.sock.path"), precious.as_os_str().as_encoded_bytes()).unwrap();
    drop(SessionStore::open(options(&db)).unwrap());
    assert!(precious.exists() && names(&db).is_empty());
}

/// A directory that has nothing but a dead socket is as good as an empty one.
#[test]
fn a_dead_socket_is_no_reason_to_refuse_a_directory() {
    let dir = fast_dir();
    let db = dir.path().join("sessions.db");
    fs::create_dir(&db).unwrap();
    drop(UnixListener::bind(db.join("live.sock")).unwrap());
    SessionStore::open(options(&db)).unwrap().close().unwrap();
}

#[test]
fn a_long_path_has_a_pointer() {
    let dir = fast_dir();
    let long = dir.path().join("a".repeat(100));
    fs::create_dir(&long).unwrap();
    let (db, runtime) = (long.join("sessions.db"), dir.path().join("run"));
    let store = SessionStore::open(options(&db)).unwrap();
    let live = Live::serve(&store, LiveOptions::new().runtime_dir(&runtime)).unwrap();
    assert_eq!(live.socket().parent(), Some(runtime.as_path()));
    assert_eq!(names(&db), ["live.sock.path"]);
    assert_eq!(fs::metadata(db.join("live.sock.path")).unwrap().mode() & 0o777, 0o600);
    assert_eq!(fs::symlink_metadata(live.socket()).unwrap().mode() & 0o777, 0o600);
    let client = Client::of_store(&db).unwrap();
    assert_eq!(client.get::<Value>("/v1/store").unwrap()["pid"], std::process::id());
    let socket = live.socket().to_path_buf();
    live.close();
    assert!(names(&db).is_empty() && !socket.exists());
    // One that others can write to is refused, and so is a link.
    fs::set_permissions(&runtime, fs::Permissions::from_mode(0o777)).unwrap();
    let refused = Live::serve(&store, LiveOptions::new().runtime_dir(&runtime)).unwrap_err();
    assert!(matches!(&refused, Error::Exposed { path, .. } if *path == runtime), "{refused:?}");
    fs::set_permissions(&runtime, fs::Permissions::from_mode(0o700)).unwrap();
    symlink(&runtime, dir.path().join("link")).unwrap();
    let refused = Live::serve(&store, LiveOptions::new().runtime_dir(dir.path().join("link"))).unwrap_err();
    assert!(matches!(refused, Error::Exposed { .. }), "{refused:?}");
    Live::serve(&store, LiveOptions::new().runtime_dir(&runtime)).unwrap().close();
}

/// Whatever of it somebody has removed.
#[test]
fn all_that_leads_to_a_view_is_made_anew() {
    let dir = fast_dir();
    let long = dir.path().join("a".repeat(100));
    fs::create_dir(&long).unwrap();
    let (db, runtime, monitor) = (long.join("sessions.db"), dir.path().join("run"), dir.path().join("monitor.sock"));
    let store = SessionStore::open(options(&db)).unwrap();
    let uid = rustix::process::geteuid().as_raw();
    let live = Live::serve(&store, LiveOptions::new().runtime_dir(&runtime).monitor(&monitor, uid)).unwrap();
    let socket = live.socket().to_path_buf();
    for removed in [&socket, &db.join("live.sock.path"), &monitor] {
        fs::remove_file(removed).unwrap();
        let (there, is_socket) = (removed.clone(), *removed != db.join("live.sock.path"));
        within("it is made anew", move || {
            while !there.exists() || is_socket && UnixStream::connect(&there).is_err() {
                std::thread::yield_now();
            }
        });
        let client = Client::of_store(&db).unwrap();
        assert_eq!(client.get::<Value>("/v1/store").unwrap()["pid"], std::process::id());
        let status = ask(&mut UnixStream::connect(&monitor).unwrap(), "GET", "/metrics", "", "").status;
        assert_eq!(status, 200, "{removed:?}");
    }
    // What another has put in the place of the monitoring socket is not ours to remove.
    fs::remove_file(&monitor).unwrap();
    fs::write(&monitor, "x").unwrap();
    live.close();
    assert!(monitor.exists() && !socket.exists() && names(&db).is_empty());
}

#[test]
fn a_monitoring_program_sees_the_figures_and_nothing_else() {
    let dir = fast_dir();
    let path = dir.path().join("monitor.sock");
    let uid = rustix::process::geteuid().as_raw();
    // Left by a process that was killed.
    drop(UnixListener::bind(&path).unwrap());
    let seen = Seen::with(1, LiveOptions::new().monitor(&path, uid));
    assert_eq!(fs::symlink_metadata(&path).unwrap().mode() & 0o777, 0o666);
    let get = |target: &str| ask(&mut UnixStream::connect(&path).unwrap(), "GET", target, "", "").status;
    assert_eq!((get("/metrics"), get("/v1/store")), (200, 200));
    for target in ["/v1/sessions", "/v1/openapi.json", "/v1/stats", "/v1/events", "/v1/export"] {
        assert_eq!(get(target), 404, "{target}");
    }
    drop(seen);
    assert!(!path.exists());
    // A pass that keeps an entry names it to the owner, and not to the other user.
    let home = Home::new();
    let store = home.open();
    store.resolve(&source(0)).unwrap();
    store.suspend(&key(0)).unwrap().unwrap();
    home.clock.advance(100 * DAY);
    let watcher = cloakroom::Watcher::spawn(&store, Default::default(), |_: &SessionKey| false).unwrap();
    // Its first pass is made at once.
    watcher.reports().recv().unwrap();
    let live = Live::serve(&store, LiveOptions::new().watcher(&watcher).monitor(&path, uid)).unwrap();
    let body = |socket: &std::path::Path| {
        let answer = ask(&mut UnixStream::connect(socket).unwrap(), "GET", "/v1/store", "", "");
        String::from_utf8(answer.body).unwrap()
    };
    assert!(body(live.socket()).contains(key(0).as_str()));
    assert!(body(&path).contains("\"kept_suspended\":1") && !body(&path).contains("agent:"), "{}", body(&path));
    live.close();
    watcher.stop();
    let home = Home::new();
    let store = home.open();
    let long = format!("/tmp/{}", "x".repeat(200));
    let refused = Live::serve(&store, LiveOptions::new().monitor(long, uid)).unwrap_err();
    assert!(matches!(refused, Error::Setting { .. }), "{refused:?}");
    // The place is free again.
    Live::serve(&store, LiveOptions::new()).unwrap().close();
}

/// Python as another user, where this one may start programs as others, and where that is there.
fn as_nobody(socket: &std::path::Path, target: &str) -> Option<String> {
    use std::os::unix::process::CommandExt;
    if rustix::process::geteuid().as_raw() != 0 {
        println!("left out: only root can be somebody else");
        return None;
    }
    let script = "import socket, sys\ns = socket.socket(socket.AF_UNIX)\ntry:\n    s.connect(sys.argv[1])\n    \
        s.sendall(('GET %s HTTP/1.1\\r\\nHost: live\\r\\nConnection: close\\r\\n\\r\\n' % sys.argv[2]).encode())\n    \
        print(s.recv(12).decode())\nexcept OSError as error:\n    print(type(error).__name__)";
    let mut command = std::process::Command::new("/usr/bin/python3");
    let command = command.arg("-c").arg(script).arg(socket).arg(target).current_dir("/").uid(65534).gid(65534);
    let Ok(output) = command.output() else {
        println!("left out: there is no Python that another user may run");
        return None;
    };
    Some(String::from_utf8(output.stdout).unwrap().trim().to_owned())
}

/// A socket that somebody else serves is no view of the store, whatever it answers.
#[test]
fn a_stranger_is_not_asked() {
    use std::os::unix::process::CommandExt;
    if rustix::process::geteuid().as_raw() != 0 {
        println!("left out: only root can be somebody else");
        return;
    }
    let (dir, other) = (fast_dir(), fast_dir());
    fs::set_permissions(other.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let (db, socket) = (dir.path().join("sessions.db"), other.path().join("s"));
    SessionStore::open(options(&db)).unwrap().close().unwrap();
    let script = "import socket, sys\ns = socket.socket(socket.AF_UNIX)\ns.bind(sys.argv[1])\ns.listen()\nprint('READY', flush=True)\nsys.stdin.read()";
    let mut command = std::process::Command::new("/usr/bin/python3");
    command.arg("-c").arg(script).arg(&socket).current_dir("/").uid(65534).gid(65534);
    let pipe = std::process::Stdio::piped;
    let Ok(mut stranger) = command.stdin(pipe()).stdout(pipe()).spawn() else { return };
    stranger.stdout.as_mut().unwrap().read_exact(&mut [0; 5]).unwrap();
    fs::write(db.join("live.sock.path"), socket.as_os_str().as_encoded_bytes()).unwrap();
    let refused = Client::of_store(&db).unwrap_err();
    assert!(matches!(refused, AskError::Stranger { uid: 65534, .. }), "{refused:?}");
    drop(stranger.stdin.take());
    stranger.wait().unwrap();
}

/// Another user reaches the socket of the store in no way, even where the directories let it; and its own if it is the one
/// that was named.
#[test]
fn another_user_is_let_in_to_its_own_socket_alone() {
    let dir = fast_dir();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    for (uid, answer) in [(65534, "HTTP/1.1 200"), (65533, "")] {
        let path = dir.path().join(format!("{uid}.sock"));
        let seen = Seen::with(1, LiveOptions::new().monitor(&path, uid));
        let Some(told) = as_nobody(&path, "/metrics") else { return };
        if told.is_empty() || told.ends_with("Error") {
            // Its connection was closed before it had said anything, or as it did.
            assert_eq!(answer, "", "{told}");
        } else {
            assert_eq!(told, answer);
        }
        assert_eq!(as_nobody(&seen.socket(), "/metrics").unwrap(), "PermissionError");
        // Where the modes would let it, it is told apart.
        fs::rename(seen.socket(), dir.path().join("moved")).unwrap();
        fs::set_permissions(dir.path().join("moved"), fs::Permissions::from_mode(0o777)).unwrap();
        let told = as_nobody(&dir.path().join("moved"), "/v1/store").unwrap();
        assert!(told.is_empty() || told.ends_with("Error"), "{told}");
        fs::remove_file(dir.path().join("moved")).unwrap();
    }
}

#[test]
fn a_socket_that_was_removed_is_made_again() {
    let seen = Seen::new(1);
    fs::remove_file(seen.socket()).unwrap();
    within("the socket is there again", {
        let socket = seen.socket();
        move || {
            while UnixStream::connect(&socket).is_err() {
                std::thread::yield_now();
            }
        }
    });
    assert_eq!(fs::symlink_metadata(seen.socket()).unwrap().mode() & 0o777, 0o600);
    assert_eq!(seen.get("/v1/store").status, 200);
}

/// Its place was taken by the view of a later opening, whose socket stays.
#[test]
fn an_old_view_leaves_the_socket_of_a_newer_one() {
    let Seen { home, store, live: old } = Seen::new(1);
    drop(store);
    let store = SessionStore::open(Options::new(home.path()).clock(home.clock.clone())).unwrap();
    let live = Live::serve(&store, LiveOptions::new()).unwrap();
    old.close();
    let seen = Seen { home, store, live };
    assert_eq!(seen.get("/v1/store").status, 200);
}

#[cfg(feature = "cli")]
#[test]
fn a_program_that_yields_closes_its_store_for_a_gateway() {
    let exe = env!("CARGO_BIN_EXE_cloakroom");
    let home = Home::new();
    let store = home.open();
    store.resolve(&source(0)).unwrap();
    store.close().unwrap();
    drop(store);
    let mut looker = std::process::Command::new(exe)
        .args(["tail", "--json", "--db"])
        .arg(home.path())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let db = home.path();
    within("it serves a view", move || {
        while Client::of_store(&db).is_err() {
            std::thread::yield_now();
        }
    });
    // Not for a program that asks for nothing of the kind.
    assert!(matches!(SessionStore::open(Options::new(home.path()).take_over(false)), Err(Error::Locked { .. })));
    let store = open_yielded(&Options::new(home.path()));
    assert_eq!(store.len(), 1);
    let mut said = String::new();
    looker.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(said.contains("a gateway has opened the store"), "{said}");
    assert!(looker.wait().unwrap().success());
}
