//! Turn markers.

use serde::{Deserialize, Serialize};

use super::{CodecError, decode, encode};
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
        let started_at = self.started_at.as_micros().unsigned_abs();
        encode(&TurnV1 { token: self.token, started_at, session_id: self.session_id.as_str() }, 64)
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let TurnV1 { token, started_at, session_id } = decode(bytes)?;
        let started_at = Timestamp::from_micros(i64::try_from(started_at).unwrap_or(i64::MAX));
        Ok(Self { token, started_at, session_id: SessionId::new(session_id)? })
    }
}
