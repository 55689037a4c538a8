//! One session.

use std::collections::BTreeMap;

use axum::Form;
use axum::extract::{Path, Query, State};
use axum::response::{Html, Redirect};
use maud::{Markup, html};
use serde_json::{Value, json};

use super::ask::{Asker, Shown};
use super::page::{counted, dangerous, key, page, seconds, shown_time, text};
use super::sessions::state;
use crate::cli::output::{size, thousands};
use crate::cli::source::escaped;

type Asked = BTreeMap<String, String>;

/// A button that changes the session, if it is as it was shown, and shows the page `back` then.
pub(super) fn button(handle: &str, revision: &str, verb: &str, word: &str, class: &str, back: &str) -> Markup {
    html! {
        form.inline method="post" action=(format!("/session/{handle}/{verb}")) {
            input type="hidden" name="revision" value=(revision);
            @if !back.is_empty() { input type="hidden" name="back" value=(back); }
            button.(class) type="submit" { (word) }
        }
    }
}

pub(super) async fn show(
    State(asker): State<Asker>,
    Path(handle): Path<String>,
    Query(asked): Query<Asked>,
) -> Shown<Html<String>> {
    let reveal = asked.get("reveal").is_some_and(|reveal| reveal == "1");
    let one = asker.get(format!("/v1/sessions/{}", escaped(&handle))).await?;
    let session = one.get("session").cloned().unwrap_or_default();
    let is = |name: &str| session.get(name).and_then(Value::as_bool) == Some(true);
    let revision = text(&session, "/revision").unwrap_or_default();
    let name = text(&session, "/display_name").filter(|name| !name.is_empty()).unwrap_or("(no name)");
    let act = |verb: &str, word: &str, class: &str| button(&handle, revision, verb, word, class, "");
    let row = |name: &str, value: &str| html! { tr { th scope="row" { (name) } td { (value) } } };
    let empty = serde_json::Map::new();
    let extras = one.get("extras").and_then(Value::as_object).unwrap_or(&empty);
    let origin = session.get("origin").and_then(Value::as_object).unwrap_or(&empty);
    let no_leases = Vec::new();
    let leases = one.get("leases").and_then(Value::as_array).unwrap_or(&no_leases);
    let body = html! {
        p { (state(&session)) }
        div.actions {
            @if is("suspended") { (act("unsuspend", "Unsuspend", "")) } @else { (act("suspend", "Suspend", "")) }
            @if is("pinned") { (act("unpin", "Unpin", "")) } @else { (act("pin", "Pin", "")) }
            @if is("resume_pending") { (act("clear-resume", "Take the resume back", "")) }
            @else if !is("suspended") { (act("resume-pending", "Resume with the next message", "")) }
            (dangerous("Reset", "The next message starts a fresh session. Extras go, too.", &act("reset", "Reset it", "danger")))
            (dangerous("Remove", "The entry goes, with its counters and extras. Its next message makes a fresh one.", &act("remove", "Remove it", "danger")))
        }
        div.scroll.card { table.fields {
            tr { th scope="row" { "Key" } td { code { (key(session.get("session_key").unwrap_or(&Value::Null), reveal)) } " "
                @if reveal { a href=(format!("/session/{}", escaped(&handle))) { "Hide" } } @else { a href="?reveal=1" { "Reveal" } } } }
            (row("Session", text(&session, "/session_id").unwrap_or_default()))
            (row("Last active", &format!("{}, {} ago", shown_time(&session, "/updated_at"), seconds(&session, "/idle_seconds"))))
            (row("Created", &shown_time(&session, "/created_at")))
            (row("Platform", text(&session, "/platform").unwrap_or("–")))
            (row("Chat", text(&session, "/chat_type").unwrap_or("–")))
            (row("Tokens", &counted(&session, "/total_tokens")))
            (row("Cost", &format!("{} USD", session.get("estimated_cost_usd").cloned().unwrap_or_default())))
            @if let Some(reason) = text(&session, "/resume_reason") { (row("Resume because", reason)) }
            @if let Some(previous) = text(&session, "/prev_session_id") { (row("Session before", previous)) }
            @if one.get("turn").is_some_and(|turn| !turn.is_null()) { (row("Open turn since", &shown_time(&one, "/turn/started_at"))) }
            @for lease in leases { (row("Held by", &format!("{} since {}", text(lease, "/name").unwrap_or("this process"), shown_time(lease, "/since")))) }
        } }
        @if reveal && !origin.is_empty() {
            h2 { "Origin" }
            table.fields.card { @for (name, value) in origin { @if let Some(value) = value.as_str().filter(|value| !value.is_empty()) { (row(name, value)) } } }
        }
        @if !extras.is_empty() {
            h2 { "Extras" }
            table.fields.card { @for (name, value) in extras { (row(name, &size(value.as_str().map_or(0, str::len) as u64))) } }
            p.quiet { (thousands(extras.len() as u64)) " of them. `cloakroom show` prints what is in them." }
        }
        // What the script fills.
        section #happens hidden {
            h2 { "What happened since you opened this page" }
            div.scroll.card {
                table.list #events data-stream="/events/stream" data-handle=(handle) {
                    thead { tr { th scope="col" { "When" } th scope="col" { "What" } th scope="col" { "Session" } } }
                    tbody aria-live="polite" {}
                }
            }
        }
    };
    Ok(page(name, "/sessions", false, &body))
}

pub(super) async fn change(
    State(asker): State<Asker>,
    Path((handle, verb)): Path<(String, String)>,
    Form(asked): Form<Asked>,
) -> Shown<Redirect> {
    let revision = asked.get("revision").cloned();
    let path = format!("/v1/sessions/{}", escaped(&handle));
    let is_removal = verb == "remove";
    // Only to a page of ours.
    let back = asked.get("back").filter(|back| back.starts_with("/sessions") || back.starts_with("/prune"));
    let one = if is_removal { "/sessions".to_owned() } else { format!("/session/{}", escaped(&handle)) };
    let target = back.filter(|back| back.bytes().all(|byte| byte.is_ascii_graphic())).cloned().unwrap_or(one);
    asker
        .ask(move |client| match is_removal {
            true => client.delete_if::<Value>(&path, revision.as_deref()),
            false => client.post_if(&format!("{path}/{}", escaped(&verb)), revision.as_deref(), &json!({})),
        })
        .await?;
    Ok(Redirect::to(&target))
}
