//! Looking at one entry: `show`.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use serde::Serialize;
use serde_json::value::RawValue;

use cloakroom::SessionEntry;

use super::key::KeyArg;
use super::output::{Columns, Out, local, shorten, thousands, words};
use super::source::{Db, with_source};
use super::{Exit, Format, now};

/// Show everything that is kept for one key.
///
/// With --json, one object: the fields of the entry by their names in a session file, every one of them present
/// (null where it is not known), and besides
///
///   idle_seconds     how long ago updated_at was
///   extras           object: what the gateway keeps with the entry and this program does not read, by name;
///                    `metadata` is one of the names. Numbers are as they were written. A field that is no
///                    JSON (Python writes NaN) is null, as in `export --format jsonl`
///   extras_bytes     bytes of it
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Show {
    /// The session key, as `list` shows it.
    key: KeyArg,
    #[command(flatten)]
    format: Format,
}

#[derive(Serialize)]
struct Shown<'a> {
    #[serde(flatten)]
    entry: &'a SessionEntry,
    idle_seconds: u64,
    extras: BTreeMap<&'a str, Option<Box<RawValue>>>,
}

impl Show {
    pub(super) fn run(self, db: &Db, out: &mut Out) -> Result<Exit> {
        with_source(db, |source| {
            let (entry, extras) = source.whole(&source.find(&self.key)?)?;
            let idle = now().since(entry.updated_at);
            if self.format.json {
                let extras =
                    extras.iter().map(|(name, text)| (&**name, RawValue::from_string(text.clone()).ok())).collect();
                out.json(&Shown { entry: &entry, idle_seconds: idle.as_secs(), extras })?;
            } else {
                show(&entry, &extras, idle, out)?;
            }
            Ok(Exit::Done)
        })
    }
}

fn show(entry: &SessionEntry, extras: &BTreeMap<String, String>, idle: Duration, out: &mut Out) -> Result<()> {
    let mut table = Columns::pairs();
    let details = &entry.details;
    let mut row = |name: &str, value: &str| table.row([name, value]);
    row("session key", entry.key.as_str());
    row("session id", entry.session_id.as_str());
    row("last active", &format!("{}, {} ago", local(entry.updated_at), words(idle)));
    if let Some(time) = entry.last_interaction {
        row("last interaction", &local(time));
    }
    row("created", &local(entry.created_at));
    let texts = [
        ("platform", &details.platform),
        ("chat type", &details.chat_type),
        ("name", &details.display_name),
        ("resume reason", &details.resume_reason),
        ("active turn", &details.active_turn_token),
        ("reset because", &details.auto_reset_reason),
        ("cost status", &details.cost_status),
    ];
    for (name, text) in texts {
        if let Some(text) = text {
            row(name, text);
        }
    }
    let times =
        [("resume marked", details.last_resume_marked_at), ("active turn since", details.active_turn_started_at)];
    for (name, time) in times {
        if let Some(time) = time {
            row(name, &local(time));
        }
    }
    if let Some(previous) = &details.prev_session_id {
        row("previous session", previous.as_str());
    }
    let flags = [
        ("suspended", entry.suspended),
        ("resume pending", entry.resume_pending),
        ("pinned", entry.pinned),
        ("expiry finalized", details.expiry_finalized),
        ("fresh reset", details.is_fresh_reset),
        ("automatic reset", details.was_auto_reset),
        ("activity before reset", details.reset_had_activity),
    ];
    for (name, flag) in flags {
        row(name, if flag { "yes" } else { "no" });
    }
    let usage = &entry.usage;
    let counters = [
        ("input tokens", usage.input_tokens),
        ("output tokens", usage.output_tokens),
        ("cache read tokens", usage.cache_read_tokens),
        ("cache write tokens", usage.cache_write_tokens),
        ("total tokens", usage.total_tokens),
        ("last prompt tokens", usage.last_prompt_tokens),
    ];
    for (name, count) in counters {
        row(name, &thousands(count));
    }
    row("estimated cost", &format!("{} USD", usage.estimated_cost_usd));
    if let Some(origin) = &details.origin {
        // As JSON it names its own fields, and those that are missing take no room.
        if let serde_json::Value::Object(fields) = serde_json::to_value(origin)? {
            for (name, value) in fields {
                if let Some(text) = value.as_str().filter(|text| !text.is_empty()) {
                    row(&format!("origin {}", name.replace('_', " ")), text);
                }
            }
        }
    }
    for (name, text) in extras {
        row(&format!("extra {name}"), &shorten(text, 200));
    }
    table.print(out)
}
