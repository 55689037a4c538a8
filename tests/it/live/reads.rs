//! What can be looked at.

use cloakroom::live::{LiveOptions, OPENAPI};
use cloakroom::{Options, SessionStore};
use serde_json::Value;

use super::*;
use crate::common::{NOW, assert_sound};

#[test]
fn the_store_shows_its_figures() {
    let seen = Seen::new(3);
    let store = seen.get("/v1/store").ok();
    assert_eq!(store["pid"], std::process::id());
    assert_eq!(store["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(store["stats"]["entries"], 3);
    assert_eq!(store["open_report"]["created"], true);
    assert_eq!(
        (&store["failure"], &store["watcher"], &store["read_only_view"]),
        (&Value::Null, &Value::Null, &false.into())
    );
    assert_eq!(store["may_prune"], true);
    assert!(store["stats"]["bytes_on_disk"].as_u64().unwrap() > 1000);
    assert!(store["touches"].is_u64() && store["durable_lag_seconds"].is_number());
}

#[test]
fn pages_of_a_list_show_each_entry_once() {
    let seen = Seen::new(25);
    let mut found = Vec::new();
    let mut path = "/v1/sessions?limit=10".to_owned();
    loop {
        let page = seen.get(&path).ok();
        assert_eq!((page["total"].as_u64(), page["complete"].as_bool()), (Some(25), Some(true)));
        found.extend(numbers(&page, "sessions"));
        let Some(next) = page["next"].as_str() else { break };
        assert!(!next.contains("agent"), "a cursor has no key in it: {next}");
        path = format!("/v1/sessions?limit=10&cursor={next}");
    }
    assert_eq!(found, (0..25).rev().collect::<Vec<_>>());
    let row = &seen.get("/v1/sessions?limit=1").ok()["sessions"][0];
    assert_eq!(row["handle"], seen.handle(&key(24)));
    assert_eq!((row["idle_seconds"].as_u64(), row["platform"].as_str()), (Some(0), Some("discord")));
}

#[test]
fn a_list_is_filtered_and_searched() {
    let seen = Seen::new(12);
    seen.store.suspend(&key(3)).unwrap().unwrap();
    seen.store.pin(&key(4)).unwrap().unwrap();
    let _ = seen.store.mark_resume_pending(&key(5), "a crash").unwrap();
    seen.store.update(&key(6), |details| details.display_name = Some("Tee & Kekse".into())).unwrap().unwrap();
    let found = |query: &str| numbers(&seen.get(&format!("/v1/sessions?{query}")).ok(), "sessions");
    assert_eq!(found("suspended=true"), [3]);
    assert_eq!(found("pinned=true"), [4]);
    assert_eq!(found("resume_pending=true"), [5]);
    assert_eq!(found("q=tee%20%26%20KEKSE"), [6]);
    assert_eq!(found("q=:C11:"), [11]);
    assert_eq!(found("user=u7"), [7]);
    assert_eq!(found("platform=telegram"), Vec::<usize>::new());
    assert_eq!(found("prefix=agent:main:discord:group:c1"), [11, 10, 1]);
    assert_eq!(found("active_seconds=60"), [11, 10]);
    assert_eq!(found("idle_seconds=600"), [0]);
    // A list by prefix goes on where it ended, too.
    let first = seen.get("/v1/sessions?limit=2&prefix=agent:main:discord:group:c1").ok();
    let next = first["next"].as_str().unwrap();
    assert_eq!(found(&format!("limit=2&prefix=agent:main:discord:group:c1&cursor={next}")), [1]);
}

#[test]
fn a_search_is_bounded_and_says_where_it_stopped() {
    let home = Home::new();
    let store = home.open();
    for n in 0..10_050 {
        store.resolve(&source(n)).unwrap();
        home.clock.advance(Duration::from_micros(1));
    }
    let live = Live::serve(&store, LiveOptions::new()).unwrap();
    let seen = Seen { home, store, live };
    let (mut looked, mut path, mut requests) = (0, "/v1/sessions?q=:c17:".to_owned(), 0);
    let found = loop {
        let page = seen.get(&path).ok();
        requests += 1;
        looked += page["looked_at"].as_u64().unwrap();
        assert!(page["looked_at"].as_u64().unwrap() <= 10_000);
        if !page["sessions"].as_array().unwrap().is_empty() {
            break numbers(&page, "sessions");
        }
        assert_eq!(page["complete"], false);
        path = format!("/v1/sessions?q=:c17:&cursor={}", page["next"].as_str().unwrap());
    };
    assert_eq!(found, [17]);
    assert!(requests >= 2 && looked >= 10_033, "{requests} {looked}");
}

#[test]
fn one_entry_shows_all_that_is_kept_of_it() {
    let seen = Seen::new(2);
    let metadata = serde_json::json!({"topic": "tea", "big": 12_345_678_901_234_567_u64});
    seen.store.set_metadata(&key(1), metadata.as_object().unwrap()).unwrap().unwrap();
    let turn = seen.store.begin_turn(&key(1)).unwrap().unwrap();
    let lease = seen.store.hold(&key(1)).unwrap();
    let handle = seen.handle(&key(1));
    let one = seen.get(&format!("/v1/sessions/{handle}")).ok();
    let entry = seen.store.get(&key(1)).unwrap().unwrap();
    assert_eq!(one["session"]["session_id"], entry.session_id.as_str());
    assert_eq!(one["session"]["revision"], entry.revision.to_string());
    assert_eq!(one["session"]["origin"]["user_id"], "u1");
    assert!(one["extras"]["metadata"].as_str().unwrap().contains("12345678901234567"));
    assert_eq!(one["turn"]["token"], turn.token.to_string());
    assert_eq!(one["leases"].as_array().unwrap().len(), 1);
    drop(lease);
    let found = seen.get(&format!("/v1/ids/{}", entry.session_id)).ok();
    assert_eq!(numbers(&found, "sessions"), [1]);
    assert_eq!(seen.get("/v1/turns").ok()["turns"][0]["handle"], handle.as_str());
    assert_eq!(seen.get("/v1/leases").ok()["leases"], serde_json::json!([]));
}

#[test]
fn idleness_is_counted_from_the_index() {
    let seen = Seen::new(3);
    seen.home.clock.advance(100 * DAY);
    seen.store.touch(&key(0)).unwrap().unwrap();
    seen.home.clock.advance(Duration::from_secs(7200));
    seen.store.touch(&key(1)).unwrap().unwrap();
    let idle = seen.get("/v1/histogram?of=idle").ok();
    let counts: Vec<_> = idle["counts"].as_array().unwrap().iter().map(|count| count.as_u64().unwrap()).collect();
    let edges = idle["edges_seconds"].as_array().unwrap();
    assert_eq!(counts.len(), edges.len() + 1);
    let nonzero: Vec<_> = counts.iter().enumerate().filter(|(_, count)| **count > 0).collect();
    // Up to an hour, up to six, and up to 180 days.
    assert_eq!(nonzero, [(0, &1), (1, &1), (9, &1)]);
    assert_eq!(edges[9], 15_552_000);
    // One more edge splits a class in two; one that is there already splits none.
    for (edge, expected) in [(100 * 86_400, [(0, 1), (1, 1), (10, 1)]), (86_400, [(0, 1), (1, 1), (9, 1)])] {
        let idle = seen.get(&format!("/v1/histogram?edge={edge}")).ok();
        let counts: Vec<_> = idle["counts"].as_array().unwrap().iter().map(|count| count.as_u64().unwrap()).collect();
        let nonzero: Vec<_> = counts.iter().copied().enumerate().filter(|(_, count)| *count > 0).collect();
        assert_eq!(nonzero, expected, "{edge}");
        assert!(idle["edges_seconds"].as_array().unwrap().contains(&edge.into()));
    }
}

/// What is in an entry cannot change the count: neither record of one is looked at.
#[test]
fn idleness_is_counted_without_the_entries() {
    let Seen { home, store, live } = Seen::new(3);
    home.clock.advance(100 * DAY);
    drop(live);
    store.close().unwrap();
    drop(store);
    let db = crate::behind::open_sled(&sled::Config::new().path(home.path().join("sled"))).unwrap();
    for tree in ["activity", "sessions"] {
        let tree = db.open_tree(tree).unwrap();
        assert_eq!(tree.len(), 3);
        for row in tree.iter().keys() {
            tree.insert(row.unwrap(), &b"\xff"[..]).unwrap();
        }
    }
    db.flush().unwrap();
    drop(db);
    let store = home.open();
    let live = Live::serve(&store, LiveOptions::new()).unwrap();
    let seen = Seen { home, store, live };
    assert!(seen.store.get(&key(0)).is_err(), "it is damaged");
    let idle = seen.get("/v1/histogram").ok();
    assert_eq!((&idle["rows"], &idle["counts"][9]), (&3.into(), &3.into()), "{idle}");
}

#[test]
fn what_is_wrong_is_refused_with_a_kind() {
    let seen = Seen::new(1);
    let handle = seen.handle(&key(0));
    let other = "0".repeat(32);
    for (method, path, body, status, kind) in [
        ("GET", "/v1/sessions?limit=0", "", 400, "bad_request"),
        ("GET", "/v1/sessions?limit=1001", "", 400, "bad_request"),
        ("GET", "/v1/sessions?colour=red", "", 400, "bad_request"),
        ("GET", "/v1/sessions?cursor=x", "", 400, "bad_request"),
        ("GET", "/v1/sessions/x", "", 400, "bad_request"),
        ("GET", &format!("/v1/sessions/{other}"), "", 404, "no_entry"),
        ("POST", &format!("/v1/sessions/{other}/suspend"), "", 404, "no_entry"),
        ("POST", &format!("/v1/sessions/{handle}/remove"), "", 404, "not_found"),
        ("POST", &format!("/v1/sessions/{handle}/suspend"), "{\"colour\": 1}", 400, "bad_request"),
        ("POST", "/v1/handle", "{\"key\": \"a..b\"}", 400, "invalid_key"),
        ("POST", "/v1/handle", "{\"key\": \"nobody\"}", 404, "no_entry"),
        ("POST", "/v1/prune", "{\"policy\": {\"max_age_days\": 1}}", 400, "bad_request"),
        ("POST", "/v1/prune", "{\"plan\": \"x\"}", 409, "no_plan"),
        ("GET", "/v1/watcher", "", 404, "no_watcher"),
        ("POST", "/v1/handover", "", 403, "stays"),
        ("GET", "/v1/nothing", "", 404, "not_found"),
        ("PUT", "/v1/store", "", 405, "method_not_allowed"),
        ("GET", "/v1/export?format=xml", "", 400, "setting"),
        ("GET", "/v1/ids/a..b", "", 400, "invalid_id"),
        // What is no text.
        ("GET", "/v1/ids/%ff", "", 400, "bad_request"),
        ("GET", "/v1/sessions/%ff", "", 400, "bad_request"),
        ("DELETE", "/v1/sessions/%ff", "", 400, "bad_request"),
        ("POST", "/v1/sessions/%ff/suspend", "", 400, "bad_request"),
        ("GET", "/v1/sessions?q=%ff&limit=%00", "", 400, "bad_request"),
    ] {
        let answer = seen.ask(method, path, "", body);
        assert_eq!((answer.status, answer.kind().as_str()), (status, kind), "{method} {path}");
    }
    let answer = seen.post("/v1/handle", &format!("{{\"key\": \"{}\"}}", "x".repeat(70_000)));
    assert_eq!((answer.status, answer.kind().as_str()), (413, "bad_request"));
    assert_sound(&seen.store);
}

/// Each method of each path that the description has is there, and no other.
#[test]
fn the_description_is_what_the_router_does() {
    let seen = Seen::new(1);
    let described: Value = serde_json::from_str(OPENAPI).unwrap();
    assert_eq!(seen.get("/v1/openapi.json").ok(), described);
    for (path, item) in described["paths"].as_object().unwrap() {
        let path = path.replace("{handle}", "x").replace("{verb}", "suspend").replace("{id}", "a..b");
        for method in ["get", "put", "post", "delete", "patch"] {
            if item[method].is_object() && path == "/v1/events" {
                continue;
            }
            let status = seen.ask(&method.to_uppercase(), &path, "", "").status;
            assert_eq!(status != 405, item[method].is_object(), "{method} {path}: {status}");
            assert_ne!(status, 404 * u16::from(path != "/v1/watcher" && path != "/v1/watcher/prune-now"), "{path}");
        }
    }
}

/// The parameters that the description has are taken, and no others.
#[test]
fn the_description_has_the_parameters_that_are_taken() {
    let seen = Seen::new(1);
    let described: Value = serde_json::from_str(OPENAPI).unwrap();
    let mut taken = 0;
    for (path, item) in described["paths"].as_object().unwrap() {
        let parameters = item["get"]["parameters"].as_array().into_iter().flatten();
        let named: Vec<_> = parameters.filter(|parameter| parameter["in"] == "query").collect();
        if named.is_empty() || path == "/v1/events" {
            continue;
        }
        let unknown = seen.get(&format!("{path}?nobody=1"));
        assert_eq!((unknown.status, unknown.kind().as_str()), (400, "bad_request"), "{path}");
        for parameter in named {
            let name = parameter["name"].as_str().unwrap();
            let value = match (name, parameter["schema"]["type"].as_str().unwrap()) {
                (_, "boolean") => "true".to_owned(),
                (_, "integer") => "7".to_owned(),
                ("active_since" | "idle_since", _) => "2026-01-01T00:00:00Z".to_owned(),
                ("format", _) => "hermes".to_owned(),
                ("zone", _) => "UTC".to_owned(),
                ("of", _) => "idle".to_owned(),
                ("cursor", _) => format!("0-{}", "0".repeat(32)),
                _ => "x".to_owned(),
            };
            let answer = seen.get(&format!("{path}?{name}={value}"));
            assert_eq!(answer.status, 200, "{path} {name}: {answer:?}");
            taken += 1;
        }
    }
    assert!(taken >= 18, "{taken}");
}

#[test]
fn a_closed_store_says_so() {
    let seen = Seen::new(1);
    let handle = seen.handle(&key(0));
    seen.store.close().unwrap();
    let answer = seen.post(&format!("/v1/sessions/{handle}/suspend"), "");
    assert_eq!((answer.status, answer.kind().as_str()), (503, "closed"));
}

#[test]
fn a_view_does_not_keep_the_store_open() {
    let Seen { home, store, live } = Seen::new(1);
    drop(store);
    let again = SessionStore::open(Options::new(home.path()).clock(home.clock.clone())).unwrap();
    assert_eq!(again.get(&key(0)).unwrap().unwrap().created_at, NOW.saturating_add(Duration::from_secs(60)));
    crate::callbacks::within("the view ends", move || {
        while !live.has_ended() {
            std::thread::yield_now();
        }
    });
}
