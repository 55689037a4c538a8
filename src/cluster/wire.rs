//! How a node is connected to.

use std::time::Duration;

use redis::{Client, Connection, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, RedisError, RedisResult};

use crate::error::{Error, Result};

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(1);

/// What all connections of a store have in common.
#[derive(Clone)]
pub(super) struct Wire {
    user: Option<String>,
    password: Option<String>,
}

impl std::fmt::Debug for Wire {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wire").field("user", &self.user).finish_non_exhaustive()
    }
}

impl Wire {
    pub(super) fn new(user: Option<String>, password: Option<String>) -> Self {
        Self { user, password }
    }

    pub(super) fn connect(&self, node: &str) -> RedisResult<Connection> {
        Client::open(self.info(node)?)?.get_connection_with_timeout(CONNECT)
    }

    fn info(&self, node: &str) -> RedisResult<ConnectionInfo> {
        let bad = || RedisError::from(std::io::Error::new(std::io::ErrorKind::InvalidInput, "no host:port"));
        let (host, port) = split(node).ok_or_else(bad)?;
        let info = ConnectionAddr::Tcp(host.to_owned(), port).into_connection_info()?;
        let mut settings = info.redis_settings().clone();
        if let Some(user) = &self.user {
            settings = settings.set_username(user);
        }
        if let Some(password) = &self.password {
            settings = settings.set_password(password);
        }
        Ok(info.set_redis_settings(settings))
    }
}

/// Host and port; an IPv6 address may stand in brackets.
fn split(node: &str) -> Option<(&str, u16)> {
    let (host, port) = node.rsplit_once(':')?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    Some((host, port.parse().ok()?)).filter(|_| !host.is_empty())
}

/// Refuses a seed that is none.
pub(super) fn check_seed(node: &str) -> Result<()> {
    match split(node) {
        Some(_) => Ok(()),
        None => {
            let expected = "host:port";
            Err(Error::Setting { setting: "the address of a node", value: format!("{node:?}"), expected })
        }
    }
}
