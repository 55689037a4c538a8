//! What a group of structural changes is about to do.

use serde::{Deserialize, Serialize};

use super::{CodecError, Fingerprint, Hot, decode, encode};
use crate::key::SessionId;

/// Written before a group of structural changes, so that an opening after a crash can finish them or take them back.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Intent {
    /// Entries before the group.
    pub(crate) count: u64,
    pub(crate) steps: Vec<Step>,
}

/// What becomes of one entry.
#[derive(Debug, PartialEq)]
pub(crate) enum Step {
    Create(Fingerprint),
    Remove(Fingerprint),
    Replace {
        entry: Fingerprint,
        /// The CRC-32 of its new row in `sessions`.
        checksum: u32,
        hot: Hot,
        /// The session id that it had, if the new one is another.
        old_id: Option<SessionId>,
    },
    /// An entry gets another key.
    Move {
        from: Fingerprint,
        to: Fingerprint,
    },
}

#[derive(Serialize, Deserialize)]
struct IntentV1<'a> {
    count: u64,
    #[serde(borrow)]
    steps: Vec<StepV1<'a>>,
}

#[derive(Serialize, Deserialize)]
enum StepV1<'a> {
    Create([u8; 16]),
    Remove([u8; 16]),
    Replace { entry: [u8; 16], checksum: u32, hot: &'a [u8], old_id: Option<&'a str> },
    Move { from: [u8; 16], to: [u8; 16] },
}

impl Intent {
    pub(crate) fn encode(&self) -> Result<Vec<u8>, CodecError> {
        let hots: Vec<Vec<u8>> = self.steps.iter().map(Step::encode_hot).collect::<Result<_, _>>()?;
        let steps = self.steps.iter().zip(&hots).map(|(step, hot)| step.record(hot)).collect();
        encode(&IntentV1 { count: self.count, steps }, 32 + 24 * self.steps.len())
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let IntentV1 { count, steps } = decode(bytes)?;
        let steps = steps.into_iter().map(Step::of).collect::<Result<_, _>>()?;
        Ok(Self { count, steps })
    }
}

impl Step {
    fn encode_hot(&self) -> Result<Vec<u8>, CodecError> {
        match self {
            Self::Replace { hot, .. } => hot.encode(),
            Self::Create(_) | Self::Remove(_) | Self::Move { .. } => Ok(Vec::new()),
        }
    }

    fn record<'a>(&'a self, hot: &'a [u8]) -> StepV1<'a> {
        match self {
            Self::Create(entry) => StepV1::Create(*entry.as_bytes()),
            Self::Remove(entry) => StepV1::Remove(*entry.as_bytes()),
            Self::Move { from, to } => StepV1::Move { from: *from.as_bytes(), to: *to.as_bytes() },
            Self::Replace { entry, checksum, old_id, .. } => StepV1::Replace {
                entry: *entry.as_bytes(),
                checksum: *checksum,
                hot,
                old_id: old_id.as_ref().map(SessionId::as_str),
            },
        }
    }

    fn of(record: StepV1<'_>) -> Result<Self, CodecError> {
        Ok(match record {
            StepV1::Create(entry) => Self::Create(Fingerprint::from_bytes(entry)),
            StepV1::Remove(entry) => Self::Remove(Fingerprint::from_bytes(entry)),
            StepV1::Move { from, to } => {
                Self::Move { from: Fingerprint::from_bytes(from), to: Fingerprint::from_bytes(to) }
            }
            StepV1::Replace { entry, checksum, hot, old_id } => Self::Replace {
                entry: Fingerprint::from_bytes(entry),
                checksum,
                hot: Hot::decode(hot)?,
                old_id: old_id.map(SessionId::new).transpose()?,
            },
        })
    }

    /// The entries that it is about.
    pub(crate) fn entries(&self) -> impl Iterator<Item = Fingerprint> + use<> {
        let (entry, other) = match self {
            Self::Create(entry) | Self::Remove(entry) | Self::Replace { entry, .. } => (*entry, None),
            Self::Move { from, to } => (*from, Some(*to)),
        };
        std::iter::once(entry).chain(other)
    }

    /// The most bytes that it takes in an intent.
    pub(crate) fn max_bytes(&self) -> usize {
        match self {
            Self::Create(_) | Self::Remove(_) => 17,
            Self::Move { .. } => 33,
            Self::Replace { old_id, .. } => 144 + old_id.as_ref().map_or(0, |id| id.as_str().len()),
        }
    }
}
