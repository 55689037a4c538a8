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

const MONITORING: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/monitoring");

/// All figures, those of a watcher too.
fn watched() -> String {
    let home = Home::new();
    let store = home.open();
    store.resolve(&source(0)).unwrap();
    let watcher = cloakroom::Watcher::spawn(&store, Default::default(), NoActivity).unwrap();
    watcher.reports().recv().unwrap();
    let live = Live::serve(&store, LiveOptions::new().watcher(&watcher)).unwrap();
    let seen = Seen { home, store, live };
    let text = text(&seen);
    watcher.stop();
    text
}

/// What the dashboard asks for.
fn expressions() -> Vec<String> {
    let text = std::fs::read_to_string(format!("{MONITORING}/dashboard.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().unwrap());
    let found: Vec<_> = targets.map(|target| target["expr"].as_str().unwrap().to_owned()).collect();
    assert!(found.len() > 10 && found.iter().all(|expression| expression.contains("store=~\"$store\"")), "{found:?}");
    found
}

/// The rules and the dashboard ask for figures that there are.
#[test]
fn what_is_watched_is_told() {
    let text = watched();
    let rules = std::fs::read_to_string(format!("{MONITORING}/alerts.yml")).unwrap();
    let asked = rules.lines().filter(|line| line.trim_start().starts_with("expr:")).map(str::to_owned);
    let mut names = std::collections::BTreeSet::new();
    for expression in asked.chain(expressions()) {
        let words = expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        names.extend(words.filter(|word| word.starts_with("cloakroom_")).map(str::to_owned));
    }
    assert!(names.len() > 15, "{names:?}");
    for name in names {
        assert!(text.lines().any(|line| line.starts_with(&format!("{name}{{"))), "{name}");
    }
}

/// Prometheus' own checks, where its tools are.
#[test]
fn prometheus_takes_the_figures_the_rules_and_the_dashboard() {
    let promtool = |arguments: &[&str], input: &str| {
        let mut command = std::process::Command::new("promtool");
        let command = command.args(["check"]).args(arguments).current_dir(MONITORING);
        let pipe = std::process::Stdio::piped;
        let mut child = command.stdin(pipe()).stdout(pipe()).stderr(pipe()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        output
    };
    if std::process::Command::new("promtool").arg("--version").output().is_err() {
        println!("left out: promtool is not here");
        return;
    }
    let checked = promtool(&["metrics"], &watched());
    assert!(checked.stdout.is_empty() && checked.stderr.is_empty(), "{checked:?}");
    promtool(&["config", "prometheus.yml"], "");
    promtool(&["rules", "alerts.yml"], "");
    // Each question of the dashboard, as if it were recorded.
    let mut rules = "groups:\n  - name: dashboard\n    rules:\n".to_owned();
    for (n, expression) in expressions().iter().enumerate() {
        let quoted = serde_json::to_string(&expression.replace("$store", ".*")).unwrap();
        rules.push_str(&format!("      - record: dashboard:{n}\n        expr: {quoted}\n"));
    }
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("rules.yml");
    std::fs::write(&file, rules).unwrap();
    promtool(&["rules", file.to_str().unwrap()], "");
}

/// The page has a row for each figure, and each row is one.
#[test]
fn the_page_lists_every_figure() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md")).unwrap();
    let listed: std::collections::BTreeSet<_> = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `"))
        .map(|line| line.split(['`', '{']).next().unwrap().to_owned())
        // Those of a cluster are listed without their common beginning.
        .filter(|name| name.starts_with("cloakroom_"))
        .collect();
    let text = watched();
    let told: std::collections::BTreeSet<_> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "))
        .map(|line| line.split(' ').next().unwrap().to_owned())
        .collect();
    assert_eq!(listed, told);
    // Without a watcher there are none of one.
    assert!(!super::metrics::text(&Seen::new(1)).contains("held_passes"));
}
