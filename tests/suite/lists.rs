//! Work over many entries that reads.

use cloakroom::change::{Repoint, Resolve};
use cloakroom::prefix::BulkRemoval;
use cloakroom::query::Filter;
use cloakroom::{Error, SessionId, SessionKey};

use super::{Can, MINUTE, Rig, begin, get};
use crate::common::{NOW, key};

pub fn an_id_leads_to_its_entries(rig: &dyn Rig) {
    let store = rig.sessions();
    let shared = SessionId::new("shared").unwrap();
    let first = begin(rig, 1).session_id;
    for n in [2, 3] {
        begin(rig, n);
        store.repoint(&key(n), shared.clone(), &Repoint::new()).unwrap();
    }
    let found = |id: &SessionId| -> Vec<SessionKey> {
        store.find_by_session_id(id).unwrap().into_iter().map(|entry| entry.key).collect()
    };
    assert_eq!((found(&first), found(&shared)), (vec![key(1)], vec![key(2), key(3)]));
    store.repoint(&key(1), shared.clone(), &Repoint::new()).unwrap();
    assert_eq!((found(&first), found(&shared)), (vec![], vec![key(1), key(2), key(3)]));
    store.remove(&key(2)).unwrap().unwrap();
    assert_eq!(found(&shared), [key(1), key(3)]);
    assert_eq!(store.find_by_session_id(&shared).unwrap().items[0], get(rig, 1));
}

pub fn lists_are_newest_first(rig: &dyn Rig) {
    let store = rig.sessions();
    for n in 0..25 {
        begin(rig, n);
        rig.clock().advance(MINUTE);
    }
    store.touch(&key(3)).unwrap().unwrap();
    store.remove(&key(4)).unwrap().unwrap();
    let expected: Vec<_> = [3].into_iter().chain((0..25).rev().filter(|n| ![3, 4].contains(n))).map(key).collect();
    for limit in [1, 7, 24, 100] {
        let (mut found, mut cursor) = (Vec::new(), None);
        loop {
            let page = store.recent(limit, cursor.as_ref()).unwrap();
            assert!(page.entries.len() <= limit);
            for row in page.entries {
                assert_eq!(row.updated_at, store.get(&row.key).unwrap().unwrap().updated_at);
                found.push(row.key);
            }
            match page.next {
                Some(next) => cursor = Some(next),
                None => break,
            }
        }
        assert_eq!(found, expected, "pages of {limit}");
    }
    assert_eq!(store.len().unwrap(), 24);
    assert!(!store.is_empty().unwrap());
}

pub fn filters_filter(rig: &dyn Rig) {
    let store = rig.sessions();
    for n in 0..12 {
        begin(rig, n);
        rig.clock().advance(MINUTE);
    }
    store.suspend(&key(2)).unwrap().unwrap();
    store.pin(&key(5)).unwrap().unwrap();
    let found =
        |filter: Filter| -> Vec<SessionKey> { store.iter(filter).unwrap().map(|row| row.unwrap().key).collect() };
    let all = |numbers: &[usize]| numbers.iter().map(|n| key(*n)).collect::<Vec<_>>();
    assert_eq!(found(Filter::default()).len(), 12);
    assert_eq!(found(Filter { suspended: Some(true), ..Filter::default() }), all(&[2]));
    assert_eq!(found(Filter { pinned: Some(true), ..Filter::default() }), all(&[5]));
    let since = NOW.saturating_add(MINUTE * 8);
    assert_eq!(found(Filter { active_since: Some(since), ..Filter::default() }), all(&[11, 10, 9, 8]));
    assert_eq!(found(Filter::idle_since(NOW.saturating_add(MINUTE * 3))), all(&[2, 1, 0]));
    assert_eq!(found(Filter { user_id: Some("u7".into()), ..Filter::default() }), all(&[7]));
    assert_eq!(found(Filter { platform: Some("discord".into()), ..Filter::default() }).len(), 12);
    assert!(found(Filter { chat_type: Some("dm".into()), ..Filter::default() }).is_empty());
    let prefix = Some(key(1).as_str().to_owned());
    assert_eq!(found(Filter { key_prefix: prefix, ..Filter::default() }), all(&[1]));
}

/// What all keys of the tests begin with, up to their numbers.
fn stem() -> String {
    let (one, two) = (key(1), key(2));
    let same = one.as_str().chars().zip(two.as_str().chars()).take_while(|(a, b)| a == b);
    same.map(|(a, _)| a).collect()
}

pub fn keys_are_found_by_prefix(rig: &dyn Rig) {
    let store = rig.sessions();
    for n in 0..30 {
        begin(rig, n);
    }
    store.remove(&key(7)).unwrap().unwrap();
    let found = |prefix: &str| -> Vec<SessionKey> { store.keys(prefix).unwrap().map(Result::unwrap).collect() };
    let sorted = |numbers: &mut dyn Iterator<Item = usize>| {
        let mut keys: Vec<_> = numbers.map(key).collect();
        keys.sort();
        keys
    };
    assert_eq!(found(""), sorted(&mut (0..30).filter(|n| *n != 7)));
    assert_eq!(found(key(3).as_str()), [key(3)]);
    assert_eq!(store.count_prefix(&stem()).unwrap(), 29);
    assert!(found("nobody").is_empty() && found(key(7).as_str()).is_empty());
    let renamed = store.rename(&stem(), "elsewhere:");
    if rig.can(Can::Rename) {
        assert_eq!(renamed.unwrap().moved, 29);
        assert_eq!(store.count_prefix("elsewhere:").unwrap(), 29);
    } else {
        assert!(matches!(renamed, Err(Error::Unsupported { .. })), "{renamed:?}");
        assert_eq!(store.count_prefix(&stem()).unwrap(), 29);
    }
}

pub fn many_are_removed_by_a_filter(rig: &dyn Rig) {
    let store = rig.sessions();
    for n in 0..12 {
        begin(rig, n);
        rig.clock().advance(MINUTE);
    }
    store.pin(&key(1)).unwrap().unwrap();
    store.suspend(&key(2)).unwrap().unwrap();
    let idle = || Filter { pinned: Some(false), ..Filter::idle_since(NOW.saturating_add(MINUTE * 4)) };
    let BulkRemoval::CountDiffers { expected: 9, found: 3, .. } = store.remove_where(&idle(), Some(9)).unwrap() else {
        panic!("with another count nothing is removed");
    };
    assert_eq!(store.len().unwrap(), 12);
    let BulkRemoval::Removed(report) = store.remove_where(&idle(), Some(3)).unwrap() else { panic!() };
    assert_eq!((report.removed, report.changed, report.unreadable.count), (3, 0, 0));
    let left: Vec<_> = (0..12).filter(|n| store.contains(&key(*n)).unwrap()).collect();
    assert_eq!(left, [1, 4, 5, 6, 7, 8, 9, 10, 11]);
    // Without a count, and by what is in the larger record.
    let user = Filter { user_id: Some("u7".into()), ..Filter::default() };
    let BulkRemoval::Removed(report) = store.remove_where(&user, None).unwrap() else { panic!() };
    assert!(report.removed == 1 && !store.contains(&key(7)).unwrap());
    let BulkRemoval::Removed(report) = store.remove_where(&user, None).unwrap() else { panic!() };
    assert_eq!(report.removed, 0);
}

pub fn a_user_is_forgotten(rig: &dyn Rig) {
    let store = rig.sessions();
    for n in [1, 2] {
        begin(rig, n);
    }
    let shared = SessionId::new("shared").unwrap();
    store.repoint(&key(1), shared.clone(), &Repoint::new()).unwrap();
    // Its key begins with that of the first, and it is somebody else.
    let neighbour = SessionKey::new(format!("{}0", key(1).as_str())).unwrap();
    store.resolve_as(&neighbour, &Resolve::new()).unwrap();
    assert_eq!(store.forget(key(1).as_str()).unwrap().removed, 1);
    assert!(!store.contains(&key(1)).unwrap() && store.contains(&neighbour).unwrap());
    assert!(store.find_by_session_id(&shared).unwrap().items.is_empty());
    assert_eq!(store.forget(key(1).as_str()).unwrap().removed, 0);
    assert!(matches!(store.forget(""), Err(Error::Setting { .. })));
    assert_eq!(store.len().unwrap(), 2);
}
