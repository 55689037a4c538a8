//! What all pages share.

use std::time::Duration;

use axum::response::Html;
use cloakroom::{SessionKey, Timestamp};
use maud::{DOCTYPE, Markup, html};
use serde_json::Value;

use crate::cli::output::{local, thousands, words};

/// A page. `live` pages are drawn anew by the script.
pub(super) fn page(title: &str, path: &str, live: bool, body: &Markup) -> Html<String> {
    let links = [("/", "Overview"), ("/sessions", "Sessions"), ("/prune", "Pruning"), ("/events", "Events")];
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) " · Cloakroom" }
                link rel="icon" type="image/svg+xml" href="/page.svg";
                link rel="stylesheet" href="/page.css";
                script src="/page.js" defer {}
            }
            body {
                a.skip href="#main" { "Skip to the content" }
                header { div {
                    a.name href="/" { img src="/page.svg" alt=""; "Cloakroom" }
                    nav aria-label="Pages" {
                        @for (target, name) in links {
                            a href=(target) aria-current=[(target == path).then_some("page")] { (name) }
                        }
                    }
                } }
                main #main data-live=[live.then_some("5")] {
                    h1 { (title) }
                    (body)
                }
                // The script shows it where what is on the screen is old.
                div #stale role="status" hidden { "No answer: what you see is old." }
            }
        }
    };
    Html(page.into_string())
}

/// A figure with its name.
pub(super) fn tile(name: &str, value: &str, note: &str) -> Markup {
    tile_of(name, &html! { (value) }, note)
}

/// The same with more than a text for its figure.
pub(super) fn tile_of(name: &str, value: &Markup, note: &str) -> Markup {
    html! {
        div.tile {
            div.label { (name) }
            div.value { (value) }
            div.note { @if note.is_empty() { "\u{a0}" } @else { (note) } }
        }
    }
}

/// A button that does what cannot be undone: the first press only opens it.
pub(super) fn dangerous(word: &str, deed: &str, form: &Markup) -> Markup {
    html! {
        details.sure {
            summary.button.danger { (word) "…" }
            div.card { p { (deed) } (form) }
        }
    }
}

/// A key as it is shown: redacted, unless somebody wants to see it.
pub(super) fn key(value: &Value, reveal: bool) -> String {
    let text = value.as_str().unwrap_or_default();
    if reveal { text.to_owned() } else { redacted(text) }
}

pub(super) fn redacted(text: &str) -> String {
    SessionKey::new(text).map_or_else(|_| "#".to_owned(), |key| key.to_string())
}

pub(super) fn text<'a>(value: &'a Value, path: &str) -> Option<&'a str> {
    value.pointer(path).and_then(Value::as_str)
}

pub(super) fn number(value: &Value, path: &str) -> Option<f64> {
    value.pointer(path).and_then(Value::as_f64)
}

pub(super) fn count(value: &Value, path: &str) -> u64 {
    value.pointer(path).and_then(Value::as_u64).unwrap_or_default()
}

pub(super) fn counted(value: &Value, path: &str) -> String {
    thousands(count(value, path))
}

pub(super) fn time(value: &Value, path: &str) -> Option<Timestamp> {
    serde_json::from_value(value.pointer(path)?.clone()).ok()
}

pub(super) fn shown_time(value: &Value, path: &str) -> String {
    time(value, path).map_or_else(|| "–".to_owned(), local)
}

pub(super) fn seconds(value: &Value, path: &str) -> String {
    let seconds = value.pointer(path).and_then(Value::as_u64);
    seconds.map_or_else(|| "–".to_owned(), |seconds| lasting(Duration::from_secs(seconds)))
}

/// A duration in its largest units, without those that are zero.
pub(super) fn lasting(duration: Duration) -> String {
    let text = words(duration);
    text.trim_end_matches(" 0 min").trim_end_matches(" 0 h").to_owned()
}

/// A time as seen from another, with the time itself for whoever points at it.
pub(super) fn from_now(value: &Value, path: &str, now: Option<Timestamp>) -> Markup {
    let (Some(at), Some(now)) = (time(value, path), now) else { return html! { "–" } };
    let text =
        if at > now { format!("in {}", lasting(at.since(now))) } else { format!("{} ago", lasting(now.since(at))) };
    html! { time datetime=(at) title=(local(at)) { (text) } }
}

pub(super) fn millis(value: Option<f64>) -> String {
    value.map_or_else(|| "–".to_owned(), |seconds| format!("{:.2} ms", seconds * 1e3))
}
