//! Files of gateways, into a store on a cluster and out of it.

use cloakroom::change::{Draft, Edit, Resolve, Touch};
use cloakroom::export::{ExportFormat, ExportOptions};
use cloakroom::import::{ImportOptions, OnConflict};
use cloakroom::{Error, Options, SessionStore, Sessions, Timestamp};
use serde_json::{Value, json};

use crate::common::{fast_dir, key};
use crate::conformance::six;

/// Entries of Hermes, with fields that the store has no names for.
fn file() -> Value {
    let entry = |n: usize| {
        let id = format!("20260612_000653_{n:08x}");
        (
            key(n).as_str().to_owned(),
            json!({"session_id": id, "created_at": "2026-06-12T00:06:53", "updated_at": "2026-06-12T00:07:04.247913",
                "input_tokens": n, "theirs": {"n": n, "large": "x".repeat(n * 3000)}}),
        )
    };
    (0..12).map(entry).collect::<serde_json::Map<_, _>>().into()
}

fn options<'a>() -> ImportOptions<'a> {
    ImportOptions::new().zone("Europe/Berlin".parse().unwrap()).trust_times(true)
}

#[test]
fn a_file_goes_into_a_store_that_is_there_and_out_of_it() {
    let store = six().open();
    // One that is newer than that of the file, one that is older, and one that the file has not.
    for n in [3, 4, 20] {
        store.resolve_as(&key(n), &Resolve::new()).unwrap();
    }
    let ours = store.get(&key(3)).unwrap().unwrap();
    let mut ages = |draft: &mut Draft<'_>| {
        draft.entry.updated_at = Timestamp::from_micros(1_000_000);
        Edit::Write
    };
    store.modify(&key(4), Touch::No, &mut ages).unwrap();
    let mut text = file().as_object().unwrap().clone();
    text.insert("_README".into(), "a note".into());
    let text = serde_json::to_vec(&text).unwrap();

    let mut told = 0;
    let report = store.import(&*text, options(), |progress| told = progress.read).unwrap();
    let counts = (report.read, report.imported, report.updated, report.kept, report.not_in_file);
    assert_eq!((counts, told), ((12, 10, 1, 1, 1), 12));
    assert_eq!((report.notes, report.notes_left_out), (1, 1));
    assert_eq!(store.get(&key(3)).unwrap().unwrap(), ours);
    // All is as an embedded store has it.
    let dir = fast_dir();
    let embedded = SessionStore::open(Options::new(dir.path().join("db")).create(true)).unwrap();
    embedded.import(&*text, options(), |_| {}).unwrap();
    for n in (0..12).filter(|n| *n != 3) {
        let (found, extras) = store.get_with_extras(&key(n)).unwrap().unwrap();
        let (mut expected, expected_extras) = embedded.get_with_extras(&key(n)).unwrap().unwrap();
        expected.revision = found.revision;
        assert_eq!((found, extras), (expected, expected_extras), "{n}");
    }
    // Again, it changes nothing; and it may be told to take the place of what is there.
    let again = store.import(&*text, options(), |_| {}).unwrap();
    assert_eq!((again.imported, again.updated, again.kept, again.unchanged), (0, 0, 12, 11));
    let dry = store.import(&*text, options().on_conflict(OnConflict::Replace).dry_run(true), |_| {}).unwrap();
    assert_eq!((dry.updated, store.get(&key(3)).unwrap().unwrap()), (12, ours));
    store.import(&*text, options().on_conflict(OnConflict::Replace), |_| {}).unwrap();

    store.remove(&key(20)).unwrap().unwrap();
    let mut out = Vec::new();
    let format = ExportOptions::new(ExportFormat::Hermes).zone("Europe/Berlin".parse().unwrap());
    let report = store.export(&mut out, &format).unwrap();
    assert_eq!((report.entries, report.notes, report.unreadable.count), (12, 0, 0));
    let mut expected = Vec::new();
    embedded.export(&mut expected, &format).unwrap();
    let mut expected: Value = serde_json::from_slice(&expected).unwrap();
    expected.as_object_mut().unwrap().remove("_README").unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&out).unwrap(), expected);
    let keys: Vec<_> = expected.as_object().unwrap().keys().cloned().collect();
    let places: Vec<_> =
        keys.iter().map(|key| String::from_utf8_lossy(&out).find(&format!("\"{key}\":")).unwrap()).collect();
    assert!(places.len() == 12 && places.is_sorted(), "they come in the order of their keys");
    let nothing = store.import(&b"[]"[..], options(), |_| {});
    assert!(matches!(nothing, Err(Error::NotASessionFile { .. })));
    assert!(store.verify().unwrap().violations.is_empty());
}
