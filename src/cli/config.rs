//! The config file: `--config FILE`, and `config check`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use cloakroom::PrunePolicy;
use cloakroom::config::Config;
use cloakroom::reset::ResetPolicies;
use serde::Serialize;
use serde_json::Value;

use super::output::{Columns, Out, clean, size, thousands};
use super::{Exit, Format};

/// Look at the config file.
#[derive(Debug, Args)]
pub(super) struct ConfigCommand {
    #[command(subcommand)]
    command: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Check(Check),
}

/// Check the file that --config names, and print what is in force. Without --config, print the defaults.
///
/// The file is TOML. All settings may be missing:
///
///   session_store_max_age_days = 90            # 0 disables
///   session_store_max_active_days = 0          # after so long, "active" protects no more; 0: always does
///   session_store_max_entries = 0              # 0: no cap
///   session_store_max_disk_bytes = 0           # of live data; 0: no cap
///   session_store_low_water_bytes = 0          # 0: four fifths of the cap
///   session_store_prune_interval_minutes = 60
///
///   [session_reset]
///   mode = "both"                              # none, idle, daily, both
///   idle_minutes = 1440
///   at_hour = 4
///   time_zone = "Europe/Berlin"                # the machine's own, if it is missing
///   daily_from = "activity"                    # or "start": at_hour ends what began before it, in use or not
///   [session_reset.platforms.discord]
///   mode = "none"
///   [session_reset.chat_types.dm]
///   mode = "idle"
///
/// Settings that begin with `session_` and do not exist are refused, and so are ours in another table, where nothing
/// reads them. Other settings are somebody else's. With --json, one object: the settings by the names above, and
/// `policies`, an object: whom a reset policy is for → its words.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Check {
    #[command(flatten)]
    format: Format,
}

#[derive(Serialize)]
struct InForce<'a> {
    #[serde(flatten)]
    config: &'a Config,
    policies: std::collections::BTreeMap<String, String>,
}

impl ConfigCommand {
    pub(super) fn run(self, file: Option<&Path>, out: &mut Out) -> Result<Exit> {
        let Verb::Check(Check { format }) = self.command;
        let config = read(file)?;
        let resets = ResetPolicies::try_from(&config).with_context(|| named(file))?;
        if format.json {
            out.json(&InForce { config: &config, policies: resets.describe().collect() })?;
        } else {
            print(&config, &resets, out)?;
        }
        Ok(Exit::Done)
    }
}

fn print(config: &Config, resets: &ResetPolicies, out: &mut Out) -> Result<()> {
    let policy = PrunePolicy::from(config);
    let mut table = Columns::pairs();
    let mut row = |name: &str, value: &str| table.row([name, value]);
    // As the file says it; a month is no unit of it.
    let long = |time: std::time::Duration| match time.as_secs() / 60 {
        minutes if minutes % 1440 == 0 => format!("{} days", thousands(minutes / 1440)),
        minutes => format!("{} minutes", thousands(minutes)),
    };
    let or_never = |age: Option<std::time::Duration>, never: &str| age.map_or(never.to_owned(), long);
    row("prune what has been idle for", &or_never(policy.max_age, "never"));
    row("active protects for", &or_never(policy.max_active_age, "ever"));
    row("entries at most", &policy.max_entries.map_or("no cap".into(), thousands));
    row("live bytes at most", &policy.max_disk_bytes.map_or("no cap".into(), size));
    if let Some(low) = policy.low_water_bytes {
        row("and then down to", &size(low));
    }
    row("prune every", &long(config.prune_interval()));
    for (whom, policy) in resets.describe() {
        row(&format!("reset, {}", clean(&whom)), &policy);
    }
    table.print(out)
}

/// Reads the config file; the defaults if none is named.
pub(super) fn read(file: Option<&Path>) -> Result<Config> {
    let Some(path) = file else { return Ok(Config::default()) };
    let text = fs::read_to_string(path).with_context(|| named(file))?;
    // The parser's own message has several lines; the place is enough.
    let told = |error: toml::de::Error| {
        let line = error.span().and_then(|span| text.get(..span.start)).map(|before| before.lines().count().max(1));
        let place = line.map_or(String::new(), |line| format!(" (line {line})"));
        anyhow::anyhow!("{}{place}", error.message().replace('\n', ", "))
    };
    let table: toml::Table = text.parse().map_err(told).with_context(|| named(file))?;
    let config: Config = toml::from_str(&text).map_err(told).with_context(|| named(file))?;
    let found = serde_json::to_value(&table)?;
    if let Some(unknown) = unknown(&found)? {
        bail!("{}: there is no setting {unknown:?}; see `cloakroom config check --help`", path.display());
    }
    if let Some((place, name)) = misplaced(&found) {
        let advice = match name.as_str() {
            "session_reset" => "call the table [session_reset]",
            _ => "move it to the head of the file, before any [table]",
        };
        bail!("{}: {name} stands in [{place}], where it is not read; {advice}", path.display());
    }
    if !table.keys().any(|name| is_ours(name)) {
        tracing::warn!("{} has no setting that begins with `session_`; the defaults apply", path.display());
    }
    Ok(config)
}

fn is_ours(name: &str) -> bool {
    name.starts_with("session_store_") || name == "session_reset"
}

/// The first of our settings that stands in a table of somebody else's: the table's name, and the setting's.
fn misplaced(found: &Value) -> Option<(String, String)> {
    let tables = found.as_object()?.iter().filter(|(name, _)| *name != "session_reset");
    tables.into_iter().find_map(|(place, table)| {
        if let Some(name) = table.as_object()?.keys().find(|name| is_ours(name)) {
            return Some((place.clone(), name.clone()));
        }
        misplaced(table).map(|(below, name)| (format!("{place}.{below}"), name))
    })
}

fn named(file: Option<&Path>) -> String {
    file.map_or_else(String::new, |path| PathBuf::from(path).display().to_string())
}

/// The first of our settings that does not exist.
fn unknown(found: &Value) -> Result<Option<String>> {
    let known = serde_json::to_value(Config::default())?;
    let rules = |table: &Value| -> Option<String> {
        let names = ["mode", "idle_minutes", "at_hour", "time_zone", "daily_from"];
        table.as_object()?.keys().find(|name| !names.contains(&name.as_str())).cloned()
    };
    let Some(settings) = found.as_object() else { return Ok(None) };
    if let Some(name) = settings.keys().find(|name| name.starts_with("session_") && known.get(name).is_none()) {
        return Ok(Some(name.clone()));
    }
    let mut reset = found.get("session_reset").cloned().unwrap_or_default();
    let Some(reset) = reset.as_object_mut() else { return Ok(None) };
    for group in ["platforms", "chat_types"] {
        let tables = reset.remove(group).unwrap_or_default();
        for (name, rule) in tables.as_object().into_iter().flatten() {
            if let Some(unknown) = rules(rule) {
                return Ok(Some(format!("session_reset.{group}.{name}.{unknown}")));
            }
        }
    }
    Ok(rules(&Value::Object(reset.clone())).map(|name| format!("session_reset.{name}")))
}
