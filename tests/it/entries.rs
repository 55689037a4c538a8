//! The fields of an entry: a change of any of them is seen, and values that would stick are refused.

use std::time::Duration;

use cloakroom::change::Removal;
use cloakroom::query::Filter;
use cloakroom::{Error, SessionEntry, SessionSource, SessionStore, Usage};
use serde_json::json;

use crate::common::{Home, assert_sound, key, source};

fn get(store: &SessionStore, n: usize) -> SessionEntry {
    store.get(&key(n)).unwrap().unwrap()
}

fn set_metadata(store: &SessionStore, n: usize, value: &str) {
    store.set_metadata(&key(n), json!({"note": value}).as_object().unwrap()).unwrap().unwrap();
}

#[test]
fn a_removal_of_what_was_seen_takes_nothing_else() {
    type Act = fn(&SessionStore);
    let acts: [(&str, Act); 9] = [
        ("metadata of the same length", |store| set_metadata(store, 0, "two")),
        ("the same metadata", |store| set_metadata(store, 0, "one")),
        ("there and back", |store| ["two", "one"].into_iter().for_each(|text| set_metadata(store, 0, text))),
        ("no metadata", |store| drop(store.set_metadata(&key(0), &serde_json::Map::new()).unwrap().unwrap())),
        ("details", |store| drop(store.update(&key(0), |details| details.expiry_finalized = true).unwrap().unwrap())),
        ("counters", |store| {
            store.record_usage(&key(0), &Usage { last_prompt_tokens: 1, ..Usage::ZERO }).unwrap().unwrap();
        }),
        ("suspended", |store| drop(store.suspend(&key(0)).unwrap().unwrap())),
        ("reset", |store| drop(store.reset(&key(0)).unwrap().unwrap())),
        ("removed and back", |store| {
            store.remove(&key(0)).unwrap().unwrap();
            store.resolve(&source(0)).unwrap();
        }),
    ];
    for (what, act) in acts {
        for is_synced in [false, true] {
            let home = Home::new();
            let store = home.open();
            store.resolve(&source(0)).unwrap();
            set_metadata(&store, 0, "one");
            let seen = get(&store, 0);
            if is_synced {
                store.flush().unwrap();
            }
            act(&store);
            if is_synced {
                store.flush().unwrap();
            }
            let removal = store.remove_if(&key(0), &seen).unwrap();
            assert!(matches!(removal, Removal::Changed), "{what}: {removal:?}");
            let seen = get(&store, 0);
            // What it has is the same after another opening.
            drop(store);
            let store = home.open();
            let removal = store.remove_if(&key(0), &seen).unwrap();
            assert!(matches!(removal, Removal::Removed(_)), "{what}: {removal:?}");
            assert!(matches!(store.remove_if(&key(0), &seen).unwrap(), Removal::Missing));
            assert_sound(&store);
        }
    }
}

/// Whichever verb answered it, and however large it is.
#[test]
fn what_a_verb_answers_is_what_is_there() {
    let home = Home::new();
    let store = home.open();
    let large = SessionSource { chat_topic: Some("x".repeat(10_000)), ..source(0) };
    for source in [source(0), large] {
        let created = store.resolve(&source).unwrap().entry;
        let found = store.resolve(&source).unwrap().entry;
        store.suspend(&key(0)).unwrap().unwrap();
        let replaced = store.resolve(&source).unwrap().entry;
        assert_eq!(replaced, get(&store, 0));
        assert_eq!(created, found);
        let reset = store.reset(&key(0)).unwrap().unwrap().entry;
        assert_eq!(reset, get(&store, 0));
        let by_id = store.find_by_session_id(&reset.session_id).unwrap();
        assert_eq!(by_id.items, std::slice::from_ref(&reset));
        assert!(matches!(store.remove_if(&key(0), &reset).unwrap(), Removal::Removed(_)));
        let again = store.resolve(&source).unwrap().entry;
        assert!(matches!(store.remove_if(&key(0), &again).unwrap(), Removal::Removed(_)));
    }
}

#[test]
fn a_cost_that_is_no_number_is_refused() {
    let home = Home::new();
    let store = home.open();
    store.resolve(&source(0)).unwrap();
    let usage = || get(&store, 0).usage;
    for cost in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let turn = Usage { input_tokens: 3, estimated_cost_usd: cost, ..Usage::ZERO };
        let refused = store.record_usage(&key(0), &turn).unwrap_err();
        assert!(matches!(&refused, Error::InvalidCost { .. }), "{refused:?}");
        assert!(refused.to_string().contains("finite"), "{refused}");
        assert_eq!(usage(), Usage::ZERO, "nothing of it is counted");
        // Whether there is an entry or not.
        assert!(store.record_usage(&key(1), &turn).is_err());
    }
    let turn = Usage { input_tokens: 3, estimated_cost_usd: 0.5, ..Usage::ZERO };
    store.record_usage(&key(0), &turn).unwrap().unwrap();
    store.record_usage(&key(0), &Usage { estimated_cost_usd: -0.25, ..Usage::ZERO }).unwrap().unwrap();
    assert_eq!(usage(), Usage { estimated_cost_usd: 0.25, ..turn });
}

#[test]
fn counters_end_at_the_largest_number() {
    let home = Home::new();
    let store = home.open();
    store.resolve(&source(0)).unwrap();
    let most = Usage {
        input_tokens: u64::MAX,
        output_tokens: u64::MAX,
        cache_read_tokens: u64::MAX,
        cache_write_tokens: u64::MAX,
        total_tokens: u64::MAX,
        last_prompt_tokens: u64::MAX,
        estimated_cost_usd: f64::MAX,
    };
    for _ in 0..2 {
        store.record_usage(&key(0), &most).unwrap().unwrap();
        assert_eq!(get(&store, 0).usage, most);
    }
    for _ in 0..2 {
        let less = Usage { estimated_cost_usd: -f64::MAX, ..Usage::ZERO };
        store.record_usage(&key(0), &less).unwrap().unwrap();
    }
    assert_eq!(get(&store, 0).usage.estimated_cost_usd, -f64::MAX, "it can come back from there");
}

/// The index learns of a change with its commit. Until then the entry stands where it was, and no list misses it.
#[test]
fn an_entry_that_is_touched_while_it_is_listed_is_there() {
    let home = Home::new();
    let store = SessionStore::open(home.options().commit_interval(Duration::from_secs(3600))).unwrap();
    for n in 0..3 {
        store.resolve(&source(n)).unwrap();
        home.clock.advance(Duration::from_secs(1));
    }
    let mut rows = store.iter(Filter::default()).unwrap();
    store.touch(&key(1)).unwrap().unwrap();
    let first = rows.next().unwrap().unwrap();
    home.clock.advance(Duration::from_secs(1));
    store.touch(&key(2)).unwrap().unwrap();
    let mut listed: Vec<_> = std::iter::once(first).chain(rows.map(Result::unwrap)).map(|row| row.key).collect();
    listed.sort_unstable();
    assert_eq!(listed, [0, 1, 2].map(key));
}
