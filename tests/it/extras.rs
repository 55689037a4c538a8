//! An entry's extras, one by one: what they say, what a change costs, and what is left where one is damaged.

use std::collections::BTreeMap;
use std::path::Path;

use cloakroom::time::ManualClock;
use cloakroom::{Error, Extras, Options, SessionKey, SessionSource, SessionStore};
use serde_json::Value;

use crate::behind::open_sled;
use crate::common::{NOW, key, options, source};
use crate::powercut::DATABASE;
use crate::rig::{CHILD_PART, CHILD_ROOT, Rig};
use crate::rig_selftest::ack;

fn store() -> (tempfile::TempDir, SessionStore, SessionKey) {
    let dir = tempfile::tempdir().unwrap();
    let store = SessionStore::open(Options::new(dir.path().join("db")).create(true)).unwrap();
    let source = SessionSource { user_id: Some("ada".into()), platform: "discord".into(), ..Default::default() };
    let key = store.resolve(&source).unwrap().entry.key;
    (dir, store, key)
}

fn text(letter: &str, bytes: usize) -> Value {
    letter.repeat(bytes).into()
}

/// However large and however many: each is read, set and removed by itself, before its commit and after an opening.
#[test]
fn each_is_kept_by_its_name() {
    let (dir, store, key) = store();
    let mut expected = Extras::default();
    for n in 0..120 {
        let bytes = [3, 500, 700, 5000][n % 4];
        let (name, value) = (format!("name-{}", n % 50), text(["a", "b", "c"][n % 3], bytes));
        store.set_extra(&key, &name, &value).unwrap().unwrap();
        expected.insert(name.clone(), &value);
        if n % 7 == 0 {
            let gone = format!("name-{}", (n * 3) % 50);
            assert_eq!(store.remove_extra(&key, &gone).unwrap().is_some(), expected.remove(&gone));
        }
        if n % 10 == 0 {
            store.flush().unwrap();
        }
        assert_eq!(store.extra(&key, &name).unwrap().as_deref(), expected.text(&name));
    }
    let bytes: usize = expected.iter().map(|(name, text)| name.len() + text.len()).sum();
    store.close().unwrap();
    drop(store);
    let store = SessionStore::open(Options::new(dir.path().join("db"))).unwrap();
    let (entry, extras) = store.get_with_extras(&key).unwrap().unwrap();
    assert_eq!((extras, entry.extras_bytes as usize), (expected.clone(), bytes));
    for (name, text) in expected.iter() {
        assert_eq!(store.extra(&key, name).unwrap().as_deref(), Some(text));
    }
    assert_eq!(store.extra(&key, "none").unwrap(), None);
    let found = store.verify().unwrap();
    assert_eq!((found.violations, found.orphaned_chunks), (vec![], 0));

    store.set_extras(&key, &Extras::default()).unwrap().unwrap();
    store.flush().unwrap();
    assert_eq!(store.get(&key).unwrap().unwrap().extras_bytes, 0);
    assert_eq!(store.verify().unwrap().orphaned_chunks, 0);
}

/// What an entry kept outside its records goes with it, and nothing else does.
#[test]
fn they_go_with_their_entry() {
    let (_dir, store, key) = store();
    let other = SessionSource { user_id: Some("bob".into()), platform: "discord".into(), ..Default::default() };
    let other = store.resolve(&other).unwrap().entry.key;
    for key in [&key, &other] {
        store.set_extra(key, "large", &text("x", 9000)).unwrap().unwrap();
    }
    store.flush().unwrap();
    store.remove(&key).unwrap().unwrap();
    store.flush().unwrap();
    let found = store.verify().unwrap();
    assert_eq!((found.violations, found.orphaned_chunks), (vec![], 0));
    assert_eq!(store.extra(&other, "large").unwrap().map(|text| text.len()), Some(9002));
    // One that comes to the key within the commit begins without them.
    store.remove(&other).unwrap().unwrap();
    store
        .resolve(&SessionSource { user_id: Some("bob".into()), platform: "discord".into(), ..Default::default() })
        .unwrap();
    store.set_extra(&other, "large", &text("y", 700)).unwrap().unwrap();
    store.flush().unwrap();
    let found = store.verify().unwrap();
    assert_eq!((found.violations, found.orphaned_chunks), (vec![], 0));
    assert_eq!(store.extra(&other, "large").unwrap().map(|text| text.len()), Some(702));
}

#[test]
fn all_together_have_a_limit() {
    let (_dir, store, key) = store();
    for n in 0..10 {
        store.set_extra(&key, &format!("{n}"), &text("x", 100_000)).unwrap().unwrap();
    }
    let refused = store.set_extra(&key, "one more", &text("x", 100_000)).unwrap_err();
    assert!(matches!(refused, cloakroom::Error::TooLarge { .. }), "{refused}");
    assert_eq!(store.extra(&key, "one more").unwrap(), None);
    store.set_extra(&key, "0", &text("y", 100_000)).unwrap().unwrap();
}

/// The rows of extras in a store that is closed.
fn rows(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let db = open_sled(&sled::Config::new().path(path.join("sled"))).unwrap();
    let rows = db.open_tree("extras").unwrap();
    rows.iter().map(|row| row.unwrap()).map(|(row, value)| (row.to_vec(), value.to_vec())).collect()
}

#[test]
fn a_small_change_leaves_the_rows_of_a_large_one_alone() {
    let (dir, store, key) = store();
    let path = dir.path().join("db");
    store.set_extra(&key, "large", &text("x", 100_000)).unwrap().unwrap();
    store.set_extra(&key, "small", &text("a", 18)).unwrap().unwrap();
    store.close().unwrap();
    drop(store);
    let before = rows(&path);
    assert!(before.len() > 20, "{} rows", before.len());

    let store = SessionStore::open(Options::new(&path)).unwrap();
    for letter in ["b", "c", "d"] {
        store.set_extra(&key, "small", &text(letter, 18)).unwrap().unwrap().wait().unwrap();
    }
    store.remove_extra(&key, "small").unwrap().unwrap().wait().unwrap();
    store.close().unwrap();
    drop(store);
    assert!(rows(&path) == before, "the rows of the large one were written");
}

const MAIN: &str = "extras::child_main";
const CHANGES: usize = 10;

#[test]
fn child_main() {
    let (Ok(_), Ok(root)) = (std::env::var(CHILD_PART), std::env::var(CHILD_ROOT)) else {
        return;
    };
    let root = Path::new(&root);
    let store = SessionStore::open(options(&root.join("sessions.db")).clock(ManualClock::new(NOW))).unwrap();
    store.resolve(&source(0)).unwrap();
    store.set_extra(&key(0), "large", &text("x", 100_000)).unwrap().unwrap();
    store.flush().unwrap();
    ack(root, "begun");
    for n in 0..CHANGES {
        store.update(&key(0), |details| details.cost_status = Some(n.to_string())).unwrap().unwrap().wait().unwrap();
    }
    ack(root, "updated");
    for n in 0..CHANGES {
        store.set_extra(&key(0), "small", &n.into()).unwrap().unwrap().wait().unwrap();
    }
    ack(root, "set");
}

/// It goes with the record of the entry, as details do.
#[test]
fn a_small_change_costs_the_syncs_of_any_other() {
    let rig = Rig::new();
    assert!(rig.child(MAIN, "changes").status().unwrap().success());
    let trace = rig.trace();
    let mut syncs = BTreeMap::<String, usize>::new();
    for at in trace.syncs_of(DATABASE) {
        *syncs.entry(trace.acks_before(at).pop().unwrap_or_default()).or_default() += 1;
    }
    assert!(syncs["begun"] >= CHANGES, "{syncs:?}");
    assert_eq!(syncs["begun"], syncs["updated"], "{syncs:?}");
}

/// Its text cannot be read; the other names, and all changes, do not look at it.
#[test]
fn one_that_is_damaged_harms_no_other() {
    let (dir, store, key) = store();
    let path = dir.path().join("db");
    let others = [("large", text("l", 7000)), ("small", text("s", 18))];
    store.set_extra(&key, "damaged", &text("d", 9000)).unwrap().unwrap();
    for (name, value) in &others {
        store.set_extra(&key, name, value).unwrap().unwrap();
    }
    store.close().unwrap();
    drop(store);
    {
        let (row, mut value) = rows(&path).into_iter().find(|(_, value)| value.ends_with(b"ddd")).unwrap();
        *value.last_mut().unwrap() = 0xff;
        let db = open_sled(&sled::Config::new().path(path.join("sled"))).unwrap();
        db.open_tree("extras").unwrap().insert(row, value).unwrap();
    }

    let store = SessionStore::open(Options::new(&path)).unwrap();
    let is_damaged = |error: Error| matches!(error, Error::DamagedRecord { .. });
    assert!(is_damaged(store.extra(&key, "damaged").unwrap_err()));
    assert!(is_damaged(store.get_with_extras(&key).unwrap_err()));
    for (name, value) in &others {
        assert_eq!(store.extra(&key, name).unwrap(), Some(value.to_string()));
        store.set_extra(&key, name, &text("n", 5000)).unwrap().unwrap().wait().unwrap();
        assert_eq!(store.extra(&key, name).unwrap(), Some(text("n", 5000).to_string()));
        store.remove_extra(&key, name).unwrap().unwrap();
        assert_eq!(store.extra(&key, name).unwrap(), None);
    }
    assert!(is_damaged(store.extra(&key, "damaged").unwrap_err()));
    store.set_extra(&key, "damaged", &text("n", 18)).unwrap().unwrap();
    store.close().unwrap();
    drop(store);
    let store = SessionStore::open(Options::new(&path)).unwrap();
    let (_, extras) = store.get_with_extras(&key).unwrap().unwrap();
    assert_eq!(extras.iter().collect::<Vec<_>>(), [("damaged", &*text("n", 18).to_string())]);
    let found = store.verify().unwrap();
    assert_eq!((found.violations, found.orphaned_chunks), (vec![], 0));
}
