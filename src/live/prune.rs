//! Pruning: a preview makes a plan, and a run takes it. What protects entries.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::{StatusCode, Uri};
use serde::Deserialize;
use serde_json::{Value, json};

use super::error::{Fault, Outcome};
use super::handle;
use super::plans::{LASTS, Plan};
use super::sessions::{Answer, json_of};
use super::view::{View, body, query};
use crate::codec::Activity;
use crate::prune::{Planned, PrunePolicy, Scope};
use crate::random;
use crate::store::SessionStore;
use crate::time::Timestamp;
use crate::unreadable::if_readable;

/// Entries that a preview shows.
const SHOWN: usize = 100;

/// What to prune, in the words of [`PrunePolicy`].
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Policy {
    max_age_days: Option<u64>,
    max_age_seconds: Option<u64>,
    max_entries: Option<u64>,
    max_disk_bytes: Option<u64>,
    low_water_bytes: Option<u64>,
    max_active_age_seconds: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Prune {
    policy: Option<Policy>,
    /// It must be true where there is no plan: nothing is pruned that was not looked at.
    dry_run: bool,
    plan: Option<String>,
}

impl Policy {
    fn policy(&self) -> PrunePolicy {
        let seconds = |seconds: Option<u64>| seconds.map(Duration::from_secs);
        let days = self.max_age_days.map(|days| Duration::from_secs(days.saturating_mul(86_400)));
        let mut policy = PrunePolicy::max_age_days(0).max_entries(self.max_entries.unwrap_or(0));
        policy.max_age = seconds(self.max_age_seconds).or(days);
        policy.max_active_age = seconds(self.max_active_age_seconds);
        let high = self.max_disk_bytes.unwrap_or(0);
        policy.max_disk_bytes(high, self.low_water_bytes.unwrap_or(high / 5 * 4))
    }
}

impl View {
    /// The policy of the watcher, or the one that holds where nothing is said.
    fn usual_policy(&self) -> PrunePolicy {
        self.watcher.as_ref().map_or_else(PrunePolicy::default, |watcher| watcher.config.policy)
    }
}

pub(super) fn policy_json(policy: &PrunePolicy) -> Value {
    let seconds = |duration: Option<Duration>| duration.map(|duration| duration.as_secs());
    json!({
        "max_age_seconds": seconds(policy.max_age),
        "max_entries": policy.max_entries,
        "max_disk_bytes": policy.max_disk_bytes,
        "low_water_bytes": policy.low_water_bytes,
        "max_active_age_seconds": seconds(policy.max_active_age),
    })
}

pub(super) async fn prune(State(view): State<Arc<View>>, bytes: Result<Bytes, BytesRejection>) -> Answer {
    let Prune { policy, dry_run, plan } = body(bytes)?;
    match (policy, dry_run, plan) {
        (policy, true, None) => {
            let policy = policy.map_or_else(|| view.usual_policy(), |policy| policy.policy());
            view.look(move |view, store, go_on| preview(view, store, &policy, go_on)).await.map(Json)
        }
        (None, false, Some(plan)) => {
            view.may_change()?;
            view.work_long(move |view, store| run(view, store, &plan)).await.map(Json)
        }
        _ => Err(Fault::bad_request(
            "ask for a preview with `policy` and `dry_run`: true, and run the `plan` that it answers",
        )),
    }
}

fn preview(view: &View, store: &SessionStore, policy: &PrunePolicy, go_on: &dyn Fn() -> bool) -> Outcome<Value> {
    let (guard, as_of, mut planned) = (view.guard_to_look(), store.now(), Planned::default());
    let report = store.prune_pass(policy, &*guard, Some(as_of), true, Scope::Note(&mut planned), go_on)?;
    let Planned { remove, first, keep } = planned;
    let named = |found: &Activity| {
        let entry = if_readable(store.peek(&found.key))?.flatten();
        Ok(json!({
            "handle": store.handle(&found.key),
            "session_key": found.key,
            "display_name": entry.and_then(|entry| entry.details.display_name),
            "updated_at": found.hot.updated_at,
            "idle_seconds": as_of.since(found.hot.updated_at).as_secs(),
        }))
    };
    let first = first.iter().take(SHOWN).map(named).collect::<Outcome<Vec<_>>>()?;
    let kept = kept(store, &keep, SHOWN, as_of)?;
    let name = format!("{:016x}{:016x}", random::bits()?, random::bits()?);
    let planned = remove.len();
    let idle = |time: Option<&Timestamp>| time.map(|time| as_of.since(*time).as_secs());
    let times = || remove.values().map(|(_, time)| time);
    let (oldest, newest) = (idle(times().min()), idle(times().max()));
    view.plans.lock().keep(name.clone(), Plan::new(*policy, as_of, remove));
    Ok(json!({
        "report": json_of(&report)?,
        "policy": policy_json(policy),
        "plan": name,
        "plan_seconds": LASTS.as_secs(),
        "planned": planned,
        "entries": store.len(),
        "oldest_idle_seconds": oldest,
        "newest_idle_seconds": newest,
        "first": first,
        "kept": kept,
    }))
}

fn run(view: &View, store: &SessionStore, plan: &str) -> Outcome<Value> {
    let guard = view.guard()?;
    let plan = view.plans.lock().take(plan).ok_or_else(|| {
        let why = "there is no such plan: it was used, is older than ten minutes, or newer previews took its place; look at \
                   another preview";
        Fault::new(StatusCode::CONFLICT, "no_plan", why)
    })?;
    let go_on = || !view.has_ended();
    let scope = Scope::Only(&plan.remove);
    let report = store.prune_pass(&plan.policy, &*guard, Some(plan.as_of), false, scope, go_on)?;
    tracing::info!(removed = report.removed, "pruned through the live view");
    Ok(json!({"report": json_of(&report)?, "entries": store.len()}))
}

fn kept(
    store: &SessionStore,
    keep: &[(crate::codec::Fingerprint, crate::prune::Protected)],
    most: usize,
    now: Timestamp,
) -> Outcome<Vec<Value>> {
    let mut shown = Vec::new();
    for (entry, protected) in keep.iter().take(most) {
        let mut value = json_of(protected)?;
        if let Some(fields) = value.as_object_mut() {
            fields.remove("key");
            fields.insert("session_key".into(), protected.key.as_str().into());
            fields.insert("handle".into(), handle::show(*entry).into());
            if let Some(found) = if_readable(store.peek(&protected.key))?.flatten() {
                fields.insert("display_name".into(), found.details.display_name.into());
                fields.insert("revision".into(), found.revision.to_string().into());
                fields.insert("idle_seconds".into(), now.since(found.updated_at).as_secs().into());
            }
        }
        shown.push(value);
    }
    Ok(shown)
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Pinned {
    max_age_days: Option<u64>,
}

/// What is past the cutoff and stays, with the reasons.
pub(super) async fn protected(State(view): State<Arc<View>>, uri: Uri) -> Answer {
    let Pinned { max_age_days } = query(&uri)?;
    let policy = match max_age_days {
        Some(_) => Policy { max_age_days, ..Policy::default() }.policy(),
        None => view.usual_policy(),
    };
    view.look(move |view, store, go_on| {
        let (guard, now, mut planned) = (view.guard_to_look(), store.now(), Planned::default());
        let report = store.prune_pass(&policy, &*guard, None, true, Scope::Note(&mut planned), go_on)?;
        let shown = kept(store, &planned.keep, Planned::NOTED, now)?;
        let protected = [
            ("suspended", report.kept_suspended),
            ("pinned", report.kept_pinned),
            ("held", report.kept_held),
            ("active", report.kept_active),
            ("guard_failed", report.guard_failed),
            ("unreadable", report.kept_unreadable),
        ];
        let all: u64 = protected.iter().map(|(_, count)| count).sum();
        let counts: serde_json::Map<_, _> =
            protected.into_iter().map(|(reason, count)| (reason.to_owned(), count.into())).collect();
        Ok(Json(json!({
            "policy": policy_json(&policy),
            "cutoff": report.cutoff,
            "complete": shown.len() as u64 >= all,
            "protected": shown,
            "counts": counts,
            "stopped": report.stopped,
        })))
    })
    .await
}
