//! How a node is connected to.

use std::time::Duration;

use redis::{
    Client, Connection, ConnectionAddr, ConnectionInfo, ErrorKind, IntoConnectionInfo, RedisError, RedisResult,
};

use super::tls::{self, Tls};
use crate::error::{Error, Result};

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(1);
/// How long an answer may take, unless another time is set.
const ANSWER: Duration = Duration::from_secs(2);

/// What all connections of a store have in common.
#[derive(Clone)]
pub(super) struct Wire {
    user: Option<String>,
    password: Option<String>,
    tls: Option<Tls>,
}

impl std::fmt::Debug for Wire {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wire").field("user", &self.user).field("tls", &self.tls).finish_non_exhaustive()
    }
}

impl Wire {
    pub(super) fn new(user: Option<String>, password: Option<String>, tls: Option<Tls>) -> Self {
        Self { user, password, tls }
    }

    pub(super) fn connect(&self, node: &str) -> RedisResult<Connection> {
        let client = match &self.tls {
            Some(tls) => tls.client(self.info(node)?)?,
            None => Client::open(self.info(node)?)?,
        };
        let mut connection = client.get_connection_with_timeout(CONNECT)?;
        // What limited the connecting limits nothing after it.
        connection.set_read_timeout(Some(ANSWER))?;
        connection.set_write_timeout(Some(ANSWER))?;
        // Not by the client, which takes any error for a wrong password and does not tell it: a node without room for a
        // connection has room in a moment.
        if let Some(password) = &self.password {
            redis::cmd("AUTH").arg(self.user.as_deref()).arg(password).exec(&mut connection)?;
        }
        Ok(connection)
    }

    /// The error, if a node that was to be connected to speaks TLS and this does not, or the other way round.
    pub(super) fn mismatch(&self, node: &str, error: &RedisError) -> Option<Error> {
        tls::mismatch(node, split(node)?, self.tls.is_some(), error)
    }

    fn info(&self, node: &str) -> RedisResult<ConnectionInfo> {
        let bad = || RedisError::from(std::io::Error::new(std::io::ErrorKind::InvalidInput, "no host:port"));
        let (host, port) = split(node).ok_or_else(bad)?;
        let host = host.to_owned();
        let address = match self.tls {
            Some(_) => ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None },
            None => ConnectionAddr::Tcp(host, port),
        };
        address.into_connection_info()
    }
}

/// The error, if a node does not let this user in, or ask for what the map is made of: it will not the next time either.
pub(super) fn refusal(node: &str, error: &RedisError) -> Option<Error> {
    let says_no = error.kind() == ErrorKind::AuthenticationFailed
        || error.code().is_some_and(|code| ["NOAUTH", "WRONGPASS", "NOPERM"].contains(&code));
    says_no.then(|| Error::Refused { node: node.to_owned(), source: error.clone().into() })
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
