//! What Prometheus reads.

use std::collections::BTreeMap;

use cloakroom::PrunePolicy;
use cloakroom::live::LiveOptions;
use cloakroom::prune::NoActivity;

use super::*;

fn text(seen: &Seen) -> String {
    let answer = seen.get("/metrics");
    assert_eq!(answer.status, 200);
    assert!(answer.head.to_lowercase().contains("content-type: text/plain; version=0.0.4"), "{}", answer.head);
    String::from_utf8(answer.body).unwrap()
}

/// The values by name and labels, without the label of the store.
fn values(text: &str, store: &str) -> BTreeMap<String, f64> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').unwrap();
            let own = format!("{{store=\"{store}\"");
            assert!(name.contains(&own), "{name}");
            let name = name.replace(&own, "{").replace("{,", "{").replace("{}", "");
            (name, value.parse().unwrap())
        })
        .collect()
}

#[test]
fn what_the_store_does_is_counted() {
    let seen = Seen::new(5);
    seen.store.suspend(&key(0)).unwrap().unwrap();
    for n in 0..5 {
        seen.store.touch(&key(n)).unwrap().unwrap();
    }
    seen.store.flush().unwrap();
    seen.home.clock.advance(100 * DAY);
    seen.store.resolve(&source(5)).unwrap();
    seen.store.prune(&PrunePolicy::max_age_days(90).max_entries(5), NoActivity).unwrap();
    let text = text(&seen);
    let values = values(&text, &seen.home.path().display().to_string());
    let is = |name: &str, value: f64| assert_eq!(values.get(name), Some(&value), "{name}\n{text}");
    is("cloakroom_entries", 2.0);
    is("cloakroom_pruned_total{reason=\"age\"}", 4.0);
    is("cloakroom_prune_kept{reason=\"suspended\"}", 1.0);
    is("cloakroom_oldest_protected_seconds", (100 * DAY).as_secs_f64());
    is("cloakroom_prune_passes_total", 1.0);
    is("cloakroom_open_clean", 1.0);
    is("cloakroom_read_only", 0.0);
    is("cloakroom_leases", 0.0);
    is("cloakroom_pending_changes", 0.0);
    assert!(values["cloakroom_touches_total"] >= 5.0);
    let commits = values["cloakroom_commits_total"];
    assert!(commits >= 1.0);
    is("cloakroom_commit_seconds_count", commits);
    is("cloakroom_commit_seconds_bucket{le=\"+Inf\"}", commits);
    is("cloakroom_commit_changes_count", commits);
    assert!(values["cloakroom_commit_seconds_sum"] > 0.0);
    assert!(values["cloakroom_disk_bytes"] > values["cloakroom_live_bytes"]);
    assert!(values["cloakroom_last_prune_timestamp_seconds"] > 1e9);
    assert!(!text.contains("agent:"), "no key is in it");
}

/// A label of a store keeps two apart, and each name has its help and its type once.
#[test]
fn figures_of_two_stores_are_apart_and_well_formed() {
    let (one, other) = (Seen::new(1), Seen::new(2));
    for (seen, entries) in [(&one, 1.0), (&other, 2.0)] {
        let text = text(seen);
        assert_eq!(values(&text, &seen.home.path().display().to_string())["cloakroom_entries"], entries);
        let mut described = std::collections::BTreeSet::new();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                assert!(described.insert(rest.split(' ').next().unwrap()), "twice: {line}");
                assert!(rest.ends_with('.'), "{line}");
            }
        }
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let name = line.split('{').next().unwrap();
            let base = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
            assert!(described.contains(base), "{line}");
        }
    }
}

/// The page has a row for each figure, and each row is one.
#[test]
fn the_page_lists_every_figure() {
    let seen = Seen::new(1);
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md")).unwrap();
    let listed: std::collections::BTreeSet<_> = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `"))
        .map(|line| line.split(['`', '{']).next().unwrap().to_owned())
        .collect();
    let text = text(&seen);
    let mut told: std::collections::BTreeSet<_> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "))
        .map(|line| line.split(' ').next().unwrap().to_owned())
        .collect();
    // Of a watcher, which this store has not.
    told.extend(["cloakroom_held_passes_total", "cloakroom_failed_passes_total"].map(str::to_owned));
    assert_eq!(listed, told);
    let watched = Seen::with(0, LiveOptions::new());
    assert!(!super::metrics::text(&watched).contains("held_passes"));
}
