//! `remove`: one entry, or as many as begin with a prefix. It closes the store before it reports, so what it says is
//! durable.

use anyhow::Result;
use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use cloakroom::SessionKey;
use cloakroom::live::AskError;
use cloakroom::prefix::BulkRemoval;
use cloakroom::query::Filter;
use serde::Serialize;
use serde_json::json;

use super::failure::Failure;
use super::key::KeyArg;
use super::list::none_unreadable;
use super::output::{Out, clean, thousands};
use super::source::{Db, Side, Source, with_source};
use super::{Exit, Format};

/// Remove an entry, or all whose keys begin with a prefix. Transcripts are not the store's, and stay.
///
/// With --prefix, --expect says how many entries that takes. If there are more or fewer, nothing is removed, the error
/// names both numbers, and the exit code is 1. Without --expect nothing is removed either, the error says how many there
/// are, and the exit code is 2. Bytes are compared: agent:main:telegram:dm:5 takes agent:main:telegram:dm:56 too, where
/// `forget` does not. Suspended and pinned entries go, too.
///
/// With --json, one object: session_key, removed (true). With --prefix: removed, changed (entries that went by themselves
/// meanwhile), unreadable (entries that cannot be decoded, which are in no number and stay; the exit code is then 1).
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Remove {
    /// The session key, as `list` shows it.
    #[arg(required_unless_present = "prefix", conflicts_with = "prefix")]
    key: Option<KeyArg>,
    /// Remove all entries whose keys begin with this.
    #[arg(long, value_name = "TEXT", value_parser = NonEmptyStringValueParser::new())]
    prefix: Option<String>,
    /// How many those are.
    #[arg(long, value_name = "N", conflicts_with = "key")]
    expect: Option<u64>,
    #[command(flatten)]
    format: Format,
}

#[derive(Serialize)]
struct Removed<'a> {
    session_key: &'a SessionKey,
    removed: bool,
}

impl Remove {
    pub(super) fn run(self, db: &Db, out: &mut Out) -> Result<Exit> {
        match (&self.key, &self.prefix) {
            (Some(key), _) => self.one(db, key, out),
            (None, prefix) => self.many(db, prefix.clone().unwrap_or_default(), out),
        }
    }

    fn one(&self, db: &Db, key: &KeyArg, out: &mut Out) -> Result<Exit> {
        let key = with_source(db, |source| {
            let found = source.find(key)?;
            match source.side() {
                Side::Own(store) => {
                    store.remove(&found.key)?.ok_or_else(|| Failure::NoEntry(found.key.clone()))?;
                }
                Side::Live(client) => {
                    Source::change(client, &found, "remove", &json!({}))?;
                }
            }
            Ok(found.key)
        })?;
        if self.format.json {
            out.json(&Removed { session_key: &key, removed: true })?;
        } else {
            out.line(clean(&format!("removed: {}", key.as_str())))?;
        }
        Ok(Exit::Done)
    }

    fn many(&self, db: &Db, prefix: String, out: &mut Out) -> Result<Exit> {
        let filter = Filter { key_prefix: Some(prefix), ..Filter::default() };
        let answer = with_source(db, |source| match (self.expect, source.side()) {
            (Some(expected), Side::Own(store)) => Ok(store.remove_where(&filter, Some(expected))?),
            (Some(expected), Side::Live(client)) => {
                let prefix = filter.key_prefix;
                let ask = json!({"verb": "remove", "filter": {"prefix": prefix}, "expected": expected, "exact": true});
                client.post("/v1/sessions:bulk", &ask).map(BulkRemoval::Removed).map_err(differs)
            }
            (None, _) => Err(Failure::NeedsExpect { found: count(source, &filter)? }.into()),
        })?;
        let report = match answer {
            BulkRemoval::Removed(report) => report,
            BulkRemoval::CountDiffers { expected, found, unreadable } => {
                return Err(Failure::CountDiffers { expected, found, unreadable: unreadable.count }.into());
            }
            other => anyhow::bail!("the store answers {other:?}"),
        };
        if self.format.json {
            out.json(&report)?;
        } else {
            out.line(format_args!("removed {} entries", thousands(report.removed)))?;
        }
        none_unreadable(0, &report.unreadable)
    }
}

/// What the view says where the number is another.
fn differs(error: AskError) -> anyhow::Error {
    match error {
        AskError::Refused { kind, details, .. } if kind == "count_differs" => {
            let number = |name: &str| details.get(name).and_then(serde_json::Value::as_u64).unwrap_or_default();
            let (expected, found, unreadable) = (number("expected"), number("found"), number("unreadable"));
            Failure::CountDiffers { expected, found, unreadable }.into()
        }
        error => error.into(),
    }
}

/// How many entries [`remove_where`](cloakroom::SessionStore::remove_where) would find.
fn count(source: &Source, filter: &Filter) -> Result<u64> {
    match source.side() {
        Side::Own(store) => {
            let mut rows = store.iter(filter.clone())?;
            rows.try_fold(0, |found, summary| summary.map(|_| found + 1)).map_err(Into::into)
        }
        Side::Live(_) => {
            let mut found = 0;
            source.entries(filter, usize::MAX, |_| {
                found += 1;
                Ok(())
            })?;
            Ok(found)
        }
    }
}
