//! An entry's extras, one by one: what they say, what a change costs, and what is left where one is damaged.

use cloakroom::{Extras, Options, SessionKey, SessionSource, SessionStore};
use serde_json::Value;

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
