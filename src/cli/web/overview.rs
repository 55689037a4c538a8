//! The store at a glance.

use std::time::Duration;

use axum::extract::State;
use axum::response::Html;
use maud::html;
use serde_json::Value;

use super::ask::{Asker, Shown};
use super::page::{count, counted, from_now, lasting, millis, number, page, seconds, text, tile, tile_of, time};
use super::plot;
use crate::cli::output::size;

pub(super) async fn show(State(asker): State<Asker>) -> Shown<Html<String>> {
    let (store, history) = (asker.get("/v1/store").await?, asker.get("/v1/history").await?);
    let empty = Vec::new();
    let steps = history.pointer("/steps").and_then(Value::as_array).unwrap_or(&empty);
    let series = |name: &str, scale: f64| -> Vec<Option<f64>> {
        steps.iter().map(|step| step.get(name).and_then(Value::as_f64).map(|value| value * scale)).collect()
    };
    let began = steps.first().and_then(|step| Some(number(step, "/seconds_ago")? + number(step, "/seconds")?));
    let ago = |seconds: f64| lasting(Duration::from_secs_f64(seconds.max(0.0)));
    let since = format!("{} ago", ago(began.unwrap_or(0.0)));
    let ends: Vec<_> =
        steps.iter().map(|step| format!("{} ago", ago(number(step, "/seconds_ago").unwrap_or(0.0)))).collect();
    let now = time(&store, "/now");
    let rate = |path: &str| number(&store, path).map_or("–".to_owned(), |rate| format!("{rate:.1}"));
    let watcher = store.get("watcher").filter(|watcher| !watcher.is_null());
    let body = html! {
        @if let Some(failure) = text(&store, "/failure/message") {
            div.banner.bad role="alert" { strong { "The store takes no changes. " } (failure) }
        }
        @if store.pointer("/open_report/shortfall").is_some_and(|lost| !lost.is_null()) {
            div.banner.bad role="alert" {
                strong { "Something damaged the files of the store. " }
                "There were " (counted(&store, "/open_report/shortfall/expected_entries")) " entries, and "
                (counted(&store, "/open_report/shortfall/found_entries")) " were found. Restore a backup, or check the disk."
            }
        }
        @if store.pointer("/open_report/clock_doubted").and_then(Value::as_bool) == Some(true) {
            div.banner role="status" { "The clock is doubted: nothing is pruned until it has run for a day without a jump." }
        }
        @if store.get("read_only_view").and_then(Value::as_bool) == Some(true) {
            div.banner role="status" { "This view shows the store and changes nothing." }
        }
        div.tiles {
            (tile("Entries", &counted(&store, "/stats/entries"), &format!("{} with a lease", counted(&store, "/leases"))))
            (tile("Touches per second", &rate("/last_quarter/touches_per_second"), "last 15 min"))
            (tile("Commits", &millis(number(&store, "/last_quarter/commit_p50_seconds")), &format!("p99 {}, last 15 min", millis(number(&store, "/last_quarter/commit_p99_seconds")))))
            (tile("On disk", &size(count(&store, "/stats/bytes_on_disk")), &format!("{} in the journal", counted(&store, "/journal_entries"))))
        }
        div.plots {
            (plot::lines("Touches per second", &since, "", &ends, &[("", "one", series("touches_per_second", 1.0))]))
            (plot::lines("Commit, ms", &since, " ms", &ends, &[("p50", "one", series("commit_p50_seconds", 1e3)), ("p99", "two", series("commit_p99_seconds", 1e3))]))
        }
        h2 { "Pruning" }
        @if let Some(watcher) = watcher {
            div.tiles {
                (tile_of("Last pass", &from_now(watcher, "/status/last_run", now), &format!("removed {}", counted(watcher, "/status/last_report/removed"))))
                (tile_of("Next pass", &from_now(watcher, "/status/next_run", now), &format!("every {}", seconds(watcher, "/interval_seconds"))))
                (tile("Passes", &counted(watcher, "/status/passes"), &format!("{} held, {} failed", counted(watcher, "/status/held"), counted(watcher, "/status/failures"))))
                (tile("Oldest protected", &seconds(watcher, "/status/last_report/oldest_protected_seconds"), "idle"))
            }
            @if let Some(failure) = text(watcher, "/status/last_failure") { div.banner { "The last failure: " (failure) } }
        } @else {
            p { "This process has no watcher that the page could show." }
        }
        p.quiet.foot {
            "Durable lag " (millis(number(&store, "/durable_lag_seconds"))) ", " (counted(&store, "/stats/pending")) " pending · process "
            (count(&store, "/pid")) " for " (seconds(&store, "/uptime_seconds")) " · cloakroom " (text(&store, "/version").unwrap_or_default())
            br; code { (text(&store, "/path").unwrap_or_default()) }
        }
    };
    Ok(page("Overview", "/", true, &body))
}
