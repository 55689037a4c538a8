//! Random numbers from the operating system, and ids made of them.

use crate::error::{Error, Result};
use crate::key::SessionId;
use crate::time::Timestamp;

/// 64 random bits.
pub(crate) fn bits() -> Result<u64> {
    getrandom::u64().map_err(|e| Error::Random { message: e.to_string() })
}

/// A new id: date, time and 48 random bits, `20260612_000653_3f9a01c2d4e5`.
pub(crate) fn session_id(now: Timestamp) -> Result<SessionId> {
    let random = bits()? >> 16;
    let time = chrono::DateTime::<chrono::Utc>::from(now).format("%Y%m%d_%H%M%S");
    SessionId::new(format!("{time}_{random:012x}")).map_err(Error::InvalidId)
}
