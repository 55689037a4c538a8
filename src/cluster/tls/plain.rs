//! What stands in the place of encryption where the program was compiled without it.

use redis::{Client, ConnectionInfo, RedisError, RedisResult};

use crate::error::{Error, Result};

/// An encrypted connection that somebody asks for.
#[derive(Debug, Clone, Default)]
pub(in crate::cluster) struct Tls;

impl Tls {
    pub(in crate::cluster) fn check(&self) -> Result<()> {
        Err(Error::Unsupported { what: "an encrypted connection", by: "without the crate feature `valkey-tls`" })
    }

    pub(in crate::cluster) fn client(&self, info: ConnectionInfo) -> RedisResult<Client> {
        Client::open(info)
    }
}

/// No error is one of encryption.
pub(in crate::cluster) fn refusal(_: &str, _: &RedisError) -> Option<Error> {
    None
}
