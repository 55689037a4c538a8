//! What all pages share.

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
                header {
                    a.name href="/" { "Cloakroom" }
                    nav aria-label="Pages" {
                        @for (target, name) in links {
                            a href=(target) aria-current=[(target == path).then_some("page")] { (name) }
                        }
                    }
                }
                main #main data-live=[live.then_some("5")] {
                    h1 { (title) }
                    (body)
                }
            }
        }
    };
    Html(page.into_string())
}

/// A figure with its name.
pub(super) fn tile(name: &str, value: &str, note: &str) -> Markup {
    html! {
        div.tile {
            div.label { (name) }
            div.value { (value) }
            @if !note.is_empty() { div.note { (note) } }
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
    value
        .pointer(path)
        .and_then(Value::as_u64)
        .map_or_else(|| "–".to_owned(), |s| words(std::time::Duration::from_secs(s)))
}

pub(super) fn millis(value: Option<f64>) -> String {
    value.map_or_else(|| "–".to_owned(), |seconds| format!("{:.2} ms", seconds * 1e3))
}
