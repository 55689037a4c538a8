//! The records: what the store works with, and the frozen structs that are written.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::details::{DetailsV1, details, details_v1};
use super::extras::{ExtrasIndex, ExtrasV1};
use super::{CodecError, MAX_VALUE_BYTES, decode, encode, micros, timestamp};
use crate::entry::{Details, Revision, Usage};
use crate::key::{SessionId, SessionKey};
use crate::time::Timestamp;

/// Bit of [`Hot::flags`]: suspended.
pub(crate) const SUSPENDED: u8 = 1;
/// Bit of [`Hot::flags`]: a resume is pending.
pub(crate) const RESUME_PENDING: u8 = 2;

/// Bit of [`Hot::flags`]: an import wrote the entry, and nothing but its time of activity has changed since.
pub(crate) const AS_IMPORTED: u8 = 4;

/// Bit of [`Hot::flags`]: pinned.
pub(crate) const PINNED: u8 = 8;

/// The hot record: what a touch rewrites and what pruning needs.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Hot {
    pub(crate) updated_at: Timestamp,
    pub(crate) flags: u8,
    pub(crate) revision: Revision,
    pub(crate) last_interaction: Option<Timestamp>,
    pub(crate) usage: Usage,
}

#[derive(Serialize, Deserialize)]
pub(super) struct HotV1 {
    updated_at: u64,
    flags: u8,
    revision: [u8; 8],
    last_interaction: Option<u64>,
    /// Absent while all are zero.
    usage: Option<UsageV1>,
}

#[derive(Serialize, Deserialize)]
struct UsageV1 {
    input_tokens: u64,
    output_tokens: u64,
    cache_read_tokens: u64,
    cache_write_tokens: u64,
    total_tokens: u64,
    last_prompt_tokens: u64,
    estimated_cost_usd: f64,
}

impl Hot {
    /// A session that begins at `now`.
    pub(crate) fn fresh(now: Timestamp) -> Self {
        Self { updated_at: now, flags: 0, revision: Revision::NONE, last_interaction: None, usage: Usage::ZERO }
    }

    pub(crate) fn is(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    pub(crate) fn set(&mut self, flag: u8, on: bool) {
        if on { self.flags |= flag } else { self.flags &= !flag }
    }

    pub(crate) fn encode(&self) -> Result<Vec<u8>, CodecError> {
        encode(&HotV1::of(self), 64)
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        decode::<HotV1>(bytes).map(Self::from)
    }
}

/// What `activity` has of an entry: which one it is, and its hot record.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Activity {
    pub(crate) key: SessionKey,
    pub(crate) hot: Hot,
}

#[derive(Serialize, Deserialize)]
struct ActivityV1<'a> {
    key: &'a str,
    hot: HotV1,
}

impl Activity {
    pub(crate) fn encode(key: &SessionKey, hot: &Hot) -> Result<Vec<u8>, CodecError> {
        encode(&ActivityV1 { key: key.as_str(), hot: HotV1::of(hot) }, 64 + key.as_str().len())
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let ActivityV1 { key, hot } = decode(bytes)?;
        Ok(Self { key: SessionKey::new(key)?, hot: hot.into() })
    }

    /// The hot record alone.
    pub(crate) fn decode_hot(bytes: &[u8]) -> Result<Hot, CodecError> {
        let ActivityV1 { hot, .. } = decode(bytes)?;
        Ok(hot.into())
    }
}

impl HotV1 {
    pub(super) fn of(hot: &Hot) -> Self {
        let u = &hot.usage;
        let usage = (*u != Usage::ZERO).then_some(UsageV1 {
            input_tokens: u.input_tokens,
            output_tokens: u.output_tokens,
            cache_read_tokens: u.cache_read_tokens,
            cache_write_tokens: u.cache_write_tokens,
            total_tokens: u.total_tokens,
            last_prompt_tokens: u.last_prompt_tokens,
            estimated_cost_usd: u.estimated_cost_usd,
        });
        Self {
            updated_at: micros(hot.updated_at),
            flags: hot.flags,
            revision: hot.revision.number().to_le_bytes(),
            last_interaction: hot.last_interaction.map(micros),
            usage,
        }
    }
}

impl From<HotV1> for Hot {
    fn from(record: HotV1) -> Self {
        let usage = record.usage.map_or(Usage::ZERO, |u| Usage {
            input_tokens: u.input_tokens,
            output_tokens: u.output_tokens,
            cache_read_tokens: u.cache_read_tokens,
            cache_write_tokens: u.cache_write_tokens,
            total_tokens: u.total_tokens,
            last_prompt_tokens: u.last_prompt_tokens,
            estimated_cost_usd: u.estimated_cost_usd,
        });
        Self {
            updated_at: timestamp(record.updated_at),
            flags: record.flags,
            revision: Revision::from_number(u64::from_le_bytes(record.revision)),
            last_interaction: record.last_interaction.map(timestamp),
            usage,
        }
    }
}

/// The cold record: what only structural changes rewrite.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Cold {
    pub(crate) session_id: SessionId,
    pub(crate) created_at: Timestamp,
    pub(crate) details: Details,
    /// What it says of the extras, if there are any.
    pub(crate) extras: Option<Arc<ExtrasIndex>>,
}

#[derive(Serialize, Deserialize)]
struct ColdV1<'a> {
    session_id: &'a str,
    created_at: u64,
    /// Absent when they would make the record too large: then they are in the base of the extras.
    #[serde(borrow)]
    details: Option<DetailsV1<'a>>,
    #[serde(borrow)]
    extras: Option<ExtrasV1<'a>>,
}

impl Cold {
    /// The record's bytes; `None` if the details do not fit and must go into a base of the extras (see [`encode_spilled`]).
    ///
    /// [`encode_spilled`]: Cold::encode_spilled
    pub(crate) fn encode(&self) -> Result<Option<Vec<u8>>, CodecError> {
        match encode(&self.record(Some(details_v1(&self.details))), 512) {
            Ok(bytes) => Ok((bytes.len() <= MAX_VALUE_BYTES).then_some(bytes)),
            Err(CodecError::Encode(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The record's bytes without its details.
    pub(crate) fn encode_spilled(&self) -> Result<Vec<u8>, CodecError> {
        encode(&self.record(None), 512)
    }

    /// The record's bytes, whichever of the two fits.
    pub(crate) fn to_bytes(&self) -> Result<Vec<u8>, CodecError> {
        self.encode()?.map_or_else(|| self.encode_spilled(), Ok)
    }

    fn record<'a>(&'a self, details: Option<DetailsV1<'a>>) -> ColdV1<'a> {
        ColdV1 {
            session_id: self.session_id.as_str(),
            created_at: micros(self.created_at),
            details,
            extras: self.extras.as_ref().map(|extras| extras.record()),
        }
    }
}

/// Decodes a cold record, and answers whether its details are in the base of its extras instead.
pub(crate) fn decode_cold(bytes: &[u8]) -> Result<(Cold, bool), CodecError> {
    let record: ColdV1<'_> = decode(bytes)?;
    let spilled = record.details.is_none();
    let cold = Cold {
        session_id: SessionId::new(record.session_id)?,
        created_at: timestamp(record.created_at),
        details: record.details.map(details).transpose()?.unwrap_or_default(),
        extras: record.extras.map(|extras| Arc::new(extras.into())),
    };
    Ok((cold, spilled))
}
