//! Looking at entries: lists, one of them, by id, open turns, leases.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::{HeaderName, StatusCode, Uri, header};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::error::{Fault, Outcome};
use super::handle;
use super::view::{Parts, View, body, parts, query};
use crate::codec::ActivityRow;
use crate::entry::SessionEntry;
use crate::key::{SessionId, SessionKey};
use crate::query::Filter;
use crate::store::SessionStore;
use crate::time::Timestamp;
use crate::unreadable::Unreadable;

/// Entries on a page.
const PAGE: usize = 50;
const MAX_PAGE: usize = 1000;
/// Entries that one request looks at, where they have to be looked at to tell.
const MAX_LOOKS: usize = 10_000;
/// How long it looks.
const MAX_TIME: Duration = Duration::from_secs(2);

pub(super) type Answer = Outcome<Json<Value>>;

/// Which entries to list.
#[derive(Debug, Default, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Wanted {
    platform: Option<String>,
    chat_type: Option<String>,
    user: Option<String>,
    prefix: Option<String>,
    /// Active within this many seconds.
    active_seconds: Option<u64>,
    /// Idle for longer than this many seconds.
    idle_seconds: Option<u64>,
    active_since: Option<Timestamp>,
    idle_since: Option<Timestamp>,
    suspended: Option<bool>,
    pinned: Option<bool>,
    resume_pending: Option<bool>,
    /// Part of the key or of the name that people see.
    q: Option<String>,
    /// Entries on a page, of a list.
    limit: Option<usize>,
    /// Where a list goes on.
    cursor: Option<String>,
}

impl Wanted {
    pub(super) fn filter(&self, now: Timestamp) -> Filter {
        let ago = |seconds: Option<u64>| seconds.map(|seconds| now.saturating_sub(Duration::from_secs(seconds)));
        Filter {
            platform: self.platform.clone(),
            chat_type: self.chat_type.clone(),
            user_id: self.user.clone(),
            key_prefix: self.prefix.clone(),
            active_since: self.active_since.or_else(|| ago(self.active_seconds)),
            idle_since: self.idle_since.or_else(|| ago(self.idle_seconds)),
            suspended: self.suspended,
            pinned: self.pinned,
        }
    }

    /// Whether it asks for a page of a list.
    pub(super) fn is_paged(&self) -> bool {
        self.limit.is_some() || self.cursor.is_some()
    }

    /// Whether the filter says all of it.
    pub(super) fn is_a_filter(&self) -> bool {
        self.resume_pending.is_none() && self.q.is_none()
    }

    /// What the filter does not say.
    pub(super) fn accepts(&self, entry: &SessionEntry) -> bool {
        let found = |q: &String| {
            let q = q.to_lowercase();
            let name = entry.details.display_name.as_deref().unwrap_or_default();
            entry.key.as_str().to_lowercase().contains(&q) || name.to_lowercase().contains(&q)
        };
        self.resume_pending.is_none_or(|pending| entry.resume_pending == pending) && self.q.as_ref().is_none_or(found)
    }
}

/// An entry of a list.
#[derive(Serialize)]
struct Row<'a> {
    handle: String,
    idle_seconds: u64,
    #[serde(flatten)]
    entry: &'a SessionEntry,
}

fn row(store: &SessionStore, entry: &SessionEntry, now: Timestamp) -> Outcome<Value> {
    let row = Row { handle: store.handle(&entry.key), idle_seconds: now.since(entry.updated_at).as_secs(), entry };
    json_of(&row)
}

/// A page of a list. It is asked for most often, so it is written without a tree of values in between.
#[derive(Serialize)]
struct Page {
    sessions: Vec<Box<RawValue>>,
    next: Option<String>,
    looked_at: usize,
    complete: bool,
    total: u64,
    unreadable: Unreadable,
    now: Timestamp,
}

pub(super) fn json_of(value: &impl Serialize) -> Outcome<Value> {
    serde_json::to_value(value).map_err(no_json)
}

#[expect(clippy::needless_pass_by_value, reason = "what an error is mapped by")]
fn no_json(error: serde_json::Error) -> Fault {
    Fault::new(StatusCode::INTERNAL_SERVER_ERROR, "json", error.to_string())
}

pub(super) async fn list(
    State(view): State<Arc<View>>,
    uri: Uri,
) -> Outcome<([(HeaderName, &'static str); 1], Vec<u8>)> {
    let wanted: Wanted = query(&uri)?;
    let limit = wanted.limit.unwrap_or(PAGE);
    if limit == 0 || limit > MAX_PAGE {
        return Err(Fault::bad_request(format!("a page has 1 to {MAX_PAGE} entries")));
    }
    let behind = wanted.cursor.as_deref().map(|text| {
        handle::parse_place(text).ok_or_else(|| Fault::bad_request("a cursor is what the page before has as `next`"))
    });
    let behind = behind.transpose()?;
    view.work(move |view, store| {
        let page = serde_json::to_vec(&page(view, store, &wanted, behind, limit)?).map_err(no_json)?;
        Ok(([(header::CONTENT_TYPE, "application/json")], page))
    })
    .await
}

fn page(
    view: &View,
    store: &SessionStore,
    wanted: &Wanted,
    behind: Option<ActivityRow>,
    limit: usize,
) -> Outcome<Page> {
    let (now, began) = (store.now(), Instant::now());
    // What has to be looked at is filtered here, so that looks are counted.
    let all = wanted.filter(now);
    let coarse = Filter { platform: None, chat_type: None, user_id: None, ..all.clone() };
    view.settle(store)?;
    let mut rows = store.iter_behind(coarse, behind, limit.max(100))?;
    let (mut sessions, mut unreadable) = (Vec::new(), Unreadable::default());
    let (mut looked, mut complete, mut last) = (0, true, behind);
    loop {
        if sessions.len() >= limit {
            break;
        }
        if looked >= MAX_LOOKS || looked % 64 == 63 && (began.elapsed() > MAX_TIME || view.has_ended()) {
            complete = false;
            break;
        }
        let Some(summary) = rows.next().transpose()? else {
            last = None;
            break;
        };
        looked += 1;
        let place = |time| ActivityRow { time, entry: store.commits().fingerprint(&summary.key) };
        last = rows.place().map(place).or(last);
        let Some(Some(entry)) = unreadable.pass(store.peek(&summary.key))? else { continue };
        if all.accepts_entry(&entry) && wanted.accepts(&entry) {
            let (handle, idle) = (store.handle(&entry.key), now.since(entry.updated_at));
            let row = Row { handle, idle_seconds: idle.as_secs(), entry: &entry };
            sessions.push(serde_json::value::to_raw_value(&row).map_err(no_json)?);
        }
    }
    unreadable.add_all(rows.unreadable());
    let next = last.map(handle::show_place);
    Ok(Page { sessions, next, looked_at: looked, complete, total: store.len(), unreadable, now })
}

pub(super) async fn one(State(view): State<Arc<View>>, handle: Parts<String>) -> Answer {
    let handle = parts(handle)?;
    view.work(move |_, store| {
        let (_, found) = store.of_handle(&handle)?;
        let (entry, extras) = store.get_with_extras(&found.key)?.ok_or_else(Fault::no_entry)?;
        let extras: BTreeMap<&str, &str> = extras.iter().collect();
        let leases = store.leases()?;
        let leases: Vec<_> = leases.items.iter().filter(|lease| lease.key == found.key).collect();
        Ok(Json(json!({
            "session": row(store, &entry, store.now())?,
            "extras": extras,
            "turn": json_of(&store.turn(&found.key)?)?,
            "leases": json_of(&leases)?,
        })))
    })
    .await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Named {
    key: String,
}

/// The handle of a key.
pub(super) async fn handle_of(State(view): State<Arc<View>>, bytes: Result<Bytes, BytesRejection>) -> Answer {
    let Named { key } = body(bytes)?;
    let key = SessionKey::new(key).map_err(|error| Fault::from(crate::error::Error::InvalidKey(error)))?;
    view.work(move |_, store| {
        if !store.contains(&key)? {
            return Err(Fault::no_entry());
        }
        Ok(Json(json!({"handle": store.handle(&key)})))
    })
    .await
}

pub(super) async fn by_id(State(view): State<Arc<View>>, id: Parts<String>) -> Answer {
    let id = parts(id)?;
    let id = SessionId::new(id).map_err(|error| Fault::from(crate::error::Error::InvalidId(error)))?;
    view.work(move |_, store| {
        let (found, now) = (store.find_by_session_id(&id)?, store.now());
        let sessions: Vec<_> = found.items.iter().map(|entry| row(store, entry, now)).collect::<Outcome<_>>()?;
        let unreadable = json_of(&found.unreadable)?;
        Ok(Json(json!({"sessions": sessions, "unreadable": unreadable, "total": store.len()})))
    })
    .await
}

pub(super) async fn turns(State(view): State<Arc<View>>) -> Answer {
    view.work(|_, store| Ok(Json(named(store, "turns", &store.turns()?, |turn| &turn.key)?))).await
}

pub(super) async fn leases(State(view): State<Arc<View>>) -> Answer {
    view.work(|_, store| Ok(Json(named(store, "leases", &store.leases()?, |lease| &lease.key)?))).await
}

/// A list whose items have their handles.
fn named<T: Serialize>(
    store: &SessionStore,
    name: &str,
    listing: &crate::unreadable::Listing<T>,
    key: impl Fn(&T) -> &SessionKey,
) -> Outcome<Value> {
    let mut items = Vec::with_capacity(listing.items.len());
    for item in &listing.items {
        let mut value = json_of(item)?;
        if let Some(fields) = value.as_object_mut() {
            fields.insert("handle".into(), store.handle(key(item)).into());
        }
        items.push(value);
    }
    Ok(json!({name: items, "unreadable": json_of(&listing.unreadable)?}))
}
