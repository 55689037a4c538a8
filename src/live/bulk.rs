//! Changes of many entries: those that a filter accepts, if there are no more of them than the caller saw.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::change::{Done, How, Verb};
use super::error::{Fault, Outcome};
use super::sessions::{Answer, Wanted, json_of};
use super::view::{View, body};
use crate::answer::Removal;
use crate::error::{Error, Result};
use crate::query::Summary;
use crate::remove_where::RemovalReport;
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
            let mut report = RemovalReport::default();
            let done = store.remove_where_into(&filter, Some(expected), &mut report);
            tracing::info!(removed = report.removed, "removed through the live view");
            return match done {
                Ok(None) => Ok(Json(json_of(&report)?)),
                Ok(Some(found)) => Err(differs(expected, found, report.unreadable.count)),
                Err(error) => Err(broken_off(error, report.removed > 0, json_of(&report)?)),
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
        let mut changed = Changed { unreadable, ..Changed::default() };
        let ended = || view.has_ended();
        let done = changed.all(store, &seen, ended, |summary| match verb {
            Verb::Remove => remove(store, summary),
            _ => verb.apply(store, &summary.key, &how, None),
        });
        let shown = changed.shown(found)?;
        match done.and_then(|()| store.flush()) {
            Ok(()) => Ok(Json(shown)),
            Err(error) => Err(broken_off(error, changed.counts.contains_key("done"), shown)),
        }
    })
    .await
}

/// What became of many entries.
#[derive(Default)]
struct Changed {
    counts: BTreeMap<&'static str, u64>,
    results: Vec<Value>,
    stopped: bool,
    unreadable: Unreadable,
}

impl Changed {
    /// Does it to one entry after the other, until one fails.
    fn all(
        &mut self,
        store: &SessionStore,
        seen: &[Summary],
        ended: impl Fn() -> bool,
        mut change: impl FnMut(&Summary) -> Result<Done>,
    ) -> Result<()> {
        for summary in seen {
            if ended() {
                self.stopped = true;
                break;
            }
            let outcome = match self.unreadable.pass(change(summary))? {
                Some(Done::Changed(..)) => "done",
                Some(Done::Same(_)) => "same",
                Some(Done::Differs) => "changed",
                Some(Done::Missing) => "missing",
                Some(Done::Suspended) => "suspended",
                None => "unreadable",
            };
            *self.counts.entry(outcome).or_default() += 1;
            if self.results.len() < NAMED {
                self.results.push(json!({"handle": store.handle(&summary.key), "outcome": outcome}));
            }
        }
        Ok(())
    }

    fn shown(&self, found: u64) -> Outcome<Value> {
        let Self { counts, results, stopped, unreadable } = self;
        let unreadable = json_of(unreadable)?;
        Ok(json!({
            "found": found, "counts": counts, "results": results, "stopped": stopped, "unreadable": unreadable,
        }))
    }
}

/// The answer where an error came after some was done: it says how much. No status that means that nothing was.
fn broken_off(error: Error, has_begun: bool, done: Value) -> Fault {
    let mut fault = Fault::from(error);
    if has_begun && fault.status.is_client_error() {
        fault.status = StatusCode::INTERNAL_SERVER_ERROR;
    }
    fault.with(done)
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
        .with(json!({"expected": expected, "found": found, "unreadable": unreadable, "most": MOST}))
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

    #[test]
    fn an_error_amid_many_says_how_many_were_changed() {
        let dir = tempfile::tempdir().unwrap();
        let store = SessionStore::open(Options::new(dir.path().join("db")).create(true)).unwrap();
        for user in ["a", "b", "c"] {
            let source = SessionSource { user_id: Some(user.into()), platform: "discord".into(), ..Default::default() };
            store.resolve(&source).unwrap();
        }
        let listed: Vec<_> = store.iter(Filter::default()).unwrap().map(|row| row.unwrap()).collect();
        let failing = |after: usize| {
            let (mut changed, mut left) = (Changed::default(), after);
            let done = changed.all(
                &store,
                &listed,
                || false,
                |summary| {
                    if left == 0 {
                        return Err(Error::OverlappingPrefixes);
                    }
                    left -= 1;
                    Verb::Suspend.apply(&store, &summary.key, &How::default(), None)
                },
            );
            let shown = changed.shown(3).unwrap();
            broken_off(done.unwrap_err(), changed.counts.contains_key("done"), shown)
        };
        let fault = failing(2);
        // What was wrong with one is no word about the others.
        assert_eq!((fault.status, fault.kind), (StatusCode::INTERNAL_SERVER_ERROR, "overlapping_prefixes"));
        let details = fault.details.unwrap();
        assert_eq!((&details["counts"], &details["found"]), (&json!({"done": 2}), &json!(3)));
        assert_eq!(details["results"].as_array().unwrap().len(), 2);
        assert_eq!(failing(0).status, StatusCode::BAD_REQUEST);
    }
}
