//! Where things lie: shards, slots and names of keys. Pure.
//!
//! A store has N shards, a power of two, fixed when it is made. The shard of a session key is the low bits of its
//! SipHash-1-3 under a fixed public key. All keys of a shard have one hash tag, the smallest number that falls into slot
//! `shard × 16384 / N`, so that shards lie evenly over any even split of the slots.

use std::hash::Hasher;

use siphasher::sip::SipHasher13;

use crate::error::{Error, Result};
use crate::key::{SessionId, SessionKey};

/// Slots of every cluster.
pub(super) const SLOTS: u16 = 16384;
/// The format of what is kept.
pub(super) const FORMAT: u32 = 1;
/// Public: it spreads keys, and protects from nothing.
const KEYS: (u64, u64) = (0x636c_6f61_6b72_6f6f, 0x6d5f_7368_6172_6473);

/// The names of a store's keys.
#[derive(Debug)]
pub(super) struct Layout {
    name: String,
    /// The number in the hash tag of each shard.
    tags: Vec<u32>,
}

/// What a shard keeps under one key for all of its entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// Sorted set: session key → `updated_at`.
    Updated,
    /// Sorted set: session key → `last_interaction`, of the entries that have one.
    Interaction,
    /// Hash: session key → open turn.
    Turns,
    /// Sorted set: session key → until when work that a member knows holds it.
    Holds,
    /// Sorted set: session key → the last end of its leases.
    Leases,
    /// Hash: session key → when it was condemned, and its time then.
    Condemned,
    /// Hash: member → what it has reviewed.
    Reviewed,
    /// Hash: the mark of the store, and counters.
    Mark,
}

impl Part {
    fn letter(self) -> char {
        match self {
            Self::Updated => 'u',
            Self::Interaction => 'l',
            Self::Turns => 't',
            Self::Holds => 'h',
            Self::Leases => 'n',
            Self::Condemned => 'p',
            Self::Reviewed => 'r',
            Self::Mark => 'm',
        }
    }
}

/// What the names of a store's keys name.
#[derive(Debug, Default)]
pub(super) struct Names {
    pub(super) keys: Vec<SessionKey>,
    pub(super) ids: Vec<SessionId>,
}

/// The key of the mark of the shard that a key belongs to.
pub(super) fn mark_beside(key: &[u8]) -> Option<Vec<u8>> {
    let end = key.windows(2).position(|two| two == b"}:")?;
    Some([key.get(..end)?, b"}:", Part::Mark.letter().to_string().as_bytes()].concat())
}

impl Layout {
    /// What names of this store's keys name: session keys of entries, extras and leases, and session ids of hints.
    pub(super) fn sorted(&self, names: &[String]) -> Names {
        let mut sorted = Names::default();
        for name in names {
            let Some((_, rest)) = name.split_once("}:") else { continue };
            match rest.split_once(':') {
                Some(("e" | "x" | "n", key)) => sorted.keys.extend(SessionKey::new(key).ok()),
                Some(("i", id)) => sorted.ids.extend(SessionId::new(id).ok()),
                _ => {}
            }
        }
        sorted
    }

    pub(super) fn new(name: &str, shards: u32) -> Result<Self> {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if name.is_empty() || name.len() > 64 || !name.chars().all(is_plain) {
            let expected = "1 to 64 letters, digits, dots, dashes and underscores";
            return Err(Error::Setting { setting: "the name of a store", value: format!("{name:?}"), expected });
        }
        if !shards.is_power_of_two() || shards > u32::from(SLOTS) {
            let expected = "a power of two, at most 16384";
            return Err(Error::Setting { setting: "the number of shards", value: shards.to_string(), expected });
        }
        Ok(Self { name: name.to_owned(), tags: tags(shards) })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn shards(&self) -> u32 {
        u32::try_from(self.tags.len()).unwrap_or(0)
    }

    /// The shard of a session key.
    pub(super) fn shard_of(&self, key: &SessionKey) -> u32 {
        self.shard_of_bytes(key.as_str().as_bytes())
    }

    /// The shard of the hints of a session id.
    pub(super) fn shard_of_id(&self, id: &SessionId) -> u32 {
        self.shard_of_bytes(id.as_str().as_bytes())
    }

    fn shard_of_bytes(&self, bytes: &[u8]) -> u32 {
        let mut hasher = SipHasher13::new_with_keys(KEYS.0, KEYS.1);
        hasher.write(bytes);
        let low = hasher.finish() & u64::from(self.shards().saturating_sub(1));
        u32::try_from(low).unwrap_or(0)
    }

    pub(super) fn slot_of(&self, shard: u32) -> u16 {
        u16::try_from(shard * (u32::from(SLOTS) / self.shards().max(1))).unwrap_or(0)
    }

    fn tag(&self, shard: u32) -> u32 {
        usize::try_from(shard).ok().and_then(|shard| self.tags.get(shard)).copied().unwrap_or(0)
    }

    pub(super) fn part(&self, shard: u32, part: Part) -> String {
        format!("{}:{{{}}}:{}", self.name, self.tag(shard), part.letter())
    }

    pub(super) fn entry(&self, shard: u32, key: &SessionKey) -> String {
        format!("{}:{{{}}}:e:{}", self.name, self.tag(shard), key.as_str())
    }

    pub(super) fn extras(&self, shard: u32, key: &SessionKey) -> String {
        format!("{}:{{{}}}:x:{}", self.name, self.tag(shard), key.as_str())
    }

    /// The leases of a key, by name.
    pub(super) fn leases(&self, shard: u32, key: &SessionKey) -> String {
        format!("{}:{{{}}}:n:{}", self.name, self.tag(shard), key.as_str())
    }

    pub(super) fn hints(&self, shard: u32, id: &SessionId) -> String {
        format!("{}:{{{}}}:i:{}", self.name, self.tag(shard), id.as_str())
    }

    /// What came of a change that is carried out once, for a while.
    pub(super) fn outcome(&self, shard: u32, nonce: &str) -> String {
        format!("{}:{{{}}}:a:{nonce}", self.name, self.tag(shard))
    }

    /// What there is once: it lies in the first shard.
    pub(super) fn once(&self, what: &str) -> String {
        format!("{}:{{{}}}:{what}", self.name, self.tag(0))
    }
}

/// The smallest number for each shard whose slot is that of the shard.
fn tags(shards: u32) -> Vec<u32> {
    let each = u32::from(SLOTS) / shards.max(1);
    let mut tags: Vec<Option<u32>> = vec![None; usize::try_from(shards).unwrap_or(0)];
    let (mut left, mut number) = (tags.len(), 0_u32);
    while left > 0 {
        let slot = u32::from(slot(number.to_string().as_bytes()));
        let place = usize::try_from(slot / each).ok().filter(|_| slot.is_multiple_of(each));
        if let Some(tag @ None) = place.and_then(|place| tags.get_mut(place)) {
            *tag = Some(number);
            left -= 1;
        }
        number += 1;
    }
    tags.into_iter().flatten().collect()
}

/// The slot of what is in the braces of a key's name.
fn slot(tag: &[u8]) -> u16 {
    let mut crc = 0_u16;
    for byte in tag {
        crc ^= u16::from(*byte) << 8;
        for _ in 0..8 {
            crc = if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 };
        }
    }
    crc % SLOTS
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Stores on clusters have these names: another table would lead to nothing that is there.
    #[test]
    fn the_layout_is_pinned() {
        assert_eq!(slot(b"123456789"), 0x31c3);
        let layout = Layout::new("st", 4096).unwrap();
        assert_eq!([0, 1, 2, 4095].map(|shard| layout.tag(shard)), [3560, 4569, 46_920, 9023]);
        assert_eq!([0, 1, 4095].map(|shard| layout.slot_of(shard)), [0, 4, 16_380]);
        assert_eq!(layout.tags.iter().max(), Some(&109_756));
        let key = SessionKey::new("agent:main:discord:dm:1234").unwrap();
        assert_eq!(layout.shard_of(&key), 3730);
        for name in [layout.part(3730, Part::Updated), layout.entry(3730, &SessionKey::new("a}:b").unwrap())] {
            assert_eq!(mark_beside(name.as_bytes()), Some(layout.part(3730, Part::Mark).into_bytes()));
        }
        assert_eq!(mark_beside(b"none"), None);
        let small = Layout::new("st", 2).unwrap();
        assert_eq!(small.entry(1, &key), format!("st:{{{}}}:e:{key}", small.tag(1), key = key.as_str()));
    }

    #[test]
    fn every_shard_has_its_slot() {
        for shards in [1, 2, 16, 1024] {
            let layout = Layout::new("st", shards).unwrap();
            for shard in 0..shards {
                assert_eq!(slot(layout.tag(shard).to_string().as_bytes()), layout.slot_of(shard));
            }
        }
    }

    #[test]
    fn bad_names_and_numbers_are_refused() {
        for name in ["", "a{b}", "a b", "a:b", &"x".repeat(65)] {
            assert!(matches!(Layout::new(name, 16), Err(Error::Setting { .. })), "{name}");
        }
        for shards in [0, 3, 32_768] {
            assert!(matches!(Layout::new("st", shards), Err(Error::Setting { .. })), "{shards}");
        }
    }
}
