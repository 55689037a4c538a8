//! A gateway that keeps three fields of its own up to date at each message, beside the counters: one `modify` a message,
//! one step to all threads, one write.
//!
//! `cargo run --example per_message`

use cloakroom::change::{Edit, Modified, Touch};
use cloakroom::{Options, Receipt, SessionKey, SessionStore, Usage};
use serde_json::json;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// What a message tells.
struct Message<'a> {
    model: &'a str,
    route: &'a str,
    tokens: u64,
}

/// Counts a message in its session, and starts one if there is none. The receipt tells when that is durable.
fn count(store: &SessionStore, key: &SessionKey, message: &Message<'_>) -> Result<Receipt, Failure> {
    let done = store.modify(key, Touch::Yes, |draft| {
        let tokens = message.tokens;
        draft.entry.usage.add(&Usage { input_tokens: tokens, total_tokens: tokens, ..Usage::ZERO });
        // The closure may be run again: it goes by the draft alone.
        let number = draft.extra("messages").ok().flatten().and_then(|text| text.parse::<u64>().ok());
        draft.set_extra("messages", &json!(number.unwrap_or(0) + 1));
        draft.set_extra("modelOverride", &json!(message.model));
        draft.set_extra("lastRoute", &json!({"channel": message.route}));
        Edit::Write
    })?;
    match done {
        Modified::Created(written) | Modified::Changed(written) => Ok(written.receipt),
        other => Err(format!("not written: {other:?}").into()),
    }
}

fn main() -> Result<(), Failure> {
    let directory = tempfile::tempdir()?;
    let store = SessionStore::open(Options::new(directory.path().join("sessions.db")).create(true))?;
    let key: SessionKey = "agent:main:telegram:direct:ada".parse()?;
    for (model, tokens) in [("small", 120), ("small", 80), ("large", 500)] {
        count(&store, &key, &Message { model, route: "telegram", tokens })?.wait()?;
    }
    if let Some((entry, extras)) = store.get_with_extras(&key)? {
        println!("{} tokens", entry.usage.total_tokens);
        extras.iter().for_each(|(name, text)| println!("{name}: {text}"));
    }
    store.close()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_message_is_lost_between_threads() -> Result<(), Failure> {
        let directory = tempfile::tempdir()?;
        let path = directory.path().join("sessions.db");
        let store = SessionStore::open(Options::new(&path).create(true))?;
        let key: SessionKey = "agent:main:telegram:direct:ada".parse()?;
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (store, key) = (&store, &key);
                scope.spawn(move || {
                    for _ in 0..100 {
                        let model = if thread == 0 { "large" } else { "small" };
                        count(store, key, &Message { model, route: "telegram", tokens: 3 }).expect("counted");
                    }
                });
            }
        });
        store.close()?;
        drop(store);
        let store = SessionStore::open(Options::new(&path))?;
        let (entry, extras) = store.get_with_extras(&key)?.ok_or("no entry")?;
        assert_eq!((entry.usage.total_tokens, extras.text("messages")), (1200, Some("400")));
        assert_eq!(extras.text("lastRoute"), Some(r#"{"channel":"telegram"}"#));
        main()
    }
}
