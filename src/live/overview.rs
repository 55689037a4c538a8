//! The store as a whole: figures, counts by platform, idleness, the watcher.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use serde::Deserialize;
use serde_json::{Value, json};

use super::error::{Fault, Outcome};
use super::prune::policy_json;
use super::sessions::{Answer, json_of};
use super::view::{View, query};
use crate::codec::ActivityRow;
use crate::error::with_causes;
use crate::query::Filter;
use crate::store::SessionStore;
use crate::time::Timestamp;
use crate::unreadable::Unreadable;

/// What stands for a platform or a chat type that is not known.
const UNKNOWN: &str = "unknown";
/// Rows of the index that are read together.
const ROWS: usize = 512;
/// The bounds of the classes of idleness, in seconds.
const EDGES: [u64; 12] = [
    3_600, 21_600, 86_400, 259_200, 604_800, 1_209_600, 2_592_000, 5_184_000, 7_776_000, 15_552_000, 31_536_000,
    63_072_000,
];

pub(super) async fn store(State(view): State<Arc<View>>) -> Answer {
    view.work(|view, store| of_store(view, store).map(Json)).await
}

/// The same for the program of another user, whom the keys of protected entries do not concern.
pub(super) async fn monitored(State(view): State<Arc<View>>) -> Answer {
    view.work(|view, store| {
        let mut shown = of_store(view, store)?;
        if let Some(Value::Object(report)) = shown.pointer_mut("/watcher/status/last_report") {
            report.remove("protected");
        }
        Ok(Json(shown))
    })
    .await
}

fn of_store(view: &View, store: &SessionStore) -> Outcome<Value> {
    let figures = &store.commits().meter().figures;
    let whole = view.history.lock().whole(figures, store.len());
    let failure = store.commits().failure().map(|error| json!({"kind": error.kind(), "message": with_causes(&error)}));
    Ok(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "pid": std::process::id(),
        "uptime_seconds": view.began.elapsed().as_secs(),
        "path": store.commits().meter().store,
        "now": store.now(),
        "read_only_view": view.read_only,
        "guard": view.guard_kind(),
        "may_prune": view.guard().is_ok() && !view.read_only,
        "failure": failure,
        "open_report": json_of(store.open_report())?,
        "stats": json_of(&store.stats()?)?,
        "journal_entries": store.commits().engine()?.journal_entries(),
        "leases": store.leases()?.items.len(),
        "durable_lag_seconds": figures.durable_lag().as_secs_f64(),
        "events_dropped": figures.events_dropped.load(Relaxed),
        "touches": figures.touches.load(Relaxed),
        "commits": figures.commits.read().total(),
        "last_quarter": json_of(&whole)?,
        "watcher": watcher_json(view)?,
    }))
}

fn watcher_json(view: &View) -> Outcome<Value> {
    let Some(watcher) = &view.watcher else { return Ok(Value::Null) };
    let config = &watcher.config;
    Ok(json!({
        "status": json_of(&watcher.status())?,
        "policy": policy_json(&config.policy),
        "interval_seconds": config.interval.as_secs(),
    }))
}

pub(super) async fn watcher(State(view): State<Arc<View>>) -> Answer {
    match watcher_json(&view)? {
        Value::Null => Err(no_watcher()),
        watcher => Ok(Json(watcher)),
    }
}

fn no_watcher() -> Fault {
    Fault::new(StatusCode::NOT_FOUND, "no_watcher", "this process has given its view no watcher")
}

pub(super) async fn prune_now(State(view): State<Arc<View>>) -> Outcome<(StatusCode, Json<Value>)> {
    view.may_change()?;
    let watcher = view.watcher.as_ref().ok_or_else(no_watcher)?;
    if !watcher.prune_now() {
        return Err(Fault::new(StatusCode::CONFLICT, "no_watcher", "the watcher has stopped"));
    }
    tracing::info!("a pass was asked for through the live view");
    Ok((StatusCode::ACCEPTED, Json(json!({"asked": true}))))
}

pub(super) async fn history(State(view): State<Arc<View>>) -> Answer {
    let store = view.store()?;
    let steps = view.history.lock().steps(&store.commits().meter().figures, store.len());
    Ok(Json(json!({"steps": json_of(&steps)?})))
}

/// What `stats` prints: it reads every entry.
pub(super) async fn stats(State(view): State<Arc<View>>) -> Answer {
    view.look(|_, store, go_on| {
        let stats = store.stats()?;
        let (mut suspended, mut pinned, mut resume_pending) = (0_u64, 0_u64, 0_u64);
        let (mut by_platform, mut by_chat_type) = (BTreeMap::<String, u64>::new(), BTreeMap::<String, u64>::new());
        let (mut rows, mut unreadable) = (store.iter(Filter::default())?, Unreadable::default());
        for summary in &mut rows {
            if !go_on() {
                return Err(Fault::closed());
            }
            let Some(Some(entry)) = unreadable.pass(store.peek(&summary?.key))? else { continue };
            suspended += u64::from(entry.suspended);
            pinned += u64::from(entry.pinned);
            resume_pending += u64::from(entry.resume_pending);
            let named = |name: Option<String>| name.unwrap_or_else(|| UNKNOWN.into());
            *by_platform.entry(named(entry.details.platform)).or_default() += 1;
            *by_chat_type.entry(named(entry.details.chat_type)).or_default() += 1;
        }
        unreadable.add_all(rows.unreadable());
        Ok(Json(json!({
            "entries": stats.entries,
            "bytes_on_disk": stats.bytes_on_disk,
            "pending": stats.pending,
            "last_commit": stats.last_commit,
            "oldest": stats.oldest,
            "newest": stats.newest,
            "suspended": suspended,
            "pinned": pinned,
            "resume_pending": resume_pending,
            "by_platform": by_platform,
            "by_chat_type": by_chat_type,
            "unreadable": unreadable.count,
            "unreadable_records": json_of(&unreadable)?,
        })))
    })
    .await
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Of {
    of: Option<String>,
    /// One more bound, in seconds: a cutoff, say.
    edge: Option<u64>,
}

/// How many entries have been idle for how long. It reads the index, and no entry.
pub(super) async fn histogram(State(view): State<Arc<View>>, uri: Uri) -> Answer {
    let Of { of, edge } = query(&uri)?;
    if of.is_some_and(|of| of != "idle") {
        return Err(Fault::bad_request("there is a histogram `of=idle` only"));
    }
    let mut edges = EDGES.to_vec();
    if let Some(edge) = edge.filter(|edge| *edge > 0)
        && let Err(place) = edges.binary_search(&edge)
    {
        edges.insert(place, edge);
    }
    view.look(move |_, store, go_on| {
        let now = store.now();
        let counts = idleness(store, &edges, now, go_on)?;
        Ok(Json(json!({
            "of": "idle",
            "now": now,
            "edges_seconds": edges,
            "counts": counts,
            "rows": counts.iter().sum::<u64>(),
        })))
    })
    .await
}

/// Rows of the index by the class of their idleness: one class up to each edge, and one for what is beyond.
fn idleness(store: &SessionStore, edges: &[u64], now: Timestamp, go_on: &dyn Fn() -> bool) -> Outcome<Vec<u64>> {
    store.commits().apply_pending()?;
    let engine = store.commits().engine()?;
    let mut counts = vec![0; edges.len() + 1];
    let (mut after, mut unreadable) = (None::<ActivityRow>, Unreadable::default());
    loop {
        let rows = engine.oldest_rows(after, None, ROWS, &mut unreadable)?;
        let Some(last) = rows.last().copied() else { return Ok(counts) };
        for row in &rows {
            let idle = now.since(row.time);
            let class = edges.partition_point(|edge| Duration::from_secs(*edge) < idle);
            if let Some(count) = counts.get_mut(class) {
                *count += 1;
            }
        }
        if !go_on() {
            return Err(Fault::closed());
        }
        after = Some(last);
    }
}
