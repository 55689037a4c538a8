//! Turn markers.

use serde::{Deserialize, Serialize};

use super::{CodecError, Fingerprint, decode, encode, micros, timestamp, whole_fingerprint};
use crate::key::SessionId;
use crate::time::Timestamp;

/// A turn that has begun and not ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Turn {
    /// Newer turns have greater ones.
    pub(crate) token: u64,
    pub(crate) started_at: Timestamp,
    /// The session it belongs to. A marker whose entry has another id by now means nothing.
    pub(crate) session_id: SessionId,
}

#[derive(Serialize, Deserialize)]
struct TurnV1<'a> {
    token: u64,
    started_at: u64,
    session_id: &'a str,
}

impl Turn {
    pub(crate) fn encode(&self) -> Result<Vec<u8>, CodecError> {
        let started_at = micros(self.started_at);
        encode(&TurnV1 { token: self.token, started_at, session_id: self.session_id.as_str() }, 64)
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let TurnV1 { token, started_at, session_id } = decode(bytes)?;
        Ok(Self { token, started_at: timestamp(started_at), session_id: SessionId::new(session_id)? })
    }

    /// A row of `turns`.
    pub(crate) fn of_row(row: &[u8], value: &[u8]) -> Result<(Fingerprint, Self), CodecError> {
        Ok((whole_fingerprint(row)?, Self::decode(value)?))
    }
}
