//! Changing entries: `prune`, `suspend`, `unsuspend`, `pin`, `unpin`, `reset`. Each closes the store before it reports,
//! so what it says is durable.

use std::io::{IsTerminal, Write, stderr, stdin};
use std::path::Path;

use anyhow::{Context, Result};
use clap::Args;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use cloakroom::change::KeepExtras;
use cloakroom::live::Client;
use cloakroom::prune::{NoActivity, PruneReport};
use cloakroom::{Extras, PrunePolicy, Receipt, SessionId, SessionKey, Sessions};

use super::failure::Failure;
use super::key::KeyArg;
use super::output::{Columns, Out, clean, local, thousands, words};
use super::source::{Db, Found, Side, Source, with_source};
use super::{Exit, Format};

/// Remove entries that have been idle for too long.
///
/// Suspended and pinned entries stay, and those that a lease holds. A gateway that has the store open is asked which entries
/// are active, through its live view; where none has it open nobody is asked, and no entry counts as active. What goes is the
/// link from a key to its session: a user who returns gets a fresh one. To see the entries first:
/// `cloakroom list --idle 90d`.
///
/// If more than half of all entries would go, it asks first. A wrong clock looks just like that. Where it cannot ask,
/// for standard input is no terminal, it needs --yes, or else removes nothing and ends with exit code 2.
///
/// With --json, one object:
///
///   dry_run                    nothing was removed; `removed` says how many would have been
///   cutoff                     entries last active before this were expired (RFC 3339, UTC); null for 0 days
///   removed                    entries removed
///   removed_over_entries       … because there were too many
///   removed_over_bytes         … because they were too large
///   removed_active             … although active or held, for too long
///   kept_suspended             expired entries kept because they are suspended
///   kept_pinned                … because they are pinned
///   kept_held                  … because a lease of the gateway holds them
///   kept_active                … because work is in progress
///   guard_failed               … because nobody could say whether it is
///   kept_unreadable            … because a record of it cannot be decoded
///   kept_unreviewed            … because a process of a cluster has not said yet whether it is at work on it; left out
///                              where it is 0
///   touched_meanwhile          … because they were used during the pass
///   stale_rows_cleared         out-of-date index rows cleared on the way
///   oldest_protected_seconds   how long the oldest of those kept has been idle, or null
///   protected                  list of objects: the oldest of those kept (key; reason; idle_seconds)
///   unreadable                 object: count, and the first of those records (list of objects: tree, key, reason)
///   entries_over_cap           entries above --max-entries that are left, because the rest are protected
///   live_bytes                 estimate of the bytes of all entries, if the config file has a cap on them, or null
///   bytes_over_cap             bytes above its low-water mark that are left, because the rest are protected
///   stopped                    the pass ended early
///   failure                    on a cluster: what cut the pass short after it had done something, or why what it removed is
///                              not known to be kept, and the exit code is 1; left out where there is none
///   clock_doubted              nothing was removed, since half of the entries or more lie ahead of the clock; after a
///                              day in which the clock did not jump it is trusted. On a cluster: since the clocks of two
///                              nodes, or that of this host, are more than a minute apart
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Prune {
    /// Remove what has been idle for more days than this. 0 removes nothing.
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = clap::value_parser!(i64).range(0..))]
    max_age_days: Option<i64>,
    /// Then keep at most this many entries: the oldest that are not protected go. 0 means no cap.
    #[arg(long, value_name = "N")]
    max_entries: Option<u64>,
    /// After this long, "active" protects no more, and no lease does: 180d.
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    max_active_age: Option<std::time::Duration>,
    /// Only say what would be removed.
    #[arg(long)]
    dry_run: bool,
    /// Do not ask before more than half of the entries are removed.
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    format: Format,
}

impl Prune {
    /// Whether no flag tells what to prune.
    pub(super) fn says_nothing(&self) -> bool {
        self.max_age_days.is_none() && self.max_entries.is_none()
    }

    /// What the config file says, and the flags in its place.
    fn policy(&self, config: Option<&Path>) -> Result<PrunePolicy> {
        let mut policy = match config {
            Some(_) => PrunePolicy::from(&super::config::read(config)?),
            None => PrunePolicy::max_age_days(0),
        };
        if let Some(days) = self.max_age_days {
            policy.max_age = PrunePolicy::max_age_days(days).max_age;
        }
        if let Some(entries) = self.max_entries {
            policy = policy.max_entries(entries);
        }
        if let Some(age) = self.max_active_age {
            policy = policy.max_active_age(age);
        }
        Ok(policy)
    }

    pub(super) fn run(self, db: &Db, config: Option<&Path>, out: &mut Out) -> Result<Exit> {
        let policy = self.policy(config)?;
        with_source(db, |source| {
            let (report, left) = match source.side() {
                Side::Own(store) => self.own(store, &policy)?,
                Side::Live(client) => self.ask(client, &policy)?,
            };
            // The close may fail, so the report is printed first.
            if self.format.json {
                out.json(&report)?
            } else {
                print(&report, policy.is_disabled(), left, db.cluster.is_some(), out)?
            }
            Ok(if report.failure.is_some() { Exit::Failed } else { Exit::Done })
        })
    }
}

impl Prune {
    /// Prunes a store that is open here. Answers how many entries are left, too.
    fn own(&self, store: &dyn Sessions, policy: &PrunePolicy) -> Result<(PruneReport, u64)> {
        let mut report = None;
        if self.dry_run || !self.yes {
            let dry = store.prune_dry_run(policy, &NoActivity)?;
            if self.dry_run {
                report = Some(dry);
            } else if dry.removed > store.len()? / 2 {
                confirm(dry.removed, store.len()?)?;
            }
        }
        let report = report.map_or_else(|| store.prune(policy, &NoActivity), Ok)?;
        Ok((report, store.len()?))
    }

    /// Prunes through the view of a running store, which asks the gateway's guard. Answers how many entries are left, too.
    fn ask(&self, client: &Client, policy: &PrunePolicy) -> Result<(PruneReport, u64)> {
        let seconds = |age: Option<std::time::Duration>| age.map(|age| age.as_secs());
        let policy = serde_json::json!({
            "max_age_seconds": seconds(policy.max_age),
            "max_entries": policy.max_entries,
            "max_disk_bytes": policy.max_disk_bytes,
            "low_water_bytes": policy.low_water_bytes,
            "max_active_age_seconds": seconds(policy.max_active_age),
        });
        let dry: Preview = client.post("/v1/prune", &serde_json::json!({"policy": policy, "dry_run": true}))?;
        if self.dry_run {
            return Ok((dry.report, dry.entries));
        }
        if !self.yes && dry.report.removed > dry.entries / 2 {
            confirm(dry.report.removed, dry.entries)?;
        }
        let done: Preview = client.post("/v1/prune", &serde_json::json!({"plan": dry.plan}))?;
        Ok((done.report, done.entries))
    }
}

/// What the view answers to a pruning, or to the look before it.
#[derive(Deserialize)]
struct Preview {
    report: PruneReport,
    plan: Option<String>,
    entries: u64,
}

/// Asks whether this number of entries may go.
fn confirm(removed: u64, entries: u64) -> Result<()> {
    if !stdin().is_terminal() {
        return Err(Failure::NeedsYes { removed, entries }.into());
    }
    let (removed, entries) = (thousands(removed), thousands(entries));
    let question = format!("{removed} of {entries} entries would be removed. Is the clock right? Remove them?");
    answer(&question, "removed")
}

/// Asks whether to do what `deed` says.
pub(super) fn ask(deed: &str, done: &'static str) -> Result<()> {
    if !stdin().is_terminal() {
        return Err(Failure::NeedsYesTo { deed: deed.to_owned() }.into());
    }
    answer(&format!("This would {deed}. Do it?"), done)
}

fn answer(question: &str, done: &'static str) -> Result<()> {
    write!(stderr(), "{question} [y/N] ").context("could not ask")?;
    let mut answer = String::new();
    stdin().read_line(&mut answer).context("could not read the answer")?;
    match answer.trim().to_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => Err(Failure::Declined { done }.into()),
    }
}

fn print(report: &PruneReport, disabled: bool, left: u64, on_cluster: bool, out: &mut Out) -> Result<()> {
    if disabled {
        return out.line("0 days: pruning is off, nothing was removed");
    }
    if report.clock_doubted {
        out.line(if on_cluster {
            "the clocks of two nodes, or that of this host, are more than a minute apart: nothing is removed until they are set"
        } else {
            "the clock is doubted, since half of the entries or more lie ahead of it: nothing is removed"
        })?;
    }
    let mut table = Columns::pairs();
    let mut row = |name: &str, value: &str| table.row([name, value]);
    if let Some(cutoff) = report.cutoff {
        row("last active before", &local(cutoff));
    }
    row(if report.dry_run { "would be removed" } else { "removed" }, &thousands(report.removed));
    row("kept, suspended", &thousands(report.kept_suspended));
    let rare = [
        ("of them, too many", report.removed_over_entries),
        ("of them, too large", report.removed_over_bytes),
        ("of them, active for too long", report.removed_active),
        ("kept, pinned", report.kept_pinned),
        ("kept, held", report.kept_held),
        ("kept, active", report.kept_active),
        ("kept, guard failed", report.guard_failed),
        ("kept, unreadable", report.kept_unreadable),
        ("kept, used meanwhile", report.touched_meanwhile),
        ("kept until all processes have looked at them: prune again then", report.kept_unreviewed),
    ];
    for (name, count) in rare.into_iter().filter(|(_, count)| *count > 0) {
        row(name, &thousands(count));
    }
    if let Some(idle) = report.oldest_protected {
        row("oldest kept has been idle for", &words(idle));
    }
    for (name, over) in
        [("entries over the cap", report.entries_over_cap), ("bytes over the cap", report.bytes_over_cap)]
    {
        if over > 0 {
            row(name, &format!("{}, the rest are protected", thousands(over)));
        }
    }
    if let Some(failure) = &report.failure {
        row("cut short, or not known to be kept", failure);
    }
    row("entries in the store", &thousands(left));
    table.print(out)
}

/// Suspend an entry: it is never pruned, and its next message starts a fresh session.
///
/// With --json, one object: session_key, suspended (true).
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Suspend {
    #[command(flatten)]
    target: Target,
}

/// Take a suspension back.
///
/// With --json, one object: session_key, suspended (false).
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Unsuspend {
    #[command(flatten)]
    target: Target,
}

/// Pin an entry: it is never pruned and no policy ends its session. Its next message continues it.
///
/// With --json, one object: session_key, pinned (true).
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Pin {
    #[command(flatten)]
    target: Target,
}

/// Take a pin back.
///
/// With --json, one object: session_key, pinned (false).
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Unpin {
    #[command(flatten)]
    target: Target,
}

/// Start a fresh session for a key: new id, counters at zero, not suspended.
///
/// What the gateway keeps with the entry (its extras: a label, the model that the user chose, metadata) goes, but for
/// what --keep names; `show` lists the names. OpenClaw's own /reset keeps the user's choices:
///
///   --keep label,modelOverride,providerOverride,thinkingLevel,verboseLevel,reasoningLevel,sendPolicy,deliveryContext,lastChannel,lastTo,lastAccountId
///
/// With --json, one object: session_key, session_id (the new one), prev_session_id, kept and dropped (lists of names).
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Reset {
    #[command(flatten)]
    target: Target,
    /// Extras that stay, with commas between them. A name that the entry does not have is passed over.
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    keep: Vec<String>,
}

#[derive(Debug, Args)]
struct Target {
    /// The session key, as `list` shows it.
    key: KeyArg,
    #[command(flatten)]
    format: Format,
}

#[derive(Serialize)]
struct Suspended<'a> {
    session_key: &'a SessionKey,
    suspended: bool,
}

#[derive(Serialize)]
struct Pinned<'a> {
    session_key: &'a SessionKey,
    pinned: bool,
}

#[derive(Serialize)]
struct Fresh<'a> {
    session_key: &'a SessionKey,
    session_id: &'a SessionId,
    prev_session_id: Option<&'a SessionId>,
    kept: Vec<String>,
    dropped: Vec<String>,
}

impl Target {
    /// Changes the entry, and answers its key. The verb answers `None` for a key without an entry.
    fn change<T>(
        &self,
        db: &Db,
        verb: impl FnOnce(&dyn Sessions, &SessionKey) -> cloakroom::Result<Option<T>>,
        ask: impl FnOnce(&Client, &Found) -> Result<T>,
    ) -> Result<(SessionKey, T)> {
        with_source(db, |source| {
            let found = source.find(&self.key)?;
            let done = match source.side() {
                Side::Own(store) => verb(store, &found.key)?.ok_or_else(|| Failure::NoEntry(found.key.clone()))?,
                Side::Live(client) => ask(client, &found)?,
            };
            Ok((found.key, done))
        })
    }

    /// The same for a verb that has nothing to say but that it was done.
    fn set(
        &self,
        db: &Db,
        verb: impl FnOnce(&dyn Sessions, &SessionKey) -> cloakroom::Result<Option<Receipt>>,
        name: &str,
    ) -> Result<SessionKey> {
        let done = |store: &dyn Sessions, key: &SessionKey| Ok(verb(store, key)?.map(drop));
        let ask = |client: &Client, found: &Found| Source::change(client, found, name, &json!({})).map(drop);
        Ok(self.change(db, done, ask)?.0)
    }

    fn say(&self, words: &str, key: &SessionKey, json: &impl Serialize, out: &mut Out) -> Result<Exit> {
        if self.format.json {
            out.json(json)?;
        } else {
            out.line(clean(&format!("{words}: {}", key.as_str())))?;
        }
        Ok(Exit::Done)
    }
}

impl Suspend {
    pub(super) fn run(self, db: &Db, out: &mut Out) -> Result<Exit> {
        let key = self.target.set(db, |store, key| store.suspend(key), "suspend")?;
        self.target.say("suspended", &key, &Suspended { session_key: &key, suspended: true }, out)
    }
}

impl Unsuspend {
    pub(super) fn run(self, db: &Db, out: &mut Out) -> Result<Exit> {
        let key = self.target.set(db, |store, key| store.unsuspend(key), "unsuspend")?;
        self.target.say("no longer suspended", &key, &Suspended { session_key: &key, suspended: false }, out)
    }
}

impl Pin {
    pub(super) fn run(self, db: &Db, out: &mut Out) -> Result<Exit> {
        let key = self.target.set(db, |store, key| store.pin(key), "pin")?;
        self.target.say("pinned", &key, &Pinned { session_key: &key, pinned: true }, out)
    }
}

impl Unpin {
    pub(super) fn run(self, db: &Db, out: &mut Out) -> Result<Exit> {
        let key = self.target.set(db, |store, key| store.unpin(key), "unpin")?;
        self.target.say("no longer pinned", &key, &Pinned { session_key: &key, pinned: false }, out)
    }
}

impl Reset {
    pub(super) fn run(self, db: &Db, out: &mut Out) -> Result<Exit> {
        let reset = |store: &dyn Sessions, key: &SessionKey| {
            let keep = KeepExtras::named(self.keep.clone());
            let Some((_, before)) = store.get_with_extras(key)? else { return Ok(None) };
            let Some(written) = store.reset_keeping(key, &keep)? else { return Ok(None) };
            let after = store.get_with_extras(key)?.map(|(_, extras)| extras).unwrap_or_default();
            let names = |extras: &Extras| extras.iter().map(|(name, _)| name.to_owned()).collect::<Vec<_>>();
            let kept = names(&after);
            let mut dropped = names(&before);
            dropped.retain(|name| !kept.contains(name));
            let prev_session_id = written.entry.details.prev_session_id;
            Ok(Some(Renewed { session_id: written.entry.session_id, prev_session_id, kept, dropped }))
        };
        let ask = |client: &Client, found: &Found| -> Result<Renewed> {
            let answer: Value = Source::change(client, found, "reset", &json!({"keep": self.keep}))?;
            Ok(serde_json::from_value(answer)?)
        };
        let (key, renewed) = self.target.change(db, reset, ask)?;
        let Renewed { session_id, prev_session_id, kept, dropped } = renewed;
        let mut words = format!("reset to session {session_id}");
        if !dropped.is_empty() {
            words.push_str(&format!(", without {}", dropped.join(", ")));
        }
        let prev_session_id = prev_session_id.as_ref();
        let fresh = Fresh { session_key: &key, session_id: &session_id, prev_session_id, kept, dropped };
        self.target.say(&words, &key, &fresh, out)
    }
}

/// What came of a reset.
#[derive(Deserialize)]
struct Renewed {
    session_id: SessionId,
    prev_session_id: Option<SessionId>,
    kept: Vec<String>,
    dropped: Vec<String>,
}
