//! What a stopped gateway left: `turns`, `leases`, `resume-pending`.

use std::time::Duration;

use anyhow::{Result, bail};
use clap::Args;
use cloakroom::SessionKey;
use cloakroom::leases::OpenLease;
use cloakroom::live::AskError;
use cloakroom::query::Filter;
use cloakroom::turns::{OpenTurn, ResumeClear, ResumeMark};
use serde::Serialize;

use super::failure::Failure;
use super::key::KeyArg;
use super::list::none_unreadable;
use super::output::{Columns, Out, clean, local, thousands, words};
use super::source::{Db, Side, Source, with_own, with_source};
use super::{Exit, Format, now};

/// List the turns that are open, the oldest first: those that a crash interrupted, and those that a gateway is at work on.
///
/// Interrupted ones stay until the gateway recovers them, or --recover does. Of a store that nobody has open all are
/// interrupted. With --json, one object a line:
///
///   session_key   the raw key
///   token         names the turn, sixteen hexadecimal digits
///   started_at    when it began (RFC 3339, UTC)
///   interrupted   nobody is at work on it: its process has ended, or it began before the gateway opened the store
///   owner         on a cluster, the process that has begun it, as the label `member` of its metrics; left out where
///                 that is not known
///
/// With --recover and --json, one object: resumable (list of keys), already_pending (those whose resume was pending
/// before, and keeps its reason), stale, suspended, orphaned (markers cleared, because they were too old, or their
/// entry is suspended, or has another session), unreadable.
///
/// A marker or an entry that cannot be decoded is left out, and its marker stays; the exit code is then 1.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Turns {
    /// Make those at most this old pending resumes, and clear all markers: 1h, 30m.
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    recover: Option<Duration>,
    #[command(flatten)]
    format: Format,
}

#[derive(Serialize)]
struct Recovered<'a> {
    resumable: &'a [SessionKey],
    already_pending: &'a [SessionKey],
    stale: u64,
    suspended: u64,
    orphaned: u64,
    unreadable: u64,
}

impl Turns {
    /// Whether it changes anything.
    pub(super) fn recovers(&self) -> bool {
        self.recover.is_some()
    }

    pub(super) fn run(self, db: &Db, out: &mut Out) -> Result<Exit> {
        if let Some(max_age) = self.recover {
            let found = with_own(db, |store| Ok(store.recover_interrupted_turns(&max_age.into())?))?;
            let (stale, suspended, orphaned) = (found.stale, found.suspended, found.orphaned);
            let unreadable = found.unreadable.count;
            if self.format.json {
                let (resumable, already_pending) = (&*found.resumable, &*found.already_pending);
                out.json(&Recovered { resumable, already_pending, stale, suspended, orphaned, unreadable })?;
                return none_unreadable(0, &found.unreadable);
            }
            let mut table = Columns::pairs();
            table.row(["resume pending", &thousands(found.resumable.len() as u64)]);
            table.row(["resume pending before", &thousands(found.already_pending.len() as u64)]);
            table.row(["cleared, too old", &thousands(stale)]);
            table.row(["cleared, suspended", &thousands(suspended)]);
            table.row(["cleared, another session", &thousands(orphaned)]);
            table.print(out)?;
            return none_unreadable(0, &found.unreadable);
        }
        let (turns, unreadable) = with_source(db, |source| match source.side() {
            Side::Own(store) => Ok(Source::parts(store.turns()?)),
            Side::Live(client) => Source::listed::<OpenTurn>(client, "turns"),
        })?;
        if self.format.json {
            turns.iter().try_for_each(|turn| out.json(turn))?;
            return none_unreadable(0, &unreadable);
        }
        let mut table = Columns::new(&["BEGAN", "AGO", "INTERRUPTED", "TOKEN", "KEY"], &[]);
        let now = now();
        for turn in &turns {
            let (began, ago) = (local(turn.started_at), words(now.since(turn.started_at)));
            let interrupted = if turn.interrupted { "yes" } else { "no" };
            table.row([began.as_str(), &ago, interrupted, &turn.token.to_string(), turn.key.as_str()]);
        }
        table.print(out)?;
        out.line(format_args!("{} open turns", thousands(turns.len() as u64)))?;
        none_unreadable(0, &unreadable)
    }
}

/// List the leases that have not ended, the oldest first.
///
/// The gateway takes them for work that may outlive a crash of it, and they hold their entries until they end. Those that
/// live with a process end with it; of a gateway that runs they are listed too. With --json, one object a line:
///
///   session_key   the raw key
///   name          its name; null for one that lives with its process
///   since         when it was taken (RFC 3339, UTC)
///   end           when it ends (RFC 3339, UTC); null for one that lives with its process
///   age_seconds   how long ago it was taken
///
/// A lease that cannot be decoded is left out, and holds its entry; the exit code is then 1.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Leases {
    #[command(flatten)]
    format: Format,
}

impl Leases {
    pub(super) fn run(self, db: &Db, out: &mut Out) -> Result<Exit> {
        let (leases, unreadable) = with_source(db, |source| match source.side() {
            Side::Own(store) => Ok(Source::parts(store.leases()?)),
            Side::Live(client) => Source::listed::<OpenLease>(client, "leases"),
        })?;
        if self.format.json {
            leases.iter().try_for_each(|lease| out.json(lease))?;
            return none_unreadable(0, &unreadable);
        }
        let mut table = Columns::new(&["TAKEN", "AGO", "ENDS", "NAME", "KEY"], &[]);
        for lease in &leases {
            let (taken, ago) = (local(lease.since), words(lease.age));
            let end = lease.end.map_or_else(|| "-".to_owned(), local);
            table.row([taken.as_str(), &ago, &end, lease.name.as_deref().unwrap_or("-"), lease.key.as_str()]);
        }
        table.print(out)?;
        out.line(format_args!("{} leases", thousands(leases.len() as u64)))?;
        none_unreadable(0, &unreadable)
    }
}

/// List the sessions that the next message continues, mark one, or take a mark back.
///
/// With --json, without a key, one object a line: session_key, updated_at, reason, marked_at (or null); an entry that
/// cannot be decoded is left out, and the exit code is 1. With a key, one object: session_key, resume_pending.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(super) struct ResumePending {
    /// The session key to mark, as `list` shows it.
    key: Option<KeyArg>,
    /// Why it is marked.
    #[arg(long, value_name = "TEXT", default_value = "operator", requires = "key")]
    reason: String,
    /// Take the mark back.
    #[arg(long, requires = "key")]
    clear: bool,
    #[command(flatten)]
    format: Format,
}

impl ResumePending {
    pub(super) fn run(self, db: &Db, out: &mut Out) -> Result<Exit> {
        let Some(key) = &self.key else { return self.list(db, out) };
        const SUSPENDED: &str = "it is suspended, so its next message starts a fresh session";
        let key = with_source(db, |source| {
            let found = source.find(key)?;
            let store = match source.side() {
                Side::Own(store) => store,
                Side::Live(client) => {
                    let verb = if self.clear { "clear-resume" } else { "resume-pending" };
                    let how =
                        if self.clear { serde_json::json!({}) } else { serde_json::json!({"reason": self.reason}) };
                    return match Source::change(client, &found, verb, &how) {
                        Ok(_) => Ok(found.key),
                        Err(error) => match error.downcast_ref() {
                            Some(AskError::Refused { kind, .. }) if kind == "suspended" => bail!(SUSPENDED),
                            _ => Err(error),
                        },
                    };
                }
            };
            let key = found.key;
            let missing = || Failure::NoEntry(key.clone());
            if self.clear {
                return match store.clear_resume_pending(&key)? {
                    ResumeClear::Missing => Err(missing().into()),
                    // Without a mark there is nothing to take back, and the outcome is the one asked for.
                    _ => Ok(key),
                };
            }
            match store.mark_resume_pending(&key, &self.reason)? {
                ResumeMark::Marked(_) => Ok(key),
                ResumeMark::Missing => Err(missing().into()),
                ResumeMark::Suspended => bail!(SUSPENDED),
                other => bail!("the store answers {other:?}"),
            }
        })?;
        if self.format.json {
            out.json(&serde_json::json!({"session_key": key, "resume_pending": !self.clear}))?;
        } else {
            let words = if self.clear { "no longer to be resumed" } else { "to be resumed" };
            out.line(clean(&format!("{words}: {}", key.as_str())))?;
        }
        Ok(Exit::Done)
    }

    fn list(&self, db: &Db, out: &mut Out) -> Result<Exit> {
        let mut table = Columns::new(&["LAST ACTIVE", "REASON", "KEY"], &[]);
        let told = with_source(db, |source| {
            let told = source.entries(&Filter::default(), usize::MAX, |entry| {
                if !entry.resume_pending {
                    return Ok(());
                }
                let reason = entry.details.resume_reason.as_deref();
                if self.format.json {
                    return out.json(&serde_json::json!({
                        "session_key": entry.key, "updated_at": entry.updated_at, "reason": reason,
                        "marked_at": entry.details.last_resume_marked_at,
                    }));
                }
                table.row([local(entry.updated_at).as_str(), reason.unwrap_or("-"), entry.key.as_str()]);
                Ok(())
            })?;
            if !self.format.json {
                table.print(out)?;
            }
            Ok(told)
        })?;
        none_unreadable(told.left_out, &told.unreadable)
    }
}
