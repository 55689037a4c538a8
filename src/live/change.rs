//! Changes of one entry. Each is durable when it is answered.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::{HeaderMap, StatusCode, header};
use serde::Deserialize;
use serde_json::{Value, json};

use super::error::{Fault, Outcome};
use super::sessions::Answer;
use super::view::{Parts, View, body, parts};
use crate::answer::IfSeen;
use crate::codec::{PINNED, SUSPENDED};
use crate::commit::Receipt;
use crate::entry::{Extras, KeepExtras, Revision};
use crate::events::EventKind;
use crate::key::SessionKey;
use crate::store::SessionStore;
use crate::turns::{ResumeClear, ResumeMark};

/// What can be done to an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Verb {
    Suspend,
    Unsuspend,
    Pin,
    Unpin,
    Reset,
    ResumePending,
    ClearResume,
    Remove,
}

/// How it is to be done.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct How {
    /// Extras that a reset keeps.
    keep: Vec<String>,
    /// Why a resume is marked.
    reason: Option<String>,
}

/// What became of an entry.
pub(super) enum Done {
    /// It was changed, or was so before; what there is to say of it.
    Changed(Value, Receipt),
    /// It was so before.
    Same(Value),
    Missing,
    /// It has another revision than was seen.
    Differs,
    /// It is suspended, so a resume would be of no use.
    Suspended,
}

impl Verb {
    fn of(name: &str) -> Option<Self> {
        serde_json::from_value(Value::from(name)).ok().filter(|verb| *verb != Self::Remove)
    }

    /// Does it to an entry, if that has the revision that was `seen`.
    pub(super) fn apply(
        self,
        store: &SessionStore,
        key: &SessionKey,
        how: &How,
        seen: Option<Revision>,
    ) -> crate::error::Result<Done> {
        let flag = |flag: u8, on: bool, kind: EventKind, said: Value| -> crate::error::Result<Done> {
            let done = store.set_flag_seen(key, (flag, on), kind, seen)?;
            Ok(match done {
                IfSeen::Done(Some(receipt)) => Done::Changed(said, receipt),
                IfSeen::Done(None) => Done::Missing,
                IfSeen::Differs => Done::Differs,
            })
        };
        let done = match self {
            Self::Suspend => flag(SUSPENDED, true, EventKind::Suspended, json!({"suspended": true}))?,
            Self::Unsuspend => flag(SUSPENDED, false, EventKind::Unsuspended, json!({"suspended": false}))?,
            Self::Pin => flag(PINNED, true, EventKind::Pinned, json!({"pinned": true}))?,
            Self::Unpin => flag(PINNED, false, EventKind::Unpinned, json!({"pinned": false}))?,
            Self::Reset => reset(store, key, how, seen)?,
            Self::ResumePending => {
                let reason = how.reason.as_deref().unwrap_or("operator");
                let said = json!({"resume_pending": true});
                match store.mark_resume_seen(key, reason, seen)? {
                    IfSeen::Done(ResumeMark::Marked(receipt)) => Done::Changed(said, receipt),
                    IfSeen::Done(ResumeMark::Suspended) => Done::Suspended,
                    IfSeen::Done(ResumeMark::Missing) => Done::Missing,
                    IfSeen::Differs => Done::Differs,
                }
            }
            Self::ClearResume => {
                let said = json!({"resume_pending": false});
                match store.clear_resume_seen(key, seen)? {
                    IfSeen::Done(ResumeClear::Cleared(receipt)) => Done::Changed(said, receipt),
                    IfSeen::Done(ResumeClear::NotPending) => Done::Same(said),
                    IfSeen::Done(ResumeClear::Missing) => Done::Missing,
                    IfSeen::Differs => Done::Differs,
                }
            }
            Self::Remove => match store.remove_seen(key, seen)? {
                IfSeen::Done(Some(receipt)) => Done::Changed(json!({"removed": true}), receipt),
                IfSeen::Done(None) => Done::Missing,
                IfSeen::Differs => Done::Differs,
            },
        };
        if let Done::Changed(..) = done {
            tracing::info!(%key, verb = ?self, "changed through the live view");
        }
        Ok(done)
    }
}

fn reset(store: &SessionStore, key: &SessionKey, how: &How, seen: Option<Revision>) -> crate::error::Result<Done> {
    let names = |extras: &Extras| extras.iter().map(|(name, _)| name.to_owned()).collect::<Vec<_>>();
    let Some((_, before)) = store.get_with_extras(key)? else { return Ok(Done::Missing) };
    let written = match store.reset_seen(key, &KeepExtras::named(how.keep.clone()), seen)? {
        IfSeen::Done(Some(written)) => written,
        IfSeen::Done(None) => return Ok(Done::Missing),
        IfSeen::Differs => return Ok(Done::Differs),
    };
    let after = store.get_with_extras(key)?.map(|(_, extras)| extras).unwrap_or_default();
    let kept = names(&after);
    let mut dropped = names(&before);
    dropped.retain(|name| !kept.contains(name));
    let entry = written.entry;
    let said = json!({
        "session_id": entry.session_id,
        "prev_session_id": entry.details.prev_session_id,
        "kept": kept,
        "dropped": dropped,
    });
    Ok(Done::Changed(said, written.receipt))
}

pub(super) async fn change(
    State(view): State<Arc<View>>,
    path: Parts<(String, String)>,
    headers: HeaderMap,
    bytes: Result<Bytes, BytesRejection>,
) -> Answer {
    let (handle, verb) = parts(path)?;
    let verb =
        Verb::of(&verb).ok_or_else(|| Fault::new(StatusCode::NOT_FOUND, "not_found", "there is no such verb"))?;
    do_to(view, handle, verb, &headers, body(bytes)?).await
}

pub(super) async fn remove(State(view): State<Arc<View>>, handle: Parts<String>, headers: HeaderMap) -> Answer {
    do_to(view, parts(handle)?, Verb::Remove, &headers, How::default()).await
}

async fn do_to(view: Arc<View>, handle: String, verb: Verb, headers: &HeaderMap, how: How) -> Answer {
    view.may_change()?;
    let seen = if_match(headers)?;
    view.work(move |_, store| {
        let (_, found) = store.of_handle(&handle)?;
        let mut said = match verb.apply(store, &found.key, &how, seen)? {
            Done::Changed(said, receipt) => {
                receipt.wait()?;
                said
            }
            Done::Same(said) => said,
            Done::Missing => return Err(Fault::no_entry()),
            Done::Differs => return Err(Fault::changed()),
            Done::Suspended => {
                let why = "it is suspended, so its next message starts a fresh session";
                return Err(Fault::new(StatusCode::CONFLICT, "suspended", why));
            }
        };
        if let Some(fields) = said.as_object_mut() {
            fields.insert("session_key".into(), found.key.as_str().into());
            fields.insert("handle".into(), handle.into());
            let revision = store.commits().peek_hot(&found.key)?.map(|hot| hot.revision.to_string());
            fields.insert("revision".into(), revision.into());
        }
        Ok(Json(said))
    })
    .await
}

/// The revision that the entry must have.
fn if_match(headers: &HeaderMap) -> Outcome<Option<Revision>> {
    let Some(value) = headers.get(header::IF_MATCH) else { return Ok(None) };
    let text = value.to_str().unwrap_or_default().trim();
    if text == "*" {
        return Ok(None);
    }
    let revision = text.trim_matches('"').parse();
    revision.map(Some).map_err(|_| Fault::bad_request("If-Match takes the revision of an entry"))
}
