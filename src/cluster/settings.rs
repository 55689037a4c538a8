//! What the nodes promise, by their settings.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use redis::{Connection, ErrorKind, RedisError, ServerErrorKind, Value};

use super::value::{pairs, text};
use super::wire::{self, Wire};
use crate::error::{Error, Result};

/// The oldest that has `WAITAOF`. Valkey tells a version of Redis too.
const OLDEST: (u32, u32) = (7, 2);

/// What a node is asked for. With the third one nothing is synced while the log is rewritten.
const SETTINGS: [&str; 4] = ["appendfsync", "appendonly", "no-appendfsync-on-rewrite", "maxmemory-policy"];
const ASK_INFO: &str =
    "let the store's user call `INFO`, or state the settings (`settings_are_stated`, `?stated` in a URL)";
const ASK_CONFIG: &str =
    "let the store's user call `CONFIG GET`, or state the settings (`settings_are_stated`, `?stated` in a URL)";
const HIDDEN: &str =
    "the service hides it: if it is right there, state the settings (`settings_are_stated`, `?stated` in a URL)";

/// Settings are asked for again after so long.
const RECHECK: Duration = Duration::from_secs(30);
/// How long nodes are asked at a time: those that are silent are asked last, and again the next time.
const AT_ONCE: Duration = Duration::from_secs(5);

/// A setting of a node with which nothing can be promised, and what would mend it.
#[derive(Debug, Clone)]
pub(super) struct Unsound {
    node: String,
    setting: &'static str,
    value: String,
    advice: &'static str,
}

impl From<Unsound> for Error {
    fn from(Unsound { node, setting, value, advice }: Unsound) -> Self {
        Self::NodeSetting { node, setting, value, advice }
    }
}

#[cfg(test)]
impl Unsound {
    pub(super) fn any() -> Self {
        Self { node: "a:1".into(), setting: "appendfsync", value: "no".into(), advice: "" }
    }
}

/// Which nodes were asked, and what they said.
#[derive(Debug, Default)]
pub(super) struct Asked {
    at: Option<Instant>,
    /// Those that are as they have to be.
    sound: Vec<String>,
    /// Those that did not tell.
    silent: Vec<String>,
}

impl Asked {
    /// Asks those of the nodes that are not known to be sound; all of them now and then, after a change, and while one is not.
    /// Answers what is wrong; what was wrong before of a node that is silent now is so still.
    pub(super) fn ask(
        &mut self,
        mut nodes: Vec<String>,
        is_changed: bool,
        before: Option<Unsound>,
        wire: &Wire,
        wanted: Wanted,
    ) -> Result<Option<Unsound>> {
        let (is_opening, is_due) = (self.at.is_none(), self.at.is_none_or(|at| at.elapsed() > RECHECK));
        if is_due || is_changed || before.is_some() {
            self.sound.clear();
        }
        self.sound.retain(|node| nodes.contains(node));
        nodes.sort_by_key(|node| self.silent.contains(node));
        self.silent.clear();
        let (mut unsound, began) = (None, Instant::now());
        for node in nodes {
            if self.sound.contains(&node) {
                continue;
            }
            let connected = if began.elapsed() > AT_ONCE { None } else { Some(wire.connect(&node)) };
            let checked = connected.map(|connected| connected.map(|mut found| check(&node, &mut found, wanted)));
            match checked {
                Some(Ok(Ok(()))) => self.sound.push(node),
                Some(Ok(Err(Error::NodeSetting { node, setting, value, advice }))) => {
                    unsound = Some(Unsound { node, setting, value, advice });
                }
                // It is asked again the next time. Until then its acknowledgements count: see `docs/cluster.md`.
                Some(Err(error)) => {
                    if let Some(refusal) = wire::refusal(&node, &error).filter(|_| is_opening) {
                        return Err(refusal);
                    }
                    tracing::debug!(node, %error, "a node does not tell its settings");
                }
                None | Some(Ok(Err(Error::Unavailable { .. }))) => {
                    tracing::debug!(node, "a node is silent about its settings");
                    unsound = unsound.or_else(|| before.clone().filter(|before| before.node == node));
                    self.silent.push(node);
                }
                Some(Ok(Err(error))) => return Err(error),
            }
        }
        if is_due {
            self.at = Some(Instant::now());
        }
        Ok(unsound)
    }
}

/// What a node has to promise.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    /// Every write is synced before its answer.
    pub(super) syncs: bool,
    /// Where a setting cannot be asked for, the user has stated that it is as it has to be.
    pub(super) stated: bool,
}

/// Asks a node for its settings.
pub(super) fn check(node: &str, connection: &mut Connection, wanted: Wanted) -> Result<()> {
    let bad =
        |setting, value: String, advice| Err(Error::NodeSetting { node: node.to_owned(), setting, value, advice });
    let info = match redis::cmd("INFO").arg("server").query::<Value>(connection) {
        Ok(info) => text(&info),
        Err(error) if is_forbidden(&error) => None,
        Err(error) => return Err(silent(node, error)),
    };
    let version = info.as_deref().and_then(version);
    match version {
        Some(found) if found < OLDEST && wanted.syncs => {
            return bad(
                "redis_version",
                format!("{}.{}", found.0, found.1),
                "use Valkey 8 or Redis 7.2, or what came after",
            );
        }
        Some(_) => {}
        None if wanted.stated => {}
        None => return bad("redis_version", "not to be asked".into(), ASK_INFO),
    }
    let asked = redis::cmd("CONFIG").arg("GET").arg(&SETTINGS).query(connection);
    let settings: Value = match asked {
        Ok(settings) => settings,
        Err(error) if !is_forbidden(&error) => return Err(silent(node, error)),
        // What else tells of them is asked.
        Err(_) if wanted.stated => Value::Nil,
        Err(_) => {
            return bad("appendfsync", "not to be asked".into(), ASK_CONFIG);
        }
    };
    let mut settings: HashMap<_, _> =
        pairs(&settings).into_iter().map(|(name, value)| (text(name), text(value))).collect();
    let policy = Some("maxmemory-policy".to_owned());
    if wanted.stated && !settings.contains_key(&policy) {
        settings.insert(policy, told_policy(node, connection)?);
    }
    for name in SETTINGS {
        let value = settings.get(&Some(name.to_owned())).cloned().flatten();
        let Some(value) = value else {
            if wanted.stated {
                continue;
            }
            return bad(name, "not told".into(), HIDDEN);
        };
        match name {
            "appendfsync" if wanted.syncs && value != "always" => {
                return bad("appendfsync", value, "put `appendfsync always` into its configuration");
            }
            "appendonly" if wanted.syncs && value != "yes" => {
                return bad("appendonly", value, "put `appendonly yes` into its configuration");
            }
            "no-appendfsync-on-rewrite" if wanted.syncs && value != "no" => {
                return bad(
                    "no-appendfsync-on-rewrite",
                    value,
                    "put `no-appendfsync-on-rewrite no` into its configuration",
                );
            }
            "maxmemory-policy" if value != "noeviction" => {
                return bad("maxmemory-policy", value, "put `maxmemory-policy noeviction` into its configuration");
            }
            _ => {}
        }
    }
    Ok(())
}

/// The policy of a node by `INFO`, which tells it where `CONFIG GET` may not be called or leaves it out. `None` where that does not
/// tell it either.
fn told_policy(node: &str, connection: &mut Connection) -> Result<Option<String>> {
    match redis::cmd("INFO").arg("memory").query::<Value>(connection) {
        Ok(info) => Ok(text(&info).and_then(|info| {
            info.lines().find_map(|line| line.strip_prefix("maxmemory_policy:")).map(|policy| policy.trim().to_owned())
        })),
        Err(error) if is_forbidden(&error) => Ok(None),
        Err(error) => Err(silent(node, error)),
    }
}

/// Whether this user may not ask, and will not be told the next time either. A node that loads its files, or that is gone,
/// says nothing of its settings.
fn is_forbidden(error: &RedisError) -> bool {
    matches!(error.kind(), ErrorKind::Server(kind) if kind != ServerErrorKind::BusyLoading)
}

fn silent(node: &str, error: RedisError) -> Error {
    Error::Unavailable { seconds: 0, node: node.to_owned(), source: error.into() }
}

fn version(info: &str) -> Option<(u32, u32)> {
    let line = info.lines().find_map(|line| line.strip_prefix("redis_version:"))?;
    let mut parts = line.trim().split('.').map(str::parse);
    Some((parts.next()?.ok()?, parts.next()?.ok()?))
}
