//! Who may use the page. Each rule has its test in `tests/it/live/web.rs`.
//!
//! - Connections that nobody has come in by are few, and yield to newer ones.
//! - It is asked by this machine's names only, so that no site can be given our address (DNS rebinding).
//! - A browser comes in once, by a token in the printed address, and has a cookie from then on that no other site's
//!   request carries and no script reads.
//! - A request that changes something must come from this page, and so must one that is no navigation.
//! - Nothing of it is kept by the browser, framed, or run that is not our own file.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use axum::extract::{Extension, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{Html, IntoResponse, Response};
use maud::{DOCTYPE, html};
use parking_lot::Mutex;
use subtle::ConstantTimeEq;

use super::serve::Seat;

/// The secrets of one run.
pub(super) struct Door {
    port: u16,
    /// `None` once it was used.
    token: Mutex<Option<String>>,
    cookie: String,
    used_at: Mutex<Instant>,
    /// Streams that are read.
    streams: AtomicUsize,
}

/// A stream that somebody reads.
pub(super) struct Watching(Arc<Door>);

impl Watching {
    pub(super) fn new(door: &Arc<Door>) -> Self {
        door.streams.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(door))
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        *self.0.used_at.lock() = Instant::now();
        self.0.streams.fetch_sub(1, Ordering::SeqCst);
    }
}

/// 256 random bits.
fn secret() -> Result<String> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|error| anyhow::anyhow!("no random numbers for a secret: {error}"))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn is_same(one: &str, other: &str) -> bool {
    one.as_bytes().ct_eq(other.as_bytes()).into()
}

impl Door {
    pub(super) fn new(port: u16) -> Result<Self> {
        let (token, cookie) = (Mutex::new(Some(secret()?)), secret()?);
        Ok(Self { port, token, cookie, used_at: Mutex::new(Instant::now()), streams: AtomicUsize::new(0) })
    }

    pub(super) fn token(&self) -> String {
        self.token.lock().clone().unwrap_or_default()
    }

    /// How long ago the last request came in, or the last stream was read.
    pub(super) fn idle(&self) -> Duration {
        if self.streams.load(Ordering::SeqCst) > 0 {
            return Duration::ZERO;
        }
        self.used_at.lock().elapsed()
    }

    /// Cookies do not know of ports: another run must not take ours for its own.
    fn cookie_name(&self) -> String {
        format!("cloakroom-{}", self.port)
    }

    fn is_ours(&self, host: &str) -> bool {
        ["127.0.0.1", "localhost", "[::1]"].iter().any(|name| host == format!("{name}:{}", self.port))
    }

    fn has_cookie(&self, headers: &HeaderMap) -> bool {
        let cookies = headers.get_all(header::COOKIE).iter().filter_map(|cookies| cookies.to_str().ok());
        let mut cookies = cookies.flat_map(|cookies| cookies.split("; ")).filter_map(|cookie| cookie.split_once('='));
        cookies.any(|(name, value)| name == self.cookie_name() && is_same(value, &self.cookie))
    }

    /// Whether a request comes from this page. A browser says so in one way or another.
    fn is_own(&self, headers: &HeaderMap) -> bool {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        match (text("sec-fetch-site"), text("origin")) {
            (Some(site), _) => site == "same-origin",
            (None, Some(origin)) => origin.strip_prefix("http://").is_some_and(|host| Some(host) == text("host")),
            (None, None) => false,
        }
    }

    /// Whether another site embeds what it asks for, or reads it by a script. Whoever follows a link may come.
    fn is_embedded(headers: &HeaderMap) -> bool {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        matches!(text("sec-fetch-site"), Some("cross-site" | "same-site")) && text("sec-fetch-mode") != Some("navigate")
    }
}

/// Checks the sender of a request, and the site it comes from.
pub(super) async fn check(
    State(door): State<Arc<Door>>,
    Extension(seat): Extension<Seat>,
    mut request: Request,
    next: Next,
) -> Response {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    if !door.is_ours(host) {
        return (StatusCode::MISDIRECTED_REQUEST, "this page has another address").into_response();
    }
    let is_look = matches!(*request.method(), Method::GET | Method::HEAD);
    if Door::is_embedded(request.headers()) || !is_look && !door.is_own(request.headers()) {
        return (StatusCode::FORBIDDEN, "another site has sent this request").into_response();
    }
    if request.uri().path() != "/login" {
        if !door.has_cookie(request.headers()) {
            let why = match *door.token.lock() {
                Some(_) => "open the address that `cloakroom web` has printed",
                None => {
                    "the printed address has been used, and this browser has no cookie of it; start `cloakroom web` again"
                }
            };
            return (StatusCode::UNAUTHORIZED, why).into_response();
        }
        seat.keep();
        *door.used_at.lock() = Instant::now();
    }
    request.extensions_mut().insert(door);
    next.run(request).await
}

/// Lets a browser in that has the token, once.
pub(super) async fn log_in(State(door): State<Arc<Door>>, request: Request, next: Next) -> Response {
    if request.uri().path() != "/login" {
        return next.run(request).await;
    }
    let given = request.uri().query().and_then(|query| query.strip_prefix("token=")).unwrap_or_default();
    let mut token = door.token.lock();
    if !token.as_ref().is_some_and(|token| is_same(token, given)) {
        let why = "this address has been used, or is not the one that `cloakroom web` has printed; start it again";
        return (StatusCode::UNAUTHORIZED, why).into_response();
    }
    *token = None;
    *door.used_at.lock() = Instant::now();
    let cookie = format!("{}={}; HttpOnly; SameSite=Strict; Path=/", door.cookie_name(), door.cookie);
    ([(header::SET_COOKIE, cookie)], Html(moved("/"))).into_response()
}

/// A page that leads to another at once. A browser that came by a link of another page, such as a terminal in a browser,
/// sends no strict cookie where an answer redirects it; from a page of ours it does.
pub(super) fn moved(target: &str) -> String {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="refresh" content=(format!("0; url={target}"));
                title { "Cloakroom" }
                // Without one, a browser asks for another.
                @if target.starts_with('/') { link rel="icon" type="image/svg+xml" href="/page.svg"; }
            }
            body { p { a href=(target) { "Cloakroom" } } }
        }
    };
    page.into_string()
}

/// What every answer tells the browser.
pub(super) async fn headers(request: Request, next: Next) -> Response {
    let mut answer = next.run(request).await;
    for (name, value) in [
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self'; \
             form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
        ),
        (header::CACHE_CONTROL, "no-store"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    ] {
        answer.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    answer
}
