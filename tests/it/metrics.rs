//! The figures of a store, through a recorder of our own. Other tests of this process count too.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cloakroom::prune::NoActivity;
use cloakroom::watcher::WatcherConfig;
use cloakroom::{PrunePolicy, SessionKey, SessionStore, Watcher};
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
    let seen = Seen(Arc::default(), true);
    metrics::set_global_recorder(seen.clone()).ok().unwrap();
    let home = Home::new();
    let store = home.open();
    let _events = store.events(1);
    store.resolve(&source(0)).unwrap();
    store.resolve(&source(1)).unwrap();
    store.touch(&key(0)).unwrap().unwrap();
    store.flush().unwrap();
    home.clock.advance(Duration::from_secs(100 * 24 * 60 * 60));
    // All of it would go at once, so the watcher holds its first pass.
    let watcher = Watcher::spawn(&store, WatcherConfig::default(), NoActivity).unwrap();
    let held = seen.clone();
    let label = format!("store={}", home.path().display());
    let name = format!("cloakroom_held_passes_total {label}");
    within("a pass is held", move || {
        while held.get(&name).is_none() {
            std::thread::yield_now();
        }
    });
    watcher.stop();
    store.prune(&PrunePolicy::max_age_days(90), |_: &SessionKey| Err::<bool, _>("nobody knows")).unwrap();
    store.prune(&PrunePolicy::max_age_days(90), NoActivity).unwrap();
    // Waits for the committer, which wakes the waiters before it counts.
    store.close().unwrap();
    // Gauges are there as the bits of a number.
    let one = 1.0_f64.to_bits();
    for (name, at_least) in [
        ("cloakroom_touches_total", 1),
        ("cloakroom_commits_total", 2),
        ("cloakroom_commit_seconds", 2),
        ("cloakroom_pruned_total reason=age", 2),
        ("cloakroom_prune_passes_total", 2),
        ("cloakroom_guard_failures_total", 2),
        ("cloakroom_held_passes_total", 1),
        ("cloakroom_events_dropped_total", 1),
        ("cloakroom_entries", 0),
        ("cloakroom_pending_changes", 0),
        ("cloakroom_journal_entries", 0),
        ("cloakroom_pruned_total reason=entries", 0),
        ("cloakroom_pruned_total reason=bytes", 0),
        ("cloakroom_last_prune_timestamp_seconds", 1),
        ("cloakroom_open_clean", one),
        ("cloakroom_open_repairs", 0),
        ("cloakroom_open_shortfall", 0),
        ("cloakroom_open_shortfall_entries", 0),
        ("cloakroom_open_times_ahead", 0),
        ("cloakroom_open_clock_doubted", 0),
        ("cloakroom_read_only", 0),
        (concat!("cloakroom_info version=", env!("CARGO_PKG_VERSION")), one),
    ] {
        let (base, reason) = name.split_once(' ').unwrap_or((name, ""));
        let name = format!("{base} {label} {reason}");
        let value = seen.get(name.trim_end());
        assert!(value.is_some_and(|value| value >= at_least), "{name}: {value:?}");
    }
    assert_eq!(seen.get(&format!("cloakroom_read_only {label}")), Some(0));
}

/// Each figure that the page says the facade has.
#[test]
fn the_page_says_which_figures_the_facade_has() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md")).unwrap();
    let source = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/src/meter.rs")).unwrap();
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `"));
    let mut told = 0;
    for row in rows {
        let name = row.split(['`', '{']).next().unwrap();
        assert_eq!(row.ends_with("| yes |"), source.contains(&format!("(\"{name}\"")), "{name}");
        told += usize::from(row.ends_with("| yes |"));
    }
    assert_eq!(told, 24);
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
