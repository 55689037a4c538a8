//! Work over many entries that reads.

use cloakroom::change::Repoint;
use cloakroom::query::Filter;
use cloakroom::{SessionId, SessionKey};

use super::{MINUTE, Rig, begin, get};
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
