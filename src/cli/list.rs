//! Looking at many entries: `list`, `find`.

use std::str::FromStr;
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use serde::Serialize;

use cloakroom::query::Filter;
use cloakroom::report::Unreadable;
use cloakroom::{SessionEntry, SessionId, SessionKey, Timestamp};

use super::failure::Failure;
use super::output::{Columns, Out, local, shorten, thousands, words};
use super::source::{Db, with_source};
use super::{Exit, Format, now};

/// Rows of a table that are laid out together.
const BLOCK: usize = 1000;
/// Characters of a name that a table shows.
const NAME: usize = 28;

/// List entries, the one active last first.
///
/// With --json, one object a line:
///
///   session_key      the raw key
///   session_id       the run that is live now
///   created_at       when that began (RFC 3339, UTC)
///   updated_at       when the user was last active (RFC 3339, UTC)
///   idle_seconds     how long ago that was
///   platform         discord, telegram, …; null if it is not known
///   chat_type        dm, group, thread, …; null if it is not known
///   display_name     the name that people see, or null
///   user_id          the user of the origin, or null
///   suspended        true or false
///   resume_pending   true or false
///   pinned           true or false
///   total_tokens     tokens used by this run
///   extras_bytes     bytes of JSON kept with the entry for the gateway
///
/// An entry that cannot be decoded is left out; the others are listed, and the exit code is 1.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(super) struct List {
    /// At most this many entries, or `all`.
    #[arg(long, value_name = "N|all", default_value = "20")]
    limit: Limit,
    /// Only entries active within this time: 30m, 12h, 7d.
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    active: Option<Duration>,
    /// Only entries idle for longer than this: 30d.
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    idle: Option<Duration>,
    /// Only this platform, as the entries spell it: discord.
    #[arg(long)]
    platform: Option<String>,
    /// Only this type of chat: dm, group, thread.
    #[arg(long, value_name = "TYPE")]
    chat_type: Option<String>,
    /// Only keys that begin with this.
    #[arg(long, value_name = "TEXT")]
    prefix: Option<String>,
    /// Only this user id.
    #[arg(long, value_name = "ID")]
    user: Option<String>,
    /// Only suspended entries; with `=false`, only the others.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    suspended: Option<bool>,
    /// Only pinned entries; with `=false`, only the others.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pinned: Option<bool>,
    #[command(flatten)]
    format: Format,
}

/// How many entries to show.
#[derive(Debug, Clone, Copy)]
struct Limit(Option<usize>);

impl FromStr for Limit {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "all" => Ok(Self(None)),
            number => number.parse().map(|number| Self(Some(number))).map_err(|_| "give a number or `all`"),
        }
    }
}

impl List {
    pub(super) fn run(self, db: &Db, out: &mut Out) -> Result<Exit> {
        let now = now();
        let filter = Filter {
            platform: self.platform,
            chat_type: self.chat_type,
            user_id: self.user,
            key_prefix: self.prefix,
            active_since: self.active.map(|active| now.saturating_sub(active)),
            idle_since: self.idle.map(|idle| now.saturating_sub(idle)),
            suspended: self.suspended,
            pinned: self.pinned,
        };
        let Limit(limit) = self.limit;
        let limit = limit.unwrap_or(usize::MAX);
        with_source(db, |source| {
            let mut rows = Rows::new(now, self.format.json);
            let told = source.entries(&filter, limit, |entry| rows.show(&entry, out))?;
            let hint = if told.more { " (--limit shows more)" } else { "" };
            let (shown, all) = (thousands(rows.shown as u64), thousands(source.len()?));
            rows.end(&format!("{shown} of {all} entries{hint}"), out)?;
            none_unreadable(told.left_out, &told.unreadable)
        })
    }
}

/// Names what was left out.
pub(super) fn name(unreadable: &Unreadable) {
    for record in &unreadable.first {
        tracing::warn!(tree = record.tree, key = record.key, reason = record.reason, "left out");
    }
}

/// How a command ends that may have left something out: `told` were named already.
pub(super) fn none_unreadable(told: u64, unreadable: &Unreadable) -> Result<Exit> {
    name(unreadable);
    match told + unreadable.count {
        0 => Ok(Exit::Done),
        records => Err(Failure::Unreadable(records).into()),
    }
}

/// List the entries whose live session has this id.
///
/// Several keys may share an id: a cron job and its run. With --json, one object a line, as in `list`, and what cannot be
/// decoded is left out likewise.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Find {
    /// The session id.
    #[arg(value_name = "ID")]
    id: SessionId,
    #[command(flatten)]
    format: Format,
}

impl Find {
    pub(super) fn run(self, db: &Db, out: &mut Out) -> Result<Exit> {
        with_source(db, |source| {
            let (found, unreadable) = source.by_id(&self.id)?;
            if found.is_empty() && unreadable.is_empty() {
                return Err(Failure::NoSession(self.id).into());
            }
            let mut rows = Rows::new(now(), self.format.json);
            for entry in &found {
                rows.show(entry, out)?;
            }
            let line = format!("{} of {} entries", thousands(rows.shown as u64), thousands(source.len()?));
            rows.end(&line, out)?;
            none_unreadable(0, &unreadable)
        })
    }
}

/// What `list` says of an entry.
#[derive(Serialize)]
struct Row<'a> {
    session_key: &'a SessionKey,
    session_id: &'a SessionId,
    created_at: Timestamp,
    updated_at: Timestamp,
    idle_seconds: u64,
    platform: Option<&'a str>,
    chat_type: Option<&'a str>,
    display_name: Option<&'a str>,
    user_id: Option<&'a str>,
    suspended: bool,
    resume_pending: bool,
    pinned: bool,
    total_tokens: u64,
    extras_bytes: u32,
}

/// A list in the making.
struct Rows {
    now: Timestamp,
    /// `None` for JSON.
    table: Option<Columns>,
    shown: usize,
}

impl Rows {
    fn new(now: Timestamp, json: bool) -> Self {
        let headings = ["IDLE", "LAST ACTIVE", "PLATFORM", "TYPE", "NAME", "STATE", "TOKENS", "SESSION", "KEY"];
        Self { now, table: (!json).then(|| Columns::new(&headings, &[6])), shown: 0 }
    }

    fn show(&mut self, entry: &SessionEntry, out: &mut Out) -> Result<()> {
        self.shown += 1;
        let details = &entry.details;
        let idle = self.now.since(entry.updated_at);
        let Some(table) = &mut self.table else {
            return out.json(&Row {
                session_key: &entry.key,
                session_id: &entry.session_id,
                created_at: entry.created_at,
                updated_at: entry.updated_at,
                idle_seconds: idle.as_secs(),
                platform: details.platform.as_deref(),
                chat_type: details.chat_type.as_deref(),
                display_name: details.display_name.as_deref(),
                user_id: details.origin.as_ref().and_then(|origin| origin.user_id.as_deref()),
                suspended: entry.suspended,
                resume_pending: entry.resume_pending,
                pinned: entry.pinned,
                total_tokens: entry.usage.total_tokens,
                extras_bytes: entry.extras_bytes,
            });
        };
        let states =
            [("suspended", entry.suspended), ("resume pending", entry.resume_pending), ("pinned", entry.pinned)];
        let state: Vec<&str> = states.iter().filter(|(_, is_so)| *is_so).map(|(word, _)| *word).collect();
        table.row([
            words(idle).as_str(),
            &local(entry.updated_at),
            details.platform.as_deref().unwrap_or("-"),
            details.chat_type.as_deref().unwrap_or("-"),
            &shorten(details.display_name.as_deref().unwrap_or("-"), NAME),
            &state.join(", "),
            &thousands(entry.usage.total_tokens),
            entry.session_id.as_str(),
            entry.key.as_str(),
        ]);
        if table.waiting() >= BLOCK { table.print(out) } else { Ok(()) }
    }

    /// Prints what is left of a table, and its last line.
    fn end(&mut self, last_line: &str, out: &mut Out) -> Result<()> {
        let Some(table) = &mut self.table else { return Ok(()) };
        if self.shown == 0 || table.waiting() > 0 {
            table.print(out)?;
        }
        out.line(last_line)
    }
}
