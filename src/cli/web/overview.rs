//! The store at a glance.

use std::time::Duration;

use axum::extract::State;
use axum::response::Html;
use maud::html;
use serde_json::Value;

use super::ask::{Asker, Shown};
use super::page::{count, counted, millis, number, page, seconds, shown_time, text, tile};
use super::plot;
use crate::cli::output::{size, words};

pub(super) async fn show(State(asker): State<Asker>) -> Shown<Html<String>> {
    let (store, history) = (asker.get("/v1/store").await?, asker.get("/v1/history").await?);
    let empty = Vec::new();
    let steps = history.pointer("/steps").and_then(Value::as_array).unwrap_or(&empty);
    let series = |name: &str, scale: f64| -> Vec<Option<f64>> {
        steps.iter().map(|step| step.get(name).and_then(Value::as_f64).map(|value| value * scale)).collect()
    };
    let began = steps.first().and_then(|step| Some(number(step, "/seconds_ago")? + number(step, "/seconds")?));
    let since = format!("{} ago", words(Duration::from_secs_f64(began.unwrap_or(0.0).max(0.0))));
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
            (tile("Entries", &counted(&store, "/stats/entries"), ""))
            (tile("Touches / s", &rate("/last_quarter/touches_per_second"), "last 15 min"))
            (tile("Commit p50", &millis(number(&store, "/last_quarter/commit_p50_seconds")), "last 15 min"))
            (tile("Commit p99", &millis(number(&store, "/last_quarter/commit_p99_seconds")), "last 15 min"))
            (tile("Durable lag", &millis(number(&store, "/durable_lag_seconds")), &format!("{} pending", counted(&store, "/stats/pending"))))
            (tile("On disk", &size(count(&store, "/stats/bytes_on_disk")), &format!("{} in the journal", counted(&store, "/journal_entries"))))
            (tile("Leases", &counted(&store, "/leases"), ""))
            (tile("Process", &format!("{}", count(&store, "/pid")), &format!("for {}", seconds(&store, "/uptime_seconds"))))
        }
        div.plots {
            (plot::lines("Touches per second", &since, "", &[("", "one", series("touches_per_second", 1.0))]))
            (plot::lines("Commit", &since, " ms", &[("p50", "one", series("commit_p50_seconds", 1e3)), ("p99", "two", series("commit_p99_seconds", 1e3))]))
        }
        h2 { "Pruning" }
        @if let Some(watcher) = watcher {
            div.tiles {
                (tile("Last pass", &shown_time(watcher, "/status/last_run"), &format!("removed {}", counted(watcher, "/status/last_report/removed"))))
                (tile("Next pass", &shown_time(watcher, "/status/next_run"), &format!("every {}", seconds(watcher, "/interval_seconds"))))
                (tile("Passes", &counted(watcher, "/status/passes"), &format!("{} held, {} failed", counted(watcher, "/status/held"), counted(watcher, "/status/failures"))))
                (tile("Oldest protected", &seconds(watcher, "/status/last_report/oldest_protected_seconds"), "idle"))
            }
            @if let Some(failure) = text(watcher, "/status/last_failure") { div.banner { "The last failure: " (failure) } }
        } @else {
            p { "This process has no watcher that the page could show." }
        }
        p.quiet { (text(&store, "/path").unwrap_or_default()) " · cloakroom " (text(&store, "/version").unwrap_or_default()) }
    };
    Ok(page("Overview", "/", true, &body))
}
