//! A gateway with session keys and ids of its own. It never derives a key from a source, and keeps no map beside the
//! store: a message starts a session or touches it, a command resumes an older one, and a nightly job puts its entry in
//! place only if nobody else has.
//!
//! `cargo run --example own_keys`

use std::sync::atomic::{AtomicU32, Ordering};

use cloakroom::change::{Expect, KeepExtras, Put, Repoint, Repointed, Resolution, Resolve};
use cloakroom::{Extras, Options, SessionEntry, SessionId, SessionKey, SessionStore, Timestamp};

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// What the gateway knows of its conversations.
struct Gateway {
    store: SessionStore,
    started: AtomicU32,
}

impl Gateway {
    fn key(&self, channel: &str, user: &str) -> Result<SessionKey, Failure> {
        Ok(format!("agent:main:{channel}:direct:{user}").parse()?)
    }

    /// A message has come in. Answers the session that it belongs to, and whether that is new.
    fn message(&self, channel: &str, user: &str) -> Result<(SessionId, bool), Failure> {
        let make_id = |_: Timestamp| {
            let n = self.started.fetch_add(1, Ordering::Relaxed);
            // Digits and letters only, so it is one.
            SessionId::new(format!("{user}-{n}")).unwrap_or_else(|_| unreachable!())
        };
        let resolved = self.store.resolve_as(&self.key(channel, user)?, &Resolve::new().id_with(&make_id))?;
        Ok((resolved.entry.session_id, resolved.resolution == Resolution::Created))
    }

    /// The user wants to go on with an older session. The model that was chosen stays.
    fn resume(&self, channel: &str, user: &str, id: SessionId) -> Result<bool, Failure> {
        let how = Repoint::new().keep(KeepExtras::named(["model"]));
        Ok(matches!(self.store.repoint(&self.key(channel, user)?, id, &how)?, Repointed::Switched(_)))
    }

    /// The job of tonight, unless another process of the gateway has begun it. Waits until the entry is durable.
    fn begin_job(&self, name: &str, at: Timestamp) -> Result<bool, Failure> {
        let key: SessionKey = format!("agent:main:cron:{name}").parse()?;
        let entry = SessionEntry::new(key, SessionId::new(name)?, at);
        match self.store.put(&entry, &Extras::default(), Expect::Absent)? {
            Put::Created(written) => {
                written.receipt.wait()?;
                Ok(true)
            }
            _ => Ok(false),
        }
    }
}

fn main() -> Result<(), Failure> {
    let directory = tempfile::tempdir()?;
    let store = SessionStore::open(Options::new(directory.path().join("sessions.db")).create(true))?;
    let gateway = Gateway { store, started: AtomicU32::new(1) };

    let (first, is_new) = gateway.message("telegram", "ada")?;
    println!("{first}, new: {is_new}");
    let (again, is_new) = gateway.message("telegram", "ada")?;
    println!("{again}, new: {is_new}");

    let key = gateway.key("telegram", "ada")?;
    gateway.store.set_extra(&key, "model", &"large".into())?;
    gateway.store.set_extra(&key, "draft", &"of the old session".into())?;
    println!("resumed: {}", gateway.resume("telegram", "ada", "ada-0".parse()?)?);
    println!("model: {:?}, draft: {:?}", gateway.store.extra(&key, "model")?, gateway.store.extra(&key, "draft")?);

    let midnight = Timestamp::from_micros(1_781_222_400_000_000);
    for _ in 0..2 {
        println!("the job is ours: {}", gateway.begin_job("nightly", midnight)?);
    }
    gateway.store.close()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_are_started_resumed_and_claimed() -> Result<(), Failure> {
        let directory = tempfile::tempdir()?;
        let store = SessionStore::open(Options::new(directory.path().join("sessions.db")).create(true))?;
        let gateway = Gateway { store, started: AtomicU32::new(1) };
        assert_eq!(gateway.message("telegram", "ada")?, ("ada-1".parse()?, true));
        assert_eq!(gateway.message("telegram", "ada")?, ("ada-1".parse()?, false));
        assert_eq!(gateway.message("slack", "ada")?, ("ada-2".parse()?, true));
        let key = gateway.key("telegram", "ada")?;
        gateway.store.set_extra(&key, "model", &"large".into())?;
        gateway.store.set_extra(&key, "draft", &"old".into())?;
        assert!(gateway.resume("telegram", "ada", "ada-0".parse()?)?);
        assert!(!gateway.resume("telegram", "ada", "ada-0".parse()?)?, "it is there already");
        assert!(!gateway.resume("telegram", "bob", "bob-0".parse()?)?, "nobody there");
        assert_eq!(gateway.message("telegram", "ada")?, ("ada-0".parse()?, false));
        assert_eq!(gateway.store.extra(&key, "model")?.as_deref(), Some("\"large\""));
        assert_eq!(gateway.store.extra(&key, "draft")?, None);
        let at = Timestamp::from_micros(1);
        assert!(gateway.begin_job("nightly", at)?);
        assert!(!gateway.begin_job("nightly", at)?);
        let job = gateway.store.get(&"agent:main:cron:nightly".parse()?)?;
        assert_eq!(job.map(|job| job.updated_at), Some(at));
        main()
    }
}
