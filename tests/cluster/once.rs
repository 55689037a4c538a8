//! A change is sent again, and in between another process comes: it is carried out once, and says what came of it.

use std::net::{IpAddr, Ipv4Addr};
use std::thread;
use std::time::Duration;

use cloakroom::change::{Expect, Put, Removal};
use cloakroom::cluster::{ClusterOptions, ClusterStore};
use cloakroom::turns::TurnEnd;
use cloakroom::{Error, Extras, SessionEntry, SessionId, Sessions, Timestamp, Usage};

use crate::common::{NOW, key, source};
use crate::nodes::Cluster;
use crate::proxy::Proxy;
use crate::retries::{Rig, rig};

/// A node behind a proxy, and two processes, whose verbs alone call scripts.
struct Two {
    _cluster: Cluster,
    proxy: Proxy,
    store: ClusterStore,
    other: ClusterStore,
}

fn two(set: impl Fn(ClusterOptions) -> ClusterOptions) -> Two {
    let Rig { _cluster, proxy, options } = rig();
    let options = options.member_lease(Duration::from_secs(3600));
    let store = ClusterStore::open(set(options.clone())).unwrap();
    let other = ClusterStore::open(options).unwrap();
    for n in 0..4 {
        other.resolve(&source(n)).unwrap();
    }
    // So that the node knows the scripts.
    let begun = other.begin_turn(&key(0)).unwrap().unwrap();
    other.end_turn(&key(0), begun.token).unwrap();
    other.hold_until(&key(0), "job", Timestamp::MAX).unwrap().unwrap();
    other.release(&key(0), "job").unwrap().unwrap();
    other.resolve(&source(9)).unwrap();
    other.remove(&key(9)).unwrap().unwrap();
    Two { _cluster, proxy, store, other }
}

/// A turn is begun at the second attempt, and the entry has changed by then: it is begun over what is there now.
#[test]
fn a_turn_is_begun_though_the_entry_changed_between_two_attempts() {
    let Two { _cluster, proxy, store, other } = two(|options| options.patience(Duration::from_secs(5)));
    let turn = Usage { input_tokens: 1, ..Usage::default() };
    other.record_usage(&key(0), &turn).unwrap().unwrap();
    proxy.break_before("EVALSHA");
    thread::scope(|scope| {
        let beginning = scope.spawn(|| store.begin_turn(&key(0)));
        proxy.wait_until_lost();
        other.record_usage(&key(0), &turn).unwrap().unwrap();
        proxy.open();
        let begun = beginning.join().unwrap().unwrap().unwrap();
        assert_eq!(other.turn(&key(0)).unwrap().unwrap().token, begun.token);
    });
}

/// A change was made, its answer is lost, and another process undoes it before it is repeated. It stays undone.
#[test]
fn what_another_undid_is_not_done_again() {
    let Two { _cluster, proxy, store, other } = two(|options| options);
    let lost_and_then = |verb: &(dyn Fn() + Sync), between: &dyn Fn()| {
        proxy.lose_answer_to("EVALSHA", true);
        proxy.between_attempts(verb, between);
    };
    let new = SessionEntry::new(key(5), SessionId::new("new").unwrap(), NOW);
    let put = || assert!(matches!(store.put(&new, &Extras::default(), Expect::Absent).unwrap(), Put::Created(_)));
    lost_and_then(&put, &|| assert!(other.remove(&key(5)).unwrap().is_some()));
    assert!(!store.contains(&key(5)).unwrap(), "it was removed");

    let begin = || assert!(store.begin_turn(&key(1)).unwrap().is_some());
    lost_and_then(&begin, &|| assert!(matches!(other.discard_turn(&key(1)).unwrap(), TurnEnd::Ended(_))));
    assert!(store.turn(&key(1)).unwrap().is_none(), "it was discarded");

    let hold = || assert!(store.hold_until(&key(2), "job", Timestamp::MAX).unwrap().is_some());
    lost_and_then(&hold, &|| assert!(other.release(&key(2), "job").unwrap().is_some()));
    assert!(store.leases().unwrap().items.is_empty(), "it was released");

    store.hold_until(&key(3), "job", Timestamp::MAX).unwrap().unwrap();
    let release = || assert!(store.release(&key(3), "job").unwrap().is_some());
    lost_and_then(&release, &|| assert!(other.hold_until(&key(3), "job", Timestamp::MAX).unwrap().is_some()));
    let held: Vec<_> = store.leases().unwrap().items.into_iter().map(|lease| lease.key).collect();
    assert_eq!(held, [key(3)], "another one holds it");
}

/// A change was not delivered, and another process makes the same one before it is repeated. One of them is told that it did.
#[test]
fn what_another_did_first_is_not_told_as_done_here() {
    let Two { _cluster, proxy, store, other } = two(|options| options);
    let broken_and_then = |verb: &(dyn Fn() + Sync), between: &dyn Fn()| {
        proxy.break_before("EVALSHA");
        proxy.between_attempts(verb, between);
    };
    let token = store.begin_turn(&key(1)).unwrap().unwrap().token;
    let end = || assert!(matches!(store.end_turn(&key(1), token).unwrap(), TurnEnd::NotCurrent));
    broken_and_then(&end, &|| assert!(matches!(other.end_turn(&key(1), token).unwrap(), TurnEnd::Ended(_))));

    store.hold_until(&key(1), "job", Timestamp::MAX).unwrap().unwrap();
    let release = || assert!(store.release(&key(1), "job").unwrap().is_none());
    broken_and_then(&release, &|| assert!(other.release(&key(1), "job").unwrap().is_some()));

    let remove = || assert!(store.remove(&key(1)).unwrap().is_none());
    broken_and_then(&remove, &|| assert!(other.remove(&key(1)).unwrap().is_some()));
    let seen = store.get(&key(2)).unwrap().unwrap();
    let remove = || assert!(matches!(store.remove_if(&key(2), &seen).unwrap(), Removal::Missing));
    broken_and_then(&remove, &|| assert!(other.remove(&key(2)).unwrap().is_some()));
}

/// A removal was made, its answer is lost, and so is the connection over which it was repeated, before anything proved it. Nobody
/// can tell whether it is kept, and a flush says so.
#[test]
fn a_flush_tells_of_a_removal_that_was_repeated() {
    let Two { _cluster, proxy, store, .. } = two(|options| options);
    store.flush().unwrap();
    proxy.lose_answer_to("EVALSHA", false);
    drop(store.remove(&key(1)).unwrap().unwrap());
    assert!(proxy.has_lost());
    proxy.cut(&[IpAddr::V4(Ipv4Addr::LOCALHOST)]);
    proxy.cut(&[]);
    let flushed = store.flush();
    assert!(matches!(flushed, Err(Error::Uncertain { .. })), "{flushed:?}");
    store.flush().unwrap();
}

/// A lease was taken, and its answer is lost for good: nobody could end it while its process lives, so it is given back.
#[test]
fn a_lease_of_which_nobody_knows_is_given_back() {
    let Two { _cluster, proxy, store, other } = two(|options| options.patience(Duration::ZERO));
    // So that its connections are there.
    drop(store.hold(&key(1)).unwrap().unwrap());
    proxy.lose_answer_to("EVALSHA", false);
    let said = store.hold(&key(1));
    assert!(matches!(said, Err(Error::Uncertain { .. })), "{said:?}");
    assert!(other.leases().unwrap().items.is_empty());
}
