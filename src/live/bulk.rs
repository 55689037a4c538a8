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
use crate::answer::Removal;
use crate::error::Result;
use crate::query::Summary;
use crate::remove_where::BulkRemoval;
use crate::store::SessionStore;
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

pub(super) async fn bulk(State(view): State<Arc<View>>, bytes: std::result::Result<Bytes, BytesRejection>) -> Answer {
    view.may_change()?;
    let bulk: Bulk = body(bytes)?;
    if bulk.expected > MOST {
        return Err(Fault::bad_request(format!("at most {MOST} entries are changed at a time")));
    }
    if bulk.filter.is_paged() {
        return Err(Fault::bad_request("a change of many has no pages: neither `limit` nor `cursor`"));
    }
    view.work_long(move |view, store| {
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
        let (mut seen, mut found, mut unreadable) = (Vec::new(), 0, Unreadable::default());
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
                seen.push(summary);
            }
        }
        unreadable.add_all(rows.unreadable());
        if found > expected || exact && found < expected {
            return Err(differs(expected, found, unreadable.count));
        }
        let (mut counts, mut results) = (BTreeMap::<_, u64>::new(), Vec::new());
        let mut stopped = false;
        for summary in &seen {
            let key = &summary.key;
            if view.has_ended() {
                stopped = true;
                break;
            }
            let done = match verb {
                Verb::Remove => remove(store, summary),
                _ => verb.apply(store, key, &how, None),
            };
            let outcome = match unreadable.pass(done)? {
                Some(Done::Changed(..)) => "done",
                Some(Done::Same(_)) => "same",
                Some(Done::Differs) => "changed",
                Some(Done::Missing) => "missing",
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

/// Removes an entry, if it was neither used nor changed since the filter took it: it may be live by now.
fn remove(store: &SessionStore, summary: &Summary) -> Result<Done> {
    let Some(entry) = store.peek(&summary.key)? else { return Ok(Done::Missing) };
    let is_as_seen = (entry.updated_at, entry.suspended, entry.pinned, entry.resume_pending)
        == (summary.updated_at, summary.suspended, summary.pinned, summary.resume_pending);
    if !is_as_seen {
        return Ok(Done::Differs);
    }
    Ok(match store.remove_if(&summary.key, &entry)? {
        Removal::Removed(receipt) => {
            tracing::info!(key = %summary.key, "removed through the live view");
            Done::Changed(json!({"removed": true}), receipt)
        }
        Removal::Changed => Done::Differs,
        Removal::Missing => Done::Missing,
    })
}

fn differs(expected: u64, found: u64, unreadable: u64) -> Fault {
    let message = format!("there are {found} such entries now, and {expected} were expected; nothing was changed");
    Fault::new(StatusCode::CONFLICT, "count_differs", message)
        .with(json!({"expected": expected, "found": found, "unreadable": unreadable}))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::query::Filter;
    use crate::time::ManualClock;
    use crate::{Options, SessionSource, Timestamp};

    #[test]
    fn what_was_used_since_it_was_listed_stays() {
        let dir = tempfile::tempdir().unwrap();
        let clock = ManualClock::new(Timestamp::from_micros(1_781_222_993_123_456));
        let options = Options::new(dir.path().join("db")).create(true).clock(clock.clone());
        let store = SessionStore::open(options).unwrap();
        for user in ["a", "b"] {
            let source = SessionSource { user_id: Some(user.into()), platform: "discord".into(), ..Default::default() };
            store.resolve(&source).unwrap();
        }
        let listed: Vec<_> = store.iter(Filter::default()).unwrap().map(|row| row.unwrap()).collect();
        clock.advance(std::time::Duration::from_secs(1));
        store.touch(&listed[0].key).unwrap().unwrap();
        assert!(matches!(remove(&store, &listed[0]), Ok(Done::Differs)));
        assert!(matches!(remove(&store, &listed[1]), Ok(Done::Changed(..))));
        assert!(matches!(remove(&store, &listed[1]), Ok(Done::Missing)));
        assert_eq!(store.len(), 1);
    }
}
