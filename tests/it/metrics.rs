//! The figures of a store, through a recorder of our own. Other tests of this process count too.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cloakroom::prune::NoActivity;
use cloakroom::{PrunePolicy, SessionStore};
use metrics::{
    Counter, CounterFn, Gauge, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder, SharedString, Unit,
};

use crate::callbacks::within;
use crate::common::{Home, key, source};

/// The figures by name and labels; the label of the store is one of them only if the second field says so.
#[derive(Default, Clone)]
struct Seen(Arc<Mutex<BTreeMap<String, Arc<AtomicU64>>>>, bool);

impl Seen {
    fn place(&self, key: &Key) -> Arc<AtomicU64> {
        let labels = key.labels().filter(|label| self.1 || label.key() != "store");
        let labels: Vec<_> = labels.map(|label| format!("{}={}", label.key(), label.value())).collect();
        let name = [vec![key.name().to_owned()], labels].concat().join(" ");
        Arc::clone(self.0.lock().unwrap().entry(name).or_default())
    }

    fn get(&self, name: &str) -> Option<u64> {
        self.0.lock().unwrap().get(name).map(|value| value.load(Ordering::Relaxed))
    }
}

struct Count(Arc<AtomicU64>);

impl HistogramFn for Count {
    fn record(&self, seconds: f64) {
        assert!((0.0..600.0).contains(&seconds), "seconds");
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Recorder for Seen {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.place(key))
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(self.place(key))
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::from_arc(Arc::new(Count(self.place(key))))
    }
}

#[test]
fn what_a_store_does_is_counted() {
    // A view tells its figures without a recorder, and takes the place of none.
    #[cfg(feature = "live")]
    {
        let home = Home::new();
        let store = home.open();
        let live = cloakroom::live::Live::serve(&store, cloakroom::live::LiveOptions::new()).unwrap();
        let client = cloakroom::live::Client::at(live.socket()).unwrap();
        let mut text = Vec::new();
        let read = client.pieces("/metrics", |piece| {
            text.extend_from_slice(piece);
            Ok(())
        });
        read.unwrap();
        assert!(String::from_utf8(text).unwrap().contains("cloakroom_entries{"));
    }
    let seen = Seen::default();
    metrics::set_global_recorder(seen.clone()).ok().unwrap();
    let home = Home::new();
    let store = home.open();
    let _events = store.events(1);
    store.resolve(&source(0)).unwrap();
    store.resolve(&source(1)).unwrap();
    store.touch(&key(0)).unwrap().unwrap();
    store.flush().unwrap();
    home.clock.advance(Duration::from_secs(100 * 24 * 60 * 60));
    store.prune(&PrunePolicy::max_age_days(90), NoActivity).unwrap();
    // Waits for the committer, which wakes the waiters before it counts.
    store.close().unwrap();
    for (name, at_least) in [
        ("cloakroom_touches_total", 1),
        ("cloakroom_commits_total", 2),
        ("cloakroom_commit_seconds", 2),
        ("cloakroom_pruned_total reason=age", 2),
        ("cloakroom_events_dropped_total", 1),
        ("cloakroom_entries", 0),
        ("cloakroom_pending_changes", 0),
        ("cloakroom_pruned_total reason=entries", 0),
        ("cloakroom_pruned_total reason=bytes", 0),
        ("cloakroom_last_prune_timestamp_seconds", 1),
    ] {
        assert!(seen.get(name).is_some_and(|value| value >= at_least), "{name}: {:?}", seen.get(name));
    }
}

#[test]
fn two_stores_of_a_process_count_apart() {
    let seen = Seen(Arc::default(), true);
    let (one, other) = (Home::new(), Home::new());
    let stores = [one.open(), other.open()];
    metrics::with_local_recorder(&seen, || {
        for store in &stores {
            store.resolve(&source(0)).unwrap();
        }
        stores[0].touch(&key(0)).unwrap().unwrap();
        stores[0].touch(&key(0)).unwrap().unwrap();
        stores[1].touch(&key(0)).unwrap().unwrap();
    });
    let touches = |home: &Home| seen.get(&format!("cloakroom_touches_total store={}", home.path().display()));
    assert_eq!((touches(&one), touches(&other)), (Some(2), Some(1)));
    // No label has a key in it.
    let names: Vec<_> = seen.0.lock().unwrap().keys().cloned().collect();
    assert!(!names.iter().any(|name| name.contains("agent:")), "{names:?}");
}

/// Looks at its own store whenever it is called, and listens to it.
struct Looks(SessionStore, Arc<AtomicU64>);

impl CounterFn for Looks {
    fn increment(&self, by: u64) {
        self.0.get(&key(0)).unwrap();
        drop(self.0.touch(&key(1)).unwrap());
        drop(self.0.events(1));
        self.1.fetch_add(by, Ordering::SeqCst);
    }

    fn absolute(&self, _: u64) {}
}

struct LooksOnce(Mutex<Option<Looks>>, Seen);

impl Recorder for LooksOnce {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        // What it does counts too, and must not go round for ever.
        match self.0.lock().unwrap().take() {
            Some(looks) => Counter::from_arc(Arc::new(looks)),
            None => Counter::from_arc(self.1.place(key)),
        }
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(self.1.place(key))
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::from_arc(Arc::new(Count(self.1.place(key))))
    }
}

#[test]
fn a_recorder_may_use_the_store() {
    type Act = fn(&SessionStore);
    let acts: [(&str, Act); 4] = [
        ("touch", |store| drop(store.touch(&key(0)).unwrap().unwrap())),
        ("resolve", |store| drop(store.resolve(&source(0)).unwrap())),
        ("turn", |store| drop(store.begin_turn(&key(0)).unwrap().unwrap())),
        ("event", |store| drop(store.suspend(&key(0)).unwrap().unwrap())),
    ];
    for (what, act) in acts {
        let home = Home::new();
        let store = home.open();
        for n in 0..2 {
            store.resolve(&source(n)).unwrap();
        }
        let _full = store.events(1);
        store.suspend(&key(1)).unwrap().unwrap();
        let called = Arc::new(AtomicU64::new(0));
        let looks = Looks(store.clone(), Arc::clone(&called));
        within(what, move || {
            let recorder = LooksOnce(Mutex::new(Some(looks)), Seen::default());
            metrics::with_local_recorder(&recorder, || act(&store));
        });
        assert_eq!(called.load(Ordering::SeqCst), 1, "{what}");
    }
}

#[test]
fn what_is_pruned_is_counted_by_its_reason() {
    let seen = Seen::default();
    let home = Home::new();
    let store = home.open();
    for n in 0..10 {
        store.resolve(&source(n)).unwrap();
        if n == 2 {
            home.clock.advance(Duration::from_secs(100 * 24 * 60 * 60));
        }
    }
    // A pass counts on its own thread. Others may prune meanwhile.
    metrics::with_local_recorder(&seen, || {
        store.prune(&PrunePolicy::max_age_days(90).max_entries(5), NoActivity).unwrap();
        assert_eq!(store.len(), 5);
        store.prune(&PrunePolicy::max_age_days(90).max_disk_bytes(1, 1), NoActivity).unwrap();
        assert_eq!(store.len(), 0);
    });
    for (reason, expected) in [("age", 3), ("entries", 2), ("bytes", 5)] {
        assert_eq!(seen.get(&format!("cloakroom_pruned_total reason={reason}")), Some(expected), "{reason}");
    }
}
