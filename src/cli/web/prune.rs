//! Pruning: how idle entries are, what would go and stay, and the run.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::Form;
use axum::extract::{Query, State};
use axum::response::{Html, Redirect};
use maud::{Markup, html};
use serde_json::{Value, json};

use super::ask::{Asker, Shown};
use super::page::{count, counted, from_now, key, lasting, page, seconds, shown_time, text, time};
use super::plot;
use super::session::button;
use super::sessions::MANY;
use crate::cli::output::thousands;

/// Why entries stay, and where a report counts them.
const KEPT: [(&str, &str); 7] = [
    ("suspended", "/report/kept_suspended"),
    ("pinned", "/report/kept_pinned"),
    ("held by a lease", "/report/kept_held"),
    ("active", "/report/kept_active"),
    ("the guard failed", "/report/guard_failed"),
    ("cannot be read", "/report/kept_unreadable"),
    ("used or changed meanwhile", "/report/touched_meanwhile"),
];

type Asked = BTreeMap<String, String>;

/// Entries that would go, or stay.
fn list(title: &str, rows: &[Value], of: u64, reveal: bool, back: &str) -> Markup {
    let shown = rows.len() as u64;
    html! {
        h2 { (title) }
        @if shown < of { p.quiet { "The first " (thousands(shown)) " of " (thousands(of)) "." } }
        div.scroll.card {
            table.list {
                thead { tr { th.number scope="col" { "Idle" } th scope="col" { "Why" } th scope="col" { "Session" } th scope="col" { span.unseen { "Actions" } } } }
                tbody {
                    @for row in rows {
                        tr {
                            td.number { (seconds(row, "/idle_seconds")) }
                            td { (text(row, "/reason").unwrap_or("past the cutoff").replace('_', " ")) }
                            td { a href=(format!("/session/{}", text(row, "/handle").unwrap_or_default())) {
                                @if let Some(name) = text(row, "/display_name").filter(|name| !name.is_empty()) { (name) }
                                @else { code { (key(row.get("session_key").unwrap_or(&Value::Null), reveal)) } }
                            } }
                            td.acts { (free(row, back)) }
                        }
                    }
                    @if rows.is_empty() { tr { td colspan="4" { "None." } } }
                }
            }
        }
    }
}

/// What frees an entry that is kept, where a button can.
fn free(row: &Value, back: &str) -> Markup {
    let (handle, revision) = (text(row, "/handle").unwrap_or_default(), text(row, "/revision").unwrap_or_default());
    let verb = match text(row, "/reason") {
        Some("suspended") => Some(("unsuspend", "Unsuspend")),
        Some("pinned") => Some(("unpin", "Unpin")),
        _ => None,
    };
    html! {
        @if let Some((verb, word)) = verb { (button(handle, revision, verb, word, "small", back)) }
    }
}

fn rows<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value.get(name).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

pub(super) async fn show(State(asker): State<Asker>, Query(asked): Query<Asked>) -> Shown<Html<String>> {
    let reveal = asked.get("reveal").is_some_and(|reveal| reveal == "1");
    let days: Option<u64> = asked.get("days").and_then(|days| days.parse().ok());
    let ask = match days {
        Some(days) => json!({"dry_run": true, "policy": {"max_age_days": days}}),
        None => json!({"dry_run": true}),
    };
    let preview: Value = asker.look(move |client| client.post("/v1/prune", &ask)).await?;
    let store = asker.get("/v1/store").await?;
    let max_age = preview.pointer("/policy/max_age_seconds").and_then(Value::as_u64).unwrap_or(0);
    // The cutoff is an edge, so that no bar lies on both sides of it.
    let histogram = asker.get(format!("/v1/histogram?of=idle&edge={max_age}")).await?;
    let edges: Vec<u64> = rows(&histogram, "edges_seconds").iter().filter_map(Value::as_u64).collect();
    let counts = rows(&histogram, "counts").iter().filter_map(Value::as_u64);
    let name = |n: usize| match edges.get(n) {
        Some(edge) => {
            format!("up to {}", lasting(Duration::from_secs(*edge)))
        }
        None => "longer".to_owned(),
    };
    let bars: Vec<_> = counts.enumerate().map(|(n, count)| (name(n), count)).collect();
    let marked = if max_age == 0 { usize::MAX } else { edges.partition_point(|edge| *edge <= max_age) };
    let (removed, plan) = (count(&preview, "/report/removed"), text(&preview, "/plan").unwrap_or_default());
    let may_prune = store.get("may_prune").and_then(Value::as_bool) == Some(true);
    let shown_days = days.map_or_else(|| (max_age / 86_400).to_string(), |days| days.to_string());
    let stay: Vec<_> =
        KEPT.iter().map(|(why, path)| (*why, count(&preview, path))).filter(|(_, count)| *count > 0).collect();
    // What was used meanwhile is in no list.
    let kept = KEPT.iter().filter(|(_, path)| !path.ends_with("touched_meanwhile"));
    let kept = kept.map(|(_, path)| count(&preview, path)).sum();
    let back = days.map_or_else(|| "/prune".to_owned(), |days| format!("/prune?days={days}"));
    let body = html! {
        @if text(&store, "/guard") == Some("none") {
            div.banner role="status" {
                strong { "Nobody tells what is at work. " }
                "The process that has the store open has no guard to ask, so only what is suspended, pinned or held by a lease stays."
            }
        }
        (plot::bars("How long entries have been idle", &bars, marked))
        div.card.preview {
        form.filters method="get" action="/prune" {
            label { "Remove what has been idle for more than " input type="number" name="days" min="1" required value=(shown_days); " days" }
            button type="submit" { "Look" }
        }
        div.outcome role="status" {
            strong { (thousands(removed)) } " of " (counted(&preview, "/entries")) " entries would go. Their last activity was before " (shown_time(&preview, "/report/cutoff")) "."
            @if removed > 0 { " They have been idle for " (seconds(&preview, "/newest_idle_seconds")) " to " (seconds(&preview, "/oldest_idle_seconds")) "." }
            @if !stay.is_empty() { " " (thousands(stay.iter().map(|(_, count)| count).sum())) " stay: " @for (n, (why, count)) in stay.iter().enumerate() { @if n > 0 { ", " } (why) " " (thousands(*count)) } "." }
            @if removed > count(&preview, "/entries") / 2 { " That is more than half. Is the clock right?" }
            @if preview.pointer("/report/clock_doubted").and_then(Value::as_bool) == Some(true) { " The clock is doubted, so nothing goes." }
        }
        @if may_prune && removed > 0 {
            form method="post" action="/prune" {
                input type="hidden" name="plan" value=(plan);
                input type="hidden" name="expected" value=(removed);
                @if removed > MANY { label { "Type " (removed) " to confirm: " input name="typed" inputmode="numeric" autocomplete="off" required; } " " }
                button.danger type="submit" { "Remove " (thousands(removed)) }
                span.quiet { " within ten minutes. What is used or changed until then stays." }
            }
        } @else if !may_prune {
            p { "This view does not prune: the gateway has given it no guard to ask, or lets it change nothing." }
        }
        }
        @if let Some(watcher) = store.get("watcher").filter(|watcher| !watcher.is_null()) {
            form.row method="post" action="/prune/now" {
                span.quiet { "The watcher makes its next pass " (from_now(watcher, "/status/next_run", time(&store, "/now"))) "." }
                button type="submit" { "Have the watcher make a pass now" }
            }
        }
        (list("These stay, though they are past the cutoff", rows(&preview, "kept"), kept, reveal, &back))
        (list("These would go, the oldest first", rows(&preview, "first"), count(&preview, "/planned"), reveal, &back))
    };
    Ok(page("Pruning", "/prune", false, &body))
}

pub(super) async fn run(State(asker): State<Asker>, Form(asked): Form<Asked>) -> Shown<Html<String>> {
    let expected: u64 = asked.get("expected").and_then(|number| number.parse().ok()).unwrap_or(u64::MAX);
    let typed = asked.get("typed").and_then(|number| number.trim().parse().ok());
    if expected > MANY && typed != Some(expected) {
        let body = html! {
            div.banner.bad role="alert" { "The number that was typed is not the one that was asked for; nothing was removed." }
            p { a href="/prune" { "Back" } }
        };
        return Ok(page("Pruning", "/prune", false, &body));
    }
    let done = asker.post("/v1/prune", json!({"plan": asked.get("plan")})).await?;
    let body = html! {
        div.banner.good role="status" { strong { "Removed " (counted(&done, "/report/removed")) } ". There are " (counted(&done, "/entries")) " entries now." }
        ul { @for (why, path) in KEPT { @if count(&done, path) > 0 { li { "kept, " (why) ": " (counted(&done, path)) } } } }
        p { a href="/prune" { "Pruning" } }
    };
    Ok(page("Pruning", "/prune", false, &body))
}

pub(super) async fn now(State(asker): State<Asker>) -> Shown<Redirect> {
    asker.post("/v1/watcher/prune-now", json!({})).await?;
    Ok(Redirect::to("/"))
}
