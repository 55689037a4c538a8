//! Encrypted connections, and why one did not come to be.

use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use redis::RedisError;

use crate::error::Error;

#[cfg(feature = "valkey-tls")]
mod encrypted;
#[cfg(not(feature = "valkey-tls"))]
mod plain;

#[cfg(feature = "valkey-tls")]
pub(super) use encrypted::{Tls, refusal};
#[cfg(not(feature = "valkey-tls"))]
pub(super) use plain::{Tls, refusal};

/// How long a node may take to say whether it speaks TLS.
const PROBE: Duration = Duration::from_secs(1);

const NOT_ENCRYPTED: &str = "it does not speak TLS on this port: give its tls-port, or let connections be plain";
const ENCRYPTED: &str = "it speaks TLS on this port: let connections be encrypted, or give its plain port";

/// Kinds of records of TLS.
const ALERT: u8 = 0x15;
const HANDSHAKE: u8 = 0x16;
/// The shortest greeting of TLS 1.2: no time, no session, one cipher suite, no compression. One that speaks TLS goes on, or
/// says why not.
const HELLO: &[u8] = b"\x16\x03\x01\0\x2d\x01\0\0\x29\x03\x03\
    \0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x02\xc0\x2f\x01\0";

/// The error, if the node and the options are of two minds on whether connections are encrypted. A node that is asked in a
/// way that it does not understand may hang up, or wait for more.
pub(super) fn mismatch(node: &str, address: (&str, u16), is_encrypted: bool, error: &RedisError) -> Option<Error> {
    let advice = match (speaks_tls(address)?, is_encrypted) {
        (true, false) => ENCRYPTED,
        (false, true) => NOT_ENCRYPTED,
        _ => return None,
    };
    Some(Error::Tls { node: node.to_owned(), advice, source: error.clone().into() })
}

/// Whether a node speaks TLS. `None` if that cannot be told.
fn speaks_tls(address: (&str, u16)) -> Option<bool> {
    let address = address.to_socket_addrs().ok()?.next()?;
    let first_of_answer = |word: &[u8]| {
        let mut stream = TcpStream::connect_timeout(&address, PROBE).ok()?;
        stream.set_read_timeout(Some(PROBE)).ok()?;
        stream.set_write_timeout(Some(PROBE)).ok()?;
        stream.write_all(word).ok()?;
        let mut first = [0];
        stream.read_exact(&mut first).ok()?;
        Some(first)
    };
    match first_of_answer(b"PING\r\n") {
        Some([b'+' | b'-']) => Some(false),
        Some([ALERT]) => Some(true),
        Some(_) => None,
        // It hung up, as one may that expects something else.
        None => matches!(first_of_answer(HELLO)?, [ALERT | HANDSHAKE]).then_some(true),
    }
}
