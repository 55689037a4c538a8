use std::sync::Weak;

use super::*;
use crate::cluster::proof::{Needs, Nobody, Way};

fn sent() -> Sent {
    let way: Weak<dyn Way> = Weak::<Nobody>::new();
    Sent { link: Arc::new(Link::new("a:1".into(), way, &Needs::new("t".into(), true, 0))), batch: 1 }
}

#[test]
fn no_more_is_remembered_than_there_is_room_for() {
    let (owed, sent) = (Owed::default(), sent());
    let key = |n: usize| SessionKey::new(format!("{n}")).unwrap();
    let kept = (0..MAX_KEYS + 10).filter(|n| owed.note(&key(*n), 1, false, sent.clone())).count();
    assert_eq!((kept, owed.len()), (MAX_KEYS, MAX_KEYS as u64));
    // One that is there needs none.
    assert!(owed.note(&key(0), 2, true, sent.clone()));
    let owed = Owed::default();
    let long = |n: usize| SessionKey::new(format!("{n}{}", "x".repeat(400))).unwrap();
    let kept = (0..MAX_KEYS).filter(|n| owed.note(&long(*n), 1, false, sent.clone())).count();
    assert!(kept * (400 + BESIDE) <= MAX_BYTES && kept > MAX_BYTES / 600, "{kept}");
    // What goes makes room.
    owed.hold(&long(0)).forget(true, true);
    assert!(owed.note(&long(MAX_KEYS), 1, false, sent));
}

#[test]
fn the_later_time_is_remembered_and_a_message_beside_it() {
    let (owed, sent) = (Owed::default(), sent());
    let key = SessionKey::new("a").unwrap();
    for (time, is_message) in [(5, true), (9, false), (7, true), (6, false)] {
        owed.note(&key, time, is_message, sent.clone());
    }
    // Its primary is the one that it was sent to.
    assert!(owed.gone(|_| Some("a:1".into())).is_empty());
    let gone = owed.gone(|_| Some("b:1".into()));
    let time = |set: &Option<Set>| set.as_ref().map(|set| set.time);
    let times = |touched: &Touched| (time(&touched.updated), time(&touched.interaction));
    assert_eq!(gone.iter().map(|(_, touched)| times(touched)).collect::<Vec<_>>(), [(Some(9), Some(7))]);
    assert_eq!(owed.len(), 1);
}

/// A time is set, which waits until what is on its way has arrived.
fn set_after(owed: &Owed, key: &SessionKey, sending: Sending<'_>) {
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut held = owed.hold(key);
            assert!(held.settle(Duration::from_secs(30)));
            tell.send("set").unwrap();
            held.forget(true, true);
        });
        // It waits already, or does not begin before this ends.
        while !owed.all.lock().held.contains_key(key) {
            std::thread::yield_now();
        }
        assert!(told.try_recv().is_err());
        assert!(!owed.hold(key).settle(Duration::ZERO), "nobody waits for ever");
        drop(sending);
        assert_eq!(told.recv(), Ok("set"));
    });
}

#[test]
fn a_time_that_is_set_waits_for_both_that_send_a_touch_of_it() {
    let (owed, sent) = (Owed::default(), sent());
    let key = SessionKey::new("a").unwrap();
    owed.note(&key, 5, false, sent);
    assert!(owed.collect(&key, 9));
    let taken = owed.take_collected();
    let gone = owed.gone(|_| Some("b:1".into()));
    let again = owed.begin_sending(&gone);
    assert_eq!((taken.len(), again.touched.len()), (1, 1));
    owed.arrived(taken, true);
    assert!(owed.take_collected().is_empty() && owed.is_collected(&key), "the other one is on its way");
    set_after(&owed, &key, again);
    assert!(owed.take_collected().is_empty() && !owed.is_collected(&key), "it is forgotten");
}

#[test]
fn a_touch_after_the_time_was_set_is_kept() {
    let (owed, sent) = (Owed::default(), sent());
    let key = SessionKey::new("a").unwrap();
    owed.note(&key, 5, false, sent);
    assert!(owed.collect(&key, 6));
    let held = owed.hold(&key);
    assert!(owed.collect(&key, 9));
    held.forget(true, true);
    drop(held);
    assert_eq!(owed.take_collected().iter().map(|touch| touch.time).collect::<Vec<_>>(), [9]);
}

#[test]
fn what_is_set_alone_is_forgotten_alone() {
    let (owed, sent) = (Owed::default(), sent());
    let key = SessionKey::new("a").unwrap();
    owed.note(&key, 5, true, sent);
    assert!(owed.collect(&key, 9));
    owed.hold(&key).forget(false, true);
    assert_eq!((owed.len(), owed.is_collected(&key)), (2, true));
    owed.hold(&key).forget(true, false);
    assert_eq!((owed.len(), owed.all.lock().bytes), (0, 0));
}

#[test]
fn a_time_that_is_set_waits_for_a_touch_that_is_on_its_way() {
    let (owed, sent) = (Owed::default(), sent());
    let key = SessionKey::new("a").unwrap();
    owed.note(&key, 5, false, sent);
    let gone = owed.gone(|_| Some("b:1".into()));
    let held = owed.hold(&key);
    assert!(owed.begin_sending(&gone).touched.is_empty(), "its time is set");
    drop(held);
    let sending = owed.begin_sending(&gone);
    assert_eq!(sending.touched.len(), 1);
    set_after(&owed, &key, sending);
    assert!(owed.begin_sending(&gone).touched.is_empty(), "it is forgotten");
}
