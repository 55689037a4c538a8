//! Answers that are lost: the change was made, its caller does not know, and it must not be made again.

use std::collections::HashSet;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use cloakroom::change::{Draft, Edit, Expect, Modified, Put, Removal, Repoint, Repointed, Resolution, Touch};
use cloakroom::cluster::{ClusterOptions, ClusterStore};
use cloakroom::turns::{TurnEnd, TurnStart};
use cloakroom::{Error, Extras, PrunePolicy, SessionEntry, SessionId, SessionKey, Sessions, Timestamp};

use crate::common::{NOW, key, source};
use crate::nodes::{Cluster, Node};
use crate::proxy::Proxy;

pub struct Rig {
    pub _cluster: Cluster,
    pub proxy: Proxy,
    pub options: ClusterOptions,
}

/// A node that says of itself that it is behind a proxy.
pub fn rig() -> Rig {
    let port = crate::nodes::free_port();
    let proxy = Proxy::new(port);
    let announced = proxy.port.to_string();
    let settings = ["--cluster-announce-ip", "127.0.0.1", "--cluster-announce-port", &announced];
    let cluster = Cluster::of(vec![Node::start_at(port, &settings)], 1);
    // No renewal of it comes in between, and is taken for the call that a test means.
    let lease = Duration::from_secs(3600);
    let options =
        ClusterOptions::new("behind", [proxy.address()]).create(true).shards(16).replicas(0).member_lease(lease);
    Rig { _cluster: cluster, proxy, options }
}

fn count(draft: &mut Draft<'_>) -> Edit {
    draft.entry.usage.input_tokens += 1;
    Edit::Write
}

fn counted(store: &ClusterStore, n: usize) -> u64 {
    store.get(&key(n)).unwrap().unwrap().usage.input_tokens
}

#[test]
fn a_change_whose_answer_is_lost_is_made_once() {
    let Rig { _cluster, proxy, options } = rig();
    let store = ClusterStore::open(options).unwrap();
    let mut said = HashSet::new();
    // Once to load the scripts, and once with each answer lost.
    for loses in [false, true] {
        let at = |n: usize| n + if loses { 100 } else { 0 };
        let lose = |what: &str| {
            if loses {
                proxy.lose_answer_to(what, false);
            }
        };
        let mut done = |verb: &'static str| {
            assert!(proxy.has_lost(), "{verb} sent nothing of the kind");
            said.insert(verb);
        };
        lose("EVALSHA");
        let created = store.resolve(&source(at(1))).unwrap();
        // That one only looked: what it found is created with the second.
        done("resolve");
        assert_eq!(created.resolution, Resolution::Created);
        let old = created.entry.session_id;

        lose("EVALSHA");
        assert!(matches!(store.modify(&key(at(1)), Touch::Yes, &mut count).unwrap(), Modified::Changed(_)));
        done("modify");
        assert_eq!(counted(&store, at(1)), 1);
        lose("EVALSHA");
        let made = store.modify(&key(at(2)), Touch::Yes, &mut count).unwrap();
        assert!(matches!(made, Modified::Created(_)), "{made:?}");
        done("modify that creates");
        lose("EVALSHA");
        let new = SessionEntry::new(key(at(3)), SessionId::new("put").unwrap(), NOW);
        assert!(matches!(store.put(&new, &Extras::default(), Expect::Absent).unwrap(), Put::Created(_)));
        done("put");

        lose("EVALSHA");
        let written = store.reset(&key(at(1))).unwrap().unwrap().entry;
        done("reset");
        assert_eq!(written.details.prev_session_id, Some(old));
        assert_eq!(store.get(&key(at(1))).unwrap().unwrap().session_id, written.session_id);
        lose("EVALSHA");
        let there = SessionId::new("there").unwrap();
        assert!(matches!(
            store.repoint(&key(at(1)), there, &Repoint::new()).unwrap(),
            Repointed::Switched(to) if to.entry.details.prev_session_id == Some(written.session_id.clone())
        ));
        done("repoint");
        lose("ZADD");
        assert!(store.touch(&key(at(1))).unwrap().is_some());
        done("touch");
        lose("EVALSHA");
        store.set_extra(&key(at(1)), "a", &1.into()).unwrap().unwrap();
        done("set_extra");

        lose("EVALSHA");
        let begun = store.begin_turn(&key(at(1))).unwrap().unwrap();
        done("begin_turn");
        assert_eq!(store.turn(&key(at(1))).unwrap().unwrap().token, begun.token);
        lose("EVALSHA");
        assert!(matches!(store.end_turn(&key(at(1)), begun.token).unwrap(), TurnEnd::Ended(_)));
        done("end_turn");
        assert!(store.turn(&key(at(1))).unwrap().is_none());
        lose("EVALSHA");
        assert!(matches!(store.try_begin_turn(&key(at(1))).unwrap(), TurnStart::Begun(_)), "nobody else has");
        done("try_begin_turn");
        lose("EVALSHA");
        store.hold_until(&key(at(1)), "job", Timestamp::MAX).unwrap().unwrap();
        done("hold_until");
        lose("EVALSHA");
        assert!(store.release(&key(at(1)), "job").unwrap().is_some());
        done("release");

        lose("EVALSHA");
        assert!(store.remove(&key(at(1))).unwrap().is_some());
        done("remove");
        let seen = store.get(&key(at(2))).unwrap().unwrap();
        lose("EVALSHA");
        assert!(matches!(store.remove_if(&key(at(2)), &seen).unwrap(), Removal::Removed(_)));
        done("remove_if");
        let mut expired = store.get(&key(at(3))).unwrap().unwrap();
        expired.updated_at = Timestamp::from_micros(1_000_000);
        let Put::Replaced(_) = store.put(&expired, &Extras::default(), Expect::Any).unwrap() else { panic!() };
        lose("EVALSHA");
        let report = store.prune(&PrunePolicy::max_age_days(1), &|_: &SessionKey| false).unwrap();
        done("prune");
        assert_eq!(report.removed, 1);
        assert_eq!(store.len().unwrap(), 0);
    }
    assert_eq!(said.len(), 16);
}

/// Another process comes in between the change, whose answer is lost, and its repetition. It is not made again, and where nobody
/// can tell the error says so.
#[test]
fn a_change_that_another_followed_is_not_made_again() {
    let Rig { _cluster, proxy, options } = rig();
    let store = ClusterStore::open(options.clone()).unwrap();
    let other = ClusterStore::open(options).unwrap();
    for n in 0..2 {
        store.resolve(&source(n)).unwrap();
        other.modify(&key(n), Touch::Yes, &mut count).unwrap();
    }
    // So that its connections are there, and go on, and the node knows the scripts.
    other.resolve(&source(9)).unwrap();
    other.remove(&key(9)).unwrap().unwrap();
    let lost_and_then = |verb: &(dyn Fn() -> Result<bool, Error> + Sync), between: &dyn Fn()| {
        proxy.lose_answer_to("EVALSHA", true);
        proxy.between_attempts(verb, between)
    };
    let said = lost_and_then(&|| store.modify(&key(0), Touch::Yes, &mut count).map(|_| true), &|| {
        other.modify(&key(0), Touch::Yes, &mut count).unwrap();
    });
    assert!(matches!(said, Err(Error::Uncertain { .. })), "{said:?}");
    assert_eq!(counted(&store, 0), 3);
    let told = store.metrics().unwrap();
    let has = |name: &str, value: &dyn Fn(u64) -> bool| {
        let line = told.lines().find(|line| line.starts_with(&format!("cloakroom_cluster_{name}{{"))).unwrap();
        assert!(value(line.rsplit_once(' ').unwrap().1.parse().unwrap()), "{line}");
    };
    has("uncertain_total", &|count| count == 1);
    has("retries_total", &|count| count > 0);
    // The removal was made, and what is there now is a session that began after it.
    let made = std::sync::Mutex::new(None);
    for remove in [true, false] {
        let seen = store.get(&key(1)).unwrap().unwrap();
        let said = lost_and_then(
            &|| {
                if remove {
                    store.remove(&key(1)).map(|removed| removed.is_some())
                } else {
                    store.remove_if(&key(1), &seen).map(|removed| matches!(removed, Removal::Removed(_)))
                }
            },
            &|| {
                let resolved = other.resolve(&source(1)).unwrap();
                assert_eq!(resolved.resolution, Resolution::Created);
                *made.lock().unwrap() = Some(resolved.entry.session_id);
            },
        );
        assert!(said.unwrap());
        assert_eq!(Some(store.get(&key(1)).unwrap().unwrap().session_id), *made.lock().unwrap());
    }
}

/// The end of a turn was not delivered, and another turn has taken its place: the end of that one would be told of else.
#[test]
fn a_turn_that_another_one_replaced_was_not_ended() {
    let Rig { _cluster, proxy, options } = rig();
    let store = ClusterStore::open(options.clone()).unwrap();
    let other = ClusterStore::open(options).unwrap();
    for n in 0..2 {
        store.resolve(&source(n)).unwrap();
        other.begin_turn(&key(n)).unwrap().unwrap();
    }
    let begun = store.begin_turn(&key(0)).unwrap().unwrap();
    proxy.break_before("EVALSHA");
    thread::scope(|scope| {
        let ending = scope.spawn(|| store.end_turn(&key(0), begun.token));
        proxy.wait_until_lost();
        let next = other.begin_turn(&key(0)).unwrap().unwrap();
        proxy.open();
        let said = ending.join().unwrap();
        assert!(matches!(said, Ok(TurnEnd::NotCurrent)), "{said:?}");
        assert_eq!(store.turn(&key(0)).unwrap().unwrap().token, next.token);
    });
}

/// A change was sent and its answer is lost. Whatever comes after, the error does not say that nothing was changed.
#[test]
fn an_error_after_a_lost_answer_says_that_nobody_knows() {
    let Rig { _cluster: cluster, proxy, options } = rig();
    let store = ClusterStore::open(options.patience(Duration::from_millis(300))).unwrap();
    store.resolve(&source(0)).unwrap();
    store.modify(&key(0), Touch::Yes, &mut count).unwrap();
    // No other connection comes through.
    proxy.lose_answer_to("EVALSHA", true);
    let said = store.modify(&key(0), Touch::Yes, &mut count);
    assert!(matches!(said, Err(Error::Uncertain { .. })), "{said:?}");
    // What was only read was not changed.
    let said = store.get(&key(0));
    assert!(matches!(said, Ok(_) | Err(Error::Unavailable { .. })), "{said:?}");
    proxy.open();
    assert_eq!(counted(&store, 0), 2, "it was made");
    let node = &cluster.nodes[0];
    proxy.lose_answer_to("ZADD", true);
    thread::scope(|scope| {
        let store = ClusterStore::open(ClusterOptions::new("behind", [proxy.address()])).unwrap();
        let waiting = scope.spawn(move || store.touch(&key(0)));
        proxy.wait_until_lost();
        node.ask(&["CONFIG", "SET", "maxmemory", "1"]);
        proxy.open();
        let said = waiting.join().unwrap();
        assert!(matches!(said, Err(Error::Uncertain { .. })), "{said:?}");
    });
    let said = store.touch(&key(0));
    assert!(matches!(said, Err(Error::Refused { .. })), "{said:?}");
}

/// An entry is never without the hint that leads to it: where that cannot be written the entry is not.
#[test]
fn no_entry_is_without_its_hint() {
    let cluster = Cluster::six();
    let store = ClusterStore::open(cluster.options().patience(Duration::from_millis(500))).unwrap();
    store.resolve(&source(1)).unwrap().receipt.wait().unwrap();
    let at = |pattern: &str| {
        let has = |n: usize| {
            let found = cluster.nodes[n].ask(&["KEYS", &format!("{}:*{pattern}", store.name())]);
            let found: Vec<String> = redis::from_redis_value(found).unwrap();
            !found.is_empty()
        };
        cluster.primaries().into_iter().find(|n| has(*n))
    };
    // A session id that lies on another primary than the key, by trying some.
    let place = at(&format!(":e:{}", key(1).as_str())).unwrap();
    let leads = |id: &SessionId| store.repoint(&key(1), id.clone(), &Repoint::new()).map(drop);
    let ids = (0..).map(|n| SessionId::new(format!("id-{n}")).unwrap());
    let (id, elsewhere) = ids
        .filter_map(|id| {
            leads(&id).unwrap();
            let found = at(&format!(":i:{}", id.as_str())).unwrap();
            (found != place).then_some((id, found))
        })
        .next()
        .unwrap();
    leads(&SessionId::new("back").unwrap()).unwrap();
    let replica = cluster.replica_of(elsewhere);
    [elsewhere, replica].iter().for_each(|n| cluster.nodes[*n].signal("STOP"));
    let refused = leads(&id);
    assert!(matches!(refused, Err(Error::Unavailable { .. })), "{refused:?}");
    [elsewhere, replica].iter().for_each(|n| cluster.nodes[*n].signal("CONT"));
    cluster.wait_until_whole();
    let store = ClusterStore::open(cluster.options_of(&store)).unwrap();
    let entry = store.get(&key(1)).unwrap().unwrap();
    assert_ne!(entry.session_id, id, "the entry was written before its hint");
}

/// A node that says nothing when it is asked for its settings has no wrong ones, and is asked again.
#[test]
fn a_node_that_does_not_tell_its_settings_is_asked_again() {
    let Rig { _cluster: cluster, proxy, options } = rig();
    proxy.lose_answer_to("INFO\r\n$6\r\nserver", false);
    let store = ClusterStore::open(options.clone()).unwrap();
    assert!(proxy.has_lost());
    store.resolve(&source(1)).unwrap().receipt.wait().unwrap();
    cluster.nodes[0].ask(&["CONFIG", "SET", "appendfsync", "everysec"]);
    crate::nodes::wait_for("it is asked", || {
        matches!(store.resolve(&source(1)), Err(Error::NodeSetting { setting: "appendfsync", .. }))
    });
}

/// A node says nothing when it is asked for its settings, and does not hang up either.
#[test]
fn a_node_that_is_silent_about_its_settings_holds_nobody_up() {
    let Rig { _cluster, proxy, options } = rig();
    proxy.swallow("INFO\r\n$6\r\nserver");
    let (tell, told) = mpsc::channel();
    thread::spawn(move || {
        let store = ClusterStore::open(options.patience(Duration::from_secs(1))).unwrap();
        tell.send(store.resolve(&source(1)).map(drop)).unwrap();
    });
    told.recv_timeout(Duration::from_secs(20)).unwrap().unwrap();
    assert!(proxy.swallowed().0 > 0);
}

/// A request that was given up lies with the node still, and is carried out when what it asks for was done and undone.
#[test]
fn what_was_given_up_is_not_done_later() {
    let Rig { _cluster, proxy, options } = rig();
    // Nothing but the verbs calls scripts meanwhile.
    let store = ClusterStore::open(options.member_lease(Duration::from_secs(3600))).unwrap();
    store.resolve(&source(0)).unwrap();
    let withheld = |verb: &dyn Fn()| {
        proxy.withhold("EVALSHA");
        verb();
        proxy.deliver();
    };
    // So that the node knows the scripts.
    for _ in 0..2 {
        let begun = store.begin_turn(&key(0)).unwrap().unwrap();
        store.end_turn(&key(0), begun.token).unwrap();
        store.hold_until(&key(0), "job", Timestamp::MAX).unwrap().unwrap();
        store.release(&key(0), "job").unwrap().unwrap();
    }
    withheld(&|| {
        let begun = store.begin_turn(&key(0)).unwrap().unwrap();
        assert!(matches!(store.end_turn(&key(0), begun.token).unwrap(), TurnEnd::Ended(_)));
    });
    assert!(store.turn(&key(0)).unwrap().is_none(), "a turn that nobody has");
    withheld(&|| {
        store.hold_until(&key(0), "job", Timestamp::MAX).unwrap().unwrap();
        store.release(&key(0), "job").unwrap().unwrap();
    });
    assert!(store.leases().unwrap().items.is_empty(), "a lease that nobody has");
    withheld(&|| {
        let new = SessionEntry::new(key(1), SessionId::new("put").unwrap(), NOW);
        assert!(matches!(store.put(&new, &Extras::default(), Expect::Absent).unwrap(), Put::Created(_)));
        store.remove(&key(1)).unwrap().unwrap();
    });
    assert!(!store.contains(&key(1)).unwrap(), "it was removed");
}
