//! What the nodes promise, by their settings.

use redis::{Connection, ErrorKind, RedisError, ServerErrorKind, Value};

use super::value::{pairs, text};
use crate::error::{Error, Result};

/// The oldest that has `WAITAOF`. Valkey tells a version of Redis too.
const OLDEST: (u32, u32) = (7, 2);

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
    let bad = |setting, value: String, line| Err(Error::NodeSetting { node: node.to_owned(), setting, value, line });
    let info = match redis::cmd("INFO").arg("server").query::<Value>(connection) {
        Ok(info) => text(&info),
        Err(error) if is_forbidden(&error) => None,
        Err(error) => return Err(silent(node, error)),
    };
    let version = info.as_deref().and_then(version);
    match version {
        Some(found) if found < OLDEST && wanted.syncs => {
            return bad("redis_version", format!("{}.{}", found.0, found.1), "nothing, but use Valkey 8 or Redis 7.2");
        }
        Some(_) => {}
        None if wanted.stated => {}
        None => return bad("redis_version", "not to be asked".into(), "the right to call INFO"),
    }
    let asked =
        redis::cmd("CONFIG").arg("GET").arg(&["appendfsync", "appendonly", "maxmemory-policy"]).query(connection);
    let settings: Value = match asked {
        Ok(settings) => settings,
        Err(error) if !is_forbidden(&error) => return Err(silent(node, error)),
        Err(_) if wanted.stated => return Ok(()),
        Err(_) => {
            return bad("appendfsync", "not to be asked".into(), "the right to call CONFIG GET, or state the settings");
        }
    };
    for (name, value) in pairs(&settings) {
        let (name, value) = (text(name).unwrap_or_default(), text(value).unwrap_or_default());
        match name.as_str() {
            "appendfsync" if wanted.syncs && value != "always" => {
                return bad("appendfsync", value, "`appendfsync always`");
            }
            "appendonly" if wanted.syncs && value != "yes" => return bad("appendonly", value, "`appendonly yes`"),
            "maxmemory-policy" if value != "noeviction" => {
                return bad("maxmemory-policy", value, "`maxmemory-policy noeviction`");
            }
            _ => {}
        }
    }
    Ok(())
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
