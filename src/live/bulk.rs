//! Changes of many entries: those that a filter accepts, if there are no more of them than the caller saw.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::json;

use super::change::{Done, How, Verb};
use super::error::Fault;
use super::sessions::{Answer, Wanted, json_of};
use super::view::{View, body};
use crate::remove_where::BulkRemoval;
use crate::unreadable::Unreadable;

/// Entries that one request changes.
const MOST: u64 = 100_000;
/// Entries that an answer names.
const NAMED: usize = 1000;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Bulk {
    verb: Verb,
    #[serde(default)]
    filter: Wanted,
    /// How many entries the caller saw.
    expected: u64,
    /// There may not be fewer either.
    #[serde(default)]
    exact: bool,
    #[serde(default)]
    how: How,
}

pub(super) async fn bulk(State(view): State<Arc<View>>, bytes: Result<Bytes, BytesRejection>) -> Answer {
    view.may_change()?;
    let bulk: Bulk = body(bytes)?;
    if bulk.expected > MOST {
        return Err(Fault::bad_request(format!("at most {MOST} entries are changed at a time")));
    }
    view.work(move |view, store| {
        let Bulk { verb, filter: wanted, expected, exact, how } = bulk;
        let filter = wanted.filter(store.now());
        if exact && verb == Verb::Remove && wanted.is_a_filter() {
            // As the verb of the store does it: what changed since the count stays.
            return match store.remove_where(&filter, expected)? {
                BulkRemoval::Removed(report) => {
                    tracing::info!(removed = report.removed, "removed through the live view");
                    Ok(Json(json_of(&report)?))
                }
                BulkRemoval::CountDiffers { expected, found, unreadable } => {
                    Err(differs(expected, found, unreadable.count))
                }
            };
        }
        let (mut keys, mut found, mut unreadable) = (Vec::new(), 0, Unreadable::default());
        let mut rows = store.iter(filter)?;
        for summary in &mut rows {
            let summary = summary?;
            if !wanted.is_a_filter() {
                let Some(Some(entry)) = unreadable.pass(store.peek(&summary.key))? else { continue };
                if !wanted.accepts(&entry) {
                    continue;
                }
            }
            found += 1;
            if found <= expected {
                keys.push(summary.key);
            }
        }
        unreadable.add_all(rows.unreadable());
        if found > expected || exact && found < expected {
            return Err(differs(expected, found, unreadable.count));
        }
        let (mut counts, mut results) = (BTreeMap::<_, u64>::new(), Vec::new());
        let mut stopped = false;
        for key in &keys {
            if view.has_ended() {
                stopped = true;
                break;
            }
            let outcome = match unreadable.pass(verb.apply(store, key, &how, None))? {
                Some(Done::Changed(..)) => "done",
                Some(Done::Same(_)) => "same",
                Some(Done::Missing | Done::Differs) => "missing",
                Some(Done::Suspended) => "suspended",
                None => "unreadable",
            };
            *counts.entry(outcome).or_default() += 1;
            if results.len() < NAMED {
                results.push(json!({"handle": store.handle(key), "outcome": outcome}));
            }
        }
        store.flush()?;
        let unreadable = json_of(&unreadable)?;
        let counts = json_of(&counts)?;
        Ok(Json(json!({
            "found": found, "counts": counts, "results": results, "stopped": stopped, "unreadable": unreadable,
        })))
    })
    .await
}

fn differs(expected: u64, found: u64, unreadable: u64) -> Fault {
    let message = format!("there are {found} such entries now, and {expected} were expected; nothing was changed");
    Fault::new(StatusCode::CONFLICT, "count_differs", message)
        .with(json!({"expected": expected, "found": found, "unreadable": unreadable}))
}
