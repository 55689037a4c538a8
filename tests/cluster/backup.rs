//! The backup of a store on a cluster is one of an embedded store.

use std::time::Duration;

use cloakroom::query::Filter;
use cloakroom::turns::TurnStart;
use cloakroom::{Options, SessionStore, Sessions, Usage};
use serde_json::json;

use crate::common::{fast_dir, key, source};
use crate::conformance::six;

#[test]
fn a_backup_becomes_an_embedded_store() {
    let store = six().open();
    for n in 0..40 {
        store.resolve(&source(n)).unwrap();
        let turn = Usage { input_tokens: n as u64, estimated_cost_usd: 0.5, ..Usage::ZERO };
        store.record_usage(&key(n), &turn).unwrap().unwrap();
    }
    store.suspend(&key(1)).unwrap().unwrap();
    store.pin(&key(2)).unwrap().unwrap();
    // Large enough for several parts, and for details that are kept with them.
    store.set_extra(&key(3), "large", &json!("e".repeat(50_000))).unwrap().unwrap();
    store.set_extra(&key(3), "small", &json!({"a": 1})).unwrap().unwrap();
    store.update(&key(4), &mut |details| details.display_name = Some("n".repeat(6000))).unwrap().unwrap();
    let TurnStart::Begun(begun) = store.try_begin_turn(&key(5)).unwrap() else { panic!() };
    let end = store.get(&key(6)).unwrap().unwrap().updated_at.saturating_add(Duration::from_secs(86_400));
    store.hold_until(&key(6), "job", end).unwrap().unwrap();
    let _here = store.hold(&key(7)).unwrap().unwrap();
    store.remove(&key(8)).unwrap().unwrap();

    let (mut file, mut told) = (Vec::new(), 0);
    let report = store.backup(&mut file, |progress| told = progress.entries).unwrap();
    assert_eq!((report.entries, report.turns, report.leases, report.bytes), (39, 1, 1, file.len() as u64));
    assert_eq!(told, 39);
    let dir = fast_dir();
    let options = || Options::new(dir.path().join("db"));
    let restored = SessionStore::restore(options(), &*file, |_| {}).unwrap();
    assert_eq!((restored.entries, restored.turns, restored.leases), (39, 1, 1));
    let embedded = SessionStore::open(options()).unwrap();
    for n in 0..40 {
        let (found, expected) = (embedded.get_with_extras(&key(n)).unwrap(), store.get_with_extras(&key(n)).unwrap());
        assert_eq!(found, expected, "{n}");
    }
    assert_eq!(embedded.iter(Filter::default()).unwrap().count(), 39);
    assert_eq!(embedded.turn(&key(5)).unwrap().unwrap().token, begun.token);
    let leases = embedded.leases().unwrap().items;
    assert!(leases.len() == 1 && leases[0].key == key(6) && leases[0].end == Some(end));
    assert_eq!(embedded.verify().unwrap().violations, []);
    // Numbers that are given later are later.
    embedded.set_extra(&key(3), "more", &json!("m".repeat(9000))).unwrap().unwrap();
    assert!(embedded.begin_turn(&key(5)).unwrap().unwrap().token > begun.token);
}
