//! The files of an open store are removed: it notices, and calls nothing durable that is not.

use std::fs;
use std::path::Path;

use cloakroom::{Error, SessionStore};

use crate::common::{Home, key, source};

fn notices(remove: fn(&Path)) {
    let home = Home::new();
    let store = home.open();
    (0..10).for_each(|n| drop(store.resolve(&source(n)).unwrap()));
    store.flush().unwrap();
    let unaware = store.touch(&key(1)).unwrap().unwrap();
    remove(&home.path());
    let removed = |error: Error| {
        let Error::ReadOnly { failure, path } = &error else { panic!("{error:?}") };
        assert!(matches!(&**failure, Error::Removed { path } if *path == home.path()), "{failure:?}");
        assert_eq!(*path, home.path());
    };
    removed(unaware.wait().unwrap_err());
    removed(store.touch(&key(2)).map(drop).unwrap_err());
    removed(store.flush().unwrap_err());
    assert!(store.get(&key(3)).unwrap().is_some(), "what is in memory can be read");
    removed(store.close().unwrap_err());
    drop(store);
}

#[test]
fn a_store_whose_directory_is_removed_turns_read_only() {
    notices(|path| fs::remove_dir_all(path).unwrap());
}

#[test]
fn so_does_one_whose_database_is_removed() {
    notices(|path| fs::remove_file(path.join("sled/db")).unwrap());
}

#[test]
fn a_new_store_can_take_its_place_at_once() {
    let home = Home::new();
    let old = home.open();
    old.resolve(&source(1)).unwrap().receipt.wait().unwrap();
    fs::remove_dir_all(home.path()).unwrap();
    let new = SessionStore::open(home.options()).unwrap();
    new.resolve(&source(2)).unwrap().receipt.wait().unwrap();
    assert!(matches!(old.resolve(&source(3)).unwrap().receipt.wait(), Err(Error::ReadOnly { .. })));
    drop(old);
    new.close().unwrap();
    drop(new);
    let store = home.open();
    assert!(store.open_report().clean);
    assert!(store.get(&key(1)).unwrap().is_none() && store.get(&key(2)).unwrap().is_some());
}
