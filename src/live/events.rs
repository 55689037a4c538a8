//! Events as they happen, as server-sent events.
//!
//! One listener serves all readers, and is there only while somebody reads. The last events are kept. A reader that comes
//! back with `Last-Event-ID` gets those it has missed, and the number of those that are gone.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, Uri, header};
use axum::response::{IntoResponse, Response};
use hyper::body::Frame;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};

use super::body::Flow;
use super::error::{Fault, Outcome};
use super::feeds::{Feed, Kept};
use super::view::{View, query};
use crate::events::{Event, EventOptions, Events};
use crate::random;

/// Events that are kept.
const KEPT: usize = 1024;
/// Events that wait to be taken from the store.
const WAITING: usize = 4096;
/// How often they are taken.
const EVERY: Duration = Duration::from_millis(50);
/// How long events are kept while nobody reads.
const IDLE: Duration = Duration::from_secs(60);
/// How often a reader hears that nothing happens.
const BEAT: Duration = Duration::from_secs(15);

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Wanted {
    touches: bool,
}

#[derive(Serialize)]
struct Told<'a> {
    handle: String,
    #[serde(flatten)]
    event: &'a Event,
}

/// The feed that is there, or a new one.
fn feed(view: &Arc<View>, touches: bool) -> Outcome<Arc<Feed>> {
    let [changes, all] = &view.feeds.feeds;
    let mut place = if touches { all } else { changes }.lock();
    if let Some(feed) = &*place {
        feed.kept.lock().read_at = Instant::now();
        return Ok(Arc::clone(feed));
    }
    let store = view.store()?;
    let events = store.events(EventOptions::new(WAITING).updates(true).touches(touches));
    let kept = Kept { events: VecDeque::new(), first: 1, dropped: 0, read_at: Instant::now() };
    let feed = Arc::new(Feed { name: random::bits()?, kept: Mutex::new(kept), newest: watch::channel(0).0 });
    *place = Some(Arc::clone(&feed));
    tokio::spawn(pump(Arc::clone(view), Arc::clone(&feed), events, touches));
    Ok(feed)
}

/// Takes events from the store, until nobody has read any for a while.
async fn pump(view: Arc<View>, feed: Arc<Feed>, events: Events, touches: bool) {
    loop {
        let newest = take(&view, &feed, &events);
        if newest > *feed.newest.borrow() {
            feed.newest.send_replace(newest);
        }
        let is_idle = feed.newest.receiver_count() == 0 && feed.kept.lock().read_at.elapsed() > IDLE;
        if is_idle || view.is_gone() {
            break;
        }
        tokio::select! {
            () = view.ending() => break,
            () = sleep(EVERY) => {}
        }
    }
    let [changes, all] = &view.feeds.feeds;
    *if touches { all } else { changes }.lock() = None;
}

fn take(view: &View, feed: &Feed, events: &Events) -> u64 {
    let mut kept = feed.kept.lock();
    kept.dropped = events.dropped();
    if let Ok(store) = view.store() {
        for event in events.drain().take(WAITING) {
            let told = Told { handle: store.handle(&event.key), event: &event };
            let Ok(json) = serde_json::to_string(&told) else { continue };
            kept.events.push_back(json.into());
            if kept.events.len() > KEPT {
                kept.events.pop_front();
                kept.first += 1;
            }
        }
    }
    kept.next() - 1
}

pub(super) async fn events(State(view): State<Arc<View>>, uri: Uri, headers: HeaderMap) -> Outcome<Response> {
    let Wanted { touches } = query(&uri)?;
    let reader = view.feeds.reader()?;
    let feed = feed(&view, touches)?;
    let newest = feed.newest.subscribe();
    let seen = headers.get("last-event-id").and_then(|id| id.to_str().ok()).map(str::to_owned);
    let next = match seen.as_deref().and_then(|id| id.split_once('-')) {
        Some((name, number)) if name == format!("{:x}", feed.name) => {
            let number: u64 = number.parse().map_err(|_| Fault::bad_request("no such event"))?;
            Some(number.saturating_add(1))
        }
        // Of another process, or of a feed that has ended.
        Some(_) => Some(0),
        None => None,
    };
    // What waits for a slow reader is kept once, in the feed, and not for each.
    let (sender, frames) = mpsc::channel(1);
    tokio::spawn(async move {
        let _reader = reader;
        tell(&view, &feed, newest, next, &sender).await;
    });
    let headers = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-store")];
    Ok((headers, Body::new(Flow::of(frames, None))).into_response())
}

type Sender = mpsc::Sender<Result<Frame<Bytes>, std::io::Error>>;

/// Tells a reader what happens.
async fn tell(view: &View, feed: &Feed, mut newest: watch::Receiver<u64>, next: Option<u64>, to: &Sender) {
    let (mut next, mut dropped) = {
        let kept = feed.kept.lock();
        (next.unwrap_or_else(|| kept.next()), kept.dropped)
    };
    let mut hello = String::from(": here is what happens\n\n");
    if next == 0 {
        hello.push_str("event: lost\ndata: {\"lost\":null}\n\n");
        next = 1;
    }
    if to.send(Ok(Frame::data(hello.into()))).await.is_err() {
        return;
    }
    loop {
        newest.borrow_and_update();
        let (lost, events, all_dropped) = {
            let kept = feed.kept.lock();
            let (lost, events) = kept.from(next);
            (lost, events, kept.dropped)
        };
        let mut text = String::new();
        let missed = lost + all_dropped.saturating_sub(dropped);
        if missed > 0 {
            text.push_str(&format!("event: lost\ndata: {{\"lost\":{missed}}}\n\n"));
        }
        dropped = all_dropped;
        next += lost;
        for event in events {
            text.push_str(&format!("id: {:x}-{next}\ndata: {event}\n\n", feed.name));
            next += 1;
        }
        if !text.is_empty() && to.send(Ok(Frame::data(text.into()))).await.is_err() {
            return;
        }
        feed.kept.lock().read_at = Instant::now();
        tokio::select! {
            changed = timeout(BEAT, newest.changed()) => match changed {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return,
                Err(_) if to.send(Ok(Frame::data(Bytes::from_static(b":\n\n")))).await.is_err() => return,
                Err(_) => {}
            },
            () = to.closed() => return,
            () = view.ending() => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_comes_back_is_told_what_is_gone() {
        let events = ["c", "d", "e"].map(Arc::from).into();
        let kept = Kept { events, first: 3, dropped: 0, read_at: Instant::now() };
        assert_eq!(kept.next(), 6);
        let texts = |number| {
            let (lost, events) = kept.from(number);
            (lost, events.iter().map(|event| event.to_string()).collect::<Vec<_>>().concat())
        };
        assert_eq!(texts(1), (2, "cde".into()));
        assert_eq!(texts(4), (0, "de".into()));
        assert_eq!(texts(6), (0, String::new()));
    }
}
