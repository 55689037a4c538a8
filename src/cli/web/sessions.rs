//! The list of sessions, and changes of all that a filter accepts.

use std::collections::BTreeMap;

use axum::Form;
use axum::extract::{Query, State};
use axum::response::Html;
use cloakroom::live::AskError;
use maud::{Markup, html};
use serde_json::{Map, Value, json};

use super::ask::{Asker, Shown};
use super::page::{count, counted, key, page, seconds, text};
use super::session::button;
use crate::cli::output::thousands;
use crate::cli::source::escaped;

/// Above this many, the number has to be typed.
pub(super) const MANY: u64 = 100;
/// Filters, as the view names them.
const FILTERS: [&str; 6] = ["q", "platform", "chat_type", "suspended", "pinned", "resume_pending"];
/// What can be done to many.
const VERBS: [(&str, &str); 7] = [
    ("suspend", "Suspend"),
    ("unsuspend", "Unsuspend"),
    ("pin", "Pin"),
    ("unpin", "Unpin"),
    ("clear-resume", "Take the resume back"),
    ("reset", "Reset"),
    ("remove", "Remove"),
];

type Asked = BTreeMap<String, String>;

/// The filters that are set, and `idle_days`.
fn set(asked: &Asked) -> Vec<(&str, &str)> {
    let named = FILTERS.iter().chain(["idle_days"].iter());
    named
        .filter_map(|name| asked.get(*name).filter(|value| !value.is_empty()).map(|value| (*name, value.as_str())))
        .collect()
}

fn url(path: &str, parameters: impl IntoIterator<Item = (impl AsRef<str>, impl AsRef<str>)>) -> String {
    let parameters =
        parameters.into_iter().map(|(name, value)| format!("{}={}", name.as_ref(), escaped(value.as_ref())));
    let parameters: Vec<_> = parameters.collect();
    if parameters.is_empty() { path.to_owned() } else { format!("{path}?{}", parameters.join("&")) }
}

fn days_in_seconds(days: &str) -> Option<u64> {
    Some(days.parse::<u64>().ok()?.saturating_mul(86_400))
}

/// The same as parameters of the view.
fn asked_of_view(asked: &Asked) -> Vec<(&str, String)> {
    set(asked)
        .into_iter()
        .filter_map(|(name, value)| match name {
            "idle_days" => Some(("idle_seconds", days_in_seconds(value)?.to_string())),
            name => Some((name, value.to_owned())),
        })
        .collect()
}

/// The same as a filter in JSON.
fn filter(asked: &Asked) -> Value {
    let fields = set(asked).into_iter().filter_map(|(name, value)| match name {
        "idle_days" => Some(("idle_seconds".to_owned(), days_in_seconds(value)?.into())),
        "suspended" | "pinned" | "resume_pending" => Some((name.to_owned(), value.parse::<bool>().ok()?.into())),
        name => Some((name.to_owned(), value.into())),
    });
    Value::Object(fields.collect::<Map<_, _>>())
}

pub(super) fn state(row: &Value) -> Markup {
    let is = |name: &str| row.get(name).and_then(Value::as_bool) == Some(true);
    html! {
        @for (name, word) in [("suspended", "suspended"), ("pinned", "pinned"), ("resume_pending", "resume pending")] {
            @if is(name) { span.badge { (word) } " " }
        }
    }
}

fn facet(asked: &Asked, name: &str, title: &str, counts: &Value) -> Markup {
    let empty = Map::new();
    let counts = counts.as_object().unwrap_or(&empty);
    let mut counts: Vec<_> = counts.iter().map(|(value, count)| (value, count.as_u64().unwrap_or_default())).collect();
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let chosen = asked.get(name);
    html! {
        div.facet {
            span.label { (title) }
            @for (value, count) in counts.into_iter().take(12) {
                @let is_on = chosen == Some(value);
                @let others = set(asked).into_iter().filter(|(other, _)| *other != name);
                @let own = (!is_on).then_some((name, value.as_str()));
                // What nobody knows cannot be asked for.
                @if value == "unknown" { span.chip { (value) " " small { (thousands(count)) } } }
                @else { a.chip aria-pressed=[is_on.then_some("true")] href=(url("/sessions", others.chain(own))) { (value) " " small { (thousands(count)) } } }
            }
        }
    }
}

pub(super) async fn show(State(asker): State<Asker>, Query(asked): Query<Asked>) -> Shown<Html<String>> {
    let reveal = asked.get("reveal").is_some_and(|reveal| reveal == "1");
    let mut parameters = asked_of_view(&asked);
    parameters.extend(asked.get("cursor").map(|cursor| ("cursor", cursor.clone())));
    let list = asker.get(url("/v1/sessions", parameters)).await?;
    let counts = asker.counts().await;
    let empty = Vec::new();
    let rows = list.get("sessions").and_then(Value::as_array).unwrap_or(&empty);
    let value = |name: &str| asked.get(name).map(String::as_str).unwrap_or_default();
    let place = ["cursor", "reveal"].iter().filter_map(|name| Some((*name, asked.get(*name)?.as_str())));
    let back = url("/sessions", set(&asked).into_iter().chain(place));
    let here = |extra: Option<(&str, &str)>| url("/sessions", set(&asked).into_iter().chain(extra));
    let body = html! {
        form.filters.card method="get" action="/sessions" role="search" {
            label.wide { "Search " input type="search" name="q" value=(value("q")) placeholder="part of a name or key"; }
            label { "Idle for " input type="number" min="0" name="idle_days" value=(value("idle_days")) placeholder="days"; }
            @for (name, title) in [("suspended", "Suspended"), ("pinned", "Pinned"), ("resume_pending", "To resume")] {
                label { (title) " "
                    select name=(name) {
                        @for (option, word) in [("", "any"), ("true", "yes"), ("false", "no")] {
                            option value=(option) selected[value(name) == option] { (word) }
                        }
                    }
                }
            }
            @for name in ["platform", "chat_type"] { @if !value(name).is_empty() { input type="hidden" name=(name) value=(value(name)); } }
            button type="submit" { "Filter" }
            @if !set(&asked).is_empty() { a href="/sessions" { "Clear" } }
        }
        (facet(&asked, "platform", "Platform", counts.get("by_platform").unwrap_or(&Value::Null)))
        (facet(&asked, "chat_type", "Chat", counts.get("by_chat_type").unwrap_or(&Value::Null)))
        div.row {
            span.quiet { (thousands(rows.len() as u64)) " shown, " (counted(&list, "/total")) " in the store" }
            span.actions {
                @if reveal { a href=(here(None)) { "Hide keys" } } @else { a href=(here(Some(("reveal", "1")))) { "Reveal keys" } }
                a.button href=(url("/bulk", set(&asked))) { "Change all of these…" }
            }
        }
        div.scroll.card {
            table.list {
                thead { tr { th scope="col" { "Name" } th scope="col" { "Where" } th.number scope="col" { "Idle" } th scope="col" { "State" } th.number scope="col" { "Tokens" } th scope="col" { "Key" } th scope="col" { span.unseen { "Actions" } } } }
                tbody {
                    @for row in rows {
                        tr {
                            td { a href=(format!("/session/{}", text(row, "/handle").unwrap_or_default())) { (text(row, "/display_name").filter(|name| !name.is_empty()).unwrap_or("(no name)")) } }
                            td { (text(row, "/platform").unwrap_or("–")) " " span.quiet { (text(row, "/chat_type").unwrap_or("")) } }
                            td.number { (seconds(row, "/idle_seconds")) }
                            td { (state(row)) }
                            td.number { (thousands(count(row, "/total_tokens"))) }
                            td { code { (key(row.get("session_key").unwrap_or(&Value::Null), reveal)) } }
                            td.acts { (quick(row, &back)) }
                        }
                    }
                    @if rows.is_empty() { tr { td colspan="7" { "Nothing here." } } }
                }
            }
        }
        @if list.get("complete").and_then(Value::as_bool) == Some(false) {
            p.quiet { "The search looked at " (counted(&list, "/looked_at")) " entries and stopped; it goes on with the next page." }
        }
        @if let Some(next) = text(&list, "/next") {
            @let reveal = reveal.then_some(("reveal", "1"));
            p { a.button rel="next" href=(url("/sessions", set(&asked).into_iter().chain([("cursor", next)]).chain(reveal))) { "Next page" } }
        }
    };
    Ok(page("Sessions", "/sessions", false, &body))
}

/// What can be done at once to a row: it can be undone in the same way.
fn quick(row: &Value, back: &str) -> Markup {
    let is = |name: &str| row.get(name).and_then(Value::as_bool) == Some(true);
    let (handle, revision) = (text(row, "/handle").unwrap_or_default(), text(row, "/revision").unwrap_or_default());
    let verbs =
        [("suspended", "unsuspend", "Unsuspend", "suspend", "Suspend"), ("pinned", "unpin", "Unpin", "pin", "Pin")];
    html! {
        @for (flag, no, no_word, yes, yes_word) in verbs {
            @if is(flag) { (button(handle, revision, no, no_word, "small", back)) }
            @else { (button(handle, revision, yes, yes_word, "small", back)) }
        }
    }
}

/// What is to be pressed, if there are no more than can be changed at a time.
fn confirming(asked: &Asked, found: u64, most: u64) -> Markup {
    html! {
        p { "The filter accepts " strong { (thousands(found)) } " entries now. If there are more when you press the button, nothing is changed." }
        @if set(asked).is_empty() { div.banner { "There is no filter: this is every entry of the store." } }
        @else { ul { @for (name, value) in set(asked) { li { (name) ": " (value) } } } }
        @if found > most {
            div.banner role="status" { "At most " (thousands(most)) " entries are changed at a time. Filter for fewer." }
            p { a href=(url("/sessions", set(asked))) { "Back" } }
        } @else { form.card method="post" action="/bulk" {
            @for (name, value) in set(asked) { input type="hidden" name=(name) value=(value); }
            input type="hidden" name="expected" value=(found);
            label { "Do " select name="verb" { @for (verb, word) in VERBS { option value=(verb) { (word) } } } }
            @if found > MANY {
                label { " Type " (found) " to confirm: " input name="typed" inputmode="numeric" autocomplete="off" required; }
            }
            button.danger type="submit" disabled[found == 0] { "Do it to " (thousands(found)) }
            " " a href=(url("/sessions", set(asked))) { "Back" }
        } }
    }
}

/// How many entries a filter accepts, and what to do to them.
pub(super) async fn confirm(State(asker): State<Asker>, Query(asked): Query<Asked>) -> Shown<Html<String>> {
    let filter = filter(&asked);
    // With none expected the answer says how many there are, and nothing is changed.
    let ask = json!({"verb": "clear-resume", "filter": filter, "expected": 0});
    let (found, most) = asker
        .look(move |client| match client.post::<Value>("/v1/sessions:bulk", &ask) {
            Ok(_) => Ok((0, 0)),
            Err(AskError::Refused { kind, details, .. }) if kind == "count_differs" => {
                Ok((count(&details, "/found"), count(&details, "/most")))
            }
            Err(error) => Err(error),
        })
        .await?;
    Ok(page("Change many", "/sessions", false, &confirming(&asked, found, most)))
}

pub(super) async fn change(State(asker): State<Asker>, Form(asked): Form<Asked>) -> Shown<Html<String>> {
    let expected: u64 = asked.get("expected").and_then(|number| number.parse().ok()).unwrap_or(0);
    let typed = asked.get("typed").and_then(|number| number.trim().parse().ok());
    if expected > MANY && typed != Some(expected) {
        let body = html! {
            div.banner.bad role="alert" { "The number that was typed is not " (expected) "; nothing was changed." }
            p { a href=(url("/bulk", set(&asked))) { "Back" } }
        };
        return Ok(page("Change many", "/sessions", false, &body));
    }
    let verb = asked.get("verb").cloned().unwrap_or_default();
    let done =
        asker.post("/v1/sessions:bulk", json!({"verb": verb, "filter": filter(&asked), "expected": expected})).await?;
    let empty = Map::new();
    let counts = done.get("counts").and_then(Value::as_object).unwrap_or(&empty);
    let body = html! {
        div.banner.good role="status" {
            strong { (verb) } ": "
            @for (outcome, count) in counts { (outcome) " " (thousands(count.as_u64().unwrap_or_default())) ". " }
            @if counts.is_empty() { "there was nothing to do." }
        }
        p { a href="/sessions" { "Sessions" } }
    };
    Ok(page("Change many", "/sessions", false, &body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_types_a_number_that_is_refused_then() {
        let asked = Asked::from([("q".to_owned(), "x".to_owned())]);
        let (most, more) = (confirming(&asked, 100_000, 100_000), confirming(&asked, 100_001, 100_000));
        let has_form = |page: &Markup| page.0.contains("<form") && page.0.contains("name=\"typed\"");
        assert!(has_form(&most) && !has_form(&more), "{}", more.0);
        assert!(more.0.contains("At most 100,000 entries"), "{}", more.0);
    }
}
