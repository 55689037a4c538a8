//! A small chat gateway: a platform that sends messages, sessions in a Cloakroom store, background jobs that keep
//! theirs alive, the watcher that prunes the others, a live view, and a clean shutdown. It ends by itself after about a
//! second, or after the number of seconds that it is given; then it keeps its store.
//!
//! `cargo run --example gateway`, or `cargo run --example gateway -- gateway.db 600`, and beside it
//! `cargo run -- top --db gateway.db`

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use cloakroom::change::Resolution;
use cloakroom::live::{Live, LiveOptions};
use cloakroom::prune::{ActivityGuard, Verdict};
use cloakroom::reset::{ResetPolicies, ResetPolicy};
use cloakroom::watcher::WatcherConfig;
use cloakroom::{Options, PrunePolicy, SessionKey, SessionSource, SessionStore, TimeZone, Usage, Watcher};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// The conversations that background jobs work for, by session key.
#[derive(Clone, Default)]
struct Jobs(Arc<Mutex<HashSet<SessionKey>>>);

impl Jobs {
    fn set(&self, key: &SessionKey, running: bool) {
        let mut jobs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if running {
            jobs.insert(key.clone());
        } else {
            jobs.remove(key);
        }
    }
}

impl ActivityGuard for Jobs {
    fn check(&self, key: &SessionKey) -> Verdict {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(key).into()
    }
}

struct Message {
    source: SessionSource,
    text: String,
}

/// The platform: forty messages from five users, and more until the time is up, then it hangs up.
async fn platform(messages: mpsc::Sender<Message>, time: Duration) {
    let began = Instant::now();
    for n in (0..).take_while(|n| *n < 40 || began.elapsed() < time) {
        let source = SessionSource {
            platform: "discord".into(),
            chat_type: "group".into(),
            chat_id: Some("lobby".into()),
            user_id: Some(format!("user-{}", n % 5)),
            ..SessionSource::default()
        };
        let text = if n % 8 == 7 { "please look into it".into() } else { format!("message {n}") };
        if messages.send(Message { source, text }).await.is_err() {
            return;
        }
        sleep(Duration::from_millis(15)).await;
    }
}

/// Answers one message. What takes long goes on in the background, and keeps its session meanwhile.
async fn answer(
    store: &SessionStore,
    policies: &ResetPolicies,
    jobs: &Jobs,
    background: &mut JoinSet<()>,
    message: Message,
) -> Result<(), Failure> {
    let found = store.resolve_with(&message.source, policies, jobs.clone())?;
    let key = found.entry.key;
    match found.resolution {
        Resolution::Created => println!("{key}: hello, session {}", found.entry.session_id),
        Resolution::Replaced { reason, previous, .. } => println!("{key}: {reason:?} ended {previous}"),
        _ => {}
    }
    // From here until the end of the turn, a crash is noticed at the next start.
    let Some(turn) = store.begin_turn(&key)? else { return Ok(()) };
    sleep(Duration::from_millis(2)).await;
    let used = message.text.len() as u64;
    store.record_usage(&key, &Usage { input_tokens: used, total_tokens: used, ..Usage::ZERO })?;
    if message.text.starts_with("please") {
        jobs.set(&key, true);
        let (jobs, key) = (jobs.clone(), key.clone());
        background.spawn(async move {
            sleep(Duration::from_millis(100)).await;
            println!("{key}: the background job is done");
            jobs.set(&key, false);
        });
    }
    store.end_turn(&key, turn.token)?;
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let directory = tempfile::tempdir()?;
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().map_or_else(|| directory.path().join("sessions.db"), PathBuf::from);
    let time = Duration::from_secs(arguments.next().map_or(Ok(0), |seconds| seconds.parse())?);
    let store = SessionStore::open(Options::new(path).create(true))?;
    let recovered = store.recover_interrupted_turns(Duration::from_secs(60 * 60))?;
    println!("{} sessions to be resumed", recovered.resumable.len());

    let jobs = Jobs::default();
    let policies = ResetPolicies::new(ResetPolicy::both(1440, 4, TimeZone::local()?)?);
    let config =
        WatcherConfig { policy: PrunePolicy::max_age_days(90).max_entries(100_000), ..WatcherConfig::default() };
    let watcher = Watcher::spawn(&store, config, jobs.clone())?;
    // What the command line and the operator's programs ask while this runs.
    let live = Live::serve(&store, LiveOptions::new().watcher(&watcher))?;
    let events = store.events(1000);

    let (sender, mut messages) = mpsc::channel(16);
    let platform = tokio::spawn(platform(sender, time));
    let mut background = JoinSet::new();
    // It ends when the platform hangs up; a real one also listens to a signal here.
    while let Some(message) = messages.recv().await {
        answer(&store, &policies, &jobs, &mut background, message).await?;
    }
    platform.await?;
    timeout(Duration::from_secs(5), background.join_all()).await?;

    // Clean shutdown: no pass runs any more, what is pending is durable, and the next start finds no turns.
    live.close();
    let passes = watcher.status().passes;
    watcher.stop();
    let told = events.drain().count();
    println!("{} sessions, {told} events, {passes} pruning pass", store.len());
    store.close()?;
    Ok(())
}
