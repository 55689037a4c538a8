//! Which request goes where.

use std::sync::Arc;

use axum::Json;
use axum::Router;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderName, StatusCode, header};
use axum::routing::{MethodRouter, get, post};
use serde_json::{Value, json};

use super::error::{Fault, Outcome};
use super::view::View;
use super::{bulk, change, events, metrics, overview, prune, sessions, streams};

/// The description of all requests, an OpenAPI document.
pub const OPENAPI: &str = include_str!("openapi.json");

/// The largest body of a request.
pub(super) const MAX_BODY: usize = 64 << 10;

type Routes = Vec<(&'static str, MethodRouter<Arc<View>>)>;

/// The paths, as the description has them.
fn routes() -> Routes {
    vec![
        ("/metrics", get(metrics::metrics)),
        ("/v1/backup", get(streams::backup)),
        ("/v1/events", get(events::events)),
        ("/v1/export", get(streams::export)),
        ("/v1/handle", post(sessions::handle_of)),
        ("/v1/handover", post(hand_over)),
        ("/v1/histogram", get(overview::histogram)),
        ("/v1/history", get(overview::history)),
        ("/v1/ids/{id}", get(sessions::by_id)),
        ("/v1/leases", get(sessions::leases)),
        ("/v1/openapi.json", get(openapi)),
        ("/v1/protected", get(prune::protected)),
        ("/v1/prune", post(prune::prune)),
        ("/v1/sessions", get(sessions::list)),
        ("/v1/sessions/{handle}", get(sessions::one).delete(change::remove)),
        ("/v1/sessions/{handle}/{verb}", post(change::change)),
        ("/v1/sessions:bulk", post(bulk::bulk)),
        ("/v1/stats", get(overview::stats)),
        ("/v1/store", get(overview::store)),
        ("/v1/turns", get(sessions::turns)),
        ("/v1/verify", get(streams::verify)),
        ("/v1/watcher", get(overview::watcher)),
        ("/v1/watcher/prune-now", post(overview::prune_now)),
    ]
}

pub(super) fn all(view: &Arc<View>) -> Router {
    of(routes(), view)
}

/// What the socket of a monitoring program offers. No key is in it.
pub(super) fn monitor(view: &Arc<View>) -> Router {
    of(vec![("/metrics", get(metrics::metrics)), ("/v1/store", get(overview::monitored))], view)
}

fn of(routes: Routes, view: &Arc<View>) -> Router {
    let router = routes.into_iter().fold(Router::new(), |router, (path, route)| router.route(path, route));
    router
        .fallback(|| async { Fault::new(StatusCode::NOT_FOUND, "not_found", "there is nothing at this path") })
        .method_not_allowed_fallback(|| async {
            Fault::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "this path takes another method")
        })
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(Arc::clone(view))
}

async fn openapi() -> ([(HeaderName, &'static str); 1], &'static str) {
    ([(header::CONTENT_TYPE, "application/json")], OPENAPI)
}

/// Ends the view, and with it the program that looks at the store, where it yields to others.
async fn hand_over(State(view): State<Arc<View>>) -> Outcome<(StatusCode, Json<Value>)> {
    if !view.hands_over {
        return Err(Fault::forbidden("stays", "this process keeps the store"));
    }
    view.stop();
    Ok((StatusCode::ACCEPTED, Json(json!({"closing": true}))))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_description_has_every_path_and_no_other() {
        let described: Value = serde_json::from_str(OPENAPI).unwrap();
        let described: BTreeSet<_> = described["paths"].as_object().unwrap().keys().cloned().collect();
        let routed: BTreeSet<_> = routes().into_iter().map(|(path, _)| path.to_owned()).collect();
        assert_eq!(described, routed);
    }
}
